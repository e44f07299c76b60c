//! What an islet must not be able to do, tried from inside, as root and as an ordinary user.

use crate::rig::{PROBE, Vm, Who};
use profile::Kind;
use std::process::Command;

/// Every forbidden action, as the probe lists them.
fn actions() -> Vec<String> {
    let output = Command::new(PROBE).args(["try", "list"]).output().expect("the probe runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let names: Vec<String> = text.lines().next().expect("a line").split(' ').map(str::to_owned).collect();
    assert!(names.len() >= 40, "{names:?}");
    names
}

/// The call that an action makes is named in its report, or is the action's own name.
fn names_a_call(sentence: &str) -> bool {
    profile::syscalls::CALLS.iter().any(|(number, name)| sentence.contains(&format!("{name} ({number})")))
}

#[test]
fn every_forbidden_action_traps_with_its_name_in_a_sealed_islet() {
    for who in Who::all() {
        let mut vm = Vm::start(who);
        for action in actions() {
            let ended = vm.once("probe", "sealed", &action);
            assert_eq!(ended.cause, "trapped", "{who:?} {action}: {ended:?}");
            assert_eq!(ended.stage, "Sealed");
            let known = action != "x32-getpid" && action != "unknown";
            assert_eq!(names_a_call(&ended.sentence), known, "{who:?} {action}: {}", ended.sentence);
            if let Some(number) = profile::syscalls::number(&action) {
                let call = format!("{action} ({number})");
                assert!(ended.sentence.contains(&call), "{who:?} {action}: {}", ended.sentence);
            }
        }
    }
}

#[test]
fn a_second_thread_is_under_the_same_filter() {
    let mut vm = Vm::start(Who::User);
    for action in ["openat", "mmap", "socket", "fork"] {
        let ended = vm.once("probe", "sealed", &format!("second:{action}"));
        assert_eq!(ended.cause, "trapped", "{action}: {ended:?}");
        assert!(!ended.sentence.contains("thread 0"), "{ended:?}");
    }
}

#[test]
fn each_profile_traps_what_its_list_lacks_and_lets_an_islet_work() {
    let mut vm = Vm::start(Who::User);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keeper) {
        for action in actions() {
            if kind == Kind::Supervisor && action == "fcntl" {
                // It asks for flags, which is in the supervisor's list.
                continue;
            }
            let ended = vm.once(kind.name(), "sealed", &action);
            assert_eq!(ended.cause, "trapped", "{kind} {action}: {ended:?}");
        }
        let ended = vm.once(kind.name(), "sealed", "works");
        assert_eq!((ended.cause.as_str(), ended.output.as_str()), ("clean", "works\tok"), "{kind}: {ended:?}");
    }
}

/// The second line of defence: with namespaces, capabilities and Landlock alone, without the filter.
#[test]
fn without_the_filter_nothing_of_the_host_can_be_reached() {
    const REFUSED: &[&str] = &[
        "openat",
        "openat-passwd",
        "openat-proc-self-fd",
        "openat-proc-self-mem",
        "open",
        "openat2",
        "creat",
        "mkdir",
        "readlink",
        "stat",
        "execve",
        "pidfd_getfd",
        "bpf",
        "setns",
        "mount",
        "fsopen",
        "pivot_root",
        "chroot",
        "syslog",
    ];
    for who in Who::all() {
        let mut vm = Vm::start(who);
        for action in REFUSED {
            let ended = vm.once("probe", "restricted", action);
            assert_eq!(ended.cause, "clean", "{who:?} {action}: {ended:?}");
            assert!(ended.output.starts_with(&format!("{action}\tE")), "{who:?} {action}: {ended:?}");
        }
    }
}

#[test]
fn outside_the_sandbox_most_attempts_succeed() {
    let root = nix::unistd::geteuid().is_root();
    let names = actions();
    let mut failed = Vec::new();
    for action in &names {
        // In namespaces of its own, since some attempts would leave something behind on the host.
        let options: &[&str] = if root { &["-m", "-i"] } else { &["-U", "-r", "-m", "-i"] };
        let output = Command::new("unshare").args(options).args([PROBE, "try", action]).output().expect("unshare runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !text.contains("\tok") {
            failed.push(text.trim().to_owned());
        }
    }
    println!("fail outside as well: {failed:?}");
    assert!(failed.len() * 4 < names.len(), "{} of {} fail outside: {failed:?}", failed.len(), names.len());
}

#[test]
fn islets_cannot_signal_each_other_or_the_keeper() {
    for who in Who::all() {
        let mut vm = Vm::start(who);
        assert_eq!(vm.ask(&["ids"]), ["ids", if who == Who::Root { "true" } else { "false" }]);
        let (victim, _) = vm.islet("victim", &["probe", "sealed", "wait"]);
        // Root's islets have different ids; an ordinary user's are kept apart by Landlock's scope.
        let stage = if who == Who::Root { "spawned" } else { "restricted" };
        for target in [victim, 1] {
            let ended = vm.once("probe", stage, &format!("signal:{target}"));
            if target == 1 && who == Who::User {
                // Pid 1 ignores what it has no handler for; what counts is that it still answers.
                continue;
            }
            assert_eq!(ended.output, format!("signal:{target}\tEPERM"), "{who:?}: {ended:?}");
        }
        assert_eq!(vm.end("victim").cause, "clean");
    }
}
