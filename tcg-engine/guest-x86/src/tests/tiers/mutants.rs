//! The comparison finds each bug that is planted in the emitter, within a bounded number of programs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use emit_x64::mutants::{ALL, Mutant, plant};

use super::{Pair, TOGETHER, campaign, has_bits, reclaims};

/// Programs in which each bug must be found. Which ones they are is fixed, so that nothing depends on chance.
const ENOUGH: u64 = 60 * TOGETHER;

#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    // No lifted block has a constant that is wanted where ways meet, or halves of two registers next to each other; a program does
    // not see the host's MXCSR, and the memory behind a vector register is seldom old. The emitter's own tests find those. Programs
    // of user mode take no page away, and pages that follow each other are seldom apart; tests of memos find those. What
    // a function changes is seldom the way back, programs have no loops in loops, and few jump to where nothing can be; tests of
    // returns and loops find that. Rounds that are too many, or go by what is no address, leave the host's mapping.
    // What is jumped to is seldom jumped to at several places before it changes, and wherever a program is mapped it has the same pages;
    // tests of blocks that do not know where they are mapped see to that.
    let others = [
        Mutant::Settle,
        Mutant::HostControl,
        Mutant::Spill,
        Mutant::Twin,
        Mutant::Memos,
        Mutant::Runs,
        Mutant::MemoEnd,
        Mutant::RunEnd,
        Mutant::WideEnd,
        Mutant::Shrunk,
        Mutant::Apart,
        Mutant::GroupRight,
        Mutant::TakenOver,
        Mutant::Second,
        Mutant::Addend,
        Mutant::RoundsMany,
        Mutant::RoundsEnd,
        Mutant::RoundsRight,
        Mutant::RoundsBase,
        Mutant::RoundsTicket,
        Mutant::ReturnContext,
        Mutant::ReturnGone,
        Mutant::Unchecked,
        Mutant::Moved,
        Mutant::LinkPlace,
        Mutant::Elsewhere,
        Mutant::Anonymous,
        Mutant::Turn,
    ];
    // The emitter's own tests find it on every host.
    let bits = (!has_bits()).then_some(Mutant::BitFlags);
    let others: Vec<Mutant> = others.iter().chain(&reclaims::OWN).copied().chain(bits).collect();
    for (mutant, what) in ALL.iter().filter(|m| !others.contains(&m.0)) {
        missed.extend(missing(Pair::new, ENOUGH, *mutant, what));
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// What to say if the bug is not found within so many programs on such machines: neither by what they do, nor when T1 looks over its code.
pub fn missing(make: fn(u64) -> Pair, most: u64, mutant: Mutant, what: &str) -> Option<String> {
    plant(Some(mutant));
    let found = catch_unwind(AssertUnwindSafe(|| campaign(make, 1 << 20, Duration::MAX, most)));
    plant(None);
    let how = match found {
        Ok(Ok((compared, unknown))) => return Some(format!("{what} ({compared} programs, {unknown} unknown)")),
        Ok(Err(text)) => text.lines().take(2).collect::<Vec<_>>().join(" "),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    };
    println!("{mutant:?}: {how}");
    None
}
