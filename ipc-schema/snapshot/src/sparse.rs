//! Sparse files: where they have data, which of their pages are zero, and reading and writing at a place.
//!
//! The one idea: a page of zeroes and a hole are the same, so zeroes are never written; what was a hole stays one.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of a page, the unit of holes.
pub const PAGE: usize = 4096;

/// Whether all of `bytes` is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<16>();
    blocks.iter().fold(0, |all, block| all | u128::from_ne_bytes(*block)) == 0 && rest.iter().all(|byte| *byte == 0)
}

/// The runs of pages in `bytes` that are not zero: offset in `bytes`, and the run.
pub fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && is_zero(&bytes[at..(at + PAGE).min(bytes.len())]) {
            at += PAGE;
        }
        let start = at;
        while at < bytes.len() && !is_zero(&bytes[at..(at + PAGE).min(bytes.len())]) {
            at += PAGE;
        }
        (start < bytes.len()).then(|| (start, &bytes[start..at.min(bytes.len())]))
    })
}

/// The parts of a file that are not holes, in ascending order, asked for as they are needed.
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a File,
    length: u64,
    /// The extent last found, as far as it is not used up; empty at first, and at `length` after the last.
    start: u64,
    end: u64,
}

impl<'a> Extents<'a> {
    /// Those of a file of `length` bytes.
    #[must_use]
    pub fn new(file: &'a File, length: u64) -> Self {
        Self { file, length, start: 0, end: 0 }
    }

    /// The first data at or behind `from`, as offsets of its begin and end; `None` behind the last. `from` may only grow.
    ///
    /// # Errors
    /// What lseek(2) answers.
    pub fn at(&mut self, from: u64) -> io::Result<Option<(u64, u64)>> {
        self.start = self.start.max(from);
        if self.start >= self.end && self.start < self.length {
            (self.start, self.end) = match ask(self.file, SeekFrom::Data(self.start))? {
                Some(start) => {
                    let start = start.clamp(self.start, self.length);
                    let end = ask(self.file, SeekFrom::Hole(start))?.unwrap_or(self.length);
                    // A file that changes meanwhile must not hold this up.
                    (start, end.clamp((start + 1).min(self.length), self.length))
                }
                None => (self.length, self.length),
            };
        }
        Ok((self.start < self.end).then_some((self.start, self.end)))
    }

    /// Bytes that are not in holes.
    ///
    /// # Errors
    /// What lseek(2) answers.
    pub fn total(file: &File, length: u64) -> io::Result<u64> {
        let (mut extents, mut from, mut sum) = (Extents::new(file, length), 0, 0);
        while let Some((start, end)) = extents.at(from)? {
            sum += end - start;
            from = end;
        }
        Ok(sum)
    }
}

/// `None` where there is nothing more.
fn ask(file: &File, what: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, what) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Fills `bytes` from `offset` on; returns how many there were before the end of the file.
///
/// # Errors
/// What pread(2) answers.
pub fn read(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn memfd(length: u64) -> File {
        guest_memory::Memfd::create("test", length).unwrap().into()
    }

    #[test]
    fn runs_are_what_is_not_zero() {
        let mut bytes = vec![0; 6 * PAGE];
        assert_eq!(runs(&bytes).count(), 0);
        bytes[PAGE - 1] = 1;
        bytes[3 * PAGE] = 1;
        bytes[5 * PAGE - 1] = 1;
        let found: Vec<_> = runs(&bytes).map(|(at, run)| (at / PAGE, run.len() / PAGE)).collect();
        assert_eq!(found, [(0, 1), (3, 2)]);
        bytes.fill(7);
        assert_eq!(runs(&bytes).map(|(at, run)| (at, run.len())).collect::<Vec<_>>(), [(0, 6 * PAGE)]);
    }

    #[test]
    fn every_single_bit_counts() {
        let mut page = vec![0; PAGE];
        for byte in 0..PAGE {
            page[byte] = 1 << (byte % 8);
            assert!(!is_zero(&page), "{byte}");
            page[byte] = 0;
        }
        assert!(is_zero(&page) && is_zero(&[]) && !is_zero(&[0, 0, 1]));
    }

    #[test]
    fn extents_are_found_in_order_and_reading_fills_no_hole() {
        let file = memfd(64 << 20);
        for page in [0, 1, 2, 4000, 16383] {
            file.write_all_at(&[1; PAGE], page * PAGE as u64).unwrap();
        }
        let blocks = file.metadata().unwrap().blocks();
        let (mut extents, mut from, mut found) = (Extents::new(&file, 64 << 20), 0, Vec::new());
        while let Some((start, end)) = extents.at(from).unwrap() {
            found.push((start / PAGE as u64, end / PAGE as u64));
            from = end;
        }
        assert_eq!(found, [(0, 3), (4000, 4001), (16383, 16384)]);
        assert_eq!(Extents::total(&file, 64 << 20).unwrap(), 5 * PAGE as u64);
        let mut extents = Extents::new(&file, 64 << 20);
        assert_eq!(extents.at(PAGE as u64).unwrap(), Some((PAGE as u64, 3 * PAGE as u64)));
        let mut bytes = vec![0; 1 << 20];
        assert_eq!(read(&file, &mut bytes, 1 << 20).unwrap(), 1 << 20);
        assert_eq!(read(&file, &mut bytes, (64 << 20) - 100).unwrap(), 100);
        assert_eq!(file.metadata().unwrap().blocks(), blocks);
    }
}
