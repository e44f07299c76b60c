//! The thread that gives huge pages of the host to RAM that the guest uses.
//!
//! The idea: with pages of 4 KiB each access of a guest to another page is a miss of the host's TLB as well, and the host may itself
//! be a guest, where such a miss is dearest. The host's own settings mostly give none to shared memory, but a process may ask for
//! them piece by piece. [`mem::Chunks`] says which pieces; this thread asks, slowly.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use mem::CHUNK;
use nix::time::{ClockId, clock_gettime};

use crate::machine::Machine;

/// It rests for so many times the time of a CPU that it has used.
const REST: u32 = 9;
/// Chunks that it asks for at once: some milliseconds. Asking has the kernel wait for every CPU of the host first.
const TOGETHER: usize = 16;
/// Failures one after the other, after which it gives up: there are no huge pages, or none are left.
const FAILURES: u32 = 8;

/// Serve for as long as the process lives. Does nothing unless RAM is there as a `whole`.
pub fn thread(machine: &Machine, whole: bool) {
    let (ram, chunks) = (&machine.memory.ram, &machine.memory.chunks);
    if whole {
        chunks.register();
        let (mut from, mut failures) = (0, 0);
        while failures < FAILURES {
            let Some((at, n)) = chunks.take(&mut from, TOGETHER) else {
                thread::park();
                continue;
            };
            let before = used();
            match ram.collapse(at, n as u64 * CHUNK) {
                Ok(()) => {
                    machine.huge_pages.fetch_add(n as u64, Ordering::Relaxed);
                    failures = 0;
                }
                Err(_) => failures += 1,
            }
            rest(used().saturating_sub(before) * REST);
        }
    }
    loop {
        thread::park();
    }
}

/// Time of a CPU that this thread has used.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Being woken is no reason to go on earlier.
fn rest(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
