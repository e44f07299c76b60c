//! A point in time at which a call gives up.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// When a call on a [`crate::Link`] gives up with [`crate::LinkError::Deadline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Never: only right for a process that waits for its next request, where the end of the peer ends the wait.
    pub const NEVER: Self = Self(None);

    /// This long from now. A duration beyond what the clock can express is [`Self::NEVER`].
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now().checked_add(duration))
    }

    /// At this instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// True once the deadline lies behind.
    #[must_use]
    pub fn passed(self) -> bool {
        self.0.is_some_and(|instant| Instant::now() >= instant)
    }

    /// What is left, as `ppoll` wants it: `None` waits for ever; zero when it has passed.
    pub(crate) fn left(self) -> Option<Timespec> {
        let left = self.0?.saturating_duration_since(Instant::now());
        // A duration beyond i64 seconds cannot come from two instants of one clock; waiting for ever would be the same.
        Timespec::try_from(left).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_and_never_does_not() {
        assert!(Deadline::after(Duration::ZERO).passed());
        assert!(!Deadline::after(Duration::from_secs(3600)).passed());
        assert!(!Deadline::NEVER.passed());
        assert!(Deadline::NEVER.left().is_none());
        assert!(!Deadline::after(Duration::MAX).passed());
    }
}
