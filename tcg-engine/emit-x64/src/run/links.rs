//! Links between blocks: exits become jumps to where the guest went.
//!
//! Within a page a link needs no question: who runs a block of the page under its translation runs the others under it too. A link
//! to another page leads over a few instructions that compare the context of code addresses with that of when it was made; and where
//! the block is mapped, if it can be run anywhere. If that is another, the jump cache is asked, and what it does not know either is
//! linked anew. Pages that every address space shares have a context of their own, so links of a kernel to its pages last.

use super::look::CALL;
use super::{Exit, Host, Kind, Placed, T1, contexts};
use crate::asm::{Alu, RAX, RCX, RDX, Sz, cc};
use crate::emit::{DirectExit, target};
use crate::layout::{CODE_BASE, CONTEXT, GLOBAL_CONTEXT, word};
use crate::mutants::{Mutant, on};

/// What a link to another page leads over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Across {
    /// Offset in code memory, and bytes there.
    pub(super) at: usize,
    pub(super) len: usize,
    /// The block that it leads to, and the distance there that is in the block's list.
    to: u32,
    pub(super) hole: u32,
}

/// Bytes of it at most.
const LONGEST: usize = 128;

impl T1 {
    /// Let `exit` lead to block `n`, which is where the guest went from there, to `linear`.
    pub fn link<E: Host>(&mut self, env: &E, exit: Exit, n: u32, linear: u64) {
        let Some((e, _)) = self.parts.exit(exit) else { return };
        let Some(Some(from)) = self.blocks.get(e.block as usize) else { return };
        let (place, pc, relative) = (from.place, from.pc, from.relative);
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        let to = if relative { e.pc & 0xfff } else { e.pc };
        if b.pc != to || b.relative != relative {
            return;
        }
        // The page may have been mapped elsewhere since the block that is left was entered.
        let same_page = (e.pc ^ pc) & !0xfff == 0 && b.place == place;
        if b.linkable && same_page {
            b.incoming.push((e.hole, e.unlinked));
            b.from |= self.parts.bit(e.hole);
            let head = b.head;
            Self::patch(&mut self.memory, e.hole, head);
        } else {
            self.link_across(env, exit, e, n, linear);
        }
    }

    /// Let an exit lead to a block of another page for as long as code addresses mean what they mean now.
    fn link_across<E: Host>(&mut self, env: &E, exit: Exit, e: DirectExit, n: u32, linear: u64) {
        let before = self.parts.exit(exit).and_then(|(_, part)| part.across.get(&exit.number).copied());
        let free = self.parts.free();
        if before.is_none() && free.len() < LONGEST {
            return;
        }
        let at = before.map_or(free.start, |before| before.at);
        let Some(Some(b)) = self.blocks.get(n as usize) else { return };
        let (context, global) = contexts(env);
        let (known, now) = if b.linkable && !b.relative && env.tlb().is_global(linear) {
            (global, GLOBAL_CONTEXT)
        } else {
            (context, CONTEXT)
        };
        let a = &mut self.emitter.a;
        a.start(at);
        // Always as long.
        a.mov_imm64(RCX, known);
        a.alu(Alu::Cmp, Sz::Q, RCX, word(now));
        let other = a.jcc(if on(Mutant::Across) { cc::O } else { cc::NE });
        let origin = linear.wrapping_sub(e.pc);
        let mut elsewhere = None;
        if b.relative {
            // The code may be mapped twice.
            a.mov_imm64(RCX, origin);
            a.alu(Alu::Cmp, Sz::Q, RCX, word(CODE_BASE));
            elsewhere = Some(a.jcc(if on(Mutant::LinkPlace) { cc::O } else { cc::NE }));
            a.mov_imm64(RCX, if on(Mutant::LinkBase) { origin } else { linear & !mem::PAGE_MASK });
            a.store(Sz::Q, word(CODE_BASE), RCX);
        }
        let jump = a.jmp();
        a.fill(jump, b.head as usize);
        let unlinked = a.here();
        if b.relative && !on(Mutant::LinkUndone) {
            a.mov_imm64(RCX, origin);
            a.store(Sz::Q, word(CODE_BASE), RCX);
        }
        a.fill_here(other);
        if let Some(elsewhere) = elsewhere {
            a.fill_here(elsewhere);
        }
        if b.relative {
            target(a, e.pc, true);
        } else {
            a.mov_imm64(RDX, e.pc);
        }
        // As the call does that the exit leads to while it is not linked.
        a.mov_imm(RAX, u64::from(e.unlinked + CALL));
        // Nobody else's context comes in between with pages that all share: it is out of date.
        a.jmp_to(if now == GLOBAL_CONTEXT { self.stubs.leave } else { self.stubs.across });
        debug_assert!(a.buf.len() <= before.map_or(LONGEST, |before| before.len));
        if !self.memory.write(at, &a.buf) {
            return;
        }
        let (hole, len) = ((at + jump.0) as u32, a.buf.len());
        if let Some(before) = before
            && let Some(Some(old)) = self.blocks.get_mut(before.to as usize)
        {
            old.incoming.retain(|(hole, _)| *hole != before.hole);
        }
        if let Some(Some(b)) = self.blocks.get_mut(n as usize) {
            b.incoming.push((hole, unlinked as u32));
            b.from |= self.parts.bit(hole);
        }
        if let Some((_, part)) = self.parts.exit(exit) {
            part.across.insert(exit.number, Across { at, len, to: n, hole });
        }
        Self::patch(&mut self.memory, e.hole, at as u32);
        if before.is_none() {
            self.note_placed(Placed { kind: Kind::Exit, pc: linear, guest_len: 0, at, len });
            self.parts.take(len);
        }
    }
}
