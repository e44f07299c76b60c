//! The mode bits that lifting depends on: part of a block's key.
//!
//! The idea: what is decided when a block is lifted needs no look when it runs; what is not here helpers decide.

use crate::flags;
use crate::fpu::image::component;
use crate::state::{EFLAGS, Seg, SysState, cr0, cr4};

/// Components that XCR0 must have on for AVX.
const VECTORS: u64 = component::SSE | component::AVX;

bitflags::bitflags! {
    /// What a block was lifted for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Mode: u32 {
        /// 64-bit code.
        const CODE64 = 1;
        /// 32-bit default operand and address size (never with `CODE64`).
        const CODE32 = 1 << 1;
        /// The stack pointer is ESP (not SP). In 64-bit code it is RSP whatever this says.
        const STACK32 = 1 << 2;
        /// ES, CS, SS and DS are flat: offsets are linear addresses. Always with `CODE64`.
        const FLAT = 1 << 3;
        /// Protected mode, not virtual-8086.
        const PROTECTED = 1 << 4;
        /// Long mode is active.
        const LONG = 1 << 5;
        /// EFLAGS.DF is set.
        const DOWN = 1 << 6;
        /// CR0.TS.
        const TS = 1 << 7;
        /// CR0.EM.
        const EM = 1 << 8;
        /// CR0.MP.
        const MP = 1 << 9;
        /// CR4.OSFXSR.
        const OSFXSR = 1 << 10;
        /// CR4.OSXSAVE.
        const OSXSAVE = 1 << 11;
        /// Virtual-8086 mode.
        const V86 = 1 << 12;
        /// The block holds one instruction: single-stepping and interrupt shadows.
        const ONE = 1 << 13;
        /// The CPU model has the instructions of x86-64-v3 ([`Mode::of_model`]).
        const LEVEL3 = 1 << 14;
        /// CR4.OSXSAVE, and XCR0 has SSE and AVX on, in protected mode: VEX-coded instructions on vectors run.
        const AVX = 1 << 15;
        /// Privilege level 0, outside of virtual-8086 mode: CLI and STI need no check.
        const KERNEL = 1 << 16;
        /// Privilege level 3: accesses have the rights of user mode.
        const USER = 1 << 17;
        /// Blocks of programs are lifted for where they are mapped, too ([`Cpu::place_blocks`](crate::Cpu::place_blocks)).
        const PLACED = 1 << 18;
        /// CR4.FSGSBASE.
        const FSGSBASE = 1 << 19;
    }
}

impl Mode {
    /// Whether blocks are lifted so that they can be run wherever their code is mapped. Programs are mapped elsewhere each time that
    /// they run; the kernel stays where it is.
    pub const fn relative(self) -> bool {
        self.contains(Mode::CODE64.union(Mode::USER)) && !self.contains(Mode::PLACED)
    }

    /// The program counter `pc` as blocks have it: counted from the beginning of its page if they are relative.
    pub const fn counted(self, pc: u64) -> u64 {
        if self.relative() { pc & mem::PAGE_MASK } else { pc }
    }

    /// Operand and address size default in bits.
    pub const fn width(self) -> u32 {
        if self.contains(Mode::CODE64) {
            64
        } else if self.contains(Mode::CODE32) {
            32
        } else {
            16
        }
    }

    /// The mode of the given state.
    pub fn of(sys: &SysState, eflags: u64) -> Mode {
        let cs = sys.seg(Seg::Cs);
        let mut m = Mode::empty();
        if sys.code64() {
            m |= Mode::CODE64 | Mode::FLAT;
        } else {
            let ss = sys.seg(Seg::Ss);
            m.set(Mode::CODE32, cs.big());
            m.set(Mode::STACK32, ss.big());
            let data = [Seg::Es, Seg::Ds, Seg::Ss].iter().all(|&s| sys.seg(s).is_flat() && sys.seg(s).writable());
            m.set(Mode::FLAT, cs.big() && ss.big() && cs.is_flat() && cs.readable() && data);
        }
        let v86 = eflags & flags::VM != 0;
        m.set(Mode::PROTECTED, sys.protected() && !v86);
        m.set(Mode::V86, v86);
        m.set(Mode::KERNEL, sys.cpl == 0 && !v86);
        m.set(Mode::USER, sys.cpl == 3);
        m.set(Mode::LONG, sys.long_mode());
        m.set(Mode::DOWN, eflags & flags::DF != 0);
        m.set(Mode::TS, sys.cr0 & cr0::TS != 0);
        m.set(Mode::EM, sys.cr0 & cr0::EM != 0);
        m.set(Mode::MP, sys.cr0 & cr0::MP != 0);
        m.set(Mode::OSFXSR, sys.cr4 & cr4::OSFXSR != 0);
        m.set(Mode::OSXSAVE, sys.cr4 & cr4::OSXSAVE != 0);
        m.set(Mode::FSGSBASE, sys.cr4 & cr4::FSGSBASE != 0);
        m.set(Mode::AVX, m.contains(Mode::OSXSAVE | Mode::PROTECTED) && sys.xcr0 & VECTORS == VECTORS);
        m
    }

    /// The mode bits that a CPU model stands for.
    pub fn of_model(model: &cpu_model::Model) -> Mode {
        let leaf7 = model.leaves.iter().find(|l| l.leaf == 7 && l.subleaf == Some(0));
        let bmi2 = leaf7.is_some_and(|l| l.regs[1] & cpu_model::features::BMI2 != 0);
        if bmi2 { Mode::LEVEL3 } else { Mode::empty() }
    }

    /// The mode of a vCPU's words and system state.
    pub fn now(sys: &SysState, regs: &ir::Regs) -> Mode {
        Mode::of(sys, regs.get(EFLAGS))
    }
}
