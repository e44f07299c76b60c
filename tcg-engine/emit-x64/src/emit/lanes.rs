//! VEX-coded instructions whose lanes go from one half of a register to the other: conversions between lengths, broadcasts, and
//! permutations of quadwords. What they are lifted into is found here as [`super::ymm`] finds halves.

use fp::sse::FpOp;
use ir::op::{FpRef, Inst, NONE, Op, Slot};
use ir::vec::VecOp;

use super::ymm::{clears_upper, guest_upper};
use super::{Emitter, temp_index};
use crate::asm::{Map, Rm, Vex};
use crate::layout::{XMM, XMM_STEP, XS, xmm};
use crate::vector::{float_form, integer_form};

/// VPBROADCASTD and VPBROADCASTQ.
const BROADCAST_32: Vex = Vex::new(Map::Of38x66, 0x58);
const BROADCAST_64: Vex = Vex::new(Map::Of38x66, 0x59);
/// VPERMQ.
const PERMUTE: Vex = Vex::new(Map::Of3Ax66, 0x00).w(true).wide(true);

/// For operations that make lanes longer: bytes of the source from which the upper half's lanes come.
fn upper_source(op: VecOp) -> Option<u64> {
    use VecOp as V;
    Some(match op {
        V::Sext8To16 | V::Zext8To16 | V::Sext16To32 | V::Zext16To32 | V::Sext32To64 | V::Zext32To64 => 8,
        V::Sext8To32 | V::Zext8To32 | V::Sext16To64 | V::Zext16To64 => 4,
        V::Sext8To64 | V::Zext8To64 => 2,
        _ => return None,
    })
}

fn copies(x: &Inst, d: Slot, from: Slot) -> bool {
    x.op == Op::Mov128 && x.d == d && x.a == from
}

impl Emitter {
    /// Whether nobody reads the temporary pair behind the next `count` operations.
    fn spent(&self, s: Slot, count: usize) -> bool {
        temp_index(s).is_some() && !self.pair_wanted(s, self.i + count)
    }

    /// `d = code(source)`, for `d` a guest register.
    fn of_one(&mut self, code: Vex, d: Slot, source: Rm) {
        let r = xmm(d).map_or(XS, |(r, _)| r);
        self.a.vex(code, r.0, 0, source);
        self.vex_done(d, r, code.wide);
    }

    /// Lanes that get twice as long and more: integers' by VPMOVSX and VPMOVZX, and floating-point ones.
    pub(super) fn whole_longer(&mut self, group: &[Inst]) -> Option<u8> {
        let [shift, first, second, rest @ ..] = group else { return None };
        let (rest_of, a) = (shift.d, shift.a);
        if shift.aux != VecOp::ShrBytes as u8 || second.aux != first.aux || a == first.d {
            return None;
        }
        if first.op == Op::Vec && second.op == Op::Vec {
            let op = VecOp::from_u8(first.aux)?;
            let upper = first.a == rest_of && guest_upper(second.d) == Some(first.d) && second.a == a;
            if !upper || upper_source(op) != Some(shift.imm) || !self.spent(rest_of, 3) {
                return None;
            }
            let (code, ..) = integer_form(op)?;
            let a = self.pair_at(a);
            self.of_one(code.wide(true), second.d, a);
            return Some(3);
        }
        let (op, last) = (FpOp::from_u8(first.aux)?, rest.first()?);
        let longer = matches!(op, FpOp::CvtPs2Pd | FpOp::CvtDq2Pd | FpOp::CvtPh2Ps) && shift.imm == 8;
        let longer = longer && self.spent(rest_of, 4);
        let low = first.op == Op::Fp && first.imm & FpRef::MORE != 0 && (first.a, first.b) == (a, a);
        let upper = second.op == Op::Fp && (second.a, second.b) == (rest_of, rest_of);
        let d = last.d;
        let moved = copies(last, d, first.d) && guest_upper(d) == Some(second.d) && self.spent(first.d, 4);
        if !(longer && low && upper && moved) || self.unsure || !crate::vector::float(self.features, first.aux) {
            return None;
        }
        let form = float_form(op)?;
        let a = self.pair_at(a);
        self.of_one(form.code.wide(true), d, a);
        Some(4)
    }

    /// Doubles that get half as long.
    pub(super) fn whole_shorter(&mut self, group: &[Inst]) -> Option<u8> {
        let [x, n, join, ..] = group else { return None };
        let op = FpOp::from_u8(x.aux)?;
        let shorter = matches!(op, FpOp::CvtPd2Ps | FpOp::CvtPd2Dq | FpOp::CvttPd2Dq) && x.imm & FpRef::MORE != 0;
        let halves = n.op == Op::Fp && n.aux == x.aux && self.partners(x.b, n.b) && n.imm & FpRef::MORE == 0;
        let joined = join.op == Op::Vec && join.aux == VecOp::UnpackLo64 as u8 && (join.a, join.b) == (x.d, n.d);
        let apart = x.d != n.d && self.spent(x.d, 3) && self.spent(n.d, 3);
        if !(shorter && halves && joined && apart) {
            return None;
        }
        let (d, _) = xmm(join.d).filter(|_| clears_upper(group, 3, join.d))?;
        let form = float_form(op)?;
        let b = self.operand(x.b, true);
        self.a.vex(form.code.wide(true), d.0, 0, b);
        Some(5)
    }

    /// The lowest doubleword or quadword into all others.
    pub(super) fn whole_broadcast(&mut self, group: &[Inst]) -> Option<u8> {
        let [x, low, ..] = group else { return None };
        let code = match VecOp::from_u8(x.aux)? {
            VecOp::Shuffle32 if x.imm == 0 => BROADCAST_32,
            VecOp::DupLo64 => BROADCAST_64,
            _ => return None,
        };
        let d = low.d;
        let wide = group.get(2).is_some_and(|n| guest_upper(d).is_some_and(|upper| copies(n, upper, x.d)));
        let (narrow, count) = (clears_upper(group, 2, d), if wide { 3 } else { 4 });
        if !copies(low, d, x.d) || !wide && !narrow || !self.spent(x.d, count) {
            return None;
        }
        let a = self.pair_at(x.a);
        self.of_one(code.wide(wide), d, a);
        Some(count as u8)
    }

    /// Any quadword for each quadword.
    pub(super) fn whole_permutation(&mut self, group: &[Inst]) -> Option<u8> {
        let (take, put) = group.get(..8)?.split_at(4);
        let low = take[0].a;
        let source = match self.pair {
            pair if self.pair_upper != NONE && (low.0 & !1 == pair.0 || low.0 & !1 == self.pair_upper.0) => pair,
            _ => Slot(XMM.wrapping_add(low.0.wrapping_sub(XMM) / XMM_STEP * XMM_STEP)),
        };
        let upper = self.partner(source)?;
        let words = [source, Slot(source.0 + 1), upper, Slot(upper.0 + 1)];
        let d = put[0].d;
        guest_upper(d)?;
        let mut imm = 0;
        for (n, (from, to)) in (0u16..).zip(take.iter().zip(put)) {
            let chosen = words.iter().position(|w| *w == from.a)?;
            let moves = from.op == Op::Mov && to.op == Op::Mov && to.a == from.d && to.d == Slot(d.0 + n);
            let spent = temp_index(from.d).is_some_and(|t| self.last[t] as usize <= self.i + 4 + usize::from(n));
            if !moves || !spent || take.iter().filter(|other| other.d == from.d).count() != 1 {
                return None;
            }
            imm |= (chosen as u8) << (2 * n);
        }
        let a = self.operand(source, true);
        let r = xmm(d).map_or(XS, |(r, _)| r);
        self.a.vex(PERMUTE, r.0, 0, a);
        self.a.byte(imm);
        self.vex_done(d, r, true);
        Some(8)
    }
}
