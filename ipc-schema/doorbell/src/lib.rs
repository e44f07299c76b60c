//! Doorbells and register windows: how a vCPU reaches a device process, and how the device answers exactly once.
//!
//! All of it lies in one memfd, `windows` (see [`layout`] for every offset): a header that the engine and the board
//! share, and one area per device. Three ideas carry the crate.
//!
//! * **Avoid the round trip.** A write that need not be waited for is *posted* into a ring; a register that can be read
//!   without the device is a *shadow*; a free-running timer is a *formula*. What each register is, is data
//!   ([`WindowDesc`]); [`Bus`] is the engine's side that follows it and counts the trips that remain.
//! * **A kill is not an event for the guest.** A device keeps its state in two copies and one commit word
//!   ([`Committed`]), and with it the answers that it gave; its successor repeats answers and never effects
//!   ([`Server`]). Bytes move to and from a console by system calls whose result the kernel writes into the same
//!   shared memory ([`OutStream`], [`InStream`]).
//! * **Nobody waits for a dead writer.** Rows that several processes read are double-buffered ([`Flip`]), so a writer that
//!   dies in the middle leaves the old value, not a lock.
//!
//! Who maps what: a device maps its own area and, read-only, the header's clock pages; the board also the pages that
//! it shares with the engine; the engine everything ([`Role`]).

mod area;
pub mod board;
mod bus;
mod client;
mod committed;
mod error;
mod eventfd;
#[cfg(test)]
mod fault;
mod flip;
mod formula;
mod header;
pub mod layout;
mod server;
mod slot;
mod stream;
#[cfg(test)]
mod tests;
pub mod uart;
mod window;

pub use area::DeviceArea;
pub use bus::{Bus, INDEX_BITS as PCI_ADDRESS_BITS, RegisterCount, Window};
pub use client::{DeviceClient, SpinPolicy, Unanswered};
pub use committed::{Committed, Plain};
pub use error::{Error, Result};
pub use eventfd::EventFd;
pub use flip::Flip;
pub use formula::{Direction, Formula};
pub use header::{ClockState, Header, Role, Route, create_windows, monotonic_ns};
pub use server::{Answer, Device, Served, Server};
pub use slot::{Access, Attributes, Operation, Space};
pub use stream::{InStream, OutStream, Progress};
pub use window::{Behaviour, ReadRule, WindowDesc, WindowKind, WriteRule};

/// A place where a process may die. In tests, the place where it does; otherwise nothing.
#[inline(always)]
fn may_die_here() {
    #[cfg(test)]
    fault::point();
}
