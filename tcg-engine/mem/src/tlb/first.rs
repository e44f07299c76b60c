//! The first level: what emitted code looks up by itself.
//!
//! Two direct-mapped tables for each bank, one of loads and one of stores behind it, of entries that are a tag and an addend: a
//! page that is only read takes 16 bytes of the host's caches. Behind them lies a small table of pages of 2 MiB, for loads alone, since
//! stores need to be known by page; emitted code looks into it where a program goes to many pages. Fetches have a small table of their own, which emitted code does
//! not know. A tag of 0 is nobody's, since no address space has the number 0.

use super::{BANKS, Bank, CLASSES, TAG_PAGE, page};
use crate::PAGE;

/// log2 of the size of an entry in bytes.
pub const ENTRY_LOG2: u8 = 4;
/// Offset of the tag in an entry.
pub const TAG_OFFSET: i32 = 0;
/// Offset of the host address minus the linear address.
pub const ADDEND_OFFSET: i32 = 8;

/// log2 of the entries of a bank's table of large pages: together they reach 512 MiB.
const WIDE_LOG2: u8 = 8;
/// Shift of the address of a large page; its tag has that as its page number.
pub const WIDE_SHIFT: u8 = 21;
/// What remains of an address shifted right by [`WIDE_SHIFT`] - [`ENTRY_LOG2`]: the offset in the table of large pages.
pub const WIDE_MASK: u32 = ((1 << WIDE_LOG2) - 1) << ENTRY_LOG2;

/// log2 of the entries of a bank's table of fetches.
const EXEC_LOG2: u32 = 10;

/// What emitted code has to know of the tables; it holds for as long as the TLB does not [grow](super::Tlb::grow).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    log2: u8,
}

impl Shape {
    pub(super) const fn new(log2: u8) -> Self {
        Shape { log2 }
    }

    pub(super) const fn log2(self) -> u8 {
        self.log2
    }

    /// Entries of a table, a power of two.
    pub const fn entries(self) -> u32 {
        1 << self.log2
    }

    /// Offset of the table of stores from that of loads, which is where the bank begins.
    pub const fn stores(self) -> i32 {
        1 << (self.log2 + ENTRY_LOG2)
    }

    /// Offset of the table of large pages from that of loads.
    pub const fn wide(self) -> i32 {
        2 << (self.log2 + ENTRY_LOG2)
    }

    /// Offset in a table of the entry of the page of `va`.
    pub const fn slot(self, va: u64) -> u32 {
        (self.index(va) as u32) << ENTRY_LOG2
    }

    /// Entries of a bank's tables.
    const fn bank(self) -> usize {
        (2 << self.log2) + (1 << WIDE_LOG2)
    }

    const fn index(self, va: u64) -> usize {
        ((va / PAGE) & (self.entries() as u64 - 1)) as usize
    }
}

impl Default for Shape {
    /// That of a new TLB.
    fn default() -> Self {
        Shape::new(CLASSES[0])
    }
}

/// What a page that was looked up is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches.
    Exec,
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub(super) struct Entry {
    pub tag: u64,
    pub addend: u64,
}

const _: () = assert!(size_of::<Entry>() == 1 << ENTRY_LOG2);

#[derive(Clone, Copy, Default)]
struct Exec {
    entry: Entry,
    global: bool,
}

#[cfg_attr(test, derive(Clone))]
pub(super) struct First {
    shape: Shape,
    data: Box<[Entry]>,
    exec: Box<[Exec]>,
}

impl First {
    /// Empty tables. No memory belongs to [`Bank::Checked`] but a table of loads and one of stores that stay empty.
    pub fn new(shape: Shape) -> Self {
        First {
            shape,
            data: vec![Entry::default(); BANKS * shape.bank()].into(),
            exec: vec![Exec::default(); BANKS << EXEC_LOG2].into(),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Address of a bank's tables.
    pub fn address(&self, bank: Bank) -> u64 {
        self.data.as_ptr().wrapping_add(bank as usize * self.shape.bank()) as u64
    }

    #[inline(always)]
    fn slot(&self, bank: usize, access: Access, va: u64) -> usize {
        let table = if access == Access::Write { self.shape.entries() as usize } else { 0 };
        bank * self.shape.bank() + table + self.shape.index(va)
    }

    fn wide_slot(&self, bank: usize, va: u64) -> usize {
        let wide = self.shape.wide() as usize >> ENTRY_LOG2;
        bank * self.shape.bank() + wide + ((va >> WIDE_SHIFT) & ((1 << WIDE_LOG2) - 1)) as usize
    }

    fn exec_slot(bank: usize, va: u64) -> usize {
        (bank << EXEC_LOG2) + ((va / PAGE) & ((1 << EXEC_LOG2) - 1)) as usize
    }

    /// The addend of the page of `va`, if its entry for loads or stores has `tag`.
    #[inline(always)]
    pub fn get(&self, bank: Bank, access: Access, va: u64, tag: u64) -> Option<u64> {
        let e = match access {
            Access::Exec => self.exec[Self::exec_slot(bank as usize, va)].entry,
            _ => self.data[self.slot(bank as usize, access, va)],
        };
        (e.tag == tag).then_some(e.addend)
    }

    /// Whether the page of `va` can be fetched from by `tag`, and in every address space.
    pub fn is_global(&self, bank: Bank, va: u64, tag: u64) -> bool {
        let e = &self.exec[Self::exec_slot(bank as usize, va)];
        e.entry.tag == tag && e.global
    }

    /// Install an entry for loads or stores; answers the tag that was there.
    pub fn put(&mut self, bank: Bank, access: Access, va: u64, entry: Entry) -> u64 {
        let slot = self.slot(bank as usize, access, va);
        std::mem::replace(&mut self.data[slot], entry).tag
    }

    /// The addend of the large page of `va`, if its entry has `tag`.
    #[cfg(test)]
    pub fn get_wide(&self, bank: Bank, va: u64, tag: u64) -> Option<u64> {
        let e = self.data[self.wide_slot(bank as usize, va)];
        (e.tag == tag).then_some(e.addend)
    }

    /// Install an entry for loads of the large page of `va`.
    pub fn put_wide(&mut self, bank: Bank, va: u64, entry: Entry) {
        let slot = self.wide_slot(bank as usize, va);
        self.data[slot] = entry;
    }

    pub fn put_exec(&mut self, bank: Bank, va: u64, entry: Entry, global: bool) {
        self.exec[Self::exec_slot(bank as usize, va)] = Exec { entry, global };
    }

    /// Forget entries of the same tag in a bank that lead elsewhere; answers whether there was one for loads or stores.
    pub fn agree(&mut self, bank: Bank, va: u64, entry: Entry) -> bool {
        let other = |e: &mut Entry| {
            let other = e.tag == entry.tag && e.addend != entry.addend;
            if other {
                *e = Entry::default();
            }
            other
        };
        let slots = [Access::Read, Access::Write].map(|access| self.slot(bank as usize, access, va));
        let moved = slots.map(|slot| other(&mut self.data[slot]));
        other(&mut self.exec[Self::exec_slot(bank as usize, va)].entry);
        let slot = self.wide_slot(bank as usize, va);
        let wide = &mut self.data[slot];
        let large = wide.tag == wide_tag(va, entry.tag) && wide.addend != entry.addend;
        if large {
            *wide = Entry::default();
        }
        large || moved.contains(&true)
    }

    /// Forget the page of `va` in every bank and address space.
    pub fn flush_page(&mut self, va: u64) {
        for bank in 0..BANKS {
            for access in [Access::Read, Access::Write] {
                let slot = self.slot(bank, access, va);
                forget_if(&mut self.data[slot], |tag| tag & TAG_PAGE == page(va));
            }
            let slot = self.wide_slot(bank, va);
            forget_if(&mut self.data[slot], |tag| tag & TAG_PAGE == va >> WIDE_SHIFT);
            forget_if(&mut self.exec[Self::exec_slot(bank, va)].entry, |tag| tag & TAG_PAGE == page(va));
        }
    }

    /// Forget the 2^`shift` bytes around `va`, in every bank and address space.
    pub fn flush_region(&mut self, va: u64, shift: u32) {
        let within = |tag: u64| (tag & TAG_PAGE) >> (shift - 12) == va >> shift;
        let large = |tag: u64| (tag & TAG_PAGE) >> (shift - u32::from(WIDE_SHIFT)) == va >> shift;
        let (pages, wide) = (1 << (shift - 12), self.shape.wide() as usize >> ENTRY_LOG2);
        for tables in self.data.chunks_exact_mut(self.shape.bank()) {
            let (small, wide) = tables.split_at_mut(wide);
            wide.iter_mut().for_each(|e| forget_if(e, large));
            if pages >= self.shape.entries() {
                small.iter_mut().for_each(|e| forget_if(e, within));
            }
        }
        if pages < self.shape.entries() {
            // The tables are larger than the region, and a power of two as well: it lies in one piece.
            let first = va >> shift << shift;
            for bank in 0..BANKS {
                for access in [Access::Read, Access::Write] {
                    let slot = self.slot(bank, access, first);
                    self.data[slot..][..pages as usize].iter_mut().for_each(|e| forget_if(e, within));
                }
            }
        }
        self.exec.iter_mut().for_each(|e| forget_if(&mut e.entry, within));
    }

    /// Forget every entry for stores that `gone` says of.
    pub fn drop_stores(&mut self, gone: impl Fn(&Entry) -> bool) {
        for tables in self.data.chunks_exact_mut(self.shape.bank()).take(Bank::Checked as usize) {
            for e in &mut tables[self.shape.entries() as usize..][..self.shape.entries() as usize] {
                if gone(e) {
                    e.tag = 0;
                }
            }
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.data.fill(Entry::default());
        self.exec.fill(Exec::default());
    }
}

/// The tag of the large page of `va` in the address space of a page's tag.
pub(super) const fn wide_tag(va: u64, tag: u64) -> u64 {
    tag & !TAG_PAGE | va >> WIDE_SHIFT
}

fn forget_if(e: &mut Entry, gone: impl Fn(u64) -> bool) {
    if gone(e.tag) {
        *e = Entry::default();
    }
}

impl Entry {
    /// Host address of the page.
    pub fn host(&self) -> u64 {
        (self.tag << 12).wrapping_add(self.addend)
    }
}
