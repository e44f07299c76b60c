//! The VM to which it happens: brought to a moment, in the middle of that moment, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chaos::{Followed, Processes};
use guest::bare::SLEEP;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rig::{Done, Rig, SOON, Stream};
use serde_json::Value;
use supervisor::core::faults::Moment;

/// The VM's name, which is also that of its directory.
pub const NAME: &str = "vm";
/// Seconds that a process may take to answer.
const PATIENCE: &str = "1";
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(2);

/// Between two looks at what processes hold.
const HELD_AGAIN: Duration = Duration::from_millis(20);
/// Equal looks after which nothing changes any more.
const LOOKS: usize = 10;

/// Descriptors that processes hold, by the name of the binary.
pub type Held = BTreeMap<String, Vec<usize>>;

/// A VM in the foreground of a launcher.
#[derive(Debug)]
pub struct Vm<'a> {
    rig: &'a Rig,
    launcher: Child,
    input: ChildStdin,
    /// What the guest prints.
    pub console: Stream,
    /// What the launcher says.
    pub said: Stream,
    /// Its processes just before the moment.
    pub pids: BTreeSet<i32>,
    /// Device and inode of what its keeper has been seen to hold.
    pub memfds: BTreeSet<(u64, u64)>,
    /// What its processes hold after the moment if nothing happens to them.
    pub undisturbed: Held,
    /// Its events, where they are followed to its end.
    pub followed: Option<Followed>,
}

/// The command that starts the VM of this moment; its streams are not set.
#[must_use]
pub fn command(rig: &Rig, moment: Moment, snapshot: &Path) -> Command {
    let snapshot = snapshot.display().to_string();
    let common = ["--name", NAME, "--patience", PATIENCE];
    match moment {
        Moment::Load => rig.command(["restore"].iter().chain(&common).chain(&[snapshot.as_str()])),
        Moment::LoadOnDemand => {
            rig.command(["restore"].iter().chain(&common).chain(&["--on-demand", snapshot.as_str()]))
        }
        _ => {
            let kernel = rig.file("kernel", SLEEP.image).display().to_string();
            rig.command(["run"].iter().chain(&common).chain(&["--memory", "16M", "--kernel", kernel.as_str()]))
        }
    }
}

impl<'a> Vm<'a> {
    /// Starts it.
    ///
    /// # Panics
    /// The command cannot be started.
    #[must_use]
    pub fn start(rig: &'a Rig, moment: Moment, snapshot: &Path) -> Self {
        let mut command = command(rig, moment, snapshot);
        let pipe = Stdio::piped;
        Self::of(rig, command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap())
    }

    /// The VM whose launcher this is, with pipes for its streams.
    ///
    /// # Panics
    /// It has other streams.
    #[must_use]
    pub fn of(rig: &'a Rig, mut launcher: Child) -> Self {
        let input = launcher.stdin.take().unwrap();
        let console = Stream::of(launcher.stdout.take().unwrap());
        let said = Stream::of(launcher.stderr.take().unwrap());
        let (pids, memfds, undisturbed) = (BTreeSet::new(), BTreeSet::new(), Held::new());
        Self { rig, launcher, input, console, said, pids, memfds, undisturbed, followed: None }
    }

    /// The launcher's exit status, if it has ended.
    ///
    /// # Panics
    /// The kernel does not say.
    pub fn ended(&mut self) -> Option<i32> {
        // A thread of this process may be tracing it, and would miss what is taken here.
        let id = Id::Pid(Pid::from_raw(i32::try_from(self.launcher.id()).unwrap()));
        let look = waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
        if !matches!(look, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_)) {
            return None;
        }
        self.launcher.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for the launcher's end.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.ended() {
                self.said.wait_end(SOON);
                return status;
            }
            assert!(Instant::now() < end, "the VM does not end: {}", self.said.text());
            thread::sleep(AGAIN);
        }
    }

    /// Sends a byte to the guest. A VM that has ended takes none.
    pub fn send(&mut self, byte: &str) {
        let _ = self.input.write_all(byte.as_bytes()).and_then(|()| self.input.flush());
    }

    /// Asserts that the guest runs and answers.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn answers(&mut self) {
        self.send(".");
        self.console.expect(".", SOON);
    }

    /// Whether commands find it by its name.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.rig.path("atoll").join(NAME).exists()
    }

    /// Whether `atoll kill` succeeds.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.rig.atoll(["kill", NAME]).status == 0
    }

    /// Status of the run state; empty if there is nobody who could say.
    #[must_use]
    pub fn status(&self) -> String {
        let done = self.rig.atoll(["inspect", NAME, "--json"]);
        let found = serde_json::from_str::<Value>(&done.output).unwrap_or_default();
        found["state"]["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for a run state.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn wait_status(&self, status: &str) {
        let end = Instant::now() + SOON;
        while self.status() != status {
            assert!(Instant::now() < end, "not {status} but {}: {}", self.status(), self.said.text());
            thread::sleep(AGAIN);
        }
    }

    /// All events so far; none if there is nobody who could say.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let done = self.rig.atoll(["events", NAME, "--json"]);
        done.output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Makes a snapshot, or does not.
    pub fn snapshot(&self, path: &Path) {
        let _ = self.rig.atoll(["snapshot", NAME, &path.display().to_string()]);
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Processes {
        Processes::of(self.rig, NAME)
    }

    /// Notes the memory that its keeper holds, if there is one.
    pub fn note_memory(&mut self) {
        self.memfds.extend(Processes::noted(self.rig, NAME).into_iter().flat_map(|processes| processes.memfds()));
    }

    /// What its processes hold, once that changes no more.
    ///
    /// # Panics
    /// It goes on changing.
    #[must_use]
    pub fn settled(&self) -> Held {
        let end = Instant::now() + SOON;
        let (mut last, mut equal) = (self.processes().descriptors(), 0);
        while equal < LOOKS {
            assert!(Instant::now() < end, "it goes on changing: {last:?}");
            thread::sleep(HELD_AGAIN);
            let next = self.processes().descriptors();
            equal = if next == last { equal + 1 } else { 0 };
            last = next;
        }
        last
    }

    /// Asserts that the same processes are there as after an undisturbed moment, and hold as much. `parcel` is how many descriptors a
    /// dead client may have left with the supervisor.
    ///
    /// # Panics
    /// Something is held that would not be, or is missing.
    pub fn holds_no_more(&self, parcel: usize) {
        let end = Instant::now() + SOON;
        loop {
            let mut now = self.processes().descriptors();
            let expected =
                self.undisturbed.get("supervisor").and_then(|held| held.first()).copied().unwrap_or_default();
            for held in now.get_mut("supervisor").into_iter().flatten() {
                if (expected..=expected + parcel).contains(held) {
                    *held = expected;
                }
            }
            if now == self.undisturbed {
                return;
            }
            assert!(Instant::now() < end, "held open: {now:?}, undisturbed {:?}", self.undisturbed);
            thread::sleep(HELD_AGAIN);
        }
    }

    /// Brings it from its start to just before the moment.
    ///
    /// # Panics
    /// It does not get there.
    pub fn prepare(&mut self, moment: Moment) {
        self.console.expect("S", SOON);
        // The answer to 'run' may come after the guest's first word.
        self.wait_status("running");
        if moment == Moment::Stop {
            self.send("b");
            self.console.expect("B", SOON);
        }
        self.pids.extend(self.processes().all().into_keys());
        self.note_memory();
    }
}

/// The command of the moment, where there is one. `snapshot` is where one goes.
#[must_use]
pub fn action(rig: &Rig, moment: Moment, snapshot: &Path) -> Option<Command> {
    let path = snapshot.display().to_string();
    Some(match moment {
        Moment::Pause => rig.command(["pause", NAME]),
        Moment::Save => rig.command(["snapshot", NAME, &path]),
        Moment::Reset => rig.command(["reset", NAME]),
        Moment::Stop => rig.command(["stop", NAME]),
        Moment::Start | Moment::Run | Moment::Sleep | Moment::Load | Moment::LoadOnDemand => return None,
    })
}

/// Whether what the moment is about has come about, its command aside. Needs no keeper.
#[must_use]
pub fn is_done(vm: &Vm<'_>, moment: Moment) -> bool {
    let told = |kind: &str| vm.events().iter().any(|event| event["kind"] == kind);
    match moment {
        Moment::Start | Moment::Load => !vm.console.text().is_empty(),
        Moment::Run | Moment::Save => true,
        Moment::Pause => told("STOP"),
        Moment::Sleep => told("SUSPEND"),
        Moment::Reset => told("RESET"),
        Moment::LoadOnDemand => !vm.console.text().is_empty() && told("RESTORE_COMPLETE"),
        Moment::Stop => false,
    }
}

/// Asserts that the guest goes on from where the moment has brought it.
///
/// # Panics
/// It does not.
pub fn goes_on(vm: &mut Vm<'_>, moment: Moment) {
    match moment {
        Moment::Start | Moment::Reset => _ = vm.console.expect("S", SOON),
        Moment::Pause => _ = again(vm, "resume").ok(),
        Moment::Sleep => {
            again(vm, "wakeup").ok();
            vm.console.expect("W", SOON);
        }
        Moment::Load | Moment::LoadOnDemand => _ = vm.console.expect(".", SOON),
        Moment::Run | Moment::Save | Moment::Stop => {}
    }
    vm.answers();
}

/// Gives a command until it succeeds: a supervisor's end may cut it off, and its successor takes a moment.
#[must_use]
pub fn again(vm: &Vm<'_>, verb: &str) -> Done {
    let end = Instant::now() + SOON;
    loop {
        let done = vm.rig.atoll([verb, NAME]);
        if done.status == 0 || Instant::now() > end {
            return done;
        }
        thread::sleep(AGAIN);
    }
}

/// A snapshot of a VM that waits for bytes, in `rig`.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn snapshot(rig: &Rig) -> PathBuf {
    let path = rig.path("snapshot");
    let mut vm = Vm::start(rig, Moment::Run, Path::new(""));
    vm.prepare(Moment::Run);
    rig.atoll(["snapshot", NAME, &path.display().to_string()]).ok();
    rig.atoll(["kill", NAME]).ok();
    vm.wait();
    path
}

/// Asserts that nothing is left of a VM that has ended: no process, no memory, and no directory.
///
/// # Panics
/// Something is.
pub fn leaves_nothing(rig: &Rig, pids: &BTreeSet<i32>, memfds: &BTreeSet<(u64, u64)>) {
    let end = Instant::now() + SOON;
    loop {
        let left: Vec<i32> = pids.iter().copied().filter(|pid| rig::runs(*pid)).collect();
        let memory = if memfds.is_empty() { BTreeSet::new() } else { chaos::memfds_alive(memfds) };
        if left.is_empty() && memory.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "left: processes {left:?}, memfds {memory:?}");
        thread::sleep(AGAIN);
    }
    // Who has died without a keeper leaves a directory, which is cleared by whoever finds it.
    rig.atoll(["ps"]).ok();
    assert!(!rig.path("atoll").join(NAME).exists(), "its directory is left");
}
