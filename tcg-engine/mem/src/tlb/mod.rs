//! The software TLB of one vCPU.
//!
//! Two levels. The first is direct-mapped, with tables for each privilege mode, and emitted code looks it up by itself: its layout
//! is part of that one's interface, and `addend` leads to host addresses. It starts small and [grows](Tlb::grow) where misses that
//! the second level answers dominate. The second is larger, has sets, knows 2 MiB pages, and holds what walks of the guest's
//! tables have found; stores get their tags in the first level by whoever has looked at dirty marks and code ([`Tlb::install`]).
//!
//! A tag is `asid << 52 | page number`, where the asid is an internal number that a front end's address-space id (PCID) maps to;
//! dropping an address space means giving it a new number, so that neither a switch nor a flush of one space touches an entry.
//! Global pages have a number of their own in the second level.

mod first;
mod regions;
mod second;

pub use first::{ADDEND_OFFSET, Access, ENTRY_LOG2, Shape, TAG_OFFSET, WIDE_MASK, WIDE_SHIFT};
use first::{Entry, First, wide_tag};
use regions::{Exact, Regions};
use second::Second;

use crate::PAGE_MASK;

/// Sizes of the first level's tables, log2 of their entries, from the smallest to the largest: they reach 8 and 64 MiB.
const CLASSES: [u8; 2] = [11, 14];
/// log2 of how many times more entries the second level has.
const SECOND: u32 = 2;
/// What it costs, in instructions, that an entry of the first level is taken from another page of the same address space.
const CROWD_COST: u64 = 64;
/// What growing costs: all code is made anew, which takes milliseconds.
const GROWTH_COST: u64 = CROWD_COST << 16;

/// Shift of the address space's number in a tag.
const ASID_SHIFT: u32 = 52;
/// The page number in a tag.
const TAG_PAGE: u64 = (1 << ASID_SHIFT) - 1;
/// Internal address-space numbers that fit a tag; 0 belongs to nobody.
const ASIDS: u64 = 1 << 12;
/// External address-space ids (PCIDs).
const EXTERNAL: usize = 4096;

/// Whose rights the entries of a bank have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bank {
    /// User mode.
    User = 0,
    /// Supervisor mode.
    Supervisor = 1,
    /// Supervisor mode that may not touch user pages (x86: SMAP in force).
    Strict = 2,
    /// User mode where every access is to be looked at (x86: alignment is checked): nothing is ever installed here.
    Checked = 3,
}

/// Banks there are.
pub const BANKS: usize = 4;

impl Bank {
    /// The other supervisor bank, which has the same rights to supervisor pages.
    const fn sibling(self) -> Option<Bank> {
        match self {
            Bank::User | Bank::Checked => None,
            Bank::Supervisor => Some(Bank::Strict),
            Bank::Strict => Some(Bank::Supervisor),
        }
    }
}

/// How large the mapping is that a page was cut from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Small = 0,
    /// 2 or 4 MiB.
    Large = 1,
    /// 1 GiB.
    Huge = 2,
}

impl PageSize {
    const fn shift(self) -> u32 {
        match self {
            PageSize::Small => 12,
            // Also right for 4 MiB pages: both halves are looked at.
            PageSize::Large => 22,
            PageSize::Huge => 30,
        }
    }
}

/// What a walk has found.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Linear address (any byte of the page).
    pub va: u64,
    /// RAM offset of the page.
    pub offset: u64,
    /// It may be loaded from.
    pub read: bool,
    /// It may be stored to, and the guest's tables say already that it has been.
    pub dirty: bool,
    /// It may be fetched from.
    pub exec: bool,
    /// Valid in every address space.
    pub global: bool,
    /// A page of user mode.
    pub user: bool,
    /// The mapping's size.
    pub size: PageSize,
    /// The 2 MiB around it belong to the mapping and are RAM in one piece.
    pub whole: bool,
}

/// The software TLB of one vCPU.
pub struct Tlb {
    first: First,
    second: Second,
    bank: Bank,
    /// Internal number of the current address space, in the upper 12 bits of every tag.
    asid: u64,
    /// The number of global pages.
    global: u64,
    next_asid: u64,
    external: usize,
    /// Internal number of each external id, 0 if it has none.
    numbers: Box<[u16]>,
    /// Regions of 4 MiB and of 1 GiB that pages were cut from, since they were flushed.
    large: Exact,
    huge: Exact,
    /// Those that code was fetched from.
    large_code: Regions,
    huge_code: Regions,
    generation: u64,
    global_generation: u64,
    /// Host address of RAM offset 0.
    origin: u64,
    /// Pages that code was fetched from since the last full flush.
    fetched: Regions,
    /// Times that something which had hit may not hit any more.
    shrinks: u64,
    /// Entries of the first level that were taken from another page, since it was last asked.
    crowded: u64,
    /// What is lost by a first level that is too small, in instructions.
    lost: u64,
}

impl std::fmt::Debug for Tlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tlb").field("bank", &self.bank).field("asid", &self.asid).finish_non_exhaustive()
    }
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

/// The page number of an address.
const fn page(va: u64) -> u64 {
    va >> 12
}

impl Tlb {
    /// An empty TLB in the supervisor bank and external address space 0.
    pub fn new() -> Self {
        let mut t = Tlb {
            first: First::new(Shape::default()),
            second: Second::new(u32::from(CLASSES[0]) + SECOND),
            bank: Bank::Supervisor,
            asid: 0,
            global: 0,
            next_asid: 1,
            external: 0,
            numbers: vec![0; EXTERNAL].into(),
            large: Exact::new(),
            huge: Exact::new(),
            large_code: Regions::new(),
            huge_code: Regions::new(),
            generation: 0,
            global_generation: 0,
            origin: 0,
            fetched: Regions::new(),
            shrinks: 0,
            crowded: 0,
            lost: 0,
        };
        t.renumber();
        t
    }

    /// The offset in RAM of a load of `bytes` at `va`, if it hits.
    #[inline(always)]
    pub fn read(&self, va: u64, bytes: u64) -> Option<u64> {
        self.first.get(self.bank, Access::Read, va, self.tag(va, bytes)).map(|addend| self.place(va, addend))
    }

    /// The offset in RAM of a store of `bytes` at `va`, if it hits.
    #[inline(always)]
    pub fn write(&self, va: u64, bytes: u64) -> Option<u64> {
        self.first.get(self.bank, Access::Write, va, self.tag(va, bytes)).map(|addend| self.place(va, addend))
    }

    /// The offset in RAM of the instruction byte at `va`, if it hits.
    #[inline(always)]
    pub fn exec(&self, va: u64) -> Option<u64> {
        self.first.get(self.bank, Access::Exec, va, self.tag(va, 1)).map(|addend| self.place(va, addend))
    }

    #[inline(always)]
    fn place(&self, va: u64, addend: u64) -> u64 {
        va.wrapping_add(addend).wrapping_sub(self.origin)
    }

    /// Tag of the page of the access's last byte: an access that leaves the page of its first byte cannot match, since the
    /// entry is that of the first byte.
    #[inline(always)]
    fn tag(&self, va: u64, bytes: u64) -> u64 {
        page(va.wrapping_add(bytes - 1)) | self.asid << ASID_SHIFT
    }

    /// Where RAM lies in this process. Before anything is installed.
    pub fn set_origin(&mut self, host: u64) {
        self.origin = host;
        self.flush_all();
    }

    /// How emitted code finds entries.
    pub fn shape(&self) -> Shape {
        self.first.shape()
    }

    /// Address of the current bank's tables, for emitted code.
    pub fn bank_address(&self) -> u64 {
        self.first.address(self.bank)
    }

    /// What a tag has beside the page number, for emitted code.
    pub fn tag_space(&self) -> u64 {
        self.asid << ASID_SHIFT
    }

    /// Current bank.
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// Moves whenever an access that hit may not do so any more: a page lost a right, or its address space or user mode's bank
    /// is another one. Whoever remembers a hit in [`Bank::User`] may believe it for as long as this stands still. Evictions and
    /// stays in the supervisor banks do not move it.
    #[inline(always)]
    pub fn shrinks(&self) -> u64 {
        self.shrinks
    }

    /// Use the entries of another privilege mode.
    #[inline]
    pub fn select_bank(&mut self, bank: Bank) {
        if bank != self.bank && (bank == Bank::Checked || self.bank == Bank::Checked) {
            self.shrinks += 1;
        }
        self.bank = bank;
    }

    /// What a lookup by linear address depends on besides the address: the address space, the bank, and a generation that
    /// moves with every flush of a page. Whoever remembers the result of a fetch remembers this word beside it.
    #[inline(always)]
    pub fn context(&self) -> u64 {
        self.generation << 16 | (self.bank as u64) << 12 | self.asid
    }

    /// As [`Tlb::context`] for global pages, which every address space shares.
    #[inline(always)]
    pub fn global_context(&self) -> u64 {
        self.global_generation << 16 | (self.bank as u64) << 12
    }

    /// Whether the page of `va`, which was just fetched from, is a global one.
    pub fn is_global(&self, va: u64) -> bool {
        self.first.is_global(self.bank, va, self.tag(va, 1))
    }

    /// Switch to external address space `id` (below 4096) and keep what it had.
    pub fn select_space(&mut self, id: u16) {
        self.external = usize::from(id) % EXTERNAL;
        let number = u64::from(self.numbers[self.external]);
        let before = self.asid;
        self.asid = if number != 0 { number } else { self.fresh() };
        self.shrinks += u64::from(self.asid != before);
    }

    /// Forget everything of external address space `id` but global pages.
    pub fn flush_space(&mut self, id: u16) {
        let id = usize::from(id) % EXTERNAL;
        self.numbers[id] = 0;
        if id == self.external {
            self.asid = self.fresh();
            self.shrinks += 1;
        }
    }

    /// Forget every address space but keep global pages.
    pub fn flush_spaces(&mut self) {
        self.numbers.fill(0);
        self.asid = self.fresh();
        self.shrinks += 1;
    }

    /// A number that no entry has, for the current external id.
    fn fresh(&mut self) -> u64 {
        if self.next_asid == ASIDS {
            self.flush_all();
            // flush_all numbered the current space.
            return self.asid;
        }
        let n = self.next_asid;
        self.next_asid += 1;
        self.numbers[self.external] = n as u16;
        n
    }

    /// Forget everything.
    pub fn flush_all(&mut self) {
        [&mut self.large, &mut self.huge].into_iter().for_each(Exact::clear);
        [&mut self.large_code, &mut self.huge_code, &mut self.fetched].into_iter().for_each(Regions::clear);
        // New numbers do it, for as long as there are some.
        if self.next_asid + 2 > ASIDS {
            self.first.clear();
            self.second.clear();
            self.next_asid = 1;
        }
        self.renumber();
        self.generation += 1;
        self.global_generation += 1;
        self.shrinks += 1;
    }

    /// New numbers for global pages and for the current address space; the others have none.
    fn renumber(&mut self) {
        self.global = self.next_asid;
        self.next_asid += 1;
        self.numbers.fill(0);
        self.asid = self.fresh();
    }

    /// Forget the page of `va` in every address space and bank, global or not (INVLPG may do more than asked).
    pub fn flush_page(&mut self, va: u64) {
        self.shrinks += 1;
        self.first.flush_page(va);
        self.second.flush_page(va);
        for size in [PageSize::Large, PageSize::Huge] {
            if self.was_cut(va, size) {
                self.first.flush_region(va, size.shift());
                self.second.flush_region(va, size);
                // Nothing of it is left, until a walk finds one again.
                let set = if size == PageSize::Huge { &mut self.huge } else { &mut self.large };
                set.remove(va >> size.shift());
            }
        }
        // Where no code came from nobody remembers a fetch.
        let large = |size: PageSize, set: &Regions| set.has(va >> size.shift());
        if large(PageSize::Large, &self.large_code)
            || large(PageSize::Huge, &self.huge_code)
            || self.fetched.has(page(va))
        {
            self.generation += 1;
            self.global_generation += 1;
        }
    }

    fn was_cut(&self, va: u64, size: PageSize) -> bool {
        let set = if size == PageSize::Huge { &self.huge } else { &self.large };
        set.has(va >> size.shift())
    }

    /// Drop every tag for stores: what a safepoint does after a harvest.
    pub fn drop_write_tags(&mut self) {
        self.shrinks += 1;
        self.first.drop_stores(|_| true);
    }

    /// Drop the tags for stores of the page at RAM offset `at`, because code was translated from it.
    pub fn protect(&mut self, at: u64) {
        self.shrinks += 1;
        let host = self.origin.wrapping_add(at & !PAGE_MASK);
        self.first.drop_stores(|e| e.host() == host);
    }

    /// What the second level knows: the RAM offset of `va`, if the page may be accessed so without a walk. [`Tlb::install`] makes it
    /// hit; loads of user mode from a large page may hit from now on by [that page](Shape::wide).
    #[inline]
    pub fn recall(&mut self, va: u64, access: Access) -> Option<u64> {
        let known = self.second.get(va, self.bank, self.asid, self.global)?;
        let may = match access {
            Access::Read => known.read,
            Access::Write => known.write,
            Access::Exec => known.exec,
        };
        if may && known.large && access == Access::Read {
            self.install_wide(va, known.addend);
        }
        may.then(|| self.place(va, known.addend))
    }

    /// The RAM offset of `va`, if it may be loaded from, or stored to (`write`) without being marked or looked at first; and whether it is
    /// a part of 2 MiB that lie beside each other, and may be loaded from. Changes nothing.
    pub fn peek(&self, va: u64, write: bool) -> Option<(u64, bool)> {
        let known = self.second.get(va, self.bank, self.asid, self.global).filter(|known| known.read);
        let known = known.map(|known| (self.place(va, known.addend), known.large));
        let hit = if write { self.write(va, 1) } else { self.read(va, 1) };
        if write { hit.map(|at| (at, known == Some((at, true)))) } else { known.or(hit.map(|at| (at, false))) }
    }

    /// Only what runs in user mode looks there.
    fn install_wide(&mut self, va: u64, addend: u64) {
        if self.bank == Bank::User {
            let tag = wide_tag(va, self.tag(va, 1));
            self.first.put_wide(self.bank, va, Entry { tag, addend });
        }
    }

    /// Make the page of `va`, which was [recalled](Tlb::recall) or walked to, hit. Stores: only a page that has been marked dirty,
    /// and then found to hold no code.
    #[inline]
    pub fn install(&mut self, va: u64, at: u64, access: Access) {
        if access == Access::Exec {
            // Also where nothing is installed a fetch may be remembered.
            self.fetched.add(page(va));
        }
        if self.bank == Bank::Checked {
            return;
        }
        let entry = Entry { tag: self.tag(va, 1), addend: self.addend(va, at) };
        if access == Access::Exec {
            let known = self.second.get(va, self.bank, self.asid, self.global);
            self.first.put_exec(self.bank, va, entry, known.is_some_and(|known| known.global));
        } else {
            let old = self.first.put(self.bank, access, va, entry);
            self.crowded += u64::from(old != entry.tag && old >> ASID_SHIFT == self.asid);
        }
    }

    /// Host address minus linear address of the page of `va`, which lies at RAM offset `at`.
    pub fn addend(&self, va: u64, at: u64) -> u64 {
        (at & !PAGE_MASK).wrapping_add(self.origin).wrapping_sub(va & !PAGE_MASK)
    }

    /// Note what a walk has found, for the current bank and address space. Nothing hits by that.
    pub fn fill(&mut self, f: &Fill) {
        let region = f.va >> f.size.shift();
        let (cut, code) = match f.size {
            PageSize::Small => (None, None),
            PageSize::Large => (Some(&mut self.large), Some(&mut self.large_code)),
            PageSize::Huge => (Some(&mut self.huge), Some(&mut self.huge_code)),
        };
        if let Some(cut) = cut {
            cut.add(region);
        }
        if let Some(code) = code.filter(|_| f.exec) {
            code.add(region);
        }
        let addend = self.addend(f.va, f.offset);
        self.second.put(f, addend, self.bank, self.asid, self.global);
        // The page may have been another one, without a flush: then nothing else of it stays.
        let moved = self.first.agree(self.bank, f.va, Entry { tag: self.tag(f.va, 1), addend });
        self.shrinks += u64::from(moved);
        if f.whole && f.read && f.size != PageSize::Small {
            self.install_wide(f.va, addend);
        }
    }

    /// The RAM offset of a load of `bytes` at `va`, if it hits by a large page.
    #[cfg(test)]
    fn read_wide(&self, va: u64, bytes: u64) -> Option<u64> {
        let tag = wide_tag(va.wrapping_add(bytes - 1), self.tag(va, 1));
        self.first.get_wide(self.bank, va, tag).map(|addend| self.place(va, addend))
    }

    /// After so many instructions: whether growing would be worth what it costs.
    #[inline]
    pub fn is_small(&mut self, instructions: u64) -> bool {
        self.lost = (self.lost + CROWD_COST * std::mem::take(&mut self.crowded)).saturating_sub(instructions);
        self.lost > GROWTH_COST && self.next_class().is_some()
    }

    fn next_class(&self) -> Option<u8> {
        CLASSES.into_iter().find(|&log2| log2 > self.shape().log2())
    }

    /// Take tables of the next size, which are empty. Code that was emitted for the [shape](Tlb::shape) of before is worthless.
    pub fn grow(&mut self) {
        let Some(log2) = self.next_class() else { return };
        self.first = First::new(Shape::new(log2));
        self.second = Second::new(u32::from(log2) + SECOND);
        self.lost = 0;
        self.shrinks += 1;
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
