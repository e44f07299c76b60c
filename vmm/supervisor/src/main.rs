//! supervisor.

fn main() {}
