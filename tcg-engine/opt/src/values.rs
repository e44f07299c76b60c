//! What words hold as a block goes on: what another one held before, and a distance from it.
//!
//! Copies and sums with constants are followed; everything else is something new that nobody knows.

use ir::effects::effects;
use ir::op::{AluOp, AluRef, Inst, NONE, Op, PRIVATE, Slot};

/// What a word holds: something unknown, by number, and a distance from it.
pub type Value = (u32, i64);

/// Distances are smaller than this.
const FAR: u64 = 1 << 20;

/// Values of words as a block goes on. At its beginning each holds what has its own number.
#[derive(Debug)]
pub struct Values {
    known: Vec<Value>,
    fresh: u32,
}

impl Default for Values {
    fn default() -> Self {
        Values::from(0)
    }
}

impl Values {
    /// Unknown ones, from this number on.
    fn from(first: u32) -> Self {
        let fresh = first + u32::from(PRIVATE);
        Values { known: (first..fresh).map(|n| (n, 0)).collect(), fresh }
    }

    /// What `s` holds.
    pub fn of(&self, s: Slot) -> Value {
        self.known.get(usize::from(s.0)).copied().unwrap_or((u32::MAX, 0))
    }

    /// The word that held at the block's beginning what `value` is a distance from.
    pub fn word(value: Value) -> Option<Slot> {
        u16::try_from(value.0).ok().filter(|n| *n < PRIVATE).map(Slot)
    }

    /// The result of `x`, if it is one that is followed.
    fn result(&self, x: &Inst) -> Option<Value> {
        let (base, distance) = self.of(x.a);
        let imm = x.imm.cast_signed();
        let moved = match x.op {
            Op::Mov => 0,
            Op::Add64I => imm,
            Op::Sub64I => imm.checked_neg()?,
            Op::Lea if x.b == NONE => imm,
            Op::Alu => {
                let r = AluRef::unpack(x.aux);
                match r.op {
                    _ if r.log2 != 3 => return None,
                    AluOp::Inc => 1,
                    AluOp::Dec => -1,
                    AluOp::Add if x.b == NONE => imm,
                    AluOp::Sub if x.b == NONE => imm.checked_neg()?,
                    _ => return None,
                }
            }
            _ => return None,
        };
        let distance = distance.checked_add(moved)?;
        (x.a != NONE && distance.unsigned_abs() < FAR).then_some((base, distance))
    }

    /// `x` has been done, or (`perhaps`) it has not.
    pub fn follow(&mut self, x: &Inst, perhaps: bool) {
        let value = if perhaps { None } else { self.result(x) };
        let effects = effects(x);
        if effects.writes_state {
            *self = Values::from(self.fresh + 1);
        }
        for w in effects.writes {
            if let Some(known) = self.known.get_mut(usize::from(w.0)) {
                self.fresh += 1;
                *known = value.filter(|_| w == x.d).unwrap_or((self.fresh, 0));
            }
        }
    }
}
