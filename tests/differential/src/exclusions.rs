//! What is not compared with the host, and why: reviewed line by line.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};

use crate::build::Made;
use crate::features;
use crate::host::{self, Maker};

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

/// Why AMD's processors cannot answer for the codes that only Intel's have.
const NO_FAR_POINTERS: &str = "AMD's processors have no far pointers of REX.W (APM vol. 3, CALL (Far), JMP (Far), LFS)";

/// Why a code is not compared, if it is not.
pub fn reason(code: Code) -> Option<&'static str> {
    let o = code.op_code();
    let listed = EXCLUDED.iter().find(|e| e.0 == code.mnemonic()).map(|e| e.1);
    // UD0 is none of them: it has no ModRM byte there, but raises #UD all the same.
    let foreign = !(o.amd_decoder64() || o.amd_decoder32()) && code.mnemonic() != Mnemonic::Ud0;
    listed.or((host::maker() == Maker::Amd && foreign).then_some(NO_FAR_POINTERS))
}

/// Cases, of codes that are compared, that the processors of some maker cannot answer for: whose, which, and why.
pub type Unanswered = (Maker, fn(&Made) -> bool, &'static str);

/// These cases; the tiers are compared on them still.
#[rustfmt::skip]
pub static UNANSWERED: &[Unanswered] = &[
    (Maker::Amd, other_instruction, "the bytes are another instruction: AMD's processors heed 66 before near branches of 64-bit code, and not REX.W with far pointers, and LOCK makes CR0 CR8 (APM vol. 3: each instruction; MOV CRn)"),
    (Maker::Amd, repeated_loop, "F2 before LOOPE and F3 before LOOPNE turn one into the other; these prefixes are reserved there (SDM vol. 2A, 2.1.1; APM vol. 3, 1.2.6)"),
    (Maker::Amd, repeated_exchange, "F3 and REX.B before 90 exchange, where Intel's processors pause; neither manual says"),
    (Maker::Amd, locked_verw, "LOCK VERW does not raise #UD: against both manuals, seen on Zen 5"),
];

/// Why this host cannot answer for a case, if it cannot.
pub fn unanswered(made: &Made) -> Option<&'static str> {
    UNANSWERED.iter().find(|u| u.0 == host::maker() && u.1(made)).map(|u| u.2)
}

/// The case's bytes as a decoder with these options takes them.
fn decode(made: &Made, options: u32) -> Instruction {
    let bits = if made.case.long() { 64 } else { 32 };
    Decoder::with_ip(bits, made.case.code(), made.case.at, options).decode()
}

fn other_instruction(made: &Made) -> bool {
    let amd = decode(made, DecoderOptions::AMD).code();
    amd != made.instruction.code() && amd != Code::Ud0
}

fn repeated_loop(made: &Made) -> bool {
    let i = &made.instruction;
    match i.mnemonic() {
        Mnemonic::Loope => i.has_repne_prefix(),
        Mnemonic::Loopne => i.has_rep_prefix(),
        _ => false,
    }
}

fn repeated_exchange(made: &Made) -> bool {
    // REX is the byte before the opcode, or none.
    made.instruction.code() == Code::Pause && matches!(made.case.code(), [.., rex, 0x90] if rex & 0xf1 == 0x41)
}

fn locked_verw(made: &Made) -> bool {
    let i = decode(made, DecoderOptions::NO_INVALID_CHECK);
    i.has_lock_prefix() && i.mnemonic() == Mnemonic::Verw
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::case::{CODE, CS32, CS64, Case};

    fn made(bits: u32, bytes: &[u8]) -> Made {
        let mut case = Case { at: CODE, len: bytes.len() as u64, ..Case::default() };
        case.bytes[..bytes.len()].copy_from_slice(bytes);
        case.state.sel[1] = if bits == 64 { CS64 } else { CS32 };
        Made { instruction: build::decode(bytes, bits, CODE), case }
    }

    #[test]
    fn a_case_that_a_maker_cannot_answer_for_has_neighbours_that_it_can() {
        // A near branch with 66 in 64- and in 32-bit code; UD0; LOCK MOV CR0 and CR3.
        assert!(other_instruction(&made(64, &[0x66, 0x0f, 0x84, 0, 0, 0, 0])));
        assert!(!other_instruction(&made(64, &[0x0f, 0x84, 0, 0, 0, 0])));
        assert!(!other_instruction(&made(32, &[0x66, 0x0f, 0x84, 0, 0])));
        assert!(!other_instruction(&made(64, &[0x0f, 0xff, 0xc0])));
        assert!(other_instruction(&made(64, &[0xf0, 0x0f, 0x20, 0xc0])));
        assert!(!other_instruction(&made(64, &[0xf0, 0x0f, 0x20, 0xd8])));
        // LOOPE, LOOPNE.
        assert!(repeated_loop(&made(64, &[0xf2, 0xe1, 0x10])) && repeated_loop(&made(32, &[0xf3, 0xe0, 0x10])));
        assert!(!repeated_loop(&made(64, &[0xf3, 0xe1, 0x10])) && !repeated_loop(&made(32, &[0xf2, 0xe0, 0x10])));
        // PAUSE with REX.B, alone, with REX.W.
        assert!(repeated_exchange(&made(64, &[0xf3, 0x49, 0x90])));
        assert!(!repeated_exchange(&made(64, &[0xf3, 0x90])) && !repeated_exchange(&made(64, &[0xf3, 0x48, 0x90])));
        // VERW, VERR.
        assert!(locked_verw(&made(64, &[0xf0, 0x0f, 0, 0x28])) && !locked_verw(&made(64, &[0x0f, 0, 0x28])));
        assert!(!locked_verw(&made(64, &[0xf0, 0x0f, 0, 0x20])));
    }
}
