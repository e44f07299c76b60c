//! The targets, each tried with all committed inputs, with new ones, and with planted bugs.
//!
//! `ATOLL_LONG=1`: three minutes for each target (`ATOLL_FUZZ_SECONDS` says otherwise), in place of one second. `ATOLL_SEED`
//! gives a run again. `ATOLL_FUZZ_KEEP=1` makes the committed inputs those that a run found to be worth it.
//!
//! A planted bug stands in the target, not in the code that is tried. Most take a refusal of that code, or the input, and do
//! what would follow without the check; those of `control_messages`, `pci` and `windows` are in what the target puts before or
//! behind the code: a VM, a device, a use of what was found. So one that is found shows that inputs get as far as this check or
//! this call in the time given, and that a panic or a wrong result there is noticed; it does not show that a check which is
//! missing in the code would be found.
#![cfg(test)]

mod bytes;
mod control_messages;
mod engine_states;
mod islet_messages;
mod keeper_messages;
mod kernels;
mod manifest;
mod pci;
mod record;
mod saved_states;
mod windows;

use std::path::PathBuf;
use std::time::Duration;

use fuzz::{Figures, Options, Plant, Target, drive, load, save};

/// How long a target runs, in seconds.
const SHORT: f64 = 1.0;
const LONG: f64 = 180.0;
/// The share of the long time in which each planted bug must be found.
const SHARE: f64 = 0.1;

fn variable(name: &str) -> Option<f64> {
    std::env::var(name).ok()?.parse().ok()
}

fn options(seconds: f64) -> Options {
    let fresh = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.subsec_nanos().into());
    let seed = std::env::var("ATOLL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(fresh);
    let (time, patience) = (Duration::from_secs_f64(seconds), Duration::from_secs(10));
    Options { seed, time, executions: u64::MAX, patience }
}

fn folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

#[track_caller]
fn no_failure(target: &Target, figures: &Figures) {
    if let Some(failure) = &figures.failure {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
        let path = failure.write(&folder, target.name).unwrap();
        panic!("{}: {:?}: {}; the input is {}", target.name, failure.kind, failure.text, path.display());
    }
}

/// Every committed input, then new ones.
fn new_inputs(target: &'static Target) {
    let long = std::env::var_os("ATOLL_LONG").is_some();
    let seconds = variable("ATOLL_FUZZ_SECONDS").unwrap_or(if long { LONG } else { SHORT });
    let committed = load(&folder(target)).unwrap();
    let mut inputs: Vec<Vec<u8>> = committed.iter().map(|(_, input)| input.clone()).collect();
    let keeps = std::env::var_os("ATOLL_FUZZ_KEEP").is_some();
    assert!(keeps || !inputs.is_empty(), "{}: no committed inputs", target.name);
    inputs.extend((target.seeds)());
    let options = options(seconds);
    let figures = drive(target, Plant::NONE, inputs, options);
    println!(
        "{}: ATOLL_SEED={}: {} executions, {:.0}/s, {} features, {} inputs ({} committed), {} failures (rule of three: below {:.1e})",
        target.name,
        options.seed,
        figures.executions,
        figures.rate(),
        figures.features,
        figures.kept.len(),
        committed.len(),
        u8::from(figures.failure.is_some()),
        figures.bound(),
    );
    no_failure(target, &figures);
    if keeps {
        println!("{}: {} inputs kept", target.name, save(&folder(target), &figures.kept).unwrap());
    }
}

/// Each planted bug is found from the seeds alone, and none by them.
fn planted(target: &'static Target) {
    for (number, what) in target.plants.iter().enumerate() {
        let plant = Plant::number(number);
        let options = options(LONG * SHARE);
        let seeds = drive(target, plant, (target.seeds)(), Options { executions: 0, ..options });
        no_failure(target, &seeds);
        let figures = drive(target, plant, (target.seeds)(), options);
        let failure = figures.failure.unwrap_or_else(|| {
            let (tried, seed) = (figures.executions, options.seed);
            panic!("{}: '{what}' is not found in {tried} executions with ATOLL_SEED={seed}", target.name)
        });
        // It is the planted bug that was found.
        let once = Options { executions: 0, ..options };
        no_failure(target, &drive(target, Plant::NONE, vec![failure.input], once));
        println!(
            "{}: planted: {what}: found after {:.2} s, {} executions ({:.2} % of {LONG} s): {}",
            target.name,
            figures.time.as_secs_f64(),
            figures.executions,
            figures.time.as_secs_f64() / LONG * 100.0,
            failure.text.replace('\n', " "),
        );
    }
}

macro_rules! targets {
    ($($name:ident: $target:path,)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn new_inputs_do_no_harm() {
                new_inputs(&$target);
            }

            #[test]
            fn planted_bugs_are_found() {
                planted(&$target);
            }
        })*
    };
}

mod test {
    use super::*;

    targets! {
        kernels: crate::kernels::TARGET,
        control_messages: crate::control_messages::TARGET,
        islet_messages: crate::islet_messages::TARGET,
        keeper_messages: crate::keeper_messages::TARGET,
        saved_states: crate::saved_states::TARGET,
        engine_states: crate::engine_states::TARGET,
        manifest: crate::manifest::TARGET,
        windows: crate::windows::TARGET,
        pci: crate::pci::TARGET,
        record: crate::record::TARGET,
    }
}
