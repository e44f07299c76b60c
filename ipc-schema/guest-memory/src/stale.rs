//! How translated code goes when a process that is no engine has replaced the bytes that it was made from.
//!
//! The rule to keep: **once a writer has been told that it is done, no vCPU begins a block that was made from bytes that it has
//! replaced.** A vCPU notes the page as code, reads the bytes, notes which of them became a block, and compares them once more; a
//! writer writes and then looks for code. Both have a full barrier between what they say and what they look at: either the vCPU
//! finds the new bytes, or the writer finds code.
//!
//! A writer that finds code sets the *stale* bits of its pages, takes a ticket, rings, and waits. The engine reads how many tickets
//! have been taken, takes the stale bits, has whoever may have blocks of these pages drop them, and only then says up to which
//! ticket it is done. So there is no list of writers, no answer to anybody, and nothing that a writer who dies could hold up: the bit
//! that it has left goes with the next ticket, and its successor, which writes or marks its buffers again, looks for code again.
//!
//! This file is the protocol and nothing else, generic over the atomics as `harvest.rs` is; `stale_model.rs` checks it.

use std::sync::atomic::AtomicU64;

use crate::harvest::Atomic;
use crate::mutants::{Mutant, on};

/// How a writer writes to pages that may hold code: it looks for code when it has written and marked.
#[inline]
pub fn write_then_look<A: Atomic, R>(write: impl FnOnce() -> R, look: impl FnOnce() -> bool) -> (R, bool) {
    if on(Mutant::LookFirst) {
        let code = look();
        return (write(), code);
    }
    let result = write();
    // Either this writer sees the page's code bit, or whoever has set it sees the data.
    if !on(Mutant::NoFenceInWrite) {
        A::fence();
    }
    (result, look())
}

/// What of `pages` holds code is stale from now on; answers whether anything does. Before a ticket is taken for it.
#[inline]
pub fn note<A: Atomic>(code: &A, stale: &A, pages: u64) -> bool {
    let found = code.load() & pages;
    if found != 0 && !on(Mutant::NotAsked) {
        stale.fetch_or(found);
        return true;
    }
    false
}

/// The engine takes the stale bits of a word.
#[inline]
pub fn take<A: Atomic>(stale: &A) -> u64 {
    if stale.load() == 0 { 0 } else { stale.swap(0) }
}

/// A writer has given up: the engine has not said that it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the engine has not dropped the code of pages that were written; it may have gone")]
pub struct Unheard;

/// The tickets. There is one engine, and any number of writers.
#[derive(Debug)]
pub struct Tickets<'a, A = AtomicU64> {
    /// Tickets that were ever taken.
    pub asked: &'a A,
    /// The last ticket up to which blocks were dropped.
    pub dropped: &'a A,
}

impl<A: Atomic> Tickets<'_, A> {
    /// A writer whose pages are noted as stale: `ring` wakes the engine, and `wait` is called for as long as it is not done; it says
    /// no to give up.
    ///
    /// # Errors
    /// [`Unheard`] if `wait` gave up.
    pub fn ask(&self, ring: impl FnOnce(), mut wait: impl FnMut() -> bool) -> Result<(), Unheard> {
        let ticket = self.asked.fetch_add(1).wrapping_add(1);
        ring();
        while self.dropped.load().wrapping_sub(ticket).cast_signed() < 0 && !on(Mutant::NotAwaited) {
            if !wait() {
                return Err(Unheard);
            }
        }
        Ok(())
    }

    /// The engine, when it was rung: `drop` takes the stale bits, and comes back when nobody has blocks of those pages any more.
    pub fn serve(&self, drop: impl FnOnce()) {
        if on(Mutant::TicketAfterBits) {
            drop();
            return self.dropped.store(self.asked.load());
        }
        let ticket = self.asked.load();
        if on(Mutant::SaidFirst) {
            self.dropped.store(ticket);
        }
        drop();
        self.dropped.store(ticket);
    }
}

#[cfg(test)]
#[path = "stale_model.rs"]
mod model;
