//! Bare-metal payloads: multiboot kernels of a few kilobytes that start at once and say in one number what is wrong.
//!
//! The idea: what a test wants to know about the machine (is every register as it was, did an interrupt get lost, has the
//! machine really been reset) is asked by a program inside it, which ends the VM through the debug exit port. The sources
//! are `src/bare/*.S`; each begins with what the payload does and how one talks with it.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A payload.
#[derive(Debug)]
pub struct Payload {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// The kernel: an ELF file with a multiboot header.
    pub image: &'static [u8],
}

macro_rules! payload {
    ($name:literal) => {
        Payload { name: $name, image: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".elf")) }
    };
}

/// Prints a byte each millisecond of guest time, for ever: n modulo [`BEAT_MODULUS`].
pub static BEAT: Payload = payload!("beat");
/// Prints `>`, echoes the number of bytes that its command line ends with, by interrupts alone, then prints [`checksum`] of
/// them as eight hexadecimal digits and ends the VM with [`PASS`].
pub static ECHO: Payload = payload!("echo");
/// Prints `P`, waits for an `x`, prints `R` and [`PENDING_FILLER`] bytes (n & 0xff), checks that no register and no pending
/// interrupt of the serial port was lost, and ends the VM with [`PASS`].
pub static PENDING: Payload = payload!("pending");
/// Checks that the machine is as after power-on, prints `R`, and waits for a byte: one of [`RESETS`] resets the machine,
/// `p` powers it off, `q` ends the VM with [`PASS`].
pub static RESET: Payload = payload!("reset");
/// Prints `S` and waits for bytes: `s` sleeps (ACPI S3), `a` sleeps until the clock's alarm a second later, `n` sleeps without
/// a waking vector, `.` prints `.`, `b` prints `B` and powers off at the power button, `q` ends the VM with [`PASS`]. Woken, it
/// prints `W` and waits again.
pub static SLEEP: Payload = payload!("sleep");

/// Writes to memory for ever; no kernel, but bytes for the address [`DIRTY_AT`], to be started there in real mode. It needs 5 MiB.
pub static DIRTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dirty.bin"));
/// Where [`DIRTY`] belongs.
pub const DIRTY_AT: u64 = 0x1000;
/// Where [`DIRTY`] keeps its count.
pub const DIRTY_COUNTER: u64 = 0x500;
/// A word that a test may set: a port from which [`DIRTY`] reads now and then.
pub const DIRTY_PORT: u64 = 0x504;

/// The same in user mode on one or two vCPUs, each of which goes from page to page all the time; belongs at [`DIRTY_AT`] too.
pub static RESTLESS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/restless.bin"));
/// Where [`RESTLESS`] keeps the counts of its vCPUs.
pub const RESTLESS_COUNTERS: [u64; 2] = [0x500, 0x504];
/// Calls [`REWRITTEN_FUNCTION`] for ever; started as [`DIRTY`] is.
pub static REWRITTEN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rewritten.bin"));
/// A word: the function that [`REWRITTEN`] calls returns this number, or a larger one.
pub const REWRITTEN_SAID: u64 = 0x500;
/// A word that a test may set: a port from which [`REWRITTEN`] reads before each call.
pub const REWRITTEN_PORT: u64 = 0x504;
/// Where [`REWRITTEN`] counts its calls.
pub const REWRITTEN_CALLS: u64 = 0x508;
/// Where it counts those that returned a smaller number than was said before.
pub const REWRITTEN_WRONG: u64 = 0x50c;
/// Where a test puts `mov eax, number; ret`.
pub const REWRITTEN_FUNCTION: u64 = 0x20_0000;

/// What a payload writes to the debug exit port when all was right; other values are in `src/bare/common.inc`.
pub const PASS: u32 = 0x10;
/// [`BEAT`] counts modulo this: a prime, so that what is lost or doubled in pages shows.
pub const BEAT_MODULUS: u8 = 251;
/// Bytes that [`PENDING`] prints: more than serial port, sockets and relay hold together.
pub const PENDING_FILLER: usize = 1 << 20;
/// The ways in which [`RESET`] resets: port 0xCF9, keyboard controller, fast reset, triple fault.
pub const RESETS: [u8; 4] = *b"ckft";

impl Payload {
    /// Writes the kernel into `folder` and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let path = folder.join(format!("{}.elf", self.name));
        fs::write(&path, self.image)?;
        Ok(path)
    }
}

/// FNV-1a with 32 bits, as [`ECHO`] computes it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_is_a_multiboot_kernel() {
        for payload in [&BEAT, &ECHO, &PENDING, &RESET, &SLEEP] {
            assert_eq!(&payload.image[..5], b"\x7fELF\x01", "{}", payload.name);
            let words: Vec<u32> = payload.image[..8192.min(payload.image.len())]
                .as_chunks::<4>()
                .0
                .iter()
                .map(|w| u32::from_le_bytes(*w))
                .collect();
            let header =
                words.windows(3).any(|w| w[0] == 0x1bad_b002 && w[0].wrapping_add(w[1]).wrapping_add(w[2]) == 0);
            assert!(header, "{}", payload.name);
        }
    }

    #[test]
    fn the_sources_agree_with_the_constants() {
        let common = include_str!("bare/common.inc");
        assert!(common.contains(&format!(".equ EXIT_PASS, {PASS:#x}\n")));
        assert!(include_str!("bare/beat.S").contains(&format!("cmp ebx, {BEAT_MODULUS}\n")));
        assert!(include_str!("bare/pending.S").contains(&format!(".equ FILLER, {PENDING_FILLER:#x}\n")));
        let dirty = include_str!("bare/dirty.S");
        for (name, value) in [("COUNTER", DIRTY_COUNTER), ("PORT", DIRTY_PORT)] {
            assert!(dirty.contains(&format!(".equ {name}, {value:#x} ")), "{name}");
        }
        let restless = include_str!("bare/restless.S");
        assert!(restless.contains(&format!(".equ COUNTERS, {:#x} ", RESTLESS_COUNTERS[0])));
        let rewritten = include_str!("bare/rewritten.S");
        for (name, value) in [
            ("SAID", REWRITTEN_SAID),
            ("PORT", REWRITTEN_PORT),
            ("CALLS", REWRITTEN_CALLS),
            ("WRONG", REWRITTEN_WRONG),
            ("FUNCTION", REWRITTEN_FUNCTION),
        ] {
            assert!(rewritten.contains(&format!(".equ {name}, {value:#x} ")), "{name}");
        }
        assert!(
            [DIRTY, RESTLESS, REWRITTEN].iter().all(|code| code.len() < 0x1000),
            "they would reach the FACS of tests"
        );
        for way in RESETS {
            assert!(include_str!("bare/reset.S").contains(&format!("cmp al, '{}'", char::from(way))));
        }
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!((checksum(b""), checksum(b"a"), checksum(b"foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    }
}
