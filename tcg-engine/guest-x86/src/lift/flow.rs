//! Control flow: near jumps, calls and returns are lifted; far ones, interrupts and system calls are helpers that set the
//! program counter.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::op::hint;
use ir::{NONE, Op, Rel, Slot};

use super::operand::Ea;
use super::{Flow, Lifted, Lifter};
use crate::exception;
use crate::helpers::Helper;
use crate::state::{RCX, RSP};

impl Lifter {
    /// Target of a direct near branch.
    fn target(&self) -> Option<u64> {
        Some(match self.i.op0_kind() {
            OpKind::NearBranch16 => u64::from(self.i.near_branch16()),
            OpKind::NearBranch32 => u64::from(self.i.near_branch32()),
            OpKind::NearBranch64 => self.i.near_branch64(),
            _ => return None,
        })
    }

    fn jcc(&mut self) -> Lifted {
        let (cc, target) = (self.condition()?, self.target()?);
        self.b.full(Op::ExitCond, cc, NONE, NONE, NONE, target);
        if self.followed {
            // The likely way is part of the block.
            return Some(Flow::Next);
        }
        let next = self.next;
        self.b.full(Op::Exit, 1, NONE, NONE, NONE, next);
        Some(Flow::End)
    }

    fn jmp(&mut self) -> Lifted {
        if let Some(t) = self.target() {
            return self.exit(t);
        }
        if let Some((offset, selector)) = self.far_target() {
            self.call(NONE, Helper::JumpFar, offset, selector, 0);
            return self.exit_pc();
        }
        let t = self.read_zx(0);
        self.check_target(t);
        self.b.full(Op::ExitReg, 0, NONE, t, NONE, 0);
        Some(Flow::End)
    }

    /// #GP at the branch, before anything has changed, if its target is not canonical.
    fn check_target(&mut self, t: Slot) {
        if self.code64() {
            self.b.full(Op::CheckCanonical, exception::GP, NONE, t, NONE, 0);
        }
    }

    fn call_near(&mut self) -> Lifted {
        let bytes = self.i.stack_pointer_increment().unsigned_abs();
        if let Some(t) = self.target() {
            let next = self.absolute(self.next);
            self.push_value(next, bytes);
            self.b.full(Op::Exit, hint::CALL, NONE, RSP, NONE, t);
            return Some(Flow::End);
        }
        if let Some((offset, selector)) = self.far_target() {
            let next = self.absolute(self.next);
            let bytes = self.far_bytes();
            // The return address is a third operand.
            self.call(NONE, Helper::Note, next, NONE, 0);
            self.call(NONE, Helper::CallFar, offset, selector, bytes);
            return self.exit_pc();
        }
        let mut t = self.read_zx(0);
        if t == RSP {
            t = self.b.new2(Op::Mov, t, NONE);
        }
        let next = self.absolute(self.next);
        // The return address is written before the target is looked at.
        let ea = self.stack_ea(RSP, -(bytes as i32));
        self.store(next, ea, bytes * 8);
        self.check_target(t);
        self.move_sp(-(bytes as i32));
        self.b.full(Op::ExitReg, hint::CALL, NONE, t, RSP, 0);
        Some(Flow::End)
    }

    /// Operand size of a far call, jump or return in bytes.
    fn far_bytes(&self) -> u32 {
        match self.i.op0_kind() {
            OpKind::FarBranch16 => 2,
            OpKind::FarBranch32 => 4,
            _ => self.i.memory_size().size() as u32 - 2,
        }
    }

    /// (offset, selector) of a far branch.
    fn far_target(&mut self) -> Option<(Slot, Slot)> {
        match self.i.op0_kind() {
            OpKind::FarBranch16 => {
                let (o, s) = (self.i.far_branch16(), self.i.far_branch_selector());
                Some((self.constant(o.into()), self.constant(s.into())))
            }
            OpKind::FarBranch32 => {
                let (o, s) = (self.i.far_branch32(), self.i.far_branch_selector());
                Some((self.constant(o.into()), self.constant(s.into())))
            }
            OpKind::Memory if self.is_far_pointer() => {
                let ea = self.ea();
                let bytes = self.far_bytes();
                let offset = self.load(ea, bytes * 8);
                let ea = self.advance(ea, bytes as i32);
                Some((offset, self.load(ea, 16)))
            }
            _ => None,
        }
    }

    fn is_far_pointer(&self) -> bool {
        use iced_x86::MemorySize::{SegPtr16, SegPtr32, SegPtr64};
        matches!(self.i.memory_size(), SegPtr16 | SegPtr32 | SegPtr64)
    }

    /// A memory operand `n` bytes further on.
    pub(crate) fn advance(&mut self, ea: Ea, n: i32) -> Ea {
        match ea.offset(n) {
            Some(e) => e,
            None => {
                // A displacement at the end of its range.
                let t = self.b.temp();
                self.b.full(Op::Lea, ea.scale, t, ea.base, ea.index, i64::from(ea.disp) as u64);
                Ea { base: t, index: NONE, scale: 0, disp: n, ..ea }
            }
        }
    }

    fn ret(&mut self) -> Lifted {
        let pop = if self.i.op_count() == 1 { i32::from(self.i.immediate16()) } else { 0 };
        let bytes = match self.i.code() {
            iced_x86::Code::Retnw | iced_x86::Code::Retnw_imm16 => 2,
            iced_x86::Code::Retnd | iced_x86::Code::Retnd_imm16 => 4,
            _ => 8,
        };
        let t = self.top(bytes as u32);
        self.check_target(t);
        self.move_sp(bytes + pop);
        self.b.full(Op::ExitReg, hint::RETURN, NONE, t, RSP, (bytes + pop) as u64);
        Some(Flow::End)
    }

    fn ret_far(&mut self) -> Lifted {
        let pop = if self.i.op_count() == 1 { u32::from(self.i.immediate16()) } else { 0 };
        let bytes = match self.i.code() {
            iced_x86::Code::Retfw | iced_x86::Code::Retfw_imm16 => 2,
            iced_x86::Code::Retfd | iced_x86::Code::Retfd_imm16 => 4,
            _ => 8,
        };
        self.call(NONE, Helper::RetFar, NONE, NONE, bytes | pop << 8);
        self.exit_pc()
    }

    fn iret(&mut self, bytes: u32) -> Lifted {
        let next = self.absolute(self.next);
        self.call(NONE, Helper::Iret, next, NONE, bytes);
        self.exit_pc()
    }

    /// JCXZ and its sizes: the counter's size is the address size.
    fn jcxz(&mut self) -> Lifted {
        let target = self.target()?;
        let c = match self.i.mnemonic() {
            Mnemonic::Jcxz => self.zext(RCX, 16),
            Mnemonic::Jecxz => self.zext(RCX, 32),
            _ => RCX,
        };
        let t = self.b.temp();
        self.b.full(Op::SetRelI, Rel::Eq as u8, t, c, NONE, 0);
        self.b.full(Op::ExitIf, 0, NONE, t, NONE, target);
        let next = self.next;
        self.b.full(Op::Exit, 1, NONE, NONE, NONE, next);
        Some(Flow::End)
    }

    /// LOOP, LOOPE, LOOPNE.
    fn loop_(&mut self) -> Lifted {
        let target = self.target()?;
        let bits = self.counter_bits();
        let c = self.b.new_imm(Op::Sub64I, RCX, 1);
        self.write_gpr(RCX, c, bits);
        let c = self.zext(RCX, bits);
        let next = self.next;
        match self.i.mnemonic() {
            Mnemonic::Loop => self.b.full(Op::ExitIf, 0, NONE, c, NONE, target),
            m => {
                let more = self.b.temp();
                let zf = if m == Mnemonic::Loope { 4 } else { 5 };
                self.b.full(Op::Cond, zf, more, NONE, NONE, 0);
                let left = self.b.temp();
                self.b.full(Op::SetRelI, Rel::Ne as u8, left, c, NONE, 0);
                let go = self.b.new2(Op::And, more, left);
                self.b.full(Op::ExitIf, 0, NONE, go, NONE, target);
            }
        }
        self.b.full(Op::Exit, 1, NONE, NONE, NONE, next);
        Some(Flow::End)
    }

    /// Size of the counter of LOOP: the address size.
    fn counter_bits(&self) -> u32 {
        let mut f = iced_x86::InstructionInfoFactory::new();
        let info = f.info(&self.i);
        info.used_registers()
            .iter()
            .map(|u| u.register())
            .find_map(|r| match r {
                Register::RCX => Some(64),
                Register::ECX => Some(32),
                Register::CX => Some(16),
                _ => None,
            })
            .unwrap_or(self.mode.width())
    }

    fn int(&mut self, vector: u8) -> Lifted {
        let next = self.absolute(self.next);
        self.call(NONE, Helper::Interrupt, next, NONE, u32::from(vector));
        self.exit_pc()
    }

    fn into(&mut self) -> Lifted {
        let of = self.b.skip_unless(ir::flags::Cond::x86(0));
        let next = self.absolute(self.next);
        self.call(NONE, Helper::Interrupt, next, NONE, u32::from(exception::OF));
        self.b.full(Op::ExitReg, 0, NONE, ir::PC, NONE, 0);
        self.b.close(of);
        self.exit_next()
    }

    fn system_call(&mut self, h: Helper) -> Lifted {
        let next = self.absolute(self.next);
        let wide = u32::from(matches!(self.i.mnemonic(), Mnemonic::Sysretq | Mnemonic::Sysexitq));
        self.call(NONE, h, next, NONE, wide);
        self.exit_pc()
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Jmp => l.jmp(),
        Mnemonic::Call => l.call_near(),
        Mnemonic::Ret => l.ret(),
        Mnemonic::Retf => l.ret_far(),
        Mnemonic::Iret => l.iret(2),
        Mnemonic::Iretd => l.iret(4),
        Mnemonic::Iretq => l.iret(8),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => l.jcxz(),
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => l.loop_(),
        Mnemonic::Int => {
            let vector = l.i.immediate8();
            l.int(vector)
        }
        Mnemonic::Int3 => l.int(exception::BP),
        Mnemonic::Int1 => {
            let next = l.absolute(l.next);
            l.call(NONE, Helper::Int1, next, NONE, 0);
            l.exit_pc()
        }
        Mnemonic::Into => l.into(),
        Mnemonic::Syscall => l.system_call(Helper::Syscall),
        Mnemonic::Sysret | Mnemonic::Sysretq => l.system_call(Helper::Sysret),
        Mnemonic::Sysenter => l.system_call(Helper::Sysenter),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => l.system_call(Helper::Sysexit),
        _ => l.jcc(),
    }
}
