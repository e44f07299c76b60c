//! Guest memory: the memfds of a VM, mapped once, and bounds-checked access to what other processes write meanwhile.
//!
//! Everything here is about memory that is shared with processes which may be hostile or dead. Hence three rules: a
//! mapping is made by raw pointer and checked against its descriptor (size, seals) once, so that the descriptor can be
//! closed before lock-down; every access is checked against the mapping's length and answers `None` instead of
//! touching anything outside; and every access is one host instruction whose behaviour under races the host's
//! architecture defines, not the Rust memory model (see `host_x64`).
//!
//! * [`Memfd`]: makes the memfds, sealed against shrinking.
//! * [`Ram`]: the whole RAM memfd of a VM; file offset = guest-physical address − start of RAM.
//! * [`Arrangement`]: its pages once more, in any order.
//! * [`Layout`]: which guest-physical ranges are RAM, ROM, device memory or storage keys, and where in the file.
//! * [`DirtyLog`]: the `dirty` memfd: the vhost-compatible bitmap `D`, code pages, `B`, the write barrier, the acks, and the
//!   harvest handshake ([`harvest`]) over them; stale pages, and how their code goes ([`stale`]).
//! * [`SharedMap`]: a typed window on any other memfd (register windows, status pages).

mod arrangement;
mod dirty;
mod error;
pub mod futex;
pub mod harvest;
mod host_x64;
mod layout;
mod mapping;
mod memfd;
#[cfg(any(test, feature = "mutants"))]
pub mod mutants;
#[cfg(not(any(test, feature = "mutants")))]
mod mutants;
mod ram;
pub mod stale;

pub use arrangement::Arrangement;
pub use dirty::{DirtyLayout, DirtyLog};
pub use error::{Error, Result};
pub use harvest::{Silent, VcpuEnd, VcpuState};
pub use host_x64::Word;
pub use layout::{Kind, Layout, PC_HOLE_END, PC_HOLE_START, Region};
pub use mapping::{Shared, SharedMap};
pub use memfd::{Memfd, PAGE_SIZE, sealed_against_shrinking};
pub use ram::Ram;
pub use stale::Unheard;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; every store answers `None`. The pages are mapped without write permission.
    ReadOnly,
    /// Loads, stores and atomic operations.
    ReadWrite,
}
