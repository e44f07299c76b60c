//! The ELF program that `qemu-user` is given: one code segment and one data segment, nothing that ever runs by itself.

use crate::{CODE, CODE_LEN, DATA, DATA_LEN};

/// A static 64-bit ELF executable for machine `machine` (`e_machine`), big-endian if `big`, with
/// `code` at the start of its code segment.
pub fn elf(machine: u16, big: bool, code: &[u8]) -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, if big { 2 } else { 1 }, 1];
    out.resize(16, 0);
    let mut put = |bytes: u32, v: u64| {
        let le = v.to_le_bytes();
        let le = &le[..bytes as usize];
        if big { out.extend(le.iter().rev()) } else { out.extend(le) }
    };
    for (n, v) in [
        (2, 2),
        (2, u64::from(machine)),
        (4, 1),
        (8, CODE),
        (8, 64),
        (8, 0),
        (4, 0),
        (2, 64),
        (2, 56),
        (2, 2),
        (2, 0),
        (2, 0),
        (2, 0),
    ] {
        put(n, v);
    }
    for (at, len, flags) in [(CODE, CODE_LEN, 5), (DATA, DATA_LEN, 6)] {
        let offset = if at == CODE { 0x1000 } else { 0x1000 + CODE_LEN };
        for (n, v) in [(4, 1), (4, flags), (8, offset), (8, at), (8, at), (8, len), (8, len), (8, 0x1000)] {
            put(n, v);
        }
    }
    out.resize(0x1000, 0);
    out.extend(code);
    out.resize((0x1000 + CODE_LEN + DATA_LEN) as usize, 0);
    out
}
