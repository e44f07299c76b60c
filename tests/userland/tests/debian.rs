//! A whole Debian boots on the translator, and its programs do what they do elsewhere.

#![cfg(test)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rig::Rig;
use userland::{Debian, root, table};

/// For a command of a second or two on a machine that does nothing else.
const COMMAND: Duration = Duration::from_secs(300);
/// For what takes minutes.
const LONG: Duration = Duration::from_secs(3000);

/// Prints two sums, of floating-point numbers and of integers, and what it was called with.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
    double sum = 0;
    unsigned hash = 2166136261u;
    for (int i = 1; i <= 100000; i++) sum += 1.0 / i / i;
    for (const char *at = words[count - 1]; *at; at++) hash = (hash ^ (unsigned char) *at) * 16777619u;
    printf("%.9f %08x %zu\n", sum, hash, sizeof(void *));
    return 0;
}
"#;

/// Python's own tests that are here, all of which pass on Debian.
const PYTHON: &str = "test_float test_struct test_hashlib test_threading";

/// Two of these guests at a time are more than a small machine has memory for.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn compiles_and_runs_a_program(debian: &mut Debian<'_>) {
    debian.ok(&format!("cat >program.c <<'END'{PROGRAM}END"), COMMAND);
    // The sum is pi squared / 6 less about 1 / 100000, the other one FNV-1a of the word (both computed elsewhere).
    for (flags, size) in [("-O2", 8), ("-O0", 8), ("-O2 -m32", 4), ("-O2 -mfpmath=387", 8)] {
        let output = debian.ok(&format!("gcc -Wall -Werror {flags} program.c -o program && ./program atoll"), COMMAND);
        assert_eq!(output.trim(), format!("1.644924067 0a108905 {size}"), "gcc {flags}");
    }
}

fn self_tests_do_what_the_table_says(debian: &mut Debian<'_>) {
    let output = debian.ok("/opt/self-tests/run", LONG);
    let (found, expected) = (table::found(&output), table::expected());
    let others: Vec<_> = found.iter().filter(|(name, result)| expected.get(*name) != Some(result)).collect();
    for (name, _) in &others {
        println!("{name} printed:\n{}", debian.run(&format!("cat /tmp/self-tests/{name}"), COMMAND).output);
    }
    assert!(others.is_empty(), "not as in docs/self-tests.md: {others:?}");
    let missing: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
    assert!(missing.is_empty(), "not run: {missing:?}");
}

/// No oops, no warning with a trace, and no program that was killed but those that want it.
fn the_kernel_has_nothing_to_complain_of(debian: &mut Debian<'_>) {
    let log = debian.ok("dmesg", COMMAND);
    // A host that is busy enough has a guest's kernel complain of that; it is told, and is no fault.
    let slow = |line: &str| line.contains("soft lockup") || line.contains("stall on CPU");
    log.lines().filter(|line| slow(line)).for_each(|line| println!("{line}"));
    let bad = ["cut here", "BUG:", "Oops", "segfault at", "general protection", "invalid opcode", "double fault"];
    let found = |line: &&str| !slow(line) && bad.iter().any(|text| line.contains(text));
    let lines: Vec<_> = log.lines().filter(found).collect();
    assert!(lines.is_empty(), "{lines:#?}\n{log}");
}

/// From power-on to power-off on two vCPUs of a CPU model.
fn story(model: &str) {
    let root = match root() {
        Ok(root) => root,
        Err(why) => return println!("skipped: {why}"),
    };
    let _one = alone();
    let rig = Rig::new(&format!("userland-{model}"));
    let mut debian = Debian::boot(&rig, &root, &["--cpus", "2", "--cpu-model", model]);
    println!("{model}: login prompt after {:.1} s", debian.boot.as_secs_f64());
    assert_eq!(debian.ok("cat /proc/1/comm; nproc", COMMAND).trim(), "systemd\n2");
    // Every unit of the system came up.
    assert_eq!(debian.ok("systemctl is-system-running --wait", COMMAND).trim(), "running");
    compiles_and_runs_a_program(&mut debian);
    assert_eq!(debian.ok("dpkg --verify", LONG), "");
    self_tests_do_what_the_table_says(&mut debian);
    let output = debian.ok(&format!("python3 -m test {PYTHON}"), LONG);
    assert!(output.contains("Result: SUCCESS") || output.contains("result: SUCCESS"), "{output}");
    the_kernel_has_nothing_to_complain_of(&mut debian);
    println!("{}", rig.atoll(["inspect", "debian"]).ok().output);
    debian.power_off();
}

#[test]
#[ignore = "takes minutes: ./dev test --long userland"]
fn debian_logs_in_compiles_verifies_and_tests_itself() {
    story("atoll-v2");
}

#[test]
#[ignore = "takes minutes: ./dev test --long userland"]
fn debian_does_the_same_on_the_larger_cpu_model() {
    story("atoll-v3");
}
