//! atoll.

fn main() {}
