//! Programs that need no kernel: locked operations, memory order, code that others rewrite; and, for a kernel alone, a page that moves.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{BARRIER, DONE, FUNCTIONS, MOVING, SHARED, WRONG, pte};
use crate::machine::Machine;

/// Everybody waits here for all `vcpus`; RBP counts what is waited for. Uses RAX.
pub fn barrier(a: &mut CodeAssembler, vcpus: u64) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.add(rbp, vcpus as i32)?;
    a.mov(rax, BARRIER)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(qword_ptr(rax), rbp)?;
    a.jb(wait)
}

/// Count something wrong if the last comparison says so. Uses RAX.
pub fn wrong_if_below(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut right = a.create_label();
    a.jae(right)?;
    a.mov(rax, WRONG)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut right)?;
    a.nop()
}

pub fn end(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, DONE)?;
    a.lock().inc(qword_ptr(rax))?;
    a.hlt()
}

/// Locked operations of every kind, within a line, across two, and across two pages; a lock made of XCHG.
pub fn atomics(a: &mut CodeAssembler, _: u64, _: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut retry, mut retry16, mut spin, mut enter) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(rdi, SHARED)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    a.lock().inc(qword_ptr(rdi))?;
    a.lock().add(dword_ptr(rdi + 0x3e), 1)?;
    a.mov(eax, 1)?;
    a.lock().xadd(qword_ptr(rdi + 0xffc), rax)?;
    a.lock().dec(word_ptr(rdi + 0x50))?;
    a.lock().xor(byte_ptr(rdi + 0x58), 1)?;
    a.set_label(&mut retry)?;
    a.mov(rax, qword_ptr(rdi + 0x80))?;
    a.lea(rcx, qword_ptr(rax + 3))?;
    a.lock().cmpxchg(qword_ptr(rdi + 0x80), rcx)?;
    a.jne(retry)?;
    a.set_label(&mut retry16)?;
    a.mov(rax, qword_ptr(rdi + 0xc0))?;
    a.mov(rdx, qword_ptr(rdi + 0xc8))?;
    a.lea(rbx, qword_ptr(rax + 1))?;
    a.lea(rcx, qword_ptr(rdx + 2))?;
    a.lock().cmpxchg16b(xmmword_ptr(rdi + 0xc0))?;
    a.jne(retry16)?;
    // The lock protects a counter that is not locked itself.
    a.jmp(enter)?;
    a.set_label(&mut spin)?;
    a.pause()?;
    a.set_label(&mut enter)?;
    a.mov(eax, 1)?;
    a.xchg(dword_ptr(rdi + 0x100), eax)?;
    a.test(eax, eax)?;
    a.jnz(spin)?;
    a.inc(qword_ptr(rdi + 0x140))?;
    a.mov(rax, qword_ptr(rdi + 0x2140))?;
    a.inc(rax)?;
    a.mov(qword_ptr(rdi + 0x2140), rax)?;
    a.mov(dword_ptr(rdi + 0x100), 0)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

pub fn atomics_hold(machine: &Machine, vcpus: u64, rounds: u64) {
    let n = vcpus * rounds;
    let at = |offset: u64| machine.memory.ram.load_u64(SHARED + offset).unwrap();
    for (what, found, expected) in [
        ("INC", at(0), n),
        ("ADD across lines", at(0x3e) & 0xffff_ffff, n),
        ("XADD across pages", at(0xffc), n),
        ("DEC of a word", at(0x50) & 0xffff, n.wrapping_neg() & 0xffff),
        ("XOR of a byte", at(0x58) & 0xff, n & 1),
        ("CMPXCHG", at(0x80), 3 * n),
        ("CMPXCHG16B, low", at(0xc0), n),
        ("CMPXCHG16B, high", at(0xc8), 2 * n),
        ("under a lock", at(0x140), n),
        ("under a lock, in registers", at(0x2140), n),
    ] {
        assert_eq!(found, expected, "{what}");
    }
}

/// Stores are seen in their order; a store and a load behind a fence, or behind a locked operation, are not exchanged.
pub fn order(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut flag, mut passed) = (a.create_label(), a.create_label(), a.create_label());
    let (mine, other) = (SHARED + 0x400 * me, SHARED + 0x400 * ((me + 1) % vcpus));
    a.xor(ebp, ebp)?;
    a.mov(rdi, mine)?;
    a.mov(r8, other)?;
    a.mov(rsi, rounds)?;
    a.mov(r12d, 1)?;
    a.set_label(&mut again)?;
    barrier(a, vcpus)?;
    // Store buffering: of all in a circle, somebody must see the other one's store.
    a.mov(qword_ptr(rdi), r12)?;
    if me.is_multiple_of(2) {
        a.mfence()?;
    } else {
        a.lock().add(dword_ptr(rdi + 0x80), 0)?;
    }
    a.mov(rcx, qword_ptr(r8))?;
    a.mov(qword_ptr(rdi + 0x40), rcx)?;
    barrier(a, vcpus)?;
    a.xor(edx, edx)?;
    for n in 0..vcpus {
        a.mov(rax, SHARED + 0x400 * n + 0x40)?;
        a.cmp(qword_ptr(rax), r12)?;
        a.sete(al)?;
        a.or(dl, al)?;
    }
    a.cmp(dl, 1)?;
    wrong_if_below(a)?;
    // Message passing, from each to the next.
    a.mov(qword_ptr(rdi + 0x100), r12)?;
    a.mov(qword_ptr(rdi + 0x180), r12)?;
    a.set_label(&mut flag)?;
    a.cmp(qword_ptr(r8 + 0x180), r12)?;
    a.jae(passed)?;
    a.pause()?;
    a.jmp(flag)?;
    a.set_label(&mut passed)?;
    a.cmp(qword_ptr(r8 + 0x100), r12)?;
    wrong_if_below(a)?;
    a.inc(r12)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

/// Each vCPU rewrites a function of its own and calls those of all: what it calls is never older than what it knows to be stored.
pub fn rewriting(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsp, SHARED + 0x8000 + 0x1000 * me)?;
    a.mov(rdi, FUNCTIONS + 0x1000 * me)?;
    a.mov(r8, SHARED + 0x400 * me)?;
    a.mov(rsi, rounds)?;
    a.mov(r12d, 1)?;
    a.set_label(&mut again)?;
    a.mov(dword_ptr(rdi + 1), r12d)?;
    a.mov(qword_ptr(r8), r12)?;
    // Data beside the code.
    a.inc(qword_ptr(rdi + 0x800))?;
    for n in 0..vcpus {
        a.mov(rax, SHARED + 0x400 * n)?;
        a.mov(rbx, qword_ptr(rax))?;
        a.mov(rdx, FUNCTIONS + 0x1000 * n)?;
        a.call(rdx)?;
        a.cmp(eax, ebx)?;
        wrong_if_below(a)?;
    }
    a.inc(r12)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

/// vCPU 0 maps a page elsewhere and tells the others, who say when they have dropped their translation; after that nobody writes
/// to where it was.
pub fn shootdown(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut wait, mut none, mut look) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(rdi, SHARED)?;
    a.mov(r9, MOVING)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    a.nop()?;
    if me == 0 {
        // [SHARED] is the request; [SHARED + 0x400 * n] the answer of vCPU n.
        a.mov(r10, pte(MOVING))?;
        a.mov(r11, qword_ptr(r10))?;
        a.mov(rdx, r11)?;
        a.xor(rdx, 0x1000)?;
        // Accessed and dirty bits are set anew.
        a.and(rdx, -0x61)?;
        a.mov(qword_ptr(r10), rdx)?;
        a.invlpg(byte_ptr(r9))?;
        a.inc(qword_ptr(rdi))?;
        a.mov(rdx, qword_ptr(rdi))?;
        for n in 1..vcpus {
            let mut answer = a.create_label();
            a.nop()?;
            a.set_label(&mut answer)?;
            a.pause()?;
            a.cmp(qword_ptr(rdi + 0x400 * n as i32), rdx)?;
            a.jb(answer)?;
        }
        // The page that nobody should write to any more.
        a.and(r11, -0x1000)?;
        for n in 1..vcpus as i32 {
            a.mov(rcx, qword_ptr(r11 + 64 * n))?;
            a.mov(qword_ptr(rdi + 0x2000 + 64 * n), rcx)?;
        }
        a.mov(ecx, 50)?;
        a.set_label(&mut look)?;
        a.dec(ecx)?;
        a.jnz(look)?;
        for n in 1..vcpus as i32 {
            a.mov(rcx, qword_ptr(r11 + 64 * n))?;
            a.cmp(qword_ptr(rdi + 0x2000 + 64 * n), rcx)?;
            wrong_if_below(a)?;
        }
        a.dec(rsi)?;
        a.jnz(again)?;
        // The end of all.
        a.mov(qword_ptr(rdi + 8), 1)?;
    } else {
        a.set_label(&mut wait)?;
        a.mov(rdx, qword_ptr(rdi))?;
        a.cmp(qword_ptr(rdi + 0x400 * me as i32), rdx)?;
        a.jae(none)?;
        a.invlpg(byte_ptr(r9))?;
        a.mov(qword_ptr(rdi + 0x400 * me as i32), rdx)?;
        a.set_label(&mut none)?;
        a.inc(rcx)?;
        a.mov(qword_ptr(r9 + 64 * me as i32), rcx)?;
        a.cmp(qword_ptr(rdi + 8), 0)?;
        a.je(wait)?;
    }
    end(a)
}
