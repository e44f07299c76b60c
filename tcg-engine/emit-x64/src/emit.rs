//! T1: one pass over a block's operations, host code out.
//!
//! The one idea: guest words stay where they are (nine in host registers, the others in memory that instructions can name), at
//! most one temporary is in a register, and the guest's flags stay in the host's for as long as no emitted instruction destroys
//! them; a backward look at the block says whether anybody still wants them then. What is not worth emitting is run by the
//! interpreter, one operation at a time, through [`Stubs::op`](crate::stubs::Stubs::op).

use ir::flags::Kind;
use ir::op::{FIRST_TEMP, FLAG_R, Inst, MemRef, NONE, Op, PRIVATE, Rel, Slot, TIER_BUDGET, TIER_TAG, call_flags};
use ir::{AluOp, AluRef, AtomicOp, Block};

use crate::asm::{Alu, Asm, Hole, Map, Mem, R14, R15, RAX, RCX, RDX, Reg, Rm, Shift, Sz, at, cc, indexed};
use crate::layout::{pinned, word};
use crate::mutants::{Mutant, on};
use crate::stubs::Stubs;

/// What is known about a place in emitted code that can be left or calls out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The block's number in the cache.
    pub block: u32,
    /// Operation.
    pub op: u16,
    /// Temporary that R14 holds and memory does not, or [`NONE`].
    pub temp: Slot,
}

/// A direct exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectExit {
    /// Where the guest goes on.
    pub pc: u64,
    /// Offset in code memory of the distance to patch.
    pub hole: u32,
    /// Where it leads while it is not linked.
    pub unlinked: u32,
}

/// Result of emission beside the code itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Offset of the block's head.
    pub head: usize,
    /// Offset behind its check, where it is entered from outside.
    pub body: usize,
}

/// Where the guest's flags are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flags {
    /// In memory.
    Memory,
    /// In the host's, and memory is old.
    Host,
    /// In both.
    Both,
}

/// Code that lies behind the block: reached by `from`, returns to `back`.
struct Cold {
    from: [Option<Hole>; 2],
    back: usize,
    site: u32,
    /// Temporary to take from memory to R14 afterwards.
    reload: Slot,
    /// Constants to put into memory first: a range of the emitter's list.
    constants: (usize, usize),
}

/// A direct exit: the jump, where to, whether it may be linked, and instructions of the block that were not run.
struct Leave {
    hole: Hole,
    pc: u64,
    chain: bool,
    undone: i32,
}

/// Temporaries that a block can have.
const TEMPS: usize = (PRIVATE - FIRST_TEMP) as usize;

/// The emitter with its buffers.
pub struct Emitter {
    /// The code of the block.
    pub a: Asm,
    stubs: Stubs,
    /// Sites of all blocks.
    pub sites: Vec<Site>,
    /// Direct exits, by site; `None` for others.
    pub exits: Vec<Option<DirectExit>>,
    /// Last operation that reads each temporary.
    last: Box<[u32; TEMPS]>,
    /// Constants that temporaries hold.
    constants: Vec<(Slot, u64)>,
    /// Whether somebody wants the flags as they are before each operation.
    needed: Vec<bool>,
    landing: Vec<bool>,
    cold: Vec<Cold>,
    cold_constants: Vec<(Slot, u64)>,
    cold_mark: (usize, usize),
    leaves: Vec<Leave>,
    /// The temporary in R14, and whether memory is old.
    held: Slot,
    flags: Flags,
    block: u32,
    /// The operation at hand.
    i: usize,
    /// Open skips: (landing operation, hole).
    skips: Vec<(usize, Hole)>,
}

impl std::fmt::Debug for Emitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emitter").field("sites", &self.sites.len()).finish_non_exhaustive()
    }
}

fn temp_index(s: Slot) -> Option<usize> {
    (FIRST_TEMP..PRIVATE).contains(&s.0).then(|| usize::from(s.0 - FIRST_TEMP))
}

impl Emitter {
    /// An emitter whose code lies behind `stubs`.
    pub fn new(stubs: Stubs) -> Self {
        Emitter {
            a: Asm::default(),
            stubs,
            sites: Vec::new(),
            exits: Vec::new(),
            last: Box::new([0; TEMPS]),
            constants: Vec::new(),
            needed: Vec::new(),
            landing: Vec::new(),
            cold: Vec::new(),
            cold_constants: Vec::new(),
            cold_mark: (0, 0),
            leaves: Vec::new(),
            held: NONE,
            flags: Flags::Memory,
            block: 0,
            i: 0,
            skips: Vec::new(),
        }
    }

    /// Emit `block`, number `id` in the cache, for offset `base` of code memory.
    pub fn emit(&mut self, block: &Block, id: u32, base: usize) -> Emitted {
        self.a.start(base);
        self.block = id;
        self.cold.clear();
        self.cold_constants.clear();
        self.leaves.clear();
        self.constants.clear();
        self.skips.clear();
        self.held = NONE;
        self.flags = Flags::Memory;
        self.look_back(block);
        let head = self.a.here();
        self.a.alu_imm(Alu::Sub, Sz::D, word(TIER_BUDGET), block.points.len() as i32);
        let spent = self.a.jcc(cc::S);
        let body = self.a.here();
        for i in 0..block.insts.len() {
            self.i = i;
            if self.landing[i] {
                self.land(i);
            }
            if self.constants.len() > 8 {
                let last = &self.last;
                self.constants.retain(|c| temp_index(c.0).is_some_and(|t| last[t] as usize >= i));
            }
            self.one(block, &block.insts[i]);
        }
        self.i = block.insts.len();
        self.finish(spent);
        Emitted { head, body }
    }

    /// Last uses and the flags that are wanted.
    fn look_back(&mut self, block: &Block) {
        let n = block.insts.len();
        self.landing.clear();
        self.landing.resize(n + 1, false);
        self.needed.clear();
        self.needed.resize(n + 1, true);
        let last = &mut self.last;
        for (i, x) in block.insts.iter().enumerate() {
            if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
                self.landing[(i + 1 + x.imm as usize).min(n)] = true;
            }
            if let Some(t) = temp_index(x.d) {
                // Also where it is only written: a use of memory behind must find something.
                last[t] = i as u32;
            }
            for s in [x.a, x.b] {
                if let Some(t) = temp_index(s) {
                    last[t] = i as u32;
                }
            }
            if matches!(x.op, Op::Mov128 | Op::Load128 | Op::Store128 | Op::Cas128 | Op::Vec | Op::Fp) {
                for s in [x.d, x.a, x.b] {
                    // The other half; that of an address does no harm.
                    if let Some(t) = temp_index(Slot(s.0 | 1)) {
                        last[t] = i as u32;
                    }
                }
            }
            let third = match x.op {
                Op::Select => Slot(x.imm as u16),
                Op::Cas | Op::Bulk => Slot(x.imm as u16 & 0x3ff),
                _ => NONE,
            };
            if let Some(t) = temp_index(third) {
                last[t] = i as u32;
            }
        }
        let mut want = true;
        for (i, x) in block.insts.iter().enumerate().rev() {
            match x.op {
                Op::Flags => want = false,
                Op::Alu => {
                    let r = AluRef::unpack(x.aux).op;
                    // Where a flag of before is kept or used, it is wanted if any is wanted after, or for the result.
                    want = match r {
                        AluOp::Adc | AluOp::Sbb => true,
                        AluOp::Shl | AluOp::Shr | AluOp::Sar if x.b == NONE && x.imm & 31 != 0 => false,
                        r if r.reads_flags() => want,
                        _ => false,
                    };
                }
                Op::Cond | Op::SelectCond | Op::FlagsGet | Op::SkipUnless | Op::ExitCond | Op::SkipIfZero => {
                    want = true
                }
                Op::Load
                | Op::Store
                | Op::Load128
                | Op::Store128
                | Op::AluMem
                | Op::Atomic
                | Op::Cas
                | Op::Cas128
                | Op::LoadExclusive
                | Op::StoreExclusive
                | Op::Bulk
                | Op::Fp
                | Op::CheckCanonical
                | Op::ExitIf
                | Op::Exit
                | Op::ExitReg
                | Op::ExitEvent
                | Op::Raise => want = true,
                Op::Call => {
                    let seen = call_flags::MAY_STOP | call_flags::READS_STATE | call_flags::WRITES_STATE;
                    want |= x.aux & seen != 0;
                }
                _ => {}
            }
            if self.landing[i + 1] {
                want = true;
            }
            self.needed[i] = want;
        }
    }

    // ------------------------------------------------------------------------------------------------ flags

    /// The flags as they are before this operation must be in memory if anybody wants them now or later.
    fn save_now(&mut self) {
        if self.flags == Flags::Host && self.needed[self.i] && !on(Mutant::NotSaved) {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
            self.flags = Flags::Both;
        }
    }

    /// Host flags are about to be destroyed by an operation that does not change the guest's.
    fn clobber(&mut self) {
        if self.flags == Flags::Host && self.needed[self.i + 1] && !on(Mutant::Clobbered) {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
        }
        self.flags = Flags::Memory;
    }

    /// The host's flags are the guest's.
    fn host_flags(&mut self) {
        if self.flags == Flags::Memory {
            self.a.mov(Sz::D, RAX, word(FLAG_R));
            self.a.restore_flags();
            self.flags = Flags::Both;
        }
    }

    /// The host's carry is the guest's; the other host flags are nobody's.
    fn host_carry(&mut self) {
        if self.flags == Flags::Memory && !on(Mutant::Carry) {
            self.a.bt_imm(Sz::D, word(FLAG_R), 8);
        }
    }

    // ----------------------------------------------------------------------------------------------- operands

    fn constant(&self, s: Slot) -> Option<u64> {
        if !s.is_temp() {
            return None;
        }
        self.constants.iter().rev().find(|c| c.0 == s).map(|c| c.1)
    }

    /// A small constant that instructions can hold.
    fn small(&self, s: Slot) -> Option<i32> {
        self.constant(s).and_then(|v| i32::try_from(v as i64).ok())
    }

    /// Where a slot is that is no constant.
    fn place(&self, s: Slot) -> Rm {
        if let Some(r) = pinned(s) {
            Rm::R(r)
        } else if s == self.held && s != NONE {
            Rm::R(R14)
        } else {
            Rm::M(word(s))
        }
    }

    /// The slot in a register: its own, or `scratch`. Leaves the flags alone.
    fn reg(&mut self, s: Slot, scratch: Reg) -> Reg {
        if let Some(v) = self.constant(s) {
            self.a.mov_imm(scratch, v);
            return scratch;
        }
        match self.place(s) {
            Rm::R(r) => r,
            m => {
                self.a.mov(Sz::Q, scratch, m);
                scratch
            }
        }
    }

    /// Put the slot into register `r`.
    fn load_into(&mut self, r: Reg, s: Slot) {
        if let Some(v) = self.constant(s) {
            return self.a.mov_imm(r, v);
        }
        let p = self.place(s);
        if p != Rm::R(r) {
            self.a.mov(Sz::Q, r, p);
        }
    }

    /// The slot as an operand that instructions can name: constants go to `scratch`.
    fn rm(&mut self, s: Slot, scratch: Reg) -> Rm {
        if let Some(v) = self.constant(s) {
            self.a.mov_imm(scratch, v);
            return Rm::R(scratch);
        }
        self.place(s)
    }

    /// Whether the temporary is not read behind this operation.
    fn dead(&self, s: Slot) -> bool {
        temp_index(s).is_some_and(|t| self.last[t] as usize <= self.i)
    }

    /// Make R14 free.
    fn evict(&mut self) {
        if self.held != NONE && !self.dead(self.held) && !on(Mutant::Evict) {
            self.a.store(Sz::Q, word(self.held), R14);
        }
        self.held = NONE;
    }

    fn forget_constant(&mut self, d: Slot) {
        if d.is_temp() && !self.constants.is_empty() {
            self.constants.retain(|c| c.0 != d);
        }
    }

    /// The register to compute a result of slot `d` in; [`Emitter::done`] follows. Reading operands must be over, or they must
    /// not be in R14 unless it is `d` itself.
    fn target(&mut self, d: Slot, scratch: Reg) -> Reg {
        self.forget_constant(d);
        if let Some(r) = pinned(d) {
            return r;
        }
        if d.is_temp() && self.skips.is_empty() {
            if self.held != d {
                self.evict();
                self.held = d;
            }
            return R14;
        }
        if d == self.held {
            self.held = NONE;
        }
        scratch
    }

    /// The result of `d` is in `r`.
    fn done(&mut self, d: Slot, r: Reg) {
        if pinned(d) == Some(r) || (r == R14 && self.held == d) {
            return;
        }
        self.a.store(Sz::Q, word(d), r);
    }

    /// Put `r`, a scratch register, into slot `d`.
    fn set(&mut self, d: Slot, r: Reg) {
        let t = self.target(d, r);
        if t != r {
            self.a.mov(Sz::Q, t, r);
        }
        self.done(d, t);
    }

    // --------------------------------------------------------------------------------------------- the interpreter

    fn site(&mut self, op: usize) -> u32 {
        self.mark_constants();
        self.sites.push(Site { block: self.block, op: op as u16, temp: self.held });
        self.exits.push(None);
        (self.sites.len() - 1) as u32
    }

    /// Run this operation by the interpreter.
    fn interpret(&mut self, x: &Inst) {
        self.save_now();
        let writes =
            x.d != NONE && !matches!(x.op, Op::Store | Op::Store128 | Op::Flags | Op::AluMem | Op::CheckCanonical);
        let site = self.site(self.i);
        self.put_marked(self.cold_mark);
        self.a.mov_imm(RAX, u64::from(site));
        let to = self.stubs.op;
        self.a.call_to(to);
        if writes {
            self.forget_constant(x.d);
            let wide = matches!(x.op, Op::Load128 | Op::Mov128 | Op::Vec | Op::Fp | Op::Cas128);
            if wide {
                self.forget_constant(Slot(x.d.0 | 1));
            }
            if self.held == x.d || (wide && self.held == Slot(x.d.0 | 1)) {
                self.held = NONE;
            }
        }
        self.flags = Flags::Memory;
    }

    fn cold(&mut self, from: [Option<Hole>; 2], reload: Slot, site: u32) {
        let back = self.a.here();
        self.cold.push(Cold { from, back, site, reload, constants: self.cold_mark });
    }

    /// Constants that the interpreter may need from this operation on, as they are now.
    fn mark_constants(&mut self) {
        let start = self.cold_constants.len();
        for n in 0..self.constants.len() {
            let c = self.constants[n];
            if temp_index(c.0).is_some_and(|t| self.last[t] as usize >= self.i) {
                self.cold_constants.push(c);
            }
        }
        self.cold_mark = (start, self.cold_constants.len());
    }

    fn put_marked(&mut self, (from, to): (usize, usize)) {
        for n in from..if on(Mutant::Constants) { from } else { to } {
            let (s, v) = self.cold_constants[n];
            self.put_constant(s, v);
        }
    }

    /// Put a constant into its word.
    fn put_constant(&mut self, s: Slot, v: u64) {
        match i32::try_from(v as i64) {
            Ok(v) => self.a.store_imm(Sz::Q, word(s), v),
            Err(_) => {
                self.a.mov_imm(RCX, v);
                self.a.store(Sz::Q, word(s), RCX);
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------ memory

    /// The address of a memory operation as an operand on registers; may use RDX.
    fn address(&mut self, x: &Inst, m: MemRef, slack: i32) -> Mem {
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

    /// The TLB's lookup of `bytes` at `m`: RAX = the entry's addend; a miss jumps to the answer. The flags are destroyed.
    fn lookup(&mut self, m: Mem, bytes: u64, write: bool) -> Hole {
        let base = m.base.unwrap_or(RDX);
        if m.disp == 0 {
            self.a.mov(Sz::D, RAX, base);
        } else {
            self.a.lea(Sz::D, RAX, m);
        }
        let bytes = if on(Mutant::PageEnd) { 1 } else { bytes };
        let write = write && !on(Mutant::WriteCheck);
        let last = m.disp + bytes as i32 - 1;
        if last == 0 {
            self.a.mov(Sz::Q, RCX, base);
        } else {
            self.a.lea(Sz::Q, RCX, at(base, last));
        }
        self.a.shift_imm(Shift::Shr, Sz::D, RAX, 12 - mem::tlb::ENTRY_LOG2);
        // The short form for EAX.
        self.a.byte(0x25);
        let mask = mem::tlb::INDEX_MASK << mem::tlb::ENTRY_LOG2;
        for b in mask.to_le_bytes() {
            self.a.byte(b);
        }
        self.a.shift_imm(Shift::Shr, Sz::Q, RCX, 12);
        self.a.alu(Alu::Or, Sz::Q, RCX, word(TIER_TAG));
        let tag = if write { mem::tlb::WRITE_OFFSET } else { mem::tlb::READ_OFFSET };
        self.a.alu(Alu::Cmp, Sz::Q, RCX, indexed(R15, RAX, 0, tag));
        let miss = self.a.jcc(cc::NE);
        self.a.mov(Sz::Q, RAX, indexed(R15, RAX, 0, mem::tlb::ADDEND_OFFSET));
        self.flags = Flags::Memory;
        miss
    }

    /// Where the bytes are after a lookup.
    fn bytes_at(m: Mem) -> Mem {
        indexed(m.base.unwrap_or(RDX), RAX, 0, m.disp)
    }

    fn plain(m: MemRef) -> bool {
        m.space == 0 && !m.big && m.key == 0 && m.wrap <= 1
    }

    fn load(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) || m.aligned || m.log2 > 3 {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), m.write_intent);
        let from = Self::bytes_at(place);
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
        let reload = if d == R14 { x.d } else { NONE };
        self.cold([Some(miss), None], reload, site);
    }

    fn store(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) || m.aligned || m.log2 > 3 {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        let to = Self::bytes_at(place);
        let sz = Sz::log2(m.log2);
        match self.constant(x.d) {
            Some(v) if m.log2 < 3 || i32::try_from(v as i64).is_ok() => self.a.store_imm(sz, to, v as i32),
            _ => {
                let v = self.reg(x.d, RCX);
                self.a.store(sz, to, v);
            }
        }
        let site = self.site(self.i);
        self.cold([Some(miss), None], NONE, site);
    }

    fn wide(&mut self, x: &Inst, write: bool) {
        let m = MemRef::unpack(x.aux, x.imm);
        if !Self::plain(m) {
            return self.interpret(x);
        }
        self.save_now();
        if write {
            self.pair_in_memory(x.d);
        }
        let place = self.address(x, m, 16);
        let odd = (m.aligned && !on(Mutant::Aligned)).then(|| {
            let base = place.base.unwrap_or(RDX);
            let r = if place.disp == 0 {
                base
            } else {
                self.a.lea(Sz::D, RAX, place);
                RAX
            };
            self.a.test_imm(Sz::B, r, 15);
            self.a.jcc(cc::NE)
        });
        let miss = self.lookup(place, 16, write);
        let there = Self::bytes_at(place);
        let site = self.site(self.i);
        if write {
            // movups
            self.a.sse(Map::Of, 0x10, 0, word(x.d).into());
            self.a.sse(Map::Of, 0x11, 0, there.into());
        } else {
            self.a.sse(Map::Of, 0x10, 0, there.into());
            self.a.sse(Map::Of, 0x11, 0, word(x.d).into());
            self.pair_written(x.d);
        }
        self.cold([Some(miss), odd], NONE, site);
    }

    /// Arithmetic on memory.
    fn alu_mem(&mut self, x: &Inst) {
        let m = MemRef::unpack(x.aux, x.imm);
        let op = MemRef::alu_op(x.imm);
        let host = match op {
            AluOp::Inc | AluOp::Dec | AluOp::Neg => None,
            _ => match host_alu(op) {
                Some(h) if op != AluOp::Cmp => Some(h),
                _ => return self.interpret(x),
            },
        };
        if !Self::plain(m) {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(x, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        let there = Self::bytes_at(place);
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
        self.cold([Some(miss), None], NONE, site);
    }

    fn atomic(&mut self, x: &Inst) {
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
        let miss = self.lookup(place, m.bytes(), true);
        let there = Self::bytes_at(place);
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
        let mut reload = NONE;
        if plain.is_none() {
            match m.log2 {
                0 => self.a.movzx(Sz::B, RCX, RCX),
                1 => self.a.movzx(Sz::W, RCX, RCX),
                2 => self.a.mov(Sz::D, RCX, RCX),
                _ => {}
            }
            self.set(x.d, RCX);
            if self.held == x.d {
                reload = x.d;
            }
        }
        self.cold([Some(miss), None], reload, site);
    }

    fn cas(&mut self, x: &Inst) {
        let m = MemRef { disp: 0, scale: 0, ..MemRef::unpack(x.aux & 0x1f, x.imm) };
        let expected = Slot(x.imm as u16 & 0x3ff);
        if !Self::plain(m) {
            return self.interpret(x);
        }
        self.save_now();
        let place = self.address(&Inst { b: NONE, ..*x }, m, 8);
        let miss = self.lookup(place, m.bytes(), true);
        self.a.lea(Sz::Q, RDX, Self::bytes_at(place));
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
        let reload = if self.held == x.d { x.d } else { NONE };
        self.cold([Some(miss), None], reload, site);
    }

    // -------------------------------------------------------------------------------------------------- arithmetic

    /// `d = a op b` without flags for the guest.
    fn binary(&mut self, h: Alu, sz: Sz, x: &Inst) {
        let commutes = matches!(h, Alu::Add | Alu::And | Alu::Or | Alu::Xor);
        let (mut a, mut b) = (x.a, x.b);
        if commutes && (b == x.d || self.constant(a).is_some()) {
            (a, b) = (b, a);
        }
        if h == Alu::Add && sz == Sz::Q && (x.d != a || self.flags == Flags::Host) {
            // The flags stay.
            if let Some(v) = self.small(b) {
                let a = self.reg(a, RAX);
                let d = self.target(x.d, RAX);
                self.a.lea(sz, d, at(a, v));
                return self.done(x.d, d);
            }
            let a = self.reg(a, RAX);
            let b = self.reg(b, RCX);
            let d = self.target(x.d, RAX);
            let (a, b) = if a.0 & 7 == 5 { (b, a) } else { (a, b) };
            self.a.lea(sz, d, indexed(a, b, 0, 0));
            return self.done(x.d, d);
        }
        self.clobber();
        if a == x.d
            && let Some(d) = pinned(x.d)
        {
            match self.small(b) {
                Some(v) => self.a.alu_imm(h, sz, d, v),
                None => {
                    let b = self.rm(b, RCX);
                    self.a.alu(h, sz, d, b);
                }
            }
            return;
        }
        self.load_into(RAX, a);
        match self.small(b) {
            Some(v) => self.a.alu_imm(h, sz, RAX, v),
            None => {
                let b = self.rm(b, RCX);
                self.a.alu(h, sz, RAX, b);
            }
        }
        self.set(x.d, RAX);
    }

    /// `d = a op imm`.
    fn binary_imm(&mut self, h: Alu, sz: Sz, x: &Inst) {
        let imm = match (h, sz) {
            (Alu::Sub, Sz::Q) => x.imm.wrapping_neg(),
            (Alu::Sub, _) => u64::from((x.imm as u32).wrapping_neg()),
            _ => x.imm,
        };
        let fits = if sz == Sz::D { Some(imm as u32 as i32) } else { i32::try_from(imm as i64).ok() };
        if matches!(h, Alu::Add | Alu::Sub)
            && let Some(v) = fits
        {
            let a = self.reg(x.a, RAX);
            let d = self.target(x.d, RAX);
            self.a.lea(sz, d, at(a, v));
            return self.done(x.d, d);
        }
        self.clobber();
        // An AND with a small constant is one of 32 bits.
        let (sz, fits) = match u32::try_from(imm) {
            Ok(v) if h == Alu::And => (Sz::D, Some(v as i32)),
            _ => (sz, fits),
        };
        let h = if h == Alu::Sub { Alu::Add } else { h };
        if x.a == x.d
            && let Some(d) = pinned(x.d)
        {
            match fits {
                Some(v) => self.a.alu_imm(h, sz, d, v),
                None => {
                    self.a.mov_imm(RCX, imm);
                    self.a.alu(h, sz, d, RCX);
                }
            }
            return;
        }
        self.load_into(RAX, x.a);
        match fits {
            Some(v) => self.a.alu_imm(h, sz, RAX, v),
            None => {
                self.a.mov_imm(RCX, imm);
                self.a.alu(h, sz, RAX, RCX);
            }
        }
        self.set(x.d, RAX);
    }

    fn shift(&mut self, op: Shift, sz: Sz, x: &Inst) {
        self.clobber();
        self.load_into(RCX, x.b);
        self.load_into(RAX, x.a);
        if sz == Sz::D {
            // Also where the count is zero the upper half goes.
            self.a.mov(Sz::D, RAX, RAX);
        }
        self.a.shift_cl(op, sz, RAX);
        self.set(x.d, RAX);
    }

    fn shift_imm(&mut self, op: Shift, sz: Sz, x: &Inst) {
        let n = x.imm as u8 & if sz == Sz::Q { 63 } else { 31 };
        if n != 0 {
            self.clobber();
        }
        let in_place = x.a == x.d && pinned(x.d).is_some();
        let r = if in_place { pinned(x.d).unwrap_or(RAX) } else { RAX };
        if !in_place {
            self.load_into(RAX, x.a);
        }
        if n == 0 {
            if sz == Sz::D {
                self.a.mov(Sz::D, r, r);
            }
        } else {
            self.a.shift_imm(op, sz, r, n);
        }
        if !in_place {
            self.set(x.d, r);
        }
    }

    /// x86 arithmetic with its flags.
    fn alu(&mut self, x: &Inst) {
        let r = AluRef::unpack(x.aux);
        if r.op == AluOp::Bt && r.log2 == 0 {
            // The host has none of bytes.
            return self.interpret(x);
        }
        let sz = Sz::log2(r.log2);
        let wanted = self.needed[self.i + 1];
        let imm = match (x.b == NONE, self.constant(x.b)) {
            (true, _) => Some(x.imm),
            (false, c) => c,
        };
        // What the operation needs of the flags before.
        match r.op {
            AluOp::Shl | AluOp::Shr | AluOp::Sar if wanted && imm.is_none() && !on(Mutant::ShiftByZero) => {
                self.host_flags()
            }
            AluOp::Bt | AluOp::Rol | AluOp::Ror if wanted => self.host_flags(),
            _ => {}
        }
        // The operand that is changed.
        let in_place = x.a == x.d || r.op.compares();
        let dest = if in_place && self.constant(x.a).is_none() {
            match self.place(x.a) {
                // 32-bit results in memory have to be extended.
                Rm::M(m) if sz == Sz::D && !r.op.compares() => {
                    self.a.mov(Sz::D, RAX, m);
                    Rm::R(RAX)
                }
                p => p,
            }
        } else {
            self.load_into(RAX, x.a);
            Rm::R(RAX)
        };
        let before = self.flags;
        self.alu_host(r.op, sz, dest, x.b, imm, wanted);
        if dest == Rm::R(RAX) && !r.op.compares() {
            self.set(x.d, RAX);
        }
        self.flags = match r.op {
            AluOp::Shl | AluOp::Shr | AluOp::Sar | AluOp::Rol | AluOp::Ror
                if imm.is_some_and(|v| v & if sz == Sz::Q { 63 } else { 31 } == 0) =>
            {
                before
            }
            _ => Flags::Host,
        };
    }

    fn alu_host(&mut self, op: AluOp, sz: Sz, dest: Rm, b: Slot, imm: Option<u64>, wanted: bool) {
        match op {
            AluOp::Inc | AluOp::Dec => {
                if wanted {
                    self.host_carry();
                }
                self.a.inc_dec(u8::from(op == AluOp::Dec), sz, dest);
            }
            AluOp::Neg => self.a.group3(3, sz, dest),
            AluOp::Shl | AluOp::Shr | AluOp::Sar | AluOp::Rol | AluOp::Ror => {
                let h = match op {
                    AluOp::Shl => Shift::Shl,
                    AluOp::Shr => Shift::Shr,
                    AluOp::Sar => Shift::Sar,
                    AluOp::Rol => Shift::Rol,
                    _ => Shift::Ror,
                };
                match imm.map(|v| v as u8 & if sz == Sz::Q { 63 } else { 31 }) {
                    Some(0) => {
                        if let (Rm::R(r), Sz::D) = (dest, sz) {
                            self.a.mov(Sz::D, r, r);
                        }
                    }
                    Some(n) => self.a.shift_imm(h, sz, dest, n),
                    None => {
                        self.load_into(RCX, b);
                        if let (Rm::R(r), Sz::D) = (dest, sz) {
                            self.a.mov(Sz::D, r, r);
                        }
                        self.a.shift_cl(h, sz, dest);
                    }
                }
            }
            AluOp::Bt => {
                let mask = match sz {
                    Sz::Q => 63,
                    Sz::D => 31,
                    _ => 15,
                };
                match imm {
                    Some(v) => self.a.bt_imm(sz, dest, v as u8 & mask),
                    None => {
                        let n = self.reg(b, RCX);
                        let r = match dest {
                            Rm::R(r) => r,
                            // Bit numbers beyond a word in memory would name other words.
                            m => {
                                self.a.mov(Sz::Q, RDX, m);
                                RDX
                            }
                        };
                        self.a.bt(sz, r, n);
                    }
                }
            }
            AluOp::Test => match imm {
                Some(v) if sz != Sz::Q || i32::try_from(v as i64).is_ok() => self.a.test_imm(sz, dest, v as i32),
                Some(v) => {
                    self.a.mov_imm(RCX, v);
                    self.a.test(sz, dest, RCX);
                }
                None => {
                    let b = self.reg(b, RCX);
                    self.a.test(sz, dest, b);
                }
            },
            _ => {
                let h = host_alu(op).unwrap_or(Alu::Cmp);
                match imm {
                    Some(v) if sz != Sz::Q || i32::try_from(v as i64).is_ok() => {
                        if op.reads_flags() {
                            self.host_carry();
                        }
                        self.a.alu_imm(h, sz, dest, v as i32);
                    }
                    _ => {
                        let b = match (imm, dest) {
                            (Some(v), _) => {
                                self.a.mov_imm(RCX, v);
                                Rm::R(RCX)
                            }
                            (None, Rm::R(_)) => self.place(b),
                            (None, Rm::M(_)) => Rm::R(self.reg(b, RCX)),
                        };
                        if op.reads_flags() {
                            self.host_carry();
                        }
                        match (dest, b) {
                            (Rm::R(d), b) => self.a.alu(h, sz, d, b),
                            (Rm::M(m), Rm::R(b)) => self.a.alu_store(h, sz, m, b),
                            (Rm::M(_), Rm::M(_)) => {}
                        }
                    }
                }
            }
        }
    }

    /// Flags recorded from operands: the host computes them again.
    fn record(&mut self, x: &Inst) {
        let sz = match x.imm {
            8 => Sz::B,
            16 => Sz::W,
            32 => Sz::D,
            _ => Sz::Q,
        };
        if !self.needed[self.i + 1] {
            return;
        }
        match Kind::from_u8(x.aux) {
            Kind::X86Add => {
                self.load_into(RAX, x.a);
                let b = self.rm(x.b, RCX);
                self.a.alu(Alu::Add, sz, RAX, b);
            }
            Kind::X86Sub => {
                let a = self.reg(x.a, RAX);
                let b = self.rm(x.b, RCX);
                self.a.alu(Alu::Cmp, sz, a, b);
            }
            Kind::X86Logic => {
                let r = self.reg(x.d, RAX);
                self.a.test(sz, r, r);
            }
            Kind::X86Explicit => {
                self.load_into(RAX, x.d);
                self.a.mov(Sz::D, RCX, RAX);
                self.a.shift_imm(Shift::Shl, Sz::D, RAX, 8);
                self.a.shift_imm(Shift::Shr, Sz::D, RCX, 11);
                self.a.alu_imm(Alu::And, Sz::D, RCX, 1);
                self.a.alu(Alu::Or, Sz::D, RAX, RCX);
                self.a.store(Sz::D, word(FLAG_R), RAX);
                self.flags = Flags::Memory;
                return;
            }
            Kind::X86Mul => {
                // SF, ZF and PF of the result; CF and OF are `a`.
                let r = self.reg(x.d, RAX);
                self.a.test(sz, r, r);
                self.load_into(RCX, x.a);
                self.a.save_flags();
                self.a.ins(Sz::D, Map::Plain, 0x69, RCX.0, RCX.into(), (false, false));
                self.a.buf.extend_from_slice(&0x101u32.to_le_bytes());
                self.a.alu(Alu::Or, Sz::D, RAX, RCX);
                self.a.store(Sz::D, word(FLAG_R), RAX);
                self.flags = Flags::Memory;
                return;
            }
            _ => {
                // Whatever was before is overwritten.
                self.flags = Flags::Memory;
                return self.interpret(x);
            }
        }
        self.flags = Flags::Host;
    }

    // ------------------------------------------------------------------------------------------------------- control

    fn condition(&mut self, c: u8) -> Option<u8> {
        if c >= 16 {
            return None;
        }
        self.host_flags();
        Some(c)
    }

    fn skip(&mut self, x: &Inst, cond: u8) {
        // `cond` is when to skip.
        let hole = self.a.jcc(cond);
        self.skips.push((self.i + 1 + x.imm as usize, hole));
    }

    /// Before a skip and where it lands everything is in memory.
    fn settle(&mut self) {
        if self.flags == Flags::Host && self.needed[self.i] {
            self.a.save_flags();
            self.a.store(Sz::D, word(FLAG_R), RAX);
            self.flags = Flags::Both;
        }
        if self.held != NONE {
            // Not `evict`: the operation at hand may be the last to read it.
            let alive = temp_index(self.held).is_some_and(|t| self.last[t] as usize >= self.i);
            if alive {
                self.a.store(Sz::Q, word(self.held), R14);
            }
            self.held = NONE;
        }
        for n in 0..self.constants.len() {
            let (s, v) = self.constants[n];
            if temp_index(s).is_some_and(|t| self.last[t] as usize >= self.i) && !on(Mutant::Settle) {
                self.put_constant(s, v);
            }
        }
        self.constants.clear();
    }

    fn land(&mut self, i: usize) {
        self.settle();
        self.flags = Flags::Memory;
        let mut n = 0;
        while n < self.skips.len() {
            if self.skips[n].0 == i {
                let (_, hole) = self.skips.remove(n);
                self.a.fill_here(hole);
            } else {
                n += 1;
            }
        }
    }

    /// Whether a direct exit of this operation may be linked: its instruction has changed nothing that blocks depend on.
    fn may_chain(&self, block: &Block, pc: u64) -> bool {
        let from = block.points.get(block.point_of(self.i)).map_or(0, |p| p.op as usize);
        let changed =
            block.insts[from..self.i].iter().any(|y| y.op == Op::Call && y.aux & call_flags::WRITES_STATE != 0);
        !changed && ((pc ^ block.pc) & !0xfff == 0 || on(Mutant::Across))
    }

    /// A conditional (`cond`) or unconditional direct exit.
    fn leave_direct(&mut self, block: &Block, pc: u64, cond: Option<u8>) {
        let chain = self.may_chain(block, pc);
        let hole = match cond {
            Some(c) => self.a.jcc(c),
            None if chain => self.a.jmp(),
            None => {
                self.a.mov_imm(RDX, pc);
                let to = self.stubs.jump;
                return self.a.jmp_to(to);
            }
        };
        let undone = (block.points.len() - block.point_of(self.i) - 1) as i32;
        self.leaves.push(Leave { hole, pc, chain, undone });
    }

    fn resume_here(&mut self) {
        self.save_now();
        let site = self.site(self.i);
        self.a.mov_imm(RAX, u64::from(site));
        let to = self.stubs.resume;
        self.a.jmp_to(to);
    }

    fn finish(&mut self, spent: Hole) {
        for n in 0..self.cold.len() {
            let Cold { from, back, site, reload, constants } = self.cold[n];
            for h in from.into_iter().flatten() {
                self.a.fill_here(h);
            }
            self.put_marked(constants);
            self.a.mov_imm(RAX, u64::from(site));
            let to = self.stubs.op;
            self.a.call_to(to);
            if reload != NONE && !on(Mutant::Reload) {
                self.a.mov(Sz::Q, R14, word(reload));
            }
            self.a.jmp_to(back);
        }
        for n in 0..self.leaves.len() {
            let Leave { mut hole, pc, chain, undone } = self.leaves[n];
            self.a.fill_here(hole);
            if undone != 0 {
                let undone = if on(Mutant::Budget) { undone - 1 } else { undone };
                self.a.alu_imm(Alu::Add, Sz::D, word(TIER_BUDGET), undone);
                if chain {
                    hole = self.a.jmp();
                    self.a.fill_here(hole);
                }
            }
            let unlinked = self.a.here();
            if chain {
                self.held = NONE;
                self.constants.clear();
                let site = self.site(self.i);
                let hole = (self.a.base + hole.0) as u32;
                if let Some(e) = self.exits.last_mut() {
                    *e = Some(DirectExit { pc, hole, unlinked: unlinked as u32 });
                }
                self.a.mov_imm(RAX, u64::from(site));
                let to = self.stubs.direct;
                self.a.jmp_to(to);
            } else {
                self.a.mov_imm(RDX, pc);
                let to = self.stubs.jump;
                self.a.jmp_to(to);
            }
        }
        self.a.fill_here(spent);
        self.a.mov_imm(RAX, u64::from(self.block));
        let to = self.stubs.budget;
        self.a.jmp_to(to);
    }

    // ------------------------------------------------------------------------------------------------ one operation

    fn one(&mut self, block: &Block, x: &Inst) {
        match x.op {
            Op::Mov => {
                if let Some(v) = self.constant(x.a) {
                    return self.mov_imm(x.d, v);
                }
                let a = self.reg(x.a, RAX);
                let d = self.target(x.d, a);
                if d != a {
                    self.a.mov(Sz::Q, d, a);
                }
                self.done(x.d, d);
            }
            Op::MovI => self.mov_imm(x.d, x.imm),
            Op::Mov128 => {
                self.pair_in_memory(x.a);
                self.a.sse(Map::Of, 0x28, 0, word(x.a).into());
                self.a.sse(Map::Of, 0x29, 0, word(x.d).into());
                self.pair_written(x.d);
            }
            Op::Add64 => self.binary(Alu::Add, Sz::Q, x),
            Op::Add32 => self.binary(Alu::Add, Sz::D, x),
            Op::Sub64 => self.binary(Alu::Sub, Sz::Q, x),
            Op::Sub32 => self.binary(Alu::Sub, Sz::D, x),
            Op::And => self.binary(Alu::And, Sz::Q, x),
            Op::Or => self.binary(Alu::Or, Sz::Q, x),
            Op::Xor => self.binary(Alu::Xor, Sz::Q, x),
            Op::Add64I => self.binary_imm(Alu::Add, Sz::Q, x),
            Op::Add32I => self.binary_imm(Alu::Add, Sz::D, x),
            Op::Sub64I => self.binary_imm(Alu::Sub, Sz::Q, x),
            Op::Sub32I => self.binary_imm(Alu::Sub, Sz::D, x),
            Op::AndI => self.binary_imm(Alu::And, Sz::Q, x),
            Op::OrI => self.binary_imm(Alu::Or, Sz::Q, x),
            Op::XorI => self.binary_imm(Alu::Xor, Sz::Q, x),
            Op::AndNot => {
                self.clobber();
                self.load_into(RAX, x.b);
                self.a.group3(2, Sz::Q, RAX);
                let a = self.rm(x.a, RCX);
                self.a.alu(Alu::And, Sz::Q, RAX, a);
                self.set(x.d, RAX);
            }
            Op::Not | Op::Not32 => self.unary(2, if x.op == Op::Not { Sz::Q } else { Sz::D }, x),
            Op::Neg64 | Op::Neg32 => {
                self.clobber();
                self.unary(3, if x.op == Op::Neg64 { Sz::Q } else { Sz::D }, x);
            }
            Op::Mul64 | Op::Mul32 => {
                self.clobber();
                self.load_into(RAX, x.a);
                let b = self.rm(x.b, RCX);
                self.a.imul(if x.op == Op::Mul64 { Sz::Q } else { Sz::D }, RAX, b);
                self.set(x.d, RAX);
            }
            Op::MulHiU64 | Op::MulHiS64 => {
                self.clobber();
                self.load_into(RAX, x.a);
                let b = self.rm(x.b, RCX);
                self.a.group3(if x.op == Op::MulHiU64 { 4 } else { 5 }, Sz::Q, b);
                self.set(x.d, RDX);
            }
            Op::Shl64 => self.shift(Shift::Shl, Sz::Q, x),
            Op::Shr64 => self.shift(Shift::Shr, Sz::Q, x),
            Op::Sar64 => self.shift(Shift::Sar, Sz::Q, x),
            Op::Shl32 => self.shift(Shift::Shl, Sz::D, x),
            Op::Shr32 => self.shift(Shift::Shr, Sz::D, x),
            Op::Sar32 => self.shift(Shift::Sar, Sz::D, x),
            Op::Rotl64 => self.shift(Shift::Rol, Sz::Q, x),
            Op::Rotl32 => self.shift(Shift::Rol, Sz::D, x),
            Op::Shl64I => self.shift_imm(Shift::Shl, Sz::Q, x),
            Op::Shr64I => self.shift_imm(Shift::Shr, Sz::Q, x),
            Op::Sar64I => self.shift_imm(Shift::Sar, Sz::Q, x),
            Op::Shl32I => self.shift_imm(Shift::Shl, Sz::D, x),
            Op::Shr32I => self.shift_imm(Shift::Shr, Sz::D, x),
            Op::Sar32I => self.shift_imm(Shift::Sar, Sz::D, x),
            Op::Rotl64I => self.shift_imm(Shift::Rol, Sz::Q, x),
            Op::Rotl32I => self.shift_imm(Shift::Rol, Sz::D, x),
            Op::Zext8 | Op::Zext16 | Op::Zext32 | Op::Sext8 | Op::Sext16 | Op::Sext32 => self.extend(x),
            Op::Deposit => self.deposit(x),
            Op::Extract | Op::SExtract => self.extract(x),
            Op::Bswap if x.aux == 64 || x.aux == 32 => {
                self.load_into(RAX, x.a);
                self.a.bswap(if x.aux == 64 { Sz::Q } else { Sz::D }, RAX);
                self.set(x.d, RAX);
            }
            Op::Ctz | Op::Clz => self.count_zeros(x),
            Op::SetRel | Op::SetRelI => self.relation(x),
            Op::Select => {
                self.clobber();
                let a = self.reg(x.a, RAX);
                self.a.test(Sz::Q, a, a);
                self.load_into(RAX, Slot(x.imm as u16));
                let b = self.rm(x.b, RCX);
                self.a.cmov(cc::NE, Sz::Q, RAX, b);
                self.set(x.d, RAX);
            }
            Op::Lea | Op::Lea32 => self.lea(x),
            Op::Alu => self.alu(x),
            Op::AluMem => self.alu_mem(x),
            Op::CheckCanonical => self.canonical(x),
            Op::Flags => self.record(x),
            Op::Cond => match self.condition(x.aux) {
                Some(c) => {
                    self.a.setcc(c, RAX);
                    self.a.movzx(Sz::B, RAX, RAX);
                    self.set(x.d, RAX);
                }
                None => self.interpret(x),
            },
            Op::FlagsGet => {
                self.save_now();
                self.flags = Flags::Memory;
                self.a.mov(Sz::D, RAX, word(FLAG_R));
                self.a.mov(Sz::D, RCX, RAX);
                self.a.shift_imm(Shift::Shr, Sz::D, RAX, 8);
                self.a.alu_imm(Alu::And, Sz::D, RAX, 0xd5);
                self.a.alu_imm(Alu::And, Sz::D, RCX, 1);
                self.a.shift_imm(Shift::Shl, Sz::D, RCX, 11);
                self.a.alu(Alu::Or, Sz::D, RAX, RCX);
                self.set(x.d, RAX);
            }
            Op::SelectCond => match self.condition(x.aux) {
                Some(c) => {
                    if x.b == x.d
                        && let Some(d) = pinned(x.d)
                    {
                        let a = self.rm(x.a, RCX);
                        return self.a.cmov(c, Sz::Q, d, a);
                    }
                    self.load_into(RAX, x.b);
                    let a = self.rm(x.a, RCX);
                    self.a.cmov(c, Sz::Q, RAX, a);
                    self.set(x.d, RAX);
                }
                None => self.interpret(x),
            },
            Op::Load => self.load(x),
            Op::Store => self.store(x),
            Op::Load128 => self.wide(x, false),
            Op::Store128 => self.wide(x, true),
            Op::Atomic => self.atomic(x),
            Op::Cas => self.cas(x),
            Op::Vec => {
                if !crate::vector::emit(self, x) {
                    self.interpret(x);
                }
            }
            Op::SkipIfZero => {
                self.settle();
                self.flags = Flags::Memory;
                let a = self.reg(x.a, RAX);
                self.a.test(Sz::Q, a, a);
                self.skip(x, cc::E);
            }
            Op::SkipUnless => {
                self.settle();
                match self.condition(x.aux) {
                    Some(c) => self.skip(x, c ^ 1),
                    // No x86 block has one.
                    None => self.interpret(x),
                }
            }
            Op::ExitIf => {
                self.save_now();
                self.flags = Flags::Memory;
                let a = self.reg(x.a, RAX);
                self.a.test(Sz::Q, a, a);
                self.leave_direct(block, x.imm, Some(cc::NE));
            }
            Op::ExitCond => match self.condition(x.aux) {
                Some(c) => {
                    self.save_now();
                    self.leave_direct(block, x.imm, Some(c));
                }
                None => self.resume_here(),
            },
            Op::Exit => {
                self.save_now();
                self.leave_direct(block, x.imm, None);
            }
            Op::ExitReg => {
                self.save_now();
                self.load_into(RDX, x.a);
                let to = self.stubs.jump;
                self.a.jmp_to(to);
            }
            Op::ExitEvent | Op::Raise => self.resume_here(),
            Op::Fence if x.aux == ir::Fence::Full as u8 => self.a.buf.extend_from_slice(&[0x0f, 0xae, 0xf0]),
            Op::Fence | Op::ClearExclusive => {}
            _ => self.interpret(x),
        }
    }

    fn mov_imm(&mut self, d: Slot, v: u64) {
        if d.is_temp() && self.skips.is_empty() {
            self.forget_constant(d);
            if self.held == d {
                self.held = NONE;
            }
            self.constants.push((d, v));
            return;
        }
        if pinned(d).is_none()
            && let Ok(v) = i32::try_from(v as i64)
        {
            self.forget_constant(d);
            if self.held == d {
                self.held = NONE;
            }
            return self.a.store_imm(Sz::Q, word(d), v);
        }
        let r = self.target(d, RAX);
        self.a.mov_imm(r, v);
        self.done(d, r);
    }

    fn unary(&mut self, ext: u8, sz: Sz, x: &Inst) {
        if x.a == x.d
            && let Some(d) = pinned(x.d)
        {
            return self.a.group3(ext, sz, d);
        }
        self.load_into(RAX, x.a);
        self.a.group3(ext, sz, RAX);
        self.set(x.d, RAX);
    }

    fn extend(&mut self, x: &Inst) {
        let a = self.rm(x.a, RAX);
        let d = self.target(x.d, RAX);
        match x.op {
            Op::Zext8 => self.a.movzx(Sz::B, d, a),
            Op::Zext16 => self.a.movzx(Sz::W, d, a),
            Op::Zext32 => self.a.mov(if on(Mutant::Width) { Sz::Q } else { Sz::D }, d, a),
            Op::Sext8 => self.a.movsx(Sz::B, d, a),
            Op::Sext16 => self.a.movsx(Sz::W, d, a),
            _ => self.a.movsx(Sz::D, d, a),
        }
        self.done(x.d, d);
    }

    /// Replace a field: low bytes by a partial move, others by masks.
    fn deposit(&mut self, x: &Inst) {
        let (pos, len) = (x.imm as u8 & 63, (x.imm >> 8) as u8 & 127);
        let part = match (pos, len) {
            (0, 8) => Some(Sz::B),
            (0, 16) => Some(Sz::W),
            _ => None,
        };
        if let Some(sz) = part {
            let b = self.reg(x.b, RCX);
            if x.a == x.d && self.constant(x.a).is_none() {
                match self.place(x.d) {
                    Rm::R(d) => self.a.mov(sz, d, b),
                    Rm::M(m) => self.a.store(sz, m, b),
                }
                return;
            }
            self.load_into(RAX, x.a);
            self.a.mov(sz, RAX, b);
            return self.set(x.d, RAX);
        }
        if len == 0 || len >= 64 {
            return self.interpret(x);
        }
        self.clobber();
        let mask = (1u64 << len) - 1;
        self.load_into(RCX, x.b);
        self.load_into(RAX, x.a);
        if mask <= 0x7fff_ffff {
            self.a.alu_imm(Alu::And, Sz::Q, RCX, mask as i32);
        } else {
            self.a.mov_imm(RDX, mask);
            self.a.alu(Alu::And, Sz::Q, RCX, RDX);
        }
        if pos != 0 {
            self.a.shift_imm(Shift::Shl, Sz::Q, RCX, pos);
        }
        let hole = !(mask << pos);
        match i32::try_from(hole as i64) {
            Ok(v) => self.a.alu_imm(Alu::And, Sz::Q, RAX, v),
            Err(_) => {
                self.a.mov_imm(RDX, hole);
                self.a.alu(Alu::And, Sz::Q, RAX, RDX);
            }
        }
        self.a.alu(Alu::Or, Sz::Q, RAX, RCX);
        self.set(x.d, RAX);
    }

    fn extract(&mut self, x: &Inst) {
        let (pos, len) = (x.imm as u8 & 63, (x.imm >> 8) as u8 & 127);
        if len == 0 || len >= 64 || pos + len > 64 {
            return self.interpret(x);
        }
        self.clobber();
        self.load_into(RAX, x.a);
        let up = 64 - pos - len;
        if up != 0 {
            self.a.shift_imm(Shift::Shl, Sz::Q, RAX, up);
        }
        let down = if x.op == Op::Extract { Shift::Shr } else { Shift::Sar };
        self.a.shift_imm(down, Sz::Q, RAX, 64 - len);
        self.set(x.d, RAX);
    }

    /// BSF and BSR, with the answer for nothing found put in first.
    fn count_zeros(&mut self, x: &Inst) {
        let bits = x.aux;
        if !matches!(bits, 16 | 32 | 64) {
            return self.interpret(x);
        }
        self.clobber();
        self.load_into(RCX, x.a);
        match bits {
            16 => self.a.movzx(Sz::W, RCX, RCX),
            32 => self.a.mov(Sz::D, RCX, RCX),
            _ => {}
        }
        if x.op == Op::Ctz {
            self.a.ins(Sz::Q, Map::Of, 0xbc, RAX.0, RCX.into(), (false, false));
            self.a.mov_imm(RCX, u64::from(bits));
            self.a.cmov(cc::E, Sz::Q, RAX, RCX);
        } else {
            self.a.ins(Sz::Q, Map::Of, 0xbd, RAX.0, RCX.into(), (false, false));
            // bits - 1 - index; an index of -1 stands for nothing found.
            self.a.mov_imm(RCX, u64::MAX);
            self.a.cmov(cc::E, Sz::Q, RAX, RCX);
            self.a.group3(3, Sz::Q, RAX);
            self.a.alu_imm(Alu::Add, Sz::Q, RAX, i32::from(bits) - 1);
        }
        self.set(x.d, RAX);
    }

    fn relation(&mut self, x: &Inst) {
        self.clobber();
        let a = self.reg(x.a, RAX);
        if x.op == Op::SetRelI {
            match i32::try_from(x.imm as i64) {
                Ok(0) => self.a.test(Sz::Q, a, a),
                Ok(v) => self.a.alu_imm(Alu::Cmp, Sz::Q, a, v),
                Err(_) => {
                    self.a.mov_imm(RCX, x.imm);
                    self.a.alu(Alu::Cmp, Sz::Q, a, RCX);
                }
            }
        } else {
            let b = self.rm(x.b, RCX);
            self.a.alu(Alu::Cmp, Sz::Q, a, b);
        }
        let c = match x.aux {
            r if r == Rel::Eq as u8 => cc::E,
            r if r == Rel::Ne as u8 => cc::NE,
            r if r == Rel::Ltu as u8 => cc::B,
            r if r == Rel::Leu as u8 => cc::BE,
            r if r == Rel::Lts as u8 => cc::L,
            _ => cc::LE,
        };
        self.a.setcc(c, RAX);
        self.a.movzx(Sz::B, RAX, RAX);
        self.set(x.d, RAX);
    }

    fn lea(&mut self, x: &Inst) {
        let sz = if x.op == Op::Lea { Sz::Q } else { Sz::D };
        let Ok(disp) = i32::try_from(x.imm as i64) else { return self.interpret(x) };
        if x.aux > 3 {
            return self.interpret(x);
        }
        let mem = match (x.a, x.b) {
            (NONE, NONE) => {
                let v = i64::from(disp) as u64;
                return self.mov_imm(x.d, if sz == Sz::D { v & 0xffff_ffff } else { v });
            }
            (a, NONE) => at(self.reg(a, RAX), disp),
            (NONE, b) => {
                let b = self.reg(b, RAX);
                Mem { base: None, index: Some((b, x.aux)), disp }
            }
            (a, b) => {
                let b = self.reg(b, RCX);
                let a = self.reg(a, RAX);
                indexed(a, b, x.aux, disp)
            }
        };
        let d = self.target(x.d, RAX);
        self.a.lea(sz, d, mem);
        self.done(x.d, d);
    }

    fn canonical(&mut self, x: &Inst) {
        self.save_now();
        let site = self.site(self.i);
        let a = self.reg(x.a, RCX);
        self.a.mov(Sz::Q, RAX, a);
        self.a.shift_imm(Shift::Shl, Sz::Q, RAX, 16);
        self.a.shift_imm(Shift::Sar, Sz::Q, RAX, 16);
        self.a.alu(Alu::Cmp, Sz::Q, RAX, a);
        let bad = self.a.jcc(cc::NE);
        self.flags = Flags::Memory;
        self.cold([Some(bad), None], NONE, site);
    }

    /// For vector operations: the pair's two words are in memory.
    pub(crate) fn pair_in_memory(&mut self, s: Slot) {
        if self.held != NONE && (self.held == s || self.held.0 == s.0 | 1) {
            self.a.store(Sz::Q, word(self.held), R14);
            self.held = NONE;
        }
        for s in [s, Slot(s.0 | 1)] {
            if let Some(v) = self.constant(s) {
                self.a.mov_imm(RAX, v);
                self.a.store(Sz::Q, word(s), RAX);
            }
        }
    }

    /// For vector operations: the pair was written in memory.
    pub(crate) fn pair_written(&mut self, s: Slot) {
        for s in [s, Slot(s.0 | 1)] {
            self.forget_constant(s);
            if self.held == s {
                self.held = NONE;
            }
        }
    }
}

const ATOMICS: [AtomicOp; 6] =
    [AtomicOp::Swap, AtomicOp::Add, AtomicOp::And, AtomicOp::Or, AtomicOp::Xor, AtomicOp::AndNot];

fn host_alu(op: AluOp) -> Option<Alu> {
    Some(match op {
        AluOp::Add => Alu::Add,
        AluOp::Or => Alu::Or,
        AluOp::Adc => Alu::Adc,
        AluOp::Sbb => Alu::Sbb,
        AluOp::And => Alu::And,
        AluOp::Sub => Alu::Sub,
        AluOp::Xor => Alu::Xor,
        AluOp::Cmp => Alu::Cmp,
        _ => return None,
    })
}
