//! What is not compared with the host, and why: reviewed line by line.

use iced_x86::{Code, Mnemonic};

use crate::features;

/// An instruction that the host cannot answer for, with the reason.
pub type Exclusion = (Mnemonic, &'static str);

/// Instructions that are left out, in every form; the tiers are compared on them still.
#[rustfmt::skip]
pub static EXCLUDED: &[Exclusion] = {
    use Mnemonic::*;
    &[
        (Rdtsc, "gives the time: two clocks, two answers"),
        (Rdtscp, "gives the time"),
        (Rdrand, "gives random bits"),
        (Cpuid, "answers for the model, which the host is not"),
        (Xgetbv, "XCR0 of the host has bits that the model has not"),
        (Syscall, "enters the host's kernel, which would act on it"),
        (Sysenter, "enters the host's kernel"),
        (Sgdt, "the host's kernel answers in its stead (UMIP)"),
        (Sidt, "the host's kernel answers in its stead (UMIP)"),
        (Sldt, "the host's kernel answers in its stead (UMIP)"),
        (Str, "the host's kernel answers in its stead (UMIP)"),
        (Smsw, "the host's kernel answers in its stead (UMIP)"),
    ]
};

/// Why a code is not compared, if it is not.
pub fn reason(code: Code) -> Option<&'static str> {
    EXCLUDED.iter().find(|e| e.0 == code.mnemonic()).map(|e| e.1)
}

/// Whether a code of a feature that is not advertised has an older meaning.
pub fn older(code: Code) -> bool {
    let name = features::name(code);
    OLDER_MEANING.iter().any(|o| o.0 == name)
}

/// Features that the model does not advertise, but whose encodings have an older meaning that the model gives them.
#[rustfmt::skip]
pub static OLDER_MEANING: &[(&str, &str)] = &[
    ("BMI1", "TZCNT is REP BSF"),
    ("LZCNT", "LZCNT is REP BSR"),
    ("WBNOINVD", "REP WBINVD, which raises #GP in user mode"),
    ("PREFETCHW", "0F 0D is a hint that does nothing (Intel since the Pentium 4 with 64-bit code)"),
    ("PREFETCHWT1", "0F 0D is a hint that does nothing"),
    ("PREFETCHITI", "0F 18 is a hint that does nothing"),
    ("CLDEMOTE", "0F 1C is reserved for hints that do nothing"),
    ("CET_SS", "RDSSP is reserved for hints that do nothing"),
    ("CET_IBT", "ENDBR is reserved for hints that do nothing"),
    ("CLWB", "66 0F AE /6 is not CLWB"),
];
