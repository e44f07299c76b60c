//! One input at a time: the core decides, the decision is made durable, and then it is carried out.
//!
//! The one idea is an order. An islet's message is looked at where it lies; the events that follow from it and the new state
//! are committed with one write; only then is the message taken off its socket and the rest done. A kill between any
//! two of these makes the successor see the message again, or the work again, and both are without effect the second
//! time.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use control::types::{Event, Problem};
use doorbell::Header;
use enter::status::{COUNTERS, STATUS_PAGE_SIZE, StatusPage};
use keeper_protocol::client::{ClientError, Keeper};
use keeper_protocol::{CauseKind, Exited, Grant, HeldId, HeldKind, ProcessId, Spawn};
use link::capnp::try_send_message;
use link::{Link, Peer, Sent};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use supervisor::config::Config;
use supervisor::core::record::{self, Facts};
use supervisor::core::{Cause, Command, CommandId, Core, Input, Islet, Note, Output, Said, Verb};
use supervisor::journal::Journal;
use supervisor::log::Log;
use supervisor::messages::{self, Answer, Circumstances, DRIVER_REQUESTS, Heard, Message, Streaming, Subject};
use supervisor::plan::{self, CONSOLE_CONNECTION, FAULTS, JOB_FILE, Surroundings};
use supervisor::timers::Timers;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use wire::islet_capnp::from_islet;
use wire::vm_capnp::launch_report;

use crate::parcels::{self, Parcels};
use crate::soon;
use crate::takeover::{Held, Ready, name};
use crate::tasks;

/// Offset of the counters in a status page (see `enter::status`).
const STATUS_COUNTERS: u64 = 584;
/// How long a process may take to answer a question of the driver's own.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Pulses of a supervisor within the patience with it.
const PULSES: u32 = 8;
/// How long a process may live on after it has closed its control socket.
const ORPHAN: Duration = Duration::from_secs(2);

/// The control socket of a process that runs, or has just ended.
#[derive(Clone)]
pub struct IsletLink {
    pub incarnation: u32,
    pub link: Rc<Link>,
}

/// A job that was asked for.
pub struct Begun {
    pub job: u64,
    /// Whether it was taken.
    pub accepted: oneshot::Receiver<Result<(), Problem>>,
}

/// Everything that a supervisor has.
pub struct Driver {
    me: Weak<RefCell<Driver>>,
    pub keeper: Keeper,
    held: Held,
    pub config: Config,
    pub core: Core,
    facts: Facts,
    record: Vec<u8>,
    pub log: Log,
    journal: Journal,
    status: File,
    own_page: &'static StatusPage,
    pub clock: Header,
    report: Option<Link>,
    reported: bool,
    links: [Option<IsletLink>; Islet::ALL.len()],
    /// What the timers count from.
    began: Instant,
    timers: Timers,
    pub timers_changed: Rc<Notify>,
    /// Room for one message.
    buffer: Vec<u8>,
    pub console_connection: Option<HeldId>,
    pub pid: i32,
    /// Something has changed: events, state.
    pub changed: Rc<Notify>,
    /// A console client may be accepted.
    pub console_free: Rc<Notify>,
    /// Connections of the control socket.
    pub clients: usize,
    /// Descriptors that clients have sent.
    pub parcels: Rc<Parcels>,
    commands: HashMap<CommandId, oneshot::Sender<Result<(), Problem>>>,
    last_command: CommandId,
    questions: HashMap<u64, (Islet, oneshot::Sender<Answer>)>,
    last_question: u64,
}

impl Driver {
    pub fn new(ready: Ready) -> Rc<RefCell<Self>> {
        let Ready { keeper, held, config, core, facts, log, journal, status, page: own_page, clock, report, .. } =
            ready;
        let (console_connection, pid) = (ready.console_connection, ready.pid);
        let timers = Timers::new(Duration::ZERO, config.options.patience / PULSES);
        Rc::new_cyclic(|me| {
            RefCell::new(Self {
                me: me.clone(),
                keeper,
                held,
                config,
                core,
                facts,
                record: Vec::new(),
                log,
                journal,
                status,
                own_page,
                clock,
                report,
                reported: false,
                links: Default::default(),
                began: Instant::now(),
                timers,
                timers_changed: Rc::default(),
                buffer: vec![0; link::MAX_MESSAGE],
                console_connection,
                pid,
                changed: Rc::default(),
                console_free: Rc::default(),
                clients: 0,
                parcels: Rc::default(),
                commands: HashMap::new(),
                last_command: 0,
                questions: HashMap::new(),
                last_question: DRIVER_REQUESTS,
            })
        })
    }

    // --------------------------------------------------------------------------------------------------- inputs

    /// Takes an input and what follows from it.
    pub fn input(&mut self, input: Input) -> anyhow::Result<()> {
        self.step(input, None)?;
        self.take_exits()
    }

    /// Goes on where another supervisor stopped.
    pub fn adopt(&mut self, found: &[supervisor::core::Found], last_end: &str) -> anyhow::Result<()> {
        let outputs = self.core.adopt(found, last_end);
        let mut inputs = VecDeque::new();
        self.carry_out_all(outputs, None, &mut inputs)?;
        self.follow(inputs)?;
        if let Some(id) = self.console_connection {
            self.attach(id)?;
        }
        self.take_exits()
    }

    /// Every exit that the keeper has told. Calls of the keeper put them aside, so this is asked after all of them.
    pub fn take_exits(&mut self) -> anyhow::Result<()> {
        while let Some(exited) = self.keeper.next_exit()? {
            self.exited(&exited)?;
        }
        Ok(())
    }

    fn exited(&mut self, exited: &Exited) -> anyhow::Result<()> {
        let process = exited.process.0;
        let Some(islet) = Islet::by_name(exited.name.as_str()) else {
            return self.acknowledge(process);
        };
        // What it has said still counts.
        self.drain(islet, exited.incarnation)?;
        self.questions.retain(|_, (of, _)| *of != islet);
        let productive = self.progress(islet);
        let kind = exited.cause.kind;
        let cause = Cause {
            clean: kind == CauseKind::Clean,
            attack: kind == CauseKind::Seccomp,
            text: exited.cause.text.clone(),
        };
        let incarnation = exited.incarnation;
        self.step(Input::Exited { process, islet, incarnation, cause, productive }, None)
    }

    /// Whether the process has done something for the guest since it was started.
    fn progress(&self, islet: Islet) -> bool {
        let page = u64::from(islet.row().status_slot) * STATUS_PAGE_SIZE as u64;
        islet.row().progress.iter().filter(|counter| **counter < COUNTERS).any(|counter| {
            let mut word = [0; 8];
            let at = page + STATUS_COUNTERS + 8 * *counter as u64;
            self.status.read_exact_at(&mut word, at).is_ok() && word != [0; 8]
        })
    }

    /// Takes every message that is there of this start of an islet. False once its end of the socket is closed.
    pub fn drain(&mut self, islet: Islet, incarnation: u32) -> anyhow::Result<bool> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let open = self.drain_into(islet, incarnation, &mut buffer);
        self.buffer = buffer;
        open
    }

    fn drain_into(&mut self, islet: Islet, incarnation: u32, buffer: &mut [u8]) -> anyhow::Result<bool> {
        loop {
            let current = self.links[islet as usize].as_ref().filter(|link| link.incarnation == incarnation);
            let Some(link) = current.cloned() else { return Ok(false) };
            let length = match peek(&link.link, buffer) {
                Peeked::Nothing => return Ok(true),
                Peeked::End => {
                    self.links[islet as usize] = None;
                    self.orphaned(islet, incarnation);
                    return Ok(false);
                }
                Peeked::Message(length) => length,
            };
            match hear(buffer.get(..length).unwrap_or_default()) {
                Heard::Core { incarnation: said_by, reply_to, said } => {
                    // Each socket belongs to one start; what claims another one is a lie or a mistake.
                    let said = if said_by == incarnation || matches!(said, Said::Nonsense(_)) {
                        said
                    } else {
                        Said::Nonsense(format!("spoke for incarnation {said_by}"))
                    };
                    if matches!(said, Said::ReadyWithFaults(_)) && self.core.faults().is_none() {
                        self.hold_faults(&link.link)?;
                    }
                    let closed = islet == Islet::Serial0 && reply_to == 0 && said == Said::ConsoleClosed;
                    self.step(Input::Said { islet, incarnation, reply_to, said }, Some(&link.link))?;
                    if closed {
                        self.console_closed()?;
                    }
                }
                Heard::Driver { reply_to, answer } => {
                    consume(&link.link);
                    if let Some((_, waiter)) = self.questions.remove(&reply_to) {
                        let _ = waiter.send(answer);
                    }
                }
            }
        }
    }

    /// Gives the keeper the descriptor that lies with the next message. A successor may do it again, for a message that its
    /// predecessor had not answered.
    fn hold_faults(&mut self, link: &Link) -> anyhow::Result<()> {
        if let Some(descriptor) = parcels::peek_descriptor(link)? {
            for id in self.held.remove(FAULTS) {
                unless_refused(self.keeper.release(id, soon()))?;
            }
            let id = self.keeper.hold(name(FAULTS)?, HeldKind::Other, descriptor.as_fd(), soon())?;
            self.held.add(FAULTS, id);
        }
        Ok(())
    }

    /// A process that has closed its socket should end.
    fn orphaned(&self, islet: Islet, incarnation: u32) {
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(ORPHAN).await;
            let why = "closed its control socket".to_owned();
            tasks::tell(&me, Input::Broken { islet, incarnation, why });
        });
    }

    // ------------------------------------------------------------------------------------- decide, commit, do

    fn step(&mut self, input: Input, source: Option<&Link>) -> anyhow::Result<()> {
        let outputs = self.core.step(input);
        let mut inputs = VecDeque::new();
        self.carry_out_all(outputs, source, &mut inputs)?;
        self.follow(inputs)
    }

    fn follow(&mut self, mut inputs: VecDeque<Input>) -> anyhow::Result<()> {
        while let Some(input) = inputs.pop_front() {
            let outputs = self.core.step(input);
            self.carry_out_all(outputs, None, &mut inputs)?;
        }
        self.release_job_files()?;
        self.report_start();
        Ok(())
    }

    /// The files of a job that is over are not ours any more.
    fn release_job_files(&mut self) -> anyhow::Result<()> {
        if self.core.jobs().iter().any(|job| job.state.is_open()) || self.core.slot(Islet::Streamer).process.is_some() {
            return Ok(());
        }
        for id in self.held.remove(JOB_FILE) {
            unless_refused(self.keeper.release(id, soon()))?;
        }
        Ok(())
    }

    fn carry_out_all(
        &mut self,
        outputs: Vec<Output>,
        source: Option<&Link>,
        inputs: &mut VecDeque<Input>,
    ) -> anyhow::Result<()> {
        let (events, outputs): (Vec<_>, Vec<_>) =
            outputs.into_iter().partition(|output| matches!(output, Output::Emit(_)));
        for output in events {
            if let Output::Emit(note) = output {
                self.append(note)?;
            }
        }
        self.commit()?;
        if let Some(source) = source {
            consume(source);
        }
        self.changed.notify_waiters();
        for output in outputs {
            self.carry_out(output, inputs)?;
        }
        Ok(())
    }

    fn append(&mut self, note: Note) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut event = Event {
            sequence: 0,
            guest_nanoseconds: if self.core.started() { self.clock.guest_ns() } else { 0 },
            unix_nanoseconds: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            kind: note.kind.into(),
            process: note.islet.map(|islet| islet.name().to_owned()).unwrap_or_default(),
            incarnation: note.incarnation,
            cause: note.cause,
            detail: note.detail,
        };
        self.log.append(&mut event).context("writing the event log")?;
        self.facts.last_event = self.log.last();
        Ok(())
    }

    /// Makes the state and the events up to now durable, if they are not.
    fn commit(&mut self) -> anyhow::Result<()> {
        let record = record::encode(&self.core, self.facts);
        if record != self.record {
            self.journal.commit(&record)?;
            self.record = record;
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) -> anyhow::Result<()> {
        match output {
            // Taken before.
            Output::Emit(_) => {}
            Output::Spawn { islet, incarnation, request } => {
                inputs.push_back(match self.spawn(islet, incarnation, request) {
                    Ok(process) => Input::Spawned { islet, incarnation, process },
                    Err(error) => match error.downcast::<ClientError>() {
                        Ok(ClientError::Refused(refusal)) => {
                            Input::NotSpawned { islet, incarnation, why: refusal.text }
                        }
                        Ok(other) => return Err(other.into()),
                        Err(other) => Input::NotSpawned { islet, incarnation, why: format!("{other:#}") },
                    },
                });
            }
            Output::Send { islet, incarnation, request, verb } => {
                if let Err(why) = self.send_request(islet, incarnation, request, verb) {
                    inputs.push_back(Input::Broken { islet, incarnation, why });
                }
            }
            Output::Kill { process, incarnation } => {
                let killed = self.keeper.kill(ProcessId(process), incarnation, 9, soon());
                unless_refused(killed)?;
            }
            Output::Acknowledge { process } => self.acknowledge(process)?,
            Output::Arm { timer, after } => self.arm(timer, after),
            Output::Answer { id, result } => {
                if let Some(waiter) = self.commands.remove(&id) {
                    let _ = waiter.send(result);
                }
            }
            Output::Exit { status } => {
                self.report_end();
                tasks::exit(&self.me, status, self.clients > 0);
            }
        }
        Ok(())
    }

    fn arm(&mut self, timer: u64, after: Duration) {
        let core = &self.core;
        self.timers.arm(self.began.elapsed(), timer, after, |timer| core.waits_for(timer));
        self.timers_changed.notify_one();
    }

    /// When the next timer runs out.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next().map(|after| self.began + after)
    }

    /// The time from one pulse to the next.
    pub const fn pulse(&self) -> Duration {
        self.timers.pulse()
    }

    /// Shows the keeper that this supervisor goes on.
    pub fn beat(&mut self) {
        self.timers.beat(self.began.elapsed());
        self.own_page.beat();
    }

    /// Gives the core every timer that has run out.
    pub fn expire(&mut self) -> anyhow::Result<()> {
        self.beat();
        let now = self.began.elapsed();
        while let Some(timer) = self.timers.expired(now) {
            self.input(Input::Expired(timer))?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, process: u64) -> anyhow::Result<()> {
        let acknowledged = self.keeper.acknowledge(ProcessId(process), soon());
        unless_refused(acknowledged)
    }

    // ------------------------------------------------------------------------------------------------ processes

    fn spawn(&mut self, islet: Islet, incarnation: u32, request: u64) -> anyhow::Result<u64> {
        let gifts = plan::gifts(islet, &self.config, self.surroundings());
        let mut grants = Vec::with_capacity(gifts.len());
        for gift in &gifts {
            let id = match self.console_connection {
                Some(id) if gift.held == CONSOLE_CONNECTION => id,
                _ => self.held.id(&gift.held)?,
            };
            grants.push(Grant { id, access: gift.access });
        }
        let circumstances = Circumstances {
            config: &self.config,
            gifts: &gifts,
            wall_clock_seconds: self.facts.wall_clock_seconds,
            streaming: self.streaming(islet)?,
        };
        let message = messages::setup(islet, incarnation, request, &circumstances);
        let payload = link::capnp::encode(&message, &Peer::new(islet.name(), incarnation))?;
        let row = islet.row();
        let spawn = Spawn {
            name: name(row.name)?,
            role: name(plan::role(islet, self.surroundings()))?,
            binary: self.held.id(row.binary)?,
            incarnation,
            status_slot: row.status_slot.into(),
            grants,
            payload: &payload,
        };
        let spawned = self.keeper.spawn(spawn, soon())?;
        let link = Link::new(spawned.socket, Peer::new(islet.name(), incarnation))?;
        self.watch(islet, incarnation, link)?;
        Ok(spawned.process.0)
    }

    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            connected: self.console_connection.is_some(),
            restores: !self.core.started() || self.core.on_demand(),
            on_demand: self.core.on_demand(),
        }
    }

    /// What a streamer is to do that is started now.
    fn streaming(&self, islet: Islet) -> anyhow::Result<Streaming> {
        let around = self.surroundings();
        let mut streaming = Streaming { on_demand: around.on_demand, ..Streaming::default() };
        if islet == Islet::Streamer {
            let saved = |islet: Islet| Some((islet, self.core.slot(islet).saved?));
            streaming.states = Islet::ALL.into_iter().filter_map(saved).collect();
            streaming.restores = around.restores;
            streaming.faults = self.core.faults();
            if !around.restores {
                let wall = self.facts.wall_clock_seconds;
                streaming.manifest = supervisor::config::manifest(&self.config, &self.core, wall)?;
            }
        }
        Ok(streaming)
    }

    /// Listens to a process from now on.
    pub fn watch(&mut self, islet: Islet, incarnation: u32, link: Link) -> anyhow::Result<()> {
        let socket = tasks::waitable(&link)?;
        self.links[islet as usize] = Some(IsletLink { incarnation, link: Rc::new(link) });
        tasks::watch_islet(&self.me, islet, incarnation, socket);
        Ok(())
    }

    fn send_request(&self, islet: Islet, incarnation: u32, id: u64, verb: Verb) -> Result<(), String> {
        let saved = self.core.slot(islet).saved.unwrap_or_default();
        let patience = self.config.options.patience;
        let subject = Subject { machine: self.config.machine, entry: self.core.entry(), patience, saved };
        let message = messages::request(verb, incarnation, id, subject);
        let message = message.map_err(|error| format!("cannot be asked: {error}"))?;
        self.send(islet, incarnation, &message)
    }

    fn send(&self, islet: Islet, incarnation: u32, message: &Message) -> Result<(), String> {
        let current = self.links[islet as usize].as_ref().filter(|link| link.incarnation == incarnation);
        // A process whose socket is closed has ended or will be killed.
        let Some(link) = current else { return Ok(()) };
        match try_send_message(&link.link, message, &[]) {
            Ok(Sent::Sent) => Ok(()),
            Ok(Sent::Full) => Err("does not take its messages".into()),
            Err(error) if error.is_peer_gone() => Ok(()),
            Err(error) => Err(format!("cannot be reached: {error}")),
        }
    }

    // --------------------------------------------------------------------------------------------------- console

    /// A client of the console has connected.
    pub fn console_opened(&mut self, socket: &impl std::os::fd::AsFd) -> anyhow::Result<()> {
        let id = self.keeper.hold(name(CONSOLE_CONNECTION)?, HeldKind::Socket, socket.as_fd(), soon())?;
        self.console_connection = Some(id);
        self.attach(id)?;
        self.input(Input::Noted(Note {
            kind: control::types::event_kind::CONSOLE_OPENED,
            islet: Some(Islet::Serial0),
            incarnation: self.core.slot(Islet::Serial0).incarnation,
            cause: String::new(),
            detail: "a client has connected to the console".into(),
        }))
    }

    /// Gives the client's socket to the serial port; one that is being started anew finds it among its descriptors.
    fn attach(&mut self, id: HeldId) -> anyhow::Result<()> {
        let slot = self.core.slot(Islet::Serial0);
        let (incarnation, Some(process)) = (slot.incarnation, slot.process) else { return Ok(()) };
        self.last_question += 1;
        let message = messages::attach_console(incarnation, self.last_question);
        let payload = link::capnp::encode(&message, &Peer::new(Islet::Serial0.name(), incarnation))?;
        let sent = self.keeper.send_to(ProcessId(process), incarnation, vec![Grant::same(id)], &payload, soon());
        unless_refused(sent)?;
        let (sender, answer) = oneshot::channel();
        self.questions.insert(self.last_question, (Islet::Serial0, sender));
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            match tokio::time::timeout(DEADLINE, answer).await {
                // Taken; or the process has ended, and its successor finds the socket among its descriptors.
                Ok(Ok(Answer::Done) | Err(_)) => {}
                Ok(Ok(_)) => _ = tasks::with(&me, Self::console_closed),
                Err(_) => {
                    let why = "did not answer 'attachConsole' in time".to_owned();
                    tasks::tell(&me, Input::Broken { islet: Islet::Serial0, incarnation, why });
                }
            }
        });
        Ok(())
    }

    fn console_closed(&mut self) -> anyhow::Result<()> {
        if let Some(id) = self.console_connection.take() {
            unless_refused(self.keeper.release(id, soon()))?;
        }
        self.console_free.notify_one();
        Ok(())
    }

    // --------------------------------------------------------------------------------------------------- clients

    /// Gives a client's command to the core; the answer comes when it comes.
    pub fn command(&mut self, command: Command) -> anyhow::Result<oneshot::Receiver<Result<(), Problem>>> {
        self.last_command += 1;
        let (sender, receiver) = oneshot::channel();
        self.commands.insert(self.last_command, sender);
        self.input(Input::Command { id: self.last_command, command })?;
        Ok(receiver)
    }

    /// Takes the files of a snapshot, and begins its job.
    pub fn snapshot(&mut self, files: &[String], descriptors: Vec<OwnedFd>) -> anyhow::Result<Result<Begun, Problem>> {
        let refuse = |code: &str, why: String| {
            let remedy = "send the descriptors of the files that 'snapshotFiles' names, in the order of 'files'";
            Ok(Err(Problem::new(code, "the snapshot", why, remedy)))
        };
        if self.core.jobs().iter().any(|job| job.state.is_open()) {
            return refuse("job.busy", "another job waits or is at work".into());
        }
        let (mut given, mut needed) = (files.to_vec(), plan::snapshot_files());
        given.sort();
        needed.sort();
        if given != needed || files.len() != descriptors.len() {
            let why = format!("{} files are needed ({}), {} came", needed.len(), needed.join(", "), descriptors.len());
            return refuse("snapshot.files", why);
        }
        if let Some(file) =
            files.iter().zip(&descriptors).find_map(|(file, fd)| (!parcels::is_writable(fd)).then_some(file))
        {
            return refuse("snapshot.files", format!("'{file}' is not open for reading and writing"));
        }
        for (file, descriptor) in files.iter().zip(&descriptors) {
            let held = format!("{JOB_FILE}{file}");
            let id = self.keeper.hold(name(&held)?, HeldKind::File, descriptor.as_fd(), soon())?;
            self.held.add(&held, id);
        }
        let job = self.core.next_job_id();
        Ok(Ok(Begun { job, accepted: self.command(Command::Save { job })? }))
    }

    /// Asks a process for its counters, if it takes requests.
    pub fn ask_statistics(&mut self, islet: Islet) -> Option<(u32, oneshot::Receiver<Answer>)> {
        let slot = self.core.slot(islet);
        let incarnation = slot.incarnation;
        if slot.progress != supervisor::core::Progress::Ready || [Islet::Loader, Islet::Streamer].contains(&islet) {
            return None;
        }
        self.last_question += 1;
        let message = messages::statistics(incarnation, self.last_question);
        self.send(islet, incarnation, &message).ok()?;
        let (sender, receiver) = oneshot::channel();
        self.questions.insert(self.last_question, (islet, sender));
        Some((incarnation, receiver))
    }

    // -------------------------------------------------------------------------------------------------- reports

    /// Tells the launcher that the VM runs, or is paused as it was asked to be.
    fn report_start(&mut self) {
        if self.reported || !self.core.started() || self.core.script().is_some() || self.core.ending().is_some() {
            return;
        }
        self.reported = true;
        let runs = self.core.runs();
        self.tell_launcher(|mut report| if runs { report.set_running(()) } else { report.set_paused(()) });
    }

    /// Tells the launcher how the VM ended.
    fn report_end(&self) {
        let Some(ending) = self.core.ending().cloned() else { return };
        self.tell_launcher(|report| {
            let mut ended = report.init_ended();
            ended.set_reason(&ending.reason);
            if let Some(problem) = &ending.problem {
                let mut failure = ended.init_problem();
                failure.set_what(&problem.what);
                failure.set_why(&problem.why);
                failure.set_remedy(&problem.remedy);
                failure.set_code(&problem.code);
            }
        });
    }

    /// A launcher that is gone, or does not read, does not matter.
    fn tell_launcher(&self, fill: impl FnOnce(launch_report::Builder<'_>)) {
        let Some(link) = &self.report else { return };
        let mut message = Message::new_default();
        fill(message.init_root());
        let _ = try_send_message(link, &message, &[]);
    }
}

/// The keeper's word that nothing was changed is fine where what was asked for is so already; its end is not.
fn unless_refused(result: Result<(), ClientError>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(ClientError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What lies in a socket.
enum Peeked {
    Nothing,
    Message(usize),
    End,
}

fn peek(link: &Link, buffer: &mut [u8]) -> Peeked {
    // A peer that closed with unread messages is reported once before its own messages, which count; so look again.
    for _ in 0..3 {
        match recv(link.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Peeked::End,
            Ok(length) => return Peeked::Message(length),
            Err(Errno::EAGAIN) => return Peeked::Nothing,
            Err(_) => {}
        }
    }
    Peeked::End
}

/// Takes one message off its socket. Descriptors that came with it are not installed.
fn consume(link: &Link) {
    let _ = recv(link.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
}

fn hear(mut bytes: &[u8]) -> Heard {
    match capnp::serialize::read_message(&mut bytes, link::capnp::reader_options()) {
        Ok(message) => messages::read(message.get_root::<from_islet::Reader<'_>>()),
        Err(error) => messages::read(Err(error)),
    }
}
