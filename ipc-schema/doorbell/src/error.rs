//! The one error type of this crate.

use nix::errno::Errno;

/// What can go wrong while windows are made, mapped or described.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memfd could not be made or mapped.
    #[error(transparent)]
    Memory(#[from] guest_memory::Error),
    /// The memfd's header is not what this version writes.
    #[error(
        "the windows memfd has a foreign header: {field} is {have:#x}, expected {want:#x}; all processes of a VM must be of one version"
    )]
    BadHeader {
        /// The field that differs.
        field: &'static str,
        /// Its value.
        have: u64,
        /// The expected value.
        want: u64,
    },
    /// A number beyond the layout's limits.
    #[error("{what} {number} does not exist: the windows memfd has room for {limit}")]
    NoSuch {
        /// What was counted.
        what: &'static str,
        /// The number asked for.
        number: u64,
        /// How many there are.
        limit: u64,
    },
    /// The window list cannot be served.
    #[error("register window \"{name}\" ({base:#x}+{len:#x}) {problem}")]
    BadWindow {
        /// The window's name.
        name: String,
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The committed state was written by something else.
    #[error(
        "the committed state of this device has {field} {have}, expected {want}; a successor must be of the same state version, others go through save and load"
    )]
    ForeignState {
        /// The field that differs.
        field: &'static str,
        /// Its value.
        have: u64,
        /// The expected value.
        want: u64,
    },
    /// The state type does not fit into its copy.
    #[error("a device state of {size} bytes does not fit into the {limit} bytes of a copy")]
    StateTooLarge {
        /// Its size.
        size: usize,
        /// The room.
        limit: u64,
    },
    /// An eventfd could not be made, rung or read.
    #[error("{call} on an eventfd failed: {errno}")]
    EventFd {
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
