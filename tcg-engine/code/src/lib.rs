//! The block cache of one vCPU: lifted blocks by where their bytes lie, how they are found again quickly, and how they go
//! when the bytes change.
//!
//! The one idea: a block belongs to bytes of RAM (so that a store, another vCPU's or a device's, can find it by page), and is
//! looked up through a small direct-mapped *jump cache* keyed by linear address and translation context, which is only a
//! hint: whatever it cannot prove is looked up by RAM offset.

mod cache;
mod memory;

pub use cache::{Cache, EPOCHS, FastHash, Found, Id, Key, Limits, Stats};
pub use memory::{CodeMemory, Error};
