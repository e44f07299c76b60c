//! x86 correctness: every advertised instruction against the CPU that the tests run on.

#![cfg(test)]

use std::io::Write;

use cpu_model::Model;
use differential::census::{Census, Fate};
use differential::mutants::{self, Hunt, MUTANTS, MUTANTS_V3, Mutant};
use differential::run::{self, Plan};
use differential::{alone, amd, exclusions, fixed, forms, host, rules};
use iced_x86::{Code, Mnemonic};

/// The seed of the fixed sample.
const SEED: u64 = 1;

/// Past the test runner, which shows the output of failed tests only.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn model() -> &'static Model {
    cpu_model::by_name("atoll-v2").unwrap()
}

/// The larger model, if this CPU can tell what is right for it.
fn larger() -> Option<&'static Model> {
    let model = cpu_model::by_name("atoll-v3").unwrap();
    match host::lacks(model) {
        None => Some(model),
        Some(feature) => {
            say(&format!("skipped: this CPU has no {feature}, so it cannot tell what is right for {}", model.name));
            None
        }
    }
}

fn compare(model: &'static Model, forms: Vec<forms::Form>, bugs: &'static [Mutant], [states, sequences]: [u64; 2]) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let tried: std::collections::BTreeSet<_> = forms.iter().map(|f| differential::features::name(f.code)).collect();
    let plan = Plan { forms, seed: SEED, states: 0..states, sequences, threads };
    let hunt = Hunt::of(bugs);
    let report = run::run(&plan, model, &|name, made, host, guest| hunt.case(name, made, host, guest)).unwrap();
    for f in report.failures.iter().filter(|f| host::reviewed() || f.translators) {
        say(&f.to_string());
    }
    say(&report.to_string());
    let bugs = hunt.report();
    let caught = bugs.iter().filter(|b| b.1.is_some()).count();
    say(&format!("planted bugs: {caught} of {} noticed", bugs.len()));
    for (name, by) in &bugs {
        let at_large = if mutants::shows(name) { "AT LARGE" } else { "this CPU has it too" };
        say(&format!("  {name}: {}", by.as_deref().unwrap_or(at_large)));
    }
    assert_eq!(report.failed(), 0, "the tiers disagree; what and how to repeat it is above");
    if host::reviewed() {
        assert_eq!(report.differences(), 0, "the translator and this CPU disagree; what and how to repeat it is above");
        for (name, by) in &bugs {
            assert_eq!(by.is_some(), mutants::shows(name), "whether '{name}' was noticed");
        }
    } else {
        let differ = report.differences();
        say(&format!("skipped: this CPU is neither Intel's nor AMD's, so its {differ} differences mean nothing"));
    }
    // Loops have no floating point, and end with the block.
    let (looped, covered) =
        report.features.values().fold((0, 0), |(a, b), c| (a + c.looped.len(), b + c.covered.len()));
    assert!(2 * looped > covered, "{looped} of {covered} codes were in a loop that counts its rounds");
    assert!(report.empty.is_empty(), "forms without a single case: {:?}", report.empty);
    for (feature, c) in report.features.iter().filter(|(feature, _)| tried.contains(*feature)) {
        assert_eq!(c.covered.len() + c.excluded.len(), c.advertised.len(), "{feature} is not covered");
    }
    match report.mirrored {
        Some(pages) => assert!(pages > 0, "no pages were put next to each other"),
        None => say("skipped: the guest has no mirror, so no access remembers a run of pages"),
    }
    account(model, report.census());
}

/// Every code that there is has been compared, was tried without the host, or is left out for a reason that is written down.
fn account(model: &'static Model, mut census: Census) {
    census.merge(&alone::check(model, 1).unwrap().census);
    if model.name != self::model().name {
        for (bits, code) in
            [64, 32].into_iter().flat_map(|bits| forms::codes(self::model(), bits).map(move |c| (bits, c)))
        {
            if !census.has(code, bits) {
                census.add(code, bits, Fate::Smaller);
            }
        }
    }
    let counts = census.clone().close().unwrap_or_else(|wrong| panic!("{}: {wrong:#?}", model.name));
    say(&format!("{}: codes in 64- and in 32-bit code, {} in all", model.name, counts.values().sum::<usize>()));
    for (fate, count) in &counts {
        say(&format!("  {count:>5} {fate:?}"));
    }
    // Whatever is taken away is missed.
    for fate in [Fate::Compared, Fate::Excluded, Fate::Older, Fate::Refused] {
        let (mut less, (code, bits)) = (census.clone(), census.first(fate).unwrap());
        less.remove(code, bits);
        let wrong = less.close().unwrap_err();
        assert_eq!(wrong, [format!("{code:?} in {bits}-bit code: left out")]);
    }
}

fn long() -> bool {
    std::env::var_os("ATOLL_LONG").is_some()
}

/// States of each form.
fn states() -> u64 {
    if long() { 200 } else { run::SAMPLE_STATES }
}

/// A sample of every form's states; two hundred of each with `ATOLL_LONG=1`.
#[test]
fn every_form_equals_this_cpu() {
    assert!(MUTANTS.len() >= 30);
    let sequences = if long() { 100_000 } else { run::SAMPLE_SEQUENCES };
    compare(model(), forms::all(model()), MUTANTS, [states(), sequences]);
}

/// What the larger model has beyond the other one.
#[test]
fn every_form_of_x86_64_v3_equals_this_cpu() {
    let Some(larger) = larger() else { return };
    let forms = forms::beyond(larger, model());
    compare(larger, forms, MUTANTS_V3, [states(), 0]);
}

#[test]
fn the_fixed_corners_equal_this_cpu() {
    for model in [Some(model()), larger()].into_iter().flatten() {
        let (cases, wrong) = fixed::check(model).unwrap();
        say(&format!("fixed corners of {}: {cases} cases, {} differ", model.name, wrong.len()));
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// What the host cannot answer for: excluded codes and older meanings are the same by both tiers, and the rest raises #UD.
#[test]
fn the_tiers_agree_where_the_host_cannot_answer() {
    for model in cpu_model::MODELS {
        let found = alone::check(model, states()).unwrap();
        say(&format!("{}: {} cases of codes that the host cannot answer for", model.name, found.cases));
        assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    }
}

/// Whether the model has an instruction of this name.
fn advertised(model: &Model, mnemonic: Mnemonic) -> bool {
    Code::values().any(|c| c.mnemonic() == mnemonic && differential::features::has(model, c))
}

#[test]
fn the_lists_are_not_stale() {
    // Every excluded instruction is advertised, or it would need no exclusion.
    for (mnemonic, _) in exclusions::EXCLUDED {
        assert!(advertised(model(), *mnemonic), "{mnemonic:?} is excluded, but not advertised");
    }
    for (feature, _) in exclusions::OLDER_MEANING {
        let known = Code::values().any(|c| differential::features::name(c) == *feature);
        assert!(known, "{feature} is no feature");
    }
    // What a rule is for is advertised, by the larger model at least.
    let larger = cpu_model::by_name("atoll-v3").unwrap();
    let flags = rules::UNDEFINED.iter().chain(amd::UNDEFINED).map(|u| (u.3, u.0));
    for (rule, of) in flags.chain(amd::CHOICES.iter().map(|c| (c.0, c.2))) {
        for mnemonic in of {
            assert!(advertised(larger, *mnemonic), "'{rule}' is for {mnemonic:?}, which is not advertised");
        }
    }
    for (name, ..) in mutants::SHARED {
        let planted = MUTANTS.iter().chain(MUTANTS_V3).any(|m| m.0 == *name);
        assert!(planted, "'{name}' is not planted");
    }
}
