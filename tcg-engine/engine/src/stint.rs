//! How long a vCPU runs between two looks at the clock: a stint.
//!
//! The idea: to look costs some hundred nanoseconds, in which fast code runs a thousand instructions; slow code, and code that is
//! still to be translated, takes long for as many. So the length of a stint, in instructions, follows the time that the last one took. It is
//! least where the guest's timer is due soon. Nobody else waits for the end of a stint: whoever wants something of the vCPU
//! [cuts its budget short](crate::park::Request::cut_short).

/// Blocks, when they are interpreted; emitted code runs some hundred instructions for each of them (see
/// [`Runner::run`](guest_x86::Runner::run)).
const LEAST: u32 = 128;
const MOST: u32 = 512;
/// Nanoseconds: after a stint that took less the next one is longer, after one that took more it is shorter. So long before the
/// timer is due it is the least.
const SHORT: u64 = 16_000;
const LONG: u64 = 32_000;

/// The stints of one vCPU.
#[derive(Debug)]
pub struct Stint {
    /// Of the next one.
    blocks: u32,
    /// When the last one began, in guest nanoseconds, and whether it was used up.
    last: Option<(u64, bool)>,
}

impl Default for Stint {
    fn default() -> Self {
        Stint { blocks: LEAST, last: None }
    }
}

impl Stint {
    /// One begins at `now`. Answers its length in blocks. The timer is due at `due`.
    pub fn begin(&mut self, now: u64, due: u64) -> u32 {
        match self.last.replace((now, false)).map(|(began, used_up)| (now.saturating_sub(began), used_up)) {
            Some((took, true)) if took < SHORT => self.blocks = (self.blocks * 2).min(MOST),
            Some((took, _)) if took > LONG => self.blocks = (self.blocks / 2).max(LEAST),
            _ => {}
        }
        if due.saturating_sub(now) < LONG { LEAST } else { self.blocks }
    }

    /// The vCPU ran to the end of it.
    pub fn used_up(&mut self) {
        if let Some((_, used_up)) = &mut self.last {
            *used_up = true;
        }
    }

    /// Time passes that belongs to none.
    pub fn rest(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = u64::MAX;

    /// Stints that take so long for each block, and are used up; the blocks of the last one.
    fn after(stint: &mut Stint, stints: usize, ns_per_block: u64) -> u32 {
        let (mut now, mut blocks) = (0, 0);
        stint.rest();
        for _ in 0..stints {
            blocks = stint.begin(now, NEVER);
            now += u64::from(blocks) * ns_per_block;
            stint.used_up();
        }
        blocks
    }

    #[test]
    fn fast_code_has_long_ones_and_slow_code_short_ones() {
        let mut s = Stint::default();
        assert_eq!(after(&mut s, 1, 10), LEAST);
        assert_eq!(after(&mut s, 20, 10), MOST);
        // In between they stay as they are: 256 blocks take 26 microseconds.
        assert_eq!(after(&mut s, 20, 100), 256);
        assert_eq!(after(&mut s, 20, 100), 256);
        assert_eq!(after(&mut s, 20, 5_000), LEAST);
    }

    #[test]
    fn none_becomes_longer_that_ended_for_another_reason() {
        let mut s = Stint::default();
        for now in 0..100 {
            assert_eq!(s.begin(now * 100, NEVER), LEAST);
        }
        // But it may become shorter.
        after(&mut s, 20, 10);
        s.begin(0, NEVER);
        assert_eq!(s.begin(LONG + 1, NEVER), MOST / 2);
    }

    #[test]
    fn sleep_does_not_count() {
        let mut s = Stint::default();
        after(&mut s, 20, 10);
        s.rest();
        assert_eq!(s.begin(1 << 40, NEVER), MOST);
    }

    #[test]
    fn it_is_short_before_the_timer_and_as_long_as_before_behind_it() {
        let mut s = Stint::default();
        after(&mut s, 20, 10);
        s.rest();
        assert_eq!(s.begin(1000, 1000 + LONG), MOST);
        assert_eq!(s.begin(1001, 1000 + LONG), LEAST);
        assert_eq!(s.begin(1002, 0), LEAST);
        assert_eq!(s.begin(1003, NEVER), MOST);
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        let mut s = Stint::default();
        after(&mut s, 20, 10);
        s.rest();
        s.begin(1 << 40, NEVER);
        assert_eq!(s.begin(0, NEVER), MOST);
    }
}
