//! Model-specific registers: indices, and how a table row describes one.

/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;
/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_TSC_ADJUST.
pub const TSC_ADJUST: u32 = 0x3b;
/// IA32_SPEC_CTRL.
pub const SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD.
pub const PRED_CMD: u32 = 0x49;
/// IA32_BIOS_SIGN_ID.
pub const BIOS_SIGN_ID: u32 = 0x8b;
/// IA32_MTRRCAP.
pub const MTRR_CAP: u32 = 0xfe;
/// IA32_ARCH_CAPABILITIES.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_SYSENTER_CS.
pub const SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
pub const SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
pub const SYSENTER_EIP: u32 = 0x176;
/// IA32_MCG_CAP.
pub const MCG_CAP: u32 = 0x179;
/// IA32_MCG_STATUS.
pub const MCG_STATUS: u32 = 0x17a;
/// IA32_MISC_ENABLE.
pub const MISC_ENABLE: u32 = 0x1a0;
/// IA32_DEBUGCTL.
pub const DEBUGCTL: u32 = 0x1d9;
/// IA32_MTRR_PHYSBASE0; base and mask registers alternate.
pub const MTRR_VARIABLE: u32 = 0x200;
/// IA32_PAT.
pub const PAT: u32 = 0x277;
/// IA32_MTRR_DEF_TYPE.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// First register of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last register of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8ff;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// IA32_STAR.
pub const STAR: u32 = 0xc000_0081;
/// IA32_LSTAR.
pub const LSTAR: u32 = 0xc000_0082;
/// IA32_CSTAR.
pub const CSTAR: u32 = 0xc000_0083;
/// IA32_FMASK.
pub const FMASK: u32 = 0xc000_0084;
/// IA32_FS_BASE.
pub const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// IA32_TSC_AUX.
pub const TSC_AUX: u32 = 0xc000_0103;

/// How the guest may use a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Always reads as the reset value; a write raises #GP.
    ReadOnly,
    /// A write that sets no bit outside the mask takes effect, others raise #GP.
    Stored {
        /// Bits that may be set.
        mask: u64,
    },
    /// A write of any value is accepted and changes nothing.
    WriteIgnored,
    /// A read raises #GP; a write with no bit outside the mask is a command without a lasting effect.
    Command {
        /// Bits that may be set.
        mask: u64,
    },
    /// The engine gives it its meaning (addresses must be canonical, bits have effects, the local APIC or clock owns it).
    Engine,
}

/// One row of a model's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// ECX of RDMSR and WRMSR.
    pub index: u32,
    /// The manual's name without the IA32_ prefix.
    pub name: &'static str,
    /// Value after a reset of the machine.
    pub reset: u64,
    /// What RDMSR and WRMSR do.
    pub access: Access,
}
