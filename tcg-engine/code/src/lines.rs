//! Which 64-byte lines of which pages hold lifted code.
//!
//! It lies beside the environment of a vCPU, not in its cache: a store to a page with code asks here whether it has hit any,
//! so that data beside code costs a lookup and no invalidation.

use std::collections::HashMap;

use crate::cache::FastHash;

/// log2 of the line size: a page has 64 of them.
const LINE: u64 = 6;

/// The lines with code, by page.
#[derive(Debug, Default)]
pub struct Lines {
    pages: HashMap<u64, u64, FastHash>,
}

/// Lines that `len` bytes at page offset `at` touch; `len` is cut at the page's end.
fn mask(at: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let (first, last) = (at >> LINE, (at + len - 1).min(4095) >> LINE);
    (u64::MAX >> (63 - (last - first))) << first
}

impl Lines {
    /// Note code in `len` bytes at RAM offset `at`, within one page. Answers whether the page had none before.
    pub fn add(&mut self, at: u64, len: u64) -> bool {
        let bits = self.pages.entry(at / 4096).or_insert(0);
        let first = *bits == 0;
        *bits |= mask(at % 4096, len);
        first
    }

    /// Whether the page of RAM offset `at` has any.
    pub fn has_page(&self, at: u64) -> bool {
        self.pages.contains_key(&(at / 4096))
    }

    /// Whether `len` bytes at RAM offset `at` touch a line with code.
    pub fn hit(&self, at: u64, len: u64) -> bool {
        let mut at = at;
        let end = at.saturating_add(len);
        while at < end {
            let n = (4096 - at % 4096).min(end - at);
            if self.pages.get(&(at / 4096)).is_some_and(|bits| bits & mask(at % 4096, n) != 0) {
                return true;
            }
            at += n;
        }
        false
    }

    /// Forget the page of RAM offset `at`: no block is left on it.
    pub fn remove(&mut self, at: u64) {
        self.pages.remove(&(at / 4096));
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.pages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_64_bytes_within_their_page() {
        let mut l = Lines::default();
        assert!(l.add(0x1040, 64) && !l.add(0x10ff, 2));
        for (at, len, hit) in [
            (0x1000, 64, false),
            (0x103f, 1, false),
            (0x103f, 2, true),
            (0x107f, 1, true),
            (0x1080, 0x40, false),
            (0x10c0, 1, true),
            (0x1100, 1, true),
            (0x1140, 0x1000, false),
            (0x0fff, 1, false),
            (0x0f00, 0x200, true),
            (0x1040, 0, false),
            (u64::MAX, 8, false),
        ] {
            assert_eq!(l.hit(at, len), hit, "{at:#x}+{len:#x}");
        }
        assert!(l.has_page(0x1fff));
        l.remove(0x1fff);
        assert!(!l.hit(0x1000, 0x1000) && !l.has_page(0x1000));
    }
}
