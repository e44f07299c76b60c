//! ACPI tables as bytes, for a machine and a configuration.
//!
//! The one idea: tables are a pure function of [`Machine`] and [`Config`], with their addresses already in them, so that
//! the loader only copies. All lie in [`MemoryMap::acpi_area`](crate::MemoryMap::acpi_area), the RSDP first, where a
//! guest that was not told its address finds it.

pub mod aml;
mod dsdt;
mod resource;
mod tables;

use crate::limits::MAX_VCPUS;
use crate::{Error, Machine};

/// Index in CMOS of the century in BCD, as the FADT announces it.
pub const CMOS_CENTURY: u8 = 0x32;

/// Length of the FACS in bytes.
pub const FACS_LEN: u64 = 64;
/// The FACS lies on a multiple of this (ACPI 5.2.10).
const FACS_ALIGN: u64 = 64;
/// Bytes of the RSDP, which the area begins with.
const RSDP_LEN: u64 = 36;
/// Offset in the FACS of the firmware waking vector (ACPI 5.2.10): four bytes, the physical address at which a guest that
/// was suspended to RAM is entered in real mode; 0: it has set none.
pub const FACS_WAKING_VECTOR: u64 = 12;
/// Guest-physical address of the FACS of the machine `q35-0`, [`MemoryMap::facs`](crate::MemoryMap::facs).
pub const FACS_Q35_0: u64 = crate::q35::Q35_0.memory.facs;

const _: () = {
    let map = &crate::q35::Q35_0.memory;
    assert!(map.facs.is_multiple_of(FACS_ALIGN) && map.facs >= map.acpi_area.start + RSDP_LEN);
    assert!(map.facs + FACS_LEN <= map.acpi_area.end() && map.acpi_area.end() <= 1 << 32);
};

/// What of a VM's configuration the tables depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// vCPUs, 1 to [`MAX_VCPUS`]; their APIC ids count from 0.
    pub vcpus: u32,
    /// Serial ports that the VM has: bit 0 is COM1.
    pub serial_ports: u8,
}

impl Config {
    /// Whether serial port `index`, counted from 0 for COM1, exists.
    pub const fn has_serial(&self, index: usize) -> bool {
        index < 8 && self.serial_ports >> index & 1 != 0
    }
}

/// The finished tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address and bytes of each table, ascending, without overlaps, inside the machine's ACPI area.
    pub blobs: Vec<(u64, Vec<u8>)>,
    /// Guest-physical address of the RSDP (for `boot_params.acpi_rsdp_addr` and the PVH start info).
    pub rsdp: u64,
}

/// Lays tables out one after the other.
struct Layout {
    next: u64,
    blobs: Vec<(u64, Vec<u8>)>,
}

impl Layout {
    fn place(&mut self, align: u64, bytes: Vec<u8>) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + bytes.len() as u64;
        self.blobs.push((at, bytes));
        at
    }
}

/// Generates the tables of `machine` for `config`: RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT.
///
/// # Errors
/// [`Error::Vcpus`], [`Error::SerialPort`]; [`Error::AcpiTooLarge`] cannot happen within the limits.
pub fn tables(machine: &Machine, config: &Config) -> Result<Tables, Error> {
    let max = MAX_VCPUS as u32;
    if config.vcpus == 0 || config.vcpus > max {
        return Err(Error::Vcpus { vcpus: config.vcpus, max });
    }
    if let Some(index) = (machine.ports.serial.len()..8).find(|index| config.has_serial(*index)) {
        return Err(Error::SerialPort { index, last: machine.ports.serial.len() - 1 });
    }

    let area = machine.memory.acpi_area;
    // The RSDP comes first; what it points to is not known yet.
    let rsdp = area.start;
    let mut layout = Layout { next: machine.memory.facs, blobs: Vec::new() };
    let facs = layout.place(FACS_ALIGN, tables::facs());
    let dsdt = layout.place(16, tables::table(b"DSDT", 2, machine, &dsdt::body(machine, config)));
    let listed = [
        layout.place(16, tables::fadt(machine, facs, dsdt)),
        layout.place(16, tables::madt(machine, config)),
        layout.place(16, tables::mcfg(machine)),
    ];
    let xsdt = layout.place(16, tables::xsdt(machine, &listed));
    layout.blobs.insert(0, (rsdp, tables::rsdp(xsdt)));

    let needed = layout.next - area.start;
    if needed > area.len {
        return Err(Error::AcpiTooLarge { needed, available: area.len });
    }
    Ok(Tables { blobs: layout.blobs, rsdp })
}

#[cfg(test)]
mod tests;
