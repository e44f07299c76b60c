//! Boots a Linux kernel without keeper and supervisor and relays its console: a debugger's tool.
//!
//! `boot KERNEL [INITRD [COMMAND-LINE [SECONDS]]]`

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bare::{Guest, Vm};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: usize| args.get(n).map(String::as_str);
    let guest = Guest {
        kernel: Path::new(get(1).unwrap_or("vmlinuz")),
        initrd: get(2).map(Path::new),
        command_line: get(3).unwrap_or("console=ttyS0"),
        memory: 512 << 20,
    };
    let seconds = get(4).and_then(|s| s.parse().ok()).unwrap_or(120);
    let mut vm = Vm::prepare(&guest)?;
    vm.run()?;
    let start = Instant::now();
    vm.console.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut seen = String::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let mut part = [0; 4096];
        match vm.console.read(&mut part) {
            Ok(0) => break,
            Ok(n) => {
                std::io::stdout().write_all(&part[..n])?;
                std::io::stdout().flush()?;
                seen.push_str(&String::from_utf8_lossy(&part[..n]));
                if seen.contains("ATOLL-INIT-REACHED") {
                    println!("\n== marker after {:.1} s", start.elapsed().as_secs_f64());
                    break;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    let counters = vm.counters()?;
    for (name, value) in &counters {
        println!("{value:>14}  {name}");
    }
    let sync: u64 = counters.iter().filter(|(n, _)| n.starts_with("sync")).map(|(_, v)| v).sum();
    println!("{sync} synchronous register round trips");
    Ok(())
}
