//! Stories of the console on a terminal: raw while the VM runs, as before afterwards, and left with the escape key.

#![cfg(test)]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use boot::Payload;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use rig::{Rig, SOON, Stream};
use rustix::process::{Pid, Signal, kill_process};

/// `atoll run` on a terminal of its own.
struct Terminal {
    launcher: Child,
    /// The user's side.
    keys: File,
    screen: Stream,
    said: Stream,
    /// The launcher's side, to look at its mode.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn start(rig: &Rig, payload: Payload) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
        let kernel = rig.file("payload", &payload.finish());
        let mut command = rig.command(["run", "--name", "vm", "--memory", "16M"]);
        command.arg(kernel).stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap());
        let mut launcher = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = Stream::of(launcher.stderr.take().unwrap());
        let keys = File::from(master);
        let screen = Stream::of(keys.try_clone().unwrap());
        Self { launcher, keys, screen, said, line: slave, before }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).unwrap().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for the end: the exit status as a shell says it. The terminal is as it was.
    #[track_caller]
    fn wait(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.said.wait_end(SOON);
        let status = self.launcher.wait().unwrap();
        let after = tcgetattr(&self.line).unwrap();
        assert_eq!(after, self.before);
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

#[test]
fn the_escape_key_ends_the_vm_with_0() {
    let rig = Rig::new("terminal-leave");
    let mut terminal = Terminal::start(&rig, Payload::new().print("up\n").echo(4).spin());
    assert_eq!(terminal.screen.expect("up\n", SOON), "", "no carriage return is added");
    assert!(terminal.is_raw());
    // Ctrl-C and Ctrl-Z are the guest's; two Ctrl-A are one.
    terminal.keys.write_all(b"\x03\x1a\x01\x01\x01a").unwrap();
    assert_eq!(terminal.screen.take(4, SOON), b"\x03\x1a\x01\x01");
    terminal.keys.write_all(b"\x01h").unwrap();
    terminal.said.expect("this help\r\n", SOON);
    terminal.keys.write_all(b"\x01").unwrap();
    terminal.keys.write_all(b"x").unwrap();
    assert!(terminal.said.text().contains("Ctrl-A x"));
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn the_terminal_is_given_back_when_the_guest_ends() {
    let rig = Rig::new("terminal-guest");
    let terminal = Terminal::start(&rig, Payload::new().print("bye").debug_exit(4));
    terminal.screen.expect("bye", SOON);
    assert_eq!(terminal.wait(), 9);
}

#[test]
fn the_terminal_is_given_back_when_signals_end_the_launcher() {
    let rig = Rig::new("terminal-signals");
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        if rig::is_ignored(signal) {
            continue;
        }
        let terminal = Terminal::start(&rig, Payload::new().print("up").spin());
        terminal.screen.expect("up", SOON);
        assert!(terminal.is_raw());
        kill_process(Pid::from_child(&terminal.launcher), signal).unwrap();
        assert_eq!(terminal.wait(), status);
    }
}

#[test]
fn the_terminal_is_given_back_when_the_vm_is_lost() {
    let rig = Rig::new("terminal-lost");
    let terminal = Terminal::start(&rig, Payload::new().print("up").spin());
    terminal.screen.expect("up", SOON);
    let keeper = rig.json(&["ps"])[0]["keeper_pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(keeper).unwrap()).unwrap(), Signal::KILL).unwrap();
    let said = terminal.said.clone();
    assert_eq!(terminal.wait(), 4);
    assert!(said.text().contains("keeper[1]") && said.text().contains("SIGKILL"), "{}", said.text());
}
