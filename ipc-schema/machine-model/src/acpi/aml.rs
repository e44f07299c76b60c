//! A small emitter of AML, the byte code of the DSDT (ACPI specification 6.5, chapter 20 "ACPI Machine Language").
//!
//! The one idea: every term is a byte vector, and composing terms is concatenation, so each function below is one
//! production of the grammar and nothing needs to be patched afterwards.

/// A name segment: four characters of A–Z, 0–9 and underscore, not starting with a digit (20.2.2). Shorter names are
/// padded with underscores; names come from this crate only.
fn segment(name: &str, out: &mut Vec<u8>) {
    let mut bytes = [b'_'; 4];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    out.extend_from_slice(&bytes);
}

/// A name string: an optional `\`, then segments separated by dots (20.2.2).
pub fn path(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let relative = match name.strip_prefix('\\') {
        Some(rest) => {
            out.push(b'\\');
            rest
        }
        None => name,
    };
    let segments: Vec<&str> = relative.split('.').filter(|part| !part.is_empty()).collect();
    match segments.len() {
        0 => out.push(0x00),
        1 => {}
        2 => out.push(0x2E),
        count => {
            out.push(0x2F);
            // A name of more than 255 segments cannot be written down; none here has more than four.
            out.push(u8::try_from(count).unwrap_or(u8::MAX));
        }
    }
    for part in segments {
        segment(part, &mut out);
    }
    out
}

/// A package length (20.2.4). It counts itself. Bodies over 2²⁸ bytes cannot be expressed; the DSDT is bounded by its
/// area of some ten KiB.
fn with_length(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 4);
    let one = body.len() + 1;
    if one < 1 << 6 {
        out.push(one as u8);
    } else {
        let extra = match body.len() {
            0..0xFFE => 1,
            0xFFE..0xF_FFFD => 2,
            _ => 3,
        };
        let total = body.len() + 1 + extra;
        out.push((extra as u8) << 6 | (total & 0xF) as u8);
        for index in 0..extra {
            out.push((total >> (4 + 8 * index)) as u8);
        }
    }
    out.extend_from_slice(body);
    out
}

/// An integer in its shortest form (20.2.3).
pub fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    let (prefix, len) = match value {
        0 => return vec![0x00],
        1 => return vec![0x01],
        2..=0xFF => (0x0A, 1),
        0x100..=0xFFFF => (0x0B, 2),
        0x1_0000..=0xFFFF_FFFF => (0x0C, 4),
        _ => (0x0E, 8),
    };
    let mut out = vec![prefix];
    out.extend(bytes.iter().take(len));
    out
}

/// An ASCII string (20.2.3).
pub fn string(text: &str) -> Vec<u8> {
    let mut out = vec![0x0D];
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

/// A compressed EISA identity such as `PNP0501`: three letters and four hexadecimal digits (ACPI 19.6.37 "EISAID").
pub fn eisa_id(id: &str) -> Vec<u8> {
    let letters = id.bytes().take(3).fold(0u32, |sum, letter| sum << 5 | u32::from(letter.wrapping_sub(0x40) & 0x1F));
    let digits = id.chars().skip(3).take(4).fold(0u32, |sum, digit| sum << 4 | digit.to_digit(16).unwrap_or(0));
    let mut out = vec![0x0C];
    out.extend_from_slice(&(letters << 16 | digits).to_be_bytes());
    out
}

/// `Buffer () { bytes }` (20.2.5.4).
pub fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut body = integer(bytes.len() as u64);
    body.extend_from_slice(bytes);
    let mut out = vec![0x11];
    out.extend(with_length(&body));
    out
}

/// `Package () { elements }` (20.2.5.4), of at most 255 elements.
pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![u8::try_from(elements.len()).unwrap_or(u8::MAX)];
    body.extend(elements.iter().take(255).flatten());
    let mut out = vec![0x12];
    out.extend(with_length(&body));
    out
}

/// `Name (name, value)` (20.2.5.1).
pub fn name(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x08];
    out.extend(path(name));
    out.extend_from_slice(value);
    out
}

/// `Scope (name) { terms }` (20.2.5.1).
pub fn scope(name: &str, terms: &[Vec<u8>]) -> Vec<u8> {
    block(&[0x10], name, terms)
}

/// `Device (name) { terms }` (20.2.5.2).
pub fn device(name: &str, terms: &[Vec<u8>]) -> Vec<u8> {
    block(&[0x5B, 0x82], name, terms)
}

fn block(opcode: &[u8], name: &str, terms: &[Vec<u8>]) -> Vec<u8> {
    let mut body = path(name);
    body.extend(terms.iter().flatten());
    let mut out = opcode.to_vec();
    out.extend(with_length(&body));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_their_shortest_form() {
        assert_eq!(integer(0), [0]);
        assert_eq!(integer(1), [1]);
        assert_eq!(integer(0xFF), [0x0A, 0xFF]);
        assert_eq!(integer(0x1234), [0x0B, 0x34, 0x12]);
        assert_eq!(integer(0x1F_FFFF), [0x0C, 0xFF, 0xFF, 0x1F, 0]);
        assert_eq!(integer(1 << 40), [0x0E, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn the_eisa_identity_of_a_16550_is_the_known_one() {
        // Every DSDT with a PNP0501 has these bytes.
        assert_eq!(eisa_id("PNP0501"), [0x0C, 0x41, 0xD0, 0x05, 0x01]);
        assert_eq!(eisa_id("PNP0A08"), [0x0C, 0x41, 0xD0, 0x0A, 0x08]);
    }

    #[test]
    fn paths_use_the_prefix_for_their_length() {
        assert_eq!(path("_SB"), b"_SB_");
        assert_eq!(path("\\_S5"), b"\\_S5_");
        assert_eq!(path("\\_SB.PCI0"), b"\\\x2E_SB_PCI0");
        assert_eq!(path("A.B.C"), b"\x2F\x03A___B___C___");
    }

    #[test]
    fn package_lengths_count_themselves_at_every_size() {
        for len in [0, 1, 62, 63, 64, 0xFFD, 0xFFE, 0xFFF, 0x1000, 0xF_FFFC, 0xF_FFFD, 0xF_FFFE] {
            let encoded = with_length(&vec![0xAA; len]);
            let extra = usize::from(encoded[0] >> 6);
            let total = if extra == 0 {
                usize::from(encoded[0] & 0x3F)
            } else {
                (0..extra)
                    .fold(usize::from(encoded[0] & 0xF), |sum, i| sum | usize::from(encoded[1 + i]) << (4 + 8 * i))
            };
            assert_eq!(total, encoded.len(), "body of {len}");
            assert_eq!(encoded.len(), len + 1 + extra);
        }
    }

    #[test]
    fn a_package_holds_its_elements_in_order() {
        assert_eq!(package(&[integer(1), integer(7)]), [0x12, 0x05, 0x02, 0x01, 0x0A, 0x07]);
    }
}
