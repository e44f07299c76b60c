//! Figures: medians, ratios, goals, and what the system says of a process's memory.

use std::fmt;

/// The median of numbers; the upper one of two.
#[must_use]
pub fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The smallest number.
#[must_use]
pub fn least(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(f64::NAN, f64::min)
}

/// The geometric mean: of ratios, that which does not depend on which side is the numerator.
#[must_use]
pub fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Goal {
    /// Whether `figure` is so; what is not a number is not.
    #[must_use]
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Goal::AtLeast(least) => figure >= least,
            Goal::AtMost(most) => figure <= most,
        }
    }

    /// The goal beside its verdict.
    #[must_use]
    pub fn verdict(self, figure: f64) -> String {
        format!("(goal {self}) {}", if self.is_met(figure) { "met" } else { "MISSED" })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtLeast(least) => write!(f, ">= {least}"),
            Goal::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// Bytes of a process that are in memory, from its `/proc/PID/smaps`: Rss of all mappings but those whose name begins so.
///
/// A page that is mapped twice counts twice, as it does in the system's own sum.
#[must_use]
pub fn resident_without(smaps: &str, name: &str) -> u64 {
    let (mut bytes, mut counts) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if counts => bytes += 1024 * words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0),
            // Addresses, rights, offset, device, inode, name.
            Some(word) if !word.ends_with(':') => counts = !words.nth(4).is_some_and(|found| found.starts_with(name)),
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_means() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(middle(vec![4.0, 1.0]), 4.0);
        assert!(middle(vec![]).is_nan());
        assert!((geometric_mean(&[0.5, 2.0, 8.0]) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn goals_are_met_at_their_bounds_and_not_by_nothing() {
        assert!(Goal::AtLeast(2.0).is_met(2.0) && !Goal::AtLeast(2.0).is_met(1.99));
        assert!(Goal::AtMost(0.9).is_met(0.9) && !Goal::AtMost(0.9).is_met(0.91));
        assert!(!Goal::AtLeast(2.0).is_met(f64::NAN) && !Goal::AtMost(2.0).is_met(f64::NAN));
        assert_eq!(Goal::AtMost(0.9).verdict(1.0), "(goal <= 0.9) MISSED");
    }

    #[test]
    fn guest_memory_is_left_out_of_what_is_resident() {
        let smaps = "7f0-7f1 r-xs 00000000 00:01 13                  /memfd:code (deleted)\nSize: 64 kB\nRss:  10 kB\n\
            7f1-7f2 rw-s 00000000 00:01 14 /memfd:ram (deleted)\nRss: 500 kB\nVmFlags: rd wr\n\
            7f2-7f3 rw-p 00000000 00:00 0\nRss: 7 kB\n";
        assert_eq!(resident_without(smaps, "/memfd:ram"), 17 << 10);
        assert_eq!(resident_without(smaps, "/none"), 517 << 10);
    }
}
