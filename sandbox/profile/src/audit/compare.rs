//! The comparison of facts with an expectation: pure, one function per kind of thing.

use std::collections::BTreeMap;

use super::{Access, Facts, Finding, MapFacts, ThreadFacts};
use crate::{Landlock, LimitValue, Namespace, Policy, Privilege, Profile, bpf, sock_filter, syscalls};

/// What a process has reported itself, on its status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Landlock ABI in force.
    pub landlock_abi: u32,
    /// Whether lock-down is complete.
    pub sealed: bool,
}

/// What a process should look like: its profile, and the manifest of this VM.
#[derive(Clone, Debug)]
pub struct Expectation {
    profile: &'static Profile,
    outside: Vec<(Namespace, String)>,
    filters: usize,
    threads: Option<usize>,
    descriptors: Vec<ExpectedDescriptor>,
    maps: Vec<ExpectedMap>,
    reported: Option<(Reported, u32)>,
}

#[derive(Clone, Debug)]
struct ExpectedDescriptor {
    number: Option<i32>,
    target: String,
    access: Access,
}

#[derive(Clone, Debug)]
struct ExpectedMap {
    name: String,
    protection: String,
    bytes: u64,
}

impl Expectation {
    /// The profile's part. `outside` are the namespaces of the host ([`Facts::own_namespaces`] of the auditor), none of
    /// which the process may be in. One filter is expected, the process's own.
    pub fn new(profile: &'static Profile, outside: Vec<(Namespace, String)>) -> Expectation {
        Expectation {
            profile,
            outside,
            filters: 1,
            threads: None,
            descriptors: Vec::new(),
            maps: Vec::new(),
            reported: None,
        }
    }

    /// How many filters are in force: 2 under a sealed keeper.
    pub fn filters(mut self, count: usize) -> Expectation {
        self.filters = count;
        self
    }

    /// Exactly so many threads.
    pub fn threads(mut self, count: usize) -> Expectation {
        self.threads = Some(count);
        self
    }

    /// A descriptor with its number. The target is written as in [`super::DescriptorFacts`].
    pub fn descriptor(mut self, number: i32, target: &str, access: Access) -> Expectation {
        self.descriptors.push(ExpectedDescriptor { number: Some(number), target: target.to_owned(), access });
        self
    }

    /// `count` descriptors of the same kind with any numbers.
    pub fn descriptors(mut self, count: usize, target: &str, access: Access) -> Expectation {
        let one = ExpectedDescriptor { number: None, target: target.to_owned(), access };
        self.descriptors.extend(std::iter::repeat_n(one, count));
        self
    }

    /// A shared map: the protection exactly as in `/proc/PID/maps`, and at most so many bytes of it in all.
    pub fn map(mut self, name: &str, protection: &str, bytes: u64) -> Expectation {
        self.maps.push(ExpectedMap { name: name.to_owned(), protection: protection.to_owned(), bytes });
        self
    }

    /// What the process has reported, and the Landlock ABI that this kernel makes possible (0 for none).
    pub fn reported(mut self, reported: Reported, possible_abi: u32) -> Expectation {
        self.reported = Some((reported, possible_abi));
        self
    }
}

/// Every difference between `facts` and `expected`; empty if the process is as it should be.
pub fn compare(facts: &Facts, expected: &Expectation) -> Vec<Finding> {
    let mut findings = Vec::new();
    compare_threads(facts, expected, &mut findings);
    compare_descriptors(facts, expected, &mut findings);
    compare_maps(facts, expected, &mut findings);
    compare_namespaces(facts, expected, &mut findings);
    compare_limits(facts, expected, &mut findings);
    compare_report(expected, &mut findings);
    findings
}

/// Differences between processes of one VM: each islet's own namespaces, and, if the VM was started by root, its id.
pub fn compare_all(islets: &[&Facts], own_ids: bool) -> Vec<Finding> {
    const OWN: [Namespace; 4] = [Namespace::User, Namespace::Mount, Namespace::Ipc, Namespace::Uts];
    let mut findings = Vec::new();
    for (index, first) in islets.iter().enumerate() {
        for second in &islets[index + 1..] {
            let mut shared = |what: String| {
                findings.push(Finding::SharedBetween { first: first.pid, second: second.pid, what });
            };
            for namespace in OWN {
                if namespace_of(first, namespace) == namespace_of(second, namespace) {
                    shared(format!("their {} namespace", namespace.proc_name()));
                }
            }
            let uid = |facts: &Facts| facts.threads.first().map(|thread| thread.uid);
            if own_ids && uid(first) == uid(second) {
                shared("their host id".to_owned());
            }
        }
    }
    findings
}

fn namespace_of(facts: &Facts, namespace: Namespace) -> Option<&str> {
    facts.namespaces.iter().find(|(kind, _)| *kind == namespace).map(|(_, id)| id.as_str())
}

fn compare_threads(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    if let Some(count) = expected.threads.filter(|count| *count != facts.threads.len()) {
        findings.push(Finding::Threads { expected: count, found: facts.threads.len() });
    }
    for thread in &facts.threads {
        let id = thread.id;
        if thread.seccomp_mode != 2 {
            findings.push(Finding::Unfiltered { thread: id, name: thread.name.clone() });
        } else if thread.filters != expected.filters {
            findings.push(Finding::Filters { thread: id, expected: expected.filters, found: thread.filters });
        }
        if !thread.no_new_privs {
            findings.push(Finding::MayGainPrivileges { thread: id });
        }
        if expected.profile.privilege == Privilege::None {
            for (set, value) in ThreadFacts::SETS.into_iter().zip(thread.capabilities) {
                if value != 0 {
                    findings.push(Finding::Capabilities { thread: id, set, value });
                }
            }
        }
        if let Some(program) = thread.programs.as_ref().and_then(|programs| programs.first()) {
            compare_program(id, program, expected.profile, findings);
        }
    }
}

/// The filter in force must be the profile's, instruction by instruction; if not, say what it lets through.
fn compare_program(thread: i32, program: &[sock_filter], profile: &Profile, findings: &mut Vec<Finding>) {
    if profile.program().is_ok_and(|own| own == program) {
        return;
    }
    let passing = bpf::passing(program, &profile.samples()).unwrap_or_default();
    let extra: Vec<String> = passing
        .iter()
        .map(|number| i64::from(*number))
        .filter(|number| !profile.allows(*number))
        .map(|number| syscalls::name(number).map_or_else(|| format!("call {number}"), str::to_owned))
        .collect();
    findings.push(Finding::WrongFilter { thread, extra: listed(&extra) });
    if matches!(profile.policy, Policy::AllowOnly(_)) && passing.len() > profile.budget {
        findings.push(Finding::OverBudget { thread, found: passing.len(), budget: profile.budget });
    }
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

/// Numbered expectations are matched first, then each remaining one takes any descriptor of its kind.
fn compare_descriptors(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    let mut left: Vec<_> = facts.descriptors.iter().collect();
    let (numbered, any): (Vec<_>, Vec<_>) = expected.descriptors.iter().partition(|entry| entry.number.is_some());
    for entry in numbered.into_iter().chain(any) {
        let matching = left.iter().position(|descriptor| {
            descriptor.target == entry.target
                && match entry.number {
                    Some(number) => descriptor.number == number,
                    None => descriptor.access == entry.access,
                }
        });
        let Some(at) = matching else {
            findings.push(Finding::MissingDescriptor { target: entry.target.clone() });
            continue;
        };
        let found = left.remove(at);
        if found.access != entry.access {
            findings.push(Finding::DescriptorAccess {
                number: found.number,
                target: found.target.clone(),
                expected: entry.access,
                found: found.access,
            });
        }
    }
    for descriptor in left {
        findings.push(Finding::UnexpectedDescriptor { number: descriptor.number, target: descriptor.target.clone() });
    }
}

/// Every static binary has these, whatever it does; anonymous memory is its stacks and its `.bss`.
const ALWAYS_MAPPED: [&str; 7] = ["", "[heap]", "[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"];

fn compare_maps(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for map in &facts.maps {
        let can = |right: char| map.protection.contains(right);
        if can('w') && can('x') {
            findings.push(Finding::WritableExecutable { name: map.name.clone(), start: map.start });
        }
        let private_own = map.protection.ends_with('p') && map.name == facts.executable;
        let always = ALWAYS_MAPPED.contains(&map.name.as_str()) && map.protection.ends_with('p');
        // Executable memory without a file is only the kernel's.
        let kernel_code = ["[vdso]", "[vsyscall]"].contains(&map.name.as_str());
        if private_own || (always && (kernel_code || !can('x'))) {
            continue;
        }
        if manifest_entry(map, expected).is_some() {
            *sums.entry(&map.name).or_default() += map.end - map.start;
        } else if !(can('w') && can('x')) {
            let (name, protection) = (map.name.clone(), map.protection.clone());
            findings.push(Finding::UnexpectedMap { name, protection });
        }
    }
    for (name, found) in sums {
        let allowed = expected.maps.iter().filter(|entry| entry.name == name).map(|entry| entry.bytes).sum();
        if found > allowed {
            findings.push(Finding::MapTooLarge { name: name.to_owned(), allowed, found });
        }
    }
}

fn manifest_entry<'a>(map: &MapFacts, expected: &'a Expectation) -> Option<&'a ExpectedMap> {
    expected.maps.iter().find(|entry| entry.name == map.name && entry.protection == map.protection)
}

fn compare_namespaces(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    let islet = expected.profile.namespaces.contains(&Namespace::Mount);
    // Pid and net are not the process's own, but the VM's.
    let of_the_vm: &[Namespace] = if islet { &[Namespace::Pid, Namespace::Net] } else { &[] };
    for namespace in expected.profile.namespaces.iter().chain(of_the_vm) {
        let outside = expected.outside.iter().find(|(kind, _)| kind == namespace).map(|(_, id)| id.as_str());
        if namespace_of(facts, *namespace) == outside {
            findings.push(Finding::SharedNamespace { namespace: *namespace });
        }
    }
    if islet {
        let empty = matches!(&facts.mounts[..], [root] if root.point == "/"
            && root.kind == "tmpfs"
            && root.options.split(',').any(|option| option == "ro"));
        if !empty {
            let found: Vec<_> =
                facts.mounts.iter().map(|mount| format!("{} {} {}", mount.point, mount.kind, mount.options)).collect();
            findings.push(Finding::Root { found: found.join("; ") });
        }
    }
}

fn compare_limits(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    for limit in expected.profile.limits {
        let found = facts.limits.iter().find(|found| found.name == limit.proc_name);
        let fits = found.is_some_and(|found| match limit.value {
            LimitValue::At(value) => found.soft == Some(value) && found.hard == Some(value),
            LimitValue::Hard => found.soft == found.hard,
        });
        if !fits {
            let number = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
            findings.push(Finding::Limit {
                name: limit.name,
                expected: match limit.value {
                    LimitValue::At(value) => value.to_string(),
                    LimitValue::Hard => "the hard limit".to_owned(),
                },
                found: found.map_or("absent".to_owned(), |found| number(found.soft)),
            });
        }
    }
}

fn compare_report(expected: &Expectation, findings: &mut Vec<Finding>) {
    let Some((reported, possible)) = expected.reported else { return };
    if expected.profile.landlock == Landlock::DenyAll && reported.landlock_abi < possible {
        findings.push(Finding::Landlock { expected: possible, found: reported.landlock_abi });
    }
    if !reported.sealed {
        findings.push(Finding::NotSealed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DescriptorFacts, LimitFacts, MountFacts};
    use super::*;
    use crate::Kind;

    fn outside() -> Vec<(Namespace, String)> {
        Namespace::ALL.into_iter().map(|namespace| (namespace, "host".to_owned())).collect()
    }

    /// A serial process as it should be.
    fn good() -> (Facts, Expectation) {
        let profile = Kind::Serial.profile();
        let thread = |id, name: &str| ThreadFacts {
            id,
            name: name.to_owned(),
            seccomp_mode: 2,
            filters: 1,
            no_new_privs: true,
            capabilities: [0; 5],
            uid: 1_879_048_200,
            programs: Some(vec![profile.program().expect("valid")]),
        };
        let descriptor = |number, target: &str, access| DescriptorFacts { number, target: target.to_owned(), access };
        let map = |start, protection: &str, name: &str| MapFacts {
            start,
            end: start + 0x1000,
            protection: protection.to_owned(),
            name: name.to_owned(),
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
            descriptors: vec![
                descriptor(0, "/dev/null", Access::ReadWrite),
                descriptor(3, "socket", Access::ReadWrite),
                descriptor(5, "eventfd", Access::ReadWrite),
            ],
            namespaces: Namespace::ALL.into_iter().map(|namespace| (namespace, "own".to_owned())).collect(),
            maps: vec![
                map(0x1000, "r-xp", "/bin/serial"),
                map(0x2000, "rw-p", ""),
                map(0x3000, "---p", ""),
                map(0x4000, "rw-s", "/memfd:windows"),
                map(0x5000, "r-xp", "[vdso]"),
            ],
            limits: profile.limits.iter().map(limit).collect(),
            mounts: vec![MountFacts { point: "/".into(), options: "ro,nosuid".into(), kind: "tmpfs".into() }],
        };
        let expected = Expectation::new(profile, outside())
            .threads(2)
            .descriptor(0, "/dev/null", Access::ReadWrite)
            .descriptor(3, "socket", Access::ReadWrite)
            .descriptors(1, "eventfd", Access::ReadWrite)
            .map("/memfd:windows", "rw-s", 0x1000)
            .reported(Reported { landlock_abi: 6, sealed: true }, 6);
        (facts, expected)
    }

    #[test]
    fn a_process_as_it_should_be_has_no_findings() {
        let (facts, expected) = good();
        assert_eq!(compare(&facts, &expected), []);
    }

    /// A name, what is planted, and what must be found.
    type Planting = (fn(&mut Facts, &mut Expectation), fn(&Finding) -> bool);

    #[test]
    fn every_planted_loosening_is_found_and_nothing_else() {
        let plantings: &[Planting] = &[
            (|facts, _| facts.threads.truncate(1), |f| matches!(f, Finding::Threads { expected: 2, found: 1 })),
            (
                |facts, _| facts.threads[1].seccomp_mode = 0,
                |f| matches!(f, Finding::Unfiltered { thread: 11, name } if name == "window"),
            ),
            (|facts, _| facts.threads[0].filters = 0, |f| matches!(f, Finding::Filters { thread: 10, .. })),
            (
                |facts, _| facts.threads[1].programs = Some(vec![Kind::Board.profile().program().expect("valid")]),
                |f| matches!(f, Finding::WrongFilter { thread: 11, extra } if extra == "clock_nanosleep, timerfd_settime"),
            ),
            (
                |facts, _| facts.threads[1].no_new_privs = false,
                |f| matches!(f, Finding::MayGainPrivileges { thread: 11 }),
            ),
            (
                |facts, _| facts.threads[0].capabilities[3] = 1 << 21,
                |f| matches!(f, Finding::Capabilities { thread: 10, set: "CapBnd", value: 0x20_0000 }),
            ),
            (
                |facts, _| {
                    let access = Access::ReadWrite;
                    facts.descriptors.push(DescriptorFacts { number: 9, target: "eventfd".into(), access });
                },
                |f| matches!(f, Finding::UnexpectedDescriptor { number: 9, .. }),
            ),
            (
                |facts, _| drop(facts.descriptors.remove(1)),
                |f| matches!(f, Finding::MissingDescriptor { target } if target == "socket"),
            ),
            (
                |facts, _| facts.descriptors[0].access = Access::Read,
                |f| matches!(f, Finding::DescriptorAccess { number: 0, .. }),
            ),
            (
                |facts, _| facts.maps[3].name = "/memfd:ram".to_owned(),
                |f| matches!(f, Finding::UnexpectedMap { name, .. } if name == "/memfd:ram"),
            ),
            (
                |facts, _| facts.maps[3].end += 0x1000,
                |f| matches!(f, Finding::MapTooLarge { allowed: 0x1000, found: 0x2000, .. }),
            ),
            (
                |facts, _| facts.maps[1].protection = "rwxp".to_owned(),
                |f| matches!(f, Finding::WritableExecutable { start: 0x2000, .. }),
            ),
            (
                |facts, _| facts.maps[1].protection = "r-xp".to_owned(),
                |f| matches!(f, Finding::UnexpectedMap { name, .. } if name.is_empty()),
            ),
            (
                |facts, _| facts.namespaces[5].1 = "host".to_owned(),
                |f| matches!(f, Finding::SharedNamespace { namespace: Namespace::Net }),
            ),
            (|facts, _| facts.limits[0].hard = None, |f| matches!(f, Finding::Limit { name: "core", .. })),
            (|facts, _| facts.mounts[0].options = "rw".to_owned(), |f| matches!(f, Finding::Root { .. })),
            (
                |_, expected| expected.reported = Some((Reported { landlock_abi: 0, sealed: true }, 6)),
                |f| matches!(f, Finding::Landlock { expected: 6, found: 0 }),
            ),
            (
                |_, expected| expected.reported = Some((Reported { landlock_abi: 6, sealed: false }, 6)),
                |f| matches!(f, Finding::NotSealed),
            ),
        ];
        for (index, (plant, is_found)) in plantings.iter().enumerate() {
            let (mut facts, mut expected) = good();
            plant(&mut facts, &mut expected);
            let findings = compare(&facts, &expected);
            assert!(matches!(&findings[..], [one] if is_found(one)), "planting {index}: {findings:?}");
        }
    }

    #[test]
    fn islets_share_neither_ids_nor_namespaces() {
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
    }
}
