//! `atoll resume`: vCPUs and guest clock go on when it returns.

use clap::Args;
use control::server::Action;

use crate::failure::Result;
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
}

pub fn resume(arguments: &Arguments) -> Result<()> {
    remote::act(&arguments.name, Action::Resume)
}
