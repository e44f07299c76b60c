//! One device's area of the `windows` memfd, mapped: what its device and the engine both hold.
#![expect(unsafe_code, reason = "says which structs may lie in shared memory")]

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use guest_memory::{Access as MapAccess, Shared, SharedMap, futex};

use crate::flip::Flip;
use crate::formula::Formula;
use crate::layout::*;
use crate::slot::Slot;
use crate::{Error, Result, may_die_here};

/// Bit of a shadow cell: reading this register would do something, so ask the device.
const ASK: u64 = 1 << 63;
/// Bit of a function-table entry: the function exists.
const PRESENT: u32 = 1 << 31;

/// The control page. Each group is a cache line with one usual writer.
#[repr(C, align(64))]
pub(crate) struct Control {
    /// Engine: a bit per vCPU whose slot holds a request. A hint: a successor looks at every slot.
    pub(crate) pending: AtomicU64,
    /// Engine: posted writes so far; entry n of the ring is `n % 256`.
    pub(crate) tail: AtomicU64,
    /// Engine: not 0 while somebody may wait for room in the ring.
    pub(crate) room_waiters: AtomicU32,
    /// Engine: the latch of 0xCF8 (board only).
    pub(crate) index_latch: AtomicU32,
    _line0: [AtomicU64; 4],
    /// Device: posted writes whose effects are committed and whose shadows are published.
    pub(crate) consumed: AtomicU64,
    /// Device: counts wake-ups of those who wait for room: the futex.
    pub(crate) room: AtomicU32,
    _line1: [AtomicU32; 13],
    /// Device sets it before it sleeps, engine clears it when it rings.
    pub(crate) asleep: AtomicU32,
    _line2: [AtomicU32; 15],
    /// Device: level of each of its interrupt lines.
    levels: [AtomicU32; LEVELS],
    _line3: [AtomicU32; 12],
    /// Board: which PCI function each extra shadow page belongs to.
    functions: [AtomicU32; MAX_FUNCTIONS],
}

// SAFETY: atomics only.
unsafe impl Shared for Control {}

/// An entry of the posted-write ring.
#[repr(C)]
pub(crate) struct PostedEntry {
    pub(crate) what: AtomicU64,
    pub(crate) address: AtomicU64,
    pub(crate) value: AtomicU64,
    _reserved: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Shared for PostedEntry {}

const _: () = assert!(size_of::<PostedEntry>() as u64 == POSTED_LEN && size_of::<Control>() <= 4096);
const _: () = assert!(size_of::<Flip<6>>() as u64 <= FORMULA_LEN);

/// The mapped area of one device.
#[derive(Debug)]
pub struct DeviceArea {
    map: SharedMap,
    device: u16,
}

impl DeviceArea {
    /// Maps the area of `device` for reading and writing.
    ///
    /// # Errors
    /// A device number of 64 or more, or a descriptor that cannot be mapped.
    pub fn map(fd: BorrowedFd<'_>, device: u16) -> Result<Self> {
        if device >= MAX_DEVICES {
            return Err(Error::NoSuch { what: "device area", number: device.into(), limit: MAX_DEVICES.into() });
        }
        let map = SharedMap::map(fd, area_offset(device), AREA_LEN, MapAccess::ReadWrite, "windows")?;
        Ok(Self { map, device })
    }

    /// The area's number.
    pub fn device(&self) -> u16 {
        self.device
    }

    pub(crate) fn shared(&self) -> &SharedMap {
        &self.map
    }

    /// A field of the layout. The map holds the whole area, so a constant offset is always inside.
    pub(crate) fn at<T: Shared>(&self, off: u64) -> &T {
        self.map.typed(off).unwrap_or_else(|| unreachable!("field at {off:#x} of a device area"))
    }

    pub(crate) fn control(&self) -> &Control {
        self.at(CONTROL)
    }

    /// The slot of `vcpu`, which the caller has checked to be below 64.
    pub(crate) fn slot(&self, vcpu: usize) -> &Slot {
        self.at(SLOTS + (vcpu % MAX_VCPUS) as u64 * SLOT_LEN)
    }

    pub(crate) fn posted(&self, n: u64) -> &PostedEntry {
        self.at(POSTED + n % POSTED_ENTRIES * POSTED_LEN)
    }

    fn cell(&self, cell: u16) -> Option<&AtomicU64> {
        (cell < SHADOW_CELLS).then(|| self.at(SHADOWS + u64::from(cell) * 8))
    }

    /// Device: publishes the value (63 bits) of shadow register `cell`. With `ask`, the engine asks the device all the
    /// same, because reading the register now has an effect.
    pub fn set_shadow(&self, cell: u16, value: u64, ask: bool) {
        if let Some(word) = self.cell(cell) {
            word.store(value & !ASK | if ask { ASK } else { 0 }, Release);
            may_die_here();
        }
    }

    /// The value of shadow register `cell`, unless the device must be asked.
    #[inline]
    pub fn shadow(&self, cell: u16) -> Option<u64> {
        let word = self.cell(cell)?.load(Acquire);
        (word & ASK == 0).then_some(word)
    }

    /// Device: sets the level of its interrupt line `index` (below 4); answers the previous level.
    pub fn set_level(&self, index: usize, high: bool) -> bool {
        self.control().levels.get(index).is_some_and(|w| w.swap(high.into(), SeqCst) != 0)
    }

    /// The level of the device's interrupt line `index`.
    pub fn level(&self, index: usize) -> bool {
        self.control().levels.get(index).is_some_and(|w| w.load(Acquire) != 0)
    }

    /// Maps, read-only, the page of `device`'s area that holds its line levels: what the board holds of other devices.
    ///
    /// # Errors
    /// As [`DeviceArea::map`].
    pub fn map_levels(fd: BorrowedFd<'_>, device: u16) -> Result<LineLevels> {
        if device >= MAX_DEVICES {
            return Err(Error::NoSuch { what: "device area", number: device.into(), limit: MAX_DEVICES.into() });
        }
        let map = SharedMap::map(fd, area_offset(device) + CONTROL, 4096, MapAccess::ReadOnly, "windows")?;
        Ok(LineLevels { map })
    }

    /// Device: writes row `row` (below 32) of the formula table; `None` removes it, and the engine then asks.
    pub fn set_formula(&self, row: u16, formula: Option<&Formula>) {
        if row < FORMULA_ROWS {
            let cell: &Flip<6> = self.at(FORMULAS + u64::from(row) * FORMULA_LEN);
            match formula {
                Some(f) => f.store(cell),
                None => cell.write(&[0; 6]),
            }
        }
    }

    /// Row `row` of the formula table, if it holds one.
    pub fn formula(&self, row: u16) -> Option<Formula> {
        if row >= FORMULA_ROWS {
            return None;
        }
        Formula::load(self.at(FORMULAS + u64::from(row) * FORMULA_LEN))
    }

    /// Board: entry `index` (below 42) of the function table is PCI function `bdf` (bus << 8 | device << 3 | function),
    /// whose configuration space is on shadow page `index + 1`; `None` removes it. Write the page first.
    pub fn set_function(&self, index: usize, bdf: Option<u16>) {
        if let Some(word) = self.control().functions.get(index) {
            word.store(bdf.map_or(0, |b| PRESENT | u32::from(b)), Release);
        }
    }

    /// The shadow page of PCI function `bdf`, if it exists.
    pub fn function_page(&self, bdf: u16) -> Option<u16> {
        let wanted = PRESENT | u32::from(bdf);
        let index = self.control().functions.iter().position(|w| w.load(Acquire) == wanted)?;
        Some(index as u16 + 1)
    }

    /// Board: writes `bytes` to shadow page `page` at `offset`; `false` (and nothing written) if outside the page. Every
    /// whole 4 bytes change in one store.
    pub fn write_shadow_page(&self, page: u16, offset: u64, bytes: &[u8]) -> bool {
        if page >= SHADOW_PAGES || offset.saturating_add(bytes.len() as u64) > 4096 {
            return false;
        }
        let at = shadow_page_offset(page) + offset;
        let (words, rest) = (bytes.chunks_exact(4), bytes.len() / 4 * 4);
        for (n, word) in words.enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if self.map.store(at + 4 * n as u64, value).is_none() {
                return false;
            }
        }
        self.map.write(at + rest as u64, &bytes[rest..]).is_some()
    }

    /// Reads `width` (1, 2, 4, 8) bytes of shadow page `page` at `offset`; `None` outside.
    pub fn read_shadow_page(&self, page: u16, offset: u64, width: u8) -> Option<u64> {
        if page >= SHADOW_PAGES || offset.checked_add(width.into())? > 4096 {
            return None;
        }
        let at = shadow_page_offset(page) + offset;
        match width {
            1 => self.map.load::<u8>(at).map(u64::from),
            2 => self.map.load::<u16>(at).map(u64::from),
            4 => self.map.load::<u32>(at).map(u64::from),
            8 => self.map.load::<u64>(at),
            _ => None,
        }
    }

    /// Device: says that it is about to sleep. Look for work once more afterwards.
    pub(crate) fn fall_asleep(&self) {
        self.control().asleep.swap(1, SeqCst);
    }

    /// Device: is awake, so nobody needs to ring.
    pub(crate) fn awake(&self) {
        self.control().asleep.store(0, Relaxed);
    }

    /// Engine: whether the device must be rung, after new work was published. Only one of several callers gets `true`.
    pub(crate) fn must_ring(&self) -> bool {
        let asleep = &self.control().asleep;
        asleep.load(SeqCst) != 0 && asleep.swap(0, SeqCst) != 0
    }

    /// Device: wakes those who wait for room in the posted ring.
    pub(crate) fn made_room(&self, always: bool) {
        let control = self.control();
        if control.room_waiters.swap(0, SeqCst) != 0 || always {
            may_die_here();
            self.wake_room();
        }
    }

    /// Wakes those who wait for room in the posted ring.
    pub(crate) fn wake_room(&self) {
        let room = &self.control().room;
        room.fetch_add(1, SeqCst);
        futex::wake_all(room);
    }
}

/// The line levels of another device, read-only.
#[derive(Debug)]
pub struct LineLevels {
    map: SharedMap,
}

impl LineLevels {
    /// The level of line `index` (below 4) of that device.
    pub fn level(&self, index: usize) -> bool {
        let control: Option<&Control> = self.map.typed_read(0);
        control.and_then(|c| c.levels.get(index)).is_some_and(|w| w.load(Acquire) != 0)
    }
}
