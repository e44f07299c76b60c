//! T1: one pass over a block's operations, host code out.
//!
//! The one idea: guest words stay where they are (nine in host registers, the others in memory that instructions can name), at
//! most one temporary is in a register, and the guest's flags stay in the host's for as long as no emitted instruction destroys
//! them; a backward look at the block says whether anybody still wants them then. What is not worth emitting is run by the
//! interpreter, one operation at a time, through [`Stubs::op`](crate::stubs::Stubs::op).

mod arithmetic;
mod bits;
mod control;
mod forms;
mod groups;
mod guard;
mod hot;
mod lanes;
mod memory;
mod operands;
mod recipe;
mod rename;
mod rounds;
mod simd;
mod sites;
mod ymm;

use ir::op::{FIRST_TEMP, FLAG_R, FPC, FpRef, Inst, MemRef, NONE, Op, PRIVATE, Slot, call_flags, hint};
use ir::{AluOp, AluRef, Block};

use crate::asm::{Alu, Asm, Hole, Mem, Piece, RAX, RCX, RDX, Reg, Shift, Sz, at, cc};
use crate::features::Features;
use crate::layout::{CODE_BASE, Pins, word};
use crate::mutants::{Mutant, on};
use crate::stubs::Stubs;
use groups::{Addend, Base, Part, Second};
use guard::Guard;
pub use hot::{Hot, Instead, Restless};
use recipe::Recipe;
use rename::Renamed;
use rounds::Counted;
use simd::Reload;
pub use sites::{DirectExit, Site};

pub(crate) use control::target;
pub(crate) use ymm::INSERT_UPPER;

/// An access with a memo, for which it is looked up again behind the block.
#[derive(Clone, Copy)]
struct Retry {
    /// Offset of the memo from the code's beginning.
    memo: usize,
    write: bool,
    /// It is for a run of pages.
    run: bool,
    /// Where it goes on with the addend in RAX, or in a register of its own.
    back: usize,
    /// Others rely on it: without it the block cannot go on.
    must: bool,
    /// The register that has the addend instead.
    addend: Option<Reg>,
}

/// Result of emission beside the code itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Offset of the block's head.
    pub head: usize,
    /// Offset behind its check, where it is entered from outside.
    pub body: usize,
    /// Return address of the call that leaves it at its head.
    pub spent: usize,
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

/// A lookup that the TLB's second level may answer: what stands behind it.
#[derive(Clone, Copy)]
struct Refill {
    /// What was looked up by large pages, and has to be by small ones now.
    small: Option<(Mem, u64)>,
    found: usize,
    write: bool,
}

/// Code that lies behind the block: reached by `from`, returns to `back`.
struct Cold {
    /// The lookup's miss, and what no lookup can help.
    from: [Option<Hole>; 2],
    retry: Option<Retry>,
    /// Flags that are wanted and were not saved.
    recipe: Option<Recipe>,
    /// What the first of them missed.
    refill: Option<Refill>,
    back: usize,
    site: u32,
    /// Operations that follow it there, each a site.
    more: u32,
    /// What R15 holds.
    base: Base,
    /// What to take from memory afterwards.
    reload: Reload,
    /// Constants to put into memory first: a range of the emitter's list.
    constants: (usize, usize),
    /// It is of the copy that counts rounds.
    counting: bool,
}

/// A direct exit: the jump, where to, whether it may be linked, instructions of the block that were not run, and whether the host
/// has the flags and memory has not.
struct Leave {
    hole: Hole,
    pc: u64,
    chain: bool,
    undone: i32,
    save: bool,
    /// R15 is the TLB's bank.
    bank: bool,
    /// It is not this block's: where its call comes back.
    behind: bool,
    /// It is of the copy that counts rounds.
    counting: bool,
}

/// A check of a jump's target that is left out.
#[derive(Clone, Copy)]
struct Unchecked {
    site: u32,
    constants: (usize, usize),
    /// What has been added to a register behind it.
    moved: Option<(Reg, i32)>,
}

/// Temporaries that a block can have.
const TEMPS: usize = (PRIVATE - FIRST_TEMP) as usize;

/// The emitter with its buffers.
pub struct Emitter {
    /// The code of the block.
    pub a: Asm,
    stubs: Stubs,
    /// Sites of the block.
    pub sites: Vec<Site>,
    /// The number of its first one.
    first_site: u32,
    /// Its direct exits, ascending by where they lie.
    pub exits: Vec<DirectExit>,
    /// Last operation that reads each temporary.
    last: Box<[u32; TEMPS]>,
    /// Constants that temporaries hold.
    constants: Vec<(Slot, u64)>,
    /// Whether somebody wants the flags as they are before each operation.
    needed: Vec<bool>,
    /// Whether somebody else than faults does.
    strong: Vec<bool>,
    /// Before which operations skips land; whether any does.
    landing: Vec<bool>,
    lands: bool,
    cold: Vec<Cold>,
    cold_constants: Vec<(Slot, u64)>,
    cold_mark: (usize, usize),
    /// The last lookup, whose cold code is still to come.
    refill: Option<Refill>,
    /// What the TLB looks like to which code is emitted.
    pub tlb: mem::tlb::Shape,
    /// What its lookups have in common.
    lookups: [Piece; 3],
    /// The heads of blocks.
    head: Piece,
    leaves: Vec<Leave>,
    /// The temporary in R14, and whether memory is old.
    held: Slot,
    flags: Flags,
    block: u32,
    /// Whether its program counters are counted from what a word holds.
    relative: bool,
    /// The operation at hand.
    pub(crate) i: usize,
    pub(crate) features: Features,
    /// Whether the block uses vector registers, which are the guest's in it.
    vectors: bool,
    /// Whether it names upper halves of YMM registers, which are then in registers.
    wide: bool,
    /// Whether it has nothing to do with vectors and MXCSR at all.
    plain: bool,
    /// Whether it has floating point that the host runs, which wants MXCSR to be the guest's.
    float: bool,
    /// The first operation that may write MXCSR.
    changes_control: usize,
    /// Whether MXCSR may have been written since it was looked at.
    unsure: bool,
    guards: Vec<Guard>,
    /// The temporary pair that [`crate::layout::XT`] holds and memory does not.
    pair: Slot,
    /// The pair that it holds in its upper half.
    pair_upper: Slot,
    /// Operations from the one at hand on that were done with one before.
    fused: u8,
    /// How to make the guest's flags, which are not in memory, if a fault wants them.
    recipe: Option<Recipe>,
    /// The check of a jump's target that is to be made up for where the jump is not known.
    unchecked: Option<Unchecked>,
    /// Where it is not known, and the same.
    unknown: Option<([Option<Hole>; 2], Unchecked)>,
    /// Where guest words are in this block.
    pins: Pins,
    renamed: Renamed,
    /// Open skips: (landing operation, hole).
    skips: Vec<(usize, Hole)>,
    hot: Option<Box<Hot>>,
    /// Memos of the block: operation, and bytes less one.
    pub(crate) memos: Vec<(u16, u32)>,
    retry: Option<Retry>,
    /// All of them are for runs of pages.
    pub(crate) runs: bool,
    /// What operations are in their groups, and memos of those that are the first of theirs.
    parts: Vec<(u16, Part)>,
    firsts: Vec<(u16, usize)>,
    base: Base,
    second: Option<Second>,
    /// The copy of a loop that counts rounds.
    counted: Option<Counted>,
    /// The memo that counts how often a loop is entered, by number.
    pub(crate) entries: Option<usize>,
    /// Groups of a loop whose addends are in registers.
    addends: Vec<Addend>,
    /// What the base was before the last lookup, whose cold code is still to come.
    before: Option<Base>,
    /// Where the bytes of the last access are that was looked up.
    there: Mem,
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
    /// An emitter whose code lies behind `stubs`, for a host that has `features`.
    pub fn new(stubs: Stubs, features: Features) -> Self {
        Emitter {
            a: Asm::default(),
            stubs,
            sites: Vec::new(),
            first_site: 0,
            exits: Vec::new(),
            last: Box::new([0; TEMPS]),
            constants: Vec::new(),
            needed: Vec::new(),
            strong: Vec::new(),
            landing: Vec::new(),
            lands: false,
            cold: Vec::new(),
            cold_constants: Vec::new(),
            cold_mark: (0, 0),
            refill: None,
            tlb: mem::tlb::Shape::default(),
            lookups: memory::lookups(mem::tlb::Shape::default()),
            head: Piece::new(|a| control::head(a, 1)),
            leaves: Vec::new(),
            held: NONE,
            flags: Flags::Memory,
            block: 0,
            relative: false,
            i: 0,
            features,
            vectors: false,
            wide: false,
            plain: true,
            float: false,
            changes_control: usize::MAX,
            unsure: false,
            guards: Vec::new(),
            pair: NONE,
            pair_upper: NONE,
            fused: 0,
            recipe: None,
            unchecked: None,
            unknown: None,
            pins: Pins::USUAL,
            renamed: Renamed::default(),
            skips: Vec::new(),
            hot: None,
            memos: Vec::new(),
            retry: None,
            runs: false,
            parts: Vec::new(),
            firsts: Vec::new(),
            base: Base::Bank,
            second: None,
            counted: None,
            entries: None,
            addends: Vec::new(),
            before: None,
            there: at(RAX, 0),
        }
    }

    /// Emit for these stubs and this TLB from now on.
    pub fn fit(&mut self, stubs: Stubs, tlb: mem::tlb::Shape) {
        (self.stubs, self.tlb, self.lookups) = (stubs, tlb, memory::lookups(tlb));
    }

    /// Emit `block`, number `id` in the cache, for offset `base` of code memory, with sites from number `site` on; with more trouble
    /// if it is hot.
    pub fn emit(&mut self, block: &Block, id: u32, (base, site): (usize, u32), hot: Option<Box<Hot>>) -> Emitted {
        self.hot = hot;
        self.first_site = site;
        self.sites.clear();
        self.exits.clear();
        self.memos.clear();
        (self.counted, self.entries) = (None, None);
        self.find_groups(block);
        self.a.start(base);
        self.block = id;
        self.relative = block.base.is_some();
        debug_assert!(block.base.is_none_or(|base| base == CODE_BASE), "there is one such word");
        self.cold.clear();
        self.cold_constants.clear();
        self.leaves.clear();
        self.start();
        self.look_ahead(block);
        self.look_back(block);
        let head = self.a.here();
        let spent = self.head(block.points.len());
        let body = self.a.here();
        self.rename(block);
        self.guard_head();
        self.begin_loop();
        self.pass(block);
        self.count_rounds(block);
        let spent = self.finish(spent);
        Emitted { head, body, spent }
    }

    /// Whether the block that was emitted last counts its rounds.
    pub fn counts(&self) -> bool {
        self.counted.is_some()
    }

    /// As where a block begins.
    fn start(&mut self) {
        self.retry = None;
        self.firsts.clear();
        (self.base, self.before) = (Base::Bank, None);
        self.recipe = None;
        (self.unchecked, self.unknown) = (None, None);
        self.constants.clear();
        self.skips.clear();
        self.held = NONE;
        self.flags = Flags::Memory;
        self.i = 0;
    }

    /// One pass over its operations.
    fn pass(&mut self, block: &Block) {
        for i in 0..block.insts.len() {
            self.i = i;
            if self.lands && self.landing[i] {
                self.land(i);
            }
            if self.constants.len() > 8 {
                let last = &self.last;
                self.constants.retain(|c| temp_index(c.0).is_some_and(|t| last[t] as usize >= i));
            }
            self.one(block, &block.insts[i]);
        }
        self.i = block.insts.len();
    }

    /// Where skips land, last uses, and what the block wants of vector registers: one pass forward.
    fn look_ahead(&mut self, block: &Block) {
        let n = block.insts.len();
        if self.lands {
            self.landing.fill(false);
            self.lands = false;
        }
        if self.landing.len() <= n {
            self.landing.resize(n + 1, false);
        }
        self.start_vectors();
        for (i, x) in block.insts.iter().enumerate() {
            let now = i as u32;
            for s in [x.d, x.a, x.b] {
                if let Some(t) = temp_index(s) {
                    // Also where it is only written: a use of memory behind must find something.
                    self.last[t] = now;
                } else {
                    self.look_at_slot(s);
                }
            }
            let form = forms::of(x.op);
            if form & forms::REST == 0 && x.d != FPC {
                continue;
            }
            if form & forms::SKIP != 0 {
                self.landing[(i + 1 + x.imm as usize).min(n)] = true;
                self.lands = true;
            }
            if form & forms::PAIRS != 0 {
                for s in [x.d, x.a, x.b] {
                    // The other half; that of an address does no harm.
                    if let Some(t) = temp_index(Slot(s.0 | 1)) {
                        self.last[t] = now;
                    }
                }
            }
            let third = match x.op {
                Op::Select => Slot(x.imm as u16),
                Op::Cas | Op::Bulk => Slot(x.imm as u16 & 0x3ff),
                Op::Fp => FpRef::third(x.imm),
                _ => NONE,
            };
            self.look_at_slot(third);
            for s in [third, Slot(third.0 | 1)] {
                if let Some(t) = temp_index(s) {
                    self.last[t] = now;
                }
            }
            self.look_at_float(x, i);
        }
    }

    /// Before which operations the flags are wanted: one pass backward.
    fn look_back(&mut self, block: &Block) {
        let n = block.insts.len();
        if self.needed.len() <= n {
            self.needed.resize(n + 1, true);
            self.strong.resize(n + 1, true);
        }
        // `strong`: by somebody else than faults.
        let (mut want, mut strong) = (true, true);
        (self.needed[n], self.strong[n]) = (true, true);
        for (i, x) in block.insts.iter().enumerate().rev() {
            let form = forms::of(x.op);
            if form & forms::SHOWS != 0 {
                (want, strong) = (true, true);
            } else if form & forms::ACCESS != 0 {
                want |= !self.cannot_fail(block, i);
            } else if form & forms::FLAGS != 0 {
                (want, strong) = self.wanted_before(x, i, want, strong);
            }
            if self.lands && self.landing[i + 1] {
                (want, strong) = (true, true);
            }
            self.needed[i] = want;
            self.strong[i] = strong;
        }
    }

    /// The same before an operation that makes flags, or may look at them.
    fn wanted_before(&self, x: &Inst, i: usize, want: bool, strong: bool) -> (bool, bool) {
        match x.op {
            Op::Flags => (false, false),
            Op::Alu => {
                let r = AluRef::unpack(x.aux).op;
                // Where a flag of before is kept or used, it is wanted if any is wanted after, or for the result.
                let want = match r {
                    AluOp::Adc | AluOp::Sbb => true,
                    AluOp::Shl | AluOp::Shr | AluOp::Sar if x.b == NONE && x.imm & 31 != 0 => false,
                    r if r.reads_flags() => want,
                    _ => false,
                };
                (want, want)
            }
            Op::AluMem => (true, MemRef::alu_op(x.imm).reads_flags()),
            Op::Fp => {
                let stops = i >= self.changes_control || !crate::vector::float(self.features, x.aux);
                (want | stops, strong | stops)
            }
            Op::Call => {
                let seen = call_flags::MAY_STOP | call_flags::READS_STATE | call_flags::WRITES_STATE;
                let sees = x.aux & seen != 0;
                (want | sees, strong | sees)
            }
            _ => (want, strong),
        }
    }

    fn one(&mut self, block: &Block, x: &Inst) {
        if self.fused > 0 {
            self.fused -= 1;
            return;
        }
        if !self.needed[self.i] {
            self.recipe = None;
        }
        if self.plain || on(Mutant::Plain) {
            return self.general(block, x);
        }
        if self.wide && self.whole(block, x) {
            return;
        }
        self.pair_narrow(self.i);
        self.control_word(x);
        if self.maybe_simd(x) && self.simd(block, x) {
            return;
        }
        self.pair_evict(self.i);
        if self.names_vector(x) {
            let written = self.spill(x);
            self.general(block, x);
            self.refill(written);
        } else {
            self.general(block, x);
        }
    }

    fn general(&mut self, block: &Block, x: &Inst) {
        match x.op {
            Op::Mov | Op::Zext32 if self.copy_and_select(block, x) => {}
            Op::Mov => {
                if let Some(v) = self.constant(x.a) {
                    return self.mov_imm(x.d, v);
                }
                if let Some(d) = self.pins.get(x.d) {
                    return self.load_into(d, x.a);
                }
                let a = self.reg(x.a, RAX);
                let d = self.target(x.d, a);
                if d != a {
                    self.a.mov(Sz::Q, d, a);
                }
                self.done(x.d, d);
            }
            Op::MovI => self.mov_imm(x.d, x.imm),
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
                if x.op == Op::Mul64
                    && let Some(done) = self.product(block, x)
                {
                    self.fused = done;
                    return;
                }
                if let Some(high) = self.high_half_follows(block, x) {
                    return self.multiply_twice(x, &high);
                }
                self.clobber();
                let r = self.pins.get(x.d).filter(|_| x.b != x.d).unwrap_or(RAX);
                self.load_into(r, x.a);
                let b = self.rm(x.b, RCX);
                self.a.imul(if x.op == Op::Mul64 { Sz::Q } else { Sz::D }, r, b);
                if r == RAX {
                    self.set(x.d, RAX);
                }
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
            Op::Pdep | Op::Pext => self.by_mask(x),
            Op::Popcnt if self.features.popcnt => {
                self.clobber();
                let a = self.rm(x.a, RAX);
                let d = self.target(x.d, RAX);
                self.a.popcnt(d, a);
                self.done(x.d, d);
            }
            Op::Extr64 if x.imm & 63 != 0 => {
                self.clobber();
                self.load_into(RCX, x.a);
                self.load_into(RAX, x.b);
                self.a.shrd_imm(RAX, RCX, x.imm as u8 & 63);
                self.set(x.d, RAX);
            }
            Op::Divide => self.divide(x),
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
            Op::Lea | Op::Lea32 | Op::Lea16 => self.lea(x),
            Op::Alu => {
                let recipe = self.recipe_of(block, x);
                if let Some(recipe) = recipe {
                    self.keep(x, recipe);
                }
                self.alu(x);
                if recipe.is_some() {
                    self.recipe = recipe;
                }
            }
            Op::AluMem => self.alu_mem(x),
            Op::CheckCanonical => self.canonical(block, x),
            Op::Flags => self.record(block, x),
            Op::Cond => match self.condition(x.aux) {
                Some(c) => self.set_condition(block, x, c),
                None => self.interpret(x),
            },
            Op::FlagsGet => {
                self.save_all();
                self.flags = Flags::Memory;
                self.a.mov(Sz::D, RAX, word(FLAG_R));
                self.saved_to_eflags(RCX);
                self.set(x.d, RAX);
            }
            Op::SelectCond => self.select(block, x),
            Op::Load => self.load(x),
            Op::Store => self.store(x),
            Op::Atomic => self.atomic(x),
            Op::Cas => self.cas(x),
            Op::Cas128 => self.cas128(x),
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
                self.save_all();
                self.flags = Flags::Memory;
                let a = self.reg(x.a, RAX);
                self.a.test(Sz::Q, a, a);
                self.leave_direct(block, x.imm, Some(cc::NE));
            }
            Op::ExitCond => match self.condition(x.aux) {
                Some(c) => {
                    let counted = self.counting() && self.leads_back(block, x.imm);
                    if !counted && block.insts.get(self.i + 1).is_some_and(|next| next.op == Op::Exit) {
                        self.save_all();
                    }
                    self.leave_direct(block, x.imm, Some(c));
                }
                None => self.resume_here(),
            },
            Op::Exit if self.counting() && self.leads_back(block, x.imm) => {
                // Otherwise they are made behind the last round.
                if self.needed[0] {
                    self.save_all();
                }
                self.leave_direct(block, x.imm, None);
            }
            Op::Exit => {
                self.save_all();
                if x.aux & hint::CALL != 0 {
                    self.leave_word(block, x.a);
                }
                self.leave_direct(block, x.imm, None);
            }
            Op::ExitReg => self.leave_indirect(block, x),
            Op::ExitEvent | Op::Raise => self.resume_here(),
            Op::Fence if x.aux == ir::Fence::Full as u8 => self.a.buf.extend_from_slice(&[0x0f, 0xae, 0xf0]),
            Op::Fence | Op::ClearExclusive => {}
            _ => self.interpret(x),
        }
    }
}
