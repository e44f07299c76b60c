//! The IOAPIC: 24 pins, a redirection table, and messages to local APICs.
//!
//! The one idea: a pin's state is its table entry plus two bits, the line's level and remote IRR, and delivering is a pure
//! function of these. The methods answer with the set of pins that deliver; what a pin delivers is [`IoApic::message`].
//! What the engine can deliver by itself (unmasked edges) is [`IoApic::edge_message`]; the rest comes here. Sources: Intel 82093AA datasheet (290566), ICH9 datasheet (316972) for the EOI register of version 0x20.

/// Number of pins.
pub const PINS: usize = 24;
/// Version 0x20 (has an EOI register) and the index of the last pin.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

/// Offsets in the memory page.
pub mod register {
    /// Index of the register that the data window shows.
    pub const INDEX: u64 = 0x00;
    /// The register that INDEX names.
    pub const DATA: u64 = 0x10;
    /// Directed end of interrupt: a vector.
    pub const EOI: u64 = 0x40;
}

/// Bits of a redirection table entry.
mod entry {
    pub const VECTOR: u64 = 0xFF;
    pub const DELIVERY_MODE: u64 = 7 << 8;
    pub const LOGICAL: u64 = 1 << 11;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
    /// Delivery status and remote IRR are read-only; bits 17 to 55 are reserved.
    pub const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;
    /// Delivery modes.
    pub const FIXED: u64 = 0 << 8;
    pub const LOWEST: u64 = 1 << 8;
}

/// An interrupt message as a write to the local APICs' address range (Intel SDM volume 3, 11.11 "Message Signalled
/// Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// 0xFEEx_xxxx with destination and destination mode.
    pub address: u64,
    /// Vector, delivery mode, trigger mode.
    pub data: u32,
}

/// A set of pins, a bit each.
pub type Pins = u32;

/// The IOAPIC's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    id: u32,
    index: u8,
    table: [u64; PINS],
    /// Levels of the input lines, one bit each. True means asserted, whatever the entry's polarity says.
    lines: u32,
}

impl IoApic {
    /// State after reset, with the identity `id` (0 to 15).
    pub fn new(id: u8) -> Self {
        Self { id: u32::from(id & 15), index: 0, table: [entry::MASKED; PINS], lines: 0 }
    }

    /// Back from S3, in which the chip had no power: as after reset, with all pins masked, and the lines as they are. The
    /// guest restores the table. (The local APICs have lost theirs, too: a remote IRR that was kept would wait for an end of
    /// interrupt that never comes.)
    pub fn lose_table(&mut self, id: u8) {
        *self = Self { lines: self.lines, ..Self::new(id) };
    }

    /// Reads the 32-bit register at `offset` in the page. Unknown offsets read as zero.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            register::INDEX => u32::from(self.index),
            register::DATA => self.register(self.index),
            _ => 0,
        }
    }

    /// The register with an index: 0 identity, 1 version, 2 arbitration, from 0x10 the table.
    pub fn register(&self, index: u8) -> u32 {
        match index {
            0x00 | 0x02 => self.id << 24,
            0x01 => VERSION,
            _ => match self.table.get(usize::from(index.wrapping_sub(0x10) / 2)) {
                Some(entry) if index >= 0x10 => (entry >> (32 * u32::from(index & 1))) as u32,
                _ => 0,
            },
        }
    }

    /// Writes the 32-bit register at `offset` in the page; answers which pins deliver. Unknown offsets are ignored.
    #[must_use = "these pins deliver"]
    pub fn write(&mut self, offset: u64, value: u32) -> Pins {
        match offset {
            register::INDEX => {
                self.index = value as u8;
                0
            }
            register::DATA => self.write_register(value),
            register::EOI => self.end_of_interrupt(value as u8),
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) -> Pins {
        if self.index == 0 {
            self.id = value >> 24 & 15;
        }
        let Some(pin) = self.index.checked_sub(0x10).map(|rest| usize::from(rest / 2)) else { return 0 };
        let Some(slot) = self.table.get_mut(pin) else { return 0 };
        let shift = 32 * u32::from(self.index & 1);
        let written = 0xFFFF_FFFF << shift & entry::WRITABLE;
        *slot = *slot & !written | u64::from(value) << shift & written;
        // An edge-triggered pin has no remote IRR; switching the trigger mode is how old software clears it.
        if *slot & entry::LEVEL == 0 {
            *slot &= !entry::REMOTE_IRR;
        }
        self.service_level(pin)
    }

    /// Sets the level of a pin's line; answers which pins deliver. Pins that do not exist are ignored.
    #[must_use = "these pins deliver"]
    pub fn set_line(&mut self, pin: u8, high: bool) -> Pins {
        let pin = usize::from(pin);
        let Some(&slot) = self.table.get(pin) else { return 0 };
        let bit = 1 << pin;
        let rising = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if slot & entry::LEVEL != 0 {
            return self.service_level(pin);
        }
        // An edge on a masked pin is lost (82093AA, 3.2.4, "interrupt mask").
        if rising && slot & entry::MASKED == 0 { bit } else { 0 }
    }

    /// Whether the pin's line is asserted.
    pub fn line(&self, pin: u8) -> bool {
        pin < PINS as u8 && self.lines >> pin & 1 != 0
    }

    /// Whether the pin is programmed level triggered.
    pub fn is_level(&self, pin: u8) -> bool {
        self.table.get(usize::from(pin)).is_some_and(|slot| slot & entry::LEVEL != 0)
    }

    /// Whether the pin is masked.
    pub fn masked(&self, pin: u8) -> bool {
        self.table.get(usize::from(pin)).is_none_or(|slot| slot & entry::MASKED != 0)
    }

    /// Pins whose interrupt with this vector was accepted and is not ended: what [`IoApic::end_of_interrupt`] would end.
    pub fn waiting_for_eoi(&self, vector: u8) -> Pins {
        let ends = |slot: u64| {
            slot & entry::VECTOR == u64::from(vector) && slot & entry::LEVEL != 0 && slot & entry::REMOTE_IRR != 0
        };
        self.table.iter().enumerate().fold(0, |pins, (pin, slot)| pins | u32::from(ends(*slot)) << pin)
    }

    /// A local APIC ended `vector`, which was level triggered there: lines that are still asserted interrupt again.
    #[must_use = "these pins deliver"]
    pub fn end_of_interrupt(&mut self, vector: u8) -> Pins {
        let pins = self.waiting_for_eoi(vector);
        let mut delivered = 0;
        for pin in (0..PINS).filter(|pin| pins >> pin & 1 != 0) {
            if let Some(slot) = self.table.get_mut(pin) {
                *slot &= !entry::REMOTE_IRR;
            }
            delivered |= self.service_level(pin);
        }
        delivered
    }

    fn service_level(&mut self, pin: usize) -> Pins {
        let Some(slot) = self.table.get_mut(pin) else { return 0 };
        let ready = *slot & entry::LEVEL != 0 && *slot & (entry::MASKED | entry::REMOTE_IRR) == 0;
        if !ready || self.lines >> pin & 1 == 0 {
            return 0;
        }
        *slot |= entry::REMOTE_IRR;
        1 << pin
    }

    /// The message that `pin` delivers as it is programmed; `None` for a pin that does not exist.
    pub fn message(&self, pin: u8) -> Option<Message> {
        self.table.get(usize::from(pin)).map(|slot| message(*slot))
    }

    /// The message of an edge on `pin`, if the engine can deliver it by itself: the entry is an unmasked edge with a
    /// vector.
    pub fn edge_message(&self, pin: u8) -> Option<Message> {
        let slot = *self.table.get(usize::from(pin))?;
        let vectored = matches!(slot & entry::DELIVERY_MODE, entry::FIXED | entry::LOWEST);
        (vectored && slot & (entry::MASKED | entry::LEVEL) == 0).then(|| message(slot))
    }
}

mod saved;

/// The message of a table entry.
fn message(slot: u64) -> Message {
    let destination = slot >> 56;
    let logical = u64::from(slot & entry::LOGICAL != 0);
    // The redirection hint goes with lowest priority delivery.
    let hint = u64::from(slot & entry::DELIVERY_MODE == entry::LOWEST);
    let level = slot & entry::LEVEL;
    Message {
        address: 0xFEE0_0000 | destination << 12 | hint << 3 | logical << 2,
        // Bit 14: assert.
        data: (slot & (entry::VECTOR | entry::DELIVERY_MODE) | level | 1 << 14) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_entry(apic: &mut IoApic, pin: u8, value: u64) -> Pins {
        let mut pins = 0;
        for (half, value) in [(1, (value >> 32) as u32), (0, value as u32)] {
            pins |= apic.write(register::INDEX, u32::from(0x10 + 2 * pin + half));
            pins |= apic.write(register::DATA, value);
        }
        pins
    }

    #[test]
    fn identity_and_version() {
        let mut apic = IoApic::new(3);
        assert_eq!(apic.register(0), 3 << 24);
        assert_eq!(apic.register(1), 0x0017_0020);
        assert_eq!(apic.write(register::INDEX, 0) | apic.write(register::DATA, 0xFF00_0000), 0);
        assert_eq!(apic.read(register::DATA), 15 << 24);
        assert_eq!(apic.read(register::INDEX), 0);
    }

    #[test]
    fn entries_read_back_without_reserved_and_read_only_bits() {
        let mut apic = IoApic::new(0);
        assert_eq!(apic.register(0x10), 0x0001_0000, "masked at reset");
        write_entry(&mut apic, 23, u64::MAX);
        assert_eq!(apic.register(0x10 + 46), 0x0001_AFFF);
        assert_eq!(apic.register(0x10 + 47), 0xFF00_0000);
        assert_eq!(apic.register(0x10 + 48), 0, "behind the table");
        assert_eq!(apic.register(0x0F), 0);
    }

    #[test]
    fn an_edge_is_delivered_once_with_its_destination() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 4, 0x0200_0000_0000_0834);
        assert_eq!(apic.set_line(4, true), 1 << 4);
        assert_eq!(apic.message(4), Some(Message { address: 0xFEE0_2004, data: 0x4034 }));
        assert_eq!(apic.set_line(4, true), 0, "no edge");
        assert_eq!(apic.set_line(4, false), 0);
        assert_eq!(apic.set_line(4, true), 1 << 4);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 4, 0x1_0034);
        assert_eq!(apic.set_line(4, true), 0);
        assert_eq!(write_entry(&mut apic, 4, 0x34), 0, "unmasking does not bring it back");
    }

    #[test]
    fn a_level_is_delivered_again_after_its_end_while_asserted() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 9, 0x8029);
        assert_eq!(apic.set_line(9, true), 1 << 9);
        assert_eq!(apic.message(9), Some(Message { address: 0xFEE0_0000, data: 0xC029 }));
        assert_eq!(apic.register(0x10 + 18) & 0x4000, 0x4000, "remote IRR");
        assert_eq!(apic.waiting_for_eoi(0x29), 1 << 9);
        assert_eq!(apic.set_line(9, true), 0);
        assert_eq!(apic.end_of_interrupt(0x28), 0, "another vector");
        assert_eq!(apic.end_of_interrupt(0x29), 1 << 9);
        assert_eq!(apic.set_line(9, false), 0);
        assert_eq!(apic.end_of_interrupt(0x29), 0);
        assert_eq!(apic.register(0x10 + 18) & 0x4000, 0);
    }

    #[test]
    fn a_level_on_a_masked_pin_is_delivered_when_unmasked() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 9, 0x1_8029);
        assert_eq!(apic.set_line(9, true), 0);
        assert_eq!(write_entry(&mut apic, 9, 0x8029), 1 << 9);
    }

    #[test]
    fn the_directed_eoi_register_ends_a_vector() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 9, 0x8029);
        assert_eq!(apic.set_line(9, true) | apic.set_line(9, false), 1 << 9);
        assert_eq!(apic.write(register::EOI, 0x29), 0);
        assert_eq!(apic.waiting_for_eoi(0x29), 0);
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut apic = IoApic::new(0);
        write_entry(&mut apic, 9, 0x8029);
        assert_eq!(apic.set_line(9, true) | apic.set_line(9, false), 1 << 9);
        write_entry(&mut apic, 9, 0x1_0029);
        write_entry(&mut apic, 9, 0x8029);
        assert_eq!(apic.waiting_for_eoi(0x29), 0);
    }

    #[test]
    fn only_unmasked_edges_with_a_vector_go_past_the_board() {
        let mut apic = IoApic::new(0);
        assert_eq!(apic.edge_message(4), None);
        write_entry(&mut apic, 4, 0x0100_0000_0000_0034);
        assert_eq!(apic.edge_message(4), Some(Message { address: 0xFEE0_1000, data: 0x4034 }));
        write_entry(&mut apic, 4, 0x0100_0000_0000_0134);
        assert_eq!(apic.edge_message(4), Some(Message { address: 0xFEE0_1008, data: 0x4134 }), "lowest priority");
        for other in [0x1_0034, 0x8034, 0x0434, 0x0734] {
            write_entry(&mut apic, 4, other);
            assert_eq!(apic.edge_message(4), None, "{other:#x}");
        }
        assert_eq!(apic.edge_message(24), None);
    }

    #[test]
    fn pins_that_do_not_exist_do_nothing() {
        let mut apic = IoApic::new(0);
        let before = apic.clone();
        assert_eq!(apic.set_line(24, true) | apic.set_line(255, true), 0);
        assert_eq!(apic, before);
        assert!(apic.masked(24) && !apic.is_level(24) && !apic.line(255));
    }
}
