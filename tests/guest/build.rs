//! Assembles the bare-metal payloads (`src/bare/*.S`) into multiboot kernels.
//!
//! The idea: the C compiler that every Rust toolchain on Linux links with is all it takes; the 32-bit code needs no library.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

/// The payloads, as `src/bare.rs` names them.
const PAYLOADS: [&str; 5] = ["beat", "echo", "pending", "reset", "sleep"];
/// Those that are no kernels but bytes for one address.
const FLAT: [(&str, &str); 3] = [("dirty", "0x1000"), ("restless", "0x1000"), ("rewritten", "0x1000")];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src/bare");
    println!("cargo::rerun-if-changed=build.rs");
    let kernels = PAYLOADS.into_iter().try_for_each(|name| assemble(name, None));
    match kernels.and_then(|()| FLAT.into_iter().try_for_each(|(name, at)| assemble(name, Some(at)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why}");
            ExitCode::FAILURE
        }
    }
}

/// A kernel, or bytes for the address `at`.
fn assemble(name: &str, at: Option<&str>) -> Result<(), String> {
    let folder = Path::new("src/bare");
    let out = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    let image = Path::new(&out).join(name).with_extension(if at.is_some() { "bin" } else { "elf" });
    let mut compiler = Command::new("cc");
    compiler.args(["-m32", "-nostdlib", "-static", "-no-pie"]);
    compiler.args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"]);
    match at {
        None => compiler.arg("-Wl,-T").arg(folder.join("link.ld")),
        Some(at) => compiler.args(["-Wl,--oformat=binary", "-Wl,-e,start"]).arg(format!("-Wl,-Ttext={at}")),
    };
    compiler.arg("-o").arg(&image).arg(folder.join(name).with_extension("S"));
    let output = compiler.output().map_err(|error| format!("cc, which assembles the payloads: {error}"))?;
    if !output.status.success() {
        // One line for each of the compiler's, as cargo wants them.
        let text = String::from_utf8_lossy(&output.stderr).replace('\n', "; ");
        return Err(format!("cc failed at the payload {name}: {text}"));
    }
    let size = fs::metadata(&image).map_err(|error| format!("{}: {error}", image.display()))?.len();
    if size == 0 { Err(format!("{} is empty", image.display())) } else { Ok(()) }
}
