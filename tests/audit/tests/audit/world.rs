//! What both kinds of tests need: the VM's outside, its keeper, and comparing one of its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use audit::manifest::{Row, Shape};
use audit::vm::{self, Gaps, Outside};
use profile::audit::{Facts, Finding, compare};
use rig::{Rig, SOON};

/// RAM of every VM here but those that load much.
pub const RAM: u64 = 16 << 20;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether filters can be dumped: by root, unless it is root of a user namespace only, which is nobody to the kernel.
pub fn dumps_filters() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whole VMs are looked at one at a time: an audit stops threads for a moment.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn outside(rig: &Rig, name: &str, binaries: &Path) -> Outside {
    // As the kernel writes paths; a process of the host has no such directory.
    let place = rig.path("atoll").join(name);
    let place = fs::canonicalize(&place).unwrap_or(place);
    Outside {
        namespaces: Facts::own_namespaces().unwrap(),
        binaries: fs::canonicalize(binaries).unwrap(),
        lock: place.join("lock"),
        log: place.join("log"),
        snapshot: PathBuf::new(),
        landlock: vm::landlock(),
    }
}

/// The keeper's pid, which stands in the VM's directory.
pub fn keeper(rig: &Rig, name: &str) -> i32 {
    let note = rig.path("atoll").join(name).join("keeper.pid");
    until(&format!("{} does not come", note.display()), || fs::read_to_string(&note).ok()?.trim().parse().ok())
}

/// Waits until there is something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// A process that was looked at.
#[derive(Debug)]
pub struct Looked {
    pub facts: Facts,
    pub findings: Vec<Finding>,
    pub gaps: Gaps,
}

/// Compares the process of this row with what it should be.
#[track_caller]
pub fn look(keeper: i32, row: &Row, shape: &Shape, outside: &Outside) -> Looked {
    let pid = vm::find(keeper, row.binary).unwrap_or_else(|| panic!("no {} below {keeper}", row.binary));
    let mut gaps = Gaps::new();
    let facts = vm::facts(pid, row, &mut gaps).unwrap();
    let mut expected = row.expectation(shape, outside);
    if let Some(page) = row.status() {
        expected = expected.reported(vm::reported(&vm::status(keeper, page).unwrap()), outside.landlock);
    }
    let findings = compare(&facts, &expected);
    Looked { facts, findings, gaps }
}

/// The same, until nothing is found any more: a client's connection to the supervisor, or a message on its way through the
/// keeper, is a descriptor for a moment.
#[track_caller]
pub fn look_until_clean(keeper: i32, row: &Row, shape: &Shape, outside: &Outside) -> Looked {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let looked = look(keeper, row, shape, outside);
        if looked.findings.is_empty() || Instant::now() >= end {
            return looked;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
