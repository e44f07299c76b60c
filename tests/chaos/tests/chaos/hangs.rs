//! A process stands still while nobody wants anything of it: that is found, and is then a kill like any other. A whole VM that
//! stands still and goes on is nobody's fault.

use std::io::Read;
use std::thread;
use std::time::Duration;

use chaos::{Followed, Processes};
use guest::bare::{BEAT, BEAT_MODULUS};
use rig::{Rig, SOON};
use rustix::process::Signal;
use serde_json::Value;

use crate::{alone, start_with_console};

/// Seconds; the shortest that there is.
const PATIENCE: &str = "1";

/// What is told of a process that was stopped, and, where that ends the VM, the exit status of `atoll run`.
fn told_of(process: &str, kind: &str, ends: bool) -> Value {
    let _one = alone();
    let rig = Rig::new(&format!("{process}-hangs"));
    let (vm, mut console) = start_with_console(&rig, "beat", &BEAT, &["--patience", PATIENCE]);
    let processes = Processes::of(&rig, "beat");
    let mut events = Followed::start(&rig, "beat");
    events.until("STARTED");
    let mut beats = vec![0; 5000];
    console.read_exact(&mut beats[..1]).unwrap();
    processes.signal(process, Signal::STOP);
    if ends {
        let done = vm.wait(SOON);
        assert_eq!(done.status, i32::from(control::exit_status::PROCESS_LOST), "{}", done.error);
        let events = events.finish();
        return events.into_iter().find(|event| event["kind"] == kind && event["process"] == process).unwrap();
    }
    let event = events.until(kind);
    // The guest goes on, and no beat is missing or doubled.
    console.read_exact(&mut beats[1..]).unwrap();
    assert!(beats.iter().enumerate().all(|(n, beat)| usize::from(*beat) == n % usize::from(BEAT_MODULUS)));
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    event
}

#[test]
fn a_device_that_hangs_is_started_again() {
    let event = told_of("serial", "PROCESS_EXITED", false);
    assert_eq!((&event["process"], &event["incarnation"]), (&"serial0".into(), &1.into()), "{event}");
    assert!(event["cause"].as_str().unwrap().contains("did not answer 'ping' in time"), "{event}");
}

#[test]
fn an_engine_or_a_board_that_hangs_ends_the_vm_with_a_word_about_it() {
    for process in ["engine", "board"] {
        let event = told_of(process, "PROCESS_EXITED", true);
        assert_eq!(event["incarnation"], 1, "{event}");
        // The answer to 'run' may still be on its way when the guest says its first word.
        let cause = event["cause"].as_str().unwrap();
        assert!(
            ["ping", "run"].iter().any(|verb| cause.contains(&format!("did not answer '{verb}' in time"))),
            "{event}"
        );
    }
}

#[test]
fn a_supervisor_that_hangs_is_replaced() {
    let event = told_of("supervisor", "SUPERVISOR_ADOPTED", false);
    let cause = event["cause"].as_str().unwrap();
    assert!(cause.contains("supervisor[1] was killed by SIGKILL by the keeper, since it stood still"), "{event}");
}

/// As when the host sleeps, or somebody freezes the group of processes.
#[test]
fn a_vm_that_stands_still_as_a_whole_loses_nobody() {
    let _one = alone();
    let rig = Rig::new("all-hang");
    let (vm, mut console) = start_with_console(&rig, "beat", &BEAT, &["--patience", PATIENCE]);
    let processes = Processes::of(&rig, "beat");
    let mut events = Followed::start(&rig, "beat");
    events.until("STARTED");
    let before = processes.all();
    for signal in [Signal::STOP, Signal::CONT] {
        for binary in before.values() {
            processes.signal(binary, signal);
        }
        thread::sleep(Duration::from_millis(2500));
    }
    let mut beats = vec![0; 5000];
    console.read_exact(&mut beats).unwrap();
    assert_eq!(processes.all(), before, "somebody was killed");
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    let events = events.finish();
    let ended = |event: &&Value| event["kind"] == "PROCESS_EXITED" && event["process"] != "loader";
    assert_eq!(events.iter().find(ended), None);
}
