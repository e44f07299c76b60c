//! Sets of addresses that only a full flush empties.

/// A set of addresses by their upper bits, hashed: it may say that one is there which is not. So many bits that this is rare
/// while some thousand are there.
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
