//! What people see of a saved state: its fields as lines (`atoll state dump`), what two states differ in (`diff`), and whether
//! this version can make sense of a file (`check`).
//!
//! The one idea: the schema describes itself at run time, so these know every field without a list of them. Files come from
//! anywhere: what is read, walked and printed is bounded, and what cannot be read is a line that says so.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use capnp::dynamic_value::Reader;
use sha2::{Digest, Sha256};
use wire::saved_capnp::saved_state;

use crate::area::Aligned;
use crate::envelope::{ELIDED, kind, not_understood};
use crate::walk::{Visit, walk};
use crate::{Kind, Message, ROW_BYTES, StateError};

/// The most lines of a dump; a state of 255 vCPUs has less than half of them.
pub const MAX_LINES: usize = 200_000;
/// The most bytes of paths and values of a dump.
pub const MAX_BYTES: usize = 32 << 20;
/// How many problems of one file are told.
const MAX_PROBLEMS: usize = 50;
/// Data up to this length is shown in full by `diff`, in bytes.
const SHORT: usize = 24;

/// A state that is not believed yet: a file, or what a process left.
pub struct Saved {
    name: String,
    bytes: Aligned,
}

/// The fields of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// In the order of the schema.
    pub lines: Vec<Line>,
    /// Whether there are more than [`MAX_LINES`] or [`MAX_BYTES`].
    pub cut: bool,
}

/// One field or element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Such as `engine.vcpus[0].cpu.x86.rip`.
    pub path: String,
    /// What it holds.
    pub value: Value,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number, a text, a name, the length of a list.
    Plain(String),
    /// Data.
    Bytes(Vec<u8>),
    /// It cannot be read, and why.
    Unreadable(String),
}

/// What two states differ in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the order of the first state, then what only the second has.
    pub fields: Vec<Difference>,
    /// Whether one of the states is longer than what was compared.
    pub cut: bool,
}

/// A field that two states differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path.
    pub path: String,
    /// In the first state; nothing where that does not have it.
    pub first: Option<String>,
    /// In the second.
    pub second: Option<String>,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the file.
    pub name: String,
    /// The process that it says it is of.
    pub process: String,
    /// The machine version as of which it was written.
    pub machine: String,
    /// What kind of state is in it.
    pub kind: Option<Kind>,
    /// Whether its schema is this version's, or the one that was last frozen.
    pub known_schema: bool,
    /// Why it cannot be loaded; none, if it can as far as can be told without the process.
    pub problems: Vec<String>,
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// [`StateError::File`], or [`StateError::TooLong`] (with the name) for what is longer than any state.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |cause| StateError::File { path: path.to_owned(), cause };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        // A pipe or a device has no length that could be asked for first.
        file.take(ROW_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::of(path.display().to_string(), &bytes)
    }

    /// The bytes of a state; `name` is for messages.
    ///
    /// # Errors
    /// [`StateError::TooLong`], with the name.
    pub fn of(name: impl Into<String>, bytes: &[u8]) -> Result<Self, StateError> {
        let (name, length) = (name.into(), bytes.len() as u64);
        if length > ROW_BYTES {
            return Err(StateError::In { name, cause: Box::new(StateError::TooLong { length }) });
        }
        Ok(Self { name, bytes: Aligned::of(bytes) })
    }

    /// A message as it would be written.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn written(name: impl Into<String>, message: &Message) -> Result<Self, StateError> {
        Self::of(name, &capnp::serialize::write_message_to_words(message))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of all of it, as a manifest has it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.bytes.bytes()).into()
    }

    /// Hands the state to `read`, and adds the name to what that answers.
    ///
    /// # Errors
    /// [`StateError::In`] for bytes that are no message, or with the error of `read`.
    pub fn read<T>(
        &self,
        read: impl FnOnce(saved_state::Reader<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let inner = || read(self.bytes.message()?.get_root()?);
        inner().map_err(|cause| StateError::In { name: self.name.clone(), cause: Box::new(cause) })
    }

    /// All fields.
    ///
    /// # Errors
    /// [`StateError::In`] for bytes that are no message.
    pub fn dump(&self) -> Result<Dump, StateError> {
        self.read(|state| Ok(dump(state)))
    }

    /// What can be told without the process: that it is a message all of which can be read, of a process that there is, and
    /// that nothing in it may be missed by this version.
    #[must_use]
    pub fn check(&self) -> Report {
        let (process, machine) = (String::new(), String::new());
        let mut report =
            Report { name: self.name.clone(), process, machine, kind: None, known_schema: false, problems: Vec::new() };
        if let Err(error) = self.read(|state| report.state(state)) {
            report.problems.push(error.to_string());
        }
        report
    }
}

impl Report {
    fn say(&mut self, problem: impl fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("{}: {problem}", self.name));
        }
    }

    fn state(&mut self, state: saved_state::Reader<'_>) -> Result<(), StateError> {
        let dump = dump(state);
        for Line { path, value } in &dump.lines {
            if let Value::Unreadable(why) = value {
                self.say(StateError::field(path, why));
            }
        }
        if dump.cut {
            self.say("is longer than any state: more fields than are looked at");
        }
        let text = |text: capnp::Result<capnp::text::Reader<'_>>| {
            let text = text.ok().and_then(|text| text.to_str().ok());
            text.unwrap_or_default().chars().take(64).collect::<String>()
        };
        (self.process, self.machine) = (text(state.get_process()), text(state.get_machine()));
        // A member that is not known has been told of as unreadable.
        self.kind = kind(state).ok();
        if let Some(kind) = self.kind {
            self.of_kind(state, kind);
        }
        Ok(())
    }

    fn of_kind(&mut self, state: saved_state::Reader<'_>, kind: Kind) {
        if Kind::of(&self.process) != Some(kind) {
            let why = format!("is '{}', and the state is that of a process of kind '{kind}'", self.process);
            self.say(StateError::field("process", why));
        }
        if self.machine.is_empty() {
            self.say(StateError::field("machine", "is empty"));
        }
        let digest = state.get_schema_digest().unwrap_or_default();
        self.known_schema = kind.known_digests().iter().any(|known| known.as_slice() == digest);
        if digest.len() != 32 {
            self.say(StateError::field("schemaDigest", format!("has {} bytes in place of 32", digest.len())));
        }
        match not_understood(state, kind.added()) {
            Ok(names) => names.into_iter().for_each(|name| self.say(StateError::MustUnderstand(name))),
            Err(error) => self.say(error),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if let (Some(kind), true) = (self.kind, self.problems.is_empty()) {
            let schema = if self.known_schema { "known" } else { "not known here; what may not be ignored is known" };
            writeln!(
                f,
                "{}: state of '{}' ({kind}) as of {}; its schema is {schema}",
                self.name, self.process, self.machine
            )?;
        }
        Ok(())
    }
}

/// All fields of a state.
#[must_use]
pub fn dump(state: saved_state::Reader<'_>) -> Dump {
    let (mut dump, mut bytes) = (Dump::default(), 0);
    let mut visit = |visit: &Visit<'_>| {
        let value = match &visit.value {
            Ok(value) => Value::of(value),
            Err(why) => Value::Unreadable(why.clone()),
        };
        bytes += visit.path.len() + value.len();
        if dump.lines.len() >= MAX_LINES || bytes > MAX_BYTES {
            dump.cut = true;
            return ControlFlow::Break(());
        }
        dump.lines.push(Line { path: visit.path.to_owned(), value });
        ControlFlow::Continue(())
    };
    let _: ControlFlow<()> = walk(state.into(), ELIDED, &mut visit);
    dump
}

/// What two states differ in.
///
/// # Errors
/// [`StateError::In`] for the one that is no message.
pub fn diff(first: &Saved, second: &Saved) -> Result<Differences, StateError> {
    Ok(differences(&first.dump()?, &second.dump()?))
}

/// What two dumps differ in.
#[must_use]
pub fn differences(first: &Dump, second: &Dump) -> Differences {
    let values: HashMap<&str, &Value> = second.lines.iter().map(|line| (line.path.as_str(), &line.value)).collect();
    let mut fields = Vec::new();
    let mut seen = HashSet::new();
    for Line { path, value } in &first.lines {
        seen.insert(path.as_str());
        let other = values.get(path.as_str()).copied();
        if other != Some(value) {
            let (first, second) = value.beside(other);
            fields.push(Difference { path: path.clone(), first: Some(first), second });
        }
    }
    for Line { path, value } in second.lines.iter().filter(|line| !seen.contains(line.path.as_str())) {
        fields.push(Difference { path: path.clone(), first: None, second: Some(value.beside(None).0) });
    }
    Differences { fields, cut: first.cut || second.cut }
}

impl Value {
    fn of(value: &Reader<'_>) -> Self {
        Self::Plain(match value {
            Reader::Void => "selected".into(),
            Reader::Bool(value) => value.to_string(),
            Reader::Int8(value) => value.to_string(),
            Reader::Int16(value) => value.to_string(),
            Reader::Int32(value) => value.to_string(),
            Reader::Int64(value) => value.to_string(),
            Reader::UInt8(value) => number(u64::from(*value)),
            Reader::UInt16(value) => number(u64::from(*value)),
            Reader::UInt32(value) => number(u64::from(*value)),
            Reader::UInt64(value) => number(*value),
            Reader::Float32(value) => value.to_string(),
            Reader::Float64(value) => value.to_string(),
            Reader::Enum(value) => {
                let known = value.get_enumerant().ok().flatten();
                match known.and_then(|enumerant| enumerant.get_proto().get_name().ok()?.to_str().ok()) {
                    Some(name) => name.into(),
                    None => {
                        return Self::Unreadable(format!("{} is no value that this version knows", value.get_value()));
                    }
                }
            }
            Reader::Text(text) => match text.to_str() {
                Ok(text) => format!("{text:?}"),
                Err(error) => return Self::Unreadable(error.to_string()),
            },
            Reader::Data(bytes) => return Self::Bytes(bytes.to_vec()),
            Reader::List(list) if list.len() == 1 => "1 element".into(),
            Reader::List(list) => format!("{} elements", list.len()),
            Reader::Struct(_) | Reader::AnyPointer(_) | Reader::Capability(_) => {
                return Self::Unreadable("is of a type that no state has".into());
            }
        })
    }

    /// Bytes of its text, about.
    fn len(&self) -> usize {
        match self {
            Self::Plain(text) | Self::Unreadable(text) => text.len(),
            Self::Bytes(bytes) => 2 * bytes.len(),
        }
    }

    /// This value and another of the same field, short: of long data, what is around the first byte that differs.
    fn beside(&self, other: Option<&Self>) -> (String, Option<String>) {
        let start = match (self, other) {
            (Self::Bytes(one), Some(Self::Bytes(other))) => {
                let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
                if one.len().max(other.len()) > SHORT { same } else { 0 }
            }
            _ => 0,
        };
        (self.short(start), other.map(|other| other.short(start)))
    }

    fn short(&self, start: usize) -> String {
        match self {
            Self::Bytes(bytes) if bytes.len() > SHORT || start > 0 => {
                let part = bytes.get(start..).unwrap_or_default();
                let more = if part.len() > SHORT { "…" } else { "" };
                let shown = part.get(..SHORT.min(part.len())).unwrap_or_default();
                format!("{} bytes, from byte {start}: {}{more}", bytes.len(), hex(shown))
            }
            value => value.to_string(),
        }
    }
}

fn number(value: u64) -> String {
    if value < 10 { value.to_string() } else { format!("{value:#x} ({value})") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Bytes(bytes) if bytes.is_empty() => f.write_str("0 bytes"),
            Self::Bytes(bytes) => write!(f, "{} bytes {}", bytes.len(), hex(bytes)),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|Line { path, value }| writeln!(f, "{path} = {value}"))?;
        if self.cut { writeln!(f, "and more, which is not shown") } else { Ok(()) }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Difference { path, first, second } in &self.fields {
            let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
            writeln!(f, "{path}: {} -> {}", side(first), side(second))?;
        }
        if self.cut { writeln!(f, "and more, which was not compared") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
