//! The filters that a thread really has against those of the profiles: instruction by instruction, and if they differ, what
//! that means.

use std::collections::BTreeSet;

use super::{Finding, ThreadFacts};
use crate::bpf::{self, Call, evaluate};
use crate::{Kind, Policy, Profile, Rule, sock_filter, syscalls};

/// A value that no table names, for arguments that a filter does not look at any more.
const NAMED_BY_NOBODY: u32 = 0x5a5a_1234;

/// Compares the programs of a thread, the newest first: the profile's own, then the keeper's for what it has started.
pub(super) fn compare_programs(thread: &ThreadFacts, profile: &Profile, findings: &mut Vec<Finding>) {
    let Some(programs) = &thread.programs else { return };
    let mut programs = programs.iter();
    if let Some(own) = programs.next() {
        compare_own(thread.id, own, profile, findings);
    }
    for inherited in programs {
        compare_inherited(thread.id, inherited, findings);
    }
}

fn compare_own(thread: i32, program: &[sock_filter], profile: &Profile, findings: &mut Vec<Finding>) {
    let Ok(own) = profile.program() else { return };
    if own == program {
        return;
    }
    let passing = bpf::passing(program, &samples(program)).unwrap_or_default();
    let calls = passing.iter().map(|number| i64::from(*number)).filter(|number| !profile.allows(*number)).map(name);
    let extra: Vec<String> = calls.chain(arguments(program, &own, profile)).collect();
    findings.push(Finding::WrongFilter { thread, extra: listed(&extra) });
    if matches!(profile.policy, Policy::AllowOnly(_)) && passing.len() > profile.budget {
        findings.push(Finding::OverBudget { thread, found: passing.len(), budget: profile.budget });
    }
}

fn compare_inherited(thread: i32, program: &[sock_filter], findings: &mut Vec<Finding>) {
    let keeper = Kind::Keeper.profile();
    if keeper.program().is_ok_and(|own| own == program) {
        return;
    }
    let passing = bpf::passing(program, &[]).unwrap_or_default();
    let missing: Vec<String> =
        passing.iter().map(|number| i64::from(*number)).filter(|number| !keeper.allows(*number)).map(name).collect();
    findings.push(Finding::WrongKeeperFilter { thread, missing: listed(&missing) });
}

/// A filter can tell an argument from others only by a constant that stands in it: those, and one that stands nowhere.
fn constants(program: &[sock_filter]) -> BTreeSet<u32> {
    program.iter().map(|step| step.k).chain([NAMED_BY_NOBODY]).collect()
}

/// One value in one place, zeroes around it.
fn with_argument(place: usize, value: u32) -> [u64; 6] {
    std::array::from_fn(|at| if at == place { u64::from(value) } else { 0 })
}

/// Arguments for every call: each constant in each place, and what passes the checks of any profile, some of which want more than
/// one argument to be right.
fn samples(program: &[sock_filter]) -> Vec<[u64; 6]> {
    let places = |value: u32| (0..6).map(move |place| with_argument(place, value));
    let known = Kind::ALL.into_iter().flat_map(|kind| kind.profile().samples());
    constants(program).into_iter().flat_map(places).chain(known).collect()
}

/// Arguments of checked calls that `program` lets through and `own` does not.
fn arguments(program: &[sock_filter], own: &[sock_filter], profile: &Profile) -> Vec<String> {
    let constants = constants(program);
    let passes = |program: &[sock_filter], rule: &Rule, argument: u8, value: u32| {
        let arguments = rule.sample(argument, value);
        let number = u32::try_from(rule.call).unwrap_or(u32::MAX);
        evaluate(program, &Call::new(number, arguments)).is_ok_and(|action| action == libc::SECCOMP_RET_ALLOW)
    };
    let mut found = Vec::new();
    let checks = profile.rules().iter().flat_map(|rule| rule.checks.iter().map(move |check| (rule, check.argument)));
    for (rule, argument) in checks {
        let more = |value: &u32| passes(program, rule, argument, *value) && !passes(own, rule, argument, *value);
        if more(&NAMED_BY_NOBODY) {
            found.push(format!("{} with any argument {argument}", name(rule.call)));
            continue;
        }
        let values = constants.iter().copied().filter(more);
        found.extend(values.map(|value| format!("{} with argument {argument} = {value:#x}", name(rule.call))));
    }
    found
}

fn name(number: i64) -> String {
    syscalls::name(number).map_or_else(|| format!("call {number}"), str::to_owned)
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    const FEW: usize = 10;
    match names.len() {
        0 => "none".to_owned(),
        count if count <= FEW => names.join(", "),
        count => format!("{} and {} more", names[..FEW].join(", "), count - FEW),
    }
}
