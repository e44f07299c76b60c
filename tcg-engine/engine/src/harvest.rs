//! Harvests of dirty pages, as the control thread is asked for them: a session begins, has rounds, and ends.
//!
//! The handshake is that of [`guest_memory::harvest`]; this file gives it a way to make vCPUs look up, and an end to waiting.
//! A round's pages are in `B` of the `dirty` memfd when it is answered, and whoever asked may copy them then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest_memory::Silent;

use crate::error::Refusal;
use crate::machine::Machine;
use crate::park::HARVEST;

/// For every vCPU to come to a safepoint, which is a matter of microseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// As long where RAM comes on demand: a vCPU may wait for a page that never comes.
const PATIENCE_ON_DEMAND: Duration = Duration::from_secs(2);
/// Looks at a vCPU before this thread sleeps between them.
const EAGER: u32 = 200;
/// The time that it sleeps.
const NAP: Duration = Duration::from_micros(50);

/// The sessions of this process.
#[derive(Debug, Default)]
pub struct Harvests {
    active: AtomicBool,
}

impl Harvests {
    /// Begin a session: every page is marked, and no vCPU has a write tag from before. One that had not ended is forgotten.
    /// Answers the number of the handshake.
    ///
    /// # Errors
    /// A vCPU does not acknowledge.
    pub fn start(&self, machine: &Machine, on_demand: bool) -> Result<u64, Refusal> {
        self.active.store(false, Ordering::SeqCst);
        let number = machine.memory.marks.start(|| machine.gate.ask_all(HARVEST), patience(on_demand));
        let number = number.map_err(Refusal::silent)?;
        self.active.store(true, Ordering::SeqCst);
        Ok(number)
    }

    /// One round, up to where the pages of `B` may be copied. Answers its number.
    ///
    /// # Errors
    /// There is no session, or a vCPU does not acknowledge.
    pub fn round(&self, machine: &Machine, on_demand: bool) -> Result<u64, Refusal> {
        if !self.active.load(Ordering::SeqCst) {
            return Err(Refusal::no_session());
        }
        let number: Result<u64, Silent> =
            machine.memory.marks.harvest(|| machine.gate.ask_all(HARVEST), patience(on_demand));
        number.map_err(Refusal::silent)
    }

    /// End the session. There is nothing to undo.
    pub fn stop(&self) {
        self.active.store(false, Ordering::SeqCst);
    }
}

/// Waits between two looks, and says when it has been long enough.
fn patience(on_demand: bool) -> impl FnMut() -> bool {
    let end = Instant::now() + if on_demand { PATIENCE_ON_DEMAND } else { PATIENCE };
    let mut looks = 0;
    move || {
        looks += 1;
        if looks < EAGER {
            std::thread::yield_now();
            return true;
        }
        std::thread::park_timeout(NAP);
        Instant::now() < end
    }
}

#[cfg(test)]
#[path = "harvest_tests.rs"]
mod tests;
