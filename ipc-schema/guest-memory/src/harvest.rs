//! The harvest handshake: how whoever copies a VM's memory learns which pages to copy while others go on writing them.
//!
//! The rule to keep, once all vCPUs have acknowledged: **a page whose content is not in the copy has its bit in `D` or `B`.** A
//! vCPU marks a page once and then writes it by a write tag without marking it again, so taking marks away is only allowed if
//! the tags go too, and if everything that was written by them is in what is copied. Hence the order of a round: collect `D`
//! into `B`; raise the number; wait until every vCPU has dropped its tags and said so; only then copy the pages of `B`. A store
//! before the acknowledgement is in the copy, one after it has found no tag and has set the bit again. A device takes no part
//! in the handshake, so it marks after it has written: if its mark was collected, its data is there to be copied.
//!
//! This file is the protocol and nothing else, generic over the atomics, so that a model checker runs the very code that the
//! processes run (`model.rs`). `docs/dirty-tracking.md` says more.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::mutants::{Mutant, on};

/// An atomic word of the protocol; the memory orders are part of it.
pub trait Atomic {
    /// Acquires.
    fn load(&self) -> u64;
    /// Releases.
    fn store(&self, value: u64);
    /// Acquires and releases.
    fn swap(&self, value: u64) -> u64;
    /// Acquires and releases.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Acquires and releases.
    fn fetch_and(&self, bits: u64) -> u64;
    /// Acquires and releases; wraps.
    fn fetch_add(&self, value: u64) -> u64;
    /// Sequentially consistent.
    fn fence();
}

impl Atomic for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Acquire)
    }
    #[inline(always)]
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Release);
    }
    #[inline(always)]
    fn swap(&self, value: u64) -> u64 {
        AtomicU64::swap(self, value, Ordering::AcqRel)
    }
    #[inline(always)]
    fn fetch_or(&self, bits: u64) -> u64 {
        AtomicU64::fetch_or(self, bits, Ordering::AcqRel)
    }
    #[inline(always)]
    fn fetch_and(&self, bits: u64) -> u64 {
        AtomicU64::fetch_and(self, bits, Ordering::AcqRel)
    }
    #[inline(always)]
    fn fetch_add(&self, value: u64) -> u64 {
        AtomicU64::fetch_add(self, value, Ordering::AcqRel)
    }
    #[inline(always)]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// What a vCPU does, as far as a harvest is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum VcpuState {
    /// Not executing (paused, halted, or waiting for its start), and will read the harvest number before it does. Counts as
    /// acknowledged.
    Parked = 0,
    /// Executing: a harvest waits for its acknowledgement. So does one that sits in a page fault of the host: it may be in the
    /// middle of a store that has been checked.
    Running = 1,
    /// Waits for the answer to a register access. Counts as parked; reads the harvest number on return.
    Blocked = 2,
}

/// One vCPU's line in the `dirty` memfd: the harvest that it has acknowledged, and what it does. Written by that vCPU alone.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct VcpuLine<A = AtomicU64> {
    /// The last harvest number for which this vCPU has dropped every write tag.
    ack: A,
    state: A,
}

impl<A: Atomic> VcpuLine<A> {
    /// What the vCPU does. An unknown value counts as running, which can only make a harvest wait.
    pub fn state(&self) -> VcpuState {
        match self.state.load() {
            0 => VcpuState::Parked,
            2 => VcpuState::Blocked,
            _ => VcpuState::Running,
        }
    }

    /// Whether a harvest of number `n` need not wait for it.
    fn has_acked(&self, n: u64) -> bool {
        // What a vCPU that does not run has stored is seen with its state, what a running one has, with its number.
        self.state() != VcpuState::Running || self.ack.load().wrapping_sub(n).cast_signed() >= 0
    }
}

/// A vCPU's end of the handshake. `seen` is the vCPU's own memory of the last number that it has acknowledged: the line could
/// be written by others.
#[derive(Debug)]
pub struct VcpuEnd<'a, A = AtomicU64> {
    /// The harvest number.
    pub harvest: &'a A,
    /// The vCPU's line.
    pub line: &'a VcpuLine<A>,
}

impl<A: Atomic> VcpuEnd<'_, A> {
    /// Stop executing. All stores that were checked have been made.
    #[inline]
    pub fn leave(&self, to: VcpuState) {
        self.line.state.swap(to as u64);
    }

    /// Execute from now on. The vCPU is at a safepoint: [`VcpuEnd::safepoint`] comes before its next store.
    #[inline]
    pub fn enter(&self) {
        self.line.state.swap(VcpuState::Running as u64);
        // Either a harvester sees that this vCPU runs, or this vCPU sees the new number.
        if !on(Mutant::NoFence) {
            A::fence();
        }
    }

    /// Between two guest instructions, and after [`VcpuEnd::enter`]: if there was a harvest, `drop_tags` drops every write tag,
    /// and whatever else has been found out about pages; then the harvest is acknowledged. Never between the check of a tag and
    /// its store.
    #[inline(always)]
    pub fn safepoint(&self, seen: &mut u64, drop_tags: impl FnOnce()) {
        let now = self.harvest.load();
        if now != *seen {
            if !on(Mutant::KeptTags) {
                drop_tags();
            }
            *seen = now;
            self.line.ack.store(now);
        }
    }
}

/// Record that a page was written, or is about to be by a vCPU, which makes its stores before its next safepoint. Always a
/// read-modify-write: a plain test could be satisfied before the data is visible, and the page would be lost.
#[inline(always)]
pub fn mark<A: Atomic>(word: &A, bits: u64) {
    word.fetch_or(bits);
}

/// How whoever is no vCPU writes: the data first, the mark then.
#[inline]
pub fn write_then_mark<R>(write: impl FnOnce() -> R, mark: impl FnOnce()) -> R {
    if on(Mutant::MarkFirst) {
        mark();
        return write();
    }
    let result = write();
    mark();
    result
}

/// Move the bits of one word of `D` into `B`. At every moment each is in one of the two, so a harvester may be killed here.
#[inline]
pub fn collect<A: Atomic>(d: &A, b: &A) {
    let found = d.load();
    if found != 0 {
        b.fetch_or(found);
        // A bit that is set again meanwhile goes away with this: its data, acquired here, is copied with the others.
        d.fetch_and(!found);
    }
}

/// A round came to no end: the vCPU that had not acknowledged when the harvester gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("vCPU {0} has not acknowledged a harvest of memory; it may wait for a page that has not come")]
pub struct Silent(pub usize);

/// A harvester's end of the handshake. There is at most one harvester.
#[derive(Debug)]
pub struct Rounds<'a, A = AtomicU64> {
    /// The harvest number.
    pub harvest: &'a A,
    /// The lines of all vCPUs; those of vCPUs that do not exist are parked.
    pub vcpus: &'a [VcpuLine<A>],
}

impl<A: Atomic> Rounds<'_, A> {
    /// One round: `collect` moves `D` into `B`, the number is raised, `ring` has the vCPUs look up, and `wait` is called for as
    /// long as one has not acknowledged; it says no to give up. Then the pages of `B` may be copied. Answers the number.
    ///
    /// # Errors
    /// [`Silent`] if `wait` gave up. `B` may not be copied then; the next round goes on with it.
    pub fn round(
        &self,
        mut collect: impl FnMut(),
        ring: impl FnOnce(),
        mut wait: impl FnMut() -> bool,
    ) -> Result<u64, Silent> {
        if !on(Mutant::SwapAfterAck) {
            collect();
        }
        let n = self.harvest.fetch_add(1).wrapping_add(1);
        // See `VcpuEnd::enter`.
        if !on(Mutant::NoFenceInRound) {
            A::fence();
        }
        ring();
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            while !vcpu.has_acked(n) && !on(Mutant::NoWait) {
                if !wait() {
                    return Err(Silent(index));
                }
            }
        }
        if on(Mutant::SwapAfterAck) {
            collect();
        }
        Ok(n)
    }
}

#[cfg(test)]
#[path = "model.rs"]
pub(crate) mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A word of a process that is killed when `left` operations have been done.
    struct Dying<'a>(AtomicU64, &'a Cell<u32>);

    impl Dying<'_> {
        fn step(&self) {
            assert!(self.1.get() > 0, "killed");
            self.1.set(self.1.get() - 1);
        }
    }

    impl Atomic for Dying<'_> {
        fn load(&self) -> u64 {
            self.step();
            Atomic::load(&self.0)
        }
        fn store(&self, value: u64) {
            self.step();
            Atomic::store(&self.0, value);
        }
        fn swap(&self, value: u64) -> u64 {
            self.step();
            Atomic::swap(&self.0, value)
        }
        fn fetch_or(&self, bits: u64) -> u64 {
            self.step();
            Atomic::fetch_or(&self.0, bits)
        }
        fn fetch_and(&self, bits: u64) -> u64 {
            self.step();
            Atomic::fetch_and(&self.0, bits)
        }
        fn fetch_add(&self, value: u64) -> u64 {
            self.step();
            Atomic::fetch_add(&self.0, value)
        }
        fn fence() {}
    }

    #[test]
    fn a_harvester_that_is_killed_anywhere_loses_no_page() {
        for steps in 0..=3 {
            let left = Cell::new(steps);
            let (d, b) = (Dying(AtomicU64::new(0b1010), &left), Dying(AtomicU64::new(0b0110), &left));
            let died = catch_unwind(AssertUnwindSafe(|| collect(&d, &b))).is_err();
            assert_eq!(died, steps < 3);
            let now = Atomic::load(&d.0) | Atomic::load(&b.0);
            assert_eq!(now, 0b1110, "killed after {steps}");
            left.set(3);
            collect(&d, &b);
            assert_eq!((Atomic::load(&d.0), Atomic::load(&b.0)), (0, 0b1110));
        }
    }
}
