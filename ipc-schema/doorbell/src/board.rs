//! The register windows of a machine's board, as data: which of its registers wait for the board, and which do not.
//!
//! The one idea: a boot makes few round trips, because what a guest polls or programs in masses needs none. Configuration
//! space is read from shadow pages, the PM timer is a formula, masks and enables are shadows, and programming a timer or
//! a PIC is posted. What stays synchronous is read seldom or has an effect that the guest must not outrun (power-off, reset,
//! exit, the IOAPIC's routes).

use machine_model::{Machine, PortSpan, Span};

use crate::window::{Behaviour, ReadRule, WindowDesc, WindowKind, WriteRule};
use crate::{Formula, Space};

/// Cell of the first PIC's mask.
pub const PIC_MASTER_MASK: u16 = 0;
/// Cell of the second PIC's mask.
pub const PIC_SLAVE_MASK: u16 = 1;
/// Cell of both edge/level control registers, the first PIC's in the low byte.
pub const ELCR: u16 = 2;
/// Cell of the PM1 enable register.
pub const PM1_ENABLE: u16 = 3;
/// Cell of the PM1 control register.
pub const PM1_CONTROL: u16 = 4;
/// Cells of the general-purpose event enables, four bytes each.
pub const GPE0_ENABLE: [u16; 2] = [5, 6];
/// Row of the PM timer in the formula table.
pub const PM_TIMER: u16 = 0;

/// The PM timer of `machine`.
pub fn pm_timer(machine: &Machine) -> Formula {
    Formula::pm_timer(0, u64::MAX >> (64 - machine.ports.pm.timer_bits))
}

/// A behaviour, with `offset` and `length` in bytes.
const fn at(offset: u32, length: u32, read: ReadRule, write: WriteRule) -> Behaviour {
    Behaviour { offset, length, read, write }
}

/// A posted write that makes `cell` stale.
const fn posted(cell: u16) -> WriteRule {
    WriteRule::Posted(1 << cell)
}

const SYNC: ReadRule = ReadRule::Synchronous;
const ONES: ReadRule = ReadRule::Constant(u64::MAX);
const POSTED: WriteRule = WriteRule::Posted(0);

/// The windows of the board of `machine`, whose area is `device`.
pub fn windows(machine: &Machine, device: u16) -> Vec<WindowDesc> {
    let map = &machine.ports;
    let ports = |name: &str, span: PortSpan, behaviours: &[Behaviour]| WindowDesc {
        name: name.to_owned(),
        space: Space::Port,
        base: span.start.into(),
        len: span.len.into(),
        device,
        kind: WindowKind::Registers(behaviours.to_vec()),
    };
    let memory = |name: &str, span: Span, kind| WindowDesc {
        name: name.to_owned(),
        space: Space::Memory,
        base: span.start,
        len: span.len,
        device,
        kind,
    };
    // A command may start a poll or an initialisation, which changes what the mask port reads as.
    let pic = |mask| [at(0, 1, SYNC, posted(mask)), at(1, 1, ReadRule::Shadow(mask), posted(mask))];
    let all_synchronous = WriteRule::Synchronous;
    let config = PortSpan::new(map.pci_address.start, map.pci_address.len + map.pci_data.len);
    vec![
        ports("pic-master", map.pic_master, &pic(PIC_MASTER_MASK)),
        ports("pic-slave", map.pic_slave, &pic(PIC_SLAVE_MASK)),
        ports("elcr", map.elcr, &[at(0, 2, ReadRule::Shadow(ELCR), posted(ELCR))]),
        ports("pit", map.pit, &[at(0, 4, SYNC, POSTED)]),
        ports("port-61", map.port_61, &[at(0, 1, SYNC, POSTED)]),
        ports("port-64", map.port_64, &[at(0, 1, ONES, all_synchronous)]),
        ports("rtc", map.rtc, &[at(0, 1, ONES, POSTED), at(1, 1, SYNC, POSTED)]),
        ports("post", map.post, &[at(0, 1, ONES, WriteRule::Ignored)]),
        ports("port-92", map.port_92, &[at(0, 1, SYNC, all_synchronous)]),
        ports("debug-exit", map.debug_exit, &[at(0, 4, ONES, all_synchronous)]),
        ports("pm", map.pm.block, &power_management(machine)),
        WindowDesc { kind: WindowKind::PciIndexData, ..ports("pci-config", config, &[]) },
        memory("pci-ecam", machine.memory.ecam, WindowKind::PciEcam),
        memory("ioapic", machine.memory.ioapic, WindowKind::Registers(IOAPIC.to_vec())),
    ]
}

/// Index, data and end-of-interrupt register of the IOAPIC (82093AA, 3.1). A write of data is waited for: software that
/// lets a pin's interrupts through and then enables them in the device relies on that order, and the device is another
/// process. An edge that comes while the pin is masked is lost.
const IOAPIC: [Behaviour; 3] =
    [at(0x00, 4, SYNC, POSTED), at(0x10, 4, SYNC, WriteRule::Synchronous), at(0x40, 4, ONES, POSTED)];

fn power_management(machine: &Machine) -> [Behaviour; 7] {
    let pm = &machine.ports.pm;
    let offset = |span: PortSpan| u32::from(span.start - pm.block.start);
    let (event, control, timer, gpe) =
        (offset(pm.pm1_event), offset(pm.pm1_control), offset(pm.timer), offset(pm.gpe0));
    let gpe_enable = gpe + u32::from(pm.gpe0.len) / 2;
    [
        // Status changes with time (the timer's bit), so it is asked for; clearing it lowers the SCI.
        at(event, 2, SYNC, WriteRule::Synchronous),
        at(event + 2, 2, ReadRule::Shadow(PM1_ENABLE), posted(PM1_ENABLE)),
        // A sleep state is entered here.
        at(control, 2, ReadRule::Shadow(PM1_CONTROL), WriteRule::Synchronous),
        at(timer, 4, ReadRule::Formula(PM_TIMER), WriteRule::Ignored),
        // No general-purpose event has a source.
        at(gpe, u32::from(pm.gpe0.len) / 2, ReadRule::Constant(0), WriteRule::Ignored),
        at(gpe_enable, 4, ReadRule::Shadow(GPE0_ENABLE[0]), posted(GPE0_ENABLE[0])),
        at(gpe_enable + 4, 4, ReadRule::Shadow(GPE0_ENABLE[1]), posted(GPE0_ENABLE[1])),
    ]
}

#[cfg(test)]
mod unit {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::*;
    use crate::{Bus, DeviceArea, DeviceClient, EventFd, Header, Role, SpinPolicy, create_windows};
    use machine_model::MachineVersion;

    fn bus() -> Bus {
        let fd = create_windows().unwrap();
        let header = Arc::new(Header::map(fd.as_fd(), Role::Engine).unwrap());
        let area = DeviceArea::map(fd.as_fd(), 0).unwrap();
        let client = Arc::new(DeviceClient::new(area, EventFd::new().unwrap(), 1, SpinPolicy::Block));
        Bus::new(header, windows(MachineVersion::Q35_0.machine(), 0), &[client]).unwrap()
    }

    #[test]
    fn the_engine_takes_the_list_and_finds_every_register() {
        let bus = bus();
        for (port, width, name) in [
            (0x20, 1, "pic-master"),
            (0xA1, 1, "pic-slave"),
            (0x4D0, 2, "elcr"),
            (0x43, 1, "pit"),
            (0x61, 1, "port-61"),
            (0x64, 1, "port-64"),
            (0x71, 1, "rtc"),
            (0x80, 1, "post"),
            (0x92, 1, "port-92"),
            (0xF4, 4, "debug-exit"),
            (0x604, 2, "pm"),
            (0x62F, 1, "pm"),
            (0xCF8, 4, "pci-config"),
            (0xCF9, 1, "pci-config"),
            (0xCFE, 2, "pci-config"),
        ] {
            let window = bus.find(Space::Port, port, width).unwrap_or_else(|| panic!("{port:#x}"));
            assert_eq!(window.desc().name, name);
        }
        for (address, name) in [(0xE00F_8000, "pci-ecam"), (0xFEC0_0010, "ioapic")] {
            assert_eq!(bus.find(Space::Memory, address, 4).unwrap().desc().name, name);
        }
        for port in [0x60, 0x3F8, 0x62, 0x1234] {
            assert!(bus.find(Space::Port, port, 1).is_none(), "{port:#x} is not the board's");
        }
    }

    #[test]
    fn cells_and_rows_are_used_once() {
        let mut cells: Vec<u16> = vec![PIC_MASTER_MASK, PIC_SLAVE_MASK, ELCR, PM1_ENABLE, PM1_CONTROL];
        cells.extend(GPE0_ENABLE);
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), 7);
        for window in windows(MachineVersion::Q35_0.machine(), 0) {
            let WindowKind::Registers(list) = window.kind else { continue };
            for behaviour in list {
                if let ReadRule::Shadow(cell) = behaviour.read {
                    assert!(cells.binary_search(&cell).is_ok(), "{} has a cell without a name", window.name);
                    let stale = matches!(behaviour.write, WriteRule::Posted(mask) if mask >> cell & 1 != 0);
                    assert!(stale || behaviour.write == WriteRule::Synchronous, "{}: a stale shadow", window.name);
                }
            }
        }
    }

    #[test]
    fn what_ends_the_run_or_routes_interrupts_is_waited_for() {
        for window in windows(MachineVersion::Q35_0.machine(), 0) {
            let WindowKind::Registers(list) = &window.kind else { continue };
            let waited = |b: &Behaviour| match window.name.as_str() {
                "port-64" | "port-92" | "debug-exit" => true,
                "pm" => b.offset == 4,
                "ioapic" => b.offset == 0x10,
                _ => false,
            };
            for behaviour in list.iter().filter(|b| waited(b)) {
                assert_eq!(behaviour.write, WriteRule::Synchronous, "{} {:#x}", window.name, behaviour.offset);
            }
        }
    }
}
