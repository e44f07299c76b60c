//! The files that a VM starts with: the islets' binaries, and sealed copies of kernel and initrd.
//!
//! The idea: the launcher opens what has a name, so that nothing behind it needs a file system; and what it hands on
//! cannot change any more, so that a file overwritten later is no VM half of one kernel and half of another.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::failure::{Result, problem};

/// Largest kernel or initrd: more cannot be addressed by the 32-bit fields of the boot protocols.
const LARGEST: u64 = 4 << 30;
/// The programs that a VM is made of, beside the keeper: name of the file, name in the keeper.
const ISLETS: &[(&str, &str)] = &[
    ("supervisor", keeper_protocol::SUPERVISOR_BINARY),
    ("engine", "bin:engine"),
    ("board", "bin:board"),
    ("serial", "bin:serial"),
    ("loader", "bin:loader"),
    ("streamer", "bin:streamer"),
];

/// The programs of a VM.
#[derive(Debug)]
pub struct Programs {
    pub keeper: PathBuf,
    /// Open files with the names under which the keeper holds them.
    pub islets: Vec<(&'static str, OwnedFd)>,
}

impl Programs {
    /// Those in `$ATOLL_LIBEXEC`, or beside this program.
    pub fn find() -> Result<Self> {
        let given = std::env::var_os("ATOLL_LIBEXEC").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folder = match given {
            Some(folder) => folder,
            None => {
                let own = std::env::current_exe()
                    .map_err(|error| problem("run.programs", "this program's own folder is unknown", error, LIBEXEC))?;
                own.parent().map(Path::to_owned).unwrap_or_default()
            }
        };
        Self::inside(&folder)
    }

    fn inside(folder: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = folder.join(name);
            let opened = OpenOptions::new().read(true).open(&path).and_then(|file| match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::Error::other("it is not a regular file")),
            });
            match opened {
                Ok(file) => Ok((path, OwnedFd::from(file))),
                Err(error) => {
                    let what = format!("the program '{name}' of Atoll cannot be opened: {}", path.display());
                    Err(problem("run.programs", what, error, LIBEXEC))
                }
            }
        };
        let islets = ISLETS.iter().map(|(file, name)| Ok((*name, open(file)?.1)));
        let islets = islets.collect::<Result<Vec<_>>>()?;
        Ok(Self { keeper: open("keeper")?.0, islets })
    }
}

const LIBEXEC: &str = "build or install all of Atoll's programs into one folder, and name it with ATOLL_LIBEXEC if it is \
                       not the folder of 'atoll'";

/// A sealed copy of a file, for `option` (`--kernel`, `'initrd' in vm.toml`).
pub fn sealed_copy(name: &str, path: &Path, option: &str) -> Result<OwnedFd> {
    let code = format!("run.{name}");
    let failed = |why: String| {
        let what = format!("the {name} {} ({option}) cannot be loaded", path.display());
        problem(&code, what, why, format!("name a readable {name} file of at most 4 GiB"))
    };
    // A pipe without a writer must not stop us.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path);
    let file = file.map_err(|error| failed(error.to_string()))?;
    let found = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !found.is_file() {
        return Err(failed("it is not a regular file".into()));
    }
    if found.len() > LARGEST {
        return Err(failed(format!("it has {} bytes, which is more than 4 GiB", found.len())));
    }
    let mut memfd = File::from(memfd(name).map_err(|error| failed(format!("memory for it: {error}")))?);
    // The file may grow meanwhile, so the bound counts again.
    let copied = io::copy(&mut file.take(LARGEST + 1), &mut memfd).map_err(|error| failed(error.to_string()))?;
    match copied {
        0 => Err(failed("it is empty".into())),
        1..=LARGEST => seal(memfd).map_err(|error| failed(format!("sealing its copy: {error}"))),
        _ => Err(failed("it is more than 4 GiB".into())),
    }
}

/// A sealed memfd with these bytes.
pub fn sealed_bytes(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut memfd = File::from(memfd(name)?);
    memfd.write_all(bytes)?;
    Ok(seal(memfd)?)
}

fn memfd(name: &str) -> rustix::io::Result<OwnedFd> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, base | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag.
        Err(Errno::INVAL) => memfd_create(name, base),
        other => other,
    }
}

fn seal(memfd: File) -> rustix::io::Result<OwnedFd> {
    fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    // Whoever reads it by position begins at its start.
    rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0))?;
    Ok(memfd.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("atoll-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_copy_has_the_bytes_and_cannot_change() {
        let folder = folder("copy");
        let path = folder.join("k");
        fs::write(&path, b"kernel").unwrap();
        let mut copy = File::from(sealed_copy("kernel", &path, "--kernel").unwrap());
        fs::write(&path, b"other").unwrap();
        let mut bytes = Vec::new();
        copy.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"kernel");
        assert!(copy.write_all(b"x").is_err() && copy.set_len(1).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn files_that_are_none_are_named() {
        let folder = folder("none");
        let empty = folder.join("empty");
        fs::write(&empty, b"").unwrap();
        let huge = folder.join("huge");
        File::create(&huge).unwrap().set_len(LARGEST + 1).unwrap();
        let pipe = folder.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, why) in [
            (&empty, "it is empty"),
            (&huge, "more than 4 GiB"),
            (&pipe, "not a regular file"),
            (&folder, "not a regular file"),
            (&folder.join("missing"), "No such file"),
        ] {
            let error = sealed_copy("initrd", path, "--initrd").unwrap_err();
            assert_eq!(error.code, "run.initrd");
            assert!(error.what.contains(&path.display().to_string()) && error.what.contains("--initrd"), "{error}");
            assert!(error.why.contains(why), "{error}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = folder("programs");
        for (file, _) in ISLETS {
            fs::write(folder.join(file), b"x").unwrap();
        }
        let error = Programs::inside(&folder).unwrap_err();
        assert!(error.what.contains("'keeper'") && error.remedy.contains("ATOLL_LIBEXEC"), "{error}");
        fs::write(folder.join("keeper"), b"x").unwrap();
        assert_eq!(Programs::inside(&folder).unwrap().islets.len(), ISLETS.len());
        fs::remove_file(folder.join("board")).unwrap();
        assert!(Programs::inside(&folder).unwrap_err().what.contains("'board'"));
        fs::remove_dir_all(folder).unwrap();
    }
}
