//! CPU models as data: what CPUID says and which model-specific registers exist, per named model.
//!
//! The one idea: a model is a table that both engines, the supervisor and a migration's pre-flight check read; what differs
//! between the vCPUs of one VM ([`Facts`]) is patched into the table's answers by one pure function. Nothing is listed that
//! the translator does not implement, so that a guest never sees a feature that traps.
//!
//! Sources: Intel SDM vol. 2A "CPUID", vol. 4 "Model-specific registers".

mod atoll_v2;
mod atoll_v3;
pub mod features;
pub mod msr;

pub use msr::{Access, Msr};

/// One CPUID answer of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// EAX at entry.
    pub leaf: u32,
    /// ECX at entry; `None` if the leaf has no sub-leaves (any ECX gives the same answer).
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub regs: [u32; 4],
}

/// A named CPU model.
#[derive(Debug)]
pub struct Model {
    /// The name used on the command line and in saved state, such as `atoll-v2`.
    pub name: &'static str,
    /// CPUID answers, ascending. What is patched per vCPU is zero here.
    pub leaves: &'static [Leaf],
    /// Model-specific registers, ascending. The x2APIC range 0x800..=0x8ff belongs to the local APIC and is not listed.
    pub msrs: &'static [Msr],
    /// Physical address width in bits (MAXPHYADDR).
    pub phys_bits: u8,
    /// Linear address width in bits.
    pub linear_bits: u8,
    /// Frequency of the core crystal clock, which also feeds the local APIC timer, in Hz (leaf 15h).
    pub crystal_hz: u64,
    /// Frequency of the time stamp counter in Hz.
    pub tsc_hz: u64,
    /// Bits that may be set in XCR0.
    pub xcr0: u64,
}

/// What CPUID reports about one vCPU at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Local APIC id (x2APIC id).
    pub apic_id: u32,
    /// vCPUs of the VM, at least 1.
    pub vcpus: u32,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0 as it is now.
    pub xcr0: u64,
}

/// The models that this build knows, the default one first.
pub static MODELS: &[&Model] = &[&atoll_v2::MODEL, &atoll_v3::MODEL];

/// What can be wrong with a request to this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such model.
    #[error("unknown CPU model \"{name}\": this build has {known}")]
    Unknown {
        /// What was asked for, at most 40 characters of it.
        name: String,
        /// The names that exist.
        known: String,
    },
}

/// Finds a model by its name.
///
/// # Errors
/// [`Error::Unknown`] names what was asked for and what exists.
pub fn by_name(name: &str) -> Result<&'static Model, Error> {
    MODELS.iter().copied().find(|m| m.name == name).ok_or_else(|| Error::Unknown {
        name: name.chars().take(40).collect(),
        known: MODELS.iter().map(|m| m.name).collect::<Vec<_>>().join(", "),
    })
}

impl Model {
    /// The answer to CPUID with EAX = `leaf` and ECX = `subleaf` on the vCPU that `facts` describes: EAX, EBX, ECX, EDX.
    ///
    /// A leaf beyond the highest of its range gives the highest basic leaf's answer, as Intel processors do; an unknown
    /// sub-leaf gives zeros.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, facts: &Facts) -> [u32; 4] {
        let leaf = self.in_range(leaf);
        let mut r = self
            .leaves
            .iter()
            .find(|l| l.leaf == leaf && l.subleaf.is_none_or(|s| s == subleaf))
            .map_or([0; 4], |l| l.regs);
        self.patch(leaf, subleaf, facts, &mut r);
        r
    }

    fn in_range(&self, leaf: u32) -> u32 {
        let max = |base: u32| self.leaves.iter().find(|l| l.leaf == base).map_or(0, |l| l.regs[0]);
        let base = leaf & 0xc000_0000;
        if leaf <= max(base) && leaf >= base { leaf } else { max(0) }
    }

    fn patch(&self, leaf: u32, subleaf: u32, facts: &Facts, r: &mut [u32; 4]) {
        let vcpus = facts.vcpus.max(1);
        match leaf {
            1 => {
                r[1] |= facts.apic_id << 24 | vcpus.min(255) << 16;
                if facts.osxsave {
                    r[2] |= features::OSXSAVE;
                }
                if !facts.apic_enabled {
                    r[3] &= !features::APIC;
                }
                if vcpus > 1 {
                    r[3] |= features::HTT;
                }
            }
            // Every vCPU is a core; the last level cache is shared by all, the others by none.
            4 if r[0] != 0 => {
                let cores = core_bits(vcpus);
                r[0] |= ((1u32 << cores.min(6)) - 1) << 26;
                if r[0] >> 5 & 7 == 3 {
                    r[0] |= ((1u32 << cores.min(12)) - 1) << 14;
                }
            }
            0xb => {
                *r = match subleaf {
                    0 => [0, 1, 1 << 8, facts.apic_id],
                    1 => [core_bits(vcpus), vcpus, 2 << 8 | 1, facts.apic_id],
                    n => [0, 0, n & 0xff, facts.apic_id],
                };
            }
            // Legacy area and header for what XCR0 has on, for all that it could have.
            0xd if subleaf == 0 => {
                *r = [self.xcr0 as u32, xsave_size(facts.xcr0), xsave_size(self.xcr0), (self.xcr0 >> 32) as u32];
            }
            _ => {}
        }
    }

    /// Whether XCR0 can have this value (SDM vol. 1, 13.3): x87 is always on, and AVX needs SSE.
    pub const fn xcr0_may_be(&self, v: u64) -> bool {
        v & !self.xcr0 == 0 && v & 1 != 0 && (v & XCR0_AVX == 0 || v & XCR0_SSE != 0)
    }

    /// The register with this index, if the model has it.
    pub fn msr(&self, index: u32) -> Option<&'static Msr> {
        self.msrs.binary_search_by_key(&index, |m| m.index).ok().map(|i| &self.msrs[i])
    }
}

/// Bits that an APIC id needs for `vcpus` cores.
const fn core_bits(vcpus: u32) -> u32 {
    32 - (vcpus - 1).leading_zeros()
}

/// SSE in XCR0.
const XCR0_SSE: u64 = 2;
/// AVX in XCR0.
const XCR0_AVX: u64 = 4;
/// Where the upper halves of YMM registers lie in the XSAVE area: behind the legacy region and the header (SDM vol. 1, 13.4).
pub const XSAVE_AVX_OFFSET: u32 = 512 + 64;
/// Bytes that they take.
pub const XSAVE_AVX_SIZE: u32 = 16 * 16;

/// Size of the XSAVE area for the components of `xcr0`.
const fn xsave_size(xcr0: u64) -> u32 {
    if xcr0 & XCR0_AVX != 0 { XSAVE_AVX_OFFSET + XSAVE_AVX_SIZE } else { XSAVE_AVX_OFFSET }
}

#[cfg(test)]
mod tests;
