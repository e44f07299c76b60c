//! Random operations on vector registers, and the words that they start from.

use fp::sse::FpOp;
use ir::op::{FPC, NONE};
use ir::vec::VecOp;
use ir::{MemRef, Op, Slot, flags};

use super::random::{Gen, Random};

/// Values of FPC: mostly every exception masked; any rounding, flushing of denormals, and sticky flags.
pub fn control(r: &mut Random) -> u64 {
    let masks = if r.below(6) == 0 { r.next() & 0x1f80 } else { 0x1f80 };
    masks | r.next() & 0xe040 | if r.below(3) == 0 { r.next() & 0x3f } else { 0 }
}

/// A word that is interesting as one double or two singles.
pub fn float_word(r: &mut Random) -> u64 {
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
    match r.below(5) {
        0 => r.next(),
        1 | 2 => DOUBLES[r.below(14) as usize],
        3 => u64::from(SINGLES[r.below(12) as usize]) << 32 | u64::from(SINGLES[r.below(12) as usize]),
        _ => ((r.below(2000) as f64 - 1000.0) / 8.0).to_bits(),
    }
}

/// XMM register `n`.
pub fn xmm(n: u64) -> Slot {
    Slot(32 + 4 * n as u16)
}

impl Gen<'_> {
    fn any_xmm(&mut self) -> Slot {
        // The last two are not in registers.
        xmm([0, 1, 2, 3, 7, 13, 14, 15][self.r.below(8) as usize])
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
        let imm = self.r.below(256);
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
                self.b.store(half, a, NONE, MemRef::new(log2));
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
