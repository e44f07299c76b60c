//! What changes when the guest has SSE exceptions unmasked: which flags are raised when one of them traps.
//!
//! The host must not trap, so it always computes with everything masked, and the differences are worked out from there.
//! They are (Intel SDM volume 1, 11.5.2 and 11.5.3; volume 3, 7.1 for the order):
//!
//! * An unmasked exception that is seen before computing (invalid, denormal, divide by zero, in any lane) hides those that
//!   only a computation could show: overflow, underflow and precision are then not raised.
//! * Unmasked underflow means tininess alone, exact or not, and disables flushing to zero.
//! * A lane that traps on overflow or underflow raises precision only when rounding to an unbounded exponent is inexact.
//! * `dpps` and `dppd` trap between their steps (multiply, add), so later steps raise nothing.

use super::{FpOp, exec, mxcsr, traps};
use crate::x87::{self, BinaryOp, Operand};

/// Exceptions that are detected on the operands, before anything is computed.
pub(super) const PRE: u32 = mxcsr::IE | mxcsr::DE | mxcsr::ZE;

/// As [`super::eval`] for a guest with at least one exception unmasked.
pub(super) fn run(op: FpOp, a: u128, b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    match op {
        FpOp::DpPs => dot_product(a, b, imm, mxcsr, FpOp::MulPs, FpOp::HaddPs),
        FpOp::DpPd => dot_product(a, b, imm, mxcsr, FpOp::MulPd, FpOp::HaddPd),
        _ => step(op, a, b, imm, mxcsr),
    }
}

/// The products, then the sums of neighbours until one is left; the first step that traps is the last one executed.
fn dot_product(a: u128, b: u128, imm: u8, mxcsr: u32, multiply: FpOp, add: FpOp) -> (u128, u32) {
    let (op, adds) = if add == FpOp::HaddPs { (FpOp::DpPs, 2) } else { (FpOp::DpPd, 1) };
    let chosen = exec::dp_lanes(op, imm >> 4);
    let (mut sum, mut flags) = step(multiply, a & chosen, b & chosen, 0, mxcsr);
    for _ in 0..adds {
        if traps(flags, mxcsr) {
            return (sum, flags);
        }
        let (next, raised) = step(add, sum, sum, 0, mxcsr);
        sum = next;
        flags |= raised;
    }
    // The instruction itself decides which of two NaNs survives.
    (exec::run(op, a, b, imm, mxcsr).0, flags)
}

/// One operation that detects all its exceptions at once.
fn step(op: FpOp, a: u128, b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    let underflow_traps = traps(mxcsr::UE, mxcsr);
    let control = if underflow_traps { mxcsr & !mxcsr::FTZ } else { mxcsr };
    let (value, mut flags) = exec::run(op, a, b, imm, control);
    if traps(flags & PRE, mxcsr) {
        return (value, flags & PRE);
    }
    let Some(lanes) = Lanes::of(op) else { return (value, flags) };
    if underflow_traps && lanes.any_tiny(value) {
        flags |= mxcsr::UE;
    }
    if flags & mxcsr::PE != 0 && traps(flags & (mxcsr::OE | mxcsr::UE), mxcsr) {
        flags &= !mxcsr::PE;
        let inexact = lanes.operands(op, a, b).any(|lane| lane_is_inexact(lane, &lanes, mxcsr));
        flags |= if inexact { mxcsr::PE } else { 0 };
    }
    (value, flags)
}

/// The scalar operation that one lane performs, with its operands in the low bits.
type Lane = (FpOp, u128, u128);

/// Shape of the operations that may overflow or underflow.
struct Lanes {
    /// Bits of a result lane.
    bits: u32,
    /// Result lanes that are computed.
    count: u32,
}

impl Lanes {
    /// `None` for an operation that cannot overflow or underflow.
    fn of(op: FpOp) -> Option<Self> {
        let (bits, count) = match op {
            FpOp::AddPs | FpOp::SubPs | FpOp::MulPs | FpOp::DivPs => (32, 4),
            FpOp::HaddPs | FpOp::HsubPs | FpOp::AddsubPs => (32, 4),
            FpOp::CvtPd2Ps => (32, 2),
            FpOp::AddSs | FpOp::SubSs | FpOp::MulSs | FpOp::DivSs | FpOp::CvtSd2Ss => (32, 1),
            FpOp::AddPd | FpOp::SubPd | FpOp::MulPd | FpOp::DivPd => (64, 2),
            FpOp::HaddPd | FpOp::HsubPd | FpOp::AddsubPd => (64, 2),
            FpOp::AddSd | FpOp::SubSd | FpOp::MulSd | FpOp::DivSd => (64, 1),
            _ => return None,
        };
        Some(Self { bits, count })
    }

    fn lane(&self, value: u128, index: u32) -> u128 {
        (value >> (index * self.bits)) & (u128::MAX >> (128 - self.bits))
    }

    /// Whether a result lane is subnormal. (A tiny result that rounded up to the smallest normal number was inexact, and
    /// the host has raised underflow for it.)
    fn any_tiny(&self, value: u128) -> bool {
        let fraction_bits = if self.bits == 32 { 23 } else { 52 };
        (0..self.count).any(|index| {
            let magnitude = self.lane(value, index) & (u128::MAX >> (129 - self.bits));
            is_tiny(magnitude as u64, fraction_bits)
        })
    }

    /// What each lane computes.
    fn operands(&self, op: FpOp, a: u128, b: u128) -> impl Iterator<Item = Lane> {
        let pairs = self.count / 2;
        (0..self.count).map(move |index| {
            let neighbours = |scalar| {
                let (source, first) = if index < pairs { (a, index * 2) } else { (b, (index - pairs) * 2) };
                (scalar, self.lane(source, first), self.lane(source, first + 1))
            };
            let pairwise = |scalar| (scalar, self.lane(a, index), self.lane(b, index));
            match op {
                FpOp::AddPs | FpOp::AddSs => pairwise(FpOp::AddSs),
                FpOp::SubPs | FpOp::SubSs => pairwise(FpOp::SubSs),
                FpOp::MulPs | FpOp::MulSs => pairwise(FpOp::MulSs),
                FpOp::DivPs | FpOp::DivSs => pairwise(FpOp::DivSs),
                FpOp::AddPd | FpOp::AddSd => pairwise(FpOp::AddSd),
                FpOp::SubPd | FpOp::SubSd => pairwise(FpOp::SubSd),
                FpOp::MulPd | FpOp::MulSd => pairwise(FpOp::MulSd),
                FpOp::DivPd | FpOp::DivSd => pairwise(FpOp::DivSd),
                FpOp::AddsubPs if index % 2 == 0 => pairwise(FpOp::SubSs),
                FpOp::AddsubPs => pairwise(FpOp::AddSs),
                FpOp::AddsubPd if index % 2 == 0 => pairwise(FpOp::SubSd),
                FpOp::AddsubPd => pairwise(FpOp::AddSd),
                FpOp::HaddPs => neighbours(FpOp::AddSs),
                FpOp::HsubPs => neighbours(FpOp::SubSs),
                FpOp::HaddPd => neighbours(FpOp::AddSd),
                FpOp::HsubPd => neighbours(FpOp::SubSd),
                // The conversions to single: source lanes are twice as wide.
                _ => (FpOp::CvtSd2Ss, 0, (b >> (index * 64)) & u128::from(u64::MAX)),
            }
        })
    }
}

/// Whether one lane raises precision. One that traps on overflow or underflow is judged on the result rounded to the
/// format's precision but with an unbounded exponent, which the x87 unit computes: its exponent has 15 bits.
fn lane_is_inexact((scalar, a, b): Lane, lanes: &Lanes, mxcsr: u32) -> bool {
    let control = if traps(mxcsr::UE, mxcsr) { mxcsr & !mxcsr::FTZ } else { mxcsr };
    let (value, mut flags) = exec::run(scalar, a, b, 0, control);
    if traps(mxcsr::UE, mxcsr) && (Lanes { bits: lanes.bits, count: 1 }).any_tiny(value) {
        flags |= mxcsr::UE;
    }
    if !traps(flags & (mxcsr::OE | mxcsr::UE), mxcsr) {
        return flags & mxcsr::PE != 0;
    }
    // Significands of 24 or 53 bits: precision control 0 or 2.
    let cw = x87::CW_RESET & !0x300 | if lanes.bits == 32 { 0 } else { 0x200 };
    let wide = |bits: u128| match (lanes.bits, mxcsr & mxcsr::DAZ != 0) {
        (32, daz) => {
            let bits = bits as u32;
            let zeroed = daz && is_tiny(u64::from(bits & 0x7fff_ffff), 23);
            Operand::F32(if zeroed { bits & 0x8000_0000 } else { bits })
        }
        (_, daz) => {
            let bits = bits as u64;
            let zeroed = daz && is_tiny(bits & (u64::MAX >> 1), 52);
            Operand::F64(if zeroed { bits & (1 << 63) } else { bits })
        }
    };
    let loaded = |operand| match operand {
        Operand::F32(bits) => x87::load_f32(cw, bits).0,
        Operand::F64(bits) => x87::load_f64(cw, bits).0,
        Operand::Reg(value) => value,
    };
    let (op, x, y) = match scalar {
        FpOp::AddSs | FpOp::AddSd => (BinaryOp::Add, wide(a), wide(b)),
        FpOp::SubSs | FpOp::SubSd => (BinaryOp::Sub, wide(a), wide(b)),
        FpOp::MulSs | FpOp::MulSd => (BinaryOp::Mul, wide(a), wide(b)),
        FpOp::DivSs | FpOp::DivSd => (BinaryOp::Div, wide(a), wide(b)),
        // cvtsd2ss: its operand times one.
        _ => (BinaryOp::Mul, Operand::F64(b as u64), Operand::F32(1.0_f32.to_bits())),
    };
    x87::binary(op, cw, loaded(x), y).1 & x87::sw::PE != 0
}

/// Whether a number without its sign is subnormal: no exponent bit, but some of `fraction_bits`.
pub(super) fn is_tiny(magnitude: u64, fraction_bits: u32) -> bool {
    magnitude != 0 && magnitude >> fraction_bits == 0
}
