//! Real mode: four bytes per vector, three words on the stack.

use ir::{PC, Regs, Stop};

use super::saved_pc;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::flags;
use crate::state::{EFLAGS, Seg, Segment, attr, eflags};

impl<B: Bus> Cpu<B> {
    pub(super) fn deliver_real(&mut self, regs: &mut Regs, e: &Exception) -> Result<(), Stop> {
        let at = u32::from(e.vector) * 4;
        if at + 3 > u32::from(self.sys.idtr.limit) {
            return self.gp(0);
        }
        let entry = self.system_read(self.sys.idtr.base.wrapping_add(u64::from(at)), 4)?;
        let frame = [eflags(regs) & !flags::RF, u64::from(self.sys.seg(Seg::Cs).selector), saved_pc(regs)];
        self.push_stack(regs, 2, &frame)?;
        let old = self.sys.seg(Seg::Cs);
        let cs = Segment { attr: attr::REAL_CODE | old.attr & attr::DB, ..old.real((entry >> 16) as u16) };
        self.set_seg(regs, Seg::Cs, cs);
        regs.set(PC, entry & 0xffff);
        regs.set(EFLAGS, regs.get(EFLAGS) & !(flags::IF | flags::TF | flags::AC | flags::RF));
        Ok(())
    }
}
