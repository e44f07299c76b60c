//! Memory on demand: a chunk is read, checked and placed when the guest touches it, and all others in the background.
//!
//! The one idea: pages are only ever added. A page that is there already, placed by a predecessor or written by the guest since,
//! stays as it is; so a streamer may die at any moment and another one begins again from the first chunk. Pages of zeroes are
//! placed where somebody waits for one and nowhere else, and once every other page is placed, the mappings go back to the
//! kernel, for which a missing page is zeroes.
//!
//! RAM is one memfd: a page that was placed through one mapping is there for all of them. Who waits for it in another mapping is
//! woken through that one's descriptor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use snapshot::RamFile;
use snapshot::content::Chunks;
use snapshot::sparse::{self, Extents, PAGE};
use uffd::{Error, Uffd};

use crate::Problem;

/// Faults that are read at once.
const BATCH: usize = 64;

/// A mapping of RAM in another process.
#[derive(Debug)]
pub struct Mapping {
    /// Its userfaultfd, registered for missing pages.
    pub uffd: Uffd,
    /// Address of RAM's offset 0.
    pub base: u64,
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Missing,
    /// Every page that is not zero is there.
    Placed,
    Damaged,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// More chunks.
    Chunks,
    /// Nothing: [`Demand::finish`].
    Nothing,
    /// Only to wait for faults: some chunks are damaged, and pages of zeroes may be needed.
    Faults,
}

/// The pager.
#[derive(Debug)]
pub struct Demand<'a> {
    /// The memfd `ram`.
    memfd: &'a File,
    ram: &'a RamFile,
    chunks: Chunks<'a>,
    extents: Extents<'a>,
    mappings: &'a [Mapping],
    table: Vec<Chunk>,
    /// The next chunk to be looked at in the background.
    next: u64,
    done: u64,
    total: u64,
    damaged: Vec<u64>,
}

impl<'a> Demand<'a> {
    /// A pager for `ram`, of which nothing need be there yet.
    #[must_use]
    pub fn new(memfd: &'a File, file: &'a File, ram: &'a RamFile, mappings: &'a [Mapping]) -> Self {
        let chunks = Chunks::new(file, ram);
        let table = vec![Chunk::Missing; usize::try_from(ram.chunks()).unwrap_or(0)];
        let (extents, total) = (Extents::new(file, ram.length), chunks.total());
        Self { memfd, ram, chunks, extents, mappings, table, next: 0, done: 0, total, damaged: Vec::new() }
    }

    /// Bytes of chunks with data: how many are placed, and all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.done.min(self.total), self.total)
    }

    /// Offsets of chunks that were found damaged since the last call.
    pub fn damaged(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.damaged)
    }

    /// The descriptors that become readable with a fault.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.mappings.iter().map(|mapping| mapping.uffd.as_fd())
    }

    /// Has everybody who waits ask again: a predecessor may have died with a fault that it had read, which the kernel reports
    /// only once. To be called first.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin(&self) -> Result<(), Problem> {
        self.wake(0, self.ram.length)
    }

    /// Serves the faults that are waiting.
    ///
    /// # Errors
    /// Pages cannot be placed, or nobody has RAM mapped any more.
    pub fn serve(&mut self) -> Result<(), Problem> {
        for m in 0..self.mappings.len() {
            let mut addresses = [0; BATCH];
            let count = self.mappings[m].uffd.read_faults(&mut addresses).map_err(Problem::faults)?;
            for address in &addresses[..count.min(BATCH)] {
                let offset = address.wrapping_sub(self.mappings[m].base) & !(PAGE as u64 - 1);
                if offset < self.ram.length {
                    self.fault(m, offset)?;
                }
            }
        }
        Ok(())
    }

    /// Somebody waits at `offset` in mapping `m`.
    fn fault(&mut self, m: usize, offset: u64) -> Result<(), Problem> {
        let n = offset / u64::from(self.ram.chunk_bytes);
        if self.place(m, n)? == Chunk::Damaged {
            return Ok(());
        }
        // If the page is not there by now, it is one of zeroes.
        let Mapping { uffd, base } = &self.mappings[m];
        settle(uffd.zeropage(base + offset, PAGE as u64), || Ok(true))?;
        self.wake(offset, PAGE as u64)
    }

    /// Places the next chunk for which nobody has asked yet.
    ///
    /// # Errors
    /// Pages cannot be placed, or nobody has RAM mapped any more.
    pub fn prefault(&mut self) -> Result<Left, Problem> {
        while self.next < self.ram.chunks() {
            let n = self.next;
            self.next += 1;
            let known = self.table.get(usize::try_from(n).unwrap_or(usize::MAX)).copied();
            if known != Some(Chunk::Missing) || self.chunks.is_hole(n, &mut self.extents)? {
                continue;
            }
            if self.place(0, n)? == Chunk::Placed {
                let (offset, length) = self.ram.extent(n);
                self.wake(offset, length as u64)?;
            }
            return Ok(Left::Chunks);
        }
        Ok(if self.table.contains(&Chunk::Damaged) { Left::Faults } else { Left::Nothing })
    }

    /// Gives the mappings back: from now on a page that is not there is one of zeroes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn finish(&mut self) -> Result<(), Problem> {
        for Mapping { uffd, base } in self.mappings {
            match uffd.unregister(*base, self.ram.length) {
                Ok(()) | Err(Error::Gone) => {}
                Err(error) => return Err(Problem::faults(error)),
            }
        }
        // The kernel wakes who waits before it gives a mapping back, and who faults with that mapping's lock alone (since Linux 6.7)
        // may begin to wait between the two.
        self.wake(0, self.ram.length)
    }

    /// Reads and checks chunk `n` and places its pages through mapping `m`.
    fn place(&mut self, m: usize, n: u64) -> Result<Chunk, Problem> {
        let index = usize::try_from(n).unwrap_or(usize::MAX);
        let Some(entry) = self.table.get_mut(index).filter(|entry| **entry == Chunk::Missing) else {
            return Ok(self.table.get(index).copied().unwrap_or(Chunk::Damaged));
        };
        let (offset, chunk) = match self.chunks.read(n) {
            Ok(chunk) => chunk,
            Err(error) => {
                eprintln!("{}", Problem::from(error));
                *entry = Chunk::Damaged;
                self.damaged.push(self.ram.extent(n).0);
                return Ok(Chunk::Damaged);
            }
        };
        let Mapping { uffd, base } = &self.mappings[m];
        for (at, run) in sparse::runs(chunk) {
            let start = offset + at as u64;
            settle(uffd.copy(base + start, run), || is_there(self.memfd, self.ram.length, start, run.len()))?;
        }
        *entry = Chunk::Placed;
        if self.ram.digest(n).is_some() {
            self.done += chunk.len() as u64;
        }
        Ok(Chunk::Placed)
    }

    /// Wakes who waits for these pages, in whichever mapping.
    fn wake(&self, offset: u64, length: u64) -> Result<(), Problem> {
        for Mapping { uffd, base } in self.mappings {
            match uffd.wake(base + offset, length) {
                Ok(()) | Err(Error::Gone) => {}
                Err(error) => return Err(Problem::faults(error)),
            }
        }
        Ok(())
    }
}

/// Whether pages were placed. A mapping that is not registered any more was given back by a predecessor, if the pages are there
/// (`is_there`); who finds none must not believe it.
fn settle(result: uffd::Result<uffd::Placed>, is_there: impl FnOnce() -> std::io::Result<bool>) -> Result<(), Problem> {
    match result {
        Ok(_) => Ok(()),
        Err(error @ Error::Range { errno: Errno::ENOENT, .. }) => match is_there() {
            Ok(true) => Ok(()),
            _ => Err(Problem::faults(error)),
        },
        Err(error) => Err(Problem::faults(error)),
    }
}

/// Whether the memfd has pages everywhere in a range.
fn is_there(memfd: &File, length: u64, start: u64, bytes: usize) -> std::io::Result<bool> {
    let data = Extents::new(memfd, length).at(start)?;
    Ok(data.is_some_and(|(from, to)| from == start && to >= start + bytes as u64))
}
