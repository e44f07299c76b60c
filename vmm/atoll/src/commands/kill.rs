//! `atoll kill`: ends a VM at once; one that does not answer, by its keeper.

use clap::Args;
use control::server::Action;

use crate::failure::Result;
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
}

pub fn kill(arguments: &Arguments) -> Result<()> {
    remote::end(&arguments.name, Action::Kill)
}
