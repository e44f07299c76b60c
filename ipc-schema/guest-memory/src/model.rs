//! The handshake under a model checker: loom runs every interleaving, and every stale value that the memory orders permit.
//!
//! The world is one page, whose content is a number, with one bit. Each model ends as a migration does: everybody has stopped,
//! one last round, and then the copy must be what the page is. A mutant that this passes would prove that it proves nothing,
//! so each is planted and must be found. (A thread of loom is a coroutine, so what is planted holds for all of them.)

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use super::{Atomic, Rounds, VcpuEnd, VcpuLine, VcpuState, collect, mark, write_then_mark};
use crate::mutants::{Mutant, on, plant};

/// A word of the protocol.
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn new(value: u64) -> Word {
        Word(AtomicU64::new(value))
    }
}

impl Atomic for Word {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
    fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, Ordering::AcqRel)
    }
    fn fetch_or(&self, bits: u64) -> u64 {
        self.0.fetch_or(bits, Ordering::AcqRel)
    }
    fn fetch_and(&self, bits: u64) -> u64 {
        self.0.fetch_and(bits, Ordering::AcqRel)
    }
    fn fetch_add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, Ordering::AcqRel)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// The page's bit.
const BIT: u64 = 1;

/// What is shared. The page itself is written and copied without any order.
struct World {
    d: Word,
    b: Word,
    harvest: Word,
    vcpus: Vec<VcpuLine<Word>>,
    page: AtomicU64,
}

impl World {
    /// As a session begins: everything is marked. One vCPU.
    fn new() -> Arc<World> {
        World::with_vcpus(1)
    }

    fn with_vcpus(n: usize) -> Arc<World> {
        let line = |_| VcpuLine { ack: Word::new(0), state: Word::new(VcpuState::Parked as u64) };
        Arc::new(World {
            d: Word::new(BIT),
            b: Word::new(0),
            harvest: Word::new(0),
            vcpus: (0..n).map(line).collect(),
            page: AtomicU64::new(0),
        })
    }

    fn vcpu(&self, n: usize) -> VcpuEnd<'_, Word> {
        VcpuEnd { harvest: &self.harvest, line: &self.vcpus[n] }
    }

    fn write(&self, value: u64) {
        self.page.store(value, Ordering::Relaxed);
    }

    /// A round, and the copy of what it found.
    fn round(&self, copy: &mut u64) {
        let mut take = || {
            if self.b.load() & BIT != 0 {
                *copy = self.page.load(Ordering::Relaxed);
                self.b.fetch_and(!BIT);
            }
        };
        let rounds = Rounds { harvest: &self.harvest, vcpus: &self.vcpus };
        let wait = || {
            thread::yield_now();
            true
        };
        let collect = || collect(&self.d, &self.b);
        if on(Mutant::CopyBeforeAck) {
            rounds.round(collect, take, wait).unwrap();
        } else {
            rounds.round(collect, || (), wait).unwrap();
            take();
        }
    }

    /// The last round, when nobody writes any more.
    fn finish(&self, mut copy: u64) {
        self.round(&mut copy);
        assert_eq!(copy, self.page.load(Ordering::Relaxed), "the page is not in the copy");
    }
}

/// A vCPU with a TLB of one page.
struct Vcpu<'a> {
    world: &'a World,
    n: usize,
    tag: bool,
    seen: u64,
}

impl<'a> Vcpu<'a> {
    fn new(world: &'a World, n: usize) -> Self {
        let mut vcpu = Vcpu { world, n, tag: false, seen: 0 };
        vcpu.enter();
        vcpu
    }

    fn enter(&mut self) {
        self.world.vcpu(self.n).enter();
        if !on(Mutant::NotReread) {
            self.safepoint();
        }
    }

    fn safepoint(&mut self) {
        let Vcpu { world, n, tag, seen } = self;
        world.vcpu(*n).safepoint(seen, || *tag = false);
    }

    /// The slow path's part before the store.
    fn fill(&mut self) {
        if on(Mutant::NotMarked) {
            self.tag = true;
        } else if on(Mutant::Sampled) {
            let sampled = self.world.d.load() & BIT != 0;
            self.safepoint();
            if !sampled {
                mark(&self.world.d, BIT);
            }
            self.tag = true;
        } else {
            mark(&self.world.d, BIT);
            self.tag = true;
        }
    }

    fn store(&mut self, value: u64) {
        if !self.tag {
            self.fill();
        }
        self.world.write(value);
    }

    fn leave(&self, to: VcpuState) {
        self.world.vcpu(self.n).leave(to);
    }
}

/// So many rounds while `work` is done by another thread, and one behind it.
fn beside(rounds: usize, work: impl FnOnce(&World) + Send + 'static) {
    let world = World::new();
    let theirs = world.clone();
    let thread = thread::spawn(move || work(&theirs));
    let mut copy = 0;
    for _ in 0..rounds {
        world.round(&mut copy);
    }
    thread.join().unwrap();
    world.finish(copy);
}

/// A vCPU stores, passes a safepoint, stores, and parks.
fn stores(world: &World) {
    let mut vcpu = Vcpu::new(world, 0);
    vcpu.store(1);
    vcpu.safepoint();
    vcpu.store(2);
    vcpu.leave(VcpuState::Parked);
}

fn running() {
    beside(1, stores);
}

/// So that the marks of one round are what the next one collects.
fn rounds() {
    beside(2, stores);
}

/// A vCPU that stores, waits for a device, and stores again before it comes to a safepoint by itself.
fn blocked() {
    beside(1, |world| {
        let mut vcpu = Vcpu::new(world, 0);
        vcpu.store(1);
        vcpu.leave(VcpuState::Blocked);
        vcpu.enter();
        vcpu.store(2);
        vcpu.leave(VcpuState::Parked);
    });
}

/// A device that writes twice.
fn device() {
    beside(1, |world| {
        for value in 1..=2 {
            write_then_mark(|| world.write(value), || mark(&world.d, BIT));
        }
    });
}

/// A vCPU and a device on two pages of one word of marks.
fn both() {
    const OTHER: u64 = 2;
    let world = World::new();
    let (theirs, its) = (world.clone(), world.clone());
    let other = Arc::new(AtomicU64::new(0));
    let written = other.clone();
    let thread = thread::spawn(move || {
        let mut vcpu = Vcpu::new(&theirs, 0);
        vcpu.store(1);
        vcpu.leave(VcpuState::Parked);
    });
    let device = thread::spawn(move || {
        write_then_mark(|| written.store(1, Ordering::Relaxed), || mark(&its.d, OTHER));
    });
    let (mut copy, mut second) = (0, 0);
    world.round(&mut copy);
    if world.b.load() & OTHER != 0 {
        second = other.load(Ordering::Relaxed);
        world.b.fetch_and(!OTHER);
    }
    thread.join().unwrap();
    device.join().unwrap();
    world.finish(copy);
    if world.b.load() & OTHER != 0 {
        second = other.load(Ordering::Relaxed);
    }
    assert_eq!(second, 1, "the page is not in the copy");
}

/// Two vCPUs that write to the same page, each with a tag of its own.
fn two() {
    let world = World::with_vcpus(2);
    let store = |n: usize| {
        let theirs = world.clone();
        thread::spawn(move || {
            let mut vcpu = Vcpu::new(&theirs, n);
            vcpu.store(1);
            vcpu.safepoint();
            vcpu.store(n as u64 + 2);
            vcpu.leave(VcpuState::Parked);
        })
    };
    let threads = [store(0), store(1)];
    let mut copy = 0;
    world.round(&mut copy);
    for thread in threads {
        thread.join().unwrap();
    }
    world.finish(copy);
}

/// Runs every interleaving of `model` (of those with at most `bound` preemptions, one more in a long run) in a thread of its
/// own, with this bug; what the checker says if it fails.
pub(crate) fn check(mutant: Option<Mutant>, bound: Option<usize>, model: fn()) -> Result<(), String> {
    let text = |e: Box<dyn Any + Send>| match e.downcast::<String>() {
        Ok(text) => *text,
        Err(e) => e.downcast_ref::<&str>().map_or_else(String::new, |t| (*t).to_owned()),
    };
    let run = move || {
        plant(mutant);
        let mut checker = loom::model::Builder::new();
        let more = usize::from(std::env::var_os("ATOLL_LONG").is_some());
        checker.preemption_bound = bound.map(|n| n + more);
        catch_unwind(AssertUnwindSafe(|| checker.check(model))).map_err(text)
    };
    std::thread::spawn(run).join().unwrap()
}

/// A test for each model, with its bound.
macro_rules! models {
    ($($test:ident $model:ident $bound:expr;)*) => {$(
        #[test]
        fn $test() {
            check(None, $bound, $model).unwrap();
        }
    )*};
}
pub(crate) use models;

models! {
    no_store_of_a_vcpu_is_lost running None;
    nor_while_it_waits_for_a_device blocked None;
    nor_over_many_rounds rounds Some(3);
    no_write_of_a_device_is_lost device None;
    nor_beside_a_vcpu both Some(3);
    no_store_of_two_vcpus_is_lost two Some(2);
}

macro_rules! mutants {
    ($($test:ident $mutant:ident $model:ident;)*) => {$(
        #[test]
        fn $test() {
            let found = check(Some(Mutant::$mutant), None, $model).unwrap_err();
            assert!(found.contains("the page is not in the copy"), "{found}");
        }
    )*};
}

mutants! {
    mutant_copy_before_the_ack_is_found CopyBeforeAck running;
    mutant_ack_without_dropping_tags_is_found KeptTags running;
    mutant_swap_after_the_ack_is_found SwapAfterAck running;
    mutant_no_wait_is_found NoWait running;
    mutant_device_marks_only_before_its_write_is_found MarkFirst device;
    mutant_tag_by_an_old_sample_is_found Sampled running;
    mutant_no_fence_on_return_is_found NoFence blocked;
    mutant_no_fence_in_a_round_is_found NoFenceInRound blocked;
    mutant_number_not_read_on_return_is_found NotReread blocked;
    mutant_tag_without_a_mark_is_found NotMarked running;
}
