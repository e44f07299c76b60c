//! serial.

fn main() {}
