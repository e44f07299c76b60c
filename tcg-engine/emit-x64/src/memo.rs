//! Memos: what single accesses of hot blocks remember of the page that they found last.
//!
//! The idea: nearly every load and store of a program goes to the page that it went to before. So where a block is worth it, an
//! access compares its address with a page of its own, and takes the way to the host's address from there: the load does not
//! wait for a lookup that waits for the address. A miss looks the TLB up and remembers. Nothing stays remembered when the TLB has
//! given up anything ([`mem::Tlb::shrinks`]); only user mode's blocks have memos, so that this concerns one bank.
#![expect(unsafe_code, reason = "shares memory with emitted code")]

use std::ptr;

use code::CodeMemory;

use crate::mutants::{Mutant, on};

/// What one access remembers. Emitted code knows the layout.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memo {
    /// Linear address of the page, or of the large page if it is for loads.
    page: u64,
    /// Bytes from its beginning on where an access may begin; 0 while nothing is remembered.
    room: u64,
    /// Host address minus linear address.
    addend: u64,
    /// The next one that remembers something.
    next: *mut Memo,
    /// Bytes of the access, less one.
    last: u32,
    /// Times that it had to look the TLB up since somebody asked.
    refills: u32,
}

/// What stands for the operation of a memo that counts entries of a loop instead, where others have the page.
pub const COUNTER: u16 = u16::MAX;

/// Bytes of a memo.
pub const MEMO: usize = size_of::<Memo>();
/// Offset of [`Memo::page`]; the others are what their names say.
pub const PAGE: usize = 0;
/// Offset.
pub const ROOM: usize = 8;
/// Offset.
pub const ADDEND: usize = 16;
/// Offset.
pub const NEXT: usize = 24;
/// Offset.
pub const LAST: usize = 32;
/// Offset.
pub const REFILLS: usize = 36;

const _: () = assert!(std::mem::offset_of!(Memo, page) == PAGE && std::mem::offset_of!(Memo, room) == ROOM);
const _: () = assert!(std::mem::offset_of!(Memo, addend) == ADDEND && std::mem::offset_of!(Memo, next) == NEXT);
const _: () = assert!(std::mem::offset_of!(Memo, last) == LAST && std::mem::offset_of!(Memo, refills) == REFILLS);

/// Whose access a memo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The block's number in the cache.
    pub block: u32,
    /// Operation.
    pub op: u16,
}

/// The memos of one vCPU: in the data behind its code memory. The first one stands for the list of those that remember something.
/// The others belong to parts of code memory, to each as many.
#[derive(Debug)]
pub struct Memos {
    first: *mut Memo,
    most: usize,
    /// Offset of the first from the code's beginning.
    at: usize,
    /// Of each part, of each of its memos.
    owners: Vec<Vec<Owner>>,
    /// The part whose memos are handed out now.
    part: usize,
    /// [`mem::Tlb::shrinks`] that what is remembered belongs to.
    shrinks: u64,
}

// SAFETY: the memory belongs to the code memory beside it, and both to one vCPU, which runs on one thread at a time.
unsafe impl Send for Memos {}

impl Memos {
    /// All of `memory`'s data, as long as that lives.
    pub fn new(memory: &mut CodeMemory) -> Memos {
        let (data, len) = memory.data();
        Memos { first: data.cast(), most: len / MEMO, at: memory.len(), owners: vec![Vec::new()], part: 0, shrinks: 0 }
    }

    /// There are none any more, and there are so many parts from now on.
    pub fn divide(&mut self, parts: usize) {
        self.forget();
        self.owners.clear();
        self.owners.resize(parts.max(1), Vec::new());
        self.part = 0;
    }

    /// This part has none any more, and those to come belong to it. What others remember is forgotten too.
    pub fn begin(&mut self, part: usize) {
        if !on(Mutant::MemosOld) {
            self.forget();
        }
        if let Some(owners) = self.owners.get_mut(part) {
            owners.clear();
            self.part = part;
        }
    }

    /// How many a part has at most.
    fn share(&self) -> usize {
        (self.most - 1) / self.owners.len()
    }

    /// Offset of memo `n` from the code's beginning.
    pub fn place(&self, n: usize) -> usize {
        self.at + n * MEMO
    }

    /// The number that the next one will have.
    pub fn next(&self) -> usize {
        1 + self.part * self.share() + self.owners[self.part].len()
    }

    /// Whether there is room for `n` more.
    pub fn has_room(&self, n: usize) -> bool {
        self.owners[self.part].len() + n <= self.share()
    }

    /// A new one, for an access of `last + 1` bytes. There must be room.
    pub fn add(&mut self, owner: Owner, last: u32) {
        if !self.has_room(1) {
            return;
        }
        let memo = Memo { page: 0, room: 0, addend: 0, next: ptr::null_mut(), last, refills: 0 };
        // SAFETY: within the data, and emitted code does not run meanwhile.
        unsafe { self.first.add(self.next()).write(memo) };
        self.owners[self.part].push(owner);
    }

    /// What memo `n`, which counts, has counted since somebody asked.
    pub fn take_count(&mut self, n: usize) -> u64 {
        let counts = self.owner(n).is_some_and(|owner| owner.op == COUNTER);
        // SAFETY: one that has an owner is within the data, and emitted code does not run meanwhile.
        if counts { unsafe { std::mem::take(&mut (*self.first.add(n)).page) } } else { 0 }
    }

    /// Who has memo `n`.
    pub fn owner(&self, n: usize) -> Option<Owner> {
        let (n, share) = (n.checked_sub(1)?, self.share().max(1));
        self.owners.get(n / share)?.get(n % share).copied()
    }

    /// The linear address of an access, which is `distance` from what its memo remembers, and that of its last byte.
    ///
    /// # Safety
    /// `memo` is one of these, and emitted code does not run meanwhile.
    pub unsafe fn access(&self, memo: *const Memo, distance: u64) -> (u64, u64) {
        // SAFETY: see above.
        let memo = unsafe { &*memo };
        let first = memo.page.wrapping_add(distance);
        (first, first.wrapping_add(u64::from(memo.last)))
    }

    /// A memo that had to ask remembers this run of pages, which is longer than its access.
    ///
    /// # Safety
    /// As for [`Memos::access`].
    pub unsafe fn remember(&mut self, memo: *mut Memo, run: mem::Run) {
        // SAFETY: see above; the first is within the data.
        let (memo, first) = unsafe { (&mut *memo, &mut *self.first) };
        memo.refills += 1;
        if memo.room == 0 {
            memo.next = std::mem::replace(&mut first.next, memo);
        }
        let last = if on(Mutant::RunEnd) { 0 } else { u64::from(memo.last) };
        (memo.page, memo.room, memo.addend) = (run.start, run.len - last, run.addend);
    }

    /// Nothing is remembered any more.
    fn forget(&mut self) {
        // SAFETY: the list leads through memos that were added, which stay until the data goes; emitted code does not run meanwhile.
        unsafe {
            let mut p = std::mem::replace(&mut (*self.first).next, ptr::null_mut());
            while !p.is_null() {
                if !(on(Mutant::Runs) && (*p).room > mem::PAGE) {
                    (*p).room = 0;
                }
                p = (*p).next;
            }
        }
    }

    /// Whether all that remember something are on the list, and have an owner: for tests.
    #[cfg(any(test, feature = "mutants"))]
    pub fn are_listed(&self) -> bool {
        let mut listed = std::collections::BTreeSet::new();
        // SAFETY: as in `forget`.
        let mut p = unsafe { (*self.first).next };
        while !p.is_null() {
            // SAFETY: as in `forget`, within the data.
            unsafe {
                listed.insert(p.offset_from(self.first).cast_unsigned());
                p = (*p).next;
            }
        }
        let owned = |n: &usize| self.owner(*n).is_some();
        // SAFETY: those of the data that have an owner were added.
        let remembers = |n: &usize| unsafe { (*self.first.add(*n)).room > 0 };
        listed.iter().all(owned) && (1..self.most).filter(owned).filter(remembers).all(|n| listed.contains(&n))
    }

    /// Before emitted code runs: nothing is remembered that the TLB has given up. Answers whether it had given up anything.
    #[inline]
    pub fn settle(&mut self, shrinks: u64) -> bool {
        let changed = self.shrinks != shrinks;
        if changed && !on(Mutant::Memos) {
            self.shrinks = shrinks;
            self.forget();
        }
        changed
    }

    /// Asks about each memo that remembers something and has looked the TLB up, by number, how often, and whether what it remembers
    /// is a large page; whether that is enough to judge, so that it is counted anew.
    pub fn judge(&mut self, mut enough: impl FnMut(Owner, usize, u32, bool) -> bool) {
        // SAFETY: as in `forget`.
        unsafe {
            let mut p = (*self.first).next;
            while !p.is_null() {
                let n = p.offset_from(self.first).cast_unsigned();
                if (*p).refills > 0
                    && let Some(owner) = self.owner(n)
                    && enough(owner, n, (*p).refills, (*p).room > mem::PAGE)
                {
                    (*p).refills = 0;
                }
                p = (*p).next;
            }
        }
    }
}
