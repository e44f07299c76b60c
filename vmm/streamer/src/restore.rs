//! Restoring: the manifest and the states checked before anything starts, and RAM chunk by chunk, each checked when it is read.
//!
//! The one idea: nothing goes to where it belongs before it was compared with its digest ([`snapshot::content`]).

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use snapshot::content::{self, Chunks};
use snapshot::sparse::{self, Extents};
use snapshot::{MANIFEST_FILE, MAX_MANIFEST_BYTES, MEMORY_FILE, Manifest, RamFile, read_manifest};

use crate::order::Area;
use crate::{Problem, Stop, Watch};

/// All that a restore needs.
#[derive(Debug)]
pub struct Restore {
    /// The memfd `ram`, fresh: all hole.
    pub ram: File,
    /// Its length in bytes.
    pub ram_bytes: u64,
    /// The memfd `state`.
    pub state: File,
    /// The manifest's file.
    pub manifest_file: File,
    /// Its length in bytes.
    pub manifest_bytes: u64,
    /// The RAM file.
    pub memory_file: File,
    /// Its length in bytes.
    pub memory_bytes: u64,
    /// The states, each with its file.
    pub states: Vec<(Area, File)>,
}

impl Restore {
    /// Checks the manifest and every state, then copies the states into their areas. What is left to do is RAM, as the manifest
    /// describes it.
    ///
    /// # Errors
    /// What does not fit, with the file; no area is changed then. Or that it was told to stop.
    pub fn states(&self, watch: &mut dyn Watch) -> Result<RamFile, Stop> {
        let manifest = self.manifest()?;
        let ram = &manifest.ram;
        if self.memory_bytes != ram.length {
            let why = format!("it has {} bytes, and the manifest says {}", self.memory_bytes, ram.length);
            return Err(Problem::damaged(MEMORY_FILE, why).into());
        }
        if self.ram_bytes != ram.length {
            let why = format!("it is for RAM of {} bytes, and this machine has {}", ram.length, self.ram_bytes);
            return Err(Problem::other_machine(MEMORY_FILE, why).into());
        }
        let total = self.states.iter().map(|(area, _)| area.length).sum();
        let (mut done, mut checked) = (0, Vec::new());
        for (area, file) in &self.states {
            checked.push((area, check_state(&manifest, area, file)?));
            done += area.length;
            watch.progress("states", done, total)?;
        }
        for (area, bytes) in checked {
            let written = self.state.write_all_at(&bytes, area.offset());
            let why = |error| Problem::memory("the state area", format!("row {} cannot be written: {error}", area.row));
            written.map_err(why)?;
        }
        Ok(manifest.ram)
    }

    fn manifest(&self) -> Result<Manifest, Problem> {
        if self.manifest_bytes > MAX_MANIFEST_BYTES {
            let why = format!("it has {} bytes; none is longer than {MAX_MANIFEST_BYTES}", self.manifest_bytes);
            return Err(Problem::damaged(MANIFEST_FILE, why));
        }
        let mut bytes = vec![0; usize::try_from(self.manifest_bytes).unwrap_or(0)];
        let there = sparse::read(&self.manifest_file, &mut bytes, 0);
        let there = there.map_err(|error| Problem::read(MANIFEST_FILE, error))?;
        bytes.truncate(there);
        Ok(read_manifest(&bytes)?)
    }

    /// Brings all of RAM.
    ///
    /// # Errors
    /// A chunk that is damaged, named with its place; RAM that cannot be written; or that it was told to stop.
    pub fn eager(&self, ram: &RamFile, watch: &mut dyn Watch) -> Result<(), Stop> {
        let mut chunks = Chunks::new(&self.memory_file, ram);
        let total = chunks.total();
        let (mut extents, mut done) = (Extents::new(&self.memory_file, ram.length), 0);
        for n in 0..ram.chunks() {
            if chunks.is_hole(n, &mut extents).map_err(Problem::from)? {
                continue;
            }
            let (offset, chunk) = chunks.read(n).map_err(Problem::from)?;
            for (at, run) in sparse::runs(chunk) {
                let written = self.ram.write_all_at(run, offset + at as u64);
                let why = |error| Problem::memory("the guest's RAM", format!("{offset:#x} cannot be written: {error}"));
                written.map_err(why)?;
            }
            done += chunk.len() as u64;
            watch.progress("ram", done.min(total), total)?;
        }
        watch.progress("ram", total, total)
    }
}

/// The bytes of a state's file, if they are what both the manifest and the order say.
fn check_state(manifest: &Manifest, area: &Area, file: &File) -> Result<Vec<u8>, Problem> {
    let same = |state: &&snapshot::StateFile| state.process == area.process && state.file == area.file;
    let Some(state) = manifest.states.iter().find(same) else {
        let why = format!("it names no file '{}' for '{}'", area.file, area.process);
        return Err(Problem::damaged(MANIFEST_FILE, why));
    };
    if (state.length, state.digest) != (area.length, area.digest) {
        let why = format!("what it says of '{}' has changed since the restore began", area.file);
        return Err(Problem::damaged(MANIFEST_FILE, why));
    }
    Ok(content::read_state(&area.file, file, area.length, &area.digest)?)
}
