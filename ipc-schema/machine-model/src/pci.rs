//! PCI as a machine has it before any device is added: the functions of the board itself with every register that is
//! not zero, and which bits of them a guest may write.
//!
//! The one idea: a function without BARs is nothing but bytes and a write mask, so it is data. Bits that are in no
//! field read as zero and ignore writes; a function that is in no list is absent and reads as all ones.

/// Bytes of configuration space that the legacy ports 0xCF8/0xCFC reach.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of configuration space of one function in the ECAM.
pub const ECAM_FUNCTION_SIZE: u64 = 4096;

/// A register of a configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigField {
    /// Byte offset.
    pub offset: u16,
    /// Width in bytes: 1, 2 or 4.
    pub width: u8,
    /// Value after reset.
    pub value: u32,
    /// Bits that a guest may change.
    pub writable: u32,
}

/// A function that is part of the board.
#[derive(Debug)]
pub struct PciFunction {
    /// What it is, for events and dumps.
    pub name: &'static str,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
    /// Its registers, by ascending offset.
    pub fields: &'static [ConfigField],
}

impl PciFunction {
    /// Offset of this function's configuration space in the ECAM (PCI Express base specification 7.2.2).
    pub const fn ecam_offset(&self) -> u64 {
        ecam_offset(self.bus, self.device, self.function)
    }

    /// The reset value of the register byte by byte.
    pub fn reset_bytes(&self) -> [u8; CONFIG_SIZE] {
        self.bytes(|field| field.value)
    }

    /// The mask of writable bits byte by byte.
    pub fn writable_bytes(&self) -> [u8; CONFIG_SIZE] {
        self.bytes(|field| field.writable)
    }

    fn bytes(&self, of: impl Fn(&ConfigField) -> u32) -> [u8; CONFIG_SIZE] {
        let mut bytes = [0; CONFIG_SIZE];
        for field in self.fields {
            let start = usize::from(field.offset);
            let value = of(field).to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(start).zip(value).take(usize::from(field.width)) {
                *to = from;
            }
        }
        bytes
    }
}

/// Offset in the ECAM of a function's configuration space. Bus 0 to 255, device 0 to 31, function 0 to 7; higher bits
/// of device and function are ignored.
pub const fn ecam_offset(bus: u8, device: u8, function: u8) -> u64 {
    (bus as u64) << 20 | (device as u64 & 31) << 15 | (function as u64 & 7) << 12
}

/// The PCI side of a machine.
#[derive(Debug)]
pub struct PciTopology {
    /// Buses that the ECAM covers, numbered from 0.
    pub buses: u8,
    /// Functions of the board, by ascending ECAM offset.
    pub functions: &'static [PciFunction],
    /// Device numbers on bus 0 that are free for device processes.
    pub first_free_device: u8,
    /// Last free device number.
    pub last_free_device: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineVersion;

    #[test]
    fn fields_fit_and_do_not_overlap() {
        for function in MachineVersion::Q35_0.machine().pci.functions {
            let mut end = 0;
            for field in function.fields {
                assert!(matches!(field.width, 1 | 2 | 4), "{}", function.name);
                assert_eq!(field.offset % u16::from(field.width), 0, "{} {:#x}", function.name, field.offset);
                assert!(field.offset >= end, "{} {:#x} overlaps", function.name, field.offset);
                end = field.offset + u16::from(field.width);
                assert!(usize::from(end) <= CONFIG_SIZE);
                let mask = u32::MAX >> (32 - 8 * u32::from(field.width));
                assert_eq!((field.value | field.writable) & !mask, 0, "{} {:#x}", function.name, field.offset);
            }
        }
    }

    #[test]
    fn the_host_bridge_announces_the_ecam() {
        let machine = MachineVersion::Q35_0.machine();
        let bytes = machine.pci.functions[0].reset_bytes();
        let pciexbar = u64::from_le_bytes(bytes[0x60..0x68].try_into().unwrap());
        assert_eq!(pciexbar & 1, 1, "enabled");
        assert_eq!(pciexbar & !0x3FF_FFFF, machine.memory.ecam.start);
        assert_eq!(machine.memory.ecam.len, u64::from(machine.pci.buses) << 20);
    }

    #[test]
    fn the_lpc_bridge_announces_the_pm_block() {
        let machine = MachineVersion::Q35_0.machine();
        let lpc = machine.pci.functions.iter().find(|function| function.device == 0x1F).unwrap();
        let bytes = lpc.reset_bytes();
        assert_eq!(u16::from_le_bytes([bytes[0x40], bytes[0x41]]), machine.ports.pm.block.start | 1);
        assert_eq!(bytes[0x44] & 0x87, 0x80, "ACPI decoding enabled, SCI on line 9");
    }

    #[test]
    fn the_ecam_offset_is_bus_device_function() {
        assert_eq!(ecam_offset(0, 0x1F, 0), 0xF_8000);
        assert_eq!(ecam_offset(7, 31, 7) + ECAM_FUNCTION_SIZE, MachineVersion::Q35_0.machine().memory.ecam.len);
    }
}
