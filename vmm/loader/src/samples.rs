//! Kernels made in memory for the tests: the smallest files of each format that load, and the machine to load them into.
//!
//! The idea: every test starts from a file that works and breaks one thing.

use machine_model::{E820Entry, E820Kind, Span};

use crate::{BytesSource, GuestRam, LoadError, Loaded, Machine, Request, load};

/// One MiB.
pub const MIB: u64 = 1 << 20;

/// Guest memory that refuses what is not RAM, filled with a pattern, since memory is not cleared before a load.
pub struct Ram {
    bytes: Vec<u8>,
    high: u64,
}

/// Start of memory above 4 GiB.
const HIGH: u64 = 1 << 32;

impl Ram {
    /// `low` bytes from address 0 (without the video hole) and `high` bytes from 4 GiB.
    pub fn new(low: u64, high: u64) -> Self {
        Self { bytes: vec![0xa5; (low + high) as usize], high }
    }

    fn at(&self, start: u64, len: u64) -> Result<std::ops::Range<usize>, String> {
        let total = self.bytes.len() as u64;
        let low = total - self.high;
        let end = start.checked_add(len).ok_or("wraps")?;
        let hole = 0xa_0000..0xc_0000;
        let offset = if end <= low && (end <= hole.start || start >= hole.end) {
            start
        } else if start >= HIGH && end <= HIGH + self.high {
            start - HIGH + low
        } else {
            return Err(format!("{start:#x}..{end:#x} is no RAM"));
        };
        Ok(offset as usize..(offset + len) as usize)
    }

    /// What stands at an address.
    pub fn read(&self, start: u64, len: u64) -> &[u8] {
        &self.bytes[self.at(start, len).unwrap()]
    }

    /// A little-endian number of `width` bytes.
    pub fn number(&self, start: u64, width: u64) -> u64 {
        self.read(start, width).iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// A string with a closing zero.
    pub fn string(&self, start: u64) -> String {
        let bytes: Vec<u8> = (start..).map(|at| self.read(at, 1)[0]).take_while(|&byte| byte != 0).collect();
        String::from_utf8(bytes).unwrap()
    }
}

impl GuestRam for Ram {
    type Error = String;

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), String> {
        let range = self.at(start, bytes.len() as u64)?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, start: u64, len: u64) -> Result<(), String> {
        let range = self.at(start, len)?;
        self.bytes[range].fill(0);
        Ok(())
    }
}

/// A machine with a map like a PC's and one table in its BIOS area.
pub fn machine(low: u64, high: u64) -> Machine {
    let entry = |start, end, kind| E820Entry { span: Span::to(start, end), kind };
    let mut map = vec![
        entry(0, 0x9_f000, E820Kind::Usable),
        entry(0xe_0000, MIB, E820Kind::Reserved),
        entry(MIB, low, E820Kind::Usable),
    ];
    if high > 0 {
        map.push(entry(HIGH, HIGH + high, E820Kind::Usable));
    }
    Machine { map, tables: vec![(0xe_0000, b"RSD PTR ".to_vec())], rsdp: 0xe_0000 }
}

/// Loads files into a machine with `low` bytes below and `high` bytes above 4 GiB.
pub fn load_into(
    low: u64,
    high: u64,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    line: &str,
) -> Result<(Loaded, Ram), LoadError> {
    let (machine, mut ram) = (machine(low, high), Ram::new(low, high));
    let kernel = BytesSource::new("kernel image", kernel);
    let initrd = initrd.map(|bytes| BytesSource::new("initrd", bytes));
    let request = Request {
        kernel: &kernel,
        initrd: initrd.as_ref().map(|source| source as _),
        command_line: line.as_bytes(),
        machine: &machine,
    };
    load(&request, &mut ram).map(|loaded| (loaded, ram))
}

/// Loads a kernel alone into 32 MiB.
pub fn load_kernel(kernel: &[u8]) -> Result<(Loaded, Ram), LoadError> {
    load_into(32 * MIB, 0, kernel, None, "")
}

/// Overwrites bytes of a file.
pub fn patch(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage: protocol 2.15, relocatable, preferred at 16 MiB with 4 MiB of memory, 2048 bytes of code, a signature.
pub fn bzimage() -> Vec<u8> {
    let mut file = vec![0x90; 1024 + 2048 + 40];
    file[..0x268].fill(0);
    let fields: &[(usize, &[u8])] = &[
        (0x1f1, &[1]),                            // setup_sects
        (0x1f4, &128u32.to_le_bytes()),           // syssize, in 16 bytes
        (0x1fe, &[0x55, 0xaa]),                   // boot_flag
        (0x200, &[0xeb, 0x66]),                   // jump: the header ends at 0x268
        (0x202, b"HdrS"),                         // header
        (0x206, &0x020fu16.to_le_bytes()),        // version
        (0x211, &[1]),                            // loadflags
        (0x22c, &0x7fff_ffffu32.to_le_bytes()),   // initrd_addr_max
        (0x230, &0x20_0000u32.to_le_bytes()),     // kernel_alignment
        (0x234, &[1]),                            // relocatable_kernel
        (0x236, &[0b11]),                         // xloadflags
        (0x238, &2047u32.to_le_bytes()),          // cmdline_size
        (0x258, &(16 * MIB).to_le_bytes()),       // pref_address
        (0x260, &(4 * MIB as u32).to_le_bytes()), // init_size
    ];
    for (offset, bytes) in fields {
        patch(&mut file, *offset, bytes);
    }
    patch(&mut file, 1024, b"start of kernel");
    patch(&mut file, 1024 + 2048, b"signature");
    file
}

/// The Xen note with `entry` in 4 or 8 bytes, behind another note.
pub fn pvh_note(entry: u64, width: usize) -> Vec<u8> {
    let mut note = Vec::new();
    for (name, kind, value) in [(&b"GNU\0"[..], 3u32, &[1, 2, 3, 4][..]), (b"Xen\0", 18, &entry.to_le_bytes()[..width])]
    {
        note.extend((name.len() as u32).to_le_bytes());
        note.extend((value.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name);
        note.extend(value);
    }
    note
}

/// A segment of a made-up ELF file.
pub struct Part {
    pub kind: u32,
    pub vaddr: u64,
    pub paddr: u64,
    pub bytes: Vec<u8>,
    pub memsz: u64,
}

/// An ELF file of 32 or 64 bits with these segments.
pub fn elf(wide: bool, entry: u64, parts: &[Part]) -> Vec<u8> {
    let number = |value: u64| value.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec();
    let (header, entry_size) = if wide { (64u64, 56u64) } else { (52, 32) };
    let mut file = b"\x7fELF".to_vec();
    file.extend([if wide { 2 } else { 1 }, 1, 1]);
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(if wide { 62u16 } else { 3 }.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(number(entry));
    file.extend(number(header));
    file.extend(number(0));
    file.extend(0u32.to_le_bytes());
    for half in [header as u16, entry_size as u16, parts.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = header + entry_size * parts.len() as u64;
    for part in parts {
        let (at, filesz) = (number(offset), number(part.bytes.len() as u64));
        let (vaddr, paddr, memsz) = (number(part.vaddr), number(part.paddr), number(part.memsz));
        let flags = 5u32.to_le_bytes().to_vec();
        let kind = part.kind.to_le_bytes().to_vec();
        let align = number(4);
        let fields = if wide {
            [kind, flags, at, vaddr, paddr, filesz, memsz, align]
        } else {
            [kind, at, vaddr, paddr, filesz, memsz, flags, align]
        };
        file.extend(fields.concat());
        offset += part.bytes.len() as u64;
    }
    for part in parts {
        file.extend(&part.bytes);
    }
    file
}

/// A loaded segment at `paddr`, with 4 KiB of zeros behind its bytes.
pub fn text(paddr: u64, bytes: &[u8]) -> Part {
    Part { kind: 1, vaddr: paddr, paddr, bytes: bytes.to_vec(), memsz: bytes.len() as u64 + 4096 }
}

/// A PVH kernel at 2 MiB, entered at 2 MiB + 4.
pub fn pvh(wide: bool) -> Vec<u8> {
    let note = pvh_note(2 * MIB + 4, if wide { 8 } else { 4 });
    let notes = Part { kind: 4, vaddr: 0, paddr: 0, memsz: note.len() as u64, bytes: note };
    elf(wide, 0, &[text(2 * MIB, b"a kernel by PVH"), notes])
}

/// A multiboot header with these flags and address fields.
pub fn multiboot_header(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    [magic, flags, checksum].iter().chain(&addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// A multiboot kernel as 32-bit ELF: linked high, loaded at 1 MiB, entered 32 bytes in.
pub fn multiboot_elf() -> Vec<u8> {
    let mut bytes = multiboot_header(0b11, [0; 5]);
    bytes.extend(b"code of the kernel");
    let mut part = text(MIB, &bytes);
    part.vaddr = 0xc010_0000;
    elf(false, 0xc010_0020, &[part])
}

/// A multiboot kernel without ELF: 16 bytes of something else, then the header, loaded at 1 MiB from the header on.
pub fn multiboot_raw() -> Vec<u8> {
    let base = MIB as u32;
    let mut file = vec![0xee; 16];
    file.extend(multiboot_header(1 << 16, [base, base, base + 64, base + 0x2000, base + 32]));
    file.extend(b"code of the raw kernel");
    file.resize(16 + 64, 0x90);
    file.extend(b"not loaded");
    file
}
