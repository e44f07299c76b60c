//! x87 instructions: each is one helper call with a packed [`Insn`], after the checks that every one of them makes.
//!
//! Order of events, as in hardware: #NM for the unit, #MF for an exception of an earlier instruction, faults of the memory
//! operand, then the operation; what it raises waits for the next instruction. Last instruction and operand pointers are
//! written after everything that may stop.

use fp::x87::{BinaryOp, CompareOp, Constant, IntWidth, PairOp, UnaryOp};
use iced_x86::{Mnemonic, OpKind, Register};
use ir::flags::Cond;
use ir::{NONE, Op, Slot};

use super::simd::Unit;
use super::{Flow, Lifted, Lifter};
use crate::fpu::{Form, Insn};
use crate::helpers::Helper;
use crate::helpers::fpu::{FpuAccess, FpuOp};
use crate::mode::Mode;
use crate::state::{FPU_CW, FPU_DP, FPU_IP, FPU_OP, FPU_SW, FPU_TAG, Seg};

/// How an arithmetic or comparing instruction finds its operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Real arithmetic with a register or a real in memory.
    Real(BinaryOp),
    /// The same, then a pop.
    RealPop(BinaryOp),
    /// With an integer in memory.
    Integer(BinaryOp),
    /// Comparison, and how many pops follow.
    Compare(CompareOp, u8),
    /// Comparison with an integer in memory.
    CompareInteger(u8),
    /// Comparison into EFLAGS.
    CompareFlags(CompareOp, u8),
    /// Registers only: form, operation within it.
    Fixed(Form, u8),
    /// ST(0) = ST(i) under an x86 condition code.
    Move(u8),
    /// Load: real, integer, decimal.
    Load,
    LoadInteger,
    LoadDecimal,
    /// Store: real, integer (truncated), decimal, and pops.
    Store(u8),
    StoreInteger(bool, u8),
    StoreDecimal,
    /// FSTPNCE: a store that does not look whether ST(0) is empty.
    StoreQuietly,
    /// With register ST(i) alone.
    Exchange,
    Free(u8),
}

fn row(m: Mnemonic) -> Option<Class> {
    use BinaryOp as B;
    use Class as C;
    use CompareOp::{Ordered, Unordered};
    use Mnemonic as M;
    Some(match m {
        M::Fadd => C::Real(B::Add),
        M::Fsub => C::Real(B::Sub),
        M::Fsubr => C::Real(B::SubR),
        M::Fmul => C::Real(B::Mul),
        M::Fdiv => C::Real(B::Div),
        M::Fdivr => C::Real(B::DivR),
        M::Faddp => C::RealPop(B::Add),
        M::Fsubp => C::RealPop(B::Sub),
        M::Fsubrp => C::RealPop(B::SubR),
        M::Fmulp => C::RealPop(B::Mul),
        M::Fdivp => C::RealPop(B::Div),
        M::Fdivrp => C::RealPop(B::DivR),
        M::Fiadd => C::Integer(B::Add),
        M::Fisub => C::Integer(B::Sub),
        M::Fisubr => C::Integer(B::SubR),
        M::Fimul => C::Integer(B::Mul),
        M::Fidiv => C::Integer(B::Div),
        M::Fidivr => C::Integer(B::DivR),
        M::Fcom => C::Compare(Ordered, 0),
        M::Fcomp => C::Compare(Ordered, 1),
        M::Fcompp => C::Compare(Ordered, 2),
        M::Fucom => C::Compare(Unordered, 0),
        M::Fucomp => C::Compare(Unordered, 1),
        M::Fucompp => C::Compare(Unordered, 2),
        M::Ficom => C::CompareInteger(0),
        M::Ficomp => C::CompareInteger(1),
        M::Fcomi => C::CompareFlags(Ordered, 0),
        M::Fcomip => C::CompareFlags(Ordered, 1),
        M::Fucomi => C::CompareFlags(Unordered, 0),
        M::Fucomip => C::CompareFlags(Unordered, 1),
        M::Ftst => C::Fixed(Form::Test, 0),
        M::Fxam => C::Fixed(Form::Xam, 0),
        M::Fchs => C::Fixed(Form::Unary, UnaryOp::Chs as u8),
        M::Fabs => C::Fixed(Form::Unary, UnaryOp::Abs as u8),
        M::Fsqrt => C::Fixed(Form::Unary, UnaryOp::Sqrt as u8),
        M::Frndint => C::Fixed(Form::Unary, UnaryOp::Rndint as u8),
        M::F2xm1 => C::Fixed(Form::Unary, UnaryOp::F2xm1 as u8),
        M::Fsin => C::Fixed(Form::Unary, UnaryOp::Sin as u8),
        M::Fcos => C::Fixed(Form::Unary, UnaryOp::Cos as u8),
        M::Fsincos => C::Fixed(Form::Pair, PairOp::Sincos as u8),
        M::Fptan => C::Fixed(Form::Pair, PairOp::Ptan as u8),
        M::Fxtract => C::Fixed(Form::Pair, PairOp::Xtract as u8),
        M::Fprem => C::Fixed(Form::Both, B::Prem as u8),
        M::Fprem1 => C::Fixed(Form::Both, B::Prem1 as u8),
        M::Fscale => C::Fixed(Form::Both, B::Scale as u8),
        M::Fpatan => C::Fixed(Form::BothPop, B::Patan as u8),
        M::Fyl2x => C::Fixed(Form::BothPop, B::Yl2x as u8),
        M::Fyl2xp1 => C::Fixed(Form::BothPop, B::Yl2xp1 as u8),
        M::Fldz => C::Fixed(Form::Constant, Constant::Zero as u8),
        M::Fld1 => C::Fixed(Form::Constant, Constant::One as u8),
        M::Fldpi => C::Fixed(Form::Constant, Constant::Pi as u8),
        M::Fldl2t => C::Fixed(Form::Constant, Constant::L2t as u8),
        M::Fldl2e => C::Fixed(Form::Constant, Constant::L2e as u8),
        M::Fldlg2 => C::Fixed(Form::Constant, Constant::Lg2 as u8),
        M::Fldln2 => C::Fixed(Form::Constant, Constant::Ln2 as u8),
        M::Fincstp => C::Fixed(Form::IncTop, 0),
        M::Fdecstp => C::Fixed(Form::DecTop, 0),
        M::Fnop => C::Fixed(Form::Nop, 0),
        M::Fcmovb => C::Move(2),
        M::Fcmove => C::Move(4),
        M::Fcmovbe => C::Move(6),
        M::Fcmovu => C::Move(10),
        M::Fcmovnb => C::Move(3),
        M::Fcmovne => C::Move(5),
        M::Fcmovnbe => C::Move(7),
        M::Fcmovnu => C::Move(11),
        M::Fld => C::Load,
        M::Fild => C::LoadInteger,
        M::Fbld => C::LoadDecimal,
        M::Fst => C::Store(0),
        M::Fstp => C::Store(1),
        M::Fstpnce => C::StoreQuietly,
        M::Fist => C::StoreInteger(false, 0),
        M::Fistp => C::StoreInteger(false, 1),
        M::Fisttp => C::StoreInteger(true, 1),
        M::Fbstp => C::StoreDecimal,
        M::Fxch => C::Exchange,
        M::Ffree => C::Free(0),
        M::Ffreep => C::Free(1),
        _ => return None,
    })
}

/// Lifts x87 instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    if let Some(control) = control(l.i.mnemonic()) {
        return lift_control(l, control);
    }
    let class = row(l.i.mnemonic())?;
    if let Some(vector) = l.unit_fault(Unit::X87) {
        return l.raise(vector);
    }
    l.wait_x87();
    let memory = (0..l.i.op_count()).any(|n| l.is_mem(n));
    match class {
        Class::Store(pops) if memory => {
            let form = match l.i.memory_size().size() {
                4 => Form::StoreF32,
                8 => Form::StoreF64,
                _ => Form::StoreF80,
            };
            store(l, form, 0, pops);
        }
        Class::StoreInteger(truncate, pops) => {
            let form = if truncate { Form::StoreIntTruncated } else { Form::StoreInt };
            let width = match l.i.memory_size().size() {
                2 => IntWidth::W16,
                4 => IntWidth::W32,
                _ => IntWidth::W64,
            };
            store(l, form, width as u8, pops);
        }
        Class::StoreDecimal => store(l, Form::StoreBcd, 0, 1),
        _ => compute(l, class, memory)?,
    }
    note_pointers(l, memory);
    Some(Flow::Next)
}

/// The register of the stack that is operand `n`.
fn sti(l: &Lifter, n: u32) -> Option<u8> {
    (l.i.op_kind(n) == OpKind::Register && l.i.op_register(n).is_st()).then(|| l.i.op_register(n).number() as u8)
}

/// The register of the stack that is the last operand (the only one, or the source beside ST(0)); ST(1) if there is none.
fn last_sti(l: &Lifter) -> Option<u8> {
    match l.i.op_count() {
        0 => Some(1),
        n => sti(l, n - 1),
    }
}

fn call(l: &mut Lifter, form: Form, op: u8, sti: u8, pops: u8, (a, b): (Slot, Slot)) {
    let packed = Insn { form, op, sti, pops, opcode: opcode(l) }.pack();
    l.call(NONE, Helper::X87, a, b, packed);
}

/// The memory operand as a real: its bits, and the form that takes it.
fn real(l: &mut Lifter, single: Form, double: Form) -> (Slot, Form) {
    let (ea, bits) = (l.ea(), l.i.memory_size().size() as u32 * 8);
    let v = l.load(ea, bits);
    (v, if bits == 32 { single } else { double })
}

/// The memory operand as a sign-extended integer.
fn integer(l: &mut Lifter) -> Slot {
    let (ea, bits) = (l.ea(), l.i.memory_size().size() as u32 * 8);
    let v = l.load(ea, bits);
    l.sext(v, bits)
}

/// The memory operand's ten bytes: low eight, high two.
fn ten_bytes(l: &mut Lifter) -> Option<(Slot, Slot)> {
    let ea = l.ea();
    let low = l.load(ea, 64);
    let upper = l.advance(ea, 8);
    Some((low, l.load(upper, 16)))
}

fn compute(l: &mut Lifter, class: Class, memory: bool) -> Option<()> {
    const NOTHING: (Slot, Slot) = (NONE, NONE);
    match class {
        Class::Real(op) if memory => {
            let (v, form) = real(l, Form::ArithF32, Form::ArithF64);
            call(l, form, op as u8, 0, 0, (v, NONE));
        }
        Class::Real(op) => match (sti(l, 0)?, sti(l, 1)?) {
            (0, i) => call(l, Form::Arith0i, op as u8, i, 0, NOTHING),
            (i, _) => call(l, Form::ArithI0, op as u8, i, 0, NOTHING),
        },
        Class::RealPop(op) => {
            let i = sti(l, 0)?;
            call(l, Form::ArithI0, op as u8, i, 1, NOTHING);
        }
        Class::Integer(op) => {
            let v = integer(l);
            call(l, Form::ArithInt, op as u8, 0, 0, (v, NONE));
        }
        Class::Compare(op, pops) if memory => {
            let (v, form) = real(l, Form::ComF32, Form::ComF64);
            call(l, form, op as u8, 0, pops, (v, NONE));
        }
        Class::Compare(op, pops) => {
            let i = last_sti(l)?;
            call(l, Form::Com, op as u8, i, pops, NOTHING);
        }
        Class::CompareInteger(pops) => {
            let v = integer(l);
            call(l, Form::ComInt, 0, 0, pops, (v, NONE));
        }
        Class::CompareFlags(op, pops) => {
            let i = last_sti(l)?;
            call(l, Form::Comi, op as u8, i, pops, NOTHING);
        }
        Class::Fixed(form, op) => call(l, form, op, 0, 0, NOTHING),
        Class::Move(condition) => {
            let i = last_sti(l)?;
            let t = l.b.temp();
            l.b.full(Op::Cond, Cond::x86(condition).0, t, NONE, NONE, 0);
            call(l, Form::Cmov, 0, i, 0, (t, NONE));
        }
        Class::Load if memory && l.i.memory_size().size() == 10 => {
            let bytes = ten_bytes(l)?;
            call(l, Form::LoadF80, 0, 0, 0, bytes);
        }
        Class::Load if memory => {
            let (v, form) = real(l, Form::LoadF32, Form::LoadF64);
            call(l, form, 0, 0, 0, (v, NONE));
        }
        Class::Load => {
            let i = last_sti(l)?;
            call(l, Form::LoadReg, 0, i, 0, NOTHING);
        }
        Class::LoadInteger => {
            let v = integer(l);
            call(l, Form::LoadInt, 0, 0, 0, (v, NONE));
        }
        Class::LoadDecimal => {
            let bytes = ten_bytes(l)?;
            call(l, Form::LoadBcd, 0, 0, 0, bytes);
        }
        Class::Store(pops) => {
            let i = sti(l, 0)?;
            call(l, Form::StoreReg, 0, i, pops, NOTHING);
        }
        Class::StoreQuietly => {
            let i = sti(l, 0)?;
            call(l, Form::StoreReg, 1, i, 1, NOTHING);
        }
        Class::Exchange => {
            let i = last_sti(l)?;
            call(l, Form::Xch, 0, i, 0, NOTHING);
        }
        Class::Free(pops) => {
            let i = sti(l, 0)?;
            call(l, Form::Free, 0, i, pops, NOTHING);
        }
        Class::StoreInteger(..) | Class::StoreDecimal => return None,
    }
    Some(())
}

fn store(l: &mut Lifter, form: Form, op: u8, pops: u8) {
    let packed = Insn { form, op, sti: 0, pops, opcode: opcode(l) }.pack();
    let packed = l.constant(packed.into());
    memory_call(l, FpuOp::Store, packed, false);
}

/// A helper call on the memory operand.
pub(super) fn memory_call(l: &mut Lifter, op: FpuOp, b: Slot, wide: bool) {
    let (address, ea) = l.ea_slot();
    let access = FpuAccess { op, space: ea.space, stack: ea.stack, wide };
    l.call(NONE, Helper::FpuMemory, address, b, access.pack());
}

/// Every instruction that is not a control instruction leaves its address and its operand's.
fn note_pointers(l: &mut Lifter, memory: bool) {
    let pc = l.pc;
    l.absolute_into(FPU_IP, pc);
    if !memory {
        return;
    }
    // An offset: without the base that FS or GS adds.
    let based = matches!(super::operand::seg_of(l.i.memory_segment()), Some(Seg::Fs | Seg::Gs));
    let ea = if based { l.offset_part() } else { l.ea() };
    if ea.base == NONE && ea.index == NONE {
        let v = i64::from(ea.disp).cast_unsigned();
        l.b.op_imm(Op::MovI, FPU_DP, NONE, if l.code64() { v } else { v & 0xffff_ffff });
    } else {
        let op = if l.code64() { Op::Lea } else { Op::Lea32 };
        l.b.full(op, ea.scale, FPU_DP, ea.base, ea.index, i64::from(ea.disp).cast_unsigned());
    }
}

/// The 11-bit opcode: the low three bits of the first byte, and the second byte (ModRM).
fn opcode(l: &Lifter) -> u16 {
    let info = l.i.op_code();
    let code = info.op_code() as u16;
    if info.op_code_len() == 2 {
        // D8 C0+i: the register is added.
        let register = match l.i.op_count() {
            0 => 0,
            _ => (0..l.i.op_count()).filter_map(|n| sti(l, n)).max().unwrap_or(0),
        };
        return (code & 0x7ff) | u16::from(register);
    }
    (code & 7) << 8 | u16::from(modrm(l, info.group_index().max(0) as u8))
}

/// ModRM of the memory operand, for 32- and 64-bit addresses as assemblers make it; 16-bit ones by their table.
fn modrm(l: &Lifter, reg: u8) -> u8 {
    let (base, index) = (l.i.memory_base(), l.i.memory_index());
    let mode = match l.i.memory_displ_size() {
        0 => 0,
        1 => 1,
        _ if matches!(base, Register::None | Register::RIP | Register::EIP) => 0,
        _ => 2,
    };
    let rm = if l.address_bits() == 16 {
        match (base, index) {
            (Register::BX, Register::SI) => 0,
            (Register::BX, Register::DI) => 1,
            (Register::BP, Register::SI) => 2,
            (Register::BP, Register::DI) => 3,
            (Register::SI, _) => 4,
            (Register::DI, _) => 5,
            (Register::BX, _) => 7,
            _ => 6,
        }
    } else if index != Register::None || base == Register::None && l.code64() {
        4
    } else if matches!(base, Register::None | Register::RIP | Register::EIP) {
        5
    } else {
        (base.number() & 7) as u8
    };
    mode << 6 | reg << 3 | rm
}

/// Control instructions: they leave the pointers alone. The waiting form of those named with "N" is a WAIT before them, an
/// instruction of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Control {
    Wait,
    Init,
    Clear,
    LoadWord,
    StoreWord,
    StoreStatus,
    Memory(FpuOp),
    /// Of the 8087 and 80287; without effect since.
    Obsolete,
}

/// The control instruction, and whether it waits.
fn control(m: Mnemonic) -> Option<(Control, bool)> {
    use Mnemonic as M;
    Some(match m {
        M::Wait => (Control::Wait, true),
        M::Fninit => (Control::Init, false),
        M::Fnclex => (Control::Clear, false),
        M::Fldcw => (Control::LoadWord, true),
        M::Fnstcw => (Control::StoreWord, false),
        M::Fnstsw => (Control::StoreStatus, false),
        M::Fnstenv => (Control::Memory(FpuOp::StoreEnv), false),
        M::Fnsave => (Control::Memory(FpuOp::Save), false),
        M::Fldenv => (Control::Memory(FpuOp::LoadEnv), true),
        M::Frstor => (Control::Memory(FpuOp::Restore), true),
        M::Fneni | M::Fndisi | M::Fnsetpm | M::Frstpm => (Control::Obsolete, false),
        _ => return None,
    })
}

fn lift_control(l: &mut Lifter, (control, waits): (Control, bool)) -> Lifted {
    let fault = if control == Control::Wait {
        // WAIT looks at TS only if MP is set, and not at EM.
        (l.mode.contains(Mode::MP) && l.mode.contains(Mode::TS)).then_some(crate::exception::NM)
    } else {
        l.unit_fault(Unit::X87)
    };
    if let Some(vector) = fault {
        return l.raise(vector);
    }
    if waits {
        l.wait_x87();
    }
    match control {
        Control::Wait | Control::Obsolete => {}
        Control::Init => {
            l.b.op_imm(Op::MovI, FPU_CW, NONE, fp::x87::CW_RESET.into());
            for word in [FPU_SW, FPU_TAG, FPU_IP, FPU_DP, FPU_OP] {
                l.b.op_imm(Op::MovI, word, NONE, 0);
            }
        }
        // Flags, stack fault, ES and B.
        Control::Clear => l.b.op_imm(Op::AndI, FPU_SW, FPU_SW, 0x7f00),
        Control::LoadWord => {
            let ea = l.ea();
            let v = l.load(ea, 16);
            l.call(NONE, Helper::FpuLoadControl, v, NONE, 0);
        }
        Control::StoreWord => l.write(0, FPU_CW),
        Control::StoreStatus => l.write(0, FPU_SW),
        Control::Memory(op) => {
            let wide = matches!(l.i.memory_size().size(), 28 | 108);
            memory_call(l, op, NONE, wide);
        }
    }
    Some(Flow::Next)
}
