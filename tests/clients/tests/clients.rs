//! What a client in Python does with a VM by its control socket, and what it cannot do to it. The stories themselves are in
//! `python/client.py` and `python/hostile.py`.

use clients::{beats_on, nothing_was_restarted, python, start, tell};
use guest::bare::{BEAT, SLEEP};
use rig::{Rig, SOON};

/// MiB of memory in use where a job must be met at work.
const MUCH: usize = 256;

#[test]
fn a_vm_is_inspected() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-inspect");
    let vm = start(&rig, &BEAT, 0);
    tell(&rig, "inspect", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
}

#[test]
fn a_vm_is_paused_and_resumed_and_errors_have_codes() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-states");
    let vm = start(&rig, &BEAT, 0);
    tell(&rig, "states", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
}

#[test]
fn a_sleeping_guest_is_woken() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-sleep");
    let mut vm = start(&rig, &SLEEP, 0);
    vm.expect("S", SOON);
    vm.send("s");
    tell(&rig, "sleep", 0);
    vm.expect("W", SOON);
    nothing_was_restarted(&rig);
}

#[test]
fn events_come_by_number_and_as_a_stream() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-events");
    let vm = start(&rig, &BEAT, 0);
    tell(&rig, "events", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
}

#[test]
fn a_snapshot_is_a_job_with_progress() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-snapshot");
    let vm = start(&rig, &BEAT, MUCH);
    let scratch = tell(&rig, "snapshot", MUCH);
    beats_on(&vm);
    nothing_was_restarted(&rig);
    rig.atoll(["state", "check", &scratch.join("snapshot").display().to_string()]).ok();
}

#[test]
fn a_job_is_cancelled() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-cancel");
    let vm = start(&rig, &BEAT, MUCH);
    let scratch = tell(&rig, "cancel", MUCH);
    beats_on(&vm);
    nothing_was_restarted(&rig);
    rig.atoll(["state", "check", &scratch.join("snapshot").display().to_string()]).ok();
}

#[test]
fn files_that_do_not_fit_are_refused() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-refusals");
    let vm = start(&rig, &BEAT, 0);
    let scratch = tell(&rig, "refusals", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
    rig.atoll(["state", "check", &scratch.join("snapshot").display().to_string()]).ok();
}

#[test]
fn garbage_and_crowds_on_the_control_socket_do_no_harm() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-garbage");
    let vm = start(&rig, &BEAT, 0);
    tell(&rig, "control_socket", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
    let kinds = rig.events("vm", 0);
    assert!(kinds.iter().all(|event| event["kind"] != "STOP"), "the guest was stopped: {kinds:#?}");
    let reasons: Vec<_> =
        kinds.iter().filter(|event| event["kind"] == "CLIENT_CUT").map(|event| &event["cause"]).collect();
    for wanted in ["calls are at work", "bytes of answers"] {
        let said = reasons.iter().any(|reason| reason.as_str().is_some_and(|reason| reason.contains(wanted)));
        assert!(said, "nobody was cut off because of '{wanted}': {reasons:?}");
    }
}

#[test]
fn parcels_that_nobody_asked_for_do_no_harm() {
    if !python() {
        return;
    }
    let rig = Rig::new("client-parcels");
    let vm = start(&rig, &BEAT, 0);
    let scratch = tell(&rig, "descriptors", 0);
    beats_on(&vm);
    nothing_was_restarted(&rig);
    rig.atoll(["state", "check", &scratch.join("snapshot").display().to_string()]).ok();
}
