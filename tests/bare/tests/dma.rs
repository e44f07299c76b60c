//! A device writes to code that an engine's process runs: this process, with mappings of its own, rewrites a function that the guest
//! calls all the time, and says so to the guest when the engine has dropped the old one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bare::Islet;
use bare::solo::World;
use guest::bare::{
    DIRTY_AT, REWRITTEN, REWRITTEN_CALLS, REWRITTEN_FUNCTION, REWRITTEN_PORT, REWRITTEN_SAID, REWRITTEN_WRONG,
};
use guest_memory::mutants::{Mutant, plant};
use guest_memory::{DirtyLog, Ram, VcpuState};

/// A port of the serial port, which has no process here.
const NOBODY: u32 = 0x3f8;
/// For something to happen that must.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine whose guest calls the function, and the device that rewrites it.
struct Rig {
    engine: Islet,
    ram: Ram,
    log: DirtyLog,
    world: World,
    /// What it returns.
    number: u32,
}

impl Rig {
    fn new() -> Result<Rig> {
        let world = World::new()?;
        let (ram, log) = (world.ram()?, world.dirty()?);
        // mov eax, 0; ret
        ram.write(REWRITTEN_FUNCTION, &[0xb8, 0, 0, 0, 0, 0xc3]).context("outside of RAM")?;
        let engine = world.running(REWRITTEN, DIRTY_AT as u32)?;
        Ok(Rig { engine, ram, log, world, number: 0 })
    }

    fn word(&self, at: u64) -> u32 {
        self.ram.load_u32(at).unwrap_or(0)
    }

    fn until(&self, what: &str, done: impl Fn(&Rig) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            ensure!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// The guest calls the function once more from the beginning.
    fn called(&self) -> Result<()> {
        let before = self.word(REWRITTEN_CALLS);
        self.until("the guest stands still", |r| r.word(REWRITTEN_CALLS) > before.wrapping_add(1))
    }

    /// The function returns the next number; the guest is told when the engine has dropped its code. Answers whether there was any.
    fn rewrite(&mut self) -> Result<bool> {
        self.number += 1;
        let number = self.number.to_le_bytes();
        let stale = self.log.write_bytes(&self.ram, REWRITTEN_FUNCTION + 1, &number).context("outside of RAM")?;
        if stale {
            let (end, mut ring) = (Instant::now() + PATIENCE, Ok(()));
            self.log.drop_code(|| ring = self.world.stale.ring(), || Instant::now() < end)?;
            ring?;
        }
        let code = self.log.write_bytes(&self.ram, REWRITTEN_SAID, &number).context("outside of RAM")?;
        ensure!(!code, "there is no code in that page");
        Ok(stale)
    }

    /// Rounds of rewriting and calling, some while the guest stands still or its pages are harvested; answers how often old code ran.
    fn rounds(&mut self, rounds: u32) -> Result<u32> {
        self.engine.harvest(true)?;
        for n in 0..rounds {
            self.called()?;
            let paused = n % 16 == 15;
            if paused {
                self.engine.must(|mut m| m.set_pause(()))?;
            }
            self.rewrite()?;
            if paused {
                self.engine.must(|mut m| m.set_run(()))?;
            } else if n % 4 == 3 {
                self.engine.harvest(false)?;
            }
        }
        self.called()?;
        Ok(self.word(REWRITTEN_WRONG))
    }
}

fn rounds() -> u32 {
    if std::env::var_os("ATOLL_LONG").is_some() { 20_000 } else { 300 }
}

#[test]
fn a_guest_that_was_told_of_new_code_runs_it() -> Result<()> {
    let mut rig = Rig::new()?;
    let wrong = rig.rounds(rounds())?;
    ensure!(wrong == 0, "{wrong} calls ran old code");
    Ok(())
}

#[test]
fn a_device_that_does_not_ask_is_noticed() -> Result<()> {
    let mut rig = Rig::new()?;
    plant(Some(Mutant::NotAsked));
    ensure!(rig.rounds(20)? != 0, "the rounds are too weak");
    Ok(())
}

#[test]
fn a_vcpu_that_waits_for_the_device_holds_nothing_up() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.called()?;
    // A register access that nobody answers.
    let code = rig.log.write_bytes(&rig.ram, REWRITTEN_PORT, &NOBODY.to_le_bytes()).context("outside of RAM")?;
    ensure!(!code);
    rig.until("the guest does not wait", |r| Some(VcpuState::Blocked) == r.log.vcpu(0).map(|v| v.line.state()))?;
    ensure!(rig.rewrite()?, "its code is there");
    // Its order waits for it, and another one may be asked for; or it has looked up for the first, and has no code any more. Then it goes on
    // with the new code, which comes in two steps.
    rig.rewrite()?;
    rig.log.write_bytes(&rig.ram, REWRITTEN_PORT, &[0; 4]).context("outside of RAM")?;
    rig.engine.must(|mut m| m.set_pause(()))?;
    rig.rewrite()?;
    rig.engine.must(|mut m| m.set_reset(()))?;
    ensure!(!rig.rewrite()?, "a reset forgets all code");
    Ok(())
}
