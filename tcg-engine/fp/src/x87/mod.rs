//! x87 arithmetic executed by the host's own x87 unit under the guest's control word.
//!
//! The one idea: every function pushes its operands on the host's empty register stack, runs the one host instruction, takes
//! the status word, clears the exceptions *before* anything could wait on them, and stores the result. So precision control,
//! rounding, the 80-bit NaN rules, the transcendental results and, with exceptions unmasked, the bias-adjusted results are
//! the hardware's, and the host never sees #MF.
//!
//! The register stack itself (TOP, tags, stack faults, the instruction and data pointers) belongs to the caller: no function
//! here is called with an empty register, and none reports a stack fault.

mod exec;
#[cfg(test)]
mod tests;

pub use exec::{
    binary, compare, compare_flags, constant, examine, load_bcd, load_f32, load_f64, load_i64, pair, store_bcd,
    store_f32, store_f64, store_int, unary,
};

/// Exception flags, condition codes and other fields of the status word (Intel SDM volume 1, 8.1.3).
pub mod sw {
    /// Invalid operation.
    pub const IE: u16 = 1 << 0;
    /// Denormal operand.
    pub const DE: u16 = 1 << 1;
    /// Division by zero.
    pub const ZE: u16 = 1 << 2;
    /// Overflow.
    pub const OE: u16 = 1 << 3;
    /// Underflow.
    pub const UE: u16 = 1 << 4;
    /// Precision (inexact).
    pub const PE: u16 = 1 << 5;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Error summary: a flag is set whose mask in the control word is clear.
    pub const ES: u16 = 1 << 7;
    /// Condition code C0.
    pub const C0: u16 = 1 << 8;
    /// Condition code C1.
    pub const C1: u16 = 1 << 9;
    /// Condition code C2.
    pub const C2: u16 = 1 << 10;
    /// Lowest bit of TOP.
    pub const TOP_SHIFT: u16 = 11;
    /// TOP.
    pub const TOP: u16 = 7 << TOP_SHIFT;
    /// Condition code C3.
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub const BUSY: u16 = 1 << 15;
    /// The six exception flags; bit `n` is masked by bit `n` of the control word.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// All condition codes.
    pub const CONDITIONS: u16 = C0 | C1 | C2 | C3;
    /// Exceptions detected on the operands. Unmasked, they leave operands and stack as they were.
    pub const PRE: u16 = IE | DE | ZE;
}

/// Control word after FNINIT: all exceptions masked, 64-bit precision, round to nearest.
pub const CW_RESET: u16 = 0x037f;

/// Value of the control word's reserved bit 6, which always reads as one.
pub const CW_FIXED: u16 = 0x0040;

/// Bits of the control word that FLDCW can change: masks, precision, rounding, infinity control.
pub const CW_WRITABLE: u16 = 0x1f3f;

/// Exceptions among the status bits `raised` that control word `cw` does not mask.
#[must_use]
pub const fn unmasked(raised: u16, cw: u16) -> u16 {
    raised & !cw & sw::EXCEPTIONS
}

/// A number in double extended format, as in a register: sign and 15-bit exponent, then 64 bits with an explicit integer bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct F80 {
    /// Significand; bit 63 is the integer bit.
    pub mantissa: u64,
    /// Sign in bit 15, biased exponent in bits 14:0.
    pub sign_exp: u16,
}

impl F80 {
    /// The default NaN, "real indefinite": what a masked invalid operation returns.
    pub const INDEFINITE: Self = Self { mantissa: 0xc000_0000_0000_0000, sign_exp: 0xffff };

    /// From memory format: ten bytes, little-endian.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, lo, hi] = bytes;
        Self { mantissa: u64::from_le_bytes([a, b, c, d, e, f, g, h]), sign_exp: u16::from_le_bytes([lo, hi]) }
    }

    /// To memory format.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.mantissa.to_le_bytes();
        let [lo, hi] = self.sign_exp.to_le_bytes();
        [a, b, c, d, e, f, g, h, lo, hi]
    }

    /// From the low 80 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self { mantissa: bits as u64, sign_exp: (bits >> 64) as u16 }
    }

    /// As the low 80 bits of an integer.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        (self.sign_exp as u128) << 64 | self.mantissa as u128
    }

    /// The value that an MMX write leaves in the aliased register: exponent and sign all ones (SDM volume 1, 9.5.1).
    #[must_use]
    pub const fn from_mmx(value: u64) -> Self {
        Self { mantissa: value, sign_exp: 0xffff }
    }
}

/// Second operand of [`binary`] and [`compare`]: a register, or a real in memory whose conversion is part of the instruction.
///
/// Integer operands (`fiadd` …) convert exactly: use [`load_i64`] and [`Operand::Reg`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(F80),
    /// A single-precision memory operand.
    F32(u32),
    /// A double-precision memory operand.
    F64(u64),
}

/// Two-operand arithmetic, `a` being ST(0) (or the destination register) and `b` the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BinaryOp {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// b − a
    SubR,
    /// a × b
    Mul,
    /// a ÷ b
    Div,
    /// b ÷ a
    DivR,
    /// fprem: partial remainder of a by b, truncating quotient; C2 set when incomplete, else C0, C3, C1 are quotient bits
    Prem,
    /// fprem1: as `Prem`, IEEE quotient
    Prem1,
    /// fscale: a × 2^trunc(b)
    Scale,
    /// fpatan: arctan(b ÷ a); the instruction replaces ST(1) and pops
    Patan,
    /// fyl2x: b × log2(a); the instruction replaces ST(1) and pops
    Yl2x,
    /// fyl2xp1: b × log2(a + 1); the instruction replaces ST(1) and pops
    Yl2xp1,
}

/// One-operand arithmetic on ST(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum UnaryOp {
    /// fchs
    Chs,
    /// fabs
    Abs,
    /// fsqrt
    Sqrt,
    /// frndint
    Rndint,
    /// f2xm1
    F2xm1,
    /// fsin; C2 set and the operand returned when out of range
    Sin,
    /// fcos; C2 set and the operand returned when out of range
    Cos,
}

/// Operations on ST(0) that replace it and push a second value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PairOp {
    /// fsincos: ST(0) becomes the sine, then the cosine is pushed
    Sincos,
    /// fptan: ST(0) becomes the tangent, then 1.0 is pushed
    Ptan,
    /// fxtract: ST(0) becomes the exponent, then the significand is pushed
    Xtract,
}

/// How [`compare`] and [`compare_flags`] treat quiet NaNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CompareOp {
    /// fcom, ftst, ficom, fcomi: any NaN is invalid
    Ordered,
    /// fucom, fucomi: only a signalling NaN is invalid
    Unordered,
}

/// Constants that an instruction pushes; all but zero and one depend on the rounding control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Constant {
    /// fldz
    Zero,
    /// fld1
    One,
    /// fldpi
    Pi,
    /// fldl2t: log2(10)
    L2t,
    /// fldl2e: log2(e)
    L2e,
    /// fldlg2: log10(2)
    Lg2,
    /// fldln2: ln(2)
    Ln2,
}

/// Width of an integer in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IntWidth {
    /// 16 bits
    W16,
    /// 32 bits
    W32,
    /// 64 bits
    W64,
}

/// Result of [`pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// What replaces the operand: sine, tangent, exponent; or the operand itself when nothing was pushed.
    pub replaced: F80,
    /// What is pushed on top of it; `None` when the operand was out of range (C2) or an unmasked exception stopped it.
    pub pushed: Option<F80>,
    /// Exception flags and condition codes.
    pub sw: u16,
}
