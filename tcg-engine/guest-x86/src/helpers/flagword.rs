//! Instructions that change EFLAGS beyond the arithmetic flags.

use ir::Regs;

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::flags;
use crate::state::{EFLAGS, Shadow, eflags, set_eflags};

/// I/O privilege level.
pub(crate) fn iopl(regs: &Regs) -> u8 {
    (regs.get(EFLAGS) >> 12 & 3) as u8
}

/// The flags that POPF and IRET may change at privilege level `cpl` with I/O privilege level `iopl`.
pub(crate) fn changeable(cpl: u8, iopl: u8) -> u64 {
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if cpl == 0 {
        mask |= flags::IOPL;
    }
    if cpl <= iopl {
        mask |= flags::IF;
    }
    mask
}

pub(super) fn popf<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, bytes: u32) -> Ret {
    let mut mask = changeable(cpu.sys.cpl, iopl(regs));
    if bytes == 2 {
        mask &= 0xffff;
    }
    let old = eflags(regs) & !flags::RF;
    set_eflags(regs, old & !mask | a & mask);
    cpu.update_mode(regs);
    done(0)
}

pub(super) fn check_v86<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    if regs.get(EFLAGS) & flags::VM != 0 && iopl(regs) < 3 {
        return cpu.gp(0);
    }
    done(0)
}

/// Whether CLI and STI are allowed. (Real mode has CPL 0.)
fn may_mask<B: Bus>(cpu: &mut Cpu<B>, regs: &Regs) -> bool {
    cpu.sys.cpl <= iopl(regs)
}

pub(super) fn cli<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    if !may_mask(cpu, regs) {
        return cpu.gp(0);
    }
    regs.set(EFLAGS, regs.get(EFLAGS) & !flags::IF);
    done(0)
}

pub(super) fn sti<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    if !may_mask(cpu, regs) {
        return cpu.gp(0);
    }
    let old = regs.get(EFLAGS);
    if old & flags::IF == 0 {
        cpu.sys.shadow = Shadow::Sti;
    }
    regs.set(EFLAGS, old | flags::IF);
    done(0)
}

pub(super) fn direction<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, down: u32) -> Ret {
    let old = regs.get(EFLAGS) & !flags::DF;
    regs.set(EFLAGS, if down != 0 { old | flags::DF } else { old });
    cpu.update_mode(regs);
    done(0)
}

pub(super) fn alignment_flag<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, set: u32) -> Ret {
    // CLAC and STAC exist with the CPU's SMAP; CR4.SMAP does not matter.
    if cpu.sys.cpl != 0 {
        return cpu.ud();
    }
    let old = regs.get(EFLAGS) & !flags::AC;
    regs.set(EFLAGS, if set != 0 { old | flags::AC } else { old });
    cpu.update_bank(regs);
    done(0)
}
