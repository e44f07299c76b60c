//! T1, the one-pass emitter: from lifted blocks to host code, and the running of it.
//!
//! | file | owns |
//! |---|---|
//! | `asm` | the encoder |
//! | `features` | which instruction sets of the host are used |
//! | `layout` | which guest word is in which host register, private words |
//! | `stubs` | the shared routines: into and out of emitted code, single operations, indirect jumps |
//! | `emit`, `vector` | operations to instructions: `emit` the block, and below it operands, memory, arithmetic, control, recipes for flags, groups of accesses, and registers of hot blocks |
//! | `mutants` | planted bugs that tests must find |
//! | `run` | code memory and its parts, linking, the jump cache, what is hot, and one stay in emitted code |
//! | `budget` | how long such a stay may last, and how others end it |
//! | `returns` | where calls went out, for returns |
//! | `memo` | what single accesses of hot blocks remember of their page |
//!
//! The page `docs/translator.md` says how it fits together.

pub mod asm;
mod budget;
mod emit;
mod features;
mod layout;
mod memo;
#[cfg(any(test, feature = "mutants"))]
pub mod mutants;
#[cfg(not(any(test, feature = "mutants")))]
mod mutants;
mod returns;
mod run;
mod stubs;
#[cfg(test)]
mod tests;
mod vector;

pub use budget::Budget;
pub use run::{Exit, Host, Kind, Left, Loop, Placed, Stats, T1};
