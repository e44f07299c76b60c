//! The engine's dispatcher: rules of registers, PCI configuration, counters.

use std::sync::Arc;

use super::*;

fn uart() -> WindowDesc {
    let list = vec![
        Behaviour { offset: 0, length: 1, read: ReadRule::Synchronous, write: WriteRule::Posted(0b10) },
        Behaviour { offset: 1, length: 1, read: ReadRule::Shadow(1), write: WriteRule::Ignored },
        Behaviour { offset: 4, length: 4, read: ReadRule::Formula(2), write: WriteRule::Synchronous },
        Behaviour { offset: 8, length: 4, read: ReadRule::Constant(0x1122_3344), write: WriteRule::Ignored },
    ];
    let kind = WindowKind::Registers(list);
    WindowDesc { name: "uart".into(), space: Space::Port, base: 0x3f8, len: 16, device: 1, kind }
}

fn config(kind: WindowKind, base: u64, len: u64) -> WindowDesc {
    let space = if kind == WindowKind::PciEcam { Space::Memory } else { Space::Port };
    WindowDesc { name: "config".into(), space, base, len, device: 0, kind }
}

struct Rig {
    fd: OwnedFd,
    bus: Bus,
}

impl Rig {
    fn new(list: Vec<WindowDesc>) -> Result<Self> {
        let fd = create_windows().unwrap();
        let header = Arc::new(Header::map(fd.as_fd(), Role::Engine).unwrap());
        header.freeze_clock(1_000_000_000);
        let clients = [Arc::new(client(&fd, 0)), Arc::new(client(&fd, 1))];
        Ok(Self { bus: Bus::new(header, list, &clients)?, fd })
    }

    /// Reads with a device that serves whatever is asked meanwhile.
    fn read(&self, space: Space, address: u64, width: u8) -> Option<u64> {
        let window = self.bus.find(space, address, width)?;
        let get = || self.bus.read(window, address, width, 0, Attributes::default(), &NO_EXIT).unwrap();
        Some(self.with_device(window.desc().device, get))
    }

    fn write(&self, space: Space, address: u64, width: u8, value: u64) {
        let window = self.bus.find(space, address, width).unwrap();
        let put = || self.bus.write(window, address, width, value, 0, Attributes::default(), &NO_EXIT).unwrap();
        self.with_device(window.desc().device, put);
    }

    fn with_device<R: Send>(&self, device: u16, body: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|s| {
            let job = s.spawn(body);
            let mut server = recorder(&self.fd, device);
            while !job.is_finished() {
                server.serve(&mut Recorder::default());
                std::thread::yield_now();
            }
            server.serve(&mut Recorder::default());
            job.join().unwrap()
        })
    }

    fn journal(&self, device: u16) -> Vec<u64> {
        recorder(&self.fd, device).state().list().to_vec()
    }
}

#[test]
fn each_register_follows_its_rule() {
    let rig = Rig::new(vec![uart()]).unwrap();
    let serial = area(&rig.fd, 1);
    serial.set_shadow(1, 0x60, false);
    serial.set_formula(2, Some(&Formula::pm_timer(0, 0xff_ffff)));
    let port = |address, width| rig.read(Space::Port, address, width).unwrap();
    assert_eq!(port(0x3f9, 1), 0x60);
    assert_eq!(port(0x3fc, 4), 3_579_545);
    assert_eq!(port(0x3fe, 1), 3_579_545 >> 16, "a byte of a wider register");
    assert_eq!(port(0x401, 2), 0x2233);
    assert_eq!(rig.journal(1), [0; 0], "the device was never asked");
    rig.write(Space::Port, 0x3f8, 1, 0x1141);
    rig.write(Space::Port, 0x3f9, 1, 5);
    rig.write(Space::Port, 0x3fc, 4, 7);
    assert_eq!(rig.journal(1), [0x41, 7], "masked to the width; ignored writes go nowhere");
    assert_eq!(port(0x3f8, 1), 2);
    assert_eq!(port(0x3f8, 2), 3, "an access that fits no behaviour is synchronous");
    serial.set_formula(2, None);
    assert_eq!(port(0x3fc, 4), 4, "without its row a formula asks");
    assert_eq!(rig.read(Space::Port, 0x407, 2), None, "straddles the window's end");
    assert_eq!(rig.read(Space::Memory, 0x3f8, 1), None);
    assert!(rig.bus.find(Space::Port, 0x3f7, 1).is_none() && rig.bus.find(Space::Port, u64::MAX, 8).is_none());

    let counts: Vec<_> = rig.bus.counts().into_iter().map(|c| (c.offset, c.write, c.synchronous, c.local)).collect();
    let want = [
        (0, false, 2, 0),
        (0, true, 0, 1),
        (1, false, 0, 1),
        (1, true, 0, 1),
        (4, false, 1, 1),
        (4, true, 1, 0),
        (6, false, 0, 1),
        (9, false, 0, 1),
    ];
    assert_eq!(counts, want);
}

#[test]
fn configuration_space_is_read_without_the_board() {
    let ecam = config(WindowKind::PciEcam, 0xe000_0000, 8 << 20);
    let rig = Rig::new(vec![config(WindowKind::PciIndexData, 0xcf8, 8), ecam]).unwrap();
    let board = area(&rig.fd, 0);
    let bdf = 0x1fu16 << 3 | 2;
    board.write_shadow_page(1, 0, &[0x86, 0x80, 0x18, 0x29]);
    board.write_shadow_page(1, 0x100, &[1, 2, 3, 4]);
    board.set_function(0, Some(bdf));
    let port = |address, width| rig.read(Space::Port, address, width).unwrap();
    let memory = |address, width| rig.read(Space::Memory, 0xe000_0000 + address, width).unwrap();
    assert_eq!(port(0xcfc, 4), 0xffff_ffff, "index not enabled");
    rig.write(Space::Port, 0xcf8, 4, 0xff00_0003 | u64::from(bdf) << 8);
    assert_eq!(port(0xcf8, 4), 0x8000_0000 | u64::from(bdf) << 8, "only the bits that exist");
    assert_eq!((port(0xcfc, 4), port(0xcfe, 2), port(0xcff, 1)), (0x2918_8086, 0x2918, 0x29));
    let at = u64::from(bdf) << 12;
    assert_eq!((memory(at, 4), memory(at + 2, 2), memory(at + 0x100, 4)), (0x2918_8086, 0x2918, 0x0403_0201));
    assert_eq!(memory(at + 0xffe, 4), 0xffff_ffff, "not across functions");
    assert_eq!((memory(0, 4), memory(0, 2)), (0xffff_ffff, 0xffff), "absent functions read all ones");
    rig.write(Space::Memory, 0xe000_0000, 4, 5);
    assert_eq!(rig.journal(0), [0; 0]);
    // Writes to functions that exist travel, whichever way they came, and so does 0xCF9.
    let seen = std::sync::Mutex::new(Vec::new());
    struct See<'a>(&'a std::sync::Mutex<Vec<Access>>);
    impl Device for See<'_> {
        type State = Journal;
        fn access(&mut self, _: &mut Journal, access: &Access) -> Answer {
            self.0.lock().unwrap().push(*access);
            Answer::Done(0)
        }
        fn publish(&mut self, _: &Journal, _: &DeviceArea) {}
    }
    let accesses =
        [(Space::Port, 0xcfd, 1, 0x22), (Space::Memory, 0xe000_0000 + at + 0x104, 4, 0x33), (Space::Port, 0xcf9, 1, 6)];
    for (space, address, width, value) in accesses {
        std::thread::scope(|s| {
            let rig = &rig;
            let job = s.spawn(move || {
                let window = rig.bus.find(space, address, width).unwrap();
                rig.bus.write(window, address, width, value, 0, Attributes::default(), &NO_EXIT).unwrap();
            });
            let mut server = recorder(&rig.fd, 0);
            while !job.is_finished() {
                server.serve(&mut See(&seen));
            }
        });
    }
    let seen: Vec<_> = seen.lock().unwrap().iter().map(|a| (a.operation, a.address, a.width, a.value)).collect();
    let want = [
        (Operation::ConfigWrite, at | 1, 1, 0x22),
        (Operation::ConfigWrite, at | 0x104, 4, 0x33),
        (Operation::Write, 0xcf9, 1, 6),
    ];
    assert_eq!(seen, want);
    let board_trips: u64 = rig.bus.counts().iter().map(|c| c.synchronous).sum();
    assert_eq!(board_trips, 3);
}

#[test]
fn bad_window_lists_name_the_window() {
    let with = |change: fn(&mut WindowDesc)| {
        let mut desc = uart();
        change(&mut desc);
        vec![desc]
    };
    let lists = [
        with(|d| d.len = 0),
        with(|d| d.base = u64::MAX - 3),
        with(|d| d.len = 8),
        with(|d| d.device = 2),
        vec![uart(), WindowDesc { base: 0x407, ..uart() }],
        vec![config(WindowKind::PciIndexData, 0xcf8, 4)],
        vec![config(WindowKind::PciEcam, 0, 4096)],
    ];
    for list in lists {
        let shown = format!("{list:?}");
        let error = Rig::new(list).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::BadWindow { .. }), "{shown}: {error}");
    }
    let apart = vec![uart(), WindowDesc { base: 0x408, ..uart() }, WindowDesc { space: Space::Memory, ..uart() }];
    assert_eq!(Rig::new(apart).unwrap().bus.windows().count(), 3);
}
