//! Snapshots and restores in which something goes wrong.

use control::types::JobState;

use super::*;

fn saved(world: &World) -> JobState {
    world.core.jobs().last().unwrap().state
}

#[test]
fn a_snapshot_that_a_process_refuses_fails_and_the_vm_goes_on() {
    for islet in Islet::PERMANENT {
        let mut world = World::new(Options::default(), None);
        world.settle();
        world.refuses = Some((*islet, Verb::Save));
        world.save(1);
        world.check();
        assert_eq!((saved(&world), world.core.state().status), (JobState::Failed, Status::Running), "{islet}");
        assert_eq!(world.core.jobs()[0].problem, Some(refusal()));
        world.refuses = None;
        world.save(2);
        world.check();
        assert_eq!(saved(&world), JobState::Done);
        assert_eq!(
            world.kinds(&[kind::STOP, kind::RESUME, kind::SNAPSHOT_FAILED, kind::SNAPSHOT_SAVED]),
            [kind::STOP, kind::SNAPSHOT_FAILED, kind::RESUME, kind::STOP, kind::SNAPSHOT_SAVED, kind::RESUME]
        );
    }
}

#[test]
fn a_streamer_that_fails_hangs_or_cannot_begin_fails_its_job_alone() {
    type Change = fn(&mut World);
    let all: [Change; 4] = [
        |world| world.refuses = Some((Islet::Streamer, Verb::Setup)),
        |world| world.refuses = Some((Islet::Streamer, Verb::Run)),
        |world| world.deaf = Some((Islet::Streamer, Verb::Setup)),
        |world| world.deaf = Some((Islet::Streamer, Verb::Run)),
    ];
    for (number, change) in all.into_iter().enumerate() {
        let mut world = World::new(Options::default(), None);
        world.settle();
        change(&mut world);
        world.save(1);
        world.check();
        assert_eq!(saved(&world), JobState::Failed, "{number}");
        assert_eq!(world.core.state().status, Status::Running, "{number}");
        assert_eq!(world.living(Islet::Streamer), None, "{number}");
    }
}

#[test]
fn a_job_is_cancelled_before_and_while_it_is_at_work_and_one_waits_at_most() {
    let mut world = World::new(Options::default(), None);
    world.settle();
    let job = world.core.next_job_id();
    // Nothing settles in between: it has only begun.
    let mut outputs = world.core.step(Input::Command { id: 1, command: Command::Save { job } });
    outputs.extend(world.core.step(Input::Command { id: 2, command: Command::Save { job: job + 1 } }));
    let busy = |o: &&Output| matches!(o, Output::Answer { id: 2, result: Err(p) } if p.code == "job.busy");
    assert_eq!(outputs.iter().filter(busy).count(), 1);
    outputs.extend(world.core.step(Input::Command { id: 3, command: Command::Cancel { job } }));
    outputs.extend(world.core.step(Input::Command { id: 4, command: Command::Cancel { job: 77 } }));
    assert!(outputs.iter().any(|o| matches!(o, Output::Answer { id: 4, result: Err(p) } if p.code == "job.unknown")));
    assert!(world.core.running_job().unwrap().cancelled);

    let mut world = World::new(Options::default(), None);
    world.settle();
    world.deaf = Some((Islet::Streamer, Verb::Run));
    world.save_and_cancel();
    world.check();
    assert_eq!((saved(&world), world.core.state().status), (JobState::Cancelled, Status::Running));
    assert_eq!(world.living(Islet::Streamer), None);
}

#[test]
fn a_reset_that_the_guest_asked_for_comes_before_the_snapshot() {
    let mut world = World::new(Options::default(), None);
    world.settle();
    let job = world.core.next_job_id();
    world.queue_said(Islet::Board, Said::Reset);
    world.command(1, Command::Save { job });
    world.check();
    assert_eq!(saved(&world), JobState::Done);
    assert_eq!(world.kinds(&[kind::RESET, kind::SNAPSHOT_SAVED]), [kind::RESET, kind::SNAPSHOT_SAVED]);
}

#[test]
fn an_exit_at_every_step_of_a_restore_has_one_outcome() {
    for on_demand in [false, true] {
        let story = |trouble| {
            let mut world = World::restored(Options::default(), false, on_demand, trouble);
            world.settle();
            if world.exit.is_none() {
                world.streamed();
            }
            if world.exit.is_none() {
                world.command(1, Command::Stop(5));
            }
            world.check();
            world
        };
        let calm = story(None);
        assert_eq!(calm.exit, Some(0));
        let life = [kind::STARTED, kind::RESUME, kind::POWEROFF, kind::ENDED];
        assert_eq!(calm.kinds(&life), life);
        assert_eq!(calm.kinds(&[kind::RESTORE_COMPLETE]).len(), usize::from(on_demand));
        for islet in [Islet::Engine, Islet::Board, Islet::Serial0, Islet::Streamer] {
            for at in 0..calm.steps {
                let world = story(Some((at, Trouble::Kill(islet))));
                let started = world.kinds(&[kind::STARTED]).len() == 1;
                match (islet.row().policy, started) {
                    (Policy::Restart, _) => assert_eq!(world.exit, Some(0), "{islet} at {at}: {:?}", world.log),
                    (Policy::Job, true) => assert_eq!(world.exit, Some(0), "{islet} at {at}: {:?}", world.log),
                    (_, false) => assert_eq!(world.exit, Some(2), "{islet} at {at}: {:?}", world.log),
                    (_, true) => assert!([Some(0), Some(4)].contains(&world.exit), "{islet} at {at}: {:?}", world.log),
                }
            }
        }
        for at in 0..calm.steps {
            for executed in 0..=calm.widest {
                let world = story(Some((at, Trouble::Crash(executed))));
                assert_eq!(world.exit, Some(0), "at {at}, {executed}: {:?}", world.log);
                assert_eq!(world.kinds(&life), life, "at {at}, {executed}");
            }
        }
    }
}

#[test]
fn a_refused_state_ends_the_vm_before_it_runs_with_the_refusal() {
    for islet in Islet::PERMANENT {
        let mut world = World::restored(Options::default(), false, false, None);
        world.refuses = Some((*islet, Verb::Load));
        world.settle();
        world.check();
        assert_eq!((world.exit, world.kinds(&[kind::STARTED]).len()), (Some(2), 0), "{islet}");
        assert_eq!(world.expired, 0, "{islet} has answered, and nothing waits for it");
        assert_eq!(world.core.ending().unwrap().problem, Some(refusal()));
    }
}

#[test]
fn a_damaged_chunk_pauses_the_vm_for_good() {
    let mut world = World::restored(Options::default(), false, true, None);
    world.settle();
    world.says(Islet::Streamer, Said::BadChunk(0x40000));
    world.says(Islet::Streamer, Said::BadChunk(0x80000));
    world.check();
    assert_eq!(world.kinds(&[kind::RAM_DAMAGED, kind::STOP]), [kind::RAM_DAMAGED, kind::STOP]);
    assert_eq!(world.core.state().status, Status::Paused);
    for (id, command) in [(1, Command::Resume), (2, Command::Reset)] {
        world.command(id, command);
        assert_eq!(world.answers.last().unwrap().1.as_ref().unwrap_err().code, "ram.damaged");
    }
    world.save(3);
    assert_eq!(saved(&world), JobState::Failed);
    world.command(4, Command::Kill);
    assert_eq!(world.exit, Some(6));
}

#[test]
fn a_guest_without_a_waking_vector_is_reset() {
    let mut world = World::new(Options::default(), None);
    world.settle();
    world.says(Islet::Board, Said::Suspend);
    world.refuses = Some((Islet::Engine, Verb::StartVcpu));
    world.command(1, Command::Wakeup);
    world.check();
    assert!(world.answers.last().unwrap().1.is_err());
    assert_eq!(world.kinds(&[kind::WAKEUP, kind::RESET]), [kind::RESET]);
    assert_eq!(world.core.state().status, Status::Running);
}
