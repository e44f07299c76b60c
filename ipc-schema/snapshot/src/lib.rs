//! Snapshots as files: a directory with a manifest, one state file for each process, and RAM as a sparse file.
//!
//! The one idea: the manifest says what every other file must be (length and digest), and a directory is written under a
//! temporary name and takes its place in one step. So whoever opens a snapshot has all of one save, or a reason why not.
//!
//! * [`write_manifest`] and [`read_manifest`]: the manifest's bytes. Everything in it is checked before anybody sees it, but
//!   for the configuration, which is only bounded here and belongs to the supervisor's own reader.
//! * [`Directory`]: for who writes; it holds the user's rights and hands the open files to the streamer.
//! * [`Snapshot`]: for who reads; it opens everything read-only.
//! * [`content`]: RAM, piece by piece, each compared with its digest before anybody sees it.
//!
//! ```no_run
//! use snapshot::{Directory, MANIFEST_FILE, MEMORY_FILE, Snapshot};
//! # fn fill(_: &Directory) {}
//! # fn main() -> Result<(), snapshot::SnapshotError> {
//! let parent = std::path::Path::new("/var/lib/vms");
//! let directory = Directory::create_temporary(parent, "monday", &[MANIFEST_FILE, MEMORY_FILE, "board.state"])?;
//! fill(&directory);                       // the streamer writes and syncs, the manifest last
//! let path = directory.commit()?;         // from now on "monday" is this snapshot
//! let snapshot = Snapshot::open(&path)?;
//! println!("{} bytes of RAM", snapshot.manifest().ram.length);
//! # Ok(()) }
//! ```

pub mod content;
mod directory;
mod error;
mod manifest;
mod open;
pub mod sparse;

pub use directory::Directory;
pub use error::SnapshotError;
pub use manifest::{DIGEST_BYTES, Manifest, Part, RamFile, StateFile, read_manifest, write_manifest};
pub use open::Snapshot;
pub use wire::snapshot_capnp::manifest::Status;

/// The number of the manifest's format.
pub const FORMAT: u32 = 1;
/// The first bytes of a manifest file.
pub const MAGIC: [u8; 8] = *b"ATOLLSNP";
/// The manifest's name in the directory.
pub const MANIFEST_FILE: &str = "manifest";
/// The RAM file's name in the directory.
pub const MEMORY_FILE: &str = "memory";
/// How the names of state files end.
pub const STATE_SUFFIX: &str = ".state";
/// Bytes of RAM under one digest, as written by this version.
pub const CHUNK_BYTES: u32 = 256 << 10;
/// The smallest chunk that is read.
pub const MIN_CHUNK_BYTES: u32 = 64 << 10;
/// The largest chunk that is read.
pub const MAX_CHUNK_BYTES: u32 = 16 << 20;
/// The longest RAM file; no machine has more (machine-model).
pub const MAX_RAM_BYTES: u64 = 512 << 30;
/// The longest state file: a row of the memfd `state`.
pub const MAX_STATE_BYTES: u64 = 1 << 20;
/// The most state files.
pub const MAX_STATES: usize = 64;
/// The longest configuration, as a message, in bytes.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;
/// The most bytes of digests, of holes as well: those of the longest RAM at [`CHUNK_BYTES`]. A reader has them in memory.
pub const MAX_DIGESTS_BYTES: u64 = MAX_RAM_BYTES / CHUNK_BYTES as u64 * DIGEST_BYTES as u64;
/// The longest manifest file: the digests, and everything else.
pub const MAX_MANIFEST_BYTES: u64 = MAX_DIGESTS_BYTES + (1 << 20);
/// The most resets: a supervisor takes over no number that is close to where it would start over.
pub const MAX_RESETS: u64 = (1 << 62) - 1;

/// The name of a process's state file.
#[must_use]
pub fn state_file(process: &str) -> String {
    format!("{process}{STATE_SUFFIX}")
}

/// Whether `name` may be that of a file of a snapshot: 1 to 64 letters, digits, `.`, `_` and `-`, and no `.` first.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(known)
}

/// Whether a save makes files of this name, so that a directory of nothing else may be replaced.
#[must_use]
pub(crate) fn is_own_file(name: &str) -> bool {
    is_file_name(name) && (name == MANIFEST_FILE || name == MEMORY_FILE || name.ends_with(STATE_SUFFIX))
}
