//! What is in words as well as in system state: bases and selectors of segments, whoever writes and whoever reads them.

use cpu_model::msr;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::harness::*;
use crate::Runner;
use crate::state::{Seg, cr4};

type Steps<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A kernel's machine with the instructions for bases.
fn based() -> Runner<TestBus> {
    let mut m = long();
    m.cpu.sys.kernel_gs_base = 0x1111;
    m.cpu.sys.cr4 |= cr4::FSGSBASE;
    m.cpu.refresh(&mut m.regs.0);
    m
}

fn rdmsr(a: &mut CodeAssembler, index: u32) -> Result<(), IcedError> {
    a.mov(ecx, index)?;
    a.rdmsr()
}

/// What RDMSR gives for the bases of FS and GS and for the other one of GS, after `steps`.
fn bases(steps: Steps) -> [u64; 3] {
    [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE].map(|index| {
        let mut m = based();
        assert_eq!(
            fault(&mut m, |a| {
                steps(a)?;
                rdmsr(a, index)
            }),
            None
        );
        let state = m.cpu.save_state(&m.regs.0);
        let saved = match index {
            msr::FS_BASE => state.seg[Seg::Fs as usize].base,
            msr::GS_BASE => state.seg[Seg::Gs as usize].base,
            _ => state.msrs.iter().find(|(i, _)| *i == index).unwrap().1,
        };
        assert_eq!(saved, m.get(0), "what is saved is what RDMSR gives");
        m.get(0)
    })
}

#[test]
fn bases_are_what_was_written_last() {
    assert_eq!(bases(&|_| Ok(())), [0, 0, 0x1111]);
    assert_eq!(bases(&|a| a.swapgs()), [0, 0x1111, 0]);
    assert_eq!(
        bases(&|a| {
            a.mov(eax, 0x2222)?;
            a.wrfsbase(rax)?;
            a.inc(eax)?;
            a.wrgsbase(rax)?;
            a.swapgs()
        }),
        [0x2222, 0x1111, 0x2223]
    );
    assert_eq!(
        bases(&|a| {
            a.mov(ecx, msr::KERNEL_GS_BASE)?;
            a.xor(edx, edx)?;
            a.mov(eax, 0x3333)?;
            a.wrmsr()?;
            a.swapgs()?;
            a.mov(ecx, msr::FS_BASE)?;
            a.wrmsr()
        }),
        [0x3333, 0x3333, 0]
    );
    // Half of a register is a base below 4 GiB.
    assert_eq!(
        bases(&|a| {
            a.mov(rax, u64::MAX - 1)?;
            a.wrgsbase(eax)
        }),
        [0, 0xffff_fffe, 0x1111]
    );
}

#[test]
fn a_loaded_state_has_its_bases() {
    let mut m = based();
    assert_eq!(
        fault(&mut m, |a| {
            a.mov(eax, 0x2222)?;
            a.wrgsbase(rax)?;
            a.wrfsbase(rax)
        }),
        None
    );
    let state = m.cpu.save_state(&m.regs.0);
    let mut n = based();
    n.cpu.load_state(&mut n.regs.0, &state).unwrap();
    assert_eq!(n.cpu.save_state(&n.regs.0), state);
    assert_eq!(
        fault(&mut n, |a| {
            a.rdgsbase(rbx)?;
            a.swapgs()?;
            a.rdgsbase(rdx)?;
            a.rdfsbase(rsi)
        }),
        None
    );
    assert_eq!((n.get(3), n.get(2), n.get(6)), (0x2222, 0x1111, 0x2222));
}

#[test]
fn accesses_have_the_base_that_was_written_before() {
    let mut m = based();
    for (n, at) in [DATA, DATA + 0x100, DATA + 0x200].into_iter().enumerate() {
        m.poke64(at, n as u64 + 1);
    }
    m.cpu.sys.kernel_gs_base = DATA + 0x200;
    m.cpu.refresh(&mut m.regs.0);
    assert_eq!(
        fault(&mut m, |a| {
            a.mov(rax, DATA)?;
            a.mov(rdi, DATA + 0x100)?;
            a.xor(esi, esi)?;
            a.wrgsbase(rax)?;
            a.mov(r8, qword_ptr(rsi).gs())?;
            a.wrgsbase(rdi)?;
            a.mov(r9, qword_ptr(rsi).gs())?;
            a.swapgs()?;
            a.mov(r10, qword_ptr(rsi).gs())?;
            a.swapgs()?;
            a.mov(r11, qword_ptr(rsi).gs())
        }),
        None
    );
    assert_eq!([8, 9, 10, 11].map(|n| m.get(n)), [1, 2, 3, 2]);
}

#[test]
fn who_may_exchange_and_write_bases() {
    let mut m = based();
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.swapgs()), Some(13));
    assert_eq!((m.stack(0), m.stack(1)), (0, CODE));
    let mut m = protected();
    m.run_code(&[0x0f, 0x01, 0xf8]);
    assert_eq!(m.caught(), Some(6), "SWAPGS is for 64-bit code");
    // The kernel turns the instructions on, uses them, and turns them off, with the same code each time.
    let mut m = long();
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rax, cr4)?;
        a.xor(rax, rcx)?;
        a.mov(cr4, rax)?;
        a.inc(ebx)?;
        a.rdfsbase(rsi)?;
        a.jmp(again)
    });
    m.set(1, cr4::FSGSBASE);
    m.run_code(&code);
    assert_eq!((m.caught(), m.get(3)), (Some(6), 2), "off again the second time");
}

#[test]
fn a_return_to_a_program_keeps_bases_of_segments_that_become_null() {
    let mut m = based();
    for s in [Seg::Fs, Seg::Gs] {
        m.cpu.sys.seg[s as usize] = flat(KERNEL_SS, 3, false);
    }
    m.cpu.refresh(&mut m.regs.0);
    let code = asm64(|a| {
        let mut there = a.create_label();
        a.mov(eax, 0x2222)?;
        a.wrgsbase(rax)?;
        a.inc(eax)?;
        a.wrfsbase(rax)?;
        a.mov(r8d, gs)?;
        a.mov(rcx, rsp)?;
        a.push(u32::from(USER_SS | 3) as i32)?;
        a.push(rcx)?;
        a.pushfq()?;
        a.push(u32::from(USER_CS | 3) as i32)?;
        a.lea(rax, qword_ptr(there))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut there)?;
        a.rdgsbase(rbx)?;
        a.rdfsbase(rdx)?;
        a.mov(r9d, gs)?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!(m.caught(), Some(13), "HLT is the kernel's");
    assert_eq!((m.get(3), m.get(2)), (0x2222, 0x2223));
    assert_eq!((m.get(8), m.get(9)), (u64::from(KERNEL_SS), 0));
}

#[test]
fn selectors_are_those_that_were_loaded() {
    let mut m = based();
    assert_eq!(
        fault(&mut m, |a| {
            a.mov(eax, u32::from(USER_SS | 3))?;
            a.mov(ds, eax)?;
            a.mov(rbx, u64::MAX)?;
            a.mov(bx, ds)?;
            a.mov(rdx, u64::MAX)?;
            a.mov(edx, ds)?;
            a.mov(esi, cs)?;
            a.xor(eax, eax)?;
            a.mov(fs, eax)?;
            a.push(fs)?;
            a.pop(rdi)
        }),
        None
    );
    let loaded = u64::from(USER_SS | 3);
    assert_eq!((m.get(3), m.get(2)), (!0xffff | loaded, loaded));
    assert_eq!((m.get(6), m.get(7)), (u64::from(KERNEL_CS), 0));
}
