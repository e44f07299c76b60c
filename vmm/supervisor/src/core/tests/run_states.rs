//! A test for each row of the table of run states.

use control::types::RunState;

use super::super::run_states::{Action, PAUSED, PAUSED_ASLEEP, RUNNING, Row, SUSPENDED, TABLE};
use super::*;

const TOLD: &[&str] = &[kind::STOP, kind::RESUME, kind::RESET, kind::SUSPEND, kind::WAKEUP];

/// A VM in this state.
fn bring(to: RunState) -> World {
    let mut world = World::new(Options::default(), None);
    world.settle();
    if to.resume_to == Status::Suspended {
        world.says(Islet::Board, Said::Suspend);
    }
    if to.status == Status::Paused {
        world.command(1, Command::Pause);
    }
    assert_eq!(world.core.state(), to);
    world
}

/// One that begins with the snapshot of a VM in this state.
fn restore(from: RunState, paused: bool) -> World {
    let paused = paused || from.status == Status::Paused;
    let asleep = from.resume_to == Status::Suspended;
    World::restored(Options { paused, ..Options::default() }, asleep, false, None)
}

fn check(row: &Row) {
    let mut world = match row.action {
        Action::Restore | Action::RestorePaused => restore(row.from, row.action == Action::RestorePaused),
        _ => bring(row.from),
    };
    let before = world.kinds(TOLD).len();
    match row.action {
        Action::Sleep => world.says(Islet::Board, Said::Suspend),
        Action::WakeEvent => world.says(Islet::Board, Said::Wake("rtc".into())),
        Action::Wakeup => world.command(2, Command::Wakeup),
        Action::Pause => world.command(2, Command::Pause),
        Action::Resume => world.command(2, Command::Resume),
        Action::Reset => world.command(2, Command::Reset),
        Action::Snapshot => world.save(2),
        Action::Restore | Action::RestorePaused => world.settle(),
    }
    world.check();
    assert_eq!(world.kinds(TOLD).get(before..), Some(row.events), "{row:?}");
    assert_eq!(world.core.state(), row.to.unwrap_or(row.from), "{row:?}");
    let asked = world.answers.iter().find(|(id, _)| *id == 2).map(|(_, result)| result.as_ref());
    match (row.to, asked) {
        (Ok(_), None | Some(Ok(()))) => {}
        (Err(code), Some(Err(problem))) => assert_eq!(problem.code, code, "{row:?}"),
        (expected, found) => panic!("{row:?}: {expected:?} {found:?}"),
    }
}

crate::run_state_tests!(check);

#[test]
fn the_table_has_every_state_with_every_action() {
    let missing = |state: RunState, action: Action| !TABLE.iter().any(|row| row.from == state && row.action == action);
    let all = [
        Action::Sleep,
        Action::WakeEvent,
        Action::Wakeup,
        Action::Pause,
        Action::Resume,
        Action::Reset,
        Action::Snapshot,
        Action::Restore,
        Action::RestorePaused,
    ];
    let states = [RUNNING, SUSPENDED, PAUSED, PAUSED_ASLEEP];
    let lacks: Vec<_> =
        states.iter().flat_map(|state| all.map(|action| (*state, action))).filter(|(s, a)| missing(*s, *a)).collect();
    // Who sleeps or stands goes to no sleep, and only who sleeps meets what wakes.
    let possible = |(state, action): &&(RunState, Action)| match action {
        Action::Sleep => *state == RUNNING,
        Action::WakeEvent => *state == SUSPENDED,
        _ => true,
    };
    assert_eq!(lacks.iter().filter(possible).collect::<Vec<_>>(), Vec::<&(RunState, Action)>::new());
    assert_eq!(TABLE.len() + lacks.len(), states.len() * all.len(), "a row twice");
}
