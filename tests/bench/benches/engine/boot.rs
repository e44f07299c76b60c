//! Boots of Debian's cloud kernel, process start to the line that /init prints, and the engine's own account of one.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::Console;
use bench::figures::{Goal, middle, resident_without};
use bench::machines::{self, CONFIGS, Config, Job};
use guest::MARKER;
use serde_json::Value;

use crate::Bench;

const LIMIT: Duration = Duration::from_secs(300);
/// For one that may hang, as some of QEMU's machines do here.
const QEMU_LIMIT: Duration = Duration::from_secs(90);

/// A configuration of QEMU, and how long its boots took until one did not come up.
pub struct Peer {
    /// Which.
    pub config: Config,
    times: Vec<f64>,
    hangs: bool,
}

impl Peer {
    fn all() -> Vec<Peer> {
        CONFIGS.map(|config| Peer { config, times: Vec::new(), hangs: false }).into()
    }

    /// Boots once more, unless it hung before.
    fn boot(&mut self, bench: &Bench, job: &Job<'_>) {
        if self.hangs {
            return;
        }
        match boot(&mut bench.qemu.command(self.config, job), QEMU_LIMIT) {
            Ok(time) => self.times.push(time),
            Err(error) => {
                println!("qemu {} is booted no more: {error}", self.config.name());
                self.hangs = true;
            }
        }
    }

    /// The median of its boots; not a number if there was none.
    pub fn median(&self) -> f64 {
        middle(self.times.clone())
    }
}

/// Seconds from the start of the process to the marker.
fn boot(command: &mut Command, limit: Duration) -> Result<f64> {
    Ok(Console::start(command)?.expect(MARKER, limit)?.as_secs_f64())
}

/// The same for Atoll, whose VM is looked at before it ends.
fn atoll<T>(bench: &Bench, job: &Job<'_>, look: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let mut console = Console::start(&mut machines::atoll(&bench.rig, "boot", job))?;
    let time = console.expect(MARKER, LIMIT)?.as_secs_f64();
    let seen = look()?;
    bench.rig.atoll(["kill", "boot"]);
    Ok((time, seen))
}

/// Boots once each configuration of QEMU whose guests can time themselves.
pub fn try_all(bench: &Bench) -> Vec<Peer> {
    let mut peers = Peer::all();
    peers.retain(|peer| peer.config.clock);
    peers.iter_mut().for_each(|peer| peer.boot(bench, &bench.boot_job(1, "")));
    peers
}

/// One setting: Atoll and all of QEMU's configurations in turn.
fn setting(bench: &Bench, job: &Job<'_>, goal: Goal) -> Result<Vec<Peer>> {
    let (mut ours, mut peers) = (Vec::new(), Peer::all());
    println!("\nboot to /init, {} vCPU, '{}'", job.cpus, job.words);
    let commands = peers.iter().map(|peer| bench.qemu.command(peer.config, job));
    for command in commands.chain([machines::atoll(&bench.rig, "boot", job)]) {
        println!("  {}", machines::shown(&command));
    }
    for _ in 0..bench.pairs {
        peers.iter_mut().for_each(|peer| peer.boot(bench, job));
        ours.push(atoll(bench, job, || Ok(()))?.0);
    }
    println!("seconds (median of {})", bench.pairs);
    for peer in &peers {
        let time = if peer.times.is_empty() { "-".into() } else { format!("{:.2}", peer.median()) };
        let count = if peer.hangs { format!("   ({} of {})", peer.times.len(), bench.pairs) } else { String::new() };
        println!("  qemu {:<24} {time:>8}{count}", peer.config.name());
    }
    // A median that is not a number is not the smaller one.
    let (ours, best) = (middle(ours), peers.iter().map(Peer::median).fold(f64::INFINITY, f64::min));
    let ratio = ours / best;
    println!("  {:<29} {ours:8.2}   atoll / best of qemu {ratio:.2} {}", "atoll", goal.verdict(ratio));
    Ok(peers)
}

/// All settings; what QEMU's configurations did in the first.
pub fn compare(bench: &Bench) -> Result<Vec<Peer>> {
    let peers = setting(bench, &bench.boot_job(1, ""), Goal::AtMost(0.9))?;
    setting(bench, &bench.boot_job(1, "mitigations=off"), Goal::AtMost(0.95))?;
    if bench.two {
        setting(bench, &bench.boot_job(2, ""), Goal::AtMost(0.9))?;
        setting(bench, &bench.boot_job(2, "mitigations=off"), Goal::AtMost(0.95))?;
    } else {
        println!("\nboot to /init, 2 vCPUs: atoll: one vCPU");
    }
    Ok(peers)
}

/// The sum of a counter over all vCPUs, as `atoll inspect` shows it.
fn counter(inspection: &Value, name: &str) -> Result<f64> {
    let counters = inspection["statistics"]["counters"].as_array().context("no counters")?;
    let found = counters.iter().filter(|counter| counter["name"].as_str().is_some_and(|own| own.ends_with(name)));
    let values: Vec<f64> = found.filter_map(|counter| counter["value"].as_f64()).collect();
    if values.is_empty() { Err(anyhow::anyhow!("no counter '{name}'")) } else { Ok(values.iter().sum()) }
}

/// Bytes that the engine holds beside the guest's RAM.
fn engine_memory(inspection: &Value) -> Result<f64> {
    let processes = inspection["processes"].as_array().context("no processes")?;
    let engine = processes.iter().find(|process| process["name"] == "engine").context("no engine")?;
    let path = format!("/proc/{}/smaps", engine["host_pid"]);
    let smaps = fs::read_to_string(&path).with_context(|| format!("{path} (as another user's, it needs root)"))?;
    Ok(resident_without(&smaps, "/memfd:ram") as f64)
}

/// What is to be said of the engine's own account.
#[derive(Clone, Copy)]
pub struct Account {
    /// What translation has cost.
    pub translation: bool,
    /// What it has in memory.
    pub memory_use: bool,
    /// What accesses to registers have cost: of devices, and of the local APIC.
    pub registers: bool,
}

impl Account {
    /// Whether there is anything.
    pub fn any(self) -> bool {
        self.translation || self.memory_use || self.registers
    }
}

/// What the engine has spent on translation and on registers, and what it holds, after a boot.
pub fn engine(bench: &Bench, asked: Account) -> Result<()> {
    let Account { translation, memory_use, registers } = asked;
    let mut rows: [Vec<f64>; 7] = Default::default();
    let job = bench.boot_job(1, "");
    println!("\nthe engine after a boot (median of {})", bench.pairs);
    println!("  {}", machines::shown(&machines::atoll(&bench.rig, "boot", &job)));
    for _ in 0..bench.pairs {
        let look = || {
            let inspection = bench.rig.json(&["inspect", "boot"]);
            let memory = if memory_use { engine_memory(&inspection)? } else { 0.0 };
            Ok((inspection, memory))
        };
        let (time, (inspection, memory)) = atoll(bench, &job, look)?;
        let get = |name: &str| counter(&inspection, name);
        let instructions = get("code-instructions")?;
        rows[0].push(get("translation-ns")? / instructions / 1000.0);
        rows[1].push(get("code-host-bytes")? / get("code-guest-bytes")?);
        rows[2].push(instructions);
        rows[3].push(memory / f64::from(1 << 20));
        rows[4].push(get("register-accesses")? + get("apic-accesses")?);
        rows[5].push(get("register-ns")? + get("apic-ns")?);
        rows[6].push((get("register-ns")? + get("apic-ns")?) / 1e9 / time * 100.0);
    }
    let [time, bytes, instructions, memory, accesses, register_ns, share] = rows.map(middle);
    if translation {
        println!("  translated instructions        {instructions:8.0}");
        println!("  translation, us / instruction  {time:8.2}   {}", Goal::AtMost(0.4).verdict(time));
        println!("  host bytes / guest byte        {bytes:8.2}   {}", Goal::AtMost(10.0).verdict(bytes));
    }
    if registers {
        println!("  register accesses              {accesses:8.0}");
        println!("  ms in them                     {:8.2}", register_ns / 1e6);
        println!("  % of the boot's time           {share:8.2}   {}", Goal::AtMost(5.0).verdict(share));
    }
    if memory_use {
        println!("  MiB in memory beside RAM       {memory:8.1}   {}", Goal::AtMost(100.0).verdict(memory));
        println!(
            "  (Rss of the engine's mappings but those of the RAM memfd; a page of code that is mapped twice counts twice)"
        );
    }
    Ok(())
}
