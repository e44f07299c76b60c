//! Bit manipulation on every pair of corner values: results, and those flags that the architecture defines.

use code::{Cache, CodeMemory, Key};
use ir::op::{FLAG_KIND, FLAG_R, NONE};
use ir::{AluOp, Builder, Op, Regs, Slot, flags, t0};

use super::blocks::Apart;
use super::random::{BITS, Random};
use crate::features::Features;
use crate::mutants::{Mutant, plant};
use crate::run::T1;

const VALUES: [u64; 20] = [
    0,
    1,
    2,
    0x0810,
    0x2000,
    0x1f01,
    0x20_1f,
    0x3f_3f,
    0x40_20,
    0x40_40,
    0xff_ff,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x8000_0000_0000_0000,
    0x7fff_ffff_ffff_fff0,
    0x0123_4567_89ab_cdef,
    u64::MAX,
];

/// What is in the words of `op`, of so many bits, on all values; the first difference.
fn compare(features: Features, op: AluOp, bits: u32, (d, a, b): (Slot, Slot, Slot)) -> Option<String> {
    let mut block = Builder::new(0x4000);
    block.instruction(0x4000, 4);
    block.alu(op, bits, d, a, b);
    block.op_imm(Op::Exit, NONE, NONE, 0x4004);
    let mut t1 = T1::with_features::<Apart>(CodeMemory::new(256 << 10).unwrap(), features).unwrap();
    let mut cache = Cache::default();
    let id = cache.insert(Key { at: 0x4000, pc: 0x4000, mode: 0 }, 4, None, block.finish());
    assert!(t1.translate(&cache, id.number(), true, false, 0));
    let block = cache.block(id).unwrap();
    let mut env = Apart::new(&mut Random(1));
    let (mut x, mut y) = (Box::new(Regs::default()), Box::new(Regs::default()));
    for first in VALUES {
        for second in VALUES {
            for w in [&mut x, &mut y] {
                w.set(d, 0x5555_5555_5555_5555);
                w.set(b, second);
                w.set(a, first);
                w.set(FLAG_KIND, flags::kind_word(flags::Kind::X86Explicit, 64));
                w.set(FLAG_R, flags::x86::ALL);
            }
            t0::run(block, &mut x, &mut env);
            t1.run(&cache, id.number(), &mut y, &mut env, 0);
            let see = |w: &Regs| (w.get(d), w.get(a), w.get(b), flags::materialise(w) & !op.undefined());
            if see(&x) != see(&y) {
                return Some(format!("{op:?} {bits} of {first:#x}, {second:#x}: {:x?}, {:x?}", see(&x), see(&y)));
            }
        }
    }
    assert_eq!(t1.stats().interpreted == 0, features.bmi, "{op:?} {bits}");
    None
}

fn compare_all(features: Features) -> Option<String> {
    // In registers, in memory, and over an operand.
    let places = [(8, 9, 10), (16, 17, 18), (11, 16, 12), (8, 8, 16), (8, 17, 8)];
    BITS.into_iter().find_map(|op| {
        let counts = matches!(op, AluOp::Tzcnt | AluOp::Lzcnt);
        let sizes: &[u32] = if counts { &[16, 32, 64] } else { &[32, 64] };
        sizes.iter().find_map(|&bits| {
            places.into_iter().find_map(|(d, a, b)| compare(features, op, bits, (Slot(d), Slot(a), Slot(b))))
        })
    })
}

#[test]
fn bit_manipulation_is_the_interpreters() {
    assert_eq!(compare_all(Features::of_host()), None);
    assert_eq!(compare_all(Features::of_host().without_v3()), None);
}

#[test]
fn lost_flags_are_found() {
    if Features::of_host().bmi {
        plant(Some(Mutant::BitFlags));
        let found = compare_all(Features::of_host());
        plant(None);
        assert!(found.is_some());
    }
}
