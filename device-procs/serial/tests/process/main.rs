//! The serial port as a real process behind its own seccomp filter, with this test as its engine, console, supervisor and
//! keeper.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code outside of test functions")]

mod control;
mod kill9;
mod saved;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use doorbell::{Attributes, Bus, DeviceArea, DeviceClient, EventFd, Header, Role, Space, SpinPolicy, create_windows};
use enter::status::{Status, StatusPage};
use link::capnp::{recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use spawn::{Child, Command, Exit, Image};
use wire::islet_capnp::{from_islet, to_islet};

const BASE: u64 = 0x3f8;
const AREA: u16 = 7;
const STATUS_ROW: u16 = 3;
const STATE_ROW: u16 = 2;
const MACHINE: &str = "q35-0";
/// No step of a healthy process takes long; a lost wake-up would take for ever.
const PATIENCE: Duration = Duration::from_secs(60);
static NO_EXIT: AtomicU32 = AtomicU32::new(0);

/// Everything that outlives a serial process, and the engine's side.
struct Vm {
    windows: OwnedFd,
    status: OwnedFd,
    state: OwnedFd,
    kick: EventFd,
    irq: EventFd,
    /// The serial port's end of its console, held for successors.
    console: OwnedFd,
    client: Arc<DeviceClient>,
    bus: Bus,
    image: Image,
}

impl Vm {
    /// A VM and the other end of its console.
    fn new() -> (Self, UnixStream) {
        let windows = create_windows().unwrap();
        let status = guest_memory::Memfd::create("status", 8 * 4096).unwrap();
        let state = guest_memory::Memfd::create("state", state::MEMFD_BYTES).unwrap();
        let (kick, irq) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let (console, theirs) = UnixStream::pair().unwrap();
        let area = DeviceArea::map(windows.as_fd(), AREA).unwrap();
        let client = Arc::new(DeviceClient::new(area, kick.try_clone().unwrap(), 1, SpinPolicy::Spin(200)));
        let header = Arc::new(Header::map(windows.as_fd(), Role::Engine).unwrap());
        let list = vec![doorbell::uart::window("serial0", BASE as u16, AREA)];
        let bus = Bus::new(header, list, std::slice::from_ref(&client)).unwrap();
        let image = Image::open(env!("CARGO_BIN_EXE_serial")).unwrap();
        (Self { windows, status, state, kick, irq, console: console.into(), client, bus, image }, theirs)
    }

    fn read(&self, vcpu: u16, register: u64) -> u64 {
        let window = self.bus.find(Space::Port, BASE + register, 1).unwrap();
        self.bus.read(window, BASE + register, 1, vcpu, Attributes::default(), &NO_EXIT).unwrap()
    }

    fn write(&self, vcpu: u16, register: u64, value: u64) {
        let window = self.bus.find(Space::Port, BASE + register, 1).unwrap();
        self.bus.write(window, BASE + register, 1, value, vcpu, Attributes::default(), &NO_EXIT).unwrap();
    }

    fn status(&self) -> Status {
        StatusPage::map(self.status.as_fd(), STATUS_ROW.into()).unwrap().snapshot()
    }

    /// Starts a process and sends it `setup`; not yet `run`.
    fn start_with(
        &self,
        incarnation: u32,
        setup: impl FnOnce(to_islet::Builder<'_>),
        fds: &[BorrowedFd<'_>],
    ) -> Process {
        let (ours, theirs) = Link::pair(Peer::new("supervisor", 1), Peer::new("serial0", incarnation)).unwrap();
        let mut process = Process { link: ours, inbox: Inbox::new(), incarnation, next_id: 1, child: None };
        process.post(1, setup, fds);
        let log = std::io::stderr();
        let command = Command::new("serial0", &self.image).log(log.as_fd()).control(theirs.as_fd());
        process.child = Some(spawn::keeper(&command).unwrap());
        process
    }

    /// Starts a process with everything in place, up to its `run`.
    fn start(&self, incarnation: u32) -> Process {
        let mut process = self.start_paused(incarnation);
        process.done(|mut m| m.set_run(()));
        process
    }

    /// The same, without the `run`.
    fn start_paused(&self, incarnation: u32) -> Process {
        let fds = [
            self.status.as_fd(),
            self.windows.as_fd(),
            self.kick.as_fd(),
            self.irq.as_fd(),
            self.console.as_fd(),
            self.state.as_fd(),
        ];
        let fill = |mut message: to_islet::Builder<'_>| {
            message.set_incarnation(incarnation);
            fill_setup(message, &["status", "windows", "kick", "irq", "console", "state"], "console");
        };
        let mut process = self.start_with(incarnation, fill, &fds);
        process.expect(1, |answer| assert!(matches!(answer, from_islet::Ready(()))));
        process
    }
}

fn fill_setup(message: to_islet::Builder<'_>, names: &[&str], console: &str) {
    let mut setup = message.init_setup();
    setup.set_name("serial0");
    setup.set_status_slot(STATUS_ROW);
    setup.set_state_row(STATE_ROW);
    setup.set_machine(MACHINE);
    let mut list = setup.reborrow().init_descriptors(names.len() as u32);
    for (index, name) in names.iter().enumerate() {
        let mut named = list.reborrow().get(index as u32);
        named.set_name(name);
        named.set_index(index as u16);
    }
    let mut role = setup.init_role().init_serial();
    role.set_area(AREA);
    role.set_line(4);
    role.init_console().set_stream(console);
}

/// A running serial process and its control socket.
struct Process {
    link: Link,
    inbox: Inbox,
    incarnation: u32,
    next_id: u64,
    child: Option<Child>,
}

type Answer<'a> = from_islet::WhichReader<'a>;

impl Process {
    fn post(&mut self, id: u64, fill: impl FnOnce(to_islet::Builder<'_>), fds: &[BorrowedFd<'_>]) {
        let mut message = capnp::message::Builder::new_default();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(id);
        root.set_incarnation(self.incarnation);
        fill(root);
        send_message(&self.link, &message, fds, Deadline::after(PATIENCE)).unwrap();
    }

    /// Takes the next message, which must be in reply to `id`.
    fn expect(&mut self, id: u64, check: impl FnOnce(Answer<'_>)) {
        let incoming = recv_message(&self.link, &mut self.inbox, Deadline::after(PATIENCE)).unwrap();
        let message = incoming.reader.get_root::<from_islet::Reader<'_>>().unwrap();
        assert_eq!((message.get_in_reply_to(), message.get_incarnation()), (id, self.incarnation));
        check(message.which().unwrap());
    }

    fn ask(
        &mut self,
        fill: impl FnOnce(to_islet::Builder<'_>),
        fds: &[BorrowedFd<'_>],
        check: impl FnOnce(Answer<'_>),
    ) {
        self.next_id += 1;
        self.post(self.next_id, fill, fds);
        self.expect(self.next_id, check);
    }

    fn done(&mut self, fill: impl FnOnce(to_islet::Builder<'_>)) {
        self.ask(fill, &[], |answer| assert!(matches!(answer, from_islet::Done(()))));
    }

    fn ended(mut self) -> Exit {
        let child = self.child.take().unwrap();
        child.wait(Some(PATIENCE)).unwrap().expect("it ends")
    }

    fn kill(mut self) {
        let child = self.child.take().unwrap();
        child.kill().unwrap();
        assert!(matches!(child.wait(Some(PATIENCE)).unwrap(), Some(Exit::Signal { number: 9, .. })));
    }
}

impl Drop for Process {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait(Some(PATIENCE));
        }
    }
}
