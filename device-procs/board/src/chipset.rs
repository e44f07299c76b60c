//! The chipset: all devices of the board, the decoding of addresses to them, and the interrupt wiring between them.
//!
//! The one idea: everything here is a state machine without I/O. An access, a line, an end of interrupt or the passing of
//! guest time goes in; [`Outputs`] and the levels that can be asked for come out. The process around it ([`crate::serve`])
//! moves these over shared memory.

use doorbell::board as cell;
use machine_model::Machine;

use crate::ioapic::{IoApic, Message, Pins};
use crate::pci::Pci;
use crate::pic::{Pic, Which};
use crate::pit::Pit;
use crate::pm::{Cause, Pm, Sleep};
use crate::reset::Reset;
use crate::rtc::Rtc;
use crate::time::earliest;

/// What the guest asked of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Soft-off.
    PowerOff,
    /// Reset by any of the ways.
    Reset,
    /// A value was written to the debug exit port.
    DebugExit(u32),
    /// Suspend to RAM.
    Suspend,
    /// Something wakes a guest that is suspended.
    Wake(Cause),
}

/// What has happened and must be passed on. Collected until taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Pins of the IOAPIC that deliver their message.
    pub deliver: Pins,
    /// The first request of the guest since the last time; later ones are moot.
    pub event: Option<Event>,
    /// The routing of lines may have changed.
    pub routes_changed: bool,
    /// PCI functions (by index, one bit each) whose configuration bytes changed.
    pub functions_changed: u32,
}

impl Outputs {
    fn request(&mut self, event: Event) {
        self.event.get_or_insert(event);
    }
}

/// A shadow register: its cell, its value, and whether the board must be asked all the same.
pub type Shadow = (u16, u64, bool);

/// Who answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Pic(Which, bool),
    Elcr(Which),
    Pit(u16),
    Port61,
    Port64,
    Rtc(bool),
    Port92,
    Pm,
    ResetControl,
}

/// The board's whole state.
#[derive(Clone, Debug)]
pub struct Chipset {
    machine: &'static Machine,
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    rtc: Rtc,
    pm: Pm,
    reset: Reset,
    pci: Pci,
    out: Outputs,
}

impl Chipset {
    /// State after power-on at guest time `now` (nanoseconds), with a clock that shows `wall_seconds` (UTC since 1970)
    /// at guest time zero.
    pub fn new(machine: &'static Machine, wall_seconds: i64, now: u64) -> Self {
        Self {
            machine,
            pic: Pic::default(),
            ioapic: IoApic::new(machine.interrupts.ioapic_id),
            pit: Pit::new(now),
            rtc: Rtc::new(wall_seconds, now),
            pm: Pm::new(machine.ports.pm, machine.ports.sleep, now),
            reset: Reset::default(),
            pci: Pci::new(&machine.pci),
            out: Self::everything_changed(machine),
        }
    }

    fn everything_changed(machine: &Machine) -> Outputs {
        let functions = machine.pci.functions.len().min(32);
        let functions_changed = u32::try_from((1u64 << functions) - 1).unwrap_or(u32::MAX);
        Outputs { routes_changed: true, functions_changed, ..Outputs::default() }
    }

    /// To the state after reset. The real-time clock keeps its date and storage.
    pub fn reset(&mut self, now: u64) {
        let fresh = Self::new(self.machine, 0, now);
        self.rtc.reset(now);
        *self = Self { rtc: self.rtc.clone(), ..fresh };
    }

    /// The PCI functions, for their shadow pages.
    pub fn pci(&self) -> &Pci {
        &self.pci
    }

    /// Takes what has to be passed on.
    pub fn take_outputs(&mut self) -> Outputs {
        let mut out = std::mem::take(&mut self.out);
        if self.pm.suspended() {
            // No local APIC has power to receive it.
            out.deliver = 0;
        }
        out
    }

    /// Takes only the guest's request to the machine.
    pub fn take_event(&mut self) -> Option<Event> {
        self.out.event.take()
    }

    /// The registers that the engine answers from shadow cells ([`doorbell::board`]).
    pub fn shadows(&self) -> [Shadow; 7] {
        let (master, master_polls) = self.pic.mask(Which::Master);
        let (slave, slave_polls) = self.pic.mask(Which::Slave);
        let elcr = u16::from_le_bytes([self.pic.read_elcr(Which::Master), self.pic.read_elcr(Which::Slave)]);
        let gpe = u64::from_le_bytes(self.pm.gpe_enable());
        let [gpe_low, gpe_high] = cell::GPE0_ENABLE;
        [
            (cell::PIC_MASTER_MASK, master.into(), master_polls),
            (cell::PIC_SLAVE_MASK, slave.into(), slave_polls),
            (cell::ELCR, elcr.into(), false),
            (cell::PM1_ENABLE, self.pm.enable().into(), false),
            (cell::PM1_CONTROL, self.pm.control().into(), false),
            (gpe_low, gpe & 0xFFFF_FFFF, false),
            (gpe_high, gpe >> 32, false),
        ]
    }

    /// Brings timers and clocks up to guest time `now`, and their lines with them. To be called before every access and
    /// at every deadline.
    pub fn advance(&mut self, now: u64) {
        let lines = &self.machine.interrupts;
        let (timer, rtc, sci) = (lines.timer_irq, lines.rtc_irq, lines.sci_irq);
        if self.pit.advance(now) {
            // However many rises there were, one edge is what a controller sees of them.
            self.set_isa_line(timer, false);
            self.set_isa_line(timer, true);
        }
        self.set_isa_line(timer, self.pit.out0(now));
        let before = self.rtc.irq();
        self.rtc.advance(now);
        if self.rtc.irq() && !before {
            self.pm.rtc_event();
        }
        self.set_isa_line(rtc, self.rtc.irq());
        self.pm.advance(now);
        self.set_isa_line(sci, self.pm.sci());
    }

    /// Guest time at which [`Chipset::advance`] has to be called next. Timers whose line nobody listens to set no
    /// deadline: what they did meanwhile is computed when somebody looks. A machine that sleeps listens to its alarm only.
    pub fn deadline(&self) -> Option<u64> {
        if self.pm.suspended() {
            return self.rtc.deadline().filter(|_| self.pm.waits_for_rtc());
        }
        let listened = |irq: u8| !self.pic.masked(irq) || !self.ioapic.masked(self.machine.interrupts.gsi_of_isa(irq));
        let lines = &self.machine.interrupts;
        let timer = self.pit.deadline().filter(|_| listened(lines.timer_irq));
        let event = self.pm.waits_for_rtc() && listened(lines.sci_irq);
        let rtc = self.rtc.deadline().filter(|_| listened(lines.rtc_irq) || event);
        let sci = self.pm.deadline().filter(|_| listened(lines.sci_irq));
        earliest(timer, earliest(rtc, sci))
    }

    /// Sets an ISA line at both interrupt controllers.
    fn set_isa_line(&mut self, irq: u8, high: bool) {
        self.pic.set_line(irq, high);
        let gsi = self.machine.interrupts.gsi_of_isa(irq);
        self.out.deliver |= self.ioapic.set_line(gsi, high);
    }

    /// A line (GSI) of a device has risen and the engine could not deliver that by itself. Edges are done with at once; a
    /// pin that is programmed level triggered stays asserted until its end of interrupt, when the device raises it anew
    /// if it still wants service. Lines that do not exist are ignored.
    pub fn line_rose(&mut self, gsi: usize) {
        let Ok(gsi) = u8::try_from(gsi) else { return };
        self.out.deliver |= self.ioapic.set_line(gsi, true);
        if !self.ioapic.is_level(gsi) {
            self.out.deliver |= self.ioapic.set_line(gsi, false);
        }
        if gsi < 16 {
            self.pic.set_line(gsi, true);
            self.pic.set_line(gsi, false);
        }
    }

    /// A local APIC has ended the level-triggered interrupt `vector`.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let pins = self.ioapic.waiting_for_eoi(vector);
        let sci = self.machine.interrupts.gsi_of_isa(self.machine.interrupts.sci_irq);
        for pin in (0..crate::ioapic::PINS as u8).filter(|pin| pins >> pin & 1 != 0) {
            // Only the board's own lines have a level that is known here.
            let high = pin == sci && self.pm.sci();
            self.out.deliver |= self.ioapic.set_line(pin, high);
        }
        self.out.deliver |= self.ioapic.end_of_interrupt(vector);
    }

    /// Whether the PICs assert INTR.
    pub fn intr(&self) -> bool {
        self.pic.intr()
    }

    /// The processor's acknowledge of INTR: the vector.
    pub fn interrupt_acknowledge(&mut self) -> u8 {
        self.pic.interrupt_acknowledge()
    }

    /// The message that IOAPIC pin `pin` delivers as programmed.
    pub fn message(&self, pin: u8) -> Option<Message> {
        self.ioapic.message(pin)
    }

    /// The message with which the engine may answer an edge on `gsi` by itself: only if the IOAPIC has an unmasked edge
    /// there and the PIC does not listen. `None`: [`Chipset::line_rose`] decides.
    pub fn edge_message(&self, gsi: u8) -> Option<Message> {
        let pic_listens = gsi < 16 && !self.pic.masked(gsi);
        self.ioapic.edge_message(gsi).filter(|_| !pic_listens)
    }

    /// Someone pressed the power button.
    pub fn power_button(&mut self, now: u64) {
        self.pm.power_button();
        self.advance(now);
    }

    /// Whether the guest is suspended to RAM.
    pub fn suspended(&self) -> bool {
        self.pm.suspended()
    }

    /// What wakes a suspended guest, if something does.
    pub fn wake_cause(&self) -> Option<Cause> {
        self.pm.wake_cause()
    }

    /// The machine leaves S3; answers whether it was in it. Clocks and timers have run all the while; what the guest must
    /// restore, as on a PC, is the IOAPIC ([`IoApic::lose_table`]).
    pub fn wake(&mut self) -> bool {
        let slept = self.pm.wake();
        if slept {
            self.ioapic.lose_table(self.machine.interrupts.ioapic_id);
            self.out.routes_changed = true;
        }
        slept
    }

    /// Whether a write of `width` bytes to `port` is one that could enter a sleep state.
    pub fn is_sleep_control(&self, port: u16, width: u8) -> bool {
        (0..u16::from(width.min(8))).any(|at| self.machine.ports.pm.pm1_control.contains(port.wrapping_add(at)))
    }

    fn sleep(&mut self, state: Sleep) {
        match state {
            Sleep::SoftOff => self.out.request(Event::PowerOff),
            Sleep::ToRam => {
                // An alarm that came while the guest was on its way, and whose event it has cleared since, must wake it.
                if self.rtc.irq() {
                    self.pm.rtc_event();
                }
                self.out.request(Event::Suspend);
            }
        }
    }

    fn target(&self, port: u16) -> Option<Target> {
        let ports = &self.machine.ports;
        let which = |offset: u16| if offset == 0 { Which::Master } else { Which::Slave };
        let spans = [
            (ports.pic_master, Target::Pic(Which::Master, port & 1 != 0)),
            (ports.pic_slave, Target::Pic(Which::Slave, port & 1 != 0)),
            (ports.elcr, Target::Elcr(which(port & 1))),
            (ports.pit, Target::Pit(port & 3)),
            (ports.port_61, Target::Port61),
            (ports.port_64, Target::Port64),
            (ports.rtc, Target::Rtc(port & 1 != 0)),
            (ports.port_92, Target::Port92),
            (ports.pm.block, Target::Pm),
            (ports.reset, Target::ResetControl),
        ];
        spans.into_iter().find(|(span, _)| span.contains(port)).map(|(_, target)| target)
    }

    /// Reads `width` (1, 2 or 4) bytes from `port` at guest time `now`.
    pub fn read_port(&mut self, port: u16, width: u8, now: u64) -> u64 {
        self.advance(now);
        let ports = &self.machine.ports;
        let value = if port == ports.pci_address.start && width == 4 {
            u64::from(self.pci.address())
        } else if ports.pci_data.contains(port) {
            let offset = self.pci.data_offset(port - ports.pci_data.start);
            offset.map_or(u64::MAX, |offset| self.pci.read(offset, width))
        } else {
            (0..u16::from(width.min(8)))
                .fold(0, |value, at| value | u64::from(self.read_byte(port.wrapping_add(at), now)) << (8 * at))
        };
        // Reading may have cleared what asserts a line.
        self.advance_lines(now);
        value & mask(width)
    }

    fn read_byte(&mut self, port: u16, now: u64) -> u8 {
        match self.target(port) {
            Some(Target::Pic(which, data)) => self.pic.read(which, data),
            Some(Target::Elcr(which)) => self.pic.read_elcr(which),
            Some(Target::Pit(port)) => self.pit.read(port, now),
            Some(Target::Port61) => self.pit.read_port_61(now),
            Some(Target::Port64) => self.reset.read_port_64(),
            Some(Target::Rtc(true)) => self.rtc.read(now),
            Some(Target::Port92) => self.reset.read_port_92(),
            Some(Target::Pm) => self.pm.read(port, now),
            Some(Target::ResetControl) => self.reset.read_control(),
            // The RTC's index is write-only.
            Some(Target::Rtc(false)) | None => 0xFF,
        }
    }

    /// Writes `width` (1, 2 or 4) bytes to `port` at guest time `now`.
    pub fn write_port(&mut self, port: u16, width: u8, value: u64, now: u64) {
        self.advance(now);
        let ports = &self.machine.ports;
        if port == ports.pci_address.start && width == 4 {
            self.pci.set_address(value as u32);
        } else if ports.pci_data.contains(port) {
            if let Some(offset) = self.pci.data_offset(port - ports.pci_data.start) {
                self.write_config(offset, width, value);
            }
        } else if ports.debug_exit.contains(port) {
            self.out.request(Event::DebugExit((value & mask(width)) as u32));
        } else {
            for at in 0..u16::from(width.min(8)) {
                self.write_byte(port.wrapping_add(at), (value >> (8 * at)) as u8, now);
            }
        }
        self.advance_lines(now);
    }

    fn write_byte(&mut self, port: u16, value: u8, now: u64) {
        let reset = match self.target(port) {
            Some(Target::Pic(which, data)) => {
                self.out.routes_changed = true;
                self.pic.write(which, data, value);
                false
            }
            Some(Target::Elcr(which)) => {
                self.pic.write_elcr(which, value);
                false
            }
            Some(Target::Pit(port)) => {
                self.pit.write(port, value, now);
                false
            }
            Some(Target::Port61) => {
                self.pit.write_port_61(value, now);
                false
            }
            Some(Target::Rtc(false)) => {
                self.rtc.select(value);
                false
            }
            Some(Target::Rtc(true)) => {
                self.rtc.write(value, now);
                false
            }
            Some(Target::Pm) => {
                if let Some(state) = self.pm.write(port, value) {
                    self.sleep(state);
                }
                false
            }
            Some(Target::Port64) => self.reset.write_port_64(value),
            Some(Target::Port92) => self.reset.write_port_92(value),
            Some(Target::ResetControl) => self.reset.write_control(value),
            None => false,
        };
        if reset {
            self.out.request(Event::Reset);
        }
    }

    /// The board's own lines after an access: only levels, since no time has passed.
    fn advance_lines(&mut self, now: u64) {
        let lines = &self.machine.interrupts;
        let (timer, rtc, sci) = (lines.timer_irq, lines.rtc_irq, lines.sci_irq);
        self.set_isa_line(timer, self.pit.out0(now));
        self.set_isa_line(rtc, self.rtc.irq());
        self.set_isa_line(sci, self.pm.sci());
    }

    /// Reads `width` bytes at guest-physical `address`: the IOAPIC's page or the ECAM.
    pub fn read_memory(&mut self, address: u64, width: u8, now: u64) -> u64 {
        self.advance(now);
        let map = &self.machine.memory;
        let value = if map.ioapic.contains(address) {
            u64::from(self.ioapic.read(address - map.ioapic.start))
        } else if map.ecam.contains(address) {
            self.pci.read(address - map.ecam.start, width)
        } else {
            u64::MAX
        };
        value & mask(width)
    }

    /// Writes `width` bytes at guest-physical `address`: the IOAPIC's page or the ECAM.
    pub fn write_memory(&mut self, address: u64, width: u8, value: u64, now: u64) {
        self.advance(now);
        let map = &self.machine.memory;
        if map.ioapic.contains(address) {
            self.out.deliver |= self.ioapic.write(address - map.ioapic.start, value as u32);
            self.out.routes_changed = true;
        } else if map.ecam.contains(address) {
            self.write_config(address - map.ecam.start, width, value);
        }
    }

    /// Writes `width` bytes at an ECAM offset, however the guest got there.
    pub fn write_config(&mut self, offset: u64, width: u8, value: u64) {
        if let Some(index) = self.pci.write(offset, width, value) {
            self.out.functions_changed |= 1u32.checked_shl(index as u32).unwrap_or(0);
        }
    }
}

fn mask(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (8 * width)) - 1 }
}

mod saved;

#[cfg(test)]
mod tests;
