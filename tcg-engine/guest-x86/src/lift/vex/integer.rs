//! Integer vectors, and the bitwise and shuffling instructions of floating point: on each half as SSE does it.

use iced_x86::{Mnemonic, OpKind};
use ir::NONE;
use ir::op::Op;
use ir::vec::VecOp;

use super::{Wide, names};
use crate::lift::vector::{self, Shape};
use crate::lift::{Flow, Lifted, Lifter};
use crate::state::{xmm, ymm_upper};

/// The operation and the arrangement of operands of an instruction that SSE has not.
fn row(l: &Lifter) -> Option<(VecOp, Shape)> {
    use Mnemonic as M;
    let by_immediate = l.i.op_kind(l.i.op_count().saturating_sub(1)) == OpKind::Immediate8;
    Some(match l.i.mnemonic() {
        M::Vpshufb => (VecOp::Shuffle8, Shape::Two),
        M::Vpblendd => (VecOp::Blend32, Shape::Two),
        M::Vpsllvd => (VecOp::ShlV32, Shape::Two),
        M::Vpsllvq => (VecOp::ShlV64, Shape::Two),
        M::Vpsrlvd => (VecOp::ShrV32, Shape::Two),
        M::Vpsrlvq => (VecOp::ShrV64, Shape::Two),
        M::Vpsravd => (VecOp::SarV32, Shape::Two),
        M::Vpermilps if by_immediate => (VecOp::Shuffle32, Shape::One),
        M::Vpermilps => (VecOp::Permute32, Shape::Two),
        M::Vpermilpd if !by_immediate => (VecOp::Permute64, Shape::Two),
        _ => return None,
    })
}

/// The immediates of the two halves.
fn immediates(l: &Lifter) -> (u64, u64) {
    use Mnemonic as M;
    let last = l.i.op_count() - 1;
    if l.i.op_kind(last) != OpKind::Immediate8 {
        return (0, 0);
    }
    let imm = u64::from(l.i.immediate8());
    match l.i.mnemonic() {
        M::Vshufpd | M::Vblendpd | M::Vpermilpd => (imm, imm >> 2),
        M::Vmpsadbw => (imm & 7, imm >> 3 & 7),
        M::Vblendps | M::Vpblendd => (imm, imm >> 4),
        _ => (imm, imm),
    }
}

/// Lifts them.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    use Mnemonic as M;
    match l.i.mnemonic() {
        M::Vptest => return test(l, None),
        M::Vtestps => return test(l, Some(0x8000_0000_8000_0000)),
        M::Vtestpd => return test(l, Some(1 << 63)),
        M::Vpblendvb => return blend_variable(l, VecOp::CmpGt8),
        M::Vblendvps => return blend_variable(l, VecOp::CmpGt32),
        M::Vblendvpd => return blend_variable(l, VecOp::CmpGt64),
        M::Vpermilpd if l.i.op_kind(2) == OpKind::Immediate8 => return permute_pd(l),
        M::Vpcmpistri => return vector::implicit_string(l, false),
        M::Vpcmpistrm => return string_mask(l, |l| vector::implicit_string(l, true)),
        M::Vpcmpestri | M::Vpcmpestri64 => return vector::explicit_string(l, wide_lengths(l), false),
        M::Vpcmpestrm | M::Vpcmpestrm64 => {
            return string_mask(l, |l| vector::explicit_string(l, wide_lengths(l), true));
        }
        _ => {}
    }
    let (op, shape) = match names::legacy(l.i.mnemonic()).and_then(vector::row) {
        Some((op, shape, _)) => (op, shape),
        None => row(l)?,
    };
    if let Some(bytes) = narrow_source(op) {
        return extend(l, op, bytes);
    }
    let (wide, d, (imm, imm_upper)) = (l.is_wide(), l.destination(), immediates(l));
    match shape {
        Shape::Two => {
            let b = l.vector(2);
            let a = l.vector(1);
            l.vec(op, d.low, a.low, b.low, imm);
            if wide {
                l.vec(op, d.upper, a.upper, b.upper, imm_upper);
            }
        }
        Shape::One => {
            let a = l.vector(1);
            l.vec(op, d.low, a.low, NONE, imm);
            if wide {
                l.vec(op, d.upper, a.upper, NONE, imm_upper);
            }
        }
        Shape::Shift(_) | Shape::ByteShift => shift(l, op, shape),
    }
    if !wide {
        l.clear_upper(d);
    }
    Some(Flow::Next)
}

/// Both halves by the same count: an immediate, or the low quadword of a register or of 128 bits of memory.
fn shift(l: &mut Lifter, op: VecOp, shape: Shape) {
    let (wide, d, (imm, _)) = (l.is_wide(), l.destination(), immediates(l));
    let by_immediate = l.i.op_kind(2) == OpKind::Immediate8;
    let (op, count) = match shape {
        Shape::Shift(immediate) if by_immediate => (immediate, NONE),
        Shape::Shift(_) => {
            let count = l.vector(2).low;
            // The destination may be the count's register, which both halves need.
            let copied = if wide && count == d.low { l.b.temp128() } else { count };
            if copied != count {
                l.b.op(Op::Mov128, copied, count, NONE);
            }
            (op, copied)
        }
        _ => (op, NONE),
    };
    let a = l.vector(1);
    l.vec(op, d.low, a.low, count, imm);
    if wide {
        l.vec(op, d.upper, a.upper, count, imm);
    }
}

/// For VPMOVSX and VPMOVZX: bytes of the source that the upper half's lanes begin behind.
fn narrow_source(op: VecOp) -> Option<u64> {
    use VecOp as V;
    Some(match op {
        V::Sext8To16 | V::Zext8To16 | V::Sext16To32 | V::Zext16To32 | V::Sext32To64 | V::Zext32To64 => 8,
        V::Sext8To32 | V::Zext8To32 | V::Sext16To64 | V::Zext16To64 => 4,
        V::Sext8To64 | V::Zext8To64 => 2,
        _ => return None,
    })
}

fn extend(l: &mut Lifter, op: VecOp, bytes: u64) -> Lifted {
    let (wide, d) = (l.is_wide(), l.destination());
    let a = l.vector(1).low;
    if wide {
        let rest = l.vec_new(VecOp::ShrBytes, a, NONE, bytes);
        l.vec(op, d.upper, rest, NONE, 0);
    }
    l.vec(op, d.low, a, NONE, 0);
    if !wide {
        l.clear_upper(d);
    }
    Some(Flow::Next)
}

fn permute_pd(l: &mut Lifter) -> Lifted {
    let (wide, d, (imm, imm_upper)) = (l.is_wide(), l.destination(), immediates(l));
    let a = l.vector(1);
    l.vec(VecOp::ShufflePd, d.low, a.low, a.low, imm & 3);
    if wide {
        l.vec(VecOp::ShufflePd, d.upper, a.upper, a.upper, imm_upper & 3);
    } else {
        l.clear_upper(d);
    }
    Some(Flow::Next)
}

/// VPTEST, or with the bits of `signs` alone VTESTPS and VTESTPD.
fn test(l: &mut Lifter, signs: Option<u64>) -> Lifted {
    let wide = l.is_wide();
    let (a, b) = (l.vector(0), l.vector(1));
    let signs = signs.map(|s| l.pair_constant(s, s));
    let mut half = |a, b| {
        let b = signs.map_or(b, |s| l.vec_new(VecOp::And, b, s, 0));
        l.vec_new(VecOp::Test, a, b, 0)
    };
    let mut bits = half(a.low, b.low);
    if wide {
        let upper = half(a.upper, b.upper);
        bits = l.b.new2(Op::And, bits, upper);
    }
    l.explicit_flags(bits);
    Some(Flow::Next)
}

/// Lanes of the third operand where the fourth is negative, else of the second: `greater` makes masks of the signs.
fn blend_variable(l: &mut Lifter, greater: VecOp) -> Lifted {
    let (wide, d) = (l.is_wide(), l.destination());
    let (b, a, mask) = (l.vector(2), l.vector(1), l.vector(3));
    let zero = l.pair_constant(0, 0);
    let mut half = |d, a, b, mask| {
        let mask = l.vec_new(greater, zero, mask, 0);
        let chosen = l.vec_new(VecOp::And, mask, b, 0);
        let kept = l.vec_new(VecOp::AndNot, mask, a, 0);
        l.vec(VecOp::Or, d, chosen, kept, 0);
    };
    half(d.low, a.low, b.low, mask.low);
    if wide {
        half(d.upper, a.upper, b.upper, mask.upper);
    } else {
        l.clear_upper(d);
    }
    Some(Flow::Next)
}

fn wide_lengths(l: &Lifter) -> bool {
    matches!(l.i.mnemonic(), Mnemonic::Vpcmpestri64 | Mnemonic::Vpcmpestrm64)
}

/// A string comparison whose result goes to XMM0.
fn string_mask(l: &mut Lifter, compare: impl Fn(&mut Lifter) -> Lifted) -> Lifted {
    let flow = compare(l);
    let d = Wide { low: xmm(0), upper: ymm_upper(0) };
    l.clear_upper(d);
    flow
}
