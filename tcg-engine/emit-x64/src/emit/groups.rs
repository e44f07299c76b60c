//! Groups: accesses of a hot block that lie beside each other, of which the first finds the page for all.
//!
//! The idea: what a program does to a structure or to its stack goes by one register and small distances. The first access of
//! such a group makes sure that all of it lies in one page that it may be done to; the others use what it has found, with no
//! question asked. If it cannot make sure, the interpreter runs the rest of the block. What it makes sure of are the rights of all of
//! them: where one stores, the page is one that may be stored to, though the first may be a load.
//!
//! R15, the TLB's bank for everything else, then has the host's address of the first one, and the others are that and a distance. What
//! copies has a group that it loads from and one that it stores to: a loop takes a register for the second one from a word that it does not
//! name ([`super::rename`]).
//!
//! If there are more such words, groups of a loop have their addends in registers too, and the registers above hold the guest's address: the
//! addresses of its accesses then wait for no load.

use ir::Block;
use ir::op::{MemRef, NONE, Op};
use opt::{Value, Values};

use super::{Emitter, Instead};
use crate::asm::{Mem, R15, Reg, Sz, at, indexed};
use crate::layout::{BANK, word};
use crate::memo;
use crate::mutants::{Mutant, on};

/// Bytes from the first to the last of a group at most: seldom across two pages.
const REACH: i64 = 256;
/// The same where the page may be a run of pages.
const LONG_REACH: i64 = 8192;

/// What an access is in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// It finds the page: from its own first byte to that of the group, bytes of the group, and whether any of it stores. So many
    /// others follow, the last one at that operation.
    First {
        /// Zero or less.
        distance: i32,
        bytes: u32,
        write: bool,
        others: usize,
        last: u16,
    },
    /// It uses what that operation has found, so far ahead of the first byte of that.
    Other { first: u16, ahead: i32 },
}

/// What R15 holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// The TLB's bank, as wherever a block begins and ends.
    Bank,
    /// Something that nobody wants.
    Nothing,
    /// The address of the first byte of a group's first access, until that operation, the last one of the group: the host's, or the
    /// guest's if the group has an [`Addend`].
    Group { first: u16, last: u16 },
}

/// A register for a second group.
#[derive(Clone, Copy)]
pub(super) struct Second {
    pub(super) reg: Reg,
    /// The first and the last operation of the group that it has the address of.
    group: Option<(u16, u16)>,
}

impl Second {
    pub(super) fn new(reg: Reg) -> Self {
        Second { reg, group: None }
    }
}

/// A register for the addend that a group's first access remembers.
#[derive(Clone, Copy)]
pub(super) struct Addend {
    pub(super) reg: Reg,
    /// The group's first operation, and where its memo is.
    first: u16,
    pub(super) memo: usize,
}

struct Group {
    base: u32,
    /// Value and scale.
    index: Option<(Value, u8)>,
    write: bool,
    /// Its first access remembers a run of pages.
    run: bool,
    low: i64,
    high: i64,
    /// Operation and distance.
    members: Vec<(u16, i64)>,
}

impl Emitter {
    /// Finds the groups of a hot block.
    pub(super) fn find_groups(&mut self, block: &Block) {
        self.parts.clear();
        self.addends.clear();
        let Some(hot) = self.hot.as_deref().filter(|hot| hot.memos.is_some()) else { return };
        let (mut values, mut open, mut done) = (Values::default(), Vec::<Group>::new(), Vec::new());
        let mut landings: Vec<usize> = Vec::new();
        for (i, x) in block.insts.iter().enumerate() {
            if matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
                landings.push(i + 1 + x.imm as usize);
            }
            if landings.contains(&i) || matches!(x.op, Op::SkipIfZero | Op::SkipUnless) {
                // What is skipped has found nothing.
                done.append(&mut open);
            }
            let emitted = x.op != Op::AluMem || Self::on_memory(MemRef::alu_op(x.imm));
            if let Some((m, write)) = opt::access(x).filter(|_| emitted) {
                let (base, distance) = values.of(x.a);
                let index = (x.b != NONE).then(|| (values.of(x.b), m.scale));
                let low = distance + i64::from(m.disp);
                let high = low + (1 << m.log2);
                let run = matches!(hot.instead(i as u16), Some(Instead::Run { .. }));
                let fits = |g: &&mut Group| {
                    let reach = if run && g.run { LONG_REACH } else { REACH };
                    (g.base, g.index) == (base, index) && high.max(g.high) - low.min(g.low) <= reach
                };
                match open.iter_mut().find(fits) {
                    Some(g) => {
                        (g.low, g.high) = (g.low.min(low), g.high.max(high));
                        g.write |= write;
                        g.members.push((i as u16, low));
                    }
                    None => open.push(Group { base, index, write, run, low, high, members: vec![(i as u16, low)] }),
                }
            }
            values.follow(x, landings.iter().any(|landing| i < *landing));
        }
        done.append(&mut open);
        for g in done.iter().filter(|g| g.members.len() > 1) {
            let Some((first, low)) = g.members.first().copied() else { continue };
            if matches!(hot.instead(first), Some(Instead::Large | Instead::Page)) {
                continue;
            }
            let (distance, bytes) = ((g.low - low) as i32, (g.high - g.low) as u32);
            let others = g.members.len() - 1;
            let last = g.members[others].0;
            self.parts.push((first, Part::First { distance, bytes, write: g.write, others, last }));
            let other = |(op, at): &(u16, i64)| (*op, Part::Other { first, ahead: (at - low) as i32 });
            self.parts.extend(g.members.iter().skip(1).map(other));
        }
    }

    /// What the operation at hand is in its group, if it is in one.
    pub(super) fn part(&self) -> Option<Part> {
        self.part_of(self.i)
    }

    pub(super) fn part_of(&self, i: usize) -> Option<Part> {
        self.parts.iter().find(|(op, _)| usize::from(*op) == i).map(|(_, part)| *part)
    }

    /// Whether what is made sure for the operation at hand goes for the next one too.
    pub(super) fn with_next(&self) -> bool {
        if let Some(same) = self.proven_with_next() {
            return same;
        }
        let group = |i| match self.part_of(i) {
            Some(Part::First { .. }) => Some(i as u16),
            Some(Part::Other { first, .. }) => Some(first),
            None => None,
        };
        group(self.i).is_none() || group(self.i) == group(self.i + 1)
    }

    /// R15 is the bank.
    pub(super) fn take_bank(&mut self) {
        if self.base != Base::Bank {
            self.a.mov(Sz::Q, R15, word(BANK));
        }
        self.base = Base::Bank;
    }

    /// Where the access at hand is, if a register says so.
    pub(super) fn near(&self) -> Option<Mem> {
        let Some(Part::Other { first: own, ahead }) = self.part() else { return None };
        let (reg, first) = match (self.base, self.second) {
            (Base::Group { first, .. }, _) if first == own => (R15, first),
            (_, Some(Second { reg, group: Some((first, _)) })) if first == own || on(Mutant::Second) => (reg, first),
            _ => return None,
        };
        Some(match self.addend_of(first) {
            Some(addend) => indexed(reg, addend.reg, 0, ahead),
            None => at(reg, ahead),
        })
    }

    /// The register for the addend of the group of this first operation, if there is one.
    pub(super) fn addend_of(&self, first: u16) -> Option<Addend> {
        self.addends.iter().find(|addend| addend.first == first).copied()
    }

    /// The memo of the first access of a group whose addend is to be in a register, if there is still one without. It is made now, so that
    /// the loop can take what it holds.
    pub(super) fn reserve_addend(&mut self, reg: Reg) -> Option<usize> {
        let start = self.hot.as_deref()?.memos?;
        let without = |(op, part): &(u16, Part)| match *part {
            Part::First { bytes, .. } if self.addend_of(*op).is_none() => Some((*op, bytes)),
            _ => None,
        };
        let (first, bytes) = self.parts.iter().find_map(without).filter(|_| !on(Mutant::Apart))?;
        let memo = start + self.memos.len() * memo::MEMO;
        self.memos.push((first, bytes - 1));
        self.addends.push(Addend { reg, first, memo });
        Some(memo)
    }

    /// The access at hand, which is at `m`, is the first of a group: a register says from now on where that is, if one is free, and
    /// it is worth it. The access itself does not wait for that.
    pub(super) fn come_near(&mut self, m: Mem) {
        let Some(Part::First { others, last, .. }) = self.part() else { return };
        let least = if self.renamed.repeats { 1 } else { 2 };
        if others < least || !self.skips.is_empty() {
            return;
        }
        let first = self.i as u16;
        let place = if self.addend_of(first).is_some() { m } else { self.there };
        if !matches!(self.base, Base::Group { .. }) {
            self.a.lea(Sz::Q, R15, place);
            self.base = Base::Group { first, last };
        } else if let Some(second) = &mut self.second
            && second.group.is_none_or(|(_, last)| last <= first)
        {
            self.a.lea(Sz::Q, second.reg, place);
            second.group = Some((first, last));
        }
    }

    /// Whether two groups overlap.
    pub(super) fn has_two_groups(&self) -> bool {
        let mut end = 0;
        self.parts.iter().any(|(op, part)| {
            let Part::First { last, .. } = *part else { return false };
            let overlaps = *op < end;
            end = last.max(end);
            overlaps
        })
    }

    /// What R15 holds before the access at hand, as far as anybody wants it.
    pub(super) fn wanted_base(&self) -> Base {
        match self.base {
            Base::Group { last, .. } if usize::from(last) <= self.i => Base::Nothing,
            base => base,
        }
    }

    /// Whether an access is certain to succeed, since another one makes sure of that. Halves of accesses of 256 bits are sometimes put
    /// together before they could do so.
    pub(super) fn cannot_fail(&self, block: &Block, i: usize) -> bool {
        let simple = |i: usize| {
            let op = block.insts.get(i).map(|x| (x.op, MemRef::unpack(x.aux, x.imm).log2));
            op.is_some_and(|(op, log2)| matches!(op, Op::Load | Op::Store | Op::AluMem) && log2 <= 3)
        };
        if block.insts.get(i).is_some_and(|x| self.proven_to_succeed(x, i)) {
            return true;
        }
        matches!(self.part_of(i), Some(Part::Other { first, .. }) if simple(first.into())) && simple(i)
    }

    /// The memo of the operation at hand if another one has made sure that it may be done.
    pub(super) fn found(&self) -> Option<usize> {
        let Some(Part::Other { first, .. }) = self.part() else { return None };
        self.firsts.iter().find(|(op, _)| *op == first).map(|(_, memo)| *memo)
    }
}
