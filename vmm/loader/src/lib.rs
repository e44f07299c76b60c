//! Parses kernels and initrds and writes them, with all boot tables, into guest memory.
//!
//! The idea: one pure function, [`load`], from files and a memory map to bytes in memory and the state of vCPU 0. It
//! knows nothing of processes, so that every malformed file can be tried in a test; the binary next to it wraps it in a
//! sandboxed process that lives for the time of one load. This is the only code of a VM that parses these files.
//!
//! | format | recognised by | entered in |
//! |---|---|---|
//! | bzImage | `HdrS` at 0x202 | 64-bit mode, Linux/x86 boot protocol 2.12 or newer |
//! | PVH ELF | ELF note `Xen`, type 18 | 32-bit mode, `hvm_start_info` in EBX |
//! | multiboot 1 | header in the first 8 KiB, ELF or raw | 32-bit mode, information in EBX |

mod boot_params;
mod bzimage;
mod elf;
pub mod entry;
mod error;
mod layout;
pub mod message;
mod multiboot;
mod pvh;
mod ram;
mod source;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use entry::EntryState;
pub use error::LoadError;
pub use ram::GuestRam;
pub use source::{BytesSource, FileSource, Source};

use machine_model::E820Entry;

use elf::Elf;
use layout::Layout;
use ram::Writer;
use source::Header;

/// The longest command line that is passed on, in bytes; a kernel's own limit may be lower.
pub const MAX_COMMAND_LINE: u64 = 32 * 1024;

/// What the loader must know of the machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The memory map that the guest is told; at most 128 regions fit the oldest protocol.
    pub map: Vec<E820Entry>,
    /// Tables that must stand at fixed addresses when the guest starts (ACPI): address and bytes. The address need not
    /// be in a usable range, only in RAM.
    pub tables: Vec<(u64, Vec<u8>)>,
    /// Address of the ACPI root pointer, or 0 where there is none.
    pub rsdp: u64,
}

/// What to load.
pub struct Request<'a> {
    /// The kernel.
    pub kernel: &'a dyn Source,
    /// The initial RAM disk, if any; for multiboot it is the first module.
    pub initrd: Option<&'a dyn Source>,
    /// The kernel's command line, without a closing zero.
    pub command_line: &'a [u8],
    /// The machine.
    pub machine: &'a Machine,
}

/// The format that a kernel was found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Linux's own image.
    BzImage,
    /// An ELF file with a PVH entry point.
    Pvh,
    /// A file with a multiboot 1 header.
    Multiboot,
}

/// What was done: the state of vCPU 0, and what an event or a log may say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The kernel's format.
    pub format: Format,
    /// How vCPU 0 begins.
    pub entry: EntryState,
    /// Where the initrd went, with its length in bytes.
    pub initrd: Option<(u64, u64)>,
}

/// Everything that the three formats share while one load runs.
pub(crate) struct Job<'a, R: GuestRam> {
    pub request: &'a Request<'a>,
    pub layout: Layout,
    pub writer: Writer<'a, R>,
}

/// Recognises the kernel by its content, writes all that the guest needs to start into `ram`, and says how to start.
///
/// Fails with the first thing that is wrong. Memory may then have been written already; the guest must not be started.
pub fn load<R: GuestRam>(request: &Request<'_>, ram: &mut R) -> Result<Loaded, LoadError> {
    check_command_line(request.command_line)?;
    let mut layout = Layout::new(&request.machine.map)?;
    let mut writer = Writer::new(ram);
    for (start, bytes) in &request.machine.tables {
        layout.mark(*start, bytes.len() as u64, "a table of the machine");
        writer.bytes(*start, bytes, "a table of the machine")?;
    }
    let mut job = Job { request, layout, writer };

    let head = Header::read(request.kernel, 0, 0x400, "its first bytes")?;
    if bzimage::recognise(&head) {
        return bzimage::load(&mut job);
    }
    let header = multiboot::find(request.kernel)?;
    if elf::recognise(&head) {
        let elf = Elf::read(request.kernel)?;
        if let Some(entry) = elf.pvh_entry()? {
            return pvh::load(&mut job, &elf, entry);
        }
        if let Some(header) = header {
            return multiboot::load(&mut job, &header, Some(&elf));
        }
        return Err(LoadError::Unrecognised {
            file: request.kernel.name().to_owned(),
            found: "an ELF file with neither a PVH entry note nor a multiboot header".into(),
            remedy: "use the bzImage (vmlinuz) of that kernel, or build it with CONFIG_PVH=y",
        });
    }
    if let Some(header) = header {
        return multiboot::load(&mut job, &header, None);
    }
    Err(unrecognised(request.kernel, head.bytes()))
}

/// Limits that hold whatever the kernel is.
fn check_command_line(line: &[u8]) -> Result<(), LoadError> {
    if line.len() as u64 > MAX_COMMAND_LINE {
        return Err(LoadError::CommandLineTooLong { len: line.len(), max: MAX_COMMAND_LINE, limit_of: "the loader" });
    }
    match line.iter().position(|&byte| byte == 0) {
        Some(at) => Err(LoadError::CommandLineZero { at }),
        None => Ok(()),
    }
}

/// File types that people pass by mistake: (offset, magic, what it is, what to do).
const MISTAKES: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    (0, b"\xfd7zXZ", "an xz file", "unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it with unzstd"),
    (0, b"QFI\xfb", "a qcow2 disk image", "pass it as a disk, not as a kernel"),
    (0, b"070701", "a cpio archive", "pass it as the initrd, not as the kernel"),
    (0x38, b"ARM\x64", "an arm64 kernel", "use a kernel for amd64 here"),
    (
        0x1fe,
        b"\x55\xaa",
        "a boot sector or a kernel older than Linux 1.3.73",
        "pass a disk as a disk, or use a newer kernel",
    ),
];

/// The error for a file that is no kernel, with a guess at what it is.
fn unrecognised(kernel: &dyn Source, head: &[u8]) -> LoadError {
    let file = kernel.name().to_owned();
    for &(offset, magic, what, remedy) in MISTAKES {
        if head.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return LoadError::Unrecognised { file, found: format!("this looks like {what}"), remedy };
        }
    }
    let found = if head.is_empty() {
        "the file is empty".to_owned()
    } else {
        let start: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("neither bzImage, PVH ELF nor multiboot (it begins {})", start.join(" "))
    };
    LoadError::Unrecognised { file, found, remedy: "pass a Linux bzImage, such as /boot/vmlinuz of an amd64 system" }
}
