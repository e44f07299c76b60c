//! One input at a time: what it changes, and how the sequence under way goes on.

use std::time::Duration;

use control::exit_status;
use control::types::{Problem, Status, event_kind as kind};
use machine_model::ports::debug_exit_status;

use super::scripts::{BACK_OFF, EXIT_DEADLINE, LOAD_DEADLINE, PROOF};
use super::{
    Cause, Command, CommandId, Core, Ending, Found, Input, Islet, MAX_DEATHS, MAX_QUEUED, Note, Output, Policy,
    PowerButton, Progress, Request, Said, Script, Step, Verb,
};

type Out = Vec<Output>;

impl Core {
    /// Takes one input. The outputs are to be carried out in order, after the state and its events are durable.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Out::new();
        if self.status == Status::Ended {
            self.after_the_end(input, &mut out);
            return out;
        }
        match input {
            Input::Begin => self.begin(Script::Start),
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

    /// Goes on where another supervisor stopped. The state came from its [`super::record`]; `found` is what the keeper
    /// knows, and `last_end` how that supervisor ended.
    pub fn adopt(&mut self, found: &[Found], last_end: &str) -> Vec<Output> {
        let mut out = Out::new();
        if self.status == Status::Ended {
            self.exit(&mut out);
            return out;
        }
        emit(&mut out, kind::SUPERVISOR_ADOPTED, None, last_end, "a new supervisor has taken over");
        for islet in Islet::ALL {
            self.adopt_slot(islet, found, &mut out);
        }
        // What lives and is not ours any more: a process that was to be killed.
        for process in found.iter().filter(|found| found.lives) {
            if Islet::ALL.iter().all(|islet| self.slot(*islet).process != Some(process.process)) {
                out.push(Output::Kill { process: process.process, incarnation: process.incarnation });
            }
        }
        if self.power_button != PowerButton::None && self.stop_seconds > 0 {
            self.stop_timer = Some(self.arm(Duration::from_secs(self.stop_seconds.into()), &mut out));
        }
        self.drive(&mut out);
        out
    }

    fn adopt_slot(&mut self, islet: Islet, found: &[Found], out: &mut Out) {
        let slot = self.slot(islet).clone();
        match slot.progress {
            Progress::Absent | Progress::FailedClosed => {}
            Progress::Waiting => self.slot_mut(islet).timer = Some(self.arm(BACK_OFF.0, out)),
            Progress::Spawning => {
                let started = |f: &&Found| f.islet == Some(islet) && f.incarnation == slot.incarnation;
                match (found.iter().find(started), slot.request) {
                    (Some(found), _) => self.spawned(islet, slot.incarnation, found.process),
                    (None, Some(request)) => {
                        out.push(Output::Spawn { islet, incarnation: slot.incarnation, request: request.id });
                    }
                    (None, None) => self.slot_mut(islet).progress = Progress::Absent,
                }
                self.slot_mut(islet).timer = Some(self.arm(Verb::Setup.deadline(), out));
            }
            Progress::Starting => {
                let load = Verb::Setup.deadline().max(if islet == Islet::Loader { LOAD_DEADLINE } else { BACK_OFF.0 });
                self.slot_mut(islet).timer = Some(self.arm(load, out));
            }
            Progress::Ready => match slot.request {
                Some(request) => {
                    self.slot_mut(islet).request = None;
                    self.request(islet, request.verb, out);
                }
                None if islet == Islet::Loader => self.slot_mut(islet).timer = Some(self.arm(EXIT_DEADLINE, out)),
                None => self.probation(islet, out),
            },
        }
        if let Some(process) = slot.process.filter(|_| !slot.killed_for.is_empty()) {
            out.push(Output::Kill { process, incarnation: slot.incarnation });
        }
    }

    fn after_the_end(&mut self, input: Input, out: &mut Out) {
        match input {
            Input::Command { id, .. } => out.push(Output::Answer { id, result: Err(self.ending_problem()) }),
            Input::Exited { process, .. } => out.push(Output::Acknowledge { process }),
            _ => {}
        }
    }

    // ------------------------------------------------------------------------------------------------- sequences

    fn begin(&mut self, script: Script) {
        self.script = Some((script, 0));
        self.slots.iter_mut().for_each(|slot| slot.step_done = false);
        match script {
            Script::Start => self.status = Status::Starting,
            Script::Reset => self.status = Status::Resetting,
            Script::Quit => self.status = Status::Stopping,
            Script::Run | Script::Pause | Script::Resume => {}
        }
    }

    /// Goes through as many steps as are done.
    fn drive(&mut self, out: &mut Out) {
        loop {
            let Some((script, at)) = self.script else {
                if self.next_job(out) {
                    continue;
                }
                break;
            };
            let done = match script.steps().get(at) {
                Some(Step::Up(list)) => self.bring_up(list, out),
                Some(Step::Ask(verb, list)) => self.ask(*verb, list, script == Script::Quit, out),
                Some(Step::Load) => self.load(out),
                Some(Step::Say(kind)) => {
                    self.say(kind, out);
                    true
                }
                Some(Step::Go) if self.runs => {
                    self.begin(Script::Run);
                    continue;
                }
                Some(Step::Go | Step::Done) | None => {
                    self.finish(out);
                    continue;
                }
                Some(Step::Exit) => {
                    self.exit(out);
                    return;
                }
            };
            if !done {
                break;
            }
            self.script = Some((script, at + 1));
            self.slots.iter_mut().for_each(|slot| slot.step_done = false);
        }
        self.side_work(out);
    }

    fn bring_up(&mut self, list: &[Islet], out: &mut Out) -> bool {
        for islet in list {
            if self.slot(*islet).progress == Progress::Absent {
                self.spawn(*islet, out);
            }
        }
        let up = |islet: &Islet| matches!(self.slot(*islet).progress, Progress::Ready | Progress::FailedClosed);
        list.iter().all(up)
    }

    /// Asks those that have not answered. Whoever is being restarted is asked when it is ready, except at the end.
    fn ask(&mut self, verb: Verb, list: &[Islet], ending: bool, out: &mut Out) -> bool {
        if list.contains(&Islet::Board) {
            match verb {
                Verb::Run => self.devices_run = true,
                Verb::Pause => self.devices_run = false,
                _ => {}
            }
        }
        let mut done = true;
        for islet in list {
            let slot = self.slot(*islet);
            match slot.progress {
                _ if slot.step_done => {}
                Progress::Ready => {
                    done = false;
                    if slot.request.is_none() {
                        self.request(*islet, verb, out);
                    }
                }
                Progress::Spawning | Progress::Starting | Progress::Waiting => done &= ending,
                Progress::Absent | Progress::FailedClosed => {}
            }
        }
        done
    }

    fn load(&mut self, out: &mut Out) -> bool {
        let slot = self.slot(Islet::Loader);
        if !slot.step_done && slot.progress == Progress::Absent {
            self.entry.clear();
            self.spawn(Islet::Loader, out);
        }
        self.slot(Islet::Loader).step_done
    }

    fn say(&mut self, what: &'static str, out: &mut Out) {
        match what {
            kind::STARTED => {
                self.started = true;
                let rest = if self.runs { "the guest runs" } else { "the guest is paused" };
                let detail = format!("{}; {rest}", self.kernel_summary);
                emit(out, what, None, "", &detail);
            }
            kind::RESET => {
                self.resets += 1;
                let cause = std::mem::take(&mut self.reset_cause);
                emit(out, what, None, &cause, "the machine is as after power-on");
            }
            kind::ENDED => {
                let reason = self.ending.as_ref().map(|ending| ending.reason.clone()).unwrap_or_default();
                emit(out, what, None, &reason, "the VM has ended");
            }
            kind::STOP => emit(out, what, None, "", "vCPUs and the guest's clock stand"),
            _ => emit(out, what, None, "", "vCPUs are about to run"),
        }
    }

    /// The sequence is done.
    fn finish(&mut self, out: &mut Out) {
        self.script = None;
        self.status = if self.runs { Status::Running } else { Status::Paused };
        if let Some(id) = self.current.take() {
            out.push(Output::Answer { id, result: Ok(()) });
        }
    }

    /// Begins the next sequence that somebody wants; false if there is none.
    fn next_job(&mut self, out: &mut Out) -> bool {
        if std::mem::take(&mut self.guest_reset) {
            self.begin(Script::Reset);
            return true;
        }
        let Some((id, command)) = self.queue.pop_front() else { return false };
        let script = match command {
            Command::Pause if self.runs => {
                self.runs = false;
                Script::Pause
            }
            Command::Resume if !self.runs => {
                self.runs = true;
                Script::Resume
            }
            Command::Reset => {
                self.reset_cause = "asked for on the control socket".into();
                Script::Reset
            }
            _ => {
                out.push(Output::Answer { id, result: Ok(()) });
                return true;
            }
        };
        self.current = Some(id);
        self.begin(script);
        true
    }

    /// What is to be done beside the sequence: a restarted device serves again; the power button.
    fn side_work(&mut self, out: &mut Out) {
        if self.ending.is_some() {
            return;
        }
        let step = self.script.and_then(|(script, at)| script.steps().get(at).copied());
        for islet in Islet::DEVICES {
            let slot = self.slot(*islet);
            let asked = matches!(step, Some(Step::Ask(_, list)) if list.contains(islet)) && !slot.step_done;
            let idle = slot.progress == Progress::Ready && slot.request.is_none();
            if self.devices_run && idle && !slot.runs && !asked {
                self.request(*islet, Verb::Run, out);
            }
        }
        let board = self.slot(Islet::Board);
        let idle = board.progress == Progress::Ready && board.request.is_none();
        if self.power_button == PowerButton::Wanted && self.status == Status::Running && step.is_none() && idle {
            self.request(Islet::Board, Verb::PowerButton, out);
        }
    }

    // ------------------------------------------------------------------------------------------------- processes

    fn spawn(&mut self, islet: Islet, out: &mut Out) {
        let id = self.next_request();
        let timer = self.arm(Verb::Setup.deadline(), out);
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

    fn request(&mut self, islet: Islet, verb: Verb, out: &mut Out) {
        let id = self.next_request();
        let timer = self.arm(verb.deadline(), out);
        let slot = self.slot_mut(islet);
        slot.request = Some(Request { id, verb });
        slot.timer = Some(timer);
        out.push(Output::Send { islet, incarnation: slot.incarnation, request: id, verb });
    }

    const fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn arm(&mut self, after: Duration, out: &mut Out) -> u64 {
        self.last_timer += 1;
        out.push(Output::Arm { timer: self.last_timer, after });
        self.last_timer
    }

    fn spawned(&mut self, islet: Islet, incarnation: u32, process: u64) {
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

    fn kill(&mut self, islet: Islet, why: String, out: &mut Out) {
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
        let loaded = islet == Islet::Loader && slot.request.is_none() && slot.progress == Progress::Ready;
        let text = if slot.killed_for.is_empty() {
            cause.text.clone()
        } else {
            format!("{} by its supervisor, since it {}", cause.text, slot.killed_for)
        };
        if !(self.ending.is_some() && cause.clean) {
            let detail = match islet.row().policy {
                _ if loaded && cause.clean => "it has done its work",
                _ if self.ending.is_some() => "the VM is ending anyway",
                Policy::Restart => "it is started again with the same descriptors",
                Policy::EndsVm | Policy::Once => "the VM cannot go on without it",
            };
            out.push(Output::Emit(Note {
                kind: if cause.attack { kind::ATTACK } else { kind::PROCESS_EXITED },
                islet: Some(islet),
                incarnation,
                cause: text.clone(),
                detail: detail.to_owned(),
            }));
        }
        if loaded && cause.clean {
            let slot = self.slot_mut(islet);
            slot.progress = Progress::Absent;
            slot.timer = None;
            slot.step_done = true;
            slot.last_cause = text;
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
        let restart = islet.row().policy == Policy::Restart && !(starting && failure.is_some());
        if !restart {
            let lost = || {
                let what = format!("process {name} has ended, and the VM cannot go on without it");
                Problem::new("process.lost", &what, format!("it {text}"), "start the VM anew; its log says more")
            };
            let once = islet.row().policy == Policy::Once;
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
            (Said::Loaded { entry, summary }, Verb::Setup) if islet == Islet::Loader => {
                (self.entry, self.kernel_summary) = (entry, summary);
                let timer = self.arm(EXIT_DEADLINE, out);
                let slot = self.slot_mut(islet);
                slot.progress = Progress::Ready;
                slot.request = None;
                slot.timer = Some(timer);
            }
            (Said::Done, verb) if verb != Verb::Setup => self.done(islet, verb, out),
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
            self.slot_mut(islet).timer = Some(self.arm(LOAD_DEADLINE, out));
            return;
        }
        let slot = self.slot_mut(islet);
        slot.progress = Progress::Ready;
        slot.request = None;
        slot.timer = None;
        self.probation(islet, out);
    }

    /// After a death a process has to prove itself.
    fn probation(&mut self, islet: Islet, out: &mut Out) {
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
        if matches!(step, Some(Step::Ask(asked, list)) if asked == verb && list.contains(&islet)) {
            slot.step_done = true;
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
                let timer = self.arm(EXIT_DEADLINE, out);
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
            _ => {
                let why = format!("failed to carry out '{}': {problem}", verb.name());
                self.slot_mut(islet).failure = Some(problem);
                self.kill(islet, why, out);
            }
        }
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
                    let reason = "the guest powered off".into();
                    self.end(Ending { status: exit_status::DONE, reason, problem: None }, out);
                }
            }
            (Said::DebugExit(value), Islet::Board) => {
                if self.ending.is_none() {
                    let reason = format!("the guest wrote {value:#x} to the debug exit port");
                    emit(out, kind::DEBUG_EXIT, None, &format!("{value:#x}"), &reason);
                    self.end(Ending { status: debug_exit_status(value), reason, problem: None }, out);
                }
            }
            (Said::Reset, Islet::Board) => self.guest_asks_reset("asked for by the guest".into(), out),
            (Said::TripleFault(vcpu), Islet::Engine) => {
                self.guest_asks_reset(format!("a triple fault of vCPU {vcpu}"), out);
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
            let reason = format!("a reset, {cause}, and --no-reboot is given");
            self.end(Ending { status: exit_status::DONE, reason, problem: None }, out);
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

    fn ending_problem(&self) -> Problem {
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
            _ if self.queue.len() >= MAX_QUEUED => {
                let why = "too many commands wait for their turn";
                let problem = Problem::new("vm.busy", "the command", why, "try again");
                out.push(Output::Answer { id, result: Err(problem) });
            }
            _ => self.queue.push_back((id, command)),
        }
    }

    fn stop(&mut self, id: CommandId, seconds: u32, out: &mut Out) {
        if !self.runs {
            let why = "a paused guest cannot see its power button";
            let problem = Problem::new("vm.paused", "the stop", why, "use 'atoll resume' first, or 'atoll kill'");
            out.push(Output::Answer { id, result: Err(problem) });
            return;
        }
        emit(out, kind::SHUTDOWN_REQUESTED, None, "asked for on the control socket", "the power button is pressed");
        self.power_button = PowerButton::Wanted;
        self.stop_seconds = seconds;
        self.stop_timer = (seconds > 0).then(|| self.arm(Duration::from_secs(seconds.into()), out));
        self.stop_waiters.push(id);
    }

    /// The VM ends, politely as far as its processes are polite. The first reason counts.
    fn end(&mut self, ending: Ending, out: &mut Out) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(ending);
        let waiting = self.current.take().into_iter().chain(self.queue.drain(..).map(|(id, _)| id));
        let waiting: Vec<CommandId> = waiting.collect();
        for id in waiting {
            out.push(Output::Answer { id, result: Err(self.ending_problem()) });
        }
        for id in std::mem::take(&mut self.stop_waiters) {
            out.push(Output::Answer { id, result: Ok(()) });
        }
        self.guest_reset = false;
        self.power_button = PowerButton::None;
        self.stop_timer = None;
        self.begin(Script::Quit);
    }

    fn exit(&mut self, out: &mut Out) {
        self.status = Status::Ended;
        let status = self.ending.as_ref().map_or(exit_status::PROCESS_LOST, |ending| ending.status);
        out.push(Output::Exit { status });
    }
}

fn emit(out: &mut Out, kind: &'static str, about: Option<(Islet, u32)>, cause: &str, detail: &str) {
    out.push(Output::Emit(Note {
        kind,
        islet: about.map(|(islet, _)| islet),
        incarnation: about.map_or(0, |(_, incarnation)| incarnation),
        cause: cause.to_owned(),
        detail: detail.to_owned(),
    }));
}
