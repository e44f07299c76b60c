//! The stack: PUSH, POP and their many forms, PUSHF and POPF, ENTER and LEAVE.
//!
//! The stack pointer moves after the last access of an instruction, so that a fault finds it unchanged.

use iced_x86::{Mnemonic, OpKind};
use ir::{NONE, Op, Slot};

use super::operand::{Ea, gpr_of, seg_of};
use super::{Flow, Lifted, Lifter};
use crate::cpu::event;
use crate::flags;
use crate::helpers::Helper;
use crate::memory::FLAT;
use crate::mode::Mode;
use crate::state::{EFLAGS, RBP, RSP, Seg, gpr};

impl Lifter {
    /// Width of the stack pointer in bits.
    pub(crate) fn stack_bits(&self) -> u32 {
        if self.code64() {
            64
        } else if self.mode.contains(Mode::STACK32) {
            32
        } else {
            16
        }
    }

    /// The stack operand at `base + disp`, where `base` holds a stack offset (RSP or RBP).
    pub(crate) fn stack_ea(&mut self, base: Slot, disp: i32) -> Ea {
        let mut ea = Ea { base, index: NONE, scale: 0, disp, space: FLAT, wrap: 0, stack: true };
        match self.stack_bits() {
            64 => {}
            32 => ea.wrap = 1,
            _ => {
                let t = self.b.temp();
                self.b.full(Op::Lea16, 0, t, base, NONE, i64::from(disp) as u64);
                (ea.base, ea.disp) = (t, 0);
            }
        }
        self.in_segment(ea, Seg::Ss)
    }

    /// Add to the stack pointer.
    pub(crate) fn move_sp(&mut self, by: i32) {
        let by = i64::from(by) as u64;
        match self.stack_bits() {
            64 => self.b.op_imm(Op::Add64I, RSP, RSP, by),
            32 => self.b.op_imm(Op::Add32I, RSP, RSP, by),
            _ => {
                let t = self.b.new_imm(Op::Add64I, RSP, by);
                self.write_gpr(RSP, t, 16);
            }
        }
        self.set_clean(RSP, self.stack_bits() == 32);
    }

    /// Push the low `bytes` of `v`.
    pub(crate) fn push_value(&mut self, v: Slot, bytes: u32) {
        let ea = self.stack_ea(RSP, -(bytes as i32));
        self.store(v, ea, bytes * 8);
        self.move_sp(-(bytes as i32));
    }

    /// What POP gives; the stack pointer is not moved yet.
    pub(crate) fn top(&mut self, bytes: u32) -> Slot {
        let ea = self.stack_ea(RSP, 0);
        self.load(ea, bytes * 8)
    }

    fn stack_bytes(&self) -> u32 {
        self.i.stack_pointer_increment().unsigned_abs()
    }

    fn push(&mut self) -> Lifted {
        let bytes = self.stack_bytes();
        let v = if self.i.op0_kind() == OpKind::Register
            && let Some(s) = seg_of(self.i.op0_register())
        {
            let v = self.selector(s);
            if bytes == 4 {
                // The stack moves by four bytes, of which two are written (SDM vol. 2B, PUSH).
                let ea = self.stack_ea(RSP, -4);
                self.store(v, ea, 16);
                self.move_sp(-4);
                return Some(Flow::Next);
            }
            v
        } else {
            self.read(0)
        };
        self.push_value(v, bytes);
        Some(Flow::Next)
    }

    fn pop(&mut self) -> Lifted {
        let bytes = self.stack_bytes();
        if self.i.op0_kind() == OpKind::Register {
            let r = self.i.op0_register();
            if let Some(s) = seg_of(r) {
                return self.pop_segment(s, bytes);
            }
            if gpr_of(r) != RSP
                && let Some((d, bits)) = self.wide_reg(0)
            {
                let ea = self.stack_ea(RSP, 0);
                self.load_into(d, ea, bits);
                self.move_sp(bytes as i32);
                return Some(Flow::Next);
            }
            let v = self.top(bytes);
            self.move_sp(bytes as i32);
            self.write_reg(r, v);
            return Some(Flow::Next);
        }
        let v = self.top(bytes);
        self.pop_bias = i64::from(bytes as i32);
        let ea = self.ea();
        self.store(v, ea, bytes * 8);
        self.move_sp(bytes as i32);
        Some(Flow::Next)
    }

    fn pop_segment(&mut self, s: Seg, bytes: u32) -> Lifted {
        // The stack moves by the operand size, but only the selector is read.
        let v = self.top(2);
        self.call(NONE, Helper::LoadSegment, v, NONE, s as u32);
        self.move_sp(bytes as i32);
        if s == Seg::Ss { self.exit_event(event::SHADOW) } else { self.exit_next() }
    }

    fn pusha(&mut self, bytes: u32) -> Lifted {
        for n in 0..8 {
            let ea = self.stack_ea(RSP, -(bytes as i32) * (n as i32 + 1));
            self.store(gpr(n), ea, bytes * 8);
        }
        self.move_sp(-8 * bytes as i32);
        Some(Flow::Next)
    }

    fn popa(&mut self, bytes: u32) -> Lifted {
        // From the top of the stack on: rDI first.
        let values: Vec<Slot> = (0..8)
            .map(|n| {
                let ea = self.stack_ea(RSP, bytes as i32 * n);
                self.load(ea, bytes * 8)
            })
            .collect();
        self.move_sp(8 * bytes as i32);
        for (n, v) in values.into_iter().rev().enumerate() {
            if gpr(n) != RSP {
                self.write_gpr(gpr(n), v, bytes * 8);
            }
        }
        Some(Flow::Next)
    }

    fn pushf(&mut self, bytes: u32) -> Lifted {
        if self.mode.contains(Mode::V86) {
            self.call(NONE, Helper::CheckV86, NONE, NONE, 0);
        }
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = self.b.new2(Op::Or, f, EFLAGS);
        let f = self.b.new_imm(Op::AndI, f, !(flags::RF | flags::VM));
        self.push_value(f, bytes);
        Some(Flow::Next)
    }

    fn popf(&mut self, bytes: u32) -> Lifted {
        if self.mode.contains(Mode::V86) {
            self.call(NONE, Helper::CheckV86, NONE, NONE, 0);
        }
        let v = self.top(bytes);
        self.move_sp(bytes as i32);
        self.call(NONE, Helper::Popf, v, NONE, bytes);
        self.exit_next()
    }

    fn enter(&mut self) -> Lifted {
        let bytes = match self.i.mnemonic() {
            _ if self.code64() && self.i.code() != iced_x86::Code::Enterw_imm16_imm8 => 8u32,
            _ if self.i.code() == iced_x86::Code::Enterw_imm16_imm8 => 2,
            _ => 4,
        };
        let (size, level) = (self.i.immediate16(), u32::from(self.i.immediate8_2nd()) & 31);
        if level > 0 {
            // Nested frames: the helper does all of it.
            let size = self.constant(u64::from(size));
            self.call(NONE, Helper::Enter, size, NONE, level | bytes << 8);
            return Some(Flow::Next);
        }
        let ea = self.stack_ea(RSP, -(bytes as i32));
        self.store(RBP, ea, bytes * 8);
        let frame = self.b.new_imm(Op::Sub64I, RSP, u64::from(bytes));
        let down = -(i32::from(size) + bytes as i32);
        // The new top must be writable, though nothing is written there.
        let top = self.stack_ea(RSP, down);
        self.load_rmw(top, bytes * 8);
        self.move_sp(down);
        self.write_gpr(RBP, frame, bytes * 8);
        Some(Flow::Next)
    }

    fn leave(&mut self) -> Lifted {
        let bytes = self.stack_bytes_of_leave();
        let ea = self.stack_ea(RBP, 0);
        let v = self.load(ea, bytes * 8);
        let bits = self.stack_bits();
        let sp = self.b.new_imm(Op::Add64I, RBP, u64::from(bytes));
        self.write_gpr(RSP, sp, bits);
        self.write_gpr(RBP, v, bytes * 8);
        Some(Flow::Next)
    }

    fn stack_bytes_of_leave(&self) -> u32 {
        match self.i.code() {
            iced_x86::Code::Leavew => 2,
            iced_x86::Code::Leaved => 4,
            _ => 8,
        }
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Push => l.push(),
        Mnemonic::Pop => l.pop(),
        Mnemonic::Pusha => l.pusha(2),
        Mnemonic::Pushad => l.pusha(4),
        Mnemonic::Popa => l.popa(2),
        Mnemonic::Popad => l.popa(4),
        Mnemonic::Pushf => l.pushf(2),
        Mnemonic::Pushfd => l.pushf(4),
        Mnemonic::Pushfq => l.pushf(8),
        Mnemonic::Popf => l.popf(2),
        Mnemonic::Popfd => l.popf(4),
        Mnemonic::Popfq => l.popf(8),
        Mnemonic::Enter => l.enter(),
        Mnemonic::Leave => l.leave(),
        _ => None,
    }
}
