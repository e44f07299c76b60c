//! Loops that can count their rounds: where their accesses go, and how far that moves from round to round.
//!
//! The idea: what a short loop costs beside its own work is the same question in each round, whether this address still lies in
//! that page, and whether the time is up. Where addresses go by words that change by a constant each round, or not at all, one
//! division says for how many rounds the answer is yes; so many rounds ask nothing.

use ir::Block;
use ir::effects::effects;
use ir::op::{Inst, MemRef, NONE, Op, PRIVATE, Slot, hint};

use crate::{Value, Values};

/// A loop of one block, which leads back to its own head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Accesses that move together.
    pub groups: Vec<Group>,
    /// Accesses, ascending by operation.
    pub accesses: Vec<Access>,
}

/// Accesses whose address is the same distance from each other in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The word that their addresses go by, as it is at the head of a round.
    pub base: Slot,
    /// A word that is added, shifted left by so much.
    pub index: Option<(Slot, u8)>,
    /// From there to the first byte that any of them goes to.
    pub low: i32,
    /// Bytes from that to behind the last one.
    pub bytes: u32,
    /// What is added to all addresses from a round to the next.
    pub step: i32,
    /// Whether any of them stores.
    pub write: bool,
    /// The base is the same in all rounds, and in each of them from the beginning to the end.
    pub fixed: bool,
    /// Nothing but the addresses of these accesses asks for the base.
    pub alone: bool,
}

/// An access of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Operation.
    pub op: u16,
    /// Its group, as an index.
    pub group: u16,
    /// What is to be added to the group's base as it is at the head of the round, beside the index.
    pub ahead: i32,
    /// Whether it stores.
    pub write: bool,
    /// The word that has the index now, and how far it is shifted left.
    pub index: Option<(Slot, u8)>,
}

/// Groups further apart than this from their words, or larger, are none.
const FAR: i64 = 1 << 20;

/// An operation that may be in a group: how it goes to memory, and whether it stores.
pub fn access(x: &Inst) -> Option<(MemRef, bool)> {
    let m = MemRef::unpack(x.aux, x.imm);
    let write = match x.op {
        Op::Load | Op::Load128 => m.write_intent,
        Op::Store | Op::Store128 => true,
        Op::AluMem => !MemRef::alu_op(x.imm).compares(),
        _ => return None,
    };
    let plain = m.space == 0 && !m.big && m.key == 0 && m.wrap == 0 && !m.aligned;
    (plain && x.a != NONE && m.disp.unsigned_abs() < 1 << 30).then_some((m, write))
}

/// What an address is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Parts {
    base: u32,
    index: Option<(u32, u8)>,
}

/// An access on the way to its group.
struct Found {
    parts: Parts,
    access: Access,
    low: i64,
    high: i64,
}

impl Rounds {
    /// What is so of `block` in each of its rounds, if it is such a loop.
    pub fn of(block: &Block) -> Option<Rounds> {
        let ends = block.insts.last().is_some_and(|x| x.op == Op::Exit && x.aux & hint::CALL == 0);
        let elsewhere = |op: Op| matches!(op, Op::ExitReg | Op::ExitEvent | Op::Raise);
        if !ends || block.insts.iter().any(|x| elsewhere(x.op) || effects(x).writes_state) {
            return None;
        }
        let (found, behind) = look(block)?;
        let step = |word: u32| {
            let (base, distance) = *behind.get(word as usize)?;
            (base == word).then_some(distance)
        };
        let unchanged = |word: u32| {
            let written = |x: &Inst| effects(x).writes.iter().any(|w| u32::from(w.0) == word);
            !block.insts.iter().any(written)
        };
        let mut rounds = Rounds::default();
        for Found { parts, mut access, low, high } in found {
            let Some(base) = Values::word((parts.base, 0)) else { continue };
            let index = match parts.index {
                Some((word, shift)) => match Values::word((word, 0)) {
                    Some(word) => Some((word, shift)),
                    None => continue,
                },
                None => None,
            };
            let moved = index.map_or(Some(0), |(word, shift)| Some(step(word.0.into())? << shift));
            let Some(step) = step(parts.base).zip(moved).and_then(|(a, b)| i32::try_from(a + b).ok()) else { continue };
            let same = |g: &Group| (g.base, g.index, g.step) == (base, index, step);
            let at = match rounds.groups.iter().position(same) {
                Some(at) => at,
                None => {
                    let fixed = unchanged(base.0.into());
                    let (low, bytes) = (low as i32, (high - low) as u32);
                    let alone = fixed;
                    rounds.groups.push(Group { base, index, low, bytes, step, write: false, fixed, alone });
                    rounds.groups.len() - 1
                }
            };
            let group = &mut rounds.groups[at];
            let (first, end) = (low.min(group.low.into()), high.max(i64::from(group.low) + i64::from(group.bytes)));
            if end - first > FAR {
                continue;
            }
            (group.low, group.bytes) = (first as i32, (end - first) as u32);
            group.write |= access.write;
            access.group = at as u16;
            rounds.accesses.push(access);
        }
        rounds.find_lonely(block);
        Some(rounds)
    }

    /// The access that operation `op` is.
    pub fn access(&self, op: usize) -> Option<&Access> {
        let at = self.accesses.binary_search_by_key(&op, |access| access.op.into()).ok()?;
        self.accesses.get(at)
    }

    /// Whose base nobody else asks for.
    fn find_lonely(&mut self, block: &Block) {
        for (n, group) in self.groups.iter_mut().enumerate() {
            for (op, x) in block.insts.iter().enumerate() {
                let reads = effects(x).reads.iter().filter(|s| **s == group.base).count();
                let own = self.accesses.iter().any(|a| usize::from(a.op) == op && usize::from(a.group) == n);
                group.alone &= reads <= usize::from(own);
            }
        }
    }
}

/// Whether `x` leads back to the head of the block, and not to call it.
pub fn leads_back(block: &Block, x: &Inst) -> bool {
    let calls = x.op == Op::Exit && x.aux & hint::CALL != 0;
    matches!(x.op, Op::Exit | Op::ExitCond | Op::ExitIf) && x.imm == block.pc && !calls
}

/// All accesses of a block, and what its words hold when it leads back to its head.
fn look(block: &Block) -> Option<(Vec<Found>, Vec<Value>)> {
    let (mut values, mut found) = (Values::default(), Vec::new());
    let mut behind: Option<Vec<Value>> = None;
    let mut landing = 0;
    for (i, x) in block.insts.iter().enumerate() {
        if let Some((m, write)) = access(x) {
            let mut base = values.of(x.a);
            let mut index = (x.b != NONE).then(|| (values.of(x.b), x.b, m.scale));
            // Either of two can be the base if it is not shifted: rather what stays.
            if let Some((other, _, 0)) = index
                && stays(block, other)
                && !stays(block, base)
            {
                index = Some((base, x.a, 0));
                base = other;
            }
            let moved = index.map_or(0, |(value, _, shift)| value.1 << shift);
            let ahead = base.1 + i64::from(m.disp);
            let (low, bytes) = (ahead + moved, 1 << m.log2);
            if low.abs() < FAR {
                let access = Access {
                    op: i as u16,
                    group: 0,
                    ahead: ahead as i32,
                    write,
                    index: index.map(|(_, slot, shift)| (slot, shift)),
                };
                let parts = Parts { base: base.0, index: index.map(|(value, _, shift)| (value.0, shift)) };
                found.push(Found { parts, access, low, high: low + bytes });
            }
        }
        if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
            landing = landing.max(i + 1 + x.imm as usize);
        }
        if leads_back(block, x) {
            // From two places it would have to be the same.
            if behind.is_some() {
                return None;
            }
            behind = Some((0..PRIVATE).map(|s| values.of(Slot(s))).collect());
        }
        values.follow(x, i < landing);
    }
    Some((found, behind?))
}

/// Whether `value` is what a word has held since the head, and holds to the end.
fn stays(block: &Block, value: Value) -> bool {
    let Some(word) = Values::word(value) else { return false };
    !block.insts.iter().any(|x| effects(x).writes.contains(&word))
}
