//! Integer data processing: immediates (C4.1.92), registers (C4.1.95).

use ir::flags::{Cond, Kind};
use ir::op::NONE;
use ir::{Op, Slot};

use crate::{Lift, bits, helper, sext, x};

fn wide(i: u32) -> bool {
    i >> 31 != 0
}

fn size(i: u32) -> u8 {
    if wide(i) { 64 } else { 32 }
}

/// The two forms of an operation by operand size.
fn sized(i: u32, op64: Op, op32: Op) -> Op {
    if wide(i) { op64 } else { op32 }
}

/// DecodeBitMasks (shared pseudocode): the wanted mask and the top mask of N:imms and immr.
pub(crate) fn bit_masks(n: u32, imms: u32, immr: u32, width: u32) -> Option<(u64, u64)> {
    let len = 31u32.checked_sub((n << 6 | (!imms & 0x3f)).leading_zeros())?;
    let esize = 1u32 << len;
    if len == 0 || esize > width {
        return None;
    }
    let levels = esize - 1;
    let (s, r) = (imms & levels, immr & levels);
    let ones = |n: u32| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    let element = ones(s + 1);
    let rotated = if r == 0 { element } else { (element >> r | element << (esize - r)) & ones(esize) };
    let top = ones((s.wrapping_sub(r) & levels) + 1);
    let spread = |e: u64| (0..width).step_by(esize as usize).fold(0, |m, at| m | e << at);
    Some((spread(rotated), spread(top)))
}

/// Data processing with an immediate.
pub(crate) fn immediate(l: &mut Lift, i: u32) -> Option<()> {
    let (rd, rn) = (bits(i, 4, 0), bits(i, 9, 5));
    match bits(i, 25, 23) {
        0b000 | 0b001 => {
            // ADR, ADRP
            let imm = sext(bits(i, 23, 5) << 2 | bits(i, 30, 29), 21);
            let v =
                if wide(i) { (l.pc & !0xfff).wrapping_add((imm << 12) as u64) } else { l.pc.wrapping_add(imm as u64) };
            let d = l.write(rd);
            l.b.op_imm(Op::MovI, d, NONE, v);
        }
        0b010 => {
            // ADD, ADDS, SUB, SUBS: 31 is SP, except as the destination of the flag-setting forms.
            let imm = u64::from(bits(i, 21, 10)) << (12 * bits(i, 22, 22));
            let b = l.b.constant(imm);
            let sets = bits(i, 29, 29) == 1;
            let d = if sets { l.write(rd) } else { x(rd) };
            add_sub(l, i, d, x(rn), b, sets);
        }
        0b100 => {
            let (mask, _) = bit_masks(bits(i, 22, 22), bits(i, 15, 10), bits(i, 21, 16), u32::from(size(i)))?;
            let b = l.b.constant(mask);
            let a = l.read(rn);
            let sets = bits(i, 30, 29) == 3;
            let d = if sets { l.write(rd) } else { x(rd) };
            logical(l, i, d, a, b, false);
        }
        0b101 => {
            // MOVN, MOVZ, MOVK
            let shift = 16 * bits(i, 22, 21);
            if !wide(i) && shift > 16 {
                return None;
            }
            let imm = u64::from(bits(i, 20, 5)) << shift;
            let d = l.write(rd);
            match bits(i, 30, 29) {
                0 if wide(i) => l.b.op_imm(Op::MovI, d, NONE, !imm),
                0 => l.b.op_imm(Op::MovI, d, NONE, !imm & 0xffff_ffff),
                2 => l.b.op_imm(Op::MovI, d, NONE, imm),
                3 => {
                    let old = l.read(rd);
                    let part = l.b.constant(imm >> shift);
                    let t = l.b.temp();
                    l.b.full(Op::Deposit, 0, t, old, part, u64::from(shift) | 16 << 8);
                    l.assign(d, t, wide(i));
                }
                _ => return None,
            }
        }
        0b110 => bitfield(l, i)?,
        0b111 => {
            // EXTR
            let lsb = bits(i, 15, 10);
            let (hi, lo) = (l.read(rn), l.read(bits(i, 20, 16)));
            let d = l.write(rd);
            if wide(i) {
                l.b.full(Op::Extr64, 0, d, hi, lo, u64::from(lsb));
            } else {
                if lsb > 31 {
                    return None;
                }
                let t = l.b.temp();
                l.b.full(Op::Deposit, 0, t, lo, hi, 32 | 32 << 8);
                let s = l.b.new_imm(Op::Shr64I, t, u64::from(lsb));
                l.b.op(Op::Zext32, d, s, NONE);
            }
        }
        _ => return None,
    }
    Some(())
}

/// SBFM, BFM, UBFM as the manual defines them: rotate, mask, extend.
fn bitfield(l: &mut Lift, i: u32) -> Option<()> {
    let (rd, rn) = (bits(i, 4, 0), bits(i, 9, 5));
    let width = u32::from(size(i));
    let (immr, imms) = (bits(i, 21, 16), bits(i, 15, 10));
    if bits(i, 22, 22) != bits(i, 31, 31) || immr >= width || imms >= width {
        return None;
    }
    let src = l.read(rn);
    let d = l.write(rd);
    let out = l.b.temp();
    if imms >= immr {
        let field = u64::from(immr) | u64::from(imms - immr + 1) << 8;
        match bits(i, 30, 29) {
            0 => l.b.op_imm(Op::SExtract, out, src, field),
            1 => {
                let part = l.b.new_imm(Op::Extract, src, field);
                let old = l.read(rd);
                l.b.full(Op::Deposit, 0, out, old, part, u64::from(imms - immr + 1) << 8);
            }
            2 => l.b.op_imm(Op::Extract, out, src, field),
            _ => return None,
        }
    } else {
        let (pos, len) = (width - immr, imms + 1);
        match bits(i, 30, 29) {
            0 => {
                let part = l.b.new_imm(Op::SExtract, src, u64::from(len) << 8);
                l.b.op_imm(Op::Shl64I, out, part, u64::from(pos));
            }
            op => {
                let old = if op == 1 { l.read(rd) } else { l.b.constant(0) };
                l.b.full(Op::Deposit, 0, out, old, src, u64::from(pos) | u64::from(len) << 8);
            }
        }
    }
    l.assign(d, out, wide(i));
    Some(())
}

/// `d = a ± b` with optional flags; bit 30 chooses subtraction.
fn add_sub(l: &mut Lift, i: u32, d: Slot, a: Slot, b: Slot, sets: bool) {
    let sub = bits(i, 30, 30) == 1;
    let op = if sub { sized(i, Op::Sub64, Op::Sub32) } else { sized(i, Op::Add64, Op::Add32) };
    if sets {
        let (a, r) = (l.b.new2(Op::Mov, a, NONE), l.b.new2(op, a, b));
        l.b.flags(if sub { Kind::A64Sub } else { Kind::A64Add }, size(i), a, b, r);
        l.b.op(Op::Mov, d, r, NONE);
    } else {
        l.b.op(op, d, a, b);
    }
}

/// AND, ORR, EOR, ANDS by bits 30..29, with `b` inverted if `invert`.
fn logical(l: &mut Lift, i: u32, d: Slot, a: Slot, b: Slot, invert: bool) {
    let b = if invert { l.b.new2(Op::Not, b, NONE) } else { b };
    let op = [Op::And, Op::Or, Op::Xor, Op::And][bits(i, 30, 29) as usize];
    let r = l.b.new2(op, a, b);
    if bits(i, 30, 29) == 3 {
        l.b.flags(Kind::A64Logic, size(i), NONE, NONE, r);
    }
    l.assign(d, r, wide(i));
}

/// A register shifted by a constant (LSL, LSR, ASR, ROR), truncated to the operand size first.
fn shifted(l: &mut Lift, i: u32, rm: u32) -> Option<Slot> {
    let amount = bits(i, 15, 10);
    if !wide(i) && amount > 31 {
        return None;
    }
    let s = l.read(rm);
    let n = u64::from(amount);
    Some(match bits(i, 23, 22) {
        0 => l.b.new_imm(sized(i, Op::Shl64I, Op::Shl32I), s, n),
        1 => l.b.new_imm(sized(i, Op::Shr64I, Op::Shr32I), s, n),
        2 => l.b.new_imm(sized(i, Op::Sar64I, Op::Sar32I), s, n),
        _ => l.b.new_imm(sized(i, Op::Rotl64I, Op::Rotl32I), s, (u64::from(size(i)) - n) % u64::from(size(i))),
    })
}

/// Data processing of registers.
pub(crate) fn register(l: &mut Lift, i: u32) -> Option<()> {
    let (rd, rn, rm) = (bits(i, 4, 0), bits(i, 9, 5), bits(i, 20, 16));
    match (bits(i, 28, 28), bits(i, 24, 21)) {
        (0, 0..8) => {
            let b = shifted(l, i, rm)?;
            let a = l.read(rn);
            let d = l.write(rd);
            logical(l, i, d, a, b, bits(i, 21, 21) == 1);
        }
        (0, 8 | 10 | 12 | 14) => {
            if bits(i, 23, 22) == 3 {
                return None;
            }
            let b = shifted(l, i, rm)?;
            let a = l.read(rn);
            let d = l.write(rd);
            add_sub(l, i, d, a, b, bits(i, 29, 29) == 1);
        }
        (0, 9) if bits(i, 23, 22) == 0 => extended(l, i)?,
        (1, 0) if bits(i, 15, 10) == 0 => with_carry(l, i),
        (1, 2) => conditional_compare(l, i)?,
        (1, 4) => conditional_select(l, i)?,
        (1, 6) if bits(i, 30, 30) == 0 => two_sources(l, i)?,
        (1, 6) => one_source(l, i)?,
        (1, 8..) => three_sources(l, i)?,
        _ => return None,
    }
    Some(())
}

/// ADD, SUB with an extended register: 31 is SP for Rn, and for Rd without flags.
fn extended(l: &mut Lift, i: u32) -> Option<()> {
    let shift = bits(i, 12, 10);
    if shift > 4 {
        return None;
    }
    let m = l.read(bits(i, 20, 16));
    let e = match bits(i, 15, 13) {
        0 => l.b.new2(Op::Zext8, m, NONE),
        1 => l.b.new2(Op::Zext16, m, NONE),
        2 => l.b.new2(Op::Zext32, m, NONE),
        4 => l.b.new2(Op::Sext8, m, NONE),
        5 => l.b.new2(Op::Sext16, m, NONE),
        6 => l.b.new2(Op::Sext32, m, NONE),
        _ => l.b.new2(Op::Mov, m, NONE),
    };
    let b = l.b.new_imm(sized(i, Op::Shl64I, Op::Shl32I), e, u64::from(shift));
    let sets = bits(i, 29, 29) == 1;
    let rd = bits(i, 4, 0);
    let d = if sets { l.write(rd) } else { x(rd) };
    add_sub(l, i, d, x(bits(i, 9, 5)), b, sets);
    Some(())
}

/// ADC, ADCS, SBC, SBCS.
fn with_carry(l: &mut Lift, i: u32) {
    let (a, m) = (l.read(bits(i, 9, 5)), l.read(bits(i, 20, 16)));
    let a = l.b.new2(Op::Mov, a, NONE);
    let m = l.b.new2(Op::Mov, m, NONE);
    let sub = bits(i, 30, 30) == 1;
    let c = l.b.temp();
    l.b.full(Op::Cond, Cond::a64(2).0, c, NONE, NONE, 0);
    let add = sized(i, Op::Add64, Op::Add32);
    let addend = if sub { l.b.new2(Op::Not, m, NONE) } else { m };
    let s = l.b.new2(add, a, addend);
    let r = l.b.new2(add, s, c);
    if bits(i, 29, 29) == 1 {
        l.b.flags(if sub { Kind::A64Sbc } else { Kind::A64Adc }, size(i), a, m, r);
    }
    let d = l.write(bits(i, 4, 0));
    l.b.op(Op::Mov, d, r, NONE);
}

/// CCMN, CCMP with a register or an immediate.
fn conditional_compare(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 29, 29) == 0 || bits(i, 10, 10) == 1 || bits(i, 4, 4) == 1 {
        return None;
    }
    let b = if bits(i, 11, 11) == 1 { l.b.constant(u64::from(bits(i, 20, 16))) } else { l.read(bits(i, 20, 16)) };
    let a = l.read(bits(i, 9, 5));
    let sub = bits(i, 30, 30) == 1;
    let op = if sub { sized(i, Op::Sub64, Op::Sub32) } else { sized(i, Op::Add64, Op::Add32) };
    let r = l.b.new2(op, a, b);
    let other = l.b.constant(u64::from(bits(i, 3, 0)) << 28);
    // The compared flags, brought into explicit form, or the immediate ones.
    let taken = l.b.temp();
    l.b.full(Op::Cond, Cond::a64(bits(i, 15, 12) as u8).0, taken, NONE, NONE, 0);
    l.b.flags(if sub { Kind::A64Sub } else { Kind::A64Add }, size(i), a, b, r);
    let compared = l.b.new2(Op::FlagsGet, NONE, NONE);
    let f = l.b.temp();
    l.b.full(Op::Select, 0, f, taken, compared, u64::from(other.0));
    l.b.flags(Kind::A64Explicit, 64, NONE, NONE, f);
    Some(())
}

/// CSEL, CSINC, CSINV, CSNEG.
fn conditional_select(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 29, 29) == 1 || bits(i, 11, 11) == 1 {
        return None;
    }
    let (a, m) = (l.read(bits(i, 9, 5)), l.read(bits(i, 20, 16)));
    let other = match (bits(i, 30, 30), bits(i, 10, 10)) {
        (0, 0) => m,
        (0, _) => l.b.new_imm(Op::Add64I, m, 1),
        (_, 0) => l.b.new2(Op::Not, m, NONE),
        _ => l.b.new2(Op::Neg64, m, NONE),
    };
    let r = l.b.temp();
    l.b.full(Op::SelectCond, Cond::a64(bits(i, 15, 12) as u8).0, r, a, other, 0);
    let d = l.write(bits(i, 4, 0));
    l.assign(d, r, wide(i));
    Some(())
}

/// UDIV, SDIV, LSLV, LSRV, ASRV, RORV.
fn two_sources(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 29, 29) == 1 {
        return None;
    }
    let (a, m) = (l.read(bits(i, 9, 5)), l.read(bits(i, 20, 16)));
    let r = match bits(i, 15, 10) {
        op @ (2 | 3) => {
            let extend = if wide(i) {
                Op::Mov
            } else if op == 3 {
                Op::Sext32
            } else {
                Op::Zext32
            };
            let (a, m) = (l.b.new2(extend, a, NONE), l.b.new2(extend, m, NONE));
            let t = l.b.temp();
            l.b.call(t, if op == 3 { helper::SDIV64 } else { helper::UDIV64 }, a, m, 0, 0);
            t
        }
        8 => l.b.new2(sized(i, Op::Shl64, Op::Shl32), a, m),
        9 => l.b.new2(sized(i, Op::Shr64, Op::Shr32), a, m),
        10 => l.b.new2(sized(i, Op::Sar64, Op::Sar32), a, m),
        11 => {
            let n = l.b.new2(Op::Neg64, m, NONE);
            l.b.new2(sized(i, Op::Rotl64, Op::Rotl32), a, n)
        }
        _ => return None,
    };
    let d = l.write(bits(i, 4, 0));
    l.assign(d, r, wide(i));
    Some(())
}

/// RBIT, REV16, REV32, REV, CLZ, CLS.
fn one_source(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 29, 29) == 1 || bits(i, 20, 16) != 0 {
        return None;
    }
    let a = l.read(bits(i, 9, 5));
    let t = l.b.temp();
    match bits(i, 15, 10) {
        0 => l.b.full(Op::Bitrev, size(i), t, a, NONE, 0),
        1 => {
            let odd = l.b.new_imm(Op::AndI, a, 0x00ff_00ff_00ff_00ff);
            let up = l.b.new_imm(Op::Shl64I, odd, 8);
            let down = l.b.new_imm(Op::Shr64I, a, 8);
            let even = l.b.new_imm(Op::AndI, down, 0x00ff_00ff_00ff_00ff);
            l.b.op(Op::Or, t, up, even);
        }
        2 if wide(i) => {
            let swapped = l.b.temp();
            l.b.full(Op::Bswap, 64, swapped, a, NONE, 0);
            l.b.op_imm(Op::Rotl64I, t, swapped, 32);
        }
        2 => l.b.full(Op::Bswap, 32, t, a, NONE, 0),
        3 if wide(i) => l.b.full(Op::Bswap, 64, t, a, NONE, 0),
        4 => l.b.full(Op::Clz, size(i), t, a, NONE, 0),
        5 => {
            // Leading sign bits: leading zeros of the value xor itself shifted arithmetically by one, without the top bit.
            let s = l.b.new_imm(sized(i, Op::Sar64I, Op::Sar32I), a, 1);
            let diff = l.b.new2(Op::Xor, a, s);
            l.b.full(Op::Clz, size(i) - 1, t, diff, NONE, 0);
        }
        _ => return None,
    }
    let d = l.write(bits(i, 4, 0));
    l.assign(d, t, wide(i));
    Some(())
}

/// MADD, MSUB, SMADDL, SMSUBL, UMADDL, UMSUBL, SMULH, UMULH.
fn three_sources(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 30, 29) != 0 {
        return None;
    }
    let (a, m, acc) = (l.read(bits(i, 9, 5)), l.read(bits(i, 20, 16)), l.read(bits(i, 14, 10)));
    let sub = bits(i, 15, 15) == 1;
    let d = l.write(bits(i, 4, 0));
    let product = match bits(i, 23, 21) {
        0 => l.b.new2(sized(i, Op::Mul64, Op::Mul32), a, m),
        n @ (1 | 5) if wide(i) => {
            let extend = if n == 1 { Op::Sext32 } else { Op::Zext32 };
            let (a, m) = (l.b.new2(extend, a, NONE), l.b.new2(extend, m, NONE));
            l.b.new2(Op::Mul64, a, m)
        }
        n @ (2 | 6) if wide(i) && !sub => {
            l.b.op(if n == 2 { Op::MulHiS64 } else { Op::MulHiU64 }, d, a, m);
            return Some(());
        }
        _ => return None,
    };
    let op = if sub { sized(i, Op::Sub64, Op::Sub32) } else { sized(i, Op::Add64, Op::Add32) };
    l.b.op(op, d, acc, product);
    Some(())
}
