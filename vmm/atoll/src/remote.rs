//! Talking to a VM by its name: finding its control socket, one call, and what its failures mean.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use control::client::{Client, Error, SOON};
use control::server::Action;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::task::LocalSet;

use crate::directory::{Found, Place, Root};
use crate::failure::{Result, problem};
use crate::processes;

/// For a VM that runs to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// For a VM that was told to end to be gone.
const GONE: Duration = Duration::from_secs(15);
/// The same, and for its supervisor to answer, before its keeper is killed.
const POLITE: Duration = Duration::from_secs(5);
/// How long the end of a connection may come before that of its VM.
const MOMENT: Duration = Duration::from_millis(500);
/// How often a command is given whose connection was lost.
const ATTEMPTS: u32 = 5;
/// Between two looks at a lock.
const LOOK: Duration = Duration::from_millis(10);
/// As good as for ever.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The VM of this name, which must run.
pub fn find(name: &str) -> Result<Place> {
    let place = Root::of_caller()?.place(name)?;
    let why = match place.look() {
        Found::Alive => return Ok(place),
        Found::Stale => {
            place.sweep();
            "it has ended".to_owned()
        }
        Found::Nothing => format!("{} does not exist", place.path.display()),
    };
    Err(problem("vm.unknown", format!("there is no VM '{name}'"), why, "'atoll ps' lists the running ones"))
}

/// Connects and calls.
pub fn call<T>(place: &Place, calls: impl AsyncFnOnce(&Client) -> std::result::Result<T, Error>) -> Result<T> {
    run(async { calls(&connect(place).await?).await }).and_then(|result| result.map_err(|error| explain(place, error)))
}

/// A connection.
pub async fn connect(place: &Place) -> std::result::Result<Client, Error> {
    Client::connect(&place.control(), CONNECT).await
}

/// Runs something that needs the client's runtime.
pub fn run<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| problem("command.runtime", "the command cannot begin", error, ""))?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// What the client's error means to who typed the command.
pub fn explain(place: &Place, error: Error) -> control::types::Problem {
    let what = format!("the VM '{}' was not reached", place.name);
    let kill = format!("'atoll kill {}' ends it, even if it does not answer", place.name);
    match error {
        Error::Problem(problem) => problem,
        Error::Connect { .. } => problem("control.connect", what, error, kill),
        Error::Deadline { .. } => problem("control.deadline", what, error, kill),
        Error::Lost { .. } => problem("control.lost", what, error, "see with 'atoll ps' whether it still runs"),
        other => problem("control.failed", what, other, kill),
    }
}

/// Pause, resume, reset: done when it returns.
pub fn act(name: &str, action: Action) -> Result<()> {
    call(&find(name)?, async |client: &Client| client.act(action, SOON).await)
}

/// Ends a VM, and waits until it is gone.
pub fn end(name: &str, action: Action) -> Result<()> {
    let place = find(name)?;
    let keeper = processes::watch(&place);
    let limit = match action {
        Action::Stop { timeout: 0 } => YEAR,
        Action::Stop { timeout } => SOON + Duration::from_secs(timeout.into()),
        // Its keeper can be killed instead.
        Action::Kill => POLITE,
        _ => SOON,
    };
    for attempt in 1.. {
        let result = run(async {
            let client = Client::connect(&place.control(), CONNECT).await?;
            client.act(action, limit).await
        })?;
        match result {
            Ok(()) => {}
            // An end takes the connection along. So does that of a supervisor, whose successor may not know of the command.
            Err(Error::Lost { .. }) if attempt < ATTEMPTS && !ends_within(&place, keeper.as_ref(), MOMENT) => continue,
            Err(Error::Lost { .. }) => {}
            Err(Error::Problem(problem)) if problem.code == "vm.ending" => {}
            Err(error @ Error::Problem(_)) => return Err(explain(&place, error)),
            Err(error) => {
                let killed = action == Action::Kill && keeper.as_ref().is_some_and(processes::kill);
                if !killed && place.look() == Found::Alive {
                    return Err(explain(&place, error));
                }
            }
        }
        break;
    }
    gone(&place, keeper.as_ref(), action == Action::Kill)
}

/// Whether a VM ends within `limit`.
fn ends_within(place: &Place, keeper: Option<&OwnedFd>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    // A keeper lets go of the lock first, and is dead when everything in its namespace is.
    while place.look() == Found::Alive || keeper.is_some_and(|keeper| !has_ended(keeper)) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Waits for the end of a VM's keeper, and removes what is left. A keeper that does not do as it was told can be killed.
fn gone(place: &Place, keeper: Option<&OwnedFd>, kill: bool) -> Result<()> {
    if kill
        && !ends_within(place, keeper, POLITE)
        && let Some(keeper) = keeper
    {
        processes::kill(keeper);
    }
    if !ends_within(place, keeper, GONE) {
        let why = format!("its keeper still runs {} s after it was told to end", GONE.as_secs());
        let remedy = format!("'atoll kill {}'", place.name);
        return Err(problem("vm.not-gone", format!("the VM '{}' has not ended", place.name), why, remedy));
    }
    place.sweep();
    Ok(())
}

/// Whether the process of a pidfd has ended.
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
