//! How bytes get into guest memory: through one small trait and one bounce buffer.
//!
//! The idea: the loader never holds a whole file. It moves chunks, so that its arena is small and fixed while kernels
//! and initrds are as large as they like. Memory is not cleared between two runs of the guest, so whatever a kernel
//! expects to be zero is zeroed here.

use std::fmt;

use crate::error::LoadError;
use crate::source::{self, Source};

/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;

/// Guest memory as the loader needs it. A range may be refused; then nothing is known about what was written.
pub trait GuestRam {
    /// Why a write was refused.
    type Error: fmt::Display;
    /// Copies `bytes` to the guest-physical address `start`.
    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), Self::Error>;
    /// Makes `len` bytes at `start` zero.
    fn zero(&mut self, start: u64, len: u64) -> Result<(), Self::Error>;
}

/// Guest memory plus the bounce buffer.
pub(crate) struct Writer<'a, R: GuestRam> {
    ram: &'a mut R,
    buffer: Vec<u8>,
}

impl<'a, R: GuestRam> Writer<'a, R> {
    /// Wraps `ram` for the time of one load.
    pub fn new(ram: &'a mut R) -> Self {
        Self { ram, buffer: vec![0; CHUNK] }
    }

    /// Writes a table.
    pub fn bytes(&mut self, start: u64, bytes: &[u8], what: &str) -> Result<(), LoadError> {
        self.ram.write(start, bytes).map_err(|cause| LoadError::memory(what, start, bytes.len() as u64, &cause))
    }

    /// Zeroes a range.
    pub fn zero(&mut self, start: u64, len: u64, what: &str) -> Result<(), LoadError> {
        if len == 0 {
            return Ok(());
        }
        self.ram.zero(start, len).map_err(|cause| LoadError::memory(what, start, len, &cause))
    }

    /// Copies `len` bytes of a file from `offset` to the address `start`.
    pub fn copy(&mut self, file: &dyn Source, offset: u64, len: u64, start: u64, what: &str) -> Result<(), LoadError> {
        source::require(file, offset, len, what)?;
        let mut done = 0;
        while done < len {
            let step = (len - done).min(CHUNK as u64);
            let chunk = &mut self.buffer[..step as usize];
            source::read(file, offset + done, chunk, what)?;
            let to = start.saturating_add(done);
            self.ram.write(to, chunk).map_err(|cause| LoadError::memory(what, to, step, &cause))?;
            done += step;
        }
        Ok(())
    }
}
