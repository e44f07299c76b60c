//! SSE floating point executed by the host's own SSE unit under the guest's MXCSR.
//!
//! The one idea: an x86 guest's `addps` is exactly the host's `addps`, as long as the host runs it with the guest's rounding
//! mode, DAZ and FTZ. [`eval`] therefore loads an MXCSR made of the guest's control bits with every exception masked and
//! every sticky flag clear, runs the instruction, reads the flags, and puts the host's MXCSR back, all in one assembly block.
//!
//! What hardware does differently when the *guest* has an exception unmasked (Intel SDM volume 1, 11.5.2 and 11.5.3) is
//! added afterwards by `unmasked`, because an exception must never reach the host.

mod exec;
mod fused;
mod half;
mod predicate;
#[cfg(test)]
pub(crate) mod tests;
mod unmasked;

pub use fused::eval as eval_fused;

/// Exception flags and control bits of MXCSR (Intel SDM volume 1, 10.2.3).
pub mod mxcsr {
    /// Invalid operation.
    pub const IE: u32 = 1 << 0;
    /// Denormal operand.
    pub const DE: u32 = 1 << 1;
    /// Division by zero.
    pub const ZE: u32 = 1 << 2;
    /// Overflow.
    pub const OE: u32 = 1 << 3;
    /// Underflow.
    pub const UE: u32 = 1 << 4;
    /// Precision (inexact).
    pub const PE: u32 = 1 << 5;
    /// All six sticky flags.
    pub const FLAGS: u32 = 0x3f;
    /// Denormals are zeros.
    pub const DAZ: u32 = 1 << 6;
    /// All six exception masks; the mask of flag bit `n` is bit `n + MASK_SHIFT`.
    pub const MASKS: u32 = 0x1f80;
    /// Distance between a flag and its mask.
    pub const MASK_SHIFT: u32 = 7;
    /// Rounding control: 0 nearest even, 1 down, 2 up, 3 towards zero.
    pub const RC: u32 = 3 << RC_SHIFT;
    /// Lowest bit of the rounding control.
    pub const RC_SHIFT: u32 = 13;
    /// Flush to zero; without effect while underflow is unmasked.
    pub const FTZ: u32 = 1 << 15;
    /// Value after reset: everything masked, round to nearest.
    pub const RESET: u32 = 0x1f80;
    /// Bits that a guest may set; `ldmxcsr` of any other raises #GP.
    pub const WRITABLE: u32 = 0xffff;
}

/// Builds [`FpOp`] from one list, so that the numbering, the name and the decoding from a byte cannot disagree.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A floating-point instruction of SSE … SSE4.1, FMA or F16C, named as in the manual, or a comparison of AVX.
        ///
        /// `32`/`64` at the end of a name is the width of the integer operand. The operand convention is [`eval`]'s, and for
        /// fused ones [`eval_fused`]'s.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FpOp { $($(#[$doc])* $name,)* }

        impl FpOp {
            /// Every operation, indexed by its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The operation with number `raw`, as stored in an IR operand; `None` when there is no such operation.
            #[must_use]
            pub fn from_u8(raw: u8) -> Option<Self> {
                Self::ALL.get(usize::from(raw)).copied()
            }
        }
    };
}

ops! {
    /// addps
    AddPs,
    /// addpd
    AddPd,
    /// addss
    AddSs,
    /// addsd
    AddSd,
    /// subps
    SubPs,
    /// subpd
    SubPd,
    /// subss
    SubSs,
    /// subsd
    SubSd,
    /// mulps
    MulPs,
    /// mulpd
    MulPd,
    /// mulss
    MulSs,
    /// mulsd
    MulSd,
    /// divps
    DivPs,
    /// divpd
    DivPd,
    /// divss
    DivSs,
    /// divsd
    DivSd,
    /// minps
    MinPs,
    /// minpd
    MinPd,
    /// minss
    MinSs,
    /// minsd
    MinSd,
    /// maxps
    MaxPs,
    /// maxpd
    MaxPd,
    /// maxss
    MaxSs,
    /// maxsd
    MaxSd,
    /// sqrtps
    SqrtPs,
    /// sqrtpd
    SqrtPd,
    /// sqrtss
    SqrtSs,
    /// sqrtsd
    SqrtSd,
    /// rcpps: the host's approximation; raises nothing
    RcpPs,
    /// rcpss
    RcpSs,
    /// rsqrtps: the host's approximation; raises nothing
    RsqrtPs,
    /// rsqrtss
    RsqrtSs,
    /// cmpps; `imm` bits 2:0 are the predicate
    CmpPs,
    /// cmppd
    CmpPd,
    /// cmpss
    CmpSs,
    /// cmpsd
    CmpSd,
    /// comiss; the result is EFLAGS (CF, PF, ZF; OF, SF and AF are cleared by the instruction)
    ComiSs,
    /// comisd
    ComiSd,
    /// ucomiss
    UcomiSs,
    /// ucomisd
    UcomiSd,
    /// roundps; `imm` bits 1:0 mode, bit 2 take MXCSR's mode, bit 3 do not report precision
    RoundPs,
    /// roundpd
    RoundPd,
    /// roundss
    RoundSs,
    /// roundsd
    RoundSd,
    /// dpps; `imm` bits 7:4 choose the products, bits 3:0 the lanes that receive the sum
    DpPs,
    /// dppd; `imm` bits 5:4 and 1:0
    DpPd,
    /// haddps
    HaddPs,
    /// haddpd
    HaddPd,
    /// hsubps
    HsubPs,
    /// hsubpd
    HsubPd,
    /// addsubps
    AddsubPs,
    /// addsubpd
    AddsubPd,
    /// cvtps2pd
    CvtPs2Pd,
    /// cvtpd2ps
    CvtPd2Ps,
    /// cvtss2sd
    CvtSs2Sd,
    /// cvtsd2ss
    CvtSd2Ss,
    /// cvtdq2ps
    CvtDq2Ps,
    /// cvtdq2pd
    CvtDq2Pd,
    /// cvtps2dq
    CvtPs2Dq,
    /// cvttps2dq
    CvttPs2Dq,
    /// cvtpd2dq
    CvtPd2Dq,
    /// cvttpd2dq
    CvttPd2Dq,
    /// cvtsi2ss from 32 bits
    CvtSi2Ss32,
    /// cvtsi2ss from 64 bits
    CvtSi2Ss64,
    /// cvtsi2sd from 32 bits
    CvtSi2Sd32,
    /// cvtsi2sd from 64 bits
    CvtSi2Sd64,
    /// cvtss2si to 32 bits, zero-extended
    CvtSs2Si32,
    /// cvtss2si to 64 bits
    CvtSs2Si64,
    /// cvttss2si to 32 bits, zero-extended
    CvttSs2Si32,
    /// cvttss2si to 64 bits
    CvttSs2Si64,
    /// cvtsd2si to 32 bits, zero-extended
    CvtSd2Si32,
    /// cvtsd2si to 64 bits
    CvtSd2Si64,
    /// cvttsd2si to 32 bits, zero-extended
    CvttSd2Si32,
    /// cvttsd2si to 64 bits
    CvttSd2Si64,
    /// cvtpi2ps: `b` is the MMX operand
    CvtPi2Ps,
    /// cvtpi2pd: `b` is the MMX operand
    CvtPi2Pd,
    /// cvtps2pi: the result is the 64-bit MMX value
    CvtPs2Pi,
    /// cvttps2pi
    CvttPs2Pi,
    /// cvtpd2pi
    CvtPd2Pi,
    /// cvttpd2pi
    CvttPd2Pi,
    /// vcmpps: as [`FpOp::CmpPs`], but `imm` bits 4:0 are the predicate
    VcmpPs,
    /// vcmppd
    VcmpPd,
    /// vcmpss
    VcmpSs,
    /// vcmpsd
    VcmpSd,
    /// vcvtph2ps: four halves in the low bits of `b`
    CvtPh2Ps,
    /// vcvtps2ph: `imm` bits 1:0 mode, bit 2 take MXCSR's mode; four halves in the low bits
    CvtPs2Ph,
    /// vfmaddps: a × b + c
    FmaddPs,
    /// vfmaddpd
    FmaddPd,
    /// vfmaddss
    FmaddSs,
    /// vfmaddsd
    FmaddSd,
    /// vfmsubps: a × b − c
    FmsubPs,
    /// vfmsubpd
    FmsubPd,
    /// vfmsubss
    FmsubSs,
    /// vfmsubsd
    FmsubSd,
    /// vfnmaddps: −(a × b) + c
    FnmaddPs,
    /// vfnmaddpd
    FnmaddPd,
    /// vfnmaddss
    FnmaddSs,
    /// vfnmaddsd
    FnmaddSd,
    /// vfnmsubps: −(a × b) − c
    FnmsubPs,
    /// vfnmsubpd
    FnmsubPd,
    /// vfnmsubss
    FnmsubSs,
    /// vfnmsubsd
    FnmsubSd,
    /// vfmaddsubps: a × b − c in even lanes, + c in odd ones
    FmaddsubPs,
    /// vfmaddsubpd
    FmaddsubPd,
    /// vfmsubaddps: a × b + c in even lanes, − c in odd ones
    FmsubaddPs,
    /// vfmsubaddpd
    FmsubaddPd,
}

impl FpOp {
    /// Whether it has a third operand and goes to [`eval_fused`].
    #[must_use]
    pub const fn is_fused(self) -> bool {
        self as u8 >= FpOp::FmaddPs as u8
    }
}

/// Executes `op` and returns the new destination and the MXCSR exception flags (bits 5:0) that it raises.
///
/// * `a` is the destination's old value (first source), `b` the second operand; for a scalar operation only the low lane of
///   `b` counts and the result keeps the upper lanes of `a`. A memory operand is placed in the low bits of `b`.
/// * Conversions to an integer register or an MMX register, and comparisons to EFLAGS, return the integer in the low bits.
/// * `imm` is the instruction's immediate byte (`cmp*`, `round*`, `dp*`), else ignored.
/// * `mxcsr` is the guest's register; its sticky flags do not matter.
///
/// The caller ORs the flags into MXCSR in every case. If [`traps`] says that one of them is unmasked, it then raises #XM
/// (#UD when CR4.OSXMMEXCPT is clear) *instead of* writing the result.
///
/// The host must have SSE4.1 for `round*` and `dp*`: see [`host_supported`].
#[must_use]
pub fn eval(op: FpOp, a: u128, b: u128, imm: u8, mxcsr: u32) -> (u128, u32) {
    match op {
        FpOp::VcmpPs | FpOp::VcmpPd | FpOp::VcmpSs | FpOp::VcmpSd => return predicate::run(op, a, b, imm, mxcsr),
        FpOp::CvtPh2Ps => return half::widen(b, mxcsr),
        FpOp::CvtPs2Ph => return half::narrow(b, imm, mxcsr),
        _ if op.is_fused() => return eval_fused(op, a, b, 0, mxcsr),
        _ => {}
    }
    if mxcsr & mxcsr::MASKS == mxcsr::MASKS {
        exec::run(op, a, b, imm, mxcsr)
    } else {
        unmasked::run(op, a, b, imm, mxcsr)
    }
}

/// What two halves of one instruction raise together, when the first raises `first` and the second `second`: an unmasked
/// exception that is seen before computing, in either of them, hides what only computations show.
#[must_use]
pub fn together(first: u32, second: u32, mxcsr: u32) -> u32 {
    let all = first | second;
    if traps(all & unmasked::PRE, mxcsr) { all & unmasked::PRE } else { all }
}

/// Whether raising `flags` with the guest's `mxcsr` is an unmasked exception.
#[must_use]
pub fn traps(flags: u32, mxcsr: u32) -> bool {
    flags & !(mxcsr >> mxcsr::MASK_SHIFT) & mxcsr::FLAGS != 0
}

/// Whether this host has every instruction that [`eval`] may execute (SSE3 and SSE4.1 beyond the baseline).
#[must_use]
pub fn host_supported() -> bool {
    std::arch::is_x86_feature_detected!("sse3") && std::arch::is_x86_feature_detected!("sse4.1")
}
