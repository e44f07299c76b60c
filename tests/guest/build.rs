//! Assembles the bare-metal payloads (`src/bare/*.S`) into multiboot kernels.
//!
//! The idea: the C compiler that every Rust toolchain on Linux links with is all it takes; the 32-bit code needs no library.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

/// The payloads, as `src/bare.rs` names them.
const PAYLOADS: [&str; 5] = ["beat", "echo", "pending", "reset", "sleep"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src/bare");
    println!("cargo::rerun-if-changed=build.rs");
    match PAYLOADS.into_iter().try_for_each(assemble) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why}");
            ExitCode::FAILURE
        }
    }
}

fn assemble(name: &str) -> Result<(), String> {
    let folder = Path::new("src/bare");
    let out = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    let image = Path::new(&out).join(name).with_extension("elf");
    let mut compiler = Command::new("cc");
    compiler.args(["-m32", "-nostdlib", "-static", "-no-pie"]);
    compiler.args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments", "-Wl,-T"]);
    compiler.arg(folder.join("link.ld")).arg("-o").arg(&image).arg(folder.join(name).with_extension("S"));
    let output = compiler.output().map_err(|error| format!("cc, which assembles the payloads: {error}"))?;
    if !output.status.success() {
        // One line for each of the compiler's, as cargo wants them.
        let text = String::from_utf8_lossy(&output.stderr).replace('\n', "; ");
        return Err(format!("cc failed at the payload {name}: {text}"));
    }
    let size = fs::metadata(&image).map_err(|error| format!("{}: {error}", image.display()))?.len();
    if size == 0 { Err(format!("{} is empty", image.display())) } else { Ok(()) }
}
