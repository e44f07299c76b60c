//! Sleep and waking (ACPI S3): where the guest wants to wake, and the address that this becomes.
//!
//! The idea: what the FACS says is the guest's, so each of its fields is looked at before the next one, and the first wrong one is
//! named. Source: ACPI 6.5, 5.2.10 "Firmware ACPI Control Structure" and 16.3 "Waking up".

use mem::{Memory, Place};

/// Bytes of the FACS.
const LENGTH: u32 = 64;
/// Offsets of its fields.
mod at {
    pub const LENGTH: u64 = 4;
    pub const WAKING_VECTOR: u64 = 12;
    pub const X_WAKING_VECTOR: u64 = 24;
}
/// Where real mode ends.
const REAL_MODE: u32 = 1 << 20;

/// The waking vector that the FACS at `facs` holds: an address below 1 MiB in RAM. Reading it may wait for pages that come on
/// demand.
///
/// # Errors
/// What is wrong, by field.
pub fn waking_vector(memory: &Memory, facs: u64) -> Result<u32, String> {
    // Aligned to its length, so that it is in one page.
    if !facs.is_multiple_of(u64::from(LENGTH)) || facs == 0 {
        return Err(format!("the FACS cannot be at {facs:#x}: it is aligned to {LENGTH} bytes"));
    }
    let Place::Ram(offset) = memory.place(facs) else {
        return Err(format!("the FACS cannot be at {facs:#x}: that is not RAM"));
    };
    let mut facs = [0; LENGTH as usize];
    memory.ram.read(offset, &mut facs).ok_or("the FACS lies outside of RAM")?;
    let word = |at: u64| facs.get(at as usize..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    if facs[..4] != *b"FACS" {
        return Err("the FACS has lost its signature".to_owned());
    }
    if word(at::LENGTH) < LENGTH {
        return Err(format!("the FACS says that it has {} bytes, fewer than {LENGTH}", word(at::LENGTH)));
    }
    let vector = word(at::WAKING_VECTOR);
    let wide = u64::from(word(at::X_WAKING_VECTOR)) | u64::from(word(at::X_WAKING_VECTOR + 4)) << 32;
    match vector {
        0 if wide != 0 => Err(format!(
            "the guest asks to be woken in protected mode (X_Firmware_Waking_Vector is {wide:#x}), which is not supported"
        )),
        0 => Err("the firmware waking vector of the FACS is zero".to_owned()),
        _ if vector >= REAL_MODE => {
            Err(format!("the firmware waking vector {vector:#x} is above 1 MiB, which real mode does not reach"))
        }
        _ if memory.place(vector.into()) == Place::Outside => {
            Err(format!("the firmware waking vector {vector:#x} is not in RAM"))
        }
        _ => Ok(vector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::memory;

    const FACS: u64 = 0x7_ff40;

    /// RAM with a FACS in which `change` was made.
    fn woken(change: impl FnOnce(&mut [u8; 64])) -> Result<u32, String> {
        let memory = memory();
        let mut facs = [0; 64];
        facs[..4].copy_from_slice(b"FACS");
        facs[4] = 64;
        facs[12..16].copy_from_slice(&0x9_a123u32.to_le_bytes());
        change(&mut facs);
        memory.ram.write(FACS, &facs).unwrap();
        waking_vector(&memory, FACS)
    }

    #[test]
    fn the_vector_is_found_or_what_is_wrong_is_said() {
        assert_eq!(woken(|_| ()), Ok(0x9_a123));
        let wrong = |change: &dyn Fn(&mut [u8; 64]), what: &str| {
            let e = woken(|f| change(f)).unwrap_err();
            assert!(e.contains(what), "{e}");
        };
        wrong(&|f| f[0] = b'X', "signature");
        wrong(&|f| f[4] = 63, "63 bytes");
        wrong(&|f| f[12..16].fill(0), "zero");
        wrong(
            &|f| {
                f[12..16].fill(0);
                f[29] = 1;
            },
            "0x10000000000",
        );
        wrong(&|f| f[15] = 1, "above 1 MiB");
        for (facs, what) in [(0, "aligned"), (8, "aligned"), (1 << 40, "not RAM"), (!63, "not RAM")] {
            let e = waking_vector(&memory(), facs).unwrap_err();
            assert!(e.contains(what), "{e}");
        }
        // Zeros: the page of a guest that never slept.
        assert!(waking_vector(&memory(), FACS).unwrap_err().contains("signature"));
    }
}
