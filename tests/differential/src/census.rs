//! What became of every code that there is, in 64- and in 32-bit code: the proof that none is left out by accident.
//!
//! The idea: whoever runs a code writes it down, with what it was run for; what is not run has its reason in a table here, from
//! facts of the instruction tables alone and with the number of codes that it stands for. Nothing else may be left.

use std::collections::BTreeMap;

use iced_x86::{Code, DecoderOptions, OpCodeInfo};

/// What became of a code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Compared with the host.
    Compared,
    /// Compared with the host when the smaller model was, which has it too.
    Smaller,
    /// Excluded from that ([`crate::exclusions::reason`]): the tiers are compared.
    Excluded,
    /// Not advertised, with an older meaning ([`crate::exclusions::OLDER_MEANING`]): the tiers are compared.
    Older,
    /// Not advertised, and raises #UD by both tiers.
    Refused,
    /// Not run, for the reason of this name.
    Skipped(&'static str),
}

/// A reason not to run codes: its name, whether it holds in code of so many bits, and of how many codes it does.
pub type Skip = (&'static str, fn(&OpCodeInfo, u32) -> bool, usize);

fn has(o: &OpCodeInfo, option: u32) -> bool {
    o.decoder_option() & option != 0
}

/// The reasons; the first one that holds counts. What takes an option of the decoder is not decoded here without it: its bytes are
/// something else, which is a code of its own or nothing.
#[rustfmt::skip]
pub static SKIPPED: &[Skip] = &[
    ("no instruction, but a directive of assemblers", |o, _| !o.is_instruction(), 12),
    ("16- and 32-bit code only", |o, bits| bits == 64 && !o.mode64(), 240),
    ("64-bit code only", |o, bits| bits == 32 && !o.mode32(), 761),
    ("AMD's processors only: 66 before branches of 64-bit code, UD0 without ModRM", |o, bits| !if bits == 64 { o.intel_decoder64() } else { o.intel_decoder32() }, 49),
    ("Knights Corner, a coprocessor", |o, _| has(o, DecoderOptions::KNC), 255),
    ("MPX: hints that do nothing since it has gone", |o, _| has(o, DecoderOptions::MPX), 16),
    ("Cyrix", |o, _| has(o, DecoderOptions::CYRIX | DecoderOptions::CYRIX_DMI | DecoderOptions::CYRIX_SMINT_0F7E), 42),
    ("Centaur", |o, _| has(o, DecoderOptions::ALTINST), 1),
    ("C&T", |o, _| has(o, DecoderOptions::CL1INVMB), 1),
    ("80286 and 80386 only", |o, _| has(o, DecoderOptions::LOADALL286 | DecoderOptions::LOADALL386 | DecoderOptions::XBTS | DecoderOptions::MOV_TR), 9),
    ("80486 and its first steppings only", |o, _| has(o, DecoderOptions::UMOV | DecoderOptions::CMPXCHG486A), 9),
    ("coprocessors before the 80486", |o, _| has(o, DecoderOptions::OLD_FPU), 5),
    ("Itanium's way out of IA-32 code", |o, _| has(o, DecoderOptions::JMPE), 4),
    ("PCOMMIT, which no processor was sold with", |o, _| has(o, DecoderOptions::PCOMMIT), 2),
    ("microcode debugging of unlocked processors", |o, _| has(o, DecoderOptions::UDBG), 4),
];

/// Codes that cannot be written so that they are decoded as themselves, with the reason.
#[rustfmt::skip]
pub static UNREACHABLE: &[(Code, &str)] = &[
    (Code::Montmul_16, "VIA's: the decoder knows only its form of 32-bit addresses"),
    (Code::Montmul_64, "VIA's: the decoder knows only its form of 32-bit addresses"),
    (Code::Popw_CS, "8086 only: its byte begins longer opcodes since"),
];

/// Why a code is not run in code of `bits` bits, if it is not.
pub fn skipped(code: Code, bits: u32) -> Option<&'static str> {
    let unreachable = UNREACHABLE.iter().find(|u| u.0 == code).map(|u| u.1);
    SKIPPED.iter().find(|s| s.1(code.op_code(), bits)).map(|s| s.0).or(unreachable)
}

/// Codes by number and bits, and what became of each.
#[derive(Clone, Debug, Default)]
pub struct Census(BTreeMap<(Code, u32), Vec<Fate>>);

impl Census {
    /// A code was run for this; many times are as good as once.
    pub fn add(&mut self, code: Code, bits: u32, fate: Fate) {
        let fates = self.0.entry((code, bits)).or_default();
        if !fates.contains(&fate) {
            fates.push(fate);
        }
    }

    /// Whether anything became of a code.
    pub fn has(&self, code: Code, bits: u32) -> bool {
        self.0.contains_key(&(code, bits))
    }

    /// The first code of this fate, and the bits.
    pub fn first(&self, fate: Fate) -> Option<(Code, u32)> {
        self.0.iter().find(|(_, fates)| fates.contains(&fate)).map(|(name, _)| *name)
    }

    /// Forget what became of a code.
    pub fn remove(&mut self, code: Code, bits: u32) {
        self.0.remove(&(code, bits));
    }

    /// What became of other codes.
    pub fn merge(&mut self, other: &Census) {
        for ((code, bits), fates) in &other.0 {
            let here = self.0.entry((*code, *bits)).or_default();
            here.extend(fates.iter().filter(|f| !here.contains(f)).copied().collect::<Vec<_>>());
        }
    }

    /// How many codes each fate has met: counted once for 64-bit and once for 32-bit code.
    ///
    /// # Errors
    /// Codes without a fate or with more than one, and reasons to skip that hold of more or fewer codes than their table says.
    pub fn close(mut self) -> Result<BTreeMap<Fate, usize>, Vec<String>> {
        let (mut counts, mut wrong) = (BTreeMap::new(), vec![]);
        for (bits, code) in [64, 32].into_iter().flat_map(|bits| Code::values().map(move |c| (bits, c))) {
            if let Some(why) = skipped(code, bits) {
                self.add(code, bits, Fate::Skipped(why));
            }
            match self.0.remove(&(code, bits)).as_deref() {
                Some([fate]) => *counts.entry(*fate).or_default() += 1,
                fates => wrong.push(format!(
                    "{code:?} in {bits}-bit code: {}",
                    match fates {
                        Some(fates) => format!("{fates:?}"),
                        None => "left out".into(),
                    }
                )),
            }
        }
        for (name, _, count) in SKIPPED {
            let found = counts.get(&Fate::Skipped(name)).copied().unwrap_or(0);
            if found != *count {
                wrong.push(format!("'{name}' holds of {found} codes, not of {count}"));
            }
        }
        if wrong.is_empty() { Ok(counts) } else { Err(wrong) }
    }
}
