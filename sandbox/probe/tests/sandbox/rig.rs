//! Starts a keeper with `probe launch`, as root or as an ordinary user, and speaks its line protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use profile::audit::Reported;

pub(crate) const PROBE: &str = env!("CARGO_BIN_EXE_probe");

/// Who starts the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    User,
}

impl Who {
    /// Everyone that this test process can be.
    pub(crate) fn all() -> Vec<Who> {
        if nix::unistd::geteuid().is_root() { vec![Who::Root, Who::User] } else { vec![Who::User] }
    }

    /// A command that runs `program` as this one.
    pub(crate) fn command(self, program: &str) -> Command {
        if self == Who::User && nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", program]);
            return command;
        }
        Command::new(program)
    }
}

/// A keeper under test.
pub(crate) struct Vm {
    launcher: Child,
    requests: UnixStream,
    answers: BufReader<UnixStream>,
}

/// How an islet ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) cause: String,
    pub(crate) sentence: String,
    pub(crate) stage: String,
    pub(crate) landlock: u32,
    pub(crate) output: String,
}

impl Vm {
    pub(crate) fn start(who: Who) -> Vm {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        // Islets may not write to files, and a test's own standard error may be one: their log is a pipe, as a keeper's is.
        let mut command = who.command(PROBE);
        command.arg("launch").stdin(OwnedFd::from(theirs)).stderr(Stdio::piped());
        let mut launcher = command.spawn().expect("the launcher starts");
        let mut log = launcher.stderr.take().expect("a pipe");
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        let answers = BufReader::new(ours.try_clone().expect("a copy"));
        Vm { launcher, requests: ours, answers }
    }

    pub(crate) fn ask(&mut self, request: &[&str]) -> Vec<String> {
        writeln!(self.requests, "{}", request.join("\t")).expect("the keeper reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the keeper answers");
        assert!(!line.is_empty(), "the keeper has ended at {request:?}");
        line.trim_end_matches('\n').split('\t').map(str::to_owned).collect()
    }

    /// Starts an islet of the probe; its pid within the VM and its number in /proc.
    pub(crate) fn islet(&mut self, name: &str, arguments: &[&str]) -> (i32, i32) {
        let request: Vec<&str> = ["start", name].iter().chain(arguments).copied().collect();
        let answer = self.ask(&request);
        assert_eq!(answer[0], "started", "{answer:?}");
        (answer[1].parse().expect("a pid"), answer[2].parse().expect("a number"))
    }

    /// Waits until an islet has finished its lock-down as far as it goes, and tells what it has reported by then.
    pub(crate) fn until_waiting(&mut self, name: &str) -> Reported {
        let line = self.ask(&["line", name]);
        let waits = line == ["line", "waiting"];
        let ended = if waits { None } else { Some(self.end(name)) };
        assert!(waits, "{name} does not wait: {ended:?}");
        let answer = self.ask(&["status", name]);
        Reported { landlock_abi: answer[2].parse().expect("a number"), sealed: answer[1] == "Sealed" }
    }

    pub(crate) fn end(&mut self, name: &str) -> Ended {
        Vm::ended(self.ask(&["end", name]))
    }

    pub(crate) fn kill(&mut self, name: &str) -> Ended {
        Vm::ended(self.ask(&["kill", name]))
    }

    fn ended(answer: Vec<String>) -> Ended {
        assert_eq!(answer[0], "ended", "{answer:?}");
        Ended {
            cause: answer[1].clone(),
            sentence: answer[2].clone(),
            stage: answer[3].clone(),
            landlock: answer[4].parse().expect("a number"),
            output: answer[5..].join("\t"),
        }
    }

    /// Runs one islet to its end.
    pub(crate) fn once(&mut self, profile: &str, stage: &str, action: &str) -> Ended {
        self.islet("once", &[profile, stage, action]);
        self.end("once")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.requests.shutdown(std::net::Shutdown::Both);
        let status = self.launcher.wait().expect("the launcher ends");
        if !std::thread::panicking() {
            assert!(status.success(), "the launcher or keeper failed: {status}");
        }
    }
}
