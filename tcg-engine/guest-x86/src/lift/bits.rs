//! Bit tests and scans, POPCNT, CRC32.

use iced_x86::Mnemonic;
use ir::flags::Kind;
use ir::{AluOp, AtomicOp, NONE, Op, Rel, Slot};

use super::operand::Ea;
use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;

impl Lifter {
    /// For a memory operand and a bit number in a register: the word that holds the bit, which may be anywhere around.
    fn bit_word(&mut self, offset: Slot, bits: u32) {
        let ea = self.offset_part();
        let base = if ea.base == NONE && ea.index == NONE {
            self.constant(i64::from(ea.disp) as u64)
        } else {
            let t = self.b.temp();
            self.b.full(Op::Lea, ea.scale, t, ea.base, ea.index, i64::from(ea.disp) as u64);
            t
        };
        let offset = self.sext(offset, bits);
        let words = self.b.new_imm(Op::Sar64I, offset, u64::from(bits.trailing_zeros()));
        let scale = (bits / 8).trailing_zeros() as u8;
        let t = self.b.temp();
        let op = match self.address_bits() {
            64 => Op::Lea,
            32 => Op::Lea32,
            _ => Op::Lea16,
        };
        // The offset wraps at the address size; the base of FS or GS comes after.
        self.b.full(op, scale, t, base, words, 0);
        let ea = Ea { base: t, index: NONE, scale: 0, disp: 0, ..ea };
        self.ea = Some(match self.segment() {
            Some(s) => self.in_segment(ea, s),
            None => ea,
        });
    }

    fn bit_test(&mut self) -> Lifted {
        let bits = self.bits(0);
        let n = match self.imm(1) {
            Some(v) => self.constant(v & u64::from(bits - 1)),
            None => {
                let offset = self.read(1);
                if self.is_mem(0) {
                    self.bit_word(offset, bits);
                }
                self.b.new_imm(Op::AndI, offset, u64::from(bits - 1))
            }
        };
        let op = match self.i.mnemonic() {
            Mnemonic::Bts => Some((AtomicOp::Or, Op::Or)),
            Mnemonic::Btr => Some((AtomicOp::AndNot, Op::AndNot)),
            Mnemonic::Btc => Some((AtomicOp::Xor, Op::Xor)),
            _ => None,
        };
        let Some((atomic, plain)) = op else {
            let a = self.read(0);
            self.b.alu(AluOp::Bt, bits, NONE, a, n);
            return Some(Flow::Next);
        };
        let one = self.constant(1);
        let mask = self.b.new2(Op::Shl64, one, n);
        if self.is_mem(0) && self.i.has_lock_prefix() {
            let old = self.atomic(atomic, bits, mask);
            if self.flags_live() {
                self.b.alu(AluOp::Bt, bits, NONE, old, n);
            }
            return Some(Flow::Next);
        }
        let a = self.read_for_update(0);
        let r = self.b.new2(plain, a, mask);
        if self.is_mem(0) {
            self.write(0, r);
        }
        if self.flags_live() {
            self.b.alu(AluOp::Bt, bits, NONE, a, n);
        }
        if !self.is_mem(0) {
            self.write(0, r);
        }
        Some(Flow::Next)
    }

    fn scan(&mut self, reverse: bool) -> Lifted {
        let bits = self.bits(1);
        let v = self.read_zx(1);
        let zero = self.b.temp();
        self.b.full(Op::SetRelI, Rel::Eq as u8, zero, v, NONE, 0);
        let n = self.b.temp();
        self.b.full(if reverse { Op::Clz } else { Op::Ctz }, bits as u8, n, v, NONE, 0);
        // All sizes are powers of two, so `bits - 1 - clz` is an exclusive or.
        let n = if reverse { self.b.new_imm(Op::XorI, n, u64::from(bits - 1)) } else { n };
        if self.flags_live() {
            self.b.flags(Kind::X86Logic, bits as u8, NONE, NONE, v);
        }
        // With nothing found the destination keeps its value, as processors do.
        let d = super::operand::gpr_of(self.i.op0_register());
        if bits == 16 {
            let t = self.select(zero, d, n);
            self.write_gpr(d, t, 16);
        } else {
            let t = self.select(zero, d, n);
            let clean = self.is_clean(d);
            self.b.op(Op::Mov, d, t, NONE);
            self.set_clean(d, clean);
        }
        Some(Flow::Next)
    }

    fn popcnt(&mut self) -> Lifted {
        let v = self.read_zx(1);
        let n = self.b.new_imm(Op::Popcnt, v, 0);
        self.set_clean(n, true);
        if self.flags_live() {
            let z = self.b.temp();
            self.b.full(Op::SetRelI, Rel::Eq as u8, z, v, NONE, 0);
            let f = self.b.new_imm(Op::Shl64I, z, 6);
            self.b.flags(Kind::X86Explicit, 64, NONE, NONE, f);
        }
        self.write(0, n);
        Some(Flow::Next)
    }

    fn crc32(&mut self) -> Lifted {
        let bits = self.bits(1);
        let v = self.read(1);
        let crc = self.read(0);
        let r = self.call_value(Helper::Crc32, crc, v, bits);
        self.set_clean(r, true);
        self.write(0, r);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => l.bit_test(),
        Mnemonic::Bsf => l.scan(false),
        Mnemonic::Bsr => l.scan(true),
        Mnemonic::Popcnt => l.popcnt(),
        Mnemonic::Crc32 => l.crc32(),
        _ => None,
    }
}
