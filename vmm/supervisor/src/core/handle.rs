//! One input at a time, and what it changes.

use std::time::Duration;

use control::exit_status;
use control::types::{Problem, Status, event_kind as kind};
use machine_model::ports::debug_exit_status;

use super::scripts::{BACK_OFF, EXIT_DEADLINE, HEALTH, LOAD_DEADLINE, PATIENCE, PROOF, STREAM_DEADLINE};
use super::{
    Cause, Command, CommandId, Core, Ending, Input, Islet, MAX_DEATHS, MAX_QUEUED, Note, Output, Policy, PowerButton,
    Progress, Request, Said, Script, Step, Verb,
};

/// What a board or an engine answers that is to be woken and does not sleep.
pub(super) const AWAKE: &str = "s3.awake";

/// What is to be done, in the making.
pub(super) type Out = Vec<Output>;

impl Core {
    /// Takes one input. The outputs are to be carried out in order, after the state and its events are durable.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Out::new();
        if self.status == Status::Ended {
            self.after_the_end(input, &mut out);
            return out;
        }
        match input {
            Input::Begin => self.begin(if self.restores { Script::Restore } else { Script::Start }),
            Input::Spawned { islet, incarnation, process } => self.spawned(islet, incarnation, process),
            Input::NotSpawned { islet, incarnation, why } => self.not_spawned(islet, incarnation, &why, &mut out),
            Input::Said { islet, incarnation, reply_to, said } => {
                self.said(islet, incarnation, reply_to, said, &mut out);
            }
            Input::Exited { process, islet, incarnation, cause, productive } => {
                out.push(Output::Acknowledge { process });
                if self.slot(islet).process == Some(process) {
                    self.exited(islet, incarnation, &cause, productive, &mut out);
                }
            }
            Input::Broken { islet, incarnation, why } => {
                if self.slot(islet).incarnation == incarnation {
                    self.kill(islet, why, &mut out);
                }
            }
            Input::Expired(timer) => self.expired(timer, &mut out),
            Input::Command { id, command } => self.command(id, command, &mut out),
            Input::Noted(note) => out.push(Output::Emit(note)),
        }
        self.drive(&mut out);
        out
    }

    fn after_the_end(&mut self, input: Input, out: &mut Out) {
        match input {
            Input::Command { id, .. } => out.push(Output::Answer { id, result: Err(self.ending_problem()) }),
            Input::Exited { process, .. } => out.push(Output::Acknowledge { process }),
            _ => {}
        }
    }

    // ------------------------------------------------------------------------------------------------- processes

    pub(super) fn spawn(&mut self, islet: Islet, out: &mut Out) {
        let id = self.next_request();
        let timer = self.deadline(Verb::Setup.deadline(), out);
        let slot = self.slot_mut(islet);
        slot.incarnation += 1;
        slot.progress = Progress::Spawning;
        slot.request = Some(Request { id, verb: Verb::Setup });
        slot.timer = Some(timer);
        slot.runs = false;
        slot.killed_for.clear();
        slot.failure = None;
        out.push(Output::Spawn { islet, incarnation: slot.incarnation, request: id });
    }

    pub(super) fn request(&mut self, islet: Islet, verb: Verb, out: &mut Out) {
        let id = self.next_request();
        let streams = islet == Islet::Streamer && verb == Verb::Run;
        let timer = self.deadline(if streams { STREAM_DEADLINE } else { verb.deadline() }, out);
        let slot = self.slot_mut(islet);
        slot.request = Some(Request { id, verb });
        slot.timer = Some(timer);
        out.push(Output::Send { islet, incarnation: slot.incarnation, request: id, verb });
    }

    pub(super) const fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    pub(super) fn arm(&mut self, after: Duration, out: &mut Out) -> u64 {
        self.last_timer += 1;
        out.push(Output::Arm { timer: self.last_timer, after });
        self.last_timer
    }

    /// Arms a timer for what hangs: `after` is with the usual patience.
    pub(super) fn deadline(&mut self, after: Duration, out: &mut Out) -> u64 {
        self.arm(after.mul_f64(self.options.patience.div_duration_f64(PATIENCE)), out)
    }

    /// From now on processes are asked from time to time whether they go on. A process that hangs would otherwise be
    /// noticed only when somebody wants something of it.
    pub(super) fn watch_health(&mut self, out: &mut Out) {
        self.health = Some(self.deadline(HEALTH, out));
    }

    /// Asks whoever owes no answer. An engine whose memory is still on its way may stand in a page fault for as long as that
    /// takes, so it is not asked; whoever brings the memory is. Nor is one that may wait for a device that is down.
    fn ask_health(&mut self, out: &mut Out) {
        self.watch_health(out);
        let devices = Islet::DEVICES.iter().all(|islet| self.slot(*islet).progress == Progress::Ready);
        for islet in Islet::ALL {
            let slot = self.slot(islet);
            let asked = match islet.row().policy {
                Policy::Once => false,
                Policy::Job => self.on_demand && slot.runs,
                Policy::EndsVm | Policy::Restart => islet != Islet::Engine || (devices && !self.on_demand),
            };
            if asked && slot.progress == Progress::Ready && slot.request.is_none() {
                self.request(islet, Verb::Ping, out);
            }
        }
    }

    pub(super) fn spawned(&mut self, islet: Islet, incarnation: u32, process: u64) {
        let slot = self.slot_mut(islet);
        if slot.progress == Progress::Spawning && slot.incarnation == incarnation {
            slot.progress = Progress::Starting;
            slot.process = Some(process);
        }
    }

    fn not_spawned(&mut self, islet: Islet, incarnation: u32, why: &str, out: &mut Out) {
        let slot = self.slot(islet);
        if slot.progress == Progress::Spawning && slot.incarnation == incarnation {
            let text = format!("could not be started: {why}");
            self.gone(islet, &text, false, out);
        }
    }

    pub(super) fn kill(&mut self, islet: Islet, why: String, out: &mut Out) {
        let slot = self.slot_mut(islet);
        if let Some(process) = slot.process {
            slot.killed_for = why;
            slot.timer = None;
            out.push(Output::Kill { process, incarnation: slot.incarnation });
        }
    }

    fn exited(&mut self, islet: Islet, incarnation: u32, cause: &Cause, productive: bool, out: &mut Out) {
        let slot = self.slot_mut(islet);
        slot.process = None;
        let finished = match islet.row().policy {
            Policy::Once => slot.request.is_none() && slot.progress == Progress::Ready && cause.clean,
            // What a streamer has said to be done is done, however it ends.
            Policy::Job => slot.runs && (cause.clean || !self.on_demand),
            Policy::Restart | Policy::EndsVm => false,
        };
        let slot = self.slot(islet);
        let text = if slot.killed_for.is_empty() {
            cause.text.clone()
        } else {
            format!("{} by its supervisor, since it {}", cause.text, slot.killed_for)
        };
        if !(self.ending.is_some() && cause.clean) {
            let detail = match islet.row().policy {
                _ if finished => "it has done its work",
                _ if self.ending.is_some() => "the VM is ending anyway",
                Policy::Restart => "it is started again with the same descriptors",
                Policy::EndsVm | Policy::Once => "the VM cannot go on without it",
                Policy::Job if self.on_demand && self.started => "it is started again with the same descriptors",
                Policy::Job if self.started => "its job has failed, and the VM goes on",
                Policy::Job => "the VM cannot go on without it",
            };
            out.push(Output::Emit(Note {
                kind: if cause.attack { kind::ATTACK } else { kind::PROCESS_EXITED },
                islet: Some(islet),
                incarnation,
                cause: text.clone(),
                detail: detail.to_owned(),
            }));
        }
        if finished {
            let slot = self.slot_mut(islet);
            slot.progress = Progress::Absent;
            slot.request = None;
            slot.timer = None;
            slot.runs = false;
            slot.step_done = true;
            slot.last_cause = text;
            if islet == Islet::Streamer && std::mem::take(&mut self.on_demand) {
                emit(out, kind::RESTORE_COMPLETE, None, "", "all of the guest's memory is there");
            }
        } else {
            self.gone(islet, &text, productive, out);
        }
    }

    /// A process is not there any more, or never was.
    fn gone(&mut self, islet: Islet, text: &str, productive: bool, out: &mut Out) {
        let starting = !self.started;
        let slot = self.slot_mut(islet);
        let name = format!("{islet}[{}]", slot.incarnation);
        // Who stands still, as it was told, and owes no answer can make no progress.
        let idle = slot.progress == Progress::Ready && slot.request.is_none() && !slot.runs;
        let failure = slot.failure.take();
        slot.progress = Progress::Absent;
        slot.request = None;
        slot.timer = None;
        slot.proof = None;
        slot.runs = false;
        slot.last_cause = text.to_owned();
        if self.ending.is_some() {
            return;
        }
        let policy = islet.row().policy;
        if policy == Policy::Job && !starting && !self.on_demand {
            let what = format!("process {name} has ended before its job was done");
            let lost =
                || Problem::new("process.lost", &what, format!("it {text}"), "try again; the VM's log says more");
            self.fail_job(failure.unwrap_or_else(lost));
            return;
        }
        let again = policy == Policy::Restart || (policy == Policy::Job && !starting);
        if !(again && !(starting && failure.is_some())) {
            let lost = || {
                let what = format!("process {name} has ended, and the VM cannot go on without it");
                Problem::new("process.lost", &what, format!("it {text}"), "start the VM anew; its log says more")
            };
            let once = policy == Policy::Once;
            let status = if starting || once { exit_status::NOT_STARTED } else { exit_status::PROCESS_LOST };
            let problem = Some(failure.unwrap_or_else(lost));
            self.end(Ending { status, reason: format!("{name} {text}"), problem }, out);
            return;
        }
        let slot = self.slot_mut(islet);
        slot.deaths = match (productive, idle) {
            (true, _) => 1,
            (false, true) => slot.deaths.max(1),
            (false, false) => slot.deaths + 1,
        };
        if slot.deaths >= MAX_DEATHS {
            slot.progress = Progress::FailedClosed;
            let detail = format!("it ended {MAX_DEATHS} times in a row without progress and stays down");
            emit(out, kind::PROCESS_FAILED_CLOSED, Some((islet, slot.incarnation)), text, &detail);
            if policy == Policy::Job {
                self.memory_lost("nobody brings the rest of it any more", out);
            }
            return;
        }
        slot.progress = Progress::Waiting;
        slot.restarts += 1;
        let wait = BACK_OFF.0 * (1 << (slot.deaths - 1).min(10));
        let timer = self.arm(wait.min(BACK_OFF.1), out);
        self.slot_mut(islet).timer = Some(timer);
    }

    fn expired(&mut self, timer: u64, out: &mut Out) {
        if self.stop_timer == Some(timer) {
            self.stop_timer = None;
            let reason = format!("the guest did not power off within {} s of 'stop'", self.stop_seconds);
            self.end(Ending { status: exit_status::KILLED, reason, problem: None }, out);
            return;
        }
        if self.health == Some(timer) {
            self.health = None;
            if self.ending.is_none() {
                self.ask_health(out);
            }
            return;
        }
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.proof == Some(timer)) {
            slot.proof = None;
            if slot.progress == Progress::Ready && slot.request.is_none() {
                slot.deaths = 0;
            }
            return;
        }
        let Some(islet) = Islet::ALL.into_iter().find(|islet| self.slot(*islet).timer == Some(timer)) else { return };
        let slot = self.slot_mut(islet);
        slot.timer = None;
        match (slot.progress, slot.request) {
            (Progress::Waiting, _) => {
                if self.ending.is_none() {
                    self.spawn(islet, out);
                }
            }
            (_, Some(request)) => {
                let why = format!("did not answer '{}' in time", request.verb.name());
                self.kill(islet, why, out);
            }
            (_, None) => self.kill(islet, "did not end after its last word".into(), out),
        }
    }

    // -------------------------------------------------------------------------------------------------- messages

    fn said(&mut self, islet: Islet, incarnation: u32, reply_to: u64, said: Said, out: &mut Out) {
        let slot = self.slot(islet);
        if slot.incarnation != incarnation || slot.process.is_none() {
            return;
        }
        if reply_to == 0 {
            self.event(islet, said, out);
            return;
        }
        // An answer to nothing that was asked is one to a request of an earlier supervisor.
        let Some(request) = slot.request.filter(|request| request.id == reply_to) else { return };
        match (said, request.verb) {
            (Said::Ready, Verb::Setup) => self.ready(islet, out),
            (Said::ReadyWithFaults(faults), Verb::Setup) if islet == Islet::Engine && self.on_demand => {
                self.faults = Some(faults);
                self.ready(islet, out);
            }
            (Said::Loaded { entry, summary }, Verb::Setup) if islet == Islet::Loader => {
                (self.entry, self.kernel_summary) = (entry, summary);
                let timer = self.deadline(EXIT_DEADLINE, out);
                let slot = self.slot_mut(islet);
                slot.progress = Progress::Ready;
                slot.request = None;
                slot.timer = Some(timer);
            }
            (Said::Done, verb) if !matches!(verb, Verb::Setup | Verb::Save) => self.done(islet, verb, out),
            (Said::Saved(saved), Verb::Save) => {
                self.slot_mut(islet).saved = Some(saved);
                self.done(islet, Verb::Save, out);
            }
            (Said::Failed(problem), verb) => self.failed(islet, verb, problem, out),
            (Said::Nonsense(what), _) => self.nonsense(islet, &what, out),
            (other, verb) => {
                let name = verb.name();
                self.nonsense(islet, &format!("answered '{name}' with {other:?}"), out);
            }
        }
    }

    fn ready(&mut self, islet: Islet, out: &mut Out) {
        let incarnation = self.slot(islet).incarnation;
        emit(out, kind::PROCESS_STARTED, Some((islet, incarnation)), "", "it is locked down and ready");
        if islet == Islet::Loader {
            // Its answer proper is still to come.
            self.slot_mut(islet).timer = Some(self.deadline(LOAD_DEADLINE, out));
            return;
        }
        let slot = self.slot_mut(islet);
        slot.progress = Progress::Ready;
        slot.request = None;
        slot.timer = None;
        self.probation(islet, out);
    }

    /// After a death a process has to prove itself.
    pub(super) fn probation(&mut self, islet: Islet, out: &mut Out) {
        if self.slot(islet).deaths > 0 {
            self.slot_mut(islet).proof = Some(self.arm(PROOF, out));
        }
    }

    fn done(&mut self, islet: Islet, verb: Verb, out: &mut Out) {
        let step = self.script.and_then(|(script, at)| script.steps().get(at).copied());
        let slot = self.slot_mut(islet);
        slot.request = None;
        slot.timer = None;
        match verb {
            Verb::Run => slot.runs = true,
            Verb::Pause => slot.runs = false,
            _ => {}
        }
        slot.step_done |= match step {
            Some(Step::Ask(asked, list)) => asked == verb && list.contains(&islet),
            Some(Step::Settle) => (islet, verb) == (Islet::Engine, Verb::Suspend),
            _ => false,
        };
        if (islet, verb) == (Islet::Streamer, Verb::Quit) {
            let timer = self.deadline(EXIT_DEADLINE, out);
            self.slot_mut(islet).timer = Some(timer);
        }
        if verb == Verb::PowerButton {
            self.power_button = PowerButton::Pressed;
            for id in std::mem::take(&mut self.stop_waiters) {
                out.push(Output::Answer { id, result: Ok(()) });
            }
        }
    }

    fn failed(&mut self, islet: Islet, verb: Verb, problem: Problem, out: &mut Out) {
        match verb {
            // It ends by itself.
            Verb::Setup => {
                let timer = self.deadline(EXIT_DEADLINE, out);
                let slot = self.slot_mut(islet);
                slot.failure = Some(problem);
                slot.timer = Some(timer);
            }
            Verb::PowerButton => {
                self.power_button = PowerButton::None;
                let slot = self.slot_mut(islet);
                slot.request = None;
                slot.timer = None;
                for id in std::mem::take(&mut self.stop_waiters) {
                    out.push(Output::Answer { id, result: Err(problem.clone()) });
                }
            }
            // Asked twice, by two supervisors: the first time it woke.
            Verb::Wake | Verb::StartVcpu if problem.code == AWAKE => self.done(islet, verb, out),
            Verb::StartVcpu => self.cannot_wake(islet, problem, out),
            Verb::Save => {
                let slot = self.slot_mut(islet);
                slot.request = None;
                slot.timer = None;
                self.fail_job(problem);
            }
            Verb::Load => {
                let slot = self.slot_mut(islet);
                slot.request = None;
                slot.timer = None;
                let reason = format!("{islet} refused its state: {}", problem.why);
                self.end(Ending { status: exit_status::NOT_STARTED, reason, problem: Some(problem) }, out);
            }
            _ => {
                let why = format!("failed to carry out '{}': {problem}", verb.name());
                self.slot_mut(islet).failure = Some(problem);
                self.kill(islet, why, out);
            }
        }
    }

    /// The guest left no way to wake it: as for a triple fault.
    fn cannot_wake(&mut self, islet: Islet, problem: Problem, out: &mut Out) {
        let slot = self.slot_mut(islet);
        slot.request = None;
        slot.timer = None;
        let cause = format!("a waking vector that cannot be: {}", problem.why);
        if let Some(id) = self.current.take() {
            out.push(Output::Answer { id, result: Err(problem) });
        }
        self.script = None;
        self.wake.clear();
        self.guest_asks_reset(cause, out);
    }

    /// The guest cannot go on, and what it has done so far can still be looked at.
    fn memory_lost(&mut self, why: &str, out: &mut Out) {
        if std::mem::replace(&mut self.damaged, true) {
            return;
        }
        emit(out, kind::RAM_DAMAGED, None, why, "a piece of the restored memory is lost: the VM is paused for good");
        self.queue.push_front((None, Command::Pause));
    }

    fn nonsense(&mut self, islet: Islet, what: &str, out: &mut Out) {
        let incarnation = self.slot(islet).incarnation;
        emit(out, kind::ATTACK, Some((islet, incarnation)), what, "it broke the protocol and is killed");
        self.kill(islet, what.to_owned(), out);
    }

    fn event(&mut self, islet: Islet, said: Said, out: &mut Out) {
        match (said, islet) {
            (Said::PowerOff, Islet::Board) => {
                if self.ending.is_none() {
                    emit(out, kind::POWEROFF, None, "", "the guest has powered off");
                    self.end_by_guest(exit_status::DONE, "the guest powered off".into(), out);
                }
            }
            (Said::DebugExit(value), Islet::Board) => {
                if self.ending.is_none() {
                    let reason = format!("the guest wrote {value:#x} to the debug exit port");
                    emit(out, kind::DEBUG_EXIT, None, &format!("{value:#x}"), &reason);
                    self.end_by_guest(debug_exit_status(value), reason, out);
                }
            }
            (Said::Reset, Islet::Board) => self.guest_asks_reset("asked for by the guest".into(), out),
            (Said::TripleFault(vcpu), Islet::Engine) => {
                self.guest_asks_reset(format!("a triple fault of vCPU {vcpu}"), out);
            }
            (Said::Suspend, Islet::Board) => self.guest_suspend |= !self.asleep,
            (Said::Wake(why), Islet::Board) => {
                if self.asleep || self.guest_suspend {
                    self.wake = why;
                }
            }
            (Said::Progress { phase, done, total }, Islet::Streamer) => self.progress(&phase, done, total, out),
            (Said::BadChunk(offset), Islet::Streamer) => {
                self.memory_lost(&format!("the chunk at {offset:#x} differs from its digest"), out);
            }
            (Said::Attack(what), _) => {
                let incarnation = self.slot(islet).incarnation;
                emit(out, kind::ATTACK, Some((islet, incarnation)), &what, "it reports a broken rule of shared memory");
            }
            (Said::ConsoleClosed, Islet::Serial0) => {
                let incarnation = self.slot(islet).incarnation;
                emit(out, kind::CONSOLE_CLOSED, Some((islet, incarnation)), "", "the console's peer is gone");
            }
            (Said::Nonsense(what), _) => self.nonsense(islet, &what, out),
            (other, _) => self.nonsense(islet, &format!("said {other:?} unasked"), out),
        }
    }

    fn guest_asks_reset(&mut self, cause: String, out: &mut Out) {
        if self.ending.is_some() {
            return;
        }
        if self.options.no_reboot {
            self.end_by_guest(exit_status::DONE, format!("a reset, {cause}, and --no-reboot is given"), out);
            return;
        }
        // Until the board is reset, it is the same request.
        let load = Script::Reset.steps().iter().position(|step| *step == Step::Load).unwrap_or(0);
        if !matches!(self.script, Some((Script::Reset, at)) if at < load) {
            self.guest_reset = true;
            self.reset_cause = cause;
        }
    }

    // -------------------------------------------------------------------------------------------------- commands

    pub(super) fn ending_problem(&self) -> Problem {
        let reason = self.ending.as_ref().map_or("", |ending| ending.reason.as_str());
        Problem::new("vm.ending", "the command", format!("the VM is ending: {reason}"), "start it anew")
    }

    fn command(&mut self, id: CommandId, command: Command, out: &mut Out) {
        match command {
            Command::Kill => {
                out.push(Output::Answer { id, result: Ok(()) });
                let reason = "killed by 'atoll kill' or another client of the control socket".to_owned();
                self.end(Ending { status: exit_status::KILLED, reason, problem: None }, out);
                // Not politely.
                let say = Script::Quit.steps().len().saturating_sub(2);
                if self.script.is_none_or(|(script, at)| script != Script::Quit || at < say) {
                    self.script = Some((Script::Quit, say));
                }
            }
            _ if self.ending.is_some() => {
                out.push(Output::Answer { id, result: Err(self.ending_problem()) });
            }
            Command::Stop(seconds) => self.stop(id, seconds, out),
            Command::Save { job } => self.accept_job(id, job, out),
            Command::Cancel { job } => self.cancel_job(id, job, out),
            _ if self.queue.len() >= MAX_QUEUED => {
                let why = "too many commands wait for their turn";
                let problem = Problem::new("vm.busy", "the command", why, "try again");
                out.push(Output::Answer { id, result: Err(problem) });
            }
            _ => self.queue.push_back((Some(id), command)),
        }
    }

    fn stop(&mut self, id: CommandId, seconds: u32, out: &mut Out) {
        let refusal = match (self.runs, self.asleep) {
            (true, false) => None,
            (true, true) => Some(("vm.suspended", "a sleeping guest does not see its power button", "wakeup")),
            (false, _) => Some(("vm.paused", "a paused guest cannot see its power button", "resume")),
        };
        if let Some((code, why, first)) = refusal {
            let problem = Problem::new(code, "the stop", why, &format!("use 'atoll {first}' first, or 'atoll kill'"));
            out.push(Output::Answer { id, result: Err(problem) });
            return;
        }
        emit(out, kind::SHUTDOWN_REQUESTED, None, "asked for on the control socket", "the power button is pressed");
        self.power_button = PowerButton::Wanted;
        self.stop_seconds = seconds;
        self.stop_timer = (seconds > 0).then(|| self.arm(Duration::from_secs(seconds.into()), out));
        self.stop_waiters.push(id);
    }

    /// The guest ends its VM. So it runs, even if the answer of its engine to that request is still on its way: each islet
    /// has a link of its own, and the board's word may come first.
    fn end_by_guest(&mut self, status: u8, reason: String, out: &mut Out) {
        let step = self.script.and_then(|(script, at)| script.steps().get(at));
        if matches!(step, Some(Step::Ask(Verb::Run, list)) if list.contains(&Islet::Engine)) {
            self.finish(out);
        }
        self.end(Ending { status, reason, problem: None }, out);
    }

    /// The VM ends, politely as far as its processes are polite. The first reason counts.
    fn end(&mut self, ending: Ending, out: &mut Out) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(ending);
        self.end_jobs(out);
        let waiting = self.current.take().into_iter().chain(self.queue.drain(..).filter_map(|(id, _)| id));
        let waiting: Vec<CommandId> = waiting.collect();
        for id in waiting {
            out.push(Output::Answer { id, result: Err(self.ending_problem()) });
        }
        for id in std::mem::take(&mut self.stop_waiters) {
            out.push(Output::Answer { id, result: Ok(()) });
        }
        self.guest_reset = false;
        self.guest_suspend = false;
        self.power_button = PowerButton::None;
        self.stop_timer = None;
        self.begin(Script::Quit);
    }

    pub(super) fn exit(&mut self, out: &mut Out) {
        self.status = Status::Ended;
        let status = self.ending.as_ref().map_or(exit_status::PROCESS_LOST, |ending| ending.status);
        out.push(Output::Exit { status });
    }
}

/// Adds an event.
pub(super) fn emit(out: &mut Out, kind: &'static str, about: Option<(Islet, u32)>, cause: &str, detail: &str) {
    out.push(Output::Emit(Note {
        kind,
        islet: about.map(|(islet, _)| islet),
        incarnation: about.map_or(0, |(_, incarnation)| incarnation),
        cause: cause.to_owned(),
        detail: detail.to_owned(),
    }));
}
