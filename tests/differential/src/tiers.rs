//! Both tiers as one side: every case runs in a vCPU of each, and they must come to the same.
//!
//! The idea: nothing is left to choose between the tiers, so whatever equals the host of one of them does of the other. A
//! difference is a reason why the case did not run, which is a failure whatever the host says.

use anyhow::Result;
use cpu_model::Model;

use crate::build::Made;
use crate::case::Outcome;
use crate::compare;
use crate::guest::{Guest, Ran, Tamper, Tier};

/// A vCPU for each tier.
pub struct Tiers {
    /// The one that runs emitted code.
    pub t1: Guest,
    t0: Guest,
    t0_end: Box<Outcome>,
    t1_end: Box<Outcome>,
    /// Whether the last case was also run as a loop that counts its rounds.
    pub counted: bool,
}

impl Tiers {
    /// Both with their tables in place.
    ///
    /// # Errors
    /// No memory.
    pub fn new(model: &'static Model) -> Result<Tiers> {
        let (t1, t0) = (Guest::new(model, Tier::T1)?, Guest::new(model, Tier::T0)?);
        Ok(Tiers { t1, t0, t0_end: Box::default(), t1_end: Box::default(), counted: false })
    }

    /// Run a case by both; `out` is how it ended by T1. What can be a loop is run as one, too, which counts its rounds by emitted code.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run(&mut self, made: &Made, most: usize, out: &mut Outcome) -> Result<Ran> {
        let once = self.run_tampered(made, most, out, &mut |_| {})?;
        let before = self.t1.counted();
        let t1 = self.t1.run_rounds(&made.case, most, &mut self.t1_end)?;
        self.counted = self.t1.counted() > before;
        if once.is_err() || !self.counted {
            return Ok(once);
        }
        let t0 = self.t0.run_rounds(&made.case, most, &mut self.t0_end)?;
        let lines = Self::differences(made, &t0, &t1, &self.t0_end, &self.t1_end);
        Ok(if lines.is_empty() { once } else { Err(format!("the tiers differ in a loop: {}", lines.join("; "))) })
    }

    /// As [`Tiers::run`], with T1's blocks changed.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run_tampered(&mut self, made: &Made, most: usize, out: &mut Outcome, tamper: Tamper<'_>) -> Result<Ran> {
        let t1 = self.t1.run(&made.case, most, out, tamper)?;
        let t0 = self.t0.run(&made.case, most, &mut self.t0_end, &mut |_| {})?;
        let lines = Self::differences(made, &t0, &t1, &self.t0_end, out);
        Ok(if lines.is_empty() { t1 } else { Err(format!("the tiers differ: {}", lines.join("; "))) })
    }

    fn differences(made: &Made, t0: &Ran, t1: &Ran, t0_end: &Outcome, t1_end: &Outcome) -> Vec<String> {
        match (t0, t1) {
            (Ok(()), Ok(())) => compare::tiers(&made.case, &made.instruction, t0_end, t1_end),
            (t0, t1) if t0 == t1 => vec![],
            (t0, t1) => vec![format!("T0 {t0:?}, T1 {t1:?}")],
        }
    }
}
