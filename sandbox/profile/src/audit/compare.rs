//! The comparison of facts with an expectation: pure, one function per kind of thing; filters and maps have files of their own.

use super::filter::compare_programs;
use super::maps::{Shared, compare_maps};
use super::{Access, DescriptorFacts, Facts, Finding, ThreadFacts};
use crate::{Landlock, LimitValue, Namespace, Privilege, Profile};

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
    thread_namespaces: Vec<(String, Namespace)>,
    descriptors: Vec<ExpectedDescriptor>,
    pub(super) shared: Vec<Shared>,
    pub(super) private: Private,
    reported: Option<(Reported, u32)>,
}

/// What memory of its own a process may have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Private {
    Unchecked,
    AtMost(u64),
    Arena(u64),
}

#[derive(Clone, Debug)]
struct ExpectedDescriptor {
    number: Option<i32>,
    target: String,
    access: Access,
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
            thread_namespaces: Vec::new(),
            descriptors: Vec::new(),
            shared: Vec::new(),
            private: Private::Unchecked,
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

    /// The thread of this name has left the process's namespace of this kind.
    pub fn thread_namespace(mut self, name: &str, namespace: Namespace) -> Expectation {
        self.thread_namespaces.push((name.to_owned(), namespace));
        self
    }

    /// A map of a file: exactly these bytes with exactly this protection, as in `/proc/PID/maps`.
    pub fn shared(mut self, name: &str, protection: &str, offset: u64, bytes: u64) -> Expectation {
        self.shared.push(Shared { name: name.to_owned(), protection: protection.to_owned(), offset, bytes });
        self
    }

    /// All memory of its own is this arena, in its binary's zeroed memory, and the stacks of its threads.
    pub fn arena(mut self, bytes: u64) -> Expectation {
        self.private = Private::Arena(bytes);
        self
    }

    /// It allocates memory as it likes, but has no more than this: for the keeper, which no filter holds back from it.
    pub fn private_memory(mut self, bytes: u64) -> Expectation {
        self.private = Private::AtMost(bytes);
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
    if expected.profile.privilege == Privilege::None && facts.dumpable == Some(true) {
        findings.push(Finding::Dumpable);
    }
    compare_report(expected, &mut findings);
    findings
}

/// Differences between processes of one VM: each islet's own namespaces, and, if the VM was started by root, its id; and
/// what all of them share.
pub fn compare_all(islets: &[&Facts], own_ids: bool) -> Vec<Finding> {
    const OWN: [Namespace; 4] = [Namespace::User, Namespace::Mount, Namespace::Ipc, Namespace::Uts];
    let (mut findings, mut different) = (Vec::new(), Vec::new());
    for (index, first) in islets.iter().enumerate() {
        for second in &islets[index + 1..] {
            let mut shared = |what: String| {
                findings.push(Finding::SharedBetween { first: first.pid, second: second.pid, what });
            };
            for namespace in OWN {
                if namespace_of(&first.namespaces, namespace) == namespace_of(&second.namespaces, namespace) {
                    shared(format!("their {} namespace", namespace.proc_name()));
                }
            }
            for namespace in OF_THE_VM {
                if namespace_of(&first.namespaces, namespace) != namespace_of(&second.namespaces, namespace) {
                    different.push(Finding::DifferentNamespace { first: first.pid, second: second.pid, namespace });
                }
            }
            let uid = |facts: &Facts| facts.threads.first().map(|thread| thread.uid);
            if own_ids && uid(first) == uid(second) {
                shared("their host id".to_owned());
            }
        }
    }
    findings.append(&mut different);
    findings
}

/// Not a process's own, but the VM's.
const OF_THE_VM: [Namespace; 2] = [Namespace::Pid, Namespace::Net];

fn namespace_of(list: &[(Namespace, String)], namespace: Namespace) -> Option<&str> {
    list.iter().find(|(kind, _)| *kind == namespace).map(|(_, id)| id.as_str())
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
        compare_programs(thread, expected.profile, findings);
        compare_with_process(thread, facts, expected, findings);
    }
}

/// Namespaces and descriptors are a process's own only as long as no thread has left it.
fn compare_with_process(thread: &ThreadFacts, facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    for namespace in Namespace::ALL {
        let differs = namespace_of(&thread.namespaces, namespace) != namespace_of(&facts.namespaces, namespace);
        let leaves = expected.thread_namespaces.iter().any(|(name, kind)| *name == thread.name && *kind == namespace);
        if differs != leaves {
            findings.push(Finding::ThreadNamespace { thread: thread.id, name: thread.name.clone(), namespace });
        }
    }
    if thread.id != facts.pid && thread.descriptors != facts.descriptors {
        let text = |one: &DescriptorFacts| format!("{} {}", one.number, one.target);
        let found: Vec<String> = thread.descriptors.iter().map(text).collect();
        findings.push(Finding::ThreadDescriptors { thread: thread.id, found: found.join(", ") });
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

fn compare_namespaces(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    let own = expected.profile.namespaces;
    let islet = own.contains(&Namespace::Mount);
    for namespace in Namespace::ALL {
        let outside = namespace_of(&expected.outside, namespace);
        let inside = namespace_of(&facts.namespaces, namespace);
        let apart = own.contains(&namespace) || (islet && OF_THE_VM.contains(&namespace));
        if apart && inside == outside {
            findings.push(Finding::SharedNamespace { namespace });
        } else if !apart && inside != outside {
            findings.push(Finding::StrangeNamespace { namespace });
        }
    }
    if islet {
        let empty = matches!(&facts.mounts[..], [root] if root.point == "/"
            && root.kind == "tmpfs"
            && root.options.split(',').any(|option| option == "ro"));
        if !empty || !facts.root.is_empty() {
            let mounts = facts.mounts.iter().map(|mount| format!("{} {} {}", mount.point, mount.kind, mount.options));
            let found: Vec<String> = mounts.chain(facts.root.iter().cloned()).collect();
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
