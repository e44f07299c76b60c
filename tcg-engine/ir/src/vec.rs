//! Semantics of the 128-bit integer vector operations.

/// `op(a, b, imm)`.
pub fn eval(op: u8, a: u128, b: u128, _imm: u64) -> u128 {
    match op {
        0 => a & b,
        1 => a | b,
        2 => a ^ b,
        _ => !a & b,
    }
}
