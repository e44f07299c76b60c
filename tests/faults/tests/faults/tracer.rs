//! The tracer by itself, on a process whose every system call is known.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ::supervisor::core::faults::Fault;
use faults::plant::PANIC;
use faults::tracer::{Order, Trace, Watch, strike};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use rig::{SOON, Stream, count, random};

/// Begin and end of a read, and of a write.
const STOPS: u64 = 4;

/// The relay with pipes for its streams, waiting for its first byte.
struct Relay {
    child: Child,
    output: Stream,
    error: Stream,
}

impl Relay {
    #[track_caller]
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Stream::of(child.stdout.take().unwrap());
        let error = Stream::of(child.stderr.take().unwrap());
        let relay = Self { child, output, error };
        // A system call that waits is one that has begun; what comes before the first one is not counted.
        relay.until("waits for a byte", || {
            fs::read_to_string(relay.proc("syscall")).is_ok_and(|call| call.starts_with("0 0x0 "))
        });
        relay
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid())
    }

    /// Its state as the kernel names it, and who traces it.
    fn state(&self) -> (String, String) {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
        (field("State:"), field("TracerPid:"))
    }

    #[track_caller]
    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let end = Instant::now() + SOON;
        while !reached() {
            assert!(Instant::now() < end, "not: {what}; {:?}, {}", self.state(), self.error.text());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&mut self, bytes: usize) {
        // One that was killed takes no more.
        let _ = self.child.stdin.as_mut().unwrap().write_all(&vec![b'x'; bytes]);
    }

    /// What comes out in the end.
    fn end(mut self) -> (ExitStatus, usize) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        self.output.wait_end(SOON);
        (status, self.output.bytes().len())
    }

    fn traced(&self, order: Option<Order>) -> Trace {
        let (trace, none) = Trace::begin(Watch::Living(self.pid()), order).expect("one's own child may be traced");
        assert!(none.is_none());
        trace
    }
}

/// Whether the kernel lets this user trace its own children; says so if not.
fn allowed() -> bool {
    let relay = Relay::start();
    let allowed = Trace::begin(Watch::Living(relay.pid()), None).map(|(trace, _)| drop(trace.end())).is_ok();
    assert_eq!(relay.end().1, 0);
    if !allowed {
        println!("skipped: the kernel lets nobody trace here");
    }
    allowed
}

fn order(fault: Fault, at: u64) -> Order {
    Order { fault, at, choice: 0 }
}

/// How many bytes come out of a relay of 100 that is killed at this stop.
fn killed_at(stop: u64) -> usize {
    let mut relay = Relay::start();
    let trace = relay.traced(Some(order(Fault::Kill, stop)));
    relay.send(100);
    relay.until("killed", || trace.is_over());
    let report = trace.end();
    assert_eq!((report.planted, report.stops), (Some(relay.pid()), stop));
    let (status, bytes) = relay.end();
    assert_eq!(status.signal(), Some(9), "{status}");
    bytes
}

/// How many stops a relay has that ends, and whether the fault is planted that is ordered for one of them.
fn at_the_end(fault: Option<(Fault, u64)>) -> (u64, bool) {
    let mut relay = Relay::start();
    let trace = relay.traced(fault.map(|(fault, at)| order(fault, at)));
    drop(relay.child.stdin.take());
    relay.until("ended", || matches!(relay.state().0.chars().next(), None | Some('Z')));
    let report = trace.end();
    // Its tracer may have done so.
    let _ = relay.child.wait();
    (report.stops, report.planted.is_some())
}

#[test]
fn who_has_begun_to_exit_does_not_stop_any_more() {
    if !allowed() {
        return;
    }
    let (last, _) = at_the_end(None);
    assert_eq!(at_the_end(Some((Fault::Stop, last))), (last, false));
    assert_eq!(at_the_end(Some((Fault::Kill, last))), (last, true));
}

#[test]
fn every_system_call_is_counted_and_none_twice() {
    if !allowed() {
        return;
    }
    let mut counted = Vec::new();
    for bytes in [1, 2, 100] {
        let mut relay = Relay::start();
        let trace = relay.traced(None);
        relay.send(bytes);
        relay.output.take(bytes, SOON);
        relay.until("waits again", || relay.state().0.starts_with('S'));
        thread::sleep(Duration::from_millis(5));
        let report = trace.end();
        assert_eq!(report.planted, None);
        // The tracer's thread may be joined a moment before the kernel lets go of whom it traced.
        relay.until("traced no more", || relay.state().1 == "0");
        counted.push(report.stops);
        relay.send(1);
        assert_eq!(relay.end().1, bytes + 1);
    }
    // And the begin of the read that waits for the next one.
    assert_eq!(counted, [STOPS + 1, 2 * STOPS + 1, 100 * STOPS + 1]);
}

/// Where a process was killed can be read off what it has written, so the same number is the same place each time.
#[test]
fn a_kill_comes_at_the_stop_that_was_ordered_each_time() {
    if !allowed() {
        return;
    }
    let mut random = random();
    let first = killed_at(1);
    for _ in 0..count(100, 8) {
        let stop = random.random_range(1..=90 * STOPS);
        let bytes = killed_at(stop);
        assert_eq!(bytes, killed_at(stop), "stop {stop} is another place the second time");
        // Killed at the begin of a write, it has not written; at its end, it has.
        assert_eq!(bytes as u64, stop / STOPS, "stop {stop}");
        assert!(bytes >= first);
    }
}

#[test]
fn a_stopped_process_goes_on_where_it_was_and_is_not_traced_any_more() {
    if !allowed() {
        return;
    }
    let mut relay = Relay::start();
    let trace = relay.traced(Some(order(Fault::Stop, 50)));
    relay.send(100);
    relay.until("stopped", || trace.is_over() && relay.state() == ("T (stopped)".into(), "0".into()));
    assert!(trace.end().planted.is_some());
    assert!(relay.output.bytes().len() < 100);
    kill(Pid::from_raw(relay.pid()), Signal::SIGCONT).unwrap();
    let (status, bytes) = relay.end();
    assert_eq!((status.code(), bytes), (Some(0), 100));
}

#[test]
fn a_process_that_hangs_goes_round_and_does_nothing_else() {
    if !allowed() {
        return;
    }
    let mut relay = Relay::start();
    let trace = relay.traced(Some(order(Fault::Hang, 50)));
    relay.send(100);
    relay.until("hangs", || trace.is_over() && relay.state() == ("R (running)".into(), "0".into()));
    assert!(trace.end().planted.is_some());
    let written = relay.output.bytes().len();
    let pointer = || fs::read_to_string(relay.proc("syscall")).unwrap_or_default();
    thread::sleep(Duration::from_millis(50));
    assert!(pointer().starts_with("running"), "{}", pointer());
    assert_eq!((relay.output.bytes().len(), relay.state().0.as_str()), (written, "R (running)"));
    relay.child.kill().unwrap();
    assert_eq!(relay.end().0.signal(), Some(9));
}

/// Wherever it is: here in the middle of a read.
#[test]
fn a_planted_panic_is_the_libraries_own() {
    if !allowed() {
        return;
    }
    let mut relay = Relay::start();
    let report = strike(relay.pid(), order(Fault::Panic, 1)).unwrap();
    assert_eq!(report.planted, Some(relay.pid()));
    let status = relay.child.wait().unwrap();
    relay.error.wait_end(SOON);
    let said = relay.error.text();
    assert!(said.contains("panicked at") && said.contains(PANIC), "{said}");
    // There is no caller to unwind to. Processes of a VM end in their panic hook, before that.
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{said}");
}

/// No filter is there that would end it: the kernel refuses the call, and behind it there is nothing to go on to.
#[test]
fn a_forbidden_call_is_made() {
    if !allowed() {
        return;
    }
    let relay = Relay::start();
    assert_eq!(strike(relay.pid(), order(Fault::Forbidden, 1)).unwrap().planted, Some(relay.pid()));
    relay.until("made the call and stands behind it", || relay.state() == ("R (running)".into(), "0".into()));
    let mut relay = relay;
    relay.child.kill().unwrap();
    assert_eq!(relay.end().0.signal(), Some(libc::SIGKILL));
}

/// What is waited for is found below a command that starts it: here a shell that becomes the relay.
#[test]
fn a_process_is_followed_from_its_birth() {
    if !allowed() {
        return;
    }
    let mut counts = Vec::new();
    for bytes in [10, 20] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command.env("ATOLL_TEST", "kept");
        let (trace, child) = Trace::begin(Watch::Below { command, binary: "relay" }, None).unwrap();
        let mut child = child.unwrap();
        let mut output = child.stdout.take().unwrap();
        child.stdin.as_mut().unwrap().write_all(&vec![b'x'; bytes]).unwrap();
        let mut back = vec![0; bytes];
        output.read_exact(&mut back).unwrap();
        let environment = fs::read(format!("/proc/{}/environ", child.id())).unwrap();
        assert!(environment.split(|byte| *byte == 0).any(|entry| entry == b"ATOLL_TEST=kept"));
        drop(child.stdin.take());
        let end = Instant::now() + SOON;
        while !trace.is_over() {
            assert!(Instant::now() < end, "its end is not seen");
            thread::sleep(Duration::from_millis(1));
        }
        let report = trace.end();
        assert!(report.processes.contains(&i32::try_from(child.id()).unwrap()));
        counts.push(report.stops);
        // The tracer, whose child it is, has seen its end.
        let _ = child.wait();
    }
    assert_eq!(counts[1] - counts[0], 10 * STOPS, "{counts:?}");
}
