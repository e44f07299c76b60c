//! Faults planted into the processes of whole VMs, where and when a seed says.
//!
//! The idea: what should happen is a table of the supervisor's core, `supervisor::core::faults`, and this crate makes it happen.
//! A tracer counts the system calls of one process while the VM is at something, and plants the fault at the n-th: so a run
//! can be repeated from its seed, and every point of a sequence can be hit.
//!
//! | file | owns |
//! |---|---|
//! | `tracer` | counting system calls of one process, and stopping at one |
//! | `plant` | what a fault is in a stopped thread |
//! | `vm` | the VM: bringing it to a moment, that moment, and what became of it |
//! | `campaign` | which runs there are, and whether each ended as the table says |
//!
//! Functions here panic when what they were asked for does not happen: they are a test's assertions.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are the assertions of tests")]

pub mod campaign;
pub mod plant;
pub mod tracer;
pub mod vm;
