//! Tests only: a simulated kill -9. Code under test passes [`crate::may_die_here`] between its steps; a test says at
//! which pass the "process" dies, and the unwinding stops there like a kill, since nothing under test cleans up.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

struct Killed;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

pub(crate) fn point() {
    LEFT.with(|left| match left.get() {
        None => {}
        Some(0) => {
            left.set(None);
            resume_unwind(Box::new(Killed));
        }
        Some(n) => left.set(Some(n - 1)),
    });
}

/// Runs `body`, which dies at its `at`-th point; `Err` if it did. Other panics go through.
pub(crate) fn dies_at<R>(at: u64, body: impl FnOnce() -> R) -> Result<R, ()> {
    LEFT.with(|left| left.set(Some(at)));
    let result = catch_unwind(AssertUnwindSafe(body));
    LEFT.with(|left| left.set(None));
    result.map_err(|payload| {
        if !payload.is::<Killed>() {
            resume_unwind(payload);
        }
    })
}
