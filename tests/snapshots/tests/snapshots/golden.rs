//! States that released versions wrote: this version takes every one of them, and leaves the same again.
//!
//! The idea: a state means something to its own process alone, and a VM that is restored paused runs nothing; so golden states
//! are put into a snapshot of another VM, restored, and saved again. `golden/RELEASE` beside this crate's manifest holds them:
//! idle ones of a small payload, and busy ones of Debian under work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use guest::Mode;
use guest::bare::SLEEP;
use rig::{Rig, SOON};
use snapshot::{Snapshot, state_file};
use snapshots::{restore, save, start};
use state::golden::{self, Golden, Load};
use state::inspect::Saved;

use crate::edit::plant;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn states_of_every_release_are_loaded_and_written_again() {
    let all = golden::all(&folder()).unwrap();
    let mut sets: BTreeMap<(String, Load), Vec<&Golden>> = BTreeMap::new();
    for golden in &all {
        sets.entry((golden.release.clone(), golden.load)).or_default().push(golden);
    }
    assert!(sets.len() >= 2, "{sets:?}");
    for ((release, load), set) in &sets {
        let rig = Rig::new("golden");
        let vm = start(&rig, "vm", &SLEEP, &[]);
        vm.expect("S", SOON);
        rig.atoll(["pause", "vm"]).ok();
        let path = save(&rig, "vm", "golden");
        rig.atoll(["kill", "vm"]).ok();
        vm.wait(SOON);
        let read = |golden: &&Golden| {
            let mut content = Vec::new();
            File::open(&golden.path).unwrap().read_to_end(&mut content).unwrap();
            (golden.process.clone(), content)
        };
        let states: BTreeMap<String, Vec<u8>> = set.iter().map(read).collect();
        plant(&path, |process| states[process].clone());
        let vm = restore(&rig, "vm", &path, &["--paused"]);
        vm.wait_state(&["paused"]);
        let again = save(&rig, "vm", "again");
        for golden in set {
            let report = golden.read().unwrap().check();
            assert_eq!(report.problems, Vec::<String>::new(), "{}", golden.path.display());
            let written = Saved::open(&again.join(state_file(&golden.process))).unwrap();
            golden.compare_saved(&written).unwrap();
        }
        rig.atoll(["kill", "vm"]).ok();
        vm.wait(SOON);
        println!("{release}, {}: {} states loaded and written again", load.name(), set.len());
    }
}

/// Writes the golden files of this version, where there are none: `ATOLL_GOLDEN=write`, as `frozen/README.md` of the schema
/// says. Otherwise it only looks whether this version has some.
#[test]
fn this_version_has_golden_files() {
    let release = env!("CARGO_PKG_VERSION");
    if std::env::var_os(golden::VARIABLE).is_some_and(|value| value == "write") {
        let rig = Rig::new("golden-write");
        let vm = start(&rig, "idle", &SLEEP, &[]);
        vm.expect("S", SOON);
        write(&save(&rig, "idle", "idle"), release, Load::Idle);
        let vm = crate::debian::boot(&rig, Mode::Work).unwrap();
        (0..5).for_each(|_| _ = snapshots::round(&vm));
        write(&save(&rig, "debian", "busy"), release, Load::Busy);
    }
    let has = golden::all(&folder()).unwrap().into_iter().filter(|golden| golden.release == release).count();
    assert_eq!(has, 6);
}

fn write(from: &Path, release: &str, load: Load) {
    for state in &Snapshot::open(from).unwrap().manifest().states {
        let to = Golden::new(&folder(), release, &state.process, load).path;
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if !to.exists() {
            fs::copy(from.join(&state.file), to).unwrap();
        }
    }
}
