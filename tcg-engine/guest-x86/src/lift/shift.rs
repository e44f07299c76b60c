//! Shifts and rotates.
//!
//! A count of zero leaves every flag alone, so a variable count records its flags behind a skip. Rotates change CF and OF
//! only; where nobody sees them they are one operation.

use iced_x86::Mnemonic;
use ir::flags::Kind;
use ir::{AluOp, NONE, Op, Slot};

use super::{Flow, Lifted, Lifter};
use crate::flags;
use crate::helpers::Helper;
use crate::state::RCX;

/// A shift count: masked already.
#[derive(Clone, Copy)]
enum Count {
    Imm(u64),
    Slot(Slot),
}

impl Lifter {
    /// The count in operand `n`, masked to the operand size.
    fn count(&mut self, n: u32, bits: u32) -> Count {
        let mask = if bits == 64 { 63 } else { 31 };
        if self.i.op_count() <= n {
            return Count::Imm(1);
        }
        match self.imm(n) {
            Some(v) => Count::Imm(v & mask),
            None => Count::Slot(self.b.new_imm(Op::AndI, RCX, mask)),
        }
    }

    fn count_slot(&mut self, c: Count) -> Slot {
        match c {
            Count::Imm(v) => self.constant(v),
            Count::Slot(s) => s,
        }
    }

    /// `d = a op count`, by the immediate or the variable form.
    fn shifted(&mut self, d: Slot, a: Slot, c: Count, imm: Op, var: Op) {
        match c {
            Count::Imm(v) => self.b.op_imm(imm, d, a, v),
            Count::Slot(s) => self.b.op(var, d, a, s),
        }
    }

    /// Write the result to operand 0 and record flags with `record` unless the count is zero. Memory is written first, since
    /// it may fault; a register last, since flags need its old value.
    fn finish_shift(&mut self, c: Count, r: Slot, record: impl FnOnce(&mut Self)) {
        if self.is_mem(0) {
            self.write(0, r);
        }
        if self.flags_live() {
            match c {
                Count::Imm(0) => {}
                Count::Imm(_) => record(self),
                Count::Slot(s) => {
                    let skip = self.b.skip_if_zero(s);
                    record(self);
                    self.b.close(skip);
                }
            }
        }
        if !self.is_mem(0) {
            self.write(0, r);
        }
    }

    fn shift(&mut self, kind: Kind) -> Lifted {
        let bits = self.bits(0);
        if self.flags_live()
            && let Some(d) = self.plain_reg(0)
        {
            return self.shift_register(kind, bits, d);
        }
        let c = self.count(1, bits);
        let (imm, var) = match (kind, bits) {
            (Kind::X86Shl, 64) => (Op::Shl64I, Op::Shl64),
            (Kind::X86Shl, 32) => (Op::Shl32I, Op::Shl32),
            (Kind::X86Shr, 32) => (Op::Shr32I, Op::Shr32),
            (Kind::X86Sar, 32) => (Op::Sar32I, Op::Sar32),
            (Kind::X86Shl, _) => (Op::Shl64I, Op::Shl64),
            (Kind::X86Shr, _) => (Op::Shr64I, Op::Shr64),
            _ => (Op::Sar64I, Op::Sar64),
        };
        if !self.flags_live()
            && let Some((d, _)) = self.wide_reg(0)
        {
            self.shifted(d, d, c, imm, var);
            self.set_clean(d, bits == 32);
            return Some(Flow::Next);
        }
        let a = self.read_for_update(0);
        let a = match kind {
            _ if bits >= 32 => a,
            Kind::X86Sar => self.sext(a, bits),
            _ => self.zext(a, bits),
        };
        let r = self.b.temp();
        self.shifted(r, a, c, imm, var);
        self.set_clean(r, bits == 32);
        self.finish_shift(c, r, |l| {
            let n = l.count_slot(c);
            l.b.flags(kind, bits as u8, a, n, r);
        });
        Some(Flow::Next)
    }

    /// A register shifted with its flags.
    fn shift_register(&mut self, kind: Kind, bits: u32, d: Slot) -> Lifted {
        let op = match kind {
            Kind::X86Shl => AluOp::Shl,
            Kind::X86Shr => AluOp::Shr,
            _ => AluOp::Sar,
        };
        self.turn_register(op, bits, d)
    }

    /// A register shifted or rotated with its flags.
    fn turn_register(&mut self, op: AluOp, bits: u32, d: Slot) -> Lifted {
        let mask = if bits == 64 { 63 } else { 31 };
        let clean = if bits < 32 { self.is_clean(d) } else { bits == 32 };
        match if self.i.op_count() < 2 { Some(1) } else { self.imm(1) } {
            Some(v) if v & mask == 0 && bits != 32 => return Some(Flow::Next),
            Some(v) => self.b.alu_imm(op, bits, d, d, v & mask),
            None => self.b.alu(op, bits, d, d, RCX),
        }
        self.set_clean(d, clean);
        Some(Flow::Next)
    }

    fn rotate(&mut self, right: bool) -> Lifted {
        let bits = self.bits(0);
        if self.flags_live()
            && let Some(d) = self.plain_reg(0)
        {
            return self.turn_register(if right { AluOp::Ror } else { AluOp::Rol }, bits, d);
        }
        let c = self.count(1, bits);
        let a = self.read_for_update(0);
        // Narrow values are repeated through 32 bits, so that a 32-bit rotation rotates each of them.
        let wide = match bits {
            16 => {
                let z = self.zext(a, 16);
                let high = self.b.new_imm(Op::Shl64I, z, 16);
                self.b.new2(Op::Or, z, high)
            }
            8 => {
                let z = self.zext(a, 8);
                let ones = self.constant(0x0101_0101);
                self.b.new2(Op::Mul32, z, ones)
            }
            _ => a,
        };
        let width = if bits == 64 { 64 } else { 32 };
        let (imm, var) = if bits == 64 { (Op::Rotl64I, Op::Rotl64) } else { (Op::Rotl32I, Op::Rotl32) };
        let left = match c {
            Count::Imm(v) if right => Count::Imm((width - v) & (width - 1)),
            Count::Slot(s) if right => Count::Slot(self.b.new_imm(Op::Neg64, s, 0)),
            c => c,
        };
        let r = match self.wide_reg(0) {
            Some((d, _)) if !self.flags_live() => d,
            _ => self.b.temp(),
        };
        self.shifted(r, wide, left, imm, var);
        self.set_clean(r, bits < 64);
        if self.wide_reg(0).is_some_and(|(d, _)| d == r) {
            return Some(Flow::Next);
        }
        self.finish_shift(c, r, |l| {
            let msb = l.b.new_imm(Op::Shr64I, r, u64::from(bits) - 1);
            let (cf, of) = if right {
                let below = l.b.new_imm(Op::Shr64I, r, u64::from(bits) - 2);
                (msb, l.b.new2(Op::Xor, msb, below))
            } else {
                (r, l.b.new2(Op::Xor, msb, r))
            };
            l.set_cf_of(cf, of);
        });
        Some(Flow::Next)
    }

    /// Set CF and OF to the lowest bits of two slots, and leave the other flags.
    fn set_cf_of(&mut self, cf: Slot, of: Slot) {
        let cf = self.b.new_imm(Op::AndI, cf, 1);
        let of = self.b.new_imm(Op::AndI, of, 1);
        let of = self.b.new_imm(Op::Shl64I, of, 11);
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = self.b.new_imm(Op::AndI, f, !(flags::CF | flags::OF));
        let f = self.b.new2(Op::Or, f, cf);
        let f = self.b.new2(Op::Or, f, of);
        self.b.flags(Kind::X86Explicit, 64, NONE, NONE, f);
    }

    /// RCL, RCR: by helpers, one for the value and one for the flags, so that a store can fault in between.
    fn rotate_carry(&mut self, right: bool) -> Lifted {
        let bits = self.bits(0);
        let c = self.count(1, bits);
        let n = self.count_slot(c);
        let a = self.read_for_update(0);
        let a = self.zext(a, bits);
        let imm = bits | u32::from(right) << 8;
        let r = self.call_value(Helper::RotateCarry, a, n, imm);
        self.set_clean(r, bits <= 32);
        if self.is_mem(0) {
            self.write(0, r);
        }
        // A register still holds the old value here.
        self.call(NONE, Helper::RotateCarryFlags, a, n, imm);
        if !self.is_mem(0) {
            self.write(0, r);
        }
        Some(Flow::Next)
    }

    /// SHLD, SHRD.
    fn double(&mut self, right: bool) -> Lifted {
        let bits = self.bits(0);
        let c = self.count(2, bits);
        let n = self.count_slot(c);
        let src = self.read(1);
        let a = self.read_for_update(0);
        let r = match (bits, right) {
            (64, _) => self.double64(a, src, n, right),
            (_, false) => {
                let t = self.concat(a, src, a, bits);
                let t = self.b.new2(Op::Shl64, t, n);
                self.b.new_imm(Op::Shr64I, t, 32)
            }
            (_, true) => {
                let t = if bits == 32 { self.concat(src, a, a, 32) } else { self.concat(a, src, a, 16) };
                self.b.new2(Op::Shr64, t, n)
            }
        };
        self.finish_shift(c, r, |l| {
            if !right {
                l.b.flags(Kind::X86Shl, bits as u8, a, n, r);
                return;
            }
            l.b.flags(Kind::X86Shr, bits as u8, a, n, r);
            // OF: the sign has changed.
            let x = l.b.new2(Op::Xor, a, r);
            let of = l.b.new_imm(Op::Shr64I, x, u64::from(bits) - 1);
            let f = l.b.new2(Op::FlagsGet, NONE, NONE);
            l.set_cf_of(f, of);
        });
        Some(Flow::Next)
    }

    /// `high << 32 | low` for 32 bits; `high << 32 | low << 16 | again` for 16 bits (counts beyond 16 rotate through the
    /// destination, as processors do; the manual leaves them undefined).
    fn concat(&mut self, high: Slot, low: Slot, again: Slot, bits: u32) -> Slot {
        let h = self.b.new_imm(Op::Shl64I, high, 32);
        let l = self.zext(low, bits);
        if bits == 32 {
            return self.b.new2(Op::Or, h, l);
        }
        let h = self.b.new_imm(Op::AndI, h, 0xffff_0000_0000);
        let l = self.b.new_imm(Op::Shl64I, l, 16);
        let a = self.zext(again, bits);
        let l = self.b.new2(Op::Or, l, a);
        self.b.new2(Op::Or, h, l)
    }

    fn double64(&mut self, a: Slot, src: Slot, n: Slot, right: bool) -> Slot {
        // 63 - n, for the other operand, which is shifted by one more.
        let rest = self.b.new_imm(Op::XorI, n, 63);
        let (main, other, one) =
            if right { (Op::Shr64, Op::Shl64, Op::Shl64I) } else { (Op::Shl64, Op::Shr64, Op::Shr64I) };
        let x = self.b.new2(main, a, n);
        let y = self.b.new_imm(one, src, 1);
        let y = self.b.new2(other, y, rest);
        self.b.new2(Op::Or, x, y)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => l.shift(Kind::X86Shl),
        Mnemonic::Shr => l.shift(Kind::X86Shr),
        Mnemonic::Sar => l.shift(Kind::X86Sar),
        Mnemonic::Rol => l.rotate(false),
        Mnemonic::Ror => l.rotate(true),
        Mnemonic::Rcl => l.rotate_carry(false),
        Mnemonic::Rcr => l.rotate_carry(true),
        Mnemonic::Shld => l.double(false),
        Mnemonic::Shrd => l.double(true),
        _ => None,
    }
}
