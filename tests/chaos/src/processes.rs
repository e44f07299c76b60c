//! The processes of one VM, found in /proc below its keeper, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rig::{Rig, SOON};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two looks.
const AGAIN: Duration = Duration::from_micros(200);

/// The keeper of a VM and its children.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// Host pid of the keeper.
    pub keeper: i32,
}

/// What processes hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Processes that were added up.
    pub processes: usize,
    /// Their descriptors.
    pub descriptors: usize,
    /// Proportional set size of anonymous memory in KiB: heaps and stacks.
    pub anonymous: u64,
    /// That of the VM's memfds.
    pub shared: u64,
    /// That of binaries; it depends on who else runs them.
    pub files: u64,
}

impl AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.processes += other.processes;
        self.descriptors += other.descriptors;
        self.anonymous += other.anonymous;
        self.shared += other.shared;
        self.files += other.files;
    }
}

impl Processes {
    /// Those of the VM `name`, once its keeper is noted in its directory.
    ///
    /// # Panics
    /// It is not in time.
    #[must_use]
    #[track_caller]
    pub fn of(rig: &Rig, name: &str) -> Self {
        let end = Instant::now() + SOON;
        loop {
            if let Some(processes) = Self::noted(rig, name) {
                return processes;
            }
            assert!(Instant::now() < end, "the pid of the keeper of '{name}' does not come");
            thread::sleep(AGAIN);
        }
    }

    /// Those of the VM `name`, if its keeper is noted in its directory.
    #[must_use]
    pub fn noted(rig: &Rig, name: &str) -> Option<Self> {
        let note = rig.path("atoll").join(name).join("keeper.pid");
        let noted = fs::read_to_string(note).ok()?;
        Some(Self { keeper: noted.trim().parse().ok()? })
    }

    /// Every process that runs: the keeper and its children, by pid with the name of the binary.
    #[must_use]
    pub fn all(&self) -> BTreeMap<i32, String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| Some((pid, self.belongs(pid)?))).collect()
    }

    /// The name of a process, if it is one of these and runs.
    fn belongs(&self, pid: i32) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let parent: i32 = field("PPid:")?.parse().ok()?;
        let runs = !field("State:")?.starts_with(['Z', 'X']);
        (runs && (pid == self.keeper || parent == self.keeper)).then(|| field("Name:").map(str::to_owned))?
    }

    /// The process of this binary, if there is one now.
    #[must_use]
    pub fn find(&self, binary: &str) -> Option<i32> {
        self.all().into_iter().find(|(_, name)| name == binary).map(|(pid, _)| pid)
    }

    /// Waits until there is a process of this binary other than `old`.
    ///
    /// # Panics
    /// There is none in time.
    #[track_caller]
    pub fn wait_other(&self, binary: &str, old: i32) -> i32 {
        let end = Instant::now() + SOON;
        loop {
            match self.find(binary) {
                Some(pid) if pid != old => return pid,
                _ => assert!(Instant::now() < end, "no new {binary} after {old}: {:?}", self.all()),
            }
            thread::sleep(AGAIN);
        }
    }

    /// kill -9 of the process of this binary, as soon as there is one; returns its pid.
    ///
    /// # Panics
    /// There is none in time.
    #[track_caller]
    pub fn kill(&self, binary: &str) -> i32 {
        self.signal(binary, Signal::KILL)
    }

    /// Sends a signal to the process of this binary, as soon as there is one; returns its pid.
    ///
    /// # Panics
    /// There is none in time.
    #[track_caller]
    pub fn signal(&self, binary: &str, signal: Signal) -> i32 {
        loop {
            let pid = self.wait_other(binary, 0);
            // First the descriptor, then the look: what was looked at is then what is killed.
            let Some(Ok(descriptor)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
                continue;
            };
            if self.belongs(pid).as_deref() == Some(binary) && pidfd_send_signal(&descriptor, signal).is_ok() {
                // So that whoever kills again does not kill the dying one once more.
                while signal == Signal::KILL && self.belongs(pid).as_deref() == Some(binary) {
                    thread::yield_now();
                }
                return pid;
            }
        }
    }

    /// What each process holds. Needs root, since processes of a VM cannot be looked into by others.
    #[must_use]
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        self.all().into_iter().filter_map(|(pid, name)| Some((name, memory(pid)?))).collect()
    }

    /// The same, once nothing changes any more: what follows from the last message is done.
    ///
    /// # Panics
    /// It goes on changing.
    #[must_use]
    #[track_caller]
    pub fn settled_memory(&self) -> BTreeMap<String, Memory> {
        const LOOKS: usize = 5;
        let end = Instant::now() + SOON;
        let (mut last, mut equal) = (self.memory(), 0);
        while equal < LOOKS {
            assert!(Instant::now() < end, "it goes on changing: {last:#?}");
            thread::sleep(Duration::from_millis(20));
            let next = self.memory();
            equal = if next == last { equal + 1 } else { 0 };
            last = next;
        }
        last
    }

    /// How many descriptors each process has open, by the name of its binary. Needs root.
    #[must_use]
    pub fn descriptors(&self) -> BTreeMap<String, Vec<usize>> {
        let mut held: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (pid, name) in self.all() {
            // One that is gone holds nothing.
            if let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) {
                held.entry(name).or_default().push(entries.count());
            }
        }
        held
    }

    /// Device and inode of every memfd that the keeper holds. Needs root.
    #[must_use]
    pub fn memfds(&self) -> BTreeSet<(u64, u64)> {
        memfds(self.keeper)
    }
}

fn memory(pid: i32) -> Option<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Memory {
        processes: 1,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
        anonymous: field("Pss_Anon")?,
        shared: field("Pss_Shmem")?,
        files: field("Pss_File")?,
    })
}

/// Device and inode of the memfds that a process has open or mapped.
fn memfds(pid: i32) -> BTreeSet<(u64, u64)> {
    let mut found = BTreeSet::new();
    for folder in ["fd", "map_files"] {
        for entry in fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.starts_with(Path::new("/")) && target.to_string_lossy().starts_with("/memfd:") {
                found.extend(fs::metadata(entry.path()).map(|file| (file.dev(), file.ino())));
            }
        }
    }
    found
}

/// Which of these memfds some process of the host still has. Needs root.
#[must_use]
pub fn memfds_alive(of: &BTreeSet<(u64, u64)>) -> BTreeSet<(u64, u64)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.flat_map(memfds).filter(|memfd| of.contains(memfd)).collect()
}
