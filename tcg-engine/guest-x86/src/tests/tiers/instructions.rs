//! The instructions of random programs, by kind.
//!
//! The idea: each function makes one instruction of its kind with random operands, and says whether OF and AF are defined behind
//! it.

use super::code::{Base, Ins, Operand, Vex};
use super::program::Gen;
use crate::tests::harness::DATA;
use crate::tests::random::Random;

impl Gen<'_> {
    /// One instruction, or a few that belong together.
    pub(super) fn one(&mut self) {
        match self.r.below(30) {
            0..6 => self.arithmetic(),
            6 => self.one_operand(),
            7 | 8 => self.shift(),
            9 => self.conditional(),
            10 => self.conditional(),
            11 | 12 => self.moves(),
            13 => self.lea(),
            14 => self.exchange(),
            15 => self.bit_test(),
            16 => self.multiply(),
            17 => self.stack(),
            18 => self.string(),
            19 => self.flags(),
            20 => self.scan(),
            21..24 => self.vector(),
            24 | 25 => self.vex(),
            26 if super::has_bits() => self.bits(),
            27 => self.segments(),
            _ => self.moves(),
        }
    }

    fn imm(&mut self, size: u8) -> Vec<u8> {
        let v = self.value();
        v.to_le_bytes()[..usize::from(size.min(4))].to_vec()
    }

    pub(super) fn arithmetic(&mut self) {
        let (op, size, prefix) = (self.r.below(9) as u8, self.size(), self.prefix());
        let wide = u8::from(size != 1);
        if op == 8 {
            let (rm, reg) = (self.source(), self.any());
            if self.r.below(2) == 0 {
                self.put(size, prefix, &[0x84 | wide], reg, rm, &[]);
            } else {
                let imm = self.imm(size);
                self.put(size, prefix, &[0xf6 | wide], 0, rm, &imm);
            }
            self.tainted = false;
            return;
        }
        match self.r.below(4) {
            0 => {
                let (reg, rm) = (self.dst(), self.source());
                self.put(size, prefix, &[op << 3 | 2 | wide], reg, rm, &[]);
            }
            1 => {
                let (reg, rm) = (self.any(), self.target());
                let locked = matches!(rm, Operand::Mem { .. }) && op != 7 && self.r.below(4) == 0;
                let (lock, rm): (&[u8], _) = if locked { (&[0xf0], self.apart(rm)) } else { (prefix, rm) };
                self.put(size, lock, &[op << 3 | wide], reg, rm, &[]);
            }
            2 => {
                let (rm, imm) = (self.target(), self.imm(size));
                self.put(size, prefix, &[0x80 | wide], op, rm, &imm);
            }
            _ => {
                let (rm, imm) = (self.target(), self.imm(1));
                self.put(size, prefix, &[if size == 1 { 0x80 } else { 0x83 }], op, rm, &imm);
            }
        }
        self.tainted = false;
    }

    fn one_operand(&mut self) {
        let (size, prefix, rm) = (self.size(), self.prefix(), self.target());
        let wide = u8::from(size != 1);
        match self.r.below(4) {
            0 => self.put(size, prefix, &[0xfe | wide], 0, rm, &[]),
            1 => self.put(size, prefix, &[0xfe | wide], 1, rm, &[]),
            2 => return self.put(size, prefix, &[0xf6 | wide], 2, rm, &[]),
            _ => self.put(size, prefix, &[0xf6 | wide], 3, rm, &[]),
        }
        self.tainted = false;
    }

    fn shift(&mut self) {
        let (size, op, rm) = (self.size(), [0, 1, 2, 3, 4, 5, 7][self.r.below(7) as usize], self.target());
        let wide = u8::from(size != 1);
        match self.r.below(4) {
            0 => self.put(size, &[], &[0xd0 | wide], op, rm, &[]),
            1 if self.counter != 1 && !self.pointers.contains(&1) => {
                // CF is defined only for counts below the size.
                let n = if size < 4 && self.r.below(2) == 0 { 0 } else { self.r.below(u64::from(size) * 8) };
                if size < 4 || self.r.below(2) == 0 {
                    self.mov_imm(1, n);
                }
                if size < 4 && rm == Operand::Reg(5) {
                    // CH.
                    return self.tainted = true;
                }
                self.put(size, &[], &[0xd2 | wide], op, rm, &[]);
            }
            2 if size >= 4 => {
                // SHLD, SHRD
                let (reg, n) = (self.any(), self.r.below(64) as u8);
                let op = if self.r.below(2) == 0 { 0xa4 } else { 0xac };
                self.put(size, &[], &[0x0f, op], reg, rm, &[n]);
            }
            _ => {
                let n = self.r.below(u64::from(size) * 8) as u8;
                self.put(size, &[], &[0xc0 | wide], op, rm, &[n]);
            }
        }
        self.tainted = true;
    }

    fn conditional(&mut self) {
        let c = self.cond();
        if self.r.below(2) == 0 {
            let rm = self.target();
            self.put(4, &[], &[0x0f, 0x90 | c], 0, rm, &[]);
        } else {
            let (size, reg, rm) = (self.size().max(2), self.dst(), self.source());
            self.put(size, &[], &[0x0f, 0x40 | c], reg, rm, &[]);
        }
    }

    fn moves(&mut self) {
        let (size, prefix) = (self.size(), self.prefix());
        let wide = u8::from(size != 1);
        match self.r.below(6) {
            0 => {
                let (reg, rm) = (self.dst(), self.source());
                self.put(size, prefix, &[0x8a | wide], reg, rm, &[]);
            }
            1 | 2 => {
                let (reg, rm) = (self.any(), self.target());
                self.put(size, prefix, &[0x88 | wide], reg, rm, &[]);
            }
            3 => {
                let (rm, imm) = (self.target(), self.imm(size));
                self.put(size, prefix, &[0xc6 | wide], 0, rm, &imm);
            }
            4 => {
                let (reg, rm, size) = (self.dst(), self.source(), size.max(2));
                let op = [0xb6, 0xb7, 0xbe, 0xbf][self.r.below(4) as usize];
                self.put(size, prefix, &[0x0f, op], reg, rm, &[]);
            }
            _ => {
                let (reg, rm) = (self.dst(), self.source());
                self.put(8, prefix, &[0x63], reg, rm, &[]);
            }
        }
    }

    fn lea(&mut self) {
        let (size, reg) = (self.size().max(2), self.dst());
        let (b, x) = (self.any(), self.dst());
        let index = (self.r.below(2) == 0).then(|| (x, self.r.below(4) as u8));
        let rm = Operand::Mem { base: Base::Reg(b), index, disp: self.value() as i32 };
        let prefix: &[u8] = if self.r.below(6) == 0 { &[0x67] } else { &[] };
        self.put(size, prefix, &[0x8d], reg, rm, &[]);
    }

    fn exchange(&mut self) {
        let (size, reg, rm) = (self.size(), self.dst(), self.target());
        let rm = self.apart(rm);
        let wide = u8::from(size != 1);
        let lock: &[u8] = if matches!(rm, Operand::Mem { .. }) && self.r.below(2) == 0 { &[0xf0] } else { &[] };
        match self.r.below(4) {
            0 => return self.put(size, lock, &[0x86 | wide], reg, rm, &[]),
            1 => self.put(size, lock, &[0x0f, 0xc0 | wide], reg, rm, &[]),
            _ if self.counter == 0 => return,
            2 => {
                if self.r.below(2) == 0 {
                    // So that they are equal: the accumulator is loaded first.
                    self.put(size, &[], &[0x8a | wide], 0, rm, &[]);
                }
                self.put(size, lock, &[0x0f, 0xb0 | wide], reg, rm, &[]);
            }
            _ => {
                let rm = self.mem();
                let rm = self.apart(rm);
                if self.counter != 2 {
                    let size = if self.r.below(3) == 0 { 8 } else { 4 };
                    self.put(size, lock, &[0x0f, 0xc7], 1, rm, &[]);
                }
                // Only ZF changes.
                return;
            }
        }
        self.tainted = false;
    }

    fn bit_test(&mut self) {
        let (size, op) = (self.size().max(2), self.r.below(4) as u8);
        if self.r.below(2) == 0 {
            let (rm, n) = (self.target(), self.r.below(256) as u8);
            self.put(size, &[], &[0x0f, 0xba], 4 + op, rm, &[n]);
        } else {
            let rm = self.target();
            // A bit number that stays near.
            let reg = if matches!(rm, Operand::Mem { .. }) { self.small } else { self.any() };
            self.put(size, &[], &[0x0f, 0xa3 | op << 3], reg, rm, &[]);
        }
    }

    fn multiply(&mut self) {
        let (size, rm) = (self.size(), self.source());
        let wide = u8::from(size != 1);
        match self.r.below(4) {
            0 => {
                let reg = self.dst();
                self.put(size.max(2), &[], &[0x0f, 0xaf], reg, rm, &[]);
            }
            1 => {
                let (reg, size) = (self.dst(), size.max(2));
                let imm = self.imm(size);
                self.put(size, &[], &[0x69], reg, rm, &imm);
            }
            _ if [0, 2].contains(&self.counter) => {}
            2 => {
                let op = 4 + self.r.below(2) as u8;
                self.put(size, &[], &[0xf6 | wide], op, rm, &[]);
            }
            _ => {
                // The upper half is small, as a compiler has it.
                self.c.raw(if self.r.below(2) == 0 { &[0x48, 0x99] } else { &[0x31, 0xd2] });
                let op = 6 + self.r.below(2) as u8;
                self.put(size, &[], &[0xf6 | wide], op, rm, &[]);
            }
        }
        self.tainted = true;
    }

    fn stack(&mut self) {
        let (s, d) = (self.any(), self.dst());
        let rex = |n: u8| if n >= 8 { vec![0x41] } else { vec![] };
        let mut push = rex(s);
        push.push(0x50 | s & 7);
        let mut pop = rex(d);
        pop.push(0x58 | d & 7);
        match self.r.below(4) {
            0 => {
                let m = self.mem();
                self.put(4, &[], &[0xff], 6, m, &[]);
                self.c.raw(&pop);
            }
            1 => {
                self.c.raw(&push);
                let m = self.mem();
                self.put(4, &[], &[0x8f], 0, m, &[]);
            }
            _ => {
                self.c.raw(&push);
                if self.r.below(2) == 0 {
                    self.arithmetic();
                }
                self.c.raw(&pop);
            }
        }
    }

    fn string(&mut self) {
        if [1, 6, 7, 0].contains(&self.counter) {
            return;
        }
        let n = self.r.below(24);
        self.mov_imm(1, n);
        let (to, from) = (self.pointer(), self.pointer());
        self.mov_imm(7, to);
        self.mov_imm(6, from);
        let op = [0xa4, 0xaa, 0xac, 0xae, 0xa6][self.r.below(5) as usize];
        let size = self.size();
        let mut bytes = vec![];
        match self.r.below(3) {
            0 => {}
            1 => bytes.push(0xf3),
            _ => bytes.push(0xf2),
        }
        match size {
            2 => bytes.push(0x66),
            8 => bytes.push(0x48),
            _ => {}
        }
        bytes.push(op | u8::from(size != 1));
        self.c.raw(&bytes);
        // With a count of zero nothing is compared.
        if matches!(op, 0xae | 0xa6) {
            self.tainted = true;
        }
    }

    fn flags(&mut self) {
        match self.r.below(6) {
            0 => self.c.raw(&[0xf5]),
            1 => self.c.raw(&[0xf8]),
            2 => self.c.raw(&[0xf9]),
            3 if self.counter != 0 && !self.pointers.contains(&0) => {
                self.define();
                self.c.raw(&[0x9f]);
            }
            4 => self.c.raw(&[0x9e]),
            _ => {
                self.define();
                self.c.raw(&[0x9c]);
                let d = self.dst();
                if d < 8 {
                    self.c.raw(&[0x58 | d]);
                } else {
                    self.c.raw(&[0x41, 0x58 | d & 7]);
                }
            }
        }
    }

    /// What reads and writes segment registers without changing the mode.
    fn segments(&mut self) {
        let (d, s, size) = (self.dst(), self.r.below(2) as u8, if self.r.below(2) == 0 { 4 } else { 8 });
        match self.r.below(4) {
            // For the kernel only.
            0 => self.c.raw(&[0x0f, 0x01, 0xf8]),
            1 => self.put(size, &[0xf3], &[0x0f, 0xae], s, Operand::Reg(d), &[]),
            2 => {
                // Mostly a base that leads somewhere.
                self.put(8, &[0xf3], &[0x0f, 0xae], s, Operand::Reg(d), &[]);
                let from = if self.r.below(8) == 0 { self.any() } else { d };
                let other = self.r.below(2) as u8;
                self.put(8, &[0xf3], &[0x0f, 0xae], 2 | other, Operand::Reg(from), &[]);
            }
            _ => {
                let (size, which) = (self.size().max(2), self.r.below(6) as u8);
                self.put(size, &[], &[0x8c], which, Operand::Reg(d), &[]);
            }
        }
    }

    fn scan(&mut self) {
        let (size, reg, rm) = (self.size().max(2), self.dst(), self.source());
        match self.r.below(5) {
            0 => self.put(size, &[], &[0x0f, 0xbc], reg, rm, &[]),
            1 => self.put(size, &[], &[0x0f, 0xbd], reg, rm, &[]),
            2 => self.put(size, &[0xf3], &[0x0f, 0xb8], reg, rm, &[]),
            3 => {
                let rex = if size == 8 { 0x48 } else { 0x40 } | reg >> 3;
                return self.c.raw(&[rex, 0x0f, 0xc8 | reg & 7]);
            }
            _ if self.counter != 0 && self.counter != 2 => {
                let op = if self.r.below(2) == 0 { 0x98 } else { 0x99 };
                let bytes = match size {
                    2 => [0x66, op],
                    8 => [0x48, op],
                    _ => [0x40, op],
                };
                return self.c.raw(&bytes);
            }
            _ => return,
        }
        self.tainted = true;
    }

    /// VEX-coded vectors of both widths.
    fn vex(&mut self) {
        let (reg, second, wide) = (self.r.below(16) as u8, self.r.below(16) as u8, self.r.below(3) != 0);
        let rm = if self.r.below(2) == 0 { self.mem() } else { Operand::Reg(self.r.below(16) as u8) };
        let pick = |r: &mut Random, list: &[u8]| list[r.below(list.len() as u64) as usize];
        let n = [self.r.next() as u8];
        let (map, prefix, op, second, imm): (u8, u8, u8, u8, &[u8]) = match self.r.below(13) {
            0 | 1 => (1, 1, pick(self.r, &INTEGER), second, &[]),
            2 | 3 => {
                // Loads and stores, aligned or not.
                let (p, op) = [(0, 0x10), (0, 0x11), (0, 0x28), (0, 0x29), (1, 0x6f), (1, 0x7f), (2, 0x6f), (2, 0x7f)]
                    [self.r.below(8) as usize];
                (1, p, op, 0, &[])
            }
            4 => (1, self.r.below(4) as u8, pick(self.r, &[0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f]), second, &[]),
            5 => {
                // VPSHUFB, VPERMD, variable shifts, VPMASKMOVD, fused operations.
                let list = [0x00, 0x36, 0x45, 0x46, 0x47, 0x8c, 0x8e, 0x98, 0x99, 0xa9, 0xab, 0xba, 0xbd, 0xa6, 0xb7];
                (2, 1, pick(self.r, &list), second, &[])
            }
            // VPMOVSX and VPMOVZX, VPABS, broadcasts.
            6 => (2, 1, pick(self.r, &[0x20, 0x23, 0x31, 0x33, 0x1c, 0x1e, 0x58, 0x59, 0x78, 0x18]), 0, &[]),
            7 => (3, 1, pick(self.r, &[0x02, 0x06, 0x0f, 0x38, 0x46]), second, &n),
            // VSQRTPS, conversions, VCVTPH2PS.
            8 => [
                (1, 0, 0x51, 0, &[][..]),
                (1, 0, 0x5a, 0, &[]),
                (1, 1, 0x5b, 0, &[]),
                (1, 1, 0xe6, 0, &[]),
                (2, 1, 0x13, 0, &[]),
            ][self.r.below(5) as usize],
            // Comparisons, VSHUFPS, VSHUFPD, VPSHUFD, VBLENDPS, VROUNDPD, VCVTPS2PH.
            9 => [
                (1, 0, 0xc2, second, &n[..]),
                (1, 3, 0xc2, second, &n),
                (1, 0, 0xc6, second, &n),
                (1, 1, 0xc6, second, &n),
            ][self.r.below(4) as usize],
            10 => [(1, 1, 0x70, 0, &n[..]), (3, 1, 0x0c, second, &n), (3, 1, 0x09, 0, &n), (3, 1, 0x1d, 0, &n)]
                [self.r.below(4) as usize],
            // Shifts by one count.
            11 => (1, 1, pick(self.r, &[0xd1, 0xd2, 0xd3, 0xe1, 0xe2, 0xf1, 0xf2, 0xf3]), second, &[]),
            // VEXTRACTI128; VZEROUPPER and VZEROALL have no operands.
            _ => match self.r.below(6) {
                0 => return self.c.raw(&[0xc5, 0xf8, 0x77]),
                1 => return self.c.raw(&[0xc5, 0xfc, 0x77]),
                _ => (3, 1, 0x39, 0, &n),
            },
        };
        let i = Ins { size: 4, prefixes: &[], op: &[op], reg, rm, imm, rex: false };
        // Fused operations on doubles.
        let w = map == 2 && op >= 0x96 && self.r.below(2) == 0;
        self.c.vex(i, Vex { map, prefix, w, wide, second });
    }

    /// The VEX-coded instructions on general registers, and MOVBE.
    fn bits(&mut self) {
        let (reg, second, rm, w) = (self.dst(), self.any(), self.source(), self.r.below(2) == 0);
        let ins = |op| Ins { size: if w { 8 } else { 4 }, prefixes: &[], op, reg, rm, imm: &[], rex: false };
        let vex = |map, prefix, second| Vex { map, prefix, w, wide: false, second };
        match self.r.below(7) {
            0 => self.c.vex(ins(&[0xf2]), vex(2, 0, second)),
            // BZHI, PEXT, PDEP.
            1 => {
                let prefix = [0, 2, 3][self.r.below(3) as usize];
                self.c.vex(ins(&[0xf5]), vex(2, prefix, second));
            }
            // BEXTR, SHLX, SARX, SHRX.
            2 => {
                let prefix = self.r.below(4) as u8;
                self.c.vex(ins(&[0xf7]), vex(2, prefix, second));
            }
            // BLSR, BLSMSK, BLSI: the result is the second register.
            3 => {
                let kind = 1 + self.r.below(3) as u8;
                self.c.vex(Ins { reg: kind, ..ins(&[0xf3]) }, vex(2, 0, reg));
            }
            4 => {
                let n = [self.r.next() as u8];
                self.c.vex(Ins { imm: &n, ..ins(&[0xf0]) }, vex(3, 3, 0));
            }
            5 => {
                let m = self.mem();
                self.c.ins(Ins { rm: m, ..ins(&[0x0f, 0x38, 0xf0]) });
            }
            // TZCNT, LZCNT.
            _ => {
                let op = if self.r.below(2) == 0 { 0xbc } else { 0xbd };
                self.c.ins(Ins { prefixes: &[0xf3], ..ins(&[0x0f, op]) });
            }
        }
    }

    fn vector(&mut self) {
        let x = self.r.below(16) as u8;
        let rm = if self.r.below(2) == 0 { self.mem() } else { Operand::Reg(self.r.below(16) as u8) };
        let pick = |r: &mut Random, list: &[u8]| list[r.below(list.len() as u64) as usize];
        let no = |prefixes, op, rm| Ins { size: 4, prefixes, op, reg: x, rm, imm: &[], rex: false };
        match self.r.below(11) {
            8 => {
                // Halves and lanes.
                let (p, op): (&[u8], u8) = [
                    (&[][..], 0x12),
                    (&[], 0x13),
                    (&[], 0x16),
                    (&[], 0x17),
                    (&[0x66], 0x14),
                    (&[0x66], 0x15),
                    (&[0xf3], 0x16),
                    (&[0xf2], 0x12),
                ][self.r.below(8) as usize];
                let rm = if matches!((p, op), ([], 0x13 | 0x17)) { self.mem() } else { rm };
                self.c.ins(no(p, &[0x0f, op], rm));
            }
            9 => {
                let n = [self.r.next() as u8];
                let (d, y) = (self.dst(), Operand::Reg(self.r.below(16) as u8));
                let s = Operand::Reg(self.any());
                match self.r.below(6) {
                    // PINSRW, PEXTRW, SHUFPS, PALIGNR, PSHUFB, ROUNDSD
                    0 => self.c.ins(Ins { imm: &n, ..no(&[0x66], &[0x0f, 0xc4], s) }),
                    1 => self.c.ins(Ins { reg: d, imm: &n, ..no(&[0x66], &[0x0f, 0xc5], y) }),
                    2 => self.c.ins(Ins { imm: &n, ..no(&[], &[0x0f, 0xc6], rm) }),
                    3 => self.c.ins(Ins { imm: &n, ..no(&[0x66], &[0x0f, 0x3a, 0x0f], rm) }),
                    4 => self.c.ins(no(&[0x66], &[0x0f, 0x38, 0x00], rm)),
                    _ => self.c.ins(Ins { imm: &n, ..no(&[0x66], &[0x0f, 0x3a, 0x0b], rm) }),
                }
            }
            10 => {
                let at = Operand::Mem { base: Base::None, index: None, disp: (DATA + 0x20) as i32 };
                if self.r.below(2) == 0 {
                    // STMXCSR
                    self.c.ins(Ins { reg: 3, ..no(&[], &[0x0f, 0xae], at) });
                } else {
                    let masks = if self.r.below(4) == 0 { self.r.next() as u32 & 0x1f80 } else { 0x1f80 };
                    let v = masks | self.r.next() as u32 & 0xe07f;
                    self.c.ins(Ins { reg: 0, imm: &v.to_le_bytes(), ..no(&[], &[0xc7], at) });
                    self.c.ins(Ins { reg: 2, ..no(&[], &[0x0f, 0xae], at) });
                }
            }
            0 | 1 => {
                let op = pick(self.r, &INTEGER);
                self.c.ins(no(&[0x66], &[0x0f, op], rm));
            }
            2 => {
                // Loads and stores, aligned or not.
                let (p, op): (&[u8], u8) = [
                    (&[][..], 0x10),
                    (&[], 0x11),
                    (&[], 0x28),
                    (&[], 0x29),
                    (&[0x66], 0x6f),
                    (&[0x66], 0x7f),
                    (&[0xf3], 0x6f),
                    (&[0xf3], 0x7f),
                ][self.r.below(8) as usize];
                self.c.ins(no(p, &[0x0f, op], rm));
            }
            3 => {
                let (p, op): (&[u8], u8) = [
                    (&[0xf3][..], 0x10),
                    (&[0xf3], 0x11),
                    (&[0xf2], 0x10),
                    (&[0xf2], 0x11),
                    (&[0xf3], 0x7e),
                    (&[0x66], 0xd6),
                ][self.r.below(6) as usize];
                self.c.ins(no(p, &[0x0f, op], rm));
            }
            4 => {
                // MOVD and MOVQ.
                let (d, s, size) = (self.dst(), self.any(), if self.r.below(2) == 0 { 8 } else { 4 });
                let (op, r) = if self.r.below(2) == 0 { (0x6e, s) } else { (0x7e, d) };
                self.c.ins(Ins { size, ..no(&[0x66], &[0x0f, op], Operand::Reg(r)) });
            }
            5 => {
                let p: &[u8] = [&[][..], &[0x66], &[0xf3], &[0xf2]][self.r.below(4) as usize];
                let op = pick(self.r, &[0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f, 0x51]);
                self.c.ins(no(p, &[0x0f, op], rm));
            }
            6 => {
                let n = [self.r.next() as u8];
                match self.r.below(3) {
                    0 => {
                        let p: &[u8] = [&[0x66][..], &[0xf2], &[0xf3]][self.r.below(3) as usize];
                        self.c.ins(Ins { imm: &n, ..no(p, &[0x0f, 0x70], rm) });
                    }
                    1 => {
                        let (op, ext) = [
                            (0x71, 2),
                            (0x71, 4),
                            (0x71, 6),
                            (0x72, 2),
                            (0x72, 4),
                            (0x72, 6),
                            (0x73, 2),
                            (0x73, 3),
                            (0x73, 6),
                            (0x73, 7),
                        ][self.r.below(10) as usize];
                        let y = Operand::Reg(self.r.below(16) as u8);
                        self.c.ins(Ins { imm: &[n[0] & 0x3f], reg: ext, ..no(&[0x66], &[0x0f, op], y) });
                    }
                    _ => {
                        let (d, y) = (self.dst(), Operand::Reg(self.r.below(16) as u8));
                        self.c.ins(Ins { reg: d, ..no(&[0x66], &[0x0f, 0xd7], y) });
                    }
                }
            }
            _ => {
                // Conversions and comparisons.
                match self.r.below(3) {
                    0 => {
                        let s = Operand::Reg(self.any());
                        self.c.ins(no(if self.r.below(2) == 0 { &[0xf2] } else { &[0xf3] }, &[0x0f, 0x2a], s));
                    }
                    1 => {
                        let (d, y) = (self.dst(), Operand::Reg(self.r.below(16) as u8));
                        self.c.ins(Ins {
                            reg: d,
                            ..no(if self.r.below(2) == 0 { &[0xf2] } else { &[0xf3] }, &[0x0f, 0x2c], y)
                        });
                    }
                    _ => {
                        self.c.ins(no(if self.r.below(2) == 0 { &[0x66] } else { &[] }, &[0x0f, 0x2e], rm));
                        self.tainted = false;
                    }
                }
            }
        }
    }
}

/// Two-operand integer instructions of the map 66 0F.
const INTEGER: [u8; 52] = [
    0xdb, 0xdf, 0xeb, 0xef, 0xfc, 0xfd, 0xfe, 0xd4, 0xf8, 0xf9, 0xfa, 0xfb, 0x74, 0x75, 0x76, 0x64, 0x65, 0x66, 0xda,
    0xde, 0xea, 0xee, 0x60, 0x61, 0x62, 0x6c, 0x68, 0x69, 0x6a, 0x6d, 0x63, 0x67, 0x6b, 0xd5, 0xe5, 0xe4, 0xf4, 0xf5,
    0xe0, 0xe3, 0xf6, 0xec, 0xed, 0xdc, 0xdd, 0xe8, 0xe9, 0xd8, 0xd9, 0xf2, 0xd2, 0xe2,
];
