//! Where the adoption record lies: two copies in the memfd "adoption", and a word that says which is valid.
//!
//! The one idea: a copy is written while the other one counts, and one write of eight bytes makes it count. A kill -9
//! leaves the old record or the new one.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | number of the valid record, 0: none; its lowest bit says in which copy |
//! | 4096 + copy × 64 KiB | 8 | number of the record |
//! | + 8 | 4 | length |
//! | + 12 | 4 | CRC-32 |
//! | + 16 | | the record |

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

const COPIES: u64 = 4096;
const COPY: u64 = 64 << 10;
const HEADER: usize = 16;
/// Longest record, in bytes.
pub const MAX_RECORD: usize = COPY as usize - HEADER;
/// Length of the memfd.
pub const LENGTH: u64 = COPIES + 2 * COPY;

/// Why there is no record where there should be one.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The memfd cannot be read or written.
    #[error("the memfd 'adoption': {0}")]
    Io(#[from] io::Error),
    /// The valid copy is damaged.
    #[error("record {number} in the memfd 'adoption' is damaged: {what}")]
    Damaged {
        /// Its number.
        number: u64,
        /// In what way.
        what: &'static str,
    },
    /// The record is longer than a copy.
    #[error("a record of {bytes} bytes is longer than the {MAX_RECORD} that a copy can have")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    memfd: File,
    number: u64,
}

impl Journal {
    /// Opens it and reads the valid record; `None` in a new one.
    ///
    /// # Errors
    /// [`JournalError::Io`], [`JournalError::Damaged`].
    pub fn open(memfd: File) -> Result<(Self, Option<Vec<u8>>), JournalError> {
        let mut word = [0; 8];
        memfd.read_exact_at(&mut word, 0)?;
        let number = u64::from_le_bytes(word);
        let record = if number == 0 { None } else { Some(read_copy(&memfd, number)?) };
        Ok((Self { memfd, number }, record))
    }

    /// Makes this record the valid one.
    ///
    /// # Errors
    /// [`JournalError::Io`], [`JournalError::TooLong`]; the old record stays valid.
    pub fn commit(&mut self, record: &[u8]) -> Result<(), JournalError> {
        let too_long = || JournalError::TooLong { bytes: record.len() };
        let length = u32::try_from(record.len()).map_err(|_| too_long())?;
        if record.len() > MAX_RECORD {
            return Err(too_long());
        }
        let number = self.number + 1;
        let mut copy = Vec::with_capacity(HEADER + record.len());
        copy.extend_from_slice(&number.to_le_bytes());
        copy.extend_from_slice(&length.to_le_bytes());
        copy.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
        copy.extend_from_slice(record);
        self.memfd.write_all_at(&copy, place(number))?;
        self.memfd.write_all_at(&number.to_le_bytes(), 0)?;
        self.number = number;
        Ok(())
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

const fn place(number: u64) -> u64 {
    COPIES + (number & 1) * COPY
}

fn read_copy(memfd: &File, number: u64) -> Result<Vec<u8>, JournalError> {
    let damaged = |what| JournalError::Damaged { number, what };
    let mut header = [0; HEADER];
    memfd.read_exact_at(&mut header, place(number))?;
    let found = u64::from_le_bytes(std::array::from_fn(|n| header[n]));
    let length = u32::from_le_bytes(std::array::from_fn(|n| header[8 + n])) as usize;
    let crc = u32::from_le_bytes(std::array::from_fn(|n| header[12 + n]));
    if found != number {
        return Err(damaged("it has another number"));
    }
    if length > MAX_RECORD {
        return Err(damaged("its length is out of bounds"));
    }
    let mut record = vec![0; length];
    memfd.read_exact_at(&mut record, place(number) + HEADER as u64)?;
    if crc32fast::hash(&record) != crc {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd() -> File {
        File::from(guest_memory::Memfd::create("adoption", LENGTH).unwrap())
    }

    fn copy(file: &File) -> Vec<u8> {
        let mut all = vec![0; LENGTH as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    #[test]
    fn the_last_record_is_found_and_the_next_one_follows() {
        let file = memfd();
        let (mut journal, none) = Journal::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(none, None);
        for n in 0..5_u8 {
            journal.commit(&vec![n; usize::from(n) * 1000]).unwrap();
            let (again, record) = Journal::open(file.try_clone().unwrap()).unwrap();
            assert_eq!(record, Some(vec![n; usize::from(n) * 1000]));
            journal = again;
        }
        assert!(matches!(journal.commit(&vec![0; MAX_RECORD + 1]), Err(JournalError::TooLong { .. })));
        journal.commit(&vec![9; MAX_RECORD]).unwrap();
        assert_eq!(Journal::open(file).unwrap().1, Some(vec![9; MAX_RECORD]));
    }

    #[test]
    fn a_kill_in_the_middle_of_a_commit_leaves_the_old_record_or_the_new_one() {
        let file = memfd();
        let (mut journal, _) = Journal::open(file.try_clone().unwrap()).unwrap();
        journal.commit(b"first").unwrap();
        journal.commit(b"old").unwrap();
        let before = copy(&file);
        journal.commit(b"new one").unwrap();
        let after = copy(&file);
        // The first write is the copy: any prefix of it may be there; the second is the word.
        let start = usize::try_from(place(3)).unwrap();
        for length in 0..=HEADER + 7 {
            let torn = memfd();
            let mut bytes = before.clone();
            bytes[start..start + length].copy_from_slice(&after[start..start + length]);
            torn.write_all_at(&bytes, 0).unwrap();
            assert_eq!(Journal::open(torn).unwrap().1.as_deref(), Some(&b"old"[..]));
        }
        assert_eq!(Journal::open(file).unwrap().1.as_deref(), Some(&b"new one"[..]));
    }

    #[test]
    fn damage_is_an_error_and_not_a_record() {
        let file = memfd();
        let (mut journal, _) = Journal::open(file.try_clone().unwrap()).unwrap();
        journal.commit(b"content").unwrap();
        for (at, what) in [(0, "number"), (8, "checksum"), (11, "bounds"), (12, "checksum"), (18, "checksum")] {
            let damaged = memfd();
            let mut bytes = copy(&file);
            bytes[usize::try_from(place(1)).unwrap() + at] ^= 0x40;
            damaged.write_all_at(&bytes, 0).unwrap();
            let error = Journal::open(damaged).unwrap_err().to_string();
            assert!(error.contains(what), "{at}: {error}");
        }
    }
}
