//! Programs run on a test machine, by subject.
#![expect(missing_docs, reason = "tests")]

pub mod bounds;
mod harness;
mod harvest;

mod areas;
mod bases;
mod crowd;
mod exceptions;
mod garbage;
mod integer;
mod level3;
mod loops;
mod memos;
mod paging;
mod parts;
mod places;
mod protected;
mod random;
mod real;
mod relative;
mod returns;
mod rounds;
mod several;
mod state;
mod system;
mod tiers;
