//! Boot of Debian's amd64 cloud kernel to /init, one vCPU and 512 MiB, process start to marker: Atoll and QEMU's TCG in turn.
//!
//! `ATOLL_PAIRS` sets the number of pairs (3). Without QEMU only Atoll's figure is printed, and that it is missing is said.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::{Console, median, program};
use guest::{Guest, MARKER};

const LIMIT: Duration = Duration::from_secs(300);
const MEMORY: &str = "512M";

fn atoll(bin: &Path, guest: &Guest) -> Result<Duration> {
    let mut command = Command::new(bin.join("atoll"));
    command.args(["run", "--memory", MEMORY, "--cpus", "1", "--cmdline", "console=ttyS0 panic=-1", "--kernel"]);
    command.arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
    Console::start(&mut command)?.expect(MARKER, LIMIT)
}

fn qemu(qemu: &Path, guest: &Guest) -> Result<Duration> {
    let mut command = Command::new(qemu);
    command.args([
        "-accel",
        "tcg",
        "-M",
        "q35",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        MEMORY,
        "-display",
        "none",
        "-nodefaults",
    ]);
    command.args(["-no-reboot", "-serial", "stdio", "-append", "console=ttyS0 panic=-1", "-kernel"]);
    command.arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
    Console::start(&mut command)?.expect(MARKER, LIMIT)
}

fn main() -> Result<()> {
    let bin = std::env::var_os("ATOLL_BIN").context("ATOLL_BIN names the folder of the binaries; use ./dev bench")?;
    let guest = Guest::find()?;
    let peer = program("qemu-system-x86_64");
    let pairs = std::env::var("ATOLL_PAIRS").ok().and_then(|p| p.parse().ok()).unwrap_or(3);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 1..=pairs {
        ours.push(atoll(Path::new(&bin), &guest)?);
        if let Some(peer) = &peer {
            theirs.push(qemu(peer, &guest)?);
        }
        println!("pair {n}: atoll {:?}, qemu {:?}", ours.last(), theirs.last());
    }
    let (a, q) = (median(&mut ours), median(&mut theirs));
    println!("boot to /init, 1 vCPU, {MEMORY}: atoll T0 {a:.2} s (median of {pairs})");
    match peer {
        Some(_) => println!("qemu tcg q35 max {q:.2} s; atoll / qemu = {:.2}", a / q),
        None => println!("qemu-system-x86_64 is not installed (Debian: qemu-system-x86): no ratio"),
    }
    Ok(())
}
