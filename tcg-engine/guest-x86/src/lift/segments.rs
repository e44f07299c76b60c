//! Segment registers, descriptor tables, and the bases of FS and GS.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::{NONE, Op, Rel, Slot};

use super::operand::Ea;
use super::{Flow, Lifted, Lifter};
use crate::cpu::event;
use crate::exception;
use crate::helpers::{Helper, which};
use crate::memory::FLAT;
use crate::mode::Mode;
use crate::state::{KERNEL_GS_BASE, Seg, seg_base, seg_selector};

impl Lifter {
    /// The selector in a segment register.
    pub(crate) fn selector(&mut self, s: Seg) -> Slot {
        let t = self.b.new2(Op::Mov, seg_selector(s), NONE);
        self.set_clean(t, true);
        t
    }

    /// LDS and its family: a far pointer into a register and a segment register.
    fn load_far(&mut self, s: Seg) -> Lifted {
        let bits = self.bits(0);
        let ea = self.ea();
        let offset = self.load(ea, bits);
        let ea = self.advance(ea, (bits / 8) as i32);
        let selector = self.load(ea, 16);
        self.call(NONE, Helper::LoadSegment, selector, NONE, s as u32);
        self.write(0, offset);
        if s == Seg::Ss { self.exit_event(event::SHADOW) } else { self.exit_next() }
    }

    /// LAR, LSL: `Some` result with ZF, or ZF clear.
    fn load_rights(&mut self, h: Helper) -> Lifted {
        let v = self.read_selector(1);
        let r = self.call_value(h, v, NONE, 0);
        let ok = self.b.new_imm(Op::Shr64I, r, 32);
        self.zero_flag(ok);
        let (d, bits) = (super::operand::gpr_of(self.i.op0_register()), self.bits(0));
        let skip = self.b.skip_if_zero(ok);
        // The other half of the result is the flag.
        self.write_gpr(d, r, bits.min(32));
        self.b.close(skip);
        self.set_clean(d, false);
        Some(Flow::Next)
    }

    /// A 16-bit selector operand; a memory operand has 16 bits whatever the operand size is.
    fn read_selector(&mut self, n: u32) -> Slot {
        if self.is_mem(n) {
            let ea = self.ea();
            self.load(ea, 16)
        } else {
            let v = self.read(n);
            self.zext(v, 16)
        }
    }

    fn zero_flag(&mut self, bit: Slot) {
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = self.b.new_imm(Op::AndI, f, !crate::flags::ZF);
        let z = self.b.new_imm(Op::Shl64I, bit, 6);
        let f = self.b.new2(Op::Or, f, z);
        self.b.flags(ir::flags::Kind::X86Explicit, 64, NONE, NONE, f);
    }

    fn verify(&mut self, write: bool) -> Lifted {
        let v = self.read_selector(0);
        let ok = self.call_value(Helper::Verify, v, NONE, u32::from(write));
        self.zero_flag(ok);
        Some(Flow::Next)
    }

    fn arpl(&mut self) -> Lifted {
        if self.code64() || !self.mode.contains(Mode::PROTECTED) {
            return None;
        }
        let src = self.read(1);
        let want = self.b.new_imm(Op::AndI, src, 3);
        let a = self.read_selector(0);
        let have = self.b.new_imm(Op::AndI, a, 3);
        let less = self.b.set_rel(Rel::Ltu, have, want);
        let raised = self.b.temp();
        self.b.full(Op::Deposit, 0, raised, a, want, 2 << 8);
        // Memory is written only if the level is raised.
        let skip = self.b.skip_if_zero(less);
        if self.is_mem(0) {
            let ea = self.ea();
            self.store(raised, ea, 16);
        } else {
            let d = super::operand::gpr_of(self.i.op0_register());
            self.write_gpr(d, raised, 16);
        }
        self.b.close(skip);
        self.zero_flag(less);
        Some(Flow::Next)
    }

    /// SLDT, STR, SMSW: 16 bits to memory, zero-extended to a register.
    fn store_word(&mut self, what: u32) -> Lifted {
        if what != which::MSW && !self.mode.contains(Mode::PROTECTED) {
            return None;
        }
        let v = self.call_value(Helper::ReadSystem, NONE, NONE, what);
        if self.is_mem(0) {
            let ea = self.ea();
            self.store(v, ea, 16);
        } else {
            self.write(0, v);
        }
        Some(Flow::Next)
    }

    /// LLDT, LTR.
    fn load_system(&mut self, h: Helper) -> Lifted {
        if !self.mode.contains(Mode::PROTECTED) {
            return None;
        }
        self.call(NONE, Helper::CheckSupervisor, NONE, NONE, 0);
        let v = self.read_selector(0);
        self.call(NONE, h, v, NONE, 0);
        self.exit_next()
    }

    fn store_table(&mut self, limit: u32, base: u32) -> Lifted {
        let ea = self.ea();
        let bits = if self.code64() { 64 } else { 32 };
        let v = self.call_value(Helper::ReadSystem, NONE, NONE, base);
        let n = self.call_value(Helper::ReadSystem, NONE, NONE, limit);
        let second = self.advance(ea, 2);
        self.store(n, ea, 16);
        self.store(v, second, bits);
        Some(Flow::Next)
    }

    fn load_table(&mut self, what: u32) -> Lifted {
        self.call(NONE, Helper::CheckSupervisor, NONE, NONE, 0);
        let ea = self.ea();
        let bits = if self.code64() { 64 } else { 32 };
        let limit = self.load(ea, 16);
        let second = self.advance(ea, 2);
        let base = self.load(second, bits);
        let short = matches!(self.i.code(), iced_x86::Code::Lgdt_m1632_16 | iced_x86::Code::Lidt_m1632_16);
        let base = if short { self.b.new_imm(Op::AndI, base, 0x00ff_ffff) } else { base };
        self.call(NONE, Helper::LoadTable, base, limit, what);
        Some(Flow::Next)
    }

    fn lmsw(&mut self) -> Lifted {
        self.call(NONE, Helper::CheckSupervisor, NONE, NONE, 0);
        let v = self.read_selector(0);
        self.call(NONE, Helper::Lmsw, v, NONE, 0);
        self.exit_next()
    }

    fn base_access(&mut self, s: Seg, write: bool) -> Lifted {
        if !self.code64() || !self.mode.contains(Mode::FSGSBASE) {
            return None;
        }
        let bits = self.bits(0);
        if write {
            let v = self.read_zx(0);
            if bits == 64 {
                self.b.full(Op::CheckCanonical, exception::GP, NONE, v, NONE, 0);
            }
            self.b.op(Op::Mov, seg_base(s), v, NONE);
        } else {
            let r = self.i.op0_register();
            if bits == 64 {
                self.write_reg(r, seg_base(s));
            } else {
                let v = self.zext(seg_base(s), 32);
                self.write_reg(r, v);
            }
        }
        Some(Flow::Next)
    }
}

/// MOV from and to segment registers, for the dispatcher of MOV.
pub(super) fn mov(l: &mut Lifter) -> Lifted {
    if l.i.op1_kind() == OpKind::Register
        && let Some(s) = super::operand::seg_of(l.i.op1_register())
    {
        let v = l.selector(s);
        if l.is_mem(0) {
            let ea = l.ea();
            l.store(v, ea, 16);
        } else {
            l.write(0, v);
        }
        return Some(Flow::Next);
    }
    let s = super::operand::seg_of(l.i.op0_register())?;
    if s == Seg::Cs {
        return None;
    }
    let v = l.read_selector(1);
    l.call(NONE, Helper::LoadSegment, v, NONE, s as u32);
    match s {
        Seg::Ss => l.exit_event(event::SHADOW),
        // In 64-bit code the mode does not depend on data segments.
        _ if l.code64() => Some(Flow::Next),
        _ => l.exit_next(),
    }
}

/// INVLPG's operand as a linear address needs its segment's base.
pub(super) fn linear_operand(l: &mut Lifter) -> Slot {
    let (slot, ea): (Slot, Ea) = l.ea_slot();
    if ea.space == FLAT {
        return slot;
    }
    match Seg::from_index(usize::from(ea.space) - 1) {
        Some(s) => l.b.new2(Op::Add32, slot, seg_base(s)),
        None => slot,
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Lds => l.load_far(Seg::Ds),
        Mnemonic::Les => l.load_far(Seg::Es),
        Mnemonic::Lss => l.load_far(Seg::Ss),
        Mnemonic::Lfs => l.load_far(Seg::Fs),
        Mnemonic::Lgs => l.load_far(Seg::Gs),
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw if !l.mode.contains(Mode::PROTECTED) => None,
        Mnemonic::Lar => l.load_rights(Helper::Lar),
        Mnemonic::Lsl => l.load_rights(Helper::Lsl),
        Mnemonic::Verr => l.verify(false),
        Mnemonic::Verw => l.verify(true),
        Mnemonic::Arpl => l.arpl(),
        Mnemonic::Sldt => l.store_word(which::LDTR),
        Mnemonic::Str => l.store_word(which::TR),
        Mnemonic::Smsw => l.store_word(which::MSW),
        Mnemonic::Lldt => l.load_system(Helper::Lldt),
        Mnemonic::Ltr => l.load_system(Helper::Ltr),
        Mnemonic::Sgdt => l.store_table(which::GDT_LIMIT, which::GDT_BASE),
        Mnemonic::Sidt => l.store_table(which::IDT_LIMIT, which::IDT_BASE),
        Mnemonic::Lgdt => l.load_table(which::GDT_BASE),
        Mnemonic::Lidt => l.load_table(which::IDT_BASE),
        Mnemonic::Lmsw => l.lmsw(),
        Mnemonic::Swapgs if !l.code64() => None,
        Mnemonic::Swapgs => {
            if !l.mode.contains(Mode::KERNEL) {
                l.call(NONE, Helper::CheckSupervisor, NONE, NONE, 0);
            }
            let old = l.b.new2(Op::Mov, seg_base(Seg::Gs), NONE);
            l.b.op(Op::Mov, seg_base(Seg::Gs), KERNEL_GS_BASE, NONE);
            l.b.op(Op::Mov, KERNEL_GS_BASE, old, NONE);
            Some(Flow::Next)
        }
        Mnemonic::Rdfsbase => l.base_access(Seg::Fs, false),
        Mnemonic::Rdgsbase => l.base_access(Seg::Gs, false),
        Mnemonic::Wrfsbase => l.base_access(Seg::Fs, true),
        Mnemonic::Wrgsbase => l.base_access(Seg::Gs, true),
        _ => None,
    }
}

/// Whether `r` is a control, debug or test register.
pub(super) fn is_special(r: Register) -> bool {
    r.is_cr() || r.is_dr() || r.is_tr()
}
