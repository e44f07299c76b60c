//! A TLB that is too small grows under a running program, and its code with it.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::Why;

/// The second mapping of [`long`]'s first 8 MiB, whose pages share entries with those of the first.
const HIGH: u64 = 0xffff_8000_0000_0000;

#[test]
fn a_program_whose_pages_crowd_each_other_has_its_code_made_anew() {
    let mut m = long();
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    m.t1.as_mut().unwrap().set_hot(0);
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.add(rax, qword_ptr(rsi))?;
        a.mov(rbx, qword_ptr(rdi))?;
        a.add(qword_ptr(rsi + 8), rbx)?;
        a.inc(qword_ptr(rdi + 16))?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    let rounds = 100_000;
    m.poke(CODE, &code);
    m.poke64(DATA, 3);
    for (n, v) in [(0, 0), (1, rounds), (3, 0), (6, DATA), (7, HIGH + DATA)] {
        m.set(n, v);
    }
    m.set_pc(CODE);
    let before = (m.cpu.tlb.shape(), m.counter("code-clears"));
    // More than one stay, since it is looked at between two.
    let why = (0..1000).map(|_| m.run(100)).find(|why| *why != Why::Budget);
    assert_eq!(why, Some(Why::Halt));
    assert!(m.cpu.tlb.shape().entries() > before.0.entries(), "it has not grown");
    assert_eq!(m.counter("code-clears"), before.1 + 1, "times that the code was cleared");
    assert_eq!((m.get(0), m.peek64(DATA + 8), m.peek64(DATA + 16)), (3 * rounds, 3 * rounds, rounds));
    assert_eq!(m.counter("code-interpreted") >> 6, 0, "what the second level knows hot code does not have interpreted");
}
