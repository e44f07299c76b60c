//! vCPUs against each other: guest programs that run on several threads at once and find out by themselves whether memory did
//! what the architecture says (SDM vol. 3A, chapters "Memory Ordering" and "Locked Atomic Operations").
//!
//! Every program runs for a number of rounds, and then its vCPU halts; what must hold is counted in guest memory. With ATOLL_LONG=1
//! the programs take turns for an hour, and ATOLL_STRESS_SECONDS says otherwise.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use code::CodeMemory;
use guest_x86::state::{attr, cr0, cr4, efer};
use guest_x86::{Segment, X86Core};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::machine::Machine;
use crate::tests::machine_of;
use crate::vcpu::{Vcpu, thread};

/// Page tables: four levels, 4 KiB pages, the first 640 KiB one to one.
const TABLES: u64 = 0x1000;
/// The page that moves in [`shootdown`] is the last of the table.
const MOVING: u64 = 0x1f_f000;
/// Where the programs of vCPU n are: a page each.
pub const CODE: u64 = 0x8000;
/// What all share.
pub const SHARED: u64 = 0x2_0000;
/// Functions that are rewritten: a page for each vCPU.
pub const FUNCTIONS: u64 = 0x3_0000;
/// Two pages for [`MOVING`].
const PLACES: u64 = 0x4_0000;
/// Halted vCPUs.
const DONE: u64 = SHARED + 0x3000;
/// Things that were not as they have to be.
pub const WRONG: u64 = SHARED + 0x3040;
/// Barriers count up here.
const BARRIER: u64 = SHARED + 0x3080;
/// For a halted machine.
pub const PATIENCE: Duration = Duration::from_secs(600);

type Program = fn(&mut CodeAssembler, u64, u64, u64) -> Result<(), IcedError>;

fn pte(va: u64) -> u64 {
    TABLES + 0x3000 + (va >> 12) * 8
}

/// The page tables.
pub fn tables(machine: &Machine) {
    let ram = &machine.memory.ram;
    let set = |at: u64, v: u64| ram.store_u64(at, v).unwrap();
    for level in 0..3 {
        set(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1)) | 7);
    }
    for page in 0..0xa0 {
        set(pte(page << 12), page << 12 | 7);
    }
    set(pte(MOVING), PLACES | 7);
}

/// 64-bit mode, privilege level 0, interrupts off.
pub fn state(me: u64) -> X86Core {
    let segment = |kind: u16, size: u16| Segment {
        selector: 8,
        attr: attr::P | attr::S | attr::G | size | kind,
        limit: u32::MAX,
        base: 0,
    };
    let mut seg = [segment(3, attr::DB); 6];
    seg[guest_x86::Seg::Cs as usize] = segment(0xb, attr::L);
    X86Core {
        rip: CODE + 0x1000 * me,
        rflags: 2,
        seg,
        cr: [cr0::PE | cr0::PG | cr0::ET | cr0::WP | cr0::NE, 0, TABLES, cr4::PAE],
        xcr0: 1,
        mxcsr: 0x1f80,
        dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        msrs: vec![(cpu_model::msr::EFER, efer::LME | efer::LMA | efer::NXE)],
        ..X86Core::default()
    }
}

/// Everybody waits here for all `vcpus`; RBP counts what is waited for. Uses RAX.
fn barrier(a: &mut CodeAssembler, vcpus: u64) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.add(rbp, vcpus as i32)?;
    a.mov(rax, BARRIER)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(qword_ptr(rax), rbp)?;
    a.jb(wait)
}

/// Count something wrong if the last comparison says so. Uses RAX.
pub fn wrong_if_below(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut right = a.create_label();
    a.jae(right)?;
    a.mov(rax, WRONG)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut right)?;
    a.nop()
}

fn end(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, DONE)?;
    a.lock().inc(qword_ptr(rax))?;
    a.hlt()
}

/// Locked operations of every kind, within a line, across two, and across two pages; a lock made of XCHG.
fn atomics(a: &mut CodeAssembler, _: u64, _: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut retry, mut retry16, mut spin, mut enter) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(rdi, SHARED)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    a.lock().inc(qword_ptr(rdi))?;
    a.lock().add(dword_ptr(rdi + 0x3e), 1)?;
    a.mov(eax, 1)?;
    a.lock().xadd(qword_ptr(rdi + 0xffc), rax)?;
    a.lock().dec(word_ptr(rdi + 0x50))?;
    a.lock().xor(byte_ptr(rdi + 0x58), 1)?;
    a.set_label(&mut retry)?;
    a.mov(rax, qword_ptr(rdi + 0x80))?;
    a.lea(rcx, qword_ptr(rax + 3))?;
    a.lock().cmpxchg(qword_ptr(rdi + 0x80), rcx)?;
    a.jne(retry)?;
    a.set_label(&mut retry16)?;
    a.mov(rax, qword_ptr(rdi + 0xc0))?;
    a.mov(rdx, qword_ptr(rdi + 0xc8))?;
    a.lea(rbx, qword_ptr(rax + 1))?;
    a.lea(rcx, qword_ptr(rdx + 2))?;
    a.lock().cmpxchg16b(xmmword_ptr(rdi + 0xc0))?;
    a.jne(retry16)?;
    // The lock protects a counter that is not locked itself.
    a.jmp(enter)?;
    a.set_label(&mut spin)?;
    a.pause()?;
    a.set_label(&mut enter)?;
    a.mov(eax, 1)?;
    a.xchg(dword_ptr(rdi + 0x100), eax)?;
    a.test(eax, eax)?;
    a.jnz(spin)?;
    a.inc(qword_ptr(rdi + 0x140))?;
    a.mov(rax, qword_ptr(rdi + 0x2140))?;
    a.inc(rax)?;
    a.mov(qword_ptr(rdi + 0x2140), rax)?;
    a.mov(dword_ptr(rdi + 0x100), 0)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

fn atomics_hold(machine: &Machine, vcpus: u64, rounds: u64) {
    let n = vcpus * rounds;
    let at = |offset: u64| machine.memory.ram.load_u64(SHARED + offset).unwrap();
    for (what, found, expected) in [
        ("INC", at(0), n),
        ("ADD across lines", at(0x3e) & 0xffff_ffff, n),
        ("XADD across pages", at(0xffc), n),
        ("DEC of a word", at(0x50) & 0xffff, n.wrapping_neg() & 0xffff),
        ("XOR of a byte", at(0x58) & 0xff, n & 1),
        ("CMPXCHG", at(0x80), 3 * n),
        ("CMPXCHG16B, low", at(0xc0), n),
        ("CMPXCHG16B, high", at(0xc8), 2 * n),
        ("under a lock", at(0x140), n),
        ("under a lock, in registers", at(0x2140), n),
    ] {
        assert_eq!(found, expected, "{what}");
    }
}

/// Stores are seen in their order; a store and a load behind a fence, or behind a locked operation, are not exchanged.
fn order(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut flag, mut passed) = (a.create_label(), a.create_label(), a.create_label());
    let (mine, other) = (SHARED + 0x400 * me, SHARED + 0x400 * ((me + 1) % vcpus));
    a.xor(ebp, ebp)?;
    a.mov(rdi, mine)?;
    a.mov(r8, other)?;
    a.mov(rsi, rounds)?;
    a.mov(r12d, 1)?;
    a.set_label(&mut again)?;
    barrier(a, vcpus)?;
    // Store buffering: of all in a circle, somebody must see the other one's store.
    a.mov(qword_ptr(rdi), r12)?;
    if me.is_multiple_of(2) {
        a.mfence()?;
    } else {
        a.lock().add(dword_ptr(rdi + 0x80), 0)?;
    }
    a.mov(rcx, qword_ptr(r8))?;
    a.mov(qword_ptr(rdi + 0x40), rcx)?;
    barrier(a, vcpus)?;
    a.xor(edx, edx)?;
    for n in 0..vcpus {
        a.mov(rax, SHARED + 0x400 * n + 0x40)?;
        a.cmp(qword_ptr(rax), r12)?;
        a.sete(al)?;
        a.or(dl, al)?;
    }
    a.cmp(dl, 1)?;
    wrong_if_below(a)?;
    // Message passing, from each to the next.
    a.mov(qword_ptr(rdi + 0x100), r12)?;
    a.mov(qword_ptr(rdi + 0x180), r12)?;
    a.set_label(&mut flag)?;
    a.cmp(qword_ptr(r8 + 0x180), r12)?;
    a.jae(passed)?;
    a.pause()?;
    a.jmp(flag)?;
    a.set_label(&mut passed)?;
    a.cmp(qword_ptr(r8 + 0x100), r12)?;
    wrong_if_below(a)?;
    a.inc(r12)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

/// Each vCPU rewrites a function of its own and calls those of all: what it calls is never older than what it knows to be stored.
fn rewriting(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsp, SHARED + 0x8000 + 0x1000 * me)?;
    a.mov(rdi, FUNCTIONS + 0x1000 * me)?;
    a.mov(r8, SHARED + 0x400 * me)?;
    a.mov(rsi, rounds)?;
    a.mov(r12d, 1)?;
    a.set_label(&mut again)?;
    a.mov(dword_ptr(rdi + 1), r12d)?;
    a.mov(qword_ptr(r8), r12)?;
    // Data beside the code.
    a.inc(qword_ptr(rdi + 0x800))?;
    for n in 0..vcpus {
        a.mov(rax, SHARED + 0x400 * n)?;
        a.mov(rbx, qword_ptr(rax))?;
        a.mov(rdx, FUNCTIONS + 0x1000 * n)?;
        a.call(rdx)?;
        a.cmp(eax, ebx)?;
        wrong_if_below(a)?;
    }
    a.inc(r12)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

/// vCPU 0 maps a page elsewhere and tells the others, who say when they have dropped their translation; after that nobody writes
/// to where it was.
fn shootdown(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut wait, mut none, mut look) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(rdi, SHARED)?;
    a.mov(r9, MOVING)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    a.nop()?;
    if me == 0 {
        // [SHARED] is the request; [SHARED + 0x400 * n] the answer of vCPU n.
        a.mov(r10, pte(MOVING))?;
        a.mov(r11, qword_ptr(r10))?;
        a.mov(rdx, r11)?;
        a.xor(rdx, 0x1000)?;
        // Accessed and dirty bits are set anew.
        a.and(rdx, -0x61)?;
        a.mov(qword_ptr(r10), rdx)?;
        a.invlpg(byte_ptr(r9))?;
        a.inc(qword_ptr(rdi))?;
        a.mov(rdx, qword_ptr(rdi))?;
        for n in 1..vcpus {
            let mut answer = a.create_label();
            a.nop()?;
            a.set_label(&mut answer)?;
            a.pause()?;
            a.cmp(qword_ptr(rdi + 0x400 * n as i32), rdx)?;
            a.jb(answer)?;
        }
        // The page that nobody should write to any more.
        a.and(r11, -0x1000)?;
        for n in 1..vcpus as i32 {
            a.mov(rcx, qword_ptr(r11 + 64 * n))?;
            a.mov(qword_ptr(rdi + 0x2000 + 64 * n), rcx)?;
        }
        a.mov(ecx, 50)?;
        a.set_label(&mut look)?;
        a.dec(ecx)?;
        a.jnz(look)?;
        for n in 1..vcpus as i32 {
            a.mov(rcx, qword_ptr(r11 + 64 * n))?;
            a.cmp(qword_ptr(rdi + 0x2000 + 64 * n), rcx)?;
            wrong_if_below(a)?;
        }
        a.dec(rsi)?;
        a.jnz(again)?;
        // The end of all.
        a.mov(qword_ptr(rdi + 8), 1)?;
    } else {
        a.set_label(&mut wait)?;
        a.mov(rdx, qword_ptr(rdi))?;
        a.cmp(qword_ptr(rdi + 0x400 * me as i32), rdx)?;
        a.jae(none)?;
        a.invlpg(byte_ptr(r9))?;
        a.mov(qword_ptr(rdi + 0x400 * me as i32), rdx)?;
        a.set_label(&mut none)?;
        a.inc(rcx)?;
        a.mov(qword_ptr(r9 + 64 * me as i32), rcx)?;
        a.cmp(qword_ptr(rdi + 8), 0)?;
        a.je(wait)?;
    }
    end(a)
}

/// Run `program` on `vcpus` threads, `tier` being emitted code or not, until all have halted.
fn run(program: Program, vcpus: u64, rounds: u64, emitted: bool) -> Arc<Machine> {
    let (machine, board) = machine_of(vcpus as usize);
    tables(&machine);
    for me in 0..vcpus {
        let mut a = CodeAssembler::new(64).unwrap();
        program(&mut a, me, vcpus, rounds).unwrap();
        let at = CODE + 0x1000 * me;
        machine.memory.ram.write(at, &a.assemble(at).unwrap()).unwrap();
        // mov eax, 0; ret
        machine.memory.ram.write(FUNCTIONS + 0x1000 * me, &[0xb8, 0, 0, 0, 0, 0xc3]).unwrap();
        let mut vcpu = Vcpu::new(&machine, me as u16);
        if emitted {
            vcpu.use_t1(CodeMemory::new(4 << 20).unwrap()).unwrap();
        }
        let runner = &mut vcpu.runner;
        runner.cpu.load_state(&mut runner.regs.0, &state(me)).unwrap();
        vcpu.take_run(crate::vcpu::Run::Runnable);
        let (vcpu, machine) = (Arc::new(Mutex::new(vcpu)), machine.clone());
        std::thread::spawn(move || thread(&machine, me as usize, &vcpu, &|e| panic!("{e:?}")));
    }
    machine.gate.open();
    let start = Instant::now();
    while machine.memory.ram.load_u64(DONE).unwrap() < vcpus {
        assert!(start.elapsed() < PATIENCE, "the vCPUs do not halt");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(machine.gate.close(PATIENCE, || ()), "they do not park");
    assert_eq!(machine.memory.ram.load_u64(WRONG).unwrap(), 0, "things that were not as they have to be");
    drop(board);
    machine
}

/// Run `program` in turns for as long as is asked for, at least once with 2 vCPUs and once with 3, emitted and interpreted.
fn take_turns(program: Program, rounds: u64, holds: fn(&Machine, u64, u64)) {
    let seconds = match std::env::var("ATOLL_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()) {
        Some(seconds) => seconds,
        None if std::env::var_os("ATOLL_LONG").is_some() => 3600 / 4,
        None => 0,
    };
    let start = Instant::now();
    let mut turns = 0;
    while turns < 4 || start.elapsed() < Duration::from_secs(seconds) {
        let (vcpus, emitted) = (2 + turns % 2, turns % 4 < 2);
        let rounds = if emitted { rounds } else { rounds / 10 };
        let machine = run(program, vcpus, rounds, emitted);
        holds(&machine, vcpus, rounds);
        turns += 1;
    }
    println!("{turns} runs, 0 differences");
}

#[test]
fn locked_operations_and_locks() {
    take_turns(atomics, 200, atomics_hold);
}

#[test]
fn memory_order() {
    take_turns(order, 500, |_, _, _| ());
}

#[test]
fn code_rewritten_by_others() {
    take_turns(rewriting, 2_000, |_, _, _| ());
}

#[test]
fn pages_that_move() {
    take_turns(shootdown, 500, |_, _, _| ());
}
