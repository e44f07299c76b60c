//! Generates the control socket's interface from the committed compiler request; its imports are `wire`'s modules.

use std::collections::HashMap;
use std::path::PathBuf;

/// File id of `engine.capnp`, whose types `control.capnp` imports.
const ENGINE: u64 = 0xd3c4_1ea1_0f5b_2a02;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let request = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../ipc-schema/schema/control.req");
    println!("cargo::rerun-if-changed={}", request.display());
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(&out)
        .crates_provide_map(HashMap::from([(ENGINE, "wire".to_owned())]))
        .run(std::fs::File::open(request)?)?;
    Ok(())
}
