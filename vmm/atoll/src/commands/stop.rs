//! `atoll stop`: presses the power button and waits for the VM's end; a guest that does not heed it can be given a time.

use clap::Args;
use control::server::Action;

use crate::failure::Result;
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// Kill the VM after so many seconds (0: wait for the guest, however long)
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u32,
}

pub fn stop(arguments: &Arguments) -> Result<()> {
    remote::end(&arguments.name, Action::Stop { timeout: arguments.timeout })
}
