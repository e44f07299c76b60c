//! The body of the DSDT: what of the machine cannot be enumerated.
//!
//! Static data only: no methods, so no interpreter of the guest ever runs code of ours that could touch hardware.

use super::{Config, aml, resource};
use crate::Machine;
use crate::ports::PortSpan;

/// The term list of the DSDT for `machine` with `config`, without the table's header.
pub fn body(machine: &Machine, config: &Config) -> Vec<u8> {
    let sleep = &machine.ports.sleep;
    let mut out = aml::name("\\_S3", &sleep_package(sleep.s3));
    out.extend(aml::name("\\_S5", &sleep_package(sleep.s5)));
    let mut devices = vec![root_bridge(machine, config), motherboard(machine)];
    devices.extend((0..config.vcpus).map(processor));
    out.extend(aml::scope("\\_SB", &devices));
    out
}

/// `_Sx`: SLP_TYP of PM1a, of PM1b, and two reserved elements (ACPI 7.4.2).
fn sleep_package(sleep_type: u8) -> Vec<u8> {
    let sleep_type = aml::integer(u64::from(sleep_type));
    aml::package(&[sleep_type.clone(), sleep_type, aml::integer(0), aml::integer(0)])
}

fn root_bridge(machine: &Machine, config: &Config) -> Vec<u8> {
    let ports = &machine.ports;
    let mut windows = vec![
        resource::bus_numbers(machine.pci.buses),
        resource::ports(PortSpan::new(ports.pci_address.start, ports.pci_address.len + ports.pci_data.len)),
        resource::port_window(0, u32::from(ports.pci_address.start)),
        resource::port_window(0x0D00, 0x1_0000),
    ];
    windows.extend(machine.memory.mmio32.iter().map(|span| resource::memory_window32(*span)));
    windows.push(resource::memory_window64(machine.memory.mmio64));
    aml::device(
        "PCI0",
        &[
            aml::name("_HID", &aml::eisa_id("PNP0A08")),
            aml::name("_CID", &aml::eisa_id("PNP0A03")),
            aml::name("_UID", &aml::integer(0)),
            aml::name("_SEG", &aml::integer(0)),
            aml::name("_BBN", &aml::integer(0)),
            aml::name("_CRS", &resource::template(&windows)),
            aml::name("_PRT", &interrupt_routing(machine)),
            isa_bridge(machine, config),
        ],
    )
}

/// `_PRT`: for each device number that is free for devices and each INTx pin, the GSI (ACPI 6.2.13). The function part
/// of the address is all ones: any function.
fn interrupt_routing(machine: &Machine) -> Vec<u8> {
    let mut entries = Vec::new();
    for device in machine.pci.first_free_device..=machine.pci.last_free_device {
        for pin in 0..4 {
            entries.push(aml::package(&[
                aml::integer(u64::from(device) << 16 | 0xFFFF),
                aml::integer(u64::from(pin)),
                aml::integer(0),
                aml::integer(u64::from(machine.interrupts.gsi_of_intx(device, pin))),
            ]));
        }
    }
    aml::package(&entries)
}

/// The LPC bridge with the legacy devices behind it.
fn isa_bridge(machine: &Machine, config: &Config) -> Vec<u8> {
    let ports = &machine.ports;
    let lines = &machine.interrupts;
    let mut children = vec![
        aml::name("_ADR", &aml::integer(0x1F << 16)),
        legacy(
            "PIC",
            "PNP0000",
            &[resource::ports(ports.pic_master), resource::ports(ports.pic_slave), resource::irq(2)],
        ),
        legacy("TIMR", "PNP0100", &[resource::ports(ports.pit), resource::irq(lines.timer_irq)]),
        legacy("RTC", "PNP0B00", &[resource::ports(ports.rtc), resource::irq(lines.rtc_irq)]),
    ];
    for (index, port) in ports.serial.iter().enumerate().filter(|(index, _)| config.has_serial(*index)) {
        let resources = [resource::ports(port.ports), resource::irq(port.irq)];
        children.push(aml::device(
            &format!("COM{}", index + 1),
            &[
                aml::name("_HID", &aml::eisa_id("PNP0501")),
                aml::name("_UID", &aml::integer(index as u64 + 1)),
                aml::name("_CRS", &resource::template(&resources)),
            ],
        ));
    }
    aml::device("ISA", &children)
}

fn legacy(name: &str, id: &str, resources: &[Vec<u8>]) -> Vec<u8> {
    aml::device(name, &[aml::name("_HID", &aml::eisa_id(id)), aml::name("_CRS", &resource::template(resources))])
}

/// Addresses that belong to the board and to no device, so that nothing else is placed there; the ECAM must be among
/// them (PCI Firmware specification 3.3, section 4.1.2).
fn motherboard(machine: &Machine) -> Vec<u8> {
    let ports = &machine.ports;
    let resources = [
        resource::ports(ports.port_61),
        resource::ports(ports.post),
        resource::ports(ports.port_92),
        resource::ports(ports.elcr),
        resource::ports(ports.pm.block),
        resource::memory32_fixed(machine.memory.ecam),
    ];
    aml::device(
        "MBRD",
        &[
            aml::name("_HID", &aml::eisa_id("PNP0C02")),
            aml::name("_UID", &aml::integer(0)),
            aml::name("_CRS", &resource::template(&resources)),
        ],
    )
}

/// A processor device (ACPI 8.4); its `_UID` is the MADT's processor UID.
fn processor(index: u32) -> Vec<u8> {
    aml::device(
        &format!("C{index:03X}"),
        &[aml::name("_HID", &aml::string("ACPI0007")), aml::name("_UID", &aml::integer(u64::from(index)))],
    )
}
