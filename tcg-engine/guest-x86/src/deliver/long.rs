//! Long mode: 16-byte gates, a frame of five quadwords on an aligned stack, IST (SDM vol. 3A, 6.14).

use ir::{PC, Regs, Stop};
use mem::Bank;

use super::{ext, gate_code, saved_pc};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception, Source};
use crate::helpers::null_stack;
use crate::state::{RSP, Seg, Segment, attr};

/// A gate of the IDT.
struct Gate {
    target: u64,
    selector: u16,
    ist: u64,
    interrupt: bool,
}

impl<B: Bus> Cpu<B> {
    pub(super) fn deliver_long(&mut self, regs: &mut Regs, e: &Exception) -> Result<(), Stop> {
        let gate = self.long_gate(e)?;
        let cs = self.handler_code(gate.selector, e, true)?;
        if !Self::canonical(gate.target) {
            return self.gp(ext(e));
        }
        let conforming = cs.attr & 4 != 0;
        let cpl = if conforming { self.sys.cpl } else { cs.dpl() };
        let inner = cpl < self.sys.cpl;
        let sp = if gate.ist != 0 {
            self.long_stack(0x24 + 8 * (gate.ist - 1), e)?
        } else if inner {
            self.long_stack(4 + 8 * u64::from(cpl), e)?
        } else {
            regs.get(RSP)
        } & !15;
        let ss = *self.sys.seg(Seg::Ss);
        let mut frame = vec![
            u64::from(ss.selector),
            regs.get(RSP),
            self.saved_flags(regs, e),
            u64::from(self.sys.seg(Seg::Cs).selector),
            saved_pc(regs),
        ];
        frame.extend(e.error.map(u64::from));
        let low = sp.wrapping_sub(8 * frame.len() as u64);
        if !Self::canonical(low) || !Self::canonical(sp.wrapping_sub(1)) {
            return self.fault(Exception::with_code(exception::SS, ext(e)));
        }
        let bank = if cpl == 3 { Bank::User } else { self.implicit_bank() };
        self.push_frame(bank, sp, 8, &frame)?;
        self.set_seg(regs, Seg::Cs, Segment { selector: cs.selector & !3 | u16::from(cpl), ..cs });
        if inner {
            self.set_seg(regs, Seg::Ss, null_stack(u16::from(cpl)));
        }
        self.sys.cpl = cpl;
        regs.set(RSP, low);
        regs.set(PC, gate.target);
        Self::handler_flags(regs, gate.interrupt);
        Ok(())
    }

    fn long_gate(&mut self, e: &Exception) -> Result<Gate, Stop> {
        let code = gate_code(e);
        let at = u64::from(e.vector) * 16;
        if at + 15 > u64::from(self.sys.idtr.limit) {
            return self.gp(code);
        }
        let base = self.sys.idtr.base.wrapping_add(at);
        let low = self.system_read(base, 8)?;
        let high = self.system_read(base.wrapping_add(8), 8)?;
        let interrupt = match low >> 40 & 0x1f {
            0xe => true,
            0xf => false,
            _ => return self.gp(code),
        };
        if e.source == Source::Software && ((low >> 45 & 3) as u8) < self.sys.cpl {
            return self.gp(code);
        }
        if low >> 47 & 1 == 0 {
            return self.fault(Exception::with_code(exception::NP, code));
        }
        Ok(Gate {
            target: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            selector: (low >> 16) as u16,
            ist: low >> 32 & 7,
            interrupt,
        })
    }

    /// The code segment of a handler.
    pub(super) fn handler_code(&mut self, selector: u16, e: &Exception, long: bool) -> Result<Segment, Stop> {
        let code = u32::from(selector & !3);
        if code == 0 {
            return self.gp(ext(e));
        }
        let d = self.need_descriptor(selector, ext(e))?;
        let seg = d.segment(selector);
        if seg.attr & attr::S == 0 || !seg.is_code() || seg.dpl() > self.sys.cpl {
            return self.gp(code | ext(e));
        }
        if !seg.present() {
            return self.np(selector, ext(e));
        }
        if long && (!seg.long() || seg.big()) {
            return self.gp(code | ext(e));
        }
        self.set_accessed(d)?;
        Ok(Segment { attr: seg.attr | 1, ..seg })
    }

    /// A stack pointer at `offset` of the 64-bit task state segment.
    fn long_stack(&mut self, offset: u64, e: &Exception) -> Result<u64, Stop> {
        let tr = self.sys.tr;
        if offset + 7 > u64::from(tr.limit) || !tr.present() {
            return self.fault(Exception::with_code(exception::TS, u32::from(tr.selector & !3) | ext(e)));
        }
        self.system_read(tr.base.wrapping_add(offset), 8)
    }
}
