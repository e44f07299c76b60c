//! Areas of FXSAVE and its family: what is copied at once is what goes word by word, and hits are those of a whole area.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::Why;
use crate::state::cr4;

/// Registers of every kind get values, which go to an area at `at`, and are loaded from a copy of it again: what the area holds, and
/// what it holds when the registers are saved once more. With `warm` the page hits before.
fn saved_and_restored(which: u32, at: u64, warm: bool) -> (Vec<u8>, Vec<u8>) {
    let mut m = long_v3();
    m.cpu.sys.cr4 |= cr4::OSXSAVE | cr4::OSFXSR;
    m.cpu.sys.xcr0 = 7;
    m.cpu.refresh(&mut m.regs.0);
    let again = at + 0x2000;
    for at in [at, again] {
        m.poke(at, &[0xaa; 832]);
        m.poke(at + 512, &[0; 64]);
    }
    for n in 0..16 {
        let v = 0x0101_0101_0101_0101_0101_0101_0101_0101 * (n as u128 + 1);
        m.regs.0.set128(crate::state::xmm(n), v);
        m.regs.0.set128(crate::state::ymm_upper(n), if which == 3 { 0 } else { v << 3 });
    }
    let save = |a: &mut CodeAssembler| match which {
        0 => a.fxsave64(ptr(rsi)),
        1 => a.fxsave(ptr(rsi)),
        2 => a.xsave64(ptr(rsi)),
        _ => a.xsaveopt64(ptr(rsi)),
    };
    let code = asm64(|a| {
        a.mov(rsi, at)?;
        // As many instructions otherwise: where the last one of the x87 unit lies is saved as well.
        a.mov(rdi, if warm { at } else { DATA + 0x6000 })?;
        for page in [0, 0x2000] {
            a.mov(rbx, qword_ptr(rdi + page))?;
            a.mov(qword_ptr(rdi + page), rbx)?;
        }
        a.fninit()?;
        a.fldpi()?;
        a.fld1()?;
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        save(a)?;
        a.fninit()?;
        for x in [xmm0, xmm1, xmm15] {
            a.pxor(x, x)?;
        }
        match which {
            0 => a.fxrstor64(ptr(rsi))?,
            1 => a.fxrstor(ptr(rsi))?,
            _ => a.xrstor64(ptr(rsi))?,
        }
        a.add(rsi, 0x2000)?;
        save(a)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), None);
    let read = |at| {
        let mut bytes = vec![0; 832];
        m.cpu.mem.ram.read(at, &mut bytes).unwrap();
        bytes
    };
    (read(at), read(again))
}

#[test]
fn areas_are_the_same_at_once_and_word_by_word() {
    for which in 0..4 {
        let (slow, twice) = saved_and_restored(which, DATA + 0x1000 - 64, false);
        assert_eq!(slow[32..42], twice[32..42], "ST0");
        for (at, warm) in [(DATA + 0x80, true), (DATA + 0x80, false), (DATA + 0x1000 - 64, true)] {
            let (fast, again) = saved_and_restored(which, at, warm);
            assert!(fast == slow && again == twice, "{which} at {at:#x}");
        }
        assert!(slow.contains(&0xaa), "what no field covers stays");
        assert_eq!(slow[160..416], twice[160..416], "XMM registers are back");
    }
}

#[test]
fn an_area_that_hits_in_part_faults_as_a_whole() {
    for (save, bits) in [(true, 0), (false, 0), (true, 1)] {
        let mut m = long();
        let at = DATA + 0x1000 - 256;
        m.poke(at, &[0xaa; 256]);
        m.poke64(pte(DATA + 0x1000), if bits == 0 { 0 } else { (DATA + 0x1000) | bits });
        let code = asm64(|a| {
            a.mov(rsi, at)?;
            a.mov(rbx, qword_ptr(rsi))?;
            a.mov(qword_ptr(rsi), rbx)?;
            if save {
                a.fxsave64(ptr(rsi))?
            } else {
                a.fxrstor64(ptr(rsi))?
            }
            a.hlt()
        });
        m.run_code(&code);
        assert_eq!((m.caught(), m.cpu.sys.cr2 & !0xfff), (Some(14), DATA + 0x1000));
        let mut bytes = [0; 256];
        m.cpu.mem.ram.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [0xaa; 256], "nothing is written");
    }
}

#[test]
fn an_area_over_code_drops_it() {
    let mut m = long();
    // MOV EAX, 1; RET where XMM0 will lie, then the same with 2.
    let function = |n: u8| [0xb8, n, 0, 0, 0, 0xc3];
    let at = DATA + 160;
    m.poke(at, &function(1));
    m.regs.0.set128(crate::state::xmm(0), function(2).iter().rev().fold(0, |v, &b| v << 8 | u128::from(b)));
    let code = asm64(|a| {
        a.mov(rsi, DATA)?;
        a.mov(rbx, qword_ptr(rsi))?;
        a.mov(qword_ptr(rsi), rbx)?;
        a.lea(rdi, qword_ptr(rsi + 160))?;
        a.call(rdi)?;
        a.mov(ebx, eax)?;
        a.fxsave64(ptr(rsi))?;
        a.call(rdi)?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!((m.caught(), m.get(3), m.get(0)), (None, 1, 2));
}
