//! A fixed arena as the global allocator: all the memory that a process will ever allocate is part of its image (`.bss`),
//! so that it works after lock-down, where no call that maps memory is allowed.
//!
//! ```
//! // In an islet's main.rs: Rust's allocations and the C library's both come from these 16 MiB.
//! arena::global!(16 << 20);
//!
//! fn main() {
//!     let words = vec![1u64; 1000];
//!     assert!(ARENA.contains(words.as_ptr().cast()));
//!     assert!(ARENA.usage().used >= 8000);
//! }
//! ```
//!
//! The C library allocates too: for a new thread, for the list of thread-local destructors, and its own allocator calls
//! `brk` and `mmap` when it does so in a thread for the first time, which is after lock-down. Therefore [`global!`] also
//! defines `malloc` and its kin (allowed for static binaries, "Replacing malloc" in the C library's manual).
//!
//! When the arena is exhausted, an allocation returns null. Rust then prints its message and aborts; [`exhausted`] lets
//! the trap handler of `enter` tell this end from others. Pages are touched only when used, so an arena may be generous.
//!
//! The algorithm is two-level segregated fit (Masmano et al., "TLSF: a new dynamic memory allocator for real-time
//! systems", 2004): size-class free lists with a bitmap, constant time, neighbours merge on free.

#![expect(unsafe_code, reason = "a global allocator hands out raw memory")]

pub mod c;
mod heap;
mod lock;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use heap::Heap;
use lock::Lock;

/// Bytes asked for by the last allocation that found no room; 0 if none has failed.
static EXHAUSTED: AtomicUsize = AtomicUsize::new(0);

/// The size of the last allocation of this process that an arena could not serve, if there was one. Async-signal-safe.
pub fn exhausted() -> Option<usize> {
    match EXHAUSTED.load(Ordering::Relaxed) {
        0 => None,
        bytes => Some(bytes),
    }
}

/// An arena of `BYTES` bytes, including 16 bytes of management per allocation. All-zero before its first use, so that a
/// static of it takes no room in the binary.
#[repr(C, align(64))]
pub struct Arena<const BYTES: usize> {
    memory: UnsafeCell<[u8; BYTES]>,
    heap: Lock<Heap>,
    failures: AtomicUsize,
}

// SAFETY: the memory is only managed under the lock, and each allocation belongs to whoever asked for it.
unsafe impl<const BYTES: usize> Sync for Arena<BYTES> {}

/// What an arena holds at a moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All there is for allocations and their management.
    pub size: usize,
    /// Handed out now, with management.
    pub used: usize,
    /// The most that was ever handed out at once.
    pub peak: usize,
    /// Allocations now alive.
    pub allocations: usize,
    /// Allocations that failed for lack of room.
    pub failures: usize,
}

impl<const BYTES: usize> Arena<BYTES> {
    /// An unused arena.
    pub const fn new() -> Arena<BYTES> {
        Arena { memory: UnsafeCell::new([0; BYTES]), heap: Lock::new(Heap::new()), failures: AtomicUsize::new(0) }
    }

    /// What is in use.
    pub fn usage(&self) -> Usage {
        let failures = self.failures.load(Ordering::Relaxed);
        self.with(|heap| Usage {
            size: heap.size(),
            used: heap.used,
            peak: heap.peak,
            allocations: heap.allocations,
            failures,
        })
    }

    /// Whether `pointer` points into this arena.
    pub fn contains(&self, pointer: *const u8) -> bool {
        let base = self.memory.get() as usize;
        (base..base + BYTES).contains(&(pointer as usize))
    }

    /// Memory of `size` bytes, aligned to `align` (a power of two), or null. A size of 0 yields a pointer, too.
    pub fn take(&self, size: usize, align: usize) -> *mut u8 {
        let found = self.with(|heap| heap.take(size, align));
        found.unwrap_or_else(|| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            EXHAUSTED.store(size.max(1), Ordering::Relaxed);
            ptr::null_mut()
        })
    }

    /// Returns memory.
    ///
    /// # Safety
    /// `pointer` came from this arena and was not returned since; nobody uses the memory any more.
    pub unsafe fn give_back(&self, pointer: *mut u8) {
        // SAFETY: as promised by the caller.
        self.with(|heap| unsafe { heap.give_back(pointer) });
    }

    /// Changes the size of an allocation, in place if possible; null if there is no room, and then nothing changed.
    ///
    /// # Safety
    /// As for [`give_back`](Arena::give_back); `align` is not larger than that of the allocation.
    pub unsafe fn resize(&self, pointer: *mut u8, size: usize, align: usize) -> *mut u8 {
        // SAFETY: as promised by the caller.
        if self.with(|heap| unsafe { heap.resize_in_place(pointer, size) }) {
            return pointer;
        }
        let to = self.take(size, align);
        if !to.is_null() {
            // SAFETY: both are live allocations that do not overlap, the old one is smaller than the new one (else it
            // would have been resized in place), and the old one is not used afterwards.
            unsafe {
                ptr::copy_nonoverlapping(pointer, to, heap::usable(pointer).min(size));
                self.give_back(pointer);
            }
        }
        to
    }

    fn with<R>(&self, action: impl FnOnce(&mut Heap) -> R) -> R {
        let mut heap = self.heap.lock();
        if !heap.is_ready() {
            // SAFETY: the memory belongs to this arena alone, lives as long as it, and is prepared once, under the lock.
            unsafe { heap.prepare(self.memory.get().cast(), BYTES) };
        }
        action(&mut heap)
    }
}

impl<const BYTES: usize> Default for Arena<BYTES> {
    fn default() -> Self {
        Arena::new()
    }
}

// SAFETY: `take` returns null or memory of the size and alignment asked for that nobody else holds.
unsafe impl<const BYTES: usize> GlobalAlloc for Arena<BYTES> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _layout: Layout) {
        // SAFETY: the trait's contract is that of give_back.
        unsafe { self.give_back(pointer) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the trait's contract is that of resize.
        unsafe { self.resize(pointer, size, layout.align()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of numbers, so that a failing run can be repeated.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    #[test]
    fn a_random_walk_keeps_contents_apart_and_merges_everything_again() {
        static A: Arena<{ 1 << 17 }> = Arena::new();
        let whole = A.usage();
        let mut numbers = Numbers(1);
        let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
        for round in 0..20_000 {
            let tag = (round % 251) as u8;
            match numbers.below(3) {
                0 if !live.is_empty() => {
                    let (pointer, size, tag) = live.swap_remove(numbers.below(live.len()));
                    // SAFETY: a live allocation of this size.
                    unsafe {
                        assert!((0..size).all(|at| *pointer.add(at) == tag), "contents of round {round}");
                        A.give_back(pointer);
                    }
                }
                1 if !live.is_empty() => {
                    let at = numbers.below(live.len());
                    let (pointer, size, tag) = live[at];
                    let new = numbers.below(3000);
                    // SAFETY: a live allocation of this size.
                    let moved = unsafe { A.resize(pointer, new, 1) };
                    if !moved.is_null() {
                        // SAFETY: the resized allocation has `new` bytes.
                        unsafe {
                            assert!((0..size.min(new)).all(|at| *moved.add(at) == tag), "resize in round {round}");
                            ptr::write_bytes(moved, tag, new);
                        }
                        live[at] = (moved, new, tag);
                    }
                }
                _ => {
                    let (size, align) = (numbers.below(3000), 1 << numbers.below(13));
                    let pointer = A.take(size, align);
                    if !pointer.is_null() {
                        assert_eq!(pointer as usize % align, 0);
                        assert!(A.contains(pointer) && A.contains(pointer.wrapping_add(size.max(1) - 1)));
                        // SAFETY: a fresh allocation of this size.
                        unsafe { ptr::write_bytes(pointer, tag, size) };
                        live.push((pointer, size, tag));
                    }
                }
            }
            assert_eq!(A.usage().allocations, live.len());
        }
        assert!(A.usage().failures > 0, "the walk is long enough to fill the arena");
        for (pointer, ..) in live.drain(..) {
            // SAFETY: a live allocation.
            unsafe { A.give_back(pointer) };
        }
        assert_eq!(A.usage().used, whole.used);
        let all = A.take(whole.size - 4096, 16);
        assert!(!all.is_null(), "everything has merged into one block again");
    }

    #[test]
    fn exhaustion_is_null_and_remembered() {
        static A: Arena<65536> = Arena::new();
        assert!(A.take(1 << 20, 16).is_null());
        assert!(A.take(usize::MAX - 8, 16).is_null());
        assert!(A.take(16, 1 << 40).is_null());
        assert_eq!(A.usage().failures, 3);
        assert!(exhausted().is_some());
        assert!(!A.take(1000, 16).is_null());
    }

    #[test]
    fn threads_share_it() {
        static A: Arena<{ 4 << 20 }> = Arena::new();
        std::thread::scope(|scope| {
            for seed in 0..4u8 {
                scope.spawn(move || {
                    for round in 0..5000usize {
                        let size = 16 + round % 700;
                        let pointer = A.take(size, 16);
                        assert!(!pointer.is_null());
                        // SAFETY: a fresh allocation of `size` bytes, returned once.
                        unsafe {
                            ptr::write_bytes(pointer, seed, size);
                            assert_eq!((*pointer, *pointer.add(size - 1)), (seed, seed));
                            A.give_back(pointer);
                        }
                    }
                });
            }
        });
        assert_eq!(A.usage().allocations, 0);
    }
}
