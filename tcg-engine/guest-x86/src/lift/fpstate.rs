//! Saving and restoring the x87 and SSE state, MXCSR, EMMS.

use iced_x86::Mnemonic;
use ir::op::FPC;
use ir::{NONE, Op};

use super::simd::Unit;
use super::x87::memory_call;
use super::{Flow, Lifted, Lifter};
use crate::exception;
use crate::helpers::fpu::FpuOp;
use crate::mode::Mode;
use crate::state::{FPU_TAG, RAX, RDX};

/// Lifts them.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Fxsave => area(l, FpuOp::FxSave, false),
        Mnemonic::Fxsave64 => area(l, FpuOp::FxSave, true),
        Mnemonic::Fxrstor => area(l, FpuOp::FxRestore, false),
        Mnemonic::Fxrstor64 => area(l, FpuOp::FxRestore, true),
        Mnemonic::Xsave => extended(l, FpuOp::XSave, false),
        Mnemonic::Xsave64 => extended(l, FpuOp::XSave, true),
        Mnemonic::Xsaveopt => optimised(l, false),
        Mnemonic::Xsaveopt64 => optimised(l, true),
        Mnemonic::Xrstor => extended(l, FpuOp::XRestore, false),
        Mnemonic::Xrstor64 => extended(l, FpuOp::XRestore, true),
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr => {
            if let Some(vector) = l.unit_fault(Unit::Sse) {
                return l.raise(vector);
            }
            if l.i.mnemonic() == Mnemonic::Ldmxcsr {
                return l.load_mxcsr();
            }
            let ea = l.ea();
            l.store(FPC, ea, 32);
            Some(Flow::Next)
        }
        Mnemonic::Emms => {
            if let Some(vector) = l.unit_fault(Unit::Mmx) {
                return l.raise(vector);
            }
            l.wait_x87();
            l.enter_mmx();
            l.b.op_imm(Op::MovI, FPU_TAG, NONE, 0);
            Some(Flow::Next)
        }
        _ => None,
    }
}

/// FXSAVE and FXRSTOR: an emulated or switched-away unit is #NM; CR4.OSFXSR is not looked at.
fn area(l: &mut Lifter, op: FpuOp, wide: bool) -> Lifted {
    if let Some(vector) = l.unit_fault(Unit::X87) {
        return l.raise(vector);
    }
    memory_call(l, op, NONE, wide);
    Some(Flow::Next)
}

/// XSAVE and XRSTOR: need CR4.OSXSAVE; CR0.EM is not looked at.
fn extended(l: &mut Lifter, op: FpuOp, wide: bool) -> Lifted {
    if !l.mode.contains(Mode::OSXSAVE) {
        return l.raise(exception::UD);
    }
    if l.mode.contains(Mode::TS) {
        return l.raise(exception::NM);
    }
    let mask = edx_eax(l);
    memory_call(l, op, mask, wide);
    Some(Flow::Next)
}

/// XSAVEOPT, which the CPU model may not have.
fn optimised(l: &mut Lifter, wide: bool) -> Lifted {
    if l.mode.contains(Mode::LEVEL3) { extended(l, FpuOp::XSaveOptimised, wide) } else { None }
}

/// EDX:EAX in one word.
fn edx_eax(l: &mut Lifter) -> ir::Slot {
    let t = l.b.temp();
    l.b.full(Op::Deposit, 0, t, RAX, RDX, 32 | 32 << 8);
    t
}
