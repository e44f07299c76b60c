//! The clock of a row, and the lines in which results come out of a guest.

use std::fmt;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::Instant;

/// Starts the line that is printed before the first row.
pub const BEGIN: &str = "ATOLL-BENCH-BEGIN";
/// Starts the line of a row: name, result in hexadecimal digits, and nanoseconds of each repetition.
pub const LINE: &str = "ATOLL-BENCH-ROW";
/// Starts the last line: nanoseconds since [`BEGIN`] by the clock that the rows are timed with.
pub const END: &str = "ATOLL-BENCH-END";

/// Why a row has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// The same work gave two results.
    #[error("one repetition gave {0:#x}, another {1:#x}")]
    Unequal(u64, u64),
    /// What the row itself checks is not so.
    #[error("{0}")]
    Wrong(&'static str),
}

impl Failure {
    /// The system call that has just failed.
    pub(crate) fn last(call: &'static str) -> Self {
        Failure::System(call, io::Error::last_os_error())
    }
}

/// Times the work of one row.
#[derive(Debug)]
pub struct Watch {
    repetitions: usize,
    nanoseconds: Vec<u64>,
    result: Option<u64>,
}

impl Watch {
    /// A watch that has work done so many times.
    #[must_use]
    pub fn new(repetitions: usize) -> Self {
        Watch { repetitions, nanoseconds: Vec::new(), result: None }
    }

    /// Does the work, and times it. Its result is the same each time.
    ///
    /// # Errors
    /// The work failed, or its results differ.
    pub fn time(&mut self, mut work: impl FnMut() -> Result<u64, Failure>) -> Result<(), Failure> {
        for _ in 0..self.repetitions {
            let start = Instant::now();
            let result = black_box(work()?);
            self.nanoseconds.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            let first = *self.result.get_or_insert(result);
            if first != result {
                return Err(Failure::Unequal(first, result));
            }
        }
        Ok(())
    }

    /// Makes what was looked at after the work a part of the result.
    ///
    /// # Errors
    /// None; it ends the function of a row.
    pub(crate) fn add(&mut self, seen: u64) -> Result<(), Failure> {
        self.result = Some(self.result.unwrap_or_default().rotate_left(1) ^ seen);
        Ok(())
    }

    /// What was measured, as a line for row `name`.
    #[must_use]
    pub fn line(self, name: &str) -> Line {
        Line { name: name.to_owned(), result: self.result.unwrap_or_default(), nanoseconds: self.nanoseconds }
    }
}

/// The line of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Name of the row.
    pub name: String,
    /// What the work came to.
    pub result: u64,
    /// Time of each repetition.
    pub nanoseconds: Vec<u64>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LINE} {} {:016x}", self.name, self.result)?;
        self.nanoseconds.iter().try_for_each(|time| write!(f, " {time}"))
    }
}

/// Reads the line of a row; `None` for any other, and for one that is not whole.
#[must_use]
pub fn parse(line: &str) -> Option<Line> {
    let mut words = line.trim().strip_prefix(LINE)?.split_whitespace();
    let (name, result) = (words.next()?, words.next()?);
    let result = u64::from_str_radix(result, 16).ok().filter(|_| result.len() == 16)?;
    let nanoseconds = words.map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
    (!nanoseconds.is_empty()).then(|| Line { name: name.to_owned(), result, nanoseconds })
}

/// Prints a line at once, and on a line of its own: a kernel may have left the console in the middle of one.
///
/// # Errors
/// Standard output is gone.
pub fn say(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("\n{text}\n").as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_printed() {
        let mut watch = Watch::new(3);
        watch.time(|| Ok(0xabc)).unwrap();
        let line = watch.line("crc32");
        assert_eq!(line.nanoseconds.len(), 3);
        assert_eq!(parse(&format!("{line}\r")), Some(line));
        for broken in ["", "x ATOLL-BENCH-ROW a 0000000000000abc 1", "ATOLL-BENCH-ROW a abc 1", "ATOLL-BENCH-ROW a"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
        assert_eq!(parse("ATOLL-BENCH-ROW a 0000000000000abc"), None);
        assert_eq!(parse("ATOLL-BENCH-ROW a 0000000000000abc 1 x"), None);
    }

    #[test]
    fn work_that_differs_is_an_error() {
        let mut results = [1, 1, 2].into_iter();
        let failure = Watch::new(3).time(|| Ok(results.next().unwrap_or_default())).unwrap_err();
        assert!(matches!(failure, Failure::Unequal(1, 2)));
    }
}
