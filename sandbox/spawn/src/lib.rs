//! The parent's side of a sandboxed process: starting it where nothing else can be reached, and knowing how it ended.
//!
//! The launcher starts the keeper with [`keeper`] (user and pid namespaces); the keeper starts every islet with a
//! [`Spawner`] (user, mount, ipc, uts namespaces, an empty network, an empty read-only root). Both take a [`Command`]: a
//! static binary as an open [`Image`], arguments, and an exact descriptor map. The idea: everything is prepared before the
//! clone, the child makes a fixed row of system calls, and the first that fails comes back as a [`SpawnError`] with the
//! step's name.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use std::os::unix::net::UnixStream;
//! use spawn::{Command, ExitCause, Image, Spawner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In the keeper, which is pid 1 of the VM's pid namespace:
//! let spawner = Spawner::new()?;
//! let image = Image::open("/usr/lib/atoll/serial")?;
//! let (ours, theirs) = UnixStream::pair()?;
//! let log = std::io::stderr();
//! let command = Command::new("serial", &image).arg("--port=0").log(log.as_fd()).control(theirs.as_fd());
//! let child = spawner.spawn(&command)?;      // returns once the binary runs, or with the step that failed
//! drop(theirs);
//! // … poll child.pidfd() beside everything else; when it is readable:
//! if let Some(exit) = child.wait(None)? {
//!     println!("serial {}", ExitCause::decode(exit, None));
//! }
//! # Ok(()) }
//! ```
//!
//! The islet finds `/dev/null` at 0 and 1, its log pipe at 2, its control socket at 3, and nothing else. Its environment
//! is empty but for what the command names.

mod child;
mod exit;
mod ids;
mod image;
mod inspect;
mod launch;
mod spawner;

pub use child::Step;
pub use exit::{Exit, ExitCause, wait};
pub use image::{Image, ImageError};
pub use inspect::{InspectError, dump_filters};
pub use launch::{Child, Command, keeper, reopen_read_only};
pub use spawner::Spawner;

/// Where an islet finds its log pipe.
pub const LOG_FD: i32 = 2;
/// Where an islet finds its control socket.
pub const CONTROL_FD: i32 = 3;

/// Why a process was not started. Nothing is left behind: a child that got half way has been reaped.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A step in the new process failed.
    #[error("{name} was not started: {step} failed: {source}{hint}", hint = step.hint(source))]
    Child {
        /// The name of the command.
        name: String,
        /// Which step.
        step: Step,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A step of the parent failed.
    #[error("{name} was not started: {step}: {source}")]
    Parent {
        /// The name of the command.
        name: String,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The new process did not get as far as its binary in time.
    #[error("{name} was not started: its preparation took more than {seconds} s; it was killed")]
    Deadline {
        /// The name of the command.
        name: String,
        /// The limit.
        seconds: u64,
    },
    /// The command cannot be meant.
    #[error("{name} cannot be started: {why}")]
    Command {
        /// The name of the command.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}
