//! The C library's allocation functions over an arena, and the macro that makes an arena serve a whole process.
//!
//! A static binary may define its own `malloc` if it defines all of the family; the linker then never takes the C
//! library's. They are defined in the binary, by [`global!`](crate::global), because only the binary knows its arena.

use std::ffi::c_void;
use std::ptr;

use crate::{Arena, heap};

/// Alignment of `malloc` (`max_align_t`).
const ALIGN: usize = 16;

fn or_enomem(pointer: *mut u8) -> *mut c_void {
    if pointer.is_null() {
        // SAFETY: errno's address is valid for the calling thread.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
    }
    pointer.cast()
}

/// malloc(3).
pub fn malloc<const N: usize>(arena: &Arena<N>, size: usize) -> *mut c_void {
    or_enomem(arena.take(size, ALIGN))
}

/// calloc(3).
pub fn calloc<const N: usize>(arena: &Arena<N>, count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return or_enomem(ptr::null_mut()) };
    let pointer = arena.take(bytes, ALIGN);
    if !pointer.is_null() {
        // SAFETY: a fresh allocation of that many bytes.
        unsafe { ptr::write_bytes(pointer, 0, bytes) };
    }
    or_enomem(pointer)
}

/// aligned_alloc(3), memalign(3); an alignment that is no power of two yields null.
pub fn aligned<const N: usize>(arena: &Arena<N>, align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return or_enomem(ptr::null_mut());
    }
    or_enomem(arena.take(size, align.max(ALIGN)))
}

/// posix_memalign(3): 0 or an error number.
///
/// # Safety
/// `place` is valid for writing.
pub unsafe fn posix_memalign<const N: usize>(
    arena: &Arena<N>,
    place: *mut *mut c_void,
    align: usize,
    size: usize,
) -> i32 {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<usize>()) {
        return libc::EINVAL;
    }
    let pointer = arena.take(size, align.max(ALIGN));
    if pointer.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as promised by the caller.
    unsafe { *place = pointer.cast() };
    0
}

/// free(3).
///
/// # Safety
/// `pointer` is null or a live allocation of `arena`.
pub unsafe fn free<const N: usize>(arena: &Arena<N>, pointer: *mut c_void) {
    if !pointer.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { arena.give_back(pointer.cast()) };
    }
}

/// realloc(3).
///
/// # Safety
/// `pointer` is null or a live allocation of `arena`.
pub unsafe fn realloc<const N: usize>(arena: &Arena<N>, pointer: *mut c_void, size: usize) -> *mut c_void {
    if pointer.is_null() {
        return malloc(arena, size);
    }
    // SAFETY: as promised by the caller.
    or_enomem(unsafe { arena.resize(pointer.cast(), size, ALIGN) })
}

/// malloc_usable_size(3).
///
/// # Safety
/// `pointer` is null or a live allocation of `arena`.
pub unsafe fn usable_size<const N: usize>(_arena: &Arena<N>, pointer: *mut c_void) -> usize {
    if pointer.is_null() {
        return 0;
    }
    // SAFETY: as promised by the caller.
    unsafe { heap::usable(pointer.cast()) }
}

/// Makes an arena of `$bytes` bytes, named `ARENA`, the allocator of this binary for Rust and for the C library.
#[macro_export]
macro_rules! global {
    ($bytes:expr) => {
        /// All the memory that this process ever allocates.
        #[global_allocator]
        static ARENA: $crate::Arena<{ $bytes }> = $crate::Arena::new();

        /// What the C library calls.
        mod c_allocator {
            use ::core::ffi::{c_int, c_void};

            use super::ARENA;

            #[unsafe(no_mangle)]
            extern "C" fn malloc(size: usize) -> *mut c_void {
                $crate::c::malloc(&ARENA, size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
                $crate::c::calloc(&ARENA, count, size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
                $crate::c::aligned(&ARENA, align, size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
                $crate::c::aligned(&ARENA, align, size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn valloc(size: usize) -> *mut c_void {
                $crate::c::aligned(&ARENA, 4096, size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn pvalloc(size: usize) -> *mut c_void {
                $crate::c::aligned(&ARENA, 4096, size.saturating_add(4095) & !4095)
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
                // SAFETY: the C contract of posix_memalign.
                unsafe { $crate::c::posix_memalign(&ARENA, place, align, size) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn free(pointer: *mut c_void) {
                // SAFETY: the C contract of free.
                unsafe { $crate::c::free(&ARENA, pointer) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
                // SAFETY: the C contract of realloc.
                unsafe { $crate::c::realloc(&ARENA, pointer, size) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn malloc_usable_size(pointer: *mut c_void) -> usize {
                // SAFETY: the C contract of malloc_usable_size.
                unsafe { $crate::c::usable_size(&ARENA, pointer) }
            }
        }
    };
}
