//! Dirty tracking of an engine's process, tortured: a guest and a foreign writer write all the time, rounds of harvests copy what
//! they find, and in the end the copy is RAM, every page of it. The guest is a kernel that writes to memory, or programs of two vCPUs
//! whose stores go to so many pages that the engine remembers runs of them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bare::Islet;
use bare::solo::{RAM, World};
use guest::bare::{DIRTY, DIRTY_AT, DIRTY_COUNTER, DIRTY_PORT, RESTLESS, RESTLESS_COUNTERS};
use guest_memory::mutants::{Mutant, plant};
use guest_memory::{DirtyLog, PAGE_SIZE, Ram, VcpuState};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Pages that the foreign writer has for itself.
const FOREIGN: Range<u64> = 0x40_0000..0x48_0000;
/// Those of them that it takes its time for, so that nothing else marks them.
const SLOW: Range<u64> = 0x44_0000..0x48_0000;
/// A port of the serial port, which has no process here.
const NOBODY: u32 = 0x3f8;
/// For something to happen that must.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine whose guest writes to memory, and what watches it.
struct Rig {
    engine: Islet,
    ram: Ram,
    log: DirtyLog,
    copy: Vec<u8>,
    /// Pages copied.
    pages: u64,
    world: World,
    /// Where the guest counts.
    counters: &'static [u64],
}

impl Rig {
    /// With `program` as its guest, running.
    fn new(program: &[u8]) -> Result<Rig> {
        Rig::of(program, &[DIRTY_COUNTER])
    }

    /// With a vCPU for each of the `counters` of `program`.
    fn of(program: &[u8], counters: &'static [u64]) -> Result<Rig> {
        let world = World::of(counters.len() as u16)?;
        let (ram, log) = (world.ram()?, world.dirty()?);
        let engine = world.running(program, DIRTY_AT as u32)?;
        Ok(Rig { engine, ram, log, copy: vec![0; RAM as usize], pages: 0, world, counters })
    }

    /// A round by the engine, or one that this process makes by itself.
    fn round(&mut self, by_engine: bool) -> Result<()> {
        if by_engine {
            self.engine.harvest(false)?;
        } else {
            let end = Instant::now() + PATIENCE;
            let wait = || {
                std::thread::yield_now();
                Instant::now() < end
            };
            self.log.harvest(|| (), wait)?;
        }
        self.copy_harvested()
    }

    fn copy_harvested(&mut self) -> Result<()> {
        for (first, bits) in self.log.harvested() {
            for page in (0..64).filter(|n| bits >> n & 1 != 0) {
                let at = first + page * PAGE_SIZE;
                let to = &mut self.copy[at as usize..][..PAGE_SIZE as usize];
                self.ram.read(at, to).context("outside of RAM")?;
                self.pages += 1;
            }
            self.log.copied(first, bits);
        }
        Ok(())
    }

    /// Stop the guest, make the last round, and answer the pages that are not in the copy. `except` is who still writes.
    fn finish(&mut self, except: &Range<u64>) -> Result<Vec<u64>> {
        self.engine.must(|mut m| m.set_pause(()))?;
        self.round(true)?;
        let mut page = [0; PAGE_SIZE as usize];
        let mut lost = Vec::new();
        for at in (0..RAM).step_by(PAGE_SIZE as usize).filter(|at| !except.contains(at)) {
            self.ram.read(at, &mut page).context("outside of RAM")?;
            if self.copy[at as usize..][..page.len()] != page {
                lost.push(at);
            }
        }
        Ok(lost)
    }

    /// The count of the vCPU that has come least far.
    fn count(&self) -> u32 {
        self.counters.iter().map(|at| self.ram.load_u32(*at).unwrap_or(0)).min().unwrap_or(0)
    }

    /// When each vCPU's stores go to pages of a mirror.
    fn until_mirrored(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let counters = self.engine.counters()?;
            let least = |name: &str| (0..self.counters.len()).map(|n| counters[&format!("{name} {n}")]).min();
            let (hot, mirrored) = (least("code-hot"), least("pages-mirrored"));
            if hot > Some(0) && mirrored >= Some(128) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{hot:?} hot blocks, {mirrored:?} pages in a mirror");
            std::thread::yield_now();
        }
    }

    fn until(&self, what: &str, done: impl Fn(&Rig) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            ensure!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn state(&self) -> Option<VcpuState> {
        Some(self.log.vcpu(0)?.line.state())
    }
}

/// A writer with mappings of its own, which knows the log alone. Now and then a write takes it two rounds.
fn foreign(world: &World, stop: &Arc<AtomicBool>, mutant: Option<Mutant>) -> Result<JoinHandle<Option<()>>> {
    let (ram, log, stop) = (world.ram()?, world.dirty()?, stop.clone());
    Ok(std::thread::spawn(move || {
        plant(mutant);
        let mut rng = SmallRng::seed_from_u64(7);
        for n in 1u64.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            let slow = n.is_multiple_of(64);
            let at = rng.random_range(if slow { SLOW } else { FOREIGN.start..SLOW.start }) & !7;
            let number = log.vcpu(0)?.harvest;
            let begun = number.load(Ordering::Acquire);
            let (written, code) = log.write(at, 8, || {
                while slow && number.load(Ordering::Acquire) < begun + 2 && !stop.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                ram.store_u64(at, n)
            });
            written?;
            // There is no code in those pages.
            (!code).then_some(())?;
        }
        Some(())
    }))
}

/// Who has a bug.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    Nowhere,
    Writer(Mutant),
    Harvester(Mutant),
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guest {
    Kernel,
    Programs,
}

/// Many rounds, and stops in between; answers the pages that were lost.
fn torture(guest: Guest, rounds: u32, bug: Bug) -> Result<Vec<u64>> {
    let mut rig = match guest {
        Guest::Kernel => Rig::new(DIRTY)?,
        Guest::Programs => Rig::of(RESTLESS, &RESTLESS_COUNTERS)?,
    };
    rig.until("the guest does not begin", |r| r.count() > 0)?;
    if guest == Guest::Programs {
        rig.until_mirrored()?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let in_writer = if let Bug::Writer(mutant) = bug { Some(mutant) } else { None };
    let writer = foreign(&rig.world, &stop, in_writer)?;
    let in_harvester = if let Bug::Harvester(mutant) = bug { Some(mutant) } else { None };
    plant(in_harvester);
    rig.engine.harvest(true)?;
    for n in 0..rounds {
        let begun = Instant::now();
        rig.round(n % 3 != 0 && in_harvester.is_none())?;
        if n % 8 == 7 {
            // Right behind a round, so that what it has lost has not been written again.
            let lost = rig.finish(&FOREIGN)?;
            if !lost.is_empty() {
                stop.store(true, Ordering::Release);
                eprintln!("{} pages were lost after {n} rounds", lost.len());
                return Ok(lost);
            }
            rig.engine.must(|mut m| m.set_run(()))?;
        } else {
            std::thread::sleep(Duration::from_millis(1).saturating_sub(begun.elapsed()));
        }
        if n % 64 == 0 {
            let at = rig.count();
            rig.until("the guest stands still", |r| r.count() > at)?;
        }
    }
    stop.store(true, Ordering::Release);
    writer.join().ok().flatten().context("the foreign writer failed")?;
    let lost = rig.finish(&(0..0))?;
    ensure!(rig.pages > RAM / PAGE_SIZE + u64::from(rounds), "{} pages in {rounds} rounds", rig.pages);
    rig.engine.must(|m| m.init_engine().set_dirty_stop(()))?;
    Ok(lost)
}

/// As many as take some minutes, or some seconds; two vCPUs leave the others less of a small machine.
fn rounds(guest: Guest) -> u32 {
    match (std::env::var_os("ATOLL_LONG").is_some(), guest) {
        (true, Guest::Kernel) => 120_000,
        (true, Guest::Programs) => 20_000,
        (false, Guest::Kernel) => 400,
        (false, Guest::Programs) => 200,
    }
}

#[test]
fn no_page_that_is_written_is_lost() -> Result<()> {
    let lost = torture(Guest::Kernel, rounds(Guest::Kernel), Bug::Nowhere)?;
    ensure!(lost.is_empty(), "{lost:x?} are not in the copy");
    Ok(())
}

#[test]
fn no_page_is_lost_that_programs_of_two_vcpus_write_by_a_mirror() -> Result<()> {
    let lost = torture(Guest::Programs, rounds(Guest::Programs), Bug::Nowhere)?;
    ensure!(lost.is_empty(), "{lost:x?} are not in the copy");
    Ok(())
}

#[test]
fn a_writer_that_marks_only_before_it_writes_is_noticed() -> Result<()> {
    ensure!(!torture(Guest::Kernel, 400, Bug::Writer(Mutant::MarkFirst))?.is_empty(), "the torture is too weak");
    Ok(())
}

#[test]
fn a_harvester_that_does_not_wait_or_collects_late_is_noticed() -> Result<()> {
    for guest in [Guest::Kernel, Guest::Programs] {
        for mutant in [Mutant::NoWait, Mutant::SwapAfterAck] {
            let lost = torture(guest, 4000, Bug::Harvester(mutant))?;
            ensure!(!lost.is_empty(), "the torture is too weak for {mutant:?}");
        }
    }
    Ok(())
}

#[test]
fn whoever_does_not_run_holds_no_harvest_up() -> Result<()> {
    let mut rig = Rig::new(DIRTY)?;
    rig.until("the guest does not begin", |r| r.count() > 0)?;
    rig.engine.harvest(true)?;
    for by_engine in [false, true] {
        rig.round(by_engine)?;
    }
    // A register access that nobody answers.
    rig.ram.store_u32(DIRTY_PORT, NOBODY).context("outside of RAM")?;
    rig.log.mark(DIRTY_PORT, 4);
    rig.until("the guest does not wait", |r| r.state() == Some(VcpuState::Blocked))?;
    for by_engine in [false, true] {
        rig.round(by_engine)?;
    }
    let lost = rig.finish(&(0..0))?;
    ensure!(lost.is_empty(), "{lost:x?} are not in the copy");
    ensure!(rig.state() == Some(VcpuState::Parked));

    // HLT, with interrupts off.
    let mut rig = Rig::new(&[0xfe, 0x06, 0x00, 0x05, 0xf4, 0xeb, 0xfd])?;
    rig.until("the guest does not halt", |r| r.count() == 1 && r.state() == Some(VcpuState::Parked))?;
    rig.engine.harvest(true)?;
    for by_engine in [false, true] {
        rig.round(by_engine)?;
    }
    ensure!(rig.finish(&(0..0))?.is_empty());
    Ok(())
}

#[test]
fn rounds_need_a_session_and_a_loaded_state_is_new_to_everybody() -> Result<()> {
    let mut rig = Rig::new(DIRTY)?;
    let why = rig.engine.refused(|m| m.init_engine().set_dirty_harvest(()))?;
    ensure!(why.starts_with("dirty.none: "), "{why}");
    rig.engine.harvest(true)?;
    rig.round(true)?;
    ensure!(rig.finish(&(0..0))?.is_empty());
    ensure!(!rig.log.is_marked(FOREIGN.start));
    let left = rig.engine.save()?;
    rig.engine.load(left)?;
    ensure!((0..RAM).step_by(PAGE_SIZE as usize).all(|at| rig.log.is_marked(at)));
    rig.engine.must(|m| m.init_engine().set_dirty_stop(()))?;
    let why = rig.engine.refused(|m| m.init_engine().set_dirty_harvest(()))?;
    ensure!(why.starts_with("dirty.none: "), "{why}");
    Ok(())
}
