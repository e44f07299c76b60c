//! A whole Debian as a guest: systemd, a login on the serial line, and a shell that a test can talk with.
//!
//! The idea: programs that nobody here wrote are the best test of a processor. The root is debootstrap's (`prepare`, which
//! `./dev test --long userland` runs), in an initramfs, and a test does what a person would: it logs in and types.
//! How a command ended is told by its exit status; what it printed is for the failure's message.

#![expect(clippy::panic, reason = "these are the assertions of tests")]

pub mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use guest::Guest;
use rig::{Rig, Vm, boot_time};

/// Guest RAM: the initramfs, the same again unpacked, and what programs need.
const MEMORY: &str = "4G";
/// Account and password, as `prepare` has set them.
const ACCOUNT: (&str, &str) = ("root", "debian");

/// The initramfs with the root.
///
/// # Errors
/// It is not there: why a test of it is skipped.
pub fn root() -> Result<(Guest, PathBuf), String> {
    let guest = Guest::find().map_err(|error| error.to_string())?;
    let folder = guest.kernel.with_file_name("userland");
    let path = folder.join("root.cpio");
    if path.is_file() {
        return Ok((guest, path));
    }
    // What makes it has left a reason, if it was asked to.
    let why = std::fs::read_to_string(folder.join("why"));
    let why = why.unwrap_or_else(|_| "'./dev test --long userland' makes it".to_owned());
    Err(format!("{} is missing: {}", path.display(), why.trim()))
}

/// A shell in a running Debian.
#[derive(Debug)]
pub struct Debian<'a> {
    /// The VM.
    pub vm: Vm<'a>,
    /// From the start of `atoll run` to the login prompt.
    pub boot: Duration,
    commands: usize,
}

/// What a command in the guest did.
#[derive(Debug)]
pub struct Command {
    /// Exit status.
    pub status: i32,
    /// What it printed, on both streams.
    pub output: String,
}

impl<'a> Debian<'a> {
    /// Boots it and logs in. `arguments` are further ones for `atoll run`.
    ///
    /// # Panics
    /// It does not get there in time.
    #[track_caller]
    pub fn boot(rig: &'a Rig, (guest, root): &(Guest, PathBuf), arguments: &[&str]) -> Self {
        let (kernel, initrd) = (guest.kernel.display().to_string(), root.display().to_string());
        let all = ["--memory", MEMORY, "--kernel", &kernel, "--initrd", &initrd, "--cmdline", guest::COMMAND_LINE];
        let start = Instant::now();
        let mut vm = rig.start("debian", all.iter().chain(arguments));
        vm.expect("login: ", boot_time());
        let boot = start.elapsed();
        vm.send(format!("{}\n", ACCOUNT.0));
        vm.expect("Password: ", boot_time());
        vm.send(format!("{}\n", ACCOUNT.1));
        vm.expect("# ", boot_time());
        // A shell without line editing, echo and prompt, so that what comes back is what commands print.
        vm.send("exec sh\n");
        vm.expect("# ", boot_time());
        let mut debian = Self { vm, boot, commands: 0 };
        debian.run("PS1=; stty -echo; dmesg --console-off; cd /tmp", boot_time());
        debian
    }

    /// Runs a line of shell.
    ///
    /// # Panics
    /// It takes longer than `limit`.
    #[track_caller]
    pub fn run(&mut self, line: &str, limit: Duration) -> Command {
        self.commands += 1;
        let number = self.commands;
        // Not as it is typed, for the case that it is echoed.
        self.vm.send(format!("{line}\necho \"ATOLL-\"END {number} $?\n"));
        let output = self.vm.expect(&format!("ATOLL-END {number} "), limit).replace('\r', "");
        let status = self.vm.expect("\n", limit);
        let status = status.trim().parse().unwrap_or_else(|_| panic!("'{line}' ended with {status:?}:\n{output}"));
        Command { status, output }
    }

    /// Runs a line that must succeed; returns what it printed.
    ///
    /// # Panics
    /// It fails, or takes longer than `limit`.
    #[track_caller]
    pub fn ok(&mut self, line: &str, limit: Duration) -> String {
        let done = self.run(line, limit);
        assert_eq!(done.status, 0, "'{line}' failed:\n{}", done.output);
        done.output
    }

    /// Powers it off as a person would; every service is stopped first.
    ///
    /// # Panics
    /// It does not end well.
    #[track_caller]
    pub fn power_off(mut self) {
        self.vm.send("systemctl poweroff\n");
        self.vm.wait(boot_time()).ok();
    }
}
