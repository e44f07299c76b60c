//! How much emitted code may still run before it is left, which others can cut short.

use std::sync::atomic::{AtomicI32, Ordering};

/// Instructions that emitted code may still run, in units of [`crate::T1::run`]. The code of each block takes its own off with
/// one instruction that is not atomic, so that only the vCPU's thread may count; another thread can take [`CUT`] off. In the
/// unlikely case that such a cut falls between the load and the store of that one instruction, it is lost: who waits for it cuts
/// again.
#[derive(Debug, Default)]
pub struct Budget(AtomicI32);

/// More than any budget.
const CUT: i32 = 1 << 30;

impl Budget {
    /// Have the vCPU leave emitted code at the head of the next block, if it is there. What it is to do then, it has been told before.
    pub fn cut_short(&self) {
        let now = self.0.load(Ordering::SeqCst);
        if now > -CUT / 2 {
            let _ = self.0.compare_exchange(now, now - CUT, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// A new budget. Whoever cuts it after this is obeyed, whoever has done so before has left word of what he wants: look after
    /// this.
    pub(crate) fn set(&self, instructions: i32) {
        self.0.swap(instructions, Ordering::SeqCst);
    }

    /// What is left, cut short or not. Negative if more was used up.
    pub(crate) fn left(&self) -> i32 {
        let now = self.0.load(Ordering::Relaxed);
        if now < -CUT / 2 { now + CUT } else { now }
    }

    /// Take `cost` off. By the vCPU's thread.
    pub(crate) fn charge(&self, cost: u32) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_sub(cost.cast_signed()), Ordering::Relaxed);
    }

    /// Where it lies, for emitted code.
    pub(crate) fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_ends_it_and_what_was_left_is_known() {
        let b = Budget::default();
        for left in [1 << 20, 7, 0, -4096] {
            b.set(left);
            b.charge(5);
            for _ in 0..3 {
                b.cut_short();
                assert!(b.0.load(Ordering::Relaxed) < 0);
            }
            b.charge(1 << 17);
            assert_eq!(b.left(), left - 5 - (1 << 17));
        }
    }
}
