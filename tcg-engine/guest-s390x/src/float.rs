//! Binary floating point ("Binary-Floating-Point Instructions"), short and long, through `fp::soft` with s390x's rules.
//!
//! The lifter fetches operands and packs the rest into an immediate; one helper computes, writes the result and the condition
//! code, and sets flags in the FPC or stops with a data exception. Traps that suppress (invalid operation, division by zero)
//! are complete; those that complete with a scaled result (overflow, underflow, inexact) stop with
//! [`program::NOT_LIFTED`].

use fp::soft::{self, F32, F64, Format, Relation, Rounding, Rules, flags};
use ir::flags::{Kind, kind_word};
use ir::op::{FLAG_KIND, FLAG_R, NONE, call_flags};
use ir::{Env, MemRef, Op, Regs, Slot, Stop};

use crate::decode::Fields;
use crate::{FP_CONTROL, Lift, base_slot, f, helper, program, r, stop};

/// What to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kernel {
    /// First operand plus second, with condition code.
    Add,
    /// First minus second, with condition code.
    Sub,
    /// Product.
    Mul,
    /// Quotient.
    Div,
    /// Third times second plus first.
    MulAdd,
    /// Third times second minus first.
    MulSub,
    /// Square root of the second.
    Sqrt,
    /// Compare; a quiet NaN is no exception.
    Compare,
    /// Compare and signal.
    CompareSignal,
    /// Load and test: condition code, a signalling NaN becomes quiet.
    Test,
    /// Short to long.
    Lengthen,
    /// Long to short, by M3.
    Round,
    /// To an integral number, by M3.
    Integral,
    /// To a signed integer of 32 bits in a general register, by M3.
    ToInt32,
    /// To a signed integer of 64 bits.
    ToInt64,
    /// From a signed integer of 32 bits.
    FromInt32,
    /// From a signed integer of 64 bits.
    FromInt64,
}

const KERNELS: [Kernel; 17] = [
    Kernel::Add,
    Kernel::Sub,
    Kernel::Mul,
    Kernel::Div,
    Kernel::MulAdd,
    Kernel::MulSub,
    Kernel::Sqrt,
    Kernel::Compare,
    Kernel::CompareSignal,
    Kernel::Test,
    Kernel::Lengthen,
    Kernel::Round,
    Kernel::Integral,
    Kernel::ToInt32,
    Kernel::ToInt64,
    Kernel::FromInt32,
    Kernel::FromInt64,
];

/// The helper's immediate: kernel 0..5, long 5, R1 8..12, M3 12..16, M4 16..20.
fn packed(kernel: Kernel, long: bool, f: &Fields) -> u32 {
    kernel as u32 | u32::from(long) << 5 | f.r1 << 8 | f.m3 << 12 | f.m4 << 16
}

/// The number in floating-point register `n`, right-aligned.
fn number(l: &mut Lift, n: u32, long: bool) -> Slot {
    if long { f(n) } else { l.b.new_imm(Op::Shr64I, f(n), 32) }
}

/// Lift an instruction whose second operand is a register or storage.
pub(crate) fn lift(l: &mut Lift, x: &Fields, kernel: Kernel, long: bool, storage: bool) -> Option<()> {
    let uses_m3 = matches!(kernel, Kernel::Round | Kernel::Integral | Kernel::ToInt32 | Kernel::ToInt64);
    if uses_m3 && (x.m3 == 2 || x.m3 > 7) {
        l.raise(program::SPECIFICATION);
        return Some(());
    }
    let second = if storage {
        let t = l.b.temp();
        let source_long = long && kernel != Kernel::Lengthen;
        let m = MemRef { disp: x.d2, ..l.access(if source_long { 3 } else { 2 }, false, x.b2) };
        l.b.load(t, base_slot(x.b2), base_slot(x.x2), m);
        t
    } else {
        match kernel {
            Kernel::FromInt32 | Kernel::FromInt64 => r(x.r2),
            Kernel::Lengthen => number(l, x.r2, false),
            Kernel::Round => number(l, x.r2, true),
            _ => number(l, x.r2, long),
        }
    };
    let third = match kernel {
        Kernel::MulAdd | Kernel::MulSub => number(l, x.r3, long),
        _ => NONE,
    };
    let how = call_flags::MAY_STOP | call_flags::READS_STATE | call_flags::WRITES_STATE;
    l.b.call(NONE, helper::id::FLOAT, second, third, packed(kernel, long, x), how);
    Some(())
}

/// LPDBR, LNDBR, LCDBR and the short ones: the sign alone changes, NaN or not; condition code by class and sign.
/// `silent` are LPDFR, LNDFR, LCDFR: no condition code.
pub(crate) fn sign(l: &mut Lift, x: &Fields, op: Op, long: bool, silent: bool) -> Option<()> {
    let top = 1u64 << 63;
    let v = l.b.new_imm(op, f(x.r2), if op == Op::AndI { !top } else { top });
    if silent {
        l.b.op(Op::Mov, f(x.r1), v, NONE);
        return Some(());
    }
    let (bits, fraction) = if long { (64, 52) } else { (32, 23) };
    let n = l.b.new_imm(Op::Shr64I, v, 64 - bits);
    let magnitude = l.b.new_imm(Op::AndI, n, (1 << (bits - 1)) - 1);
    let infinity = l.b.constant(((1 << (bits - 1 - fraction)) - 1) << fraction);
    let nan = l.b.set_rel(ir::Rel::Ltu, infinity, magnitude);
    let negative = l.b.new_imm(Op::Shr64I, v, 63);
    let zero = l.b.constant(0);
    // 1 negative, 2 positive, 0 zero, 3 NaN.
    let two = l.b.constant(2);
    let by_sign = l.b.new2(Op::Sub64, two, negative);
    let by_value = l.b.temp();
    l.b.full(Op::Select, 0, by_value, magnitude, by_sign, u64::from(zero.0));
    let three = l.b.constant(3);
    let cc = l.b.temp();
    l.b.full(Op::Select, 0, cc, nan, three, u64::from(by_value.0));
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    put(l, x.r1, v, long);
    Some(())
}

/// Register `n` = `v`, of which a short operation changes the left half only.
fn put(l: &mut Lift, n: u32, v: Slot, long: bool) {
    if long {
        l.b.op(Op::Mov, f(n), v, NONE);
    } else {
        let half = l.b.new_imm(Op::Shr64I, v, 32);
        l.b.full(Op::Deposit, 0, f(n), f(n), half, 32 | 32 << 8);
    }
}

/// TCDB, TCEB: whether the class of R1 is selected by the second operand's address.
pub(crate) fn test_class(l: &mut Lift, x: &Fields, long: bool) -> Option<()> {
    let (bits, fraction) = if long { (64u64, 52u64) } else { (32, 23) };
    let mask = l.address(x);
    let n = number(l, x.r1, long);
    let magnitude = l.b.new_imm(Op::AndI, n, (1 << (bits - 1)) - 1);
    let negative = l.b.new_imm(Op::Extract, n, (bits - 1) | 1 << 8);
    let infinity = ((1u64 << (bits - 1 - fraction)) - 1) << fraction;
    // How many of the classes' lower bounds the magnitude reaches: zero 0, subnormal 1, normal 2, infinity 3, signalling
    // NaN 4, quiet NaN 5.
    let mut rank = l.b.constant(0);
    for bound in [1, 1 << fraction, infinity, infinity + 1, infinity | 1 << (fraction - 1)] {
        let bound = l.b.constant(bound);
        let reached = l.b.set_rel(ir::Rel::Leu, bound, magnitude);
        rank = l.b.new2(Op::Add64, rank, reached);
    }
    // Bit of a positive number of each rank, counted from the right; six bits each.
    const PLACES: [u64; 6] = [11, 7, 9, 5, 1, 3];
    let places = l.b.constant(PLACES.iter().enumerate().fold(0, |all, (n, p)| all | p << (8 * n)));
    let at = l.b.new_imm(Op::Shl64I, rank, 3);
    let place = l.b.new2(Op::Shr64, places, at);
    let place = l.b.new_imm(Op::AndI, place, 0xff);
    let place = l.b.new2(Op::Sub64, place, negative);
    let bit = l.b.new2(Op::Shr64, mask, place);
    let cc = l.b.new_imm(Op::AndI, bit, 1);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    Some(())
}

/// LDR, LER, LZDR, LZER, LDGR, LGDR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// Long register to register.
    Long,
    /// Short register to register.
    Short,
    /// Long zero.
    Zero,
    /// Short zero.
    ZeroShort,
    /// From a general register.
    FromGeneral,
    /// To a general register.
    ToGeneral,
}

/// Lift a transfer without arithmetic.
pub(crate) fn transfer(l: &mut Lift, x: &Fields, what: Transfer) -> Option<()> {
    match what {
        Transfer::Long => l.b.op(Op::Mov, f(x.r1), f(x.r2), NONE),
        Transfer::Short => put(l, x.r1, f(x.r2), false),
        Transfer::Zero => l.b.op_imm(Op::MovI, f(x.r1), NONE, 0),
        Transfer::ZeroShort => l.b.op(Op::Zext32, f(x.r1), f(x.r1), NONE),
        Transfer::FromGeneral => l.b.op(Op::Mov, f(x.r1), r(x.r2), NONE),
        Transfer::ToGeneral => l.b.op(Op::Mov, r(x.r1), f(x.r2), NONE),
    }
    Some(())
}

/// LD, LE.
pub(crate) fn load(l: &mut Lift, x: &Fields, long: bool) -> Option<()> {
    let t = l.b.temp();
    let m = MemRef { disp: x.d2, ..l.access(if long { 3 } else { 2 }, false, x.b2) };
    l.b.load(t, base_slot(x.b2), base_slot(x.x2), m);
    let v = if long { t } else { l.b.new_imm(Op::Shl64I, t, 32) };
    put(l, x.r1, v, long);
    Some(())
}

/// STD, STE.
pub(crate) fn store(l: &mut Lift, x: &Fields, long: bool) -> Option<()> {
    let v = number(l, x.r1, long);
    let m = MemRef { disp: x.d2, ..l.access(if long { 3 } else { 2 }, false, x.b2) };
    l.b.store(v, base_slot(x.b2), base_slot(x.x2), m);
    Some(())
}

/// SFPC and LFPC: the new value may be invalid, which the helper finds out.
pub(crate) fn set_fpc(l: &mut Lift, x: &Fields, storage: bool) -> Option<()> {
    let v = if storage {
        let t = l.b.temp();
        let m = MemRef { disp: x.d2, ..l.access(2, false, x.b2) };
        l.b.load(t, base_slot(x.b2), NONE, m);
        t
    } else {
        r(x.r1)
    };
    l.b.call(NONE, helper::id::SET_FPC, v, NONE, 0, call_flags::MAY_STOP | call_flags::WRITES_STATE);
    Some(())
}

/// EFPC and STFPC.
pub(crate) fn get_fpc(l: &mut Lift, x: &Fields, storage: bool) -> Option<()> {
    if storage {
        let m = MemRef { disp: x.d2, ..l.access(2, false, x.b2) };
        l.b.store(FP_CONTROL, base_slot(x.b2), NONE, m);
    } else {
        l.set32(x.r1, FP_CONTROL);
    }
    Some(())
}

/// SRNM: rounding mode from bits 62 and 63 of an address; the three-bit mode's left bit becomes zero.
pub(crate) fn set_rounding(l: &mut Lift, x: &Fields) -> Option<()> {
    let address = l.sum(x.b2, 0, x.d2);
    l.b.full(Op::Deposit, 0, FP_CONTROL, FP_CONTROL, address, 2 << 8);
    l.b.op_imm(Op::AndI, FP_CONTROL, FP_CONTROL, !4);
    Some(())
}

/// FPC bits that exist: masks and flags (six each: the sixth is the quantum exception of decimal numbers), DXC, decimal and
/// binary rounding mode.
const FPC_BITS: u64 = 0xfcfc_ff77;

/// Set the FPC, or a specification exception: unassigned bits, binary rounding modes 4 to 6.
pub(crate) fn set_control<E: Env>(env: &mut E, regs: &mut Regs, value: u64) -> Result<u64, Stop> {
    let value = value & 0xffff_ffff;
    if value & !FPC_BITS != 0 || matches!(value & 7, 4..=6) {
        return Err(stop(env, program::SPECIFICATION, 0));
    }
    regs.set(FP_CONTROL, value);
    Ok(0)
}

/// Rounding mode of M3; 0 is the FPC's.
fn rounding(m3: u32, rules: Rules) -> Rules {
    let mode = match m3 {
        1 => Rounding::NearestAway,
        3 => Rounding::ToOdd,
        4 => Rounding::NearestEven,
        5 => Rounding::TowardZero,
        6 => Rounding::Up,
        7 => Rounding::Down,
        _ => return rules,
    };
    rules.with_rounding(mode)
}

/// Exceptions in the order of the FPC's mask and flag bytes and of the DXC.
fn exceptions(raised: u32) -> u64 {
    let bit = |f: u32, to: u64| if raised & f != 0 { to } else { 0 };
    bit(flags::INVALID, 0x80)
        | bit(flags::DIV_BY_ZERO, 0x40)
        | bit(flags::OVERFLOW, 0x20)
        | bit(flags::UNDERFLOW, 0x10)
        | bit(flags::INEXACT, 0x08)
}

/// Take note of exceptions: a trap, or sticky flags.
fn note<E: Env>(env: &mut E, regs: &mut Regs, raised: u32) -> Result<(), Stop> {
    let fpc = regs.get(FP_CONTROL);
    let seen = exceptions(raised);
    let trapping = seen & fpc >> 24;
    if trapping & 0xc0 != 0 {
        return Err(stop(env, program::DATA, trapping & 0xc0));
    }
    if trapping != 0 {
        return Err(stop(env, program::NOT_LIFTED, trapping));
    }
    regs.set(FP_CONTROL, fpc | seen << 16);
    Ok(())
}

/// Condition code of a result: 0 zero, 1 negative, 2 positive, 3 NaN.
fn class_code(format: Format, v: u64, rules: Rules) -> u64 {
    match soft::compare(format, v, 0, false, rules).0 {
        Relation::Equal => 0,
        Relation::Less => 1,
        Relation::Greater => 2,
        Relation::Unordered => 3,
    }
}

/// The helper: `second` and `third` are operands, `imm` see [`packed`].
pub(crate) fn execute<E: Env>(env: &mut E, regs: &mut Regs, second: u64, third: u64, imm: u32) -> Result<u64, Stop> {
    let kernel = KERNELS[(imm as usize & 31).min(KERNELS.len() - 1)];
    let long = imm >> 5 & 1 != 0;
    let (r1, m3, m4) = (imm >> 8 & 15, imm >> 12 & 15, imm >> 16 & 15);
    let format = if long { F64 } else { F32 };
    let rules = Rules::s390x(regs.get(FP_CONTROL) as u32);
    let by_m3 = rounding(m3, rules);
    let first = if long { regs.get(f(r1)) } else { regs.get(f(r1)) >> 32 };
    let (value, raised) = match kernel {
        Kernel::Add => soft::add(format, first, second, rules),
        Kernel::Sub => soft::sub(format, first, second, rules),
        Kernel::Mul => soft::mul(format, first, second, rules),
        Kernel::Div => soft::div(format, first, second, rules),
        // NaNs by precedence: third operand, second, first ("Results: MULTIPLY AND ADD").
        Kernel::MulAdd => soft::fma(format, third, second, first, rules),
        Kernel::MulSub => mul_sub(format, third, second, first, rules),
        Kernel::Sqrt => soft::sqrt(format, second, rules),
        Kernel::Compare | Kernel::CompareSignal => {
            let (relation, raised) = soft::compare(format, first, second, kernel == Kernel::CompareSignal, rules);
            note(env, regs, raised)?;
            let cc = match relation {
                Relation::Equal => 0,
                Relation::Less => 1,
                Relation::Greater => 2,
                Relation::Unordered => 3,
            };
            set_code(regs, cc);
            return Ok(0);
        }
        Kernel::Test => soft::convert(format, format, second, rules),
        Kernel::Lengthen => soft::convert(F32, F64, second, rules),
        Kernel::Round => soft::convert(F64, F32, second, by_m3),
        Kernel::Integral => soft::round_to_integral(format, second, true, by_m3),
        Kernel::ToInt32 => to_int(format, second, 32, by_m3),
        Kernel::ToInt64 => to_int(format, second, 64, by_m3),
        Kernel::FromInt32 => soft::from_int(format, second, 32, true, by_m3),
        Kernel::FromInt64 => soft::from_int(format, second, 64, true, by_m3),
    };
    // M4 bit 1 suppresses the inexact exception where M3 and M4 exist.
    let suppress = m4 & 4 != 0;
    let raised = if suppress { raised & !flags::INEXACT } else { raised };
    note(env, regs, raised)?;
    match kernel {
        Kernel::ToInt32 | Kernel::ToInt64 => {
            let misfit = raised & flags::INVALID != 0;
            set_code(regs, if misfit { 3 } else { class_code(format, second, rules) });
            let d = r(r1);
            let keep = if kernel == Kernel::ToInt32 { regs.get(d) & !0xffff_ffff } else { 0 };
            regs.set(d, keep | value);
        }
        _ => {
            if matches!(kernel, Kernel::Add | Kernel::Sub | Kernel::Test) {
                set_code(regs, class_code(format, value, rules));
            }
            let short = match kernel {
                Kernel::Lengthen => false,
                Kernel::Round => true,
                _ => !long,
            };
            let v = if short { regs.get(f(r1)) & 0xffff_ffff | value << 32 } else { value };
            regs.set(f(r1), v);
        }
    }
    Ok(0)
}

fn set_code(regs: &mut Regs, cc: u64) {
    regs.set(FLAG_KIND, kind_word(Kind::S390Explicit, 64));
    regs.set(FLAG_R, cc);
}

/// a × b − c. The sign of a NaN that is handed on stays.
fn mul_sub(format: Format, a: u64, b: u64, c: u64, rules: Rules) -> (u64, u32) {
    let top = if format == F64 { 1u64 << 63 } else { 1 << 31 };
    let nan = soft::compare(format, c, c, false, rules).0 == Relation::Unordered;
    soft::fma(format, a, b, if nan { c } else { c ^ top }, rules)
}

/// To an integer. A number that does not fit is inexact beside being invalid, NaNs included ("CONVERT TO FIXED", results of
/// the invalid-operation rows).
fn to_int(format: Format, v: u64, bits: u32, rules: Rules) -> (u64, u32) {
    let (value, raised) = soft::to_int(format, v, bits, true, rules);
    let inexact = if raised & flags::INVALID != 0 { flags::INEXACT } else { 0 };
    (value, raised | inexact)
}
