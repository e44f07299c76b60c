//! Inputs as sequences of numbers, and messages as bytes.

use capnp::message::{Builder, HeapAllocator};

/// A message that is being built.
pub type Message = Builder<HeapAllocator>;

/// Takes numbers off the front of an input; what is missing is 0.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        front
    }

    pub fn number(&mut self, width: usize) -> u64 {
        self.take(width).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }
}

/// A copy that is aligned as the buffers that messages are received in.
pub struct Aligned {
    words: Vec<capnp::Word>,
    length: usize,
}

impl Aligned {
    pub fn of(bytes: &[u8]) -> Self {
        let mut words = capnp::Word::allocate_zeroed_vec(bytes.len().div_ceil(8));
        capnp::Word::words_to_bytes_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { words, length: bytes.len() }
    }

    pub fn bytes(&self) -> &[u8] {
        &capnp::Word::words_to_bytes(&self.words)[..self.length]
    }
}

/// The bytes of a message.
pub fn flat(message: &Message) -> Vec<u8> {
    capnp::serialize::write_message_to_words(message)
}

/// An error where something does not hold.
macro_rules! holds {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use holds;

/// What an access to a table of `length` entries does.
#[track_caller]
pub fn index(length: usize, at: u64) {
    assert!(at < length as u64, "index out of bounds: the length is {length} and the index is {at}");
}
