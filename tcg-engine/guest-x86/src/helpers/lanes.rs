//! Lanes of vectors in memory, one by one: VMASKMOV and VGATHER.

use ir::{Env, MemRef, Regs, Stop, Then};

use super::Ret;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::lift::lane_call as call;
use crate::state::{xmm, ymm_upper};

/// Bits of the lanes that a call is about, and how many 256 or 128 bits hold.
fn lanes(imm: u32) -> (u32, u32) {
    let bits = if imm & call::LONG != 0 { 64 } else { 32 };
    (bits, if imm & call::WIDE != 0 { 256 } else { 128 } / bits)
}

/// A register as an array of bytes.
fn register(regs: &Regs, n: u32) -> [u128; 2] {
    let n = (n & 15) as usize;
    [regs.get128(xmm(n)), regs.get128(ymm_upper(n))]
}

fn set_register(regs: &mut Regs, n: u32, v: [u128; 2]) {
    let n = (n & 15) as usize;
    regs.set128(xmm(n), v[0]);
    regs.set128(ymm_upper(n), v[1]);
}

/// Lane `n` of `bits`.
fn lane(v: [u128; 2], n: u32, bits: u32) -> u64 {
    let at = n * bits;
    (v[(at / 128) as usize & 1] >> (at % 128)) as u64 & (u64::MAX >> (64 - bits))
}

fn set_lane(v: &mut [u128; 2], n: u32, bits: u32, to: u64) {
    let at = n * bits;
    let half = &mut v[(at / 128) as usize & 1];
    let field = u128::from(u64::MAX >> (64 - bits)) << (at % 128);
    *half = *half & !field | u128::from(to) << (at % 128) & field;
}

fn chosen(mask: [u128; 2], n: u32, bits: u32) -> bool {
    lane(mask, n, bits) >> (bits - 1) != 0
}

fn access(imm: u32) -> MemRef {
    MemRef {
        space: (imm >> call::SPACE_SHIFT & 15) as u8,
        stack: imm & call::STACK != 0,
        relaxed: true,
        ..MemRef::new(if imm & call::LONG != 0 { 3 } else { 2 })
    }
}

fn wrap(imm: u32) -> u64 {
    if imm & call::HALF != 0 { 0xffff_ffff } else { u64::MAX }
}

/// VMASKMOV and VPMASKMOV at `addr`.
pub(super) fn masked_move<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, addr: u64, _: u64, imm: u32) -> Ret {
    let (bits, count) = lanes(imm);
    let m = access(imm);
    let mask = register(regs, imm >> call::MASK_SHIFT);
    let at = |n: u32| addr.wrapping_add(u64::from(n * bits / 8)) & wrap(imm);
    let wanted = |n: &u32| chosen(mask, *n, bits);
    // Lanes beyond what can be addressed come before those whose page is missing.
    for n in (0..count).filter(wanted) {
        cpu.check_addressable(at(n), m, imm & call::STORE != 0)?;
    }
    if imm & call::STORE == 0 {
        let mut value = [0; 2];
        for n in (0..count).filter(wanted) {
            set_lane(&mut value, n, bits, Env::load(cpu, at(n), m)?);
        }
        set_register(regs, imm, value);
        return Ok((0, Then::Continue));
    }
    let data = register(regs, imm);
    // All of it can be written, or nothing is.
    for n in (0..count).filter(wanted) {
        Env::load(cpu, at(n), MemRef { write_intent: true, ..m })?;
    }
    let mut then = Then::Continue;
    for n in (0..count).filter(wanted) {
        match Env::store(cpu, at(n), m, lane(data, n, bits)) {
            Err(Stop::FinishInstruction) => then = Then::FinishInstruction,
            other => other?,
        }
    }
    Ok((0, then))
}

/// VGATHER and VPGATHER. Lanes are loaded in order; where one faults, those before it are in the destination and their masks are
/// clear, so that the instruction can be run again.
pub(super) fn gather<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, offset: u64, base: u64, imm: u32) -> Ret {
    let (bits, lanes) = lanes(imm);
    let long_index = imm & call::LONG_INDEX != 0;
    let index_bits = if long_index { 64 } else { 32 };
    let indices = register(regs, imm >> call::INDEX_SHIFT);
    let count = lanes.min(if imm & call::WIDE_INDEX != 0 { 256 } else { 128 } / index_bits);
    let (m, scale) = (access(imm), imm >> call::SCALE_SHIFT & 3);
    let (mut data, old) = (register(regs, imm), register(regs, imm >> call::MASK_SHIFT));
    // Masks become all ones or zero before the first lane is loaded, those of lanes that there are no indices for too.
    let mut mask = [0; 2];
    let width = if imm & (call::WIDE | call::WIDE_INDEX) != 0 { 256 } else { 128 };
    for n in (0..width / bits).filter(|n| chosen(old, *n, bits)) {
        set_lane(&mut mask, n, bits, u64::MAX);
    }
    let mut any = false;
    for n in 0..count {
        if chosen(mask, n, bits) {
            let index = lane(indices, n, index_bits);
            let index = if long_index { index } else { index as i32 as u64 };
            let at = offset.wrapping_add(index << scale) & wrap(imm);
            match Env::load(cpu, at.wrapping_add(base), m) {
                Ok(v) => {
                    set_lane(&mut data, n, bits, v);
                    any = true;
                }
                Err(stop) => {
                    if any && width == 128 {
                        data[1] = 0;
                    }
                    set_register(regs, imm, data);
                    set_register(regs, imm >> call::MASK_SHIFT, mask);
                    return Err(stop);
                }
            }
        }
        set_lane(&mut mask, n, bits, 0);
    }
    // What is above the last lane becomes zero only when all is done.
    for n in count..256 / bits {
        set_lane(&mut data, n, bits, 0);
    }
    set_register(regs, imm, data);
    set_register(regs, imm >> call::MASK_SHIFT, [0; 2]);
    Ok((0, Then::Continue))
}
