//! The board of an x86 machine: what a PC's chipset does, as a process.
//!
//! The one idea: each chip is a state machine without I/O in a file of its own; [`chipset`] wires them.

pub mod calendar;
pub mod chipset;
pub mod control;
pub mod field;
pub mod ioapic;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod reset;
pub mod rtc;
pub mod saved;
pub mod serve;
pub mod time;
