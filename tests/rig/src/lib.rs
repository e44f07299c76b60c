//! Whole VMs for tests: starts them with the real binaries, talks to their consoles, looks at their processes, and leaves
//! nothing behind.
//!
//! The idea: a test sees a VM as a user does. It runs `atoll`, reads what it prints and its exit status, and asks it with
//! `--json`; there is no other way in, so what works here works for people. Each [`Rig`] is a world of its own: a runtime
//! directory that no other test knows, so tests run side by side. Nothing waits without a deadline, and what a deadline
//! cuts off is told with everything that was seen until then.
//!
//! | file | owns |
//! |---|---|
//! | `stream` | bytes as they come: expecting a text, with a deadline |
//! | `vm` | one VM: console, end, processes |
//! | `counts` | full counts and samples, seeds |
//!
//! Functions here panic when what they were asked for does not happen: they are a test's assertions.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are the assertions of tests")]

mod counts;
mod stream;
mod vm;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use serde_json::Value;

pub use counts::{count, long, random};
pub use stream::{Stream, read_some};
pub use vm::{Connection, Vm, is_ignored, runs};

/// Binaries that a VM needs.
const BINARIES: [&str; 8] = ["atoll", "keeper", "supervisor", "engine", "board", "serial", "loader", "streamer"];

/// For anything but a boot: a test fails after it only when something hangs.
pub const SOON: Duration = Duration::from_secs(60);

/// For a guest's kernel, on the slowest engine and a busy host. `ATOLL_BOOT_SECONDS` replaces it.
#[must_use]
pub fn boot_time() -> Duration {
    let given = env::var("ATOLL_BOOT_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(600))
}

/// A world for the VMs of one test.
#[derive(Debug)]
pub struct Rig {
    test: String,
    folder: PathBuf,
    binaries: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// Exit status; 128 + n for a signal, as a shell says.
    pub status: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub error: String,
}

impl Done {
    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}{}", self.output, self.error);
        self
    }

    /// Asserts an exit status, and that standard error has all of these texts.
    #[track_caller]
    pub fn fails(self, status: i32, texts: &[&str]) -> Self {
        assert_eq!(self.status, status, "{}{}", self.output, self.error);
        for text in texts {
            assert!(self.error.contains(text), "{text:?} is not in:\n{}", self.error);
        }
        self
    }
}

impl Rig {
    /// A world for the test of this name, which is used for artefacts.
    ///
    /// # Panics
    /// The binaries are not built.
    #[must_use]
    pub fn new(test: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, since paths of sockets are.
        let folder = env::temp_dir().join(format!("ar-{}-{number}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self { test: test.to_owned(), folder, binaries: binaries() }
    }

    /// A path for a file of the test.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of the test.
    #[must_use]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The folder of the binaries.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The `atoll` command in this world.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.binaries.join("atoll"));
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.folder).env("ATOLL_LIBEXEC", &self.binaries);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `atoll` to its end.
    ///
    /// # Panics
    /// It takes too long.
    #[track_caller]
    pub fn atoll<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Done {
        self.atoll_within(SOON, arguments)
    }

    /// As [`Self::atoll`], with another deadline.
    ///
    /// # Panics
    /// It takes too long.
    #[track_caller]
    pub fn atoll_within<S: AsRef<OsStr>>(&self, limit: Duration, arguments: impl IntoIterator<Item = S>) -> Done {
        finish(self.command(arguments), limit)
    }

    /// Runs `atoll` with `--json` and reads what it prints.
    ///
    /// # Panics
    /// It fails, or prints something else.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.atoll(arguments.iter().chain(&["--json"])).ok();
        serde_json::from_str(&done.output).unwrap_or_else(|error| panic!("{error}:\n{}", done.output))
    }

    /// The events of a VM after number `after`.
    #[must_use]
    #[track_caller]
    pub fn events(&self, name: &str, after: u64) -> Vec<Value> {
        let done = self.atoll(["events", name, "--json", "--after", &after.to_string()]).ok();
        done.output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts `atoll run --name NAME ARGUMENTS` in the foreground; its console is a pair of pipes.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = S>) -> Vm<'_> {
        Vm::start(self, "run", name, arguments)
    }

    /// The same with another command that starts VMs, such as `restore`.
    #[track_caller]
    pub fn start_with<S: AsRef<OsStr>>(
        &self,
        command: &str,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Vm<'_> {
        Vm::start(self, command, name, arguments)
    }

    /// Notes a file of a failed test; says where.
    fn artefact(&self, name: &str, content: &[u8]) {
        let folder = artefacts().join(&self.test);
        let _ = fs::create_dir_all(&folder);
        let path = folder.join(name);
        if fs::write(&path, content).is_ok() {
            eprintln!("see {}", path.display());
        }
    }
}

impl Drop for Rig {
    /// Ends every VM that still runs here, and removes everything.
    fn drop(&mut self) {
        let places = fs::read_dir(self.folder.join("atoll")).into_iter().flatten().flatten();
        for place in places {
            if thread::panicking()
                && let Ok(log) = fs::read(place.path().join("log"))
            {
                self.artefact(&format!("{}.log", place.file_name().display()), &log);
            }
            let mut kill = self.command([OsStr::new("kill"), &place.file_name()]);
            let child = kill.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            if let Ok(mut child) = child
                && wait(&mut child, SOON).is_none()
            {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where files of failed tests go: `$ATOLL_ARTEFACTS`, or a folder of the system's temporary one.
fn artefacts() -> PathBuf {
    env::var_os("ATOLL_ARTEFACTS").map_or_else(|| env::temp_dir().join("atoll-artefacts"), PathBuf::from)
}

/// The folder that has the binaries: `$ATOLL_BIN`, or the one above the running test's.
fn binaries() -> PathBuf {
    let missing = |folder: &Path| BINARIES.into_iter().find(|name| !folder.join(name).is_file());
    if let Some(folder) = env::var_os("ATOLL_BIN").map(PathBuf::from) {
        let lack = missing(&folder);
        assert!(lack.is_none(), "ATOLL_BIN={} has no '{}'", folder.display(), lack.unwrap_or_default());
        return folder;
    }
    let own = env::current_exe().unwrap();
    let found = own.ancestors().skip(1).find(|folder| folder.join("atoll").is_file());
    let complete = found.filter(|folder| missing(folder).is_none());
    let folder = complete.unwrap_or_else(|| {
        let lack = found.and_then(missing).unwrap_or("atoll");
        panic!("the binary '{lack}' is not built: run './dev test', or 'cargo build --workspace --bins' first")
    });
    folder.to_owned()
}

/// Runs a command to its end.
///
/// # Panics
/// It takes too long.
#[must_use]
#[track_caller]
pub fn finish(mut command: Command, limit: Duration) -> Done {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = Stream::of(child.stdout.take().unwrap());
    let error = Stream::of(child.stderr.take().unwrap());
    let Some(status) = wait(&mut child, limit) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} takes longer than {limit:?}:\n{}{}", output.text(), error.text());
    };
    output.wait_end(SOON);
    // A detached VM may hold nothing of ours, so this ends too.
    error.wait_end(SOON);
    Done { status, output: output.text(), error: error.text() }
}

/// Waits for a child: its exit status as a shell says it, or `None` after `limit`.
fn wait(child: &mut process::Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
