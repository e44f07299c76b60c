//! XCHG, XADD, CMPXCHG and its wide forms. With memory they are always done atomically, LOCK prefix or not.

use iced_x86::Mnemonic;
use ir::flags::Kind;
use ir::op::MemRef;
use ir::{AtomicOp, NONE, Op, Rel, Slot};

use super::operand::Ea;
use super::{Flow, Lifted, Lifter};
use crate::flags;
use crate::state::{RAX, RBX, RCX, RDX};

impl Lifter {
    /// The old value (zero-extended) of the memory operand, which `op` has changed.
    pub(crate) fn atomic(&mut self, op: AtomicOp, bits: u32, operand: Slot) -> Slot {
        let (addr, ea) = self.ea_slot();
        let m = ea.mem(bits);
        let d = self.b.temp();
        self.b.full(Op::Atomic, m.aux(), d, addr, operand, m.pack_atomic(op));
        self.set_clean(d, bits <= 32);
        d
    }

    /// Compare and swap at `addr`: the old value, zero-extended.
    pub(crate) fn cas(&mut self, addr: Slot, ea: Ea, bits: u32, expected: Slot, new: Slot) -> Slot {
        let m = ea.mem(bits);
        let d = self.b.temp();
        self.b.full(Op::Cas, m.aux(), d, addr, new, m.pack_cas(expected));
        self.set_clean(d, bits <= 32);
        d
    }

    fn xchg(&mut self) -> Lifted {
        let bits = self.bits(0);
        if self.is_mem(0) {
            let v = self.read(1);
            let old = self.atomic(AtomicOp::Swap, bits, v);
            self.write(1, old);
            return Some(Flow::Next);
        }
        // In registers: both are read before either is written.
        let (a, b) = (self.read(0), self.read(1));
        let a = self.b.new2(Op::Mov, a, NONE);
        let b = self.b.new2(Op::Mov, b, NONE);
        self.write(0, b);
        self.write(1, a);
        Some(Flow::Next)
    }

    fn xadd(&mut self) -> Lifted {
        let bits = self.bits(0);
        let add = if bits == 64 { Op::Add64 } else { Op::Add32 };
        if self.is_mem(0) {
            let v = self.read(1);
            let old = self.atomic(AtomicOp::Add, bits, v);
            if self.flags_live() {
                let r = self.b.new2(add, old, v);
                self.b.flags(Kind::X86Add, bits as u8, old, v, r);
            }
            self.write(1, old);
            return Some(Flow::Next);
        }
        let (a, b) = (self.read(0), self.read(1));
        let a = self.b.new2(Op::Mov, a, NONE);
        let r = self.b.new2(add, a, b);
        self.b.flags(Kind::X86Add, bits as u8, a, b, r);
        // The sum goes to the first operand even if both name the same register.
        self.write(1, a);
        self.write(0, r);
        Some(Flow::Next)
    }

    fn cmpxchg(&mut self) -> Lifted {
        let bits = self.bits(0);
        let new = self.read(1);
        let old = if self.is_mem(0) {
            let (addr, ea) = self.ea_slot();
            self.cas(addr, ea, bits, RAX, new)
        } else {
            let v = self.read(0);
            self.b.new2(Op::Mov, v, NONE)
        };
        let (x, y) = (self.zext(RAX, bits), self.zext(old, bits));
        let equal = self.b.set_rel(Rel::Eq, x, y);
        // The flags compare the accumulator with the destination.
        let r = self.b.new2(Op::Sub64, x, y);
        self.b.flags(Kind::X86Sub, bits as u8, x, y, r);
        let keep = self.b.new2(Op::Mov, RAX, NONE);
        if !self.is_mem(0) {
            // Equal: the destination takes the source; else it keeps its value, all 64 bits of it.
            match self.wide_reg(0) {
                Some((d, bits)) => {
                    let new = self.zext(new, bits);
                    let v = self.select(equal, new, d);
                    self.b.op(Op::Mov, d, v, NONE);
                    self.set_clean(d, false);
                }
                None => {
                    let v = self.select(equal, new, old);
                    self.write(0, v);
                }
            }
        }
        if bits >= 32 {
            // The accumulator is written only if the comparison failed.
            let v = self.select(equal, keep, y);
            self.b.op(Op::Mov, RAX, v, NONE);
            self.set_clean(RAX, false);
            if !self.is_mem(0) && super::operand::gpr_of(self.i.op0_register()) == RAX {
                // The destination is the accumulator, so they are equal: the source was stored.
                let v = self.zext(new, bits);
                self.b.op(Op::Mov, RAX, v, NONE);
            }
        } else {
            let t = self.b.temp();
            self.b.full(Op::Deposit, 0, t, RAX, old, u64::from(bits) << 8);
            if self.is_mem(0) || super::operand::gpr_of(self.i.op0_register()) != RAX {
                self.b.op(Op::Mov, RAX, t, NONE);
            } else {
                // AL, AH or AX itself is the destination.
                let v = self.select(equal, RAX, t);
                self.b.op(Op::Mov, RAX, v, NONE);
            }
        }
        Some(Flow::Next)
    }

    /// `cond != 0 ? a : b` in a temporary.
    pub(crate) fn select(&mut self, cond: Slot, a: Slot, b: Slot) -> Slot {
        let t = self.b.temp();
        self.b.full(Op::Select, 0, t, cond, a, u64::from(b.0));
        t
    }

    /// Set ZF to `bit` (0 or 1) and leave the other flags.
    fn set_zf(&mut self, bit: Slot) {
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = self.b.new_imm(Op::AndI, f, !flags::ZF);
        let z = self.b.new_imm(Op::Shl64I, bit, 6);
        let f = self.b.new2(Op::Or, f, z);
        self.b.flags(Kind::X86Explicit, 64, NONE, NONE, f);
    }

    /// `high:low` of two registers' low halves.
    fn pair32(&mut self, high: Slot, low: Slot) -> Slot {
        let h = self.b.new_imm(Op::Shl64I, high, 32);
        let l = self.zext(low, 32);
        self.b.new2(Op::Or, h, l)
    }

    fn cmpxchg8b(&mut self) -> Lifted {
        let expected = self.pair32(RDX, RAX);
        let new = self.pair32(RCX, RBX);
        let (addr, ea) = self.ea_slot();
        let old = self.cas(addr, ea, 64, expected, new);
        let equal = self.b.set_rel(Rel::Eq, old, expected);
        let low = self.b.new_imm(Op::Zext32, old, 0);
        let high = self.b.new_imm(Op::Shr64I, old, 32);
        for (r, v) in [(RAX, low), (RDX, high)] {
            let v = self.select(equal, r, v);
            self.b.op(Op::Mov, r, v, NONE);
            self.set_clean(r, false);
        }
        self.set_zf(equal);
        Some(Flow::Next)
    }

    fn cmpxchg16b(&mut self) -> Lifted {
        let (old, new) = (self.b.temp128(), self.b.temp128());
        let high = |s: Slot| Slot(s.0 + 1);
        for (d, s) in [(old, RAX), (high(old), RDX), (new, RBX), (high(new), RCX)] {
            self.b.op(Op::Mov, d, s, NONE);
        }
        let (addr, ea) = self.ea_slot();
        let m = MemRef { aligned: true, ..ea.mem(128) };
        self.b.full(Op::Cas128, m.aux(), old, addr, new, m.imm());
        let a = self.b.set_rel(Rel::Eq, old, RAX);
        let b = self.b.set_rel(Rel::Eq, high(old), RDX);
        let equal = self.b.new2(Op::And, a, b);
        // If they were equal, the old value is what the registers hold.
        for (r, v) in [(RAX, old), (RDX, high(old))] {
            self.b.op(Op::Mov, r, v, NONE);
            self.set_clean(r, false);
        }
        self.set_zf(equal);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Xchg => l.xchg(),
        Mnemonic::Xadd => l.xadd(),
        Mnemonic::Cmpxchg => l.cmpxchg(),
        Mnemonic::Cmpxchg8b => l.cmpxchg8b(),
        Mnemonic::Cmpxchg16b => l.cmpxchg16b(),
        _ => None,
    }
}
