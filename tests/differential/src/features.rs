//! What the CPU model advertises, in the words of the instruction tables.
//!
//! The idea: an instruction belongs to the model if each of its features does; a feature does if its CPUID bit is set in the
//! model's own answers, or if it is older than CPUID.

use cpu_model::{Facts, Model};
use iced_x86::{Code, CpuidFeature, EncodingKind};

/// Where a feature's bit is: leaf, register (0 EAX to 3 EDX), bit.
type Bit = (u32, usize, u32);

/// A name of the instruction tables and what it depends on.
type Row = (CpuidFeature, Option<Bit>);

/// Features and their CPUID bits. `None`: every 64-bit processor has it. A feature that is not listed is not advertised.
#[rustfmt::skip]
static FEATURES: &[Row] = {
    use CpuidFeature::*;
    &[
        (INTEL8086, None),
        (INTEL186, None),
        (INTEL286, None),
        (INTEL386, None),
        (INTEL486, None),
        (X64, Some((0x8000_0001, 3, 29))),
        (FPU, Some((1, 3, 0))),
        (FPU287, Some((1, 3, 0))),
        (FPU387, Some((1, 3, 0))),
        (CPUID, None),
        (MULTIBYTENOP, None),
        (PAUSE, None),
        // RSM, which raises #UD outside of system management mode.
        (SMM, None),
        (TSC, Some((1, 3, 4))),
        (MSR, Some((1, 3, 5))),
        (CX8, Some((1, 3, 8))),
        (SEP, Some((1, 3, 11))),
        (CMOV, Some((1, 3, 15))),
        (CLFSH, Some((1, 3, 19))),
        (MMX, Some((1, 3, 23))),
        (FXSR, Some((1, 3, 24))),
        (SSE, Some((1, 3, 25))),
        (SSE2, Some((1, 3, 26))),
        (SSE3, Some((1, 2, 0))),
        (PCLMULQDQ, Some((1, 2, 1))),
        (MONITOR, Some((1, 2, 3))),
        (VMX, Some((1, 2, 5))),
        (SMX, Some((1, 2, 6))),
        (SSSE3, Some((1, 2, 9))),
        (FMA, Some((1, 2, 12))),
        (CMPXCHG16B, Some((1, 2, 13))),
        (SSE4_1, Some((1, 2, 19))),
        (SSE4_2, Some((1, 2, 20))),
        (MOVBE, Some((1, 2, 22))),
        (POPCNT, Some((1, 2, 23))),
        (AES, Some((1, 2, 25))),
        (XSAVE, Some((1, 2, 26))),
        (AVX, Some((1, 2, 28))),
        (F16C, Some((1, 2, 29))),
        (RDRAND, Some((1, 2, 30))),
        (FSGSBASE, Some((7, 1, 0))),
        (BMI1, Some((7, 1, 3))),
        (AVX2, Some((7, 1, 5))),
        (BMI2, Some((7, 1, 8))),
        (INVPCID, Some((7, 1, 10))),
        (RDSEED, Some((7, 1, 18))),
        (ADX, Some((7, 1, 19))),
        (SMAP, Some((7, 1, 20))),
        (CLFLUSHOPT, Some((7, 1, 23))),
        (CLWB, Some((7, 1, 24))),
        (SHA, Some((7, 1, 29))),
        (XSAVEOPT, Some((0xd, 0, 0))),
        (LZCNT, Some((0x8000_0001, 2, 5))),
        (PREFETCHW, Some((0x8000_0001, 2, 8))),
        (SYSCALL, Some((0x8000_0001, 3, 11))),
        (RDTSCP, Some((0x8000_0001, 3, 27))),
        // Its CPUID bit says whether RDPMC's counters have an architecture; the instruction is as old as the 486's successor.
        (RDPMC, None),
    ]
};

/// The model's answers, as one vCPU sees them while a user program runs.
fn bit(model: &Model, (leaf, register, bit): Bit) -> bool {
    let facts = Facts { apic_id: 0, vcpus: 1, apic_enabled: true, osxsave: true, xcr0: model.xcr0 };
    model.cpuid(leaf, u32::from(leaf == 0xd), &facts)[register] >> bit & 1 != 0
}

/// Whether the model advertises a feature.
pub fn advertised(model: &Model, feature: CpuidFeature) -> bool {
    FEATURES.iter().find(|r| r.0 == feature).is_some_and(|r| r.1.is_none_or(|b| bit(model, b)))
}

/// Whether the model has an instruction.
pub fn has(model: &Model, code: Code) -> bool {
    let f = code.cpuid_features();
    code.op_code().is_instruction()
        && matches!(code.op_code().encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && f.iter().all(|f| advertised(model, *f))
}

/// Whether a code exists on Intel processors in code of `bits` bits.
pub fn exists(code: Code, bits: u32) -> bool {
    let o = code.op_code();
    let mode = if bits == 64 { o.mode64() && o.intel_decoder64() } else { o.mode32() && o.intel_decoder32() };
    o.is_instruction() && mode
}

/// Name of the features that a code needs, as the report groups them.
pub fn name(code: Code) -> String {
    if code == Code::INVALID {
        return "sequences".into();
    }
    code.cpuid_features().iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join("+")
}
