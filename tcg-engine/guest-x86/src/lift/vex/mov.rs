//! Moves to, from and between XMM and YMM registers, lanes in and out of them, the masks of their signs, MXCSR.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::op::FPC;
use ir::vec::VecOp;
use ir::{MemRef, NONE, Op, Slot};

use super::Wide;
use crate::lift::simd::high;
use crate::lift::{Flow, Lifted, Lifter, vector_mov};

/// Lifts them.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    use Mnemonic as M;
    match l.i.mnemonic() {
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => whole(l, true),
        M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => whole(l, false),
        M::Vmovss => scalar(l, 32),
        M::Vmovsd => scalar(l, 64),
        M::Vmovd | M::Vmovq => return word(l),
        M::Vmovlps | M::Vmovlpd => half(l, false),
        M::Vmovhps | M::Vmovhpd => half(l, true),
        M::Vmovhlps => between(l, true),
        M::Vmovlhps => between(l, false),
        M::Vpmovmskb => sign_mask(l, VecOp::MoveMask8, 16),
        M::Vmovmskps => sign_mask(l, VecOp::MoveMask32, 4),
        M::Vmovmskpd => sign_mask(l, VecOp::MoveMask64, 2),
        M::Vpextrb => return vector_mov::extract(l, 8),
        M::Vpextrw => return vector_mov::extract(l, 16),
        M::Vpextrd | M::Vextractps => return vector_mov::extract(l, 32),
        M::Vpextrq => return vector_mov::extract(l, 64),
        M::Vpinsrb => insert(l, 8),
        M::Vpinsrw => insert(l, 16),
        M::Vpinsrd => insert(l, 32),
        M::Vpinsrq => insert(l, 64),
        M::Vinsertps => insert_ps(l),
        M::Vmaskmovdqu => return vector_mov::masked(l),
        M::Vzeroupper => zero(l, false),
        M::Vzeroall => zero(l, true),
        M::Vldmxcsr => return l.load_mxcsr(),
        M::Vstmxcsr => {
            let ea = l.ea();
            l.store(FPC, ea, 32);
        }
        _ => return None,
    }
    Some(Flow::Next)
}

fn whole(l: &mut Lifter, aligned: bool) {
    let wide = l.is_wide();
    if l.is_mem(0) {
        let ea = l.ea();
        let s = Lifter::halves(l.i.op_register(1));
        if wide {
            l.store_wide(s, ea, aligned);
        } else {
            l.b.store(s.low, ea.base, ea.index, MemRef { aligned, ..ea.mem(128) });
        }
        return;
    }
    let d = l.destination();
    if !l.is_mem(1) {
        let s = l.vector(1);
        return l.finish(d, s, wide);
    }
    let ea = l.ea();
    if wide {
        // The second access is the last that may stop.
        let low = l.load_wide(ea, d.upper, aligned);
        l.b.op(Op::Mov128, d.low, low, NONE);
    } else {
        l.b.load(d.low, ea.base, ea.index, MemRef { aligned, ..ea.mem(128) });
        l.clear_upper(d);
    }
}

/// VMOVSS and VMOVSD: from memory the rest is cleared, between registers it is the second operand's.
fn scalar(l: &mut Lifter, bits: u32) {
    if l.is_mem(0) {
        let ea = l.ea();
        let s = Lifter::halves(l.i.op_register(1));
        return l.store(s.low, ea, bits);
    }
    let d = l.destination();
    if l.is_mem(1) {
        let ea = l.ea();
        l.b.load(d.low, ea.base, ea.index, ea.mem(bits));
        l.b.op_imm(Op::MovI, high(d.low), NONE, 0);
        return l.clear_upper(d);
    }
    let (a, b) = (l.vector(1).low, l.vector(2).low);
    // The low word first: the destination may be the source of either.
    if bits == 64 {
        l.b.op(Op::Mov, d.low, b, NONE);
    } else {
        l.b.full(Op::Deposit, 0, d.low, a, b, 32 << 8);
    }
    l.b.op(Op::Mov, high(d.low), high(a), NONE);
    l.clear_upper(d);
}

fn word(l: &mut Lifter) -> Lifted {
    let flow = vector_mov::word(l);
    if l.is_xmm(0) {
        let d = l.destination();
        l.clear_upper(d);
    }
    flow
}

/// One half with memory, the other one from the second operand.
fn half(l: &mut Lifter, upper: bool) {
    let pick = |pair: Slot, upper: bool| if upper { high(pair) } else { pair };
    let ea = l.ea();
    if l.is_mem(0) {
        let s = Lifter::halves(l.i.op_register(1)).low;
        return l.store(pick(s, upper), ea, 64);
    }
    let d = l.destination();
    let a = l.vector(1).low;
    l.b.load(pick(d.low, upper), ea.base, ea.index, ea.mem(64));
    l.b.op(Op::Mov, pick(d.low, !upper), pick(a, !upper), NONE);
    l.clear_upper(d);
}

/// VMOVHLPS (high halves of both) and VMOVLHPS (low halves of both), in the order that suits a destination which is a source.
fn between(l: &mut Lifter, highs: bool) {
    let d = l.destination();
    let (a, b) = (l.vector(1).low, l.vector(2).low);
    if highs {
        l.b.op(Op::Mov, d.low, high(b), NONE);
        l.b.op(Op::Mov, high(d.low), high(a), NONE);
    } else {
        l.b.op(Op::Mov, high(d.low), b, NONE);
        l.b.op(Op::Mov, d.low, a, NONE);
    }
    l.clear_upper(d);
}

/// Signs of `lanes` lanes per half.
fn sign_mask(l: &mut Lifter, op: VecOp, lanes: u32) {
    let wide = l.i.op_register(1).is_ymm();
    let a = l.vector(1);
    let mut value: Slot = l.vec_new(op, a.low, NONE, 0);
    if wide {
        let upper = l.vec_new(op, a.upper, NONE, 0);
        let shifted = l.b.new_imm(Op::Shl64I, upper, u64::from(lanes));
        value = l.b.new2(Op::Or, value, shifted);
    }
    l.set_clean(value, true);
    l.write_reg(l.i.op_register(0), value);
}

fn insert(l: &mut Lifter, bits: u32) {
    let value = if l.i.op_kind(2) == OpKind::Memory {
        let ea = l.ea();
        l.load(ea, bits)
    } else {
        l.read_reg(l.i.op_register(2))
    };
    let at = u32::from(l.i.immediate8()) % (128 / bits) * bits;
    let d = l.destination();
    let a = l.vector(1);
    l.finish(d, Wide { low: a.low, upper: a.low }, false);
    let word = Slot(d.low.0 + (at / 64) as u16);
    if bits == 64 {
        l.b.op(Op::Mov, word, value, NONE);
    } else {
        l.b.full(Op::Deposit, 0, word, word, value, u64::from((at % 64) | (bits << 8)));
    }
}

fn insert_ps(l: &mut Lifter) {
    let mut imm = u64::from(l.i.immediate8());
    if l.is_mem(2) {
        // The one element in memory, whatever bits 7:6 say.
        imm &= 0x3f;
    }
    let d = l.destination();
    let b = l.vector(2).low;
    let a = l.vector(1).low;
    l.vec(VecOp::InsertPs, d.low, a, b, imm);
    l.clear_upper(d);
}

/// VZEROUPPER and VZEROALL: the registers that the mode has.
fn zero(l: &mut Lifter, all: bool) {
    let count = if l.code64() { 16 } else { 8 };
    for n in 0..count {
        let r = Lifter::halves(Register::XMM0 + n);
        let words = r.words();
        for w in if all { &words[..] } else { &words[2..] } {
            l.b.op_imm(Op::MovI, *w, NONE, 0);
        }
    }
}
