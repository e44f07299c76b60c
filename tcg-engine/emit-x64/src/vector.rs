//! Vector operations that the host has as one instruction: the pair in memory to XMM0, the operation, and back.

use ir::Inst;
use ir::vec::VecOp;

use crate::asm::{Map, RAX, Reg, Rm, Sz};
use crate::emit::Emitter;
use crate::layout::word;

/// Opcode of a two-operand instruction in the map 66 0F: `d = a op b`.
fn two(op: VecOp) -> Option<u8> {
    Some(match op {
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
        _ => return None,
    })
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

/// Emit `x`; answers whether it could.
pub fn emit(e: &mut Emitter, x: &Inst) -> bool {
    let Some(op) = VecOp::from_u8(x.aux) else { return false };
    let imm = x.imm as u8;
    if let Some(code) = two(op) {
        e.pair_in_memory(x.a);
        e.pair_in_memory(x.b);
        e.a.sse(Map::Of, 0x28, 0, word(x.a).into());
        e.a.sse(Map::Of66, code, 0, word(x.b).into());
    } else if let Some((code, ext)) = shift(op) {
        e.pair_in_memory(x.a);
        e.a.sse(Map::Of, 0x28, 0, word(x.a).into());
        e.a.ins(Sz::D, Map::Of66, code, ext, Rm::R(Reg(0)), (false, false));
        e.a.byte(if x.imm > 0xff { 0xff } else { imm });
    } else if let Some((map, code)) = shuffle(op) {
        e.pair_in_memory(x.a);
        e.a.sse(map, code, 0, word(x.a).into());
        e.a.byte(imm);
    } else if op == VecOp::MoveMask8 {
        e.pair_in_memory(x.a);
        e.a.sse(Map::Of, 0x28, 0, word(x.a).into());
        // pmovmskb eax, xmm0; movd xmm0, eax clears the rest.
        e.a.sse(Map::Of66, 0xd7, RAX.0, Rm::R(Reg(0)));
        e.a.sse(Map::Of66, 0x6e, 0, Rm::R(RAX));
    } else {
        return false;
    }
    e.a.sse(Map::Of, 0x29, 0, word(x.d).into());
    e.pair_written(x.d);
    true
}
