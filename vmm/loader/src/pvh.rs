//! The PVH boot protocol: an ELF kernel entered in 32-bit mode with `hvm_start_info` in EBX.
//!
//! The idea: start information, module list and memory map are one block of memory, written at once. Source: the Xen
//! project's "x86/HVM direct boot ABI" and `arch-x86/hvm/start_info.h`, version 1 of the structure.

use crate::elf::{Elf, load_module, write_command_line};
use crate::entry::{self, CODE32, EntryState, Protected32};
use crate::layout::{FOUR_GIB, PAGE, Window};
use crate::ram::GuestRam;
use crate::{Format, Job, LoadError, Loaded};

/// "xEn3" with the top bit set.
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;
const START_INFO_SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;
const MAP_ENTRY_SIZE: u64 = 24;

/// Writes kernel, initrd, command line and start information.
pub(crate) fn load<R: GuestRam>(job: &mut Job<'_, R>, elf: &Elf<'_>, entry: u32) -> Result<Loaded, LoadError> {
    elf.load_segments(job)?;
    let eip = elf.check_entry(u64::from(entry))?;
    let initrd = load_module(job, Window::highest(PAGE, FOUR_GIB))?;
    let command_line = write_command_line(job, job.request.command_line)?;

    let map = &job.request.machine.map;
    let modules = u64::from(initrd.is_some());
    let size = START_INFO_SIZE + modules * MODULE_SIZE + map.len() as u64 * MAP_ENTRY_SIZE;
    let base = job.layout.place(size, 16, Window::any32(), "the start information")?;
    let module_list = base + START_INFO_SIZE;
    let memory_map = module_list + modules * MODULE_SIZE;

    let mut block = Vec::with_capacity(size as usize);
    let mut word = |value: u32| block.extend(value.to_le_bytes());
    word(MAGIC);
    word(VERSION);
    word(0); // flags: no initial domain
    word(modules as u32);
    let mut long = |value: u64| block.extend(value.to_le_bytes());
    long(if initrd.is_some() { module_list } else { 0 });
    long(command_line);
    long(job.request.machine.rsdp);
    long(memory_map);
    block.extend((map.len() as u32).to_le_bytes());
    block.extend(0u32.to_le_bytes());
    if let Some((start, len)) = initrd {
        for value in [start, len, 0, 0] {
            block.extend(value.to_le_bytes());
        }
    }
    for region in map {
        block.extend(region.span.start.to_le_bytes());
        block.extend(region.span.len.to_le_bytes());
        block.extend((region.kind as u32).to_le_bytes());
        block.extend(0u32.to_le_bytes());
    }
    job.writer.bytes(base, &block, "the start information")?;

    let gdt = entry::write_gdt(CODE32, &mut job.layout, &mut job.writer)?;
    // The window ends at 4 GiB, so the address has 32 bits.
    let entry = EntryState::Protected32(Protected32 { eip, eax: 0, ebx: base as u32, gdt });
    Ok(Loaded { format: Format::Pvh, entry, initrd })
}
