//! Each process of a VM fails in each way at each moment, and what follows is what the table says. With `ATOLL_LONG=1` every cell
//! has ten runs, otherwise there is a sample.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "these are the assertions of tests")]

mod board;
mod cells;
mod engine;
mod keeper;
mod loader;
mod save;
mod serial;
mod streamer;
mod supervisor;
mod tracer;
