//! Which pages of RAM hold translated code, whose it is, and who may write to them unseen.
//!
//! The idea: a page with code has no write tag in any TLB, so that each store into it takes the slow path and asks here whether
//! it has hit a line that a block was made from, and whose block. So that this holds on every vCPU, a vCPU that is the first to
//! lift from a page has those drop their tags that may have one, before it reads a byte ([`CodePages::claim`]); and a writer
//! has the owners of what it has hit drop their blocks, before its instruction is complete ([`CodePages::hit`]).
//!
//! Both sides store first and look then, with a full barrier between: the one that lifts notes the page and the lines and then
//! looks at writers and bytes; the one that writes notes itself as a writer and then looks for code, or stores its bytes and then
//! looks for lines. So at least one of the two always sees the other. A process that is no engine does as a vCPU does that has no
//! write tag, with `DirtyLog::write`, and has the engine ask for it ([`CodePages::owners`]).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_memory::DirtyLog;

use crate::{PAGE, PAGE_MASK};

/// vCPUs, a bit each.
pub type Vcpus = u64;

/// log2 of the size of a line: a page has 64 of them.
const LINE: u64 = 6;
/// Words of writers; pages that far apart share one, which costs a needless order and nothing else.
const WRITERS: usize = 1 << 16;

/// A page with code.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// vCPUs that have blocks of it, or are about to.
    owners: Vcpus,
    /// Lines that blocks were made from.
    lines: u64,
    /// No TLB has a write tag for it.
    settled: bool,
}

/// A multiplicative hash of one page number: every block that is made asks twice. A guest that makes numbers collide slows its own
/// vCPUs down.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let mixed = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// By page number of RAM.
type Pages = HashMap<u64, Page, BuildHasherDefault<Mix>>;

/// The pages with code of all vCPUs.
pub struct CodePages {
    pages: Mutex<Pages>,
    /// vCPUs that have had write tags for a page, by page number.
    writers: Box<[AtomicU64]>,
}

impl std::fmt::Debug for CodePages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodePages").field("pages", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Default for CodePages {
    fn default() -> Self {
        CodePages { pages: Mutex::default(), writers: (0..WRITERS).map(|_| AtomicU64::new(0)).collect() }
    }
}

/// Lines that `len` bytes at page offset `at` touch; `len` is cut at the page's end.
fn mask(at: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let (first, last) = (at >> LINE, (at + len - 1).min(PAGE_MASK) >> LINE);
    (u64::MAX >> (63 - (last - first))) << first
}

impl CodePages {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        // A page is never left half changed.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self, at: u64) -> &AtomicU64 {
        &self.writers[(at / PAGE) as usize % WRITERS]
    }

    /// vCPU `me` is about to get a write tag for the page at `at`. Before it looks whether the page holds code.
    #[inline]
    pub fn note_writer(&self, at: u64, me: u8) {
        let (word, bit) = (self.writer(at), 1 << (me & 63));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// vCPU `me` is about to read code from the page at `at`. Answers who may have a write tag for it, and must be told to drop it
    /// before; then [`CodePages::settle`] is called. `None` if all that has been done.
    pub fn claim(&self, marks: &DirtyLog, at: u64, me: u8) -> Option<Vcpus> {
        let mut pages = self.lock();
        let page = pages.entry(at / PAGE).or_default();
        page.owners |= 1 << (me & 63);
        if page.settled {
            return None;
        }
        // A read-modify-write, and so a full barrier before the writers are looked at.
        marks.set_code(at);
        Some(self.writer(at).load(Ordering::SeqCst))
    }

    /// Nobody has a write tag for the page at `at` any more.
    pub fn settle(&self, at: u64) {
        if let Some(page) = self.lock().get_mut(&(at / PAGE)) {
            page.settled = true;
        }
    }

    /// vCPU `me` makes a block from `len` bytes at `at`, on a page that it has claimed. The bytes must be compared once more after
    /// this: a store of before has seen no line. Answers false if the claim has been given up meanwhile.
    pub fn add(&self, at: u64, len: u64, me: u8) -> bool {
        let mut pages = self.lock();
        let page = pages.get_mut(&(at / PAGE)).filter(|page| page.owners >> (me & 63) & 1 != 0);
        if let Some(page) = page {
            page.lines |= mask(at & PAGE_MASK, len);
            fence(Ordering::SeqCst);
            return true;
        }
        false
    }

    /// vCPU `me` has stored `len` bytes at `at`, within one page that is marked as code. Answers whose blocks may have been made
    /// from them.
    pub fn hit(&self, marks: &DirtyLog, at: u64, len: u64, me: u8) -> Vcpus {
        fence(Ordering::SeqCst);
        let mut pages = self.lock();
        let Some(page) = pages.get(&(at / PAGE)) else { return 0 };
        // Claimed by this vCPU for a block that then was none.
        if page.lines == 0 && page.owners == 1 << (me & 63) {
            pages.remove(&(at / PAGE));
            marks.clear_code(at);
            return 0;
        }
        if page.lines & mask(at & PAGE_MASK, len) != 0 { page.owners } else { 0 }
    }

    /// Who may have blocks of the page at `at`, or be about to: a process that is no engine has written to it, and waits until each
    /// has dropped them and given its claim up ([`CodePages::release`]). Whoever adds a block after this finds what was written when it
    /// compares the bytes.
    pub fn owners(&self, at: u64) -> Vcpus {
        self.lock().get(&(at / PAGE)).map_or(0, |page| page.owners)
    }

    /// vCPU `me` has no block of the page at `at` any more, for now: where no other vCPU has, its claim stays for the next block, or
    /// until the next store ([`CodePages::hit`]).
    pub fn empty(&self, marks: &DirtyLog, at: u64, me: u8) {
        if let Some(page) = self.lock().get_mut(&(at / PAGE))
            && page.owners == 1 << (me & 63)
        {
            page.lines = 0;
            return;
        }
        self.release(marks, at, me);
    }

    /// vCPU `me` has no block of the page at `at` any more.
    pub fn release(&self, marks: &DirtyLog, at: u64, me: u8) {
        let mut pages = self.lock();
        let Some(page) = pages.get_mut(&(at / PAGE)) else { return };
        page.owners &= !(1 << (me & 63));
        if page.owners == 0 {
            pages.remove(&(at / PAGE));
            marks.clear_code(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_memory::{DirtyLayout, Memfd};
    use std::os::fd::AsFd;

    fn marks() -> DirtyLog {
        let len = 1 << 20;
        let dirty = Memfd::create("dirty", DirtyLayout::new(len).len).unwrap();
        DirtyLog::format(dirty.as_fd(), len).unwrap();
        DirtyLog::map(dirty.as_fd(), len).unwrap()
    }

    #[test]
    fn lines_are_64_bytes_within_their_page() {
        let (pages, marks) = (CodePages::default(), marks());
        assert_eq!(pages.claim(&marks, 0x1000, 0), Some(0));
        assert!(pages.add(0x1040, 64, 0) && pages.add(0x10ff, 2, 0));
        assert!(!pages.add(0x1000, 8, 1) && !pages.add(0x2000, 8, 0), "not claimed");
        for (at, len, hit) in [
            (0x1000, 64, 0),
            (0x103f, 1, 0),
            (0x103f, 2, 1),
            (0x107f, 1, 1),
            (0x1080, 0x40, 0),
            (0x10c0, 1, 1),
            (0x1100, 1, 1),
            (0x1140, 0xec0, 0),
            (0x1040, 0, 0),
            (0x2040, 1, 0),
        ] {
            assert_eq!(pages.hit(&marks, at, len, 0), hit, "{at:#x}+{len:#x}");
        }
    }

    #[test]
    fn who_lifts_first_has_the_writers_drop_their_tags() {
        let (pages, marks) = (CodePages::default(), marks());
        pages.note_writer(0x3008, 2);
        assert_eq!(pages.claim(&marks, 0x3ff0, 0), Some(1 << 2));
        assert!(marks.is_code(0x3000));
        assert_eq!(pages.claim(&marks, 0x3000, 1), Some(1 << 2), "they may not have yet");
        pages.settle(0x3000);
        assert_eq!(pages.claim(&marks, 0x3000, 1), None);
        assert!(pages.add(0x3000, 16, 1));
        assert_eq!(pages.hit(&marks, 0x3000, 1, 2), 0b11, "both have blocks");
        assert_eq!((pages.owners(0x3fff), pages.owners(0x4000)), (0b11, 0));
        pages.release(&marks, 0x3000, 0);
        assert_eq!(pages.hit(&marks, 0x3000, 1, 2), 0b10);
        assert!(marks.is_code(0x3000));
        pages.release(&marks, 0x3000, 1);
        assert!(!marks.is_code(0x3000));
        assert_eq!(pages.claim(&marks, 0x3000, 1), Some(1 << 2), "writers have got tags since");
    }

    #[test]
    fn a_page_that_is_rewritten_stays_claimed_until_it_is_data() {
        let (pages, marks) = (CodePages::default(), marks());
        pages.note_writer(0x3000, 1);
        assert_eq!(pages.claim(&marks, 0x3000, 1), Some(1 << 1));
        pages.settle(0x3000);
        assert!(pages.add(0x3000, 16, 1));
        assert_eq!(pages.hit(&marks, 0x3000, 1, 1), 1 << 1);
        pages.empty(&marks, 0x3000, 1);
        assert_eq!(pages.claim(&marks, 0x3000, 1), None, "nobody has got a write tag");
        assert!(pages.add(0x3000, 16, 1));
        assert_eq!(pages.claim(&marks, 0x3000, 2), None);
        pages.empty(&marks, 0x3000, 1);
        assert_eq!(pages.hit(&marks, 0x3000, 1, 1), 1 << 2, "the other one's");
        pages.empty(&marks, 0x3000, 2);
        assert_eq!(pages.hit(&marks, 0x3000, 1, 2), 0);
        assert!(!marks.is_code(0x3000));
    }

    #[test]
    fn a_claim_without_a_block_is_given_up_by_the_next_store() {
        let (pages, marks) = (CodePages::default(), marks());
        pages.claim(&marks, 0x5000, 3);
        assert_eq!(pages.owners(0x5000), 1 << 3, "who may be about to read it");
        assert_eq!(pages.hit(&marks, 0x5000, 8, 2), 0);
        assert!(marks.is_code(0x5000), "another vCPU may be about to read it");
        assert_eq!(pages.hit(&marks, 0x5000, 8, 3), 0);
        assert!(!marks.is_code(0x5000));
    }
}
