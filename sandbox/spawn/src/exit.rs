//! How a process ended, in one sentence.
//!
//! The kernel says "code" or "signal"; the code's meaning is a convention of `enter::exit`; the details are on the status
//! page, which the dead process wrote. What the page says is used only where it agrees with what the kernel says.

#![expect(unsafe_code, reason = "waitid on a pidfd: nix rejects real-time signals")]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;
use std::{fmt, io};

use enter::exit::{EXIT_ABORT, EXIT_CLEAN, EXIT_LOST_PEER, EXIT_OUT_OF_MEMORY, EXIT_PANIC, EXIT_SECCOMP};
use enter::status::{CauseKind, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use profile::syscalls;

/// What the kernel says about a process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// It was killed.
    Signal {
        /// By this signal.
        number: i32,
        /// And dumped core.
        core: bool,
    },
}

/// Waits for the process of `pidfd` and reaps it. `None` if it still runs after `timeout`; no timeout waits for ever, and
/// a timeout of zero only looks.
///
/// # Errors
/// The descriptor is no pidfd of a child of this process, or the child has been reaped already.
pub fn wait(pidfd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Option<Exit>> {
    let limit = match timeout {
        None => PollTimeout::NONE,
        Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
    };
    loop {
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` has room for the answer, which is zeroed before and so valid in any case; the accessors read fields
    // that waitid fills in.
    unsafe {
        let id = pidfd.as_raw_fd().cast_unsigned();
        if libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) != 0 {
            return Err(io::Error::last_os_error());
        }
        let info = info.assume_init();
        let status = info.si_status();
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            code => Exit::Signal { number: status, core: code == libc::CLD_DUMPED },
        }))
    }
}

/// Where a fault struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address that was touched.
    pub address: u64,
    /// The instruction that did it.
    pub instruction: u64,
    /// The address is just below the stack pointer's page: the stack has overflowed.
    pub stack_overflow: bool,
}

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// As asked.
    Clean,
    /// An error of its own.
    Error {
        /// The exit code.
        code: i32,
        /// What it said, if it said anything.
        text: Option<String>,
    },
    /// A panic.
    Panic {
        /// What it said.
        text: Option<String>,
    },
    /// A signal.
    Signal {
        /// Its number.
        number: i32,
        /// Whether core was dumped.
        core: bool,
        /// Where, if it was a fault that the process could record.
        fault: Option<Fault>,
    },
    /// A system call outside its profile: an attack, or a profile that lacks an entry.
    Trapped {
        /// The call's number, unless the process could not record it.
        call: Option<i64>,
        /// The address of the instruction.
        instruction: u64,
        /// The thread.
        thread: u32,
    },
    /// A peer that it cannot do without is gone.
    LostPeer {
        /// Which, if it said so.
        peer: Option<String>,
    },
    /// Its fixed arena is exhausted.
    OutOfMemory {
        /// The allocation that found no room, in bytes.
        bytes: Option<u64>,
    },
    /// `abort` was called.
    Aborted,
}

impl ExitCause {
    /// Joins what the kernel says with the status page of the dead process.
    pub fn decode(exit: Exit, status: Option<&Status>) -> ExitCause {
        // The record of another kind of end than the code's is not believed.
        let said = |kind: CauseKind| status.filter(|status| status.cause == kind);
        let text = |kind| said(kind).map(|status| status.text.clone()).filter(|text| !text.is_empty());
        match exit {
            Exit::Code(EXIT_CLEAN) => ExitCause::Clean,
            Exit::Code(EXIT_PANIC) => ExitCause::Panic { text: text(CauseKind::Panic) },
            Exit::Code(EXIT_SECCOMP) => {
                let trap = said(CauseKind::Trap);
                ExitCause::Trapped {
                    call: trap.map(|status| status.number.cast_signed()),
                    instruction: trap.map_or(0, |status| status.instruction),
                    thread: trap.map_or(0, |status| status.thread),
                }
            }
            Exit::Code(EXIT_LOST_PEER) => ExitCause::LostPeer { peer: text(CauseKind::LostPeer) },
            Exit::Code(EXIT_OUT_OF_MEMORY) => {
                ExitCause::OutOfMemory { bytes: said(CauseKind::OutOfMemory).map(|status| status.number) }
            }
            Exit::Code(EXIT_ABORT) => ExitCause::Aborted,
            // A signal that somebody sent to a process that handles it (see enter's fault handler).
            Exit::Code(code) => match said(CauseKind::Fault) {
                Some(status) if i64::from(code) == 128 + i64::from(status.signal) => {
                    ExitCause::Signal { number: status.signal.cast_signed(), core: false, fault: None }
                }
                _ => ExitCause::Error { code, text: text(CauseKind::Error) },
            },
            // The filter kills for another architecture's calls, and where SIGSYS cannot be handled.
            Exit::Signal { number: libc::SIGSYS, .. } => ExitCause::Trapped { call: None, instruction: 0, thread: 0 },
            Exit::Signal { number, core } => {
                let recorded = said(CauseKind::Fault).filter(|status| status.signal.cast_signed() == number);
                ExitCause::Signal { number, core, fault: recorded.map(fault) }
            }
        }
    }

    /// Whether this end is a sign of an attack rather than of a defect.
    pub fn is_attack(&self) -> bool {
        matches!(self, ExitCause::Trapped { .. })
    }
}

fn fault(status: &Status) -> Fault {
    const PAGE: u64 = 4096;
    Fault {
        address: status.address,
        instruction: status.instruction,
        stack_overflow: status.signal == libc::SIGSEGV as u32 && status.stack.abs_diff(status.address) < 2 * PAGE,
    }
}

/// `SIGKILL`, or `signal 34` for one without a name.
fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

impl fmt::Display for ExitCause {
    /// The predicate of a sentence whose subject is the process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitCause::Clean => f.write_str("ended as asked"),
            ExitCause::Error { code, text: Some(text) } => write!(f, "ended with an error (exit code {code}): {text}"),
            ExitCause::Error { code, text: None } => write!(f, "ended with exit code {code}; see its log"),
            ExitCause::Panic { text: Some(text) } => write!(f, "panicked: {text}"),
            ExitCause::Panic { text: None } => f.write_str("panicked; see its log"),
            ExitCause::Signal { number, core, fault } => {
                write!(f, "was killed by {}", signal_name(*number))?;
                if let Some(fault) = fault {
                    write!(f, " at address {:#x} (instruction {:#x})", fault.address, fault.instruction)?;
                    f.write_str(if fault.stack_overflow { ", which looks like a stack overflow" } else { "" })?;
                }
                f.write_str(if *core { ", core dumped" } else { "" })
            }
            ExitCause::Trapped { call: Some(call), instruction, thread } => write!(
                f,
                "made the forbidden system call {} in thread {thread} at {instruction:#x} and was ended; treat it as an \
                 attack, unless its profile lacks the call",
                syscalls::describe(*call)
            ),
            ExitCause::Trapped { call: None, .. } => f.write_str(
                "made a forbidden system call that it could not record and was ended; treat it as an attack",
            ),
            ExitCause::LostPeer { peer: Some(peer) } => write!(f, "ended because its peer is gone: {peer}"),
            ExitCause::LostPeer { peer: None } => f.write_str("ended because a peer is gone"),
            ExitCause::OutOfMemory { bytes: Some(bytes) } => {
                write!(f, "ran out of its fixed memory (for an allocation of {bytes} bytes); enlarge its arena")
            }
            ExitCause::OutOfMemory { bytes: None } => f.write_str("ran out of its fixed memory; enlarge its arena"),
            ExitCause::Aborted => f.write_str("aborted; see its log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use enter::status::StatusPage;

    use super::*;

    fn status(cause: CauseKind) -> Status {
        Status { cause, text: "the text".to_owned(), number: 257, thread: 5, ..StatusPage::new().snapshot() }
    }

    #[test]
    fn each_code_has_its_cause_and_a_page_that_disagrees_is_ignored() {
        let trap = status(CauseKind::Trap);
        let cause = ExitCause::decode(Exit::Code(EXIT_SECCOMP), Some(&trap));
        assert!(cause.to_string().contains("openat (257) in thread 5"), "{cause}");
        assert!(cause.is_attack());

        assert_eq!(ExitCause::decode(Exit::Code(EXIT_PANIC), Some(&trap)), ExitCause::Panic { text: None });
        assert_eq!(ExitCause::decode(Exit::Code(0), Some(&trap)), ExitCause::Clean);
        let error = ExitCause::decode(Exit::Code(9), Some(&status(CauseKind::Error)));
        assert_eq!(error.to_string(), "ended with an error (exit code 9): the text");
        let memory = ExitCause::decode(Exit::Code(EXIT_OUT_OF_MEMORY), Some(&status(CauseKind::OutOfMemory)));
        assert_eq!(memory, ExitCause::OutOfMemory { bytes: Some(257) });
        let killed = ExitCause::decode(Exit::Signal { number: 9, core: false }, Some(&trap));
        assert_eq!(killed.to_string(), "was killed by SIGKILL");
        let real_time = ExitCause::decode(Exit::Signal { number: 40, core: false }, None);
        assert_eq!(real_time.to_string(), "was killed by signal 40");
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped through its pidfd")]
    fn a_child_is_waited_for_by_pidfd() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x; exit 7"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a shell exists");
        // SAFETY: pidfd_open takes numbers and returns a new descriptor.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            assert!(fd >= 0);
            <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd as i32)
        };
        assert_eq!(wait(pidfd.as_fd(), Some(Duration::ZERO)).expect("a child"), None);
        drop(child.stdin.take());
        assert_eq!(wait(pidfd.as_fd(), None).expect("a child"), Some(Exit::Code(7)));
    }
}
