//! Stories of VMs that are looked at, paused, killed and robbed of their processes, with guests of a few instructions.

#![cfg(test)]

use boot::Payload;
use rig::{Rig, SOON, Vm, runs};
use rustix::process::Signal;
use std::time::{Duration, Instant};

fn start<'a>(rig: &'a Rig, name: &str, payload: Payload, more: &[&str]) -> Vm<'a> {
    let file = rig.file(name, &payload.finish());
    let file = file.display().to_string();
    rig.start(name, ["--memory", "16M", "--kernel", &file].iter().chain(more))
}

/// Says "up", then counts for ever.
fn busy() -> Payload {
    Payload::new().print("up").spin()
}

#[track_caller]
fn wait_gone(pid: i32) {
    let end = Instant::now() + SOON;
    while runs(pid) {
        assert!(Instant::now() < end, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_running_vm_can_be_seen() {
    let rig = Rig::new("seen");
    let vm = start(&rig, "web", busy(), &[]);
    vm.expect("up", SOON);
    let rows = rig.json(&["ps"]);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert_eq!((rows[0]["name"].as_str(), rows[0]["status"].as_str()), (Some("web"), Some("running")));
    assert_eq!(rows[0]["memory_bytes"], 16 << 20);
    let seen = vm.wait_state(&["running"]);
    assert_eq!((seen["engine"].as_str(), seen["machine"].as_str()), (Some("tcg"), Some("q35-0")));
    assert!(seen["engine_why"].as_str().unwrap().contains("no KVM engine"));
    let pids = vm.pids();
    for name in ["keeper", "supervisor", "engine", "board"] {
        assert!(pids.get(name).is_some_and(|pid| runs(*pid)), "{name} among {pids:?}");
    }
    assert!(pids.keys().any(|name| name.starts_with("serial")), "{pids:?}");
    assert_eq!(rows[0]["keeper_pid"].as_i64(), pids.get("keeper").map(|pid| i64::from(*pid)));
    let table = rig.atoll(["ps"]).ok().output;
    assert!(table.lines().nth(1).unwrap().starts_with("web "), "{table}");
    assert!(rig.atoll(["inspect", "web"]).ok().output.contains("PROCESS"));
}

#[test]
fn every_process_tells_what_it_may_do() {
    let rig = Rig::new("sandbox");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    let list = rig.json(&["inspect", "vm", "--sandbox"]);
    let list = list.as_array().unwrap();
    for kind in ["engine", "board", "serial"] {
        let of_kind = |entry: &&serde_json::Value| entry["name"].as_str().is_some_and(|name| name.starts_with(kind));
        let entry = list.iter().find(of_kind).unwrap_or_else(|| panic!("{kind} is not among {list:#?}"));
        let calls = entry["system_calls"].as_array().unwrap().len() as u64;
        assert!(calls > 0 && calls <= entry["budget"].as_u64().unwrap(), "{entry:#}");
    }
}

#[test]
fn pause_stops_the_guest_and_resume_lets_it_go_on() {
    let rig = Rig::new("pause");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    rig.atoll(["pause", "vm"]).ok();
    let first = vm.wait_state(&["paused"]);
    let second = vm.wait_state(&["paused"]);
    for field in ["guest_nanoseconds", "statistics"] {
        assert_eq!(first[field]["instructions"], second[field]["instructions"]);
    }
    assert_eq!(first["guest_nanoseconds"], second["guest_nanoseconds"]);
    rig.atoll(["resume", "vm"]).ok();
    let third = vm.wait_state(&["running"]);
    assert!(third["guest_nanoseconds"].as_u64() >= second["guest_nanoseconds"].as_u64());
    let end = Instant::now() + SOON;
    let count = |seen: &serde_json::Value| seen["statistics"]["instructions"].as_u64().unwrap();
    while count(&vm.wait_state(&["running"])) <= count(&second) {
        assert!(Instant::now() < end, "the guest does not go on");
    }
    let kinds: Vec<String> =
        rig.events("vm", 0).iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    let position = |kind: &str| kinds.iter().position(|found| found == kind);
    assert!(position("STARTED") < position("STOP") && position("STOP") < position("RESUME"), "{kinds:?}");
    assert!(position("STARTED").is_some(), "{kinds:?}");
}

#[test]
fn events_are_numbered_without_gaps_and_followed_to_the_end() {
    let rig = Rig::new("events");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    let mut follow = rig.command(["events", "vm", "--follow", "--json"]);
    let mut follower = follow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = rig::Stream::of(follower.stdout.take().unwrap());
    lines.expect("STARTED", SOON);
    rig.atoll(["pause", "vm"]).ok();
    lines.expect("STOP", SOON);
    rig.atoll(["kill", "vm"]).ok();
    lines.expect("ENDED", SOON);
    lines.wait_end(SOON);
    assert!(follower.wait().unwrap().success());
    let numbers: Vec<u64> = lines
        .text()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    drop(vm);
}

#[test]
fn a_vm_that_is_started_paused_waits_for_resume() {
    let rig = Rig::new("paused");
    let vm = start(&rig, "vm", Payload::new().print("go").debug_exit(0), &["--paused"]);
    let seen = vm.wait_state(&["paused"]);
    assert_eq!(seen["statistics"]["instructions"], 0);
    assert!(vm.console.bytes().is_empty());
    rig.atoll(["resume", "vm"]).ok();
    let done = vm.wait(SOON);
    assert_eq!((done.status, done.output.as_str()), (1, "go"));
}

#[test]
fn reset_from_outside_starts_the_guest_again() {
    let rig = Rig::new("reset-outside");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    rig.atoll(["reset", "vm"]).ok();
    vm.expect("up", SOON);
    assert_eq!(vm.wait_state(&["running"])["resets"], 1);
}

#[test]
fn a_name_is_taken_while_its_vm_lives_and_free_afterwards() {
    let rig = Rig::new("name");
    let vm = start(&rig, "web", busy(), &[]);
    vm.expect("up", SOON);
    start(&rig, "web", busy(), &[]).wait(SOON).fails(2, &["'web'", "--name", "in use", "atoll kill web"]);
    rig.atoll(["kill", "web"]).ok();
    vm.wait(SOON).fails(6, &["killed"]);
    assert_eq!(rig.json(&["ps"]), serde_json::json!([]));
    rig.atoll(["inspect", "web"]).fails(8, &["no VM 'web'", "atoll ps"]);
    start(&rig, "web", Payload::new().power_off(), &[]).wait(SOON).ok();
}

#[test]
fn a_detached_vm_outlives_its_launcher_and_stop_ends_it_after_its_time() {
    let rig = Rig::new("detach");
    let vm = start(&rig, "free", busy(), &["--detach"]);
    let done = vm.wait(SOON).ok();
    assert_eq!(done.output, "free\n");
    assert_eq!(rig.json(&["ps"])[0]["status"], "running");
    let mut console = Vm::connect(&rig.path("atoll/free/console"));
    console.send("nobody listens");
    let keeper = rig.json(&["ps"])[0]["keeper_pid"].as_i64().unwrap() as i32;
    assert!(runs(keeper));
    // This guest does not know what a power button is.
    rig.atoll(["stop", "free", "--timeout", "1"]).ok();
    assert!(!runs(keeper));
    assert_eq!(rig.json(&["ps"]), serde_json::json!([]));
}

#[test]
fn the_vm_ends_with_its_launcher() {
    let rig = Rig::new("launcher");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    let pids = vm.pids();
    vm.signal_launcher(Signal::KILL);
    assert_eq!(vm.wait(SOON).status, 137);
    pids.values().for_each(|pid| wait_gone(*pid));
    // What it has left is removed by who sees it.
    assert_eq!(rig.json(&["ps"]), serde_json::json!([]));
    assert!(!rig.path("atoll/vm").exists());
}

#[test]
fn signals_to_the_launcher_end_the_vm_and_are_its_exit_status() {
    let rig = Rig::new("signals");
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        if rig::is_ignored(signal) {
            continue;
        }
        let vm = start(&rig, "vm", busy(), &[]);
        vm.expect("up", SOON);
        let pids = vm.pids();
        vm.signal_launcher(signal);
        let done = vm.wait(SOON);
        assert_eq!(done.status, status, "{}", done.error);
        pids.values().for_each(|pid| wait_gone(*pid));
        assert!(!rig.path("atoll/vm").exists());
    }
}

#[test]
fn the_vm_ends_with_its_keeper() {
    let rig = Rig::new("keeper");
    let vm = start(&rig, "vm", busy(), &[]);
    vm.expect("up", SOON);
    let pids = vm.pids();
    vm.kill_process("keeper");
    vm.wait(SOON).fails(4, &["keeper[1]", "SIGKILL"]);
    pids.values().for_each(|pid| wait_gone(*pid));
}

#[test]
fn the_vm_ends_with_its_engine_and_says_so() {
    let rig = Rig::new("engine");
    for name in ["engine", "board"] {
        let vm = start(&rig, name, busy(), &[]);
        vm.expect("up", SOON);
        vm.kill_process(name);
        vm.wait(SOON).fails(4, &[name, "SIGKILL"]);
    }
}

#[test]
fn the_serial_port_may_die_and_the_guest_does_not_notice() {
    let rig = Rig::new("serial");
    let mut vm = start(&rig, "vm", Payload::new().print("up").echo(3).debug_exit(0), &[]);
    vm.expect("up", SOON);
    let serial = vm.pids().into_keys().find(|name| name.starts_with("serial")).unwrap();
    for byte in ["a", "b"] {
        let killed = vm.kill_process(&serial);
        wait_gone(killed);
        vm.send(byte);
        vm.expect(byte, SOON);
    }
    vm.send("c");
    let done = vm.wait(SOON);
    assert_eq!((done.status, done.output.as_str()), (1, "upabc"), "{}", done.error);
}

#[test]
fn the_supervisor_may_die_and_its_successor_goes_on() {
    let rig = Rig::new("supervisor");
    let mut vm = start(&rig, "vm", Payload::new().print("up").echo(2).debug_exit(0), &[]);
    vm.expect("up", SOON);
    let before = vm.pids();
    vm.kill_process("supervisor");
    vm.send("x");
    vm.expect("x", SOON);
    vm.wait_event("SUPERVISOR_ADOPTED", 0);
    let after = vm.pids();
    for (name, pid) in &before {
        assert_eq!(name == "supervisor", after.get(name) != Some(pid), "{name}: {before:?} {after:?}");
    }
    vm.send("y");
    assert_eq!(vm.wait(SOON).status, 1);
}
