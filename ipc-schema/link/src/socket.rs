//! The socket: one owned descriptor, whole messages, and the details of SEQPACKET that a caller must not have to know.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
    },
};
use zerocopy::IntoBytes;

use crate::{Deadline, LinkError, MAX_DESCRIPTORS, MAX_MESSAGE, Peer};

/// Bytes of control message that hold [`MAX_DESCRIPTORS`].
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Pieces that one message may be gathered from: a segment table, and as many segments as a builder makes of 64 KiB.
const MAX_PARTS: usize = 64;

/// One message, in memory of its own.
#[derive(Debug)]
pub struct Message {
    /// 1 to [`MAX_MESSAGE`] bytes.
    pub bytes: Vec<u8>,
    /// What came with it, close-on-exec, in the sender's order.
    pub descriptors: Vec<OwnedFd>,
}

/// One message in the memory of an [`Inbox`].
#[derive(Debug)]
pub struct Received<'a> {
    /// 1 to [`MAX_MESSAGE`] bytes, aligned to 8.
    pub bytes: &'a [u8],
    /// What came with it, close-on-exec, in the sender's order. What is left in here is closed by the next receive.
    pub descriptors: &'a mut Vec<OwnedFd>,
}

/// Buffers for receiving, allocated once: after that a receive allocates nothing.
pub struct Inbox {
    words: Vec<u64>,
    control: Box<[MaybeUninit<u8>]>,
    descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// Allocates about 66 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            words: vec![0; MAX_MESSAGE / size_of::<u64>()],
            control: vec![MaybeUninit::uninit(); CONTROL_BYTES].into_boxed_slice(),
            descriptors: Vec::with_capacity(MAX_DESCRIPTORS),
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("descriptors", &self.descriptors.len()).finish_non_exhaustive()
    }
}

/// What [`Link::try_send`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The message is in the peer's queue.
    Sent,
    /// The queue is full: try again when the descriptor is writable.
    Full,
}

/// One end of a SEQPACKET socket pair. Closing it (drop) is what the peer sees as the end.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    peer: Peer,
}

impl Link {
    /// Both ends of a new socket pair, close-on-exec.
    ///
    /// # Errors
    /// [`LinkError::Os`] when the process may not open more descriptors.
    pub fn pair(left: Peer, right: Peer) -> Result<(Self, Self), LinkError> {
        match socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None) {
            // The holder of an end sees the other end's owner as its peer.
            Ok((a, b)) => Ok((Self { socket: a, peer: right }, Self { socket: b, peer: left })),
            Err(errno) => Err(LinkError::Os { peer: right, call: "socketpair", source: errno.into() }),
        }
    }

    /// A link over a descriptor that came from somewhere else.
    ///
    /// # Errors
    /// [`LinkError::NotALink`] when it is not a SEQPACKET socket.
    pub fn new(socket: OwnedFd, peer: Peer) -> Result<Self, LinkError> {
        let not = |why: String, peer| LinkError::NotALink { number: socket.as_raw_fd(), peer, why };
        match sockopt::socket_type(&socket) {
            Ok(kind) if kind == SocketType::SEQPACKET => Ok(Self { socket, peer }),
            Ok(_) => Err(not("it is a socket of another type than SEQPACKET".into(), peer)),
            Err(errno) => Err(not(errno.to_string(), peer)),
        }
    }

    /// A link over a descriptor that this process was started with, such as 3. Call it first thing in `main`: the link
    /// takes the number over and closes it (it goes on with a close-on-exec copy), whoever else may think to own it.
    ///
    /// An owned descriptor out of a number needs `unsafe`, except that the kernel hands one out with a message: so the
    /// number is sent through a socket pair of this process. System calls: `socketpair`, `sendmsg`, `recvmsg`, `close`;
    /// so before lock-down.
    ///
    /// # Errors
    /// [`LinkError::NotALink`] when there is no such descriptor or it is something else.
    pub fn inherited(number: RawFd, peer: Peer) -> Result<Self, LinkError> {
        match inherited_descriptor(number) {
            Ok(socket) => Self::new(socket, peer),
            Err(error) => Err(LinkError::NotALink { number, peer, why: error.to_string() }),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Names the other end, once it has said who it is.
    pub fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
    }

    /// Gives the descriptor back.
    #[must_use]
    pub fn into_inner(self) -> OwnedFd {
        self.socket
    }

    /// Sends one message of 1 to [`MAX_MESSAGE`] bytes and up to [`MAX_DESCRIPTORS`] descriptors, waiting while the
    /// peer's queue is full.
    ///
    /// # Errors
    /// [`LinkError::PeerGone`], [`LinkError::Deadline`], [`LinkError::Length`], [`LinkError::Descriptors`], [`LinkError::Os`]
    /// (`ETOOMANYREFS` when too many descriptors are under way). In each case nothing was sent.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), LinkError> {
        self.send_parts(&[bytes], descriptors, deadline)
    }

    /// As [`Self::send`], with the message gathered from at most 64 pieces.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_parts(
        &self,
        parts: &[&[u8]],
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        while self.try_send_parts(parts, descriptors)? == Sent::Full {
            self.wait(PollFlags::OUT, deadline, "take a message")?;
        }
        Ok(())
    }

    /// As [`Self::send`], but returns at once.
    ///
    /// # Errors
    /// As [`Self::send`] without the deadline.
    pub fn try_send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Sent, LinkError> {
        self.try_send_parts(&[bytes], descriptors)
    }

    /// As [`Self::send_parts`], but returns at once.
    ///
    /// # Errors
    /// As [`Self::send`] without the deadline.
    pub fn try_send_parts(&self, parts: &[&[u8]], descriptors: &[BorrowedFd<'_>]) -> Result<Sent, LinkError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        // An empty datagram cannot be told from the end of the peer.
        if bytes == 0 || bytes > MAX_MESSAGE || parts.len() > MAX_PARTS {
            return Err(LinkError::Length { peer: self.peer.clone(), bytes });
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(LinkError::Descriptors { peer: self.peer.clone(), count: descriptors.len() });
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let slices = slices.get(..parts.len()).unwrap_or_default();
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        loop {
            return match sendmsg(&self.socket, slices, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => Ok(Sent::Sent),
                Err(Errno::AGAIN) => Ok(Sent::Full),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(self.gone()),
                Err(errno) => Err(self.os("sendmsg", errno)),
            };
        }
    }

    /// Receives one message into memory of its own.
    ///
    /// # Errors
    /// [`LinkError::PeerGone`], [`LinkError::Deadline`], [`LinkError::Truncated`], [`LinkError::Os`].
    pub fn recv(&self, deadline: Deadline) -> Result<Message, LinkError> {
        let mut inbox = Inbox::new();
        let bytes = self.recv_into(&mut inbox, deadline)?.bytes.to_vec();
        Ok(Message { bytes, descriptors: inbox.descriptors })
    }

    /// Receives one message into `inbox`.
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub fn recv_into<'a>(&self, inbox: &'a mut Inbox, deadline: Deadline) -> Result<Received<'a>, LinkError> {
        loop {
            if let Some(length) = self.receive(inbox)? {
                return Ok(inbox.received(length));
            }
            self.wait(PollFlags::IN, deadline, "answer")?;
        }
    }

    /// As [`Self::recv_into`], but returns `None` at once where there is no message.
    ///
    /// # Errors
    /// As [`Self::recv`] without the deadline.
    pub fn try_recv_into<'a>(&self, inbox: &'a mut Inbox) -> Result<Option<Received<'a>>, LinkError> {
        Ok(self.receive(inbox)?.map(|length| inbox.received(length)))
    }

    /// One `recvmsg` that does not wait: the length of the message, or `None` where there is none.
    fn receive(&self, inbox: &mut Inbox) -> Result<Option<usize>, LinkError> {
        inbox.descriptors.clear();
        // When the peer closes with unread messages of ours, the kernel reports ECONNRESET once, *before* the
        // messages that the peer had sent. They are still there and count, so look again.
        let mut resets = 0;
        let (bytes, flags) = loop {
            let mut control = RecvAncillaryBuffer::new(&mut inbox.control);
            let mut slices = [IoSliceMut::new(inbox.words.as_mut_bytes())];
            let received =
                recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT);
            match received {
                Ok(message) => {
                    for item in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = item {
                            inbox.descriptors.extend(rights);
                        }
                    }
                    break (message.bytes, message.flags);
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) if resets < 2 => resets += 1,
                Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(self.gone()),
                Err(errno) => return Err(self.os("recvmsg", errno)),
            }
        };
        let what = if flags.contains(ReturnFlags::CTRUNC) {
            "its descriptors do not fit (more than 200, or the limit of open files is reached)"
        } else if flags.contains(ReturnFlags::TRUNC) {
            "it is longer than 64 KiB"
        } else if bytes == 0 {
            inbox.descriptors.clear();
            return Err(self.gone());
        } else {
            return Ok(Some(bytes));
        };
        inbox.descriptors.clear();
        Err(LinkError::Truncated { peer: self.peer.clone(), what })
    }

    /// Waits until the socket is ready (or hung up, which the next call then reports) or the deadline has passed.
    fn wait(&self, flags: PollFlags, deadline: Deadline, verb: &'static str) -> Result<(), LinkError> {
        loop {
            let left = deadline.left();
            match poll(&mut [PollFd::new(&self.socket, flags)], left.as_ref()) {
                Ok(0) if deadline.passed() => return Err(LinkError::Deadline { peer: self.peer.clone(), verb }),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(self.os("ppoll", errno)),
            }
        }
    }

    fn gone(&self) -> LinkError {
        LinkError::PeerGone { peer: self.peer.clone() }
    }

    fn os(&self, call: &'static str, errno: Errno) -> LinkError {
        LinkError::Os { peer: self.peer.clone(), call, source: errno.into() }
    }
}

/// Takes over descriptor `number` of this process: see [`Link::inherited`].
///
/// # Errors
/// There is no such descriptor, or no more can be opened.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    let (from, to) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let rights = [number];
    nix::sys::socket::sendmsg::<()>(
        from.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[nix::sys::socket::ControlMessage::ScmRights(&rights)],
        nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
    let copy = control.drain().find_map(|item| match item {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    let copy = copy.ok_or_else(|| io::Error::other("no more descriptors can be opened"))?;
    nix::unistd::close(number)?;
    Ok(copy)
}

impl Inbox {
    fn received(&mut self, length: usize) -> Received<'_> {
        let bytes = self.words.as_bytes();
        Received { bytes: bytes.get(..length).unwrap_or(bytes), descriptors: &mut self.descriptors }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
