//! The timer against its datasheet, mode by mode. Times are given in ticks and converted.

use super::*;

/// Guest time at which `tick` has just happened.
fn at(tick: u64) -> u64 {
    time_of(tick, HZ)
}

fn write_count(pit: &mut Pit, channel: u16, count: u16, tick: u64) {
    let [low, high] = count.to_le_bytes();
    pit.write(channel, low, at(tick));
    pit.write(channel, high, at(tick));
}

fn read_latched(pit: &mut Pit, channel: u8, tick: u64) -> u16 {
    pit.write(3, channel << 6, at(tick));
    let low = pit.read(u16::from(channel), at(tick + 7));
    u16::from_le_bytes([low, pit.read(u16::from(channel), at(tick + 9))])
}

fn status(pit: &mut Pit, channel: u8, tick: u64) -> u8 {
    pit.write(3, 0xE0 | 2 << channel, at(tick));
    pit.read(u16::from(channel), at(tick))
}

/// Programs channel 0 in `mode` with `count` at tick 100.
fn channel0(mode: u8, count: u16) -> Pit {
    let mut pit = Pit::default();
    pit.advance(at(100));
    pit.write(3, 0x30 | mode << 1, at(100));
    write_count(&mut pit, 0, count, 100);
    pit
}

#[test]
fn mode_0_rises_once_at_the_end_of_the_count() {
    let mut pit = channel0(0, 50);
    assert!(!pit.out0(at(100)));
    assert_eq!(pit.deadline(), Some(at(150)));
    assert!(!pit.advance(at(149)) && !pit.out0(at(149)));
    assert!(pit.advance(at(150)) && pit.out0(at(150)));
    assert!(!pit.advance(at(100_000)), "once");
    assert_eq!(pit.deadline(), None);
    assert_eq!(read_latched(&mut pit, 0, 152), 0xFFFE, "it counts on past zero");
}

#[test]
fn mode_2_rises_every_period() {
    let mut pit = channel0(2, 1000);
    let mut rises = 0;
    for tick in (100..=10_100).step_by(50) {
        rises += u32::from(pit.advance(at(tick)));
    }
    assert_eq!(rises, 10);
    assert_eq!(pit.deadline(), Some(at(11_100)));
    assert!(!pit.out0(at(11_099)) && pit.out0(at(11_098)) && pit.out0(at(11_100)), "low for the last tick");
    assert_eq!(read_latched(&mut pit, 0, 10_100), 1000);
    assert_eq!(read_latched(&mut pit, 0, 10_101), 999);
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut pit = channel0(3, 1000);
    assert!(pit.out0(at(100)) && pit.out0(at(599)) && !pit.out0(at(600)) && !pit.out0(at(1099)) && pit.out0(at(1100)));
    assert_eq!(pit.deadline(), Some(at(1100)));
    assert_eq!(read_latched(&mut pit, 0, 101), 998, "counts by two");
    assert_eq!(read_latched(&mut pit, 0, 600), 1000, "each half counts the whole");
}

#[test]
fn mode_4_strobes_once_per_count() {
    let mut pit = channel0(4, 50);
    assert!(pit.out0(at(149)) && !pit.out0(at(150)) && pit.out0(at(151)));
    assert_eq!(pit.deadline(), Some(at(151)));
    assert!(pit.advance(at(151)));
    assert_eq!(pit.deadline(), None);
    write_count(&mut pit, 0, 20, 200);
    assert_eq!(pit.deadline(), Some(at(221)), "each new count starts again");
}

#[test]
fn mode_1_waits_for_the_gate() {
    let mut pit = Pit::default();
    pit.write(3, 0xB2, at(0));
    write_count(&mut pit, 2, 100, 0);
    assert_eq!(pit.read_port_61(at(50)) & 0x20, 0x20, "not triggered: high");
    pit.write_port_61(1, at(1000));
    assert_eq!(pit.read_port_61(at(1099)) & 0x20, 0);
    assert_eq!(pit.read_port_61(at(1100)) & 0x20, 0x20);
    pit.write_port_61(0, at(2000));
    pit.write_port_61(1, at(3000));
    assert_eq!(pit.read_port_61(at(3050)) & 0x20, 0, "triggered again");
}

#[test]
fn mode_5_strobes_after_the_gate() {
    let mut pit = Pit::default();
    pit.write(3, 0xBA, at(0));
    write_count(&mut pit, 2, 100, 0);
    pit.write_port_61(1, at(1000));
    assert_eq!(pit.read_port_61(at(1100)) & 0x20, 0);
    assert_eq!(pit.read_port_61(at(1101)) & 0x20, 0x20);
}

/// How Linux measures the processor's clock: gate up, mode 0, wait for OUT in port 0x61.
#[test]
fn channel_2_in_mode_0_is_seen_in_port_61() {
    let mut pit = Pit::default();
    pit.write_port_61(1, at(10));
    pit.write(3, 0xB0, at(10));
    write_count(&mut pit, 2, 0xE90B, 10);
    assert_eq!(pit.read_port_61(at(0xE90B + 9)) & 0x21, 0x01);
    assert_eq!(pit.read_port_61(at(0xE90B + 10)) & 0x21, 0x21);
}

#[test]
fn a_low_gate_pauses_mode_0() {
    let mut pit = Pit::default();
    pit.write(3, 0xB0, at(0));
    write_count(&mut pit, 2, 100, 0);
    assert_eq!(read_latched(&mut pit, 2, 5000), 100, "the gate is low");
    pit.write_port_61(1, at(5000));
    assert_eq!(read_latched(&mut pit, 2, 5040), 60);
    pit.write_port_61(0, at(5050));
    pit.write_port_61(1, at(6000));
    assert_eq!(read_latched(&mut pit, 2, 6010), 40);
}

#[test]
fn a_low_gate_holds_periodic_modes_high_and_a_rising_one_restarts_them() {
    let mut pit = Pit::default();
    pit.write_port_61(1, at(0));
    pit.write(3, 0xB6, at(0));
    write_count(&mut pit, 2, 100, 0);
    assert_eq!(pit.read_port_61(at(60)) & 0x20, 0);
    pit.write_port_61(0, at(60));
    assert_eq!(pit.read_port_61(at(70)) & 0x20, 0x20);
    pit.write_port_61(1, at(80));
    assert_eq!(pit.read_port_61(at(129)) & 0x20, 0x20);
    assert_eq!(pit.read_port_61(at(130)) & 0x20, 0);
}

#[test]
fn a_new_count_in_a_periodic_mode_waits_for_the_period() {
    let mut pit = channel0(2, 1000);
    write_count(&mut pit, 0, 300, 600);
    assert_eq!(status(&mut pit, 0, 600) & 0x40, 0x40, "null count until it is loaded");
    assert!(pit.advance(at(1100)));
    assert_eq!(status(&mut pit, 0, 1100) & 0x40, 0);
    assert_eq!(pit.deadline(), Some(at(1400)));
}

#[test]
fn rises_are_seen_even_when_the_new_count_is_loaded_in_the_same_step() {
    let mut pit = channel0(2, 1000);
    write_count(&mut pit, 0, 300, 600);
    assert!(pit.advance(at(1200)));
    assert!(!pit.advance(at(1399)));
    assert!(pit.advance(at(1400)));
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = channel0(2, 1000);
    pit.write(3, 0x00, at(110));
    pit.write(3, 0x00, at(500));
    let low = pit.read(0, at(600));
    assert_eq!(u16::from_le_bytes([low, pit.read(0, at(700))]), 990, "the second latch is ignored");
}

#[test]
fn read_back_latches_status_and_count_of_chosen_channels() {
    let mut pit = channel0(2, 1000);
    pit.write(3, 0xC2, at(110));
    assert_eq!(pit.read(0, at(120)), 0b1011_0100, "OUT high, both bytes, mode 2; status comes first");
    let low = pit.read(0, at(120));
    assert_eq!(u16::from_le_bytes([low, pit.read(0, at(120))]), 990);
    pit.write(3, 0xE8, at(130));
    assert_eq!(pit.read(2, at(130)) & 0x40, 0x40, "channel 2 has no count yet");
}

#[test]
fn single_byte_access() {
    let mut pit = Pit::default();
    pit.write(3, 0x14, at(0));
    pit.write(0, 200, at(0));
    assert_eq!(pit.read(0, at(10)), 190);
    pit.write(3, 0x24, at(0));
    pit.write(0, 2, at(0));
    assert_eq!(pit.read(0, at(1)), 1, "0x1FF");
}

#[test]
fn decimal_counting() {
    let mut pit = Pit::default();
    pit.advance(at(100));
    pit.write(3, 0x35, at(100));
    write_count(&mut pit, 0, 0x1000, 100);
    assert_eq!(read_latched(&mut pit, 0, 101), 0x0999);
    assert_eq!(pit.deadline(), Some(at(1100)));
}

#[test]
fn a_count_of_zero_is_the_longest() {
    let pit = channel0(2, 0);
    assert_eq!(pit.deadline(), Some(at(100 + 0x1_0000)));
}

#[test]
fn a_control_word_stops_the_channel() {
    let mut pit = channel0(2, 1000);
    pit.advance(at(150));
    pit.write(3, 0x30, at(200));
    assert_eq!(pit.deadline(), None);
    assert!(!pit.advance(at(1_000_000)));
}

#[test]
fn the_first_byte_of_a_new_count_stops_mode_0() {
    let mut pit = channel0(0, 1000);
    pit.write(0, 0x10, at(200));
    assert!(!pit.advance(at(5000)));
    pit.write(0, 0x00, at(5000));
    assert_eq!(pit.deadline(), Some(at(5016)));
}

#[test]
fn the_refresh_bit_toggles_and_the_low_bits_are_kept() {
    let mut pit = Pit::default();
    pit.write_port_61(0xFF, at(0));
    assert_eq!(pit.read_port_61(at(0)) & 0xCF, 0x0F);
    assert_ne!(pit.read_port_61(at(0)) & 0x10, pit.read_port_61(at(18)) & 0x10);
    assert_eq!(pit.read_port_61(at(0)) & 0x10, pit.read_port_61(at(36)) & 0x10);
}

#[test]
fn the_control_port_cannot_be_read() {
    assert_eq!(Pit::default().read(3, 0), 0xFF);
}

#[test]
fn a_count_of_one_in_a_periodic_mode_does_not_hang() {
    let mut pit = channel0(2, 1);
    assert!(pit.advance(at(1000)));
    assert!(pit.deadline().is_some());
}
