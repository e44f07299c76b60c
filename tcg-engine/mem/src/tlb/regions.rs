//! Sets of addresses.

/// A set of addresses by their upper bits that only a full flush empties, hashed: it may say that one is there which is not. So
/// many bits that this is rare while some thousand are there.
pub(super) struct Regions(Box<[u64]>);

impl Regions {
    const BITS: u32 = 18;

    pub fn new() -> Self {
        Regions(vec![0; (1 << Self::BITS) / 64].into())
    }

    const fn bit(key: u64) -> (usize, u64) {
        let h = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS);
        ((h / 64) as usize, 1 << (h % 64))
    }

    pub fn add(&mut self, key: u64) {
        let (word, bit) = Self::bit(key);
        self.0[word] |= bit;
    }

    pub fn has(&self, key: u64) -> bool {
        let (word, bit) = Self::bit(key);
        self.0[word] & bit != 0
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// A set from which addresses may be removed, hashed to lines of eight. A line that has no room left says of every address that it
/// is there, until all is cleared. So many lines that this is rare while some thousand are there.
pub(super) struct Exact(Box<[Line]>);

type Line = [u64; WAYS];

const WAYS: usize = 8;
/// None: an address has no such upper bits.
const NONE: u64 = u64::MAX;
/// All: in the first place of a line.
const ALL: u64 = u64::MAX - 1;

impl Exact {
    const LINES_LOG2: u32 = 9;

    pub fn new() -> Self {
        Exact(vec![[NONE; WAYS]; 1 << Self::LINES_LOG2].into())
    }

    const fn line(key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::LINES_LOG2)) as usize
    }

    pub fn add(&mut self, key: u64) {
        let line = &mut self.0[Self::line(key)];
        if line[0] == ALL || line.contains(&key) {
            return;
        }
        match line.iter_mut().find(|own| **own == NONE) {
            Some(own) => *own = key,
            None => line[0] = ALL,
        }
    }

    pub fn has(&self, key: u64) -> bool {
        let line = &self.0[Self::line(key)];
        line[0] == ALL || line.contains(&key)
    }

    /// It is not there any more, if it can be told from others.
    pub fn remove(&mut self, key: u64) {
        let line = &mut self.0[Self::line(key)];
        if line[0] != ALL {
            line.iter_mut().filter(|own| **own == key).for_each(|own| *own = NONE);
        }
    }

    pub fn clear(&mut self) {
        self.0.fill([NONE; WAYS]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_added_is_missed_but_what_was_removed() {
        let mut set = Exact::new();
        // Enough for lines to be full.
        let keys = || (0..40_000_u64).map(|n| n * 3 + (n << 30));
        keys().for_each(|key| set.add(key));
        assert!(keys().all(|key| set.has(key)));
        assert!(set.0.iter().any(|line| line[0] == ALL));
        keys().step_by(2).for_each(|key| set.remove(key));
        assert!(keys().skip(1).step_by(2).all(|key| set.has(key)));
        set.clear();
        assert!(!keys().any(|key| set.has(key)));
        set.add(7);
        set.add(7);
        set.remove(7);
        assert!(!set.has(7));
    }
}
