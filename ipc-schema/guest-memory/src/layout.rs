//! The memory map of a VM as data: which guest-physical ranges are backed, by what, and where in the RAM file.

use crate::{Error, PAGE_SIZE, Result};

/// Where the PCI hole of a PC starts: RAM beyond this continues at [`PC_HOLE_END`].
pub const PC_HOLE_START: u64 = 3 << 30;
/// Where the PCI hole of a PC ends.
pub const PC_HOLE_END: u64 = 4 << 30;

/// What backs a range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read and written at host speed.
    Ram,
    /// Read at host speed; guest writes are dropped.
    Rom,
    /// Memory of a device, such as a VFIO BAR: mapped, never code, not saved with RAM.
    DeviceMemory,
    /// Storage keys (s390x), one byte per page, in a memfd of their own.
    StorageKeys,
}

/// One backed range. All fields are bytes and multiples of 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical start.
    pub base: u64,
    /// Length, not zero.
    pub len: u64,
    /// Offset of `base` in the memfd of this kind (RAM and ROM: the `ram` memfd).
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
}

impl Region {
    /// One past the last guest-physical address.
    pub fn end(&self) -> u64 {
        self.base + self.len
    }
}

/// A VM's regions, in ascending order and without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    regions: Vec<Region>,
}

impl Layout {
    /// Checks and sorts a list of regions.
    ///
    /// # Errors
    /// [`Error::BadLayout`] for a region that is empty, unaligned, beyond 2^52, or overlaps another.
    pub fn new(mut regions: Vec<Region>) -> Result<Self> {
        regions.sort_by_key(|r| r.base);
        let mut end = 0;
        for (index, r) in regions.iter().enumerate() {
            let bad = |problem| Err(Error::BadLayout { index, base: r.base, len: r.len, problem });
            if r.len == 0 {
                return bad("is empty");
            }
            if [r.base, r.len, r.offset].iter().any(|v| !v.is_multiple_of(PAGE_SIZE)) {
                return bad("is not made of whole 4096-byte pages");
            }
            let tops = [r.base.checked_add(r.len), r.offset.checked_add(r.len)];
            if tops.iter().any(|top| top.is_none_or(|t| t > 1 << 52)) {
                return bad("reaches beyond 2^52");
            }
            if r.base < end {
                return bad("overlaps the region below it");
            }
            end = r.end();
        }
        Ok(Self { regions })
    }

    /// A PC with `memory` bytes of RAM: below 3 GiB, and the rest from 4 GiB on, with file offset = address.
    ///
    /// # Errors
    /// [`Error::BadLayout`] if `memory` is zero, no multiple of 4096, or too large.
    pub fn pc(memory: u64) -> Result<Self> {
        let low = memory.min(PC_HOLE_START);
        let mut regions = vec![Region { base: 0, len: low, offset: 0, kind: Kind::Ram }];
        if memory > low {
            regions.push(Region { base: PC_HOLE_END, len: memory - low, offset: PC_HOLE_END, kind: Kind::Ram });
        }
        Self::new(regions)
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds `address`.
    #[inline]
    pub fn lookup(&self, address: u64) -> Option<&Region> {
        let after = self.regions.partition_point(|r| r.base <= address);
        self.regions[..after].last().filter(|r| address < r.end())
    }

    /// The file offset and kind of `address..address+len`, which must lie in one region.
    #[inline]
    pub fn translate(&self, address: u64, len: u64) -> Option<(u64, Kind)> {
        let r = self.lookup(address)?;
        let inside = address - r.base;
        (len <= r.len - inside).then_some((r.offset + inside, r.kind))
    }

    /// The length that the `ram` memfd must have: the highest RAM or ROM offset.
    pub fn ram_file_len(&self) -> u64 {
        let ram = self.regions.iter().filter(|r| matches!(r.kind, Kind::Ram | Kind::Rom));
        ram.map(|r| r.offset + r.len).max().unwrap_or(0)
    }

    /// Bytes of RAM, holes and ROM not counted.
    pub fn ram_bytes(&self) -> u64 {
        self.regions.iter().filter(|r| r.kind == Kind::Ram).map(|r| r.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pc_has_its_hole() {
        let small = Layout::pc(512 << 20).unwrap();
        assert_eq!(small.regions().len(), 1);
        assert_eq!(small.ram_file_len(), 512 << 20);
        let large = Layout::pc(5 << 30).unwrap();
        assert_eq!(large.ram_file_len(), 6 << 30);
        assert_eq!(large.ram_bytes(), 5 << 30);
        assert_eq!(large.lookup(PC_HOLE_START), None);
        assert_eq!(large.lookup(PC_HOLE_END - 1), None);
        assert_eq!(large.translate(PC_HOLE_END + 5, 8), Some((PC_HOLE_END + 5, Kind::Ram)));
        assert_eq!(large.translate(PC_HOLE_START - 4, 8), None, "straddles the end of a region");
        assert_eq!(large.translate(PC_HOLE_START - 8, 8), Some((PC_HOLE_START - 8, Kind::Ram)));
        assert_eq!(large.translate(6 << 30, 1), None);
        assert_eq!(large.translate(0, u64::MAX), None);
    }

    #[test]
    fn bad_maps_name_the_region() {
        let region = |base, len| Region { base, len, offset: base, kind: Kind::Ram };
        for (list, index) in [
            (vec![region(0, 0)], 0),
            (vec![region(0, 4097)], 0),
            (vec![region(4096, 4096), region(0, 8192)], 1),
            (vec![region(0, 4096), region(u64::MAX - 4095, 4096)], 1),
        ] {
            match Layout::new(list.clone()) {
                Err(Error::BadLayout { index: i, .. }) => assert_eq!(i, index, "{list:?}"),
                other => panic!("{list:?}: {other:?}"),
            }
        }
        assert!(Layout::pc(0).is_err());
        assert!(Layout::pc(!4095).is_err());
    }
}
