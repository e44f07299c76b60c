//! Which pieces of 2 MiB of RAM the guest uses, and so are worth a huge page of the host.
//!
//! The idea: every page that a guest uses goes through its vCPU's TLB once, so that is where pages are counted, each one once. A
//! chunk a good part of whose pages have been counted is *ready*, and one thread waits for such chunks. Nothing is ever looked for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;

use crate::PAGE;

/// Bytes of a chunk: a huge page of the host.
pub const CHUNK: u64 = 2 << 20;
/// Pages of a chunk that must be in use: the host gives the others as well, three times as many at most. A buffer of 2 MiB that lies
/// across two chunks should have huge pages, at least where it has most of its pages.
const READY: u16 = (CHUNK / PAGE / 4) as u16;
/// The count of a chunk that was taken. Threads that were about to count do not reach its end.
const TAKEN: u16 = 1 << 15;

/// The chunks of a VM's RAM.
#[derive(Debug)]
pub struct Chunks {
    /// Of each, pages that are in use, until it is ready.
    counts: Box<[AtomicU16]>,
    /// A bit for each page that was counted.
    pages: Box<[AtomicU64]>,
    /// Chunks that are ready and not taken.
    ready: AtomicU32,
    taker: OnceLock<Thread>,
}

impl Chunks {
    /// For `bytes` of RAM. What is left at its end is no chunk.
    pub fn new(bytes: u64) -> Chunks {
        let chunks = (bytes / CHUNK) as usize;
        Chunks {
            counts: (0..chunks).map(|_| AtomicU16::new(0)).collect(),
            pages: (0..chunks * (CHUNK / PAGE / 64) as usize).map(|_| AtomicU64::new(0)).collect(),
            ready: AtomicU32::new(0),
            taker: OnceLock::new(),
        }
    }

    /// The page at RAM offset `at` is in use.
    #[inline(always)]
    pub fn used(&self, at: u64) {
        if self.counts.get((at / CHUNK) as usize).is_some_and(|count| count.load(Ordering::Relaxed) < READY) {
            self.count(at);
        }
    }

    #[inline(never)]
    fn count(&self, at: u64) {
        let (page, chunk) = (at / PAGE, (at / CHUNK) as usize);
        let (Some(word), Some(count)) = (self.pages.get((page / 64) as usize), self.counts.get(chunk)) else { return };
        let bit = 1 << (page % 64);
        if word.load(Ordering::Relaxed) & bit != 0 || word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return;
        }
        if count.fetch_add(1, Ordering::Relaxed) + 1 == READY {
            self.ready.fetch_add(1, Ordering::SeqCst);
            if let Some(taker) = self.taker.get() {
                taker.unpark();
            }
        }
    }

    /// The calling thread takes the chunks that become ready: it is unparked for each.
    pub fn register(&self) {
        let _ = self.taker.set(std::thread::current());
    }

    /// Chunks next to each other that are ready, `most` at most, and that nobody gets again: the RAM offset, and how many. `from` is
    /// where to begin, and then behind them.
    pub fn take(&self, from: &mut usize, most: usize) -> Option<(u64, usize)> {
        if self.ready.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let n = self.counts.len();
        let is_ready = |at: &usize| (READY..TAKEN).contains(&self.counts[*at].load(Ordering::Relaxed));
        // The one that was counted last may still be on its way here: then there is none yet.
        let at = (0..n).map(|k| (*from + k) % n).find(is_ready)?;
        let taken = (at..n).take(most).take_while(is_ready).count();
        self.counts[at..][..taken].iter().for_each(|count| count.store(TAKEN, Ordering::Relaxed));
        self.ready.fetch_sub(taken as u32, Ordering::SeqCst);
        *from = at + taken;
        Some((at as u64 * CHUNK, taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_ready_when_enough_of_their_pages_are_used_and_are_taken_once() {
        let chunks = Chunks::new(3 * CHUNK + PAGE);
        let mut from = 0;
        for again in 0..3 {
            for n in 0..u64::from(READY) - 1 {
                chunks.used(CHUNK + n * PAGE + again);
            }
        }
        assert_eq!(chunks.take(&mut from, 8), None);
        chunks.used(2 * CHUNK - 1);
        chunks.used(3 * CHUNK);
        chunks.used(u64::MAX);
        assert_eq!(chunks.take(&mut from, 8), Some((CHUNK, 1)));
        (0..CHUNK / PAGE).for_each(|n| chunks.used(CHUNK + n * PAGE));
        assert_eq!(chunks.take(&mut from, 8), None, "once");
        (0..3 * CHUNK / PAGE).rev().for_each(|n| chunks.used(n * PAGE));
        let taken = [(); 3].map(|()| chunks.take(&mut from, 8));
        assert_eq!(taken, [Some((2 * CHUNK, 1)), Some((0, 1)), None], "round about");
        let chunks = Chunks::new(5 * CHUNK);
        (0..5 * CHUNK / PAGE).for_each(|n| chunks.used(n * PAGE));
        from = 1;
        let taken = [(); 4].map(|()| chunks.take(&mut from, 3));
        assert_eq!(taken, [Some((CHUNK, 3)), Some((4 * CHUNK, 1)), Some((0, 1)), None], "together");
    }

    #[test]
    fn whoever_takes_them_is_woken() {
        let chunks = Chunks::new(8 * CHUNK);
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                chunks.register();
                let (mut from, mut taken) = (0, Vec::new());
                while taken.len() < 8 {
                    match chunks.take(&mut from, 2) {
                        Some((at, n)) => taken.extend((0..n as u64).map(|k| at / CHUNK + k)),
                        None => std::thread::park(),
                    }
                }
                taken.sort_unstable();
                taken
            });
            // Two at once count each page once.
            for _ in 0..2 {
                scope.spawn(|| (0..8 * CHUNK / PAGE).for_each(|n| chunks.used(n * PAGE)));
            }
            assert_eq!(taker.join().unwrap(), (0..8).collect::<Vec<_>>());
        });
    }
}
