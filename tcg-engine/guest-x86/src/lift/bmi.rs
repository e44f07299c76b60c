//! Bit manipulation of x86-64-v3: BMI1, BMI2, LZCNT and MOVBE. What sets flags is arithmetic
//! ([`ir::AluOp`]), the rest integer operations.

use iced_x86::{EncodingKind, Mnemonic};
use ir::{AluOp, NONE, Op, Slot};

use super::{Flow, Lifted, Lifter};
use crate::mode::Mode;

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    let encoding = l.i.code().encoding();
    let vex = encoding == EncodingKind::VEX;
    // BEXTR is also another maker's, in another encoding.
    if !vex && encoding != EncodingKind::Legacy {
        return None;
    }
    if !l.mode.contains(Mode::LEVEL3) || vex && !l.mode.contains(Mode::PROTECTED) {
        return None;
    }
    match l.i.mnemonic() {
        Mnemonic::Andn => with_flags(l, AluOp::Andn, 1, Some(2)),
        Mnemonic::Blsi => with_flags(l, AluOp::Blsi, 1, None),
        Mnemonic::Blsr => with_flags(l, AluOp::Blsr, 1, None),
        Mnemonic::Blsmsk => with_flags(l, AluOp::Blsmsk, 1, None),
        Mnemonic::Bextr => with_flags(l, AluOp::Bextr, 1, Some(2)),
        Mnemonic::Bzhi => with_flags(l, AluOp::Bzhi, 1, Some(2)),
        Mnemonic::Tzcnt => with_flags(l, AluOp::Tzcnt, 1, None),
        Mnemonic::Lzcnt => with_flags(l, AluOp::Lzcnt, 1, None),
        Mnemonic::Mulx => multiply(l),
        Mnemonic::Pdep => by_mask(l, Op::Pdep),
        Mnemonic::Pext => by_mask(l, Op::Pext),
        Mnemonic::Rorx => rotate(l),
        Mnemonic::Sarx => shift(l, Op::Sar32, Op::Sar64),
        Mnemonic::Shlx => shift(l, Op::Shl32, Op::Shl64),
        Mnemonic::Shrx => shift(l, Op::Shr32, Op::Shr64),
        Mnemonic::Movbe => move_swapped(l),
        _ => None,
    }
}

impl Lifter {
    /// Write a result that is zero-extended from the operand's size.
    fn put(&mut self, v: Slot) -> Lifted {
        let narrow = self.bits(0) <= 32;
        self.set_clean(v, narrow);
        self.write(0, v);
        Some(Flow::Next)
    }
}

/// What has one operation, which sets the flags.
fn with_flags(l: &mut Lifter, op: AluOp, a: u32, b: Option<u32>) -> Lifted {
    let b = b.map_or(NONE, |n| l.read(n));
    let a = l.read(a);
    let t = l.b.temp();
    l.b.alu(op, l.bits(0), t, a, b);
    l.put(t)
}

/// MULX: the high half to the first operand, the low half to the second; no flags.
fn multiply(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let v = l.read_zx(2);
    let rdx = l.zext(crate::state::RDX, bits);
    let low = l.b.new2(Op::Mul64, rdx, v);
    let high = if bits == 64 { l.b.new2(Op::MulHiU64, rdx, v) } else { l.b.new_imm(Op::Shr64I, low, 32) };
    l.set_clean(high, bits == 32);
    l.write(1, low);
    l.write(0, high);
    Some(Flow::Next)
}

fn by_mask(l: &mut Lifter, op: Op) -> Lifted {
    let mask = l.read_zx(2);
    let v = l.read(1);
    let r = l.b.new2(op, v, mask);
    l.put(r)
}

fn rotate(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let v = l.read(1);
    let left = u64::from(bits) - u64::from(l.i.immediate8()) % u64::from(bits);
    let op = if bits == 64 { Op::Rotl64I } else { Op::Rotl32I };
    let r = l.b.new_imm(op, v, left % u64::from(bits));
    l.put(r)
}

fn shift(l: &mut Lifter, narrow: Op, wide: Op) -> Lifted {
    let op = if l.bits(0) == 64 { wide } else { narrow };
    let v = l.read(1);
    let n = l.read(2);
    let r = l.b.new2(op, v, n);
    l.put(r)
}

fn move_swapped(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let v = l.read(1);
    let t = l.b.temp();
    l.b.full(Op::Bswap, bits as u8, t, v, NONE, 0);
    l.put(t)
}
