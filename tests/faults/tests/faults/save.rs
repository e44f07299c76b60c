//! Who writes a snapshot, has asked for it, or decides on it is killed at each of its system calls: there is the old snapshot then or
//! the new one, and the VM goes on.
//!
//! One VM goes through all of it, so that what a killed save leaves behind meets the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use ::supervisor::core::faults::{Fault, Moment};
use faults::tracer::{NotAllowed, Order, Report, Trace, Watch};
use faults::vm::{NAME, Vm};
use rand::seq::index::sample;
use rig::{Rig, SOON, finish, long, random};
use snapshots::files;

/// Kills of each in a sample.
const SAMPLE: usize = 10;
/// Stops at system calls by which a save may be longer than the shortest that was counted.
const SLACK: u64 = 40;
/// Saves that are counted. They differ by who happens to wait for whom.
const COUNTED: usize = 5;
/// How often a kill is tried for which a save was too short.
const TRIES: usize = 4;
/// Longer than a life of a supervisor has to be so that the keeper starts the next one at once.
const LONG_LIFE: Duration = Duration::from_millis(1100);

/// How long the supervisor may keep what dead clients have sent it (a minute), and then some.
const WAIT: Duration = Duration::from_secs(75);
/// The most descriptors of theirs that it keeps: eight times the files of a snapshot.
const PARCELS: usize = 8 * 5;

type Files = BTreeMap<String, Vec<u8>>;

/// Whom it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Streamer,
    Client,
    Supervisor,
}

/// The VM and its snapshot.
struct World<'a> {
    rig: &'a Rig,
    vm: Vm<'a>,
    path: PathBuf,
}

/// What a kill has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Old,
    New,
}

impl<'a> World<'a> {
    fn new(rig: &'a Rig) -> Self {
        let mut vm = Vm::start(rig, Moment::Run, Path::new(""));
        vm.prepare(Moment::Run);
        let world = Self { rig, vm, path: rig.path("kept") };
        rig.atoll(["snapshot", NAME, &world.path.display().to_string()]).ok();
        world
    }

    /// Saves with a tracer at the victim. Beside what it has seen: whether the client says that there is a new snapshot, if it could
    /// say anything.
    fn save(&self, victim: Victim, order: Option<Order>) -> Result<(Report, Option<Left>), NotAllowed> {
        let command = self.rig.command(["snapshot", NAME, &self.path.display().to_string()]);
        match victim {
            Victim::Streamer => {
                let watch = Watch::Born { of: self.vm.processes().keeper, binary: "streamer" };
                let (trace, _) = Trace::begin(watch, order)?;
                let done = finish(command, SOON);
                let report = trace.end();
                let why = ["process.lost", "streamer[", "SIGKILL"].iter().all(|word| done.error.contains(word));
                assert!(done.status == 0 || (report.planted.is_some() && why), "{done:?}");
                Ok((report, Some(if done.status == 0 { Left::New } else { Left::Old })))
            }
            Victim::Supervisor => {
                let watch = Watch::Living(self.vm.processes().find("supervisor").expect("one answered before"));
                let (trace, _) = Trace::begin(watch, order)?;
                let done = finish(command, SOON);
                let report = trace.end();
                assert!(done.status == 0 || report.planted.is_some(), "{done:?}");
                Ok((report, Some(if done.status == 0 { Left::New } else { Left::Old })))
            }
            Victim::Client => {
                let (trace, child) = Trace::begin(Watch::Below { command, binary: "atoll" }, order)?;
                let end = Instant::now() + SOON;
                while !trace.is_over() {
                    assert!(Instant::now() < end, "the client does not end: {}", self.vm.said.text());
                    thread::sleep(Duration::from_millis(1));
                }
                let report = trace.end();
                // The tracer has reaped one that has ended.
                if report.planted.is_some() {
                    child.map(|mut child: Child| child.wait()).transpose().unwrap();
                    return Ok((report, None));
                }
                Ok((report, Some(Left::New)))
            }
        }
    }

    /// One kill, and everything that must hold after it; `None` if the save was over before.
    fn kill(&mut self, victim: Victim, at: u64) -> Option<Left> {
        // Something that distinguishes the new snapshot from the old one.
        self.vm.answers();
        let before = files(&self.path);
        let order = Order { fault: Fault::Kill, at, choice: 0 };
        let (report, said) = self.save(victim, Some(order)).expect("allowed before");
        // A client's job goes on without it.
        self.vm.wait_status("running");
        self.vm.answers();
        let left = self.left(&before);
        assert!(said.is_none_or(|said| said == left), "the client said {said:?}, and there is {left:?}");
        if victim == Victim::Supervisor && report.planted.is_some() {
            thread::sleep(LONG_LIFE);
        }
        report.planted.is_some().then_some(left)
    }

    fn left(&self, before: &Files) -> Left {
        let now = files(&self.path);
        if now == *before {
            return Left::Old;
        }
        assert!(now.keys().eq(before.keys()), "{:?}", now.keys());
        self.check_new(before, &now);
        Left::New
    }

    /// Each file is of the new save: what is in them fits together, and a guest goes on there.
    fn check_new(&self, before: &Files, now: &Files) {
        assert!(now["manifest"] != before["manifest"] && now["engine.state"] != before["engine.state"], "a mix");
        let path = self.path.display().to_string();
        self.rig.atoll(["state", "check", &path]).ok();
        let rig = Rig::new("fault-saved");
        let mut vm = Vm::start(&rig, Moment::Load, &self.path);
        vm.answers();
        rig.atoll(["kill", NAME]).ok();
        vm.wait();
    }

    /// What the processes of the VM hold open. Only root may look.
    fn descriptors(&self) -> BTreeMap<String, usize> {
        let memory = self.vm.processes().settled_memory();
        memory.into_iter().map(|(name, memory)| (name, memory.descriptors)).collect()
    }

    /// An undisturbed save takes the place, and away what the dead have left. `descriptors` is what there was at first.
    fn end(mut self, descriptors: &BTreeMap<String, usize>) {
        let path = self.path.display().to_string();
        self.rig.atoll(["snapshot", NAME, &path]).ok();
        let folder = self.path.parent().unwrap();
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let partial: Vec<String> = names.filter(|name| name.contains("partial")).collect();
        assert!(partial.is_empty(), "{partial:?}");
        // No streamer, no socket of one, no file of a snapshot; but what clients have sent and not asked for waits for them.
        let mut now = self.descriptors();
        let end = Instant::now() + WAIT;
        while long() && now != *descriptors && Instant::now() < end {
            thread::sleep(Duration::from_secs(1));
            now = self.descriptors();
        }
        if !long()
            && let (Some(now), Some(first)) = (now.get_mut("supervisor"), descriptors.get("supervisor"))
        {
            assert!(*now <= first + PARCELS, "{now} descriptors, and {first} at first");
            *now = *first;
        }
        assert_eq!(now, *descriptors, "held open at the end, and at first");
        self.rig.atoll(["kill", NAME]).ok();
        self.vm.wait();
    }
}

fn sweep(victim: Victim) {
    let rig = Rig::new("fault-save");
    let mut world = World::new(&rig);
    let Ok((report, _)) = world.save(victim, None) else {
        println!("skipped: the kernel lets nobody but root trace the processes of a VM");
        return;
    };
    let descriptors = world.descriptors();
    let counted = (1..COUNTED).map(|_| world.save(victim, None).expect("allowed before").0.stops);
    let most = counted.chain([report.stops]).min().unwrap();
    assert!(most > 50, "{most} stops at system calls are no save");
    // Each of these must be met; one or another save may be shorter still.
    let surely = most - most / 10;
    let stops: Vec<u64> = if long() {
        // The end of a call and the begin of the next are the same to everybody else, and a supervisor takes its time to be replaced.
        (1..=most + SLACK).step_by(if victim == Victim::Supervisor { 2 } else { 1 }).collect()
    } else {
        let chosen = sample(&mut random(), surely as usize, SAMPLE);
        let mut chosen: Vec<u64> = chosen.into_iter().map(|stop| stop as u64 + 1).collect();
        // The last ones are where the old one is replaced.
        chosen.extend([most - 4, most]);
        chosen.sort_unstable();
        chosen
    };
    let mut counts: BTreeMap<Left, usize> = BTreeMap::new();
    let (mut kills, mut last) = (0, None);
    for stop in stops {
        let left = (0..TRIES).find_map(|_| world.kill(victim, stop));
        assert!(left.is_some() || stop > surely, "no save came to stop {stop} of {most}");
        if let Some(left) = left {
            kills += 1;
            *counts.entry(left).or_default() += 1;
            last = Some((stop, left));
        }
    }
    world.end(&descriptors);
    println!(
        "{victim:?}: {kills} kills at {most} stops at system calls of a save; left: {counts:?}; the last: {last:?}"
    );
    assert!(counts.contains_key(&Left::Old));
    assert!(!long() || counts.contains_key(&Left::New), "no kill came after the snapshot was there");
}

#[test]
fn a_streamer_killed_at_any_system_call_leaves_the_old_snapshot_or_the_new_one() {
    sweep(Victim::Streamer);
}

#[test]
fn a_client_killed_at_any_system_call_leaves_the_old_snapshot_or_the_new_one() {
    sweep(Victim::Client);
}

#[test]
fn a_supervisor_that_decides_killed_at_any_system_call_leaves_the_old_snapshot_or_the_new_one() {
    sweep(Victim::Supervisor);
}
