//! 32-bit protected mode: segments and their limits, privilege, stacks from the TSS, virtual-8086 mode, descriptor queries.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::state::{Seg, Segment, attr};
use crate::{Why, flags};

fn poke_descriptor(m: &crate::Runner<TestBus>, selector: u64, base: u64, limit: u64, attr: u64) {
    let raw = limit & 0xffff | (base & 0xff_ffff) << 16 | attr << 40 | (limit >> 16 & 0xf) << 48 | (base >> 24) << 56;
    m.poke64(GDT + selector, raw);
}

#[test]
fn flat_code_in_32_bits() {
    let mut m = protected();
    let code = asm(32, |a| {
        a.mov(eax, 0x8000_0000u32)?;
        a.add(eax, eax)?;
        a.adc(ebx, 0)?;
        a.pushad()?;
        a.popad()?;
        a.push(0x1234)?;
        a.pop(ecx)?;
        a.mov(al, 0x19)?;
        a.add(al, 0x28)?;
        a.daa()?;
        a.enter(16, 2)?;
        a.leave()?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(0), m.get(3), m.get(1), m.get(4)), (0x47, 1, 0x1234, STACK));
}

#[test]
fn limits_are_checked_through_segments_that_are_not_flat() {
    // A data segment of 256 bytes in DS.
    for (offset, bytes, vector) in [(0xffu32, 1, None), (0xfc, 4, None), (0xfd, 4, Some(13)), (0x100, 1, Some(13))] {
        let mut m = protected();
        poke_descriptor(&m, 0x28, DATA, 0xff, 0x4093);
        let code = asm(32, |a| {
            a.mov(eax, 0x28)?;
            a.mov(ds, ax)?;
            a.mov(esi, offset)?;
            if bytes == 1 {
                a.mov(bl, byte_ptr(esi))?
            } else {
                a.mov(ebx, dword_ptr(esi))?
            }
            a.hlt()
        });
        m.run_code(&code);
        assert_eq!(m.caught(), vector, "{offset:#x}");
    }
    // Its base counts.
    let mut m = protected();
    poke_descriptor(&m, 0x28, DATA, 0xff, 0x4093);
    m.poke64(DATA + 0x10, 0x5566);
    let code = asm(32, |a| {
        a.mov(eax, 0x28)?;
        a.mov(fs, ax)?;
        a.mov(ebx, dword_ptr(0x10).fs())?;
        a.mov(dword_ptr(0x20).fs(), ebx)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(3), m.peek64(DATA + 0x20)), (0x5566, 0x5566));
}

#[test]
fn what_cannot_be_loaded_or_written() {
    // (descriptor attributes, selector, what is done, vector, error code)
    let load = |attr: u64, selector: u16, seg: Seg| {
        let mut m = protected();
        poke_descriptor(&m, 0x28, 0, 0xfffff, attr);
        let code = asm(32, |a| {
            a.mov(eax, u32::from(selector))?;
            match seg {
                Seg::Ss => a.mov(ss, ax)?,
                _ => a.mov(ds, ax)?,
            }
            a.mov(dword_ptr(DATA as u32), eax)?;
            a.hlt()
        });
        m.run_code(&code);
        m.caught().map(|v| (v, m.stack32(0)))
    };
    assert_eq!(load(0xc093, 0x28, Seg::Ds), None);
    assert_eq!(load(0xc093, 0x28, Seg::Ss), None);
    assert_eq!(load(0xc013, 0x28, Seg::Ds), Some((11, 0x28)), "not present");
    assert_eq!(load(0xc013, 0x28, Seg::Ss), Some((12, 0x28)));
    assert_eq!(load(0xc099, 0x28, Seg::Ds), Some((13, 0x28)), "execute only");
    assert_eq!(load(0xc091, 0x28, Seg::Ss), Some((13, 0x28)), "a read-only stack");
    assert_eq!(load(0xc0f3, 0x28, Seg::Ss), Some((13, 0x28)), "a stack of another privilege level");
    assert_eq!(load(0xc093, 0x2b, Seg::Ds), Some((13, 0x28)), "RPL 3 for a segment of level 0");
    assert_eq!(load(0xc093, 0x58, Seg::Ds), Some((13, 0x58)), "beyond the table");
    assert_eq!(load(0xc093, 0x2c, Seg::Ds), Some((13, 0x2c)), "there is no local table");
    assert_eq!(load(0xc093, 0, Seg::Ss), Some((13, 0)), "a null stack");
    assert_eq!(load(0xc091, 0x28, Seg::Ds), Some((13, 0)), "loaded, but read-only");
    assert_eq!(load(0xc09b, 0x28, Seg::Ds), Some((13, 0)), "readable code is not writable");
    assert_eq!(load(0xc093, 3, Seg::Ds), Some((13, 0)), "null can be loaded, not used");
}

#[test]
fn a_segment_that_grows_down() {
    for (offset, vector) in [(0x0fffu32, Some(13)), (0x1000, None), (0xffff_fffc, None)] {
        let mut m = protected();
        poke_descriptor(&m, 0x28, 0, 0, 0xc097);
        // Limit 0 pages: 0..=0xfff is outside.
        let code = asm(32, |a| {
            a.mov(eax, 0x28)?;
            a.mov(gs, ax)?;
            a.mov(esi, offset)?;
            a.mov(bl, byte_ptr(esi).gs())?;
            a.hlt()
        });
        m.run_code(&code);
        assert_eq!(m.caught(), vector, "{offset:#x}");
    }
}

#[test]
fn inner_levels_take_their_stack_from_the_tss() {
    let mut m = protected();
    m.poke(
        0x7_0000,
        &asm(32, |a| {
            a.inc(eax)?;
            a.iretd()
        }),
    );
    m.gate32(0x80, 0x7_0000, 0xf, 3);
    user(&mut m);
    let code = asm(32, |a| {
        a.int(0x80)?;
        a.int(0x80)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.get(0)), (Some(13), 2));
    assert_eq!(m.get(4), STACK0 - 24);
    assert_eq!((m.stack32(1), m.stack32(2)), (CODE + 4, u64::from(USER_CS)));
    assert_eq!((m.stack32(4), m.stack32(5)), (STACK, u64::from(USER_SS)));
}

#[test]
fn returning_outwards_drops_segments_of_the_inner_level() {
    let mut m = protected();
    let code = asm(32, |a| {
        a.push(USER_SS as i32)?;
        a.push(DATA as i32)?;
        a.push(USER_CS as i32)?;
        a.push(0x7_0000)?;
        a.retf()
    });
    m.poke(0x7_0000, &[0xf4]);
    // ES for the user, DS for the kernel.
    m.cpu.sys.seg[Seg::Es as usize] = flat(USER_SS, 3, false);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(13));
    assert_eq!(m.cpu.sys.seg[Seg::Ds as usize].selector, 0);
    assert_eq!(m.cpu.sys.seg[Seg::Es as usize].selector, USER_SS);
    assert_eq!((m.stack32(2), m.stack32(4)), (u64::from(USER_CS), DATA));
}

#[test]
fn far_calls_between_segments_of_one_level() {
    let mut m = protected();
    // 16-bit code at DATA.
    poke_descriptor(&m, 0x28, DATA, 0xffff, 0x009b);
    m.poke(
        DATA + 0x10,
        &asm(16, |a| {
            a.mov(bx, 0x1234)?;
            a.inc(bx)?;
            // A 32-bit far return.
            a.db(&[0x66, 0xcb])
        }),
    );
    // call far 0x28:0x10
    let mut code = vec![0x9a, 0x10, 0, 0, 0, 0x28, 0];
    code.push(0xf4);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.get(3), m.get(4)), (None, 0x1235, STACK));
    assert_eq!(m.cpu.sys.seg[Seg::Cs as usize].selector, KERNEL_CS);
}

#[test]
fn a_call_gate_of_the_same_level() {
    let mut m = protected();
    // 386 call gate at 0x28 to kernel code at 0x70000.
    m.poke64(GDT + 0x28, u64::from(KERNEL_CS) << 16 | 0x8cu64 << 40 | 7u64 << 48);
    m.poke(
        0x7_0000,
        &asm(32, |a| {
            a.mov(eax, 0x55)?;
            a.retf()
        }),
    );
    let code = [0x9a, 0xff, 0xff, 0xff, 0xff, 0x28, 0, 0xf4];
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.get(0)), (None, 0x55));
}

#[test]
fn questions_about_descriptors() {
    let mut m = protected();
    poke_descriptor(&m, 0x28, 0, 0x123, 0x0091);
    let code = asm(32, |a| {
        a.mov(eax, 0x28)?;
        a.lsl(ebx, eax)?;
        a.setz(cl)?;
        a.lar(edx, eax)?;
        a.verr(ax)?;
        a.setz(ch)?;
        a.verw(ax)?;
        a.mov(esi, 7)?;
        a.setz(al)?;
        a.lsl(esi, esp)?;
        a.mov(edi, 0x40)?;
        a.str(ebp)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.get(3), m.get(1) & 0xffff, m.get(2), m.get(0) & 0xff), (0x123, 0x101, 0x9100, 0));
    assert_eq!(m.get(6), 7, "an invalid selector leaves the register");
    assert_eq!(m.get(5), 0x40);
    // ARPL raises the requested level.
    let mut m = protected();
    m.set(0, 0x20);
    m.set(3, 3);
    m.run_code(&asm(32, |a| {
        a.arpl(ax, bx)?;
        a.setz(cl)?;
        a.arpl(ax, bx)?;
        a.setz(ch)?;
        a.hlt()
    }));
    assert_eq!((m.get(0), m.get(1) & 0xffff), (0x23, 1));
}

#[test]
fn the_task_register_becomes_busy() {
    let mut m = protected();
    m.cpu.sys.tr = Segment::default();
    m.run_code(&asm(32, |a| {
        a.mov(eax, 0x40)?;
        a.ltr(ax)?;
        a.ltr(ax)?;
        a.hlt()
    }));
    assert_eq!((m.caught(), m.stack32(0)), (Some(13), 0x40), "the second time it is busy");
    assert_eq!(m.cpu.sys.tr.base, TSS);
    assert_eq!(m.peek64(GDT + 0x40) >> 40 & 0xff, 0x8b);
}

#[test]
fn virtual_8086_mode_in_and_out() {
    let mut m = protected();
    // 16-bit code at segment 0x5000: reads through DS, then INT 0x80.
    let code16 = asm(16, |a| {
        a.mov(bx, word_ptr(0x20))?;
        a.mov(word_ptr(bx), 0x4321)?;
        a.int(0x80)
    });
    m.poke(DATA, &code16);
    m.poke64(DATA + 0x100 + 0x20, 0x30);
    m.gate32(0x80, 0x6_0000 + 16 * 0x80, 0xe, 3);
    let iopl3 = (flags::VM | flags::IOPL | flags::IF | 2) as i32;
    let code = asm(32, |a| {
        a.push(0x1111)?; // gs
        a.push(0x2222)?; // fs
        a.push(0x5010)?; // ds
        a.push(0x3333)?; // es
        a.push(0x2000)?; // ss
        a.push(0xfff0)?; // esp
        a.push(iopl3)?;
        a.push(0x5000)?; // cs
        a.push(0)?;
        a.iretd()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(0x80));
    assert_eq!(m.peek64(DATA + 0x100 + 0x30) & 0xffff, 0x4321);
    assert_eq!(m.get(4), STACK0 - 36);
    let frame: Vec<u64> = (0..9).map(|n| m.stack32(n)).collect();
    assert_eq!(frame[..2], [code16.len() as u64, 0x5000]);
    assert_ne!(frame[2] & flags::VM, 0);
    assert_eq!(frame[3..], [0xfff0, 0x2000, 0x3333, 0x5010, 0x2222, 0x1111]);
    assert_eq!(m.flags() & flags::VM, 0);
    assert_eq!(m.cpu.sys.seg[Seg::Ds as usize], Segment::null(0));
    // With IOPL 0 the INT, CLI and PUSHF fault.
    for bytes in [&[0xcdu8, 0x80][..], &[0xfa], &[0x9c], &[0xcf]] {
        let mut m = protected();
        m.poke(DATA, bytes);
        let low = (flags::VM | flags::IF | 2) as i32;
        let code = asm(32, |a| {
            for _ in 0..4 {
                a.push(0x5000)?;
            }
            a.push(0x2000)?;
            a.push(0xfff0)?;
            a.push(low)?;
            a.push(0x5000)?;
            a.push(0)?;
            a.iretd()
        });
        m.run_code(&code);
        assert_eq!((m.caught(), m.stack32(0)), (Some(13), 0), "{bytes:x?}");
    }
}

#[test]
fn ports_follow_iopl_and_the_bitmap() {
    for (iopl, bitmap, allowed) in [(3u64, 0xff, true), (0, 0xff, false), (0, 0x00, true), (0, 0x10, false)] {
        let mut m = protected();
        // The bitmap at 0x68 of a longer TSS: port 0x24 is bit 4 of byte 4.
        m.poke(TSS + 0x66, &0x68u16.to_le_bytes());
        m.poke(TSS + 0x68, &[0xff, 0xff, 0xff, 0xff, bitmap, 0xff]);
        m.cpu.sys.tr.limit = 0x68 + 5;
        user(&mut m);
        m.set_flags(iopl << 12);
        m.run_code(&asm(32, |a| {
            a.mov(al, 0x5a)?;
            a.out(0x24, al)?;
            a.hlt()
        }));
        assert_eq!(!m.cpu.bus.io.is_empty(), allowed, "iopl {iopl} bitmap {bitmap:#x}");
        assert_eq!(m.caught(), Some(13));
    }
}

#[test]
fn bound_and_into() {
    let mut m = protected();
    m.poke64(DATA, 10u64 << 32 | 0xffff_fff6);
    for (v, vector) in [(-10i32, None), (10, None), (11, Some(5)), (-11, Some(5))] {
        m.set(4, STACK);
        m.run_code(&asm(32, |a| {
            a.mov(eax, v)?;
            a.bound(eax, qword_ptr(DATA as u32))?;
            a.hlt()
        }));
        assert_eq!(m.caught(), vector, "{v}");
    }
    m.set(4, STACK);
    m.run_code(&asm(32, |a| {
        a.mov(al, 0x7f)?;
        a.inc(al)?;
        a.into()?;
        a.hlt()
    }));
    assert_eq!((m.caught(), m.stack32(0)), (Some(4), CODE + 5));
}

#[test]
fn a_16_bit_stack_wraps_within_its_segment() {
    let mut m = protected();
    poke_descriptor(&m, 0x28, DATA, 0xffff, 0x0093);
    let code = asm(32, |a| {
        a.mov(eax, 0x28)?;
        a.mov(ss, ax)?;
        a.mov(esp, 0xabcd_0000u32)?;
        a.push(0x1234_5678)?;
        a.pop(ebx)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.get(3), m.get(4)), (None, 0x1234_5678, 0xabcd_0000));
    assert_eq!(m.peek64(DATA + 0xfffc) & 0xffff_ffff, 0x1234_5678);
    let _ = attr::P;
}
