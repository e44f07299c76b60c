//! x86 correctness: every advertised instruction against the CPU that the tests run on.

#![cfg(test)]

use std::io::Write;

use cpu_model::Model;
use differential::mutants::{Hunt, MUTANTS, MUTANTS_V3, Mutant};
use differential::run::{self, Plan};
use differential::{exclusions, fixed, forms, host, unadvertised};

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
    for f in &report.failures {
        say(&f.to_string());
    }
    say(&report.to_string());
    let bugs = hunt.report();
    let caught = bugs.iter().filter(|b| b.1.is_some()).count();
    say(&format!("planted bugs: {caught} of {} noticed", bugs.len()));
    for (name, by) in &bugs {
        say(&format!("  {name}: {}", by.as_deref().unwrap_or("AT LARGE")));
    }
    assert_eq!(report.differences(), 0, "the translator and this CPU disagree; what and how to repeat it is above");
    assert!(report.empty.is_empty(), "forms without a single case: {:?}", report.empty);
    for (feature, c) in report.features.iter().filter(|(feature, _)| tried.contains(*feature)) {
        assert_eq!(c.covered.len() + c.excluded.len(), c.advertised.len(), "{feature} is not covered");
    }
    assert_eq!(caught, bugs.len(), "a planted bug was not noticed");
}

fn long() -> bool {
    std::env::var_os("ATOLL_LONG").is_some()
}

/// A sample of every form's states; two hundred of each with `ATOLL_LONG=1`.
#[test]
fn every_form_equals_this_cpu() {
    assert!(MUTANTS.len() >= 30);
    let counts = if long() { [200, 100_000] } else { [run::SAMPLE_STATES, run::SAMPLE_SEQUENCES] };
    compare(model(), forms::all(model()), MUTANTS, counts);
}

/// What the larger model has beyond the other one.
#[test]
fn every_form_of_x86_64_v3_equals_this_cpu() {
    let Some(larger) = larger() else { return };
    let forms = forms::beyond(larger, model());
    compare(larger, forms, MUTANTS_V3, [if long() { 200 } else { run::SAMPLE_STATES }, 0]);
}

#[test]
fn the_fixed_corners_equal_this_cpu() {
    for model in [Some(model()), larger()].into_iter().flatten() {
        let (cases, wrong) = fixed::check(model).unwrap();
        say(&format!("fixed corners of {}: {cases} cases, {} differ", model.name, wrong.len()));
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn what_is_not_advertised_raises_ud() {
    for model in cpu_model::MODELS {
        refused_by(model);
    }
}

fn refused_by(model: &'static Model) {
    let found = unadvertised::check(model).unwrap();
    let refused: usize = found.refused.values().sum();
    say(&format!("not advertised by {}: {refused} codes of {} features raise #UD", model.name, found.refused.len()));
    for (feature, count) in &found.older {
        say(&format!("  {feature} ({count} codes) has an older meaning"));
    }
    assert!(found.wrong.is_empty(), "these do not raise #UD: {:#?}", found.wrong);
    assert!(refused > 4000, "only {refused} codes could be tried");
    assert!(found.unreachable.len() < 20, "too many could not be encoded: {:?}", found.unreachable);
}

#[test]
fn the_lists_are_not_stale() {
    // Every excluded instruction is advertised, or it would need no exclusion.
    for (mnemonic, _) in exclusions::EXCLUDED {
        let advertised =
            iced_x86::Code::values().any(|c| c.mnemonic() == *mnemonic && differential::features::has(model(), c));
        assert!(advertised, "{mnemonic:?} is excluded, but not advertised");
    }
    for (feature, _) in exclusions::OLDER_MEANING {
        let known = iced_x86::Code::values().any(|c| differential::features::name(c) == *feature);
        assert!(known, "{feature} is no feature");
    }
}
