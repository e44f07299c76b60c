//! x86 against the CPU that this runs on.

pub mod case;
pub mod host;
pub mod rng;
