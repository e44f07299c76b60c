//! aarch64: every listed encoding, many random states, equal to `qemu-aarch64`: registers, flags, memory and faults.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use fitness::bench::{ALIGNMENT, Bench, FAULT};
use fitness::gdb::{Gdb, Stepped, hex, unhex};
use fitness::{CODE, DATA, DATA_LEN, program, qemu, states};
use guest_a64::{FP_CONTROL, v, x};
use ir::flags::{Kind, kind_word, materialise};
use ir::op::{FLAG_KIND, FLAG_R, PC};
use ir::{Regs, t0, verify};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Name, instruction words (run one after the other).
const ENCODINGS: &[(&str, &[u32])] = &[
    ("add x0, x1, #0x123", &[0x91048c20]),
    ("add w0, w1, #1, lsl 12", &[0x11400420]),
    ("adds x0, x1, #0xfff", &[0xb13ffc20]),
    ("subs w0, w1, #7", &[0x71001c20]),
    ("sub sp, sp, #16", &[0xd10043ff]),
    ("add x0, x1, x2, lsl 3", &[0x8b020c20]),
    ("adds w0, w1, w2, asr 5", &[0x2b821420]),
    ("subs x0, x1, x2, lsr 9", &[0xeb422420]),
    ("neg x0, x2", &[0xcb0203e0]),
    ("cmp x1, x2", &[0xeb02003f]),
    ("add x0, x1, w2, sxtw 2", &[0x8b22c820]),
    ("subs x0, x1, w2, uxtb", &[0xeb220020]),
    ("adc x0, x1, x2", &[0x9a020020]),
    ("adcs w0, w1, w2", &[0x3a020020]),
    ("sbc w0, w1, w2", &[0x5a020020]),
    ("sbcs x0, x1, x2", &[0xfa020020]),
    ("and x0, x1, #0xff00ff00ff00ff", &[0x92009c20]),
    ("ands w0, w1, #0x7", &[0x72000820]),
    ("orr x0, x1, x2, ror 13", &[0xaac23420]),
    ("eor w0, w1, w2, lsl 4", &[0x4a021020]),
    ("bic x0, x1, x2", &[0x8a220020]),
    ("bics w0, w1, w2", &[0x6a220020]),
    ("orn x0, x1, x2, asr 7", &[0xaaa21c20]),
    ("movz x0, #0x1234, lsl 32", &[0xd2c24680]),
    ("movn w0, #0x55", &[0x12800aa0]),
    ("movk x0, #0xbeef, lsl 16", &[0xf2b7dde0]),
    ("csel x0, x1, x2, lt", &[0x9a82b020]),
    ("csinc w0, w1, w2, hi", &[0x1a828420]),
    ("csinv x0, x1, x2, vs", &[0xda826020]),
    ("csneg w0, w1, w2, le", &[0x5a82d420]),
    ("ccmp x1, x2, #5, ge", &[0xfa42a025]),
    ("ccmn w1, #9, #10, cs", &[0x3a49282a]),
    ("ubfx x0, x1, #7, #20", &[0xd3476820]),
    ("sbfiz w0, w1, #5, #9", &[0x131b2020]),
    ("bfi x0, x1, #12, #30", &[0xb3747420]),
    ("bfxil w0, w1, #3, #8", &[0x33032820]),
    ("sxtw x0, w1", &[0x93407c20]),
    ("asr x0, x1, #17", &[0x9351fc20]),
    ("extr x0, x1, x2, #23", &[0x93c25c20]),
    ("extr w0, w1, w2, #9", &[0x13822420]),
    ("madd x0, x1, x2, x3", &[0x9b020c20]),
    ("msub w0, w1, w2, w3", &[0x1b028c20]),
    ("smaddl x0, w1, w2, x3", &[0x9b220c20]),
    ("umsubl x0, w1, w2, x3", &[0x9ba28c20]),
    ("smulh x0, x1, x2", &[0x9b427c20]),
    ("umulh x0, x1, x2", &[0x9bc27c20]),
    ("udiv x0, x1, x2", &[0x9ac20820]),
    ("sdiv w0, w1, w2", &[0x1ac20c20]),
    ("lslv x0, x1, x2", &[0x9ac22020]),
    ("rorv w0, w1, w2", &[0x1ac22c20]),
    ("asrv w0, w1, w2", &[0x1ac22820]),
    ("clz x0, x1", &[0xdac01020]),
    ("cls w0, w1", &[0x5ac01420]),
    ("rbit x0, x1", &[0xdac00020]),
    ("rev x0, x1", &[0xdac00c20]),
    ("rev32 x0, x1", &[0xdac00820]),
    ("rev16 w0, w1", &[0x5ac00420]),
    ("mrs x0, nzcv", &[0xd53b4200]),
    ("msr nzcv, x1", &[0xd51b4201]),
    ("b.gt +8", &[0x5400004c]),
    ("cbnz w1, +8", &[0x35000041]),
    ("tbz x1, #37, +8", &[0xb6280041]),
    ("bl +16", &[0x94000004]),
    ("adr x0, +100", &[0x10000320]),
    ("adrp x0, +1 page", &[0xb0000000]),
    ("ldr x0, [x5, #8]", &[0xf94004a0]),
    ("ldrb w0, [x5]", &[0x394000a0]),
    ("ldrsh x0, [x5, #2]", &[0x798004a0]),
    ("ldrsw x0, [x5], #4", &[0xb88044a0]),
    ("ldrsb w0, [x5, #-1]!", &[0x38dffca0]),
    ("ldr w0, [x5, w6, uxtw 2]", &[0xb86658a0]),
    ("ldr q0, [x5]", &[0x3dc000a0]),
    ("str x1, [x5], #-8", &[0xf81f84a1]),
    ("strh w1, [x5, #6]", &[0x79000ca1]),
    ("str d1, [x5]", &[0xfd0000a1]),
    ("ldp x0, x1, [x5], #16", &[0xa8c104a0]),
    ("ldp w0, w1, [x5, #8]", &[0x294104a0]),
    ("ldpsw x0, x1, [x5]", &[0x694004a0]),
    ("stp x1, x2, [x5, #-16]!", &[0xa9bf08a1]),
    ("ldp q0, q1, [x5]", &[0xad4004a0]),
    ("ldar x0, [x5]", &[0xc8dffca0]),
    ("stlr w1, [x5]", &[0x889ffca1]),
    ("ldxr x0, [x5]; stxr w3, x1, [x5]", &[0xc85f7ca0, 0xc8037ca1]),
    ("ldaxrb w0, [x5]; stlxrb w3, w1, [x5]", &[0x085ffca0, 0x0803fca1]),
    ("ldxr w0, [x5]; clrex; stxr w3, w1, [x5]", &[0x885f7ca0, 0xd5033f5f, 0x88037ca1]),
    ("cas x0, x1, [x5]", &[0xc8a07ca1]),
    ("ldadd x1, x0, [x5]", &[0xf82100a0]),
    ("ldsmax w1, w0, [x5]", &[0xb82140a0]),
    ("ldclralh w1, w0, [x5]", &[0x78e110a0]),
    ("swp x1, x0, [x5]", &[0xf82180a0]),
    ("fadd d0, d1, d2", &[0x1e622820]),
    ("fsub s0, s1, s2", &[0x1e223820]),
    ("fmul d0, d1, d2", &[0x1e620820]),
    ("fnmul s0, s1, s2", &[0x1e228820]),
    ("fdiv d0, d1, d2", &[0x1e621820]),
    ("fsqrt d0, d1", &[0x1e61c020]),
    ("fmadd d0, d1, d2, d3", &[0x1f420c20]),
    ("fmsub s0, s1, s2, s3", &[0x1f028c20]),
    ("fnmadd d0, d1, d2, d3", &[0x1f620c20]),
    ("fnmsub s0, s1, s2, s3", &[0x1f228c20]),
    ("fabs d0, d1", &[0x1e60c020]),
    ("fneg s0, s1", &[0x1e214020]),
    ("fcvt s0, d1", &[0x1e624020]),
    ("fcvt d0, s1", &[0x1e22c020]),
    ("fcmp d1, d2", &[0x1e622020]),
    ("fcmpe s1, #0.0", &[0x1e202038]),
    ("fcvtzs x0, d1", &[0x9e780020]),
    ("fcvtnu w0, s1", &[0x1e210020]),
    ("fcvtas x0, d1", &[0x9e640020]),
    ("scvtf d0, x1", &[0x9e620020]),
    ("ucvtf s0, w1", &[0x1e230020]),
    ("fmov x0, d1", &[0x9e660020]),
];

/// Vector registers that a state sets and compares.
const VECTORS: u32 = 4;

fn float(rng: &mut SmallRng) -> u64 {
    const SPECIAL: [u64; 14] = [
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
    const SPECIAL32: [u32; 10] =
        [0, 1 << 31, 0x7f80_0000, 0x7fc0_0042, 0xffa0_0001, 0x3f80_0000, 1, 0x7f_ffff, 0x7f7f_ffff, 0x4b00_0001];
    match rng.random_range(0..6) {
        0 => SPECIAL[rng.random_range(0..SPECIAL.len())],
        1 => u64::from(SPECIAL32[rng.random_range(0..SPECIAL32.len())]),
        2 => f64::to_bits(rng.random_range(-1e3..1e3)),
        3 => u64::from(f32::to_bits(rng.random_range(-1e3..1e3))),
        _ => rng.random(),
    }
}

fn integer(rng: &mut SmallRng) -> u64 {
    match rng.random_range(0..5) {
        0 => rng.random_range(0..4),
        1 => u64::MAX - rng.random_range(0..4),
        2 => 1u64 << rng.random_range(0..64),
        3 => (1u64 << rng.random_range(0..64)) - 1,
        _ => rng.random(),
    }
}

struct State {
    x: [u64; 32],
    nzcv: u64,
    v: [u128; VECTORS as usize],
    fpcr: u64,
    data: Vec<u8>,
}

fn random(rng: &mut SmallRng) -> State {
    let mut s =
        State { x: [0; 32], nzcv: rng.random_range(0..16) << 28, v: [0; 4], fpcr: 0, data: vec![0; DATA_LEN as usize] };
    for x in &mut s.x {
        *x = integer(rng);
    }
    for v in &mut s.v {
        *v = u128::from(float(rng)) | u128::from(rng.random::<u64>()) << 64;
    }
    // Rounding mode, DN, FZ.
    s.fpcr = rng.random_range(0..4) << 22 | rng.random_range(0..2) << 25 | rng.random_range(0..2) << 24;
    // The base: usually aligned, inside; sometimes odd; sometimes so that the second half of a pair is outside.
    let end = DATA + DATA_LEN;
    s.x[5] = match rng.random_range(0..8) {
        0 => end - rng.random_range(1..24),
        1 => end - 8,
        2 => DATA + 64 + rng.random_range(0..1024),
        3 => DATA + 0x1000 - rng.random_range(0..16),
        _ => DATA + 64 + 16 * rng.random_range(0..64),
    };
    s.x[6] = rng.random_range(0..64);
    s.x[31] = DATA + 0x1800;
    let at = window(&s);
    rng.fill(&mut s.data[at]);
    s
}

fn helper(_: &mut Bench, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Option<Result<u64, ir::Stop>> {
    guest_a64::call(regs, id, a, b, imm).map(Ok)
}

/// The part of the data that an instruction with this state may touch; it is set and compared.
fn window(s: &State) -> std::ops::Range<usize> {
    let at = (s.x[5].saturating_sub(DATA + 64) as usize).min(s.data.len() - 512);
    at..at + 512
}

/// What both sides end with, in a form that prints well.
#[derive(PartialEq, Debug)]
struct End {
    fault: Option<&'static str>,
    x: Vec<u64>,
    pc: u64,
    nzcv: u64,
    v: Vec<u128>,
    fpsr: u64,
    data: Vec<u8>,
}

fn ours(pc: u64, words: &[u32], s: &State) -> End {
    let mut bench = Bench::new(helper);
    bench.data.copy_from_slice(&s.data);
    let mut r = Regs::default();
    for (n, value) in s.x.iter().enumerate() {
        r.set(x(n as u32), *value);
    }
    for (n, value) in s.v.iter().enumerate() {
        r.set128(v(n as u32), *value);
    }
    r.set(FLAG_KIND, kind_word(Kind::A64Explicit, 64));
    r.set(FLAG_R, s.nzcv);
    r.set(FP_CONTROL, s.fpcr);
    r.set(PC, pc);
    let mut fault = None;
    for word in words {
        let block = guest_a64::lift(*word, r.get(PC)).unwrap_or_else(|u| panic!("{u:x?} is not lifted"));
        verify::verify(&block).unwrap_or_else(|e| panic!("{word:#x}: {e}\n{block}"));
        if t0::run(&block, &mut r, &mut bench).exit == t0::Exit::Fault {
            fault = Some(match bench.raised {
                Some((FAULT, _)) => "segment",
                Some((ALIGNMENT, _)) => "bus",
                other => panic!("{word:#x} raises {other:?}"),
            });
            break;
        }
    }
    End {
        fault,
        x: (0..32).map(|n| r.get(x(n))).collect(),
        pc: r.get(PC),
        nzcv: materialise(&r),
        v: (0..VECTORS).map(|n| r.get128(v(n))).collect(),
        fpsr: r.get(FP_CONTROL) >> 32,
        data: bench.data[window(s)].to_vec(),
    }
}

const V0: usize = 34;
const FPSR: usize = 66;
const FPCR: usize = 67;

fn theirs(gdb: &mut Gdb, pc: u64, words: &[u32], vectors: bool, s: &State) -> End {
    let mut g: Vec<u8> = s.x.iter().flat_map(|x| x.to_le_bytes()).collect();
    g.extend(pc.to_le_bytes());
    g.extend((s.nzcv as u32).to_le_bytes());
    let window = window(s);
    let mut packets = vec![
        format!("M{:x},{:x}:{}", DATA + window.start as u64, window.len(), hex(&s.data[window.clone()])),
        format!("G{}", hex(&g)),
    ];
    if vectors {
        packets.push(format!("P{FPSR:x}={}", hex(&[0; 4])));
        packets.push(format!("P{FPCR:x}={}", hex(&(s.fpcr as u32).to_le_bytes())));
        for (n, value) in s.v.iter().enumerate() {
            packets.push(format!("P{:x}={}", V0 + n, hex(&value.to_le_bytes())));
        }
    }
    gdb.set(&packets).unwrap();
    let stepped = if words.len() == 1 { gdb.step() } else { gdb.run_to(pc + 4 * words.len() as u64) };
    let fault = match stepped.unwrap() {
        Stepped::Done => None,
        Stepped::Signal(11) => Some("segment"),
        Stepped::Signal(7 | 10) => Some("bus"),
        other => panic!("qemu: {other:?}"),
    };
    let mut ask = vec!["g".to_owned(), format!("m{:x},{:x}", DATA + window.start as u64, window.len())];
    if vectors {
        ask.push(format!("p{FPSR:x}"));
        ask.extend((0..VECTORS as usize).map(|n| format!("p{:x}", V0 + n)));
    }
    let r = gdb.batch(&ask).unwrap();
    let g = unhex(&r[0]).unwrap();
    let word = |n: usize| u64::from_le_bytes(g[8 * n..8 * n + 8].try_into().unwrap());
    let cpsr = u32::from_le_bytes(g[264..268].try_into().unwrap());
    let (mut fpsr, mut v) = (0, s.v.to_vec());
    if vectors {
        fpsr = u64::from(u32::from_le_bytes(unhex(&r[2]).unwrap().try_into().unwrap()) & 0x9f);
        v = r[3..].iter().map(|t| u128::from_le_bytes(unhex(t).unwrap().try_into().unwrap())).collect();
    }
    End {
        fault,
        x: (0..32).map(word).collect(),
        pc: word(32),
        nzcv: u64::from(cpsr & 0xf000_0000),
        v,
        fpsr,
        data: unhex(&r[1]).unwrap(),
    }
}

#[test]
fn lifted_encodings_equal_qemu() {
    let Some(qemu) = qemu("aarch64") else { return };
    // Each encoding has a place of its own: the stub cannot write to code that has been translated.
    let mut code = vec![0; ENCODINGS.len() * 64];
    for (at, (_, words)) in code.chunks_mut(64).zip(ENCODINGS) {
        for (to, word) in at.chunks_mut(4).zip(*words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    let program = program::elf(183, false, &code);
    let mut gdb = Gdb::start(&qemu, &program, "cortex-a76").unwrap();
    let (mut cases, mut faults, mut wrong) = (0, 0, vec![]);
    for (n, (name, words)) in ENCODINGS.iter().enumerate() {
        let pc = CODE + 64 * n as u64;
        let mut rng = SmallRng::seed_from_u64(n as u64);
        let vectors = name.starts_with('f')
            || name.contains([',', ' ']) && (name.contains(" q") || name.contains(" d") || name.contains("cvtf"));
        for _ in 0..states() {
            let s = random(&mut rng);
            let (mut a, mut b) = (ours(pc, words, &s), theirs(&mut gdb, pc, words, vectors, &s));
            cases += 1;
            if b.fault.is_some() {
                // What a faulting load leaves in the vector registers it loads is UNKNOWN (DDI 0487, D1.3.5).
                a.v.clear();
                b.v.clear();
            }
            faults += usize::from(b.fault.is_some());
            if a != b {
                wrong.push(format!(
                    "{name}: x {:x?} nzcv {:x} v {:x?} fpcr {:x}\nours   {}\ntheirs {}",
                    s.x,
                    s.nzcv,
                    s.v,
                    s.fpcr,
                    show(&a, &b),
                    show(&b, &a)
                ));
                if gdb_is_dead_after(&b) {
                    gdb = Gdb::start(&qemu, &program, "cortex-a76").unwrap();
                }
                break;
            }
            if gdb_is_dead_after(&b) {
                gdb = Gdb::start(&qemu, &program, "cortex-a76").unwrap();
            }
        }
    }
    println!("aarch64: {} encodings, {cases} cases, {faults} of them fault, {} differ", ENCODINGS.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(faults > 0, "no case faulted: the second half of a pair is not tested");
}

/// A signal is delivered on the next step, which would end the program: start again.
fn gdb_is_dead_after(e: &End) -> bool {
    e.fault.is_some()
}

/// The parts of `a` that differ from `b`.
fn show(a: &End, b: &End) -> String {
    let mut out = format!("fault {:?} pc {:x} nzcv {:x} fpsr {:x}", a.fault, a.pc, a.nzcv, a.fpsr);
    for n in 0..32 {
        if a.x[n] != b.x[n] {
            out += &format!(" x{n} {:x}", a.x[n]);
        }
    }
    for n in 0..a.v.len() {
        if a.v[n] != b.v[n] {
            out += &format!(" v{n} {:x}", a.v[n]);
        }
    }
    if a.data != b.data {
        out += " data";
    }
    out
}
