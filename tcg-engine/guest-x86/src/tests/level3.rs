//! Who may run the instructions of x86-64-v3: the CPU model, XCR0, CR0.TS; and what the kernel's side of XSAVE checks.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::state::{cr0, cr4};
use crate::{Runner, Why};

fn with(m: fn() -> Runner<TestBus>, change: impl FnOnce(&mut crate::SysState)) -> Runner<TestBus> {
    let mut m = m();
    change(&mut m.cpu.sys);
    m.cpu.update_mode(&m.regs.0);
    m
}

#[test]
fn avx_needs_its_component_and_comes_before_no_unit() {
    let run = |mut m: Runner<TestBus>| fault(&mut m, |a| a.vpaddd(ymm0, ymm1, ymm2));
    assert_eq!(run(long_v3()), None);
    assert_eq!(run(with(long_v3, |s| s.xcr0 = 3)), Some(6), "XCR0 without AVX");
    assert_eq!(run(with(long_v3, |s| s.cr4 &= !cr4::OSXSAVE)), Some(6), "without CR4.OSXSAVE");
    assert_eq!(run(with(long_v3, |s| s.cr0 |= cr0::EM)), None, "emulation is of x87 and SSE");
    assert_eq!(run(with(long_v3, |s| s.cr0 |= cr0::TS)), Some(7));
    assert_eq!(run(with(long, |s| s.cr4 |= cr4::OSXSAVE)), Some(6), "the smaller model");
    // What does not exist is not the unit's matter: VAESENC.
    let mut m = with(long_v3, |s| s.cr0 |= cr0::TS);
    assert_eq!(fault(&mut m, |a| a.vaesenc(xmm0, xmm1, xmm2)), Some(6));
}

#[test]
fn bit_manipulation_needs_the_model_alone() {
    let mut m = with(long_v3, |s| s.xcr0 = 1);
    let code = |a: &mut CodeAssembler| {
        a.mov(eax, 0x50)?;
        a.blsr(ebx, eax)?;
        a.tzcnt(edx, eax)?;
        a.lzcnt(esi, eax)
    };
    assert_eq!(fault(&mut m, code), None);
    assert_eq!((m.get(3), m.get(2), m.get(6)), (0x40, 4, 25));
    // The smaller model takes TZCNT for BSF and LZCNT for BSR, and knows no BLSR.
    let mut m = long();
    let older = |a: &mut CodeAssembler| {
        a.mov(eax, 0x50)?;
        a.tzcnt(edx, eax)?;
        a.lzcnt(esi, eax)?;
        a.blsr(ebx, eax)
    };
    assert_eq!(fault(&mut m, older), Some(6));
    assert_eq!((m.get(2), m.get(6)), (4, 6));
}

#[test]
fn xcr0_takes_what_makes_sense() {
    let set = |v: u32| {
        let mut m = long_v3();
        let bad = fault(&mut m, |a| {
            a.xor(ecx, ecx)?;
            a.mov(eax, v)?;
            a.xor(edx, edx)?;
            a.xsetbv()
        });
        (bad, m.cpu.sys.xcr0)
    };
    assert_eq!([1, 3, 7].map(set), [(None, 1), (None, 3), (None, 7)]);
    assert_eq!([0, 2, 5, 6, 15].map(set), [(Some(13), 7); 5]);
}

#[test]
fn code_that_was_lifted_before_xcr0_changed_is_not_used() {
    let mut m = long_v3();
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.xor(ebx, ebx)?;
        a.set_label(&mut again)?;
        a.vpaddd(ymm0, ymm0, ymm0)?;
        a.inc(ebx)?;
        // The second time around AVX is off.
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 3)?;
        a.xsetbv()?;
        a.jmp(again)
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.get(3), m.cpu.sys.xcr0), (Some(6), 1, 3));
}

#[test]
fn xsaveopt_leaves_what_is_initial_alone() {
    let mut m = long_v3();
    m.poke(DATA, &[0xaa; 832]);
    m.poke(DATA + 512, &[0; 64]);
    let code = asm64(|a| {
        a.vzeroall()?;
        a.mov(rax, 0x77u64)?;
        a.vmovq(xmm2, rax)?;
        a.mov(eax, 6)?;
        a.xor(edx, edx)?;
        a.mov(rsi, DATA)?;
        a.xsaveopt(ptr(rsi))?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.peek64(DATA + 512), 2, "SSE is in use, AVX is not");
    assert_eq!((m.peek64(DATA + 160 + 32), m.peek64(DATA + 576)), (0x77, 0xaaaa_aaaa_aaaa_aaaa));
}
