//! Loads and stores (C4.1.94): addressing forms, pairs, exclusives, acquire and release, atomics.

use ir::op::NONE;
use ir::{AtomicOp, MemRef, Op, Slot};

use crate::{Lift, bits, sext, v, x};

/// Where an access goes: base register value and displacement, and what is written back to the base.
struct Address {
    base: Slot,
    index: Slot,
    scale: u8,
    disp: i32,
    write_back: Option<i64>,
}

impl Address {
    fn plain(rn: u32, disp: i32) -> Address {
        Address { base: x(rn), index: NONE, scale: 0, disp, write_back: None }
    }

    /// Addressing by bits `mode`: 1 post-index, 2 offset, 3 pre-index.
    fn indexed(rn: u32, offset: i64, mode: u32) -> Address {
        let write_back = (mode != 2).then_some(offset);
        Address { write_back, ..Address::plain(rn, if mode == 1 { 0 } else { offset as i32 }) }
    }

    fn at(&self, m: MemRef, more: i32) -> MemRef {
        MemRef { disp: self.disp + more, scale: self.scale, ..m }
    }

    fn finish(&self, l: &mut Lift, rn: u32) {
        if let Some(offset) = self.write_back {
            l.b.op_imm(Op::Add64I, x(rn), x(rn), offset as u64);
        }
    }
}

/// One transferred register: general or vector, its access, and what the value becomes.
#[derive(Clone, Copy)]
struct Transfer {
    vector: bool,
    m: MemRef,
    /// Sign-extended into 32 bits, not 64.
    to32: bool,
}

impl Transfer {
    fn load(self, l: &mut Lift, a: &Address, more: i32) -> Slot {
        let t = if self.m.log2 == 4 { l.b.temp128() } else { l.b.temp() };
        l.b.load(t, a.base, a.index, a.at(self.m, more));
        t
    }

    /// Write what was loaded to register `r`. No operation of the instruction may stop after this.
    fn put(self, l: &mut Lift, r: u32, t: Slot) {
        match (self.vector, self.m.log2) {
            (true, 4) => l.b.op(Op::Mov128, v(r), t, NONE),
            (true, _) => {
                l.b.op(Op::Mov, v(r), t, NONE);
                l.b.op_imm(Op::MovI, Slot(v(r).0 + 1), NONE, 0);
            }
            _ => {
                let d = l.write(r);
                l.assign(d, t, !self.to32);
            }
        }
    }

    fn store(self, l: &mut Lift, r: u32, a: &Address, more: i32) {
        let s = if self.vector { v(r) } else { l.read(r) };
        l.b.store(s, a.base, a.index, a.at(self.m, more));
    }
}

/// Size and kind from size (31..30), V and opc (23..22); `None` for prefetches and unallocated forms.
fn transfer(i: u32) -> Option<(Transfer, bool)> {
    let (size, opc) = (bits(i, 31, 30) as u8, bits(i, 23, 22));
    if bits(i, 26, 26) == 1 {
        let log2 = if opc >= 2 { 4 } else { size };
        if opc >= 2 && size != 0 {
            return None;
        }
        return Some((Transfer { vector: true, m: MemRef::new(log2), to32: false }, opc & 1 == 1));
    }
    let m = MemRef { signed: opc >= 2, ..MemRef::new(size) };
    if opc >= 2 && size == 3 || opc == 3 && size == 2 {
        return None;
    }
    Some((Transfer { vector: false, m, to32: opc == 3 }, opc != 0))
}

pub(crate) fn access(l: &mut Lift, i: u32) -> Option<()> {
    match bits(i, 29, 27) {
        0b001 if bits(i, 26, 26) == 0 && bits(i, 24, 24) == 0 => exclusive(l, i),
        0b011 if bits(i, 24, 24) == 0 => literal(l, i),
        0b101 => pair(l, i),
        0b111 if bits(i, 24, 24) == 1 => {
            let (t, load) = transfer(i)?;
            let disp = (bits(i, 21, 10) << t.m.log2) as i32;
            single(l, i, t, load, &Address::plain(bits(i, 9, 5), disp));
            Some(())
        }
        0b111 => match (bits(i, 21, 21), bits(i, 11, 10)) {
            (0, mode) => {
                let (t, load) = transfer(i)?;
                let offset = sext(bits(i, 20, 12), 9);
                let mode = match mode {
                    0 => 2,
                    2 => return None,
                    m => m,
                };
                single(l, i, t, load, &Address::indexed(bits(i, 9, 5), offset, mode));
                Some(())
            }
            (_, 2) => register_offset(l, i),
            (_, 0) => atomic(l, i),
            _ => None,
        },
        _ => None,
    }
}

fn single(l: &mut Lift, i: u32, t: Transfer, load: bool, a: &Address) {
    let (rt, rn) = (bits(i, 4, 0), bits(i, 9, 5));
    if load {
        let value = t.load(l, a, 0);
        a.finish(l, rn);
        t.put(l, rt, value);
    } else {
        t.store(l, rt, a, 0);
        a.finish(l, rn);
    }
}

fn literal(l: &mut Lift, i: u32) -> Option<()> {
    let (vector, opc) = (bits(i, 26, 26) == 1, bits(i, 31, 30) as u8);
    if opc == 3 {
        return None;
    }
    let m = match (vector, opc) {
        (true, n) => MemRef::new(n + 2),
        (false, 2) => MemRef { signed: true, ..MemRef::new(2) },
        (false, n) => MemRef::new(n + 2),
    };
    let at = l.pc.wrapping_add((sext(bits(i, 23, 5), 19) << 2) as u64);
    let base = l.b.constant(at);
    let t = Transfer { vector, m, to32: false };
    let value = t.load(l, &Address { base, ..Address::plain(0, 0) }, 0);
    t.put(l, bits(i, 4, 0), value);
    Some(())
}

fn register_offset(l: &mut Lift, i: u32) -> Option<()> {
    let (t, load) = transfer(i)?;
    let extend = match bits(i, 15, 13) {
        2 => Op::Zext32,
        3 | 7 => Op::Mov,
        6 => Op::Sext32,
        _ => return None,
    };
    let m = l.read(bits(i, 20, 16));
    let index = l.b.new2(extend, m, NONE);
    let shift = if bits(i, 12, 12) == 1 { t.m.log2 } else { 0 };
    let (index, scale) = if shift == 4 { (l.b.new_imm(Op::Shl64I, index, 4), 0) } else { (index, shift) };
    single(l, i, t, load, &Address { index, scale, ..Address::plain(bits(i, 9, 5), 0) });
    Some(())
}

fn pair(l: &mut Lift, i: u32) -> Option<()> {
    let (vector, opc, load) = (bits(i, 26, 26) == 1, bits(i, 31, 30) as u8, bits(i, 22, 22) == 1);
    let m = match (vector, opc) {
        (true, n @ 0..=2) => MemRef::new(n + 2),
        (false, 0) => MemRef::new(2),
        (false, 1) if load && bits(i, 24, 23) != 0 => MemRef { signed: true, ..MemRef::new(2) },
        (false, 2) => MemRef::new(3),
        _ => return None,
    };
    let t = Transfer { vector, m, to32: false };
    let bytes = 1i32 << m.log2;
    let (rt, rt2, rn) = (bits(i, 4, 0), bits(i, 14, 10), bits(i, 9, 5));
    let mode = if bits(i, 24, 23) == 0 { 2 } else { bits(i, 24, 23) };
    let a = Address::indexed(rn, sext(bits(i, 21, 15), 7) << m.log2, mode);
    if load {
        // Both halves before either register: the second may fault.
        let (one, two) = (t.load(l, &a, 0), t.load(l, &a, bytes));
        a.finish(l, rn);
        t.put(l, rt, one);
        t.put(l, rt2, two);
    } else {
        t.store(l, rt, &a, 0);
        t.store(l, rt2, &a, bytes);
        a.finish(l, rn);
    }
    Some(())
}

/// LDXR, STXR, LDAXR, STLXR, LDAR, STLR, CAS (single registers).
fn exclusive(l: &mut Lift, i: u32) -> Option<()> {
    let (rt, rn, rt2, rs) = (bits(i, 4, 0), bits(i, 9, 5), bits(i, 14, 10), bits(i, 20, 16));
    let ordered = bits(i, 15, 15) == 1;
    let m = MemRef { aligned: true, ordered, ..MemRef::new(bits(i, 31, 30) as u8) };
    match (bits(i, 23, 23), bits(i, 22, 22), bits(i, 21, 21)) {
        (0, 1, 0) => {
            let t = l.b.temp();
            l.b.full(Op::LoadExclusive, m.aux(), t, x(rn), NONE, m.imm());
            let d = l.write(rt);
            l.b.op(Op::Mov, d, t, NONE);
        }
        (0, 0, 0) => {
            let s = l.read(rt);
            let t = l.b.temp();
            l.b.full(Op::StoreExclusive, m.aux(), t, x(rn), s, m.imm());
            let d = l.write(rs);
            l.b.op(Op::Mov, d, t, NONE);
        }
        (1, load, 0) if ordered => {
            let t = Transfer { vector: false, m, to32: false };
            single(l, i, t, load == 1, &Address::plain(rn, 0));
        }
        (1, acquire, 1) if rt2 == 31 => {
            let m = MemRef { ordered: acquire == 1 || ordered, ..m };
            let (expected, new) = (l.read(rs), l.read(rt));
            let t = l.b.temp();
            l.b.full(Op::Cas, m.aux(), t, x(rn), new, m.pack_cas(expected));
            let d = l.write(rs);
            l.b.op(Op::Mov, d, t, NONE);
        }
        _ => return None,
    }
    Some(())
}

/// LDADD, LDCLR, LDEOR, LDSET, LDSMAX, LDSMIN, LDUMAX, LDUMIN, SWP.
fn atomic(l: &mut Lift, i: u32) -> Option<()> {
    if bits(i, 26, 26) == 1 {
        return None;
    }
    use AtomicOp::{Add, AndNot, MaxS, MaxU, MinS, MinU, Or, Swap, Xor};
    let op = match (bits(i, 15, 15), bits(i, 14, 12)) {
        (0, n) => [Add, AndNot, Xor, Or, MaxS, MinS, MaxU, MinU][n as usize],
        (_, 0) => Swap,
        _ => return None,
    };
    let m = MemRef { aligned: true, ordered: bits(i, 23, 22) != 0, ..MemRef::new(bits(i, 31, 30) as u8) };
    let s = l.read(bits(i, 20, 16));
    let t = l.b.temp();
    l.b.full(Op::Atomic, m.aux(), t, x(bits(i, 9, 5)), s, m.pack_atomic(op));
    let d = l.write(bits(i, 4, 0));
    l.b.op(Op::Mov, d, t, NONE);
    Some(())
}
