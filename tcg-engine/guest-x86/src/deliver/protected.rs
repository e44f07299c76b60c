//! Protected mode outside long mode: 8-byte gates, 16- and 32-bit frames, stack switches through the TSS, and interrupts out of
//! virtual-8086 mode (SDM vol. 3A, 6.12 and 20.3). Task gates are left out: they raise #GP.

use ir::{PC, Regs, Stop};
use mem::Bank;

use super::{ext, gate_code, saved_pc};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception, Source};
use crate::flags;
use crate::memory::within;
use crate::state::{EFLAGS, RSP, Seg, Segment, attr};

impl<B: Bus> Cpu<B> {
    pub(super) fn deliver_protected(&mut self, regs: &mut Regs, e: &Exception) -> Result<(), Stop> {
        let code = gate_code(e);
        let at = u64::from(e.vector) * 8;
        if at + 7 > u64::from(self.sys.idtr.limit) {
            return self.gp(code);
        }
        let raw = self.system_read(self.sys.idtr.base.wrapping_add(at), 8)?;
        let (wide, interrupt) = match raw >> 40 & 0x1f {
            0x6 => (false, true),
            0x7 => (false, false),
            0xe => (true, true),
            0xf => (true, false),
            _ => return self.gp(code),
        };
        if e.source == Source::Software && ((raw >> 45 & 3) as u8) < self.sys.cpl {
            return self.gp(code);
        }
        if raw >> 47 & 1 == 0 {
            return self.fault(Exception::with_code(exception::NP, code));
        }
        let target = if wide { raw & 0xffff | raw >> 32 & 0xffff_0000 } else { raw & 0xffff };
        let cs = self.handler_code((raw >> 16) as u16, e, false)?;
        let conforming = cs.attr & 4 != 0;
        let v86 = regs.get(EFLAGS) & flags::VM != 0;
        let cpl = if conforming && !v86 { self.sys.cpl } else { cs.dpl() };
        if v86 && cpl != 0 {
            return self.gp(u32::from(cs.selector & !3) | ext(e));
        }
        if !within(&cs, target, 1) {
            return self.gp(ext(e));
        }
        let bytes = if wide { 4 } else { 2 };
        let tail = [
            self.saved_flags(regs, e),
            u64::from(self.sys.seg(Seg::Cs).selector),
            saved_pc(regs),
            u64::from(e.error.unwrap_or(0)),
        ];
        let tail = &tail[..if e.error.is_some() { 4 } else { 3 }];
        if cpl < self.sys.cpl {
            self.inner_frame(regs, e, cpl, bytes, tail, v86)?;
        } else {
            self.push_stack(regs, bytes, tail)?;
        }
        self.set_seg(regs, Seg::Cs, Segment { selector: cs.selector & !3 | u16::from(cpl), ..cs });
        self.sys.cpl = cpl;
        regs.set(PC, target);
        Self::handler_flags(regs, interrupt);
        Ok(())
    }

    /// Switch to the stack of privilege level `cpl` and push the frame there.
    fn inner_frame(
        &mut self,
        regs: &mut Regs,
        e: &Exception,
        cpl: u8,
        bytes: u64,
        tail: &[u64],
        v86: bool,
    ) -> Result<(), Stop> {
        let (ss, sp) = self.inner_stack(e, cpl)?;
        let mut frame = Vec::with_capacity(10);
        if v86 {
            frame.extend([Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es].map(|s| u64::from(self.sys.seg(s).selector)));
        }
        frame.extend([u64::from(self.sys.seg(Seg::Ss).selector), regs.get(RSP)]);
        frame.extend_from_slice(tail);
        let size = bytes * frame.len() as u64;
        let mask = if ss.big() { 0xffff_ffff } else { 0xffff };
        let low = sp.wrapping_sub(size) & mask;
        if !within(&ss, low, size) {
            return self.fault(Exception::with_code(exception::SS, u32::from(ss.selector & !3) | ext(e)));
        }
        let bank = if cpl == 3 { Bank::User } else { self.implicit_bank() };
        self.push_frame(bank, ss.base.wrapping_add(low).wrapping_add(size), bytes, &frame)?;
        if v86 {
            for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.set_seg(regs, s, Segment::null(0));
            }
        }
        self.set_seg(regs, Seg::Ss, ss);
        let keep = if mask == 0xffff { regs.get(RSP) & !0xffff } else { 0 };
        regs.set(RSP, keep | low);
        Ok(())
    }

    /// SS and (E)SP of privilege level `cpl` from the TSS.
    fn inner_stack(&mut self, e: &Exception, cpl: u8) -> Result<(Segment, u64), Stop> {
        let tr = self.sys.tr;
        let ts = |selector: u16| Exception::with_code(exception::TS, u32::from(selector & !3) | ext(e));
        let wide = tr.kind() & 8 != 0;
        let (offset, size) = if wide { (4 + 8 * u64::from(cpl), 8) } else { (2 + 4 * u64::from(cpl), 4) };
        if !tr.present() || offset + size - 1 > u64::from(tr.limit) {
            return self.fault(ts(tr.selector));
        }
        let at = tr.base.wrapping_add(offset);
        let half = size / 2;
        let sp = self.system_read(at, half)?;
        let selector = self.system_read(at.wrapping_add(half), 2)? as u16;
        if selector & !3 == 0 {
            return self.fault(ts(0));
        }
        let Some(d) = self.descriptor(selector)? else { return self.fault(ts(selector)) };
        let seg = d.segment(selector);
        let right = (selector & 3) as u8 == cpl && seg.dpl() == cpl && seg.attr & attr::S != 0 && seg.writable();
        if !right {
            return self.fault(ts(selector));
        }
        if !seg.present() {
            return self.fault(Exception::with_code(exception::SS, u32::from(selector & !3) | ext(e)));
        }
        self.set_accessed(d)?;
        Ok((Segment { attr: seg.attr | 1, ..seg }, sp))
    }
}
