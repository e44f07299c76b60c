//! The conversions of F16C, in portable code: between binary16 and binary32 (Intel SDM volume 1, 14.4).
//!
//! Halves are never flushed to zero, neither read nor written, and a denormal one raises nothing.

use super::unmasked::{PRE, is_tiny};
use super::{mxcsr, traps};
use crate::soft::{self, F16, F32, Flush, Format, Rules};

/// A format with the precision of a half, and exponents for every single.
const WIDE_HALF: Format = Format { exp_bits: 12, frac_bits: 10 };

fn lane(v: u128, n: u32, bits: u32) -> u64 {
    (v >> (n * bits) & (u128::MAX >> (128 - bits))) as u64
}

/// `vcvtph2ps`: four halves to singles, which is exact.
pub(super) fn widen(b: u128, mxcsr: u32) -> (u128, u32) {
    let rules = Rules { flush: Flush::default(), ..Rules::x86(mxcsr) };
    (0..4).fold((0, 0), |(value, flags), n| {
        let (v, raised) = soft::convert(F16, F32, lane(b, n, 16), rules);
        (value | u128::from(v) << (32 * n), flags | raised & mxcsr::IE)
    })
}

/// `vcvtps2ph`: four singles to halves.
pub(super) fn narrow(b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    let control = if imm & 4 != 0 { mxcsr } else { mxcsr & !mxcsr::RC | u32::from(imm & 3) << mxcsr::RC_SHIFT };
    let inputs = mxcsr & mxcsr::DAZ != 0;
    let rules = Rules { flush: Flush { inputs, outputs: false }, ..Rules::x86(control) };
    let (mut value, mut flags) = (0, 0);
    for n in 0..4 {
        let x = lane(b, n, 32);
        let (v, mut raised) = soft::convert(F32, F16, x, rules);
        value |= u128::from(v) << (16 * n);
        if traps(mxcsr::UE, mxcsr) && is_tiny(v & 0x7fff, F16.frac_bits) {
            raised |= mxcsr::UE;
        }
        if raised & mxcsr::PE != 0 && traps(raised & (mxcsr::OE | mxcsr::UE), mxcsr) {
            // With an unbounded exponent; a denormal operand counts as inexact (so processors do, the manual does not say).
            let inexact = soft::convert(F32, WIDE_HALF, x, rules).1 & mxcsr::PE != 0 || raised & mxcsr::DE != 0;
            raised = raised & !mxcsr::PE | if inexact { mxcsr::PE } else { 0 };
        }
        flags |= raised;
    }
    (value, if traps(flags & PRE, mxcsr) { flags & PRE } else { flags })
}
