//! Loops that count their rounds: what they do is what the interpreter does, to the last page, flag and instruction.

use std::thread;

use emit_x64::mutants::{Mutant, plant};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::harness::*;
use crate::Runner;
use crate::runner::{Ask, Planner, planner};

/// Where pages are mapped for programs: no page lies where its neighbour does.
const PAGES: u64 = 24;
const FROM: u64 = 0x40_0000;

fn place(at: u64) -> u64 {
    FROM + ((at - FROM) ^ 0x1000)
}

/// Pages that are not there, and that may not be written.
const GONE: u64 = FROM + 0x9000;
const LOCKED: u64 = FROM + 0x5000;

/// All that is to be seen of a program: its registers and flags, how it ended, what the exception left on the stack, instructions, and
/// the memory that it works on.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    regs: Vec<u64>,
    caught: Option<u64>,
    frame: Vec<u64>,
    instructions: u64,
    memory: Vec<u64>,
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn with_pages(mut m: Runner<TestBus>) -> Runner<TestBus> {
    for page in (0..PAGES).map(|n| FROM + 0x1000 * n) {
        let rights = match page {
            GONE => 0,
            LOCKED => 5,
            _ => 7,
        };
        m.poke64(pte(page), place(page) | rights);
    }
    for at in (FROM..FROM + 0x1000 * PAGES).step_by(8) {
        m.poke64(place(at), at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    m.set(4, STACK);
    m
}

/// What `program` does in user mode by the interpreter, or by emitted code, in which all blocks are hot; how many loops count their
/// rounds.
fn seen(program: Program, emitted: bool, runs: bool) -> (Seen, u64) {
    let mut m = long();
    m.t1 = None;
    if emitted {
        m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
        let t1 = m.t1.as_mut().unwrap();
        t1.set_hot(0);
        t1.set_runs(runs);
    }
    let mut m = with_pages(m);
    user(&mut m);
    for n in [0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15] {
        m.set(n, 0x1000 + n as u64);
    }
    m.poke(CODE, &asm64(program));
    m.set_pc(CODE);
    m.run_on();
    let seen = Seen {
        regs: (0..16).map(|n| m.get(n)).chain([m.flags(), m.pc()]).collect(),
        caught: m.caught(),
        frame: (0..6).map(|n| m.stack(n)).collect(),
        instructions: m.instructions,
        memory: (FROM..FROM + 0x1000 * PAGES).step_by(8).map(|at| m.peek64(place(at))).collect(),
    };
    (seen, m.counter("code-counted"))
}

/// Copies by an index, from page to page, and adds up.
fn copies(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsi, FROM + 0x10)?;
    a.mov(rdi, FROM + 0xb008)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rsi + rcx * 8))?;
    a.add(r9, rax)?;
    a.mov(qword_ptr(rdi + rcx * 8), rax)?;
    a.mov(r10, qword_ptr(rsi + rcx * 8 + 8))?;
    a.xor(r11, r10)?;
    a.inc(rcx)?;
    a.cmp(rcx, 2500)?;
    a.jne(again)?;
    a.hlt()
}

/// The same backward, by registers that move by what is no power of two, with a word on the stack that all rounds use.
fn backward(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.push(rcx)?;
    a.mov(rsi, FROM + 0x4ff8)?;
    a.mov(rdi, FROM + 0x13ff0)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rsi - 0x300))?;
    a.xor(rax, qword_ptr(rsi))?;
    a.add(qword_ptr(rsp), rax)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.sub(rdi, 24)?;
    a.lea(rsi, qword_ptr(rsi - 24))?;
    a.cmp(rsi, (FROM + 0x400) as i32)?;
    a.ja(again)?;
    a.pop(rbx)?;
    a.hlt()
}

/// Runs into a page that is not there, whose fault shows the flags of the round before.
fn runs_into(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsi, FROM + 0x6000)?;
    a.mov(r8, FROM + 0x8f80)?;
    a.set_label(&mut again)?;
    a.movzx(eax, byte_ptr(rsi))?;
    a.lea(rsi, qword_ptr(rsi + 1))?;
    a.add(r9, rax)?;
    a.cmp(rsi, r8)?;
    a.jne(again)?;
    // From here on what is compared is less.
    let mut further = a.create_label();
    a.set_label(&mut further)?;
    a.movzx(eax, byte_ptr(rsi))?;
    a.lea(rsi, qword_ptr(rsi + 1))?;
    a.add(r9, rax)?;
    a.cmp(r8, rsi)?;
    a.jne(further)?;
    a.hlt()
}

/// Loads from a page that may not be written, and then stores into it. All of these pages have been seen before.
fn stores_into(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut before) = (a.create_label(), a.create_label());
    a.mov(rsi, LOCKED - 0x3000)?;
    a.set_label(&mut before)?;
    a.add(rbx, qword_ptr(rsi))?;
    a.add(rsi, 0x80)?;
    a.cmp(rsi, (LOCKED + 0x1000) as i32)?;
    a.jne(before)?;
    a.mov(rsi, LOCKED - 0x1800)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rsi + 0x300))?;
    a.add(rax, qword_ptr(rsi + 0x380))?;
    a.mov(qword_ptr(rsi), rax)?;
    a.add(rsi, 8)?;
    a.test(rsi, rsi)?;
    a.jne(again)?;
    a.hlt()
}

/// Is left in the middle, before its time, and goes on with the word that its addresses went by.
fn leaves(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut out) = (a.create_label(), a.create_label());
    a.mov(rbx, FROM + 0x6000)?;
    a.mov(qword_ptr(rbx + 0x8b8), 0x77)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rbx + rcx))?;
    a.add(rcx, 8)?;
    a.cmp(rax, 0x77)?;
    a.je(out)?;
    a.add(rdx, rax)?;
    a.cmp(rcx, 0x2f00)?;
    a.jb(again)?;
    a.set_label(&mut out)?;
    a.adc(rdx, rbx)?;
    a.hlt()
}

/// Has something in each round that the interpreter runs: it is not aligned.
fn calls_out(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, FROM + 0x6000)?;
    a.mov(r8, FROM + 0xa800)?;
    a.mov(ecx, 300)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rbx + rcx * 8))?;
    a.xchg(qword_ptr(r8 + 3), r9)?;
    a.add(rdx, rax)?;
    a.add(r8, 8)?;
    a.dec(rcx)?;
    a.jne(again)?;
    a.add(rdx, rbx)?;
    a.hlt()
}

/// Keeps a carry from round to round, and goes by two words that both move.
fn carries(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, FROM)?;
    a.xor(ecx, ecx)?;
    a.mov(r8d, 900)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rbx + rcx * 4))?;
    a.adc(rax, qword_ptr(rbx + rcx * 4 + 8))?;
    a.mov(qword_ptr(rbx + rcx * 4 + 0xb000), rax)?;
    a.lea(rbx, qword_ptr(rbx + 4))?;
    a.lea(rcx, qword_ptr(rcx + 1))?;
    a.dec(r8)?;
    a.jne(again)?;
    a.hlt()
}

/// Leads back by a jump, with a carry for the next round that the host's flags have lost by then.
fn jumps_back(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut out) = (a.create_label(), a.create_label());
    a.mov(rbx, FROM + 0x6000)?;
    a.mov(r9, FROM + 0xa100)?;
    a.lea(r10, qword_ptr(r9 + 0x100))?;
    a.mov(qword_ptr(r9), r10)?;
    a.mov(r10, 0x9e37_79b9_7f4a_7c15u64)?;
    a.mov(r8d, 700)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut again)?;
    a.adc(rax, qword_ptr(rbx + rcx * 8))?;
    a.lea(rcx, qword_ptr(rcx + 1))?;
    a.mov(rdx, qword_ptr(r9))?;
    a.cmp(rcx, r8)?;
    a.je(out)?;
    a.cmp(rax, r10)?;
    a.je(out)?;
    a.mov(qword_ptr(rdx), rax)?;
    a.jmp(again)?;
    a.set_label(&mut out)?;
    a.hlt()
}

/// Long ones, whose rounds are more than are ever counted at once.
fn runs_long(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, FROM + 0x123)?;
    a.mov(ecx, 50_000)?;
    a.set_label(&mut again)?;
    a.add(rax, qword_ptr(rbx))?;
    a.xor(dword_ptr(rbx + 0x500), eax)?;
    a.dec(ecx)?;
    a.jne(again)?;
    a.hlt()
}

const PROGRAMS: [(&str, Program); 9] = [
    ("copies", copies),
    ("backward", backward),
    ("runs into", runs_into),
    ("stores into", stores_into),
    ("leaves", leaves),
    ("calls out", calls_out),
    ("carries", carries),
    ("jumps back", jumps_back),
    ("runs long", runs_long),
];

#[test]
fn counted_rounds_are_those_of_the_interpreter() {
    for (name, program) in PROGRAMS {
        let expected = seen(program, false, false).0;
        for runs in [false, true] {
            let (found, counted) = seen(program, true, runs);
            assert_eq!(found, expected, "{name}");
            assert!(counted > 0, "{name}: no rounds were counted");
        }
    }
}

#[test]
fn planted_bugs_show() {
    let bugs = [
        Mutant::RoundsMany,
        Mutant::RoundsEnd,
        Mutant::RoundsRight,
        Mutant::RoundsBase,
        Mutant::RoundsKept,
        Mutant::RoundsFlags,
    ];
    let expected: Vec<Seen> = PROGRAMS.iter().map(|(_, program)| seen(*program, false, false).0).collect();
    for bug in bugs {
        plant(Some(bug));
        let differs = |n: usize| [false, true].iter().any(|runs| seen(PROGRAMS[n].1, true, *runs).0 != expected[n]);
        let shown: Vec<&str> = (0..PROGRAMS.len()).filter(|n| differs(*n)).map(|n| PROGRAMS[n].0).collect();
        plant(None);
        println!("{bug:?}: {shown:?}");
        assert!(!shown.is_empty(), "{bug:?}");
    }
}

/// Adds up words, for ever, so many at a time as R8 says; what else there is for the tests of plans.
fn sums() -> (Runner<TestBus>, Planner) {
    let mut m = long();
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    let (asker, planner) = planner();
    m.plan_with(asker);
    let mut m = with_pages(m);
    user(&mut m);
    m.poke(CODE, &summing());
    for (n, value) in [(0, 0), (2, 0), (8, MANY)] {
        m.set(n, value);
    }
    m.set_pc(CODE);
    (m, planner)
}

/// So many words make a loop worth a plan, and so few do not.
const MANY: u64 = 0x300;
const FEW: u64 = 3;

fn summing() -> Vec<u8> {
    asm64(|a| {
        let (mut again, mut inner) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.mov(rbx, FROM + 0x6000)?;
        a.mov(rcx, r8)?;
        a.set_label(&mut inner)?;
        a.add(rax, qword_ptr(rbx + rcx * 8))?;
        a.dec(rcx)?;
        a.jne(inner)?;
        a.inc(rdx)?;
        a.jmp(again)
    })
}

fn planned(m: &Runner<TestBus>) -> usize {
    m.t1.as_ref().unwrap().plans()
}

/// Run until a plan is asked for.
fn asked(m: &mut Runner<TestBus>, planner: &Planner) -> Vec<Ask> {
    for _ in 0..100_000 {
        m.run(1 << 10);
        let asks = planner.waiting();
        if !asks.is_empty() {
            return asks;
        }
    }
    panic!("no plan is asked for");
}

/// A loop is found to run long, its plan made by another thread, and taken while it runs.
#[test]
fn a_thread_plans_what_runs_long() {
    let (mut m, planner) = sums();
    thread::scope(|scope| {
        scope.spawn(move || planner.serve());
        for _ in 0..1_000_000 {
            m.run(1 << 10);
            if m.counter("code-counted") > 0 {
                break;
            }
            thread::yield_now();
        }
        assert_eq!((m.counter("code-counted"), planned(&m)), (1, 1));
        let before = m.get(2);
        m.run(1 << 14);
        assert!(m.get(2) > before);
        while m.get(1) == 0 {
            m.run(1);
        }
        let sum = |words: std::ops::RangeInclusive<u64>| {
            words.map(|n| m.peek64(place(FROM + 0x6000 + 8 * n))).fold(0, u64::wrapping_add)
        };
        let (all, begun) = (sum(1..=MANY), sum(m.get(1) + 1..=MANY));
        assert_eq!(m.get(0), all.wrapping_mul(m.get(2)).wrapping_add(begun));
        drop(m);
    });
}

/// A plan that comes when its loop is gone, and another one has the number, is nobody's.
#[test]
fn a_plan_for_a_loop_that_is_gone_is_not_taken() {
    let late = |mutant| {
        let (mut m, planner) = sums();
        let asks = asked(&mut m, &planner);
        m.cpu.invalidate(CODE, summing().len() as u64);
        m.set(8, FEW);
        // Blocks have their numbers again, and are hot.
        for _ in 0..100 {
            m.run(1 << 14);
        }
        assert_eq!((planned(&m), planner.waiting().len()), (0, 0));
        asks.into_iter().for_each(Ask::serve);
        plant(mutant);
        m.run(1 << 10);
        plant(None);
        planned(&m)
    };
    assert_eq!(late(None), 0);
    assert_eq!(late(Some(Mutant::RoundsTicket)), 1, "the test shows nothing");
}

/// A loop that does not run long any more is better off without, and is not asked for again.
#[test]
fn a_loop_that_runs_short_loses_its_plan() {
    let (mut m, planner) = sums();
    asked(&mut m, &planner).into_iter().for_each(Ask::serve);
    m.run(1 << 10);
    assert_eq!((planned(&m), m.counter("code-counted")), (1, 1));
    m.set(8, FEW);
    for _ in 0..100_000 {
        m.run(1 << 10);
        if planned(&m) == 0 {
            break;
        }
    }
    assert_eq!((planned(&m), m.counter("code-counted")), (0, 1));
    m.set(8, MANY);
    for _ in 0..200 {
        m.run(1 << 14);
    }
    assert!(planner.waiting().is_empty());
}
