//! Conversions between formats, to and from integers, and rounding to an integral value.

use super::format::{Class, Format, Unpacked, round_off, round_pack, shift_right_sticky, unpack};
use super::nan::{default_nan, propagate};
use super::{Arch, Rounding, Rules, flags};

/// Converts `a` from one format to another. The payload of a NaN keeps its most significant bits.
#[must_use]
pub fn convert(from: Format, to: Format, a: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let a = unpack(from, a, rules, &mut raised);
    if let Some(nan) = propagate(from, &[a], rules, &mut raised) {
        if rules.default_nan {
            return (default_nan(to, rules), raised);
        }
        let payload = (nan & from.frac_mask()) << (64 - from.frac_bits) >> (64 - to.frac_bits);
        return (to.infinity(a.sign) | payload, raised);
    }
    if a.denormal && rules.arch == Arch::X86 {
        raised |= flags::DENORMAL;
    }
    let value = match a.class {
        Class::Zero => to.zero(a.sign),
        Class::Finite => round_pack(to, a.sign, a.exp, u128::from(a.sig) << 64, rules, &mut raised),
        _ => to.infinity(a.sign),
    };
    (value, raised)
}

/// Magnitude of a finite number or zero, rounded to an integer: (integer, inexact); numbers beyond 2^65 are not exact.
fn integer(a: &Unpacked, rounding: Rounding) -> (u128, bool) {
    if a.class == Class::Zero {
        return (0, false);
    }
    // Point between bits 63 and 62 of the significand: exponent 63 leaves nothing to drop.
    let sig = u128::from(a.sig);
    match a.exp {
        64.. => (sig << (a.exp - 63).min(64), false),
        63 => (sig, false),
        _ => {
            let drop = (63 - a.exp).unsigned_abs();
            let (sig, drop) = if drop > 66 { (shift_right_sticky(sig, drop - 66), 66) } else { (sig, drop) };
            round_off(a.sign, sig, drop, rounding)
        }
    }
}

/// Converts `a` to an integer of `bits` (1 to 64), two's complement if `signed`; the result is truncated to `bits`.
///
/// What does not fit is invalid and gives what [`Rules::arch`] says; it is not inexact as well.
#[must_use]
pub fn to_int(f: Format, a: u64, bits: u32, signed: bool, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let a = unpack(f, a, rules, &mut raised);
    let all = u64::MAX >> (64 - bits);
    let lowest = if signed { 1 << (bits - 1) } else { 0 };
    let highest = if signed { lowest - 1 } else { all };
    let misfit = |negative: bool| match (rules.arch, a.is_nan()) {
        (Arch::X86, _) => {
            if signed {
                lowest
            } else {
                all
            }
        }
        (Arch::Aarch64, true) => 0,
        (Arch::S390x, true) => lowest,
        _ => {
            if negative {
                lowest
            } else {
                highest
            }
        }
    };
    if a.is_nan() || a.class == Class::Infinity {
        return (misfit(a.sign), raised | flags::INVALID);
    }
    let (magnitude, inexact) = integer(&a, rules.rounding);
    let limit = u128::from(if a.sign { lowest } else { highest });
    if magnitude > limit {
        return (misfit(a.sign), raised | flags::INVALID);
    }
    let magnitude = magnitude as u64;
    let value = if a.sign { magnitude.wrapping_neg() } else { magnitude };
    (value & all, raised | if inexact { flags::INEXACT } else { 0 })
}

/// Converts the low `bits` (1 to 64) of `value` to the format.
#[must_use]
pub fn from_int(f: Format, value: u64, bits: u32, signed: bool, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let value = value << (64 - bits);
    let sign = signed && value >> 63 != 0;
    let value = if signed { (value.cast_signed() >> (64 - bits)).cast_unsigned() } else { value >> (64 - bits) };
    let magnitude = if sign { value.wrapping_neg() } else { value };
    if magnitude == 0 {
        return (f.zero(false), 0);
    }
    let shift = magnitude.leading_zeros();
    let sig = u128::from(magnitude << shift) << 64;
    (round_pack(f, sign, 63 - shift as i32, sig, rules, &mut raised), raised)
}

/// Rounds to an integral value of the same format; raises inexact only if `report_inexact`.
#[must_use]
pub fn round_to_integral(f: Format, a: u64, report_inexact: bool, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let a = unpack(f, a, rules, &mut raised);
    if let Some(nan) = propagate(f, &[a], rules, &mut raised) {
        return (nan, raised);
    }
    let value = match a.class {
        Class::Infinity => f.infinity(a.sign),
        Class::Zero => f.zero(a.sign),
        // Already integral.
        _ if a.exp >= f.frac_bits as i32 => a.bits,
        _ => {
            let (magnitude, inexact) = integer(&a, rules.rounding);
            if inexact && report_inexact {
                raised |= flags::INEXACT;
            }
            let magnitude = magnitude as u64;
            if magnitude == 0 {
                f.zero(a.sign)
            } else {
                let shift = magnitude.leading_zeros();
                let sig = u128::from(magnitude << shift) << 64;
                round_pack(f, a.sign, 63 - shift as i32, sig, rules, &mut raised)
            }
        }
    };
    (value, raised)
}
