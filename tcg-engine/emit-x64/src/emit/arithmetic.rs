//! Arithmetic, with and without flags for the guest.

use ir::flags::Kind;
use ir::op::{FLAG_A, FLAG_R, Inst, NONE, Op, Rel, Slot};
use ir::{AluOp, AluRef, Block};

use super::{Emitter, Flags, Reload};
use crate::asm::{Alu, Mem, RAX, RCX, RDX, Rm, Shift, Sz, at, cc, indexed};
use crate::layout::{GENERAL, word};
use crate::mutants::{Mutant, on};

impl Emitter {
    /// `d = a op b` without flags for the guest.
    pub(super) fn binary(&mut self, h: Alu, sz: Sz, x: &Inst) {
        let commutes = matches!(h, Alu::Add | Alu::And | Alu::Or | Alu::Xor);
        let (mut a, mut b) = (x.a, x.b);
        if commutes && (b == x.d || self.constant(a).is_some()) {
            (a, b) = (b, a);
        }
        if h == Alu::Add && sz == Sz::Q && (x.d != a || self.flags == Flags::Host) {
            // The flags stay.
            if let Some(v) = self.small(b) {
                let a = self.reg(a, RAX);
                let d = self.target(x.d, RAX);
                self.a.lea(sz, d, at(a, v));
                return self.done(x.d, d);
            }
            let a = self.reg(a, RAX);
            let b = self.reg(b, RCX);
            let d = self.target(x.d, RAX);
            let (a, b) = if a.0 & 7 == 5 { (b, a) } else { (a, b) };
            self.a.lea(sz, d, indexed(a, b, 0, 0));
            return self.done(x.d, d);
        }
        self.clobber();
        if let Some(d) = self.changed(a, b, x.d, sz) {
            match (self.small(b), d) {
                (Some(v), d) => self.a.alu_imm(h, sz, d, v),
                (None, Rm::R(d)) => {
                    let b = self.rm(b, RCX);
                    self.a.alu(h, sz, d, b);
                }
                (None, Rm::M(m)) => {
                    let b = self.reg(b, RCX);
                    self.a.alu_store(h, sz, m, b);
                }
            }
            return;
        }
        self.load_into(RAX, a);
        match self.small(b) {
            Some(v) => self.a.alu_imm(h, sz, RAX, v),
            None => {
                let b = self.rm(b, RCX);
                self.a.alu(h, sz, RAX, b);
            }
        }
        self.set(x.d, RAX);
    }

    /// Where `d = a op b` can be made of `a` without a detour: in the place of `d`, which holds `a` afterwards.
    fn changed(&mut self, a: Slot, b: Slot, d: Slot, sz: Sz) -> Option<Rm> {
        if a == d {
            return match self.place(d) {
                _ if self.constant(d).is_some() => None,
                // 32-bit results in memory have to be extended.
                Rm::M(_) if sz != Sz::Q => None,
                place => Some(place),
            };
        }
        let r = self.pins.get(d).filter(|_| b != d)?;
        self.load_into(r, a);
        Some(Rm::R(r))
    }

    /// `d = a op imm`.
    pub(super) fn binary_imm(&mut self, h: Alu, sz: Sz, x: &Inst) {
        let imm = match (h, sz) {
            (Alu::Sub, Sz::Q) => x.imm.wrapping_neg(),
            (Alu::Sub, _) => u64::from((x.imm as u32).wrapping_neg()),
            _ => x.imm,
        };
        let fits = if sz == Sz::D { Some(imm as u32 as i32) } else { i32::try_from(imm as i64).ok() };
        if matches!(h, Alu::Add | Alu::Sub)
            && let Some(v) = fits
        {
            let a = self.reg(x.a, RAX);
            let d = self.target(x.d, RAX);
            self.a.lea(sz, d, at(a, v));
            return self.done(x.d, d);
        }
        self.clobber();
        // An AND with a small constant is one of 32 bits.
        let (sz, fits) = match u32::try_from(imm) {
            Ok(v) if h == Alu::And => (Sz::D, Some(v as i32)),
            _ => (sz, fits),
        };
        let h = if h == Alu::Sub { Alu::Add } else { h };
        if let Some(d) = self.changed(x.a, NONE, x.d, sz) {
            match (fits, d) {
                (Some(v), d) => self.a.alu_imm(h, sz, d, v),
                (None, Rm::R(d)) => {
                    self.a.mov_imm(RCX, imm);
                    self.a.alu(h, sz, d, RCX);
                }
                (None, Rm::M(m)) => {
                    self.a.mov_imm(RCX, imm);
                    self.a.alu_store(h, sz, m, RCX);
                }
            }
            return;
        }
        self.load_into(RAX, x.a);
        match fits {
            Some(v) => self.a.alu_imm(h, sz, RAX, v),
            None => {
                self.a.mov_imm(RCX, imm);
                self.a.alu(h, sz, RAX, RCX);
            }
        }
        self.set(x.d, RAX);
    }

    pub(super) fn shift_imm(&mut self, op: Shift, sz: Sz, x: &Inst) {
        let n = x.imm as u8 & if sz == Sz::Q { 63 } else { 31 };
        if op == Shift::Rol && n != 0 && self.features.bmi {
            return self.rotate(sz, n, x);
        }
        if n != 0 {
            self.clobber();
        }
        let changed = self.changed(x.a, NONE, x.d, sz);
        let place = changed.unwrap_or_else(|| {
            self.load_into(RAX, x.a);
            Rm::R(RAX)
        });
        match place {
            Rm::R(r) if n == 0 && sz == Sz::D => self.a.mov(Sz::D, r, r),
            _ if n == 0 => {}
            place => self.a.shift_imm(op, sz, place, n),
        }
        if changed.is_none() {
            self.set(x.d, RAX);
        }
    }

    /// x86 arithmetic with its flags.
    pub(super) fn alu(&mut self, x: &Inst) {
        let r = AluRef::unpack(x.aux);
        if r.op as u8 >= AluOp::Andn as u8 {
            return self.manipulate(x, r);
        }
        if r.op == AluOp::Bt && r.log2 == 0 {
            // The host has none of bytes.
            return self.interpret(x);
        }
        let sz = Sz::log2(r.log2);
        let wanted = self.needed[self.i + 1];
        let imm = match (x.b == NONE, self.constant(x.b)) {
            (true, _) => Some(x.imm),
            (false, c) => c,
        };
        // What the operation needs of the flags before.
        match r.op {
            AluOp::Shl | AluOp::Shr | AluOp::Sar if wanted && imm.is_none() && !on(Mutant::ShiftByZero) => {
                self.host_flags()
            }
            AluOp::Bt | AluOp::Rol | AluOp::Ror if wanted => self.host_flags(),
            AluOp::Adc | AluOp::Sbb if self.recipe.is_some() => self.host_flags(),
            AluOp::Inc | AluOp::Dec if wanted && self.recipe.is_some() => self.host_flags(),
            _ => {}
        }
        if x.a == x.b
            && x.a == x.d
            && self.pins.get(x.d).is_none()
            && matches!(r.op, AluOp::Xor | AluOp::Sub)
            && r.log2 > 1
        {
            // Nothing of it is left.
            self.a.alu(if r.op == AluOp::Xor { Alu::Xor } else { Alu::Sub }, Sz::D, RAX, RAX);
            self.set(x.d, RAX);
            return self.made_flags();
        }
        // The operand that is changed.
        let in_place = x.a == x.d || r.op.compares();
        let dest = if in_place && self.constant(x.a).is_none() {
            match self.place(x.a) {
                // 32-bit results in memory have to be extended, and a store of a part makes the next load of the whole wait.
                Rm::M(m) if sz != Sz::Q && !r.op.compares() => {
                    self.a.mov(if sz == Sz::D { Sz::D } else { Sz::Q }, RAX, m);
                    Rm::R(RAX)
                }
                p => p,
            }
        } else {
            self.load_into(RAX, x.a);
            Rm::R(RAX)
        };
        self.alu_host(r.op, sz, dest, x.b, imm, wanted);
        if dest == Rm::R(RAX) && !r.op.compares() {
            self.set(x.d, RAX);
        }
        let shifts = matches!(r.op, AluOp::Shl | AluOp::Shr | AluOp::Sar | AluOp::Rol | AluOp::Ror);
        if !(shifts && imm.is_some_and(|v| v & if sz == Sz::Q { 63 } else { 31 } == 0)) {
            self.made_flags();
        }
    }

    pub(super) fn alu_host(&mut self, op: AluOp, sz: Sz, dest: Rm, b: Slot, imm: Option<u64>, wanted: bool) {
        match op {
            AluOp::Inc | AluOp::Dec => {
                if wanted {
                    self.host_carry();
                }
                self.a.inc_dec(u8::from(op == AluOp::Dec), sz, dest);
            }
            AluOp::Neg => self.a.group3(3, sz, dest),
            AluOp::Shl | AluOp::Shr | AluOp::Sar | AluOp::Rol | AluOp::Ror => {
                let h = match op {
                    AluOp::Shl => Shift::Shl,
                    AluOp::Shr => Shift::Shr,
                    AluOp::Sar => Shift::Sar,
                    AluOp::Rol => Shift::Rol,
                    _ => Shift::Ror,
                };
                match imm.map(|v| v as u8 & if sz == Sz::Q { 63 } else { 31 }) {
                    Some(0) => {
                        if let (Rm::R(r), Sz::D) = (dest, sz) {
                            self.a.mov(Sz::D, r, r);
                        }
                    }
                    Some(n) => self.a.shift_imm(h, sz, dest, n),
                    None => {
                        self.load_into(RCX, b);
                        if let (Rm::R(r), Sz::D) = (dest, sz) {
                            self.a.mov(Sz::D, r, r);
                        }
                        self.a.shift_cl(h, sz, dest);
                    }
                }
            }
            AluOp::Bt => {
                let mask = match sz {
                    Sz::Q => 63,
                    Sz::D => 31,
                    _ => 15,
                };
                match imm {
                    Some(v) => self.a.bt_imm(sz, dest, v as u8 & mask),
                    None => {
                        let n = self.reg(b, RCX);
                        let r = match dest {
                            Rm::R(r) => r,
                            // Bit numbers beyond a word in memory would name other words.
                            m => {
                                self.a.mov(Sz::Q, RDX, m);
                                RDX
                            }
                        };
                        self.a.bt(sz, r, n);
                    }
                }
            }
            AluOp::Test => match imm {
                Some(v) if sz != Sz::Q || i32::try_from(v as i64).is_ok() => self.a.test_imm(sz, dest, v as i32),
                Some(v) => {
                    self.a.mov_imm(RCX, v);
                    self.a.test(sz, dest, RCX);
                }
                None => {
                    let b = self.reg(b, RCX);
                    self.a.test(sz, dest, b);
                }
            },
            _ => {
                let h = host_alu(op).unwrap_or(Alu::Cmp);
                match imm {
                    Some(v) if sz != Sz::Q || i32::try_from(v as i64).is_ok() => {
                        if op.reads_flags() {
                            self.host_carry();
                        }
                        self.a.alu_imm(h, sz, dest, v as i32);
                    }
                    _ => {
                        let b = match (imm, dest) {
                            (Some(v), _) => {
                                self.a.mov_imm(RCX, v);
                                Rm::R(RCX)
                            }
                            (None, Rm::R(_)) => self.place(b),
                            (None, Rm::M(_)) => Rm::R(self.reg(b, RCX)),
                        };
                        if op.reads_flags() {
                            self.host_carry();
                        }
                        match (dest, b) {
                            (Rm::R(d), b) => self.a.alu(h, sz, d, b),
                            (Rm::M(m), Rm::R(b)) => self.a.alu_store(h, sz, m, b),
                            (Rm::M(_), Rm::M(_)) => {}
                        }
                    }
                }
            }
        }
    }

    /// Flags recorded from operands: the host computes them again.
    pub(super) fn record(&mut self, block: &Block, x: &Inst) {
        let sz = match x.imm {
            8 => Sz::B,
            16 => Sz::W,
            32 => Sz::D,
            _ => Sz::Q,
        };
        if !self.needed[self.i + 1] {
            return;
        }
        match Kind::from_u8(x.aux) {
            Kind::X86Add => {
                self.load_into(RAX, x.a);
                let b = self.rm(x.b, RCX);
                self.a.alu(Alu::Add, sz, RAX, b);
            }
            Kind::X86Sub => {
                let a = self.reg(x.a, RAX);
                let b = self.rm(x.b, RCX);
                self.a.alu(Alu::Cmp, sz, a, b);
            }
            Kind::X86Logic => {
                let r = self.reg(x.d, RAX);
                self.a.test(sz, r, r);
            }
            Kind::X86Explicit => {
                self.load_into(RAX, x.d);
                self.a.mov(Sz::D, RCX, RAX);
                self.a.shift_imm(Shift::Shl, Sz::D, RAX, 8);
                self.a.shift_imm(Shift::Shr, Sz::D, RCX, 11);
                self.a.alu_imm(Alu::And, Sz::D, RCX, 1);
                self.a.alu(Alu::Or, Sz::D, RAX, RCX);
                self.a.store(Sz::D, word(FLAG_R), RAX);
                (self.flags, self.recipe) = (Flags::Memory, None);
                return;
            }
            Kind::X86Mul => {
                self.recipe = self.recipe_of_product(block, sz, x.d);
                if self.recipe.is_some() {
                    let over = self.reg(x.a, RCX);
                    self.flags = Flags::Memory;
                    return self.a.store(Sz::B, word(FLAG_A), over);
                }
                // SF, ZF and PF of the result; CF and OF are `a`.
                let r = self.reg(x.d, RAX);
                self.a.test(sz, r, r);
                self.load_into(RCX, x.a);
                self.overflowed();
                self.a.store(Sz::D, word(FLAG_R), RAX);
                self.flags = Flags::Memory;
                return;
            }
            kind @ (Kind::X86Shl | Kind::X86Shr) if x.imm >= 32 => return self.record_shift(x, kind, sz),
            _ => {
                // Whatever was before is overwritten.
                (self.flags, self.recipe) = (Flags::Memory, None);
                return self.interpret(x);
            }
        }
        self.made_flags();
    }

    /// The flags of a shift of `a` by `b`, which is below the size, with result `d`: not what the host makes of `a`, where that is one half
    /// of what is shifted.
    fn record_shift(&mut self, x: &Inst, kind: Kind, sz: Sz) {
        let left = kind == Kind::X86Shl;
        self.recipe = None;
        self.load_into(RDX, x.a);
        self.load_into(RCX, x.b);
        // A shift by 0 leaves the carry alone, which is clear then.
        self.a.test(Sz::D, RCX, RCX);
        self.a.shift_cl(if left { Shift::Shl } else { Shift::Shr }, sz, RDX);
        self.a.setcc(cc::B, RCX);
        if on(Mutant::ShiftedOut) {
            self.a.setcc(cc::AE, RCX);
        }
        self.a.alu_imm(Alu::And, Sz::D, RCX, 1);
        let r = self.reg(x.d, RAX);
        self.a.test(sz, r, r);
        self.a.save_flags();
        // OF: whether a shift by one changes the sign.
        self.load_into(RDX, if left { x.d } else { x.a });
        self.a.shift_imm(Shift::Shr, sz, RDX, x.imm as u8 - 1);
        if left {
            self.a.alu(Alu::Xor, Sz::D, RDX, RCX);
        }
        self.a.alu(Alu::Or, Sz::D, RAX, RDX);
        self.a.shift_imm(Shift::Shl, Sz::D, RCX, 8);
        self.a.alu(Alu::Or, Sz::D, RAX, RCX);
        self.a.store(Sz::D, word(FLAG_R), RAX);
        self.flags = Flags::Memory;
    }

    pub(super) fn mov_imm(&mut self, d: Slot, v: u64) {
        if d.is_temp() && self.skips.is_empty() {
            self.forget_constant(d);
            if self.held == d {
                self.held = NONE;
            }
            self.constants.push((d, v));
            return;
        }
        if self.pins.get(d).is_none()
            && let Ok(v) = i32::try_from(v as i64)
        {
            self.forget_constant(d);
            if self.held == d {
                self.held = NONE;
            }
            return self.a.store_imm(Sz::Q, word(d), v);
        }
        let r = self.target(d, RAX);
        self.a.mov_imm(r, v);
        self.done(d, r);
    }

    pub(super) fn unary(&mut self, ext: u8, sz: Sz, x: &Inst) {
        if x.a == x.d
            && let Some(d) = self.pins.get(x.d)
        {
            return self.a.group3(ext, sz, d);
        }
        self.load_into(RAX, x.a);
        self.a.group3(ext, sz, RAX);
        self.set(x.d, RAX);
    }

    pub(super) fn extend(&mut self, x: &Inst) {
        let a = self.rm(x.a, RAX);
        let d = self.target(x.d, RAX);
        match x.op {
            Op::Zext8 => self.a.movzx(Sz::B, d, a),
            Op::Zext16 => self.a.movzx(Sz::W, d, a),
            Op::Zext32 => self.a.mov(if on(Mutant::Width) { Sz::Q } else { Sz::D }, d, a),
            Op::Sext8 => self.a.movsx(Sz::B, d, a),
            Op::Sext16 => self.a.movsx(Sz::W, d, a),
            _ => self.a.movsx(Sz::D, d, a),
        }
        self.done(x.d, d);
    }

    /// A conditional move.
    pub(super) fn select(&mut self, block: &Block, x: &Inst) {
        let Some(c) = self.condition(x.aux) else { return self.interpret(x) };
        let sz = self.select_size(block, self.i, x.d);
        self.fused = u8::from(sz == Sz::D);
        let d = match self.pins.get(x.d) {
            Some(d) if x.a != x.d => d,
            _ => RAX,
        };
        self.load_into(d, x.b);
        let a = self.rm(x.a, RCX);
        self.a.cmov(c, sz, d, a);
        if d == RAX {
            self.set(x.d, RAX);
        }
    }

    /// Of 32 bits if operation `i`, a conditional move to `d`, is followed by the extension of that, which the host's has in it.
    fn select_size(&self, block: &Block, i: usize, d: Slot) -> Sz {
        let extended = block.insts.get(i + 1).is_some_and(|x| x.op == Op::Zext32 && x.d == d && x.a == d);
        if extended && !self.landing[i + 1] { Sz::D } else { Sz::Q }
    }

    /// A copy to a guest's word in memory, if the next operation is a conditional move to the same: the word is written once.
    pub(super) fn copy_and_select(&mut self, block: &Block, x: &Inst) -> bool {
        let Some(next) = block.insts.get(self.i + 1) else { return false };
        let general = GENERAL.contains(&x.d.0) && self.pins.get(x.d).is_none();
        let same = next.op == Op::SelectCond && next.d == x.d && next.b == x.d && next.a != x.d;
        if !general || !same || next.aux >= 16 || self.landing[self.i + 1] {
            return false;
        }
        let Some(c) = self.condition(next.aux) else { return false };
        let a = self.rm(x.a, RAX);
        self.a.mov(if x.op == Op::Zext32 { Sz::D } else { Sz::Q }, RAX, a);
        let sz = self.select_size(block, self.i + 1, x.d);
        let other = self.rm(next.a, RCX);
        self.a.cmov(c, sz, RAX, other);
        self.done(x.d, RAX);
        self.fused = 1 + u8::from(sz == Sz::D);
        true
    }

    /// Replace a field: low bytes by a partial move, others by masks.
    pub(super) fn deposit(&mut self, x: &Inst) {
        let (pos, len) = (x.imm as u8 & 63, (x.imm >> 8) as u8 & 127);
        let part = match (pos, len) {
            (0, 8) => Some(Sz::B),
            (0, 16) => Some(Sz::W),
            _ => None,
        };
        if let Some(sz) = part {
            let b = self.reg(x.b, RCX);
            // In memory not by a store of the part: it would make the next load of the whole wait.
            if x.a == x.d
                && self.constant(x.a).is_none()
                && let Rm::R(d) = self.place(x.d)
            {
                return self.a.mov(sz, d, b);
            }
            self.load_into(RAX, x.a);
            self.a.mov(sz, RAX, b);
            return self.set(x.d, RAX);
        }
        if len == 0 || len >= 64 {
            return self.interpret(x);
        }
        self.clobber();
        let mask = (1u64 << len) - 1;
        self.load_into(RCX, x.b);
        self.load_into(RAX, x.a);
        if mask <= 0x7fff_ffff {
            self.a.alu_imm(Alu::And, Sz::Q, RCX, mask as i32);
        } else {
            self.a.mov_imm(RDX, mask);
            self.a.alu(Alu::And, Sz::Q, RCX, RDX);
        }
        if pos != 0 {
            self.a.shift_imm(Shift::Shl, Sz::Q, RCX, pos);
        }
        let hole = !(mask << pos);
        match i32::try_from(hole as i64) {
            Ok(v) => self.a.alu_imm(Alu::And, Sz::Q, RAX, v),
            Err(_) => {
                self.a.mov_imm(RDX, hole);
                self.a.alu(Alu::And, Sz::Q, RAX, RDX);
            }
        }
        self.a.alu(Alu::Or, Sz::Q, RAX, RCX);
        self.set(x.d, RAX);
    }

    pub(super) fn extract(&mut self, x: &Inst) {
        let (pos, len) = (x.imm as u8 & 63, (x.imm >> 8) as u8 & 127);
        if len == 0 || len >= 64 || pos + len > 64 {
            return self.interpret(x);
        }
        self.clobber();
        self.load_into(RAX, x.a);
        let up = 64 - pos - len;
        if up != 0 {
            self.a.shift_imm(Shift::Shl, Sz::Q, RAX, up);
        }
        let down = if x.op == Op::Extract { Shift::Shr } else { Shift::Sar };
        self.a.shift_imm(down, Sz::Q, RAX, 64 - len);
        self.set(x.d, RAX);
    }

    pub(super) fn relation(&mut self, x: &Inst) {
        self.clobber();
        let a = self.reg(x.a, RAX);
        if x.op == Op::SetRelI {
            match i32::try_from(x.imm as i64) {
                Ok(0) => self.a.test(Sz::Q, a, a),
                Ok(v) => self.a.alu_imm(Alu::Cmp, Sz::Q, a, v),
                Err(_) => {
                    self.a.mov_imm(RCX, x.imm);
                    self.a.alu(Alu::Cmp, Sz::Q, a, RCX);
                }
            }
        } else {
            let b = self.rm(x.b, RCX);
            self.a.alu(Alu::Cmp, Sz::Q, a, b);
        }
        let c = match x.aux {
            r if r == Rel::Eq as u8 => cc::E,
            r if r == Rel::Ne as u8 => cc::NE,
            r if r == Rel::Ltu as u8 => cc::B,
            r if r == Rel::Leu as u8 => cc::BE,
            r if r == Rel::Lts as u8 => cc::L,
            _ => cc::LE,
        };
        self.a.setcc(c, RAX);
        self.a.movzx(Sz::B, RAX, RAX);
        self.set(x.d, RAX);
    }

    pub(super) fn lea(&mut self, x: &Inst) {
        let sz = if x.op == Op::Lea { Sz::Q } else { Sz::D };
        let Ok(disp) = i32::try_from(x.imm as i64) else { return self.interpret(x) };
        if x.aux > 3 {
            return self.interpret(x);
        }
        let mem = match (x.a, x.b) {
            (NONE, NONE) => {
                let v = i64::from(disp) as u64;
                let v = match x.op {
                    Op::Lea => v,
                    Op::Lea32 => v & 0xffff_ffff,
                    _ => v & 0xffff,
                };
                return self.mov_imm(x.d, v);
            }
            (a, NONE) => at(self.reg(a, RAX), disp),
            (NONE, b) => {
                let b = self.reg(b, RAX);
                Mem { base: None, index: Some((b, x.aux)), disp }
            }
            (a, b) => {
                let b = self.reg(b, RCX);
                let a = self.reg(a, RAX);
                indexed(a, b, x.aux, disp)
            }
        };
        let d = self.target(x.d, RAX);
        self.a.lea(sz, d, mem);
        if x.op == Op::Lea16 {
            self.a.movzx(Sz::W, d, d);
        }
        self.done(x.d, d);
    }

    /// The host divides what surely fits; the rest, and what raises an exception, is the interpreter's.
    pub(super) fn divide(&mut self, x: &Inst) {
        if self.pins.get(x.d).is_none() || self.pins.get(x.b).is_none() || x.d == x.b {
            return self.interpret(x);
        }
        let (sz, signed) = (Sz::log2(x.aux & 7), x.aux & 0x80 != 0);
        self.save_now();
        self.load_into(RDX, x.b);
        self.load_into(RAX, x.d);
        self.load_into(RCX, x.a);
        let site = self.site(self.i);
        let bad = if signed {
            // The dividend is its low half, sign-extended; the divisor is neither 0 nor -1.
            self.a.alu_imm(Alu::Add, sz, RCX, 1);
            self.a.alu_imm(Alu::Cmp, sz, RCX, 1);
            let odd = self.a.jcc(cc::BE);
            self.a.alu_imm(Alu::Sub, sz, RCX, 1);
            self.a.shift_imm(Shift::Sar, sz, RAX, if sz == Sz::Q { 63 } else { 31 });
            self.a.alu(Alu::Cmp, sz, RAX, RDX);
            let wide = self.a.jcc(cc::NE);
            self.load_into(RAX, x.d);
            [Some(odd), Some(wide)]
        } else {
            self.a.alu(Alu::Cmp, sz, RDX, RCX);
            [Some(self.a.jcc(cc::B ^ 1)), None]
        };
        self.a.group3(if signed { 7 } else { 6 }, sz, RCX);
        self.set(x.d, RAX);
        if !on(Mutant::Remainder) {
            self.set(x.b, RDX);
        }
        self.flags = Flags::Memory;
        self.cold(bad, Reload::Nothing, site);
    }
}

pub(super) fn host_alu(op: AluOp) -> Option<Alu> {
    Some(match op {
        AluOp::Add => Alu::Add,
        AluOp::Or => Alu::Or,
        AluOp::Adc => Alu::Adc,
        AluOp::Sbb => Alu::Sbb,
        AluOp::And => Alu::And,
        AluOp::Sub => Alu::Sub,
        AluOp::Xor => Alu::Xor,
        AluOp::Cmp => Alu::Cmp,
        _ => return None,
    })
}
