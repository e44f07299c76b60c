//! The exit status of a VM, which is that of `atoll run` in the foreground.
//!
//! Odd statuses are the guest's own: a write of v to the debug exit port gives (v << 1) | 1 in eight bits. Even ones are
//! ours. Those from 64 on come from the keeper (`keeper_protocol::exit_status`).

/// The guest powered off, or reset under `--no-reboot`; or the user left with the escape key.
pub const DONE: u8 = 0;
/// The VM could not be started: arguments, files, or what the host lacks.
pub const NOT_STARTED: u8 = 2;
/// A process that the VM cannot do without ended, or broke the protocol.
pub const PROCESS_LOST: u8 = 4;
/// Ended by `atoll kill`, or by `atoll stop` after its time.
pub const KILLED: u8 = 6;
/// A command of the control socket failed.
pub const COMMAND_FAILED: u8 = 8;

/// What each status means, for people.
pub const TABLE: &[(&str, &str)] = &[
    ("0", "the guest powered off (or reset, with --no-reboot), or the user left with the escape key"),
    ("odd", "the guest wrote v to the debug exit port: (v << 1) | 1"),
    ("2", "the VM could not be started; the message names the option, file or field"),
    ("4", "a process that the VM cannot do without ended; the message names process and cause"),
    ("6", "ended by 'atoll kill', or by 'atoll stop' after its time"),
    ("8", "a command failed; the message says why"),
    ("64 to 72", "the keeper ended the VM: bad start, no working supervisor, launcher gone, SIGTERM, defect"),
    ("128 + n", "the launcher was ended by signal n"),
];
