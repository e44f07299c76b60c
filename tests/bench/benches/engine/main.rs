//! The engine against QEMU's TCG: the same kernel, initramfs, memory and number of vCPUs, in the same run, one after the other.
//!
//! `engine [NAME...]`: all, or these of `boot`, `translation`, `memory-use`, `registers`, and the groups and rows of `bench-guest`.
//! `ATOLL_BENCH_PAIRS` sets the number of pairs (5). Goals are said to be met or missed; the exit status is about broken runs
//! alone: a guest that does not come up, work that has another result, a clock that runs at another speed than the host's.
//!
//! | file | owns |
//! |---|---|
//! | `boot` | boots to /init, and what the engine says and holds after one |
//! | `rows` | the rows of `bench-guest`, in both guests and on the host |

mod boot;
mod rows;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use bench::machines::{self, Config, Job, Qemu};
use bench_guest::{Group, Row};
use guest::{Guest, Mode};
use rig::Rig;

/// What everything needs.
struct Bench {
    rig: Rig,
    guest: Guest,
    qemu: Qemu,
    pairs: usize,
    /// `bench-guest`, and an initramfs with it.
    program: PathBuf,
    initrd: PathBuf,
    /// Whether Atoll runs two vCPUs.
    two: bool,
}

/// What was asked for.
struct Asked {
    boot: bool,
    account: boot::Account,
    rows: Vec<&'static Row>,
}

impl Asked {
    fn of(names: &[String]) -> Result<Self> {
        let has = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
        let own = ["boot", "translation", "memory-use", "registers"];
        let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| !own.contains(name)).collect();
        let rows = match others.is_empty() {
            // All with no name at all, also the pairs.
            true if names.is_empty() => bench_guest::ROWS.iter().filter(|row| row.group != Group::Avx).collect(),
            true => Vec::new(),
            false => match bench_guest::rows(&others.join(",")) {
                Ok(rows) => rows,
                Err(name) => bail!("'{name}' is none of {}, and neither a group nor a row", own.join(", ")),
            },
        };
        let account = boot::Account { translation: has(own[1]), memory_use: has(own[2]), registers: has(own[3]) };
        Ok(Asked { boot: has(own[0]), account, rows })
    }
}

/// Puts `bench-guest` beside busybox.
fn initrd(rig: &Rig, guest: &Guest, program: &Path) -> Result<PathBuf> {
    let busybox = guest.initrd.with_file_name("busybox");
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let image = guest::initramfs_with(
        &read(&busybox)?,
        &guest::busybox_programs(&busybox)?,
        &[(guest::BENCH, &read(program)?)],
    );
    Ok(rig.file("bench.cpio", &image))
}

impl Bench {
    fn new() -> Result<Self> {
        let pairs = env::var("ATOLL_BENCH_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_usize).max(1);
        let (rig, guest, qemu) = (Rig::new("engine"), Guest::find()?, Qemu::find()?);
        let program = rig.binaries().join(guest::BENCH);
        let initrd = initrd(&rig, &guest, &program)?;
        let mut bench = Bench { rig, guest, qemu, pairs, program, initrd, two: false };
        bench.two = machines::has_vcpus(&bench.rig, &bench.boot_job(2, ""))?;
        Ok(bench)
    }

    /// A boot to a shell that nobody uses.
    fn boot_job(&self, cpus: u32, more: &str) -> Job<'_> {
        let words = format!("{} {more}", guest::COMMAND_LINE).trim_end().to_owned();
        Job { kernel: &self.guest.kernel, initrd: &self.guest.initrd, memory: "512M", cpus, cpu_model: None, words }
    }

    /// A run of rows.
    fn rows_job(&self, cpus: u32, rows: &[&Row]) -> Job<'_> {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        let words = format!("{} quiet atoll.rows={}", Mode::Bench.command_line(), names.join(","));
        let cpu_model = rows.iter().any(|row| row.group == Group::Avx).then_some("atoll-v3");
        Job { kernel: &self.guest.kernel, initrd: &self.initrd, memory: "1G", cpus, cpu_model, words }
    }

    /// What is compared, so that a figure can be had again; whoever runs commands prints them.
    fn print_options(&self) {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        println!(
            "host: {} x {}",
            std::thread::available_parallelism().map_or(0, usize::from),
            cpu.trim_start_matches([' ', '\t', ':'])
        );
        println!("guest: {}", self.guest.info.trim().replace('\n', ", "));
        println!("qemu: {}", self.qemu.version);
        println!("pairs: {}", self.pairs);
    }

    /// The machine for the rows: what booted fastest of those whose guests can time themselves.
    fn fastest(&self, known: Option<Vec<boot::Peer>>) -> Result<Config> {
        let peers = known.unwrap_or_else(|| boot::try_all(self)).into_iter();
        let timed = peers.filter(|peer| peer.config.clock && !peer.median().is_nan());
        let best = timed.min_by(|a, b| a.median().total_cmp(&b.median()));
        Ok(best.context("no configuration of QEMU boots this guest")?.config)
    }
}

fn main() -> Result<()> {
    // Cargo hands options on too.
    let names: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let asked = Asked::of(&names)?;
    let bench = Bench::new()?;
    bench.print_options();
    let mut boots = None;
    if asked.boot {
        boots = Some(boot::compare(&bench)?);
    }
    if asked.account.any() {
        boot::engine(&bench, asked.account)?;
    }
    if !asked.rows.is_empty() {
        let config = bench.fastest(boots)?;
        rows::compare(&bench, config, &asked.rows)?;
    }
    Ok(())
}
