//! `atoll state`: looks at saved state offline, file by file.
//!
//! The idea: a state file is read by its schema, not by the device that it belongs to, so nothing of a VM has to run.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control::exit_status;
use snapshot::Snapshot;
use state::inspect::{self, Saved};

use super::print;
use super::snapshot::explain;
use crate::failure::{Failure, Result, problem};

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every field of a state file
    Dump {
        /// State file of a snapshot, such as monday/board.state
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print the fields in which two state files differ; the exit status is 1 if there are any
    Diff {
        /// One
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        first: PathBuf,
        /// The other
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        second: PathBuf,
    },
    /// Check state files, or a whole snapshot: its manifest, and every state and all of RAM against it
    Check {
        /// State file, or directory of a snapshot
        #[arg(value_name = "PATH", required = true, value_hint = clap::ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
    },
}

/// Returns the exit status.
pub fn state(arguments: &Arguments) -> std::result::Result<u8, Failure> {
    match &arguments.command {
        Command::Dump { file } => {
            let dump = open(file)?.dump().map_err(|error| unreadable(file, &error))?;
            print(&dump.to_string())?;
            Ok(exit_status::DONE)
        }
        Command::Diff { first, second } => {
            let (one, other) = (open(first)?, open(second)?);
            let found = inspect::diff(&one, &other).map_err(|error| unreadable(first, &error))?;
            print(&found.to_string())?;
            Ok(u8::from(!found.fields.is_empty() || found.cut))
        }
        Command::Check { paths } => {
            for path in paths {
                check(path)?;
            }
            Ok(exit_status::DONE)
        }
    }
}

fn open(path: &Path) -> Result<Saved> {
    Saved::open(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &state::StateError) -> control::types::Problem {
    let remedy = "name a file that 'atoll snapshot' wrote; one that was changed since cannot be used";
    problem("state.unreadable", format!("the state file '{}'", path.display()), error, remedy)
}

fn check(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return check_state(path, &open(path)?);
    }
    let refused = |error| explain(path, &error);
    let found = Snapshot::open(path).map_err(refused)?;
    for state in &found.manifest().states {
        let (file, bytes) = (path.join(&state.file), found.state(state).map_err(refused)?);
        let saved = Saved::of(file.display().to_string(), &bytes).map_err(|error| unreadable(&file, &error))?;
        check_state(&file, &saved)?;
    }
    found.check_memory().map_err(refused)?;
    print(&format!("{}: all files are as the manifest says\n", path.display()))
}

fn check_state(path: &Path, saved: &Saved) -> Result<()> {
    let report = saved.check();
    if report.problems.is_empty() {
        return print(&report.to_string());
    }
    let remedy = "use the version of Atoll that wrote it, or another snapshot";
    Err(problem("state.wrong", format!("the state file '{}'", path.display()), report.problems.join("; "), remedy))
}
