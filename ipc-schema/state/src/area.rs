//! State areas: where a process leaves its saved state and finds the one that it is to take.
//!
//! The one idea: a state is bulk data, so it never travels in a control message; each process maps its own row of the memfd
//! `state` before lock-down, and the message says only length and digest. Whoever reads a row copies it first and then
//! compares the digest, so it does not matter who else could write there.

use std::os::fd::BorrowedFd;

use capnp::message::ReaderOptions;
use capnp::serialize;
use guest_memory::{Access, SharedMap};
use sha2::{Digest, Sha256};
use wire::saved_capnp::saved_state;

use crate::StateError;

/// Bytes of a row: the longest state of one process.
pub const ROW_BYTES: u64 = 1 << 20;
/// Rows of the memfd.
pub const ROWS: u16 = 64;
/// Bytes of the memfd, nearly all of which nobody ever touches.
pub const MEMFD_BYTES: u64 = ROW_BYTES * ROWS as u64;

/// Length and SHA-256 of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Bytes from the begin of the row.
    pub length: u64,
    /// SHA-256 of them.
    pub digest: [u8; 32],
}

/// How much of one state a reader may visit, in words of 8 bytes: four times the longest state, since visiting a part twice
/// counts twice.
const TRAVERSAL_WORDS: usize = 4 * ROW_BYTES as usize / 8;
/// How deep structs and lists may nest.
const NESTING: i32 = 24;

/// Bytes of one state, aligned as messages are read.
pub(crate) struct Aligned {
    words: Vec<capnp::Word>,
    length: usize,
}

impl Aligned {
    /// So many zeroes.
    pub(crate) fn new(length: usize) -> Self {
        Self { words: capnp::Word::allocate_zeroed_vec(length.div_ceil(8)), length }
    }

    /// A copy.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut aligned = Self::new(bytes.len());
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        capnp::Word::words_to_bytes(&self.words).get(..self.length).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        capnp::Word::words_to_bytes_mut(&mut self.words).get_mut(..self.length).unwrap_or_default()
    }

    /// The one message that the bytes are, with limits to what a reader of it visits.
    pub(crate) fn message(&self) -> Result<Reader<'_>, StateError> {
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(Some(TRAVERSAL_WORDS)).nesting_limit(NESTING);
        let mut rest = self.bytes();
        let message = serialize::read_message_from_flat_slice(&mut rest, options)?;
        match rest.len() {
            0 => Ok(message),
            more => Err(capnp::Error::failed(format!("{more} bytes follow its end")).into()),
        }
    }
}

type Reader<'a> = capnp::message::Reader<serialize::BufferSegments<&'a [u8]>>;

/// One row of the memfd `state`, mapped.
#[derive(Debug)]
pub struct StateArea {
    map: SharedMap,
}

impl StateArea {
    /// Maps row `row` of the memfd. The descriptor can be closed afterwards.
    ///
    /// # Errors
    /// [`StateError::Row`] for a row that does not exist; what mapping answers.
    pub fn map(memfd: BorrowedFd<'_>, row: u16) -> Result<Self, StateError> {
        if row >= ROWS {
            return Err(StateError::Row(row));
        }
        let offset = u64::from(row) * ROW_BYTES;
        Ok(Self { map: SharedMap::map(memfd, offset, ROW_BYTES, Access::ReadWrite, "state")? })
    }

    /// Writes a message with a `SavedState` (saved.capnp).
    ///
    /// # Errors
    /// [`StateError::TooLong`] for one that is longer than a row; nothing is written then.
    pub fn leave(&self, message: &crate::Message) -> Result<Left, StateError> {
        let bytes = serialize::write_message_to_words(message);
        let length = bytes.len() as u64;
        self.map.write(0, &bytes).ok_or(StateError::TooLong { length })?;
        Ok(Left { length, digest: Sha256::digest(&bytes).into() })
    }

    /// Copies a state out, checks its digest and hands it to `read`.
    ///
    /// # Errors
    /// A length or digest that does not fit, bytes that are no message, or what `read` answers.
    pub fn take<T>(
        &self,
        left: Left,
        read: impl FnOnce(saved_state::Reader<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let too_long = StateError::TooLong { length: left.length };
        if left.length > ROW_BYTES {
            return Err(too_long);
        }
        let mut bytes = Aligned::new(usize::try_from(left.length).unwrap_or(0));
        self.map.read(0, bytes.bytes_mut()).ok_or(too_long)?;
        if <[u8; 32]>::from(Sha256::digest(bytes.bytes())) != left.digest {
            return Err(StateError::Digest);
        }
        read(bytes.message()?.get_root()?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use guest_memory::Memfd;

    use super::*;

    #[test]
    fn a_state_is_found_as_it_was_left_and_no_other() {
        let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
        let (first, second) = (StateArea::map(memfd.as_fd(), 3), StateArea::map(memfd.as_fd(), 4));
        let (first, second) = (first.unwrap(), second.unwrap());
        let mut message = crate::Message::new_default();
        message.init_root::<saved_state::Builder<'_>>().set_process("board");
        let left = first.leave(&message).unwrap();
        let name = |state: saved_state::Reader<'_>| Ok(state.get_process()?.to_string()?);
        assert_eq!(first.take(left, name).unwrap(), "board");
        assert!(matches!(second.take(left, name), Err(StateError::Digest)));
        assert!(matches!(first.take(Left { length: left.length - 8, ..left }, name), Err(StateError::Digest)));
        assert!(matches!(first.take(Left { length: u64::MAX, ..left }, name), Err(StateError::TooLong { .. })));
        assert!(matches!(StateArea::map(memfd.as_fd(), ROWS), Err(StateError::Row(_))));
    }

    #[test]
    fn what_is_taken_may_be_anything() {
        use rand::{Rng, SeedableRng, rngs::SmallRng};

        let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
        let area = StateArea::map(memfd.as_fd(), 0).unwrap();
        let message = crate::begin("board", "q35-0", crate::Kind::Board).unwrap();
        let good = serialize::write_message_to_words(&message);
        let mut random = SmallRng::seed_from_u64(9);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..5000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(good.len() / 2..good.len() * 2).min(good.len()));
            area.map.write(0, &bytes).unwrap();
            let left = Left { length: bytes.len() as u64, digest: Sha256::digest(&bytes).into() };
            let known = crate::Kind::Board.added();
            match area.take(left, |state| crate::check(state, "board", "q35-0", crate::Kind::Board, known)) {
                Ok(()) => taken += 1,
                Err(error) => refused += usize::from(!error.to_string().is_empty()),
            }
        }
        // Some damage is to bits that nobody looks at here; most is found.
        assert!(taken > 0 && refused > 1000, "{taken} {refused}");
    }

    #[test]
    fn the_longest_state_can_be_read_twice() {
        let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
        let area = StateArea::map(memfd.as_fd(), ROWS - 1).unwrap();
        let mut message = crate::begin("engine", "q35-0", crate::Kind::Engine).unwrap();
        let mut root = message.get_root::<saved_state::Builder<'_>>().unwrap();
        root.set_schema_digest(&vec![1; (ROW_BYTES - 512) as usize]);
        let left = area.leave(&message).unwrap();
        assert!(left.length > ROW_BYTES - 512);
        let twice =
            |state: saved_state::Reader<'_>| Ok((state.get_schema_digest()?.len(), state.get_schema_digest()?[0]));
        assert_eq!(area.take(left, twice).unwrap(), ((ROW_BYTES - 512) as usize, 1));
        let mut root = message.get_root::<saved_state::Builder<'_>>().unwrap();
        root.set_schema_digest(&vec![1; ROW_BYTES as usize]);
        assert!(matches!(area.leave(&message), Err(StateError::TooLong { .. })));
    }
}
