//! What can go wrong on a link, and with whom.

use std::{fmt, io, sync::Arc};

use crate::{MAX_DESCRIPTORS, MAX_MESSAGE};

/// Who is at the other end: a process of this VM and which of its starts. Prints as `serial0[3]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    name: Arc<str>,
    incarnation: u32,
}

impl Peer {
    /// A peer by name and incarnation; 0 where there is none, as for the launcher.
    #[must_use]
    pub fn new(name: &str, incarnation: u32) -> Self {
        Self { name: Arc::from(name), incarnation }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its start.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.incarnation)
    }
}

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer's end of the socket is closed: it exited, or let go of the link.
    #[error("{peer} is gone: its end of the link is closed")]
    PeerGone {
        /// Who.
        peer: Peer,
    },
    /// The deadline passed. The rule for a peer that owes an answer is kill -9, then the exit path.
    #[error("{peer} did not {verb} in time")]
    Deadline {
        /// Who.
        peer: Peer,
        /// What it should have done: "answer" for a receive, "take a message" for a send.
        verb: &'static str,
    },
    /// The caller's message is empty or longer than [`MAX_MESSAGE`]; nothing was sent.
    #[error("a message to {peer} has {bytes} bytes; 1 to {MAX_MESSAGE} can be sent, more goes through a memfd")]
    Length {
        /// To whom.
        peer: Peer,
        /// Its length.
        bytes: usize,
    },
    /// The caller's message has more than [`MAX_DESCRIPTORS`] descriptors; nothing was sent.
    #[error("a message to {peer} has {count} descriptors; at most {MAX_DESCRIPTORS} can be sent")]
    Descriptors {
        /// To whom.
        peer: Peer,
        /// How many.
        count: usize,
    },
    /// The peer sent more bytes or descriptors than a message may have, or more descriptors than this process may
    /// open. What came was dropped and its descriptors closed.
    #[error("a message from {peer} was cut off: {what}")]
    Truncated {
        /// From whom.
        peer: Peer,
        /// What did not fit.
        what: &'static str,
    },
    /// The peer sent bytes that are not one Cap'n Proto message.
    #[error("a message from {peer} is malformed: {why}")]
    Malformed {
        /// From whom.
        peer: Peer,
        /// The decoder's words.
        why: String,
    },
    /// The descriptor is not a SEQPACKET socket, or cannot be had.
    #[error("descriptor {number} of {peer} cannot be used as a link: {why}")]
    NotALink {
        /// For whom.
        peer: Peer,
        /// Its number.
        number: i32,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refused.
    #[error("{call} on the link to {peer} failed: {source}")]
    Os {
        /// With whom.
        peer: Peer,
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl LinkError {
    /// True for [`Self::PeerGone`], after which nothing more will come.
    #[must_use]
    pub const fn is_peer_gone(&self) -> bool {
        matches!(self, Self::PeerGone { .. })
    }

    /// True for [`Self::Deadline`].
    #[must_use]
    pub const fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}
