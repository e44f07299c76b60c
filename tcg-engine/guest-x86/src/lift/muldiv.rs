//! Multiplication and division.

use iced_x86::Mnemonic;
use ir::flags::Kind;
use ir::{NONE, Op, Rel, Slot};

use super::{Flow, Lifted, Lifter};
use crate::exception;
use crate::helpers::Helper;
use crate::state::{RAX, RDX};

impl Lifter {
    /// One-operand MUL and IMUL: the double-width product into AX or rDX:rAX.
    fn multiply_wide(&mut self, signed: bool) -> Lifted {
        let bits = self.bits(0);
        let src = self.read(0);
        if bits == 64 {
            let low = self.b.new2(Op::Mul64, RAX, src);
            let high = self.b.new2(if signed { Op::MulHiS64 } else { Op::MulHiU64 }, RAX, src);
            if self.flags_live() {
                let over = self.overflow(low, high, signed);
                self.b.flags(Kind::X86Mul, 64, over, NONE, low);
            }
            self.write_gpr(RAX, low, 64);
            self.write_gpr(RDX, high, 64);
            return Some(Flow::Next);
        }
        // Narrow products fit 64 bits.
        let (a, b) = if signed {
            (self.sext(RAX, bits), self.sext(src, bits))
        } else {
            (self.zext(RAX, bits), self.zext(src, bits))
        };
        let p = self.b.new2(Op::Mul64, a, b);
        if self.flags_live() {
            let fits = if signed { self.sext(p, bits) } else { self.zext(p, bits) };
            let over = self.b.set_rel(Rel::Ne, fits, p);
            self.b.flags(Kind::X86Mul, bits as u8, over, NONE, p);
        }
        if bits == 8 {
            self.write_gpr(RAX, p, 16);
        } else {
            let high = self.b.new_imm(Op::Shr64I, p, u64::from(bits));
            self.write_gpr(RAX, p, bits);
            self.write_gpr(RDX, high, bits);
        }
        Some(Flow::Next)
    }

    /// 1 if the high half of a 64-bit product is more than the extension of the low one.
    fn overflow(&mut self, low: Slot, high: Slot, signed: bool) -> Slot {
        if signed {
            let sign = self.b.new_imm(Op::Sar64I, low, 63);
            self.b.set_rel(Rel::Ne, high, sign)
        } else {
            let t = self.b.temp();
            self.b.full(Op::SetRelI, Rel::Ne as u8, t, high, NONE, 0);
            t
        }
    }

    /// IMUL with two or three operands: a single-width product.
    fn multiply(&mut self) -> Lifted {
        let bits = self.bits(0);
        let three = self.i.op_count() == 3;
        let a = if three { self.read(1) } else { self.read(0) };
        let b = if three { self.read(2) } else { self.read(1) };
        let live = self.flags_live();
        if let Some((d, bits)) = self.wide_reg(0)
            && !live
        {
            self.b.op(if bits == 64 { Op::Mul64 } else { Op::Mul32 }, d, a, b);
            self.set_clean(d, bits == 32);
            return Some(Flow::Next);
        }
        if bits == 64 {
            let low = self.b.new2(Op::Mul64, a, b);
            let high = self.b.new2(Op::MulHiS64, a, b);
            let over = self.overflow(low, high, true);
            self.b.flags(Kind::X86Mul, 64, over, NONE, low);
            self.write(0, low);
            return Some(Flow::Next);
        }
        let (a, b) = (self.sext(a, bits), self.sext(b, bits));
        let p = self.b.new2(Op::Mul64, a, b);
        if live {
            let fits = self.sext(p, bits);
            let over = self.b.set_rel(Rel::Ne, fits, p);
            self.b.flags(Kind::X86Mul, bits as u8, over, NONE, p);
        }
        self.write(0, p);
        Some(Flow::Next)
    }

    fn divide(&mut self, h: Helper) -> Lifted {
        let bits = self.bits(0);
        let v = self.read(0);
        if bits >= 32 {
            let signed = if h == Helper::Idiv { 0x80 } else { 0 };
            let aux = if bits == 64 { 3 } else { 2 } | signed;
            self.b.full(Op::Divide, aux, RAX, v, RDX, exception::DE.into());
            for r in [RAX, RDX] {
                self.set_clean(r, bits == 32);
            }
            return Some(Flow::Next);
        }
        self.call(NONE, h, v, NONE, bits);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Mul => l.multiply_wide(false),
        Mnemonic::Imul if l.i.op_count() == 1 => l.multiply_wide(true),
        Mnemonic::Imul => l.multiply(),
        Mnemonic::Div => l.divide(Helper::Div),
        Mnemonic::Idiv => l.divide(Helper::Idiv),
        _ => None,
    }
}
