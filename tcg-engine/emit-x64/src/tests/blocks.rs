//! Whole blocks: every byte of what is emitted is an instruction that somebody jumps to the beginning of, and random blocks do
//! what the interpreter does with them.

use std::collections::BTreeSet;

use code::{Cache, CodeMemory, Key};
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use ir::op::{FIRST_TEMP, FLAG_KIND, FLAG_R, FPC, TIER_BUDGET, TIER_TAG};
use ir::t0::{self, Exit, Outcome};
use ir::{AtomicOp, Block, BulkOp, BulkRef, Env, MemRef, PC, Regs, Slot, Stop, Then, flags, verify::verify};
use mem::tlb::Shape;

use super::random::{Random, block};
use super::vectors::{control, float_word, xmm};
use crate::asm::Asm;
use crate::emit::{Emitter, Hot, Instead};
use crate::features::Features;
use crate::mutants::{Mutant, plant};
use crate::run::{Host, Left, T1};
use crate::stubs::{Outside, Stubs};

/// Decodes `code` at `base` from end to end; the beginnings of instructions and the targets of branches.
fn decode(code: &[u8], base: usize) -> (BTreeSet<u64>, Vec<u64>) {
    let (mut starts, mut targets) = (BTreeSet::new(), Vec::new());
    let mut d = Decoder::with_ip(64, code, base as u64, DecoderOptions::NONE);
    while d.can_decode() {
        let i = d.decode();
        assert!(!i.is_invalid(), "no instruction at {:#x} of {base:#x}: {code:02x?}", i.ip());
        starts.insert(i.ip());
        match i.flow_control() {
            FlowControl::Next | FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall => {}
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
                targets.push(i.near_branch_target());
            }
            other => panic!("{:?}: {other:?}", i.code()),
        }
    }
    (starts, targets)
}

#[test]
fn stubs_and_random_blocks_are_instructions_from_end_to_end() {
    let mut a = Asm::default();
    a.start(0);
    let avx = Features::of_host().avx2;
    let outside =
        Outside { op: 0x1234_5678_9abc, refill: 0x2345_6789_abcd, run: 0x3456_789a_bcde, memos: 1 << 20, avx };
    let stubs = Stubs::emit(&mut a, outside, Shape::default());
    let (stub_starts, targets) = decode(&a.buf, 0);
    for t in targets {
        assert!(stub_starts.contains(&t), "a stub branches to {t:#x}");
    }
    let behind = stubs.end.next_multiple_of(64);
    let named = stubs.named();
    for (name, entry) in &named {
        assert!(stub_starts.contains(&(*entry as u64)), "{name} at {entry:#x}");
    }
    assert!(named.array_windows().all(|[one, next]| one.1 < next.1 && next.1 < stubs.end), "{named:x?}");
    let mut e = Emitter::new(stubs, Features::of_host());
    let (mut r, mut counted) = (Random(1), 0);
    for n in 0..5000 {
        let b = block(&mut r, 0x4000);
        verify(&b).unwrap_or_else(|fault| panic!("block {n}: {fault}\n{b}"));
        let base = behind + 0x40 * r.below(1000) as usize;
        e.runs = r.below(2) == 0;
        let hot = (r.below(2) == 0).then(|| {
            let instead = |r: &mut Random| match r.below(4) {
                0 => Instead::Run { short: 0, large: false },
                1 => Instead::Run { short: 0, large: true },
                2 => Instead::Large,
                _ => Instead::Page,
            };
            let mut restless = Vec::new();
            for op in 0..b.insts.len() as u16 {
                if r.below(4) == 0 {
                    restless.push((op, instead(&mut r)));
                }
            }
            let rounds = opt::Rounds::of(&b).map(std::sync::Arc::new);
            Box::new(Hot { memos: Some(1 << 20), restless, rounds })
        });
        let at = e.emit(&b, n, (base, 0), hot);
        counted += u32::from(e.counts());
        let (starts, targets) = decode(&e.a.buf, base);
        assert!(starts.contains(&(at.head as u64)) && starts.contains(&(at.body as u64)));
        for t in targets {
            let known = if t < behind as u64 { &stub_starts } else { &starts };
            assert!(known.contains(&t), "block {n} branches to {t:#x}, between instructions\n{b}");
        }
        for x in &e.exits {
            // Where a link would be undone to.
            assert!(starts.contains(&u64::from(x.unlinked)), "block {n}");
        }
    }
    assert!(counted > 100, "{counted}");
}

/// One page, and what an access may reach behind it.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; 4096 + 32]);

/// A vCPU all of whose memory is one page, and whose TLB keeps nothing: every access is the interpreter's, or asks for a refill.
pub struct Apart {
    tlb: mem::Tlb,
    ram: Box<Page>,
    /// Whether refills find something.
    knows: bool,
    /// Refills that did.
    refills: u32,
    /// Flags of the last floating-point exception.
    pub raised: u32,
}

impl Apart {
    pub fn new(r: &mut Random) -> Apart {
        let mut ram = Box::new(Page([0; _]));
        for bytes in ram.0.chunks_exact_mut(8) {
            bytes.copy_from_slice(&r.next().to_le_bytes());
        }
        Apart { tlb: mem::Tlb::new(), ram, knows: false, refills: 0, raised: 0 }
    }

    /// One page of sixteen faults.
    fn at(addr: u64) -> Result<usize, Stop> {
        if addr >> 12 & 15 == 3 { Err(Stop::Fault) } else { Ok(addr as usize & 0xfff) }
    }
}

impl Env for Apart {
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        let at = Self::at(addr)?;
        let mut v = [0; 8];
        let n = m.bytes() as usize;
        v[..n].copy_from_slice(&self.ram.0[at..at + n]);
        let (v, up) = (u64::from_le_bytes(v), 64 - 8 * n as u32);
        Ok(if m.signed { ((v << up) as i64 >> up) as u64 } else { v })
    }
    fn store(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(), Stop> {
        let at = Self::at(addr)?;
        let n = m.bytes() as usize;
        self.ram.0[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
        Ok(())
    }
    fn load128(&mut self, addr: u64, _: MemRef) -> Result<u128, Stop> {
        let at = Self::at(addr)?;
        let mut v = [0; 16];
        v.copy_from_slice(&self.ram.0[at..at + 16]);
        Ok(u128::from_le_bytes(v))
    }
    fn store128(&mut self, addr: u64, _: MemRef, v: u128) -> Result<(), Stop> {
        let at = Self::at(addr)?;
        self.ram.0[at..at + 16].copy_from_slice(&v.to_le_bytes());
        Ok(())
    }
    fn atomic(&mut self, _: u64, _: MemRef, _: AtomicOp, _: u64) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn cas(&mut self, _: u64, _: MemRef, _: u64, _: u64) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn cas128(&mut self, _: u64, _: MemRef, _: u128, _: u128) -> Result<(u128, Then), Stop> {
        Err(Stop::Fault)
    }
    fn load_exclusive(&mut self, _: u64, _: MemRef) -> Result<u64, Stop> {
        Err(Stop::Fault)
    }
    fn store_exclusive(&mut self, _: u64, _: MemRef, _: u64) -> Result<(bool, Then), Stop> {
        Err(Stop::Fault)
    }
    fn clear_exclusive(&mut self) {}
    fn bulk(&mut self, _: BulkOp, _: u64, _: u64, _: u64, _: BulkRef) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn call(&mut self, _: &mut Regs, _: u16, _: u64, _: u64, _: u32) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn raise(&mut self, _: u8, _: u64) {}
    fn raise_fp(&mut self, flags: u32) {
        self.raised = flags;
    }
}

impl Host for Apart {
    fn tlb(&self) -> &mem::Tlb {
        &self.tlb
    }
    fn refill(&mut self, va: u64, _: bool) -> Option<u64> {
        let found = self.knows && Self::at(va).is_ok();
        self.refills += u32::from(found);
        found.then(|| (self.ram.0.as_ptr() as u64).wrapping_sub(va & !0xfff))
    }
    fn run_around(&mut self, va: u64, write: bool) -> Option<mem::Run> {
        self.refill(va, write).map(|addend| mem::Run { start: va & !0xfff, len: 0x1000, addend })
    }
    fn mode_bits(&self) -> u32 {
        0
    }
    fn attention(&self, _: &Regs) -> bool {
        false
    }
    fn asked(&self) -> bool {
        false
    }
}

/// A block by both; what is different.
pub fn compare(r: &mut Random, b: Block) -> Vec<String> {
    compare_on(Features::of_host(), r, b)
}

/// The same as on a host that has `features`.
pub fn compare_on(features: Features, r: &mut Random, b: Block) -> Vec<String> {
    let mut t1 = T1::with_features::<Apart>(CodeMemory::new(256 << 10).unwrap(), features).unwrap();
    t1.set_hot(r.below(2) as u8);
    t1.set_runs(r.below(2) == 0);
    let mut cache = Cache::default();
    let id = cache.insert(Key { at: b.pc, pc: b.pc, mode: 0 }, 0x20, None, b);
    assert!(t1.translate(&cache, id.number(), true, false, 0));
    let Some(b) = cache.block(id) else { return vec!["the block is gone".into()] };
    let mut list = Vec::new();
    // Two halves may lie in two pages.
    let accesses = 2 * b.insts.len() as u32;
    for n in 0..4 {
        let mut x = Box::new(Regs::default());
        for n in 8..FIRST_TEMP {
            x.set(Slot(n), r.value());
        }
        for n in 0..16 {
            x.set128(xmm(n), u128::from(float_word(r)) << 64 | u128::from(float_word(r)));
        }
        x.set(FPC, control(r));
        let pc = b.origin(&x).wrapping_add(b.pc);
        x.set(PC, pc);
        x.set(FLAG_R, r.next() & flags::x86::ALL);
        let mut y = x.clone();
        let (mut env0, seed) = (Apart::new(r), r.0);
        let knows = seed & 1 == 0;
        let mut env1 = Apart { tlb: mem::Tlb::new(), ram: env0.ram.clone(), knows, refills: 0, raised: 0 };
        // Its memory is another one: what accesses remember is worthless.
        (0..n).for_each(|_| env1.tlb.flush_all());
        let out = t0::run(b, &mut x, &mut env0);
        let (left, done) = t1.run(&cache, id.number(), &mut y, &mut env1, 0);
        let same = match (left, out.exit) {
            (Left::Direct(_), Exit::Direct(_)) | (Left::Jump, Exit::Indirect | Exit::Direct(_)) => true,
            (Left::Outcome(Outcome { exit, .. }), expected) => exit == expected,
            // Once more from its own beginning, for which there is no budget.
            (Left::Budget, Exit::Direct(_)) => true,
            _ => false,
        };
        if !same || done != u64::from(out.instructions) {
            list.push(format!("T0 {out:?}, T1 {left:?} after {done}"));
        }
        for n in 0..FIRST_TEMP {
            let own = (FLAG_KIND.0..=FLAG_R.0).contains(&n) || n == TIER_TAG.0 || n == TIER_BUDGET.0;
            let (p, q) = (x.get(Slot(n)), y.get(Slot(n)));
            if p != q && !own {
                list.push(format!("word {n}: T0 {p:#x}, T1 {q:#x}"));
            }
        }
        let (p, q) = (flags::materialise(&x), flags::materialise(&y));
        if p != q {
            list.push(format!("flags: T0 {p:#x}, T1 {q:#x}"));
        }
        if env0.raised != env1.raised {
            list.push(format!("exception: T0 {:#x}, T1 {:#x}", env0.raised, env1.raised));
        }
        if env0.ram.0 != env1.ram.0 {
            list.push("what was stored".into());
        }
        if env1.refills > accesses {
            list.push(format!("{} refills, {accesses} accesses", env1.refills));
        }
        assert_eq!(seed, r.0);
    }
    list
}

fn compare_many(features: Features, blocks: u64) -> Result<(), String> {
    for n in 0..blocks {
        let mut r = Random((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let b = block(&mut r, 0x4000);
        let text = format!("{b}");
        let list = compare_on(features, &mut r, b);
        if !list.is_empty() {
            return Err(format!("block {n}: {}\n{text}", list.join("\n")));
        }
    }
    Ok(())
}

/// More of them with `ATOLL_LONG=1`.
#[test]
fn random_blocks_do_what_the_interpreter_does() {
    let blocks = if std::env::var_os("ATOLL_LONG").is_some() { 500_000 } else { 3000 };
    if let Err(text) = compare_many(Features::of_host(), blocks) {
        panic!("{text}");
    }
}

#[test]
fn random_blocks_do_so_on_a_host_without_v3_too() {
    if let Err(text) = compare_many(Features::of_host().without_v3(), 1000) {
        panic!("{text}");
    }
}

/// Those planted bugs that concern what lifters make seldom or never.
#[test]
fn planted_bugs_are_found() {
    for mutant in [
        Mutant::Settle,
        Mutant::Evict,
        Mutant::Constants,
        Mutant::Clobbered,
        Mutant::Carry,
        Mutant::Reload,
        Mutant::VectorsLost,
        Mutant::UppersLost,
        Mutant::WideMiss,
        Mutant::Twin,
        Mutant::StickyLost,
        Mutant::Control,
        Mutant::Unmasked,
        Mutant::OldControl,
        Mutant::HighHalf,
        Mutant::PairEvict,
        Mutant::PairReload,
        Mutant::Spill,
        Mutant::Refill,
    ] {
        plant(Some(mutant));
        let found = compare_many(Features::of_host(), 2000);
        plant(None);
        assert!(found.is_err(), "{mutant:?} is not found");
    }
}

/// Whether this thread rounds to nearest and keeps denormals.
fn rounds_as_usual() -> bool {
    let x = std::hint::black_box(1.0f64);
    let tiny = std::hint::black_box(f64::MIN_POSITIVE);
    x + 1e-30 == 1.0 && x - 1e-30 == 1.0 && -x - 1e-30 == -1.0 && tiny / 2.0 > 0.0 && tiny / 2.0 * 2.0 == tiny
}

/// In a thread of its own, since afterwards the planted bug stays in that thread's MXCSR.
#[test]
fn the_hosts_mxcsr_is_back_when_emitted_code_is_left() {
    let after = |mutant| {
        let run = move || {
            plant(mutant);
            (0..200).all(|n| {
                let mut r = Random(n + 1);
                let b = block(&mut r, 0x4000);
                compare(&mut r, b);
                rounds_as_usual()
            })
        };
        std::thread::spawn(run).join().unwrap()
    };
    assert!(after(None));
    assert!(!after(Some(Mutant::HostControl)));
}
