//! One assembly block per instruction: swap MXCSR in, operate, swap it out.
#![expect(unsafe_code, reason = "the operation is one host instruction in inline assembly")]

use super::{FpOp, mxcsr};

/// Operands and both MXCSR values, at offsets that the assembly below names.
#[repr(C, align(16))]
pub(super) struct Frame {
    /// +0: first operand, then the result.
    pub(super) a: u128,
    /// +16: second operand.
    pub(super) b: u128,
    /// +32: the guest's MXCSR, then the same with the raised flags.
    pub(super) guest: u32,
    /// +36: the host's MXCSR while the guest's is loaded.
    pub(super) host: u32,
}

/// Runs the given instructions on `xmm0` (first operand and result) and `xmm1` under the frame's guest MXCSR.
macro_rules! on_host {
    ($frame:expr, $($insn:expr),+ ;) => {{
        let frame: *mut $crate::sse::exec::Frame = $frame;
        // SAFETY: `frame` points to a live, exclusively borrowed, 16-byte aligned Frame, the only memory touched. The
        // MXCSR loaded has no reserved bit and masks every exception, so nothing can trap; the host's is put back.
        // Every register that is written is declared, and the stack is not used.
        unsafe {
            core::arch::asm!(
                "stmxcsr [{f} + 36]",
                "ldmxcsr [{f} + 32]",
                "movdqa xmm0, [{f}]",
                "movdqa xmm1, [{f} + 16]",
                $($insn,)+
                "movdqa [{f}], xmm0",
                "stmxcsr [{f} + 32]",
                "ldmxcsr [{f} + 36]",
                f = in(reg) frame,
                out("xmm0") _,
                out("xmm1") _,
                out("rax") _,
                options(nostack),
            );
        }
    }};
}

#[cfg(test)]
pub(super) use on_host;

/// As [`super::eval`], for any mask bits in `mxcsr`: the host always runs with everything masked.
pub(super) fn run(op: FpOp, a: u128, b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    let mut guest = (mxcsr & (mxcsr::DAZ | mxcsr::RC | mxcsr::FTZ)) | mxcsr::MASKS;
    let (mut a, mut b) = (a, b);
    match op {
        FpOp::RoundPs | FpOp::RoundPd | FpOp::RoundSs | FpOp::RoundSd if imm & 4 == 0 => {
            // The instruction's own mode, by way of MXCSR: one encoding (imm 4) serves all.
            guest = (guest & !mxcsr::RC) | (u32::from(imm & 3) << mxcsr::RC_SHIFT);
        }
        // A product that is not chosen counts as +0.0 and raises nothing, as 0 × 0 does in every rounding mode.
        FpOp::DpPs | FpOp::DpPd => {
            let chosen = dp_lanes(op, imm >> 4);
            (a, b) = (a & chosen, b & chosen);
        }
        // The MMX forms are the SSE2 forms on operands whose upper half is zero, which converts exactly.
        FpOp::CvtPi2Ps | FpOp::CvtPs2Pi | FpOp::CvttPs2Pi => b &= u128::from(u64::MAX),
        _ => {}
    }
    let mut frame = Frame { a, b, guest, host: 0 };
    dispatch(op, imm, &mut frame);
    let mut flags = frame.guest & mxcsr::FLAGS;
    let mut value = frame.a;
    match op {
        FpOp::RoundPs | FpOp::RoundPd | FpOp::RoundSs | FpOp::RoundSd if imm & 8 != 0 => flags &= !mxcsr::PE,
        FpOp::DpPs | FpOp::DpPd => value &= dp_lanes(op, imm),
        FpOp::ComiSs | FpOp::ComiSd | FpOp::UcomiSs | FpOp::UcomiSd => value &= 0x45,
        FpOp::CvtPi2Ps => value = (a >> 64 << 64) | (value & u128::from(u64::MAX)),
        FpOp::CvtPs2Pi | FpOp::CvttPs2Pi | FpOp::CvtPd2Pi | FpOp::CvttPd2Pi => value &= u128::from(u64::MAX),
        _ => {}
    }
    (value, flags)
}

/// All-ones in the lanes of `dpps`/`dppd` that the low bits of `select` name.
pub(super) fn dp_lanes(op: FpOp, select: u8) -> u128 {
    let (lanes, bits) = if op == FpOp::DpPs { (4, 32) } else { (2, 64) };
    let one = u128::MAX >> (128 - bits);
    (0..lanes).filter(|lane| select >> lane & 1 != 0).fold(0, |mask, lane| mask | one << (lane * bits))
}

/// A comparison with each of the eight predicates as the immediate.
macro_rules! compare {
    ($frame:expr, $imm:expr, $mnemonic:literal) => {
        match $imm & 7 {
            0 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 0");),
            1 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 1");),
            2 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 2");),
            3 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 3");),
            4 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 4");),
            5 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 5");),
            6 => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 6");),
            _ => on_host!($frame, concat!($mnemonic, " xmm0, xmm1, 7");),
        }
    };
}

/// One line per instruction.
pub(super) fn dispatch(op: FpOp, imm: u8, f: &mut Frame) {
    match op {
        FpOp::AddPs => on_host!(f, "addps xmm0, xmm1";),
        FpOp::AddPd => on_host!(f, "addpd xmm0, xmm1";),
        FpOp::AddSs => on_host!(f, "addss xmm0, xmm1";),
        FpOp::AddSd => on_host!(f, "addsd xmm0, xmm1";),
        FpOp::SubPs => on_host!(f, "subps xmm0, xmm1";),
        FpOp::SubPd => on_host!(f, "subpd xmm0, xmm1";),
        FpOp::SubSs => on_host!(f, "subss xmm0, xmm1";),
        FpOp::SubSd => on_host!(f, "subsd xmm0, xmm1";),
        FpOp::MulPs => on_host!(f, "mulps xmm0, xmm1";),
        FpOp::MulPd => on_host!(f, "mulpd xmm0, xmm1";),
        FpOp::MulSs => on_host!(f, "mulss xmm0, xmm1";),
        FpOp::MulSd => on_host!(f, "mulsd xmm0, xmm1";),
        FpOp::DivPs => on_host!(f, "divps xmm0, xmm1";),
        FpOp::DivPd => on_host!(f, "divpd xmm0, xmm1";),
        FpOp::DivSs => on_host!(f, "divss xmm0, xmm1";),
        FpOp::DivSd => on_host!(f, "divsd xmm0, xmm1";),
        FpOp::MinPs => on_host!(f, "minps xmm0, xmm1";),
        FpOp::MinPd => on_host!(f, "minpd xmm0, xmm1";),
        FpOp::MinSs => on_host!(f, "minss xmm0, xmm1";),
        FpOp::MinSd => on_host!(f, "minsd xmm0, xmm1";),
        FpOp::MaxPs => on_host!(f, "maxps xmm0, xmm1";),
        FpOp::MaxPd => on_host!(f, "maxpd xmm0, xmm1";),
        FpOp::MaxSs => on_host!(f, "maxss xmm0, xmm1";),
        FpOp::MaxSd => on_host!(f, "maxsd xmm0, xmm1";),
        FpOp::SqrtPs => on_host!(f, "sqrtps xmm0, xmm1";),
        FpOp::SqrtPd => on_host!(f, "sqrtpd xmm0, xmm1";),
        FpOp::SqrtSs => on_host!(f, "sqrtss xmm0, xmm1";),
        FpOp::SqrtSd => on_host!(f, "sqrtsd xmm0, xmm1";),
        FpOp::RcpPs => on_host!(f, "rcpps xmm0, xmm1";),
        FpOp::RcpSs => on_host!(f, "rcpss xmm0, xmm1";),
        FpOp::RsqrtPs => on_host!(f, "rsqrtps xmm0, xmm1";),
        FpOp::RsqrtSs => on_host!(f, "rsqrtss xmm0, xmm1";),
        FpOp::CmpPs => compare!(f, imm, "cmpps"),
        FpOp::CmpPd => compare!(f, imm, "cmppd"),
        FpOp::CmpSs => compare!(f, imm, "cmpss"),
        FpOp::CmpSd => compare!(f, imm, "cmpsd"),
        FpOp::ComiSs => on_host!(f, "comiss xmm0, xmm1", "lahf", "movzx eax, ah", "movd xmm0, eax";),
        FpOp::ComiSd => on_host!(f, "comisd xmm0, xmm1", "lahf", "movzx eax, ah", "movd xmm0, eax";),
        FpOp::UcomiSs => on_host!(f, "ucomiss xmm0, xmm1", "lahf", "movzx eax, ah", "movd xmm0, eax";),
        FpOp::UcomiSd => on_host!(f, "ucomisd xmm0, xmm1", "lahf", "movzx eax, ah", "movd xmm0, eax";),
        FpOp::RoundPs => on_host!(f, "roundps xmm0, xmm1, 4";),
        FpOp::RoundPd => on_host!(f, "roundpd xmm0, xmm1, 4";),
        FpOp::RoundSs => on_host!(f, "roundss xmm0, xmm1, 4";),
        FpOp::RoundSd => on_host!(f, "roundsd xmm0, xmm1, 4";),
        FpOp::DpPs => on_host!(f, "dpps xmm0, xmm1, 0xff";),
        FpOp::DpPd => on_host!(f, "dppd xmm0, xmm1, 0x33";),
        FpOp::HaddPs => on_host!(f, "haddps xmm0, xmm1";),
        FpOp::HaddPd => on_host!(f, "haddpd xmm0, xmm1";),
        FpOp::HsubPs => on_host!(f, "hsubps xmm0, xmm1";),
        FpOp::HsubPd => on_host!(f, "hsubpd xmm0, xmm1";),
        FpOp::AddsubPs => on_host!(f, "addsubps xmm0, xmm1";),
        FpOp::AddsubPd => on_host!(f, "addsubpd xmm0, xmm1";),
        FpOp::CvtPs2Pd => on_host!(f, "cvtps2pd xmm0, xmm1";),
        FpOp::CvtPd2Ps => on_host!(f, "cvtpd2ps xmm0, xmm1";),
        FpOp::CvtSs2Sd => on_host!(f, "cvtss2sd xmm0, xmm1";),
        FpOp::CvtSd2Ss => on_host!(f, "cvtsd2ss xmm0, xmm1";),
        FpOp::CvtDq2Ps | FpOp::CvtPi2Ps => on_host!(f, "cvtdq2ps xmm0, xmm1";),
        FpOp::CvtDq2Pd | FpOp::CvtPi2Pd => on_host!(f, "cvtdq2pd xmm0, xmm1";),
        FpOp::CvtPs2Dq | FpOp::CvtPs2Pi => on_host!(f, "cvtps2dq xmm0, xmm1";),
        FpOp::CvttPs2Dq | FpOp::CvttPs2Pi => on_host!(f, "cvttps2dq xmm0, xmm1";),
        FpOp::CvtPd2Dq | FpOp::CvtPd2Pi => on_host!(f, "cvtpd2dq xmm0, xmm1";),
        FpOp::CvttPd2Dq | FpOp::CvttPd2Pi => on_host!(f, "cvttpd2dq xmm0, xmm1";),
        FpOp::CvtSi2Ss32 => on_host!(f, "movd eax, xmm1", "cvtsi2ss xmm0, eax";),
        FpOp::CvtSi2Ss64 => on_host!(f, "movq rax, xmm1", "cvtsi2ss xmm0, rax";),
        FpOp::CvtSi2Sd32 => on_host!(f, "movd eax, xmm1", "cvtsi2sd xmm0, eax";),
        FpOp::CvtSi2Sd64 => on_host!(f, "movq rax, xmm1", "cvtsi2sd xmm0, rax";),
        FpOp::CvtSs2Si32 => on_host!(f, "cvtss2si eax, xmm1", "movd xmm0, eax";),
        FpOp::CvtSs2Si64 => on_host!(f, "cvtss2si rax, xmm1", "movq xmm0, rax";),
        FpOp::CvttSs2Si32 => on_host!(f, "cvttss2si eax, xmm1", "movd xmm0, eax";),
        FpOp::CvttSs2Si64 => on_host!(f, "cvttss2si rax, xmm1", "movq xmm0, rax";),
        FpOp::CvtSd2Si32 => on_host!(f, "cvtsd2si eax, xmm1", "movd xmm0, eax";),
        FpOp::CvtSd2Si64 => on_host!(f, "cvtsd2si rax, xmm1", "movq xmm0, rax";),
        FpOp::CvttSd2Si32 => on_host!(f, "cvttsd2si eax, xmm1", "movd xmm0, eax";),
        FpOp::CvttSd2Si64 => on_host!(f, "cvttsd2si rax, xmm1", "movq xmm0, rax";),
        // Those of AVX, F16C and FMA are computed elsewhere: not every host has them.
        _ => {}
    }
}
