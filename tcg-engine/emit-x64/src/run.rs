//! Running emitted code: one vCPU's code memory, the links between its blocks, its jump cache, and the way in and out.
//!
//! The one idea: emitted code is only ever an acceleration of "look the next block up and interpret it". Whatever it does not
//! know — an exit that is not linked, a jump that the cache has not seen, an operation with consequences — it leaves, with
//! every guest word in memory, and says why.
#![expect(unsafe_code, reason = "calls emitted code, and gives it pointers to what it works on")]

#[cfg(any(test, feature = "mutants"))]
mod check;
mod heat;
mod jumps;
mod links;
mod look;
mod parts;

use std::sync::Arc;

use code::{Cache, CodeMemory, Error};
use ir::op::{NONE, Op, TIER_BUDGET, TIER_TAG};
use ir::t0::{self, Outcome, Step};
use ir::{Env, PC, Regs, flags};
use mem::tlb::Shape;

use crate::asm::Asm;
use crate::budget::Budget;
use crate::emit::{Emitter, Hot};
use crate::features::Features;
use crate::layout::{
    BANK, BIAS, CODE_BASE, CONTEXT, DEFAULT_MXCSR, GLOBAL_CONTEXT, HOST_MXCSR, JUMPS, RETURNS, RUNTIME, TEMP, VECTORS,
};
use crate::memo::{Memo, Memos, Owner};
use crate::mutants::{Mutant, on};
use crate::returns::Returns;
use crate::stubs::{JUMP_LOG2, Outside, Stubs, left};
pub use heat::Loop;
use heat::{HOT, HotBlock, Known};
use jumps::{Jump, NO_JUMP};
pub use look::{Kind, Placed};
use parts::Parts;

/// What emitted code needs of a vCPU beside what interpretation needs.
pub trait Host: Env {
    /// Its TLB, as it is now.
    fn tlb(&self) -> &mem::Tlb;
    /// Host address minus linear address, a multiple of 4096, if the page of `va` can be loaded from, or stored to (`write`), without
    /// a walk: once, now. The TLB may have it hit from then on. Changes nothing that emitted code depends on but the entries of the
    /// TLB's current bank.
    fn refill(&mut self, va: u64, write: bool) -> Option<u64>;
    /// As [`Host::refill`], for as many bytes around `va` as are accessed the same way by one addend; whether they are is up to the
    /// TLB's [`shrinks`](mem::Tlb::shrinks).
    fn run_around(&mut self, va: u64, write: bool) -> Option<mem::Run>;
    /// Whatever else finding a block depends on, in 16 bits.
    fn mode_bits(&self) -> u32;
    /// Whether the run loop must look before the next instruction.
    fn attention(&self, regs: &Regs) -> bool;
    /// Whether another thread wants this vCPU to look up.
    fn asked(&self) -> bool;
}

/// Why emitted code was left. The program counter word is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// By a direct exit of a block; the next block may be linked to it.
    Direct(Exit),
    /// To an address that the jump cache does not know.
    Jump,
    /// The budget is used up.
    Budget,
    /// As the interpreter leaves a block.
    Outcome(Outcome),
}

/// A direct exit that may be linked, valid until its part of code memory is begun again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    number: u32,
    /// Of its part.
    turn: u32,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks emitted.
    pub blocks: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Guest bytes of them.
    pub guest_bytes: u64,
    /// Host bytes.
    pub host_bytes: u64,
    /// Operations emitted.
    pub operations: u64,
    /// Of these, calls of the interpreter.
    pub calls: u64,
    /// Stays in emitted code.
    pub entries: u64,
    /// Left by unlinked exits.
    pub direct: u64,
    /// Left by jumps that missed.
    pub jumps: u64,
    /// Left at a block's head, the budget being used up.
    pub budgets: u64,
    /// Left by an operation: a fault, or something that the run loop has to look at.
    pub stopped: u64,
    /// Left so that the rest of a block is interpreted.
    pub resumed: u64,
    /// Operations that emitted code had interpreted.
    pub interpreted: u64,
    /// Times that code memory was cleared.
    pub clears: u64,
    /// Times that a part of it was used again.
    pub reclaims: u64,
    /// Hot blocks emitted.
    pub hot: u64,
    /// Loops of these that count their rounds.
    pub counted: u64,
}

/// Emitted code of a block. There are many, so what few have is apart.
#[derive(Clone, Debug)]
struct HostBlock {
    /// Offsets, and bytes of its code.
    head: u32,
    body: u32,
    len: u32,
    instructions: u32,
    /// Counted from what [`CODE_BASE`] holds if it is relative.
    pc: u64,
    relative: bool,
    /// What it was counted from when it was emitted, for those who look on.
    origin: u64,
    /// Entries of the jump cache that may lead to it, some of them more than once.
    remembered: Vec<u16>,
    /// RAM offset minus program counter: the same for blocks of one page.
    place: u64,
    /// Distances in other blocks that lead here, and where they led before.
    incoming: Vec<(u32, u32)>,
    /// In which parts of code memory they lie, at most: a bit for each, so that the list of most blocks need not be looked at when a part
    /// is reclaimed.
    from: u8,
    linkable: bool,
    /// Times that the budget ended at its head.
    heat: u8,
    hot: Option<Box<HotBlock>>,
}

/// What the function behind the stub for single operations works on.
pub(crate) struct Runtime<E> {
    env: *mut E,
    regs: *mut Regs,
    cache: *const Cache,
    parts: *const Parts,
    outcome: Option<Outcome>,
    interpreted: u64,
    budget: *const Budget,
    /// What interpreted operations took from the budget.
    charged: u64,
    memos: *mut Memos,
    returns: *mut Returns,
}

/// T1 of one vCPU.
pub struct T1 {
    memory: CodeMemory,
    memos: Memos,
    outside: Outside,
    stubs: Stubs,
    emitter: Emitter,
    /// Where parts begin, and the parts.
    start: usize,
    parts: Parts,
    blocks: Vec<Option<HostBlock>>,
    jumps: Box<[Jump]>,
    budget: Arc<Budget>,
    returns: Returns,
    charged: u64,
    stats: Stats,
    /// How often the budget ends at the head of a block that is hot then.
    hot: u8,
    /// See [`T1::set_planned`].
    planned: bool,
    /// See [`T1::take_warmed`].
    warmed: Option<u32>,
    /// Ends of the budget since memos were looked at, and instructions that ran between them.
    ends: u64,
    ran: u64,
    /// Loops at whose heads it ended since then, and those that are worth a plan.
    ended: Vec<u32>,
    loops: Vec<Loop>,
    /// The ticket of the last one.
    ticket: u64,
    /// What was placed since somebody asked, if anybody looks on.
    placed: Option<Vec<Placed>>,
}

impl std::fmt::Debug for T1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("T1").field("used", &self.parts.used()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// What an operation costs of the budget when it is interpreted, in instructions: so that a stay in emitted code does not
/// last longer where each instruction does much, such as a string operation or an access to a device.
const fn cost(op: Op) -> u32 {
    match op {
        Op::Bulk => 4096,
        Op::Fp | Op::Vec => 8,
        _ => 64,
    }
}

/// What finding a block depends on, for pages of the current address space and for global ones.
fn contexts<E: Host>(env: &E) -> (u64, u64) {
    let tlb = env.tlb();
    let word = |context: u64| u64::from(env.mode_bits()) << 48 | context & 0xffff_ffff_ffff;
    (word(tlb.context()), word(tlb.global_context()))
}

fn sync<E: Host>(env: &E, regs: &mut Regs, returns: &mut Returns) {
    let tlb = env.tlb();
    let (context, global) = contexts(env);
    regs.set(TIER_TAG, tlb.tag_space());
    regs.set(BANK, tlb.bank_address());
    regs.set(CONTEXT, context);
    regs.set(GLOBAL_CONTEXT, global);
    regs.set(RETURNS, returns.table(tlb.bank(), context));
}

/// Run the operation of a site. Answers 0 to go on, otherwise what emitted code returns.
///
/// # Safety
/// `rt` and everything that it points to are alive and used by nobody else, as [`T1::run`] sees to.
unsafe extern "sysv64" fn operation<E: Host>(rt: *mut Runtime<E>, site: u32) -> u64 {
    // SAFETY: see above; emitted code touches the words only while this function does not run.
    let (rt, regs, env, cache, parts, budget) = unsafe {
        let rt = &mut *rt;
        let (regs, env, cache, parts) = (&mut *rt.regs, &mut *rt.env, &*rt.cache, &*rt.parts);
        let budget = &*rt.budget;
        (rt, regs, env, cache, parts, budget)
    };
    rt.interpreted += 1;
    let out = left::OP << 32 | u64::from(site);
    let Some(site) = parts.site(site) else { return out };
    let Some(block) = cache.at(site.block).and_then(|id| cache.block(id)) else { return out };
    if site.temp() != NONE {
        let held = regs.get(TEMP);
        regs.set(site.temp(), held);
    }
    let op = usize::from(site.op);
    if let Some(x) = block.insts.get(op) {
        let cost = cost(x.op);
        rt.charged += u64::from(cost);
        budget.charge(cost);
    }
    let step = t0::step(block, op, regs, env);
    // SAFETY: as above.
    let shrunk = unsafe { &mut *rt.memos }.settle(env.tlb().shrinks()) && !on(Mutant::Shrunk);
    match step {
        // What the block's accesses have found may be gone.
        Step::Next if !(env.attention(regs) || shrunk && site.memos()) => {
            if let Some(x) = block.insts.get(op).filter(|_| site.result()) {
                let result = regs.get(x.d);
                regs.set(TEMP, result);
            }
            flags::to_host(regs);
            // SAFETY: as above.
            sync(env, regs, unsafe { &mut *rt.returns });
            0
        }
        Step::Next | Step::Finish => {
            rt.outcome = Some(t0::finish(block, op + 1, regs, env));
            out
        }
        Step::Left(o) => {
            rt.outcome = Some(o);
            out
        }
    }
}

/// The lookup of a page with `tag` at offset `slot` of a table has missed; answers the addend, or 1 if there is none. The access
/// takes that and does not look again, so nothing depends on whether it would hit.
///
/// # Safety
/// As for [`operation`].
unsafe extern "sysv64" fn refill<E: Host>(rt: *mut Runtime<E>, tag: u64, slot: u32, write: u32) -> u64 {
    // SAFETY: see above.
    let env = unsafe { &mut *(*rt).env };
    let va = tag << 12;
    // The tag is that of the access's last byte, the slot that of its first: what lies across pages never hits.
    let here = env.tlb().shape().slot(va) == slot;
    if here { env.refill(va, write != 0).unwrap_or(1) } else { 1 }
}

/// The run of pages from `va` to `last`, if all of them may be accessed and can be put in their places.
fn whole_run<E: Host>(env: &mut E, va: u64, last: u64, write: bool) -> Option<mem::Run> {
    if last < va {
        return None;
    }
    let whole = |run: &mem::Run| last.wrapping_sub(run.start) < run.len;
    let run = env.run_around(va, write)?;
    if whole(&run) {
        return Some(run);
    }
    // An access or a group that always begins in the same page may be the only one that goes to those behind it.
    for page in va / mem::PAGE + 1..=last / mem::PAGE {
        env.run_around(page * mem::PAGE, write)?;
    }
    env.run_around(va, write).filter(whole)
}

/// A memo of a run of pages does not have the address that is `distance` from its beginning; answers the addend, or 1 if there is none.
///
/// # Safety
/// As for [`operation`]; `memo` is one of the runtime's.
unsafe extern "sysv64" fn around<E: Host>(rt: *mut Runtime<E>, memo: *mut Memo, distance: u64, write: u32) -> u64 {
    // SAFETY: see above.
    let (env, memos) = unsafe { (&mut *(*rt).env, &mut *(*rt).memos) };
    // SAFETY: see above.
    let (va, last) = unsafe { memos.access(memo, distance) };
    let Some(run) = whole_run(env, va, last, write != 0) else { return 1 };
    // SAFETY: see above.
    unsafe { memos.remember(memo, run) };
    run.addend
}

impl T1 {
    /// T1 for vCPUs of type `E`, in `memory`.
    ///
    /// # Errors
    /// The memory is too small.
    pub fn new<E: Host>(memory: CodeMemory) -> Result<T1, Error> {
        Self::with_features::<E>(memory, Features::of_host())
    }

    /// The same for a host that has `features`, no more than this one has.
    pub(crate) fn with_features<E: Host>(mut memory: CodeMemory, features: Features) -> Result<T1, Error> {
        let mut a = Asm::default();
        a.start(0);
        let mut memos = Memos::new(&mut memory);
        let outside = Outside {
            op: operation::<E> as *const () as u64,
            refill: refill::<E> as *const () as u64,
            run: around::<E> as *const () as u64,
            memos: memos.place(0),
            avx: features.avx2,
        };
        let stubs = Stubs::emit(&mut a, outside, Shape::default());
        if !memory.write(0, &a.buf) || memory.len() < Parts::LEAST {
            return Err(Error::Kernel {
                what: "too small",
                len: memory.len(),
                source: std::io::ErrorKind::InvalidInput.into(),
            });
        }
        let start = a.here().next_multiple_of(64);
        let parts = Parts::new(start, memory.len());
        memos.divide(parts.count());
        let returns = Returns::new(memory.exec() as u64 + stubs.jump as u64);
        Ok(T1 {
            memory,
            memos,
            outside,
            stubs,
            emitter: Emitter::new(stubs, features),
            start,
            parts,
            blocks: Vec::new(),
            jumps: vec![NO_JUMP; 1 << JUMP_LOG2].into(),
            budget: Arc::default(),
            returns,
            charged: 0,
            stats: Stats::default(),
            hot: HOT,
            planned: true,
            warmed: None,
            ends: 0,
            ran: 0,
            ended: Vec::new(),
            loops: Vec::new(),
            ticket: 0,
            placed: None,
        })
    }

    /// Have blocks be hot when the budget has ended at their heads so often; 0 if they are from the beginning. For tests.
    pub fn set_hot(&mut self, ends: u8) {
        self.hot = ends;
    }

    /// Whether loops count their rounds from the beginning if all blocks are hot: they do unless this says otherwise. For tests.
    pub fn set_planned(&mut self, planned: bool) {
        self.planned = planned;
    }

    /// Have accesses of hot blocks remember runs of pages from the beginning. For tests.
    pub fn set_runs(&mut self, runs: bool) {
        self.emitter.runs = runs;
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The budget, for those who want something of this vCPU.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What the last stay took of its budget beside the instructions that it completed.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// Forget all code.
    pub fn clear(&mut self) {
        self.warmed = None;
        self.ended.clear();
        self.loops.clear();
        self.blocks.clear();
        self.returns.clear();
        self.parts.clear();
        self.memos.divide(self.parts.count());
        if let Some(placed) = &mut self.placed {
            placed.clear();
        }
        self.jumps.fill(NO_JUMP);
        self.stats.clears += 1;
    }

    /// Emit for a TLB of this shape from now on. If it was another one, this forgets all code.
    pub fn fit(&mut self, tlb: &mem::Tlb) {
        if self.emitter.tlb != tlb.shape() {
            let mut a = Asm::default();
            a.start(0);
            self.stubs = Stubs::emit(&mut a, self.outside, tlb.shape());
            // There is room for them: they were there before, about as long.
            self.memory.write(0, &a.buf);
            self.start = a.here().next_multiple_of(64);
            // They are a little smaller if the stubs are larger.
            self.parts.move_to(self.start, self.memory.len());
            self.emitter.fit(self.stubs, tlb.shape());
            self.returns.jump = self.memory.exec() as u64 + self.stubs.jump as u64;
            self.clear();
        }
    }

    /// Forget the code of blocks that have left the cache.
    pub fn remove(&mut self, gone: &[u32]) {
        self.drop_code(gone, |_| !on(Mutant::Linked), !on(Mutant::Remembered));
    }

    /// The same, with the links to them that lie where `links` says, and with jumps.
    fn drop_code(&mut self, gone: &[u32], links: impl Fn(u32) -> bool, jumps: bool) {
        self.returns.forget();
        for &n in gone {
            let Some(b) = self.blocks.get_mut(n as usize).and_then(Option::take) else { continue };
            for (hole, unlinked) in b.incoming.iter().filter(|(hole, _)| links(*hole)) {
                Self::patch(&mut self.memory, *hole, *unlinked);
            }
            let code = self.memory.exec() as u64 + b.head as u64;
            if jumps {
                self.forget_jumps(&b.remembered, code);
            }
        }
    }

    fn patch(memory: &mut CodeMemory, hole: u32, to: u32) {
        let distance = (i64::from(to) - i64::from(hole) - 4) as i32;
        memory.write(hole as usize, &distance.to_le_bytes());
    }

    /// Whether a block has code.
    #[inline]
    pub fn has(&self, n: u32) -> bool {
        matches!(self.blocks.get(n as usize), Some(Some(_)))
    }

    /// Emit block `n` of the cache, which is user mode's or not, and hot or not. There must be room. `origin` is what its program
    /// counters are counted from now, for those who look on. Answers whether it has code now.
    pub fn translate(&mut self, cache: &Cache, n: u32, user: bool, hot: bool, origin: u64) -> bool {
        let block = cache.at(n).and_then(|id| cache.block(id));
        let rounds = block.filter(|_| self.hot == 0 && self.planned).and_then(opt::Rounds::of).map(Arc::new);
        let hot = (hot || self.hot == 0).then(|| Known { rounds, ..Known::default() });
        let Some(block) = self.emit(cache, n, user, hot, origin) else { return false };
        let n = n as usize;
        if self.blocks.len() <= n {
            // For all that there may be: memory that is not touched costs nothing, and blocks that move do.
            self.blocks.reserve_exact(cache.most().saturating_sub(self.blocks.len()));
            self.blocks.resize_with(n + 1, || None);
        }
        self.blocks[n] = Some(block);
        true
    }

    /// Whether all blocks are hot.
    pub fn all_hot(&self) -> bool {
        self.hot == 0
    }

    /// The number of a block that is hot, at whose head the budget has just ended. It should be lifted and emitted again.
    pub fn take_warmed(&mut self) -> Option<u32> {
        self.warmed.take()
    }

    /// A loop that runs long each time that it is entered: it is worth an [`opt::Rounds`].
    pub fn take_loop(&mut self) -> Option<Loop> {
        self.loops.pop()
    }

    /// Have a loop count its rounds, of which this is so, if it is still there.
    pub fn count_rounds(&mut self, cache: &Cache, which: Loop, rounds: opt::Rounds) {
        let is_it = |hot: &&mut HotBlock| hot.known.asked == Some(which) || on(Mutant::RoundsTicket);
        if let Some(hot) = self.hot_block(which.block).filter(is_it) {
            hot.known.rounds = Some(Arc::new(rounds));
            self.emit_again(cache, which.block);
        }
    }

    /// Loops that have a plan now. For tests.
    pub fn plans(&self) -> usize {
        let hot = self.blocks.iter().flatten().filter_map(|b| b.hot.as_ref());
        hot.filter(|hot| hot.known.rounds.is_some()).count()
    }

    /// Emit block `n`, if it is hot with what is known about it.
    fn emit(&mut self, cache: &Cache, n: u32, user: bool, known: Option<Known>, origin: u64) -> Option<HostBlock> {
        let id = cache.at(n)?;
        let (block, (at, second)) = (cache.block(id)?, cache.bytes(id)?);
        let (free, first) = (self.parts.free(), self.memos.next());
        let base = free.start;
        let memos = (user && self.memos.has_room(2 * block.insts.len() + 1)).then(|| self.memos.place(first));
        let is_hot = known.is_some();
        let hot = known.clone().map(|Known { restless, rounds, .. }| Box::new(Hot { memos, restless, rounds }));
        let e = self.emitter.emit(block, n, (base, self.parts.next_site()), hot);
        let len = self.emitter.a.buf.len();
        if len > self.parts.largest.min(free.len()) || !self.memory.write(base, &self.emitter.a.buf) {
            return None;
        }
        self.parts.add(&self.emitter.sites, &self.emitter.exits, (e.spent as u32, n));
        for (op, last) in &self.emitter.memos {
            self.memos.add(Owner { block: n, op: *op }, *last);
        }
        self.parts.take(len);
        self.stats.hot += u64::from(is_hot);
        self.stats.counted += u64::from(self.emitter.counts());
        self.stats.blocks += 1;
        self.stats.instructions += block.points.len() as u64;
        let guest_len = block.end_pc.wrapping_sub(block.pc) & 0xffff;
        self.stats.guest_bytes += guest_len;
        self.stats.host_bytes += len as u64;
        self.stats.operations += block.insts.len() as u64;
        self.note_placed(Placed {
            kind: if is_hot { Kind::Hot } else { Kind::Block },
            pc: origin.wrapping_add(block.pc),
            guest_len,
            at: base,
            len,
        });
        let (memos, entries) = (first..self.memos.next(), self.emitter.entries.map(|n| first + n));
        Some(HostBlock {
            head: e.head as u32,
            body: e.body as u32,
            len: len as u32,
            instructions: block.points.len() as u32,
            pc: block.pc,
            relative: block.base.is_some(),
            origin,
            remembered: Vec::new(),
            place: at.wrapping_sub(block.pc),
            incoming: Vec::new(),
            from: 0,
            linkable: second.is_none(),
            heat: 0,
            hot: known.map(|known| Box::new(HotBlock { ends: 0, failures: 0, memos, entries, looped: (0, 0), known })),
        })
    }

    /// Run from block `n` on, which has code. About `budget` instructions run, and at least that block. Answers why emitted
    /// code was left, and how many instructions were completed.
    pub fn run<E: Host>(&mut self, cache: &Cache, n: u32, regs: &mut Regs, env: &mut E, budget: u32) -> (Left, u64) {
        let Some(Some(b)) = self.blocks.get(n as usize) else { return (Left::Jump, 0) };
        debug_assert_eq!(env.tlb().shape(), self.emitter.tlb);
        let body = self.memory.exec().wrapping_add(b.body as usize);
        self.charged = 0;
        let budget = budget.min(1 << 28).cast_signed();
        self.budget.set(budget - b.instructions.cast_signed());
        if env.asked() {
            return (Left::Budget, 0);
        }
        flags::to_host(regs);
        sync(env, regs, &mut self.returns);
        self.memos.settle(env.tlb().shrinks());
        regs.set(JUMPS, self.jumps.as_ptr() as u64);
        regs.set(TIER_BUDGET, self.budget.address());
        regs.set(VECTORS, 0);
        regs.set(HOST_MXCSR, DEFAULT_MXCSR);
        let regs: *mut Regs = regs;
        let mut rt = Runtime {
            env: std::ptr::from_mut(env),
            regs,
            cache,
            parts: &raw const self.parts,
            outcome: None,
            interpreted: 0,
            budget: &raw const *self.budget,
            charged: 0,
            memos: &raw mut self.memos,
            returns: &raw mut self.returns,
        };
        let rt: *mut Runtime<E> = &mut rt;
        // SAFETY: `regs` points to the caller's words, which nobody else uses; the stub is a function of this type, and the
        // code at `body` keeps to the conventions of `layout`. All pointers outlive the call.
        let (code, regs, env, rt) = unsafe {
            (*regs).set(RUNTIME, rt as u64);
            let enter: extern "sysv64" fn(*mut u64, *const u8) -> u64 =
                std::mem::transmute(self.memory.exec().add(self.stubs.enter));
            let code = enter(regs.cast::<u64>().add(usize::from(BIAS)), body);
            (code, &mut *regs, &mut *(*rt).env, &mut *rt)
        };
        self.stats.entries += 1;
        self.stats.interpreted += rt.interpreted;
        self.charged = rt.charged;
        let mut done = i64::from(budget) - i64::from(self.budget.left()) - rt.charged.cast_signed();
        let low = code as u32;
        let why = match code >> 32 {
            left::DIRECT => {
                self.stats.direct += 1;
                let called = self.parts.exit_called(low);
                if let Some((_, e)) = called {
                    let origin = if e.relative { regs.get(CODE_BASE) } else { 0 };
                    regs.set(PC, origin.wrapping_add(e.pc));
                }
                called.map_or(Left::Jump, |(exit, _)| Left::Direct(exit))
            }
            left::BUDGET => {
                self.stats.budgets += 1;
                let low = self.parts.head_called(low).unwrap_or(u32::MAX);
                if let Some(Some(b)) = self.blocks.get(low as usize) {
                    let origin = if b.relative { regs.get(CODE_BASE) } else { 0 };
                    regs.set(PC, origin.wrapping_add(b.pc));
                    done -= i64::from(b.instructions);
                }
                self.warm(cache, low, done.max(0).cast_unsigned());
                Left::Budget
            }
            left::INDIRECT => {
                self.stats.jumps += 1;
                Left::Jump
            }
            why => {
                let count = if why == left::OP { &mut self.stats.stopped } else { &mut self.stats.resumed };
                *count += 1;
                let left = self.leave_block(cache, low, why, rt.outcome, regs, env, &mut done);
                if why == left::RESUME {
                    self.failed(cache, low);
                }
                left
            }
        };
        (why, done.max(0).cast_unsigned())
    }

    /// A block was left in its middle: what is left of it, and what was counted too much.
    #[expect(clippy::too_many_arguments, reason = "all of a stay in emitted code")]
    fn leave_block<E: Host>(
        &self,
        cache: &Cache,
        site: u32,
        why: u64,
        outcome: Option<Outcome>,
        regs: &mut Regs,
        env: &mut E,
        done: &mut i64,
    ) -> Left {
        let Some(site) = self.parts.site(site) else { return Left::Jump };
        let Some(block) = cache.at(site.block).and_then(|id| cache.block(id)) else { return Left::Jump };
        let out = match (why, outcome) {
            (left::OP, Some(out)) => out,
            _ => {
                if site.temp() != NONE {
                    let held = regs.get(TEMP);
                    regs.set(site.temp(), held);
                }
                t0::resume(block, usize::from(site.op), regs, env)
            }
        };
        if !on(Mutant::Middle) {
            *done += i64::from(out.instructions) - block.points.len() as i64;
        }
        Left::Outcome(out)
    }
}
