//! The header of every message, the numbers of the kinds, and the one reader that checks lengths.
//!
//! | offset | bytes | header field |
//! |---|---|---|
//! | 0 | 4 | magic `ATK1` |
//! | 4 | 2 | kind ([`MessageKind`]) |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the message with this header, in bytes |
//! | 12 | 4 | incarnation of the supervisor that sends it or is meant; 0 on the launcher's link |
//! | 16 | 8 | id of the request; a reply repeats it; 0 where there is none |
//!
//! All numbers are little-endian and nothing is aligned.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::{NameError, name::NAME_BYTES};

/// First bytes of every message.
pub const MAGIC: [u8; 4] = *b"ATK1";

/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;

/// The kinds of messages. Numbers below 16 belong to the launcher's link, those from 64 on come from the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[expect(missing_docs, reason = "each is documented where its content is")]
pub enum MessageKind {
    Begin = 1,
    LauncherHold = 2,
    Go = 3,
    LauncherAnswer = 4,

    MakeMemfd = 16,
    MakeEventfd = 17,
    MakeSocketpair = 18,
    Hold = 19,
    Get = 20,
    Release = 21,
    Spawn = 22,
    Kill = 23,
    SendTo = 24,
    List = 25,
    SetStatus = 26,
    Acknowledge = 27,
    Serving = 28,
    Exit = 29,

    Hello = 64,
    HeldTable = 65,
    ProcessTable = 66,
    Exited = 67,
    Reply = 68,
    Refusal = 69,
}

impl MessageKind {
    const ALL: [Self; 24] = [
        Self::Begin,
        Self::LauncherHold,
        Self::Go,
        Self::LauncherAnswer,
        Self::MakeMemfd,
        Self::MakeEventfd,
        Self::MakeSocketpair,
        Self::Hold,
        Self::Get,
        Self::Release,
        Self::Spawn,
        Self::Kill,
        Self::SendTo,
        Self::List,
        Self::SetStatus,
        Self::Acknowledge,
        Self::Serving,
        Self::Exit,
        Self::Hello,
        Self::HeldTable,
        Self::ProcessTable,
        Self::Exited,
        Self::Reply,
        Self::Refusal,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Why bytes are not a message. The keeper answers it with a refusal and goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Too short for a header, another magic, a non-zero reserved field, or a length that is not the datagram's.
    #[error("not a message of this protocol: {0}")]
    Header(&'static str),
    /// A kind that this side does not know or that does not belong on this link.
    #[error("message kind {0} is not known here")]
    Kind(u16),
    /// The body is shorter or longer than its structure says.
    #[error("a {kind:?} message of {bytes} bytes does not have the length that its fields give")]
    Length {
        /// Which message.
        kind: MessageKind,
        /// Its length.
        bytes: usize,
    },
    /// A field has a value that it cannot have.
    #[error("field {field} of {kind:?} is {value}: {rule}")]
    Field {
        /// Which message.
        kind: MessageKind,
        /// Which field.
        field: &'static str,
        /// What it was.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// A name is not a name.
    #[error("field {field} of {kind:?}: {source}")]
    Name {
        /// Which message.
        kind: MessageKind,
        /// Which field.
        field: &'static str,
        /// The rule.
        source: NameError,
    },
    /// Another number of descriptors than the message must have.
    #[error("a {kind:?} message came with {came} descriptors and must have {must}")]
    Descriptors {
        /// Which message.
        kind: MessageKind,
        /// How many came.
        came: usize,
        /// How many it must have.
        must: usize,
    },
    /// What is to be sent is longer than a message may be.
    #[error("{what} of {count} is more than the {limit} that a {kind:?} message can have")]
    TooMuch {
        /// Which message.
        kind: MessageKind,
        /// Of what.
        what: &'static str,
        /// How much it was.
        count: usize,
        /// How much it may be.
        limit: usize,
    },
}

/// The header as it lies in the message.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    kind: U16,
    zero: U16,
    length: U32,
    incarnation: U32,
    id: U64,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(NAME_BYTES == 32);

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: MessageKind,
    /// Of the supervisor that sends it or is meant.
    pub incarnation: u32,
    /// Id of the request, or 0.
    pub id: u64,
}

impl Header {
    /// Reads the id of a message whose rest may be anything, so that even garbage gets its answer; 0 where there is none.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> u64 {
        RawHeader::read_from_prefix(bytes).map_or(0, |(raw, _)| raw.id.get())
    }

    /// Checks the header of a message.
    ///
    /// # Errors
    /// [`ProtocolError::Header`], [`ProtocolError::Kind`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, Body<'_>), ProtocolError> {
        let (raw, rest) =
            RawHeader::read_from_prefix(bytes).map_err(|_| ProtocolError::Header("shorter than its header"))?;
        if raw.magic != MAGIC {
            return Err(ProtocolError::Header("another magic number"));
        }
        if raw.zero.get() != 0 {
            return Err(ProtocolError::Header("a reserved field is not zero"));
        }
        if usize::try_from(raw.length.get()) != Ok(bytes.len()) {
            return Err(ProtocolError::Header("its length field is not the datagram's length"));
        }
        let kind = MessageKind::from_number(raw.kind.get()).ok_or(ProtocolError::Kind(raw.kind.get()))?;
        let header = Self { kind, incarnation: raw.incarnation.get(), id: raw.id.get() };
        Ok((header, Body { kind, total: bytes.len(), rest }))
    }

    /// Starts a message in `out`, whose content is replaced; [`finish`] completes it.
    pub(crate) fn begin(self, out: &mut Vec<u8>) {
        let raw = RawHeader {
            magic: MAGIC,
            kind: U16::new(self.kind as u16),
            zero: U16::ZERO,
            length: U32::ZERO,
            incarnation: U32::new(self.incarnation),
            id: U64::new(self.id),
        };
        out.clear();
        out.extend_from_slice(raw.as_bytes());
    }
}

/// Writes the length of a message that is complete, and checks it against the longest that a link carries.
pub(crate) fn finish(kind: MessageKind, out: &mut [u8]) -> Result<(), ProtocolError> {
    let length = out.len();
    let too_much = ProtocolError::TooMuch { kind, what: "a length in bytes", count: length, limit: link::MAX_MESSAGE };
    match (u32::try_from(length), out.get_mut(8..12)) {
        (Ok(value), Some(field)) if length <= link::MAX_MESSAGE => {
            field.copy_from_slice(&value.to_le_bytes());
            Ok(())
        }
        _ => Err(too_much),
    }
}

/// What follows the header, read from front to back; whatever is left over is an error.
#[derive(Debug)]
pub struct Body<'a> {
    kind: MessageKind,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    /// A structure of fixed layout.
    pub(crate) fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Result<&'a T, ProtocolError> {
        let (value, rest) = T::ref_from_prefix(self.rest).map_err(|_| self.length())?;
        self.rest = rest;
        Ok(value)
    }

    /// A counted list of such structures.
    pub(crate) fn take_slice<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &mut self,
        count: usize,
    ) -> Result<&'a [T], ProtocolError> {
        let (values, rest) = <[T]>::ref_from_prefix_with_elems(self.rest, count).map_err(|_| self.length())?;
        self.rest = rest;
        Ok(values)
    }

    /// A counted number of bytes.
    pub(crate) fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(self.length())?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length()) }
    }

    /// The error of a field of this message.
    pub(crate) fn field(&self, field: &'static str, value: impl Into<u64>, rule: &'static str) -> ProtocolError {
        ProtocolError::Field { kind: self.kind, field, value: value.into(), rule }
    }

    /// The error of a name of this message.
    pub(crate) fn name(&self, field: &'static str) -> impl FnOnce(NameError) -> ProtocolError + use<> {
        let kind = self.kind;
        move |source| ProtocolError::Name { kind, field, source }
    }

    fn length(&self) -> ProtocolError {
        ProtocolError::Length { kind: self.kind, bytes: self.total }
    }
}

/// Checks the number of descriptors that came with a message.
pub(crate) fn check_descriptors(kind: MessageKind, came: usize, must: usize) -> Result<(), ProtocolError> {
    if came == must { Ok(()) } else { Err(ProtocolError::Descriptors { kind, came, must }) }
}

/// A text of at most `N` bytes in a message of fixed layout: cut at a character, padded with zeros.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawText<const N: usize> {
    bytes: [u8; N],
}

impl<const N: usize> RawText<N> {
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        if let (Some(to), Some(from)) = (bytes.get_mut(..end), text.as_bytes().get(..end)) {
            to.copy_from_slice(from);
        }
        Self { bytes }
    }

    /// As text that is safe to print: what is no UTF-8 or a control character is replaced.
    pub(crate) fn get(&self) -> String {
        let length = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
        let text = String::from_utf8_lossy(self.bytes.get(..length).unwrap_or_default());
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}
