//! The event log: a ring of fixed slots in the memfd "events".
//!
//! The one idea: a slot is written before anybody says that it counts. Which event is the last one is part of the adoption
//! record ([`crate::journal`]), so an event and the change of state that it tells of become true together, and a kill -9 at
//! any instant loses or doubles neither. What was written and not committed is overwritten by the successor.
//!
//! | offset in a slot of 1024 bytes | bytes | |
//! |---|---|---|
//! | 0 | 8 | number of the event |
//! | 8 | 4 | length of the message |
//! | 12 | 4 | CRC-32 of the message |
//! | 16 | | the message: control.capnp, `Event` |

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use capnp::message::{Builder, HeapAllocator};
use control::control_capnp::event;
use control::convert::{read_event, write_event};
use control::types::Event;

/// Bytes of a slot.
const SLOT: u64 = 1024;
/// Slots.
const SLOTS: u64 = 1024;
/// Events that are kept: fewer than slots, so that what one step writes overwrites nothing that counts.
pub const KEPT: u64 = SLOTS - 64;
/// Length of the memfd.
pub const LENGTH: u64 = SLOT * SLOTS;
const HEADER: usize = 16;
/// Longest texts, in bytes; all of an event's texts at their longest fit into a slot.
const TEXTS: [usize; 4] = [32, 32, 300, 400];

/// The log.
#[derive(Debug)]
pub struct Log {
    memfd: File,
    last: u64,
}

impl Log {
    /// The log whose last event that counts is `last`; 0 for a new one.
    #[must_use]
    pub const fn new(memfd: File, last: u64) -> Self {
        Self { memfd, last }
    }

    /// Number of the last event.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Writes an event behind the last one and gives it its number. Texts that are too long are cut.
    ///
    /// # Errors
    /// The memfd cannot be written.
    pub fn append(&mut self, event: &mut Event) -> io::Result<()> {
        event.sequence = self.last + 1;
        let texts = [&mut event.kind, &mut event.process, &mut event.cause, &mut event.detail];
        for (text, limit) in texts.into_iter().zip(TEXTS) {
            text.truncate(text.floor_char_boundary(limit));
        }
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        write_event(event, message.init_root::<event::Builder<'_>>());
        let body = capnp::serialize::write_message_to_words(&message);
        let mut slot = Vec::with_capacity(HEADER + body.len());
        slot.extend_from_slice(&event.sequence.to_le_bytes());
        slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        slot.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        slot.extend_from_slice(&body);
        if slot.len() as u64 > SLOT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an event is longer than its slot"));
        }
        self.memfd.write_all_at(&slot, place(event.sequence))?;
        self.last = event.sequence;
        Ok(())
    }

    /// At most `limit` events after number `after`, as far as they are kept.
    ///
    /// # Errors
    /// The memfd cannot be read.
    pub fn read(&self, after: u64, limit: usize) -> io::Result<Vec<Event>> {
        let first = (after.saturating_add(1)).max(self.last.saturating_sub(KEPT - 1)).max(1);
        let mut events = Vec::new();
        for sequence in first..=self.last {
            if events.len() >= limit {
                break;
            }
            events.extend(self.slot(sequence)?);
        }
        Ok(events)
    }

    /// The event of this number, if its slot still has it.
    fn slot(&self, sequence: u64) -> io::Result<Option<Event>> {
        let mut slot = [0; SLOT as usize];
        self.memfd.read_exact_at(&mut slot, place(sequence))?;
        let number = u64::from_le_bytes(std::array::from_fn(|n| slot[n]));
        let length = u32::from_le_bytes(std::array::from_fn(|n| slot[8 + n])) as usize;
        let crc = u32::from_le_bytes(std::array::from_fn(|n| slot[12 + n]));
        let Some(mut body) = slot.get(HEADER..HEADER.saturating_add(length)) else { return Ok(None) };
        if number != sequence || crc32fast::hash(body) != crc {
            return Ok(None);
        }
        let options = link::capnp::reader_options();
        let message = capnp::serialize::read_message(&mut body, options);
        Ok(message.and_then(|message| read_event(message.get_root()?)).ok())
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

const fn place(sequence: u64) -> u64 {
    sequence.wrapping_sub(1) % SLOTS * SLOT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd() -> File {
        File::from(guest_memory::Memfd::create("events", LENGTH).unwrap())
    }

    fn event(detail: &str) -> Event {
        Event { kind: "RESET".into(), detail: detail.into(), unix_nanoseconds: 5, ..Event::default() }
    }

    #[test]
    fn events_come_back_in_order_and_the_oldest_go() {
        let mut log = Log::new(memfd(), 0);
        assert!(log.read(0, 10).unwrap().is_empty());
        for n in 1..=3000_u64 {
            log.append(&mut event(&n.to_string())).unwrap();
            assert_eq!(log.last(), n);
        }
        let all = log.read(0, usize::MAX).unwrap();
        assert_eq!(all.len() as u64, KEPT);
        assert!(all.iter().zip(3001 - KEPT..).all(|(event, n)| event.sequence == n && event.detail == n.to_string()));
        assert_eq!(log.read(2998, 10).unwrap().iter().map(|event| event.sequence).collect::<Vec<_>>(), [2999, 3000]);
        assert_eq!(log.read(2000, 7).unwrap().last().unwrap().sequence, 2047.max(3001 - KEPT + 6));
        assert!(log.read(3000, 10).unwrap().is_empty() && log.read(u64::MAX, 10).unwrap().is_empty());
    }

    #[test]
    fn what_was_not_committed_does_not_count_and_is_written_again() {
        let file = memfd();
        let mut log = Log::new(file.try_clone().unwrap(), 0);
        for n in 0..KEPT {
            log.append(&mut event(&n.to_string())).unwrap();
        }
        let committed = log.last();
        // A step with many events, and a kill before its commit.
        for _ in 0..SLOTS - KEPT {
            log.append(&mut event("lost")).unwrap();
        }
        let mut successor = Log::new(file, committed);
        let kept = successor.read(0, usize::MAX).unwrap();
        assert_eq!(kept.len() as u64, KEPT);
        assert!(kept.iter().all(|event| event.detail != "lost"));
        successor.append(&mut event("said")).unwrap();
        let last = successor.read(committed, 10).unwrap();
        assert_eq!((last[0].sequence, last[0].detail.as_str(), last.len()), (committed + 1, "said", 1));
    }

    #[test]
    fn the_longest_event_fits_and_damage_is_left_out() {
        let file = memfd();
        let mut log = Log::new(file.try_clone().unwrap(), 0);
        let long = "€".repeat(1000);
        let mut event = Event {
            kind: long.clone(),
            process: long.clone(),
            cause: long.clone(),
            detail: long,
            guest_nanoseconds: u64::MAX,
            ..Event::default()
        };
        log.append(&mut event).unwrap();
        assert_eq!(log.read(0, 1).unwrap(), [event.clone()]);
        assert_eq!((event.cause.len(), event.detail.len()), (300, 399));
        log.append(&mut event).unwrap();
        for byte in 0..SLOT {
            let mut one = [0];
            file.read_exact_at(&mut one, byte).unwrap();
            file.write_all_at(&[one[0] ^ 0xff], byte).unwrap();
            let left = log.read(0, 10).unwrap();
            assert!(left.iter().all(|event| event.sequence == 2) || left.len() == 2, "byte {byte}");
            file.write_all_at(&one, byte).unwrap();
        }
    }
}
