//! Instructions that the model does not advertise must raise #UD, whatever the host would do with them.

use std::collections::BTreeMap;

use anyhow::Result;
use cpu_model::Model;
use iced_x86::{Code, OpCodeOperandKind as Kind};

use crate::build;
use crate::case::{CODE, CODE_LEN, Outcome};
use crate::exclusions::OLDER_MEANING;
use crate::features;
use crate::forms::{Address, Form, Shape, is_memory, vector_index};
use crate::guest::Guest;
use crate::random::Pool;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Codes that raise #UD, by feature.
    pub refused: BTreeMap<String, usize>,
    /// Codes whose encoding has an older meaning (see the list of exclusions), by feature.
    pub older: BTreeMap<String, usize>,
    /// Codes that cannot be written so that they are decoded as themselves.
    pub unreachable: Vec<(Code, u32)>,
    /// Codes that do not raise #UD and should.
    pub wrong: Vec<String>,
}

/// Try every code that the model does not advertise.
///
/// # Errors
/// The guest cannot run.
pub fn check(model: &'static Model) -> Result<Found> {
    let mut found = Found::default();
    let (mut guest, pool) = (Guest::new(model)?, Pool::default());
    for bits in [64, 32] {
        // What only decodes with an option belongs to another maker's processors, or to some of the past.
        let here = |c: &Code| features::exists(*c, bits) && c.op_code().decoder_option() == 0;
        for code in Code::values().filter(|c| here(c) && !features::has(model, *c)) {
            one(&mut found, &mut guest, &pool, model, code, bits)?;
        }
    }
    Ok(found)
}

fn one(found: &mut Found, guest: &mut Guest, pool: &Pool, model: &'static Model, code: Code, bits: u32) -> Result<()> {
    let name = features::name(code);
    if OLDER_MEANING.iter().any(|o| o.0 == name) {
        *found.older.entry(name).or_default() += 1;
        return Ok(());
    }
    let kinds = code.op_code().op_kinds();
    let vsib = kinds.iter().any(|k| vector_index(*k).is_some() || *k == Kind::sibmem);
    let shape = match kinds.iter().any(|k| is_memory(*k)) {
        true if vsib => Shape::Mem(Address::Sib),
        true => Shape::Mem(Address::Base),
        false => Shape::Plain,
    };
    // One whose bytes are all there.
    let whole = |m: &build::Made| m.case.at + m.case.len <= CODE + CODE_LEN;
    let made = (0..20).find_map(|n| build::make(Form { code, bits, shape }, 1, n, pool, model).filter(whole));
    let Some(made) = made else {
        found.unreachable.push((code, bits));
        return Ok(());
    };
    let mut o = Box::new(Outcome::default());
    let ran = guest.run(&made.case, 1, &mut o, &mut |_| {})?;
    if ran.is_ok() && o.stop.vector == 6 && o.state.rip == made.case.state.rip {
        *found.refused.entry(name).or_default() += 1;
    } else {
        found.wrong.push(format!("{code:?} in {bits}-bit code ({name})"));
    }
    Ok(())
}
