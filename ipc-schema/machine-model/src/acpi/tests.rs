//! The tables as a guest reads them: from the RSDP by pointers, checking every checksum on the way.

use super::*;
use crate::MachineVersion;
use std::collections::BTreeMap;

fn machine() -> &'static Machine {
    MachineVersion::Q35_0.machine()
}

/// Guest memory as far as the tables fill it.
struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    fn load(config: &Config) -> (Self, u64) {
        let tables = tables(machine(), config).unwrap();
        (Self(tables.blobs.into_iter().collect()), tables.rsdp)
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let (start, blob) = self.0.range(..=address).next_back().expect("address inside a table");
        let at = (address - start) as usize;
        blob[at..at + N].try_into().unwrap()
    }

    fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address))
    }

    fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address))
    }

    fn bytes(&self, address: u64, len: u32) -> Vec<u8> {
        (0..u64::from(len)).map(|i| self.read::<1>(address + i)[0]).collect()
    }

    /// The bytes of a table with a standard header, after checking signature, length and checksum.
    fn table(&self, address: u64, signature: &[u8; 4]) -> Vec<u8> {
        assert_eq!(&self.read::<4>(address), signature);
        let bytes = self.bytes(address, self.u32(address + 4));
        assert_eq!(sum(&bytes), 0, "checksum of {}", String::from_utf8_lossy(signature));
        bytes
    }

    fn listed(&self, rsdp: u64) -> Vec<u64> {
        let xsdt = self.u64(rsdp + 24);
        self.table(xsdt, b"XSDT")[36..].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

const ONE: Config = Config { vcpus: 1, serial_ports: 1 };

#[test]
fn the_rsdp_is_where_a_guest_searches_for_it() {
    let (memory, rsdp) = Memory::load(&ONE);
    assert!((0xE_0000..0x10_0000).contains(&rsdp));
    assert_eq!(rsdp % 16, 0);
    assert_eq!(&memory.read::<8>(rsdp), b"RSD PTR ");
    assert_eq!(sum(&memory.bytes(rsdp, 20)), 0);
    assert_eq!(sum(&memory.bytes(rsdp, 36)), 0);
}

#[test]
fn every_listed_table_has_its_checksum() {
    for config in [ONE, Config { vcpus: 64, serial_ports: 0xF }, Config { vcpus: 3, serial_ports: 0 }] {
        let (memory, rsdp) = Memory::load(&config);
        let listed = memory.listed(rsdp);
        for (address, signature) in listed.iter().zip([b"FACP", b"APIC", b"MCFG"]) {
            memory.table(*address, signature);
        }
        assert_eq!(listed.len(), 3);
    }
}

#[test]
fn blobs_ascend_inside_their_area_without_overlaps() {
    let tables = tables(machine(), &Config { vcpus: 64, serial_ports: 0xF }).unwrap();
    let area = machine().memory.acpi_area;
    let mut end = area.start;
    for (address, bytes) in &tables.blobs {
        assert!(*address >= end);
        end = address + bytes.len() as u64;
    }
    assert!(end <= area.end());
}

#[test]
fn the_fadt_points_to_its_companions_and_says_what_exists() {
    let (memory, rsdp) = Memory::load(&ONE);
    let fadt = memory.table(memory.listed(rsdp)[0], b"FACP");
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5));
    let facs = u64::from(u32_at(&fadt, 36));
    assert_eq!(facs % 64, 0);
    assert_eq!((&memory.read::<4>(facs), memory.u32(facs + 4)), (b"FACS", 64));
    memory.table(u64::from(u32_at(&fadt, 40)), b"DSDT");
    assert_eq!(u64::from(u32_at(&fadt, 40)), u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI");
    assert_eq!(u32_at(&fadt, 48), 0, "no SMI command port: always in ACPI mode");
    let pm = machine().ports.pm;
    assert_eq!(u32_at(&fadt, 56), u32::from(pm.pm1_event.start));
    assert_eq!(u32_at(&fadt, 64), u32::from(pm.pm1_control.start));
    assert_eq!(u32_at(&fadt, 76), u32::from(pm.timer.start));
    assert_eq!(u32_at(&fadt, 80), u32::from(pm.gpe0.start));
    assert_eq!(fadt[88..93], [4, 2, 0, 4, 16]);
    let boot = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot & 0b10_0011, 0b00_0001, "legacy devices, no 8042, a CMOS RTC");
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags & 1 << 20, 0, "not hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register");
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 6);
    assert_eq!(fadt[148..160], [1, 32, 0, 2, 0x00, 0x06, 0, 0, 0, 0, 0, 0], "X_PM1a_EVT_BLK");
    assert_eq!(fadt[208..220], [1, 32, 0, 3, 0x08, 0x06, 0, 0, 0, 0, 0, 0], "X_PM_TMR_BLK");
}

#[test]
fn the_madt_lists_every_vcpu_the_ioapic_and_the_overrides() {
    for vcpus in [1, 2, 64] {
        let (memory, rsdp) = Memory::load(&Config { vcpus, serial_ports: 1 });
        let madt = memory.table(memory.listed(rsdp)[1], b"APIC");
        assert_eq!(u32_at(&madt, 36), 0xFEE0_0000);
        let mut entries = &madt[44..];
        let (mut lapics, mut others) = (Vec::new(), Vec::new());
        while let [kind, len, ..] = entries {
            let (entry, rest) = entries.split_at(usize::from(*len));
            if *kind == 0 {
                lapics.push(entry[3])
            } else {
                others.push(entry.to_vec())
            }
            entries = rest;
        }
        assert_eq!(lapics, (0..vcpus as u8).collect::<Vec<_>>());
        assert_eq!(others[0], [1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
        assert_eq!(others[1], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0], "timer at pin 2");
        assert_eq!(others[2], [2, 10, 0, 9, 9, 0, 0, 0, 13, 0], "SCI level, active high");
        assert_eq!(others[3], [4, 6, 0xFF, 0, 0, 1], "NMI at LINT1");
    }
}

#[test]
fn the_mcfg_covers_the_ecam() {
    let (memory, rsdp) = Memory::load(&ONE);
    let mcfg = memory.table(memory.listed(rsdp)[2], b"MCFG");
    assert_eq!(u64::from_le_bytes(mcfg[44..52].try_into().unwrap()), machine().memory.ecam.start);
    assert_eq!(mcfg[52..56], [0, 0, 0, 7]);
}

#[test]
fn the_dsdt_has_the_configured_serial_ports_only() {
    for (serial_ports, names) in [(0u8, &[][..]), (1, &[b"COM1"][..]), (0b1010, &[b"COM2", b"COM4"][..])] {
        let tables = tables(machine(), &Config { vcpus: 1, serial_ports }).unwrap();
        let dsdt = tables.blobs.iter().find(|(_, bytes)| bytes.starts_with(b"DSDT")).map(|(_, bytes)| bytes).unwrap();
        let found: Vec<&[u8]> = dsdt.windows(4).filter(|w| w.starts_with(b"COM")).collect();
        assert_eq!(found, names.iter().map(|name| &name[..]).collect::<Vec<_>>());
    }
}

#[test]
fn configurations_out_of_range_are_refused() {
    for vcpus in [0, 65, u32::MAX] {
        assert!(matches!(tables(machine(), &Config { vcpus, serial_ports: 0 }), Err(Error::Vcpus { .. })));
    }
    let error = tables(machine(), &Config { vcpus: 1, serial_ports: 0x10 }).unwrap_err();
    assert_eq!(error, Error::SerialPort { index: 4, last: 3 });
}

/// Writes the tables to the directory that `ATOLL_ACPI_DUMP` names, for inspection with `iasl -d`.
#[test]
fn dump_on_request() {
    let Some(dir) = std::env::var_os("ATOLL_ACPI_DUMP") else { return };
    for (_, bytes) in tables(machine(), &Config { vcpus: 64, serial_ports: 3 }).unwrap().blobs {
        let name = String::from_utf8_lossy(&bytes[..4]).trim().to_lowercase();
        std::fs::write(std::path::Path::new(&dir).join(format!("{name}.aml")), bytes).unwrap();
    }
}

#[test]
fn a_guest_can_sleep_and_finds_where_to_leave_its_waking_vector() {
    let (memory, rsdp) = Memory::load(&ONE);
    let fadt = memory.table(memory.listed(rsdp)[0], b"FACP");
    let facs = u64::from(u32_at(&fadt, 36));
    assert_eq!((facs, facs), (machine().memory.facs, FACS_Q35_0));
    assert_eq!(fadt[132..140], [0; 8], "FIRMWARE_CTRL and X_FIRMWARE_CTRL exclude each other");
    assert_eq!(facs % 64, 0);
    let bytes: [u8; 64] = memory.read(facs);
    assert_eq!((&bytes[..4], u32_at(&bytes, 4), bytes[32]), (&b"FACS"[..], 64, 2));
    assert_eq!(bytes[8..32], [0; 24], "no signature, no vector, no lock, no flags");
    let flags = u32_at(&fadt, 112);
    for (bit, what) in [(4, "power button"), (6, "RTC wake status"), (7, "RTC wakes from S4"), (16, "S4_RTC_STS_VALID")]
    {
        assert_eq!(flags >> bit & 1, 0, "{what}");
    }
    assert_eq!(fadt[106..108], [0, 0], "the alarm has no day and no month");
    // Name (\_S3, Package (4) { 5, 5, 0, 0 }), and the same for soft-off with 7.
    let dsdt = memory.table(u64::from(u32_at(&fadt, 40)), b"DSDT");
    for (name, sleep_type) in [(b"\\_S3_", machine().ports.sleep.s3), (b"\\_S5_", machine().ports.sleep.s5)] {
        let term = [&[0x08][..], name, &[0x12, 0x08, 4, 0x0A, sleep_type, 0x0A, sleep_type, 0, 0]].concat();
        assert_eq!(dsdt.windows(term.len()).filter(|part| *part == term).count(), 1);
    }
    for absent in [b"_S1_", b"_S2_", b"_S4_"] {
        assert!(!dsdt.windows(4).any(|part| part == absent));
    }
}
