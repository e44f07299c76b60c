//! System instructions that are one helper call each, control and debug registers, fences and cache hints.

use iced_x86::{Mnemonic, OpKind};
use ir::{Fence, NONE, Op, Slot};

use super::{Flow, Lifted, Lifter, segments};

use crate::helpers::Helper;
use crate::mode::Mode;
use crate::state::{EFLAGS, RAX, RCX, RDX};
use crate::{cpu::event, flags};

/// MOV with a segment, control or debug register.
pub(super) fn mov(l: &mut Lifter) -> Lifted {
    let reading = l.i.op1_kind() == OpKind::Register && segments::is_special(l.i.op1_register());
    let writing = l.i.op0_kind() == OpKind::Register && segments::is_special(l.i.op0_register());
    if !reading && !writing {
        return segments::mov(l);
    }
    let r = if reading { l.i.op1_register() } else { l.i.op0_register() };
    let n = r.number() as u32;
    let (read, write) = if r.is_cr() {
        if !matches!(n, 0 | 2 | 3 | 4 | 8) {
            return None;
        }
        (Helper::ReadCr, Helper::WriteCr)
    } else if r.is_dr() {
        if n > 7 {
            return None;
        }
        (Helper::ReadDr, Helper::WriteDr)
    } else {
        return None;
    };
    if reading {
        let v = l.call_value(read, NONE, NONE, n);
        l.write(0, v);
        return Some(Flow::Next);
    }
    let v = l.read_zx(1);
    l.call(NONE, write, v, NONE, n);
    l.exit_next()
}

impl Lifter {
    /// EDX:EAX = `v`.
    fn split(&mut self, v: Slot) {
        self.b.op(Op::Zext32, RAX, v, NONE);
        self.b.op_imm(Op::Shr64I, RDX, v, 32);
        self.set_clean(RAX, true);
        self.set_clean(RDX, true);
    }

    /// EDX:EAX.
    fn joined(&mut self) -> Slot {
        let h = self.b.new_imm(Op::Shl64I, RDX, 32);
        let l = self.zext(RAX, 32);
        self.b.new2(Op::Or, h, l)
    }

    /// A helper without operands, after which the block goes on.
    fn plain(&mut self, h: Helper, imm: u32) -> Lifted {
        self.call(NONE, h, NONE, NONE, imm);
        Some(Flow::Next)
    }

    fn invpcid(&mut self) -> Lifted {
        self.call(NONE, Helper::CheckSupervisor, NONE, NONE, 0);
        let kind = self.read_zx(0);
        let ea = self.ea();
        let pcid = self.load(ea, 64);
        let second = self.advance(ea, 8);
        let address = self.load(second, 64);
        // The descriptor has more than a helper's operands: its first word is noted.
        self.call(NONE, Helper::Note, pcid, NONE, 0);
        self.call(NONE, Helper::Invpcid, kind, address, 0);
        self.exit_next()
    }

    fn clflush(&mut self) -> Lifted {
        // It faults as a load of the byte does; there is no cache to write back.
        let ea = self.ea();
        self.load(ea, 8);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Clts => {
            l.call(NONE, Helper::Clts, NONE, NONE, 0);
            l.exit_next()
        }
        Mnemonic::Invlpg => {
            let at = segments::linear_operand(l);
            l.call(NONE, Helper::Invlpg, at, NONE, 0);
            l.exit_next()
        }
        Mnemonic::Invpcid => l.invpcid(),
        // There is no cache to write back or lose.
        Mnemonic::Wbinvd | Mnemonic::Invd => l.plain(Helper::CheckSupervisor, 0),
        Mnemonic::Hlt => {
            l.call(NONE, Helper::Halt, NONE, NONE, 0);
            l.exit_event(event::HLT)
        }
        Mnemonic::Cli if l.mode.contains(Mode::KERNEL) => {
            l.b.op_imm(Op::AndI, EFLAGS, EFLAGS, !flags::IF);
            Some(Flow::Next)
        }
        Mnemonic::Cli => l.plain(Helper::Cli, 0),
        // Interrupts are looked at between blocks, and so not before the instruction behind this one.
        Mnemonic::Sti if l.mode.contains(Mode::KERNEL) && l.followed => {
            l.b.op_imm(Op::OrI, EFLAGS, EFLAGS, flags::IF);
            l.opened = true;
            Some(Flow::Next)
        }
        Mnemonic::Sti => {
            l.call(NONE, Helper::Sti, NONE, NONE, 0);
            l.exit_event(event::SHADOW)
        }
        Mnemonic::Cld | Mnemonic::Std => {
            let down = l.i.mnemonic() == Mnemonic::Std;
            if down == l.mode.contains(Mode::DOWN) {
                return Some(Flow::Next);
            }
            l.call(NONE, Helper::Direction, NONE, NONE, u32::from(down));
            l.exit_next()
        }
        Mnemonic::Stac => l.plain(Helper::AlignmentFlag, 1),
        Mnemonic::Clac => l.plain(Helper::AlignmentFlag, 0),
        Mnemonic::Cpuid => l.plain(Helper::Cpuid, 0),
        Mnemonic::Rdtsc => {
            let v = l.call_value(Helper::Rdtsc, NONE, NONE, 0);
            l.split(v);
            Some(Flow::Next)
        }
        Mnemonic::Rdtscp => {
            let v = l.call_value(Helper::Rdtsc, NONE, NONE, 0);
            let aux = l.call_value(Helper::ReadSystem, NONE, NONE, crate::helpers::which::TSC_AUX);
            l.split(v);
            l.b.op(Op::Zext32, RCX, aux, NONE);
            l.set_clean(RCX, true);
            Some(Flow::Next)
        }
        Mnemonic::Rdpmc => l.plain(Helper::Rdpmc, 0),
        Mnemonic::Rdrand => {
            let bits = l.bits(0);
            let v = l.call_value(Helper::Rdrand, NONE, NONE, bits);
            l.write(0, v);
            Some(Flow::Next)
        }
        Mnemonic::Rdmsr => {
            let v = l.call_value(Helper::Rdmsr, RCX, NONE, 0);
            l.split(v);
            Some(Flow::Next)
        }
        Mnemonic::Wrmsr => {
            let v = l.joined();
            l.call(NONE, Helper::Wrmsr, RCX, v, 0);
            l.exit_next()
        }
        Mnemonic::Xgetbv | Mnemonic::Xsetbv if !l.mode.contains(Mode::OSXSAVE) => None,
        Mnemonic::Xgetbv => {
            let v = l.call_value(Helper::Xgetbv, RCX, NONE, 0);
            l.split(v);
            Some(Flow::Next)
        }
        Mnemonic::Xsetbv => {
            let v = l.joined();
            l.call(NONE, Helper::Xsetbv, RCX, v, 0);
            l.exit_next()
        }
        Mnemonic::Clflush => l.clflush(),
        Mnemonic::Mfence => {
            l.b.full(Op::Fence, Fence::Full as u8, NONE, NONE, NONE, 0);
            Some(Flow::Next)
        }
        // The host orders loads and stores as the guest expects.
        Mnemonic::Lfence | Mnemonic::Sfence => Some(Flow::Next),
        Mnemonic::Pause => l.exit_event(event::PAUSE),
        _ => None,
    }
}
