//! The commands, one file for each, and what they have in common: how they print.

mod completions;
mod doctor;
mod events;
mod inspect;
mod jobs;
mod kill;
mod pause;
pub mod ps;
mod reset;
pub mod restore;
mod resume;
mod run;
mod snapshot;
mod state;
mod stop;
mod top;
mod wakeup;

use std::io::{self, Write};

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::failure::{Failure, Result, problem};

/// Atoll: virtual machines whose every part is a sandboxed process.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a VM, and be its console
    Run(Box<run::Arguments>),
    /// List the running VMs
    Ps(ps::Arguments),
    /// Show everything about a VM, or what its processes may do
    Inspect(inspect::Arguments),
    /// Show what a VM does at the moment
    Top(top::Arguments),
    /// Let a VM's vCPUs and clock stand
    Pause(pause::Arguments),
    /// Let a paused VM go on
    Resume(resume::Arguments),
    /// Save a VM into a directory; it goes on afterwards
    Snapshot(snapshot::Arguments),
    /// Start a VM that goes on where its snapshot was made
    Restore(Box<restore::Arguments>),
    /// Look at saved state: dump, diff, check
    State(state::Arguments),
    /// Wake a sleeping guest (ACPI S3)
    Wakeup(wakeup::Arguments),
    /// List the jobs of a VM, such as snapshots, or cancel one
    Jobs(jobs::Arguments),
    /// Reset a VM, as its reset button would
    Reset(reset::Arguments),
    /// Press a VM's power button, and wait until it has ended
    Stop(stop::Arguments),
    /// End a VM at once
    Kill(kill::Arguments),
    /// Print what has happened in a VM
    Events(events::Arguments),
    /// Say what this host offers, and what each lack costs
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

impl Cli {
    /// Does what was asked for; returns the exit status.
    pub fn carry_out(self) -> std::result::Result<u8, Failure> {
        let done = |result: Result<()>| result.map(|()| 0).map_err(Failure::from);
        match self.command {
            Command::Run(arguments) => run::run(*arguments),
            Command::Ps(arguments) => done(ps::ps(&arguments)),
            Command::Inspect(arguments) => done(inspect::inspect(&arguments)),
            Command::Top(arguments) => done(top::top(&arguments)),
            Command::Pause(arguments) => done(pause::pause(&arguments)),
            Command::Resume(arguments) => done(resume::resume(&arguments)),
            Command::Snapshot(arguments) => snapshot::snapshot(&arguments),
            Command::Restore(arguments) => restore::restore(*arguments),
            Command::State(arguments) => state::state(&arguments),
            Command::Wakeup(arguments) => done(wakeup::wakeup(&arguments)),
            Command::Jobs(arguments) => done(jobs::jobs(&arguments)),
            Command::Reset(arguments) => done(reset::reset(&arguments)),
            Command::Stop(arguments) => done(stop::stop(&arguments)),
            Command::Kill(arguments) => done(kill::kill(&arguments)),
            Command::Events(arguments) => done(events::events(&arguments)),
            Command::Doctor(arguments) => done(doctor::doctor(&arguments)),
            Command::Completions(arguments) => done(completions::completions(&arguments)),
        }
    }
}

/// Prints to standard output. Whoever does not read to the end wants no message either.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(128 + 13),
        Err(error) => Err(problem("command.output", "the output cannot be written", error, "")),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as JSON for programs.
fn print_json(value: &impl Serialize) -> Result<()> {
    let failed = |error| problem("command.output", "the output cannot be made", error, "");
    print(&(serde_json::to_string_pretty(value).map_err(failed)? + "\n"))
}

/// Rows in columns that are as wide as their widest cell; the last column is not filled up.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text of a VM, for a terminal: without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn columns() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&rows), "a     b\nlong\n");
        assert_eq!(table(&[]), "");
        assert_eq!(plain("a\x1b[b\n"), "a [b ");
    }
}
