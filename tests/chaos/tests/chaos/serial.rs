//! The serial port dies; the guest and its user notice nothing but a pause.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use chaos::{Followed, Processes, figures};
use guest::bare::{ECHO, PENDING, PENDING_FILLER, checksum};
use rand::Rng;
use rig::{Rig, SOON, random, read_some};
use serde_json::Value;

use crate::{CONTENT, alone, read, start_with_console};

/// For 1 MiB through the translator on a busy host.
const PASTE: Duration = Duration::from_secs(900);

/// 1 MiB is pasted into the console and echoed by a guest that does all of it by interrupts, while the port's process is
/// killed a hundred times. Every byte comes back once and in order; the guest has received the same bytes (its checksum);
/// no register has changed (the guest looks with each interrupt) and no interrupt is lost (the echo would stop).
#[test]
fn a_paste_of_a_mebibyte_comes_back_unharmed_while_the_serial_port_is_killed_a_hundred_times() {
    const BYTES: usize = 1 << 20;
    const KILLS: usize = 100;
    let _one = alone();
    let mut random = random();
    let rig = Rig::new("serial-paste");
    let (vm, mut socket) = start_with_console(&rig, "paste", &ECHO, &["--cmdline", &BYTES.to_string()]);
    let processes = Processes::of(&rig, "paste");
    let events = Followed::start(&rig, "paste");
    assert_eq!(read(&mut socket, 1), b">");

    let mut pasted = vec![0; BYTES];
    random.fill(&mut pasted[..]);
    // Not while the last quarter is read: the guest may have written it, and be about to end, before it is.
    let mut kills: Vec<usize> = (0..KILLS).map(|_| random.random_range(0..BYTES / 4 * 3)).collect();
    kills.sort_unstable();
    let (mut input, copy) = (socket.try_clone().unwrap(), pasted.clone());
    let writer = thread::spawn(move || input.write_all(&copy));

    let start = Instant::now();
    let (mut echoed, mut killed, mut pauses) = (Vec::with_capacity(BYTES), None, Vec::new());
    let mut buffer = [0; 4096];
    for at in kills.into_iter().chain([BYTES]) {
        while echoed.len() < at {
            let room = buffer.len().min(at - echoed.len());
            let count = read_some(&mut socket, &mut buffer[..room])
                .unwrap_or_else(|error| panic!("{error} after {} bytes", echoed.len()));
            assert!(count > 0, "the console ended after {} bytes: {}", echoed.len(), vm.said.text());
            echoed.extend_from_slice(&buffer[..count]);
            pauses.extend(killed.take().map(|at: Instant| at.elapsed()));
            assert!(start.elapsed() < PASTE, "{} bytes after {PASTE:?}", echoed.len());
        }
        if at < BYTES {
            processes.kill("serial");
            killed = Some(Instant::now());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(
        echoed == pasted,
        "the echo differs from byte {:?} on",
        echoed.iter().zip(&pasted).position(|(a, b)| a != b)
    );
    writer.join().unwrap().unwrap();
    let sum = read(&mut socket, 8);
    assert_eq!(String::from_utf8_lossy(&sum), format!("{:08x}", checksum(&pasted)));
    let done = vm.wait(SOON);
    assert_eq!(done.status, CONTENT, "{}", done.error);

    println!("{KILLS} kills during {BYTES} bytes in {seconds:.1} s; from kill to next byte: {}", figures(pauses));
    check_events(events, KILLS);
}

/// Each death is told with its cause, and each successor.
fn check_events(events: Followed, kills: usize) {
    let events = events.finish();
    let of =
        |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind && event["process"] == "serial0");
    let killed =
        of("PROCESS_EXITED").filter(|event| event["cause"].as_str().is_some_and(|cause| cause.contains("SIGKILL")));
    assert_eq!(killed.count(), kills);
    let starts: Vec<_> = of("PROCESS_STARTED").collect();
    // One that is killed before it is ready does not say so.
    assert!(starts.len() > 1 && starts.len() <= kills + 1, "{}", starts.len());
    assert!(of("PROCESS_EXITED").any(|event| event["incarnation"] == kills), "each kill hit another incarnation");
    let down = of("PROCESS_EXITED").filter_map(|exit| {
        let next = starts.iter().find(|start| start["sequence"].as_u64() > exit["sequence"].as_u64())?;
        let time = |event: &Value| event["unix_nanoseconds"].as_u64();
        Some(Duration::from_nanos(time(next)?.saturating_sub(time(exit)?)))
    });
    println!("from the end to the successor's readiness: {}", figures(down.collect()));
    println!("{} events, none missing or doubled", events.len());
}

/// The port is killed while the guest is blocked in a write to it, with a byte in the FIFO and two interrupts pending that
/// the guest does not let through yet. The successor has the same registers, the same byte, and raises both interrupts.
#[test]
fn registers_and_pending_interrupts_of_the_serial_port_survive_kill_9_while_the_guest_waits_for_it() {
    let _one = alone();
    let rig = Rig::new("serial-pending");
    let (vm, mut socket) = start_with_console(&rig, "pending", &PENDING, &[]);
    let processes = Processes::of(&rig, "pending");
    let mut events = Followed::start(&rig, "pending");
    assert_eq!(read(&mut socket, 1), b"P");
    socket.write_all(b"x").unwrap();
    assert_eq!(read(&mut socket, 1), b"R");
    // Nobody reads now, so the guest gets no further than what socket and ring hold.
    events.until("STARTED");
    for _ in 0..3 {
        processes.kill("serial");
        // The next one must take over what this successor has made of it, not what the dead one left.
        let started = events.until("PROCESS_STARTED");
        assert_eq!(started["process"], "serial0");
    }
    let filler: Vec<u8> = (0..PENDING_FILLER).map(|n| n as u8).collect();
    assert!(read(&mut socket, PENDING_FILLER) == filler, "what the guest sent was lost, doubled or changed");
    let done = vm.wait(SOON);
    assert_eq!(done.status, CONTENT, "{}", done.error);
}
