//! The verifier: what every lifted block must satisfy before it may run.
//!
//! The rule that matters most: within one guest instruction nothing of the guest's state is written before the last
//! operation that may stop, so that a fault leaves the instruction undone.

use crate::block::Block;
use crate::effects::effects;
use crate::op::{FIRST_TEMP, NONE, Op, PRIVATE, Slot, WORDS};

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation {op}: {what}")]
pub struct Fault {
    /// Index of the operation.
    pub op: usize,
    /// The rule that it breaks.
    pub what: String,
}

/// Check `block`.
pub fn verify(block: &Block) -> Result<(), Fault> {
    let fault = |op: usize, what: String| Err(Fault { op, what });
    let Some(last) = block.insts.last() else { return fault(0, "a block has operations".into()) };
    if !effects(last).ends {
        return fault(block.insts.len() - 1, format!("a block ends in an exit, not in {:?}", last.op));
    }
    if block.points.first().is_none_or(|p| p.op != 0) {
        return fault(0, "the first operation belongs to a guest instruction".into());
    }
    for w in block.points.windows(2) {
        if w[0].op > w[1].op {
            return fault(w[1].op.into(), "guest instructions ascend".into());
        }
    }
    let mut defined = vec![false; WORDS];
    for (n, p) in block.points.iter().enumerate() {
        let end = block.points.get(n + 1).map_or(block.insts.len(), |p| p.op as usize);
        instruction(block, p.op as usize, end, &mut defined)?;
    }
    Ok(())
}

fn instruction(block: &Block, start: usize, end: usize, defined: &mut [bool]) -> Result<(), Fault> {
    let fault = |op: usize, what: String| Err(Fault { op, what });
    if end > block.insts.len() || start > end {
        return fault(start, "a guest instruction lies within the block".into());
    }
    let mut guest_write: Option<Slot> = None;
    // Open skips: (end, definitions before it).
    let mut skips: Vec<(usize, Vec<bool>)> = Vec::new();
    for i in start..end {
        while let Some((_, before)) = skips.pop_if(|(e, _)| *e == i) {
            for (d, b) in defined.iter_mut().zip(before) {
                *d &= b;
            }
        }
        let x = &block.insts[i];
        let e = effects(x);
        for s in e.reads.iter().filter(|s| **s != NONE) {
            if s.0 as usize >= WORDS {
                return fault(i, format!("{:?} reads word {} that does not exist", x.op, s.0));
            }
            if s.is_temp() && !defined[s.0 as usize] {
                return fault(i, format!("{:?} reads temporary {} before it is written", x.op, s.0));
            }
        }
        if e.may_stop
            && !e.restartable
            && let Some(s) = guest_write
        {
            return fault(i, format!("{:?} may stop after guest word {} was written", x.op, s.0));
        }
        for s in e.writes.iter().filter(|s| **s != NONE) {
            if s.0 >= PRIVATE {
                return fault(i, format!("{:?} writes word {}: out of temporaries?", x.op, s.0));
            }
            if block.base == Some(*s) {
                return fault(i, format!("{:?} writes what program counters count from", x.op));
            }
            defined[s.0 as usize] = true;
            // Sticky floating-point status and leaving the block are effects of their own operations.
            let own = matches!(x.op, Op::Fp) && *s == crate::op::FPC || e.may_leave || x.op == Op::AluMem;
            if s.0 < FIRST_TEMP && !own {
                guest_write = Some(*s);
            }
        }
        if e.writes_state {
            guest_write = guest_write.or(Some(NONE));
        }
        if pair(x.op) && [x.d, x.a, x.b].iter().any(|s| *s != NONE && s.0 & 1 != 0 && pair_slot(x, *s)) {
            return fault(i, format!("{:?} names an odd word for a 128-bit value", x.op));
        }
        if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
            let to = i + 1 + x.imm as usize;
            if x.imm == 0 || to > end {
                return fault(i, "a skip stays within its guest instruction".into());
            }
            skips.push((to, defined.to_vec()));
        }
        if e.ends && i + 1 < end && !skips.iter().any(|(to, _)| *to > i) {
            return fault(i + 1, "operations after an exit".into());
        }
    }
    for (_, before) in skips {
        for (d, b) in defined.iter_mut().zip(before) {
            *d &= b;
        }
    }
    Ok(())
}

/// Operations on 128-bit values.
fn pair(op: Op) -> bool {
    matches!(op, Op::Mov128 | Op::Load128 | Op::Store128 | Op::Cas128 | Op::Vec | Op::Fp)
}

/// Whether `s` holds a 128-bit value in `x` (the address of a memory operation does not).
fn pair_slot(x: &crate::Inst, s: Slot) -> bool {
    match x.op {
        Op::Load128 | Op::Store128 => s == x.d,
        Op::Cas128 => s == x.d || s == x.b,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{MemRef, PC};
    use crate::{Builder, Op};

    const G: Slot = Slot(10);

    #[test]
    fn what_program_counters_count_from_is_read_alone() {
        let with = |d: Slot, a: Slot| {
            let mut b = Builder::relative(0x123, G);
            b.instruction(0x123, 4);
            b.op_imm(Op::Add64I, d, a, 0x127);
            b.op_imm(Op::Exit, NONE, NONE, 0x127);
            verify(&b.finish())
        };
        assert_eq!(with(Slot(11), G), Ok(()));
        assert!(with(G, Slot(11)).is_err());
    }

    fn one(f: impl FnOnce(&mut Builder)) -> Result<(), Fault> {
        let mut b = Builder::new(0x1000);
        b.instruction(0x1000, 4);
        f(&mut b);
        verify(&b.finish())
    }

    fn exit(b: &mut Builder) {
        b.op_imm(Op::Exit, NONE, NONE, 0x1004);
    }

    #[test]
    fn accepts_a_load_then_a_write() {
        one(|b| {
            let t = b.temp();
            b.load(t, G, NONE, MemRef::new(3));
            b.op(Op::Mov, G, t, NONE);
            exit(b);
        })
        .unwrap();
    }

    #[test]
    fn refuses_a_guest_write_before_a_stop() {
        let e = one(|b| {
            b.op_imm(Op::Add64I, G, G, 8);
            let t = b.temp();
            b.load(t, G, NONE, MemRef::new(3));
            exit(b);
        });
        assert!(e.unwrap_err().what.contains("may stop after guest word 10"));
    }

    #[test]
    fn refuses_unwritten_temporaries_also_behind_a_skip() {
        let e = one(|b| {
            let t = b.temp();
            let s = b.skip_if_zero(G);
            b.op_imm(Op::MovI, t, NONE, 1);
            b.close(s);
            b.op(Op::Mov, G, t, NONE);
            exit(b);
        });
        assert!(e.unwrap_err().what.contains("before it is written"));
    }

    #[test]
    fn refuses_a_block_without_end_and_odd_pairs() {
        assert!(one(|b| b.op(Op::Mov, G, G, NONE)).unwrap_err().what.contains("ends in an exit"));
        let e = one(|b| {
            b.op(Op::Mov128, Slot(11), Slot(20), NONE);
            exit(b);
        });
        assert!(e.unwrap_err().what.contains("odd word"));
        assert!(one(|b| b.op(Op::ExitReg, NONE, PC, NONE)).is_ok());
    }
}
