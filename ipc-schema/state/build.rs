//! Computes what a process writes into its saved state about the schema: a digest for each kind of process, and the names of
//! the fields that were added since the schema was last frozen.
//!
//! Both come from the committed compiler requests (`ipc-schema/schema/schema.req`, `frozen/schema.req`), so that a build needs
//! no `capnp` program.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

use sha2::{Digest, Sha256};

#[path = "src/model.rs"]
#[expect(dead_code, reason = "the lint uses the rest of it")]
mod model;

/// Kinds of processes: name of the constants, member of `SavedState.state`, and the struct of its state.
const KINDS: &[(&str, &str, &str, &str)] = &[
    ("ENGINE", "engine", "saved.capnp", "EngineState"),
    ("BOARD", "board", "state-board.capnp", "BoardState"),
    ("SERIAL", "serial", "state-serial.capnp", "SerialState"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../schema");
    let read = |name: &str| -> Result<model::Schema, Box<dyn Error>> {
        let path = folder.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        Ok(model::Schema::parse(&fs::read(path)?)?)
    };
    let (current, frozen) = (read("schema.req")?, read("frozen/schema.req")?);
    let added = added(&current, &frozen)?;
    let mut out = String::new();
    for (constant, member, file, root) in KINDS {
        writeln!(out, "const {constant}_DIGEST: [u8; 32] = {:?};", digest(&current, file, root)?)?;
        writeln!(out, "const {constant}_FROZEN: [u8; 32] = {:?};", digest(&frozen, file, root)?)?;
        let other = |name: &str| KINDS.iter().any(|kind| kind.1 != *member && head(name) == kind.1);
        let names: Vec<_> = added.iter().filter(|name| !other(name)).collect();
        writeln!(out, "const {constant}_ADDED: &[&str] = &{names:?};")?;
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("kinds.rs"), out)?;
    Ok(())
}

/// The first part of a path.
fn head(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Names of the fields that the frozen schema does not have, sorted.
fn added(current: &model::Schema, frozen: &model::Schema) -> Result<Vec<String>, String> {
    let paths = |schema: &model::Schema| {
        let root = schema.find("saved.capnp", "SavedState").ok_or("the schema has no SavedState")?;
        Ok::<_, String>(schema.paths(root, "state"))
    };
    Ok(paths(current)?.difference(&paths(frozen)?).cloned().collect())
}

fn digest(schema: &model::Schema, file: &str, root: &str) -> Result<[u8; 32], String> {
    let id = schema.find(file, root).ok_or_else(|| format!("{file} has no struct {root}"))?;
    Ok(Sha256::digest(schema.canonical(id)).into())
}
