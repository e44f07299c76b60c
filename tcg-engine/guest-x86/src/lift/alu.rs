//! Addition, subtraction, logic, comparison, negation: the bulk of all instructions.
//!
//! If nobody can see the flags, the result is computed straight into the destination register by one operation; otherwise it
//! goes through a temporary, because the flags need the old operands.

use iced_x86::Mnemonic;
use ir::flags::{Cond, Kind};
use ir::{AluOp, AtomicOp, NONE, Op, Rel, Slot};

use super::{Flow, Lifted, Lifter};

/// An operation with two sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Adc,
    Sbb,
}

impl Alu {
    fn of(m: Mnemonic) -> Option<Alu> {
        Some(match m {
            Mnemonic::Add => Alu::Add,
            Mnemonic::Sub => Alu::Sub,
            Mnemonic::And => Alu::And,
            Mnemonic::Or => Alu::Or,
            Mnemonic::Xor => Alu::Xor,
            Mnemonic::Adc => Alu::Adc,
            Mnemonic::Sbb => Alu::Sbb,
            _ => return None,
        })
    }

    fn kind(self) -> Kind {
        match self {
            Alu::Add => Kind::X86Add,
            Alu::Sub => Kind::X86Sub,
            Alu::And | Alu::Or | Alu::Xor => Kind::X86Logic,
            Alu::Adc => Kind::X86Adc,
            Alu::Sbb => Kind::X86Sbb,
        }
    }

    fn fused(self) -> AluOp {
        match self {
            Alu::Add => AluOp::Add,
            Alu::Sub => AluOp::Sub,
            Alu::And => AluOp::And,
            Alu::Or => AluOp::Or,
            Alu::Xor => AluOp::Xor,
            Alu::Adc => AluOp::Adc,
            Alu::Sbb => AluOp::Sbb,
        }
    }

    fn logic(self) -> bool {
        self.kind() == Kind::X86Logic
    }

    /// The operation on two slots.
    fn op(self, bits: u32) -> Op {
        match (self, bits) {
            (Alu::Add | Alu::Adc, 64) => Op::Add64,
            (Alu::Add | Alu::Adc, _) => Op::Add32,
            (Alu::Sub | Alu::Sbb, 64) => Op::Sub64,
            (Alu::Sub | Alu::Sbb, _) => Op::Sub32,
            (Alu::And, _) => Op::And,
            (Alu::Or, _) => Op::Or,
            (Alu::Xor, _) => Op::Xor,
        }
    }

    /// The operation on a slot and an immediate.
    fn op_imm(self, bits: u32) -> Op {
        match (self, bits) {
            (Alu::Add | Alu::Adc, 64) => Op::Add64I,
            (Alu::Add | Alu::Adc, _) => Op::Add32I,
            (Alu::Sub | Alu::Sbb, 64) => Op::Sub64I,
            (Alu::Sub | Alu::Sbb, _) => Op::Sub32I,
            (Alu::And, _) => Op::AndI,
            (Alu::Or, _) => Op::OrI,
            (Alu::Xor, _) => Op::XorI,
        }
    }
}

/// The second source: a constant or a slot.
#[derive(Clone, Copy)]
enum Source {
    Imm(u64),
    Slot(Slot),
}

impl Lifter {
    fn source(&mut self, n: u32, bits: u32) -> Source {
        match self.imm(n) {
            // The bits above the size do not matter, but zeros keep 32-bit results clean.
            Some(v) => Source::Imm(if bits == 64 { v } else { v & (u64::MAX >> (64 - bits)) }),
            None => Source::Slot(self.read(n)),
        }
    }

    fn slot(&mut self, s: Source) -> Slot {
        match s {
            Source::Imm(v) => self.constant(v),
            Source::Slot(s) => s,
        }
    }

    /// `d = a op b`, without carry. Answers whether the result certainly has zeros above bit 31.
    fn compute(&mut self, alu: Alu, bits: u32, d: Slot, a: Slot, b: Source) -> bool {
        let (ca, cb) = (
            self.is_clean(a),
            match b {
                Source::Imm(v) => v <= u64::from(u32::MAX),
                Source::Slot(s) => self.is_clean(s),
            },
        );
        match b {
            Source::Imm(v) => self.b.op_imm(alu.op_imm(bits), d, a, v),
            Source::Slot(b) => self.b.op(alu.op(bits), d, a, b),
        }
        match alu {
            Alu::And => ca || cb,
            Alu::Or | Alu::Xor => ca && cb,
            _ => bits < 64,
        }
    }

    /// `r op= b` for a 32- or 64-bit register whose flags nobody sees.
    fn in_place(&mut self, alu: Alu, bits: u32, r: Slot, b: Source) {
        if let Source::Slot(b) = b
            && b == r
            && matches!(alu, Alu::Xor | Alu::Sub)
        {
            self.b.op_imm(Op::MovI, r, NONE, 0);
            self.set_clean(r, true);
            return;
        }
        let clean = self.compute(alu, bits, r, r, b);
        if bits == 32 && !clean {
            self.b.op(Op::Zext32, r, r, NONE);
        }
        self.set_clean(r, clean || bits == 32);
    }

    /// The current carry as 0 or 1.
    pub(crate) fn carry(&mut self) -> Slot {
        let t = self.b.temp();
        self.b.full(Op::Cond, Cond::x86(2).0, t, NONE, NONE, 0);
        t
    }

    /// `a op b (op carry)` in a temporary.
    fn result(&mut self, alu: Alu, bits: u32, a: Slot, b: Source) -> Slot {
        let t = self.b.temp();
        let clean = self.compute(alu, bits, t, a, b);
        self.set_clean(t, clean);
        if matches!(alu, Alu::Adc | Alu::Sbb) {
            let c = self.carry();
            self.b.op(alu.op(bits), t, t, c);
        }
        t
    }

    fn record(&mut self, alu: Alu, bits: u32, a: Slot, b: Source, r: Slot) {
        if !self.flags_live() {
            return;
        }
        if alu.logic() {
            self.b.flags(Kind::X86Logic, bits as u8, NONE, NONE, r);
        } else {
            let b = self.slot(b);
            self.b.flags(alu.kind(), bits as u8, a, b, r);
        }
    }

    fn binary(&mut self, alu: Alu) -> Lifted {
        let bits = self.bits(0);
        if self.is_mem(0) {
            return self.binary_memory(alu, bits);
        }
        let mut b = self.source(1, bits);
        if !self.flags_live()
            && !matches!(alu, Alu::Adc | Alu::Sbb)
            && let Some((r, bits)) = self.wide_reg(0)
        {
            self.in_place(alu, bits, r, b);
            return Some(Flow::Next);
        }
        if let Some(d) = self.plain_reg(0) {
            let clean = match (alu, b) {
                _ if bits < 32 => self.is_clean(d),
                (Alu::And, Source::Imm(v)) if v <= u64::from(u32::MAX) => true,
                _ => bits == 32,
            };
            match b {
                Source::Imm(v) => self.b.alu_imm(alu.fused(), bits, d, d, v),
                Source::Slot(b) => self.b.alu(alu.fused(), bits, d, d, b),
            }
            self.set_clean(d, clean);
            return Some(Flow::Next);
        }
        let a = self.read(0);
        if self.flags_live() && !alu.logic() {
            // The constant is needed for the flags anyway.
            b = Source::Slot(self.slot(b));
        }
        let r = self.result(alu, bits, a, b);
        self.record(alu, bits, a, b, r);
        self.write(0, r);
        Some(Flow::Next)
    }

    fn binary_memory(&mut self, alu: Alu, bits: u32) -> Lifted {
        let b = self.source(1, bits);
        let b = Source::Slot(self.slot(b));
        if self.i.has_lock_prefix() {
            return self.binary_locked(alu, bits, b);
        }
        let Source::Slot(value) = b else { return None };
        let ea = self.ea();
        self.b.alu_mem(alu.fused(), value, ea.base, ea.index, ea.mem(bits));
        Some(Flow::Next)
    }

    fn binary_locked(&mut self, alu: Alu, bits: u32, b: Source) -> Lifted {
        let Source::Slot(operand) = b else { return None };
        let op = match alu {
            Alu::Add | Alu::Sub => AtomicOp::Add,
            Alu::And => AtomicOp::And,
            Alu::Or => AtomicOp::Or,
            Alu::Xor => AtomicOp::Xor,
            Alu::Adc | Alu::Sbb => {
                return self.locked(bits, |l, a| {
                    let r = l.result(alu, bits, a, b);
                    (r, Some((alu.kind(), a, operand)))
                });
            }
        };
        let value = if alu == Alu::Sub { self.b.new_imm(Op::Neg64, operand, 0) } else { operand };
        let a = self.atomic(op, bits, value);
        if self.flags_live() {
            let r = self.result(alu, bits, a, b);
            self.record(alu, bits, a, b, r);
        }
        Some(Flow::Next)
    }

    /// A locked read-modify-write by compare and swap of whatever `f` makes of the old value; it is run again as a whole if
    /// another vCPU was faster. `f` also says how flags are recorded: (kind, a, b), with the new value as the result.
    pub(crate) fn locked(
        &mut self,
        bits: u32,
        f: impl FnOnce(&mut Self, Slot) -> (Slot, Option<(Kind, Slot, Slot)>),
    ) -> Lifted {
        let (addr, ea) = self.ea_slot();
        let a = self.load_rmw(ea, bits);
        let (new, flags) = f(self, a);
        let old = self.cas(addr, ea, bits, a, new);
        let lost = self.b.set_rel(Rel::Ne, old, a);
        let pc = self.pc;
        self.b.full(Op::ExitIf, 0, NONE, lost, NONE, pc);
        if let Some((kind, x, y)) = flags
            && self.flags_live()
        {
            self.b.flags(kind, bits as u8, x, y, new);
        }
        Some(Flow::Next)
    }

    fn compare(&mut self) -> Lifted {
        let bits = self.bits(0);
        if !self.flags_live() && !self.is_mem(0) && !self.is_mem(1) {
            return Some(Flow::Next);
        }
        let a = self.read(0);
        let b = self.source(1, bits);
        match b {
            // Subtracting zero carries nothing and overflows nothing: the flags are those of the value.
            Source::Imm(0) => self.b.alu(AluOp::Test, bits, NONE, a, a),
            Source::Imm(v) => self.b.alu_imm(AluOp::Cmp, bits, NONE, a, v),
            Source::Slot(b) => self.b.alu(AluOp::Cmp, bits, NONE, a, b),
        }
        Some(Flow::Next)
    }

    fn test(&mut self) -> Lifted {
        let bits = self.bits(0);
        if !self.flags_live() && !self.is_mem(0) {
            return Some(Flow::Next);
        }
        let a = self.read(0);
        match self.source(1, bits) {
            Source::Imm(v) => self.b.alu_imm(AluOp::Test, bits, NONE, a, v),
            Source::Slot(b) => self.b.alu(AluOp::Test, bits, NONE, a, b),
        }
        Some(Flow::Next)
    }

    /// An operation with one operand that is no high byte, with its flags.
    fn unary(&mut self, op: AluOp, bits: u32) -> Lifted {
        if self.is_mem(0) {
            let ea = self.ea();
            self.b.alu_mem(op, NONE, ea.base, ea.index, ea.mem(bits));
            return Some(Flow::Next);
        }
        let d = self.plain_reg(0)?;
        self.b.alu_imm(op, bits, d, d, 1);
        let clean = if bits < 32 { self.is_clean(d) } else { bits == 32 };
        self.set_clean(d, clean);
        Some(Flow::Next)
    }

    fn increment(&mut self, up: bool) -> Lifted {
        let bits = self.bits(0);
        let (kind, op) = match (up, bits) {
            (true, 64) => (Kind::X86Inc, Op::Add64I),
            (true, _) => (Kind::X86Inc, Op::Add32I),
            (false, 64) => (Kind::X86Dec, Op::Sub64I),
            (false, _) => (Kind::X86Dec, Op::Sub32I),
        };
        if self.is_mem(0) && self.i.has_lock_prefix() {
            let one = self.constant(if up { 1 } else { u64::MAX });
            let a = self.atomic(AtomicOp::Add, bits, one);
            if self.flags_live() {
                let r = self.b.new_imm(op, a, 1);
                let c = self.carry();
                self.b.flags(kind, bits as u8, a, c, r);
            }
            return Some(Flow::Next);
        }
        if !self.flags_live()
            && let Some((r, _)) = self.wide_reg(0)
        {
            self.b.op_imm(op, r, r, 1);
            self.set_clean(r, bits == 32);
            return Some(Flow::Next);
        }
        if self.is_mem(0) || self.plain_reg(0).is_some() {
            return self.unary(if up { AluOp::Inc } else { AluOp::Dec }, bits);
        }
        let a = self.read(0);
        let r = self.b.new_imm(op, a, 1);
        self.set_clean(r, bits < 64);
        if self.flags_live() {
            let c = self.carry();
            self.b.flags(kind, bits as u8, a, c, r);
        }
        self.write(0, r);
        Some(Flow::Next)
    }

    /// Operand `n`, read for a read-modify-write.
    pub(crate) fn read_for_update(&mut self, n: u32) -> Slot {
        if self.is_mem(n) {
            let (ea, bits) = (self.ea(), self.bits(n));
            self.load_rmw(ea, bits)
        } else {
            self.read(n)
        }
    }

    fn negate(&mut self) -> Lifted {
        let bits = self.bits(0);
        let op = if bits == 64 { Op::Neg64 } else { Op::Neg32 };
        let zero = if self.i.has_lock_prefix() || (!self.is_mem(0) && self.plain_reg(0).is_none()) {
            self.constant(0)
        } else {
            NONE
        };
        if self.is_mem(0) && self.i.has_lock_prefix() {
            return self.locked(bits, |l, a| {
                let r = l.b.new_imm(op, a, 0);
                (r, Some((Kind::X86Sub, zero, a)))
            });
        }
        if self.is_mem(0) || self.plain_reg(0).is_some() {
            return self.unary(AluOp::Neg, bits);
        }
        let a = self.read(0);
        let r = self.b.new_imm(op, a, 0);
        self.set_clean(r, bits < 64);
        if self.flags_live() {
            self.b.flags(Kind::X86Sub, bits as u8, zero, a, r);
        }
        self.write(0, r);
        Some(Flow::Next)
    }

    fn not(&mut self) -> Lifted {
        let bits = self.bits(0);
        let op = if bits == 64 { Op::Not } else { Op::Not32 };
        if self.is_mem(0) && self.i.has_lock_prefix() {
            let ones = self.constant(u64::MAX);
            self.atomic(AtomicOp::Xor, bits, ones);
            return Some(Flow::Next);
        }
        let a = self.read_for_update(0);
        let r = self.b.new_imm(op, a, 0);
        self.set_clean(r, bits < 64);
        self.write(0, r);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Cmp => l.compare(),
        Mnemonic::Test => l.test(),
        Mnemonic::Inc => l.increment(true),
        Mnemonic::Dec => l.increment(false),
        Mnemonic::Neg => l.negate(),
        Mnemonic::Not => l.not(),
        m => l.binary(Alu::of(m)?),
    }
}
