//! `bench-guest [NAMES]`: runs the rows of these names (of rows and groups, separated by commas) and prints a line for each.
//!
//! It runs in a guest and on the host alike; what it prints is on lines of their own, between BEGIN and END.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use bench_guest::{BEGIN, END, EXIT, Watch, rows, say};

/// Each row is timed so often; the first time pays for translation.
const REPETITIONS: usize = 3;

fn main() -> ExitCode {
    let names = env::args().nth(1).unwrap_or_default();
    if names == EXIT {
        return ExitCode::SUCCESS;
    }
    let rows = match rows(&names) {
        Ok(rows) => rows,
        Err(name) => {
            eprintln!("bench-guest: '{name}' is neither a row nor a group");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut said = say(BEGIN);
    for row in rows {
        let mut watch = Watch::new(REPETITIONS);
        if let Err(failure) = (row.run)(&mut watch) {
            eprintln!("\nbench-guest: {}: {failure}", row.name);
            return ExitCode::FAILURE;
        }
        said = said.and_then(|()| say(watch.line(row.name)));
    }
    match said.and_then(|()| say(format_args!("{END} {}", start.elapsed().as_nanos()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
