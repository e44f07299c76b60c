//! Interrupt lines: the thread that waits for the eventfds of lines and of the board, and delivers.
//!
//! An eventfd is emptied and its effect brought about under one lock ([`Machine::delivering`]), so that whoever holds that lock
//! and finds an eventfd empty knows that its interrupt has arrived.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorbell::EventFd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::machine::Machine;

/// An interrupt line and the eventfd that a device rings when it rises.
#[derive(Debug)]
pub struct Line {
    /// Row of the route table.
    pub number: usize,
    /// Rung at each rising edge.
    pub bell: EventFd,
}

/// Everything that rings.
#[derive(Debug)]
pub struct Bells {
    /// Of devices.
    pub lines: Vec<Line>,
    /// The board's: lines that it raised itself, and its external interrupt output.
    pub notify: EventFd,
    /// The thread is to show that it goes on, by taking this back.
    pub beat: AtomicBool,
}

impl Bells {
    fn all(&self) -> impl Iterator<Item = &EventFd> {
        self.lines.iter().map(|l| &l.bell).chain([&self.notify])
    }

    /// Their descriptors, for the list of those that a process keeps.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.all().map(|b| b.as_fd().as_raw_fd())
    }

    /// Deliver what has rung.
    pub fn deliver(&self, machine: &Machine) {
        let mut delivering = machine.delivering();
        // Emptied before the effect: a ring that comes meanwhile is a new one.
        let rang = |bell: &EventFd| bell.drain().unwrap_or(0) != 0;
        for line in self.lines.iter().filter(|line| rang(&line.bell)) {
            machine.line_rose(line.number, &mut delivering);
        }
        if rang(&self.notify) {
            machine.board_rang();
        }
    }

    /// Whether the thread that delivers goes on within `limit`.
    pub fn goes_on(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        self.beat.store(true, Ordering::SeqCst);
        // A ring without a reason is harmless.
        while self.notify.ring().is_ok() && Instant::now() < end {
            if !self.beat.load(Ordering::SeqCst) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        false
    }

    /// Deliver for ever.
    pub fn serve(&self, machine: &Machine) {
        let mut fds: Vec<PollFd<'_>> = self.all().map(|b| PollFd::new(descriptor(b), PollFlags::POLLIN)).collect();
        loop {
            match ppoll(&mut fds, None, None) {
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(e) => enter::exit::error(&format_args!("the interrupt thread cannot wait: {e}")),
            }
            self.beat.store(false, Ordering::SeqCst);
            if fds.iter().any(|fd| fd.any().unwrap_or(false)) {
                self.deliver(machine);
            }
        }
    }
}

fn descriptor(bell: &EventFd) -> BorrowedFd<'_> {
    bell.as_fd()
}
