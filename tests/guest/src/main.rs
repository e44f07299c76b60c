//! `guest BUSYBOX OUTPUT`: writes the initramfs of the tests' guest, for `./dev`.
//!
//! The idea: the file is only touched when its content changes, so that whatever depends on it need not be made again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use guest::{Error, busybox_programs, initramfs};

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [busybox, output] = arguments.as_slice() else {
        eprintln!("usage: guest BUSYBOX OUTPUT");
        return ExitCode::from(2);
    };
    match write(busybox, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(busybox: &Path, output: &Path) -> Result<(), Error> {
    let program = fs::read(busybox).map_err(|error| Error::File { path: busybox.to_owned(), error })?;
    let image = initramfs(&program, &busybox_programs(busybox)?);
    if fs::read(output).is_ok_and(|old| old == image) {
        return Ok(());
    }
    // Written beside and moved, so that nobody ever sees half an image.
    let part = output.with_extension("part");
    let written = fs::write(&part, image).and_then(|()| fs::rename(&part, output));
    written.map_err(|error| Error::File { path: output.to_owned(), error })
}
