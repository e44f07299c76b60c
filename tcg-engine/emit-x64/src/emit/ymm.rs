//! YMM registers: their upper halves, and instructions that VEX-coded ones of the guest are one to one.
//!
//! The idea: an instruction on 256 bits is lifted into an operation for each half, and one on 128 bits into an operation and the
//! clearing of the upper half. Here such operations are found next to each other and done by one instruction of the host. A
//! block that names upper halves has them in registers ([`Stubs::wide`](crate::stubs::Stubs::wide)); what is not found, such as
//! a half by itself, goes through words in memory.

use fp::sse::FpOp;
use ir::Block;
use ir::op::{FpRef, Inst, MemRef, NONE, Op, Slot};
use ir::vec::VecOp;

use super::simd::Reload;
use super::{Emitter, temp_index};
use crate::asm::{Map, Reg, Rm, Vex};
use crate::layout::{XMM, XMM_STEP, XS, XT, upper, word, xmm};
use crate::mutants::{Mutant, on};
use crate::vector::{Form, integer_form, joined};

/// VINSERTF128.
pub(crate) const INSERT_UPPER: Vex = Vex::new(Map::Of3Ax66, 0x18).wide(true);
/// VEXTRACTF128.
const EXTRACT_UPPER: Vex = Vex::new(Map::Of3Ax66, 0x19).wide(true);
/// VMOVAPS between registers.
const MOVE: Vex = Vex::new(Map::Of, 0x28);
/// VMOVUPS.
const LOAD: Vex = Vex::new(Map::Of, 0x10);
/// VMOVUPS.
const STORE: Vex = Vex::new(Map::Of, 0x11);
/// VXORPS.
const XOR: Vex = Vex::new(Map::Of, 0x57);

/// Guest vector registers.
const REGISTERS: u16 = 16;

/// The pair of the upper half of the guest vector register whose lower half is `s`.
pub(super) fn guest_upper(s: Slot) -> Option<Slot> {
    let at = s.0.wrapping_sub(XMM);
    (at < XMM_STEP * REGISTERS && at.is_multiple_of(XMM_STEP)).then_some(Slot(s.0 + 2))
}

fn zeroes(x: &Inst, s: Slot) -> bool {
    x.op == Op::MovI && x.d == s && x.imm == 0
}

/// Whether operations `at` and the next of `group` clear pair `s`.
fn clear(group: &[Inst], at: usize, s: Slot) -> bool {
    group.len() > at + 1 && zeroes(&group[at], s) && zeroes(&group[at + 1], Slot(s.0 | 1))
}

/// Whether operations from `at` on clear the upper half of a register whose lower half `low` is in one of the host's.
pub(super) fn clears_upper(group: &[Inst], at: usize, low: Slot) -> bool {
    xmm(low).is_some_and(|(_, high)| !high) && guest_upper(low).is_some_and(|s| clear(group, at, s))
}

impl Emitter {
    /// The host register whose upper half holds a word, if upper halves are in registers.
    pub(super) fn upper(&self, s: Slot) -> Option<(Reg, bool)> {
        if self.wide { upper(s) } else { None }
    }

    /// The upper half of `r` to a register or to memory.
    pub(super) fn extract_upper(&mut self, r: Reg, to: Rm) {
        self.a.vex(EXTRACT_UPPER, r.0, 0, to);
        self.a.byte(1);
    }

    /// The upper half of `r` from a register or from memory.
    pub(super) fn insert_upper(&mut self, r: Reg, from: Rm) {
        self.a.vex(INSERT_UPPER, r.0, r.0, from);
        self.a.byte(1);
    }

    /// Only the lower half of the temporary stays in its register; operations from number `from` on may read the upper one.
    pub(super) fn pair_narrow(&mut self, from: usize) {
        let s = std::mem::replace(&mut self.pair_upper, NONE);
        if s != NONE && self.pair_wanted(s, from) && !on(Mutant::UpperPair) {
            self.extract_upper(XT, word(s).into());
        }
    }

    /// The operations from the one at hand on that belong to its guest instruction and are always run together.
    fn group<'b>(&self, block: &'b Block) -> &'b [Inst] {
        let end = block.points.get(block.point_of(self.i) + 1).map_or(block.insts.len(), |p| p.op as usize);
        let end = (self.i + 1..end).find(|n| self.landing[*n]).unwrap_or(end);
        block.insts.get(self.i..end).unwrap_or_default()
    }

    /// Emit `x` together with operations behind it, if that is one instruction of the host; answers whether it is.
    pub(super) fn whole(&mut self, block: &Block, x: &Inst) -> bool {
        let group = self.group(block);
        let done = match x.op {
            Op::Vec => {
                let halves = self.whole_integer(group);
                halves.or_else(|| self.whole_longer(group)).or_else(|| self.whole_broadcast(group))
            }
            // Looking at MXCSR again takes temporaries out of their register.
            Op::Fp if self.unsure => None,
            Op::Fp => {
                let halves = self.whole_float(group);
                halves.or_else(|| self.whole_scalar(group)).or_else(|| self.whole_shorter(group))
            }
            Op::Mov => self.whole_permutation(group),
            Op::Load => self.whole_word(group),
            Op::Mov128 => self.whole_move(group),
            Op::Load128 => self.whole_load(group).or_else(|| self.whole_store(group)),
            Op::Store128 => self.whole_store(group),
            Op::MovI => self.whole_clear(group),
            _ => None,
        };
        if let Some(count) = done {
            self.fused = count - 1;
        }
        done.is_some()
    }

    /// The upper half of what `low` is the lower one of, where both are in one place.
    pub(super) fn partner(&self, low: Slot) -> Option<Slot> {
        if low == self.pair && self.pair_upper != NONE {
            return Some(self.pair_upper);
        }
        guest_upper(low)
    }

    /// Whether `other` is the upper half of what `low` is the lower one of.
    pub(super) fn partners(&self, low: Slot, other: Slot) -> bool {
        self.partner(low) == Some(other) || on(Mutant::Twin) && self.partner(low).is_some()
    }

    /// Where an operand is, of 256 bits if `wide`.
    pub(super) fn operand(&mut self, s: Slot, wide: bool) -> Rm {
        match xmm(s) {
            Some((r, _)) => Rm::R(r),
            None if wide && s == self.pair => Rm::R(XT),
            None if wide => Rm::M(word(s)),
            None => self.pair_at(s),
        }
    }

    /// The same in a register, which is `XS` if it is in none.
    fn operand_in(&mut self, s: Slot, wide: bool) -> Reg {
        match self.operand(s, wide) {
            Rm::R(r) => r,
            m => {
                self.a.vex(LOAD.wide(wide), XS.0, 0, m);
                XS
            }
        }
    }

    /// `d = code(a, b)`, for `d` a guest register, whose upper half is written too.
    fn vex(&mut self, code: Vex, form: Form, [d, a, b]: [Slot; 3], imm: Option<u8>) {
        let wide = code.wide;
        let r = xmm(d).map_or(XS, |(r, _)| r);
        match form {
            Form::Two | Form::Count => {
                let b = self.operand(b, wide && form == Form::Two);
                let a = self.operand_in(a, wide);
                self.a.vex(code, r.0, a.0, b);
            }
            Form::One => {
                let a = self.operand(a, wide);
                self.a.vex(code, r.0, 0, a);
            }
            Form::Shift(extension) => {
                let a = self.operand_in(a, wide);
                self.a.vex(code, extension, r.0, a);
            }
        }
        if let Some(v) = imm {
            self.a.byte(v);
        }
        self.vex_done(d, r, wide);
    }

    pub(super) fn vex_done(&mut self, d: Slot, r: Reg, wide: bool) {
        if xmm(d).is_none() {
            self.a.vex(STORE.wide(wide), r.0, 0, word(d));
        }
    }

    fn whole_integer(&mut self, group: &[Inst]) -> Option<u8> {
        let x = group.first()?;
        let op = VecOp::from_u8(x.aux)?;
        let (code, form, with_imm) = integer_form(op)?;
        // By more bytes or bits than there are is by as many.
        let counts = op == VecOp::AlignRight || matches!(form, Form::Shift(_));
        let imm = |v: u64| with_imm.then_some(if counts && v > 0xff { 0xff } else { v as u8 });
        if clears_upper(group, 1, x.d) {
            self.vex(code, form, [x.d, x.a, x.b], imm(x.imm));
            return Some(3);
        }
        let n = group.get(1)?;
        let second = match form {
            Form::Two => self.partners(x.b, n.b),
            Form::Count => n.b == x.b && x.b != x.d,
            Form::One | Form::Shift(_) => true,
        };
        let twins = n.op == Op::Vec && n.aux == x.aux && guest_upper(x.d) == Some(n.d);
        if !twins || !second || !self.partners(x.a, n.a) {
            return None;
        }
        let both = joined(op, x.imm, n.imm)?;
        self.vex(code.wide(true), form, [x.d, x.a, x.b], imm(both));
        Some(2)
    }

    fn whole_float(&mut self, group: &[Inst]) -> Option<u8> {
        let x = group.first()?;
        let op = FpOp::from_u8(x.aux).filter(|_| crate::vector::float(self.features, x.aux))?;
        let form = crate::vector::float_form(op)?;
        if x.imm & FpRef::MORE == 0 {
            // A scalar one keeps the upper lanes of its first factor.
            let sources = [x.a, x.b, FpRef::third(x.imm)];
            let suits = !form.fused || x.d == x.a || !form.scalar && sources.contains(&x.d);
            if !suits || !clears_upper(group, 1, x.d) {
                return None;
            }
            self.guard_float();
            self.float_vex(op, false, x.d, x);
            return Some(3);
        }
        let (n, last) = (group.get(1)?, group.get(2)?);
        let d = last.d;
        let halves = n.op == Op::Fp && n.aux == x.aux && guest_upper(d) == Some(n.d) && form.wide;
        let moved =
            last.op == Op::Mov128 && last.a == x.d && temp_index(x.d).is_some() && !self.pair_wanted(x.d, self.i + 3);
        let rest = if form.fused {
            let third = FpRef::third(x.imm);
            self.partners(third, FpRef::third(n.imm)) && self.suits(d, [x.a, x.b, third])
        } else {
            n.imm == x.imm & !FpRef::MORE
        };
        if !halves || !moved || !rest || !self.partners(x.a, n.a) || !self.partners(x.b, n.b) {
            return None;
        }
        self.guard_float();
        self.float_vex(op, true, d, x);
        Some(3)
    }

    /// A fused operation on one lane, whose result is moved into its destination.
    fn whole_scalar(&mut self, group: &[Inst]) -> Option<u8> {
        let (x, n) = (group.first()?, group.get(1)?);
        let op = FpOp::from_u8(x.aux).filter(|op| op.is_fused() && crate::vector::float(self.features, x.aux))?;
        let form = crate::vector::float_form(op)?;
        let d = n.d;
        let moved = match n.op {
            Op::Mov => form.code.w && n.a == x.d,
            Op::Deposit => !form.code.w && n.a == d && n.b == x.d && n.imm == 32 << 8,
            _ => false,
        };
        let one = form.scalar && moved && temp_index(x.d).is_some();
        let used = d == x.a || d == x.b || d == FpRef::third(x.imm);
        if !one || !used || !clears_upper(group, 2, d) || self.pair_wanted(x.d, self.i + 4) {
            return None;
        }
        self.guard_float();
        self.float_vex(op, false, d, x);
        Some(4)
    }

    /// The floating-point operation of `x` into guest register `d`, which is an operand if it is fused.
    fn float_vex(&mut self, op: FpOp, wide: bool, d: Slot, x: &Inst) {
        let Some(form) = crate::vector::float_form(op) else { return };
        let code = form.code.wide(wide);
        if form.fused {
            return self.fused_vex(code, d, [x.a, x.b, FpRef::third(x.imm)]);
        }
        let imm = form.imm.map(|mask| x.imm as u8 & mask);
        let (kind, a) = if form.one { (Form::One, x.b) } else { (Form::Two, x.a) };
        self.vex(code, kind, [d, a, x.b], imm);
    }

    /// The form of a fused operation that has `d` where it is, as a distance of opcodes, and its second and third operands.
    fn fused_form(d: Slot, [a, b, c]: [Slot; 3]) -> (u8, Slot, Slot) {
        match d {
            _ if d == c => (0x20, a, b),
            _ if d == a => (0, c, b),
            _ => (0x10, a, c),
        }
    }

    /// Whether there is such a form, and registers for its first two operands.
    fn suits(&self, d: Slot, sources: [Slot; 3]) -> bool {
        let (_, second, _) = Self::fused_form(d, sources);
        sources.contains(&d) && (xmm(d).is_some() || xmm(second).is_some() || second == self.pair || second == d)
    }

    /// `d = ± a × b ± c`, for operands that suit.
    fn fused_vex(&mut self, code: Vex, d: Slot, sources: [Slot; 3]) {
        let wide = code.wide;
        let (form, second, third) = Self::fused_form(d, sources);
        let code = Vex { op: code.op + form, ..code };
        let third = self.operand(third, wide);
        let r = match xmm(d) {
            Some((r, _)) => r,
            None => self.operand_in(d, wide),
        };
        let second = if second == d { r } else { self.operand_in(second, wide) };
        self.a.vex(code, r.0, second.0, third);
        self.vex_done(d, r, wide);
    }

    fn whole_move(&mut self, group: &[Inst]) -> Option<u8> {
        let x = group.first()?;
        if clears_upper(group, 1, x.d)
            && let Some((d, _)) = xmm(x.d)
        {
            match self.upper(x.a) {
                Some((r, _)) => self.extract_upper(r, d.into()),
                None => {
                    let a = self.pair_at(x.a);
                    self.a.vex(MOVE, d.0, 0, a);
                }
            }
            return Some(3);
        }
        let n = group.get(1)?;
        if n.op != Op::Mov128 || guest_upper(x.d) != Some(n.d) || !self.partners(x.a, n.a) {
            return None;
        }
        let r = match (xmm(x.d), self.operand(x.a, true)) {
            (Some((r, _)), m) => {
                self.a.vex(LOAD.wide(true), r.0, 0, m);
                r
            }
            (None, _) => self.operand_in(x.a, true),
        };
        self.vex_done(x.d, r, true);
        Some(2)
    }

    /// Whether `n` accesses the 16 bytes behind those that `x` accesses.
    fn adjacent(x: &Inst, n: &Inst) -> bool {
        let (m, second) = (MemRef::unpack(x.aux, x.imm), MemRef::unpack(n.aux, n.imm));
        let Some(disp) = m.disp.checked_add(16) else { return false };
        let same = MemRef { disp, double: false, aligned: false, ..m } == second;
        same && m.double && x.op == n.op && (x.a, x.b) == (n.a, n.b) && Self::plain(m)
    }

    /// Where `bytes` at the address of `x` are; a miss jumps to the answer.
    fn vector_place(&mut self, x: &Inst, bytes: u64, write: bool) -> (crate::asm::Mem, [Option<crate::asm::Hole>; 2]) {
        let m = MemRef::unpack(x.aux, x.imm);
        self.save_for_access();
        self.pair_evict(self.i);
        self.spill_address(x);
        let place = self.address(x, m, 32);
        let odd = (m.aligned && !on(Mutant::Aligned)).then(|| self.unaligned(place, m.low_bits()));
        let miss = self.lookup(place, bytes, write || m.write_intent);
        (self.there, [miss, odd])
    }

    fn whole_load(&mut self, group: &[Inst]) -> Option<u8> {
        let (x, n) = (group.first()?, group.get(1)?);
        if clears_upper(group, 1, x.d)
            && Self::plain(MemRef::unpack(x.aux, x.imm))
            && let Some((r, _)) = xmm(x.d)
        {
            let (place, from) = self.vector_place(x, 16, false);
            self.a.vex(LOAD, r.0, 0, place);
            let site = self.site(self.i);
            self.cold_several(from, Reload::Nothing, site, 2);
            return Some(3);
        }
        if !Self::adjacent(x, n)
            || !self.with_next()
            || MemRef::unpack(x.aux, x.imm).write_intent
            || temp_index(x.d).is_none()
        {
            return None;
        }
        if temp_index(n.d).is_some() {
            if !self.skips.is_empty() || x.d == n.d {
                return None;
            }
            let (place, from) = self.vector_place(x, 32, false);
            let site = self.site(self.i);
            self.a.vex(LOAD.wide(true), XT.0, 0, place);
            self.cold_several(from, Reload::Wide(XT, x.d, n.d), site, 1);
            for s in [x.d, n.d] {
                self.pair_written(s);
            }
            (self.pair, self.pair_upper) = (x.d, n.d);
            return Some(2);
        }
        let last = group.get(2)?;
        let moved = last.op == Op::Mov128 && last.a == x.d && guest_upper(last.d) == Some(n.d);
        if !moved || self.pair_wanted(x.d, self.i + 3) {
            return None;
        }
        let (place, from) = self.vector_place(x, 32, false);
        let site = self.site(self.i);
        let r = xmm(last.d).map_or(XS, |(r, _)| r);
        self.a.vex(LOAD.wide(true), r.0, 0, place);
        self.vex_done(last.d, r, true);
        self.cold_several(from, Reload::Nothing, site, 2);
        Some(3)
    }

    /// A doubleword or a quadword into a register whose rest is cleared.
    fn whole_word(&mut self, group: &[Inst]) -> Option<u8> {
        let (x, n) = (group.first()?, group.get(1)?);
        let m = MemRef::unpack(x.aux, x.imm);
        // VMOVD and VMOVQ.
        let code = match m.log2 {
            2 => Vex::new(Map::Of66, 0x6e),
            3 => Vex::new(Map::OfF3, 0x7e),
            _ => return None,
        };
        let plain = Self::plain(m) && !m.aligned && !m.signed;
        let (r, _) = xmm(x.d).filter(|_| plain && zeroes(n, Slot(x.d.0 | 1)) && clears_upper(group, 2, x.d))?;
        let (place, from) = self.vector_place(x, m.bytes(), false);
        self.a.vex(code, r.0, 0, place);
        let site = self.site(self.i);
        self.cold_several(from, Reload::Nothing, site, 3);
        Some(4)
    }

    /// 256 bits to memory, and the looks at both halves that may be before it.
    fn whole_store(&mut self, group: &[Inst]) -> Option<u8> {
        let looks = usize::from(group.first()?.op == Op::Load128) * 2;
        let (low, high) = (group.get(looks)?, group.get(looks + 1)?);
        if looks != 0 {
            let (x, n) = (group.first()?, group.get(1)?);
            let intent = MemRef { write_intent: true, ..MemRef::unpack(low.aux, low.imm) };
            let unused = |s: Slot| temp_index(s).is_some() && !self.pair_wanted(s, self.i + 4);
            let same = MemRef::unpack(x.aux, x.imm) == intent && (x.a, x.b) == (low.a, low.b);
            if !same || !Self::adjacent(x, n) || !unused(x.d) || !unused(n.d) {
                return None;
            }
        }
        if low.op != Op::Store128
            || !self.with_next()
            || !Self::adjacent(low, high)
            || guest_upper(low.d) != Some(high.d)
        {
            return None;
        }
        let (place, from) = self.vector_place(low, 32, true);
        let site = self.site(self.i);
        let r = self.operand_in(low.d, true);
        self.a.vex(STORE.wide(true), r.0, 0, place);
        self.cold_several(from, Reload::Nothing, site, looks + 1);
        Some(looks as u8 + 2)
    }

    /// VZEROUPPER, and the clearing of registers and of their upper halves.
    fn whole_clear(&mut self, group: &[Inst]) -> Option<u8> {
        let x = group.first()?;
        let register = |n: u16| Slot(XMM + XMM_STEP * n);
        let all = (0..REGISTERS).all(|n| clear(group, 2 * usize::from(n), Slot(register(n).0 + 2)));
        if all {
            self.pair_narrow(self.i);
            self.a.vzeroupper();
            for s in (0..REGISTERS).map(register).filter(|s| xmm(*s).is_none()) {
                for n in 2..4 {
                    self.a.store_imm(crate::asm::Sz::Q, word(Slot(s.0 + n)), 0);
                }
            }
            return Some(2 * REGISTERS as u8);
        }
        if let Some((r, false)) = self.upper(x.d) {
            let low = Slot(x.d.0 - 2);
            return clears_upper(group, 0, low).then(|| {
                self.a.vex(MOVE, r.0, 0, r);
                2
            });
        }
        let (r, _) = xmm(x.d)?;
        (clear(group, 0, x.d) && clears_upper(group, 2, x.d)).then(|| {
            self.a.vex(XOR, r.0, r.0, r);
            4
        })
    }
}
