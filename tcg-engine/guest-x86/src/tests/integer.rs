//! Integer instructions in 64-bit code.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::{Why, flags};

#[test]
fn a_loop_with_calls_and_a_stack() {
    let mut m = long();
    let code = asm64(|a| {
        let (mut top, mut square) = (a.create_label(), a.create_label());
        a.xor(eax, eax)?;
        a.mov(ecx, 10)?;
        a.jmp(top)?;
        a.set_label(&mut square)?;
        a.push(rcx)?;
        a.imul_2(rcx, rcx)?;
        a.add(rax, rcx)?;
        a.pop(rcx)?;
        a.ret()?;
        a.set_label(&mut top)?;
        a.call(square)?;
        a.dec(rcx)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(0), 385);
    assert_eq!(m.get(4), STACK);
    assert_eq!(m.flags() & flags::ZF, flags::ZF);
}
