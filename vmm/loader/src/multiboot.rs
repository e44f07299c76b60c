//! Multiboot version 1: ELF kernels, or raw ones that say where they go (the "a.out kludge").
//!
//! The idea: a header found in the first 8 KiB either names its addresses itself or leaves them to ELF; both ways end in
//! claimed memory and an entry point, and everything after that is common. Source: Multiboot Specification 0.6.96,
//! whose chapter numbers are quoted.

use crate::elf::{Elf, load_module, write_command_line};
use crate::entry::{self, CODE32, EntryState, Protected32};
use crate::layout::{FOUR_GIB, Window};
use crate::ram::GuestRam;
use crate::source::{self, Field, Header, Source, field};
use crate::{Format, Job, LoadError, Loaded};

// 3.1.1: the header's fields from its start; those from HEADER_ADDR on count only with AOUT_KLUDGE.
const MAGIC: Field = field("magic", 0, 4);
const FLAGS: Field = field("flags", 4, 4);
const HEADER_ADDR: Field = field("header_addr", 12, 4);
const LOAD_ADDR: Field = field("load_addr", 16, 4);
const LOAD_END_ADDR: Field = field("load_end_addr", 20, 4);
const BSS_END_ADDR: Field = field("bss_end_addr", 24, 4);
const ENTRY_ADDR: Field = field("entry_addr", 28, 4);
const HEADER_SIZE: usize = 32;

/// 3.1: the header lies within this many bytes.
const SEARCH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// 3.2: what EAX holds at the start.
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// 3.1.2: modules on page boundaries (they always are), memory information (always given).
const KNOWN_REQUIREMENTS: u64 = 0b011;
/// 3.1.2: the addresses are in the header.
const AOUT_KLUDGE: u64 = 1 << 16;
/// The lower half of the flags are requirements that a loader must refuse if it does not know them.
const REQUIREMENTS: u64 = 0xffff;

// 3.3: the information structure: its size, and the flags for what is filled in.
const INFO_SIZE: usize = 120;
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;
/// Bytes of a memory map entry, and what its size field says (it does not count itself).
const MAP_ENTRY: u64 = 24;
const MAP_ENTRY_REST: u32 = 20;
const MODULE_ENTRY: u64 = 16;
const LOADER_NAME: &[u8] = b"atoll\0";
/// What stands where other loaders put the file's name; kernels skip this word of the command line.
const KERNEL_WORD: &[u8] = b"kernel ";
const MODULE_WORD: &[u8] = b"initrd\0";

/// A header and where it was found.
pub(crate) struct Multiboot<'a> {
    header: Header<'a>,
    offset: u64,
    flags: u64,
}

/// Looks for a header whose checksum is right.
pub(crate) fn find(kernel: &dyn Source) -> Result<Option<Multiboot<'_>>, LoadError> {
    let head = Header::read(kernel, 0, SEARCH, "its first 8 KiB")?;
    let words = head.bytes().as_chunks::<4>().0;
    for (index, three) in words.windows(3).enumerate() {
        let [magic, flags, checksum] = [three[0], three[1], three[2]].map(u32::from_le_bytes);
        if magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0 {
            let offset = index as u64 * 4;
            let header = Header::read(kernel, offset, HEADER_SIZE, "the multiboot header")?;
            return Ok(Some(Multiboot { header, offset, flags: u64::from(flags) }));
        }
    }
    Ok(None)
}

/// Writes kernel, initrd (as the only module), command line and information.
pub(crate) fn load<R: GuestRam>(
    job: &mut Job<'_, R>,
    multiboot: &Multiboot<'_>,
    elf: Option<&Elf<'_>>,
) -> Result<Loaded, LoadError> {
    let header = &multiboot.header;
    debug_assert_eq!(header.get(MAGIC).ok(), Some(u64::from(HEADER_MAGIC)));
    if multiboot.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        let problem = "the kernel requires what this loader does not give (bit 2 is a video mode)";
        return Err(header.bad(FLAGS, problem, "build the kernel without that requirement"));
    }
    let eip = if multiboot.flags & AOUT_KLUDGE != 0 {
        load_raw(job, multiboot)?
    } else if let Some(elf) = elf {
        elf.load_segments(job)?;
        elf.check_entry(elf.physical_entry())?
    } else {
        let problem = "the file is no ELF file, so bit 16 (address fields) must be set";
        return Err(header.bad(FLAGS, problem, "link the kernel as ELF, or add the address fields"));
    };
    // Right above 1 MiB and the kernel, as other loaders do: some kernels take the top of memory without asking.
    let initrd = load_module(job, Window::lowest(1 << 20, FOUR_GIB))?;
    let line = [KERNEL_WORD, job.request.command_line].concat();
    let command_line = write_command_line(job, &line)?;
    let ebx = write_information(job, command_line, initrd)?;
    let gdt = entry::write_gdt(CODE32, &mut job.layout, &mut job.writer)?;
    let entry = EntryState::Protected32(Protected32 { eip, eax: LOADER_MAGIC, ebx, gdt });
    Ok(Loaded { format: Format::Multiboot, entry, initrd })
}

/// Loads what the address fields describe; returns the entry point (3.1.3).
fn load_raw<R: GuestRam>(job: &mut Job<'_, R>, multiboot: &Multiboot<'_>) -> Result<u32, LoadError> {
    let header = &multiboot.header;
    let remedy = "correct the address fields in the kernel's multiboot header";
    let load = header.get(LOAD_ADDR)?;
    let in_front = header.get(HEADER_ADDR)?.checked_sub(load);
    let Some(offset) = in_front.and_then(|bytes| multiboot.offset.checked_sub(bytes)) else {
        let problem = format!("the kernel is loaded from {load:#x} on, which would begin before the file does");
        return Err(header.bad(HEADER_ADDR, problem, remedy));
    };
    let file_size = job.request.kernel.size();
    let size = match header.get(LOAD_END_ADDR)? {
        0 => file_size.saturating_sub(offset),
        end => match end.checked_sub(load) {
            Some(size) => size,
            None => return Err(header.bad(LOAD_END_ADDR, format!("lower than load_addr {load:#x}"), remedy)),
        },
    };
    source::require(job.request.kernel, offset, size, "the kernel (load_addr to load_end_addr)")?;
    let memory = match header.get(BSS_END_ADDR)? {
        0 => size,
        end => match end.checked_sub(load).filter(|&memory| memory >= size) {
            Some(memory) => memory,
            None => {
                let problem = format!("lower than the end of what is loaded, {:#x}", load.saturating_add(size));
                return Err(header.bad(BSS_END_ADDR, problem, remedy));
            }
        },
    };
    let entry = header.get32(ENTRY_ADDR)?;
    if u64::from(entry).checked_sub(load).is_none_or(|distance| distance >= size) {
        let problem = format!("outside what is loaded, {load:#x}..{:#x}", load.saturating_add(size));
        return Err(header.bad(ENTRY_ADDR, problem, remedy));
    }
    let what = "the kernel";
    job.layout.claim(load, memory, what)?;
    job.writer.copy(job.request.kernel, offset, size, load, what)?;
    job.writer.zero(load + size, memory - size, what)?;
    Ok(entry)
}

/// Writes the information structure, its memory map, module list and strings as one block; returns its address (3.3).
fn write_information<R: GuestRam>(
    job: &mut Job<'_, R>,
    command_line: u64,
    initrd: Option<(u64, u64)>,
) -> Result<u32, LoadError> {
    let map = &job.request.machine.map;
    let map_size = map.len() as u64 * MAP_ENTRY;
    let size = INFO_SIZE as u64 + map_size + MODULE_ENTRY + (LOADER_NAME.len() + MODULE_WORD.len()) as u64;
    let base = job.layout.place(size, 16, Window::any32(), "the multiboot information")?;
    // All of these are below 4 GiB, since everything was placed there.
    let map_at = base + INFO_SIZE as u64;
    let module_at = map_at + map_size;
    let name_at = module_at + MODULE_ENTRY;
    let module_word_at = name_at + LOADER_NAME.len() as u64;

    let flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MEMORY_MAP | HAS_LOADER_NAME;
    let flags = if initrd.is_some() { flags | HAS_MODULES } else { flags };
    let (lower, upper) = memory_sizes(job.layout.usable());
    // (offset, value) of the fields that are filled in.
    let fields: [(usize, u64); 9] = [
        (0, u64::from(flags)),
        (4, lower),
        (8, upper),
        (16, command_line),
        (20, u64::from(initrd.is_some())),
        (24, module_at),
        (44, map_size),
        (48, map_at),
        (64, name_at),
    ];
    let mut block = vec![0; INFO_SIZE];
    for (offset, value) in fields {
        block[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    for region in map {
        block.extend(MAP_ENTRY_REST.to_le_bytes());
        block.extend(region.span.start.to_le_bytes());
        block.extend(region.span.len.to_le_bytes());
        block.extend((region.kind as u32).to_le_bytes());
    }
    let (start, len) = initrd.unwrap_or((0, 0));
    for value in [start, start + len, module_word_at, 0] {
        block.extend((value as u32).to_le_bytes());
    }
    block.extend(LOADER_NAME);
    block.extend(MODULE_WORD);
    job.writer.bytes(base, &block, "the multiboot information")?;
    Ok(base as u32)
}

/// `mem_lower` and `mem_upper` in KiB: memory from 0, at most 640 KiB, and from 1 MiB to the first hole.
fn memory_sizes(usable: &[(u64, u64)]) -> (u64, u64) {
    let from = |start: u64| usable.iter().find(|range| range.0 <= start && start < range.1).map_or(0, |r| r.1 - start);
    let (lower, upper) = (from(0) / 1024, from(1 << 20) / 1024);
    (lower.min(640), upper.min(u64::from(u32::MAX)))
}
