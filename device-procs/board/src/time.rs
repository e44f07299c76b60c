//! Guest time as the board's clocks count it.
//!
//! The one idea: every counter is a formula of guest nanoseconds, so that a board that slept, was paused or was moved
//! computes where the counter is instead of having counted.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Ticks of a clock of `hz` that have happened at guest time `now` (nanoseconds).
pub fn ticks(now: u64, hz: u64) -> u64 {
    (u128::from(now) * u128::from(hz) / u128::from(SECOND)) as u64
}

/// The first guest time at which [`ticks`] gives `tick` or more.
pub fn time_of(tick: u64, hz: u64) -> u64 {
    u64::try_from((u128::from(tick) * u128::from(SECOND)).div_ceil(u128::from(hz.max(1)))).unwrap_or(u64::MAX)
}

/// The earlier of two optional deadlines.
pub fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_tick_is_when_it_has_just_happened() {
        for hz in [1_193_182, 3_579_545, 32_768, 1] {
            for tick in [0, 1, 2, 3, 1000, 1 << 24, 1 << 33] {
                let at = time_of(tick, hz);
                assert_eq!(ticks(at, hz), tick, "{hz} {tick}");
                assert!(at == 0 || ticks(at - 1, hz) < tick, "{hz} {tick}");
            }
        }
    }

    #[test]
    fn no_overflow_at_the_end_of_time() {
        assert_eq!(time_of(u64::MAX, 1), u64::MAX);
        assert!(ticks(u64::MAX, 3_579_545) > 0);
    }
}
