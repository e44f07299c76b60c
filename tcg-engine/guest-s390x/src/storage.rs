//! Storage-to-storage instructions: bulk operations of at most 256 bytes that happen whole or not at all, and the long moves
//! that keep their progress in registers.

use ir::flags::Kind;
use ir::op::{NONE, call_flags};
use ir::{BulkOp, BulkRef, Op, Rel, Slot};

use crate::decode::Fields;
use crate::{Addressing, Lift, helper, r};

/// Most that one execution of a long move does, so that interruptions are looked at in between.
const SLICE: u64 = 4096;

/// Both addresses and the length of an SS instruction, and how to reach them.
struct Operands {
    dst: Slot,
    src: Slot,
    len: Slot,
    r: BulkRef,
}

fn bulk_ref(l: &Lift, len: Slot, b1: u32, b2: u32) -> BulkRef {
    let key = l.mode.access_key();
    BulkRef {
        dst_space: l.mode.space_of(b1),
        src_space: l.mode.space_of(b2),
        wrap: l.mode.addressing.wrap(),
        dst_key: key,
        src_key: key,
        ..BulkRef::new(len)
    }
}

fn operands(l: &mut Lift, f: &Fields) -> Operands {
    let (dst, src) = (l.sum(f.b1, 0, f.d1), l.sum(f.b2, 0, f.d2));
    let len = l.b.constant(u64::from(f.len) + 1);
    let r = BulkRef { whole: true, ..bulk_ref(l, len, f.b1, f.b2) };
    Operands { dst, src, len, r }
}

impl Operands {
    fn bulk(&self, l: &mut Lift, op: BulkOp, src: Slot) -> Slot {
        let done = l.b.temp();
        l.b.full(Op::Bulk, op as u8, done, self.dst, src, self.r.imm());
        done
    }
}

/// MVC: byte by byte from left to right, so that an overlap by one byte propagates it.
pub(crate) fn copy(l: &mut Lift, f: &Fields) -> Option<()> {
    let o = operands(l, f);
    o.bulk(l, BulkOp::Copy, o.src);
    Some(())
}

/// NC, OC, XC: condition code 1 if any result byte is not zero.
pub(crate) fn logical(l: &mut Lift, f: &Fields, op: BulkOp) -> Option<()> {
    let o = operands(l, f);
    if op == BulkOp::Xor && (f.b1, f.d1) == (f.b2, f.d2) {
        // The idiom that clears storage.
        let zero = l.b.constant(0);
        o.bulk(l, BulkOp::Fill, zero);
        l.b.flags(Kind::S390NonZero, 64, NONE, NONE, zero);
        return Some(());
    }
    o.bulk(l, op, o.src);
    let any = l.b.temp();
    l.b.call(any, helper::id::ANY_BYTE, o.dst, o.len, helper::by_bases(f.b1, f.b2, f.len), call_flags::MAY_STOP);
    l.b.flags(Kind::S390NonZero, 64, NONE, NONE, any);
    Some(())
}

/// CLC: only bytes up to the first difference are accessed.
pub(crate) fn compare(l: &mut Lift, f: &Fields) -> Option<()> {
    let o = operands(l, f);
    let equal = o.bulk(l, BulkOp::Compare, o.src);
    let (a, b) = (l.b.constant(0), l.b.constant(0));
    let rest = l.b.new2(Op::Sub64, o.len, equal);
    let s = l.b.skip_if_zero(rest);
    // The pair that differs, or that faults.
    let (m1, m2) = (l.access(0, false, f.b1), l.access(0, false, f.b2));
    l.b.load(a, o.dst, equal, m1);
    l.b.load(b, o.src, equal, m2);
    l.b.close(s);
    l.b.flags(Kind::S390CompareU, 8, a, b, b);
    Some(())
}

/// TR and MVCIN, through helpers that check before they store.
pub(crate) fn helped(l: &mut Lift, f: &Fields, id: u16) -> Option<()> {
    let o = operands(l, f);
    l.b.call(NONE, id, o.dst, o.src, helper::by_bases(f.b1, f.b2, f.len), call_flags::MAY_STOP);
    Some(())
}

/// MVCK: length in R1, access key of the second operand in bits 56 to 59 of R3; at most 256 bytes, condition code 3 if there
/// are more. Lifted for the supervisor state only: in the problem state control register 3 says which keys may be used.
pub(crate) fn copy_with_key(l: &mut Lift, f: &Fields) -> Option<()> {
    if l.mode.problem {
        return None;
    }
    let (dst, src) = (l.sum(f.b1, 0, f.d1), l.sum(f.b2, 0, f.d2));
    let more = l.b.temp();
    // A key that is known only when the instruction runs cannot be part of an operation: the helper makes the reference.
    let imm = helper::by_bases(f.b1, f.b2, f.r1 | f.r3 << 4);
    l.b.call(more, helper::id::COPY_WITH_KEY, dst, src, imm, call_flags::MAY_STOP);
    let cc = l.b.temp();
    l.b.full(Op::Lea, 1, cc, more, more, 0);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, cc);
    Some(())
}

/// One side of a long move: address and length registers.
struct Side {
    register: u32,
    address: Slot,
    length: Slot,
}

impl Side {
    /// `bits`: how many low bits of the odd register are the length.
    fn of(l: &mut Lift, register: u32, bits: u8) -> Side {
        let address = l.masked(r(register));
        let length = l.b.new_imm(Op::Extract, r(register + 1), u64::from(bits) << 8);
        Side { register, address, length }
    }

    fn advance(&self, l: &mut Lift, done: Slot, bits: u8) {
        let address = l.b.new2(Op::Add64, self.address, done);
        let length = l.b.new2(Op::Sub64, self.length, done);
        l.set_address(self.register, address);
        l.b.full(Op::Deposit, 0, r(self.register + 1), r(self.register + 1), length, u64::from(bits) << 8);
    }
}

/// The lesser of two unsigned values.
fn least(l: &mut Lift, a: Slot, b: Slot) -> Slot {
    let less = l.b.set_rel(Rel::Ltu, a, b);
    let t = l.b.temp();
    l.b.full(Op::Select, 0, t, less, a, u64::from(b.0));
    t
}

/// Move or pad once: one bulk operation, as much as it does. Returns the bytes stored and the bytes fetched.
fn step(l: &mut Lift, f: &Fields, dst: &Side, src: &Side, pad: Slot, barred: Slot) -> (Slot, Slot) {
    let slice = l.b.constant(SLICE);
    let both = least(l, dst.length, src.length);
    let moving = least(l, both, slice);
    let filling = least(l, dst.length, slice);
    let (moved, filled) = (l.b.constant(0), l.b.constant(0));
    let zero = l.b.constant(0);
    let open = l.b.set_rel(Rel::Eq, barred, zero);
    let some = nonzero(l, moving);
    let move_now = l.b.new2(Op::And, open, some);
    let s = l.b.skip_if_zero(move_now);
    let copy = bulk_ref(l, moving, f.r1, f.r3);
    l.b.full(Op::Bulk, BulkOp::Copy as u8, moved, dst.address, src.address, copy.imm());
    l.b.close(s);
    // Padding begins when the source is used up before this execution.
    let empty = l.b.set_rel(Rel::Eq, src.length, zero);
    let some = nonzero(l, filling);
    let fill_now = l.b.new2(Op::And, empty, some);
    let s = l.b.skip_if_zero(fill_now);
    let fill = bulk_ref(l, filling, f.r1, f.r3);
    l.b.full(Op::Bulk, BulkOp::Fill as u8, filled, dst.address, pad, fill.imm());
    l.b.close(s);
    (l.b.new2(Op::Add64, moved, filled), moved)
}

fn nonzero(l: &mut Lift, v: Slot) -> Slot {
    let t = l.b.temp();
    l.b.full(Op::SetRelI, Rel::Ne as u8, t, v, NONE, 0);
    t
}

/// MVCLE: ends with condition code 3 when only a part was done; the program branches back to it.
pub(crate) fn move_long_extended(l: &mut Lift, f: &Fields) -> Option<()> {
    if !l.even(f.r1) || !l.even(f.r3) {
        return Some(());
    }
    let bits = if l.mode.addressing == Addressing::A64 { 64 } else { 32 };
    let (dst, src) = (Side::of(l, f.r1, bits), Side::of(l, f.r3, bits));
    let pad = l.sum(f.b2, 0, f.d2);
    let never = l.b.constant(0);
    let (stored, fetched) = step(l, f, &dst, &src, pad, never);
    let rest = l.b.new2(Op::Sub64, dst.length, stored);
    let cc = lengths_code(l, &dst, &src);
    let three = l.b.constant(3);
    let code = l.b.temp();
    l.b.full(Op::Select, 0, code, rest, three, u64::from(cc.0));
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, code);
    dst.advance(l, stored, bits);
    src.advance(l, fetched, bits);
    Some(())
}

/// 0, 1, 2: the first length is equal, low, high.
fn lengths_code(l: &mut Lift, dst: &Side, src: &Side) -> Slot {
    let low = l.b.set_rel(Rel::Ltu, dst.length, src.length);
    let high = l.b.set_rel(Rel::Ltu, src.length, dst.length);
    let cc = l.b.temp();
    l.b.full(Op::Lea, 1, cc, low, high, 0);
    cc
}

/// MVCL: interruptible. While bytes remain the block leaves to the instruction itself, so that an interruption between two
/// executions finds the progress in the registers and the PSW still at the instruction.
pub(crate) fn move_long(l: &mut Lift, f: &Fields) -> Option<()> {
    let f = &Fields { r3: f.r2, ..*f };
    if !l.even(f.r1) || !l.even(f.r3) {
        return Some(());
    }
    let (dst, src) = (Side::of(l, f.r1, 24), Side::of(l, f.r3, 24));
    let pad = l.b.new_imm(Op::Extract, r(f.r3 + 1), 24 | 8 << 8);
    // Destructive overlap: the destination begins behind the source's begin, within what will be fetched.
    let gap = l.b.new2(Op::Sub64, dst.address, src.address);
    let gap = l.masked(gap);
    let both = least(l, dst.length, src.length);
    let within = l.b.set_rel(Rel::Ltu, gap, both);
    let apart = nonzero(l, gap);
    let destructive = l.b.new2(Op::And, within, apart);
    let (stored, fetched) = step(l, f, &dst, &src, pad, destructive);
    let zero = l.b.constant(0);
    let rest = l.b.new2(Op::Sub64, dst.length, stored);
    let allowed = l.b.set_rel(Rel::Eq, destructive, zero);
    let left = nonzero(l, rest);
    let more = l.b.new2(Op::And, allowed, left);
    let cc = lengths_code(l, &dst, &src);
    let three = l.b.constant(3);
    let code = l.b.temp();
    l.b.full(Op::Select, 0, code, destructive, three, u64::from(cc.0));
    dst.advance(l, stored, 24);
    src.advance(l, fetched, 24);
    let pc = l.pc;
    l.b.op_imm(Op::ExitIf, NONE, more, pc);
    l.b.flags(Kind::S390Explicit, 64, NONE, NONE, code);
    Some(())
}
