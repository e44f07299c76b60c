//! Storage operands of single instructions: stores, several registers, characters under mask, interlocked updates.

use ir::flags::Kind;
use ir::op::NONE;
use ir::{AtomicOp, MemRef, Op, Slot};

use crate::alu::{condition, relative, test_mask};
use crate::decode::Fields;
use crate::{Lift, base_slot, r};

/// Store the low `1 << log2` bytes of R1.
pub(crate) fn store(l: &mut Lift, f: &Fields, log2: u8, big: bool) -> Option<()> {
    let m = MemRef { big, disp: f.d2, ..l.access(log2, false, f.b2) };
    l.b.store(r(f.r1), base_slot(f.b2), base_slot(f.x2), m);
    Some(())
}

/// The same at a relative address, which must be aligned.
pub(crate) fn store_relative(l: &mut Lift, f: &Fields, log2: u8) -> Option<()> {
    let at = relative(l, f.i2);
    let base = l.b.constant(at);
    let m = MemRef { aligned: true, ..l.access(log2, false, 0) };
    l.b.store(r(f.r1), base, NONE, m);
    Some(())
}

/// MVI, MVHHI, MVHI, MVGHI.
pub(crate) fn store_immediate(l: &mut Lift, f: &Fields, log2: u8) -> Option<()> {
    let v = l.b.constant(f.i2.cast_unsigned());
    let m = MemRef { disp: f.d1, ..l.access(log2, false, f.b1) };
    l.b.store(v, base_slot(f.b1), NONE, m);
    Some(())
}

/// Compare storage of `1 << log2` bytes with an immediate.
pub(crate) fn compare_immediate(l: &mut Lift, f: &Fields, log2: u8, logical: bool) -> Option<()> {
    let a = l.b.temp();
    let m = MemRef { disp: f.d1, ..l.access(log2, !logical, f.b1) };
    l.b.load(a, base_slot(f.b1), NONE, m);
    // Logical immediates of the halfword forms are zero-extended, also for wider operands.
    let imm = if !logical {
        f.i2.cast_unsigned()
    } else if log2 == 0 {
        f.i2.cast_unsigned() & 0xff
    } else {
        f.i2.cast_unsigned() & 0xffff
    };
    let b = l.b.constant(imm);
    let kind = if logical { Kind::S390CompareU } else { Kind::S390CompareS };
    l.b.flags(kind, 64, a, b, b);
    Some(())
}

/// TM.
pub(crate) fn test(l: &mut Lift, f: &Fields) -> Option<()> {
    let v = l.b.temp();
    let m = MemRef { disp: f.d1, ..l.access(0, false, f.b1) };
    l.b.load(v, base_slot(f.b1), NONE, m);
    test_mask(l, v, f.i2.cast_unsigned() & 0xff, true);
    Some(())
}

/// NI, OI, XI: interlocked ("Interlocked-Access Facility 2").
pub(crate) fn update_immediate(l: &mut Lift, f: &Fields, op: AtomicOp, alu: Op) -> Option<()> {
    let at = l.sum(f.b1, 0, f.d1);
    let v = l.b.constant(f.i2.cast_unsigned() & 0xff);
    let m = l.access(0, false, f.b1);
    let old = l.b.temp();
    l.b.full(Op::Atomic, m.aux(), old, at, v, m.pack_atomic(op));
    let new = l.b.new2(alu, old, v);
    l.b.flags(Kind::S390NonZero, 8, NONE, NONE, new);
    Some(())
}

/// IC: bits 56 to 63 of R1 come from storage.
pub(crate) fn insert_character(l: &mut Lift, f: &Fields) -> Option<()> {
    let t = l.b.temp();
    let m = MemRef { disp: f.d2, ..l.access(0, false, f.b2) };
    l.b.load(t, base_slot(f.b2), base_slot(f.x2), m);
    l.b.full(Op::Deposit, 0, r(f.r1), r(f.r1), t, 8 << 8);
    Some(())
}

/// Registers R1 to R3, around the corner from 15 to 0.
fn registers(f: &Fields) -> impl Iterator<Item = u32> + use<> {
    let n = (f.r3.wrapping_sub(f.r1) & 15) + 1;
    let first = f.r1;
    (0..n).map(move |i| (first + i) & 15)
}

/// LM, LMG: every load before every register, because the last one may fault and the base may be among them.
pub(crate) fn load_multiple(l: &mut Lift, f: &Fields, wide: bool) -> Option<()> {
    let log2 = if wide { 3 } else { 2 };
    let mut loaded = vec![];
    for (i, n) in registers(f).enumerate() {
        let t = l.b.temp();
        let m = MemRef { disp: f.d2 + ((i as i32) << log2), ..l.access(log2, false, f.b2) };
        l.b.load(t, base_slot(f.b2), NONE, m);
        loaded.push((n, t));
    }
    for (n, t) in loaded {
        l.set(n, t, wide);
    }
    Some(())
}

/// STM, STMG.
pub(crate) fn store_multiple(l: &mut Lift, f: &Fields, wide: bool) -> Option<()> {
    let log2 = if wide { 3 } else { 2 };
    let n = registers(f).count() as i32;
    check_store(l, f.b2, f.d2, n << log2);
    for (i, n) in registers(f).enumerate() {
        let m = MemRef { disp: f.d2 + ((i as i32) << log2), ..l.access(log2, false, f.b2) };
        l.b.store(r(n), base_slot(f.b2), NONE, m);
    }
    Some(())
}

/// Check the right to store at both ends of an operand of at most a page, so that none of several stores faults when others
/// are done: a nullified instruction leaves its operand unchanged ("Types of Instruction Ending").
fn check_store(l: &mut Lift, base: u32, disp: i32, bytes: i32) {
    for end in [disp, disp + bytes - 1] {
        let t = l.b.temp();
        let m = MemRef { disp: end, write_intent: true, ..l.access(0, false, base) };
        l.b.load(t, base_slot(base), NONE, m);
    }
}

/// The bytes of a register's low half that mask M3 selects, from the left: shift amounts.
fn selected(mask: u32) -> Vec<u8> {
    (0..4).filter(|i| mask & 8 >> i != 0).map(|i| 24 - 8 * i).collect()
}

/// ICM: the condition code is the sign of the inserted bytes together.
pub(crate) fn insert_under_mask(l: &mut Lift, f: &Fields) -> Option<()> {
    let places = selected(f.m3);
    let zero = l.b.constant(0);
    let (mut low, mut all) = (l.b.new2(Op::Mov, r(f.r1), NONE), zero);
    // A mask of zero still accesses the first byte.
    for i in 0..places.len().max(1) {
        let byte = l.b.temp();
        let m = MemRef { disp: f.d2 + i as i32, ..l.access(0, false, f.b2) };
        l.b.load(byte, base_slot(f.b2), NONE, m);
        if let Some(at) = places.get(i) {
            let t = l.b.temp();
            l.b.full(Op::Deposit, 0, t, low, byte, u64::from(*at) | 8 << 8);
            low = t;
            let up = l.b.new_imm(Op::Shl64I, all, 8);
            all = l.b.new2(Op::Or, up, byte);
        }
    }
    l.b.flags(Kind::S390Sign, (8 * places.len()).max(8) as u8, NONE, NONE, all);
    l.b.op(Op::Mov, r(f.r1), low, NONE);
    Some(())
}

/// STCM.
pub(crate) fn store_under_mask(l: &mut Lift, f: &Fields) -> Option<()> {
    let places = selected(f.m3);
    if places.len() > 1 {
        check_store(l, f.b2, f.d2, places.len() as i32);
    }
    for (i, at) in places.iter().enumerate() {
        let byte = l.b.new_imm(Op::Shr64I, r(f.r1), u64::from(*at));
        let m = MemRef { disp: f.d2 + i as i32, ..l.access(0, false, f.b2) };
        l.b.store(byte, base_slot(f.b2), NONE, m);
    }
    Some(())
}

/// CS, CSG: aligned, else a specification exception; condition code 1 and R1 loaded if unequal.
pub(crate) fn compare_and_swap(l: &mut Lift, f: &Fields, wide: bool) -> Option<()> {
    let at = l.sum(f.b2, 0, f.d2);
    let m = MemRef { aligned: true, ordered: true, ..l.access(if wide { 3 } else { 2 }, false, f.b2) };
    let old = l.b.temp();
    l.b.full(Op::Cas, m.aux(), old, at, r(f.r3), m.pack_cas(r(f.r1)));
    let differs = l.b.new2(Op::Xor, old, r(f.r1));
    l.b.flags(Kind::S390NonZero, if wide { 64 } else { 32 }, NONE, NONE, differs);
    l.set(f.r1, old, wide);
    Some(())
}

/// CDSG: pairs of registers, the even one on the left.
pub(crate) fn compare_double_and_swap(l: &mut Lift, f: &Fields) -> Option<()> {
    if !l.even(f.r1) || !l.even(f.r3) {
        return Some(());
    }
    let at = l.sum(f.b2, 0, f.d2);
    let (old, new) = (pair(l, f.r1), pair(l, f.r3));
    let m = MemRef { aligned: true, ordered: true, ..l.access(4, false, f.b2) };
    l.b.full(Op::Cas128, m.aux(), old, at, new, m.imm());
    let (low, high) = (old, Slot(old.0 + 1));
    let left = l.b.new2(Op::Xor, high, r(f.r1));
    let right = l.b.new2(Op::Xor, low, r(f.r1 + 1));
    let differs = l.b.new2(Op::Or, left, right);
    l.b.flags(Kind::S390NonZero, 64, NONE, NONE, differs);
    l.b.op(Op::Mov, r(f.r1), high, NONE);
    l.b.op(Op::Mov, r(f.r1 + 1), low, NONE);
    Some(())
}

/// Registers `n` (left) and `n` + 1 as a 128-bit value.
fn pair(l: &mut Lift, n: u32) -> Slot {
    let t = l.b.temp128();
    l.b.op(Op::Mov, t, r(n + 1), NONE);
    l.b.op(Op::Mov, Slot(t.0 + 1), r(n), NONE);
    t
}

/// LAA, LAAL, LAN, LAO, LAX: R1 = old; storage = old op R3; condition code as the operation sets it.
pub(crate) fn load_and(l: &mut Lift, f: &Fields, op: AtomicOp, alu: Op, kind: Kind, wide: bool) -> Option<()> {
    let at = l.sum(f.b2, 0, f.d2);
    let m = MemRef { aligned: true, ordered: true, ..l.access(if wide { 3 } else { 2 }, false, f.b2) };
    let (old, operand) = (l.b.temp(), l.b.new2(Op::Mov, r(f.r3), NONE));
    l.b.full(Op::Atomic, m.aux(), old, at, operand, m.pack_atomic(op));
    let new = l.b.new2(alu, old, operand);
    l.b.flags(kind, if wide { 64 } else { 32 }, old, operand, new);
    l.set(f.r1, old, wide);
    if kind == Kind::S390Add && l.mode.overflow {
        crate::alu::overflow(l);
    }
    Some(())
}

/// LOCR, LOCGR.
pub(crate) fn load_on_condition(l: &mut Lift, f: &Fields, wide: bool) -> Option<()> {
    let yes = condition(l, f.m3 as u8);
    let t = l.b.temp();
    l.b.full(Op::Select, 0, t, yes, r(f.r2), u64::from(r(f.r1).0));
    l.set(f.r1, t, wide);
    Some(())
}

/// LA, LAY, LARL: an address, of which the narrow modes load the low half.
pub(crate) fn load_address(l: &mut Lift, f: &Fields, relative_operand: bool) -> Option<()> {
    let t = if relative_operand {
        let at = relative(l, f.i2);
        l.b.constant(at)
    } else {
        l.address(f)
    };
    l.set_address(f.r1, t);
    Some(())
}
