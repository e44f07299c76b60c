//! The model `atoll-v2`: an Intel-style 64-bit processor up to SSE4.2 that needs none of the speculation work-arounds.
//!
//! It looks like family 6 model 2Ch so that user land takes the string routines meant for fast unaligned accesses and ERMS,
//! and reports in IA32_ARCH_CAPABILITIES that it has enhanced IBRS and none of the known leaks: a translator executes
//! nothing speculatively on behalf of the guest, so that retpolines and page-table isolation would only cost time.

use crate::features::*;
use crate::msr::{self, Access, Msr};
use crate::{Leaf, Model};

const fn leaf(leaf: u32, regs: [u32; 4]) -> Leaf {
    Leaf { leaf, subleaf: None, regs }
}

const fn sub(leaf: u32, subleaf: u32, regs: [u32; 4]) -> Leaf {
    Leaf { leaf, subleaf: Some(subleaf), regs }
}

/// Four characters of a string register.
const fn text(s: &[u8; 48], at: usize) -> u32 {
    u32::from_le_bytes([s[at], s[at + 1], s[at + 2], s[at + 3]])
}

const fn brand(name: &[u8; 48], at: usize) -> [u32; 4] {
    [text(name, at), text(name, at + 4), text(name, at + 8), text(name, at + 12)]
}

/// What the models of one family differ in.
pub(crate) struct Level {
    /// Leaves 8000_0002h to 8000_0004h.
    pub brand: &'static [u8; 48],
    /// Leaf 1, ECX.
    pub leaf1_ecx: u32,
    /// Leaf 7, EBX.
    pub leaf7_ebx: u32,
    /// Leaf 8000_0001h, ECX.
    pub extended_ecx: u32,
    /// Leaf 0Dh, sub-leaf 1, EAX.
    pub xsave: u32,
    /// Leaf 0Dh, sub-leaf 2: size and offset of the AVX component, if there is one.
    pub avx_state: [u32; 4],
}

pub(crate) const PHYS_BITS: u8 = 40;
pub(crate) const LINEAR_BITS: u8 = 48;
pub(crate) const CRYSTAL_HZ: u64 = 25_000_000;
pub(crate) const TSC_RATIO: u64 = 40;

/// Family 6, model 2Ch, stepping 2 (SDM vol. 2A, figure "Version information returned by CPUID in EAX").
const SIGNATURE: u32 = 0x0002_06c2;

const LEAF1_EDX: u32 = FPU
    | DE
    | PSE
    | TSC
    | MSR
    | PAE
    | MCE
    | CX8
    | APIC
    | SEP
    | MTRR
    | PGE
    | MCA
    | CMOV
    | PAT
    | PSE36
    | CLFSH
    | MMX
    | FXSR
    | SSE
    | SSE2;
pub(crate) const LEAF1_ECX: u32 =
    SSE3 | SSSE3 | CX16 | PCID | SSE4_1 | SSE4_2 | X2APIC | POPCNT | TSC_DEADLINE | XSAVE | RDRAND | HYPERVISOR;
pub(crate) const LEAF7_EBX: u32 = FSGSBASE | TSC_ADJUST | SMEP | ERMS | INVPCID | NO_FCS_FDS | SMAP;
const LEAF7_EDX: u32 = FSRM | IBRS_IBPB | STIBP | ARCH_CAPABILITIES | SSBD;

/// One cache of leaf 4: type (1 data, 2 instruction, 3 unified), level, ways and sets of 64-byte lines.
const fn cache(subleaf: u32, kind: u32, level: u32, ways: u32, sets: u32) -> Leaf {
    // Bit 8: self-initialising.
    sub(4, subleaf, [kind | level << 5 | 1 << 8, 63 | (ways - 1) << 22, sets - 1, 0])
}

/// CPUID of a model of this family.
pub(crate) const fn leaves(level: &Level) -> [Leaf; 25] {
    [
        // "GenuineIntel" in EBX, EDX, ECX.
        leaf(0, [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        // CLFLUSH lines of 8 quadwords; APIC id and count are patched.
        leaf(1, [SIGNATURE, 8 << 8, level.leaf1_ecx, LEAF1_EDX]),
        // Caches are described by leaf 4.
        leaf(2, [0x00ff_0001, 0, 0, 0]),
        cache(0, 1, 1, 8, 64),
        cache(1, 2, 1, 8, 64),
        cache(2, 3, 2, 8, 512),
        cache(3, 3, 3, 16, 16384),
        leaf(6, [ARAT, 0, 0, 0]),
        sub(7, 0, [2, level.leaf7_ebx, 0, LEAF7_EDX]),
        sub(7, 2, [0, 0, 0, BHI_CTRL]),
        // Topology and XSAVE sizes are patched.
        leaf(0xb, [0; 4]),
        sub(0xd, 0, [0; 4]),
        sub(0xd, 1, [level.xsave, 0, 0, 0]),
        sub(0xd, 2, level.avx_state),
        leaf(0x15, [1, TSC_RATIO as u32, CRYSTAL_HZ as u32, 0]),
        // Base, maximum and bus frequency in MHz.
        leaf(0x16, [1000, 1000, 100, 0]),
        // "AtollVMM" and the highest leaf of the hypervisor range.
        leaf(0x4000_0000, [0x4000_0000, 0x6c6f_7441, 0x4d4d_566c, 0]),
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, level.extended_ecx, SYSCALL | NX | PAGE_1G | RDTSCP | LM]),
        leaf(0x8000_0002, brand(level.brand, 0)),
        leaf(0x8000_0003, brand(level.brand, 16)),
        leaf(0x8000_0004, brand(level.brand, 32)),
        // L2: 256 KiB, 8 ways, 64-byte lines.
        leaf(0x8000_0006, [0, 0, 256 << 16 | 6 << 12 | 64, 0]),
        leaf(0x8000_0007, [0, 0, 0, INVARIANT_TSC]),
        leaf(0x8000_0008, [PHYS_BITS as u32 | (LINEAR_BITS as u32) << 8, 0, 0, 0]),
    ]
}

static LEAVES: [Leaf; 25] = leaves(&Level {
    brand: b"Atoll virtual CPU v2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    leaf1_ecx: LEAF1_ECX,
    leaf7_ebx: LEAF7_EBX,
    extended_ecx: LAHF64,
    xsave: 0,
    avx_state: [0; 4],
});

/// IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2): the bits that say "not affected", and enhanced IBRS.
pub const ARCH_CAPS: u64 = 1 // RDCL_NO
    | 1 << 1 // IBRS_ALL
    | 1 << 3 // SKIP_L1DFL_VMENTRY
    | 1 << 4 // SSB_NO
    | 1 << 5 // MDS_NO
    | 1 << 6 // IF_PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 1 << 13 // SBDR_SSDP_NO
    | 1 << 14 // FBSDP_NO
    | 1 << 15 // PSDP_NO
    | 1 << 20 // BHI_NO
    | 1 << 24 // PBRSB_NO
    | 1 << 26 // GDS_NO
    | 1 << 27 // RFDS_NO
    | 1 << 62; // ITS_NO

const PHYS_MASK: u64 = (1 << PHYS_BITS) - 1;
const MTRR_BASE_MASK: u64 = PHYS_MASK & !0xfff | 0xff;
const MTRR_MASK_MASK: u64 = PHYS_MASK & !0xfff | 1 << 11;

const fn row(index: u32, name: &'static str, reset: u64, access: Access) -> Msr {
    Msr { index, name, reset, access }
}

const fn stored(index: u32, name: &'static str, reset: u64, mask: u64) -> Msr {
    row(index, name, reset, Access::Stored { mask })
}

const fn mtrr_base(n: u32) -> Msr {
    stored(msr::MTRR_VARIABLE + 2 * n, "MTRR_PHYSBASE", 0, MTRR_BASE_MASK)
}

const fn mtrr_mask(n: u32) -> Msr {
    stored(msr::MTRR_VARIABLE + 2 * n + 1, "MTRR_PHYSMASK", 0, MTRR_MASK_MASK)
}

const fn mtrr_fixed(index: u32) -> Msr {
    // Write-back everywhere, as firmware would leave it.
    stored(index, "MTRR_FIX", 0x0606_0606_0606_0606, u64::MAX)
}

pub(crate) static MSRS: &[Msr] = &[
    row(msr::TSC, "TIME_STAMP_COUNTER", 0, Access::Engine),
    row(msr::APIC_BASE, "APIC_BASE", 0xfee0_0900, Access::Engine),
    // Locked, nothing enabled.
    row(msr::FEATURE_CONTROL, "FEATURE_CONTROL", 1, Access::ReadOnly),
    row(msr::TSC_ADJUST, "TSC_ADJUST", 0, Access::Engine),
    // IBRS, STIBP, SSBD, BHI_DIS_S.
    stored(msr::SPEC_CTRL, "SPEC_CTRL", 0, 0x407),
    // IBPB.
    row(msr::PRED_CMD, "PRED_CMD", 0, Access::Command { mask: 1 }),
    row(msr::BIOS_SIGN_ID, "BIOS_SIGN_ID", 1 << 32, Access::WriteIgnored),
    // 8 variable ranges, fixed ranges, write combining.
    row(msr::MTRR_CAP, "MTRRCAP", 0x508, Access::ReadOnly),
    row(msr::ARCH_CAPABILITIES, "ARCH_CAPABILITIES", ARCH_CAPS, Access::ReadOnly),
    row(msr::SYSENTER_CS, "SYSENTER_CS", 0, Access::Engine),
    row(msr::SYSENTER_ESP, "SYSENTER_ESP", 0, Access::Engine),
    row(msr::SYSENTER_EIP, "SYSENTER_EIP", 0, Access::Engine),
    // No error-reporting banks.
    row(msr::MCG_CAP, "MCG_CAP", 0, Access::ReadOnly),
    stored(msr::MCG_STATUS, "MCG_STATUS", 0, 7),
    // Fast strings; branch trace store and precise events unavailable.
    stored(msr::MISC_ENABLE, "MISC_ENABLE", 0x1801, 0x1801),
    stored(msr::DEBUGCTL, "DEBUGCTL", 0, 0),
    mtrr_base(0),
    mtrr_mask(0),
    mtrr_base(1),
    mtrr_mask(1),
    mtrr_base(2),
    mtrr_mask(2),
    mtrr_base(3),
    mtrr_mask(3),
    mtrr_base(4),
    mtrr_mask(4),
    mtrr_base(5),
    mtrr_mask(5),
    mtrr_base(6),
    mtrr_mask(6),
    mtrr_base(7),
    mtrr_mask(7),
    mtrr_fixed(0x250),
    mtrr_fixed(0x258),
    mtrr_fixed(0x259),
    mtrr_fixed(0x268),
    mtrr_fixed(0x269),
    mtrr_fixed(0x26a),
    mtrr_fixed(0x26b),
    mtrr_fixed(0x26c),
    mtrr_fixed(0x26d),
    mtrr_fixed(0x26e),
    mtrr_fixed(0x26f),
    row(msr::PAT, "PAT", 0x0007_0406_0007_0406, Access::Engine),
    // Enabled with write-back as the default, as firmware would leave it: a kernel that is started directly finds no
    // firmware, and Linux gives up the PAT where it finds the ranges disabled.
    stored(msr::MTRR_DEF_TYPE, "MTRR_DEF_TYPE", 0x806, 0xcff),
    row(msr::TSC_DEADLINE, "TSC_DEADLINE", 0, Access::Engine),
    row(msr::EFER, "EFER", 0, Access::Engine),
    row(msr::STAR, "STAR", 0, Access::Engine),
    row(msr::LSTAR, "LSTAR", 0, Access::Engine),
    row(msr::CSTAR, "CSTAR", 0, Access::Engine),
    row(msr::FMASK, "FMASK", 0, Access::Engine),
    row(msr::FS_BASE, "FS_BASE", 0, Access::Engine),
    row(msr::GS_BASE, "GS_BASE", 0, Access::Engine),
    row(msr::KERNEL_GS_BASE, "KERNEL_GS_BASE", 0, Access::Engine),
    row(msr::TSC_AUX, "TSC_AUX", 0, Access::Engine),
];

/// See the module's description.
pub static MODEL: Model = Model {
    name: "atoll-v2",
    leaves: &LEAVES,
    msrs: MSRS,
    phys_bits: PHYS_BITS,
    linear_bits: LINEAR_BITS,
    crystal_hz: CRYSTAL_HZ,
    tsc_hz: CRYSTAL_HZ * TSC_RATIO,
    xcr0: 3,
};
