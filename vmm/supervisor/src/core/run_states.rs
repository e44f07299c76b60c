//! The run states of a VM, as a table: what a client or the guest does in each, where that leads, and what is told.
//!
//! The one idea: a run state is a pair, what the VM does and what it would do if it were not paused. The tests of the core and
//! of whole VMs are made from these rows; nothing else says what should happen.

use control::types::{RunState, Status, event_kind as kind};

/// What is done to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest enters ACPI S3.
    Sleep,
    /// An enabled wake event of the machine, such as the real-time clock's alarm.
    WakeEvent,
    /// `atoll wakeup`.
    Wakeup,
    /// `atoll pause`.
    Pause,
    /// `atoll resume`.
    Resume,
    /// `atoll reset`.
    Reset,
    /// `atoll snapshot`.
    Snapshot,
    /// `atoll restore` of a snapshot that was made in this state.
    Restore,
    /// `atoll restore --paused` of one.
    RestorePaused,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Before.
    pub from: RunState,
    /// What is done.
    pub action: Action,
    /// After; with a code, the action is an error that changes nothing.
    pub to: Result<RunState, &'static str>,
    /// What is told of it, in order, of STOP, RESUME, RESET, SUSPEND and WAKEUP.
    pub events: &'static [&'static str],
}

/// vCPUs run.
pub const RUNNING: RunState = RunState { status: Status::Running, resume_to: Status::Running };
/// The guest sleeps.
pub const SUSPENDED: RunState = RunState { status: Status::Suspended, resume_to: Status::Suspended };
/// Everything stands.
pub const PAUSED: RunState = RunState { status: Status::Paused, resume_to: Status::Running };
/// Everything stands, and the guest was asleep.
pub const PAUSED_ASLEEP: RunState = RunState { status: Status::Paused, resume_to: Status::Suspended };

const NOT_SUSPENDED: Result<RunState, &str> = Err("vm.not-suspended");

const fn row(
    from: RunState,
    action: Action,
    to: Result<RunState, &'static str>,
    events: &'static [&'static str],
) -> Row {
    Row { from, action, to, events }
}

/// Every state with everything that can be done in it. (A paused guest executes nothing and its clock stands, so it neither
/// goes to sleep nor meets a wake event.)
pub const TABLE: &[Row] = &[
    row(RUNNING, Action::Sleep, Ok(SUSPENDED), &[kind::SUSPEND]),
    row(RUNNING, Action::Wakeup, NOT_SUSPENDED, &[]),
    row(RUNNING, Action::Pause, Ok(PAUSED), &[kind::STOP]),
    row(RUNNING, Action::Resume, Ok(RUNNING), &[]),
    row(RUNNING, Action::Reset, Ok(RUNNING), &[kind::RESET]),
    row(RUNNING, Action::Snapshot, Ok(RUNNING), &[kind::STOP, kind::RESUME]),
    row(RUNNING, Action::Restore, Ok(RUNNING), &[kind::RESUME]),
    row(RUNNING, Action::RestorePaused, Ok(PAUSED), &[]),
    row(SUSPENDED, Action::WakeEvent, Ok(RUNNING), &[kind::WAKEUP]),
    row(SUSPENDED, Action::Wakeup, Ok(RUNNING), &[kind::WAKEUP]),
    row(SUSPENDED, Action::Pause, Ok(PAUSED_ASLEEP), &[kind::STOP]),
    row(SUSPENDED, Action::Resume, Ok(SUSPENDED), &[]),
    row(SUSPENDED, Action::Reset, Ok(RUNNING), &[kind::RESET]),
    row(SUSPENDED, Action::Snapshot, Ok(SUSPENDED), &[kind::STOP, kind::RESUME]),
    row(SUSPENDED, Action::Restore, Ok(SUSPENDED), &[kind::RESUME]),
    row(SUSPENDED, Action::RestorePaused, Ok(PAUSED_ASLEEP), &[]),
    row(PAUSED, Action::Wakeup, NOT_SUSPENDED, &[]),
    row(PAUSED, Action::Pause, Ok(PAUSED), &[]),
    row(PAUSED, Action::Resume, Ok(RUNNING), &[kind::RESUME]),
    row(PAUSED, Action::Reset, Ok(PAUSED), &[kind::RESET]),
    row(PAUSED, Action::Snapshot, Ok(PAUSED), &[]),
    row(PAUSED, Action::Restore, Ok(PAUSED), &[]),
    row(PAUSED, Action::RestorePaused, Ok(PAUSED), &[]),
    row(PAUSED_ASLEEP, Action::Wakeup, NOT_SUSPENDED, &[]),
    row(PAUSED_ASLEEP, Action::Pause, Ok(PAUSED_ASLEEP), &[]),
    row(PAUSED_ASLEEP, Action::Resume, Ok(SUSPENDED), &[kind::RESUME]),
    row(PAUSED_ASLEEP, Action::Reset, Ok(PAUSED), &[kind::RESET]),
    row(PAUSED_ASLEEP, Action::Snapshot, Ok(PAUSED_ASLEEP), &[]),
    row(PAUSED_ASLEEP, Action::Restore, Ok(PAUSED_ASLEEP), &[]),
    row(PAUSED_ASLEEP, Action::RestorePaused, Ok(PAUSED_ASLEEP), &[]),
];

/// A test for each row of [`TABLE`], by `$check`, a function of `&Row`. Tests that are not as many as the rows do not compile.
#[macro_export]
macro_rules! run_state_tests {
    ($check:path) => {
        $crate::run_state_tests! {
            $check;
            row_00 = 0, row_01 = 1, row_02 = 2, row_03 = 3, row_04 = 4, row_05 = 5, row_06 = 6, row_07 = 7,
            row_08 = 8, row_09 = 9, row_10 = 10, row_11 = 11, row_12 = 12, row_13 = 13, row_14 = 14, row_15 =
            15, row_16 = 16, row_17 = 17, row_18 = 18, row_19 = 19, row_20 = 20, row_21 = 21, row_22 = 22,
            row_23 = 23, row_24 = 24, row_25 = 25, row_26 = 26, row_27 = 27, row_28 = 28, row_29 = 29
        }
    };
    ($check:path; $($name:ident = $index:literal),*) => {
        $(
            #[test]
            fn $name() {
                $check(&$crate::core::run_states::TABLE[$index]);
            }
        )*

        const _: () = {
            let tested = [$($index),*];
            assert!(tested.len() == $crate::core::run_states::TABLE.len(), "a test for each row");
            let mut n = 0;
            while n < tested.len() {
                assert!(tested[n] == n, "each row in turn");
                n += 1;
            }
        };
    };
}
