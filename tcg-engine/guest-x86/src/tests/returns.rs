//! Links to other pages, and returns to what calls have left: nothing of another address space, and nothing that is gone.

use emit_x64::mutants::{Mutant, plant};
use iced_x86::code_asm::*;

use super::harness::*;
use crate::Runner;

/// Where the function lies: not in the page of its caller.
const FUNCTION: u64 = CODE + 0x1000;
/// Another page for the caller's code.
const OTHER: u64 = CODE + 0x4000;

/// A machine all of whose blocks are hot, with a program that calls [`FUNCTION`] and then has RAX be `found`.
fn machine(function: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Runner<TestBus> {
    let mut m = long();
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    m.t1.as_mut().unwrap().set_hot(0);
    let caller = |found: u32| {
        asm64(|a| {
            a.call(FUNCTION)?;
            a.mov(eax, found)?;
            a.hlt()
        })
    };
    m.poke(CODE, &caller(1));
    m.poke(OTHER, &caller(2));
    m.poke(FUNCTION, &asm64(function));
    m
}

/// What the program finds when its function does what it can do, after it has not twice.
fn found(m: &mut Runner<TestBus>) -> u64 {
    for round in 0..3 {
        m.set(4, STACK);
        m.set(7, u64::from(round == 2));
        m.set_pc(CODE);
        m.run_on();
        assert!(round == 2 || m.get(0) == 1);
    }
    m.get(0)
}

/// The page of the caller is another one when its function returns.
fn elsewhere() -> u64 {
    let mut m = machine(|a| {
        let mut back = a.create_label();
        a.test(edi, edi)?;
        a.je(back)?;
        a.mov(rcx, pte(CODE))?;
        a.mov(qword_ptr(rcx), (OTHER | 7) as i32)?;
        a.mov(rcx, cr3)?;
        a.mov(cr3, rcx)?;
        a.set_label(&mut back)?;
        a.ret()
    });
    found(&mut m)
}

/// The code behind the call is written before its function returns.
fn rewritten() -> u64 {
    let mut m = machine(|a| {
        let mut back = a.create_label();
        a.test(edi, edi)?;
        a.je(back)?;
        a.mov(rcx, qword_ptr(rsp))?;
        a.mov(byte_ptr(rcx + 1), 2)?;
        a.set_label(&mut back)?;
        a.ret()
    });
    found(&mut m)
}

#[test]
fn a_return_finds_the_page_of_now() {
    assert_eq!(elsewhere(), 2);
    plant(Some(Mutant::ReturnContext));
    let found = elsewhere();
    plant(None);
    assert_eq!(found, 1, "a planted bug");
}

#[test]
fn a_return_finds_the_code_of_now() {
    assert_eq!(rewritten(), 2);
    plant(Some(Mutant::ReturnGone));
    let found = rewritten();
    plant(None);
    assert_eq!(found, 1, "a planted bug");
}

/// Times that a loop of calls to another page leaves emitted code without need, in its first rounds and later.
#[test]
fn calls_and_returns_stay_in_emitted_code() {
    let mut m = machine(|a| {
        a.dec(rdx)?;
        a.ret()
    });
    let rounds = |m: &mut Runner<TestBus>| {
        let code = asm64(|a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.call(FUNCTION)?;
            a.test(rdx, rdx)?;
            a.jne(again)?;
            a.hlt()
        });
        m.poke(CODE, &code);
        m.set(4, STACK);
        m.set(2, 1000);
        m.set_pc(CODE);
        let left = |m: &Runner<TestBus>| m.counter("code-exits-unlinked") + m.counter("code-exits-jump");
        let before = left(m);
        m.run_on();
        assert_eq!(m.get(2), 0);
        left(m) - before
    };
    assert!(rounds(&mut m) > 0);
    assert_eq!(rounds(&mut m), 0);
    // Code addresses may mean something else from now on: everything is linked anew, once.
    m.cpu.tlb.flush_all();
    let anew = rounds(&mut m);
    assert!((1..10).contains(&anew), "{anew}");
    assert_eq!(rounds(&mut m), 0);
}

/// The vector, how far from the program's beginning, and RSP, of a jump or a return to an address that nobody has called from.
fn beyond(to: u64, returns: bool) -> (Option<u64>, u64, u64) {
    let mut m = machine(|a| a.ret());
    let code = asm64(|a| {
        a.mov(rax, to)?;
        if returns { a.push(rax).and_then(|()| a.ret()) } else { a.jmp(rax) }
    });
    m.run_code(&code);
    let frame = m.get(4) + 8;
    (m.caught(), m.peek64(frame).wrapping_sub(CODE), m.peek64(frame + 24))
}

#[test]
fn a_jump_beyond_canonical_addresses_is_refused() {
    const FIRST: u64 = 0x8000_0000_0000;
    let (jump, back) = ((Some(13), 10, STACK), (Some(13), 11, STACK - 8));
    for to in [FIRST, 1 << 63, u64::MAX >> 1] {
        assert_eq!((beyond(to, false), beyond(to, true)), (jump, back));
    }
    plant(Some(Mutant::Unchecked));
    let found = beyond(FIRST, false);
    plant(Some(Mutant::Moved));
    let moved = beyond(FIRST, true);
    plant(None);
    assert_ne!(found, jump);
    assert_eq!(moved, (Some(13), 11, STACK));
}

/// What says in a table that nothing is there is an address too.
#[test]
fn nobody_returns_to_what_stands_for_nothing() {
    for (to, of_user) in [u64::MAX, u64::MAX << 12].into_iter().flat_map(|to| [(to, false), (to, true)]) {
        let mut m = machine(|a| a.ret());
        m.poke(
            CODE,
            &asm64(|a| {
                a.mov(rax, to)?;
                a.push(rax)?;
                a.ret()
            }),
        );
        // The first fills the TLB, and the next the memo.
        for _ in 0..3 {
            if of_user {
                user(&mut m);
            }
            m.set(4, STACK);
            m.set_pc(CODE);
            m.run_on();
        }
        assert_eq!((m.caught(), m.cpu.sys.cr2, m.peek64(m.get(4) + 8)), (Some(14), to, to));
    }
}
