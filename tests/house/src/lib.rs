//! The rules of this repository that no compiler knows, each as a function from the repository to its violations.
//!
//! The idea: a rule is data where it can be (allowed edges, crates that may use `unsafe`, words), a function names what
//! breaks it, and beside it a test plants a violation and expects it to be caught, so that a green run means something.
//! `tests/house.rs` applies them all to this repository.

pub mod graph;
pub mod repository;
pub mod source;
pub mod suites;
pub mod text;

use std::fmt;

/// A broken rule: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A file, a crate or an edge.
    pub place: String,
    /// What is wrong there and what would be right.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// A violation, from whatever its parts are.
pub fn violation(place: impl Into<String>, problem: impl Into<String>) -> Violation {
    Violation { place: place.into(), problem: problem.into() }
}

/// What could not be examined at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `cargo metadata` failed.
    #[error("cargo metadata failed: {0}; is Cargo.lock fresh?")]
    Metadata(#[from] cargo_metadata::Error),
    /// A file could not be read.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A program that was there did not do its work.
    #[error("{program}: {problem}")]
    Program {
        /// Its name.
        program: String,
        /// What it did instead.
        problem: String,
    },
}
