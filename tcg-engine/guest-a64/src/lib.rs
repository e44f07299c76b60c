//! A small aarch64 decoder that proves the IR fit for that architecture before its front end is built.
//!
//! It lifts one instruction at a time: some sixty encodings of the kinds where aarch64 differs from x86 — NZCV and
//! conditional select, bitmask immediates, pairs that fault in their second half, exclusives and acquire/release, fused
//! multiply-add with its NaN rules, `SP` against `XZR`. Source: Arm Architecture Reference Manual (DDI 0487), section C4
//! for encodings and C6/C7 for meaning. It is not a CPU: no system registers, no exception levels.

mod data;
mod memory;

pub mod float;

use ir::op::{FIRST_ARCH, FPC, NONE};
use ir::{Block, Builder, Op, Slot};

/// Word of general register `n`; 31 is the stack pointer.
pub const fn x(n: u32) -> Slot {
    Slot(FIRST_ARCH + n as u16)
}

/// The stack pointer.
pub const SP: Slot = x(31);

/// Pair of vector register `n`.
pub const fn v(n: u32) -> Slot {
    Slot(64 + 2 * n as u16)
}

/// FPCR in the low, FPSR in the high half.
pub const FP_CONTROL: Slot = FPC;

/// Helpers that lifted code calls.
pub mod helper {
    /// Unsigned 64-bit division, 0 for a zero divisor.
    pub const UDIV64: u16 = 0;
    /// Signed 64-bit division.
    pub const SDIV64: u16 = 1;
    /// Scalar floating-point data processing; `imm` describes it, see [`crate::float::Operation`].
    pub const FLOAT: u16 = 2;
}

/// The instruction is not one of those that this decoder knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown(pub u32);

/// What a lifted instruction is built with.
pub(crate) struct Lift {
    pub b: Builder,
    pub pc: u64,
    /// The instruction has written the program counter.
    pub left: bool,
}

impl Lift {
    /// A register operand where 31 reads as zero.
    pub fn read(&mut self, n: u32) -> Slot {
        if n == 31 { self.b.constant(0) } else { x(n) }
    }

    /// A destination where 31 discards.
    pub fn write(&mut self, n: u32) -> Slot {
        if n == 31 { self.b.temp() } else { x(n) }
    }

    /// `d = s`, truncated to 32 bits unless `wide`.
    pub fn assign(&mut self, d: Slot, s: Slot, wide: bool) {
        self.b.op(if wide { Op::Mov } else { Op::Zext32 }, d, s, NONE);
    }

    /// Leave to a constant program counter.
    pub fn jump(&mut self, to: u64) {
        self.b.op_imm(Op::Exit, NONE, NONE, to);
        self.left = true;
    }
}

/// Bits `hi..=lo` of an instruction.
pub(crate) const fn bits(i: u32, hi: u32, lo: u32) -> u32 {
    i >> lo & ((1u64 << (hi - lo + 1)) - 1) as u32
}

/// Sign-extend the low `n` bits.
pub(crate) const fn sext(v: u32, n: u32) -> i64 {
    ((v as i64) << (64 - n)) >> (64 - n)
}

/// Lift the instruction word `i` at `pc` into a block of its own.
pub fn lift(i: u32, pc: u64) -> Result<Block, Unknown> {
    let mut l = Lift { b: Builder::new(pc), pc, left: false };
    l.b.instruction(pc, 4);
    let known = match bits(i, 28, 25) {
        0b1000 | 0b1001 => data::immediate(&mut l, i),
        0b1010 | 0b1011 => branch(&mut l, i),
        0b0101 | 0b1101 => data::register(&mut l, i),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => memory::access(&mut l, i),
        0b0111 | 0b1111 => float::lift(&mut l, i),
        _ => None,
    };
    known.ok_or(Unknown(i))?;
    if !l.left {
        l.jump(pc.wrapping_add(4));
    }
    Ok(l.b.finish())
}

/// Branches, MRS/MSR of NZCV, FPCR and FPSR, barriers and hints (C4.1.93 on).
fn branch(l: &mut Lift, i: u32) -> Option<()> {
    let target = |offset: i64| l.pc.wrapping_add((offset << 2) as u64);
    let (imm26, imm19, imm14) =
        (target(sext(bits(i, 25, 0), 26)), target(sext(bits(i, 23, 5), 19)), target(sext(bits(i, 18, 5), 14)));
    let next = l.pc.wrapping_add(4);
    let rt = bits(i, 4, 0);
    if bits(i, 30, 26) == 0b00101 {
        // B, BL
        if bits(i, 31, 31) == 1 {
            l.b.op_imm(Op::MovI, x(30), NONE, next);
        }
        l.jump(imm26);
    } else if bits(i, 31, 24) == 0b0101_0100 && bits(i, 4, 4) == 0 {
        l.b.full(Op::ExitCond, ir::flags::Cond::a64(bits(i, 3, 0) as u8).0, NONE, NONE, NONE, imm19);
    } else if bits(i, 30, 25) == 0b01_1010 {
        // CBZ, CBNZ
        let v = l.read(rt);
        let w = l.b.temp();
        l.assign(w, v, bits(i, 31, 31) == 1);
        let zero = l.b.constant(0);
        let rel = if bits(i, 24, 24) == 0 { ir::Rel::Eq } else { ir::Rel::Ne };
        let c = l.b.set_rel(rel, w, zero);
        l.b.op_imm(Op::ExitIf, NONE, c, imm19);
    } else if bits(i, 30, 25) == 0b01_1011 {
        // TBZ, TBNZ
        let n = bits(i, 31, 31) << 5 | bits(i, 23, 19);
        let v = l.read(rt);
        let mut bit = l.b.new_imm(Op::Extract, v, u64::from(n) | 1 << 8);
        if bits(i, 24, 24) == 0 {
            bit = l.b.new_imm(Op::XorI, bit, 1);
        }
        l.b.op_imm(Op::ExitIf, NONE, bit, imm14);
    } else if i & 0xff9f_fc1f == 0xd61f_0000 {
        // BR, BLR, RET
        let t = l.read(bits(i, 9, 5));
        let to = l.b.new2(Op::Mov, t, NONE);
        if bits(i, 22, 21) == 1 {
            l.b.op_imm(Op::MovI, x(30), NONE, next);
        }
        l.b.op(Op::ExitReg, NONE, to, NONE);
        l.left = true;
    } else if i & 0xffff_ffe0 == 0xd53b_4200 {
        // MRS NZCV
        let d = l.write(rt);
        l.b.op(Op::FlagsGet, d, NONE, NONE);
    } else if i & 0xffff_ffe0 == 0xd51b_4200 {
        // MSR NZCV
        let s = l.read(rt);
        let f = l.b.new_imm(Op::AndI, s, 0xf000_0000);
        l.b.flags(ir::flags::Kind::A64Explicit, 64, NONE, NONE, f);
    } else if i & 0xffff_f01f == 0xd503_201f {
        // HINT, NOP: nothing to do.
    } else if i & 0xffff_f0ff == 0xd503_30bf || i & 0xffff_f0ff == 0xd503_309f {
        l.b.full(Op::Fence, ir::Fence::Full as u8, NONE, NONE, NONE, 0);
    } else if i & 0xffff_f0ff == 0xd503_305f {
        l.b.op(Op::ClearExclusive, NONE, NONE, NONE);
    } else {
        return None;
    }
    Some(())
}

/// Run helper `id` for an environment; the result, or `None` for an unknown helper.
pub fn call(regs: &mut ir::Regs, id: u16, a: u64, b: u64, imm: u32) -> Option<u64> {
    Some(match id {
        helper::UDIV64 => a.checked_div(b).unwrap_or(0),
        helper::SDIV64 if b == 0 => 0,
        helper::SDIV64 => (a as i64).wrapping_div(b as i64) as u64,
        helper::FLOAT => float::execute(regs, imm),
        _ => return None,
    })
}
