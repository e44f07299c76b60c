//! Single accesses that miss the TLB: the walk, devices, pages with code, and accesses that straddle pages.
//!
//! The rule of [`ir::Env`]: an access either happens whole or stops before anything has changed. An access across two pages
//! therefore locates both of them first.

use std::sync::atomic::{Ordering, fence};

use ir::{Stop, Then};
use mem::{Fill, PAGE, PAGE_MASK, PageSize, Place, Run};

use super::{Miss, Right};
use crate::bus::{Attrs, Bus, Order};
use crate::cpu::Cpu;
use crate::exception::{self, Exception};

/// Where the bytes of an access are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// RAM at this offset.
    Ram(u64),
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
            Err(code) => {
                self.misses.count(Miss::Faulted);
                return self.fault(Exception::page(va, code));
            }
        };
        let (at, target) = match self.mem.place(w.gpa) {
            Place::Ram(at) => (at, Target::Ram(at)),
            Place::Rom(at) => (at, Target::Rom(at)),
            Place::Outside => {
                self.misses.count(Miss::Device);
                return Ok(Target::Device(w.gpa));
            }
        };
        self.misses.count(Miss::Walked);
        self.mem.chunks.used(at);
        let writable = matches!(target, Target::Ram(_)) && right == Right::Write;
        self.tlb.fill(&Fill {
            va,
            offset: at,
            read: w.read,
            dirty: writable,
            exec: w.exec,
            global: w.global,
            user: w.user,
            size: w.size,
            whole: w.size != PageSize::Small && self.mem.is_whole(w.gpa),
        });
        match right {
            Right::Write if !writable => {}
            // What is stored to is often loaded from.
            Right::Write if w.read => {
                self.tlb.install(va, at, Right::Read);
                self.install_write(va, at);
            }
            Right::Write => self.install_write(va, at),
            _ => self.tlb.install(va, at, right),
        }
        Ok(target)
    }

    /// The page at RAM offset `at` is to be written: it is marked dirty before its write tag exists, and has none if it holds code.
    fn install_write(&mut self, va: u64, at: u64) {
        self.mem.code.note_writer(at, self.number);
        if !self.mem.before_write(at) {
            self.tlb.install(va, at, Right::Write);
        }
    }

    /// Without a walk: where the byte at `va` is, if the TLB's second level knows. The page then hits, unless it holds code and is
    /// to be written.
    fn recall(&mut self, va: u64, right: Right) -> Option<u64> {
        let at = self.tlb.recall(va, right)?;
        self.misses.count(Miss::Recalled);
        self.mem.chunks.used(at);
        match right {
            Right::Write => self.install_write(va, at),
            _ => self.tlb.install(va, at, right),
        }
        Some(at)
    }

    /// See [`emit_x64::Host::refill`].
    pub(crate) fn refill(&mut self, va: u64, write: bool) -> Option<u64> {
        let at = self.recall(va, if write { Right::Write } else { Right::Read })?;
        // A page with code has no tag: its stores are the interpreter's.
        (!write || self.tlb.write(va, 1).is_some()).then(|| self.tlb.addend(va, at))
    }

    /// See [`emit_x64::Host::run_around`].
    pub(crate) fn run_around(&mut self, va: u64, write: bool) -> Option<Run> {
        let addend = self.refill(va, write)?;
        let Cpu { tlb, mirror, .. } = self;
        let run = mirror.as_mut().and_then(|m| m.run(va, write, tlb.shrinks(), |va| tlb.peek(va, write)));
        Some(run.unwrap_or(Run { start: va & !PAGE_MASK, len: PAGE, addend }))
    }

    /// As [`Cpu::locate`], but first whatever the TLB may know.
    pub(crate) fn find(&mut self, va: u64, right: Right) -> Result<Target, Stop> {
        let hit = match right {
            Right::Read => self.tlb.read(va, 1),
            Right::Write => self.tlb.write(va, 1),
            Right::Exec => self.tlb.exec(va),
        };
        match hit.or_else(|| self.recall(va, right)) {
            Some(at) => Ok(Target::Ram(at)),
            None => self.locate(va, right),
        }
    }

    fn attrs(&self) -> Attrs {
        Attrs { user: self.sys.cpl == 3 }
    }

    fn read_target(&mut self, t: Target, bytes: u64) -> Result<u64, Stop> {
        match t {
            Target::Ram(at) | Target::Rom(at) => Ok(self.ram_read(at, bytes)),
            Target::Device(gpa) if self.devices => {
                let attrs = self.attrs();
                let value = self.bus.mmio_read(gpa, bytes as u8, attrs);
                self.safepoint();
                self.take_orders();
                value
            }
            Target::Device(_) => Ok(u64::MAX >> (64 - 8 * bytes)),
        }
    }

    fn write_target(&mut self, t: Target, bytes: u64, value: u64) -> Result<Then, Stop> {
        match t {
            Target::Ram(at) => {
                self.ram_write(at, bytes, value);
                Ok(self.stored(at, bytes))
            }
            Target::Device(gpa) if self.devices => {
                let attrs = self.attrs();
                let then = self.bus.mmio_write(gpa, bytes as u8, value, attrs);
                self.safepoint();
                self.take_orders();
                Ok(self.note_look(then?))
            }
            Target::Rom(_) | Target::Device(_) => Ok(Then::Continue),
        }
    }

    /// See [`Bus::safepoint`]. What was located before must not be written without being marked again.
    #[inline]
    pub fn safepoint(&mut self) {
        let tlb = &mut self.tlb;
        self.bus.safepoint(&mut || tlb.drop_write_tags());
    }

    /// The bus may have asked for the run loop.
    pub(crate) fn note_look(&mut self, then: Then) -> Then {
        self.look |= then == Then::FinishInstruction;
        then
    }

    /// `bytes` at RAM offset `at`, within a page, have been stored without a write tag. If blocks were made from them, other vCPUs
    /// drop theirs now, and this one leaves its block. Nothing that was known of the page before the store counts: it may have
    /// become code since.
    pub(crate) fn stored(&mut self, at: u64, bytes: u64) -> Then {
        fence(Ordering::SeqCst);
        if !self.mem.marks.is_code(at) {
            return Then::Continue;
        }
        let owners = self.mem.code.hit(&self.mem.marks, at, bytes, self.number);
        let me = 1 << self.number;
        if owners & !me != 0 {
            self.order(owners & !me, Order::Invalidate(at, bytes));
        }
        if owners & me != 0 {
            self.stale.push((at, bytes));
        }
        if self.has_stale() { Then::FinishInstruction } else { Then::Continue }
    }

    /// A page-table entry was written by a walk.
    pub(crate) fn entry_written(&mut self, gpa: u64, bytes: u64) {
        if let Place::Ram(at) = self.mem.place(gpa) {
            // The block that is running now is left at its next exit; walks set accessed bits, which are not code.
            let _ = self.stored(at, bytes);
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

    pub(crate) fn ram_write(&self, at: u64, bytes: u64, value: u64) {
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
            if i == first
                && let (Target::Device(_), Target::Ram(at)) = (a, b)
            {
                // Memory may have been harvested since the page was located: the device may have taken its time.
                self.mem.before_write(at);
            }
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
        Target::Ram(at) => Target::Ram(at + n),
        Target::Rom(at) => Target::Rom(at + n),
        Target::Device(gpa) => Target::Device(gpa + n),
    }
}
