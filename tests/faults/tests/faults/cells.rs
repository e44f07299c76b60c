//! The table names everybody who is there, and nobody who is not.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use ::supervisor::core::faults::{Moment, Process, TABLE};
use chaos::Followed;
use faults::vm::{self, NAME, Vm};
use rig::{Rig, SOON, finish};
use serde_json::Value;

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(5);

const MOMENTS: [Moment; 9] = [
    Moment::Start,
    Moment::Run,
    Moment::Pause,
    Moment::Sleep,
    Moment::Save,
    Moment::Load,
    Moment::LoadOnDemand,
    Moment::Reset,
    Moment::Stop,
];

/// A process by the name of its binary, or by its own.
fn process(name: &str, moment: Moment) -> Process {
    match name {
        "keeper" => Process::Keeper,
        "supervisor" => Process::Supervisor,
        "engine" => Process::Engine,
        "board" => Process::Board,
        "serial" | "serial0" => Process::Serial0,
        "loader" => Process::Loader,
        "streamer" if moment == Moment::Save => Process::StreamerSource,
        "streamer" => Process::StreamerTarget,
        other => unreachable!("'{other}' is a process of a VM, and the table does not know it"),
    }
}

/// Everybody who lives when the moment begins, and whose start is told of until it is over.
fn there(moment: Moment, snapshots: &Rig) -> BTreeSet<Process> {
    let rig = Rig::new("fault-cells");
    let snapshot = snapshots.path("snapshot");
    let mut vm = Vm::start(&rig, moment, &snapshot);
    let events = Followed::start(&rig, NAME);
    let begins = matches!(moment, Moment::Start | Moment::Load | Moment::LoadOnDemand);
    if !begins {
        vm.prepare(moment);
    }
    let before = if begins { 0 } else { vm.events().len() };
    let mut names: BTreeSet<String> = vm.processes().all().into_values().collect();
    match moment {
        Moment::Sleep => vm.send("s"),
        // It waits for bytes.
        Moment::Load | Moment::LoadOnDemand => vm.send("."),
        _ => {}
    }
    if let Some(action) = vm::action(&rig, moment, &rig.path("new")) {
        finish(action, SOON).ok();
    }
    if moment == Moment::Stop {
        vm.wait();
    } else {
        let end = Instant::now() + SOON;
        while !vm::is_done(&vm, moment) {
            assert!(Instant::now() < end, "{moment:?}: {}", vm.said.text());
            thread::sleep(AGAIN);
        }
        names.extend(vm.processes().all().into_values());
        rig.atoll(["kill", NAME]).ok();
        vm.wait();
    }
    let told = events.finish();
    let started = told.iter().skip(before).filter(|event| event["kind"] == "PROCESS_STARTED");
    names.extend(started.filter_map(|event| event["process"].as_str()).map(str::to_owned));
    assert!(told.iter().all(|event| event["kind"] != "ATTACK"), "{:#?}", Value::Array(told));
    // A process between its begin and its program is still called after the keeper's thread that makes it.
    names.remove("spawn");
    names.iter().map(|name| process(name, moment)).collect()
}

#[test]
fn the_table_names_everybody_who_is_there_at_each_moment_and_nobody_else() {
    let rig = Rig::new("fault-snapshot");
    let _ = vm::snapshot(&rig);
    let mut cells = 0;
    for moment in MOMENTS {
        let named: BTreeSet<Process> = TABLE.iter().filter(|row| row.moment == moment).map(|row| row.process).collect();
        assert_eq!(there(moment, &rig), named, "{moment:?}");
        cells += named.len();
    }
    assert_eq!(cells, TABLE.len(), "a row twice, or of a moment that is not here");
    println!("{} moments, {cells} pairs of process and moment, in reality as in the table", MOMENTS.len());
}
