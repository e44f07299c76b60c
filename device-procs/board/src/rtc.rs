//! The MC146818 real-time clock with its 128 bytes of CMOS.
//!
//! The one idea: the date is wall-clock nanoseconds = offset + guest time, so nothing ticks; flags of register C are
//! computed for the interval since they were last looked at. Sources: Motorola MC146818A datasheet, ICH9 datasheet
//! (316972), "Real Time Clock Registers"; the century byte is where the FADT says.

use crate::calendar::Civil;
use crate::time::{SECOND, earliest};
use machine_model::acpi::CMOS_CENTURY;

/// Register indices.
mod index {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0A;
    pub const B: u8 = 0x0B;
    pub const C: u8 = 0x0C;
    pub const D: u8 = 0x0D;
}

/// Registers that show the date and stand still while it is being set.
const DATE: [u8; 8] =
    [index::SECONDS, index::MINUTES, index::HOURS, index::WEEKDAY, index::DAY, index::MONTH, index::YEAR, CMOS_CENTURY];

/// Bits of register A.
mod a {
    pub const UPDATE_IN_PROGRESS: u8 = 0x80;
    /// Divider chain; 010 runs, 11x holds it in reset.
    pub const DIVIDER: u8 = 0x70;
    pub const DIVIDER_RESET: u8 = 0x60;
    pub const RATE: u8 = 0x0F;
}

/// Bits of register B.
mod b {
    pub const SET: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
    pub const SQUARE_WAVE: u8 = 0x08;
    pub const BINARY: u8 = 0x04;
    pub const HOURS_24: u8 = 0x02;
}

/// Bits of register C. Each has the same position as its enable bit in register B.
mod c {
    pub const ANY: u8 = 0x80;
    pub const PERIODIC: u8 = super::b::PERIODIC;
    pub const ALARM: u8 = super::b::ALARM;
    pub const UPDATE: u8 = super::b::UPDATE;
}

/// Register D: the battery is good.
const VALID: u8 = 0x80;
/// UIP rises this long before an update.
const UPDATE_WARNING: u64 = 244_000;
/// After the divider leaves reset the first update follows half a second later.
const AFTER_RESET: i128 = SECOND as i128 / 2;
/// Rate of the time base that periodic rates are taken from, Hz.
const BASE_HZ: u64 = 32_768;
/// "Any" in an alarm register: both upper bits.
const ANY: u8 = 0xC0;
/// 9999-12-31 23:59:59.
const LAST_SECOND: i64 = 253_402_300_799;
const SECOND_I: i128 = SECOND as i128;

/// State of the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    /// Storage. Date registers in it count only while the clock is held.
    cmos: [u8; 128],
    /// Wall-clock time (nanoseconds since 1970) minus guest time.
    offset: i128,
    /// Guest time up to which register C is right.
    seen: u64,
}

impl Rtc {
    /// A clock that shows `wall_seconds` (UTC since 1970, limited to the years up to 9999) at guest time zero, at guest
    /// time `now`.
    pub fn new(wall_seconds: i64, now: u64) -> Self {
        let wall_seconds = wall_seconds.clamp(0, LAST_SECOND);
        let mut cmos = [0; 128];
        for (index, value) in [(index::A, 0x26), (index::B, b::HOURS_24)] {
            set(&mut cmos, index, value);
        }
        Self { index: 0, cmos, offset: i128::from(wall_seconds) * SECOND_I, seen: now }
    }

    /// Reset: interrupts off; the date and the storage are kept by the battery.
    pub fn reset(&mut self, now: u64) {
        self.advance(now);
        let kept = self.register(index::B) & !(b::PERIODIC | b::ALARM | b::UPDATE | b::SQUARE_WAVE);
        self.write_b(kept, now);
        self.put(index::C, 0);
        self.index = 0;
    }

    fn register(&self, index: u8) -> u8 {
        self.cmos.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn put(&mut self, index: u8, value: u8) {
        set(&mut self.cmos, index, value);
    }

    /// Whether the date stands still, being set or with the divider in reset.
    fn held(&self) -> bool {
        self.register(index::B) & b::SET != 0 || self.divider_reset()
    }

    fn divider_reset(&self) -> bool {
        self.register(index::A) & a::DIVIDER & a::DIVIDER_RESET == a::DIVIDER_RESET
    }

    fn wall(&self, now: u64) -> i128 {
        self.offset + i128::from(now)
    }

    fn wall_seconds(&self, now: u64) -> i64 {
        // The offset comes from eight date registers or the host's clock: within ±10⁵ years.
        i64::try_from(self.wall(now).div_euclid(SECOND_I)).unwrap_or(0)
    }

    /// Selects the register that [`Rtc::read`] and [`Rtc::write`] access. Bit 7 (NMI mask) is ignored.
    pub fn select(&mut self, value: u8) {
        self.index = value & 0x7F;
    }

    /// The level of the interrupt line at the last [`Rtc::advance`].
    pub fn irq(&self) -> bool {
        self.register(index::C) & self.register(index::B) & (c::PERIODIC | c::ALARM | c::UPDATE) != 0
    }

    /// Brings register C up to guest time `now`. To be called before every access.
    pub fn advance(&mut self, now: u64) {
        let from = self.seen;
        if now <= from {
            return;
        }
        self.seen = now;
        let mut flags = self.register(index::C);
        if self.next_periodic(from).is_some_and(|at| at <= now) {
            flags |= c::PERIODIC;
        }
        if self.next_update(from).is_some_and(|at| at <= now) {
            flags |= c::UPDATE;
        }
        if self.next_alarm(from).is_some_and(|at| at <= now) {
            flags |= c::ALARM;
        }
        self.put(index::C, flags);
    }

    /// Guest time of the next interrupt after the last [`Rtc::advance`], if one is enabled and the line is low.
    pub fn deadline(&self) -> Option<u64> {
        if self.irq() {
            return None;
        }
        let enabled = self.register(index::B);
        let when = |bit: u8, next: Option<u64>| next.filter(|_| enabled & bit != 0);
        let periodic = when(b::PERIODIC, self.next_periodic(self.seen));
        let update = when(b::UPDATE, self.next_update(self.seen));
        let alarm = when(b::ALARM, self.next_alarm(self.seen));
        earliest(periodic, earliest(update, alarm))
    }

    /// Guest time at which wall-clock time is `wall`; `None` if that is out of range.
    fn guest_time(&self, wall: i128) -> Option<u64> {
        u64::try_from(wall - self.offset).ok()
    }

    fn next_update(&self, after: u64) -> Option<u64> {
        if self.held() {
            return None;
        }
        self.guest_time((self.wall(after).div_euclid(SECOND_I) + 1) * SECOND_I)
    }

    fn next_periodic(&self, after: u64) -> Option<u64> {
        if self.divider_reset() {
            return None;
        }
        // Rates 1 and 2 repeat those of 8 and 9 (256 and 128 Hz).
        let shift = match self.register(index::A) & a::RATE {
            0 => return None,
            rate @ 1..=2 => rate + 6,
            rate => rate - 1,
        };
        let hz = i128::from(BASE_HZ >> shift);
        let periods = self.wall(after) * hz;
        let next = periods.div_euclid(SECOND_I) + 1;
        self.guest_time((next * SECOND_I + hz - 1).div_euclid(hz))
    }

    /// The alarm fires at the start of the next second whose time of day matches the alarm registers.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        if self.held() {
            return None;
        }
        let mut second = self.wall_seconds(after) + 1;
        let end = second + 2 * crate::calendar::DAY;
        while second < end {
            let civil = Civil::from_seconds(second);
            if !self.alarm_matches(index::HOURS_ALARM, self.encode_hour(civil.hour)) {
                second += 3600 - civil.minute * 60 - civil.second;
            } else if !self.alarm_matches(index::MINUTES_ALARM, self.encode(civil.minute)) {
                second += 60 - civil.second;
            } else if !self.alarm_matches(index::SECONDS_ALARM, self.encode(civil.second)) {
                second += 1;
            } else {
                return self.guest_time(i128::from(second) * SECOND_I);
            }
        }
        None
    }

    fn alarm_matches(&self, index: u8, encoded: u8) -> bool {
        let alarm = self.register(index);
        alarm & ANY == ANY || alarm == encoded
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.register(index::B) & b::BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> i64 {
        i64::from(if self.register(index::B) & b::BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) })
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.register(index::B) & b::HOURS_24 != 0 {
            return self.encode(hour);
        }
        // 12, 1, …, 11; bit 7 is PM.
        self.encode((hour + 11) % 12 + 1) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.register(index::B) & b::HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7F) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    fn date_register(&self, index: u8, now: u64) -> u8 {
        if self.held() {
            return self.register(index);
        }
        let civil = Civil::from_seconds(self.wall_seconds(now));
        match index {
            index::SECONDS => self.encode(civil.second),
            index::MINUTES => self.encode(civil.minute),
            index::HOURS => self.encode_hour(civil.hour),
            index::WEEKDAY => self.encode(civil.weekday),
            index::DAY => self.encode(civil.day),
            index::MONTH => self.encode(civil.month),
            index::YEAR => self.encode(civil.year),
            _ => self.encode(civil.year.div_euclid(100)),
        }
    }

    /// Reads the selected register at guest time `now`. Reading register C clears it.
    pub fn read(&mut self, now: u64) -> u8 {
        let index = self.index;
        match index {
            index::A => self.register(index::A) | if self.updating(now) { a::UPDATE_IN_PROGRESS } else { 0 },
            index::C => {
                let any = if self.irq() { c::ANY } else { 0 };
                let flags = self.register(index::C);
                self.put(index::C, 0);
                flags | any
            }
            index::D => VALID,
            _ if DATE.contains(&index) => self.date_register(index, now),
            _ => self.register(index),
        }
    }

    fn updating(&self, now: u64) -> bool {
        !self.held() && self.wall(now).rem_euclid(SECOND_I) >= SECOND_I - i128::from(UPDATE_WARNING)
    }

    /// Writes the selected register at guest time `now`.
    pub fn write(&mut self, value: u8, now: u64) {
        let index = self.index;
        match index {
            index::A => self.write_a(value, now),
            index::B => self.write_b(value, now),
            index::C | index::D => {}
            _ if DATE.contains(&index) && !self.held() => {
                // Without SET the other fields go on from where they are.
                let fraction = self.wall(now).rem_euclid(SECOND_I);
                self.hold(now);
                self.put(index, value);
                self.release(fraction, now);
            }
            _ => self.put(index, value),
        }
    }

    /// Copies the running date to the storage.
    fn hold(&mut self, now: u64) {
        let date = DATE.map(|index| (index, self.date_register(index, now)));
        for (index, value) in date {
            self.put(index, value);
        }
    }

    /// Starts the clock from the date in the storage, `fraction` nanoseconds into its second.
    fn release(&mut self, fraction: i128, now: u64) {
        let civil = Civil {
            year: self.decode(self.register(CMOS_CENTURY)) * 100 + self.decode(self.register(index::YEAR)),
            month: self.decode(self.register(index::MONTH)),
            day: self.decode(self.register(index::DAY)),
            hour: self.decode_hour(self.register(index::HOURS)),
            minute: self.decode(self.register(index::MINUTES)),
            second: self.decode(self.register(index::SECONDS)),
            weekday: 0,
        };
        self.offset = i128::from(civil.to_seconds()) * SECOND_I + fraction - i128::from(now);
    }

    fn write_a(&mut self, value: u8, now: u64) {
        let was_held = self.held();
        let was_reset = self.divider_reset();
        if !was_held {
            self.hold(now);
        }
        let fraction = if was_reset { AFTER_RESET } else { self.wall(now).rem_euclid(SECOND_I) };
        self.put(index::A, value & !a::UPDATE_IN_PROGRESS);
        if was_held && !self.held() {
            self.release(fraction, now);
        }
    }

    fn write_b(&mut self, value: u8, now: u64) {
        let was_held = self.held();
        if !was_held {
            self.hold(now);
        }
        let mut value = value;
        if value & b::SET != 0 {
            // Setting the date cancels the update interrupt (MC146818, "SET").
            value &= !b::UPDATE;
        }
        let fraction = self.wall(now).rem_euclid(SECOND_I);
        self.put(index::B, value);
        if was_held && !self.held() {
            self.release(fraction, now);
        }
    }
}

fn set(cmos: &mut [u8; 128], index: u8, value: u8) {
    if let Some(byte) = cmos.get_mut(usize::from(index)) {
        *byte = value;
    }
}

mod saved;

#[cfg(test)]
mod tests;
