//! Rounds of a loop that are counted: the second tier's code.
//!
//! The idea: a loop stands twice in its block's code. As the first tier has it, it asks in each round whether its accesses stay where
//! they went before, and whether the budget is used up. Wherever that leads back to its beginning, a division says how many rounds have
//! the same answer ([`opt::Rounds`]); so many are taken off the budget at once, and done by the other copy, which asks nothing. It
//! has no lookups, what its accesses go by is in registers, and its flags are saved only for those who will see them. Behind the last
//! of these rounds the first copy does the one in which something changes.
//!
//! Nothing may make what memos say untrue while rounds are counted: only what the interpreter has run could, and if it did, the block
//! is left ([`super::sites::Site::memos`]). What is left of the rounds goes back to the budget wherever the copy is left or
//! calls out.

use std::sync::Arc;

use ir::Block;
use ir::op::{Inst, MemRef, Op, Slot, TIER_BUDGET};

use super::{Base, Emitter, Flags, Part};
use crate::asm::{Alu, Hole, Mem, R14, RAX, RCX, RDX, Reg, Shift, Sz, at, cc, indexed};
use crate::layout::word;
use crate::memo;
use crate::mutants::{Mutant, on};

/// Instructions of counted rounds at most: so long nobody hears that the budget has been cut short.
const MOST: u64 = 4096;
/// Rounds behind the first one that are worth counting.
const LEAST: i32 = 3;

/// What the accesses of a group go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// The register of the base has its host address instead. The word itself is in memory.
    InPlace(Reg),
    /// A register has the host address of the base.
    Host(Reg),
    /// A register has what host addresses are more than linear ones.
    Addend(Reg),
    /// The memo has.
    Memo,
}

/// A group that is made sure of.
#[derive(Clone, Copy, Debug)]
struct Proof {
    base: Slot,
    memo: usize,
    /// Bytes that the memo's own access goes to, less one.
    last: u32,
    way: Way,
}

/// The copy of the loop at hand.
pub(super) struct Counted {
    plan: Arc<opt::Rounds>,
    /// Registers that the loop leaves over. The first has the instructions that the budget has been charged with and that have not begun.
    spare: Vec<Reg>,
    /// By group.
    proofs: Vec<Option<Proof>>,
    /// Whether it is what is being emitted.
    running: bool,
    /// Where it begins.
    beginning: usize,
    /// Jumps from the first copy's way back.
    from: Vec<Hole>,
}

impl Counted {
    /// Registers that are wanted for `plan`.
    pub(super) fn registers(plan: &opt::Rounds) -> usize {
        1 + plan.groups.len()
    }

    /// `spare` has one at least.
    pub(super) fn new(plan: Arc<opt::Rounds>, spare: Vec<Reg>) -> Counted {
        Counted { plan, spare, proofs: Vec::new(), running: false, beginning: 0, from: Vec::new() }
    }

    fn counter(&self) -> Option<Reg> {
        self.spare.first().copied()
    }
}

impl Emitter {
    /// Whether rounds are counted in what is being emitted.
    pub(super) fn counting(&self) -> bool {
        self.counted.as_ref().is_some_and(|c| c.running)
    }

    /// Emit for the copy that counts, or for the other one.
    pub(super) fn set_counting(&mut self, running: bool) {
        if let Some(c) = &mut self.counted {
            c.running = running;
        }
    }

    /// Where a loop is entered, and where no rounds could be counted: it is counted how often.
    pub(super) fn count_entry(&mut self) {
        let Some(start) = self.hot.as_deref().and_then(|hot| hot.memos) else { return };
        let n = *self.entries.get_or_insert(self.memos.len());
        if n == self.memos.len() {
            self.memos.push((memo::COUNTER, 0));
        }
        // INC.
        self.a.near(0xff, Reg(0), start + n * memo::MEMO + memo::PAGE);
    }

    /// The way back of the first copy, which goes on if the budget is not used up.
    pub(super) fn lead_to_count(&mut self, go_on: Hole) {
        let beginning = self.renamed.beginning;
        match self.counted.as_mut().filter(|c| !c.running) {
            Some(c) => c.from.push(go_on),
            None => self.a.fill(go_on, beginning),
        }
    }

    /// The access that operation `i` is, if it is made sure of.
    fn proven(&self, i: usize) -> Option<(opt::Access, Proof)> {
        let c = self.counted.as_ref().filter(|c| c.running)?;
        let access = *c.plan.access(i)?;
        let proof = *c.proofs.get(usize::from(access.group))?;
        Some((access, proof?))
    }

    /// Whether the access at hand is made sure of for all rounds.
    pub(super) fn is_proven(&self) -> bool {
        self.proven(self.i).is_some()
    }

    /// Whether the access of an operation is, and the next one's too, by the same.
    pub(super) fn proven_with_next(&self) -> Option<bool> {
        let (this, next) = (self.proven(self.i), self.proven(self.i + 1));
        let group = |proven: Option<(opt::Access, Proof)>| proven.map(|(access, _)| access.group);
        (this.is_some() || next.is_some()).then(|| group(this) == group(next))
    }

    /// Whether operation `i` is an access that is made sure of, and emitted.
    pub(super) fn proven_to_succeed(&self, x: &Inst, i: usize) -> bool {
        let m = MemRef::unpack(x.aux, x.imm);
        let simple = match x.op {
            Op::Load | Op::Store => true,
            Op::AluMem => Self::on_memory(MemRef::alu_op(x.imm)),
            _ => false,
        };
        simple && m.log2 <= 3 && self.proven(i).is_some()
    }

    /// Where the access at hand is, if a register has the host address of its base. May use RDX.
    pub(super) fn by_host_base(&mut self) -> Option<Mem> {
        let (access, proof) = self.proven(self.i)?;
        let (Way::InPlace(base) | Way::Host(base)) = proof.way else { return None };
        Some(match access.index {
            None => at(base, access.ahead),
            Some((slot, scale)) => {
                let index = self.reg(slot, RDX);
                indexed(base, index, scale, access.ahead)
            }
        })
    }

    /// The host address of the access at hand, whose address is `m`, if it is made sure of. May use RAX.
    pub(super) fn counted_place(&mut self, m: Mem) -> Option<Mem> {
        let (_, proof) = self.proven(self.i)?;
        let base = m.base.unwrap_or(RDX);
        Some(match proof.way {
            Way::InPlace(_) | Way::Host(_) => m,
            Way::Addend(reg) => indexed(base, reg, 0, m.disp),
            Way::Memo => {
                self.a.near(0x8b, RAX, proof.memo + memo::ADDEND);
                indexed(base, RAX, 0, m.disp)
            }
        })
    }

    /// The copy, behind the other one: how many rounds, and the rounds.
    pub(super) fn count_rounds(&mut self, block: &Block) {
        let Some(c) = &self.counted else { return };
        let plan = c.plan.clone();
        self.start();
        self.prove(&plan);
        self.begin_counting(block, &plan);
        self.set_counting(true);
        // Others of a group may be made sure of in another way now.
        let proven: Vec<u16> =
            self.parts.iter().map(|(op, _)| *op).filter(|op| self.proven(usize::from(*op)).is_some()).collect();
        let first = |(op, part): &(u16, Part)| match part {
            Part::First { .. } => *op,
            Part::Other { first, .. } => *first,
        };
        let gone: Vec<u16> = self.parts.iter().filter(|part| proven.contains(&part.0)).map(first).collect();
        self.parts.retain(|part| !gone.contains(&first(part)));
        self.look_back(block);
        self.base = Base::Nothing;
        let beginning = self.a.here();
        if let Some(c) = &mut self.counted {
            c.beginning = beginning;
        }
        self.pass(block);
        self.set_counting(false);
    }

    /// What memos of the first copy can say of groups, and registers for these.
    fn prove(&mut self, plan: &opt::Rounds) {
        let Some(start) = self.hot.as_deref().and_then(|hot| hot.memos) else { return };
        let mut spare = self.counted.as_ref().map(|c| c.spare.clone()).unwrap_or_default().into_iter().skip(1);
        let mut proofs = Vec::new();
        for (n, group) in plan.groups.iter().enumerate() {
            let members = plan.accesses.iter().filter(|a| usize::from(a.group) == n);
            // The rights of all are those that the first access of a group of the first copy asks for.
            let memo = members.clone().find_map(|a| {
                let at = self.memos.iter().position(|(op, _)| *op == a.op)?;
                let write = match self.part_of(a.op.into()) {
                    Some(Part::First { write, .. }) => write,
                    _ => a.write,
                };
                (write || !group.write || on(Mutant::RoundsRight))
                    .then(|| (a.op, start + at * memo::MEMO, self.memos[at].1))
            });
            // Where the page would change before anything is gained, the first copy does it all.
            let long = |op: u16| self.runs || self.hot.as_deref().is_some_and(|hot| hot.instead(op).is_some());
            let few = |op: u16| i64::from(group.step).abs() * i64::from(LEAST + 1) > mem::PAGE as i64 && !long(op);
            let Some((_, memo, last)) = memo.filter(|(op, ..)| !few(*op)) else {
                proofs.push(None);
                continue;
            };
            let way = match self.pins.get(group.base) {
                Some(reg) if group.alone && group.fixed => Way::InPlace(reg),
                _ => match spare.next() {
                    Some(reg) if group.fixed => Way::Host(reg),
                    Some(reg) => Way::Addend(reg),
                    None => Way::Memo,
                },
            };
            proofs.push(Some(Proof { base: group.base, memo, last, way }));
        }
        if let Some(c) = &mut self.counted {
            c.proofs = proofs;
        }
    }

    /// RDX and what it says: the rounds behind the next one, which is charged already, in which nothing changes. They are charged, and the
    /// registers taken; or it is the first copy's round.
    fn begin_counting(&mut self, block: &Block, plan: &opt::Rounds) {
        let Some(c) = &mut self.counted else { return };
        let (from, proofs, counter) = (std::mem::take(&mut c.from), c.proofs.clone(), c.counter());
        for hole in from {
            self.a.fill_here(hole);
        }
        let round = self.round(block);
        let mut none = Vec::new();
        self.a.mov_imm(RDX, MOST / u64::from(round));
        for (group, proof) in plan.groups.iter().zip(&proofs) {
            let Some(proof) = proof else { continue };
            let base = self.reg(group.base, RCX);
            let first = match group.index {
                None => at(base, group.low),
                Some((slot, shift)) => {
                    let index = self.reg(slot, RAX);
                    indexed(base, index, shift, group.low)
                }
            };
            // RCX: from the beginning of what is remembered; RAX: from there to behind where the group may begin.
            self.a.lea(Sz::Q, RCX, first);
            self.a.near((Alu::Sub as u8) << 3 | 3, RCX, proof.memo + memo::PAGE);
            self.a.near(0x8b, RAX, proof.memo + memo::ROOM);
            let longer = i64::from(group.bytes) - 1 - i64::from(proof.last);
            if longer > 0 && !on(Mutant::RoundsEnd) {
                self.a.alu_imm(Alu::Sub, Sz::Q, RAX, longer as i32);
                none.push(self.a.jcc(cc::B));
            }
            self.a.alu(Alu::Sub, Sz::Q, RAX, RCX);
            none.push(self.a.jcc(cc::BE));
            let (left, other) = match group.step {
                0 => continue,
                1.. => {
                    let less = if on(Mutant::RoundsMany) { 1 - group.step } else { 1 };
                    self.a.lea(Sz::Q, RAX, at(RAX, -less));
                    (RAX, RCX)
                }
                _ => (RCX, RAX),
            };
            self.divide_by(left, group.step.unsigned_abs(), other);
            self.least(left);
        }
        self.a.mov(Sz::Q, RCX, word(TIER_BUDGET));
        self.a.mov(Sz::D, RAX, at(RCX, 0));
        self.a.test(Sz::D, RAX, RAX);
        none.push(self.a.jcc(cc::S));
        self.divide_by(RAX, round, R14);
        self.least(RAX);
        self.a.alu_imm(Alu::Cmp, Sz::Q, RDX, LEAST);
        none.push(self.a.jcc(cc::B));
        self.a.imul_imm(Sz::D, RDX, RDX, round as i32);
        self.a.alu_store(Alu::Sub, Sz::D, at(RCX, 0), RDX);
        if let Some(counter) = counter {
            self.a.mov(Sz::Q, counter, RDX);
        }
        self.take_bases();
        let go = self.a.jmp();
        for hole in none {
            self.a.fill_here(hole);
        }
        self.count_entry();
        let beginning = self.renamed.beginning;
        self.a.jmp_back(beginning);
        self.a.fill_here(go);
    }

    /// Instructions of a round.
    fn round(&self, block: &Block) -> u32 {
        let back = block.insts.iter().position(|x| opt::leads_back(block, x)).unwrap_or_default();
        block.point_of(back) as u32 + 1
    }

    /// `r`, less than 2^31, divided by `by`, or a little less. Changes `other`.
    fn divide_by(&mut self, r: Reg, by: u32, other: Reg) {
        if by.is_power_of_two() {
            if by > 1 {
                self.a.shift_imm(Shift::Shr, Sz::Q, r, by.trailing_zeros() as u8);
            }
            return;
        }
        self.a.mov_imm(other, (1 << 32) / u64::from(by));
        self.a.imul(Sz::Q, r, other);
        self.a.shift_imm(Shift::Shr, Sz::Q, r, 32);
    }

    /// RDX, or `r` if that is less.
    fn least(&mut self, r: Reg) {
        self.a.alu(Alu::Cmp, Sz::Q, RDX, r);
        self.a.cmov(cc::AE, Sz::Q, RDX, r);
    }

    /// What accesses go by, from where words and memos say.
    fn take_bases(&mut self) {
        let proofs = self.counted.as_ref().map(|c| c.proofs.clone()).unwrap_or_default();
        for Proof { base, memo, way, .. } in proofs.into_iter().flatten() {
            match way {
                Way::InPlace(reg) => {
                    self.a.store(Sz::Q, word(base), reg);
                    self.a.near((Alu::Add as u8) << 3 | 3, reg, memo + memo::ADDEND);
                }
                Way::Host(reg) => {
                    self.load_into(reg, base);
                    self.a.near((Alu::Add as u8) << 3 | 3, reg, memo + memo::ADDEND);
                }
                Way::Addend(reg) => self.a.near(0x8b, reg, memo + memo::ADDEND),
                Way::Memo => {}
            }
        }
    }

    /// Words are where the first copy has them.
    fn put_bases_back(&mut self) {
        let proofs = self.counted.as_ref().map(|c| c.proofs.clone()).unwrap_or_default();
        for Proof { base, way, .. } in proofs.into_iter().flatten() {
            if let Way::InPlace(reg) = way
                && !on(Mutant::RoundsBase)
            {
                self.a.mov(Sz::Q, reg, word(base));
            }
        }
    }

    /// Before words are put back: no more rounds behind this one. Changes RAX and flags.
    pub(super) fn stop_counting(&mut self) {
        self.put_bases_back();
        if let Some(counter) = self.counted.as_ref().and_then(Counted::counter)
            && !on(Mutant::RoundsKept)
        {
            self.a.mov(Sz::Q, RAX, word(TIER_BUDGET));
            self.a.alu_store(Alu::Add, Sz::D, at(RAX, 0), counter);
        }
    }

    /// After they were taken again: this round is the last one.
    pub(super) fn go_on_counting(&mut self) {
        self.take_bases();
        if let Some(counter) = self.counted.as_ref().and_then(Counted::counter) {
            self.a.mov_imm(counter, 0);
        }
    }

    /// The end of a round, if `cond` holds.
    pub(super) fn next_round(&mut self, block: &Block, cond: Option<u8>) {
        let out = cond.map(|c| self.a.jcc(c ^ 1));
        let round = self.round(block) as i32;
        // What was made is made again behind the last round, if nobody sees it before.
        let recipe = self.recipe.filter(|_| !self.needed[0]);
        if recipe.is_none() && self.flags == Flags::Host && !on(Mutant::RoundsFlags) {
            self.a.save_flags();
            self.a.store(Sz::D, word(ir::op::FLAG_R), RAX);
        }
        let (counter, beginning) =
            self.counted.as_ref().and_then(|c| Some((c.counter()?, c.beginning))).unwrap_or((RDX, 0));
        self.a.alu_imm(Alu::Sub, Sz::Q, counter, round);
        let again = self.a.jcc(cc::S ^ 1);
        self.a.fill(again, beginning);
        if let Some(recipe) = recipe.filter(|_| !on(Mutant::RoundsFlags)) {
            self.follow(recipe);
        }
        self.put_bases_back();
        self.lead_back(round);
        if let Some(out) = out {
            self.a.fill_here(out);
        }
    }
}
