//! Random guest programs for comparing the tiers: they end by themselves, and no flag that the architecture leaves undefined
//! is read by them.
//!
//! The idea: a program is made of pieces (an instruction, a loop, a branch over a few instructions, a call), most of whose
//! memory operands go through two registers that point to interesting places. OF and AF after shifts are tracked, so that
//! whoever reads them gets a comparison put in front.

use super::code::{Base, Code, Ins, Label, Operand};
use super::{DATA_LEN, FLIP, READ_ONLY, UNMAPPED};
use crate::tests::harness::{CODE, DATA, HIGH, pte};
use crate::tests::random::Random;

/// A program with its data.
pub struct Program {
    /// Code for [`CODE`] or behind it on its page.
    pub code: Code,
    /// Initial registers.
    pub regs: [u64; 16],
    /// Initial flags.
    pub flags: u64,
    /// At privilege level 3.
    pub user: bool,
}

/// Whether OF and AF may be undefined.
type Tainted = bool;

pub(super) struct Gen<'a> {
    pub(super) r: &'a mut Random,
    pub(super) c: Code,
    pub(super) tainted: Tainted,
    /// Registers that are pointers.
    pub(super) pointers: [u8; 2],
    /// Register that is a small number.
    pub(super) small: u8,
    /// Counter of the loop that is open.
    pub(super) counter: u8,
    pub(super) user: bool,
    /// Functions to be made.
    pub(super) functions: Vec<Label>,
    /// Offsets of immediates that stores may change.
    pub(super) patchable: Vec<usize>,
}

/// A program from random numbers.
pub fn program(r: &mut Random) -> Program {
    let mut order: Vec<u8> = (0..16).filter(|n| *n != 4).collect();
    for i in 0..order.len() {
        order.swap(i, r.below(15) as usize);
    }
    let user = r.below(3) == 0;
    // Half of them go on on another page.
    let offset = if r.below(2) == 0 { 0 } else { 0xe00 + r.below(0x1f0) };
    let mut g = Gen {
        c: Code::new(CODE + offset),
        tainted: false,
        pointers: [order[0], order[1]],
        small: order[2],
        counter: order[3],
        user,
        functions: Vec::new(),
        patchable: Vec::new(),
        r,
    };
    g.body();
    let mut regs = [0; 16];
    for (n, v) in regs.iter_mut().enumerate() {
        *v = match () {
            () if g.pointers.contains(&(n as u8)) => g.pointer(),
            () if g.small == n as u8 => g.r.below(64),
            () => g.value(),
        };
    }
    let flags = g.r.next() & 0x8d5 | 2;
    let code = std::mem::take(&mut g.c);
    Program { code, regs, flags, user }
}

impl Gen<'_> {
    pub(super) fn body(&mut self) {
        for _ in 0..8 + self.r.below(50) {
            self.piece();
        }
        // The frame of the end lies in memory that is compared.
        self.define();
        self.c.raw(&[0xcd, 0xff]);
        // Functions may want further ones; those are as empty as can be.
        let mut made = 0;
        while let Some(f) = self.functions.pop() {
            self.c.place(f);
            self.tainted = true;
            made += 1;
            if made < 6 {
                for _ in 0..self.r.below(6) {
                    self.inner();
                }
            }
            self.c.raw(&[0xc3]);
        }
        self.c.finish();
    }

    pub(super) fn value(&mut self) -> u64 {
        match self.r.below(5) {
            0 => self.r.below(0x100),
            1 => (1u64 << self.r.below(64)).wrapping_sub(self.r.below(3)),
            2 => self.r.next() as i32 as u64,
            3 => [0, 1, u64::MAX, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, i64::MAX as u64]
                [self.r.below(8) as usize],
            _ => self.r.next(),
        }
    }

    pub(super) fn pointer(&mut self) -> u64 {
        match self.r.below(32) {
            0 => UNMAPPED + self.r.below(0x1000),
            1 => READ_ONLY + self.r.below(0x1000),
            2 => 0x8000_0000_0000 + self.r.below(0x100),
            3 => 0x7fff_ffff_fff8 + self.r.below(16),
            4 => self.c.base + self.r.below(0x400),
            5..12 => DATA + 0x1000 * (1 + self.r.below(6)) - 1 - self.r.below(20),
            12 => HIGH + DATA + self.r.below(DATA_LEN),
            _ => (DATA + self.r.below(DATA_LEN - 0x1000)) & !15,
        }
    }

    pub(super) fn size(&mut self) -> u8 {
        [1, 2, 4, 4, 4, 8, 8, 8][self.r.below(8) as usize]
    }

    pub(super) fn any(&mut self) -> u8 {
        self.r.below(16) as u8
    }

    /// A register to write: seldom one of those with a task, never the loop's counter.
    pub(super) fn dst(&mut self) -> u8 {
        loop {
            let n = self.any();
            let task = self.pointers.contains(&n) || n == self.small;
            if n != 4 && n != self.counter && !(task && self.r.below(40) != 0) {
                return n;
            }
        }
    }

    pub(super) fn mem(&mut self) -> Operand {
        let p = self.pointers[self.r.below(2) as usize];
        let disp = match self.r.below(6) {
            0 | 1 => 0,
            2 => self.r.below(0x800) as i32 - 0x400,
            _ => self.r.below(0x40) as i32 - 0x20,
        };
        let index = self.small;
        match self.r.below(12) {
            0 => Operand::Mem { base: Base::Pc, index: None, disp: (DATA + self.r.below(DATA_LEN)) as i32 },
            1 => Operand::Mem { base: Base::None, index: None, disp: (DATA + self.r.below(DATA_LEN)) as i32 },
            2 => {
                let s = self.r.below(4) as u8;
                Operand::Mem { base: Base::None, index: Some((index, s)), disp: (DATA + self.r.below(DATA_LEN)) as i32 }
            }
            3 | 4 => Operand::Mem { base: Base::Reg(p), index: Some((index, self.r.below(4) as u8)), disp },
            5 => Operand::Mem { base: Base::Reg(index), index: Some((p, 0)), disp },
            6 => Operand::Mem { base: Base::Reg(4), index: None, disp: -8 * self.r.below(8) as i32 },
            7 if self.r.below(8) == 0 => {
                let b = self.any();
                Operand::Mem { base: Base::Reg(b), index: None, disp }
            }
            _ => Operand::Mem { base: Base::Reg(p), index: None, disp },
        }
    }

    /// For atomic accesses: mostly an aligned place, since hosts make split ones slow.
    pub(super) fn apart(&mut self, rm: Operand) -> Operand {
        match rm {
            Operand::Mem { .. } if self.r.below(24) != 0 => {
                Operand::Mem { base: Base::None, index: None, disp: (DATA + 8 * self.r.below(DATA_LEN / 8)) as i32 }
            }
            rm => rm,
        }
    }

    pub(super) fn source(&mut self) -> Operand {
        if self.r.below(2) == 0 { self.mem() } else { Operand::Reg(self.any()) }
    }

    pub(super) fn target(&mut self) -> Operand {
        if self.r.below(2) == 0 { self.mem() } else { Operand::Reg(self.dst()) }
    }

    /// `ins` with operands of general registers, and a REX prefix that makes SPL of AH now and then.
    pub(super) fn put(&mut self, size: u8, prefixes: &[u8], op: &[u8], reg: u8, rm: Operand, imm: &[u8]) {
        let mut i = Ins { size, prefixes, op, reg, rm, imm, rex: self.r.below(8) == 0 };
        let bytes = size == 1 || matches!(op, [0x0f, 0xb6 | 0xbe | 0x90..=0x9f, ..]);
        // AH and its like are the halves of registers with a task; BPL and its like are low halves of the others.
        if bytes && (matches!(i.rm, Operand::Reg(4..8)) || (4..8).contains(&reg)) && self.r.below(2) == 0 {
            i.rex = true;
        }
        if bytes && !i.rex {
            let high =
                |n: u8| (4..8).contains(&n) && [self.counter, self.pointers[0], self.pointers[1]].contains(&(n - 4));
            if high(reg) || matches!(rm, Operand::Reg(n) if high(n)) {
                i.rex = true;
            }
        }
        if bytes && i.rex {
            // SPL.
            if reg == 4 && !matches!(op, [0x80 | 0xf6 | 0xfe | 0xc0 | 0xd0 | 0xd2 | 0xc6, ..]) {
                i.reg = 12;
            }
            if i.rm == Operand::Reg(4) {
                i.rm = Operand::Reg(self.dst());
            }
        }
        let free = |n: u8| n != self.counter && !self.pointers.contains(&n);
        if bytes && !i.rex && reg < 8 && i.rm == Operand::Reg(5) && free(0) {
            // AH.
            i.rm = Operand::Reg(4);
        }
        self.c.ins(i);
    }

    pub(super) fn prefix(&mut self) -> &'static [u8] {
        match self.r.below(24) {
            0 => &[0x64],
            1 => &[0x65],
            2 => &[0x67],
            _ => &[],
        }
    }

    /// Flags that are defined, if they may not be.
    pub(super) fn define(&mut self) {
        if self.tainted {
            let (a, b) = (self.any(), self.any());
            self.c.ins(Ins { size: 8, prefixes: &[], op: &[0x39], reg: a, rm: Operand::Reg(b), imm: &[], rex: false });
            self.tainted = false;
        }
    }

    /// A condition that can be asked for now.
    pub(super) fn cond(&mut self) -> u8 {
        let c = self.r.below(16) as u8;
        if self.tainted && matches!(c, 0 | 1 | 12..) {
            if self.r.below(2) == 0 {
                self.define();
            } else {
                return 2 + self.r.below(10) as u8;
            }
        }
        c
    }

    pub(super) fn piece(&mut self) {
        match self.r.below(40) {
            0 | 1 => self.repeat(),
            2..4 => self.branch_over(),
            4 => self.call(),
            5 => self.jump(),
            6 => self.change_code(),
            7 if !self.user => self.system(),
            8 | 9 => {
                let (p, v) = (self.pointers[self.r.below(2) as usize], self.pointer());
                self.mov_imm(p, v);
            }
            10 => {
                let (s, v) = (self.small, self.r.below(64));
                self.mov_imm(s, v);
            }
            _ => self.one(),
        }
    }

    pub(super) fn mov_imm(&mut self, d: u8, v: u64) {
        if let Ok(v) = u32::try_from(v) {
            let mut bytes = if d >= 8 { vec![0x41] } else { vec![] };
            bytes.push(0xb8 | d & 7);
            bytes.extend_from_slice(&v.to_le_bytes());
            self.c.raw(&bytes);
        } else {
            let mut bytes = vec![0x48 | d >> 3, 0xb8 | d & 7];
            bytes.extend_from_slice(&v.to_le_bytes());
            self.c.raw(&bytes);
        }
    }

    /// A loop that is run some times.
    pub(super) fn repeat(&mut self) {
        let n = if self.r.below(8) == 0 { 600 } else { 2 + self.r.below(12) };
        let (counter, head) = (self.counter, self.c.label());
        self.mov_imm(counter, n);
        self.c.place(head);
        self.tainted = true;
        for _ in 0..1 + self.r.below(if n > 100 { 3 } else { 8 }) {
            if self.r.below(3) == 0 { self.walk(n) } else { self.inner() }
        }
        if self.r.below(2) == 0 {
            // lea counter, [counter - 1]; test
            let rm = Operand::Mem { base: Base::Reg(counter), index: None, disp: -1 };
            self.c.ins(Ins { size: 8, prefixes: &[], op: &[0x8d], reg: counter, rm, imm: &[], rex: false });
            self.put(8, &[], &[0x85], counter, Operand::Reg(counter), &[]);
        } else {
            self.put(4, &[], &[0xff], 1, Operand::Reg(counter), &[]);
        }
        if self.r.below(3) > 0 {
            return self.c.towards(&[0x0f, 0x85], head);
        }
        // Back by a jump, behind the way out.
        let out = self.c.label();
        self.c.towards(&[0x0f, 0x84], out);
        for _ in 0..self.r.below(3) {
            self.one();
        }
        self.c.towards(&[0xe9], head);
        self.c.place(out);
        self.tainted = true;
    }

    /// An access whose address moves by the same distance in each of `rounds`, and stays near for all of them.
    fn walk(&mut self, rounds: u64) {
        let p = self.pointers[self.r.below(2) as usize];
        let most = (0x2000 / rounds).min(0x400);
        let step = self.r.below(2 * most) as i64 - most as i64;
        let step = if self.r.below(4) == 0 { step } else { step & !7 };
        let size = self.size();
        let disp = self.r.below(0x30) as i32 * if self.r.below(4) == 0 { 0x20 } else { 1 };
        let rm = Operand::Mem { base: Base::Reg(p), index: None, disp };
        let d = self.dst();
        let op: &[u8] = [&[0x8b][..], &[0x89], &[0x03], &[0x01], &[0x33]][self.r.below(5) as usize];
        let op = if size == 1 { [op[0] - 1] } else { [op[0]] };
        self.put(size, &[], &op, d, rm, &[]);
        if self.r.below(2) == 0 {
            let rm = Operand::Mem { base: Base::Reg(p), index: None, disp: step as i32 };
            self.c.ins(Ins { size: 8, prefixes: &[], op: &[0x8d], reg: p, rm, imm: &[], rex: false });
        } else {
            self.put(8, &[], &[0x81], 0, Operand::Reg(p), &(step as i32).to_le_bytes());
            self.tainted = false;
        }
    }

    /// A piece of a loop or of a function, which has no loops: there is one counter.
    pub(super) fn inner(&mut self) {
        match self.r.below(12) {
            0 => self.branch_over(),
            1 => self.call(),
            2 => self.change_code(),
            3 => self.jump(),
            _ => self.one(),
        }
    }

    pub(super) fn branch_over(&mut self) {
        let (c, l) = (self.cond(), self.c.label());
        self.c.towards(&[0x0f, 0x80 | c], l);
        for _ in 0..self.r.below(5) {
            self.one();
        }
        self.c.place(l);
        self.tainted = true;
    }

    pub(super) fn call(&mut self) {
        let f = match self.functions.first() {
            Some(f) if self.r.below(2) == 0 => *f,
            _ => {
                let f = self.c.label();
                self.functions.push(f);
                f
            }
        };
        // Functions that are called again are made once: a label is placed when it is taken off the list.
        if self.r.below(3) == 0 {
            let d = self.address_of(f);
            self.put(4, &[], &[0xff], 2, Operand::Reg(d), &[]);
        } else {
            self.c.towards(&[0xe8], f);
        }
        self.tainted = true;
    }

    /// The address of a label in a register, sometimes where the same memory is mapped again.
    pub(super) fn address_of(&mut self, l: Label) -> u8 {
        let d = self.dst();
        self.c.towards(&[0x48 | (d >> 3) << 2, 0x8d, (d & 7) << 3 | 5], l);
        if self.r.below(4) == 0 {
            let mut other = self.dst();
            while other == d {
                other = self.dst();
            }
            self.mov_imm(other, HIGH);
            self.put(8, &[], &[0x09], other, Operand::Reg(d), &[]);
            self.tainted = true;
        }
        d
    }

    pub(super) fn jump(&mut self) {
        let l = self.c.label();
        match self.r.below(3) {
            0 => self.c.towards(&[0xe9], l),
            1 => {
                let d = self.address_of(l);
                self.put(4, &[], &[0xff], 4, Operand::Reg(d), &[]);
            }
            _ => {
                let (d, place) = (self.address_of(l), DATA + 8 * self.r.below(64));
                let m = Operand::Mem { base: Base::None, index: None, disp: place as i32 };
                self.put(8, &[], &[0x89], d, m, &[]);
                self.put(4, &[], &[0xff], 4, m, &[]);
            }
        }
        for _ in 0..self.r.below(3) {
            self.one();
        }
        self.c.place(l);
        self.tainted = true;
    }

    /// An instruction with an immediate, and a store into an immediate.
    pub(super) fn change_code(&mut self) {
        let d = self.dst();
        let v = self.r.next() as u32;
        self.mov_imm(d, v.into());
        self.patchable.push(self.c.bytes.len() - 4);
        let n = self.patchable[self.r.below(self.patchable.len() as u64) as usize];
        let m = Operand::Mem { base: Base::None, index: None, disp: (self.c.base + n as u64) as i32 };
        let s = self.any();
        self.put(4, &[], &[0x89], s, m, &[]);
    }

    /// Things of privilege level 0: address spaces, and a page that leads elsewhere from now on.
    pub(super) fn system(&mut self) {
        let d = self.dst();
        match self.r.below(4) {
            0 => self.reload_space(d),
            _ => {
                // The other of two pages with functions; then one of them is called.
                let entry = Operand::Mem { base: Base::None, index: None, disp: pte(FLIP) as i32 };
                self.put(8, &[], &[0x81], 6, entry, &0x1000u32.to_le_bytes());
                if self.r.below(2) == 0 {
                    self.reload_space(d);
                } else {
                    let page = Operand::Mem { base: Base::None, index: None, disp: FLIP as i32 };
                    self.put(4, &[], &[0x0f, 0x01], 7, page, &[]);
                }
                let at = if self.r.below(4) == 0 { FLIP - 0x100 } else { FLIP + 0x20 * self.r.below(4) };
                self.mov_imm(d, at);
                self.put(4, &[], &[0xff], 2, Operand::Reg(d), &[]);
                self.tainted = true;
            }
        }
    }

    /// The page tables once more, which forgets what was known of them.
    pub(super) fn reload_space(&mut self, d: u8) {
        let b = u8::from(d >= 8);
        self.c.raw(&[0x40 | b, 0x0f, 0x20, 0xd8 | d & 7]);
        self.c.raw(&[0x40 | b, 0x0f, 0x22, 0xd8 | d & 7]);
    }
}
