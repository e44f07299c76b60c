//! The one error type of this crate.

use nix::errno::Errno;

/// What can go wrong with a userfaultfd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system call is refused.
    #[error(
        "cannot make a userfaultfd: {errno}; memory on demand needs Linux 5.11 or newer with CONFIG_USERFAULTFD, and a sandbox \
         around this one that allows it; restore without it"
    )]
    NotPermitted {
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel has userfaultfd, but not for what guest RAM is.
    #[error(
        "this kernel cannot report missing pages of shared memory and place them (it says {features:#x}); restore without it"
    )]
    Missing {
        /// The bits it has.
        features: u64,
    },
    /// The process whose memory it is has ended.
    #[error("the process whose memory is to be filled has ended")]
    Gone,
    /// Nothing can be done with this range.
    #[error("cannot {what} {base:#x}+{len:#x}: {errno}; ranges are pages of a registered mapping")]
    Range {
        /// What was tried.
        what: &'static str,
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Another call on the descriptor.
    #[error("{what} of a userfaultfd failed: {errno}")]
    System {
        /// The call.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
