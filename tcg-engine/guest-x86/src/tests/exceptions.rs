//! Exceptions and interrupts in long mode: frames, stacks, privilege, nesting, shadows, single-stepping.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::state::{Shadow, efer};
use crate::{Delivered, Runner, Why, flags};

#[test]
fn a_fault_pushes_its_frame_on_an_aligned_stack() {
    let mut m = long();
    let code = asm64(|a| {
        a.sub(rsp, 4)?;
        a.xor(ecx, ecx)?;
        a.div(ecx)?;
        a.hlt()
    });
    m.set_flags(flags::IF | flags::CF);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(0));
    assert_eq!(m.get(4) % 16, 8, "five quadwords below an aligned address");
    let at = CODE + code.len() as u64 - 3;
    let frame: Vec<u64> = (0..5).map(|n| m.stack(n)).collect();
    assert_eq!(frame[..2], [at, u64::from(KERNEL_CS)]);
    assert_eq!(frame[2] & (flags::IF | flags::RF), flags::IF | flags::RF, "a fault restarts with RF");
    assert_eq!(frame[3..], [STACK - 4, u64::from(KERNEL_SS)]);
    assert_eq!(m.flags() & flags::IF, 0, "an interrupt gate");
    assert_eq!(m.cpu.sys.seg[2].selector, KERNEL_SS, "the stack segment stays at the same privilege");
}

#[test]
fn from_user_mode_the_stack_comes_from_the_tss() {
    let mut m = long();
    user(&mut m);
    m.set_flags(flags::IF);
    let code = asm64(|a| {
        a.mov(rax, qword_ptr(rax))?;
        a.hlt()
    });
    m.set(0, 0x123_4567_8000);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!((m.caught(), m.cpu.sys.cr2), (Some(14), 0x123_4567_8000));
    assert_eq!(m.get(4), STACK0 - 48);
    assert_eq!(m.stack(0), 4, "a user's read of nothing");
    assert_eq!((m.stack(1), m.stack(2)), (CODE, u64::from(USER_CS)));
    assert_eq!((m.stack(4), m.stack(5)), (STACK, u64::from(USER_SS)));
    assert_eq!((m.cpu.sys.cpl, m.cpu.sys.seg[2].selector), (0, 0), "SS is null in the handler");
}

#[test]
fn an_interrupt_stack_table_entry_is_always_taken() {
    let mut m = long();
    m.poke64(TSS + 0x24 + 16, 0x3_8000);
    m.gate64(3, 0x6_0000 + 48, 0xe, 0, 3);
    assert_eq!(m.run_code(&[0xcc]), Why::Halt);
    assert_eq!((m.caught(), m.get(4)), (Some(3), 0x3_8000 - 40));
    assert_eq!(m.stack(0), CODE + 1, "a trap continues behind it");
}

#[test]
fn iretq_returns_to_user_mode_and_back() {
    let mut m = long();
    // A handler that adds one to RAX and returns.
    let handler = asm64(|a| {
        a.inc(rax)?;
        a.iretq()
    });
    m.poke(0x7_0000, &handler);
    m.gate64(0x80, 0x7_0000, 0xf, 3, 0);
    user(&mut m);
    m.set_flags(flags::IF | flags::CF | flags::AC);
    let code = asm64(|a| {
        a.int(0x80)?;
        a.int(0x80)?;
        a.sbb(rbx, rbx)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(13), "HLT in user mode");
    assert_eq!((m.get(0), m.get(3)), (2, u64::MAX), "flags came back");
    assert_eq!(m.stack(4), STACK);
    assert_eq!(m.stack(3) & (flags::AC | flags::IF), flags::AC | flags::IF);
}

#[test]
fn software_interrupts_need_the_gates_privilege() {
    let mut m = long();
    m.gate64(0x21, 0x7_0000, 0xe, 0, 0);
    user(&mut m);
    m.run_code(&[0xcd, 0x21]);
    assert_eq!((m.caught(), m.stack(0), m.stack(1)), (Some(13), 0x21 << 3 | 2, CODE));
    // A fault of the same vector does not.
    let mut m = long();
    m.gate64(6, 0x6_0060, 0xe, 0, 0);
    user(&mut m);
    m.run_code(&[0x0f, 0x0b]);
    assert_eq!(m.caught(), Some(6));
}

#[test]
fn missing_gates_become_other_faults_and_end_in_a_shutdown() {
    let mut m = long();
    // #UD's gate is not present: #NP with its error code.
    m.poke64(IDT + 16 * 6, m.peek64(IDT + 16 * 6) & !(1 << 47));
    m.run_code(&[0x0f, 0x0b]);
    assert_eq!((m.caught(), m.stack(0)), (Some(11), 6 << 3 | 3));
    // #GP's too: #NP while delivering #GP is a double fault.
    let mut m = long();
    m.poke64(IDT + 16 * 13, 0);
    m.cpu.sys.cr4 = 0x20;
    m.run_code(&asm64(|a| {
        a.mov(eax, 1)?;
        a.mov(cr8, rax)?;
        a.mov(eax, 99)?;
        a.mov(cr8, rax)
    }));
    assert_eq!((m.caught(), m.stack(0)), (Some(8), 0));
    // The double fault's as well.
    let mut m = long();
    m.cpu.sys.idtr.limit = 0;
    assert_eq!(m.run_code(&[0x0f, 0x0b]), Why::Shutdown);
}

#[test]
fn a_page_fault_on_the_handlers_stack_is_a_double_fault() {
    let mut m = long();
    m.poke64(pte(STACK0 - 0x1000), 0);
    m.poke64(TSS + 0x24, 0x3_8000);
    m.gate64(8, 0x6_0080, 0xe, 0, 1);
    user(&mut m);
    m.run_code(&asm64(|a| a.mov(rax, qword_ptr(0x77_7777_0000u64))));
    assert_eq!(m.caught(), Some(8));
    assert_eq!(m.cpu.sys.cr2, STACK0 - 8, "the second fault's: the first word that was pushed");
    assert_eq!(m.stack(1), CODE);
}

#[test]
fn external_interrupts_wait_for_the_flag_and_the_shadow() {
    let mut m = long();
    let code = asm64(|a| {
        a.sti()?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.hlt()
    });
    m.poke(CODE, &code);
    m.set_pc(CODE);
    assert!(!m.cpu.can_take_interrupt(&m.regs.0));
    assert_eq!(m.run(1), Why::Budget);
    assert_eq!(m.get(0), 1, "STI and exactly one instruction");
    assert!(m.cpu.can_take_interrupt(&m.regs.0));
    assert_eq!(m.cpu.interrupt(&mut m.regs.0, 0x41), Delivered::Done);
    assert_eq!(m.stack(0), CODE + 4);
    assert_eq!(m.stack(2) & flags::RF, 0, "an interrupt is no fault");
    assert_eq!(m.run_on(), Why::Halt);
    assert_eq!(m.caught(), Some(0x41));
    // Where no other instruction follows in the block, nothing is taken behind STI.
    for user_mode in [false, true] {
        let mut m = long();
        let at = if user_mode { CODE } else { CODE + 0xfff };
        m.poke(at, &code);
        if user_mode {
            user(&mut m);
            m.set_flags(flags::IOPL);
        }
        m.set_pc(at);
        assert_eq!(m.run(1), Why::Budget);
        assert_eq!((m.get(0), m.cpu.sys.shadow), (0, Shadow::Sti));
        assert!(!m.cpu.can_take_interrupt(&m.regs.0), "not right behind STI");
        assert_eq!(m.run(1), Why::Budget);
        assert_eq!(m.get(0), 1, "exactly one instruction");
        assert!(m.cpu.can_take_interrupt(&m.regs.0));
    }
    // STI with interrupts on already makes no shadow.
    let mut m = long();
    m.set_flags(flags::IF);
    m.poke(CODE, &code);
    m.run(1);
    assert_eq!(m.cpu.sys.shadow, Shadow::None);
}

#[test]
fn loading_ss_holds_back_nmis_for_one_instruction() {
    let mut m = long();
    m.set(0, u64::from(KERNEL_SS));
    m.set_flags(flags::IF);
    m.poke(
        CODE,
        &asm64(|a| {
            a.mov(ss, ax)?;
            a.mov(rsp, rbx)?;
            a.hlt()
        }),
    );
    m.set_pc(CODE);
    m.run(1);
    assert!(!m.cpu.can_take_nmi() && !m.cpu.can_take_interrupt(&m.regs.0));
    m.run(1);
    assert!(m.cpu.can_take_nmi() && m.cpu.can_take_interrupt(&m.regs.0));
    assert_eq!(m.get(4), m.get(3));
}

#[test]
fn nmis_are_blocked_until_iret() {
    let mut m = long();
    m.poke(0x7_0000, &asm64(|a| a.iretq()));
    m.gate64(2, 0x7_0000, 0xe, 0, 0);
    m.poke(CODE, &[0xf4]);
    assert_eq!(m.cpu.nmi(&mut m.regs.0), Delivered::Done);
    assert!(!m.cpu.can_take_nmi());
    m.run(1);
    assert!(m.cpu.can_take_nmi());
    assert_eq!(m.pc(), CODE);
}

#[test]
fn halted_vcpus_wake_with_an_interrupt() {
    let mut m = long();
    m.set_flags(flags::IF);
    assert_eq!(m.run_code(&[0xf4, 0x90]), Why::Halt);
    assert!(m.cpu.sys.halted);
    m.cpu.interrupt(&mut m.regs.0, 0x30);
    assert!(!m.cpu.sys.halted);
    assert_eq!(m.stack(0), CODE + 1);
}

/// Has the handler of #DB count in R15 and return.
fn count_traps(m: &Runner<TestBus>) {
    m.poke(
        0x7_0000,
        &asm64(|a| {
            a.inc(r15)?;
            a.iretq()
        }),
    );
    m.gate64(1, 0x7_0000, 0xe, 0, 0);
}

#[test]
fn single_steps_trap_behind_each_instruction() {
    let mut m = long();
    count_traps(&m);
    let code = asm64(|a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), flags::TF as i32)?;
        a.popfq()?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.mov(ecx, 3)?;
        a.mov(rdi, DATA)?;
        a.rep().stosb()?;
        a.pushfq()?;
        a.and(dword_ptr(rsp), !(flags::TF as i32))?;
        a.popfq()?;
        a.inc(rax)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    // inc, inc, mov, mov, rep stosb (here all at once), pushfq, and, popfq (which runs with TF set).
    assert_eq!((m.get(15), m.get(0)), (8, 3));
    assert_ne!(m.cpu.sys.dr6 & 1 << 14, 0);
}

#[test]
fn int_is_not_stepped_into() {
    let mut m = long();
    count_traps(&m);
    m.poke(
        0x7_1000,
        &asm64(|a| {
            a.mov(r14, r15)?;
            a.iretq()
        }),
    );
    m.gate64(0x80, 0x7_1000, 0xe, 3, 0);
    m.set_flags(flags::TF);
    let code = asm64(|a| {
        a.nop()?;
        a.int(0x80)?;
        a.nop()?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!(m.get(14), 1, "one trap before the INT, none in its handler");
}

/// TF counts in the flags that SYSCALL leaves: a kernel that masks it is not stepped, one that does not is. The mask of TF is why
/// Linux's entry needs no care for it (arch/x86/kernel/traps.c, exc_debug_kernel).
#[test]
fn a_system_call_is_stepped_into_unless_tf_is_masked() {
    for (fmask, traps) in [(flags::TF, 1), (0, 2)] {
        let mut m = long();
        m.cpu.sys.star = 0x08u64 << 32 | 0x13u64 << 48;
        (m.cpu.sys.lstar, m.cpu.sys.fmask) = (0x7_2000, fmask);
        m.poke(0x7_2000, &asm64(|a| a.hlt()));
        count_traps(&m);
        user(&mut m);
        m.set_flags(flags::TF);
        assert_eq!(
            m.run_code(&asm64(|a| {
                a.nop()?;
                a.syscall()
            })),
            Why::Halt
        );
        assert_eq!(m.get(15), traps, "one behind NOP");
        assert_eq!(m.get(11) & flags::TF, flags::TF, "it comes back with SYSRET");
    }
}

#[test]
fn system_calls() {
    let mut m = long();
    m.cpu.sys.star = 0x08u64 << 32 | 0x13u64 << 48;
    m.cpu.sys.lstar = 0x7_0000;
    m.cpu.sys.fmask = flags::IF | flags::TF | flags::DF;
    m.poke(
        0x7_0000,
        &asm64(|a| {
            a.mov(rbx, rsp)?;
            a.mov(r10, rcx)?;
            a.pushfq()?;
            a.pop(r9)?;
            a.sysretq()
        }),
    );
    user(&mut m);
    m.set_flags(flags::IF | flags::CF | flags::DF);
    let code = asm64(|a| {
        a.syscall()?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(13), "HLT back in user mode");
    assert_eq!((m.get(10), m.get(3)), (CODE + 2, STACK));
    assert_eq!(m.get(9) & (flags::IF | flags::DF | flags::CF), flags::CF, "masked");
    assert_eq!((m.stack(2), m.stack(5)), (u64::from(USER_CS), u64::from(USER_SS)));
    assert_eq!(m.stack(3) & (flags::IF | flags::DF | flags::CF), flags::IF | flags::DF | flags::CF);
    // Without SCE it is undefined.
    let mut m = long();
    m.cpu.sys.efer &= !efer::SCE;
    m.run_code(&code);
    assert_eq!(m.caught(), Some(6));
    // SYSRET to a non-canonical address faults in the kernel.
    let mut m = long();
    m.set(1, 0x8000_0000_0000);
    m.run_code(&asm64(|a| a.sysretq()));
    assert_eq!((m.caught(), m.stack(2)), (Some(13), u64::from(KERNEL_CS)));
}

#[test]
fn sysenter_and_sysexit() {
    let mut m = long();
    m.cpu.sys.sysenter_cs = 0x08;
    m.cpu.sys.sysenter_eip = 0x7_0000;
    m.cpu.sys.sysenter_esp = STACK0;
    // 64-bit user segments are at +32 and +40 of the selector: make a table that has them.
    m.poke64(GDT + 0x28, 0x00af_fb00_0000_ffff);
    m.poke64(GDT + 0x30, 0x00cf_f300_0000_ffff);
    m.poke(
        0x7_0000,
        &asm64(|a| {
            a.mov(rbx, rsp)?;
            a.mov(rcx, rbp)?;
            a.mov(rdx, rsi)?;
            a.sysexitq()
        }),
    );
    user(&mut m);
    m.set(5, STACK - 64);
    m.set(6, CODE + 2);
    m.run_code(&asm64(|a| {
        a.sysenter()?;
        a.hlt()
    }));
    assert_eq!((m.caught(), m.get(3)), (Some(13), STACK0));
    assert_eq!((m.stack(1), m.stack(2), m.stack(4)), (CODE + 2, 0x2b, STACK - 64));
}

#[test]
fn compatibility_mode_and_back() {
    let mut m = long();
    // A far return to 32-bit user code, which calls the kernel through a gate.
    let user32 = asm(32, |a| {
        a.mov(eax, 0xffff_ffffu32)?;
        a.inc(eax)?;
        a.setz(bl)?;
        a.lea(ecx, dword_ptr(eax - 1))?;
        a.pushad()?;
        a.int(0x90)
    });
    m.poke(0x7_0000, &user32);
    let code = asm64(|a| {
        a.mov(rax, 0x1_0000_0000u64)?;
        a.push(USER_SS as i32)?;
        a.push(DATA as i32 + 0x800)?;
        a.push(2)?;
        a.push(0x2b)?;
        a.push(0x7_0000)?;
        a.iretq()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(0x90));
    assert_eq!((m.get(0), m.get(3) & 1, m.get(1)), (0, 1, 0xffff_ffff));
    assert_eq!((m.stack(1), m.stack(3)), (0x2b, DATA + 0x800 - 32));
}

#[test]
fn swapgs_and_base_registers() {
    let mut m = long();
    m.cpu.sys.kernel_gs_base = 0x1111;
    m.cpu.sys.cr4 |= crate::state::cr4::FSGSBASE;
    m.cpu.refresh(&mut m.regs.0);
    let code = asm64(|a| {
        a.mov(eax, 0x2222)?;
        a.wrgsbase(rax)?;
        a.swapgs()?;
        a.rdgsbase(rbx)?;
        a.swapgs()?;
        a.rdgsbase(rcx)?;
        a.mov(rax, 0x8000_0000_0000u64)?;
        a.wrfsbase(rax)?;
        a.hlt()
    });
    m.run_code(&code);
    assert_eq!((m.get(3), m.get(1)), (0x1111, 0x2222));
    assert_eq!(m.caught(), Some(13), "bases are canonical");
    let mut m = long();
    m.run_code(&asm64(|a| a.rdfsbase(rax)));
    assert_eq!(m.caught(), Some(6), "without CR4.FSGSBASE");
}
