//! x86 rules against the host's SSE and FMA units, over all pairs of special values and over random ones; the other
//! architectures' rules against cases from their manuals.

use super::*;
use crate::sse::{self, FpOp, mxcsr};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Values where formats, rounding and flags change, for each format.
fn specials(f: Format) -> Vec<u64> {
    let one = (f.bias() as u64) << f.frac_bits;
    let step = |exp: i64| ((i64::from(f.bias()) + exp) as u64) << f.frac_bits;
    let smallest = 1 << f.frac_bits;
    let mut values = vec![
        0,
        1,
        2,
        3,
        smallest / 2,
        smallest - 1,
        smallest,
        smallest + 1,
        smallest * 2,
        smallest * 2 - 1,
        one,
        one + 1,
        one - 1,
        one | 1 << (f.frac_bits - 1),
        step(-1),
        step(1),
        step(1) | (smallest / 4),
        step(31),
        step(31) - 1,
        step(63),
        step(63) - 1,
        step(64),
        step(i64::from(f.frac_bits)),
        step(i64::from(f.frac_bits)) + 1,
        step(i64::from(f.frac_bits) - 1) + 1,
        step(-i64::from(f.frac_bits) - 1),
        step(-i64::from(f.frac_bits) - 1) + 1,
        step(-i64::from(f.bias()) / 2),
        step(-i64::from(f.bias()) / 2) + 12345,
        step(i64::from(f.bias()) / 2 + 1),
        f.largest(false),
        f.largest(false) - 1,
        f.infinity(false),
        f.infinity(false) | f.quiet_bit(),
        f.infinity(false) | f.quiet_bit() | 0x155,
        f.infinity(false) | 1,
        f.infinity(false) | f.quiet_bit() >> 1,
    ];
    if f == F64 {
        // Where a conversion to single changes its mind.
        values.extend([
            0x380f_ffff_ffff_ffff,
            0x380f_ffff_f000_0000,
            0x3810_0000_0000_0000,
            0x36a0_0000_0000_0000,
            0x3690_0000_0000_0000,
            0x47ef_ffff_efff_ffff,
            0x47ef_ffff_f000_0000,
            0x3ff0_0000_1000_0000,
        ]);
    }
    values.extend(values.clone().iter().map(|v| v | f.sign_bit()));
    values
}

/// A random value: any pattern, or one near 1, where operations interact, with few or many significant bits.
fn random(f: Format, rng: &mut SmallRng) -> u64 {
    let any = rng.random::<u64>() & (f.sign_bit() << 1).wrapping_sub(1);
    let exp =
        |rng: &mut SmallRng, span: i64| ((i64::from(f.bias()) + rng.random_range(-span..=span)) as u64) << f.frac_bits;
    let trimmed = any & f.frac_mask() & u64::MAX << rng.random_range(0..=f.frac_bits);
    match rng.random_range(0..4) {
        0 => any,
        1 => any & f.sign_bit() | exp(rng, 3) | any & f.frac_mask(),
        2 => any & f.sign_bit() | exp(rng, 64.min(i64::from(f.bias()) - 1)) | trimmed,
        _ => any & f.sign_bit() | exp(rng, i64::from(f.bias()) - 1) | trimmed,
    }
}

/// Every control word that matters: rounding × DAZ × FTZ, all masked.
fn controls() -> impl Iterator<Item = u32> {
    (0..4).flat_map(|rc| {
        (0..4).map(move |f| {
            mxcsr::MASKS | rc << 13 | if f & 1 != 0 { mxcsr::DAZ } else { 0 } | if f & 2 != 0 { mxcsr::FTZ } else { 0 }
        })
    })
}

fn check2(name: &str, f: Format, op: FpOp, soft: impl Fn(u64, u64, Rules) -> (u64, u32), a: u64, b: u64, control: u32) {
    let mask = u128::from((f.sign_bit() << 1).wrapping_sub(1));
    let (value, flags) = sse::eval(op, a.into(), b.into(), 0, control);
    let want = ((value & mask) as u64, flags);
    assert_eq!(soft(a, b, Rules::x86(control)), want, "{name} {a:#x} {b:#x} mxcsr {control:#x}");
}

fn check_pair(f: Format, a: u64, b: u64, control: u32) {
    let single = f == F32;
    let pick = |s, d| if single { s } else { d };
    check2("add", f, pick(FpOp::AddSs, FpOp::AddSd), |a, b, r| add(f, a, b, r), a, b, control);
    check2("sub", f, pick(FpOp::SubSs, FpOp::SubSd), |a, b, r| sub(f, a, b, r), a, b, control);
    check2("mul", f, pick(FpOp::MulSs, FpOp::MulSd), |a, b, r| mul(f, a, b, r), a, b, control);
    check2("div", f, pick(FpOp::DivSs, FpOp::DivSd), |a, b, r| div(f, a, b, r), a, b, control);
    let relation = |eflags: u128| match eflags & 0x45 {
        0x00 => Relation::Greater,
        0x01 => Relation::Less,
        0x40 => Relation::Equal,
        _ => Relation::Unordered,
    };
    for (op, signalling) in [(pick(FpOp::ComiSs, FpOp::ComiSd), true), (pick(FpOp::UcomiSs, FpOp::UcomiSd), false)] {
        let (eflags, flags) = sse::eval(op, a.into(), b.into(), 0, control);
        let got = compare(f, a, b, signalling, Rules::x86(control));
        assert_eq!(got, (relation(eflags), flags), "{op:?} {a:#x} {b:#x} {control:#x}");
    }
}

fn check_one(f: Format, a: u64, control: u32) {
    let single = f == F32;
    let pick = |s, d| if single { s } else { d };
    check2("sqrt", f, pick(FpOp::SqrtSs, FpOp::SqrtSd), |_, b, r| sqrt(f, b, r), 0, a, control);
    let integral = |_, b, r| round_to_integral(f, b, true, r);
    let (value, flags) = sse::eval(pick(FpOp::RoundSs, FpOp::RoundSd), 0, a.into(), 4, control);
    assert_eq!(integral(0, a, Rules::x86(control)), (value as u64, flags), "round {a:#x} {control:#x}");
    let other = if single { F64 } else { F32 };
    check2("convert", other, pick(FpOp::CvtSs2Sd, FpOp::CvtSd2Ss), |_, b, r| convert(f, other, b, r), 0, a, control);
    for (op, bits, truncate) in [
        (pick(FpOp::CvtSs2Si32, FpOp::CvtSd2Si32), 32, false),
        (pick(FpOp::CvtSs2Si64, FpOp::CvtSd2Si64), 64, false),
        (pick(FpOp::CvttSs2Si32, FpOp::CvttSd2Si32), 32, true),
        (pick(FpOp::CvttSs2Si64, FpOp::CvttSd2Si64), 64, true),
    ] {
        let rules = Rules::x86(control);
        let rules = if truncate { rules.with_rounding(Rounding::TowardZero) } else { rules };
        let (value, flags) = sse::eval(op, 0, a.into(), 0, control);
        assert_eq!(to_int(f, a, bits, true, rules), (value as u64, flags), "{op:?} {a:#x} {control:#x}");
    }
    for (op, bits) in [(pick(FpOp::CvtSi2Ss32, FpOp::CvtSi2Sd32), 32), (pick(FpOp::CvtSi2Ss64, FpOp::CvtSi2Sd64), 64)] {
        let (value, flags) = sse::eval(op, 0, a.into(), 0, control);
        assert_eq!(
            from_int(f, a, bits, true, Rules::x86(control)),
            (value as u64, flags),
            "{op:?} {a:#x} {control:#x}"
        );
    }
}

#[test]
fn all_pairs_of_special_values_agree_with_sse() {
    for f in [F32, F64] {
        let values = specials(f);
        for control in controls() {
            for &a in &values {
                check_one(f, a, control);
                for &b in &values {
                    check_pair(f, a, b, control);
                }
            }
        }
    }
}

#[test]
fn random_values_agree_with_sse() {
    let mut rng = SmallRng::seed_from_u64(3);
    let controls: Vec<u32> = controls().collect();
    for f in [F32, F64] {
        for n in 0..100_000 {
            let control = controls[n % controls.len()];
            let (a, b) = (random(f, &mut rng), random(f, &mut rng));
            check_one(f, a, control);
            check_pair(f, a, b, control);
        }
    }
}

#[test]
fn fma_agrees_with_the_host() {
    if !std::arch::is_x86_feature_detected!("fma") {
        return;
    }
    let mut rng = SmallRng::seed_from_u64(4);
    for f in [F32, F64] {
        let values = specials(f);
        let controls: Vec<u32> = controls().collect();
        for n in 0..400_000 {
            let mut operand = || match rng.random::<bool>() {
                true => values[rng.random_range(0..values.len())],
                false => random(f, &mut rng),
            };
            let (a, b, c) = (operand(), operand(), operand());
            let control = controls[n % controls.len()];
            let want = crate::sse::tests::host_fma(f == F64, a, b, c, control);
            assert_eq!(fma(f, a, b, c, Rules::x86(control)), want, "{a:#x} {b:#x} {c:#x} mxcsr {control:#x}");
        }
    }
}

const ONE: u64 = 0x3f80_0000;
const QNAN1: u64 = 0x7fc0_0001;
const QNAN2: u64 = 0xffc0_0002;
const SNAN3: u64 = 0x7f80_0003;
const SNAN4: u64 = 0xff80_0004;
const INF: u64 = 0x7f80_0000;
const DEFAULT: u64 = 0x7fc0_0000;

/// Arm ARM, `FPProcessNaNs`, `FPProcessNaNs3`, `FPMulAdd`.
#[test]
fn aarch64_nans() {
    let rules = Rules::aarch64(0);
    let quiet = |v: u64| v | 0x0040_0000;
    assert_eq!(add(F32, QNAN1, QNAN2, rules), (QNAN1, 0));
    assert_eq!(add(F32, ONE, QNAN2, rules), (QNAN2, 0));
    assert_eq!(add(F32, QNAN1, SNAN4, rules), (quiet(SNAN4), flags::INVALID));
    assert_eq!(add(F32, SNAN3, SNAN4, rules), (quiet(SNAN3), flags::INVALID));
    assert_eq!(mul(F32, INF, 0, rules), (DEFAULT, flags::INVALID));
    assert_eq!(sqrt(F32, ONE | 0x8000_0000, rules), (DEFAULT, flags::INVALID));
    // The addend first.
    assert_eq!(fma(F32, QNAN1, ONE, QNAN2, rules), (QNAN2, 0));
    assert_eq!(fma(F32, SNAN3, ONE, QNAN2, rules), (quiet(SNAN3), flags::INVALID));
    assert_eq!(fma(F32, INF, 0, QNAN2, rules), (DEFAULT, flags::INVALID));
    let dn = Rules::aarch64(1 << 25);
    assert_eq!(add(F32, QNAN2, ONE, dn), (DEFAULT, 0));
    assert_eq!(add(F32, SNAN4, ONE, dn), (DEFAULT, flags::INVALID));
    assert_eq!(convert(F32, F64, QNAN2, dn), (0x7ff8_0000_0000_0000, 0));
    assert_eq!(convert(F32, F64, SNAN4, rules), (0xfff8_0000_8000_0000, flags::INVALID));
}

/// Arm ARM, `FPRound`: tininess before rounding; FZ flushes inputs with IDC and outputs with UFC alone.
#[test]
fn aarch64_denormals_and_integers() {
    let rules = Rules::aarch64(0);
    // (2 - 2⁻²³) × 2⁻¹²⁷ rounds up to the smallest normal number: tiny before, not after rounding.
    let (a, b) = (0x3fff_ffff, 0x0040_0000);
    let (value, raised) = mul(F32, a, b, rules);
    assert_eq!((value, raised), (0x0080_0000, flags::UNDERFLOW | flags::INEXACT));
    let x86 = mul(F32, a, b, Rules::x86(mxcsr::RESET));
    assert_eq!(x86, (0x0080_0000, flags::DENORMAL | flags::UNDERFLOW | flags::INEXACT));
    let fz = Rules::aarch64(1 << 24);
    assert_eq!(add(F32, 1, ONE, fz), (ONE, flags::DENORMAL));
    assert_eq!(mul(F32, 0x0080_0000, 0xbf00_0000, fz), (0x8000_0000, flags::UNDERFLOW));
    assert_eq!(to_int(F32, QNAN1, 32, true, rules), (0, flags::INVALID));
    assert_eq!(to_int(F32, INF, 32, true, rules), (0x7fff_ffff, flags::INVALID));
    assert_eq!(to_int(F32, 0xbf80_0000, 64, false, rules), (0, flags::INVALID));
    assert_eq!(to_int(F32, 0xbf00_0000, 64, false, rules), (0, flags::INEXACT));
    let away = rules.with_rounding(Rounding::NearestAway);
    assert_eq!(to_int(F32, 0x4020_0000, 32, true, away), (3, flags::INEXACT));
    assert_eq!(to_int(F32, 0xc020_0000, 32, true, away), (0xffff_fffd, flags::INEXACT));
    assert_eq!(round_to_integral(F32, 0x3f00_0000, false, away), (ONE, 0));
    // FCVTXN: to odd, and never to infinity.
    let odd = rules.with_rounding(Rounding::ToOdd);
    assert_eq!(convert(F64, F32, 0x3ff0_0000_0000_0001, odd), (ONE | 1, flags::INEXACT));
    assert_eq!(convert(F64, F32, 0x7fef_ffff_ffff_ffff, odd), (0x7f7f_ffff, flags::OVERFLOW | flags::INEXACT));
    assert_eq!(convert(F32, F16, 0x3f80_1000, rules), (0x3c00, flags::INEXACT));
    assert_eq!(convert(F32, F16, 0x3380_0000, rules), (1, 0));
    assert_eq!(convert(F16, F32, 0x03ff, rules), (0x387f_c000, 0));
}

/// Principles of Operation, chapter 19: signalling NaNs first, positive default NaN, saturation, NaN to the lowest integer.
#[test]
fn s390x_nans_and_integers() {
    let rules = Rules::s390x(0);
    let quiet = |v: u64| v | 0x0040_0000;
    assert_eq!(add(F32, QNAN1, QNAN2, rules), (QNAN1, 0));
    assert_eq!(add(F32, QNAN1, SNAN4, rules), (quiet(SNAN4), flags::INVALID));
    assert_eq!(sub(F32, INF, INF, rules), (DEFAULT, flags::INVALID));
    assert_eq!(fma(F32, QNAN1, ONE, QNAN2, rules), (QNAN1, 0));
    assert_eq!(fma(F32, 0, INF, QNAN2, rules), (DEFAULT, flags::INVALID));
    assert_eq!(fma(F32, 0, INF, SNAN3, rules), (DEFAULT, flags::INVALID));
    assert_eq!(to_int(F32, QNAN1, 32, true, rules), (0x8000_0000, flags::INVALID));
    assert_eq!(to_int(F32, QNAN1, 32, false, rules), (0, flags::INVALID));
    assert_eq!(to_int(F32, 0xff80_0000, 64, true, rules), (1 << 63, flags::INVALID));
    let (_, raised) = mul(F32, 0x3fff_ffff, 0x0040_0000, rules);
    assert_eq!(raised, flags::UNDERFLOW | flags::INEXACT);
    assert_eq!(Rules::s390x(7).rounding, Rounding::ToOdd);
    assert_eq!(div(F32, ONE, 0x4040_0000, Rules::s390x(7)), (0x3eaa_aaab, flags::INEXACT));
    assert_eq!(div(F32, ONE, 0x4040_0000, Rules::s390x(1)), (0x3eaa_aaaa, flags::INEXACT));
}
