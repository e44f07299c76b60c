//! Shifts, rotates, and rotate-then-insert.
//!
//! Amounts are the low six bits of an address, 0 to 63, also for 32-bit operands; so those are shifted as 64-bit values.

use ir::flags::Kind;
use ir::op::NONE;
use ir::{Op, Rel, Slot};

use crate::alu::overflow;
use crate::decode::Fields;
use crate::{Lift, r};

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    /// Left logical.
    Left,
    /// Right logical.
    Right,
    /// Left, sign kept; condition code 3 if a bit unlike it is lost.
    LeftArithmetic,
    /// Right, sign copied; condition code by the result's sign.
    RightArithmetic,
    /// Rotate left.
    Rotate,
    /// The low halves of an even and an odd register, left.
    PairLeft,
    /// The same, right.
    PairRight,
}

/// Lift a shift. `single`: the source is R1 itself (RS format), not R3.
pub(crate) fn lift(l: &mut Lift, f: &Fields, shift: Shift, wide: bool, single: bool) -> Option<()> {
    let pair = matches!(shift, Shift::PairLeft | Shift::PairRight);
    if pair && !l.even(f.r1) {
        return Some(());
    }
    let address = l.sum(f.b2, 0, f.d2);
    let n = l.b.new_imm(Op::AndI, address, 63);
    let source = r(if single { f.r1 } else { f.r3 });
    match shift {
        Shift::PairLeft | Shift::PairRight => {
            let high = l.b.new_imm(Op::Shl64I, r(f.r1), 32);
            let low = l.b.new2(Op::Zext32, r(f.r1 + 1), NONE);
            let v = l.b.new2(Op::Or, high, low);
            let v = l.b.new2(if shift == Shift::PairLeft { Op::Shl64 } else { Op::Shr64 }, v, n);
            let high = l.b.new_imm(Op::Shr64I, v, 32);
            l.set32(f.r1, high);
            l.set32(f.r1 + 1, v);
            return Some(());
        }
        Shift::LeftArithmetic => {
            left_arithmetic(l, f.r1, source, n, wide);
            return Some(());
        }
        _ => {}
    }
    let (op, extend) = match shift {
        Shift::Left => (Op::Shl64, Op::Zext32),
        Shift::Right => (Op::Shr64, Op::Zext32),
        Shift::RightArithmetic => (Op::Sar64, Op::Sext32),
        _ if wide => (Op::Rotl64, Op::Mov),
        _ => (Op::Rotl32, Op::Mov),
    };
    let v = l.b.new2(if wide { Op::Mov } else { extend }, source, NONE);
    let v = l.b.new2(op, v, n);
    if shift == Shift::RightArithmetic {
        l.b.flags(Kind::S390Sign, if wide { 64 } else { 32 }, NONE, NONE, v);
    }
    l.set(f.r1, v, wide);
    Some(())
}

/// SLA, SLAG: on the value aligned to the left, so that zeros shifted in count as bits that may be lost again.
fn left_arithmetic(l: &mut Lift, r1: u32, source: Slot, n: Slot, wide: bool) {
    let v = if wide { l.b.new2(Op::Mov, source, NONE) } else { l.b.new_imm(Op::Shl64I, source, 32) };
    let sign = l.b.new_imm(Op::AndI, v, 1 << 63);
    let all = l.b.new_imm(Op::Sar64I, v, 63);
    // The sign and the bits that are lost: n + 1 bits.
    let keep = l.b.new_imm(Op::XorI, n, 63);
    let lost = l.b.new2(Op::Sar64, v, keep);
    let overflowed = l.b.set_rel(Rel::Ne, lost, all);
    let moved = l.b.new2(Op::Shl64, v, n);
    let number = l.b.new_imm(Op::AndI, moved, u64::MAX >> 1);
    let result = l.b.new2(Op::Or, number, sign);
    let zero = l.b.constant(0);
    let low = l.b.set_rel(Rel::Lts, result, zero);
    let high = l.b.set_rel(Rel::Lts, zero, result);
    let three = l.b.constant(3);
    let by_sign = l.b.temp();
    l.b.full(Op::Lea, 1, by_sign, low, high, 0);
    let cc = l.b.temp();
    l.b.full(Op::Select, 0, cc, overflowed, three, u64::from(by_sign.0));
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    if wide {
        l.b.op(Op::Mov, r(r1), result, NONE);
    } else {
        let half = l.b.new_imm(Op::Shr64I, result, 32);
        l.set32(r1, half);
    }
    if l.mode.overflow {
        overflow(l);
    }
}

/// What rotate-then-insert does with the selected bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selected {
    /// RISBG: insert; the others stay or become zero; condition code by sign.
    Insert,
    /// RISBGN: the same without condition code.
    InsertSilent,
    /// RNSBG.
    And,
    /// ROSBG.
    Or,
    /// RXSBG.
    Xor,
}

/// Rotate R2 left by I5 and combine bits I3 to I4 (which may wrap around) with R1.
pub(crate) fn rotate_selected(l: &mut Lift, f: &Fields, what: Selected) -> Option<()> {
    let (from, to) = (f.i3 & 63, f.i4 & 63);
    let ones = |a: u32, b: u32| u64::MAX >> a & u64::MAX << (63 - b);
    let mask = if from <= to { ones(from, to) } else { ones(0, to) | ones(from, 63) };
    let rotated = l.b.new_imm(Op::Rotl64I, r(f.r2), u64::from(f.i5 & 63));
    let result = match what {
        Selected::Insert | Selected::InsertSilent => {
            let new = l.b.new_imm(Op::AndI, rotated, mask);
            if f.i4 & 0x80 != 0 {
                new
            } else {
                let old = l.b.new_imm(Op::AndI, r(f.r1), !mask);
                l.b.new2(Op::Or, old, new)
            }
        }
        Selected::And => {
            let operand = l.b.new_imm(Op::OrI, rotated, !mask);
            l.b.new2(Op::And, r(f.r1), operand)
        }
        Selected::Or | Selected::Xor => {
            let operand = l.b.new_imm(Op::AndI, rotated, mask);
            l.b.new2(if what == Selected::Or { Op::Or } else { Op::Xor }, r(f.r1), operand)
        }
    };
    match what {
        Selected::Insert => l.b.flags(Kind::S390Sign, 64, NONE, NONE, result),
        Selected::InsertSilent => {}
        _ => {
            let selected = l.b.new_imm(Op::AndI, result, mask);
            l.b.flags(Kind::S390NonZero, 64, NONE, NONE, selected);
        }
    }
    // T: test only.
    let insert = matches!(what, Selected::Insert | Selected::InsertSilent);
    if insert || f.i3 & 0x80 == 0 {
        l.b.op(Op::Mov, r(f.r1), result, NONE);
    }
    Some(())
}
