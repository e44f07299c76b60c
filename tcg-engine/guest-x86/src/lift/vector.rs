//! Integer vector instructions on XMM and MMX registers, and the bitwise and shuffling ones of floating point.
//!
//! One row per instruction says its [`VecOp`] and how operands are arranged. The MMX forms use the same operations on pairs
//! whose low word is the MMX register; where lanes cross between the halves, [`Mmx`] says what is different.

use iced_x86::{Mnemonic, OpKind};
use ir::NONE;
use ir::vec::VecOp;

use super::simd::{Unit, high};
use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;
use crate::state::{RCX, xmm};

/// How operands meet the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// d = op(d, source), the immediate being a third operand if there is one.
    Two,
    /// d = op(source), likewise.
    One,
    /// d = op(d, count): a register or memory count, or an immediate one (then this operation).
    Shift(VecOp),
    /// d = op(d, immediate).
    ByteShift,
}

/// What the MMX form does where the halves of the XMM form would mix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mmx {
    /// Nothing mixes (or there is no MMX form).
    Same,
    /// Both sources side by side in one operand.
    Joined,
    /// The high half of the low-half operation.
    High(VecOp),
}

/// The row of a mnemonic.
pub(super) fn row(m: Mnemonic) -> Option<(VecOp, Shape, Mmx)> {
    use Mmx::*;
    use Mnemonic as M;
    use Shape::*;
    use VecOp as V;
    Some(match m {
        M::Pand | M::Andps | M::Andpd => (V::And, Two, Same),
        M::Pandn | M::Andnps | M::Andnpd => (V::AndNot, Two, Same),
        M::Por | M::Orps | M::Orpd => (V::Or, Two, Same),
        M::Pxor | M::Xorps | M::Xorpd => (V::Xor, Two, Same),
        M::Paddb => (V::Add8, Two, Same),
        M::Paddw => (V::Add16, Two, Same),
        M::Paddd => (V::Add32, Two, Same),
        M::Paddq => (V::Add64, Two, Same),
        M::Psubb => (V::Sub8, Two, Same),
        M::Psubw => (V::Sub16, Two, Same),
        M::Psubd => (V::Sub32, Two, Same),
        M::Psubq => (V::Sub64, Two, Same),
        M::Paddsb => (V::AddSatS8, Two, Same),
        M::Paddsw => (V::AddSatS16, Two, Same),
        M::Paddusb => (V::AddSatU8, Two, Same),
        M::Paddusw => (V::AddSatU16, Two, Same),
        M::Psubsb => (V::SubSatS8, Two, Same),
        M::Psubsw => (V::SubSatS16, Two, Same),
        M::Psubusb => (V::SubSatU8, Two, Same),
        M::Psubusw => (V::SubSatU16, Two, Same),
        M::Pmullw => (V::MulLo16, Two, Same),
        M::Pmulld => (V::MulLo32, Two, Same),
        M::Pmulhw => (V::MulHiS16, Two, Same),
        M::Pmulhuw => (V::MulHiU16, Two, Same),
        M::Pmulhrsw => (V::MulRoundS16, Two, Same),
        M::Pmuludq => (V::MulU32To64, Two, Same),
        M::Pmuldq => (V::MulS32To64, Two, Same),
        M::Pmaddwd => (V::MulAddS16, Two, Same),
        M::Pmaddubsw => (V::MulAddU8S8, Two, Same),
        M::Pavgb => (V::AvgU8, Two, Same),
        M::Pavgw => (V::AvgU16, Two, Same),
        M::Pminsb => (V::MinS8, Two, Same),
        M::Pminsw => (V::MinS16, Two, Same),
        M::Pminsd => (V::MinS32, Two, Same),
        M::Pminub => (V::MinU8, Two, Same),
        M::Pminuw => (V::MinU16, Two, Same),
        M::Pminud => (V::MinU32, Two, Same),
        M::Pmaxsb => (V::MaxS8, Two, Same),
        M::Pmaxsw => (V::MaxS16, Two, Same),
        M::Pmaxsd => (V::MaxS32, Two, Same),
        M::Pmaxub => (V::MaxU8, Two, Same),
        M::Pmaxuw => (V::MaxU16, Two, Same),
        M::Pmaxud => (V::MaxU32, Two, Same),
        M::Pabsb => (V::Abs8, One, Same),
        M::Pabsw => (V::Abs16, One, Same),
        M::Pabsd => (V::Abs32, One, Same),
        M::Psignb => (V::Sign8, Two, Same),
        M::Psignw => (V::Sign16, Two, Same),
        M::Psignd => (V::Sign32, Two, Same),
        M::Pcmpeqb => (V::CmpEq8, Two, Same),
        M::Pcmpeqw => (V::CmpEq16, Two, Same),
        M::Pcmpeqd => (V::CmpEq32, Two, Same),
        M::Pcmpeqq => (V::CmpEq64, Two, Same),
        M::Pcmpgtb => (V::CmpGt8, Two, Same),
        M::Pcmpgtw => (V::CmpGt16, Two, Same),
        M::Pcmpgtd => (V::CmpGt32, Two, Same),
        M::Pcmpgtq => (V::CmpGt64, Two, Same),
        M::Psllw => (V::Shl16, Shift(V::Shl16I), Same),
        M::Pslld => (V::Shl32, Shift(V::Shl32I), Same),
        M::Psllq => (V::Shl64, Shift(V::Shl64I), Same),
        M::Psrlw => (V::Shr16, Shift(V::Shr16I), Same),
        M::Psrld => (V::Shr32, Shift(V::Shr32I), Same),
        M::Psrlq => (V::Shr64, Shift(V::Shr64I), Same),
        M::Psraw => (V::Sar16, Shift(V::Sar16I), Same),
        M::Psrad => (V::Sar32, Shift(V::Sar32I), Same),
        M::Pslldq => (V::ShlBytes, ByteShift, Same),
        M::Psrldq => (V::ShrBytes, ByteShift, Same),
        M::Packsswb => (V::PackS16ToS8, Two, Joined),
        M::Packuswb => (V::PackS16ToU8, Two, Joined),
        M::Packssdw => (V::PackS32ToS16, Two, Joined),
        M::Packusdw => (V::PackS32ToU16, Two, Same),
        M::Punpcklbw => (V::UnpackLo8, Two, Same),
        M::Punpcklwd => (V::UnpackLo16, Two, Same),
        M::Punpckldq | M::Unpcklps => (V::UnpackLo32, Two, Same),
        M::Punpcklqdq | M::Unpcklpd => (V::UnpackLo64, Two, Same),
        M::Punpckhbw => (V::UnpackHi8, Two, High(V::UnpackLo8)),
        M::Punpckhwd => (V::UnpackHi16, Two, High(V::UnpackLo16)),
        M::Punpckhdq | M::Unpckhps => (V::UnpackHi32, Two, High(V::UnpackLo32)),
        M::Punpckhqdq | M::Unpckhpd => (V::UnpackHi64, Two, Same),
        M::Pshufd => (V::Shuffle32, One, Same),
        M::Pshuflw | M::Pshufw => (V::ShuffleLo16, One, Same),
        M::Pshufhw => (V::ShuffleHi16, One, Same),
        M::Shufps => (V::ShufflePs, Two, Same),
        M::Shufpd => (V::ShufflePd, Two, Same),
        M::Palignr => (V::AlignRight, Two, Same),
        M::Psadbw => (V::Sad8, Two, Same),
        M::Mpsadbw => (V::MultiSad8, Two, Same),
        M::Phaddw => (V::HAdd16, Two, Joined),
        M::Phaddd => (V::HAdd32, Two, Joined),
        M::Phaddsw => (V::HAddSatS16, Two, Joined),
        M::Phsubw => (V::HSub16, Two, Joined),
        M::Phsubd => (V::HSub32, Two, Joined),
        M::Phsubsw => (V::HSubSatS16, Two, Joined),
        M::Phminposuw => (V::MinPosU16, One, Same),
        M::Pblendw => (V::Blend16, Two, Same),
        M::Blendps => (V::Blend32, Two, Same),
        M::Blendpd => (V::Blend64, Two, Same),
        M::Pmovsxbw => (V::Sext8To16, One, Same),
        M::Pmovsxbd => (V::Sext8To32, One, Same),
        M::Pmovsxbq => (V::Sext8To64, One, Same),
        M::Pmovsxwd => (V::Sext16To32, One, Same),
        M::Pmovsxwq => (V::Sext16To64, One, Same),
        M::Pmovsxdq => (V::Sext32To64, One, Same),
        M::Pmovzxbw => (V::Zext8To16, One, Same),
        M::Pmovzxbd => (V::Zext8To32, One, Same),
        M::Pmovzxbq => (V::Zext8To64, One, Same),
        M::Pmovzxwd => (V::Zext16To32, One, Same),
        M::Pmovzxwq => (V::Zext16To64, One, Same),
        M::Pmovzxdq => (V::Zext32To64, One, Same),
        M::Movsldup => (V::DupEven32, One, Same),
        M::Movshdup => (V::DupOdd32, One, Same),
        M::Movddup => (V::DupLo64, One, Same),
        _ => return None,
    })
}

/// Lifts integer vector instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Pshufb => return shuffle_bytes(l),
        Mnemonic::Ptest => return test(l),
        Mnemonic::Pblendvb => return blend_variable(l, VecOp::CmpGt8),
        Mnemonic::Blendvps => return blend_variable(l, VecOp::CmpGt32),
        Mnemonic::Blendvpd => return blend_variable(l, VecOp::CmpGt64),
        Mnemonic::Pcmpistri | Mnemonic::Pcmpistrm => {
            let mask = l.i.mnemonic() == Mnemonic::Pcmpistrm;
            return string(l, |l| implicit_string(l, mask));
        }
        Mnemonic::Pcmpestri | Mnemonic::Pcmpestri64 => {
            let wide = l.i.mnemonic() == Mnemonic::Pcmpestri64;
            return string(l, |l| explicit_string(l, wide, false));
        }
        Mnemonic::Pcmpestrm | Mnemonic::Pcmpestrm64 => {
            let wide = l.i.mnemonic() == Mnemonic::Pcmpestrm64;
            return string(l, |l| explicit_string(l, wide, true));
        }
        _ => {}
    }
    let (op, shape, mmx) = row(l.i.mnemonic())?;
    if l.is_mm(0) {
        return lift_mmx(l, op, shape, mmx);
    }
    if !l.is_xmm(0) {
        return None;
    }
    if let Some(vector) = l.unit_fault(Unit::Sse) {
        return l.raise(vector);
    }
    let d = Lifter::xmm_of(l.i.op_register(0));
    let imm = immediate(l);
    match shape {
        Shape::Two => {
            let source = l.pair(1, true);
            l.vec(op, d, d, source, imm);
        }
        Shape::One => {
            let source = l.pair(1, true);
            l.vec(op, d, source, NONE, imm);
        }
        Shape::Shift(by_immediate) if l.i.op_kind(1) == OpKind::Immediate8 => l.vec(by_immediate, d, d, NONE, imm),
        Shape::Shift(_) => {
            let source = l.pair(1, true);
            l.vec(op, d, d, source, 0);
        }
        Shape::ByteShift => l.vec(op, d, d, NONE, imm),
    }
    Some(Flow::Next)
}

/// The immediate byte that is the last operand, or 0.
fn immediate(l: &Lifter) -> u64 {
    let last = l.i.op_count() - 1;
    if l.i.op_kind(last) == OpKind::Immediate8 { u64::from(l.i.immediate8()) } else { 0 }
}

fn lift_mmx(l: &mut Lifter, op: VecOp, shape: Shape, mmx: Mmx) -> Lifted {
    if let Some(vector) = l.unit_fault(Unit::Mmx) {
        return l.raise(vector);
    }
    l.wait_x87();
    let d = Lifter::mm_of(l.i.op_register(0));
    let imm = immediate(l);
    let result = match (shape, mmx) {
        (Shape::Shift(by_immediate), _) if l.i.op_kind(1) == OpKind::Immediate8 => {
            l.vec_new(by_immediate, d, NONE, imm)
        }
        (Shape::One, _) => {
            let source = l.pair(1, false);
            l.vec_new(op, source, NONE, imm)
        }
        _ if op == VecOp::AlignRight => {
            // The destination above the source, shifted as a whole.
            let source = l.pair(1, false);
            let joined = l.vec_new(VecOp::UnpackLo64, source, d, 0);
            l.vec_new(VecOp::ShrBytes, joined, NONE, imm)
        }
        (_, Mmx::Joined) => {
            let source = l.pair(1, false);
            let joined = l.vec_new(VecOp::UnpackLo64, d, source, 0);
            l.vec_new(op, joined, joined, imm)
        }
        (_, Mmx::High(low)) => {
            let source = l.pair(1, false);
            high(l.vec_new(low, d, source, 0))
        }
        (_, Mmx::Same) => {
            let source = l.pair(1, false);
            l.vec_new(op, d, source, imm)
        }
    };
    l.finish_mmx(d, result)
}

fn shuffle_bytes(l: &mut Lifter) -> Lifted {
    if l.is_mm(0) {
        if let Some(vector) = l.unit_fault(Unit::Mmx) {
            return l.raise(vector);
        }
        l.wait_x87();
        let source = l.pair(1, false);
        // Eight bytes: three bits of index, and the bit that clears.
        let mask = l.pair_constant(0x8787_8787_8787_8787, 0);
        let index = l.vec_new(VecOp::And, source, mask, 0);
        let d = Lifter::mm_of(l.i.op_register(0));
        let result = l.vec_new(VecOp::Shuffle8, d, index, 0);
        return l.finish_mmx(d, result);
    }
    if let Some(vector) = l.unit_fault(Unit::Sse) {
        return l.raise(vector);
    }
    let source = l.pair(1, true);
    let d = Lifter::xmm_of(l.i.op_register(0));
    l.vec(VecOp::Shuffle8, d, d, source, 0);
    Some(Flow::Next)
}

fn test(l: &mut Lifter) -> Lifted {
    if let Some(vector) = l.unit_fault(Unit::Sse) {
        return l.raise(vector);
    }
    let source = l.pair(1, true);
    let bits = l.vec_new(VecOp::Test, Lifter::xmm_of(l.i.op_register(0)), source, 0);
    l.explicit_flags(bits);
    Some(Flow::Next)
}

/// Lanes of the source where XMM0 is negative: `greater` makes masks of the signs.
fn blend_variable(l: &mut Lifter, greater: VecOp) -> Lifted {
    if let Some(vector) = l.unit_fault(Unit::Sse) {
        return l.raise(vector);
    }
    let source = l.pair(1, true);
    let d = Lifter::xmm_of(l.i.op_register(0));
    let zero = l.pair_constant(0, 0);
    let mask = l.vec_new(greater, zero, xmm(0), 0);
    let chosen = l.vec_new(VecOp::And, mask, source, 0);
    let kept = l.vec_new(VecOp::AndNot, mask, d, 0);
    l.vec(VecOp::Or, d, chosen, kept, 0);
    Some(Flow::Next)
}

fn string(l: &mut Lifter, compare: impl Fn(&mut Lifter) -> Lifted) -> Lifted {
    match l.unit_fault(Unit::Sse) {
        Some(vector) => l.raise(vector),
        None => compare(l),
    }
}

/// PCMPISTRI, or with `mask` PCMPISTRM.
pub(super) fn implicit_string(l: &mut Lifter, mask: bool) -> Lifted {
    let source = l.pair(1, false);
    let (a, imm) = (Lifter::xmm_of(l.i.op_register(0)), immediate(l));
    let index = l.vec_new(VecOp::StringIndex, a, source, imm);
    if !mask {
        l.set_clean(index, true);
        l.write_gpr(RCX, index, 32);
    } else {
        l.vec(VecOp::StringMask, xmm(0), a, source, imm);
    }
    l.explicit_flags(high(index));
    Some(Flow::Next)
}

/// What [`Helper::StringCompare`] is told: immediate byte, first operand's register, length registers' width, mask or index.
pub(crate) mod string_call {
    /// Bits 0 to 7: the immediate. Bits 8 to 11: XMM register of the first operand.
    pub const REGISTER_SHIFT: u32 = 8;
    /// The lengths are in RAX and RDX rather than EAX and EDX.
    pub const WIDE: u32 = 1 << 12;
    /// The result is the mask, to XMM0; else the index, to ECX.
    pub const MASK: u32 = 1 << 13;
}

/// PCMPESTRI, or with `mask` PCMPESTRM; `wide` lengths are in RAX and RDX.
pub(super) fn explicit_string(l: &mut Lifter, wide: bool, mask: bool) -> Lifted {
    let source = l.pair(1, false);
    let mut imm = u32::from(l.i.immediate8()) | (l.i.op_register(0).number() as u32) << string_call::REGISTER_SHIFT;
    if wide {
        imm |= string_call::WIDE;
    }
    if mask {
        imm |= string_call::MASK;
    }
    l.call(NONE, Helper::StringCompare, source, high(source), imm);
    Some(Flow::Next)
}
