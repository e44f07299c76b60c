//! The loop: who has ended, what the supervisor asks, what processes log. Nothing in it waits for anybody but `ppoll`
//! (and a start, which takes milliseconds and whose steps no other process can delay).

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use enter::status::Status;
use keeper_protocol::{
    BeginFlags, Cause, CauseKind, Exited, Hello, HelloFlags, ProcessEntry, ProcessId, ProcessState, ProtocolError,
    Refusal, RefusalCode, Reply, Request, SUPERVISOR_BINARY, SUPERVISOR_STATUS_SLOT, encode_exited, encode_held_table,
    encode_hello, encode_process_table, encode_refusal, encode_reply, exit_status, wire::Header,
};
use link::{Inbox, Link, LinkError, Peer};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use spawn::{Exit, ExitCause, Spawner};

use crate::logs::Sink;
use crate::requests::{self, Outcome};
use crate::seat::{Next, Restarts, Seat, Supervisor};
use crate::start::Vm;
use crate::table::{State, Table, refused};

/// Requests taken from the supervisor before the others have their turn.
const REQUESTS_PER_TURN: usize = 16;

/// How the keeper ends.
#[derive(Debug)]
pub struct End {
    pub status: u8,
    /// Unless it was asked for.
    pub why: Option<String>,
}

/// Everything that the keeper has.
pub struct Keeper<'a> {
    vm: Vm,
    table: Table,
    spawner: Spawner,
    seat: Seat,
    restarts: Restarts,
    incarnation: u32,
    last_end: String,
    sink: &'a mut Sink,
    signals: SignalFd,
    inbox: Inbox,
}

/// What `ppoll` watches.
#[derive(Clone, Copy, Debug)]
enum Watched {
    Signals,
    Launcher,
    Supervisor,
    SupervisorLog,
    Log(ProcessId),
    Sink,
}

impl<'a> Keeper<'a> {
    pub fn new(mut vm: Vm, sink: &'a mut Sink, signals: SignalFd) -> anyhow::Result<Self> {
        Ok(Self {
            table: Table::new(std::mem::take(&mut vm.held), vm.capacity),
            vm,
            spawner: Spawner::new()?,
            seat: Seat::Empty { due: Instant::now() },
            restarts: Restarts::default(),
            incarnation: 0,
            last_end: String::new(),
            sink,
            signals,
            inbox: Inbox::new(),
        })
    }

    /// Runs until the end of the VM.
    pub fn run(&mut self, launcher: Link) -> anyhow::Result<End> {
        let launcher = self.vm.flags.contains(BeginFlags::FOREGROUND).then_some(launcher);
        let end = loop {
            if let Some(end) = self.turn(launcher.as_ref())? {
                break end;
            }
        };
        // Last words, as far as they are there already.
        if let Some(supervisor) = self.seat.supervisor() {
            supervisor.log.drain(self.sink);
        }
        for process in self.table.processes_mut() {
            if let State::Running { log, .. } = &mut process.state {
                log.drain(self.sink);
            }
        }
        Ok(end)
    }

    fn turn(&mut self, launcher: Option<&Link>) -> anyhow::Result<Option<End>> {
        if let Seat::Empty { due } = self.seat
            && due <= Instant::now()
            && let Err(error) = self.start_supervisor()
            && let Some(end) = self.supervisor_ended(Duration::ZERO, format!("supervisor: {error:#}"))
        {
            return Ok(Some(end));
        }
        self.flush();
        for watched in self.wait(launcher)? {
            let end = match watched {
                Watched::Signals => self.signalled()?,
                Watched::Launcher => Some(End {
                    status: exit_status::LAUNCHER_GONE,
                    why: Some("it ran in the foreground and its launcher is gone".into()),
                }),
                Watched::Supervisor => self.requests(),
                Watched::SupervisorLog => {
                    if let Some(supervisor) = self.seat.supervisor() {
                        supervisor.log.read(self.sink);
                    }
                    None
                }
                Watched::Log(id) => {
                    if let Some(State::Running { log, .. }) = self.table.process_mut(id).map(|p| &mut p.state) {
                        log.read(self.sink);
                    }
                    None
                }
                // Every turn begins with writing what can be written.
                Watched::Sink => None,
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Waits for the first thing to do.
    fn wait(&self, launcher: Option<&Link>) -> anyhow::Result<Vec<Watched>> {
        let mut all = vec![(Watched::Signals, self.signals.as_fd(), PollFlags::IN)];
        // No flags: only the end of the launcher's link counts.
        all.extend(launcher.map(|link| (Watched::Launcher, link.as_fd(), PollFlags::empty())));
        let due = match &self.seat {
            Seat::Empty { due } => Some(*due),
            Seat::Taken(supervisor, _) => {
                all.extend(supervisor.log.fd().map(|fd| (Watched::SupervisorLog, fd, PollFlags::IN)));
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, supervisor.takes_answers());
                flags.set(PollFlags::OUT, supervisor.has_queued());
                all.extend(supervisor.link.as_ref().map(|link| (Watched::Supervisor, link.as_fd(), flags)));
                Some(supervisor.due())
            }
        };
        for (id, process) in self.table.processes() {
            if let State::Running { log, .. } = &process.state {
                all.extend(log.fd().map(|fd| (Watched::Log(id), fd, PollFlags::IN)));
            }
        }
        all.extend(self.sink.waits().map(|fd| (Watched::Sink, fd, PollFlags::OUT)));

        let left = due.and_then(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())).ok());
        let mut fds: Vec<_> = all.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for processes"),
        }
        let ready = all.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((watched, ..), _)| *watched).collect())
    }

    /// SIGTERM, or processes to be reaped.
    fn signalled(&mut self) -> anyhow::Result<Option<End>> {
        while let Some(signal) = self.signals.read_signal().context("reading signals")? {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                let why = Some("the keeper was sent SIGTERM".to_owned());
                return Ok(Some(End { status: exit_status::TERMINATED, why }));
            }
        }
        // Signals of one kind merge, so look for everybody who has ended; orphans of processes are among them.
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(end) = self.reaped(pid.as_raw_nonzero().get(), decode_status(status)) {
                        return Ok(Some(end));
                    }
                }
                Ok(None) | Err(Errno::CHILD) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("reaping processes"),
            }
        }
    }

    fn reaped(&mut self, pid: i32, exit: Exit) -> Option<End> {
        if let Seat::Taken(supervisor, since) = &self.seat
            && supervisor.child.pid() == pid
        {
            let lived = since.elapsed();
            let status = self.table.status_page(SUPERVISOR_STATUS_SLOT).map(|page| page.snapshot());
            let cause = ExitCause::decode(exit, status.as_ref());
            let end = format!("supervisor[{}] {cause}{}", supervisor.incarnation, supervisor.killed_for);
            return self.supervisor_ended(lived, end);
        }
        if let Some(id) = self.table.find_pid(pid.cast_unsigned()) {
            self.process_ended(id, exit);
        }
        None
    }

    /// What a process has said is joined with how it ended, kept, and told to the supervisor.
    fn process_ended(&mut self, id: ProcessId, exit: Exit) {
        let slot = self.table.process_mut(id).map(|process| process.entry.status_slot);
        let status = slot.and_then(|slot| self.table.status_page(slot)).map(|page| page.snapshot());
        let Some(process) = self.table.process_mut(id) else { return };
        let ProcessEntry { name, role, incarnation, .. } = process.entry;
        let exited = Exited { process: id, name, role, incarnation, cause: decode_cause(exit, status.as_ref()) };
        process.entry.state = ProcessState::Ended;
        let ended = std::mem::replace(&mut process.state, State::Ended(exited.clone()));
        if let State::Running { mut log, .. } = ended {
            log.drain(self.sink);
        }
        if exited.cause.kind != CauseKind::Clean {
            self.sink.line("keeper", &format!("{name}[{incarnation}] {}", exited.cause.text));
        }
        self.tell_exit(&exited);
    }

    fn tell_exit(&mut self, exited: &Exited) {
        let incarnation = self.incarnation;
        self.queue(None, |out| encode_exited(exited, incarnation, out));
    }

    /// Queues a message for the supervisor, if there is one.
    fn queue(&mut self, descriptor: Option<OwnedFd>, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), ProtocolError>) {
        let mut out = Vec::new();
        // Nothing that the keeper says is longer than a message may be.
        if let (Ok(()), Some(supervisor)) = (encode(&mut out), self.seat.supervisor()) {
            supervisor.queue(out, descriptor);
        }
    }

    /// Starts the next supervisor and queues everything that it must know. Returns its pid.
    pub fn start_supervisor(&mut self) -> anyhow::Result<u32> {
        let incarnation = self.incarnation + 1;
        let binary = self.table.newest(SUPERVISOR_BINARY).context("no supervisor's binary is held")?;
        let image = self.table.image(binary)?;
        let (ours, theirs) = Link::pair(Peer::new("keeper", 1), Peer::new("supervisor", incarnation))?;
        if let Some(page) = self.table.status_page(SUPERVISOR_STATUS_SLOT) {
            page.clear();
        }
        let (child, log) = requests::launch(&self.spawner, "supervisor", incarnation, &image, theirs.as_fd())?;
        let pid = child.pid().cast_unsigned();
        self.incarnation = incarnation;
        self.seat =
            Seat::Taken(Box::new(Supervisor::new(child, log, incarnation, ours, self.vm.patience)), Instant::now());

        let exits: Vec<Exited> =
            self.table.processes().filter_map(|(_, process)| process.state.exit()).cloned().collect();
        let mut flags = HelloFlags::empty();
        flags.set(HelloFlags::FOREGROUND, self.vm.flags.contains(BeginFlags::FOREGROUND));
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let hello = Hello {
            flags,
            held: count(self.table.held_entries().len()),
            processes: count(self.table.process_entries().len()),
            exits: count(exits.len()),
            fruitless_starts: self.restarts.fruitless(),
            uid: self.vm.uid,
            gid: self.vm.gid,
            vm: self.vm.name,
            last_end: self.last_end.clone(),
        };
        self.queue(None, |out| encode_hello(&hello, incarnation, out));
        self.queue_tables(0)?;
        for exited in &exits {
            self.tell_exit(exited);
        }
        Ok(pid)
    }

    fn queue_tables(&mut self, id: u64) -> Result<(), ProtocolError> {
        if let Seat::Taken(supervisor, _) = &mut self.seat {
            let incarnation = supervisor.incarnation;
            let mut queue = |bytes| -> Result<(), ProtocolError> {
                supervisor.queue(bytes, None);
                Ok(())
            };
            encode_held_table(self.table.held_entries(), id, incarnation, &mut queue)?;
            encode_process_table(self.table.process_entries(), id, incarnation, &mut queue)?;
        }
        Ok(())
    }

    /// The supervisor has ended or could not be started: another one, or the end of the VM.
    fn supervisor_ended(&mut self, lived: Duration, end: String) -> Option<End> {
        let next = self.restarts.ended(lived);
        let due = Instant::now() + if let Next::StartAfter(wait) = next { wait } else { Duration::ZERO };
        if let Seat::Taken(mut supervisor, _) = std::mem::replace(&mut self.seat, Seat::Empty { due }) {
            supervisor.log.drain(self.sink);
        }
        self.sink.line("keeper", &end);
        self.last_end = end;
        (next == Next::GiveUp).then(|| End {
            status: exit_status::GAVE_UP,
            why: Some(format!(
                "{} supervisors in a row ended before they worked; the last: {}",
                self.restarts.fruitless(),
                self.last_end
            )),
        })
    }

    /// Sends what is queued; a supervisor that cannot be talked to is dismissed.
    fn flush(&mut self) {
        self.sink.flush();
        let Some(supervisor) = self.seat.supervisor() else { return };
        let page = self.table.status_page(SUPERVISOR_STATUS_SLOT);
        supervisor.kill_if_due(|| page.map_or(0, |page| page.snapshot().heartbeat));
        if let Err(error) = supervisor.flush() {
            self.sink.line("keeper", &error.to_string());
            supervisor.dismiss();
        }
    }

    /// Takes a bounded number of requests and carries them out.
    fn requests(&mut self) -> Option<End> {
        for _ in 0..REQUESTS_PER_TURN {
            let supervisor = self.seat.supervisor().filter(|supervisor| supervisor.takes_answers())?;
            let incarnation = supervisor.incarnation;
            let link = supervisor.link.as_ref()?;
            let received = match link.try_recv_into(&mut self.inbox) {
                Ok(Some(received)) => received,
                Ok(None) => return None,
                Err(error @ LinkError::Truncated { .. }) => {
                    let refusal = refused(RefusalCode::Malformed, error.to_string());
                    self.queue(None, |out| encode_refusal(&refusal, 0, incarnation, out));
                    continue;
                }
                Err(error) => {
                    self.sink.line("keeper", &error.to_string());
                    supervisor.dismiss();
                    return None;
                }
            };
            let id = Header::id_of(received.bytes);
            let mut request = 0;
            let outcome = match Request::decode(received.bytes, received.descriptors.len()) {
                Err(error) => Err(refused(RefusalCode::Malformed, error.to_string())),
                Ok((header, _)) if header.incarnation != incarnation => {
                    let why = format!("the request is of supervisor[{}], not [{incarnation}]", header.incarnation);
                    Err(refused(RefusalCode::StaleIncarnation, why))
                }
                Ok((header, decoded)) => {
                    request = header.kind as u32;
                    requests::execute(&mut self.table, &self.spawner, decoded, received.descriptors.pop())
                }
            };
            if let Some(end) = self.answer(id, request, outcome) {
                return Some(end);
            }
        }
        None
    }

    fn answer(&mut self, id: u64, request: u32, outcome: Result<Outcome, Refusal>) -> Option<End> {
        let incarnation = self.incarnation;
        let (reply, descriptor) = match outcome {
            Ok(Outcome::Exit(status)) => return Some(End { status, why: None }),
            Ok(Outcome::Done { a, b, descriptor }) => (Reply { request, a, b }, descriptor),
            Ok(Outcome::Serving) => {
                self.restarts.serving();
                (Reply { request, a: 0, b: 0 }, None)
            }
            Ok(Outcome::Tables) => {
                let sizes = (self.table.held_entries().len() as u64, self.table.process_entries().len() as u64);
                // Nothing that the keeper says is longer than a message may be.
                let _ = self.queue_tables(id);
                (Reply { request, a: sizes.0, b: sizes.1 }, None)
            }
            Err(refusal) => {
                let refusal = Refusal { request, ..refusal };
                self.queue(None, |out| encode_refusal(&refusal, id, incarnation, out));
                return None;
            }
        };
        self.queue(descriptor, |out| encode_reply(reply, id, incarnation, out));
        None
    }
}

/// What the kernel says about an end.
fn decode_status(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(number)) => Exit::Signal { number, core: status.as_raw() & 0x80 != 0 },
        (code, None) => Exit::Code(code.unwrap_or_default()),
    }
}

/// The cause in the form of the protocol.
fn decode_cause(exit: Exit, status: Option<&Status>) -> Cause {
    let cause = ExitCause::decode(exit, status);
    let text = cause.to_string();
    let code = match exit {
        Exit::Code(code) => code,
        Exit::Signal { number, .. } => number,
    };
    let (kind, thread, number, address) = match cause {
        ExitCause::Clean => (CauseKind::Clean, 0, 0, 0),
        ExitCause::Error { .. } => (CauseKind::Error, 0, 0, 0),
        ExitCause::Panic { .. } => (CauseKind::Panic, 0, 0, 0),
        ExitCause::Signal { fault, .. } => (CauseKind::Signal, 0, 0, fault.map_or(0, |fault| fault.address)),
        ExitCause::Trapped { call, instruction, thread } => {
            (CauseKind::Seccomp, thread, call.map_or(u64::MAX, i64::cast_unsigned), instruction)
        }
        ExitCause::LostPeer { .. } => (CauseKind::LostPeer, 0, 0, 0),
        ExitCause::OutOfMemory { bytes } => (CauseKind::OutOfMemory, 0, bytes.unwrap_or_default(), 0),
        ExitCause::Aborted => (CauseKind::Abort, 0, 0, 0),
    };
    Cause { kind, code, thread, number, address, text }
}
