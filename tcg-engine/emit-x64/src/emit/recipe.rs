//! Recipes: how to make flags again that were not saved.
//!
//! The idea: between two comparisons there is often an access that may fault, and a fault shows the flags. It hardly ever comes. So
//! where what flags were made from is still there until others take their place, they are not saved; the code behind the block,
//! which an access takes when it fails, makes them again. So does a condition that comes behind something that destroys the host's: a
//! comparison is one instruction, and to save flags and bring them back is six.

use ir::effects::effects;
use ir::flags::Kind;
use ir::op::{FIRST_TEMP, FLAG_A, FLAG_R, Inst, NONE, Op, Rel, Slot};
use ir::{AluOp, AluRef, Block};

use super::arithmetic::host_alu;
use super::{Emitter, Flags, forms, temp_index};
use crate::asm::{Alu, Map, RAX, RCX, RDX, Rm, Shift, Sz, at, cc};
use crate::layout::{upper, word, xmm};
use crate::mutants::{Mutant, on};

/// What flags are made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recipe {
    /// An operation whose first operand now holds its result, or is as it was if there is none.
    Alu(AluOp, Sz, Slot, Operand),
    /// An increment, or a decrement; the word of `FLAG_A` has the carry.
    Count(AluOp, Sz, Slot),
    /// A shift of what the word of `FLAG_A` holds by so many bits.
    Shift(Shift, Sz, u8),
    /// A product of this size; the word of `FLAG_A` says whether it does not fit.
    Product(Sz, Slot),
}

/// The second operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    Slot(Slot),
    Imm(i32),
}

/// A guest's word that holds what it should wherever code is left.
fn lasting(s: Slot) -> bool {
    s.0 >= 8 && s.0 < FIRST_TEMP && xmm(s).is_none() && upper(s).is_none()
}

impl Emitter {
    /// Whether flags that the operation before `i` has made need not be saved: `of`, which they were made from, are written by nobody
    /// for as long as somebody wants them, and that is faults alone, or (`again`) who can have them made again.
    fn need_not_be_saved(&self, block: &Block, i: usize, of: [Slot; 2], again: bool) -> bool {
        if self.hot.is_none() || !self.needed[i] || self.strong[i] && !again || !self.skips.is_empty() {
            return false;
        }
        // Flags that are shown by exits alone are better off saved.
        let mut read = !self.strong[i];
        for (j, x) in block.insts.iter().enumerate().skip(i) {
            if !self.needed[j] {
                return read;
            }
            if self.strong[j] {
                match x.op {
                    _ if self.landing[j] => return false,
                    Op::Cond | Op::SelectCond | Op::ExitCond => read = true,
                    // Its flags take their place, though it looks at them.
                    Op::Alu => return true,
                    _ if forms::of(x.op) & (forms::SHOWS | forms::FLAGS) == 0 => {}
                    Op::Exit | Op::ExitReg => {}
                    _ => return false,
                }
            }
            // Calls that write any word see the flags themselves, and so none is among these.
            let written = effects(x).writes.iter().any(|w| of.contains(w) && *w != NONE);
            if written && self.needed[j + 1] && !on(Mutant::Ingredient) {
                return false;
            }
        }
        read
    }

    /// For arithmetic: the recipe for its flags, if they are not to be saved.
    pub(super) fn recipe_of(&self, block: &Block, x: &Inst) -> Option<Recipe> {
        let r = AluRef::unpack(x.aux);
        let sz = Sz::log2(r.log2);
        let result = !r.op.compares();
        if let AluOp::Shl | AluOp::Shr | AluOp::Sar = r.op {
            return self.recipe_of_shift(block, x, r.op, sz);
        }
        if let AluOp::Inc | AluOp::Dec = r.op {
            let lasts = x.a == x.d && lasting(x.a) && self.need_not_be_saved(block, self.i + 1, [x.a, NONE], true);
            return lasts.then_some(Recipe::Count(r.op, sz, x.a));
        }
        let logic = matches!(r.op, AluOp::And | AluOp::Or | AluOp::Xor);
        if !(logic || matches!(r.op, AluOp::Add | AluOp::Sub | AluOp::Cmp | AluOp::Test)) {
            return None;
        }
        if !lasting(x.a) || result && x.a != x.d {
            return None;
        }
        let imm = if x.b == NONE { Some(x.imm) } else { self.constant(x.b) };
        let b = match imm {
            Some(v) if sz != Sz::Q => Operand::Imm(v as i32),
            Some(v) => Operand::Imm(i32::try_from(v as i64).ok()?),
            // Nothing but the result counts.
            None if logic => Operand::Imm(0),
            None if lasting(x.b) && !(result && x.b == x.d) => Operand::Slot(x.b),
            None => return None,
        };
        let second = if let Operand::Slot(s) = b { s } else { NONE };
        self.need_not_be_saved(block, self.i + 1, [x.a, second], true).then_some(Recipe::Alu(r.op, sz, x.a, b))
    }

    /// The same for shifts by constants, whose operand is gone then: it is to be kept.
    fn recipe_of_shift(&self, block: &Block, x: &Inst, op: AluOp, sz: Sz) -> Option<Recipe> {
        let imm = if x.b == NONE { x.imm } else { self.constant(x.b)? };
        let n = imm as u8 & if sz == Sz::Q { 63 } else { 31 };
        let in_register = x.a == x.d && self.constant(x.a).is_none() && matches!(self.place(x.a), Rm::R(_));
        let op = match op {
            AluOp::Shl => Shift::Shl,
            AluOp::Shr => Shift::Shr,
            _ => Shift::Sar,
        };
        (n != 0 && in_register && self.need_not_be_saved(block, self.i + 1, [NONE; 2], true))
            .then_some(Recipe::Shift(op, sz, n))
    }

    /// Keep what a recipe needs and the operation at hand destroys.
    pub(super) fn keep(&mut self, x: &Inst, recipe: Recipe) {
        match (recipe, self.place(x.a)) {
            _ if on(Mutant::Kept) => {}
            (Recipe::Shift(..), Rm::R(r)) => self.a.store(Sz::Q, word(FLAG_A), r),
            (Recipe::Count(..), _) => {
                if self.recipe.is_some() {
                    self.host_flags();
                } else {
                    self.host_carry();
                }
                self.a.ins(Sz::D, Map::Of, 0x90 | cc::B, 0, Rm::M(word(FLAG_A)), (false, false));
            }
            _ => {}
        }
    }

    /// The same for flags of a product in a temporary, which the next operation puts into a guest's word.
    pub(super) fn recipe_of_product(&self, block: &Block, sz: Sz, low: Slot) -> Option<Recipe> {
        let next = block.insts.get(self.i + 1)?;
        let moved = matches!(next.op, Op::Mov | Op::Zext32) && next.a == low && lasting(next.d);
        if !moved || !self.needed[self.i + 1] || self.strong[self.i + 1] {
            return None;
        }
        self.need_not_be_saved(block, self.i + 2, [next.d, NONE], false).then_some(Recipe::Product(sz, next.d))
    }

    /// Make flags and put them into memory. Changes RAX, RCX and the host's.
    pub(super) fn follow(&mut self, recipe: Recipe) {
        self.make(recipe);
        match recipe {
            Recipe::Product(..) => self.overflowed(),
            _ => self.a.save_flags(),
        }
        self.a.store(Sz::D, word(FLAG_R), RAX);
    }

    /// Make flags: the host's, and for those of a product what [`Emitter::overflowed`] wants to know. Changes RAX and RCX.
    pub(super) fn make(&mut self, recipe: Recipe) {
        match recipe {
            Recipe::Alu(AluOp::Test, sz, a, b) => {
                let a = self.rm(a, RAX);
                match b {
                    Operand::Imm(v) => self.a.test_imm(sz, a, v),
                    Operand::Slot(s) => {
                        let b = self.reg(s, RCX);
                        self.a.test(sz, a, b);
                    }
                }
            }
            Recipe::Alu(AluOp::And | AluOp::Or | AluOp::Xor, sz, a, _) => {
                let a = self.reg(a, RAX);
                self.a.test(sz, a, a);
            }
            Recipe::Alu(op, sz, a, b) => {
                let undo = match op {
                    AluOp::Add => Some(Alu::Sub),
                    AluOp::Sub => Some(Alu::Add),
                    _ => None,
                };
                let first = if undo.is_some() {
                    self.load_into(RAX, a);
                    RAX
                } else {
                    self.reg(a, RAX)
                };
                for h in undo.into_iter().chain(host_alu(op)) {
                    match b {
                        Operand::Imm(v) => self.a.alu_imm(h, sz, first, v),
                        Operand::Slot(s) => {
                            let b = self.rm(s, RCX);
                            self.a.alu(h, sz, first, b);
                        }
                    }
                }
            }
            Recipe::Count(op, sz, a) => {
                let down = op == AluOp::Dec;
                let a = self.reg(a, RAX);
                self.a.lea(Sz::Q, RAX, at(a, if down { 1 } else { -1 }));
                self.a.bt_imm(Sz::D, word(FLAG_A), 0);
                self.a.inc_dec(u8::from(down), sz, RAX);
            }
            Recipe::Shift(op, sz, n) => {
                self.a.mov(Sz::Q, RAX, word(FLAG_A));
                self.a.shift_imm(op, sz, RAX, n);
            }
            Recipe::Product(sz, low) => {
                self.load_into(RAX, low);
                self.a.test(sz, RAX, RAX);
                self.a.movzx(Sz::B, RCX, word(FLAG_A));
            }
        }
    }

    /// The host's flags are those of a product: RAX = these, with what ECX (0 or 1) says for CF and OF.
    pub(super) fn overflowed(&mut self) {
        self.a.save_flags();
        self.a.imul_imm(Sz::D, RCX, RCX, 0x101);
        self.a.alu(Alu::Or, Sz::D, RAX, RCX);
    }

    /// A product of 64 bits with its overflow: the host's instruction says both. Answers how many operations behind this one are
    /// done with it.
    pub(super) fn product(&mut self, block: &Block, x: &Inst) -> Option<u8> {
        self.hot.as_ref()?;
        let [high, sign, over, flags] = block.insts.get(self.i + 1..self.i + 5)?.as_array::<4>()?;
        let same = high.op == Op::MulHiS64 && (high.a, high.b) == (x.a, x.b);
        let signs = sign.op == Op::Sar64I && sign.a == x.d && sign.imm == 63;
        let differ = over.op == Op::SetRel
            && over.aux == Rel::Ne as u8
            && (over.a, over.b) == (high.d, sign.d)
            && self.unread(self.i + 4, [high.d, sign.d, over.d]);
        let last = flags.op == Op::Flags && flags.imm == 64 && flags.d == x.d && flags.a == over.d;
        let product = last && flags.aux == Kind::X86Mul as u8;
        let apart = (self.i + 1..self.i + 5).any(|j| self.landing[j]);
        if apart || !(same && signs && differ && product && x.d.is_temp() && self.skips.is_empty()) {
            return None;
        }
        self.load_into(RAX, x.a);
        let b = self.rm(x.b, RCX);
        self.a.imul(Sz::Q, RAX, b);
        // The last operation's place is where flags change.
        self.i += 4;
        let recipe = self.recipe_of_product(block, Sz::Q, x.d);
        if recipe.is_some() {
            self.a.ins(Sz::D, Map::Of, 0x90 | cc::O, 0, Rm::M(word(FLAG_A)), (false, false));
            self.recipe = recipe;
        } else if self.needed[self.i + 1] {
            self.a.mov(Sz::Q, RDX, RAX);
            self.a.setcc(cc::O, RCX);
            self.a.movzx(Sz::B, RCX, RCX);
            self.a.test(Sz::Q, RAX, RAX);
            self.overflowed();
            self.a.store(Sz::D, word(FLAG_R), RAX);
            self.a.mov(Sz::Q, RAX, RDX);
        }
        self.flags = Flags::Memory;
        self.set(x.d, RAX);
        self.i -= 4;
        Some(4)
    }

    /// Whether nobody reads these temporaries behind operation `i`.
    fn unread(&self, i: usize, list: [Slot; 3]) -> bool {
        list.iter().all(|s| temp_index(*s).is_some_and(|t| self.last[t] as usize <= i))
    }
}
