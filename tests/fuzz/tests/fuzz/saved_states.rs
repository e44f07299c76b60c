//! Saved states: what people's tools make of them, and what board and serial port take.
//!
//! An input is a message. What must hold: a state that is taken can be left again, and what is left is taken and left as the
//! same bytes; a device goes on from any state that it takes. The engine's state is printed and compared here; an engine loads
//! those of `engine_states`.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use board::chipset::Chipset;
use doorbell::{DeviceArea, EventFd, create_windows};
use fuzz::{Plant, Seen, Target, Verdict};
use guest_memory::{Access, Memfd, SharedMap};
use machine_model::{Machine, MachineVersion};
use serial::port::saved::Identity;
use serial::port::{Backend, Port};
use sha2::{Digest, Sha256};
use state::inspect::{Saved, diff};
use state::{Kind, Left, StateArea, StateError};
use wire::saved_capnp::saved_state;

use crate::bytes::{flat, holds, index};

pub static TARGET: Target = Target {
    name: "saved_states",
    run,
    seeds,
    words,
    longest: 6 << 10,
    head: 0,
    plants: &[
        "board: the mode of a timer is an index",
        "board: the number of redirections is not checked",
        "serial: the receiver's bytes are copied without a look at their number",
        "board: CMOS memory is taken to have its length",
        "PCI functions are taken to be those of the machine",
    ],
};

const WHO: Identity<'_> = Identity { process: "serial0", machine: "q35-0" };
/// Ports that a driver reads, and the IOAPIC.
const PORTS: [u16; 16] =
    [0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x61, 0x70, 0x71, 0x92, 0x4d0, 0x4d1, 0x600, 0x604, 0xcfc];

/// Longer dumps are not printed and compared.
const MOST_LINES: usize = 5000;

fn machine() -> &'static Machine {
    MachineVersion::Q35_0.machine()
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let saved = match Saved::of("input", input) {
        Ok(saved) => saved,
        Err(error) => return told(seen, "length", &error, plant),
    };
    // Printing is much work for what has long lists, so it is not done for every input.
    if input.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).is_multiple_of(32) {
        inspect(&saved, seen)?;
    }
    let board = saved.read(|state| {
        state::check(state, "board", machine().name, Kind::Board, Kind::Board.added())?;
        match state.get_state().which()? {
            saved_state::state::Board(from) => Chipset::load(machine(), from?),
            _ => Err(StateError::field("state", "is of another kind")),
        }
    });
    match board {
        Ok(chipset) => {
            seen.hit("board", 1);
            use_board(chipset)?;
        }
        Err(error) => told(seen, "board", &error, plant)?,
    }
    SERIAL.with_borrow_mut(|rig| serial_port(rig, input, seen, plant))
}

/// Notes an error, and does what the code would do without the check that made it.
fn told(seen: &mut Seen, label: &str, error: &StateError, plant: Plant) -> Verdict {
    let text = error.to_string();
    seen.text(label, &text.replace('\'', " "));
    let StateError::In { cause, .. } = error else { return planted(error, plant) };
    planted(cause, plant)
}

fn planted(error: &StateError, plant: Plant) -> Verdict {
    let StateError::Field { field, why } = error else { return Ok(()) };
    let number = || why.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
    if plant.is(0) && field.starts_with("board.pit.channels") && field.ends_with(".mode") {
        index(6, number());
    }
    if plant.is(1) && field == "board.ioapic.redirections" {
        (0..24).for_each(|pin| index(number() as usize, pin));
    }
    if plant.is(2) && field == "serial.uart.receiver" {
        [0; 16].copy_from_slice(&vec![0; number() as usize][..]);
    }
    if plant.is(3) && field == "board.rtc.cmos" {
        index(number() as usize, 127);
    }
    if plant.is(4) && field.starts_with("board.pci.functions[") {
        return Err(format!("{field} would be another function"));
    }
    Ok(())
}

fn inspect(saved: &Saved, seen: &mut Seen) -> Verdict {
    let report = saved.check();
    seen.hit("kind", report.kind.map_or(9, |kind| kind as u64));
    report.problems.iter().for_each(|problem| seen.text("problem", problem));
    let Ok(dump) = saved.dump() else { return Ok(()) };
    seen.count("lines", dump.lines.len() as u64);
    if dump.lines.len() > MOST_LINES {
        return Ok(());
    }
    let text = dump.to_string();
    holds!(text.lines().count() >= dump.lines.len(), "{} lines of {}", text.lines().count(), dump.lines.len());
    let same = diff(saved, saved).map_err(|error| error.to_string())?;
    // A list may be longer than what is shown, and one path may be there once only.
    holds!(same.fields.is_empty(), "a state differs from itself: {same}");
    Ok(())
}

fn board_message(chipset: &Chipset) -> Result<Vec<u8>, StateError> {
    let mut message = state::begin("board", machine().name, Kind::Board)?;
    if let saved_state::state::Board(to) = message.get_root::<saved_state::Builder<'_>>()?.get_state().which()? {
        chipset.save(0, to?);
    }
    state::finish(&mut message)?;
    Ok(flat(&message))
}

fn use_board(mut chipset: Chipset) -> Verdict {
    let left = board_message(&chipset).map_err(|error| format!("cannot be left: {error}"))?;
    let again = Saved::of("again", &left).and_then(|saved| {
        saved.read(|state| match state.get_state().which()? {
            saved_state::state::Board(from) => Chipset::load(machine(), from?),
            _ => Err(StateError::field("state", "is of another kind")),
        })
    });
    let again = again.map_err(|error| format!("what was left is not taken: {error}"))?;
    holds!(board_message(&again).ok().as_ref() == Some(&left), "is left as other bytes");
    for now in [0, 1 << 20, 1 << 40, 1 << 62] {
        chipset.advance(now);
        chipset.deadline();
        for port in PORTS {
            chipset.read_port(port, 1, now);
        }
        for (port, value) in [(0x43, 0xe2), (0x20, 0x20), (0x70, 0x0c), (0x40, 0x12)] {
            chipset.write_port(port, 1, value, now);
        }
        chipset.read_memory(machine().memory.ioapic.start + 0x10, 4, now);
        chipset.shadows();
        chipset.interrupt_acknowledge();
        for pin in 0..24 {
            let _ = (chipset.message(pin), chipset.edge_message(pin));
        }
        chipset.take_outputs();
    }
    chipset.power_button(1 << 62);
    chipset.wake();
    chipset.reset(1 << 62);
    Ok(())
}

/// A serial port and the area that its state comes in.
struct Rig {
    port: Port,
    area: StateArea,
    row: SharedMap,
    _memfds: [OwnedFd; 2],
}

thread_local! {
    // A load leaves nothing of what was before, so these see one input after the other.
    static SERIAL: RefCell<Rig> = RefCell::new(Rig::new());
    static OTHER: RefCell<Rig> = RefCell::new(Rig::new());
}

impl Rig {
    fn new() -> Self {
        let windows = create_windows().unwrap();
        let area = || DeviceArea::map(windows.as_fd(), 2).unwrap();
        let event = || EventFd::new().unwrap();
        let port = Port::attach([area(), area()], event(), event(), Backend::None).unwrap();
        let memfd = Memfd::create("state", state::MEMFD_BYTES).unwrap();
        let area = StateArea::map(memfd.as_fd(), 0).unwrap();
        let row = SharedMap::map(memfd.as_fd(), 0, state::ROW_BYTES, Access::ReadWrite, "state").unwrap();
        Self { port, area, row, _memfds: [windows, memfd] }
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.row.write(0, bytes);
        let left = Left { length: bytes.len() as u64, digest: Sha256::digest(bytes).into() };
        self.port.load(WHO, &self.area, left)
    }

    fn save(&mut self) -> Result<Vec<u8>, StateError> {
        self.port.save(WHO, WHO.machine).map(|message| flat(&message))
    }
}

fn serial_port(rig: &mut Rig, input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    if let Err(error) = rig.load(input) {
        return told(seen, "serial", &error, plant);
    }
    seen.hit("serial", 1);
    let left = rig.save().map_err(|error| format!("cannot be left: {error}"))?;
    seen.count("left", left.len() as u64);
    OTHER.with_borrow_mut(|other| {
        other.load(&left).map_err(|error| format!("what was left is not taken: {error}"))?;
        let again = other.save().map_err(|error| format!("cannot be left again: {error}"))?;
        holds!(again == left, "is left as other bytes");
        let before = other.port.counts();
        other.port.run();
        for _ in 0..3 {
            other.port.round().map_err(|error| format!("a round: {error}"))?;
        }
        let after = other.port.counts();
        seen.count("taken", after.taken.wrapping_sub(before.taken));
        seen.count("output", after.produced.wrapping_sub(before.produced));
        other.port.reset().map_err(|error| format!("a reset: {error}"))?;
        Ok(())
    })
}

fn busy_board() -> Chipset {
    let mut chipset = Chipset::new(machine(), 1_700_000_000, 0);
    let writes =
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0), (0x43, 0x34), (0x40, 0x10), (0x40, 0x20)];
    for (port, value) in writes.into_iter().chain([(0x43, 0xb6), (0x42, 9), (0x70, 0x0b), (0x71, 0x42), (0x4d0, 0x20)])
    {
        chipset.write_port(port, 1, value, 1000);
    }
    chipset.write_port(0x602, 2, 0x0421, 2000);
    for (register, value) in [(0x10, 0x30), (0x11, 0), (0x18, 0x8031)] {
        chipset.write_memory(machine().memory.ioapic.start, 4, register, 3000);
        chipset.write_memory(machine().memory.ioapic.start + 0x10, 4, value, 3000);
    }
    chipset.line_rose(4);
    chipset.advance(5_000_000);
    chipset
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![
        board_message(&Chipset::new(machine(), 0, 0)).unwrap(),
        board_message(&busy_board()).unwrap(),
        Rig::new().save().unwrap(),
    ];
    let mut serial = state::begin("serial0", machine().name, Kind::Serial).unwrap();
    if let Ok(saved_state::state::Serial(Ok(mut to))) =
        serial.get_root::<saved_state::Builder<'_>>().unwrap().get_state().which()
    {
        let mut uart = to.reborrow().init_uart();
        uart.set_fcr(0xc1);
        uart.set_msr(0xb0);
        uart.set_receiver(b"twelve bytes");
        to.set_input(b"more input");
        to.set_output(b"some output");
    }
    state::finish(&mut serial).unwrap();
    all.push(flat(&serial));
    let mut engine = state::begin("engine", machine().name, Kind::Engine).unwrap();
    if let Ok(saved_state::state::Engine(Ok(mut to))) =
        engine.get_root::<saved_state::Builder<'_>>().unwrap().get_state().which()
    {
        to.set_cpu_model("atoll-v2");
        to.reborrow().init_clock().set_tsc_hz(1_000_000_000);
        let mut vcpu = to.init_vcpus(1).get(0);
        vcpu.reborrow().init_registers(2).get(0).set_id(7);
        vcpu.get_cpu().init_x86().set_rip(0x1000);
    }
    state::finish(&mut engine).unwrap();
    all.push(flat(&engine));
    all
}

fn words() -> Vec<Vec<u8>> {
    let mut words = (super::islet_messages::TARGET.words)();
    words.extend([&b"board"[..], b"serial0", b"engine", b"q35-0", b"board.pm.suspended"].map(<[u8]>::to_vec));
    words
}

#[test]
fn the_seeds_are_taken() {
    let mut port = Rig::new();
    let seeds = seeds();
    for seed in &seeds[2..4] {
        port.load(seed).unwrap();
    }
}
