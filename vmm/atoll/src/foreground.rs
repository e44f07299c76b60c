//! The launcher while its VM runs: the terminal on one side, the guest's serial port on the other, and the VM's end.
//!
//! One thread, one `poll`. Bytes are copied as they are, and read only where there is room to put them: a guest whose output
//! nobody takes is stopped by its own serial port, as on a real line. Signals are descriptors too, so every way out restores
//! the terminal. The VM ends by letting go of the keeper's link; if that is not enough, the keeper is killed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use link::{Inbox, Link};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use spawn::{Child, Exit};

use crate::escape::{Escape, HELP, Order};
use crate::output::Output;
use crate::report::{self, Report};
use crate::terminal::Raw;

/// Bytes in one read.
const CHUNK: usize = 4096;
/// Bytes of the guest's output that may wait for standard output.
const OUTPUT_ROOM: usize = 64 * 1024;
/// Bytes of log that may wait for standard error; the keeper counts what it has to drop beyond.
const LOG_ROOM: usize = 64 * 1024;
/// How long the keeper may take to end once its launcher has let go.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Signals that end the VM.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// The keeper's end; `None` if it could not be had.
    pub exit: Option<Exit>,
    /// The supervisor's last report.
    pub report: Option<Report>,
    /// Why the launcher ended it, if it did.
    pub left: Option<Left>,
}

/// Why the launcher ends a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The escape key.
    Key,
    /// A signal.
    Signal(i32),
    /// Standard output takes nothing any more, which is what SIGPIPE stands for.
    Output,
}

/// Blocks the signals, and gives them as a descriptor. Those that the caller was told to ignore (nohup) stay ignored.
///
/// # Errors
/// The kernel's.
pub fn signals() -> io::Result<SignalFd> {
    let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let mut mask = SigSet::empty();
    for signal in ENDING.into_iter().filter(|signal| ignored & (1 << (*signal as u32 - 1)) == 0) {
        mask.add(signal);
    }
    mask.add(Signal::SIGCONT);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// The field SigIgn of /proc/PID/status (proc(5)).
fn ignored_signals(status: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Everything that the relay has.
pub struct Foreground<'a> {
    keeper: &'a Child,
    signals: SignalFd,
    /// Let go to end the VM.
    link: Option<Link>,
    report: Option<Link>,
    inbox: Inbox,
    last_report: Option<Report>,
    /// Standard input, until its end.
    input: Option<BorrowedFd<'a>>,
    escape: Option<Escape>,
    raw: Option<Raw>,
    /// The guest's serial port, to read from; its end comes with the VM's.
    console: Option<UnixStream>,
    to_guest: Option<Output>,
    log: Option<OwnedFd>,
    out: Output,
    err: Output,
    left: Option<(Left, Instant)>,
    exit: Option<Exit>,
    /// The keeper is dead: what is under way is still delivered.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Signals,
    Keeper,
    Report,
    Input,
    Console,
    ToGuest,
    Log,
    Out,
    Err,
}

/// What the relay takes over.
pub struct Parts<'a> {
    pub keeper: &'a Child,
    pub signals: SignalFd,
    pub link: Link,
    pub report: Link,
    pub console: Option<UnixStream>,
    pub log: Option<OwnedFd>,
    /// Standard input or what stands for it.
    pub input: BorrowedFd<'a>,
    pub output: BorrowedFd<'a>,
    pub error: BorrowedFd<'a>,
    pub raw: Option<Raw>,
}

impl<'a> Foreground<'a> {
    /// # Errors
    /// Descriptors cannot be copied.
    pub fn new(parts: Parts<'a>) -> io::Result<Self> {
        let to_guest =
            parts.console.as_ref().map(|console| console.try_clone().map(|copy| Output::socket(copy.into())));
        Ok(Self {
            keeper: parts.keeper,
            signals: parts.signals,
            link: Some(parts.link),
            report: Some(parts.report),
            inbox: Inbox::new(),
            last_report: None,
            input: parts.console.is_some().then_some(parts.input),
            escape: parts.raw.is_some().then(Escape::default),
            raw: parts.raw,
            to_guest: to_guest.transpose()?,
            console: parts.console,
            log: parts.log,
            out: Output::shared(parts.output)?,
            err: Output::shared(parts.error)?,
            left: None,
            exit: None,
            over: false,
        })
    }

    /// Until the VM has ended and everything it said is delivered.
    ///
    /// # Errors
    /// `poll` fails, which nothing here can cause.
    pub fn run(mut self) -> io::Result<Ended> {
        while !self.finished() {
            for watched in self.wait()? {
                self.handle(watched);
            }
            self.push_on();
        }
        // Best effort after the user has left: what is taken at once.
        let _ = self.out.flush();
        let _ = self.err.flush();
        Ok(Ended { exit: self.exit, report: self.last_report, left: self.left.map(|(left, _)| left) })
    }

    fn finished(&self) -> bool {
        let silent = self.console.is_none() && self.log.is_none() && self.report.is_none();
        let delivered = self.out.waiting() == 0 && self.err.waiting() == 0;
        self.over && (self.left.is_some() || silent && delivered)
    }

    fn wait(&self) -> io::Result<Vec<Watched>> {
        let room = self.to_guest.as_ref().is_some_and(|output| output.waiting() == 0) && !self.over;
        let console = self.console.as_ref().filter(|_| self.out.waiting() < OUTPUT_ROOM);
        let to_guest = self.to_guest.as_ref().filter(|output| output.waiting() > 0);
        let log = self.log.as_ref().filter(|_| self.err.waiting() < LOG_ROOM);
        let all: [(Watched, Option<BorrowedFd<'_>>, PollFlags); 9] = [
            (Watched::Signals, Some(self.signals.as_fd()), PollFlags::IN),
            (Watched::Keeper, (!self.over).then(|| self.keeper.pidfd()), PollFlags::IN),
            (Watched::Report, self.report.as_ref().map(Link::as_fd), PollFlags::IN),
            (Watched::Input, self.input.filter(|_| room), PollFlags::IN),
            (Watched::Console, console.map(AsFd::as_fd), PollFlags::IN),
            (Watched::ToGuest, to_guest.map(Output::fd), PollFlags::OUT),
            (Watched::Log, log.map(AsFd::as_fd), PollFlags::IN),
            (Watched::Out, Some(self.out.fd()).filter(|_| self.out.waiting() > 0), PollFlags::OUT),
            (Watched::Err, Some(self.err.fd()).filter(|_| self.err.waiting() > 0), PollFlags::OUT),
        ];
        let all = all.into_iter().filter_map(|(watched, fd, flags)| Some((watched, fd?, flags)));
        let all: Vec<_> = all.collect();

        let deadline = self.left.map(|(_, since)| since + END_PATIENCE).filter(|_| !self.over);
        let left = deadline.and_then(|end| Timespec::try_from(end.saturating_duration_since(Instant::now())).ok());
        let mut fds: Vec<_> = all.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, left.as_ref()) {
            Ok(0) if deadline.is_some() => {
                let _ = self.keeper.kill();
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = all.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((watched, ..), _)| *watched).collect())
    }

    fn handle(&mut self, watched: Watched) {
        match watched {
            Watched::Signals => self.signalled(),
            Watched::Keeper => {
                // It is dead by the descriptor's word; what could fail is somebody else's reaping.
                self.exit = self.keeper.wait(Some(Duration::ZERO)).ok().flatten();
                self.over = true;
                self.link = None;
                self.to_guest = None;
            }
            Watched::Report => self.reported(),
            Watched::Input => self.typed(),
            Watched::Console => self.printed(),
            Watched::Log => self.logged(),
            // Done by `push_on`.
            Watched::ToGuest | Watched::Out | Watched::Err => {}
        }
    }

    /// Writes what waits, as far as it is taken.
    fn push_on(&mut self) {
        if self.to_guest.as_mut().is_some_and(|output| output.flush().is_err()) {
            self.to_guest = None;
        }
        if self.out.flush().is_err() {
            self.out.forget();
            self.leave(Left::Output);
        }
        if self.err.flush().is_err() {
            self.err.forget();
        }
    }

    /// Ends the VM.
    fn leave(&mut self, why: Left) {
        self.link = None;
        if self.left.is_none() {
            self.left = Some((why, Instant::now()));
        }
    }

    fn signalled(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            if number == Signal::SIGCONT as i32 {
                if let Some(raw) = &self.raw {
                    let _ = raw.again();
                }
            } else if self.left.is_some() {
                // Asked for twice: at once.
                let _ = self.keeper.kill();
            } else {
                self.leave(Left::Signal(number));
            }
        }
    }

    fn reported(&mut self) {
        let Some(link) = &self.report else { return };
        match report::next(link, &mut self.inbox) {
            Ok(None) => {}
            Ok(Some(report)) => self.last_report = Some(report),
            Err(error) => {
                if !error.is_peer_gone() {
                    self.say(&format!("atoll: a report of the supervisor cannot be read: {error}\n"));
                }
                self.report = None;
            }
        }
    }

    fn typed(&mut self) {
        let Some(input) = self.input else { return };
        let mut buffer = [0; CHUNK];
        let count = match rustix::io::read(input, &mut buffer) {
            Ok(count @ 1..) => count,
            Err(Errno::INTR | Errno::AGAIN) => return,
            // The end of the input is not that of the VM.
            Ok(0) | Err(_) => {
                self.input = None;
                return;
            }
        };
        let mut bytes = Vec::with_capacity(count);
        let mut rest = &buffer[..count];
        match &mut self.escape {
            None => bytes.extend_from_slice(rest),
            Some(_) => {
                while !rest.is_empty() {
                    let Some(escape) = &mut self.escape else { break };
                    let (taken, order) = escape.take(rest, &mut bytes);
                    rest = &rest[taken..];
                    match order {
                        Some(Order::Leave) => {
                            self.leave(Left::Key);
                            break;
                        }
                        Some(Order::Help) => self.say(HELP),
                        None => {}
                    }
                }
            }
        }
        if let Some(output) = &mut self.to_guest {
            output.push(&bytes);
        }
    }

    fn printed(&mut self) {
        let Some(console) = &self.console else { return };
        let mut buffer = [0; CHUNK];
        match rustix::io::read(console, &mut buffer) {
            Ok(count @ 1..) => self.out.push(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.console = None,
        }
    }

    fn logged(&mut self) {
        let Some(log) = &self.log else { return };
        let mut buffer = [0; CHUNK];
        match rustix::io::read(log, &mut buffer) {
            Ok(count @ 1..) => {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                self.say(&text);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.log = None,
        }
    }

    /// To standard error; a raw terminal needs its carriage returns.
    fn say(&mut self, text: &str) {
        match self.raw {
            Some(_) => self.err.push(text.replace('\n', "\r\n").as_bytes()),
            None => self.err.push(text.as_bytes()),
        }
    }
}

impl std::fmt::Debug for Foreground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the relay of a VM")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_ignored() {
        assert_eq!(ignored_signals("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), 0x1001);
        assert_eq!(ignored_signals(""), 0);
    }
}
