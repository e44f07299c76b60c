//! What is emitted decodes back to what was meant, and does what the interpreter does.

mod asm;
mod bits;
mod blocks;
mod parts;
mod random;
mod vectors;
mod wide;
