//! Writing a snapshot's directory: under a temporary name, and in its place in one step.
//!
//! The one idea: nothing that has the snapshot's name is ever changed. The new directory is complete and synced before one
//! `renameat2` puts it where the name leads, with the old one, if there is one, in exchange; so a writer that dies at any
//! system call leaves the old snapshot or the new one. What a dead writer leaves beside it (`.NAME.partial-…`) is known by
//! its lock: a living writer holds a `flock` on its temporary directory, and the next save removes those without.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, fsync, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::{MANIFEST_FILE, Snapshot, SnapshotError, is_file_name, is_own_file};

/// The longest name of a snapshot, so that the temporary one fits a file system's 255.
const MAX_NAME: usize = 200;
/// How often a step is tried that others, saving under the same name, may disturb.
const TRIES: usize = 32;
/// How a directory is opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A snapshot that is being written. Dropped without [`Directory::commit`], it is removed.
#[derive(Debug)]
pub struct Directory {
    parent: OwnedFd,
    path: PathBuf,
    name: String,
    temporary: String,
    /// Locked for as long as the temporary directory is in use.
    folder: OwnedFd,
    files: Vec<(String, OwnedFd)>,
    committed: bool,
}

impl Directory {
    /// Makes `.NAME.partial-…` (mode 0700) in `parent`, and in it the empty `files` (mode 0600, open for writing). Removes
    /// what dead writers of the same name left there.
    ///
    /// # Errors
    /// A name that cannot be; something in the place that is no snapshot; what the kernel refuses, with the path.
    pub fn create_temporary(parent: &Path, name: &str, files: &[impl AsRef<str>]) -> Result<Self, SnapshotError> {
        let bad = |name: &str, why| SnapshotError::Name { name: name.to_owned(), why };
        if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']) || matches!(name, "." | "..") {
            return Err(bad(name, "is no name of a directory, or longer than 200 bytes"));
        }
        for file in files {
            if !is_file_name(file.as_ref()) || !is_own_file(file.as_ref()) {
                return Err(bad(file.as_ref(), "is no name of a file of a snapshot"));
            }
        }
        let path = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = |path: &Path, step| {
            let path = path.to_owned();
            move |errno: Errno| SnapshotError::Io { path, step, source: errno.into() }
        };
        let parent = openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(at(path, "open the directory"))?;
        let path = parent_join(path, name);
        occupant(parent.as_fd(), name, &path)?;
        remove_stale(parent.as_fd(), name);
        let (temporary, folder) =
            make_locked(parent.as_fd(), name).map_err(at(&path, "make a temporary directory beside it"))?;
        let mut directory =
            Self { parent, path, name: name.to_owned(), temporary, folder, files: Vec::new(), committed: false };
        for file in files {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(&directory.folder, file.as_ref(), flags, Mode::RUSR | Mode::WUSR);
            let fd = made.map_err(at(&directory.path.join(file.as_ref()), "make the file"))?;
            directory.files.push((file.as_ref().to_owned(), fd));
        }
        Ok(directory)
    }

    /// Where the snapshot will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files by name, in the order in which they were asked for.
    pub fn files(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.files.iter().map(|(name, fd)| (name.as_str(), fd.as_fd()))
    }

    /// A file by its name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.files().find(|(known, _)| *known == name).map(|(_, fd)| fd)
    }

    /// Puts the snapshot in its place and removes the one that was there. Everything is on the disk before the name leads to
    /// it, and the name before this returns.
    ///
    /// # Errors
    /// A snapshot that is not complete (its manifest does not read, or a file has another length); something in the place
    /// that is no snapshot; [`SnapshotError::Exchange`]. The place is as before then, and the temporary directory is gone.
    pub fn commit(mut self) -> Result<PathBuf, SnapshotError> {
        let path = self.path.clone();
        let io = |step| {
            let path = path.clone();
            move |errno: Errno| SnapshotError::Io { path, step, source: errno.into() }
        };
        Snapshot::in_folder(self.folder.as_fd(), &path)?;
        for (_, file) in &self.files {
            fsync(file).map_err(io("sync its files"))?;
        }
        fsync(&self.folder).map_err(io("sync the directory"))?;
        let replaced = self.take_place()?;
        self.committed = true;
        fsync(&self.parent).map_err(io("sync the directory that it is in"))?;
        if replaced {
            // Whatever of it cannot be removed is in nobody's way.
            remove(self.parent.as_fd(), &self.temporary);
        }
        Ok(path)
    }

    /// The step itself: true if the temporary name has the old snapshot now.
    fn take_place(&self) -> Result<bool, SnapshotError> {
        let rename = |flags| renameat_with(&self.parent, &self.temporary, &self.parent, &self.name, flags);
        let mut last = Errno::BUSY;
        for _ in 0..TRIES {
            let there = occupant(self.parent.as_fd(), &self.name, &self.path)?;
            let flags = if there { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            last = match rename(flags) {
                Ok(()) => return Ok(there),
                // Somebody else came or went in between.
                Err(errno @ (Errno::EXIST | Errno::NOENT)) => errno,
                Err(Errno::INVAL | Errno::NOSYS) if there => {
                    return Err(SnapshotError::Exchange { path: self.path.clone() });
                }
                // A plain rename replaces no directory but an empty one.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    match renameat(&self.parent, &self.temporary, &self.parent, &self.name) {
                        Ok(()) => return Ok(false),
                        Err(errno) => errno,
                    }
                }
                Err(errno) => {
                    last = errno;
                    break;
                }
            };
        }
        Err(SnapshotError::Io { path: self.path.clone(), step: "put it in its place", source: last.into() })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.committed {
            remove(self.parent.as_fd(), &self.temporary);
        }
    }
}

fn parent_join(parent: &Path, name: &str) -> PathBuf {
    if parent == Path::new(".") { PathBuf::from(name) } else { parent.join(name) }
}

fn partial_prefix(name: &str) -> String {
    format!(".{name}.partial-")
}

/// Whether there is a snapshot (or an empty directory) in the place; an error if something else is.
fn occupant(parent: BorrowedFd<'_>, name: &str, path: &Path) -> Result<bool, SnapshotError> {
    let occupied = |why: String| SnapshotError::Occupied { path: path.to_owned(), why };
    let io = |step| move |errno: Errno| SnapshotError::Io { path: path.to_owned(), step, source: errno.into() };
    let folder = match openat(parent, name, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(occupied("there is something there already, and it is no directory".into()));
        }
        Err(errno) => return Err(io("look what is there")(errno)),
    };
    let names = entries(folder.as_fd()).map_err(io("look what is there"))?;
    if let Some(other) = names.iter().find(|name| !is_own_file(name)) {
        let why = format!("the directory holds '{}', which is no file of a snapshot", other.escape_debug());
        return Err(occupied(why));
    }
    if !names.is_empty() && !names.iter().any(|name| name == MANIFEST_FILE) {
        return Err(occupied("the directory is not empty and holds no manifest of a snapshot".into()));
    }
    Ok(true)
}

/// The names in a directory; one that is no UTF-8 is none of ours and comes with replacement characters.
fn entries(folder: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Makes a directory of a new name and locks it. A cleaner that saw it before the lock may have taken it away; then another.
fn make_locked(parent: BorrowedFd<'_>, name: &str) -> Result<(String, OwnedFd), Errno> {
    let mut last = Errno::EXIST;
    for attempt in 0..TRIES {
        let mut random = RandomState::new().build_hasher();
        random.write_usize(attempt);
        let temporary = format!("{}{:016x}", partial_prefix(name), random.finish());
        match mkdirat(parent, &temporary, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(errno),
        }
        let opened = openat(parent, &temporary, FOLDER, Mode::empty());
        let locked = opened.and_then(|folder| {
            flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
            if fstat(&folder)?.st_nlink == 0 { Err(Errno::NOENT) } else { Ok(folder) }
        });
        match locked {
            Ok(folder) => return Ok((temporary, folder)),
            Err(errno @ (Errno::NOENT | Errno::AGAIN)) => last = errno,
            Err(errno) => {
                let _ = unlinkat(parent, &temporary, AtFlags::REMOVEDIR);
                return Err(errno);
            }
        }
    }
    Err(last)
}

/// Removes the temporary directories of writers that are gone. Nothing of it is an error: the save does not need the room.
fn remove_stale(parent: BorrowedFd<'_>, name: &str) {
    let prefix = partial_prefix(name);
    let is_random = |rest: &str| rest.len() == 16 && rest.bytes().all(|c| c.is_ascii_hexdigit());
    for entry in entries(parent).unwrap_or_default() {
        if !entry.strip_prefix(&prefix).is_some_and(is_random) {
            continue;
        }
        let Ok(folder) = openat(parent, &entry, FOLDER, Mode::empty()) else { continue };
        let ours = fstat(&folder).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw());
        if ours && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(parent, &entry);
        }
    }
}

/// Removes a directory and the files of a snapshot in it. What else is in there stays, and the directory with it.
fn remove(parent: BorrowedFd<'_>, name: &str) {
    let Ok(folder) = openat(parent, name, FOLDER, Mode::empty()) else { return };
    for entry in entries(folder.as_fd()).unwrap_or_default().iter().filter(|entry| is_own_file(entry)) {
        let is_file = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if statat(&folder, entry, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_file) {
            let _ = unlinkat(&folder, entry, AtFlags::empty());
        }
    }
    let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
}
