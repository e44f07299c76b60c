//! The boot parameters ("zero page") that a bzImage kernel finds through RSI.
//!
//! The idea: a page of zeros, the kernel's own setup header copied into it, and a table of fields that the loader fills.
//! Offsets: Documentation/arch/x86/zero-page.rst and `struct boot_params` of the kernel's user interface headers.

use machine_model::E820Entry;

use crate::LoadError;
use crate::bzimage::HEADER_START;
use crate::layout::PAGE;

/// Where an initrd lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Initrd {
    pub start: u64,
    pub size: u64,
}

/// What goes into the page.
pub(crate) struct Parameters<'a> {
    /// The setup header as read from the image, from offset 0x1f1.
    pub setup_header: &'a [u8],
    pub load_address: u64,
    pub command_line: u64,
    pub initrd: Option<Initrd>,
    pub rsdp: u64,
    pub map: &'a [E820Entry],
}

// Fields of 32 bits that the loader writes; each "ext" field is the upper half of another.
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
// Others.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const E820_TABLE: usize = 0x2d0;
/// Bytes of an e820 entry: start, length, type.
const E820_ENTRY: usize = 20;
/// Entries that fit.
const E820_MAX: usize = 128;
/// `type_of_loader` of a loader without a registered number.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode`: "normal".
const VIDEO_NORMAL: u16 = 0xffff;

/// Makes the page. Fails if the memory map has more regions than it can name.
pub(crate) fn build(parameters: &Parameters<'_>) -> Result<Vec<u8>, LoadError> {
    let regions = parameters.map.len();
    if regions > E820_MAX {
        return Err(LoadError::Machine(format!(
            "the memory map has {regions} regions, and the boot parameters take {E820_MAX}; merge some"
        )));
    }
    let mut page = vec![0; PAGE as usize];
    put(&mut page, HEADER_START, parameters.setup_header);
    let (low, high) = halves(parameters.command_line);
    let initrd = parameters.initrd.unwrap_or(Initrd { start: 0, size: 0 });
    let (image_low, image_high) = halves(initrd.start);
    let (size_low, size_high) = halves(initrd.size);
    // The load address is below 4 GiB.
    let (load, _) = halves(parameters.load_address);
    let words: [(usize, u32); 7] = [
        (CMD_LINE_PTR, low),
        (EXT_CMD_LINE_PTR, high),
        (RAMDISK_IMAGE, image_low),
        (EXT_RAMDISK_IMAGE, image_high),
        (RAMDISK_SIZE, size_low),
        (EXT_RAMDISK_SIZE, size_high),
        (CODE32_START, load),
    ];
    for (offset, value) in words {
        put(&mut page, offset, &value.to_le_bytes());
    }
    put(&mut page, TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    put(&mut page, VID_MODE, &VIDEO_NORMAL.to_le_bytes());
    put(&mut page, ACPI_RSDP_ADDR, &parameters.rsdp.to_le_bytes());
    put(&mut page, E820_ENTRIES, &[regions as u8]);
    for (index, region) in parameters.map.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY;
        put(&mut page, at, &region.span.start.to_le_bytes());
        put(&mut page, at + 8, &region.span.len.to_le_bytes());
        put(&mut page, at + 16, &(region.kind as u32).to_le_bytes());
    }
    Ok(page)
}

/// Copies a field into the page; every offset above is a constant inside it.
fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Lower and upper 32 bits.
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
