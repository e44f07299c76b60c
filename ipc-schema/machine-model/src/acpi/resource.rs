//! Resource templates: the buffers that `_CRS` returns (ACPI specification 6.5, section 6.4 "Resource Data Types").

use super::aml;
use crate::memory::Span;
use crate::ports::PortSpan;

/// General flags of an address space descriptor: minimum and maximum fixed, positive decode, produced for children.
const PRODUCED_FIXED: u8 = 0x0C;
/// Type flags of a memory range: read-write, not cacheable.
const MEMORY_RW: u8 = 0x01;
/// Type flags of an I/O range: the whole range, not only ISA aliases.
const IO_ENTIRE: u8 = 0x03;

/// Closes a list of descriptors with an end tag and makes it the buffer of a `_CRS`.
pub fn template(descriptors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = descriptors.concat();
    // A checksum of zero means "not checked" (6.4.2.9).
    bytes.extend_from_slice(&[0x79, 0x00]);
    aml::buffer(&bytes)
}

/// Ports that the device itself uses, at a fixed place (6.4.2.5, I/O port descriptor). The length byte bounds it to 255
/// ports.
pub fn ports(span: PortSpan) -> Vec<u8> {
    let [low, high] = span.start.to_le_bytes();
    let len = u8::try_from(span.len).unwrap_or(u8::MAX);
    // 16-bit decode; minimum and maximum are the same.
    vec![0x47, 0x01, low, high, low, high, 0x01, len]
}

/// An ISA interrupt: edge triggered, active high, exclusive (6.4.2.1, without its optional flags byte).
pub fn irq(line: u8) -> Vec<u8> {
    let [low, high] = (1u16 << (line & 15)).to_le_bytes();
    vec![0x22, low, high]
}

/// 32-bit memory at a fixed place, read-write (6.4.3.4).
pub fn memory32_fixed(span: Span) -> Vec<u8> {
    let mut out = vec![0x86, 9, 0, 0x01];
    out.extend_from_slice(&(span.start as u32).to_le_bytes());
    out.extend_from_slice(&(span.len as u32).to_le_bytes());
    out
}

/// Bus numbers 0 to `count` − 1 below a host bridge (6.4.3.5.3, word address space of type 2).
pub fn bus_numbers(count: u8) -> Vec<u8> {
    address_space::<2>(0x88, 2, 0, 0, u64::from(count))
}

/// Ports that a host bridge passes on to its children (6.4.3.5.3, word address space of type 1); `end` is exclusive and
/// at most 0x1_0000.
pub fn port_window(start: u16, end: u32) -> Vec<u8> {
    address_space::<2>(0x88, 1, IO_ENTIRE, u64::from(start), u64::from(end))
}

/// Memory below 4 GiB that a host bridge passes on (6.4.3.5.2, double word address space of type 0).
pub fn memory_window32(span: Span) -> Vec<u8> {
    address_space::<4>(0x87, 0, MEMORY_RW, span.start, span.end())
}

/// Memory that a host bridge passes on (6.4.3.5.1, quad word address space of type 0).
pub fn memory_window64(span: Span) -> Vec<u8> {
    address_space::<8>(0x8A, 0, MEMORY_RW, span.start, span.end())
}

/// The common form of the three: granularity, minimum, maximum, translation, length, each of `WIDTH` bytes.
fn address_space<const WIDTH: usize>(tag: u8, kind: u8, type_flags: u8, start: u64, end: u64) -> Vec<u8> {
    let mut out = vec![tag, 3 + 5 * WIDTH as u8, 0, kind, PRODUCED_FIXED, type_flags];
    for value in [0, start, end.saturating_sub(1), 0, end.saturating_sub(start)] {
        out.extend(value.to_le_bytes().into_iter().take(WIDTH));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_lengths_of_the_specification() {
        assert_eq!(bus_numbers(8).len(), 16);
        assert_eq!(bus_numbers(8)[1], 13);
        assert_eq!(memory_window32(Span::to(0xC000_0000, 0xE000_0000)).len(), 26);
        assert_eq!(memory_window64(Span::to(1 << 39, 1 << 40))[1], 43);
        assert_eq!(ports(PortSpan::new(0x3F8, 8)), [0x47, 1, 0xF8, 3, 0xF8, 3, 1, 8]);
        assert_eq!(irq(4), [0x22, 0x10, 0]);
        assert_eq!(memory32_fixed(Span::to(0xE000_0000, 0xE080_0000)).len(), 12);
    }

    #[test]
    fn a_window_says_its_first_and_last_address_and_length() {
        let window = memory_window32(Span::to(0xC000_0000, 0xE000_0000));
        assert_eq!(window[10..14], 0xC000_0000u32.to_le_bytes());
        assert_eq!(window[14..18], 0xDFFF_FFFFu32.to_le_bytes());
        assert_eq!(window[22..26], 0x2000_0000u32.to_le_bytes());
    }
}
