//! The one error type of this crate.

use nix::errno::Errno;

/// What can go wrong while memory is made, mapped or described. Accesses themselves answer `None` when out of bounds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// memfd_create, ftruncate or sealing failed.
    #[error(
        "cannot create the memfd \"{name}\" of {len} bytes: {step} failed: {errno}; is there enough memory, and is memfd sealing allowed here?"
    )]
    Create {
        /// The memfd's name.
        name: String,
        /// The wanted size in bytes.
        len: u64,
        /// The system call that failed.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The descriptor is no memfd that is sealed against shrinking, so that a mapping could be cut under us.
    #[error(
        "the {what} descriptor is not sealed against shrinking (seals {seals:#x}); pass a memfd made with F_SEAL_SHRINK"
    )]
    NotSealed {
        /// What the descriptor was meant to be.
        what: &'static str,
        /// F_GET_SEALS, or 0 when the descriptor has none.
        seals: i32,
    },
    /// The descriptor's file does not hold the range that was to be mapped.
    #[error(
        "the {what} descriptor holds {have} bytes, but bytes {offset}..{offset}+{len} are needed; both sides must use the same layout"
    )]
    TooShort {
        /// What the descriptor was meant to be.
        what: &'static str,
        /// The file's size.
        have: u64,
        /// Start of the wanted range.
        offset: u64,
        /// Length of the wanted range.
        len: u64,
    },
    /// The range cannot be mapped as given.
    #[error(
        "cannot map {len} bytes at offset {offset} of the {what} memfd: offsets and lengths must be non-zero multiples of 4096 and below 2^46"
    )]
    BadRange {
        /// What the descriptor was meant to be.
        what: &'static str,
        /// Start of the wanted range.
        offset: u64,
        /// Length of the wanted range.
        len: u64,
    },
    /// A system call on the descriptor or mapping failed.
    #[error("{call} on the {what} memfd failed: {errno}")]
    System {
        /// What the descriptor was meant to be.
        what: &'static str,
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Discarding needs the descriptor, which was closed.
    #[error("cannot give pages back: this process closed its RAM descriptor after mapping")]
    NoDescriptor,
    /// A range outside the mapping.
    #[error("range {offset:#x}+{len:#x} lies outside the {what} mapping of {have:#x} bytes")]
    OutOfRange {
        /// What was mapped.
        what: &'static str,
        /// Start of the range.
        offset: u64,
        /// Length of the range.
        len: u64,
        /// Size of the mapping.
        have: u64,
    },
    /// A memory map that is not one.
    #[error("memory map: region {index} ({base:#x}+{len:#x}) {problem}")]
    BadLayout {
        /// Position in the list.
        index: usize,
        /// Guest-physical base.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The memfd's header is not what this version writes.
    #[error(
        "the dirty memfd has a foreign header: {field} is {have:#x}, expected {want:#x}; both processes must be of the same version and VM"
    )]
    BadHeader {
        /// The field that differs.
        field: &'static str,
        /// Its value.
        have: u64,
        /// The expected value.
        want: u64,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
