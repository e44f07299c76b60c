//! Opening a snapshot: its manifest read and checked, and every file open and of the length that the manifest says.
//!
//! The one idea: files are opened once, relative to the directory that was opened once, and only descriptors go on from
//! here; so it does not matter if another save takes the place meanwhile. Content is compared with the digests when it is
//! read: here ([`Snapshot::state`], [`Snapshot::check_memory`]), or by the process that a file is handed to.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};
use rustix::io::Errno;

use crate::{MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, SnapshotError, read_manifest};

/// How often a directory is opened again that another save has replaced meanwhile.
const TRIES: usize = 8;

/// A snapshot, opened read-only.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    manifest: Manifest,
    files: Vec<(String, OwnedFd)>,
}

impl Snapshot {
    /// Opens the snapshot in directory `path`.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`] where there is none; what is wrong with its manifest; a file that is missing, no regular
    /// file, or of another length.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = match openat(CWD, path, flags, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    return Err(SnapshotError::Missing {
                        path: path.to_owned(),
                        why: "there is no such directory".into(),
                    });
                }
                Err(errno) => {
                    let step = "open the directory";
                    return Err(SnapshotError::Io { path: path.to_owned(), step, source: errno.into() });
                }
            };
            match Self::in_folder(folder.as_fd(), path) {
                Err(_) if tries < TRIES && is_replaced(folder.as_fd(), path) => {}
                result => return result,
            }
        }
    }

    /// As [`Snapshot::open`], for a directory that is open; `path` is for messages.
    pub(crate) fn in_folder(folder: BorrowedFd<'_>, path: &Path) -> Result<Self, SnapshotError> {
        let Some((fd, length)) = open_file(folder, path, MANIFEST_FILE)? else {
            let why = "the directory has no file 'manifest'".into();
            return Err(SnapshotError::Missing { path: path.to_owned(), why });
        };
        if length > MAX_MANIFEST_BYTES {
            let why = format!("it has {length} bytes; none is longer than {MAX_MANIFEST_BYTES}");
            return Err(SnapshotError::damaged(MANIFEST_FILE, why));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut file = File::from(fd);
        let read = (&mut file).take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes);
        read.map_err(|source| SnapshotError::Io { path: path.join(MANIFEST_FILE), step: "read the file", source })?;
        let manifest = read_manifest(&bytes)?;
        let mut files = vec![(MANIFEST_FILE.to_owned(), OwnedFd::from(file))];
        let states = manifest.states.iter().map(|state| (&state.file, state.length));
        for (name, want) in std::iter::once((&manifest.ram.file, manifest.ram.length)).chain(states) {
            let Some((fd, length)) = open_file(folder, path, name)? else {
                return Err(SnapshotError::damaged(name, "the file is missing"));
            };
            if length != want {
                let why = format!("it has {length} bytes, and the manifest says {want}");
                return Err(SnapshotError::damaged(name, why));
            }
            files.push((name.clone(), fd));
        }
        Ok(Self { path: path.to_owned(), manifest, files })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its files by name: the manifest, RAM, the states.
    pub fn files(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.files.iter().map(|(name, fd)| (name.as_str(), fd.as_fd()))
    }

    /// A file by its name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.files().find(|(known, _)| *known == name).map(|(_, fd)| fd)
    }
}

/// Opens a regular file in the directory: the descriptor and its length; `None` if there is none.
fn open_file(folder: BorrowedFd<'_>, path: &Path, name: &str) -> Result<Option<(OwnedFd, u64)>, SnapshotError> {
    // Whoever opens a pipe without O_NONBLOCK waits for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NXIO) => return Err(SnapshotError::damaged(name, "it is no regular file")),
        Err(errno) => {
            return Err(SnapshotError::Io { path: path.join(name), step: "open the file", source: errno.into() });
        }
    };
    let stat = fstat(&fd).map_err(|errno| SnapshotError::Io {
        path: path.join(name),
        step: "look at the file",
        source: errno.into(),
    })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SnapshotError::damaged(name, "it is no regular file"));
    }
    Ok(Some((fd, u64::try_from(stat.st_size).unwrap_or(0))))
}

/// Whether `path` leads to another directory by now.
fn is_replaced(folder: BorrowedFd<'_>, path: &Path) -> bool {
    match (fstat(folder), stat(path)) {
        (Ok(old), Ok(new)) => (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino),
        _ => false,
    }
}
