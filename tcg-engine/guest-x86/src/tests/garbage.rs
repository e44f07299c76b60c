//! Random bytes as code on both tiers, in every mode: the same faults in the same order, and the same state at each of them.
//!
//! The idea: every vector leads to a HLT of its own, so each fault comes back to the test, which compares all that there is, what
//! the fault has pushed included, and sends both machines on from somewhere else. Flags that the architecture leaves undefined
//! are different by design, and may lead anywhere: where an instruction that has such flags was lifted a difference is not
//! counted, and one machine takes the other one's state over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use emit_x64::Placed;
use iced_x86::{Decoder, DecoderOptions};
use ir::Block;

use super::harness::*;
use super::random::{Random, prepare, sixteen};
use crate::runner::Watch;
use crate::state::{Seg, cr4};
use crate::{Runner, Why, X86Core};

/// Faults of a program.
const FAULTS: u32 = 60;
/// What the interpreter may run from one fault to the next, in blocks.
const LIMIT: u32 = 2_000;
/// The part of RAM that is compared at each fault: tables, stacks, code and data. The rest is when the program ends.
const NEAR: u64 = 0x8_0000;

/// Whether something was lifted that leaves flags undefined.
#[derive(Debug)]
struct Undefined(Arc<AtomicBool>);

impl Watch for Undefined {
    fn lifted(&mut self, _: &Block, _: u64, bytes: &[u8], bits: u32) {
        let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
        while decoder.can_decode() {
            if decoder.decode().rflags_undefined() != 0 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    fn stub(&mut self, _: &str, _: u64, _: usize) {}
    fn placed(&mut self, _: &Placed, _: u64, _: &[u8]) {}
}

/// What came of some programs.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    /// Ends that were the same, and of these faults.
    same: u32,
    faults: u32,
    /// That were different behind instructions with undefined flags.
    undefined: u32,
    /// Programs that went on for too long.
    long: u32,
}

/// Run until it halts or shuts down, in portions of so many blocks; `None` if that takes too long.
fn end(m: &mut Runner<TestBus>, limit: u32, portion: u32) -> Option<Why> {
    for _ in 0..limit.div_ceil(portion) {
        if let why @ (Why::Halt | Why::Shutdown) = m.run(portion) {
            return Some(why);
        }
    }
    None
}

fn core(m: &mut Runner<TestBus>) -> X86Core {
    m.cpu.save_state(&m.regs.0)
}

fn bytes(m: &Runner<TestBus>, len: u64) -> Vec<u8> {
    let mut all = vec![0; len as usize];
    m.cpu.mem.ram.read(0, &mut all).unwrap();
    all
}

fn differences(a: &mut Runner<TestBus>, b: &mut Runner<TestBus>, len: u64) -> Vec<String> {
    let mut list = vec![];
    let mut differ = |what: &str, x: String, y: String| {
        if x != y {
            list.push(format!("{what}: T0 {x}, T1 {y}"));
        }
    };
    let (x, y) = (core(a), core(b));
    if x != y {
        differ("state", format!("{x:x?}"), format!("{y:x?}"));
    }
    let (x, y) = (&a.cpu.bus, &b.cpu.bus);
    differ("ports", format!("{:x?}", x.io), format!("{:x?}", y.io));
    differ("devices", format!("{:x?}, {}", x.mmio, x.mmio_reads), format!("{:x?}, {}", y.mmio, y.mmio_reads));
    differ("clock", x.tsc.to_string(), y.tsc.to_string());
    differ("instructions", a.instructions.to_string(), b.instructions.to_string());
    let (x, y) = (bytes(a, len), bytes(b, len));
    if x != y
        && let Some(at) = (0..x.len()).find(|n| x[*n] != y[*n])
    {
        differ(&format!("RAM at {at:#x}"), format!("{:02x?}", &x[at..at + 16]), format!("{:02x?}", &y[at..at + 16]));
    }
    list
}

/// Have `to` go on from all of `from`'s state.
fn take_over(to: &mut Runner<TestBus>, from: &mut Runner<TestBus>) {
    to.poke(0, &bytes(from, RAM));
    to.forget_code();
    to.cpu.load_state(&mut to.regs.0, &core(from)).unwrap();
    let (own, other) = (&mut to.cpu.bus, &from.cpu.bus);
    (own.io, own.mmio) = (other.io.clone(), other.mmio.clone());
    (own.mmio_reads, own.tsc, own.cr8) = (other.mmio_reads, other.tsc, other.cr8);
    own.x2apic.clone_from(&other.x2apic);
    to.instructions = from.instructions;
}

/// Whether it has halted in the handler of a vector.
fn in_handler(m: &Runner<TestBus>) -> bool {
    m.cpu.linear_pc(&m.regs.0).wrapping_sub(0x6_0000) < 0x1000
}

/// Have both go on somewhere else, with the registers of now and the mode of the beginning.
fn restart(t0: &mut Runner<TestBus>, t1: &mut Runner<TestBus>, begin: &X86Core, r: &mut Random) {
    let mut gpr = core(t0).gpr;
    gpr[4] = begin.gpr[4];
    let next = X86Core { gpr, rip: CODE + r.below(0x1000), ..begin.clone() };
    for m in [t0, t1] {
        m.cpu.load_state(&mut m.regs.0, &next).unwrap();
    }
}

/// One program on a machine of each tier.
fn program(make: fn(&mut Random) -> Runner<TestBus>, seed: u64, came: &mut Came) -> Result<(), String> {
    let machine = || {
        let mut r = Random(seed);
        let mut m = make(&mut r);
        prepare(&mut m, &mut r);
        (m, r)
    };
    let (mut t0, mut r) = machine();
    let mut t1 = machine().0;
    t0.t1 = None;
    // Every second program is hot from the beginning.
    t1.t1.as_mut().unwrap().set_hot(u8::from(r.below(2) == 0));
    let portion = if r.below(2) == 0 { 1 + r.below(6) as u32 } else { LIMIT };
    let undefined = Arc::new(AtomicBool::new(false));
    t0.watch(Box::new(Undefined(Arc::clone(&undefined))));
    let begin = core(&mut t0);
    for _ in 0..FAULTS {
        // Whatever runs is lifted anew, so that it is seen.
        t0.forget_code();
        undefined.store(false, Ordering::Relaxed);
        let at = t0.pc();
        let Some(why) = end(&mut t0, LIMIT, LIMIT) else {
            came.long += 1;
            take_over(&mut t1, &mut t0);
            restart(&mut t0, &mut t1, &begin, &mut r);
            continue;
        };
        // What is interpreted counts for more there.
        let found = end(&mut t1, 64 * LIMIT, portion);
        let mut list = differences(&mut t0, &mut t1, NEAR);
        if found != Some(why) {
            list.insert(0, format!("the end: T0 {why:?}, T1 {found:?}"));
        }
        if list.is_empty() {
            came.same += 1;
            came.faults += u32::from(why == Why::Halt && in_handler(&t0));
        } else if undefined.load(Ordering::Relaxed) {
            came.undefined += 1;
            take_over(&mut t1, &mut t0);
        } else {
            return Err(format!("seed {seed}, from {at:#x}:\n{}", list.join("\n")));
        }
        if why == Why::Shutdown {
            break;
        }
        restart(&mut t0, &mut t1, &begin, &mut r);
    }
    let list = differences(&mut t0, &mut t1, RAM);
    if list.is_empty() { Ok(()) } else { Err(format!("seed {seed}, at the end:\n{}", list.join("\n"))) }
}

/// Programs of each mode; more of them with `ATOLL_LONG=1`, and the one of `ATOLL_SEED` alone.
fn compare(what: &str, make: fn(&mut Random) -> Runner<TestBus>) {
    if let Some(seed) = std::env::var("ATOLL_SEED").ok().and_then(|text| text.parse().ok()) {
        return program(make, seed, &mut Came::default()).unwrap_or_else(|text| panic!("{what}: {text}"));
    }
    let programs = if std::env::var_os("ATOLL_LONG").is_some() { 1000 } else { 16 };
    let mut came = Came::default();
    for n in 0..programs {
        let seed = (n + 1) * 0x9e37_79b9;
        if let Err(text) = program(make, seed, &mut came) {
            panic!("{what}: {text}");
        }
    }
    println!("{what}: {came:?}");
    assert!(came.same > 10 * programs as u32 && came.faults > came.same / 2 && came.undefined < came.same / 4);
}

#[test]
fn garbage_does_the_same_in_long_mode() {
    compare("the kernel's 64-bit code", |_| long());
    compare("a program's 64-bit code", |r| {
        let mut m = long_v3();
        m.cpu.sys.cr4 |= r.next() & (cr4::SMEP | cr4::SMAP | cr4::FSGSBASE);
        user(&mut m);
        m
    });
    compare("a program's 32-bit code", |_| {
        let mut m = long();
        user(&mut m);
        m.cpu.sys.seg[Seg::Cs as usize] = flat(0x2b, 0xb, false);
        m.cpu.refresh(&mut m.regs.0);
        m
    });
}

#[test]
fn garbage_does_the_same_in_protected_mode() {
    compare("the kernel's 32-bit code", |_| protected());
    compare("a program's 32-bit code", |_| {
        let mut m = protected();
        user(&mut m);
        m
    });
}

#[test]
fn garbage_does_the_same_in_16_bit_code() {
    compare("16-bit protected mode", |r| sixteen(protected(), r));
    compare("real mode", |r| {
        let m = machine();
        for v in 0..256 {
            m.poke(0x6_0000 + 16 * v, &[0xf4]);
            m.poke(4 * v, &[(16 * v) as u8, (v >> 4) as u8, 0, 0x60]);
        }
        sixteen(m, r)
    });
}
