//! Messages with descriptors between two processes of a VM: one datagram on a SEQPACKET socket pair is one message.
//!
//! The one idea: everything that can go wrong between two processes is a value here. Every call has a deadline, lengths
//! and descriptor counts are bounded before they are used, and the end of the peer is [`LinkError::PeerGone`] with the
//! peer's name and incarnation. There are no threads and no async runtime, so a link works in an islet after lock-down
//! (system calls: `sendmsg`, `recvmsg`, `ppoll`, `close`, and `clock_gettime` by vDSO) and, by [`Link::try_recv_into`],
//! [`Link::try_send`] and [`std::os::fd::AsFd`], in any event loop: with tokio, put it into an `AsyncFd` and, when that is
//! readable, receive until `None` before clearing its readiness.
//!
//! Limits are those of `design/shared-memory.md`: [`MAX_MESSAGE`] bytes and [`MAX_DESCRIPTORS`] descriptors in a message;
//! bulk data goes through a memfd.

mod deadline;
mod error;
mod socket;

#[cfg(feature = "capnp")]
pub mod capnp;

pub use deadline::Deadline;
pub use error::{LinkError, Peer};
pub use socket::{Inbox, Link, Message, Received, Sent, inherited_descriptor};

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most descriptors in one message. The kernel's own bound is 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 200;
