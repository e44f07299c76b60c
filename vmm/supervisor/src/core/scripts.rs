//! The sequences of a VM's life, as tables.
//!
//! The one idea: a sequence is a row of steps, each of which can be done again without harm, and the core is at one step
//! of at most one sequence. So what a successor must know of a sequence under way is two numbers.

use std::time::Duration;

use control::types::event_kind as kind;

use super::Islet;

/// What an islet is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// To take its descriptors and lock itself down: its first message. A loader also loads.
    Setup,
    /// To serve; an engine, to let vCPUs and the guest clock go.
    Run,
    /// To stand still.
    Pause,
    /// As after power-on.
    Reset,
    /// An engine, to take the state of vCPU 0 from the loader.
    LoadVcpu,
    /// A board, that its power button is pressed.
    PowerButton,
    /// An engine, to let its vCPUs sleep (ACPI S3).
    Suspend,
    /// A board, that the machine wakes.
    Wake,
    /// An engine, to let vCPU 0 go on at the guest's waking vector.
    StartVcpu,
    /// To leave its state.
    Save,
    /// To take the state that was left for it.
    Load,
    /// To show that every thread of it goes on.
    Ping,
    /// To end.
    Quit,
}

impl Verb {
    const ALL: [Self; 13] = [
        Self::Setup,
        Self::Run,
        Self::Pause,
        Self::Reset,
        Self::LoadVcpu,
        Self::PowerButton,
        Self::Suspend,
        Self::Wake,
        Self::StartVcpu,
        Self::Save,
        Self::Load,
        Self::Ping,
        Self::Quit,
    ];

    /// For events and the adoption record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Reset => "reset",
            Self::LoadVcpu => "loadVcpu",
            Self::PowerButton => "powerButton",
            Self::Suspend => "suspend",
            Self::Wake => "wake",
            Self::StartVcpu => "startVcpu",
            Self::Save => "save",
            Self::Load => "load",
            Self::Ping => "ping",
            Self::Quit => "quit",
        }
    }

    /// The verb of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// How long an islet may take to answer, with [`PATIENCE`]. Generous: a deadline is for what hangs, not for what is slow on
    /// a busy host.
    #[must_use]
    pub const fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::Setup => 60,
            Self::Run
            | Self::Pause
            | Self::Reset
            | Self::LoadVcpu
            | Self::PowerButton
            | Self::Suspend
            | Self::Wake
            | Self::StartVcpu
            | Self::Save
            | Self::Load
            | Self::Ping => 20,
            Self::Quit => 2,
        })
    }
}

/// How long a process may take to answer, unless the user says otherwise: the unit of all deadlines here.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// From one question whether processes go on to the next.
pub const HEALTH: Duration = Duration::from_secs(5);
/// How long a loader may load.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(180);
/// How long a streamer may work without a word of progress.
pub const STREAM_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to exit that has said its last word.
pub const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// The wait before a restart after the first death in a row, and at most.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// A process that has stood this long, and owes no answer, has proved itself: its earlier deaths are forgotten.
pub const PROOF: Duration = Duration::from_secs(5);
/// Deaths in a row without progress after which a process stays down.
pub const MAX_DEATHS: u32 = 5;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Each of these is locked down and ready.
    Up(&'static [Islet]),
    /// Each of these has answered.
    Ask(Verb, &'static [Islet]),
    /// A new loader has loaded the kernel and is gone.
    Load,
    /// If the guest went to sleep, its vCPUs do.
    Settle,
    /// A streamer has done the job, or failed. One that brings memory on demand is still at it.
    Stream,
    /// The event.
    Say(&'static str),
    /// The job is over, and its client knows.
    EndJob,
    /// Goes on with this sequence if the VM is to run, otherwise the sequence is done.
    Go(Script),
    /// The sequence is done.
    Done,
    /// The keeper ends the VM.
    Exit,
}

/// A sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Script {
    /// From nothing to a guest that could run.
    Start,
    /// Devices, then vCPUs go.
    Run,
    /// vCPUs, then devices stand.
    Pause,
    /// The end of a pause.
    Resume,
    /// As after power-on; processes stay.
    Reset,
    /// The guest has gone to sleep.
    Suspend,
    /// It is woken.
    Wakeup,
    /// A snapshot is made.
    Save,
    /// From nothing to the state of a snapshot.
    Restore,
    /// The polite part of the end.
    Quit,
}

const ENGINE: &[Islet] = &[Islet::Engine];

const START: &[Step] = &[
    Step::Up(Islet::PERMANENT),
    Step::Load,
    Step::Ask(Verb::LoadVcpu, ENGINE),
    Step::Say(kind::STARTED),
    Step::Go(Script::Run),
];
const RUN: &[Step] = &[Step::Ask(Verb::Run, Islet::DEVICES), Step::Ask(Verb::Run, ENGINE), Step::Done];
const PAUSE: &[Step] = &[
    Step::Ask(Verb::Pause, ENGINE),
    Step::Ask(Verb::Pause, Islet::DEVICES),
    Step::Settle,
    Step::Say(kind::STOP),
    Step::Done,
];
const RESUME: &[Step] =
    &[Step::Say(kind::RESUME), Step::Ask(Verb::Run, Islet::DEVICES), Step::Ask(Verb::Run, ENGINE), Step::Done];
const RESET: &[Step] = &[
    Step::Ask(Verb::Pause, ENGINE),
    Step::Ask(Verb::Pause, Islet::DEVICES),
    Step::Ask(Verb::Reset, Islet::DEVICES),
    Step::Ask(Verb::Reset, ENGINE),
    Step::Load,
    Step::Ask(Verb::LoadVcpu, ENGINE),
    Step::Say(kind::RESET),
    Step::Go(Script::Run),
];
const SUSPEND: &[Step] = &[Step::Settle, Step::Done];
const WAKEUP: &[Step] =
    &[Step::Ask(Verb::Wake, &[Islet::Board]), Step::Ask(Verb::StartVcpu, ENGINE), Step::Say(kind::WAKEUP), Step::Done];
const SAVE: &[Step] = &[
    Step::Ask(Verb::Pause, ENGINE),
    Step::Ask(Verb::Pause, Islet::DEVICES),
    Step::Settle,
    Step::Say(kind::STOP),
    Step::Ask(Verb::Save, Islet::PERMANENT),
    Step::Stream,
    Step::EndJob,
    Step::Go(Script::Resume),
];
const RESTORE: &[Step] = &[
    Step::Up(Islet::PERMANENT),
    Step::Stream,
    Step::Ask(Verb::Load, Islet::PERMANENT),
    Step::Say(kind::STARTED),
    Step::Go(Script::Resume),
];
const QUIT: &[Step] = &[
    Step::Ask(Verb::Pause, ENGINE),
    Step::Ask(Verb::Pause, Islet::DEVICES),
    Step::Ask(Verb::Quit, Islet::PERMANENT),
    Step::Say(kind::ENDED),
    Step::Exit,
];

impl Script {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::Run,
        Self::Pause,
        Self::Resume,
        Self::Reset,
        Self::Suspend,
        Self::Wakeup,
        Self::Save,
        Self::Restore,
        Self::Quit,
    ];

    /// Its steps.
    #[must_use]
    pub const fn steps(self) -> &'static [Step] {
        match self {
            Self::Start => START,
            Self::Run => RUN,
            Self::Pause => PAUSE,
            Self::Resume => RESUME,
            Self::Reset => RESET,
            Self::Suspend => SUSPEND,
            Self::Wakeup => WAKEUP,
            Self::Save => SAVE,
            Self::Restore => RESTORE,
            Self::Quit => QUIT,
        }
    }

    /// For the adoption record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Suspend => "suspend",
            Self::Wakeup => "wakeup",
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Quit => "quit",
        }
    }

    /// The position of a step.
    #[must_use]
    pub fn position(self, step: Step) -> usize {
        self.steps().iter().position(|own| *own == step).unwrap_or(self.steps().len())
    }

    /// The sequence of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|script| script.name() == name)
    }
}
