//! One test for each kind of interrupt that may be under way when the machine is saved, and for each way in which a state may be
//! wrong. A state always goes into another engine, as it would in a new process.

use std::os::fd::AsFd;
use std::sync::MutexGuard;

use ::state::{MEMFD_BYTES, ROW_BYTES, StateArea};
use code::CodeMemory;
use doorbell::Route;
use guest_memory::{Access, Memfd, SharedMap};
use guest_x86::{Attrs, Bus, Seg, X86Core};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use vcpu_devices::{Delivery, Destination, Message as Interrupt};
use wire::saved_capnp::engine_state;
use wire::state_capnp::{RunState, vcpu_state, x86_core};

use super::*;
use crate::tests::{Board, LINES, engine, flat};
use crate::vcpu::Run;

const APIC: u64 = 0xfee0_0000;

fn vcpu(e: &Engine) -> MutexGuard<'_, Vcpu> {
    e.vcpus[0].lock().unwrap()
}

fn apic(e: &Engine, register: u64, value: u64) {
    vcpu(e).bus().mmio_write(APIC + register, 4, value, Attrs { user: false }).unwrap();
}

/// An engine with its APIC enabled, and the board.
fn enabled() -> (Engine, Board) {
    let (e, board) = engine();
    e.machine.header.freeze_clock(1_000_000);
    apic(&e, 0xf0, 0x1ff);
    (e, board)
}

fn bytes(e: &Engine) -> Vec<u8> {
    capnp::serialize::write_message_to_words(&message(e, "q35-0").unwrap())
}

/// Saves, loads into a new engine, and checks that the state does not change on the way.
fn moved(e: &Engine) -> (Engine, Board) {
    let left = save(e, "q35-0").unwrap();
    let saved = bytes(e);
    assert_eq!(bytes(e), saved, "nothing has run in between");
    let (new, board) = engine();
    let area = new.identity.area.as_ref().unwrap();
    assert_eq!(area.leave(&message(e, "q35-0").unwrap()).unwrap(), left);
    load(&new, left).unwrap();
    assert_eq!(bytes(&new), saved);
    assert_eq!(new.machine.header.guest_ns(), e.machine.header.guest_ns());
    (new, board)
}

/// Why a state is refused that `change` was made to.
fn refused(e: &Engine, change: impl FnOnce(engine_state::Builder<'_>)) -> String {
    let mut message = message(e, "q35-0").unwrap();
    let root = message.get_root::<saved_state::Builder<'_>>().unwrap();
    let saved_state::state::Engine(state) = root.get_state().which().unwrap() else { panic!() };
    change(state.unwrap());
    let (new, _) = enabled();
    let before = bytes(&new);
    let left = new.identity.area.as_ref().unwrap().leave(&message).unwrap();
    let refusal = load(&new, left).unwrap_err();
    assert_eq!(refusal.code, crate::error::REFUSED);
    assert_eq!(bytes(&new), before, "nothing has changed");
    refusal.why
}

fn interrupt(e: &Engine, delivery: Delivery, vector: u8) {
    e.machine.deliver(&Interrupt { destination: Destination::All, delivery, vector, level: false }, None);
}

fn pending(e: &Engine) -> Option<u8> {
    vcpu(e).bus().lapic.pending()
}

#[test]
fn a_message_in_the_inbox() {
    let (e, _) = enabled();
    interrupt(&e, Delivery::Fixed, 0x41);
    assert_eq!(pending(&e), None, "nobody has taken it");
    let (new, _) = moved(&e);
    assert_eq!(pending(&new), Some(0x41));
}

#[test]
fn a_line_that_was_rung_during_the_pause() {
    let (e, board) = enabled();
    board.set_route(LINES[0], Route::Msi { address: APIC, data: 0x51 });
    e.bells.lines[0].bell.ring().unwrap();
    let (new, _) = moved(&e);
    assert_eq!(pending(&new), Some(0x51));
}

#[test]
fn a_line_for_the_board_is_held_and_given_at_the_run() {
    let (e, board) = enabled();
    board.set_route(LINES[1], Route::Forward);
    e.bells.lines[1].bell.ring().unwrap();
    let (new, new_board) = moved(&e);
    let forwarded = |board: &Board| {
        let mut lines = vec![];
        board.take_forwarded(|line| lines.push(line));
        lines
    };
    assert!(forwarded(&board).is_empty(), "the board may have been saved");
    new_board.set_route(LINES[1], Route::Forward);
    new.machine.release_lines();
    assert_eq!(forwarded(&new_board), [LINES[1]]);
    e.machine.release_lines();
    assert_eq!(forwarded(&board), [LINES[1]], "the old one may run on as well");
    // While it runs, nothing is held.
    e.bells.lines[1].bell.ring().unwrap();
    e.bells.deliver(&e.machine);
    assert_eq!(forwarded(&board), [LINES[1]]);
    e.machine.release_lines();
    assert!(forwarded(&board).is_empty(), "told once");
}

#[test]
fn what_the_board_raised_before_its_pause() {
    let (e, board) = enabled();
    board.set_route(9, Route::Msi { address: APIC, data: 0x61 });
    board.raise(9);
    e.bells.notify.ring().unwrap();
    let (new, _) = moved(&e);
    assert_eq!(pending(&new), Some(0x61));
}

#[test]
fn an_nmi_in_the_inbox_and_one_taken_in() {
    let (e, _) = enabled();
    interrupt(&e, Delivery::Nmi, 2);
    let (new, _) = moved(&e);
    assert!(vcpu(&new).nmi);
    let (again, _) = moved(&new);
    assert!(vcpu(&again).nmi);
}

#[test]
fn an_external_interrupt_is_asked_for_again() {
    // INTR is a level, which the board's load publishes; the vCPU must look without being told.
    let (e, board) = enabled();
    board.set_extint(true);
    e.bells.notify.ring().unwrap();
    apic(&e, 0x350, 0x700);
    let (new, new_board) = moved(&e);
    assert!(vcpu(&new).bus().lapic.passes_extint());
    new_board.set_extint(true);
    real_mode(&new);
    let mut v = vcpu(&new);
    v.runner.cpu.sys.halted = true;
    v.runner.regs.0.set(guest_x86::state::EFLAGS, guest_x86::flags::ONE | guest_x86::flags::IF);
    let asked = new_board.acknowledge(0x35);
    v.step(&new.machine);
    asked.join().unwrap();
    assert_eq!(v.runner.regs.0.get(ir::PC), 0x1036, "behind the handler's HLT");
}

#[test]
fn interrupts_requested_and_in_service() {
    let (e, _) = enabled();
    for vector in [0x41, 0x91] {
        interrupt(&e, Delivery::Fixed, vector);
    }
    vcpu(&e).settle();
    assert_eq!(vcpu(&e).bus().lapic.acknowledge(), Some(0x91));
    let (new, _) = moved(&e);
    assert_eq!(pending(&new), None);
    apic(&new, 0xb0, 0);
    assert_eq!(pending(&new), Some(0x41));
}

#[test]
fn a_timer_that_is_due_and_one_that_is_not() {
    for (periodic, gone, due) in [(0, 300, true), (0, 250, false), (0x2_0000, 900, true), (0x2_0000, 250, false)] {
        let (e, _) = enabled();
        apic(&e, 0x3e0, 0xb);
        apic(&e, 0x320, periodic | 0x31);
        // 300 ticks of 40 ns.
        apic(&e, 0x380, 300);
        // The vCPU parks before it looks at the clock.
        e.machine.header.freeze_clock(1_000_000 + gone * 40 + 7);
        let (new, _) = moved(&e);
        assert_eq!(pending(&new), due.then_some(0x31), "{periodic:#x} {gone}");
        let next = match (periodic, due) {
            (0, true) => u64::MAX,
            (_, true) => 1_000_000 + 1200 * 40,
            (_, false) => 1_000_000 + 300 * 40,
        };
        assert_eq!(vcpu(&new).bus().deadline, next, "guest time, to the nanosecond");
    }
}

#[test]
fn a_tsc_deadline_in_the_past_and_in_the_future() {
    for (deadline, due) in [(1_900_000, true), (2_100_000, false)] {
        let (e, _) = enabled();
        apic(&e, 0x320, 0x4_0033);
        vcpu(&e).bus().set_tsc_adjust(500_000);
        vcpu(&e).bus().set_tsc_deadline(deadline + 500_000);
        e.machine.header.freeze_clock(2_000_000);
        let (new, _) = moved(&e);
        assert_eq!(pending(&new), due.then_some(0x33));
        assert_eq!(vcpu(&new).bus().deadline, if due { u64::MAX } else { deadline });
        assert_eq!(vcpu(&new).bus().tsc(), 2_500_000);
    }
}

#[test]
fn init_and_start_up_messages() {
    let (e, _) = enabled();
    vcpu(&e).power_down();
    interrupt(&e, Delivery::Sipi, 0x9a);
    let (new, _) = moved(&e);
    assert_eq!(vcpu(&new).run, Run::Runnable);
    assert_eq!(vcpu(&new).runner.cpu.sys.seg(Seg::Cs).base, 0x9_a000);
}

/// The core of the only vCPU of a message.
fn core(state: engine_state::Builder<'_>) -> x86_core::Builder<'_> {
    let vcpu = state.get_vcpus().unwrap().get(0);
    let vcpu_state::cpu::X86(core) = vcpu.get_cpu().which().unwrap() else { panic!() };
    core.unwrap()
}

/// A message of `e` with `change`, loaded.
fn changed(e: &Engine, change: impl FnOnce(engine_state::Builder<'_>)) -> Engine {
    let mut message = message(e, "q35-0").unwrap();
    let root = message.get_root::<saved_state::Builder<'_>>().unwrap();
    let saved_state::state::Engine(state) = root.get_state().which().unwrap() else { panic!() };
    change(state.unwrap());
    let (new, _) = engine();
    let left = new.identity.area.as_ref().unwrap().leave(&message).unwrap();
    load(&new, left).unwrap();
    new
}

/// A real-mode guest with an interrupt table whose vector n leads to 0000:1000 + n.
fn real_mode(e: &Engine) {
    let mut v = vcpu(e);
    for n in 0..256u64 {
        e.machine.memory.ram.store_u32(4 * n, 0x1000 + n as u32).unwrap();
    }
    let runner = &mut v.runner;
    let (cpu, regs) = (&mut runner.cpu, &mut runner.regs.0);
    cpu.sys.idtr.limit = 0x3ff;
    cpu.sys.seg[Seg::Cs as usize] = cpu.sys.seg[Seg::Cs as usize].real(0x700);
    regs.set(ir::PC, 0);
    regs.set(guest_x86::state::RSP, 0x8000);
    // HLTs where the handlers are.
    e.machine.memory.ram.write(0x1000, &[0xf4; 0x400]).unwrap();
    cpu.refresh(regs);
}

#[test]
fn an_event_of_another_engine_that_was_being_injected() {
    let (e, _) = enabled();
    real_mode(&e);
    for (n, vector) in [(0, 0x77u8), (1, 6), (2, 14)] {
        let new = changed(&e, |state| {
            let mut core = core(state);
            core.set_nmi_pending(true);
            let mut event = core.init_pending_event();
            match n {
                0 => event.set_interrupt(vector),
                n => {
                    let mut x = event.init_exception();
                    x.set_vector(vector);
                    x.set_has_error(n == 2);
                    x.set_payload(if n == 2 { 0x1234_5000 } else { 0 });
                }
            }
        });
        // Not yet delivered: it is in the state again, together with the NMI.
        let (new, _) = moved(&new);
        for at in 0..256u64 {
            new.machine.memory.ram.store_u32(4 * at, 0x1000 + at as u32).unwrap();
        }
        new.machine.memory.ram.write(0x1000, &[0xf4; 0x400]).unwrap();
        let mut v = vcpu(&new);
        v.step(&new.machine);
        assert!(v.injected.is_none() && !v.nmi, "both are delivered, and the NMI is the newer one");
        assert_eq!(v.runner.regs.0.get(ir::PC), 0x1003);
        // The frame of the NMI is that of the handler of the first.
        let ram = &new.machine.memory.ram;
        assert_eq!(ram.load_u16(0x8000 - 12), Some(0x1000 + u16::from(vector)));
        assert_eq!(v.runner.cpu.sys.cr2, if n == 2 { 0x1234_5000 } else { 0 });
    }
}

#[test]
fn shadows_blocks_halts_and_modes() {
    let (e, _) = enabled();
    let change = |f: &dyn Fn(&mut guest_x86::SysState)| {
        f(&mut vcpu(&e).runner.cpu.sys);
        let (new, _) = moved(&e);
        assert_eq!(vcpu(&new).runner.cpu.sys, vcpu(&e).runner.cpu.sys);
    };
    change(&|s| s.halted = true);
    change(&|s| s.shadow = guest_x86::Shadow::Sti);
    change(&|s| s.shadow = guest_x86::Shadow::MovSs);
    change(&|s| s.nmi_blocked = true);
    change(&|s| s.pdpte = [1, 0x1001, 0, 5]);
    change(&|s| s.dr = [1, 2, 3, 4]);
    // Long mode at each privilege level with a null stack segment, whose level is nowhere else.
    for level in [0, 1, 3] {
        change(&|s| {
            (s.cr0, s.cr4, s.efer) = (0x8000_0011, 1 << 5, 1 << 10 | 1 << 8);
            (s.cpl, s.seg[Seg::Ss as usize]) = (level, guest_x86::Segment::null(level.into()));
            s.seg[Seg::Fs as usize].base = 0x7fff_1234_5678;
        });
    }
    for run in [Run::WaitForSipi, Run::Shutdown] {
        vcpu(&e).run = run;
        assert_eq!(vcpu(&moved(&e).0).run, run);
    }
}

#[test]
fn every_word_of_a_vcpu() {
    let (e, _) = enabled();
    {
        let mut v = vcpu(&e);
        let mut state: X86Core = {
            let runner = &mut v.runner;
            let (cpu, regs) = (&mut runner.cpu, &runner.regs.0);
            cpu.save_state(regs)
        };
        state.gpr = std::array::from_fn(|n| 0x1111_2222_3333_0000 + n as u64);
        state.xmm = std::array::from_fn(|n| u128::MAX - n as u128);
        state.fpr = std::array::from_fn(|n| (1 << 79) + n as u128);
        (state.fcw, state.fsw, state.ftw, state.fop, state.fip, state.fdp) = (0x27f, 0x3841, 0x5a, 0x123, 77, 88);
        (state.mxcsr, state.rip, state.rflags) = (0x9fc0, 0x1234, 0x8d7);
        for (index, value) in &mut state.msrs {
            match *index {
                // What the guest may set.
                0x174..=0x176 | 0x250 | 0xc000_0081..=0xc000_0084 | 0xc000_0103 => *value = u64::from(*index) & 0xfff,
                _ => {}
            }
        }
        let runner = &mut v.runner;
        let (cpu, regs) = (&mut runner.cpu, &mut runner.regs.0);
        cpu.load_state(regs, &state).unwrap();
        let (new, _) = {
            drop(v);
            moved(&e)
        };
        let mut v = vcpu(&new);
        let runner = &mut v.runner;
        let (cpu, regs) = (&mut runner.cpu, &runner.regs.0);
        assert_eq!(cpu.save_state(regs), state);
    }
}

#[test]
fn the_latch_of_configuration_space() {
    let (e, _) = enabled();
    vcpu(&e).bus().io_write(0xcf8, 4, 0x8000_f840).unwrap();
    let (new, _) = moved(&e);
    assert_eq!(vcpu(&new).bus().io_read(0xcf8, 4).unwrap(), 0x8000_f840);
}

#[test]
fn a_sleeping_vcpu_wakes_by_nothing_but_its_vector() {
    let (e, _) = enabled();
    vcpu(&e).power_down();
    let (new, _) = moved(&e);
    let mut v = vcpu(&new);
    for delivery in [Delivery::Nmi, Delivery::Fixed, Delivery::ExtInt] {
        interrupt(&new, delivery, 0x41);
        v.step(&new.machine);
        assert_eq!(v.run, Run::WaitForSipi);
    }
    assert!(v.wake_at(0x9_a12f));
    assert!(!v.nmi && v.run == Run::Runnable && !v.wake_at(0x1000));
    let cs = *v.runner.cpu.sys.seg(Seg::Cs);
    assert_eq!((cs.selector, cs.base, v.runner.regs.0.get(ir::PC)), (0x9a12, 0x9_a120, 15));
}

#[test]
fn what_cannot_be_is_named() {
    let (e, _) = enabled();
    let named = |what: &str, change: &dyn Fn(engine_state::Builder<'_>)| {
        let why = refused(&e, change);
        assert!(why.contains(what), "{what}: {why}");
    };
    let in_core = |what: &str, change: &dyn Fn(x86_core::Builder<'_>)| {
        named(what, &|state| change(core(state)));
    };
    named("engine.cpuModel': is 'atoll-v9', and this VM has 'atoll-v2'", &|mut s| s.set_cpu_model("atoll-v9"));
    named("engine.vcpus': has 2 vCPUs, and this VM has 1", &|s| {
        s.init_vcpus(2);
    });
    named("engine.vcpus': has 0", &|s| {
        s.init_vcpus(0);
    });
    named("engine.clock.tscHz", &|s| s.init_clock().set_tsc_hz(1));
    named("engine.clock.guestNanoseconds", &|s| s.get_clock().unwrap().set_guest_nanoseconds(u64::MAX));
    named("engine.pciAddress", &|mut s| s.set_pci_address(3));
    named("engine.heldLines[0]': 256", &|s| s.init_held_lines(1).set(0, 256));
    named("engine.heldLines[1]", &|s| {
        s.init_held_lines(2);
    });
    named("engine.heldLines", &|s| {
        s.init_held_lines(10_000);
    });
    named("engine.vcpus[0].index", &|s| s.get_vcpus().unwrap().get(0).set_index(1));
    named("engine.vcpus[0].cpu", &|s| {
        s.get_vcpus().unwrap().get(0).get_cpu().init_a64();
    });
    named("engine.vcpus.future", &|s| s.get_vcpus().unwrap().get(0).init_must_understand(1).set(0, "future"));
    in_core("engine.vcpus[0].gprs", &|c| {
        c.init_gprs(15);
    });
    in_core("engine.vcpus[0].segments", &|c| {
        c.init_segments(0);
    });
    in_core("engine.vcpus[0].debug", &|c| {
        c.init_debug(7);
    });
    in_core("engine.vcpus[0].pdpte", &|c| {
        c.init_pdpte(3);
    });
    in_core("engine.vcpus[0].xsave", &|mut c| c.set_xsave(&[0; 575]));
    in_core("engine.vcpus[0].lapic", &|mut c| c.set_lapic(&[0; 100]));
    in_core("engine.vcpus[0].interruptShadow", &|mut c| c.set_interrupt_shadow(3));
    in_core("engine.vcpus[0].cr0", &|mut c| c.set_cr0(1 << 31));
    in_core("engine.vcpus[0].cr4", &|mut c| c.set_cr4(1 << 63));
    in_core("engine.vcpus[0].efer", &|mut c| c.set_efer(1 << 10));
    in_core("engine.vcpus[0].rflags", &|mut c| c.set_rflags(0));
    in_core("engine.vcpus[0].xcr0", &|mut c| c.set_xcr0(7));
    in_core("engine.vcpus[0].cr8", &|mut c| c.set_cr8(3));
    in_core("engine.vcpus[0].apicBase", &|mut c| c.set_apic_base(0));
    in_core("engine.vcpus[0].apicTimerStart", &|mut c| c.set_apic_timer_start(u64::MAX));
    in_core("engine.vcpus[0].tscDeadline", &|mut c| c.set_tsc_deadline(5));
    in_core("components 0x7", &|mut c| {
        let mut area = c.reborrow().get_xsave().unwrap().to_vec();
        area[512] = 7;
        c.set_xsave(&area);
    });
    for (vector, error, payload) in [(2, false, 0), (32, false, 0), (14, false, 0), (6, true, 0), (6, false, 1)] {
        in_core("engine.vcpus[0].pendingEvent", &|c| {
            let mut x = c.init_pending_event().init_exception();
            x.set_vector(vector);
            x.set_has_error(error);
            x.set_payload(payload);
        });
    }
}

#[test]
fn registers_go_through_the_rules() {
    let (e, _) = enabled();
    let with = |id: u64, value: u64| {
        move |state: engine_state::Builder<'_>| {
            let mut vcpu = state.get_vcpus().unwrap().get(0);
            let registers = [state::tolerance::Register { id, size: 8, value: value.into() }];
            state::registers::write(vcpu.reborrow().init_registers(1), &registers);
        }
    };
    for (id, value, what) in [
        (0xdead, 1, "0xdead is unknown here"),
        (0x122, 1, "0x122 (IA32_TSX_CTRL)"),
        (0x277, 0x0909, "0x277 (PAT)"),
        (0xc000_0080, 1, "elsewhere in the state"),
    ] {
        let why = refused(&e, with(id, value));
        assert!(why.contains("engine.vcpus[0].registers") && why.contains(what), "{why}");
    }
    // What a rule lets go, and what the others are then.
    let new = changed(&e, with(0x122, 0));
    assert_eq!(bytes(&new), bytes(&e));
}

#[test]
fn who_is_asked_and_when() {
    let (mut e, _) = enabled();
    assert!(save(&e, "q35-9").unwrap_err().why.contains("q35-9"));
    e.identity.area = None;
    assert_eq!(save(&e, "q35-0").unwrap_err().code, crate::error::NO_AREA);
    assert_eq!(load(&e, Left::default()).unwrap_err().code, crate::error::NO_AREA);
    let (e, _) = enabled();
    assert_eq!(load(&e, Left { length: 8, digest: [0; 32] }).unwrap_err().code, crate::error::REFUSED);
    // Run states come back as the schema names them.
    vcpu(&e).power_down();
    let message = message(&e, "q35-0").unwrap();
    let root = message.get_root_as_reader::<saved_state::Reader<'_>>().unwrap();
    let saved_state::state::Engine(state) = root.get_state().which().unwrap() else { panic!() };
    assert_eq!(state.unwrap().get_vcpus().unwrap().get(0).get_run_state().unwrap(), RunState::WaitForInit);
}

#[test]
fn emitted_code_fits_the_tlb_of_a_vcpu_that_was_loaded() {
    let (e, _) = enabled();
    // jmp to itself
    e.machine.memory.ram.write(0x1000, &[0xeb, 0xfe]).unwrap();
    {
        let Vcpu { runner, .. } = &mut *vcpu(&e);
        flat(&mut runner.cpu, &mut runner.regs.0, 0x1000);
        runner.use_t1(CodeMemory::new(4 << 20).unwrap()).unwrap();
        // As after a guest that went to many pages.
        runner.cpu.tlb.grow();
        runner.t1.as_mut().unwrap().fit(&runner.cpu.tlb);
    }
    load(&e, save(&e, "q35-0").unwrap()).unwrap();
    let before = vcpu(&e).runner.instructions;
    vcpu(&e).step(&e.machine);
    let Vcpu { runner, .. } = &mut *vcpu(&e);
    assert!(runner.instructions > before);
    assert!(runner.t1.as_ref().unwrap().stats().blocks > 0);
}

#[test]
fn a_vcpu_that_was_loaded_has_none_of_the_translations_of_before() {
    let (e, _) = enabled();
    let left = save(&e, "q35-0").unwrap();
    {
        let Vcpu { runner, .. } = &mut *vcpu(&e);
        flat(&mut runner.cpu, &mut runner.regs.0, 0x1000);
        runner.cpu.sys.cpl = 3;
        runner.cpu.refresh(&mut runner.regs.0);
    }
    let tlb = |e: &Engine, at: u64| {
        let tlb = &mut vcpu(e).runner.cpu.tlb;
        let (bank, found) = (tlb.bank(), tlb.read(at, 1));
        tlb.install(at, 0x9000, mem::Access::Read);
        (bank, found, tlb.read(at, 1))
    };
    // In the supervisor's bank too, where the state that is loaded looks.
    assert_eq!(tlb(&e, 0x5000), (mem::Bank::User, None, Some(0x9000)));
    vcpu(&e).runner.cpu.tlb.select_bank(mem::Bank::Supervisor);
    assert_eq!(tlb(&e, 0x5000).1, None);
    vcpu(&e).runner.cpu.tlb.select_bank(mem::Bank::User);
    load(&e, left).unwrap();
    assert_eq!(tlb(&e, 0x5000), (mem::Bank::Supervisor, None, Some(0x9000)));
}

#[test]
fn states_are_loaded_with_the_memory_that_was_there() {
    let (e, _) = enabled();
    let again = || {
        load(&e, save(&e, "q35-0").unwrap()).unwrap();
        let v = vcpu(&e);
        (v.runner.cpu.tlb.bank_address(), v.spare.as_ref().unwrap().bank_address())
    };
    let first = again();
    assert!((0..8).all(|_| again() == first));
}

#[test]
fn no_state_does_harm() {
    // Whatever bits are changed: it is refused, or it is a vCPU that runs and is saved again.
    let mut random = StdRng::seed_from_u64(0x5eed);
    let (source, _) = enabled();
    real_mode(&source);
    let good = bytes(&source);
    let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
    let raw = SharedMap::map(memfd.as_fd(), 0, ROW_BYTES, Access::ReadWrite, "state").unwrap();
    let (mut e, _) = engine();
    e.identity.area = Some(StateArea::map(memfd.as_fd(), 0).unwrap());
    // Accesses to devices, which are not there, are withdrawn at once.
    e.machine.gate.request(0).unwrap().ask(crate::park::PARK);
    let mut loaded = 0;
    for _ in 0..1500 {
        let mut bad = good.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bad.len());
            bad[at] = match random.random_range(0..3) {
                0 => random.random(),
                1 => bad[at] ^ 1 << random.random_range(0..8),
                _ => 0xff,
            };
        }
        raw.write(0, &bad).unwrap();
        let left = Left { length: bad.len() as u64, digest: Sha256::digest(&bad).into() };
        if load(&e, left).is_ok() {
            loaded += 1;
            for _ in 0..3 {
                vcpu(&e).step(&e.machine);
            }
            let left = save(&e, "q35-0").unwrap();
            load(&e, left).unwrap();
            assert_eq!(save(&e, "q35-0").unwrap(), left);
        }
    }
    assert!((50..1450).contains(&loaded), "{loaded} of 1500 were taken: the test shows nothing");
}
