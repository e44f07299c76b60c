//! The loader: bzImage, PVH ELF, multiboot ELF and raw, with initrd and command line.
//!
//! An input is 4 bytes (machine, length of the initrd in 64 KiB, of the command line in 16 bytes, spare) and a kernel. What
//! must hold: everything is written to RAM, nothing twice, and the guest is entered where something was written.

use fuzz::{Plant, Seen, Target, Verdict};
use loader::{BytesSource, EntryState, Format, GuestRam, LoadError, Loaded, Machine, Request, Source, load};
use machine_model::{E820Entry, E820Kind, Span};

use crate::bytes::{Bytes, holds};

const MIB: u64 = 1 << 20;
const HIGH: u64 = 1 << 32;

pub static TARGET: Target = Target {
    name: "kernels",
    run,
    seeds,
    words,
    longest: 12 << 10,
    head: 4,
    plants: &[
        "bzImage: setup_sects 0 is not read as 4",
        "ELF: the sum of p_offset and p_filesz may overflow",
        "multiboot: load_end_addr is not compared with load_addr",
        "PVH: the length of a note is added up in 32 bits",
        "bzImage: initrd_addr_max is taken as the first address that is not allowed",
    ],
};

/// Memory that only knows what was written where.
struct Written {
    low: u64,
    high: u64,
    ranges: Vec<(u64, u64)>,
    /// The first bytes of each write.
    heads: Vec<(u64, Vec<u8>)>,
}

impl Written {
    fn take(&mut self, start: u64, len: u64) -> Result<(), String> {
        let end = start.checked_add(len).ok_or("wraps")?;
        let inside =
            end <= 0xa_0000 || start >= 0xc_0000 && end <= self.low || start >= HIGH && end <= HIGH + self.high;
        self.ranges.push((start, end));
        if inside { Ok(()) } else { Err(format!("OUTSIDE {start:#x}..{end:#x}")) }
    }
}

impl GuestRam for Written {
    type Error = String;

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), String> {
        self.heads.push((start, bytes.iter().take(4096).copied().collect()));
        self.take(start, bytes.len() as u64)
    }

    fn zero(&mut self, start: u64, len: u64) -> Result<(), String> {
        self.take(start, len)
    }
}

/// So many bytes of nothing, so that large files cost nothing.
struct Hollow(u64);

impl Source for Hollow {
    fn name(&self) -> &str {
        "initrd"
    }

    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(7);
        Ok(())
    }
}

fn machine(low: u64, high: u64) -> Machine {
    let entry = |start, end, kind| E820Entry { span: Span::to(start, end), kind };
    let mut map = vec![entry(0, 0x9_f000, E820Kind::Usable), entry(0xe_0000, MIB, E820Kind::Reserved)];
    map.push(entry(MIB, low, E820Kind::Usable));
    if high > 0 {
        map.push(entry(HIGH, HIGH + high, E820Kind::Usable));
    }
    Machine { map, tables: vec![(0xe_0000, b"RSD PTR ".to_vec())], rsdp: 0xe_0000 }
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let mut input = Bytes(input);
    let [kind, initrd, line, _] = [input.byte(), input.byte(), input.byte(), input.byte()];
    let low = MIB * [32, 64, 3, 2048][usize::from(kind & 3)];
    let high = if kind & 4 == 0 { 0 } else { 64 * MIB };
    let machine = machine(low, high);
    let mut ram = Written { low, high, ranges: Vec::new(), heads: Vec::new() };
    let (kernel, initrd) = (BytesSource::new("kernel", input.0), Hollow(u64::from(initrd) << 16));
    let line = vec![b'a'; usize::from(line) * 16];
    let with_initrd = kind & 8 != 0;
    let request = Request {
        kernel: &kernel,
        initrd: with_initrd.then_some(&initrd as &dyn Source),
        command_line: &line,
        machine: &machine,
    };
    let result = load(&request, &mut ram);
    seen.count("writes", ram.ranges.len() as u64);
    match &result {
        Ok(loaded) => {
            seen.hit("loaded", loaded.format as u64 * 2 + u64::from(loaded.initrd.is_some()));
            check(loaded, &ram)?;
        }
        Err(error) => {
            let text = error.to_string();
            seen.text(error.code(), &text);
            match error {
                LoadError::Truncated { needed, .. } => seen.count("needed", *needed),
                LoadError::NoRoom { size, .. } => seen.count("size", *size),
                LoadError::Field { field, value, .. } => seen.count(field, *value),
                _ => {}
            }
            holds!(!text.contains("OUTSIDE"), "{text}");
        }
    }
    planted(input.0, &result, &ram, plant)
}

fn check(loaded: &Loaded, ram: &Written) -> Verdict {
    let mut ranges = ram.ranges.clone();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        holds!(pair[0].1 <= pair[1].0, "written twice: {:x?}", pair);
    }
    let start = loaded.entry.start();
    holds!(ranges.iter().any(|range| range.0 <= start && start < range.1), "entered at {start:#x}, where nothing is");
    if let Some((start, len)) = loaded.initrd {
        let pieces = ranges.iter().filter(|range| start <= range.0 && range.1 <= start + len);
        let covered: u64 = pieces.map(|range| range.1 - range.0).sum();
        holds!(covered == len, "{covered:#x} of {len:#x} bytes of the initrd were written");
    }
    let gdt = loaded.entry.gdt();
    holds!(ranges.contains(&(gdt.base, gdt.base + u64::from(gdt.limit) + 1)), "no descriptor table");
    if let EntryState::Long64(state) = loaded.entry {
        for address in [state.rsi, state.cr3] {
            holds!(ranges.iter().any(|range| range.0 == address), "nothing at {address:#x}");
        }
    }
    Ok(())
}

/// The little-endian number at an offset.
fn number(file: &[u8], at: usize, width: usize) -> u64 {
    Bytes(file.get(at..).unwrap_or_default()).number(width)
}

fn planted(kernel: &[u8], result: &Result<Loaded, LoadError>, ram: &Written, plant: Plant) -> Verdict {
    let error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    match result {
        Ok(loaded) if loaded.format == Format::BzImage => {
            if plant.is(0) {
                let start = (number(kernel, 0x1f1, 1) as usize + 1) * 512;
                let at = loaded.entry.start() - 0x200;
                let head = ram.heads.iter().find(|head| head.0 == at).map_or(&[][..], |head| &head.1);
                holds!(kernel[start..].starts_with(&head[..16]), "another kernel was loaded");
            }
            if plant.is(4)
                && let Some((start, len)) = loaded.initrd
                && number(kernel, 0x236, 2) & 2 == 0
            {
                // It may lie right below initrd_addr_max + 1.
                holds!(start + len <= number(kernel, 0x22c, 4), "the initrd ends at {:#x}", start + len);
            }
        }
        _ => {}
    }
    if plant.is(1) && error.contains("the segment of program header") && number(kernel, 4, 1) == 2 {
        let headers = number(kernel, 32, 8) as usize;
        for index in 0..number(kernel, 56, 2) as usize {
            let header = &kernel[headers + 56 * index..][..56];
            let (offset, size) = (number(header, 8, 8), number(header, 32, 8));
            if number(header, 0, 4) == 1 && offset.wrapping_add(size) <= kernel.len() as u64 {
                let _ = &kernel[offset as usize..offset.wrapping_add(size) as usize];
            }
        }
    }
    if plant.is(2) && error.contains("load_end_addr") && error.contains("lower than load_addr") {
        let at = (0..8192).step_by(4).find(|at| number(kernel, *at, 4) == 0x1bad_b002).unwrap();
        let size = number(kernel, at + 20, 4) as u32 - number(kernel, at + 16, 4) as u32;
        let _ = vec![0; size as usize];
    }
    if plant.is(3) && error.contains("the note runs past the end") {
        let at = error.split("n_descsz at offset 0x").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("0");
        let at = usize::from_str_radix(at, 16).unwrap_or(4) - 4;
        let end = (number(kernel, at, 4) as u32).wrapping_add(number(kernel, at + 4, 4) as u32).wrapping_add(12);
        if end as usize + at <= kernel.len() {
            let value = at + 12 + number(kernel, at, 4) as usize;
            let _ = &kernel[value..][..number(kernel, at + 4, 4) as usize];
        }
    }
    Ok(())
}

fn patch(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn bzimage(length: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    file[..0x268].fill(0);
    let fields: &[(usize, &[u8])] = &[
        (0x1f1, &[1]),
        (0x1f4, &128u32.to_le_bytes()),
        (0x1fe, &[0x55, 0xaa]),
        (0x200, &[0xeb, 0x66]),
        (0x202, b"HdrS"),
        (0x206, &0x020fu16.to_le_bytes()),
        (0x211, &[1]),
        (0x22c, &0x7fff_ffffu32.to_le_bytes()),
        (0x230, &0x20_0000u32.to_le_bytes()),
        (0x234, &[1]),
        (0x236, &[0b11]),
        (0x238, &2047u32.to_le_bytes()),
        (0x258, &(16 * MIB).to_le_bytes()),
        (0x260, &(4 * MIB as u32).to_le_bytes()),
    ];
    fields.iter().for_each(|(offset, bytes)| patch(&mut file, *offset, bytes));
    file
}

/// Kind, addresses (virtual and physical), bytes, size in memory.
type Part<'a> = (u32, u64, u64, &'a [u8], u64);

fn elf(wide: bool, entry: u64, parts: &[Part<'_>]) -> Vec<u8> {
    let number = |value: u64| value.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec();
    let (header, entry_size) = if wide { (64u64, 56u64) } else { (52, 32) };
    let mut file = b"\x7fELF".to_vec();
    file.extend([if wide { 2 } else { 1 }, 1, 1]);
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(if wide { 62u16 } else { 3 }.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    [entry, header, 0].into_iter().for_each(|value| file.extend(number(value)));
    file.extend(0u32.to_le_bytes());
    for half in [header as u16, entry_size as u16, parts.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = header + entry_size * parts.len() as u64;
    for (kind, vaddr, paddr, bytes, memsz) in parts {
        let values = [offset, *vaddr, *paddr, bytes.len() as u64, *memsz].map(number);
        let [at, vaddr, paddr, filesz, memsz] = values;
        let (kind, flags, align) = (kind.to_le_bytes().to_vec(), vec![5, 0, 0, 0], number(4));
        let fields = if wide {
            [kind, flags, at, vaddr, paddr, filesz, memsz, align]
        } else {
            [kind, at, vaddr, paddr, filesz, memsz, flags, align]
        };
        file.extend(fields.concat());
        offset += bytes.len() as u64;
    }
    parts.iter().for_each(|part| file.extend(part.3));
    file
}

fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let sizes = [name.len() as u32, value.len() as u32, kind].map(u32::to_le_bytes).concat();
    [&sizes, name, value].concat()
}

fn pvh(wide: bool) -> Vec<u8> {
    let width = if wide { 8 } else { 4 };
    let notes = [note(b"GNU\0", 3, &[1, 2, 3, 4]), note(b"Xen\0", 18, &(2 * MIB + 4).to_le_bytes()[..width])].concat();
    let text = b"a kernel by PVH";
    elf(wide, 0, &[(1, 2 * MIB, 2 * MIB, text, 4111), (4, 0, 0, &notes, notes.len() as u64)])
}

fn multiboot(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let words = [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.iter().chain(&addresses).flat_map(|word| word.to_le_bytes()).collect()
}

fn multiboot_elf() -> Vec<u8> {
    let bytes = [&multiboot(0b11, [0; 5])[..], b"code of the kernel"].concat();
    elf(false, 0xc010_0020, &[(1, 0xc010_0000, MIB, &bytes, 4200)])
}

fn multiboot_raw() -> Vec<u8> {
    let base = MIB as u32;
    let header = multiboot(1 << 16, [base, base, base + 64, base + 0x2000, base + 32]);
    let mut file = [&[0xee; 16][..], &header, b"code of the raw kernel"].concat();
    file.resize(100, 0x90);
    file
}

fn seeds() -> Vec<Vec<u8>> {
    let with = |head: [u8; 4], file: Vec<u8>| [&head[..], &file].concat();
    let mut not_above = bzimage(3112);
    not_above[0x236] = 1;
    vec![
        with([0, 0, 0, 0], bzimage(3112)),
        with([8, 1, 2, 0], bzimage(5 << 10)),
        with([12, 9, 2, 0], not_above),
        with([8, 1, 1, 0], pvh(true)),
        with([1, 1, 1, 0], pvh(false)),
        with([8, 2, 0, 0], multiboot_elf()),
        with([11, 2, 0, 0], multiboot_raw()),
        with([0; 4], b"\x1f\x8b".repeat(400)),
    ]
}

fn words() -> Vec<Vec<u8>> {
    let numbers = [MIB, 2 * MIB, 16 * MIB, 32 * MIB, HIGH, 0x1ff_ffff, 0x20_0000, 0x1bad_b002];
    let mut words: Vec<Vec<u8>> = numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect();
    words.extend(numbers.iter().map(|number| (*number as u32).to_le_bytes().to_vec()));
    words.extend([&b"HdrS"[..], b"\x7fELF", b"Xen\0", b"\x55\xaa", &[4, 0, 0, 0], &[18, 0, 0, 0]].map(<[u8]>::to_vec));
    words.push(note(b"Xen\0", 18, &[0, 0, 0x20, 0]));
    words.push(multiboot(1 << 16, [0; 5]));
    words
}
