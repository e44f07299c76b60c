//! Loops of one block, which have words of their own in registers.

use emit_x64::mutants::{Mutant, plant};
use iced_x86::code_asm::*;

use super::harness::*;

/// RBX, R8, R9 and R15 after loops within a loop, by blocks that are all hot. Each round of the outer loop changes words that the inner
/// one does not name.
fn nested() -> [u64; 4] {
    let mut m = long();
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    m.t1.as_mut().unwrap().set_hot(0);
    for n in [3, 8, 9, 10, 11, 13, 14, 15] {
        m.set(n, n as u64);
    }
    let code = asm64(|a| {
        let (mut outer, mut inner) = (a.create_label(), a.create_label());
        a.mov(r15, 50u64)?;
        a.set_label(&mut outer)?;
        a.lea(rbx, qword_ptr(rbx + rbx * 2 + 1))?;
        a.mov(r14, 20u64)?;
        a.set_label(&mut inner)?;
        a.add(r8, r9)?;
        a.xor(r8, r10)?;
        a.add(r9, r8)?;
        a.rol(r9, 7)?;
        a.add(r10, r11)?;
        a.xor(r11, r13)?;
        a.add(r13, r10)?;
        a.dec(r14)?;
        a.jne(inner)?;
        a.xor(r8, rbx)?;
        a.dec(r15)?;
        a.jne(outer)?;
        a.hlt()
    });
    m.run_code(&code);
    [3, 8, 9, 15].map(|n| m.get(n))
}

/// The same by hand.
fn expected() -> [u64; 4] {
    let [mut b, mut c, mut d, mut e, mut f, mut g] = [3_u64, 8, 9, 10, 11, 13];
    for _ in 0..50 {
        b = b.wrapping_mul(3).wrapping_add(1);
        for _ in 0..20 {
            c = c.wrapping_add(d) ^ e;
            d = d.wrapping_add(c).rotate_left(7);
            e = e.wrapping_add(f);
            f ^= g;
            g = g.wrapping_add(e);
        }
        c ^= b;
    }
    [b, c, d, 0]
}

#[test]
fn words_come_and_go_with_the_loop() {
    assert_eq!(nested(), expected());
    for bug in [Mutant::TakenOver, Mutant::PutBack] {
        plant(Some(bug));
        let found = nested();
        plant(None);
        assert_ne!(found, expected(), "{bug:?}");
    }
}

/// What a program of user mode has copied and added up by three groups of accesses, of which two have registers and addends in registers, and
/// its stack pointer, by whose register one of them goes. No page lies where its neighbour does.
fn copied() -> (Vec<u64>, u64) {
    const TO: u64 = DATA + 0x8000;
    const ALSO: u64 = DATA + 0x4000;
    const ROUNDS: u64 = 700;
    let place = |at: u64| DATA + ((at - DATA) ^ 0x1000);
    let mut m = long();
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    m.t1.as_mut().unwrap().set_hot(0);
    m.t1.as_mut().unwrap().set_planned(false);
    for page in (DATA..DATA + 0x10000).step_by(0x1000) {
        m.poke64(pte(page), place(page) | 7);
    }
    for n in 0..ROUNDS + 4 {
        m.poke64(place(DATA + 8 * n), 3 * n);
        m.poke64(place(ALSO + 8 * n), (5 * n) << 32);
    }
    user(&mut m);
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.mov(rsi, DATA)?;
        a.mov(rdi, TO)?;
        a.mov(r8, ALSO)?;
        a.mov(ecx, ROUNDS as u32)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rsi))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(r9, qword_ptr(r8))?;
        a.mov(rax, qword_ptr(rsi + 8))?;
        a.mov(qword_ptr(rdi + 8), rax)?;
        a.add(r9, qword_ptr(r8 + 8))?;
        a.mov(qword_ptr(rdi + 16), r9)?;
        a.mov(rax, qword_ptr(rsi + 16))?;
        a.mov(qword_ptr(rdi + 24), rax)?;
        a.add(rsi, 8)?;
        a.add(r8, 8)?;
        a.add(rdi, 32)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    m.set(4, STACK);
    m.poke(CODE, &code);
    m.set_pc(CODE);
    m.run_on();
    assert_eq!(m.caught(), Some(13));
    ((0..4 * ROUNDS).map(|n| m.peek64(place(TO + 8 * n))).collect(), m.peek64(m.get(4) + 32))
}

#[test]
fn a_loop_that_copies_has_a_register_for_where_to() {
    let expected: Vec<u64> =
        (0..700).flat_map(|n| [3 * n, 3 * (n + 1), ((5 * n) << 32) + ((5 * (n + 1)) << 32), 3 * (n + 2)]).collect();
    assert_eq!(copied(), (expected.clone(), STACK));
    for bug in [Mutant::Second, Mutant::PutBack, Mutant::Addend] {
        plant(Some(bug));
        let found = copied();
        plant(None);
        assert_ne!(found, (expected.clone(), STACK), "{bug:?}");
    }
}
