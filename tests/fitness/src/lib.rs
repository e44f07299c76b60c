//! Fitness of the IR for architectures whose front ends are still to come: lifted guest bytes in T0 against `qemu-user`.
//!
//! Owns the two sides of the comparison: [`gdb`], which sets up and single-steps a stopped `qemu-user` process, and [`bench`],
//! a flat memory that T0 runs on. Both see the same code address and the same data pages.

pub mod bench;
pub mod gdb;
pub mod program;

/// Where test instructions stand.
pub const CODE: u64 = 0x40_0000;
/// Bytes of the code page.
pub const CODE_LEN: u64 = 0x1_0000;
/// Where test data stands: two pages, nothing behind them.
pub const DATA: u64 = 0x50_0000;
/// Bytes of test data.
pub const DATA_LEN: u64 = 0x2000;

/// How many random states an encoding is tried with: 1,000 in the long run, fewer in the short one.
pub fn states() -> usize {
    if std::env::var_os("ATOLL_LONG").is_some() { 1000 } else { 60 }
}

/// The `qemu-user` binary for `arch`.
///
/// Without it the comparison cannot be made: `None` with a printed reason, so that the caller skips, or a panic if the run
/// must not skip anything (`ATOLL_REQUIRE_QEMU` is set, or `ATOLL_LONG`, which asks for the full comparison).
pub fn qemu(arch: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in [format!("qemu-{arch}-static"), format!("qemu-{arch}")] {
        if let Some(p) = std::env::split_paths(&path).map(|d| d.join(&name)).find(|p| p.is_file()) {
            return Some(p);
        }
    }
    let why = format!("no qemu-{arch}-static or qemu-{arch} in PATH (Debian: package qemu-user-static)");
    let required = ["ATOLL_REQUIRE_QEMU", "ATOLL_LONG"].into_iter().find(|name| std::env::var_os(name).is_some());
    assert!(required.is_none(), "{} is set, but there is {why}", required.unwrap_or_default());
    println!("skipped: {why}");
    None
}
