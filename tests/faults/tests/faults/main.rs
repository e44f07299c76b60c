//! Each process of a VM fails in each way at each moment, and what follows is what the table says. With `ATOLL_LONG=1` every cell
//! has ten runs, otherwise there is a sample.

mod board;
mod engine;
mod keeper;
mod loader;
mod serial;
mod streamer;
mod supervisor;
