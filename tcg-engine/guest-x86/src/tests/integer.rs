//! Integer instructions and memory accesses in 64-bit code. (Single instructions are compared with a processor elsewhere; what
//! matters here is what such a comparison does not see.)

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

#[test]
fn locked_operations_also_across_a_page() {
    for at in [DATA + 0x100, DATA + 0xffd] {
        let mut m = long();
        m.poke64(at, 0x10);
        let code = asm64(|a| {
            a.mov(rdi, at)?;
            a.mov(eax, 5)?;
            a.lock().xadd(qword_ptr(rdi), rax)?;
            a.mov(rbx, rax)?;
            a.lock().inc(qword_ptr(rdi))?;
            a.lock().bts(qword_ptr(rdi), 40)?;
            a.setc(cl)?;
            a.lock().sub(dword_ptr(rdi), 6)?;
            a.lock().adc(dword_ptr(rdi), 0)?;
            a.lock().neg(byte_ptr(rdi))?;
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(edx, 77)?;
            a.lock().cmpxchg(qword_ptr(rdi), rdx)?;
            a.sete(ch)?;
            a.lock().cmpxchg(qword_ptr(rdi), rdi)?;
            a.hlt()
        });
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!(m.get(3), 0x10);
        // 0x10 + 5 + 1 - 6 = 0x10, negated.
        assert_eq!(m.get(1) & 0xffff, 0x100);
        assert_eq!(m.get(0), 77, "the failed comparison loads the accumulator");
        assert_eq!(m.peek64(at), 77);
        assert_eq!(m.flags() & flags::ZF, 0);
    }
}

#[test]
fn sixteen_bytes_are_swapped_or_loaded_and_must_be_aligned() {
    let mut m = long();
    m.poke64(DATA, 1);
    m.poke64(DATA + 8, 2);
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.mov(eax, 1)?;
        a.mov(edx, 2)?;
        a.mov(ebx, 3)?;
        a.mov(ecx, 4)?;
        a.lock().cmpxchg16b(xmmword_ptr(rdi))?;
        a.sete(r8b)?;
        a.lock().cmpxchg16b(xmmword_ptr(rdi))?;
        a.sete(r9b)?;
        a.lock().cmpxchg16b(xmmword_ptr(rdi + 8))?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!((m.peek64(DATA), m.peek64(DATA + 8)), (3, 4));
    assert_eq!((m.get(0), m.get(2)), (3, 4));
    assert_eq!((m.get(8) & 1, m.get(9) & 1), (1, 0));
    assert_eq!(m.caught(), Some(13));
}

#[test]
fn string_copies_replicate_where_they_overlap() {
    let mut m = long();
    m.poke(DATA, b"abc");
    let code = asm64(|a| {
        a.mov(rsi, DATA)?;
        a.lea(rdi, qword_ptr(rsi + 3))?;
        a.mov(ecx, 0x2000)?;
        a.rep().movsb()?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(1), m.get(6), m.get(7)), (0, DATA + 0x2000, DATA + 0x2003));
    let mut out = vec![0; 0x2003];
    m.cpu.mem.ram.read(DATA, &mut out).unwrap();
    assert!(out.chunks(3).all(|c| c == &b"abc"[..c.len()]));
}

/// The source goes over the end of a page, so this is more than one piece.
#[test]
fn a_string_copy_over_code_is_one_instruction_whether_that_has_run_or_not() {
    let instructions = |lifted: bool| {
        let mut m = long();
        let code = asm64(|a| {
            let (mut overwritten, mut other, mut begin) = (a.create_label(), a.create_label(), a.create_label());
            a.call(if lifted { overwritten } else { other })?;
            a.jmp(begin)?;
            // What is noted of code is noted by lines.
            a.nops_with_size(256)?;
            a.set_label(&mut overwritten)?;
            a.nops_with_size(32)?;
            a.ret()?;
            a.nops_with_size(256)?;
            a.set_label(&mut other)?;
            a.nops_with_size(32)?;
            a.ret()?;
            a.nops_with_size(256)?;
            a.set_label(&mut begin)?;
            a.mov(rsi, DATA + 0xff0)?;
            a.lea(rdi, qword_ptr(overwritten))?;
            a.mov(ecx, 8)?;
            a.rep().movsd()?;
            a.hlt()
        });
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!(m.get(1), 0);
        m.instructions
    };
    assert_eq!(instructions(true), instructions(false));
}

#[test]
fn string_copies_go_down_too() {
    let mut m = long();
    for i in 0..0x300 {
        m.poke64(DATA + 8 * i, i);
    }
    // Up by one quadword, from the end, as memmove does.
    let code = asm64(|a| {
        a.std()?;
        a.mov(rsi, DATA + 8 * 0x2ff)?;
        a.lea(rdi, qword_ptr(rsi + 8))?;
        a.mov(ecx, 0x300)?;
        a.rep().movsq()?;
        a.cld()?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    for i in 0..0x300 {
        assert_eq!(m.peek64(DATA + 8 + 8 * i), i);
    }
    assert_eq!((m.get(1), m.get(6), m.get(7)), (0, DATA - 8, DATA));
}

#[test]
fn a_fault_in_a_string_leaves_its_progress() {
    let mut m = long();
    // The page after the next is not present.
    m.poke64(pte(DATA + 0x2000), 0);
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.mov(eax, 0x0102_0304)?;
        a.mov(ecx, 0x1000)?;
        a.rep().stosd()?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!(m.caught(), Some(14));
    assert_eq!(m.cpu.sys.cr2, DATA + 0x2000);
    assert_eq!((m.get(7), m.get(1)), (DATA + 0x2000, 0x1000 - 0x800));
    assert_eq!(m.stack(1), CODE + code.len() as u64 - 3, "the saved address is that of the instruction");
    assert_eq!(m.peek64(DATA + 0x1ff8), 0x0102_0304_0102_0304);
}

#[test]
fn code_that_changes_itself_is_seen_at_once() {
    let mut m = long();
    // The store changes the instruction right behind it, in the same block.
    let code = asm64(|a| {
        let mut there = a.create_label();
        a.lea(rdi, qword_ptr(there))?;
        a.mov(byte_ptr(rdi + 1), 7)?;
        a.set_label(&mut there)?;
        a.mov(eax, 1)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(0), 7);
    assert!(m.cpu.bus.ordered.is_empty(), "no other vCPU has code there");
    // And the block that is cached now is found stale by a later store.
    m.set_pc(CODE);
    m.poke(CODE + code.len() as u64, &[0x90]);
    assert_eq!(m.run_on(), Why::Halt);
    assert_eq!(m.get(0), 7);
}

#[test]
fn a_loop_that_patches_its_own_immediate() {
    let mut m = long();
    let code = asm64(|a| {
        let (mut top, mut there) = (a.create_label(), a.create_label());
        a.lea(rdi, qword_ptr(there))?;
        a.mov(ecx, 50)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.set_label(&mut there)?;
        a.mov(eax, 0)?;
        a.add(ebx, eax)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(3), 50 * 51 / 2);
}

#[test]
fn data_beside_code_does_not_invalidate_it() {
    let mut m = long();
    let code = asm64(|a| {
        let mut top = a.create_label();
        a.mov(edi, (CODE + 0x800) as u32)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.inc(qword_ptr(rdi))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.peek64(CODE + 0x800), 1000);
    assert_eq!(m.cache.stats().invalidated, 0);
}

#[test]
fn an_instruction_across_pages_is_fetched_from_both() {
    let mut m = long();
    // mov eax, imm32 with its immediate on the next page, which is another one in RAM.
    let at = CODE + 0xffe;
    m.poke64(pte(CODE + 0x1000), 0x20_0007);
    m.poke(at, &[0xb8, 0x11]);
    m.poke(0x20_0000, &[0x22, 0x33, 0x44, 0xf4]);
    m.set_pc(at);
    assert_eq!(m.run_on(), Why::Halt);
    assert_eq!(m.get(0), 0x4433_2211);
    // The second page changes: by a store, and by another mapping.
    m.cpu.mem.ram.store_u8(0x20_0000, 0x99).unwrap();
    m.cpu.invalidate(0x20_0000, 1);
    m.set_pc(at);
    m.run_on();
    assert_eq!(m.get(0), 0x4433_9911);
    m.poke(0x21_0000, &[0x55, 0x66, 0x77, 0xf4]);
    m.poke64(pte(CODE + 0x1000), 0x21_0007);
    m.cpu.tlb.flush_all();
    m.set_pc(at);
    m.run_on();
    assert_eq!(m.get(0), 0x7766_5511);
    // And goes.
    m.poke64(pte(CODE + 0x1000), 0);
    m.cpu.tlb.flush_all();
    m.set_pc(at);
    m.run_on();
    assert_eq!((m.caught(), m.cpu.sys.cr2), (Some(14), CODE + 0x1000));
    assert_eq!(m.stack(0), 0x10, "a fetch by the supervisor, not present");
    assert_eq!(m.stack(1), at);
}

#[test]
fn unaligned_accesses_across_pages_and_spaces() {
    let mut m = long();
    m.poke64(pte(DATA + 0x1000), 0x20_0007);
    let code = asm64(|a| {
        a.mov(rdi, DATA + 0xffb)?;
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(ecx, dword_ptr(rdi + 3))?;
        a.movzx(edx, word_ptr(rdi + 4))?;
        a.movsxd(rbx, dword_ptr(rdi + 4))?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.peek64(0x20_0000) & 0xff_ffff, 0x11_2233);
    assert_eq!((m.get(1), m.get(2), m.get(3)), (0x2233_4455, 0x3344, 0x1122_3344));
    // A fault on the second page leaves the first alone.
    let mut m = long();
    m.poke64(pte(DATA + 0x1000), 0);
    m.run_code(&code);
    assert_eq!((m.caught(), m.cpu.sys.cr2), (Some(14), DATA + 0x1000));
    assert_eq!(m.peek64(DATA + 0xff8), 0);
}

#[test]
fn segment_bases_in_64_bit_code() {
    let mut m = long();
    m.poke64(DATA + 0x18, 0xabc);
    let code = asm64(|a| {
        a.mov(ecx, 0xc000_0101u32)?;
        a.mov(eax, DATA as u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(ebx, 8)?;
        a.mov(rsi, qword_ptr(0x18).gs())?;
        a.mov(rdi, qword_ptr(rbx + 0x10).gs())?;
        a.mov(r8, qword_ptr(rbx * 2 + rbx).gs())?;
        a.lea(r9, qword_ptr(rbx + 0x10).gs())?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(6), m.get(7), m.get(8)), (0xabc, 0xabc, 0xabc));
    assert_eq!(m.get(9), 0x18, "LEA knows no segments");
}

#[test]
fn what_the_model_does_not_have_is_undefined() {
    for bytes in [
        &[0x0f, 0x38, 0xf0, 0x00][..],      // movbe
        &[0x0f, 0x01, 0xc8],                // monitor
        &[0x0f, 0xaa],                      // rsm
        &[0x0f, 0x0b],                      // ud2
        &[0x0f, 0x0f, 0xc1, 0x9e],          // 3DNow!
        &[0xc4, 0xe2, 0x78, 0xf2, 0xc1],    // andn
        &[0xc5, 0xf8, 0x28, 0xc1],          // vmovaps
        &[0xf0, 0x01, 0xc0],                // lock with a register
        &[0xf0, 0x8b, 0x00],                // lock mov
        &[0x06],                            // push es
        &[0xf3, 0x0f, 0xc7, 0xf8],          // rdpid
        &[0x0f, 0xc7, 0xf8],                // rdseed
        &[0x0f, 0x01, 0xd5],                // xend
        &[0x66, 0x0f, 0x38, 0xdc, 0xc1],    // aesenc
        &[0x66, 0x0f, 0x3a, 0x44, 0xc1, 0], // pclmulqdq
        &[0x0f, 0x20, 0xc8],                // mov from cr1
        &[0x8e, 0xc8],                      // mov to cs
    ] {
        let mut m = long();
        m.run_code(bytes);
        assert_eq!(m.caught(), Some(6), "{bytes:x?}");
        assert_eq!(m.stack(0), CODE, "{bytes:x?}");
    }
    // Without their feature these are their older selves, or nothing.
    let mut m = long();
    m.set(1, 0x10);
    // lzcnt = bsr, tzcnt = bsf, rdsspq = nop, endbr64.
    m.run_code(&[
        0xf3, 0x0f, 0xbd, 0xc1, 0xf3, 0x0f, 0xbc, 0xd1, 0xf3, 0x48, 0x0f, 0x1e, 0xc8, 0xf3, 0x0f, 0x1e, 0xfa, 0xf4,
    ]);
    assert_eq!((m.caught(), m.get(0), m.get(2)), (None, 4, 4));
}

#[test]
fn instructions_longer_than_fifteen_bytes_are_refused() {
    let mut code = vec![0x66; 14];
    code.extend([0x90, 0xf4]);
    let mut m = long();
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), None, "fifteen are allowed");
    code.insert(0, 0x66);
    let mut m = long();
    m.run_code(&code);
    assert_eq!((m.caught(), m.stack(0), m.stack(1)), (Some(13), 0, CODE));
}

#[test]
fn blocks_hold_as_many_instructions_as_fit() {
    // More instructions than a block may have, more bytes than a window, and a page boundary in between.
    let mut m = long();
    let mut code = vec![];
    for _ in 0..3000 {
        code.extend([0x48, 0xff, 0xc0]);
    }
    code.push(0xf4);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(0), 3000);
    assert_eq!(m.instructions, 3001);
}
