//! What sits beside a vCPU: the local APIC and the way interrupts reach it.
//!
//! Pure state: no threads, no clock, no I/O. Each local APIC belongs to its vCPU's thread alone; everybody else (other vCPUs,
//! the interrupt thread) leaves word in its [`inbox::Inbox`], lock-free, and the owner takes it in at a safepoint. Source:
//! Intel SDM volume 3A, chapter "Advanced Programmable Interrupt Controller".

pub mod inbox;
pub mod lapic;
pub mod message;

pub use inbox::Inbox;
pub use lapic::{Action, BadState, Gp, Lapic, Saved};
pub use message::{Delivery, Destination, Message};
