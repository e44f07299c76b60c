//! A chipset and what its saved state makes of a new one: the same to every guest, whatever either was asked before; and
//! states that nobody saved.

use capnp::message::{Builder, HeapAllocator};
use capnp::serialize;
use machine_model::MachineVersion;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::Event;
use super::*;
use crate::ioapic::register;
use crate::pm::Cause;
use crate::time::SECOND;

const IOAPIC: u64 = 0xFEC0_0000;
const SEEDS: u64 = 1000;

fn machine() -> &'static Machine {
    MachineVersion::Q35_0.machine()
}

fn fresh() -> Chipset {
    Chipset::new(machine(), 1_700_000_000, 0)
}

fn save(chipset: &Chipset, pending: Pins) -> Vec<u8> {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    chipset.save(pending, message.init_root());
    serialize::write_message_to_words(&message)
}

fn load(bytes: &[u8]) -> Result<Chipset, StateError> {
    let message = serialize::read_message_from_flat_slice(&mut &bytes[..], capnp::message::ReaderOptions::new())?;
    Chipset::load(machine(), message.get_root()?)
}

/// What a state whose fields were changed is refused for.
fn refusal(chipset: &Chipset, change: impl FnOnce(board_state::Builder<'_>)) -> String {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    chipset.save(0, message.init_root());
    change(message.get_root().unwrap());
    match Chipset::load(machine(), message.get_root_as_reader().unwrap()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the state was taken"),
    }
}

/// The registers whose behaviour depends on what came before.
const PORTS: [u16; 26] = [
    0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x43, 0x61, 0x64, 0x70, 0x71, 0x71, 0x92, 0x4D0, 0x4D1, 0x600,
    0x602, 0x604, 0x608, 0x628, 0xCF8, 0xCFC, 0xCF9, 0xF4,
];
/// RTC registers, the alarm and the control registers more often than storage.
const CLOCK: [u8; 12] = [0, 1, 2, 3, 4, 5, 9, 0x0A, 0x0B, 0x0B, 0x0C, 0x32];

/// One thing that happens to a chipset.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u16, u8),
    Write(u16, u8, u64),
    Load(u64),
    Store(u64, u64),
    Config(u64, u8, u64),
    Line(usize),
    End(u8),
    Acknowledge,
    Button,
    Wake,
    Time,
}

/// A random step, likely to reach something.
fn step(random: &mut SmallRng) -> Step {
    let port = PORTS[random.random_range(0..PORTS.len())];
    let width = 1 << random.random_range(0..3);
    match random.random_range(0..24) {
        0..5 => Step::Read(port, width),
        5..10 => Step::Write(port, width, random.random()),
        // The steps of an initialisation, in their order as often as not.
        10 => Step::Write([0x20, 0xA0][random.random_range(0..2)], 1, random.random_range(0x10..0x14)),
        11 => Step::Write([0x21, 0xA1][random.random_range(0..2)], 1, random.random()),
        12 => Step::Write(0x43, 1, random.random()),
        13 => Step::Write(0x40 + random.random_range(0..3), 1, random.random()),
        14 => Step::Write(0x70, 1, CLOCK[random.random_range(0..CLOCK.len())].into()),
        15 => Step::Write(0x71, 1, random.random()),
        16 => Step::Load(IOAPIC + random.random_range(0..5) * 0x10),
        17 => Step::Store(IOAPIC + register::INDEX, random.random_range(0x10..0x40)),
        18 => Step::Store(IOAPIC + register::DATA, random.random::<u64>() & 0x0F01_ABFF),
        19 => {
            Step::Config(0xF_8000 * random.random_range(0..2) + random.random_range(0..0x100), width, random.random())
        }
        20 => Step::Line(random.random_range(0..26)),
        21 => Step::End(random.random()),
        22 => Step::Acknowledge,
        _ => [Step::Button, Step::Wake, Step::Time, Step::Write(0x604, 2, 0x3401)][random.random_range(0..4)],
    }
}

/// Everything that can be seen of a chipset after a step at guest time `now`.
fn take(chipset: &mut Chipset, step: Step, now: u64) -> impl PartialEq + std::fmt::Debug + use<> {
    let answer = match step {
        Step::Read(port, width) => chipset.read_port(port, width, now),
        Step::Write(port, width, value) => {
            chipset.write_port(port, width, value, now);
            0
        }
        Step::Load(address) => chipset.read_memory(address, 4, now),
        Step::Store(address, value) => {
            chipset.write_memory(address, 4, value, now);
            0
        }
        Step::Config(offset, width, value) => {
            chipset.write_config(offset, width, value);
            0
        }
        Step::Line(line) => {
            chipset.line_rose(line);
            0
        }
        Step::End(vector) => {
            chipset.end_of_interrupt(vector);
            0
        }
        Step::Acknowledge => chipset.interrupt_acknowledge().into(),
        Step::Button => {
            chipset.power_button(now);
            0
        }
        Step::Wake => u64::from(chipset.wake()),
        Step::Time => {
            chipset.advance(now);
            0
        }
    };
    let pins: Vec<_> = (0..PINS as u8).map(|pin| (chipset.message(pin), chipset.edge_message(pin))).collect();
    let lines = (chipset.intr(), chipset.wake_cause(), chipset.suspended(), chipset.deadline());
    (answer, chipset.take_outputs(), chipset.shadows(), lines, pins)
}

#[test]
fn a_loaded_chipset_answers_as_the_one_that_was_saved() {
    let (mut slept, mut pending, mut latched) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now = random.random_range(0..10 * SECOND);
        let mut one = fresh();
        for _ in 0..random.random_range(0..300) {
            now += random.random_range(0..3_000_000);
            one.advance(now);
            take(&mut one, step(&mut random), now);
        }
        // A message that nobody has taken yet.
        let pin = random.random_range(16..24);
        one.write_memory(IOAPIC + register::INDEX, 4, 0x10 + 2 * pin, now);
        one.write_memory(IOAPIC + register::DATA, 4, random.random::<u64>() & 0x80FF, now);
        one.line_rose(pin as usize);
        let bytes = save(&one, 0);
        assert_eq!(bytes, save(&one, 0), "seed {seed}: a second save differs");
        let mut other = load(&bytes).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(bytes == save(&other, 0), "seed {seed}: the state of the loaded chipset differs");
        slept += u32::from(one.suspended());
        latched += u32::from(one.pit != Pit::default());
        let (ours, theirs) = (one.take_outputs(), other.take_outputs());
        assert_eq!(ours.deliver, theirs.deliver, "seed {seed}: pending messages");
        pending += u32::from(ours.deliver != 0);
        assert!(theirs.routes_changed && theirs.functions_changed == 3, "everything is published");
        for n in 0..200 {
            now += random.random_range(0..3_000_000);
            let next = step(&mut random);
            assert_eq!(take(&mut one, next, now), take(&mut other, next, now), "seed {seed}, step {n}: {next:x?}");
        }
        assert!(save(&one, 0) == save(&other, 0), "seed {seed}: in the end");
    }
    assert!(slept > 100 && pending > 100 && latched > 900, "{slept} {pending} {latched}");
}

#[test]
fn states_with_flipped_bits_are_refused_or_harmless() {
    let mut taken = 0;
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut one = fresh();
        let mut now = 0;
        for _ in 0..60 {
            now += random.random_range(0..3_000_000);
            take(&mut one, step(&mut random), now);
        }
        let mut bytes = save(&one, 0);
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        let Ok(mut other) = load(&bytes) else { continue };
        taken += 1;
        // Whatever it is, it runs.
        for _ in 0..100 {
            now += random.random_range(0..SECOND);
            take(&mut other, step(&mut random), now);
        }
        let again = load(&save(&other, 0)).map(|_| ());
        assert!(again.is_ok(), "seed {seed}: {again:?}");
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn states_of_random_bytes_do_no_harm() {
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..SEEDS {
        let bytes: Vec<u8> = (0..8 * random.random_range(0..200)).map(|_| random.random()).collect();
        assert!(load(&bytes).is_err());
    }
    assert!(load(&save(&fresh(), 0)[..64]).is_err(), "cut off");
}

#[test]
fn a_refusal_names_the_field() {
    type Change = fn(board_state::Builder<'_>);
    let chipset = fresh();
    let refusal = |change: Change| refusal(&chipset, change);
    let cases: [(Change, &str); 22] = [
        (
            |s| s.get_pit().unwrap().get_channels().unwrap().get(2).set_mode(9),
            "'board.pit.channels[2].mode': 9 is no mode",
        ),
        (|s| s.get_pit().unwrap().get_channels().unwrap().get(0).set_count(0x1_0001), "board.pit.channels[0].count"),
        (|s| s.get_pit().unwrap().get_channels().unwrap().get(1).set_start_tick(u64::MAX), "channels[1].startTick"),
        (|s| s.get_pit().unwrap().get_channels().unwrap().get(1).init_paused().set_at_tick(1 << 60), "paused.atTick"),
        (|s| s.get_pit().unwrap().get_channels().unwrap().get(1).set_latched_bytes(4), "channels[1].latchedBytes"),
        (|s| _ = s.get_pit().unwrap().init_channels(2), "'board.pit.channels': has 2 elements; it must have 3"),
        (|s| s.get_pit().unwrap().set_reported_tick(u64::MAX), "board.pit.reportedTick"),
        (|s| s.get_pic().unwrap().get_master().unwrap().set_first_priority(8), "board.pic.master.firstPriority"),
        (|s| s.get_pic().unwrap().get_master().unwrap().set_request(4), "board.pic.master.request"),
        (|s| s.get_pic().unwrap().get_slave().unwrap().set_level_triggered(1), "board.pic.slave.levelTriggered"),
        (
            |s| s.get_ioapic().unwrap().get_redirections().unwrap().get(7).set_remote_irr(true),
            "redirections[7].remoteIrr",
        ),
        (|s| s.get_ioapic().unwrap().set_lines(1 << 24), "board.ioapic.lines"),
        (|s| s.get_rtc().unwrap().set_offset_seconds(i64::MIN), "board.rtc.offsetSeconds"),
        (|s| s.get_rtc().unwrap().set_offset_nanoseconds(1_000_000_000), "board.rtc.offsetNanoseconds"),
        (|s| s.get_rtc().unwrap().set_cmos(&[0; 127]), "'board.rtc.cmos': has 127 bytes; it must have 128"),
        (|s| s.get_rtc().unwrap().set_cmos(&[0xFF; 128]), "board.rtc.cmos[10]"),
        (|s| s.get_pm().unwrap().set_control(0), "board.pm.control"),
        (|s| s.get_pm().unwrap().set_status(0x4000), "board.pm.status"),
        (|s| s.get_pm().unwrap().set_timer_halves(u64::MAX), "board.pm.timerHalves"),
        (|s| s.get_pci().unwrap().get_functions().unwrap().get(1).set_bdf(8), "board.pci.functions[1].bdf"),
        (
            |s| s.get_pci().unwrap().get_functions().unwrap().get(0).set_config(&[0; 256]),
            "board.pci.functions[0].config",
        ),
        (|mut s| s.set_pending_messages(1 << 24), "board.pendingMessages"),
    ];
    for (change, words) in cases {
        let text = refusal(change);
        assert!(text.contains(words), "{text} has no {words}");
    }
}

#[test]
fn edges_that_are_due_after_a_load_come_at_their_guest_time() {
    let mut one = fresh();
    for (port, value) in [(0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E), (0x70, 0x0B), (0x71, 0x12)] {
        one.write_port(port, 1, value, 0);
    }
    for (pin, vector) in [(2u64, 0x30), (8, 0x38)] {
        for (half, value) in [(1, 0), (0, vector)] {
            one.write_memory(IOAPIC + register::INDEX, 4, 0x10 + 2 * pin + half, 0);
            one.write_memory(IOAPIC + register::DATA, 4, value, 0);
        }
    }
    one.advance(7_000_000);
    let mut other = load(&save(&one, 0)).unwrap();
    other.take_outputs();
    let due = one.deadline().unwrap();
    // Ten milliseconds after it was loaded, to the tick.
    assert!((9_999_000..10_001_000).contains(&due) && other.deadline() == Some(due), "{due}");
    other.advance(due - 1);
    assert_eq!(other.take_outputs().deliver, 0);
    other.advance(due);
    assert_eq!(other.take_outputs().deliver, 1 << 2);
    other.advance(SECOND - 1);
    assert_eq!(other.take_outputs().deliver, 1 << 2);
    other.advance(SECOND);
    assert_eq!(other.take_outputs().deliver & 1 << 8, 1 << 8, "the clock's update");
}

/// Sets the alarm to `second` of the minute, enables it and its power-management event, and goes to sleep at `now`.
fn sleep_until(board: &mut Chipset, second: u64, now: u64) {
    for (index, value) in [(1, second), (3, 0xC0), (5, 0xC0), (0x0B, 0x22)] {
        board.write_port(0x70, 1, index, now);
        board.write_port(0x71, 1, value, now);
    }
    board.write_port(0x602, 2, 0x0400, now);
    board.write_port(0x600, 2, 0xFFFF, now);
    assert_eq!(board.take_outputs().event, None);
    board.write_port(0x604, 2, 0x1401, now);
    assert_eq!(board.take_outputs().event, None, "not enabled");
    board.write_port(0x604, 2, 0x3401, now);
    assert!(board.suspended());
    assert_eq!(board.take_outputs().event, Some(Event::Suspend));
}

#[test]
fn the_alarm_wakes_a_guest_from_s3_also_after_a_load() {
    let mut board = fresh();
    // The clock shows 22:13:20 at guest time zero.
    sleep_until(&mut board, 0x22, SECOND / 2);
    let mut board = load(&save(&board, 0)).unwrap();
    assert_eq!((board.take_outputs().event, board.wake_cause()), (None, None));
    assert_eq!(board.deadline(), Some(2 * SECOND), "with nobody listening to line 8 or the SCI");
    board.advance(2 * SECOND - 1);
    assert_eq!(board.wake_cause(), None);
    board.advance(2 * SECOND);
    assert_eq!((board.wake_cause(), board.deadline()), (Some(Cause::Rtc), None));
    assert!(board.wake() && !board.suspended() && !board.wake());
    assert_eq!(board.read_port(0x600, 2, 2 * SECOND) & 0x8400, 0x8400);
    assert_eq!(board.read_port(0x604, 2, 2 * SECOND), 0x1401, "SLP_EN is not kept");
}

#[test]
fn an_alarm_that_came_on_the_way_to_sleep_wakes_at_once() {
    let mut board = fresh();
    let now = 3 * SECOND;
    board.write_port(0x70, 1, 0x0B, 0);
    board.write_port(0x71, 1, 0x22, 0);
    for (index, value) in [(1, 0x22), (3, 0xC0), (5, 0xC0)] {
        board.write_port(0x70, 1, index, 0);
        board.write_port(0x71, 1, value, 0);
    }
    board.advance(now);
    sleep_until(&mut board, 0x22, now);
    assert_eq!(board.wake_cause(), Some(Cause::Rtc));
}

#[test]
fn the_button_wakes_without_being_enabled_and_no_message_is_sent_to_a_machine_that_sleeps() {
    let mut board = fresh();
    for (half, value) in [(1, 0), (0, 0x8029)] {
        board.write_memory(IOAPIC + register::INDEX, 4, 0x10 + 2 * 9 + half, 0);
        board.write_memory(IOAPIC + register::DATA, 4, value, 0);
    }
    sleep_until(&mut board, 0x59, 0);
    board.write_port(0x602, 2, 0x0100, 0);
    board.power_button(0);
    assert_eq!((board.take_outputs().deliver, board.wake_cause()), (0, Some(Cause::Button)));
    assert!(board.wake());
    board.advance(1);
    assert_eq!(board.take_outputs().deliver, 0, "the guest has to restore the IOAPIC");
    assert_eq!(board.message(9).map(|message| message.data & 0xFF), Some(0));
    // As a guest restores it: the system control interrupt, which waited, comes.
    for (half, value) in [(1, 0), (0, 0x8029)] {
        board.write_memory(IOAPIC + register::INDEX, 4, 0x10 + 2 * 9 + half, 2);
        board.write_memory(IOAPIC + register::DATA, 4, value, 2);
    }
    assert_eq!(board.take_outputs().deliver, 1 << 9);
}

#[test]
fn a_reset_ends_sleep() {
    let mut board = fresh();
    sleep_until(&mut board, 0x59, 0);
    board.reset(1);
    assert!(!board.suspended() && !board.wake());
}
