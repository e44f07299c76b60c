//! s390x: every listed encoding, many random states, equal to `qemu-s390x`: registers, condition code, memory and faults.
//!
//! qemu is the oracle where it follows the Principles of Operation. Where it does not, [`quirks`] says what is not compared
//! and which section decides. What user mode cannot run, or runs wrongly, is in [`system`].
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

mod encodings;
mod quirks;
mod system;

use std::ops::Range;

use encodings::ENCODINGS;
use fitness::bench::{ALIGNMENT, Bench, FAULT};
use fitness::gdb::{Gdb, Stepped, hex, unhex};
use fitness::{CODE, DATA, DATA_LEN, program, qemu, states};
use guest_s390x::{Addressing, Executed, FP_CONTROL, Mode, PSW, ar, event, execute, f, lift, mode, program as code, r};
use ir::flags::{Kind, kind_word, materialise};
use ir::op::{FLAG_KIND, FLAG_R, PC};
use ir::{Block, Regs, Stop, t0, verify};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bytes of code that each encoding has: the stub cannot write to code that has been translated.
const SLOT: usize = 64;
/// Where relative storage operands ("data" in the text) are.
const RELATIVE: u64 = DATA + 0x800;
/// Bytes of data that a state sets and that are compared.
const WINDOW: usize = 1024;
/// Floating-point registers that a state sets and compares.
const FLOATS: [u32; 3] = [0, 2, 4];
/// Access registers that a state sets and compares.
const ACCESS: [u32; 2] = [2, 3];

struct State {
    r: [u64; 16],
    psw: u64,
    cc: u64,
    f: [u64; FLOATS.len()],
    ar: [u32; ACCESS.len()],
    window: Range<usize>,
    data: Vec<u8>,
}

fn integer(rng: &mut SmallRng) -> u64 {
    match rng.random_range(0..7) {
        0 => rng.random_range(0..4),
        1 => u64::MAX - rng.random_range(0..4),
        2 => 1u64 << rng.random_range(0..64),
        3 => (1u64 << rng.random_range(0..64)) - 1,
        4 => rng.random::<u64>() >> rng.random_range(0..64),
        // Both halves special, for 32-bit operations.
        5 => [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff][rng.random_range(0..5)] | rng.random::<u64>() << 32,
        _ => rng.random(),
    }
}

fn float(rng: &mut SmallRng) -> u64 {
    const LONG: [u64; 14] = [
        0,
        1 << 63,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_1234,
        0xfff4_0000_0000_0001,
        0x3ff0_0000_0000_0000,
        1,
        0x000f_ffff_ffff_ffff,
        0x7fef_ffff_ffff_ffff,
        0x43e0_0000_0000_0000,
        0x4034_8000_0000_0000,
        0x0010_0000_0000_0000,
        0xbfe0_0000_0000_0000,
    ];
    const SHORT: [u32; 12] = [
        0,
        1 << 31,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0042,
        0xffa0_0001,
        0x3f80_0000,
        1,
        0x7f_ffff,
        0x7f7f_ffff,
        0x4b00_0001,
        0xbf00_0000,
    ];
    match rng.random_range(0..7) {
        0 => LONG[rng.random_range(0..LONG.len())],
        1 => u64::from(SHORT[rng.random_range(0..SHORT.len())]) << 32 | u64::from(rng.random::<u32>()),
        2 => f64::to_bits(rng.random_range(-1e3..1e3)),
        3 => u64::from(f32::to_bits(rng.random_range(-1e3..1e3))) << 32,
        4 => f64::to_bits(f64::from(rng.random_range(-100..100)) / 4.0),
        5 => u64::from(f32::to_bits(rng.random_range(-400..400) as f32 / 8.0)) << 32,
        _ => rng.random(),
    }
}

/// A valid FPC. Of the traps only those that suppress: qemu does not write the result of the others ("IEEE-Exception
/// Conditions", completion).
fn fpc(rng: &mut SmallRng) -> u64 {
    let masks = if rng.random_range(0..4) == 0 { rng.random_range(0..4) << 30 } else { 0 };
    let flags = rng.random_range(0..32) << 19;
    let dxc = rng.random_range(0..256) << 8;
    masks | flags | dxc | rng.random_range(0..8) << 4 | [0, 1, 2, 3, 7][rng.random_range(0..5)]
}

fn addressing(rng: &mut SmallRng) -> Addressing {
    match rng.random_range(0..5) {
        0 => Addressing::A24,
        1 => Addressing::A31,
        _ => Addressing::A64,
    }
}

/// An address with what its mode ignores made random.
fn dirty(rng: &mut SmallRng, address: u64, a: Addressing) -> u64 {
    address & a.mask() | rng.random::<u64>() & !a.mask()
}

fn random(rng: &mut SmallRng, text: &str) -> State {
    let a = addressing(rng);
    let mut s = State {
        r: [0; 16],
        // Program mask: all but fixed-point overflow, which qemu does not implement ("Fixed-Point-Overflow Exception"); see
        // `system`.
        psw: a.psw() | rng.random_range(0..8) << mode::PROGRAM_MASK_SHIFT,
        cc: rng.random_range(0..4),
        f: [0; FLOATS.len()].map(|_: u64| float(rng)),
        ar: [0; ACCESS.len()].map(|_: u32| rng.random()),
        window: 0..0,
        data: vec![0; DATA_LEN as usize],
    };
    for x in &mut s.r {
        *x = integer(rng);
    }
    // The base: at ends and page boundaries often enough.
    let (start, base) = match rng.random_range(0..8) {
        0 => (DATA_LEN as usize - WINDOW, DATA + DATA_LEN - rng.random_range(1..280)),
        1 => (0, DATA - rng.random_range(0..8)),
        2 => (0x1000 - WINDOW / 2, DATA + 0x1000 - rng.random_range(0..264)),
        n => {
            let start = rng.random_range(0..DATA_LEN as usize - WINDOW);
            let at = DATA + start as u64 + rng.random_range(100..500);
            (start, if n < 7 { at & !15 } else { at })
        }
    };
    let start = if text.contains("data") { (RELATIVE - DATA) as usize - 0x100 } else { start };
    s.window = start..start + WINDOW;
    let second = match rng.random_range(0..4) {
        0 => base.wrapping_add(rng.random_range(0..64)).wrapping_sub(32),
        1 => base,
        _ => DATA + start as u64 + rng.random_range(100..600),
    };
    // Of MVCIN an overlap by more than one byte is unpredictable.
    let second = if text.starts_with("mvcin") && second.abs_diff(base) < 100 { base + 100 } else { second };
    s.r[5] = dirty(rng, base, a);
    s.r[7] = dirty(rng, second, a);
    let index = rng.random_range(0..64);
    s.r[6] = dirty(rng, index, a);
    s.r[8] = fpc(rng);
    let target = CODE + 2 * rng.random_range(0..0x7000);
    s.r[9] = dirty(rng, target, a);
    for word in s.data[s.window.clone()].chunks_mut(8) {
        let v = if rng.random() { integer(rng) } else { float(rng) };
        word.copy_from_slice(&v.to_be_bytes());
    }
    if text.starts_with("mvcl") {
        long_move(rng, &mut s, a, base, second, text.starts_with("mvcle"));
    }
    s
}

/// Operands of a long move: two ranges of the window, or one that leaves memory.
fn long_move(rng: &mut SmallRng, s: &mut State, a: Addressing, dst: u64, src: u64, extended: bool) {
    let start = DATA + s.window.start as u64;
    let inside = |at: u64| at.clamp(start, start + WINDOW as u64 - 400);
    let (mut dst, mut src) = if dst + 300 > DATA + DATA_LEN { (dst, inside(src)) } else { (inside(dst), inside(src)) };
    let (dst_len, src_len) = (rng.random_range(0..300u64), rng.random_range(0..300u64));
    if extended && src < dst && dst < src + 300 {
        // A destructive overlap: the result is unpredictable ("MOVE LONG EXTENDED").
        std::mem::swap(&mut dst, &mut src);
    }
    s.r[10] = dirty(rng, dst, a);
    s.r[12] = dirty(rng, src, a);
    let bits = if !extended { 24 } else { if a == Addressing::A64 { 64 } else { 32 } };
    let with = |rng: &mut SmallRng, len: u64| if bits == 64 { len } else { len | rng.random::<u64>() << bits };
    s.r[11] = with(rng, dst_len);
    s.r[13] = with(rng, src_len);
}

/// What both sides end with.
#[derive(PartialEq, Debug)]
struct End {
    fault: Option<&'static str>,
    r: Vec<u64>,
    psw: u64,
    pc: u64,
    f: Vec<u64>,
    fpc: u64,
    ar: Vec<u64>,
    data: Vec<u8>,
}

fn helper(bench: &mut Bench, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Option<Result<u64, Stop>> {
    if id == guest_s390x::helper_id::SET_ACCESS {
        bench.access[imm as usize & 15] = a as u32;
    }
    guest_s390x::call(bench, regs, id, a, b, imm)
}

/// A register file with `s` in it.
fn registers(pc: u64, s: &State) -> Regs {
    let mut g = Regs::default();
    for (n, v) in s.r.iter().enumerate() {
        g.set(r(n as u32), *v);
    }
    for (n, v) in FLOATS.iter().zip(s.f) {
        g.set(f(*n), v);
    }
    for (n, v) in ACCESS.iter().zip(s.ar) {
        g.set(ar(*n), u64::from(v));
    }
    g.set(PSW, s.psw);
    g.set(FLAG_KIND, kind_word(Kind::S390Explicit, 64));
    g.set(FLAG_R, s.cc);
    g.set(PC, pc);
    g
}

/// Lift what stands at the program counter, as a block cache would.
fn fetch(bench: &Bench, g: &Regs) -> Block {
    let at = (g.get(PC) - CODE) as usize;
    let block = lift(&bench.code[at..at + 6], g.get(PC), Mode::of(g.get(PSW))).unwrap_or_else(|e| panic!("{e}"));
    verify::verify(&block).unwrap_or_else(|e| panic!("{e}\n{block}"));
    block
}

/// Run one block, and the target if it is an EXECUTE. The instruction's length.
fn run_one(bench: &mut Bench, g: &mut Regs) -> (t0::Exit, u64) {
    let block = fetch(bench, g);
    let outcome = t0::run(&block, g, bench);
    let len = u64::from(block.points[0].len);
    if outcome.exit != t0::Exit::Event(event::EXECUTE) {
        return (outcome.exit, len);
    }
    match execute(g, bench).unwrap_or_else(|e| panic!("{e}")) {
        Executed::Fault => (t0::Exit::Fault, len),
        Executed::Block(block) => {
            verify::verify(&block).unwrap_or_else(|e| panic!("{e}\n{block}"));
            (t0::run(&block, g, bench).exit, len)
        }
    }
}

/// The kind of a program interruption as a signal, and whether the PSW then points behind the instruction.
fn signal(raised: Option<(u8, u64)>) -> (&'static str, bool) {
    match raised {
        Some((FAULT, _)) => ("segment", false),
        Some((ALIGNMENT | code::SPECIFICATION | code::EXECUTE, _)) => ("illegal", true),
        Some((code::DATA | code::FIXED_DIVIDE, _)) => ("arithmetic", true),
        other => panic!("raises {other:x?}"),
    }
}

fn ours(pc: u64, program: &[u8], plan: &Plan, s: &State) -> End {
    let mut bench = Bench::new(helper);
    bench.data.copy_from_slice(&s.data);
    bench.code[..program.len()].copy_from_slice(program);
    let mut g = registers(pc, s);
    let mut fault = None;
    let mut steps = 0;
    loop {
        let before = g.clone();
        let (exit, len) = run_one(&mut bench, &mut g);
        if exit == t0::Exit::Fault {
            let (kind, after) = signal(bench.raised);
            fault = Some(kind);
            assert_unchanged(&before, &g);
            if let Some((code::DATA, dxc)) = bench.raised {
                // The interruption stores the data-exception code in the FPC ("Data-Exception Code").
                let fpc = g.get(FP_CONTROL) & !0xff00 | dxc << 8;
                g.set(FP_CONTROL, fpc);
            }
            if after {
                let pc = (g.get(PC) + len) & Mode::of(g.get(PSW)).addressing.mask();
                g.set(PC, pc);
            }
            break;
        }
        steps += 1;
        if if plan.to_end { g.get(PC) == pc + plan.len } else { steps == plan.steps } {
            break;
        }
        assert!(steps < 1000, "does not come to an end");
    }
    if fault.is_some() && !plan.to_end {
        assert!(bench.data == s.data, "a fault leaves storage changed");
    }
    End {
        fault,
        r: (0..16).map(|n| g.get(r(n))).collect(),
        psw: g.get(PSW) | materialise(&g) << mode::CC_SHIFT,
        pc: g.get(PC),
        f: FLOATS.iter().map(|n| g.get(f(*n))).collect(),
        fpc: if plan.floats { g.get(FP_CONTROL) } else { 0 },
        ar: ACCESS.iter().map(|n| g.get(ar(*n))).collect(),
        data: bench.data[s.window.clone()].to_vec(),
    }
}

/// An instruction that faults has not happened: nothing of the guest's state differs.
fn assert_unchanged(before: &Regs, after: &Regs) {
    let state = |g: &Regs| -> Vec<u64> {
        (0..16)
            .flat_map(|n| [g.get(r(n)), g.get(f(n)), g.get(ar(n))])
            .chain([g.get(PSW), g.get(PC), g.get(FP_CONTROL), materialise(g)])
            .collect()
    };
    assert_eq!(state(before), state(after), "a fault leaves registers changed");
}

/// How a sequence is run.
struct Plan {
    /// Instructions, if it does not run to its end in a loop.
    steps: usize,
    /// Run until the program counter is behind it.
    to_end: bool,
    /// Bytes.
    len: u64,
    /// It uses floating-point registers; its first instruction sets the FPC.
    floats: bool,
    /// It uses access registers.
    access: bool,
    /// The last instruction is an EXECUTE.
    executes: bool,
    /// Where the last instruction begins.
    last: u64,
}

impl Plan {
    fn of(text: &str, bytes: &[u8]) -> Plan {
        let (mut at, mut last, mut steps) = (0, 0, 0);
        while at < bytes.len() {
            last = at;
            at += guest_s390x::length(bytes[at]);
            steps += 1;
        }
        Plan {
            steps,
            to_end: text.starts_with("mvcl") && !text.contains("r11,") && !text.contains("r13,"),
            len: bytes.len() as u64,
            floats: text.starts_with("sfpc"),
            access: ["ear", "sar", "cpya"].iter().any(|n| text.starts_with(n)),
            executes: text.contains("ex r") || text.contains("exrl r"),
            last: last as u64,
        }
    }
}

const ACCESS0: u32 = 18;
const FPC: u32 = 34;
const F0: u32 = 35;

fn theirs(gdb: &mut Gdb, pc: u64, plan: &Plan, s: &State) -> Result<End, String> {
    let general: Vec<u8> =
        [s.psw | s.cc << mode::CC_SHIFT, pc].iter().chain(&s.r).flat_map(|v| v.to_be_bytes()).collect();
    let (at, len) = (DATA + s.window.start as u64, s.window.len());
    let mut packets =
        vec![format!("M{at:x},{len:x}:{}", hex(&s.data[s.window.clone()])), format!("G{}", hex(&general))];
    let mut ask = vec!["g".to_owned(), format!("m{at:x},{len:x}")];
    if plan.floats {
        for (n, v) in FLOATS.iter().zip(s.f) {
            packets.push(format!("P{:x}={}", F0 + n, hex(&v.to_be_bytes())));
            ask.push(format!("p{:x}", F0 + n));
        }
        ask.push(format!("p{FPC:x}"));
    }
    if plan.access {
        for (n, v) in ACCESS.iter().zip(s.ar) {
            packets.push(format!("P{:x}={}", ACCESS0 + n, hex(&v.to_be_bytes())));
            ask.push(format!("p{:x}", ACCESS0 + n));
        }
    }
    gdb.set(&packets).unwrap();
    let mut stepped = Stepped::Done;
    if plan.to_end {
        stepped = gdb.run_to(pc + plan.len).unwrap();
    } else {
        for _ in 0..plan.steps {
            stepped = gdb.step().unwrap();
            if stepped != Stepped::Done {
                break;
            }
        }
        // qemu translates the target of an EXECUTE as a block of its own, before which a step may end.
        if plan.executes && stepped == Stepped::Done && gdb.pc().unwrap() == pc + plan.last {
            stepped = gdb.step().unwrap();
        }
    }
    let fault = match stepped {
        Stepped::Done => None,
        Stepped::Signal(11) => Some("segment"),
        Stepped::Signal(4) => Some("illegal"),
        Stepped::Signal(8) => Some("arithmetic"),
        other => return Err(format!("qemu stops with {other:?}")),
    };
    let replies: Vec<Vec<u8>> = gdb.batch(&ask).unwrap().iter().map(|t| unhex(t).unwrap()).collect();
    let word = |n: usize| u64::from_be_bytes(replies[0][8 * n..8 * n + 8].try_into().unwrap());
    let number = |b: &[u8]| b.iter().fold(0, |v, b| v << 8 | u64::from(*b));
    let (mut f, mut fpc, mut ar) = (s.f.to_vec(), 0, s.ar.map(u64::from).to_vec());
    if plan.floats {
        f = replies[2..2 + FLOATS.len()].iter().map(|b| number(b)).collect();
        fpc = number(&replies[2 + FLOATS.len()]);
    }
    if plan.access {
        ar = replies[2..].iter().map(|b| number(b)).collect();
    }
    let psw = word(0);
    Ok(End {
        fault,
        r: (2..18).map(word).collect(),
        psw,
        // qemu keeps the bits of a branch address that the mode ignores until it fetches from there; the PSW does not have
        // them ("Address Generation", branch addresses).
        pc: word(1) & Mode::of(psw).addressing.mask(),
        f,
        fpc,
        ar,
        data: replies[1].clone(),
    })
}

/// The code of all encodings, each in its slot.
fn assemble() -> Vec<(&'static str, Plan, Vec<u8>)> {
    ENCODINGS
        .iter()
        .enumerate()
        .map(|(n, (text, bytes, target))| {
            let mut bytes = unhex(bytes).unwrap();
            let plan = Plan::of(text, &bytes);
            if let Some((_, offset)) = text.split_once(",data") {
                let offset: u64 = offset.parse().unwrap_or(0);
                let halfwords = (RELATIVE + offset - CODE - (SLOT * n) as u64) / 2;
                bytes[2..6].copy_from_slice(&(halfwords as u32).to_be_bytes());
            }
            bytes.resize(SLOT, 0);
            let target = unhex(target).unwrap();
            bytes[32..32 + target.len()].copy_from_slice(&target);
            (*text, plan, bytes)
        })
        .collect()
}

#[test]
fn lifted_encodings_equal_qemu() {
    let Some(qemu) = qemu("s390x") else { return };
    let encodings = assemble();
    let program: Vec<u8> = encodings.iter().flat_map(|(_, _, bytes)| bytes.iter().copied()).collect();
    let elf = program::elf(22, true, &program);
    let mut gdb = Gdb::start(&qemu, &elf, "max").unwrap();
    let (mut cases, mut faults, mut wrong) = (0, 0, vec![]);
    let only = std::env::var("ATOLL_ONLY").unwrap_or_default();
    for (n, (text, plan, _)) in encodings.iter().enumerate().filter(|(_, e)| e.0.contains(&only)) {
        let pc = CODE + (SLOT * n) as u64;
        let mut rng = SmallRng::seed_from_u64(n as u64);
        for _ in 0..states() {
            let s = random(&mut rng, text);
            let a = ours(pc, &program, plan, &s);
            cases += 1;
            let mut b = match theirs(&mut gdb, pc, plan, &s) {
                Ok(b) => b,
                Err(e) => {
                    wrong.push(format!("{text} at {pc:x}: {e}\n{}\nours   {}", describe(&s), show(&a, &a)));
                    gdb = Gdb::start(&qemu, &elf, "max").unwrap();
                    break;
                }
            };
            faults += usize::from(b.fault.is_some());
            quirks::forgive(text, &s, plan, &a, &mut b);
            if a != b {
                wrong.push(format!(
                    "{text} at {pc:x}\n{}\nours   {}\ntheirs {}",
                    describe(&s),
                    show(&a, &b),
                    show(&b, &a)
                ));
                break;
            }
        }
    }
    println!("s390x: {} encodings, {cases} cases, {faults} of them fault, {} differ", ENCODINGS.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(faults > 0, "no case faulted: precise exceptions are not tested");
}

fn describe(s: &State) -> String {
    format!("r {:x?} psw {:x} cc {} f {:x?} window {:x?}", s.r, s.psw, s.cc, s.f, s.window)
}

/// The parts of `a` that differ from `b`.
fn show(a: &End, b: &End) -> String {
    let mut out = format!("fault {:?} pc {:x} psw {:x} fpc {:x}", a.fault, a.pc, a.psw, a.fpc);
    for n in (0..16).filter(|n| a.r[*n] != b.r[*n]) {
        out += &format!(" r{n} {:x}", a.r[n]);
    }
    for n in (0..FLOATS.len()).filter(|n| a.f[*n] != b.f[*n]) {
        out += &format!(" f{} {:x}", FLOATS[n], a.f[n]);
    }
    for n in (0..ACCESS.len()).filter(|n| a.ar[*n] != b.ar[*n]) {
        out += &format!(" a{} {:x}", ACCESS[n], a.ar[n]);
    }
    for (n, (x, y)) in a.data.iter().zip(&b.data).enumerate().filter(|(_, (x, y))| x != y).take(4) {
        out += &format!(" data+{n:x} {x:02x} not {y:02x}");
    }
    out
}
