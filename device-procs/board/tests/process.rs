//! The board as a process: started with its control socket, locked down, driven as supervisor and engine drive it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell::{
    Attributes, Bus, DeviceArea, DeviceClient, EventFd, Header, Role, Route, Space, SpinPolicy, Unanswered,
    create_windows,
};
use enter::status::{STATUS_PAGE_SIZE, Stage, StatusPage};
use guest_memory::Memfd;
use link::capnp::{Scratch, recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use machine_model::MachineVersion;
use spawn::{Child, Command, ExitCause, Image};
use state::{Left, StateArea};
use wire::islet_capnp::{from_islet, to_islet};

const INCARNATION: u32 = 7;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// Supervisor and engine of one board process.
struct Vm {
    child: Child,
    link: Link,
    inbox: Inbox,
    next_id: u64,
    header: Arc<Header>,
    client: Arc<DeviceClient>,
    bus: Arc<Bus>,
    notify: EventFd,
    exit: Arc<AtomicU32>,
    status: &'static StatusPage,
    state: OwnedFd,
}

/// Row of the state memfd.
const STATE_ROW: u16 = 1;

/// What the board said, as far as the tests look at it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ready,
    Done,
    Failed(String),
    Counters(Vec<(String, u64)>),
    PowerOff,
    Reset,
    DebugExit(u32),
    Suspend,
    Wake(String),
    Saved(Left),
}

impl Vm {
    /// Starts the board process and sends its setup; `leave_out` names a descriptor that is not sent.
    fn start(leave_out: &str) -> Self {
        Self::start_with(leave_out, Memfd::create("state", state::MEMFD_BYTES).unwrap())
    }

    /// The same, with a memfd for states.
    fn start_with(leave_out: &str, state: OwnedFd) -> Self {
        let machine = MachineVersion::Q35_0.machine();
        let image = Image::open(env!("CARGO_BIN_EXE_board")).unwrap();
        let (link, theirs) = Link::pair(Peer::new("supervisor", 1), Peer::new("board", INCARNATION)).unwrap();
        let log = std::io::stderr();
        let command = Command::new("board", &image).log(log.as_fd()).control(theirs.as_fd());
        let child = spawn::keeper(&command).unwrap();
        drop(theirs);

        let windows = create_windows().unwrap();
        let status: OwnedFd = Memfd::create("status", STATUS_PAGE_SIZE as u64).unwrap();
        let header = Arc::new(Header::map(windows.as_fd(), Role::Engine).unwrap());
        let area = DeviceArea::map(windows.as_fd(), 0).unwrap();
        let (kick, notify) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let page = StatusPage::map(status.as_fd(), 0).unwrap();

        let mut scratch = Scratch::new(4096);
        let mut message = scratch.builder();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(1);
        root.set_incarnation(INCARNATION);
        let mut setup = root.init_setup();
        setup.set_machine(machine.name);
        setup.set_name("board");
        setup.set_state_row(STATE_ROW);
        let all = [
            ("windows", windows.as_fd()),
            ("status", status.as_fd()),
            ("kick", kick.as_fd()),
            ("notify", notify.as_fd()),
            ("state", state.as_fd()),
        ];
        let sent: Vec<_> = all.into_iter().filter(|(name, _)| *name != leave_out).collect();
        let mut list = setup.reborrow().init_descriptors(sent.len() as u32);
        for (index, (name, _)) in (0..).zip(&sent) {
            list.reborrow().get(index).set_name(*name);
            list.reborrow().get(index).set_index(index as u16);
        }
        setup.init_role().init_board().set_wall_clock_seconds(1_700_000_000);
        let descriptors: Vec<_> = sent.iter().map(|(_, fd)| *fd).collect();
        send_message(&link, &message, &descriptors, soon()).unwrap();

        let client = Arc::new(DeviceClient::new(area, kick, 1, SpinPolicy::Block));
        let list = doorbell::board::windows(machine, 0);
        let bus = Arc::new(Bus::new(header.clone(), list, std::slice::from_ref(&client)).unwrap());
        let exit = Arc::new(AtomicU32::new(0));
        Self { child, link, inbox: Inbox::new(), next_id: 2, header, client, bus, notify, exit, status: page, state }
    }

    fn running() -> Self {
        let mut vm = Self::start("");
        assert_eq!(vm.hear(), (1, Said::Ready));
        assert_eq!(vm.ask(|mut m| m.set_run(())), Said::Done);
        vm
    }

    fn hear(&mut self) -> (u64, Said) {
        let incoming = recv_message(&self.link, &mut self.inbox, soon()).unwrap();
        let message = incoming.reader.get_root::<from_islet::Reader<'_>>().unwrap();
        assert_eq!(message.get_incarnation(), INCARNATION);
        let said = match message.which().unwrap() {
            from_islet::Ready(()) => Said::Ready,
            from_islet::Done(()) => Said::Done,
            from_islet::Failed(failed) => {
                let failed = failed.unwrap();
                let (why, code) = (failed.get_why().unwrap(), failed.get_code().unwrap());
                Said::Failed(format!("{} [{}]", why.to_str().unwrap(), code.to_str().unwrap()))
            }
            from_islet::Statistics(statistics) => {
                let counters = statistics.unwrap().get_counters().unwrap();
                let row = |c: wire::engine_capnp::counter::Reader<'_>| {
                    (c.get_name().unwrap().to_string().unwrap(), c.get_value())
                };
                Said::Counters(counters.iter().map(row).collect())
            }
            from_islet::GuestPowerOff(()) => Said::PowerOff,
            from_islet::GuestReset(()) => Said::Reset,
            from_islet::DebugExit(value) => Said::DebugExit(value),
            from_islet::GuestSuspend(()) => Said::Suspend,
            from_islet::GuestWake(cause) => Said::Wake(cause.unwrap().to_string().unwrap()),
            from_islet::Saved(saved) => {
                let saved = saved.unwrap();
                Said::Saved(Left {
                    length: saved.get_length(),
                    digest: saved.get_digest().unwrap().try_into().unwrap(),
                })
            }
            _ => panic!("an unexpected message"),
        };
        (message.get_in_reply_to(), said)
    }

    fn send(&mut self, incarnation: u32, fill: impl FnOnce(to_islet::Builder<'_>)) -> u64 {
        let mut scratch = Scratch::new(1024);
        let mut message = scratch.builder();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(self.next_id);
        root.set_incarnation(incarnation);
        fill(root);
        self.next_id += 1;
        send_message(&self.link, &message, &[], soon()).unwrap();
        self.next_id - 1
    }

    fn ask(&mut self, fill: impl FnOnce(to_islet::Builder<'_>)) -> Said {
        let id = self.send(INCARNATION, fill);
        let (to, said) = self.hear();
        assert_eq!(to, id);
        said
    }

    /// Starts an access by vCPU 0.
    fn access(&self, space: Space, address: u64, width: u8, write: Option<u64>) -> JoinHandle<Result<u64, Unanswered>> {
        let (bus, exit) = (self.bus.clone(), self.exit.clone());
        std::thread::spawn(move || {
            let window = bus.find(space, address, width).expect("a window of the board");
            let attributes = Attributes::default();
            match write {
                Some(value) => bus.write(window, address, width, value, 0, attributes, &exit).map(|()| 0),
                None => bus.read(window, address, width, 0, attributes, &exit),
            }
        })
    }

    fn save(&mut self) -> Said {
        self.ask(|mut m| m.set_save("q35-0"))
    }

    fn load(&mut self, left: Left) -> Said {
        self.ask(|m| {
            let mut load = m.init_load();
            load.set_length(left.length);
            load.set_digest(&left.digest);
        })
    }

    fn inp(&self, port: u64) -> u64 {
        self.access(Space::Port, port, 1, None).join().unwrap().unwrap()
    }

    fn outp(&self, port: u64, value: u64) {
        self.access(Space::Port, port, 1, Some(value)).join().unwrap().unwrap();
    }

    fn redirect(&self, pin: u64, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xFFFF_FFFF)] {
            for (address, value) in [(0xFEC0_0000, 0x10 + 2 * pin + half), (0xFEC0_0010, value)] {
                self.access(Space::Memory, address, 4, Some(value)).join().unwrap().unwrap();
            }
        }
        // A read waits for what was posted before it.
        self.access(Space::Memory, 0xFEC0_0010, 4, None).join().unwrap().unwrap();
    }

    /// Takes vCPU 0 back from a request, as a pausing engine does.
    fn withdraw(&self, waiting: JoinHandle<Result<u64, Unanswered>>) {
        assert!(!waiting.is_finished(), "the vCPU waits");
        self.exit.store(1, Ordering::SeqCst);
        self.client.wake(0);
        assert_eq!(waiting.join().unwrap(), Err(Unanswered::Withdrawn));
        self.exit.store(0, Ordering::SeqCst);
    }

    fn end(self) -> ExitCause {
        let exit = self.child.wait(Some(Duration::from_secs(30))).unwrap().expect("the board ends");
        ExitCause::decode(exit, Some(&self.status.snapshot()))
    }
}

#[test]
fn a_board_locks_itself_down_serves_and_quits() {
    let mut vm = Vm::running();
    assert_eq!(vm.status.snapshot().stage, Stage::Sealed);
    vm.outp(0x21, 0x4A);
    assert_eq!(vm.inp(0x21), 0x4A);
    vm.outp(0x70, 0x32);
    assert_eq!(vm.inp(0x71), 0x20, "the century");
    vm.redirect(4, 0x34);
    assert_eq!(vm.header.route(4).1, Route::Forward, "the PIC listens to line 4, too");
    let Said::Counters(counters) = vm.ask(|mut m| m.set_statistics(())) else { panic!("counters") };
    assert!(counters.iter().any(|(name, value)| name == "accesses" && *value >= 8), "{counters:?}");
    vm.send(INCARNATION + 1, |mut m| m.set_quit(()));
    assert!(
        matches!(vm.ask(|mut m| m.set_attach_console("x")), Said::Failed(_)),
        "the other incarnation's was dropped"
    );
    assert_eq!(vm.ask(|mut m| m.set_quit(())), Said::Done);
    assert!(matches!(vm.end(), ExitCause::Clean));
}

#[test]
fn timers_wake_a_sleeping_board() {
    let vm = Vm::running();
    vm.redirect(2, 0x30);
    vm.header.run_clock(0);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E)] {
        vm.outp(port, value);
    }
    let mut raised = Vec::new();
    while raised.len() < 3 {
        vm.notify.drain().unwrap();
        vm.header.take_raised(|line| raised.push(line));
        std::thread::yield_now();
    }
    assert_eq!(raised, [130; 3]);
}

#[test]
fn power_off_reset_and_exit_are_reported_and_hold_the_vcpu() {
    let mut vm = Vm::running();
    for (port, width, value, said) in
        [(0xF4, 1, 0x21, Said::DebugExit(0x21)), (0xCF9, 1, 0x06, Said::Reset), (0x604, 2, 0x3C00, Said::PowerOff)]
    {
        let waiting = vm.access(Space::Port, port, width, Some(value));
        assert_eq!(vm.hear(), (0, said));
        vm.withdraw(waiting);
        assert_eq!(vm.ask(|mut m| m.set_pause(())), Said::Done);
        assert_eq!(vm.ask(|mut m| m.set_reset(())), Said::Done);
        assert_eq!(vm.ask(|mut m| m.set_run(())), Said::Done);
        assert_eq!(vm.inp(0x21), 0xFF, "reset");
    }
}

#[test]
fn a_paused_board_stands_still() {
    let mut vm = Vm::running();
    assert_eq!(vm.ask(|mut m| m.set_pause(())), Said::Done);
    let waiting = vm.access(Space::Port, 0x71, 1, None);
    assert!(matches!(vm.ask(|mut m| m.set_statistics(())), Said::Counters(_)));
    vm.withdraw(waiting);
    assert_eq!(vm.ask(|mut m| m.set_run(())), Said::Done);
    vm.inp(0x71);
}

#[test]
fn the_power_button_reaches_the_guest() {
    let mut vm = Vm::running();
    vm.redirect(9, 0x8029);
    vm.access(Space::Port, 0x602, 2, Some(0x0100)).join().unwrap().unwrap();
    vm.access(Space::Port, 0x600, 2, None).join().unwrap().unwrap();
    assert_eq!(vm.ask(|mut m| m.set_power_button(())), Said::Done);
    let mut raised = Vec::new();
    vm.header.take_raised(|line| raised.push(line));
    assert_eq!(raised, [137]);
    assert!(vm.notify.drain().unwrap() > 0);
}

#[test]
fn a_setup_without_a_descriptor_is_refused_by_name() {
    for name in ["windows", "status", "kick", "notify"] {
        let mut vm = Vm::start(name);
        let (1, Said::Failed(why)) = vm.hear() else { panic!("a failure in reply to the setup") };
        assert!(why.contains(name), "{why}");
        assert!(matches!(vm.end(), ExitCause::Error { .. }));
    }
}

#[test]
fn a_board_whose_supervisor_is_gone_ends() {
    let Vm { child, link, status, .. } = Vm::running();
    drop(link);
    let exit = child.wait(Some(Duration::from_secs(30))).unwrap().expect("the board ends");
    let cause = ExitCause::decode(exit, Some(&status.snapshot()));
    assert!(matches!(cause, ExitCause::LostPeer { .. }), "{cause}");
}

fn failed(said: Said, words: [&str; 2]) {
    let Said::Failed(why) = said else { panic!("{said:?}") };
    assert!(words.iter().all(|word| why.contains(word)), "{why}");
}

#[test]
fn a_state_is_saved_and_another_process_goes_on_with_it() {
    let mut vm = Vm::running();
    failed(vm.save(), ["running", "[state.running]"]);
    failed(vm.load(Left::default()), ["running", "[state.running]"]);
    vm.redirect(4, 0x34);
    vm.outp(0x21, 0xFF);
    vm.outp(0x70, 0x50);
    vm.outp(0x71, 0x99);
    assert_eq!(vm.ask(|mut m| m.set_pause(())), Said::Done);
    let Said::Saved(left) = vm.save() else { panic!("a state") };
    assert_eq!(vm.save(), Said::Saved(left), "the same twice");
    failed(vm.ask(|mut m| m.set_save("q35-9")), ["q35-9", "[state.refused]"]);
    let state = vm.state.try_clone().unwrap();
    drop(vm);

    let mut other = Vm::start_with("", state);
    assert_eq!(other.hear(), (1, Said::Ready));
    failed(other.load(Left { length: left.length - 8, ..left }), ["digest", "[state.refused]"]);
    failed(other.ask(|m| m.init_load().set_digest(b"short")), ["32 bytes", "[board.unsupported]"]);
    assert_eq!(other.load(left), Said::Done);
    assert_eq!(other.save(), Said::Saved(left), "nothing has run");
    assert_eq!(other.header.route(4).1, Route::Msi { address: 0xFEE0_0000, data: 0x4034 });
    assert_eq!(other.ask(|mut m| m.set_run(())), Said::Done);
    assert_eq!((other.inp(0x21), other.inp(0x71)), (0xFF, 0x99));

    // A state of the right digest whose field is wrong.
    assert_eq!(other.ask(|mut m| m.set_pause(())), Said::Done);
    let area = StateArea::map(other.state.as_fd(), STATE_ROW).unwrap();
    let mut message = state::begin("board", "q35-0", state::Kind::Board).unwrap();
    state::finish(&mut message).unwrap();
    failed(other.load(area.leave(&message).unwrap()), ["'board.ioapic", "[state.refused]"]);
    assert_eq!(other.ask(|mut m| m.set_run(())), Said::Done);
    assert_eq!(other.inp(0x71), 0x99, "as it was");
}

#[test]
fn without_an_area_for_states_there_are_none() {
    let mut vm = Vm::start("state");
    assert_eq!(vm.hear(), (1, Said::Ready));
    failed(vm.save(), ["'state'", "[state.none]"]);
    failed(vm.load(Left::default()), ["'state'", "[state.none]"]);
}

/// Sets an alarm two seconds ahead, with its event enabled, and goes to sleep; answers the vCPU that waits.
fn suspend(vm: &mut Vm) -> JoinHandle<Result<u64, Unanswered>> {
    // The clock shows 22:13:20 at guest time zero.
    for (index, value) in [(1, 0x22), (3, 0xC0), (5, 0xC0), (0x0B, 0x22)] {
        vm.outp(0x70, index);
        vm.outp(0x71, value);
    }
    vm.access(Space::Port, 0x602, 2, Some(0x0400)).join().unwrap().unwrap();
    let waiting = vm.access(Space::Port, 0x604, 2, Some(0x3401));
    assert_eq!(vm.hear(), (0, Said::Suspend));
    waiting
}

#[test]
fn a_suspended_machine_is_woken_by_its_alarm_also_by_another_process() {
    let mut vm = Vm::running();
    failed(vm.ask(|mut m| m.set_wake(())), ["not suspended", "[s3.awake]"]);
    let waiting = suspend(&mut vm);
    vm.withdraw(waiting);
    assert_eq!(vm.ask(|mut m| m.set_pause(())), Said::Done);
    let Said::Saved(left) = vm.save() else { panic!("a state") };
    let state = vm.state.try_clone().unwrap();
    drop(vm);
    let mut vm = Vm::start_with("", state);
    assert_eq!(vm.hear(), (1, Said::Ready));
    assert_eq!(vm.load(left), Said::Done);
    assert_eq!(vm.ask(|mut m| m.set_run(())), Said::Done);
    // Just before the alarm; the process has to wake up for it by itself.
    vm.header.run_clock(1_999_000_000);
    assert_eq!(vm.hear(), (0, Said::Wake("rtc".into())));
    assert_eq!(vm.ask(|mut m| m.set_wake(())), Said::Done);
    failed(vm.ask(|mut m| m.set_wake(())), ["not suspended", "[s3.awake]"]);
    let status = vm.access(Space::Port, 0x600, 2, None).join().unwrap().unwrap();
    assert_eq!(status & 0x8400, 0x8400);
}

#[test]
fn the_power_button_wakes_a_suspended_machine_and_a_reset_ends_its_sleep() {
    let mut vm = Vm::running();
    let waiting = suspend(&mut vm);
    vm.withdraw(waiting);
    let button = vm.send(INCARNATION, |mut m| m.set_power_button(()));
    let said = [vm.hear(), vm.hear()];
    assert!(said.contains(&(0, Said::Wake("button".into()))) && said.contains(&(button, Said::Done)), "{said:?}");
    assert_eq!(vm.ask(|mut m| m.set_pause(())), Said::Done);
    assert_eq!(vm.ask(|mut m| m.set_reset(())), Said::Done);
    assert_eq!(vm.ask(|mut m| m.set_run(())), Said::Done);
    failed(vm.ask(|mut m| m.set_wake(())), ["not suspended", "[s3.awake]"]);
}
