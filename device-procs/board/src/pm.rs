//! ACPI power management: PM1 events and control, the PM timer, and a general-purpose event block without sources.
//!
//! The one idea: the system control interrupt is one expression of status and enable bits, and so is what wakes a machine
//! that sleeps. Sleep states are suspend to RAM (S3) and soft-off (S5). There is no SMI: the block is always in ACPI mode.
//! Sources: ACPI specification 6.5, sections 4.8 and 7.4; ICH9 datasheet (316972), "Power Management I/O Registers", for
//! offsets.

use crate::time::{ticks, time_of};
use machine_model::ports::{PmPorts, SleepTypes};

/// Bits of PM1 status and enable.
mod event {
    pub const TIMER: u16 = 1 << 0;
    pub const BUS_MASTER: u16 = 1 << 4;
    pub const GLOBAL_LOCK: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const RTC: u16 = 1 << 10;
    pub const WAKE: u16 = 1 << 15;
    /// Bits that a write of one clears.
    pub const CLEARABLE: u16 = TIMER | BUS_MASTER | GLOBAL_LOCK | POWER_BUTTON | RTC | WAKE;
    /// Bits that exist in the enable register.
    pub const ENABLES: u16 = TIMER | GLOBAL_LOCK | POWER_BUTTON | RTC;
}

/// Bits of PM1 control.
mod control {
    /// The SCI, not an SMI, is raised: always one here.
    pub const SCI_EN: u16 = 1 << 0;
    pub const SLP_TYP: u16 = 7 << 10;
    pub const SLP_EN: u16 = 1 << 13;
    /// BM_RLD and SLP_TYP are kept; GBL_RLS and SLP_EN are write-only.
    pub const KEPT: u16 = SLP_TYP | 1 << 1;
}

const GPE_BYTES: usize = 8;

/// A sleep state that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// S3: the processors lose their state; memory and this board go on.
    ToRam,
    /// S5.
    SoftOff,
}

/// What wakes a machine from S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The alarm of the real-time clock, if the guest has enabled its PM1 event.
    Rtc,
    /// The power button, which cannot be disabled (ACPI 4.8.3.1.1).
    Button,
}

impl Cause {
    /// As `guestWake` says it.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Rtc => "rtc",
            Cause::Button => "button",
        }
    }
}

/// State of the power management block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pm {
    ports: PmPorts,
    sleep: SleepTypes,
    status: u16,
    enable: u16,
    control: u16,
    gpe_enable: [u8; GPE_BYTES],
    /// Half periods of the timer whose change of the top bit is in `status`.
    timer_halves: u64,
    /// The guest is in S3.
    suspended: bool,
}

impl Pm {
    /// State after reset at guest time `now`.
    pub fn new(ports: PmPorts, sleep: SleepTypes, now: u64) -> Self {
        let mut pm = Self {
            ports,
            sleep,
            status: 0,
            enable: 0,
            control: control::SCI_EN,
            gpe_enable: [0; GPE_BYTES],
            timer_halves: 0,
            suspended: false,
        };
        pm.timer_halves = pm.halves(now);
        pm
    }

    fn halves(&self, now: u64) -> u64 {
        ticks(now, self.ports.timer_hz) >> (self.ports.timer_bits - 1)
    }

    /// The PM timer at guest time `now`. The engine answers reads by the same formula.
    pub fn timer(&self, now: u64) -> u32 {
        (ticks(now, self.ports.timer_hz) & (u64::MAX >> (64 - self.ports.timer_bits))) as u32
    }

    /// Brings the timer's status bit up to guest time `now`. To be called before every access.
    pub fn advance(&mut self, now: u64) {
        let halves = self.halves(now);
        if halves > self.timer_halves {
            self.timer_halves = halves;
            self.status |= event::TIMER;
        }
    }

    /// Guest time at which the timer will raise the SCI, if it may.
    pub fn deadline(&self) -> Option<u64> {
        let armed = self.enable & event::TIMER != 0 && self.status & event::TIMER == 0;
        armed.then(|| time_of((self.timer_halves + 1) << (self.ports.timer_bits - 1), self.ports.timer_hz))
    }

    /// Level of the system control interrupt.
    pub fn sci(&self) -> bool {
        self.status & self.enable != 0
    }

    /// The PM1 enable register.
    pub fn enable(&self) -> u16 {
        self.enable
    }

    /// The PM1 control register as it reads.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// The enable half of the general-purpose event block.
    pub fn gpe_enable(&self) -> [u8; GPE_BYTES] {
        self.gpe_enable
    }

    /// Someone pressed the power button.
    pub fn power_button(&mut self) {
        self.status |= event::POWER_BUTTON;
    }

    /// The real-time clock has raised its interrupt.
    pub fn rtc_event(&mut self) {
        self.status |= event::RTC;
    }

    /// Whether the real-time clock's interrupt would raise the SCI or wake the machine, which it does not already do.
    pub fn waits_for_rtc(&self) -> bool {
        self.enable & event::RTC != 0 && self.status & event::RTC == 0
    }

    /// Whether the guest is in S3.
    pub fn suspended(&self) -> bool {
        self.suspended
    }

    /// What wakes a machine that sleeps, if something does.
    pub fn wake_cause(&self) -> Option<Cause> {
        if !self.suspended {
            None
        } else if self.status & event::POWER_BUTTON != 0 {
            Some(Cause::Button)
        } else {
            (self.status & self.enable & event::RTC != 0).then_some(Cause::Rtc)
        }
    }

    /// Leaves S3; answers whether the machine was in it.
    pub fn wake(&mut self) -> bool {
        let slept = std::mem::take(&mut self.suspended);
        if slept {
            self.status |= event::WAKE;
        }
        slept
    }

    /// Reads the byte at `port`, which lies in the block. Registers that do not exist read as zero.
    pub fn read(&self, port: u16, now: u64) -> u8 {
        let ports = &self.ports;
        let byte_of = |value: u16, offset: u16| value.to_le_bytes().get(usize::from(offset)).copied().unwrap_or(0);
        if ports.pm1_event.contains(port) {
            let offset = port - ports.pm1_event.start;
            if offset < 2 { byte_of(self.status, offset) } else { byte_of(self.enable, offset - 2) }
        } else if ports.pm1_control.contains(port) {
            byte_of(self.control, port - ports.pm1_control.start)
        } else if ports.timer.contains(port) {
            self.timer(now).to_le_bytes().get(usize::from(port - ports.timer.start)).copied().unwrap_or(0)
        } else if ports.gpe0.contains(port) {
            // The status half has no sources.
            let offset = usize::from(port - ports.gpe0.start);
            offset.checked_sub(GPE_BYTES).and_then(|at| self.gpe_enable.get(at)).copied().unwrap_or(0)
        } else {
            0
        }
    }

    /// Writes the byte at `port`, which lies in the block; answers the sleep state that this enters.
    pub fn write(&mut self, port: u16, value: u8) -> Option<Sleep> {
        let ports = &self.ports;
        let shifted = |offset: u16| (u16::from(value) << (8 * (offset & 1)), 0xFF << (8 * (offset & 1)));
        if ports.pm1_event.contains(port) {
            let offset = port - ports.pm1_event.start;
            let (bits, mask) = shifted(offset);
            if offset < 2 {
                self.status &= !(bits & event::CLEARABLE);
            } else {
                self.enable = (self.enable & !mask | bits) & event::ENABLES;
            }
        } else if ports.pm1_control.contains(port) {
            let (bits, mask) = shifted(port - ports.pm1_control.start);
            self.control = (self.control & !mask | bits) & control::KEPT | control::SCI_EN;
            if bits & control::SLP_EN == 0 {
                return None;
            }
            let sleep_type = (self.control & control::SLP_TYP) >> control::SLP_TYP.trailing_zeros();
            if sleep_type == u16::from(self.sleep.s5) {
                return Some(Sleep::SoftOff);
            }
            if sleep_type == u16::from(self.sleep.s3) {
                self.suspended = true;
                return Some(Sleep::ToRam);
            }
        } else if ports.gpe0.contains(port) {
            let offset = usize::from(port - ports.gpe0.start);
            if let Some(enable) = offset.checked_sub(GPE_BYTES).and_then(|at| self.gpe_enable.get_mut(at)) {
                *enable = value;
            }
        }
        None
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND;
    use machine_model::MachineVersion;

    const STATUS: u16 = 0x600;
    const ENABLE: u16 = 0x602;
    const CONTROL: u16 = 0x604;

    fn pm() -> Pm {
        let ports = &MachineVersion::Q35_0.machine().ports;
        Pm::new(ports.pm, ports.sleep, 0)
    }

    fn write16(pm: &mut Pm, port: u16, value: u16) -> Option<Sleep> {
        let [low, high] = value.to_le_bytes();
        pm.write(port, low).or(pm.write(port + 1, high))
    }

    fn read16(pm: &Pm, port: u16) -> u16 {
        u16::from_le_bytes([pm.read(port, 0), pm.read(port + 1, 0)])
    }

    #[test]
    fn the_block_is_always_in_acpi_mode() {
        let mut pm = pm();
        assert_eq!(read16(&pm, CONTROL), 1);
        write16(&mut pm, CONTROL, 0);
        assert_eq!(read16(&pm, CONTROL), 1);
    }

    #[test]
    fn soft_off_needs_its_sleep_type_and_the_enable_bit() {
        let mut pm = pm();
        assert_eq!(write16(&mut pm, CONTROL, 7 << 10), None);
        assert_eq!(read16(&pm, CONTROL), 7 << 10 | 1);
        assert_eq!(write16(&mut pm, CONTROL, 6 << 10 | 1 << 13), None, "a state that does not exist");
        assert_eq!(write16(&mut pm, CONTROL, 7 << 10 | 1 << 13), Some(Sleep::SoftOff));
        assert_eq!(read16(&pm, CONTROL) & 1 << 13, 0, "write-only");
        assert!(!pm.suspended());
    }

    #[test]
    fn suspend_to_ram_ends_with_a_wake_and_its_status_bit() {
        let mut pm = pm();
        assert!(!pm.wake(), "awake");
        assert_eq!(read16(&pm, STATUS), 0);
        assert_eq!(write16(&mut pm, CONTROL, 5 << 10 | 1 << 13), Some(Sleep::ToRam));
        assert!(pm.suspended() && pm.wake_cause().is_none());
        pm.rtc_event();
        assert_eq!(pm.wake_cause(), None, "not enabled");
        write16(&mut pm, ENABLE, 0x0400);
        assert_eq!(pm.wake_cause(), Some(Cause::Rtc));
        pm.power_button();
        assert_eq!(pm.wake_cause(), Some(Cause::Button));
        assert!(pm.wake() && !pm.suspended() && pm.wake_cause().is_none());
        assert_eq!(read16(&pm, STATUS), 0x8500);
        write16(&mut pm, STATUS, 0x8000);
        assert_eq!(read16(&pm, STATUS), 0x0500);
        assert!(!pm.wake());
    }

    #[test]
    fn the_power_button_raises_the_sci_until_cleared() {
        let mut pm = pm();
        pm.power_button();
        assert!(!pm.sci(), "not enabled");
        write16(&mut pm, ENABLE, 0x0100);
        assert!(pm.sci());
        assert_eq!(read16(&pm, STATUS), 0x0100);
        write16(&mut pm, STATUS, 0x0001);
        assert!(pm.sci(), "another bit");
        write16(&mut pm, STATUS, 0x0100);
        assert!(!pm.sci());
    }

    #[test]
    fn the_clock_raises_the_sci_where_enabled() {
        let mut pm = pm();
        pm.rtc_event();
        assert!(!pm.sci());
        write16(&mut pm, ENABLE, 0x0400);
        assert!(pm.sci());
        write16(&mut pm, STATUS, 0x0400);
        assert!(!pm.sci());
    }

    #[test]
    fn enables_that_do_not_exist_stay_zero() {
        let mut pm = pm();
        write16(&mut pm, ENABLE, 0xFFFF);
        assert_eq!(read16(&pm, ENABLE), 0x0521);
    }

    #[test]
    fn the_timer_counts_24_bits_at_its_rate() {
        let pm = pm();
        assert_eq!(pm.timer(SECOND), 3_579_545);
        assert_eq!(pm.timer(10 * SECOND), 35_795_450 & 0xFF_FFFF);
        let bytes = [0, 1, 2, 3].map(|i| pm.read(0x608 + i, SECOND));
        assert_eq!(u32::from_le_bytes(bytes), 3_579_545);
    }

    #[test]
    fn the_timer_event_comes_when_the_top_bit_changes() {
        let mut pm = pm();
        write16(&mut pm, ENABLE, 1);
        let deadline = pm.deadline().unwrap();
        assert_eq!(deadline, time_of(1 << 23, 3_579_545));
        pm.advance(deadline - 1);
        assert!(!pm.sci());
        pm.advance(deadline);
        assert!(pm.sci());
        assert_eq!(pm.deadline(), None, "already raised");
        write16(&mut pm, STATUS, 1);
        assert!(!pm.sci());
        assert_eq!(pm.deadline(), Some(time_of(2 << 23, 3_579_545)));
    }

    #[test]
    fn general_purpose_events_have_enables_and_no_sources() {
        let mut pm = pm();
        pm.write(0x628, 0xA5);
        pm.write(0x620, 0xFF);
        assert_eq!((pm.read(0x628, 0), pm.read(0x620, 0)), (0xA5, 0));
    }

    #[test]
    fn the_rest_of_the_block_reads_as_zero() {
        let mut pm = pm();
        for port in [0x606, 0x60C, 0x630, 0x67F] {
            assert_eq!(pm.write(port, 0xFF), None);
            assert_eq!(pm.read(port, 0), 0);
        }
    }
}
