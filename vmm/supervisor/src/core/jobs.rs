//! Jobs: what a client has started and need not wait for. A job is a number; its state is kept until enough newer ones
//! are over.
//!
//! The one idea: a job that goes wrong is over and nothing else is. Whatever fails on the way, the sequence goes on behind the
//! job's end, and the VM with it.

use control::types::{Job, JobState, Problem, event_kind as kind};

use super::handle::{Out, emit};
use super::{Command, CommandId, Core, Islet, Output, Progress, Script, Step, Verb};

/// Jobs that are remembered.
pub(super) const MAX_JOBS: usize = 16;

impl Core {
    /// Every job that is remembered, the oldest first.
    #[must_use]
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// Number of the next job.
    #[must_use]
    pub const fn next_job_id(&self) -> u64 {
        self.last_job + 1
    }

    /// The job of the sequence under way.
    #[must_use]
    pub fn running_job(&self) -> Option<&Job> {
        self.jobs.iter().find(|job| job.state == JobState::Running)
    }

    fn job_mut(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    fn running_job_mut(&mut self) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.state == JobState::Running)
    }

    /// Takes a job, to be begun when its turn comes.
    pub(super) fn accept_job(&mut self, id: CommandId, job: u64, out: &mut Out) {
        let busy = self.jobs.iter().any(|job| job.state.is_open());
        if busy {
            let why = "another job waits or is at work";
            let problem = Problem::new("job.busy", "the snapshot", why, "wait for it, or cancel it");
            out.push(Output::Answer { id, result: Err(problem) });
            return;
        }
        if self.jobs.len() >= MAX_JOBS {
            self.jobs.remove(0);
        }
        self.last_job = self.last_job.max(job);
        self.jobs.push(Job { id: job, kind: "snapshot".into(), state: JobState::Waiting, ..Job::default() });
        self.queue.push_back((None, Command::Save { job }));
        out.push(Output::Answer { id, result: Ok(()) });
    }

    pub(super) fn cancel_job(&mut self, id: CommandId, job: u64, out: &mut Out) {
        let Some(found) = self.job_mut(job) else {
            let problem =
                Problem::new("job.unknown", "cancelling", format!("there is no job {job}"), "see 'atoll jobs'");
            out.push(Output::Answer { id, result: Err(problem) });
            return;
        };
        match found.state {
            JobState::Waiting => {
                found.state = JobState::Cancelled;
                self.queue.retain(|(_, command)| *command != Command::Save { job });
                emit(
                    out,
                    kind::SNAPSHOT_FAILED,
                    None,
                    "cancelled",
                    &format!("job {job} was cancelled before it began"),
                );
            }
            JobState::Running => {
                found.cancelled = true;
                // Cancel is kill.
                if self.slot(Islet::Streamer).process.is_some() {
                    self.kill(Islet::Streamer, "was at a job that is cancelled".into(), out);
                }
            }
            JobState::Done | JobState::Failed | JobState::Cancelled => {}
        }
        out.push(Output::Answer { id, result: Ok(()) });
    }

    /// Begins a snapshot; false if it cannot be made.
    pub(super) fn begin_save(&mut self, job: u64, out: &mut Out) -> bool {
        let refusal = if self.damaged {
            Some(("ram.damaged", "a piece of the guest's memory is lost", "restore another snapshot"))
        } else if self.on_demand {
            Some(("vm.restoring", "memory of an earlier snapshot is still on its way", "wait for RESTORE_COMPLETE"))
        } else {
            None
        };
        if let Some((code, why, remedy)) = refusal {
            self.close_job(job, Some(Problem::new(code, "the snapshot", why, remedy)), out);
            return false;
        }
        if let Some(job) = self.job_mut(job) {
            (job.state, job.phase) = (JobState::Running, "pausing".into());
        }
        self.slots.iter_mut().for_each(|slot| slot.saved = None);
        self.begin(Script::Save);
        true
    }

    /// The guest asked for a reset before it stood: that comes first, and then a snapshot of a machine as after power-on.
    pub(super) fn put_job_back(&mut self) {
        if let Some(job) = self.running_job_mut() {
            job.state = JobState::Waiting;
            let job = job.id;
            self.queue.push_front((None, Command::Save { job }));
        }
        self.script = None;
    }

    /// The job cannot be done: the sequence goes on behind it.
    pub(super) fn fail_job(&mut self, problem: Problem) {
        if let Some(job) = self.running_job_mut() {
            job.problem.get_or_insert(problem);
        }
        if matches!(self.script, Some((Script::Save, _))) {
            self.script = Some((Script::Save, Script::Save.position(Step::EndJob)));
        }
    }

    /// The job is over.
    pub(super) fn end_job(&mut self, out: &mut Out) {
        if let Some(job) = self.running_job() {
            let (id, problem) = (job.id, job.problem.clone());
            self.close_job(id, problem, out);
        }
    }

    fn close_job(&mut self, id: u64, problem: Option<Problem>, out: &mut Out) {
        let Some(job) = self.job_mut(id) else { return };
        job.state = match (&problem, job.cancelled) {
            (None, _) => JobState::Done,
            (Some(_), true) => JobState::Cancelled,
            (Some(_), false) => JobState::Failed,
        };
        job.phase = String::new();
        job.problem = if job.cancelled { None } else { problem.clone() };
        let cancelled = job.cancelled;
        match problem {
            None => emit(out, kind::SNAPSHOT_SAVED, None, &format!("job {id}"), "the snapshot's files are written"),
            Some(_) if cancelled => {
                emit(out, kind::SNAPSHOT_FAILED, None, "cancelled", &format!("job {id} was cancelled"));
            }
            Some(problem) => {
                emit(out, kind::SNAPSHOT_FAILED, None, &problem.to_string(), &format!("job {id} has failed"));
            }
        }
    }

    /// With the VM every job ends.
    pub(super) fn end_jobs(&mut self, out: &mut Out) {
        let open: Vec<u64> = self.jobs.iter().filter(|job| job.state.is_open()).map(|job| job.id).collect();
        for id in open {
            let problem = self.ending_problem();
            self.close_job(id, Some(problem), out);
        }
    }

    /// How far a streamer is, as it says.
    pub(super) fn progress(&mut self, phase: &str, done: u64, total: u64, out: &mut Out) {
        if self.slot(Islet::Streamer).request.is_some() {
            let timer = self.deadline(super::scripts::STREAM_DEADLINE, out);
            self.slot_mut(Islet::Streamer).timer = Some(timer);
        }
        if let Some(job) = self.running_job_mut() {
            phase.clone_into(&mut job.phase);
            (job.done, job.total) = (done, total);
        }
    }

    /// The step at which a streamer works: true once it has, and is gone or stays for memory on demand.
    pub(super) fn stream(&mut self, out: &mut Out) -> bool {
        if self.running_job().is_some_and(|job| job.cancelled) && self.slot(Islet::Streamer).process.is_none() {
            let why = "a client of the control socket cancelled it";
            self.fail_job(Problem::new("job.cancelled", "the snapshot", why, ""));
            return false;
        }
        let slot = self.slot(Islet::Streamer);
        match slot.progress {
            Progress::Absent if slot.step_done => return true,
            Progress::Absent => self.spawn(Islet::Streamer, out),
            Progress::Ready if slot.runs && self.on_demand => return true,
            Progress::Ready if slot.request.is_none() && slot.timer.is_none() => {
                let verb = if slot.runs { Verb::Quit } else { Verb::Run };
                self.request(Islet::Streamer, verb, out);
            }
            _ => {}
        }
        false
    }
}
