//! Blocks, their index by page, and the jump cache.
//!
//! When the cache is full the oldest blocks go, many at once: blocks are stored one epoch after the other, and the oldest epoch goes
//! as a whole. Since blocks have stamps that ascend, an epoch is nothing but the stamp that it began with.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use ir::Block;

/// Multiplicative hashing of a few words: the keys are addresses that the guest chooses, but a guest that makes them collide
/// slows only its own vCPU down.
#[derive(Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(5) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The hasher of this crate's maps.
pub type FastHash = BuildHasherDefault<Mix>;

/// What a block was lifted from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// RAM offset of its first byte.
    pub at: u64,
    /// Program counter of its first instruction, counted as the operations have it: a block that can be run wherever it is mapped
    /// has the same each time.
    pub pc: u64,
    /// Whatever else lifting depended on (the front end's mode bits).
    pub mode: u32,
}

/// A block in the cache. Valid until the next `&mut` call on the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id(u32);

impl Id {
    /// Its number: small, and used again when the block is gone.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A stored block.
#[derive(Debug)]
struct Stored {
    block: Block,
    key: Key,
    /// Length of its bytes.
    len: u32,
    /// RAM offset of the second page, if its (only) instruction straddles two.
    second: Option<u64>,
    stamp: u32,
}

/// A jump cache entry: where execution at `linear` went on the last time.
#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    pc: u64,
    context: u64,
    mode: u32,
    id: u32,
    /// Of the block, so that an entry of a block that is gone is not believed.
    stamp: u32,
}

const JUMPS: usize = 1 << 12;
const NO_JUMP: Jump = Jump { linear: 0, pc: 0, context: u64::MAX, mode: u32::MAX, id: 0, stamp: 0 };

/// What a lookup by address found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The block; nothing more to check.
    Block(Id),
    /// This block was here under an earlier translation context. If its bytes still lie where [`Cache::bytes`] says, call
    /// [`Cache::confirm`].
    Perhaps(Id),
    /// Nothing known.
    Nothing,
}

/// Epochs that a cache holds at most, unless its owner wants fewer.
pub const EPOCHS: usize = 8;

/// Blocks that go together, for their age.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// Stamp of the first block that was stored in it.
    first: u32,
    /// Operations of its blocks that are there.
    operations: usize,
    /// These blocks.
    blocks: usize,
}

/// Bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations of all blocks together, but for those of the one that is stored last. Each epoch may have its share of them.
    pub operations: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Limits {
    /// `part` of `whole` of them.
    pub const fn of(self, part: usize, whole: usize) -> Limits {
        Limits { operations: self.operations * part / whole, blocks: self.blocks * part / whole }
    }
}

impl Default for Limits {
    /// At most about 85 MiB, of which 45 are those of operations, should each instruction have but one.
    fn default() -> Self {
        Limits { operations: 2 << 20, blocks: 128 << 10 }
    }
}

/// Counters since the cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks inserted.
    pub inserted: u64,
    /// Blocks dropped because their bytes changed.
    pub invalidated: u64,
    /// Blocks dropped because they were the oldest.
    pub reclaimed: u64,
    /// Times that everything was forgotten.
    pub cleared: u64,
}

/// The block cache of one vCPU.
pub struct Cache {
    blocks: Vec<Option<Stored>>,
    free: Vec<u32>,
    by_key: HashMap<Key, u32, FastHash>,
    /// Blocks by page number of RAM.
    pages: HashMap<u64, Vec<u32>, FastHash>,
    /// Empty until there is a block.
    jumps: Box<[Jump]>,
    /// Of the block that was stored last.
    stamp: u32,
    /// The oldest one first, and the one that blocks are stored in last. There is always one.
    epochs: VecDeque<Epoch>,
    limits: Limits,
    stats: Stats,
    /// Numbers of blocks that are gone, for whoever keeps something beside them.
    gone: Vec<u32>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("blocks", &self.by_key.len()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Epoch {
    fn new(first: u32) -> Epoch {
        Epoch { first, operations: 0, blocks: 0 }
    }
}

#[inline(always)]
fn jump_index(linear: u64) -> usize {
    // By the golden ratio: addresses some pages apart seldom meet.
    ((linear as u32).wrapping_mul(0x9e37_79b1) >> (32 - JUMPS.trailing_zeros())) as usize
}

impl Cache {
    /// An empty cache. It has no memory before the first block: a vCPU that a state is loaded into is made with one, and runs
    /// with that of the vCPU whose place it takes.
    pub fn new(limits: Limits) -> Self {
        Cache {
            blocks: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            pages: HashMap::default(),
            jumps: Box::default(),
            stamp: 0,
            epochs: [Epoch::new(1)].into(),
            limits,
            stats: Stats::default(),
            gone: Vec::new(),
        }
    }

    /// Blocks that it holds at most.
    pub fn most(&self) -> usize {
        self.limits.blocks
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What execution at linear address `linear` with program counter `pc` found last. `context` is everything that the
    /// translation of the address depends on ([`mem::Tlb::context`](../mem/struct.Tlb.html)).
    #[inline(always)]
    pub fn jump(&self, linear: u64, pc: u64, mode: u32, context: u64) -> Found {
        let Some(j) = self.jumps.get(jump_index(linear)) else { return Found::Nothing };
        if j.linear != linear || j.pc != pc || j.mode != mode {
            return Found::Nothing;
        }
        match self.blocks.get(j.id as usize) {
            Some(Some(s)) if s.stamp == j.stamp => {
                if j.context == context {
                    Found::Block(Id(j.id))
                } else {
                    Found::Perhaps(Id(j.id))
                }
            }
            _ => Found::Nothing,
        }
    }

    /// Where the bytes of a block lie: RAM offset of the first, and of the second page if it straddles.
    pub fn bytes(&self, id: Id) -> Option<(u64, Option<u64>)> {
        self.stored(id).map(|s| (s.key.at, s.second))
    }

    fn stored(&self, id: Id) -> Option<&Stored> {
        self.blocks.get(id.0 as usize)?.as_ref()
    }

    /// The block was found (or checked) for this address and context: remember that.
    pub fn confirm(&mut self, linear: u64, context: u64, id: Id) {
        if let Some(s) = self.stored(id) {
            let jump = Jump { linear, pc: s.key.pc, context, mode: s.key.mode, id: id.0, stamp: s.stamp };
            self.jumps[jump_index(linear)] = jump;
        }
    }

    /// The block lifted from these bytes. For one that straddles pages the caller still has to compare the second page.
    pub fn find(&self, key: &Key) -> Option<Id> {
        self.by_key.get(key).map(|&i| Id(i))
    }

    /// The operations of a block; `None` only for an id that is no longer valid.
    #[inline(always)]
    pub fn block(&self, id: Id) -> Option<&Block> {
        match self.blocks.get(id.0 as usize) {
            Some(Some(s)) => Some(&s.block),
            _ => None,
        }
    }

    /// Whether another epoch is to begin ([`Cache::begin_epoch`]) before another block is stored, if there may be `epochs` of them.
    pub fn is_full(&self, epochs: usize) -> bool {
        let share = self.limits.of(1, epochs.max(1));
        let full = |e: &Epoch| e.operations >= share.operations.max(1) || e.blocks >= share.blocks.max(1);
        self.epochs.back().is_some_and(full) || self.stamp == u32::MAX
    }

    /// Begin another epoch. There may be `epochs` with it: if there are as many already, the blocks of the oldest go, as those do
    /// whose bytes change. Calls `empty` with the RAM offset of each page that has none left.
    pub fn begin_epoch(&mut self, epochs: usize, empty: impl FnMut(u64)) {
        // Stamps begin anew when they are used up, which a guest needs hours for that does nothing else than have code lifted.
        let keep = if self.stamp == u32::MAX { 0 } else { epochs.saturating_sub(1) };
        let many = self.epochs.len().saturating_sub(keep);
        let old: usize = self.epochs.drain(..many).map(|e| e.blocks).sum();
        if old > 0 {
            self.drop_old(empty);
        }
        if self.epochs.is_empty() {
            self.stamp = 0;
            self.jumps.fill(NO_JUMP);
        }
        self.epochs.push_back(Epoch::new(self.stamp + 1));
    }

    /// The blocks of epochs that are no more go.
    fn drop_old(&mut self, mut empty: impl FnMut(u64)) {
        let first = self.epochs.front().map_or(u64::MAX, |e| e.first.into());
        let mut pages = Vec::new();
        for (i, stored) in self.blocks.iter_mut().enumerate() {
            if let Some(s) = stored.take_if(|s| u64::from(s.stamp) < first) {
                self.gone.push(i as u32);
                self.free.push(i as u32);
                self.by_key.remove(&s.key);
                pages.extend([Some(s.key.at), s.second].into_iter().flatten().map(|at| at / 4096));
                self.stats.reclaimed += 1;
            }
        }
        // Each page once, since a guest may have any number of blocks on one.
        pages.sort_unstable();
        pages.dedup();
        for page in pages {
            let Some(list) = self.pages.get_mut(&page) else { continue };
            list.retain(|i| matches!(self.blocks.get(*i as usize), Some(Some(_))));
            if list.is_empty() {
                self.pages.remove(&page);
                empty(page * 4096);
            }
        }
    }

    /// Store a block whose bytes are `len` from `key.at` on; those beyond the first page lie at RAM offset `second`. An older
    /// block of the same key goes.
    pub fn insert(&mut self, key: Key, len: u32, second: Option<u64>, block: Block) -> Id {
        if self.jumps.is_empty() {
            self.jumps = vec![NO_JUMP; JUMPS].into();
            // As many as there may be: memory that is not touched costs nothing, and blocks that move do.
            self.blocks.reserve_exact(self.limits.blocks);
        }
        if let Some(&old) = self.by_key.get(&key) {
            self.remove(old);
        }
        self.stamp = self.stamp.saturating_add(1);
        if let Some(epoch) = self.epochs.back_mut() {
            epoch.operations += block.insts.len();
            epoch.blocks += 1;
        }
        let stored = Stored { block, key, len, second, stamp: self.stamp };
        let i = match self.free.pop() {
            Some(i) => {
                self.blocks[i as usize] = Some(stored);
                i
            }
            None => {
                self.blocks.push(Some(stored));
                (self.blocks.len() - 1) as u32
            }
        };
        self.by_key.insert(key, i);
        self.pages.entry(key.at / 4096).or_default().push(i);
        if let Some(second) = second {
            self.pages.entry(second / 4096).or_default().push(i);
        }
        self.stats.inserted += 1;
        Id(i)
    }

    /// The block of a number, if there is one.
    #[inline(always)]
    pub fn at(&self, number: u32) -> Option<Id> {
        matches!(self.blocks.get(number as usize), Some(Some(_))).then_some(Id(number))
    }

    /// Blocks that went since this was asked the last time, but for those that [`Cache::clear`] dropped.
    pub fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Whether [`Cache::take_gone`] has anything.
    #[inline(always)]
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    fn remove(&mut self, i: u32) {
        let Some(s) = self.blocks.get_mut(i as usize).and_then(Option::take) else { return };
        self.gone.push(i);
        if let Some(epoch) = self.epochs.iter_mut().rfind(|e| e.first <= s.stamp) {
            epoch.operations -= s.block.insts.len();
            epoch.blocks -= 1;
        }
        self.by_key.remove(&s.key);
        for at in [Some(s.key.at), s.second].into_iter().flatten() {
            if let Some(list) = self.pages.get_mut(&(at / 4096)) {
                list.retain(|&b| b != i);
                if list.is_empty() {
                    self.pages.remove(&(at / 4096));
                }
            }
        }
        self.free.push(i);
    }

    /// The bytes `at..at+len` (RAM offsets) have changed: drop the blocks made from them. Calls `empty` with the offset of
    /// each page that now has none left.
    pub fn invalidate(&mut self, at: u64, len: u64, mut empty: impl FnMut(u64)) {
        let end = at.saturating_add(len);
        let mut page = at / 4096;
        while page * 4096 < end {
            let hit: Vec<u32> = self
                .pages
                .get(&page)
                .map_or_else(Vec::new, |list| list.iter().copied().filter(|&i| self.touches(i, at, end)).collect());
            for i in hit {
                let pages = self.stored(Id(i)).map(|s| [Some(s.key.at), s.second]);
                self.remove(i);
                self.stats.invalidated += 1;
                for at in pages.into_iter().flatten().flatten() {
                    if !self.pages.contains_key(&(at / 4096)) {
                        empty(at & !4095);
                    }
                }
            }
            page += 1;
        }
    }

    fn touches(&self, i: u32, at: u64, end: u64) -> bool {
        let Some(s) = self.stored(Id(i)) else { return false };
        let overlaps = |from: u64, len: u64| from < end && at < from + len;
        match s.second {
            None => overlaps(s.key.at, u64::from(s.len)),
            Some(second) => {
                let first = (4096 - s.key.at % 4096).min(u64::from(s.len));
                overlaps(s.key.at, first) || overlaps(second & !4095, u64::from(s.len) - first)
            }
        }
    }

    /// Whether any block has bytes on the page of RAM offset `at`.
    pub fn has_page(&self, at: u64) -> bool {
        self.pages.contains_key(&(at / 4096))
    }

    /// RAM offsets of the pages that blocks have bytes on.
    pub fn code_pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().map(|page| page * 4096)
    }

    /// Forget every block.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.free.clear();
        self.by_key.clear();
        self.pages.clear();
        self.jumps.fill(NO_JUMP);
        self.epochs = [Epoch::new(1)].into();
        self.stamp = 0;
        self.gone.clear();
        self.stats.cleared += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Builder, NONE, Op};

    fn block(pc: u64, ops: usize) -> Block {
        let mut b = Builder::new(pc);
        b.instruction(pc, 4);
        for _ in 0..ops {
            b.op_imm(Op::Exit, NONE, NONE, pc);
        }
        b.finish()
    }

    fn key(at: u64) -> Key {
        Key { at, pc: 0xffff_0000 + at, mode: 3 }
    }

    fn small() -> Cache {
        Cache::new(Limits { operations: 100, blocks: 10 })
    }

    #[test]
    fn a_jump_is_believed_only_in_its_context() {
        let mut c = small();
        let k = key(0x1000);
        let id = c.insert(k, 4, None, block(k.pc, 1));
        assert_eq!(c.jump(k.pc, k.pc, 3, 9), Found::Nothing);
        c.confirm(k.pc, 9, id);
        assert_eq!(c.jump(k.pc, k.pc, 3, 9), Found::Block(id));
        assert_eq!(c.jump(k.pc, k.pc, 3, 8), Found::Perhaps(id));
        assert_eq!(c.jump(k.pc, k.pc, 2, 9), Found::Nothing);
        assert_eq!(c.jump(k.pc, k.pc + 1, 3, 9), Found::Nothing);
        assert_eq!(c.find(&k), Some(id));
        assert_eq!(c.find(&Key { mode: 4, ..k }), None);
    }

    #[test]
    fn memory_comes_with_the_first_block() {
        let mut c = small();
        assert_eq!(c.jump(0x77, 0x77, 3, 1), Found::Nothing);
        c.clear();
        assert_eq!((c.blocks.capacity(), c.jumps.len()), (0, 0));
        let id = c.insert(key(0x1000), 4, None, block(0, 1));
        c.confirm(0x77, 1, id);
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Block(id));
        assert!(c.blocks.capacity() >= c.most());
    }

    #[test]
    fn a_change_drops_what_it_touches_and_nothing_else() {
        let mut c = small();
        let a = c.insert(key(0x1000), 16, None, block(0, 1));
        c.insert(key(0x1010), 16, None, block(0, 1));
        c.confirm(0x77, 1, a);
        let mut gone = vec![];
        c.invalidate(0x100f, 1, |p| gone.push(p));
        assert_eq!((c.find(&key(0x1000)), c.find(&key(0x1010)).is_some()), (None, true));
        assert!(gone.is_empty() && c.has_page(0x1000));
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Nothing, "a block that is gone is not believed");
        let b = c.insert(key(0x2000), 16, None, block(0, 1));
        assert_eq!(b, a, "the place is used again");
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Nothing);
        c.invalidate(0x1020, 0x1000, |p| gone.push(p));
        assert_eq!(gone, [0x2000]);
        c.invalidate(0x1000, 0x100, |p| gone.push(p));
        assert_eq!(gone, [0x2000, 0x1000]);
        c.invalidate(0, 0, |_| panic!("an empty range touches nothing"));
    }

    #[test]
    fn a_straddling_block_depends_on_both_pages() {
        for at in [0x1fff, 0x5001] {
            let mut c = small();
            // Its last two bytes lie on an unrelated page.
            let id = c.insert(key(0x1ffe), 4, Some(0x5000), block(0, 1));
            assert_eq!(c.bytes(id), Some((0x1ffe, Some(0x5000))));
            c.invalidate(0x2000, 2, |_| panic!("the next page of RAM is not its second page"));
            c.invalidate(0x5002, 2, |_| panic!("behind its last byte"));
            let mut gone = vec![];
            c.invalidate(at, 1, |p| gone.push(p));
            assert_eq!(gone, [0x1000, 0x5000]);
            assert_eq!(c.find(&key(0x1ffe)), None);
        }
    }

    /// Begin another of `epochs`; answers the pages that have no block any more.
    fn begin(c: &mut Cache, epochs: usize) -> Vec<u64> {
        let mut empty = vec![];
        c.begin_epoch(epochs, |page| empty.push(page));
        empty
    }

    #[test]
    fn an_epoch_has_its_share_of_the_limits() {
        let mut c = small();
        for i in 0..25 {
            assert_eq!(c.is_full(2), i > 0 && i % 5 == 0, "{i}");
            if c.is_full(2) {
                begin(&mut c, 2);
            }
            c.insert(key(i * 16), 16, None, block(0, 1));
            assert!(c.by_key.len() <= 10);
        }
        assert_eq!(c.by_key.len(), 10, "of the last two epochs");
        assert!(c.is_full(2) && !c.is_full(1));
        begin(&mut c, 2);
        c.insert(key(0x9000), 16, None, block(0, 49));
        assert!(!c.is_full(2));
        c.insert(key(0x9010), 16, None, block(0, 1));
        assert!(c.is_full(2), "of operations");
        // What goes since it has changed makes room in its own epoch.
        c.invalidate(0x9000, 1, |_| ());
        assert!(!c.is_full(2));
        c.clear();
        assert_eq!((c.find(&key(0)), c.code_pages().count()), (None, 0));
        assert_eq!(c.stats(), Stats { inserted: 27, invalidated: 1, reclaimed: 20, cleared: 1 });
    }

    #[test]
    fn the_oldest_epoch_goes_as_if_its_bytes_had_changed() {
        let mut c = small();
        let a = c.insert(key(0x1000), 16, None, block(0, 1));
        let b = c.insert(key(0x1fff), 2, Some(0x5000), block(0, 2));
        let again = c.insert(key(0x3000), 16, None, block(0, 1));
        c.confirm(0x77, 1, a);
        assert!(begin(&mut c, 3).is_empty());
        let shared = c.insert(key(0x1010), 16, None, block(0, 1));
        // A block that is lifted once more belongs to the epoch of now.
        assert_eq!(c.insert(key(0x3000), 16, None, block(0, 1)), again);
        assert_eq!(c.take_gone(), [again.number()]);
        assert!(begin(&mut c, 3).is_empty());
        c.insert(key(0x4000), 16, None, block(0, 1));
        assert!(!c.has_gone());

        assert_eq!(begin(&mut c, 3), [0x5000], "pages that have none left");
        let mut gone = c.take_gone();
        gone.sort_unstable();
        assert_eq!(gone, [a.number(), b.number()]);
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Nothing);
        assert_eq!((c.find(&key(0x1000)), c.find(&key(0x1010))), (None, Some(shared)));
        let number = c.insert(key(0x6000), 16, None, block(0, 1)).number();
        assert!(gone.contains(&number), "numbers are used again");
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Nothing);

        assert_eq!(begin(&mut c, 3), [0x1000, 0x3000]);
        assert_eq!(begin(&mut c, 3), [0x4000]);
        assert_eq!(begin(&mut c, 3), [0x6000]);
        assert!(begin(&mut c, 3).is_empty() && c.by_key.is_empty() && c.pages.is_empty());
        assert_eq!(c.stats().reclaimed, 6);
    }

    #[test]
    fn with_fewer_epochs_all_that_are_too_many_go() {
        let mut c = small();
        for i in 0..6 {
            c.insert(key(i << 12), 16, None, block(0, 1));
            assert!(begin(&mut c, 8).is_empty());
        }
        c.insert(key(6 << 12), 16, None, block(0, 1));
        assert_eq!(begin(&mut c, 3), [0, 1 << 12, 2 << 12, 3 << 12, 4 << 12]);
        assert_eq!(begin(&mut c, 1), [5 << 12, 6 << 12]);
        assert_eq!(c.epochs.len(), 1);
    }

    #[test]
    fn stamps_begin_anew_with_nothing_that_has_an_old_one() {
        let mut c = small();
        let a = c.insert(key(0x1000), 16, None, block(0, 1));
        c.confirm(0x77, 1, a);
        c.stamp = u32::MAX - 1;
        c.insert(key(0x2000), 16, None, block(0, 1));
        assert!(c.is_full(8));
        assert_eq!(begin(&mut c, 8), [0x1000, 0x2000]);
        assert!(!c.is_full(8) && c.by_key.is_empty());
        // The number and the stamp of before, for another block.
        c.insert(key(0x2000), 16, None, block(0, 1));
        let b = c.insert(key(0x3000), 16, None, block(0, 1));
        assert_eq!((c.stamp, b.number().max(1)), (2, 1));
        assert_eq!(c.jump(0x77, key(0x1000).pc, 3, 1), Found::Nothing);
        c.invalidate(0x2000, 0x2000, |_| ());
        assert_eq!(c.epochs.back().map(|e| (e.blocks, e.operations)), Some((0, 0)));
    }

    #[test]
    fn the_same_key_again_replaces() {
        let mut c = small();
        c.insert(key(0), 16, None, block(0, 1));
        let id = c.insert(key(0), 16, None, block(0, 7));
        assert_eq!(c.block(id).unwrap().insts.len(), 7);
        assert_eq!(c.epochs.back().map(|e| (e.blocks, e.operations)), Some((1, 7)));
    }
}
