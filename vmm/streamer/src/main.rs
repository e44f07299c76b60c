//! The streamer's process: receives its descriptors, locks itself down, and on `run` writes or reads a snapshot.
//!
//! One thread. Messages (islet.capnp): `setup` in, `ready` out; `run` in, `progress` events, then `done` or `failed`; `quit` in,
//! `done` out, at any moment. A supervisor may end meanwhile and another one take over the socket, so the work goes on without
//! one, and a `run` that comes again is answered with the same. With memory on demand the work goes on after `done`: faults are
//! served until all is placed; the process then says so with a last `progress` and ends.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use capnp::message::{Builder, HeapAllocator};
use enter::ThreadGate;
use enter::status::StatusPage;
use link::capnp::{recv_message, send_message, try_recv_message, try_send_message};
use link::{Deadline, Inbox, Link, LinkError, Peer, Sent};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use profile::Kind;
use snapshot::sparse::PAGE;
use snapshot::{MANIFEST_FILE, MEMORY_FILE};
use streamer::demand::{Demand, Left, Mapping};
use streamer::order::{Area, Order, Task};
use streamer::restore::Restore;
use streamer::save::Save;
use streamer::{Problem, Stop, Watch};
use wire::islet_capnp::{from_islet, to_islet};

// The digests of the longest RAM take 64 MiB: as they are, in a message, and in the bytes of a file. Of a common machine they
// take kilobytes, and what is never used is never there.
arena::global!(256 << 20);

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// The setup was sent before this process was started, and the peer of every answer is waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most so much goes by without a word of progress, where there is any.
const PROGRESS_TIME: Duration = Duration::from_millis(200);
/// As [`PROGRESS_TIME`], in bytes.
const PROGRESS_BYTES: u64 = 64 << 20;
/// Requests to run that are answered together.
const MAX_WAITING: usize = 64;

fn main() {
    enter::begin();
    match run() {
        Ok(()) => enter::exit::clean(),
        Err(End::Peer(error)) => enter::exit::lost_peer(&error),
        Err(End::Own(problem)) => enter::exit::error(&problem),
    }
}

/// Why the process ends without having been asked to.
enum End {
    /// There is nobody to answer to.
    Peer(LinkError),
    /// Something else, which the supervisor was told where it waited for an answer.
    Own(Problem),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        End::Peer(error)
    }
}

/// What the process is here for.
enum Job {
    Save(Save),
    /// At once, or with the mappings into which RAM comes on demand.
    Restore(Restore, Option<Vec<Mapping>>),
}

fn run() -> Result<(), End> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let (mut id, mut incarnation) = (0, 0);
    let prepared = match incoming.reader.get_root::<to_islet::Reader<'_>>() {
        Ok(message) => {
            (id, incarnation) = (message.get_id(), message.get_incarnation());
            read_order(message).and_then(|order| prepare(order, incoming.descriptors, &link))
        }
        Err(error) => Err(Problem::message(error)),
    };
    match prepared {
        Ok((job, page)) => {
            let mut session = Session::new(link, inbox, incarnation, page);
            session.answer(id, |mut m| m.set_ready(()))?;
            session.work(job)
        }
        Err(problem) => {
            send(&link, incarnation, id, |m| problem.fill(m.init_failed()))?;
            Err(End::Own(problem))
        }
    }
}

fn read_order(message: to_islet::Reader<'_>) -> Result<Order, Problem> {
    match message.which() {
        Ok(to_islet::Setup(setup)) => Order::read(setup.map_err(Problem::message)?),
        Ok(_) => Err(Problem::message("the first message was another request")),
        Err(error) => Err(Problem::message(error)),
    }
}

/// Descriptors of the setup by name, each noted as one to be kept.
struct Descriptors<'a> {
    order: &'a Order,
    received: Vec<Option<OwnedFd>>,
    keep: Vec<RawFd>,
}

impl Descriptors<'_> {
    fn take(&mut self, name: &str) -> Result<OwnedFd, Problem> {
        let descriptor = self.order.take(name, &mut self.received)?;
        self.keep.push(descriptor.as_raw_fd());
        Ok(descriptor)
    }

    /// A file and its length in bytes.
    fn file(&mut self, name: &str) -> Result<(File, u64), Problem> {
        let file = File::from(self.take(name)?);
        let about = file.metadata().map_err(|error| Problem::read(name, error))?;
        if !about.is_file() {
            return Err(Problem::message(format!("the descriptor '{name}' is no regular file")));
        }
        Ok((file, about.len()))
    }

    fn states(&mut self, areas: &[Area]) -> Result<Vec<(Area, File)>, Problem> {
        areas.iter().map(|area| Ok((area.clone(), self.file(&area.file)?.0))).collect()
    }
}

/// Takes what the job needs and locks the process down, in the order of `enter`'s documentation.
fn prepare(order: Order, descriptors: &mut Vec<OwnedFd>, link: &Link) -> Result<(Job, &'static StatusPage), Problem> {
    let received = descriptors.drain(..).map(Some).collect();
    let mut given = Descriptors { order: &order, received, keep: vec![link.as_fd().as_raw_fd()] };
    let status = order.take("status", &mut given.received)?;
    let page = StatusPage::map(status.as_fd(), usize::from(order.status_row)).map_err(Problem::message)?;
    enter::attach_status(page);
    drop(status);
    let (ram, ram_bytes) = given.file("ram")?;
    if ram_bytes == 0 || ram_bytes > snapshot::MAX_RAM_BYTES || !ram_bytes.is_multiple_of(PAGE as u64) {
        return Err(Problem::message(format!("RAM of {ram_bytes} bytes")));
    }
    let (state, _) = given.file("state")?;
    let (manifest_file, manifest_bytes) = given.file(MANIFEST_FILE)?;
    let (memory_file, memory_bytes) = given.file(MEMORY_FILE)?;
    let (job, kind) = match &order.task {
        Task::Save { manifest, states } => {
            let (states, manifest) = (given.states(states)?, (**manifest).clone());
            let save = Save { ram, ram_bytes, state, manifest, manifest_file, memory_file, states };
            save.prepare()?;
            (Job::Save(save), Kind::StreamerSource)
        }
        Task::Restore { states, mappings } => {
            let states = given.states(states)?;
            let mut list = None;
            for mapping in mappings.iter().flatten() {
                if mapping.length != ram_bytes {
                    let why = format!("a mapping of {} bytes of a RAM of {ram_bytes}", mapping.length);
                    return Err(Problem::message(why));
                }
                let uffd = given.take(&mapping.descriptor)?.into();
                list.get_or_insert_with(Vec::new).push(Mapping { uffd, base: mapping.base });
            }
            let restore =
                Restore { ram, ram_bytes, state, manifest_file, manifest_bytes, memory_file, memory_bytes, states };
            (Job::Restore(restore, list), Kind::StreamerTarget)
        }
    };
    let Descriptors { keep, .. } = given;
    let profile = kind.profile();
    enter::before_threads(profile).map_err(Problem::sandbox)?;
    enter::close_all_but(&keep).map_err(Problem::sandbox)?;
    enter::seal(profile, &ThreadGate::new()).map_err(Problem::sandbox)?;
    Ok((job, page))
}

/// Sends one message: the answer to request `id`, or with 0 an event. A supervisor that does not read is one that has ended; its
/// successor will.
fn send(link: &Link, incarnation: u32, id: u64, fill: impl FnOnce(from_islet::Builder<'_>)) -> Result<(), LinkError> {
    let message = build(incarnation, id, fill);
    loop {
        match send_message(link, &message, &[], Deadline::after(PATIENCE)) {
            Err(error) if error.is_deadline() => {}
            result => return result,
        }
    }
}

fn build(incarnation: u32, id: u64, fill: impl FnOnce(from_islet::Builder<'_>)) -> Builder<HeapAllocator> {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    let mut root = message.init_root::<from_islet::Builder<'_>>();
    root.set_in_reply_to(id);
    root.set_incarnation(incarnation);
    fill(root);
    message
}

/// The control side of the process.
struct Session {
    link: Link,
    inbox: Inbox,
    incarnation: u32,
    page: &'static StatusPage,
    /// Requests to run that have no answer yet.
    waiting: Vec<u64>,
    /// How the job went, once it is over.
    outcome: Option<Result<(), Problem>>,
    /// Nobody holds the other end of the socket any more.
    gone: bool,
    /// What was said last of the progress, and when.
    said: (&'static str, u64, Instant),
    /// Damaged chunks of which the supervisor is still to be told.
    damaged: Vec<u64>,
}

impl Session {
    fn new(link: Link, inbox: Inbox, incarnation: u32, page: &'static StatusPage) -> Self {
        let said = ("", 0, Instant::now());
        let (waiting, damaged) = (Vec::with_capacity(MAX_WAITING), Vec::new());
        Self { link, inbox, incarnation, page, waiting, outcome: None, gone: false, said, damaged }
    }

    /// Answers request `id`, if there is somebody.
    fn answer(&mut self, id: u64, fill: impl FnOnce(from_islet::Builder<'_>)) -> Result<(), End> {
        match send(&self.link, self.incarnation, id, fill) {
            Err(error) if error.is_peer_gone() => self.gone = true,
            result => result?,
        }
        Ok(())
    }

    /// Sends an event, unless the queue is full.
    fn try_event(&mut self, fill: impl FnOnce(from_islet::Builder<'_>)) -> bool {
        let message = build(self.incarnation, 0, fill);
        match try_send_message(&self.link, &message, &[]) {
            Ok(Sent::Full) => false,
            Ok(Sent::Sent) => true,
            Err(_) => {
                self.gone = true;
                true
            }
        }
    }

    fn work(&mut self, job: Job) -> Result<(), End> {
        let worked = self.until_run().and_then(|()| self.work_to_the_end(&job));
        // What it holds is closed by the process's end.
        std::mem::forget(job);
        match worked {
            Ok(()) | Err(Stop::Quit) => Ok(()),
            Err(Stop::Problem(problem)) => Err(End::Own(problem)),
        }
    }

    fn work_to_the_end(&mut self, job: &Job) -> Result<(), Stop> {
        match job {
            Job::Save(save) => {
                let saved = save.run(self);
                self.conclude(saved)?;
            }
            Job::Restore(restore, mappings) => {
                let checked = restore.states(self);
                match (checked, mappings) {
                    (Ok(ram), Some(mappings)) => {
                        self.conclude(Ok(()))?;
                        return self.bring(Demand::new(&restore.ram, &restore.memory_file, &ram, mappings));
                    }
                    (Ok(ram), None) => {
                        let brought = restore.eager(&ram, self);
                        self.conclude(brought)?;
                    }
                    (Err(stop), _) => self.conclude(Err(stop))?,
                }
            }
        }
        loop {
            self.wait(&[], None)?;
            self.look()?;
        }
    }

    /// Waits for the request to begin.
    fn until_run(&mut self) -> Result<(), Stop> {
        loop {
            self.look()?;
            if !self.waiting.is_empty() {
                return Ok(());
            }
            self.wait(&[], None)?;
        }
    }

    /// Says how the job went to everybody who has asked.
    fn conclude(&mut self, result: Result<(), Stop>) -> Result<(), Stop> {
        let outcome = match result {
            Ok(()) => Ok(()),
            Err(Stop::Problem(problem)) => {
                eprintln!("{problem}");
                Err(problem)
            }
            Err(Stop::Quit) => return Err(Stop::Quit),
        };
        for id in std::mem::take(&mut self.waiting) {
            self.tell(id, &outcome)?;
        }
        self.outcome = Some(outcome);
        Ok(())
    }

    fn tell(&mut self, id: u64, outcome: &Result<(), Problem>) -> Result<(), Stop> {
        let told = match outcome {
            Ok(()) => self.answer(id, |mut m| m.set_done(())),
            Err(problem) => self.answer(id, |m| problem.fill(m.init_failed())),
        };
        told.map_err(stop)
    }

    /// Obeys what has come on the control socket.
    fn look(&mut self) -> Result<(), Stop> {
        while !self.gone {
            let message = match try_recv_message(&self.link, &mut self.inbox) {
                Ok(None) => break,
                Ok(Some(incoming)) => incoming,
                Err(error) if error.is_peer_gone() => {
                    self.gone = true;
                    break;
                }
                Err(error) => return Err(Problem::message(error).into()),
            };
            let message = message.reader.get_root::<to_islet::Reader<'_>>().map_err(Problem::message)?;
            let id = message.get_id();
            if message.get_incarnation() != self.incarnation {
                continue;
            }
            match message.which() {
                Ok(to_islet::Run(())) => match self.outcome.take() {
                    Some(outcome) => {
                        self.tell(id, &outcome)?;
                        self.outcome = Some(outcome);
                    }
                    None if self.waiting.len() < MAX_WAITING => self.waiting.push(id),
                    None => return Err(Problem::message("it was told to run, again and again").into()),
                },
                Ok(to_islet::Ping(_)) => self.answer(id, |mut m| m.set_done(())).map_err(stop)?,
                Ok(to_islet::Quit(())) => {
                    self.answer(id, |mut m| m.set_done(())).map_err(stop)?;
                    return Err(Stop::Quit);
                }
                _ => {
                    let problem = Problem::message("a streamer does not know this request");
                    self.tell(id, &Err(problem))?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the control socket or one of `others`. Without either there is nothing to wait for.
    fn wait(&mut self, others: &[std::os::fd::BorrowedFd<'_>], timeout: Option<Duration>) -> Result<(), Stop> {
        let link = (!self.gone).then(|| self.link.as_fd());
        let mut set: Vec<_> = link.iter().chain(others).map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        if set.is_empty() {
            return Err(Stop::Quit);
        }
        match ppoll(&mut set, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Problem::message(format!("ppoll failed: {errno}")).into()),
        }
    }

    /// Brings memory on demand until all of it is there.
    fn bring(&mut self, mut demand: Demand<'_>) -> Result<(), Stop> {
        demand.begin()?;
        loop {
            demand.serve()?;
            let left = demand.prefault()?;
            self.damaged.append(&mut demand.damaged());
            while let Some(offset) = self.damaged.first().copied() {
                if !self.try_event(|mut m| m.set_bad_chunk(offset)) {
                    break;
                }
                self.damaged.remove(0);
            }
            let (done, total) = demand.progress();
            match left {
                // The last word is that all is there.
                Left::Chunks => self.progress("prefault", done.min(total.saturating_sub(1)), total)?,
                Left::Faults => {
                    self.look()?;
                    let timeout = (!self.damaged.is_empty()).then_some(PROGRESS_TIME);
                    let descriptors: Vec<_> = demand.descriptors().collect();
                    self.wait(&descriptors, timeout)?;
                }
                Left::Nothing => {
                    demand.finish()?;
                    let last = |m: from_islet::Builder<'_>| write_progress(m, "prefault", total, total);
                    return self.answer(0, last).map_err(stop);
                }
            }
        }
    }
}

/// What cannot be said to anybody ends the work.
fn stop(end: End) -> Stop {
    match end {
        End::Own(problem) => Stop::Problem(problem),
        End::Peer(error) => Stop::Problem(Problem::message(error)),
    }
}

fn write_progress(message: from_islet::Builder<'_>, phase: &str, done: u64, total: u64) {
    let mut progress = message.init_progress();
    progress.set_phase(phase);
    progress.set_done(done);
    progress.set_total(total);
}

impl Watch for Session {
    fn progress(&mut self, phase: &'static str, done: u64, total: u64) -> Result<(), Stop> {
        self.page.beat();
        self.look()?;
        let (last, bytes, time) = self.said;
        let due = last != phase || done.saturating_sub(bytes) >= PROGRESS_BYTES || time.elapsed() >= PROGRESS_TIME;
        if !self.gone && (due || (done == total && done != bytes)) {
            self.try_event(|m| write_progress(m, phase, done, total));
            self.said = (phase, done, Instant::now());
        }
        Ok(())
    }
}
