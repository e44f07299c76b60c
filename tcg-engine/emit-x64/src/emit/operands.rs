//! Where operands are: flags of the guest in the host's, constants, the one temporary in a register, and calls of the interpreter,
//! before which everything is where it expects it.

use ir::op::{FLAG_R, Inst, NONE, Op, Slot};

use super::{Base, Cold, Emitter, Flags, Reload, Site, temp_index};
use crate::asm::{Alu, Hole, R14, RAX, RCX, Reg, Rm, Shift, Sz};
use crate::layout::word;
use crate::mutants::{Mutant, on};

impl Emitter {
    /// The flags as they are before this operation must be in memory, or there is a recipe, if anybody wants them now or later.
    pub(super) fn save_now(&mut self) {
        let wanted = self.needed[self.i] && self.recipe.is_none();
        if self.flags == Flags::Host && wanted && !on(Mutant::NotSaved) {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
            self.flags = Flags::Both;
        }
    }

    /// The same before an access, unless that cannot fail.
    pub(super) fn save_for_access(&mut self) {
        if self.found().is_none() && !self.is_proven() {
            self.save_now();
        }
    }

    /// The same without recipes: somebody looks at memory.
    pub(super) fn save_all(&mut self) {
        match self.recipe.take().filter(|_| self.needed[self.i]) {
            Some(recipe) if self.flags != Flags::Host => self.follow(recipe),
            _ => self.save_now(),
        }
    }

    /// Host flags are about to be destroyed by an operation that does not change the guest's.
    pub(crate) fn clobber(&mut self) {
        let wanted = self.needed[self.i + 1] && self.recipe.is_none();
        if self.flags == Flags::Host && wanted && !on(Mutant::Clobbered) {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
        }
        self.flags = Flags::Memory;
    }

    /// The host's flags are the guest's. Changes RAX and RCX.
    pub(super) fn host_flags(&mut self) {
        if self.flags != Flags::Memory {
            return;
        }
        if let Some(recipe) = self.recipe.filter(|_| !on(Mutant::Again)) {
            self.make(recipe);
            self.flags = Flags::Host;
        } else {
            self.a.mov(Sz::D, RAX, word(FLAG_R));
            self.a.restore_flags();
            self.flags = Flags::Both;
        }
    }

    /// The operation at hand has made flags of its own, which are the host's.
    pub(crate) fn made_flags(&mut self) {
        (self.flags, self.recipe) = (Flags::Host, None);
    }

    /// The host's carry is the guest's; the other host flags are nobody's. There is no recipe.
    pub(super) fn host_carry(&mut self) {
        if self.flags == Flags::Memory && !on(Mutant::Carry) {
            self.a.bt_imm(Sz::D, word(FLAG_R), 8);
        }
    }

    /// RAX: saved flags become those of EFLAGS.
    pub(super) fn saved_to_eflags(&mut self, scratch: Reg) {
        self.a.mov(Sz::D, scratch, RAX);
        self.a.shift_imm(Shift::Shr, Sz::D, RAX, 8);
        self.a.alu_imm(Alu::And, Sz::D, RAX, 0xd5);
        self.a.alu_imm(Alu::And, Sz::D, scratch, 1);
        self.a.shift_imm(Shift::Shl, Sz::D, scratch, 11);
        self.a.alu(Alu::Or, Sz::D, RAX, scratch);
    }

    pub(super) fn constant(&self, s: Slot) -> Option<u64> {
        if !s.is_temp() {
            return None;
        }
        self.constants.iter().rev().find(|c| c.0 == s).map(|c| c.1)
    }

    /// A small constant that instructions can hold.
    pub(super) fn small(&self, s: Slot) -> Option<i32> {
        self.constant(s).and_then(|v| i32::try_from(v as i64).ok())
    }

    /// Where a slot is that is no constant.
    pub(super) fn place(&self, s: Slot) -> Rm {
        if let Some(r) = self.pins.get(s) {
            Rm::R(r)
        } else if s == self.held && s != NONE {
            Rm::R(R14)
        } else {
            Rm::M(word(s))
        }
    }

    /// The slot in a register: its own, or `scratch`. Leaves the flags alone.
    pub(super) fn reg(&mut self, s: Slot, scratch: Reg) -> Reg {
        if let Some(v) = self.constant(s) {
            self.a.mov_imm(scratch, v);
            return scratch;
        }
        match self.place(s) {
            Rm::R(r) => r,
            m => {
                self.a.mov(Sz::Q, scratch, m);
                scratch
            }
        }
    }

    /// Put the slot into register `r`.
    pub(super) fn load_into(&mut self, r: Reg, s: Slot) {
        if let Some(v) = self.constant(s) {
            return self.a.mov_imm(r, v);
        }
        let p = self.place(s);
        if p != Rm::R(r) {
            self.a.mov(Sz::Q, r, p);
        }
    }

    /// The slot as an operand that instructions can name: constants go to `scratch`.
    pub(super) fn rm(&mut self, s: Slot, scratch: Reg) -> Rm {
        if let Some(v) = self.constant(s) {
            self.a.mov_imm(scratch, v);
            return Rm::R(scratch);
        }
        self.place(s)
    }

    /// Whether the temporary is not read behind this operation.
    pub(super) fn dead(&self, s: Slot) -> bool {
        temp_index(s).is_some_and(|t| self.last[t] as usize <= self.i)
    }

    /// Make R14 free.
    pub(super) fn evict(&mut self) {
        if self.held != NONE && !self.dead(self.held) && !on(Mutant::Evict) {
            self.a.store(Sz::Q, word(self.held), R14);
        }
        self.held = NONE;
    }

    pub(super) fn forget_constant(&mut self, d: Slot) {
        if d.is_temp() && !self.constants.is_empty() {
            self.constants.retain(|c| c.0 != d);
        }
    }

    /// The register to compute a result of slot `d` in; [`Emitter::done`] follows. Reading operands must be over, or they must
    /// not be in R14 unless it is `d` itself.
    pub(super) fn target(&mut self, d: Slot, scratch: Reg) -> Reg {
        self.forget_constant(d);
        if let Some(r) = self.pins.get(d) {
            return r;
        }
        if d.is_temp() && self.skips.is_empty() {
            if self.held != d {
                self.evict();
                self.held = d;
            }
            return R14;
        }
        if d == self.held {
            self.held = NONE;
        }
        scratch
    }

    /// The result of `d` is in `r`.
    pub(super) fn done(&mut self, d: Slot, r: Reg) {
        if self.pins.get(d) == Some(r) || (r == R14 && self.held == d) {
            return;
        }
        self.a.store(Sz::Q, word(d), r);
    }

    /// Put `r`, a scratch register, into slot `d`.
    pub(crate) fn set(&mut self, d: Slot, r: Reg) {
        let t = self.target(d, r);
        if t != r {
            self.a.mov(Sz::Q, t, r);
        }
        self.done(d, t);
    }

    pub(super) fn site(&mut self, op: usize) -> u32 {
        self.mark_constants();
        let memos = if self.hot.as_ref().is_some_and(|hot| hot.memos.is_some()) { Site::MEMOS } else { 0 };
        self.sites.push(Site { block: self.block, op: op as u16, held: self.held.0 | memos });
        self.first_site + (self.sites.len() - 1) as u32
    }

    /// Run this operation by the interpreter.
    pub(super) fn interpret(&mut self, x: &Inst) {
        self.save_all();
        let writes =
            x.d != NONE && !matches!(x.op, Op::Store | Op::Store128 | Op::Flags | Op::AluMem | Op::CheckCanonical);
        let site = self.site(self.i);
        self.put_marked(self.cold_mark);
        self.call_put_back();
        let to = self.op_stub();
        self.a.call_with(site, to);
        self.base = Base::Bank;
        self.call_take();
        if writes {
            self.forget_constant(x.d);
            if x.op == Op::Divide {
                self.forget_constant(x.b);
                if self.held == x.b {
                    self.held = NONE;
                }
            }
            let wide = matches!(x.op, Op::Load128 | Op::Mov128 | Op::Vec | Op::Fp | Op::Cas128);
            if wide {
                self.forget_constant(Slot(x.d.0 | 1));
            }
            if self.held == x.d || (wide && self.held == Slot(x.d.0 | 1)) {
                self.held = NONE;
            }
        }
        self.flags = Flags::Memory;
    }

    pub(super) fn cold(&mut self, from: [Option<Hole>; 2], reload: Reload, site: u32) {
        let base = self.before.take().unwrap_or(self.base);
        if from == [None, None] {
            return;
        }
        if matches!(reload, Reload::Temp)
            && !on(Mutant::Reload)
            && let Some(site) = self.sites.get_mut(site.wrapping_sub(self.first_site) as usize)
        {
            site.held |= Site::RESULT;
        }
        let back = self.a.here();
        let (refill, retry) = (self.refill.take(), self.retry.take());
        let recipe = self.recipe.filter(|_| self.needed[self.i] && !on(Mutant::NoRecipe));
        let constants = self.cold_mark;
        let counting = self.counting();
        self.cold.push(Cold { from, refill, retry, recipe, back, site, more: 0, base, reload, constants, counting });
    }

    /// The same for several operations: this one, which is `site`, and the `more` behind it.
    pub(super) fn cold_several(&mut self, from: [Option<Hole>; 2], reload: Reload, site: u32, more: usize) {
        if from == [None, None] {
            return;
        }
        for n in 0..more {
            self.site(self.i + 1 + n);
        }
        self.cold(from, reload, site);
        if let Some(last) = self.cold.last_mut() {
            last.more = if on(Mutant::WideMiss) { 0 } else { more as u32 };
        }
    }

    /// Constants that the interpreter may need from this operation on, as they are now.
    pub(super) fn mark_constants(&mut self) {
        let start = self.cold_constants.len();
        for n in 0..self.constants.len() {
            let c = self.constants[n];
            if temp_index(c.0).is_some_and(|t| self.last[t] as usize >= self.i) {
                self.cold_constants.push(c);
            }
        }
        self.cold_mark = (start, self.cold_constants.len());
    }

    pub(super) fn put_marked(&mut self, (from, to): (usize, usize)) {
        for n in from..if on(Mutant::Constants) { from } else { to } {
            let (s, v) = self.cold_constants[n];
            self.put_constant(s, v);
        }
    }

    /// Put a constant into its word.
    pub(super) fn put_constant(&mut self, s: Slot, v: u64) {
        match i32::try_from(v as i64) {
            Ok(v) => self.a.store_imm(Sz::Q, word(s), v),
            Err(_) => {
                self.a.mov_imm(RCX, v);
                self.a.store(Sz::Q, word(s), RCX);
            }
        }
    }

    /// For vector operations: the pair's two words are in memory.
    pub(crate) fn pair_in_memory(&mut self, s: Slot) {
        if self.held != NONE && (self.held == s || self.held.0 == s.0 | 1) {
            self.a.store(Sz::Q, word(self.held), R14);
            self.held = NONE;
        }
        for s in [s, Slot(s.0 | 1)] {
            if let Some(v) = self.constant(s) {
                self.a.mov_imm(RAX, v);
                self.a.store(Sz::Q, word(s), RAX);
            }
        }
    }

    /// For vector operations: the pair was written in memory.
    pub(crate) fn pair_written(&mut self, s: Slot) {
        for s in [s, Slot(s.0 | 1)] {
            self.forget_constant(s);
            if self.held == s {
                self.held = NONE;
            }
        }
    }
}
