//! The software TLB of one vCPU.
//!
//! Direct-mapped, one bank per privilege mode. An entry's tag is `asid << 52 | page number`, where the asid is an internal number
//! that a front end's address-space id (PCID) maps to; dropping an address space means giving it a new number, so that neither a
//! switch nor a flush of one space touches an entry. Global pages are re-tagged when they miss. An invalid tag names a page
//! that belongs to another index, so that no address can ever match it.
//!
//! Emitted code looks entries up by itself: the layout below is part of its interface, and `addend` leads to host addresses.

use crate::{PAGE, PAGE_MASK};

/// log2 of the entries of a bank.
const LOG2: u32 = 11;
/// Entries of a bank: 8 MiB of reach.
const ENTRIES: usize = 1 << LOG2;
const INDEX: u64 = ENTRIES as u64 - 1;
/// log2 of the size of an entry in bytes.
pub const ENTRY_LOG2: u8 = 5;
/// Mask of an index.
pub const INDEX_MASK: u32 = INDEX as u32;
/// Offset of the tag of loads in an entry.
pub const READ_OFFSET: i32 = 0;
/// Offset of the tag of stores.
pub const WRITE_OFFSET: i32 = 8;
/// Offset of the host address minus the linear address.
pub const ADDEND_OFFSET: i32 = 24;
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
    /// The other supervisor bank, which holds the same entries for supervisor pages.
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

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Entry {
    read: u64,
    write: u64,
    exec: u64,
    /// Host address minus linear address, of the page.
    addend: u64,
}

/// What the hit path does not need.
#[derive(Clone, Copy, Default)]
struct Note {
    global: bool,
    user: bool,
    size: u8,
}

/// What to install.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Linear address (any byte of the page).
    pub va: u64,
    /// RAM offset of the page.
    pub offset: u64,
    /// Loads may hit.
    pub read: bool,
    /// Stores may hit: the page is writable, marked dirty and without code.
    pub write: bool,
    /// Fetches may hit.
    pub exec: bool,
    /// Valid in every address space.
    pub global: bool,
    /// A page of user mode.
    pub user: bool,
    /// The mapping's size.
    pub size: PageSize,
}

/// The software TLB of one vCPU.
pub struct Tlb {
    entries: Box<[Entry]>,
    notes: Box<[Note]>,
    /// First entry of the current bank.
    base: usize,
    bank: Bank,
    /// Internal number of the current address space, in the low 12 bits of every tag.
    asid: u64,
    next_asid: u64,
    external: usize,
    /// Internal number of each external id, 0 if it has none.
    numbers: Box<[u16]>,
    /// Regions of 4 MiB and of 1 GiB that pages were cut from, since the last full flush.
    large: Regions,
    huge: Regions,
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
}

/// A set of addresses by their upper bits, hashed: it may say that one is there which is not. So many bits that this is rare
/// while some thousand are there.
struct Regions(Box<[u64]>);

impl Regions {
    const BITS: u32 = 18;

    fn new() -> Self {
        Regions(vec![0; (1 << Self::BITS) / 64].into())
    }

    const fn bit(key: u64) -> (usize, u64) {
        let h = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS);
        ((h / 64) as usize, 1 << (h % 64))
    }

    fn add(&mut self, key: u64) {
        let (word, bit) = Self::bit(key);
        self.0[word] |= bit;
    }

    fn has(&self, key: u64) -> bool {
        let (word, bit) = Self::bit(key);
        self.0[word] & bit != 0
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }
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

const fn index(va: u64) -> usize {
    ((va / PAGE) & INDEX) as usize
}

/// The page number of an address.
const fn page(va: u64) -> u64 {
    va >> 12
}

/// A tag that no address of slot `i` can have. (An access that crosses pages compares with the tag of the next page, of
/// index `i + 1`; this one is half the table away.)
const fn invalid(i: usize) -> u64 {
    (i as u64 & INDEX) ^ (INDEX / 2 + 1)
}

const fn empty(i: usize) -> Entry {
    Entry { read: invalid(i), write: invalid(i), exec: invalid(i), addend: 0 }
}

impl Tlb {
    /// An empty TLB in the supervisor bank and external address space 0.
    pub fn new() -> Self {
        let mut t = Tlb {
            entries: (0..BANKS * ENTRIES).map(empty).collect(),
            notes: vec![Note::default(); BANKS * ENTRIES].into(),
            base: 0,
            bank: Bank::User,
            asid: 1,
            next_asid: 1,
            external: 0,
            numbers: vec![0; EXTERNAL].into(),
            large: Regions::new(),
            huge: Regions::new(),
            large_code: Regions::new(),
            huge_code: Regions::new(),
            generation: 0,
            global_generation: 0,
            origin: 0,
            fetched: Regions::new(),
            shrinks: 0,
        };
        t.select_bank(Bank::Supervisor);
        t.select_space(0);
        t
    }

    /// The offset in RAM of a load of `bytes` at `va`, if it hits.
    #[inline(always)]
    pub fn read(&self, va: u64, bytes: u64) -> Option<u64> {
        let e = &self.entries[self.slot(va)];
        (e.read == self.tag(va, bytes)).then(|| va.wrapping_add(e.addend).wrapping_sub(self.origin))
    }

    /// The offset in RAM of a store of `bytes` at `va`, if it hits.
    #[inline(always)]
    pub fn write(&self, va: u64, bytes: u64) -> Option<u64> {
        let e = &self.entries[self.slot(va)];
        (e.write == self.tag(va, bytes)).then(|| va.wrapping_add(e.addend).wrapping_sub(self.origin))
    }

    /// The offset in RAM of the instruction byte at `va`, if it hits.
    #[inline(always)]
    pub fn exec(&self, va: u64) -> Option<u64> {
        let e = &self.entries[self.slot(va)];
        (e.exec == self.tag(va, 1)).then(|| va.wrapping_add(e.addend).wrapping_sub(self.origin))
    }

    #[inline(always)]
    fn slot(&self, va: u64) -> usize {
        // Both parts are below the length by construction; the mask lets the compiler drop nothing, but is cheap.
        self.base + index(va)
    }

    /// Tag of the page of the access's last byte: an access that leaves the page of its first byte cannot match.
    #[inline(always)]
    fn tag(&self, va: u64, bytes: u64) -> u64 {
        page(va.wrapping_add(bytes - 1)) | self.asid << ASID_SHIFT
    }

    /// Where RAM lies in this process. Before anything is installed.
    pub fn set_origin(&mut self, host: u64) {
        self.origin = host;
        self.flush_all();
    }

    /// Address of the current bank's entries, for emitted code.
    pub fn bank_address(&self) -> u64 {
        self.entries.as_ptr().wrapping_add(self.base) as u64
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
        self.base = bank as usize * ENTRIES;
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
        let slot = self.slot(va);
        self.entries[slot].exec == self.tag(va, 1) && self.notes[slot].global
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
        for (i, e) in self.entries.iter_mut().enumerate() {
            *e = empty(i);
        }
        self.numbers.fill(0);
        self.next_asid = 1;
        for set in [&mut self.large, &mut self.huge, &mut self.large_code, &mut self.huge_code, &mut self.fetched] {
            set.clear();
        }
        self.asid = self.fresh();
        self.generation += 1;
        self.global_generation += 1;
        self.shrinks += 1;
    }

    /// Forget the page of `va` in every address space and bank, global or not (INVLPG may do more than asked).
    pub fn flush_page(&mut self, va: u64) {
        self.shrinks += 1;
        let i = index(va);
        for bank in 0..BANKS {
            let e = &mut self.entries[bank * ENTRIES + i];
            if [e.read, e.write, e.exec].iter().any(|t| t & TAG_PAGE == page(va)) {
                *e = empty(i);
            }
        }
        for size in [PageSize::Large, PageSize::Huge] {
            if self.was_cut(va, size) {
                self.flush_region(va, size);
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

    /// Forget every page cut from the large mapping around `va`.
    fn flush_region(&mut self, va: u64, size: PageSize) {
        for (i, (e, note)) in self.entries.iter_mut().zip(self.notes.iter()).enumerate() {
            if note.size == size as u8
                && [e.read, e.write, e.exec]
                    .iter()
                    .any(|t| (t & TAG_PAGE) >> (size.shift() - 12) == page(va) >> (size.shift() - 12))
            {
                *e = empty(i);
            }
        }
    }

    /// Drop every write tag: what a safepoint does after a harvest.
    pub fn drop_write_tags(&mut self) {
        self.shrinks += 1;
        for (i, e) in self.entries.iter_mut().enumerate() {
            e.write = invalid(i);
        }
    }

    /// Drop the write tags of the page at RAM offset `at`, because code was translated from it.
    pub fn protect(&mut self, at: u64) {
        self.shrinks += 1;
        for (i, e) in self.entries.iter_mut().enumerate() {
            let host = self.origin.wrapping_add(at & !PAGE_MASK);
            if e.write != invalid(i) && (e.write << 12).wrapping_add(e.addend) == host {
                e.write = invalid(i);
            }
        }
    }

    fn was_cut(&self, va: u64, size: PageSize) -> bool {
        let set = if size == PageSize::Huge { &self.huge } else { &self.large };
        set.has(va >> size.shift())
    }

    /// A global page, or one that the other supervisor bank knows, need not be walked again: tries to make the page of `va`
    /// hit in the current bank and space, and answers whether anything changed.
    pub fn recall(&mut self, va: u64) -> bool {
        let slot = self.slot(va);
        let page = page(va);
        let live = |e: &Entry| [e.read, e.write, e.exec].iter().any(|t| t & TAG_PAGE == page);
        let (mut e, mut note) = (self.entries[slot], self.notes[slot]);
        if !(live(&e) && note.global && !self.is_current(&e)) {
            let Some(sibling) = self.bank.sibling() else { return false };
            let other = sibling as usize * ENTRIES + index(va);
            (e, note) = (self.entries[other], self.notes[other]);
            if !live(&e) || note.user || !(note.global || self.is_current(&e)) {
                return false;
            }
            if live(&self.entries[slot]) && self.is_current(&self.entries[slot]) && self.same_tags(slot, &e) {
                return false;
            }
        }
        let retag = |t: u64| if t & TAG_PAGE == page { page | self.asid << ASID_SHIFT } else { t };
        self.entries[slot] =
            Entry { read: retag(e.read), write: retag(e.write), exec: retag(e.exec), addend: e.addend };
        self.notes[slot] = note;
        true
    }

    fn same_tags(&self, slot: usize, e: &Entry) -> bool {
        let s = &self.entries[slot];
        let valid = |t: u64, u: u64| (t ^ u) & TAG_PAGE == 0;
        valid(s.read, e.read) && valid(s.write, e.write) && valid(s.exec, e.exec)
    }

    fn is_current(&self, e: &Entry) -> bool {
        [e.read, e.write, e.exec].iter().any(|t| t >> ASID_SHIFT == self.asid)
    }

    /// Install a page in the current bank and address space. Rights that the page already had there stay.
    pub fn fill(&mut self, f: &Fill) {
        // Also where nothing is installed a fetch may be remembered.
        if f.exec {
            self.fetched.add(page(f.va));
        }
        let region = f.va >> f.size.shift();
        let (cut, code) = match f.size {
            PageSize::Small => (None, None),
            PageSize::Large => (Some(&mut self.large), Some(&mut self.large_code)),
            PageSize::Huge => (Some(&mut self.huge), Some(&mut self.huge_code)),
        };
        for set in cut.into_iter().chain(code.filter(|_| f.exec)) {
            set.add(region);
        }
        if self.bank == Bank::Checked {
            return;
        }
        let slot = self.slot(f.va);
        let tag = self.tag(f.va, 1);
        let page = f.va & !PAGE_MASK;
        let addend = (f.offset & !PAGE_MASK).wrapping_add(self.origin).wrapping_sub(page);
        let none = invalid(slot);
        let old = self.entries[slot];
        let moved = old.addend != addend && [old.read, old.write].contains(&tag);
        self.shrinks += u64::from(moved);
        let keep = |t: u64| old.addend == addend && t == tag;
        self.entries[slot] = Entry {
            read: if f.read || keep(old.read) { tag } else { none },
            write: if f.write || keep(old.write) { tag } else { none },
            exec: if f.exec || keep(old.exec) { tag } else { none },
            addend,
        };
        self.notes[slot] = Note { global: f.global, user: f.user, size: f.size as u8 };
    }
}

#[cfg(test)]
#[path = "tlb_tests.rs"]
mod tests;
