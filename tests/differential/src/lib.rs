//! x86 against the CPU that this runs on.

pub mod build;
pub mod bus;
pub mod case;
pub mod compare;
pub mod exclusions;
pub mod features;
pub mod forms;
pub mod guest;
pub mod host;
pub mod mutants;
pub mod random;
pub mod rng;
pub mod rules;
pub mod run;
pub mod tune;
