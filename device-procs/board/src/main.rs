//! board.

fn main() {}
