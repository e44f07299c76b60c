//! A process dies that the VM cannot do without: the VM ends, at once and with a word about it.

use std::time::Instant;

use chaos::{Followed, Processes, memfds_alive};
use guest::bare::BEAT;
use rig::{Rig, SOON, runs};

use crate::{alone, root, start, start_with_console};

/// Exit status of `atoll run` when a process that the VM cannot do without has ended.
const PROCESS_LOST: i32 = control::exit_status::PROCESS_LOST as i32;

#[test]
fn the_end_of_the_engine_ends_the_vm_with_an_event_that_names_it_and_its_cause() {
    ends_the_vm("engine");
}

#[test]
fn the_end_of_the_board_ends_the_vm_with_an_event_that_names_it_and_its_cause() {
    ends_the_vm("board");
}

fn ends_the_vm(process: &str) {
    let _one = alone();
    let rig = Rig::new(&format!("{process}-ends"));
    let (vm, _console) = start_with_console(&rig, "beat", &BEAT, &[]);
    let processes = Processes::of(&rig, "beat");
    let mut events = Followed::start(&rig, "beat");
    events.until("STARTED");
    let all = processes.all();

    let killed = Instant::now();
    processes.kill(process);
    let done = vm.wait(SOON);
    println!("{process} killed: the VM has ended after {:.1?}, saying: {}", killed.elapsed(), done.error.trim());
    assert_eq!(done.status, PROCESS_LOST, "{}", done.error);
    for word in [process, "SIGKILL"] {
        assert!(done.error.contains(word), "{word} is not in: {}", done.error);
    }
    let events = events.finish();
    let exit = events.iter().find(|event| event["kind"] == "PROCESS_EXITED" && event["process"] == process);
    let exit = exit.unwrap_or_else(|| panic!("no event of its end: {events:#?}"));
    assert!(exit["cause"].as_str().is_some_and(|cause| cause.contains("SIGKILL")), "{exit}");
    assert_eq!(exit["incarnation"], 1);
    let end = events.last().map(ToString::to_string).unwrap_or_default();
    assert!(end.contains(process) && end.contains("SIGKILL"), "the last event does not say why: {end}");
    assert!(all.keys().all(|pid| !runs(*pid)), "{all:?}");
    assert!(!rig.path("atoll/beat").exists(), "its directory is left");
}

/// A detached VM, so that nobody is there who would clean up.
#[test]
fn when_the_keeper_is_killed_nothing_is_left_of_the_vm_and_the_next_ps_clears_its_directory() {
    let _one = alone();
    let rig = Rig::new("keeper-killed");
    let kernel = rig.file(BEAT.name, BEAT.image).display().to_string();
    rig.atoll(["run", "--detach", "--name", "beat", "--memory", "64M", "--kernel", &kernel]).ok();
    let processes = Processes::of(&rig, "beat");
    let all = processes.all();
    assert!(all.len() >= 5, "{all:?}");
    let memfds = processes.memfds();
    assert!(!root() || memfds_alive(&memfds).len() >= 6, "{memfds:?}");

    let killed = Instant::now();
    processes.kill("keeper");
    while all.keys().any(|pid| runs(*pid)) || !memfds_alive(&memfds).is_empty() {
        assert!(killed.elapsed() < SOON, "left: {:?}, {:?}", processes.all(), memfds_alive(&memfds));
    }
    println!("keeper killed: {} processes and {} memfds gone after {:.1?}", all.len(), memfds.len(), killed.elapsed());

    let directory = rig.path("atoll/beat");
    assert!(directory.exists(), "there is nobody who could have removed it");
    let done = rig.atoll(["ps", "--json"]).ok();
    assert_eq!(done.output.trim(), "[]");
    assert!(done.error.contains("'beat' has ended"), "{}", done.error);
    assert!(!directory.exists());
    // The name is free again.
    rig.atoll(["run", "--detach", "--name", "beat", "--memory", "16M", "--kernel", &kernel]).ok();
    rig.atoll(["kill", "beat"]).ok();
}

/// In the foreground the launcher says what happened and cleans up itself.
#[test]
fn when_the_keeper_of_a_foreground_vm_is_killed_the_launcher_says_so_and_removes_its_directory() {
    let _one = alone();
    let rig = Rig::new("keeper-killed-foreground");
    let vm = start(&rig, "beat", &BEAT, &["--console", "none"]);
    vm.wait_state(&["running"]);
    let processes = Processes::of(&rig, "beat");
    let all = processes.all();
    processes.kill("keeper");
    let done = vm.wait(SOON);
    assert_eq!(done.status, PROCESS_LOST, "{}", done.error);
    assert!(done.error.contains("keeper[1] is gone") && done.error.contains("SIGKILL"), "{}", done.error);
    assert!(all.keys().all(|pid| !runs(*pid)), "{all:?}");
    assert!(!rig.path("atoll/beat").exists());
}
