//! VEX-coded vector instructions: AVX, AVX2, FMA, F16C.
//!
//! The idea: a YMM register is two pairs of words, and nearly every instruction does on each of them what its SSE ancestor does
//! on one, so it is lifted into the same operations, twice. What makes VEX different is done here once: sources are not
//! destroyed, the upper half of a 128-bit result's register becomes zero, and memory need not be aligned.

mod float;
mod integer;
mod lanes;
mod mov;
mod names;

pub(crate) use lanes::lane_call;

use iced_x86::{OpKind, Register};
use ir::{MemRef, NONE, Op, Slot};

use super::operand::Ea;
use super::simd::high;
use super::{Lifted, Lifter};
use crate::exception;
use crate::mode::Mode;
use crate::state::{xmm, ymm_upper};

/// The two halves of a vector, a pair each. The upper one of a 128-bit value is not to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wide {
    low: Slot,
    upper: Slot,
}

impl Wide {
    /// Its four words.
    fn words(self) -> [Slot; 4] {
        [self.low, high(self.low), self.upper, high(self.upper)]
    }
}

/// Lifts every VEX-coded instruction but those on general and mask registers.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    if !l.mode.contains(Mode::AVX) {
        return None;
    }
    let (i, live) = (l.i, l.live);
    let flow = mov::lift(l).or_else(|| integer::lift(l)).or_else(|| float::lift(l)).or_else(|| lanes::lift(l))?;
    if l.mode.contains(Mode::TS) {
        // Only what exists is #NM: what it has been lifted to is not needed.
        l.b.retract();
        l.begin(&i, live);
        return l.raise(exception::NM);
    }
    Some(flow)
}

impl Lifter {
    /// Whether the instruction works on 256 bits: one of its registers is a YMM register.
    fn is_wide(&self) -> bool {
        (0..self.i.op_count()).any(|n| self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_ymm())
    }

    /// The words of a vector register.
    fn halves(r: Register) -> Wide {
        Wide { low: xmm(r.number()), upper: ymm_upper(r.number()) }
    }

    /// The destination's register.
    fn destination(&self) -> Wide {
        Self::halves(self.i.op_register(0))
    }

    /// Operand `n`: a register's words, or memory of up to 256 bits, zero-extended, in temporaries.
    fn vector(&mut self, n: u32) -> Wide {
        if self.i.op_kind(n) == OpKind::Register {
            return Self::halves(self.i.op_register(n));
        }
        let (ea, bits) = (self.ea(), self.bits(n));
        if bits == 256 {
            let upper = self.b.temp128();
            let low = self.load_wide(ea, upper, false);
            return Wide { low, upper };
        }
        let low = self.pair_at(ea, bits, false);
        Wide { low, upper: low }
    }

    /// Load 256 bits: the upper half into `upper`, as the last operation that may stop, the lower one into a temporary.
    fn load_wide(&mut self, ea: Ea, upper: Slot, aligned: bool) -> Slot {
        let low = self.b.temp128();
        self.b.load(low, ea.base, ea.index, MemRef { aligned, double: true, ..ea.mem(128) });
        let second = self.advance(ea, 16);
        self.b.load(upper, second.base, second.index, second.mem(128));
        low
    }

    /// Store 256 bits, all or nothing: unless they cannot lie on two pages, both halves are looked at before.
    fn store_wide(&mut self, v: Wide, ea: Ea, aligned: bool) {
        let second = self.advance(ea, 16);
        let first = MemRef { aligned, double: true, ..ea.mem(128) };
        if !aligned || !self.mode.contains(Mode::FLAT) || ea.space != crate::memory::FLAT {
            let t = self.b.temp128();
            self.b.load(t, ea.base, ea.index, MemRef { write_intent: true, ..first });
            self.b.load(t, second.base, second.index, MemRef { write_intent: true, ..second.mem(128) });
        }
        self.b.store(v.low, ea.base, ea.index, first);
        self.b.store(v.upper, second.base, second.index, second.mem(128));
    }

    /// What every 128-bit instruction does to the upper half of its destination.
    fn clear_upper(&mut self, d: Wide) {
        self.b.op_imm(Op::MovI, d.upper, NONE, 0);
        self.b.op_imm(Op::MovI, high(d.upper), NONE, 0);
    }

    /// The destination becomes `v`, of which it may hold parts; 128 bits unless `wide`.
    fn finish(&mut self, d: Wide, v: Wide, wide: bool) {
        // Values that were computed for it are temporaries, or its own words in their places.
        if d.low != v.low {
            self.b.op(Op::Mov128, d.low, v.low, NONE);
        }
        if !wide {
            self.clear_upper(d);
        } else if d.upper != v.upper {
            self.b.op(Op::Mov128, d.upper, v.upper, NONE);
        }
    }
}
