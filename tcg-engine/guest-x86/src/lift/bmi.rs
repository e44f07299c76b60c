//! Bit manipulation of x86-64-v3: BMI1, BMI2, LZCNT and MOVBE. All of it is integer operations; PDEP and PEXT are helpers.

use iced_x86::{EncodingKind, Mnemonic};
use ir::{AluOp, NONE, Op, Rel, Slot};

use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;
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
        Mnemonic::Andn => and_not(l),
        Mnemonic::Blsi | Mnemonic::Blsr | Mnemonic::Blsmsk => lowest_set(l),
        Mnemonic::Bextr => extract(l),
        Mnemonic::Bzhi => zero_high(l),
        Mnemonic::Tzcnt => count_zeros(l, Op::Ctz),
        Mnemonic::Lzcnt => count_zeros(l, Op::Clz),
        Mnemonic::Mulx => multiply(l),
        Mnemonic::Pdep => scatter(l, Helper::Deposit),
        Mnemonic::Pext => scatter(l, Helper::Gather),
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

    fn is(&mut self, rel: Rel, a: Slot, imm: u64) -> Slot {
        let t = self.b.temp();
        self.b.full(Op::SetRelI, rel as u8, t, a, NONE, imm);
        t
    }

    /// SF and ZF of `r` (zero-extended), the given CF, everything else clear.
    fn sign_zero_carry(&mut self, r: Slot, bits: u32, carry: Slot) {
        let zero = self.is(Rel::Eq, r, 0);
        let zero = self.b.new_imm(Op::Shl64I, zero, 6);
        let sign = self.b.new_imm(Op::Shr64I, r, u64::from(bits - 1));
        let sign = self.b.new_imm(Op::Shl64I, sign, 7);
        let both = self.b.new2(Op::Or, zero, sign);
        let all = self.b.new2(Op::Or, both, carry);
        self.explicit_flags(all);
    }
}

fn and_not(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let b = l.read(2);
    let a = l.read(1);
    let r = if l.flags_live() {
        let inverse = l.b.new_imm(Op::Not, a, 0);
        let t = l.b.temp();
        l.b.alu(AluOp::And, bits, t, inverse, b);
        t
    } else {
        let t = l.b.new2(Op::AndNot, b, a);
        l.zext(t, bits)
    };
    l.put(r)
}

/// BLSI, BLSR, BLSMSK: what the source makes with the source minus one, or with its negative.
fn lowest_set(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let v = l.read_zx(1);
    let (other, op) = match l.i.mnemonic() {
        Mnemonic::Blsi => (l.b.new_imm(Op::Neg64, v, 0), Op::And),
        Mnemonic::Blsr => (l.b.new_imm(Op::Sub64I, v, 1), Op::And),
        _ => (l.b.new_imm(Op::Sub64I, v, 1), Op::Xor),
    };
    let t = l.b.new2(op, v, other);
    let r = l.zext(t, bits);
    if l.flags_live() {
        let rel = if l.i.mnemonic() == Mnemonic::Blsi { Rel::Ne } else { Rel::Eq };
        let carry = l.is(rel, v, 0);
        l.sign_zero_carry(r, bits, carry);
    }
    l.put(r)
}

/// `v & ((1 << n) - 1)`, with all of `v` if `n` is 64 or more.
fn low_bits(l: &mut Lifter, v: Slot, n: Slot) -> Slot {
    let one = l.constant(1);
    let power = l.b.new2(Op::Shl64, one, n);
    let mask = l.b.new_imm(Op::Sub64I, power, 1);
    let masked = l.b.new2(Op::And, v, mask);
    let less = l.is(Rel::Ltu, n, 64);
    l.select(less, masked, v)
}

fn extract(l: &mut Lifter) -> Lifted {
    let v = l.read_zx(1);
    let control = l.read(2);
    let start = l.b.new_imm(Op::Extract, control, 8 << 8);
    let len = l.b.new_imm(Op::Extract, control, 8 | 8 << 8);
    let shifted = l.b.new2(Op::Shr64, v, start);
    let within = l.is(Rel::Ltu, start, 64);
    let zero = l.constant(0);
    let shifted = l.select(within, shifted, zero);
    let r = low_bits(l, shifted, len);
    if l.flags_live() {
        let bits = l.bits(0);
        // SF is undefined.
        l.sign_zero_carry(r, bits, zero);
    }
    l.put(r)
}

fn zero_high(l: &mut Lifter) -> Lifted {
    let bits = l.bits(0);
    let v = l.read_zx(1);
    let control = l.read(2);
    let n = l.b.new_imm(Op::Zext8, control, 0);
    let r = low_bits(l, v, n);
    if l.flags_live() {
        let fits = l.is(Rel::Ltu, n, u64::from(bits));
        let beyond = l.b.new_imm(Op::XorI, fits, 1);
        l.sign_zero_carry(r, bits, beyond);
    }
    l.put(r)
}

fn count_zeros(l: &mut Lifter, op: Op) -> Lifted {
    let bits = l.bits(0);
    let v = l.read_zx(1);
    let n = l.b.temp();
    l.b.full(op, bits as u8, n, v, NONE, 0);
    if l.flags_live() {
        let carry = l.is(Rel::Eq, v, 0);
        // The sign bit of a count is never set.
        l.sign_zero_carry(n, 64, carry);
    }
    l.put(n)
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

fn scatter(l: &mut Lifter, helper: Helper) -> Lifted {
    let mask = l.read_zx(2);
    let v = l.read_zx(1);
    let r = l.call_value(helper, v, mask, 0);
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
