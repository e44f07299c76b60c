//! Removal of flag recordings that nothing can see: one backward pass.
//!
//! Most guest instructions set flags that the next one overwrites. A recording is dead if another follows before any reader
//! and before anything that could show the flags to the guest: an operation that may stop or leave, or a helper that reads
//! state.

use crate::block::Block;
use crate::effects::effects;
use crate::op::{FLAG_KIND, Op};

/// Remove dead [`Op::Flags`] from `block`; returns how many.
pub fn dead_flags(block: &mut Block) -> usize {
    let mut live = true;
    let mut dead = vec![false; block.insts.len()];
    // Where forward skips land: flags that are dead on one path may be live on the other.
    let mut landing = vec![false; block.insts.len() + 1];
    for (i, x) in block.insts.iter().enumerate() {
        if matches!(x.op, Op::SkipIfZero | Op::SkipUnless)
            && let Some(l) = landing.get_mut(i + 1 + x.imm as usize)
        {
            *l = true;
        }
    }
    for (i, x) in block.insts.iter().enumerate().rev() {
        let e = effects(x);
        if x.op == Op::Flags {
            if live {
                live = false;
            } else {
                dead[i] = true;
            }
        }
        if matches!(x.op, Op::Alu | Op::AluMem) {
            live = false;
        }
        if e.may_stop || e.may_leave || e.reads_state || e.reads.contains(&FLAG_KIND) {
            live = true;
        }
        if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) || landing[i] {
            live = true;
        }
    }
    let count = dead.iter().filter(|d| **d).count();
    if count != 0 {
        remove(block, &dead);
    }
    count
}

/// Remove the marked operations and move points and skips accordingly.
fn remove(block: &mut Block, dead: &[bool]) {
    let mut new_index = Vec::with_capacity(dead.len() + 1);
    let mut n = 0u32;
    for d in dead {
        new_index.push(n);
        n += u32::from(!d);
    }
    new_index.push(n);
    for (i, x) in block.insts.iter_mut().enumerate() {
        if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
            let to = i + 1 + x.imm as usize;
            x.imm = u64::from(new_index[to] - new_index[i] - 1);
        }
    }
    for p in &mut block.points {
        p.op = new_index[usize::from(p.op)] as u16;
    }
    let mut i = 0;
    block.insts.retain(|_| {
        i += 1;
        !dead[i - 1]
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Cond, Kind};
    use crate::op::{MemRef, NONE, Slot};
    use crate::{Builder, verify};

    const A: Slot = Slot(10);
    const B: Slot = Slot(11);

    fn block(between: impl FnOnce(&mut Builder)) -> Block {
        let mut b = Builder::new(0);
        b.instruction(0, 1);
        b.flags(Kind::X86Sub, 64, A, B, A);
        b.instruction(1, 1);
        between(&mut b);
        b.instruction(2, 1);
        b.flags(Kind::X86Logic, 64, NONE, NONE, A);
        b.op_imm(Op::Exit, NONE, NONE, 3);
        b.finish()
    }

    #[test]
    fn an_overwritten_recording_goes_and_points_move() {
        let mut b = block(|b| b.op(Op::Add64, A, A, B));
        assert_eq!(dead_flags(&mut b), 1);
        assert_eq!(b.points.iter().map(|p| p.op).collect::<Vec<_>>(), [0, 0, 1]);
        verify::verify(&b).unwrap();
        assert_eq!(b.point_of(0), 1);
    }

    #[test]
    fn what_the_guest_can_see_stays() {
        let mut seen_by_fault = block(|b| {
            let t = b.temp();
            b.load(t, A, NONE, MemRef::new(3));
        });
        assert_eq!(dead_flags(&mut seen_by_fault), 0);
        let mut seen_by_reader = block(|b| b.full(Op::Cond, Cond::x86(4).0, A, NONE, NONE, 0));
        assert_eq!(dead_flags(&mut seen_by_reader), 0);
        let mut on_one_path = {
            let mut b = Builder::new(0);
            b.instruction(0, 1);
            b.flags(Kind::X86Sub, 64, A, B, A);
            let s = b.skip_if_zero(A);
            b.flags(Kind::X86Logic, 64, NONE, NONE, A);
            b.close(s);
            b.op_imm(Op::Exit, NONE, NONE, 3);
            b.finish()
        };
        assert_eq!(dead_flags(&mut on_one_path), 0);
    }
}
