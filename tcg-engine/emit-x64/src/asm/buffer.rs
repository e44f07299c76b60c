//! What the encoder writes into, and pieces of code that are encoded once.
//!
//! The idea: an instruction is a store of more bytes than it has, and the next one begins where it ends. So nothing asks how long it
//! is but the place where the next goes.

use super::{Asm, Hole};

/// Bytes of a buffer: more than any block's code may have.
const BUFFER: usize = 128 << 10;

/// What is emitted. Bytes beyond its end are counted, and lost: that much code is of no use.
#[derive(Clone)]
pub struct Buffer {
    bytes: Box<[u8; BUFFER]>,
    len: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        // Not by way of the stack.
        let bytes = vec![0; BUFFER].into_boxed_slice().try_into();
        Buffer { bytes: bytes.unwrap_or_else(|_| Box::new([0; BUFFER])), len: 0 }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len.min(BUFFER)]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len.min(BUFFER)]
    }
}

impl Buffer {
    /// Bytes emitted, those that are lost included.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Nothing has been emitted.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The first `n` of these bytes: one store, whatever `n` is.
    #[inline(always)]
    pub(super) fn put<const N: usize>(&mut self, bytes: &[u8; N], n: usize) {
        if let Some(place) = self.bytes.get_mut(self.len..).and_then(|rest| rest.first_chunk_mut::<N>()) {
            *place = *bytes;
        }
        self.len += n;
    }

    /// These bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.put(&[*b], 1);
        }
    }
}

/// Bytes of a [`Piece`] at most.
const PIECE: usize = 48;

/// A few instructions that are emitted often, the same each time.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub(super) bytes: [u8; PIECE],
    pub(super) len: usize,
    /// A distance in it that is to be filled in, counted from its beginning.
    pub hole: Hole,
}

impl Piece {
    /// What `emit` emits, which answers the hole.
    pub fn new(emit: impl FnOnce(&mut Asm) -> Hole) -> Piece {
        let mut a = Asm::default();
        let hole = emit(&mut a);
        let (mut bytes, len) = ([0; PIECE], a.buf.len());
        bytes[..len].copy_from_slice(&a.buf);
        Piece { bytes, len, hole }
    }
}
