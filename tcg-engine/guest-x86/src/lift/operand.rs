//! Operands: effective addresses, and reading and writing registers, immediates and memory of every size.
//!
//! Conventions: a value of `n` bits in a slot may have anything above bit `n`, unless [`Lifter::is_clean`] says that it has
//! zeros above bit 31. Writing a 32-bit register clears its upper half, 8- and 16-bit ones keep the rest.

use iced_x86::{OpKind, Register};
use ir::{MemRef, NONE, Op, Slot};

use super::Lifter;
use crate::memory::{FLAT, space};
use crate::mode::Mode;
use crate::state::{CODE_BASE, Seg, gpr, seg_base};

/// A memory operand: what every access to it shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ea {
    /// Base, or [`NONE`].
    pub base: Slot,
    /// Index, or [`NONE`].
    pub index: Slot,
    /// Left shift of the index.
    pub scale: u8,
    /// Displacement.
    pub disp: i32,
    /// See [`crate::memory::space`].
    pub space: u8,
    /// Address wrap of [`MemRef`].
    pub wrap: u8,
    /// Faults are #SS.
    pub stack: bool,
}

impl Ea {
    /// An access of `bits` bits (8 to 128).
    pub(crate) fn mem(&self, bits: u32) -> MemRef {
        MemRef {
            disp: self.disp,
            scale: self.scale,
            space: self.space,
            wrap: self.wrap,
            stack: self.stack,
            ..MemRef::new((bits / 8).trailing_zeros() as u8)
        }
    }

    /// The operand `n` bytes further on.
    pub(crate) fn offset(&self, n: i32) -> Option<Ea> {
        Some(Ea { disp: self.disp.checked_add(n)?, ..*self })
    }
}

/// The segment that iced names.
pub(crate) fn seg_of(r: Register) -> Option<Seg> {
    Some(match r {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::DS => Seg::Ds,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => return None,
    })
}

/// Slot of a general register of any size but AH to BH, which have [`high_byte`].
pub(crate) fn gpr_of(r: Register) -> Slot {
    gpr(r.full_register().number())
}

/// For AH, CH, DH, BH: the register whose second byte it is.
pub(crate) fn high_byte(r: Register) -> Option<Slot> {
    Some(match r {
        Register::AH => gpr(0),
        Register::CH => gpr(1),
        Register::DH => gpr(2),
        Register::BH => gpr(3),
        _ => return None,
    })
}

impl Lifter {
    /// Whether a slot is known to have zeros above bit 31.
    pub(crate) fn is_clean(&self, s: Slot) -> bool {
        s != NONE && self.clean[s.0 as usize / 64] >> (s.0 % 64) & 1 != 0
    }

    /// Note whether a slot has zeros above bit 31. Whoever writes a general register without the functions here must.
    pub(crate) fn set_clean(&mut self, s: Slot, clean: bool) {
        let (word, bit) = (s.0 as usize / 64, 1 << (s.0 % 64));
        if clean {
            self.clean[word] |= bit;
        } else {
            self.clean[word] &= !bit;
        }
    }

    /// Size of operand `n` in bits.
    pub(crate) fn bits(&self, n: u32) -> u32 {
        match self.i.op_kind(n) {
            OpKind::Register => self.i.op_register(n).size() as u32 * 8,
            OpKind::Memory => self.i.memory_size().size() as u32 * 8,
            OpKind::Immediate8 => 8,
            OpKind::Immediate16 | OpKind::Immediate8to16 => 16,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 64,
            _ => 32,
        }
    }

    /// Whether operand `n` is memory.
    pub(crate) fn is_mem(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Memory
    }

    /// Operand `n` if it is an immediate, sign-extended.
    pub(crate) fn imm(&self, n: u32) -> Option<u64> {
        match self.i.op_kind(n) {
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(self.i.immediate(n)),
            _ => None,
        }
    }

    /// A constant in a temporary.
    pub(crate) fn constant(&mut self, v: u64) -> Slot {
        let t = self.b.constant(v);
        self.set_clean(t, v <= u64::from(u32::MAX));
        t
    }

    /// Width of the current instruction's memory operand's address in bits.
    pub(crate) fn address_bits(&self) -> u32 {
        let (base, index) = (self.i.memory_base(), self.i.memory_index());
        match (base, index) {
            (Register::None, Register::None) => self.i.memory_displ_size() * 8,
            (Register::None, r) | (r, _) => r.size() as u32 * 8,
        }
    }

    /// The memory operand of the current instruction, with its segment.
    pub(crate) fn ea(&mut self) -> Ea {
        if let Some(ea) = self.ea {
            return ea;
        }
        let ea = self.offset_part();
        let ea = match self.segment() {
            Some(s) => self.in_segment(ea, s),
            None => ea,
        };
        self.ea = Some(ea);
        ea
    }

    /// The segment of the memory operand. 64-bit code ignores prefixes other than FS and GS.
    pub(crate) fn segment(&self) -> Option<Seg> {
        let ignored = matches!(self.i.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS);
        if self.code64() && ignored {
            let stack = matches!(self.i.memory_base(), Register::RSP | Register::RBP | Register::ESP | Register::EBP);
            return Some(if stack { Seg::Ss } else { Seg::Ds });
        }
        seg_of(self.i.memory_segment())
    }

    /// Address computation without segment: what LEA gives.
    pub(crate) fn offset_part(&mut self) -> Ea {
        let (base, index) = (self.i.memory_base(), self.i.memory_index());
        let bits = self.address_bits();
        let mut disp = self.i.memory_displacement64();
        let mut ea = Ea { base: NONE, index: NONE, scale: 0, disp: 0, space: FLAT, wrap: 0, stack: false };
        if matches!(base, Register::RIP | Register::EIP) {
            // iced has added RIP already, as the lifter counts it.
            if self.mode.relative() {
                ea.base = CODE_BASE;
            }
        } else if base != Register::None {
            ea.base = gpr_of(base);
            if ea.base == crate::state::RSP {
                disp = disp.wrapping_add(self.pop_bias as u64);
            }
        }
        if index != Register::None {
            ea.index = gpr_of(index);
            ea.scale = self.i.memory_index_scale().trailing_zeros() as u8;
        }
        match bits {
            64 => match i32::try_from(disp as i64) {
                Ok(d) => ea.disp = d,
                Err(_) => self.add_constant(&mut ea, disp),
            },
            32 => {
                ea.disp = disp as u32 as i32;
                if self.code64() {
                    // The sum has 32 bits, the segment base (FS, GS) and the access 64.
                    self.collapse(&mut ea, Op::Lea32);
                } else {
                    ea.wrap = 1;
                }
            }
            _ => {
                ea.disp = i32::from(disp as u16);
                self.collapse(&mut ea, Op::Lea16);
            }
        }
        ea
    }

    /// A displacement that does not fit.
    fn add_constant(&mut self, ea: &mut Ea, disp: u64) {
        let t = self.constant(disp);
        if ea.base == NONE {
            ea.base = t;
        } else {
            ea.base = self.b.new2(Op::Add64, ea.base, t);
        }
    }

    /// Compute the sum so far into one temporary.
    fn collapse(&mut self, ea: &mut Ea, op: Op) {
        let mask = if op == Op::Lea16 { 0xffff } else { 0xffff_ffff };
        let t = if ea.base == NONE && ea.index == NONE {
            self.constant(ea.disp as u32 as u64 & mask)
        } else {
            let t = self.b.temp();
            self.b.full(op, ea.scale, t, ea.base, ea.index, i64::from(ea.disp) as u64);
            t
        };
        self.set_clean(t, true);
        *ea = Ea { base: t, index: NONE, scale: 0, disp: 0, ..*ea };
    }

    /// Put an offset into a segment.
    pub(crate) fn in_segment(&mut self, mut ea: Ea, s: Seg) -> Ea {
        ea.stack = s == Seg::Ss;
        if self.code64() {
            if matches!(s, Seg::Fs | Seg::Gs) {
                let base = seg_base(s);
                if ea.base == NONE {
                    ea.base = base;
                } else if ea.index == NONE {
                    (ea.index, ea.scale) = (base, 0);
                } else {
                    ea.base = self.b.new2(Op::Add64, ea.base, base);
                }
            }
        } else if !self.mode.contains(Mode::FLAT) || matches!(s, Seg::Fs | Seg::Gs | Seg::Cs) {
            // A flat CS may be read like the others, but not written.
            ea.space = space(s);
        }
        ea
    }

    /// The address of the memory operand in one slot, for operations that take no index or displacement.
    pub(crate) fn ea_slot(&mut self) -> (Slot, Ea) {
        let ea = self.ea();
        let t = if ea.index == NONE && ea.disp == 0 && ea.wrap == 0 && ea.base != NONE {
            ea.base
        } else {
            let t = self.b.temp();
            let op = if ea.wrap == 1 { Op::Lea32 } else { Op::Lea };
            if ea.base == NONE && ea.index == NONE {
                let v = i64::from(ea.disp) as u64;
                self.b.op_imm(Op::MovI, t, NONE, if ea.wrap == 1 { v & 0xffff_ffff } else { v });
            } else {
                self.b.full(op, ea.scale, t, ea.base, ea.index, i64::from(ea.disp) as u64);
            }
            t
        };
        (t, Ea { base: t, index: NONE, scale: 0, disp: 0, ..ea })
    }

    /// Load `bits` from `ea` into `d`.
    pub(crate) fn load_into(&mut self, d: Slot, ea: Ea, bits: u32) {
        self.b.load(d, ea.base, ea.index, ea.mem(bits));
        self.set_clean(d, bits <= 32);
    }

    /// Load `bits` from `ea`, zero-extended.
    pub(crate) fn load(&mut self, ea: Ea, bits: u32) -> Slot {
        let d = self.b.temp();
        self.load_into(d, ea, bits);
        d
    }

    /// Load for a read-modify-write: the right to write is checked first.
    pub(crate) fn load_rmw(&mut self, ea: Ea, bits: u32) -> Slot {
        let d = self.b.temp();
        self.b.load(d, ea.base, ea.index, MemRef { write_intent: true, ..ea.mem(bits) });
        self.set_clean(d, bits <= 32);
        d
    }

    /// Store the low `bits` of `v`.
    pub(crate) fn store(&mut self, v: Slot, ea: Ea, bits: u32) {
        self.b.store(v, ea.base, ea.index, ea.mem(bits));
    }

    /// The value of register `r`; anything above its size.
    pub(crate) fn read_reg(&mut self, r: Register) -> Slot {
        match high_byte(r) {
            Some(full) => self.b.new_imm(Op::Shr64I, full, 8),
            None => gpr_of(r),
        }
    }

    /// The value of operand `n`; anything above its size. A register's slot is the register itself: copy it before writing
    /// the register if the old value is still needed.
    pub(crate) fn read(&mut self, n: u32) -> Slot {
        match self.i.op_kind(n) {
            OpKind::Register => {
                let r = self.i.op_register(n);
                self.read_reg(r)
            }
            OpKind::Memory => {
                let (ea, bits) = (self.ea(), self.bits(n));
                self.load(ea, bits)
            }
            _ => {
                let v = self.i.immediate(n);
                self.constant(v)
            }
        }
    }

    /// The value of operand `n`, zero-extended from its size.
    pub(crate) fn read_zx(&mut self, n: u32) -> Slot {
        let (v, bits) = (self.read(n), self.bits(n));
        if self.is_mem(n) { v } else { self.zext(v, bits) }
    }

    /// Zero-extend.
    pub(crate) fn zext(&mut self, v: Slot, bits: u32) -> Slot {
        let op = match bits {
            8 => Op::Zext8,
            16 => Op::Zext16,
            32 if !self.is_clean(v) => Op::Zext32,
            _ => return v,
        };
        let t = self.b.new_imm(op, v, 0);
        self.set_clean(t, true);
        t
    }

    /// Sign-extend to 64 bits.
    pub(crate) fn sext(&mut self, v: Slot, bits: u32) -> Slot {
        let op = match bits {
            8 => Op::Sext8,
            16 => Op::Sext16,
            32 => Op::Sext32,
            _ => return v,
        };
        self.b.new_imm(op, v, 0)
    }

    /// Write register `r` with the low bits of `v`.
    pub(crate) fn write_reg(&mut self, r: Register, v: Slot) {
        if let Some(full) = high_byte(r) {
            self.b.full(Op::Deposit, 0, full, full, v, 8 | 8 << 8);
            return;
        }
        self.write_gpr(gpr_of(r), v, r.size() as u32 * 8);
    }

    /// Write `bits` of a general register.
    pub(crate) fn write_gpr(&mut self, d: Slot, v: Slot, bits: u32) {
        match bits {
            64 => {
                if d != v {
                    self.b.op(Op::Mov, d, v, NONE);
                    let clean = self.is_clean(v);
                    self.set_clean(d, clean);
                }
            }
            32 => {
                let op = if self.is_clean(v) { Op::Mov } else { Op::Zext32 };
                if d != v || op == Op::Zext32 {
                    self.b.op(op, d, v, NONE);
                }
                self.set_clean(d, true);
            }
            16 => self.b.full(Op::Deposit, 0, d, d, v, 16 << 8),
            _ => self.b.full(Op::Deposit, 0, d, d, v, 8 << 8),
        }
    }

    /// Write operand `n` (register or memory) with the low bits of `v`.
    pub(crate) fn write(&mut self, n: u32, v: Slot) {
        if self.is_mem(n) {
            let (ea, bits) = (self.ea(), self.bits(n));
            self.store(v, ea, bits);
        } else {
            let r = self.i.op_register(n);
            self.write_reg(r, v);
        }
    }

    /// Slot of operand `n` if it is a general register of any size but AH to BH.
    pub(crate) fn plain_reg(&self, n: u32) -> Option<Slot> {
        if self.i.op_kind(n) != OpKind::Register {
            return None;
        }
        let r = self.i.op_register(n);
        (r.is_gpr() && high_byte(r).is_none()).then(|| gpr_of(r))
    }

    /// Slot of operand `n` if it is a 32- or 64-bit general register, so that results can be computed into it.
    pub(crate) fn wide_reg(&self, n: u32) -> Option<(Slot, u32)> {
        if self.i.op_kind(n) != OpKind::Register {
            return None;
        }
        let r = self.i.op_register(n);
        (r.is_gpr32() || r.is_gpr64()).then(|| (gpr_of(r), r.size() as u32 * 8))
    }
}
