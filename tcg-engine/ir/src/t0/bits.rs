//! Bit manipulation: BMI1, BMI2 and LZCNT.

use crate::flags::x86::{CF, SF, ZF};
use crate::op::AluOp;

/// Result and flags of an operation from [`AluOp::Andn`] on; `a` has no ones above `bits`.
pub(super) fn manipulate(op: AluOp, bits: u32, a: u64, b: u64) -> (u64, u64) {
    let mask = u64::MAX >> (64 - bits);
    let low = |n: u64| if n < 64 { (1 << n) - 1 } else { u64::MAX };
    let (v, carry) = match op {
        AluOp::Andn => (!a & b, false),
        AluOp::Blsi => (a & a.wrapping_neg(), a != 0),
        AluOp::Blsr => (a & a.wrapping_sub(1), a == 0),
        AluOp::Blsmsk => (a ^ a.wrapping_sub(1), a == 0),
        AluOp::Bextr => (a.checked_shr(b as u32 & 0xff).unwrap_or(0) & low(b >> 8 & 0xff), false),
        AluOp::Bzhi => (a & low(b & 0xff), b & 0xff >= u64::from(bits)),
        AluOp::Tzcnt => (u64::from(a.trailing_zeros().min(bits)), a == 0),
        // The last one.
        _ => (u64::from(a.leading_zeros() + bits - 64), a == 0),
    };
    let v = v & mask;
    let has_sign = !matches!(op, AluOp::Bextr | AluOp::Tzcnt | AluOp::Lzcnt);
    let mut flags = if v == 0 { ZF } else { 0 };
    flags |= if carry { CF } else { 0 };
    flags |= if has_sign && v >> (bits - 1) != 0 { SF } else { 0 };
    (v, flags)
}

/// The low bits of `v` to where `mask` has ones.
pub(super) fn scatter(mut v: u64, mut mask: u64) -> u64 {
    let mut out = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if v & 1 != 0 {
            out |= lowest;
        }
        v >>= 1;
        mask ^= lowest;
    }
    out
}

/// The bits of `v` where `mask` has ones, together.
pub(super) fn gather(v: u64, mut mask: u64) -> u64 {
    let (mut out, mut to) = (0, 1u64);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if v & lowest != 0 {
            out |= to;
        }
        to = to.wrapping_shl(1);
        mask ^= lowest;
    }
    out
}
