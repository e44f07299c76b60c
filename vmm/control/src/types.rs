//! What travels on the control socket, as plain data. The meaning of each field is that of control.capnp.

use serde::Serialize;

/// An error with a stable code, in the four parts that every error of Atoll has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{what}: {why}{sep}{remedy}", sep = if remedy.is_empty() { "" } else { "; " })]
pub struct Problem {
    /// Stable, such as "vm.ending".
    pub code: String,
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A problem from its parts.
    pub fn new(code: &str, what: &str, why: impl Into<String>, remedy: &str) -> Self {
        Self { code: code.into(), what: what.into(), why: why.into(), remedy: remedy.into() }
    }
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its processes start, the kernel is loaded.
    Starting,
    /// vCPUs run.
    Running,
    /// vCPUs and guest clock stand.
    Paused,
    /// The guest sleeps (S3).
    Suspended,
    /// A reset is under way.
    Resetting,
    /// Its processes end.
    Stopping,
    /// It is over.
    Ended,
}

impl Status {
    /// Every status, in the order of the schema.
    pub const ALL: [Self; 7] =
        [Self::Starting, Self::Running, Self::Paused, Self::Suspended, Self::Resetting, Self::Stopping, Self::Ended];

    /// For people, and the same as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Resetting => "resetting",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The pair that is a VM's run state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RunState {
    /// What it does.
    pub status: Status,
    /// What it would do if it were not paused: running, or suspended.
    pub resume_to: Status,
}

/// Something that happened, with its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Event {
    /// From 1, without gaps.
    pub sequence: u64,
    /// The guest's clock; 0 before it first ran.
    pub guest_nanoseconds: u64,
    /// The host's clock, since 1970.
    pub unix_nanoseconds: i64,
    /// One of [`event_kind`].
    pub kind: String,
    /// Name of the process that it is about, or empty.
    pub process: String,
    /// Which start of that process.
    pub incarnation: u32,
    /// Decoded cause of an exit, or reason.
    pub cause: String,
    /// One sentence.
    pub detail: String,
}

/// The kinds of events.
pub mod event_kind {
    /// The VM is ready: processes locked down, kernel loaded. vCPUs run now, or the VM was started paused.
    pub const STARTED: &str = "STARTED";
    /// vCPUs and guest clock stand.
    pub const STOP: &str = "STOP";
    /// vCPUs are about to run again.
    pub const RESUME: &str = "RESUME";
    /// The machine is in the state after power-on again, with its kernel loaded.
    pub const RESET: &str = "RESET";
    /// The guest has powered off.
    pub const POWEROFF: &str = "POWEROFF";
    /// The guest wrote to the debug exit port.
    pub const DEBUG_EXIT: &str = "DEBUG_EXIT";
    /// Somebody asked the guest to shut down (the power button was pressed).
    pub const SHUTDOWN_REQUESTED: &str = "SHUTDOWN_REQUESTED";
    /// The guest went to sleep (ACPI S3).
    pub const SUSPEND: &str = "SUSPEND";
    /// The guest was woken and its vCPUs run; `cause` says by what.
    pub const WAKEUP: &str = "WAKEUP";
    /// A snapshot is complete; `cause` is its job.
    pub const SNAPSHOT_SAVED: &str = "SNAPSHOT_SAVED";
    /// A snapshot was not made; `cause` says why. The VM goes on as before.
    pub const SNAPSHOT_FAILED: &str = "SNAPSHOT_FAILED";
    /// All memory of a snapshot that was restored on demand is there.
    pub const RESTORE_COMPLETE: &str = "RESTORE_COMPLETE";
    /// A piece of a restored snapshot's memory is damaged, and the guest needs it: the VM is paused for good.
    pub const RAM_DAMAGED: &str = "RAM_DAMAGED";
    /// A process is locked down and serves.
    pub const PROCESS_STARTED: &str = "PROCESS_STARTED";
    /// A process has ended; `cause` says how.
    pub const PROCESS_EXITED: &str = "PROCESS_EXITED";
    /// A process ended so often that it stays down.
    pub const PROCESS_FAILED_CLOSED: &str = "PROCESS_FAILED_CLOSED";
    /// A process broke a rule of a shared layout, or made a forbidden system call.
    pub const ATTACK: &str = "ATTACK";
    /// A console client has come.
    pub const CONSOLE_OPENED: &str = "CONSOLE_OPENED";
    /// The console's peer has gone.
    pub const CONSOLE_CLOSED: &str = "CONSOLE_CLOSED";
    /// A client of the control socket asked for more than is kept for it, and was cut off; `cause` says of what.
    pub const CLIENT_CUT: &str = "CLIENT_CUT";
    /// A new supervisor has taken over the running VM; `cause` says how the last one ended.
    pub const SUPERVISOR_ADOPTED: &str = "SUPERVISOR_ADOPTED";
    /// The last event of a VM.
    pub const ENDED: &str = "ENDED";
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// It is at work.
    Running,
    /// It has done what it was to do.
    Done,
    /// It has not; `problem` says why.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl JobState {
    /// Every state, in the order of the schema.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// It is not over.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }

    /// For people, and the same as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a client has started and need not wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Its number, from 1.
    pub id: u64,
    /// "snapshot".
    pub kind: String,
    /// How far it is.
    pub state: JobState,
    /// What it is at: "pausing", "states", "ram"; empty once it is over.
    pub phase: String,
    /// Bytes of the phase.
    pub done: u64,
    /// Bytes of the phase in all, as far as known.
    pub total: u64,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// Somebody wants it cancelled.
    #[serde(skip)]
    pub cancelled: bool,
}

/// A named number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// What is counted.
    pub name: String,
    /// How many; of an engine the sum over its vCPUs.
    pub value: u64,
    /// Of an engine, each vCPU's; empty elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_vcpu: Vec<u64>,
}

/// A process of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Name, such as "serial0".
    pub name: String,
    /// Its profile, such as "serial".
    pub kind: String,
    /// In the VM's pid namespace; 0 if it does not run.
    pub pid: i32,
    /// On the host; 0 if unknown.
    pub host_pid: i32,
    /// Which start of it this is.
    pub incarnation: u32,
    /// "starting", "ready", "running", "down".
    pub state: String,
    /// Starts after the first.
    pub restarts: u32,
    /// How it ended last.
    pub last_cause: String,
    /// "restart", "ends the VM", "once".
    pub restart_policy: String,
    /// Guest RAM that it can reach, in bytes.
    pub grant_bytes: u64,
    /// Its own counters.
    pub counters: Vec<Counter>,
}

/// How often a register was reached, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegisterCounter {
    /// Name of the device.
    pub device: String,
    /// Name of the window.
    pub window: String,
    /// Offset in the window.
    pub offset: u64,
    /// Writes, not reads.
    pub write: bool,
    /// Accesses that waited for the device.
    pub synchronous: u64,
    /// Accesses answered without it.
    pub local: u64,
}

/// What an engine counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Guest instructions.
    pub instructions: u64,
    /// Sum over vCPUs of time not halted and not parked.
    pub run_nanoseconds: u64,
    /// The engine's own counters.
    pub counters: Vec<Counter>,
    /// Register accesses.
    pub registers: Vec<RegisterCounter>,
}

/// Everything about a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// Version of the supervisor.
    pub version: String,
    /// Machine version.
    pub machine: String,
    /// Engine, such as "tcg".
    pub engine: String,
    /// Why this engine.
    pub engine_why: String,
    /// vCPUs.
    pub vcpus: u16,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// Run state.
    pub state: RunState,
    /// Its processes, supervisor and keeper included.
    pub processes: Vec<Process>,
    /// The engine's counters; zeroes if it did not answer.
    pub statistics: Statistics,
    /// Guest instructions per second of vCPU time.
    pub instructions_per_second: u64,
    /// Resets so far.
    pub resets: u64,
    /// The guest's clock.
    pub guest_nanoseconds: u64,
    /// The kernel's name as the user wrote it.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Where the console is.
    pub console: String,
}

/// What a process may do, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sandbox {
    /// Name of the process.
    pub name: String,
    /// The profile, printed.
    pub profile: String,
    /// System calls that are left.
    pub system_calls: Vec<String>,
    /// How many there may be at most.
    pub budget: u16,
    /// Descriptors that it was given, by name.
    pub descriptors: Vec<String>,
    /// Namespaces of its own.
    pub namespaces: Vec<String>,
    /// Resource limits.
    pub limits: Vec<String>,
    /// What Landlock denies.
    pub landlock: String,
}

/// Events from the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventPage {
    /// In order of their numbers.
    pub events: Vec<Event>,
    /// Number of the last event that there is.
    pub last: u64,
}
