//! Counts the system calls of one process of a VM, and plants a fault at one of them.
//!
//! The idea: a tracer is a thread, and its end is the end of all tracing: the kernel lets everybody go on whom it held. So a fault is
//! planted, and the thread ends. A process that does not exist yet is waited for by tracing whoever will start it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use supervisor::core::faults::Fault;

use crate::plant::{needs_registers, plant};

/// Between two looks when nothing has happened.
const AGAIN: Duration = Duration::from_micros(30);

const CLOCK_GETTIME: u64 = 228;

/// Whose system calls count.
#[derive(Debug)]
pub enum Watch {
    /// Those of this process.
    Living(i32),
    /// Those of the next process of this binary that this one starts.
    Born {
        /// The keeper.
        of: i32,
        /// File name.
        binary: &'static str,
    },
    /// Those of the next process of this binary below this command, which is to start.
    Below {
        /// `atoll run` or `atoll restore`.
        command: Command,
        /// File name.
        binary: &'static str,
    },
}

/// The fault, and at which stop at a system call: its begin and its end are two.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// What.
    pub fault: Fault,
    /// When, from 1.
    pub at: u64,
    /// For [`plant`].
    pub choice: usize,
}

/// What a tracer has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Stops at system calls that were counted.
    pub stops: u64,
    /// The process into which the fault was planted.
    pub planted: Option<i32>,
    /// Every process that was traced.
    pub processes: BTreeSet<i32>,
}

/// A tracer at work.
#[derive(Debug)]
pub struct Trace {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

/// Why there is no tracer.
#[derive(Debug)]
pub struct NotAllowed(pub Errno);

impl Trace {
    /// Begins; everything is attached when this returns, with the command that was started.
    ///
    /// # Errors
    /// The kernel does not let this user trace these processes.
    ///
    /// # Panics
    /// The command cannot be started.
    pub fn begin(watch: Watch, order: Option<Order>) -> Result<(Self, Option<Child>), NotAllowed> {
        let (stop, (sender, ready)) = (Arc::new(AtomicBool::new(false)), channel());
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut tracer = Tracer { order, ..Tracer::default() };
            tracer.attach(watch, &sender);
            drop(sender);
            tracer.run(&stopped);
            tracer.report.processes = tracer.processes.values().map(|process| process.as_raw()).collect();
            tracer.report
        });
        let child = ready.recv().expect("the tracer says how it began").map_err(NotAllowed)?;
        Ok((Self { stop, thread }, child))
    }

    /// Whether the fault is planted, or there is nobody left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends tracing.
    ///
    /// # Panics
    /// The tracer has.
    #[must_use]
    pub fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the tracer's own failures are panics")
    }
}

/// Plants a fault into a thread of a process, chosen by `choice`, wherever it is.
///
/// # Errors
/// The kernel does not let this user trace it.
///
/// # Panics
/// The thread does not stop.
pub fn strike(process: i32, order: Order) -> Result<Report, NotAllowed> {
    let work = move || {
        let threads: Vec<i32> = threads_of(process);
        let Some(thread) = threads.get(order.choice % threads.len().max(1)) else { return Ok(Report::default()) };
        let thread = Pid::from_raw(*thread);
        ptrace::seize(thread, Options::empty()).map_err(NotAllowed)?;
        let interrupted = ptrace::interrupt(thread).and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)));
        let planted = interrupted.and_then(|_| plant(order.fault, Pid::from_raw(process), thread, order.choice, None));
        Ok(Report { planted: planted.is_ok().then_some(process), ..Report::default() })
    };
    thread::spawn(work).join().expect("the tracer's own failures are panics")
}

fn threads_of(process: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process that a thread belongs to.
fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    group.trim().parse().ok().map(Pid::from_raw)
}

/// The file name of a process's binary.
fn binary_of(process: Pid) -> Option<String> {
    let path = fs::read_link(format!("/proc/{process}/exe")).ok()?;
    path.file_name()?.to_str().map(str::to_owned)
}

#[derive(Default)]
struct Tracer {
    order: Option<Order>,
    report: Report,
    /// What the target is an instance of, while it is not there.
    binary: Option<&'static str>,
    target: Option<Pid>,
    /// The process of each thread that has been seen.
    processes: BTreeMap<Pid, Pid>,
    /// The thread whose system call was cancelled so that the fault can be planted behind it.
    cancelled: Option<Pid>,
    /// The registers with which it would make that call again.
    again: Option<libc::user_regs_struct>,
    /// Processes that are let go at their next stop.
    release: BTreeSet<Pid>,
}

impl Tracer {
    fn attach(&mut self, watch: Watch, ready: &Sender<nix::Result<Option<Child>>>) {
        let follow = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        let attached = match watch {
            Watch::Living(process) => {
                self.target = Some(Pid::from_raw(process));
                self.seize(process, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE).map(|()| None)
            }
            Watch::Born { of, binary } => {
                self.binary = Some(binary);
                self.seize(of, follow).map(|()| None)
            }
            Watch::Below { command, binary } => {
                self.binary = Some(binary);
                let child = stopped(command);
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
                // From here on it is known by what it becomes.
                let seized = ptrace::seize(pid, follow).and_then(|()| kill(pid, Signal::SIGCONT));
                seized.map(|()| Some(child))
            }
        };
        // Nobody listens any more if the test has failed.
        let _ = ready.send(attached);
    }

    /// Attaches to every thread of a process. Each has stopped and gone on when this returns, so that what it does next counts.
    fn seize(&mut self, process: i32, options: Options) -> nix::Result<()> {
        let threads: Vec<Pid> = threads_of(process).into_iter().map(Pid::from_raw).collect();
        for thread in &threads {
            ptrace::seize(*thread, options)?;
            ptrace::interrupt(*thread)?;
        }
        for thread in threads {
            let status = waitpid(thread, Some(WaitPidFlag::__WALL))?;
            // One that is gone meanwhile is nobody's failure.
            let _ = self.take(status);
        }
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        while self.report.planted.is_none() {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) if stop.load(Ordering::Relaxed) => return,
                Ok(WaitStatus::StillAlive) => thread::sleep(AGAIN),
                // A thread that is gone meanwhile will be told of.
                Ok(status) => _ = self.take(status),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, status: WaitStatus) -> nix::Result<()> {
        match status {
            WaitStatus::PtraceSyscall(thread) => self.system_call(thread),
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXEC) => self.executed(thread),
            WaitStatus::PtraceEvent(thread, ..) => self.go_on(thread, None),
            WaitStatus::Stopped(thread, signal) => self.go_on(thread, Some(signal)),
            _ => Ok(()),
        }
    }

    fn process(&mut self, thread: Pid) -> Option<Pid> {
        if let Some(process) = self.processes.get(&thread) {
            return Some(*process);
        }
        let process = process_of(thread)?;
        self.processes.insert(thread, process);
        Some(process)
    }

    /// A new program: the one that is waited for, or one that will not start it.
    fn executed(&mut self, thread: Pid) -> nix::Result<()> {
        let name = binary_of(thread).unwrap_or_default();
        if self.target.is_none() && self.binary == Some(&name) {
            self.target = Some(thread);
        }
        match name.as_str() {
            _ if self.target == Some(thread) => self.go_on(thread, None),
            "sh" | "atoll" => self.go_on(thread, None),
            // The keeper starts everybody else, so whoever has started it is of no interest any more.
            "keeper" => {
                let others: Vec<Pid> = self.processes.values().copied().filter(|process| *process != thread).collect();
                for process in others {
                    self.release.insert(process);
                    let _ = ptrace::interrupt(process);
                }
                self.go_on(thread, None)
            }
            _ => ptrace::detach(thread, None),
        }
    }

    fn go_on(&mut self, thread: Pid, signal: Option<Signal>) -> nix::Result<()> {
        let process = self.process(thread);
        if process.is_some_and(|process| self.release.contains(&process)) {
            return ptrace::detach(thread, signal);
        }
        if process.is_some() && process == self.target {
            ptrace::syscall(thread, signal)
        } else {
            ptrace::cont(thread, signal)
        }
    }

    /// The begin or the end of a system call of the target.
    fn system_call(&mut self, thread: Pid) -> nix::Result<()> {
        let begins = ptrace::syscall_info(thread)?.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
        let Some(target) = self.target else { return self.go_on(thread, None) };
        if self.process(thread) != Some(target) {
            return self.go_on(thread, None);
        }
        self.report.stops += 1;
        let keeper = binary_of(target).as_deref() == Some("keeper");
        if let Some(order) = self.order
            && (self.report.stops >= order.at || self.cancelled.is_some())
            && is_ready(order.fault, thread, keeper)
            // Who exits does not come back to be stopped.
            && !(order.fault == Fault::Stop && begins && exits(thread)?)
        {
            if begins && needs_registers(order.fault) {
                if self.cancelled.is_none() {
                    let mut registers = ptrace::getregs(thread)?;
                    // Before the instruction that makes the call, which is two bytes long.
                    let mut again = registers;
                    (again.rax, again.orig_rax, again.rip) = (registers.orig_rax, u64::MAX, registers.rip - 2);
                    self.again = Some(again);
                    // Every profile allows it, and it does nothing.
                    (registers.orig_rax, registers.rdi) = (CLOCK_GETTIME, u64::MAX);
                    ptrace::setregs(thread, registers)?;
                    self.cancelled = Some(thread);
                }
            } else if self.cancelled.is_none_or(|cancelled| cancelled == thread) {
                plant(order.fault, target, thread, order.choice, self.again)?;
                self.report.planted = Some(target.as_raw());
                return Ok(());
            }
        }
        self.go_on(thread, None)
    }
}

/// Whether a thread is as far as a fault needs it: only then is a call forbidden, or a panic caught. Everybody but the keeper has
/// inherited that one's filter.
fn is_ready(fault: Fault, thread: Pid, keeper: bool) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let filters: u32 = field("Seccomp_filters:").and_then(|filters| filters.parse().ok()).unwrap_or(0);
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    match fault {
        Fault::Forbidden => filters > u32::from(!keeper),
        // The keeper has no handler of traps; its filter comes after all that it does first.
        Fault::Panic if keeper => filters > 0,
        Fault::Panic => caught & 1 << (libc::SIGSYS - 1) != 0,
        Fault::Kill | Fault::Stop | Fault::Hang => true,
    }
}

/// Whether the system call that a thread begins ends its process.
fn exits(thread: Pid) -> nix::Result<bool> {
    Ok(ptrace::getregs(thread)?.orig_rax.cast_signed() == libc::SYS_exit_group)
}

/// Starts a command that stands still until it is told to go on.
fn stopped(command: Command) -> Child {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let pipe = std::process::Stdio::piped;
    let child = shell.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let flags = WaitPidFlag::WUNTRACED;
    while !matches!(waitpid(pid, Some(flags)), Ok(WaitStatus::Stopped(..))) {}
    child
}
