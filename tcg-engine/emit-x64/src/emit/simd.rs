//! Vector registers: where pairs are, and moves between them, general registers and memory.
//!
//! The idea: a block that names a vector register makes sure at its head that they are the guest's ([`Stubs::vectors`]); from
//! there on the first fourteen are simply in the host's of the same numbers, and so it stays when blocks lead to each other. A
//! temporary pair stays in one more, for as long as operations on vectors follow each other. What no function here knows is
//! done by general code on the words in memory, between a spill and a refill.
//!
//! [`Stubs::vectors`]: crate::stubs::Stubs::vectors

use ir::Block;
use ir::effects::effects;
use ir::op::{FPC, FpRef, Inst, MemRef, NONE, Op, Slot, call_flags};

use super::guard::writes_control;
use super::{Emitter, temp_index};
use crate::asm::{Hole, Map, Mem, RAX, RCX, RDX, Reg, Rm, Sz, Vex, cc};
use crate::layout::{XMM, XMM_PINNED, XMM_STEP, XS, XT, upper, word, xmm};
use crate::mutants::{Mutant, on};

/// What a slow path takes back from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reload {
    /// Nothing: the stub brings back what it has to.
    Nothing,
    /// R14, the operation's result: the stub does that too.
    Temp,
    /// An XMM register: a whole pair.
    Pair(Reg, Slot),
    /// An XMM register: a word, and zeros above it.
    Word(Reg, Slot),
    /// A YMM register: two pairs.
    Wide(Reg, Slot, Slot),
}

/// The slots that `x` names.
fn all_named(x: &Inst) -> [Slot; 4] {
    let third = match x.op {
        Op::Select | Op::Cas | Op::Bulk => Slot(x.imm as u16 & 0x3ff),
        Op::Fp => FpRef::third(x.imm),
        _ => NONE,
    };
    [x.d, x.a, x.b, third]
}

impl Emitter {
    /// Nothing is known yet of what the block wants of vector registers.
    pub(super) fn start_vectors(&mut self) {
        (self.wide, self.vectors, self.float, self.unsure) = (false, false, false, false);
        self.plain = true;
        self.changes_control = usize::MAX;
        (self.pair, self.pair_upper) = (NONE, NONE);
        self.fused = 0;
    }

    /// An operation of the block names `s`.
    #[inline(always)]
    pub(super) fn look_at_slot(&mut self, s: Slot) {
        if s.0.wrapping_sub(XMM) < XMM_STEP * XMM_PINNED {
            self.plain = false;
            let upper = self.features.avx2 && upper(s).is_some();
            self.wide |= upper;
            self.vectors |= upper || xmm(s).is_some();
        } else if s == FPC {
            self.plain = false;
        }
    }

    /// What `x`, operation `i`, has to do with vectors and MXCSR beside the slots that it names.
    pub(super) fn look_at_float(&mut self, x: &Inst, i: usize) {
        match x.op {
            Op::Fp | Op::Vec | Op::Mov128 | Op::Load128 | Op::Store128 | Op::Cas128 => self.plain = false,
            _ => {}
        }
        match x.op {
            Op::Fp if crate::vector::float(self.features, x.aux) => {
                self.float |= i < self.changes_control;
                self.vectors = true;
            }
            Op::Call if x.aux & call_flags::WRITES_STATE != 0 => self.changes_control = self.changes_control.min(i),
            _ if writes_control(x) => self.changes_control = self.changes_control.min(i),
            _ => {}
        }
    }

    /// The stub for single operations that this block calls.
    pub(super) fn op_stub(&self) -> usize {
        match (self.vectors, self.wide) {
            (_, true) => self.stubs.op_wide,
            (true, false) => self.stubs.op_vectors,
            (false, false) => self.stubs.op,
        }
    }

    /// Vector registers that `x` names as words go to memory; answers those that it writes.
    pub(super) fn spill(&mut self, x: &Inst) -> [Option<Slot>; 2] {
        let e = effects(x);
        let pair = |s: &Slot| (xmm(*s).is_some() || self.upper(*s).is_some()).then_some(Slot(s.0 & !1));
        let mut done = [NONE; 12];
        for (n, s) in e.reads.iter().chain(&e.writes).enumerate() {
            done[n] = pair(s).filter(|p| !done.contains(p)).unwrap_or(NONE);
        }
        let mut written = e.writes.iter().filter_map(pair);
        let first = written.next();
        let list = [first, written.find(|s| Some(*s) != first)];
        for p in done {
            if p != NONE && !on(Mutant::Spill) {
                self.pair_to_memory(p);
            }
        }
        list
    }

    /// A pair in a vector register goes to memory too.
    pub(super) fn pair_to_memory(&mut self, p: Slot) {
        if let Some((r, _)) = xmm(p) {
            self.a.sse(Map::Of, 0x29, r.0, word(p).into());
        } else if let Some((r, _)) = self.upper(p) {
            self.extract_upper(r, word(p).into());
        }
    }

    /// Take vector registers back from memory.
    pub(super) fn refill(&mut self, list: [Option<Slot>; 2]) {
        for s in list.into_iter().flatten() {
            if on(Mutant::Refill) {
                continue;
            }
            if let Some((r, _)) = xmm(s) {
                self.a.sse(Map::Of, 0x28, r.0, word(s).into());
            } else if let Some((r, _)) = self.upper(s) {
                self.insert_upper(r, word(s).into());
            }
        }
    }

    /// Put the temporary pair into memory if anything from operation `from` on reads it.
    pub(crate) fn pair_evict(&mut self, from: usize) {
        let s = self.pair;
        if s == NONE {
            return;
        }
        if self.pair_wanted(s, from) && !on(Mutant::PairEvict) {
            self.a.sse(Map::Of, 0x29, XT.0, word(s).into());
        }
        self.pair_narrow(from);
        self.pair = NONE;
    }

    /// Whether anything from operation `from` on reads a word of temporary pair `s`.
    pub(super) fn pair_wanted(&self, s: Slot, from: usize) -> bool {
        [s, Slot(s.0 | 1)].iter().any(|s| temp_index(*s).is_some_and(|t| self.last[t] as usize >= from))
    }

    /// Where a pair is.
    pub(crate) fn pair_at(&mut self, s: Slot) -> Rm {
        if let Some((r, _)) = xmm(s) {
            Rm::R(r)
        } else if s == self.pair {
            Rm::R(XT)
        } else {
            if self.upper(s).is_some() {
                self.pair_to_memory(s);
            } else {
                self.pair_in_memory(s);
            }
            Rm::M(word(s))
        }
    }

    /// A move of a pair or of a word. In scratch registers nobody wants what is above it, and SSE would wait for it.
    fn move_to(&mut self, map: Map, op: u8, r: Reg, from: Rm) {
        if self.wide && (r == XS || r == XT) {
            self.a.vex(Vex::new(map, op), r.0, 0, from);
        } else {
            self.a.sse(map, op, r.0, from);
        }
    }

    /// A pair in an XMM register: its own, or `scratch`.
    pub(crate) fn pair_in(&mut self, s: Slot, scratch: Reg) -> Reg {
        match self.pair_at(s) {
            Rm::R(r) => r,
            m => {
                self.move_to(Map::Of, 0x28, scratch, m);
                scratch
            }
        }
    }

    /// The register to compute pair `d` in, when `other` must stay until the end.
    pub(crate) fn pair_target(&mut self, d: Slot, other: Rm) -> Reg {
        match xmm(d) {
            Some((r, _)) if other != Rm::R(r) => r,
            _ => XS,
        }
    }

    /// Pair `d` is in `r`.
    pub(crate) fn pair_done(&mut self, d: Slot, r: Reg) {
        if let Some((own, _)) = xmm(d) {
            if own != r {
                self.a.sse(Map::Of, 0x28, own.0, r.into());
            }
            return;
        }
        if let Some((own, _)) = self.upper(d) {
            return self.insert_upper(own, r.into());
        }
        self.pair_written(d);
        if temp_index(d).is_some() && self.skips.is_empty() {
            if self.pair != d {
                self.pair_evict(self.i + 1);
            }
            if r != XT {
                self.move_to(Map::Of, 0x28, XT, r.into());
            }
            self.pair = d;
            return;
        }
        if self.pair == d {
            self.pair = NONE;
        }
        self.a.sse(Map::Of, 0x29, r.0, word(d).into());
    }

    /// A word in RAX is the low one of pair `d`, a temporary, whose high one is zero.
    pub(crate) fn word_done(&mut self, d: Slot) {
        let high = Slot(d.0 | 1);
        if self.pair == d {
            self.pair = NONE;
        }
        self.set(d, RAX);
        self.forget_constant(high);
        if self.held == high {
            self.held = NONE;
        }
        if temp_index(high).is_some_and(|t| self.last[t] as usize > self.i) {
            self.a.store_imm(Sz::Q, word(high), 0);
        }
    }

    /// A word in RCX is the low one of pair `d`, a temporary, and the host's flags are its high one, as EFLAGS has them.
    pub(crate) fn index_and_flags_done(&mut self, d: Slot) {
        let high = Slot(d.0 | 1);
        self.a.save_flags();
        self.saved_to_eflags(RDX);
        self.pair_written(d);
        if self.pair == d {
            self.pair = NONE;
        }
        self.a.store(Sz::Q, word(high), RAX);
        self.set(d, RCX);
    }

    /// `d = op(a, b)` on pairs, where the host's instruction changes its first operand.
    pub(crate) fn pairs(&mut self, x: &Inst, map: Map, op: u8, imm: Option<u8>) {
        let b = self.pair_at(x.b);
        let a = self.pair_at(x.a);
        // What is its own first operand may be the second too.
        let r = match (xmm(x.d), a) {
            (Some((own, _)), Rm::R(first)) if own == first => own,
            _ => self.pair_target(x.d, b),
        };
        if a != Rm::R(r) {
            self.a.sse(Map::Of, 0x28, r.0, a);
        }
        self.a.sse(map, op, r.0, b);
        if let Some(v) = imm {
            self.a.byte(v);
        }
        self.pair_done(x.d, r);
    }

    /// `d = op(a)` on pairs, whatever `d` was.
    pub(crate) fn pair_from(&mut self, x: &Inst, map: Map, op: u8, imm: Option<u8>) {
        let a = self.pair_at(x.a);
        let r = self.pair_target(x.d, Rm::R(XS));
        self.a.sse(map, op, r.0, a);
        if let Some(v) = imm {
            self.a.byte(v);
        }
        self.pair_done(x.d, r);
    }

    /// Whether the next operation clears the high word of the pair whose low word this one writes; then it is done with it.
    fn clears_high(&mut self, block: &Block, low: Slot) -> bool {
        let next = block.insts.get(self.i + 1);
        low.0 & 1 == 0
            && !self.landing[self.i + 1]
            && next.is_some_and(|n| n.op == Op::MovI && n.d == Slot(low.0 | 1) && n.imm == 0)
    }

    /// Whether a skip lands right behind the operation at hand.
    pub(crate) fn lands_behind(&self) -> bool {
        self.landing[self.i + 1]
    }

    /// Whether nobody reads the temporary behind the next operation.
    pub(crate) fn last_read_is_next(&self, s: Slot) -> bool {
        temp_index(s).is_some_and(|t| self.last[t] as usize <= self.i + 1)
    }

    /// The host's flags are what the next operation makes the guest's.
    pub(crate) fn flags_are_there(&mut self) {
        self.made_flags();
        self.fused = 1;
    }

    /// Whether [`Emitter::simd`] should be asked.
    pub(super) fn maybe_simd(&self, x: &Inst) -> bool {
        match x.op {
            Op::Vec | Op::Fp | Op::Mov128 | Op::Load128 | Op::Store128 | Op::Load => true,
            Op::Store | Op::Mov | Op::Zext32 | Op::MovI | Op::Deposit => self.names_vector(x),
            _ => false,
        }
    }

    /// Whether it names a word of a vector register that is in one of the host's.
    pub(super) fn names_vector(&self, x: &Inst) -> bool {
        self.vectors && all_named(x).iter().any(|s| xmm(*s).is_some() || self.upper(*s).is_some())
    }

    /// The temporary pair goes to memory if `x` names one of its words.
    fn pair_apart(&mut self, x: &Inst) {
        if [x.d, x.a, x.b].iter().any(|s| self.pair != NONE && s.0 & !1 == self.pair.0) {
            self.pair_evict(self.i);
        }
    }

    /// Emit `x` if it is something on vectors that is done without going through words in memory.
    pub(super) fn simd(&mut self, block: &Block, x: &Inst) -> bool {
        match x.op {
            Op::Vec => crate::vector::vec(self, block, x),
            Op::Fp => crate::vector::fp(self, block, x),
            Op::Mov128 => {
                let a = self.pair_at(x.a);
                let r = match (xmm(x.d), a) {
                    (Some((r, _)), _) | (None, Rm::R(r)) => r,
                    _ => XS,
                };
                if a != Rm::R(r) {
                    self.a.sse(Map::Of, 0x28, r.0, a);
                }
                self.pair_done(x.d, r);
                true
            }
            Op::Load128 => self.wide(x, false),
            Op::Store128 => self.wide(x, true),
            Op::Load => self.load_vector(block, x),
            Op::Store => self.store_vector(x),
            Op::Mov | Op::Zext32 => {
                self.pair_apart(x);
                self.move_word(block, x)
            }
            Op::MovI => match xmm(x.d) {
                Some((r, true)) if x.imm == 0 => {
                    self.a.sse(Map::OfF3, 0x7e, r.0, r.into());
                    true
                }
                _ => false,
            },
            Op::Deposit => match (xmm(x.d), xmm(x.b)) {
                (Some((d, false)), Some((s, false))) if x.a == x.d && x.imm == 32 << 8 => {
                    // movss
                    self.a.sse(Map::OfF3, 0x10, d.0, s.into());
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// A word between vector registers, and between them and general ones.
    fn move_word(&mut self, block: &Block, x: &Inst) -> bool {
        let half = x.op == Op::Zext32;
        if self.upper(x.d).is_some() || self.upper(x.a).is_some() {
            return false;
        }
        match (xmm(x.d), xmm(x.a)) {
            (Some((d, false)), Some((s, false))) if !half => {
                if self.clears_high(block, x.d) {
                    // movq
                    self.a.sse(Map::OfF3, 0x7e, d.0, s.into());
                    self.fused = 1;
                } else {
                    // movsd
                    self.a.sse(Map::OfF2, 0x10, d.0, s.into());
                }
            }
            // movhlps, movlhps
            (Some((d, false)), Some((s, true))) if !half => self.a.sse(Map::Of, 0x12, d.0, s.into()),
            (Some((d, true)), Some((s, false))) if !half => self.a.sse(Map::Of, 0x16, d.0, s.into()),
            (Some((d, high)), None) if !high || !half => {
                let fused = self.clears_high(block, x.d);
                let to = if fused { d } else { XS };
                let s = self.reg(x.a, RAX);
                self.a.ins(if half { Sz::D } else { Sz::Q }, Map::Of66, 0x6e, to.0, s.into(), (false, false));
                match (fused, high) {
                    (true, _) => self.fused = 1,
                    (false, true) => self.a.sse(Map::Of, 0x16, d.0, XS.into()),
                    (false, false) => self.a.sse(Map::OfF2, 0x10, d.0, XS.into()),
                }
            }
            (None, Some((s, false))) => {
                let d = self.target(x.d, RAX);
                self.a.ins(if half { Sz::D } else { Sz::Q }, Map::Of66, 0x7e, s.0, d.into(), (false, false));
                self.done(x.d, d);
            }
            _ => return false,
        }
        true
    }

    /// For accesses: addresses that are words of vector registers, which nobody makes but the rules allow, are read from memory.
    pub(super) fn spill_address(&mut self, x: &Inst) {
        for s in [x.a, x.b] {
            self.pair_to_memory(Slot(s.0 & !1));
        }
    }

    /// A word from memory into a vector register, or into a temporary pair with zeros above it.
    fn load_vector(&mut self, block: &Block, x: &Inst) -> bool {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) || m.aligned || m.signed || !matches!(m.log2, 2 | 3) {
            return false;
        }
        let fused = self.clears_high(block, x.d);
        let own = xmm(x.d);
        if own.is_none() && !(fused && temp_index(x.d).is_some()) {
            return false;
        }
        self.pair_evict(self.i);
        self.save_for_access();
        self.spill_address(x);
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), m.write_intent);
        let from = self.there;
        let site = self.site(self.i);
        // movd and movq
        let zeroed = if m.log2 == 2 { (Map::Of66, 0x6e) } else { (Map::OfF3, 0x7e) };
        let r = match own {
            Some((r, _)) if fused => r,
            Some((r, high)) if m.log2 == 3 => {
                // movhps, movlps
                self.a.sse(Map::Of, if high { 0x16 } else { 0x12 }, r.0, from.into());
                self.cold([miss, None], Reload::Nothing, site);
                return true;
            }
            Some(_) => XS,
            None => XT,
        };
        self.move_to(zeroed.0, zeroed.1, r, from.into());
        let reload =
            if fused && own.is_some() && on(Mutant::HighHalf) { Reload::Nothing } else { Reload::Word(r, x.d) };
        self.cold([miss, None], reload, site);
        self.fused = u8::from(fused);
        match own {
            Some(_) if fused => {}
            Some((own, high)) => {
                let (map, op) = if high { (Map::Of, 0x16) } else { (Map::OfF2, 0x10) };
                self.a.sse(map, op, own.0, r.into());
            }
            None => self.pair_done(x.d, r),
        }
        true
    }

    /// A word of a vector register to memory.
    fn store_vector(&mut self, x: &Inst) -> bool {
        let m = MemRef::unpack(x.aux, x.imm);
        let (r, map, op) = match (xmm(x.d), m.log2) {
            // movlps, movhps, movss
            (Some((r, false)), 3) => (r, Map::Of, 0x13),
            (Some((r, true)), 3) => (r, Map::Of, 0x17),
            (Some((r, false)), 2) => (r, Map::OfF3, 0x11),
            _ => return false,
        };
        if !Self::plain(m) || m.aligned {
            return false;
        }
        self.pair_evict(self.i);
        self.save_for_access();
        self.spill_address(x);
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        self.a.sse(map, op, r.0, self.there.into());
        let site = self.site(self.i);
        self.cold([miss, None], Reload::Nothing, site);
        true
    }

    /// A pair from or to memory.
    fn wide(&mut self, x: &Inst, write: bool) -> bool {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) {
            return false;
        }
        self.save_for_access();
        self.pair_evict(self.i);
        self.spill_address(x);
        if write && xmm(x.d).is_none() && self.upper(x.d).is_none() {
            self.pair_in_memory(x.d);
        }
        let place = self.address(x, m, 16);
        let odd = (m.aligned && !on(Mutant::Aligned)).then(|| self.unaligned(place, m.low_bits()));
        let miss = self.lookup(place, 16, write || m.write_intent);
        let there = self.there;
        let site = self.site(self.i);
        if write {
            // movups
            let r = xmm(x.d).map_or(XS, |(r, _)| r);
            match self.upper(x.d) {
                Some((own, _)) => self.extract_upper(own, XS.into()),
                None if r == XS => self.a.sse(Map::Of, 0x28, r.0, word(x.d).into()),
                None => {}
            }
            self.a.sse(Map::Of, 0x11, r.0, there.into());
            self.cold([miss, odd], Reload::Nothing, site);
            return true;
        }
        let (r, reload) = match xmm(x.d) {
            Some((r, _)) => (r, Reload::Nothing),
            None if temp_index(x.d).is_some() => (XT, Reload::Pair(XT, x.d)),
            None => (XS, Reload::Pair(XS, x.d)),
        };
        self.move_to(Map::Of, 0x10, r, there.into());
        let reload = if on(Mutant::PairReload) { Reload::Nothing } else { reload };
        self.cold([miss, odd], reload, site);
        self.pair_done(x.d, r);
        true
    }

    /// Jumps if one of the low bits `mask` of the place is set.
    pub(super) fn unaligned(&mut self, place: Mem, mask: u64) -> Hole {
        let base = place.base.unwrap_or(RDX);
        let r = if place.disp == 0 {
            base
        } else {
            self.a.lea(Sz::D, RAX, place);
            RAX
        };
        self.a.test_imm(Sz::B, r, mask as i32);
        self.a.jcc(cc::NE)
    }

    /// The low word of a pair as an integer in a general register, or a register that it is in.
    pub(crate) fn low_word(&mut self, s: Slot) -> Rm {
        if let Some((r, _)) = xmm(s) {
            self.a.ins(Sz::Q, Map::Of66, 0x7e, r.0, RCX.into(), (false, false));
            Rm::R(RCX)
        } else if s == self.pair {
            self.a.ins(Sz::Q, Map::Of66, 0x7e, XT.0, RCX.into(), (false, false));
            Rm::R(RCX)
        } else {
            self.pair_to_memory(Slot(s.0 & !1));
            self.rm(s, RCX)
        }
    }
}
