//! Running islets, audited from outside by root: nothing is found on one that is as it should be, and each planted
//! loosening is found.

use profile::Kind;
use profile::audit::{Access, Expectation, Facts, Finding, Reported, compare, compare_all};

use crate::rig::{Vm, Who};

/// The kernel's Landlock ABI, as an islet reports it; 0 on a kernel without.
fn possible_abi(vm: &mut Vm) -> u32 {
    vm.once("probe", "restricted", "nothing").landlock
}

fn expectation(possible: u32, reported: Reported) -> Expectation {
    Expectation::new(Kind::Probe.profile(), Facts::own_namespaces().expect("/proc is mounted"))
        .threads(2)
        .descriptor(0, "/dev/null", Access::ReadWrite)
        .descriptor(1, "/dev/null", Access::ReadWrite)
        .descriptor(2, "pipe", Access::Write)
        .descriptor(3, "socket", Access::ReadWrite)
        .arena(16 << 20)
        .shared("/memfd:status", "rw-s", 0, 4096)
        .reported(reported, possible)
}

/// The islet once it waits, with the filters of each thread dumped.
fn facts(vm: &mut Vm, name: &str, arguments: &[&str]) -> (Facts, Reported) {
    let (_, number) = vm.islet(name, arguments);
    let reported = vm.until_waiting(name);
    let mut facts = Facts::read(number).expect("root may look into it");
    for thread in facts.threads.iter_mut().filter(|thread| thread.seccomp_mode == 2) {
        thread.programs = Some(spawn::dump_filters(thread.id).expect("root may dump filters"));
    }
    (facts, reported)
}

#[test]
fn a_sealed_islet_is_exactly_as_its_profile_says() {
    if !Who::all().contains(&Who::Root) {
        println!("needs root: an audit looks into other users' processes");
        return;
    }
    for who in Who::all() {
        let mut vm = Vm::start(who);
        let possible = possible_abi(&mut vm);
        let (first, reported) = facts(&mut vm, "first", &["probe", "sealed", "wait"]);
        assert_eq!(compare(&first, &expectation(possible, reported)), [], "{who:?}");
        let (second, _) = facts(&mut vm, "second", &["probe", "sealed", "wait"]);
        assert_eq!(compare_all(&[&first, &second], who == Who::Root), [], "{who:?}");
        vm.end("first");
        vm.end("second");
    }
}

#[test]
fn under_a_sealed_keeper_there_are_two_filters_and_everything_works() {
    let mut vm = Vm::start(Who::User);
    assert_eq!(vm.ask(&["seal"]), ["sealed"]);
    assert_eq!(vm.once("probe", "sealed", "works").output, "works\tok");
    assert_eq!(vm.once("probe", "sealed", "ptrace").cause, "trapped");
    assert_eq!(vm.once("probe", "spawned", "ptrace").output, "ptrace\tEPERM");
    if Who::all().contains(&Who::Root) {
        let possible = possible_abi(&mut vm);
        let (facts, reported) = facts(&mut vm, "islet", &["probe", "sealed", "wait"]);
        assert_eq!(compare(&facts, &expectation(possible, reported).filters(2)), []);
        vm.end("islet");
    }
}

#[test]
fn every_planted_loosening_of_a_running_islet_is_found() {
    type Check = fn(&Finding) -> bool;
    let plantings: &[(&str, Check)] = &[
        (
            "extra-descriptor",
            |finding| matches!(finding, Finding::UnexpectedDescriptor { target, .. } if target == "eventfd"),
        ),
        ("executable-map", |finding| matches!(finding, Finding::WritableExecutable { .. })),
        ("mmap-allowed", |finding| matches!(finding, Finding::WrongFilter { extra, .. } if extra == "mmap")),
        (
            "argument-allowed",
            |finding| matches!(finding, Finding::WrongFilter { extra, .. } if extra == "fcntl with argument 1 = 0x4"),
        ),
        ("anonymous-map", |finding| matches!(finding, Finding::AnonymousMemory { .. })),
        ("capabilities-kept", |finding| matches!(finding, Finding::Capabilities { set: "CapEff", .. })),
        ("writable-root", |finding| matches!(finding, Finding::Root { .. })),
        ("no-landlock", |finding| matches!(finding, Finding::Landlock { found: 0, .. })),
        ("no-limits", |finding| matches!(finding, Finding::Limit { name: "fsize", .. })),
        ("nothing-restricted", |finding| matches!(finding, Finding::Capabilities { set: "CapEff", .. })),
        ("one-thread-free", |finding| matches!(finding, Finding::Unfiltered { name, .. } if name == "second")),
        ("no-filter", |finding| matches!(finding, Finding::Unfiltered { .. })),
        ("shared-memory", |finding| matches!(finding, Finding::UnexpectedMap { name, .. } if name == "/memfd:extra")),
        ("extra-thread", |finding| matches!(finding, Finding::Threads { expected: 2, found: 3 })),
        ("not-reported", |finding| matches!(finding, Finding::NotSealed)),
    ];
    if !Who::all().contains(&Who::Root) {
        println!("needs root: an audit looks into other users' processes");
        return;
    }
    let mut vm = Vm::start(Who::Root);
    let possible = possible_abi(&mut vm);
    for (loosening, is_found) in plantings {
        let (facts, reported) = facts(&mut vm, loosening, &["probe", "sealed", "wait", loosening]);
        let findings = compare(&facts, &expectation(possible, reported));
        let landlock_free = *loosening == "no-landlock" && possible == 0;
        assert!(landlock_free || findings.iter().any(is_found), "{loosening}: {findings:?}");
        vm.kill(loosening);
    }
}
