//! Parts of code memory that are begun again.

use code::{Cache, CodeMemory, Id, Key};
use ir::op::NONE;
use ir::{Builder, Op, PC, Regs};

use super::blocks::Apart;
use super::random::Random;
use crate::mutants::{Mutant, plant};
use crate::{Left, T1};

/// Where the first of two blocks lies, and leads to the second.
const FIRST: u64 = 0x4000;
const SECOND: u64 = 0x4010;

/// A block at `pc` that leads to `to`, with code.
fn add(t1: &mut T1, cache: &mut Cache, pc: u64, to: u64) -> Id {
    let mut b = Builder::new(pc);
    b.instruction(pc, 4);
    b.op_imm(Op::Exit, NONE, NONE, to);
    let id = cache.insert(Key { at: pc, pc, mode: 0 }, 4, None, b.finish());
    assert!(t1.translate(cache, id.number(), false, false, 0));
    id
}

fn begin(t1: &mut T1, cache: &mut Cache) {
    cache.begin_epoch(t1.parts(), |_| ());
    t1.begin_part(&cache.take_gone());
}

/// Instructions that run from the block on, and the exit by which they end.
fn run(t1: &mut T1, cache: &Cache, env: &mut Apart, id: Id) -> (u64, crate::Exit) {
    let mut regs = Box::new(Regs::default());
    regs.set(PC, FIRST);
    match t1.run(cache, id.number(), &mut regs, env, 100) {
        (Left::Direct(exit), done) => (done, exit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exit_that_was_left_before_its_part_began_again_is_not_linked() {
    for mutant in [None, Some(Mutant::Turn)] {
        plant(mutant);
        let mut t1 = T1::new::<Apart>(CodeMemory::new(1 << 20).unwrap()).unwrap();
        let (mut cache, mut env) = (Cache::default(), Apart::new(&mut Random(1)));
        let first = add(&mut t1, &mut cache, FIRST, SECOND);
        let (done, old) = run(&mut t1, &cache, &mut env, first);
        assert_eq!(done, 1);
        for _ in 0..t1.parts() {
            begin(&mut t1, &mut cache);
        }
        assert!(!t1.has(first.number()) && cache.at(first.number()).is_none() && t1.stats().reclaims == 1);
        // The same code at the same place.
        let first = add(&mut t1, &mut cache, FIRST, SECOND);
        let second = add(&mut t1, &mut cache, SECOND, FIRST + 0x100);
        t1.link(&env, old, second.number(), SECOND);
        assert_eq!(run(&mut t1, &cache, &mut env, first).0, if mutant.is_some() { 2 } else { 1 });
        let (_, new) = run(&mut t1, &cache, &mut env, first);
        t1.link(&env, new, second.number(), SECOND);
        assert_eq!(run(&mut t1, &cache, &mut env, first).0, 2);
        plant(None);
    }
}

#[test]
fn a_link_goes_with_the_older_one_of_its_blocks_and_leaves_the_newer_one() {
    let mut t1 = T1::new::<Apart>(CodeMemory::new(1 << 20).unwrap()).unwrap();
    let (mut cache, mut env) = (Cache::default(), Apart::new(&mut Random(1)));
    let second = add(&mut t1, &mut cache, SECOND, FIRST + 0x100);
    begin(&mut t1, &mut cache);
    let first = add(&mut t1, &mut cache, FIRST, SECOND);
    let (_, exit) = run(&mut t1, &cache, &mut env, first);
    t1.link(&env, exit, second.number(), SECOND);
    assert_eq!(run(&mut t1, &cache, &mut env, first).0, 2);
    // The part of the block that it leads to: it is undone.
    for _ in 1..t1.parts() {
        begin(&mut t1, &mut cache);
    }
    assert!(!t1.has(second.number()) && t1.has(first.number()));
    let (done, exit) = run(&mut t1, &cache, &mut env, first);
    assert_eq!(done, 1);
    let second = add(&mut t1, &mut cache, SECOND, FIRST + 0x100);
    t1.link(&env, exit, second.number(), SECOND);
    assert_eq!(run(&mut t1, &cache, &mut env, first).0, 2);
    // The part of the block that it leads from: nothing is left to be undone when the other goes.
    begin(&mut t1, &mut cache);
    assert!(t1.has(second.number()) && !t1.has(first.number()));
    let first = add(&mut t1, &mut cache, FIRST, SECOND);
    cache.invalidate(SECOND, 1, |_| ());
    t1.remove(&cache.take_gone());
    assert_eq!(run(&mut t1, &cache, &mut env, first).0, 1);
    assert_eq!(t1.faults(), [""; 0]);
}

#[test]
fn parts_have_room_for_the_largest_block_several_times_if_there_can_be_two_of_them() {
    for (memory, parts) in [(256 << 10, 2), (320 << 10, 2), (1 << 20, 3), (8 << 20, 8), (64 << 20, 8)] {
        let t1 = T1::new::<Apart>(CodeMemory::new(memory).unwrap()).unwrap();
        assert_eq!(t1.parts(), parts, "{memory:#x}");
    }
    assert!(T1::new::<Apart>(CodeMemory::new(252 << 10).unwrap()).is_err());
}
