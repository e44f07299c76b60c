//! The table of faults, found again by failing each process at every input of every moment.

use std::collections::BTreeSet;

use control::types::JobState;

use super::*;
use crate::core::faults::{Fault, Moment, Outcome, Process, Row, TABLE, row};

const PROCESSES: [Process; 8] = [
    Process::Keeper,
    Process::Supervisor,
    Process::Engine,
    Process::Board,
    Process::Serial0,
    Process::Loader,
    Process::StreamerSource,
    Process::StreamerTarget,
];

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

fn islet(process: Process) -> Option<Islet> {
    Some(match process {
        Process::Keeper | Process::Supervisor => return None,
        Process::Engine => Islet::Engine,
        Process::Board => Islet::Board,
        Process::Serial0 => Islet::Serial0,
        Process::Loader => Islet::Loader,
        Process::StreamerSource | Process::StreamerTarget => Islet::Streamer,
    })
}

fn begin(moment: Moment, trouble: Option<(usize, Trouble)>) -> World {
    match moment {
        Moment::Load => World::restored(Options::default(), false, false, trouble),
        Moment::LoadOnDemand => World::restored(Options::default(), false, true, trouble),
        _ => World::new(Options::default(), trouble),
    }
}

/// Up to the moment.
fn before(world: &mut World, moment: Moment) {
    if !matches!(moment, Moment::Start | Moment::Load | Moment::LoadOnDemand) {
        world.settle();
    }
}

/// The moment itself.
fn during(world: &mut World, moment: Moment) {
    match moment {
        Moment::Start | Moment::Load => world.settle(),
        Moment::Run => world.ask_health(),
        Moment::Pause => world.command(1, Command::Pause),
        Moment::Sleep => world.says(Islet::Board, Said::Suspend),
        Moment::Save => world.save(1),
        Moment::Reset => world.command(1, Command::Reset),
        Moment::Stop => world.command(1, Command::Stop(0)),
        Moment::LoadOnDemand => {
            world.settle();
            if world.exit.is_none() {
                world.ask_health();
                world.streamed();
            }
        }
    }
}

/// A question whether everybody goes on.
fn after(world: &mut World) {
    if world.exit.is_none() {
        world.ask_health();
        world.streamed();
        world.check();
    }
}

fn outcome(world: &World, islet: Option<Islet>, moment: Moment) -> Outcome {
    let replaced = world.crashes > 0 || islet.is_some_and(|islet| world.core.slot(islet).restarts > 0);
    match world.exit {
        Some(status) if status != 0 || moment != Moment::Stop => Outcome::Ends(status),
        None if moment == Moment::Save && world.core.jobs()[0].state == JobState::Failed => Outcome::JobFails,
        _ if replaced => Outcome::Replaced,
        _ => Outcome::Done,
    }
}

/// Every outcome that a fault of this process has at this moment.
fn outcomes(process: Process, moment: Moment, standstill: bool) -> BTreeSet<Outcome> {
    let mut calm = begin(moment, None);
    before(&mut calm, moment);
    let first = calm.steps;
    let loader = calm.core.slot(Islet::Loader).incarnation + 1;
    during(&mut calm, moment);
    let loads = calm.core.slot(Islet::Loader).incarnation == loader;
    let islet = islet(process);
    let mut worlds = Vec::new();
    match (process, islet) {
        (Process::Loader, _) if loads => worlds.extend((0..2).map(|messages| {
            let mut world = begin(moment, None);
            (world.loader_dies, world.loader_stays) = (Some((loader, messages)), standstill);
            world.troubled = true;
            world
        })),
        // Between its last word and its end.
        (Process::Loader, _) => {}
        (_, Some(islet)) => {
            let troubles: &[Trouble] = match standstill {
                true => &[Trouble::Stop(islet, false), Trouble::Stop(islet, true)],
                false => &[Trouble::Kill(islet)],
            };
            worlds.extend(
                (first..calm.steps)
                    .flat_map(|at| troubles.iter().map(move |trouble| (at, *trouble)))
                    .map(|trouble| begin(moment, Some(trouble))),
            );
        }
        (_, None) => {
            worlds.extend((first..calm.steps).flat_map(|at| {
                (0..=calm.widest).map(move |executed| begin(moment, Some((at, Trouble::Crash(executed)))))
            }))
        }
    }
    let mut found = BTreeSet::new();
    for mut world in worlds {
        before(&mut world, moment);
        during(&mut world, moment);
        after(&mut world);
        // A supervisor that dies after it has ended the VM is not missed.
        if !world.troubled || (islet.is_none() && world.crashes == 0) {
            continue;
        }
        let outcome = outcome(&world, islet, moment);
        if let (Outcome::Ends(_), Some(islet)) = (outcome, islet) {
            let (ending, start) = (world.core.ending().unwrap(), world.core.slot(islet).incarnation);
            assert!(ending.reason.contains(&format!("{islet}[{start}] was killed by SIGKILL")), "{ending:?}");
        }
        found.insert(outcome);
    }
    found
}

fn check(row: &Row) {
    for fault in Fault::ALL {
        let named: BTreeSet<Outcome> = row.outcomes_of(fault).iter().copied().collect();
        if row.process == Process::Keeper {
            // The kernel ends its children, or nothing happens at all; there is nothing to decide.
            let expected = match fault {
                Fault::Stop | Fault::Hang => Outcome::Waits,
                Fault::Forbidden => Outcome::Refused,
                Fault::Kill | Fault::Panic => Outcome::Gone,
            };
            assert_eq!(named, [expected].into());
        } else {
            let found = outcomes(row.process, row.moment, fault.is_standstill());
            // When a standstill is noticed depends on what the guest needs, which does not exist here.
            let right =
                if fault.is_standstill() { !found.is_empty() && found.is_subset(&named) } else { found == named };
            assert!(right, "{row:?}, {fault:?}: {found:?}");
        }
    }
}

#[test]
fn what_the_table_says_is_what_the_core_does() {
    for moment in MOMENTS {
        for process in PROCESSES {
            // One streamer has two roles.
            let role = match process {
                Process::StreamerSource => moment == Moment::Save,
                Process::StreamerTarget => matches!(moment, Moment::Load | Moment::LoadOnDemand),
                _ => true,
            };
            match row(process, moment) {
                Some(row) => check(row),
                None => assert!(!role || outcomes(process, moment, false).is_empty(), "{process:?} at {moment:?}"),
            }
        }
    }
    let rows: BTreeSet<_> = TABLE.iter().map(|row| (row.process, row.moment)).collect();
    assert_eq!(rows.len(), TABLE.len(), "a row twice");
    println!("{} rows, {} cells", TABLE.len(), TABLE.len() * Fault::ALL.len());
}
