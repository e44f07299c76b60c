//! Real mode from the reset vector on, and the way from there to protected and to long mode.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::state::{Seg, efer};
use crate::{Why, flags};

/// A real-mode machine: code at 0x1000:0, data segments at 0x2000, a stack at 0x3000:0xfffe.
fn real() -> crate::Runner<TestBus> {
    let mut m = machine();
    for (s, v) in [(Seg::Cs, 0x1000u16), (Seg::Ds, 0x2000), (Seg::Es, 0x2000), (Seg::Ss, 0x3000)] {
        m.cpu.sys.seg[s as usize] = m.cpu.sys.seg(s).real(v);
    }
    m.cpu.sys.idtr.limit = 0x3ff;
    m.set(4, 0xfffe);
    m.set_pc(0);
    m.cpu.refresh(&mut m.regs.0);
    m
}

fn run(m: &mut crate::Runner<TestBus>, code: &[u8]) -> Why {
    m.poke(0x1_0000, code);
    m.cpu.invalidate(0x1_0000, code.len() as u64);
    m.set_pc(0);
    m.run_on()
}

#[test]
fn the_reset_vector() {
    let m = machine();
    assert_eq!(m.cpu.linear_pc(&m.regs.0), 0xffff_fff0);
    assert_eq!(m.get(2), 0x206c2, "the signature in EDX");
    assert_eq!(m.flags(), flags::ONE);
}

#[test]
fn offsets_wrap_registers_are_partial_and_strings_work() {
    let mut m = real();
    m.poke(0x2_0100, b"hello, world");
    let code = asm(16, |a| {
        a.mov(si, 0x100)?;
        a.mov(di, 0x200)?;
        a.mov(cx, 12)?;
        a.rep().movsb()?;
        a.mov(di, 0x200)?;
        a.mov(al, b',' as u32)?;
        a.mov(cx, 12)?;
        a.repne().scasb()?;
        a.mov(bx, 0xffff)?;
        a.mov(word_ptr(bx + 0x302), 0x1234)?;
        a.mov(eax, 0x1234_5678)?;
        a.shl(eax, 4)?;
        a.mov(dx, ax)?;
        a.push(ax)?;
        a.pop(bp)?;
        a.hlt()
    });
    assert_eq!(run(&mut m, &code), Why::Halt);
    let mut out = [0; 12];
    m.cpu.mem.ram.read(0x2_0200, &mut out).unwrap();
    assert_eq!(&out, b"hello, world");
    assert_eq!((m.get(7), m.get(1)), (0x206, 6));
    assert_eq!(m.peek64(0x2_0301) & 0xffff, 0x1234);
    assert_eq!((m.get(0), m.get(2) & 0xffff, m.get(5)), (0x2345_6780, 0x6780, 0x6780));
}

#[test]
fn interrupts_go_through_the_vector_table() {
    let mut m = real();
    m.poke(0x21 * 4, &[0x50, 0, 0, 0x10]);
    m.poke(
        0x1_0050,
        &asm(16, |a| {
            a.mov(bx, 0x77)?;
            a.iret()
        }),
    );
    let code = asm(16, |a| {
        a.sti()?;
        a.int(0x21)?;
        a.pushf()?;
        a.pop(cx)?;
        a.hlt()
    });
    assert_eq!(run(&mut m, &code), Why::Halt);
    assert_eq!((m.get(3), m.get(4)), (0x77, 0xfffe));
    assert_ne!(m.get(1) & flags::IF, 0);
    // A division fault saves the address of the instruction.
    m.poke(0, &[0x60, 0, 0, 0x10]);
    m.poke(0x1_0060, &[0xf4]);
    run(
        &mut m,
        &asm(16, |a| {
            a.xor(cx, cx)?;
            a.div(cx)
        }),
    );
    assert_eq!(m.pc(), 0x61);
    assert_eq!(m.cpu.mem.ram.load_u16(0x3_0000 + (m.get(4) & 0xffff)), Some(2));
}

#[test]
fn accesses_beyond_64_kib_fault() {
    let mut m = real();
    m.poke(13 * 4, &[0x60, 0, 0, 0x10]);
    m.poke(0x1_0060, &[0xf4]);
    run(
        &mut m,
        &asm(16, |a| {
            a.mov(bx, 0xffff)?;
            a.mov(ax, word_ptr(bx))
        }),
    );
    assert_eq!(m.pc(), 0x61, "a word at the last byte");
}

#[test]
fn far_calls_and_returns() {
    let mut m = real();
    m.poke(
        0x4_0010,
        &asm(16, |a| {
            a.mov(bx, cs)?;
            a.retf()
        }),
    );
    // call far 0x4000:0x10
    let code = [0x9a, 0x10, 0, 0, 0x40, 0xf4];
    assert_eq!(run(&mut m, &code), Why::Halt);
    assert_eq!((m.get(3), m.get(4), m.cpu.sys.seg(Seg::Cs).selector), (0x4000, 0xfffe, 0x1000));
}

#[test]
fn the_same_code_at_another_segment_is_lifted_for_it() {
    // A near call pushes the offset, which differs although the bytes are the same.
    let code = asm(16, |a| {
        a.nop()?;
        a.call(CODE + 5)?;
        a.nop()?;
        a.pop(ax)?;
        a.hlt()
    });
    let mut m = real();
    m.poke(0x1_0000, &code);
    m.set_pc(0);
    m.run_on();
    assert_eq!(m.get(0), 4);
    m.cpu.sys.seg[Seg::Cs as usize] = m.cpu.sys.seg(Seg::Cs).real(0x0ff0);
    m.cpu.refresh(&mut m.regs.0);
    m.set_pc(0x100);
    m.run_on();
    assert_eq!(m.get(0), 0x104);
}

#[test]
fn from_real_to_protected_to_long_mode() {
    let mut m = real();
    // Tables: the long-mode ones of the harness, by hand.
    m.poke64(0x8000, 0);
    m.poke64(0x8008, 0x00cf_9b00_0000_ffff); // 32-bit code
    m.poke64(0x8010, 0x00cf_9300_0000_ffff); // data
    m.poke64(0x8018, 0x00af_9b00_0000_ffff); // 64-bit code
    m.poke(0x2_0000, &[0x1f, 0, 0x00, 0x80, 0, 0]);
    m.poke64(0x9000, 0xa003);
    m.poke64(0xa000, 0x83);
    let code16 = asm(16, |a| {
        a.cli()?;
        a.lgdt(dword_ptr(0))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // jmp far 8:0x20000+0x100
        a.db(&[0x66, 0xea, 0x00, 0x01, 0x02, 0x00, 0x08, 0x00])
    });
    let code32 = asm(32, |a| {
        a.mov(eax, 0x10)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(esp, 0x3_0000)?;
        a.push(eax)?;
        a.mov(eax, cr4)?;
        a.or(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x9000)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 0x100)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        // jmp far 0x18:0x20200
        a.db(&[0xea, 0x00, 0x02, 0x02, 0x00, 0x18, 0x00])
    });
    let code64 = asm64(|a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.push(rax)?;
        a.pop(r15)?;
        a.hlt()
    });
    m.poke(0x2_0100, &code32);
    m.poke(0x2_0200, &code64);
    assert_eq!(run(&mut m, &code16), Why::Halt);
    assert_eq!(m.get(15), 0x1122_3344_5566_7788);
    assert!(m.cpu.sys.code64() && m.cpu.sys.efer & efer::LMA != 0);
    assert_eq!(m.get(4), 0x2_fffc);
}

#[test]
fn system_instructions_of_protected_mode_are_undefined() {
    for bytes in [&[0x0fu8, 0x00, 0xd8][..], &[0x0f, 0x00, 0xc0], &[0x0f, 0x02, 0xc0], &[0x63, 0xc0]] {
        let mut m = real();
        m.poke(6 * 4, &[0x60, 0, 0, 0x10]);
        m.poke(0x1_0060, &[0xf4]);
        run(&mut m, bytes);
        assert_eq!(m.pc(), 0x61, "{bytes:x?}");
    }
}
