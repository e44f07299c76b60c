//! Decimal adjustment, SALC and BOUND: instructions that 64-bit code does not have.

use iced_x86::Mnemonic;
use ir::{NONE, Op, Rel, Slot};

use super::{Flow, Lifted, Lifter};
use crate::exception;
use crate::helpers::Helper;

impl Lifter {
    fn bound(&mut self) -> Lifted {
        let bits = self.bits(0);
        let v = self.read(0);
        let v = self.sext(v, bits);
        let ea = self.ea();
        let low = self.load(ea, bits);
        let low = self.sext(low, bits);
        let below = self.b.set_rel(Rel::Lts, v, low);
        self.out_of_range(below);
        let ea = self.advance(ea, (bits / 8) as i32);
        let high = self.load(ea, bits);
        let high = self.sext(high, bits);
        let above = self.b.set_rel(Rel::Lts, high, v);
        self.out_of_range(above);
        Some(Flow::Next)
    }

    fn out_of_range(&mut self, out: Slot) {
        let inside = self.b.skip_if_zero(out);
        self.b.full(Op::Raise, exception::BR, NONE, NONE, NONE, 0);
        self.b.close(inside);
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    if l.code64() {
        return None;
    }
    match l.i.mnemonic() {
        Mnemonic::Daa => l.call(NONE, Helper::Daa, NONE, NONE, 0),
        Mnemonic::Das => l.call(NONE, Helper::Daa, NONE, NONE, 1),
        Mnemonic::Aaa => l.call(NONE, Helper::Aaa, NONE, NONE, 0),
        Mnemonic::Aas => l.call(NONE, Helper::Aaa, NONE, NONE, 1),
        Mnemonic::Aam => {
            let base = u32::from(l.i.immediate8());
            l.call(NONE, Helper::Aam, NONE, NONE, base);
        }
        Mnemonic::Aad => {
            let base = u32::from(l.i.immediate8());
            l.call(NONE, Helper::Aad, NONE, NONE, base);
        }
        Mnemonic::Salc => {
            // AL = CF ? FFh : 0. Not in the manuals, in every processor.
            let c = l.carry();
            let v = l.b.new_imm(Op::Neg64, c, 0);
            l.write_gpr(crate::state::RAX, v, 8);
        }
        Mnemonic::Bound => return l.bound(),
        _ => return None,
    }
    Some(Flow::Next)
}
