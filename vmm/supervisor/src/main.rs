//! The supervisor's process: takes over the VM from its keeper, locks itself down, and serves until the VM ends.
//!
//! The idea: nothing is opened here. Everything comes from the keeper by name, is made once if it does not exist, and is
//! found by the next supervisor if this one dies. Files:
//!
//! | file | owns |
//! |---|---|
//! | `takeover` | what is fetched, made and mapped before lock-down |
//! | `driver` | one input at a time: decide, make durable, carry out |
//! | `tasks` | who waits for what: keeper, islets, timers, clients |
//! | `parcels` | descriptors that come with messages, and those that clients send beside the control socket |
//! | `serve` | the control socket's answers |

mod driver;
mod parcels;
mod serve;
mod takeover;
mod tasks;

use std::os::fd::RawFd;
use std::time::Duration;

use keeper_protocol::KEEPER_DESCRIPTOR;
use keeper_protocol::client::{ClientError, Keeper};
use link::{Deadline, Link, Peer};
use profile::Kind;
use tokio::task::LocalSet;

// Clients are most of it: each of 32 may have 64 requests of 8 KiB, and 512 KiB of answers that it does not take, in
// buffers up to twice as long.
arena::global!(128 << 20);

/// Where the keeper left its link.
const KEEPER: RawFd = KEEPER_DESCRIPTOR;
/// For the keeper, which answers at once, except that a start takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A deadline for one call of the keeper.
fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn main() {
    enter::begin();
    match run() {
        Ok(never) => match never {},
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(ClientError::Link(gone)) => enter::exit::lost_peer(gone),
            _ => enter::exit::error(&format_args!("{error:#}")),
        },
    }
}

/// What never happens: a supervisor ends with its VM.
enum Never {}

fn run() -> anyhow::Result<Never> {
    let link = Link::inherited(KEEPER, Peer::new("keeper", 1))?;
    let (keeper, adoption) = Keeper::adopt(link, soon())?;
    let profile = Kind::Supervisor.profile();
    let ready = takeover::take_over(keeper, adoption)?;
    enter::before_threads(profile)?;
    enter::close_all_but(&ready.descriptors())?;
    // Leaked, as everything that lives as long as the process: nothing can be unmapped later.
    let runtime = Box::leak(Box::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
    let set = Box::leak(Box::new(LocalSet::new()));
    runtime.block_on(set.run_until(async move {
        let parts = ready.register()?;
        enter::seal(profile, &enter::ThreadGate::new())?;
        tasks::run(parts).await
    }))
}
