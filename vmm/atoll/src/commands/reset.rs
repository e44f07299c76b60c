//! `atoll reset`: the machine is as after power-on, with its kernel loaded, when it returns.

use clap::Args;
use control::server::Action;

use crate::failure::Result;
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
}

pub fn reset(arguments: &Arguments) -> Result<()> {
    remote::act(&arguments.name, Action::Reset)
}
