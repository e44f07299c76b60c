//! The rules that there are: what hosts differ in, and what is right for guests that were started elsewhere.
//!
//! The one idea: a rule says which value means that the guest never had the register; such a value can be given up, and is
//! what a register starts with that the guest meets only here. Register ids on aarch64 are KVM's (Linux,
//! Documentation/virt/kvm/api.rst, 4.68: architecture, size, and for system registers op0, op1, CRn, CRm, op2).

use super::{Action, Rule, Version};

/// KVM's bitmap of vendor hypercalls 2 (KVM_REG_ARM_VENDOR_HYP_BMAP_2).
pub const VENDOR_HYPERCALLS_2: u64 = 0x6030_0000_0016_0003;
/// TCR2_EL1, the extended translation control register (FEAT_TCR2).
pub const TCR2_EL1: u64 = 0x6030_0000_0013_c103;
/// PIRE0_EL1, permission indirection for EL0 (FEAT_S1PIE).
pub const PIRE0_EL1: u64 = 0x6030_0000_0013_c512;
/// PIR_EL1, permission indirection for EL1 (FEAT_S1PIE).
pub const PIR_EL1: u64 = 0x6030_0000_0013_c513;
/// DBGDTRTX of AArch32, as translated from its coprocessor encoding.
pub const DBGDTRTX: u64 = 0x4020_0000_200e_0298;

/// IA32_TSX_CTRL.
pub const TSX_CTRL: u64 = 0x122;
/// IA32_BNDCFGS.
pub const BNDCFGS: u64 = 0xd90;
/// MSR_KVM_SYSTEM_TIME_NEW: bit 0 enables the clock page.
pub const KVM_SYSTEM_TIME: u64 = 0x4b56_4d01;

const fn drop_if(id: u64, name: &'static str, mask: u128, why: &'static str) -> Rule {
    Rule { id, name, action: Action::DropIf { mask, equals: 0 }, why }
}

const fn default(id: u64, name: &'static str, value: u128, why: &'static str) -> Rule {
    Rule { id, name, action: Action::Default(value), why }
}

const NO_HYPERCALL: &str = "no vendor hypercall of the second bitmap was offered to the guest";
const BY_MISTAKE: &str = "Linux before 6.13 listed it for guests that do not have the feature";

/// aarch64.
pub const VIRT: &[Version] = &[Version {
    machine: "virt-0",
    rules: &[
        // Since Linux 6.16. A new host offers its hypercalls after a reset; a guest of an old one never saw them.
        drop_if(VENDOR_HYPERCALLS_2, "KVM_REG_ARM_VENDOR_HYP_BMAP_2", u128::MAX, NO_HYPERCALL),
        default(VENDOR_HYPERCALLS_2, "KVM_REG_ARM_VENDOR_HYP_BMAP_2", 0, NO_HYPERCALL),
        drop_if(TCR2_EL1, "TCR2_EL1", u128::MAX, BY_MISTAKE),
        default(TCR2_EL1, "TCR2_EL1", 0, BY_MISTAKE),
        drop_if(PIRE0_EL1, "PIRE0_EL1", u128::MAX, BY_MISTAKE),
        default(PIRE0_EL1, "PIRE0_EL1", 0, BY_MISTAKE),
        drop_if(PIR_EL1, "PIR_EL1", u128::MAX, BY_MISTAKE),
        default(PIR_EL1, "PIR_EL1", 0, BY_MISTAKE),
        Rule {
            id: DBGDTRTX,
            name: "DBGDTRTX",
            action: Action::Hide,
            why: "the debug channel has no other end in a virtual machine, so what was sent last says nothing",
        },
    ],
}];

/// x86.
pub const Q35: &[Version] = &[Version {
    machine: "q35-0",
    rules: &[
        drop_if(TSX_CTRL, "IA32_TSX_CTRL", 0b11, "neither transactions nor their CPUID bits were switched off"),
        drop_if(BNDCFGS, "IA32_BNDCFGS", 1, "bound checks of supervisor mode were not enabled"),
        default(BNDCFGS, "IA32_BNDCFGS", 0, "bound checks of supervisor mode were not enabled"),
        drop_if(KVM_SYSTEM_TIME, "MSR_KVM_SYSTEM_TIME_NEW", 1, "the guest has no clock page"),
        default(KVM_SYSTEM_TIME, "MSR_KVM_SYSTEM_TIME_NEW", 0, "the guest has no clock page"),
    ],
}];
