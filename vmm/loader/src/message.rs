//! The loader's two messages: what it is asked ([`Order`], from `Setup`) and what it answers (`Loaded` or `Failure`).
//!
//! The idea: everything that the supervisor sent is checked and copied out here, so that the rest of the process sees
//! plain data; and everything that the engine needs to start vCPU 0 is written out in full, down to the local APIC, so
//! that it is the same state as one saved by a running engine.

use machine_model::acpi::{self, Config};
use machine_model::{MachineVersion, Span};
use wire::islet_capnp::{failure, loaded, setup};
use wire::state_capnp::{RunState, vcpu_state, x86_core};

use crate::entry::{self, DescriptorTable, EntryState};
use crate::{Format, LoadError, Loaded, Machine};

/// The longest name that is repeated in messages, in bytes.
const MAX_NAME: usize = 200;
/// Serial ports in the ACPI tables: every machine has COM1 and no other.
const SERIAL_PORTS: u8 = 1;

/// Something that went wrong, in the four parts that a `Failure` has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub remedy: &'static str,
    /// A stable code.
    pub code: &'static str,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {} [{}]", self.what, self.why, self.remedy, self.code)
    }
}

impl Problem {
    /// An order that cannot be meant; a defect of whoever sent it.
    pub fn setup(why: impl std::fmt::Display) -> Self {
        let remedy = "supervisor and loader must be of the same release";
        Self { what: "the loader's setup".into(), why: why.to_string(), remedy, code: "loader.setup" }
    }

    /// Fills a message.
    pub fn write(&self, mut to: failure::Builder<'_>) {
        to.set_what(&self.what);
        to.set_why(&self.why);
        to.set_remedy(self.remedy);
        to.set_code(self.code);
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        let (what, why) = (error.what().to_owned(), error.why());
        Self { what, why, remedy: error.remedy(), code: error.code() }
    }
}

/// A file of an order: its name among the datagram's descriptors, and what to call it in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOrder {
    /// Descriptor name.
    pub descriptor: String,
    /// Name for people.
    pub title: String,
}

/// What `Setup` asks of a loader.
#[derive(Debug)]
pub struct Order {
    /// Row of the status memfd.
    pub status_row: u16,
    /// The kernel.
    pub kernel: FileOrder,
    /// The initrd.
    pub initrd: Option<FileOrder>,
    /// The kernel's command line.
    pub command_line: Vec<u8>,
    /// Memory map and tables.
    pub machine: Machine,
    /// The ranges that are RAM; file offset = address.
    pub ram: Vec<Span>,
    /// Length of the memfd `ram` in bytes.
    pub ram_len: u64,
    /// Names and positions of the descriptors in the datagram.
    pub descriptors: Vec<(String, usize)>,
}

impl Order {
    /// Reads a setup message. Fails with what is missing, or with what the machine model says about it.
    pub fn read(setup: setup::Reader<'_>) -> Result<Self, Problem> {
        let malformed = |error: capnp::Error| Problem::setup(error);
        let text = |field: capnp::Result<capnp::text::Reader<'_>>| -> Result<String, Problem> {
            let text = field.map_err(malformed)?;
            text.to_str().map(str::to_owned).map_err(Problem::setup)
        };
        let setup::role::Loader(role) = setup.get_role().which().map_err(Problem::setup)? else {
            return Err(Problem::setup("it is for another kind of process"));
        };
        let role = role.map_err(malformed)?;
        let mut descriptors = Vec::new();
        for named in setup.get_descriptors().map_err(malformed)? {
            descriptors.push((text(named.get_name())?, usize::from(named.get_index())));
        }
        let file = |kind: &str, descriptor: String, name: String| {
            let name: String = name.chars().take(MAX_NAME).collect();
            let title = if name.is_empty() { kind.to_owned() } else { format!("{kind} '{name}'") };
            FileOrder { descriptor, title }
        };
        let kernel = file("kernel image", text(role.get_kernel())?, text(role.get_kernel_name())?);
        let initrd = file("initrd", text(role.get_initrd())?, text(role.get_initrd_name())?);

        let description = |error: machine_model::Error| Problem::from(LoadError::Machine(error.to_string()));
        let version = MachineVersion::by_name(&text(setup.get_machine())?).map_err(description)?;
        let (model, memory) = (version.machine(), setup.get_memory_bytes());
        let config = Config { vcpus: u32::from(setup.get_vcpus()), serial_ports: SERIAL_PORTS };
        let tables = acpi::tables(model, &config).map_err(description)?;
        let map = model.memory.e820(memory).map_err(description)?;
        Ok(Self {
            status_row: setup.get_status_slot(),
            kernel,
            initrd: (!initrd.descriptor.is_empty()).then_some(initrd),
            command_line: text(role.get_command_line())?.into_bytes(),
            machine: Machine { map, tables: tables.blobs, rsdp: tables.rsdp },
            ram: model.memory.ram(memory).map_err(description)?,
            ram_len: model.memory.ram_file_len(memory).map_err(description)?,
            descriptors,
        })
    }
}

/// Fills the answer to a load that succeeded.
pub fn write_loaded(done: &Loaded, mut to: loaded::Builder<'_>) {
    let format = match done.format {
        Format::BzImage => "bzImage",
        Format::Pvh => "pvh",
        Format::Multiboot => "multiboot1",
    };
    to.set_format(format);
    let mut summary = format!("{format}, entered at {:#x}", done.entry.start());
    if let Some((start, len)) = done.initrd {
        summary.push_str(&format!(", initrd of {len} bytes at {start:#x}"));
    }
    to.set_summary(&summary);
    write_state(&done.entry, to.init_entry());
}

/// Segment registers in the order of the schema: es cs ss ds fs gs ldtr tr.
const SEGMENTS: u32 = 8;
const CS: u32 = 1;
const LDTR: u32 = 6;
const TR: u32 = 7;
/// RSP, RBX, RAX and RSI in the order of the schema.
const RAX: u32 = 0;
const RBX: u32 = 3;
const RSP: u32 = 4;
const RSI: u32 = 6;
/// A segment register that holds none: LDTR after reset (SDM vol. 3, table 10-1: present, local descriptor table).
const EMPTY_LDT: u64 = 0x0000_8200_0000_ffff;

/// Fills the state of vCPU 0: what the boot protocol asks for, and everything else as it is after power-on.
fn write_state(state: &EntryState, mut to: vcpu_state::Builder<'_>) {
    to.set_index(0);
    to.set_run_state(RunState::Runnable);
    let mut core = to.init_cpu().init_x86();
    let mut gprs = core.reborrow().init_gprs(16);
    match state {
        EntryState::Long64(state) => {
            gprs.set(RSI, state.rsi);
            gprs.set(RSP, state.rsp);
            core.set_cr0(entry::CR0_PROTECTED | entry::CR0_PAGING);
            core.set_cr3(state.cr3);
            core.set_cr4(entry::CR4_PAE);
            core.set_efer(entry::EFER_LONG);
        }
        EntryState::Protected32(state) => {
            gprs.set(RAX, state.eax.into());
            gprs.set(RBX, state.ebx.into());
            core.set_cr0(entry::CR0_PROTECTED);
        }
    }
    core.set_rip(state.start());
    core.set_rflags(entry::RFLAGS_QUIET);
    write_segments(state, core.reborrow());
    // XCR0 and the debug registers: SDM vol. 3, table 10-1.
    core.set_xcr0(1);
    let mut debug = core.reborrow().init_debug(6);
    debug.set(4, 0xffff_0ff0);
    debug.set(5, 0x400);
    core.set_xsave(&xsave_area());
    core.reborrow().init_pending_event().set_none(());
    core.set_lapic(&lapic_page());
    // Enabled, the boot processor, at its usual address.
    core.set_apic_base(0xfee0_0900);
}

fn write_segments(state: &EntryState, mut core: x86_core::Builder<'_>) {
    let mut segments = core.reborrow().init_segments(SEGMENTS);
    for index in 0..SEGMENTS {
        let (selector, descriptor) = match index {
            CS => (entry::CODE_SELECTOR, state.code_descriptor()),
            LDTR => (0, EMPTY_LDT),
            TR => (entry::TASK_SELECTOR, entry::BUSY_TSS),
            _ => (entry::DATA_SELECTOR, entry::DATA),
        };
        let mut segment = segments.reborrow().get(index);
        segment.set_selector(selector);
        segment.set_base(0);
        segment.set_limit(limit(descriptor));
        segment.set_access((descriptor >> 40) as u16 & 0xf0ff);
    }
    let DescriptorTable { base, limit } = state.gdt();
    let mut gdtr = core.reborrow().init_gdtr();
    gdtr.set_base(base);
    gdtr.set_limit(limit);
    // An empty interrupt table: interrupts are off, and a fault now is a shutdown that will be reported.
    core.init_idtr().set_limit(0);
}

/// A descriptor's limit in bytes (SDM vol. 3, 3.4.5).
const fn limit(descriptor: u64) -> u32 {
    let raw = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    if descriptor >> 55 & 1 == 1 { raw << 12 | 0xfff } else { raw }
}

/// x87 and SSE as after FNINIT and power-on, in the standard XSAVE format (SDM vol. 1, 13.4).
fn xsave_area() -> Vec<u8> {
    let mut area = vec![0; 576];
    area[0..2].copy_from_slice(&0x037fu16.to_le_bytes()); // FCW
    area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes()); // MXCSR
    area[28..32].copy_from_slice(&0xffffu32.to_le_bytes()); // MXCSR_MASK
    area[512] = 0b11; // XSTATE_BV: both parts are in the area
    area
}

/// The local APIC's registers after power-on that are not zero (SDM vol. 3, 12.4.7.1): (number, value).
const LAPIC_RESET: [(usize, u32); 9] = [
    (0x03, 0x0005_0014), // version: integrated, six local vectors
    (0x0e, 0xffff_ffff), // destination format
    (0x0f, 0x0000_00ff), // spurious vector, software-disabled
    (0x32, 0x0001_0000), // the local vectors, masked
    (0x33, 0x0001_0000),
    (0x34, 0x0001_0000),
    (0x35, 0x0001_0000),
    (0x36, 0x0001_0000),
    (0x37, 0x0001_0000),
];

fn lapic_page() -> Vec<u8> {
    let mut page = vec![0; 1024];
    for (number, value) in LAPIC_RESET {
        page[number * 16..number * 16 + 4].copy_from_slice(&value.to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Long64, Protected32};
    use capnp::message::Builder;
    use wire::islet_capnp::to_islet;

    const GDT: DescriptorTable = DescriptorTable { base: 0x1230, limit: 47 };

    fn answer(entry: EntryState) -> Builder<capnp::message::HeapAllocator> {
        let mut message = Builder::new_default();
        let loaded = Loaded { format: Format::Pvh, entry, initrd: Some((0x1000, 7)) };
        write_loaded(&loaded, message.init_root());
        message
    }

    #[test]
    fn the_64_bit_state_is_what_the_boot_protocol_asks_for() {
        let state = Long64 { rip: 0x100_0200, rsi: 0x7000, rsp: 0x9000, cr3: 0xa000, gdt: GDT };
        let message = answer(EntryState::Long64(state));
        let loaded: loaded::Reader<'_> = message.get_root_as_reader().unwrap();
        let Ok(vcpu_state::cpu::X86(Ok(core))) = loaded.get_entry().unwrap().get_cpu().which() else { panic!() };
        assert_eq!((core.get_cr0(), core.get_cr4(), core.get_efer()), (0x8000_0011, 0x20, 0x500));
        assert_eq!((core.get_cr3(), core.get_rip(), core.get_rflags()), (0xa000, 0x100_0200, 2));
        let gprs = core.get_gprs().unwrap();
        assert_eq!((gprs.get(6), gprs.get(4), gprs.len()), (0x7000, 0x9000, 16));
        let segments = core.get_segments().unwrap();
        let fields = |index| {
            let s = segments.get(index);
            (s.get_selector(), s.get_base(), s.get_limit(), s.get_access(), s.get_unusable())
        };
        assert_eq!(fields(1), (0x10, 0, 0xffff_ffff, 0xa09b, false), "CS: L and G, no D");
        for data in [0, 2, 3, 4, 5] {
            assert_eq!(fields(data), (0x18, 0, 0xffff_ffff, 0xc093, false));
        }
        assert_eq!(fields(7), (0x20, 0, 0x67, 0x8b, false));
        assert_eq!(fields(6), (0, 0, 0xffff, 0x82, false));
        assert_eq!((core.get_gdtr().unwrap().get_base(), core.get_gdtr().unwrap().get_limit()), (0x1230, 47));
        assert_eq!((core.get_xsave().unwrap().len(), core.get_lapic().unwrap().len()), (576, 1024));
    }

    #[test]
    fn the_32_bit_state_has_no_paging_and_a_32_bit_segment() {
        let state = Protected32 { eip: 0x10_0020, eax: 0x2bad_b002, ebx: 0x5000, gdt: GDT };
        let message = answer(EntryState::Protected32(state));
        let loaded: loaded::Reader<'_> = message.get_root_as_reader().unwrap();
        assert_eq!(loaded.get_format().unwrap(), "pvh");
        assert_eq!(loaded.get_summary().unwrap(), "pvh, entered at 0x100020, initrd of 7 bytes at 0x1000");
        let Ok(vcpu_state::cpu::X86(Ok(core))) = loaded.get_entry().unwrap().get_cpu().which() else { panic!() };
        assert_eq!((core.get_cr0(), core.get_cr4(), core.get_efer()), (0x11, 0, 0));
        let gprs = core.get_gprs().unwrap();
        assert_eq!((gprs.get(0), gprs.get(3)), (0x2bad_b002, 0x5000));
        assert_eq!(core.get_segments().unwrap().get(1).get_access(), 0xc09b, "CS: D and G, no L");
    }

    fn setup(change: impl FnOnce(setup::Builder<'_>)) -> Result<Order, Problem> {
        let mut message = Builder::new_default();
        let mut setup = message.init_root::<to_islet::Builder<'_>>().init_setup();
        setup.set_machine("q35-0");
        setup.set_vcpus(2);
        setup.set_memory_bytes(256 << 20);
        setup.set_status_slot(9);
        let mut role = setup.reborrow().init_role().init_loader();
        role.set_kernel("kernel");
        role.set_kernel_name("vmlinuz");
        role.set_command_line("console=ttyS0");
        change(setup);
        let root = message.get_root_as_reader::<to_islet::Reader<'_>>().unwrap();
        let Ok(to_islet::Setup(Ok(setup))) = root.which() else { panic!() };
        Order::read(setup)
    }

    #[test]
    fn an_order_becomes_a_machine() {
        let order = setup(|_| ()).unwrap();
        assert_eq!(order.kernel.title, "kernel image 'vmlinuz'");
        assert_eq!((order.initrd, order.status_row, order.ram_len), (None, 9, 256 << 20));
        assert_eq!(order.command_line, b"console=ttyS0");
        let rsdp = order.machine.tables.iter().find(|table| table.0 == order.machine.rsdp).unwrap();
        assert!(rsdp.1.starts_with(b"RSD PTR "));
        assert!(order.machine.map.len() >= 4);
    }

    #[test]
    fn a_bad_order_is_refused_with_its_reason() {
        let refused = |change: fn(setup::Builder<'_>)| setup(change).unwrap_err().to_string();
        assert!(refused(|mut s| s.set_machine("q35-99")).contains("q35-99"));
        assert!(refused(|mut s| s.set_memory_bytes(3)).contains("loader.machine"));
        assert!(refused(|mut s| s.set_vcpus(0)).contains("loader.machine"));
        let other = refused(|s| s.init_role().init_board().set_area(1));
        assert!(other.contains("another kind of process") && other.contains("[loader.setup]"), "{other}");
        let long = setup(|s| match s.get_role().which() {
            Ok(setup::role::Loader(Ok(mut role))) => role.set_kernel_name("n".repeat(5000)),
            _ => panic!(),
        });
        assert!(long.unwrap().kernel.title.len() < 300);
    }
}
