//! The machine `q35-0`: Intel's Q35 memory controller hub and ICH9 south bridge, as far as an operating system looks at
//! them.
//!
//! Sources: Intel 3 Series Express Chipset Family datasheet (document 316966), Intel I/O Controller Hub 9 datasheet
//! (document 316972), and the addresses that every PC has had since the AT.

use crate::Machine;
use crate::interrupts::{Interrupts, Override};
use crate::memory::{GIB, MIB, MemoryMap, Span};
use crate::pci::{ConfigField, PciFunction, PciTopology};
use crate::ports::{PmPorts, PortMap, PortSpan, SerialPort, SleepTypes};

const PMBASE: u16 = 0x600;
const ECAM_BASE: u64 = 0xE000_0000;
const BUSES: u8 = 8;
/// PCIEXBAR cannot say 8 MiB: it announces its smallest unit, and no BAR window uses the rest.
const PCIEXBAR_LEN: u64 = 64 * MIB;

const fn field(offset: u16, width: u8, value: u32, writable: u32) -> ConfigField {
    ConfigField { offset, width, value, writable }
}

/// Registers of the host bridge, 00:00.0 (datasheet 316966, chapter "DRAM Controller Registers").
static HOST_BRIDGE: &[ConfigField] = &[
    field(0x00, 2, 0x8086, 0),
    field(0x02, 2, 0x29C0, 0),
    // Command: memory space and bus master are hard-wired to one; SERR is the only bit to set.
    field(0x04, 2, 0x0006, 0x0100),
    // Status: fast back-to-back. No capability list.
    field(0x06, 2, 0x0080, 0),
    field(0x08, 1, 0x02, 0),
    // Class: host bridge.
    field(0x0A, 2, 0x0600, 0),
    // PCIEXBAR: 64 MiB (length code 2) at the ECAM, enabled, locked.
    field(0x60, 4, ECAM_BASE as u32 | 2 << 1 | 1, 0),
    field(0x64, 4, (ECAM_BASE >> 32) as u32, 0),
];

/// Registers of the LPC interface bridge, 00:1f.0 (datasheet 316972, chapter "LPC Interface Bridge Registers").
static LPC_BRIDGE: &[ConfigField] = &[
    field(0x00, 2, 0x8086, 0),
    field(0x02, 2, 0x2918, 0),
    // Command: I/O, memory and bus master are hard-wired to one.
    field(0x04, 2, 0x0007, 0x0140),
    // Status: medium device select timing, fast back-to-back.
    field(0x06, 2, 0x0210, 0),
    field(0x08, 1, 0x02, 0),
    // Class: ISA bridge.
    field(0x0A, 2, 0x0601, 0),
    // Header type 0. The other functions of device 1f (SATA, SMBus) do not exist, so it is not multi-function.
    // PMBASE: port space, fixed here.
    field(0x40, 4, PMBASE as u32 | 1, 0),
    // ACPI_CNTL: decoding enabled, SCI on line 9.
    field(0x44, 1, 0x80, 0),
    // PIRQA to PIRQH: not routed to the PICs (INTx goes to the IOAPIC only).
    field(0x60, 4, 0x8080_8080, 0x8F8F_8F8F),
    field(0x68, 4, 0x8080_8080, 0x8F8F_8F8F),
    // LPC I/O decode ranges and enables: remembered, without effect.
    field(0x80, 2, 0x0000, 0x1377),
    field(0x82, 2, 0x0000, 0x3F0F),
];

static FUNCTIONS: &[PciFunction] = &[
    PciFunction { name: "host bridge", bus: 0, device: 0, function: 0, fields: HOST_BRIDGE },
    PciFunction { name: "lpc bridge", bus: 0, device: 0x1F, function: 0, fields: LPC_BRIDGE },
];

/// See the module's description.
pub static Q35_0: Machine = Machine {
    name: "q35-0",
    memory: MemoryMap {
        low_ram_limit: 3 * GIB,
        high_ram_start: 4 * GIB,
        min_ram: 16 * MIB,
        // RAM ends at or below the 64-bit BAR window.
        max_ram: 511 * GIB,
        video_hole: Span::to(0xA_0000, 0xC_0000),
        conventional_end: 0x9_F000,
        acpi_area: Span::to(0xE_0000, 0x10_0000),
        facs: 0xE_0040,
        pci_hole: Span::to(3 * GIB, 4 * GIB),
        ecam: Span { start: ECAM_BASE, len: BUSES as u64 * MIB },
        mmio32: &[Span::to(3 * GIB, ECAM_BASE), Span::to(ECAM_BASE + PCIEXBAR_LEN, 0xFEC0_0000)],
        // Up to the end of a 40-bit physical address space.
        mmio64: Span::to(512 * GIB, 1024 * GIB),
        ioapic: Span { start: 0xFEC0_0000, len: 0x1000 },
        lapic: Span { start: 0xFEE0_0000, len: 0x1000 },
    },
    ports: PortMap {
        pic_master: PortSpan::new(0x20, 2),
        pic_slave: PortSpan::new(0xA0, 2),
        elcr: PortSpan::new(0x4D0, 2),
        pit: PortSpan::new(0x40, 4),
        port_61: PortSpan::new(0x61, 1),
        port_64: PortSpan::new(0x64, 1),
        rtc: PortSpan::new(0x70, 2),
        post: PortSpan::new(0x80, 1),
        port_92: PortSpan::new(0x92, 1),
        debug_exit: PortSpan::new(0xF4, 4),
        pm: PmPorts {
            block: PortSpan::new(PMBASE, 0x80),
            pm1_event: PortSpan::new(PMBASE, 4),
            pm1_control: PortSpan::new(PMBASE + 0x04, 2),
            timer: PortSpan::new(PMBASE + 0x08, 4),
            gpe0: PortSpan::new(PMBASE + 0x20, 16),
            timer_bits: 24,
            timer_hz: 3_579_545,
        },
        sleep: SleepTypes { s3: 5, s5: 7 },
        pci_address: PortSpan::new(0xCF8, 4),
        pci_data: PortSpan::new(0xCFC, 4),
        reset: PortSpan::new(0xCF9, 1),
        reset_value: 0x06,
        serial: &[
            SerialPort { ports: PortSpan::new(0x3F8, 8), irq: 4 },
            SerialPort { ports: PortSpan::new(0x2F8, 8), irq: 3 },
            SerialPort { ports: PortSpan::new(0x3E8, 8), irq: 4 },
            SerialPort { ports: PortSpan::new(0x2E8, 8), irq: 3 },
        ],
    },
    pci: PciTopology { buses: BUSES, functions: FUNCTIONS, first_free_device: 1, last_free_device: 0x1E },
    interrupts: Interrupts {
        ioapic_pins: 24,
        ioapic_id: 0,
        overrides: &[Override { isa_irq: 0, gsi: 2, level: false }, Override { isa_irq: 9, gsi: 9, level: true }],
        timer_irq: 0,
        rtc_irq: 8,
        sci_irq: 9,
        pci_intx_base: 16,
        pci_intx_count: 8,
    },
};
