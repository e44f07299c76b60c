//! Which runs there are, and whether each ended as the table says.
//!
//! The idea: a cell is a row of the table with a fault; a run is a cell with a seed. The seed says at which system call of the
//! process the fault comes, out of those that an undisturbed run of the row has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use chaos::Followed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rig::{Done, Rig, SOON, long};
use serde_json::Value;
use supervisor::core::faults::{Fault, Moment, Outcome, Process, Row, TABLE};

use crate::plant::{FORBIDDEN, PANIC};
use crate::tracer::{NotAllowed, Order, Report, Trace, Watch, strike};
use crate::vm::{self, Held, NAME, Vm};

/// Runs of each cell of a full campaign.
const SEEDS: u64 = 10;
/// Runs of a sample.
const SAMPLE: usize = 3;
/// How often a run is begun again that was over before its system call came; each time it comes earlier.
const TRIES: u32 = 4;
/// How often another system call is drawn for a run after that.
const DRAWS: u64 = 5;
/// The latest moment of a fault in a VM of which nobody wants anything.
const LATEST: Duration = Duration::from_millis(30);
/// How long a keeper stands still before it goes on.
const STANDSTILL: Duration = Duration::from_millis(300);
/// Descriptors of a snapshot that a client has sent and not asked for any more, since the supervisor died.
const PARCEL: usize = 5;
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(2);

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    process: Process,
    moment: Moment,
    fault: Fault,
    seed: u64,
}

/// File name of a process's binary, and its name in events.
const fn names(process: Process) -> (&'static str, &'static str) {
    match process {
        Process::Keeper => ("keeper", "keeper"),
        Process::Supervisor => ("supervisor", "supervisor"),
        Process::Engine => ("engine", "engine"),
        Process::Board => ("board", "board"),
        Process::Serial0 => ("serial", "serial0"),
        Process::Loader => ("loader", "loader"),
        Process::StreamerSource | Process::StreamerTarget => ("streamer", "streamer"),
    }
}

/// Words of which one must be in what is told of a fault.
fn causes(run: &Run, choice: usize) -> Vec<String> {
    match run.fault {
        Fault::Kill => vec!["SIGKILL".into()],
        // Before it has its status page, the words are in its log alone.
        Fault::Panic => vec![PANIC.into(), "panicked".into()],
        Fault::Forbidden => vec![FORBIDDEN[choice % FORBIDDEN.len()].1.into()],
        Fault::Stop | Fault::Hang => {
            ["in time", "stands still", "stood still", "did not end", "does not take"].map(str::to_owned).to_vec()
        }
    }
}

/// Runs the campaign of one process: all of it with `ATOLL_LONG=1`, otherwise a sample. Prints what was run.
///
/// # Panics
/// A run ended otherwise than the table says, or left something behind.
pub fn campaign(process: Process) {
    let mut random = rig::random();
    let mut wanted = Vec::new();
    for row in TABLE.iter().filter(|row| row.process == process) {
        for fault in Fault::ALL {
            for _ in 0..SEEDS {
                wanted.push((row, Run { process, moment: row.moment, fault, seed: random.random() }));
            }
        }
    }
    let named = wanted.len() as u64 / SEEDS;
    let only = std::env::var_os("ATOLL_FAULTS");
    let all = only.is_none() && long();
    if let Some(only) = only {
        let only = only.to_string_lossy().into_owned();
        wanted.retain(|(_, run)| format!("{run:?}").contains(&only));
    } else if !long() {
        wanted = wanted.choose_multiple(&mut random, SAMPLE).copied().collect();
    }
    let snapshots = Rig::new("fault-snapshot");
    let snapshot = vm::snapshot(&snapshots);
    let (mut moments, mut cells, mut outcomes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut missed = 0;
    let runs = wanted.len();
    for (row, run) in wanted {
        let outcome = (0..DRAWS).find_map(|draw| {
            // How many calls a moment has depends on how often threads had to wait: a draw that was too late counts them anew.
            if draw > 0 || !moments.contains_key(&row.moment) {
                moments.insert(row.moment, undisturbed(process, row.moment, &snapshot)?);
            }
            let outcome =
                check(row, &Run { seed: run.seed.wrapping_add(draw), ..run }, &moments[&row.moment], &snapshot);
            missed += u32::from(outcome.is_none());
            outcome
        });
        if moments.is_empty() {
            println!("skipped: the kernel lets nobody but root trace the processes of a VM");
            return;
        }
        let outcome = outcome.unwrap_or_else(|| panic!("{run:?}: over before the fault, each of {DRAWS} times"));
        *cells.entry((run.moment, run.fault)).or_insert(0) += 1;
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    println!(
        "{process:?}: {} of {named} cells that the table names, {runs} runs, {missed} more came too late: {outcomes:?}",
        cells.len()
    );
    assert!(!all || cells.len() as u64 == named, "a cell without a run");
    assert!(!all || cells.values().all(|runs| *runs == SEEDS), "not {SEEDS} runs of each cell: {cells:?}");
}

/// A moment in which nothing happens to anybody.
struct Undisturbed {
    /// Stops at system calls that the process has meanwhile.
    stops: u64,
    /// What processes hold afterwards.
    held: Held,
}

/// Goes through a moment with a tracer at the process; `None` if this user may not trace it, or look at what it holds.
fn undisturbed(process: Process, moment: Moment, snapshot: &Path) -> Option<Undisturbed> {
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return None;
    }
    let rig = Rig::new("fault-count");
    let Ok((mut vm, report, ..)) = go(&rig, process, moment, None, snapshot) else { return None };
    assert!(moment == Moment::Run || report.stops > 0, "{process:?} is not there at {moment:?}");
    assert!(!vm.memfds.is_empty(), "no memory is seen at {moment:?}");
    let mut held = Held::new();
    if moment != Moment::Stop {
        vm::goes_on(&mut vm, moment);
        held = vm.settled();
        vm::again(&vm, "kill").ok();
    }
    vm.wait();
    Some(Undisturbed { stops: report.stops, held })
}

/// Carries out a run; `None` if the moment was over each time before the fault came.
fn check(row: &Row, run: &Run, moment: &Undisturbed, snapshot: &Path) -> Option<Outcome> {
    let most = moment.stops;
    let mut random = StdRng::seed_from_u64(run.seed);
    let mut at = random.random_range(1..=most.max(1));
    let choice = random.random_range(0..64);
    for _ in 0..TRIES {
        let rig = Rig::new("fault");
        let order = Order { fault: run.fault, at, choice };
        let started = Instant::now();
        let watch = Watchman(*run, at);
        let (mut vm, report, done) = go(&rig, run.process, run.moment, Some(order), snapshot).expect("allowed before");
        let outcome = report.planted.map(|pid| {
            vm.undisturbed.clone_from(&moment.held);
            let mut pids = report.processes.clone();
            pids.insert(pid);
            let outcome = observe(&mut vm, run, pid, done, &mut pids, &causes(run, choice), &rig.path("new"));
            let said = vm.said.text();
            assert!(
                row.outcomes_of(run.fault).contains(&outcome),
                "{outcome:?} is not among {:?}: {said}",
                row.outcomes_of(run.fault)
            );
            pids.extend(&vm.pids);
            vm::leaves_nothing(&rig, &pids, &vm.memfds);
            outcome
        });
        std::mem::forget(watch);
        if outcome.is_some() {
            if std::env::var_os("ATOLL_FAULTS").is_some() {
                println!("{run:?} at {at} of {most}: {outcome:?}, {:.1?}", started.elapsed());
            }
            return outcome;
        }
        // It may have ended already.
        let _ = rig.atoll(["kill", NAME]);
        vm.wait();
        at = at.div_ceil(2);
    }
    None
}

/// Says which run failed.
struct Watchman(Run, u64);

impl Drop for Watchman {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed: {:?} at system call stop {}", self.0, self.1);
        }
    }
}

/// What [`go`] hands on: the VM, what the tracer saw, and what the moment's command did.
type Gone<'a> = (Vm<'a>, Report, thread::JoinHandle<Option<Done>>);

/// Brings a VM to the moment and through it, or to the fault.
fn go<'a>(
    rig: &'a Rig,
    process: Process,
    moment: Moment,
    order: Option<Order>,
    snapshot: &Path,
) -> Result<Gone<'a>, NotAllowed> {
    let binary = names(process).0;
    let nothing = || thread::spawn(|| None);
    if let Moment::Start | Moment::Load | Moment::LoadOnDemand = moment {
        let command = vm::command(rig, moment, snapshot);
        let (trace, child) = Trace::begin(Watch::Below { command, binary }, order)?;
        let mut vm = Vm::of(rig, child.expect("the command was started"));
        if moment != Moment::Start {
            // Restored, it waits for bytes.
            vm.send(".");
        }
        let over = |vm: &mut Vm<'_>| {
            vm.note_memory();
            vm.ended().is_some() || vm::is_done(vm, moment)
        };
        let report = follow(&mut vm, trace, over);
        return Ok((vm, report, nothing()));
    }
    let mut vm = Vm::start(rig, moment, snapshot);
    vm.prepare(moment);
    let processes = vm.processes();
    if moment == Moment::Stop && !matches!(process, Process::Keeper | Process::Supervisor) {
        // Afterwards there is nobody to ask.
        let mut followed = Followed::start(rig, NAME);
        followed.until("STARTED");
        vm.followed = Some(followed);
    }
    if moment == Moment::Run {
        let Some(order) = order else { return Ok((vm, Report::default(), nothing())) };
        thread::sleep(LATEST.mul_f64(f64::from(u32::try_from(order.choice % 64).unwrap()) / 64.0));
        let report = strike(processes.find(binary).expect("it runs"), order)?;
        return Ok((vm, report, nothing()));
    }
    let watch = match process {
        Process::Loader | Process::StreamerSource => Watch::Born { of: processes.keeper, binary },
        _ => Watch::Living(processes.find(binary).expect("it runs")),
    };
    let (trace, _) = Trace::begin(watch, order)?;
    if moment == Moment::Sleep {
        vm.send("s");
    }
    let action = vm::action(rig, moment, &rig.path("new"));
    let acting = thread::spawn(|| Some(rig::finish(action?, SOON)));
    let mut finished = None;
    let report = follow(&mut vm, trace, |vm| {
        if acting.is_finished() {
            finished.get_or_insert_with(Instant::now);
        }
        let waited = finished.is_some_and(|at| at.elapsed() > SOON);
        vm.ended().is_some() || waited || (finished.is_some() && vm::is_done(vm, moment))
    });
    Ok((vm, report, acting))
}

/// Lets the tracer work until it has done so, or until `over`.
fn follow(vm: &mut Vm<'_>, trace: Trace, mut over: impl FnMut(&mut Vm<'_>) -> bool) -> Report {
    let end = Instant::now() + SOON;
    while !trace.is_over() && !over(vm) {
        assert!(Instant::now() < end, "the moment does not end: {}", vm.said.text());
        thread::sleep(AGAIN);
    }
    trace.end()
}

/// What has become of the VM. Everything that it leaves is ended.
fn observe(
    vm: &mut Vm<'_>,
    run: &Run,
    pid: i32,
    acting: thread::JoinHandle<Option<Done>>,
    pids: &mut BTreeSet<i32>,
    causes: &[String],
    new: &Path,
) -> Outcome {
    if run.process == Process::Keeper {
        let outcome = match run.fault {
            Fault::Stop | Fault::Hang => keeper_waits(vm, run, pid),
            Fault::Forbidden => keeper_goes_on(vm, run),
            Fault::Kill | Fault::Panic => keeper_gone(vm, causes),
        };
        acting.join().unwrap();
        return outcome;
    }
    let name = names(run.process).1;
    let told = |text: &str| causes.iter().any(|cause| text.contains(cause.as_str()));
    let end = Instant::now() + SOON;
    let mut acting = Some(acting);
    let mut done = None;
    loop {
        if acting.as_ref().is_some_and(thread::JoinHandle::is_finished) {
            done = acting.take().and_then(|acting| acting.join().unwrap());
        }
        if let Some(status) = vm.ended() {
            vm.wait();
            let said = vm.said.text();
            if run.moment == Moment::Stop && status == 0 {
                // Which supervisor was replaced before the end is not told of any more.
                let Some(events) = vm.followed.take().map(Followed::finish) else { return Outcome::Replaced };
                // Nobody waits for a process that has said farewell; but what is told of it is true.
                let mut told = events.iter().filter(|event| is_end_of(event, name));
                assert!(told.all(|event| ended(event, name, causes)), "not {causes:?}: {events:#?}");
                return Outcome::Done;
            }
            assert!(said.contains(&format!("{name}[")) && told(&said), "who and why ({causes:?}) is not in: {said}");
            return Outcome::Ends(u8::try_from(status).unwrap());
        }
        let events = vm.events();
        let about = events.iter().find(|event| match run.process {
            Process::Supervisor => {
                let cause = text(event, "cause");
                event["kind"] == "SUPERVISOR_ADOPTED" && cause.contains("supervisor[1]") && told(cause)
            }
            _ => ended(event, name, causes),
        });
        // One that ends before it has done anything leaves nothing to adopt.
        let in_log = || vm.said.text().lines().any(|line| line.contains("supervisor[1]") && told(line));
        let over = !rig::runs(pid) && acting.is_none();
        match (run.process, about) {
            (Process::StreamerSource, Some(_)) if done.as_ref().is_some_and(|done| done.status != 0) => {
                let done = done.unwrap();
                assert!(done.error.contains("process.lost") && done.error.contains("streamer["), "{}", done.error);
                assert!(!new.exists(), "half a snapshot");
                after(vm, run, pids);
                return Outcome::JobFails;
            }
            (Process::StreamerSource, Some(_)) if over && done.as_ref().is_some_and(|done| done.status == 0) => {
                assert!(new.exists(), "no snapshot");
                after(vm, run, pids);
                return Outcome::Done;
            }
            (Process::StreamerSource | Process::Engine | Process::Board | Process::Loader, _) => {}
            (Process::StreamerTarget, Some(_)) if over && vm::is_done(vm, run.moment) => {
                after(vm, run, pids);
                return if run.moment == Moment::LoadOnDemand { Outcome::Replaced } else { Outcome::Done };
            }
            (Process::Serial0, Some(_)) | (Process::Supervisor, _) if over && (about.is_some() || in_log()) => {
                finish(vm, run, done, new);
                after(vm, run, pids);
                return Outcome::Replaced;
            }
            _ => {}
        }
        assert!(Instant::now() < end, "nothing is told of it; events: {events:#?}; {done:?}; {}", vm.said.text());
        thread::sleep(AGAIN);
    }
}

fn is_end_of(event: &Value, name: &str) -> bool {
    ["PROCESS_EXITED", "ATTACK"].contains(&text(event, "kind")) && event["process"] == name
}

/// Whether an event tells of the end of an incarnation of a process, and one of these causes.
fn ended(event: &Value, name: &str, causes: &[String]) -> bool {
    let cause = text(event, "cause");
    is_end_of(event, name)
        && event["incarnation"].as_u64() > Some(0)
        && causes.iter().any(|word| cause.contains(word.as_str()))
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

/// What was asked for is brought about, if its client could not see it through.
fn finish(vm: &mut Vm<'_>, run: &Run, done: Option<Done>, new: &Path) {
    let failed = done.is_some_and(|done| done.status != 0);
    let end = Instant::now() + SOON;
    while failed && run.moment == Moment::Save && !new.exists() {
        assert!(Instant::now() < end, "no snapshot can be made: {}", vm.said.text());
        vm.snapshot(new);
    }
    if failed && run.moment != Moment::Save {
        let verb = match run.moment {
            Moment::Pause => "pause",
            Moment::Reset => "reset",
            _ => "stop",
        };
        vm::again(vm, verb).ok();
    }
    while run.moment != Moment::Stop && !vm::is_done(vm, run.moment) {
        assert!(Instant::now() < end, "the moment does not end: {}", vm.said.text());
        thread::sleep(AGAIN);
    }
}

/// The guest goes on, and then the VM is ended.
fn after(vm: &mut Vm<'_>, run: &Run, pids: &mut BTreeSet<i32>) {
    if run.moment == Moment::Stop {
        assert_eq!(vm.wait(), 0, "{}", vm.said.text());
        return;
    }
    vm::goes_on(vm, run.moment);
    let parcel = if (run.process, run.moment) == (Process::Supervisor, Moment::Save) { PARCEL } else { 0 };
    vm.holds_no_more(parcel);
    vm.note_memory();
    assert!(!vm.memfds.is_empty(), "no memory is seen");
    pids.extend(vm.processes().all().into_keys());
    vm::again(vm, "kill").ok();
    vm.wait();
}

/// Its launcher notices; everything else is the kernel's work.
fn keeper_gone(vm: &mut Vm<'_>, causes: &[String]) -> Outcome {
    let status = vm.wait();
    let said = vm.said.text();
    let told = said.contains("keeper[1]") && causes.iter().any(|cause| said.contains(cause.as_str()));
    assert!(status != 0 && told, "{status}; who and why ({causes:?}) is not in: {said}");
    Outcome::Gone
}

/// What does not need the keeper goes on; so does everything once it does.
fn keeper_waits(vm: &mut Vm<'_>, run: &Run, pid: i32) -> Outcome {
    thread::sleep(STANDSTILL);
    if run.moment == Moment::Run {
        vm.answers();
    }
    if run.fault == Fault::Stop {
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
        _ = keeper_goes_on(vm, run);
        return Outcome::Waits;
    }
    // At the end of its VM's end it has let go of the lock that says that the VM is there, or has taken its directory away. It
    // has nothing to do any more but to end, and can be found by its number alone.
    if run.moment == Moment::Stop {
        while vm.has_name() && !vm.is_killed() {
            thread::sleep(AGAIN);
        }
        _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    } else {
        vm::again(vm, "kill").ok();
    }
    vm.wait();
    Outcome::Waits
}

/// What was asked for comes about, and the guest goes on.
fn keeper_goes_on(vm: &mut Vm<'_>, run: &Run) -> Outcome {
    if run.moment == Moment::Stop {
        assert_eq!(vm.wait(), 0, "{}", vm.said.text());
        return Outcome::Refused;
    }
    let end = Instant::now() + SOON;
    while !vm::is_done(vm, run.moment) {
        assert!(Instant::now() < end, "it does not go on: {}", vm.said.text());
        thread::sleep(AGAIN);
    }
    after(vm, run, &mut BTreeSet::new());
    Outcome::Refused
}
