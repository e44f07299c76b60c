//! The escape campaign: every item of the table of `probe::escape`, tried in place of every kind of process.
//!
//! * `campaign`: each attempt in a process of its own, under each profile; the attempts without a sandbox; planted
//!   loosenings that the campaign must notice.
//! * `running`: the attacker in place of each process of a real VM.
//!
//! Everything runs as whoever runs the tests, and, if that is root, once more as an ordinary user.

#![cfg(test)]

mod campaign;
mod report;
mod running;

use std::env;
use std::process::Command;

/// The attacker.
const ATTACKER: &str = env!("CARGO_BIN_EXE_escape");
/// Where the user's run ends up in this test again.
const SELF: &str = "everything_holds_for_an_ordinary_user_too";

/// Root of the host, or of a user namespace that maps everybody.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command in namespaces of its own, so that an attempt that succeeds against all expectation harms nothing. An ordinary
/// user can do no harm, and needs no more.
fn guarded(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--uts", "--ipc", "--", program]);
    command
}

#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !is_root() {
        println!("these tests run as an ordinary user");
        return;
    }
    let own = env::current_exe().unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&own);
    let reachable = command.arg("--list").output().is_ok_and(|output| output.status.success());
    if !reachable {
        println!("skipped: an ordinary user cannot run {}", own.display());
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&own);
    let output = command.args(["--skip", SELF, "--nocapture", "--test-threads=1"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("as an ordinary user:\n{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
