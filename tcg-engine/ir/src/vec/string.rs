//! The SSE4.2 string comparisons (Intel SDM volume 2, "Imm8 control byte operation for PCMPESTRI/…").
//!
//! All four instructions are one computation: compare every element of `b` against every element of `a`, aggregate, apply a
//! polarity, and give the result both as index and as mask. They differ in how long the strings are and what is kept.

use super::lanes::{bytes, words};

/// What a string comparison yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The index form (`pcmp?stri`): first or last set element, or the number of elements.
    pub index: u32,
    /// The mask form (`pcmp?strm`), bit or element mask as the immediate asks.
    pub mask: u128,
    /// CF, ZF, SF and OF at their places in EFLAGS; AF and PF are cleared.
    pub flags: u32,
}

/// Elements of both operands, widened so that signedness is in the value.
struct Elements {
    a: [i32; 16],
    b: [i32; 16],
    /// How many elements an operand has: 16 or 8.
    count: usize,
}

impl Elements {
    fn new(a: u128, b: u128, imm: u8) -> Self {
        let signed = imm & 2 != 0;
        let byte = |v: u8| if signed { i32::from(v.cast_signed()) } else { i32::from(v) };
        let word = |v: u16| if signed { i32::from(v.cast_signed()) } else { i32::from(v) };
        let widen = |v: u128| {
            if imm & 1 == 0 {
                bytes(v).map(byte)
            } else {
                let lanes = words(v);
                core::array::from_fn(|i| lanes.get(i).map_or(0, |&lane| word(lane)))
            }
        };
        Self { a: widen(a), b: widen(b), count: if imm & 1 == 0 { 16 } else { 8 } }
    }
}

/// Strings that end at their first zero element (`pcmpistri`, `pcmpistrm`).
#[must_use]
pub fn implicit(a: u128, b: u128, imm: u8) -> Outcome {
    let elements = Elements::new(a, b, imm);
    let length = |lanes: &[i32; 16]| lanes[..elements.count].iter().position(|&e| e == 0).unwrap_or(elements.count);
    let (length_a, length_b) = (length(&elements.a), length(&elements.b));
    compare(&elements, length_a, length_b, imm)
}

/// Strings of given lengths (`pcmpestri`, `pcmpestrm`): the absolute values of `length_a` (from EAX or RAX) and `length_b`
/// (EDX or RDX), saturated.
#[must_use]
pub fn explicit(a: u128, b: u128, length_a: i64, length_b: i64, imm: u8) -> Outcome {
    let elements = Elements::new(a, b, imm);
    let saturate = |length: i64| length.unsigned_abs().min(elements.count as u64) as usize;
    compare(&elements, saturate(length_a), saturate(length_b), imm)
}

fn compare(elements: &Elements, length_a: usize, length_b: usize, imm: u8) -> Outcome {
    let count = elements.count;
    let all = (1_u32 << count) - 1;
    let raw = (0..count).filter(|&j| aggregate(elements, length_a, length_b, imm, j)).fold(0_u32, |m, j| m | 1 << j);
    let valid = (1_u32 << length_b) - 1;
    let result = match imm >> 4 & 3 {
        1 => raw ^ all,
        3 => raw ^ valid,
        _ => raw,
    };
    let index = match (result, imm & 0x40 != 0) {
        (0, _) => count as u32,
        (_, false) => result.trailing_zeros(),
        (_, true) => 31 - result.leading_zeros(),
    };
    let mask = if imm & 0x40 == 0 {
        u128::from(result)
    } else {
        let bits = 128 / count;
        (0..count).filter(|&j| result >> j & 1 != 0).fold(0, |m, j| m | (u128::MAX >> (128 - bits)) << (j * bits))
    };
    let flags = u32::from(result != 0)
        | u32::from(length_b < count) << 6
        | u32::from(length_a < count) << 7
        | (result & 1) << 11;
    Outcome { index, mask, flags }
}

/// Bit `j` of the intermediate result: elements past the end of a string compare as the aggregation prescribes.
fn aggregate(elements: &Elements, length_a: usize, length_b: usize, imm: u8, j: usize) -> bool {
    let Elements { a, b, count } = elements;
    let valid_b = j < length_b;
    match imm >> 2 & 3 {
        // Equal any: b[j] is one of a.
        0 => valid_b && a[..length_a].contains(&b[j]),
        // Ranges: b[j] is within one of the pairs of a.
        1 => valid_b && a[..length_a & !1].chunks_exact(2).any(|range| range[0] <= b[j] && b[j] <= range[1]),
        // Equal each: equal, or both past the end.
        2 => match (j < length_a, valid_b) {
            (true, true) => a[j] == b[j],
            (inside_a, inside_b) => inside_a == inside_b,
        },
        // Equal ordered: a is found in b at j, as far as b's register reaches.
        _ => (0..length_a.min(count - j)).all(|i| j + i < length_b && a[i] == b[j + i]),
    }
}
