//! What every vCPU's memory accesses go through: guest-physical memory with its marks ([`Memory`]), the software TLB
//! ([`Tlb`]), runs of pages that need no lookups ([`Mirror`]), and which pages hold whose translated code ([`CodePages`]).
//!
//! The one idea: a TLB hit is one compare, one add and one bounds-checked access; everything special — a device, a page
//! not marked dirty, a page with translated code, an access across pages — is a tag that does not match. This crate knows no
//! guest architecture: front ends walk their tables and say what to install.

mod chunks;
mod code_pages;
mod memory;
mod mirror;
pub mod tlb;

pub use chunks::{CHUNK, Chunks};
pub use code_pages::{CodePages, Vcpus};
pub use memory::{Memory, Place};
pub use mirror::{MIRROR, Mirror, Run};
pub use tlb::{Access, Bank, Fill, PageSize, Tlb};

/// Size of a page of the TLB and of the dirty and code marks, bytes.
pub const PAGE: u64 = 4096;
/// Mask of the offset within a page.
pub const PAGE_MASK: u64 = PAGE - 1;
