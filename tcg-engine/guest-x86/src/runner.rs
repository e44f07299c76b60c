//! A run loop over one vCPU: looks blocks up, lifts what is missing, interprets, delivers exceptions.
//!
//! It returns to its caller for everything that concerns more than this vCPU: interrupts, halts, shutdown, a stop request. The
//! caller decides about interrupts between two calls, so a call runs at most as many blocks as it is told to.

mod check;
mod counters;
mod plans;
mod watch;

pub use check::Check;
use code::{Cache, CodeMemory, EPOCHS, Found, Id, Key};
pub use counters::COUNTERS;
use emit_x64::{Left, T1};
use ir::t0::{self, Exit};
use ir::{PC, Regs, Stop};
#[cfg(test)]
pub(crate) use plans::Ask;
use plans::Plans;
pub use plans::{Asker, Planner, planner};
pub use watch::Watch;

use crate::bus::Bus;
use crate::cpu::{Cpu, event};
use crate::deliver::Delivered;
use crate::lift::{HOT_INSTRUCTIONS, MAX_INSTRUCTIONS};
use crate::mode::Mode;
use crate::state::{CODE_BASE, Shadow};

/// A vCPU with its words and blocks.
#[derive(Debug)]
pub struct Runner<B: Bus> {
    /// Guest words.
    pub regs: Box<Words>,
    /// Everything else of the vCPU.
    pub cpu: Cpu<B>,
    /// Its blocks.
    pub cache: Cache,
    /// Guest instructions completed.
    pub instructions: u64,
    /// Emitted code; without it everything is interpreted.
    pub t1: Option<T1>,
    /// Compares emitted code with the interpreter, block by block.
    pub check: Option<check::Check>,
    /// Loops that plans were asked for, if anybody makes them.
    plans: Option<Plans>,
    /// Whoever looks on while blocks are translated; see [`Runner::watch`].
    watcher: Option<Box<dyn Watch>>,
    /// Blocks interpreted.
    interpreted: u64,
    /// Nanoseconds spent lifting and emitting, and of these on having the oldest blocks go.
    translation_ns: u64,
    reclaim_ns: u64,
    /// Blocks lifted, blocks emitted and exceptions delivered since they were last charged.
    translated: i64,
    /// Times that a block was looked up outside of emitted code.
    lookups: u64,
    /// The block that was just lifted because it is hot.
    hot: Option<u32>,
}

/// Guest instructions that emitted code may run for each block of [`Runner::run`]'s budget.
const INSTRUCTIONS_PER_BLOCK: u32 = 512;

/// How the last block led to the one that is looked up now.
#[derive(Clone, Copy)]
enum From {
    /// It does not matter.
    Anywhere,
    /// By this exit.
    Exit(emit_x64::Exit),
    /// By a jump that should be remembered.
    Jump,
}

/// [`Regs`] with a name in debug output.
#[derive(Clone, Default)]
pub struct Words(pub Regs);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("pc", &self.0.get(PC)).finish_non_exhaustive()
    }
}

/// Why [`Runner::run`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It ran as many blocks as it was told to.
    Budget,
    /// HLT.
    Halt,
    /// PAUSE.
    Pause,
    /// The bus asked to look ([`ir::Then::FinishInstruction`]), or an instruction is to be run again ([`ir::Stop::Restart`]).
    Look,
    /// Triple fault.
    Shutdown,
}

/// Begin the next epoch of the cache, and the next part of code memory with it: the oldest blocks go. Answers how many nanoseconds this
/// took.
#[cold]
fn begin_part<B: Bus>(cpu: &mut Cpu<B>, cache: &mut Cache, t1: Option<&mut T1>) -> u64 {
    let start = std::time::Instant::now();
    cpu.begin_epoch(cache, t1.as_ref().map_or(EPOCHS, |t1| t1.parts()));
    let gone = cache.take_gone();
    if let Some(t1) = t1 {
        t1.begin_part(&gone);
    }
    start.elapsed().as_nanos() as u64
}

impl<B: Bus> Runner<B> {
    /// A vCPU after a reset.
    pub fn new(mut cpu: Cpu<B>) -> Self {
        let mut regs = Box::new(Words::default());
        cpu.reset(&mut regs.0);
        Runner {
            regs,
            cpu,
            cache: Cache::default(),
            instructions: 0,
            t1: None,
            check: None,
            plans: None,
            watcher: None,
            interpreted: 0,
            translation_ns: 0,
            reclaim_ns: 0,
            translated: 0,
            lookups: 0,
            hot: None,
        }
    }

    /// Run by emitted code from now on, which goes to `memory`.
    ///
    /// # Errors
    /// The memory is too small.
    pub fn use_t1(&mut self, memory: CodeMemory) -> Result<(), code::Error> {
        self.t1 = Some(T1::new::<Cpu<B>>(memory)?);
        Ok(())
    }

    /// Forget every block.
    pub fn forget_code(&mut self) {
        self.cpu.forget_blocks(&mut self.cache);
        if let Some(t1) = &mut self.t1 {
            t1.clear();
        }
    }

    /// Take the place of `before`, which ends: run by its emitted code, with its memory, watched and planned for as it was. All
    /// that was translated is forgotten.
    pub fn succeed(&mut self, before: &mut Self) {
        before.forget_code();
        // Mappings were made before lock-down, and no others can be.
        (self.t1, self.check) = (before.t1.take(), before.check.take());
        std::mem::swap(&mut self.cache, &mut before.cache);
        // Code is emitted for a TLB of this size.
        std::mem::swap(&mut self.cpu.tlb, &mut before.cpu.tlb);
        self.cpu.tlb.flush_all();
        self.cpu.refresh(&mut self.regs.0);
        self.cpu.mirror = before.cpu.mirror.take();
        self.cpu.mirror.iter_mut().for_each(mem::Mirror::begin);
        (self.plans, self.watcher) = (before.plans.take(), before.watcher.take());
        self.instructions = before.instructions;
    }

    /// Run at most `blocks` blocks.
    pub fn run(&mut self, blocks: u32) -> Why {
        self.exchange_plans();
        let mut budget = if blocks > 1 { i64::from(blocks) * i64::from(INSTRUCTIONS_PER_BLOCK) } else { 1 };
        let mut from = From::Anywhere;
        while budget > 0 {
            if self.cpu.has_stale() {
                self.cpu.drop_stale(&mut self.cache);
            }
            self.drop_gone();
            let stepping = self.cpu.stepping(&self.regs.0);
            let shadow = self.cpu.sys.shadow;
            let one = stepping || shadow != Shadow::None;
            let before = std::mem::replace(&mut from, From::Anywhere);
            self.lookups += 1;
            let found = self.block(one).and_then(|id| self.warmed(id, one));
            // A walk may have waited for others, and have been told that this very block is stale.
            if found.is_ok() && self.cpu.has_stale() {
                continue;
            }
            let why = match found {
                Ok(id) if !one && self.emitted(id, before) => {
                    let left = budget.min(1 << 20) as u32;
                    let (next, spent, why) = self.execute_t1(id, if blocks > 1 { left } else { 0 });
                    budget -= spent.max(1).cast_signed();
                    from = next;
                    why
                }
                Ok(id) => {
                    budget -= i64::from(INSTRUCTIONS_PER_BLOCK);
                    self.execute(id, stepping, shadow)
                }
                Err(_) => {
                    budget -= i64::from(INSTRUCTIONS_PER_BLOCK);
                    self.fault()
                }
            };
            budget -= i64::from(INSTRUCTIONS_PER_BLOCK) * std::mem::take(&mut self.translated);
            if let Some(why) = why {
                return why;
            }
            if self.t1.is_some() && self.cpu.bus.asked() {
                return Why::Look;
            }
        }
        Why::Budget
    }

    /// Whether the block can be run by emitted code; emits it if it was not yet, and notes how it was reached.
    #[inline]
    fn emitted(&mut self, id: Id, from: From) -> bool {
        let Some(t1) = &mut self.t1 else { return false };
        // Outside of flat code limits are looked at before each block.
        if !self.cpu.mode().contains(Mode::FLAT) || self.cpu.mode().contains(Mode::V86) {
            return false;
        }
        let n = id.number();
        let hot = self.hot.take() == Some(n);
        if !t1.has(n) {
            let start = std::time::Instant::now();
            if !t1.has_room() {
                self.reclaim_ns += begin_part(&mut self.cpu, &mut self.cache, Some(t1));
            }
            // If it has just gone it is looked up again.
            let Some(block) = self.cache.block(id) else { return false };
            let origin = block.origin(&self.regs.0);
            if !t1.translate(&self.cache, n, self.cpu.mode().contains(Mode::USER), hot, origin) {
                return false;
            }
            self.translation_ns += start.elapsed().as_nanos() as u64;
            self.translated += 1;
        }
        match from {
            From::Anywhere => {}
            From::Exit(exit) => t1.link(&self.cpu, exit, n, self.cpu.linear_pc(&self.regs.0)),
            From::Jump => t1.remember(&self.cpu, n, self.regs.0.get(PC), self.cpu.linear_pc(&self.regs.0)),
        }
        if self.watcher.is_some() {
            self.show_placed();
        }
        true
    }

    /// The code of blocks that have left the cache goes, before their numbers are used again.
    #[inline]
    fn drop_gone(&mut self) {
        if self.cache.has_gone() {
            let gone = self.cache.take_gone();
            if let Some(t1) = &mut self.t1 {
                t1.remove(&gone);
            }
        }
    }

    fn execute_t1(&mut self, id: Id, budget: u32) -> (From, u64, Option<Why>) {
        if self.check.is_some() {
            return self.execute_checked(id);
        }
        let Some(t1) = &mut self.t1 else { return (From::Anywhere, 1, None) };
        let (left, done) = t1.run(&self.cache, id.number(), &mut self.regs.0, &mut self.cpu, budget);
        self.instructions += done;
        let spent = done + t1.charged();
        if let Some(mirror) = &mut self.cpu.mirror {
            mirror.earn(spent);
        }
        if self.cpu.tlb.is_small(spent) {
            self.cpu.tlb.grow();
            t1.fit(&self.cpu.tlb);
        }
        match left {
            Left::Direct(exit) => (From::Exit(exit), spent, None),
            Left::Jump => (From::Jump, spent, None),
            Left::Budget => (From::Anywhere, spent, None),
            Left::Outcome(out) => (From::Anywhere, spent, self.after(out.exit, false, Shadow::None)),
        }
    }

    fn fault(&mut self) -> Option<Why> {
        self.translated += 1;
        match self.cpu.deliver_pending(&mut self.regs.0) {
            Delivered::Done => None,
            Delivered::Shutdown => Some(Why::Shutdown),
        }
    }

    /// The block at the current program counter.
    #[inline]
    fn block(&mut self, one: bool) -> Result<Id, Stop> {
        let regs = &mut self.regs.0;
        let mut mode = self.cpu.mode();
        mode.set(Mode::ONE, one);
        regs.set(CODE_BASE, regs.get(PC) & !mem::PAGE_MASK);
        let (pc, linear, context) = (regs.get(PC), self.cpu.linear_pc(regs), self.cpu.tlb.context());
        match self.cache.jump(linear, mode.counted(pc), mode.bits(), context) {
            Found::Block(id) if self.enterable(pc, id) => return Ok(id),
            Found::Perhaps(id) if self.enterable(pc, id) && self.still_there(linear, id)? => {
                let context = self.cpu.tlb.context();
                self.cache.confirm(linear, context, id);
                return Ok(id);
            }
            _ => {}
        }
        self.find_or_lift(pc, linear, mode)
    }

    #[inline]
    fn enterable(&self, pc: u64, id: Id) -> bool {
        let len = self.cache.block(id).map_or(1, |b| b.end_pc.wrapping_sub(b.pc));
        self.cpu.may_enter(pc, len.max(1))
    }

    /// Whether the bytes of a block are still where they were.
    fn still_there(&mut self, linear: u64, id: Id) -> Result<bool, Stop> {
        let Some((at, second)) = self.cache.bytes(id) else { return Ok(false) };
        if self.cpu.code_at(linear)? != at {
            return Ok(false);
        }
        match second {
            None => Ok(true),
            Some(second) => Ok(self.cpu.code_at((linear | mem::PAGE_MASK).wrapping_add(1))? == second),
        }
    }

    #[cold]
    fn find_or_lift(&mut self, pc: u64, linear: u64, mode: Mode) -> Result<Id, Stop> {
        let at = self.cpu.code_at(linear)?;
        if let Some(id) = self.cache.find(&Key { at, pc: mode.counted(pc), mode: mode.bits() })
            && self.enterable(pc, id)
            && self.still_there(linear, id)?
        {
            let context = self.cpu.tlb.context();
            self.cache.confirm(linear, context, id);
            return Ok(id);
        }
        let far = self.t1.as_ref().is_some_and(T1::all_hot);
        let max = match far {
            _ if mode.contains(Mode::ONE) => 1,
            true => HOT_INSTRUCTIONS,
            false => MAX_INSTRUCTIONS,
        };
        self.lift(linear, max, far)
    }

    fn lift(&mut self, linear: u64, max: usize, far: bool) -> Result<Id, Stop> {
        let start = std::time::Instant::now();
        let epochs = self.t1.as_ref().map_or(EPOCHS, T1::parts);
        if self.cache.is_full(epochs) || self.t1.as_ref().is_some_and(|t1| !t1.has_room()) {
            self.reclaim_ns += begin_part(&mut self.cpu, &mut self.cache, self.t1.as_mut());
        }
        let lift = self.cpu.lift(&self.regs.0, max, far)?;
        self.translation_ns += start.elapsed().as_nanos() as u64;
        self.translated += 1;
        if self.watcher.is_some() {
            self.show_lifted(&lift);
        }
        let id = self.cache.insert(lift.key, lift.len, lift.second, lift.block);
        self.drop_gone();
        let context = self.cpu.tlb.context();
        self.cache.confirm(linear, context, id);
        Ok(id)
    }

    /// The block that is to run, lifted anew if it has turned out to be hot: it goes further then.
    #[inline]
    fn warmed(&mut self, id: Id, one: bool) -> Result<Id, Stop> {
        let warmed = self.t1.as_mut().and_then(T1::take_warmed);
        if one || warmed != Some(id.number()) {
            return Ok(id);
        }
        let linear = self.cpu.linear_pc(&self.regs.0);
        let id = self.lift(linear, HOT_INSTRUCTIONS, true)?;
        self.hot = Some(id.number());
        Ok(id)
    }

    #[inline]
    fn execute(&mut self, id: Id, stepping: bool, shadow: Shadow) -> Option<Why> {
        let block = self.cache.block(id)?;
        let out = t0::run(block, &mut self.regs.0, &mut self.cpu);
        self.instructions += u64::from(out.instructions);
        self.interpreted += 1;
        self.after(out.exit, stepping, shadow)
    }

    /// What follows a block that was left by `exit`.
    fn after(&mut self, exit: Exit, stepping: bool, shadow: Shadow) -> Option<Why> {
        let mut why = match exit {
            Exit::Direct(_) | Exit::Indirect | Exit::Stepped => None,
            Exit::Fault => return self.fault(),
            Exit::Restart => return Some(Why::Look),
            Exit::Event(event::HLT) => Some(Why::Halt),
            Exit::Event(event::PAUSE) => Some(Why::Pause),
            Exit::Event(_) => None,
        };
        // A shadow covers one instruction; the one that made it has just set it anew. Two in a row make no second one.
        if shadow != Shadow::None {
            self.cpu.sys.shadow = Shadow::None;
        }
        if stepping
            && self.cpu.sys.shadow != Shadow::MovSs
            && self.cpu.single_step_trap(&mut self.regs.0) == Delivered::Shutdown
        {
            why = Some(Why::Shutdown);
        }
        self.cpu.no_step = false;
        if std::mem::take(&mut self.cpu.look) {
            why = why.or(Some(Why::Look));
        }
        why
    }
}
