//! T1 against T0: random programs run by emitted code and by the interpreter, from the same state, to the same end.
//!
//! The idea: every exception goes to a handler that notes all there is to know about it and goes on behind the instruction, so
//! a program shows what each of its faults was like, and the comparison at its end sees it all. Several programs run one after
//! another on the same pair of machines, with code taken away in between. `ATOLL_SEED` gives a run again; with `ATOLL_LONG=1`
//! it takes half an hour (`ATOLL_TIERS_SECONDS` says otherwise).

mod checked;
pub mod code;
mod instructions;
mod mutants;
mod program;
mod reclaims;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ::code::CodeMemory;
use emit_x64::Placed;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::Slot;
use ir::op::{FIRST_TEMP, FLAG_KIND, FLAG_R, TIER_BUDGET, TIER_TAG};

use super::harness::*;
use super::random::Random;
use crate::runner::{COUNTERS, Watch};
use crate::state::CODE_BASE;
use crate::{Runner, Why, flags};
use program::{Program, program};

/// Bytes at [`DATA`] that programs work on.
pub const DATA_LEN: u64 = 0x7000;
/// A page that is not mapped.
pub const UNMAPPED: u64 = DATA + 0x8000;
/// A page that is read-only.
pub const READ_ONLY: u64 = DATA + 0x9000;
/// A page that programs switch between two.
pub const FLIP: u64 = 0x6_6000;
/// Where memory is mapped once more, in the lower half.
const ELSEWHERE: u64 = 1 << 39;
/// Where handlers lie.
const HANDLERS: u64 = 0x6_0000;
/// The end of programs.
const END: u64 = HANDLERS + 0x1000;
/// What handlers have noted: [`NOTE`] bytes each.
const LOG: u64 = 0x6_8000;
const NOTE: u64 = 8 * 20;
const NOTES: u64 = 64;
/// Where the next note goes.
const LOG_END: u64 = 0x6_b800;
/// For each byte of code where the next instruction begins, if one begins there.
const TABLE: u64 = 0x6_c000;
/// Bytes of code at most.
const MOST: u64 = 0x4000;
/// Flags that shifts may leave undefined.
const UNDEFINED: u64 = 0x810;
/// What the interpreter may run, in blocks; programs that take longer are not compared.
const LIMIT: u32 = 20_000;

type Kind = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Whether `code` leaves the same flags in the registers `to` by both tiers, as far as `mask` goes.
fn alike(make: fn() -> Runner<TestBus>, code: &[u8], to: std::ops::RangeInclusive<usize>, mask: u64) -> bool {
    let behind = |emitted: bool| {
        let mut m = make();
        if !emitted {
            m.t1 = None;
        }
        assert_eq!(m.run_code(code), Why::Halt);
        to.clone().map(|n| m.get(n) & mask).collect::<Vec<_>>()
    };
    behind(true) == behind(false)
}

/// Whether this host leaves SF and PF behind bit manipulation, where they are undefined, as the interpreter does. Elsewhere
/// programs have none of it, since what they rewrite may ask for any flag.
fn has_bits() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let code = asm64(|a| {
            a.mov(eax, 0x8000_0003u32 as i32)?;
            a.mov(ecx, 0x2000)?;
            let kinds: [Kind; 6] = [
                |a| a.andn(ebx, ecx, eax),
                |a| a.blsr(ebx, eax),
                |a| a.bextr(ebx, eax, ecx),
                |a| a.bzhi(ebx, eax, ecx),
                |a| a.tzcnt(ebx, eax),
                |a| a.lzcnt(ebx, eax),
            ];
            for (kind, to) in kinds.into_iter().zip([r8, r9, r10, r11, r12, r13]) {
                kind(a)?;
                a.pushfq()?;
                a.pop(to)?;
            }
            a.hlt()
        });
        alike(long_v3, &code, 8..=13, flags::SF | flags::PF)
    })
}

/// Whether this host leaves OF behind a shift by more than one, where it is undefined, as the interpreter does.
fn has_shifts() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let code = asm64(|a| {
            a.mov(eax, -1)?;
            a.shr(eax, 5)?;
            a.pushfq()?;
            a.pop(r8)?;
            a.hlt()
        });
        alike(long, &code, 8..=8, flags::OF)
    })
}

/// What is run that neither the program consists of nor what is there for all: it has jumped into the middle of an instruction, or
/// changed one. Nothing keeps that from asking for a flag that is undefined, or handlers from noting one.
#[derive(Clone, Debug)]
struct Odd(Arc<Mutex<OddCode>>);

#[derive(Debug)]
struct OddCode {
    program: Piece,
    others: Vec<Piece>,
    seen: bool,
    /// It was none of the program's code, and blocks of it may be there still when the next one runs.
    stays: bool,
}

impl OddCode {
    fn new() -> Self {
        let mut others: Vec<Piece> = fixtures().into_iter().map(|(base, bytes)| Piece::new(base, bytes)).collect();
        // That page is mapped instead of the one before it, too.
        let other = others.iter().filter(|piece| piece.base >= FLIP + 0x1000);
        let other: Vec<Piece> = other.map(|piece| Piece { base: piece.base - 0x1000, ..piece.clone() }).collect();
        others.extend(other);
        OddCode { program: Piece::default(), others, seen: false, stays: false }
    }
}

/// Code that may be run: where it lies in RAM and in the lower half of each address that it is mapped at, its bytes, and where its
/// instructions begin.
#[derive(Clone, Debug, Default)]
struct Piece {
    base: u64,
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Piece {
    /// Nothing but instructions, one behind the other.
    fn new(base: u64, bytes: Vec<u8>) -> Piece {
        let mut decoder = iced_x86::Decoder::new(64, &bytes, 0);
        let starts = decoder.iter().map(|i| i.ip() as usize).collect();
        Piece { base, bytes, starts }
    }

    /// Whether a block at this address, of these bytes, is a part of it.
    fn has(&self, at: u64, block: &[u8]) -> bool {
        let Ok(at) = usize::try_from(at.wrapping_sub(self.base)) else { return false };
        self.starts.contains(&at) && self.bytes.get(at..).is_some_and(|own| own.starts_with(block))
    }
}

impl Watch for Odd {
    fn lifted(&mut self, block: &ir::Block, origin: u64, bytes: &[u8], _: u32) {
        let mut odd = self.0.lock().unwrap();
        let at = origin.wrapping_add(block.pc) & 0xffff_ffff;
        if !odd.program.has(at, bytes) && !odd.others.iter().any(|piece| piece.has(at, bytes)) {
            odd.seen = true;
            odd.stays |= !(CODE..CODE + MOST).contains(&at);
        }
    }
    fn stub(&mut self, _: &str, _: u64, _: usize) {}
    fn placed(&mut self, _: &Placed, _: u64, _: &[u8]) {}
}

/// The handlers: one entry for each vector, then what they share.
fn handlers() -> (Vec<u8>, Vec<u64>) {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut common = a.create_label();
    let mut stop = a.create_label();
    let mut at = Vec::new();
    for v in 0..33u64 {
        let mut entry = a.create_label();
        a.set_label(&mut entry).unwrap();
        at.push(entry);
        if !matches!(v, 8 | 10..=14 | 17 | 21) {
            a.push(0).unwrap();
        }
        a.push(v as i32).unwrap();
        a.jmp(common).unwrap();
    }
    note(&mut a, &mut common, &mut stop).unwrap();
    let result = a.assemble_options(HANDLERS, iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS).unwrap();
    let at = at.iter().map(|l| result.label_ip(l).unwrap()).collect();
    (result.inner.code_buffer, at)
}

fn note(a: &mut CodeAssembler, common: &mut CodeLabel, stop: &mut CodeLabel) -> Result<(), IcedError> {
    a.set_label(common)?;
    a.push(rax)?;
    a.push(rbx)?;
    a.mov(rbx, qword_ptr(LOG_END))?;
    a.cmp(rbx, (LOG + NOTE * NOTES) as i32)?;
    a.jae(*stop)?;
    // rbx, rax, vector, error, rip, cs, flags, rsp
    a.and(qword_ptr(rsp + 48), !(UNDEFINED as i32))?;
    for (n, from) in [0, 8, 16, 24, 32, 48, 56].into_iter().enumerate() {
        a.mov(rax, qword_ptr(rsp + from))?;
        a.mov(qword_ptr(rbx + 8 * n), rax)?;
    }
    a.mov(rax, cr2)?;
    a.mov(qword_ptr(rbx + 56), rax)?;
    for (n, r) in [rcx, rdx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14].into_iter().enumerate() {
        a.mov(qword_ptr(rbx + 64 + 8 * n), r)?;
    }
    a.add(rbx, NOTE as i32)?;
    a.mov(qword_ptr(LOG_END), rbx)?;
    // Behind the instruction, in whichever mapping.
    a.mov(rax, qword_ptr(rsp + 32))?;
    a.mov(ebx, eax)?;
    a.and(ebx, 0x7f_ffff)?;
    a.sub(ebx, CODE as i32)?;
    a.cmp(ebx, MOST as i32)?;
    a.jae(*stop)?;
    a.sub(rax, rbx)?;
    a.movzx(ebx, word_ptr(rbx * 2 + TABLE))?;
    a.test(ebx, ebx)?;
    a.jz(*stop)?;
    a.add(rax, rbx)?;
    a.mov(qword_ptr(rsp + 32), rax)?;
    a.pop(rbx)?;
    a.pop(rax)?;
    a.add(rsp, 16)?;
    a.iretq()?;
    a.set_label(stop)?;
    a.hlt()
}

/// A machine for programs; with T1 or without.
fn prepared(t1: bool) -> Runner<TestBus> {
    let mut m = long_v3();
    m.t1 = None;
    if t1 {
        m.use_t1(CodeMemory::new(320 << 10).unwrap()).unwrap();
    } else {
        // What is lifted for one place is also compared with what is lifted for all.
        m.cpu.place_blocks();
    }
    for (at, code) in fixtures() {
        m.poke(at, &code);
    }
    let (_, at) = handlers();
    m.poke64(CR3 + 8, m.peek64(CR3));
    m.poke64(TSS + 0x24, STACK0);
    for v in 0..256 {
        m.gate64(v, at[v.min(32) as usize], 0xe, 3, 1);
    }
    m.gate64(0xff, END, 0xe, 3, 1);
    m
}

/// Code that is there for all programs: where it lies in RAM, and its bytes.
fn fixtures() -> Vec<(u64, Vec<u8>)> {
    // The last one is a jump to the page behind it.
    let mut all = vec![(HANDLERS, handlers().0), (END, vec![0xf4]), (FLIP - 0x100, vec![0xe9, 0xfb, 0, 0, 0])];
    for (page, mark) in [(FLIP, 0x1111_0000u32), (FLIP + 0x1000, 0x2222_0000)] {
        for k in 0..4 {
            // mov dword [DATA + 8 * k], mark; a jump to the next instruction; ret
            let mut f = vec![0xc7, 0x04, 0x25];
            f.extend_from_slice(&((DATA + 8 * k) as u32).to_le_bytes());
            f.extend_from_slice(&(mark + k as u32).to_le_bytes());
            f.extend_from_slice(&[0xeb, 0, 0xc3]);
            all.push((page + 0x20 * k, f));
        }
    }
    all
}

/// Load the program into a machine whose memory holds whatever the last one left.
fn load(m: &mut Runner<TestBus>, p: &Program) {
    let mut code = p.code.bytes.clone();
    let (offset, most) = (p.code.base - CODE, (MOST - (p.code.base - CODE)) as usize);
    assert!(code.len() < most, "a program of {} bytes", code.len());
    code.resize(most, 0xcc);
    m.poke(CODE, &vec![0xcc; offset as usize]);
    m.poke(p.code.base, &code);
    let mut table = vec![0u8; 2 * MOST as usize];
    for w in p.code.starts.windows(2) {
        let (at, next) = (w[0] + offset as usize, w[1] + offset as usize);
        table[2 * at..2 * at + 2].copy_from_slice(&(next as u16).to_le_bytes());
    }
    m.poke(TABLE, &table);
    m.cpu.invalidate(CODE, MOST);
}

/// Have the program that is loaded begin where it is mapped at distance `far`, on data from `data` on.
fn start(m: &mut Runner<TestBus>, p: &Program, data: u64, far: u64) {
    let mut r = Random(data | 1);
    let bytes: Vec<u8> = (0..DATA_LEN / 8).flat_map(|_| r.next().to_le_bytes()).collect();
    m.poke(DATA, &bytes);
    m.poke(READ_ONLY, &bytes[..0x1000]);
    m.poke(LOG, &vec![0; (NOTE * NOTES) as usize]);
    m.poke64(LOG_END, LOG);
    m.poke(STACK - 0x1000, &[0; 0x1100]);
    let rights = |va: u64, bits: u64| m.poke64(pte(va), va | bits);
    rights(UNMAPPED, 0);
    rights(READ_ONLY, 5);
    rights(FLIP, 7);
    m.cpu.sys.seg = [flat(if p.user { USER_SS } else { KERNEL_SS }, 3, false); 6];
    m.cpu.sys.seg[crate::state::Seg::Cs as usize] = flat(if p.user { USER_CS } else { KERNEL_CS }, 0xb, true);
    m.cpu.sys.seg[crate::state::Seg::Fs as usize].base = 0x18;
    m.cpu.sys.seg[crate::state::Seg::Gs as usize].base = 0xfff;
    m.cpu.sys.kernel_gs_base = 7;
    m.cpu.sys.cr4 |= crate::state::cr4::FSGSBASE;
    m.cpu.sys.cpl = if p.user { 3 } else { 0 };
    m.cpu.sys.cr2 = 0;
    for n in FLAG_KIND.0..FIRST_TEMP {
        m.regs.0.set(Slot(n), 0);
    }
    for (n, v) in p.regs.iter().enumerate() {
        m.set(n, *v);
    }
    for n in 0..16 {
        m.regs.0.set128(crate::state::xmm(n), u128::from(r.next()) << 64 | u128::from(r.next()));
    }
    m.set(4, STACK - 0x100);
    m.regs.0.set(ir::op::FPC, 0x1f80);
    m.set_pc(far + p.code.base);
    m.cpu.tlb.flush_all();
    let regs = &mut m.regs.0;
    m.cpu.refresh(regs);
    m.set_flags(p.flags);
    m.instructions = 0;
}

/// Run to the end in portions, as if there were a harvest between them; `None` if it takes too long.
fn run(m: &mut Runner<TestBus>, mut blocks: u32, mut portion: impl FnMut() -> u32) -> Option<Why> {
    loop {
        let n = portion().min(blocks);
        m.cpu.tlb.drop_write_tags();
        match m.run(n) {
            Why::Look | Why::Pause => {}
            Why::Budget => {}
            why => return Some(why),
        }
        blocks -= n;
        if blocks == 0 {
            return None;
        }
    }
}

/// What is different after a program, in words.
fn differences(a: &Runner<TestBus>, b: &Runner<TestBus>) -> Vec<String> {
    let mut list = Vec::new();
    for n in 0..FIRST_TEMP {
        let own = (FLAG_KIND.0..=FLAG_R.0).contains(&n) || [TIER_TAG, TIER_BUDGET, CODE_BASE].contains(&Slot(n));
        let (x, y) = (a.regs.0.get(Slot(n)), b.regs.0.get(Slot(n)));
        if x != y && !own {
            list.push(format!("word {n}: T0 {x:#x}, T1 {y:#x}"));
        }
    }
    let (x, y) = (a.flags() & !UNDEFINED, b.flags() & !UNDEFINED);
    if x != y {
        list.push(format!("flags: T0 {x:#x}, T1 {y:#x}"));
    }
    if a.cpu.sys.cr2 != b.cpu.sys.cr2 {
        list.push(format!("CR2: T0 {:#x}, T1 {:#x}", a.cpu.sys.cr2, b.cpu.sys.cr2));
    }
    if a.instructions != b.instructions {
        list.push(format!("instructions: T0 {}, T1 {}", a.instructions, b.instructions));
    }
    let areas =
        [(DATA, 0xa000), (CODE, MOST), (LOG, NOTE * NOTES), (LOG_END, 8), (STACK - 0x1000, 0x1100), (CR3, 0x9000)];
    for (at, len) in areas {
        let read = |m: &Runner<TestBus>| {
            let mut bytes = vec![0; len as usize];
            m.cpu.mem.ram.read(at, &mut bytes).unwrap();
            bytes
        };
        let (x, y) = (read(a), read(b));
        if x == y {
            continue;
        }
        let mut n = 0;
        while n < x.len() && list.len() < 24 {
            if x[n] != y[n] {
                let n8 = n & !7;
                list.push(format!(
                    "RAM at {:#x}: T0 {:02x?}, T1 {:02x?}",
                    at + n8 as u64,
                    &x[n8..n8 + 8],
                    &y[n8..n8 + 8]
                ));
                n = n8 + 7;
            }
            n += 1;
        }
    }
    list
}

/// A pair of machines, and what is odd about the program if somebody wants to know.
struct Pair {
    t0: Runner<TestBus>,
    t1: Runner<TestBus>,
    odd: Option<Odd>,
}

/// What came of one program.
enum Came {
    Same,
    /// It took too long, or may depend on flags that are undefined.
    Unknown,
    Different(String),
}

impl Pair {
    /// For programs from `seed` on. In every second pair all blocks are hot from the beginning, and in half of these accesses remember
    /// runs of pages; in every third the TLB has grown.
    fn new(seed: u64) -> Pair {
        let mut t1 = prepared(true);
        if let Some(t1) = t1.t1.as_mut().filter(|_| (seed / TOGETHER).is_multiple_of(2)) {
            t1.set_hot(0);
            t1.set_runs((seed / TOGETHER).is_multiple_of(4));
            t1.set_planned(!(seed / TOGETHER).is_multiple_of(10));
        }
        if (seed / TOGETHER).is_multiple_of(3) {
            t1.cpu.tlb.grow();
            t1.t1.iter_mut().for_each(|emitted| emitted.fit(&t1.cpu.tlb));
        }
        Pair { t0: prepared(false), t1, odd: None }
    }

    /// The same, with code memory that is so small that parts of it are reclaimed all the time.
    fn crowded(seed: u64) -> Pair {
        let mut pair = Pair::new(seed);
        let n = seed / TOGETHER;
        let (parts, size) = (2 + n % 3, [4 << 10, 6 << 10, 12 << 10][(n / 3 % 3) as usize]);
        pair.t1.t1.iter_mut().for_each(|t1| t1.divide(parts as usize, size));
        pair
    }

    /// The same, on hosts whose shifts are not the interpreter's without programs that go astray.
    fn straight(mut self) -> Pair {
        if !has_shifts() {
            let odd = Odd(Arc::new(Mutex::new(OddCode::new())));
            self.t0.watch(Box::new(odd.clone()));
            self.odd = Some(odd);
        }
        self
    }

    fn program(&mut self, seed: u64) -> Came {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        r.next();
        let p = program(&mut r);
        let data = r.next();
        load(&mut self.t0, &p);
        load(&mut self.t1, &p);
        let mut far = 0;
        // What is left of a program of user mode is run again where it is mapped, too.
        for _ in 0..if p.user { 3 } else { 1 } {
            let small = r.below(2) == 0;
            if let Some(Odd(odd)) = &self.odd {
                let mut odd = odd.lock().unwrap();
                odd.program = Piece { base: p.code.base, bytes: p.code.bytes.clone(), starts: p.code.starts.clone() };
                // What a program has changed stays so when it is mapped elsewhere.
                odd.seen &= far != 0 || odd.stays;
            }
            start(&mut self.t0, &p, data, far);
            start(&mut self.t1, &p, data, far);
            let Some(expected) = run(&mut self.t0, LIMIT, || LIMIT) else { return Came::Unknown };
            let found = run(&mut self.t1, 4 * LIMIT, || if small { 1 + r.below(6) as u32 } else { LIMIT });
            let mut list = differences(&self.t0, &self.t1);
            if Some(expected) != found {
                list.insert(0, format!("the end: T0 {expected:?}, T1 {found:?}"));
            }
            let odd = self.odd.as_ref().is_some_and(|odd| odd.0.lock().unwrap().seen);
            if !list.is_empty() && odd {
                return Came::Unknown;
            }
            if !list.is_empty() {
                return Came::Different(format!("{}\nat {far:#x} + {}", list.join("\n"), listing(&p)));
            }
            far = [0, HIGH, ELSEWHERE][r.below(3) as usize];
        }
        Came::Same
    }
}

/// The program for a person.
fn listing(p: &Program) -> String {
    let mut out = format!("registers {:x?}, flags {:#x}, user {}\n", p.regs, p.flags, p.user);
    for w in p.code.starts.windows(2) {
        let bytes = &p.code.bytes[w[0]..w[1]];
        let i = iced_x86::Decoder::with_ip(64, bytes, p.code.base + w[0] as u64, 0).decode();
        out += &format!("{:#x}: {:02x?} {:?}\n", p.code.base + w[0] as u64, bytes, i.code());
    }
    out
}

/// Programs that run on one pair of machines.
const TOGETHER: u64 = 24;

/// Programs from `seed` on for so long, on such pairs of machines; answers how many were compared, and of how many nothing is known.
fn campaign(make: fn(u64) -> Pair, seed: u64, time: Duration, most: u64) -> Result<(u64, u64), String> {
    let start = Instant::now();
    let (mut compared, mut unknown) = (0, 0);
    let mut n = 0;
    let mut pair = make(seed);
    let mut first = seed;
    while n < most && start.elapsed() < time {
        let this = seed.wrapping_add(n);
        if n.is_multiple_of(TOGETHER) {
            pair = make(this);
            first = this;
        }
        match pair.program(this) {
            Came::Same => compared += 1,
            Came::Unknown => {
                // Nobody knows what it left.
                unknown += 1;
                pair = make(first);
            }
            Came::Different(text) => {
                return Err(format!("ATOLL_SEED={first}, program {}:\n{text}", this.wrapping_sub(first)));
            }
        }
        n += 1;
    }
    Ok((compared, unknown))
}

fn given_seed() -> Option<u64> {
    std::env::var("ATOLL_SEED").ok().and_then(|text| text.parse().ok())
}

/// A program may have written to a handler, which then notes flags that it would have masked.
#[test]
fn a_handler_that_was_changed_is_odd() {
    let ((code, entries), odd) = (handlers(), OddCode::new());
    let known = |at: u64, block: &[u8]| odd.others.iter().any(|piece| piece.has(at, block));
    let entry = entries[13];
    let mut block = code[(entry - HANDLERS) as usize..][..4].to_vec();
    assert!(known(entry, &block) && !known(entry + 1, &block[1..]));
    block[3] ^= 0x6c;
    assert!(!known(entry, &block));
}

#[test]
fn programs_do_the_same_on_both_tiers() {
    let given = std::env::var("ATOLL_TIERS_SECONDS").ok().and_then(|text| text.parse().ok());
    let long = std::env::var_os("ATOLL_LONG").is_some();
    let seconds = given.unwrap_or(if long { 1800 } else { 5 });
    let fresh = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64) >> 8 << 8;
    let seed = given_seed().unwrap_or_else(fresh);
    println!("ATOLL_SEED={seed}");
    // Half of the time with code memory in which nothing stays for long.
    let makes: [fn(u64) -> Pair; 2] = [|seed| Pair::new(seed).straight(), |seed| Pair::crowded(seed).straight()];
    for make in makes {
        match campaign(make, seed, Duration::from_secs(seconds) / 2, u64::MAX) {
            Ok((compared, unknown)) => {
                println!("{compared} programs compared, {unknown} took too long or went astray");
                assert!(compared > 0 && unknown < compared / 4, "{compared} compared, {unknown} not");
            }
            Err(text) => panic!("{text}"),
        }
    }
}

/// Every byte of emitted code belongs to an instruction, and branches lead to the beginning of one: of the same block, of the
/// stubs, or to the head of a block that is still there. Answers how many lead to heads.
fn decode_code(m: &Runner<TestBus>) -> usize {
    use iced_x86::{Decoder, DecoderOptions, FlowControl};
    let t1 = m.t1.as_ref().unwrap();
    let heads: BTreeSet<u64> = t1.code().map(|(head, _)| head as u64).collect();
    let (mut known, mut targets) = (heads.clone(), Vec::new());
    for (at, code) in t1.code().chain([(0, t1.stub_code())]) {
        let mut d = Decoder::with_ip(64, code, at as u64, DecoderOptions::NONE);
        while d.can_decode() {
            let i = d.decode();
            assert!(!i.is_invalid(), "no instruction at {:#x}: {code:02x?}", i.ip());
            known.insert(i.ip());
            if matches!(
                i.flow_control(),
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call
            ) {
                targets.push((at as u64, code.len() as u64, i.near_branch_target()));
            }
        }
    }
    let stubs = t1.stub_code().len() as u64;
    for (at, len, to) in &targets {
        let inside = (*at..at + len).contains(to) || *to < stubs;
        assert!(known.contains(to) && (inside || heads.contains(to)), "a block at {at:#x} branches to {to:#x}");
    }
    targets.iter().filter(|(at, len, to)| heads.contains(to) && !(at + 1..at + len).contains(to)).count()
}

#[test]
fn programs_reach_what_they_are_for() {
    let mut pair = Pair::new(0);
    let (mut notes, mut instructions, mut ends, mut links) = (0, 0, 0, 0);
    let mut c = [0; COUNTERS.len()];
    for seed in 1000..1100 {
        match pair.program(seed) {
            Came::Same => {}
            // Nobody knows what it left.
            Came::Unknown => {
                c = std::array::from_fn(|n| c[n] + pair.t1.counters()[n]);
                pair = Pair::new(0);
                continue;
            }
            Came::Different(text) => panic!("{seed}: {text}"),
        }
        links += decode_code(&pair.t1);
        notes += (pair.t1.peek64(LOG_END) - LOG) / NOTE;
        instructions += pair.t1.instructions;
        ends += u64::from(pair.t1.pc() == HANDLERS + 0x1001);
    }
    c = std::array::from_fn(|n| c[n] + pair.t1.counters()[n]);
    println!("{notes} faults, {instructions} instructions, {ends} ran to their end, counters {c:?}");
    assert!(links > 800, "{links} branches to heads");
    assert!(
        notes > 100 && instructions > 5_000 && ends > 50,
        "{notes} faults, {instructions} instructions, {ends} ends"
    );
    let count = |name: &str| COUNTERS.iter().zip(c).find(|(own, _)| **own == name).unwrap().1;
    assert!(count("code-blocks") > 1000, "{c:?}");
    let exits = ["unlinked", "jump", "budget", "operation", "resume"].map(|kind| count(&format!("code-exits-{kind}")));
    assert!(exits[..2].iter().all(|n| *n > 100) && exits[3] > 100 && count("code-interpreted") > 100, "{c:?}");
    // Each stay ends in one way.
    assert_eq!(exits.iter().sum::<u64>(), count("code-entries"));
    assert!(["walked", "faulted"].iter().all(|kind| count(&format!("tlb-{kind}")) > 0), "{c:?}");
}
