//! Helpers of vector instructions with more operands than an operation has.

use ir::vec::string;
use ir::{Env, MemRef, Regs, Stop, Then};

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::lift::{mask_call, string_call};
use crate::state::{RAX, RCX, RDX, fpr, set_arithmetic, xmm};

/// PCMPESTRI and PCMPESTRM: the second operand's halves, and what [`string_call`] says. Writes ECX or XMM0, and the flags.
pub(super) fn string_compare<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, low: u64, high: u64, imm: u32) -> Ret {
    let a = regs.get128(xmm((imm >> string_call::REGISTER_SHIFT & 15) as usize));
    let b = u128::from(low) | u128::from(high) << 64;
    let length = |word: u64| {
        if imm & string_call::WIDE != 0 { word.cast_signed() } else { i64::from((word as u32).cast_signed()) }
    };
    let outcome = string::explicit(a, b, length(regs.get(RAX)), length(regs.get(RDX)), imm as u8);
    if imm & string_call::MASK != 0 {
        regs.set128(xmm(0), outcome.mask);
    } else {
        regs.set(RCX, outcome.index.into());
    }
    set_arithmetic(regs, outcome.flags.into());
    done(0)
}

/// MASKMOVQ and MASKMOVDQU to `addr`, operands as [`mask_call`] says.
pub(super) fn masked_store<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, addr: u64, _: u64, imm: u32) -> Ret {
    Ok((0, cpu.masked_store(regs, addr, imm)?))
}

impl<B: Bus> Cpu<B> {
    /// The whole operand must be writable, whatever the mask leaves out (that choice is the processor's).
    fn masked_store(&mut self, regs: &Regs, addr: u64, imm: u32) -> Result<Then, Stop> {
        let mmx = imm & mask_call::MMX != 0;
        let register = |n: u32| {
            let n = (n & 15) as usize;
            if mmx { regs.get(fpr(n)).into() } else { regs.get128(xmm(n)) }
        };
        let (data, mask) = (register(imm), register(imm >> mask_call::MASK_SHIFT));
        let space = (imm >> mask_call::SPACE_SHIFT) as u8;
        let m = MemRef { space, stack: imm & mask_call::STACK != 0, ..MemRef::new(0) };
        let wrap = match imm & (mask_call::NARROW | mask_call::HALF) {
            0 => u64::MAX,
            mask_call::NARROW => 0xffff,
            _ => 0xffff_ffff,
        };
        let size = if mmx { 8 } else { 16 };
        for at in [8, 0].into_iter().filter(|at| *at < size) {
            let word = MemRef { write_intent: true, log2: 3, ..m };
            Env::load(self, addr.wrapping_add(at) & wrap, word)?;
        }
        let chosen = (0..size).filter(|i| mask >> (8 * i + 7) & 1 != 0);
        let mut then = Then::Continue;
        for i in chosen {
            match Env::store(self, addr.wrapping_add(i) & wrap, m, (data >> (8 * i)) as u64 & 0xff) {
                Err(Stop::FinishInstruction) => then = Then::FinishInstruction,
                other => other?,
            }
        }
        Ok(then)
    }
}
