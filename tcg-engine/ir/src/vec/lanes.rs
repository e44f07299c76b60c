//! A 128-bit value as lanes and back, and the operations that move between lanes.
//!
//! Lanes are arrays in ascending order of significance; the conversions compile to nothing on little-endian hosts.

use core::array::from_fn;

/// Sixteen bytes.
#[must_use]
#[inline]
pub fn bytes(v: u128) -> [u8; 16] {
    v.to_le_bytes()
}

/// Eight 16-bit lanes.
#[must_use]
#[inline]
pub fn words(v: u128) -> [u16; 8] {
    let b = v.to_le_bytes();
    from_fn(|i| u16::from_le_bytes([b[2 * i], b[2 * i + 1]]))
}

/// Four 32-bit lanes.
#[must_use]
#[inline]
pub fn dwords(v: u128) -> [u32; 4] {
    let b = v.to_le_bytes();
    from_fn(|i| u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]))
}

/// Two 64-bit lanes.
#[must_use]
#[inline]
pub fn qwords(v: u128) -> [u64; 2] {
    [v as u64, (v >> 64) as u64]
}

/// Back from [`bytes`].
#[must_use]
#[inline]
pub fn from_bytes(lanes: [u8; 16]) -> u128 {
    u128::from_le_bytes(lanes)
}

/// Back from [`words`].
#[must_use]
#[inline]
pub fn from_words(lanes: [u16; 8]) -> u128 {
    let mut b = [0; 16];
    for (chunk, lane) in b.chunks_exact_mut(2).zip(lanes) {
        chunk.copy_from_slice(&lane.to_le_bytes());
    }
    u128::from_le_bytes(b)
}

/// Back from [`dwords`].
#[must_use]
#[inline]
pub fn from_dwords(lanes: [u32; 4]) -> u128 {
    let mut b = [0; 16];
    for (chunk, lane) in b.chunks_exact_mut(4).zip(lanes) {
        chunk.copy_from_slice(&lane.to_le_bytes());
    }
    u128::from_le_bytes(b)
}

/// Back from [`qwords`].
#[must_use]
#[inline]
pub fn from_qwords(lanes: [u64; 2]) -> u128 {
    u128::from(lanes[0]) | u128::from(lanes[1]) << 64
}

/// `f` on each pair of bytes.
#[inline]
pub fn zip8(a: u128, b: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(from_fn(|i| f(a[i], b[i])))
}

/// `f` on each pair of 16-bit lanes.
#[inline]
pub fn zip16(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|i| f(a[i], b[i])))
}

/// `f` on each pair of 32-bit lanes.
#[inline]
pub fn zip32(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|i| f(a[i], b[i])))
}

/// `f` on each pair of 64-bit lanes.
#[inline]
pub fn zip64(a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let (a, b) = (qwords(a), qwords(b));
    from_qwords(from_fn(|i| f(a[i], b[i])))
}

/// Bit `i` from lane `i`.
pub(super) fn mask<const N: usize>(lanes: [bool; N]) -> u128 {
    lanes.iter().rev().fold(0, |m, &set| m << 1 | u128::from(set))
}

pub(super) fn shl16(a: u128, count: u32) -> u128 {
    zip16(a, 0, |x, _| x.checked_shl(count).unwrap_or(0))
}

pub(super) fn shl32(a: u128, count: u32) -> u128 {
    zip32(a, 0, |x, _| x.checked_shl(count).unwrap_or(0))
}

pub(super) fn shl64(a: u128, count: u32) -> u128 {
    zip64(a, 0, |x, _| x.checked_shl(count).unwrap_or(0))
}

pub(super) fn shr16(a: u128, count: u32) -> u128 {
    zip16(a, 0, |x, _| x.checked_shr(count).unwrap_or(0))
}

pub(super) fn shr32(a: u128, count: u32) -> u128 {
    zip32(a, 0, |x, _| x.checked_shr(count).unwrap_or(0))
}

pub(super) fn shr64(a: u128, count: u32) -> u128 {
    zip64(a, 0, |x, _| x.checked_shr(count).unwrap_or(0))
}

/// `count` is at most 15.
pub(super) fn sar16(a: u128, count: u32) -> u128 {
    zip16(a, 0, |x, _| (x.cast_signed() >> (count & 15)).cast_unsigned())
}

/// `count` is at most 31.
pub(super) fn sar32(a: u128, count: u32) -> u128 {
    zip32(a, 0, |x, _| (x.cast_signed() >> (count & 31)).cast_unsigned())
}

pub(super) fn mul_add_s16(a: u128, b: u128) -> u128 {
    let (a, b) = (words(a), words(b));
    let product = |i: usize| i32::from(a[i].cast_signed()) * i32::from(b[i].cast_signed());
    // Only (-32768)² + (-32768)² wraps, to 0x8000_0000.
    from_dwords(from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1)).cast_unsigned()))
}

pub(super) fn mul_add_u8_s8(a: u128, b: u128) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i].cast_signed());
    from_words(from_fn(|i| (product(2 * i) + product(2 * i + 1)).clamp(-0x8000, 0x7fff) as u16))
}

/// Lanes of `a`, then of `b`, narrowed by `f`.
pub(super) fn pack16(a: u128, b: u128, f: impl Fn(i16) -> u8) -> u128 {
    let (a, b) = (words(a), words(b));
    from_bytes(from_fn(|i| f(if i < 8 { a[i] } else { b[i - 8] }.cast_signed())))
}

/// Lanes of `a`, then of `b`, narrowed by `f`.
pub(super) fn pack32(a: u128, b: u128, f: impl Fn(i32) -> u16) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_words(from_fn(|i| f(if i < 4 { a[i] } else { b[i - 4] }.cast_signed())))
}

/// Eight lanes of each, from lane `first` on, interleaved.
pub(super) fn unpack8(a: u128, b: u128, first: usize) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(from_fn(|i| if i & 1 == 0 { a[first + i / 2] } else { b[first + i / 2] }))
}

/// Four lanes of each, from lane `first` on, interleaved.
pub(super) fn unpack16(a: u128, b: u128, first: usize) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|i| if i & 1 == 0 { a[first + i / 2] } else { b[first + i / 2] }))
}

/// Two lanes of each, from lane `first` on, interleaved.
pub(super) fn unpack32(a: u128, b: u128, first: usize) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|i| if i & 1 == 0 { a[first + i / 2] } else { b[first + i / 2] }))
}

/// Index `i` of an immediate with two bits per index.
fn index2(imm: u64, i: usize) -> usize {
    (imm >> (2 * i) & 3) as usize
}

/// Two lanes of `a`, then two of `b`.
pub(super) fn shuffle32(a: u128, b: u128, imm: u64) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|i| if i < 2 { a[index2(imm, i)] } else { b[index2(imm, i)] }))
}

/// Four 16-bit lanes from lane `first` on.
pub(super) fn shuffle16(a: u128, imm: u64, first: usize) -> u128 {
    let a = words(a);
    from_words(from_fn(|i| if i & 4 == first { a[first + index2(imm, i & 3)] } else { a[i] }))
}

pub(super) fn shuffle8(a: u128, b: u128) -> u128 {
    let lanes = bytes(a);
    from_bytes(bytes(b).map(|index| if index & 0x80 != 0 { 0 } else { lanes[usize::from(index & 15)] }))
}

/// `count` bytes, at most 32.
pub(super) fn align_right(a: u128, b: u128, count: u32) -> u128 {
    match count {
        0 => b,
        1..=15 => a << (128 - count * 8) | b >> (count * 8),
        16..=31 => a >> ((count - 16) * 8),
        _ => 0,
    }
}

pub(super) fn sad8(a: u128, b: u128) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_qwords(from_fn(|half| (half * 8..half * 8 + 8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum()))
}

pub(super) fn multi_sad8(a: u128, b: u128, imm: u64) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    let (first_a, first_b) = ((imm >> 2 & 1) as usize * 4, (imm & 3) as usize * 4);
    from_words(from_fn(|i| (0..4).map(|k| u16::from(a[first_a + i + k].abs_diff(b[first_b + k]))).sum()))
}

/// `f` on neighbours of `a`, then of `b`.
pub(super) fn neighbours16(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|i| {
        let source = if i < 4 { &a } else { &b };
        f(source[2 * (i & 3)], source[2 * (i & 3) + 1])
    }))
}

/// `f` on neighbours of `a`, then of `b`.
pub(super) fn neighbours32(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(from_fn(|i| {
        let source = if i < 2 { &a } else { &b };
        f(source[2 * (i & 1)], source[2 * (i & 1) + 1])
    }))
}

pub(super) fn min_pos16(a: u128) -> u128 {
    // The first of equal minima wins: value above index, compared as one number.
    words(a)
        .iter()
        .zip(0_u32..)
        .map(|(&lane, index)| u32::from(lane) << 16 | index)
        .min()
        .map_or(0, |best| u128::from(best >> 16) | u128::from(best & 7) << 16)
}

pub(super) fn blend(a: u128, b: u128, imm: u64, bits: u32) -> u128 {
    let lane = u128::MAX >> (128 - bits);
    let from_b = (0..128 / bits).filter(|&i| imm >> i & 1 != 0).fold(0, |m, i| m | lane << (i * bits));
    a & !from_b | b & from_b
}

pub(super) fn insert(a: u128, b: u128, imm: u64, bits: u32) -> u128 {
    let lane = u128::MAX >> (128 - bits);
    let at = (imm as u32 & (128 / bits - 1)) * bits;
    a & !(lane << at) | (b & lane) << at
}

pub(super) fn insert_ps(a: u128, b: u128, imm: u64) -> u128 {
    let mut lanes = dwords(a);
    lanes[(imm >> 4 & 3) as usize] = dwords(b)[(imm >> 6 & 3) as usize];
    from_dwords(from_fn(|i| if imm >> i & 1 != 0 { 0 } else { lanes[i] }))
}
