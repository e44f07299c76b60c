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
}

impl Tiers {
    /// Both with their tables in place.
    ///
    /// # Errors
    /// No memory.
    pub fn new(model: &'static Model) -> Result<Tiers> {
        Ok(Tiers { t1: Guest::new(model, Tier::T1)?, t0: Guest::new(model, Tier::T0)?, t0_end: Box::default() })
    }

    /// Run a case by both; `out` is how it ended by T1.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run(&mut self, made: &Made, most: usize, out: &mut Outcome) -> Result<Ran> {
        self.run_tampered(made, most, out, &mut |_| {})
    }

    /// As [`Tiers::run`], with T1's blocks changed.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run_tampered(&mut self, made: &Made, most: usize, out: &mut Outcome, tamper: Tamper<'_>) -> Result<Ran> {
        let t1 = self.t1.run(&made.case, most, out, tamper)?;
        let t0 = self.t0.run(&made.case, most, &mut self.t0_end, &mut |_| {})?;
        let lines = match (&t0, &t1) {
            (Ok(()), Ok(())) => compare::tiers(&made.case, &made.instruction, &self.t0_end, out),
            (t0, t1) if t0 == t1 => vec![],
            (t0, t1) => vec![format!("T0 {t0:?}, T1 {t1:?}")],
        };
        Ok(if lines.is_empty() { t1 } else { Err(format!("the tiers differ: {}", lines.join("; "))) })
    }
}
