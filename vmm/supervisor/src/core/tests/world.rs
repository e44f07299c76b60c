//! A world without time for the core: a keeper that carries out, and islets that answer.
//!
//! The one idea: whatever is wrong with the order of things is asserted where it would happen. Time passes only when
//! nothing else is left to happen.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use control::types::{Problem, event_kind as kind};

use crate::core::handle::AWAKE;
use crate::core::record::{Facts, decode, encode};
use crate::core::{
    Cause, Command, Core, Found, Input, Islet, Note, Options, Output, Policy, Restore, Said, SavedState, Verb,
};

/// A process of the world.
#[derive(Clone, Debug)]
struct Process {
    islet: Islet,
    incarnation: u32,
    lives: bool,
    /// It says nothing any more.
    stands: bool,
    acknowledged: bool,
    runs: bool,
    cause: Cause,
}

/// What may happen in the middle.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// A kill -9 of a process, before an input is taken.
    Kill(Islet),
    /// A process stands still from there on; it has, or has not, said what would have been next.
    Stop(Islet, bool),
    /// The supervisor dies after it has made a step durable and carried out this many of its outputs.
    Crash(usize),
}

/// What an islet leaves.
pub fn state_of(islet: Islet) -> SavedState {
    SavedState { length: islet as u64 + 1, digest: [islet as u8; 32] }
}

pub struct World {
    pub core: Core,
    options: Options,
    processes: BTreeMap<u64, Process>,
    queue: VecDeque<Input>,
    timers: Vec<(Duration, u64)>,
    /// Deadlines that passed because nothing else was left to happen.
    pub expired: usize,
    pub log: Vec<Note>,
    record: Vec<u8>,
    pub answers: Vec<(u64, Result<(), Problem>)>,
    pub exit: Option<u8>,
    /// Inputs taken so far.
    pub steps: usize,
    /// Longest list of outputs so far.
    pub widest: usize,
    trouble: Option<(usize, Trouble)>,
    /// The trouble has come.
    pub troubled: bool,
    pub crashes: usize,
    /// A guest that powers off when its power button is pressed.
    pub obedient: bool,
    /// Does not answer this.
    pub deaf: Option<(Islet, Verb)>,
    /// Answers this with an error.
    pub refuses: Option<(Islet, Verb)>,
    /// Loader of this incarnation is killed after so many of its two messages.
    pub loader_dies: Option<(u32, usize)>,
    /// It is not killed, but stands still.
    pub loader_stays: bool,
    /// Deaths of serial0 follow on useful work.
    pub productive: bool,
    /// vCPUs sleep.
    asleep: bool,
    /// VM begins with a snapshot: it counts as stopped before.
    restored: bool,
    /// Clients that asked for a job know its number.
    pub job: u64,
}

impl World {
    pub fn new(options: Options, trouble: Option<(usize, Trouble)>) -> Self {
        Self::with(Core::new(options), options, trouble)
    }

    pub fn restored(options: Options, asleep: bool, on_demand: bool, trouble: Option<(usize, Trouble)>) -> Self {
        let states = Islet::PERMANENT.iter().map(|islet| (*islet, state_of(*islet))).collect();
        let restore = Restore { states, asleep, on_demand, resets: 3, kernel_summary: "bzImage".into() };
        let world = Self::with(Core::restored(options, restore), options, trouble);
        Self { asleep, restored: true, ..world }
    }

    fn with(core: Core, options: Options, trouble: Option<(usize, Trouble)>) -> Self {
        Self {
            record: encode(&core, Facts::default()),
            core,
            options,
            processes: BTreeMap::new(),
            queue: VecDeque::from([Input::Begin]),
            timers: Vec::new(),
            expired: 0,
            log: Vec::new(),
            answers: Vec::new(),
            exit: None,
            steps: 0,
            widest: 0,
            trouble,
            troubled: false,
            crashes: 0,
            obedient: true,
            deaf: None,
            refuses: None,
            loader_dies: None,
            loader_stays: false,
            productive: true,
            asleep: false,
            restored: false,
            job: 0,
        }
    }

    /// Asks for a snapshot.
    pub fn save(&mut self, id: u64) {
        self.job = self.core.next_job_id();
        self.command(id, Command::Save { job: self.job });
    }

    /// Something from outside.
    pub fn happen(&mut self, input: Input) {
        self.queue.push_back(input);
        self.settle();
    }

    pub fn command(&mut self, id: u64, command: Command) {
        self.happen(Input::Command { id, command });
    }

    /// A snapshot, cancelled as soon as its streamer works.
    pub fn save_and_cancel(&mut self) {
        self.job = self.core.next_job_id();
        let job = self.job;
        self.queue.push_back(Input::Command { id: 1, command: Command::Save { job } });
        while self.core.slot(Islet::Streamer).request.is_none_or(|request| request.verb != Verb::Run) {
            let input = self.queue.pop_front().unwrap();
            self.take(input);
        }
        self.command(2, Command::Cancel { job });
    }

    /// As [`Self::says`], but something else happens at the same time.
    pub fn queue_said(&mut self, islet: Islet, said: Said) {
        let incarnation = self.core.slot(islet).incarnation;
        self.reply(islet, incarnation, 0, said);
    }

    /// An event of an islet that lives.
    pub fn says(&mut self, islet: Islet, said: Said) {
        if let Some(process) = self.living(islet) {
            let incarnation = self.processes[&process].incarnation;
            self.happen(Input::Said { islet, incarnation, reply_to: 0, said });
        }
    }

    pub fn living(&self, islet: Islet) -> Option<u64> {
        self.processes.iter().find(|(_, p)| p.islet == islet && p.lives).map(|(id, _)| *id)
    }

    /// The time has come to ask processes whether they go on.
    pub fn ask_health(&mut self) {
        let timer = self.core.health.unwrap();
        self.happen(Input::Expired(timer));
    }

    /// Until nothing is left to happen, time included.
    pub fn settle(&mut self) {
        loop {
            while let Some(input) = self.queue.pop_front() {
                self.take(input);
                if self.exit.is_some() {
                    return;
                }
            }
            // Questions whether processes go on would never end; see [`Self::ask_health`].
            self.timers.retain(|(_, timer)| Some(*timer) != self.core.health);
            self.timers.sort();
            if self.timers.is_empty() {
                return;
            }
            let (_, timer) = self.timers.remove(0);
            self.expired += 1;
            self.take(Input::Expired(timer));
            if self.exit.is_some() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        if let Some((at, Trouble::Kill(islet))) = self.trouble
            && at == self.steps
            && let Some(process) = self.living(islet)
        {
            self.troubled = true;
            self.die(process, Cause { clean: false, attack: false, text: "was killed by SIGKILL".into() });
        }
        if let Some((at, Trouble::Stop(islet, said))) = self.trouble
            && at == self.steps
            && let Some(process) = self.living(islet)
        {
            self.troubled = true;
            self.processes.get_mut(&process).unwrap().stands = true;
            let of = |input: &Input| matches!(input, Input::Said { islet: other, .. } if *other == islet);
            self.queue.retain(|input| said || !of(input));
            if !said && of(&input) {
                return;
            }
        }
        let outputs = self.core.step(input);
        let crash = match self.trouble {
            Some((at, Trouble::Crash(executed))) if at == self.steps => Some(executed),
            _ => None,
        };
        self.steps += 1;
        self.carry_out(outputs, crash);
    }

    fn carry_out(&mut self, outputs: Vec<Output>, crash: Option<usize>) {
        self.widest = self.widest.max(outputs.len());
        // What the driver does: events and state become durable together, before anything is carried out.
        let is_event = |output: &Output| matches!(output, Output::Emit(_));
        self.log.extend(outputs.iter().filter_map(|o| if let Output::Emit(n) = o { Some(n.clone()) } else { None }));
        self.record = encode(&self.core, Facts::default());
        for (index, output) in outputs.into_iter().filter(|output| !is_event(output)).enumerate() {
            if crash == Some(index) {
                return self.crash();
            }
            self.output(output);
        }
        if crash.is_some() {
            self.crash();
        }
    }

    /// A successor finds the record, the processes, and the messages that nobody has taken.
    fn crash(&mut self) {
        if self.exit.is_some() {
            return;
        }
        self.troubled = true;
        self.timers.clear();
        self.queue.retain(|input| matches!(input, Input::Said { .. }));
        let found: Vec<Found> = self
            .processes
            .iter()
            .filter(|(_, p)| !p.acknowledged)
            .map(|(id, p)| Found { islet: Some(p.islet), incarnation: p.incarnation, process: *id, lives: p.lives })
            .collect();
        self.core = decode(&self.record, self.options).unwrap().0;
        assert_eq!(encode(&self.core, Facts::default()), self.record, "a record survives reading");
        self.crashes += usize::from(self.core.state().status != control::types::Status::Ended);
        let outputs = self.core.adopt(&found, "was killed by SIGKILL");
        self.carry_out(outputs, None);
        for found in found.iter().filter(|found| !found.lives) {
            let p = self.processes[&found.process].clone();
            self.tell_exit(found.process, &p);
        }
    }

    fn die(&mut self, id: u64, cause: Cause) {
        let process = self.processes.get_mut(&id).unwrap();
        process.lives = false;
        process.runs = false;
        process.cause = cause;
        let process = process.clone();
        self.tell_exit(id, &process);
    }

    fn tell_exit(&mut self, id: u64, process: &Process) {
        let Process { islet, incarnation, cause, .. } = process.clone();
        self.queue.push_back(Input::Exited { process: id, islet, incarnation, cause, productive: self.productive });
    }

    fn reply(&mut self, islet: Islet, incarnation: u32, reply_to: u64, said: Said) {
        self.queue.push_back(Input::Said { islet, incarnation, reply_to, said });
    }

    fn stands(&self, islet: Islet) -> bool {
        self.processes.values().any(|p| p.islet == islet && p.lives && p.stands)
    }

    fn runs(&self, islet: Islet) -> bool {
        self.processes.values().any(|p| p.islet == islet && p.lives && p.runs)
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Emit(_) => unreachable!("taken before"),
            Output::Spawn { islet, incarnation, request } => self.spawn(islet, incarnation, request),
            Output::Send { islet, incarnation, request, verb } => self.send(islet, incarnation, request, verb),
            Output::Kill { process, incarnation } => {
                let p = &self.processes[&process];
                assert_eq!(p.incarnation, incarnation);
                if p.lives {
                    self.die(process, Cause { clean: false, attack: false, text: "was killed by SIGKILL".into() });
                }
            }
            Output::Acknowledge { process } => {
                let process = self.processes.get_mut(&process).unwrap();
                assert!(!process.lives, "only an exit is acknowledged");
                process.acknowledged = true;
            }
            Output::Arm { timer, after } => self.timers.push((after, timer)),
            Output::Answer { id, result } => self.answers.push((id, result)),
            Output::Exit { status } => {
                assert_eq!(self.exit, None);
                self.exit = Some(status);
            }
        }
    }

    fn spawn(&mut self, islet: Islet, incarnation: u32, request: u64) {
        assert!(self.living(islet).is_none(), "two of {islet}");
        let may = islet.row().policy == Policy::Restart || (islet == Islet::Streamer && self.core.on_demand());
        assert!(!self.runs(Islet::Engine) || may, "{islet} beside a running guest");
        let id = self.processes.len() as u64 + 1;
        let taken = self.processes.values().any(|p| p.islet == islet && p.incarnation == incarnation);
        assert!(!taken, "{islet}[{incarnation}] twice");
        let cause = Cause { clean: true, attack: false, text: String::new() };
        let (lives, stands, acknowledged, runs) = (true, false, false, false);
        self.processes.insert(id, Process { islet, incarnation, lives, stands, acknowledged, runs, cause });
        self.queue.push_front(Input::Spawned { islet, incarnation, process: id });
        if self.deaf == Some((islet, Verb::Setup)) {
            return;
        }
        if self.refuses == Some((islet, Verb::Setup)) {
            self.reply(islet, incarnation, request, Said::Failed(refusal()));
            self.die(id, Cause { clean: false, attack: false, text: "ended with an error".into() });
            return;
        }
        let loaded = Said::Loaded { entry: vec![7; 9], summary: "bzImage".into() };
        let mut messages = vec![Said::Ready];
        messages.extend((islet == Islet::Loader).then_some(loaded));
        let killed = self.loader_dies.filter(|_| islet == Islet::Loader).filter(|(which, _)| *which == incarnation);
        messages.truncate(killed.map_or(2, |(_, after)| after));
        messages.into_iter().for_each(|said| self.reply(islet, incarnation, request, said));
        if killed.is_some() && self.loader_stays {
            self.processes.get_mut(&id).unwrap().stands = true;
        } else if killed.is_some() {
            self.die(id, Cause { clean: false, attack: false, text: "was killed by SIGKILL".into() });
        } else if islet == Islet::Loader {
            self.die(id, Cause { clean: true, attack: false, text: "ended as asked".into() });
        }
    }

    fn send(&mut self, islet: Islet, incarnation: u32, request: u64, verb: Verb) {
        let Some(id) = self.living(islet) else { return };
        if self.processes[&id].incarnation != incarnation
            || self.processes[&id].stands
            || self.deaf == Some((islet, verb))
        {
            return;
        }
        if self.refuses == Some((islet, verb)) {
            return self.reply(islet, incarnation, request, Said::Failed(refusal()));
        }
        let guest = self.runs(Islet::Engine);
        match (islet, verb) {
            (Islet::Engine, Verb::Run) => {
                let board = self.runs(Islet::Board) || self.living(Islet::Board).is_none();
                assert!(board, "vCPUs before devices");
                assert!(!self.core.entry().is_empty() || self.restored, "vCPUs without a kernel");
                let count = |kind: &str| self.log.iter().filter(|note| note.kind == kind).count();
                let first = usize::from(self.options.paused || self.restored);
                assert_eq!(count(kind::RESUME), count(kind::STOP) + first, "vCPUs run while the VM is stopped");
            }
            (Islet::Engine, Verb::LoadVcpu | Verb::Reset) => {
                assert!(!guest, "{verb:?} of a running engine");
                self.asleep = false;
            }
            (Islet::Board | Islet::Serial0, Verb::Pause | Verb::Reset) => {
                assert!(!guest, "{verb:?} of {islet} while vCPUs run");
            }
            (Islet::Engine, Verb::Suspend) => self.asleep = true,
            (Islet::Board, Verb::Wake) => assert!(self.asleep || self.crashes > 0, "a wake-up of who does not sleep"),
            (Islet::Engine, Verb::StartVcpu) => {
                assert!(self.runs(Islet::Board) || self.living(Islet::Board).is_none(), "awake before the board");
                if !std::mem::take(&mut self.asleep) {
                    assert!(self.crashes > 0, "a wake-up of who does not sleep");
                    let awake = Problem::new(AWAKE, "waking", "it does not sleep", "");
                    return self.reply(islet, incarnation, request, Said::Failed(awake));
                }
            }
            (_, Verb::Save | Verb::Load) => {
                assert!(!guest, "{verb:?} of {islet} while vCPUs run");
                assert!(verb == Verb::Save || self.core.slot(islet).saved == Some(state_of(islet)));
            }
            (Islet::Streamer, Verb::Run) => {
                assert!(!guest || self.restored, "a snapshot of a running guest");
                let progress = Said::Progress { phase: "ram".into(), done: 1, total: 2 };
                self.reply(islet, incarnation, 0, progress);
            }
            _ => {}
        }
        if verb == Verb::Save {
            return self.reply(islet, incarnation, request, Said::Saved(state_of(islet)));
        }
        match verb {
            Verb::Run => self.processes.get_mut(&id).unwrap().runs = true,
            Verb::Pause => self.processes.get_mut(&id).unwrap().runs = false,
            _ => {}
        }
        self.reply(islet, incarnation, request, Said::Done);
        match verb {
            Verb::PowerButton if self.obedient && !self.stands(Islet::Engine) => {
                self.reply(islet, incarnation, 0, Said::PowerOff)
            }
            Verb::Quit => self.die(id, Cause { clean: true, attack: false, text: "ended as asked".into() }),
            _ => {}
        }
    }

    /// The streamer has brought everything, and ends.
    pub fn streamed(&mut self) {
        if let Some(process) = self.living(Islet::Streamer).filter(|process| !self.processes[process].stands) {
            self.die(process, Cause { clean: true, attack: false, text: "ended as asked".into() });
            self.settle();
        }
    }

    /// Events of these kinds, in order.
    pub fn kinds(&self, kinds: &[&str]) -> Vec<&'static str> {
        self.log.iter().map(|note| note.kind).filter(|kind| kinds.contains(kind)).collect()
    }

    /// What must hold of every run.
    pub fn check(&self) {
        let mut last = if self.options.paused || self.restored { kind::STOP } else { kind::RESUME };
        for kind in self.kinds(&[kind::STOP, kind::RESUME]) {
            assert_ne!(kind, last, "STOP and RESUME alternate: {:?}", self.log);
            last = kind;
        }
        let count = |of: &str| self.kinds(&[of]).len();
        assert!(count(kind::STARTED) <= 1);
        assert_eq!(count(kind::ENDED), usize::from(self.exit.is_some()), "{:?}", self.log);
        if self.exit.is_some() {
            assert_eq!(self.log.last().unwrap().kind, kind::ENDED);
        }
        for process in self.processes.values().filter(|p| !p.lives && p.acknowledged && !p.cause.clean) {
            let said = self.log.iter().filter(|note| {
                note.kind == kind::PROCESS_EXITED
                    && (note.islet, note.incarnation) == (Some(process.islet), process.incarnation)
            });
            assert_eq!(said.count(), 1, "{process:?} in {:?}", self.log);
        }
        for (index, (id, _)) in self.answers.iter().enumerate() {
            assert!(self.answers[..index].iter().all(|(other, _)| other != id), "two answers to command {id}");
        }
        if self.exit.is_none() {
            assert_eq!(self.core.script(), None, "nothing is under way for ever");
            let runs = self.core.runs();
            assert_eq!(self.asleep, self.core.state().resume_to == control::types::Status::Suspended);
            assert_eq!(self.runs(Islet::Engine), runs);
            assert_eq!(self.runs(Islet::Board), runs);
            let serial = self.core.slot(Islet::Serial0).progress != crate::core::Progress::FailedClosed;
            assert_eq!(self.runs(Islet::Serial0), runs && serial);
            assert!(self.living(Islet::Loader).is_none());
        }
    }
}

pub fn refusal() -> Problem {
    Problem::new("kernel.truncated", "kernel image 'vmlinuz'", "it ends early", "take another one")
}
