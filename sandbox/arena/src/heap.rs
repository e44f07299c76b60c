//! Two-level segregated fit over one piece of memory.
//!
//! The memory is a row of blocks without gaps. A block is a 16-byte header and its payload; sizes are multiples of 16, so
//! payloads are 16-byte aligned. A free block keeps its list links in its payload. Free neighbours are always merged, so
//! two free blocks never touch. Block positions are byte offsets from the base, and 0 means "none" (the first block does
//! not begin at 0), which keeps an unused heap all-zero.

use std::ptr;

/// Size of a header, and the granularity of everything.
const UNIT: usize = 16;
/// Smallest block with a header: its payload must hold two links.
const SMALLEST: usize = 2 * UNIT;
/// Payloads below this have one list per 16 bytes; above, 16 lists per power of two.
const LINEAR: usize = 256;
const SECOND_LEVELS: usize = 16;
/// Enough for payloads below 2^40 bytes.
const FIRST_LEVELS: usize = 33;
const LARGEST: usize = 1 << 40;
/// Position of the first block.
const FIRST: usize = 64;

/// Precedes every payload.
#[repr(C)]
struct Header {
    /// Payload size in bytes; bit 0: free.
    size_and_free: usize,
    /// Position of the block before this one, 0 for the first.
    previous: usize,
}

/// In the payload of a free block.
#[repr(C)]
struct Links {
    next: usize,
    previous: usize,
}

pub(crate) struct Heap {
    base: *mut u8,
    /// Position of the end marker, a block of size 0 that is never free.
    end: usize,
    first_map: u64,
    second_maps: [u16; FIRST_LEVELS],
    lists: [[usize; SECOND_LEVELS]; FIRST_LEVELS],
    pub(crate) used: usize,
    pub(crate) peak: usize,
    pub(crate) allocations: usize,
}

// SAFETY: the base pointer is to memory that belongs to the arena around the heap.
unsafe impl Send for Heap {}

/// The payload size of the allocation at `pointer`.
///
/// # Safety
/// `pointer` is a live allocation of a heap.
pub(crate) unsafe fn usable(pointer: *mut u8) -> usize {
    // SAFETY: a header precedes every live allocation.
    unsafe { (*pointer.sub(UNIT).cast::<Header>()).size_and_free & !1 }
}

/// The list of free blocks whose payload is at least that of every smaller list: where a block of `size` is kept.
fn list_of(size: usize) -> (usize, usize) {
    if size < LINEAR {
        return (0, size / UNIT);
    }
    let log = size.ilog2() as usize;
    (log - 7, (size >> (log - 4)) & (SECOND_LEVELS - 1))
}

/// The size from which on any block of the list is large enough for `size`.
fn rounded_to_list(size: usize) -> usize {
    if size < LINEAR { size } else { size + (1 << (size.ilog2() - 4)) - 1 }
}

impl Heap {
    pub(crate) const fn new() -> Heap {
        Heap {
            base: ptr::null_mut(),
            end: 0,
            first_map: 0,
            second_maps: [0; FIRST_LEVELS],
            lists: [[0; SECOND_LEVELS]; FIRST_LEVELS],
            used: 0,
            peak: 0,
            allocations: 0,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.end != 0
    }

    /// Bytes that blocks with their headers can take.
    pub(crate) fn size(&self) -> usize {
        self.end.saturating_sub(FIRST)
    }

    /// Makes one free block of the memory.
    ///
    /// # Safety
    /// `base` is 64-byte aligned, `bytes` long, and belongs to this heap alone for good.
    pub(crate) unsafe fn prepare(&mut self, base: *mut u8, bytes: usize) {
        const { assert!(FIRST.is_multiple_of(UNIT)) };
        self.base = base;
        self.end = FIRST;
        let end = (bytes & !(UNIT - 1)).saturating_sub(UNIT);
        if !(FIRST + SMALLEST..LARGEST).contains(&end) {
            // Too small (or absurdly large) to manage: every allocation fails.
            return;
        }
        self.end = end;
        self.header(FIRST).previous = 0;
        self.header(FIRST).size_and_free = end - FIRST - UNIT;
        self.header(end).previous = FIRST;
        self.header(end).size_and_free = 0;
        self.insert(FIRST);
    }

    /// The header at `block`, a position within the memory.
    fn header(&mut self, block: usize) -> &mut Header {
        debug_assert!(block >= FIRST && block <= self.end && block.is_multiple_of(UNIT));
        // SAFETY: positions of blocks lie within the memory, which this heap owns, and are aligned.
        unsafe { &mut *self.base.add(block).cast::<Header>() }
    }

    /// The links of the free block at `block`.
    fn links(&mut self, block: usize) -> &mut Links {
        debug_assert!(block >= FIRST && block < self.end);
        // SAFETY: as for the header; a payload has at least 16 bytes.
        unsafe { &mut *self.base.add(block + UNIT).cast::<Links>() }
    }

    fn payload_size(&mut self, block: usize) -> usize {
        self.header(block).size_and_free & !1
    }

    fn is_free(&mut self, block: usize) -> bool {
        self.header(block).size_and_free & 1 != 0
    }

    fn next(&mut self, block: usize) -> usize {
        block + UNIT + self.payload_size(block)
    }

    /// Marks a block free and puts it at the head of its list.
    fn insert(&mut self, block: usize) {
        let (first, second) = list_of(self.payload_size(block));
        let head = self.lists[first][second];
        *self.links(block) = Links { next: head, previous: 0 };
        if head != 0 {
            self.links(head).previous = block;
        }
        self.lists[first][second] = block;
        self.first_map |= 1 << first;
        self.second_maps[first] |= 1 << second;
        self.header(block).size_and_free |= 1;
    }

    /// Takes a free block out of its list and marks it taken.
    fn remove(&mut self, block: usize) {
        let (first, second) = list_of(self.payload_size(block));
        let Links { next, previous } = *self.links(block);
        if next != 0 {
            self.links(next).previous = previous;
        }
        if previous != 0 {
            self.links(previous).next = next;
        } else {
            self.lists[first][second] = next;
            if next == 0 {
                self.second_maps[first] &= !(1 << second);
                if self.second_maps[first] == 0 {
                    self.first_map &= !(1 << first);
                }
            }
        }
        self.header(block).size_and_free &= !1;
    }

    /// A free block of at least `size` bytes.
    fn find(&self, size: usize) -> Option<usize> {
        let (first, second) = list_of(rounded_to_list(size));
        let here = self.second_maps.get(first)? & (u16::MAX << second);
        if here != 0 {
            return Some(self.lists[first][here.trailing_zeros() as usize]);
        }
        let above = self.first_map & u64::MAX.checked_shl(first as u32 + 1)?;
        if above == 0 {
            return None;
        }
        let first = above.trailing_zeros() as usize;
        Some(self.lists[first][self.second_maps[first].trailing_zeros() as usize])
    }

    /// Cuts the taken block at `block` to `size` bytes of payload, if what is left makes a block; the rest becomes free
    /// and merges with what follows.
    fn trim(&mut self, block: usize, size: usize) {
        let whole = self.payload_size(block);
        if whole - size < SMALLEST {
            return;
        }
        self.header(block).size_and_free = size;
        let rest = block + UNIT + size;
        *self.header(rest) = Header { size_and_free: whole - size - UNIT, previous: block };
        let after = self.next(rest);
        self.header(after).previous = rest;
        self.absorb_next(rest);
        self.insert(rest);
    }

    /// Merges the block after `block` into it, if that one is free.
    fn absorb_next(&mut self, block: usize) {
        let next = self.next(block);
        if next < self.end && self.is_free(next) {
            self.remove(next);
            self.join_next(block);
        }
    }

    /// Makes one taken block of two.
    fn join_next(&mut self, block: usize) {
        let next = self.next(block);
        let grown = self.payload_size(block) + UNIT + self.payload_size(next);
        self.header(block).size_and_free = grown;
        let after = self.next(block);
        self.header(after).previous = block;
    }

    fn count(&mut self, block: usize) {
        self.used += UNIT + self.payload_size(block);
        self.peak = self.peak.max(self.used);
    }

    fn discount(&mut self, block: usize) {
        self.used -= UNIT + self.payload_size(block);
    }

    pub(crate) fn take(&mut self, size: usize, align: usize) -> Option<*mut u8> {
        if size >= LARGEST || align >= LARGEST {
            return None;
        }
        let size = size.next_multiple_of(UNIT).max(UNIT);
        // Room for a block of its own before the aligned address.
        let room = if align > UNIT { size + align + SMALLEST } else { size };
        let mut block = self.find(room)?;
        self.remove(block);
        if align > UNIT {
            block = self.align(block, align);
        }
        self.trim(block, size);
        self.count(block);
        self.allocations += 1;
        // SAFETY: the payload of a block lies within the memory.
        Some(unsafe { self.base.add(block + UNIT) })
    }

    /// Moves the start of a taken block so that its payload is aligned; what lies before becomes a free block.
    fn align(&mut self, block: usize, align: usize) -> usize {
        let payload = self.base as usize + block + UNIT;
        if payload.is_multiple_of(align) {
            return block;
        }
        let aligned = (payload + SMALLEST).next_multiple_of(align);
        let front = aligned - payload;
        let whole = self.payload_size(block);
        let moved = block + front;
        *self.header(moved) = Header { size_and_free: whole - front, previous: block };
        let after = self.next(moved);
        self.header(after).previous = moved;
        self.header(block).size_and_free = front - UNIT;
        // The block before is taken, or it would have been merged with this one.
        self.insert(block);
        moved
    }

    /// # Safety
    /// `pointer` is a live allocation of this heap.
    pub(crate) unsafe fn give_back(&mut self, pointer: *mut u8) {
        let mut block = pointer as usize - self.base as usize - UNIT;
        if self.is_free(block) {
            // Returned twice: going on would hand the same memory to two owners.
            std::process::abort();
        }
        self.discount(block);
        self.allocations -= 1;
        self.absorb_next(block);
        let before = self.header(block).previous;
        if before != 0 && self.is_free(before) {
            self.remove(before);
            self.join_next(before);
            block = before;
        }
        self.insert(block);
    }

    /// Changes the payload size of a live allocation without moving it; false if what follows is not free enough.
    ///
    /// # Safety
    /// `pointer` is a live allocation of this heap.
    pub(crate) unsafe fn resize_in_place(&mut self, pointer: *mut u8, size: usize) -> bool {
        if size >= LARGEST {
            return false;
        }
        let size = size.next_multiple_of(UNIT).max(UNIT);
        let block = pointer as usize - self.base as usize - UNIT;
        let mut have = self.payload_size(block);
        let next = self.next(block);
        if have < size && next < self.end && self.is_free(next) {
            have += UNIT + self.payload_size(next);
        }
        if have < size {
            return false;
        }
        self.discount(block);
        if self.payload_size(block) < size {
            self.absorb_next(block);
        }
        self.trim(block, size);
        self.count(block);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_monotonic_and_rounding_reaches_a_list_that_fits() {
        let mut last = (0, 0);
        for size in (UNIT..1 << 16).step_by(UNIT) {
            let list = list_of(size);
            assert!(list >= last, "{size}");
            last = list;
            assert!(rounded_to_list(size) >= size);
            // Any block of the list of the rounded size is at least `size`.
            let smallest = (size..).step_by(UNIT).find(|s| list_of(*s) == list_of(rounded_to_list(size)));
            assert!(smallest.is_some_and(|s| s >= size));
        }
        assert!(list_of(LARGEST * 2 - 1).0 < FIRST_LEVELS + 1);
        assert!(list_of(LARGEST - 1).0 < FIRST_LEVELS);
    }
}
