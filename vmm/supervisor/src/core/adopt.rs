//! Taking over in the middle of anything.
//!
//! The one idea: what was asked and is not answered is asked again. An islet that has done it already does it again
//! without harm, and its first answer, to a request that nobody knows any more, is dropped.

use std::time::Duration;

use control::types::{Status, event_kind as kind};

use super::handle::{Out, emit};
use super::scripts::{BACK_OFF, EXIT_DEADLINE, LOAD_DEADLINE};
use super::{Core, Found, Islet, Output, PowerButton, Progress, Verb};

impl Core {
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
        if self.started {
            self.watch_health(&mut out);
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
                self.slot_mut(islet).timer = Some(self.deadline(Verb::Setup.deadline(), out));
            }
            Progress::Starting => {
                let load = Verb::Setup.deadline().max(if islet == Islet::Loader { LOAD_DEADLINE } else { BACK_OFF.0 });
                self.slot_mut(islet).timer = Some(self.deadline(load, out));
            }
            Progress::Ready => match slot.request {
                Some(request) => {
                    self.slot_mut(islet).request = None;
                    self.request(islet, request.verb, out);
                }
                None if islet == Islet::Loader => self.slot_mut(islet).timer = Some(self.deadline(EXIT_DEADLINE, out)),
                None => self.probation(islet, out),
            },
        }
        if let Some(process) = slot.process.filter(|_| !slot.killed_for.is_empty()) {
            out.push(Output::Kill { process, incarnation: slot.incarnation });
        }
    }
}
