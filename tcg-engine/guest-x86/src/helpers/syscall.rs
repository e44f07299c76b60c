//! SYSCALL, SYSRET, SYSENTER, SYSEXIT: changes of privilege with flat segments and no table.

use ir::{PC, Regs};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::flags;
use crate::state::{R11, RCX, RDX, RSP, Seg, Segment, attr, efer, eflags, set_eflags};

/// A flat code segment at privilege level `cpl`.
fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let size = if long { attr::L } else { attr::DB };
    let attr = attr::P | attr::S | 0xb | attr::G | size | u16::from(cpl) << 5;
    Segment { selector, attr, limit: u32::MAX, base: 0 }
}

/// A flat stack segment at privilege level `cpl`.
fn flat_stack(selector: u16, cpl: u8) -> Segment {
    let attr = attr::P | attr::S | 3 | attr::G | attr::DB | u16::from(cpl) << 5;
    Segment { selector, attr, limit: u32::MAX, base: 0 }
}

fn enter<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, code: u16, stack: u16, cpl: u8, long: bool) {
    cpu.set_seg(regs, Seg::Cs, flat_code(code, cpl, long));
    cpu.set_seg(regs, Seg::Ss, flat_stack(stack, cpl));
    cpu.sys.cpl = cpl;
    cpu.update_mode(regs);
}

pub(super) fn syscall<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, next: u64, _: u64, _: u32) -> Ret {
    if !cpu.sys.code64() || cpu.sys.efer & efer::SCE == 0 {
        return cpu.ud();
    }
    let old = eflags(regs) & !flags::RF;
    regs.set(RCX, next);
    regs.set(R11, old);
    regs.set(PC, cpu.sys.lstar);
    let new = old & !cpu.sys.fmask;
    set_eflags(regs, new);
    // Whether it is stepped is asked of the flags that it leaves, so that a kernel which masks TF needs no care for it.
    cpu.no_step = old & flags::TF != 0 && new & flags::TF == 0;
    let selector = (cpu.sys.star >> 32) as u16 & !3;
    enter(cpu, regs, selector, selector.wrapping_add(8), 0, true);
    done(0)
}

pub(super) fn sysret<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, wide: u32) -> Ret {
    if !cpu.sys.code64() || cpu.sys.efer & efer::SCE == 0 {
        return cpu.ud();
    }
    let target = regs.get(RCX);
    if cpu.sys.cpl != 0 || wide != 0 && !Cpu::<B>::canonical(target) {
        return cpu.gp(0);
    }
    let long = wide != 0;
    regs.set(PC, if long { target } else { target & 0xffff_ffff });
    // RF and VM are cleared, reserved bits too.
    set_eflags(regs, regs.get(R11) & flags::ALL & !(flags::RF | flags::VM));
    let base = (cpu.sys.star >> 48) as u16;
    let code = if long { base.wrapping_add(16) } else { base };
    enter(cpu, regs, code | 3, base.wrapping_add(8) | 3, 3, long);
    done(0)
}

pub(super) fn sysenter<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, _: u32) -> Ret {
    if !cpu.sys.protected() || cpu.sys.sysenter_cs & 0xfffc == 0 {
        return cpu.gp(0);
    }
    let long = cpu.sys.long_mode();
    let narrow = |v: u64| if long { v } else { v & 0xffff_ffff };
    let f = eflags(regs) & !(flags::VM | flags::IF | flags::RF);
    set_eflags(regs, f);
    regs.set(RSP, narrow(cpu.sys.sysenter_esp));
    regs.set(PC, narrow(cpu.sys.sysenter_eip));
    let selector = cpu.sys.sysenter_cs as u16 & !3;
    enter(cpu, regs, selector, selector.wrapping_add(8), 0, long);
    done(0)
}

pub(super) fn sysexit<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, wide: u32) -> Ret {
    let long = wide != 0;
    let (pc, sp) = (regs.get(RDX), regs.get(RCX));
    if !cpu.sys.protected() || cpu.sys.sysenter_cs & 0xfffc == 0 || cpu.sys.cpl != 0 {
        return cpu.gp(0);
    }
    if long && !(Cpu::<B>::canonical(pc) && Cpu::<B>::canonical(sp)) {
        return cpu.gp(0);
    }
    let narrow = |v: u64| if long { v } else { v & 0xffff_ffff };
    regs.set(PC, narrow(pc));
    regs.set(RSP, narrow(sp));
    let base = cpu.sys.sysenter_cs as u16;
    let code = base.wrapping_add(if long { 32 } else { 16 });
    enter(cpu, regs, code | 3, code.wrapping_add(8) | 3, 3, long);
    done(0)
}
