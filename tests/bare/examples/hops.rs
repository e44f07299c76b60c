//! Boots a Linux kernel while all processes are replaced every now and then: saved, ended, started anew, loaded.
//!
//! `hops KERNEL INITRD [MILLISECONDS-BETWEEN [SECONDS]]`

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bare::{Guest, Vm};

/// Copies what the console has to standard output and to `seen`, until `until`.
fn relay(console: &mut std::os::unix::net::UnixStream, seen: &mut String, until: Instant) -> anyhow::Result<()> {
    loop {
        console.set_read_timeout(Some(Duration::from_millis(5)))?;
        let mut part = [0; 4096];
        match console.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                std::io::stdout().write_all(&part[..n])?;
                seen.push_str(&String::from_utf8_lossy(&part[..n]));
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        if Instant::now() >= until || seen.contains("ATOLL-INIT-REACHED") {
            return Ok(());
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: usize| args.get(n).map(String::as_str);
    let guest = Guest {
        kernel: Path::new(get(1).unwrap_or("vmlinuz")),
        initrd: get(2).map(Path::new),
        command_line: "console=ttyS0",
        memory: 256 << 20,
    };
    let between = Duration::from_millis(get(3).and_then(|s| s.parse().ok()).unwrap_or(100));
    let seconds = get(4).and_then(|s| s.parse().ok()).unwrap_or(60);
    let (start, mut hops) = (Instant::now(), 0);
    let mut vm = Vm::prepare(&guest)?;
    let mut seen = String::new();
    while start.elapsed() < Duration::from_secs(seconds) && !seen.contains("ATOLL-INIT-REACHED") {
        vm.run()?;
        relay(&mut vm.console, &mut seen, Instant::now() + between)?;
        let (next, mut old) = vm.hop()?;
        vm = next;
        hops += 1;
        // The rest, up to the end of the old serial port.
        relay(&mut old, &mut seen, Instant::now() + Duration::from_secs(5))?;
    }
    println!("\n== {hops} hops in {:.1} s", start.elapsed().as_secs_f64());
    anyhow::ensure!(seen.contains("ATOLL-INIT-REACHED"), "init was not reached");
    Ok(())
}
