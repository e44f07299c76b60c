//! What the files hold, compared with what the manifest says of it.
//!
//! The one idea: bytes are copied into this process once, compared with their digest there, and only then go on to where they
//! belong; so it does not matter who else can write to the files. A chunk without a digest must be all zeroes.

use std::fs::File;

use sha2::{Digest, Sha256};

use crate::sparse::{self, Extents};
use crate::{DIGEST_BYTES, RamFile, Snapshot, SnapshotError, StateFile};

fn unreadable(file: &str, cause: std::io::Error) -> SnapshotError {
    SnapshotError::Unreadable { file: file.to_owned(), cause }
}

/// The bytes of the state file called `name`.
///
/// # Errors
/// It cannot be read, or is not of this length and digest.
pub fn read_state(name: &str, file: &File, length: u64, digest: &[u8; DIGEST_BYTES]) -> Result<Vec<u8>, SnapshotError> {
    let length = usize::try_from(length).unwrap_or(0);
    // One byte more, to see the end.
    let mut bytes = vec![0; length + 1];
    let there = sparse::read(file, &mut bytes, 0).map_err(|cause| unreadable(name, cause))?;
    if there != length {
        let than = if there < length { "shorter" } else { "longer" };
        return Err(SnapshotError::damaged(name, format!("it is {than} than the {length} bytes of the manifest")));
    }
    bytes.truncate(length);
    if Sha256::digest(&bytes).as_slice() != digest {
        return Err(SnapshotError::damaged(name, "its content differs from its digest"));
    }
    Ok(bytes)
}

impl Snapshot {
    /// The bytes of a state, which is one of the manifest's.
    ///
    /// # Errors
    /// The file cannot be read, or is not what the manifest says.
    pub fn state(&self, state: &StateFile) -> Result<Vec<u8>, SnapshotError> {
        read_state(&state.file, &self.open_file(&state.file)?, state.length, &state.digest)
    }

    /// Compares all of RAM with its digests.
    ///
    /// # Errors
    /// The file cannot be read, or the first chunk that is not what the manifest says.
    pub fn check_memory(&self) -> Result<(), SnapshotError> {
        let ram = &self.manifest().ram;
        let file = self.open_file(&ram.file)?;
        let (mut chunks, mut extents) = (Chunks::new(&file, ram), Extents::new(&file, ram.length));
        for n in 0..ram.chunks() {
            if !chunks.is_hole(n, &mut extents)? {
                chunks.read(n)?;
            }
        }
        Ok(())
    }

    fn open_file(&self, name: &str) -> Result<File, SnapshotError> {
        let Some(file) = self.file(name) else {
            return Err(SnapshotError::damaged(name, "the file is missing"));
        };
        Ok(file.try_clone_to_owned().map_err(|cause| unreadable(name, cause))?.into())
    }
}

/// The chunks of the RAM file.
#[derive(Debug)]
pub struct Chunks<'a> {
    file: &'a File,
    ram: &'a RamFile,
    buffer: Vec<u8>,
}

impl<'a> Chunks<'a> {
    /// Those of `file`, which is as `ram` says.
    #[must_use]
    pub fn new(file: &'a File, ram: &'a RamFile) -> Self {
        Self { file, ram, buffer: vec![0; ram.chunk_bytes as usize] }
    }

    /// Bytes of all chunks with data.
    #[must_use]
    pub fn total(&self) -> u64 {
        let with_data = (0..self.ram.chunks()).filter(|n| self.ram.digest(*n).is_some());
        with_data.map(|n| self.ram.extent(n).1 as u64).sum()
    }

    /// Whether chunk `n` has no data, neither as the manifest says nor in the file, so that there is nothing to be read. To be
    /// asked in ascending order.
    ///
    /// # Errors
    /// The file cannot be asked.
    pub fn is_hole(&self, n: u64, extents: &mut Extents<'_>) -> Result<bool, SnapshotError> {
        let (start, length) = self.ram.extent(n);
        if self.ram.digest(n).is_some() {
            return Ok(false);
        }
        let data = extents.at(start).map_err(|cause| unreadable(&self.ram.file, cause))?;
        Ok(data.is_none_or(|(data, _)| data >= start + length as u64))
    }

    /// Chunk `n` and its offset in the file, once it is checked.
    ///
    /// # Errors
    /// It is damaged or cannot be read.
    pub fn read(&mut self, n: u64) -> Result<(u64, &[u8]), SnapshotError> {
        let (offset, length) = self.ram.extent(n);
        let chunk = &mut self.buffer[..length];
        let there = sparse::read(self.file, chunk, offset).map_err(|cause| unreadable(&self.ram.file, cause))?;
        if there != length {
            return Err(SnapshotError::damaged(
                &self.ram.file,
                format!("it ends in the chunk of {length} bytes at {offset:#x}"),
            ));
        }
        let fits = match self.ram.digest(n) {
            Some(digest) => Sha256::digest(&*chunk).as_slice() == digest,
            None => sparse::is_zero(chunk),
        };
        if fits {
            return Ok((offset, &self.buffer[..length]));
        }
        let why = format!("the chunk of {length} bytes at {offset:#x} differs from its digest");
        Err(SnapshotError::damaged(&self.ram.file, why))
    }
}
