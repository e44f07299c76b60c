//! The child's side of lock-down: what an islet calls, in order, to give up everything it does not need.
//!
//! The idea: a process arrives here with a user namespace, an empty root and its descriptors (made by `spawn`), prepares
//! everything that it will ever need, and then locks the door behind itself, step by step, in the order in which the
//! kernel allows it. After [`seal`] only the calls of its [`profile::Profile`] work; any other one is recorded on its
//! status page and ends it with [`exit::EXIT_SECCOMP`].
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use std::time::Duration;
//! use enter::{ThreadGate, status::StatusPage};
//! use profile::Kind;
//!
//! # fn receive_setup() -> std::fs::File { std::fs::File::open("status").unwrap() }
//! # fn map_guest_memory() {}
//! fn main() {
//!     let profile = Kind::Serial.profile();
//!     enter::begin();                                   // panic hook, trap and fault handlers
//!     if let Err(error) = run(profile) {
//!         enter::exit::error(&error);
//!     }
//!     enter::exit::clean()                              // never return from main: see below
//! }
//!
//! fn run(profile: &'static profile::Profile) -> Result<(), enter::Error> {
//!     let status_memfd = receive_setup();               // 1. descriptors from the control socket (3)
//!     enter::attach_status(StatusPage::map(status_memfd.as_fd(), 7)?);
//!     drop(status_memfd);
//!     map_guest_memory();                               // 2. map everything that will ever be needed
//!     let report = enter::before_threads(profile)?;     // 3. capabilities, limits, Landlock
//!     eprintln!("{report}");
//!     let mut gate = ThreadGate::new();                 // 4. all threads that will ever run
//!     gate.spawn("register-window", || loop { std::thread::park() })?;
//!     gate.wait(Duration::from_secs(10))?;
//!     enter::close_all_but(&[3, 4])?;                   // 5. 0, 1 and 2 always stay
//!     enter::seal(profile, &gate)?;                     // 6. the filter, on every thread
//!     gate.release();                                   // 7. go; then send READY on the control socket
//!     Ok(())
//! }
//! ```
//!
//! Three rules follow from the filter:
//!
//! * **Never return from `main`** and never call `std::process::exit`: the runtime would unmap its signal stack. Leave
//!   through [`exit`].
//! * **Never let a thread end**: [`ThreadGate::spawn`] parks a thread whose body returned.
//! * **Drop nothing that owns more than memory and descriptors**: dropping a mapping calls `munmap`. Put what lives as
//!   long as the process in statics or leak it, so that returning an error to `main` does not trap on the way.
//!
//! Library calls hide system calls. Those met so far: `UnixStream` uses `sendto` and `recvfrom`, a `File` of the same
//! descriptor `write` and `read`; `read_to_end` of a `File` asks for its size (`statx`, `lseek`); dropping an `OwnedFd`
//! calls `close` and, with debug assertions, `fcntl(F_GETFD)`; `nix::poll::poll` is `poll`, not `ppoll`;
//! `std::process::id` is `getpid` each time.

pub mod exit;
mod gate;
mod handlers;
mod restrict;
pub mod status;

pub use gate::{ThreadGate, settle_thread};
pub use handlers::{attach_status, begin, survive_file_limit};
pub use restrict::{Report, before_threads, close_all_but, seal};

/// What can fail before lock-down; every step is fatal for the process, since a half-locked process must not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of the lock-down failed.
    #[error("lock-down step '{step}' failed: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Restrictions are per thread, so they have to come first.
    #[error("the process has threads already; restrictions apply per thread, so call before_threads before any starts")]
    ThreadsAlready,
    /// Landlock exists but refuses.
    #[error("Landlock refuses the rule set: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// Capabilities cannot be given up.
    #[error("capabilities cannot be dropped: {0}")]
    Capabilities(String),
    /// The profile's table is malformed.
    #[error(transparent)]
    Profile(#[from] profile::bpf::Error),
    /// The filter was not installed.
    #[error("the seccomp filter of profile {kind} was not installed: {source}")]
    Seccomp {
        /// Which profile.
        kind: profile::Kind,
        /// The kernel's answer, or the thread that could not be synchronised.
        source: seccompiler::Error,
    },
    /// A thread could not be started.
    #[error("thread '{name}' cannot be started: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not every thread reached the barrier in time.
    #[error("{missing} of {started} threads did not reach the barrier before lock-down in time")]
    Gate {
        /// How many have not arrived.
        missing: usize,
        /// How many were started.
        started: usize,
    },
    /// The status memfd does not hold the row.
    #[error("row {row} of the status memfd cannot be mapped: {source}")]
    Status {
        /// The row, from 0.
        row: usize,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The last failed call of libc as the failure of `step`.
    fn last(step: &'static str) -> Error {
        Error::Step { step, source: std::io::Error::last_os_error() }
    }
}
