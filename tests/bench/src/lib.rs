//! What the benchmarks share: a guest's console with a clock, machines to compare, and figures.
//!
//! Every benchmark runs Atoll and its peer in turn, so that what else happens on the machine meets both, and prints ratios.

pub mod figures;
pub mod machines;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program whose standard output is a guest's console; killed when dropped.
pub struct Console {
    child: Child,
    started: Instant,
    /// What came, and when. A thread reads, so that a silent guest does not keep anybody beyond a limit.
    parts: Receiver<(Instant, Vec<u8>)>,
    seen: Vec<u8>,
}

impl Console {
    /// Start `command`, clock running.
    pub fn start(command: &mut Command) -> Result<Console> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("start {name}"))?;
        let mut out = child.stdout.take().context("the console is piped")?;
        let (sender, parts) = channel();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut part) {
                if sender.send((Instant::now(), part[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Console { child, started, parts, seen: Vec::new() })
    }

    /// Time from the start until `text` stood on the console.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        self.until(text, limit, |seen| seen.windows(text.len()).any(|w| w == text.as_bytes()))
    }

    /// Time from the start until a line that starts with `text` was complete.
    pub fn expect_line(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        self.until(text, limit, |seen| {
            let lines = seen.split_inclusive(|byte| *byte == b'\n');
            lines.into_iter().any(|line| line.starts_with(text.as_bytes()) && line.ends_with(b"\n"))
        })
    }

    fn until(&mut self, text: &str, limit: Duration, is_there: impl Fn(&[u8]) -> bool) -> Result<Duration> {
        let end = self.started + limit;
        // If it came together with what was waited for before.
        let mut at = self.started.elapsed();
        while !is_there(&self.seen) {
            match self.parts.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((when, part)) => {
                    at = when - self.started;
                    self.seen.extend(part);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the console ended; its last words: {}", tail(&self.seen))
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("'{text}' did not come within {} s; the last words: {}", limit.as_secs(), tail(&self.seen))
                }
            }
        }
        Ok(at)
    }

    /// Everything that came so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(300)..]).into_owned()
}

/// The median, in seconds.
pub fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

/// The path of program `name`, if it is installed.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Console {
        Console::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn what_is_expected_is_found_whenever_it_came() {
        let mut console = shell("printf 'one\\ntwo 2'; sleep 0.2; printf '3\\n'; sleep 60");
        let one = console.expect("one", Duration::from_secs(60)).unwrap();
        let two = console.expect_line("two", Duration::from_secs(60)).unwrap();
        assert!(two >= one + Duration::from_millis(100), "{one:?} {two:?}");
        assert!(console.text().contains("two 23"));
        console.expect("one", Duration::ZERO).unwrap();
    }

    #[test]
    fn a_silent_console_and_one_that_ends_are_errors() {
        let silent = shell("sleep 60").expect("x", Duration::from_millis(50)).unwrap_err();
        assert!(silent.to_string().contains("did not come"), "{silent}");
        let ended = shell("echo y").expect("x", Duration::from_secs(60)).unwrap_err();
        assert!(ended.to_string().contains("last words: y"), "{ended}");
    }
}
