//! The clock as software uses it: reading, setting, alarms and the three interrupts.

use super::*;

/// 2024-12-31 23:59:58, a Tuesday.
const WALL: i64 = 1_735_689_598;

fn rtc() -> Rtc {
    Rtc::new(WALL, 0)
}

fn read(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.advance(now);
    rtc.select(index);
    rtc.read(now)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.advance(now);
    rtc.select(index);
    rtc.write(value, now);
}

fn date(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(rtc, index, now))
}

#[test]
fn the_date_runs_with_guest_time() {
    let mut rtc = rtc();
    assert_eq!(date(&mut rtc, 0), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x58]);
    assert_eq!(date(&mut rtc, 2 * SECOND - 1), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x59]);
    assert_eq!(date(&mut rtc, 2 * SECOND), [0x20, 0x25, 0x01, 0x01, 4, 0x00, 0x00, 0x00]);
}

#[test]
fn binary_and_twelve_hour_formats() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0B, b::BINARY, 0);
    assert_eq!(date(&mut rtc, 0), [20, 24, 12, 31, 3, 0x80 | 11, 59, 58]);
    assert_eq!(read(&mut rtc, 4, 2 * SECOND), 12, "midnight is 12 AM");
    assert_eq!(read(&mut rtc, 4, (2 + 12 * 3600) * SECOND), 0x80 | 12, "noon is 12 PM");
    assert_eq!(read(&mut rtc, 4, (2 + 13 * 3600) * SECOND), 0x80 | 1);
}

#[test]
fn setting_the_date_holds_it_until_set_is_cleared() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0B, 0x82, 0);
    for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x02), (7, 0x28), (4, 0x13), (2, 0x14), (0, 0x15)] {
        write(&mut rtc, index, value, SECOND);
    }
    assert_eq!(read(&mut rtc, 0, 50 * SECOND), 0x15, "it stands still");
    write(&mut rtc, 0x0B, 0x02, 100 * SECOND);
    let shown = date(&mut rtc, 101 * SECOND);
    assert_eq!(shown, [0x19, 0x99, 0x02, 0x28, 1, 0x13, 0x14, 0x16], "and runs on from there; the weekday follows");
}

/// Linux stops the divider while it sets the date: the next second is then half a second away.
#[test]
fn leaving_divider_reset_starts_half_a_second_before_an_update() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0B, 0x82, 0);
    write(&mut rtc, 0x0A, 0x76, 0);
    write(&mut rtc, 0, 0x30, 0);
    write(&mut rtc, 0x0B, 0x02, SECOND);
    assert_eq!(read(&mut rtc, 0, 9 * SECOND), 0x30, "the divider still stands");
    write(&mut rtc, 0x0A, 0x26, 10 * SECOND);
    assert_eq!(read(&mut rtc, 0, 10 * SECOND + SECOND / 2 - 1), 0x30);
    assert_eq!(read(&mut rtc, 0, 10 * SECOND + SECOND / 2), 0x31);
}

#[test]
fn a_field_written_without_set_takes_effect_at_once() {
    let mut rtc = rtc();
    write(&mut rtc, 2, 0x30, SECOND / 2);
    assert_eq!(read(&mut rtc, 2, SECOND / 2), 0x30);
    assert_eq!(read(&mut rtc, 0, SECOND), 0x59, "the fraction of the second is kept");
}

#[test]
fn update_in_progress_comes_before_each_second() {
    let mut rtc = rtc();
    assert_eq!(read(&mut rtc, 0x0A, SECOND - 245_000), 0x26);
    assert_eq!(read(&mut rtc, 0x0A, SECOND - 244_000), 0xA6);
    assert_eq!(read(&mut rtc, 0x0A, SECOND), 0x26);
}

#[test]
fn update_ended_interrupts_every_second() {
    let mut rtc = rtc();
    assert_eq!(rtc.deadline(), None);
    write(&mut rtc, 0x0B, 0x12, SECOND / 4);
    assert_eq!(rtc.deadline(), Some(SECOND));
    rtc.advance(SECOND - 1);
    assert!(!rtc.irq());
    rtc.advance(SECOND);
    assert!(rtc.irq());
    assert_eq!(rtc.deadline(), None, "the line is high until register C is read");
    assert_eq!(read(&mut rtc, 0x0C, SECOND) & 0x90, 0x90);
    assert!(!rtc.irq());
    assert_eq!(read(&mut rtc, 0x0C, SECOND), 0);
    assert_eq!(rtc.deadline(), Some(2 * SECOND));
}

#[test]
fn the_alarm_fires_at_its_time() {
    let mut rtc = rtc();
    for (index, value) in [(5, 0x01), (3, 0x30), (1, 0x05)] {
        write(&mut rtc, index, value, 0);
    }
    write(&mut rtc, 0x0B, 0x22, 0);
    // 01:30:05 is 5407 seconds from 23:59:58.
    assert_eq!(rtc.deadline(), Some(5407 * SECOND));
    rtc.advance(5407 * SECOND - 1);
    assert!(!rtc.irq());
    rtc.advance(5407 * SECOND);
    assert!(rtc.irq());
    assert_eq!(read(&mut rtc, 0x0C, 5407 * SECOND) & 0xA0, 0xA0);
    assert_eq!(rtc.deadline(), Some((5407 + 86_400) * SECOND), "and again the next day");
}

#[test]
fn alarm_registers_may_say_any() {
    let mut rtc = rtc();
    for (index, value) in [(5, 0xFF), (3, 0xC0), (1, 0x10)] {
        write(&mut rtc, index, value, 0);
    }
    write(&mut rtc, 0x0B, 0x22, 0);
    assert_eq!(rtc.deadline(), Some(12 * SECOND), "every minute at ten seconds");
}

#[test]
fn an_alarm_that_cannot_match_never_comes() {
    let mut rtc = rtc();
    write(&mut rtc, 5, 0x99, 0);
    write(&mut rtc, 0x0B, 0x22, 0);
    assert_eq!(rtc.deadline(), None);
}

#[test]
fn the_periodic_interrupt_has_its_rate() {
    for (rate, hz) in [(6, 1024), (15, 2), (3, 8192), (1, 256), (2, 128)] {
        let mut rtc = rtc();
        write(&mut rtc, 0x0A, 0x20 | rate, 0);
        write(&mut rtc, 0x0B, 0x42, 0);
        let mut now = 0;
        for _ in 0..hz {
            now = rtc.deadline().unwrap();
            rtc.advance(now);
            assert_eq!(read(&mut rtc, 0x0C, now) & 0xC0, 0xC0);
        }
        assert_eq!(now, SECOND, "{hz} Hz");
    }
    let mut rtc = rtc();
    write(&mut rtc, 0x0A, 0x20, 0);
    write(&mut rtc, 0x0B, 0x42, 0);
    assert_eq!(rtc.deadline(), None, "rate 0 is off");
}

#[test]
fn flags_are_set_without_their_enables() {
    let mut rtc = rtc();
    assert_eq!(read(&mut rtc, 0x0C, SECOND), 0x50, "periodic and update ended, no interrupt");
    assert_eq!(read(&mut rtc, 0x0C, 10 * SECOND), 0x70, "and the alarm, which is midnight at power-on");
}

#[test]
fn storage_and_read_only_registers() {
    let mut rtc = rtc();
    write(&mut rtc, 0x7F, 0xA5, 0);
    write(&mut rtc, 0xFF, 0x5A, 0);
    assert_eq!(read(&mut rtc, 0x7F, 0), 0x5A, "bit 7 of the index is not part of it");
    write(&mut rtc, 0x0D, 0, 0);
    assert_eq!(read(&mut rtc, 0x0D, 0), 0x80);
    write(&mut rtc, 0x0C, 0xFF, 0);
    assert_eq!(read(&mut rtc, 0x0C, 0), 0);
}

#[test]
fn reset_keeps_date_and_storage_and_turns_interrupts_off() {
    let mut rtc = rtc();
    write(&mut rtc, 0x40, 7, 0);
    write(&mut rtc, 0x0B, 0x72, 0);
    rtc.reset(SECOND);
    assert_eq!(rtc.deadline(), None);
    assert!(!rtc.irq());
    assert_eq!((read(&mut rtc, 0x40, SECOND), read(&mut rtc, 0, SECOND)), (7, 0x59));
}

#[test]
fn nonsense_dates_do_no_harm() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0B, 0x82, 0);
    for index in DATE {
        write(&mut rtc, index, 0xFF, 0);
    }
    write(&mut rtc, 0x0B, 0x72, 0);
    rtc.advance(SECOND);
    let _ = date(&mut rtc, SECOND);
    assert!(rtc.deadline().is_none_or(|at| at > 0));
}

#[test]
fn a_wall_clock_out_of_range_is_limited() {
    for wall in [i64::MIN, i64::MAX] {
        let mut rtc = Rtc::new(wall, 0);
        write(&mut rtc, 0x0B, 0x72, 0);
        rtc.advance(u64::MAX);
        let _ = (date(&mut rtc, u64::MAX), rtc.deadline());
    }
}
