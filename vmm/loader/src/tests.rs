//! What the loader promises about whole files: the three formats as a guest would see them, every kind of bad file with
//! the message that it gets, and thousands of damaged ones that must neither panic nor hang.

use crate::entry::{BUSY_TSS, CODE32, CODE64, DATA, EntryState, Long64, Protected32};
use crate::samples::*;
use crate::{Format, LoadError};

fn long(state: EntryState) -> Long64 {
    match state {
        EntryState::Long64(state) => state,
        EntryState::Protected32(_) => panic!("not 64-bit mode"),
    }
}

fn protected(state: EntryState) -> Protected32 {
    match state {
        EntryState::Protected32(state) => state,
        EntryState::Long64(_) => panic!("not 32-bit mode"),
    }
}

/// The message of a load that must fail.
fn refusal<T>(result: Result<T, LoadError>) -> String {
    match result {
        Ok(_) => panic!("was loaded"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no '{part}' in: {message}");
    }
}

#[test]
fn a_bzimage_is_entered_by_the_64_bit_boot_protocol() {
    let initrd = vec![7; 5000];
    let (loaded, ram) = load_into(64 * MIB, 0, &bzimage(), Some(&initrd), "console=ttyS0 quiet").unwrap();
    assert_eq!(loaded.format, Format::BzImage);
    let state = long(loaded.entry);
    assert_eq!(state.rip, 16 * MIB + 0x200);
    assert_eq!(ram.read(16 * MIB, 15), b"start of kernel");
    // The signature behind the kernel proper is not loaded.
    assert_eq!(ram.read(16 * MIB + 2048, 1), [0xa5]);
    assert_eq!(ram.read(0xe_0000, 8), b"RSD PTR ");

    let page = state.rsi;
    assert_eq!(page % 4096, 0);
    assert_eq!(ram.read(page + 0x202, 4), b"HdrS");
    assert_eq!(ram.number(page + 0x1ef, 1), 0, "the sentinel");
    assert_eq!(ram.number(page + 0x210, 1), 0xff);
    assert_eq!(ram.number(page + 0x070, 8), 0xe_0000);
    assert_eq!(ram.number(page + 0x214, 4), 16 * MIB);
    assert_eq!(ram.string(ram.number(page + 0x228, 4)), "console=ttyS0 quiet");
    assert_eq!(ram.number(page + 0x0c8, 4), 0);
    let at = ram.number(page + 0x218, 4);
    assert_eq!(at, 64 * MIB - 8192, "as high as possible, on a page");
    assert_eq!(loaded.initrd, Some((at, 5000)));
    assert_eq!(ram.number(page + 0x21c, 4), 5000);
    assert_eq!(ram.read(at, 5000), initrd);
    assert_eq!(ram.number(page + 0x1e8, 1), 3);
    assert_eq!(ram.number(page + 0x2d0 + 40, 8), MIB);
    assert_eq!(ram.number(page + 0x2d0 + 48, 8), 63 * MIB);
    assert_eq!(ram.number(page + 0x2d0 + 56, 4), 1);
    assert_eq!(ram.number(page + 0x2d0 + 36, 4), 2);
}

#[test]
fn the_64_bit_entry_has_descriptors_and_an_identity_map() {
    let (loaded, ram) = load_kernel(&bzimage()).unwrap();
    let state = long(loaded.entry);
    assert!(state.gdt.limit >= 0x1f);
    assert_eq!(ram.number(state.gdt.base, 8), 0);
    assert_eq!(ram.number(state.gdt.base + 0x10, 8), CODE64);
    assert_eq!(ram.number(state.gdt.base + 0x18, 8), DATA);
    assert_eq!(ram.number(state.gdt.base + 0x20, 8), BUSY_TSS);
    for address in [0, MIB, 16 * MIB + 0x200, 0xfee0_0000, 0xffff_ffff] {
        let step = |table: u64, shift: u64| ram.number((table & !0xfff) + (address >> shift & 0x1ff) * 8, 8);
        let (directories, directory) = (step(state.cr3, 39), step(step(state.cr3, 39), 30));
        assert_eq!((directories & 3, directory & 3), (3, 3));
        let leaf = step(directory, 21);
        assert_eq!(leaf & 0x83, 0x83);
        assert_eq!((leaf & !0x1f_ffff) | (address & 0x1f_ffff), address);
    }
    // The stack is writable memory that is nobody else's.
    assert_eq!(ram.read(state.rsp - 4096, 4096), vec![0xa5; 4096]);
}

#[test]
fn an_initrd_goes_above_four_gib_only_if_it_must() {
    let initrd = vec![3; 20 * MIB as usize];
    let (loaded, ram) = load_into(32 * MIB, 32 * MIB, &bzimage(), Some(&initrd), "").unwrap();
    let (at, len) = loaded.initrd.unwrap();
    assert_eq!((at, len), (1 << 32, 20 * MIB));
    let page = long(loaded.entry).rsi;
    assert_eq!((ram.number(page + 0x218, 4), ram.number(page + 0x0c0, 4)), (0, 1));
    assert_eq!(ram.number(page + 0x0c4, 4), 0);

    let mut old = bzimage();
    patch(&mut old, 0x236, &[1]);
    let error = refusal(load_into(32 * MIB, 32 * MIB, &old, Some(&initrd), ""));
    assert_says(&error, &["the initrd", "0x1400000 bytes", "give the machine more memory"]);
}

#[test]
fn initrd_addr_max_is_kept_to() {
    let mut kernel = bzimage();
    patch(&mut kernel, 0x236, &[1]);
    patch(&mut kernel, 0x22c, &0x17f_ffffu32.to_le_bytes());
    let (loaded, _) = load_into(64 * MIB, 0, &kernel, Some(&[1; 100]), "").unwrap();
    assert_eq!(loaded.initrd, Some((0x180_0000 - 4096, 100)));
    patch(&mut kernel, 0x22c, &u32::MAX.to_le_bytes());
    let (loaded, _) = load_into(64 * MIB, 0, &kernel, Some(&[1; 100]), "").unwrap();
    assert_eq!(loaded.initrd, Some((64 * MIB - 4096, 100)));
}

#[test]
fn a_relocatable_kernel_moves_up_and_another_does_not() {
    let mut kernel = bzimage();
    patch(&mut kernel, 0x258, &0x50_1000u64.to_le_bytes());
    let (mut machine, mut ram) = (machine(32 * MIB, 0), Ram::new(32 * MIB, 0));
    machine.tables.push((0x50_2000, vec![1; 16]));
    let mut attempt = |kernel: &[u8]| {
        let kernel = crate::BytesSource::new("kernel image", kernel);
        let request = crate::Request { kernel: &kernel, initrd: None, command_line: b"", machine: &machine };
        crate::load(&request, &mut ram)
    };
    assert_eq!(attempt(&kernel).unwrap().entry.start(), 0x60_0200);
    patch(&mut kernel, 0x234, &[0]);
    assert_says(&refusal(attempt(&kernel)), &["the kernel", "0x501000..0x901000", "0x502000..0x502010"]);
}

#[test]
fn a_pvh_kernel_gets_its_start_information() {
    for wide in [false, true] {
        let (loaded, ram) = load_into(32 * MIB, 0, &pvh(wide), Some(b"modules"), "root=/dev/vda").unwrap();
        assert_eq!(loaded.format, Format::Pvh);
        let state = protected(loaded.entry);
        assert_eq!((u64::from(state.eip), state.eax), (2 * MIB + 4, 0));
        assert_eq!(ram.read(2 * MIB, 15), b"a kernel by PVH");
        assert_eq!(ram.read(2 * MIB + 15, 4096), [0; 4096], "the rest of the segment is zero");
        assert_eq!(ram.number(state.gdt.base + 0x10, 8), CODE32);

        let info = u64::from(state.ebx);
        assert_eq!(ram.number(info, 4), 0x336e_c578);
        assert_eq!(ram.number(info + 4, 4), 1);
        assert_eq!(ram.number(info + 12, 4), 1);
        assert_eq!(ram.string(ram.number(info + 24, 8)), "root=/dev/vda");
        assert_eq!(ram.number(info + 32, 8), 0xe_0000);
        let module = ram.number(info + 16, 8);
        assert_eq!(ram.read(ram.number(module, 8), ram.number(module + 8, 8)), b"modules");
        assert_eq!(ram.number(module + 16, 8), 0);
        assert_eq!(ram.number(info + 48, 4), 3);
        let map = ram.number(info + 40, 8);
        let last = [0, 8, 16].map(|field| ram.number(map + 48 + field, 8));
        assert_eq!(last, [MIB, 31 * MIB, 1]);
    }
}

#[test]
fn a_pvh_kernel_without_initrd_gets_no_module() {
    let (loaded, ram) = load_kernel(&pvh(true)).unwrap();
    let info = u64::from(protected(loaded.entry).ebx);
    assert_eq!((ram.number(info + 12, 4), ram.number(info + 16, 8)), (0, 0));
}

#[test]
fn a_multiboot_kernel_gets_its_information() {
    let (loaded, ram) = load_into(32 * MIB, 0, &multiboot_elf(), Some(b"first module"), "a b").unwrap();
    assert_eq!(loaded.format, Format::Multiboot);
    let state = protected(loaded.entry);
    assert_eq!((u64::from(state.eip), state.eax), (MIB + 32, 0x2bad_b002), "the entry is translated to physical");
    assert_eq!(ram.read(MIB + 32, 18), b"code of the kernel");
    let info = u64::from(state.ebx);
    assert_eq!(ram.number(info, 4), 0b10_0100_1101);
    assert_eq!(ram.number(info + 4, 4), 0x9_f000 / 1024);
    assert_eq!(ram.number(info + 8, 4), 31 * 1024);
    assert_eq!(ram.string(ram.number(info + 16, 4)), "kernel a b");
    assert_eq!(ram.string(ram.number(info + 64, 4)), "atoll");
    assert_eq!(ram.number(info + 20, 4), 1);
    let module = ram.number(info + 24, 4);
    let (start, end) = (ram.number(module, 4), ram.number(module + 4, 4));
    assert_eq!((start % 4096, end - start), (0, 12));
    assert_eq!(ram.read(start, 12), b"first module");
    assert_eq!(ram.string(ram.number(module + 8, 4)), "initrd");
    let (len, map) = (ram.number(info + 44, 4), ram.number(info + 48, 4));
    assert_eq!(len, 3 * 24);
    assert_eq!(ram.number(map, 4), 20);
    assert_eq!([ram.number(map + 52, 8), ram.number(map + 60, 8), ram.number(map + 68, 4)], [MIB, 31 * MIB, 1]);
}

#[test]
fn a_multiboot_kernel_without_elf_says_where_it_goes() {
    let (loaded, ram) = load_kernel(&multiboot_raw()).unwrap();
    let state = protected(loaded.entry);
    assert_eq!(u64::from(state.eip), MIB + 32);
    assert_eq!(ram.read(MIB + 32, 22), b"code of the raw kernel");
    assert_eq!(ram.read(MIB + 64, 0x2000 - 64), [0; 0x2000 - 64], "the bss, not the rest of the file");

    let mut to_the_end = multiboot_raw();
    patch(&mut to_the_end, 16 + 20, &[0; 8]);
    let (_, ram) = load_kernel(&to_the_end).unwrap();
    assert_eq!(ram.read(MIB + 64, 10), b"not loaded");
}

#[test]
fn pvh_is_preferred_where_a_kernel_has_both() {
    let note = pvh_note(MIB + 32, 4);
    let notes = Part { kind: 4, vaddr: 0, paddr: 0, memsz: note.len() as u64, bytes: note };
    let mut bytes = multiboot_header(0, [0; 5]);
    bytes.extend(b"code");
    let (loaded, _) = load_kernel(&elf(false, MIB + 32, &[text(MIB, &bytes), notes])).unwrap();
    assert_eq!(loaded.format, Format::Pvh);
}

/// One damaged bzImage per rule: offset, bytes, what the message must say.
#[test]
fn every_bad_field_of_a_bzimage_is_named() {
    let cases: &[(usize, &[u8], &[&str])] = &[
        (0x206, &[0x0b, 0x02], &["kernel image: version at offset 0x206 says 0x20b", "older than 2.12", "Linux 3.8"]),
        (0x211, &[0], &["loadflags at offset 0x211", "zImage"]),
        (0x236, &[2], &["xloadflags at offset 0x236 says 0x2", "amd64"]),
        (0x201, &[0x10], &["jump (length of the header) at offset 0x201 says 0x10", "damaged"]),
        (0x201, &[0xff], &["says 0xff", "0x268..=0x290"]),
        (0x200, &[0x90], &["jump"]),
        (0x1f4, &[0xff, 0xff, 0xff, 0xff], &["syssize is 0xffffffff", "file has only", "is the download complete?"]),
        (0x1f4, &[0; 4], &["syssize at offset 0x1f4 says 0x0", "entry point"]),
        (0x1f1, &[0xff], &["needs the bytes up to offset 0x20800", "3112", "download"]),
        (0x1f1, &[0], &["needs the bytes up to offset 0x1200"]),
        (0x260, &[0; 4], &["init_size at offset 0x260 says 0x0", "0x800"]),
        (0x260, &[0xff; 4], &["pref_address", "4 GiB"]),
        (0x258, &[0xff; 8], &["pref_address at offset 0x258 says 0xffffffffffffffff", "4 GiB"]),
        (0x260, &[0, 0, 0, 0x40], &["guest memory: the kernel (init_size) needs 0x40000000 bytes", "more memory"]),
        (0x230, &[3, 0, 0, 0], &["kernel_alignment at offset 0x230 says 0x3", "power of two"]),
        (0x230, &[0; 4], &["kernel_alignment"]),
    ];
    for (offset, bytes, parts) in cases {
        let mut kernel = bzimage();
        patch(&mut kernel, *offset, bytes);
        assert_says(&refusal(load_kernel(&kernel)), parts);
    }
}

#[test]
fn command_lines_are_bounded_by_the_kernel_and_by_us() {
    let attempt = |kernel: &[u8], len| load_into(32 * MIB, 0, kernel, None, &"x".repeat(len));
    assert!(attempt(&bzimage(), 2047).is_ok());
    assert_says(&refusal(attempt(&bzimage(), 2048)), &["2048 bytes", "cmdline_size", "at most 2047", "shorten"]);
    assert!(attempt(&pvh(true), 32768).is_ok());
    assert_says(&refusal(attempt(&pvh(true), 32769)), &["command line", "at most 32768"]);
    assert_says(&refusal(load_into(32 * MIB, 0, &pvh(true), None, "a\0b")), &["zero byte at position 1"]);
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let error = refusal(load_into(8 * MIB, 0, &bzimage(), None, ""));
    assert_says(&error, &["needs 0x400000 bytes (4096 KiB)", "usable: 0x0..0x9f000 0x100000..0x800000", "more memory"]);
    let error = refusal(load_into(32 * MIB, 0, &pvh(true), Some(&vec![0; 33 << 20]), ""));
    assert_says(&error, &["the initrd needs 0x2100000 bytes"]);
    assert_says(&refusal(load_into(2 * MIB, 0, &pvh(true), None, "")), &["segment 0 of the kernel", "at 0x200000"]);
    let empty = refusal(load_into(32 * MIB, 0, &bzimage(), Some(&[]), ""));
    assert_says(&empty, &["initrd: the file is empty"]);
}

#[test]
fn a_map_with_too_many_regions_is_refused() {
    let mut machine = machine(32 * MIB, 0);
    machine.map.extend(vec![machine.map[1]; 126]);
    let bytes = bzimage();
    let kernel = crate::BytesSource::new("kernel image", &bytes);
    let request = crate::Request { kernel: &kernel, initrd: None, command_line: b"", machine: &machine };
    assert_says(&refusal(crate::load(&request, &mut Ram::new(32 * MIB, 0))), &["129 regions"]);
}

#[test]
fn every_bad_field_of_an_elf_is_named() {
    let header64 = 64; // the first program header of a 64-bit file
    let cases: &[(usize, &[u8], &[&str])] = &[
        (4, &[9], &["EI_CLASS at offset 0x4 says 0x9"]),
        (5, &[2], &["EI_DATA at offset 0x5", "little-endian"]),
        (18, &[183, 0], &["e_machine at offset 0x12 says 0xb7", "x86"]),
        (16, &[1, 0], &["e_type at offset 0x10 says 0x1", "link it"]),
        (54, &[55, 0], &["e_phentsize at offset 0x36 says 0x37", "56 bytes"]),
        (56, &[0, 0], &["e_phnum at offset 0x38 says 0x0", "between 1 and 128"]),
        (56, &[0xff, 0xff], &["e_phnum", "0xffff"]),
        (32, &[0xff; 8], &["the program headers (e_phoff)", "download"]),
        (header64 + 8, &[0xff; 8], &["the segment of program header 0", "download"]),
        (header64 + 32, &[0, 0, 1], &["the segment of program header 0", "file has only"]),
        (header64 + 40, &[0; 8], &["p_memsz at offset 0x68 says 0x0", "less than"]),
        (header64 + 40, &[0xff; 8], &["p_paddr at offset 0x58", "past the last address"]),
        (header64 + 24, &[0, 0, 0, 0, 1], &["segment 0 of the kernel", "below 4 GiB"]),
        (header64 + 24, &[0, 0, 0x30], &["0x200004", "entry point"]),
    ];
    for (offset, bytes, parts) in cases {
        let mut kernel = pvh(true);
        patch(&mut kernel, *offset, bytes);
        assert_says(&refusal(load_kernel(&kernel)), parts);
    }
}

#[test]
fn segments_must_not_overlap_each_other_or_what_is_below() {
    let note = || {
        let bytes = pvh_note(2 * MIB, 4);
        Part { kind: 4, vaddr: 0, paddr: 0, memsz: bytes.len() as u64, bytes }
    };
    let twice = elf(true, 0, &[text(2 * MIB, b"x"), text(2 * MIB + 4000, b"y"), note()]);
    assert_says(&refusal(load_kernel(&twice)), &["segment 1", "segment 0 of the kernel is at 0x200000", "link"]);
    let low = elf(true, 0, &[text(2 * MIB, b"x"), text(0, b"y"), note()]);
    assert_says(&refusal(load_kernel(&low)), &["interrupt vectors"]);
    let table = elf(true, 0, &[text(2 * MIB, b"x"), text(0xe_0000, b"y"), note()]);
    assert_says(&refusal(load_kernel(&table)), &["at 0xe0000", "no such room"]);
}

#[test]
fn bad_notes_are_named() {
    let with = |note: Vec<u8>| {
        let notes = Part { kind: 4, vaddr: 0, paddr: 0, memsz: 0, bytes: note };
        elf(true, 0, &[text(2 * MIB, b"a kernel by PVH"), notes])
    };
    let mut long = pvh_note(2 * MIB, 4);
    patch(&mut long, 4, &[0xff; 4]);
    assert_says(&refusal(load_kernel(&with(long))), &["n_descsz", "0xffffffff", "past the end"]);
    let mut wide = pvh_note((2 * MIB) | (1 << 40), 8);
    assert_says(&refusal(load_kernel(&with(wide.clone()))), &["XEN_ELFNOTE_PHYS32_ENTRY", "0x10000200000", "4 GiB"]);
    patch(&mut wide, 20 + 4, &[5]);
    assert_says(&refusal(load_kernel(&with(wide))), &["n_descsz", "4 or 8"]);
    assert_says(&refusal(load_kernel(&with(vec![0; 70000]))), &["PT_NOTE", "0x11170 bytes"]);
    assert_says(&refusal(load_kernel(&with(Vec::new()))), &["neither a PVH entry note nor a multiboot header"]);
}

#[test]
fn every_bad_field_of_a_multiboot_header_is_named() {
    let base = MIB as u32;
    let good = [base, base, base + 64, base + 0x2000, base + 32];
    let with = |flags, index: usize, value| {
        let mut fields = good;
        fields[index] = value;
        let mut file = multiboot_header(flags, fields);
        file.resize(128, 0);
        refusal(load_kernel(&file))
    };
    let raw = 1 << 16;
    assert_says(&with(raw | 4, 0, base), &["flags at offset 0x4 says 0x10004", "video mode"]);
    assert_says(&with(raw | 1 << 9, 0, base), &["flags", "requires"]);
    assert_says(&with(0, 0, base), &["flags", "no ELF file", "bit 16"]);
    assert_says(&with(raw, 0, base - 1), &["header_addr at offset 0xc says 0xfffff", "before the file"]);
    assert_says(&with(raw, 1, base - 8), &["header_addr", "0xffff8"]);
    assert_says(&with(raw, 2, base - 1), &["load_end_addr", "lower than load_addr 0x100000"]);
    assert_says(&with(raw, 2, u32::MAX), &["load_addr to load_end_addr", "download"]);
    assert_says(&with(raw, 3, base + 63), &["bss_end_addr", "0x100040"]);
    assert_says(&with(raw, 3, u32::MAX), &["the kernel needs", "more memory"]);
    assert_says(&with(raw, 4, base + 64), &["entry_addr at offset 0x1c says 0x100040", "0x100000..0x100040"]);

    let elf = elf(false, MIB + 10_000, &[text(MIB, &multiboot_header(0, [0; 5]))]);
    assert_says(&refusal(load_kernel(&elf)), &["entry point 0x102710", "none of the segments"]);
}

#[test]
fn other_files_are_recognised_as_what_they_are() {
    let mut arm = vec![0; 0x100];
    patch(&mut arm, 0x38, b"ARM\x64");
    let cases: &[(&[u8], &[&str])] = &[
        (b"", &["the file is empty", "vmlinuz"]),
        (b"\x1f\x8b\x08\0\0\0", &["gzip", "gunzip"]),
        (b"QFI\xfb\0\0\0\x03", &["qcow2", "as a disk"]),
        (b"070701000", &["cpio", "initrd"]),
        (&arm, &["arm64"]),
        (b"hello world", &["begins 68 65 6c 6c 6f 20 77 6f"]),
    ];
    for (bytes, parts) in cases {
        assert_says(&refusal(load_kernel(bytes)), parts);
    }
    assert_eq!(load_kernel(b"").err().unwrap().code(), "loader.format");
}

fn samples() -> [(&'static str, Vec<u8>); 5] {
    [
        ("bzImage", bzimage()),
        ("PVH 32", pvh(false)),
        ("PVH 64", pvh(true)),
        ("multiboot ELF", multiboot_elf()),
        ("multiboot raw", multiboot_raw()),
    ]
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let (machine, mut ram) = (machine(24 * MIB, 0), Ram::new(24 * MIB, 0));
    for (name, file) in samples() {
        // The first length at which everything that is loaded is there.
        let complete = match name {
            "bzImage" => 1024 + 2048,
            "multiboot raw" => 16 + 64,
            _ => file.len(),
        };
        for len in (0..file.len()).step_by(64).chain(complete.saturating_sub(40)..complete) {
            let kernel = crate::BytesSource::new("kernel image", &file[..len]);
            let request = crate::Request { kernel: &kernel, initrd: None, command_line: b"", machine: &machine };
            let result = crate::load(&request, &mut ram);
            assert_eq!(result.is_err(), len < complete, "{name} cut to {len} bytes");
        }
    }
}

/// A small generator of pseudo-random numbers (xorshift64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Numbers that lie at the edges of ranges.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 0x7fff_ffff_ffff_ffff, u64::MAX];

#[test]
fn damaged_files_neither_panic_nor_hang() {
    let mut random = Random(0x5eed_a701);
    let machine = machine(24 * MIB, 0);
    let mut ram = Ram::new(24 * MIB, 0);
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..6000 {
        let (name, mut file) = samples()[round % 5].clone();
        let seed = random.0;
        for _ in 0..1 + random.next() % 4 {
            // Where the headers are, most of the time.
            let reach = if random.next().is_multiple_of(4) { file.len() } else { file.len().min(0x268) };
            let at = random.next() as usize % reach;
            let value = EDGES[random.next() as usize % EDGES.len()].to_le_bytes();
            let width = [1, 2, 4, 8][random.next() as usize % 4].min(file.len() - at);
            match random.next() % 4 {
                0 => file[at] ^= 1 << (random.next() % 8),
                1 => file.truncate(at.max(1)),
                _ => file[at..at + width].copy_from_slice(&value[..width]),
            }
        }
        let kernel = crate::BytesSource::new("kernel image", &file);
        let request = crate::Request { kernel: &kernel, initrd: Some(&kernel), command_line: b"x", machine: &machine };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| crate::load(&request, &mut ram)));
        match outcome {
            Ok(Ok(_)) => loaded += 1,
            Ok(Err(error)) => {
                refused += 1;
                assert!(error.to_string().len() > 20 && !error.code().is_empty());
            }
            Err(_) => panic!("round {round} ({name}, seed {seed:#x}) panicked"),
        }
    }
    // Both outcomes must occur, or the damage is of the wrong kind.
    assert!(loaded > 300 && refused > 1500, "{loaded} loaded, {refused} refused");
}
