//! The supervisor's seat: who sits there, what is queued for it, and when the next one is started.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use keeper_protocol::MAX_FRUITLESS_STARTS;
use link::{Link, LinkError, Sent};
use spawn::Child;

use crate::logs::Source;

/// Answers that may wait for the supervisor before no more requests are taken from it. Exits are queued beyond it; their number
/// is bounded by that of processes.
const MAX_QUEUED: usize = 64;
/// The wait before a start, after the first end in a row, and at most.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(1);
/// How long a supervisor that has closed its end may take to end.
const GRACE: Duration = Duration::from_secs(1);
/// A supervisor that lived this long starts a new row.
const LONG_LIFE: Duration = Duration::from_secs(1);

/// A running supervisor.
#[derive(Debug)]
pub struct Supervisor {
    pub child: Child,
    pub log: Source,
    pub incarnation: u32,
    /// `None` once it has closed its end.
    pub link: Option<Link>,
    pub kill_at: Option<Instant>,
    /// Why the keeper has killed it, as the end of a sentence.
    pub killed_for: &'static str,
    /// Whether it goes on, and when to look next.
    pulse: Pulse,
    look_at: Instant,
    look_every: Duration,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Supervisor {
    /// `patience` is how long it may stand still.
    pub fn new(child: Child, log: Source, incarnation: u32, link: Link, patience: Duration) -> Self {
        let look_every = patience / LOOKS;
        Self {
            child,
            log,
            incarnation,
            link: Some(link),
            kill_at: None,
            killed_for: "",
            pulse: Pulse::default(),
            look_at: Instant::now() + look_every,
            look_every,
            queue: VecDeque::new(),
        }
    }

    /// Queues a message.
    pub fn queue(&mut self, bytes: Vec<u8>, descriptor: Option<OwnedFd>) {
        if self.link.is_some() {
            self.queue.push_back((bytes, descriptor));
        }
    }

    /// Whether it takes its answers, so that the next request may be read.
    pub fn takes_answers(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends what it takes now.
    ///
    /// # Errors
    /// It has closed its end, or the kernel refuses.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        let Some(link) = &self.link else { return Ok(()) };
        while let Some((bytes, descriptor)) = self.queue.front() {
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            match link.try_send(bytes, &descriptors)? {
                Sent::Full => break,
                Sent::Sent => drop(self.queue.pop_front()),
            }
        }
        Ok(())
    }

    /// A supervisor that cannot be talked to is of no use: it has a moment to end by itself, which tells more, and is
    /// killed then.
    pub fn dismiss(&mut self) {
        self.link = None;
        self.queue.clear();
        self.kill_at = Some(Instant::now() + GRACE);
    }

    /// When there is something to do about it without a word of its.
    pub fn due(&self) -> Instant {
        self.kill_at.map_or(self.look_at, |at| at.min(self.look_at))
    }

    /// Kills it if its moment is over, or if it stands still. `heartbeat` reads the count of its status page.
    pub fn kill_if_due(&mut self, heartbeat: impl FnOnce() -> u64) {
        let now = Instant::now();
        if self.look_at <= now {
            self.look_at = now + self.look_every;
            if !self.pulse.look(heartbeat()) && self.killed_for.is_empty() {
                self.killed_for = " by the keeper, since it stood still";
                self.kill_at = Some(now);
            }
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            // If it has ended already, that will be seen.
            let _ = self.child.kill();
        }
    }
}

/// Whether a supervisor goes on, by the count that it keeps in its status page. Pure.
///
/// Looks are counted, not time: a keeper that stood still itself, with its supervisor, has no reason to complain.
#[derive(Debug, Default)]
pub struct Pulse {
    last: u64,
    /// Looks in a row at the same count.
    unchanged: u32,
}

/// Looks in a row at a count that stands before its supervisor is taken for dead.
pub const LOOKS: u32 = 8;

impl Pulse {
    /// Takes a look, each time that a [`LOOKS`]th of the patience has passed. False once nothing has moved for too long.
    pub fn look(&mut self, count: u64) -> bool {
        self.unchanged = if count == self.last { self.unchanged + 1 } else { 0 };
        self.last = count;
        self.unchanged <= LOOKS
    }
}

/// When the next supervisor is started, and when no more. Pure.
#[derive(Debug, Default)]
pub struct Restarts {
    /// Ends in a row without `Serving`.
    fruitless: u32,
    /// Ends in a row after a short life.
    quick: u32,
    served: bool,
}

/// What follows from the end of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    StartAfter(Duration),
    GiveUp,
}

impl Restarts {
    /// The supervisor has said `Serving`.
    pub fn serving(&mut self) {
        self.served = true;
        self.fruitless = 0;
    }

    /// How many before the present one have ended in a row without it.
    pub const fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// The supervisor has ended, or could not be started (a life of zero).
    pub fn ended(&mut self, lived: Duration) -> Next {
        if !std::mem::take(&mut self.served) {
            self.fruitless += 1;
        }
        if self.fruitless >= MAX_FRUITLESS_STARTS {
            return Next::GiveUp;
        }
        self.quick = if lived < LONG_LIFE { self.quick.saturating_add(1) } else { 1 };
        let factor = 1 << (self.quick - 1).min(10);
        Next::StartAfter((SHORTEST * factor).min(LONGEST))
    }
}

/// The seat.
#[derive(Debug)]
pub enum Seat {
    Taken(Box<Supervisor>, Instant),
    Empty { due: Instant },
}

impl Seat {
    pub fn supervisor(&mut self) -> Option<&mut Supervisor> {
        match self {
            Self::Taken(supervisor, _) => Some(supervisor),
            Self::Empty { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
