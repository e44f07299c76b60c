//! Everything that can be wrong with a kernel, an initrd or the memory that they shall go into.
//!
//! The idea: whoever reads the message has only a file and a command line to change, so each variant names the file,
//! the field, where it is, what it says and what to do about it.

use std::fmt;
use std::io;

/// Why a guest could not be loaded. [`LoadError::code`] is stable; the text is for people.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file ends before something that it promises.
    #[error(
        "{file}: {what} needs the bytes up to offset {needed:#x}, but the file has only {len:#x} ({len} bytes); \
         is the download complete?"
    )]
    Truncated {
        /// Which file.
        file: String,
        /// What would lie past the end.
        what: String,
        /// First offset after the thing that is needed.
        needed: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// A field holds something that cannot be obeyed.
    #[error("{file}: {field} at offset {offset:#x} says {value:#x}: {problem}; {remedy}")]
    Field {
        /// Which file.
        file: String,
        /// The field's name in its specification.
        field: &'static str,
        /// Where the field is in the file, in bytes.
        offset: u64,
        /// What the field says.
        value: u64,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file is no kernel of a known format.
    #[error("{file}: {found}; {remedy}")]
    Unrecognised {
        /// Which file.
        file: String,
        /// What it looks like instead.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something has no place in guest memory, wherever it might go.
    #[error("{what} needs {size:#x} bytes{place}, and guest memory has no such room ({have}); {remedy}")]
    NoRoom {
        /// What should be placed.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The constraint on its place, with a leading blank.
        place: String,
        /// What there is.
        have: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something must go to one place, and that place is taken.
    #[error("{what} must go to {start:#x}..{end:#x}, but {other} is at {other_start:#x}..{other_end:#x}; {remedy}")]
    Collision {
        /// What should be placed.
        what: String,
        /// First address that it needs.
        start: u64,
        /// First address after it.
        end: u64,
        /// What is there already.
        other: String,
        /// First address of that.
        other_start: u64,
        /// First address after that.
        other_end: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The command line is longer than the kernel reads, or than we pass on.
    #[error("command line: {len} bytes, but {limit_of} takes at most {max}; shorten it")]
    CommandLineTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is taken, in bytes, without the closing zero.
        max: u64,
        /// Whose limit it is.
        limit_of: &'static str,
    },
    /// The command line has a zero byte, at which the kernel would stop reading.
    #[error("command line: a zero byte at position {at} would end it there; remove it")]
    CommandLineZero {
        /// Position in bytes.
        at: usize,
    },
    /// The description of the machine does not fit the boot protocol or itself.
    #[error("machine description: {0}")]
    Machine(String),
    /// A file could not be read.
    #[error("{file}: reading {len} bytes at offset {offset:#x} failed: {cause}; is the file still what it was?")]
    Read {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
        /// What the system said.
        cause: io::Error,
    },
    /// Guest memory did not take a write that the memory map allows.
    #[error(
        "guest memory: {what} could not be written to {start:#x}..{end:#x}: {cause}; memory map and memory disagree"
    )]
    Memory {
        /// What should be written.
        what: String,
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
        /// What the memory said.
        cause: String,
    },
}

impl LoadError {
    /// A stable code for scripts and for the control socket.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "loader.truncated",
            Self::Field { .. } => "loader.field",
            Self::Unrecognised { .. } => "loader.format",
            Self::NoRoom { .. } => "loader.no-room",
            Self::Collision { .. } => "loader.collision",
            Self::CommandLineTooLong { .. } => "loader.command-line-length",
            Self::CommandLineZero { .. } => "loader.command-line-zero",
            Self::Machine(_) => "loader.machine",
            Self::Read { .. } => "loader.read",
            Self::Memory { .. } => "loader.memory",
        }
    }

    /// A memory fault at a known place.
    pub(crate) fn memory(what: &str, start: u64, len: u64, cause: &dyn fmt::Display) -> Self {
        Self::Memory { what: what.to_owned(), start, end: start.saturating_add(len), cause: cause.to_string() }
    }
}
