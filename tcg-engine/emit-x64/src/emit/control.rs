//! Conditions, skips and exits, and what lies behind a block.

use ir::Block;
use ir::op::{FLAG_R, Inst, NONE, Op, Slot, TIER_BUDGET, call_flags, hint};

use super::{Base, Cold, DirectExit, Emitter, Flags, Leave, Refill, Reload, Retry, Unchecked, temp_index};
use crate::asm::{Alu, Asm, Hole, Map, R14, R15, RAX, RCX, RDX, Reg, Rm, Shift, Sz, at, cc};
use crate::layout::{BANK, CODE_BASE, CONTEXT, GLOBAL_CONTEXT, NEAR, Pins, RETURNS, word};
use crate::mutants::{Mutant, on};
use crate::returns;
use crate::stubs;

/// Put the program counter where an exit leads into RDX. Changes RAX at most.
pub(crate) fn target(a: &mut Asm, pc: u64, relative: bool) {
    if !relative {
        return a.mov_imm(RDX, pc);
    }
    a.mov(Sz::Q, RDX, word(CODE_BASE));
    match i32::try_from(pc.cast_signed()) {
        Ok(distance) => a.lea(Sz::Q, RDX, at(RDX, distance)),
        Err(_) => {
            a.mov_imm(RAX, pc);
            a.alu(Alu::Add, Sz::Q, RDX, RAX);
        }
    }
}

/// The head of a block of so many instructions.
pub(super) fn head(a: &mut Asm, instructions: usize) -> Hole {
    a.mov(Sz::Q, RAX, word(TIER_BUDGET));
    a.alu_imm(Alu::Sub, Sz::D, at(RAX, 0), instructions as i32);
    a.jcc(cc::S)
}

impl Emitter {
    /// Take a block's instructions off the budget. The jump where that is used up.
    pub(super) fn head(&mut self, instructions: usize) -> Hole {
        match u8::try_from(instructions) {
            Ok(n @ ..=0x7f) => {
                let start = self.a.piece(&self.head);
                let hole = start + self.head.hole.0;
                // In front of the six bytes of the jump, four of which are the hole.
                self.a.buf[hole - 3] = n;
                Hole(hole)
            }
            _ => head(&mut self.a, instructions),
        }
    }

    pub(super) fn condition(&mut self, c: u8) -> Option<u8> {
        if c >= 16 {
            return None;
        }
        self.host_flags();
        Some(c)
    }

    /// The condition's value, 0 or 1; for SETcc right where it goes.
    pub(super) fn set_condition(&mut self, block: &Block, x: &Inst, c: u8) {
        let next = block.insts.get(self.i + 1).filter(|next| {
            let low = next.op == Op::Deposit && next.imm == 8 << 8 && next.a == next.d && next.b == x.d;
            low && !self.landing[self.i + 1] && temp_index(x.d).is_some_and(|t| self.last[t] as usize == self.i + 1)
        });
        if let Some(d) = next.and_then(|next| self.pins.get(next.d)) {
            self.a.setcc(c, d);
            self.fused = 1;
            return;
        }
        let d = self.target(x.d, RAX);
        self.a.setcc(c, d);
        self.a.movzx(Sz::B, d, d);
        self.done(x.d, d);
    }

    pub(super) fn skip(&mut self, x: &Inst, cond: u8) {
        // `cond` is when to skip.
        let hole = self.a.jcc(cond);
        self.skips.push((self.i + 1 + x.imm as usize, hole));
    }

    /// Before a skip and where it lands everything is in memory.
    pub(super) fn settle(&mut self) {
        self.pair_evict(self.i);
        self.take_bank();
        if self.flags == Flags::Host && self.needed[self.i] {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
            self.flags = Flags::Both;
        }
        if self.held != NONE {
            // Not `evict`: the operation at hand may be the last to read it.
            let alive = temp_index(self.held).is_some_and(|t| self.last[t] as usize >= self.i);
            if alive {
                self.a.store(Sz::Q, word(self.held), R14);
            }
            self.held = NONE;
        }
        for n in 0..self.constants.len() {
            let (s, v) = self.constants[n];
            if temp_index(s).is_some_and(|t| self.last[t] as usize >= self.i) && !on(Mutant::Settle) {
                self.put_constant(s, v);
            }
        }
        self.constants.clear();
    }

    pub(super) fn land(&mut self, i: usize) {
        self.settle();
        self.flags = Flags::Memory;
        let mut n = 0;
        while n < self.skips.len() {
            if self.skips[n].0 == i {
                let (_, hole) = self.skips.remove(n);
                self.a.fill_here(hole);
            } else {
                n += 1;
            }
        }
    }

    /// Whether a direct exit of this operation may be linked: its instruction has changed nothing that blocks depend on.
    pub(super) fn may_chain(&self, block: &Block) -> bool {
        let from = block.points.get(block.point_of(self.i)).map_or(0, |p| p.op as usize);
        !block.insts[from..self.i].iter().any(|y| y.op == Op::Call && y.aux & call_flags::WRITES_STATE != 0)
    }

    /// A conditional (`cond`) or unconditional direct exit.
    pub(super) fn leave_direct(&mut self, block: &Block, pc: u64, cond: Option<u8>) {
        let chain = self.may_chain(block);
        let undone = (block.points.len() - block.point_of(self.i) - 1) as i32;
        let save = self.flags == Flags::Host && !on(Mutant::SideFlags);
        if chain && self.leads_back(block, pc) {
            if self.counting() {
                return self.next_round(block, cond);
            }
            let out = cond.map(|c| self.a.jcc(c ^ 1));
            if save {
                self.a.save_flags();
                self.a.store(Sz::D, word(FLAG_R), RAX);
            }
            self.lead_back(block.points.len() as i32 - undone);
            if let Some(out) = out {
                self.a.fill_here(out);
            }
            return;
        }
        if cond.is_none() {
            self.take_bank();
        }
        let hole = match cond {
            Some(c) => self.a.jcc(c),
            None if chain => self.a.jmp(),
            None => {
                self.put_back();
                target(&mut self.a, pc, self.relative);
                let to = self.stubs.jump;
                return self.a.jmp_to(to);
            }
        };
        let bank = self.base == Base::Bank;
        let counting = self.counting();
        self.leaves.push(Leave { hole, pc, chain, undone, save, bank, behind: false, counting });
    }

    /// Behind a call, hot blocks leave where it will come back to.
    pub(super) fn leave_word(&mut self, block: &Block, sp: Slot) {
        // Where a return goes to, program counters count from its page.
        let same = !self.relative || block.end_pc & !0xfff == 0;
        if self.hot.is_none() || !same {
            return;
        }
        self.place_of_return(sp, 0);
        let address = if self.holds_return_address(block) {
            R14
        } else {
            target(&mut self.a, block.end_pc, self.relative);
            RDX
        };
        self.a.store(Sz::Q, at(RAX, 0), address);
        let hole = self.a.lea_near(RCX);
        self.a.store(Sz::Q, at(RAX, returns::CODE), RCX);
        let chain = self.may_chain(block);
        let pc = block.end_pc;
        self.leaves.push(Leave { hole, pc, chain, undone: 0, save: false, bank: true, behind: true, counting: false });
    }

    /// Whether R14 has it, which has just been pushed.
    fn holds_return_address(&self, block: &Block) -> bool {
        let made = block.insts[..self.i].iter().rev().find(|x| x.d == self.held && x.op != Op::Store);
        self.held != NONE
            && self.relative
            && made.is_some_and(|x| x.op == Op::Add64I && x.a == CODE_BASE && x.imm == block.end_pc)
    }

    /// RAX: where a table has the return address that is on the stack at `sp` less `moved`.
    fn place_of_return(&mut self, sp: Slot, moved: i32) {
        match self.place(sp) {
            Rm::R(r) if moved != 0 => self.a.lea(Sz::D, RAX, at(r, -moved)),
            m => {
                self.a.mov(Sz::D, RAX, m);
                if moved != 0 {
                    self.a.alu_imm(Alu::Sub, Sz::D, RAX, moved);
                }
            }
        }
        self.a.alu_imm(Alu::And, Sz::D, RAX, returns::PLACE_MASK);
        self.a.alu(Alu::Add, Sz::Q, RAX, word(RETURNS));
    }

    /// An indirect jump, a call or a return.
    pub(super) fn leave_indirect(&mut self, block: &Block, x: &Inst) {
        self.save_all();
        if x.aux & hint::CALL != 0 {
            self.leave_word(block, x.b);
        }
        self.load_into(RDX, x.a);
        self.put_back();
        self.take_bank();
        let renamed = std::mem::replace(&mut self.pins, Pins::USUAL);
        self.jump(x);
        self.pins = renamed;
    }

    /// Jump to the program counter in RDX.
    fn jump(&mut self, x: &Inst) {
        let to = self.stubs.jump;
        let Some(hot) = &self.hot else { return self.a.jmp_to(to) };
        if x.aux & hint::RETURN == 0 {
            // As the stub does it, but with a branch of its own for the host's predictor. User pages are global ones seldom.
            let context = if hot.memos.is_some() { CONTEXT } else { GLOBAL_CONTEXT };
            stubs::find_jump(&mut self.a);
            let other = self.a.jcc(cc::NE);
            self.a.mov(Sz::Q, RCX, at(RAX, stubs::JUMP_CONTEXT));
            self.a.alu(Alu::Cmp, Sz::Q, RCX, word(context));
            let elsewhere = self.a.jcc(cc::NE);
            if hot.memos.is_some() {
                stubs::follow_jump(&mut self.a);
            } else {
                self.a.jmp_indirect(at(RAX, stubs::JUMP_CODE));
            }
            match self.unchecked.take() {
                Some(target) => self.unknown = Some(([Some(other), Some(elsewhere)], target)),
                None => [other, elsewhere].into_iter().for_each(|hole| self.a.fill(hole, to)),
            }
            return;
        }
        self.place_of_return(x.b, x.imm as i32);
        self.a.alu(Alu::Cmp, Sz::Q, RDX, at(RAX, 0));
        let mut not = cc::NE;
        if on(Mutant::ReturnAddress) {
            // Nothing lies where nothing was put.
            self.a.alu_imm(Alu::Cmp, Sz::D, at(RAX, 0), 0);
            not = cc::E;
        }
        let other = self.a.jcc(not);
        match self.unchecked.take() {
            Some(target) => self.unknown = Some(([Some(other), None], target)),
            None => self.a.fill(other, to),
        }
        if self.relative && !on(Mutant::ReturnBase) {
            self.a.alu_imm(Alu::And, Sz::Q, RDX, -0x1000);
            self.a.store(Sz::Q, word(CODE_BASE), RDX);
        }
        self.a.jmp_indirect(at(RAX, returns::CODE));
    }

    /// A jump that is not known, whose target was not looked at.
    fn finish_unknown(&mut self) {
        let Some((holes, Unchecked { site, constants, moved })) = self.unknown.take() else { return };
        for hole in holes.into_iter().flatten() {
            self.a.fill_here(hole);
        }
        self.a.mov(Sz::Q, RAX, RDX);
        self.a.shift_imm(Shift::Shl, Sz::Q, RAX, 16);
        self.a.shift_imm(Shift::Sar, Sz::Q, RAX, 16);
        self.a.alu(Alu::Cmp, Sz::Q, RAX, RDX);
        let to = self.stubs.jump;
        let good = self.a.jcc(if on(Mutant::Unchecked) { cc::O ^ 1 } else { cc::E });
        self.a.fill(good, to);
        if let Some((sp, bytes)) = moved.filter(|_| !on(Mutant::Moved)) {
            self.a.lea(Sz::Q, sp, at(sp, -bytes));
        }
        self.put_marked(constants);
        self.a.mov_imm(RAX, u64::from(site));
        let to = self.stubs.resume;
        self.a.jmp_to(to);
    }

    pub(super) fn resume_here(&mut self) {
        self.save_all();
        let site = self.site(self.i);
        self.put_back();
        self.a.mov_imm(RAX, u64::from(site));
        let to = self.stubs.resume;
        self.a.jmp_to(to);
    }

    /// What lies behind the block. Answers the return address of the call that leaves it at its head.
    pub(super) fn finish(&mut self, spent: Hole) -> usize {
        let cold = std::mem::take(&mut self.cold);
        for cold in &cold {
            let Cold {
                from: [miss, other],
                ref refill,
                ref retry,
                ref recipe,
                back,
                site,
                more,
                base,
                reload,
                constants,
                counting,
            } = *cold;
            self.set_counting(counting);
            let near = matches!(base, Base::Group { .. });
            if let Some(miss) = miss {
                self.a.fill_here(miss);
            }
            if let &Some(Retry { memo, write, run, back, addend, .. }) = retry {
                if near {
                    self.a.store(Sz::Q, word(NEAR), R15);
                }
                if base != Base::Bank {
                    self.a.mov(Sz::Q, R15, word(BANK));
                }
                self.a.near(0x8d, RAX, memo);
                let to = if run { self.stubs.recall_run } else { self.stubs.recall };
                self.a.call_to(to[usize::from(write)]);
                if near {
                    self.a.mov(Sz::Q, R15, word(NEAR));
                }
                match addend {
                    Some(reg) => {
                        let none = self.a.jcc(cc::NE);
                        self.a.lea(Sz::Q, reg, at(RAX, if on(Mutant::Addend) { 8 } else { 0 }));
                        self.a.jmp_back(back);
                        self.a.fill_here(none);
                    }
                    None => {
                        let found = self.a.jcc(cc::E);
                        self.a.fill(found, back);
                    }
                }
            }
            if let &Some(Refill { small, found, write }) = refill {
                if let Some((m, bytes)) = small {
                    let miss = self.look_up_small(m, bytes, write);
                    let hit = self.a.jmp();
                    self.a.fill(hit, found);
                    self.a.fill_here(miss);
                }
                let to = self.stubs.refill[usize::from(write)];
                self.a.call_to(to);
                let hole = self.a.jcc(cc::E);
                self.a.fill(hole, found);
            }
            if let Some(other) = other {
                self.a.fill_here(other);
            }
            if let &Some(recipe) = recipe {
                // Of guest's words alone, which are where they always are.
                self.constants.clear();
                self.held = NONE;
                self.follow(recipe);
            }
            self.put_marked(constants);
            self.call_put_back();
            if retry.as_ref().is_some_and(|r| r.must) {
                self.a.mov_imm(RAX, u64::from(site));
                let to = self.stubs.resume;
                self.a.jmp_to(to);
                continue;
            }
            if near {
                self.a.store(Sz::Q, word(NEAR), R15);
            }
            let to = self.op_stub();
            for site in site..=site + more {
                self.a.call_with(site, to);
            }
            if near {
                self.a.mov(Sz::Q, R15, word(NEAR));
                if on(Mutant::Near) {
                    self.a.lea(Sz::Q, R15, at(R15, 8));
                }
            }
            self.call_take();
            match reload {
                Reload::Nothing | Reload::Temp => {}
                Reload::Pair(r, s) => self.a.sse(Map::Of, 0x28, r.0, word(s).into()),
                Reload::Wide(r, low, upper) => {
                    self.a.sse(Map::Of, 0x28, r.0, word(low).into());
                    self.insert_upper(r, word(upper).into());
                }
                Reload::Word(r, s) => self.a.sse(Map::OfF3, 0x7e, r.0, word(s).into()),
            }
            self.a.jmp_back(back);
        }
        self.cold = cold;
        self.finish_guards();
        self.finish_unknown();
        for n in 0..self.leaves.len() {
            let Leave { mut hole, pc, chain, undone, save, bank, behind, counting } = self.leaves[n];
            self.set_counting(counting);
            self.a.fill_here(hole);
            if save {
                self.a.save_flags();
                self.a.store(Sz::D, word(FLAG_R), RAX);
            }
            if undone != 0 {
                let undone = if on(Mutant::Budget) { undone - 1 } else { undone };
                self.a.mov(Sz::Q, RAX, word(TIER_BUDGET));
                self.a.alu_imm(Alu::Add, Sz::D, at(RAX, 0), undone);
            }
            if !behind {
                self.put_back();
            }
            if !bank {
                self.a.mov(Sz::Q, R15, word(BANK));
            }
            if chain && (save || undone != 0 || !bank || !behind && self.is_renamed()) {
                hole = self.a.jmp();
                self.a.fill_here(hole);
            }
            let unlinked = self.a.here();
            if chain {
                let hole = (self.a.base + hole.0) as u32;
                let relative = self.relative;
                self.exits.push(DirectExit { pc, relative, block: self.block, hole, unlinked: unlinked as u32 });
                let to = self.stubs.direct;
                self.a.call_to(to);
            } else {
                target(&mut self.a, pc, self.relative);
                let to = self.stubs.jump;
                self.a.jmp_to(to);
            }
        }
        self.set_counting(false);
        self.fill_spent(spent);
        let to = self.stubs.budget;
        self.a.call_to(to);
        let returns = self.a.here();
        self.finish_renamed();
        returns
    }

    /// Whether the operation at hand is followed by the jump to where `target` says, with nothing between them but what a call or a
    /// return adds to the stack pointer.
    fn jump_follows(&self, block: &Block, target: Slot) -> Option<Option<(Reg, i32)>> {
        let [next, behind] = [1, 2].map(|n| block.insts.get(self.i + n));
        let jumps = |x: Option<&Inst>| x.is_some_and(|x| x.op == Op::ExitReg && x.a == target);
        if jumps(next) {
            return Some(None);
        }
        let next = next.filter(|x| x.a == x.d && x.d != target && jumps(behind))?;
        let sp = Pins::USUAL.get(next.d)?;
        let bytes = i32::try_from(next.imm.cast_signed()).ok()?;
        match next.op {
            Op::Add64I => Some(Some((sp, bytes))),
            Op::Sub64I => Some(Some((sp, bytes.checked_neg()?))),
            _ => None,
        }
    }

    pub(super) fn canonical(&mut self, block: &Block, x: &Inst) {
        self.save_now();
        let site = self.site(self.i);
        if self.hot.is_some()
            && let Some(moved) = self.jump_follows(block, x.a)
        {
            // No jump that is known leads to an address that is not.
            self.unchecked = Some(Unchecked { site, constants: self.cold_mark, moved });
            return;
        }
        let a = self.reg(x.a, RCX);
        self.a.mov(Sz::Q, RAX, a);
        self.a.shift_imm(Shift::Shl, Sz::Q, RAX, 16);
        self.a.shift_imm(Shift::Sar, Sz::Q, RAX, 16);
        self.a.alu(Alu::Cmp, Sz::Q, RAX, a);
        let bad = self.a.jcc(cc::NE);
        self.flags = Flags::Memory;
        self.cold([Some(bad), None], Reload::Nothing, site);
    }
}
