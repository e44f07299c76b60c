//! Which guest words are in host registers while a hot block runs.
//!
//! The idea: nine words are in registers everywhere, and code that runs long uses others. A hot block takes those that it names
//! often into the registers of those that it names least, when it is entered, and puts everything back wherever it is left or calls out.
//! The way of a loop back to its own head does neither, so a loop does it for little. What registers are left over have what its accesses go by
//! ([`super::groups`]).

use ir::Block;
use ir::op::{Inst, Op, Slot, TIER_BUDGET};

use super::groups::Second;
use super::rounds::Counted;
use super::{Base, Emitter};
use crate::asm::{Alu, Hole, RAX, Reg, Sz, at, cc};
use crate::layout::{GENERAL, PINNED, Pins, SECOND, word};
use crate::memo;
use crate::mutants::{Mutant, on};

/// A register that holds something else than the usual word.
#[derive(Clone, Copy)]
struct Swap {
    reg: Reg,
    usual: Slot,
    instead: Held,
}

/// What it holds instead.
#[derive(Clone, Copy)]
enum Held {
    Word(Slot),
    /// The addend of the memo there. It changes where the memo misses, which loads the register, and while something else than the block
    /// runs, behind which it is taken again; so there is nothing to put back.
    Addend(usize),
    /// Something that counted rounds have, or nothing ([`super::rounds`]).
    Spare,
}

/// What is renamed in the block at hand.
#[derive(Default)]
pub(super) struct Renamed {
    swaps: Vec<Swap>,
    /// The block leads back to its own head, where R15 may be anything.
    pub(super) repeats: bool,
    /// Offset of the loop's beginning.
    pub(super) beginning: usize,
    /// Calls of the routines that put everything back and take it again, which lie behind the block.
    /// Those of the copy that counts rounds are the second ones.
    backs: [Vec<Hole>; 2],
    agains: [Vec<Hole>; 2],
    /// Jumps from the way back to the way out at the block's head, where everything has to be put back.
    spent: Vec<Hole>,
}

/// A word that is named so much more often is worth the exchange, in a loop, and where it is made for each time.
const GAIN: u32 = 1;
const GAIN_ONCE: u32 = 6;

fn named(x: &Inst) -> [Slot; 3] {
    [x.d, x.a, x.b]
}

impl Emitter {
    /// Whether anything is where it usually is not.
    pub(super) fn is_renamed(&self) -> bool {
        !self.renamed.swaps.is_empty()
    }

    /// Whether a direct exit leads to the beginning of the loop that the block is.
    pub(super) fn leads_back(&self, block: &Block, pc: u64) -> bool {
        self.renamed.repeats && pc == block.pc
    }

    /// At the head of a block: choose, and take what was chosen.
    pub(super) fn rename(&mut self, block: &Block) {
        self.pins = Pins::USUAL;
        (self.second, self.counted) = (None, None);
        self.renamed.swaps.clear();
        self.renamed.repeats = false;
        self.renamed.backs.iter_mut().chain(&mut self.renamed.agains).for_each(Vec::clear);
        self.renamed.spent.clear();
        if self.hot.is_none() || self.float {
            return;
        }
        let back =
            block.insts.iter().any(|x| matches!(x.op, Op::Exit | Op::ExitCond | Op::ExitIf) && x.imm == block.pc);
        let gain = if back { GAIN } else { GAIN_ONCE };
        let mut times = [0_u32; GENERAL.end as usize - GENERAL.start as usize];
        for s in block.insts.iter().flat_map(named) {
            if let Some(n) = s.0.checked_sub(GENERAL.start).and_then(|n| times.get_mut(usize::from(n))) {
                *n += 1;
            }
        }
        let of = |s: Slot| times[usize::from(s.0 - GENERAL.start)];
        let mut usual = PINNED.map(|(s, reg)| (Slot(s), reg));
        usual.sort_by_key(|(s, _)| of(*s));
        let mut others: Vec<Slot> = GENERAL.map(Slot).filter(|s| Pins::USUAL.get(*s).is_none()).collect();
        others.sort_by_key(|s| std::cmp::Reverse(of(*s)));
        for (&(usual, reg), instead) in usual.iter().zip(others) {
            if of(instead) > of(usual) + gain {
                self.pins.give(usual, instead);
                self.renamed.swaps.push(Swap { reg, usual, instead: Held::Word(instead) });
            }
        }
        if back {
            let plan = self.hot.as_deref().and_then(|hot| hot.rounds.clone());
            let (mut spare, wanted) = (Vec::new(), plan.as_deref().map_or(0, Counted::registers));
            for (usual, reg) in usual.into_iter().filter(|(s, _)| of(*s) == 0) {
                if self.pins.get(usual).is_none() {
                    continue;
                }
                let instead = if spare.len() < wanted {
                    spare.push(reg);
                    Held::Spare
                } else if wanted > 0 {
                    break;
                } else if self.second.is_none() && self.has_two_groups() {
                    self.second = Some(Second::new(reg));
                    Held::Word(SECOND)
                } else if let Some(memo) = self.reserve_addend(reg) {
                    Held::Addend(memo)
                } else {
                    break;
                };
                self.pins.take(usual);
                self.renamed.swaps.push(Swap { reg, usual, instead });
            }
            self.counted = plan.filter(|_| !spare.is_empty()).map(|plan| Counted::new(plan, spare));
        }
        self.take();
        self.renamed.repeats = back;
        if block.insts.iter().any(|x| opt::leads_back(block, x)) {
            self.count_entry();
        }
        if self.renamed.repeats && !self.parts.is_empty() {
            self.base = Base::Nothing;
        }
    }

    /// Here the loop begins that the block is.
    pub(super) fn begin_loop(&mut self) {
        self.renamed.beginning = self.a.here();
    }

    /// Words are where they are in this block. Leaves everything else alone, like the next.
    fn take(&mut self) {
        for n in 0..self.renamed.swaps.len() {
            let Swap { reg, usual, instead } = self.renamed.swaps[n];
            if !on(Mutant::TakenOver) {
                self.a.store(Sz::Q, word(usual), reg);
            }
            match instead {
                Held::Word(instead) if instead != SECOND && on(Mutant::NotTaken) => {}
                Held::Word(instead) => self.a.mov(Sz::Q, reg, word(instead)),
                Held::Addend(memo) => self.a.near(0x8b, reg, memo + memo::ADDEND),
                Held::Spare => {}
            }
        }
        if self.counting() {
            self.go_on_counting();
        }
    }

    /// Words are where they usually are.
    pub(super) fn put_back(&mut self) {
        if self.counting() {
            self.stop_counting();
        }
        for n in 0..self.renamed.swaps.len() {
            let Swap { reg, usual, instead } = self.renamed.swaps[n];
            if let Held::Word(instead) = instead
                && !on(Mutant::PutBack)
            {
                self.a.store(Sz::Q, word(instead), reg);
            }
            self.a.mov(Sz::Q, reg, word(usual));
        }
    }

    /// Before something else than the block runs. On the way out for good, or [`Emitter::call_take`] follows.
    pub(super) fn call_put_back(&mut self) {
        if self.is_renamed() {
            let hole = self.a.call();
            self.renamed.backs[usize::from(self.counting())].push(hole);
        }
    }

    /// After it.
    pub(super) fn call_take(&mut self) {
        if self.is_renamed() {
            let hole = self.a.call();
            self.renamed.agains[usize::from(self.counting())].push(hole);
        }
    }

    /// The way back to the beginning, from behind so many instructions.
    pub(super) fn lead_back(&mut self, instructions: i32) {
        self.a.mov(Sz::Q, RAX, word(TIER_BUDGET));
        self.a.alu_imm(Alu::Sub, Sz::D, at(RAX, 0), instructions);
        let go_on = self.a.jcc(cc::S ^ 1);
        self.lead_to_count(go_on);
        let hole = self.a.jmp();
        self.renamed.spent.push(hole);
    }

    /// Here the block is left at its head, and at `spent` nothing has to be put back.
    pub(super) fn fill_spent(&mut self, spent: Hole) {
        for n in 0..self.renamed.spent.len() {
            self.a.fill_here(self.renamed.spent[n]);
        }
        if !self.renamed.spent.is_empty() {
            self.put_back();
        }
        self.a.fill_here(spent);
    }

    /// The routines, behind everything else.
    pub(super) fn finish_renamed(&mut self) {
        for counting in [false, true] {
            self.set_counting(counting);
            let [backs, agains] =
                [&self.renamed.backs, &self.renamed.agains].map(|holes| holes[usize::from(counting)].clone());
            if !backs.is_empty() {
                backs.into_iter().for_each(|hole| self.a.fill_here(hole));
                self.put_back();
                self.a.ret();
            }
            if !agains.is_empty() {
                agains.into_iter().for_each(|hole| self.a.fill_here(hole));
                self.take();
                self.a.ret();
            }
        }
        self.set_counting(false);
    }
}
