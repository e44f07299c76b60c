//! The rows of the engine's benchmark: small pieces of work that are the same wherever they run.
//!
//! The idea: a row has a fixed amount of work, times it with the guest's own monotonic clock, and says what came out of it, so that
//! engines can be compared and none can have computed anything else. The program is one binary for guest and host, compiled for
//! plain x86-64 (SSE2): no row asks what the CPU offers, nor leaves a choice to the C library, but for those of `avx`, which run only
//! where they are asked for. Work and names are in one table,
//! [`ROWS`], which the bench reads too.
//!
//! | file | owns |
//! |---|---|
//! | `integer` | checksums, sorting, calls, an interpreter |
//! | `memory` | copying, setting, dependent reads |
//! | `avx` | vectors of 256 bits, fused multiply-add |
//! | `float` | scalar and packed floating point |
//! | `kernel` | system calls, processes, page faults |
//! | `code` | code that is written and run |
//! | `watch` | the clock, and the lines that are printed |

mod avx;
mod code;
mod float;
mod integer;
mod kernel;
mod memory;
mod watch;

pub use kernel::EXIT;
pub use watch::{BEGIN, END, Failure, LINE, Line, Watch, parse, say};

/// Rows that belong together, and have a goal together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Scalar code in registers and caches.
    Integer,
    /// Loads and stores, by SSE registers where they are many.
    Memory,
    /// `rep movsb` and `rep stosb`, as kernels and C libraries use them.
    Strings,
    /// Scalar and packed floating point.
    Float,
    /// What x86-64-v3 has beyond x86-64-v2.
    Avx,
    /// What a kernel does for a program.
    Kernel,
    /// Code that is written and run.
    Code,
    /// The same work by one process and by two at once.
    Pair,
}

impl Group {
    /// All of them, as they are printed.
    pub const ALL: [Group; 8] = [
        Group::Integer,
        Group::Memory,
        Group::Strings,
        Group::Float,
        Group::Avx,
        Group::Kernel,
        Group::Code,
        Group::Pair,
    ];

    /// As it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Group::Integer => "integer",
            Group::Memory => "memory",
            Group::Strings => "strings",
            Group::Float => "float",
            Group::Avx => "avx",
            Group::Kernel => "kernel",
            Group::Code => "code",
            Group::Pair => "pair",
        }
    }
}

/// One piece of work.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As it is asked for and printed.
    pub name: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// What it does, for people.
    pub what: &'static str,
    /// Prepares, and hands its work to the watch.
    pub run: fn(&mut Watch) -> Result<(), Failure>,
}

const fn row(name: &'static str, group: Group, what: &'static str, run: fn(&mut Watch) -> Result<(), Failure>) -> Row {
    Row { name, group, what, run }
}

/// All rows, in the order in which they run. Each takes 0.3 to 1 s for QEMU's TCG on a CPU of 2023.
pub const ROWS: &[Row] = &[
    row("crc32", Group::Integer, "CRC-32 by a table, a byte at a time", integer::crc32),
    row("matrix", Group::Integer, "product of two 96 x 96 matrices of 64-bit integers", integer::matrix),
    row("list", Group::Integer, "a linked list of 4096 nodes, summed up and turned around", integer::list),
    row("sort", Group::Integer, "the standard library's unstable sort of 65536 random integers", integer::sort),
    row("calls", Group::Integer, "Fibonacci numbers by recursion", integer::calls),
    row("interpreter", Group::Integer, "a bytecode loop with a jump table", integer::interpreter),
    row("sha256", Group::Integer, "SHA-256, scalar", integer::sha256),
    row("copy-cache", Group::Memory, "copy of 16 KiB by SSE registers", memory::copy_cache),
    row("copy-memory", Group::Memory, "copy of 64 MiB by SSE registers", memory::copy_memory),
    row("set-cache", Group::Memory, "set of 16 KiB by SSE registers", memory::set_cache),
    row("set-memory", Group::Memory, "set of 64 MiB by SSE registers", memory::set_memory),
    row("load-store", Group::Memory, "bytes, words and doublewords of 32 KiB, read and written", memory::load_store),
    row("chase-2m", Group::Memory, "random dependent reads over 2 MiB", memory::chase::<2>),
    row("chase-8m", Group::Memory, "random dependent reads over 8 MiB", memory::chase::<8>),
    row("chase-64m", Group::Memory, "random dependent reads over 64 MiB", memory::chase::<64>),
    row("chase-256m", Group::Memory, "random dependent reads over 256 MiB", memory::chase::<256>),
    row("rep-copy", Group::Strings, "copy of 16 KiB by rep movsb", memory::rep_copy),
    row("rep-set", Group::Strings, "set of 16 KiB by rep stosb", memory::rep_set),
    row("n-body", Group::Float, "five bodies, scalar f64", float::n_body),
    row("mandelbrot", Group::Float, "the Mandelbrot set, scalar f64", float::mandelbrot),
    row("vector", Group::Float, "a x + y over 4096 f32, four at a time (SSE)", float::vector),
    row("avx2", Group::Avx, "4096 integers mixed, eight at a time", avx::integers),
    row("fma", Group::Avx, "a x + y over 4096 f32, eight at a time and fused", avx::fused),
    row("getppid", Group::Kernel, "a system call that does nothing", kernel::getppid),
    row("pipe", Group::Kernel, "a byte to another process and back", kernel::pipe),
    row("fault", Group::Kernel, "mmap, a write to each page, munmap", kernel::fault),
    row("exec", Group::Kernel, "fork, exec of this program, wait", kernel::exec),
    row("switch", Group::Kernel, "two threads on one CPU that wake each other by futex", kernel::switch),
    row("rewrite", Group::Code, "a function's constant changed, and the function called", code::rewrite),
    row("jit", Group::Code, "a loop emitted, and run 100 times", code::jit),
    row("pair-one", Group::Pair, "SHA-256 in one process", kernel::pair::<1>),
    row("pair-two", Group::Pair, "SHA-256 in two processes at once", kernel::pair::<2>),
];

/// The rows that `names` (of rows and groups, separated by commas) ask for, in the order of [`ROWS`]; for none all but pairs, and
/// those that not every CPU can run.
///
/// # Errors
/// The first name that is neither.
pub fn rows(names: &str) -> Result<Vec<&'static Row>, String> {
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    let is = |row: &Row, name: &str| row.name == name || row.group.name() == name;
    if let Some(wrong) = names.iter().find(|name| !ROWS.iter().any(|row| is(row, name))) {
        return Err((*wrong).to_owned());
    }
    let asked = |row: &&Row| match names.is_empty() {
        true => !matches!(row.group, Group::Pair | Group::Avx),
        false => names.iter().any(|name| is(row, name)),
    };
    Ok(ROWS.iter().filter(asked).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_of_one_row_or_group() {
        let mut names: BTreeSet<&str> = Group::ALL.iter().map(|group| group.name()).collect();
        for row in ROWS {
            assert!(names.insert(row.name), "{} is twice there", row.name);
            assert!(row.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{}", row.name);
        }
    }

    #[test]
    fn rows_are_chosen_by_their_names_and_those_of_groups() {
        let names = |asked: &str| rows(asked).unwrap().iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names("jit,crc32"), ["crc32", "jit"]);
        assert_eq!(names("strings"), ["rep-copy", "rep-set"]);
        assert_eq!(names("pair"), ["pair-one", "pair-two"]);
        assert_eq!(names("avx"), ["avx2", "fma"]);
        assert_eq!(names("").len(), ROWS.len() - 4);
        assert_eq!(rows("jit,nothing").unwrap_err(), "nothing");
    }

    #[test]
    fn there_is_a_row_for_every_group() {
        for group in Group::ALL {
            assert!(ROWS.iter().any(|row| row.group == group), "{}", group.name());
        }
    }
}
