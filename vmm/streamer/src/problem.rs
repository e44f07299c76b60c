//! What can go wrong, in the four parts that a `Failure` (islet.capnp) has.

use std::fmt::Display;

use snapshot::SnapshotError;
use wire::islet_capnp::failure;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What failed: a file of the snapshot by its name, or a part of this process.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub remedy: &'static str,
    /// A stable code.
    pub code: &'static str,
}

impl Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {} [{}]", self.what, self.why, self.remedy, self.code)
    }
}

const SPACE: &str = "check the free space, quota and health of the file system, and save again";
const OTHER: &str =
    "the snapshot cannot be trusted: restore another one, or copy this one again from where it was made";
const AGAIN: &str = "save again; if it comes back, report it";

impl Problem {
    fn new(what: impl Into<String>, why: impl Display, remedy: &'static str, code: &'static str) -> Self {
        Self { what: what.into(), why: why.to_string(), remedy, code }
    }

    /// A message that cannot be meant; a defect of whoever sent it.
    pub fn message(why: impl Display) -> Self {
        let remedy = "supervisor and streamer must be of the same release";
        Self::new("a message to the streamer", why, remedy, "streamer.message")
    }

    /// The process could not lock itself down.
    pub fn sandbox(why: impl Display) -> Self {
        let remedy = "run 'atoll doctor' to see what this host lacks";
        Self::new("the streamer's sandbox", why, remedy, "streamer.sandbox")
    }

    /// A file of the snapshot cannot be written; `step` is what was tried.
    pub fn write(file: &str, step: &str, error: &std::io::Error) -> Self {
        Self::new(format!("snapshot file '{file}'"), format!("{step}: {error}"), SPACE, "snapshot.write")
    }

    /// The state of a process is not what it said.
    pub fn state(process: &str, why: impl Display) -> Self {
        Self::new(format!("the state of '{process}'"), why, AGAIN, "snapshot.state")
    }

    /// RAM or the state area cannot be read or written.
    pub fn memory(what: &str, why: impl Display) -> Self {
        Self::new(what, why, AGAIN, "snapshot.memory")
    }

    /// A file of the snapshot cannot be read.
    pub fn read(file: &str, cause: std::io::Error) -> Self {
        SnapshotError::Unreadable { file: file.to_owned(), cause }.into()
    }

    /// A file of the snapshot is not what was written.
    pub fn damaged(file: &str, why: impl Display) -> Self {
        Self::new(format!("snapshot file '{file}'"), why, OTHER, "snapshot.damaged")
    }

    /// The snapshot is not of this machine.
    pub fn other_machine(file: &str, why: impl Display) -> Self {
        let remedy = "restore it with the configuration that it holds";
        Self::new(format!("snapshot file '{file}'"), why, remedy, "snapshot.machine")
    }

    /// A userfaultfd does not do what it must.
    pub fn faults(why: impl Display) -> Self {
        let remedy = "restore without 'on demand'; if it comes back, report it";
        Self::new("memory on demand", why, remedy, "snapshot.faults")
    }

    /// Fills a message.
    pub fn fill(&self, mut to: failure::Builder<'_>) {
        to.set_what(&self.what);
        to.set_why(&self.why);
        to.set_remedy(self.remedy);
        to.set_code(self.code);
    }
}

impl From<SnapshotError> for Problem {
    fn from(error: SnapshotError) -> Self {
        let file = match &error {
            SnapshotError::Damaged { file, .. } | SnapshotError::Unreadable { file, .. } => file.clone(),
            _ => snapshot::MANIFEST_FILE.to_owned(),
        };
        let why = match &error {
            SnapshotError::Damaged { why, .. } | SnapshotError::Version { why } => why.clone(),
            SnapshotError::Unreadable { cause, .. } => format!("it cannot be read: {cause}"),
            SnapshotError::Field { field, why } => format!("field '{field}': {why}"),
            other => other.to_string(),
        };
        Self::new(format!("snapshot file '{file}'"), why, error.remedy(), error.code())
    }
}
