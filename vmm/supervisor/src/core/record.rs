//! The adoption record: the core's state as a message (vm.capnp, `AdoptionRecord`), for the next supervisor.
//!
//! What is left out is what dies with a supervisor anyway: its clients and their commands, and its timers.

use capnp::message::{Builder, HeapAllocator};
use control::types::{Job, JobState, Problem, Status};
use wire::vm_capnp::adoption_record::{self, PowerButton as WirePowerButton};

use super::jobs::MAX_JOBS;
use super::{
    Command, Core, Ending, Faults, Islet, Options, PowerButton, Progress, Request, SavedState, Script, Slot, Verb,
};

/// What a record says beside the state of the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Number of the last event that goes with this state.
    pub last_event: u64,
    /// UTC at guest clock 0, for the real-time clock.
    pub wall_clock_seconds: i64,
    /// When the VM was started.
    pub started_unix_seconds: i64,
}

const PROGRESS: [(Progress, &str); 6] = [
    (Progress::Absent, "absent"),
    (Progress::Spawning, "spawning"),
    (Progress::Starting, "starting"),
    (Progress::Ready, "ready"),
    (Progress::Waiting, "waiting"),
    (Progress::FailedClosed, "failedClosed"),
];

/// A record that cannot be one; a defect, since only supervisors write it.
#[derive(Debug, thiserror::Error)]
#[error("the adoption record of the last supervisor is wrong: {0}")]
pub struct RecordError(String);

impl From<capnp::Error> for RecordError {
    fn from(error: capnp::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<capnp::NotInSchema> for RecordError {
    fn from(error: capnp::NotInSchema) -> Self {
        Self(error.to_string())
    }
}

/// Writes the record as one flat message.
#[must_use]
pub fn encode(core: &Core, facts: Facts) -> Vec<u8> {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    let mut to = message.init_root::<adoption_record::Builder<'_>>();
    to.set_status(core.status as u16);
    to.set_runs(core.runs);
    to.set_devices_run(core.devices_run);
    if let Some((script, step)) = core.script {
        to.set_script(script.name());
        to.set_step(u16::try_from(step).unwrap_or(u16::MAX));
    }
    to.set_resets(core.resets);
    to.set_last_event(facts.last_event);
    to.set_last_request(core.last_request);
    to.set_guest_reset(core.guest_reset);
    to.set_power_button(match core.power_button {
        PowerButton::None => WirePowerButton::None,
        PowerButton::Wanted => WirePowerButton::Wanted,
        PowerButton::Pressed => WirePowerButton::Pressed,
    });
    to.set_stop_seconds(core.stop_seconds);
    to.set_started(core.started);
    to.set_wall_clock_seconds(facts.wall_clock_seconds);
    to.set_started_unix_seconds(facts.started_unix_seconds);
    to.set_entry(&core.entry);
    to.set_kernel_summary(&core.kernel_summary);
    to.set_reset_cause(&core.reset_cause);
    to.set_guest_suspend(core.guest_suspend);
    to.set_asleep(core.asleep);
    to.set_wake(&core.wake);
    to.set_restores(core.restores);
    to.set_on_demand(core.on_demand);
    to.set_damaged(core.damaged);
    to.set_last_job(core.last_job);
    if let Some(faults) = core.faults {
        let mut to = to.reborrow().init_faults();
        to.set_base(faults.base);
        to.set_length(faults.length);
    }
    let mut jobs = to.reborrow().init_jobs(core.jobs.len() as u32);
    for (index, job) in (0..).zip(&core.jobs) {
        write_job(job, jobs.reborrow().get(index));
    }
    if let Some(ending) = &core.ending {
        write_ending(ending, to.reborrow().init_ending());
    }
    let mut processes = to.init_processes(Islet::ALL.len() as u32);
    for (index, islet) in (0..).zip(Islet::ALL) {
        write_slot(islet, core.slot(islet), processes.reborrow().get(index));
    }
    capnp::serialize::write_message_to_words(&message)
}

fn write_job(from: &Job, mut to: adoption_record::job::Builder<'_>) {
    to.set_id(from.id);
    to.set_kind(&from.kind);
    to.set_state(from.state as u16);
    to.set_cancelled(from.cancelled);
    if let Some(problem) = &from.problem {
        write_problem(problem, to.init_problem());
    }
}

fn write_ending(from: &Ending, mut to: adoption_record::ending::Builder<'_>) {
    to.set_under(true);
    to.set_status(from.status);
    to.set_reason(&from.reason);
    if let Some(problem) = &from.problem {
        write_problem(problem, to.init_problem());
    }
}

fn write_problem(from: &Problem, mut to: wire::islet_capnp::failure::Builder<'_>) {
    to.set_what(&from.what);
    to.set_why(&from.why);
    to.set_remedy(&from.remedy);
    to.set_code(&from.code);
}

fn write_slot(islet: Islet, from: &Slot, mut to: adoption_record::adopted_process::Builder<'_>) {
    let progress = PROGRESS.iter().find(|(progress, _)| *progress == from.progress).map_or("", |row| row.1);
    to.set_name(islet.name());
    to.set_process_id(from.process.unwrap_or(0));
    to.set_incarnation(from.incarnation);
    to.set_state(progress);
    to.set_restarts(from.restarts);
    to.set_unproductive_deaths(from.deaths);
    to.set_last_cause(&from.last_cause);
    to.set_runs(from.runs);
    to.set_step_done(from.step_done);
    if let Some(request) = from.request {
        to.set_request(request.id);
        to.set_verb(request.verb.name());
    }
    to.set_killed_for(&from.killed_for);
    if let Some(saved) = &from.saved {
        let mut to = to.reborrow().init_saved();
        to.set_length(saved.length);
        to.set_digest(&saved.digest);
    }
    if let Some(failure) = &from.failure {
        write_problem(failure, to.init_failure());
    }
}

/// Reads a record.
///
/// # Errors
/// [`RecordError`] for anything that [`encode`] does not write.
pub fn decode(mut bytes: &[u8], options: Options) -> Result<(Core, Facts), RecordError> {
    let words = (bytes.len() / 8) as u64;
    let message = capnp::serialize::read_message(&mut bytes, link::capnp::reader_options())?;
    let from: adoption_record::Reader<'_> = message.get_root()?;
    // What is read is written again, and must not be longer then: no part counts twice, and no list is longer than its bytes.
    if from.total_size()?.word_count > words {
        return Err(RecordError("a part of it is pointed at more than once".into()));
    }
    let jobs = from.get_jobs()?.len();
    if jobs as usize > MAX_JOBS {
        return Err(RecordError(format!("{jobs} jobs")));
    }
    let mut core = Core::new(options);
    let status = Status::ALL.get(usize::from(from.get_status()));
    core.status = *status.ok_or_else(|| RecordError(format!("status {}", from.get_status())))?;
    core.runs = from.get_runs();
    core.devices_run = from.get_devices_run();
    let script = text(from.get_script())?;
    if !script.is_empty() {
        let script = Script::by_name(&script).ok_or_else(|| RecordError(format!("sequence '{script}'")))?;
        core.script = Some((script, from.get_step().into()));
    }
    core.resets = count("resets", from.get_resets())?;
    core.last_request = count("lastRequest", from.get_last_request())?;
    core.guest_reset = from.get_guest_reset();
    core.power_button = match from.get_power_button()? {
        WirePowerButton::None => PowerButton::None,
        WirePowerButton::Wanted => PowerButton::Wanted,
        WirePowerButton::Pressed => PowerButton::Pressed,
    };
    core.stop_seconds = from.get_stop_seconds();
    core.started = from.get_started();
    core.entry = from.get_entry()?.to_vec();
    core.kernel_summary = text(from.get_kernel_summary())?;
    core.reset_cause = text(from.get_reset_cause())?;
    core.guest_suspend = from.get_guest_suspend();
    core.asleep = from.get_asleep();
    core.wake = text(from.get_wake())?;
    core.restores = from.get_restores();
    core.on_demand = from.get_on_demand();
    core.damaged = from.get_damaged();
    core.last_job = count("lastJob", from.get_last_job())?;
    if from.has_faults() {
        let faults = from.get_faults()?;
        core.faults = Some(Faults { base: faults.get_base(), length: faults.get_length() });
    }
    if core.damaged && core.runs {
        core.queue.push_back((None, Command::Pause));
    }
    for job in from.get_jobs()? {
        let job = read_job(job)?;
        // Its turn comes with this supervisor.
        if job.state == JobState::Waiting {
            core.queue.push_back((None, Command::Save { job: job.id }));
        }
        core.jobs.push(job);
    }
    let ending = from.get_ending()?;
    if ending.get_under() {
        let problem = if ending.has_problem() { Some(read_problem(ending.get_problem()?)?) } else { None };
        core.ending = Some(Ending { status: ending.get_status(), reason: text(ending.get_reason())?, problem });
    }
    for process in from.get_processes()? {
        let name = text(process.get_name())?;
        let islet = Islet::by_name(&name).ok_or_else(|| RecordError(format!("process '{name}'")))?;
        *core.slot_mut(islet) = read_slot(process)?;
    }
    let facts = Facts {
        last_event: count("lastEvent", from.get_last_event())?,
        wall_clock_seconds: from.get_wall_clock_seconds(),
        started_unix_seconds: from.get_started_unix_seconds(),
    };
    Ok((core, facts))
}

/// A number that is counted up: far from where it would start over, as every real one is.
fn count(name: &str, value: u64) -> Result<u64, RecordError> {
    if value < 1 << 62 { Ok(value) } else { Err(RecordError(format!("{name} {value}"))) }
}

/// The same for what is counted of a process.
fn count_starts(name: &str, value: u32) -> Result<u32, RecordError> {
    if value < 1 << 31 { Ok(value) } else { Err(RecordError(format!("{name} {value}"))) }
}

fn text(field: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, RecordError> {
    Ok(String::from_utf8_lossy(field?.as_bytes()).into_owned())
}

fn read_problem(from: wire::islet_capnp::failure::Reader<'_>) -> Result<Problem, RecordError> {
    let (what, why) = (text(from.get_what())?, text(from.get_why())?);
    Ok(Problem { code: text(from.get_code())?, what, why, remedy: text(from.get_remedy())? })
}

fn read_job(from: adoption_record::job::Reader<'_>) -> Result<Job, RecordError> {
    let state = JobState::ALL.get(usize::from(from.get_state()));
    Ok(Job {
        id: from.get_id(),
        kind: text(from.get_kind())?,
        state: *state.ok_or_else(|| RecordError(format!("job state {}", from.get_state())))?,
        problem: if from.has_problem() { Some(read_problem(from.get_problem()?)?) } else { None },
        cancelled: from.get_cancelled(),
        ..Job::default()
    })
}

fn read_saved(from: wire::islet_capnp::saved::Reader<'_>) -> Result<SavedState, RecordError> {
    let digest = <[u8; 32]>::try_from(from.get_digest()?);
    let digest = digest.map_err(|_| RecordError("a digest without 32 bytes".into()))?;
    Ok(SavedState { length: from.get_length(), digest })
}

fn read_slot(from: adoption_record::adopted_process::Reader<'_>) -> Result<Slot, RecordError> {
    let state = text(from.get_state())?;
    let progress = PROGRESS.iter().find(|(_, name)| *name == state).map(|row| row.0);
    let verb = text(from.get_verb())?;
    let request = match from.get_request() {
        0 => None,
        id => Some(Request { id, verb: Verb::by_name(&verb).ok_or_else(|| RecordError(format!("verb '{verb}'")))? }),
    };
    Ok(Slot {
        incarnation: count_starts("incarnation", from.get_incarnation())?,
        progress: progress.ok_or_else(|| RecordError(format!("state '{state}'")))?,
        process: Some(from.get_process_id()).filter(|id| *id != 0),
        request,
        runs: from.get_runs(),
        step_done: from.get_step_done(),
        restarts: count_starts("restarts", from.get_restarts())?,
        deaths: count_starts("unproductiveDeaths", from.get_unproductive_deaths())?,
        last_cause: text(from.get_last_cause())?,
        killed_for: text(from.get_killed_for())?,
        saved: if from.has_saved() { Some(read_saved(from.get_saved()?)?) } else { None },
        failure: if from.has_failure() { Some(read_problem(from.get_failure()?)?) } else { None },
        timer: None,
        proof: None,
    })
}
