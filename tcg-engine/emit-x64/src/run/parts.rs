//! Code memory as a ring of parts, which are filled in turn.
//!
//! When a part is full, the next one is begun, and whatever it held is reclaimed: the oldest code. For each part the cache of blocks
//! has an epoch ([`Cache::begin_epoch`](code::Cache::begin_epoch)), in which blocks are stored while the part is filled. Code is
//! emitted for a block that is stored already, and emitted again later if at all. So the code of a block never lies in an older part
//! than that of its epoch, and once the oldest epoch has left the cache nobody has code in the oldest part any more.
//!
//! What others know of a part must not outlive it:
//!
//! | what | where | goes |
//! |---|---|---|
//! | links into it | exits of other blocks, patched | with the blocks that they lead to |
//! | jump cache | `remembered` of these | with the blocks |
//! | return tables | | all at once, as whenever a block goes |
//! | distances in its code that lead elsewhere | `incoming` of other blocks | when the part is begun again: all blocks are walked |
//! | its exits, sites, heads, and what its exits lead over to other pages | here | when it is begun again |
//! | an exit that was just left | [`Exit`], with the runner | is refused, for it has the number of its part's turn |
//! | memos | the same parts, behind the code | when it is begun again |
//!
//! The jumps that exits lead over to other pages lie in the part of when they were made, which is never older than that of their
//! exit; so they are never overwritten while something leads to them.

use std::collections::HashMap;
use std::ops::Range;

use code::FastHash;

use super::links::Across;
use super::look::CALL;
use super::{Exit, T1};
use crate::emit::{DirectExit, Site};
use crate::mutants::{Mutant, on};

/// Bytes that a block's code may have at most, unless code memory is divided otherwise.
const LARGEST: usize = 64 << 10;
/// A part has at least so many times that much, if there can be two of them; its end stays empty for as much.
const LEAST: usize = 4;
const _: () = assert!(code::EPOCHS <= u8::BITS as usize, "a bit for each part");
/// Sites and direct exits that the blocks of a part have, but for the last one, are one for as many bytes of it: they take 8 and 24 bytes
/// each, and some take 5 bytes of code.
const BYTES_PER_SITE: usize = 64;
/// Numbers of sites and exits: the part's, and behind it so many bits of the number in that part.
const INDEX_BITS: u32 = 24;

const fn index(number: u32) -> usize {
    (number & ((1 << INDEX_BITS) - 1)) as usize
}

/// A part. What it has of sites, exits and heads ascends by where they lie, since code is added at its end.
#[derive(Default)]
pub(super) struct Part {
    /// Its code, so far.
    used: Range<usize>,
    sites: Vec<Site>,
    exits: Vec<DirectExit>,
    /// Return addresses of the calls that leave blocks at their heads, and the blocks.
    heads: Vec<(u32, u32)>,
    /// What links to other pages lead over, by the exit's number.
    pub(super) across: HashMap<u32, Across, FastHash>,
    /// Which of all the turns of parts this is.
    turn: u32,
}

impl Part {
    fn clear(&mut self, turn: u32) {
        self.used.end = self.used.start;
        self.turn = turn;
        self.sites.clear();
        self.exits.clear();
        self.heads.clear();
        if !on(Mutant::AcrossOld) {
            self.across.clear();
        }
    }
}

/// All of them.
pub(super) struct Parts {
    list: Vec<Part>,
    /// Bytes of each.
    size: usize,
    /// Which one is filled now.
    now: usize,
    /// Turns so far.
    turns: u32,
    /// Bytes that a block's code may have at most.
    pub(super) largest: usize,
}

impl Parts {
    /// The bytes from `start` to `end`, behind each other: as many parts as there are to be at most if they are large enough, and at
    /// least two.
    pub(super) fn new(start: usize, end: usize) -> Parts {
        let most = (end - start) / (LEAST * LARGEST);
        Self::divided(start, end, most.clamp(2, code::EPOCHS), LARGEST)
    }

    fn divided(start: usize, end: usize, count: usize, largest: usize) -> Parts {
        let size = ((end - start) / count) & !63;
        let part = |n| Part { used: start + n * size..start + n * size, ..Part::default() };
        Parts { list: (0..count).map(part).collect(), size, now: 0, turns: 0, largest: largest.min(size / 2) }
    }

    /// They lie between `start` and `end` from now on. They must be cleared then.
    pub(super) fn move_to(&mut self, start: usize, end: usize) {
        self.place_at(start, self.count(), self.size.min((end - start) / self.count()));
    }

    /// They begin at `start`, are `count`, and have `size` bytes each. They must be cleared then.
    pub(super) fn place_at(&mut self, start: usize, count: usize, size: usize) {
        let turns = self.turns;
        *self = Self::divided(start, start + size * count, count, self.largest);
        self.turns = turns;
    }

    /// How little code memory does.
    pub(super) const LEAST: usize = 4 * LARGEST;

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    fn part(&mut self) -> &mut Part {
        &mut self.list[self.now]
    }

    /// Where the next code goes, and how much of it there may be.
    pub(super) fn free(&self) -> Range<usize> {
        let used = &self.list[self.now].used;
        used.end..used.start + self.size
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.list.iter().map(|p| p.used.len()).sum()
    }

    fn has_room(&self) -> bool {
        let part = &self.list[self.now];
        self.free().len() >= self.largest && part.sites.len() + part.exits.len() <= self.size / BYTES_PER_SITE
    }

    /// `len` bytes of code have been added.
    pub(super) fn take(&mut self, len: usize) {
        let end = self.free().end;
        let part = self.part();
        part.used.end = (part.used.end + len.next_multiple_of(16)).min(end);
    }

    /// Add what is known of a block's code.
    pub(super) fn add(&mut self, sites: &[Site], exits: &[DirectExit], head: (u32, u32)) {
        let part = self.part();
        part.sites.extend_from_slice(sites);
        part.exits.extend_from_slice(exits);
        part.heads.push(head);
    }

    fn number(&self, index: usize) -> u32 {
        (self.now as u32) << INDEX_BITS | index as u32
    }

    /// The number that the next site will have.
    pub(super) fn next_site(&self) -> u32 {
        self.number(self.list[self.now].sites.len())
    }

    /// The part that offset `at` of code memory lies in.
    fn place(&self, at: u32) -> Option<usize> {
        let start = self.list[0].used.start;
        Some((at as usize).checked_sub(start)? / self.size)
    }

    /// The bit for the part that offset `at` lies in.
    pub(super) fn bit(&self, at: u32) -> u8 {
        self.place(at).and_then(|n| 1u8.checked_shl(n as u32)).unwrap_or(0)
    }

    /// The part of something with this number.
    fn of(&self, number: u32) -> Option<&Part> {
        self.list.get((number >> INDEX_BITS) as usize)
    }

    pub(super) fn site(&self, number: u32) -> Option<&Site> {
        self.of(number)?.sites.get(index(number))
    }

    /// A direct exit, and what its part has.
    pub(super) fn exit(&mut self, exit: Exit) -> Option<(DirectExit, &mut Part)> {
        let part = self.list.get_mut((exit.number >> INDEX_BITS) as usize)?;
        if part.turn != exit.turn && !on(Mutant::Turn) {
            return None;
        }
        Some((*part.exits.get(index(exit.number))?, part))
    }

    /// The direct exit whose call returns to offset `to`.
    pub(super) fn exit_called(&self, to: u32) -> Option<(Exit, &DirectExit)> {
        let at = to.wrapping_sub(CALL);
        let place = self.place(at)?;
        let part = self.list.get(place)?;
        let n = part.exits.binary_search_by_key(&at, |e| e.unlinked).ok()?;
        let n = n - usize::from(n > 0 && on(Mutant::ExitBefore));
        Some((Exit { number: (place as u32) << INDEX_BITS | n as u32, turn: part.turn }, part.exits.get(n)?))
    }

    /// The block at whose head a call returns to offset `to`.
    pub(super) fn head_called(&self, to: u32) -> Option<u32> {
        let heads = &self.list.get(self.place(to.wrapping_sub(CALL))?)?.heads;
        let n = heads.binary_search_by_key(&to, |(at, _)| *at).ok()?;
        let n = n - usize::from(n > 0 && on(Mutant::HeadBefore));
        heads.get(n).map(|(_, block)| *block)
    }

    /// What links to other pages lead over, with the exits' numbers.
    pub(super) fn across(&self) -> impl Iterator<Item = (u32, &Across)> {
        self.list.iter().flat_map(|p| p.across.iter()).map(|(number, x)| (*number, x))
    }

    /// All direct exits, by their numbers.
    #[cfg(any(test, feature = "mutants"))]
    pub(super) fn exits(&self) -> impl Iterator<Item = (u32, &DirectExit)> {
        self.list.iter().enumerate().flat_map(|(part, p)| {
            p.exits.iter().enumerate().map(move |(n, e)| ((part as u32) << INDEX_BITS | n as u32, e))
        })
    }

    /// Where there is code.
    #[cfg(any(test, feature = "mutants"))]
    pub(super) fn areas(&self) -> impl Iterator<Item = Range<usize>> {
        self.list.iter().map(|p| p.used.clone())
    }

    /// All are empty.
    pub(super) fn clear(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        self.now = 0;
        for part in &mut self.list {
            part.clear(self.turns);
        }
    }
}

impl T1 {
    /// Parts of code memory. The cache of blocks has as many epochs.
    pub fn parts(&self) -> usize {
        self.parts.count()
    }

    /// Have so many parts of `size` bytes, and no block's code be larger than half of that. This forgets all code. For tests: parts
    /// that are small are reclaimed often. The rest of code memory is not used.
    pub fn divide(&mut self, parts: usize, size: usize) {
        let parts = parts.clamp(1, code::EPOCHS);
        self.parts.place_at(self.start, parts, size.min((self.memory.len() - self.start) / parts));
        self.clear();
    }

    /// Whether there is room for another block; if not, the next part is to begin, and the cache's next epoch with it.
    pub fn has_room(&self) -> bool {
        self.parts.has_room()
    }

    /// Begin the next part of code memory, behind the cache's next epoch. `gone` are the blocks that have left the cache
    /// ([`Cache::take_gone`](code::Cache::take_gone)), among them all whose code lies in that part.
    pub fn begin_part(&mut self, gone: &[u32]) {
        self.warmed = None;
        let next = (self.parts.now + 1) % self.parts.count();
        let there = self.parts.list[next].used.clone();
        // What lies there itself need not be undone: most links are between blocks of about the same time.
        let elsewhere = |hole: u32| !there.contains(&(hole as usize)) && !on(Mutant::LinkedOld);
        self.drop_code(gone, elsewhere, !on(Mutant::RememberedOld));
        if !there.is_empty() {
            self.empty(next, &there);
            self.stats.reclaims += 1;
        }
        self.parts.turns = self.parts.turns.wrapping_add(1);
        self.parts.now = next;
        let turn = self.parts.turns;
        self.parts.part().clear(turn);
        self.memos.begin(next);
        #[cfg(any(test, feature = "mutants"))]
        assert_eq!(self.faults(), [""; 0], "behind the beginning of part {next}");
    }

    /// What lies `there`, in this part, is to be overwritten: nobody leads there, nor remembers that something leads elsewhere from there.
    fn empty(&mut self, part: usize, there: &Range<usize>) {
        let inside = |at: u32| there.contains(&(at as usize));
        let bit = 1 << part;
        let mut left = Vec::new();
        for (n, b) in self.blocks.iter_mut().enumerate() {
            let Some(b) = b else { continue };
            if b.from & bit != 0 && !on(Mutant::Holes) {
                b.incoming.retain(|(hole, _)| !inside(*hole));
                b.from &= !bit;
            }
            if inside(b.head) {
                left.push(n as u32);
            }
        }
        // Nobody, if the cache has as many epochs. Its owner need not be relied on for what is executed.
        debug_assert!(left.is_empty(), "blocks {left:?} are in the cache for longer than their code");
        self.drop_code(&left, |_| true, true);
        if let Some(placed) = &mut self.placed {
            placed.retain(|x| !there.contains(&x.at));
        }
    }
}
