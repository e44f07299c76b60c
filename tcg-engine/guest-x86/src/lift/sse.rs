//! SSE floating point: arithmetic, comparison, conversion. One row per instruction; all of it is [`ir::Op::Fp`].

use fp::sse::FpOp;
use iced_x86::Mnemonic;

use super::simd::Unit;
use super::{Flow, Lifted, Lifter};

/// Where the operands and the result of a floating-point instruction are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// XMM = op(XMM, XMM or memory), with an immediate if there is a third operand.
    Xmm,
    /// General register = op(XMM or memory).
    ToGpr,
    /// EFLAGS = op(XMM, XMM or memory).
    ToFlags,
    /// XMM = op(XMM, general register or memory).
    FromGpr,
    /// MMX = op(XMM or memory).
    ToMmx,
    /// XMM = op(XMM, MMX or memory).
    FromMmx,
}

/// The row of a mnemonic. Where the manual has one mnemonic for two widths of integer, the 32-bit operation is named here.
pub(super) fn row(m: Mnemonic) -> Option<(FpOp, Shape)> {
    use Mnemonic as M;
    use Shape::*;
    Some(match m {
        M::Addps => (FpOp::AddPs, Xmm),
        M::Addpd => (FpOp::AddPd, Xmm),
        M::Addss => (FpOp::AddSs, Xmm),
        M::Addsd => (FpOp::AddSd, Xmm),
        M::Subps => (FpOp::SubPs, Xmm),
        M::Subpd => (FpOp::SubPd, Xmm),
        M::Subss => (FpOp::SubSs, Xmm),
        M::Subsd => (FpOp::SubSd, Xmm),
        M::Mulps => (FpOp::MulPs, Xmm),
        M::Mulpd => (FpOp::MulPd, Xmm),
        M::Mulss => (FpOp::MulSs, Xmm),
        M::Mulsd => (FpOp::MulSd, Xmm),
        M::Divps => (FpOp::DivPs, Xmm),
        M::Divpd => (FpOp::DivPd, Xmm),
        M::Divss => (FpOp::DivSs, Xmm),
        M::Divsd => (FpOp::DivSd, Xmm),
        M::Minps => (FpOp::MinPs, Xmm),
        M::Minpd => (FpOp::MinPd, Xmm),
        M::Minss => (FpOp::MinSs, Xmm),
        M::Minsd => (FpOp::MinSd, Xmm),
        M::Maxps => (FpOp::MaxPs, Xmm),
        M::Maxpd => (FpOp::MaxPd, Xmm),
        M::Maxss => (FpOp::MaxSs, Xmm),
        M::Maxsd => (FpOp::MaxSd, Xmm),
        M::Sqrtps => (FpOp::SqrtPs, Xmm),
        M::Sqrtpd => (FpOp::SqrtPd, Xmm),
        M::Sqrtss => (FpOp::SqrtSs, Xmm),
        M::Sqrtsd => (FpOp::SqrtSd, Xmm),
        M::Rcpps => (FpOp::RcpPs, Xmm),
        M::Rcpss => (FpOp::RcpSs, Xmm),
        M::Rsqrtps => (FpOp::RsqrtPs, Xmm),
        M::Rsqrtss => (FpOp::RsqrtSs, Xmm),
        M::Cmpps => (FpOp::CmpPs, Xmm),
        M::Cmppd => (FpOp::CmpPd, Xmm),
        M::Cmpss => (FpOp::CmpSs, Xmm),
        M::Cmpsd => (FpOp::CmpSd, Xmm),
        M::Roundps => (FpOp::RoundPs, Xmm),
        M::Roundpd => (FpOp::RoundPd, Xmm),
        M::Roundss => (FpOp::RoundSs, Xmm),
        M::Roundsd => (FpOp::RoundSd, Xmm),
        M::Dpps => (FpOp::DpPs, Xmm),
        M::Dppd => (FpOp::DpPd, Xmm),
        M::Haddps => (FpOp::HaddPs, Xmm),
        M::Haddpd => (FpOp::HaddPd, Xmm),
        M::Hsubps => (FpOp::HsubPs, Xmm),
        M::Hsubpd => (FpOp::HsubPd, Xmm),
        M::Addsubps => (FpOp::AddsubPs, Xmm),
        M::Addsubpd => (FpOp::AddsubPd, Xmm),
        M::Cvtps2pd => (FpOp::CvtPs2Pd, Xmm),
        M::Cvtpd2ps => (FpOp::CvtPd2Ps, Xmm),
        M::Cvtss2sd => (FpOp::CvtSs2Sd, Xmm),
        M::Cvtsd2ss => (FpOp::CvtSd2Ss, Xmm),
        M::Cvtdq2ps => (FpOp::CvtDq2Ps, Xmm),
        M::Cvtdq2pd => (FpOp::CvtDq2Pd, Xmm),
        M::Cvtps2dq => (FpOp::CvtPs2Dq, Xmm),
        M::Cvttps2dq => (FpOp::CvttPs2Dq, Xmm),
        M::Cvtpd2dq => (FpOp::CvtPd2Dq, Xmm),
        M::Cvttpd2dq => (FpOp::CvttPd2Dq, Xmm),
        M::Comiss => (FpOp::ComiSs, ToFlags),
        M::Comisd => (FpOp::ComiSd, ToFlags),
        M::Ucomiss => (FpOp::UcomiSs, ToFlags),
        M::Ucomisd => (FpOp::UcomiSd, ToFlags),
        M::Cvtsi2ss => (FpOp::CvtSi2Ss32, FromGpr),
        M::Cvtsi2sd => (FpOp::CvtSi2Sd32, FromGpr),
        M::Cvtss2si => (FpOp::CvtSs2Si32, ToGpr),
        M::Cvttss2si => (FpOp::CvttSs2Si32, ToGpr),
        M::Cvtsd2si => (FpOp::CvtSd2Si32, ToGpr),
        M::Cvttsd2si => (FpOp::CvttSd2Si32, ToGpr),
        M::Cvtpi2ps => (FpOp::CvtPi2Ps, FromMmx),
        M::Cvtpi2pd => (FpOp::CvtPi2Pd, FromMmx),
        M::Cvtps2pi => (FpOp::CvtPs2Pi, ToMmx),
        M::Cvttps2pi => (FpOp::CvttPs2Pi, ToMmx),
        M::Cvtpd2pi => (FpOp::CvtPd2Pi, ToMmx),
        M::Cvttpd2pi => (FpOp::CvttPd2Pi, ToMmx),
        _ => return None,
    })
}

/// The same conversion with a 64-bit integer.
pub(super) fn with_64_bits(op: FpOp) -> FpOp {
    match op {
        FpOp::CvtSi2Ss32 => FpOp::CvtSi2Ss64,
        FpOp::CvtSi2Sd32 => FpOp::CvtSi2Sd64,
        FpOp::CvtSs2Si32 => FpOp::CvtSs2Si64,
        FpOp::CvttSs2Si32 => FpOp::CvttSs2Si64,
        FpOp::CvtSd2Si32 => FpOp::CvtSd2Si64,
        FpOp::CvttSd2Si32 => FpOp::CvttSd2Si64,
        other => other,
    }
}

/// Lifts floating-point arithmetic.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    let (op, shape) = row(l.i.mnemonic())?;
    // CMPSD is also a string instruction.
    if matches!(shape, Shape::Xmm) && !l.is_xmm(0) {
        return None;
    }
    if let Some(vector) = l.unit_fault(Unit::Sse) {
        return l.raise(vector);
    }
    match shape {
        Shape::Xmm => {
            let imm = if l.i.op_count() == 3 { l.i.immediate8() } else { 0 };
            let source = l.pair(1, true);
            let d = Lifter::xmm_of(l.i.op_register(0));
            l.fp(op, d, d, source, imm);
        }
        Shape::ToFlags => {
            let source = l.pair(1, false);
            let t = l.b.temp128();
            l.fp(op, t, Lifter::xmm_of(l.i.op_register(0)), source, 0);
            l.explicit_flags(t);
        }
        Shape::FromGpr => {
            let op = if l.bits(1) == 64 { with_64_bits(op) } else { op };
            let v = l.read(1);
            let source = l.widen(v);
            let d = Lifter::xmm_of(l.i.op_register(0));
            l.fp(op, d, d, source, 0);
        }
        Shape::ToGpr => {
            let op = if l.bits(0) == 64 { with_64_bits(op) } else { op };
            let source = l.pair(1, false);
            let t = l.b.temp128();
            l.fp(op, t, source, source, 0);
            // A 32-bit result is zero-extended.
            l.set_clean(t, l.bits(0) == 32);
            l.write_reg(l.i.op_register(0), t);
        }
        // Under an unmasked exception hardware has already switched to MMX (TOP, tags) when it traps; here nothing has changed.
        Shape::ToMmx => {
            l.wait_x87();
            let source = l.pair(1, true);
            let t = l.b.temp128();
            l.fp(op, t, source, source, 0);
            return l.finish_mmx(Lifter::mm_of(l.i.op_register(0)), t);
        }
        Shape::FromMmx => {
            // From memory the x87 unit is left alone.
            let enters = l.is_mm(1);
            if enters {
                l.wait_x87();
            }
            let source = l.pair(1, false);
            let d = Lifter::xmm_of(l.i.op_register(0));
            l.fp(op, d, d, source, 0);
            if enters {
                l.enter_mmx();
            }
        }
    }
    Some(Flow::Next)
}
