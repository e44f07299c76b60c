//! What the benchmarks share: a guest's console with a clock, and medians.
//!
//! Every benchmark runs Atoll and its peer in turn, so that what else happens on the machine meets both, and prints ratios.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program whose standard output is a guest's console; killed when dropped.
pub struct Console {
    child: Child,
    started: Instant,
    seen: Vec<u8>,
}

impl Console {
    /// Start `command`, clock running.
    pub fn start(command: &mut Command) -> Result<Console> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Ok(Console { child: child.with_context(|| format!("start {name}"))?, started, seen: Vec::new() })
    }

    /// Time from the start until `text` stood on the console.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        let out = self.child.stdout.as_mut().context("the console is piped")?;
        let mut part = [0; 4096];
        while self.started.elapsed() < limit {
            let n = out.read(&mut part)?;
            if n == 0 {
                bail!("the console ended; its last words: {}", tail(&self.seen));
            }
            self.seen.extend_from_slice(&part[..n]);
            if self.seen.windows(text.len()).any(|w| w == text.as_bytes()) {
                return Ok(self.started.elapsed());
            }
        }
        bail!("'{text}' did not come within {} s; the last words: {}", limit.as_secs(), tail(&self.seen))
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
