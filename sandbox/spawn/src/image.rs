//! A binary to start, as an open descriptor.
//!
//! An islet's root is empty, so its binary is executed by descriptor, and nothing could load a dynamic one. That is
//! checked here, from the ELF headers, where the answer can name the file, rather than by an errno of exec.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An executable file that needs no loader.
#[derive(Debug)]
pub struct Image {
    file: OwnedFd,
    name: String,
}

/// Why a file cannot be an [`Image`].
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened or read.
    #[error("{name} cannot be opened: {source}")]
    Open {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It is not an executable of this machine.
    #[error("{name} is not an x86_64 ELF executable")]
    NotExecutable {
        /// The file.
        name: String,
    },
    /// It names an interpreter.
    #[error(
        "{name} is linked dynamically (it needs {interpreter}), which an empty root does not have; \
         build it as a static-pie: -C target-feature=+crt-static"
    )]
    Dynamic {
        /// The file.
        name: String,
        /// The interpreter that it names.
        interpreter: String,
    },
}

/// ELF-64 file header: size, and offsets of the fields used (System V ABI, "ELF Header").
const HEADER: usize = 64;
const MACHINE: usize = 18;
const PROGRAM_HEADERS: usize = 32;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;
/// EM_X86_64.
const X86_64: u16 = 62;
/// A program header has 56 bytes; its type at 0, file offset at 8, file size at 32.
const ENTRY: usize = 56;
/// PT_INTERP.
const INTERPRETER: u32 = 3;
/// Linux itself refuses more than 64 KiB of program headers; a path has at most this many bytes.
const PATH_MAX: usize = 4096;

impl Image {
    /// Opens the binary at `path`.
    ///
    /// # Errors
    /// The file is missing, unreadable, not an x86_64 ELF executable, or dynamically linked.
    pub fn open(path: impl AsRef<Path>) -> Result<Image, ImageError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Image::from_fd(file.into(), &name),
            Err(source) => Err(ImageError::Open { name, source }),
        }
    }

    /// Takes an open binary; `name` is for messages.
    ///
    /// # Errors
    /// As for [`open`](Image::open).
    pub fn from_fd(file: OwnedFd, name: &str) -> Result<Image, ImageError> {
        let file = File::from(file);
        check(&file, name)?;
        Ok(Image { file: file.into(), name: name.to_owned() })
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(file: &File, name: &str) -> Result<(), ImageError> {
    let not_executable = || ImageError::NotExecutable { name: name.to_owned() };
    let read = |bytes: &mut [u8], at: u64| match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(not_executable()),
        Err(source) => Err(ImageError::Open { name: name.to_owned(), source }),
    };
    let mut header = [0u8; HEADER];
    read(&mut header, 0)?;
    // Class 64, little-endian.
    if header[..6] != *b"\x7fELF\x02\x01" || half(&header, MACHINE) != X86_64 {
        return Err(not_executable());
    }
    if usize::from(half(&header, PROGRAM_HEADER_SIZE)) != ENTRY {
        return Err(not_executable());
    }
    let table = long(&header, PROGRAM_HEADERS);
    for index in 0..u64::from(half(&header, PROGRAM_HEADER_COUNT)) {
        let mut entry = [0u8; ENTRY];
        let at = table.checked_add(index * ENTRY as u64).ok_or_else(not_executable)?;
        read(&mut entry, at)?;
        if word(&entry, 0) == INTERPRETER {
            let length = (long(&entry, 32) as usize).min(PATH_MAX);
            let mut path = vec![0u8; length];
            read(&mut path, long(&entry, 8))?;
            let interpreter = String::from_utf8_lossy(&path).trim_end_matches('\0').to_owned();
            return Err(ImageError::Dynamic { name: name.to_owned(), interpreter });
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_binary_passes_and_others_are_named() {
        let this = std::env::current_exe().expect("the test has a path");
        Image::open(&this).expect("tests are static-pie, too");

        let missing = Image::open("/no/such/binary").expect_err("it is missing");
        assert!(missing.to_string().contains("/no/such/binary cannot be opened"), "{missing}");

        let dynamic = Image::open("/bin/sh").expect_err("the shell is dynamic");
        assert!(matches!(&dynamic, ImageError::Dynamic { interpreter, .. } if interpreter.contains("ld-linux")));

        let text = Image::open("/etc/passwd").expect_err("a text");
        assert!(matches!(text, ImageError::NotExecutable { .. }), "{text}");
    }
}
