//! What the supervisor sees of a serial process.

use std::collections::HashMap;
use std::io::{Read, Write};

use enter::exit::{EXIT_CLEAN, EXIT_ERROR, EXIT_LOST_PEER};
use enter::status::{CauseKind, Stage};

use super::*;

fn expect_failure(answer: Answer<'_>, words: &str) {
    let from_islet::Failed(Ok(failure)) = answer else { panic!("not a failure") };
    let text = failure.get_why().unwrap().to_string().unwrap();
    assert!(text.contains(words), "{text}");
    assert!(failure.get_code().unwrap().to_string().unwrap().starts_with("serial."));
    assert!(!failure.get_remedy().unwrap().is_empty());
}

#[test]
fn it_locks_itself_down_serves_and_stops_cleanly() {
    let (vm, mut console) = Vm::new();
    let mut process = vm.start(1);
    assert_eq!(vm.status().stage, Stage::Sealed);
    vm.write(0, 4, 0x0b);
    vm.write(0, 1, 0x01);
    for byte in b"hello" {
        vm.write(0, 0, u64::from(*byte));
    }
    let mut text = [0; 5];
    console.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    console.write_all(b"k").unwrap();
    while vm.read(0, 5) & 1 == 0 {
        std::thread::yield_now();
    }
    assert_eq!(vm.read(0, 0), u64::from(b'k'));
    assert_eq!(vm.irq.drain().unwrap(), 1);
    let mut counters = HashMap::new();
    process.ask(
        |mut m| m.set_statistics(()),
        &[],
        |answer| {
            let from_islet::Statistics(Ok(statistics)) = answer else { panic!("no statistics") };
            for counter in statistics.get_counters().unwrap() {
                counters.insert(counter.get_name().unwrap().to_string().unwrap(), counter.get_value());
            }
        },
    );
    assert_eq!((counters["output bytes sent"], counters["input bytes taken"], counters["interrupts"]), (5, 1, 1));
    assert_eq!(vm.status().counters[..2], [5, 5]);
    process.done(|mut m| m.set_pause(()));
    console.write_all(b"later").unwrap();
    process.done(|mut m| m.set_reset(()));
    assert_eq!(vm.read(0, 5) & 1, 0, "no input while paused");
    process.done(|mut m| m.set_run(()));
    while vm.read(0, 5) & 1 == 0 {
        std::thread::yield_now();
    }
    assert_eq!(vm.read(0, 0), u64::from(b'l'));
    process.done(|mut m| m.set_quit(()));
    assert_eq!(process.ended(), Exit::Code(EXIT_CLEAN));
}

#[test]
fn a_console_that_goes_is_an_event_and_another_can_come() {
    let (vm, console) = Vm::new();
    let mut process = vm.start(1);
    drop(console);
    process.expect(0, |event| assert!(matches!(event, from_islet::ConsoleClosed(()))));
    vm.write(0, 0, u64::from(b'!'));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    process.ask(
        |mut m| m.set_attach_console("console"),
        &[ours.as_fd()],
        |answer| {
            assert!(matches!(answer, from_islet::Done(())));
        },
    );
    drop(ours);
    let mut byte = [0];
    theirs.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [b'!'], "output was kept");
    process.ask(|mut m| m.set_attach_console("console"), &[], |answer| expect_failure(answer, "without a descriptor"));
    // What is no socket is reported and does no harm.
    process.ask(|mut m| m.set_attach_console("console"), &[vm.status.as_fd()], |_| ());
    process.expect(0, |event| assert!(matches!(event, from_islet::ConsoleClosed(()))));
    process.done(|mut m| m.set_pause(()));
}

#[test]
fn requests_that_it_cannot_serve_are_answered_and_old_ones_dropped() {
    let (vm, _console) = Vm::new();
    let mut process = vm.start(5);
    process.ask(|mut m| m.set_power_button(()), &[], |answer| expect_failure(answer, "does not know"));
    process.ask(|m| fill_setup(m, &[], ""), &[], |answer| expect_failure(answer, "does not know"));
    process.post(
        77,
        |mut m| {
            m.set_incarnation(4);
            m.set_quit(());
        },
        &[],
    );
    process.done(|mut m| m.set_pause(()));
}

#[test]
fn a_setup_that_lacks_something_is_answered_with_what() {
    let (vm, _console) = Vm::new();
    let all = ["status", "windows", "kick", "irq", "console"];
    let fds = [vm.status.as_fd(), vm.windows.as_fd(), vm.kick.as_fd(), vm.irq.as_fd(), vm.console.as_fd()];
    for missing in all {
        let names = all.map(|name| if name == missing { "else" } else { name });
        let mut process = vm.start_with(1, |m| fill_setup(m, &names, "console"), &fds);
        process.expect(1, |answer| expect_failure(answer, &format!("'{missing}'")));
        assert_eq!(process.ended(), Exit::Code(EXIT_ERROR));
    }
    let mut process = vm.start_with(1, |mut m| m.set_run(()), &[]);
    process.expect(1, |answer| expect_failure(answer, "another request"));
    assert_eq!(process.ended(), Exit::Code(EXIT_ERROR));
    // A status memfd in place of the windows.
    let swapped = ["windows", "status", "kick", "irq", "console"];
    let mut process = vm.start_with(1, |m| fill_setup(m, &swapped, "console"), &fds);
    process.expect(1, |answer| expect_failure(answer, "windows"));
    assert_eq!(process.ended(), Exit::Code(EXIT_ERROR));
}

#[test]
fn without_its_supervisor_it_ends() {
    let (vm, _console) = Vm::new();
    let mut process = vm.start(1);
    let (link, _) = Link::pair(Peer::new("a", 1), Peer::new("b", 1)).unwrap();
    drop(std::mem::replace(&mut process.link, link));
    assert_eq!(process.ended(), Exit::Code(EXIT_LOST_PEER));
    assert_eq!(vm.status().cause, CauseKind::LostPeer);
}
