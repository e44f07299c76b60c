//! The audit of a whole running VM: every process and every thread of it against what the design says it is.
//!
//! The idea: what a process may do is written down twice, once where it is made (the profiles, the supervisor's plan, each
//! process's maps) and once here, as the design's table; the kernel says what is really there. The comparison itself is
//! `profile::audit`, which the sandbox's own tests use as well.
//!
//! | file | owns |
//! |---|---|
//! | `manifest` | the table: descriptors, maps, threads, budget of each process |
//! | `vm` | the processes of a running VM and every fact about them |
//! | `filter` | what a dumped filter lets through, call by call, without a look at how profiles are compiled |
//! | `bin/loose-serial` | a serial port that has one thing wrong with it |

pub mod filter;
pub mod manifest;
pub mod vm;
