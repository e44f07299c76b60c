//! Guest-physical memory as the engine sees it: RAM, what lies where, and the dirty and code marks.

use guest_memory::{DirtyLog, Kind, Layout, Ram, Word};

use crate::{Chunks, CodePages, PAGE, PAGE_MASK};

/// What a guest-physical page is. Offsets are bytes in the RAM file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// RAM at this offset.
    Ram(u64),
    /// Readable like RAM; writes are dropped.
    Rom(u64),
    /// A device or nothing: the machine decides.
    Outside,
}

/// RAM with its layout and marks. Shared by all vCPUs of the process; the memory itself by all processes of the VM.
#[derive(Debug)]
pub struct Memory {
    /// The mapped RAM file.
    pub ram: Ram,
    /// What lies at which guest-physical address.
    pub layout: Layout,
    /// Dirty and code marks, indexed like the RAM file.
    pub marks: DirtyLog,
    /// Which pages hold whose code.
    pub code: CodePages,
    /// Which pieces of it the guest uses.
    pub chunks: Chunks,
}

impl Memory {
    /// RAM with its layout and marks.
    pub fn new(ram: Ram, layout: Layout, marks: DirtyLog) -> Self {
        let chunks = Chunks::new(ram.len());
        Memory { ram, layout, marks, code: CodePages::default(), chunks }
    }
}

impl Memory {
    /// What the page of `gpa` is; the offset is that of `gpa` itself.
    #[inline]
    pub fn place(&self, gpa: u64) -> Place {
        // A region that the mapping does not hold (a layout that does not fit the file) must not reach the fast path.
        match self.layout.lookup(gpa) {
            Some(r) => {
                let offset = r.offset + (gpa - r.base);
                match r.kind {
                    _ if offset | PAGE_MASK >= self.ram.len() => Place::Outside,
                    Kind::Ram => Place::Ram(offset),
                    Kind::Rom => Place::Rom(offset),
                    Kind::DeviceMemory | Kind::StorageKeys => Place::Outside,
                }
            }
            None => Place::Outside,
        }
    }

    /// Whether the 2 MiB around `gpa` are RAM in one piece.
    pub fn is_whole(&self, gpa: u64) -> bool {
        const LAST: u64 = (2 << 20) - 1;
        let (first, last) = (self.place(gpa & !LAST), self.place(gpa | LAST));
        // Regions of RAM may lie side by side and be elsewhere in the file, so both ends must be of the same one.
        let region = |gpa| self.layout.lookup(gpa).map(|r| (r.base, r.offset));
        matches!((first, last), (Place::Ram(_), Place::Ram(_))) && region(gpa & !LAST) == region(gpa | LAST)
    }

    /// Reads a naturally aligned word for the CPU itself (a table entry). Outside of RAM and ROM it reads as all ones, as an
    /// empty bus does; it never reaches a device.
    #[inline]
    pub fn read<T: Word + Ones>(&self, gpa: u64) -> T {
        match self.place(gpa) {
            Place::Ram(at) | Place::Rom(at) => self.ram.load(at).unwrap_or(T::ONES),
            Place::Outside => T::ONES,
        }
    }

    /// Replaces a naturally aligned word of RAM, if it still is `old`, marking the page dirty; answers whether it did.
    /// Elsewhere nothing happens and the answer is yes, since nobody could tell.
    #[inline]
    pub fn replace<T: Word>(&self, gpa: u64, old: T, new: T) -> bool {
        match self.place(gpa) {
            Place::Ram(at) => {
                // Marked first and stored then: a harvest between the two finds the store at its next round.
                self.marks.mark(at, size_of::<T>() as u64);
                self.ram.compare_exchange(at, old, new).is_none_or(|was| was == old)
            }
            Place::Rom(_) | Place::Outside => true,
        }
    }

    /// Before a write to the page at RAM offset `at`: marks it dirty, and answers whether it holds translated code.
    #[inline]
    pub fn before_write(&self, at: u64) -> bool {
        self.marks.mark(at & !PAGE_MASK, PAGE);
        self.marks.is_code(at)
    }
}

/// The value that an empty bus gives.
pub trait Ones {
    /// All bits set.
    const ONES: Self;
}

impl Ones for u8 {
    const ONES: Self = u8::MAX;
}
impl Ones for u16 {
    const ONES: Self = u16::MAX;
}
impl Ones for u32 {
    const ONES: Self = u32::MAX;
}
impl Ones for u64 {
    const ONES: Self = u64::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_memory::{Access, DirtyLayout, Memfd, Region};
    use std::os::fd::AsFd;

    fn memory() -> Memory {
        let region = |base, len, kind| Region { base, len, offset: base, kind };
        let layout = Layout::new(vec![
            region(0, 0x8000, Kind::Ram),
            region(0xc000, 0x4000, Kind::Rom),
            // Beyond the file: a layout that does not fit it.
            region(0x10_0000, 0x1000, Kind::Ram),
        ])
        .unwrap();
        let len = 0x10000;
        let ram = Ram::map(Memfd::create("ram", len).unwrap().as_fd(), len, Access::ReadWrite).unwrap();
        let dirty = Memfd::create("dirty", DirtyLayout::new(len).len).unwrap();
        DirtyLog::format(dirty.as_fd(), len).unwrap();
        Memory::new(ram, layout, DirtyLog::map(dirty.as_fd(), len).unwrap())
    }

    #[test]
    fn places_and_table_accesses() {
        let m = memory();
        assert_eq!(m.place(0x7fff), Place::Ram(0x7fff));
        assert_eq!(m.place(0x8000), Place::Outside);
        assert_eq!(m.place(0xc123), Place::Rom(0xc123));
        assert_eq!(m.place(0x10_0000), Place::Outside, "not in the file");
        assert_eq!(m.place(u64::MAX), Place::Outside);
        m.ram.store_u64(0x10, 5).unwrap();
        assert_eq!(m.read::<u64>(0x10), 5);
        assert_eq!(m.read::<u64>(0x9000), u64::MAX);
        assert!(!m.replace(0x10, 4u64, 9) && m.replace(0x10, 5u64, 9));
        assert_eq!(m.read::<u64>(0x10), 9);
        assert!(m.marks.is_marked(0x10));
        m.ram.store_u64(0xc000, 7).unwrap();
        assert!(m.replace(0xc000, 7u64, 8), "the walk goes on");
        assert_eq!(m.read::<u64>(0xc000), 7, "read-only memory keeps its value");
        assert!(!m.marks.is_marked(0xc000));
    }

    #[test]
    fn writes_are_marked_and_code_is_seen() {
        let m = memory();
        assert!(!m.before_write(0x3008));
        assert!(m.marks.is_marked(0x3000) && !m.marks.is_marked(0x4000));
        m.marks.set_code(0x3000);
        assert!(m.before_write(0x3ff8));
    }
}
