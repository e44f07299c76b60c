//! The guest-physical address space of a machine, and the RAM ranges and e820 map that follow from a memory size.
//!
//! The one idea: the RAM memfd is indexed by guest-physical address, so that RAM, the dirty bitmap and the harvest bitmap
//! share one index; whatever is not RAM is a hole in the file.

use crate::Error;

/// Size of a page of guest memory: the unit of dirty tracking and of every boundary in a [`MemoryMap`].
pub const PAGE: u64 = 4096;
/// Unit of the configured memory size, bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte, bytes.
pub const GIB: u64 = 1 << 30;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Span {
    /// From `start` up to, not including, `end`. An `end` below `start` gives an empty span.
    pub const fn to(start: u64, end: u64) -> Self {
        Self { start, len: end.saturating_sub(start) }
    }

    /// First address behind the span.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether `address` is inside.
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.start && address - self.start < self.len
    }

    /// Whether the two share an address.
    pub const fn overlaps(&self, other: &Span) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Fixed addresses of a machine. All spans are page aligned.
#[derive(Debug)]
pub struct MemoryMap {
    /// RAM fills addresses from 0 to here first; the rest starts at `high_ram_start`.
    pub low_ram_limit: u64,
    /// Where RAM beyond `low_ram_limit` continues.
    pub high_ram_start: u64,
    /// Smallest configurable memory, bytes.
    pub min_ram: u64,
    /// Largest configurable memory, bytes.
    pub max_ram: u64,
    /// Legacy video memory: never RAM, no device; reads as all ones.
    pub video_hole: Span,
    /// End of conventional memory as reported to the guest; from here to 640 KiB lies the extended BIOS data area.
    pub conventional_end: u64,
    /// RAM, reserved in the e820 map, for the ACPI tables: inside the area that a guest searches for the RSDP.
    pub acpi_area: Span,
    /// The firmware ACPI control structure, in `acpi_area`, 64 bytes on a multiple of 64: a guest that suspends to RAM leaves
    /// there where it wants to be woken ([`crate::acpi::FACS_WAKING_VECTOR`]).
    pub facs: u64,
    /// Addresses below 4 GiB that are never RAM.
    pub pci_hole: Span,
    /// PCI Express configuration space: 1 MiB for each bus of the root complex.
    pub ecam: Span,
    /// Windows below 4 GiB from which BARs are assigned.
    pub mmio32: &'static [Span],
    /// Window above RAM from which 64-bit BARs are assigned.
    pub mmio64: Span,
    /// The IOAPIC's registers.
    pub ioapic: Span,
    /// The local APIC's registers at reset. Served by the engine.
    pub lapic: Span,
}

/// What an address range is, as the e820 map tells it (ACPI specification, table "Address Range Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM that the guest may use.
    Usable = 1,
    /// Not for the guest's memory allocator.
    Reserved = 2,
}

/// One entry of the e820 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The addresses.
    pub span: Span,
    /// What they are; `kind as u32` is the number that the boot protocols use.
    pub kind: E820Kind,
}

impl MemoryMap {
    fn check(&self, bytes: u64) -> Result<(), Error> {
        if bytes < self.min_ram || bytes > self.max_ram || !bytes.is_multiple_of(MIB) {
            return Err(Error::MemorySize { bytes, min_mib: self.min_ram / MIB, max_mib: self.max_ram / MIB });
        }
        Ok(())
    }

    fn low_end(&self, bytes: u64) -> u64 {
        bytes.min(self.low_ram_limit)
    }

    /// The guest-physical ranges that are RAM for a memory of `bytes`, ascending. The offset of a byte in the RAM memfd
    /// is its guest-physical address.
    ///
    /// # Errors
    /// [`Error::MemorySize`].
    pub fn ram(&self, bytes: u64) -> Result<Vec<Span>, Error> {
        self.check(bytes)?;
        let low_end = self.low_end(bytes);
        let mut spans = vec![Span::to(0, self.video_hole.start), Span::to(self.video_hole.end(), low_end)];
        if bytes > low_end {
            spans.push(Span { start: self.high_ram_start, len: bytes - low_end });
        }
        Ok(spans)
    }

    /// Length of the (sparse) RAM memfd for a memory of `bytes`: the end of the last range of [`MemoryMap::ram`].
    ///
    /// # Errors
    /// [`Error::MemorySize`].
    pub fn ram_file_len(&self, bytes: u64) -> Result<u64, Error> {
        Ok(self.ram(bytes)?.last().map_or(0, Span::end))
    }

    /// The e820 map for a memory of `bytes`: ascending, no overlaps. What is in no entry is neither RAM nor to be
    /// touched. The ECAM is listed because Linux uses it only if something reserves it.
    ///
    /// # Errors
    /// [`Error::MemorySize`].
    pub fn e820(&self, bytes: u64) -> Result<Vec<E820Entry>, Error> {
        self.check(bytes)?;
        let low_end = self.low_end(bytes);
        let usable = |span| E820Entry { span, kind: E820Kind::Usable };
        let reserved = |span| E820Entry { span, kind: E820Kind::Reserved };
        let mut map = vec![
            usable(Span::to(0, self.conventional_end)),
            reserved(Span::to(self.conventional_end, self.video_hole.start)),
            reserved(self.acpi_area),
            usable(Span::to(self.acpi_area.end(), low_end)),
            reserved(self.ecam),
        ];
        if bytes > low_end {
            map.push(usable(Span { start: self.high_ram_start, len: bytes - low_end }));
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineVersion;

    fn map() -> &'static MemoryMap {
        &MachineVersion::Q35_0.machine().memory
    }

    #[test]
    fn small_memory_lies_below_the_hole() {
        let spans = map().ram(512 * MIB).unwrap();
        assert_eq!(spans, [Span::to(0, 0xA_0000), Span::to(0xC_0000, 512 * MIB)]);
        assert_eq!(map().ram_file_len(512 * MIB).unwrap(), 512 * MIB);
    }

    #[test]
    fn memory_beyond_three_gibibytes_continues_at_four() {
        let spans = map().ram(5 * GIB).unwrap();
        assert_eq!(spans[1], Span::to(0xC_0000, 3 * GIB));
        assert_eq!(spans[2], Span::to(4 * GIB, 6 * GIB));
        assert_eq!(map().ram_file_len(5 * GIB).unwrap(), 6 * GIB);
        assert_eq!(map().ram(3 * GIB).unwrap().len(), 2, "exactly 3 GiB need no high part");
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for bytes in [0, MIB, 512 * MIB + 1, map().max_ram + MIB, u64::MAX] {
            assert!(matches!(map().ram(bytes), Err(Error::MemorySize { .. })), "{bytes}");
            assert!(matches!(map().e820(bytes), Err(Error::MemorySize { .. })), "{bytes}");
        }
        assert!(map().ram(map().max_ram).is_ok());
        assert!(map().ram(map().min_ram).is_ok());
    }

    #[test]
    fn e820_is_ascending_and_usable_memory_is_ram() {
        for bytes in [map().min_ram, 512 * MIB, 3 * GIB, 3 * GIB + MIB, 100 * GIB, map().max_ram] {
            let entries = map().e820(bytes).unwrap();
            let ram = map().ram(bytes).unwrap();
            for pair in entries.windows(2) {
                assert!(pair[0].span.end() <= pair[1].span.start, "{pair:x?}");
            }
            for entry in entries.iter().filter(|entry| entry.kind == E820Kind::Usable) {
                assert!(
                    ram.iter().any(|span| span.start <= entry.span.start && entry.span.end() <= span.end()),
                    "{entry:x?} is not RAM"
                );
            }
        }
    }

    #[test]
    fn the_acpi_area_is_ram_in_the_search_range_of_the_rsdp() {
        let area = map().acpi_area;
        assert!(area.start >= 0xE_0000 && area.end() <= 0x10_0000);
        assert!(map().ram(map().min_ram).unwrap().iter().any(|s| s.contains(area.start) && s.end() >= area.end()));
    }

    #[test]
    fn fixed_ranges_do_not_overlap() {
        let map = map();
        let mut spans = vec![map.video_hole, map.acpi_area, map.ecam, map.ioapic, map.lapic, map.mmio64];
        spans.extend_from_slice(map.mmio32);
        for (index, span) in spans.iter().enumerate() {
            assert_eq!((span.start % PAGE, span.len % PAGE), (0, 0), "{span:x?}");
            assert!(spans[..index].iter().all(|other| !other.overlaps(span)), "{span:x?}");
        }
        for span in map.mmio32.iter().chain([&map.ecam, &map.ioapic, &map.lapic]) {
            assert!(map.pci_hole.start <= span.start && span.end() <= map.pci_hole.end(), "{span:x?}");
        }
        assert!(
            map.ram(map.max_ram).unwrap().iter().all(|ram| !ram.overlaps(&map.mmio64) && !ram.overlaps(&map.pci_hole))
        );
    }
}
