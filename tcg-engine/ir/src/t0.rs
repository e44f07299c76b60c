//! T0: the interpreter of the IR. Owns nothing; runs one block against a register file and an environment.
//!
//! A plain `match` over the operations. It is the oracle that faster tiers are compared with, so every arm is the definition
//! of its operation. Precision costs nothing in the hot path: an operation that stops looks its guest instruction up in the
//! block's side table.

mod bits;

use crate::block::Block;
use crate::flags::{self, Cond, Kind};
use crate::op::{
    AluOp, AluRef, AtomicOp, BulkOp, BulkRef, FLAG_A, FLAG_B, FLAG_KIND, FLAG_R, FPC, Fence, FpRef, Inst, MemRef, NONE,
    Op, PC, Rel, Slot,
};
use crate::{Env, Regs, Stop, Then};

/// How a block ended. The program counter word says where the guest goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// By a direct exit: 0 or 1 are its chain slots, 2 a side exit.
    Direct(u8),
    /// To a computed program counter, or cut short after an instruction.
    Indirect,
    /// With an event for the run loop.
    Event(u8),
    /// A guest exception is pending; the program counter is that of the faulting instruction.
    Fault,
    /// The current instruction is to be run again; the program counter is its own.
    Restart,
    /// Not at all: one operation was run alone.
    Stepped,
}

/// Result of [`run`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How the block ended.
    pub exit: Exit,
    /// Guest instructions completed.
    pub instructions: u32,
}

/// Run `block` from its first operation.
pub fn run<E: Env>(block: &Block, regs: &mut Regs, env: &mut E) -> Outcome {
    interpret::<E, false>(block, &block.insts, 0, regs, env).0
}

/// Run the rest of a block from operation `start` on.
pub fn resume<E: Env>(block: &Block, start: usize, regs: &mut Regs, env: &mut E) -> Outcome {
    interpret::<E, false>(block, &block.insts, start, regs, env).0
}

/// Run the operations from `start` on that are left of its guest instruction, and leave the block.
pub fn finish<E: Env>(block: &Block, start: usize, regs: &mut Regs, env: &mut E) -> Outcome {
    let end = start.max(end_of_instruction(block, start.saturating_sub(1)));
    interpret::<E, false>(block, &block.insts[..end], start, regs, env).0
}

/// What came of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The next operation follows.
    Next,
    /// It has taken effect; its guest instruction is to be finished ([`finish`]) and the block left.
    Finish,
    /// The block was left.
    Left(Outcome),
}

/// Run operation `op`, which is no skip, alone. The program counter word changes only if the block is left.
pub fn step<E: Env>(block: &Block, op: usize, regs: &mut Regs, env: &mut E) -> Step {
    let Some(insts) = block.insts.get(..op + 1) else { return Step::Next };
    let (out, cut) = interpret::<E, true>(block, insts, op, regs, env);
    match (out.exit, cut) {
        (Exit::Stepped, false) => Step::Next,
        (Exit::Stepped, true) => Step::Finish,
        _ => Step::Left(out),
    }
}

/// The interpreter proper. With `ALONE`, running off the end of `insts` leaves the block's state alone; the second answer then
/// says whether the instruction is to be finished.
#[inline(always)]
fn interpret<'a, E: Env, const ALONE: bool>(
    block: &'a Block,
    mut insts: &'a [Inst],
    mut i: usize,
    regs: &mut Regs,
    env: &mut E,
) -> (Outcome, bool) {
    let mut cut = false;

    macro_rules! leave {
        ($exit:expr, $pc:expr) => {{
            let pc = $pc;
            regs.set(PC, pc);
            return (Outcome { exit: $exit, instructions: completed(block, i) }, cut);
        }};
    }
    // A stop before the effect: the instruction has not happened.
    macro_rules! stop {
        ($s:expr) => {{
            let p = block.point_of(i - 1);
            let pc = block.pc_of(p);
            regs.set(PC, block.origin(regs).wrapping_add(pc));
            let exit = if $s == Stop::Restart { Exit::Restart } else { Exit::Fault };
            return (Outcome { exit, instructions: p as u32 }, cut);
        }};
    }
    macro_rules! finish {
        () => {
            if ALONE {
                cut = true;
            } else {
                insts = &block.insts[..end_of_instruction(block, i - 1)];
            }
        };
    }
    macro_rules! value {
        ($e:expr) => {
            match $e {
                Ok(v) => v,
                Err(s) => stop!(s),
            }
        };
    }
    macro_rules! value_then {
        ($e:expr, $v:ident => $write:expr) => {
            match $e {
                Ok(($v, then)) => {
                    $write;
                    if then == Then::FinishInstruction {
                        finish!();
                    }
                }
                Err(s) => stop!(s),
            }
        };
    }
    macro_rules! effect {
        ($e:expr) => {
            match $e {
                Ok(()) => {}
                Err(Stop::FinishInstruction) => finish!(),
                Err(s) => stop!(s),
            }
        };
    }
    macro_rules! bin64 {
        ($x:expr, $f:expr) => {{
            let v = $f(regs.get($x.a), regs.get($x.b));
            regs.set($x.d, v);
        }};
    }
    macro_rules! imm64 {
        ($x:expr, $f:expr) => {{
            let v = $f(regs.get($x.a), $x.imm);
            regs.set($x.d, v);
        }};
    }
    macro_rules! bin32 {
        ($x:expr, $f:expr) => {{
            let v: u32 = $f(regs.get($x.a) as u32, regs.get($x.b) as u32);
            regs.set($x.d, u64::from(v));
        }};
    }
    macro_rules! imm32 {
        ($x:expr, $f:expr) => {{
            let v: u32 = $f(regs.get($x.a) as u32, $x.imm as u32);
            regs.set($x.d, u64::from(v));
        }};
    }

    loop {
        let Some(x) = insts.get(i) else {
            if ALONE {
                return (Outcome { exit: Exit::Stepped, instructions: 0 }, cut);
            }
            // Cut short after an instruction.
            let p = block.points.partition_point(|p| (p.op as usize) < i);
            let pc = block.pc_of(p);
            regs.set(PC, block.origin(regs).wrapping_add(pc));
            return (Outcome { exit: Exit::Indirect, instructions: p as u32 }, cut);
        };
        i += 1;
        match x.op {
            Op::Mov => {
                let v = regs.get(x.a);
                regs.set(x.d, v);
            }
            Op::MovI => regs.set(x.d, x.imm),
            Op::Mov128 => {
                let v = regs.get128(x.a);
                regs.set128(x.d, v);
            }
            Op::Add64 => bin64!(x, u64::wrapping_add),
            Op::Add64I => imm64!(x, u64::wrapping_add),
            Op::Add32 => bin32!(x, u32::wrapping_add),
            Op::Add32I => imm32!(x, u32::wrapping_add),
            Op::Sub64 => bin64!(x, u64::wrapping_sub),
            Op::Sub32 => bin32!(x, u32::wrapping_sub),
            Op::Sub64I => imm64!(x, u64::wrapping_sub),
            Op::Sub32I => imm32!(x, u32::wrapping_sub),
            Op::And => bin64!(x, |a, b| a & b),
            Op::AndI => imm64!(x, |a, b| a & b),
            Op::Or => bin64!(x, |a, b| a | b),
            Op::OrI => imm64!(x, |a, b| a | b),
            Op::Xor => bin64!(x, |a, b| a ^ b),
            Op::XorI => imm64!(x, |a, b| a ^ b),
            Op::AndNot => bin64!(x, |a: u64, b: u64| a & !b),
            Op::Not => imm64!(x, |a: u64, _| !a),
            Op::Not32 => imm32!(x, |a: u32, _| !a),
            Op::Neg64 => imm64!(x, |a: u64, _| a.wrapping_neg()),
            Op::Neg32 => imm32!(x, |a: u32, _| a.wrapping_neg()),
            Op::Mul64 => bin64!(x, u64::wrapping_mul),
            Op::Mul32 => bin32!(x, u32::wrapping_mul),
            Op::MulHiU64 => bin64!(x, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            Op::MulHiS64 => bin64!(x, |a: u64, b: u64| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
            Op::Shl64 => bin64!(x, |a: u64, b| a << (b & 63)),
            Op::Shl64I => imm64!(x, |a: u64, b| a << (b & 63)),
            Op::Shr64 => bin64!(x, |a: u64, b| a >> (b & 63)),
            Op::Shr64I => imm64!(x, |a: u64, b| a >> (b & 63)),
            Op::Sar64 => bin64!(x, |a: u64, b| ((a as i64) >> (b & 63)) as u64),
            Op::Sar64I => imm64!(x, |a: u64, b| ((a as i64) >> (b & 63)) as u64),
            Op::Shl32 => bin32!(x, |a: u32, b| a << (b & 31)),
            Op::Shl32I => imm32!(x, |a: u32, b| a << (b & 31)),
            Op::Shr32 => bin32!(x, |a: u32, b| a >> (b & 31)),
            Op::Shr32I => imm32!(x, |a: u32, b| a >> (b & 31)),
            Op::Sar32 => bin32!(x, |a: u32, b| ((a as i32) >> (b & 31)) as u32),
            Op::Sar32I => imm32!(x, |a: u32, b| ((a as i32) >> (b & 31)) as u32),
            Op::Rotl64 => bin64!(x, |a: u64, b| a.rotate_left(b as u32 & 63)),
            Op::Rotl64I => imm64!(x, |a: u64, b| a.rotate_left(b as u32 & 63)),
            Op::Rotl32 => bin32!(x, |a: u32, b| a.rotate_left(b & 31)),
            Op::Rotl32I => imm32!(x, |a: u32, b| a.rotate_left(b & 31)),
            Op::Extr64 => {
                let v = (u128::from(regs.get(x.a)) << 64 | u128::from(regs.get(x.b))) >> (x.imm & 63);
                regs.set(x.d, v as u64);
            }
            Op::Zext8 => imm64!(x, |a, _| a & 0xff),
            Op::Zext16 => imm64!(x, |a, _| a & 0xffff),
            Op::Zext32 => imm64!(x, |a, _| a & 0xffff_ffff),
            Op::Sext8 => imm64!(x, |a, _| a as i8 as u64),
            Op::Sext16 => imm64!(x, |a, _| a as i16 as u64),
            Op::Sext32 => imm64!(x, |a, _| a as i32 as u64),
            Op::Deposit => {
                let (pos, mask) = field(x.imm);
                let v = regs.get(x.a) & !(mask << pos) | (regs.get(x.b) & mask) << pos;
                regs.set(x.d, v);
            }
            Op::Extract => imm64!(x, |a: u64, imm| {
                let (pos, mask) = field(imm);
                a >> pos & mask
            }),
            Op::SExtract => imm64!(x, |a: u64, imm: u64| {
                let (pos, len) = (imm as u32 & 63, (imm >> 8) as u32 & 127);
                let up = 64 - len.clamp(1, 64);
                (((a >> pos) << up) as i64 >> up) as u64
            }),
            Op::Clz => {
                let bits = u32::from(x.aux.clamp(1, 64));
                let v = regs.get(x.a) << (64 - bits);
                regs.set(x.d, u64::from(v.leading_zeros().min(bits)));
            }
            Op::Ctz => {
                let v = regs.get(x.a).trailing_zeros().min(u32::from(x.aux));
                regs.set(x.d, u64::from(v));
            }
            Op::Pdep => regs.set(x.d, bits::scatter(regs.get(x.a), regs.get(x.b))),
            Op::Pext => regs.set(x.d, bits::gather(regs.get(x.a), regs.get(x.b))),
            Op::Popcnt => imm64!(x, |a: u64, _| u64::from(a.count_ones())),
            Op::Bswap => {
                let v = regs.get(x.a).swap_bytes() >> (64 - u32::from(x.aux.clamp(1, 64)));
                regs.set(x.d, v);
            }
            Op::Bitrev => {
                let v = regs.get(x.a).reverse_bits() >> (64 - u32::from(x.aux.clamp(1, 64)));
                regs.set(x.d, v);
            }
            Op::SetRel => bin64!(x, |a, b| relation(x.aux, a, b)),
            Op::SetRelI => imm64!(x, |a, b| relation(x.aux, a, b)),
            Op::Select => {
                let v = if regs.get(x.a) != 0 { regs.get(x.b) } else { regs.get(Slot(x.imm as u16)) };
                regs.set(x.d, v);
            }
            Op::Lea => {
                let v = address(regs, x, x.aux, x.imm);
                regs.set(x.d, v);
            }
            Op::Lea32 => {
                let v = address(regs, x, x.aux, x.imm) & 0xffff_ffff;
                regs.set(x.d, v);
            }
            Op::Lea16 => {
                let v = address(regs, x, x.aux, x.imm) & 0xffff;
                regs.set(x.d, v);
            }
            Op::Alu => alu(regs, x),
            Op::AluMem => {
                let m = MemRef { write_intent: true, ..MemRef::unpack(x.aux, x.imm) };
                let addr = mem_address(regs, x, m);
                let old = value!(env.load(addr, m));
                let r = AluRef { op: MemRef::alu_op(x.imm), log2: m.log2 };
                let b = if x.d == NONE { 1 } else { regs.get(x.d) };
                let (v, flags) = alu_result(regs, r, old, b);
                effect!(env.store(addr, m, v));
                record(regs, flags);
            }
            Op::Divide => {
                let Some((q, r)) = divide(x.aux, regs.get(x.b), regs.get(x.d), regs.get(x.a)) else {
                    env.raise(x.imm as u8, 0);
                    stop!(Stop::Fault);
                };
                regs.set(x.d, q);
                regs.set(x.b, r);
            }
            Op::CheckCanonical => {
                let a = regs.get(x.a);
                if ((a << 16) as i64 >> 16) as u64 != a {
                    env.raise(x.aux, 0);
                    stop!(Stop::Fault);
                }
            }
            Op::Flags => {
                let (a, b, r) = (regs.get(x.a), regs.get(x.b), regs.get(x.d));
                regs.set(FLAG_KIND, u64::from(x.aux) | x.imm << 8);
                regs.set(FLAG_A, a);
                regs.set(FLAG_B, b);
                regs.set(FLAG_R, r);
            }
            Op::Cond => {
                let v = u64::from(flags::holds(regs, Cond(x.aux)));
                regs.set(x.d, v);
            }
            Op::SelectCond => {
                let v = if flags::holds(regs, Cond(x.aux)) { regs.get(x.a) } else { regs.get(x.b) };
                regs.set(x.d, v);
            }
            Op::FlagsGet => {
                let v = flags::materialise(regs);
                regs.set(x.d, v);
            }
            Op::Load => {
                let m = MemRef::unpack(x.aux, x.imm);
                let v = value!(env.load(mem_address(regs, x, m), m));
                regs.set(x.d, v);
            }
            Op::Store => {
                let m = MemRef::unpack(x.aux, x.imm);
                effect!(env.store(mem_address(regs, x, m), m, regs.get(x.d)));
            }
            Op::Load128 => {
                let m = MemRef::unpack(x.aux, x.imm);
                let v = value!(env.load128(mem_address(regs, x, m), m));
                regs.set128(x.d, v);
            }
            Op::Store128 => {
                let m = MemRef::unpack(x.aux, x.imm);
                effect!(env.store128(mem_address(regs, x, m), m, regs.get128(x.d)));
            }
            Op::Atomic => {
                let m = MemRef::unpack(x.aux & 0x1f, x.imm);
                let op = atomic_op(x.imm);
                let m = MemRef { disp: 0, scale: 0, ..m };
                value_then!(env.atomic(regs.get(x.a), m, op, regs.get(x.b)), v => regs.set(x.d, v));
            }
            Op::Cas => {
                let m = MemRef { disp: 0, scale: 0, ..MemRef::unpack(x.aux, x.imm) };
                let expected = regs.get(Slot(x.imm as u16 & 0x3ff));
                value_then!(env.cas(regs.get(x.a), m, expected, regs.get(x.b)), v => regs.set(x.d, v));
            }
            Op::Cas128 => {
                let m = MemRef::unpack(x.aux, x.imm);
                let (expected, new) = (regs.get128(x.d), regs.get128(x.b));
                value_then!(env.cas128(regs.get(x.a), m, expected, new), v => regs.set128(x.d, v));
            }
            Op::LoadExclusive => {
                let m = MemRef::unpack(x.aux, x.imm);
                let v = value!(env.load_exclusive(regs.get(x.a), m));
                regs.set(x.d, v);
            }
            Op::StoreExclusive => {
                let m = MemRef::unpack(x.aux, x.imm);
                value_then!(env.store_exclusive(regs.get(x.a), m, regs.get(x.b)), v => regs.set(x.d, u64::from(!v)));
            }
            Op::ClearExclusive => env.clear_exclusive(),
            Op::Fence => fence(x.aux),
            Op::Bulk => {
                let r = BulkRef::unpack(x.imm);
                let len = regs.get(r.len);
                value_then!(env.bulk(bulk_op(x.aux), regs.get(x.a), regs.get(x.b), len, r), v => regs.set(x.d, v));
            }
            Op::Vec => {
                let Some(op) = crate::vec::VecOp::from_u8(x.aux) else { stop!(Stop::Fault) };
                let v = crate::vec::eval(op, regs.get128(x.a), regs.get128(x.b), x.imm);
                regs.set128(x.d, v);
            }
            Op::Fp => {
                let Some(op) = fp::sse::FpOp::from_u8(x.aux) else { stop!(Stop::Fault) };
                let (v, raised) = fp_result(regs, x, op);
                if raised != 0
                    && let Some(raised) = fp_raised(regs, x, raised)
                {
                    env.raise_fp(raised);
                    stop!(Stop::Fault);
                }
                regs.set128(x.d, v);
            }
            Op::Call => {
                let (a, b) = (regs.get(x.a), regs.get(x.b));
                value_then!(env.call(regs, x.imm as u16, a, b, (x.imm >> 32) as u32), v => if x.d != NONE { regs.set(x.d, v) });
            }
            Op::SkipIfZero => {
                if regs.get(x.a) == 0 {
                    i += x.imm as usize;
                }
            }
            Op::SkipUnless => {
                if !flags::holds(regs, Cond(x.aux)) {
                    i += x.imm as usize;
                }
            }
            Op::ExitIf => {
                if regs.get(x.a) != 0 {
                    leave!(Exit::Direct(2), block.origin(regs).wrapping_add(x.imm));
                }
            }
            Op::ExitCond => {
                if flags::holds(regs, Cond(x.aux)) {
                    leave!(Exit::Direct(2), block.origin(regs).wrapping_add(x.imm));
                }
            }
            Op::Exit => leave!(Exit::Direct(x.aux & 1), block.origin(regs).wrapping_add(x.imm)),
            Op::ExitReg => leave!(Exit::Indirect, regs.get(x.a)),
            Op::ExitEvent => leave!(Exit::Event(x.aux), block.origin(regs).wrapping_add(x.imm)),
            Op::Raise => {
                env.raise(x.aux, x.imm);
                stop!(Stop::Fault);
            }
        }
    }
}

/// Value and flags of an [`Op::Fp`]. The flags include those that an operation before it has put off.
fn fp_result(regs: &Regs, x: &Inst, op: fp::sse::FpOp) -> (u128, u32) {
    let (a, b, control) = (regs.get128(x.a), regs.get128(x.b), regs.get(FPC));
    let (mxcsr, before) = (control as u32, (control >> 32) as u32);
    let (v, raised) = if op.is_fused() {
        fp::sse::eval_fused(op, a, b, regs.get128(FpRef::third(x.imm)), mxcsr)
    } else {
        fp::sse::eval(op, a, b, x.imm as u8, mxcsr)
    };
    (v, if before == 0 { raised } else { fp::sse::together(before, raised, mxcsr) })
}

/// Make the flags of an [`Op::Fp`] sticky; those that trap are returned. With [`FpRef::MORE`] they are put off if any could.
fn fp_raised(regs: &mut Regs, x: &Inst, raised: u32) -> Option<u32> {
    use fp::sse::mxcsr::MASKS;
    let mxcsr = regs.get(FPC) as u32;
    if x.imm & FpRef::MORE != 0 && mxcsr & MASKS != MASKS {
        regs.set(FPC, u64::from(mxcsr) | u64::from(raised) << 32);
        return None;
    }
    regs.set(FPC, u64::from(mxcsr | raised));
    fp::sse::traps(raised, mxcsr).then_some(raised)
}

/// Flags to record: the four words.
type Recorded = Option<[u64; 4]>;

fn record(regs: &mut Regs, flags: Recorded) {
    if let Some([k, a, b, r]) = flags {
        regs.set(FLAG_KIND, k);
        regs.set(FLAG_A, a);
        regs.set(FLAG_B, b);
        regs.set(FLAG_R, r);
    }
}

fn alu(regs: &mut Regs, x: &Inst) {
    let r = AluRef::unpack(x.aux);
    let a = regs.get(x.a);
    let b = if x.b == NONE { x.imm } else { regs.get(x.b) };
    let (v, flags) = alu_result(regs, r, a, b);
    record(regs, flags);
    if x.d != NONE {
        regs.set(x.d, v);
    }
}

/// Result and flags of an x86 operation; the result already has the bits of `a` that stay.
fn alu_result(regs: &Regs, r: AluRef, a: u64, b: u64) -> (u64, Recorded) {
    let bits = r.bits();
    let mask = u64::MAX >> (64 - u32::from(bits));
    let carry = || u64::from(flags::holds(regs, Cond::x86(2)));
    let (kind, fa, fb, v) = match r.op {
        AluOp::Add => (Kind::X86Add, a, b, a.wrapping_add(b)),
        AluOp::Adc => (Kind::X86Adc, a, b, a.wrapping_add(b).wrapping_add(carry())),
        AluOp::Sub | AluOp::Cmp => (Kind::X86Sub, a, b, a.wrapping_sub(b)),
        AluOp::Sbb => (Kind::X86Sbb, a, b, a.wrapping_sub(b).wrapping_sub(carry())),
        AluOp::Or => (Kind::X86Logic, 0, 0, a | b),
        AluOp::And | AluOp::Test => (Kind::X86Logic, 0, 0, a & b),
        AluOp::Xor => (Kind::X86Logic, 0, 0, a ^ b),
        AluOp::Inc => (Kind::X86Inc, a, carry(), a.wrapping_add(1)),
        AluOp::Dec => (Kind::X86Dec, a, carry(), a.wrapping_sub(1)),
        AluOp::Neg => (Kind::X86Sub, 0, a, a.wrapping_neg()),
        AluOp::Shl | AluOp::Shr | AluOp::Sar => {
            let n = b & if bits == 64 { 63 } else { 31 };
            if n == 0 {
                // A 32-bit destination is extended all the same.
                return (if bits == 32 { a & mask } else { a }, None);
            }
            match r.op {
                AluOp::Shl => (Kind::X86Shl, a, n, (a & mask) << n),
                AluOp::Shr => (Kind::X86Shr, a & mask, n, (a & mask) >> n),
                _ => (Kind::X86Sar, a, n, (((a << (64 - bits)) as i64 >> (64 - bits)) >> n) as u64),
            }
        }
        AluOp::Rol | AluOp::Ror => return rotate(regs, r, a, b),
        AluOp::Andn
        | AluOp::Blsi
        | AluOp::Blsr
        | AluOp::Blsmsk
        | AluOp::Bextr
        | AluOp::Bzhi
        | AluOp::Tzcnt
        | AluOp::Lzcnt => {
            let (v, f) = bits::manipulate(r.op, u32::from(bits), a & mask, b);
            let value = if bits >= 32 { v } else { a & !mask | v };
            return (value, Some([flags::kind_word(Kind::X86Explicit, 64), 0, 0, f]));
        }
        AluOp::Bt => {
            let cf = a >> (b & u64::from(bits - 1)) & 1;
            let f = flags::materialise(regs) & !flags::x86::CF | cf;
            (Kind::X86Explicit, 0, 0, f)
        }
    };
    let value = if bits >= 32 { v & mask } else { a & !mask | v & mask };
    (value, Some([flags::kind_word(kind, bits), fa, fb, v]))
}

/// A rotation: CF is the last bit moved around, OF as for a rotation by one.
fn rotate(regs: &Regs, r: AluRef, a: u64, b: u64) -> (u64, Recorded) {
    let bits = u32::from(r.bits());
    let mask = u64::MAX >> (64 - bits);
    let n = b & if bits == 64 { 63 } else { 31 };
    let turn = (n as u32) & (bits - 1);
    let turn = if r.op == AluOp::Rol { turn } else { (bits - turn) & (bits - 1) };
    let low = a & mask;
    let v = if turn == 0 { low } else { (low << turn | low >> (bits - turn)) & mask };
    let value = if bits >= 32 { v } else { a & !mask | v };
    if n == 0 {
        return (value, None);
    }
    let msb = v >> (bits - 1) & 1;
    let (cf, of) = if r.op == AluOp::Rol { (v & 1, msb ^ v & 1) } else { (msb, msb ^ v >> (bits - 2) & 1) };
    let f = flags::materialise(regs) & !(flags::x86::CF | flags::x86::OF) | cf | of << 11;
    (value, Some([flags::kind_word(Kind::X86Explicit, 64), 0, 0, f]))
}

/// Quotient and remainder of an [`Op::Divide`], if the quotient fits.
fn divide(aux: u8, high: u64, low: u64, by: u64) -> Option<(u64, u64)> {
    let up = if aux & 7 == 3 { 64u32 } else { 32 };
    let mask = u64::MAX >> (64 - up);
    let n = u128::from(high & mask) << up | u128::from(low & mask);
    if aux & 0x80 == 0 {
        let d = u128::from(by & mask);
        let q = n.checked_div(d).filter(|q| *q <= u128::from(mask))?;
        return Some((q as u64, (n % d) as u64));
    }
    let (wide, up) = (128 - 2 * up, 128 - up);
    let n = (n << wide) as i128 >> wide;
    let d = (u128::from(by) << up) as i128 >> up;
    let (q, r) = (n.checked_div(d)?, n.checked_rem(d)?);
    let fits = (q << up) >> up == q;
    fits.then_some((q as u64 & mask, r as u64 & mask))
}

/// Guest instructions completed when operation `next - 1` left the block.
fn completed(block: &Block, next: usize) -> u32 {
    if next == block.insts.len() {
        return block.points.len() as u32;
    }
    block.point_of(next - 1) as u32 + 1
}

/// Index after the last operation of the guest instruction that `op` belongs to.
fn end_of_instruction(block: &Block, op: usize) -> usize {
    block.points.get(block.point_of(op) + 1).map_or(block.insts.len(), |p| p.op as usize)
}

#[inline(always)]
fn address(regs: &Regs, x: &Inst, scale: u8, disp: u64) -> u64 {
    let mut v = disp;
    if x.a != NONE {
        v = v.wrapping_add(regs.get(x.a));
    }
    if x.b != NONE {
        v = v.wrapping_add(regs.get(x.b) << (scale & 63));
    }
    v
}

#[inline(always)]
fn mem_address(regs: &Regs, x: &Inst, m: MemRef) -> u64 {
    let v = address(regs, x, m.scale, i64::from(m.disp) as u64);
    match m.wrap {
        0 => v,
        1 => v & 0xffff_ffff,
        2 => v & 0x7fff_ffff,
        _ => v & 0x00ff_ffff,
    }
}

#[inline(always)]
fn field(imm: u64) -> (u32, u64) {
    let len = (imm >> 8) as u32 & 127;
    (imm as u32 & 63, if len >= 64 { u64::MAX } else { (1 << len) - 1 })
}

#[inline(always)]
fn relation(rel: u8, a: u64, b: u64) -> u64 {
    u64::from(match rel {
        r if r == Rel::Eq as u8 => a == b,
        r if r == Rel::Ne as u8 => a != b,
        r if r == Rel::Ltu as u8 => a < b,
        r if r == Rel::Leu as u8 => a <= b,
        r if r == Rel::Lts as u8 => (a as i64) < (b as i64),
        _ => (a as i64) <= (b as i64),
    })
}

fn fence(kind: u8) {
    use std::sync::atomic::{Ordering, fence};
    fence(match kind {
        k if k == Fence::Acquire as u8 => Ordering::Acquire,
        k if k == Fence::Release as u8 => Ordering::Release,
        _ => Ordering::SeqCst,
    });
}

/// The operation of an [`Op::Atomic`] is kept in bits 0..8 of its immediate, where other accesses have a displacement.
fn atomic_op(imm: u64) -> AtomicOp {
    const ALL: [AtomicOp; 10] = [
        AtomicOp::Swap,
        AtomicOp::Add,
        AtomicOp::And,
        AtomicOp::Or,
        AtomicOp::Xor,
        AtomicOp::AndNot,
        AtomicOp::MaxS,
        AtomicOp::MinS,
        AtomicOp::MaxU,
        AtomicOp::MinU,
    ];
    ALL[(imm as usize & 0xff).min(ALL.len() - 1)]
}

fn bulk_op(aux: u8) -> BulkOp {
    const ALL: [BulkOp; 6] = [BulkOp::Copy, BulkOp::Fill, BulkOp::Xor, BulkOp::And, BulkOp::Or, BulkOp::Compare];
    ALL[usize::from(aux).min(ALL.len() - 1)]
}

/// What `op old operand` stores, for an access of `bits`: shared by every environment's atomic operation.
pub fn atomic_result(op: AtomicOp, bits: u32, old: u64, operand: u64) -> u64 {
    let up = 64 - bits.clamp(8, 64);
    let (s, t) = (((old << up) as i64) >> up, ((operand << up) as i64) >> up);
    let (u, v) = (old << up >> up, operand << up >> up);
    match op {
        AtomicOp::Swap => operand,
        AtomicOp::Add => old.wrapping_add(operand),
        AtomicOp::And => old & operand,
        AtomicOp::Or => old | operand,
        AtomicOp::Xor => old ^ operand,
        AtomicOp::AndNot => old & !operand,
        AtomicOp::MaxS => s.max(t) as u64,
        AtomicOp::MinS => s.min(t) as u64,
        AtomicOp::MaxU => u.max(v),
        AtomicOp::MinU => u.min(v),
    }
}

/// The kind and operand size last recorded, for printers and state checks.
pub fn flag_kind(regs: &Regs) -> (Kind, u8) {
    let w = regs.get(FLAG_KIND);
    (Kind::from_u8(w as u8), (w >> 8) as u8)
}
