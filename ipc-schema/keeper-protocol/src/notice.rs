//! What the keeper says to the supervisor: who is there, what is held, who has ended, and the answers.
//!
//! | message | body after the 24-byte header | bytes |
//! |---|---|---|
//! | `Hello` | version u32, flags u32, held u32, processes u32, exits u32, fruitless starts u32, uid u32, gid u32, VM name 32, end of the last supervisor 512 | 576 |
//! | `HeldTable` | count u32, zero u32, then per entry: id u64, kind u32, zero u32, name 32 | 8 + 48 each |
//! | `ProcessTable` | count u32, zero u32, then per entry: id u64, socket u64, incarnation u32, status slot u32, pid u32, state u32, name 32, role 32 | 8 + 96 each |
//! | `Exited` | process u64, incarnation u32, cause u32, code i32, thread u32, number u64, address u64, name 32, role 32, text 512 | 616 |
//! | `Reply` | kind of the request u32, zero u32, a u64, b u64 | 24 |
//! | `Refusal` | kind of the request u32, code u32, text 512 | 520 |

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I32, U32, U64},
};

use crate::{
    HeldId, HeldKind, MAX_TEXT, MessageKind, Name, ProcessId, ProtocolError, VERSION,
    name::RawName,
    request::{put, raw, zero},
    wire::{Body, Header, RawText, check_descriptors, finish},
};

bitflags! {
    /// Facts about the VM.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct HelloFlags: u32 {
        /// The VM ends with its launcher.
        const FOREGROUND = 1;
    }
}

/// The first message of each supervisor; its incarnation is in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// How the VM lives.
    pub flags: HelloFlags,
    /// Entries of the table of held descriptors that follows.
    pub held: u32,
    /// Entries of the table of processes that follows.
    pub processes: u32,
    /// How many of these processes have ended and are not acknowledged: as many `Exited` follow the tables.
    pub exits: u32,
    /// How many supervisors before this one have ended in a row without having said `Serving`.
    pub fruitless_starts: u32,
    /// User id of the launcher, as the launcher sees it.
    pub uid: u32,
    /// Group id of the launcher.
    pub gid: u32,
    /// The VM's name.
    pub vm: Name,
    /// How the supervisor before this one ended; empty for the first.
    pub last_end: String,
}

/// A held descriptor in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldEntry {
    /// Its number.
    pub id: HeldId,
    /// What it is.
    pub kind: HeldKind,
    /// Its name.
    pub name: Name,
}

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ProcessState {
    /// It runs.
    Running = 0,
    /// It has ended; its `Exited` is not acknowledged.
    Ended = 1,
}

/// A process in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// Its number.
    pub id: ProcessId,
    /// The supervisor's end of its control socket: had by `Get`.
    pub socket: HeldId,
    /// As given at `Spawn`.
    pub incarnation: u32,
    /// As given at `Spawn`.
    pub status_slot: u32,
    /// Its pid in the VM's pid namespace.
    pub pid: u32,
    /// Whether it lives.
    pub state: ProcessState,
    /// As given at `Spawn`.
    pub name: Name,
    /// As given at `Spawn`.
    pub role: Name,
}

/// In what way a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CauseKind {
    /// Exit status 0.
    Clean = 0,
    /// An error of its own, said in the text; `code` is the exit status.
    Error = 1,
    /// A panic, said in the text.
    Panic = 2,
    /// A signal: `code` is its number, `address` that of a fault where the process could say it.
    Signal = 3,
    /// A system call that its profile forbids: `number` is the call
    /// (`u64::MAX` where it could not be recorded), `address` the instruction. An attack, not a crash.
    Seccomp = 4,
    /// A peer that it cannot do without was gone.
    LostPeer = 5,
    /// Its memory was used up; `number` is the size that was asked for, where the process could say it.
    OutOfMemory = 6,
    /// It called abort.
    Abort = 7,
}

impl CauseKind {
    const ALL: [Self; 8] = [
        Self::Clean,
        Self::Error,
        Self::Panic,
        Self::Signal,
        Self::Seccomp,
        Self::LostPeer,
        Self::OutOfMemory,
        Self::Abort,
    ];
}

/// Why a process ended. Kind and code are facts of the kernel; the rest is what the process said, and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// In what way.
    pub kind: CauseKind,
    /// Exit status, or number of the signal.
    pub code: i32,
    /// The thread that ended it, or 0.
    pub thread: u32,
    /// System call, or bytes; see [`CauseKind`].
    pub number: u64,
    /// Address; see [`CauseKind`].
    pub address: u64,
    /// The cause as a sentence for people, at most [`MAX_TEXT`] bytes.
    pub text: String,
}

/// A process has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Its number.
    pub process: ProcessId,
    /// As given at `Spawn`.
    pub name: Name,
    /// As given at `Spawn`.
    pub role: Name,
    /// As given at `Spawn`.
    pub incarnation: u32,
    /// Why.
    pub cause: Cause,
}

/// The answer to a request that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Kind of the request.
    pub request: u32,
    /// First value; the table in [`crate::Request`]'s module says which.
    pub a: u64,
    /// Second value.
    pub b: u64,
}

/// What kind of reason a refusal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RefusalCode {
    /// Not a request, or a field is wrong: the text names it.
    Malformed = 1,
    /// The request carries the incarnation of another supervisor or process.
    StaleIncarnation = 2,
    /// Nothing is held under this id.
    NoSuchDescriptor = 3,
    /// No process has this id.
    NoSuchProcess = 4,
    /// The process has ended.
    ProcessEnded = 5,
    /// The process still runs.
    ProcessRuns = 6,
    /// A table is full.
    Full = 7,
    /// What is held must not be had, released or used in this way.
    NotAllowed = 8,
    /// There is no role of this name.
    NoSuchRole = 9,
    /// The islet does not take messages: its queue is full or its end is closed.
    NotTaken = 10,
    /// The process could not be started.
    Spawn = 11,
    /// The kernel refused.
    Os = 12,
}

impl RefusalCode {
    fn from_number(number: u32) -> Option<Self> {
        use RefusalCode::*;
        [
            Malformed,
            StaleIncarnation,
            NoSuchDescriptor,
            NoSuchProcess,
            ProcessEnded,
            ProcessRuns,
            Full,
            NotAllowed,
            NoSuchRole,
            NotTaken,
            Spawn,
            Os,
        ]
        .into_iter()
        .find(|code| *code as u32 == number)
    }
}

/// The answer to a request that was not carried out; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Number of the request's kind, 0 where it could not be read.
    pub request: u32,
    /// What kind of reason.
    pub code: RefusalCode,
    /// What failed and why.
    pub text: String,
}

/// A message of the keeper to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromKeeper {
    /// First.
    Hello(Hello),
    /// A piece of the table of held descriptors.
    HeldTable(Vec<HeldEntry>),
    /// A piece of the table of processes.
    ProcessTable(Vec<ProcessEntry>),
    /// A process has ended. Sent once to each supervisor.
    Exited(Exited),
    /// Answer to the request of the header's id. Its descriptors, if any, come with it.
    Reply(Reply),
    /// Answer to the request of the header's id.
    Refusal(Refusal),
}

raw!(RawHello, 576 {
    version: U32, flags: U32, held: U32, processes: U32, exits: U32, fruitless_starts: U32, uid: U32, gid: U32,
    vm: RawName, last_end: RawText<MAX_TEXT>,
});
raw!(RawCount, 8 { count: U32, zero: U32 });
raw!(RawHeldEntry, 48 { id: U64, kind: U32, zero: U32, name: RawName });
raw!(RawProcessEntry, 96 {
    id: U64, socket: U64, incarnation: U32, status_slot: U32, pid: U32, state: U32, name: RawName, role: RawName,
});
raw!(RawExited, 616 {
    process: U64, incarnation: U32, cause: U32, code: I32, thread: U32, number: U64, address: U64,
    name: RawName, role: RawName, text: RawText<MAX_TEXT>,
});
raw!(RawReply, 24 { request: U32, zero: U32, a: U64, b: U64 });
raw!(RawRefusal, 520 { request: U32, code: U32, text: RawText<MAX_TEXT> });

/// Entries of a table in one message.
const TABLE_PIECE: usize = 512;

/// Writes `Hello` into `out`, whose content is replaced.
///
/// # Errors
/// None that a caller can cause; lengths are checked all the same. This holds for all encoders of this module.
pub fn encode_hello(hello: &Hello, incarnation: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let kind = MessageKind::Hello;
    Header { kind, incarnation, id: 0 }.begin(out);
    put(
        out,
        &RawHello {
            version: U32::new(VERSION),
            flags: U32::new(hello.flags.bits()),
            held: U32::new(hello.held),
            processes: U32::new(hello.processes),
            exits: U32::new(hello.exits),
            fruitless_starts: U32::new(hello.fruitless_starts),
            uid: U32::new(hello.uid),
            gid: U32::new(hello.gid),
            vm: hello.vm.into(),
            last_end: RawText::new(&hello.last_end),
        },
    );
    finish(kind, out)
}

/// Writes the table of held descriptors as messages, each given to `send`.
///
/// # Errors
/// What `send` says.
pub fn encode_held_table<E: From<ProtocolError>>(
    entries: impl IntoIterator<Item = HeldEntry>,
    id: u64,
    incarnation: u32,
    send: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let raw = entries.into_iter().map(|entry| RawHeldEntry {
        id: U64::new(entry.id.0),
        kind: U32::new(entry.kind as u32),
        zero: U32::ZERO,
        name: entry.name.into(),
    });
    encode_table(Header { kind: MessageKind::HeldTable, incarnation, id }, raw, send)
}

/// Writes the table of processes as messages, each given to `send`.
///
/// # Errors
/// What `send` says.
pub fn encode_process_table<E: From<ProtocolError>>(
    entries: impl IntoIterator<Item = ProcessEntry>,
    id: u64,
    incarnation: u32,
    send: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let raw = entries.into_iter().map(|entry| RawProcessEntry {
        id: U64::new(entry.id.0),
        socket: U64::new(entry.socket.0),
        incarnation: U32::new(entry.incarnation),
        status_slot: U32::new(entry.status_slot),
        pid: U32::new(entry.pid),
        state: U32::new(entry.state as u32),
        name: entry.name.into(),
        role: entry.role.into(),
    });
    encode_table(Header { kind: MessageKind::ProcessTable, incarnation, id }, raw, send)
}

fn encode_table<T: IntoBytes + Immutable, E: From<ProtocolError>>(
    header: Header,
    entries: impl Iterator<Item = T>,
    mut send: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let piece: Vec<T> = entries.by_ref().take(TABLE_PIECE).collect();
        let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        header.begin(&mut out);
        put(&mut out, &RawCount { count: U32::new(count), zero: U32::ZERO });
        out.extend_from_slice(piece.as_slice().as_bytes());
        finish(header.kind, &mut out)?;
        send(out)?;
    }
    Ok(())
}

/// Writes `Exited` into `out`, whose content is replaced.
///
/// # Errors
/// As [`encode_hello`].
pub fn encode_exited(exited: &Exited, incarnation: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let kind = MessageKind::Exited;
    Header { kind, incarnation, id: 0 }.begin(out);
    put(
        out,
        &RawExited {
            process: U64::new(exited.process.0),
            incarnation: U32::new(exited.incarnation),
            cause: U32::new(exited.cause.kind as u32),
            code: I32::new(exited.cause.code),
            thread: U32::new(exited.cause.thread),
            number: U64::new(exited.cause.number),
            address: U64::new(exited.cause.address),
            name: exited.name.into(),
            role: exited.role.into(),
            text: RawText::new(&exited.cause.text),
        },
    );
    finish(kind, out)
}

/// Writes the answer to request `id` into `out`, whose content is replaced.
///
/// # Errors
/// As [`encode_hello`].
pub fn encode_reply(reply: Reply, id: u64, incarnation: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let kind = MessageKind::Reply;
    Header { kind, incarnation, id }.begin(out);
    let (request, zero) = (U32::new(reply.request), U32::ZERO);
    put(out, &RawReply { request, zero, a: U64::new(reply.a), b: U64::new(reply.b) });
    finish(kind, out)
}

/// Writes the refusal of request `id` into `out`, whose content is replaced.
///
/// # Errors
/// As [`encode_hello`].
pub fn encode_refusal(refusal: &Refusal, id: u64, incarnation: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let kind = MessageKind::Refusal;
    Header { kind, incarnation, id }.begin(out);
    let (request, code) = (U32::new(refusal.request), U32::new(refusal.code as u32));
    put(out, &RawRefusal { request, code, text: RawText::new(&refusal.text) });
    finish(kind, out)
}

impl FromKeeper {
    /// Reads a message that came with `descriptors` descriptors. A reply may have one, anything else none.
    ///
    /// # Errors
    /// A [`ProtocolError`] that names the field.
    pub fn decode(bytes: &[u8], descriptors: usize) -> Result<(Header, Self), ProtocolError> {
        let (header, mut body) = Header::decode(bytes)?;
        let message = match header.kind {
            MessageKind::Hello => Self::Hello(decode_hello(&mut body)?),
            MessageKind::HeldTable => {
                let raw: &[RawHeldEntry] = take_table(&mut body)?;
                Self::HeldTable(raw.iter().map(|raw| decode_held(&body, raw)).collect::<Result<_, _>>()?)
            }
            MessageKind::ProcessTable => {
                let raw: &[RawProcessEntry] = take_table(&mut body)?;
                Self::ProcessTable(raw.iter().map(|raw| decode_process(&body, raw)).collect::<Result<_, _>>()?)
            }
            MessageKind::Exited => Self::Exited(decode_exited(&mut body)?),
            MessageKind::Reply => {
                let raw: &RawReply = body.take()?;
                zero(&body, raw.zero)?;
                Self::Reply(Reply { request: raw.request.get(), a: raw.a.get(), b: raw.b.get() })
            }
            MessageKind::Refusal => {
                let raw: &RawRefusal = body.take()?;
                let code = RefusalCode::from_number(raw.code.get()).ok_or(body.field(
                    "code",
                    raw.code.get(),
                    "must be a known code",
                ))?;
                Self::Refusal(Refusal { request: raw.request.get(), code, text: raw.text.get() })
            }
            other => return Err(ProtocolError::Kind(other as u16)),
        };
        body.end()?;
        let must = if header.kind == MessageKind::Reply { descriptors.min(1) } else { 0 };
        check_descriptors(header.kind, descriptors, must)?;
        Ok((header, message))
    }
}

fn take_table<'a, T: FromBytes + KnownLayout + Immutable + Unaligned>(
    body: &mut Body<'a>,
) -> Result<&'a [T], ProtocolError> {
    let raw: &RawCount = body.take()?;
    zero(body, raw.zero)?;
    let count = raw.count.get() as usize;
    if count > TABLE_PIECE {
        return Err(body.field("count", raw.count.get(), "must be at most 512"));
    }
    body.take_slice(count)
}

fn decode_hello(body: &mut Body<'_>) -> Result<Hello, ProtocolError> {
    let raw: &RawHello = body.take()?;
    if raw.version.get() != VERSION {
        return Err(body.field("version", raw.version.get(), "keeper and supervisor must speak one version"));
    }
    let flags = HelloFlags::from_bits(raw.flags.get()).ok_or(body.field(
        "flags",
        raw.flags.get(),
        "has bits without meaning",
    ))?;
    Ok(Hello {
        flags,
        held: raw.held.get(),
        processes: raw.processes.get(),
        exits: raw.exits.get(),
        fruitless_starts: raw.fruitless_starts.get(),
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        vm: raw.vm.check().map_err(body.name("VM name"))?,
        last_end: raw.last_end.get(),
    })
}

fn decode_held(body: &Body<'_>, raw: &RawHeldEntry) -> Result<HeldEntry, ProtocolError> {
    zero(body, raw.zero)?;
    let kind =
        HeldKind::from_number(raw.kind.get()).ok_or(body.field("kind", raw.kind.get(), "must be a known kind"))?;
    Ok(HeldEntry { id: HeldId(raw.id.get()), kind, name: raw.name.check().map_err(body.name("name"))? })
}

fn decode_process(body: &Body<'_>, raw: &RawProcessEntry) -> Result<ProcessEntry, ProtocolError> {
    let state = [ProcessState::Running, ProcessState::Ended]
        .into_iter()
        .find(|state| *state as u32 == raw.state.get())
        .ok_or(body.field("state", raw.state.get(), "must be 0 or 1"))?;
    Ok(ProcessEntry {
        id: ProcessId(raw.id.get()),
        socket: HeldId(raw.socket.get()),
        incarnation: raw.incarnation.get(),
        status_slot: raw.status_slot.get(),
        pid: raw.pid.get(),
        state,
        name: raw.name.check().map_err(body.name("name"))?,
        role: raw.role.check().map_err(body.name("role"))?,
    })
}

fn decode_exited(body: &mut Body<'_>) -> Result<Exited, ProtocolError> {
    let raw: &RawExited = body.take()?;
    let kind = CauseKind::ALL.into_iter().find(|kind| *kind as u32 == raw.cause.get()).ok_or(body.field(
        "cause",
        raw.cause.get(),
        "must be a known cause",
    ))?;
    Ok(Exited {
        process: ProcessId(raw.process.get()),
        name: raw.name.check().map_err(body.name("name"))?,
        role: raw.role.check().map_err(body.name("role"))?,
        incarnation: raw.incarnation.get(),
        cause: Cause {
            kind,
            code: raw.code.get(),
            thread: raw.thread.get(),
            number: raw.number.get(),
            address: raw.address.get(),
            text: raw.text.get(),
        },
    })
}
