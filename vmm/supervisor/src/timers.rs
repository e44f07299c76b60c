//! The timers of the core, in the time that this process itself has lived through.
//!
//! The one idea: a deadline is for a process that hangs while others go on. If everybody stood still (the host slept, somebody
//! froze the group of processes), nobody missed a deadline, so the time in which this process's own pulse stood still does
//! not count.

use std::collections::BTreeSet;
use std::time::Duration;

/// Timers that are kept before those without meaning are forgotten.
const TIMERS: usize = 64;
/// A pulse that comes this many times later than it should is one after a standstill.
const LATE: u32 = 3;

/// Numbered timers. Times are since any moment that never changes.
#[derive(Clone, Debug)]
pub struct Timers {
    at: BTreeSet<(Duration, u64)>,
    pulse: Duration,
    last_pulse: Duration,
}

impl Timers {
    /// None yet. From `now` on the pulse is to come after each `pulse`.
    #[must_use]
    pub const fn new(now: Duration, pulse: Duration) -> Self {
        Self { at: BTreeSet::new(), pulse, last_pulse: now }
    }

    /// The time from one pulse to the next.
    #[must_use]
    pub const fn pulse(&self) -> Duration {
        self.pulse
    }

    /// Sets a timer to run out in `after`. Most are overtaken by what they wait for, so those that are not `needed` are forgotten
    /// from time to time.
    pub fn arm(&mut self, now: Duration, timer: u64, after: Duration, needed: impl Fn(u64) -> bool) {
        if self.at.len() >= TIMERS {
            self.at.retain(|(_, timer)| needed(*timer));
        }
        self.at.insert((now + after, timer));
    }

    /// When the next one runs out.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.at.first().map(|(at, _)| *at)
    }

    /// This process goes on. To be told with each pulse, and before [`Self::expired`].
    pub fn beat(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last_pulse);
        self.last_pulse = now;
        if gap > self.pulse * LATE {
            let lost = gap - self.pulse;
            self.at = self.at.iter().map(|(at, timer)| (*at + lost, *timer)).collect();
        }
    }

    /// One that has run out.
    pub fn expired(&mut self, now: Duration) -> Option<u64> {
        let (at, timer) = self.at.pop_first()?;
        if at > now {
            self.at.insert((at, timer));
            return None;
        }
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn timers_run_out_in_order() {
        let mut timers = Timers::new(ms(0), ms(10));
        timers.arm(ms(0), 1, ms(30), |_| true);
        timers.arm(ms(0), 2, ms(20), |_| true);
        assert_eq!(timers.next(), Some(ms(20)));
        assert_eq!(timers.expired(ms(19)), None);
        timers.beat(ms(30));
        assert_eq!((timers.expired(ms(30)), timers.expired(ms(30)), timers.expired(ms(30))), (Some(2), Some(1), None));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn time_in_which_everybody_stood_still_does_not_count() {
        let mut timers = Timers::new(ms(0), ms(10));
        timers.arm(ms(0), 1, ms(50), |_| true);
        timers.beat(ms(10));
        timers.beat(ms(1000));
        assert_eq!(timers.expired(ms(1000)), None);
        assert_eq!(timers.next(), Some(ms(1030)));
        timers.beat(ms(1030));
        assert_eq!(timers.expired(ms(1030)), Some(1));
    }

    #[test]
    fn a_late_pulse_alone_is_no_standstill() {
        let mut timers = Timers::new(ms(0), ms(10));
        timers.arm(ms(0), 1, ms(25), |_| true);
        timers.beat(ms(30));
        assert_eq!(timers.expired(ms(30)), Some(1));
    }

    #[test]
    fn what_nobody_needs_is_forgotten() {
        let mut timers = Timers::new(ms(0), ms(10));
        for timer in 0..1000 {
            timers.arm(ms(timer), timer, ms(1_000_000), |timer| timer == 3);
        }
        assert!(timers.at.len() <= TIMERS && timers.at.iter().any(|(_, timer)| *timer == 3));
    }
}
