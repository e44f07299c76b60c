//! Vector and floating-point operations that the host has as one instruction, or nearly.
//!
//! A guest's ADDPS is the host's ADDPS as long as MXCSR is the guest's, which [`Emitter::guard_float`] has seen to. So these are
//! tables: operation to opcode, by the shape of its operands.

mod avx;

pub use avx::{Form, float_form, integer_form, joined};

use fp::sse::FpOp;
use ir::flags::Kind;
use ir::op::{Inst, Op};
use ir::vec::VecOp;
use ir::{Block, NONE};

use crate::asm::{Alu, Map, RAX, Reg, Rm, Sz};
use crate::emit::Emitter;
use crate::features::Features;
use crate::layout::XS;

/// Map and opcode of `d = a op b`.
fn two(op: VecOp) -> Option<(Map, u8)> {
    let code = match op {
        VecOp::And => 0xdb,
        VecOp::AndNot => 0xdf,
        VecOp::Or => 0xeb,
        VecOp::Xor => 0xef,
        VecOp::Add8 => 0xfc,
        VecOp::Add16 => 0xfd,
        VecOp::Add32 => 0xfe,
        VecOp::Add64 => 0xd4,
        VecOp::Sub8 => 0xf8,
        VecOp::Sub16 => 0xf9,
        VecOp::Sub32 => 0xfa,
        VecOp::Sub64 => 0xfb,
        VecOp::CmpEq8 => 0x74,
        VecOp::CmpEq16 => 0x75,
        VecOp::CmpEq32 => 0x76,
        VecOp::CmpGt8 => 0x64,
        VecOp::CmpGt16 => 0x65,
        VecOp::CmpGt32 => 0x66,
        VecOp::MinU8 => 0xda,
        VecOp::MaxU8 => 0xde,
        VecOp::MinS16 => 0xea,
        VecOp::MaxS16 => 0xee,
        VecOp::UnpackLo8 => 0x60,
        VecOp::UnpackLo16 => 0x61,
        VecOp::UnpackLo32 => 0x62,
        VecOp::UnpackLo64 => 0x6c,
        VecOp::UnpackHi8 => 0x68,
        VecOp::UnpackHi16 => 0x69,
        VecOp::UnpackHi32 => 0x6a,
        VecOp::UnpackHi64 => 0x6d,
        VecOp::PackS16ToS8 => 0x63,
        VecOp::PackS16ToU8 => 0x67,
        VecOp::PackS32ToS16 => 0x6b,
        VecOp::MulLo16 => 0xd5,
        VecOp::MulHiS16 => 0xe5,
        VecOp::MulHiU16 => 0xe4,
        VecOp::MulU32To64 => 0xf4,
        VecOp::MulAddS16 => 0xf5,
        VecOp::AvgU8 => 0xe0,
        VecOp::AvgU16 => 0xe3,
        VecOp::Sad8 => 0xf6,
        VecOp::AddSatS8 => 0xec,
        VecOp::AddSatS16 => 0xed,
        VecOp::AddSatU8 => 0xdc,
        VecOp::AddSatU16 => 0xdd,
        VecOp::SubSatS8 => 0xe8,
        VecOp::SubSatS16 => 0xe9,
        VecOp::SubSatU8 => 0xd8,
        VecOp::SubSatU16 => 0xd9,
        VecOp::Shr16 => 0xd1,
        VecOp::Shr32 => 0xd2,
        VecOp::Shr64 => 0xd3,
        VecOp::Sar16 => 0xe1,
        VecOp::Sar32 => 0xe2,
        VecOp::Shl16 => 0xf1,
        VecOp::Shl32 => 0xf2,
        VecOp::Shl64 => 0xf3,
        _ => return two_later(op).map(|code| (Map::Of38x66, code)),
    };
    Some((Map::Of66, code))
}

/// Those of SSSE3 to SSE4.2, in the map 66 0F 38.
fn two_later(op: VecOp) -> Option<u8> {
    Some(match op {
        VecOp::Shuffle8 => 0x00,
        VecOp::HAdd16 => 0x01,
        VecOp::HAdd32 => 0x02,
        VecOp::HAddSatS16 => 0x03,
        VecOp::MulAddU8S8 => 0x04,
        VecOp::HSub16 => 0x05,
        VecOp::HSub32 => 0x06,
        VecOp::HSubSatS16 => 0x07,
        VecOp::Sign8 => 0x08,
        VecOp::Sign16 => 0x09,
        VecOp::Sign32 => 0x0a,
        VecOp::MulRoundS16 => 0x0b,
        VecOp::MulS32To64 => 0x28,
        VecOp::CmpEq64 => 0x29,
        VecOp::PackS32ToU16 => 0x2b,
        VecOp::CmpGt64 => 0x37,
        VecOp::MinS8 => 0x38,
        VecOp::MinS32 => 0x39,
        VecOp::MinU16 => 0x3a,
        VecOp::MinU32 => 0x3b,
        VecOp::MaxS8 => 0x3c,
        VecOp::MaxS32 => 0x3d,
        VecOp::MaxU16 => 0x3e,
        VecOp::MaxU32 => 0x3f,
        VecOp::MulLo32 => 0x40,
        _ => return None,
    })
}

/// Map and opcode of `d = op(a, b, imm)`.
fn two_imm(op: VecOp) -> Option<(Map, u8)> {
    Some(match op {
        VecOp::ShufflePs => (Map::Of, 0xc6),
        VecOp::ShufflePd => (Map::Of66, 0xc6),
        VecOp::Blend32 => (Map::Of3Ax66, 0x0c),
        VecOp::Blend64 => (Map::Of3Ax66, 0x0d),
        VecOp::Blend16 => (Map::Of3Ax66, 0x0e),
        VecOp::AlignRight => (Map::Of3Ax66, 0x0f),
        VecOp::MultiSad8 => (Map::Of3Ax66, 0x42),
        _ => return None,
    })
}

/// Map and opcode of `d = op(a)`.
fn one(op: VecOp) -> Option<(Map, u8)> {
    let later = match op {
        VecOp::DupEven32 => return Some((Map::OfF3, 0x12)),
        VecOp::DupOdd32 => return Some((Map::OfF3, 0x16)),
        VecOp::DupLo64 => return Some((Map::OfF2, 0x12)),
        VecOp::Abs8 => 0x1c,
        VecOp::Abs16 => 0x1d,
        VecOp::Abs32 => 0x1e,
        VecOp::Sext8To16 => 0x20,
        VecOp::Sext8To32 => 0x21,
        VecOp::Sext8To64 => 0x22,
        VecOp::Sext16To32 => 0x23,
        VecOp::Sext16To64 => 0x24,
        VecOp::Sext32To64 => 0x25,
        VecOp::Zext8To16 => 0x30,
        VecOp::Zext8To32 => 0x31,
        VecOp::Zext8To64 => 0x32,
        VecOp::Zext16To32 => 0x33,
        VecOp::Zext16To64 => 0x34,
        VecOp::Zext32To64 => 0x35,
        VecOp::MinPosU16 => 0x41,
        _ => return None,
    };
    Some((Map::Of38x66, later))
}

/// Opcode and extension of a shift by an immediate in the map 66 0F.
fn shift(op: VecOp) -> Option<(u8, u8)> {
    Some(match op {
        VecOp::Shr16I => (0x71, 2),
        VecOp::Sar16I => (0x71, 4),
        VecOp::Shl16I => (0x71, 6),
        VecOp::Shr32I => (0x72, 2),
        VecOp::Sar32I => (0x72, 4),
        VecOp::Shl32I => (0x72, 6),
        VecOp::Shr64I => (0x73, 2),
        VecOp::ShrBytes => (0x73, 3),
        VecOp::Shl64I => (0x73, 6),
        VecOp::ShlBytes => (0x73, 7),
        _ => return None,
    })
}

/// Map and opcode of a shuffle of one operand by an immediate.
fn shuffle(op: VecOp) -> Option<(Map, u8)> {
    Some(match op {
        VecOp::Shuffle32 => (Map::Of66, 0x70),
        VecOp::ShuffleLo16 => (Map::OfF2, 0x70),
        VecOp::ShuffleHi16 => (Map::OfF3, 0x70),
        _ => return None,
    })
}

/// Map and opcode of the sign bits of lanes.
fn mask(op: VecOp) -> Option<(Map, u8)> {
    Some(match op {
        VecOp::MoveMask8 => (Map::Of66, 0xd7),
        VecOp::MoveMask32 => (Map::Of, 0x50),
        VecOp::MoveMask64 => (Map::Of66, 0x50),
        _ => return None,
    })
}

/// Emit `x`; answers whether it could.
pub fn vec(e: &mut Emitter, block: &Block, x: &Inst) -> bool {
    let Some(op) = VecOp::from_u8(x.aux) else { return false };
    let f = e.features;
    let imm = x.imm as u8;
    let can = |code: &(Map, u8)| f.sse(code.0, code.1);
    if let Some((map, code)) = two(op).filter(can) {
        e.pairs(x, map, code, None);
    } else if let Some((map, code)) = two_imm(op).filter(can) {
        let imm = if op == VecOp::AlignRight && x.imm > 0xff { 0xff } else { imm };
        e.pairs(x, map, code, Some(imm));
    } else if let Some((map, code)) = one(op).filter(can) {
        e.pair_from(x, map, code, None);
    } else if let Some((map, code)) = shuffle(op) {
        e.pair_from(x, map, code, Some(imm));
    } else if let Some((code, ext)) = shift(op) {
        let a = e.pair_at(x.a);
        let r = e.pair_target(x.d, Rm::R(XS));
        if a != Rm::R(r) {
            e.a.sse(Map::Of, 0x28, r.0, a);
        }
        e.a.ins(Sz::D, Map::Of66, code, ext, Rm::R(r), (false, false));
        e.a.byte(if x.imm > 0xff { 0xff } else { imm });
        e.pair_done(x.d, r);
    } else if let Some((map, code)) = mask(op) {
        if !x.d.is_temp() {
            return false;
        }
        let a = e.pair_in(x.a, XS);
        e.a.sse(map, code, RAX.0, Rm::R(a));
        e.word_done(x.d);
    } else if op == VecOp::Test && f.sse41 && sets_flags(e, block, x) {
        compare(e, x, Map::Of38x66, 0x17);
    } else if op == VecOp::StringIndex && f.sse42 && x.d.is_temp() {
        // PCMPISTRI: the index to ECX, and flags.
        e.clobber();
        let b = e.pair_at(x.b);
        let a = e.pair_in(x.a, XS);
        e.a.sse(Map::Of3Ax66, 0x63, a.0, b);
        e.a.byte(imm);
        e.index_and_flags_done(x.d);
    } else if let Some(code) = avx::two(op).filter(|c| f.vex(*c)) {
        avx::pairs(e, x, code, None);
    } else if op == VecOp::InsertPs && f.sse41 {
        // From memory it would be another instruction.
        if !matches!(e.pair_at(x.b), Rm::R(_)) {
            return false;
        }
        e.pairs(x, Map::Of3Ax66, 0x21, Some(imm));
    } else {
        return false;
    }
    true
}

/// Whether the operation behind this one makes its result the flags, and nobody else wants it.
fn sets_flags(e: &Emitter, block: &Block, x: &Inst) -> bool {
    x.d.is_temp()
        && !e.lands_behind()
        && e.last_read_is_next(x.d)
        && block.insts.get(e.i + 1).is_some_and(|n| n.op == Op::Flags && n.aux == Kind::X86Explicit as u8 && n.d == x.d)
}

/// A comparison whose flags are the guest's as they are.
fn compare(e: &mut Emitter, x: &Inst, map: Map, code: u8) {
    let b = e.pair_at(x.b);
    let a = e.pair_in(x.a, XS);
    e.a.sse(map, code, a.0, b);
    e.flags_are_there();
}

/// Map and opcode of arithmetic, and whether there is an immediate.
fn arithmetic(op: FpOp) -> Option<(Map, u8, bool)> {
    use FpOp as F;
    use Map::{Of, Of3Ax66, Of66, OfF2, OfF3};
    let (map, code) = match op {
        F::AddPs => (Of, 0x58),
        F::AddPd => (Of66, 0x58),
        F::AddSs => (OfF3, 0x58),
        F::AddSd => (OfF2, 0x58),
        F::SubPs => (Of, 0x5c),
        F::SubPd => (Of66, 0x5c),
        F::SubSs => (OfF3, 0x5c),
        F::SubSd => (OfF2, 0x5c),
        F::MulPs => (Of, 0x59),
        F::MulPd => (Of66, 0x59),
        F::MulSs => (OfF3, 0x59),
        F::MulSd => (OfF2, 0x59),
        F::DivPs => (Of, 0x5e),
        F::DivPd => (Of66, 0x5e),
        F::DivSs => (OfF3, 0x5e),
        F::DivSd => (OfF2, 0x5e),
        F::MinPs => (Of, 0x5d),
        F::MinPd => (Of66, 0x5d),
        F::MinSs => (OfF3, 0x5d),
        F::MinSd => (OfF2, 0x5d),
        F::MaxPs => (Of, 0x5f),
        F::MaxPd => (Of66, 0x5f),
        F::MaxSs => (OfF3, 0x5f),
        F::MaxSd => (OfF2, 0x5f),
        F::SqrtPs => (Of, 0x51),
        F::SqrtPd => (Of66, 0x51),
        F::SqrtSs => (OfF3, 0x51),
        F::SqrtSd => (OfF2, 0x51),
        F::RcpPs => (Of, 0x53),
        F::RcpSs => (OfF3, 0x53),
        F::RsqrtPs => (Of, 0x52),
        F::RsqrtSs => (OfF3, 0x52),
        F::HaddPs => (OfF2, 0x7c),
        F::HaddPd => (Of66, 0x7c),
        F::HsubPs => (OfF2, 0x7d),
        F::HsubPd => (Of66, 0x7d),
        F::AddsubPs => (OfF2, 0xd0),
        F::AddsubPd => (Of66, 0xd0),
        F::CvtPs2Pd => (Of, 0x5a),
        F::CvtPd2Ps => (Of66, 0x5a),
        F::CvtSs2Sd => (OfF3, 0x5a),
        F::CvtSd2Ss => (OfF2, 0x5a),
        F::CvtDq2Ps => (Of, 0x5b),
        F::CvtPs2Dq => (Of66, 0x5b),
        F::CvttPs2Dq => (OfF3, 0x5b),
        F::CvtDq2Pd => (OfF3, 0xe6),
        F::CvtPd2Dq => (OfF2, 0xe6),
        F::CvttPd2Dq => (Of66, 0xe6),
        F::CmpPs => return Some((Of, 0xc2, true)),
        F::CmpPd => return Some((Of66, 0xc2, true)),
        F::CmpSs => return Some((OfF3, 0xc2, true)),
        F::CmpSd => return Some((OfF2, 0xc2, true)),
        F::RoundPs => return Some((Of3Ax66, 0x08, true)),
        F::RoundPd => return Some((Of3Ax66, 0x09, true)),
        F::RoundSs => return Some((Of3Ax66, 0x0a, true)),
        F::RoundSd => return Some((Of3Ax66, 0x0b, true)),
        F::DpPs => return Some((Of3Ax66, 0x40, true)),
        F::DpPd => return Some((Of3Ax66, 0x41, true)),
        _ => return None,
    };
    Some((map, code, false))
}

/// Map, opcode and width of the integer of a conversion from a general register.
fn from_integer(op: FpOp) -> Option<(Map, Sz)> {
    Some(match op {
        FpOp::CvtSi2Ss32 => (Map::OfF3, Sz::D),
        FpOp::CvtSi2Ss64 => (Map::OfF3, Sz::Q),
        FpOp::CvtSi2Sd32 => (Map::OfF2, Sz::D),
        FpOp::CvtSi2Sd64 => (Map::OfF2, Sz::Q),
        _ => return None,
    })
}

/// The same of a conversion to one.
fn to_integer(op: FpOp) -> Option<(Map, u8, Sz)> {
    Some(match op {
        FpOp::CvtSs2Si32 => (Map::OfF3, 0x2d, Sz::D),
        FpOp::CvtSs2Si64 => (Map::OfF3, 0x2d, Sz::Q),
        FpOp::CvttSs2Si32 => (Map::OfF3, 0x2c, Sz::D),
        FpOp::CvttSs2Si64 => (Map::OfF3, 0x2c, Sz::Q),
        FpOp::CvtSd2Si32 => (Map::OfF2, 0x2d, Sz::D),
        FpOp::CvtSd2Si64 => (Map::OfF2, 0x2d, Sz::Q),
        FpOp::CvttSd2Si32 => (Map::OfF2, 0x2c, Sz::D),
        FpOp::CvttSd2Si64 => (Map::OfF2, 0x2c, Sz::Q),
        _ => return None,
    })
}

fn to_flags(op: FpOp) -> Option<(Map, u8)> {
    Some(match op {
        FpOp::ComiSs => (Map::Of, 0x2f),
        FpOp::ComiSd => (Map::Of66, 0x2f),
        FpOp::UcomiSs => (Map::Of, 0x2e),
        FpOp::UcomiSd => (Map::Of66, 0x2e),
        _ => return None,
    })
}

/// Whether the operation `aux` of [`Op::Fp`] is run by the host. The MMX forms are not.
pub fn float(f: Features, aux: u8) -> bool {
    FpOp::from_u8(aux).is_some_and(|op| {
        arithmetic(op).is_some_and(|(map, code, _)| f.sse(map, code))
            || from_integer(op).is_some()
            || to_integer(op).is_some()
            || to_flags(op).is_some()
            || avx::float(op).is_some_and(|code| f.vex(code))
    })
}

/// Emit `x`; answers whether it could.
pub fn fp(e: &mut Emitter, block: &Block, x: &Inst) -> bool {
    let Some(op) = FpOp::from_u8(x.aux) else { return false };
    if !float(e.features, x.aux) || x.a == NONE || x.b == NONE {
        return false;
    }
    let imm = x.imm as u8;
    if let Some((map, code, with_imm)) = arithmetic(op) {
        e.guard_float();
        // The bits that the instruction looks at: a predicate, a rounding mode, lanes.
        let imm = match code {
            0xc2 => imm & 7,
            0x08..=0x0b => imm & 15,
            _ => imm,
        };
        e.pairs(x, map, code, with_imm.then_some(imm));
    } else if let Some((map, sz)) = from_integer(op) {
        e.guard_float();
        let b = e.low_word(x.b);
        let a = e.pair_at(x.a);
        let r = e.pair_target(x.d, Rm::R(XS));
        if a != Rm::R(r) {
            e.a.sse(Map::Of, 0x28, r.0, a);
        }
        e.a.ins(sz, map, 0x2a, r.0, b, (false, false));
        e.pair_done(x.d, r);
    } else if let Some((map, code, sz)) = to_integer(op) {
        if !x.d.is_temp() {
            return false;
        }
        e.guard_float();
        let b = e.pair_at(x.b);
        e.a.ins(sz, map, code, RAX.0, b, (false, false));
        e.word_done(x.d);
    } else if let Some((map, code)) = to_flags(op) {
        if !x.d.is_temp() {
            return false;
        }
        e.guard_float();
        if sets_flags(e, block, x) {
            compare(e, x, map, code);
            return true;
        }
        e.clobber();
        let b = e.pair_at(x.b);
        let a: Reg = e.pair_in(x.a, XS);
        e.a.sse(map, code, a.0, b);
        e.a.save_flags();
        e.a.ins(Sz::D, Map::Of, 0xb6, RAX.0, Rm::R(Reg(4)), (false, false));
        e.a.alu_imm(Alu::And, Sz::D, RAX, 0x45);
        e.word_done(x.d);
    } else if let Some(code) = avx::float(op) {
        e.guard_float();
        avx::fp(e, x, code);
    }
    true
}
