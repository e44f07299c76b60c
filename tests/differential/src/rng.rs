//! Random numbers that stay the same for ever: a replay line names a case by its seed.

/// A splitmix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A generator for a case: `seed` of the run, index of the form, index of the state. Any two of a form differ, as long as
    /// seeds have less than 32 bits and states less than 32.
    pub fn of(seed: u64, form: u64, state: u64) -> Rng {
        let mut r = Rng(seed ^ form << 20 ^ state << 52 ^ (state >> 12) << 32);
        let _ = r.next();
        r
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// True `n` times of 100.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of `list`, which is not empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}
