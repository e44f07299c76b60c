//! Bit manipulation: what BMI1, BMI2 and LZCNT do in one instruction, and how hosts without them count zeros and shift.

use ir::op::{Inst, NONE, Op};
use ir::{AluOp, AluRef, Block};

use super::{Emitter, Flags};
use crate::asm::{Alu, Map, RAX, RCX, RDX, Rm, Shift, Sz, Vex, cc};
use crate::mutants::{Mutant, on};

impl Emitter {
    /// Arithmetic with flags from [`AluOp::Andn`] on.
    pub(super) fn manipulate(&mut self, x: &Inst, r: AluRef) {
        let counts = matches!(r.op, AluOp::Tzcnt | AluOp::Lzcnt);
        if !self.features.bmi || r.log2 == 0 || r.log2 == 1 && !counts {
            return self.interpret(x);
        }
        let wide = r.log2 == 3;
        let vex = |op| Vex::new(Map::Of38, op).w(wide);
        if counts {
            let op = if r.op == AluOp::Tzcnt { 0xbc } else { 0xbd };
            // Of 16 bits the rest of the register stays.
            self.load_into(RAX, x.a);
            self.a.ins(Sz::log2(r.log2), Map::OfF3, op, RAX.0, RAX.into(), (false, false));
            self.set(x.d, RAX);
        } else {
            let second = match (r.op, x.b) {
                (AluOp::Blsi | AluOp::Blsr | AluOp::Blsmsk, _) => Rm::R(RCX),
                (_, NONE) => {
                    self.a.mov_imm(RCX, x.imm);
                    Rm::R(RCX)
                }
                (AluOp::Andn, b) => self.rm(b, RCX),
                (_, b) => Rm::R(self.reg(b, RCX)),
            };
            let first = if r.op == AluOp::Andn { Rm::R(self.reg(x.a, RAX)) } else { self.rm(x.a, RAX) };
            let d = self.target(x.d, RAX);
            match (r.op, first, second) {
                (AluOp::Andn, Rm::R(a), b) => self.a.vex(vex(0xf2), d.0, a.0, b),
                (AluOp::Blsr, a, _) => self.a.vex(vex(0xf3), 1, d.0, a),
                (AluOp::Blsmsk, a, _) => self.a.vex(vex(0xf3), 2, d.0, a),
                (AluOp::Blsi, a, _) => self.a.vex(vex(0xf3), 3, d.0, a),
                (AluOp::Bzhi, a, Rm::R(b)) => self.a.vex(vex(0xf5), d.0, b.0, a),
                (_, a, Rm::R(b)) => self.a.vex(vex(0xf7), d.0, b.0, a),
                // No second operand is in memory where the instruction cannot have it there.
                _ => {}
            }
            self.done(x.d, d);
        }
        self.made_flags();
        if on(Mutant::BitFlags) {
            self.flags = Flags::Memory;
        }
    }

    /// PDEP and PEXT.
    pub(super) fn by_mask(&mut self, x: &Inst) {
        if !self.features.bmi {
            return self.interpret(x);
        }
        let map = if x.op == Op::Pdep { Map::Of38xF2 } else { Map::Of38xF3 };
        let mask = self.rm(x.b, RCX);
        let a = self.reg(x.a, RAX);
        let d = self.target(x.d, RAX);
        self.a.vex(Vex::new(map, 0xf5).w(true), d.0, a.0, mask);
        self.done(x.d, d);
    }

    /// Shift by a variable count, which leaves the flags alone where the host has BMI2.
    pub(super) fn shift(&mut self, op: Shift, sz: Sz, x: &Inst) {
        let map = match op {
            Shift::Shl => Map::Of38x66,
            Shift::Shr => Map::Of38xF2,
            _ => Map::Of38xF3,
        };
        if self.features.bmi && matches!(op, Shift::Shl | Shift::Shr | Shift::Sar) {
            let n = self.reg(x.b, RCX);
            let a = self.rm(x.a, RAX);
            let d = self.target(x.d, RAX);
            self.a.vex(Vex::new(map, 0xf7).w(sz == Sz::Q), d.0, n.0, a);
            return self.done(x.d, d);
        }
        self.clobber();
        self.load_into(RCX, x.b);
        self.load_into(RAX, x.a);
        if sz == Sz::D {
            // Also where the count is zero the upper half goes.
            self.a.mov(Sz::D, RAX, RAX);
        }
        self.a.shift_cl(op, sz, RAX);
        self.set(x.d, RAX);
    }

    /// RORX, for a rotation to the left by `n`, which is not 0.
    pub(super) fn rotate(&mut self, sz: Sz, n: u8, x: &Inst) {
        let a = self.rm(x.a, RAX);
        let d = self.target(x.d, RAX);
        self.a.vex(Vex::new(Map::Of3AxF2, 0xf0).w(sz == Sz::Q), d.0, 0, a);
        self.a.byte(if sz == Sz::Q { 64 - n } else { 32 - n });
        self.done(x.d, d);
    }

    /// The next operation if it is the high half of the product whose low half is `x`, and MULX makes both.
    pub(super) fn high_half_follows(&self, block: &Block, x: &Inst) -> Option<Inst> {
        let next = block.insts.get(self.i + 1)?;
        let same = x.op == Op::Mul64 && next.op == Op::MulHiU64 && (x.a, x.b) == (next.a, next.b);
        let apart = x.d != x.a && x.d != x.b && x.d != next.d;
        (self.features.bmi && same && apart && !self.lands_behind()).then_some(*next)
    }

    /// Both halves of an unsigned product, the second of which the next operation `high` asks for.
    pub(super) fn multiply_twice(&mut self, x: &Inst, high: &Inst) {
        self.load_into(RDX, x.a);
        let b = self.rm(x.b, RCX);
        self.a.vex(Vex::new(Map::Of38xF2, 0xf6).w(true), RCX.0, RAX.0, b);
        self.set(x.d, RAX);
        self.set(high.d, RCX);
        self.fused = 1;
    }

    /// TZCNT and LZCNT, or BSF and BSR with the answer for nothing found put in first.
    pub(super) fn count_zeros(&mut self, x: &Inst) {
        let bits = x.aux;
        if !matches!(bits, 16 | 32 | 64) {
            return self.interpret(x);
        }
        self.clobber();
        if self.features.bmi && bits >= 32 {
            let sz = if bits == 64 { Sz::Q } else { Sz::D };
            let a = self.rm(x.a, RAX);
            let d = self.target(x.d, RAX);
            self.a.ins(sz, Map::OfF3, if x.op == Op::Ctz { 0xbc } else { 0xbd }, d.0, a, (false, false));
            return self.done(x.d, d);
        }
        self.load_into(RCX, x.a);
        match bits {
            16 => self.a.movzx(Sz::W, RCX, RCX),
            32 => self.a.mov(Sz::D, RCX, RCX),
            _ => {}
        }
        if x.op == Op::Ctz {
            self.a.ins(Sz::Q, Map::Of, 0xbc, RAX.0, RCX.into(), (false, false));
            self.a.mov_imm(RCX, u64::from(bits));
            self.a.cmov(cc::E, Sz::Q, RAX, RCX);
        } else {
            self.a.ins(Sz::Q, Map::Of, 0xbd, RAX.0, RCX.into(), (false, false));
            // bits - 1 - index; an index of -1 stands for nothing found.
            self.a.mov_imm(RCX, u64::MAX);
            self.a.cmov(cc::E, Sz::Q, RAX, RCX);
            self.a.group3(3, Sz::Q, RAX);
            self.a.alu_imm(Alu::Add, Sz::Q, RAX, i32::from(bits) - 1);
        }
        self.set(x.d, RAX);
    }
}
