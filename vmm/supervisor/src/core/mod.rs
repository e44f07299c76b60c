//! The policy: what happened goes in, what to do comes out.
//!
//! The one idea: state changes and events are one thing. [`Core::step`] changes the state and returns outputs; whoever
//! drives it first makes the new state and the events among the outputs durable, together, and only then carries out
//! the rest. Everything that is carried out can be carried out again, so a successor that finds the state ([`record`])
//! and what the keeper knows ([`Found`]) goes on in the middle of any sequence ([`Core::adopt`]).
//!
//! There is no I/O here and no clock: time comes in as [`Input::Expired`] of timers that went out as [`Output::Arm`].

mod adopt;
mod drive;
pub mod faults;
mod handle;
mod islets;
mod jobs;
pub mod record;
pub mod run_states;
mod scripts;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use control::types::{Job, Problem, RunState, Status};

pub use islets::{Islet, Policy, Row};
pub use scripts::{MAX_DEATHS, PATIENCE, Script, Step, Verb};

/// What the user asked for that the core must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Do not run the guest at first.
    pub paused: bool,
    /// A reset by the guest ends the VM.
    pub no_reboot: bool,
    /// How long a process may take to answer; every other deadline is in proportion.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { paused: false, no_reboot: false, patience: PATIENCE }
    }
}

/// Number of a command of a client, for its answer.
pub type CommandId = u64;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let vCPUs stand.
    Pause,
    /// Let them go on.
    Resume,
    /// As after power-on.
    Reset,
    /// Press the power button; kill after so many seconds (0: never).
    Stop(u32),
    /// End at once.
    Kill,
    /// Let a sleeping guest wake.
    Wakeup,
    /// Make a snapshot, as this job.
    Save {
        /// [`Core::next_job_id`].
        job: u64,
    },
    /// Give up a job.
    Cancel {
        /// Its number.
        job: u64,
    },
}

/// What a VM begins with that is restored from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// What each process is to take.
    pub states: Vec<(Islet, SavedState)>,
    /// The guest sleeps.
    pub asleep: bool,
    /// Memory comes as the guest touches it.
    pub on_demand: bool,
    /// Resets before the snapshot.
    pub resets: u64,
    /// What the loader said about the kernel.
    pub kernel_summary: String,
}

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Exit status 0.
    pub clean: bool,
    /// It made a system call that its profile forbids.
    pub attack: bool,
    /// The predicate of a sentence about the process, such as "was killed by SIGKILL".
    pub text: String,
}

/// What a process has left in its state area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    /// Bytes from the begin of the area.
    pub length: u64,
    /// SHA-256 of them.
    pub digest: [u8; 32],
}

/// A mapping of RAM in an engine whose missing pages somebody else places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Address of the RAM memfd's offset 0.
    pub base: u64,
    /// In bytes.
    pub length: u64,
}

/// What an islet said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is locked down.
    Ready,
    /// It is locked down, and with its word came a userfaultfd over this mapping of RAM.
    ReadyWithFaults(Faults),
    /// It has done what it was asked.
    Done,
    /// It has not.
    Failed(Problem),
    /// A loader has loaded.
    Loaded {
        /// State of vCPU 0, as a message that an engine understands.
        entry: Vec<u8>,
        /// For people.
        summary: String,
    },
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote to the debug exit port.
    DebugExit(u32),
    /// This vCPU had a triple fault.
    TripleFault(u16),
    /// Somebody broke a rule of a shared layout.
    Attack(String),
    /// The peer of the console is gone.
    ConsoleClosed,
    /// The guest went to sleep (ACPI S3).
    Suspend,
    /// An enabled wake event of a sleeping guest came; which one.
    Wake(String),
    /// It has left its state.
    Saved(SavedState),
    /// How far a streamer is.
    Progress {
        /// What it is at.
        phase: String,
        /// Bytes.
        done: u64,
        /// Bytes, as far as known.
        total: u64,
    },
    /// A chunk of RAM that the guest needs is damaged; its offset.
    BadChunk(u64),
    /// Something that this supervisor does not understand; a defect of the islet, or an attack.
    Nonsense(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The first supervisor of a VM begins.
    Begin,
    /// The keeper has started a process.
    Spawned {
        /// Which.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// The keeper's number of it.
        process: u64,
    },
    /// The keeper could not.
    NotSpawned {
        /// Which.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// Why.
        why: String,
    },
    /// A message of an islet.
    Said {
        /// Who.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// Number of the request that it answers; 0 for an event.
        reply_to: u64,
        /// What.
        said: Said,
    },
    /// A process has ended. Everything that it had said came before.
    Exited {
        /// The keeper's number of it.
        process: u64,
        /// Who.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// Why.
        cause: Cause,
        /// It did something for the guest.
        productive: bool,
    },
    /// A process does not do what it must in something that the driver watches: it is to be killed.
    Broken {
        /// Who.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// What it did not do.
        why: String,
    },
    /// A timer has run out.
    Expired(u64),
    /// A client asks.
    Command {
        /// For the answer.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// Something that is only to be recorded.
    Noted(Note),
}

/// An event without its number and times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// One of `control::types::event_kind`.
    pub kind: &'static str,
    /// Whom it is about.
    pub islet: Option<Islet>,
    /// Which start of it.
    pub incarnation: u32,
    /// Cause or reason.
    pub cause: String,
    /// One sentence.
    pub detail: String,
}

/// What is to be done. All of it can be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Record an event. Comes before everything else of the same step.
    Emit(Note),
    /// Start a process and send its setup as this request.
    Spawn {
        /// Which.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// Number of the request.
        request: u64,
    },
    /// Send a request.
    Send {
        /// To whom.
        islet: Islet,
        /// Which start of it.
        incarnation: u32,
        /// Number of the request.
        request: u64,
        /// What is asked.
        verb: Verb,
    },
    /// Send a kill -9.
    Kill {
        /// The keeper's number of the process.
        process: u64,
        /// Which start of it.
        incarnation: u32,
    },
    /// Tell the keeper that this exit is dealt with.
    Acknowledge {
        /// The keeper's number of the process.
        process: u64,
    },
    /// Say [`Input::Expired`] after this time.
    Arm {
        /// Number of the timer; none is used twice by one supervisor.
        timer: u64,
        /// How long.
        after: Duration,
    },
    /// Answer a client.
    Answer {
        /// Of the command.
        id: CommandId,
        /// The answer.
        result: Result<(), Problem>,
    },
    /// End the VM.
    Exit {
        /// With this status.
        status: u8,
    },
}

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Never started, or done and gone.
    #[default]
    Absent,
    /// The keeper was told to start it.
    Spawning,
    /// It has not said that it is ready.
    Starting,
    /// It takes requests.
    Ready,
    /// It has ended and will be started again.
    Waiting,
    /// It has ended too often.
    FailedClosed,
}

/// A request that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// What was asked.
    pub verb: Verb,
}

/// What is known about one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Number of its last start; 0: none.
    pub incarnation: u32,
    /// How far it is.
    pub progress: Progress,
    /// The keeper's number of it while it lives.
    pub process: Option<u64>,
    /// What it has not answered.
    pub request: Option<Request>,
    /// It was told to serve, and has.
    pub runs: bool,
    /// It has done its part of the present step.
    pub step_done: bool,
    /// Starts after a death.
    pub restarts: u32,
    /// Deaths in a row without progress.
    pub deaths: u32,
    /// How it ended last.
    pub last_cause: String,
    /// Why the supervisor has killed it.
    pub killed_for: String,
    /// The state that it has left, or is to take.
    pub saved: Option<SavedState>,
    /// What it said that failed, before it ended.
    failure: Option<Problem>,
    /// The timer that counts.
    timer: Option<u64>,
    /// The timer after which it has proved itself.
    proof: Option<u64>,
}

/// How the VM ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Exit status.
    pub status: u8,
    /// One sentence.
    pub reason: String,
    /// What went wrong, if it is an error.
    pub problem: Option<Problem>,
}

/// Whether the power button is to be pressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PowerButton {
    /// No.
    #[default]
    None,
    /// Yes.
    Wanted,
    /// It has been.
    Pressed,
}

/// What the keeper knows about a process, for [`Core::adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which; `None` for a name that is not known here.
    pub islet: Option<Islet>,
    /// Which start of it.
    pub incarnation: u32,
    /// The keeper's number of it.
    pub process: u64,
    /// It lives.
    pub lives: bool,
}

/// Commands that may wait.
const MAX_QUEUED: usize = 64;

/// The state of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    options: Options,
    slots: [Slot; Islet::ALL.len()],
    /// The sequence under way and the position in it.
    script: Option<(Script, usize)>,
    status: Status,
    /// vCPUs run, or will when the sequence under way is done.
    runs: bool,
    /// Devices were told to serve.
    devices_run: bool,
    started: bool,
    guest_reset: bool,
    reset_cause: String,
    /// The guest went to sleep, and its vCPUs are not asleep yet.
    guest_suspend: bool,
    /// The guest sleeps: a paused VM would resume to that.
    asleep: bool,
    /// By what the guest is to be woken; empty: nothing.
    wake: String,
    /// The VM begins with a snapshot.
    restores: bool,
    /// Memory of a snapshot is still on its way.
    on_demand: bool,
    /// A piece of memory is lost.
    damaged: bool,
    power_button: PowerButton,
    stop_seconds: u32,
    stop_timer: Option<u64>,
    /// When processes are asked next whether they go on.
    health: Option<u64>,
    entry: Vec<u8>,
    kernel_summary: String,
    resets: u64,
    ending: Option<Ending>,
    last_request: u64,
    last_timer: u64,
    /// The client that waits for the sequence under way.
    current: Option<CommandId>,
    queue: VecDeque<(Option<CommandId>, Command)>,
    /// Where the engine's missing pages are told of.
    faults: Option<Faults>,
    jobs: Vec<Job>,
    last_job: u64,
    stop_waiters: Vec<CommandId>,
}

impl Core {
    /// The state before [`Input::Begin`].
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            slots: Default::default(),
            script: None,
            status: Status::Starting,
            runs: !options.paused,
            devices_run: false,
            started: false,
            guest_reset: false,
            reset_cause: String::new(),
            guest_suspend: false,
            asleep: false,
            wake: String::new(),
            restores: false,
            on_demand: false,
            damaged: false,
            power_button: PowerButton::None,
            stop_seconds: 0,
            stop_timer: None,
            health: None,
            entry: Vec::new(),
            kernel_summary: String::new(),
            resets: 0,
            ending: None,
            last_request: 0,
            last_timer: 0,
            current: None,
            queue: VecDeque::new(),
            faults: None,
            jobs: Vec::new(),
            last_job: 0,
            stop_waiters: Vec::new(),
        }
    }

    /// The state before [`Input::Begin`] of a VM that begins with a snapshot.
    #[must_use]
    pub fn restored(options: Options, from: Restore) -> Self {
        let mut core = Self::new(options);
        for (islet, state) in from.states {
            core.slot_mut(islet).saved = Some(state);
        }
        core.restores = true;
        (core.asleep, core.on_demand) = (from.asleep, from.on_demand);
        (core.resets, core.kernel_summary) = (from.resets, from.kernel_summary);
        core
    }

    /// The pair of the run state.
    #[must_use]
    pub const fn state(&self) -> RunState {
        RunState { status: self.status, resume_to: if self.asleep { Status::Suspended } else { Status::Running } }
    }

    /// Whether the guest runs, or would if it were awake.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.runs
    }

    /// The engine's mapping whose missing pages a streamer places.
    #[must_use]
    pub const fn faults(&self) -> Option<Faults> {
        self.faults
    }

    /// Whether the VM began with a snapshot.
    #[must_use]
    pub const fn restores(&self) -> bool {
        self.restores
    }

    /// Whether memory of a snapshot comes as the guest touches it.
    #[must_use]
    pub const fn on_demand(&self) -> bool {
        self.on_demand
    }

    /// What is known about a process.
    #[must_use]
    pub const fn slot(&self, islet: Islet) -> &Slot {
        &self.slots[islet as usize]
    }

    const fn slot_mut(&mut self, islet: Islet) -> &mut Slot {
        &mut self.slots[islet as usize]
    }

    /// The sequence under way and the position in it.
    #[must_use]
    pub const fn script(&self) -> Option<(Script, usize)> {
        self.script
    }

    /// State of vCPU 0 as the last loader gave it; empty before.
    #[must_use]
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// What the last loader said about the kernel.
    #[must_use]
    pub fn kernel_summary(&self) -> &str {
        &self.kernel_summary
    }

    /// Resets so far.
    #[must_use]
    pub const fn resets(&self) -> u64 {
        self.resets
    }

    /// Whether a timer still means something; one that does not may be forgotten.
    #[must_use]
    pub fn waits_for(&self, timer: u64) -> bool {
        [self.stop_timer, self.health].contains(&Some(timer))
            || self.slots.iter().any(|slot| [slot.timer, slot.proof].contains(&Some(timer)))
    }

    /// How the VM ends, once it does.
    #[must_use]
    pub const fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The guest has been, or could have been, run.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.started
    }
}
