//! What VEX-coded instructions are lifted into: halves next to each other, and halves with the upper one cleared.

use code::{Cache, CodeMemory, Key};
use fp::sse::FpOp;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use ir::op::{FPC, FpRef, Inst, NONE};
use ir::vec::VecOp;
use ir::{Block, Builder, MemRef, Op, Regs, Slot};
use mem::tlb::Shape;

use super::blocks::{Apart, compare, compare_on};
use super::random::{Gen, Random};
use super::vectors::xmm;
use crate::asm::Asm;
use crate::emit::Emitter;
use crate::features::Features;
use crate::mutants::{Mutant, plant};
use crate::run::{Left, T1};
use crate::stubs::{Outside, Stubs};

/// The upper half of what `low` is the lower half of.
const fn upper(low: Slot) -> Slot {
    Slot(low.0 + 2)
}

fn clear_upper(b: &mut Builder, d: Slot) {
    b.op_imm(Op::MovI, upper(d), NONE, 0);
    b.op_imm(Op::MovI, Slot(d.0 + 3), NONE, 0);
}

/// Two pairs: a vector register's, or temporaries.
type Wide = (Slot, Slot);

const fn register(low: Slot) -> Wide {
    (low, upper(low))
}

/// An operation on integers, on both halves.
fn integer(b: &mut Builder, op: VecOp, d: Slot, a: Wide, v: Wide, imm: (u64, u64)) {
    b.full(Op::Vec, op as u8, d, a.0, v.0, imm.0);
    b.full(Op::Vec, op as u8, upper(d), a.1, v.1, imm.1);
}

/// A floating-point operation on both halves, which raise their exceptions together.
fn float(b: &mut Builder, op: FpOp, d: Slot, [a, v, c]: [Wide; 3], imm: u64) {
    let t = b.temp128();
    let third = |s| if op.is_fused() { FpRef::with_third(s) } else { imm };
    b.full(Op::Fp, op as u8, t, a.0, v.0, third(c.0) | FpRef::MORE);
    b.full(Op::Fp, op as u8, upper(d), a.1, v.1, third(c.1));
    b.op(Op::Mov128, d, t, NONE);
}

fn place(disp: i32, aligned: bool) -> (MemRef, MemRef) {
    let first = MemRef { disp, aligned, double: true, ..MemRef::new(4) };
    (first, MemRef { disp: disp + 16, aligned: false, double: false, ..first })
}

fn load(b: &mut Builder, a: Slot, disp: i32, aligned: bool) -> Wide {
    let (high, low) = (b.temp128(), b.temp128());
    let (first, second) = place(disp, aligned);
    b.load(low, a, NONE, first);
    b.load(high, a, NONE, second);
    (low, high)
}

fn store(b: &mut Builder, s: Wide, a: Slot, disp: i32, looks: bool) {
    let (first, second) = place(disp, !looks);
    if looks {
        let t = b.temp128();
        b.load(t, a, NONE, MemRef { write_intent: true, ..first });
        b.load(t, a, NONE, MemRef { write_intent: true, ..second });
    }
    b.store(s.0, a, NONE, first);
    b.store(s.1, a, NONE, second);
}

/// A fused operation on the lowest lane of `d`, which keeps the others.
fn scalar(b: &mut Builder, op: FpOp, d: Slot, [a, v, c]: [Slot; 3]) {
    let t = b.temp128();
    b.full(Op::Fp, op as u8, t, a, v, FpRef::with_third(c));
    match format!("{op:?}").ends_with("Sd") {
        true => b.op(Op::Mov, d, t, NONE),
        false => b.full(Op::Deposit, 0, d, d, t, 32 << 8),
    }
    clear_upper(b, d);
}

/// Lanes that get longer: those of the upper half from the upper part of 128 bits.
fn longer(b: &mut Builder, op: VecOp, bytes: u64, d: Slot, a: Slot) {
    let t = b.temp128();
    b.full(Op::Vec, VecOp::ShrBytes as u8, t, a, NONE, bytes);
    b.full(Op::Vec, op as u8, upper(d), t, NONE, 0);
    b.full(Op::Vec, op as u8, d, a, NONE, 0);
}

/// The same of floating point.
fn longer_float(b: &mut Builder, op: FpOp, d: Slot, a: Slot) {
    let (t, low) = (b.temp128(), b.temp128());
    b.full(Op::Vec, VecOp::ShrBytes as u8, t, a, NONE, 8);
    b.full(Op::Fp, op as u8, low, a, a, FpRef::MORE);
    b.full(Op::Fp, op as u8, upper(d), t, t, 0);
    b.op(Op::Mov128, d, low, NONE);
}

fn shorter(b: &mut Builder, op: FpOp, d: Slot, a: Wide) {
    let (low, high) = (b.temp128(), b.temp128());
    b.full(Op::Fp, op as u8, low, a.0, a.0, FpRef::MORE);
    b.full(Op::Fp, op as u8, high, a.1, a.1, 0);
    b.full(Op::Vec, VecOp::UnpackLo64 as u8, d, low, high, 0);
    clear_upper(b, d);
}

fn broadcast(b: &mut Builder, op: VecOp, d: Slot, a: Slot, wide: bool) {
    let t = b.temp128();
    b.full(Op::Vec, op as u8, t, a, NONE, 0);
    b.op(Op::Mov128, d, t, NONE);
    match wide {
        true => b.op(Op::Mov128, upper(d), t, NONE),
        false => clear_upper(b, d),
    }
}

fn permute(b: &mut Builder, d: Slot, a: Wide, imm: u64) {
    let words = [a.0, Slot(a.0.0 + 1), a.1, Slot(a.1.0 + 1)];
    let list = [0, 1, 2, 3].map(|n| {
        let t = b.temp();
        b.op(Op::Mov, t, words[(imm >> (2 * n) & 3) as usize], NONE);
        t
    });
    for (n, t) in (0..).zip(list) {
        b.op(Op::Mov, Slot(d.0 + n), t, NONE);
    }
}

/// A word from memory, and zeros above it.
fn load_word(b: &mut Builder, d: Slot, a: Slot, disp: i32, log2: u8) {
    b.load(d, a, NONE, MemRef { disp, ..MemRef::new(log2) });
    b.op_imm(Op::MovI, Slot(d.0 + 1), NONE, 0);
    clear_upper(b, d);
}

const LONGER: [(VecOp, u64); 4] =
    [(VecOp::Sext8To16, 8), (VecOp::Zext8To32, 4), (VecOp::Zext16To64, 4), (VecOp::Sext8To64, 2)];

fn zero_uppers(b: &mut Builder) {
    for n in 0..16 {
        clear_upper(b, xmm(n));
    }
}

/// A block of one guest instruction.
fn block(f: impl Fn(&mut Builder)) -> Block {
    let mut b = Builder::new(0x4000);
    b.instruction(0x4000, 4);
    f(&mut b);
    b.op_imm(Op::Exit, NONE, NONE, 0x4004);
    b.finish()
}

impl Gen<'_> {
    /// A register's lower half; the last two are in memory.
    fn low(&mut self) -> Slot {
        xmm([0, 1, 2, 3, 13, 14, 15][self.r.below(7) as usize])
    }

    /// An operand; now and then two halves that are not of one register.
    fn halves(&mut self) -> Wide {
        let (a, other) = (self.low(), self.low());
        if self.r.below(8) == 0 { (a, upper(other)) } else { register(a) }
    }

    /// What may stop: floating point, loads, stores.
    pub fn wide_effect(&mut self) {
        let (d, base) = (self.low(), self.word());
        let disp = self.r.below(0x100) as i32 - 0x80;
        let aligned = self.r.below(3) == 0;
        match self.r.below(9) {
            6 => {
                let op = [FpOp::CvtPs2Pd, FpOp::CvtDq2Pd, FpOp::CvtPh2Ps][self.r.below(3) as usize];
                let a = self.low();
                longer_float(&mut self.b, op, d, a);
            }
            7 => {
                let op = [FpOp::CvtPd2Ps, FpOp::CvtPd2Dq, FpOp::CvttPd2Dq][self.r.below(3) as usize];
                let a = if aligned { load(&mut self.b, base, disp, false) } else { self.halves() };
                shorter(&mut self.b, op, d, a);
            }
            8 => load_word(&mut self.b, d, base, disp, 2 + self.r.below(2) as u8),
            0 => {
                let s = self.halves();
                store(&mut self.b, s, base, disp, !aligned);
            }
            1 => {
                let v = load(&mut self.b, base, disp, aligned);
                let op = VecOp::ALL[self.r.below(VecOp::ALL.len() as u64) as usize];
                let (a, imm) = (self.halves(), self.r.below(256));
                integer(&mut self.b, op, d, a, v, (imm, imm));
            }
            2 => {
                // Into a register.
                let (first, second) = place(disp, aligned);
                let t = self.b.temp128();
                self.b.load(t, base, NONE, first);
                self.b.load(upper(d), base, NONE, second);
                self.b.op(Op::Mov128, d, t, NONE);
            }
            3 => {
                self.b.load(d, base, NONE, MemRef { disp, aligned, ..MemRef::new(4) });
                clear_upper(&mut self.b, d);
            }
            n => {
                let v = if n == 4 { load(&mut self.b, base, disp, aligned) } else { self.halves() };
                let op = FpOp::ALL[self.r.below(FpOp::ALL.len() as u64) as usize];
                let (mut list, imm) = ([self.halves(), v, self.halves()], self.r.below(256));
                if self.r.below(4) != 0 {
                    // Fused operations have their destination among the operands.
                    list[[0, 2][self.r.below(2) as usize]] = register(d);
                }
                let name = format!("{op:?}");
                let [a, v, c] = list.map(|w| w.0);
                match self.r.below(3) {
                    _ if op.is_fused() && (name.ends_with("Ss") || name.ends_with("Sd")) => {
                        scalar(&mut self.b, op, d, [a, v, c]);
                    }
                    0 => {
                        let imm = if op.is_fused() { FpRef::with_third(c) } else { imm };
                        self.b.full(Op::Fp, op as u8, d, a, v, imm);
                        clear_upper(&mut self.b, d);
                    }
                    _ => float(&mut self.b, op, d, list, imm),
                }
            }
        }
    }

    /// What stops nowhere.
    pub fn wide_guest(&mut self) {
        let (d, a, v) = (self.low(), self.halves(), self.halves());
        let op = VecOp::ALL[self.r.below(VecOp::ALL.len() as u64) as usize];
        let (imm, other) = (self.r.below(256), self.r.below(256));
        match self.r.below(13) {
            10 => {
                let (op, bytes) = LONGER[self.r.below(4) as usize];
                longer(&mut self.b, op, if self.r.below(6) == 0 { 8 } else { bytes }, d, a.0);
            }
            11 => {
                let op = [VecOp::Shuffle32, VecOp::DupLo64][self.r.below(2) as usize];
                broadcast(&mut self.b, op, d, a.0, self.r.below(2) == 0);
            }
            12 => permute(&mut self.b, d, a, imm),
            0 => zero_uppers(&mut self.b),
            1 => clear_upper(&mut self.b, d),
            2 => {
                self.b.op_imm(Op::MovI, d, NONE, 0);
                self.b.op_imm(Op::MovI, Slot(d.0 | 1), NONE, 0);
                clear_upper(&mut self.b, d);
            }
            3 => {
                self.b.op(Op::Mov128, d, a.0, NONE);
                self.b.op(Op::Mov128, upper(d), a.1, NONE);
            }
            4 => {
                let s = [a.0, a.1][self.r.below(2) as usize];
                self.b.op(Op::Mov128, d, s, NONE);
                clear_upper(&mut self.b, d);
            }
            5 | 6 => {
                self.b.full(Op::Vec, op as u8, d, a.0, v.0, imm);
                clear_upper(&mut self.b, d);
            }
            7 => integer(&mut self.b, op, d, a, (v.0, v.0), (imm, imm)),
            _ => integer(&mut self.b, op, d, a, v, (imm, if self.r.below(3) == 0 { other } else { imm })),
        }
    }
}

/// Every destination that is an operand, and one that is none; registers of which one is in memory.
const PLACES: [[u64; 4]; 7] =
    [[1, 1, 2, 3], [2, 1, 2, 3], [3, 1, 2, 3], [4, 1, 2, 3], [14, 14, 2, 3], [14, 1, 15, 14], [1, 15, 14, 1]];

fn check(r: &mut Random, what: &str, b: &Block) {
    for features in [Features::of_host(), Features::of_host().without_v3()] {
        let list = compare_on(features, r, b.clone());
        assert!(list.is_empty(), "{what} with {features:?}: {list:#?}\n{b}");
    }
}

#[test]
fn every_integer_operation_on_128_and_256_bits_is_the_interpreters() {
    let mut r = Random(1);
    for &op in VecOp::ALL {
        for [d, a, v, _] in PLACES.map(|p| p.map(xmm)) {
            for imm in [(0, 0), (0x1b, 0x1b), (5, 2), (0xff, 0x0f), (17, 17), (0x100, 0x100)] {
                let what = format!("{op:?} {imm:x?}");
                check(&mut r, &what, &block(|b| integer(b, op, d, register(a), register(v), imm)));
                // A count is the same for both halves.
                check(&mut r, &what, &block(|b| integer(b, op, d, register(a), (v, v), imm)));
                let narrow = |b: &mut Builder| {
                    b.full(Op::Vec, op as u8, d, a, v, imm.0);
                    clear_upper(b, d);
                };
                check(&mut r, &what, &block(narrow));
            }
        }
    }
}

#[test]
fn every_floating_point_operation_on_128_and_256_bits_is_the_interpreters() {
    let mut r = Random(2);
    for &op in FpOp::ALL {
        for places in PLACES.map(|p| p.map(xmm)) {
            let [d, sources @ ..] = places;
            for imm in [0, 4, 9, 0x1b, 0xff] {
                let what = format!("{op:?} {imm:x}");
                check(&mut r, &what, &block(|b| float(b, op, d, sources.map(register), imm)));
                let imm = if op.is_fused() { FpRef::with_third(sources[2]) } else { imm };
                let narrow = |b: &mut Builder| {
                    b.full(Op::Fp, op as u8, d, sources[0], sources[1], imm);
                    clear_upper(b, d);
                };
                check(&mut r, &what, &block(narrow));
                if op.is_fused() && format!("{op:?}").contains("S") {
                    check(&mut r, &what, &block(|b| scalar(b, op, d, sources)));
                }
            }
        }
    }
}

/// The instructions on vectors that a block becomes, stubs and guards apart.
fn emitted(b: &Block) -> Vec<Mnemonic> {
    let mut a = Asm::default();
    a.start(0);
    let outside =
        Outside { op: 0x1234_5678_9abc, refill: 0x2345_6789_abcd, run: 0x3456_789a_bcde, memos: 1 << 20, avx: true };
    let stubs = Stubs::emit(&mut a, outside, Shape::default());
    let mut e = Emitter::new(stubs, Features::of_host());
    e.emit(b, 0, (0x1000, 0), None);
    let code = Decoder::with_ip(64, &e.a.buf, 0x1000, DecoderOptions::NONE).into_iter();
    let vector = |r: Register| r.is_xmm() || r.is_ymm();
    let main = code.take_while(|i| i.flow_control() != iced_x86::FlowControl::UnconditionalBranch);
    let on_vectors = main.filter(|i| (0..i.op_count()).any(|n| vector(i.op_register(n))) || i.op_count() == 0);
    on_vectors.map(|i| i.mnemonic()).collect()
}

#[test]
fn an_instruction_of_the_guest_is_one_of_the_host() {
    let f = Features::of_host();
    if !f.avx2 || !f.fma {
        return;
    }
    let [x, y, z] = [1, 2, 3].map(xmm);
    let [rx, ry, rz] = [x, y, z].map(register);
    let one = |b: &Block, m: Mnemonic| assert_eq!(emitted(b), [m], "{b}");
    one(&block(|b| integer(b, VecOp::Add32, x, ry, rz, (0, 0))), Mnemonic::Vpaddd);
    one(&block(|b| integer(b, VecOp::Shl64I, x, ry, (NONE, NONE), (3, 3))), Mnemonic::Vpsllq);
    one(&block(|b| float(b, FpOp::MulPs, x, [ry, rz, rz], 0)), Mnemonic::Vmulps);
    one(&block(|b| float(b, FpOp::FmaddPd, x, [ry, rz, rx], 0)), Mnemonic::Vfmadd231pd);
    one(&block(|b| float(b, FpOp::FmaddPd, x, [rx, rz, ry], 0)), Mnemonic::Vfmadd132pd);
    one(&block(|b| float(b, FpOp::FmaddPd, x, [ry, rx, rz], 0)), Mnemonic::Vfmadd213pd);
    one(&block(|b| scalar(b, FpOp::FnmsubSs, x, [y, z, x])), Mnemonic::Vfnmsub231ss);
    one(&block(zero_uppers), Mnemonic::Vzeroupper);
    let scalar_sum = |b: &mut Builder| {
        b.full(Op::Fp, FpOp::AddSd as u8, x, y, z, 0);
        clear_upper(b, x);
    };
    one(&block(scalar_sum), Mnemonic::Vaddsd);
    for looks in [false, true] {
        one(&block(|b| store(b, rx, Slot(8), 0x20, looks)), Mnemonic::Vmovups);
    }
    one(&block(|b| longer(b, VecOp::Zext16To64, 4, x, y)), Mnemonic::Vpmovzxwq);
    one(&block(|b| longer_float(b, FpOp::CvtPs2Pd, x, y)), Mnemonic::Vcvtps2pd);
    one(&block(|b| shorter(b, FpOp::CvttPd2Dq, x, ry)), Mnemonic::Vcvttpd2dq);
    one(&block(|b| broadcast(b, VecOp::Shuffle32, x, y, true)), Mnemonic::Vpbroadcastd);
    one(&block(|b| broadcast(b, VecOp::DupLo64, x, y, false)), Mnemonic::Vpbroadcastq);
    one(&block(|b| permute(b, x, ry, 0x1b)), Mnemonic::Vpermq);
    one(&block(|b| load_word(b, x, Slot(8), 4, 3)), Mnemonic::Vmovq);
    let sum = block(|b| {
        let v = load(b, Slot(8), 0x20, false);
        float(b, FpOp::AddPs, x, [ry, v, v], 0);
    });
    assert_eq!(emitted(&sum), [Mnemonic::Vmovups, Mnemonic::Vaddps]);
    assert!(sum.insts.iter().any(|x: &Inst| x.op == Op::Load128));
}

/// A load's address is a word of the register that it changes; a temporary of 256 bits is taken apart.
#[test]
fn halves_of_temporaries_are_found_where_they_are() {
    for n in 0..200 {
        let mut r = Random(n * 77 + 1);
        let b = block(|b| {
            let v = load(b, Slot(8), 0, false);
            let t = b.temp128();
            b.full(Op::Vec, VecOp::Xor as u8, t, v.1, xmm(1), 0);
            b.full(Op::Vec, VecOp::Sub16 as u8, xmm(2), v.0, t, 0);
            b.op(Op::Mov128, upper(xmm(3)), v.1, NONE);
            clear_upper(b, xmm(2));
        });
        let list = compare(&mut r, b);
        assert!(list.is_empty(), "{n}: {list:#?}");
    }
}

/// Three blocks linked to each other: the first uses lower halves, the second upper ones, the third lower ones again. What is
/// in the words of register 1 then.
fn linked() -> Vec<u64> {
    let mut t1 = T1::with_features::<Apart>(CodeMemory::new(256 << 10).unwrap(), Features::of_host()).unwrap();
    let mut cache = Cache::default();
    let ids = [0u64, 1, 2].map(|n| {
        let pc = 0x4000 + 16 * n;
        let mut b = Builder::new(pc);
        b.instruction(pc, 4);
        if n == 1 {
            integer(&mut b, VecOp::Add32, xmm(1), register(xmm(1)), register(xmm(2)), (0, 0));
        } else {
            b.full(Op::Fp, FpOp::AddPs as u8, xmm(1), xmm(1), xmm(2), 0);
        }
        b.op_imm(Op::Exit, NONE, NONE, pc + 16);
        let id = cache.insert(Key { at: pc, pc, mode: 0 }, 4, None, b.finish());
        assert!(t1.translate(&cache, id.number(), true, false, 0));
        id
    });
    let mut env = Apart::new(&mut Random(1));
    let mut x = Box::new(Regs::default());
    x.set(FPC, 0x1f80);
    for w in 32..96 {
        x.set(Slot(w), u64::from(w) * 0x0001_0001_0001_0001);
    }
    for next in [Some(ids[1]), Some(ids[2]), None] {
        let mut y = x.clone();
        let left = t1.run(&cache, ids[0].number(), &mut y, &mut env, 1000).0;
        match (left, next) {
            (Left::Direct(exit), Some(next)) => t1.link(&env, exit, next.number(), 0),
            _ => x = y,
        }
    }
    (36..40).map(|w| x.get(Slot(w))).collect()
}

#[test]
fn upper_halves_are_taken_over_where_lower_ones_are_there() {
    let words = |w: u64| w * 0x0001_0001_0001_0001;
    let float = |a: u64, b: u64| {
        let lane = |n: u32| f32::from_bits((a >> n) as u32) + f32::from_bits((b >> n) as u32);
        u64::from(lane(0).to_bits()) | u64::from(lane(32).to_bits()) << 32
    };
    let lanes = |a: u64, b: u64| {
        let lane = |n: u32| (a >> n) as u32;
        u64::from(lane(0).wrapping_add(b as u32)) | u64::from(lane(32).wrapping_add((b >> 32) as u32)) << 32
    };
    let low = |w: u64| float(lanes(float(words(w), words(w + 4)), words(w + 4)), words(w + 4));
    let right = vec![low(36), low(37), words(38 + 42), words(39 + 43)];
    assert_eq!(linked(), right);
    if Features::of_host().avx2 {
        plant(Some(Mutant::UppersOld));
        let found = linked() != right;
        plant(None);
        assert!(found);
    }
}
