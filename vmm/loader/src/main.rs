//! loader.

fn main() {}
