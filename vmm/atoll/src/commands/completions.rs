//! `atoll completions`: the completion script of a shell, made from the command line's own description.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::commands::{Cli, print};
use crate::failure::Result;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Shell to print it for
    shell: Shell,
}

pub fn completions(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Cli::command(), "atoll", &mut script);
    print(&String::from_utf8_lossy(&script))
}
