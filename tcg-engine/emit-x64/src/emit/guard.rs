//! What must be so before a block uses vector registers: that they are the guest's, and MXCSR too where there is floating point.
//!
//! It is asked once, at the block's head, and again behind what may have written MXCSR.

use ir::op::{FLAG_R, FPC, Inst, Op, call_flags};

use super::{Emitter, Flags};
use crate::asm::{Alu, Hole, RAX, Sz, cc};
use crate::layout::{HOST_MXCSR, VECTORS, live, word};
use crate::mutants::{Mutant, on};

/// A look at whether floating point may be run by the host: the branch when it seems not, and where it is decided.
pub(super) struct Guard {
    from: Hole,
    back: usize,
    /// Operation to go on with in the interpreter if it may not be; for vectors alone there is nothing to decide.
    site: Option<u32>,
    constants: (usize, usize),
    /// It is of the copy that counts rounds.
    counting: bool,
}

/// Whether `x` has MXCSR as its result. (A store names its value there.)
pub(super) fn writes_control(x: &Inst) -> bool {
    x.d == FPC && x.op != Op::Store
}

impl Emitter {
    /// The head of a block that uses vector registers.
    pub(super) fn guard_head(&mut self) {
        if self.float {
            let site = self.site(0);
            self.guard(Some(site));
        } else if self.vectors {
            self.guard(None);
        }
    }

    fn guard(&mut self, site: Option<u32>) {
        let mut missing = cc::E;
        match (site, self.wide) {
            (Some(_), true) => {
                self.a.alu_imm(Alu::Cmp, Sz::B, word(VECTORS), live::ALL);
                missing = cc::NE;
            }
            (Some(_), false) => self.a.test_imm(Sz::B, word(VECTORS), live::MXCSR),
            (None, true) => self.a.test_imm(Sz::B, word(VECTORS), live::YMM),
            (None, false) => self.a.alu_imm(Alu::Cmp, Sz::B, word(VECTORS), 0),
        }
        let from = self.a.jcc(missing);
        let back = self.a.here();
        let counting = self.counting();
        self.guards.push(Guard { from, back, site, constants: self.cold_mark, counting });
    }

    /// Before floating point by the host: looks again if MXCSR may have been written.
    pub(crate) fn guard_float(&mut self) {
        if self.unsure {
            self.pair_evict(self.i);
            self.save_all();
            let site = self.site(self.i);
            self.guard(Some(site));
            self.flags = Flags::Memory;
            self.unsure = !self.skips.is_empty();
        }
    }

    /// What guards do when they find the host's registers.
    pub(super) fn finish_guards(&mut self) {
        for n in 0..self.guards.len() {
            let Guard { from, back, site, constants, counting } = self.guards[n];
            self.set_counting(counting);
            self.a.fill_here(from);
            let to = if self.wide { self.stubs.wide } else { self.stubs.vectors };
            self.a.call_to(to);
            let Some(site) = site else {
                self.a.jmp_to(back);
                continue;
            };
            self.a.test_imm(Sz::B, word(VECTORS), live::MXCSR);
            let good = self.a.jcc(cc::NE);
            self.a.fill(good, back);
            self.put_marked(constants);
            self.call_put_back();
            self.a.mov_imm(RAX, u64::from(site));
            let to = self.stubs.resume;
            self.a.jmp_to(to);
        }
        self.guards.clear();
        self.set_counting(false);
    }

    /// Around operations that name MXCSR as a word.
    pub(super) fn control_word(&mut self, x: &Inst) {
        if x.op == Op::Call && x.aux & call_flags::WRITES_STATE != 0 {
            self.unsure = true;
        }
        if x.op == Op::Fp || ![x.d, x.a, x.b].contains(&FPC) {
            return;
        }
        let written = writes_control(x);
        self.unsure |= written;
        self.settle_flags();
        self.a.test_imm(Sz::B, word(VECTORS), live::MXCSR);
        let own = self.a.jcc(cc::E);
        self.a.stmxcsr(word(FPC));
        if written && !on(Mutant::OldControl) {
            self.a.ldmxcsr(word(HOST_MXCSR));
            self.a.alu_imm(Alu::And, Sz::D, word(VECTORS), !live::MXCSR);
        }
        self.a.fill_here(own);
    }

    fn settle_flags(&mut self) {
        if self.flags == Flags::Host && (self.needed[self.i] || self.needed[self.i + 1]) {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
        }
        self.flags = Flags::Memory;
    }
}
