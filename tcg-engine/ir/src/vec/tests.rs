//! Cases that pin each group down by hand; every operation against the host's instruction is in `fp/tests`.

use super::*;

#[test]
fn numbers_round_trip() {
    for (n, &op) in VecOp::ALL.iter().enumerate() {
        assert_eq!(op as usize, n);
        assert_eq!(VecOp::from_u8(n as u8), Some(op));
    }
    assert_eq!(VecOp::from_u8(VecOp::ALL.len() as u8), None);
}

#[test]
fn shift_counts_beyond_the_width() {
    let a = 0x8000_0001_8000_0001_8000_0001_8000_0001;
    assert_eq!(eval(VecOp::Shl16, a, 16, 0), 0);
    assert_eq!(eval(VecOp::Shr32, a, 1 << 32, 0), 0);
    // Only the low 64 bits of the count operand count.
    assert_eq!(eval(VecOp::Shr64, a, 1 << 64, 0), a);
    assert_eq!(eval(VecOp::Sar32, a, u128::from(u64::MAX), 0), u128::MAX);
    assert_eq!(eval(VecOp::ShlBytes, a, 0, 16), 0);
    assert_eq!(eval(VecOp::ShrBytes, a, 0, 255), 0);
    assert_eq!(eval(VecOp::AlignRight, a, 5, 16), a);
    assert_eq!(eval(VecOp::AlignRight, a, 5, 32), 0);
}

#[test]
fn string_index_of_a_terminator() {
    // Equal each, masked negative polarity: the idiom of a string compare.
    let outcome =
        string::implicit(u128::from_le_bytes(*b"abcd\0xxxxxxxxxxx"), u128::from_le_bytes(*b"abce\0yyyyyyyyyyy"), 0x18);
    assert_eq!(outcome.index, 3);
    assert_eq!(outcome.flags, 0x01 | 0x40 | 0x80);
    let outcome = string::explicit(0, 0, -3, 400, 0);
    assert_eq!((outcome.index, outcome.flags), (0, 0x01 | 0x80 | 0x800));
}

#[test]
fn first_minimum_wins() {
    assert_eq!(eval(VecOp::MinPosU16, 0x0009_0003_0003_0009_0009_0009_0009_0009, 0, 0), 5 << 16 | 3);
}
