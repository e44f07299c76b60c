//! The second level: what walks have found, for all privilege modes and address spaces at once.
//!
//! It knows what the guest's tables grant, and nothing of dirty marks and translated code: those are looked at each time that a
//! tag for stores is installed in the first level. So neither a harvest nor new code changes anything here, and whatever does is
//! something that the guest asks for by address or by address space.
//!
//! Two tables, for pages of 4 KiB and of 2 MiB, both of sets of four: a set is a line of the host's caches. A set is found by the
//! page's address alone, so that a page is forgotten in every address space by looking at one set. The table of large pages is small,
//! and what it has is newer than any small page there, so it is asked first: most pages of a kernel, and of much memory, are in it.

use super::{ASID_SHIFT, Bank, Fill, PageSize, TAG_PAGE, page};
use crate::PAGE_MASK;

/// Entries of a set.
const WAYS: usize = 4;
/// log2 of the sets of the table of 2 MiB pages: together they reach 2 GiB.
const LARGE_SETS: u32 = 8;
/// Shift of the address of a 2 MiB page.
const LARGE: u32 = 21;

/// Bits of a bank's rights; those of the next bank are three bits higher.
mod right {
    pub const READ: u64 = 1;
    /// Stores, and the guest's tables say already that the page is dirty.
    pub const WRITE: u64 = 2;
    pub const EXEC: u64 = 4;
    pub const BITS: u32 = 3;
}

/// Valid in every address space.
const GLOBAL: u64 = 1 << 9;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// As in the first level; of global pages with the number of these instead of an address space's. 2 MiB pages have a page
    /// number of 2 MiB.
    tag: u64,
    /// Host address minus linear address, whose low bits are the rights and [`GLOBAL`]. All of it 0 if there is nothing.
    value: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

/// What the second level knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// Host address minus linear address.
    pub addend: u64,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    pub global: bool,
    /// So it is for the 2 MiB around it.
    pub large: bool,
}

#[cfg_attr(test, derive(Clone))]
pub(super) struct Second {
    small: Box<[Set]>,
    large: Box<[Set]>,
    /// Pages of 4 KiB have been cut from larger ones since it was empty.
    cut: bool,
}

fn sets(log2: u32) -> Box<[Set]> {
    vec![Set::default(); 1 << log2].into()
}

/// The tags of a page number in one address space, and in all.
fn tags(page: u64, asid: u64, global: u64) -> (u64, u64) {
    (page | asid << ASID_SHIFT, page | global << ASID_SHIFT)
}

/// The set of a page number.
fn find(table: &[Set], page: u64) -> usize {
    // The length is a power of two, and never 1.
    (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - table.len().trailing_zeros())) as usize
}

impl Second {
    /// Empty, with 2^`log2` entries for small pages.
    pub fn new(log2: u32) -> Self {
        Second { small: sets(log2 - WAYS.trailing_zeros()), large: sets(LARGE_SETS), cut: false }
    }

    /// What is known of the page of `va` in address space `asid` or in all (`global`), with the rights of `bank`.
    #[inline]
    pub fn get(&self, va: u64, bank: Bank, asid: u64, global: u64) -> Option<Known> {
        let large = Self::look(&self.large, va >> LARGE, asid, global);
        let value = large.or_else(|| Self::look(&self.small, page(va), asid, global))?;
        let rights = value >> (bank as u32 * right::BITS);
        let has = |right| bank != Bank::Checked && rights & right != 0;
        Some(Known {
            addend: value & !PAGE_MASK,
            read: has(right::READ),
            write: has(right::WRITE),
            exec: has(right::EXEC),
            global: value & GLOBAL != 0,
            large: large.is_some(),
        })
    }

    #[inline]
    fn look(table: &[Set], page: u64, asid: u64, global: u64) -> Option<u64> {
        let (local, global) = tags(page, asid, global);
        let set = &table[find(table, page)];
        set.0.iter().find(|e| e.value != 0 && (e.tag == local || e.tag == global)).map(|e| e.value)
    }

    /// Note what a walk has found for `bank`. Rights that the same page already had stay.
    pub fn put(&mut self, f: &Fill, addend: u64, bank: Bank, asid: u64, global: u64) {
        if bank == Bank::Checked {
            return;
        }
        let rights = [(f.read, right::READ), (f.dirty, right::WRITE), (f.exec, right::EXEC)];
        let rights = rights.into_iter().fold(0, |all, (has, right)| all | if has { right } else { 0 });
        let banks = match bank.sibling() {
            Some(sibling) if !f.user => [bank, sibling],
            _ => [bank, bank],
        };
        let rights = banks.iter().fold(0, |all, b| all | rights << (*b as u32 * right::BITS));
        if rights == 0 {
            return;
        }
        let value = addend | rights | if f.global { GLOBAL } else { 0 };
        let whole = f.size != PageSize::Small && f.whole;
        self.cut |= f.size != PageSize::Small && !whole;
        if !whole {
            // The guest has made small pages of it.
            let page = f.va >> LARGE;
            let (local, all) = tags(page, asid, global);
            Self::drop_entries(&mut self.large, page, |e| e.tag == local || e.tag == all);
        }
        let (table, page) = if whole { (&mut self.large, f.va >> LARGE) } else { (&mut self.small, page(f.va)) };
        let tag = page | if f.global { global } else { asid } << ASID_SHIFT;
        let at = find(table, page);
        let set = &mut table[at].0;
        // A page may have become global, or stopped being so, without a flush: there is one entry of it all the same.
        let (local, all) = tags(page, asid, global);
        let old = set.iter().position(|e| e.value != 0 && (e.tag == local || e.tag == all));
        let way = old.or_else(|| set.iter().position(|e| e.value == 0)).unwrap_or(WAYS - 1);
        let keep = match set[way] {
            // Rights of supervisor pages are not those of user pages; where the page is another one nothing is kept.
            e if old.is_some() && e.tag == tag && (e.value ^ value) & !(GLOBAL - 1) == 0 => e.value,
            _ => 0,
        };
        set.copy_within(..way, 1);
        set[0] = Entry { tag, value: value | keep };
    }

    /// Forget the page of `va`, of whatever size up to 2 MiB, in every address space.
    pub fn flush_page(&mut self, va: u64) {
        Self::drop_page(&mut self.small, page(va));
        Self::drop_page(&mut self.large, va >> LARGE);
    }

    fn drop_page(table: &mut [Set], page: u64) {
        Self::drop_entries(table, page, |e| e.tag & TAG_PAGE == page);
    }

    /// Forget some of what is where `page` would be.
    fn drop_entries(table: &mut [Set], page: u64, which: impl Fn(&Entry) -> bool) {
        let at = find(table, page);
        table[at].0.iter_mut().filter(|e| which(e)).for_each(|e| *e = Entry::default());
    }

    /// Forget what was cut from larger mappings than 2 MiB, or than 4 KiB, around `va`.
    pub fn flush_region(&mut self, va: u64, size: PageSize) {
        let first = va >> size.shift() << (size.shift() - LARGE);
        for page in first..first + (1 << (size.shift() - LARGE)) {
            Self::drop_page(&mut self.large, page);
        }
        if self.cut {
            self.small.fill(Set::default());
            self.cut = false;
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.small.fill(Set::default());
        self.large.fill(Set::default());
        self.cut = false;
    }
}
