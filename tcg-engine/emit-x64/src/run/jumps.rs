//! The jump cache: where jumps, and exits whose link is out of date, find their blocks by program counter and context.
//!
//! A block that can be run wherever it is mapped may be in several entries; it has a list of them, so that it can be taken out again.

use super::{Host, T1, contexts};
use crate::mutants::{Mutant, on};
use crate::stubs::{JUMP_BYTES, jump_index};

/// An entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Jump {
    pc: u64,
    context: u64,
    pub(super) code: u64,
    /// Where the page of the program counter begins.
    base: u64,
}

const _: () = assert!(size_of::<Jump>() == JUMP_BYTES);

/// None: no program counter is like this.
pub(super) const NO_JUMP: Jump = Jump { pc: u64::MAX, context: u64::MAX, code: 0, base: 0 };

impl T1 {
    /// Remember that jumps to `pc`, where block `n` is mapped now, find it in the context of now.
    pub fn remember<E: Host>(&mut self, env: &E, n: u32, pc: u64, linear: u64) {
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        let (context, global) = contexts(env);
        let may_be = b.linkable && (!b.relative || on(Mutant::Anonymous));
        let is_global = may_be && (env.tlb().is_global(linear) || on(Mutant::Context));
        let context = if is_global { global } else { context };
        let code = self.memory.exec() as u64 + b.head as u64;
        let index = jump_index(pc);
        if self.jumps[index].code != code {
            let list = &mut b.remembered;
            if list.len() == list.capacity() && list.len() > 3 {
                // What others have taken meanwhile.
                list.sort_unstable();
                list.dedup();
                list.retain(|n| self.jumps[usize::from(*n)].code == code);
            }
            list.push(index as u16);
        }
        self.jumps[index] = Jump { pc, context, code, base: pc & !mem::PAGE_MASK };
    }

    /// The code of a block goes, which these entries may lead to.
    pub(super) fn forget_jumps(&mut self, entries: &[u16], code: u64) {
        let first = if on(Mutant::Elsewhere) { entries.len().saturating_sub(1) } else { 0 };
        for n in &entries[first..] {
            let j = &mut self.jumps[usize::from(*n)];
            if j.code == code {
                *j = NO_JUMP;
            }
        }
    }

    /// What led to the old code of block `n` leads to the new one.
    pub(super) fn redirect_jumps(&mut self, n: u32, old: u64, new: u64) {
        let Some(Some(b)) = self.blocks.get(n as usize) else { return };
        for n in &b.remembered {
            let j = &mut self.jumps[usize::from(*n)];
            if j.code == old {
                j.code = new;
            }
        }
    }
}
