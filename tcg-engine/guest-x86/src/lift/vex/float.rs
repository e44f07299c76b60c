//! Floating point on VEX-coded operands: what SSE has, comparisons with 32 predicates, fused multiply-add, half precision.
//!
//! The halves of a 256-bit instruction raise their exceptions together ([`FpRef::MORE`]), so nothing of its destination is
//! written before the second one.

use fp::sse::FpOp;
use iced_x86::{Mnemonic, OpKind};
use ir::op::FpRef;
use ir::vec::VecOp;
use ir::{MemRef, NONE, Op, Slot};

use super::{Wide, names};
use crate::lift::simd::high;
use crate::lift::sse::{self, Shape};
use crate::lift::{Flow, Lifted, Lifter};

/// Which operands of a fused operation are multiplied, and which one is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// First × third + second.
    F132,
    /// Second × first + third.
    F213,
    /// Second × third + first.
    F231,
}

/// The row of a fused instruction.
fn fused_row(m: Mnemonic) -> Option<(FpOp, Order)> {
    use Mnemonic as M;
    Some(match m {
        M::Vfmadd132ps => (FpOp::FmaddPs, Order::F132),
        M::Vfmadd213ps => (FpOp::FmaddPs, Order::F213),
        M::Vfmadd231ps => (FpOp::FmaddPs, Order::F231),
        M::Vfmadd132pd => (FpOp::FmaddPd, Order::F132),
        M::Vfmadd213pd => (FpOp::FmaddPd, Order::F213),
        M::Vfmadd231pd => (FpOp::FmaddPd, Order::F231),
        M::Vfmadd132ss => (FpOp::FmaddSs, Order::F132),
        M::Vfmadd213ss => (FpOp::FmaddSs, Order::F213),
        M::Vfmadd231ss => (FpOp::FmaddSs, Order::F231),
        M::Vfmadd132sd => (FpOp::FmaddSd, Order::F132),
        M::Vfmadd213sd => (FpOp::FmaddSd, Order::F213),
        M::Vfmadd231sd => (FpOp::FmaddSd, Order::F231),
        M::Vfmsub132ps => (FpOp::FmsubPs, Order::F132),
        M::Vfmsub213ps => (FpOp::FmsubPs, Order::F213),
        M::Vfmsub231ps => (FpOp::FmsubPs, Order::F231),
        M::Vfmsub132pd => (FpOp::FmsubPd, Order::F132),
        M::Vfmsub213pd => (FpOp::FmsubPd, Order::F213),
        M::Vfmsub231pd => (FpOp::FmsubPd, Order::F231),
        M::Vfmsub132ss => (FpOp::FmsubSs, Order::F132),
        M::Vfmsub213ss => (FpOp::FmsubSs, Order::F213),
        M::Vfmsub231ss => (FpOp::FmsubSs, Order::F231),
        M::Vfmsub132sd => (FpOp::FmsubSd, Order::F132),
        M::Vfmsub213sd => (FpOp::FmsubSd, Order::F213),
        M::Vfmsub231sd => (FpOp::FmsubSd, Order::F231),
        M::Vfnmadd132ps => (FpOp::FnmaddPs, Order::F132),
        M::Vfnmadd213ps => (FpOp::FnmaddPs, Order::F213),
        M::Vfnmadd231ps => (FpOp::FnmaddPs, Order::F231),
        M::Vfnmadd132pd => (FpOp::FnmaddPd, Order::F132),
        M::Vfnmadd213pd => (FpOp::FnmaddPd, Order::F213),
        M::Vfnmadd231pd => (FpOp::FnmaddPd, Order::F231),
        M::Vfnmadd132ss => (FpOp::FnmaddSs, Order::F132),
        M::Vfnmadd213ss => (FpOp::FnmaddSs, Order::F213),
        M::Vfnmadd231ss => (FpOp::FnmaddSs, Order::F231),
        M::Vfnmadd132sd => (FpOp::FnmaddSd, Order::F132),
        M::Vfnmadd213sd => (FpOp::FnmaddSd, Order::F213),
        M::Vfnmadd231sd => (FpOp::FnmaddSd, Order::F231),
        M::Vfnmsub132ps => (FpOp::FnmsubPs, Order::F132),
        M::Vfnmsub213ps => (FpOp::FnmsubPs, Order::F213),
        M::Vfnmsub231ps => (FpOp::FnmsubPs, Order::F231),
        M::Vfnmsub132pd => (FpOp::FnmsubPd, Order::F132),
        M::Vfnmsub213pd => (FpOp::FnmsubPd, Order::F213),
        M::Vfnmsub231pd => (FpOp::FnmsubPd, Order::F231),
        M::Vfnmsub132ss => (FpOp::FnmsubSs, Order::F132),
        M::Vfnmsub213ss => (FpOp::FnmsubSs, Order::F213),
        M::Vfnmsub231ss => (FpOp::FnmsubSs, Order::F231),
        M::Vfnmsub132sd => (FpOp::FnmsubSd, Order::F132),
        M::Vfnmsub213sd => (FpOp::FnmsubSd, Order::F213),
        M::Vfnmsub231sd => (FpOp::FnmsubSd, Order::F231),
        M::Vfmaddsub132ps => (FpOp::FmaddsubPs, Order::F132),
        M::Vfmaddsub213ps => (FpOp::FmaddsubPs, Order::F213),
        M::Vfmaddsub231ps => (FpOp::FmaddsubPs, Order::F231),
        M::Vfmaddsub132pd => (FpOp::FmaddsubPd, Order::F132),
        M::Vfmaddsub213pd => (FpOp::FmaddsubPd, Order::F213),
        M::Vfmaddsub231pd => (FpOp::FmaddsubPd, Order::F231),
        M::Vfmsubadd132ps => (FpOp::FmsubaddPs, Order::F132),
        M::Vfmsubadd213ps => (FpOp::FmsubaddPs, Order::F213),
        M::Vfmsubadd231ps => (FpOp::FmsubaddPs, Order::F231),
        M::Vfmsubadd132pd => (FpOp::FmsubaddPd, Order::F132),
        M::Vfmsubadd213pd => (FpOp::FmsubaddPd, Order::F213),
        M::Vfmsubadd231pd => (FpOp::FmsubaddPd, Order::F231),
        _ => return None,
    })
}

/// Lifts them.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    if let Some((op, order)) = fused_row(l.i.mnemonic()) {
        return fused(l, op, order);
    }
    match l.i.mnemonic() {
        Mnemonic::Vcvtph2ps => return from_half(l),
        Mnemonic::Vcvtps2ph => return to_half(l),
        _ => {}
    }
    let (op, shape) = names::legacy(l.i.mnemonic()).and_then(sse::row)?;
    let d = l.destination();
    match shape {
        Shape::Xmm => return lanes(l, op),
        Shape::ToFlags => {
            let (b, a) = (l.vector(1).low, l.vector(0).low);
            let t = l.b.temp128();
            l.fp(op, t, a, b, 0);
            l.explicit_flags(t);
        }
        Shape::FromGpr => {
            let op = if l.bits(2) == 64 { sse::with_64_bits(op) } else { op };
            let v = l.read(2);
            let b = l.widen(v);
            let a = l.vector(1).low;
            l.fp(op, d.low, a, b, 0);
            l.clear_upper(d);
        }
        Shape::ToGpr => {
            let op = if l.bits(0) == 64 { sse::with_64_bits(op) } else { op };
            let a = l.vector(1).low;
            let t = l.b.temp128();
            l.fp(op, t, a, a, 0);
            // A 32-bit result is zero-extended.
            l.set_clean(t, l.bits(0) == 32);
            l.write_reg(l.i.op_register(0), t);
        }
        // These are MMX's.
        Shape::ToMmx | Shape::FromMmx => return None,
    }
    Some(Flow::Next)
}

impl Lifter {
    /// One half of several that raise their exceptions together: not the last one.
    fn fp_more(&mut self, op: FpOp, a: Slot, b: Slot, imm: u8) -> Slot {
        let t = self.b.temp128();
        self.b.full(Op::Fp, op as u8, t, a, b, u64::from(imm) | FpRef::MORE);
        t
    }

    /// `d = op(a, b)` on 128 or 256 bits.
    fn fp_halves(&mut self, op: FpOp, d: Wide, a: Wide, b: Wide, imm: u8, wide: bool) {
        if wide {
            let low = self.fp_more(op, a.low, b.low, imm);
            self.fp(op, d.upper, a.upper, b.upper, imm);
            self.b.op(Op::Mov128, d.low, low, NONE);
        } else {
            self.fp(op, d.low, a.low, b.low, imm);
            self.clear_upper(d);
        }
    }
}

/// A vector of one or two others.
fn lanes(l: &mut Lifter, op: FpOp) -> Lifted {
    let last = l.i.op_count() - 1;
    let has_immediate = l.i.op_kind(last) == OpKind::Immediate8;
    let imm = if has_immediate { l.i.immediate8() } else { 0 };
    let operands = l.i.op_count() - u32::from(has_immediate);
    match op {
        FpOp::CvtPs2Pd | FpOp::CvtDq2Pd => return longer(l, op),
        FpOp::CvtPd2Ps | FpOp::CvtPd2Dq | FpOp::CvttPd2Dq if l.bits(1) == 256 => return shorter(l, op),
        _ => {}
    }
    let (op, imm) = predicate(op, imm);
    let (wide, d) = (l.is_wide(), l.destination());
    let b = l.vector(operands - 1);
    let a = if operands == 3 { l.vector(1) } else { b };
    if op == FpOp::DpPs && wide {
        dot_product_steps(l, a, b, imm);
    }
    l.fp_halves(op, d, a, b, imm, wide);
    Some(Flow::Next)
}

/// The predicates of SSE are SSE's operation.
fn predicate(op: FpOp, imm: u8) -> (FpOp, u8) {
    let all = match op {
        FpOp::CmpPs => FpOp::VcmpPs,
        FpOp::CmpPd => FpOp::VcmpPd,
        FpOp::CmpSs => FpOp::VcmpSs,
        FpOp::CmpSd => FpOp::VcmpSd,
        _ => return (op, imm),
    };
    if imm & 31 < 8 { (op, imm & 7) } else { (all, imm & 31) }
}

/// VDPPS on 256 bits traps between its steps, which each half must therefore take together with the other: multiply, then add
/// neighbours twice. The operation itself, behind these, gives the result.
fn dot_product_steps(l: &mut Lifter, a: Wide, b: Wide, imm: u8) {
    let chosen = |bit: u8| if imm >> bit & 1 != 0 { 0xffff_ffff } else { 0 };
    let mask = l.pair_constant(chosen(4) | chosen(5) << 32, chosen(6) | chosen(7) << 32);
    let [a_low, b_low, a_upper, b_upper] = [a.low, b.low, a.upper, b.upper].map(|s| l.vec_new(VecOp::And, s, mask, 0));
    let mut low = l.fp_more(FpOp::MulPs, a_low, b_low, 0);
    let mut upper = l.b.temp128();
    l.fp(FpOp::MulPs, upper, a_upper, b_upper, 0);
    for _ in 0..2 {
        low = l.fp_more(FpOp::HaddPs, low, low, 0);
        let next = l.b.temp128();
        l.fp(FpOp::HaddPs, next, upper, upper, 0);
        upper = next;
    }
}

/// VCVTPH2PS; processors do not check the alignment of its 64 bits.
fn from_half(l: &mut Lifter) -> Lifted {
    if l.is_wide() || !l.is_mem(1) {
        let a = l.vector(1).low;
        return longer_from(l, FpOp::CvtPh2Ps, a);
    }
    let ea = l.ea();
    let a = l.b.temp128();
    l.b.load(a, ea.base, ea.index, MemRef { relaxed: true, ..ea.mem(64) });
    l.b.op_imm(Op::MovI, high(a), NONE, 0);
    longer_from(l, FpOp::CvtPh2Ps, a)
}

/// Lanes that get twice as long.
fn longer(l: &mut Lifter, op: FpOp) -> Lifted {
    let a = l.vector(1).low;
    longer_from(l, op, a)
}

/// The upper half's lanes come from the upper half of 128 bits.
fn longer_from(l: &mut Lifter, op: FpOp, a: Slot) -> Lifted {
    let (wide, d) = (l.is_wide(), l.destination());
    let upper = if wide { l.vec_new(VecOp::ShrBytes, a, NONE, 8) } else { a };
    let a = Wide { low: a, upper };
    l.fp_halves(op, d, a, a, 0, wide);
    Some(Flow::Next)
}

/// 256 bits of lanes that get half as long.
fn shorter(l: &mut Lifter, op: FpOp) -> Lifted {
    let d = l.destination();
    let a = l.vector(1);
    let low = l.fp_more(op, a.low, a.low, 0);
    let upper = l.b.temp128();
    l.fp(op, upper, a.upper, a.upper, 0);
    l.vec(VecOp::UnpackLo64, d.low, low, upper, 0);
    l.clear_upper(d);
    Some(Flow::Next)
}

/// VCVTPS2PH, whose destination may be memory of half the size.
fn to_half(l: &mut Lifter) -> Lifted {
    let (wide, imm) = (l.bits(1) == 256, l.i.immediate8());
    let a = l.vector(1);
    let mut v = l.b.temp128();
    if wide {
        let low = l.fp_more(FpOp::CvtPs2Ph, a.low, a.low, imm);
        l.fp(FpOp::CvtPs2Ph, v, a.upper, a.upper, imm);
        v = l.vec_new(VecOp::UnpackLo64, low, v, 0);
    } else {
        l.fp(FpOp::CvtPs2Ph, v, a.low, a.low, imm);
    }
    if !l.is_mem(0) {
        let d = l.destination();
        l.finish(d, Wide { low: v, upper: v }, false);
        return Some(Flow::Next);
    }
    let ea = l.ea();
    if wide {
        l.b.store(v, ea.base, ea.index, ea.mem(128));
    } else {
        l.b.store(v, ea.base, ea.index, MemRef { relaxed: true, ..ea.mem(64) });
    }
    Some(Flow::Next)
}

fn fused(l: &mut Lifter, op: FpOp, order: Order) -> Lifted {
    let (wide, d) = (l.is_wide(), l.destination());
    let third = l.vector(2);
    let second = l.vector(1);
    let [a, b, c] = match order {
        Order::F132 => [d, third, second],
        Order::F213 => [second, d, third],
        Order::F231 => [second, third, d],
    };
    let single = matches!(op, FpOp::FmaddSs | FpOp::FmsubSs | FpOp::FnmaddSs | FpOp::FnmsubSs);
    let double = matches!(op, FpOp::FmaddSd | FpOp::FmsubSd | FpOp::FnmaddSd | FpOp::FnmsubSd);
    if wide {
        let low = l.b.temp128();
        l.b.full(Op::Fp, op as u8, low, a.low, b.low, FpRef::with_third(c.low) | FpRef::MORE);
        l.b.full(Op::Fp, op as u8, d.upper, a.upper, b.upper, FpRef::with_third(c.upper));
        l.b.op(Op::Mov128, d.low, low, NONE);
        return Some(Flow::Next);
    }
    if !single && !double {
        l.b.full(Op::Fp, op as u8, d.low, a.low, b.low, FpRef::with_third(c.low));
        l.clear_upper(d);
        return Some(Flow::Next);
    }
    // What is above the lowest lane of the destination stays.
    let t = l.b.temp128();
    l.b.full(Op::Fp, op as u8, t, a.low, b.low, FpRef::with_third(c.low));
    if double {
        l.b.op(Op::Mov, d.low, t, NONE);
    } else {
        l.b.full(Op::Deposit, 0, d.low, d.low, t, 32 << 8);
    }
    l.clear_upper(d);
    Some(Flow::Next)
}
