//! `atoll run`: starts a VM and is its console until it ends, or with `--detach` returns as soon as it runs.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use control::exit_status;
use control::types::Problem;
use link::Inbox;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spawn::{Exit, ExitCause};

use crate::commands::print;
use crate::commands::ps::last_words;
use crate::commands::restore::Restore;
use crate::directory::{Place, Root};
use crate::failure::{Failure, Result, describe, problem};
use crate::foreground::{Ended, Foreground, Left, Parts, signals};
use crate::launch::{KEEPER, Launched, launch};
use crate::options::{Merged, Options};
use crate::plan::{Console, Plan};
use crate::report::{self, Report};
use crate::terminal::Raw;

/// How long a detached VM may take from its start to its first instruction.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a keeper may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub struct Arguments {
    /// Kernel, as --kernel
    #[arg(value_name = "KERNEL", conflicts_with = "kernel", value_hint = clap::ValueHint::FilePath)]
    kernel_file: Option<PathBuf>,
    /// TOML file with any of these options; the command line overrides it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Returns the exit status of the VM.
pub fn run(arguments: Arguments) -> std::result::Result<u8, Failure> {
    let not_started = |problem| Failure { status: exit_status::NOT_STARTED, problem };
    let Arguments { kernel_file, config, mut options } = arguments;
    options.kernel = options.kernel.or(kernel_file);
    let merged = match config {
        Some(path) => Merged::with_file(options, &path),
        None => Ok(Merged::command_line(options)),
    };
    let merged = merged.map_err(not_started)?;
    let plan = Plan::new(&merged).map_err(not_started)?;
    begin(&plan, &merged, None)
}

/// Starts a VM from its kernel, or from a snapshot. Returns its exit status.
pub fn begin(plan: &Plan, merged: &Merged, restore: Option<&Restore>) -> std::result::Result<u8, Failure> {
    let not_started = |problem| Failure { status: exit_status::NOT_STARTED, problem };
    let root = Root::of_caller().map_err(not_started)?;
    let claim = match &plan.name {
        Some(name) => root.claim(name),
        None => root.claim_any(),
    };
    let claim = claim.map_err(not_started)?;
    let place = claim.place.clone();
    // From here on nothing may stay behind; a VM that runs on holds its lock.
    let status = if plan.detach {
        launch(plan, merged, restore, claim).map_err(not_started).and_then(|launched| detached(launched, plan))
    } else {
        // Blocked before anything is started, so that every end from here on is ours.
        let blocked =
            signals().map_err(|error| not_started(problem("run.signals", "signals cannot be read", error, "")));
        blocked.and_then(|signals| {
            let launched = launch(plan, merged, restore, claim).map_err(not_started)?;
            foreground(launched, plan, signals).map_err(not_started)
        })
    };
    place.sweep();
    status
}

/// Is the VM's console until it ends.
fn foreground(launched: Launched, plan: &Plan, signals: nix::sys::signalfd::SignalFd) -> Result<u8> {
    let Launched { place, keeper, link, report, console, log, console_socket } = launched;
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let failed = |error: io::Error| problem("run.console", "the console cannot be relayed", error, "");
    let raw = if console.is_some() { Raw::begin().map_err(failed)? } else { None };
    let newline = if raw.is_some() { "\r\n" } else { "\n" };
    eprint!("{}{newline}", first_line(plan, &place, raw.is_some()));
    let parts = Parts {
        keeper: &keeper,
        signals,
        link,
        report,
        console,
        log,
        input: input.as_fd(),
        output: output.as_fd(),
        error: error.as_fd(),
        raw,
    };
    // The terminal is as it was when this returns.
    let ended = Foreground::new(parts).and_then(Foreground::run).map_err(failed)?;
    if let Some(path) = console_socket {
        let _ = std::fs::remove_file(path);
    }
    let (status, message) = conclude(&ended);
    if let Some(message) = message {
        eprintln!("{message}");
    }
    Ok(status)
}

/// Engine and why, how to leave, where the control socket is.
fn first_line(plan: &Plan, place: &Place, terminal: bool) -> String {
    let leave = if terminal { "leave the console with Ctrl-A x (Ctrl-A h: help)" } else { "Ctrl-C ends the VM" };
    let console = match &plan.console {
        Console::Stdio => String::new(),
        Console::None => "; no console".to_owned(),
        Console::File(path) => format!("; console in {}", path.display()),
        Console::Socket(path) => format!("; console at {}", path.clone().unwrap_or_else(|| place.console()).display()),
    };
    let control = place.control();
    format!(
        "atoll: '{}', engine {} ({}); {leave}{console}; control socket {}",
        place.name,
        plan.engine,
        plan.engine_why,
        control.display()
    )
}

/// Exit status, and what is to be said about it.
fn conclude(ended: &Ended) -> (u8, Option<String>) {
    match ended.left {
        Some(Left::Key) => return (exit_status::DONE, None),
        Some(Left::Signal(number)) => return (128 + u8::try_from(number).unwrap_or(0), None),
        Some(Left::Output) => return (128 + 13, None),
        None => {}
    }
    let status = match ended.exit {
        Some(Exit::Code(code)) => u8::try_from(code).unwrap_or(exit_status::PROCESS_LOST),
        Some(exit @ Exit::Signal { .. }) => return (exit_status::PROCESS_LOST, Some(describe(&keeper_lost(exit)))),
        None => {
            let problem =
                problem("vm.keeper-lost", "how the VM ended is unknown", "somebody else reaped its keeper", "");
            return (exit_status::PROCESS_LOST, Some(describe(&problem)));
        }
    };
    (status, complaint(status, ended.report.as_ref()))
}

/// A keeper that did not end by itself.
fn keeper_lost(exit: Exit) -> Problem {
    problem(
        "vm.keeper-lost",
        format!("{KEEPER} is gone, and every process of the VM with it"),
        format!("it {}", ExitCause::decode(exit, None)),
        "find out who sent it; after a SIGKILL without sender the kernel's log may speak of lost memory",
    )
}

/// What there is to say of an end that the guest did not choose.
fn complaint(status: u8, report: Option<&Report>) -> Option<String> {
    let reason = match report {
        Some(Report::Ended { problem: Some(problem), .. }) => return Some(describe(problem)),
        Some(Report::Ended { reason, .. }) => Some(reason.as_str()).filter(|reason| !reason.is_empty()),
        _ => None,
    };
    if status == exit_status::DONE || status % 2 == 1 {
        return None;
    }
    let by_keeper = (64..=72).contains(&status);
    let row = exit_status::TABLE.iter().find(|(name, _)| *name == status.to_string());
    let row = row.or_else(|| exit_status::TABLE.iter().find(|(name, _)| by_keeper && name.starts_with("64")));
    let meaning = row.map_or("this status has no meaning of its own", |(_, meaning)| *meaning);
    let why = reason.unwrap_or(meaning);
    let by = if by_keeper { format!(" by {KEEPER}") } else { String::new() };
    Some(describe(&problem("vm.ended", format!("the VM was ended{by} with status {status}"), why, "")))
}

/// Waits until the VM runs.
fn detached(launched: Launched, plan: &Plan) -> std::result::Result<u8, Failure> {
    let Launched { place, keeper, link, report, .. } = launched;
    let end = Instant::now() + START_PATIENCE;
    let mut inbox = Inbox::new();
    let mut last = None;
    let failure = |status, problem| Err(Failure { status, problem });
    loop {
        // Reports first: the last one may have come with the keeper's end.
        match report::next(&report, &mut inbox) {
            Ok(Some(Report::Running | Report::Paused)) => {
                // In the background the end of this link means nothing.
                drop(link);
                print(&format!("{}\n", place.name)).map_err(Failure::from)?;
                eprintln!("{}", first_line(plan, &place, false).replace("; Ctrl-C ends the VM", ""));
                return Ok(0);
            }
            Ok(Some(ended)) => {
                last = Some(ended);
                continue;
            }
            Ok(None) | Err(_) => {}
        }
        if let Ok(Some(exit)) = keeper.wait(Some(Duration::ZERO)) {
            if let Ok(Some(report)) = report::next(&report, &mut inbox) {
                last = Some(report);
            }
            return over_before_it_began(exit, last, &place);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = keeper.kill();
            let _ = keeper.wait(Some(END_PATIENCE));
            let why = format!("it was not ready after {} s{}", START_PATIENCE.as_secs(), last_words(&place.log()));
            return failure(exit_status::NOT_STARTED, problem("run.deadline", "the VM was not started", why, ""));
        }
        let mut fds = [PollFd::from_borrowed_fd(keeper.pidfd(), PollFlags::IN)].to_vec();
        if last.is_none() {
            fds.push(PollFd::from_borrowed_fd(report.as_fd(), PollFlags::IN));
        }
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
    }
}

/// A detached VM that ended before it ran, or as soon as it did.
fn over_before_it_began(exit: Exit, report: Option<Report>, place: &Place) -> std::result::Result<u8, Failure> {
    let (status, _) = conclude(&Ended { exit: Some(exit), report: report.clone(), left: None });
    if let Some(Report::Ended { problem: Some(problem), .. }) = report {
        return Err(Failure { status, problem });
    }
    if status == exit_status::DONE || status % 2 == 1 {
        eprintln!("atoll: '{}' has ended already", place.name);
        return Ok(status);
    }
    if matches!(exit, Exit::Signal { .. }) {
        return Err(Failure { status, problem: keeper_lost(exit) });
    }
    let why = format!("{KEEPER} ended with status {status}{}", last_words(&place.log()));
    Err(Failure { status, problem: problem("run.start", "the VM was not started", why, "") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit: Exit, report: Option<Report>, left: Option<Left>) -> (u8, Option<String>) {
        conclude(&Ended { exit: Some(exit), report, left })
    }

    #[test]
    fn the_guests_own_ends_are_silent() {
        let off = Report::Ended { reason: "power off".into(), problem: None };
        assert_eq!(ended(Exit::Code(0), Some(off), None), (0, None));
        assert_eq!(ended(Exit::Code(0x85), None, None), (0x85, None));
    }

    #[test]
    fn an_error_is_printed_with_its_parts() {
        let problem = Problem::new("process.gone", "engine[1] ended", "signal 11", "report it");
        let report = Report::Ended { reason: "x".into(), problem: Some(problem) };
        let (status, message) = ended(Exit::Code(4), Some(report), None);
        assert_eq!(status, 4);
        let message = message.unwrap();
        for part in ["engine[1] ended", "signal 11", "report it", "process.gone"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_even_status_without_a_report_is_explained() {
        for (code, text) in [(6, "atoll kill"), (66, "no working supervisor"), (10, "no meaning")] {
            let (status, message) = ended(Exit::Code(code), None, None);
            assert_eq!(i32::from(status), code);
            assert!(message.as_ref().unwrap().contains(text), "{message:?}");
        }
        let (status, message) = ended(Exit::Signal { number: 9, core: false }, None, None);
        assert_eq!(status, exit_status::PROCESS_LOST);
        let message = message.unwrap();
        assert!(message.contains("keeper[1]") && message.contains("was killed by SIGKILL"), "{message}");
    }

    #[test]
    fn the_users_own_ends() {
        let gone = Exit::Code(68);
        assert_eq!(ended(gone, None, Some(Left::Key)), (0, None));
        assert_eq!(ended(gone, None, Some(Left::Signal(15))), (143, None));
        assert_eq!(ended(gone, None, Some(Left::Output)), (141, None));
    }
}
