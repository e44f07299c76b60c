//! A VM as it should be: nothing is found, and the table of its processes.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use audit::filter::{allowed, differences};
use audit::manifest::{ROWS, Row, Shape, WATCHED};
use audit::vm::{self, Outside};
use guest::bare::BEAT;
use profile::audit::{Facts, compare_all};
use profile::{Kind, Namespace, Policy, Profile};
use rig::Rig;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::world::{Looked, RAM, alone, dumps_filters, is_root, keeper, look, look_until_clean, outside, until};

/// A line of the table, and what was found wrong.
fn report(row: &Row, looked: &Looked, shape: &Shape, table: &mut String, wrong: &mut Vec<String>) {
    let profile = row.profile(shape);
    wrong.extend(looked.findings.iter().map(|finding| format!("{}: {finding}", row.binary)));
    assert_eq!(profile.budget, row.budget.unwrap_or(profile.budget), "{}: profile and design differ", row.binary);
    let calls = calls(row, profile, &looked.facts, wrong);
    let (allowed, budget) = match (row.budget, profile.policy) {
        (Some(budget), _) => (calls.map_or("?".to_owned(), |count| count.to_string()), budget.to_string()),
        (None, _) => (format!("all but {}", profile.rules().len()), "deny list".to_owned()),
    };
    let facts = &looked.facts;
    let columns = [facts.threads.len(), facts.descriptors.len(), facts.maps.len()].map(|count| count.to_string());
    let [threads, descriptors, maps] = columns;
    let name = row.binary;
    let _ = writeln!(table, "{name:<12}{threads:>8}{descriptors:>13}{maps:>6}{allowed:>15}{budget:>11}");
}

/// How many calls every thread may make, and what is wrong with them; `None` if no filter could be dumped.
fn calls(row: &Row, profile: &Profile, facts: &Facts, wrong: &mut Vec<String>) -> Option<usize> {
    let mut most = None;
    for thread in &facts.threads {
        let Some(programs) = &thread.programs else { continue };
        for difference in differences(programs, profile).unwrap() {
            wrong.push(format!("{}, thread {}: {difference}", row.binary, thread.id));
        }
        let count = allowed(programs, profile).unwrap().len();
        if row.budget.is_some_and(|budget| count > budget) {
            wrong.push(format!("{}, thread {}: {count} calls are over the budget", row.binary, thread.id));
        }
        most = most.max(Some(count));
    }
    most
}

fn head() -> String {
    let [a, b, c, d, e, f] = ["process", "threads", "descriptors", "maps", "allowed calls", "budget"];
    format!("{a:<12}{b:>8}{c:>13}{d:>6}{e:>15}{f:>11}\n")
}

/// The gaps, each once. Root has none.
fn gaps(looked: &[&Looked]) {
    let mut all: Vec<&String> = looked.iter().flat_map(|looked| &looked.gaps).collect();
    all.sort();
    all.dedup();
    for gap in &all {
        println!("not checked: {gap}");
    }
    if !all.is_empty() {
        println!(
            "(only root of the host may dump filters; the tests of sandbox/probe try from inside what they let through)"
        );
    }
    let filters = all.iter().filter(|gap| gap.contains("program of a filter")).count();
    assert!(filters == 0 || !dumps_filters(), "root of the host can dump filters");
    assert_eq!(all.len(), filters, "only filters may be out of reach");
}

#[test]
fn every_process_and_thread_of_a_running_vm_has_exactly_what_the_design_says() {
    let _one = alone();
    let rig = Rig::new("audit-running");
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let vm = rig.start("running", ["--memory", "16M", "--kernel", &kernel]);
    vm.wait_state(&["running"]);
    // The guest runs: what follows is not the state before the first instruction.
    vm.expect("ABC", rig::SOON);
    let keeper = keeper(&rig, "running");
    let outside = outside(&rig, "running", rig.binaries());
    let shape = Shape { ram: RAM, initrd: false, console: true, foreground: true, loading: false, watched: false };

    let (mut table, mut wrong, mut all) = (head(), Vec::new(), Vec::new());
    for row in ROWS.iter().filter(|row| row.kind != Kind::Loader) {
        let looked = look_until_clean(keeper, row, &shape, &outside);
        report(row, &looked, &shape, &mut table, &mut wrong);
        all.push(looked);
    }
    println!("{table}");
    gaps(&all.iter().collect::<Vec<_>>());
    let mut strangers = vm::processes(keeper);
    strangers.retain(|(pid, _)| all.iter().all(|looked| looked.facts.pid != *pid));
    assert_eq!(strangers, vec![], "the VM has a process that is not in the table");
    let islets: Vec<&Facts> = all.iter().skip(1).map(|looked| &looked.facts).collect();
    wrong.extend(compare_all(&islets, is_root()).iter().map(ToString::to_string));
    let keeper_facts = &all[0].facts;
    wrong.extend(keeper_and_islets(keeper_facts, islets[0]));
    assert!(wrong.is_empty(), "{wrong:#?}");
    print_keeper();
}

/// Only an engine that was asked to write files has any, and these.
#[test]
fn an_engine_that_is_watched_has_its_two_files_and_nothing_else_more() {
    let _one = alone();
    let rig = Rig::new("audit-watched");
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let folder = fs::canonicalize(rig.path("")).unwrap();
    let [log, map] = WATCHED.map(|name| folder.join(name).display().to_string());
    let options = ["--memory", "16M", "--kernel", &kernel, "--log-translation", &log, "--perf-map", &map];
    let vm = rig.start("watched", options);
    vm.expect("ABC", rig::SOON);
    let keeper = keeper(&rig, "watched");
    let outside = Outside { snapshot: folder, ..outside(&rig, "watched", rig.binaries()) };
    let shape = Shape { ram: RAM, initrd: false, console: true, foreground: true, loading: false, watched: true };
    let (mut table, mut wrong) = (head(), Vec::new());
    for row in ROWS.iter().filter(|row| row.kind != Kind::Loader) {
        let looked = look_until_clean(keeper, row, &shape, &outside);
        report(row, &looked, &shape, &mut table, &mut wrong);
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The pid namespace is the keeper's, the network its spawn thread's.
fn keeper_and_islets(keeper: &Facts, islet: &Facts) -> Vec<String> {
    let of =
        |list: &[(Namespace, String)], kind| list.iter().find(|(found, _)| *found == kind).map(|(_, id)| id.clone());
    let spawn = keeper.threads.iter().find(|thread| thread.name == "spawn").expect("the keeper has a spawn thread");
    let pairs = [
        ("pid", of(&keeper.namespaces, Namespace::Pid), of(&islet.namespaces, Namespace::Pid)),
        ("net", of(&spawn.namespaces, Namespace::Net), of(&islet.namespaces, Namespace::Net)),
    ];
    let differ = pairs.into_iter().filter(|(_, keeper, islet)| keeper != islet);
    differ.map(|(kind, ..)| format!("the VM's {kind} namespace is not the one that its keeper made")).collect()
}

/// The keeper's filter is what its children inherit; it is shown as it is.
fn print_keeper() {
    let Policy::DenyOnly(rules) = Kind::Keeper.profile().policy else { panic!("the keeper has a deny list") };
    let names: Vec<&str> = rules.iter().filter_map(|rule| profile::syscalls::name(rule.call)).collect();
    println!("the keeper and all that it starts may not: {}", names.join(" "));
}

/// The loader lives for some milliseconds, so it is given much to load, stopped as soon as its lock-down is complete, and
/// looked at then.
#[test]
fn the_loader_has_exactly_what_the_design_says_while_it_loads() {
    const INITRD: u64 = 160 << 20;
    const MEMORY: u64 = 256 << 20;
    let _one = alone();
    let rig = Rig::new("audit-loader");
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let initrd = rig.path("initrd");
    File::create(&initrd).unwrap().set_len(INITRD).unwrap();
    let initrd = initrd.display().to_string();
    let vm = rig.start("loading", ["--memory", "256M", "--kernel", &kernel, "--initrd", &initrd]);
    let keeper = keeper(&rig, "loading");
    let outside = outside(&rig, "loading", rig.binaries());
    let shape = Shape { ram: MEMORY, initrd: true, console: true, foreground: true, loading: true, watched: false };
    // The next loader comes with a reset, if this one was too fast.
    for round in 0.. {
        if let Some(pid) = stop_unless(keeper, Kind::Loader, || false) {
            check_loader(keeper, &shape, &outside);
            send(pid, Signal::CONT).expect("it is stopped, so it is there");
            break;
        }
        assert!(round < 20, "the loader is always gone before it can be stopped");
        vm.wait_state(&["running"]);
        rig.atoll(["reset", "loading"]).ok();
    }
    vm.wait_state(&["running"]);
}

fn send(pid: i32, signal: Signal) -> Option<()> {
    let descriptor = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    pidfd_send_signal(&descriptor, signal).ok()
}

/// Stops the next process of this kind behind its lock-down; `None` if it got away, or if there was an `end` of what it is
/// for before it came.
fn stop_unless(keeper: i32, kind: Kind, mut end: impl FnMut() -> bool) -> Option<i32> {
    let row = Row::of(kind).unwrap();
    let pid = until(&format!("no {kind} comes"), || {
        let found = vm::find(keeper, row.binary);
        if found.is_none() && end() { Some(None) } else { found.map(Some) }
    })?;
    let field = |name: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
    };
    // Its own filter comes on top of the keeper's; its report of that is the last step of the lock-down.
    let reported = || vm::reported(&vm::status(keeper, row.status().unwrap()).unwrap()).sealed;
    until(&format!("the {kind} neither reports its lock-down nor ends"), || match field("Seccomp_filters:") {
        Some(filters) => (filters == "2" && reported()).then_some(Some(())),
        None => Some(None),
    })?;
    send(pid, Signal::STOP)?;
    until("it neither stops nor ends", || {
        let state = field("State:").unwrap_or_default();
        match state.chars().next() {
            Some('T') => Some(Some(pid)),
            None | Some('Z' | 'X') => Some(None),
            _ => None,
        }
    })
}

fn check_loader(keeper: i32, shape: &Shape, outside: &Outside) {
    let (mut table, mut wrong) = (head(), Vec::new());
    let row = Row::of(Kind::Loader).unwrap();
    let looked = look(keeper, row, shape, outside);
    report(row, &looked, shape, &mut table, &mut wrong);
    // Both know of the loader now.
    for kind in [Kind::Keeper, Kind::Supervisor] {
        let row = Row::of(kind).unwrap();
        report(row, &look_until_clean(keeper, row, shape, outside), shape, &mut table, &mut wrong);
    }
    println!("while the loader is stopped:\n{table}");
    gaps(&[&looked]);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where the files of a snapshot are: until it is whole, in a folder beside it.
fn files_of(snapshot: &Path) -> PathBuf {
    let (folder, name) = (snapshot.parent().unwrap(), snapshot.file_name().unwrap().to_str().unwrap());
    let beside = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut beside =
        beside.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!(".{name}.partial-")));
    beside.next().unwrap_or_else(|| snapshot.to_owned())
}

/// Stops the streamer of a job, looks at it, and lets it end. False if it was too fast.
fn check_streamer(rig: &Rig, name: &str, kind: Kind, snapshot: &Path, arguments: &[&str]) -> bool {
    let mut job = rig.command(arguments).spawn().unwrap();
    let keeper = keeper(rig, name);
    let Some(pid) = stop_unless(keeper, kind, || job.try_wait().unwrap().is_some()) else {
        assert!(job.wait().unwrap().success());
        return false;
    };
    let (mut table, mut wrong) = (head(), Vec::new());
    let row = Row::of(kind).unwrap();
    let outside = Outside { snapshot: files_of(snapshot), ..outside(rig, name, rig.binaries()) };
    // Nothing of it is the streamer's.
    let shape = Shape { ram: RAM, initrd: true, console: false, foreground: false, loading: false, watched: false };
    let looked = look(keeper, row, &shape, &outside);
    report(row, &looked, &shape, &mut table, &mut wrong);
    println!("while the {kind} is stopped:\n{table}");
    gaps(&[&looked]);
    send(pid, Signal::CONT).expect("it is stopped, so it is there");
    assert!(job.wait().unwrap().success());
    assert!(wrong.is_empty(), "{wrong:#?}");
    true
}

/// A streamer lives while a snapshot is written or read; it is stopped as soon as its lock-down is complete.
#[test]
fn streamers_have_exactly_what_the_design_says_while_they_work() {
    const BYTES: usize = 40 << 20;
    let _one = alone();
    let rig = Rig::new("audit-streamer");
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let options = ["--detach", "--console", "none"];
    // So much has to be moved that there is time to look.
    let initrd = rig.file("initrd", &vec![0x5a; BYTES]).display().to_string();
    let run = ["run", "--name", "source", "--memory", "64M", "--kernel", &kernel, "--initrd", &initrd];
    rig.atoll(run.iter().chain(&options)).ok();
    let mut path = rig.path("");
    let written = (0..20).any(|round| {
        path = fs::canonicalize(rig.path("")).unwrap().join(format!("snapshot-{round}"));
        let text = path.display().to_string();
        check_streamer(&rig, "source", Kind::StreamerSource, &path, &["snapshot", "source", &text])
    });
    assert!(written, "the streamer that writes is always gone before it can be stopped");
    let text = path.display().to_string();
    let read = (0..20).any(|round| {
        let name = format!("target-{round}");
        let restore = ["restore", "--name", &name, "--on-demand", &text, options[0], options[1], options[2]];
        check_streamer(&rig, &name, Kind::StreamerTarget, &path, &restore)
    });
    assert!(read, "the streamer that reads is always gone before it can be stopped");
}
