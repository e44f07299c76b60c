//! Register windows whose other side writes what it likes: slots, posted rings, shadow pages, routes, streams.
//!
//! An input is 1 byte (who is honest) and a row of steps: bytes that the hostile side writes somewhere into the shared memory,
//! and what the honest side does then. What must hold: every step ends, and answers are of their width.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use ::board::serve::Board;
use doorbell::layout::*;
use doorbell::*;
use fuzz::{Plant, Seen, Target, Verdict};
use guest_memory::{Access as MapAccess, SharedMap};
use machine_model::{Machine, MachineVersion};
use serial::port::saved::Identity;
use serial::port::{Backend, Port};

use crate::bytes::{Bytes, holds, index};

pub static TARGET: Target = Target {
    name: "windows",
    run,
    seeds,
    words,
    longest: 1024,
    head: 1,
    plants: &[
        "device: the address that an engine sends is an index",
        "device: the indices of the posted ring are believed",
        "engine: a read over the end of a shadow page is an index",
        "engine: an answer to another request is taken",
    ],
};

/// The area of all devices here.
const AREA: u16 = 0;

fn machine() -> &'static Machine {
    MachineVersion::Q35_0.machine()
}

/// The memory, and all of it as the hostile side sees it.
struct Shared {
    memfd: OwnedFd,
    all: SharedMap,
}

impl Shared {
    fn new() -> Self {
        let memfd = create_windows().unwrap();
        let all = SharedMap::map(memfd.as_fd(), 0, WINDOWS_LEN, MapAccess::ReadWrite, "windows").unwrap();
        Self { memfd, all }
    }

    /// As when it was made.
    fn clear(&self) {
        // All but the rings of streams, which are only bytes.
        let (zeros, area) = ([0; STREAM_CONTROL as usize + 4096], area_offset(AREA));
        for (start, length) in [(CLOCK, HEADER_LEN - CLOCK), (area, STREAM_CONTROL + 4096)] {
            self.all.write(start, &zeros[..length as usize]);
        }
    }

    fn area(&self) -> DeviceArea {
        DeviceArea::map(self.memfd.as_fd(), AREA).unwrap()
    }

    /// Writes a few bytes of the input somewhere; places that mean something are reached more often.
    fn write(&self, input: &mut Bytes<'_>, seen: &mut Seen) {
        let (region, place, length) = (input.byte(), input.number(2), usize::from(input.byte() & 31));
        let area = area_offset(AREA);
        let (start, length_of) = match region % 13 {
            0 => (area + SLOTS, SLOT_LEN),
            1 => (area + SLOTS, SLOT_LEN * MAX_VCPUS as u64),
            2 | 3 => (area + CONTROL, 256),
            4 => (area + CONTROL, 4096),
            5 => (area + POSTED, POSTED_ENTRIES * POSTED_LEN),
            6 => (area + SHADOWS, 8 * u64::from(SHADOW_CELLS)),
            7 => (area + FORMULAS, u64::from(FORMULA_ROWS) * FORMULA_LEN),
            8 => (area + STATE, STATE_COPIES + 2 * STATE_COPY_LEN),
            9 => (area + STREAM_CONTROL, 4096),
            10 => (BOARD_PAGES.0, BOARD_PAGES.1),
            11 => (EXCHANGE_PAGES.0, 256),
            _ => (CLOCK_PAGES.0 + CLOCK, 128),
        };
        self.all.write(start + place % length_of, input.take(length));
        seen.hit("region", (region % 13).into());
    }
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let mut input = Bytes(input);
    let who = input.byte() & 3;
    seen.hit("who", who.into());
    SHARED.with(|shared| {
        shared.clear();
        match who {
            0 => device(shared, &mut input, seen, plant),
            1 => engine(shared, &mut input, seen, plant),
            2 => serial_port(shared, &mut input, seen),
            _ => board(shared, &mut input, seen),
        }
    })
}

thread_local! {
    static SHARED: Shared = Shared::new();
}

/// A device that remembers what was written.
struct Toy {
    plant: Plant,
    stalls: bool,
}

impl Device for Toy {
    type State = [u64; 8];

    fn access(&mut self, state: &mut [u64; 8], access: &Access) -> Answer {
        if self.stalls && access.value == 7 {
            return Answer::Stall;
        }
        if self.plant.is(0) {
            index(state.len(), access.address);
        }
        match (state.get_mut(access.address as usize), access.operation) {
            (Some(register), Operation::Write) => *register = access.value,
            (Some(register), _) => return Answer::Done(*register),
            (None, _) => {}
        }
        Answer::Done(0)
    }

    fn publish(&mut self, state: &[u64; 8], area: &DeviceArea) {
        area.set_shadow(0, state[0], false);
        area.set_level(0, state[1] != 0);
    }
}

/// An honest device and a hostile engine or predecessor.
fn device(shared: &Shared, input: &mut Bytes<'_>, seen: &mut Seen, plant: Plant) -> Verdict {
    let mut toy = Toy { plant, stalls: false };
    let attach = || Server::attach(shared.area(), 1, [0; 8]);
    let mut server = attach().unwrap().0;
    server.recover(&mut toy);
    while !input.is_empty() {
        match input.byte() % 8 {
            0..=3 => shared.write(input, seen),
            4 => {
                let served = server.serve(&mut toy);
                seen.count("posted", served.posted);
                seen.count("requests", served.requests.into());
                seen.hit("served", u64::from(served.stalled) << 1 | u64::from(served.corrupt));
                holds!(served.posted <= POSTED_ENTRIES, "{} posted writes in one round", served.posted);
                holds!(!(plant.is(1) && served.corrupt), "the ring has more entries than it can have");
            }
            5 => {
                let mut waiting = 0;
                server.waiting(|_| waiting += 1);
                holds!(waiting <= POSTED_ENTRIES, "{waiting} wait");
                seen.hit("asleep", u64::from(server.fall_asleep()));
                server.wake_up();
            }
            6 => match attach() {
                Ok((successor, _)) => {
                    server = successor;
                    server.recover(&mut toy);
                }
                Err(error) => seen.text("attach", &error.to_string()),
            },
            _ => toy.stalls = !toy.stalls,
        }
    }
    Ok(())
}

/// An honest engine and hostile devices.
fn engine(shared: &Shared, input: &mut Bytes<'_>, seen: &mut Seen, plant: Plant) -> Verdict {
    let header = Arc::new(Header::map(shared.memfd.as_fd(), Role::Engine).unwrap());
    let client = || Arc::new(DeviceClient::new(shared.area(), EventFd::new().unwrap(), 1, SpinPolicy::Spin(1 << 20)));
    let new_bus = |client: &Arc<DeviceClient>| {
        Bus::new(header.clone(), doorbell::board::windows(machine(), AREA), std::slice::from_ref(client)).unwrap()
    };
    let mut client_now = client();
    let mut bus = new_bus(&client_now);
    let leave = AtomicU32::new(1);
    let mut answers = 0;
    while !input.is_empty() {
        match input.byte() % 8 {
            0..=2 => shared.write(input, seen),
            3 | 4 => {
                let (kind, address, value) = (input.byte(), input.number(4), input.number(4));
                let width = [1, 2, 4, 8][usize::from(kind & 3)];
                let places =
                    [(Space::Port, address & 0xfff), (Space::Memory, 0xe000_0000 | address), (Space::Memory, address)];
                let (space, address) = places[usize::from(kind >> 2 & 3).min(2)];
                let Some(window) = bus.find(space, address, width) else { continue };
                let who = Attributes::default();
                if kind & 0x10 == 0 {
                    let offset = address & 0xfff;
                    let ecam = window.desc().kind == WindowKind::PciEcam;
                    if ecam && shared.area().function_page((address >> 12) as u16).is_some() {
                        seen.count("to the end of a page", 4096 - offset);
                        if plant.is(2) {
                            index(4097, offset + u64::from(width));
                        }
                    }
                    let read = bus.read(window, address, width, 0, who, &leave);
                    seen.text("read", &format!("{} {:?}", window.desc().name, read.err()));
                    holds!(read.is_err() || read.unwrap_or(0) & !Access::mask(width) == 0, "wider than {width}");
                } else {
                    let wrote = bus.write(window, address, width, value, 0, who, &leave);
                    seen.text("write", &format!("{} {:?}", window.desc().name, wrote.err()));
                }
            }
            // Each takes a thread.
            5 if answers < 2 => {
                answers += 1;
                answered(shared, &client_now, input, seen, plant)?;
            }
            6 => {
                let line = usize::from(input.byte());
                let (_, route) = header.route(line);
                seen.text("route", &format!("{route:?}"));
                header.set_extint(true);
                header.take_raised(|line| index(MAX_LINES, line as u64));
                seen.count("backlog", client_now.backlog());
                for cell in 0..SHADOW_CELLS + 1 {
                    seen.hit("shadow", u64::from(client_now.shadow(cell).is_some()));
                }
                for row in 0..FORMULA_ROWS + 1 {
                    let value = shared.area().formula(row).map(|formula| formula.at(header.guest_ns()));
                    seen.hit("formula", u64::from(value.is_some()));
                }
            }
            _ => {
                // A successor of the engine finds what devices left.
                client_now = client();
                bus = new_bus(&client_now);
            }
        }
    }
    Ok(())
}

/// A request whose device answers with a word of the input.
fn answered(shared: &Shared, client: &DeviceClient, input: &mut Bytes<'_>, seen: &mut Seen, plant: Plant) -> Verdict {
    let (state, shift) = (input.byte(), input.byte());
    let slot = area_offset(AREA) + SLOTS;
    let load = || shared.all.load::<u64>(slot).unwrap_or(0);
    if load() & 0xff == 2 {
        // Claimed by a device: waited for, by design.
        return Ok(());
    }
    let exit = AtomicU32::new(0);
    let attributes = Attributes::default();
    let access = Access {
        operation: Operation::Read,
        space: Space::Port,
        address: 0x40,
        width: 1,
        value: 0,
        attributes,
        vcpu: 0,
    };
    // Nothing waits there, so that the request is seen when it comes.
    shared.all.store(slot, load() & !0xff);
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.request(&access, &exit));
        while load() & 0xff != 1 {
            std::thread::yield_now();
        }
        let asked = load() >> 8;
        let word = asked.wrapping_add(u64::from(shift)) << 8 | u64::from(state);
        shared.all.store(slot + 32, u64::MAX);
        shared.all.store(slot, word);
        if shift == 0 && (1..=2).contains(&state) {
            shared.all.store(slot, asked << 8 | 3);
        }
        client.wake(0);
        asking.join()
    });
    let Ok(answer) = answer else { return Err("the request panicked".into()) };
    seen.text("answered", &format!("{answer:?}"));
    holds!(answer.is_err() || answer == Ok(0xff), "{answer:?} is wider than a byte");
    holds!(!(plant.is(3) && state == 3 && answer.is_err()), "another answer would be taken");
    Ok(())
}

/// The serial port and a hostile engine.
fn serial_port(shared: &Shared, input: &mut Bytes<'_>, seen: &mut Seen) -> Verdict {
    const WHO: Identity<'_> = Identity { process: "serial0", machine: "q35-0" };
    let event = || EventFd::new().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let attach = |backend| Port::attach([shared.area(), shared.area()], event(), event(), backend);
    let mut port = attach(Backend::Stream(ours.into())).unwrap();
    port.run();
    while !input.is_empty() {
        let what = input.byte() % 8;
        let result = match what {
            0..=3 => {
                shared.write(input, seen);
                continue;
            }
            4 => port.round(),
            5 => port.pause(),
            6 => port.reset(),
            _ => {
                if let Err(error) = port.save(WHO, WHO.machine) {
                    seen.text("save", &error.to_string());
                }
                match attach(Backend::None) {
                    Ok(successor) => {
                        port = successor;
                        port.run();
                        port.round()
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match result {
            Ok(report) => seen.text("report", &format!("{report:?}")),
            Err(error) => seen.text("error", &error.to_string()),
        }
        let counts = port.counts();
        seen.count("produced", counts.produced);
        seen.count("received", counts.received);
        seen.hit("interest", u64::from(port.interest().is_some()));
    }
    Ok(())
}

/// The board and a hostile engine.
fn board(shared: &Shared, input: &mut Bytes<'_>, seen: &mut Seen) -> Verdict {
    let header = Header::map(shared.memfd.as_fd(), Role::Board).unwrap();
    let mut board = Board::new(machine(), header, EventFd::new().unwrap(), 1_700_000_000);
    let mut server = Server::attach(shared.area(), 1, ()).unwrap().0;
    server.recover(&mut board);
    while !input.is_empty() {
        match input.byte() % 8 {
            0..=3 => shared.write(input, seen),
            4 | 5 => {
                let served = server.serve(&mut board);
                seen.count("posted", served.posted);
                seen.count("requests", served.requests.into());
                seen.hit("exchange", u64::from(board.take_exchange()));
            }
            6 => {
                board.pause();
                board.settle();
                board.go_on();
            }
            _ => board.flush(server.area()).map_err(|error| error.to_string())?,
        }
        if let Some(event) = board.take_event() {
            seen.text("event", &format!("{event:?}"));
            board.go_on();
        }
    }
    Ok(())
}

/// A step that writes: region, place, and bytes.
fn put(region: u8, place: u16, bytes: &[u8]) -> Vec<u8> {
    [&[0, region][..], &place.to_le_bytes(), &[bytes.len() as u8], bytes].concat()
}

/// The words of a posted write or of a request: operation, width and space, address, value.
fn access(operation: u8, width: u8, space: u8, address: u64, value: u64) -> Vec<u8> {
    let what = u64::from(operation) | u64::from(width) << 8 | u64::from(space) << 16;
    [what, address, value].map(u64::to_le_bytes).concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let posted =
        |address| [put(5, 0, &access(2, 1, 1, address, 9)), put(2, 8, &1u64.to_le_bytes()), vec![4, 5]].concat();
    let again = |address| {
        let place = POSTED_LEN as u16;
        [put(5, place, &access(2, 1, 1, address, 9)), put(2, 8, &2u64.to_le_bytes()), vec![4, 5]].concat()
    };
    let asked = |address| {
        let control = (1u64 << 8 | 1).to_le_bytes();
        [put(0, 8, &access(1, 4, 1, address, 0)), put(0, 0, &control), put(2, 0, &[1; 8]), vec![4, 6]].concat()
    };
    let with = |who: u8, steps: Vec<u8>| [&[who][..], &steps].concat();
    let read = |kind: u8, address: u32| [&[3, kind][..], &address.to_le_bytes(), &[0; 4]].concat();
    vec![
        with(0, [posted(3), asked(3)].concat()),
        with(1, [read(0, 0x40), read(0x10, 0x43), read(6, 0), vec![6, 4], vec![5, 3, 0], vec![7]].concat()),
        with(1, [put(4, 256, &0x8000_0000u32.to_le_bytes()), read(6, 0xffc), read(6, 0)].concat()),
        with(2, [posted(0x3f8), asked(0x3fd), vec![7]].concat()),
        // The position of the output just beyond what was sent, and one byte more.
        with(2, [posted(0x3f8), put(9, 0, &1u64.to_le_bytes()), again(0x3f8)].concat()),
        with(3, [posted(0x43), asked(0x61), vec![6, 7]].concat()),
        with(3, [put(11, 64, &[0x10]), vec![4, 7]].concat()),
    ]
}

fn words() -> Vec<Vec<u8>> {
    let mut words =
        vec![put(0, 0, &[1, 1]), put(2, 0, &[0xff; 16]), put(8, 0, &[1; 8]), put(9, 0, &[0xff; 8]), put(9, 0, &[1, 0])];
    words.extend(
        [0x20u64, 0x40, 0x61, 0x71, 0xcf8, 0xcfc, 0x600, 0x3f8, 0xfec0_0000, 0xe000_0000]
            .map(|address| address.to_le_bytes().to_vec()),
    );
    words.extend([0xff8u32, 0xffd, 0xfff].map(|register| register.to_le_bytes().to_vec()));
    words.push(access(3, 4, 0, 0xf8004, 7));
    words.push(access(4, 1, 1, 0, 0));
    words
}
