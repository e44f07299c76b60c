//! `atoll wakeup`: a sleeping guest (ACPI S3) runs again when it returns.

use clap::Args;
use control::server::Action;

use crate::failure::Result;
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
}

pub fn wakeup(arguments: &Arguments) -> Result<()> {
    remote::act(&arguments.name, Action::Wakeup)
}
