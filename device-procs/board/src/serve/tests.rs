//! The board behind its windows, with the engine's side of the doorbell crate as its guest.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use doorbell::{
    Access, Attributes, Bus, DeviceArea, DeviceClient, EventFd, Header, Role, Route, Server, SpinPolicy, Unanswered,
    create_windows,
};
use machine_model::MachineVersion;

use super::*;

mod saved;

/// Board and engine in one process: each access of the guest runs in a thread of its own while the board serves.
struct Rig {
    board: Board,
    server: Server<()>,
    engine: Arc<Header>,
    bus: Arc<Bus>,
    client: Arc<DeviceClient>,
    exit: Arc<AtomicU32>,
    notify: EventFd,
    _windows: OwnedFd,
}

impl Rig {
    fn new() -> Self {
        let machine = MachineVersion::Q35_0.machine();
        let windows = create_windows().unwrap();
        let area = || DeviceArea::map(windows.as_fd(), 0).unwrap();
        let engine = Arc::new(Header::map(windows.as_fd(), Role::Engine).unwrap());
        let client = Arc::new(DeviceClient::new(area(), EventFd::new().unwrap(), 1, SpinPolicy::Block));
        let bus = Arc::new(
            Bus::new(engine.clone(), doorbell::board::windows(machine, 0), std::slice::from_ref(&client)).unwrap(),
        );
        let notify = EventFd::new().unwrap();
        let header = Header::map(windows.as_fd(), Role::Board).unwrap();
        let mut board = Board::new(machine, header, notify.try_clone().unwrap(), 1_700_000_000);
        let (mut server, successor) = Server::attach(area(), 1, ()).unwrap();
        assert!(!successor);
        publish_constants(machine, server.area());
        server.recover(&mut board);
        board.flush(server.area()).unwrap();
        notify.drain().unwrap();
        let exit = Arc::new(AtomicU32::new(0));
        Self { board, server, engine, bus, client, exit, notify, _windows: windows }
    }

    fn serve(&mut self) {
        self.server.serve(&mut self.board);
        self.board.flush(self.server.area()).unwrap();
    }

    /// Runs `guest` as a vCPU while the board serves.
    fn guest<T: Send + 'static>(&mut self, guest: impl FnOnce(&Guest) -> T + Send + 'static) -> T {
        let vcpu = Guest { bus: self.bus.clone(), exit: self.exit.clone() };
        let thread = std::thread::spawn(move || guest(&vcpu));
        while !thread.is_finished() {
            self.serve();
            std::thread::yield_now();
        }
        // What was posted last.
        self.serve();
        thread.join().unwrap()
    }

    /// How many round trips there have been.
    fn trips(&self) -> u64 {
        self.bus.counts().iter().map(|count| count.synchronous).sum()
    }
}

struct Guest {
    bus: Arc<Bus>,
    exit: Arc<AtomicU32>,
}

impl Guest {
    fn access(&self, space: Space, address: u64, width: u8, write: Option<u64>) -> Result<u64, Unanswered> {
        let window = self.bus.find(space, address, width).expect("a window of the board");
        let attributes = Attributes::default();
        match write {
            Some(value) => self.bus.write(window, address, width, value, 0, attributes, &self.exit).map(|()| 0),
            None => self.bus.read(window, address, width, 0, attributes, &self.exit),
        }
    }

    fn inp(&self, port: u64, width: u8) -> u64 {
        self.access(Space::Port, port, width, None).unwrap()
    }

    fn outp(&self, port: u64, width: u8, value: u64) {
        self.access(Space::Port, port, width, Some(value)).unwrap();
    }

    fn load(&self, address: u64) -> u64 {
        self.access(Space::Memory, address, 4, None).unwrap()
    }

    fn store(&self, address: u64, value: u64) {
        self.access(Space::Memory, address, 4, Some(value)).unwrap();
    }

    fn redirect(&self, pin: u64, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xFFFF_FFFF)] {
            self.store(0xFEC0_0000, 0x10 + 2 * pin + half);
            self.store(0xFEC0_0010, value);
        }
    }

    fn init_pics(&self, master_mask: u64, slave_mask: u64) {
        for (base, vector, wiring, mask) in [(0x20, 0x30, 4, master_mask), (0xA0, 0x38, 2, slave_mask)] {
            self.outp(base, 1, 0x11);
            for value in [vector, wiring, 1, mask] {
                self.outp(base + 1, 1, value);
            }
        }
    }
}

#[test]
fn configuration_space_is_read_without_the_board() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        assert_eq!(guest.load(0xE000_0000), 0x29C0_8086);
        assert_eq!(guest.load(0xE00F_8000), 0x2918_8086);
        assert_eq!(guest.load(0xE000_8000), 0xFFFF_FFFF, "absent");
        guest.outp(0xCF8, 4, 0x8000_F808);
        assert_eq!(guest.inp(0xCFC, 4), 0x0601_0002);
        assert_eq!(guest.inp(0xCFE, 2), 0x0601);
        guest.outp(0xCF8, 4, 0x8000_1000);
        assert_eq!(guest.inp(0xCFC, 4), 0xFFFF_FFFF, "absent");
    });
    assert_eq!(rig.trips(), 0);
    rig.guest(|guest| {
        guest.outp(0xCF8, 4, 0x8000_F804);
        guest.outp(0xCFC, 2, 0xFFFF);
        assert_eq!(guest.inp(0xCFC, 2), 0x0147, "the shadow has changed before the write is over");
        assert_eq!(guest.load(0xE00F_8004), 0x0210_0147);
    });
    assert_eq!(rig.trips(), 1);
}

#[test]
fn the_pm_timer_is_read_without_the_board() {
    let mut rig = Rig::new();
    rig.engine.freeze_clock(1_000_000_000);
    assert_eq!(rig.guest(|guest| guest.inp(0x608, 4)), 3_579_545);
    assert_eq!(rig.trips(), 0);
}

#[test]
fn masks_and_enables_are_shadows_that_follow_writes() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.init_pics(0xFB, 0xFF);
        assert_eq!((guest.inp(0x21, 1), guest.inp(0xA1, 1)), (0xFB, 0xFF));
        guest.outp(0x4D1, 1, 0x0C);
        assert_eq!(guest.inp(0x4D1, 1), 0x0C);
        guest.outp(0x602, 2, 0x0100);
        assert_eq!(guest.inp(0x602, 2), 0x0100);
        assert_eq!(guest.inp(0x604, 2), 1);
        guest.outp(0x629, 1, 0x5A);
        guest.outp(0x62F, 1, 0xA5);
        assert_eq!((guest.inp(0x629, 1), guest.inp(0x62F, 1), guest.inp(0x628, 1)), (0x5A, 0xA5, 0));
    });
    let before = rig.trips();
    rig.guest(|guest| {
        assert_eq!((guest.inp(0x21, 1), guest.inp(0x4D0, 2), guest.inp(0x602, 2)), (0xFB, 0x0C00, 0x0100));
    });
    assert_eq!(rig.trips(), before, "once the writes are consumed nobody is asked");
}

#[test]
fn a_pending_poll_makes_the_mask_port_ask() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.init_pics(0, 0xFF);
        guest.outp(0x20, 1, 0x0C);
    });
    rig.guest(|guest| {
        assert_eq!(guest.inp(0x21, 1), 0, "the poll's answer");
        assert_eq!(guest.inp(0x21, 1), 0, "the mask");
    });
}

#[test]
fn a_line_follows_the_routing_that_the_guest_programs() {
    let mut rig = Rig::new();
    assert_eq!(rig.engine.route(4).1, Route::Forward);
    rig.guest(|guest| {
        guest.init_pics(0xFF, 0xFF);
        guest.redirect(4, 0x0100_0000_0000_0034);
        assert_eq!(guest.load(0xFEC0_0010), 0x34, "reads see what was posted");
    });
    assert_eq!(rig.engine.route(4).1, Route::Msi { address: 0xFEE0_1000, data: 0x4034 });
    rig.guest(|guest| guest.redirect(4, 0x1_0034));
    assert_eq!(rig.engine.route(4).1, Route::Forward);
    assert_eq!(rig.engine.route(DELIVER + 4).1, Route::Msi { address: 0xFEE0_0000, data: 0x4034 });
}

#[test]
fn a_forwarded_line_reaches_the_pic_and_its_vector_the_vcpu() {
    let mut rig = Rig::new();
    rig.guest(|guest| guest.init_pics(0xEF, 0xFF));
    rig.engine.forward(4);
    assert!(rig.board.take_exchange());
    rig.board.flush(rig.server.area()).unwrap();
    assert!(rig.engine.extint());
    assert_eq!(rig.notify.drain().unwrap(), 1);
    let client = rig.client.clone();
    let exit = rig.exit.clone();
    assert_eq!(rig.guest(move |_| client.interrupt_acknowledge(0, &exit).unwrap()), 0x34);
    assert!(!rig.engine.extint());
    assert_eq!(rig.board.counts().acknowledges, 1);
}

#[test]
fn a_level_interrupt_is_raised_and_ends_over_shared_memory() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.redirect(9, 0x8029);
        guest.outp(0x602, 2, 0x0100);
    });
    rig.board.power_button();
    rig.board.flush(rig.server.area()).unwrap();
    let raised = |rig: &Rig| {
        let mut lines = Vec::new();
        rig.engine.take_raised(|line| lines.push(line));
        lines
    };
    assert_eq!(raised(&rig), [DELIVER + 9]);
    assert_eq!(rig.engine.route(DELIVER + 9).1, Route::Msi { address: 0xFEE0_0000, data: 0xC029 });
    rig.engine.end_of_interrupt(0x29);
    assert!(rig.board.take_exchange());
    rig.board.flush(rig.server.area()).unwrap();
    assert_eq!(raised(&rig), [DELIVER + 9], "the button's status is still set");
    rig.guest(|guest| guest.outp(0x600, 2, 0x0100));
    rig.engine.end_of_interrupt(0x29);
    rig.board.take_exchange();
    rig.board.flush(rig.server.area()).unwrap();
    assert_eq!(raised(&rig), []);
}

#[test]
fn a_timer_interrupt_comes_with_guest_time() {
    let mut rig = Rig::new();
    rig.engine.freeze_clock(0);
    rig.guest(|guest| {
        guest.redirect(2, 0x30);
        for (port, value) in [(0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E)] {
            guest.outp(port, 1, value);
        }
    });
    assert_eq!(rig.board.sleep(), Some(CLOCK_LOOK), "the clock stands");
    rig.engine.freeze_clock(20_000_000);
    rig.board.advance();
    rig.board.flush(rig.server.area()).unwrap();
    let mut lines = Vec::new();
    rig.engine.take_raised(|line| lines.push(line));
    assert_eq!(lines, [DELIVER + 2]);
    rig.engine.run_clock(20_000_000);
    assert!(rig.board.sleep().is_some_and(|left| left <= 10_000_000));
}

/// Runs `guest`, which ends the run, until the event is there; then withdraws the access as a pausing engine does.
fn end_run(rig: &mut Rig, port: u64, width: u8, value: u64) -> Event {
    let vcpu = Guest { bus: rig.bus.clone(), exit: rig.exit.clone() };
    let thread = std::thread::spawn(move || vcpu.access(Space::Port, port, width, Some(value)));
    let event = loop {
        rig.serve();
        if let Some(event) = rig.board.take_event() {
            break event;
        }
        std::thread::yield_now();
    };
    assert!(rig.board.has_ended());
    assert!(!thread.is_finished(), "the vCPU goes no further");
    rig.exit.store(1, std::sync::atomic::Ordering::SeqCst);
    rig.client.wake(0);
    assert_eq!(thread.join().unwrap(), Err(Unanswered::Withdrawn));
    rig.exit.store(0, std::sync::atomic::Ordering::SeqCst);
    event
}

#[test]
fn a_vcpu_that_ends_the_run_waits_and_can_be_taken_back() {
    for (port, width, value, event) in
        [(0x604, 2, 0x3C00, Event::PowerOff), (0xCF9, 1, 6, Event::Reset), (0xF4, 4, 0x10, Event::DebugExit(0x10))]
    {
        let mut rig = Rig::new();
        assert_eq!(end_run(&mut rig, port, width, value), event);
    }
}

#[test]
fn after_a_reset_nothing_of_the_old_run_has_an_effect() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.init_pics(0, 0);
        guest.redirect(4, 0x34);
    });
    assert_eq!(end_run(&mut rig, 0xCF9, 1, 6), Event::Reset);
    // Another vCPU posts while the run has ended.
    let access = Access {
        operation: Operation::Write,
        space: Space::Port,
        address: 0x21,
        width: 1,
        value: 0x00,
        attributes: Attributes::default(),
        vcpu: 1,
    };
    assert!(rig.client.try_post(&access, 0).unwrap());
    rig.engine.forward(4);
    rig.board.discard();
    rig.server.serve(&mut rig.board);
    rig.board.reset();
    rig.board.flush(rig.server.area()).unwrap();
    assert!(!rig.board.has_ended() && !rig.engine.extint());
    assert_eq!(rig.client.backlog(), 0);
    assert_eq!(rig.engine.route(4).1, Route::Forward);
    assert_eq!(rig.guest(|guest| guest.inp(0x21, 1)), 0xFF);
}

#[test]
fn a_run_that_goes_on_makes_its_request_again() {
    let mut rig = Rig::new();
    assert_eq!(end_run(&mut rig, 0x604, 2, 0x3C00), Event::PowerOff);
    rig.board.go_on();
    assert_eq!(end_run(&mut rig, 0x604, 2, 0x3C00), Event::PowerOff);
}

#[test]
fn post_codes_and_absent_keyboard_cost_nothing() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.outp(0x80, 1, 0x42);
        assert_eq!((guest.inp(0x80, 1), guest.inp(0x64, 1)), (0xFF, 0xFF));
    });
    assert_eq!(rig.trips(), 0);
}

#[test]
fn the_rtc_tells_the_date() {
    let mut rig = Rig::new();
    rig.engine.freeze_clock(0);
    // 1,700,000,000 is 2023-11-14 22:13:20.
    let date = rig.guest(|guest| {
        [0x32u64, 9, 8, 7, 4, 2, 0].map(|index| {
            guest.outp(0x70, 1, index);
            guest.inp(0x71, 1)
        })
    });
    assert_eq!(date, [0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20]);
}
