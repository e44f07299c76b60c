//! Random blocks of operations that satisfy the verifier, for decoding and for running.

use crate::layout::CODE_BASE;
use ir::op::{FIRST_TEMP, NONE};
use ir::{AluOp, Block, Builder, MemRef, Op, Rel, Slot, flags};

/// A small generator; the sequence is the same at every run.
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// A value that tends to be interesting.
    pub fn value(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(0x100),
            1 => (1u64 << self.below(64)).wrapping_sub(self.below(3)),
            2 => self.next() as i32 as u64,
            3 => [0, 1, 31, 32, 63, 64, u64::MAX, 1 << 63][self.below(8) as usize],
            _ => self.next(),
        }
    }
}

const TWO: [Op; 24] = [
    Op::Pdep,
    Op::Pext,
    Op::Add64,
    Op::Add32,
    Op::Sub64,
    Op::Sub32,
    Op::And,
    Op::Or,
    Op::Xor,
    Op::AndNot,
    Op::Mul64,
    Op::Mul32,
    Op::MulHiU64,
    Op::MulHiS64,
    Op::Shl64,
    Op::Shr64,
    Op::Sar64,
    Op::Shl32,
    Op::Shr32,
    Op::Sar32,
    Op::Rotl64,
    Op::Rotl32,
    Op::And,
    Op::Add64,
];
const WITH_IMMEDIATE: [Op; 17] = [
    Op::Add64I,
    Op::Add32I,
    Op::Sub64I,
    Op::Sub32I,
    Op::AndI,
    Op::OrI,
    Op::XorI,
    Op::Shl64I,
    Op::Shr64I,
    Op::Sar64I,
    Op::Shl32I,
    Op::Shr32I,
    Op::Sar32I,
    Op::Rotl64I,
    Op::Rotl32I,
    Op::Add64I,
    Op::AndI,
];
const ONE: [Op; 12] = [
    Op::Mov,
    Op::Not,
    Op::Not32,
    Op::Neg64,
    Op::Neg32,
    Op::Zext8,
    Op::Zext16,
    Op::Zext32,
    Op::Sext8,
    Op::Sext16,
    Op::Sext32,
    Op::Popcnt,
];
/// What has no flag that hosts leave undefined; shifts are compared elsewhere.
const ALU: [AluOp; 13] = [
    AluOp::Add,
    AluOp::Or,
    AluOp::Adc,
    AluOp::Sbb,
    AluOp::And,
    AluOp::Sub,
    AluOp::Xor,
    AluOp::Cmp,
    AluOp::Test,
    AluOp::Inc,
    AluOp::Dec,
    AluOp::Neg,
    AluOp::Bt,
];

/// Bit manipulation, whose flags are compared elsewhere.
pub const BITS: [AluOp; 8] =
    [AluOp::Andn, AluOp::Blsi, AluOp::Blsr, AluOp::Blsmsk, AluOp::Bextr, AluOp::Bzhi, AluOp::Tzcnt, AluOp::Lzcnt];

pub struct Gen<'a> {
    pub r: &'a mut Random,
    pub b: Builder,
    /// Temporaries that are written on every way here.
    pub temps: Vec<Slot>,
    /// Pairs of them.
    pub pairs: Vec<Slot>,
    /// Temporaries of before the open skip, which its body may change.
    outer: Vec<Slot>,
    /// Whether flags may be written: what may stop is over.
    pub free: bool,
    /// Whether the block uses vector registers.
    vectors: bool,
}

/// A block at `pc` of some guest instructions, or one that counts from its page.
pub fn block(r: &mut Random, pc: u64) -> Block {
    let vectors = r.below(2) == 0;
    let (pc, b) = match r.below(2) {
        0 => (pc, Builder::new(pc)),
        _ => (pc & 0xfff, Builder::relative(pc & 0xfff, CODE_BASE)),
    };
    let mut g = Gen { r, b, temps: vec![], pairs: vec![], outer: vec![], free: false, vectors };
    let n = 1 + g.r.below(8);
    for i in 0..n {
        g.b.instruction(pc + 4 * i, 4);
        g.temps.clear();
        g.pairs.clear();
        if i > 0 && g.r.below(6) == 0 {
            let (c, to) = (g.r.below(16) as u8, pc + 4 * g.r.below(0x800));
            g.b.full(Op::ExitCond, c, NONE, NONE, NONE, to);
        }
        g.instruction();
    }
    match g.r.below(3) {
        0 => {
            let a = g.source();
            g.b.op(Op::ExitReg, NONE, a, NONE);
        }
        1 => {
            let a = g.source();
            let to = if g.r.below(2) == 0 { pc } else { pc + 0x40 };
            g.b.op_imm(Op::ExitIf, NONE, a, to);
            g.b.op_imm(Op::Exit, NONE, NONE, pc + 0x80);
        }
        _ if g.r.below(4) == 0 => g.b.op_imm(Op::Exit, NONE, NONE, pc.wrapping_sub(1 << 40)),
        _ => g.b.op_imm(Op::Exit, NONE, NONE, pc ^ 0x1000),
    }
    g.b.finish()
}

impl Gen<'_> {
    /// Reads and accesses first, then writes of guest words, as the verifier wants.
    fn instruction(&mut self) {
        self.free = false;
        for _ in 0..self.r.below(6) {
            let d = self.temp();
            self.write(d);
        }
        if self.r.below(2) == 0 {
            self.skip(true);
        }
        if self.vectors && self.r.below(2) == 0 {
            self.vector_temps();
        }
        match self.r.below(5) {
            0 | 1 => self.access(),
            4 => self.divide(),
            2 if self.vectors && self.r.below(2) == 0 => self.wide_effect(),
            2 if self.vectors => self.vector_effect(),
            3 if self.vectors && self.r.below(2) == 0 => self.vector_compare(),
            _ => {}
        }
        self.free = true;
        for _ in 0..self.r.below(4) {
            let d = self.temp();
            self.write(d);
        }
        for _ in 0..self.r.below(4) {
            if self.r.below(4) == 0 {
                self.skip(false);
            } else if self.vectors && self.r.below(2) == 0 {
                if self.r.below(3) == 0 { self.wide_guest() } else { self.vector_guest() }
            } else {
                self.guest();
            }
        }
    }

    pub fn word(&mut self) -> Slot {
        match Slot(8 + self.r.below(20) as u16) {
            CODE_BASE => Slot(8),
            s => s,
        }
    }

    fn temp(&mut self) -> Slot {
        // Also one that was used before, which no lifter does and the rules allow.
        if !self.temps.is_empty() && self.r.below(4) == 0 { self.old_temp() } else { self.b.temp() }
    }

    fn old_temp(&mut self) -> Slot {
        self.temps[self.r.below(self.temps.len() as u64) as usize]
    }

    pub fn source(&mut self) -> Slot {
        if !self.temps.is_empty() && self.r.below(3) != 0 { self.old_temp() } else { self.word() }
    }

    /// Some operation that writes `d`, which stops nowhere.
    fn write(&mut self, d: Slot) {
        let (a, b, v) = (self.source(), self.source(), self.r.value());
        match self.r.below(22) {
            0..3 => self.b.op_imm(Op::MovI, d, NONE, v),
            3..6 => self.b.op(TWO[self.r.below(TWO.len() as u64) as usize], d, a, b),
            6..8 => self.b.op_imm(WITH_IMMEDIATE[self.r.below(WITH_IMMEDIATE.len() as u64) as usize], d, a, v),
            8..10 => self.b.op(ONE[self.r.below(ONE.len() as u64) as usize], d, a, NONE),
            10 => {
                let (pos, len) = (self.r.below(57), 1 + self.r.below(56));
                let len = if self.r.below(2) == 0 { len.min(64 - pos) } else { 8 };
                let op = [Op::Deposit, Op::Extract, Op::SExtract][self.r.below(3) as usize];
                let b = if op == Op::Deposit { b } else { NONE };
                self.b.full(op, 0, d, a, b, pos | len << 8);
            }
            11 => {
                let (op, bits) = ([Op::Clz, Op::Ctz][self.r.below(2) as usize], [16, 32, 64][self.r.below(3) as usize]);
                self.b.full(op, bits, d, a, NONE, 0);
            }
            12 => {
                let rel = [Rel::Eq, Rel::Ne, Rel::Ltu, Rel::Leu, Rel::Lts, Rel::Les][self.r.below(6) as usize];
                if self.r.below(2) == 0 {
                    self.b.full(Op::SetRel, rel as u8, d, a, b, 0);
                } else {
                    self.b.full(Op::SetRelI, rel as u8, d, a, NONE, v);
                }
            }
            13 => {
                let c = self.source();
                self.b.full(Op::Select, 0, d, a, b, c.0.into());
            }
            14 => {
                let (a, b) = (if self.r.below(4) == 0 { NONE } else { a }, if self.r.below(3) == 0 { NONE } else { b });
                let op = [Op::Lea, Op::Lea32, Op::Lea16][self.r.below(3) as usize];
                self.b.full(op, self.r.below(4) as u8, d, a, b, v as i32 as u64);
            }
            15 => self.b.full(Op::Cond, self.r.below(16) as u8, d, NONE, NONE, 0),
            16 => self.b.full(Op::SelectCond, self.r.below(16) as u8, d, a, b, 0),
            17 => self.b.op(Op::FlagsGet, d, NONE, NONE),
            18 if self.r.below(2) == 0 => self.b.full(Op::Extr64, 0, d, a, b, v & 63),
            18 => self.b.full(Op::Bswap, [32, 64][self.r.below(2) as usize], d, a, NONE, 0),
            _ if !self.free => self.b.op_imm(Op::MovI, d, NONE, v),
            _ => self.arithmetic(d, a, b, v),
        }
        if d.0 >= FIRST_TEMP && !self.temps.contains(&d) {
            self.temps.push(d);
        }
    }

    fn arithmetic(&mut self, d: Slot, a: Slot, b: Slot, v: u64) {
        if self.r.below(3) == 0 {
            return self.manipulation(d, a, b, v);
        }
        let op = ALU[self.r.below(ALU.len() as u64) as usize];
        let bits = 8 << self.r.below(4);
        if op.compares() {
            // Something has to be written.
            self.b.op_imm(Op::MovI, d, NONE, v);
        }
        let d = if op.compares() { NONE } else { d };
        if self.r.below(2) == 0 && !matches!(op, AluOp::Inc | AluOp::Dec | AluOp::Neg) {
            self.b.alu(op, bits, d, a, b);
        } else {
            self.b.alu_imm(op, bits, d, a, v);
        }
    }

    fn manipulation(&mut self, d: Slot, a: Slot, b: Slot, v: u64) {
        let op = BITS[self.r.below(BITS.len() as u64) as usize];
        let bits = if matches!(op, AluOp::Tzcnt | AluOp::Lzcnt) { 16 } else { 32 } << self.r.below(2);
        match self.r.below(4) {
            _ if matches!(op, AluOp::Blsi | AluOp::Blsr | AluOp::Blsmsk | AluOp::Tzcnt | AluOp::Lzcnt) => {
                self.b.alu(op, bits, d, a, NONE);
            }
            0 => self.b.alu_imm(op, bits, d, a, v),
            // What controls a field is mostly small.
            1 if op != AluOp::Andn => {
                let control = self.b.constant(self.r.below(70) | self.r.below(70) << 8);
                self.b.alu(op, bits, d, a, control);
            }
            _ => self.b.alu(op, bits, d, a, b),
        }
        // Flags that hosts may have others of are nobody's.
        self.b.alu(AluOp::Test, 64, NONE, d, d);
    }

    /// Something that changes a guest word.
    fn guest(&mut self) {
        let (d, a, b) = (self.word(), self.source(), self.source());
        match self.r.below(6) {
            0 => {
                let kind = [flags::Kind::X86Add, flags::Kind::X86Sub, flags::Kind::X86Logic][self.r.below(3) as usize];
                let bits = [8u8, 16, 32, 64][self.r.below(4) as usize];
                let t = self.b.temp();
                let op = [Op::Add64, Op::Sub64, Op::And][match kind {
                    flags::Kind::X86Add => 0,
                    flags::Kind::X86Sub => 1,
                    _ => 2,
                }];
                self.b.op(op, t, a, b);
                self.b.flags(kind, bits, a, b, t);
                self.temps.push(t);
            }
            1 => {
                let kind = [flags::Kind::X86Shl, flags::Kind::X86Shr][self.r.below(2) as usize];
                let bits = [32u8, 64][self.r.below(2) as usize];
                let n = self.b.new_imm(Op::AndI, b, u64::from(bits) - 1);
                // What is recorded as the result need not be that of the shift.
                let t = self.b.new2(if self.r.below(2) == 0 { Op::Shl64 } else { Op::Xor }, a, n);
                self.b.flags(kind, bits, a, n, t);
                self.temps.push(t);
            }
            _ => self.write(d),
        }
    }

    /// A skip over something that changes temporaries of before, or guest words too.
    fn skip(&mut self, temps_only: bool) {
        let s = if self.r.below(2) == 0 {
            let a = self.source();
            self.b.skip_if_zero(a)
        } else {
            let c = self.r.below(16) as u8;
            self.b.skip_unless(flags::Cond(c))
        };
        let before = self.temps.len();
        let pairs = self.pairs.len();
        self.outer = self.temps.clone();
        for _ in 0..1 + self.r.below(3) {
            let change = !self.outer.is_empty() && self.r.below(2) == 0;
            let d = match () {
                () if change => self.outer[self.r.below(self.outer.len() as u64) as usize],
                () if temps_only => self.b.temp(),
                () => self.word(),
            };
            self.write(d);
        }
        if self.vectors && !temps_only && self.r.below(2) == 0 {
            self.vector_guest();
        }
        self.b.close(s);
        // What only the body has written is not there on the other way.
        self.temps.truncate(before);
        self.pairs.truncate(pairs);
    }

    fn divide(&mut self) {
        let (d, b) = (Slot(8), Slot(10));
        let (a, aux) = (self.source(), [2, 3, 0x82, 0x83][self.r.below(4) as usize]);
        if [d, b].contains(&a) && self.r.below(4) != 0 {
            return;
        }
        self.b.full(Op::Divide, aux, d, a, b, 0);
    }

    fn access(&mut self) {
        let (a, x) = (self.source(), self.source());
        let index = if self.r.below(2) == 0 { NONE } else { x };
        let log2 = self.r.below(4) as u8;
        let m = MemRef {
            disp: self.r.below(0x100) as i32 - 0x80,
            scale: if index == NONE { 0 } else { self.r.below(4) as u8 },
            signed: self.r.below(4) == 0,
            wrap: u8::from(self.r.below(6) == 0),
            ..MemRef::new(log2)
        };
        match self.r.below(3) {
            0 => {
                let v = self.source();
                self.b.store(v, a, index, MemRef { signed: false, ..m });
            }
            1 => {
                let op = ALU[self.r.below(9) as usize];
                if op.compares() {
                    return;
                }
                let v = self.source();
                self.b.alu_mem(op, v, a, index, MemRef { signed: false, write_intent: true, ..m });
            }
            _ => {
                let d = self.temp();
                self.b.load(d, a, index, m);
                if !self.temps.contains(&d) {
                    self.temps.push(d);
                }
            }
        }
    }
}
