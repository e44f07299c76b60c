//! Branches, EXECUTE, and what reads or changes the PSW.

use ir::flags::{Cond, Kind};
use ir::op::NONE;
use ir::{Fence, MemRef, Op, Rel, Slot};

use crate::alu::{Second, operand, relative};
use crate::decode::Fields;
use crate::mode::{BASIC, EXTENDED, PROGRAM_MASK_SHIFT};
use crate::{Addressing, EX_MODIFIER, EX_TARGET, Lift, NEW_PSW, PSW, ar, event, helper, program, r};

/// Leave to the address in `target`.
fn go(l: &mut Lift, target: Slot) {
    let to = l.masked(target);
    l.b.op(Op::ExitReg, NONE, to, NONE);
    l.left = true;
}

/// The same if `taken` is not zero; `target` may be constant.
fn go_if(l: &mut Lift, taken: Slot, target: Result<u64, Slot>) {
    match target {
        Ok(to) => {
            let to = l.wrap(to);
            l.b.op_imm(Op::ExitIf, NONE, taken, to);
        }
        Err(slot) => {
            let to = l.masked(slot);
            let s = l.b.skip_if_zero(taken);
            l.b.op(Op::ExitReg, NONE, to, NONE);
            l.b.close(s);
        }
    }
}

/// BRC, BRCL: the mask is R1.
pub(crate) fn relative_on_condition(l: &mut Lift, f: &Fields) -> Option<()> {
    let to = relative(l, f.i2);
    match f.r1 {
        0 => {}
        15 => l.jump(to),
        m => l.b.full(Op::ExitCond, Cond::s390(m as u8).0, NONE, NONE, NONE, to),
    }
    Some(())
}

/// BC: the mask is R1.
pub(crate) fn on_condition(l: &mut Lift, f: &Fields) -> Option<()> {
    let to = l.address(f);
    branch_on_mask(l, f.r1, to)
}

/// BCR: register 0 does not branch; BCR 15,0 and 14,0 serialize.
pub(crate) fn register_on_condition(l: &mut Lift, f: &Fields) -> Option<()> {
    if f.r2 == 0 {
        if f.r1 >= 14 {
            l.b.full(Op::Fence, Fence::Full as u8, NONE, NONE, NONE, 0);
        }
        return Some(());
    }
    branch_on_mask(l, f.r1, r(f.r2))
}

fn branch_on_mask(l: &mut Lift, mask: u32, to: Slot) -> Option<()> {
    match mask {
        0 => {}
        15 => go(l, to),
        m => {
            let to = l.masked(to);
            let s = l.b.skip_unless(Cond::s390(m as u8));
            l.b.op(Op::ExitReg, NONE, to, NONE);
            l.b.close(s);
        }
    }
    Some(())
}

/// Where a branch on count goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Relative, I2.
    Relative,
    /// Register R2; 0 does not branch.
    Register,
    /// Address operand.
    Address,
}

/// Branch on count: R1 - 1, and branch unless that is zero.
pub(crate) fn count(l: &mut Lift, f: &Fields, wide: bool, target: Target) -> Option<()> {
    // The target is taken before the count changes a register that is part of it.
    let to = match target {
        Target::Relative => Ok(relative(l, f.i2)),
        Target::Register if f.r2 == 0 => Err(NONE),
        Target::Register => Err(l.b.new2(Op::Mov, r(f.r2), NONE)),
        Target::Address => Err(l.address(f)),
    };
    let less = l.b.new_imm(if wide { Op::Sub64I } else { Op::Sub32I }, r(f.r1), 1);
    l.set(f.r1, less, wide);
    if to != Err(NONE) {
        go_if(l, less, to);
    }
    Some(())
}

/// Save the address of the next instruction in R1 as BRANCH AND SAVE does: with the addressing mode in bit 32 where it is not
/// 64 bits.
fn link(l: &mut Lift, r1: u32) {
    let next = l.next;
    match l.mode.addressing {
        Addressing::A64 => l.b.op_imm(Op::MovI, r(r1), NONE, next),
        a => {
            let mode = if a == Addressing::A31 { 1 << 31 } else { 0 };
            let t = l.b.constant(next | mode);
            l.set32(r1, t);
        }
    }
}

/// BRAS, BRASL, BAS, BASR.
pub(crate) fn and_save(l: &mut Lift, f: &Fields, target: Target) -> Option<()> {
    match target {
        Target::Relative => {
            let to = relative(l, f.i2);
            link(l, f.r1);
            l.jump(to);
        }
        Target::Register if f.r2 == 0 => link(l, f.r1),
        _ => {
            let to = if target == Target::Register { l.b.new2(Op::Mov, r(f.r2), NONE) } else { l.address(f) };
            link(l, f.r1);
            go(l, to);
        }
    }
    Some(())
}

/// Compare and branch: no condition code; mask bits 8 equal, 4 low, 2 high.
pub(crate) fn compare_and_branch(l: &mut Lift, f: &Fields, wide: bool, logical: bool, imm: bool) -> Option<()> {
    let extend = match (wide, logical) {
        (true, _) => Op::Mov,
        (false, true) => Op::Zext32,
        (false, false) => Op::Sext32,
    };
    let second = match (imm, logical) {
        (false, _) => Second::R,
        (true, false) => Second::I,
        (true, true) => Second::U(8),
    };
    let b = operand(l, f, second);
    let (a, b) = (l.b.new2(extend, r(f.r1), NONE), l.b.new2(extend, b, NONE));
    let (less, or_equal) = if logical { (Rel::Ltu, Rel::Leu) } else { (Rel::Lts, Rel::Les) };
    let taken = match f.m3 & 14 {
        0 => return Some(()),
        2 => l.b.set_rel(less, b, a),
        4 => l.b.set_rel(less, a, b),
        6 => l.b.set_rel(Rel::Ne, a, b),
        8 => l.b.set_rel(Rel::Eq, a, b),
        10 => l.b.set_rel(or_equal, b, a),
        12 => l.b.set_rel(or_equal, a, b),
        _ => l.b.constant(1),
    };
    let to = relative(l, f.branch);
    go_if(l, taken, Ok(to));
    Some(())
}

/// BRXH, BRXLE: add R3 to R1, compare with the odd register of R3's pair.
pub(crate) fn index(l: &mut Lift, f: &Fields, low_or_equal: bool) -> Option<()> {
    let sum = l.b.new2(Op::Add32, r(f.r1), r(f.r3));
    let (a, b) = (l.b.new2(Op::Sext32, sum, NONE), l.b.new2(Op::Sext32, r(f.r3 | 1), NONE));
    let taken = if low_or_equal { l.b.set_rel(Rel::Les, a, b) } else { l.b.set_rel(Rel::Lts, b, a) };
    l.set32(f.r1, sum);
    let to = relative(l, f.i2);
    go_if(l, taken, Ok(to));
    Some(())
}

/// EX and EXRL: which instruction runs is known only then, so the block ends in an event; see [`crate::execute`].
pub(crate) fn execute(l: &mut Lift, f: &Fields, long: bool) -> Option<()> {
    let target = if long {
        let at = relative(l, f.i2);
        l.b.constant(at)
    } else {
        l.address(f)
    };
    let odd = l.b.new_imm(Op::AndI, target, 1);
    l.raise_if(odd, program::SPECIFICATION);
    l.b.op(Op::Mov, EX_TARGET, target, NONE);
    // Register 0 modifies nothing.
    if f.r1 == 0 {
        l.b.op_imm(Op::MovI, EX_MODIFIER, NONE, 0);
    } else {
        l.b.op(Op::Zext8, EX_MODIFIER, r(f.r1), NONE);
    }
    let pc = l.pc;
    l.event(event::EXECUTE, pc);
    Some(())
}

/// SAM24, SAM31, SAM64. The next block is lifted for another mode, so the exit is not a direct one that could be chained.
pub(crate) fn set_addressing(l: &mut Lift, to: Addressing) -> Option<()> {
    // The address of the instruction itself must fit the new mode.
    if l.pc & !to.mask() != 0 {
        l.raise(program::SPECIFICATION);
        return Some(());
    }
    l.b.op_imm(Op::AndI, PSW, PSW, !(BASIC | EXTENDED));
    l.b.op_imm(Op::OrI, PSW, PSW, to.psw());
    let next = l.next & to.mask();
    let next = l.b.constant(next);
    l.b.op(Op::ExitReg, NONE, next, NONE);
    l.left = true;
    Some(())
}

/// TAM: condition code 0, 1, 3 for 24, 31, 64 bits.
pub(crate) fn test_addressing(l: &mut Lift, _: &Fields) -> Option<()> {
    let cc = match l.mode.addressing {
        Addressing::A24 => 0,
        Addressing::A31 => 1,
        Addressing::A64 => 3,
    };
    let cc = l.b.constant(cc);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    Some(())
}

/// LPSWE: privileged, doubleword operand; what is loaded is judged by [`crate::load_psw`].
pub(crate) fn load_psw(l: &mut Lift, f: &Fields) -> Option<()> {
    if l.mode.problem {
        l.raise(program::PRIVILEGED);
        return Some(());
    }
    let (left, right) = (l.b.temp(), l.b.temp());
    let first = MemRef { aligned: true, disp: f.d2, ..l.access(3, false, f.b2) };
    let second = MemRef { disp: f.d2 + 8, ..first };
    l.b.load(left, crate::base_slot(f.b2), NONE, first);
    l.b.load(right, crate::base_slot(f.b2), NONE, second);
    l.b.op(Op::Mov, NEW_PSW, left, NONE);
    l.b.op(Op::Mov, Slot(NEW_PSW.0 + 1), right, NONE);
    let pc = l.pc;
    l.event(event::LOAD_PSW, pc);
    Some(())
}

/// IPM: bits 32 to 39 of R1 = 00, condition code, program mask.
pub(crate) fn insert_program_mask(l: &mut Lift, f: &Fields) -> Option<()> {
    let cc = l.b.new2(Op::FlagsGet, NONE, NONE);
    let mask = l.b.new_imm(Op::Extract, PSW, u64::from(PROGRAM_MASK_SHIFT) | 4 << 8);
    let up = l.b.new_imm(Op::Shl64I, cc, 4);
    let both = l.b.new2(Op::Or, up, mask);
    l.b.full(Op::Deposit, 0, r(f.r1), r(f.r1), both, 24 | 8 << 8);
    Some(())
}

/// SPM: condition code and program mask from bits 34 to 39 of R1. The program mask decides how the next block is lifted.
pub(crate) fn set_program_mask(l: &mut Lift, f: &Fields) -> Option<()> {
    let cc = l.b.new_imm(Op::Extract, r(f.r1), 28 | 2 << 8);
    let mask = l.b.new_imm(Op::Extract, r(f.r1), 24 | 4 << 8);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    l.b.full(Op::Deposit, 0, PSW, PSW, mask, u64::from(PROGRAM_MASK_SHIFT) | 4 << 8);
    let next = l.next;
    let next = l.b.constant(next);
    l.b.op(Op::ExitReg, NONE, next, NONE);
    l.left = true;
    Some(())
}

/// EAR: the low half of R1 = access register R2.
pub(crate) fn extract_access(l: &mut Lift, f: &Fields) -> Option<()> {
    l.set32(f.r1, ar(f.r2));
    Some(())
}

/// SAR, through a helper, because the environment resolves [`crate::space::BY_REGISTER`].
pub(crate) fn set_access(l: &mut Lift, f: &Fields) -> Option<()> {
    let v = l.b.new2(Op::Zext32, r(f.r2), NONE);
    l.b.call(NONE, helper::id::SET_ACCESS, v, NONE, f.r1, ir::op::call_flags::WRITES_STATE);
    Some(())
}
