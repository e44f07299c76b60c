//! Programs run on a test machine, by subject.

#![expect(missing_docs, reason = "tests")]

pub mod harness;

mod integer;
