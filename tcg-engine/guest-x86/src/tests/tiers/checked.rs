//! Emitted code that is compared block by block while a guest runs ([`Check`]): it finds nothing, unless a bug is planted.

use emit_x64::mutants::{Mutant, plant};

use super::{Came, Pair, TOGETHER};
use crate::runner::Check;

/// Run programs; what came of the comparison, and whether they did the same in the end.
fn checked(programs: u64) -> (Check, bool) {
    let (mut all, mut same) = (Check::default(), true);
    for n in 0..programs {
        let mut pair = Pair::new(n * TOGETHER);
        pair.t1.check = Some(Check::default());
        same &= !matches!(pair.program(n * TOGETHER), Came::Different(_));
        let check = pair.t1.check.take().unwrap();
        all.compared += check.compared;
        all.skipped += check.skipped;
        all.different += check.different;
        all.differences.extend(check.differences);
    }
    (all, same)
}

#[test]
fn nothing_is_different_block_by_block() {
    let (check, same) = checked(48);
    println!("{} blocks compared, {} skipped", check.compared, check.skipped);
    assert!(same);
    assert_eq!((check.different, &check.differences[..]), (0, &[][..]));
    assert!(check.compared > 1000, "{} compared, {} skipped", check.compared, check.skipped);
}

#[test]
fn planted_bugs_are_different_block_by_block() {
    for mutant in [Mutant::Carry, Mutant::Width] {
        plant(Some(mutant));
        let (check, _) = checked(48);
        plant(None);
        println!("{mutant:?}: {} of {} blocks are different", check.different, check.compared);
        assert!(check.different > 0, "{mutant:?}");
        assert!(!check.differences.is_empty());
    }
}
