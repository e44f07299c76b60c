//! The manifest: plain data, its message (snapshot.capnp), and its file.
//!
//! The one idea: one function says whether a manifest can be ([`Manifest::check`]), and both the writer and the reader go
//! through it; so what was written can be read, and what cannot be is never written.

use std::collections::BTreeSet;

use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp::serialize;
use sha2::{Digest, Sha256};
use wire::snapshot_capnp::manifest;
use wire::vm_capnp::vm_config;

use crate::{
    FORMAT, MAGIC, MANIFEST_FILE, MAX_CHUNK_BYTES, MAX_CONFIG_BYTES, MAX_DIGESTS_BYTES, MAX_MANIFEST_BYTES,
    MAX_RAM_BYTES, MAX_RESETS, MAX_STATE_BYTES, MAX_STATES, MIN_CHUNK_BYTES, SnapshotError, Status, is_file_name,
};

/// Bytes of a SHA-256.
pub const DIGEST_BYTES: usize = 32;
/// Magic and length of the message.
const HEADER_BYTES: usize = 16;
/// RAM comes in pages of this many bytes.
const PAGE: u64 = 4096;
/// The longest text: a summary of the kernel, or a version.
const MAX_TEXT: usize = 4096;
/// The most names in `mustUnderstand`.
const MAX_NAMES: usize = 256;
/// What `mustUnderstand` may name: the fields that this version reads.
const UNDERSTOOD: [&str; 9] = [
    "manifest.config",
    "manifest.status",
    "manifest.resumeTo",
    "manifest.resets",
    "manifest.wallClockSeconds",
    "manifest.version",
    "manifest.kernelSummary",
    "manifest.states",
    "manifest.ram",
];

/// What a snapshot is (snapshot.capnp, `Manifest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names of fields that a reader may not ignore.
    pub must_understand: Vec<String>,
    /// A message with `VmConfig` (vm.capnp); bounded, and not looked into. Empty in [`Part::Brief`].
    pub config: Vec<u8>,
    /// What the VM was doing.
    pub status: Status,
    /// Where a resume leads: running or suspended.
    pub resume_to: Status,
    /// Resets until then.
    pub resets: u64,
    /// UTC at guest clock 0.
    pub wall_clock_seconds: i64,
    /// Of the Atoll that wrote it.
    pub version: String,
    /// What the loader said of the kernel.
    pub kernel_summary: String,
    /// The state files. Empty in [`Part::Order`].
    pub states: Vec<StateFile>,
    /// The RAM file. Empty in [`Part::Order`].
    pub ram: RamFile,
}

/// The saved state of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Whose, such as `board`.
    pub process: String,
    /// Name in the directory.
    pub file: String,
    /// In bytes.
    pub length: u64,
    /// SHA-256 of the file.
    pub digest: [u8; DIGEST_BYTES],
}

/// RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RamFile {
    /// Name in the directory.
    pub file: String,
    /// In bytes, with holes; offsets are those of the memfd `ram`.
    pub length: u64,
    /// Bytes under one digest; the last chunk may be shorter.
    pub chunk_bytes: u32,
    /// [`DIGEST_BYTES`] for each chunk, one after the other. Empty in [`Part::Brief`].
    pub digests: Vec<u8>,
    /// Bytes that are not in holes.
    pub data_bytes: u64,
}

impl RamFile {
    /// How many chunks the file has.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.length.div_ceil(u64::from(self.chunk_bytes.max(1)))
    }

    /// The digest of chunk `n`; `None` for a chunk that is all zeroes, or is none of this file.
    #[must_use]
    pub fn digest(&self, n: u64) -> Option<[u8; DIGEST_BYTES]> {
        let digest = self.digests.chunks_exact(DIGEST_BYTES).nth(usize::try_from(n).ok()?)?;
        <[u8; DIGEST_BYTES]>::try_from(digest).ok().filter(|digest| *digest != [0; DIGEST_BYTES])
    }

    /// Where chunk `n` lies in the file: offset and length in bytes.
    #[must_use]
    pub fn extent(&self, n: u64) -> (u64, usize) {
        let chunk = u64::from(self.chunk_bytes);
        let start = n.saturating_mul(chunk).min(self.length);
        (start, usize::try_from(chunk.min(self.length - start)).unwrap_or(0))
    }
}

/// What of a manifest a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: the file.
    Whole,
    /// Without `states` and `ram`: what a streamer is told that saves (`StreamSave.manifest`).
    Order,
    /// Without `config` and `ram.digests`: what a supervisor is told that restores (`Restore.manifest` in vm.capnp).
    Brief,
}

/// The manifest's file: magic, length of the message (u64, little-endian), message, SHA-256 of all before it.
///
/// # Errors
/// [`SnapshotError::Field`] for a manifest that no reader would take.
pub fn write_manifest(manifest: &Manifest) -> Result<Vec<u8>, SnapshotError> {
    let message = manifest.build(Part::Whole)?;
    let length = serialize::compute_serialized_size_in_words(&message) * 8;
    let mut file = Vec::with_capacity(HEADER_BYTES + length + DIGEST_BYTES);
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&(length as u64).to_le_bytes());
    serialize::write_message(&mut file, &message).map_err(malformed)?;
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    Ok(file)
}

/// Reads the manifest's file.
///
/// # Errors
/// What is wrong with it, down to the field.
pub fn read_manifest(file: &[u8]) -> Result<Manifest, SnapshotError> {
    let damaged = |why: String| SnapshotError::damaged(MANIFEST_FILE, why);
    if file.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(damaged(format!("it has {} bytes; none is longer than {MAX_MANIFEST_BYTES}", file.len())));
    }
    let Some((head, digest)) = file.split_last_chunk::<DIGEST_BYTES>() else {
        return Err(damaged(format!("it is cut off: it has only {} bytes", file.len())));
    };
    let Some((magic, rest)) = head.split_first_chunk::<8>() else {
        return Err(damaged(format!("it is cut off: it has only {} bytes", file.len())));
    };
    if *magic != MAGIC {
        return Err(damaged("it does not begin with 'ATOLLSNP', so it is no manifest of a snapshot".into()));
    }
    let Some((length, message)) = rest.split_first_chunk::<8>() else {
        return Err(damaged(format!("it is cut off: it has only {} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length != message.len() as u64 {
        let (says, room) = (length, message.len());
        return Err(damaged(format!("its header says that the message has {says} bytes, and there are {room}")));
    }
    if Sha256::digest(head).as_slice() != digest {
        return Err(damaged("its content differs from its digest".into()));
    }
    Manifest::from_message(message, Part::Whole)
}

fn malformed(error: capnp::Error) -> SnapshotError {
    SnapshotError::damaged(MANIFEST_FILE, format!("it is no message of its schema: {error}"))
}

/// Reads one message out of all of `bytes`. A reader may visit each word twice, and a little more.
fn message_reader(mut bytes: &[u8]) -> capnp::Result<capnp::message::Reader<serialize::OwnedSegments>> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(bytes.len() / 4 + (64 << 10))).nesting_limit(24);
    let reader = serialize::read_message(&mut bytes, options)?;
    if bytes.is_empty() { Ok(reader) } else { Err(capnp::Error::failed("there are bytes after its end".into())) }
}

fn text(field: &str, from: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, SnapshotError> {
    let text = from.map_err(|error| SnapshotError::field(field, error.to_string()))?;
    let text = text.to_str().map_err(|_| SnapshotError::field(field, "is no UTF-8"))?;
    if text.len() > MAX_TEXT {
        return Err(SnapshotError::field(field, format!("has {} bytes; at most {MAX_TEXT} are possible", text.len())));
    }
    Ok(text.to_owned())
}

fn status(field: &str, from: Result<Status, capnp::NotInSchema>) -> Result<Status, SnapshotError> {
    from.map_err(|error| SnapshotError::field(field, format!("{} is no status", error.0)))
}

fn digest(field: &str, from: capnp::Result<&[u8]>) -> Result<[u8; DIGEST_BYTES], SnapshotError> {
    let bytes = from.map_err(|error| SnapshotError::field(field, error.to_string()))?;
    bytes.try_into().map_err(|_| SnapshotError::field(field, format!("has {} bytes, a SHA-256 has 32", bytes.len())))
}

fn length(field: &str, length: u32, most: usize) -> Result<u32, SnapshotError> {
    let fits = usize::try_from(length).is_ok_and(|length| length <= most);
    let why = || SnapshotError::field(field, format!("has {length} entries; at most {most} are possible"));
    if fits { Ok(length) } else { Err(why()) }
}

impl Manifest {
    /// A message with it, as it stands behind the header of the file or in a request.
    ///
    /// # Errors
    /// [`SnapshotError::Field`] for a manifest that no reader would take.
    pub fn to_message(&self, part: Part) -> Result<Vec<u8>, SnapshotError> {
        Ok(serialize::write_message_to_words(&self.build(part)?))
    }

    fn build(&self, part: Part) -> Result<Builder<HeapAllocator>, SnapshotError> {
        self.check(part)?;
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let mut root = message.init_root::<manifest::Builder<'_>>();
        root.set_format(FORMAT);
        let mut names = root.reborrow().init_must_understand(self.must_understand.len() as u32);
        for (index, name) in (0..).zip(&self.must_understand) {
            names.set(index, name);
        }
        if part != Part::Brief {
            let config = message_reader(&self.config).map_err(|error| config_error(&error))?;
            let config = config.get_root::<vm_config::Reader<'_>>().map_err(|error| config_error(&error))?;
            root.set_config(config).map_err(|error| config_error(&error))?;
        }
        root.set_status(self.status);
        root.set_resume_to(self.resume_to);
        root.set_resets(self.resets);
        root.set_wall_clock_seconds(self.wall_clock_seconds);
        root.set_version(&self.version);
        root.set_kernel_summary(&self.kernel_summary);
        if part != Part::Order {
            let mut list = root.reborrow().init_states(self.states.len() as u32);
            for (index, state) in (0..).zip(&self.states) {
                let mut to = list.reborrow().get(index);
                to.set_process(&state.process);
                to.set_file(&state.file);
                to.set_length(state.length);
                to.set_digest(&state.digest);
            }
            let mut ram = root.init_ram();
            ram.set_file(&self.ram.file);
            ram.set_length(self.ram.length);
            ram.set_chunk_bytes(self.ram.chunk_bytes);
            ram.set_data_bytes(self.ram.data_bytes);
            if part == Part::Whole {
                let (present, digests) = self.ram.sparse();
                ram.set_present(&present);
                ram.set_digests(&digests);
            }
        }
        Ok(message)
    }

    /// Reads a message of [`Manifest::to_message`].
    ///
    /// # Errors
    /// What is wrong with it, down to the field.
    pub fn from_message(bytes: &[u8], part: Part) -> Result<Self, SnapshotError> {
        let message = message_reader(bytes).map_err(malformed)?;
        let root = message.get_root::<manifest::Reader<'_>>().map_err(malformed)?;
        let version = text("version", root.get_version())?;
        if root.get_format() != FORMAT {
            let found = root.get_format();
            let why = format!(
                "field 'format': {found} is not {FORMAT}, the only one that this version reads{}",
                by(&version)
            );
            return Err(SnapshotError::Version { why });
        }
        let names = root.get_must_understand().map_err(malformed)?;
        let mut must_understand = Vec::new();
        length("mustUnderstand", names.len(), MAX_NAMES)?;
        for (index, name) in names.iter().enumerate() {
            must_understand.push(text(&format!("mustUnderstand[{index}]"), name)?);
        }
        let read = Self {
            must_understand,
            config: if part == Part::Brief { Vec::new() } else { read_config(root)? },
            status: status("status", root.get_status())?,
            resume_to: status("resumeTo", root.get_resume_to())?,
            resets: root.get_resets(),
            wall_clock_seconds: root.get_wall_clock_seconds(),
            version,
            kernel_summary: text("kernelSummary", root.get_kernel_summary())?,
            states: if part == Part::Order { Vec::new() } else { read_states(root)? },
            ram: if part == Part::Order { RamFile::default() } else { read_ram(root, part)? },
        };
        read.check(part)?;
        Ok(read)
    }

    /// Whether this can be a manifest, as far as `part` holds it.
    fn check(&self, part: Part) -> Result<(), SnapshotError> {
        for name in &self.must_understand {
            if !UNDERSTOOD.contains(&name.as_str()) {
                let why = format!(
                    "field '{name}' must be understood, and this version does not know it{}",
                    by(&self.version)
                );
                return Err(SnapshotError::Version { why });
            }
        }
        for (field, text) in [("version", &self.version), ("kernelSummary", &self.kernel_summary)] {
            if text.len() > MAX_TEXT {
                return Err(SnapshotError::field(
                    field,
                    format!("has {} bytes, at most {MAX_TEXT} are possible", text.len()),
                ));
            }
        }
        if self.resets > MAX_RESETS {
            let why = format!("{} is more than was ever counted; at most {MAX_RESETS} are possible", self.resets);
            return Err(SnapshotError::field("resets", why));
        }
        let fits = match (self.status, self.resume_to) {
            (_, Status::Paused) => {
                return Err(SnapshotError::field("resumeTo", "Paused; a resume leads to running or suspended"));
            }
            (Status::Running, to) => to == Status::Running,
            (Status::Suspended, to) => to == Status::Suspended,
            (Status::Paused, _) => true,
        };
        if !fits {
            let why = format!(
                "{:?} cannot be with status {:?}; only a paused VM has the choice",
                self.resume_to, self.status
            );
            return Err(SnapshotError::field("resumeTo", why));
        }
        if part != Part::Brief && self.config.len() > MAX_CONFIG_BYTES {
            let why = format!("has {} bytes; at most {MAX_CONFIG_BYTES} are possible", self.config.len());
            return Err(SnapshotError::field("config", why));
        }
        if part == Part::Order { Ok(()) } else { self.check_files(part) }
    }

    fn check_files(&self, part: Part) -> Result<(), SnapshotError> {
        if self.states.len() > MAX_STATES {
            let why = format!("has {} entries; at most {MAX_STATES} are possible", self.states.len());
            return Err(SnapshotError::field("states", why));
        }
        let mut processes = BTreeSet::new();
        let mut files = BTreeSet::from([MANIFEST_FILE]);
        for (index, state) in self.states.iter().enumerate() {
            let path = |field: &str| format!("states[{index}].{field}");
            if !is_file_name(&state.process) {
                return Err(SnapshotError::field(
                    path("process"),
                    format!("'{}' is no name", state.process.escape_debug()),
                ));
            }
            if !processes.insert(state.process.as_str()) {
                return Err(SnapshotError::field(path("process"), format!("'{}' is there twice", state.process)));
            }
            check_file(path("file"), &state.file, &mut files)?;
            if state.length == 0 || state.length > MAX_STATE_BYTES {
                let why = format!("{} bytes; 1 to {MAX_STATE_BYTES} are possible", state.length);
                return Err(SnapshotError::field(path("length"), why));
            }
        }
        check_file("ram.file".into(), &self.ram.file, &mut files)?;
        self.ram.check(part)
    }
}

fn by(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!("; Atoll {} wrote it", version.escape_debug()) }
}

fn config_error(error: &capnp::Error) -> SnapshotError {
    SnapshotError::field("config", error.to_string())
}

fn check_file<'a>(field: String, name: &'a str, files: &mut BTreeSet<&'a str>) -> Result<(), SnapshotError> {
    if !is_file_name(name) {
        let why = format!("'{}' is no name of a file in the directory", name.escape_debug());
        return Err(SnapshotError::field(field, why));
    }
    if !files.insert(name) {
        return Err(SnapshotError::field(field, format!("the name '{name}' is there twice")));
    }
    Ok(())
}

/// The configuration as a message of its own. It is bounded before it is copied, since a message may point at one place many
/// times.
fn read_config(root: manifest::Reader<'_>) -> Result<Vec<u8>, SnapshotError> {
    if !root.has_config() {
        return Err(SnapshotError::field("config", "is missing"));
    }
    let config = root.get_config().map_err(|error| config_error(&error))?;
    let words = config.total_size().map_err(|error| config_error(&error))?.word_count;
    if words > (MAX_CONFIG_BYTES / 8) as u64 {
        let why = format!("has {words} words of 8 bytes; at most {MAX_CONFIG_BYTES} bytes are possible");
        return Err(SnapshotError::field("config", why));
    }
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    message.set_root(config).map_err(|error| config_error(&error))?;
    Ok(serialize::write_message_to_words(&message))
}

fn read_states(root: manifest::Reader<'_>) -> Result<Vec<StateFile>, SnapshotError> {
    let list = root.get_states().map_err(|error| SnapshotError::field("states", error.to_string()))?;
    length("states", list.len(), MAX_STATES)?;
    let read = |(index, from): (usize, wire::snapshot_capnp::state_file::Reader<'_>)| {
        let path = |field: &str| format!("states[{index}].{field}");
        Ok(StateFile {
            process: text(&path("process"), from.get_process())?,
            file: text(&path("file"), from.get_file())?,
            length: from.get_length(),
            digest: digest(&path("digest"), from.get_digest())?,
        })
    };
    list.iter().enumerate().map(read).collect()
}

fn read_ram(root: manifest::Reader<'_>, part: Part) -> Result<RamFile, SnapshotError> {
    let from = root.get_ram().map_err(|error| SnapshotError::field("ram", error.to_string()))?;
    let mut ram = RamFile {
        file: text("ram.file", from.get_file())?,
        length: from.get_length(),
        chunk_bytes: from.get_chunk_bytes(),
        digests: Vec::new(),
        data_bytes: from.get_data_bytes(),
    };
    if part == Part::Whole {
        let digests = from.get_digests().map_err(|error| SnapshotError::field("ram.digests", error.to_string()))?;
        let present = from.get_present().map_err(|error| SnapshotError::field("ram.present", error.to_string()))?;
        // Sizes first: they say how much memory the digests take.
        ram.check(Part::Brief)?;
        ram.digests = ram.dense(present, digests)?;
    }
    Ok(ram)
}

impl RamFile {
    /// As the message has it: which chunks have data, and the digests of those alone. So a manifest is as small as the memory
    /// that is used.
    fn sparse(&self) -> (Vec<u8>, Vec<u8>) {
        let chunks = self.digests.chunks_exact(DIGEST_BYTES);
        let mut present = vec![0; chunks.len().div_ceil(8)];
        let mut digests = Vec::new();
        for (n, digest) in chunks.enumerate().filter(|(_, digest)| digest.iter().any(|byte| *byte != 0)) {
            present[n / 8] |= 1 << (n % 8);
            digests.extend_from_slice(digest);
        }
        (present, digests)
    }

    /// The opposite of [`RamFile::sparse`].
    fn dense(&self, present: &[u8], digests: &[u8]) -> Result<Vec<u8>, SnapshotError> {
        let chunks = usize::try_from(self.chunks()).unwrap_or(usize::MAX);
        let bits = |byte: &u8| usize::try_from(byte.count_ones()).unwrap_or(0);
        let beyond = present.last().is_some_and(|last| !chunks.is_multiple_of(8) && last >> (chunks % 8) != 0);
        if present.len() != chunks.div_ceil(8) || beyond {
            let why = format!("{} bytes are not a bit for each of {chunks} chunks", present.len());
            return Err(SnapshotError::field("ram.present", why));
        }
        let count: usize = present.iter().map(bits).sum();
        if digests.len() != count * DIGEST_BYTES {
            let why = format!("{} bytes, but {count} chunks have {}", digests.len(), count * DIGEST_BYTES);
            return Err(SnapshotError::field("ram.digests", why));
        }
        let mut all = vec![0; chunks * DIGEST_BYTES];
        let set = (0..chunks).filter(|n| present[n / 8] >> (n % 8) & 1 == 1);
        for (n, digest) in set.zip(digests.chunks_exact(DIGEST_BYTES)) {
            all[n * DIGEST_BYTES..][..DIGEST_BYTES].copy_from_slice(digest);
        }
        Ok(all)
    }

    fn check(&self, part: Part) -> Result<(), SnapshotError> {
        let length = self.length;
        if length == 0 || length > MAX_RAM_BYTES || !length.is_multiple_of(PAGE) {
            let why = format!("{length} bytes; whole pages up to {MAX_RAM_BYTES} are possible");
            return Err(SnapshotError::field("ram.length", why));
        }
        let chunk = self.chunk_bytes;
        if !chunk.is_power_of_two() || !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk) {
            let why = format!("{chunk} is no power of two from {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}");
            return Err(SnapshotError::field("ram.chunkBytes", why));
        }
        let digests = self.chunks() * DIGEST_BYTES as u64;
        if digests > MAX_DIGESTS_BYTES {
            let why = format!(
                "{chunk} is too small for {length} bytes: {digests} bytes of digests, and at most {MAX_DIGESTS_BYTES} are possible"
            );
            return Err(SnapshotError::field("ram.chunkBytes", why));
        }
        if self.data_bytes > length || !self.data_bytes.is_multiple_of(PAGE) {
            let why = format!("{} bytes of data in a file of {length}, which holds whole pages", self.data_bytes);
            return Err(SnapshotError::field("ram.dataBytes", why));
        }
        let (there, want) = (self.digests.len() as u64, digests);
        if part == Part::Whole && there != want {
            let why = format!("{there} bytes, but {} chunks have {want}", self.chunks());
            return Err(SnapshotError::field("ram.digests", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
