//! The host CPU as the oracle: runs cases in a forked child and brings their outcomes back.
//!
//! The idea: the child lives inside its signal handler. Every case ends with an exception (INT3 behind the instruction, or a
//! fault), whose handler notes the state, puts the next case's state into the signal frame and returns into it. So a case
//! costs one exception and one return, some two microseconds, and a batch of cases one wake-up.

mod child;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::case::{Case, Outcome};
pub use child::{BATCH, Maker, lacks, maker, reviewed};

/// How long the child may take for one batch before it counts as hung, milliseconds. It needs a thousandth of that.
const PATIENCE: i32 = 10_000;

/// How a case went: it ended with an exception, as it should, or the child died or never came back.
pub type Ran = std::result::Result<(), String>;

/// A child that runs cases.
#[derive(Debug)]
pub struct Host {
    shared: child::Shared,
    child: Option<Running>,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    go: OwnedFd,
    done: OwnedFd,
}

impl Host {
    /// Ready to run cases; the child starts with the first.
    ///
    /// # Errors
    /// The host cannot serve as an oracle: it says what it lacks.
    pub fn new() -> Result<Host> {
        child::usable()?;
        Ok(Host { shared: child::Shared::map()?, child: None })
    }

    /// Start running `cases`, at most [`BATCH`]; [`Host::finish`] must follow.
    ///
    /// # Errors
    /// No child could be started.
    pub fn start<'a>(&mut self, cases: impl ExactSizeIterator<Item = &'a Case>) -> Result<()> {
        let count = cases.len();
        ensure!(count <= BATCH, "{count} cases are more than a batch");
        for (i, c) in cases.enumerate() {
            self.shared.put(i, c);
        }
        self.go(0, count)
    }

    fn go(&mut self, from: usize, to: usize) -> Result<()> {
        self.shared.set_range(from, to);
        if self.child.is_none() {
            self.child = Some(self.spawn()?);
        }
        if let Some(c) = &self.child {
            let n = child::write_byte(c.go.as_raw_fd());
            ensure!(n == 1, "the child's pipe is broken");
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Running> {
        // One at a time: the child finds its area through statics of this process, and must not inherit another worker's end
        // of a pipe, or that worker would not see its own child go.
        static FORKING: Mutex<()> = Mutex::new(());
        let _one = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
        let (go_read, go) = child::pipe()?;
        let (done, done_write) = child::pipe()?;
        let pid = self.shared.fork(go_read.as_raw_fd(), done_write.as_raw_fd())?;
        Ok(Running { pid, go, done })
    }

    /// Wait for the `count` cases that were started. A case that kills or hangs the child is lost, and the ones behind it run in
    /// a new child. Outcomes can be read until the next start.
    ///
    /// # Errors
    /// The child does not even get to its first case.
    pub fn finish(&mut self, count: usize) -> Result<Vec<Ran>> {
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            let Some(c) = &self.child else { bail!("nothing was started") };
            let answered =
                child::wait_readable(c.done.as_raw_fd(), PATIENCE) && child::read_byte(c.done.as_raw_fd()) == 1;
            let upto = if answered { count } else { self.shared.current().min(count) };
            out.resize(upto, Ok(()));
            if answered {
                break;
            }
            let why = self.bury().context("the child is gone")?;
            ensure!(self.shared.started(), "the child dies before its first case: {why}");
            if out.len() < count {
                out.push(Err(why));
            }
            if out.len() < count {
                self.go(out.len(), count)?;
            }
        }
        Ok(out)
    }

    /// How case `i` of the last batch ended, if it did.
    pub fn outcome(&self, i: usize, out: &mut Outcome) {
        self.shared.outcome(i, out);
    }

    fn bury(&mut self) -> Option<String> {
        self.child.take().map(|c| child::end(c.pid))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.bury();
    }
}
