//! Names of the CPUID feature bits that are used here (SDM vol. 2A, "CPUID"). The comment of a group names leaf and register.

// Leaf 1, EDX.
/// x87 unit on chip.
pub const FPU: u32 = 1;
/// Debugging extensions (CR4.DE).
pub const DE: u32 = 1 << 2;
/// 4 MiB pages.
pub const PSE: u32 = 1 << 3;
/// Time stamp counter.
pub const TSC: u32 = 1 << 4;
/// RDMSR and WRMSR.
pub const MSR: u32 = 1 << 5;
/// Physical address extension.
pub const PAE: u32 = 1 << 6;
/// Machine check exception.
pub const MCE: u32 = 1 << 7;
/// CMPXCHG8B.
pub const CX8: u32 = 1 << 8;
/// Local APIC present and enabled.
pub const APIC: u32 = 1 << 9;
/// SYSENTER and SYSEXIT.
pub const SEP: u32 = 1 << 11;
/// Memory type range registers.
pub const MTRR: u32 = 1 << 12;
/// Global pages.
pub const PGE: u32 = 1 << 13;
/// Machine check architecture.
pub const MCA: u32 = 1 << 14;
/// Conditional moves.
pub const CMOV: u32 = 1 << 15;
/// Page attribute table.
pub const PAT: u32 = 1 << 16;
/// 36-bit (here 40-bit) 4 MiB pages.
pub const PSE36: u32 = 1 << 17;
/// CLFLUSH.
pub const CLFSH: u32 = 1 << 19;
/// MMX.
pub const MMX: u32 = 1 << 23;
/// FXSAVE and FXRSTOR.
pub const FXSR: u32 = 1 << 24;
/// SSE.
pub const SSE: u32 = 1 << 25;
/// SSE2.
pub const SSE2: u32 = 1 << 26;
/// More than one logical processor per package.
pub const HTT: u32 = 1 << 28;

// Leaf 1, ECX.
/// SSE3.
pub const SSE3: u32 = 1;
/// SSSE3.
pub const SSSE3: u32 = 1 << 9;
/// FMA.
pub const FMA: u32 = 1 << 12;
/// CMPXCHG16B.
pub const CX16: u32 = 1 << 13;
/// Process-context identifiers.
pub const PCID: u32 = 1 << 17;
/// SSE4.1.
pub const SSE4_1: u32 = 1 << 19;
/// SSE4.2.
pub const SSE4_2: u32 = 1 << 20;
/// x2APIC.
pub const X2APIC: u32 = 1 << 21;
/// MOVBE.
pub const MOVBE: u32 = 1 << 22;
/// POPCNT.
pub const POPCNT: u32 = 1 << 23;
/// Local APIC timer in TSC-deadline mode.
pub const TSC_DEADLINE: u32 = 1 << 24;
/// XSAVE, XRSTOR, XGETBV, XSETBV.
pub const XSAVE: u32 = 1 << 26;
/// CR4.OSXSAVE is set.
pub const OSXSAVE: u32 = 1 << 27;
/// AVX.
pub const AVX: u32 = 1 << 28;
/// Conversions to and from half precision.
pub const F16C: u32 = 1 << 29;
/// RDRAND.
pub const RDRAND: u32 = 1 << 30;
/// Runs under a hypervisor.
pub const HYPERVISOR: u32 = 1 << 31;

// Leaf 7, sub-leaf 0, EBX.
/// RDFSBASE and its family.
pub const FSGSBASE: u32 = 1;
/// IA32_TSC_ADJUST.
pub const TSC_ADJUST: u32 = 1 << 1;
/// The first group of bit manipulation instructions.
pub const BMI1: u32 = 1 << 3;
/// AVX2.
pub const AVX2: u32 = 1 << 5;
/// Supervisor-mode execution prevention.
pub const SMEP: u32 = 1 << 7;
/// The second group of bit manipulation instructions.
pub const BMI2: u32 = 1 << 8;
/// Fast REP MOVSB and STOSB.
pub const ERMS: u32 = 1 << 9;
/// INVPCID.
pub const INVPCID: u32 = 1 << 10;
/// The x87 CS and DS words are always stored as zero.
pub const NO_FCS_FDS: u32 = 1 << 13;
/// Supervisor-mode access prevention.
pub const SMAP: u32 = 1 << 20;

// Leaf 7, sub-leaf 0, EDX.
/// Fast short REP MOVSB.
pub const FSRM: u32 = 1 << 4;
/// IBRS in IA32_SPEC_CTRL and IBPB in IA32_PRED_CMD.
pub const IBRS_IBPB: u32 = 1 << 26;
/// STIBP in IA32_SPEC_CTRL.
pub const STIBP: u32 = 1 << 27;
/// IA32_ARCH_CAPABILITIES.
pub const ARCH_CAPABILITIES: u32 = 1 << 29;
/// SSBD in IA32_SPEC_CTRL.
pub const SSBD: u32 = 1 << 31;

// Leaf 7, sub-leaf 2, EDX.
/// BHI_DIS_S in IA32_SPEC_CTRL. Linux clears the branch history in software at each system call where it is missing, whatever
/// IA32_ARCH_CAPABILITIES says.
pub const BHI_CTRL: u32 = 1 << 4;

// Leaf 0Dh, sub-leaf 1, EAX.
/// XSAVEOPT.
pub const XSAVEOPT: u32 = 1;

// Leaf 8000_0001h, ECX.
/// LAHF and SAHF in 64-bit mode.
pub const LAHF64: u32 = 1;
/// LZCNT.
pub const LZCNT: u32 = 1 << 5;

// Leaf 8000_0001h, EDX.
/// SYSCALL and SYSRET in 64-bit mode.
pub const SYSCALL: u32 = 1 << 11;
/// No-execute pages.
pub const NX: u32 = 1 << 20;
/// 1 GiB pages.
pub const PAGE_1G: u32 = 1 << 26;
/// RDTSCP and IA32_TSC_AUX.
pub const RDTSCP: u32 = 1 << 27;
/// Long mode.
pub const LM: u32 = 1 << 29;

// Leaf 8000_0007h, EDX.
/// The TSC runs at a constant rate in every state.
pub const INVARIANT_TSC: u32 = 1 << 8;

// Leaf 6, EAX.
/// The local APIC timer runs in every power state.
pub const ARAT: u32 = 1 << 2;
