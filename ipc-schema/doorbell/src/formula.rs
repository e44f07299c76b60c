//! Formulas: registers that follow from guest time, so that reading them needs nobody.
//!
//! A row of the formula table holds {start, base, rate, width}; the engine computes `base ± ticks since start`, where a
//! tick is `numerator / denominator` per nanosecond, in integers without drift. The board changes a row when the guest
//! reprograms the timer.

use crate::flip::Flip;

/// Which way a counter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upwards from `base`, wrapping at the mask (the ACPI PM timer, an HPET main counter).
    Up,
    /// Downwards from `base`, reloading `base` after reaching zero: `base − ticks mod base` (a PIT channel in mode 2;
    /// with a doubled rate, mode 3).
    DownReload,
}

/// One free-running counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formula {
    /// Direction.
    pub direction: Direction,
    /// Guest time at which the counter had the value `base`, in nanoseconds.
    pub start_ns: u64,
    /// Value at `start_ns`; the reload value when running down (0 counts as 65536, as in a PIT).
    pub base: u64,
    /// Ticks per `denominator` nanoseconds.
    pub numerator: u64,
    /// Nanoseconds per `numerator` ticks; not 0.
    pub denominator: u64,
    /// Bits that the register has.
    pub mask: u64,
}

impl Formula {
    /// The ACPI PM timer (ACPI 6.5, 4.8.3.3): 3.579545 MHz, 24 or 32 bits by `mask`, zero at guest time `start_ns`.
    pub const fn pm_timer(start_ns: u64, mask: u64) -> Self {
        Self { direction: Direction::Up, start_ns, base: 0, numerator: 3_579_545, denominator: 1_000_000_000, mask }
    }

    /// The value at guest time `now_ns`.
    pub fn at(&self, now_ns: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.start_ns));
        let ticks = elapsed * u128::from(self.numerator) / u128::from(self.denominator.max(1));
        let value = match self.direction {
            Direction::Up => self.base.wrapping_add(ticks as u64),
            Direction::DownReload => {
                let reload = if self.base == 0 { 1 << 16 } else { self.base };
                reload - (ticks % u128::from(reload)) as u64
            }
        };
        value & self.mask
    }

    pub(crate) fn load(row: &Flip<6>) -> Option<Self> {
        let [kind, start_ns, base, numerator, denominator, mask] = row.read();
        let direction = match kind {
            1 => Direction::Up,
            2 => Direction::DownReload,
            _ => return None,
        };
        Some(Self { direction, start_ns, base, numerator, denominator, mask })
    }

    pub(crate) fn store(&self, row: &Flip<6>) {
        let kind = match self.direction {
            Direction::Up => 1,
            Direction::DownReload => 2,
        };
        row.write(&[kind, self.start_ns, self.base, self.numerator, self.denominator, self.mask]);
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_pm_timer_keeps_its_rate_and_width() {
        let pm = Formula::pm_timer(1000, 0xff_ffff);
        assert_eq!(pm.at(0), 0, "before its start");
        assert_eq!(pm.at(1000 + 1_000_000_000), 3_579_545);
        // 30 days: exact to the tick, wrapped to 24 bits.
        let days = 30 * 86_400u64;
        assert_eq!(pm.at(1000 + days * 1_000_000_000), (days * 3_579_545) & 0xff_ffff);
        assert_eq!(Formula { numerator: u64::MAX, ..pm }.at(u64::MAX) & !0xff_ffff, 0, "no overflow panics");
    }

    #[test]
    fn a_pit_counts_down_and_reloads() {
        let pit = Formula {
            direction: Direction::DownReload,
            start_ns: 0,
            base: 5,
            numerator: 1,
            denominator: 10,
            mask: 0xffff,
        };
        let seen: Vec<u64> = (0..7).map(|t| pit.at(t * 10)).collect();
        assert_eq!(seen, [5, 4, 3, 2, 1, 5, 4]);
        let full = Formula { base: 0, ..pit };
        assert_eq!((full.at(0), full.at(10)), (0, 0xffff));
        assert_eq!(Formula { denominator: 0, ..pit }.at(3), 2, "a broken row divides by one");
    }
}
