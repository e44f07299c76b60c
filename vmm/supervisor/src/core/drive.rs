//! How the sequence under way goes on: as many steps as are done, and then what is to be done beside it.

use control::types::{Problem, Status, event_kind as kind};

use super::handle::{Out, emit};
use super::{Command, Core, Islet, Output, PowerButton, Progress, Script, Step, Verb};

impl Core {
    pub(super) fn begin(&mut self, script: Script) {
        self.script = Some((script, 0));
        self.slots.iter_mut().for_each(|slot| slot.step_done = false);
        match script {
            Script::Start | Script::Restore => self.status = Status::Starting,
            Script::Reset => self.status = Status::Resetting,
            Script::Quit => self.status = Status::Stopping,
            Script::Run | Script::Pause | Script::Resume | Script::Suspend | Script::Wakeup | Script::Save => {}
        }
    }

    /// Goes through as many steps as are done.
    pub(super) fn drive(&mut self, out: &mut Out) {
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
                Some(Step::Settle) if script == Script::Save && self.guest_reset => {
                    self.put_job_back();
                    continue;
                }
                Some(Step::Settle) => self.settle(out),
                Some(Step::Stream) => {
                    let done = self.stream(out);
                    if self.script != Some((script, at)) {
                        continue;
                    }
                    done
                }
                Some(Step::Say(kind)) => {
                    self.say(kind, out);
                    true
                }
                Some(Step::EndJob) => {
                    self.end_job(out);
                    true
                }
                Some(Step::Go(script)) if self.runs => {
                    self.begin(*script);
                    continue;
                }
                Some(Step::Go(_) | Step::Done) | None => {
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

    /// A guest that went to sleep sleeps, whatever the sequence is about.
    fn settle(&mut self, out: &mut Out) -> bool {
        if !self.guest_suspend {
            return true;
        }
        let done = self.ask(Verb::Suspend, &[Islet::Engine], false, out);
        if done {
            self.guest_suspend = false;
            self.asleep = true;
            emit(out, kind::SUSPEND, None, "", "the guest sleeps");
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
                let rest = match (self.runs, self.asleep) {
                    (true, false) => "the guest runs",
                    (true, true) => "the guest sleeps",
                    (false, _) => "the guest is paused",
                };
                let from = if self.restores { "restored from a snapshot; " } else { "" };
                let detail = format!("{from}{}; {rest}", self.kernel_summary);
                emit(out, what, None, "", &detail);
                self.watch_health(out);
            }
            // A snapshot of a paused VM stops nothing.
            kind::STOP if matches!(self.script, Some((Script::Save, _))) && !self.runs => {}
            kind::WAKEUP => {
                self.asleep = false;
                let cause = std::mem::take(&mut self.wake);
                emit(out, what, None, &cause, "the guest goes on at its waking vector");
            }
            kind::RESET => {
                self.asleep = false;
                self.guest_suspend = false;
                self.wake.clear();
                self.resets = (self.resets + 1).min(snapshot::MAX_RESETS);
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
    pub(super) fn finish(&mut self, out: &mut Out) {
        self.script = None;
        self.status = match (self.runs, self.asleep) {
            (true, false) => Status::Running,
            (true, true) => Status::Suspended,
            (false, _) => Status::Paused,
        };
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
        if self.guest_suspend {
            self.begin(Script::Suspend);
            return true;
        }
        if !self.wake.is_empty() && self.asleep && self.runs {
            self.begin(Script::Wakeup);
            return true;
        }
        let Some((id, command)) = self.queue.pop_front() else { return false };
        if let Some(problem) = self.refusal(command) {
            out.extend(id.map(|id| Output::Answer { id, result: Err(problem) }));
            return true;
        }
        let script = match command {
            Command::Save { job } => {
                self.begin_save(job, out);
                return true;
            }
            Command::Wakeup => {
                self.wake = "asked for on the control socket".into();
                Script::Wakeup
            }
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
                out.extend(id.map(|id| Output::Answer { id, result: Ok(()) }));
                return true;
            }
        };
        self.current = id;
        self.begin(script);
        true
    }

    /// Why a command cannot be carried out in this state.
    fn refusal(&self, command: Command) -> Option<Problem> {
        match command {
            Command::Wakeup if !self.asleep || !self.runs => {
                let why = if self.asleep { "the VM is paused" } else { "the guest does not sleep" };
                Some(Problem::new("vm.not-suspended", "the wake-up", why, "see 'atoll ps' for its state"))
            }
            Command::Resume | Command::Reset if self.damaged => {
                let why = "a piece of the restored snapshot's memory is damaged";
                Some(Problem::new("ram.damaged", "the command", why, "end the VM, and restore another snapshot"))
            }
            _ => None,
        }
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
        // A streamer that was started anew goes on bringing memory.
        let streamer = self.slot(Islet::Streamer);
        let idle = streamer.progress == Progress::Ready && streamer.request.is_none();
        if self.on_demand && self.started && idle && !streamer.runs {
            self.request(Islet::Streamer, Verb::Run, out);
        }
        let board = self.slot(Islet::Board);
        let idle = board.progress == Progress::Ready && board.request.is_none();
        if self.power_button == PowerButton::Wanted && self.status == Status::Running && step.is_none() && idle {
            self.request(Islet::Board, Verb::PowerButton, out);
        }
    }
}
