//! Both tiers while code memory is reclaimed part by part: the same programs with so little of it that blocks go all the time, and
//! what holds of it after each of them.
//!
//! The idea: emitted code that leads where other code lies now does anything at all, so mistakes are not left to what programs come
//! to. Each time that a part begins, T1 looks over all of its memory ([`emit_x64::T1::faults`]).

use emit_x64::mutants::{ALL, Mutant};

use super::mutants::missing;
use super::{Came, Pair, TOGETHER, decode_code};

/// Bugs of reclaiming, which other programs seldom come to.
pub const OWN: [Mutant; 5] =
    [Mutant::Holes, Mutant::AcrossOld, Mutant::LinkedOld, Mutant::RememberedOld, Mutant::MemosOld];

#[test]
fn programs_do_the_same_while_parts_are_reclaimed() {
    let (mut links, mut reclaims, mut reclaimed, mut hot, mut clears) = (0, 0, 0, 0, 0);
    for n in 0..36 {
        let mut pair = Pair::crowded(n * TOGETHER);
        let before = pair.t1.counter("code-clears");
        for seed in n * TOGETHER..(n + 1) * TOGETHER {
            match pair.program(seed) {
                Came::Same => {}
                Came::Unknown => break,
                Came::Different(text) => panic!("{seed}: {text}"),
            }
            links += decode_code(&pair.t1);
            assert_eq!(pair.t1.t1.as_ref().unwrap().faults(), [""; 0]);
        }
        let count = |name| pair.t1.counter(name);
        reclaims += count("code-reclaims");
        reclaimed += count("code-reclaimed");
        hot += count("code-hot");
        clears += count("code-clears") - before;
    }
    println!("{links} branches to heads, {reclaims} reclaims of {reclaimed} blocks, {hot} hot ones, {clears} clears");
    assert!(reclaims > 1000 && reclaimed > 4000 && hot > 1000 && links > 1000 && clears == 0);
}

#[test]
fn planted_bugs_of_reclaiming_are_found() {
    let mut missed = Vec::new();
    for (mutant, what) in ALL.iter().filter(|m| OWN.contains(&m.0)) {
        missed.extend(missing(Pair::crowded, 24 * TOGETHER, *mutant, what));
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}
