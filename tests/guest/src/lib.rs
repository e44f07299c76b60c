//! The Linux guest of the tests and of `./dev run`: where its kernel is, its initramfs, and what its init can be told.
//!
//! The idea: a guest is a distribution's kernel, its static busybox and one shell script, `init.sh`. The script is
//! part of this crate, and so are the words on the kernel command line that choose what it does ([`Mode`]) and the lines
//! that it prints ([`MARKER`]), so that a test never has to repeat a string.

pub mod bare;
pub mod cpio;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use cpio::{Archive, Kind};

/// What init prints first on a line of its own, followed by the seconds since the kernel started.
pub const MARKER: &str = "ATOLL-INIT-REACHED";
/// What the echo mode prints before it reads, followed by the number of bytes.
pub const ECHO_READY: &str = "ATOLL-ECHO-READY";
/// What the echo mode prints at the end, followed by the SHA-256 of what it read and the number of bytes.
pub const ECHO_DONE: &str = "ATOLL-ECHO-DONE";
/// What the work mode prints for each round, followed by the number of the round, the seconds since the kernel started,
/// [`WORK_GOOD`] or what went wrong, and a sum of floating-point numbers.
pub const WORK: &str = "ATOLL-WORK";
/// Floating point and memory are as they were.
pub const WORK_GOOD: &str = "good";
/// The echo mode reads and writes blocks of this many bytes; whoever sends must not be further ahead of the echo than
/// the guest's terminal can hold (4095 bytes), since a serial line has no flow control.
pub const ECHO_BLOCK: usize = 256;
/// What the shell mode's prompt looks like.
pub const PROMPT: &str = "atoll:/# ";

/// The command line that every mode needs: where the console is, and that a panic ends the machine instead of hanging.
pub const COMMAND_LINE: &str = "console=ttyS0 panic=-1";

/// The program that [`Mode::Bench`] runs; a word after it, `atoll.rows=NAMES`, is handed to it.
pub const BENCH: &str = "bench-guest";

/// The program that the kernel runs first.
const INIT: &str = include_str!("init.sh");

/// What the guest does after [`MARKER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An interactive shell on the serial console; when it ends, the machine powers off.
    Shell,
    /// Power off at once.
    PowerOff,
    /// Reset at once, again after every boot.
    Reset,
    /// Count, compute and check, and print a line for each round, for ever.
    Work,
    /// Run the benchmark program, which [`initramfs_with`] has put beside busybox.
    Bench,
    /// Put the console into raw mode, read so many bytes, echo them block by block, and print their SHA-256.
    Echo(usize),
}

impl fmt::Display for Mode {
    /// The words for the kernel command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Shell => f.write_str("atoll.mode=shell"),
            Mode::PowerOff => f.write_str("atoll.mode=poweroff"),
            Mode::Reset => f.write_str("atoll.mode=reset"),
            Mode::Work => f.write_str("atoll.mode=work"),
            Mode::Bench => f.write_str("atoll.mode=bench"),
            Mode::Echo(bytes) => write!(f, "atoll.mode=echo atoll.bytes={bytes}"),
        }
    }
}

impl Mode {
    /// A whole kernel command line.
    pub fn command_line(self) -> String {
        format!("{COMMAND_LINE} {self}")
    }
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not there.
    #[error("{} is missing; run './dev guest' to fetch the guest", .0.display())]
    Missing(PathBuf),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// busybox did not list its programs.
    #[error("{} --list failed ({why}); it must be a static busybox for this host", path.display())]
    Busybox {
        /// The program.
        path: PathBuf,
        /// What happened instead.
        why: String,
    },
}

/// The files of a guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Linux bzImage.
    pub kernel: PathBuf,
    /// Initramfs made by [`initramfs`].
    pub initrd: PathBuf,
    /// What `./dev guest` noted about the packages: lines of `key=value`.
    pub info: String,
}

impl Guest {
    /// The guest that `./dev guest` fetched into the tree's cache, or into the folder that `ATOLL_GUEST` names.
    ///
    /// Fails with the name of the file that is missing and the command that makes it.
    pub fn find() -> Result<Self, Error> {
        let folder = match env::var_os("ATOLL_GUEST") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/guest"),
        };
        let file = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(Error::Missing(path)) }
        };
        let info = file("info")?;
        let info = fs::read_to_string(&info).map_err(|error| Error::File { path: info, error })?;
        Ok(Self { kernel: file("vmlinuz")?, initrd: file("initrd.cpio")?, info })
    }
}

/// Makes the initramfs: busybox with all its names, the init script, and a console to print to before anything is mounted.
///
/// `programs` are the names that busybox answers to ([`busybox_programs`]). The same input gives the same bytes.
pub fn initramfs(busybox: &[u8], programs: &[String]) -> Vec<u8> {
    initramfs_with(busybox, programs, &[])
}

/// The same with other programs in `bin`, each a name and its content.
pub fn initramfs_with(busybox: &[u8], programs: &[String], others: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::new();
    for folder in ["bin", "dev", "proc", "sys", "tmp", "root", "etc"] {
        archive.add(folder, 0o755, Kind::Folder);
    }
    archive.add("dev/console", 0o600, Kind::CharacterDevice { major: 5, minor: 1 });
    archive.add("dev/null", 0o666, Kind::CharacterDevice { major: 1, minor: 3 });
    archive.add("bin/busybox", 0o755, Kind::File(busybox));
    for program in programs.iter().filter(|name| name.as_str() != "busybox") {
        archive.add(&format!("bin/{program}"), 0o777, Kind::Link("busybox"));
    }
    for (name, content) in others {
        archive.add(&format!("bin/{name}"), 0o755, Kind::File(content));
    }
    archive.add("init", 0o755, Kind::File(INIT.as_bytes()));
    archive.finish()
}

/// Asks a busybox, by running it, which programs it has.
pub fn busybox_programs(busybox: &Path) -> Result<Vec<String>, Error> {
    let failed = |why: String| Error::Busybox { path: busybox.to_owned(), why };
    let output = Command::new(busybox).arg("--list").output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let names: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .map(str::to_owned)
        .collect();
    if names.iter().any(|name| name == "sh") { Ok(names) } else { Err(failed("it has no shell".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_knows_every_mode_and_marker() {
        for mode in [Mode::Shell, Mode::PowerOff, Mode::Reset, Mode::Work, Mode::Bench, Mode::Echo(1)] {
            let word = mode.to_string();
            let name = word.split(['=', ' ']).nth(1).unwrap();
            assert!(INIT.contains(&format!("\n    {name})")), "init.sh has no mode {name}");
        }
        for line in [MARKER, ECHO_READY, ECHO_DONE] {
            assert!(INIT.contains(&format!("echo \"{line} ")), "init.sh does not print {line}");
        }
        assert!(INIT.contains(&format!("printf \"{WORK} ")) && INIT.contains(&format!("state = \"{WORK_GOOD}\"")));
        assert!(INIT.contains(&format!("\n        {BENCH} \"$rows\"\n")));
        assert!(INIT.contains(&format!("block={ECHO_BLOCK}")));
        assert!(INIT.contains(&format!("PS1='{PROMPT}'")));
        assert_eq!(Mode::Echo(7).command_line(), "console=ttyS0 panic=-1 atoll.mode=echo atoll.bytes=7");
    }

    #[test]
    fn dev_run_uses_the_same_command_line() {
        let dev = include_str!("../../../dev");
        assert!(dev.contains(&format!("--cmdline \"{COMMAND_LINE}\"")));
    }

    #[test]
    fn init_is_a_script_that_a_shell_can_parse() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/init.sh");
        let output = Command::new("sh").args(["-n", script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn the_image_is_complete_and_repeatable() {
        let programs = ["busybox", "sh", "mount"].map(str::to_owned);
        let image = initramfs(b"the program", &programs);
        assert_eq!(image, initramfs(b"the program", &programs));
        let entries = cpio::tests::read(&image);
        let find = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(find("init").data, INIT.as_bytes());
        assert_eq!(find("init").mode, 0o100755);
        assert_eq!((find("bin/sh").mode, &find("bin/sh").data[..]), (0o120777, &b"busybox"[..]));
        assert_eq!((find("dev/console").mode, find("dev/console").device), (0o020600, (5, 1)));
        assert_eq!(entries.iter().filter(|entry| entry.name == "bin/busybox").count(), 1);
        let more = cpio::tests::read(&initramfs_with(b"the program", &programs, &[(BENCH, b"another")]));
        let other = more.iter().find(|entry| entry.name == format!("bin/{BENCH}")).unwrap();
        assert_eq!((other.mode, &other.data[..]), (0o100755, &b"another"[..]));
        assert_eq!(more.len(), entries.len() + 1);
    }

    #[test]
    fn a_program_that_is_no_busybox_is_refused() {
        let error = busybox_programs(Path::new("/bin/true")).unwrap_err().to_string();
        assert!(error.contains("it has no shell"), "{error}");
        let error = busybox_programs(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("must be a static busybox"), "{error}");
    }
}
