//! The keeper: pid 1 of a VM's pid namespace. It starts processes, holds what must survive them, and reports how they end.
//!
//! The one idea: nothing here decides anything about the VM, so nothing here has to change or can be wrong about it. The
//! supervisor decides; this process carries out its requests (crate `keeper-protocol`), one at a time, in one loop that
//! never waits for anybody. When it ends, the kernel ends every process of the VM.
//!
//! | file | owns |
//! |---|---|
//! | `start` | the launcher's messages |
//! | `table` | held descriptors and processes |
//! | `requests` | carrying out one request |
//! | `seat` | the supervisor: its start and restart, its link, what is queued for it |
//! | `logs` | the lines that processes write to their descriptor 2 |
//! | `run` | the loop, and reaping |

mod logs;
mod requests;
mod run;
mod seat;
mod start;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use keeper_protocol::{LAUNCHER_DESCRIPTOR, LauncherAnswer, exit_status};
use link::{Deadline, Link, Peer};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let mut sink = logs::Sink::standard_error();
    let status = match keep(&mut sink) {
        Ok(end) => {
            if let Some(why) = end.why {
                sink.line("keeper", &format!("the VM ends: {why}"));
            }
            end.status
        }
        Err((status, error)) => {
            sink.line("keeper", &format!("the VM ends: {error:#}"));
            status
        }
    };
    sink.finish();
    ExitCode::from(status)
}

fn keep(sink: &mut logs::Sink) -> Result<run::End, (u8, anyhow::Error)> {
    let launcher = Link::inherited(LAUNCHER_DESCRIPTOR, Peer::new("launcher", 0))
        .map_err(|error| (exit_status::BAD_START, error.into()))?;
    match begin(&launcher, sink) {
        Ok((mut keeper, pid)) => {
            answer(&launcher, &LauncherAnswer::Started { pid });
            keeper.run(launcher).map_err(|error| (exit_status::BROKEN, error))
        }
        Err(error) => {
            answer(&launcher, &LauncherAnswer::Refused { why: format!("{error:#}") });
            Err((exit_status::BAD_START, error))
        }
    }
}

/// Everything up to the first supervisor, whose pid is returned.
fn begin<'a>(launcher: &Link, sink: &'a mut logs::Sink) -> anyhow::Result<(run::Keeper<'a>, u32)> {
    let (signals, limit) = prepare()?;
    let vm = start::receive(launcher, table::capacity(limit))?;
    let mut keeper = run::Keeper::new(vm, sink, signals)?;
    // After the spawn thread has started, so that it and all that it starts are filtered, too.
    lock_down()?;
    let pid = keeper.start_supervisor()?;
    Ok((keeper, pid))
}

/// Tells the launcher; if it is gone, the loop will see it.
fn answer(launcher: &Link, answer: &LauncherAnswer) {
    let mut bytes = Vec::new();
    if answer.encode(&mut bytes).is_ok() {
        let _ = launcher.send(&bytes, &[], Deadline::after(start::PATIENCE));
    }
}

/// What must be before the first thread: signals as descriptors, and as many descriptors as the user may have.
fn prepare() -> anyhow::Result<(SignalFd, u64)> {
    // Blocked signals reach even pid 1, which ignores all others; children unblock them before exec.
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")?;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raising the limit of open files")?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("switching core files off")?;
    Ok((signals, maximum.unwrap_or(u64::MAX)))
}

fn lock_down() -> anyhow::Result<()> {
    let program = profile::Kind::Keeper.profile().program().context("the keeper's filter")?;
    seccompiler::apply_filter_all_threads(&program).context("installing the keeper's filter")
}
