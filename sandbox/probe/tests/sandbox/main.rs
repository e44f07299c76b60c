//! The sandbox, tested with the whole chain: a launcher, a keeper as pid 1, and islets that are the probe.

#![expect(clippy::expect_used, reason = "test code outside of test functions")]

mod audit;
mod ends;
mod escapes;
mod rig;
