//! A fuzzer for the stable toolchain: it changes inputs of a target and keeps those that make it do something new.
//!
//! The one idea: a target itself says what an input made it do ([`Seen`]): which error in which field, which counts. That
//! takes the place of the compiler's coverage, needs no special build, and is about what the target means. What is to be
//! found is a panic, a violated property or a time-out ([`Failure`]); the input then goes to a file.
//!
//! Everything random comes from one number, so that a run can be repeated ([`Options::seed`]). That a run without findings
//! means something is shown with planted bugs ([`Plant`]): the target does what the broken code would do.

mod corpus;
mod drive;
mod mutate;
mod random;
mod seen;

pub use corpus::{MAX_BYTES, MAX_FILES, load, save};
pub use drive::{Failure, FailureKind, Figures, Options, attempt, drive};
pub use mutate::Mutator;
pub use random::Random;
pub use seen::Seen;

/// Which planted bug a target is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plant(usize);

impl Plant {
    /// None: the target as it is.
    pub const NONE: Self = Self(usize::MAX);

    /// The bug at this position in [`Target::plants`].
    #[must_use]
    pub const fn number(position: usize) -> Self {
        Self(position)
    }

    /// Whether it is the bug at this position.
    #[must_use]
    pub const fn is(self, position: usize) -> bool {
        self.0 == position
    }
}

/// What a target says of an input: nothing, or the property that was violated.
pub type Verdict = Result<(), String>;

/// Something that takes bytes which somebody else chose.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its folder of inputs.
    pub name: &'static str,
    /// Takes an input. Must do the same for the same input, and may keep things in thread-local variables: a run has one
    /// thread.
    pub run: fn(&[u8], &mut Seen, Plant) -> Verdict,
    /// Inputs to begin with, which are valid or nearly so.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to the target.
    pub words: fn() -> Vec<Vec<u8>>,
    /// The longest input, in bytes.
    pub longest: usize,
    /// Bytes in front of what has aligned fields.
    pub head: usize,
    /// What each planted bug is: something that the target does as if the code that it tries did it, or left out a check.
    pub plants: &'static [&'static str],
}

impl Target {
    /// A mutator with the target's words.
    #[must_use]
    pub fn mutator(&self) -> Mutator {
        Mutator::new((self.words)(), self.longest, self.head)
    }
}
