//! Every x87 instruction that does not store to memory.

use super::{Form, Fpu, Insn};
use crate::state::{FPU_OP, set_arithmetic};
use fp::x87::{self, BinaryOp, CompareOp, Constant, F80, Operand, PairOp, UnaryOp, sw};
use ir::Regs;

const BINARY: [BinaryOp; 12] = [
    BinaryOp::Add,
    BinaryOp::Sub,
    BinaryOp::SubR,
    BinaryOp::Mul,
    BinaryOp::Div,
    BinaryOp::DivR,
    BinaryOp::Prem,
    BinaryOp::Prem1,
    BinaryOp::Scale,
    BinaryOp::Patan,
    BinaryOp::Yl2x,
    BinaryOp::Yl2xp1,
];
const UNARY: [UnaryOp; 7] =
    [UnaryOp::Chs, UnaryOp::Abs, UnaryOp::Sqrt, UnaryOp::Rndint, UnaryOp::F2xm1, UnaryOp::Sin, UnaryOp::Cos];
const PAIR: [PairOp; 3] = [PairOp::Sincos, PairOp::Ptan, PairOp::Xtract];
const COMPARE: [CompareOp; 2] = [CompareOp::Ordered, CompareOp::Unordered];
const CONSTANT: [Constant; 7] =
    [Constant::Zero, Constant::One, Constant::Pi, Constant::L2t, Constant::L2e, Constant::Lg2, Constant::Ln2];

/// Executes a packed [`Insn`]. A packing that no lifter makes does nothing.
///
/// No exception is delivered here: an unmasked one leaves ES set in the status word, and the next instruction that waits
/// raises #MF.
pub fn execute(regs: &mut Regs, packed: u32, a: u64, b: u64) {
    let Some(insn) = Insn::unpack(packed) else { return };
    let fpu = &mut Fpu::new(regs);
    let before = fpu.sw();
    dispatch(fpu, insn, a, b);
    note_opcode(fpu, before, insn);
}

/// The last opcode is recorded only with an unmasked exception (SDM volume 1, 8.1.9.1).
pub(super) fn note_opcode(fpu: &mut Fpu, before: u16, insn: Insn) {
    if fpu.sw() & sw::ES != 0 && before & sw::ES == 0 {
        fpu.regs.set(FPU_OP, insn.opcode.into());
    }
}

fn dispatch(fpu: &mut Fpu, insn: Insn, a: u64, b: u64) -> Option<()> {
    let i = usize::from(insn.sti);
    let op = usize::from(insn.op);
    let pops = usize::from(insn.pops);
    let cw = fpu.cw();
    match insn.form {
        Form::Arith0i => arith(fpu, *BINARY.get(op)?, 0, Some(i), None, 0),
        Form::ArithI0 => arith(fpu, *BINARY.get(op)?, i, Some(0), None, pops),
        Form::ArithF32 => arith(fpu, *BINARY.get(op)?, 0, None, Some(Operand::F32(a as u32)), 0),
        Form::ArithF64 => arith(fpu, *BINARY.get(op)?, 0, None, Some(Operand::F64(a)), 0),
        Form::ArithInt => arith(fpu, *BINARY.get(op)?, 0, None, Some(integer(a)), 0),
        Form::Both => both(fpu, *BINARY.get(op)?, false),
        Form::BothPop => both(fpu, *BINARY.get(op)?, true),
        Form::Unary => unary(fpu, *UNARY.get(op)?),
        Form::Pair => pair(fpu, *PAIR.get(op)?),
        Form::Com if fpu.is_empty(i) => unordered(fpu, pops),
        Form::Com => compare(fpu, *COMPARE.get(op)?, Operand::Reg(fpu.st(i)), pops),
        Form::ComF32 => compare(fpu, CompareOp::Ordered, Operand::F32(a as u32), pops),
        Form::ComF64 => compare(fpu, CompareOp::Ordered, Operand::F64(a), pops),
        Form::ComInt => compare(fpu, CompareOp::Ordered, integer(a), pops),
        Form::Test => compare(fpu, CompareOp::Ordered, Operand::Reg(F80::default()), 0),
        Form::Comi => compare_flags(fpu, *COMPARE.get(op)?, i, pops),
        Form::Xam => examine(fpu),
        Form::LoadReg => load_reg(fpu, i),
        Form::LoadF32 => load(fpu, x87::load_f32(cw, a as u32)),
        Form::LoadF64 => load(fpu, x87::load_f64(cw, a)),
        Form::LoadF80 => fpu.push(F80 { mantissa: a, sign_exp: b as u16 }),
        Form::LoadInt => fpu.push(x87::load_i64(a.cast_signed())),
        Form::LoadBcd => {
            let bits = u128::from(a) | u128::from(b as u16) << 64;
            fpu.push(x87::load_bcd(F80::from_bits(bits).to_bytes()));
        }
        Form::Constant => fpu.push(x87::constant(*CONSTANT.get(op)?, cw)),
        Form::Xch => exchange(fpu, i),
        Form::StoreReg if op == 1 && fpu.is_empty(0) => {
            fpu.set_conditions(sw::C1, 0);
            fpu.pop(pops);
        }
        Form::StoreReg => store_reg(fpu, i, pops),
        Form::Cmov => conditional_move(fpu, i, a != 0),
        Form::Free => {
            fpu.free(i);
            fpu.pop(pops);
            fpu.set_conditions(sw::C1, 0);
        }
        Form::IncTop | Form::DecTop => {
            fpu.rotate(if insn.form == Form::IncTop { 1 } else { 7 });
            fpu.set_conditions(sw::C1, 0);
        }
        // Stores have their own entry.
        Form::Nop
        | Form::StoreF32
        | Form::StoreF64
        | Form::StoreF80
        | Form::StoreInt
        | Form::StoreIntTruncated
        | Form::StoreBcd => {}
    }
    Some(())
}

/// A memory integer as an operand.
fn integer(a: u64) -> Operand {
    Operand::Reg(x87::load_i64(a.cast_signed()))
}

/// ST(`dest`) = ST(`dest`) op (ST(`source`) or `memory`), then pops.
fn arith(fpu: &mut Fpu, op: BinaryOp, dest: usize, source: Option<usize>, memory: Option<Operand>, pops: usize) {
    if fpu.is_empty(dest) || source.is_some_and(|i| fpu.is_empty(i)) {
        if fpu.underflow() {
            fpu.set_st(dest, F80::INDEFINITE);
            fpu.pop(pops);
        }
        return;
    }
    let operand = match (source, memory) {
        (Some(i), _) => Operand::Reg(fpu.st(i)),
        (None, Some(operand)) => operand,
        (None, None) => return,
    };
    let (value, status) = x87::binary(op, fpu.cw(), fpu.st(dest), operand);
    fpu.set_conditions(sw::C1, status);
    if fpu.raise(status) & sw::PRE == 0 {
        fpu.set_st(dest, value);
        fpu.pop(pops);
    }
}

/// Operations on ST(0) and ST(1): the result replaces ST(0), or ST(1) with a pop.
fn both(fpu: &mut Fpu, op: BinaryOp, pop: bool) {
    let dest = usize::from(pop);
    let remainder = matches!(op, BinaryOp::Prem | BinaryOp::Prem1);
    if fpu.is_empty(0) || fpu.is_empty(1) {
        fpu.set_conditions(if remainder { sw::C2 } else { 0 }, 0);
        if fpu.underflow() {
            fpu.set_st(dest, F80::INDEFINITE);
            fpu.pop(dest);
        }
        return;
    }
    let (value, status) = x87::binary(op, fpu.cw(), fpu.st(0), Operand::Reg(fpu.st(1)));
    // A complete remainder reports the quotient in C0, C3 and C1.
    let nan = value.sign_exp & 0x7fff == 0x7fff && value.mantissa << 1 != 0;
    let stopped = x87::unmasked(status, fpu.cw()) & sw::PRE != 0;
    let codes = match (remainder, status & sw::IE == 0 && !nan && !stopped) {
        (false, _) => sw::C1,
        (true, false) => sw::C1 | sw::C2,
        (true, true) => sw::CONDITIONS,
    };
    fpu.set_conditions(codes, status);
    if fpu.raise(status) & sw::PRE == 0 {
        fpu.set_st(dest, value);
        fpu.pop(dest);
    }
}

fn unary(fpu: &mut Fpu, op: UnaryOp) {
    let codes = if matches!(op, UnaryOp::Sin | UnaryOp::Cos) { sw::C1 | sw::C2 } else { sw::C1 };
    if fpu.is_empty(0) {
        fpu.set_conditions(codes, 0);
        if fpu.underflow() {
            fpu.set_st(0, F80::INDEFINITE);
        }
        return;
    }
    let (value, status) = x87::unary(op, fpu.cw(), fpu.st(0));
    fpu.set_conditions(codes, status);
    if fpu.raise(status) & sw::PRE == 0 {
        fpu.set_st(0, value);
    }
}

fn pair(fpu: &mut Fpu, op: PairOp) {
    let (empty, full) = (fpu.is_empty(0), !fpu.is_empty(7));
    let codes = if op == PairOp::Xtract { sw::C1 } else { sw::C1 | sw::C2 };
    if empty || full {
        fpu.set_conditions(codes, if empty { 0 } else { sw::C1 });
        if fpu.raise(sw::IE | sw::SF) == 0 {
            fpu.set_st(0, F80::INDEFINITE);
            fpu.rotate(7);
            fpu.set_st(0, F80::INDEFINITE);
        }
        return;
    }
    let both = x87::pair(op, fpu.cw(), fpu.st(0));
    fpu.set_conditions(codes, both.sw);
    if fpu.raise(both.sw) & sw::PRE != 0 {
        return;
    }
    fpu.set_st(0, both.replaced);
    if let Some(pushed) = both.pushed {
        fpu.rotate(7);
        fpu.set_st(0, pushed);
    }
}

/// Comparison with an empty register.
fn unordered(fpu: &mut Fpu, pops: usize) {
    let masked = fpu.underflow();
    fpu.set_conditions(sw::CONDITIONS, sw::C0 | sw::C2 | sw::C3);
    if masked {
        fpu.pop(pops);
    }
}

fn compare(fpu: &mut Fpu, op: CompareOp, operand: Operand, pops: usize) {
    if fpu.is_empty(0) {
        return unordered(fpu, pops);
    }
    let status = x87::compare(op, fpu.cw(), fpu.st(0), operand);
    fpu.set_conditions(sw::CONDITIONS, status);
    if fpu.raise(status) & sw::PRE == 0 {
        fpu.pop(pops);
    }
}

/// EFLAGS are set even when an unmasked exception keeps the registers from being popped.
fn compare_flags(fpu: &mut Fpu, op: CompareOp, i: usize, pops: usize) {
    let unmasked = if fpu.is_empty(0) || fpu.is_empty(i) {
        set_arithmetic(fpu.regs, 0x45);
        !fpu.underflow()
    } else {
        let (eflags, status) = x87::compare_flags(op, fpu.cw(), fpu.st(0), fpu.st(i));
        set_arithmetic(fpu.regs, eflags.into());
        fpu.raise(status) & sw::PRE != 0
    };
    if !unmasked {
        fpu.pop(pops);
    }
}

fn examine(fpu: &mut Fpu) {
    let codes = x87::examine(fpu.st(0));
    let class = if fpu.is_empty(0) { sw::C3 | sw::C0 | codes & sw::C1 } else { codes };
    fpu.set_conditions(sw::CONDITIONS, class);
}

fn load(fpu: &mut Fpu, (value, status): (F80, u16)) {
    // An unmasked denormal operand does not keep a load from pushing.
    if fpu.is_empty(7) && fpu.raise(status) & sw::IE != 0 {
        fpu.set_conditions(sw::C1, 0);
        return;
    }
    fpu.push(value);
}

fn load_reg(fpu: &mut Fpu, i: usize) {
    if fpu.is_empty(i) {
        if fpu.underflow() {
            fpu.rotate(7);
            fpu.set_st(0, F80::INDEFINITE);
        }
        return;
    }
    fpu.push(fpu.st(i));
}

fn exchange(fpu: &mut Fpu, i: usize) {
    let empty = [fpu.is_empty(0), fpu.is_empty(i)];
    if empty != [false; 2] && !fpu.underflow() {
        return;
    }
    let value = |index: usize, empty: bool| if empty { F80::INDEFINITE } else { fpu.st(index) };
    let (first, second) = (value(0, empty[0]), value(i, empty[1]));
    fpu.set_st(0, second);
    fpu.set_st(i, first);
    fpu.set_conditions(sw::C1, 0);
}

fn store_reg(fpu: &mut Fpu, i: usize, pops: usize) {
    let empty = fpu.is_empty(0);
    if empty && !fpu.underflow() {
        return;
    }
    let value = if empty { F80::INDEFINITE } else { fpu.st(0) };
    fpu.set_st(i, value);
    fpu.set_conditions(sw::C1, 0);
    fpu.pop(pops);
}

fn conditional_move(fpu: &mut Fpu, i: usize, condition: bool) {
    if fpu.is_empty(0) || fpu.is_empty(i) {
        if fpu.underflow() {
            fpu.set_st(0, F80::INDEFINITE);
        }
        return;
    }
    if condition {
        fpu.set_st(0, fpu.st(i));
    }
}
