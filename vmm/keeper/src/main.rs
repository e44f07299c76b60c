//! keeper.

fn main() {}
