//! One VM in the foreground: its console, its processes, its end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Done, Rig, SOON, Stream, wait};

/// How long a process that was killed may be missing before its successor is there.
const AGAIN: Duration = Duration::from_millis(5);

/// A VM that was started with `atoll run`. Dropping it kills the launcher, with which the VM ends.
#[derive(Debug)]
pub struct Vm<'a> {
    rig: &'a Rig,
    /// Its name.
    pub name: String,
    launcher: Child,
    input: Option<ChildStdin>,
    /// What the guest prints: the launcher's standard output.
    pub console: Stream,
    /// What the launcher says.
    pub said: Stream,
    over: bool,
}

impl<'a> Vm<'a> {
    #[track_caller]
    pub(crate) fn start<S: AsRef<OsStr>>(
        rig: &'a Rig,
        verb: &str,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = rig.command([verb, "--name", name]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut launcher = command.spawn().unwrap();
        let input = launcher.stdin.take();
        let console = Stream::of(launcher.stdout.take().unwrap());
        let said = Stream::of(launcher.stderr.take().unwrap());
        Self { rig, name: name.to_owned(), launcher, input, console, said, over: false }
    }

    /// Waits until the control socket answers and the VM has one of these states; returns the inspection.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn wait_state(&self, states: &[&str]) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let done = self.rig.atoll(["inspect", &self.name, "--json"]);
            let found = serde_json::from_str::<Value>(&done.output).ok();
            let state = found.as_ref().and_then(|found| found["state"]["status"].as_str()).unwrap_or_default();
            if done.status == 0 && states.contains(&state) {
                return found.unwrap_or_default();
            }
            assert!(Instant::now() < end, "not {states:?} but {state:?}: {}\n{}", done.error, self.said.text());
            thread::sleep(AGAIN);
        }
    }

    /// Sends bytes to the guest.
    ///
    /// # Panics
    /// The launcher is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("the input was closed");
        input.write_all(bytes.as_ref()).and_then(|()| input.flush()).unwrap();
    }

    /// Ends the launcher's standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for a text on the console; returns what came before it.
    ///
    /// # Panics
    /// It does not come in time; the launcher's own words are printed too.
    #[track_caller]
    pub fn expect(&self, text: &str, limit: Duration) -> String {
        // A failure says what is on the console; why may be in the other stream.
        let hint = Hint(&self.said);
        let found = self.console.expect(text, limit);
        std::mem::forget(hint);
        found
    }

    /// Waits for the VM's end: exit status of `atoll run`, console, and the launcher's words.
    ///
    /// # Panics
    /// It does not end in time.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Done {
        let status = wait(&mut self.launcher, limit);
        let Some(status) = status else {
            panic!("the VM has not ended:\n{}\n{}", self.console.text(), self.said.text());
        };
        self.over = true;
        self.console.wait_end(SOON);
        self.said.wait_end(SOON);
        let error = self.said.text();
        assert!(!error.contains("forbidden system call"), "{error}");
        Done { status, output: self.console.text(), error }
    }

    /// Sends a signal to the launcher.
    pub fn signal_launcher(&self, signal: Signal) {
        let pid = Pid::from_child(&self.launcher);
        kill_process(pid, signal).unwrap();
    }

    /// Host pids of the VM's processes by name.
    #[must_use]
    #[track_caller]
    pub fn pids(&self) -> BTreeMap<String, i32> {
        let found = self.rig.json(&["inspect", &self.name]);
        let processes = found["processes"].as_array().cloned().unwrap_or_default();
        let pid = |process: &Value| {
            let pid = i32::try_from(process["host_pid"].as_i64()?).ok().filter(|pid| *pid > 0)?;
            Some((process["name"].as_str()?.to_owned(), pid))
        };
        processes.iter().filter_map(pid).collect()
    }

    /// kill -9 of a process by its name; returns its pid.
    ///
    /// # Panics
    /// There is none of that name.
    #[track_caller]
    pub fn kill_process(&self, name: &str) -> i32 {
        let pids = self.pids();
        let pid = *pids.get(name).unwrap_or_else(|| panic!("no '{name}' among {pids:?}"));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        pid
    }

    /// Waits for an event of this kind after number `after`.
    ///
    /// # Panics
    /// It does not come in time.
    #[track_caller]
    pub fn wait_event(&self, kind: &str, after: u64) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let events = self.rig.events(&self.name, after);
            if let Some(event) = events.iter().find(|event| event["kind"] == kind) {
                return event.clone();
            }
            assert!(Instant::now() < end, "no {kind} among {events:#?}");
            thread::sleep(AGAIN);
        }
    }

    /// Connects to a console that was started with `--console socket:PATH`.
    ///
    /// # Panics
    /// Nobody listens there.
    #[must_use]
    #[track_caller]
    pub fn connect(path: &Path) -> Connection {
        let end = Instant::now() + SOON;
        loop {
            match UnixStream::connect(path) {
                Ok(socket) => return Connection { output: Stream::of(socket.try_clone().unwrap()), socket },
                Err(error) => assert!(Instant::now() < end, "{}: {error}", path.display()),
            }
            thread::sleep(AGAIN);
        }
    }
}

/// Prints the launcher's words when an expectation fails.
struct Hint<'a>(&'a Stream);

impl Drop for Hint<'_> {
    fn drop(&mut self) {
        eprintln!("the launcher said:\n{}", self.0.text());
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let artefact = |kind: &str, content: &[u8]| self.rig.artefact(&format!("{}.{kind}", self.name), content);
            artefact("console", &self.console.bytes());
            artefact("stderr", &self.said.bytes());
            if !self.over {
                for (kind, arguments) in [
                    ("events", ["events", &self.name, "--json"]),
                    ("inspect", ["inspect", &self.name, "--json"]),
                    ("sandbox", ["inspect", &self.name, "--sandbox"]),
                ] {
                    let output = self.rig.command(arguments).output();
                    artefact(kind, &output.map(|output| output.stdout).unwrap_or_default());
                }
            }
        }
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

/// A connection to a console's socket.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// What the guest prints.
    pub output: Stream,
}

impl Connection {
    /// Sends bytes to the guest.
    ///
    /// # Panics
    /// The other side is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Whether this test, and so every launcher that it starts, was told to ignore a signal, as a shell tells what it starts in the
/// background. A launcher heeds that, so such a signal cannot be tested; says so.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let ignored = mask & (1 << (signal.as_raw() - 1)) != 0;
    if ignored {
        println!("skipped: {signal:?} is ignored here");
    }
    ignored
}

/// Whether a process runs (a zombie does not).
#[must_use]
pub fn runs(pid: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = status.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
