//! The lines that processes write to their descriptor 2, on their way to the keeper's own.
//!
//! Writers are hostile: a line is bounded, made printable, and prefixed with who wrote it; who writes too much loses
//! lines, which are counted. Reader of nobody: if nobody takes what the keeper writes, lines are dropped and counted
//! too, because nothing may wait for a log.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, open};
use rustix::io::Errno;

/// Longest line; a longer one becomes several.
const LINE: usize = 1024;
/// Lines that a process may write at once, and per second in the long run.
const BURST: u32 = 1000;
const PER_SECOND: u32 = 200;
/// Lines that must be earned before a process that was cut off is heard again, so that it is not cut off line by line.
const RESUME: u32 = 50;
/// Of the lines that are cut off, the last are printed when the process ends: they say why.
const LAST_WORDS: usize = 8;
/// Bytes that wait for the reader of the keeper's descriptor 2.
const QUEUE: usize = 256 * 1024;
/// A pipe that polls writable takes this much without blocking (pipe(7), PIPE_BUF), and a socket more.
const ATOMIC: usize = 4096;

/// How descriptor 2 can be written without ever waiting. It is shared with others, so its own flags must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Opened anew as non-blocking; or a regular file.
    Write,
    /// A socket, or a terminal of somebody else: ask first, and write little.
    PollThenWrite,
}

/// The keeper's own descriptor 2.
#[derive(Debug)]
pub struct Sink {
    fd: Option<OwnedFd>,
    way: Way,
    queue: Vec<u8>,
    lost: u64,
}

impl Sink {
    pub fn standard_error() -> Self {
        let stderr = std::io::stderr();
        let shared = || stderr.as_fd().try_clone_to_owned().ok();
        let kind = fstat(&stderr).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let (fd, way) = match kind {
            // A file is not opened anew: the others' writes go by the shared position.
            Ok(FileType::RegularFile) => (shared(), Way::Write),
            _ => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match open("/proc/self/fd/2", flags, Mode::empty()) {
                    Ok(fd) => (Some(fd), Way::Write),
                    Err(_) => (shared(), Way::PollThenWrite),
                }
            }
        };
        Self { fd, way, queue: Vec::new(), lost: 0 }
    }

    /// Queues a line and writes what can be written.
    pub fn line(&mut self, label: &str, text: &str) {
        if self.queue.len() + label.len() + text.len() + 3 > QUEUE {
            self.flush();
        }
        if self.queue.len() + label.len() + text.len() + 3 > QUEUE {
            self.lost += 1;
            return;
        }
        for part in [label, ": ", text, "\n"] {
            self.queue.extend_from_slice(part.as_bytes());
        }
        self.flush();
    }

    /// The descriptor, while something waits for it to become writable.
    pub fn waits(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Writes what can be written without waiting.
    pub fn flush(&mut self) {
        let Some(fd) = &self.fd else { return self.queue.clear() };
        let mut written = 0;
        while let Some(rest) = self.queue.get(written..).filter(|rest| !rest.is_empty()) {
            let piece = rest.get(..ATOMIC).unwrap_or(rest);
            let result = match self.way {
                Way::Write => rustix::io::write(fd, piece),
                Way::PollThenWrite => {
                    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                    match poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&now)) {
                        Ok(1) => rustix::io::write(fd, piece),
                        _ => break,
                    }
                }
            };
            match result {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody will ever read it.
                Err(_) => {
                    self.fd = None;
                    return self.queue.clear();
                }
            }
        }
        self.queue.drain(..written);
        if self.queue.is_empty() && self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.line("keeper", &format!("{lost} lines were dropped, since nobody took them from this log"));
        }
    }

    /// Gives the reader a last chance before the end.
    pub fn finish(&mut self) {
        self.flush();
        if let Some(fd) = self.waits() {
            let limit = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            let _ = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&limit));
            self.flush();
        }
    }
}

/// Lines that may still be written: a bucket that fills with time.
#[derive(Debug)]
struct Budget {
    lines: u32,
    filled: Instant,
    spent: bool,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        let earned = (seconds * f64::from(PER_SECOND)) as u32;
        if earned > 0 {
            self.lines = self.lines.saturating_add(earned).min(BURST);
            self.filled = now;
        }
        self.spent = self.lines == 0 || (self.spent && self.lines < RESUME);
        if !self.spent {
            self.lines -= 1;
        }
        !self.spent
    }
}

/// The reading end of one process's descriptor 2.
#[derive(Debug)]
pub struct Source {
    pipe: Option<OwnedFd>,
    label: String,
    lines: Lines,
}

#[derive(Debug)]
struct Lines {
    partial: Vec<u8>,
    budget: Budget,
    suppressed: u64,
    last_words: VecDeque<String>,
}

impl Source {
    /// A pipe for a process: what the keeper reads, and the end that the process gets.
    pub fn pipe(label: String) -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        Ok((Self { pipe: Some(ours), label, lines: Lines::new(Instant::now()) }, theirs))
    }

    /// To poll; `None` once the process has closed its end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads one bounded piece; false when there is no more.
    pub fn read(&mut self, sink: &mut Sink) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut buffer = [0; ATOMIC];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => {
                self.pipe = None;
                false
            }
            Ok(count) => {
                let label = &self.label;
                self.lines.add(buffer.get(..count).unwrap_or_default(), Instant::now(), |line| sink.line(label, line));
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Err(_) => {
                self.pipe = None;
                false
            }
        }
    }

    /// Everything that is there, the beginning of a line included: for a process that has ended, or when the VM ends.
    pub fn drain(&mut self, sink: &mut Sink) {
        // Another process can hold the writing end, so the number of pieces is bounded: 1 MiB, the largest pipe of a user.
        let mut pieces = 256;
        while pieces > 0 && self.read(sink) {
            pieces -= 1;
        }
        let label = &self.label;
        self.lines.end(|line| sink.line(label, line));
    }
}

impl Lines {
    fn new(now: Instant) -> Self {
        let budget = Budget { lines: BURST, filled: now, spent: false };
        Self { partial: Vec::new(), budget, suppressed: 0, last_words: VecDeque::new() }
    }

    fn add(&mut self, bytes: &[u8], now: Instant, mut put: impl FnMut(&str)) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
            if *byte == b'\n' || self.partial.len() == LINE {
                self.complete(now, &mut put);
            }
        }
    }

    fn complete(&mut self, now: Instant, put: &mut impl FnMut(&str)) {
        let line = printable(&self.partial);
        self.partial.clear();
        if !self.budget.take(now) {
            self.last_words.push_back(line);
            if self.last_words.len() > LAST_WORDS {
                self.last_words.pop_front();
                self.suppressed += 1;
            }
            return;
        }
        self.catch_up(put);
        put(&line);
    }

    /// Says how many lines are missing, and the last of them.
    fn catch_up(&mut self, put: &mut impl FnMut(&str)) {
        if self.suppressed > 0 {
            put(&format!("({} lines were dropped: more than {PER_SECOND} a second)", self.suppressed));
            self.suppressed = 0;
        }
        self.last_words.drain(..).for_each(|line| put(&line));
    }

    fn end(&mut self, mut put: impl FnMut(&str)) {
        self.catch_up(&mut put);
        if !self.partial.is_empty() {
            put(&printable(&self.partial));
            self.partial.clear();
        }
    }
}

/// Text that cannot drive a terminal.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\t' => text.push(' '),
            '\r' => {}
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests;
