//! Everything that can be wrong with a kernel, an initrd or the memory that they shall go into.
//!
//! The idea: whoever reads the message has only a file and a command line to change, so each variant names the file,
//! the field, where it is, what it says and what to do about it. The three parts (what failed, why, what to do) are also
//! there one by one, since the message to the supervisor has a field for each.

use std::fmt;
use std::io;

/// Why a guest could not be loaded. [`LoadError::code`] is stable; the texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file ends before something that it promises.
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
    Unrecognised {
        /// Which file.
        file: String,
        /// What it looks like instead.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something has no place in guest memory, wherever it might go.
    NoRoom {
        /// What should be placed.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The constraint on its place, with a leading blank, or nothing.
        place: String,
        /// What there is.
        have: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something must go to one place, and that place is taken.
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
    CommandLineTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is taken, in bytes, without the closing zero.
        max: u64,
        /// Whose limit it is.
        limit_of: &'static str,
    },
    /// The command line has a zero byte, at which the kernel would stop reading.
    CommandLineZero {
        /// Position in bytes.
        at: usize,
    },
    /// The description of the machine does not fit the boot protocol or itself.
    Machine(String),
    /// A file could not be read.
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

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what(), self.why(), self.remedy())
    }
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

    /// What failed: a file by its name, or the part of the machine.
    pub fn what(&self) -> &str {
        match self {
            Self::Truncated { file, .. }
            | Self::Field { file, .. }
            | Self::Unrecognised { file, .. }
            | Self::Read { file, .. } => file,
            Self::NoRoom { .. } | Self::Collision { .. } | Self::Memory { .. } => "guest memory",
            Self::CommandLineTooLong { .. } | Self::CommandLineZero { .. } => "command line",
            Self::Machine(_) => "machine description",
        }
    }

    /// Why it failed.
    pub fn why(&self) -> String {
        match self {
            Self::Truncated { what, needed, len, .. } => format!(
                "{what} needs the bytes up to offset {needed:#x} ({needed}), but the file has only {len:#x} ({len}) bytes"
            ),
            Self::Field { field, offset, value, problem, .. } => {
                format!("{field} at offset {offset:#x} says {value:#x}: {problem}")
            }
            Self::Unrecognised { found, .. } => found.clone(),
            Self::NoRoom { what, size, place, have, .. } => {
                format!("{what} needs {size:#x} bytes ({} KiB){place}, and there is no such room ({have})", size >> 10)
            }
            Self::Collision { what, start, end, other, other_start, other_end, .. } => {
                format!("{what} must go to {start:#x}..{end:#x}, but {other} is at {other_start:#x}..{other_end:#x}")
            }
            Self::CommandLineTooLong { len, max, limit_of } => {
                format!("it has {len} bytes, and {limit_of} takes at most {max}")
            }
            Self::CommandLineZero { at } => format!("a zero byte at position {at} would end it there"),
            Self::Machine(problem) => problem.clone(),
            Self::Read { offset, len, cause, .. } => {
                format!("reading {len} bytes at offset {offset:#x} failed: {cause}")
            }
            Self::Memory { what, start, end, cause } => {
                format!("{what} could not be written to {start:#x}..{end:#x}: {cause}")
            }
        }
    }

    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Field { remedy, .. }
            | Self::Unrecognised { remedy, .. }
            | Self::NoRoom { remedy, .. }
            | Self::Collision { remedy, .. } => remedy,
            Self::Truncated { .. } => "is the download complete?",
            Self::CommandLineTooLong { .. } => "shorten it",
            Self::CommandLineZero { .. } => "remove it",
            Self::Machine(_) => "correct the configuration of the machine",
            Self::Read { .. } => "check the disk that the file is on, and that nothing changes the file",
            Self::Memory { .. } => "memory map and memory disagree; report this as a defect",
        }
    }

    /// A memory fault at a known place.
    pub(crate) fn memory(what: &str, start: u64, len: u64, cause: &dyn fmt::Display) -> Self {
        Self::Memory { what: what.to_owned(), start, end: start.saturating_add(len), cause: cause.to_string() }
    }
}
