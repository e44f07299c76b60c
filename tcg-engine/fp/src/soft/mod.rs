//! Portable floating point for binary16, binary32 and binary64, with the differences between architectures as data.
//!
//! The one idea: every operation unpacks its operands to a sign, an exponent and a normalised 64-bit significand, computes
//! an exact or sticky 128-bit significand, and hands that to one rounding function. What IEEE 754 leaves open, and what
//! architectures do beyond it, is in [`Rules`]: which NaN survives, when a result counts as tiny, which denormals are
//! flushed, what a conversion that does not fit returns.
//!
//! Values are bit patterns in the low bits of a `u64`. Every function returns (value, flags) with [`flags`] in the layout of
//! MXCSR. Traps are the caller's matter: results are those of masked exceptions.

mod arith;
mod convert;
mod format;
mod nan;
#[cfg(test)]
mod tests;

pub use arith::{Signs, add, compare, div, fma, fused, mul, sqrt, sub};
pub use convert::{convert, from_int, round_to_integral, to_int};
pub use format::{F16, F32, F64, Format};

/// Exception flags, in the order of MXCSR bits 5:0.
pub mod flags {
    /// Invalid operation.
    pub const INVALID: u32 = 1 << 0;
    /// A denormal operand: used (x86) or flushed (aarch64, FPSR.IDC).
    pub const DENORMAL: u32 = 1 << 1;
    /// Division of a finite number by zero.
    pub const DIV_BY_ZERO: u32 = 1 << 2;
    /// Overflow.
    pub const OVERFLOW: u32 = 1 << 3;
    /// Underflow.
    pub const UNDERFLOW: u32 = 1 << 4;
    /// Inexact.
    pub const INEXACT: u32 = 1 << 5;
}

/// Rounding modes of all three architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to even.
    NearestEven,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Towards zero.
    TowardZero,
    /// Towards plus infinity.
    Up,
    /// Towards minus infinity.
    Down,
    /// To odd: an inexact result is truncated and its last bit set (aarch64 FCVTXN; s390x "prepare for shorter precision").
    ToOdd,
}

/// The architecture whose open choices are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// SSE (Intel SDM volume 1, table 4-7): the first operand that is a NaN survives; the default NaN is negative; integers
    /// that do not fit become the indefinite value.
    X86,
    /// aarch64 (Arm ARM, `FPProcessNaNs`): the first signalling NaN survives, else the first quiet one, the addend of a fused
    /// operation being first; integers saturate and NaN becomes 0.
    Aarch64,
    /// s390x (Principles of Operation, chapter 19): the first signalling NaN survives, else the first quiet one; integers
    /// saturate and NaN becomes the most negative number.
    S390x,
}

/// What happens to denormal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flush {
    /// Denormal operands count as zeros (MXCSR.DAZ, FPCR.FZ).
    pub inputs: bool,
    /// Tiny results become zeros (MXCSR.FTZ, FPCR.FZ).
    pub outputs: bool,
}

/// Everything that an operation needs to know besides its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Open choices.
    pub arch: Arch,
    /// Rounding mode.
    pub rounding: Rounding,
    /// Every NaN result is the default NaN (FPCR.DN).
    pub default_nan: bool,
    /// Denormal numbers.
    pub flush: Flush,
}

impl Rules {
    /// SSE under `mxcsr`.
    #[must_use]
    pub const fn x86(mxcsr: u32) -> Self {
        let rounding = match mxcsr >> 13 & 3 {
            0 => Rounding::NearestEven,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::TowardZero,
        };
        // FTZ has no effect while underflow is unmasked.
        let outputs = mxcsr >> 15 & 1 != 0 && mxcsr >> 11 & 1 != 0;
        Self { arch: Arch::X86, rounding, default_nan: false, flush: Flush { inputs: mxcsr >> 6 & 1 != 0, outputs } }
    }

    /// aarch64 under `fpcr`: RMode 23:22, FZ 24, DN 25 (FZ16, FIZ and AH are taken as zero).
    #[must_use]
    pub const fn aarch64(fpcr: u64) -> Self {
        let rounding = match fpcr >> 22 & 3 {
            0 => Rounding::NearestEven,
            1 => Rounding::Up,
            2 => Rounding::Down,
            _ => Rounding::TowardZero,
        };
        let fz = fpcr >> 24 & 1 != 0;
        Self {
            arch: Arch::Aarch64,
            rounding,
            default_nan: fpcr >> 25 & 1 != 0,
            flush: Flush { inputs: fz, outputs: fz },
        }
    }

    /// s390x under the rounding mode in bits 29:31 of `fpc`.
    #[must_use]
    pub const fn s390x(fpc: u32) -> Self {
        let rounding = match fpc & 7 {
            0 => Rounding::NearestEven,
            1 => Rounding::TowardZero,
            2 => Rounding::Up,
            3 => Rounding::Down,
            // 7; 4 to 6 are refused when the register is loaded.
            _ => Rounding::ToOdd,
        };
        Self { arch: Arch::S390x, rounding, default_nan: false, flush: Flush { inputs: false, outputs: false } }
    }

    /// The same with another rounding mode.
    #[must_use]
    pub const fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// Whether tininess is judged on the rounded result (x86) rather than on the exact one.
    const fn tiny_after_rounding(self) -> bool {
        matches!(self.arch, Arch::X86)
    }
}

/// Outcome of [`compare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// a < b
    Less,
    /// a = b
    Equal,
    /// a > b
    Greater,
    /// One of them is a NaN.
    Unordered,
}
