//! The 8254 timer: channel 0 drives the timer interrupt, channel 2 the speaker, and port 0x61 sits beside it.
//!
//! The one idea: a channel is (mode, count, tick at which it was loaded); its count and output at any time are formulas
//! of that. Sources: Intel 8254 datasheet (231164), ICH9 datasheet (316972) for port 0x61.

use crate::time::{ticks, time_of};

/// Input clock, Hz: a twelfth of 14.31818 MHz.
pub const HZ: u64 = 1_193_182;
/// The refresh toggle in port 0x61 changes at this rate: every 18 input clocks (about 15 µs).
const REFRESH_TICKS: u64 = 18;

/// Which bytes of the count an access to the channel's port moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

/// One channel. Times are in ticks of [`HZ`] since guest time zero.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    /// Loaded count, 1 to 0x1_0000; `None` until the first count after a control word.
    count: Option<u32>,
    /// A count written while a periodic mode runs: loaded at the end of the period.
    next_count: Option<u32>,
    /// Tick at which `count` was loaded. In a paused channel it moves along with time.
    start: u64,
    gate: bool,
    /// Tick at which the gate paused counting.
    paused_at: Option<u64>,
    /// Low byte of a two-byte write.
    write_low: Option<u8>,
    /// The next read of a two-byte read gives the high byte.
    read_high: bool,
    /// Latched count, with what is left to read of it: bit 0 low byte, bit 1 high byte.
    latched: Option<(u16, u8)>,
    latched_status: Option<u8>,
    /// Modes 1 and 5: the gate has started the count.
    triggered: bool,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access::Both,
            count: None,
            next_count: None,
            start: 0,
            gate,
            paused_at: None,
            write_low: None,
            read_high: false,
            latched: None,
            latched_status: None,
            triggered: false,
        }
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn gate_triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    /// Loads the next count of a periodic mode once its period has ended.
    fn reload(&mut self, now: u64) {
        if let (Some(count), Some(next)) = (self.count, self.next_count)
            && self.paused_at.is_none()
        {
            let end = self.start + self.period(count);
            if now >= end {
                self.start = end;
                self.count = Some(next);
                self.next_count = None;
            }
        }
    }

    /// Length of one period: a count of one cannot run in periodic modes (8254, "Mode 2"); treat it as two.
    fn period(&self, count: u32) -> u64 {
        u64::from(count.max(2))
    }

    /// Ticks since the count was loaded.
    fn elapsed(&self, now: u64) -> u64 {
        self.paused_at.unwrap_or(now).saturating_sub(self.start)
    }

    fn running(&self) -> Option<u32> {
        self.count.filter(|_| !self.gate_triggered() || self.triggered)
    }

    fn out(&self, now: u64) -> bool {
        let Some(count) = self.running() else { return self.mode != 0 };
        let elapsed = self.elapsed(now);
        let period = self.period(count);
        match self.mode {
            0 | 1 => elapsed >= u64::from(count),
            2 => self.paused_at.is_some() || elapsed % period != period - 1,
            3 => self.paused_at.is_some() || elapsed % period < period.div_ceil(2),
            _ => elapsed != u64::from(count),
        }
    }

    /// The first tick after `now` at which OUT rises.
    fn next_rise(&self, now: u64) -> Option<u64> {
        let count = self.running().filter(|_| self.paused_at.is_none())?;
        let count_end = self.start + u64::from(count);
        match self.mode {
            0 | 1 => Some(count_end).filter(|at| *at > now),
            2 | 3 => {
                let period = self.period(count);
                Some(self.start + (self.elapsed(now) / period + 1) * period)
            }
            // A strobe: low for one tick.
            _ => Some(count_end + 1).filter(|at| *at > now),
        }
    }

    /// The counting element's value.
    fn value(&self, now: u64) -> u16 {
        let Some(count) = self.running() else { return self.encode(self.count.unwrap_or(0)) };
        let elapsed = self.elapsed(now);
        let period = self.period(count);
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let left = match self.mode {
            2 => period - elapsed % period,
            // Counts down by two in each half.
            3 => period - (2 * elapsed) % period,
            // After the end it wraps and goes on.
            _ => (u64::from(count) + modulus - elapsed % modulus) % modulus,
        };
        self.encode((left % modulus) as u32)
    }

    fn encode(&self, value: u32) -> u16 {
        if !self.bcd {
            return value as u16;
        }
        (0..4).fold(0, |sum, digit| sum | ((value / 10u32.pow(digit) % 10) << (4 * digit)) as u16)
    }

    fn decode(&self, written: u16) -> u32 {
        let value = if self.bcd {
            (0..4).fold(0, |sum, digit| sum + u32::from(written >> (4 * digit) & 15) * 10u32.pow(digit))
        } else {
            u32::from(written)
        };
        match (value, self.bcd) {
            (0, true) => 10_000,
            (0, false) => 0x1_0000,
            _ => value,
        }
    }

    fn control(&mut self, access: Access, mode: u8, bcd: bool) {
        // The channel stands with OUT in the mode's initial state until a count is loaded.
        *self = Self { access, mode, bcd, gate: self.gate, ..Self::new(self.gate) };
    }

    fn load(&mut self, written: u16, now: u64) {
        let count = self.decode(written);
        if self.periodic() && self.count.is_some() {
            self.next_count = Some(count);
            return;
        }
        if self.gate_triggered() && self.triggered {
            // The running one-shot is not affected; the next trigger uses the new count.
            self.next_count = Some(count);
            return;
        }
        self.count = Some(count);
        self.start = now;
        self.paused_at = (!self.gate && !self.gate_triggered()).then_some(now);
    }

    fn write(&mut self, value: u8, now: u64) {
        match self.access {
            Access::Low => self.load(u16::from(value), now),
            Access::High => self.load(u16::from(value) << 8, now),
            Access::Both => match self.write_low.take() {
                None => {
                    self.write_low = Some(value);
                    // In mode 0 the first byte stops counting.
                    if self.mode == 0 {
                        self.count = None;
                    }
                }
                Some(low) => self.load(u16::from_le_bytes([low, value]), now),
            },
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        if let Some((value, left)) = self.latched {
            let [low, high] = value.to_le_bytes();
            if left & 1 != 0 {
                self.latched = (left & 2 != 0).then_some((value, 2));
                return low;
            }
            self.latched = None;
            return high;
        }
        let [low, high] = self.value(now).to_le_bytes();
        match self.access {
            Access::Low => low,
            Access::High => high,
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high { low } else { high }
            }
        }
    }

    fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            let bytes = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Both => 3,
            };
            self.latched = Some((self.value(now), bytes));
        }
    }

    fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            let access = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Both => 3,
            };
            let null_count = self.count.is_none() || self.next_count.is_some();
            self.latched_status = Some(
                (u8::from(self.out(now)) << 7)
                    | (u8::from(null_count) << 6)
                    | (access << 4)
                    | (self.mode << 1)
                    | u8::from(self.bcd),
            );
        }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        match self.mode {
            0 | 4 => {
                if falling && self.paused_at.is_none() {
                    self.paused_at = Some(now);
                } else if rising && let Some(paused_at) = self.paused_at.take() {
                    self.start += now.saturating_sub(paused_at);
                }
            }
            2 | 3 => {
                if falling {
                    self.paused_at = Some(now);
                } else if rising {
                    self.paused_at = None;
                    self.restart(now);
                }
            }
            _ => {
                if rising {
                    self.triggered = true;
                    self.restart(now);
                }
            }
        }
    }

    fn restart(&mut self, now: u64) {
        self.start = now;
        if let Some(next) = self.next_count.take() {
            self.count = Some(next);
        }
    }
}

/// The timer with its three channels and port 0x61.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; 3],
    /// Bits 0 to 3 of port 0x61 as written.
    port_61: u8,
    /// Tick up to which rises of channel 0 have been reported.
    reported: u64,
}

impl Default for Pit {
    fn default() -> Self {
        // The gate of channel 2 is bit 0 of port 0x61, low at reset.
        Self { channels: [Channel::new(true), Channel::new(true), Channel::new(false)], port_61: 0, reported: 0 }
    }
}

impl Pit {
    /// State after reset at guest time `now`.
    pub fn new(now: u64) -> Self {
        Self { reported: ticks(now, HZ), ..Self::default() }
    }

    /// Brings the channels up to guest time `now` and tells whether channel 0's output has risen since the last call.
    /// To be called before every access.
    pub fn advance(&mut self, now: u64) -> bool {
        let now = ticks(now, HZ);
        let rise = self.channels.first().and_then(|channel| channel.next_rise(self.reported));
        for channel in &mut self.channels {
            channel.reload(now);
        }
        self.reported = now.max(self.reported);
        rise.is_some_and(|rise| rise <= now)
    }

    /// The output of channel 0: the level of the timer's interrupt line.
    pub fn out0(&self, now: u64) -> bool {
        self.channels.first().is_some_and(|channel| channel.out(ticks(now, HZ)))
    }

    /// Guest time of the next rise of channel 0 after the last [`Pit::advance`].
    pub fn deadline(&self) -> Option<u64> {
        self.channels.first()?.next_rise(self.reported).map(|tick| time_of(tick, HZ))
    }

    /// Writes port 0x40 + `port` (0 to 3) at guest time `now`.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        let now = ticks(now, HZ);
        match self.channels.get_mut(usize::from(port)) {
            Some(channel) => channel.write(value, now),
            None => self.control(value, now),
        }
    }

    /// Reads port 0x40 + `port` (0 to 3) at guest time `now`. The control port cannot be read.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match self.channels.get_mut(usize::from(port)) {
            Some(channel) => channel.read(ticks(now, HZ)),
            None => 0xFF,
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        let select = value >> 6;
        let Some(channel) = self.channels.get_mut(usize::from(select)) else {
            // Read-back: bits 1 to 3 choose channels; count (bit 5) and status (bit 4) when clear.
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value >> (index + 1) & 1 != 0 {
                    if value & 0x20 == 0 {
                        channel.latch(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            return;
        };
        let access = match value >> 4 & 3 {
            0 => return channel.latch(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        // Modes 6 and 7 are modes 2 and 3.
        let mode = match value >> 1 & 7 {
            mode @ 6.. => mode - 4,
            mode => mode,
        };
        channel.control(access, mode, value & 1 != 0);
    }

    /// Writes port 0x61: bit 0 is the gate of channel 2, bits 1 to 3 are kept.
    pub fn write_port_61(&mut self, value: u8, now: u64) {
        self.port_61 = value & 0x0F;
        if let Some(channel) = self.channels.get_mut(2) {
            channel.set_gate(value & 1 != 0, ticks(now, HZ));
        }
    }

    /// Reads port 0x61: bit 4 is the refresh toggle, bit 5 the output of channel 2.
    pub fn read_port_61(&self, now: u64) -> u8 {
        let now = ticks(now, HZ);
        let refresh = (now / REFRESH_TICKS % 2) as u8;
        let out = self.channels.get(2).is_some_and(|channel| channel.out(now));
        self.port_61 | refresh << 4 | u8::from(out) << 5
    }
}

mod saved;

#[cfg(test)]
mod tests;
