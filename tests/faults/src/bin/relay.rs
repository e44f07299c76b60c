//! What the tests of the tracer trace: it reads a byte and writes it, again and again. That is two system calls for a byte, so what
//! a tracer counts and where it strikes can be told from what comes out.

use std::io::{stdin, stdout};

use nix::unistd::{read, write};

fn main() -> nix::Result<()> {
    let mut byte = [0];
    while read(stdin(), &mut byte)? > 0 {
        write(stdout(), &byte)?;
    }
    Ok(())
}
