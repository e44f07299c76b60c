//! The encoder: host instructions into a buffer, one function for each kind that is used.
//!
//! The one idea: an instruction is an opcode in a map, a register field and an operand that is a register or memory, and one
//! function ([`Asm::ins`]) knows prefixes and the bytes of addresses. Everything else is a table of opcodes above it. What
//! comes out is decoded again by tests (Intel SDM vol. 2A, chapter 2).

mod buffer;
mod parts;
mod vex;

pub use buffer::{Buffer, Piece};
use parts::{Bytes, Opcode, modrm};
pub use vex::Vex;

/// A general register, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg(pub u8);

#[doc = "Register 0."]
pub const RAX: Reg = Reg(0);
#[doc = "Register 1."]
pub const RCX: Reg = Reg(1);
#[doc = "Register 2."]
pub const RDX: Reg = Reg(2);
#[doc = "Register 3."]
pub const RBX: Reg = Reg(3);
#[doc = "Register 4."]
pub const RSP: Reg = Reg(4);
#[doc = "Register 5."]
pub const RBP: Reg = Reg(5);
#[doc = "Register 6."]
pub const RSI: Reg = Reg(6);
#[doc = "Register 7."]
pub const RDI: Reg = Reg(7);
#[doc = "Register 8."]
pub const R8: Reg = Reg(8);
#[doc = "Register 9."]
pub const R9: Reg = Reg(9);
#[doc = "Register 10."]
pub const R10: Reg = Reg(10);
#[doc = "Register 11."]
pub const R11: Reg = Reg(11);
#[doc = "Register 12."]
pub const R12: Reg = Reg(12);
#[doc = "Register 13."]
pub const R13: Reg = Reg(13);
#[doc = "Register 14."]
pub const R14: Reg = Reg(14);
#[doc = "Register 15."]
pub const R15: Reg = Reg(15);

/// Operand size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sz {
    /// 8 bits.
    B,
    /// 16 bits.
    W,
    /// 32 bits.
    D,
    /// 64 bits.
    Q,
}

impl Sz {
    /// From the log2 of the size in bytes.
    pub const fn log2(n: u8) -> Sz {
        match n {
            0 => Sz::B,
            1 => Sz::W,
            2 => Sz::D,
            _ => Sz::Q,
        }
    }
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    /// Base, if there is one.
    pub base: Option<Reg>,
    /// Index with its left shift; never RSP.
    pub index: Option<(Reg, u8)>,
    /// Displacement.
    pub disp: i32,
}

/// `[base + disp]`.
pub const fn at(base: Reg, disp: i32) -> Mem {
    Mem { base: Some(base), index: None, disp }
}

/// `[base + index << scale + disp]`.
pub const fn indexed(base: Reg, index: Reg, scale: u8, disp: i32) -> Mem {
    Mem { base: Some(base), index: Some((index, scale)), disp }
}

/// A register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    /// Register.
    R(Reg),
    /// Memory.
    M(Mem),
}

impl From<Reg> for Rm {
    fn from(r: Reg) -> Rm {
        Rm::R(r)
    }
}

impl From<Mem> for Rm {
    fn from(m: Mem) -> Rm {
        Rm::M(m)
    }
}

/// Opcode maps with their mandatory prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Map {
    /// One byte.
    Plain,
    /// 0F.
    Of,
    /// 66 0F.
    Of66,
    /// F3 0F.
    OfF3,
    /// F2 0F.
    OfF2,
    /// 66 0F 38.
    Of38x66,
    /// 66 0F 3A.
    Of3Ax66,
    /// F2 0F 38.
    Of38xF2,
    /// 0F 38.
    Of38,
    /// F3 0F 38.
    Of38xF3,
    /// F2 0F 3A.
    Of3AxF2,
}

/// Two-operand arithmetic, numbered as in opcodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Alu {
    /// ADD.
    Add = 0,
    /// OR.
    Or = 1,
    /// ADC.
    Adc = 2,
    /// SBB.
    Sbb = 3,
    /// AND.
    And = 4,
    /// SUB.
    Sub = 5,
    /// XOR.
    Xor = 6,
    /// CMP.
    Cmp = 7,
}

/// Shifts and rotates, numbered as in opcodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shift {
    /// ROL.
    Rol = 0,
    /// ROR.
    Ror = 1,
    /// SHL.
    Shl = 4,
    /// SHR.
    Shr = 5,
    /// SAR.
    Sar = 7,
}

/// Condition codes of the host, as in opcodes.
pub mod cc {
    /// Overflow.
    pub const O: u8 = 0;
    /// Below (carry).
    pub const B: u8 = 2;
    /// Above or equal (no carry).
    pub const AE: u8 = 3;
    /// Equal (zero).
    pub const E: u8 = 4;
    /// Not equal.
    pub const NE: u8 = 5;
    /// Below or equal.
    pub const BE: u8 = 6;
    /// Sign.
    pub const S: u8 = 8;
    /// Less.
    pub const L: u8 = 12;
    /// Less or equal.
    pub const LE: u8 = 14;
}

/// A place in the buffer whose last four bytes are a distance to be filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole(pub usize);

/// The buffer. Distances to places outside of it are computed from `base`, the offset in code memory that it will lie at.
#[derive(Debug, Default)]
pub struct Asm {
    /// Bytes so far.
    pub buf: Buffer,
    /// Offset of the first one in code memory.
    pub base: usize,
}

impl Asm {
    /// Empty, for offset `base`.
    pub fn start(&mut self, base: usize) {
        self.buf.clear();
        self.base = base;
    }

    /// Offset in code memory of the next byte.
    pub fn here(&self) -> usize {
        self.base + self.buf.len()
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self, b: u8) {
        self.buf.put(&[b], 1);
    }

    fn imm32(&mut self, v: u32) {
        self.buf.put(&v.to_le_bytes(), 4);
    }

    /// The low `n` bytes of `word`: one store, and one look at the buffer's end.
    #[inline(always)]
    fn bytes(&mut self, word: u64, n: u32) {
        self.buf.put(&word.to_le_bytes(), n as usize);
    }

    /// An instruction with a ModRM byte. `reg` is a register or an opcode extension; `bytes` says that the operands are byte
    /// registers, whose numbers 4 to 7 need a REX prefix.
    #[inline(always)]
    pub fn ins(&mut self, sz: Sz, map: Map, op: u8, reg: u8, rm: Rm, bytes: (bool, bool)) {
        if sz == Sz::W {
            self.byte(0x66);
        }
        match map {
            Map::Plain | Map::Of | Map::Of38 => {}
            Map::Of66 | Map::Of38x66 | Map::Of3Ax66 => self.byte(0x66),
            Map::OfF3 | Map::Of38xF3 => self.byte(0xf3),
            Map::OfF2 | Map::Of38xF2 | Map::Of3AxF2 => self.byte(0xf2),
        }
        let code = Opcode::new(sz, map, op);
        let must = bytes.0 && reg & 0xc == 4;
        match rm {
            Rm::R(r) => self.on_register(code, reg, r.0, must || bytes.1 && r.0 & 0xc == 4),
            Rm::M(Mem { base: Some(base), index: None, disp }) if base.0 & 7 != 4 => {
                self.on_base(code, reg, base.0, disp, must)
            }
            Rm::M(m) => self.on_memory(code, reg, m, must),
        }
    }

    fn on_register(&mut self, code: Opcode, reg: u8, r: u8, must: bool) {
        let mut out = code.head((reg >> 3) << 2 | r >> 3, must);
        out.push(0xc0 | (reg & 7) << 3 | r & 7);
        self.bytes(out.word, out.n);
    }

    /// Memory at a distance from a register that needs no SIB byte.
    fn on_base(&mut self, code: Opcode, reg: u8, base: u8, disp: i32, must: bool) {
        let head = code.head((reg >> 3) << 2 | base >> 3, must);
        let modrm = (reg & 7) << 3 | base & 7;
        let tail = if i32::from(disp as i8) == disp {
            if disp == 0 && base & 7 != 5 {
                Bytes { word: u64::from(modrm), n: 1 }
            } else {
                Bytes { word: u64::from(0x40 | modrm) | u64::from(disp as u8) << 8, n: 2 }
            }
        } else {
            Bytes { word: u64::from(0x80 | modrm) | u64::from(disp as u32) << 8, n: 5 }
        };
        self.two(head, tail);
    }

    fn on_memory(&mut self, code: Opcode, reg: u8, m: Mem, must: bool) {
        let mut rex = (reg >> 3) << 2;
        if let Some(b) = m.base {
            rex |= b.0 >> 3;
        }
        if let Some((i, _)) = m.index {
            rex |= (i.0 >> 3) << 1;
        }
        self.two(code.head(rex, must), modrm(reg & 7, Rm::M(m)));
    }

    /// One behind the other; the first has at least one byte and less than eight.
    #[inline(always)]
    fn two(&mut self, head: Bytes, tail: Bytes) {
        let shift = (8 * head.n) & 63;
        let low = head.word | tail.word << shift;
        let high = tail.word >> ((64 - shift) & 63);
        self.buf.put(&(u128::from(high) << 64 | u128::from(low)).to_le_bytes(), (head.n + tail.n) as usize);
    }

    /// The bytes of a piece of code that does not depend on where it lies.
    #[inline(always)]
    pub fn piece(&mut self, piece: &Piece) -> usize {
        let start = self.buf.len();
        self.buf.put(&piece.bytes, piece.len);
        start
    }

    /// A 64-bit instruction of the map of one byte on a register and what lies at an offset from the code's beginning, by its
    /// distance from the instruction.
    pub fn near(&mut self, op: u8, reg: Reg, to: usize) {
        let hole = self.near_hole(op, reg);
        self.fill(hole, to);
    }

    /// `lea d` of a place in code memory that is to be filled in.
    pub fn lea_near(&mut self, d: Reg) -> Hole {
        self.near_hole(0x8d, d)
    }

    fn near_hole(&mut self, op: u8, reg: Reg) -> Hole {
        self.byte(0x48 | (reg.0 >> 3) << 2);
        self.byte(op);
        self.byte((reg.0 & 7) << 3 | 5);
        self.imm32(0);
        Hole(self.buf.len() - 4)
    }

    /// `op d, s`.
    pub fn alu(&mut self, op: Alu, sz: Sz, d: Reg, s: impl Into<Rm>) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, (op as u8) << 3 | if b { 2 } else { 3 }, d.0, s.into(), (b, b));
    }

    /// `op [m], s`.
    pub fn alu_store(&mut self, op: Alu, sz: Sz, m: Mem, s: Reg) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, (op as u8) << 3 | u8::from(!b), s.0, m.into(), (b, b));
    }

    /// `op d, imm`; the immediate is sign-extended from 32 bits.
    pub fn alu_imm(&mut self, op: Alu, sz: Sz, d: impl Into<Rm>, imm: i32) {
        let d = d.into();
        if sz == Sz::B {
            if d == Rm::R(RAX) {
                self.byte((op as u8) << 3 | 4);
            } else {
                self.ins(sz, Map::Plain, 0x80, op as u8, d, (false, true));
            }
            return self.byte(imm as u8);
        }
        let value = if sz == Sz::W { i32::from(imm as i16) } else { imm };
        if let Ok(v) = i8::try_from(value) {
            self.ins(sz, Map::Plain, 0x83, op as u8, d, (false, false));
            return self.byte(v as u8);
        }
        self.ins(sz, Map::Plain, 0x81, op as u8, d, (false, false));
        if sz == Sz::W {
            self.buf.put(&(value as u16).to_le_bytes(), 2);
        } else {
            self.imm32(value as u32);
        }
    }

    /// `test d, s`.
    pub fn test(&mut self, sz: Sz, d: impl Into<Rm>, s: Reg) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0x84 } else { 0x85 }, s.0, d.into(), (b, b));
    }

    /// `test d, imm`.
    pub fn test_imm(&mut self, sz: Sz, d: impl Into<Rm>, imm: i32) {
        let d = d.into();
        self.ins(sz, Map::Plain, if sz == Sz::B { 0xf6 } else { 0xf7 }, 0, d, (false, sz == Sz::B));
        match sz {
            Sz::B => self.byte(imm as u8),
            Sz::W => self.buf.put(&(imm as u16).to_le_bytes(), 2),
            _ => self.imm32(imm as u32),
        }
    }

    /// `mov d, s` of a whole register; 32 bits clear the upper half.
    #[inline(always)]
    pub fn mov(&mut self, sz: Sz, d: Reg, s: impl Into<Rm>) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0x8a } else { 0x8b }, d.0, s.into(), (b, b));
    }

    /// `mov [m], s`.
    #[inline(always)]
    pub fn store(&mut self, sz: Sz, m: Mem, s: Reg) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0x88 } else { 0x89 }, s.0, m.into(), (b, b));
    }

    /// `mov [m], imm`, sign-extended from 32 bits.
    pub fn store_imm(&mut self, sz: Sz, m: Mem, imm: i32) {
        self.ins(sz, Map::Plain, if sz == Sz::B { 0xc6 } else { 0xc7 }, 0, m.into(), (false, false));
        match sz {
            Sz::B => self.byte(imm as u8),
            Sz::W => self.buf.put(&(imm as u16).to_le_bytes(), 2),
            _ => self.imm32(imm as u32),
        }
    }

    /// `mov d, imm` in the shortest form that leaves the flags alone.
    pub fn mov_imm(&mut self, d: Reg, v: u64) {
        if let Ok(low) = u32::try_from(v) {
            let mut bytes = Bytes::default();
            if d.0 >= 8 {
                bytes.push(0x41);
            }
            bytes.push(0xb8 | d.0 & 7);
            bytes.push32(low);
            self.bytes(bytes.word, bytes.n);
        } else if i32::try_from(v as i64).is_ok() {
            self.ins(Sz::Q, Map::Plain, 0xc7, 0, d.into(), (false, false));
            self.imm32(v as u32);
        } else {
            self.mov_imm64(d, v);
        }
    }

    /// `mov d, imm` in the form that holds any.
    pub fn mov_imm64(&mut self, d: Reg, v: u64) {
        self.byte(0x48 | d.0 >> 3);
        self.byte(0xb8 | d.0 & 7);
        self.buf.put(&v.to_le_bytes(), 8);
    }

    /// Zero-extending move of 1 or 2 bytes.
    pub fn movzx(&mut self, from: Sz, d: Reg, s: impl Into<Rm>) {
        let b = from == Sz::B;
        self.ins(Sz::D, Map::Of, if b { 0xb6 } else { 0xb7 }, d.0, s.into(), (false, b));
    }

    /// Sign-extending move to 64 bits of 1, 2 or 4 bytes.
    pub fn movsx(&mut self, from: Sz, d: Reg, s: impl Into<Rm>) {
        match from {
            Sz::B => self.ins(Sz::Q, Map::Of, 0xbe, d.0, s.into(), (false, true)),
            Sz::W => self.ins(Sz::Q, Map::Of, 0xbf, d.0, s.into(), (false, false)),
            _ => self.ins(Sz::Q, Map::Plain, 0x63, d.0, s.into(), (false, false)),
        }
    }

    /// `lea d, [m]`.
    #[inline(always)]
    pub fn lea(&mut self, sz: Sz, d: Reg, m: Mem) {
        self.ins(sz, Map::Plain, 0x8d, d.0, m.into(), (false, false));
    }

    /// Shift by an immediate.
    pub fn shift_imm(&mut self, op: Shift, sz: Sz, d: impl Into<Rm>, n: u8) {
        let b = sz == Sz::B;
        if n == 1 {
            return self.ins(sz, Map::Plain, if b { 0xd0 } else { 0xd1 }, op as u8, d.into(), (false, b));
        }
        self.ins(sz, Map::Plain, if b { 0xc0 } else { 0xc1 }, op as u8, d.into(), (false, b));
        self.byte(n);
    }

    /// Shift by CL.
    pub fn shift_cl(&mut self, op: Shift, sz: Sz, d: impl Into<Rm>) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0xd2 } else { 0xd3 }, op as u8, d.into(), (false, b));
    }

    /// One-operand group F6/F7: 2 NOT, 3 NEG, 4 MUL, 5 IMUL, 6 DIV, 7 IDIV.
    pub fn group3(&mut self, ext: u8, sz: Sz, d: impl Into<Rm>) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0xf6 } else { 0xf7 }, ext, d.into(), (false, b));
    }

    /// INC (0) or DEC (1).
    pub fn inc_dec(&mut self, ext: u8, sz: Sz, d: impl Into<Rm>) {
        let b = sz == Sz::B;
        self.ins(sz, Map::Plain, if b { 0xfe } else { 0xff }, ext, d.into(), (false, b));
    }

    /// `imul d, s, v`.
    pub fn imul_imm(&mut self, sz: Sz, d: Reg, s: Reg, v: i32) {
        self.ins(sz, Map::Plain, 0x69, d.0, s.into(), (false, false));
        self.buf.extend_from_slice(&v.to_le_bytes());
    }

    /// `imul d, s`.
    pub fn imul(&mut self, sz: Sz, d: Reg, s: impl Into<Rm>) {
        self.ins(sz, Map::Of, 0xaf, d.0, s.into(), (false, false));
    }

    /// `popcnt d, s` of 64 bits.
    pub fn popcnt(&mut self, d: Reg, s: impl Into<Rm>) {
        self.ins(Sz::Q, Map::OfF3, 0xb8, d.0, s.into(), (false, false));
    }

    /// `shrd d, s, n` of 64 bits.
    pub fn shrd_imm(&mut self, d: Reg, s: Reg, n: u8) {
        self.ins(Sz::Q, Map::Of, 0xac, s.0, d.into(), (false, false));
        self.byte(n);
    }

    /// `bt d, n`.
    pub fn bt_imm(&mut self, sz: Sz, d: impl Into<Rm>, n: u8) {
        self.ins(sz, Map::Of, 0xba, 4, d.into(), (false, false));
        self.byte(n);
    }

    /// `bt d, s` of registers.
    pub fn bt(&mut self, sz: Sz, d: Reg, s: Reg) {
        self.ins(sz, Map::Of, 0xa3, s.0, d.into(), (false, false));
    }

    /// `setcc d` (low byte).
    pub fn setcc(&mut self, cond: u8, d: Reg) {
        self.ins(Sz::D, Map::Of, 0x90 | cond, 0, d.into(), (false, true));
    }

    /// `cmovcc d, s`.
    pub fn cmov(&mut self, cond: u8, sz: Sz, d: Reg, s: impl Into<Rm>) {
        self.ins(sz, Map::Of, 0x40 | cond, d.0, s.into(), (false, false));
    }

    /// `bswap d`.
    pub fn bswap(&mut self, sz: Sz, d: Reg) {
        let rex = if sz == Sz::Q { 8 } else { 0 } | d.0 >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.byte(0x0f);
        self.byte(0xc8 | d.0 & 7);
    }

    /// `lahf; seto al`: AX = flags in the form of `Kind::X86Host`.
    pub fn save_flags(&mut self) {
        self.bytes(0xc090_0f9f, 4);
    }

    /// `add al, 0x7f; sahf`: the reverse.
    pub fn restore_flags(&mut self) {
        self.bytes(0x9e_7f04, 3);
    }

    /// `jcc` with a distance to fill in.
    pub fn jcc(&mut self, cond: u8) -> Hole {
        self.bytes(0x800f | u64::from(cond) << 8, 6);
        Hole(self.buf.len() - 4)
    }

    /// `jmp` with a distance to fill in.
    pub fn jmp(&mut self) -> Hole {
        self.bytes(0xe9, 5);
        Hole(self.buf.len() - 4)
    }

    /// `mov eax, number; call to`: of a routine that takes one.
    pub fn call_with(&mut self, number: u32, to: usize) {
        let distance = (to as i64 - (self.here() as i64 + 10)) as u32;
        let word = 0xb8 | u128::from(number) << 8 | 0xe8 << 40 | u128::from(distance) << 48;
        self.buf.put(&word.to_le_bytes(), 10);
    }

    /// `jmp` to an offset in code memory.
    pub fn jmp_to(&mut self, to: usize) {
        let distance = (to as i64 - (self.here() as i64 + 5)) as u32;
        self.bytes(0xe9 | u64::from(distance) << 8, 5);
    }

    /// `jmp` back to an offset in code memory that is known, in the shorter form if that reaches it.
    pub fn jmp_back(&mut self, to: usize) {
        match i8::try_from(to as i64 - (self.here() as i64 + 2)) {
            Ok(distance) => self.bytes(0xeb | u64::from(distance as u8) << 8, 2),
            Err(_) => self.jmp_to(to),
        }
    }

    /// `call` with a distance to fill in.
    pub fn call(&mut self) -> Hole {
        self.bytes(0xe8, 5);
        Hole(self.buf.len() - 4)
    }

    /// `call` an offset in code memory.
    pub fn call_to(&mut self, to: usize) {
        let distance = (to as i64 - (self.here() as i64 + 5)) as u32;
        self.bytes(0xe8 | u64::from(distance) << 8, 5);
    }

    /// Let a hole lead to an offset in code memory.
    pub fn fill(&mut self, hole: Hole, to: usize) {
        let from = self.base + hole.0 + 4;
        let distance = (to as i64 - from as i64) as i32;
        if let Some(place) = self.buf.get_mut(hole.0..hole.0 + 4) {
            place.copy_from_slice(&distance.to_le_bytes());
        }
    }

    /// Let a hole lead here.
    pub fn fill_here(&mut self, hole: Hole) {
        let here = self.here();
        self.fill(hole, here);
    }

    /// `jmp r` or `jmp [m]`.
    pub fn jmp_indirect(&mut self, to: impl Into<Rm>) {
        self.ins(Sz::D, Map::Plain, 0xff, 4, to.into(), (false, false));
    }

    /// `call r`.
    pub fn call_indirect(&mut self, to: impl Into<Rm>) {
        self.ins(Sz::D, Map::Plain, 0xff, 2, to.into(), (false, false));
    }

    /// `push r`.
    pub fn push(&mut self, r: Reg) {
        if r.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | r.0 & 7);
    }

    /// `pop r`.
    pub fn pop(&mut self, r: Reg) {
        if r.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | r.0 & 7);
    }

    /// `ret`.
    pub fn ret(&mut self) {
        self.byte(0xc3);
    }

    /// `ldmxcsr [m]`.
    pub fn ldmxcsr(&mut self, m: Mem) {
        self.ins(Sz::D, Map::Of, 0xae, 2, m.into(), (false, false));
    }

    /// `stmxcsr [m]`.
    pub fn stmxcsr(&mut self, m: Mem) {
        self.ins(Sz::D, Map::Of, 0xae, 3, m.into(), (false, false));
    }

    /// An SSE instruction: XMM register `x`, second operand.
    pub fn sse(&mut self, map: Map, op: u8, x: u8, rm: Rm) {
        self.ins(Sz::D, map, op, x, rm, (false, false));
    }
}
