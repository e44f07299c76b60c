//! Every way in which an islet can end, and every way in which it can fail to start, is told apart and named.

use crate::rig::{Vm, Who};

#[test]
fn each_end_has_its_sentence() {
    let cases = [
        ("nothing", "clean", "ended as asked"),
        ("panic", "panic", "panicked: index out of bounds: the len is 0 but the index is 0 (at "),
        ("second:panic", "panic", "panicked: index out of bounds"),
        ("exhaust", "out-of-memory", "ran out of its fixed memory (for an allocation of 1099511627776 bytes)"),
        ("second:exhaust", "out-of-memory", "ran out of its fixed memory"),
        ("abort", "aborted", "aborted"),
        ("fault", "signal", "was killed by SIGSEGV at address 0x1234"),
        ("overflow", "signal", "which looks like a stack overflow"),
        ("second:overflow", "signal", "which looks like a stack overflow"),
        ("error", "error", "ended with an error (exit code 1): the disk is on fire"),
        ("lost-peer", "lost-peer", "ended because its peer is gone: supervisor, incarnation 3"),
        ("code", "error", "ended with exit code 42"),
        ("int80", "trapped", "made a forbidden system call that it could not record"),
    ];
    for who in Who::all() {
        let mut vm = Vm::start(who);
        for (action, cause, sentence) in cases {
            let ended = vm.once("probe", "sealed", action);
            assert_eq!(ended.cause, cause, "{who:?} {action}: {ended:?}");
            assert!(ended.sentence.contains(sentence), "{who:?} {action}: {ended:?}");
        }
        vm.islet("victim", &["probe", "sealed", "wait"]);
        assert_eq!(vm.kill("victim").sentence, "was killed by SIGKILL");
    }
}

#[test]
fn a_binary_that_cannot_run_is_named_with_the_reason() {
    let locked = std::env::temp_dir().join(format!("atoll-probe-{}", std::process::id()));
    std::fs::copy(crate::rig::PROBE, &locked).expect("a copy");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&locked, mode(0o644)).expect("permissions");
    for who in Who::all() {
        let mut vm = Vm::start(who);
        let missing = vm.ask(&["startfile", "/no/such/binary"]).join(" ");
        assert!(missing.contains("/no/such/binary cannot be opened: No such file"), "{missing}");
        let dynamic = vm.ask(&["startfile", "/bin/sh"]).join(" ");
        assert!(dynamic.contains("/bin/sh is linked dynamically (it needs /lib"), "{dynamic}");
        let text = vm.ask(&["startfile", "/etc/passwd"]).join(" ");
        assert!(text.contains("/etc/passwd is not an x86_64 ELF executable"), "{text}");
        // This one fails in the child, at exec.
        let locked = vm.ask(&["startfile", &locked.to_string_lossy()]).join(" ");
        assert!(locked.contains("other was not started: exec failed: Permission denied"), "{locked}");
        assert!(locked.contains("0755"), "{locked}");
        assert_eq!(vm.once("probe", "sealed", "nothing").cause, "clean", "the keeper goes on");
    }
    std::fs::remove_file(&locked).expect("it exists");
}

#[test]
fn restrictions_after_a_thread_are_refused() {
    let mut vm = Vm::start(Who::User);
    vm.islet("late", &["probe", "sealed", "nothing", "thread-before"]);
    let ended = vm.end("late");
    assert_eq!(ended.cause, "error");
    assert!(ended.sentence.contains("has threads already"), "{ended:?}");
}
