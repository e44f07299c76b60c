//! Integer operations of one shape: first operand (a register) op second operand (register, storage or immediate).
//!
//! The table says which; here is what each means and which condition code it records ("General Instructions").

use ir::flags::{Cond, Kind};
use ir::op::NONE;
use ir::{MemRef, Op, Rel, Slot};

use crate::decode::Fields;
use crate::{Lift, PROGRAM_CODE, event, helper, program, r};

/// What to do with two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    /// Load.
    Move,
    /// Load and test.
    Test,
    /// Load complement.
    Complement,
    /// Load positive.
    Positive,
    /// Load negative.
    Negative,
    /// Add.
    Add,
    /// Add logical.
    AddLogical,
    /// Add logical with carry.
    AddCarry,
    /// Subtract.
    Sub,
    /// Subtract logical.
    SubLogical,
    /// Subtract logical with borrow.
    SubBorrow,
    /// Multiply single: low half of the product, no condition code.
    Mul,
    /// And.
    And,
    /// Or.
    Or,
    /// Exclusive or.
    Xor,
    /// Compare.
    Compare,
    /// Compare logical.
    CompareLogical,
    /// Load reversed: bytes swapped.
    Reverse(u8),
    /// Multiply to a pair of registers, unsigned or signed.
    MulPair {
        /// The signed form.
        signed: bool,
    },
    /// Divide a pair of registers.
    DivPair(Divide),
}

/// The forms of division.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Divide {
    /// 64-bit dividend in the odd register (divide single).
    Single,
    /// Signed, dividend in both registers.
    Signed,
    /// Unsigned, dividend in both registers.
    Logical,
}

/// Where the second operand is, and how it is widened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Second {
    /// Register R2 as it is.
    R,
    /// Register R2, low `.0` bits, zero-extended.
    RegisterU(u8),
    /// Register R2, low `.0` bits, sign-extended.
    RegisterS(u8),
    /// Storage of `1 << .0` bytes, zero-extended.
    M(u8),
    /// Storage, sign-extended.
    MS(u8),
    /// Storage in little-endian order.
    Little(u8),
    /// Storage at a relative address.
    Rel(u8),
    /// Storage at a relative address, sign-extended.
    RelS(u8),
    /// The sign-extended immediate.
    I,
    /// The immediate, `.0` bits, zero-extended.
    U(u8),
}

/// Lift `alu` on operands of 64 (`wide`) or 32 bits.
pub(crate) fn lift(l: &mut Lift, f: &Fields, wide: bool, alu: Alu, second: Second) -> Option<()> {
    if matches!(alu, Alu::MulPair { .. } | Alu::DivPair(_)) && !l.even(f.r1) {
        return Some(());
    }
    let b = operand(l, f, second);
    let a = r(f.first);
    let bits = if wide { 64 } else { 32 };
    let zero = l.b.constant(0);
    let sized = |op64, op32| if wide { op64 } else { op32 };
    let (add, sub) = (sized(Op::Add64, Op::Add32), sized(Op::Sub64, Op::Sub32));
    // Result, and what the condition code follows from.
    let (res, kind, x, y) = match alu {
        Alu::Move => (b, None, NONE, NONE),
        Alu::Test => (b, Some(Kind::S390Sign), NONE, NONE),
        Alu::Complement => (l.b.new2(sub, zero, b), Some(Kind::S390Sub), zero, b),
        Alu::Positive => {
            // The negative magnitude always fits; its complement overflows as the instruction does.
            let m = negative(l, b, wide);
            (l.b.new2(sub, zero, m), Some(Kind::S390Sub), zero, m)
        }
        Alu::Negative => (negative(l, b, wide), Some(Kind::S390Sign), NONE, NONE),
        Alu::Add => (l.b.new2(add, a, b), Some(Kind::S390Add), a, b),
        Alu::AddLogical => (l.b.new2(add, a, b), Some(Kind::S390AddLogical), a, b),
        Alu::Sub => (l.b.new2(sub, a, b), Some(Kind::S390Sub), a, b),
        Alu::SubLogical => (l.b.new2(sub, a, b), Some(Kind::S390SubLogical), a, b),
        Alu::AddCarry => {
            // Carry: condition code 2 or 3.
            let c = condition(l, 3);
            let s = l.b.new2(add, a, b);
            (l.b.new2(add, s, c), Some(Kind::S390AddLogical), a, b)
        }
        Alu::SubBorrow => {
            let c = condition(l, 12);
            let s = l.b.new2(sub, a, b);
            (l.b.new2(sub, s, c), Some(Kind::S390SubLogical), a, b)
        }
        Alu::Mul => (l.b.new2(sized(Op::Mul64, Op::Mul32), a, b), None, NONE, NONE),
        Alu::And => (l.b.new2(Op::And, a, b), Some(Kind::S390NonZero), NONE, NONE),
        Alu::Or => (l.b.new2(Op::Or, a, b), Some(Kind::S390NonZero), NONE, NONE),
        Alu::Xor => (l.b.new2(Op::Xor, a, b), Some(Kind::S390NonZero), NONE, NONE),
        Alu::Compare | Alu::CompareLogical => {
            let kind = if alu == Alu::Compare { Kind::S390CompareS } else { Kind::S390CompareU };
            l.b.flags(kind, bits, a, b, zero);
            return Some(());
        }
        Alu::Reverse(n) => {
            let t = l.b.temp();
            l.b.full(Op::Bswap, n, t, b, NONE, 0);
            (t, None, NONE, NONE)
        }
        Alu::MulPair { signed } => {
            mul_pair(l, f.r1, b, wide, signed);
            return Some(());
        }
        Alu::DivPair(form) => {
            div_pair(l, f.r1, b, wide, form);
            return Some(());
        }
    };
    if let Some(kind) = kind {
        l.b.flags(kind, bits, x, y, res);
    }
    l.set(f.r1, res, wide);
    if l.mode.overflow && matches!(alu, Alu::Complement | Alu::Positive | Alu::Add | Alu::Sub) {
        overflow(l);
    }
    Some(())
}

/// 1 if the condition code is in `mask`.
pub(crate) fn condition(l: &mut Lift, mask: u8) -> Slot {
    let t = l.b.temp();
    l.b.full(Op::Cond, Cond::s390(mask).0, t, NONE, NONE, 0);
    t
}

/// Minus the magnitude of `b`, sign-extended.
fn negative(l: &mut Lift, b: Slot, wide: bool) -> Slot {
    let b = l.b.new2(if wide { Op::Mov } else { Op::Sext32 }, b, NONE);
    let sign = l.b.new_imm(Op::Sar64I, b, 63);
    let flipped = l.b.new2(Op::Xor, b, sign);
    let magnitude = l.b.new2(Op::Sub64, flipped, sign);
    l.b.new_imm(Op::Neg64, magnitude, 0)
}

/// A fixed-point overflow (condition code 3) interrupts after the instruction is complete: leave with an event, because a
/// guest word has been written.
pub(crate) fn overflow(l: &mut Lift) {
    let s = l.b.skip_unless(Cond::s390(1));
    l.b.op_imm(Op::MovI, PROGRAM_CODE, NONE, u64::from(program::FIXED_OVERFLOW));
    let next = l.next;
    l.b.full(Op::ExitEvent, event::PROGRAM, NONE, NONE, NONE, next);
    l.b.close(s);
}

/// The second operand, widened to 64 bits where its row says so.
pub(crate) fn operand(l: &mut Lift, f: &Fields, second: Second) -> Slot {
    let field = |bits: u8| u64::from(bits) << 8;
    match second {
        Second::R => r(f.r2),
        Second::RegisterU(bits) => l.b.new_imm(Op::Extract, r(f.r2), field(bits)),
        Second::RegisterS(bits) => l.b.new_imm(Op::SExtract, r(f.r2), field(bits)),
        Second::M(log2) => load(l, f, log2, false, true),
        Second::MS(log2) => load(l, f, log2, true, true),
        Second::Little(log2) => load(l, f, log2, false, false),
        Second::Rel(log2) | Second::RelS(log2) => {
            let at = relative(l, f.i2);
            let base = l.b.constant(at);
            let t = l.b.temp();
            // Relative-long operands must be aligned ("Relative-Immediate operands on integral boundaries").
            let m = MemRef { aligned: true, ..l.access(log2, matches!(second, Second::RelS(_)), 0) };
            l.b.load(t, base, NONE, m);
            t
        }
        Second::I => l.b.constant(f.i2.cast_unsigned()),
        Second::U(bits) => l.b.constant(f.i2.cast_unsigned() & (u64::MAX >> (64 - u32::from(bits)))),
    }
}

/// The address of a relative operand of `halfwords`.
pub(crate) fn relative(l: &Lift, halfwords: i64) -> u64 {
    l.wrap(l.origin.wrapping_add((halfwords << 1).cast_unsigned()))
}

fn load(l: &mut Lift, f: &Fields, log2: u8, signed: bool, big: bool) -> Slot {
    let t = l.b.temp();
    let m = MemRef { big, disp: f.d2, ..l.access(log2, signed, f.b2) };
    l.b.load(t, crate::base_slot(f.b2), crate::base_slot(f.x2), m);
    t
}

/// R1 and R1 + 1 = R1 + 1 times `b`.
fn mul_pair(l: &mut Lift, r1: u32, b: Slot, wide: bool, signed: bool) {
    let a = r(r1 + 1);
    if wide {
        let high = l.b.new2(if signed { Op::MulHiS64 } else { Op::MulHiU64 }, a, b);
        let low = l.b.new2(Op::Mul64, a, b);
        l.b.op(Op::Mov, r(r1), high, NONE);
        l.b.op(Op::Mov, r(r1 + 1), low, NONE);
    } else {
        let extend = if signed { Op::Sext32 } else { Op::Zext32 };
        let (a, b) = (l.b.new2(extend, a, NONE), l.b.new2(extend, b, NONE));
        let product = l.b.new2(Op::Mul64, a, b);
        let high = l.b.new_imm(Op::Shr64I, product, 32);
        l.set32(r1, high);
        l.set32(r1 + 1, product);
    }
}

/// R1 = remainder, R1 + 1 = quotient. The helper makes the quotient or stops with a fixed-point-divide exception; the
/// remainder follows from it.
fn div_pair(l: &mut Lift, r1: u32, b: Slot, wide: bool, form: Divide) {
    let stops = ir::op::call_flags::MAY_STOP;
    let (odd, even) = (r(r1 + 1), r(r1));
    let q = l.b.temp();
    if wide {
        // The low half of the dividend goes by register number; only the logical form has a high half.
        match form {
            Divide::Logical => l.b.call(q, helper::id::DIVIDE_128, even, b, r1 + 1, stops),
            _ => l.b.call(q, helper::id::DIVIDE_SIGNED, odd, b, 64, stops),
        }
        let back = l.b.new2(Op::Mul64, q, b);
        let rest = l.b.new2(Op::Sub64, odd, back);
        l.b.op(Op::Mov, even, rest, NONE);
        l.b.op(Op::Mov, odd, q, NONE);
        return;
    }
    let high = l.b.new_imm(Op::Shl64I, even, 32);
    let low = l.b.new2(Op::Zext32, odd, NONE);
    let dividend = l.b.new2(Op::Or, high, low);
    let (extend, id) = match form {
        Divide::Logical => (Op::Zext32, helper::id::DIVIDE_LOGICAL),
        _ => (Op::Sext32, helper::id::DIVIDE_SIGNED),
    };
    let divisor = l.b.new2(extend, b, NONE);
    l.b.call(q, id, dividend, divisor, 32, stops);
    let back = l.b.new2(Op::Mul64, q, divisor);
    let rest = l.b.new2(Op::Sub64, dividend, back);
    l.set32(r1, rest);
    l.set32(r1 + 1, q);
}

/// FLOGR: R1 = leading zeros of R2, R1 + 1 = R2 without its leftmost one; condition code 0 if there is none, else 2.
pub(crate) fn find_leftmost_one(l: &mut Lift, f: &Fields) -> Option<()> {
    if !l.even(f.r1) {
        return Some(());
    }
    let v = l.b.new2(Op::Mov, r(f.r2), NONE);
    let n = l.b.temp();
    l.b.full(Op::Clz, 64, n, v, NONE, 0);
    let top = l.b.constant(1 << 63);
    let bit = l.b.new2(Op::Shr64, top, n);
    let rest = l.b.new2(Op::AndNot, v, bit);
    // 64 leading zeros: the shift count wraps, but then nothing is there to clear.
    let found = l.b.temp();
    l.b.full(Op::SetRelI, Rel::Ne as u8, found, v, NONE, 0);
    let cc = l.b.new_imm(Op::Shl64I, found, 1);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    l.b.op(Op::Mov, r(f.r1), n, NONE);
    l.b.op(Op::Mov, r(f.r1 + 1), rest, NONE);
    Some(())
}

/// Test under mask: `value` and a mask of `bits`. Of storage (8 bits) all mixed selections are condition code 1.
pub(crate) fn test_mask(l: &mut Lift, value: Slot, mask: u64, storage: bool) {
    let m = l.b.constant(mask);
    if !storage {
        l.b.flags(Kind::S390TestMask, 64, value, m, NONE);
        return;
    }
    let hit = l.b.new2(Op::And, value, m);
    let any = l.b.temp();
    l.b.full(Op::SetRelI, Rel::Ne as u8, any, hit, NONE, 0);
    let all = l.b.set_rel(Rel::Eq, hit, m);
    let both = l.b.new2(Op::And, any, all);
    let cc = l.b.temp();
    l.b.full(Op::Lea, 1, cc, any, both, 0);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
}

/// TMHH, TMHL, TMLH, TMLL: bits `at` of the register.
pub(crate) fn test_register(l: &mut Lift, f: &Fields, at: u32) -> Option<()> {
    let v = l.b.new_imm(Op::Extract, r(f.r1), u64::from(at) | 16 << 8);
    test_mask(l, v, f.i2.cast_unsigned() & 0xffff, false);
    Some(())
}

/// And, or, exclusive or of an immediate of `len` bits with the bits of R1 at `at`; the condition code is of those bits.
pub(crate) fn immediate_part(l: &mut Lift, f: &Fields, alu: Alu, at: u8, len: u8) -> Option<()> {
    let part = u64::from(at) | u64::from(len) << 8;
    let imm = f.i2.cast_unsigned() & ((1u64 << len) - 1);
    let old = l.b.new_imm(Op::Extract, r(f.r1), part);
    let new = match alu {
        Alu::And => l.b.new_imm(Op::AndI, old, imm),
        Alu::Or => l.b.new_imm(Op::OrI, old, imm),
        Alu::Xor => l.b.new_imm(Op::XorI, old, imm),
        // Insert immediate, without condition code.
        _ => {
            let new = l.b.constant(imm);
            l.b.full(Op::Deposit, 0, r(f.r1), r(f.r1), new, part);
            return Some(());
        }
    };
    l.b.flags(Kind::S390NonZero, len, NONE, NONE, new);
    l.b.full(Op::Deposit, 0, r(f.r1), r(f.r1), new, part);
    Some(())
}
