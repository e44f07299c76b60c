//! The streamer: a process that moves the states and the RAM of one virtual machine between it and the files of a snapshot.
//!
//! The idea: nobody else reads or writes those files, so what they hold is checked in one place, by a process that can do
//! little more than read and write the descriptors that it was given. It does one thing and ends:
//!
//! * [`save`] copies RAM (through a read-only descriptor, holes stay holes) and states to files, and writes the manifest last.
//! * [`restore`] checks the manifest and every state file before anything starts, copies the states to their areas, and
//!   brings RAM at once;
//! * [`demand`] brings it as the guest touches it, and the rest in the background.
//!
//! The work here knows descriptors and nothing of messages; what goes on meanwhile comes to it through [`Watch`].

pub mod demand;
pub mod order;
pub mod problem;
pub mod restore;
pub mod save;

pub use problem::Problem;

/// Why the work is not done.
#[derive(Debug)]
pub enum Stop {
    /// It was told to.
    Quit,
    /// It cannot be done.
    Problem(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// What is looked at between two pieces of work.
pub trait Watch {
    /// So much is done of phase `phase` ("states", "ram", "prefault"), in bytes.
    ///
    /// # Errors
    /// [`Stop::Quit`] when the work is to end here.
    fn progress(&mut self, phase: &'static str, done: u64, total: u64) -> Result<(), Stop>;
}
