//! A machine is reset again and again: each start is like the first, and nothing is left over.

use std::io::Write;
use std::time::Instant;

use chaos::{Memory, Processes};
use guest::bare::{RESET, RESETS};
use guest::{Guest, MARKER, Mode};
use rand::Rng;
use rig::{Rig, SOON, boot_time, count, random};
use serde_json::Value;

use crate::{CONTENT, alone, read, root, start_with_console};

/// The reset after which the first look is taken.
const EARLY: usize = 100;
/// Pages of a heap stay once they were touched, and which are touched depends on the order of a client's, a loader's and a
/// timer's messages. So the heaps of the two processes that have clients and children may grow by so many KiB in all, whether
/// there are a hundred resets or ten thousand; a leak of 50 bytes with each reset would be found.
const SETTLING: u64 = 512;
const WITH_HISTORY: [&str; 2] = ["keeper", "supervisor"];

/// A payload that checks at each start that RAM image, serial port, IOAPIC and local APIC are as after power-on is reset in
/// each of four ways, and now and then by `atoll reset`. There is one loader for each start; descriptors, processes and
/// memory after the hundredth reset and at the end are equal. (A heap's high-water mark may still rise a little while it
/// settles: see [`SETTLING`].)
#[test]
fn ten_thousand_resets_leave_nothing_behind() {
    let _one = alone();
    let resets = count(10_000, 200);
    let mut random = random();
    let rig = Rig::new("resets");
    let (vm, mut console) = start_with_console(&rig, "resets", &RESET, &[]);
    let processes = Processes::of(&rig, "resets");
    assert_eq!(read(&mut console, 1), b"R");
    let start = Instant::now();
    let mut early = None;
    for reset in 1..=resets {
        if reset % 50 == 0 {
            rig.atoll(["reset", "resets"]).ok();
        } else {
            console.write_all(&[RESETS[random.random_range(0..RESETS.len())]]).unwrap();
        }
        assert_eq!(read(&mut console, 1), b"R", "reset {reset}");
        if reset == EARLY {
            early = Some(look(&processes));
        }
    }
    let took = start.elapsed();
    let late = look(&processes);
    let seen = rig.json(&["inspect", "resets"]);
    check_loaders(&seen, resets);
    let each = took / u32::try_from(resets).unwrap();
    println!("{resets} resets in {:.1} s, {each:.1?} each", took.as_secs_f64());
    compare(early, late);
    console.write_all(b"q").unwrap();
    let done = vm.wait(SOON);
    assert_eq!(done.status, CONTENT, "{}", done.error);
}

/// Debian's kernel boots, and its init resets the machine at once.
#[test]
fn debian_resets_twenty_times() {
    let _one = alone();
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(why) => return println!("skipped: {why}"),
    };
    let resets = count(20, 1);
    let rig = Rig::new("debian-resets");
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let line = Mode::Reset.command_line();
    let vm = rig.start("debian", ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", &line]);
    let processes = Processes::of(&rig, "debian");
    let start = Instant::now();
    let mut early = None;
    for boot in 0..=resets {
        vm.expect(MARKER, boot_time());
        println!("boot {boot}: marker after {:.1} s in all", start.elapsed().as_secs_f64());
        if boot == 1 {
            early = Some(processes.memory());
        }
    }
    let late = processes.memory();
    // The guest is on its way into the next reset.
    let seen = rig.json(&["inspect", "debian"]);
    let done = number(&seen["resets"]);
    let loaders = loaders(&seen);
    assert!(done == resets || done == resets + 1, "{done}");
    assert!(loaders >= done && loaders <= done + 2, "{loaders} loaders for {done} resets");
    let early = early.unwrap_or_default();
    for (name, late) in &late {
        let early = early.get(name).copied().unwrap_or_default();
        println!("{name:>12} after the first reset: {early:?}");
        println!("{name:>12} at the end:            {late:?}");
        assert_eq!(late.descriptors, early.descriptors, "{name}");
    }
    assert_eq!(late.len(), early.len());
    rig.atoll(["kill", "debian"]).ok();
    vm.wait(SOON);
}

fn number(value: &Value) -> usize {
    value.as_u64().and_then(|value| usize::try_from(value).ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

fn loaders(inspection: &Value) -> usize {
    let found = inspection["processes"].as_array().into_iter().flatten().find(|process| process["name"] == "loader");
    number(&found.unwrap_or(&Value::Null)["incarnation"])
}

fn check_loaders(inspection: &Value, resets: usize) {
    assert_eq!(number(&inspection["resets"]), resets);
    assert_eq!(loaders(inspection), resets + 1);
}

/// The sum over the VM's processes, and each of them.
type Look = (Memory, std::collections::BTreeMap<String, Memory>);

fn look(processes: &Processes) -> Look {
    let each = processes.settled_memory();
    let mut all = Memory::default();
    for memory in each.values() {
        all += *memory;
    }
    (all, each)
}

fn compare(early: Option<Look>, (late, each): Look) {
    let Some((early, early_each)) = early else { return };
    assert_eq!(early.processes, late.processes);
    if !root() {
        return;
    }
    for (name, late) in each {
        let Some(early) = early_each.get(&name) else { panic!("{name} was not there after {EARLY} resets") };
        println!("{name:>12} after {EARLY}: {early:?}");
        println!("{name:>12} at the end: {late:?}");
        let grown = late.anonymous.saturating_sub(early.anonymous);
        if WITH_HISTORY.contains(&name.as_str()) {
            assert!(grown <= SETTLING, "{name} has grown by {grown} KiB");
        } else {
            assert_eq!(early.anonymous, late.anonymous, "{name}");
        }
    }
    println!("{:>12} after {EARLY}: {early:?}", "all");
    println!("{:>12} at the end: {late:?}", "all");
    assert_eq!(early.descriptors, late.descriptors);
    assert_eq!(early.shared, late.shared);
}
