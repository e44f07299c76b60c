//! Each kind of loosening, planted in the facts of a process that is otherwise as it should be.

use super::*;
use crate::{Check, Kind, LimitValue, Namespace, Policy, Profile, Rule, sock_filter};

fn outside() -> Vec<(Namespace, String)> {
    Namespace::ALL.into_iter().map(|namespace| (namespace, "host".to_owned())).collect()
}

fn descriptor(number: i32, target: &str, access: Access) -> DescriptorFacts {
    DescriptorFacts { number, target: target.to_owned(), access }
}

fn map(start: u64, bytes: u64, protection: &str, offset: u64, name: &str) -> MapFacts {
    let (protection, name) = (protection.to_owned(), name.to_owned());
    MapFacts { start, end: start + bytes, protection, offset, name }
}

const ARENA: u64 = 4 << 20;
const SIGNAL_STACK: u64 = 0x3000;

/// Where each map of [`good`] stands in its list.
const CODE: usize = 0;
const ZEROED: usize = 2;
const THREAD_STACK: usize = 4;
const WINDOWS: usize = 7;

/// A serial process as it should be, if it had two threads.
fn good() -> (Facts, Expectation) {
    let profile = Kind::Serial.profile();
    let descriptors = vec![
        descriptor(0, "/dev/null", Access::ReadWrite),
        descriptor(3, "socket", Access::ReadWrite),
        descriptor(5, "eventfd", Access::ReadWrite),
    ];
    let namespaces: Vec<_> = Namespace::ALL.into_iter().map(|namespace| (namespace, "own".to_owned())).collect();
    let program = |kind: Kind| kind.profile().program().expect("valid");
    let thread = |id, name: &str| ThreadFacts {
        id,
        name: name.to_owned(),
        seccomp_mode: 2,
        filters: 2,
        no_new_privs: true,
        capabilities: [0; 5],
        uid: 1_879_048_200,
        programs: Some(vec![program(Kind::Serial), program(Kind::Keeper)]),
        namespaces: namespaces.clone(),
        descriptors: descriptors.clone(),
    };
    let limit = |limit: &crate::Limit| {
        let value = match limit.value {
            LimitValue::At(value) => Some(value),
            LimitValue::Hard => Some(4096),
        };
        LimitFacts { name: limit.proc_name.to_owned(), soft: value, hard: value }
    };
    let facts = Facts {
        pid: 10,
        executable: "/bin/serial".to_owned(),
        threads: vec![thread(10, "serial"), thread(11, "window")],
        descriptors: descriptors.clone(),
        namespaces: namespaces.clone(),
        maps: vec![
            map(0x10_0000, 0x1000, "r-xp", 0, "/bin/serial"),
            map(0x10_1000, 0x1000, "rw-p", 0x1000, "/bin/serial"),
            map(0x10_2000, ARENA + 0x2000, "rw-p", 0, ""),
            map(0x90_0000, 0x1000, "---p", 0, ""),
            map(0x90_1000, 2 << 20, "rw-p", 0, ""),
            map(0xc0_0000, SIGNAL_STACK, "rw-p", 0, ""),
            map(0xc1_0000, SIGNAL_STACK, "rw-p", 0, ""),
            map(0xd0_0000, 0x1000, "rw-s", 0x5000, "/memfd:windows"),
            map(0xe0_0000, 0x1000, "rw-p", 0, "[heap]"),
            map(0xf0_0000, 0x1000, "r-xp", 0, "[vdso]"),
        ],
        limits: profile.limits.iter().map(limit).collect(),
        mounts: vec![MountFacts { point: "/".into(), options: "ro,nosuid".into(), kind: "tmpfs".into() }],
        root: Vec::new(),
        dumpable: Some(false),
        signal_stack: SIGNAL_STACK,
    };
    let expected = Expectation::new(profile, outside())
        .filters(2)
        .threads(2)
        .descriptor(0, "/dev/null", Access::ReadWrite)
        .descriptor(3, "socket", Access::ReadWrite)
        .descriptors(1, "eventfd", Access::ReadWrite)
        .arena(ARENA)
        .shared("/memfd:windows", "rw-s", 0x5000, 0x1000)
        .reported(Reported { landlock_abi: 6, sealed: true }, 6);
    (facts, expected)
}

#[test]
fn a_process_as_it_should_be_has_no_findings() {
    let (facts, expected) = good();
    assert_eq!(compare(&facts, &expected), []);
}

/// The serial port's program with one rule replaced, by default its last one, so that the budget is kept.
fn changed(rule: Rule) -> Vec<sock_filter> {
    let profile = Kind::Serial.profile();
    let replaced = if profile.allows(rule.call) { rule.call } else { libc::SYS_pwrite64 };
    let kept = profile.rules().iter().filter(|other| other.call != replaced).copied();
    let rules: &'static [Rule] = kept.chain([rule]).collect::<Vec<_>>().leak();
    Profile { policy: Policy::AllowOnly(rules), ..*profile }.program().expect("valid")
}

/// Puts another program of its own into the second thread.
fn filter(facts: &mut Facts, program: Vec<sock_filter>) {
    facts.threads[1].programs.as_mut().expect("dumped")[0] = program;
}

/// What is planted, and what must be found: this and nothing else.
type Planting = (fn(&mut Facts), fn(&Finding) -> bool);

fn check(plantings: &[Planting]) {
    for (index, (plant, is_found)) in plantings.iter().enumerate() {
        let (mut facts, expected) = good();
        plant(&mut facts);
        let findings = compare(&facts, &expected);
        assert!(matches!(&findings[..], [one] if is_found(one)), "planting {index}: {findings:?}");
    }
}

/// Changes the descriptors of the process, which are those of its threads.
fn descriptors(facts: &mut Facts, change: fn(&mut Vec<DescriptorFacts>)) {
    change(&mut facts.descriptors);
    for thread in &mut facts.threads {
        change(&mut thread.descriptors);
    }
}

#[test]
fn every_loosening_of_a_thread_is_found_and_nothing_else() {
    check(&[
        (
            |facts| facts.threads[1].seccomp_mode = 0,
            |f| matches!(f, Finding::Unfiltered { thread: 11, name } if name == "window"),
        ),
        (|facts| facts.threads[0].filters = 1, |f| matches!(f, Finding::Filters { thread: 10, expected: 2, found: 1 })),
        (|facts| facts.threads[1].no_new_privs = false, |f| matches!(f, Finding::MayGainPrivileges { thread: 11 })),
        (
            |facts| facts.threads[0].capabilities[3] = 1 << 21,
            |f| matches!(f, Finding::Capabilities { thread: 10, set: "CapBnd", value: 0x20_0000 }),
        ),
        (
            |facts| facts.threads[1].namespaces[5].1 = "host".to_owned(),
            |f| matches!(f, Finding::ThreadNamespace { thread: 11, namespace: Namespace::Net, .. }),
        ),
        (
            |facts| facts.threads[1].descriptors.push(descriptor(9, "/dev/kvm", Access::ReadWrite)),
            |f| matches!(f, Finding::ThreadDescriptors { thread: 11, found } if found.contains("9 /dev/kvm")),
        ),
    ]);
}

#[test]
fn every_loosening_of_a_filter_is_found_and_named() {
    fn wrong(finding: &Finding, what: &str) -> bool {
        matches!(finding, Finding::WrongFilter { thread: 11, extra } if extra == what)
    }
    fn rule(call: i64, checks: &'static [Check]) -> Rule {
        Rule { call, checks, why: "planted" }
    }
    /// The rule of a checked call with one value more.
    fn with_value(call: i64, value: u32) -> Rule {
        let rule = Kind::Serial.profile().rules().iter().find(|rule| rule.call == call).expect("in the list");
        let check = rule.checks[0];
        let values = check.values.iter().copied().chain([(value, "planted")]).collect::<Vec<_>>().leak();
        Rule { checks: vec![Check { values, ..check }].leak(), ..*rule }
    }
    check(&[
        (|facts| filter(facts, changed(rule(libc::SYS_mprotect, &[]))), |f| wrong(f, "mprotect")),
        (
            |facts| {
                const REQUEST: Check = Check { argument: 1, ignore: 0, values: &[(libc::TIOCSTI as u32, "TIOCSTI")] };
                filter(facts, changed(rule(libc::SYS_ioctl, &[REQUEST])));
            },
            |f| wrong(f, "ioctl"),
        ),
        (
            |facts| filter(facts, changed(with_value(libc::SYS_futex, libc::FUTEX_LOCK_PI as u32))),
            |f| wrong(f, "futex with argument 1 = 0x6"),
        ),
        (
            |facts| filter(facts, changed(with_value(libc::SYS_fcntl, libc::F_SETFL as u32))),
            |f| wrong(f, "fcntl with argument 1 = 0x4"),
        ),
        (|facts| filter(facts, changed(rule(libc::SYS_fcntl, &[]))), |f| wrong(f, "fcntl with any argument 1")),
        (
            |facts| filter(facts, Kind::EngineTcg.profile().program().expect("valid")),
            |f| wrong(f, "mmap, sched_yield, madvise"),
        ),
        (
            |facts| {
                let all = [sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
                facts.threads[1].programs.as_mut().expect("dumped")[1] = all.to_vec();
            },
            |f| matches!(f, Finding::WrongKeeperFilter { thread: 11, missing } if missing.contains("ptrace")),
        ),
    ]);
}

#[test]
fn a_filter_over_its_budget_is_found() {
    let (mut facts, expected) = good();
    filter(&mut facts, Kind::Supervisor.profile().program().expect("valid"));
    let findings = compare(&facts, &expected);
    assert!(findings.iter().any(|f| matches!(f, Finding::OverBudget { thread: 11, budget: 16, .. })), "{findings:?}");
}

#[test]
fn every_loosening_of_descriptors_is_found_and_nothing_else() {
    check(&[
        (
            |facts| descriptors(facts, |list| list.push(descriptor(9, "eventfd", Access::ReadWrite))),
            |f| matches!(f, Finding::UnexpectedDescriptor { number: 9, .. }),
        ),
        (
            |facts| descriptors(facts, |list| drop(list.remove(1))),
            |f| matches!(f, Finding::MissingDescriptor { target } if target == "socket"),
        ),
        (
            |facts| descriptors(facts, |list| list[0].access = Access::Read),
            |f| matches!(f, Finding::DescriptorAccess { number: 0, .. }),
        ),
    ]);
    let (mut facts, expected) = good();
    descriptors(&mut facts, |list| list[2].target = "/memfd:ram".to_owned());
    let findings = compare(&facts, &expected);
    assert!(
        matches!(&findings[..], [Finding::MissingDescriptor { .. }, Finding::UnexpectedDescriptor { target, .. }]
            if target == "/memfd:ram"),
        "{findings:?}"
    );
}

#[test]
fn every_loosening_of_memory_is_found_and_nothing_else() {
    check(&[
        (
            |facts| facts.maps.push(map(0xd1_0000, 0x1000, "r--s", 0, "/memfd:ram")),
            |f| matches!(f, Finding::UnexpectedMap { name, .. } if name == "/memfd:ram"),
        ),
        (
            |facts| facts.maps.push(map(0xd1_0000, 0x1000, "rw-s", 0x9000, "/memfd:windows")),
            |f| matches!(f, Finding::UnexpectedMap { offset: 0x9000, bytes: 0x1000, .. }),
        ),
        (
            |facts| drop(facts.maps.remove(WINDOWS)),
            |f| matches!(f, Finding::MissingMap { offset: 0x5000, bytes: 0x1000, .. }),
        ),
        (
            |facts| facts.maps[CODE].protection = "rwxp".to_owned(),
            |f| matches!(f, Finding::WritableExecutable { start: 0x10_0000, .. }),
        ),
        (
            |facts| facts.maps.push(map(0xd1_0000, 0x1000, "r-xp", 0, "/bin/serial")),
            |f| matches!(f, Finding::UnexpectedMap { name, .. } if name == "/bin/serial"),
        ),
        (
            |facts| facts.maps.push(map(0xd1_0000, 0x1000, "r-xp", 0, "")),
            |f| matches!(f, Finding::UnexpectedMap { name, .. } if name.is_empty()),
        ),
        (
            |facts| facts.maps.push(map(0xd1_0000, 0x1000, "rw-p", 0, "")),
            |f| matches!(f, Finding::AnonymousMemory { found, .. } if found.contains("1 of 0x1000 (rw-p)")),
        ),
        (|facts| facts.maps[THREAD_STACK].end += 0x1000, |f| matches!(f, Finding::AnonymousMemory { .. })),
        (|facts| facts.maps[ZEROED].end += 2 << 20, |f| matches!(f, Finding::AnonymousMemory { .. })),
        (
            |facts| facts.maps.push(map(0xe1_0000, 1 << 20, "rw-p", 0, "[heap]")),
            |f| matches!(f, Finding::AnonymousMemory { .. }),
        ),
    ]);
    // What can be more than read shows as what is there and what is not.
    let (mut facts, expected) = good();
    facts.maps[WINDOWS].end += 0x1000;
    let findings = compare(&facts, &expected);
    assert!(
        matches!(&findings[..], [Finding::UnexpectedMap { bytes: 0x2000, .. }, Finding::MissingMap { .. }]),
        "{findings:?}"
    );
}

#[test]
fn neighbours_that_the_kernel_has_joined_are_what_the_manifest_says() {
    let (mut facts, expected) = good();
    let expected = expected
        .shared("/memfd:windows", "rw-s", 0x6000, 0x2000)
        .shared("/memfd:windows", "rw-s", 0x5000, 0x1000)
        .shared("/memfd:windows", "r--s", 0x8000, 0x1000);
    facts.maps[WINDOWS].end += 0x2000;
    facts.maps.push(map(0xd2_0000, 0x1000, "rw-s", 0x5000, "/memfd:windows"));
    facts.maps.push(map(0xd4_0000, 0x1000, "r--s", 0x8000, "/memfd:windows"));
    assert_eq!(compare(&facts, &expected), []);
}

#[test]
fn every_other_loosening_of_a_process_is_found_and_nothing_else() {
    check(&[
        (
            |facts| {
                let net = |list: &mut Vec<(Namespace, String)>| list[5].1 = "host".to_owned();
                net(&mut facts.namespaces);
                facts.threads.iter_mut().for_each(|thread| net(&mut thread.namespaces));
            },
            |f| matches!(f, Finding::SharedNamespace { namespace: Namespace::Net }),
        ),
        (|facts| facts.limits[0].hard = None, |f| matches!(f, Finding::Limit { name: "core", .. })),
        (|facts| facts.mounts[0].options = "rw".to_owned(), |f| matches!(f, Finding::Root { .. })),
        (
            |facts| facts.root.push("proc".to_owned()),
            |f| matches!(f, Finding::Root { found } if found.contains("proc")),
        ),
        (|facts| facts.dumpable = Some(true), |f| matches!(f, Finding::Dumpable)),
    ]);
    let (facts, expected) = good();
    let fewer = Facts { threads: facts.threads[..1].to_vec(), ..facts.clone() };
    let findings = compare(&fewer, &expected);
    assert!(findings.contains(&Finding::Threads { expected: 2, found: 1 }), "{findings:?}");
    for (reported, finding) in [
        (Reported { landlock_abi: 0, sealed: true }, Finding::Landlock { expected: 6, found: 0 }),
        (Reported { landlock_abi: 6, sealed: false }, Finding::NotSealed),
    ] {
        assert_eq!(compare(&facts, &good().1.reported(reported, 6)), [finding]);
    }
}

#[test]
fn the_keeper_is_in_the_namespaces_of_the_outside_but_for_its_own_and_its_spawn_thread() {
    let (mut facts, _) = good();
    for (namespace, id) in &mut facts.namespaces {
        *id = if Kind::Keeper.profile().namespaces.contains(namespace) { "own" } else { "host" }.to_owned();
    }
    let own = facts.namespaces.clone();
    for thread in &mut facts.threads {
        thread.namespaces.clone_from(&own);
    }
    let expected = Expectation::new(Kind::Keeper.profile(), outside()).thread_namespace("window", Namespace::Net);
    let of_kind = |facts: &Facts, expected: &Expectation| {
        let mut findings = compare(facts, expected);
        findings.retain(|f| matches!(f, Finding::StrangeNamespace { .. } | Finding::ThreadNamespace { .. }));
        findings
    };
    // A thread that should have left and has not is as wrong as one that should not have.
    assert_eq!(of_kind(&facts, &expected).len(), 1);
    facts.threads[1].namespaces[5].1 = "the VM's".to_owned();
    assert_eq!(of_kind(&facts, &expected), []);
    facts.namespaces[2].1 = "strange".to_owned();
    let findings = of_kind(&facts, &expected);
    assert!(findings.contains(&Finding::StrangeNamespace { namespace: Namespace::Mount }), "{findings:?}");
}

#[test]
fn islets_share_neither_ids_nor_namespaces_but_those_of_the_vm() {
    let (first, _) = good();
    let mut second = Facts { pid: 20, ..first.clone() };
    assert_eq!(compare_all(&[&first, &second], true).len(), 5);
    for (namespace, id) in &mut second.namespaces {
        if !matches!(namespace, Namespace::Pid | Namespace::Net) {
            id.push_str(" of the second");
        }
    }
    assert_eq!(compare_all(&[&first, &second], false), []);
    second.threads[0].uid += 1;
    assert_eq!(compare_all(&[&first, &second], true), []);
    second.namespaces[5].1.push_str(" of the second");
    let different = Finding::DifferentNamespace { first: 10, second: 20, namespace: Namespace::Net };
    assert_eq!(compare_all(&[&first, &second], true), [different]);
}
