//! What a VM promises that is saved, restored, and put to sleep: each test is one promise, with figures on its output. With
//! `ATOLL_LONG=1` counts are full.

#![expect(clippy::unwrap_used, reason = "these are the assertions of tests")]

mod damage;
mod debian;
mod edit;
mod golden;
mod look;
mod run_states;
mod save;
