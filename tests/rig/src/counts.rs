//! How much a test does: all of it, or the sample of the default run; and random numbers that can be had again.

use std::env;

use rand::rngs::{OsRng, StdRng};
use rand::{SeedableRng, TryRngCore};

/// Whether the full counts are asked for (`./dev test --long chaos`) and not samples.
#[must_use]
pub fn long() -> bool {
    env::var_os("ATOLL_LONG").is_some()
}

/// A count: in full, or the sample of the default run.
#[must_use]
pub fn count(full: usize, sample: usize) -> usize {
    if long() { full } else { sample }
}

/// Random numbers. The seed is printed; `ATOLL_SEED` gives the same again.
#[must_use]
pub fn random() -> StdRng {
    let given = env::var("ATOLL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| OsRng.try_next_u64().unwrap());
    println!("ATOLL_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
