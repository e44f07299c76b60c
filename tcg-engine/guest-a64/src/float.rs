//! Scalar floating point in single and double precision (C4.1.96), through `fp::soft` with aarch64's rules.
//!
//! Each instruction is one helper call whose immediate is an [`Operation`]: the helper reads and writes vector registers.

use fp::soft::{self, F32, F64, Format, Relation, Rounding, Rules, flags as flag};
use ir::flags::Kind;
use ir::op::{FLAG_KIND, FLAG_R, FPC, NONE, call_flags};
use ir::{Op, Regs};

use crate::{Lift, bits, helper, v, x};

/// What to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kernel {
    Mul,
    Div,
    Add,
    Sub,
    NMul,
    MAdd,
    MSub,
    NMAdd,
    NMSub,
    Sqrt,
    Convert,
    Compare,
    CompareSignalling,
    ToInt,
    FromInt,
}

const KERNELS: [Kernel; 15] = [
    Kernel::Mul,
    Kernel::Div,
    Kernel::Add,
    Kernel::Sub,
    Kernel::NMul,
    Kernel::MAdd,
    Kernel::MSub,
    Kernel::NMAdd,
    Kernel::NMSub,
    Kernel::Sqrt,
    Kernel::Convert,
    Kernel::Compare,
    Kernel::CompareSignalling,
    Kernel::ToInt,
    Kernel::FromInt,
];

/// A floating-point instruction, packed into a helper's 32-bit immediate: kernel 0..4, double 4, wide integer 5, unsigned 6,
/// compare with zero 7, Rd 8..13, Rn 13..18, Rm 18..23, Ra 23..28, rounding 28..31 (7: FPCR's).
#[derive(Clone, Copy)]
pub struct Operation(u32);

impl Operation {
    fn new(kernel: Kernel, double: bool, i: u32) -> Operation {
        let registers = bits(i, 4, 0) << 8 | bits(i, 9, 5) << 13 | bits(i, 20, 16) << 18 | bits(i, 14, 10) << 23;
        Operation(kernel as u32 | u32::from(double) << 4 | registers | 7 << 28)
    }

    fn with(self, bit: u32, on: bool) -> Operation {
        Operation(self.0 | u32::from(on) << bit)
    }
}

pub(crate) fn lift(l: &mut Lift, i: u32) -> Option<()> {
    let double = match bits(i, 23, 22) {
        0 => false,
        1 => true,
        _ => return None,
    };
    let op = match (bits(i, 31, 24), bits(i, 21, 21)) {
        (0b0001_1111, o1) => {
            let kernel =
                [Kernel::MAdd, Kernel::MSub, Kernel::NMAdd, Kernel::NMSub][(o1 << 1 | bits(i, 15, 15)) as usize];
            Operation::new(kernel, double, i)
        }
        (0b0001_1110, 1) if bits(i, 11, 10) == 2 => {
            let kernel = match bits(i, 15, 12) {
                0 => Kernel::Mul,
                1 => Kernel::Div,
                2 => Kernel::Add,
                3 => Kernel::Sub,
                8 => Kernel::NMul,
                _ => return None,
            };
            Operation::new(kernel, double, i)
        }
        (0b0001_1110, 1) if bits(i, 14, 10) == 0b10000 => match bits(i, 20, 15) {
            n @ 0..=2 => return sign(l, i, double, n),
            3 => Operation::new(Kernel::Sqrt, double, i),
            4 if double => Operation::new(Kernel::Convert, double, i),
            5 if !double => Operation::new(Kernel::Convert, double, i),
            _ => return None,
        },
        (0b0001_1110, 1) if bits(i, 15, 10) == 0b001000 && bits(i, 2, 0) == 0 => {
            let kernel = if bits(i, 4, 4) == 1 { Kernel::CompareSignalling } else { Kernel::Compare };
            Operation::new(kernel, double, i).with(7, bits(i, 3, 3) == 1)
        }
        (0b0001_1110 | 0b1001_1110, 1) if bits(i, 15, 10) == 0 => return integer(l, i, double),
        _ => return None,
    };
    call(l, op);
    Some(())
}

fn call(l: &mut Lift, op: Operation) {
    l.b.call(NONE, helper::FLOAT, NONE, NONE, op.0, call_flags::READS_STATE | call_flags::WRITES_STATE);
}

/// FMOV (register), FABS, FNEG: no arithmetic, no flags.
fn sign(l: &mut Lift, i: u32, double: bool, which: u32) -> Option<()> {
    let (d, n) = (v(bits(i, 4, 0)), v(bits(i, 9, 5)));
    let top = 1u64 << if double { 63 } else { 31 };
    let a = l.b.new2(if double { Op::Mov } else { Op::Zext32 }, n, NONE);
    match which {
        0 => l.b.op(Op::Mov, d, a, NONE),
        1 => l.b.op_imm(Op::AndI, d, a, !top),
        _ => l.b.op_imm(Op::XorI, d, a, top),
    }
    l.b.op_imm(Op::MovI, ir::Slot(d.0 + 1), NONE, 0);
    Some(())
}

/// FCVT{N,P,M,Z,A}{S,U}, SCVTF, UCVTF, FMOV between general and vector registers.
fn integer(l: &mut Lift, i: u32, double: bool) -> Option<()> {
    let (rmode, opcode, wide) = (bits(i, 20, 19), bits(i, 18, 16), bits(i, 31, 31) == 1);
    let op = match opcode {
        0 | 1 | 4 | 5 => {
            let away = opcode >= 4;
            if away && rmode != 0 {
                return None;
            }
            let rounding = if away { 4 } else { rmode };
            let op = Operation::new(Kernel::ToInt, double, i).0 & !(7 << 28) | rounding << 28;
            Operation(op).with(5, wide).with(6, opcode & 1 == 1)
        }
        2 | 3 if rmode == 0 => Operation::new(Kernel::FromInt, double, i).with(5, wide).with(6, opcode & 1 == 1),
        6 if rmode == 0 && wide == double => {
            let d = l.write(bits(i, 4, 0));
            l.assign(d, v(bits(i, 9, 5)), wide);
            return Some(());
        }
        7 if rmode == 0 && wide == double => {
            let s = l.read(bits(i, 9, 5));
            let d = v(bits(i, 4, 0));
            l.assign(d, s, wide);
            l.b.op_imm(Op::MovI, ir::Slot(d.0 + 1), NONE, 0);
            return Some(());
        }
        _ => return None,
    };
    call(l, op);
    Some(())
}

/// FPSR bits of raised flags (FPSR: IOC 0, DZC 1, OFC 2, UFC 3, IXC 4, IDC 7).
fn status(raised: u32) -> u64 {
    let bit = |f: u32, to: u32| u64::from(raised & f != 0) << to;
    bit(flag::INVALID, 0)
        | bit(flag::DIV_BY_ZERO, 1)
        | bit(flag::OVERFLOW, 2)
        | bit(flag::UNDERFLOW, 3)
        | bit(flag::INEXACT, 4)
        | bit(flag::DENORMAL, 7)
}

fn rounding(n: u32) -> Option<Rounding> {
    match n {
        0 => Some(Rounding::NearestEven),
        1 => Some(Rounding::Up),
        2 => Some(Rounding::Down),
        3 => Some(Rounding::TowardZero),
        4 => Some(Rounding::NearestAway),
        _ => None,
    }
}

/// Negate unless that would touch a NaN: fused forms negate operands before use (FPNeg), NaNs included.
fn negate(f: Format, a: u64) -> u64 {
    a ^ if f == F64 { 1 << 63 } else { 1 << 31 }
}

/// Execute a packed [`Operation`]; returns 0.
pub(crate) fn execute(regs: &mut Regs, imm: u32) -> u64 {
    let double = imm >> 4 & 1 != 0;
    let f = if double { F64 } else { F32 };
    let other = if double { F32 } else { F64 };
    let field = |at: u32| imm >> at & 31;
    let mask = if double { u64::MAX } else { 0xffff_ffff };
    let source = |regs: &Regs, at: u32| regs.get(v(field(at))) & mask;
    let control = regs.get(FPC);
    let rules = Rules::aarch64(control & 0xffff_ffff);
    let rules = rounding(imm >> 28 & 7).map_or(rules, |r| rules.with_rounding(r));
    let (n, m, a) = (source(regs, 13), source(regs, 18), source(regs, 23));
    let bits = if imm >> 5 & 1 != 0 { 64 } else { 32 };
    let signed = imm >> 6 & 1 == 0;
    let mut raised = 0;
    let mut take = |(value, flags): (u64, u32)| {
        raised = flags;
        value
    };
    let kernel = KERNELS[(imm as usize & 15).min(KERNELS.len() - 1)];
    let value = match kernel {
        Kernel::Mul => take(soft::mul(f, n, m, rules)),
        Kernel::Div => take(soft::div(f, n, m, rules)),
        Kernel::Add => take(soft::add(f, n, m, rules)),
        Kernel::Sub => take(soft::sub(f, n, m, rules)),
        // The product is negated after it is made, NaN or not (FPMul, then FPNeg).
        Kernel::NMul => negate(f, take(soft::mul(f, n, m, rules))),
        Kernel::MAdd => take(soft::fma(f, n, m, a, rules)),
        Kernel::MSub => take(soft::fma(f, negate(f, n), m, a, rules)),
        Kernel::NMAdd => take(soft::fma(f, negate(f, n), m, negate(f, a), rules)),
        Kernel::NMSub => take(soft::fma(f, n, m, negate(f, a), rules)),
        Kernel::Sqrt => take(soft::sqrt(f, n, rules)),
        Kernel::Convert => take(soft::convert(f, other, n, rules)),
        Kernel::ToInt => take(soft::to_int(f, n, bits, signed, rules)),
        Kernel::FromInt => {
            let general = field(13);
            let s = if general == 31 { 0 } else { regs.get(x(general)) };
            take(soft::from_int(f, s, bits, signed, rules))
        }
        Kernel::Compare | Kernel::CompareSignalling => {
            let m = if imm >> 7 & 1 != 0 { 0 } else { m };
            let (relation, flags) = soft::compare(f, n, m, kernel == Kernel::CompareSignalling, rules);
            raised = flags;
            let nzcv: u64 = match relation {
                Relation::Less => 0x8,
                Relation::Equal => 0x6,
                Relation::Greater => 0x2,
                Relation::Unordered => 0x3,
            };
            regs.set(FLAG_KIND, ir::flags::kind_word(Kind::A64Explicit, 64));
            regs.set(FLAG_R, nzcv << 28);
            0
        }
    };
    regs.set(FPC, control | status(raised) << 32);
    let d = field(8);
    match kernel {
        Kernel::Compare | Kernel::CompareSignalling => {}
        Kernel::ToInt => {
            if d != 31 {
                regs.set(x(d), if bits == 64 { value } else { value & 0xffff_ffff });
            }
        }
        _ => regs.set128(v(d), u128::from(value)),
    }
    0
}
