//! Moves to, from and between XMM and MMX registers, lanes in and out of them, and the masks of their signs.
//!
//! These are the vector instructions that everything uses, so each is one or two plain operations on words: an XMM register
//! is two of them.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::vec::VecOp;
use ir::{MemRef, NONE, Op, Slot};

use super::operand::Ea;
use super::simd::{Unit, high};
use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;
use crate::state::RDI;

/// Kinds of moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// 128 bits; memory must be aligned.
    Aligned,
    /// 128 bits.
    Unaligned,
    /// The low 32 or 64 bits; from memory the rest is cleared, between registers it is kept.
    Scalar(u32),
    /// MOVD and MOVQ: 32 or 64 bits between any kinds of registers and memory, zero-extended.
    Word,
    /// The low half with memory, or MOVHLPS.
    Low,
    /// The high half with memory, or MOVLHPS.
    High,
    /// MOVQ2DQ, MOVDQ2Q.
    Cross,
    /// Sign bits of lanes to a general register.
    Mask(VecOp),
    /// A lane of this many bits to a general register or memory.
    Extract(u32),
    /// A lane of this many bits from a general register or memory.
    Insert(u32),
    /// INSERTPS.
    InsertPs,
    /// Bytes under a mask to [DI].
    Masked,
}

fn row(m: Mnemonic) -> Option<Move> {
    use Mnemonic as M;
    Some(match m {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => Move::Aligned,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => Move::Unaligned,
        M::Movss => Move::Scalar(32),
        M::Movsd => Move::Scalar(64),
        M::Movd | M::Movq | M::Movntq => Move::Word,
        M::Movlps | M::Movlpd | M::Movhlps => Move::Low,
        M::Movhps | M::Movhpd | M::Movlhps => Move::High,
        M::Movq2dq | M::Movdq2q => Move::Cross,
        M::Pmovmskb => Move::Mask(VecOp::MoveMask8),
        M::Movmskps => Move::Mask(VecOp::MoveMask32),
        M::Movmskpd => Move::Mask(VecOp::MoveMask64),
        M::Pextrb => Move::Extract(8),
        M::Pextrw => Move::Extract(16),
        M::Pextrd | M::Extractps => Move::Extract(32),
        M::Pextrq => Move::Extract(64),
        M::Pinsrb => Move::Insert(8),
        M::Pinsrw => Move::Insert(16),
        M::Pinsrd => Move::Insert(32),
        M::Pinsrq => Move::Insert(64),
        M::Insertps => Move::InsertPs,
        M::Maskmovq | M::Maskmovdqu => Move::Masked,
        _ => return None,
    })
}

/// Lifts moves.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    let kind = row(l.i.mnemonic())?;
    let mmx = l.has_mm();
    // MOVSD is also a string instruction; it has no vector operand.
    if !mmx && !(0..l.i.op_count()).any(|n| l.is_xmm(n)) {
        return None;
    }
    // MOVQ2DQ and MOVDQ2Q use both units.
    let unit = if mmx && kind != Move::Cross { Unit::Mmx } else { Unit::Sse };
    if let Some(vector) = l.unit_fault(unit) {
        return l.raise(vector);
    }
    if mmx {
        l.wait_x87();
    }
    match kind {
        Move::Aligned | Move::Unaligned => whole(l, kind == Move::Aligned),
        Move::Scalar(bits) => scalar(l, bits),
        Move::Word => return word(l),
        Move::Low | Move::High => half(l, kind == Move::High),
        Move::Cross => return cross(l),
        Move::Mask(op) => return sign_mask(l, op),
        Move::Extract(bits) => return extract(l, bits),
        Move::Insert(bits) => return insert(l, bits),
        Move::InsertPs => insert_ps(l),
        Move::Masked => return masked(l),
    }
    Some(Flow::Next)
}

/// Pair of the vector register that is operand `n`.
fn register(l: &Lifter, n: u32) -> Slot {
    let r = l.i.op_register(n);
    if r.is_mm() { Lifter::mm_of(r) } else { Lifter::xmm_of(r) }
}

fn whole(l: &mut Lifter, aligned: bool) {
    let access = |ea: Ea| MemRef { aligned, ..ea.mem(128) };
    if l.is_mem(1) {
        let ea = l.ea();
        let d = register(l, 0);
        l.b.load(d, ea.base, ea.index, access(ea));
    } else if l.is_mem(0) {
        let ea = l.ea();
        let s = register(l, 1);
        l.b.store(s, ea.base, ea.index, access(ea));
    } else {
        let (d, s) = (register(l, 0), register(l, 1));
        l.b.op(Op::Mov128, d, s, NONE);
    }
}

fn scalar(l: &mut Lifter, bits: u32) {
    if l.is_mem(1) {
        let ea = l.ea();
        let d = register(l, 0);
        l.b.load(d, ea.base, ea.index, ea.mem(bits));
        l.b.op_imm(Op::MovI, high(d), NONE, 0);
    } else if l.is_mem(0) {
        let ea = l.ea();
        let s = register(l, 1);
        l.store(s, ea, bits);
    } else {
        let (d, s) = (register(l, 0), register(l, 1));
        if bits == 64 {
            l.b.op(Op::Mov, d, s, NONE);
        } else {
            l.b.full(Op::Deposit, 0, d, d, s, 32 << 8);
        }
    }
}

/// MOVD, MOVQ, MOVNTQ: to memory, to a general register, to a vector register.
pub(super) fn word(l: &mut Lifter) -> Lifted {
    if l.is_mem(0) || l.i.op_register(0).is_gpr() {
        let s = register(l, 1);
        l.write(0, s);
        if l.has_mm() {
            l.enter_mmx();
        }
        return Some(Flow::Next);
    }
    let d = register(l, 0);
    let to_mmx = l.is_mm(0);
    if l.is_mem(1) {
        let (ea, bits) = (l.ea(), l.bits(1));
        // Straight into the register: nothing else of it changes before.
        l.b.load(d, ea.base, ea.index, ea.mem(bits));
    } else if l.i.op_register(1).is_gpr32() {
        let s = l.read_reg(l.i.op_register(1));
        let op = if l.is_clean(s) { Op::Mov } else { Op::Zext32 };
        l.b.op(op, d, s, NONE);
    } else {
        let s = if l.i.op_register(1).is_gpr() { l.read_reg(l.i.op_register(1)) } else { register(l, 1) };
        l.b.op(Op::Mov, d, s, NONE);
    }
    if to_mmx {
        return l.finish_mmx(d, d);
    }
    l.b.op_imm(Op::MovI, high(d), NONE, 0);
    Some(Flow::Next)
}

/// MOVLPS, MOVHPS and their kin; between registers MOVHLPS (high to low) and MOVLHPS (low to high).
fn half(l: &mut Lifter, upper: bool) {
    let pick = |pair: Slot, upper: bool| if upper { high(pair) } else { pair };
    if l.is_mem(1) {
        let ea = l.ea();
        let d = pick(register(l, 0), upper);
        l.b.load(d, ea.base, ea.index, ea.mem(64));
    } else if l.is_mem(0) {
        let ea = l.ea();
        let s = pick(register(l, 1), upper);
        l.store(s, ea, 64);
    } else {
        let (d, s) = (pick(register(l, 0), upper), pick(register(l, 1), !upper));
        l.b.op(Op::Mov, d, s, NONE);
    }
}

fn cross(l: &mut Lifter) -> Lifted {
    let (d, s) = (register(l, 0), register(l, 1));
    if l.is_mm(0) {
        return l.finish_mmx(d, s);
    }
    l.b.op(Op::Mov, d, s, NONE);
    l.b.op_imm(Op::MovI, high(d), NONE, 0);
    l.enter_mmx();
    Some(Flow::Next)
}

pub(super) fn sign_mask(l: &mut Lifter, op: VecOp) -> Lifted {
    let s = register(l, 1);
    let t = l.vec_new(op, s, NONE, 0);
    let value = if l.is_mm(1) { l.b.new_imm(Op::AndI, t, 0xff) } else { t };
    l.set_clean(value, true);
    l.write_reg(l.i.op_register(0), value);
    if l.is_mm(1) {
        l.enter_mmx();
    }
    Some(Flow::Next)
}

/// Word and bit position of lane `imm` of `bits` bits in the vector register that is operand `n`.
fn lane(l: &Lifter, n: u32, bits: u32) -> (Slot, u32) {
    let vector_bits = if l.is_mm(n) { 64 } else { 128 };
    let at = u32::from(l.i.immediate8()) % (vector_bits / bits) * bits;
    (Slot(register(l, n).0 + (at / 64) as u16), at % 64)
}

pub(super) fn extract(l: &mut Lifter, bits: u32) -> Lifted {
    let (word, at) = lane(l, 1, bits);
    let value = if bits == 64 { word } else { l.b.new_imm(Op::Extract, word, u64::from(at | bits << 8)) };
    if l.is_mem(0) {
        let ea = l.ea();
        l.store(value, ea, bits);
    } else {
        // Zero-extended to the whole register.
        l.set_clean(value, bits <= 32);
        l.write_reg(l.i.op_register(0), value);
    }
    if l.is_mm(1) {
        l.enter_mmx();
    }
    Some(Flow::Next)
}

fn insert(l: &mut Lifter, bits: u32) -> Lifted {
    let value = if l.is_mem(1) {
        let ea = l.ea();
        l.load(ea, bits)
    } else {
        l.read_reg(l.i.op_register(1))
    };
    let (word, at) = lane(l, 0, bits);
    if bits == 64 {
        l.b.op(Op::Mov, word, value, NONE);
    } else {
        l.b.full(Op::Deposit, 0, word, word, value, u64::from(at | bits << 8));
    }
    if l.is_mm(0) {
        let d = register(l, 0);
        return l.finish_mmx(d, d);
    }
    Some(Flow::Next)
}

fn insert_ps(l: &mut Lifter) {
    let mut imm = u64::from(l.i.immediate8());
    let source = l.pair(1, false);
    if l.is_mem(1) {
        // The one element in memory, whatever bits 7:6 say.
        imm &= 0x3f;
    }
    let d = register(l, 0);
    l.vec(VecOp::InsertPs, d, d, source, imm);
}

/// What [`Helper::MaskedStore`] is told about its operands.
pub(crate) mod mask_call {
    /// Bits 0 to 3: register of the data. Bits 4 to 7: register of the mask.
    pub const MASK_SHIFT: u32 = 4;
    /// They are MMX registers.
    pub const MMX: u32 = 1 << 8;
    /// [`ir::MemRef::stack`].
    pub const STACK: u32 = 1 << 9;
    /// The offset wraps at 16 bits.
    pub const NARROW: u32 = 1 << 10;
    /// The offset wraps at 32 bits.
    pub const HALF: u32 = 1 << 11;
    /// Lowest bit of [`ir::MemRef::space`].
    pub const SPACE_SHIFT: u32 = 16;
}

pub(super) fn masked(l: &mut Lifter) -> Lifted {
    let base = match l.i.op_kind(0) {
        OpKind::MemorySegRDI => RDI,
        OpKind::MemorySegEDI => l.b.new_imm(Op::Zext32, RDI, 0),
        _ => l.b.new_imm(Op::Zext16, RDI, 0),
    };
    let flat = Ea { base, index: NONE, scale: 0, disp: 0, space: crate::memory::FLAT, wrap: 0, stack: false };
    let segment = l.segment()?;
    let ea = l.in_segment(flat, segment);
    let address = if ea.index == NONE {
        ea.base
    } else {
        let t = l.b.temp();
        l.b.full(Op::Lea, 0, t, ea.base, ea.index, 0);
        t
    };
    let number = |r: Register| r.number() as u32;
    let (data, mask) = (number(l.i.op_register(1)), number(l.i.op_register(2)));
    let mut imm = data | mask << mask_call::MASK_SHIFT | u32::from(ea.space) << mask_call::SPACE_SHIFT;
    let mmx = l.has_mm();
    if mmx {
        imm |= mask_call::MMX;
    }
    if ea.stack {
        imm |= mask_call::STACK;
    }
    match l.i.op_kind(0) {
        _ if l.code64() => {}
        OpKind::MemorySegDI => imm |= mask_call::NARROW,
        _ => imm |= mask_call::HALF,
    }
    l.call(NONE, Helper::MaskedStore, address, NONE, imm);
    if mmx {
        l.enter_mmx();
    }
    Some(Flow::Next)
}
