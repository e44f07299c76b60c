//! How misses of the TLB end. Each is counted once, by what answered it: another level of the TLB is another row.

/// What answered an access that the first level did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    /// An entry of another bank or address space that is valid here too.
    Recalled,
    /// A walk of the page tables that led to RAM or ROM.
    Walked,
    /// A walk that ended in a page fault of the guest.
    Faulted,
    /// A walk that led to no memory: what is there, if anything, is a device's.
    Device,
}

/// Counters, a row for each [`Miss`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Misses([u64; Miss::Device as usize + 1]);

impl Misses {
    #[inline]
    pub(crate) fn count(&mut self, miss: Miss) {
        self.0[miss as usize] += 1;
    }

    pub(crate) fn of(&self, miss: Miss) -> u64 {
        self.0[miss as usize]
    }
}
