//! Where running VMs are found: one directory for each, whose locked file is the name.
//!
//! The idea: a lock cannot be stale. The file `lock` of a VM's directory is locked (flock) by the keeper, so the name is
//! taken exactly as long as the VM lives, and a directory whose lock is free is rubbish that the next one who sees it removes.
//! Whoever takes the lock checks that the file is still the one at that path, since it may have been removed meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::failure::{Result, problem};

/// Longest name: what the keeper's protocol has room for.
const MAX_NAME: usize = 31;
/// A path of a Unix socket has at most so many bytes (unix(7): 108 with the zero).
pub const MAX_SOCKET_PATH: usize = 107;
/// Most directories that are looked at.
const MAX_VMS: usize = 10_000;
/// Whoever removes a directory holds its lock for a moment; a name counts as taken after so many looks.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Names of the files in a VM's directory.
const LOCK: &str = "lock";
const KEEPER: &str = "keeper.pid";
const LOG: &str = "log";
const CONSOLE: &str = "console";

/// The folder of all VMs of a user.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

/// The directory of one VM.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub path: PathBuf,
}

/// A name that this process has taken.
#[derive(Debug)]
pub struct Claim {
    pub place: Place,
    /// Locked as long as any copy of it is open.
    pub lock: OwnedFd,
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A VM, or one that is being started.
    Alive,
    /// What is left of one.
    Stale,
    /// Nothing, or something in the making.
    Nothing,
}

/// Checks the name of a VM.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() <= MAX_NAME && name.chars().all(good) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    Err(problem(
        "vm.name",
        format!("'{shown}' cannot be the name of a VM"),
        format!("a name has 1 to {MAX_NAME} letters, digits, '.', '_' and '-', and begins with a letter or digit"),
        "choose another name",
    ))
}

impl Root {
    /// The folder of the caller: `$XDG_RUNTIME_DIR/atoll`, `/run/atoll` for root, or `/tmp/atoll-UID`.
    pub fn of_caller() -> Result<Self> {
        let uid = geteuid().as_raw();
        let given = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
        let path = match given {
            Some(folder) => PathBuf::from(folder).join("atoll"),
            None if uid == 0 => PathBuf::from("/run/atoll"),
            None => PathBuf::from(format!("/tmp/atoll-{uid}")),
        };
        Self::at(&path, uid)
    }

    /// The folder at `path`, made if it is not there, checked to be `uid`'s alone.
    pub fn at(path: &Path, uid: u32) -> Result<Self> {
        let failed = |why: String, remedy: &str| {
            problem("runtime-directory", format!("the directory {} cannot be used", path.display()), why, remedy)
        };
        let elsewhere = "set XDG_RUNTIME_DIR to a directory that only you can write";
        if !path.is_absolute() {
            return Err(failed("its path is not absolute".into(), elsewhere));
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error.to_string(), elsewhere)),
        }
        let found = fs::symlink_metadata(path).map_err(|error| failed(error.to_string(), elsewhere))?;
        if !found.is_dir() {
            return Err(failed("it is not a directory".into(), elsewhere));
        }
        if found.uid() != uid {
            return Err(failed(format!("it belongs to user {}, not to {uid}", found.uid()), elsewhere));
        }
        if found.mode() & 0o077 != 0 {
            let remedy = format!("chmod 700 {}, if you trust what is in it", path.display());
            return Err(failed(format!("others may enter it (mode {:o})", found.mode() & 0o777), &remedy));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where a VM of this name is, if there is one.
    pub fn place(&self, name: &str) -> Result<Place> {
        check_name(name)?;
        Ok(Place { name: name.to_owned(), path: self.path.join(name) })
    }

    /// Every directory, in order of names. What has no possible name is not ours.
    pub fn places(&self) -> Result<Vec<Place>> {
        let failed = |error: io::Error| {
            problem("runtime-directory", format!("{} cannot be read", self.path.display()), error, "")
        };
        let mut places = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)?.take(MAX_VMS) {
            let name = entry.map_err(failed)?.file_name();
            if let Some(place) = name.to_str().and_then(|name| self.place(name).ok()) {
                places.push(place);
            }
        }
        places.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(places)
    }

    /// Takes a name, and removes what a VM of that name has left.
    pub fn claim(&self, name: &str) -> Result<Claim> {
        let place = self.place(name)?;
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let failed = |error: io::Error| {
                let what = format!("the directory {} of the new VM cannot be made", place.path.display());
                problem("runtime-directory", what, error, "")
            };
            if let Some(lock) = place.try_claim().map_err(failed)? {
                place.clear().map_err(failed)?;
                return Ok(Claim { place, lock });
            }
        }
        Err(problem(
            "vm.name-taken",
            format!("the name '{name}' (--name) is in use"),
            format!("a VM holds the lock {}", place.path.join(LOCK).display()),
            format!("choose another name, or end that VM with 'atoll kill {name}'"),
        ))
    }

    /// Takes the first free one of vm1, vm2, ….
    pub fn claim_any(&self) -> Result<Claim> {
        for number in 1..=MAX_VMS {
            let name = format!("vm{number}");
            if self.place(&name)?.look() != Found::Alive {
                // Somebody else may have been quicker.
                match self.claim(&name) {
                    Err(error) if error.code == "vm.name-taken" => {}
                    other => return other,
                }
            }
        }
        Err(problem(
            "vm.name-taken",
            "no name is left",
            "there are too many VMs",
            "end some, or choose a name with --name",
        ))
    }
}

impl Place {
    pub fn control(&self) -> PathBuf {
        self.path.join(control::SOCKET_NAME)
    }

    pub fn descriptors(&self) -> PathBuf {
        self.path.join(control::DESCRIPTORS_NAME)
    }

    pub fn console(&self) -> PathBuf {
        self.path.join(CONSOLE)
    }

    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Notes the keeper's pid.
    pub fn write_keeper(&self, pid: i32) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join(KEEPER))?;
        io::Write::write_all(&mut file, format!("{pid}\n").as_bytes())
    }

    /// The keeper's pid as it was noted. Who acts on it must check that it is still that process.
    pub fn keeper(&self) -> Option<i32> {
        let text = fs::read_to_string(self.path.join(KEEPER)).ok()?;
        text.trim().parse().ok().filter(|pid| *pid > 1)
    }

    /// The lock file's device and inode.
    pub fn lock_identity(&self) -> Option<(u64, u64)> {
        let found = fs::symlink_metadata(self.path.join(LOCK)).ok()?;
        Some((found.dev(), found.ino()))
    }

    /// What is there.
    pub fn look(&self) -> Found {
        match self.open_lock(false) {
            Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(_) => Found::Alive,
                Ok(()) if self.is_current(&file) => Found::Stale,
                Ok(()) => Found::Nothing,
            },
            Err(_) => Found::Nothing,
        }
    }

    /// Removes the directory if no VM has it.
    pub fn sweep(&self) -> bool {
        let Ok(file) = self.open_lock(false) else { return false };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !self.is_current(&file) {
            return false;
        }
        // The lock goes last: until then nobody else touches the directory.
        self.clear()
            .and_then(|()| fs::remove_file(self.path.join(LOCK)))
            .and_then(|()| fs::remove_dir(&self.path))
            .is_ok()
    }

    fn try_claim(&self) -> io::Result<Option<OwnedFd>> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = match self.open_lock(true) {
            Ok(file) => file,
            // Removed since.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if self.is_current(&file) => Ok(Some(file.into())),
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_lock(&self, create: bool) -> io::Result<File> {
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).mode(0o600).custom_flags(no_follow);
        options.open(self.path.join(LOCK))
    }

    fn is_current(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|found| Some((found.dev(), found.ino())) == self.lock_identity())
    }

    /// Removes everything but the lock. Directories are not ours and stay.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != LOCK && !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("atoll-directory-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn root(&self) -> Root {
            Root::at(&self.0.join("atoll"), geteuid().as_raw()).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_name_is_taken_as_long_as_its_lock_is_held_by_anybody() {
        let folder = Folder::new("taken");
        let root = folder.root();
        let claim = root.claim("web").unwrap();
        assert_eq!(claim.place.look(), Found::Alive);
        let error = root.claim("web").unwrap_err();
        assert_eq!(error.code, "vm.name-taken");
        assert!(error.what.contains("'web'") && error.remedy.contains("atoll kill web"), "{error}");
        assert!(!claim.place.sweep());
        // The keeper has a copy; that of the launcher goes.
        let keeper = claim.lock.try_clone().unwrap();
        let place = claim.place.clone();
        drop(claim);
        assert_eq!(place.look(), Found::Alive);
        drop(keeper);
        assert_eq!(place.look(), Found::Stale);
        assert_eq!(place.look(), Found::Stale, "looking changes nothing");
    }

    #[test]
    fn what_is_stale_is_removed_by_who_sees_it() {
        let folder = Folder::new("stale");
        let root = folder.root();
        let place = root.claim("web").unwrap().place;
        fs::write(place.log(), "old").unwrap();
        place.write_keeper(4711).unwrap();
        symlink("/etc/passwd", place.path.join("link")).unwrap();
        assert_eq!(place.keeper(), Some(4711));
        let claim = root.claim("web").unwrap();
        let left: Vec<_> = fs::read_dir(&claim.place.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
        drop(claim);
        assert!(place.sweep());
        assert!(!place.path.exists() && Path::new("/etc/passwd").exists());
        assert!(!place.sweep());
        assert_eq!(place.look(), Found::Nothing);
    }

    #[test]
    fn a_lock_that_was_removed_meanwhile_is_no_name() {
        let folder = Folder::new("removed");
        let place = folder.root().claim("web").unwrap().place;
        let old = place.open_lock(false).unwrap();
        fs::remove_file(place.path.join(LOCK)).unwrap();
        assert!(!place.is_current(&old));
        let claim = folder.root().claim("web").unwrap();
        assert!(!place.is_current(&old));
        assert!(place.is_current(&File::from(claim.lock)));
    }

    #[test]
    fn automatic_names_are_the_first_free_ones() {
        let folder = Folder::new("any");
        let root = folder.root();
        let one = root.claim_any().unwrap();
        let two = root.claim_any().unwrap();
        assert_eq!((one.place.name.as_str(), two.place.name.as_str()), ("vm1", "vm2"));
        drop(one);
        assert_eq!(root.claim_any().unwrap().place.name, "vm1");
        let names: Vec<String> = root.places().unwrap().into_iter().map(|place| place.name).collect();
        assert_eq!(names, ["vm1", "vm2"]);
    }

    #[test]
    fn a_folder_of_others_or_open_to_others_is_refused() {
        let folder = Folder::new("foreign");
        let path = folder.root().path;
        let uid = geteuid().as_raw();
        let error = Root::at(&path, uid + 1).unwrap_err();
        assert!(error.why.contains(&format!("belongs to user {uid}")), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = Root::at(&path, uid).unwrap_err();
        assert!(error.why.contains("mode 755") && error.remedy.contains("chmod 700"), "{error}");
        let link = folder.0.join("link");
        symlink(&path, &link).unwrap();
        assert!(Root::at(&link, uid).unwrap_err().why.contains("not a directory"));
        assert!(Root::at(Path::new("relative"), uid).unwrap_err().why.contains("not absolute"));
        assert!(Root::at(&folder.0.join("no/such"), uid).is_err());
    }

    #[test]
    fn names() {
        for good in ["a", "web-1", "Debian_13.2", "0", &"n".repeat(31)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", &"n".repeat(32)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
