//! What the launcher says to a keeper that it has just started, and the keeper's one answer.
//!
//! | message | body after the 24-byte header | bytes | with it |
//! |---|---|---|---|
//! | `Begin` | version u32, flags u32, uid u32, gid u32, patience u32, zero u32, VM name 32 | 56 | |
//! | `Hold` | name 32, kind u32, zero u32 | 40 | 1 descriptor |
//! | `Go` | number of descriptors held u32, zero u32 | 8 | |
//! | answer | accepted u32, pid of the supervisor in the VM's namespace u32, text 512 | 520 | |

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use crate::{
    HeldKind, MAX_TEXT, MessageKind, Name, ProtocolError, VERSION,
    name::RawName,
    request::{RawHold, held_kind, put, raw, zero},
    wire::{Header, RawText, check_descriptors, finish},
};

bitflags! {
    /// How a VM lives.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct BeginFlags: u32 {
        /// The VM ends when the launcher's end of its link closes.
        const FOREGROUND = 1;
    }
}

raw!(RawBegin, 56 { version: U32, flags: U32, uid: U32, gid: U32, patience: U32, zero: U32, vm: RawName });
raw!(RawGo, 8 { held: U32, zero: U32 });
raw!(RawAnswer, 520 { accepted: U32, pid: U32, text: RawText<MAX_TEXT> });

/// A message of the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LauncherMessage {
    /// First: what VM this is.
    Begin {
        /// How it lives.
        flags: BeginFlags,
        /// Whose it is, as the launcher sees ids: a fact for messages and the table, nothing is decided by it.
        uid: u32,
        /// The same for the group.
        gid: u32,
        /// Seconds, not 0, that a supervisor may stand still before it is killed.
        patience: u32,
        /// The VM's name.
        vm: Name,
    },
    /// Hold the descriptor that comes with this message. Its id is its place in the row of these, from 1.
    Hold {
        /// Its name.
        name: Name,
        /// What it is; not [`HeldKind::Control`].
        kind: HeldKind,
    },
    /// Last: start the supervisor.
    Go {
        /// How many descriptors were sent, so that none is missing.
        held: u32,
    },
}

impl LauncherMessage {
    /// Writes the message into `out`, whose content is replaced.
    ///
    /// # Errors
    /// None that a caller can cause; the length is checked all the same.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let kind = match self {
            Self::Begin { .. } => MessageKind::Begin,
            Self::Hold { .. } => MessageKind::LauncherHold,
            Self::Go { .. } => MessageKind::Go,
        };
        Header { kind, incarnation: 0, id: 0 }.begin(out);
        let zero = U32::ZERO;
        match self {
            Self::Begin { flags, uid, gid, patience, vm } => put(
                out,
                &RawBegin {
                    version: U32::new(VERSION),
                    flags: U32::new(flags.bits()),
                    uid: U32::new(*uid),
                    gid: U32::new(*gid),
                    patience: U32::new(*patience),
                    zero,
                    vm: (*vm).into(),
                },
            ),
            Self::Hold { name, kind } => {
                put(out, &RawHold { name: (*name).into(), kind: U32::new(*kind as u32), zero });
            }
            Self::Go { held } => put(out, &RawGo { held: U32::new(*held), zero }),
        }
        finish(kind, out)
    }

    /// Reads a message that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// A [`ProtocolError`] that names the field; a launcher of another version is one too.
    pub fn decode(bytes: &[u8], descriptors: usize) -> Result<Self, ProtocolError> {
        let (header, mut body) = Header::decode(bytes)?;
        let message = match header.kind {
            MessageKind::Begin => {
                let raw: &RawBegin = body.take()?;
                if raw.version.get() != VERSION {
                    return Err(body.field("version", raw.version.get(), "launcher and keeper must be of one version"));
                }
                let flags = BeginFlags::from_bits(raw.flags.get()).ok_or(body.field(
                    "flags",
                    raw.flags.get(),
                    "has bits without meaning",
                ))?;
                zero(&body, raw.zero)?;
                let patience = raw.patience.get();
                if patience == 0 {
                    return Err(body.field("patience", 0_u32, "no process answers in no time"));
                }
                let vm = raw.vm.check().map_err(body.name("VM name"))?;
                Self::Begin { flags, uid: raw.uid.get(), gid: raw.gid.get(), patience, vm }
            }
            MessageKind::LauncherHold => {
                let raw: &RawHold = body.take()?;
                zero(&body, raw.zero)?;
                let name = raw.name.check().map_err(body.name("name"))?;
                Self::Hold { name, kind: held_kind(&body, raw.kind)? }
            }
            MessageKind::Go => {
                let raw: &RawGo = body.take()?;
                zero(&body, raw.zero)?;
                Self::Go { held: raw.held.get() }
            }
            other => return Err(ProtocolError::Kind(other as u16)),
        };
        body.end()?;
        check_descriptors(header.kind, descriptors, usize::from(header.kind == MessageKind::LauncherHold))?;
        Ok(message)
    }
}

/// The keeper's answer to the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LauncherAnswer {
    /// The supervisor is started; the control socket answers once it has taken over.
    Started {
        /// Its pid in the VM's pid namespace.
        pid: u32,
    },
    /// The VM cannot be started, and the keeper ends.
    Refused {
        /// What, why and what to do.
        why: String,
    },
}

impl LauncherAnswer {
    /// Writes the message into `out`, whose content is replaced.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let kind = MessageKind::LauncherAnswer;
        Header { kind, incarnation: 0, id: 0 }.begin(out);
        let (accepted, pid, text) = match self {
            Self::Started { pid } => (1, *pid, ""),
            Self::Refused { why } => (0, 0, why.as_str()),
        };
        put(out, &RawAnswer { accepted: U32::new(accepted), pid: U32::new(pid), text: RawText::new(text) });
        finish(kind, out)
    }

    /// Reads a message that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// A [`ProtocolError`] that names the field.
    pub fn decode(bytes: &[u8], descriptors: usize) -> Result<Self, ProtocolError> {
        let (header, mut body) = Header::decode(bytes)?;
        if header.kind != MessageKind::LauncherAnswer {
            return Err(ProtocolError::Kind(header.kind as u16));
        }
        let raw: &RawAnswer = body.take()?;
        let answer = match raw.accepted.get() {
            0 => Self::Refused { why: raw.text.get() },
            1 => Self::Started { pid: raw.pid.get() },
            other => return Err(body.field("accepted", other, "must be 0 or 1")),
        };
        body.end()?;
        check_descriptors(header.kind, descriptors, 0)?;
        Ok(answer)
    }
}
