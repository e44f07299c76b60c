//! Random operations on vector registers, and the words that they start from; every floating-point operation on every corner.

use code::{Cache, CodeMemory, Key};
use fp::sse::FpOp;
use ir::op::{FPC, FpRef, NONE};
use ir::vec::VecOp;
use ir::{Builder, MemRef, Op, Regs, Slot, flags, t0};

use super::blocks::Apart;
use super::random::{Gen, Random};
use crate::features::Features;
use crate::run::{Left, T1};

/// Values of FPC: mostly every exception masked; any rounding, flushing of denormals, and sticky flags.
pub fn control(r: &mut Random) -> u64 {
    let masks = if r.below(6) == 0 { r.next() & 0x1f80 } else { 0x1f80 };
    masks | r.next() & 0xe040 | if r.below(3) == 0 { r.next() & 0x3f } else { 0 }
}

const DOUBLES: [u64; 14] = [
    0,
    1,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0001,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_1234,
    0x7ff0_0000_0000_0001,
    0xfff8_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x41df_ffff_ffe0_0000,
];
const SINGLES: [u32; 12] = [
    0,
    1,
    1 << 31,
    0x3f80_0000,
    0xbfc0_0001,
    0x7f80_0000,
    0x7fc0_1234,
    0x7f80_0001,
    0x7f7f_ffff,
    0x007f_ffff,
    0x0080_0000,
    0x4f00_0000,
];

/// A word that is interesting as one double or two singles.
pub fn float_word(r: &mut Random) -> u64 {
    match r.below(5) {
        0 => r.next(),
        1 | 2 => DOUBLES[r.below(14) as usize],
        3 => u64::from(SINGLES[r.below(12) as usize]) << 32 | u64::from(SINGLES[r.below(12) as usize]),
        _ => ((r.below(2000) as f64 - 1000.0) / 8.0).to_bits(),
    }
}

/// XMM register `n`.
pub const fn xmm(n: u64) -> Slot {
    Slot(32 + 4 * n as u16)
}

impl Gen<'_> {
    fn any_xmm(&mut self) -> Slot {
        // The last two are not in registers. Now and then it is an upper half.
        let low = xmm([0, 1, 2, 3, 7, 13, 14, 15][self.r.below(8) as usize]);
        if self.r.below(12) == 0 { Slot(low.0 + 2) } else { low }
    }

    fn pair(&mut self) -> Slot {
        if self.pairs.is_empty() || self.r.below(3) == 0 {
            self.any_xmm()
        } else {
            self.pairs[self.r.below(self.pairs.len() as u64) as usize]
        }
    }

    fn new_pair(&mut self) -> Slot {
        if !self.pairs.is_empty() && self.r.below(4) == 0 {
            return self.pairs[self.r.below(self.pairs.len() as u64) as usize];
        }
        self.b.temp128()
    }

    fn wrote(&mut self, d: Slot) {
        if d.is_temp() && !self.pairs.contains(&d) {
            self.pairs.push(d);
            // Its words are temporaries like others.
            self.temps.extend([d, Slot(d.0 | 1)]);
        }
    }

    /// A pair is computed that stops nowhere.
    fn compute(&mut self, d: Slot) {
        let (a, b) = (self.pair(), self.pair());
        match self.r.below(8) {
            0 => self.b.op(Op::Mov128, d, a, NONE),
            1 => {
                let s = self.source();
                self.b.op([Op::Mov, Op::Zext32][self.r.below(2) as usize], d, s, NONE);
                self.b.op_imm(Op::MovI, Slot(d.0 | 1), NONE, 0);
            }
            _ => {
                let op = VecOp::ALL[self.r.below(VecOp::ALL.len() as u64) as usize];
                let imm = if self.r.below(2) == 0 { self.r.below(64) } else { self.r.below(256) };
                self.b.full(Op::Vec, op as u8, d, a, b, imm);
                if matches!(op, VecOp::Test) && self.free && self.r.below(2) == 0 {
                    self.b.flags(flags::Kind::X86Explicit, 64, NONE, NONE, d);
                }
            }
        }
        self.wrote(d);
    }

    /// Operations whose results are temporaries; some may stop.
    pub fn vector_temps(&mut self) {
        for _ in 0..1 + self.r.below(3) {
            let d = self.new_pair();
            match self.r.below(4) {
                0 => self.float(d),
                1 => self.load_pair(d),
                _ => self.compute(d),
            }
        }
    }

    fn float(&mut self, d: Slot) {
        let (a, b) = (if self.r.below(3) == 0 { self.pair() } else { d }, self.pair());
        let a = if a.is_temp() && !self.pairs.contains(&a) { self.any_xmm() } else { a };
        let op = FpOp::ALL[self.r.below(FpOp::ALL.len() as u64) as usize];
        let imm = if op.is_fused() { FpRef::with_third(self.pair()) } else { self.r.below(256) };
        self.b.full(Op::Fp, op as u8, d, a, b, imm);
        self.wrote(d);
    }

    fn load_pair(&mut self, d: Slot) {
        let a = self.word();
        let disp = self.r.below(0x100) as i32 - 0x80;
        let log2 = [2, 3, 4, 4][self.r.below(4) as usize];
        let m = MemRef { disp, aligned: log2 == 4 && self.r.below(2) == 0, ..MemRef::new(log2) };
        self.b.load(d, a, NONE, m);
        if log2 < 4 {
            self.b.op_imm(Op::MovI, Slot(d.0 | 1), NONE, 0);
        }
        self.wrote(d);
    }

    /// The one thing of an instruction that may stop and is seen: floating point, or an access.
    pub fn vector_effect(&mut self) {
        let d = self.any_xmm();
        let half = Slot(d.0 | self.r.below(2) as u16);
        let a = self.word();
        match self.r.below(6) {
            0 | 1 => self.float(d),
            2 => self.load_pair(d),
            3 => {
                let log2 = self.r.below(4) as u8;
                self.b.load(half, a, NONE, MemRef { signed: self.r.below(4) == 0, ..MemRef::new(log2) });
            }
            4 => {
                let log2 = self.r.below(4) as u8;
                let s = if self.r.below(4) == 0 { FPC } else { half };
                self.b.store(s, a, NONE, MemRef::new(log2));
            }
            _ => {
                let s = self.pair();
                self.b.store(s, a, NONE, MemRef { aligned: self.r.below(2) == 0, ..MemRef::new(4) });
            }
        }
    }

    /// Vector registers are written, nothing stops.
    pub fn vector_guest(&mut self) {
        let d = self.any_xmm();
        let s = self.any_xmm();
        let (high, other) = (self.r.below(2) as u16, self.r.below(2) as u16);
        match self.r.below(8) {
            0 => self.b.op(Op::Mov, Slot(d.0 | high), Slot(s.0 | other), NONE),
            1 => self.b.full(Op::Deposit, 0, d, d, s, 32 << 8),
            2 => {
                let (to, from) = (self.word(), Slot(s.0 | other));
                self.b.op([Op::Mov, Op::Zext32, Op::Add64][self.r.below(3) as usize], to, from, from);
            }
            3 => {
                // Lanes in and out.
                let (len, v) = (8u64 << self.r.below(3), self.source());
                let pos = len * self.r.below(64 / len);
                if self.r.below(2) == 0 {
                    let w = Slot(d.0 | high);
                    self.b.full(Op::Deposit, 0, w, w, v, pos | len << 8);
                } else {
                    let to = self.word();
                    self.b.full(Op::Extract, 0, to, Slot(s.0 | other), NONE, pos | len << 8);
                }
            }
            4 => {
                let v = self.source();
                self.b.op(Op::Mov, Slot(d.0 | high), v, NONE);
                if self.r.below(2) == 0 {
                    self.b.op_imm(Op::MovI, Slot(d.0 | 1), NONE, 0);
                }
            }
            5 => {
                let v = control(self.r);
                let t = self.b.constant(v);
                self.b.op(Op::Mov, FPC, t, NONE);
            }
            6 if self.r.below(2) == 0 => {
                let to = self.word();
                self.b.op(Op::Mov, to, FPC, NONE);
            }
            _ => self.compute(d),
        }
    }

    /// A comparison that makes flags: the last thing of an instruction that may stop.
    pub fn vector_compare(&mut self) {
        let (a, b, t) = (self.pair(), self.pair(), self.b.temp128());
        let op = [FpOp::ComiSs, FpOp::ComiSd, FpOp::UcomiSs, FpOp::UcomiSd][self.r.below(4) as usize];
        self.b.full(Op::Fp, op as u8, t, a, b, 0);
        self.b.flags(flags::Kind::X86Explicit, 64, NONE, NONE, t);
        if self.r.below(3) == 0 {
            self.wrote(t);
        }
    }
}

/// Pairs of corner values, as doubles and as singles with different neighbours.
fn corners() -> Vec<(u128, u128)> {
    let mut list = Vec::new();
    for (n, a) in DOUBLES.into_iter().enumerate() {
        for b in DOUBLES {
            let other = u128::from(DOUBLES[(n + 5) % 14]);
            list.push((u128::from(a) | other << 64, u128::from(b) | u128::from(a) << 64));
        }
    }
    for (n, a) in SINGLES.into_iter().enumerate() {
        for b in SINGLES {
            let lanes = |x: u32| (0..4).map(|k| u128::from(x ^ (k & 1) << 31) << (32 * k)).sum::<u128>();
            let other = u128::from(SINGLES[(n + 5) % 12]) << 64;
            list.push((lanes(a) ^ other, lanes(b)));
        }
    }
    list
}

/// Rounding modes, flushing and sticky flags with everything masked; then each exception unmasked, and all.
fn controls() -> Vec<u64> {
    let mut list: Vec<u64> = (0..4).map(|rc| 0x1f80 | rc << 13).collect();
    list.extend([0x1f80 | 1 << 15, 0x1f80 | 1 << 6, 0x1f80 | 1 << 15 | 1 << 6 | 1 << 13, 0x1fbf]);
    list.extend((0..6).map(|n| 0x1f80 & !(1 << (7 + n))));
    list.extend([0, 0x8040]);
    list
}

/// The third operand of fused operations.
const THIRD: u64 = FpRef::with_third(xmm(3));

#[test]
fn every_operation_on_every_corner_is_the_interpreters() {
    every_operation(Features::of_host(), FpOp::ALL);
}

/// Those that a host may lack: they are interpreted, between others that are not.
#[test]
fn what_the_host_lacks_is_the_interpreters_too() {
    let v3: Vec<FpOp> = FpOp::ALL.iter().copied().filter(|op| *op as u8 >= FpOp::VcmpPs as u8).collect();
    every_operation(Features::of_host().without_v3(), &v3);
}

fn every_operation(features: Features, list: &[FpOp]) {
    let (corners, controls) = (corners(), controls());
    let mut r = Random(1);
    let (mut env0, mut env1) = (Apart::new(&mut r), Apart::new(&mut r));
    let (mut x, mut y) = (Box::new(Regs::default()), Box::new(Regs::default()));
    let predicates: Vec<u64> = (0..32).collect();
    for &op in list {
        let name = format!("{op:?}");
        let imms: &[u64] = match () {
            () if name.starts_with("Cmp") => &predicates[..8],
            () if name.starts_with("Vcmp") => &predicates,
            () if op == FpOp::CvtPs2Ph => &predicates[..8],
            () if name.starts_with("Round") => &[0, 1, 2, 3, 4, 8, 12],
            () if name.starts_with("Dp") => &[0x31, 0xff, 0x53],
            () if op.is_fused() => &[THIRD],
            () => &[0],
        };
        for &imm in imms {
            let mut b = Builder::new(0x4000);
            b.instruction(0x4000, 4);
            // What goes to general registers and flags goes there by a temporary.
            let scalar = name.contains("2Si") || name.contains("Comi") || name.contains("comi");
            let d = if scalar { b.temp128() } else { xmm(1) };
            b.full(Op::Fp, op as u8, d, xmm(1), xmm(2), imm);
            if scalar {
                b.op(Op::Mov, Slot(8), d, NONE);
            }
            b.op_imm(Op::Exit, NONE, NONE, 0x4004);
            let mut t1 = T1::with_features::<Apart>(CodeMemory::new(256 << 10).unwrap(), features).unwrap();
            let mut cache = Cache::default();
            let id = cache.insert(Key { at: 0x4000, pc: 0x4000, mode: 0 }, 4, None, b.finish());
            assert!(t1.translate(&cache, id.number(), true, false, 0));
            let block = cache.block(id).unwrap();
            for &control in &controls {
                for (n, &(p, q)) in corners.iter().enumerate() {
                    let third = corners[(7 * n + 3) % corners.len()].0;
                    for w in [&mut x, &mut y] {
                        w.set128(xmm(1), p);
                        w.set128(xmm(2), q);
                        w.set128(xmm(3), third);
                        w.set(Slot(8), 0);
                        w.set(FPC, control);
                    }
                    (env0.raised, env1.raised) = (0, 0);
                    let out = t0::run(block, &mut x, &mut env0);
                    let before = t1.stats().interpreted;
                    let (left, done) = t1.run(&cache, id.number(), &mut y, &mut env1, 0);
                    if control & 0x1f80 == 0x1f80 {
                        let interpreted = t1.stats().interpreted != before;
                        assert_eq!(interpreted, !crate::vector::float(features, op as u8), "{op:?} {imm:#x}");
                    }
                    let stopped = matches!(left, Left::Outcome(o) if o.exit == t0::Exit::Fault);
                    let see = |w: &Regs| (w.get128(xmm(1)), w.get(Slot(8)), w.get(FPC), w.get(ir::PC));
                    assert_eq!(
                        (see(&x), env0.raised, out.exit == t0::Exit::Fault, u64::from(out.instructions)),
                        (see(&y), env1.raised, stopped, done),
                        "{op:?} {imm:#x} of {p:#034x}, {q:#034x} and {third:#034x} under {control:#x}"
                    );
                }
            }
        }
    }
}

/// No XMM register is named, so nothing but floating point itself asks for MXCSR; between its two operations the interpreter runs.
#[test]
fn temporaries_alone_are_computed_under_the_guests_mxcsr() {
    for n in 1..200 {
        let mut r = Random(n * 0x9e37_79b9);
        let mut b = Builder::new(0x4000);
        b.instruction(0x4000, 4);
        let t = b.constant(0x1f80 | r.below(4) << 13);
        b.op(Op::Mov, FPC, t, NONE);
        b.instruction(0x4004, 4);
        let (one, three, quotient) = (b.temp128(), b.temp128(), b.temp128());
        for (pair, v) in [(one, 1.0f64), (three, 3.0)] {
            b.op_imm(Op::MovI, pair, NONE, v.to_bits());
            b.op_imm(Op::MovI, Slot(pair.0 | 1), NONE, 0);
        }
        b.full(Op::Fp, FpOp::SubSd as u8, quotient, one, three, 0);
        let back = b.temp();
        b.full(Op::Bitrev, 64, back, Slot(8), NONE, 0);
        b.full(Op::Fp, FpOp::DivSd as u8, quotient, one, three, 0);
        b.op(Op::Mov, Slot(8), quotient, NONE);
        b.op_imm(Op::Exit, NONE, NONE, 0x4008);
        let list = super::blocks::compare(&mut r, b.finish());
        assert!(list.is_empty(), "{n}: {list:#?}");
    }
}

/// Exceptions are unmasked in some of the runs: the block must not take a store of MXCSR for a change of it.
#[test]
fn floating_point_behind_a_store_of_mxcsr_is_guarded_too() {
    for n in 1..200 {
        let mut r = Random(n * 0x9e37_79b9);
        let mut b = Builder::new(0x4000);
        b.instruction(0x4000, 4);
        let a = b.constant(0x100 + r.below(0x800));
        b.store(FPC, a, NONE, MemRef::new(2));
        b.instruction(0x4004, 4);
        b.full(Op::Fp, FpOp::DivSd as u8, xmm(1), xmm(1), xmm(2), 0);
        b.op_imm(Op::Exit, NONE, NONE, 0x4008);
        let list = super::blocks::compare(&mut r, b.finish());
        assert!(list.is_empty(), "{n}: {list:#?}");
    }
}
