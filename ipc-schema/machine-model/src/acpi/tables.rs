//! The fixed-layout ACPI tables, one function for each (ACPI specification 6.5, section 5.2).
//!
//! Each takes the machine's data and the addresses of what it points to, and returns the finished bytes with length and
//! checksum.

use super::Config;
use crate::Machine;
use crate::ports::PortSpan;

const OEM_ID: &[u8; 6] = b"ATOLL ";
const CREATOR: &[u8; 4] = b"ATOL";
/// Length of the header that all tables but RSDP and FACS begin with.
const HEADER_LEN: usize = 36;

/// Makes the bytes of `range` sum to zero by setting the byte at `at`, which is zero before.
fn set_checksum(table: &mut [u8], len: usize, at: usize) {
    let sum = table.iter().take(len).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = table.get_mut(at) {
        *byte = sum.wrapping_neg();
    }
}

/// A table with a system description header (5.2.6): `body` is what follows the 36 bytes.
pub fn table(signature: &[u8; 4], revision: u8, machine: &Machine, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    out.extend_from_slice(signature);
    out.extend_from_slice(&((HEADER_LEN + body.len()) as u32).to_le_bytes());
    out.push(revision);
    out.push(0);
    out.extend_from_slice(OEM_ID);
    // OEM table id: the machine's name, padded with blanks.
    let mut name = [b' '; 8];
    for (to, from) in name.iter_mut().zip(machine.name.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    out.extend_from_slice(&name);
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(CREATOR);
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(body);
    let len = out.len();
    set_checksum(&mut out, len, 9);
    out
}

/// Root system description pointer, revision 2 (5.2.5.3). There is no RSDT.
pub fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut out = b"RSD PTR \0".to_vec();
    out.extend_from_slice(OEM_ID);
    out.push(2);
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&36u32.to_le_bytes());
    out.extend_from_slice(&xsdt.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    set_checksum(&mut out, 20, 8);
    set_checksum(&mut out, 36, 32);
    out
}

/// Extended system description table: the addresses of the other tables (5.2.8).
pub fn xsdt(machine: &Machine, tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|address| address.to_le_bytes()).collect();
    table(b"XSDT", 1, machine, &body)
}

/// Firmware ACPI control structure (5.2.10): hardware signature, waking vectors, global lock and flags, all zero. 64 bytes,
/// without a checksum. No flag: a guest is woken in real mode by the 32-bit vector.
pub fn facs() -> Vec<u8> {
    let mut out = b"FACS".to_vec();
    out.extend_from_slice(&64u32.to_le_bytes());
    out.resize(super::FACS_LEN as usize, 0);
    if let Some(version) = out.get_mut(32) {
        *version = 2;
    }
    out
}

/// Memory-mapped configuration space: the ECAM (PCI Firmware specification 3.3, table 4-2).
pub fn mcfg(machine: &Machine) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&machine.memory.ecam.start.to_le_bytes());
    // Segment 0, first bus, last bus.
    body.extend_from_slice(&[0, 0, 0, machine.pci.buses.saturating_sub(1)]);
    body.extend_from_slice(&[0; 4]);
    table(b"MCFG", 1, machine, &body)
}

/// Multiple APIC description table (5.2.12).
pub fn madt(machine: &Machine, config: &Config) -> Vec<u8> {
    let mut body = (machine.memory.lapic.start as u32).to_le_bytes().to_vec();
    // PCAT_COMPAT: there is a pair of 8259s to mask.
    body.extend_from_slice(&1u32.to_le_bytes());
    for index in 0..config.vcpus {
        // Processor local APIC: UID and APIC id are the vCPU's index; enabled.
        body.extend_from_slice(&[0, 8, index as u8, index as u8, 1, 0, 0, 0]);
    }
    body.extend_from_slice(&[1, 12, machine.interrupts.ioapic_id, 0]);
    body.extend_from_slice(&(machine.memory.ioapic.start as u32).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    for entry in machine.interrupts.overrides {
        // Polarity and trigger: 0 is "as the bus has it"; 0b1101 is level, active high.
        let flags = if entry.level { 0b1101 } else { 0 };
        body.extend_from_slice(&[2, 10, 0, entry.isa_irq, entry.gsi, 0, 0, 0, flags, 0]);
    }
    // NMI at LINT1 of every processor.
    body.extend_from_slice(&[4, 6, 0xFF, 0, 0, 1]);
    table(b"APIC", 5, machine, &body)
}

/// A generic address structure (5.2.3.2) for ports. An absent register is all zeros.
fn port_address(span: Option<PortSpan>, access_bytes: u8) -> [u8; 12] {
    let mut out = [0; 12];
    if let Some(span) = span {
        out[0] = 1;
        out[1] = u8::try_from(span.len * 8).unwrap_or(u8::MAX);
        // Access size code: 1 byte, 2 word, 3 double word.
        out[3] = access_bytes.trailing_zeros() as u8 + 1;
        out[4..6].copy_from_slice(&span.start.to_le_bytes());
    }
    out
}

/// Bits of the FADT's fixed feature flags (5.2.9, table 5.10) that hold for all machines here. Clear on purpose: bit 4 (the
/// power button is the fixed one), bit 6 (the RTC's wake status is in PM1, so an alarm wakes from S3), bits 7 and 16 (there is
/// no S4 that it could wake from), bit 20 (there is fixed hardware).
mod flags {
    /// WBINVD works.
    pub const WBINVD: u32 = 1 << 0;
    /// HLT is a C1 state on all processors.
    pub const PROC_C1: u32 = 1 << 2;
    /// There is no fixed sleep button.
    pub const NO_SLEEP_BUTTON: u32 = 1 << 5;
    /// The PM timer counts 32 bits instead of 24.
    pub const TIMER_32: u32 = 1 << 8;
    /// RESET_REG works.
    pub const RESET_REG: u32 = 1 << 10;
}

/// Bits of IA-PC boot architecture flags (5.2.9.3).
mod boot {
    /// Devices on the LPC bus that cannot be enumerated.
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    /// No VGA to probe for.
    pub const NO_VGA: u16 = 1 << 2;
    /// Do not enable ASPM.
    pub const NO_ASPM: u16 = 1 << 4;
    // Clear on purpose: bit 1 (an 8042 exists: it does not) and bit 5 (no CMOS RTC: there is one).
}

/// Fixed ACPI description table, revision 6.5 (5.2.9). The hardware is always in ACPI mode: there is no SMI command port.
pub fn fadt(machine: &Machine, facs: u64, dsdt: u64) -> Vec<u8> {
    let pm = &machine.ports.pm;
    let mut body = Vec::with_capacity(276 - HEADER_LEN);
    let mut put = |bytes: &[u8]| body.extend_from_slice(bytes);
    put(&(facs as u32).to_le_bytes());
    put(&(dsdt as u32).to_le_bytes());
    // Reserved; preferred profile: unspecified.
    put(&[0, 0]);
    put(&u16::from(machine.interrupts.sci_irq).to_le_bytes());
    // SMI_CMD, ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT.
    put(&[0; 8]);
    let port32 = |span: PortSpan| u32::from(span.start).to_le_bytes();
    put(&port32(pm.pm1_event));
    put(&[0; 4]);
    put(&port32(pm.pm1_control));
    // PM1b control, PM2 control.
    put(&[0; 8]);
    put(&port32(pm.timer));
    put(&port32(pm.gpe0));
    put(&[0; 4]);
    // Lengths: PM1 event, PM1 control, PM2 control, PM timer, GPE0, GPE1; GPE1 base; C-state control.
    put(&[pm.pm1_event.len as u8, pm.pm1_control.len as u8, 0, pm.timer.len as u8, pm.gpe0.len as u8, 0, 0, 0]);
    // Latencies beyond which there is no C2 and no C3 state.
    put(&101u16.to_le_bytes());
    put(&1001u16.to_le_bytes());
    // Flush size and stride, duty offset and width, day and month alarm (none).
    put(&[0; 8]);
    // Index of the century in CMOS.
    put(&[super::CMOS_CENTURY]);
    put(&(boot::LEGACY_DEVICES | boot::NO_VGA | boot::NO_ASPM).to_le_bytes());
    put(&[0]);
    let timer = if pm.timer_bits == 32 { flags::TIMER_32 } else { 0 };
    let fixed = flags::WBINVD | flags::PROC_C1 | flags::NO_SLEEP_BUTTON | flags::RESET_REG;
    put(&(fixed | timer).to_le_bytes());
    put(&port_address(Some(machine.ports.reset), 1));
    put(&[machine.ports.reset_value]);
    // ARM boot flags; minor version 5.
    put(&[0, 0, 5]);
    // X_FIRMWARE_CTRL must be zero when FIRMWARE_CTRL is not; X_DSDT repeats DSDT.
    put(&[0; 8]);
    put(&dsdt.to_le_bytes());
    put(&port_address(Some(pm.pm1_event), 2));
    put(&port_address(None, 0));
    put(&port_address(Some(pm.pm1_control), 2));
    put(&port_address(None, 0));
    put(&port_address(None, 0));
    put(&port_address(Some(pm.timer), 4));
    put(&port_address(Some(pm.gpe0), 1));
    put(&port_address(None, 0));
    // Sleep control and status belong to hardware-reduced machines.
    put(&port_address(None, 0));
    put(&port_address(None, 0));
    put(b"ATOLL\0\0\0");
    table(b"FACP", 6, machine, &body)
}
