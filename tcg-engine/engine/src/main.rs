//! engine.

fn main() {}
