//! `atoll snapshot`: the state of a VM in a directory, which is there complete or not at all. The VM stands still meanwhile
//! and goes on afterwards.
//!
//! The idea: files belong to whoever asked for them, so they are made here and handed to the VM open; and only who made them
//! gives the directory its name, when all of them are written.

use std::io::{IsTerminal, Write, stderr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use control::client::{Client, Error};
use control::server::Action;
use control::types::{Job, JobState};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use snapshot::{Directory, SnapshotError};
use tokio::sync::oneshot;

use super::jobs::progress;
use crate::directory::{Found, Place};
use crate::failure::{Failure, Result, problem};
use crate::foreground::signals;
use crate::remote;

/// Between two looks at how far the job is.
const LOOK: Duration = Duration::from_millis(250);
/// How long a VM may be without its supervisor.
const PATIENCE: Duration = Duration::from_secs(30);
/// As good as for ever: a large VM takes its time, and a streamer that hangs is ended by its supervisor.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);
/// Exit status after Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// The snapshot: a directory that is made, or a snapshot that is replaced
    #[arg(value_name = "DIRECTORY", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

/// Returns the exit status.
pub fn snapshot(arguments: &Arguments) -> std::result::Result<u8, Failure> {
    let place = remote::find(&arguments.name)?;
    let (parent, name) = parts(&arguments.directory)?;
    let saved = remote::run(save(&place, &parent, &name))?;
    Ok(saved?)
}

/// Where a snapshot of this path is made, and what it is called.
fn parts(path: &Path) -> Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| {
        let what = format!("no snapshot can be made at '{}'", path.display());
        problem("snapshot.name", what, "it does not end with a name", "name a directory that may be made")
    })?;
    Ok((path.parent().map(Path::to_owned).unwrap_or_default(), name.to_owned()))
}

/// What the snapshot's error means to who typed the command.
pub fn explain(path: &Path, error: &SnapshotError) -> control::types::Problem {
    problem(error.code(), format!("the snapshot '{}'", path.display()), error, error.remedy())
}

async fn save(place: &Place, parent: &Path, name: &str) -> Result<u8> {
    let lost = |error| remote::explain(place, error);
    let refused = |error: SnapshotError| explain(&parent.join(name), &error);
    // From here on Ctrl-C cancels the job, and what was made is removed.
    let interrupted = interruption();
    let mut interrupted =
        interrupted.map_err(|error| problem("snapshot.signals", "signals cannot be read", error, ""))?;
    let client = remote::connect(place).await.map_err(lost)?;
    let names = client.snapshot_files().await.map_err(lost)?;
    let directory = Directory::create_temporary(parent, name, &names).map_err(refused)?;
    let copies: std::io::Result<Vec<(String, OwnedFd)>> =
        directory.files().map(|(name, fd)| Ok((name.to_owned(), fd.try_clone_to_owned()?))).collect();
    let copies = copies.map_err(|error| problem("snapshot.io", "the files cannot be passed on", error, ""))?;
    let job = client.snapshot(&copies).await.map_err(lost)?;
    drop(copies);
    let mut cancelled = false;
    let over = loop {
        tokio::select! {
            over = wait(place, job) => break over.map_err(lost)?,
            _ = &mut interrupted, if !cancelled => {
                cancelled = true;
                let client = remote::connect(place).await.map_err(lost)?;
                client.act(Action::CancelJob { job }, PATIENCE).await.map_err(lost)?;
            }
        }
    };
    match over.state {
        JobState::Done => {
            directory.commit().map_err(refused)?;
            Ok(0)
        }
        JobState::Cancelled if cancelled => Ok(INTERRUPTED),
        JobState::Cancelled => {
            Err(problem("job.cancelled", "the snapshot was not made", "somebody cancelled its job", ""))
        }
        _ => Err(over
            .problem
            .unwrap_or_else(|| problem("job.failed", "the snapshot was not made", "no reason is known", ""))),
    }
}

/// Comes once the command is to end.
fn interruption() -> std::io::Result<oneshot::Receiver<()>> {
    let signals = signals()?;
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
            match signals.read_signal() {
                // Going on after a stop is no reason to end.
                Ok(Some(signal)) if signal.ssi_signo == Signal::SIGCONT as u32 => {}
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => break,
            }
        }
        let _ = sender.send(());
    })?;
    Ok(receiver)
}

/// Waits for the end of a job, whatever becomes of connections and supervisors, and shows how far it is.
async fn wait(place: &Place, job: u64) -> std::result::Result<Job, Error> {
    let shows = stderr().is_terminal();
    let mut since = tokio::time::Instant::now();
    loop {
        let outcome = watch(place, job, shows, &mut since).await;
        match outcome {
            Err(Error::Lost { .. } | Error::Connect { .. })
                if since.elapsed() < PATIENCE && place.look() == Found::Alive =>
            {
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}

async fn watch(
    place: &Place,
    job: u64,
    shows: bool,
    since: &mut tokio::time::Instant,
) -> std::result::Result<Job, Error> {
    let client: Client = remote::connect(place).await?;
    let over = client.wait_job(job, LONG);
    tokio::pin!(over);
    loop {
        tokio::select! {
            over = &mut over => {
                if shows {
                    eprint!("\r\x1b[K");
                }
                return over;
            }
            () = tokio::time::sleep(LOOK) => {
                let jobs = client.jobs().await?;
                *since = tokio::time::Instant::now();
                if let Some(job) = jobs.iter().find(|found| found.id == job).filter(|_| shows) {
                    eprint!("\r\x1b[Ksnapshot: {}", progress(job));
                    let _ = stderr().flush();
                }
            }
        }
    }
}
