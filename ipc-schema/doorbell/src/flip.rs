//! A row that one process writes and others read, without a lock that a dead writer could leave behind.
//!
//! Two copies and a generation: the writer fills the copy that is not current and then publishes it by one store. A
//! reader takes the current copy and looks whether the generation still stands; only a writer that makes progress can
//! make it try again. A writer that dies in the middle leaves the old value in force.
#![expect(unsafe_code, reason = "says that the row may lie in shared memory")]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use guest_memory::Shared;

use crate::may_die_here;

/// `N` words that change together.
#[repr(C)]
#[derive(Debug)]
pub struct Flip<const N: usize> {
    generation: AtomicU64,
    copies: [[AtomicU64; N]; 2],
}

// SAFETY: atomics only.
unsafe impl<const N: usize> Shared for Flip<N> {}

impl<const N: usize> Flip<N> {
    /// The current words. All zeros if nothing was ever written.
    #[inline]
    pub fn read(&self) -> [u64; N] {
        self.read_with_generation().1
    }

    /// The current words and how often they were written.
    #[inline]
    pub fn read_with_generation(&self) -> (u64, [u64; N]) {
        loop {
            let generation = self.generation.load(Acquire);
            let copy = &self.copies[(generation & 1) as usize];
            let words = std::array::from_fn(|i| copy[i].load(Relaxed));
            // The copy is written again only after the generation has moved on; the fence makes a reader that saw such a
            // word also see that.
            fence(Acquire);
            if self.generation.load(Relaxed) == generation {
                return (generation, words);
            }
            std::hint::spin_loop();
        }
    }

    /// Replaces the words. One writer at a time.
    pub fn write(&self, words: &[u64; N]) {
        let next = self.generation.load(Relaxed).wrapping_add(1);
        // Orders the store of the present generation before the stores below, for the reader's check.
        fence(Release);
        for (to, from) in self.copies[(next & 1) as usize].iter().zip(words) {
            to.store(*from, Relaxed);
            may_die_here();
        }
        self.generation.store(next, Release);
    }
}
