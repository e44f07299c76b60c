//! Architectural state in and out.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::core::LoadError;
use crate::{Why, X86Core, flags};

/// A program that leaves a mark on everything that is saved.
fn marked() -> crate::Runner<TestBus> {
    let mut m = long();
    let code = asm64(|a| {
        a.mov(r15, 0x1234_5678_9abc_def0u64)?;
        a.movq(xmm7, r15)?;
        a.mov(eax, 0x7fff_ffff)?;
        a.add(eax, 1)?;
        a.std()?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    m.cpu.sys.dr[2] = 0x77;
    m.cpu.sys.tsc_aux = 5;
    m
}

#[test]
fn a_saved_state_loads_into_another_vcpu_and_saves_the_same() {
    let mut a = marked();
    let saved = a.cpu.save_state(&a.regs.0);
    assert_eq!(saved.rflags & (flags::OF | flags::SF | flags::DF), flags::OF | flags::SF | flags::DF);
    assert!(saved.halted && saved.msrs.contains(&(0xc000_0103, 5)));
    let mut b = machine();
    b.cpu.load_state(&mut b.regs.0, &saved).unwrap();
    assert_eq!(b.cpu.save_state(&b.regs.0), saved);
    assert_eq!(b.cpu.mode(), a.cpu.mode());
    assert_eq!(b.cpu.sys, a.cpu.sys);
}

#[test]
fn the_upper_halves_of_ymm_registers_are_saved() {
    let mut a = long_v3();
    let code = asm64(|a| {
        a.mov(rax, 0x1234_5678_9abc_def0u64)?;
        a.vmovq(xmm1, rax)?;
        a.vpbroadcastq(ymm15, xmm1)?;
        a.hlt()
    });
    assert_eq!(a.run_code(&code), Why::Halt);
    let saved = a.cpu.save_state(&a.regs.0);
    assert_eq!((saved.ymm_upper[15], saved.ymm_upper[1], saved.xcr0), (saved.xmm[15], 0, 7));
    assert_eq!(saved.xmm[15], 0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    let mut b = machine_of("atoll-v3");
    b.cpu.load_state(&mut b.regs.0, &saved).unwrap();
    assert_eq!((b.cpu.save_state(&b.regs.0), b.cpu.mode()), (saved.clone(), a.cpu.mode()));
    // Nor does a vCPU without AVX take it.
    let mut c = machine();
    assert!(matches!(c.cpu.load_state(&mut c.regs.0, &saved), Err(LoadError::Value { what: "XCR0", .. })));
}

#[test]
fn execution_goes_on_from_a_loaded_state() {
    let mut a = long();
    let code = asm64(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 2000)?;
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    a.poke(CODE, &code);
    a.set_pc(CODE);
    a.run(2);
    let saved = a.cpu.save_state(&a.regs.0);
    assert_ne!(saved.gpr[1], 0, "in the middle");
    // The memory moves along: the same one here.
    let model = cpu_model::by_name("atoll-v2").unwrap();
    let mut b = crate::Runner::new(crate::Cpu::new(model, a.cpu.mem.clone(), TestBus::default()));
    b.cpu.load_state(&mut b.regs.0, &saved).unwrap();
    assert_eq!(b.run_on(), Why::Halt);
    assert_eq!(b.get(0), 2_001_000);
}

#[test]
fn states_of_another_model_are_refused() {
    let mut m = marked();
    let good = m.cpu.save_state(&m.regs.0);
    let refused = |f: &dyn Fn(&mut X86Core)| {
        let mut c = good.clone();
        f(&mut c);
        let mut m = machine();
        m.cpu.load_state(&mut m.regs.0, &c).unwrap_err()
    };
    assert_eq!(refused(&|c| c.msrs.push((0xdead, 1))), LoadError::Msr { index: 0xdead, value: 1 });
    assert!(matches!(refused(&|c| c.cr[3] |= 1 << 22), LoadError::Value { what: "CR4", .. }));
    assert!(matches!(refused(&|c| c.cr[0] = 1 << 31), LoadError::Value { what: "CR0", .. }));
    assert!(matches!(refused(&|c| c.xcr0 = 7), LoadError::Value { what: "XCR0", .. }));
    assert!(matches!(refused(&|c| c.cpl = 4), LoadError::Value { .. }));
    assert!(refused(&|c| c.msrs.push((0xc000_0080, 1 << 30))).to_string().contains("0xc0000080"));
}
