//! vCPUs that call a function while a device rewrites it: what it returns is never older than what the device has said before.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use code::{Cache, CodeMemory, Limits};
use doorbell::EventFd;
use guest_memory::VcpuState;
use guest_memory::mutants::{Mutant, plant};
use guest_x86::{Table, X86Core};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use vcpu_devices::{Delivery, Destination, Message};

use crate::machine::Machine;
use crate::stress::programs::wrong_if_below;
use crate::stress::{CODE, FUNCTIONS, PATIENCE, SHARED, WRONG, state, tables};
use crate::tests::machine_of;
use crate::vcpu::{Run, Vcpu, thread};

/// What the device has said.
const SAID: u64 = SHARED;
/// How often vCPU n has called the function: 64 bytes for each.
const CALLS: u64 = SHARED + 0x1000;
/// The table with the gate of NMIs, and their handler.
const GATES: u64 = 0x5_0000;
const HANDLER: u64 = 0x5_1000;
const SEGMENTS: u64 = 0x5_2000;
/// The end of vCPU 0's stack.
const STACK: u64 = 0x5_4000;

/// Calls the function for ever, and halts after each call if it is to.
fn program(a: &mut CodeAssembler, me: u64, halts: bool) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsp, STACK + 0x1000 * me)?;
    a.mov(rdi, SAID)?;
    a.mov(rsi, CALLS + 64 * me)?;
    a.mov(rdx, FUNCTIONS)?;
    a.set_label(&mut again)?;
    a.mov(rbx, qword_ptr(rdi))?;
    a.call(rdx)?;
    a.cmp(eax, ebx)?;
    wrong_if_below(a)?;
    a.inc(qword_ptr(rsi))?;
    if halts {
        a.hlt()?;
    }
    a.jmp(again)
}

/// So that an NMI ends a HLT.
fn interrupts(machine: &Machine) {
    let ram = &machine.memory.ram;
    for (n, descriptor) in [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        ram.store_u64(SEGMENTS + 8 * n as u64, descriptor).unwrap();
    }
    let gate = (HANDLER >> 16) << 48 | 0x8e00 << 32 | 8 << 16 | HANDLER & 0xffff;
    ram.store_u64(GATES + 2 * 16, gate).unwrap();
    // iretq
    ram.write(HANDLER, &[0x48, 0xcf]).unwrap();
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Rounds in which a device writes a larger number into the function, has the old code dropped, and says the number. Answers how
/// often a vCPU was returned an older one than it knew.
fn rewritten(rounds: u64, vcpus: u64, halts: bool, emitted: bool) -> u64 {
    let (machine, board) = machine_of(vcpus as usize);
    // Its mappings are the machine's.
    std::mem::forget(board);
    let (memory, ram, marks) = (&machine.memory, &machine.memory.ram, &machine.memory.marks);
    tables(&machine);
    interrupts(&machine);
    // mov eax, 0; ret
    ram.write(FUNCTIONS, &[0xb8, 0, 0, 0, 0, 0xc3]).unwrap();
    for me in 0..vcpus {
        let mut a = CodeAssembler::new(64).unwrap();
        program(&mut a, me, halts).unwrap();
        ram.write(CODE + 0x1000 * me, &a.assemble(CODE + 0x1000 * me).unwrap()).unwrap();
        let mut vcpu = Vcpu::new(&machine, me as u16);
        // The threads of all tests stay, and the program is small.
        vcpu.runner.cache = Cache::new(Limits::default().of(1, 64));
        if emitted {
            vcpu.use_t1(CodeMemory::new(4 << 20).unwrap()).unwrap();
        }
        let mut core = X86Core {
            gdtr: Table { base: SEGMENTS, limit: 23 },
            idtr: Table { base: GATES, limit: 0xfff },
            ..state(me)
        };
        core.seg.iter_mut().filter(|seg| !seg.is_code()).for_each(|seg| seg.selector = 0x10);
        let runner = &mut vcpu.runner;
        runner.cpu.load_state(&mut runner.regs.0, &core).unwrap();
        vcpu.take_run(Run::Runnable);
        let (vcpu, machine) = (Arc::new(Mutex::new(vcpu)), machine.clone());
        std::thread::spawn(move || thread(&machine, me as usize, &vcpu, &|e| eprintln!("{e:?}")));
    }
    let bell = EventFd::new().unwrap();
    let (theirs, serving) = (bell.try_clone().unwrap(), machine.clone());
    std::thread::spawn(move || super::thread(&serving, &theirs));
    machine.gate.open();
    let calls = || (0..vcpus).map(|n| ram.load_u64(CALLS + 64 * n).unwrap()).collect::<Vec<_>>();
    let is_parked = |n: u64| marks.vcpu(n as usize).unwrap().line.state() == VcpuState::Parked;
    for n in 1..=rounds {
        let paused = n % 8 == 0;
        if halts {
            wait("a vCPU does not halt", || calls().iter().all(|calls| *calls == n) && (0..vcpus).all(is_parked));
        } else {
            let before = calls();
            wait("a vCPU stands still", || calls().iter().zip(&before).all(|(now, before)| *now > before + 1));
        }
        if paused {
            assert!(machine.gate.close(PATIENCE, || ()));
        }
        let (written, stale) = marks.write(FUNCTIONS + 1, 4, || ram.store_u32(FUNCTIONS + 1, n as u32));
        assert!(written.is_some());
        if stale {
            let start = Instant::now();
            marks.drop_code(|| bell.ring().unwrap(), || start.elapsed() < PATIENCE).unwrap();
        }
        ram.store_u64(SAID, n).unwrap();
        if paused {
            machine.gate.open();
        }
        if halts {
            let (destination, delivery) = (Destination::All, Delivery::Nmi);
            machine.deliver(&Message { destination, delivery, vector: 2, level: false }, None);
        }
    }
    let before = calls();
    wait("a vCPU stands still", || calls().iter().zip(&before).all(|(now, before)| now > before || halts));
    assert!(machine.gate.close(PATIENCE, || ()));
    // Devices write to data: it became code again whenever it ran.
    let dropped = machine.counters.iter().map(|c| c.dropped.load(Ordering::Relaxed)).sum::<u64>();
    assert!(dropped >= rounds || memory.code.owners(FUNCTIONS) != 0);
    ram.load_u64(WRONG).unwrap()
}

fn rounds() -> u64 {
    if std::env::var_os("ATOLL_LONG").is_some() { 20_000 } else { 100 }
}

#[test]
fn code_that_a_device_has_replaced_is_never_run() {
    for (vcpus, emitted) in [(1, true), (2, true), (2, false)] {
        assert_eq!(rewritten(rounds(), vcpus, false, emitted), 0, "{vcpus} vCPUs, emitted: {emitted}");
    }
}

#[test]
fn nor_by_vcpus_that_were_halted() {
    for (vcpus, emitted) in [(1, true), (2, true), (2, false)] {
        assert_eq!(rewritten(rounds(), vcpus, true, emitted), 0, "{vcpus} vCPUs, emitted: {emitted}");
    }
}

#[test]
fn a_device_that_does_not_ask_is_noticed() {
    plant(Some(Mutant::NotAsked));
    for halts in [false, true] {
        assert_ne!(rewritten(20, 2, halts, true), 0, "halts: {halts}");
    }
}
