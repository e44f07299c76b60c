//! Every exit at every step, and what must hold all the same.

mod faults;
mod run_states;
mod snapshots;
mod world;

use control::types::{Status, event_kind as kind};

use super::*;
use world::{Trouble, World, refusal};

const LIFE: &[&str] = &[
    kind::STARTED,
    kind::STOP,
    kind::RESUME,
    kind::RESET,
    kind::SUSPEND,
    kind::WAKEUP,
    kind::SNAPSHOT_SAVED,
    kind::POWEROFF,
    kind::DEBUG_EXIT,
    kind::SHUTDOWN_REQUESTED,
    kind::ENDED,
];

/// What happens in a life, with everything in it.
fn live(world: &mut World) {
    world.settle();
    let mut id = 0;
    let mut command = |world: &mut World, command| {
        id += 1;
        if world.exit.is_none() {
            world.command(id, command);
        }
    };
    command(world, Command::Pause);
    command(world, Command::Pause);
    command(world, Command::Reset);
    command(world, Command::Resume);
    command(world, Command::Reset);
    if world.exit.is_none() {
        world.says(Islet::Board, Said::Reset);
    }
    if world.exit.is_none() {
        world.says(Islet::Engine, Said::TripleFault(0));
    }
    command(world, Command::Resume);
    // Sleep, a snapshot asleep, waking by the clock and by hand.
    if world.exit.is_none() {
        world.says(Islet::Board, Said::Suspend);
    }
    if world.exit.is_none() {
        world.save(50);
    }
    if world.exit.is_none() {
        world.says(Islet::Board, Said::Wake("rtc".into()));
    }
    if world.exit.is_none() {
        world.says(Islet::Board, Said::Suspend);
    }
    id = 100;
    let mut command = |world: &mut World, command| {
        id += 1;
        if world.exit.is_none() {
            world.command(id, command);
        }
    };
    command(world, Command::Pause);
    command(world, Command::Resume);
    command(world, Command::Wakeup);
    command(world, Command::Stop(30));
}

fn undisturbed() -> World {
    let mut world = World::new(Options::default(), None);
    live(&mut world);
    world
}

#[test]
fn a_life_without_trouble() {
    let world = undisturbed();
    world.check();
    assert_eq!(world.exit, Some(0));
    let life = [
        kind::STARTED,
        kind::STOP,
        kind::RESET,
        kind::RESUME,
        kind::RESET,
        kind::RESET,
        kind::RESET,
        kind::SUSPEND,
        kind::STOP,
        kind::SNAPSHOT_SAVED,
        kind::RESUME,
        kind::WAKEUP,
        kind::SUSPEND,
        kind::STOP,
        kind::RESUME,
        kind::WAKEUP,
        kind::SHUTDOWN_REQUESTED,
        kind::POWEROFF,
        kind::ENDED,
    ];
    assert_eq!(world.kinds(LIFE), life);
    assert!(world.answers.iter().all(|(_, result)| result.is_ok()) && world.answers.len() == 11);
    assert_eq!(world.core.resets(), 4);
    let causes: Vec<&str> =
        world.log.iter().filter(|note| note.kind == kind::RESET).map(|note| note.cause.as_str()).collect();
    assert!(causes[2].contains("by the guest") && causes[3].contains("triple fault"), "{causes:?}");
}

#[test]
fn an_exit_of_each_process_at_every_step_has_one_outcome() {
    let calm = undisturbed();
    for islet in Islet::ALL {
        let mut hits = 0;
        for at in 0..calm.steps {
            let mut world = World::new(Options::default(), Some((at, Trouble::Kill(islet))));
            live(&mut world);
            world.check();
            if !world.troubled {
                continue;
            }
            hits += 1;
            let cause = |world: &World| world.log.last().map(|note| note.cause.clone()).unwrap_or_default();
            match islet.row().policy {
                Policy::Restart => {
                    assert_eq!(world.exit, Some(0), "{islet} at {at}: {:?}", world.log);
                    assert_eq!(world.kinds(LIFE), calm.kinds(LIFE), "{islet} at {at}");
                }
                // A death while the VM ends anyway changes nothing.
                Policy::EndsVm | Policy::Once if world.exit == Some(0) => {
                    assert_eq!(world.kinds(LIFE), calm.kinds(LIFE), "{islet} at {at}");
                }
                Policy::EndsVm => {
                    let started = world.core.started();
                    assert_eq!(world.exit, Some(if started { 4 } else { 2 }), "{islet} at {at}");
                    assert!(cause(&world).contains(&format!("{islet}[1] was killed by SIGKILL")), "{:?}", world.log);
                }
                // The job fails, or was done already; nothing else is different.
                Policy::Job => {
                    assert_eq!(world.exit, Some(0), "{islet} at {at}: {:?}", world.log);
                    let others = |kind: &&&str| **kind != kind::SNAPSHOT_SAVED;
                    let life: Vec<&str> = LIFE.iter().filter(others).copied().collect();
                    assert_eq!(world.kinds(&life), calm.kinds(&life), "{islet} at {at}");
                    assert_eq!(world.kinds(&[kind::SNAPSHOT_SAVED, kind::SNAPSHOT_FAILED]).len(), 1);
                }
                Policy::Once => {
                    assert_eq!(world.exit, Some(2), "{islet} at {at}");
                    assert!(cause(&world).contains("loader["), "{:?}", world.log);
                }
            }
        }
        // A loader of this world is gone before anything else can happen; see the next test.
        let short = [Islet::Loader, Islet::Streamer].contains(&islet);
        assert!(hits > 5 || (short && hits > 0) || islet == Islet::Loader, "{islet} was killed {hits} times");
    }
}

#[test]
fn a_loader_that_is_killed_ends_the_vm_at_the_start_and_at_every_reset() {
    for which in 1..=5 {
        for after in 0..=2 {
            let mut world = World::new(Options::default(), None);
            world.loader_dies = Some((which, after));
            live(&mut world);
            world.check();
            assert_eq!(world.exit, Some(2), "loader[{which}] after {after} messages");
            let ending = world.core.ending().unwrap();
            assert!(ending.reason.contains(&format!("loader[{which}] was killed")), "{ending:?}");
            assert_eq!(world.kinds(&[kind::RESET]).len(), which.saturating_sub(2) as usize);
        }
    }
}

#[test]
fn a_supervisor_that_dies_at_any_step_changes_nothing() {
    let calm = undisturbed();
    let mut crashes = 0;
    for at in 0..calm.steps {
        for executed in 0..=calm.widest {
            let mut world = World::new(Options::default(), Some((at, Trouble::Crash(executed))));
            live(&mut world);
            world.check();
            crashes += world.crashes;
            assert_eq!(world.exit, Some(0), "at {at}, {executed}: {:?}", world.log);
            assert_eq!(world.kinds(LIFE), calm.kinds(LIFE), "at {at}, {executed}");
            assert_eq!(world.kinds(&[kind::SUPERVISOR_ADOPTED]).len(), world.crashes);
        }
    }
    assert!(crashes > calm.steps * 2);
}

#[test]
fn a_process_that_hangs_is_found_though_nobody_wants_anything_of_it() {
    for (islet, exit) in [(Islet::Engine, Some(4)), (Islet::Board, Some(4)), (Islet::Serial0, None)] {
        for refuses in [false, true] {
            for paused in [false, true] {
                let of = |note: &&Note| note.kind == kind::PROCESS_EXITED && note.islet == Some(islet);
                let mut world = World::new(Options { paused, ..Options::default() }, None);
                world.settle();
                for _ in 0..3 {
                    world.ask_health();
                }
                assert!(!world.log.iter().any(|note| of(&note)));
                (if refuses { &mut world.refuses } else { &mut world.deaf }).replace((islet, Verb::Ping));
                world.ask_health();
                (world.deaf, world.refuses) = (None, None);
                world.settle();
                world.check();
                assert_eq!(world.exit, exit, "{islet}");
                let ended = world.log.iter().find(of).unwrap();
                assert_eq!(ended.incarnation, 1);
                assert!(ended.cause.contains("'ping'"), "{ended:?}");
            }
        }
    }
}

#[test]
fn whoever_still_brings_memory_is_asked_and_the_engine_that_waits_for_it_is_not() {
    let mut world = World::restored(Options::default(), false, true, None);
    world.settle();
    world.deaf = Some((Islet::Engine, Verb::Ping));
    world.ask_health();
    assert!(world.kinds(&[kind::PROCESS_EXITED]).is_empty());
    world.deaf = Some((Islet::Streamer, Verb::Ping));
    world.ask_health();
    world.deaf = None;
    world.settle();
    let ended = world.log.iter().find(|note| note.kind == kind::PROCESS_EXITED).unwrap();
    assert_eq!(ended.islet, Some(Islet::Streamer));
    assert_eq!(world.exit, None);
    assert_eq!(world.core.slot(Islet::Streamer).incarnation, 2);
}

#[test]
fn deadlines_are_in_proportion_to_the_patience() {
    let after = |seconds| {
        let mut core = Core::new(Options { patience: Duration::from_secs(seconds), ..Options::default() });
        let outputs = core.step(Input::Begin);
        outputs.into_iter().find_map(|output| if let Output::Arm { after, .. } = output { Some(after) } else { None })
    };
    assert_eq!((after(20), after(1)), (Some(Duration::from_secs(60)), Some(Duration::from_secs(3))));
}

#[test]
fn deadlines_are_kills() {
    for (islet, verb, status) in [
        (Islet::Engine, Verb::Setup, 2),
        (Islet::Engine, Verb::LoadVcpu, 2),
        (Islet::Engine, Verb::Run, 4),
        (Islet::Engine, Verb::Pause, 4),
        (Islet::Board, Verb::Setup, 2),
        (Islet::Board, Verb::Run, 4),
        (Islet::Board, Verb::Pause, 4),
        (Islet::Board, Verb::Reset, 4),
        (Islet::Board, Verb::PowerButton, 4),
        (Islet::Engine, Verb::Reset, 4),
        (Islet::Engine, Verb::Suspend, 4),
        (Islet::Engine, Verb::Save, 4),
        (Islet::Board, Verb::Save, 4),
        (Islet::Board, Verb::Wake, 4),
        (Islet::Engine, Verb::StartVcpu, 4),
        (Islet::Loader, Verb::Setup, 2),
        (Islet::Engine, Verb::Quit, 0),
        (Islet::Board, Verb::Quit, 0),
        (Islet::Serial0, Verb::Quit, 0),
    ] {
        let mut world = World::new(Options::default(), None);
        world.deaf = Some((islet, verb));
        live(&mut world);
        world.check();
        assert_eq!(world.exit, Some(status), "{islet} deaf to {verb:?}: {:?}", world.log);
        let kill = world.log.iter().find(|note| note.kind == kind::PROCESS_EXITED && note.islet == Some(islet));
        let text = &kill.unwrap().cause;
        assert!(text.contains("by its supervisor") && text.contains(verb.name()), "{text}");
    }
}

#[test]
fn a_serial_port_that_never_gets_anywhere_fails_closed_and_the_guest_runs_on() {
    let mut world = World::new(Options::default(), None);
    world.settle();
    world.productive = false;
    world.deaf = Some((Islet::Serial0, Verb::Run));
    world.happen(Input::Broken { islet: Islet::Serial0, incarnation: 1, why: "is broken by the test".into() });
    world.check();
    let about = |note: &&Note| note.islet == Some(Islet::Serial0) && note.kind == kind::PROCESS_EXITED;
    assert_eq!(world.log.iter().filter(about).count(), MAX_DEATHS as usize);
    assert_eq!(world.log.last().unwrap().kind, kind::PROCESS_FAILED_CLOSED);
    assert_eq!(world.core.slot(Islet::Serial0).progress, Progress::FailedClosed);
    world.command(1, Command::Pause);
    world.command(2, Command::Resume);
    world.command(3, Command::Reset);
    world.check();
    assert_eq!(world.core.state().status, Status::Running);
    world.command(4, Command::Stop(5));
    assert_eq!(world.exit, Some(0));

    // Deaths of a port that stands still as it was told, or that has stood for a while, never close it.
    for paused in [true, false] {
        let mut world = World::new(Options { paused, ..Options::default() }, None);
        world.settle();
        world.productive = false;
        for n in 0..20 {
            world.happen(Input::Broken { islet: Islet::Serial0, incarnation: n + 1, why: "is broken".into() });
        }
        world.check();
        assert_eq!(world.core.slot(Islet::Serial0).restarts, 20, "paused: {paused}");
    }

    // Nor do deaths after useful work.
    let mut world = World::new(Options::default(), None);
    world.settle();
    for n in 0..20 {
        world.happen(Input::Broken { islet: Islet::Serial0, incarnation: n + 1, why: "is broken".into() });
    }
    world.check();
    assert_eq!(world.core.slot(Islet::Serial0).restarts, 20);
}

#[test]
fn what_a_process_said_of_its_failure_is_the_users_error() {
    for islet in [Islet::Engine, Islet::Board, Islet::Serial0, Islet::Loader] {
        let mut world = World::new(Options::default(), None);
        world.refuses = Some((islet, Verb::Setup));
        live(&mut world);
        world.check();
        assert_eq!(world.exit, Some(2), "{islet}");
        let problem = world.core.ending().unwrap().problem.clone();
        assert_eq!(problem, Some(refusal()), "{islet}");
    }
    let mut world = World::new(Options::default(), None);
    world.refuses = Some((Islet::Engine, Verb::LoadVcpu));
    live(&mut world);
    assert_eq!(world.core.ending().unwrap().problem, Some(refusal()));
    assert_eq!(world.exit, Some(2));

    let mut world = World::new(Options::default(), None);
    world.refuses = Some((Islet::Board, Verb::PowerButton));
    world.settle();
    world.command(1, Command::Stop(0));
    world.check();
    assert_eq!((world.exit, &world.answers), (None, &vec![(1, Err(refusal()))]));
}

#[test]
fn a_paused_start_waits_for_resume() {
    let mut world = World::new(Options { paused: true, ..Options::default() }, None);
    world.settle();
    world.check();
    assert_eq!(world.core.state().status, Status::Paused);
    world.command(1, Command::Stop(0));
    assert_eq!(world.answers.last().unwrap().1.as_ref().unwrap_err().code, "vm.paused");
    world.command(2, Command::Reset);
    world.command(3, Command::Resume);
    world.command(4, Command::Resume);
    world.check();
    assert_eq!(world.kinds(LIFE), [kind::STARTED, kind::RESET, kind::RESUME]);
    world.command(5, Command::Kill);
    world.check();
    assert_eq!(world.exit, Some(6));
}

#[test]
fn the_guest_decides_how_it_ends() {
    let end = |no_reboot, islet, said: Said| {
        let mut world = World::new(Options { no_reboot, ..Options::default() }, None);
        world.settle();
        world.says(islet, said);
        world.check();
        world
    };
    assert_eq!(end(false, Islet::Board, Said::PowerOff).exit, Some(0));
    assert_eq!(end(false, Islet::Board, Said::DebugExit(0x21)).exit, Some(0x43));
    assert_eq!(end(false, Islet::Board, Said::DebugExit(0xff)).exit, Some(0xff));
    assert_eq!(end(true, Islet::Board, Said::Reset).exit, Some(0));
    let world = end(true, Islet::Engine, Said::TripleFault(0));
    assert!(world.core.ending().unwrap().reason.contains("triple fault"), "{:?}", world.core.ending());
    assert_eq!(end(false, Islet::Board, Said::Reset).core.resets(), 1);
    // Only the board speaks for the guest, and nonsense is an attack.
    for (islet, said) in [
        (Islet::Serial0, Said::PowerOff),
        (Islet::Engine, Said::Nonsense("no".into())),
        (Islet::Board, Said::Loaded { entry: vec![1], summary: String::new() }),
    ] {
        let world = end(false, islet, said.clone());
        assert_eq!(world.kinds(&[kind::ATTACK]).len(), 1, "{islet} {said:?}");
        assert_eq!(world.exit.is_some(), islet != Islet::Serial0);
    }
}

/// A short guest may be through before its engine has said that it runs; whoever resumed it was served.
#[test]
fn a_guest_that_ends_at_once_was_resumed() {
    let say = |core: &mut Core, islet, reply_to, said: &Said| {
        let incarnation = core.slot(islet).incarnation;
        core.step(Input::Said { islet, incarnation, reply_to, said: said.clone() })
    };
    for said in [Said::PowerOff, Said::DebugExit(0), Said::Reset] {
        let mut world = World::new(Options { paused: true, no_reboot: true, ..Options::default() }, None);
        world.settle();
        let mut core = world.core;
        core.step(Input::Command { id: 1, command: Command::Resume });
        // Before its vCPUs may go, no guest has run.
        let refused = say(&mut core.clone(), Islet::Board, 0, &said);
        assert!(refused.iter().any(|o| matches!(o, Output::Answer { id: 1, result: Err(_) })), "{refused:?}");
        for device in Islet::DEVICES {
            let request = core.slot(*device).request.unwrap().id;
            say(&mut core, *device, request, &Said::Done);
        }
        assert!(core.slot(Islet::Engine).request.is_some_and(|request| request.verb == Verb::Run));
        let answered = say(&mut core, Islet::Board, 0, &said);
        assert!(answered.contains(&Output::Answer { id: 1, result: Ok(()) }), "{answered:?}");
        assert!(core.ending().is_some());
    }
}

#[test]
fn a_guest_that_does_not_obey_is_ended_after_its_time() {
    let mut world = World::new(Options::default(), None);
    world.obedient = false;
    world.settle();
    world.command(1, Command::Stop(7));
    world.check();
    assert_eq!((world.exit, world.answers.len()), (Some(6), 1));
    assert!(world.core.ending().unwrap().reason.contains("within 7 s"));
    // Without a time it may take for ever.
    let mut world = World::new(Options::default(), None);
    world.obedient = false;
    world.settle();
    world.command(1, Command::Stop(0));
    world.check();
    assert_eq!((world.exit, world.answers.len()), (None, 1));
}

#[test]
fn commands_wait_their_turn_and_are_answered_once() {
    let mut world = World::new(Options::default(), None);
    world.settle();
    let mut outputs = Vec::new();
    for (id, command) in [Command::Pause, Command::Resume, Command::Reset, Command::Pause].into_iter().enumerate() {
        outputs.extend(world.core.step(Input::Command { id: id as u64, command }));
    }
    let sends = outputs.iter().filter(|o| matches!(o, Output::Send { .. })).count();
    assert_eq!(sends, 1, "one sequence at a time: {outputs:?}");
    for id in 100..200 {
        outputs.extend(world.core.step(Input::Command { id, command: Command::Pause }));
    }
    let busy = |o: &&Output| matches!(o, Output::Answer { result: Err(problem), .. } if problem.code == "vm.busy");
    assert_eq!(outputs.iter().filter(busy).count(), 100 - (MAX_QUEUED - 3));
    // All that wait are told when the VM ends.
    let ended = world.core.step(Input::Command { id: 500, command: Command::Kill });
    let told = ended.iter().filter(|o| matches!(o, Output::Answer { result: Err(p), .. } if p.code == "vm.ending"));
    assert_eq!(told.count(), MAX_QUEUED + 1);
    assert!(matches!(ended.last(), Some(Output::Exit { status: 6 })));
    let late = world.core.step(Input::Command { id: 501, command: Command::Pause });
    assert!(matches!(&late[..], [Output::Answer { id: 501, result: Err(_) }]));
}

#[test]
fn records_that_nobody_wrote_are_refused() {
    let core = Core::new(Options::default());
    let good = record::encode(&core, record::Facts { last_event: 9, ..Default::default() });
    assert_eq!(record::decode(&good, Options::default()).unwrap().1.last_event, 9);
    for length in 0..good.len() {
        let _ = record::decode(&good[..length], Options::default());
    }
    let mut random = 0x1234_5678_9abc_def1_u64;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % bad.len();
            bad[at] = (random >> 20) as u8;
        }
        let _ = record::decode(&bad, Options::default());
    }
    assert!(record::decode(&[], Options::default()).is_err());
}

#[test]
fn a_record_that_would_be_written_longer_is_refused() {
    use wire::vm_capnp::adoption_record;
    let decode = |bytes: &[u8]| record::decode(bytes, Options::default());
    let mut message: capnp::message::Builder<capnp::message::HeapAllocator> = Default::default();
    message.init_root::<adoption_record::Builder<'_>>().init_jobs(17);
    let jobs = capnp::serialize::write_message_to_words(&message);
    assert!(decode(&jobs).unwrap_err().to_string().contains("17 jobs"));
    // Two texts of one record that are the same bytes of it.
    let mut message: capnp::message::Builder<capnp::message::HeapAllocator> = Default::default();
    let mut root = message.init_root::<adoption_record::Builder<'_>>();
    root.set_kernel_summary("k".repeat(4000));
    root.set_reset_cause("");
    let mut bytes = capnp::serialize::write_message_to_words(&message);
    assert!(decode(&bytes).is_ok());
    let wanted = 4001u32 << 3 | 2;
    let pointer = bytes.chunks_exact(8).position(|word| word[4..] == wanted.to_le_bytes()).unwrap() * 8;
    let empty = bytes.chunks_exact(8).position(|word| word[4..] == (1u32 << 3 | 2).to_le_bytes()).unwrap() * 8;
    let distance = u32::from_le_bytes(bytes[pointer..pointer + 4].try_into().unwrap()) >> 2;
    let target = pointer as u32 / 8 + distance;
    let other = target.wrapping_sub(empty as u32 / 8) << 2 | 1;
    bytes[empty..empty + 4].copy_from_slice(&other.to_le_bytes());
    bytes[empty + 4..empty + 8].copy_from_slice(&wanted.to_le_bytes());
    assert!(decode(&bytes).unwrap_err().to_string().contains("more than once"));
}

#[test]
fn a_record_whose_counts_are_at_their_end_is_refused() {
    use wire::vm_capnp::adoption_record::{self, Builder};
    type Change = fn(Builder<'_>);
    let cases: [(&str, Change); 5] = [
        ("lastRequest", |mut record| record.set_last_request(u64::MAX)),
        ("lastJob", |mut record| record.set_last_job(1 << 63)),
        ("resets", |mut record| record.set_resets(u64::MAX)),
        ("lastEvent", |mut record| record.set_last_event(u64::MAX)),
        ("incarnation", |record| {
            let mut process = record.init_processes(1).get(0);
            process.set_name("board");
            process.set_state("ready");
            process.set_incarnation(u32::MAX);
        }),
    ];
    for (name, change) in cases {
        let mut message: capnp::message::Builder<capnp::message::HeapAllocator> = Default::default();
        change(message.init_root::<adoption_record::Builder<'_>>());
        let bytes = capnp::serialize::write_message_to_words(&message);
        let error = record::decode(&bytes, Options::default()).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}
