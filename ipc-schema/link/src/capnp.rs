//! Cap'n Proto messages on a link: the flat encoding (segment table, then segments), one message to a datagram.
//!
//! What is read is bounded three times: by the datagram (64 KiB), by the traversal limit (a message that points at one
//! place many times does not become work without end) and by the nesting limit (nor recursion without end).

use ::capnp::{
    OutputSegments,
    message::{Allocator, Builder, Reader, ReaderOptions, ScratchSpaceHeapAllocator},
    serialize::{self, NoAllocSliceSegments},
};
use std::os::fd::{BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

use crate::{Deadline, Inbox, Link, LinkError, MAX_MESSAGE, Peer, Received, Sent};

/// How much of one message a reader may visit, in words of 8 bytes: sixteen times the longest message, since visiting
/// a part twice counts twice.
pub const TRAVERSAL_WORDS: usize = 16 * MAX_MESSAGE / 8;

/// How deeply structs and lists may nest.
pub const NESTING: i32 = 24;

/// Segments of a message. A builder that starts with a [`Scratch`] makes one or two.
const MAX_SEGMENTS: usize = 32;

/// A reader over the bytes of an [`Inbox`] or a buffer of the caller.
pub type MessageReader<'a> = Reader<NoAllocSliceSegments<'a>>;

/// A received message.
pub struct Incoming<'a> {
    /// Its root is had by `reader.get_root::<islet_capnp::to_islet::Reader>()`.
    pub reader: MessageReader<'a>,
    /// What came with it, close-on-exec, in the sender's order. What is left in here is closed by the next receive.
    pub descriptors: &'a mut Vec<OwnedFd>,
}

/// The options of every reader of a message that another process sent.
#[must_use]
pub fn reader_options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(TRAVERSAL_WORDS)).nesting_limit(NESTING);
    options
}

/// Memory in which messages are built, allocated once.
pub struct Scratch {
    words: Vec<u64>,
}

impl Scratch {
    /// Room for a message of `bytes`; a longer one takes more memory from the allocator and is as good.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { words: vec![0; bytes.min(MAX_MESSAGE).div_ceil(8)] }
    }

    /// An empty message whose first segment is this memory. Zeroes it all, so do not make it larger than messages are.
    pub fn builder(&mut self) -> Builder<ScratchSpaceHeapAllocator<'_>> {
        Builder::new(ScratchSpaceHeapAllocator::new(self.words.as_mut_bytes()))
    }
}

/// Sends a message and its descriptors, without copying it together first.
///
/// # Errors
/// As [`Link::send`]; [`LinkError::Length`] also for a message of more than 32 segments.
pub fn send_message<A: Allocator>(
    link: &Link,
    message: &Builder<A>,
    descriptors: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<(), LinkError> {
    with_parts(link.peer(), message, |parts| link.send_parts(parts, descriptors, deadline))
}

/// As [`send_message`], but returns at once.
///
/// # Errors
/// As [`send_message`], without the deadline.
pub fn try_send_message<A: Allocator>(
    link: &Link,
    message: &Builder<A>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Sent, LinkError> {
    with_parts(link.peer(), message, |parts| link.try_send_parts(parts, descriptors))
}

/// The bytes of a message, for the keeper to send on (`Spawn`, `SendTo`) or to be kept.
///
/// # Errors
/// [`LinkError::Length`] when it is longer than [`MAX_MESSAGE`]; `peer` is named in it.
pub fn encode<A: Allocator>(message: &Builder<A>, peer: &Peer) -> Result<Vec<u8>, LinkError> {
    with_parts(peer, message, |parts| {
        let bytes = parts.concat();
        match bytes.len() {
            0..=MAX_MESSAGE => Ok(bytes),
            bytes => Err(LinkError::Length { peer: peer.clone(), bytes }),
        }
    })
}

/// Receives a message.
///
/// # Errors
/// As [`Link::recv`], and [`LinkError::Malformed`] when it is not exactly one Cap'n Proto message.
pub fn recv_message<'a>(link: &Link, inbox: &'a mut Inbox, deadline: Deadline) -> Result<Incoming<'a>, LinkError> {
    incoming(link.peer(), link.recv_into(inbox, deadline)?)
}

/// As [`recv_message`], but returns `None` at once where there is no message.
///
/// # Errors
/// As [`recv_message`], without the deadline.
pub fn try_recv_message<'a>(link: &Link, inbox: &'a mut Inbox) -> Result<Option<Incoming<'a>>, LinkError> {
    link.try_recv_into(inbox)?.map(|received| incoming(link.peer(), received)).transpose()
}

/// Reads bytes that hold exactly one message. They must be aligned to 8, as those of an [`Inbox`] are.
///
/// # Errors
/// [`LinkError::Malformed`], which names `peer`.
pub fn decode<'a>(bytes: &'a [u8], peer: &Peer) -> Result<MessageReader<'a>, LinkError> {
    let malformed = |why: String| LinkError::Malformed { peer: peer.clone(), why };
    let mut rest = bytes;
    let reader = serialize::read_message_from_flat_slice_no_alloc(&mut rest, reader_options())
        .map_err(|error| malformed(error.to_string()))?;
    if rest.is_empty() { Ok(reader) } else { Err(malformed(format!("{} bytes after its end", rest.len()))) }
}

fn incoming<'a>(peer: &Peer, received: Received<'a>) -> Result<Incoming<'a>, LinkError> {
    let Received { bytes, descriptors } = received;
    match decode(bytes, peer) {
        Ok(reader) => Ok(Incoming { reader, descriptors }),
        Err(error) => {
            descriptors.clear();
            Err(error)
        }
    }
}

/// Calls `send` with the segment table and the segments of a message.
fn with_parts<A: Allocator, T>(
    peer: &Peer,
    message: &Builder<A>,
    send: impl FnOnce(&[&[u8]]) -> Result<T, LinkError>,
) -> Result<T, LinkError> {
    let segments = message.get_segments_for_output();
    let segments: &[&[u8]] = match &segments {
        OutputSegments::SingleSegment(one) => one,
        OutputSegments::MultiSegment(many) => many,
    };
    let too_long = || LinkError::Length { peer: peer.clone(), bytes: segments.iter().map(|s| s.len()).sum() };
    if segments.is_empty() || segments.len() > MAX_SEGMENTS {
        return Err(too_long());
    }
    // The encoding (capnproto.org/encoding.html, "Serialization Over a Stream"): number of segments minus one, each
    // segment's length in words, padding to a multiple of 8 bytes, the segments.
    let mut table = [0_u32; MAX_SEGMENTS + 2];
    let mut parts: [&[u8]; MAX_SEGMENTS + 1] = [&[]; MAX_SEGMENTS + 1];
    let fields = std::iter::once(segments.len() - 1).chain(segments.iter().map(|segment| segment.len() / 8));
    for (slot, value) in table.iter_mut().zip(fields) {
        *slot = u32::try_from(value).map_err(|_| too_long())?.to_le();
    }
    let table_fields = (segments.len() + 1).next_multiple_of(2);
    let table = table.get(..table_fields).unwrap_or_default().as_bytes();
    for (part, bytes) in parts.iter_mut().zip(std::iter::once(table).chain(segments.iter().copied())) {
        *part = bytes;
    }
    send(parts.get(..=segments.len()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
