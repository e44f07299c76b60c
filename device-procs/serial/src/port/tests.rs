//! The port behind its window, with the engine's side of the doorbell crate as its guest and a socket as its console.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use doorbell::{Attributes, Bus, DeviceClient, Header, Role, SpinPolicy, create_windows};

use super::*;

pub(super) const BASE: u64 = 0x3f8;
const AREA: u16 = 2;

/// A guest, its engine's side of the window, and what is needed to start a port.
pub(super) struct Rig {
    windows: OwnedFd,
    pub(super) bus: Bus,
    pub(super) client: Arc<DeviceClient>,
    kick: EventFd,
    pub(super) irq: EventFd,
    exit: AtomicU32,
}

impl Rig {
    pub(super) fn new() -> Self {
        let windows = create_windows().unwrap();
        let (kick, irq) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let area = DeviceArea::map(windows.as_fd(), AREA).unwrap();
        let client = Arc::new(DeviceClient::new(area, kick.try_clone().unwrap(), 1, SpinPolicy::Block));
        let header = Arc::new(Header::map(windows.as_fd(), Role::Engine).unwrap());
        let list = vec![doorbell::uart::window("serial0", BASE as u16, AREA)];
        let bus = Bus::new(header, list, std::slice::from_ref(&client)).unwrap();
        Self { windows, bus, client, kick, irq, exit: AtomicU32::new(0) }
    }

    pub(super) fn port(&self, backend: Backend) -> Port {
        let area = || DeviceArea::map(self.windows.as_fd(), AREA).unwrap();
        let (kick, irq) = (self.kick.try_clone().unwrap(), self.irq.try_clone().unwrap());
        Port::attach([area(), area()], kick, irq, backend).unwrap()
    }

    /// A posted write; the port is not asked.
    pub(super) fn write(&self, register: u64, value: u64) {
        let window = self.bus.find(Space::Port, BASE + register, 1).unwrap();
        self.bus.write(window, BASE + register, 1, value, 0, Attributes::default(), &self.exit).unwrap();
    }

    /// A read, answered by `port` if need be.
    pub(super) fn read(&self, port: &mut Port, register: u64) -> u64 {
        self.read_wide(port, register, 1)
    }

    fn read_wide(&self, port: &mut Port, register: u64, width: u8) -> u64 {
        std::thread::scope(|s| {
            let job = s.spawn(|| {
                let window = self.bus.find(Space::Port, BASE + register, width).unwrap();
                self.bus.read(window, BASE + register, width, 0, Attributes::default(), &self.exit).unwrap()
            });
            while !job.is_finished() {
                port.round().unwrap();
                std::thread::yield_now();
            }
            job.join().unwrap()
        })
    }

    /// A read that is answered without a thread: from its shadow, or by the port if it must be asked.
    pub(super) fn read_serving(&self, port: &mut Port, register: u64) -> u64 {
        port.round().unwrap();
        match self.client.shadow(register as u16) {
            Some(value) if self.client.backlog() == 0 => value,
            _ => self.read(port, register),
        }
    }

    fn trips(&self) -> u64 {
        self.bus.counts().iter().map(|c| c.synchronous).sum()
    }
}

use doorbell::Space;

pub(super) fn console() -> (Backend, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (Backend::Stream(ours.into()), theirs)
}

pub(super) fn drain(socket: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
    }
    all
}

#[test]
fn printing_needs_no_round_trip() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    for byte in b"Linux version" {
        // As the 8250 driver's console does: poll LSR, write THR.
        assert_eq!(rig.read(&mut port, 5) & 0x60, 0x60);
        rig.write(0, u64::from(*byte));
    }
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"Linux version");
    assert_eq!(rig.trips(), 0);
    assert_eq!((port.counts().sent, port.counts().posted), (13, 13));
}

#[test]
fn input_interrupts_and_is_read() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    for (register, value) in [(2, 0x87), (4, 0x0b), (1, 0x05)] {
        rig.write(register, value);
    }
    theirs.write_all(&[b'x'; 40]).unwrap();
    port.round().unwrap();
    assert_eq!(rig.irq.drain().unwrap(), 0, "no input before run");
    port.run();
    port.round().unwrap();
    assert_eq!(rig.irq.drain().unwrap(), 1);
    assert!(rig.client.area().level(0));
    assert_eq!(rig.read(&mut port, 2), 0xc4);
    for n in 0..40 {
        assert_eq!(rig.read(&mut port, 5), 0x61, "{n}");
        assert_eq!(rig.read(&mut port, 0), u64::from(b'x'));
    }
    assert_eq!(rig.read(&mut port, 5), 0x60);
    assert_eq!(rig.irq.drain().unwrap(), 2, "one more edge for each filling of the FIFO: 16, 16, 8");
    assert!(!rig.client.area().level(0));
    let counts = port.counts();
    assert_eq!((counts.received, counts.taken, counts.interrupts), (40, 40, 3));
}

#[test]
fn a_successor_signals_a_high_line_once_more() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    rig.write(4, 0x0b);
    rig.write(1, 0x01);
    theirs.write_all(b"ab").unwrap();
    port.round().unwrap();
    assert_eq!(rig.irq.drain().unwrap(), 1);
    drop(port);
    let mut port = rig.port(Backend::None);
    assert_eq!(rig.irq.drain().unwrap(), 1);
    assert_eq!(rig.read(&mut port, 0), u64::from(b'a'));
    assert_eq!(rig.read(&mut port, 0), u64::from(b'b'), "input that had arrived is not lost");
    assert_eq!(rig.irq.drain().unwrap(), 1, "without FIFOs each byte is an edge");
    drop(port);
    rig.port(Backend::None);
    assert_eq!(rig.irq.drain().unwrap(), 0, "the line is low");
}

/// The guest writes `n` bytes, as far as the ring takes them.
fn print(rig: &Rig, port: &mut Port, bytes: &[u8]) {
    for chunk in bytes.chunks(256) {
        for byte in chunk {
            rig.write(0, u64::from(*byte));
        }
        port.round().unwrap();
    }
}

pub(super) fn pattern(n: u64) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

#[test]
fn with_nobody_connected_the_oldest_output_goes_and_is_counted() {
    let rig = Rig::new();
    let mut port = rig.port(Backend::None);
    port.run();
    let bytes = pattern(100_000);
    print(&rig, &mut port, &bytes);
    let kept = FULL;
    assert_eq!((port.counts().produced, port.counts().dropped), (100_000, 100_000 - kept));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    port.attach_console(ours.into());
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), bytes[(100_000 - kept) as usize..]);
    assert_eq!((port.counts().sent, port.interest().unwrap().1), (kept, PollFlags::POLLIN));
}

#[test]
fn a_connected_console_that_does_not_read_holds_the_guest_and_loses_nothing() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    let bytes = pattern(1_000_000);
    let mut written = 0;
    // Until the posted ring itself is full.
    let window = rig.bus.find(Space::Port, BASE, 1).unwrap();
    let full = AtomicU32::new(1);
    while rig.bus.write(window, BASE, 1, bytes[written].into(), 0, Attributes::default(), &full).is_ok() {
        written += 1;
        port.round().unwrap();
    }
    assert!(port.fall_asleep(), "a stalled port sleeps");
    assert!(port.interest().unwrap().1.contains(PollFlags::POLLOUT), "until the console takes more");
    assert!(written as u64 > FULL && port.counts().dropped == 0);
    assert!(rig.client.shadow(5).is_some(), "line status is read all the while");
    let mut received = Vec::new();
    while received.len() < written {
        received.extend(drain(&mut theirs));
        port.round().unwrap();
    }
    assert!(received == bytes[..written]);
    assert_eq!(rig.client.backlog(), 0);
}

#[test]
fn a_console_that_goes_is_reported_once_and_another_takes_over() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    theirs.write_all(b"last words").unwrap();
    drop(theirs);
    let mut report = port.round().unwrap();
    assert!(report.console_closed && report.console_error.is_none());
    assert_eq!(port.counts().received, 10);
    assert!(port.interest().is_none());
    print(&rig, &mut port, b"kept");
    assert!(!port.round().unwrap().console_closed);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    port.attach_console(ours.into());
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"kept");
    // One that only listens: its end of input is not the end.
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!port.round().unwrap().console_closed);
    assert_eq!(port.interest().unwrap().1, PollFlags::empty(), "only its end matters");
    print(&rig, &mut port, b"!");
    assert_eq!(drain(&mut theirs), b"!");
    drop(theirs);
    report = Report::default();
    port.console_ready(PollFlags::POLLHUP, &mut report);
    assert!(report.console_closed && port.interest().is_none());
}

#[test]
fn a_pause_leaves_input_in_the_socket() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    port.pause().unwrap();
    theirs.write_all(b"early").unwrap();
    print(&rig, &mut port, b"out");
    assert_eq!(drain(&mut theirs), b"out", "output goes on");
    assert_eq!(port.counts().received, 0);
    let mut report = Report::default();
    drop(theirs);
    port.console_ready(PollFlags::POLLHUP, &mut report);
    assert!(!report.console_closed && port.interest().is_none(), "not polled, or it would wake for ever");
    port.run();
    report = port.round().unwrap();
    assert!(report.console_closed);
    assert_eq!(port.counts().received, 5, "what had been typed is not lost");
}

#[test]
fn a_log_file_is_appended_to_and_continued_by_a_successor() {
    let rig = Rig::new();
    let mut file =
        std::fs::File::from(nix::sys::memfd::memfd_create("log", nix::sys::memfd::MFdFlags::empty()).unwrap());
    file.write_all(b"before\n").unwrap();
    let backend = || Backend::File(file.try_clone().unwrap().into(), file.metadata().unwrap().len());
    let mut port = rig.port(backend());
    port.run();
    print(&rig, &mut port, b"one ");
    drop(port);
    let mut port = rig.port(backend());
    let long = pattern(70_000);
    print(&rig, &mut port, &long);
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut text).unwrap();
    assert!(text == [b"before\none ", &long[..]].concat());
    assert_eq!(port.counts().dropped, 0);
    assert!(port.interest().is_none());
}

#[test]
fn a_console_that_cannot_be_written_is_reported_and_does_not_hold_the_guest() {
    let rig = Rig::new();
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let mut port = rig.port(Backend::File(read_only.into(), 0));
    rig.write(0, 65);
    let report = port.round().unwrap();
    assert!(report.console_closed && report.console_error == Some(Errno::EBADF), "{report:?}");
    print(&rig, &mut port, &pattern(80_000));
    assert_eq!(rig.client.backlog(), 0);
}

#[test]
fn a_reset_starts_over_and_keeps_the_console_in_place() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    for (register, value) in [(4, 0x0b), (1, 0x03), (7, 0x55), (0, 65)] {
        rig.write(register, value);
    }
    theirs.write_all(b"i").unwrap();
    port.round().unwrap();
    assert!(rig.client.area().level(0));
    rig.write(0, 66);
    port.reset().unwrap();
    assert!(!rig.client.area().level(0));
    assert_eq!(drain(&mut theirs), b"AB", "what was posted before is carried out");
    assert_eq!((rig.read(&mut port, 1), rig.read(&mut port, 7), rig.read(&mut port, 4)), (0, 0, 0));
    print(&rig, &mut port, b"C");
    assert_eq!(drain(&mut theirs), b"C");
    // A full, blocked console does not hold a reset up.
    let full = AtomicU32::new(1);
    let window = rig.bus.find(Space::Port, BASE, 1).unwrap();
    while rig.bus.write(window, BASE, 1, 1, 0, Attributes::default(), &full).is_ok() {
        port.round().unwrap();
    }
    port.reset().unwrap();
    assert_eq!(rig.client.backlog(), 0);
}

#[test]
fn wide_accesses_reach_each_register() {
    let rig = Rig::new();
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    std::thread::scope(|s| {
        let job = s.spawn(|| {
            let window = rig.bus.find(Space::Port, BASE + 6, 2).unwrap();
            rig.bus.write(window, BASE + 6, 2, 0x5aff, 0, Attributes::default(), &rig.exit).unwrap();
        });
        while !job.is_finished() {
            port.round().unwrap();
        }
    });
    assert_eq!(rig.read_wide(&mut port, 6, 2), 0x5ab0);
    assert_eq!(rig.read_wide(&mut port, 4, 4), 0x5ab0_6000);
    assert_eq!(drain(&mut theirs), b"");
}

#[test]
fn a_hostile_predecessor_is_bounded() {
    for fill in [0xffu8, 0x7f, 0x80] {
        let rig = Rig::new();
        let area = || DeviceArea::map(rig.windows.as_fd(), AREA).unwrap();
        let state = State::read_from_bytes(&[fill; size_of::<State>()]).unwrap();
        let mut committed = doorbell::Committed::attach(&area(), STATE_VERSION, state).unwrap().0;
        committed.commit(&area());
        let (backend, mut theirs) = console();
        let mut port = rig.port(backend);
        port.run();
        theirs.write_all(&[7; 100]).unwrap();
        print(&rig, &mut port, &pattern(3000));
        for register in 0..8 {
            rig.read(&mut port, register);
            rig.write(register, 0x1f);
        }
        port.round().unwrap();
        port.reset().unwrap();
        drain(&mut theirs);
        port.counts();
    }
}
