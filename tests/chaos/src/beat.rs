//! The count of a guest that prints a byte each millisecond (`guest::bare::BEAT`), read as fast as it comes.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use guest::bare::BEAT_MODULUS;
use rig::{SOON, read_some};

/// A console that is read by a thread of its own.
#[derive(Debug)]
pub struct Beat {
    /// When a read returned, and the bytes.
    reads: Receiver<(Instant, Vec<u8>)>,
    counted: usize,
    last: Instant,
}

/// What the guest did over some time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// How far it has counted.
    pub beats: usize,
    /// Between two reads.
    pub longest_gap: Duration,
}

impl Beat {
    /// From the first byte on.
    #[must_use]
    pub fn of(mut socket: UnixStream) -> Self {
        let (sender, reads) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = read_some(&mut socket, &mut buffer) {
                if sender.send((Instant::now(), buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        Self { reads, counted: 0, last: Instant::now() }
    }

    /// Takes one read; the count must go on where it was.
    #[track_caller]
    fn take(&mut self, (at, bytes): (Instant, Vec<u8>)) -> Duration {
        for byte in bytes {
            let expected = (self.counted % usize::from(BEAT_MODULUS)) as u8;
            assert_eq!(byte, expected, "a beat is missing or doubled: number {}", self.counted);
            self.counted += 1;
        }
        let gap = at.duration_since(self.last);
        self.last = at;
        gap
    }

    /// Everything that has come by now.
    ///
    /// # Panics
    /// A beat is missing or doubled.
    #[track_caller]
    pub fn so_far(&mut self) -> Watched {
        let mut watched = Watched::default();
        let before = self.counted;
        while let Ok(read) = self.reads.try_recv() {
            watched.longest_gap = watched.longest_gap.max(self.take(read));
        }
        watched.beats = self.counted - before;
        watched
    }

    /// Waits until the guest has counted on by so many; returns the longest gap.
    ///
    /// # Panics
    /// It does not, or a beat is missing or doubled.
    #[track_caller]
    pub fn go_on(&mut self, beats: usize) -> Duration {
        let (end, mut longest) = (self.counted + beats, Duration::ZERO);
        while self.counted < end {
            let read = self.reads.recv_timeout(SOON).unwrap_or_else(|error| panic!("the guest stands still: {error}"));
            longest = longest.max(self.take(read));
        }
        longest
    }

    /// Checks that the guest does not run: what was under way comes, and then nothing.
    ///
    /// # Panics
    /// It runs.
    #[track_caller]
    pub fn stands(&mut self) {
        while self.reads.recv_timeout(Duration::from_millis(100)).map(|read| self.take(read)).is_ok() {}
        assert!(self.reads.recv_timeout(Duration::from_millis(100)).is_err(), "the guest runs");
    }
}
