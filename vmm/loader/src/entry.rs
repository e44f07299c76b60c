//! The state in which vCPU 0 starts, and the tables in low memory that this state points to.
//!
//! The idea: plain data, so that one function turns it into the message for the engine and a test can read it. The
//! segment descriptors are given as they stand in the GDT, so that cached and in-memory descriptors agree.

use crate::error::LoadError;
use crate::layout::{FOUR_GIB, Layout, PAGE, Window};
use crate::ram::{GuestRam, Writer};

/// Flat 64-bit code, execute and read, accessed (SDM vol. 3, 3.4.5: type 0xb, S, P, L, G).
pub const CODE64: u64 = 0x00af_9b00_0000_ffff;
/// Flat 32-bit code, execute and read, accessed (type 0xb, S, P, D, G).
pub const CODE32: u64 = 0x00cf_9b00_0000_ffff;
/// Flat data, read and write, accessed (type 3, S, P, D/B, G).
pub const DATA: u64 = 0x00cf_9300_0000_ffff;
/// A busy task state segment of 0x67 bytes at address 0; in long mode it is the 64-bit kind (type 0xb either way).
pub const BUSY_TSS: u64 = 0x0000_8b00_0000_0067;

/// Selector of the code segment: `__BOOT_CS` of the Linux/x86 boot protocol, chapter "64-bit Boot Protocol".
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segments: `__BOOT_DS` of the same chapter.
pub const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task register, which no boot protocol asks for and virtual-machine entry checks want to be sane.
pub const TASK_SELECTOR: u16 = 0x20;

/// CR0 of both modes: protected (PE) with the fixed extension type bit (ET).
pub const CR0_PROTECTED: u64 = 0x11;
/// CR0.PG.
pub const CR0_PAGING: u64 = 1 << 31;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// EFER.LME and EFER.LMA.
pub const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// RFLAGS with nothing set but the bit that always is: interrupts off.
pub const RFLAGS_QUIET: u64 = 2;

/// Where the GDT is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Guest-physical (and linear) address.
    pub base: u64,
    /// Size in bytes less one.
    pub limit: u16,
}

/// Registers of the 64-bit entry; those not named are zero. Paging is on, memory below 4 GiB is mapped to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Long64 {
    /// First instruction.
    pub rip: u64,
    /// Address of the boot parameters.
    pub rsi: u64,
    /// A small stack that nothing else uses.
    pub rsp: u64,
    /// Top-level page table.
    pub cr3: u64,
    /// The descriptor table with [`CODE64`] and [`DATA`].
    pub gdt: DescriptorTable,
}

/// Registers of the 32-bit entry; those not named are zero. Paging is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protected32 {
    /// First instruction.
    pub eip: u32,
    /// The boot loader's magic number (multiboot), or 0.
    pub eax: u32,
    /// Address of the start information.
    pub ebx: u32,
    /// The descriptor table with [`CODE32`] and [`DATA`].
    pub gdt: DescriptorTable,
}

/// How vCPU 0 begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// 64-bit mode.
    Long64(Long64),
    /// 32-bit protected mode.
    Protected32(Protected32),
}

impl EntryState {
    /// Address of the first instruction.
    pub const fn start(&self) -> u64 {
        match self {
            Self::Long64(state) => state.rip,
            Self::Protected32(state) => state.eip as u64,
        }
    }

    /// The descriptor that the code segment register holds.
    pub const fn code_descriptor(&self) -> u64 {
        match self {
            Self::Long64(_) => CODE64,
            Self::Protected32(_) => CODE32,
        }
    }

    /// The descriptor table.
    pub const fn gdt(&self) -> DescriptorTable {
        match self {
            Self::Long64(state) => state.gdt,
            Self::Protected32(state) => state.gdt,
        }
    }
}

/// Writes a GDT with `code` at [`CODE_SELECTOR`], data and a task segment, in low memory where there is room.
pub(crate) fn write_gdt<R: GuestRam>(
    code: u64,
    layout: &mut Layout,
    writer: &mut Writer<'_, R>,
) -> Result<DescriptorTable, LoadError> {
    // The last entry is the upper half of the task segment's 16-byte descriptor in long mode.
    let table = [0, 0, code, DATA, BUSY_TSS, 0];
    let bytes: Vec<u8> = table.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    let base = layout.place(bytes.len() as u64, 16, Window::any32(), "the descriptor table")?;
    writer.bytes(base, &bytes, "the descriptor table")?;
    Ok(DescriptorTable { base, limit: (bytes.len() - 1) as u16 })
}

/// Page table entry: present and writable.
const TABLE: u64 = 0x3;
/// Page table entry of a 2 MiB page: present, writable, accessed, dirty, page size.
const LARGE_PAGE: u64 = 0xe3;
/// Bytes that one page directory maps.
const DIRECTORY_SPAN: u64 = 1 << 30;

/// Writes page tables that map the first 4 GiB to themselves with 2 MiB pages; returns the address for CR3.
pub(crate) fn write_identity_map<R: GuestRam>(
    layout: &mut Layout,
    writer: &mut Writer<'_, R>,
) -> Result<u64, LoadError> {
    let directories = FOUR_GIB / DIRECTORY_SPAN;
    let what = "the boot page tables";
    let base = layout.place((2 + directories) * PAGE, PAGE, Window::any32(), what)?;
    let mut tables = vec![0u64; ((2 + directories) * PAGE / 8) as usize];
    let entries = (PAGE / 8) as usize;
    tables[0] = (base + PAGE) | TABLE;
    for directory in 0..directories {
        tables[entries + directory as usize] = (base + (2 + directory) * PAGE) | TABLE;
    }
    for (index, entry) in tables[2 * entries..].iter_mut().enumerate() {
        *entry = (index as u64) << 21 | LARGE_PAGE;
    }
    let bytes: Vec<u8> = tables.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    writer.bytes(base, &bytes, what)?;
    Ok(base)
}
