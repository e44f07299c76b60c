//! Moves: plain, extending, conditional; LEA, XLAT, BSWAP, sign extension of the accumulator, flags to and from AH, and
//! instructions that do nothing.

use iced_x86::{Mnemonic, OpKind, Register};
use ir::flags::{Cond, Kind};
use ir::{NONE, Op};

use super::operand::gpr_of;
use super::{Flow, Lifted, Lifter};
use crate::flags;
use crate::state::{RAX, RBX, RDX};

impl Lifter {
    fn mov(&mut self) -> Lifted {
        let special = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr();
        let kinds = [self.i.op0_kind(), self.i.op1_kind()];
        if kinds[0] == OpKind::Register && special(self.i.op0_register())
            || kinds[1] == OpKind::Register && special(self.i.op1_register())
        {
            return super::system::mov(self);
        }
        let bits = self.bits(0);
        if let Some((d, bits)) = self.wide_reg(0) {
            if let Some(v) = self.imm(1) {
                let v = if bits == 32 { v & 0xffff_ffff } else { v };
                self.b.op_imm(Op::MovI, d, NONE, v);
                self.set_clean(d, v <= u64::from(u32::MAX));
                return Some(Flow::Next);
            }
            if self.is_mem(1) {
                let ea = self.ea();
                self.load_into(d, ea, bits);
                return Some(Flow::Next);
            }
        }
        let v = if self.is_mem(0)
            && let Some(v) = self.imm(1)
        {
            self.constant(if bits == 64 { v } else { v & (u64::MAX >> (64 - bits)) })
        } else {
            self.read(1)
        };
        self.write(0, v);
        Some(Flow::Next)
    }

    /// MOVZX, MOVSX, MOVSXD.
    fn extend(&mut self, signed: bool) -> Lifted {
        let (from, to) = (self.bits(1), self.bits(0));
        if self.is_mem(1) {
            let ea = self.ea();
            if let Some((d, to)) = self.wide_reg(0)
                && (!signed || to == 64)
            {
                let m = ir::MemRef { signed, ..ea.mem(from) };
                self.b.load(d, ea.base, ea.index, m);
                self.set_clean(d, !signed);
                return Some(Flow::Next);
            }
            let m = ir::MemRef { signed, ..ea.mem(from) };
            let t = self.b.temp();
            self.b.load(t, ea.base, ea.index, m);
            self.set_clean(t, !signed);
            self.write(0, t);
            return Some(Flow::Next);
        }
        let v = self.read(1);
        if let Some((d, 64)) = self.wide_reg(0)
            && signed
        {
            let op = match from {
                8 => Op::Sext8,
                16 => Op::Sext16,
                _ => Op::Sext32,
            };
            self.b.op(op, d, v, NONE);
            self.set_clean(d, false);
            return Some(Flow::Next);
        }
        if let Some((d, _)) = self.wide_reg(0)
            && !signed
        {
            self.b.op(if from == 8 { Op::Zext8 } else { Op::Zext16 }, d, v, NONE);
            self.set_clean(d, true);
            return Some(Flow::Next);
        }
        let v = if signed { self.sext(v, from) } else { self.zext(v, from) };
        let _ = to;
        self.write(0, v);
        Some(Flow::Next)
    }

    fn lea(&mut self) -> Lifted {
        let to = self.bits(0);
        let ea = self.offset_part();
        let Some((d, _)) = self.wide_reg(0) else {
            let v = self.sum(ea, Op::Lea);
            self.write(0, v);
            return Some(Flow::Next);
        };
        let disp = i64::from(ea.disp) as u64;
        // 32-bit results, and 64-bit results of 32-bit addresses, end at bit 31.
        let narrow = to == 32 || ea.wrap == 1;
        if ea.base == NONE && ea.index == NONE {
            self.b.op_imm(Op::MovI, d, NONE, if narrow { disp & 0xffff_ffff } else { disp });
        } else if ea.index == NONE && ea.disp == 0 && !narrow {
            self.b.op(Op::Mov, d, ea.base, NONE);
        } else {
            let op = if narrow { Op::Lea32 } else { Op::Lea };
            self.b.full(op, ea.scale, d, ea.base, ea.index, disp);
        }
        let copied = ea.index == NONE && ea.disp == 0 && self.is_clean(ea.base);
        self.set_clean(d, narrow || copied);
        Some(Flow::Next)
    }

    fn sum(&mut self, ea: super::operand::Ea, op: Op) -> ir::Slot {
        let t = self.b.temp();
        self.b.full(op, ea.scale, t, ea.base, ea.index, i64::from(ea.disp) as u64);
        t
    }

    fn cmov(&mut self, cc: u8) -> Lifted {
        let v = self.read(1);
        let bits = self.bits(0);
        let d = gpr_of(self.i.op0_register());
        let clean = self.is_clean(v) && self.is_clean(d);
        if bits == 16 {
            let t = self.b.temp();
            self.b.full(Op::SelectCond, cc, t, v, d, 0);
            self.write_gpr(d, t, 16);
            return Some(Flow::Next);
        }
        self.b.full(Op::SelectCond, cc, d, v, d, 0);
        if bits == 32 && !clean {
            // The upper half is cleared whether the condition holds or not.
            self.b.op(Op::Zext32, d, d, NONE);
        }
        self.set_clean(d, bits == 32 || clean);
        Some(Flow::Next)
    }

    fn setcc(&mut self, cc: u8) -> Lifted {
        let t = self.b.temp();
        self.b.full(Op::Cond, cc, t, NONE, NONE, 0);
        self.write(0, t);
        Some(Flow::Next)
    }

    /// CBW, CWDE, CDQE: extend within RAX. CWD, CDQ, CQO: its sign into RDX.
    fn accumulator(&mut self) -> Lifted {
        match self.i.mnemonic() {
            Mnemonic::Cbw => {
                let t = self.sext(RAX, 8);
                self.write_gpr(RAX, t, 16);
            }
            Mnemonic::Cwde => {
                let t = self.sext(RAX, 16);
                self.write_gpr(RAX, t, 32);
            }
            Mnemonic::Cdqe => {
                self.b.op(Op::Sext32, RAX, RAX, NONE);
                self.set_clean(RAX, false);
            }
            Mnemonic::Cwd => {
                let t = self.sext(RAX, 16);
                let t = self.b.new_imm(Op::Sar64I, t, 63);
                self.write_gpr(RDX, t, 16);
            }
            Mnemonic::Cdq => {
                self.b.op_imm(Op::Sar32I, RDX, RAX, 31);
                self.set_clean(RDX, true);
            }
            _ => {
                self.b.op_imm(Op::Sar64I, RDX, RAX, 63);
                self.set_clean(RDX, false);
            }
        }
        Some(Flow::Next)
    }

    fn bswap(&mut self) -> Lifted {
        let r = self.i.op0_register();
        let (d, bits) = (gpr_of(r), r.size() as u32 * 8);
        if bits == 16 {
            // Undefined; processors write zeros.
            let zero = self.constant(0);
            self.write_gpr(d, zero, 16);
        } else {
            self.b.full(Op::Bswap, bits as u8, d, d, NONE, 0);
            self.set_clean(d, bits == 32);
        }
        Some(Flow::Next)
    }

    /// XLAT: AL = [rBX + AL].
    fn xlat(&mut self) -> Lifted {
        let al = self.b.new_imm(Op::Zext8, RAX, 0);
        let bits = match self.i.memory_base() {
            Register::RBX => 64,
            Register::EBX => 32,
            _ => 16,
        };
        let t = self.b.new2(Op::Add64, RBX, al);
        let t = if bits == 64 { t } else { self.zext(t, bits) };
        let ea = super::operand::Ea {
            base: t,
            index: NONE,
            scale: 0,
            disp: 0,
            space: crate::memory::FLAT,
            wrap: 0,
            stack: false,
        };
        let s = self.segment()?;
        let ea = self.in_segment(ea, s);
        let v = self.load(ea, 8);
        self.write_gpr(RAX, v, 8);
        Some(Flow::Next)
    }

    fn lahf(&mut self) -> Lifted {
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = self.b.new_imm(Op::OrI, f, flags::ONE);
        self.b.full(Op::Deposit, 0, RAX, RAX, f, 8 | 8 << 8);
        Some(Flow::Next)
    }

    fn sahf(&mut self) -> Lifted {
        const LOW: u64 = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF;
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let of = self.b.new_imm(Op::AndI, f, flags::OF);
        let ah = self.b.new_imm(Op::Shr64I, RAX, 8);
        let ah = self.b.new_imm(Op::AndI, ah, LOW);
        let f = self.b.new2(Op::Or, of, ah);
        self.b.flags(Kind::X86Explicit, 64, NONE, NONE, f);
        Some(Flow::Next)
    }

    /// CLC, STC, CMC.
    fn carry_flag(&mut self) -> Lifted {
        let f = self.b.new2(Op::FlagsGet, NONE, NONE);
        let f = match self.i.mnemonic() {
            Mnemonic::Clc => self.b.new_imm(Op::AndI, f, !flags::CF),
            Mnemonic::Stc => self.b.new_imm(Op::OrI, f, flags::CF),
            _ => self.b.new_imm(Op::XorI, f, flags::CF),
        };
        self.b.flags(Kind::X86Explicit, 64, NONE, NONE, f);
        Some(Flow::Next)
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    match l.i.mnemonic() {
        Mnemonic::Mov => l.mov(),
        Mnemonic::Movnti => {
            let v = l.read(1);
            l.write(0, v);
            Some(Flow::Next)
        }
        Mnemonic::Movzx => l.extend(false),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            // MOVSXD with equal sizes is a plain move.
            if l.bits(0) == l.bits(1) { l.mov() } else { l.extend(true) }
        }
        Mnemonic::Lea => l.lea(),
        Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe | Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => {
            l.accumulator()
        }
        Mnemonic::Bswap => l.bswap(),
        Mnemonic::Xlatb => l.xlat(),
        Mnemonic::Lahf => l.lahf(),
        Mnemonic::Sahf => l.sahf(),
        Mnemonic::Clc | Mnemonic::Stc | Mnemonic::Cmc => l.carry_flag(),
        _ => {
            let cc = l.condition()?;
            if l.i.op_count() == 2 { l.cmov(cc) } else { l.setcc(cc) }
        }
    }
}

impl Lifter {
    /// The condition of the current instruction as an [`Cond`] number.
    pub(crate) fn condition(&self) -> Option<u8> {
        // iced numbers them from 1 in encoding order.
        let n = self.i.condition_code() as u8;
        (n > 0).then(|| Cond::x86(n - 1).0)
    }
}
