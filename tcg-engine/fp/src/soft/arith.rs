//! Add, subtract, multiply, divide, fused multiply-add, square root, compare.

use super::format::{Class, Format, Unpacked, round_pack, shift_right_sticky, unpack};
use super::nan::{invalid, propagate};
use super::{Arch, Relation, Rounding, Rules, flags};

/// Raises the x86 "denormal operand" flag, which the other architectures do not have.
fn note_denormals(operands: &[Unpacked], rules: Rules, raised: &mut u32) {
    if rules.arch == Arch::X86 && operands.iter().any(|x| x.denormal) {
        *raised |= flags::DENORMAL;
    }
}

/// a + b
#[must_use]
pub fn add(f: Format, a: u64, b: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let (a, b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    (sum(f, a, b, rules, &mut raised), raised)
}

/// a − b
#[must_use]
pub fn sub(f: Format, a: u64, b: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let (a, mut b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    // The sign of a NaN that is handed on stays: it is in its pattern.
    b.sign = !b.sign;
    (sum(f, a, b, rules, &mut raised), raised)
}

fn sum(f: Format, a: Unpacked, b: Unpacked, rules: Rules, raised: &mut u32) -> u64 {
    if let Some(nan) = propagate(f, &[a, b], rules, raised) {
        return nan;
    }
    if a.class == Class::Infinity && b.class == Class::Infinity && a.sign != b.sign {
        return invalid(f, rules, raised);
    }
    note_denormals(&[a, b], rules, raised);
    match (a.class, b.class) {
        (Class::Infinity, _) => f.infinity(a.sign),
        (_, Class::Infinity) => f.infinity(b.sign),
        (Class::Zero, Class::Zero) => f.zero(zero_sign(a.sign, b.sign, rules)),
        _ => {
            let (a, b) = (Term::of(a), Term::of(b));
            sum_terms(f, a, b, rules, raised)
        }
    }
}

/// Sign of a zero sum of two terms.
fn zero_sign(a: bool, b: bool, rules: Rules) -> bool {
    if a == b { a } else { rules.rounding == Rounding::Down }
}

/// A finite number or zero, as ±`sig` × 2^(`exp` − 126): bit 126 is the top bit, so that a sum does not overflow.
#[derive(Clone, Copy)]
struct Term {
    sign: bool,
    exp: i32,
    sig: u128,
}

impl Term {
    fn of(x: Unpacked) -> Self {
        let sig = if x.class == Class::Finite { u128::from(x.sig) << 63 } else { 0 };
        Self { sign: x.sign, exp: x.exp, sig }
    }
}

/// Sum of two terms, not both zero.
fn sum_terms(f: Format, a: Term, b: Term, rules: Rules, raised: &mut u32) -> u64 {
    let (large, small) = if b.sig == 0 || a.sig != 0 && (a.exp, a.sig) >= (b.exp, b.sig) { (a, b) } else { (b, a) };
    let shifted = shift_right_sticky(small.sig, if small.sig == 0 { 0 } else { large.exp.abs_diff(small.exp) });
    let sig = if large.sign == small.sign { large.sig + shifted } else { large.sig - shifted };
    if sig == 0 {
        return f.zero(zero_sign(large.sign, small.sign, rules));
    }
    let shift = sig.leading_zeros();
    round_pack(f, large.sign, large.exp + 1 - shift as i32, sig << shift, rules, raised)
}

/// Product of two finite numbers, exact: bit 126 of the significand set.
fn product(a: Unpacked, b: Unpacked) -> Term {
    let sig = u128::from(a.sig) * u128::from(b.sig);
    let exp = a.exp + b.exp;
    let sign = a.sign != b.sign;
    // Formats of at most 53 bits of precision leave the low bits of the product zero.
    if sig >> 127 != 0 { Term { sign, exp: exp + 1, sig: sig >> 1 } } else { Term { sign, exp, sig } }
}

/// a × b
#[must_use]
pub fn mul(f: Format, a: u64, b: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let (a, b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    let sign = a.sign != b.sign;
    let value = if let Some(nan) = propagate(f, &[a, b], rules, &mut raised) {
        nan
    } else if is_infinity_times_zero(&a, &b) {
        invalid(f, rules, &mut raised)
    } else {
        note_denormals(&[a, b], rules, &mut raised);
        match (a.class, b.class) {
            (Class::Infinity, _) | (_, Class::Infinity) => f.infinity(sign),
            (Class::Zero, _) | (_, Class::Zero) => f.zero(sign),
            _ => {
                let p = product(a, b);
                round_pack(f, sign, p.exp, p.sig << 1, rules, &mut raised)
            }
        }
    };
    (value, raised)
}

fn is_infinity_times_zero(a: &Unpacked, b: &Unpacked) -> bool {
    matches!((a.class, b.class), (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity))
}

/// a ÷ b
#[must_use]
pub fn div(f: Format, a: u64, b: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let (a, b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    let sign = a.sign != b.sign;
    if let Some(nan) = propagate(f, &[a, b], rules, &mut raised) {
        return (nan, raised);
    }
    let value = match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => invalid(f, rules, &mut raised),
        (Class::Finite, Class::Zero) => {
            raised |= flags::DIV_BY_ZERO;
            f.infinity(sign)
        }
        _ => {
            note_denormals(&[a, b], rules, &mut raised);
            match (a.class, b.class) {
                (Class::Infinity, _) => f.infinity(sign),
                (Class::Zero, _) | (_, Class::Infinity) => f.zero(sign),
                _ => {
                    let numerator = u128::from(a.sig) << 63;
                    let quotient = numerator / u128::from(b.sig);
                    let rest = numerator % u128::from(b.sig);
                    let sig = quotient << 64 | u128::from(rest != 0);
                    let shift = sig.leading_zeros();
                    round_pack(f, sign, a.exp - b.exp - shift as i32, sig << shift, rules, &mut raised)
                }
            }
        }
    };
    (value, raised)
}

/// a × b + c, rounded once.
#[must_use]
pub fn fma(f: Format, a: u64, b: u64, c: u64, rules: Rules) -> (u64, u32) {
    fused(f, f, [a, b, c], Signs::default(), rules)
}

/// What a fused operation negates besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// The product.
    pub product: bool,
    /// The addend.
    pub addend: bool,
}

/// ±(a × b) ± c of the format `f`, rounded once. A NaN that is handed on keeps its sign. Finite results are rounded to the
/// format `to`: one with a longer exponent than `f` tells what is inexact with an unbounded exponent (only the flags of such
/// a call mean anything).
#[must_use]
pub fn fused(f: Format, to: Format, [a, b, c]: [u64; 3], negate: Signs, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let (mut a, b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    let mut c = unpack(f, c, rules, &mut raised);
    a.sign ^= negate.product;
    c.sign ^= negate.addend;
    let undefined = is_infinity_times_zero(&a, &b);
    // ∞ × 0 + NaN: x86 returns the NaN (a quiet one raises nothing); aarch64 returns the default NaN for a quiet one, s390x
    // for any ("Results: MULTIPLY AND ADD", part 1: the product decides first).
    let product_decides = rules.arch == Arch::S390x || rules.arch == Arch::Aarch64 && c.class == Class::QuietNan;
    if undefined && product_decides {
        return (invalid(f, rules, &mut raised), raised);
    }
    let order = if rules.arch == Arch::Aarch64 { [c, a, b] } else { [a, b, c] };
    if let Some(nan) = propagate(f, &order, rules, &mut raised) {
        return (nan, raised);
    }
    let sign = a.sign != b.sign;
    let infinite = a.class == Class::Infinity || b.class == Class::Infinity;
    if undefined || infinite && c.class == Class::Infinity && sign != c.sign {
        return (invalid(f, rules, &mut raised), raised);
    }
    note_denormals(&[a, b, c], rules, &mut raised);
    let value = if infinite {
        f.infinity(sign)
    } else if c.class == Class::Infinity {
        f.infinity(c.sign)
    } else if a.class == Class::Zero || b.class == Class::Zero {
        match c.class {
            Class::Zero => f.zero(zero_sign(sign, c.sign, rules)),
            _ => sum_terms(to, Term { sign, exp: 0, sig: 0 }, Term::of(c), rules, &mut raised),
        }
    } else {
        sum_terms(to, product(a, b), Term::of(c), rules, &mut raised)
    };
    (value, raised)
}

/// √a
#[must_use]
pub fn sqrt(f: Format, a: u64, rules: Rules) -> (u64, u32) {
    let mut raised = 0;
    let a = unpack(f, a, rules, &mut raised);
    if let Some(nan) = propagate(f, &[a], rules, &mut raised) {
        return (nan, raised);
    }
    let value = match a.class {
        Class::Zero => f.zero(a.sign),
        _ if a.sign => invalid(f, rules, &mut raised),
        Class::Infinity => f.infinity(false),
        _ => {
            note_denormals(&[a], rules, &mut raised);
            // An even exponent, and a radicand of 127 or 128 bits: a root of 64 bits.
            let radicand = u128::from(a.sig) << if a.exp & 1 == 0 { 63 } else { 64 };
            let root = radicand.isqrt();
            let sig = root << 64 | u128::from(root * root != radicand);
            let shift = sig.leading_zeros();
            round_pack(f, false, (a.exp >> 1) - shift as i32, sig << shift, rules, &mut raised)
        }
    };
    (value, raised)
}

/// Compares; a signalling NaN is invalid, and with `signalling` a quiet one too.
#[must_use]
pub fn compare(f: Format, a: u64, b: u64, signalling: bool, rules: Rules) -> (Relation, u32) {
    let mut raised = 0;
    let (a, b) = (unpack(f, a, rules, &mut raised), unpack(f, b, rules, &mut raised));
    if a.is_nan() || b.is_nan() {
        let trap = signalling || a.class == Class::SignallingNan || b.class == Class::SignallingNan;
        return (Relation::Unordered, raised | if trap { flags::INVALID } else { 0 });
    }
    note_denormals(&[a, b], rules, &mut raised);
    // Order by sign, then by magnitude: patterns without sign compare as integers, flushed denormals as zero.
    let key = |x: &Unpacked| {
        let magnitude = if x.class == Class::Zero { 0 } else { (x.bits & !f.sign_bit()).cast_signed() };
        if x.sign { -magnitude } else { magnitude }
    };
    let relation = match key(&a).cmp(&key(&b)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    };
    (relation, raised)
}
