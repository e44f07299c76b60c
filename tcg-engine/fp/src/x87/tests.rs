//! The instructions are the host's; what is tested is what surrounds them: operand order, unmasked exceptions that must
//! not reach the host, results that are not produced, and control words that must not leak.

use super::*;

fn f80(x: f64) -> F80 {
    load_f64(CW_RESET, x.to_bits()).0
}

fn f64_of(x: F80) -> f64 {
    f64::from_bits(store_f64(CW_RESET, x).0)
}

const UNMASKED: u16 = 0x0340;

#[test]
fn operand_order() {
    let (a, b) = (f80(6.0), f80(1.5));
    let run = |op| f64_of(binary(op, CW_RESET, a, Operand::Reg(b)).0);
    assert_eq!(run(BinaryOp::Add), 7.5);
    assert_eq!(run(BinaryOp::Sub), 4.5);
    assert_eq!(run(BinaryOp::SubR), -4.5);
    assert_eq!(run(BinaryOp::Mul), 9.0);
    assert_eq!(run(BinaryOp::Div), 4.0);
    assert_eq!(run(BinaryOp::DivR), 0.25);
    assert_eq!(run(BinaryOp::Scale), 12.0);
    assert_eq!(run(BinaryOp::Prem), 0.0);
    assert_eq!(
        f64_of(binary(BinaryOp::Patan, CW_RESET, f80(0.0), Operand::Reg(f80(1.0))).0),
        std::f64::consts::FRAC_PI_2
    );
    assert_eq!(f64_of(binary(BinaryOp::Yl2x, CW_RESET, f80(8.0), Operand::Reg(f80(2.0))).0), 6.0);
    assert_eq!(f64_of(binary(BinaryOp::Yl2xp1, CW_RESET, f80(0.0), Operand::Reg(f80(2.0))).0), 0.0);
    assert_eq!(f64_of(binary(BinaryOp::SubR, CW_RESET, a, Operand::F32(1.5_f32.to_bits())).0), -4.5);
    assert_eq!(f64_of(binary(BinaryOp::DivR, CW_RESET, a, Operand::F64(1.5_f64.to_bits())).0), 0.25);
    assert_eq!(f64_of(binary(BinaryOp::Scale, CW_RESET, a, Operand::F32(2.0_f32.to_bits())).0), 24.0);
}

#[test]
fn one_operand_and_pairs() {
    let run = |op, x| f64_of(unary(op, CW_RESET, f80(x)).0);
    assert_eq!(run(UnaryOp::Chs, 2.0), -2.0);
    assert_eq!(run(UnaryOp::Abs, -2.0), 2.0);
    assert_eq!(run(UnaryOp::Sqrt, 9.0), 3.0);
    assert_eq!(run(UnaryOp::Rndint, 2.5), 2.0);
    assert_eq!(run(UnaryOp::F2xm1, 1.0), 1.0);
    assert_eq!(run(UnaryOp::Sin, 0.0), 0.0);
    assert_eq!(run(UnaryOp::Cos, 0.0), 1.0);
    let both = pair(PairOp::Sincos, CW_RESET, f80(0.0));
    assert_eq!((f64_of(both.replaced), both.pushed.map(f64_of)), (0.0, Some(1.0)));
    let both = pair(PairOp::Ptan, CW_RESET, f80(0.0));
    assert_eq!((f64_of(both.replaced), both.pushed.map(f64_of)), (0.0, Some(1.0)));
    let both = pair(PairOp::Xtract, CW_RESET, f80(12.0));
    assert_eq!((f64_of(both.replaced), both.pushed.map(f64_of)), (3.0, Some(1.5)));
}

#[test]
fn out_of_range_pushes_nothing() {
    let huge = F80 { mantissa: 1 << 63, sign_exp: 0x403e };
    for op in [PairOp::Sincos, PairOp::Ptan] {
        let both = pair(op, CW_RESET, huge);
        assert_eq!((both.replaced, both.pushed), (huge, None));
        assert_ne!(both.sw & sw::C2, 0);
    }
    assert_eq!(unary(UnaryOp::Sin, CW_RESET, huge), (huge, sw::C2));
}

#[test]
fn unmasked_exceptions_stay_in_the_guest() {
    let (one, zero) = (f80(1.0), f80(0.0));
    // Before computing: the operand stays.
    let (value, status) = binary(BinaryOp::Div, UNMASKED, one, Operand::Reg(zero));
    assert_eq!((value, status & sw::EXCEPTIONS), (one, sw::ZE));
    let (value, status) = binary(BinaryOp::Yl2x, UNMASKED, zero, Operand::Reg(one));
    assert_eq!((value, status & sw::EXCEPTIONS), (zero, sw::ZE));
    let both = pair(PairOp::Xtract, UNMASKED, zero);
    assert_eq!((both.replaced, both.pushed, both.sw & sw::EXCEPTIONS), (zero, None, sw::ZE));
    // After computing: overflow delivers the result with its exponent reduced by 24576 (SDM volume 1, 8.5.4).
    let big = F80 { mantissa: 1 << 63, sign_exp: 0x7ffe };
    let (value, status) = binary(BinaryOp::Mul, UNMASKED, big, Operand::Reg(big));
    assert_eq!(value, F80 { mantissa: 1 << 63, sign_exp: (2 * 0x7ffe - 0x3fff - 24576) as u16 });
    assert_eq!(status & sw::EXCEPTIONS, sw::OE);
    // Loads and stores.
    let (_, status) = load_f32(UNMASKED, 0x7f80_0001);
    assert_eq!(status & sw::EXCEPTIONS, sw::IE);
    assert_eq!(store_f32(UNMASKED, big), (0, sw::OE));
    assert_eq!(store_int(UNMASKED, big, IntWidth::W32, false), (0, sw::IE));
    assert_eq!(store_bcd(UNMASKED, big).1, sw::IE);
    assert_eq!(compare(CompareOp::Ordered, UNMASKED, F80::INDEFINITE, Operand::Reg(one)) & sw::EXCEPTIONS, sw::IE);
    assert_eq!(compare_flags(CompareOp::Ordered, UNMASKED, F80::INDEFINITE, one).1 & sw::EXCEPTIONS, sw::IE);
    // The host's unit is as it was: a waiting instruction on a clean stack does not trap.
    assert_eq!(f64_of(binary(BinaryOp::Add, CW_RESET, one, Operand::Reg(one)).0), 2.0);
}

#[test]
fn masked_exceptions_give_the_default_result() {
    let (value, status) = binary(BinaryOp::Div, CW_RESET, f80(0.0), Operand::Reg(f80(0.0)));
    assert_eq!((value, status & sw::EXCEPTIONS), (F80::INDEFINITE, sw::IE));
    // A denormal in memory counts as an operand of the addition.
    let (_, status) = binary(BinaryOp::Add, CW_RESET, f80(1.0), Operand::F32(1));
    assert_eq!(status & sw::EXCEPTIONS, sw::DE | sw::PE);
    // But a quiet NaN has priority over it.
    let (value, status) = binary(BinaryOp::Add, CW_RESET, F80::INDEFINITE, Operand::F32(1));
    assert_eq!((value, status & sw::EXCEPTIONS), (F80::INDEFINITE, 0));
}

#[test]
fn comparisons() {
    let (one, two) = (f80(1.0), f80(2.0));
    let run = |a, b| compare(CompareOp::Ordered, CW_RESET, a, Operand::Reg(b));
    assert_eq!(run(one, two), sw::C0);
    assert_eq!(run(two, one), 0);
    assert_eq!(run(two, two), sw::C3);
    assert_eq!(run(two, F80::INDEFINITE), sw::C3 | sw::C2 | sw::C0 | sw::IE);
    assert_eq!(compare(CompareOp::Unordered, CW_RESET, two, Operand::Reg(F80::INDEFINITE)), sw::C3 | sw::C2 | sw::C0);
    assert_eq!(compare(CompareOp::Ordered, CW_RESET, one, Operand::F32(2.0_f32.to_bits())), sw::C0);
    assert_eq!(compare(CompareOp::Unordered, CW_RESET, one, Operand::F64(2.0_f64.to_bits())), sw::C0);
    assert_eq!(compare_flags(CompareOp::Ordered, CW_RESET, one, two), (0x01, 0));
    assert_eq!(compare_flags(CompareOp::Unordered, CW_RESET, one, F80::INDEFINITE), (0x45, 0));
    assert_eq!(compare_flags(CompareOp::Ordered, CW_RESET, one, F80::INDEFINITE), (0x45, sw::IE));
}

#[test]
fn classes() {
    assert_eq!(examine(f80(-1.0)), sw::C2 | sw::C1);
    assert_eq!(examine(f80(0.0)), sw::C3);
    assert_eq!(examine(f80(f64::INFINITY)), sw::C2 | sw::C0);
    assert_eq!(examine(F80::INDEFINITE), sw::C0 | sw::C1);
    assert_eq!(examine(F80 { mantissa: 1, sign_exp: 0 }), sw::C3 | sw::C2);
    // An unnormal: unsupported.
    assert_eq!(examine(F80 { mantissa: 1, sign_exp: 5 }), 0);
}

#[test]
fn conversions() {
    assert_eq!(f64_of(load_i64(-7)), -7.0);
    assert_eq!(load_i64(i64::MIN), F80 { mantissa: 1 << 63, sign_exp: 0xc03e });
    assert_eq!(store_int(CW_RESET, f80(-1.5), IntWidth::W16, false), (0xfffe, sw::PE | sw::C1));
    assert_eq!(store_int(CW_RESET, f80(-1.5), IntWidth::W16, true), (0xffff, sw::PE));
    assert_eq!(store_int(CW_RESET, f80(40000.0), IntWidth::W16, true), (0x8000, sw::IE));
    assert_eq!(store_int(CW_RESET, f80(2.5), IntWidth::W64, false), (2, sw::PE));
    // Rounded up in magnitude: C1.
    assert_eq!(store_int(CW_RESET, f80(3.5), IntWidth::W32, false), (4, sw::PE | sw::C1));
    let digits = store_bcd(CW_RESET, f80(-120_345.0)).0;
    assert_eq!(digits, [0x45, 0x03, 0x12, 0, 0, 0, 0, 0, 0, 0x80]);
    assert_eq!(f64_of(load_bcd(digits)), -120_345.0);
    assert_eq!(store_f32(CW_RESET, f80(0.1)).0, 0.1_f32.to_bits());
}

#[test]
fn constants_round_with_the_control_word() {
    let up = CW_RESET | 2 << 10;
    let pi = constant(Constant::Pi, CW_RESET);
    assert_eq!(pi, F80 { mantissa: 0xc90f_daa2_2168_c235, sign_exp: 0x4000 });
    assert_eq!(constant(Constant::Pi, CW_RESET | 1 << 10).mantissa, pi.mantissa - 1);
    assert_ne!(constant(Constant::L2t, up), constant(Constant::L2t, CW_RESET));
    assert_eq!(constant(Constant::One, up), f80(1.0));
    assert_eq!(constant(Constant::Zero, up), f80(0.0));
    assert_eq!(f64_of(constant(Constant::L2e, CW_RESET)), std::f64::consts::LOG2_E);
    assert_eq!(f64_of(constant(Constant::Lg2, CW_RESET)), std::f64::consts::LOG10_2);
    assert_eq!(f64_of(constant(Constant::Ln2, CW_RESET)), std::f64::consts::LN_2);
}

#[test]
fn precision_control_rounds_the_significand() {
    let single = CW_RESET & !0x300;
    let (value, status) = binary(BinaryOp::Add, single, f80(1.0), Operand::Reg(f80(2.0_f64.powi(-30))));
    assert_eq!((value, status), (f80(1.0), sw::PE));
}

#[test]
fn formats_round_trip() {
    let value = F80 { mantissa: 0x0123_4567_89ab_cdef, sign_exp: 0xfedc };
    assert_eq!(F80::from_bytes(value.to_bytes()), value);
    assert_eq!(F80::from_bits(value.to_bits()), value);
    assert_eq!(value.to_bytes(), [0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0xdc, 0xfe]);
    assert_eq!(F80::from_mmx(5), F80 { mantissa: 5, sign_exp: 0xffff });
}
