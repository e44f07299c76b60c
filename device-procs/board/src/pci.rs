//! PCI configuration space of the board's own functions.
//!
//! The one idea: a function is 256 bytes and a write mask. The engine answers reads from shadow pages with the same bytes,
//! so this code sees writes, and reads only from where no shadow applies. Sources: PCI Local Bus specification 3.0
//! chapter 6; PCI Express base specification 7.2.2 for the ECAM.

use machine_model::PciTopology;
use machine_model::pci::{CONFIG_SIZE, ECAM_FUNCTION_SIZE, PciFunction};

/// Bit 31 of port 0xCF8: the data port reaches configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits of port 0xCF8 that are kept.
const ADDRESS_BITS: u32 = ENABLE | 0x00FF_FFFC;

/// One function.
#[derive(Clone, Debug)]
pub struct Function {
    data: &'static PciFunction,
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
}

impl Function {
    /// Its number as the requester id has it: bus, device, function.
    pub fn bdf(&self) -> u16 {
        (self.data.ecam_offset() / ECAM_FUNCTION_SIZE) as u16
    }

    /// Its configuration space. The rest of the 4 KiB reads as zero.
    pub fn bytes(&self) -> &[u8; CONFIG_SIZE] {
        &self.bytes
    }
}

/// All functions of the board and the address register of the legacy ports.
#[derive(Clone, Debug)]
pub struct Pci {
    functions: Vec<Function>,
    address: u32,
    buses: u8,
}

impl Pci {
    /// State after reset.
    pub fn new(topology: &'static PciTopology) -> Self {
        let functions = topology.functions.iter().map(|data| Function {
            data,
            bytes: data.reset_bytes(),
            writable: data.writable_bytes(),
        });
        Self { functions: functions.collect(), address: 0, buses: topology.buses }
    }

    /// The functions, by ascending number.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Index of the function and register of an ECAM offset.
    fn find(&self, offset: u64) -> Option<(usize, usize)> {
        let bdf = offset / ECAM_FUNCTION_SIZE;
        let index = self.functions.iter().position(|function| u64::from(function.bdf()) == bdf)?;
        Some((index, (offset % ECAM_FUNCTION_SIZE) as usize))
    }

    /// Reads `width` (1 to 8) bytes at an ECAM offset. An absent function reads as all ones, registers from 256 on as zero.
    pub fn read(&self, offset: u64, width: u8) -> u64 {
        let bytes = self.find(offset).and_then(|(index, register)| Some((self.functions.get(index)?, register)));
        (0..usize::from(width.min(8))).fold(0, |value, at| {
            let byte = match bytes {
                Some((function, register)) => function.bytes.get(register + at).copied().unwrap_or(0),
                None => 0xFF,
            };
            value | u64::from(byte) << (8 * at)
        })
    }

    /// Writes `width` (1 to 8) bytes at an ECAM offset; answers the index of the function if its bytes changed.
    pub fn write(&mut self, offset: u64, width: u8, value: u64) -> Option<usize> {
        let (index, register) = self.find(offset)?;
        let function = self.functions.get_mut(index)?;
        let mut changed = false;
        for at in 0..usize::from(width.min(8)) {
            let new = (value >> (8 * at)) as u8;
            if let (Some(byte), Some(mask)) =
                (function.bytes.get_mut(register + at), function.writable.get(register + at))
            {
                let merged = *byte & !mask | new & mask;
                changed |= merged != *byte;
                *byte = merged;
            }
        }
        changed.then_some(index)
    }

    /// Port 0xCF8. The engine keeps the latch; this one serves accesses that reach the board all the same.
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Writes port 0xCF8.
    pub fn set_address(&mut self, value: u32) {
        self.address = value & ADDRESS_BITS;
    }

    /// The ECAM offset that port 0xCFC + `byte` (0 to 3) reaches now; `None` if disabled or beyond the last bus.
    pub fn data_offset(&self, byte: u16) -> Option<u64> {
        let bus = self.address >> 16 & 0xFF;
        if self.address & ENABLE == 0 || bus >= u32::from(self.buses) {
            return None;
        }
        // Bits 23 to 8 are bus, device and function; the ECAM has them four bits higher.
        let function = u64::from(self.address >> 8 & 0xFFFF) * ECAM_FUNCTION_SIZE;
        Some(function + u64::from(self.address & 0xFC) + u64::from(byte & 3))
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::*;
    use machine_model::MachineVersion;
    use machine_model::pci::ecam_offset;

    fn pci() -> Pci {
        Pci::new(&MachineVersion::Q35_0.machine().pci)
    }

    const LPC: u64 = ecam_offset(0, 0x1F, 0);

    #[test]
    fn identities_and_classes() {
        let pci = pci();
        assert_eq!(pci.read(0, 4), 0x29C0_8086);
        assert_eq!(pci.read(0x0A, 2), 0x0600);
        assert_eq!(pci.read(LPC, 4), 0x2918_8086);
        assert_eq!(pci.read(LPC + 8, 4), 0x0601_0002);
        assert_eq!(pci.functions().iter().map(Function::bdf).collect::<Vec<_>>(), [0, 0xF8]);
    }

    #[test]
    fn absent_functions_read_as_ones() {
        let pci = pci();
        for (bus, device, function) in [(0, 1, 0), (0, 0, 1), (0, 0x1F, 1), (1, 0, 0), (255, 31, 7)] {
            let offset = ecam_offset(bus, device, function);
            assert_eq!(pci.read(offset, 4), 0xFFFF_FFFF);
            assert_eq!(pci.read(offset + 0x0E, 1), 0xFF);
        }
    }

    #[test]
    fn writes_reach_writable_bits_only() {
        let mut pci = pci();
        assert_eq!(pci.write(0, 4, 0), None, "identity");
        assert_eq!(pci.write(LPC + 4, 2, 0xFFFF), Some(1));
        assert_eq!(pci.read(LPC + 4, 2), 0x0147);
        assert_eq!(pci.write(LPC + 4, 2, 0xFFFF), None, "nothing changed");
        assert_eq!(pci.write(LPC + 0x61, 1, 0x0B), Some(1));
        assert_eq!(pci.read(LPC + 0x60, 4), 0x8080_0B80);
        assert_eq!(pci.write(ecam_offset(0, 3, 0) + 4, 2, 7), None, "absent");
    }

    #[test]
    fn functions_without_bars_size_to_zero() {
        let mut pci = pci();
        for bar in (0x10..0x28).step_by(4).chain([0x30]) {
            for function in [0, LPC] {
                assert_eq!(pci.write(function + bar, 4, 0xFFFF_FFFF), None);
                assert_eq!(pci.read(function + bar, 4), 0);
            }
        }
    }

    #[test]
    fn extended_space_is_empty() {
        let mut pci = pci();
        assert_eq!(pci.read(0x100, 4), 0);
        assert_eq!(pci.write(0xFFC, 4, 1), None);
        assert_eq!(pci.read(0xFFE, 4), 0, "across the end: the tail reads as zero");
        assert_eq!(pci.read(254, 4), 0);
    }

    #[test]
    fn the_legacy_ports_reach_the_same_registers() {
        let mut pci = pci();
        assert_eq!(pci.data_offset(0), None, "disabled");
        pci.set_address(0x8000_F8FF);
        assert_eq!(pci.address(), 0x8000_F8FC);
        assert_eq!(pci.data_offset(2), Some(LPC + 0xFE));
        pci.set_address(0x8008_0000);
        assert_eq!(pci.data_offset(0), None, "bus 8 does not exist");
        pci.set_address(0x0000_F800);
        assert_eq!(pci.data_offset(0), None);
    }
}
