//! Running emitted code: one vCPU's code memory, the links between its blocks, its jump cache, and the way in and out.
//!
//! The one idea: emitted code is only ever an acceleration of "look the next block up and interpret it". Whatever it does not
//! know — an exit that is not linked, a jump that the cache has not seen, an operation with consequences — it leaves, with
//! every guest word in memory, and says why.
#![expect(unsafe_code, reason = "calls emitted code, and gives it pointers to what it works on")]

mod jumps;
mod links;
mod look;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use code::{Cache, CodeMemory, Error, FastHash};
use ir::op::{NONE, Op, TIER_BUDGET, TIER_TAG};
use ir::t0::{self, Outcome, Step};
use ir::{Env, PC, Regs, flags};
use mem::tlb::Shape;

use crate::asm::Asm;
use crate::budget::Budget;
use crate::emit::{Emitter, Hot, Instead, Restless, Site};
use crate::features::Features;
use crate::layout::{
    BANK, BIAS, CODE_BASE, CONTEXT, DEFAULT_MXCSR, GLOBAL_CONTEXT, HOST_MXCSR, JUMPS, RETURNS, RUNTIME, TEMP, VECTORS,
};
use crate::memo::{Memo, Memos, Owner};
use crate::mutants::{Mutant, on};
use crate::returns::Returns;
use crate::stubs::{JUMP_LOG2, Outside, Stubs, left};
use jumps::{Jump, NO_JUMP};
use links::Across;
pub use look::{Kind, Placed};

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

/// A direct exit that may be linked, valid until code memory is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    number: u32,
    clears: u32,
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
    /// Hot blocks emitted.
    pub hot: u64,
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
    linkable: bool,
    /// Times that the budget ended at its head.
    heat: u8,
    hot: Option<Box<HotBlock>>,
}

/// What a hot block has beside.
#[derive(Clone, Debug)]
struct HotBlock {
    /// Times that the budget ended at its head since its memos were judged.
    ends: u64,
    /// Times since then that the first access of a group did not find it in one page, and the interpreter ran the rest.
    failures: u32,
    /// Its memos.
    memos: Range<usize>,
    /// Operations that go to another page too often for the memo of one.
    restless: Vec<Restless>,
}

impl HotBlock {
    /// The memo of an operation is not worth it; `wide` if it remembers a large page. Answers whether it has to be emitted otherwise.
    fn give_up(&mut self, op: u16, wide: bool) -> bool {
        let Some((_, instead)) = self.restless.iter_mut().find(|(own, _)| *own == op) else {
            self.restless.push((op, Instead::Run { short: 0, large: wide }));
            return true;
        };
        // A run takes a while to become as long as it can be.
        *instead = match *instead {
            Instead::Run { short, large } if short < SHORT => Instead::Run { short: short + 1, large },
            Instead::Run { large: true, .. } => Instead::Large,
            _ => Instead::Page,
        };
        !matches!(instead, Instead::Run { .. })
    }
}

/// What the function behind the stub for single operations works on.
pub(crate) struct Runtime<E> {
    env: *mut E,
    regs: *mut Regs,
    cache: *const Cache,
    sites: *const [Site],
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
    start: usize,
    cursor: usize,
    blocks: Vec<Option<HostBlock>>,
    jumps: Box<[Jump]>,
    budget: Arc<Budget>,
    /// Return addresses of the calls that leave blocks at their heads, ascending, and the blocks.
    heads: Vec<(u32, u32)>,
    /// What links to other pages lead over, by the exit's number.
    across: HashMap<u32, Across, FastHash>,
    returns: Returns,
    clears: u32,
    charged: u64,
    stats: Stats,
    /// How often the budget ends at the head of a block that is hot then.
    hot: u8,
    /// See [`T1::take_warmed`].
    warmed: Option<u32>,
    /// Ends of the budget since memos were looked at, and instructions that ran between them.
    ends: u64,
    ran: u64,
    /// What was placed since somebody asked, if anybody looks on.
    placed: Option<Vec<Placed>>,
}

impl std::fmt::Debug for T1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("T1").field("used", &self.cursor).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Bytes that a block's code may have at most.
const LARGEST: usize = 64 << 10;
/// Sites and direct exits that all blocks together have at most are one for as many bytes of code memory: they take 8 and 24 bytes
/// each, and some take 5 bytes of code.
const BYTES_PER_SITE: usize = 64;
/// Sites that a block has at most: lifted blocks have far fewer operations.
const SITES_OF_A_BLOCK: usize = 4096;
/// How often the budget ends at the head of a block that is hot. It ends after some ten thousand instructions.
const HOT: u8 = 2;
/// After how many ends of the budget memos are looked at.
const ENDS: u64 = 64;
/// How many of them must have been at the head of a block, so that the times that it ran can be told from them.
const JUDGED: u64 = 3;
/// One access of so many may miss its memo; with more of them it is better off without.
const RESTLESS: u64 = 10;
/// How often a run may be found too short before its access is looked up.
const SHORT: u8 = 3;
/// How often the accesses of a group may not be found in one page before each is on its own.
const FAILURES: u32 = 32;

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
    let (rt, regs, env, cache, sites, budget) = unsafe {
        let rt = &mut *rt;
        let (regs, env, cache, sites) = (&mut *rt.regs, &mut *rt.env, &*rt.cache, &*rt.sites);
        let budget = &*rt.budget;
        (rt, regs, env, cache, sites, budget)
    };
    rt.interpreted += 1;
    let out = left::OP << 32 | u64::from(site);
    let Some(site) = sites.get(site as usize) else { return out };
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

/// A memo of a run of pages does not have the address that is `distance` from its beginning; answers the addend, or 1 if there is none.
///
/// # Safety
/// As for [`operation`]; `memo` is one of the runtime's.
unsafe extern "sysv64" fn around<E: Host>(rt: *mut Runtime<E>, memo: *mut Memo, distance: u64, write: u32) -> u64 {
    // SAFETY: see above.
    let (env, memos) = unsafe { (&mut *(*rt).env, &mut *(*rt).memos) };
    // SAFETY: see above.
    let (va, last) = unsafe { memos.access(memo, distance) };
    let Some(run) = env.run_around(va, write != 0) else { return 1 };
    if last.wrapping_sub(run.start) >= run.len || last < va {
        return 1;
    }
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
        let memos = Memos::new(&mut memory);
        let outside = Outside {
            op: operation::<E> as *const () as u64,
            refill: refill::<E> as *const () as u64,
            run: around::<E> as *const () as u64,
            memos: memos.place(0),
            avx: features.avx2,
        };
        let stubs = Stubs::emit(&mut a, outside, Shape::default());
        if !memory.write(0, &a.buf) || memory.len() < 4 * LARGEST {
            return Err(Error::Kernel {
                what: "too small",
                len: memory.len(),
                source: std::io::ErrorKind::InvalidInput.into(),
            });
        }
        let start = a.here().next_multiple_of(64);
        Ok(T1 {
            memory,
            memos,
            outside,
            stubs,
            emitter: Emitter::new(stubs, features),
            start,
            cursor: start,
            blocks: Vec::new(),
            jumps: vec![NO_JUMP; 1 << JUMP_LOG2].into(),
            budget: Arc::default(),
            heads: Vec::new(),
            across: HashMap::default(),
            returns: Returns::new(),
            clears: 0,
            charged: 0,
            stats: Stats::default(),
            hot: HOT,
            warmed: None,
            ends: 0,
            ran: 0,
            placed: None,
        })
    }

    /// Have blocks be hot when the budget has ended at their heads so often; 0 if they are from the beginning. For tests.
    pub fn set_hot(&mut self, ends: u8) {
        self.hot = ends;
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

    /// Whether there is room for another block; if not, the cache is cleared and this with it.
    pub fn has_room(&self) -> bool {
        self.cursor + LARGEST <= self.memory.len()
            && self.emitter.sites.len() + self.emitter.exits.len() + SITES_OF_A_BLOCK
                <= (self.memory.len() / BYTES_PER_SITE).max(2 * SITES_OF_A_BLOCK)
    }

    /// Forget all code.
    pub fn clear(&mut self) {
        self.cursor = self.start;
        self.warmed = None;
        self.blocks.clear();
        self.across.clear();
        self.returns.clear();
        self.memos.clear();
        if let Some(placed) = &mut self.placed {
            placed.clear();
        }
        self.jumps.fill(NO_JUMP);
        self.emitter.sites.clear();
        self.emitter.exits.clear();
        self.heads.clear();
        self.clears = self.clears.wrapping_add(1);
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
            self.emitter.fit(self.stubs, tlb.shape());
            self.clear();
        }
    }

    /// Forget the code of blocks that have left the cache.
    pub fn remove(&mut self, gone: &[u32]) {
        self.returns.forget();
        for &n in gone {
            let Some(b) = self.blocks.get_mut(n as usize).and_then(Option::take) else { continue };
            for (hole, unlinked) in if on(Mutant::Linked) { Vec::new() } else { b.incoming } {
                Self::patch(&mut self.memory, hole, unlinked);
            }
            let code = self.memory.exec() as u64 + b.head as u64;
            self.forget_jumps(&b.remembered, code);
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
        let hot = (hot || self.hot == 0).then(Vec::new);
        let Some(block) = self.emit(cache, n, user, hot, origin) else { return false };
        let n = n as usize;
        if self.blocks.len() <= n {
            self.blocks.resize(n + 1, None);
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

    /// Emit block `n`, if it is hot with these restless operations.
    fn emit(
        &mut self,
        cache: &Cache,
        n: u32,
        user: bool,
        restless: Option<Vec<Restless>>,
        origin: u64,
    ) -> Option<HostBlock> {
        let id = cache.at(n)?;
        let (block, (at, second)) = (cache.block(id)?, cache.bytes(id)?);
        let (sites, exits) = (self.emitter.sites.len(), self.emitter.exits.len());
        let (base, first) = (self.cursor, self.memos.next());
        let memos = (user && self.memos.has_room(block.insts.len())).then(|| self.memos.place(first));
        let is_hot = restless.is_some();
        let hot = restless.as_ref().map(|restless| Box::new(Hot { memos, restless: restless.clone() }));
        let e = self.emitter.emit(block, n, base, hot);
        let len = self.emitter.a.buf.len();
        if len > LARGEST || !self.memory.write(base, &self.emitter.a.buf) {
            self.emitter.sites.truncate(sites);
            self.emitter.exits.truncate(exits);
            return None;
        }
        self.heads.push((e.spent as u32, n));
        for (op, last) in &self.emitter.memos {
            self.memos.add(Owner { block: n, op: *op }, *last);
        }
        self.cursor += len.next_multiple_of(16);
        self.stats.hot += u64::from(is_hot);
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
        let memos = first..self.memos.next();
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
            linkable: second.is_none(),
            heat: 0,
            hot: restless.map(|restless| Box::new(HotBlock { ends: 0, failures: 0, memos, restless })),
        })
    }

    /// The budget has ended at the head of block `n` after `ran` instructions: it may be hot.
    fn warm(&mut self, cache: &Cache, n: u32, ran: u64) {
        (self.ends, self.ran) = (self.ends + 1, self.ran + ran);
        if self.ends >= ENDS {
            self.calm(cache);
        }
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        b.heat = b.heat.saturating_add(1);
        if let Some(hot) = &mut b.hot {
            hot.ends += 1;
        }
        self.warmed = (b.heat >= self.hot && b.hot.is_none()).then_some(n);
    }

    /// Accesses that go from page to page are better off without memos.
    fn calm(&mut self, cache: &Cache) {
        let portion = self.ran / self.ends.max(1);
        (self.ends, self.ran) = (0, 0);
        let (mut restless, mut judged): (Vec<(u32, u16, bool)>, Vec<u32>) = Default::default();
        let blocks = &self.blocks;
        self.memos.judge(|Owner { block, op }, memo, refills, wide| {
            // A block of before may have had the number.
            let Some(b) = blocks.get(block as usize).and_then(Option::as_ref) else { return true };
            let Some(hot) = b.hot.as_ref().filter(|hot| hot.memos.contains(&memo)) else { return true };
            if hot.ends < JUDGED {
                return false;
            }
            judged.push(block);
            let runs = hot.ends * portion / u64::from(b.instructions.max(1));
            if u64::from(refills) * RESTLESS > runs {
                restless.push((block, op, wide));
            }
            true
        });
        for n in judged {
            if let Some(hot) = self.hot_block(n) {
                (hot.ends, hot.failures) = (0, 0);
            }
        }
        restless.sort_unstable();
        for list in restless.chunk_by(|a, b| a.0 == b.0) {
            let block = list[0].0;
            let Some(hot) = self.hot_block(block) else { continue };
            let changes = list.iter().filter(|(_, op, wide)| hot.give_up(*op, *wide)).count();
            if changes > 0 {
                self.emit_again(cache, block);
            }
        }
    }

    fn hot_block(&mut self, n: u32) -> Option<&mut HotBlock> {
        self.blocks.get_mut(n as usize)?.as_mut()?.hot.as_deref_mut()
    }

    /// The block of this site was left because an access could not be made sure of, or for another reason.
    fn failed(&mut self, cache: &Cache, site: u32) {
        let Some(site) = self.emitter.sites.get(site as usize) else { return };
        let Some(Some(HostBlock { hot: Some(hot), .. })) = self.blocks.get_mut(site.block as usize) else { return };
        let owner = Owner { block: site.block, op: site.op };
        if !hot.memos.clone().any(|n| self.memos.owner(n) == Some(owner)) {
            return;
        }
        hot.failures += 1;
        if hot.failures > FAILURES {
            hot.failures = 0;
            if hot.give_up(owner.op, false) {
                self.emit_again(cache, owner.block);
            }
        }
    }

    /// Emit a hot block of user mode once more; whatever led to its code leads to the new one. The old code is not run again.
    fn emit_again(&mut self, cache: &Cache, n: u32) {
        if !self.has_room() {
            return;
        }
        let Some(Some(HostBlock { hot: Some(hot), origin, .. })) = self.blocks.get(n as usize) else { return };
        let (restless, origin) = (hot.restless.clone(), *origin);
        let Some(mut new) = self.emit(cache, n, true, Some(restless), origin) else { return };
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        new.incoming = std::mem::take(&mut b.incoming);
        for (hole, _) in &new.incoming {
            Self::patch(&mut self.memory, *hole, new.head);
        }
        let (old, code) = (self.memory.exec() as u64 + b.head as u64, self.memory.exec() as u64 + new.head as u64);
        new.remembered = std::mem::take(&mut b.remembered);
        *b = new;
        self.redirect_jumps(n, old, code);
        self.returns.forget();
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
            sites: &raw const *self.emitter.sites,
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
                let number = self.exit_called(low);
                if let Some(e) = self.emitter.exits.get(number) {
                    let origin = if e.relative { regs.get(CODE_BASE) } else { 0 };
                    regs.set(PC, origin.wrapping_add(e.pc));
                }
                Left::Direct(Exit { number: number as u32, clears: self.clears })
            }
            left::BUDGET => {
                self.stats.budgets += 1;
                let low = self.head_called(low);
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
        let Some(site) = self.emitter.sites.get(site as usize) else { return Left::Jump };
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
