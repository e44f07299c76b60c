//! What follows when a process of a VM fails, as a table: who, in the middle of what, and how that ends.
//!
//! The one idea: a fault is a death or a standstill, and a standstill that is noticed is made a death. So the outcome depends on
//! who it is and on what the VM is at, and for each pair there are at most two: the fault came before the work was done, or
//! after. The tests of the core find these outcomes by failing each process at every input; a campaign of whole VMs fails real
//! ones. Nothing else says what should happen.

use control::exit_status::{NOT_STARTED, PROCESS_LOST};

/// A process of a VM, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// Starts and holds everything.
    Keeper,
    /// Decides.
    Supervisor,
    /// Executes the vCPUs.
    Engine,
    /// The chipset.
    Board,
    /// The first serial port.
    Serial0,
    /// Loads the kernel.
    Loader,
    /// Writes a snapshot.
    StreamerSource,
    /// Reads one.
    StreamerTarget,
}

/// What the VM is at when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// `atoll run`, until the guest runs.
    Start,
    /// The guest runs, and nobody asks for anything.
    Run,
    /// `atoll pause`.
    Pause,
    /// The guest enters ACPI S3.
    Sleep,
    /// `atoll snapshot`.
    Save,
    /// `atoll restore`, until the guest runs.
    Load,
    /// `atoll restore --on-demand`, until all of the memory is there.
    LoadOnDemand,
    /// `atoll reset`.
    Reset,
    /// `atoll stop`, and the guest obeys.
    Stop,
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// kill -9.
    Kill,
    /// A panic.
    Panic,
    /// A system call that its profile forbids.
    Forbidden,
    /// SIGSTOP.
    Stop,
    /// A thread of it goes round for ever.
    Hang,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Panic, Self::Forbidden, Self::Stop, Self::Hang];

    /// Whether the process stands still and does not end by itself.
    #[must_use]
    pub const fn is_standstill(self) -> bool {
        matches!(self, Self::Stop | Self::Hang)
    }
}

/// How that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The VM ends with this status, and says which process it was, which start of it, and why it ended.
    Ends(u8),
    /// Another process has taken its place, what was asked for is done, and the guest goes on.
    Replaced,
    /// The job has failed, its client knows why, and the VM is as it was.
    JobFails,
    /// What was asked for was done already, and nobody needs the process any more.
    Done,
    /// Nothing is left of the VM but its directory, which the next `atoll ps` clears.
    Gone,
    /// The system call is refused, the process goes on, and nothing else happens.
    Refused,
    /// The guest goes on; what needs the process waits until it goes on too, and `atoll kill` ends the VM.
    Waits,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Who.
    pub process: Process,
    /// In the middle of what.
    pub moment: Moment,
    /// What may follow from a death, or from a standstill once it is noticed.
    pub outcomes: &'static [Outcome],
}

impl Row {
    /// What may follow from this fault.
    #[must_use]
    pub const fn outcomes_of(&self, fault: Fault) -> &'static [Outcome] {
        match (self.process, fault) {
            (Process::Keeper, Fault::Stop | Fault::Hang) => &[Outcome::Waits],
            // Its filter is inherited by processes that have yet to lock themselves down, and so ends nobody.
            (Process::Keeper, Fault::Forbidden) => &[Outcome::Refused],
            _ => self.outcomes,
        }
    }
}

/// The row of a process and a moment; `None` where there is no such process.
#[must_use]
pub fn row(process: Process, moment: Moment) -> Option<&'static Row> {
    TABLE.iter().find(|row| (row.process, row.moment) == (process, moment))
}

const GONE: &[Outcome] = &[Outcome::Gone];
const REPLACED: &[Outcome] = &[Outcome::Replaced];
const LOST: &[Outcome] = &[Outcome::Ends(PROCESS_LOST)];
const NEVER: &[Outcome] = &[Outcome::Ends(NOT_STARTED)];
/// The VM may say that it has started a moment before its guest runs.
const NEVER_OR_LOST: &[Outcome] = &[Outcome::Ends(NOT_STARTED), Outcome::Ends(PROCESS_LOST)];

const fn cell(process: Process, moment: Moment, outcomes: &'static [Outcome]) -> Row {
    Row { process, moment, outcomes }
}

/// Every process at every moment at which it is there.
pub const TABLE: &[Row] = &[
    cell(Process::Keeper, Moment::Start, GONE),
    cell(Process::Keeper, Moment::Run, GONE),
    cell(Process::Keeper, Moment::Pause, GONE),
    cell(Process::Keeper, Moment::Sleep, GONE),
    cell(Process::Keeper, Moment::Save, GONE),
    cell(Process::Keeper, Moment::Load, GONE),
    cell(Process::Keeper, Moment::LoadOnDemand, GONE),
    cell(Process::Keeper, Moment::Reset, GONE),
    cell(Process::Keeper, Moment::Stop, GONE),
    cell(Process::Supervisor, Moment::Start, REPLACED),
    cell(Process::Supervisor, Moment::Run, REPLACED),
    cell(Process::Supervisor, Moment::Pause, REPLACED),
    cell(Process::Supervisor, Moment::Sleep, REPLACED),
    cell(Process::Supervisor, Moment::Save, REPLACED),
    cell(Process::Supervisor, Moment::Load, REPLACED),
    cell(Process::Supervisor, Moment::LoadOnDemand, REPLACED),
    cell(Process::Supervisor, Moment::Reset, REPLACED),
    cell(Process::Supervisor, Moment::Stop, REPLACED),
    cell(Process::Engine, Moment::Start, NEVER_OR_LOST),
    cell(Process::Engine, Moment::Run, LOST),
    cell(Process::Engine, Moment::Pause, LOST),
    cell(Process::Engine, Moment::Sleep, LOST),
    cell(Process::Engine, Moment::Save, LOST),
    cell(Process::Engine, Moment::Load, NEVER_OR_LOST),
    cell(Process::Engine, Moment::LoadOnDemand, NEVER_OR_LOST),
    cell(Process::Engine, Moment::Reset, LOST),
    cell(Process::Engine, Moment::Stop, &[Outcome::Ends(PROCESS_LOST), Outcome::Done]),
    cell(Process::Board, Moment::Start, NEVER_OR_LOST),
    cell(Process::Board, Moment::Run, LOST),
    cell(Process::Board, Moment::Pause, LOST),
    cell(Process::Board, Moment::Sleep, LOST),
    cell(Process::Board, Moment::Save, LOST),
    cell(Process::Board, Moment::Load, NEVER_OR_LOST),
    cell(Process::Board, Moment::LoadOnDemand, NEVER_OR_LOST),
    cell(Process::Board, Moment::Reset, LOST),
    cell(Process::Board, Moment::Stop, &[Outcome::Ends(PROCESS_LOST), Outcome::Done]),
    cell(Process::Serial0, Moment::Start, REPLACED),
    cell(Process::Serial0, Moment::Run, REPLACED),
    cell(Process::Serial0, Moment::Pause, REPLACED),
    cell(Process::Serial0, Moment::Sleep, REPLACED),
    cell(Process::Serial0, Moment::Save, REPLACED),
    cell(Process::Serial0, Moment::Load, REPLACED),
    cell(Process::Serial0, Moment::LoadOnDemand, REPLACED),
    cell(Process::Serial0, Moment::Reset, REPLACED),
    cell(Process::Serial0, Moment::Stop, &[Outcome::Replaced, Outcome::Done]),
    cell(Process::Loader, Moment::Start, NEVER),
    cell(Process::Loader, Moment::Reset, NEVER),
    cell(Process::StreamerSource, Moment::Save, &[Outcome::JobFails, Outcome::Done]),
    cell(Process::StreamerTarget, Moment::Load, &[Outcome::Ends(NOT_STARTED), Outcome::Done]),
    cell(Process::StreamerTarget, Moment::LoadOnDemand, &[Outcome::Ends(NOT_STARTED), Outcome::Replaced]),
];
