//! Saving: RAM and states of a paused machine into the files of a snapshot, the manifest last.
//!
//! The one idea: the digest of a chunk is that of the bytes as they will read back, holes being zeroes; so the same RAM gives
//! the same files, whatever of it was ever touched. The manifest is written when all that it speaks of is on the disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest, Sha256};
use snapshot::sparse::{self, Extents, PAGE};
use snapshot::{CHUNK_BYTES, DIGEST_BYTES, MANIFEST_FILE, MEMORY_FILE, Manifest, RamFile, StateFile, write_manifest};

use crate::order::Area;
use crate::{Problem, Stop, Watch};

/// After so many written bytes of RAM they are synced, so that the sync at the end is not a long silence.
const SYNC_BYTES: u64 = 256 << 20;

/// All that a save needs.
#[derive(Debug)]
pub struct Save {
    /// The memfd `ram`, open for reading.
    pub ram: File,
    /// Its length in bytes.
    pub ram_bytes: u64,
    /// The memfd `state`.
    pub state: File,
    /// Without states and RAM.
    pub manifest: Manifest,
    /// The manifest's file, empty.
    pub manifest_file: File,
    /// The RAM file: all hole, as long as `ram`.
    pub memory_file: File,
    /// The states, each with its file, empty.
    pub states: Vec<(Area, File)>,
}

impl Save {
    /// Empties the files and gives the RAM file its length. Before lock-down, which allows neither.
    ///
    /// # Errors
    /// What the kernel refuses, with the file.
    pub fn prepare(&self) -> Result<(), Problem> {
        let states = self.states.iter().map(|(area, file)| (area.file.as_str(), file));
        let all = [(MANIFEST_FILE, &self.manifest_file), (MEMORY_FILE, &self.memory_file)].into_iter().chain(states);
        for (name, file) in all {
            file.set_len(0).map_err(|error| Problem::write(name, "it cannot be emptied", &error))?;
        }
        let sized = self.memory_file.set_len(self.ram_bytes);
        sized.map_err(|error| Problem::write(MEMORY_FILE, "it cannot be made as long as RAM", &error))
    }

    /// Saves.
    ///
    /// # Errors
    /// A state that differs from its digest, a file that cannot be written, or that it was told to stop. The files are
    /// worth nothing then; the manifest is empty.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<(), Stop> {
        let states = self.save_states(watch)?;
        let ram = self.save_ram(watch)?;
        let files = self.states.iter().map(|(area, file)| (area.file.as_str(), file));
        for (name, file) in files.chain([(MEMORY_FILE, &self.memory_file)]) {
            sync(name, file)?;
        }
        let manifest = Manifest { states, ram, ..self.manifest.clone() };
        let bytes = write_manifest(&manifest).map_err(Problem::from)?;
        put(MANIFEST_FILE, &self.manifest_file, &bytes, 0)?;
        sync(MANIFEST_FILE, &self.manifest_file)?;
        Ok(())
    }

    fn save_states(&self, watch: &mut dyn Watch) -> Result<Vec<StateFile>, Stop> {
        let total = self.states.iter().map(|(area, _)| area.length).sum();
        let (mut done, mut list) = (0, Vec::new());
        for (area, file) in &self.states {
            let mut bytes = vec![0; usize::try_from(area.length).unwrap_or(0)];
            let there = sparse::read(&self.state, &mut bytes, area.offset());
            let there = there.map_err(|error| Problem::state(&area.process, format!("it cannot be read: {error}")))?;
            if there != bytes.len() || Sha256::digest(&bytes).as_slice() != area.digest {
                let why = "what lies in its area differs from the digest that the process gave";
                return Err(Problem::state(&area.process, why).into());
            }
            put(&area.file, file, &bytes, 0)?;
            let (process, file) = (area.process.clone(), area.file.clone());
            list.push(StateFile { process, file, length: area.length, digest: area.digest });
            done += area.length;
            watch.progress("states", done, total)?;
        }
        Ok(list)
    }

    fn save_ram(&self, watch: &mut dyn Watch) -> Result<RamFile, Stop> {
        let unreadable =
            |error: std::io::Error| Problem::memory("the guest's RAM", format!("it cannot be read: {error}"));
        let length = self.ram_bytes;
        let total = Extents::total(&self.ram, length).map_err(unreadable)?;
        let mut ram = RamFile { file: MEMORY_FILE.to_owned(), length, chunk_bytes: CHUNK_BYTES, ..RamFile::default() };
        ram.digests = vec![0; usize::try_from(ram.chunks()).unwrap_or(0) * DIGEST_BYTES];
        let mut extents = Extents::new(&self.ram, length);
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let (mut from, mut done, mut unsynced) = (0, 0, 0);
        while let Some((start, _)) = extents.at(from).map_err(unreadable)? {
            let n = start / u64::from(CHUNK_BYTES);
            let (chunk_start, chunk_bytes) = ram.extent(n);
            let chunk = &mut buffer[..chunk_bytes];
            chunk.fill(0);
            let chunk_end = chunk_start + chunk.len() as u64;
            from = start;
            // Every piece of data that lies in this chunk.
            while let Some((start, end)) = extents.at(from).map_err(unreadable)?.filter(|(start, _)| *start < chunk_end)
            {
                let end = end.min(chunk_end);
                let piece = &mut chunk[(start - chunk_start) as usize..(end - chunk_start) as usize];
                if sparse::read(&self.ram, piece, start).map_err(unreadable)? != piece.len() {
                    return Err(Problem::memory("the guest's RAM", "it is shorter than at the start").into());
                }
                done += end - start;
                from = end;
            }
            let mut written = 0;
            for (at, run) in sparse::runs(chunk) {
                put(MEMORY_FILE, &self.memory_file, run, chunk_start + at as u64)?;
                written += run.len().next_multiple_of(PAGE) as u64;
            }
            if written > 0 {
                let at = usize::try_from(n).unwrap_or(usize::MAX) * DIGEST_BYTES;
                ram.digests[at..at + DIGEST_BYTES].copy_from_slice(&Sha256::digest(&*chunk));
            }
            ram.data_bytes += written;
            unsynced += written;
            from = from.max(chunk_end);
            watch.progress("ram", done, total)?;
            if unsynced >= SYNC_BYTES {
                sync(MEMORY_FILE, &self.memory_file)?;
                unsynced = 0;
            }
        }
        watch.progress("ram", total, total)?;
        Ok(ram)
    }
}

fn put(name: &str, file: &File, bytes: &[u8], offset: u64) -> Result<(), Problem> {
    let written = file.write_all_at(bytes, offset);
    written.map_err(|error| {
        let step = format!("{} bytes at {offset} cannot be written", bytes.len());
        Problem::write(name, &step, &error)
    })
}

fn sync(name: &str, file: &File) -> Result<(), Problem> {
    file.sync_data().map_err(|error| Problem::write(name, "it cannot be synced", &error))
}
