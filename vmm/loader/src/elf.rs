//! ELF kernels, 32 and 64 bit: headers, segments and the PVH note.
//!
//! The idea: both classes become one list of [`Segment`]s whose every number has been checked against the file; loading
//! then needs no more checks than that the memory is free. Source: System V ABI, chapters "Object Files" and "Program
//! Loading"; for the note the PVH boot specification of the Xen project.

use crate::layout::{FOUR_GIB, PAGE, Window};
use crate::ram::GuestRam;
use crate::source::{self, Field, Header, Source, field};
use crate::{Job, LoadError};

// e_ident and the fields that both classes have at the same place.
const MAGIC: Field = field("EI_MAG", 0, 4);
const CLASS: Field = field("EI_CLASS", 4, 1);
const DATA: Field = field("EI_DATA", 5, 1);
const TYPE: Field = field("e_type", 16, 2);
const MACHINE: Field = field("e_machine", 18, 2);

/// "\x7fELF".
const ELF_MAGIC: u64 = 0x464c_457f;
const LITTLE_ENDIAN: u64 = 1;
const EXECUTABLE: u64 = 2;
const SHARED: u64 = 3;
const I386: u64 = 3;
const X86_64: u64 = 62;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;

/// The fields of one class.
struct Class {
    header_size: usize,
    entry: Field,
    phoff: Field,
    phentsize: Field,
    phnum: Field,
    /// What `phentsize` must say.
    entry_size: u16,
    // Fields of a program header, counted from its start.
    p_offset: u16,
    p_vaddr: u16,
    p_paddr: u16,
    p_filesz: u16,
    p_memsz: u16,
    p_align: u16,
    width: u8,
}

const CLASS32: Class = Class {
    header_size: 52,
    entry: field("e_entry", 24, 4),
    phoff: field("e_phoff", 28, 4),
    phentsize: field("e_phentsize", 42, 2),
    phnum: field("e_phnum", 44, 2),
    entry_size: 32,
    p_offset: 4,
    p_vaddr: 8,
    p_paddr: 12,
    p_filesz: 16,
    p_memsz: 20,
    p_align: 28,
    width: 4,
};

const CLASS64: Class = Class {
    header_size: 64,
    entry: field("e_entry", 24, 8),
    phoff: field("e_phoff", 32, 8),
    phentsize: field("e_phentsize", 54, 2),
    phnum: field("e_phnum", 56, 2),
    entry_size: 56,
    p_offset: 8,
    p_vaddr: 16,
    p_paddr: 24,
    p_filesz: 32,
    p_memsz: 40,
    p_align: 48,
    width: 8,
};

/// More program headers than any kernel has.
const MAX_SEGMENTS: u64 = 128;
/// More notes than any kernel has, in bytes.
const MAX_NOTES: u64 = 64 * 1024;
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
const DAMAGED: &str = "the image is damaged; fetch or build it again";

/// A program header whose file range lies in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    kind: u64,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

/// A kernel in ELF format.
pub(crate) struct Elf<'a> {
    source: &'a dyn Source,
    entry: u64,
    segments: Vec<Segment>,
}

/// Whether the file begins as an ELF file does.
pub(crate) fn recognise(head: &Header<'_>) -> bool {
    matches!(head.get(MAGIC), Ok(ELF_MAGIC))
}

impl<'a> Elf<'a> {
    /// Reads the headers and checks them against the file.
    pub fn read(source: &'a dyn Source) -> Result<Self, LoadError> {
        let head = Header::read(source, 0, CLASS64.header_size, "the ELF header")?;
        let class = match head.get(CLASS)? {
            1 => &CLASS32,
            2 => &CLASS64,
            _ => return Err(head.bad(CLASS, "neither 32 nor 64 bit", DAMAGED)),
        };
        if head.get(DATA)? != LITTLE_ENDIAN {
            return Err(head.bad(DATA, "not little-endian, so not for x86", "use a kernel for amd64"));
        }
        if !matches!(head.get(MACHINE)?, I386 | X86_64) {
            return Err(head.bad(MACHINE, "not a program for x86", "use a kernel for amd64"));
        }
        if !matches!(head.get(TYPE)?, EXECUTABLE | SHARED) {
            let remedy = "link it, or use the bzImage of that kernel";
            return Err(head.bad(TYPE, "not an executable (an object or a core file?)", remedy));
        }
        if head.get(class.phentsize)? != u64::from(class.entry_size) {
            let problem = format!("a program header of this class has {} bytes", class.entry_size);
            return Err(head.bad(class.phentsize, problem, DAMAGED));
        }
        let count = head.get(class.phnum)?;
        if count == 0 || count > MAX_SEGMENTS {
            let problem = format!("a kernel has between 1 and {MAX_SEGMENTS} program headers");
            return Err(head.bad(class.phnum, problem, "use the linked kernel image, not an object file"));
        }
        let table = head.get(class.phoff)?;
        source::require(source, table, count * u64::from(class.entry_size), "the program headers (e_phoff)")?;
        let segments = (0..count).map(|index| segment(source, class, table, index)).collect::<Result<_, _>>()?;
        Ok(Self { source, entry: head.get(class.entry)?, segments })
    }

    /// The 32-bit entry point of the PVH note, if there is one.
    pub fn pvh_entry(&self) -> Result<Option<u32>, LoadError> {
        for segment in self.segments.iter().filter(|segment| segment.kind == PT_NOTE) {
            if segment.filesz > MAX_NOTES {
                let header = Header::read(self.source, segment.offset, 4, "the notes")?;
                let problem = format!("a note segment of {:#x} bytes is too large to be one", segment.filesz);
                return Err(header.bad(field("PT_NOTE", 0, 4), problem, DAMAGED));
            }
            // MAX_NOTES fits in usize.
            let notes = Header::read(self.source, segment.offset, segment.filesz as usize, "the notes")?;
            if let Some(entry) = find_pvh(&notes, if segment.align == 8 { 8 } else { 4 })? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The physical address of `e_entry`, which may be a virtual one that a segment maps.
    pub fn physical_entry(&self) -> u64 {
        let mapped = self.loaded().find(|s| s.vaddr <= self.entry && self.entry - s.vaddr < s.memsz);
        match mapped {
            Some(segment) => segment.paddr.wrapping_add(self.entry - segment.vaddr),
            None => self.entry,
        }
    }

    /// Checks that `entry` is code of this kernel, and returns it as the 32 bits that EIP has.
    pub fn check_entry(&self, entry: u64) -> Result<u32, LoadError> {
        let inside = self.loaded().any(|s| s.paddr <= entry && entry - s.paddr < s.filesz);
        match u32::try_from(entry) {
            Ok(address) if inside => Ok(address),
            _ => Err(LoadError::Unrecognised {
                file: self.source.name().to_owned(),
                found: format!("its entry point {entry:#x} is in none of the segments that it loads"),
                remedy: DAMAGED,
            }),
        }
    }

    /// Puts the segments to their physical addresses and zeroes what the file does not fill.
    pub fn load_segments<R: GuestRam>(&self, job: &mut Job<'_, R>) -> Result<(), LoadError> {
        for (index, segment) in self.loaded().enumerate() {
            let what = format!("segment {index} of the kernel");
            if segment.paddr.saturating_add(segment.memsz) > FOUR_GIB {
                let place = format!(" at {:#x}", segment.paddr);
                return Err(job.layout.no_room(&what, segment.memsz, place, "link it to addresses below 4 GiB"));
            }
            job.layout.claim(segment.paddr, segment.memsz, &what)?;
            job.writer.copy(self.source, segment.offset, segment.filesz, segment.paddr, &what)?;
            job.writer.zero(segment.paddr + segment.filesz, segment.memsz - segment.filesz, &what)?;
        }
        Ok(())
    }

    fn loaded(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memsz > 0)
    }
}

/// Reads one program header.
fn segment(source: &dyn Source, class: &Class, table: u64, index: u64) -> Result<Segment, LoadError> {
    let size = u64::from(class.entry_size);
    let header = Header::read(source, table + index * size, usize::from(class.entry_size), "a program header")?;
    let get = |name, offset| header.get(field(name, offset, class.width));
    let segment = Segment {
        kind: header.get(field("p_type", 0, 4))?,
        offset: get("p_offset", class.p_offset)?,
        vaddr: get("p_vaddr", class.p_vaddr)?,
        paddr: get("p_paddr", class.p_paddr)?,
        filesz: get("p_filesz", class.p_filesz)?,
        memsz: get("p_memsz", class.p_memsz)?,
        align: get("p_align", class.p_align)?,
    };
    if segment.kind != PT_LOAD && segment.kind != PT_NOTE {
        return Ok(segment);
    }
    source::require(source, segment.offset, segment.filesz, &format!("the segment of program header {index}"))?;
    if segment.kind == PT_LOAD {
        if segment.memsz < segment.filesz {
            let problem = format!("less than the {:#x} bytes that the file has for it", segment.filesz);
            return Err(header.bad(field("p_memsz", class.p_memsz, class.width), problem, DAMAGED));
        }
        if segment.paddr.checked_add(segment.memsz).is_none() {
            let problem = format!("{:#x} bytes from there end past the last address", segment.memsz);
            return Err(header.bad(field("p_paddr", class.p_paddr, class.width), problem, DAMAGED));
        }
    }
    Ok(segment)
}

/// Looks through the notes of one segment; `align` is what names and descriptors are padded to.
fn find_pvh(notes: &Header<'_>, align: usize) -> Result<Option<u32>, LoadError> {
    let mut at = 0usize;
    while at + 12 <= notes.bytes().len() {
        // MAX_NOTES keeps the position within the 16 bits that a field's offset has.
        let here = at as u16;
        let name_size = notes.get32(field("n_namesz", here, 4))? as usize;
        let size_field = field("n_descsz", here + 4, 4);
        let size = notes.get32(size_field)? as usize;
        let kind = notes.get32(field("n_type", here + 8, 4))?;
        let name = at + 12;
        let value = name.checked_add(name_size).and_then(|end| end.checked_next_multiple_of(4));
        let value = value.and_then(|end| end.checked_next_multiple_of(align));
        let end = value.and_then(|start| start.checked_add(size));
        let (Some(value), Some(end)) = (value, end.filter(|&end| end <= notes.bytes().len())) else {
            return Err(notes.bad(size_field, "the note runs past the end of its segment", DAMAGED));
        };
        if kind == PHYS32_ENTRY && notes.bytes()[name..].starts_with(b"Xen\0") && name_size == 4 {
            let width = match size {
                4 | 8 => size as u8,
                _ => return Err(notes.bad(size_field, "a PVH entry point has 4 or 8 bytes", DAMAGED)),
            };
            let entry_field = field("XEN_ELFNOTE_PHYS32_ENTRY", value as u16, width);
            let entry = notes.get(entry_field)?;
            return match u32::try_from(entry) {
                Ok(entry) => Ok(Some(entry)),
                Err(_) => Err(notes.bad(entry_field, "a 32-bit entry point must be below 4 GiB", DAMAGED)),
            };
        }
        at = end.next_multiple_of(align);
    }
    Ok(None)
}

/// Writes a command line with its closing zero where a 32-bit pointer reaches it; returns its address.
pub(crate) fn write_command_line<R: GuestRam>(job: &mut Job<'_, R>, line: &[u8]) -> Result<u64, LoadError> {
    let what = "the command line";
    let mut bytes = line.to_vec();
    bytes.push(0);
    let start = job.layout.place(bytes.len() as u64, 16, Window::any32(), what)?;
    job.writer.bytes(start, &bytes, what)?;
    Ok(start)
}

/// Puts the initrd of a 32-bit protocol into `window` at a page boundary; (address, length).
pub(crate) fn load_module<R: GuestRam>(job: &mut Job<'_, R>, window: Window) -> Result<Option<(u64, u64)>, LoadError> {
    let Some(file) = job.request.initrd else { return Ok(None) };
    let start = job.layout.place(file.size().max(1), PAGE, window, "the initrd")?;
    job.writer.copy(file, 0, file.size(), start, "the initrd")?;
    Ok(Some((start, file.size())))
}
