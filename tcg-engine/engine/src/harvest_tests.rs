//! A vCPU's thread under harvests, with bugs planted in it: what `tests/bare` tortures as a process must be able to fail.

use std::time::Duration;

use code::CodeMemory;
use guest_memory::VcpuState;
use guest_memory::mutants::{Mutant, plant};
use guest_x86::state::{EFLAGS, RSP, gpr};
use guest_x86::{Attrs, Bus, Seg, flags};

use crate::stress::{How, Running, Used, user};
use crate::tests::{Copied, engine, flat};
use crate::{Engine, vcpu};

/// Where the guest begins.
const CODE: u64 = 0x1000;
/// Where it writes, 128 pages.
const DATA: u64 = 0x2_0000;
/// Increasing numbers to pages in pseudo-random order, for ever; flat 32-bit code.
const WRITES: &[u8] = &[
    0x46, // inc esi
    0x69, 0xdb, 0x0d, 0x66, 0x19, 0x00, // imul ebx, ebx, 1664525
    0x81, 0xc3, 0x5f, 0xf3, 0x6e, 0x3c, // add ebx, 1013904223
    0x89, 0xd8, // mov eax, ebx
    0xc1, 0xe8, 0x0c, // shr eax, 12
    0x83, 0xe0, 0x7f, // and eax, 127
    0xc1, 0xe0, 0x0c, // shl eax, 12
    0x89, 0xb0, 0x00, 0x00, 0x02, 0x00, // mov [eax + 0x20000], esi
    0xeb, 0xe0, // to the inc
];
/// For a vCPU to park.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine whose vCPU runs [`WRITES`] with `mutant`, as soon as the gate opens.
fn writing(mutant: Option<Mutant>, emitted: bool) -> Engine {
    let (engine, board) = engine();
    // Its mappings are the engine's.
    std::mem::forget(board);
    let vcpu = engine.vcpus[0].clone();
    {
        let mut vcpu = vcpu.lock().unwrap();
        if emitted {
            vcpu.use_t1(CodeMemory::new(1 << 20).unwrap()).unwrap();
        }
        let runner = &mut vcpu.runner;
        runner.cpu.mem.ram.write(CODE, WRITES).unwrap();
        flat(&mut runner.cpu, &mut runner.regs.0, CODE);
        runner.regs.0.set(gpr(3), 1);
    }
    let machine = engine.machine.clone();
    std::thread::spawn(move || {
        plant(mutant);
        vcpu::thread(&machine, 0, &vcpu, &|e| eprintln!("{e:?}"));
    });
    engine
}

/// The pages that rounds lose of a kernel that writes.
fn lost(mutant: Option<Mutant>, emitted: bool) -> Vec<u64> {
    let engine = writing(mutant, emitted);
    let machine = &engine.machine;
    let mut copied = Copied::new(machine);
    machine.gate.open();
    let written = || machine.memory.ram.load_u32(DATA).unwrap();
    for n in 0..50 {
        let before = written();
        copied.round();
        // Each round meets stores, however slow this machine is.
        while n % 10 == 9 && written() == before {
            std::thread::yield_now();
        }
    }
    assert!(machine.gate.close(PATIENCE, || ()));
    copied.lost()
}

/// Looks of a program at all of its pages, and at few of them.
const ALL_PAGES: u32 = 4096;
const FEW: u32 = 32;

/// The pages that rounds lose of two vCPUs in user mode, whose stores remember pages or runs of them; and what each has done.
fn lost_in_user_mode(runs: bool, plant: fn()) -> (Vec<u64>, Vec<Used>) {
    let mut running = Running::new(user::restless, 2, 0, How::Hot { runs }, true, plant);
    let machine = running.machine.clone();
    let mut copied = Copied::new(&machine);
    let numbers = || [0, 1].map(|n| machine.memory.ram.load_u32(user::count_of(n)).unwrap());
    let until = |looks: u32| {
        let before = numbers();
        while numbers().iter().zip(&before).any(|(now, before)| now.wrapping_sub(*before) < looks) {
            std::thread::yield_now();
        }
    };
    for _ in 0..20 {
        running.go();
        for looks in [0, FEW, ALL_PAGES, FEW] {
            until(looks);
            copied.round();
        }
        // Right behind a round, so that what it has lost has not been written again.
        until(FEW);
        let used = running.stop();
        let lost = copied.lost();
        if !lost.is_empty() {
            return (lost, used);
        }
    }
    (Vec::new(), running.used())
}

/// The pages that a round loses when two vCPUs write to each of their pages once behind it, having remembered runs of them before.
fn lost_in_a_sweep(plant: fn()) -> (Vec<u64>, Vec<Used>) {
    let mut running = Running::new(user::sweeping, 2, 0, How::Hot { runs: true }, true, plant);
    let machine = running.machine.clone();
    let ram = &machine.memory.ram;
    let mut copied = Copied::new(&machine);
    running.go();
    let until = |count: u32| {
        while [0, 1].iter().any(|n| ram.load_u32(user::count_of(*n)).unwrap() < count) {
            std::thread::yield_now();
        }
    };
    let mut lost = Vec::new();
    for n in (1..16).step_by(2) {
        until(n);
        copied.round();
        ram.store_u32(user::MAY_SWEEP, n).unwrap();
        until(n + 1);
        // What the test itself has written is nobody's to mark.
        lost.extend(copied.lost().into_iter().filter(|at| *at != user::MAY_SWEEP & !0xfff));
        ram.store_u32(user::MAY_SWEEP, n + 1).unwrap();
    }
    (lost, running.stop())
}

#[test]
fn no_page_is_lost_that_a_run_had_before_a_round() {
    let (lost, used) = lost_in_a_sweep(|| ());
    assert_eq!(lost, []);
    assert!(used.iter().all(|used| used.is_tested(true, 128)), "{used:?}");
    let (lost, _) = lost_in_a_sweep(|| emit_x64::mutants::plant(Some(emit_x64::mutants::Mutant::Runs)));
    assert!(lost.len() > 64, "a planted bug: memos of runs do not forget");
}

#[test]
fn no_page_is_lost_by_either_tier() {
    for emitted in [false, true] {
        assert_eq!(lost(None, emitted), []);
    }
}

#[test]
fn no_page_is_lost_by_hot_blocks_of_user_mode() {
    for runs in [false, true] {
        let (lost, used) = lost_in_user_mode(runs, || ());
        assert_eq!(lost, [], "runs: {runs}");
        assert!(used.iter().all(|used| used.is_tested(runs, 128)), "{used:?}");
    }
}

#[test]
fn planted_bugs_lose_pages() {
    for mutant in [Mutant::KeptTags, Mutant::NotMarked] {
        for emitted in [false, true] {
            assert_ne!(lost(Some(mutant), emitted), [], "{mutant:?}, emitted: {emitted}");
        }
    }
}

#[test]
fn planted_bugs_lose_pages_of_user_mode() {
    use emit_x64::mutants;
    let bugs: [(&str, fn()); 3] = [
        ("tags are kept", || plant(Some(Mutant::KeptTags))),
        ("pages are not marked", || plant(Some(Mutant::NotMarked))),
        ("memos do not forget", || mutants::plant(Some(mutants::Mutant::Memos))),
    ];
    for (bug, plant) in bugs {
        for runs in [false, true] {
            assert_ne!(lost_in_user_mode(runs, plant).0, [], "{bug}, runs: {runs}");
        }
    }
}

#[test]
fn the_frame_of_an_external_interrupt_is_marked_behind_the_wait_for_its_vector() {
    const STACK: u64 = 0x8000;
    let (e, board) = engine();
    let machine = &e.machine;
    let (marks, ram) = (&machine.memory.marks, &machine.memory.ram);
    let mut v = e.vcpus[0].lock().unwrap();
    for (register, value) in [(0xf0, 0x1ff), (0x350, 0x700)] {
        v.bus().mmio_write(0xfee0_0000 + register, 4, value, Attrs { user: false }).unwrap();
    }
    // Interrupt 0x35 leads to a HLT; `push ax; hlt` gives the stack's page its tag.
    ram.store_u32(4 * 0x35, 0x1000).unwrap();
    ram.write(0x1000, &[0xf4]).unwrap();
    ram.write(0x7000, &[0x50, 0xf4]).unwrap();
    let runner = &mut v.runner;
    runner.cpu.sys.idtr.limit = 0x3ff;
    runner.cpu.sys.seg[Seg::Cs as usize] = runner.cpu.sys.seg[Seg::Cs as usize].real(0x700);
    runner.regs.0.set(ir::PC, 0);
    runner.regs.0.set(RSP, STACK + 0x1000);
    runner.cpu.refresh(&mut runner.regs.0);
    v.step(machine);
    assert!(v.runner.cpu.sys.halted && marks.is_marked(STACK));

    v.runner.regs.0.set(EFLAGS, flags::ONE | flags::IF);
    board.set_extint(true);
    machine.board_rang();
    std::thread::scope(|s| {
        s.spawn(|| {
            while marks.vcpu(0).unwrap().line.state() != VcpuState::Blocked {
                std::thread::yield_now();
            }
            marks.harvest(|| (), || false).unwrap();
            board.acknowledge(0x35).join().unwrap();
        });
        v.step(machine);
    });
    assert_eq!(v.runner.regs.0.get(ir::PC), 0x1001, "behind the handler's HLT");
    assert!(marks.is_marked(STACK), "the frame's page");
}
