//! How stale code goes, under the model checker of the harvest (`model.rs`).
//!
//! The world is one page, whose content is a number of each writer, a vCPU that runs a block made from it, the engine's thread, and
//! writers. A writer makes its number larger and tells the guest when it is done: what the vCPU runs is never older than what it was
//! told before. The vCPU and its order are toys here; `engine/src/orders.rs` checks the real ones. Whoever waits sleeps, so that one who is
//! never woken is found too.

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Tickets, note, take, write_then_look};
use crate::harvest::Atomic;
use crate::harvest::model::{Word, check, models};
use crate::mutants::{Mutant, on};

/// The page's bit.
const BIT: u64 = 1;

/// An eventfd, or a futex.
struct Bell {
    rings: Mutex<u64>,
    rang: Condvar,
}

impl Bell {
    fn new(rings: u64) -> Bell {
        Bell { rings: Mutex::new(rings), rang: Condvar::new() }
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.rang.notify_all();
    }

    fn rings(&self) -> u64 {
        *self.rings.lock().unwrap()
    }

    /// Sleep until there are other than `seen` rings; how many.
    fn wait(&self, seen: u64) -> u64 {
        let mut rings = self.rings.lock().unwrap();
        while *rings == seen {
            rings = self.rang.wait(rings).unwrap();
        }
        *rings
    }
}

/// The vCPU's box.
#[derive(Default)]
struct Mail {
    ordered: bool,
    quiet: bool,
}

struct World {
    /// The page, written and read without any order.
    page: [AtomicU64; 2],
    /// What the guest was told.
    told: [Word; 2],
    code: Word,
    stale: Word,
    asked: Word,
    dropped: Word,
    /// Of the engine, and of those who wait for it.
    bell: Bell,
    answer: Bell,
    /// Writers that are not done.
    writers: Word,
    /// The engine's table of pages with code: the vCPU has claimed the page.
    claimed: Mutex<bool>,
    mail: Mutex<Mail>,
    mailed: Condvar,
}

impl World {
    /// The engine is rung once without reason.
    fn new(writers: u64) -> Arc<World> {
        Arc::new(World {
            page: [AtomicU64::new(0), AtomicU64::new(0)],
            told: [Word::new(0), Word::new(0)],
            code: Word::new(0),
            stale: Word::new(0),
            asked: Word::new(0),
            dropped: Word::new(0),
            bell: Bell::new(1),
            answer: Bell::new(0),
            writers: Word::new(writers),
            claimed: Mutex::new(false),
            mail: Mutex::default(),
            mailed: Condvar::new(),
        })
    }

    fn read(&self) -> [u64; 2] {
        self.page.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    fn tickets(&self) -> Tickets<'_, Word> {
        Tickets { asked: &self.asked, dropped: &self.dropped }
    }

    /// Device `me` writes `value`, and then tells the guest.
    fn device(&self, me: usize, value: u64) {
        let ring = || self.bell.ring();
        let mut seen = self.answer.rings();
        let wait = || {
            seen = self.answer.wait(seen);
            true
        };
        let write = || self.page[me].store(value, Ordering::Relaxed);
        if on(Mutant::TicketBeforeBits) {
            write();
            Word::fence();
            let late = || {
                let _ = note(&self.code, &self.stale, BIT);
                ring();
            };
            self.tickets().ask(late, wait).unwrap();
        } else {
            let ((), stale) = write_then_look::<Word, _>(write, || note(&self.code, &self.stale, BIT));
            if stale {
                self.tickets().ask(ring, wait).unwrap();
            }
        }
        self.told[me].store(value);
        self.writers.fetch_add(u64::MAX);
        self.bell.ring();
    }

    /// The engine's thread, until there are no writers.
    fn engine(&self) {
        let mut rings = 0;
        loop {
            rings = self.bell.wait(rings);
            // The last writer rings when there is none.
            if self.writers.load() == 0 {
                return;
            }
            self.tickets().serve(|| {
                if take(&self.stale) & BIT != 0 && *self.claimed.lock().unwrap() {
                    self.order();
                }
            });
            self.answer.ring();
        }
    }

    /// Have the vCPU drop its block, and wait until it has, or is quiet.
    fn order(&self) {
        let mut mail = self.mail.lock().unwrap();
        mail.ordered = true;
        while mail.ordered && !mail.quiet {
            mail = self.mailed.wait(mail).unwrap();
        }
    }
}

/// A vCPU with at most one block.
struct Vcpu<'a> {
    world: &'a World,
    block: Option<[u64; 2]>,
}

impl Vcpu<'_> {
    /// Follow what was ordered.
    fn take_orders(&mut self) {
        let mut mail = self.world.mail.lock().unwrap();
        if std::mem::take(&mut mail.ordered) {
            self.block = None;
            let mut claimed = self.world.claimed.lock().unwrap();
            *claimed = false;
            self.world.code.fetch_and(!BIT);
            self.world.mailed.notify_one();
        }
    }

    fn quiet(&self, quiet: bool) {
        self.world.mail.lock().unwrap().quiet = quiet;
        self.world.mailed.notify_one();
    }

    fn lift(&self) -> [u64; 2] {
        let world = self.world;
        loop {
            {
                let mut claimed = world.claimed.lock().unwrap();
                if !std::mem::replace(&mut *claimed, true) {
                    world.code.fetch_or(BIT);
                }
            }
            let value = world.read();
            {
                // The lines of the block are noted.
                let _claimed = world.claimed.lock().unwrap();
                if !on(Mutant::NoFenceInLift) {
                    Word::fence();
                }
            }
            if on(Mutant::NotCompared) || world.read() == value {
                return value;
            }
        }
    }

    /// A guest that reads what it was told and then runs the code.
    fn run(&mut self) {
        let told = self.world.told.each_ref().map(Word::load);
        let value = match self.block {
            Some(value) => value,
            None => self.lift(),
        };
        self.block = Some(value);
        assert!(value.iter().zip(&told).all(|(value, told)| value >= told), "old code runs");
    }
}

/// A vCPU that runs the code, follows orders, and runs it again.
fn runs(world: &World) {
    let mut vcpu = Vcpu { world, block: None };
    vcpu.run();
    vcpu.take_orders();
    vcpu.run();
    vcpu.quiet(true);
}

/// One that halts in between.
fn halts(world: &World) {
    let mut vcpu = Vcpu { world, block: None };
    vcpu.run();
    vcpu.quiet(true);
    vcpu.quiet(false);
    vcpu.take_orders();
    vcpu.run();
    vcpu.quiet(true);
}

/// One that has its block from before.
fn called(world: &World) {
    let mut vcpu = Vcpu { world, block: Some([0; 2]) };
    vcpu.take_orders();
    vcpu.run();
    vcpu.quiet(true);
}

/// `vcpu` and the engine beside `writers`.
fn beside<const N: usize>(vcpu: fn(&World), writers: [fn(&World); N]) {
    within(&World::new(N as u64), vcpu, writers);
}

fn within<const N: usize>(world: &Arc<World>, vcpu: fn(&World), writers: [fn(&World); N]) {
    let spawn = |work: fn(&World)| {
        let world = world.clone();
        thread::spawn(move || work(&world))
    };
    let threads = [spawn(vcpu)].into_iter().chain(writers.map(spawn)).collect::<Vec<_>>();
    world.engine();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn one() {
    beside(runs, [|world| world.device(0, 1)]);
}

fn halted() {
    beside(halts, [|world| world.device(0, 1)]);
}

/// A writer whose second request needs a ticket of its own.
fn twice() {
    let writes = |world: &World| {
        world.writers.fetch_add(1);
        world.device(0, 1);
        world.device(0, 2);
    };
    beside(runs, [writes]);
}

/// Two writers, whose bit is the same.
fn two() {
    let world = World::new(2);
    *world.claimed.lock().unwrap() = true;
    world.code.fetch_or(BIT);
    within(&world, called, [|world| world.device(0, 1), |world| world.device(1, 1)]);
}

/// Two writers, of which one dies when it has noted the page, and its successor writes again.
fn dies() {
    let dies = |world: &World| {
        let write = || world.page[0].store(1, Ordering::Relaxed);
        let _ = write_then_look::<Word, _>(write, || note(&world.code, &world.stale, BIT));
        world.device(0, 1);
    };
    beside(runs, [dies]);
}

models! {
    no_vcpu_runs_what_a_device_has_replaced one Some(3);
    nor_one_that_was_halted halted Some(2);
    nor_what_is_replaced_again twice Some(2);
    nor_what_two_devices_replace two Some(1);
    nor_what_a_writer_left_that_died dies Some(2);
}

macro_rules! mutants {
    ($($test:ident $mutant:ident;)*) => {$(
        #[test]
        fn $test() {
            let found = check(Some(Mutant::$mutant), Some(3), one).unwrap_err();
            assert!(found.contains("old code runs"), "{found}");
        }
    )*};
}

mutants! {
    mutant_looking_for_code_before_the_write_is_found LookFirst;
    mutant_no_fence_behind_the_write_is_found NoFenceInWrite;
    mutant_no_fence_in_lifting_is_found NoFenceInLift;
    mutant_not_asking_is_found NotAsked;
    mutant_not_waiting_for_the_engine_is_found NotAwaited;
    mutant_ticket_before_the_stale_bits_is_found TicketBeforeBits;
    mutant_stale_bits_before_the_ticket_is_found TicketAfterBits;
    mutant_saying_so_before_the_blocks_are_dropped_is_found SaidFirst;
    mutant_bytes_not_compared_again_is_found NotCompared;
}
