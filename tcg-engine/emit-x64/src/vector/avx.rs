//! Operations that only VEX-coded instructions do: shifts by lanes, all predicates, fused multiply-add, half precision.
//!
//! Such an instruction clears what its destination's register has above 128 bits, so results are computed in scratch.

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
