//! What the supervisor asks of the keeper.
//!
//! | request | body after the 24-byte header | bytes | with it | answer: `a`, `b`, descriptors |
//! |---|---|---|---|---|
//! | `MakeMemfd` | name 32, size u64, flags u32, zero u32 | 48 | | held id |
//! | `MakeEventfd` | name 32, initial u32, zero u32 | 40 | | held id |
//! | `MakeSocketpair` | left name 32, right name 32, kind u32, zero u32 | 72 | | held ids of left, right |
//! | `Hold` | name 32, kind u32, zero u32 | 40 | 1 descriptor | held id |
//! | `Get` | id u64, access u32, zero u32 | 16 | | –, –, 1 descriptor |
//! | `Release` | id u64 | 8 | | |
//! | `Spawn` | name 32, role 32, binary u64, incarnation u32, status slot u32, grants u32, payload length u32 | 88 + 16 per grant + payload | | process id, held id of the socket, 1 descriptor: the socket |
//! | `Kill` | process u64, incarnation u32, signal u32 | 16 | | |
//! | `SendTo` | process u64, incarnation u32, grants u32, payload length u32, zero u32 | 24 + 16 per grant + payload | | |
//! | `List` | | 0 | | sizes of the two tables, which come before the answer |
//! | `SetStatus` | id u64 | 8 | | |
//! | `Acknowledge` | process u64 | 8 | | |
//! | `Serving` | | 0 | | |
//! | `Exit` | status u32, zero u32 | 8 | | none: the VM is gone |
//!
//! A grant is id u64, access u32, zero u32.

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use crate::{
    HeldId, MAX_GRANTS, MAX_MEMFD, MAX_PAYLOAD, MAX_STATUS_SLOTS, MessageKind, NO_STATUS_SLOT, Name, ProcessId,
    ProtocolError,
    name::RawName,
    wire::{Body, Header, check_descriptors, finish},
};

bitflags! {
    /// Seals of a memfd and who may have it. Every memfd is made without the right to be executed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct MemfdFlags: u32 {
        /// Nobody can make it smaller (`F_SEAL_SHRINK`): a mapping of it cannot fault.
        const SEAL_SHRINK = 1;
        /// Nobody can make it larger (`F_SEAL_GROW`).
        const SEAL_GROW = 2;
        /// No more seals (`F_SEAL_SEAL`).
        const SEAL_SEAL = 4;
        /// Only processes get it, by `Spawn` and `SendTo`; `Get` is refused. For guest RAM, which the supervisor never has.
        const GUARDED = 8;
    }
}

/// What a held descriptor is, as its maker said; data for whoever reads the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum HeldKind {
    /// A program to be spawned.
    Binary = 1,
    /// A memfd.
    Memfd = 2,
    /// An eventfd.
    Eventfd = 3,
    /// A connected socket.
    Socket = 4,
    /// A listening socket.
    Listener = 5,
    /// A regular file.
    File = 6,
    /// A directory.
    Directory = 7,
    /// The supervisor's end of an islet's control socket. Only the keeper makes these.
    Control = 8,
    /// Anything else: a device, a userfaultfd, a pipe.
    Other = 9,
}

impl HeldKind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        use HeldKind::*;
        [Binary, Memfd, Eventfd, Socket, Listener, File, Directory, Control, Other]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// In which form a held descriptor is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Access {
    /// As it is: the same open file.
    Same = 0,
    /// Opened anew for reading only. For memfds and files.
    ReadOnly = 1,
    /// Opened anew with `O_PATH`: can be passed on and matched, not read. For memfds and files.
    PathOnly = 2,
}

impl Access {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Same, Self::ReadOnly, Self::PathOnly].into_iter().find(|access| *access as u32 == number)
    }
}

/// Kind of a socket pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SocketKind {
    /// Messages.
    Seqpacket = 1,
    /// Bytes.
    Stream = 2,
}

/// A held descriptor that goes with a message to an islet, at the position that it has in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Which.
    pub id: HeldId,
    /// In which form.
    pub access: Access,
}

impl Grant {
    /// The descriptor as it is.
    #[must_use]
    pub const fn same(id: HeldId) -> Self {
        Self { id, access: Access::Same }
    }

    /// The descriptor opened anew for reading only.
    #[must_use]
    pub const fn read_only(id: HeldId) -> Self {
        Self { id, access: Access::ReadOnly }
    }
}

/// Start a process and send it its first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawn<'a> {
    /// Of the process, such as `serial0`.
    pub name: Name,
    /// Which profile it gets: the name of a `profile::Kind`, such as `serial`.
    pub role: Name,
    /// The held program.
    pub binary: HeldId,
    /// Number of this start of `name`, as the supervisor counts.
    pub incarnation: u32,
    /// Its page of the status memfd, below [`MAX_STATUS_SLOTS`], or [`NO_STATUS_SLOT`]. The keeper reads the cause of its end there.
    pub status_slot: u32,
    /// Descriptors of the message, in order. At most [`MAX_GRANTS`].
    pub grants: Vec<Grant>,
    /// The message: 1 to [`MAX_PAYLOAD`] bytes that the keeper does not read.
    pub payload: &'a [u8],
}

/// Send a message with held descriptors to a running process, on its control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendTo<'a> {
    /// To whom.
    pub process: ProcessId,
    /// Of the start that is meant; another one is refused.
    pub incarnation: u32,
    /// Descriptors of the message, in order. At most [`MAX_GRANTS`].
    pub grants: Vec<Grant>,
    /// The message: 1 to [`MAX_PAYLOAD`] bytes that the keeper does not read.
    pub payload: &'a [u8],
}

/// A request of the supervisor. The module's table says what each is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Make and hold a memfd of `size` bytes.
    MakeMemfd {
        /// Its name.
        name: Name,
        /// Bytes, at most [`MAX_MEMFD`].
        size: u64,
        /// Seals, and whether the supervisor may have it.
        flags: MemfdFlags,
    },
    /// Make and hold a non-blocking eventfd.
    MakeEventfd {
        /// Its name.
        name: Name,
        /// Its first value.
        initial: u32,
    },
    /// Make and hold a pair of connected sockets.
    MakeSocketpair {
        /// Name of one end.
        left: Name,
        /// Name of the other.
        right: Name,
        /// Messages or bytes.
        kind: SocketKind,
    },
    /// Hold the descriptor that comes with this message.
    Hold {
        /// Its name.
        name: Name,
        /// What it is; not [`HeldKind::Control`].
        kind: HeldKind,
    },
    /// Give the supervisor a held descriptor.
    Get {
        /// Which.
        id: HeldId,
        /// In which form.
        access: Access,
    },
    /// Let go of a held descriptor. Those of kind [`HeldKind::Control`] go with [`Self::Acknowledge`].
    Release {
        /// Which.
        id: HeldId,
    },
    /// Start a process. Its page of the status memfd is cleared, and its first message, with the descriptors, is on
    /// its control socket (3) before it runs.
    Spawn(Spawn<'a>),
    /// Send a signal to a process. It is answered before the process has ended: its end is told by `Exited`.
    Kill {
        /// Whom.
        process: ProcessId,
        /// Of the start that is meant; another one is refused.
        incarnation: u32,
        /// 1 to 31; 9 in general.
        signal: u32,
    },
    /// Send a message with held descriptors to a process.
    SendTo(SendTo<'a>),
    /// Send the two tables again, as they are now.
    List,
    /// This held memfd has the status pages, the supervisor's own at [`crate::SUPERVISOR_STATUS_SLOT`]. It must be sealed
    /// against shrinking, since the keeper maps pages of it; and it is said once in the life of a VM.
    SetStatus {
        /// Which.
        id: HeldId,
    },
    /// The exit of this process is dealt with: forget it, and let go of its socket.
    Acknowledge {
        /// Whose.
        process: ProcessId,
    },
    /// The supervisor has taken over and works; see [`crate::MAX_FRUITLESS_STARTS`].
    Serving,
    /// End the keeper with this status, and with it the VM.
    Exit {
        /// Exit status.
        status: u8,
    },
}

macro_rules! raw {
    ($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}
pub(crate) use raw;

raw!(RawMakeMemfd, 48 { name: RawName, size: U64, flags: U32, zero: U32 });
raw!(RawMakeEventfd, 40 { name: RawName, initial: U32, zero: U32 });
raw!(RawMakeSocketpair, 72 { left: RawName, right: RawName, kind: U32, zero: U32 });
raw!(RawHold, 40 { name: RawName, kind: U32, zero: U32 });
raw!(RawGrant, 16 { id: U64, access: U32, zero: U32 });
raw!(RawId, 8 { id: U64 });
raw!(RawSpawn, 88 {
    name: RawName, role: RawName, binary: U64, incarnation: U32, status_slot: U32, grants: U32, payload: U32,
});
raw!(RawKill, 16 { process: U64, incarnation: U32, signal: U32 });
raw!(RawSendTo, 24 { process: U64, incarnation: U32, grants: U32, payload: U32, zero: U32 });
raw!(RawExit, 8 { status: U32, zero: U32 });

/// A reserved field must be zero, so that it can get a meaning.
pub(crate) fn zero(body: &Body<'_>, value: U32) -> Result<(), ProtocolError> {
    if value.get() == 0 { Ok(()) } else { Err(body.field("reserved", value.get(), "must be zero")) }
}

pub(crate) fn held_kind(body: &Body<'_>, value: U32) -> Result<HeldKind, ProtocolError> {
    match HeldKind::from_number(value.get()) {
        Some(kind) if kind != HeldKind::Control => Ok(kind),
        _ => Err(body.field("kind", value.get(), "must be a kind that a client can hold")),
    }
}

impl<'a> Request<'a> {
    /// The kind in the header.
    #[must_use]
    pub const fn kind(&self) -> MessageKind {
        match self {
            Self::MakeMemfd { .. } => MessageKind::MakeMemfd,
            Self::MakeEventfd { .. } => MessageKind::MakeEventfd,
            Self::MakeSocketpair { .. } => MessageKind::MakeSocketpair,
            Self::Hold { .. } => MessageKind::Hold,
            Self::Get { .. } => MessageKind::Get,
            Self::Release { .. } => MessageKind::Release,
            Self::Spawn(_) => MessageKind::Spawn,
            Self::Kill { .. } => MessageKind::Kill,
            Self::SendTo(_) => MessageKind::SendTo,
            Self::List => MessageKind::List,
            Self::SetStatus { .. } => MessageKind::SetStatus,
            Self::Acknowledge { .. } => MessageKind::Acknowledge,
            Self::Serving => MessageKind::Serving,
            Self::Exit { .. } => MessageKind::Exit,
        }
    }

    /// Writes the message into `out`, whose content is replaced.
    ///
    /// # Errors
    /// [`ProtocolError::TooMuch`] for more grants or payload than a message can have.
    pub fn encode(&self, id: u64, incarnation: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let kind = self.kind();
        Header { kind, incarnation, id }.begin(out);
        let zero = U32::ZERO;
        match self {
            Self::MakeMemfd { name, size, flags } => put(
                out,
                &RawMakeMemfd { name: (*name).into(), size: U64::new(*size), flags: U32::new(flags.bits()), zero },
            ),
            Self::MakeEventfd { name, initial } => {
                put(out, &RawMakeEventfd { name: (*name).into(), initial: U32::new(*initial), zero });
            }
            Self::MakeSocketpair { left, right, kind } => {
                let kind = U32::new(*kind as u32);
                put(out, &RawMakeSocketpair { left: (*left).into(), right: (*right).into(), kind, zero });
            }
            Self::Hold { name, kind } => {
                put(out, &RawHold { name: (*name).into(), kind: U32::new(*kind as u32), zero });
            }
            Self::Get { id, access } => put(out, &RawGrant::from(Grant { id: *id, access: *access })),
            Self::Release { id } | Self::SetStatus { id } => put(out, &RawId { id: U64::new(id.0) }),
            Self::Acknowledge { process } => put(out, &RawId { id: U64::new(process.0) }),
            Self::Spawn(spawn) => {
                let (grants, payload) = counts(kind, &spawn.grants, spawn.payload)?;
                put(
                    out,
                    &RawSpawn {
                        name: spawn.name.into(),
                        role: spawn.role.into(),
                        binary: U64::new(spawn.binary.0),
                        incarnation: U32::new(spawn.incarnation),
                        status_slot: U32::new(spawn.status_slot),
                        grants,
                        payload,
                    },
                );
                put_message(out, &spawn.grants, spawn.payload);
            }
            Self::SendTo(send) => {
                let (grants, payload) = counts(kind, &send.grants, send.payload)?;
                let process = U64::new(send.process.0);
                put(out, &RawSendTo { process, incarnation: U32::new(send.incarnation), grants, payload, zero });
                put_message(out, &send.grants, send.payload);
            }
            Self::Kill { process, incarnation, signal } => put(
                out,
                &RawKill {
                    process: U64::new(process.0),
                    incarnation: U32::new(*incarnation),
                    signal: U32::new(*signal),
                },
            ),
            Self::Exit { status } => put(out, &RawExit { status: U32::new((*status).into()), zero }),
            Self::List | Self::Serving => {}
        }
        finish(kind, out)
    }

    /// Reads a message that came with `descriptors` descriptors. Every field is checked.
    ///
    /// # Errors
    /// A [`ProtocolError`] that names the field.
    pub fn decode(bytes: &'a [u8], descriptors: usize) -> Result<(Header, Self), ProtocolError> {
        let (header, mut body) = Header::decode(bytes)?;
        let kind = header.kind;
        let request = match kind {
            MessageKind::MakeMemfd | MessageKind::MakeEventfd | MessageKind::MakeSocketpair | MessageKind::Hold => {
                decode_make(kind, &mut body)?
            }
            MessageKind::Get => {
                let raw: &RawGrant = body.take()?;
                let Grant { id, access } = Grant::read(&body, *raw)?;
                Self::Get { id, access }
            }
            MessageKind::Release => Self::Release { id: HeldId(take_id(&mut body)?) },
            MessageKind::SetStatus => Self::SetStatus { id: HeldId(take_id(&mut body)?) },
            MessageKind::Acknowledge => Self::Acknowledge { process: ProcessId(take_id(&mut body)?) },
            MessageKind::Spawn => Self::Spawn(decode_spawn(&mut body)?),
            MessageKind::SendTo => {
                let raw: &RawSendTo = body.take()?;
                zero(&body, raw.zero)?;
                let (grants, payload) = take_message(&mut body, raw.grants, raw.payload)?;
                let process = ProcessId(raw.process.get());
                Self::SendTo(SendTo { process, incarnation: raw.incarnation.get(), grants, payload })
            }
            MessageKind::Kill => {
                let raw: &RawKill = body.take()?;
                let signal = raw.signal.get();
                if !(1..=31).contains(&signal) {
                    return Err(body.field("signal", signal, "must be 1 to 31"));
                }
                Self::Kill { process: ProcessId(raw.process.get()), incarnation: raw.incarnation.get(), signal }
            }
            MessageKind::List => Self::List,
            MessageKind::Serving => Self::Serving,
            MessageKind::Exit => {
                let raw: &RawExit = body.take()?;
                zero(&body, raw.zero)?;
                let status = u8::try_from(raw.status.get())
                    .map_err(|_| body.field("status", raw.status.get(), "must be at most 255"))?;
                Self::Exit { status }
            }
            other => return Err(ProtocolError::Kind(other as u16)),
        };
        body.end()?;
        check_descriptors(kind, descriptors, usize::from(kind == MessageKind::Hold))?;
        Ok((header, request))
    }
}

fn decode_make<'a>(kind: MessageKind, body: &mut Body<'_>) -> Result<Request<'a>, ProtocolError> {
    Ok(match kind {
        MessageKind::MakeMemfd => {
            let raw: &RawMakeMemfd = body.take()?;
            zero(body, raw.zero)?;
            let size = raw.size.get();
            if size > MAX_MEMFD {
                return Err(body.field("size", size, "must be at most 16 TiB"));
            }
            let flags = MemfdFlags::from_bits(raw.flags.get()).ok_or(body.field(
                "flags",
                raw.flags.get(),
                "has bits without meaning",
            ))?;
            Request::MakeMemfd { name: raw.name.check().map_err(body.name("name"))?, size, flags }
        }
        MessageKind::MakeEventfd => {
            let raw: &RawMakeEventfd = body.take()?;
            zero(body, raw.zero)?;
            Request::MakeEventfd { name: raw.name.check().map_err(body.name("name"))?, initial: raw.initial.get() }
        }
        MessageKind::MakeSocketpair => {
            let raw: &RawMakeSocketpair = body.take()?;
            zero(body, raw.zero)?;
            let kind = [SocketKind::Seqpacket, SocketKind::Stream]
                .into_iter()
                .find(|kind| *kind as u32 == raw.kind.get())
                .ok_or(body.field("kind", raw.kind.get(), "must be 1 (messages) or 2 (bytes)"))?;
            let left = raw.left.check().map_err(body.name("left"))?;
            Request::MakeSocketpair { left, right: raw.right.check().map_err(body.name("right"))?, kind }
        }
        _ => {
            let raw: &RawHold = body.take()?;
            zero(body, raw.zero)?;
            Request::Hold { name: raw.name.check().map_err(body.name("name"))?, kind: held_kind(body, raw.kind)? }
        }
    })
}

fn decode_spawn<'a>(body: &mut Body<'a>) -> Result<Spawn<'a>, ProtocolError> {
    let raw: &RawSpawn = body.take()?;
    let status_slot = raw.status_slot.get();
    if status_slot >= MAX_STATUS_SLOTS && status_slot != NO_STATUS_SLOT {
        return Err(body.field("status slot", status_slot, "must be below 1024, or 0xffffffff for none"));
    }
    let (grants, payload) = take_message(body, raw.grants, raw.payload)?;
    Ok(Spawn {
        name: raw.name.check().map_err(body.name("name"))?,
        role: raw.role.check().map_err(body.name("role"))?,
        binary: HeldId(raw.binary.get()),
        incarnation: raw.incarnation.get(),
        status_slot,
        grants,
        payload,
    })
}

fn take_id(body: &mut Body<'_>) -> Result<u64, ProtocolError> {
    let raw: &RawId = body.take()?;
    Ok(raw.id.get())
}

fn take_message<'a>(body: &mut Body<'a>, grants: U32, payload: U32) -> Result<(Vec<Grant>, &'a [u8]), ProtocolError> {
    let count = grants.get() as usize;
    if count > MAX_GRANTS {
        return Err(body.field("grants", grants.get(), "must be at most 200"));
    }
    let length = payload.get() as usize;
    if length == 0 || length > MAX_PAYLOAD {
        return Err(body.field("payload length", payload.get(), "must be 1 to 49152"));
    }
    let raw: &[RawGrant] = body.take_slice(count)?;
    let grants = raw.iter().map(|raw| Grant::read(body, *raw)).collect::<Result<_, _>>()?;
    Ok((grants, body.take_bytes(length)?))
}

impl Grant {
    fn read(body: &Body<'_>, raw: RawGrant) -> Result<Self, ProtocolError> {
        zero(body, raw.zero)?;
        let access = Access::from_number(raw.access.get()).ok_or(body.field(
            "access",
            raw.access.get(),
            "must be 0 (same), 1 (read only) or 2 (path only)",
        ))?;
        Ok(Self { id: HeldId(raw.id.get()), access })
    }
}

impl From<Grant> for RawGrant {
    fn from(grant: Grant) -> Self {
        Self { id: U64::new(grant.id.0), access: U32::new(grant.access as u32), zero: U32::ZERO }
    }
}

/// The counts of a message to an islet, checked.
fn counts(kind: MessageKind, grants: &[Grant], payload: &[u8]) -> Result<(U32, U32), ProtocolError> {
    let check = |what, count: usize, limit: usize| match u32::try_from(count) {
        Ok(value) if count <= limit => Ok(U32::new(value)),
        _ => Err(ProtocolError::TooMuch { kind, what, count, limit }),
    };
    Ok((
        check("a number of descriptors", grants.len(), MAX_GRANTS)?,
        check("a payload in bytes", payload.len(), MAX_PAYLOAD)?,
    ))
}

pub(crate) fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, value: &T) {
    out.extend_from_slice(value.as_bytes());
}

fn put_message(out: &mut Vec<u8>, grants: &[Grant], payload: &[u8]) {
    for grant in grants {
        put(out, &RawGrant::from(*grant));
    }
    out.extend_from_slice(payload);
}
