//! IN and OUT with the I/O permission bitmap (SDM vol. 1, chapter "Input/output").

use ir::{Regs, Stop};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::flags;
use crate::state::EFLAGS;

/// Offset of the bitmap's offset in a 32- or 64-bit task state segment.
const BITMAP: u32 = 0x66;

/// #GP(0) unless `bytes` ports from `port` on may be used.
fn check<B: Bus>(cpu: &mut Cpu<B>, regs: &Regs, port: u16, bytes: u32) -> Result<(), Stop> {
    let v86 = regs.get(EFLAGS) & flags::VM != 0;
    if !cpu.sys.protected() || !v86 && cpu.sys.cpl <= super::flagword::iopl(regs) {
        return Ok(());
    }
    let tr = cpu.sys.tr;
    let wide = tr.present() && tr.kind() | 2 == 0xb;
    if !wide || tr.limit < BITMAP + 1 {
        return cpu.gp(0);
    }
    let offset = cpu.system_read(tr.base.wrapping_add(u64::from(BITMAP)), 2)? as u32;
    let at = offset + u32::from(port) / 8;
    // Two bytes are always read, so the bitmap ends with a byte of ones.
    if at + 1 > tr.limit {
        return cpu.gp(0);
    }
    let bits = cpu.system_read(tr.base.wrapping_add(u64::from(at)), 2)? >> (port % 8);
    if bits & ((1 << bytes) - 1) != 0 {
        return cpu.gp(0);
    }
    Ok(())
}

/// The check alone: string instructions make it first, whatever their count and addresses are.
pub(super) fn check_port<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, port: u64, _: u64, bytes: u32) -> Ret {
    check(cpu, regs, port as u16, bytes)?;
    done(0)
}

pub(super) fn input<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, port: u64, _: u64, bytes: u32) -> Ret {
    check(cpu, regs, port as u16, bytes)?;
    let v = cpu.bus.io_read(port as u16, bytes as u8);
    cpu.safepoint();
    cpu.take_orders();
    done(u64::from(v?) & (u64::MAX >> (64 - 8 * bytes)))
}

pub(super) fn output<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, port: u64, v: u64, bytes: u32) -> Ret {
    check(cpu, regs, port as u16, bytes)?;
    let v = v & (u64::MAX >> (64 - 8 * bytes));
    let then = cpu.bus.io_write(port as u16, bytes as u8, v as u32);
    cpu.safepoint();
    cpu.take_orders();
    Ok((0, cpu.note_look(then?)))
}
