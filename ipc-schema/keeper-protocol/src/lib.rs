//! What the keeper and its two clients, the launcher and the supervisor, say to each other.
//!
//! The one idea: the keeper must never be the process that breaks, so its protocol has nothing to parse. Every message
//! is a 24-byte [header](mod@wire) and a structure of fixed layout, little-endian and without alignment, checked field by
//! field in one place ([`Request::decode`], [`LauncherMessage::decode`]); only `Spawn` and `SendTo` are followed by a
//! counted list of descriptors and counted bytes that the keeper passes on unread. A message is one datagram of a
//! SEQPACKET link (crate `link`), with its descriptors.
//!
//! | direction | messages |
//! |---|---|
//! | launcher → keeper | [`LauncherMessage`]: `Begin`, `Hold` once per descriptor, `Go` |
//! | keeper → launcher | one [`LauncherAnswer`] to `Go`, or to the first message that is wrong |
//! | supervisor → keeper | [`Request`], each answered by exactly one reply with its id |
//! | keeper → supervisor | [`FromKeeper`]: `Hello` and the two tables at the start, replies, `Exited` |
//!
//! # Start
//! The keeper is started with descriptors 0 and 1 (null), 2 (log), and 3: the launcher's link ([`LAUNCHER_DESCRIPTOR`]).
//! The launcher sends `Begin`, one `Hold` for each descriptor that the VM needs, and `Go`; it must have held
//! [`SUPERVISOR_BINARY`]. The keeper starts the supervisor, whose descriptor 3 ([`KEEPER_DESCRIPTOR`]) is its keeper link, and answers.
//! In the foreground the VM ends when the launcher's end of the link closes.
//!
//! # Adoption
//! Each supervisor's first messages are `Hello` (its incarnation, the sizes of what follows), the table of held
//! descriptors and the table of processes, and every exit that no supervisor has acknowledged; see [`client::Keeper`]. Exits are delivered
//! to each new supervisor until [`Request::Acknowledge`], so none is lost and, by process id, none counts twice. A
//! supervisor that has taken over and works says [`Request::Serving`]: the keeper gives up the VM after
//! [`MAX_FRUITLESS_STARTS`] supervisors in a row that died without having said it.
//!
//! # Ids
//! Held descriptors ([`HeldId`]) and processes ([`ProcessId`]) are numbered from 1 and no number is used twice in the life of a VM.
//! Names are data: the keeper compares them with nothing (but [`SUPERVISOR_BINARY`]) and they need not be unique.

pub mod client;
mod launcher;
mod name;
mod notice;
mod request;
#[cfg(test)]
mod tests;
pub mod wire;

pub use launcher::{BeginFlags, LauncherAnswer, LauncherMessage};
pub use name::{Name, NameError};
pub use notice::{
    Cause, CauseKind, Exited, FromKeeper, HeldEntry, Hello, HelloFlags, ProcessEntry, ProcessState, Refusal,
    RefusalCode, Reply, encode_exited, encode_held_table, encode_hello, encode_process_table, encode_refusal,
    encode_reply,
};
pub use request::{Access, Grant, HeldKind, MemfdFlags, Request, SendTo, SocketKind, Spawn};
pub use wire::{MessageKind, ProtocolError};

/// Version of this protocol. A keeper outlives an upgrade of the supervisor, so both say theirs and a difference is refused.
pub const VERSION: u32 = 1;

/// Number of the descriptor that is the launcher's link in the keeper.
pub const LAUNCHER_DESCRIPTOR: i32 = 3;

/// Number of the descriptor that is the keeper's link in the supervisor.
pub const KEEPER_DESCRIPTOR: i32 = 3;

/// Number of the descriptor that is the control socket in an islet.
pub const CONTROL_DESCRIPTOR: i32 = 3;

/// Name under which the launcher holds the supervisor's binary.
pub const SUPERVISOR_BINARY: &str = "bin:supervisor";

/// Longest payload of [`Spawn`] and [`SendTo`], in bytes.
pub const MAX_PAYLOAD: usize = 48 * 1024;

/// Most descriptors of one [`Spawn`] or [`SendTo`].
pub const MAX_GRANTS: usize = link::MAX_DESCRIPTORS;

/// Most descriptors that a keeper holds.
pub const MAX_HELD: usize = 16 * 1024;

/// Most processes of a VM, those whose exit nobody has acknowledged included.
pub const MAX_PROCESSES: usize = 256;

/// Largest memfd that can be made, in bytes: 16 TiB, the guest-physical space that a VM can have at most.
pub const MAX_MEMFD: u64 = 1 << 44;

/// Longest text of a refusal or a cause, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512;

/// Pages of the status memfd that a process can be given.
pub const MAX_STATUS_SLOTS: u32 = 1024;

/// Slot of a process that has no page of the status memfd.
pub const NO_STATUS_SLOT: u32 = u32::MAX;

/// The supervisor's own page of the status memfd.
pub const SUPERVISOR_STATUS_SLOT: u32 = 0;

/// Supervisors in a row that may end without having said [`Request::Serving`] before the keeper gives up the VM.
pub const MAX_FRUITLESS_STARTS: u32 = 5;

/// Exit statuses of a keeper beyond those that [`Request::Exit`] gives. Even, since odd ones are the guest's own.
pub mod exit_status {
    /// The launcher's messages were not a start: see the log.
    pub const BAD_START: u8 = 64;
    /// Too many supervisors in a row ended without having said `Serving`.
    pub const GAVE_UP: u8 = 66;
    /// The VM ran in the foreground and its launcher is gone.
    pub const LAUNCHER_GONE: u8 = 68;
    /// The keeper was sent SIGTERM.
    pub const TERMINATED: u8 = 70;
    /// The keeper itself cannot go on.
    pub const BROKEN: u8 = 72;
}

/// Number of a descriptor that the keeper holds; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldId(pub u64);

/// Number of a process that the keeper has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

impl std::fmt::Display for HeldId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "descriptor {}", self.0)
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.0)
    }
}
