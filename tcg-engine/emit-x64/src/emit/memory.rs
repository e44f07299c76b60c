//! Loads, stores and atomic operations: an inline lookup in the TLB, and everything else by the interpreter.

use ir::op::{FLAG_R, Inst, MemRef, NONE, Slot, TIER_TAG};
use ir::{AluOp, AtomicOp};
use mem::tlb::Shape;

use super::arithmetic::host_alu;
use super::{Base, Emitter, Flags, Instead, Part, Refill, Reload, Retry};
use crate::asm::{Alu, Asm, Hole, Map, Mem, Piece, R14, R15, RAX, RBX, RCX, RDX, Shift, Sz, at, cc, indexed};
use crate::layout::word;
use crate::memo;
use crate::mutants::{Mutant, on};

/// Where the TLB is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Loads,
    Stores,
    /// Large pages, for loads.
    Wide,
}

/// What lookups in the tables of a TLB of this shape have in common, in the order of [`Table`].
pub(super) fn lookups(tlb: Shape) -> [Piece; 3] {
    let mask = (tlb.entries() - 1) << mem::tlb::ENTRY_LOG2;
    let small = |table| Piece::new(|a| look_up_end(a, table, 12, mask));
    let wide = Piece::new(|a| look_up_end(a, tlb.wide(), mem::tlb::WIDE_SHIFT, mem::tlb::WIDE_MASK));
    [small(0), small(tlb.stores()), wide]
}

/// EAX is the address, RCX that of the last byte: the addend of the entry in `table` of the page of 2^`shift` bytes.
fn look_up_end(a: &mut Asm, table: i32, shift: u8, mask: u32) -> Hole {
    a.shift_imm(Shift::Shr, Sz::D, RAX, shift - mem::tlb::ENTRY_LOG2);
    // The short form for EAX.
    a.byte(0x25);
    for b in mask.to_le_bytes() {
        a.byte(b);
    }
    a.shift_imm(Shift::Shr, Sz::Q, RCX, shift);
    a.alu(Alu::Or, Sz::Q, RCX, word(TIER_TAG));
    a.alu(Alu::Cmp, Sz::Q, RCX, indexed(R15, RAX, 0, table + mem::tlb::TAG_OFFSET));
    let miss = a.jcc(cc::NE);
    a.mov(Sz::Q, RAX, indexed(R15, RAX, 0, table + mem::tlb::ADDEND_OFFSET));
    miss
}

impl Emitter {
    /// The address of a memory operation as an operand on registers; may use RDX.
    pub(super) fn address(&mut self, x: &Inst, m: MemRef, slack: i32) -> Mem {
        if let Some(near) = self.near() {
            return near;
        }
        if let Some(place) = self.by_host_base() {
            return place;
        }
        let disp = m.disp;
        let wide = disp.checked_add(slack).is_none();
        let sz = if m.wrap == 1 { Sz::D } else { Sz::Q };
        let simple = m.wrap == 0 && !wide;
        let (mut base, mut index) = (x.a, x.b);
        let scale = m.scale;
        if base == NONE && index != NONE && scale == 0 {
            (base, index) = (index, NONE);
        }
        if base == NONE && index == NONE {
            let v = i64::from(disp) as u64;
            self.a.mov_imm(RDX, if m.wrap == 1 { v & 0xffff_ffff } else { v });
            return at(RDX, 0);
        }
        if index == NONE {
            let b = self.reg(base, RDX);
            if simple {
                return at(b, disp);
            }
            self.a.lea(sz, RDX, at(b, disp));
            return at(RDX, 0);
        }
        // Of two that are in memory the index goes to RCX, which the lookup needs only afterwards.
        let i = self.reg(index, RCX);
        let mem = if base == NONE {
            Mem { base: None, index: Some((i, scale)), disp }
        } else {
            let mut b = self.reg(base, RDX);
            let mut i = i;
            if scale == 0 && b.0 & 7 == 5 {
                // Saves a displacement.
                std::mem::swap(&mut b, &mut i);
            }
            indexed(b, i, scale, disp)
        };
        self.a.lea(sz, RDX, mem);
        at(RDX, 0)
    }

    /// The TLB's lookup of `bytes` at `m`, after which [`Emitter::there`] says where they are, by RAX; a miss jumps to the answer, if there
    /// can be one: then the flags are destroyed, and the cold code that is noted next asks the second level.
    pub(super) fn lookup(&mut self, m: Mem, bytes: u64, write: bool) -> Option<Hole> {
        if let Some(near) = self.near() {
            self.there = near;
            return None;
        }
        if let Some(place) = self.counted_place(m) {
            self.there = place;
            return None;
        }
        self.there = indexed(m.base.unwrap_or(RDX), RAX, 0, m.disp);
        if let Some(Part::Other { first, .. }) = self.part()
            && let Some(memo) = self.found()
        {
            self.take_addend(first, memo);
            return None;
        }
        self.base = self.wanted_base();
        self.before = Some(self.base);
        if let Some(miss) = self.remembered(m, bytes, write) {
            return Some(miss);
        }
        let write = write && !on(Mutant::WriteCheck);
        let op = self.i as u16;
        self.take_bank();
        self.before = Some(Base::Bank);
        let wide = !write && self.hot.as_ref().is_some_and(|hot| hot.instead(op) == Some(Instead::Large));
        let miss = if wide { self.look_up(m, bytes, Table::Wide) } else { self.look_up_small(m, bytes, write) };
        self.flags = Flags::Memory;
        let small = wide.then_some((m, bytes));
        // Elsewhere the interpreter does it: what it takes longer is less than what the code would take.
        self.refill = self.hot.is_some().then(|| Refill { small, found: self.a.here(), write });
        Some(miss)
    }

    pub(super) fn look_up_small(&mut self, m: Mem, bytes: u64, write: bool) -> Hole {
        self.look_up(m, bytes, if write { Table::Stores } else { Table::Loads })
    }

    /// RAX = the addend of the entry in `table` of the page.
    fn look_up(&mut self, m: Mem, bytes: u64, table: Table) -> Hole {
        let base = m.base.unwrap_or(RDX);
        if m.disp == 0 {
            self.a.mov(Sz::D, RAX, base);
        } else {
            self.a.lea(Sz::D, RAX, m);
        }
        let end = if table == Table::Wide { Mutant::WideEnd } else { Mutant::PageEnd };
        let bytes = if on(end) { 1 } else { bytes };
        let last = m.disp + bytes as i32 - 1;
        if last == 0 {
            self.a.mov(Sz::Q, RCX, base);
        } else {
            self.a.lea(Sz::Q, RCX, at(base, last));
        }
        let piece = &self.lookups[table as usize];
        let start = self.a.piece(piece);
        Hole(start + piece.hole.0)
    }

    /// The same by a memo, if the operation has one.
    fn remembered(&mut self, m: Mem, bytes: u64, write: bool) -> Option<Hole> {
        let (hot, op) = (self.hot.as_deref()?, self.i as u16);
        let first = hot.memos?;
        let run = match hot.instead(op) {
            None => self.runs,
            Some(Instead::Run { .. }) => true,
            Some(Instead::Large | Instead::Page) => return None,
        };
        let part = self.part();
        let (distance, bytes, write) = match part {
            Some(Part::First { distance, bytes, .. }) if on(Mutant::GroupRight) => (distance, bytes, write),
            Some(Part::First { distance, bytes, write, .. }) if !on(Mutant::Apart) => (distance, bytes, write),
            _ => (0, bytes as u32, write),
        };
        let must = matches!(part, Some(Part::First { .. }));
        let addend = self.addend_of(op);
        // The copy of a loop has the memos of the other one.
        let there = self.memos.iter().position(|memo| *memo == (op, bytes - 1)).filter(|_| self.counting());
        let memo = addend.map_or(first + there.unwrap_or(self.memos.len()) * memo::MEMO, |addend| addend.memo);
        if there.is_none() {
            self.memos.push((op, bytes - 1));
        }
        if must {
            self.firsts.push((op, memo));
        }
        let base = m.base.unwrap_or(RDX);
        match m.disp + distance {
            0 => self.a.mov(Sz::Q, RCX, base),
            low => self.a.lea(Sz::Q, RCX, at(base, low)),
        }
        self.a.near((Alu::Sub as u8) << 3 | 3, RCX, memo + memo::PAGE);
        self.a.near((Alu::Cmp as u8) << 3 | 3, RCX, memo + memo::ROOM);
        let miss = self.a.jcc(cc::AE);
        self.take_addend(op, memo);
        self.flags = Flags::Memory;
        self.retry =
            Some(Retry { memo, write, run, back: self.a.here(), must, addend: addend.map(|addend| addend.reg) });
        self.come_near(at(base, m.disp));
        Some(miss)
    }

    /// Where the access at hand is by the addend of this memo, which is that of operation `op`.
    fn take_addend(&mut self, op: u16, memo: usize) {
        match self.addend_of(op) {
            Some(addend) => self.there.index = Some((addend.reg, 0)),
            None => self.a.near(0x8b, RAX, memo + memo::ADDEND),
        }
    }

    pub(super) fn plain(m: MemRef) -> bool {
        m.space == 0 && !m.big && m.key == 0 && m.wrap <= 1
    }

    pub(super) fn load(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) || m.aligned || m.log2 > 3 {
            return self.interpret(x);
        }
        self.save_for_access();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), m.write_intent);
        let from = self.there;
        // The interpreter would run with the temporary of before.
        let site = self.site(self.i);
        let d = self.target(x.d, RAX);
        match (m.log2, m.signed) {
            (0, false) => self.a.movzx(Sz::B, d, from),
            (1, false) => self.a.movzx(Sz::W, d, from),
            (2, false) => self.a.mov(Sz::D, d, from),
            (3, _) => self.a.mov(Sz::Q, d, from),
            (n, true) => self.a.movsx(Sz::log2(n), d, from),
            _ => {}
        }
        self.done(x.d, d);
        let reload = if d == R14 { Reload::Temp } else { Reload::Nothing };
        self.cold([miss, None], reload, site);
    }

    pub(super) fn store(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) || m.aligned || m.log2 > 3 {
            return self.interpret(x);
        }
        self.save_for_access();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        let to = self.there;
        let sz = Sz::log2(m.log2);
        match self.constant(x.d) {
            Some(v) if m.log2 < 3 || i32::try_from(v as i64).is_ok() => self.a.store_imm(sz, to, v as i32),
            _ => {
                let v = self.reg(x.d, RCX);
                self.a.store(sz, to, v);
            }
        }
        let site = self.site(self.i);
        self.cold([miss, None], Reload::Nothing, site);
    }

    /// Whether arithmetic on memory is one instruction of the host.
    pub(super) fn on_memory(op: AluOp) -> bool {
        op != AluOp::Cmp && (matches!(op, AluOp::Inc | AluOp::Dec | AluOp::Neg) || host_alu(op).is_some())
    }

    /// Arithmetic on memory.
    pub(super) fn alu_mem(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        let op = MemRef::alu_op(x.imm);
        if !Self::on_memory(op) {
            return self.interpret(x);
        }
        let host = host_alu(op);
        if !Self::plain(m) {
            return self.interpret(x);
        }
        self.save_for_access();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        let there = self.there;
        let sz = Sz::log2(m.log2);
        let carry = op.reads_flags();
        match host {
            None => {
                if carry && self.needed[self.i + 1] {
                    self.host_carry();
                }
                match op {
                    AluOp::Inc => self.a.inc_dec(0, sz, there),
                    AluOp::Dec => self.a.inc_dec(1, sz, there),
                    _ => self.a.group3(3, sz, there),
                }
            }
            Some(h) => match self.constant(x.d) {
                Some(v) if m.log2 < 3 || i32::try_from(v as i64).is_ok() => {
                    if carry {
                        self.host_carry();
                    }
                    self.a.alu_imm(h, sz, there, v as i32);
                }
                _ => {
                    let v = self.reg(x.d, RCX);
                    if carry {
                        self.host_carry();
                    }
                    self.a.alu_store(h, sz, there, v);
                }
            },
        }
        let site = self.site(self.i);
        // The interpreter leaves the flags in memory.
        if self.needed[self.i + 1] {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
        }
        self.flags = Flags::Memory;
        self.cold([miss, None], Reload::Nothing, site);
        // That was for the flags of before.
        self.recipe = None;
    }

    /// A locked operation that is not aligned may lie across two lines of the host's caches, and must not be the host's then.
    fn odd(&mut self, place: Mem, m: MemRef) -> Option<Hole> {
        (m.log2 > 0).then(|| self.unaligned(place, m.bytes() - 1))
    }

    pub(super) fn atomic(&mut self, x: &Inst) {
        let m = MemRef { disp: 0, scale: 0, ..MemRef::unpack(x.aux & 0x1f, x.imm) };
        let op = ATOMICS.get(x.imm as usize & 0xff).copied().unwrap_or(AtomicOp::AndNot);
        let unused = self.dead(x.d);
        let plain = match op {
            AtomicOp::And => Some(Alu::And),
            AtomicOp::Or => Some(Alu::Or),
            AtomicOp::Xor => Some(Alu::Xor),
            _ => None,
        };
        if !Self::plain(m) || !(matches!(op, AtomicOp::Swap | AtomicOp::Add) || plain.is_some() && unused) {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(&Inst { b: NONE, ..*x }, m, 8);
        let odd = self.odd(place, m);
        let miss = self.lookup(place, m.bytes(), true);
        let there = self.there;
        let sz = Sz::log2(m.log2);
        let site = self.site(self.i);
        self.load_into(RCX, x.b);
        match (op, plain) {
            (AtomicOp::Swap, _) => {
                self.a.ins(sz, Map::Plain, if m.log2 == 0 { 0x86 } else { 0x87 }, RCX.0, there.into(), (false, false))
            }
            (AtomicOp::Add, _) => {
                self.a.byte(0xf0);
                self.a.ins(sz, Map::Of, if m.log2 == 0 { 0xc0 } else { 0xc1 }, RCX.0, there.into(), (false, false));
            }
            (_, Some(h)) => {
                self.a.byte(0xf0);
                self.a.alu_store(h, sz, there, RCX);
            }
            _ => {}
        }
        let mut reload = Reload::Nothing;
        if plain.is_none() {
            match m.log2 {
                0 => self.a.movzx(Sz::B, RCX, RCX),
                1 => self.a.movzx(Sz::W, RCX, RCX),
                2 => self.a.mov(Sz::D, RCX, RCX),
                _ => {}
            }
            self.set(x.d, RCX);
            if self.held == x.d {
                reload = Reload::Temp;
            }
        }
        self.cold([miss, odd], reload, site);
    }

    pub(super) fn cas(&mut self, x: &Inst) {
        let m = MemRef { disp: 0, scale: 0, ..MemRef::unpack(x.aux & 0x1f, x.imm) };
        let expected = Slot(x.imm as u16 & 0x3ff);
        if !Self::plain(m) {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(&Inst { b: NONE, ..*x }, m, 8);
        let odd = self.odd(place, m);
        let miss = self.lookup(place, m.bytes(), true);
        self.a.lea(Sz::Q, RDX, self.there);
        let sz = Sz::log2(m.log2);
        let site = self.site(self.i);
        self.load_into(RAX, expected);
        let new = self.reg(x.b, RCX);
        let new = if m.log2 == 0 && new != RCX {
            self.a.mov(Sz::Q, RCX, new);
            RCX
        } else {
            new
        };
        self.a.byte(0xf0);
        self.a.ins(sz, Map::Of, if m.log2 == 0 { 0xb0 } else { 0xb1 }, new.0, at(RDX, 0).into(), (false, false));
        match m.log2 {
            0 => self.a.movzx(Sz::B, RAX, RAX),
            1 => self.a.movzx(Sz::W, RAX, RAX),
            2 => self.a.mov(Sz::D, RAX, RAX),
            _ => {}
        }
        self.set(x.d, RAX);
        let reload = if self.held == x.d { Reload::Temp } else { Reload::Nothing };
        self.cold([miss, odd], reload, site);
    }

    /// CMPXCHG16B wants RBX, which is pinned, and an address in a register that it does not use itself: R14.
    pub(super) fn cas128(&mut self, x: &Inst) {
        let m = MemRef { disp: 0, scale: 0, ..MemRef::unpack(x.aux, x.imm) };
        if !Self::plain(m) || !self.features.cx16 || !x.d.is_temp() || !x.b.is_temp() {
            return self.interpret(x);
        }
        self.save_now();
        self.pair_in_memory(x.d);
        self.pair_in_memory(x.b);
        let place = self.address(&Inst { b: NONE, ..*x }, m, 16);
        let odd = self.unaligned(place, 15);
        let miss = self.lookup(place, 16, true);
        let site = self.site(self.i);
        self.a.lea(Sz::Q, RDX, self.there);
        self.evict();
        self.a.mov(Sz::Q, R14, RDX);
        self.a.push(RBX);
        for (r, s) in [(RAX, x.d), (RDX, Slot(x.d.0 | 1)), (RBX, x.b), (RCX, Slot(x.b.0 | 1))] {
            self.a.mov(Sz::Q, r, word(s));
        }
        self.a.byte(0xf0);
        self.a.ins(Sz::Q, Map::Of, 0xc7, 1, at(R14, 0).into(), (false, false));
        self.a.pop(RBX);
        self.a.store(Sz::Q, word(x.d), RAX);
        self.a.store(Sz::Q, word(Slot(x.d.0 | 1)), RDX);
        self.pair_written(x.d);
        self.cold([miss, Some(odd)], Reload::Nothing, site);
    }
}

const ATOMICS: [AtomicOp; 6] =
    [AtomicOp::Swap, AtomicOp::Add, AtomicOp::And, AtomicOp::Or, AtomicOp::Xor, AtomicOp::AndNot];
