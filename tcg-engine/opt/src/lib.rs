//! What the second tier finds out about hot code: pure functions from lifted blocks to plans, which an emitter follows or does not.
//!
//! The idea: finding out takes longer than one pass of an emitter may take, and depends on nothing but the operations. So it is done
//! on a thread of its own, while the block runs as the first tier has emitted it, and a plan is only ever knowledge: which addresses
//! a loop will go to, and how they change from round to round. That it is true, the interpreter shows (the tests of this crate).

mod rounds;
#[cfg(test)]
mod tests;
mod values;

pub use rounds::{Access, Group, Rounds, access, leads_back};
pub use values::{Value, Values};
