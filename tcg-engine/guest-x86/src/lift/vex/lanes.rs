//! What crosses the halves of a YMM register: broadcasts, inserts, extracts, permutations; and loads and stores of single lanes
//! under a mask, VMASKMOV and VGATHER, which are helpers.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::vec::VecOp;
use ir::{NONE, Op, Slot};

use super::Wide;
use crate::helpers::Helper;
use crate::lift::operand::Ea;
use crate::lift::{Flow, Lifted, Lifter};
use crate::state::{Seg, seg_base};

/// What [`Helper::MaskedMove`] and [`Helper::GatherLanes`] are told about their operands.
pub(crate) mod lane_call {
    /// Bits 0 to 3: register of the data. Bits 4 to 7: register of the mask.
    pub const MASK_SHIFT: u32 = 4;
    /// Bits 8 to 11: register of the indices.
    pub const INDEX_SHIFT: u32 = 8;
    /// Lanes have 64 bits, else 32.
    pub const LONG: u32 = 1 << 12;
    /// 256 bits of lanes.
    pub const WIDE: u32 = 1 << 13;
    /// From the register to memory.
    pub const STORE: u32 = 1 << 14;
    /// [`ir::MemRef::stack`].
    pub const STACK: u32 = 1 << 15;
    /// Lowest of four bits of [`ir::MemRef::space`].
    pub const SPACE_SHIFT: u32 = 16;
    /// Lowest of two bits: left shift of an index.
    pub const SCALE_SHIFT: u32 = 20;
    /// Indices have 64 bits, else 32.
    pub const LONG_INDEX: u32 = 1 << 22;
    /// Offsets wrap at 32 bits.
    pub const HALF: u32 = 1 << 23;
    /// 256 bits of indices.
    pub const WIDE_INDEX: u32 = 1 << 24;
}

/// Lifts them.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    use Mnemonic as M;
    match l.i.mnemonic() {
        M::Vpbroadcastb => broadcast(l, 8),
        M::Vpbroadcastw => broadcast(l, 16),
        M::Vpbroadcastd | M::Vbroadcastss => broadcast(l, 32),
        M::Vpbroadcastq | M::Vbroadcastsd => broadcast(l, 64),
        M::Vbroadcastf128 | M::Vbroadcasti128 => broadcast(l, 128),
        M::Vinsertf128 | M::Vinserti128 => insert(l),
        M::Vextractf128 | M::Vextracti128 => extract(l),
        M::Vperm2f128 | M::Vperm2i128 => permute_halves(l),
        M::Vpermq | M::Vpermpd => permute_words(l),
        M::Vpermd | M::Vpermps => permute_lanes(l),
        M::Vmaskmovps | M::Vpmaskmovd => masked(l, 0),
        M::Vmaskmovpd | M::Vpmaskmovq => masked(l, lane_call::LONG),
        M::Vgatherdps | M::Vpgatherdd => gather(l, 0),
        M::Vgatherdpd | M::Vpgatherdq => gather(l, lane_call::LONG),
        M::Vgatherqps | M::Vpgatherqd => gather(l, lane_call::LONG_INDEX),
        M::Vgatherqpd | M::Vpgatherqq => gather(l, lane_call::LONG | lane_call::LONG_INDEX),
        _ => return None,
    }
    Some(Flow::Next)
}

fn broadcast(l: &mut Lifter, bits: u32) {
    let (wide, d) = (l.is_wide(), l.destination());
    let s = l.vector(1).low;
    let low = match bits {
        8 => {
            let zero = l.pair_constant(0, 0);
            l.vec_new(VecOp::Shuffle8, s, zero, 0)
        }
        16 => {
            let t = l.vec_new(VecOp::ShuffleLo16, s, NONE, 0);
            l.vec_new(VecOp::DupLo64, t, NONE, 0)
        }
        32 => l.vec_new(VecOp::Shuffle32, s, NONE, 0),
        64 => l.vec_new(VecOp::DupLo64, s, NONE, 0),
        _ => s,
    };
    l.finish(d, Wide { low, upper: low }, wide);
}

/// The destination's halves from pairs that may be its own, the upper one first.
fn assign(l: &mut Lifter, d: Wide, v: Wide) {
    for (to, from) in [(d.upper, v.upper), (d.low, v.low)] {
        if to != from {
            l.b.op(Op::Mov128, to, from, NONE);
        }
    }
}

fn insert(l: &mut Lifter) {
    let d = l.destination();
    let b = l.vector(2).low;
    let a = l.vector(1);
    // A lower half of the destination is read before it is written: the upper one goes first.
    let v = if l.i.immediate8() & 1 == 0 { Wide { low: b, upper: a.upper } } else { Wide { low: a.low, upper: b } };
    assign(l, d, v);
}

fn extract(l: &mut Lifter) {
    let s = Lifter::halves(l.i.op_register(1));
    let v = if l.i.immediate8() & 1 == 0 { s.low } else { s.upper };
    if l.is_mem(0) {
        let ea = l.ea();
        l.b.store(v, ea.base, ea.index, ea.mem(128));
    } else {
        let d = l.destination();
        l.finish(d, Wide { low: v, upper: v }, false);
    }
}

/// VPERM2F128: any half of two operands, or zero, for each half.
fn permute_halves(l: &mut Lifter) {
    let (d, imm) = (l.destination(), l.i.immediate8());
    let b = l.vector(2);
    let a = l.vector(1);
    let copy = |l: &mut Lifter, choice: u8| {
        if choice & 8 != 0 {
            return l.pair_constant(0, 0);
        }
        let from = [a.low, a.upper, b.low, b.upper][usize::from(choice & 3)];
        let t = l.b.temp128();
        l.b.op(Op::Mov128, t, from, NONE);
        t
    };
    let v = Wide { low: copy(l, imm), upper: copy(l, imm >> 4) };
    assign(l, d, v);
}

/// VPERMQ: any quadword for each quadword.
fn permute_words(l: &mut Lifter) {
    let (d, imm) = (l.destination().words(), l.i.immediate8());
    let s = l.vector(1).words();
    let v = std::array::from_fn::<Slot, 4, _>(|n| {
        let t = l.b.temp();
        l.b.op(Op::Mov, t, s[usize::from(imm >> (2 * n) & 3)], NONE);
        t
    });
    for (to, from) in d.into_iter().zip(v) {
        l.b.op(Op::Mov, to, from, NONE);
    }
}

/// VPERMD: any doubleword for each doubleword, by the indices in the second operand.
fn permute_lanes(l: &mut Lifter) {
    let d = l.destination();
    let s = l.vector(2);
    let indices = l.vector(1);
    let half = |l: &mut Lifter, index: Slot| {
        let low = l.vec_new(VecOp::Permute32, s.low, index, 0);
        let upper = l.vec_new(VecOp::Permute32, s.upper, index, 0);
        // Bit 2 of an index says which half.
        let sign = l.vec_new(VecOp::Shl32I, index, NONE, 29);
        let mask = l.vec_new(VecOp::Sar32I, sign, NONE, 31);
        let upper = l.vec_new(VecOp::And, mask, upper, 0);
        let low = l.vec_new(VecOp::AndNot, mask, low, 0);
        l.vec_new(VecOp::Or, upper, low, 0)
    };
    let v = Wide { low: half(l, indices.low), upper: half(l, indices.upper) };
    assign(l, d, v);
}

fn number(r: Register) -> u32 {
    r.number() as u32
}

fn memory_bits(ea: Ea) -> u32 {
    u32::from(ea.space) << lane_call::SPACE_SHIFT | if ea.stack { lane_call::STACK } else { 0 }
}

/// VMASKMOV and VPMASKMOV: a lane whose mask is not negative is not accessed.
fn masked(l: &mut Lifter, kind: u32) {
    let (data, store) = if l.i.op_kind(0) == OpKind::Memory { (2, lane_call::STORE) } else { (0, 0) };
    let wide = if l.is_wide() { lane_call::WIDE } else { 0 };
    let registers = number(l.i.op_register(data)) | number(l.i.op_register(1)) << lane_call::MASK_SHIFT;
    let (address, ea) = l.ea_slot();
    let half = if l.code64() { 0 } else { lane_call::HALF };
    l.call(NONE, Helper::MaskedMove, address, NONE, registers | kind | store | wide | half | memory_bits(ea));
}

/// VGATHER: lanes from addresses made of indices. The base of FS or GS in 64-bit code is added to what has wrapped.
fn gather(l: &mut Lifter, kind: u32) {
    let index = l.i.memory_index();
    let scale = l.i.memory_index_scale().trailing_zeros();
    let registers = number(l.i.op_register(0))
        | number(l.i.op_register(2)) << lane_call::MASK_SHIFT
        | number(index) << lane_call::INDEX_SHIFT;
    let wide = if l.i.op_register(0).is_ymm() { lane_call::WIDE } else { 0 };
    let wide_index = if index.is_ymm() { lane_call::WIDE_INDEX } else { 0 };
    // The rest of the operand is an ordinary one.
    l.i.set_memory_index(Register::None);
    let half = if l.address_bits() == 64 { 0 } else { lane_call::HALF };
    let offset = l.offset_part();
    let segment = l.segment();
    let base = match segment {
        Some(s @ (Seg::Fs | Seg::Gs)) if l.code64() => seg_base(s),
        _ => l.constant(0),
    };
    let plain = Ea { base, index: NONE, scale: 0, disp: 0, ..offset };
    let ea = match segment {
        Some(s) => l.in_segment(plain, s),
        None => plain,
    };
    let address = l.b.temp();
    if offset.base == NONE {
        l.b.op_imm(Op::MovI, address, NONE, i64::from(offset.disp).cast_unsigned());
    } else {
        l.b.full(Op::Lea, 0, address, offset.base, NONE, i64::from(offset.disp).cast_unsigned());
    }
    let imm = registers | kind | wide | wide_index | half | scale << lane_call::SCALE_SHIFT | memory_bits(ea);
    l.call(NONE, Helper::GatherLanes, address, base, imm);
}
