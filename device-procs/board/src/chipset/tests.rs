//! Stories across devices: a line from its source to its message, and requests from a register to an event.

use super::*;
use crate::ioapic::register;
use crate::time::SECOND;
use machine_model::MachineVersion;

fn board() -> Chipset {
    let mut board = Chipset::new(MachineVersion::Q35_0.machine(), 1_700_000_000, 0);
    board.take_outputs();
    board
}

const IOAPIC: u64 = 0xFEC0_0000;

fn redirect(board: &mut Chipset, pin: u8, entry: u64) {
    for (half, value) in [(1, entry >> 32), (0, entry & 0xFFFF_FFFF)] {
        board.write_memory(IOAPIC + register::INDEX, 4, u64::from(0x10 + 2 * pin + half), 0);
        board.write_memory(IOAPIC + register::DATA, 4, value, 0);
    }
}

/// Both PICs at 0x30 and 0x38 with these masks.
fn init_pics(board: &mut Chipset, master_mask: u64, slave_mask: u64) {
    for (base, vector, wiring, mask) in [(0x20, 0x30, 4, master_mask), (0xA0, 0x38, 2, slave_mask)] {
        board.write_port(base, 1, 0x11, 0);
        for value in [vector, wiring, 1, mask] {
            board.write_port(base + 1, 1, value, 0);
        }
    }
}

fn start_timer(board: &mut Chipset, now: u64) {
    board.write_port(0x43, 1, 0x34, now);
    board.write_port(0x40, 1, 0x9C, now);
    board.write_port(0x40, 1, 0x2E, now);
}

#[test]
fn the_timer_interrupts_through_the_pic() {
    let mut board = board();
    init_pics(&mut board, 0xFE, 0xFF);
    start_timer(&mut board, 0);
    let deadline = board.deadline().expect("the PIC listens");
    board.advance(deadline - 1);
    assert!(!board.intr());
    board.advance(deadline);
    assert!(board.intr());
    assert_eq!(board.interrupt_acknowledge(), 0x30);
    board.write_port(0x20, 1, 0x20, deadline);
    assert!(!board.intr());
    assert!(board.deadline().is_some_and(|next| next > deadline));
}

#[test]
fn the_timer_interrupts_through_pin_2_of_the_ioapic() {
    let mut board = board();
    redirect(&mut board, 2, 0x30);
    start_timer(&mut board, 0);
    let deadline = board.deadline().expect("the IOAPIC listens");
    assert_eq!(board.take_outputs().deliver, 0);
    board.advance(deadline);
    assert_eq!(board.take_outputs().deliver, 1 << 2);
    assert_eq!(board.message(2).map(|message| message.data & 0xFF), Some(0x30));
    board.advance(deadline + 20 * SECOND);
    assert_eq!(board.take_outputs().deliver, 1 << 2, "what a sleeping board missed is one edge");
}

#[test]
fn a_timer_that_nobody_listens_to_sets_no_deadline() {
    let mut board = board();
    start_timer(&mut board, 0);
    assert_eq!(board.deadline(), None);
    init_pics(&mut board, 0xFE, 0xFF);
    assert!(board.deadline().is_some());
}

#[test]
fn an_edge_that_came_while_masked_is_seen_when_the_pic_is_unmasked() {
    let mut board = board();
    init_pics(&mut board, 0xFF, 0xFF);
    start_timer(&mut board, 0);
    board.write_port(0x21, 1, 0xFE, SECOND);
    assert!(board.intr());
}

#[test]
fn a_serial_line_takes_the_way_that_the_guest_has_chosen() {
    let mut board = board();
    assert_eq!(board.edge_message(4), None, "nothing programmed: the board decides");
    init_pics(&mut board, 0xEF, 0xFF);
    board.line_rose(4);
    assert!(board.intr());
    assert_eq!(board.interrupt_acknowledge(), 0x34);
    redirect(&mut board, 4, 0x34);
    assert_eq!(board.edge_message(4), None, "both listen");
    board.write_port(0x21, 1, 0xFF, 0);
    assert!(board.take_outputs().routes_changed);
    assert_eq!(board.edge_message(4).map(|message| message.data), Some(0x4034), "the engine alone");
    redirect(&mut board, 4, 0x1_0034);
    assert!(board.take_outputs().routes_changed);
    assert_eq!(board.edge_message(4), None);
}

#[test]
fn a_level_pin_of_a_device_waits_for_its_end() {
    let mut board = board();
    redirect(&mut board, 16, 0xA055);
    board.line_rose(16);
    assert_eq!(board.take_outputs().deliver, 1 << 16);
    board.line_rose(16);
    assert_eq!(board.take_outputs().deliver, 0, "not before its end");
    board.end_of_interrupt(0x55);
    assert_eq!(board.take_outputs().deliver, 0, "the device has not raised it again");
    board.line_rose(16);
    assert_eq!(board.take_outputs().deliver, 1 << 16);
}

#[test]
fn the_power_button_is_a_level_sci() {
    let mut board = board();
    redirect(&mut board, 9, 0x8021);
    board.write_port(0x602, 2, 0x0100, 0);
    board.power_button(0);
    assert_eq!(board.take_outputs().deliver, 1 << 9);
    board.end_of_interrupt(0x21);
    assert_eq!(board.take_outputs().deliver, 1 << 9, "status is still set");
    board.write_port(0x600, 2, 0x0100, 0);
    board.end_of_interrupt(0x21);
    assert_eq!(board.take_outputs().deliver, 0);
}

#[test]
fn the_rtc_interrupts_at_line_8() {
    let mut board = board();
    redirect(&mut board, 8, 0x38);
    board.write_port(0x70, 1, 0x0B, 0);
    board.write_port(0x71, 1, 0x12, 0);
    assert_eq!(board.deadline(), Some(SECOND));
    board.advance(SECOND);
    assert_eq!(board.take_outputs().deliver, 1 << 8);
    board.advance(2 * SECOND);
    assert_eq!(board.take_outputs().deliver, 0, "the line is high until register C is read");
    board.write_port(0x70, 1, 0x0C, 2 * SECOND);
    assert_eq!(board.read_port(0x71, 1, 2 * SECOND), 0xD0);
    board.advance(3 * SECOND);
    assert_eq!(board.take_outputs().deliver, 1 << 8);
}

#[test]
fn guests_ask_for_power_off_reset_and_exit() {
    for (port, width, value, event) in [
        (0x604, 2, 0x3C00, Event::PowerOff),
        (0xCF9, 1, 0x06, Event::Reset),
        (0x92, 1, 0x01, Event::Reset),
        (0x64, 1, 0xFE, Event::Reset),
        (0xF4, 1, 0x10, Event::DebugExit(0x10)),
        (0xF4, 4, 0x1234_5678, Event::DebugExit(0x1234_5678)),
    ] {
        let mut board = board();
        board.write_port(port, width, value, 0);
        assert_eq!(board.take_outputs().event, Some(event), "{port:#x}");
    }
    let mut board = board();
    board.write_port(0x604, 2, 0x2000, 0);
    board.write_port(0xCF9, 1, 0x02, 0);
    assert_eq!(board.take_outputs().event, None);
}

#[test]
fn the_first_request_counts() {
    let mut board = board();
    board.write_port(0xF4, 1, 3, 0);
    board.write_port(0xCF9, 1, 6, 0);
    assert_eq!(board.take_outputs().event, Some(Event::DebugExit(3)));
}

#[test]
fn reset_forgets_everything_but_the_clock() {
    let mut board = board();
    init_pics(&mut board, 0, 0);
    redirect(&mut board, 4, 0x34);
    board.write_port(0x70, 1, 0x50, 0);
    board.write_port(0x71, 1, 0xAB, 0);
    board.write_port(0xCF8, 4, 0x8000_F804, 0);
    board.write_port(0xCFC, 2, 0x147, 0);
    start_timer(&mut board, 0);
    board.reset(SECOND);
    let out = board.take_outputs();
    assert!(out.routes_changed && out.functions_changed == 0b11 && out.event.is_none());
    assert!(!board.intr());
    assert_eq!(board.edge_message(4), None);
    assert_eq!(board.deadline(), None);
    assert_eq!(board.read_port(0xCF8, 4, SECOND), 0);
    assert_eq!(board.read_memory(0xE00F_8004, 2, SECOND), 7);
    board.write_port(0x70, 1, 0x50, SECOND);
    assert_eq!(board.read_port(0x71, 1, SECOND), 0xAB);
}

#[test]
fn configuration_space_is_the_same_by_both_ways() {
    let mut board = board();
    board.write_port(0xCF8, 4, 0x8000_F800, 0);
    assert_eq!(board.read_port(0xCFC, 4, 0), 0x2918_8086);
    assert_eq!(board.read_port(0xCFE, 2, 0), 0x2918);
    assert_eq!(board.read_memory(0xE00F_8000, 4, 0), 0x2918_8086);
    board.write_port(0xCF8, 4, 0x8000_F860, 0);
    board.write_port(0xCFD, 1, 0x0A, 0);
    assert_eq!(board.take_outputs().functions_changed, 0b10);
    assert_eq!(board.read_memory(0xE00F_8061, 1, 0), 0x0A);
    board.write_port(0xCF8, 4, 0x0000_0000, 0);
    assert_eq!(board.read_port(0xCFC, 4, 0), 0xFFFF_FFFF, "disabled");
}

#[test]
fn wide_accesses_reach_byte_devices_one_by_one() {
    let mut board = board();
    board.write_port(0x4D0, 2, 0x0820, 0);
    assert_eq!((board.read_port(0x4D0, 1, 0), board.read_port(0x4D1, 1, 0)), (0x20, 0x08));
    assert_eq!(board.read_port(0x4D0, 2, 0), 0x0820);
}

#[test]
fn the_reset_register_answers_bytes_beside_the_address_register() {
    let mut board = board();
    board.write_port(0xCF8, 4, 0x8000_0000, 0);
    board.write_port(0xCF9, 1, 0x02, 0);
    assert_eq!(board.read_port(0xCF9, 1, 0), 0x02);
    assert_eq!(board.read_port(0xCF8, 4, 0), 0x8000_0000);
}

#[test]
fn what_is_not_there_reads_as_ones() {
    let mut board = board();
    assert_eq!(board.read_port(0x1234, 2, 0), 0xFFFF);
    assert_eq!(board.read_port(0x70, 1, 0), 0xFF);
    assert_eq!(board.read_memory(0xFED0_0000, 8, 0), u64::MAX);
    board.write_port(0x1234, 4, 0, 0);
    board.write_memory(0xFED0_0000, 8, 0, 0);
    board.line_rose(usize::MAX);
    board.line_rose(200);
    assert_eq!(board.take_outputs(), Outputs::default());
}

/// A board must not break, whatever a guest does to it.
#[test]
fn random_accesses_do_no_harm() {
    let mut board = board();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let ports = [0x20, 0x21, 0xA0, 0xA1, 0x40, 0x42, 0x43, 0x61, 0x64, 0x70, 0x71, 0x92, 0x4D0, 0x600, 0x604, 0x628];
    let mut now = 0u64;
    for _ in 0..200_000 {
        now += next() % 5_000_000;
        let value = next();
        let port = if value & 1 == 0 { ports[(next() % 16) as usize] } else { 0xCF8 + (next() % 8) as u16 };
        let width = 1 << (next() % 3);
        match next() % 8 {
            0..3 => board.write_port(port, width, value, now),
            3 => drop(board.read_port(port, width, now)),
            4 => board.write_memory(IOAPIC + (next() & 0x50), 4, value, now),
            5 => board.write_memory(0xE000_0000 + value % (8 << 20), width, next(), now),
            6 => board.line_rose((value % 30) as usize),
            _ => board.end_of_interrupt(value as u8),
        }
        let _ = (board.interrupt_acknowledge(), board.intr(), board.take_outputs());
        if board.suspended() {
            assert!(board.wake());
        }
        board.advance(now);
        assert!(board.deadline().is_none_or(|deadline| deadline > now));
    }
}
