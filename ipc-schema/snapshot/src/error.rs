//! What can be wrong with a snapshot: which file, which field of it, why, and what to do.

use std::path::PathBuf;

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file is not what was written.
    #[error("{file}: {why}")]
    Damaged {
        /// Its name in the directory.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A field of the manifest has a value that cannot be.
    #[error("manifest: field '{field}': {why}")]
    Field {
        /// Its path, such as `states[1].file`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another version wrote it.
    #[error("manifest: {why}")]
    Version {
        /// What this version cannot read.
        why: String,
    },
    /// There is nothing that looks like a snapshot.
    #[error("{}: there is no snapshot: {why}", path.display())]
    Missing {
        /// What was opened.
        path: PathBuf,
        /// What is not there.
        why: String,
    },
    /// What is in the way is no snapshot, so it is not replaced.
    #[error("{}: {why}", path.display())]
    Occupied {
        /// The place.
        path: PathBuf,
        /// What is there.
        why: String,
    },
    /// A name that no snapshot or file of one can have.
    #[error("'{name}': {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file system cannot exchange two directories.
    #[error("{}: the file system cannot exchange two directories in one step, so the old snapshot stays", path.display())]
    Exchange {
        /// The snapshot that was to be replaced.
        path: PathBuf,
    },
    /// A file of a snapshot that is open cannot be read.
    #[error("{file}: it cannot be read: {cause}")]
    Unreadable {
        /// Its name in the directory.
        file: String,
        /// What the kernel says.
        cause: std::io::Error,
    },
    /// The kernel refused.
    #[error("{}: {step}: {source}", path.display())]
    Io {
        /// Of what.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The answer.
        source: std::io::Error,
    },
}

impl SnapshotError {
    pub(crate) fn damaged(file: &str, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), why: why.into() }
    }

    pub(crate) fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }

    /// A stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Field { .. } => "snapshot.damaged",
            Self::Version { .. } => "snapshot.version",
            Self::Missing { .. } => "snapshot.missing",
            Self::Occupied { .. } => "snapshot.occupied",
            Self::Name { .. } => "snapshot.name",
            Self::Exchange { .. } => "snapshot.exchange",
            Self::Unreadable { .. } => "snapshot.read",
            Self::Io { .. } => "snapshot.io",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Field { .. } => {
                "the snapshot cannot be trusted: restore another one, or copy this one again from where it was made"
            }
            Self::Version { .. } => "use the version of Atoll that wrote the snapshot, or a newer one",
            Self::Missing { .. } => "name the directory that 'atoll snapshot' made",
            Self::Occupied { .. } => "choose another name, or move away what is there",
            Self::Name { .. } => "choose another name",
            Self::Exchange { .. } => "remove the old snapshot first, or save to another file system",
            Self::Unreadable { .. } => "check the health of the file system, or use another snapshot",
            Self::Io { .. } => "check the path, its permissions, and the free space there",
        }
    }
}
