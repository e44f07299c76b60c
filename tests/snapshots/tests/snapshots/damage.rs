//! Snapshots that were damaged, mixed up or cut: an error that names the file, and never a VM that runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use guest::bare::{BEAT, SLEEP};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rig::{Rig, SOON, count, random};
use snapshot::MANIFEST_FILE;
use snapshots::{files, kinds, restore, restore_to_its_end, save, start};
use wire::saved_capnp::saved_state;
use wire::snapshot_capnp::manifest as schema;

use crate::edit::{Which, manifest, plant, state};

/// The exit status of a VM that was not started.
const NOT_STARTED: i32 = 2;
/// That of a command that found something wrong.
pub const COMMAND_FAILED: i32 = 8;

fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// Damages one file in some way; returns its name.
fn damage(
    random: &mut StdRng,
    good: &BTreeMap<String, Vec<u8>>,
    other: &BTreeMap<String, Vec<u8>>,
    folder: &Path,
) -> String {
    let names: Vec<&String> = good.keys().collect();
    let name = (*names.choose(random).unwrap()).clone();
    let mut content = good[&name].clone();
    match random.random_range(0..10) {
        0 => content.truncate(random.random_range(0..content.len())),
        1 => content.extend_from_slice(&[0; 8]),
        2 => content = other[&name].clone(),
        3 => {
            fs::remove_file(folder.join(&name)).unwrap();
            return name;
        }
        _ => {
            // In RAM, where there is something: zeroes that are changed count as well, and are found as well.
            let at = random.random_range(0..content.len());
            content[at] ^= 1 << random.random_range(0..8);
        }
    }
    fs::write(folder.join(&name), content).unwrap();
    name
}

#[test]
fn damage_of_any_file_is_named_and_nothing_starts() {
    let rig = Rig::new("damage");
    let mut random = random();
    let mut vm = start(&rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    let good = files(&save(&rig, "vm", "good"));
    vm.send(".");
    vm.expect(".", SOON);
    let other = files(&save(&rig, "vm", "other"));
    vm.send("q");
    vm.wait(SOON);
    let folder = rig.path("bad");
    let (mut refused, mut same) = (0, 0);
    for number in 0..count(5_000, 500) {
        write(&folder, &good);
        let name = damage(&mut random, &good, &other, &folder);
        if fs::read(folder.join(&name)).is_ok_and(|content| content == good[&name]) {
            same += 1;
            continue;
        }
        let done = restore_to_its_end(&rig, "vm", &folder, &["--detach", "--paused"]);
        assert_eq!(done.status, NOT_STARTED, "{number}: damaged {name}: {}{}", done.output, done.error);
        // A whole manifest of another snapshot is right in itself; then it is another file that differs from it.
        let others = name == MANIFEST_FILE && fs::read(folder.join(&name)).is_ok_and(|content| content == other[&name]);
        let mut blamed = good.keys().filter(|file| if others { **file != name } else { **file == name });
        let named =
            blamed.any(|file| done.error.contains(&format!("'{file}'")) || done.error.contains(&format!("{file}: ")));
        assert!(named, "{number}: {name} is not named: {}", done.error);
        assert!(done.error.contains("  do: "), "{}", done.error);
        // Who only looks finds the same.
        rig.atoll(["state", "check", &folder.display().to_string()]).fails(COMMAND_FAILED, &["[snapshot.", "  do: "]);
        refused += 1;
    }
    println!("{refused} damaged snapshots refused, {same} were not changed by chance");
    // The good one is good.
    write(&folder, &good);
    rig.atoll(["state", "check", &folder.display().to_string()]).ok();
    let vm = restore(&rig, "vm", &folder, &[]);
    vm.wait_state(&["running"]);
}

/// Fields that cannot be, in files whose digests fit: the error names the file, or its process, and the field.
#[test]
fn a_field_that_cannot_be_is_named_and_nothing_starts() {
    let rig = Rig::new("field");
    let vm = start(&rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    let good = files(&save(&rig, "vm", "good"));
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
    let refused = &|name: &str, texts: &[&str]| {
        let done = restore_to_its_end(&rig, name, &rig.path(name), &["--detach", "--paused"]);
        assert_eq!(done.status, NOT_STARTED, "{texts:?}: {}{}", done.output, done.error);
        for text in texts.iter().chain(&["  do: "]) {
            assert!(done.error.contains(text), "{texts:?}: '{text}' is not said: {}", done.error);
        }
    };
    type InState = fn(saved_state::Builder<'_>);
    let states: [(&str, &str, InState); 7] = [
        ("engine", "'process'", |mut m| m.set_process("board")),
        ("board", "'machine'", |mut m| m.set_machine("q36-0")),
        ("serial", "'schemaDigest'", |mut m| m.set_schema_digest(&[1; 31])),
        ("board", "board.nothing", |m| m.init_must_understand(1).set(0, "board.nothing")),
        ("engine", "'engine.", |m| {
            let Ok(Which::Engine(Ok(engine))) = m.get_state().which() else { panic!("no state of an engine") };
            engine.get_vcpus().unwrap().get(0).set_index(9);
        }),
        ("serial", "'serial.uart.ier'", |m| {
            let Ok(Which::Serial(Ok(serial))) = m.get_state().which() else { panic!("no state of a port") };
            serial.get_uart().unwrap().set_ier(0xff);
        }),
        ("engine", "'state'", |m| _ = m.init_state().init_serial()),
    ];
    // At once, since a VM takes its time to end whose states were refused.
    std::thread::scope(|scope| {
        for (number, (process, field, change)) in states.into_iter().enumerate() {
            let name = format!("bad{number}");
            write(&rig.path(&name), &good);
            plant(&rig.path(&name), |of| {
                let content = &good[&snapshot::state_file(of)];
                if of.starts_with(process) { state(content, change) } else { content.clone() }
            });
            scope.spawn(move || refused(&name, &[process, field]));
        }
    });
    type InManifest = fn(schema::Builder<'_>);
    let manifests: [(&str, InManifest); 4] = [
        ("'format'", |mut m| m.set_format(2)),
        ("'manifest.encryption'", |m| m.init_must_understand(1).set(0, "manifest.encryption")),
        ("'states[0].length'", |m| m.get_states().unwrap().get(0).set_length(0)),
        ("'ram.chunkBytes'", |m| m.get_ram().unwrap().set_chunk_bytes(3)),
    ];
    let folder = rig.path("manifest");
    for (field, change) in manifests {
        write(&folder, &good);
        fs::write(folder.join(MANIFEST_FILE), manifest(&good[MANIFEST_FILE], change)).unwrap();
        refused("manifest", &["manifest: ", field]);
    }
}

/// A damaged piece of memory that nobody has looked at yet pauses the VM when it is met, and nothing else happens to it.
#[test]
fn damaged_memory_that_is_met_on_demand_pauses_the_vm() {
    let rig = Rig::new("bad-chunk");
    let vm = start(&rig, "vm", &BEAT, &[]);
    vm.console.take(300, SOON);
    let good = files(&save(&rig, "vm", "good"));
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
    let folder = rig.path("bad");
    let mut bad = good.clone();
    // The program of the guest is at 1 MiB.
    bad.get_mut("memory").unwrap()[(1 << 20) + 0x1000] ^= 0xff;
    write(&folder, &bad);
    let vm = restore(&rig, "vm", &folder, &["--on-demand"]);
    vm.wait_state(&["running", "paused"]);
    vm.wait_event("RAM_DAMAGED", 0);
    vm.wait_state(&["paused"]);
    rig.atoll(["resume", "vm"]).fails(8, &["ram.damaged"]);
    rig.atoll(["snapshot", "vm", &rig.path("no").display().to_string()]).fails(8, &["ram.damaged"]);
    assert!(!rig.path("no").exists());
    assert_eq!(kinds(&rig, "vm").iter().filter(|kind| *kind == "RAM_DAMAGED").count(), 1);
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
}
