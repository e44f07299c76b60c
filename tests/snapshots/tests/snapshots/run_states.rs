//! The table of run states, row by row, on whole VMs: a guest that really sleeps, and clients that really ask.

use control::types::RunState;
use guest::bare::SLEEP;
use rig::{Rig, SOON, Vm};
use snapshots::{kinds, restore, save, start, state};
use supervisor::core::run_states::{Action, PAUSED, PAUSED_ASLEEP, Row, SUSPENDED};

const TOLD: [&str; 5] = ["STOP", "RESUME", "RESET", "SUSPEND", "WAKEUP"];

fn told(rig: &Rig, name: &str) -> Vec<String> {
    kinds(rig, name).into_iter().filter(|kind| TOLD.contains(&kind.as_str())).collect()
}

/// A VM in this state; `by_clock`: one that sleeps until its alarm.
fn bring<'a>(rig: &'a Rig, to: RunState, by_clock: bool) -> Vm<'a> {
    let mut vm = start(rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    if to == SUSPENDED || to == PAUSED_ASLEEP {
        vm.send(if by_clock { "a" } else { "s" });
        vm.wait_event("SUSPEND", 0);
        if !by_clock {
            vm.wait_state(&["suspended"]);
        }
    }
    if to == PAUSED || to == PAUSED_ASLEEP {
        rig.atoll(["pause", "vm"]).ok();
    }
    vm
}

fn check(row: &Row) {
    let rig = Rig::new("run-state");
    let expected: Vec<String> = row.events.iter().map(|kind| (*kind).to_owned()).collect();
    let pair = |state: RunState| (state.status.name().to_owned(), state.resume_to.name().to_owned());
    let mut vm = bring(&rig, row.from, row.action == Action::WakeEvent);
    let before = told(&rig, "vm").len();
    let begin = if row.action == Action::WakeEvent { before.min(1) } else { before };
    let command = |verb: &str| match row.to {
        Ok(_) => _ = rig.atoll([verb, "vm"]).ok(),
        Err(code) => _ = rig.atoll([verb, "vm"]).fails(8, &[code]),
    };
    match row.action {
        Action::Sleep => {
            vm.send("s");
            vm.wait_event("SUSPEND", 0);
        }
        Action::WakeEvent => _ = vm.wait_event("WAKEUP", 0),
        Action::Wakeup => command("wakeup"),
        Action::Pause => command("pause"),
        Action::Resume => command("resume"),
        Action::Reset => command("reset"),
        Action::Snapshot => _ = save(&rig, "vm", "snapshot"),
        Action::Restore | Action::RestorePaused => {
            let path = save(&rig, "vm", "snapshot");
            rig.atoll(["kill", "vm"]).ok();
            vm.wait(SOON);
            let arguments: &[&str] = if row.action == Action::RestorePaused { &["--paused"] } else { &[] };
            vm = restore(&rig, "vm", &path, arguments);
        }
    }
    let to = row.to.unwrap_or(row.from);
    vm.wait_state(&[to.status.name()]);
    assert_eq!(state(&rig, "vm"), pair(to), "{row:?}");
    let begin = if matches!(row.action, Action::Restore | Action::RestorePaused) { 0 } else { begin };
    assert_eq!(told(&rig, "vm")[begin..], expected[..], "{row:?}");
    // Whatever state it is in, it can be brought back to work.
    if to.status == control::types::Status::Paused {
        rig.atoll(["resume", "vm"]).ok();
    }
    if to.resume_to == control::types::Status::Suspended {
        rig.atoll(["wakeup", "vm"]).ok();
        vm.expect("W", SOON);
    }
    vm.send("q");
    let done = vm.wait(SOON);
    assert_eq!(done.status, 0x21, "{row:?}: {}", done.error);
}

supervisor::run_state_tests!(check);

/// A guest that sleeps without saying where it wakes is reset when it is woken.
#[test]
fn a_guest_without_a_waking_vector_is_reset() {
    let rig = Rig::new("no-vector");
    let mut vm = start(&rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    vm.send("n");
    vm.wait_state(&["suspended"]);
    rig.atoll(["wakeup", "vm"]).fails(8, &["s3.vector"]);
    vm.expect("S", SOON);
    vm.send("q");
    assert_eq!(vm.wait(SOON).status, 0x21);
}
