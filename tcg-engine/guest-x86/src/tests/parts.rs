//! Programs that are larger than code memory: the oldest code goes, and nothing else.

use super::harness::*;
use crate::{Runner, Why};

/// Where the programs lie.
const ONE: u64 = 0x20_0000;
const OTHER: u64 = 0x30_0000;
/// Bytes of each block of theirs.
const BLOCK: u64 = 5;

/// So many blocks at `at`, each of which leads to the next.
fn chain(m: &Runner<TestBus>, at: u64, blocks: u64) {
    // inc rax; jmp to the next instruction
    m.poke(at, &[0x48, 0xff, 0xc0, 0xeb, 0].repeat(blocks as usize));
    m.poke(at + BLOCK * blocks, &[0xf4]);
}

/// Run from `at` to the end; answers how many blocks were lifted.
fn lifted(m: &mut Runner<TestBus>, at: u64) -> u64 {
    let before = m.cache.stats().inserted;
    m.set_pc(at);
    assert_eq!(m.run_on(), Why::Halt);
    m.cache.stats().inserted - before
}

/// A machine whose code memory has eight parts of 8 KiB.
fn small() -> Option<Runner<TestBus>> {
    let mut m = long();
    m.t1.as_mut()?.divide(8, 8 << 10);
    Some(m)
}

#[test]
fn what_is_not_the_oldest_is_not_lifted_again() {
    let Some(mut m) = small() else { return };
    let cleared = m.counter("code-clears");
    chain(&m, ONE, 500);
    chain(&m, OTHER, 300);
    assert_eq!((lifted(&mut m, ONE), m.counter("code-reclaims")), (501, 0), "it fits");
    assert_eq!(lifted(&mut m, ONE), 0);
    assert_eq!(lifted(&mut m, OTHER), 301);
    let reclaims = m.counter("code-reclaims");
    assert!((2..=4).contains(&reclaims), "{reclaims} parts");
    let gone = m.counter("code-reclaimed");
    assert!((60..300).contains(&gone), "{gone} blocks");
    assert_eq!(lifted(&mut m, OTHER), 0);
    assert_eq!(lifted(&mut m, ONE + BLOCK * gone), 0, "what lies behind those that have gone");
    assert_eq!(m.counter("code-reclaims"), reclaims);
    // The first ones make room for themselves by what is the oldest now.
    assert!(lifted(&mut m, ONE) >= gone);
    assert_eq!(m.counter("code-clears"), cleared);
    assert_eq!(m.get(0), 4 * 500 + 2 * 300 - gone);
}

#[test]
fn a_page_whose_blocks_were_the_oldest_is_data_again() {
    let Some(mut m) = small() else { return };
    let is_code = |m: &Runner<TestBus>| m.cpu.mem.marks.is_code(DATA);
    // hlt
    m.poke(DATA, &[0xf4]);
    assert_eq!((lifted(&mut m, DATA), is_code(&m)), (1, true));
    chain(&m, ONE, 1000);
    lifted(&mut m, ONE);
    assert!(m.counter("code-reclaimed") > 0);
    // A store, which is far from what was code, has the page be data; before the block was gone it would not.
    let dropped = m.cache.stats().invalidated;
    let store = asm64(|a| {
        a.mov(iced_x86::code_asm::qword_ptr(DATA + 0x800), 1)?;
        a.hlt()
    });
    m.poke(CODE, &store);
    for code in [false, true] {
        m.set_pc(CODE);
        assert_eq!(m.run_on(), Why::Halt);
        assert_eq!(is_code(&m), code);
        m.poke(DATA, &[0xf4]);
        lifted(&mut m, DATA);
    }
    assert_eq!(m.cache.stats().invalidated, dropped);
}

/// Cycles through more code than there is memory for it, with calls, in user mode, so that there are returns, memos and hot blocks too.
#[test]
fn a_loop_that_is_larger_than_code_memory_goes_on() {
    let Some(mut m) = small() else { return };
    user(&mut m);
    m.t1.as_mut().unwrap().set_hot(0);
    let code = asm64(|a| {
        use iced_x86::code_asm::*;
        let (mut again, mut f) = (a.create_label(), a.create_label());
        a.mov(rdi, DATA)?;
        a.set_label(&mut again)?;
        for n in 0..200u32 {
            a.add(qword_ptr(rdi + 8 * (n % 16)), 1)?;
            a.call(f)?;
        }
        a.dec(rcx)?;
        a.jne(again)?;
        a.int(0x20)?;
        a.set_label(&mut f)?;
        a.inc(rax)?;
        a.ret()
    });
    m.gate64(0x20, 0x6_0200, 0xe, 3, 0);
    m.set(1, 20);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(0), m.peek64(DATA)), (20 * 200, 20 * 13));
    assert!(m.counter("code-reclaims") > 40, "{}", m.counter("code-reclaims"));
}
