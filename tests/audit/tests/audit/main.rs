//! The audit of whole running VMs.
//!
//! * `running`: a VM as it should be, process by process and thread by thread, with a table on the output.
//! * `loosened`: the same VM with a serial port that has one thing wrong with it; each is found.
//!
//! Everything runs as whoever runs the tests, and, if that is root, once more as an ordinary user.

#![cfg(test)]

mod loosened;
mod running;
mod world;

use std::env;
use std::process::Command;

/// Where the user's run ends up in this test again.
const SELF: &str = "everything_holds_for_an_ordinary_user_too";

#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !world::is_root() {
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
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
