//! Single accesses that miss the TLB: the walk, devices, pages with code, and accesses that straddle pages.
//!
//! The rule of [`ir::Env`]: an access either happens whole or stops before anything has changed. An access across two pages
//! therefore locates both of them first.

use ir::{Stop, Then};
use mem::{Fill, PAGE, PAGE_MASK, Place};

use super::Right;
use crate::bus::{Attrs, Bus};
use crate::cpu::Cpu;
use crate::exception::{self, Exception};

/// Where the bytes of an access are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// RAM at this offset; whether its page has translated code (looked at for writes only).
    Ram { at: u64, code: bool },
    /// Readable only.
    Rom(u64),
    /// A device at this guest-physical address.
    Device(u64),
}

impl<B: Bus> Cpu<B> {
    /// Note an exception and stop.
    #[cold]
    pub(crate) fn fault<T>(&mut self, e: Exception) -> Result<T, Stop> {
        self.pending = Some(e);
        Err(Stop::Fault)
    }

    /// #GP with an error code.
    #[cold]
    pub(crate) fn gp<T>(&mut self, code: u32) -> Result<T, Stop> {
        self.fault(Exception::with_code(exception::GP, code))
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud<T>(&mut self) -> Result<T, Stop> {
        self.fault(Exception::fault(exception::UD))
    }

    /// Whether `va` is canonical (outside long mode every 32-bit address is).
    #[inline(always)]
    pub(crate) fn canonical(va: u64) -> bool {
        ((va << 16) as i64 >> 16) as u64 == va
    }

    /// The linear address behind `va` by `n` bytes: outside long mode addresses wrap at 4 GiB.
    #[inline]
    fn behind(&self, va: u64, n: u64) -> u64 {
        let next = va.wrapping_add(n);
        if self.sys.long_mode() { next } else { next & 0xffff_ffff }
    }

    /// Translate for the current bank, install, and say where the byte at `va` is. A page that is to be written is marked
    /// dirty before its write tag can exist.
    pub(crate) fn locate(&mut self, va: u64, right: Right) -> Result<Target, Stop> {
        let w = match self.walk(va, right, self.tlb.bank()) {
            Ok(w) => w,
            Err(code) => return self.fault(Exception::page(va, code)),
        };
        let fill = |offset, write| Fill {
            va,
            offset,
            read: w.read,
            write,
            exec: w.exec,
            global: w.global,
            user: w.user,
            size: w.size,
        };
        match self.mem.place(w.gpa) {
            Place::Ram(at) => {
                let code = right == Right::Write && self.mem.before_write(at);
                self.tlb.fill(&fill(at, right == Right::Write && !code));
                Ok(Target::Ram { at, code })
            }
            Place::Rom(at) => {
                self.tlb.fill(&fill(at, false));
                Ok(Target::Rom(at))
            }
            Place::Outside => Ok(Target::Device(w.gpa)),
        }
    }

    /// As [`Cpu::locate`], but first whatever the TLB may know.
    pub(crate) fn find(&mut self, va: u64, right: Right) -> Result<Target, Stop> {
        let hit = |t: &mem::Tlb| match right {
            Right::Read => t.read(va, 1),
            Right::Write => t.write(va, 1),
            Right::Exec => t.exec(va),
        };
        if let Some(at) = hit(&self.tlb) {
            return Ok(Target::Ram { at, code: false });
        }
        if self.tlb.recall(va)
            && let Some(at) = hit(&self.tlb)
        {
            return Ok(Target::Ram { at, code: false });
        }
        self.locate(va, right)
    }

    fn attrs(&self) -> Attrs {
        Attrs { user: self.sys.cpl == 3 }
    }

    fn read_target(&mut self, t: Target, bytes: u64) -> Result<u64, Stop> {
        match t {
            Target::Ram { at, .. } | Target::Rom(at) => Ok(self.ram_read(at, bytes)),
            Target::Device(gpa) if self.devices => {
                let attrs = self.attrs();
                self.bus.mmio_read(gpa, bytes as u8, attrs)
            }
            Target::Device(_) => Ok(u64::MAX >> (64 - 8 * bytes)),
        }
    }

    fn write_target(&mut self, t: Target, bytes: u64, value: u64) -> Result<Then, Stop> {
        match t {
            Target::Ram { at, code } => {
                self.ram_write(at, bytes, value);
                Ok(if code { self.code_store(at, bytes) } else { Then::Continue })
            }
            Target::Device(gpa) if self.devices => {
                let attrs = self.attrs();
                let then = self.bus.mmio_write(gpa, bytes as u8, value, attrs)?;
                Ok(self.note_look(then))
            }
            Target::Rom(_) | Target::Device(_) => Ok(Then::Continue),
        }
    }

    /// The bus may have asked for the run loop.
    pub(crate) fn note_look(&mut self, then: Then) -> Then {
        self.look |= then == Then::FinishInstruction;
        then
    }

    /// A store has hit a page that is marked as code: other vCPUs are told, and the block of this vCPU is left if one of its
    /// own blocks may have changed.
    pub(crate) fn code_store(&mut self, at: u64, bytes: u64) -> Then {
        self.bus.code_written(at, bytes);
        if self.lines.hit(at, bytes) {
            self.stale.push((at, bytes));
            Then::FinishInstruction
        } else {
            if !self.lines.has_page(at) {
                // The mark is left over from blocks that are gone, or another vCPU's: only that vCPU can clear it.
                self.unmark(at);
            }
            Then::Continue
        }
    }

    /// A page-table entry was written by a walk.
    pub(crate) fn entry_written(&mut self, gpa: u64, bytes: u64) {
        if let Place::Ram(at) = self.mem.place(gpa)
            && self.mem.marks.is_code(at)
        {
            // The block that is running now is left at its next exit; walks set accessed bits, which are not code.
            let _ = self.code_store(at, bytes);
        }
    }

    fn ram_read(&self, at: u64, bytes: u64) -> u64 {
        let ram = &self.mem.ram;
        match bytes {
            1 => ram.load_u8(at).map(u64::from),
            2 => ram.load_u16(at).map(u64::from),
            4 => ram.load_u32(at).map(u64::from),
            _ => ram.load_u64(at),
        }
        // `Memory::place` answers only offsets of pages that the mapping holds.
        .unwrap_or(u64::MAX)
    }

    fn ram_write(&self, at: u64, bytes: u64, value: u64) {
        let ram = &self.mem.ram;
        let done = match bytes {
            1 => ram.store_u8(at, value as u8),
            2 => ram.store_u16(at, value as u16),
            4 => ram.store_u32(at, value as u32),
            _ => ram.store_u64(at, value),
        };
        debug_assert!(done.is_some(), "{at:#x} lies outside RAM");
    }

    /// Bytes of an access at `va` that lie on its first page.
    fn on_first_page(va: u64, bytes: u64) -> u64 {
        (PAGE - (va & PAGE_MASK)).min(bytes)
    }

    /// Read 1, 2, 4 or 8 bytes at a checked linear address. `right` is `Write` if the place must be writable.
    pub(crate) fn read_linear(&mut self, va: u64, bytes: u64, right: Right) -> Result<u64, Stop> {
        let first = Self::on_first_page(va, bytes);
        let a = self.find(va, right)?;
        if first == bytes {
            return self.read_target(a, bytes);
        }
        let next = self.behind(va, first);
        let b = self.find(next, right)?;
        let mut v = 0;
        for i in 0..bytes {
            let (t, n) = if i < first { (a, i) } else { (b, i - first) };
            v |= self.read_target(advance(t, n), 1)? << (8 * i);
        }
        Ok(v)
    }

    /// Write 1, 2, 4 or 8 bytes at a checked linear address.
    pub(crate) fn write_linear(&mut self, va: u64, bytes: u64, value: u64) -> Result<Then, Stop> {
        let first = Self::on_first_page(va, bytes);
        let a = self.find(va, Right::Write)?;
        if first == bytes {
            return self.write_target(a, bytes, value);
        }
        let next = self.behind(va, first);
        let b = self.find(next, Right::Write)?;
        let mut then = Then::Continue;
        for i in 0..bytes {
            let (t, n) = if i < first { (a, i) } else { (b, i - first) };
            if self.write_target(advance(t, n), 1, value >> (8 * i))? == Then::FinishInstruction {
                then = Then::FinishInstruction;
            }
        }
        Ok(then)
    }

    /// Check that all of `bytes` (at most a page) at `va` can be accessed.
    pub(crate) fn probe(&mut self, va: u64, bytes: u64, right: Right) -> Result<(), Stop> {
        let first = Self::on_first_page(va, bytes);
        self.find(va, right)?;
        if first < bytes {
            let next = self.behind(va, first);
            self.find(next, right)?;
        }
        Ok(())
    }
}

/// The target `n` bytes further on the same page.
fn advance(t: Target, n: u64) -> Target {
    match t {
        Target::Ram { at, code } => Target::Ram { at: at + n, code },
        Target::Rom(at) => Target::Rom(at + n),
        Target::Device(gpa) => Target::Device(gpa + n),
    }
}
