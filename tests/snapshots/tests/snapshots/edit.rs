//! Snapshots that a hostile hand has changed: one field of a state or of the manifest, with lengths and digests that fit.

use std::fs;
use std::path::Path;

use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp::serialize::{read_message, write_message_to_words};
use sha2::{Digest, Sha256};
use snapshot::{MAGIC, MANIFEST_FILE, Snapshot, write_manifest};
use wire::saved_capnp::saved_state;
use wire::snapshot_capnp::manifest;

pub use wire::saved_capnp::saved_state::state::Which;

/// Copies a file, changed.
pub fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) {
    fs::write(to, change(&fs::read(from).unwrap())).unwrap();
}

/// A state with another field.
pub fn state(mut bytes: &[u8], change: impl FnOnce(saved_state::Builder<'_>)) -> Vec<u8> {
    let from = read_message(&mut bytes, ReaderOptions::new()).unwrap();
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    message.set_root(from.get_root::<saved_state::Reader<'_>>().unwrap()).unwrap();
    change(message.get_root().unwrap());
    write_message_to_words(&message)
}

/// A manifest's file with another field.
pub fn manifest(file: &[u8], change: impl FnOnce(manifest::Builder<'_>)) -> Vec<u8> {
    let from = read_message(&mut &file[2 * MAGIC.len()..], ReaderOptions::new()).unwrap();
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    message.set_root(from.get_root::<manifest::Reader<'_>>().unwrap()).unwrap();
    change(message.get_root().unwrap());
    let message = write_message_to_words(&message);
    let mut file = [&MAGIC[..], &(message.len() as u64).to_le_bytes(), &message].concat();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

/// Puts states into a snapshot, and its manifest in order.
pub fn plant(path: &Path, content: impl Fn(&str) -> Vec<u8>) {
    let mut manifest = Snapshot::open(path).unwrap().manifest().clone();
    for row in &mut manifest.states {
        let content = content(&row.process);
        row.length = content.len() as u64;
        row.digest = Sha256::digest(&content).into();
        fs::write(path.join(&row.file), content).unwrap();
    }
    fs::write(path.join(MANIFEST_FILE), write_manifest(&manifest).unwrap()).unwrap();
}
