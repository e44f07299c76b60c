//! What the lifters of x87, MMX and SSE instructions share: who may run them, and their operands.
//!
//! The idea: availability (CR0.EM, CR0.TS, CR4.OSFXSR) is in the block's mode, so it is decided here and costs nothing when
//! the block runs; only a pending x87 exception is looked for at run time.

use iced_x86::{OpKind, Register};
use ir::flags::Kind;
use ir::op::FPC;
use ir::vec::VecOp;
use ir::{MemRef, NONE, Op, Slot};

use super::operand::Ea;
use super::{Flow, Lifted, Lifter, fpstate, sse, vector, vector_mov, x87};
use crate::exception;
use crate::mode::Mode;
use crate::state::{FPU_SW, FPU_TAG, fpr, xmm};
use fp::sse::FpOp;
use fp::x87::sw;

/// Which unit an instruction needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// x87: #NM when it is emulated or switched away.
    X87,
    /// MMX registers only: #UD when emulated.
    Mmx,
    /// XMM registers or MXCSR: also needs CR4.OSFXSR.
    Sse,
}

/// The high word of a 128-bit pair.
pub(super) fn high(pair: Slot) -> Slot {
    Slot(pair.0 + 1)
}

/// Lifts every x87, MMX and SSE instruction.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    vector_mov::lift(l)
        .or_else(|| vector::lift(l))
        .or_else(|| sse::lift(l))
        .or_else(|| x87::lift(l))
        .or_else(|| fpstate::lift(l))
}

impl Lifter {
    /// The exception that using `unit` raises in this mode.
    pub(super) fn unit_fault(&self, unit: Unit) -> Option<u8> {
        let emulated = self.mode.contains(Mode::EM);
        let usable = match unit {
            Unit::X87 if emulated => return Some(exception::NM),
            Unit::X87 => true,
            Unit::Mmx => !emulated,
            Unit::Sse => !emulated && self.mode.contains(Mode::OSFXSR),
        };
        if !usable {
            Some(exception::UD)
        } else if self.mode.contains(Mode::TS) {
            Some(exception::NM)
        } else {
            None
        }
    }

    /// Raise #MF if an unmasked x87 exception is pending. (With CR0.NE clear a PC would signal FERR# instead; nothing here
    /// takes that signal, and every operating system of this century sets NE.)
    pub(super) fn wait_x87(&mut self) {
        let pending = self.b.new_imm(Op::AndI, FPU_SW, u64::from(sw::ES));
        let skip = self.b.skip_if_zero(pending);
        self.b.full(Op::Raise, exception::MF, NONE, NONE, NONE, 0);
        self.b.close(skip);
    }

    /// What every MMX instruction does besides its work: TOP = 0, no register empty. After the last operation that may stop.
    pub(super) fn enter_mmx(&mut self) {
        self.b.op_imm(Op::AndI, FPU_SW, FPU_SW, u64::from(!sw::TOP));
        self.b.op_imm(Op::MovI, FPU_TAG, NONE, 0xff);
    }

    /// Pair of an XMM register.
    pub(super) fn xmm_of(r: Register) -> Slot {
        xmm(r.number())
    }

    /// Pair whose low word is an MMX register.
    pub(super) fn mm_of(r: Register) -> Slot {
        fpr(r.number())
    }

    /// Whether operand `n` is an XMM register.
    pub(super) fn is_xmm(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_xmm()
    }

    /// Whether operand `n` is an MMX register.
    pub(super) fn is_mm(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_mm()
    }

    /// Whether any operand is an MMX register.
    pub(super) fn has_mm(&self) -> bool {
        (0..self.i.op_count()).any(|n| self.is_mm(n))
    }

    /// Attributes of a 128-bit access that must be aligned.
    pub(super) fn aligned(ea: Ea) -> MemRef {
        MemRef { aligned: true, ..ea.mem(128) }
    }

    /// Operand `n` as a 128-bit pair: a register's own, or a temporary with a memory operand of up to 128 bits zero-extended.
    /// A 128-bit one must be aligned if `aligned`.
    pub(super) fn pair(&mut self, n: u32, aligned: bool) -> Slot {
        if self.i.op_kind(n) == OpKind::Register {
            let r = self.i.op_register(n);
            return if r.is_mm() { Self::mm_of(r) } else { Self::xmm_of(r) };
        }
        let (ea, bits) = (self.ea(), self.bits(n));
        self.pair_at(ea, bits, aligned)
    }

    /// `bits` of memory at `ea`, zero-extended to a pair.
    pub(super) fn pair_at(&mut self, ea: Ea, bits: u32, aligned: bool) -> Slot {
        let t = self.b.temp128();
        let m = if aligned && bits == 128 { Self::aligned(ea) } else { ea.mem(bits) };
        self.b.load(t, ea.base, ea.index, m);
        if bits < 128 {
            self.b.op_imm(Op::MovI, high(t), NONE, 0);
        }
        t
    }

    /// A 64-bit value as a pair with zeros above.
    pub(super) fn widen(&mut self, v: Slot) -> Slot {
        let t = self.b.temp128();
        self.b.op(Op::Mov, t, v, NONE);
        self.b.op_imm(Op::MovI, high(t), NONE, 0);
        t
    }

    /// A pair of constants.
    pub(super) fn pair_constant(&mut self, low: u64, upper: u64) -> Slot {
        let t = self.b.temp128();
        self.b.op_imm(Op::MovI, t, NONE, low);
        self.b.op_imm(Op::MovI, high(t), NONE, upper);
        t
    }

    /// `d = op(a, b, imm)` on pairs.
    pub(super) fn vec(&mut self, op: VecOp, d: Slot, a: Slot, b: Slot, imm: u64) {
        self.b.full(Op::Vec, op as u8, d, a, b, imm);
    }

    /// `op(a, b, imm)` in a new pair.
    pub(super) fn vec_new(&mut self, op: VecOp, a: Slot, b: Slot, imm: u64) -> Slot {
        let t = self.b.temp128();
        self.vec(op, t, a, b, imm);
        t
    }

    /// `d = op(a, b, imm)` in floating point.
    pub(super) fn fp(&mut self, op: FpOp, d: Slot, a: Slot, b: Slot, imm: u8) {
        self.b.full(Op::Fp, op as u8, d, a, b, imm.into());
    }

    /// The result of an MMX instruction: the low word of `value` into register `d`.
    pub(super) fn finish_mmx(&mut self, d: Slot, value: Slot) -> Lifted {
        if d != value {
            self.b.op(Op::Mov, d, value, NONE);
        }
        self.b.op_imm(Op::MovI, high(d), NONE, 0xffff);
        self.enter_mmx();
        Some(Flow::Next)
    }

    /// Set the arithmetic flags to the EFLAGS bits in `bits`.
    pub(super) fn explicit_flags(&mut self, bits: Slot) {
        self.b.flags(Kind::X86Explicit, 64, NONE, NONE, bits);
    }

    /// LDMXCSR: #GP if a reserved bit is set.
    pub(super) fn load_mxcsr(&mut self) -> Lifted {
        let ea = self.ea();
        let v = self.load(ea, 32);
        let reserved = self.b.new_imm(Op::AndI, v, u64::from(!fp::sse::mxcsr::WRITABLE));
        let skip = self.b.skip_if_zero(reserved);
        self.b.full(Op::Raise, exception::GP, NONE, NONE, NONE, 0);
        self.b.close(skip);
        self.b.op(Op::Mov, FPC, v, NONE);
        Some(Flow::Next)
    }
}
