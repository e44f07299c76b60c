//! What the tests of sudden ends need beside the rig: the processes of a VM as the host sees them, whoever of them lives; and
//! a follower of its events.
//!
//! The idea: a test that kills the supervisor cannot ask the supervisor who is there. The keeper's pid stands in the VM's
//! directory, and everything else is its child.
//!
//! | file | owns |
//! |---|---|
//! | `processes` | finding, killing, awaiting and measuring processes |
//! | `beat` | the count of a guest as it comes, and that nothing of it is missing or doubled |
//! | `curious` | a client that asks all the time |
//! | `events` | events as they come, and that none is missing or doubled |
//!
//! Functions here panic when what they were asked for does not happen: they are a test's assertions.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are the assertions of tests")]

mod beat;
mod curious;
mod events;
mod processes;

use std::time::Duration;

pub use beat::{Beat, Watched};
pub use curious::Curious;
pub use events::Followed;
pub use processes::{Memory, Processes, memfds_alive};

/// Middle, 99th of a hundred, and longest of some durations, for people.
#[must_use]
pub fn figures(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or_default();
    format!("p50 {:.1?}, p99 {:.1?}, longest {:.1?}", at(0.5), at(0.99), at(1.0))
}
