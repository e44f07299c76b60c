//! String instructions. REP MOVS and REP STOS with flat addresses are bulk operations; everything else does one element and
//! leaves the block to itself while its count says so, with the progress in the registers.

use iced_x86::{Mnemonic, OpKind};
use ir::flags::Kind;
use ir::{BulkOp, BulkRef, NONE, Op, Rel, Slot};

use super::operand::{Ea, seg_of};
use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;
use crate::memory::FLAT;
use crate::mode::Mode;
use crate::state::{RAX, RCX, RDI, RDX, RSI, Seg};

/// Elements that one bulk operation is asked for at most: lengths in bytes must not overflow.
const MOST: u64 = 1 << 28;

impl Lifter {
    /// Address size of a string instruction in bits.
    fn string_bits(&self) -> u32 {
        for n in 0..self.i.op_count() {
            match self.i.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemoryESDI => return 16,
                OpKind::MemorySegESI | OpKind::MemoryESEDI => return 32,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 64,
                _ => {}
            }
        }
        self.mode.width()
    }

    /// The element at `reg` in segment `s`.
    fn element(&mut self, reg: Slot, s: Seg) -> Ea {
        let bits = self.string_bits();
        let mut ea = Ea { base: reg, index: NONE, scale: 0, disp: 0, space: FLAT, wrap: 0, stack: false };
        match bits {
            64 => {}
            32 if !self.code64() => ea.wrap = 1,
            _ => ea.base = self.zext(reg, bits),
        }
        self.in_segment(ea, s)
    }

    fn source_element(&mut self) -> Option<Ea> {
        let s = match seg_of(self.i.memory_segment())? {
            s @ (Seg::Fs | Seg::Gs) => s,
            // 64-bit code ignores the other prefixes.
            _ if self.code64() => Seg::Ds,
            s => s,
        };
        Some(self.element(RSI, s))
    }

    fn destination_element(&mut self) -> Ea {
        self.element(RDI, Seg::Es)
    }

    /// Move an index register by one element.
    fn step(&mut self, reg: Slot, bytes: u32) {
        let by = if self.mode.contains(Mode::DOWN) { u64::from(bytes).wrapping_neg() } else { u64::from(bytes) };
        let bits = self.string_bits();
        match bits {
            64 => {
                self.b.op_imm(Op::Add64I, reg, reg, by);
                self.set_clean(reg, false);
            }
            32 => {
                self.b.op_imm(Op::Add32I, reg, reg, by);
                self.set_clean(reg, true);
            }
            _ => {
                let t = self.b.new_imm(Op::Add64I, reg, by);
                self.write_gpr(reg, t, 16);
            }
        }
    }

    /// One iteration of `body` under a REP prefix: nothing if the count is zero, else once, and again unless the count is used
    /// up.
    fn repeated(&mut self, body: impl FnOnce(&mut Self) -> Option<()>) -> Lifted {
        self.compared(|l| {
            body(l)?;
            Some(None)
        })
    }

    /// As [`Lifter::repeated`], for a body that compares two values (a, b, and their size in bits): the flags are those of the
    /// last comparison, and a fault on the way finds them as they were before the instruction (SDM vol. 2B, REP).
    fn compared(&mut self, body: impl FnOnce(&mut Self) -> Option<Option<(Slot, Slot, u32)>>) -> Lifted {
        if !self.i.has_rep_prefix() && !self.i.has_repne_prefix() {
            let values = body(self)?;
            self.comparison(values);
            return Some(Flow::Next);
        }
        let bits = self.string_bits();
        let count = self.zext(RCX, bits);
        let skip = self.b.skip_if_zero(count);
        let values = body(self)?;
        let left = self.b.new_imm(Op::Sub64I, RCX, 1);
        self.write_gpr(RCX, left, bits);
        let left = self.zext(RCX, bits);
        let again = match values {
            None => left,
            Some((a, b, size)) => {
                // REPE goes on while equal, REPNE while not.
                let rel = if self.i.has_repne_prefix() { Rel::Ne } else { Rel::Eq };
                let (a, b) = (self.zext(a, size), self.zext(b, size));
                let c = self.b.set_rel(rel, a, b);
                let more = self.b.temp();
                self.b.full(Op::SetRelI, Rel::Ne as u8, more, left, NONE, 0);
                self.b.new2(Op::And, c, more)
            }
        };
        let pc = self.pc;
        self.b.full(Op::ExitIf, 0, NONE, again, NONE, pc);
        self.comparison(values);
        self.b.close(skip);
        // What the skipped part knew about registers is not known.
        for r in [RCX, RSI, RDI, RAX] {
            self.set_clean(r, false);
        }
        Some(Flow::Next)
    }

    fn comparison(&mut self, values: Option<(Slot, Slot, u32)>) {
        if let Some((a, b, bits)) = values {
            let r = self.b.new2(Op::Sub64, a, b);
            self.b.flags(Kind::X86Sub, bits as u8, a, b, r);
        }
    }

    /// Whether addresses of the instruction are flat, so that it can be a bulk operation.
    fn bulk_ok(&self, source: bool) -> bool {
        let repeated = self.i.has_rep_prefix() || self.i.has_repne_prefix();
        if !repeated || self.string_bits() == 16 {
            return false;
        }
        let fs_gs = source && matches!(seg_of(self.i.memory_segment()), Some(Seg::Fs | Seg::Gs));
        self.mode.contains(Mode::FLAT) && (self.code64() || !fs_gs)
    }

    fn bulk(&mut self, op: BulkOp, bytes: u32) -> Lifted {
        let bits = self.string_bits();
        let log2 = bytes.trailing_zeros() as u8;
        let count = self.zext(RCX, bits);
        let few = self.b.temp();
        self.b.full(Op::SetRelI, Rel::Leu as u8, few, count, NONE, MOST);
        let most = self.constant(MOST);
        let count = self.select(few, count, most);
        let len = if log2 == 0 { count } else { self.b.new_imm(Op::Shl64I, count, u64::from(log2)) };
        let flat = |l: &mut Self, ea: Ea| {
            if ea.index == NONE { ea.base } else { l.b.new2(Op::Add64, ea.base, ea.index) }
        };
        let to = self.destination_element();
        let to = flat(self, to);
        let from = if op == BulkOp::Copy {
            let ea = self.source_element()?;
            flat(self, ea)
        } else {
            RAX
        };
        let r = BulkRef {
            log2,
            backward: self.mode.contains(Mode::DOWN),
            dst_space: FLAT,
            src_space: FLAT,
            wrap: u8::from(!self.code64()),
            ..BulkRef::new(len)
        };
        let done = self.b.temp();
        self.b.full(Op::Bulk, op as u8, done, to, from, r.imm());
        let moved = if r.backward { self.b.new_imm(Op::Neg64, done, 0) } else { done };
        let (add, sub) = if bits == 64 { (Op::Add64, Op::Sub64) } else { (Op::Add32, Op::Sub32) };
        self.b.op(add, RDI, RDI, moved);
        self.set_clean(RDI, bits == 32);
        if op == BulkOp::Copy {
            self.b.op(add, RSI, RSI, moved);
            self.set_clean(RSI, bits == 32);
        }
        let n = if log2 == 0 { done } else { self.b.new_imm(Op::Shr64I, done, u64::from(log2)) };
        self.b.op(sub, RCX, RCX, n);
        self.set_clean(RCX, bits == 32);
        let pc = self.pc;
        self.b.full(Op::ExitIf, 0, NONE, RCX, NONE, pc);
        Some(Flow::Next)
    }

    fn movs(&mut self, bytes: u32) -> Lifted {
        if self.bulk_ok(true) {
            return self.bulk(BulkOp::Copy, bytes);
        }
        self.repeated(|l| {
            let from = l.source_element()?;
            let v = l.load(from, bytes * 8);
            let to = l.destination_element();
            l.store(v, to, bytes * 8);
            l.step(RSI, bytes);
            l.step(RDI, bytes);
            Some(())
        })
    }

    fn stos(&mut self, bytes: u32) -> Lifted {
        if self.bulk_ok(false) {
            return self.bulk(BulkOp::Fill, bytes);
        }
        self.repeated(|l| {
            let to = l.destination_element();
            l.store(RAX, to, bytes * 8);
            l.step(RDI, bytes);
            Some(())
        })
    }

    fn lods(&mut self, bytes: u32) -> Lifted {
        self.repeated(|l| {
            let from = l.source_element()?;
            let v = l.load(from, bytes * 8);
            l.write_gpr(RAX, v, bytes * 8);
            l.step(RSI, bytes);
            Some(())
        })
    }

    fn cmps(&mut self, bytes: u32) -> Lifted {
        self.compared(|l| {
            // Processors read the destination first.
            let from = l.source_element()?;
            let to = l.destination_element();
            let b = l.load(to, bytes * 8);
            let a = l.load(from, bytes * 8);
            l.step(RSI, bytes);
            l.step(RDI, bytes);
            Some(Some((a, b, bytes * 8)))
        })
    }

    fn scas(&mut self, bytes: u32) -> Lifted {
        self.compared(|l| {
            let to = l.destination_element();
            let b = l.load(to, bytes * 8);
            l.step(RDI, bytes);
            Some(Some((RAX, b, bytes * 8)))
        })
    }

    fn ins(&mut self, bytes: u32) -> Lifted {
        self.call(NONE, Helper::CheckPort, RDX, NONE, bytes);
        self.repeated(|l| {
            let to = l.destination_element();
            // The port is read once, so the destination is checked before.
            l.load_rmw(to, bytes * 8);
            let v = l.call_value(Helper::In, RDX, NONE, bytes);
            l.store(v, to, bytes * 8);
            l.step(RDI, bytes);
            Some(())
        })
    }

    fn outs(&mut self, bytes: u32) -> Lifted {
        self.call(NONE, Helper::CheckPort, RDX, NONE, bytes);
        self.repeated(|l| {
            let from = l.source_element()?;
            let v = l.load(from, bytes * 8);
            l.call(NONE, Helper::Out, RDX, v, bytes);
            l.step(RSI, bytes);
            Some(())
        })
    }
}

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    use Mnemonic::*;
    match l.i.mnemonic() {
        Movsb => l.movs(1),
        Movsw => l.movs(2),
        Movsd => l.movs(4),
        Movsq => l.movs(8),
        Stosb => l.stos(1),
        Stosw => l.stos(2),
        Stosd => l.stos(4),
        Stosq => l.stos(8),
        Lodsb => l.lods(1),
        Lodsw => l.lods(2),
        Lodsd => l.lods(4),
        Lodsq => l.lods(8),
        Cmpsb => l.cmps(1),
        Cmpsw => l.cmps(2),
        Cmpsd => l.cmps(4),
        Cmpsq => l.cmps(8),
        Scasb => l.scas(1),
        Scasw => l.scas(2),
        Scasd => l.scas(4),
        Scasq => l.scas(8),
        Insb => l.ins(1),
        Insw => l.ins(2),
        Insd => l.ins(4),
        Outsb => l.outs(1),
        Outsw => l.outs(2),
        Outsd => l.outs(4),
        _ => None,
    }
}
