//! Golden files: states that released versions wrote, which every later version loads and, as of the same machine version,
//! writes again.
//!
//! The one idea: a file is compared by its fields, not by its bytes, and what the schema says about itself is left out; a
//! field that was added since has its default in the old file and must have it in the new one. In a folder of golden files,
//! `<release>/<process>.<load>.state` is what that release wrote.

use std::fs;
use std::path::{Path, PathBuf};

use crate::inspect::{Saved, differences};
use crate::{Message, StateError};

/// The environment variable that makes [`Golden::compare`] write what is missing, with the value `write`.
pub const VARIABLE: &str = "ATOLL_GOLDEN";
/// Fields that say something about the schema and not about the guest.
const ABOUT_SCHEMA: &[&str] = &["schemaDigest", "mustUnderstand"];

/// What the guest did with the device when the state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// As after a reset.
    Idle,
    /// A guest really used it.
    Busy,
}

/// One golden file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Golden {
    /// The version that wrote it, such as `0.1.0`.
    pub release: String,
    /// The process that it is of, such as `serial0`.
    pub process: String,
    /// What the guest did.
    pub load: Load,
    /// Where it is.
    pub path: PathBuf,
}

impl Load {
    /// As in names of files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
        }
    }
}

/// All golden files of a folder, sorted.
///
/// # Errors
/// A folder that cannot be read; a file in it that is not named as golden files are.
pub fn all(folder: &Path) -> Result<Vec<Golden>, StateError> {
    let mut found = Vec::new();
    for release in entries(folder)? {
        for path in entries(&release)? {
            let unknown = || {
                let text = "is not named as <release>/<process>.<idle or busy>.state";
                StateError::File { path: path.clone(), cause: std::io::Error::other(text) }
            };
            let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
            let file = name(&path).ok_or_else(unknown)?;
            let parts: Vec<_> = file.split('.').collect();
            let &[process, load, "state"] = parts.as_slice() else { return Err(unknown()) };
            let load = [Load::Idle, Load::Busy].into_iter().find(|known| known.name() == load).ok_or_else(unknown)?;
            let release = name(&release).ok_or_else(unknown)?;
            found.push(Golden { release, process: process.into(), load, path });
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StateError> {
    let failed = |cause| StateError::File { path: folder.to_owned(), cause };
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

impl Golden {
    /// The file of a state in a folder of golden files, whether it is there or not.
    #[must_use]
    pub fn new(folder: &Path, release: &str, process: &str, load: Load) -> Self {
        let path = folder.join(release).join(format!("{process}.{}.state", load.name()));
        Self { release: release.into(), process: process.into(), load, path }
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`Saved::open`].
    pub fn read(&self) -> Result<Saved, StateError> {
        Saved::open(&self.path)
    }

    /// Compares what this version writes with the file. A file that is not there is written if [`VARIABLE`] says so; one
    /// that is there never changes.
    ///
    /// # Errors
    /// [`StateError::Golden`] with what differs; a file that cannot be read or written.
    pub fn compare(&self, message: &Message) -> Result<(), StateError> {
        let write = std::env::var_os(VARIABLE).is_some_and(|value| value == "write");
        if write && !self.path.exists() {
            return self.write(message);
        }
        self.compare_saved(&Saved::written("what this version writes", message)?)
    }

    /// As [`Golden::compare`], for a state that lies in a file. Nothing is written.
    ///
    /// # Errors
    /// [`StateError::Golden`] with what differs; a file that cannot be read.
    pub fn compare_saved(&self, new: &Saved) -> Result<(), StateError> {
        let old = self.read()?;
        let mut differences = differences(&old.dump()?, &new.dump()?);
        let of_schema = |path: &str| ABOUT_SCHEMA.contains(&path.split('[').next().unwrap_or_default());
        differences.fields.retain(|difference| !of_schema(&difference.path));
        if differences.fields.is_empty() && !differences.cut {
            return Ok(());
        }
        Err(StateError::Golden { name: old.name().into(), differences })
    }

    /// Writes it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, message: &Message) -> Result<(), StateError> {
        let failed = |cause| StateError::File { path: self.path.clone(), cause };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(&self.path, capnp::serialize::write_message_to_words(message)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, begin, finish};
    use wire::saved_capnp::saved_state;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn engine(model: &str) -> Message {
        let mut message = begin("engine", "q35-0", Kind::Engine).unwrap();
        let root = message.get_root::<saved_state::Builder<'_>>().unwrap();
        root.get_state().init_engine().set_cpu_model(model);
        finish(&mut message).unwrap();
        message
    }

    #[test]
    fn what_was_written_is_written_again() {
        let scratch = Scratch(std::env::temp_dir().join(format!("atoll-golden-{}", std::process::id())));
        let golden = Golden::new(&scratch.0, "0.1.0", "engine", Load::Busy);
        assert!(matches!(golden.compare(&engine("one")), Err(StateError::File { .. })));
        // An older schema had another digest.
        let mut old = engine("one");
        old.get_root::<saved_state::Builder<'_>>().unwrap().set_schema_digest(&[1; 32]);
        old.get_root::<saved_state::Builder<'_>>().unwrap().init_must_understand(1).set(0, "engine.gone");
        golden.write(&old).unwrap();
        golden.compare(&engine("one")).unwrap();
        let why = golden.compare(&engine("two")).unwrap_err().to_string();
        assert!(why.ends_with("is not as it was:\nengine.cpuModel: \"one\" -> \"two\"\n"), "{why}");
        assert_eq!(all(&scratch.0).unwrap(), std::slice::from_ref(&golden));
        assert!(golden.read().unwrap().check().problems[0].contains("'engine.gone' must be understood"));
        fs::write(scratch.0.join("0.1.0/engine.state"), "").unwrap();
        assert!(all(&scratch.0).unwrap_err().to_string().contains("engine.state: is not named as"));
    }
}
