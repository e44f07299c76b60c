//! The input/output port space of a machine: who answers at which port.
//!
//! A port that is in no span here is unclaimed: reads give all ones, writes go nowhere, and no process is asked.

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpan {
    /// First port.
    pub start: u16,
    /// Number of ports.
    pub len: u16,
}

impl PortSpan {
    /// `len` ports from `start`.
    pub const fn new(start: u16, len: u16) -> Self {
        Self { start, len }
    }

    /// First port number behind the span; 0x1_0000 at most.
    pub const fn end(&self) -> u32 {
        self.start as u32 + self.len as u32
    }

    /// Whether `port` is inside.
    pub const fn contains(&self, port: u16) -> bool {
        port >= self.start && (port as u32) < self.end()
    }

    /// Whether the two share a port.
    pub const fn overlaps(&self, other: &PortSpan) -> bool {
        (self.start as u32) < other.end() && (other.start as u32) < self.end()
    }
}

/// A 16550 at a legacy address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// Its eight registers.
    pub ports: PortSpan,
    /// Its ISA interrupt line.
    pub irq: u8,
}

/// Where the power-management block's registers are (ACPI specification, "ACPI Hardware Specification"; the offsets are
/// ICH9's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmPorts {
    /// The whole block; its first port is PMBASE.
    pub block: PortSpan,
    /// PM1a event block: status (2 bytes), then enable (2 bytes).
    pub pm1_event: PortSpan,
    /// PM1a control block.
    pub pm1_control: PortSpan,
    /// PM timer, read-only.
    pub timer: PortSpan,
    /// General-purpose event block 0: status bytes, then as many enable bytes.
    pub gpe0: PortSpan,
    /// Width of the PM timer's count in bits: 24 or 32.
    pub timer_bits: u32,
    /// Rate of the PM timer, Hz.
    pub timer_hz: u64,
}

/// Values of SLP_TYP in the PM1 control register for each sleep state that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepTypes {
    /// Suspend to RAM.
    pub s3: u8,
    /// Soft off.
    pub s5: u8,
}

/// All claimed ports of a machine.
#[derive(Debug)]
pub struct PortMap {
    /// First 8259.
    pub pic_master: PortSpan,
    /// Second 8259, cascaded to line 2 of the first.
    pub pic_slave: PortSpan,
    /// Edge/level control registers, one byte for each 8259.
    pub elcr: PortSpan,
    /// 8254 timer.
    pub pit: PortSpan,
    /// System control port B: timer 2 gate, speaker, refresh toggle.
    pub port_61: PortSpan,
    /// Keyboard controller status and command port. There is no controller: only its reset command works.
    pub port_64: PortSpan,
    /// RTC and CMOS, index and data.
    pub rtc: PortSpan,
    /// Power-on self-test codes: written, never read, no device behind it.
    pub post: PortSpan,
    /// System control port A: fast A20 and fast reset.
    pub port_92: PortSpan,
    /// Debug exit: the value written ends the VM.
    pub debug_exit: PortSpan,
    /// Power management.
    pub pm: PmPorts,
    /// Sleep types of the PM1 control register.
    pub sleep: SleepTypes,
    /// PCI configuration address, 32 bits.
    pub pci_address: PortSpan,
    /// PCI configuration data.
    pub pci_data: PortSpan,
    /// Reset control register; it lies *inside* the PCI address register's four ports and answers byte accesses only.
    pub reset: PortSpan,
    /// The value that resets when written to `reset`, as the FADT says it.
    pub reset_value: u8,
    /// COM1 to COM4.
    pub serial: &'static [SerialPort],
}

/// The VM's exit status when a guest writes `value` to the debug exit port: `value * 2 + 1`, in the eight bits that a
/// process's status has. It is odd and never zero, unlike the status of an ordinary power-off.
pub const fn debug_exit_status(value: u32) -> u8 {
    (value << 1) as u8 | 1
}

#[cfg(test)]
mod tests {
    use super::debug_exit_status;
    use crate::MachineVersion;

    #[test]
    fn claimed_ports_do_not_overlap() {
        let map = &MachineVersion::Q35_0.machine().ports;
        let mut spans = vec![
            map.pic_master,
            map.pic_slave,
            map.elcr,
            map.pit,
            map.port_61,
            map.port_64,
            map.rtc,
            map.post,
            map.port_92,
            map.debug_exit,
            map.pm.block,
            map.pci_address,
            map.pci_data,
        ];
        spans.extend(map.serial.iter().map(|serial| serial.ports));
        for (index, span) in spans.iter().enumerate() {
            assert!(span.len > 0 && span.end() <= 0x1_0000);
            assert!(spans[..index].iter().all(|other| !other.overlaps(span)), "{span:x?}");
        }
        assert!(map.pci_address.contains(map.reset.start), "the reset register shares the address register's ports");
    }

    #[test]
    fn the_pm_registers_lie_inside_their_block() {
        let pm = &MachineVersion::Q35_0.machine().ports.pm;
        let parts = [pm.pm1_event, pm.pm1_control, pm.timer, pm.gpe0];
        for (index, part) in parts.iter().enumerate() {
            assert!(part.start >= pm.block.start && part.end() <= pm.block.end());
            assert!(parts[..index].iter().all(|other| !other.overlaps(part)));
        }
        assert!(pm.timer_bits == 24 || pm.timer_bits == 32);
    }

    #[test]
    fn the_debug_exit_status_is_odd() {
        assert_eq!([0, 0x10, 0x7F, u32::MAX].map(debug_exit_status), [1, 0x21, 0xFF, 0xFF]);
    }
}
