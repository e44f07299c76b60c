//! The slot, ring and shadow protocol, and a device that dies between any two of its steps.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::fault::dies_at;
use crate::slot;

/// One step of a scenario.
#[derive(Clone, Copy)]
enum Do {
    Post(u16, u64),
    Ask(Access),
    Serve,
}

/// What every run must come to: (answers in order of asking, journal).
fn expected(script: &[Do]) -> (Vec<u64>, Vec<u64>) {
    // Posted writes go first within a round, then requests by vCPU.
    let (mut answers, mut journal) = (Vec::new(), Vec::new());
    let (mut posted, mut asked): (Vec<u64>, Vec<(usize, Access)>) = (Vec::new(), Vec::new());
    for step in script {
        match *step {
            Do::Post(_, value) => posted.push(value),
            Do::Ask(access) => {
                asked.push((answers.len(), access));
                answers.push(0);
            }
            Do::Serve => {
                journal.append(&mut posted);
                asked.sort_by_key(|a| a.1.vcpu);
                for (n, a) in asked.drain(..) {
                    answers[n] = journal.len() as u64;
                    journal.push(if a.operation == Operation::Write { a.value } else { 1000 + u64::from(a.vcpu) });
                }
            }
        }
    }
    (answers, journal)
}

/// Runs the script; the first device dies at point `first` of its life, its successor at point `second` of its own.
/// Answers how many died.
fn run(script: &[Do], first: u64, second: u64) -> u32 {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 5);
    let mut deaths = [Some(first), Some(second), None].into_iter();
    let mut died = 0;
    let mut next_death = deaths.next().unwrap();
    let mut asked = Vec::new();
    let mut server: Option<Server<Journal>> = None;
    let mut recorder = Recorder::default();
    let mut left: &[Do] = script;
    loop {
        // A life: from attaching on, until it dies or the script is through.
        let mut attempt = || {
            if server.is_none() {
                let (mut s, _) = Server::attach(area(&fd, 5), 1, Journal::EMPTY).unwrap();
                s.recover(&mut recorder);
                server = Some(s);
            }
            let device = server.as_mut().unwrap();
            while let Some((step, rest)) = left.split_first() {
                match *step {
                    Do::Post(vcpu, value) => assert!(engine.try_post(&write(vcpu, value), 1).unwrap()),
                    Do::Ask(access) => {
                        let bell = engine.area().slot(access.vcpu.into()).bell();
                        asked.push((access.vcpu, engine.begin(&access, &NO_EXIT).unwrap(), bell));
                    }
                    Do::Serve => {
                        device.serve(&mut recorder);
                    }
                }
                left = rest;
            }
        };
        let died_now = match next_death {
            Some(at) => dies_at(at, &mut attempt).is_err(),
            None => {
                attempt();
                false
            }
        };
        if !died_now {
            break;
        }
        died += 1;
        server = None;
        next_death = deaths.next().unwrap();
    }
    let (answers, journal) = expected(script);
    let server = server.unwrap();
    assert_eq!(server.state().list(), journal, "effects, dying at {first} and {second}");
    for (n, (vcpu, sequence, bell)) in asked.iter().enumerate() {
        let slot = engine.area().slot((*vcpu).into());
        // A later request of the same vCPU has taken the slot: only its last answer can be looked at.
        if asked[n + 1..].iter().all(|later| later.0 != *vcpu) {
            assert_eq!(slot.answer(*sequence), Some(answers[n]), "answer {n}, dying at {first} and {second}");
            assert_ne!(slot.bell(), *bell, "nobody would have woken vCPU {vcpu}");
        }
    }
    assert_eq!(engine.shadow(0), Some(journal.len() as u64), "shadow, dying at {first} and {second}");
    assert_eq!(engine.area().level(0), journal.len() % 2 == 1);
    died
}

#[test]
fn every_access_takes_effect_once_wherever_the_device_dies() {
    let script = [
        Do::Post(0, 1),
        Do::Post(1, 2),
        Do::Ask(read(0)),
        Do::Serve,
        Do::Ask(write(63, 7)),
        Do::Ask(read(1)),
        Do::Serve,
        Do::Post(2, 3),
        Do::Serve,
        Do::Ask(write(0, 9)),
        Do::Serve,
    ];
    let (mut points, mut pairs) = (0, 0);
    while run(&script, points, u64::MAX) > 0 {
        // The successor dies too, at its first points: in recovery, and in the round that it repeats.
        for second in 0.. {
            if run(&script, points, second) < 2 {
                break;
            }
            pairs += 1;
            if second > 40 && points > 40 {
                break;
            }
        }
        points += 1;
    }
    assert!(points > 60 && pairs > 2000, "{points} {pairs}");
}

#[test]
fn a_dead_device_leaves_the_request_pending_and_its_successor_answers() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 0);
    std::thread::scope(|s| {
        let answer = s.spawn(|| engine.request(&read(4), &NO_EXIT));
        while engine.area().slot(4).waiting().is_none() {
            std::thread::yield_now();
        }
        let died = dies_at(20, || {
            let mut first = recorder(&fd, 0);
            first.serve(&mut Recorder::default())
        });
        assert!(died.is_err());
        let mut successor = recorder(&fd, 0);
        successor.serve(&mut Recorder::default());
        assert_eq!(answer.join().unwrap(), Ok(0));
        assert_eq!(successor.state().list(), [1004]);
    });
}

#[test]
fn what_no_device_touched_can_be_withdrawn_and_what_one_claimed_cannot() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 0);
    let exit = AtomicU32::new(0);
    std::thread::scope(|s| {
        let answer = s.spawn(|| engine.request(&write(0, 5), &exit));
        while engine.area().slot(0).waiting().is_none() {
            std::thread::yield_now();
        }
        exit.store(1, SeqCst);
        engine.wake(0);
        assert_eq!(answer.join().unwrap(), Err(Unanswered::Withdrawn));
    });
    let mut server = recorder(&fd, 0);
    assert_eq!(server.serve(&mut Recorder::default()).requests, 0);
    assert!(server.state().list().is_empty(), "a withdrawn access has no effect");

    let sequence = engine.begin(&write(0, 6), &NO_EXIT).unwrap();
    assert!(engine.area().slot(0).claim(sequence));
    assert!(!engine.area().slot(0).withdraw(sequence));
    assert!(engine.area().slot(0).claim(sequence), "by a successor, again");
    server.serve(&mut Recorder::default());
    // The exit word is still set: an answered request is an answer all the same.
    assert_eq!(engine.wait(0, sequence, &exit), Ok(0));
    assert_eq!(server.state().list(), [6]);
}

#[test]
fn a_new_engine_takes_over_from_one_that_died() {
    let fd = create_windows().unwrap();
    let old = client(&fd, 0);
    let mut server = recorder(&fd, 0);
    old.begin(&write(0, 1), &NO_EXIT).unwrap();
    let claimed = old.begin(&write(1, 2), &NO_EXIT).unwrap();
    assert!(old.area().slot(1).claim(claimed));
    old.try_post(&write(0, 3), 1).unwrap();
    drop(old);
    let kick = EventFd::new().unwrap();
    let new = DeviceClient::new(area(&fd, 0), kick.try_clone().unwrap(), 2, SpinPolicy::Block);
    assert_eq!(kick.drain().unwrap(), 1, "the device is rung: the old engine may not have");
    assert_eq!(new.shadow(0), None, "until the device has caught up");
    server.serve(&mut Recorder::default());
    assert_eq!(server.state().list(), [3, 2], "the unclaimed request was withdrawn");
    assert_eq!(new.shadow(0), Some(2));
    let sequence = new.begin(&read(1), &NO_EXIT).unwrap();
    assert!(sequence > claimed);
    server.serve(&mut Recorder::default());
    assert_eq!(new.wait(1, sequence, &NO_EXIT), Ok(2));
}

#[test]
fn the_ring_fills_waits_and_wraps() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 3);
    // Counts and checks the order, since a journal of 64 entries would not do.
    struct Order;
    impl Device for Order {
        type State = [u64; 2];
        fn access(&mut self, state: &mut [u64; 2], access: &Access) -> Answer {
            state[1] += u64::from(access.value != state[0]);
            state[0] += 1;
            Answer::Done(0)
        }
        fn publish(&mut self, _: &[u64; 2], _: &DeviceArea) {}
    }
    let (mut server, _) = Server::attach(area(&fd, 3), 1, [0; 2]).unwrap();
    server.recover(&mut Order);
    let full = layout::POSTED_ENTRIES;
    for n in 0..full {
        assert!(engine.try_post(&write(0, n), 0).unwrap());
    }
    assert_eq!(engine.try_post(&write(0, 999), 0), Ok(false));
    assert_eq!(engine.backlog(), full);
    let exit = AtomicU32::new(1);
    assert_eq!(engine.post(&write(0, 999), 0, &exit), Err(Unanswered::Withdrawn));
    std::thread::scope(|s| {
        let poster = s.spawn(|| (full..full + 2000).try_for_each(|n| engine.post(&write(0, n), 0, &NO_EXIT)));
        while server.state()[0] < full + 2000 {
            server.serve(&mut Order);
            std::thread::yield_now();
        }
        poster.join().unwrap().unwrap();
    });
    assert_eq!(*server.state(), [full + 2000, 0], "all of them, in order");
    assert_eq!(engine.backlog(), 0);
}

#[test]
fn a_request_that_took_effect_is_answered_again_and_not_done_again() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 0);
    let mut server = recorder(&fd, 0);
    let sequence = engine.begin(&write(3, 5), &NO_EXIT).unwrap();
    server.serve(&mut Recorder::default());
    // As if the answer had never been seen.
    engine.area().slot(3).control.store(slot::control(sequence, slot::REQUEST), SeqCst);
    engine.area().control().pending.store(1 << 3, SeqCst);
    assert_eq!(server.serve(&mut Recorder::default()), Served::default());
    assert_eq!(engine.area().slot(3).answer(sequence), Some(0));
    assert_eq!(server.state().list(), [5]);
}

#[test]
fn waiting_for_room_can_be_interrupted() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 3);
    for n in 0..layout::POSTED_ENTRIES {
        assert!(engine.try_post(&write(0, n), 0).unwrap());
    }
    let exit = AtomicU32::new(0);
    std::thread::scope(|s| {
        let poster = s.spawn(|| engine.post(&write(0, 999), 0, &exit));
        while engine.area().control().room_waiters.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        exit.store(1, SeqCst);
        engine.wake(0);
        assert_eq!(poster.join().unwrap(), Err(Unanswered::Withdrawn));
    });
}

#[test]
fn a_shadow_holds_only_while_nothing_posted_may_change_it() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 3);
    let mut server = recorder(&fd, 3);
    server.area().set_shadow(1, 0x60, false);
    server.area().set_shadow(2, 0xc1, true);
    assert_eq!((engine.shadow(0), engine.shadow(1)), (Some(0), Some(0x60)));
    assert_eq!(engine.shadow(2), None, "reading it has an effect");
    assert_eq!(engine.shadow(64), None);
    engine.try_post(&write(0, 5), 0b01).unwrap();
    assert_eq!((engine.shadow(0), engine.shadow(1)), (None, Some(0x60)));
    engine.try_post(&write(0, 6), 0b10).unwrap();
    assert_eq!((engine.shadow(0), engine.shadow(1)), (None, None));
    server.serve(&mut Recorder::default());
    assert_eq!((engine.shadow(0), engine.shadow(1)), (Some(2), Some(0x60)));
}

#[test]
fn a_stall_keeps_order_and_lets_the_device_sleep() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 3);
    let mut server = recorder(&fd, 3);
    let mut device = Recorder { stall_on: Some(2) };
    for n in 1..=3 {
        engine.try_post(&write(0, n), 1).unwrap();
    }
    let sequence = engine.begin(&read(0), &NO_EXIT).unwrap();
    assert!(!server.fall_asleep(), "there is work");
    let served = server.serve(&mut device);
    assert_eq!((served.posted, served.requests, served.stalled), (1, 0, true));
    assert!(server.fall_asleep(), "nothing can be done about the rest");
    assert_eq!(server.state().list(), [1]);
    assert_eq!((engine.backlog(), engine.shadow(0)), (2, None));
    device.stall_on = None;
    let served = server.serve(&mut device);
    assert_eq!((served.posted, served.requests, served.stalled), (2, 1, false));
    assert_eq!(engine.wait(0, sequence, &NO_EXIT), Ok(3));
    // A synchronous write that stalls is given back, and can still be withdrawn.
    device.stall_on = Some(9);
    let sequence = engine.begin(&write(1, 9), &NO_EXIT).unwrap();
    assert!(server.serve(&mut device).stalled);
    assert!(engine.area().slot(1).withdraw(sequence));
    device.stall_on = None;
    assert_eq!(server.serve(&mut device), Served::default());
    assert_eq!(server.state().list(), [1, 2, 3, 1000]);
}

#[test]
fn a_device_is_rung_once_per_sleep_and_never_sleeps_over_work() {
    let fd = create_windows().unwrap();
    let kick = EventFd::new().unwrap();
    let engine = DeviceClient::new(area(&fd, 0), kick.try_clone().unwrap(), 1, SpinPolicy::Block);
    let mut server = recorder(&fd, 0);
    server.serve(&mut Recorder::default());
    assert_eq!(kick.drain().unwrap(), 1, "for the new engine");
    engine.try_post(&write(0, 1), 0).unwrap();
    assert_eq!(kick.drain().unwrap(), 0, "it is awake");
    assert!(!server.fall_asleep());
    server.serve(&mut Recorder::default());
    assert!(server.fall_asleep());
    engine.try_post(&write(0, 2), 0).unwrap();
    engine.try_post(&write(0, 3), 0).unwrap();
    engine.ring().unwrap();
    assert_eq!(kick.drain().unwrap(), 1);
}

#[test]
fn nonsense_from_the_other_side_does_no_harm() {
    let fd = create_windows().unwrap();
    let engine = client(&fd, 0);
    let mut server = recorder(&fd, 0);
    let shared = area(&fd, 0);
    // A hostile engine: impossible ring indices, requests of no known kind.
    shared.control().tail.store(10_000, SeqCst);
    let served = server.serve(&mut Recorder::default());
    assert!(served.corrupt && served.posted == 0);
    let bad = Access { width: 3, ..read(0) };
    let sequence = engine.begin(&bad, &NO_EXIT).unwrap();
    server.serve(&mut Recorder::default());
    assert_eq!(engine.area().slot(0).answer(sequence), Some(u64::MAX));
    assert!(server.state().list().is_empty());
    shared.control().pending.store(u64::MAX, SeqCst);
    assert_eq!(server.serve(&mut Recorder::default()), Served::default());
    // A hostile device: a consumer beyond the producer, a slot in no known state.
    shared.control().consumed.store(u64::MAX / 2, SeqCst);
    assert_eq!(engine.try_post(&write(0, 1), 0), Ok(false));
    let sequence = engine.begin(&read(2), &NO_EXIT).unwrap();
    shared.slot(2).control.store(slot::control(sequence + 1, 77), SeqCst);
    assert!(matches!(engine.wait(2, sequence, &NO_EXIT), Err(Unanswered::Broken { vcpu: 2, .. })));
    assert_eq!(engine.request(&read(64), &NO_EXIT), Err(Unanswered::NoSlot(64)));
}

#[test]
fn an_access_survives_packing() {
    for operation in [Operation::Read, Operation::Write, Operation::ConfigWrite, Operation::InterruptAcknowledge] {
        for (space, width) in [(Space::Memory, 1), (Space::Port, 2), (Space::Memory, 4), (Space::Port, 8)] {
            let attributes = Attributes { secure: width == 1, user: width == 2, requester: 0xabcd };
            let value = 0x55 & Access::mask(width);
            let a = Access { operation, space, address: u64::MAX - 1, width, value, attributes, vcpu: 63 };
            assert_eq!(Access::unpack(a.pack(), a.address, a.value), Some(a));
        }
    }
    let word = read(0).pack();
    assert_eq!(Access::unpack(word & !0xff, 0, 0), None, "operation 0");
    assert_eq!(Access::unpack(word | 0xff_0000, 0, 0), None, "space 255");
    let narrow = Access { width: 1, ..write(0, 0) };
    assert_eq!(Access::unpack(narrow.pack(), 0, 0x1ff).unwrap().value, 0xff, "excess bits are dropped");
}

#[test]
fn foreign_state_is_refused() {
    let fd = create_windows().unwrap();
    drop(recorder(&fd, 0));
    let version = Server::attach(area(&fd, 0), 2, Journal::EMPTY).unwrap_err();
    assert!(matches!(version, Error::ForeignState { field: "version", have: 1, want: 2 }), "{version}");
    let size = Server::attach(area(&fd, 0), 1, [0u64; 3]).unwrap_err();
    assert!(matches!(size, Error::ForeignState { field: "size", want: 24, .. }), "{size}");
    let large = Server::attach(area(&fd, 0), 1, [0u8; 40_000]).unwrap_err();
    assert!(matches!(large, Error::StateTooLarge { size: 40_000, .. }), "{large}");
    let (again, successor) = Server::attach(area(&fd, 0), 1, Journal::EMPTY).unwrap();
    assert!(successor && again.state().len == 0);
    assert!(matches!(DeviceArea::map(fd.as_fd(), 64), Err(Error::NoSuch { number: 64, .. })));
}
