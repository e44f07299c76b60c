//! A vCPU's thread under harvests, with bugs planted in it: what `tests/bare` tortures as a process must be able to fail.

use std::sync::Arc;
use std::time::Duration;

use code::CodeMemory;
use guest_memory::VcpuState;
use guest_memory::mutants::{Mutant, plant};
use guest_x86::state::{EFLAGS, RSP, attr, cr0, gpr};
use guest_x86::{Attrs, Bus, Seg, Segment, flags};

use crate::machine::Machine;
use crate::stress::{How, Running, Used, user};
use crate::tests::{Copied, engine};
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
        let flat = |selector, kind| {
            let attr = attr::P | attr::S | attr::G | attr::DB | kind;
            Segment { selector, attr, limit: u32::MAX, base: 0 }
        };
        runner.cpu.sys.cr0 = cr0::PE | cr0::ET | cr0::NE;
        runner.cpu.sys.seg = [flat(0x10, 3); 6];
        runner.cpu.sys.seg[Seg::Cs as usize] = flat(8, 0xb);
        runner.regs.0.set(ir::PC, CODE);
        runner.regs.0.set(gpr(3), 1);
        runner.cpu.refresh(&mut runner.regs.0);
    }
    let machine = engine.machine.clone();
    std::thread::spawn(move || {
        plant(mutant);
        vcpu::thread(&machine, 0, &vcpu, &|e| eprintln!("{e:?}"));
    });
    engine
}

/// Rounds over a guest that runs once the gate is open; each tenth waits until everything has been `written` to that guests write
/// to all the time.
fn rounds(machine: &Arc<Machine>, written: &[u64]) -> Copied {
    let mut copied = Copied::new(machine);
    machine.gate.open();
    let numbers = || written.iter().map(|at| machine.memory.ram.load_u32(*at).unwrap()).collect::<Vec<_>>();
    for n in 0..50 {
        let before = numbers();
        copied.round();
        // Each round meets stores, however slow this machine is.
        while n % 10 == 9 && numbers().iter().zip(&before).any(|(now, before)| now == before) {
            std::thread::yield_now();
        }
    }
    copied
}

/// The pages that rounds lose of a kernel that writes.
fn lost(mutant: Option<Mutant>, emitted: bool) -> Vec<u64> {
    let engine = writing(mutant, emitted);
    let copied = rounds(&engine.machine, &[DATA]);
    assert!(engine.machine.gate.close(PATIENCE, || ()));
    copied.lost()
}

/// The pages that rounds lose of two vCPUs in user mode, whose stores remember pages or runs of them; and what each has done.
fn lost_in_user_mode(runs: bool, plant: fn()) -> (Vec<u64>, Vec<Used>) {
    let mut running = Running::new(user::restless, 2, 0, How::Hot { runs }, true, plant);
    let copied = rounds(&running.machine, &[0, 1].map(user::count_of));
    let used = running.stop();
    (copied.lost(), used)
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
    let bugs: [(&str, fn()); 3] = [
        ("tags are kept", || plant(Some(Mutant::KeptTags))),
        ("pages are not marked", || plant(Some(Mutant::NotMarked))),
        ("memos do not forget", || emit_x64::mutants::plant(Some(emit_x64::mutants::Mutant::Memos))),
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
