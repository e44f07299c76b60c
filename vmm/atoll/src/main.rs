//! The launcher and command line: `atoll run` starts a VM and is its console; every other command is a client of a VM's
//! control socket or looks at this host.
//!
//! The idea: the launcher is the only part that acts with all of the user's rights, so it does little: it opens what has a
//! name, starts the keeper, and hands everything over. Nothing that a guest says is interpreted here.
//!
//! | file | owns |
//! |---|---|
//! | `commands` | one file for each command |
//! | `options`, `plan`, `size` | what `run` was told, merged and checked |
//! | `directory` | names of running VMs |
//! | `files`, `launch` | what a VM starts with, and its start |
//! | `foreground`, `escape`, `output`, `terminal`, `report` | the console, and the end of the VM |
//! | `remote`, `processes` | talking to a VM by its name; its processes as the host sees them |

mod commands;
mod directory;
mod escape;
mod failure;
mod files;
mod foreground;
mod launch;
mod options;
mod output;
mod plan;
mod processes;
mod remote;
mod report;
mod size;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A wrong command line ends here with status 2.
    let cli = commands::Cli::parse();
    match cli.carry_out() {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("{}", failure::describe(&failure.problem));
            ExitCode::from(failure.status)
        }
    }
}
