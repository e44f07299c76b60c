//! Formats, unpacking, and the one place that rounds.

use super::{Arch, Rounding, Rules, flags};

/// A binary interchange format of at most 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// Bits of the exponent field.
    pub exp_bits: u32,
    /// Bits of the fraction field.
    pub frac_bits: u32,
}

/// binary16.
pub const F16: Format = Format { exp_bits: 5, frac_bits: 10 };
/// binary32.
pub const F32: Format = Format { exp_bits: 8, frac_bits: 23 };
/// binary64.
pub const F64: Format = Format { exp_bits: 11, frac_bits: 52 };

impl Format {
    /// Exponent field of infinities and NaNs.
    pub(super) const fn exp_max(self) -> u64 {
        (1 << self.exp_bits) - 1
    }

    /// Exponent bias; also the largest exponent of a finite number.
    pub(super) const fn bias(self) -> i32 {
        (1 << (self.exp_bits - 1)) - 1
    }

    /// Exponent of the smallest normal number.
    pub(super) const fn exp_min(self) -> i32 {
        1 - self.bias()
    }

    /// The fraction field, all ones.
    pub(super) const fn frac_mask(self) -> u64 {
        (1 << self.frac_bits) - 1
    }

    /// The quiet bit of a NaN.
    pub(super) const fn quiet_bit(self) -> u64 {
        1 << (self.frac_bits - 1)
    }

    /// The sign bit; none in a format that is too long for a value and serves to round alone.
    pub(super) const fn sign_bit(self) -> u64 {
        match 1_u64.checked_shl(self.exp_bits + self.frac_bits) {
            Some(bit) => bit,
            None => 0,
        }
    }

    /// Zero with a sign.
    pub(super) const fn zero(self, sign: bool) -> u64 {
        if sign { self.sign_bit() } else { 0 }
    }

    /// Infinity with a sign.
    pub(super) const fn infinity(self, sign: bool) -> u64 {
        self.zero(sign) | self.exp_max() << self.frac_bits
    }

    /// The largest finite number with a sign.
    pub(super) const fn largest(self, sign: bool) -> u64 {
        self.infinity(sign) - 1
    }
}

/// Kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    /// Normal or denormal; exponent and significand are valid.
    Finite,
    Infinity,
    QuietNan,
    SignallingNan,
}

/// A value taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpacked {
    pub class: Class,
    pub sign: bool,
    /// Of a finite value: the exponent of the significand's top bit.
    pub exp: i32,
    /// Of a finite value: normalised, bit 63 set.
    pub sig: u64,
    /// The pattern, for NaNs.
    pub bits: u64,
    /// Was denormal, and has not been flushed.
    pub denormal: bool,
}

impl Unpacked {
    pub(super) fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignallingNan)
    }
}

/// Takes `bits` apart. A denormal that the rules flush becomes a zero here (and raises, on aarch64).
pub(super) fn unpack(f: Format, bits: u64, rules: Rules, raised: &mut u32) -> Unpacked {
    let sign = bits & f.sign_bit() != 0;
    let exp = bits >> f.frac_bits & f.exp_max();
    let frac = bits & f.frac_mask();
    let mut value = Unpacked { class: Class::Finite, sign, exp: 0, sig: 0, bits, denormal: false };
    if exp == f.exp_max() {
        value.class = match frac {
            0 => Class::Infinity,
            _ if frac & f.quiet_bit() != 0 => Class::QuietNan,
            _ => Class::SignallingNan,
        };
    } else if exp != 0 {
        value.exp = exp as i32 - f.bias();
        value.sig = (frac | 1 << f.frac_bits) << (63 - f.frac_bits);
    } else if frac == 0 {
        value.class = Class::Zero;
    } else if rules.flush.inputs {
        value.class = Class::Zero;
        if rules.arch == Arch::Aarch64 {
            *raised |= flags::DENORMAL;
        }
    } else {
        let shift = frac.leading_zeros();
        value.sig = frac << shift;
        value.exp = f.exp_min() + 63 - f.frac_bits as i32 - shift as i32;
        value.denormal = true;
    }
    value
}

/// Right shift that keeps "some bit was lost" in the lowest bit.
pub(super) fn shift_right_sticky(sig: u128, count: u32) -> u128 {
    match count {
        0 => sig,
        1..=127 => sig >> count | u128::from(sig << (128 - count) != 0),
        _ => u128::from(sig != 0),
    }
}

/// Drops the low `drop` bits (1 to 128), rounding: (kept bits, whether anything was lost).
pub(super) fn round_off(sign: bool, sig: u128, drop: u32, rounding: Rounding) -> (u128, bool) {
    let (kept, rest) = if drop >= 128 { (0, sig) } else { (sig >> drop, sig << (128 - drop)) };
    let half = 1 << 127;
    let up = match rounding {
        Rounding::NearestEven => rest > half || rest == half && kept & 1 != 0,
        Rounding::NearestAway => rest >= half,
        Rounding::TowardZero | Rounding::ToOdd => false,
        Rounding::Up => !sign && rest != 0,
        Rounding::Down => sign && rest != 0,
    };
    let odd = rounding == Rounding::ToOdd && rest != 0;
    ((kept + u128::from(up)) | u128::from(odd), rest != 0)
}

/// Rounds ±`sig` × 2^(`exp` − 127), bit 127 of `sig` set and bit 0 sticky, to a value of the format.
pub(super) fn round_pack(f: Format, sign: bool, exp: i32, sig: u128, rules: Rules, raised: &mut u32) -> u64 {
    let precision = f.frac_bits + 1;
    let drop = 128 - precision;
    let (unbounded, _) = round_off(sign, sig, drop, rules.rounding);
    let carried = unbounded >> precision != 0;
    let exp_after = exp + i32::from(carried);
    let tiny = if rules.tiny_after_rounding() { exp_after } else { exp } < f.exp_min();
    if tiny && rules.flush.outputs {
        *raised |= flags::UNDERFLOW;
        if rules.arch == Arch::X86 {
            *raised |= flags::INEXACT;
        }
        return f.zero(sign);
    }
    if exp < f.exp_min() {
        // Denormal, or rounded up to the smallest normal number: the carry lands in the exponent field by itself.
        let extra = exp.abs_diff(f.exp_min());
        let (kept, inexact) = round_off(sign, shift_right_sticky(sig, extra), drop, rules.rounding);
        if inexact {
            *raised |= flags::INEXACT | if tiny { flags::UNDERFLOW } else { 0 };
        }
        return f.zero(sign) | kept as u64;
    }
    if exp_after > f.bias() {
        *raised |= flags::OVERFLOW | flags::INEXACT;
        let to_infinity = match rules.rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::TowardZero | Rounding::ToOdd => false,
            Rounding::Up => !sign,
            Rounding::Down => sign,
        };
        return if to_infinity { f.infinity(sign) } else { f.largest(sign) };
    }
    if sig << precision != 0 {
        *raised |= flags::INEXACT;
    }
    let field = u64::from((exp_after + f.bias()).unsigned_abs());
    let frac = if carried { 0 } else { unbounded as u64 & f.frac_mask() };
    f.zero(sign) | field << f.frac_bits | frac
}
