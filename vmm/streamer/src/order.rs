//! The setup message as plain data: everything that the supervisor sent is checked and copied out here.

use std::os::fd::OwnedFd;

use snapshot::{MAX_STATES, Manifest, Part};
use wire::islet_capnp::{saved_area, setup, streamer_setup};

use crate::Problem;

/// The most mappings of RAM whose missing pages one streamer places.
const MAX_MAPPINGS: usize = 16;

/// The saved state of a process: where it lies in the memfd `state`, and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Whose.
    pub process: String,
    /// Row of the memfd.
    pub row: u16,
    /// Name in the directory, and of the descriptor.
    pub file: String,
    /// In bytes.
    pub length: u64,
    /// SHA-256 of it.
    pub digest: [u8; 32],
}

impl Area {
    /// Where the row begins in the memfd.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.row) * state::ROW_BYTES
    }

    fn read(from: saved_area::Reader<'_>) -> Result<Self, Problem> {
        let process = text(from.get_process())?;
        let (row, length) = (from.get_state_row(), from.get_length());
        if row >= state::ROWS || length == 0 || length > state::ROW_BYTES {
            return Err(Problem::message(format!("the state of '{process}': row {row}, {length} bytes")));
        }
        let digest = from.get_digest().map_err(Problem::message)?;
        let digest =
            digest.try_into().map_err(|_| Problem::message(format!("the digest of '{process}' is no SHA-256")))?;
        Ok(Self { process, row, file: text(from.get_file())?, length, digest })
    }
}

/// A mapping of RAM in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingOrder {
    /// Name of the userfaultfd's descriptor.
    pub descriptor: String,
    /// Address of RAM's offset 0.
    pub base: u64,
    /// In bytes.
    pub length: u64,
}

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// Write a snapshot.
    Save {
        /// Without states and RAM.
        manifest: Box<Manifest>,
        /// The states.
        states: Vec<Area>,
    },
    /// Read one.
    Restore {
        /// The states.
        states: Vec<Area>,
        /// The mappings of RAM, if it comes on demand.
        mappings: Option<Vec<MappingOrder>>,
    },
}

/// What `Setup` asks of a streamer.
#[derive(Debug)]
pub struct Order {
    /// Row of the status memfd.
    pub status_row: u16,
    /// What is to be done.
    pub task: Task,
    names: Vec<(String, usize)>,
}

impl Order {
    /// Reads a setup message.
    ///
    /// # Errors
    /// What is malformed, or that the message is for another kind of process.
    pub fn read(setup: setup::Reader<'_>) -> Result<Self, Problem> {
        let setup::role::Streamer(role) = setup.get_role().which().map_err(Problem::message)? else {
            return Err(Problem::message("the setup is for another kind of process"));
        };
        let mut names = Vec::new();
        for named in setup.get_descriptors().map_err(Problem::message)? {
            names.push((text(named.get_name())?, usize::from(named.get_index())));
        }
        let areas = |list: capnp::Result<capnp::struct_list::Reader<'_, saved_area::Owned>>| {
            let list = list.map_err(Problem::message)?;
            if list.len() as usize > MAX_STATES {
                return Err(Problem::message(format!("{} states", list.len())));
            }
            list.iter().map(Area::read).collect::<Result<Vec<_>, _>>()
        };
        let task = match role.map_err(Problem::message)?.which().map_err(Problem::message)? {
            streamer_setup::Save(save) => {
                let save = save.map_err(Problem::message)?;
                let manifest = Manifest::from_message(save.get_manifest().map_err(Problem::message)?, Part::Order);
                let manifest = Box::new(manifest.map_err(Problem::message)?);
                Task::Save { manifest, states: areas(save.get_states())? }
            }
            streamer_setup::Restore(restore) => {
                let restore = restore.map_err(Problem::message)?;
                let mappings = if restore.get_on_demand() { Some(mappings(restore)?) } else { None };
                Task::Restore { states: areas(restore.get_states())?, mappings }
            }
        };
        Ok(Self { status_row: setup.get_status_slot(), task, names })
    }

    /// Takes the descriptor called `name` out of those that came with the message.
    ///
    /// # Errors
    /// It is not there, or was taken before.
    pub fn take(&self, name: &str, received: &mut [Option<OwnedFd>]) -> Result<OwnedFd, Problem> {
        let index = self.names.iter().find(|(known, _)| known == name).map(|(_, index)| *index);
        let descriptor = index.and_then(|index| received.get_mut(index)).and_then(Option::take);
        descriptor.ok_or_else(|| Problem::message(format!("there is no descriptor '{name}' with the setup")))
    }
}

fn mappings(restore: wire::islet_capnp::stream_restore::Reader<'_>) -> Result<Vec<MappingOrder>, Problem> {
    let list = restore.get_mappings().map_err(Problem::message)?;
    if list.is_empty() || list.len() as usize > MAX_MAPPINGS {
        return Err(Problem::message(format!("memory on demand for {} mappings", list.len())));
    }
    let mut mappings = Vec::new();
    for from in list {
        let (base, length) = (from.get_base(), from.get_length());
        let page = snapshot::sparse::PAGE as u64;
        if !base.is_multiple_of(page) || !length.is_multiple_of(page) || base.checked_add(length).is_none() {
            return Err(Problem::message(format!("a mapping of {length} bytes at {base:#x}")));
        }
        mappings.push(MappingOrder { descriptor: text(from.get_descriptor())?, base, length });
    }
    Ok(mappings)
}

fn text(field: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, Problem> {
    let text = field.map_err(Problem::message)?;
    text.to_str().map(str::to_owned).map_err(Problem::message)
}
