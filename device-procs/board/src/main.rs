//! The board's process: receives its descriptors, locks itself down, and serves until it is told to end.
//!
//! The one idea: one thread, one loop. Each turn takes control messages, then whatever the engine left (ended and forwarded
//! interrupts, accesses), lets guest time pass, publishes, and sleeps until somebody rings or a timer is due.
//!
//! Descriptors by name in `setup`: `windows` and `status` (memfds, mapped and closed), `kick` (eventfd that wakes the
//! board), `notify` (eventfd with which the board wakes the engine), `state` (memfd, its row mapped and closed; without it
//! the board neither saves nor loads).

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use board::control::{Command, Order, Problem, Say, read_command};
use board::saved;
use board::serve::{Board, publish_constants};
use doorbell::{DeviceArea, EventFd, Header, Role, Served, Server};
use enter::ThreadGate;
use enter::status::StatusPage;
use link::capnp::{Scratch, recv_message, send_message, try_recv_message};
use link::{Deadline, Inbox, Link, LinkError, Peer};
use machine_model::Machine;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use profile::Kind;
use state::{Left, StateArea};
use wire::islet_capnp::{from_islet, to_islet};

// The inbox, a message to send, the functions of the board, a state and its copy.
arena::global!(4 << 20);

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// For the setup, which was sent before this process was started, and for each answer, whose peer is there to read it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Layout version of the committed state, which is empty.
const STATE_VERSION: u64 = 1;
/// Room for the longest message that the board sends.
const MESSAGE_BYTES: usize = 4096;

fn main() {
    enter::begin();
    match run() {
        Ok(()) => enter::exit::clean(),
        Err(End::Peer(error)) => enter::exit::lost_peer(&error),
        Err(End::Own(problem)) => enter::exit::error(&problem),
    }
}

/// Why the process ends without having been told to.
enum End {
    /// There is nobody to answer to.
    Peer(LinkError),
    /// Something else.
    Own(Problem),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        End::Peer(error)
    }
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        End::Own(problem)
    }
}

/// The control socket and who this process is on it.
struct Control {
    link: Link,
    incarnation: u32,
    scratch: Scratch,
}

impl Control {
    fn say(&mut self, id: u64, what: &Say) -> Result<(), LinkError> {
        let mut message = self.scratch.builder();
        what.write(message.init_root::<from_islet::Builder<'_>>(), id, self.incarnation);
        send_message(&self.link, &message, &[], Deadline::after(PATIENCE))
    }
}

fn run() -> Result<(), End> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let (mut id, mut incarnation) = (0, 0);
    let prepared = match incoming.reader.get_root::<to_islet::Reader<'_>>() {
        Ok(message) => {
            (id, incarnation) = (message.get_id(), message.get_incarnation());
            read_order(message).and_then(|order| prepare(&order, incoming.descriptors, &link))
        }
        Err(error) => Err(Problem::setup(error)),
    };
    let mut control = Control { link, incarnation, scratch: Scratch::new(MESSAGE_BYTES) };
    match prepared {
        Ok(islet) => {
            // Never dropped: unmapping is not among the calls that are left.
            let islet = Box::leak(Box::new(islet));
            control.say(id, &Say::Ready)?;
            islet.serve(&mut control, &mut inbox)
        }
        Err(problem) => {
            control.say(id, &Say::Failed(problem.clone()))?;
            Err(problem.into())
        }
    }
}

fn read_order(message: to_islet::Reader<'_>) -> Result<Order, Problem> {
    match message.which() {
        Ok(to_islet::Setup(setup)) => Order::read(setup.map_err(Problem::setup)?),
        Ok(_) => Err(Problem::setup("the first message was another request")),
        Err(error) => Err(Problem::setup(error)),
    }
}

/// Everything that serving needs, after lock-down.
struct Islet {
    board: Board,
    server: Server<()>,
    kick: EventFd,
    page: &'static StatusPage,
    machine: &'static Machine,
    state: Option<StateArea>,
    running: bool,
}

/// Maps what the board shares, and locks the process down, in the order of `enter`'s documentation.
fn prepare(order: &Order, descriptors: &mut Vec<OwnedFd>, link: &Link) -> Result<Islet, Problem> {
    let mut received: Vec<Option<OwnedFd>> = descriptors.drain(..).map(Some).collect();
    let mut take = |name: &str| {
        let index = order.descriptors.iter().find(|(known, _)| known == name).map(|(_, index)| *index);
        let descriptor = index.and_then(|index| received.get_mut(index)).and_then(Option::take);
        descriptor.ok_or_else(|| Problem::setup(format!("there is no descriptor '{name}' with it")))
    };
    let status = take("status")?;
    let page = StatusPage::map(status.as_fd(), order.status_row).map_err(Problem::setup)?;
    enter::attach_status(page);
    drop(status);

    let windows = take("windows")?;
    let header = Header::map(windows.as_fd(), Role::Board).map_err(Problem::setup)?;
    let area = DeviceArea::map(windows.as_fd(), order.area).map_err(Problem::setup)?;
    drop(windows);
    let kick = EventFd::from(take("kick")?);
    let notify = EventFd::from(take("notify")?);
    let state = match order.has("state") {
        true => Some(StateArea::map(take("state")?.as_fd(), order.state_row).map_err(Problem::setup)?),
        false => None,
    };
    drop(received);

    let profile = Kind::Board.profile();
    let keep = [link.as_fd().as_raw_fd(), kick.as_fd().as_raw_fd(), notify.as_fd().as_raw_fd()];
    publish_constants(order.machine, &area);
    let mut board = Board::new(order.machine, header, notify, order.wall_seconds);
    let (mut server, _) = Server::attach(area, STATE_VERSION, ()).map_err(Problem::setup)?;
    enter::before_threads(profile).map_err(Problem::sandbox)?;
    enter::close_all_but(&keep).map_err(Problem::sandbox)?;
    enter::seal(profile, &ThreadGate::new()).map_err(Problem::sandbox)?;
    server.recover(&mut board);
    board.pause();
    board.flush(server.area()).map_err(Problem::shared)?;
    Ok(Islet { board, server, kick, page, machine: order.machine, state, running: false })
}

impl Islet {
    /// Serves until told to quit.
    fn serve(&mut self, control: &mut Control, inbox: &mut Inbox) -> Result<(), End> {
        loop {
            self.page.beat();
            while let Some(incoming) = try_recv_message(&control.link, inbox)? {
                let root = incoming.reader.get_root::<to_islet::Reader<'_>>();
                let (id, command) = read_command(root, control.incarnation);
                let answer = match command {
                    Ok(None) => continue,
                    Ok(Some(Command::Quit)) => {
                        control.say(id, &Say::Done)?;
                        return Ok(());
                    }
                    Ok(Some(command)) => self.obey(command)?,
                    Err(problem) => Say::Failed(problem),
                };
                self.tell(control)?;
                control.say(id, &answer)?;
            }
            if !self.works() {
                self.sleep(control, None)?;
                continue;
            }
            let served = self.turn()?;
            self.tell(control)?;
            if served.corrupt {
                control.say(0, &Say::Attack("the engine posted more writes to the board than the ring holds"))?;
            }
            if served.posted == 0 && served.requests == 0 {
                self.rest(control)?;
            }
        }
    }

    /// Reports what the guest asked of the machine, and what wakes it.
    fn tell(&mut self, control: &mut Control) -> Result<(), LinkError> {
        while let Some(event) = self.board.take_event() {
            control.say(0, &Say::Guest(event))?;
        }
        Ok(())
    }

    fn works(&self) -> bool {
        self.running && !self.board.has_ended()
    }

    fn obey(&mut self, command: Command) -> Result<Say, End> {
        match command {
            Command::Run => {
                self.running = true;
                self.board.go_on();
            }
            Command::Pause => {
                if self.works() {
                    self.turn()?;
                }
                self.running = false;
                self.board.pause();
            }
            Command::Reset => {
                self.board.discard();
                self.server.serve(&mut self.board);
                self.board.reset();
            }
            Command::PowerButton => self.board.power_button(),
            Command::Wake if self.board.wake() => {}
            Command::Wake => return Ok(Say::Failed(Problem::awake())),
            Command::Save(machine) => return self.save(&machine),
            Command::Load(left) => return self.load(left),
            Command::Ping => return Ok(Say::Done),
            Command::Statistics => return Ok(Say::Statistics(self.board.counts())),
            // Ends the process before it comes here.
            Command::Quit => {}
        }
        self.board.flush(self.server.area()).map_err(Problem::shared)?;
        Ok(Say::Done)
    }

    /// The area for states, if there may be a state now.
    fn quiet_area(&self) -> Result<&StateArea, Problem> {
        if self.running {
            return Err(Problem::running());
        }
        self.state.as_ref().ok_or_else(Problem::no_state)
    }

    /// Leaves the state in its area.
    fn save(&mut self, machine: &str) -> Result<Say, End> {
        if let Err(problem) = self.quiet_area() {
            return Ok(Say::Failed(problem));
        }
        saved::settle(&mut self.board, &mut self.server).map_err(Problem::shared)?;
        let left = self.quiet_area().and_then(|area| {
            saved::leave(&self.board, area, self.machine, machine).map_err(|error| Problem::refused(&error))
        });
        Ok(left.map_or_else(Say::Failed, Say::Saved))
    }

    /// Takes the state from its area, or refuses it and stays as it is.
    fn load(&mut self, left: Left) -> Result<Say, End> {
        let loaded = self.quiet_area().and_then(|area| {
            let read =
                |state: wire::saved_capnp::saved_state::Reader<'_>| saved::read(&self.board, state, self.machine);
            area.take(left, read).map_err(|error| Problem::refused(&error))
        });
        let chipset = match loaded {
            Ok(chipset) => chipset,
            Err(problem) => return Ok(Say::Failed(problem)),
        };
        saved::replace(&mut self.board, &mut self.server, chipset).map_err(Problem::shared)?;
        Ok(Say::Done)
    }

    /// Does all that there is to do now.
    fn turn(&mut self) -> Result<Served, Problem> {
        self.board.take_exchange();
        let served = self.server.serve(&mut self.board);
        self.board.advance();
        self.board.flush(self.server.area()).map_err(Problem::shared)?;
        Ok(served)
    }

    /// Sleeps if there is nothing to do, until there is.
    fn rest(&mut self, control: &Control) -> Result<(), Problem> {
        // From here on the engine rings; what it brought before that is seen now.
        let idle = self.server.fall_asleep() && !self.board.take_exchange();
        if idle {
            let timeout = self.board.sleep();
            self.sleep(control, timeout)?;
        }
        self.server.wake_up();
        self.kick.drain().map_err(Problem::shared)?;
        Ok(())
    }

    /// Waits for a control message, a ring, or `timeout` nanoseconds.
    fn sleep(&self, control: &Control, timeout: Option<u64>) -> Result<(), Problem> {
        let mut descriptors =
            [PollFd::new(control.link.as_fd(), PollFlags::POLLIN), PollFd::new(self.kick.as_fd(), PollFlags::POLLIN)];
        // Without work to do a ring means nothing: it is taken when there is.
        let watched = if self.works() { 2 } else { 1 };
        let timeout = timeout.map(|nanoseconds| Duration::from_nanos(nanoseconds).into());
        match ppoll(descriptors.get_mut(..watched).unwrap_or_default(), timeout, None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Problem::shared(format!("ppoll failed: {errno}"))),
        }
    }
}
