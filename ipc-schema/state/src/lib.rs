//! Saved state of the processes of a VM: where it lies, how it is checked before anybody believes it, and how people look at
//! it.
//!
//! A process that saves: [`begin`] makes a message (saved.capnp, `SavedState`) with all that is not its own business, the
//! process fills in its member of the union, [`finish`] names what a reader may not ignore, and [`StateArea::leave`] puts the
//! message into the process's row of the memfd `state`.
//!
//! A process that loads: [`StateArea::take`] copies a row and compares its digest, [`check`] refuses what is not meant for
//! this process or not understood, and the process reads and validates its member. Refusals of single fields are
//! [`StateError::field`], which name the field as `board.pit.channels[2].mode`. Lists of registers that hosts may differ in
//! go through [`registers`] and [`tolerance`].
//!
//! People: [`inspect`] prints, compares and checks files. Tests: [`golden`] keeps what older versions wrote, [`compat`] says
//! which changes of the schema they survive.

use std::path::PathBuf;

mod area;
pub mod compat;
mod envelope;
pub mod golden;
pub mod inspect;
mod kind;
pub mod model;
pub mod registers;
pub mod tolerance;
mod walk;

pub use area::{Left, MEMFD_BYTES, ROW_BYTES, ROWS, StateArea};
pub use envelope::{begin, check, finish, kind, must_understand, not_understood};
pub use kind::Kind;

/// A message that is being built.
pub type Message = capnp::message::Builder<capnp::message::HeapAllocator>;

/// Why a state cannot be saved or taken.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A row outside the memfd.
    #[error("row {0} of the state memfd does not exist; it has {ROWS}")]
    Row(u16),
    /// Longer than a row.
    #[error("a state of {length} bytes is longer than {ROW_BYTES}")]
    TooLong {
        /// In bytes.
        length: u64,
    },
    /// Not the bytes that were meant.
    #[error("the state differs from its digest: it was changed on the way")]
    Digest,
    /// The memfd cannot be mapped.
    #[error(transparent)]
    Memory(#[from] guest_memory::Error),
    /// Not a message of this schema.
    #[error("the state is no message of its schema: {0}")]
    Message(#[from] capnp::Error),
    /// A text that is none.
    #[error("a text in the state is no UTF-8: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// An enumerant of a newer version.
    #[error("the state has a value that this version does not know: {0}")]
    Unknown(#[from] capnp::NotInSchema),
    /// A field that the reader does not know and may not ignore.
    #[error("field '{0}' must be understood, and this version does not know it; use the version that wrote the state")]
    MustUnderstand(String),
    /// A file that cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file that is no state.
    #[error("{name}: {cause}")]
    In {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        cause: Box<StateError>,
    },
    /// A state that is not the one that an older version left.
    #[error("{name}: the state is not as it was:\n{differences}")]
    Golden {
        /// The file.
        name: String,
        /// What differs.
        differences: inspect::Differences,
    },
    /// A field whose value cannot be.
    #[error("field '{field}': {why}")]
    Field {
        /// Its path, such as `board.pit.channels[2].mode`.
        field: String,
        /// What is wrong with its value.
        why: String,
    },
}

impl StateError {
    /// A field whose value cannot be: its path, such as `board.pit.channels[2].mode`, and what is wrong, such as
    /// `9 is no mode`.
    pub fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }
}
