//! Linux bzImage by the 64-bit boot protocol.
//!
//! The idea: the setup header is read once through a table of its fields, every number is checked against the file and
//! the machine, and only then is anything placed. Source: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst),
//! whose chapter names are quoted where a rule needs one.

use crate::boot_params::{self, Initrd};
use crate::elf::write_command_line;
use crate::entry::{self, CODE64, EntryState, Long64};
use crate::layout::{FOUR_GIB, MORE_MEMORY, PAGE, Window};
use crate::ram::GuestRam;
use crate::source::{self, Field, Header, Source, field};
use crate::{Format, Job, LoadError, Loaded};

// "The Real-Mode Kernel Header". Offsets in the file and in the boot parameters are the same.
const SETUP_SECTS: Field = field("setup_sects", 0x1f1, 1);
const SYSSIZE: Field = field("syssize", 0x1f4, 4);
const BOOT_FLAG: Field = field("boot_flag", 0x1fe, 2);
const JUMP: Field = field("jump", 0x200, 1);
const JUMP_LENGTH: Field = field("jump (length of the header)", 0x201, 1);
const MAGIC: Field = field("header", 0x202, 4);
const VERSION: Field = field("version", 0x206, 2);
const LOADFLAGS: Field = field("loadflags", 0x211, 1);
const INITRD_ADDR_MAX: Field = field("initrd_addr_max", 0x22c, 4);
const KERNEL_ALIGNMENT: Field = field("kernel_alignment", 0x230, 4);
const RELOCATABLE_KERNEL: Field = field("relocatable_kernel", 0x234, 1);
const XLOADFLAGS: Field = field("xloadflags", 0x236, 2);
const CMDLINE_SIZE: Field = field("cmdline_size", 0x238, 4);
const PREF_ADDRESS: Field = field("pref_address", 0x258, 8);
const INIT_SIZE: Field = field("init_size", 0x260, 4);

/// Where the setup header begins in the file.
pub(crate) const HEADER_START: usize = 0x1f1;
/// The header's length is counted from here.
const HEADER_LENGTH_FROM: usize = 0x202;
/// End of the header of protocol 2.12, behind `handover_offset`.
const HEADER_END_2_12: usize = 0x268;
/// The boot parameters have other fields from here on.
const HEADER_END_MAX: usize = 0x290;
/// Bytes to read so that any header is complete.
const HEAD_SIZE: usize = HEADER_END_MAX;

/// "HdrS".
const HDRS: u64 = 0x5372_6448;
/// The first protocol version with `xloadflags`, that is Linux 3.8.
const VERSION_2_12: u64 = 0x020c;
/// `setup_sects` says 0 for 4.
const OLD_SETUP_SECTS: u64 = 4;
const SECTOR: u64 = 512;
/// loadflags: the kernel proper goes above 1 MiB.
const LOADED_HIGH: u64 = 1;
/// xloadflags: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u64 = 1 << 0;
/// xloadflags: kernel, parameters, command line and initrd may be above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u64 = 1 << 1;
/// "64-bit Boot Protocol": the entry point's distance from the start of the loaded kernel.
const ENTRY_64: u64 = 0x200;

/// What was read from a header that makes sense.
struct Image {
    /// The bytes of the setup header, to be handed on.
    header: Vec<u8>,
    /// Where the protected-mode part is in the file, and its length.
    payload: u64,
    payload_size: u64,
    /// Memory that the kernel needs from its load address on, before it can read the memory map.
    init_size: u64,
    preferred: u64,
    /// Alignment if it can be moved.
    alignment: Option<u64>,
    initrd_max: u64,
    above_4g: bool,
    command_line_max: u64,
}

/// Whether the file begins as a bzImage does.
pub(crate) fn recognise(head: &Header<'_>) -> bool {
    matches!(head.get(MAGIC), Ok(HDRS)) && matches!(head.get(BOOT_FLAG), Ok(0xaa55))
}

/// Writes kernel, initrd, command line, boot parameters, page tables and descriptors.
pub(crate) fn load<R: GuestRam>(job: &mut Job<'_, R>) -> Result<Loaded, LoadError> {
    let image = parse(job.request.kernel)?;
    let line = job.request.command_line;
    if line.len() as u64 > image.command_line_max {
        return Err(LoadError::CommandLineTooLong {
            len: line.len(),
            max: image.command_line_max,
            limit_of: "this kernel (its cmdline_size)",
        });
    }

    let start = place_kernel(job, &image)?;
    job.writer.copy(job.request.kernel, image.payload, image.payload_size, start, "the kernel")?;
    let initrd = load_initrd(job, &image)?;
    let command_line = write_command_line(job, line)?;

    let page = boot_params::build(&boot_params::Parameters {
        setup_header: &image.header,
        load_address: start,
        command_line,
        initrd,
        rsdp: job.request.machine.rsdp,
        map: &job.request.machine.map,
    })?;
    let parameters = job.layout.place(PAGE, PAGE, Window::any32(), "the boot parameters")?;
    job.writer.bytes(parameters, &page, "the boot parameters")?;
    let stack = job.layout.place(PAGE, PAGE, Window::any32(), "the boot stack")?;
    let gdt = entry::write_gdt(CODE64, &mut job.layout, &mut job.writer)?;
    let cr3 = entry::write_identity_map(&mut job.layout, &mut job.writer)?;
    Ok(Loaded {
        format: Format::BzImage,
        entry: EntryState::Long64(Long64 { rip: start + ENTRY_64, rsi: parameters, rsp: stack + PAGE, cr3, gdt }),
        initrd: initrd.map(|initrd| (initrd.start, initrd.size)),
    })
}

/// Reads and checks the header.
fn parse(kernel: &dyn Source) -> Result<Image, LoadError> {
    let head = Header::read(kernel, 0, HEAD_SIZE, "the setup header")?;
    let version = head.get(VERSION)?;
    if version < VERSION_2_12 {
        let problem = "the boot protocol is older than 2.12, which brought the 64-bit entry point";
        return Err(head.bad(VERSION, problem, "use Linux 3.8 or newer"));
    }
    if head.get(LOADFLAGS)? & LOADED_HIGH == 0 {
        return Err(head.bad(LOADFLAGS, "this is a zImage, which loads low", "build a bzImage"));
    }
    let xloadflags = head.get(XLOADFLAGS)?;
    if xloadflags & XLF_KERNEL_64 == 0 {
        let problem = "the kernel has no 64-bit entry point (XLF_KERNEL_64 is not set)";
        return Err(head.bad(XLOADFLAGS, problem, "use a kernel for amd64, not for i386"));
    }
    let header_end = HEADER_LENGTH_FROM + head.get(JUMP_LENGTH)? as usize;
    if head.get(JUMP)? != 0xeb || !(HEADER_END_2_12..=HEADER_END_MAX).contains(&header_end) {
        let problem = format!(
            "the header would end at {header_end:#x}, but one of this version ends in \
             {HEADER_END_2_12:#x}..={HEADER_END_MAX:#x}"
        );
        return Err(head.bad(JUMP_LENGTH, problem, "the image is damaged; fetch or build it again"));
    }
    let Some(header) = head.bytes().get(HEADER_START..header_end) else {
        return Err(LoadError::Truncated {
            file: kernel.name().to_owned(),
            what: "the setup header".into(),
            needed: header_end as u64,
            len: kernel.size(),
        });
    };

    let (payload, payload_size) = payload(kernel, &head)?;
    let init_size = head.get(INIT_SIZE)?;
    if init_size < payload_size {
        let problem = format!("the kernel would need less memory than its own {payload_size:#x} bytes");
        return Err(head.bad(INIT_SIZE, problem, "the image is damaged; fetch or build it again"));
    }
    let preferred = head.get(PREF_ADDRESS)?;
    if preferred.checked_add(init_size).is_none_or(|end| end > FOUR_GIB) {
        let problem = "the kernel wants to lie above 4 GiB, where the boot page tables do not reach";
        return Err(head.bad(PREF_ADDRESS, problem, "build it with CONFIG_PHYSICAL_START below 4 GiB"));
    }
    let alignment = head.get(KERNEL_ALIGNMENT)?;
    let relocatable = head.get(RELOCATABLE_KERNEL)? != 0;
    if relocatable && !alignment.is_power_of_two() {
        let problem = "a relocatable kernel's alignment must be a power of two";
        return Err(head.bad(KERNEL_ALIGNMENT, problem, "the image is damaged; fetch or build it again"));
    }
    Ok(Image {
        header: header.to_vec(),
        payload,
        payload_size,
        init_size,
        preferred,
        alignment: relocatable.then_some(alignment),
        initrd_max: head.get(INITRD_ADDR_MAX)?,
        above_4g: xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        command_line_max: head.get(CMDLINE_SIZE)?,
    })
}

/// Where the protected-mode part is in the file: (offset, length). What follows it, such as a signature, is not loaded.
fn payload(kernel: &dyn Source, head: &Header<'_>) -> Result<(u64, u64), LoadError> {
    let sectors = match head.get(SETUP_SECTS)? {
        0 => OLD_SETUP_SECTS,
        count => count,
    };
    let start = (sectors + 1) * SECTOR;
    let size = head.get(SYSSIZE)? * 16;
    if size <= ENTRY_64 {
        let problem = format!("the kernel proper has {size:#x} bytes, and its entry point is at {ENTRY_64:#x}");
        return Err(head.bad(SYSSIZE, problem, "the image is damaged; fetch or build it again"));
    }
    let what = format!("the kernel proper ({} is {:#x}, so {size:#x} bytes)", SYSSIZE.name, size / 16);
    source::require(kernel, start, size, &what)?;
    Ok((start, size))
}

/// Chooses the kernel's place: the preferred one, or the next above where the kernel can be moved.
///
/// Below it there is no use: the decompressor never goes below the address that the kernel was linked for.
fn place_kernel<R: GuestRam>(job: &mut Job<'_, R>, image: &Image) -> Result<u64, LoadError> {
    let what = "the kernel (init_size)";
    let preferred = job.layout.claim(image.preferred, image.init_size, what);
    match (preferred, image.alignment) {
        (Ok(()), _) => Ok(image.preferred),
        (Err(error), None) => Err(error),
        (Err(_), Some(alignment)) => {
            let window = Window::lowest(image.preferred, FOUR_GIB);
            job.layout.place(image.init_size, alignment, window, what)
        }
    }
}

/// Puts the initrd as high as the kernel reaches, below 4 GiB if possible.
fn load_initrd<R: GuestRam>(job: &mut Job<'_, R>, image: &Image) -> Result<Option<Initrd>, LoadError> {
    let Some(file) = job.request.initrd else { return Ok(None) };
    let size = file.size();
    if size == 0 {
        return Err(LoadError::Unrecognised {
            file: file.name().to_owned(),
            found: "the file is empty".into(),
            remedy: "leave the initrd out or pass a real one",
        });
    }
    let what = "the initrd";
    // Kernels that can be loaded above 4 GiB take an initrd anywhere, whatever initrd_addr_max says.
    let limit = if image.above_4g { FOUR_GIB } else { image.initrd_max + 1 };
    let low = job.layout.place(size, PAGE, Window::highest(PAGE, limit), what);
    let start = match low {
        Ok(start) => start,
        Err(_) if image.above_4g => job
            .layout
            .place(size, PAGE, Window::lowest(FOUR_GIB, u64::MAX), what)
            .map_err(|_| job.layout.no_room(what, size, " beside the kernel".into(), MORE_MEMORY))?,
        Err(error) => return Err(error),
    };
    job.writer.copy(file, 0, size, start, what)?;
    Ok(Some(Initrd { start, size }))
}
