//! What the stories of snapshots and sleep have in common: VMs by their names, saved and restored as a user does.
//!
//! The tests are in `tests/snapshots`. With `ATOLL_LONG=1` counts are full.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are the assertions of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest::bare::Payload;
use guest::{WORK, WORK_GOOD};
use rig::{Done, Rig, Vm};
use serde_json::Value;

/// Starts `atoll run` with a bare-metal payload; its console is a pair of pipes.
#[track_caller]
pub fn start<'a>(rig: &'a Rig, name: &str, payload: &Payload, arguments: &[&str]) -> Vm<'a> {
    let kernel = rig.file(&format!("{}.elf", payload.name), payload.image).display().to_string();
    let memory: &[&str] = if arguments.contains(&"--memory") { &[] } else { &["--memory", "16M"] };
    rig.start(name, ["--kernel", &kernel].iter().chain(memory).chain(arguments))
}

/// Saves a VM, which must succeed.
#[track_caller]
pub fn save(rig: &Rig, name: &str, to: &str) -> PathBuf {
    let path = rig.path(to);
    rig.atoll(["snapshot", name, &path.display().to_string()]).ok();
    path
}

/// Starts `atoll restore` in the foreground.
#[track_caller]
pub fn restore<'a>(rig: &'a Rig, name: &str, from: &Path, arguments: &[&str]) -> Vm<'a> {
    let from = from.display().to_string();
    rig.start_with("restore", name, [from.as_str()].iter().chain(arguments))
}

/// Runs `atoll restore` to its end, with nothing on its console.
#[track_caller]
pub fn restore_to_its_end(rig: &Rig, name: &str, from: &Path, arguments: &[&str]) -> Done {
    let from = from.display().to_string();
    rig.atoll(["restore", "--name", name, "--console", "none", from.as_str()].iter().chain(arguments))
}

/// Every file of a snapshot.
#[must_use]
#[track_caller]
pub fn files(of: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(of).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Bytes that a snapshot takes on the disk.
#[must_use]
#[track_caller]
pub fn allocated(of: &Path) -> u64 {
    fs::read_dir(of).unwrap().map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

/// Bytes of RAM that a VM uses, as its engine has it mapped; only root may look.
#[must_use]
pub fn memory_in_use(vm: &Vm<'_>) -> Option<u64> {
    let engine = vm.pids()["engine"];
    let folder = fs::read_dir(format!("/proc/{engine}/map_files")).ok()?;
    let mut sizes = folder.filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_ram = fs::read_link(&path).ok()?.to_str()?.contains("memfd:ram");
        is_ram.then(|| fs::metadata(&path).ok()).flatten()
    });
    sizes.next().map(|found| found.blocks() * 512)
}

/// Run state and what it would resume to.
#[must_use]
#[track_caller]
pub fn state(rig: &Rig, name: &str) -> (String, String) {
    let seen = rig.json(&["inspect", name]);
    let text = |field: &str| seen["state"][field].as_str().unwrap().to_owned();
    (text("status"), text("resume_to"))
}

/// Kinds of a VM's events, in order.
#[must_use]
#[track_caller]
pub fn kinds(rig: &Rig, name: &str) -> Vec<String> {
    rig.events(name, 0).iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// A round of the work that a guest does for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// From 1.
    pub number: u64,
    /// Since the guest's kernel started.
    pub seconds: f64,
}

/// The next whole line of the guest's work.
///
/// # Panics
/// The guest found that something is not as it was.
#[track_caller]
pub fn round(vm: &Vm<'_>) -> Round {
    loop {
        let line = vm.expect("\n", rig::SOON);
        let words: Vec<&str> = line.split_whitespace().collect();
        let [WORK, number, seconds, verdict, _sum] = words[..] else {
            assert!(!line.contains("BAD"), "{line}");
            continue;
        };
        assert_eq!(verdict, WORK_GOOD, "{line}");
        return Round { number: number.parse().unwrap(), seconds: seconds.parse().unwrap() };
    }
}

/// The field of a JSON object as a number.
#[must_use]
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}
