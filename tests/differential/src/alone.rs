//! Codes that the host cannot answer for, by the tiers alone: both do the same, and what the model does not advertise raises
//! #UD, whatever the host would do with it.

use anyhow::Result;
use cpu_model::Model;
use iced_x86::{Code, OpCodeOperandKind as Kind};

use crate::build::{self, Made};
use crate::case::{CODE, CODE_LEN, Outcome};
use crate::census::{self, Census, Fate};
use crate::forms::{self, Address, Form, Shape, is_memory, vector_index};
use crate::random::Pool;
use crate::tiers::Tiers;
use crate::{exclusions, features, run};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What became of which code.
    pub census: Census,
    /// Cases.
    pub cases: u64,
    /// Where the tiers differ, and what does not raise #UD and should.
    pub wrong: Vec<String>,
}

/// Every code that is not compared with the host.
struct Alone {
    tiers: Tiers,
    pool: Pool,
    model: &'static Model,
    end: Box<Outcome>,
    found: Found,
}

/// Try every code of the model that is excluded, and every one that the model does not advertise, in `states` states of each form
/// that can be written.
///
/// # Errors
/// The guests cannot run.
pub fn check(model: &'static Model, states: u64) -> Result<Found> {
    let (tiers, pool) = (Tiers::new(model)?, Pool::default());
    let mut a = Alone { tiers, pool, model, end: Box::default(), found: Found::default() };
    for bits in [64, 32] {
        for code in Code::values().filter(|c| census::skipped(*c, bits).is_none()) {
            if !features::has(model, code) {
                if exclusions::older(code) { a.forms(code, bits, states, Fate::Older)? } else { a.refused(code, bits)? }
            } else if exclusions::reason(code).is_some() {
                a.forms(code, bits, states, Fate::Excluded)?;
            }
        }
    }
    Ok(a.found)
}

impl Alone {
    fn run(&mut self, made: &Made) -> Result<()> {
        self.found.cases += 1;
        if let Err(why) = self.tiers.run(made, 1, &mut self.end)? {
            self.found.wrong.push(format!("{}: {why}", run::describe(made)));
        }
        Ok(())
    }

    /// Every form of a code.
    fn forms(&mut self, code: Code, bits: u32, states: u64, fate: Fate) -> Result<()> {
        for form in forms::of(code, bits) {
            for state in 0..states {
                let Some(made) = build::make(form, 1, state, &self.pool, self.model) else { continue };
                self.run(&made)?;
                self.found.census.add(code, bits, fate);
            }
        }
        Ok(())
    }

    /// A code that must raise #UD.
    fn refused(&mut self, code: Code, bits: u32) -> Result<()> {
        let kinds = code.op_code().op_kinds();
        let vsib = kinds.iter().any(|k| vector_index(*k).is_some() || *k == Kind::sibmem);
        // Some have one size of address, which may be the other one.
        let shapes: &[Shape] = match kinds.iter().any(|k| is_memory(*k)) {
            true if vsib => &[Shape::Mem(Address::Sib)],
            true => &[Shape::Mem(Address::Base), Shape::Mem(Address::Half)],
            false => &[Shape::Plain],
        };
        // One whose bytes are all there.
        let whole = |m: &Made| m.case.at + m.case.len <= CODE + CODE_LEN;
        let one = |shape: &Shape, n| {
            build::make(Form { code, bits, shape: *shape }, 1, n, &self.pool, self.model).filter(whole)
        };
        let Some(made) = shapes.iter().find_map(|shape| (0..20).find_map(|n| one(shape, n))) else { return Ok(()) };
        self.run(&made)?;
        if self.end.stop.vector == 6 && self.end.state.rip == made.case.state.rip {
            self.found.census.add(code, bits, Fate::Refused);
        } else {
            self.found.wrong.push(format!("{code:?} in {bits}-bit code ({}) does not raise #UD", features::name(code)));
        }
        Ok(())
    }
}
