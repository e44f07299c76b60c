//! Operations that only VEX-coded instructions do (shifts by lanes, all predicates, fused multiply-add, half precision), and the
//! VEX-coded forms of all others.
//!
//! Such an instruction clears what its destination's register has above 128 bits. Where the guest's does not, results are computed
//! in scratch.

use fp::sse::FpOp;
use ir::op::{FpRef, Inst};
use ir::vec::VecOp;

use crate::asm::{Map, Rm, Vex};
use crate::emit::Emitter;
use crate::layout::{XS, XT};

/// `d = a op b` on integers.
pub fn two(op: VecOp) -> Option<Vex> {
    let (op, w) = match op {
        VecOp::Permute32 => (0x0c, false),
        VecOp::Permute64 => (0x0d, false),
        VecOp::ShrV32 => (0x45, false),
        VecOp::ShrV64 => (0x45, true),
        VecOp::SarV32 => (0x46, false),
        VecOp::ShlV32 => (0x47, false),
        VecOp::ShlV64 => (0x47, true),
        _ => return None,
    };
    Some(Vex::new(Map::Of38x66, op).w(w))
}

/// A comparison with any of the 32 predicates.
fn comparison(op: FpOp) -> Option<Vex> {
    let map = match op {
        FpOp::VcmpPs => Map::Of,
        FpOp::VcmpPd => Map::Of66,
        FpOp::VcmpSs => Map::OfF3,
        FpOp::VcmpSd => Map::OfF2,
        _ => return None,
    };
    Some(Vex::new(map, 0xc2))
}

/// The form of a fused operation whose first operand is a factor and the third the other one; 16 further is the form that adds
/// the third, 32 further the one that adds the first.
fn fused(op: FpOp) -> Option<Vex> {
    // Four of each kind in the order Ps, Pd, Ss, Sd, then two of each of the alternating kinds.
    let n = (op as u8).checked_sub(FpOp::FmaddPs as u8)?;
    let code = if n < 16 { 0x98 + n / 4 * 2 + n / 2 % 2 } else { 0x96 + (n - 16) / 2 };
    Some(Vex::new(Map::Of38x66, code).w(n & 1 != 0))
}

/// Where a VEX-coded instruction has its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Two, of which the second may be in memory.
    Two,
    /// The same, and the second is of 128 bits in any case.
    Count,
    /// One, which may be in memory.
    One,
    /// One in a register, shifted by an immediate; the opcode's extension.
    Shift(u8),
}

/// The instruction of an operation on integers, and whether it has an immediate.
pub fn integer_form(op: VecOp) -> Option<(Vex, Form, bool)> {
    if let Some((map, code)) = super::two(op) {
        let shift = map == Map::Of66 && matches!(code, 0xd1..=0xd3 | 0xe1 | 0xe2 | 0xf1..=0xf3);
        return Some((Vex::new(map, code), if shift { Form::Count } else { Form::Two }, false));
    }
    if let Some((map, code)) = super::two_imm(op) {
        return Some((Vex::new(map, code), Form::Two, true));
    }
    if let Some((map, code)) = super::one(op) {
        return Some((Vex::new(map, code), Form::One, false));
    }
    if let Some((map, code)) = super::shuffle(op) {
        return Some((Vex::new(map, code), Form::One, true));
    }
    if let Some((code, extension)) = super::shift(op) {
        return Some((Vex::new(Map::Of66, code), Form::Shift(extension), true));
    }
    two(op).map(|code| (code, Form::Two, false))
}

/// The immediate of an instruction on 256 bits, if it does on the halves what `op` does with these.
pub fn joined(op: VecOp, low: u64, upper: u64) -> Option<u64> {
    let fields = |bits: u32| {
        let mask = (1 << bits) - 1;
        Some(low & mask | (upper & mask) << bits)
    };
    match op {
        VecOp::ShufflePd | VecOp::Blend64 => fields(2),
        VecOp::MultiSad8 => fields(3),
        VecOp::Blend32 => fields(4),
        // The lanes of one half become longer than fit into it; and the smallest lane of all.
        VecOp::Sext8To16
        | VecOp::Sext8To32
        | VecOp::Sext8To64
        | VecOp::Sext16To32
        | VecOp::Sext16To64
        | VecOp::Sext32To64
        | VecOp::Zext8To16
        | VecOp::Zext8To32
        | VecOp::Zext8To64
        | VecOp::Zext16To32
        | VecOp::Zext16To64
        | VecOp::Zext32To64
        | VecOp::MinPosU16 => None,
        _ => (low == upper).then_some(low),
    }
}

/// The VEX-coded instruction of a floating-point operation between vectors.
#[derive(Clone, Copy, Debug)]
pub struct FloatForm {
    /// The instruction, on 128 bits.
    pub code: Vex,
    /// It has one operand, the operation's second.
    pub one: bool,
    /// It has three operands.
    pub fused: bool,
    /// What it has on 256 bits is the same on each half.
    pub wide: bool,
    /// It works on the lowest lane.
    pub scalar: bool,
    /// The bits of its immediate, if it has one.
    pub imm: Option<u8>,
}

/// The instruction of a floating-point operation, if it has a VEX-coded form and its destination is a register.
pub fn float_form(op: FpOp) -> Option<FloatForm> {
    use FpOp as F;
    if let Some(code) = fused(op) {
        // The scalar ones are the odd opcodes, but for those that alternate.
        let scalar = code.op >= 0x98 && code.op & 1 != 0;
        return Some(FloatForm { code, one: false, fused: true, wide: !scalar, scalar, imm: None });
    }
    let longer_or_shorter =
        matches!(op, F::CvtPs2Pd | F::CvtPd2Ps | F::CvtDq2Pd | F::CvtPd2Dq | F::CvttPd2Dq | F::CvtPh2Ps);
    let one = longer_or_shorter
        || matches!(op, F::SqrtPs | F::SqrtPd | F::RcpPs | F::RsqrtPs | F::RoundPs | F::RoundPd)
        || matches!(op, F::CvtDq2Ps | F::CvtPs2Dq | F::CvttPs2Dq);
    let form = |code: Vex, imm| {
        let packed = matches!(code.map, Map::Of | Map::Of66) || matches!(code.op, 0x7c | 0x7d | 0xd0);
        // Of 66 0F 3A: ROUNDPS, ROUNDPD, DPPS.
        let packed = packed || code.map == Map::Of3Ax66 && matches!(code.op, 0x08 | 0x09 | 0x40) || one;
        let wide = packed && !longer_or_shorter;
        FloatForm { code, one, fused: false, wide, scalar: !packed, imm }
    };
    if let Some(code) = comparison(op) {
        return Some(form(code, Some(31)));
    }
    if op == F::CvtPh2Ps {
        return Some(form(WIDEN, None));
    }
    let (map, code, _) = super::arithmetic(op)?;
    let imm = match (map, code) {
        (_, 0xc2) => Some(7),
        (Map::Of3Ax66, 0x08..=0x0b) => Some(15),
        (Map::Of3Ax66, _) => Some(0xff),
        _ => None,
    };
    Some(form(Vex::new(map, code), imm))
}

const WIDEN: Vex = Vex::new(Map::Of38x66, 0x13);
const NARROW: Vex = Vex::new(Map::Of3Ax66, 0x1d);

/// The instruction of a floating-point operation.
pub fn float(op: FpOp) -> Option<Vex> {
    match op {
        FpOp::CvtPh2Ps => Some(WIDEN),
        FpOp::CvtPs2Ph => Some(NARROW),
        _ => comparison(op).or_else(|| fused(op)),
    }
}

/// Emit `d = code(a, b)`.
pub fn pairs(e: &mut Emitter, x: &Inst, code: Vex, imm: Option<u8>) {
    let b = e.pair_at(x.b);
    let a = e.pair_in(x.a, XS);
    e.a.vex(code, XS.0, a.0, b);
    if let Some(v) = imm {
        e.a.byte(v);
    }
    e.pair_done(x.d, XS);
}

/// Emit `x`, whose instruction is `code`.
pub fn fp(e: &mut Emitter, x: &Inst, code: Vex) {
    let imm = x.imm as u8;
    match code {
        WIDEN => {
            let b = e.pair_at(x.b);
            e.a.vex(code, XS.0, 0, b);
        }
        NARROW => {
            let b = e.pair_in(x.b, XS);
            e.a.vex(code, b.0, 0, XS);
            e.a.byte(imm & 7);
        }
        _ if code.op == 0xc2 => return pairs(e, x, code, Some(imm & 31)),
        _ => {
            let third = FpRef::third(x.imm);
            if matches!(e.pair_at(third), Rm::M(_)) {
                // It takes the place of the temporary pair.
                e.pair_evict(e.i);
            }
            let c = e.pair_in(third, XT);
            let b = e.pair_at(x.b);
            let a = e.pair_at(x.a);
            // Scalars keep the upper lanes of the first factor.
            e.a.sse(Map::Of, 0x28, XS.0, a);
            e.a.vex(code, XS.0, c.0, b);
        }
    }
    e.pair_done(x.d, XS);
}
