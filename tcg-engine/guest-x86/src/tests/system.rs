//! Control registers, model-specific registers, CPUID, devices and ports.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::state::{Shadow, cr0, cr4};
use crate::{Runner, Why};

fn write_msr(index: u32, value: u64) -> Option<u64> {
    let mut m = long();
    fault(&mut m, |a| {
        a.mov(ecx, index)?;
        a.mov(eax, value as u32)?;
        a.mov(edx, (value >> 32) as u32)?;
        a.wrmsr()
    })
}

#[test]
fn model_specific_registers_check_what_is_written() {
    for (index, value, fault) in [
        (0xc000_0100u32, 0xffff_8000_0000_0000u64, false),
        (0xc000_0100, 0x8000_0000_0000, true),
        (0xc000_0082, 0x8000_0000_0000, true),
        (0x277, 0x0007_0406_0007_0406, false),
        (0x277, 2, true),
        (0x48, 1, false),
        (0x48, 8, true),
        (0x49, 1, false),
        (0x49, 2, true),
        (0x10a, 0, true),
        (0xfe, 0, true),
        (0x8b, 0x1234, false),
        (0x174, 0x1_0000_0000, true),
        (0xc000_0103, 0x1_0000_0000, true),
        (0xc000_0080, 0xd01, false),
        (0xc000_0080, 0xc01, true),
        (0xc000_0080, 1 << 20, true),
        (0x1234, 0, true),
        (0x80b, 0, false),
    ] {
        assert_eq!(write_msr(index, value).is_some(), fault, "{index:#x} = {value:#x}");
    }
}

#[test]
fn model_specific_registers_read_back() {
    let mut m = long();
    let read = |m: &mut Runner<TestBus>, index: u32| {
        let v = fault(m, |a| {
            a.mov(ecx, index)?;
            a.rdmsr()
        });
        v.is_none().then(|| m.get(0) | m.get(2) << 32)
    };
    assert_eq!(read(&mut m, 0x277), Some(0x0007_0406_0007_0406));
    assert_eq!(read(&mut m, 0x1b), Some(0xfee0_0900));
    assert_eq!(read(&mut m, 0x2ff), Some(0x806));
    assert_eq!(read(&mut m, 0x49), None, "write-only");
    assert_eq!(read(&mut m, 0xdead), None);
    assert_eq!(read(&mut m, 0xc000_0080), Some(0xd01));
    m.cpu.bus.x2apic.insert(0x802, 7);
    assert_eq!(read(&mut m, 0x802), Some(7));
    assert_eq!(read(&mut m, 0x8ff), None);
    user(&mut m);
    assert_eq!(read(&mut m, 0x277), None, "privileged");
}

#[test]
fn control_registers_check_what_is_written() {
    let go = |n: u32, value: u64| {
        let mut m = long();
        let fault = fault(&mut m, |a| {
            a.mov(rax, value)?;
            match n {
                0 => a.mov(cr0, rax),
                3 => a.mov(cr3, rax),
                4 => a.mov(cr4, rax),
                _ => a.mov(cr8, rax),
            }
        });
        fault.is_some()
    };
    let c0 = cr0::PE | cr0::PG | cr0::ET | cr0::WP | cr0::NE;
    let c4 = cr4::PAE | cr4::PGE;
    for (n, value, fault) in [
        (0, c0, false),
        (0, c0 | cr0::CD, false),
        (0, c0 | cr0::NW, true),
        (0, c0 & !cr0::PG, true),
        (0, c0 & !cr0::PE, true),
        (0, c0 | 1 << 32, true),
        (3, CR3, false),
        (3, CR3 | 1 << 45, true),
        (4, c4, false),
        (4, c4 | cr4::FSGSBASE | cr4::OSXSAVE, false),
        (4, 0, true),
        (4, c4 | 1 << 12, true),
        (4, c4 | 1, true),
        (8, 15, false),
        (8, 16, true),
    ] {
        assert_eq!(go(n, value), fault, "CR{n} = {value:#x}");
    }
    let mut m = long();
    assert_eq!(fault(&mut m, |a| a.mov(rax, cr2)), None);
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.mov(rax, cr0)), Some(13));
}

#[test]
fn task_switched_and_machine_status() {
    let mut m = long();
    assert_eq!(
        fault(&mut m, |a| {
            a.mov(eax, 0xf)?;
            a.lmsw(ax)?;
            a.smsw(rbx)?;
            a.clts()?;
            a.smsw(ecx)
        }),
        None
    );
    assert_eq!(m.get(3), m.cpu.sys.cr0 | cr0::TS);
    assert_eq!(m.get(1) & 0xf, 7);
}

#[test]
fn cpuid_shows_the_model_and_the_state() {
    let mut m = long();
    fault(&mut m, |a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(r8d, ecx)?;
        a.mov(rax, cr4)?;
        a.bts(rax, 18)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(r9d, ecx)?;
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.mov(r10d, eax)?;
        a.mov(eax, 3)?;
        a.xsetbv()?;
        a.xgetbv()?;
        a.mov(r11d, eax)
    });
    let osxsave = cpu_model::features::OSXSAVE as u64;
    assert_eq!((m.get(8) & osxsave, m.get(9) & osxsave), (0, osxsave));
    assert_eq!((m.get(10), m.get(11)), (1, 3));
    let mut m = long();
    assert_eq!(fault(&mut m, |a| a.xgetbv()), Some(6), "without CR4.OSXSAVE");
    let mut m = long();
    m.cpu.sys.cr4 |= cr4::OSXSAVE;
    m.cpu.update_mode(&m.regs.0);
    let bad = fault(&mut m, |a| {
        a.xor(ecx, ecx)?;
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xsetbv()
    });
    assert_eq!(bad, Some(13), "no such component");
}

#[test]
fn clocks_and_random_numbers() {
    let mut m = long();
    fault(&mut m, |a| {
        a.rdtsc()?;
        a.mov(r8, rax)?;
        a.rdtscp()?;
        a.mov(r9, rax)?;
        a.rdrand(rbx)?;
        a.setc(cl)
    });
    assert!(m.get(9) > m.get(8));
    assert_eq!((m.get(3), m.get(1) & 1), (0x0123_4567_89ab_cdef, 1));
    m.cpu.sys.cr4 |= cr4::TSD;
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.rdtsc()), Some(13));
}

#[test]
fn devices_see_each_access_once_with_its_width() {
    let mut m = long();
    let fault = fault(&mut m, |a| {
        a.mov(rdi, DEVICE)?;
        a.mov(al, byte_ptr(rdi))?;
        a.movzx(ebx, word_ptr(rdi + 2))?;
        a.mov(ecx, dword_ptr(rdi + 4))?;
        a.mov(rdx, qword_ptr(rdi + 8))?;
        a.mov(byte_ptr(rdi + 0x10), 0x12)?;
        a.mov(qword_ptr(rdi + 0x18), rdx)?;
        a.or(dword_ptr(rdi + 0x20), 1)
    });
    assert_eq!(fault, None);
    assert_eq!((m.get(3), m.get(1), m.get(2)), (0x7788, 0x5566_7788, 0x1122_3344_5566_7788));
    assert_eq!(m.cpu.bus.mmio_reads, 5);
    assert_eq!(
        m.cpu.bus.mmio,
        [(DEVICE + 0x10, 1, 0x12), (DEVICE + 0x18, 8, 0x1122_3344_5566_7788), (DEVICE + 0x20, 4, 0x5566_7789)]
    );
}

#[test]
fn a_withdrawn_access_runs_again() {
    let mut m = long();
    m.cpu.bus.restarts = 1;
    let code = asm64(|a| {
        a.inc(rax)?;
        a.mov(rdi, DEVICE)?;
        a.mov(rbx, qword_ptr(rdi))?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Look);
    assert_eq!((m.pc(), m.get(0)), (CODE + code.len() as u64 - 4, 1), "before the access, nothing repeated");
    assert_eq!(m.run_on(), Why::Halt);
    assert_eq!((m.get(0), m.get(3)), (1, 0x1122_3344_5566_7788));
}

#[test]
fn read_only_memory_keeps_its_contents() {
    let mut m = long();
    m.poke64(ROM + 8, 0x99);
    let fault = fault(&mut m, |a| {
        a.mov(rdi, ROM)?;
        a.mov(qword_ptr(rdi + 8), 0)?;
        a.mov(rax, qword_ptr(rdi + 8))?;
        a.lock().inc(qword_ptr(rdi + 8))?;
        a.mov(ecx, 4)?;
        a.rep().stosq()?;
        a.mov(rdi, ROM)?;
        a.mov(rbx, qword_ptr(rdi + 8))
    });
    assert_eq!(fault, None);
    assert_eq!((m.get(0), m.get(3)), (0x99, 0x99));
    assert!(!m.cpu.mem.marks.is_marked(ROM));
}

#[test]
fn ports() {
    let mut m = long();
    m.cpu.bus.inputs.insert(0x60, 0x1234_5678);
    m.poke(DATA, b"abc");
    let fault = fault(&mut m, |a| {
        a.mov(rax, u64::MAX)?;
        a.in_(al, 0x60)?;
        a.mov(rbx, rax)?;
        a.mov(edx, 0x60)?;
        a.in_(eax, dx)?;
        a.mov(rsi, DATA)?;
        a.mov(edx, 0x3f8)?;
        a.mov(ecx, 3)?;
        a.rep().outsb()?;
        a.mov(edx, 0x60)?;
        a.mov(rdi, DATA + 0x100)?;
        a.mov(ecx, 2)?;
        a.rep().insd()
    });
    assert_eq!(fault, None);
    assert_eq!((m.get(3), m.get(0)), (0xffff_ffff_ffff_ff78, 0x1234_5678));
    assert_eq!(m.cpu.bus.io, [(0x3f8, 1, 0x61), (0x3f8, 1, 0x62), (0x3f8, 1, 0x63)]);
    assert_eq!(m.peek64(DATA + 0x100), 0x1234_5678_1234_5678);
}

#[test]
fn debug_registers_are_stored_and_guarded() {
    let mut m = long();
    let fault = fault(&mut m, |a| {
        a.mov(rax, 0x1234u64)?;
        a.mov(dr0, rax)?;
        a.mov(rbx, dr0)?;
        a.mov(rcx, dr6)?;
        a.mov(eax, 0x2401)?;
        a.mov(dr7, rax)?;
        a.mov(rdx, dr7)
    });
    assert_eq!(fault, Some(1), "general detect");
    assert_eq!((m.get(3), m.get(1)), (0x1234, 0xffff_0ff0));
    assert_ne!(m.cpu.sys.dr6 & 1 << 13, 0);
    assert_eq!(m.cpu.sys.dr7 & 1 << 13, 0);
}

#[test]
fn tables_are_stored_as_they_were_loaded() {
    let mut m = long();
    m.poke(DATA, &[0x34, 0x12, 0, 0, 6, 0, 0, 0, 0, 0]);
    let loaded = fault(&mut m, |a| {
        a.mov(rdi, DATA)?;
        a.sgdt(qword_ptr(rdi + 0x20))?;
        a.lgdt(qword_ptr(rdi))?;
        a.sgdt(qword_ptr(rdi + 0x10))?;
        a.lgdt(qword_ptr(rdi + 0x20))
    });
    assert_eq!(loaded, None);
    assert_eq!(m.peek64(DATA + 0x10), 0x0000_0006_0000_1234);
    assert_eq!(m.peek64(DATA + 0x22), GDT);
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.lgdt(qword_ptr(DATA))), Some(13));
}

#[test]
fn interrupts_are_masked_only_by_those_who_may() {
    let mut m = long();
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.cli()), Some(13));
    user(&mut m);
    assert_eq!(fault(&mut m, |a| a.sti()), Some(13));
    assert_eq!(m.cpu.sys.shadow, Shadow::None);
}
