//! Snapshots of small VMs: complete, equal, small, and without a lost character.

use std::fs;

use guest::bare::{BEAT, BEAT_MODULUS, ECHO, PASS, PENDING, SLEEP, checksum};
use rand::Rng;
use rig::{Rig, SOON, count, random};
use snapshots::{allocated, files, kinds, restore, save, start, state};

/// The VM's exit status when a payload was content.
const CONTENT: i32 = (PASS << 1 | 1) as i32;

#[test]
fn two_saves_without_running_in_between_are_equal_byte_by_byte() {
    let rig = Rig::new("equal");
    let vm = start(&rig, "vm", &BEAT, &[]);
    vm.console.take(500, SOON);
    rig.atoll(["pause", "vm"]).ok();
    let first = files(&save(&rig, "vm", "first"));
    let second = files(&save(&rig, "vm", "second"));
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        ["board.state", "engine.state", "manifest", "memory", "serial0.state"]
    );
    for (name, content) in &first {
        assert!(second[name] == *content, "{name} differs");
    }
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
    // Nor does a restore that runs nothing change anything, on demand or not.
    for arguments in [&[][..], &["--on-demand"]] {
        let vm = restore(&rig, "vm", &rig.path("first"), arguments);
        vm.wait_state(&["paused"]);
        if !arguments.is_empty() {
            vm.wait_event("RESTORE_COMPLETE", 0);
        }
        let again = files(&save(&rig, "vm", "again"));
        for (name, content) in &first {
            assert!(again[name] == *content, "{name} differs after a restore {arguments:?}");
        }
        assert!(!kinds(&rig, "vm").contains(&"RESUME".to_owned()));
        rig.atoll(["kill", "vm"]).ok();
        vm.wait(SOON);
    }
}

/// Memory that the guest has not used costs nothing, however much there is; beside the memory there are the manifest and the
/// states, of a block or two each. (That a large guest's snapshot is as small as its memory is tested with Debian.)
#[test]
fn memory_that_is_not_used_is_not_in_a_snapshot() {
    let rig = Rig::new("small");
    let vm = start(&rig, "vm", &BEAT, &["--memory", "64G"]);
    vm.console.take(100, SOON);
    rig.atoll(["pause", "vm"]).ok();
    let path = save(&rig, "vm", "small");
    let blocks = allocated(&path);
    println!("{blocks} bytes on disk for a VM of 64 GiB");
    assert!(blocks <= 512 << 10, "{blocks}");
    assert_eq!(fs::metadata(path.join("memory")).unwrap().len(), 65 << 30);
}

/// While a mebibyte is echoed, snapshots are made; the guest computes the same checksum as the test.
#[test]
fn no_character_is_lost_while_snapshots_are_made() {
    let rig = Rig::new("echo");
    let bytes = count(1 << 20, 64 << 10);
    let mut random = random();
    let mut sent = vec![0_u8; bytes];
    random.fill(&mut sent[..]);
    let mut vm = start(&rig, "vm", &ECHO, &["--cmdline", &bytes.to_string()]);
    vm.expect(">", SOON);
    let every = bytes / count(40, 8);
    for (number, block) in sent.chunks(2048).enumerate() {
        vm.send(block);
        if (number * 2048) % every < 2048 {
            save(&rig, "vm", "busy");
        }
        let back = vm.console.take(block.len(), SOON);
        assert!(back == block, "block {number} came back changed");
    }
    vm.expect(&format!("{:08x}", checksum(&sent)), SOON);
    assert_eq!(vm.wait(SOON).status, CONTENT);
}

/// A guest that prints a byte each millisecond: what the console had before a snapshot of the paused VM and what it has after
/// its restore make one sequence, whatever was on its way inside.
#[test]
fn what_was_on_its_way_to_the_console_comes_once_after_a_restore() {
    let rig = Rig::new("beat");
    let mut random = random();
    let mut expected = 0_usize;
    let mut vm = start(&rig, "vm", &BEAT, &[]);
    for round in 0..count(50, 6) {
        vm.console.take(random.random_range(50..400), SOON);
        rig.atoll(["pause", "vm"]).ok();
        let path = save(&rig, "vm", "snapshot");
        // Not politely: what the serial port still has is in the snapshot alone.
        rig.atoll(["kill", "vm"]).ok();
        vm.console.wait_end(SOON);
        for byte in vm.console.bytes() {
            assert_eq!(usize::from(byte), expected % usize::from(BEAT_MODULUS), "byte {expected}, round {round}");
            expected += 1;
        }
        vm.wait(SOON);
        let arguments: &[&str] = if round % 2 == 1 { &["--on-demand"] } else { &[] };
        vm = restore(&rig, "vm", &path, arguments);
        vm.wait_state(&["paused"]);
        rig.atoll(["resume", "vm"]).ok();
    }
    println!("{expected} bytes");
}

/// Registers and a pending interrupt of the serial port, and one on its way through the IOAPIC, are in the snapshot.
#[test]
fn a_pending_interrupt_survives() {
    let rig = Rig::new("pending");
    let vm = start(&rig, "vm", &PENDING, &[]);
    vm.expect("P", SOON);
    let path = save(&rig, "vm", "pending");
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
    let mut vm = restore(&rig, "vm", &path, &[]);
    vm.wait_state(&["running"]);
    vm.send("x");
    let done = vm.wait(SOON);
    assert_eq!(done.status, CONTENT, "{}", done.error);
}

/// A snapshot of one name is replaced as a whole; a job that fails or is cancelled leaves the old one, and no rubbish.
#[test]
fn a_snapshot_is_replaced_as_a_whole_and_failures_leave_the_old_one() {
    let rig = Rig::new("replace");
    let mut vm = start(&rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    let path = save(&rig, "vm", "one");
    let before = files(&path);
    vm.send(".");
    vm.expect(".", SOON);
    // The place is no snapshot.
    let other = rig.file("file", b"mine");
    rig.atoll(["snapshot", "vm", &other.display().to_string()]).fails(8, &["snapshot.occupied"]);
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    let nowhere = rig.path("no/such/folder");
    rig.atoll(["snapshot", "vm", &nowhere.display().to_string()]).fails(8, &["snapshot.io"]);
    assert!(files(&path) == before);
    assert_eq!(state(&rig, "vm").0, "running");
    save(&rig, "vm", "one");
    assert!(files(&path) != before);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    // The VM that was saved runs on.
    vm.send("q");
    assert_eq!(vm.wait(SOON).status, CONTENT);
}
