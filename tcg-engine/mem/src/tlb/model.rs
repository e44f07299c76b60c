//! Random operations, compared with a list of what walks have found and what has been flushed since: nothing may hit that is not
//! in the list, whatever went on in both levels; and what was just installed does hit.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::PAGE;

/// A walk whose result may still be remembered.
#[derive(Clone, Copy, Debug)]
struct Walk {
    fill: Fill,
    bank: Bank,
    space: u16,
}

impl Walk {
    /// Linear addresses that it speaks of: what the second level may make of it.
    fn covers(&self, va: u64) -> bool {
        let shift = if self.fill.whole { 21 } else { 12 };
        va >> shift == self.fill.va >> shift
    }

    /// Those that are flushed with any of the mapping.
    fn mapping(&self, va: u64) -> bool {
        va >> self.fill.size.shift() == self.fill.va >> self.fill.size.shift()
    }

    /// The RAM offset that it gives an access.
    fn grants(&self, va: u64, bank: Bank, space: u16, access: Access) -> Option<u64> {
        let right = match access {
            Access::Read => self.fill.read,
            Access::Write => self.fill.dirty,
            Access::Exec => self.fill.exec,
        };
        let bank = bank == self.bank || !self.fill.user && bank.sibling() == Some(self.bank);
        let space = self.fill.global || space == self.space;
        (self.covers(va) && right && bank && space)
            .then(|| self.fill.offset.wrapping_add(va).wrapping_sub(self.fill.va))
    }
}

/// What may go wrong inside; each must be noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    Nothing,
    FirstKeepsPage,
    SecondKeepsPage,
    KeepsSpace,
    KeepsSpaces,
    KeepsAll,
    KeepsGlobal,
    KeepsStores,
    KeepsStoresOfCode,
    KeepsBank,
}

const MISTAKES: [Mistake; 9] = [
    Mistake::FirstKeepsPage,
    Mistake::SecondKeepsPage,
    Mistake::KeepsSpace,
    Mistake::KeepsSpaces,
    Mistake::KeepsAll,
    Mistake::KeepsGlobal,
    Mistake::KeepsStores,
    Mistake::KeepsStoresOfCode,
    Mistake::KeepsBank,
];

/// Both side by side.
struct Pair {
    t: Tlb,
    walks: Vec<Walk>,
    /// Pages of RAM that may have tags for stores.
    marked: Vec<u64>,
    space: u16,
    bank: Bank,
    mistake: Mistake,
}

const ALL: [Access; 3] = [Access::Read, Access::Write, Access::Exec];
const SPACES: [u16; 3] = [0, 7, 4095];
const BANKS: [Bank; 4] = [Bank::User, Bank::Supervisor, Bank::Strict, Bank::Checked];

/// Few pages, in places where they collide: in each level, across spaces, at the ends of regions.
fn address(r: &mut SmallRng) -> u64 {
    let far = [0, 0x80_0000, 0x4000_0000, 0x7fff_ffe0_0000, 0xffff_8000_0000_0000, 0xffff_8000_0080_0000];
    let near = [0, 0x1000, 0x1f_f000, 0x20_0000, 0x3f_f000];
    far.choose(r).unwrap() + near.choose(r).unwrap() + PAGE * r.random_range(0..2)
}

/// The mapping of an address, the same for all time in a space: so an answer that differs is wrong whenever it comes.
fn mapping(va: u64, space: u16) -> Fill {
    let global = va >> 63 != 0 && va & 0x80_0000 == 0;
    let of = if global { 1 } else { u64::from(space) + 2 };
    let kind = (va >> 22).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
    let size = [PageSize::Small, PageSize::Large, PageSize::Huge, PageSize::Small][kind as usize & 3];
    let offset = of << 40 | va & 0x7fff_f000;
    let whole = size != PageSize::Small && va >> 21 & 1 == 0;
    let user = va >> 63 == 0;
    Fill { va, offset, read: true, dirty: false, exec: kind & 4 != 0, global, user, size, whole }
}

impl Pair {
    fn new(mistake: Mistake) -> Self {
        Pair { t: Tlb::new(), walks: Vec::new(), marked: Vec::new(), space: 0, bank: Bank::Supervisor, mistake }
    }

    /// A walk, or what the second level knows, as a front end does both.
    fn access(&mut self, r: &mut SmallRng) -> Result<(), String> {
        let (va, access) = (address(r), *ALL.choose(r).unwrap());
        let bank = self.bank;
        let f = mapping(va, self.space);
        if access == Access::Exec && !f.exec || f.user && bank == Bank::Strict {
            return Ok(());
        }
        let recalled = self.t.recall(va, access);
        if let Some(at) = recalled {
            self.allowed(va, access, at, "recalls")?;
        } else {
            let fill = Fill { dirty: access == Access::Write, ..f };
            self.t.fill(&fill);
            self.walks.push(Walk { fill, bank, space: self.space });
        }
        let at = recalled.unwrap_or(f.offset);
        if access == Access::Write {
            self.marked.push(at & !PAGE_MASK);
        }
        self.t.install(va, at, access);
        match (self.hit(va, access), bank) {
            (None, Bank::Checked) | (Some(_), _) => Ok(()),
            _ => Err(format!("{access:?} of {va:#x} does not hit in {bank:?}")),
        }
    }

    fn hit(&self, va: u64, access: Access) -> Option<u64> {
        match access {
            Access::Read => self.t.read(va, 1),
            Access::Write => self.t.write(va, 1),
            Access::Exec => self.t.exec(va),
        }
    }

    fn allowed(&self, va: u64, access: Access, at: u64, what: &str) -> Result<(), String> {
        let (bank, space) = (self.bank, self.space);
        match self.walks.iter().any(|w| w.grants(va, bank, space, access) == Some(at)) {
            true => Ok(()),
            false => {
                Err(format!("{what} {at:#x} for {access:?} of {va:#x} in {bank:?} of {space}: no walk has found that"))
            }
        }
    }

    /// Nothing hits that may not.
    fn look(&mut self, r: &mut SmallRng) -> Result<(), String> {
        let va = address(r);
        for access in ALL {
            if let Some(at) = self.hit(va, access) {
                self.allowed(va, access, at, "hits")?;
                if access == Access::Write && !self.marked.contains(&at) {
                    return Err(format!("a store to {va:#x} hits {at:#x}, which was not marked since"));
                }
            }
        }
        if let Some(at) = self.t.read_wide(va, 8) {
            self.allowed(va, Access::Read, at, "hits by a large page")?;
        }
        for access in ALL {
            if let Some(at) = self.t.recall(va, access) {
                self.allowed(va, access, at, "recalls")?;
            }
        }
        Ok(())
    }

    fn flush_page(&mut self, va: u64) {
        let (first, second) = (self.t.first.clone(), self.t.second.clone());
        self.t.flush_page(va);
        match self.mistake {
            Mistake::FirstKeepsPage => self.t.first = first,
            Mistake::SecondKeepsPage => self.t.second = second,
            _ => {}
        }
        // What was cut from a large page goes with all of it.
        self.walks.retain(|w| !w.mapping(va));
    }

    /// Flushes by number: `keep` has the numbers stay what they were.
    fn renumbered(&mut self, keep: bool, global: bool, flush: impl FnOnce(&mut Tlb)) {
        let old = (self.t.asid, self.t.numbers.clone(), self.t.global);
        flush(&mut self.t);
        if keep {
            (self.t.asid, self.t.numbers) = (old.0, old.1);
        }
        if global {
            self.t.global = old.2;
        }
    }

    fn step(&mut self, r: &mut SmallRng) -> Result<(), String> {
        let mistake = self.mistake;
        match r.random_range(0..64) {
            0..=2 => self.flush_page(address(r)),
            3 => {
                let id = *SPACES.choose(r).unwrap();
                self.renumbered(mistake == Mistake::KeepsSpace, false, |t| t.flush_space(id));
                self.walks.retain(|w| w.fill.global || w.space != id);
            }
            4 => {
                self.renumbered(mistake == Mistake::KeepsSpaces, false, Tlb::flush_spaces);
                self.walks.retain(|w| w.fill.global);
            }
            5 if r.random_bool(0.5) => {
                self.renumbered(mistake == Mistake::KeepsAll, mistake == Mistake::KeepsGlobal, Tlb::flush_all);
                self.walks.clear();
            }
            6 => {
                if mistake != Mistake::KeepsStores {
                    self.t.drop_write_tags();
                }
                self.marked.clear();
            }
            7..=8 => {
                let Some(&at) = self.marked.choose(r) else { return Ok(()) };
                if mistake != Mistake::KeepsStoresOfCode {
                    self.t.protect(at + 5);
                }
                self.marked.retain(|m| *m != at);
            }
            9..=15 => {
                self.space = *SPACES.choose(r).unwrap();
                self.t.select_space(self.space);
            }
            16..=22 => {
                let bank = *BANKS.choose(r).unwrap();
                if mistake != Mistake::KeepsBank || bank != Bank::User {
                    self.t.select_bank(bank);
                }
                self.bank = bank;
            }
            23 if r.random_bool(0.01) => {
                let shape = self.t.shape();
                self.t.grow();
                if self.t.shape() != shape {
                    self.walks.clear();
                    self.marked.clear();
                }
            }
            _ => self.access(r)?,
        }
        for _ in 0..4 {
            self.look(r)?;
        }
        Ok(())
    }

    fn run(&mut self, seed: u64, steps: u32) -> Result<(), String> {
        let mut r = SmallRng::seed_from_u64(seed);
        (0..steps).try_for_each(|n| self.step(&mut r).map_err(|e| format!("step {n} of {seed}: {e}")))
    }
}

#[test]
fn nothing_hits_that_is_not_known_or_was_flushed() {
    for seed in 0..6 {
        Pair::new(Mistake::Nothing).run(seed, 20_000).unwrap();
    }
}

#[test]
fn every_mistake_is_noticed() {
    for mistake in MISTAKES {
        let found = (0..8).any(|seed| Pair::new(mistake).run(seed, 20_000).is_err());
        assert!(found, "{mistake:?}");
    }
}
