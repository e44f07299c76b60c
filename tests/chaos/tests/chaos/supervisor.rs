//! The supervisor dies: the guest does not stop, and nobody misses an event.
//!
//! The guest prints a byte each millisecond of its own time, counting. That the count goes on proves that it is the same
//! guest; the longest time between two bytes is how long it stood still, if it did.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chaos::{Beat, Curious, Followed, Processes};
use guest::bare::{BEAT, ECHO, RESET, RESETS, checksum};
use rand::Rng;
use rig::{Rig, SOON, Vm, count, random};

use crate::{CONTENT, alone, read, start, start_with_console};

/// A supervisor that has lived this long is not one of a row of short lives (keeper, `seat.rs`).
const LONG_LIFE: Duration = Duration::from_millis(1100);

/// A VM with the counting guest, a client that follows its events, and its processes.
fn counting<'a>(rig: &'a Rig) -> (Vm<'a>, Beat, Followed, Processes) {
    let (vm, console) = start_with_console(rig, "beat", &BEAT, &[]);
    let mut events = Followed::start(rig, "beat");
    events.until("STARTED");
    let mut beat = Beat::of(console);
    beat.go_on(100);
    (vm, beat, events, Processes::of(rig, "beat"))
}

/// Waits for the takeover by the supervisor that follows.
#[track_caller]
fn adopted(events: &mut Followed) {
    let event = events.until("SUPERVISOR_ADOPTED");
    assert!(event["cause"].as_str().is_some_and(|cause| cause.contains("SIGKILL")), "{event}");
}

/// Ends the VM and checks the whole row of events.
fn end(rig: &Rig, vm: Vm<'_>, events: Followed) {
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    let events = events.finish();
    println!("{} events, none missing or doubled", events.len());
}

/// A client is subscribed all the time, over every supervisor, and another one asks all the time; the guest computes all the time
/// and its console is never silent. How long the guest's longest gap is says `./dev bench takeover`, on a machine that does
/// nothing else.
#[test]
fn a_killed_supervisor_is_replaced_under_load_and_the_guest_does_not_stop() {
    let _one = alone();
    let kills = count(200, 12);
    let rig = Rig::new("supervisor-killed");
    let (vm, mut beat, mut events, processes) = counting(&rig);
    let curious = Curious::start(&rig, "beat", Duration::ZERO);
    let undisturbed = beat.go_on(1000);
    beat.so_far();
    let (mut longest, mut beats) = (Duration::ZERO, 0);
    let first = instructions(&rig);
    let mut last = first;
    for _ in 0..kills {
        beat.so_far();
        processes.kill("supervisor");
        adopted(&mut events);
        let during = beat.so_far();
        (longest, beats) = (longest.max(during.longest_gap), beats + during.beats);
        beat.go_on(1);
        let now = instructions(&rig);
        assert!(now >= last, "another engine, which counts anew");
        last = now;
    }
    beat.go_on(100);
    assert!(instructions(&rig) > first, "the engine counts no more");
    let asked = curious.end();
    println!(
        "{kills} supervisors killed; the guest counted {beats} beats of 1 ms until their successors were there, and none was \
         missing or doubled; longest gap {longest:.1?} (undisturbed: {undisturbed:.1?}); {asked} questions answered"
    );
    assert_eq!(events.count("PROCESS_EXITED", Some("engine")), 0);
    end(&rig, vm, events);
}

/// What the engine has executed, as the supervisor of the moment says.
fn instructions(rig: &Rig) -> u64 {
    rig.json(&["inspect", "beat"])["statistics"]["instructions"].as_u64().unwrap_or_default()
}

#[test]
fn two_supervisors_killed_within_100_ms_are_replaced_and_no_event_is_missing_or_doubled() {
    let _one = alone();
    let pairs = count(50, 8);
    let rig = Rig::new("supervisor-twice");
    let (vm, mut beat, mut events, processes) = counting(&rig);
    let mut random = random();
    let (mut shortest, mut longest, mut within) = (SOON, Duration::ZERO, 0);
    for _ in 0..pairs {
        // The keeper waits longer and longer before a start when lives are short; a long one begins a new row.
        thread::sleep(LONG_LIFE);
        let first = processes.kill("supervisor");
        let killed = Instant::now();
        processes.wait_other("supervisor", first);
        // Somewhere in its start, its takeover, or after it.
        thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        processes.kill("supervisor");
        let apart = killed.elapsed();
        (shortest, longest) = (shortest.min(apart), longest.max(apart));
        within += usize::from(apart <= Duration::from_millis(100));
        adopted(&mut events);
        // The second of the two may have died before it took over, so there are one or two.
        vm.wait_state(&["running"]);
        beat.go_on(10);
    }
    println!("{pairs} pairs of kills, {shortest:.1?} to {longest:.1?} apart, {within} of them within 100 ms");
    end(&rig, vm, events);
}

/// The client's command may be lost with the supervisor, and then it says so; but the VM is always either paused or running,
/// with one STOP for each time that it stood and one RESUME for each time that it went on.
#[test]
fn a_supervisor_killed_during_a_pause_or_a_resume_leaves_the_vm_paused_or_running_and_nothing_between() {
    let _one = alone();
    let rounds = count(200, 16);
    let rig = Rig::new("supervisor-pause");
    let (vm, mut beat, mut events, processes) = counting(&rig);
    let mut random = random();
    let mut lost = 0;
    for round in 0..rounds {
        let (command, state) = if round % 2 == 0 { ("pause", "paused") } else { ("resume", "running") };
        let mut client = spawn(&rig, &[command, "beat"]);
        thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
        processes.kill("supervisor");
        let done = client.wait().unwrap();
        adopted(&mut events);
        let now = vm.wait_state(&["paused", "running"])["state"]["status"].as_str().unwrap_or_default().to_owned();
        if now != state {
            assert!(!done.success(), "'{command}' succeeded, and the VM is {now}");
            lost += 1;
            rig.atoll([command, "beat"]).ok();
        }
        vm.wait_state(&[state]);
        match state {
            "paused" => beat.stands(),
            _ => drop(beat.go_on(20)),
        }
    }
    rig.atoll(["resume", "beat"]);
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    let events = events.finish();
    let turns: Vec<&str> =
        events.iter().filter_map(|event| event["kind"].as_str()).filter(|k| matches!(*k, "STOP" | "RESUME")).collect();
    let alternate = turns.iter().zip(["STOP", "RESUME"].iter().cycle()).all(|(turn, expected)| turn == expected);
    assert!(alternate && turns.len() >= rounds, "{turns:?}");
    println!("{rounds} pauses and resumes with a supervisor killed under them; {lost} had to be said again");
    println!("{} events, none missing or doubled", events.len());
}

/// A paused VM stays paused, whoever takes it over.
#[test]
fn a_paused_vm_stays_paused_when_its_supervisor_is_killed() {
    let _one = alone();
    let rig = Rig::new("supervisor-paused");
    let (vm, mut beat, mut events, processes) = counting(&rig);
    rig.atoll(["pause", "beat"]).ok();
    for _ in 0..3 {
        processes.kill("supervisor");
        adopted(&mut events);
        assert_eq!(vm.wait_state(&["paused", "running"])["state"]["status"], "paused");
        beat.stands();
    }
    rig.atoll(["resume", "beat"]).ok();
    beat.go_on(100);
    end(&rig, vm, events);
}

/// The successor finishes what was begun: the VM starts, whenever the first supervisor dies.
#[test]
fn a_supervisor_killed_while_the_vm_starts_is_replaced_and_the_vm_starts() {
    let _one = alone();
    let rounds = count(200, 15);
    let mut random = random();
    let rig = Rig::new("supervisor-start");
    for round in 0..rounds {
        let name = format!("start{round}");
        let vm = start(&rig, &name, &ECHO, &["--cmdline", "5"]);
        let processes = Processes::of(&rig, &name);
        let mut events = Followed::start(&rig, &name);
        thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
        processes.kill("supervisor");
        let mut vm = vm;
        vm.expect(">", SOON);
        // Who follows is there before the VM can be at its end.
        events.until("STARTED");
        vm.send("hello");
        vm.expect(&format!("hello{:08x}", checksum(b"hello")), SOON);
        let done = vm.wait(SOON);
        assert_eq!(done.status, CONTENT, "{}", done.error);
        events.until("ENDED");
        assert_eq!(events.count("STARTED", None), 1, "{:#?}", events.seen());
    }
    println!("{rounds} VMs started with their first supervisor killed within 60 ms");
}

/// A reset that was under way when the supervisor died is done by its successor, once.
#[test]
fn a_supervisor_killed_during_a_reset_is_replaced_and_the_reset_is_done_once() {
    use std::io::Write;
    let _one = alone();
    let rounds = count(500, 25);
    let mut random = random();
    let rig = Rig::new("supervisor-reset");
    let (vm, mut console) = start_with_console(&rig, "reset", &RESET, &[]);
    let mut events = Followed::start(&rig, "reset");
    let processes = Processes::of(&rig, "reset");
    assert_eq!(read(&mut console, 1), b"R");
    for round in 0..rounds {
        console.write_all(&[RESETS[round % RESETS.len()]]).unwrap();
        thread::sleep(Duration::from_micros(random.random_range(0..15_000)));
        processes.kill("supervisor");
        assert_eq!(read(&mut console, 1), b"R", "round {round}");
        adopted(&mut events);
    }
    console.write_all(b"q").unwrap();
    let done = vm.wait(SOON);
    assert_eq!(done.status, CONTENT, "{}", done.error);
    events.until("ENDED");
    assert_eq!(events.count("RESET", None), rounds);
    println!(
        "{rounds} resets with a supervisor killed under each; {} events, none missing or doubled",
        events.seen().len()
    );
}

fn spawn(rig: &Rig, arguments: &[&str]) -> Child {
    rig.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
