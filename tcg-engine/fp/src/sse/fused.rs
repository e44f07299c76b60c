//! Fused multiply-add (FMA): the host's own instruction where it has one and every exception is masked, portable code else.
#![expect(unsafe_code, reason = "the operation is one host instruction in inline assembly")]

use std::sync::LazyLock;

use super::unmasked::{PRE, is_tiny};
use super::{FpOp, mxcsr, traps};
use crate::soft::{self, F32, F64, Format, Rules, Signs};

/// Operands and both MXCSR values, at offsets that the assembly below names.
#[repr(C, align(16))]
struct Frame {
    /// +0: first operand, then the result.
    a: u128,
    /// +16: second operand.
    b: u128,
    /// +32: third operand.
    c: u128,
    /// +48: the guest's MXCSR, then the same with the raised flags.
    guest: u32,
    /// +52: the host's MXCSR while the guest's is loaded.
    host: u32,
}

static HOST_HAS_FMA: LazyLock<bool> =
    LazyLock::new(|| std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx"));

/// The shape of an operation: bits of a lane, lanes, and what even and odd lanes negate.
struct Kind {
    bits: u32,
    lanes: u32,
    even: Signs,
    odd: Signs,
}

impl Kind {
    fn of(op: FpOp) -> Kind {
        let n = op as u8 - FpOp::FmaddPs as u8;
        let signs = |product, addend| Signs { product, addend };
        // Four of each kind in the order Ps, Pd, Ss, Sd, then two of each of the alternating kinds.
        if n < 16 {
            let all = signs(n & 8 != 0, n & 4 != 0);
            let bits = if n & 1 == 0 { 32 } else { 64 };
            return Kind { bits, lanes: if n & 2 == 0 { 128 / bits } else { 1 }, even: all, odd: all };
        }
        let bits = if n & 1 == 0 { 32 } else { 64 };
        let subtracts_even = n < 18;
        Kind { bits, lanes: 128 / bits, even: signs(false, subtracts_even), odd: signs(false, !subtracts_even) }
    }

    fn format(&self) -> Format {
        if self.bits == 32 { F32 } else { F64 }
    }
}

/// Executes the fused operation `op`: as [`super::eval`], with a third operand. `a` and `b` are multiplied and `c` is added; where
/// more than one is a NaN, that order decides. A scalar operation's upper lanes are those of `a`.
#[must_use]
pub fn eval(op: FpOp, a: u128, b: u128, c: u128, mxcsr: u32) -> (u128, u32) {
    if !op.is_fused() {
        return (a, 0);
    }
    if *HOST_HAS_FMA && mxcsr & mxcsr::MASKS == mxcsr::MASKS {
        let guest = (mxcsr & (mxcsr::DAZ | mxcsr::RC | mxcsr::FTZ)) | mxcsr::MASKS;
        let mut frame = Frame { a, b, c, guest, host: 0 };
        dispatch(op, &mut frame);
        let kind = Kind::of(op);
        let keep = if kind.lanes == 1 { u128::MAX << kind.bits } else { 0 };
        return (frame.a & !keep | a & keep, frame.guest & mxcsr::FLAGS);
    }
    portable(op, [a, b, c], mxcsr)
}

/// The same in portable code.
pub(super) fn portable(op: FpOp, [a, b, c]: [u128; 3], mxcsr: u32) -> (u128, u32) {
    let kind = Kind::of(op);
    let (format, lane) = (kind.format(), u128::MAX >> (128 - kind.bits));
    // Bits that every exponent of a product fits into.
    let wide = Format { exp_bits: 13, ..format };
    let rules = Rules::x86(mxcsr);
    let (mut value, mut flags) = (a, 0);
    for n in 0..kind.lanes {
        let at = n * kind.bits;
        let operands = [a, b, c].map(|v| (v >> at & lane) as u64);
        let signs = if n % 2 == 0 { kind.even } else { kind.odd };
        let (v, mut raised) = soft::fused(format, format, operands, signs, rules);
        let magnitude = v & !(1 << (kind.bits - 1));
        if traps(mxcsr::UE, mxcsr) && raised & PRE & !mxcsr::DE == 0 && is_tiny(magnitude, format.frac_bits) {
            raised |= mxcsr::UE;
        }
        if raised & mxcsr::PE != 0 && traps(raised & (mxcsr::OE | mxcsr::UE), mxcsr) {
            raised = raised & !mxcsr::PE | soft::fused(format, wide, operands, signs, rules).1 & mxcsr::PE;
        }
        flags |= raised;
        value = value & !(lane << at) | u128::from(v) << at;
    }
    (value, if traps(flags & PRE, mxcsr) { flags & PRE } else { flags })
}

/// Runs an instruction that multiplies `xmm1` (first factor) and `xmm0`, and adds `xmm2`.
macro_rules! on_host {
    ($frame:expr, $insn:literal) => {{
        let frame: *mut Frame = $frame;
        // SAFETY: `frame` points to a live, exclusively borrowed, 16-byte aligned Frame, the only memory touched. The
        // MXCSR loaded has no reserved bit and masks every exception, so nothing can trap; the host's is put back.
        // Every register that is written is declared, the stack is not used, and the caller has looked for FMA.
        unsafe {
            core::arch::asm!(
                "stmxcsr [{f} + 52]",
                "ldmxcsr [{f} + 48]",
                "movdqa xmm1, [{f}]",
                "movdqa xmm0, [{f} + 16]",
                "movdqa xmm2, [{f} + 32]",
                concat!($insn, " xmm0, xmm1, xmm2"),
                "movdqa [{f}], xmm0",
                "stmxcsr [{f} + 48]",
                "ldmxcsr [{f} + 52]",
                f = in(reg) frame,
                out("xmm0") _,
                out("xmm1") _,
                out("xmm2") _,
                options(nostack),
            );
        }
    }};
}

/// One line per instruction. The host has FMA.
fn dispatch(op: FpOp, f: &mut Frame) {
    match op {
        FpOp::FmaddPs => on_host!(f, "vfmadd213ps"),
        FpOp::FmaddPd => on_host!(f, "vfmadd213pd"),
        FpOp::FmaddSs => on_host!(f, "vfmadd213ss"),
        FpOp::FmaddSd => on_host!(f, "vfmadd213sd"),
        FpOp::FmsubPs => on_host!(f, "vfmsub213ps"),
        FpOp::FmsubPd => on_host!(f, "vfmsub213pd"),
        FpOp::FmsubSs => on_host!(f, "vfmsub213ss"),
        FpOp::FmsubSd => on_host!(f, "vfmsub213sd"),
        FpOp::FnmaddPs => on_host!(f, "vfnmadd213ps"),
        FpOp::FnmaddPd => on_host!(f, "vfnmadd213pd"),
        FpOp::FnmaddSs => on_host!(f, "vfnmadd213ss"),
        FpOp::FnmaddSd => on_host!(f, "vfnmadd213sd"),
        FpOp::FnmsubPs => on_host!(f, "vfnmsub213ps"),
        FpOp::FnmsubPd => on_host!(f, "vfnmsub213pd"),
        FpOp::FnmsubSs => on_host!(f, "vfnmsub213ss"),
        FpOp::FnmsubSd => on_host!(f, "vfnmsub213sd"),
        FpOp::FmaddsubPs => on_host!(f, "vfmaddsub213ps"),
        FpOp::FmaddsubPd => on_host!(f, "vfmaddsub213pd"),
        FpOp::FmsubaddPs => on_host!(f, "vfmsubadd213ps"),
        FpOp::FmsubaddPd => on_host!(f, "vfmsubadd213pd"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    /// Lanes of `bits`, mostly about the ends of the format's range, NaNs and infinities included.
    fn operand(rng: &mut SmallRng, bits: u32) -> u128 {
        let (frac, exp) = if bits == 32 { (23, 8) } else { (52, 11) };
        (0..128 / bits).fold(0, |v, n| {
            let max = (1_u64 << exp) - 1;
            let exponent = match rng.random_range(0..6) {
                0 => 0,
                1 => max,
                2 => max / 2 + rng.random_range(0..4),
                3 => rng.random_range(0..60),
                4 => max - rng.random_range(1..60),
                _ => rng.random_range(0..=max),
            };
            let fraction = if rng.random_range(0..3) == 0 { rng.random_range(0..3) } else { rng.random::<u64>() };
            let lane = exponent << frac | fraction & ((1 << frac) - 1) | rng.random_range(0..2) << (frac + exp);
            v | u128::from(lane) << (n * bits)
        })
    }

    #[test]
    fn portable_code_does_what_the_host_does() {
        if !*HOST_HAS_FMA {
            return;
        }
        let rng = &mut SmallRng::seed_from_u64(7);
        for op in FpOp::ALL.iter().copied().filter(|op| op.is_fused()) {
            let bits = Kind::of(op).bits;
            for _ in 0..4000 {
                let operands = [(); 3].map(|()| operand(rng, bits));
                let control = mxcsr::MASKS | rng.random_range(0..4) << mxcsr::RC_SHIFT;
                let control = control | [0, mxcsr::DAZ, mxcsr::FTZ, mxcsr::DAZ | mxcsr::FTZ][rng.random_range(0..4)];
                let [a, b, c] = operands;
                let host = eval(op, a, b, c, control);
                assert_eq!(portable(op, operands, control), host, "{op:?} {operands:x?} {control:#x}");
            }
        }
    }

    #[test]
    fn a_trap_before_computing_hides_what_computing_shows() {
        // An invalid lane beside one that overflows.
        let (max, nan) = (0x7f7f_ffff_u128, 0x7f80_0001_u128);
        let (a, b) = (max | nan << 32, max | 0x3f80_0000 << 32);
        let flags = |masks| eval(FpOp::FmaddPs, a, b, 0, masks).1;
        assert_eq!(flags(mxcsr::MASKS), mxcsr::IE | mxcsr::OE | mxcsr::PE);
        assert_eq!(flags(mxcsr::MASKS & !(mxcsr::IE << mxcsr::MASK_SHIFT)), mxcsr::IE);
    }
}
