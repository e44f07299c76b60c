//! Interrupt wiring: ISA lines, the IOAPIC's pins (global system interrupts, GSIs), and PCI INTx.
//!
//! A *line* is numbered by its GSI, except that the ISA timer line IRQ 0 arrives at GSI 2, as on every PC since the first
//! IOAPIC; line 2 of the PICs is their cascade and has no device.

use crate::limits::MAX_LINES;

/// How a line that differs from the ISA default (identity, edge, active high) is wired: a MADT interrupt source override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// ISA line.
    pub isa_irq: u8,
    /// Pin of the IOAPIC.
    pub gsi: u8,
    /// Level triggered (otherwise edge), active high in both cases.
    pub level: bool,
}

/// The interrupt wiring of a machine.
#[derive(Debug)]
pub struct Interrupts {
    /// Pins of the IOAPIC, and so the number of GSIs.
    pub ioapic_pins: usize,
    /// Identity that the IOAPIC reports at reset.
    pub ioapic_id: u8,
    /// Lines that are not wired one to one.
    pub overrides: &'static [Override],
    /// ISA line of the 8254's channel 0.
    pub timer_irq: u8,
    /// ISA line of the RTC.
    pub rtc_irq: u8,
    /// ISA line, and GSI, of the system control interrupt (ACPI events).
    pub sci_irq: u8,
    /// First GSI of PCI INTx.
    pub pci_intx_base: u8,
    /// Number of GSIs for PCI INTx.
    pub pci_intx_count: u8,
}

impl Interrupts {
    /// The GSI at which ISA line `irq` (0 to 15) arrives.
    pub fn gsi_of_isa(&self, irq: u8) -> u8 {
        self.overrides.iter().find(|entry| entry.isa_irq == irq).map_or(irq, |entry| entry.gsi)
    }

    /// The GSI of a PCI function's INTx pin. `device` is 0 to 31; `pin` is 0 for INTA to 3 for INTD. Devices are
    /// swizzled over the GSIs, so that neighbours do not share.
    pub const fn gsi_of_intx(&self, device: u8, pin: u8) -> u8 {
        self.pci_intx_base + (device % 32 + pin % 4) % self.pci_intx_count
    }
}

const _: () = assert!(crate::q35::Q35_0.interrupts.ioapic_pins <= MAX_LINES);

#[cfg(test)]
mod tests {
    use crate::MachineVersion;

    #[test]
    fn isa_lines_reach_their_pins() {
        let interrupts = &MachineVersion::Q35_0.machine().interrupts;
        assert_eq!(interrupts.gsi_of_isa(0), 2);
        assert_eq!(interrupts.gsi_of_isa(4), 4);
        assert_eq!(interrupts.gsi_of_isa(9), 9);
    }

    #[test]
    fn intx_lands_on_pins_that_exist_and_no_isa_line_has() {
        let interrupts = &MachineVersion::Q35_0.machine().interrupts;
        for device in 0..32 {
            for pin in 0..4 {
                let gsi = interrupts.gsi_of_intx(device, pin);
                assert!(gsi >= 16 && usize::from(gsi) < interrupts.ioapic_pins);
            }
        }
        assert_ne!(interrupts.gsi_of_intx(1, 0), interrupts.gsi_of_intx(2, 0));
    }
}
