//! The tables' own rules, and the answers that Linux bases its choices on.

use super::*;

fn facts(apic_id: u32, vcpus: u32) -> Facts {
    Facts { apic_id, vcpus, apic_enabled: true, osxsave: false, xcr0: 1 }
}

fn v2() -> &'static Model {
    by_name("atoll-v2").unwrap()
}

#[test]
fn models_are_found_by_name_only() {
    let error = by_name("host").unwrap_err();
    assert!(error.to_string().contains("atoll-v2"), "the error lists what exists: {error}");
}

#[test]
fn tables_ascend() {
    for m in MODELS {
        for pair in m.leaves.windows(2) {
            let key = |l: &Leaf| (l.leaf, l.subleaf);
            assert!(key(&pair[0]) < key(&pair[1]), "{pair:x?}");
        }
        for pair in m.msrs.windows(2) {
            assert!(pair[0].index < pair[1].index, "{pair:x?}");
        }
        for msr in m.msrs {
            assert_eq!(m.msr(msr.index), Some(msr));
            if let Access::Stored { mask } = msr.access {
                assert_eq!(msr.reset & !mask, 0, "{msr:x?}: the reset value could not be written back");
            }
        }
    }
}

#[test]
fn topology_is_one_core_per_vcpu() {
    let f = facts(5, 6);
    let m = v2();
    assert_eq!(m.cpuid(0xb, 0, &f), [0, 1, 0x100, 5]);
    assert_eq!(m.cpuid(0xb, 1, &f), [3, 6, 0x201, 5]);
    assert_eq!(m.cpuid(0xb, 2, &f), [0, 0, 2, 5]);
    assert_eq!(m.cpuid(1, 0, &f)[1], 5 << 24 | 6 << 16 | 8 << 8);
    assert_ne!(m.cpuid(1, 0, &f)[3] & features::HTT, 0);
    assert_eq!(m.cpuid(1, 0, &facts(0, 1))[3] & features::HTT, 0);
    assert_eq!(m.cpuid(4, 3, &f)[0] >> 14 & 0xfff, 7, "all eight ids may share the last level");
    assert_eq!(m.cpuid(4, 0, &f)[0] >> 14 & 0xfff, 0);
    assert_eq!(m.cpuid(4, 4, &f), [0; 4], "no fifth cache");
}

#[test]
fn bits_follow_the_state() {
    let m = v2();
    let f = Facts { apic_enabled: false, osxsave: true, ..facts(0, 1) };
    assert_eq!(m.cpuid(1, 0, &f)[3] & features::APIC, 0);
    assert_ne!(m.cpuid(1, 0, &f)[2] & features::OSXSAVE, 0);
    assert_eq!(m.cpuid(0xd, 0, &f), [3, 576, 576, 0]);
    assert_eq!(m.cpuid(0xd, 1, &f), [0; 4], "neither XSAVEOPT nor XSAVEC nor XSAVES");
}

#[test]
fn the_larger_model_is_what_the_abi_calls_v3() {
    let m = by_name("atoll-v3").unwrap();
    let f = Facts { osxsave: true, xcr0: 7, ..facts(0, 1) };
    use features::*;
    let ecx = m.cpuid(1, 0, &f)[2];
    assert_eq!(ecx & (AVX | F16C | FMA | MOVBE | OSXSAVE), AVX | F16C | FMA | MOVBE | OSXSAVE);
    let ebx = m.cpuid(7, 0, &f)[1];
    assert_eq!(ebx & (AVX2 | BMI1 | BMI2), AVX2 | BMI1 | BMI2);
    assert_eq!(m.cpuid(0x8000_0001, 0, &f)[2], LAHF64 | LZCNT);
    assert_eq!(m.cpuid(0xd, 0, &f), [7, 832, 832, 0]);
    assert_eq!(m.cpuid(0xd, 0, &Facts { xcr0: 3, ..f }), [7, 576, 832, 0], "what is on, and what could be");
    assert_eq!(m.cpuid(0xd, 1, &f), [XSAVEOPT, 0, 0, 0]);
    assert_eq!(m.cpuid(0xd, 2, &f), [256, 576, 0, 0]);
    // Everything else is the smaller model's.
    for leaf in [0, 2, 6, 0x15, 0x16, 0x8000_0006, 0x8000_0008] {
        assert_eq!(m.cpuid(leaf, 0, &f), v2().cpuid(leaf, 0, &f), "{leaf:#x}");
    }
    assert!(!m.xcr0_may_be(5) && m.xcr0_may_be(7) && !v2().xcr0_may_be(7));
}

#[test]
fn out_of_range_leaves_answer_as_the_last_basic_one() {
    let m = v2();
    let last = m.cpuid(0x16, 0, &facts(0, 1));
    for leaf in [0x17, 0x3fff_ffff, 0x4000_0001, 0x8000_0009, 0xc000_0000, u32::MAX] {
        assert_eq!(m.cpuid(leaf, 0, &facts(0, 1)), last, "{leaf:#x}");
    }
    assert_eq!(m.cpuid(3, 0, &facts(0, 1)), [0; 4]);
}

#[test]
fn the_clock_is_known_without_calibration() {
    let [denominator, numerator, crystal, _] = v2().cpuid(0x15, 0, &facts(0, 1));
    assert_eq!(u64::from(crystal) * u64::from(numerator) / u64::from(denominator), v2().tsc_hz);
    assert_eq!(v2().tsc_hz, 1_000_000_000);
}

#[test]
fn linux_finds_no_reason_for_retpolines_or_page_table_isolation() {
    assert_ne!(v2().cpuid(7, 0, &facts(0, 1))[3] & features::ARCH_CAPABILITIES, 0);
    let caps = v2().msr(msr::ARCH_CAPABILITIES).unwrap().reset;
    assert_eq!(caps & 3, 3, "RDCL_NO (no page-table isolation) and IBRS_ALL (no retpolines)");
}

#[test]
fn text_registers_read_as_meant() {
    let text = |r: &[u32]| r.iter().flat_map(|w| w.to_le_bytes()).map(char::from).collect::<String>();
    let f = facts(0, 1);
    let [_, b, c, d] = v2().cpuid(0, 0, &f);
    assert_eq!(text(&[b, d, c]), "GenuineIntel");
    let hyper = v2().cpuid(0x4000_0000, 0, &f);
    assert_eq!(text(&hyper[1..]), "AtollVMM\0\0\0\0");
    assert!(text(&v2().cpuid(0x8000_0002, 0, &f)).starts_with("Atoll virtual"));
}
