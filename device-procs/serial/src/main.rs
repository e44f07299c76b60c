//! The serial port's process: receives its descriptors, maps its window area, locks itself down, and serves.
//!
//! One thread and one `ppoll` over control socket, doorbell and console. Messages (islet.capnp): `setup` in, `ready` out;
//! then `run`, `pause`, `reset`, `attachConsole`, `statistics`, `save`, `load` and `quit`, each answered. It takes no input
//! from the console before `run` and none after `pause`; registers are served always, since only the engine can ask.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use capnp::message::{Builder, HeapAllocator};
use doorbell::{DeviceArea, EventFd};
use enter::ThreadGate;
use enter::status::StatusPage;
use link::capnp::{Incoming, recv_message, send_message, try_recv_message};
use link::{Deadline, Inbox, Link, LinkError, Peer};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use profile::Kind;
use serial::order::{ConsoleOrder, Order, Problem, read_load};
use serial::port::saved::Identity;
use serial::port::{Backend, Counts, Port, Report};
use state::{Left, StateArea};
use wire::islet_capnp::{from_islet, to_islet};

// Messages and their buffers; the console's bytes lie in the window area.
arena::global!(4 << 20);

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// The setup was sent before this process was started, and the peer of every answer is waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the end of the process waits for a console to take the last output; the supervisor waits for two seconds.
const LAST_OUTPUT: Duration = Duration::from_millis(1500);

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

fn run() -> Result<(), End> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let (mut id, mut incarnation) = (0, 0);
    let mut order = None;
    let prepared = match incoming.reader.get_root::<to_islet::Reader<'_>>() {
        Ok(message) => {
            (id, incarnation) = (message.get_id(), message.get_incarnation());
            read_order(message).and_then(|read| prepare(order.insert(read), incoming.descriptors, &link))
        }
        Err(error) => Err(Problem::message(error)),
    };
    // Leaked: a mapping must not be dropped after lock-down.
    let process = Process { link, incarnation, counts: Counts::default(), state: None, order };
    let process = Box::leak(Box::new(process));
    match prepared {
        Ok((port, status, state)) => {
            process.state = state;
            process.send(id, |mut m| m.set_ready(()))?;
            process.serve(Box::leak(port), status, &mut inbox)
        }
        Err(problem) => {
            process.send(id, |m| problem.write(m.init_failed()))?;
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

/// Maps everything and locks the process down, in the order of `enter`'s documentation.
fn prepare(
    order: &Order,
    descriptors: &mut Vec<OwnedFd>,
    link: &Link,
) -> Result<(Box<Port>, &'static StatusPage, Option<StateArea>), Problem> {
    let mut received: Vec<Option<OwnedFd>> = descriptors.drain(..).map(Some).collect();
    let mut take = |name: &str| order.take(name, &mut received);
    let status = take("status")?;
    let page = StatusPage::map(status.as_fd(), usize::from(order.status_row)).map_err(Problem::message)?;
    enter::attach_status(page);
    drop(status);
    let windows = take("windows")?;
    let area = || DeviceArea::map(windows.as_fd(), order.area).map_err(Problem::window);
    let areas = [area()?, area()?];
    drop(windows);
    let (kick, irq) = (take("kick")?, take("irq")?);
    let mut keep = vec![link.as_fd().as_raw_fd(), kick.as_raw_fd(), irq.as_raw_fd()];
    let backend = match &order.console {
        ConsoleOrder::None => Backend::None,
        ConsoleOrder::Stream(name) => Backend::Stream(take(name)?),
        ConsoleOrder::File(name) => {
            let file = take(name)?;
            let stat = fstat(&file).map_err(Problem::message)?;
            Backend::File(file, u64::try_from(stat.st_size).unwrap_or(0))
        }
    };
    let state = match order.has("state") {
        true => Some(StateArea::map(take("state")?.as_fd(), order.state_row).map_err(Problem::message)?),
        false => None,
    };
    if let Backend::Stream(fd) | Backend::File(fd, _) = &backend {
        keep.push(fd.as_raw_fd());
    }
    drop(received);
    let port = Port::attach(areas, EventFd::from(kick), EventFd::from(irq), backend).map_err(Problem::window)?;
    let port = Box::new(port);
    let profile = Kind::Serial.profile();
    enter::before_threads(profile).map_err(Problem::sandbox)?;
    enter::close_all_but(&keep).map_err(Problem::sandbox)?;
    enter::seal(profile, &ThreadGate::new()).map_err(Problem::sandbox)?;
    Ok((port, page, state))
}

/// The control side of the process.
struct Process {
    link: Link,
    incarnation: u32,
    /// As last written to the status page.
    counts: Counts,
    state: Option<StateArea>,
    /// What the setup said; nothing only if it could not be read.
    order: Option<Order>,
}

/// Whether to go on.
enum Next {
    Serve,
    Quit,
}

impl Process {
    /// Sends one message: the answer to request `id`, or with 0 an event.
    fn send(&self, id: u64, fill: impl FnOnce(from_islet::Builder<'_>)) -> Result<(), LinkError> {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let mut root = message.init_root::<from_islet::Builder<'_>>();
        root.set_in_reply_to(id);
        root.set_incarnation(self.incarnation);
        fill(root);
        send_message(&self.link, &message, &[], Deadline::after(PATIENCE))
    }

    fn serve(&mut self, port: &mut Port, status: &StatusPage, inbox: &mut Inbox) -> Result<(), End> {
        loop {
            let report = port.round().map_err(|e| End::Own(Problem::window(e)))?;
            self.tell(&report)?;
            self.publish(port.counts(), status);
            // With work left only look at who else wants something.
            let wait = if port.fall_asleep() { None } else { Some(TimeSpec::new(0, 0)) };
            let ready = wait_for(&self.link, port, wait).map_err(End::Own)?;
            port.wake_up(ready.kick).map_err(|e| End::Own(Problem::window(e)))?;
            let mut report = Report::default();
            port.console_ready(ready.console, &mut report);
            self.tell(&report)?;
            if !ready.control {
                continue;
            }
            loop {
                let link = &self.link;
                let Some(incoming) = try_recv_message(link, inbox)? else { break };
                if let Next::Quit = self.obey(incoming, port)? {
                    return Ok(());
                }
            }
        }
    }

    /// Tells the supervisor what it must know.
    fn tell(&self, report: &Report) -> Result<(), LinkError> {
        if let Some(errno) = report.console_error {
            eprintln!("the console failed: {errno}; output is kept until another one is attached");
        }
        if report.console_closed {
            self.send(0, |mut m| m.set_console_closed(()))?;
        }
        if report.attack {
            let text = "the posted-write ring held more than it can: its indices were tampered with; dropped";
            self.send(0, |mut m| m.set_attack(text))?;
        }
        Ok(())
    }

    fn obey(&self, incoming: Incoming<'_>, port: &mut Port) -> Result<Next, End> {
        let message = match incoming.reader.get_root::<to_islet::Reader<'_>>() {
            Ok(message) => message,
            Err(error) => return Err(End::Own(Problem::message(error))),
        };
        let id = message.get_id();
        if message.get_incarnation() != self.incarnation {
            return Ok(Next::Serve);
        }
        let outcome = match message.which() {
            Ok(to_islet::Run(())) => {
                port.run();
                Ok(Report::default())
            }
            Ok(to_islet::Ping(_)) => Ok(Report::default()),
            Ok(to_islet::Pause(())) => port.pause().map_err(Problem::window),
            Ok(to_islet::Reset(())) => port.reset().map_err(Problem::window),
            Ok(to_islet::AttachConsole(_)) => match incoming.descriptors.drain(..).next() {
                Some(socket) => {
                    port.attach_console(socket);
                    Ok(Report::default())
                }
                None => Err(Problem::message("attachConsole came without a descriptor")),
            },
            Ok(to_islet::Statistics(())) => {
                self.send(id, |m| write_counts(port.counts(), m))?;
                return Ok(Next::Serve);
            }
            Ok(to_islet::Save(machine)) => {
                let saved = match machine.map(|text| text.to_str()) {
                    Ok(Ok(machine)) => self.save(port, machine)?,
                    Ok(Err(error)) => Err(Problem::message(error)),
                    Err(error) => Err(Problem::message(error)),
                };
                self.send(id, |m| match saved {
                    Ok(left) => {
                        let mut saved = m.init_saved();
                        saved.set_length(left.length);
                        saved.set_digest(&left.digest);
                    }
                    Err(problem) => problem.write(m.init_failed()),
                })?;
                return Ok(Next::Serve);
            }
            Ok(to_islet::Load(load)) => read_load(load).and_then(|left| {
                let (area, identity) = self.quiet_area(port)?;
                port.load(identity, area, left).map_err(|error| Problem::refused(&error))?;
                Ok(Report::default())
            }),
            Ok(to_islet::Quit(())) => {
                self.finish_output(port)?;
                self.send(id, |mut m| m.set_done(()))?;
                return Ok(Next::Quit);
            }
            Ok(_) => Err(Problem::message("a serial port does not know this request")),
            Err(error) => Err(Problem::message(error)),
        };
        match outcome {
            Ok(report) => {
                self.tell(&report)?;
                self.send(id, |mut m| m.set_done(()))?;
            }
            Err(problem) => self.send(id, |m| problem.write(m.init_failed()))?,
        }
        Ok(Next::Serve)
    }

    /// The area for states and who this is in them, if there may be a state now.
    fn quiet_area(&self, port: &Port) -> Result<(&StateArea, Identity<'_>), Problem> {
        if !port.is_paused() {
            return Err(Problem::running());
        }
        let (Some(area), Some(order)) = (&self.state, &self.order) else { return Err(Problem::no_state()) };
        Ok((area, Identity { process: &order.name, machine: &order.machine }))
    }

    /// Leaves the state in its area. Whatever the console takes before belongs to it.
    fn save(&self, port: &mut Port, machine: &str) -> Result<Result<Left, Problem>, End> {
        let (area, identity) = match self.quiet_area(port) {
            Ok(found) => found,
            Err(problem) => return Ok(Err(problem)),
        };
        let report = port.round().map_err(|e| End::Own(Problem::window(e)))?;
        self.tell(&report)?;
        let left = port.save(identity, machine).and_then(|message| area.leave(&message));
        Ok(left.map_err(|error| Problem::refused(&error)))
    }

    /// Sends what the guest has printed, as long as the console takes it: who reads slowly misses nothing.
    fn finish_output(&self, port: &mut Port) -> Result<(), End> {
        let end = Instant::now() + LAST_OUTPUT;
        loop {
            let mut report = port.round().map_err(|e| End::Own(Problem::window(e)))?;
            let left = end.saturating_duration_since(Instant::now());
            let console = port.interest().filter(|(_, flags)| flags.contains(PollFlags::POLLOUT) && !left.is_zero());
            let ready = console.map(|(console, _)| {
                let mut set = [PollFd::new(console, PollFlags::POLLOUT)];
                // An interruption is a reason to look again.
                let _ = ppoll(&mut set, Some(TimeSpec::from(left)), None);
                set[0].revents().unwrap_or(PollFlags::empty())
            });
            port.console_ready(ready.unwrap_or(PollFlags::empty()), &mut report);
            self.tell(&report)?;
            if ready.is_none() {
                return Ok(());
            }
        }
    }

    /// Keeps the status page up to date.
    fn publish(&mut self, counts: Counts, status: &StatusPage) {
        status.beat();
        if counts != self.counts {
            for (n, (_, value)) in named(counts).into_iter().enumerate() {
                status.counter(n).store(value, Relaxed);
            }
            self.counts = counts;
        }
    }
}

/// Counters by name, in the order of the status page.
fn named(counts: Counts) -> [(&'static str, u64); 8] {
    [
        ("output bytes from the guest", counts.produced),
        ("output bytes sent", counts.sent),
        ("output bytes dropped, nobody connected", counts.dropped),
        ("input bytes received", counts.received),
        ("input bytes taken", counts.taken),
        ("interrupts", counts.interrupts),
        ("posted writes", counts.posted),
        ("register round trips", counts.requests),
    ]
}

fn write_counts(counts: Counts, message: from_islet::Builder<'_>) {
    let counts = named(counts);
    let mut list = message.init_statistics().init_counters(counts.len() as u32);
    for (n, (name, value)) in (0..).zip(counts) {
        let mut counter = list.reborrow().get(n);
        counter.set_name(name);
        counter.set_value(value);
    }
}

/// Who wants something.
struct Ready {
    control: bool,
    kick: bool,
    console: PollFlags,
}

fn wait_for(link: &Link, port: &Port, timeout: Option<TimeSpec>) -> Result<Ready, Problem> {
    let interest = port.interest();
    // A third descriptor that is always valid keeps the set's size fixed; it is looked at only with an interest.
    let (console, flags) = interest.unwrap_or((port.kick(), PollFlags::empty()));
    let mut set = [
        PollFd::new(link.as_fd(), PollFlags::POLLIN),
        PollFd::new(port.kick(), PollFlags::POLLIN),
        PollFd::new(console, flags),
    ];
    match ppoll(&mut set, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(Problem::window(format!("ppoll failed: {errno}"))),
    }
    let seen = |n: usize| set[n].revents().unwrap_or(PollFlags::empty());
    let console = if interest.is_some() { seen(2) } else { PollFlags::empty() };
    Ok(Ready { control: !seen(0).is_empty(), kick: !seen(1).is_empty(), console })
}
