//! The comparisons of AVX, with 32 predicates (Intel SDM volume 2A, CMPPD, table 3-1), in portable code: what SSE has of them
//! is the first eight.

use super::{FpOp, mxcsr};
use crate::soft::{self, F32, F64, Relation, Rules};

/// Relations for which a predicate holds.
mod holds {
    pub const LT: u8 = 1;
    pub const EQ: u8 = 2;
    pub const GT: u8 = 4;
    pub const UN: u8 = 8;
}

use holds::{EQ, GT, LT, UN};

/// The relations of predicates 0 to 15, and whether a quiet NaN is invalid; 16 to 31 have the same relations, and the other
/// answer about quiet NaNs.
static PREDICATES: [(u8, bool); 16] = [
    (EQ, false),
    (LT, true),
    (LT | EQ, true),
    (UN, false),
    (LT | GT | UN, false),
    (EQ | GT | UN, true),
    (GT | UN, true),
    (LT | EQ | GT, false),
    (EQ | UN, false),
    (LT | UN, true),
    (LT | EQ | UN, true),
    (0, false),
    (LT | GT, false),
    (EQ | GT, true),
    (GT, true),
    (LT | EQ | GT | UN, false),
];

/// `vcmp*`: all ones in the lanes where the predicate holds. Exceptions are all seen before computing, so that what is masked
/// makes no difference.
pub(super) fn run(op: FpOp, a: u128, b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    let (format, bits, lanes) = match op {
        FpOp::VcmpPs => (F32, 32, 4),
        FpOp::VcmpSs => (F32, 32, 1),
        FpOp::VcmpPd => (F64, 64, 2),
        _ => (F64, 64, 1),
    };
    let (relations, signalling) = PREDICATES[usize::from(imm & 15)];
    let signalling = signalling != (imm & 16 != 0);
    let lane = u128::MAX >> (128 - bits);
    let (mut value, mut flags) = (a, 0);
    for at in (0..lanes).map(|n| n * bits) {
        let (x, y) = ((a >> at & lane) as u64, (b >> at & lane) as u64);
        let (relation, raised) = soft::compare(format, x, y, signalling, Rules::x86(mxcsr));
        flags |= raised;
        let bit = match relation {
            Relation::Less => LT,
            Relation::Equal => EQ,
            Relation::Greater => GT,
            Relation::Unordered => UN,
        };
        value = value & !(lane << at) | if relations & bit != 0 { lane << at } else { 0 };
    }
    (value, flags & mxcsr::FLAGS)
}
