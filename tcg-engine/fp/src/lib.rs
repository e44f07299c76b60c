//! Floating point for the translator's interpreter tier.
//!
//! Two ways to the same bits. Where the guest's unit is also the host's (`sse`, `x87`: an x86 guest on an x86 host), an
//! operation *is* the host instruction, executed under the guest's own control word, so results, NaNs, approximations and
//! status flags are exact by construction. Everywhere else `soft` computes with integers and takes what differs between
//! architectures (NaN choice, tininess, rounding modes, flushing) as data.
//!
//! Nothing here keeps state: control word in, value and raised flags out. The host's own control words are restored before
//! every return.

pub mod soft;
#[cfg(target_arch = "x86_64")]
pub mod sse;
#[cfg(target_arch = "x86_64")]
pub mod x87;
