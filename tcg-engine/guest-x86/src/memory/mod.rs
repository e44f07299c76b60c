//! From a guest address to bytes: segmentation, paging, and the accesses of lifted code and of the CPU itself.

mod access;
mod bulk;
mod env;
mod misses;
mod segment;
mod system;
mod walk;

pub(crate) use access::Target;
pub(crate) use mem::Access as Right;
pub(crate) use misses::{Miss, Misses};
pub(crate) use segment::within;

/// The [`ir::MemRef::space`] of a flat access: the address is linear.
pub const FLAT: u8 = 0;

/// The [`ir::MemRef::space`] of an access through a segment register, with all its checks: the address is an offset.
pub const fn space(s: crate::state::Seg) -> u8 {
    s as u8 + 1
}
