//! The supervisor: what a VM's processes do when, and what follows when one of them ends.
//!
//! The one idea: [`core`] decides and does nothing else. It takes what happened and says what to do, without I/O and
//! without a clock, so that tests can enumerate an exit of every process, and of the supervisor itself, at every step. The
//! rest carries out: [`log`] and [`journal`] keep what a successor needs in memory that the keeper holds, [`plan`] is who
//! gets which descriptor as data, [`timers`] what has run out, [`messages`] reads and writes what travels to and from islets, and the binary is the loop.

pub mod config;
pub mod core;
pub mod journal;
pub mod log;
pub mod messages;
pub mod plan;
pub mod timers;
