//! How a command fails: a problem in four parts (what, why, what to do, a stable code) and the exit status that goes with it.

use std::fmt::Write;

use control::exit_status;
use control::types::Problem;

/// What every function of the launcher returns.
pub type Result<T> = std::result::Result<T, Problem>;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// Exit status, even.
    pub status: u8,
    pub problem: Problem,
}

impl From<Problem> for Failure {
    /// A failure of a command on a VM or on this host; those of `run` choose their own status.
    fn from(problem: Problem) -> Self {
        Self { status: exit_status::COMMAND_FAILED, problem }
    }
}

/// A problem whose parts are made here and now.
pub fn problem(code: &str, what: impl AsRef<str>, why: impl ToString, remedy: impl AsRef<str>) -> Problem {
    Problem::new(code, what.as_ref(), why.to_string(), remedy.as_ref())
}

/// As it is printed.
pub fn describe(problem: &Problem) -> String {
    let mut text = format!("atoll: {}", problem.what);
    if !problem.code.is_empty() {
        let _ = write!(text, " [{}]", problem.code);
    }
    for (label, part) in [("why", &problem.why), ("do", &problem.remedy)] {
        if !part.is_empty() {
            let _ = write!(text, "\n  {label}: {part}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_that_there_is_gets_a_line() {
        let full = problem("run.kernel", "no kernel 'x'", "it is not there", "name another one");
        assert_eq!(
            describe(&full),
            "atoll: no kernel 'x' [run.kernel]\n  why: it is not there\n  do: name another one"
        );
        assert_eq!(describe(&problem("", "w", "", "")), "atoll: w");
    }
}
