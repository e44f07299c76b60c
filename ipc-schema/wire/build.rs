//! Generates Rust from the committed compiler request, so that a build needs no `capnp` program.
//!
//! `ipc-schema/schema/schema.req` is what `capnp compile -o-` printed for the schema files; `./dev lint` compares it with a
//! fresh one where the program is installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let request = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../schema/schema.req");
    println!("cargo::rerun-if-changed={}", request.display());
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    capnpc::codegen::CodeGenerationCommand::new().output_directory(&out).run(std::fs::File::open(request)?)?;
    Ok(())
}
