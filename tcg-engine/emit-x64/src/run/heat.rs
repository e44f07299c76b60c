//! Which blocks are hot, and which of them are emitted once more since their accesses do not stay where they are.
//!
//! The idea: the budget ends at the heads of blocks in proportion to what runs, so nothing is counted by blocks themselves.

use std::ops::Range;
use std::sync::Arc;

use code::Cache;

use super::HostBlock;
use super::T1;
use crate::emit::{Instead, Restless};
use crate::memo::Owner;

/// How often the budget ends at the head of a block that is hot. It ends after some hundred thousand instructions.
pub(super) const HOT: u8 = 2;
/// After how many ends of the budget memos are looked at.
const ENDS: u64 = 64;
/// How many of them must have been at the head of a block, so that the times that it ran can be told from them.
const JUDGED: u64 = 3;
/// One access of so many may miss its memo; with more of them it is better off without.
const RESTLESS: u64 = 10;
/// How often a run may be found too short before its access is looked up.
const SHORT: u8 = 3;
/// How often the accesses of a group may not be found in one page before each is on its own.
const FAILURES: u32 = 32;

/// So many rounds for each time that it is entered make a loop worth counting them.
const ROUNDS: u64 = 8;

/// A loop that is worth a plan: the number of its block, which another one may have later, and a ticket that no other has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loop {
    /// Number in the cache.
    pub block: u32,
    ticket: u64,
}

/// What is known of a hot block, and decides how it is emitted.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Operations that go to another page too often for the memo of one.
    pub(super) restless: Vec<Restless>,
    /// What is so of its rounds, if it counts them.
    pub(super) rounds: Option<Arc<opt::Rounds>>,
    /// As which somebody has been asked for that.
    pub(super) asked: Option<Loop>,
}

/// What a hot block has beside.
#[derive(Clone, Debug)]
pub(super) struct HotBlock {
    /// Times that the budget ended at its head since its memos were judged.
    pub(super) ends: u64,
    /// Times since then that the first access of a group did not find it in one page, and the interpreter ran the rest.
    pub(super) failures: u32,
    /// Its memos.
    pub(super) memos: Range<usize>,
    /// The one of them that counts how often it is entered, if it is a loop.
    pub(super) entries: Option<usize>,
    /// Instructions that ran in front of ends of the budget at its head since its entries were asked for, and how many ends.
    pub(super) looped: (u64, u64),
    pub(super) known: Known,
}

impl HotBlock {
    /// The memo of an operation is not worth it; `wide` if it remembers a large page. Answers whether it has to be emitted otherwise.
    fn give_up(&mut self, op: u16, wide: bool) -> bool {
        let restless = &mut self.known.restless;
        let Some((_, instead)) = restless.iter_mut().find(|(own, _)| *own == op) else {
            restless.push((op, Instead::Run { short: 0, large: wide }));
            return true;
        };
        // A run takes a while to become as long as it can be.
        *instead = match *instead {
            Instead::Run { short, large } if short < SHORT => Instead::Run { short: short + 1, large },
            Instead::Run { large: true, .. } => Instead::Large,
            _ => Instead::Page,
        };
        !matches!(instead, Instead::Run { .. })
    }
}

impl T1 {
    /// The budget has ended at the head of block `n` after `ran` instructions: it may be hot.
    pub(super) fn warm(&mut self, cache: &Cache, n: u32, ran: u64) {
        (self.ends, self.ran) = (self.ends + 1, self.ran + ran);
        if self.ends >= ENDS {
            self.calm(cache);
        }
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        b.heat = b.heat.saturating_add(1);
        if let Some(hot) = &mut b.hot {
            hot.ends += 1;
            if hot.entries.is_some() {
                hot.looped = (hot.looped.0 + ran, hot.looped.1 + 1);
                self.ended.push(n);
            }
        }
        self.warmed = (b.heat >= self.hot && b.hot.is_none()).then_some(n);
    }

    /// Accesses that go from page to page are better off without memos.
    fn calm(&mut self, cache: &Cache) {
        let portion = self.ran / self.ends.max(1);
        (self.ends, self.ran) = (0, 0);
        self.judge_loops(cache);
        let (mut restless, mut judged): (Vec<(u32, u16, bool)>, Vec<u32>) = Default::default();
        let blocks = &self.blocks;
        self.memos.judge(|Owner { block, op }, memo, refills, wide| {
            // A block of before may have had the number.
            let Some(b) = blocks.get(block as usize).and_then(Option::as_ref) else { return true };
            let Some(hot) = b.hot.as_ref().filter(|hot| hot.memos.contains(&memo)) else { return true };
            if hot.ends < JUDGED {
                return false;
            }
            judged.push(block);
            let runs = hot.ends * portion / u64::from(b.instructions.max(1));
            if u64::from(refills) * RESTLESS > runs {
                restless.push((block, op, wide));
            }
            true
        });
        for n in judged {
            if let Some(hot) = self.hot_block(n) {
                (hot.ends, hot.failures) = (0, 0);
            }
        }
        restless.sort_unstable();
        for list in restless.chunk_by(|a, b| a.0 == b.0) {
            let block = list[0].0;
            let Some(hot) = self.hot_block(block) else { continue };
            let changes = list.iter().filter(|(_, op, wide)| hot.give_up(*op, *wide)).count();
            if changes > 0 {
                self.emit_again(cache, block);
            }
        }
    }

    /// Loops that run long each time are worth a plan, and others are better off without.
    fn judge_loops(&mut self, cache: &Cache) {
        let mut ended = std::mem::take(&mut self.ended);
        for n in ended.drain(..) {
            let Some(Some(b)) = self.blocks.get_mut(n as usize) else { continue };
            let Some(hot) = &mut b.hot else { continue };
            let Some(entries) = hot.entries.filter(|_| hot.looped.1 >= JUDGED) else { continue };
            let (ran, _) = std::mem::take(&mut hot.looped);
            let long = ran / u64::from(b.instructions.max(1)) >= ROUNDS * self.memos.take_count(entries);
            match (&hot.known.rounds, long) {
                (None, true) if hot.known.asked.is_none() => {
                    self.ticket += 1;
                    let which = Loop { block: n, ticket: self.ticket };
                    hot.known.asked = Some(which);
                    self.loops.push(which);
                }
                (Some(_), false) => {
                    hot.known.rounds = None;
                    self.emit_again(cache, n);
                }
                _ => {}
            }
        }
        self.ended = ended;
    }

    pub(super) fn hot_block(&mut self, n: u32) -> Option<&mut HotBlock> {
        self.blocks.get_mut(n as usize)?.as_mut()?.hot.as_deref_mut()
    }

    /// The block of this site was left because an access could not be made sure of, or for another reason.
    pub(super) fn failed(&mut self, cache: &Cache, site: u32) {
        let Some(site) = self.parts.site(site).copied() else { return };
        let Some(Some(HostBlock { hot: Some(hot), .. })) = self.blocks.get_mut(site.block as usize) else { return };
        let owner = Owner { block: site.block, op: site.op };
        if !hot.memos.clone().any(|n| self.memos.owner(n) == Some(owner)) {
            return;
        }
        hot.failures += 1;
        if hot.failures > FAILURES {
            hot.failures = 0;
            if hot.give_up(owner.op, false) {
                self.emit_again(cache, owner.block);
            }
        }
    }

    /// Emit a hot block of user mode once more; whatever led to its code leads to the new one. The old code is not run again.
    pub(super) fn emit_again(&mut self, cache: &Cache, n: u32) {
        if !self.has_room() {
            return;
        }
        let Some(Some(HostBlock { hot: Some(hot), origin, .. })) = self.blocks.get(n as usize) else { return };
        let (known, origin) = (hot.known.clone(), *origin);
        let Some(mut new) = self.emit(cache, n, true, Some(known), origin) else { return };
        let Some(Some(b)) = self.blocks.get_mut(n as usize) else { return };
        (new.incoming, new.from) = (std::mem::take(&mut b.incoming), b.from);
        for (hole, _) in &new.incoming {
            Self::patch(&mut self.memory, *hole, new.head);
        }
        let (old, code) = (self.memory.exec() as u64 + b.head as u64, self.memory.exec() as u64 + new.head as u64);
        new.remembered = std::mem::take(&mut b.remembered);
        *b = new;
        self.redirect_jumps(n, old, code);
        self.returns.forget();
    }
}
