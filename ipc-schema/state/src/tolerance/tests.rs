//! Real differences between hosts, both ways, and what may never happen: that a register is lost in silence.

use super::rules::*;
use super::*;

/// MPIDR_EL1 and others that everybody has, on both sides of the ids that matter.
const COMMON: [u64; 4] = [0x6030_0000_0010_0000, 0x6030_0000_0013_c080, 0x6030_0000_0013_df02, 0x6030_0000_0014_0000];

fn register(id: u64, value: u128) -> Register {
    let size = if id == DBGDTRTX { 4 } else { 8 };
    Register { id, size, value }
}

/// A list with the common registers and these, which are zero after a reset.
fn source(extra: &[(u64, u128)]) -> Vec<Incoming> {
    let common = COMMON.iter().map(|id| (*id, 5));
    let all = common.chain(extra.iter().copied());
    all.map(|(id, value)| Incoming { register: register(id, value), reset: Some(0) }).collect()
}

fn known(extra: &[(u64, u128)]) -> Vec<Known> {
    let common = COMMON.iter().map(|id| (*id, 0));
    common.chain(extra.iter().copied()).map(|(id, reset)| register(id, reset)).collect()
}

fn virt() -> Rules {
    Rules::of(VIRT, "virt-0").unwrap()
}

fn value(plan: &Plan, id: u64) -> Option<u128> {
    plan.load.iter().find(|register| register.id == id).map(|register| register.value)
}

fn refused(result: Result<Plan, Refusal>) -> Vec<u64> {
    result.unwrap_err().0.iter().map(|refused| refused.id).collect()
}

#[test]
fn equal_hosts_exchange_everything() {
    let plan = reconcile(&source(&[(TCR2_EL1, 9)]), &known(&[(TCR2_EL1, 0)]), &virt()).unwrap();
    assert_eq!(value(&plan, TCR2_EL1), Some(9));
    assert_eq!((plan.load.len(), plan.dropped), (5, vec![]));
}

#[test]
fn from_linux_6_16_to_an_older_one() {
    let to = |bitmap| reconcile(&source(&[(VENDOR_HYPERCALLS_2, bitmap)]), &known(&[]), &virt());
    let plan = to(0).unwrap();
    assert_eq!(
        plan.dropped,
        [(
            register(VENDOR_HYPERCALLS_2, 0),
            Reason::Rule("no vendor hypercall of the second bitmap was offered to the guest")
        )]
    );
    assert_eq!(plan.load.len(), 4);
    // The guest was told of hypercalls that would be gone.
    let refusal = to(0b11).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "1 register cannot be loaded here: 0x6030000000160003 (KVM_REG_ARM_VENDOR_HYP_BMAP_2) is unknown here and holds \
         0x3, not 0x0 as after a reset"
    );
    // Even if it is what a reset gives there, without the rule's consent only equality with the reset counts.
    let offered = Incoming { register: register(VENDOR_HYPERCALLS_2, 3), reset: Some(3) };
    let plan = reconcile(&[offered], &[], &Rules::default()).unwrap();
    assert_eq!(plan.dropped, [(offered.register, Reason::Reset)]);
}

#[test]
fn from_an_older_linux_to_6_16() {
    // After a reset the new host offers its hypercalls; the guest must not find them all of a sudden.
    let plan = reconcile(&source(&[]), &known(&[(VENDOR_HYPERCALLS_2, 0b11)]), &virt()).unwrap();
    assert_eq!(value(&plan, VENDOR_HYPERCALLS_2), Some(0));
    let plan = reconcile(&source(&[]), &known(&[(VENDOR_HYPERCALLS_2, 0b11)]), &Rules::default()).unwrap();
    assert_eq!(value(&plan, VENDOR_HYPERCALLS_2), Some(0b11));
}

#[test]
fn registers_that_linux_listed_by_mistake_before_6_13() {
    let ids = [TCR2_EL1, PIRE0_EL1, PIR_EL1];
    let with = |value| ids.map(|id| (id, value));
    let plan = reconcile(&source(&with(0)), &known(&[]), &virt()).unwrap();
    assert_eq!(plan.dropped.iter().map(|(register, _)| register.id).collect::<Vec<_>>(), ids);
    assert!(plan.dropped.iter().all(|(_, reason)| matches!(reason, Reason::Rule(_))));
    // All are named, not the first alone.
    let refusal = reconcile(&source(&with(1)), &known(&[]), &virt()).unwrap_err();
    for name in ["0x603000000013c103 (TCR2_EL1)", "0x603000000013c512 (PIRE0_EL1)", "0x603000000013c513 (PIR_EL1)"] {
        assert!(refusal.to_string().contains(name), "{refusal}");
    }
    assert!(refusal.to_string().starts_with("3 registers cannot be loaded here: "));
    let plan = reconcile(&source(&[]), &known(&with(7)), &virt()).unwrap();
    assert!(ids.iter().all(|id| value(&plan, *id) == Some(0)));
}

#[test]
fn a_register_that_sorts_before_all_others() {
    // Its id is less than any of the destination's, where a walk over two sorted lists loses it.
    assert!(COMMON.iter().all(|id| *id > DBGDTRTX));
    for rotation in 0..5 {
        let mut list = source(&[(DBGDTRTX, 0x41)]);
        list.rotate_left(rotation);
        let plan = reconcile(&list, &known(&[]), &virt()).unwrap();
        assert_eq!(plan.dropped.len(), 1);
        assert_eq!((plan.dropped[0].0, plan.load.len()), (register(DBGDTRTX, 0x41), 4));
        assert_eq!(refused(reconcile(&list, &known(&[]), &Rules::default())), [DBGDTRTX]);
    }
    // The other way round it is hidden too, and where both have it.
    let plan = reconcile(&source(&[]), &known(&[(DBGDTRTX, 0)]), &virt()).unwrap();
    assert_eq!(value(&plan, DBGDTRTX), None);
    let plan = reconcile(&source(&[(DBGDTRTX, 1)]), &known(&[(DBGDTRTX, 0)]), &virt()).unwrap();
    assert_eq!((value(&plan, DBGDTRTX), plan.dropped.len()), (None, 1));
}

#[test]
fn a_register_without_a_rule_goes_only_if_it_says_nothing() {
    for id in [0, 1, COMMON[0] + 1, u64::MAX] {
        let list = |value, reset| {
            let mut list = source(&[]);
            list.push(Incoming { register: Register { id, size: 8, value }, reset });
            reconcile(&list, &known(&[]), &virt())
        };
        assert_eq!(list(4, Some(4)).unwrap().dropped, [(Register { id, size: 8, value: 4 }, Reason::Reset)]);
        assert_eq!(refused(list(5, Some(4))), [id]);
        // Zero is no excuse where nobody knows what a reset gives.
        assert_eq!(refused(list(0, None)), [id]);
    }
}

#[test]
fn msrs_of_x86() {
    let rules = Rules::of(Q35, "q35-0").unwrap();
    let list = |id, value| [Incoming { register: Register { id, size: 8, value }, reset: None }];
    let reason = |id, value| reconcile(&list(id, value), &[], &rules).map(|plan| plan.dropped.len());
    for (id, lost, kept) in [(TSX_CTRL, 0, 2), (BNDCFGS, 0x1000, 0x1001), (KVM_SYSTEM_TIME, 0x7000, 0x7001)] {
        assert_eq!(reason(id, lost), Ok(1), "{id:#x}");
        assert!(reason(id, kept).unwrap_err().to_string().contains(&format!("{id:#x} (")));
    }
    let here = [Register { id: BNDCFGS, size: 8, value: 0 }, Register { id: 0x48, size: 8, value: 0 }];
    let plan = reconcile(&list(0x48, 4), &here, &rules).unwrap();
    assert_eq!((value(&plan, BNDCFGS), value(&plan, 0x48)), (Some(0), Some(4)));
    // No rule tells of others: PRED_CMD's neighbour.
    assert_eq!(refused(reconcile(&list(0x4a, 1), &here, &rules)), [0x4a]);
}

const LAYERS: &[Version] = &[
    Version {
        machine: "m-0",
        rules: &[rule(1, Action::DropIf { mask: 0xf, equals: 3 }), rule(9, Action::Default(10))],
    },
    Version {
        machine: "m-1",
        rules: &[rule(1, Action::DropIf { mask: 0xf, equals: 4 }), rule(9, Action::Default(11))],
    },
    Version { machine: "m-2", rules: &[rule(2, Action::Refuse), rule(9, Action::Default(12))] },
];

const fn rule(id: u64, action: Action) -> Rule {
    Rule { id, name: "r", action, why: "because" }
}

#[test]
fn rules_add_up_over_machine_versions() {
    let goes = |machine, id, value| {
        let list = [Incoming { register: Register { id, size: 8, value }, reset: Some(value) }];
        // A reset value of its own must not let it go: take it away except for id 2.
        let list = list.map(|incoming| Incoming { reset: (id == 2).then_some(value), ..incoming });
        reconcile(&list, &[], &Rules::of(LAYERS, machine).unwrap()).is_ok()
    };
    let both = |machine| [goes(machine, 1, 0xa3), goes(machine, 1, 0xa4), goes(machine, 1, 0xa5)];
    assert_eq!(both("m-0"), [true, true, false]);
    assert_eq!(both("m-1"), [false, true, false]);
    assert_eq!(both("m-2"), [false, false, false]);
    // Refused even with the value after a reset, for all versions up to that of the rule.
    assert!(["m-0", "m-1", "m-2"].iter().all(|machine| !goes(machine, 2, 0)));
    let default = |machine| {
        let here = [Register { id: 9, size: 8, value: 1 }];
        reconcile(&[], &here, &Rules::of(LAYERS, machine).unwrap()).unwrap().load[0].value
    };
    assert_eq!(["m-0", "m-1", "m-2"].map(default), [10, 11, 12]);
    assert!(Rules::of(LAYERS, "m-3").is_none());
}

#[test]
fn a_register_that_must_come_is_missed() {
    let here = [Register { id: 2, size: 8, value: 1 }];
    let refusal = reconcile(&[], &here, &Rules::of(LAYERS, "m-2").unwrap()).unwrap_err();
    assert_eq!(refusal.to_string(), "1 register cannot be loaded here: 0x2 (r) is missing from the state: because");
}

#[test]
fn lists_that_are_wrong_about_themselves_are_refused() {
    let rules = Rules::default();
    let incoming = |id, size, value| Incoming { register: Register { id, size, value }, reset: Some(value) };
    let here = [Register { id: 1, size: 8, value: 0 }];
    let why = |list: &[Incoming]| reconcile(list, &here, &rules).unwrap_err().0[0].why;
    assert_eq!(why(&[incoming(1, 4, 0)]), Why::Size { source: 4, destination: 8 });
    assert_eq!(why(&[incoming(1, 8, 0), incoming(1, 8, 0)]), Why::Twice);
    assert_eq!(why(&[incoming(1, 8, 1 << 64)]), Why::Malformed(8));
    assert_eq!(why(&[incoming(7, 0, 0)]), Why::Malformed(0));
    assert_eq!(why(&[incoming(7, 17, 0)]), Why::Malformed(17));
    assert!(reconcile(&[incoming(7, 16, u128::MAX)], &here, &rules).is_ok());
}

#[test]
fn no_register_is_ever_lost_in_silence() {
    // Every list of six ids over every set that the destination has: each is loaded, dropped with a reason, or named.
    let ids = [DBGDTRTX, COMMON[0], TCR2_EL1, PIR_EL1, VENDOR_HYPERCALLS_2, u64::MAX];
    let rules = virt();
    for bits in 0_u32..1 << 12 {
        let chosen = |shift: u32| (0..6).filter(move |n| bits >> shift >> n & 1 == 1).map(|n| ids[n as usize]);
        for value in [0, 1] {
            let list: Vec<_> = chosen(0).map(|id| Incoming { register: register(id, value), reset: Some(0) }).collect();
            let here: Vec<_> = chosen(6).map(|id| register(id, 0)).collect();
            for incoming in &list {
                let id = incoming.register.id;
                let accounted = match reconcile(&list, &here, &rules) {
                    Ok(plan) => {
                        let loaded = plan.load.iter().filter(|register| **register == incoming.register).count();
                        loaded + plan.dropped.iter().filter(|(register, _)| register.id == id).count()
                    }
                    Err(Refusal(named)) => {
                        let lost = named.iter().filter(|refused| refused.id == id).count();
                        // What is not named would have been loaded or let go by itself.
                        let alone = reconcile(&[*incoming], &here, &rules).is_ok();
                        lost + usize::from(alone)
                    }
                };
                assert_eq!(accounted, 1, "{id:#x} with {bits:#x} and {value}");
            }
        }
    }
}
