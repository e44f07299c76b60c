//! A client of the control socket in another language: a Python that has pycapnp, made once and kept in the cache, runs stories
//! against a VM.
//!
//! The idea: the client knows the committed schema and nothing else of Atoll. What it did is judged twice: by itself, for the
//! answers that it got, and by the test, which looks at the VM as a user does. The stories are in `python`; `prepare` makes the
//! Python environment and says what is missing, so that the tests can say that they skip, and why.

#![expect(clippy::unwrap_used, reason = "these are the assertions of tests")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use guest::bare::Payload;
use rig::{Rig, Stream, Vm};

/// RAM of the VM, in MiB.
const MEMORY: u64 = 512;
/// After it a story hangs; each of its steps has a limit of its own.
const LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at a story.
const LOOK: Duration = Duration::from_millis(5);

/// The Python that has the client's library, or why there is none.
static PYTHON: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let cache = env::var_os("ATOLL_CACHE").map_or_else(|| root().join(".cache"), PathBuf::from);
    let folder = cache.join("python");
    let made = Command::new(here().join("prepare")).arg(&folder).stdin(Stdio::null()).output();
    let made = made.map_err(|error| format!("'prepare' cannot be run: {error}"))?;
    if made.status.success() {
        return Ok(folder.join("bin/python3"));
    }
    let said = String::from_utf8_lossy(&made.stderr);
    Err(said.trim().lines().last().unwrap_or("'prepare' has failed").to_owned())
});

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The repository's top folder.
fn root() -> PathBuf {
    here().ancestors().nth(2).unwrap_or(here()).to_owned()
}

/// Whether the stories can be told here; says so if not.
#[must_use]
pub fn python() -> bool {
    let found = PYTHON.as_ref();
    if let Err(why) = found {
        println!("skipped: {why}");
    }
    found.is_ok()
}

/// Starts a VM called `vm` with this payload, and with so many MiB of memory that the payload never looks at and a snapshot must
/// write.
#[track_caller]
pub fn start<'a>(rig: &'a Rig, payload: &Payload, used: usize) -> Vm<'a> {
    let kernel = rig.file(&format!("{}.elf", payload.name), payload.image).display().to_string();
    let memory = format!("{MEMORY}M");
    let mut arguments = vec!["--kernel", &kernel, "--memory", &memory];
    // Any bytes but zeros, which would not be written.
    let module: Vec<u8> = (0..used << 20).map(|at| (at % 251 + 1) as u8).collect();
    let module = rig.file("module", &module).display().to_string();
    if used > 0 {
        arguments.extend(["--initrd", &module]);
    }
    let vm = rig.start("vm", arguments);
    vm.wait_state(&["running"]);
    vm
}

/// Lets the client tell a story, which must end well; returns the folder that it wrote to.
///
/// # Panics
/// It does not, or takes too long.
#[track_caller]
pub fn tell(rig: &Rig, story: &str, used: usize) -> PathBuf {
    let scratch = rig.path("scratch");
    fs::create_dir_all(&scratch).unwrap();
    let mut command = Command::new(PYTHON.as_ref().unwrap());
    // -B: nothing is written into the tree.
    command.arg("-B").arg(here().join("python/client.py")).arg(story).arg(rig.path("atoll/vm")).arg(&scratch);
    command.env("ATOLL_SCHEMA", root().join("ipc-schema/schema")).env("PYTHONFAULTHANDLER", "1");
    command.env("ATOLL_MEMORY", (MEMORY << 20).to_string()).env("ATOLL_USED", (used << 20).to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let output = Stream::of(client.stdout.take().unwrap());
    let error = Stream::of(client.stderr.take().unwrap());
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = client.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() >= end {
            let _ = client.kill();
            let _ = client.wait();
            break None;
        }
        thread::sleep(LOOK);
    };
    output.wait_end(rig::SOON);
    error.wait_end(rig::SOON);
    let well = status.is_some_and(|status| status.success());
    assert!(well, "'{story}' ended with {status:?}:\n{}{}", output.text(), error.text());
    print!("{}", output.text());
    scratch
}

/// Every process of the VM is the first of its name, and has never been started anew.
///
/// # Panics
/// One has.
#[track_caller]
pub fn nothing_was_restarted(rig: &Rig) {
    let seen = rig.json(&["inspect", "vm"]);
    assert_eq!(seen["state"]["status"], "running");
    for process in seen["processes"].as_array().unwrap() {
        // Its jobs are what a streamer is started for.
        let restarts = process["restarts"].as_u64().unwrap();
        assert!(process["name"] == "streamer" || restarts == 0, "{process:#}");
    }
    let events = rig.events("vm", 0);
    let bad = events.iter().find(|event| ["ENDED", "RESET"].iter().any(|kind| event["kind"] == *kind));
    assert!(bad.is_none(), "{bad:#?}");
}

/// What the guest has printed is what [`guest::bare::BEAT`] prints, and it goes on.
///
/// # Panics
/// A byte is missing, or no more come.
#[track_caller]
pub fn beats_on(vm: &Vm<'_>) {
    let so_far = vm.console.bytes().len();
    vm.console.take(so_far + 100, rig::SOON);
    for (at, byte) in vm.console.bytes().into_iter().enumerate() {
        let expected = at % usize::from(guest::bare::BEAT_MODULUS);
        assert!(usize::from(byte) == expected, "byte {at} of the console is {byte}");
    }
}
