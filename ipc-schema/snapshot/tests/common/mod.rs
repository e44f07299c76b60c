//! Snapshots that tell in every file which save they are of.
#![expect(clippy::unwrap_used, reason = "test code outside of test functions")]
#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use snapshot::{
    CHUNK_BYTES, Directory, MANIFEST_FILE, MEMORY_FILE, Manifest, RamFile, Snapshot, SnapshotError, StateFile, Status,
    write_manifest,
};

/// The files of a snapshot here.
pub const FILES: [&str; 4] = [MANIFEST_FILE, MEMORY_FILE, "engine.state", "board.state"];
const RAM: u64 = 1 << 20;

/// A folder of a test's own, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("snapshot-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn content(tag: u64, file: &str) -> Vec<u8> {
    format!("save {tag} of {file}").into_bytes()
}

/// Writes what a streamer would.
pub fn fill(directory: &Directory, tag: u64) {
    let file = |name: &str| File::from(directory.file(name).unwrap().try_clone_to_owned().unwrap());
    let mut states = Vec::new();
    for process in ["engine", "board"] {
        let name = snapshot::state_file(process);
        let bytes = content(tag, &name);
        file(&name).write_all_at(&bytes, 0).unwrap();
        let (length, digest) = (bytes.len() as u64, Sha256::digest(&bytes).into());
        states.push(StateFile { process: process.into(), file: name, length, digest });
    }
    let memory = file(MEMORY_FILE);
    memory.set_len(RAM).unwrap();
    memory.write_all_at(&content(tag, MEMORY_FILE), 0).unwrap();
    let mut ram = RamFile { file: MEMORY_FILE.into(), length: RAM, chunk_bytes: CHUNK_BYTES, ..RamFile::default() };
    ram.digests = vec![tag as u8; 32 * ram.chunks() as usize];
    let config = {
        let mut message: capnp::message::Builder<_> = capnp::message::Builder::new_default();
        message.init_root::<wire::vm_capnp::vm_config::Builder<'_>>().set_name("monday");
        capnp::serialize::write_message_to_words(&message)
    };
    let manifest = Manifest {
        must_understand: Vec::new(),
        config,
        status: Status::Running,
        resume_to: Status::Running,
        resets: tag,
        wall_clock_seconds: 0,
        version: String::new(),
        kernel_summary: String::new(),
        states,
        ram,
    };
    file(MANIFEST_FILE).write_all_at(&write_manifest(&manifest).unwrap(), 0).unwrap();
}

/// A whole save.
pub fn save(folder: &Path, name: &str, tag: u64) -> Result<PathBuf, SnapshotError> {
    let directory = Directory::create_temporary(folder, name, &FILES)?;
    fill(&directory, tag);
    directory.commit()
}

/// Which save it is; every file must say the same.
pub fn tag(snapshot: &Snapshot) -> u64 {
    let tag = snapshot.manifest().resets;
    for (name, fd) in snapshot.files().filter(|(name, _)| *name != MANIFEST_FILE) {
        let want = content(tag, name);
        let mut bytes = vec![0; want.len()];
        File::from(fd.try_clone_to_owned().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, want, "{name}");
    }
    tag
}
