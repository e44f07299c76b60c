//! `atoll top`: what a VM does at the moment, in rates: its guest, its engine, and each of its processes.
//!
//! The idea: a VM counts from its start and knows no rates. Two looks and the time between them are enough for all of them, and
//! the host knows what each process takes.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use control::client::Client;
use control::types::Inspection;
use serde::Serialize;

use crate::commands::inspect::{add_host_pids, grouped, seconds};
use crate::commands::{plain, print, table};
use crate::directory::Place;
use crate::failure::{Result, problem};
use crate::{remote, size};

/// Units of the processor times in `/proc/PID/stat` (proc(5): USER_HZ, which x86-64 has always had at 100).
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a page, in which `/proc/PID/stat` counts memory.
const PAGE: u64 = 4096;
/// Bounds of `--interval`, in seconds.
const INTERVAL: std::ops::RangeInclusive<f64> = 0.01..=3600.0;
/// Puts the cursor home and clears what is behind it.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// Time between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// End after so many rates were shown [default: never]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// JSON for programs, one line for each look
    #[arg(long)]
    json: bool,
}

/// What a process has taken since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    /// Seconds of processor time.
    cpu: f64,
    /// Bytes in memory.
    resident: u64,
}

/// One look.
struct Look {
    at: Instant,
    inspection: Inspection,
    /// By host pid.
    taken: HashMap<i32, Taken>,
}

/// What lies between two looks.
#[derive(Debug, Serialize)]
struct Rates {
    name: String,
    status: String,
    guest_nanoseconds: u64,
    instructions_per_second: f64,
    /// Of the time of one processor: 200 is two vCPUs that run.
    vcpu_percent: f64,
    processes: Vec<ProcessRate>,
    counters: Vec<CounterRate>,
}

#[derive(Debug, Serialize)]
struct ProcessRate {
    name: String,
    host_pid: i32,
    cpu_percent: f64,
    resident_bytes: u64,
}

/// A counter of the engine. Of one that counts nanoseconds, a second is 10^9.
#[derive(Debug, Serialize)]
struct CounterRate {
    name: String,
    total: u64,
    per_second: f64,
}

pub fn top(arguments: &Arguments) -> Result<()> {
    if !INTERVAL.contains(&arguments.interval) {
        let what = format!("--interval cannot be {}", arguments.interval);
        return Err(problem("top.interval", what, "it is not from 0.01 to 3600 seconds", "leave it out"));
    }
    let place = remote::find(&arguments.name)?;
    let interval = Duration::from_secs_f64(arguments.interval);
    let clear = io::stdout().is_terminal();
    let mut before = look(&place)?;
    let mut shown = 0;
    while arguments.count.is_none_or(|count| shown < count) {
        std::thread::sleep(interval);
        let now = look(&place)?;
        let rates = rates(&before, &now);
        if arguments.json {
            let failed = |error| problem("command.output", "the output cannot be made", error, "");
            print(&(serde_json::to_string(&rates).map_err(failed)? + "\n"))?;
        } else {
            let text = describe(&rates);
            print(&if clear { format!("{CLEAR}{text}") } else { format!("{text}\n") })?;
        }
        before = now;
        shown += 1;
    }
    Ok(())
}

fn look(place: &Place) -> Result<Look> {
    let mut inspection = remote::call(place, async |client: &Client| client.inspect().await)?;
    let at = Instant::now();
    add_host_pids(&mut inspection, place);
    let pids = inspection.processes.iter().map(|process| process.host_pid).filter(|pid| *pid > 0);
    let stat = |pid: i32| Some((pid, taken(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    let taken = pids.filter_map(stat).collect();
    Ok(Look { at, inspection, taken })
}

/// Reads a `/proc/PID/stat` (proc(5): fields 14, 15 and 24; the second one, a name in brackets, may hold anything).
fn taken(stat: &str) -> Option<Taken> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(Taken { cpu: ticks as f64 / TICKS_PER_SECOND, resident: field(24)? * PAGE })
}

fn rates(before: &Look, now: &Look) -> Rates {
    let time = now.at.duration_since(before.at).as_secs_f64();
    // A VM that was restored under the same name begins anew.
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / time;
    let (old, new) = (&before.inspection.statistics, &now.inspection.statistics);
    let processes = now.inspection.processes.iter().filter_map(|process| {
        let taken = now.taken.get(&process.host_pid)?;
        let since = before.taken.get(&process.host_pid).copied().unwrap_or_default();
        Some(ProcessRate {
            name: process.name.clone(),
            host_pid: process.host_pid,
            cpu_percent: (taken.cpu - since.cpu).max(0.0) / time * 100.0,
            resident_bytes: taken.resident,
        })
    });
    let counters = new.counters.iter().map(|counter| {
        let since = old.counters.iter().find(|old| old.name == counter.name).map_or(0, |old| old.value);
        CounterRate { name: counter.name.clone(), total: counter.value, per_second: rate(since, counter.value) }
    });
    Rates {
        name: now.inspection.name.clone(),
        status: now.inspection.state.status.to_string(),
        guest_nanoseconds: now.inspection.guest_nanoseconds,
        instructions_per_second: rate(old.instructions, new.instructions),
        vcpu_percent: percent(rate(old.run_nanoseconds, new.run_nanoseconds)),
        processes: processes.collect(),
        counters: counters.collect(),
    }
}

/// Nanoseconds in a second, as a part of it.
fn percent(nanoseconds: f64) -> f64 {
    nanoseconds / 1e7
}

fn describe(rates: &Rates) -> String {
    let mut text = String::new();
    let facts = [
        ("name", plain(&rates.name)),
        ("state", plain(&rates.status)),
        ("guest clock", seconds(rates.guest_nanoseconds)),
        ("instructions/s", grouped(rates.instructions_per_second as u64)),
        ("vCPUs run", format!("{:.1} %", rates.vcpu_percent)),
    ];
    let facts: Vec<_> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    text.push_str(&table(&facts));
    let mut rows = vec![["PROCESS", "PID", "CPU", "MEMORY"].map(str::to_owned).to_vec()];
    for process in &rates.processes {
        rows.push(vec![
            plain(&process.name),
            process.host_pid.to_string(),
            format!("{:.1} %", process.cpu_percent),
            size::show(process.resident_bytes),
        ]);
    }
    let _ = write!(text, "\n{}", table(&rows));
    let mut rows = vec![["ENGINE", "PER SECOND", "TOTAL"].map(str::to_owned).to_vec()];
    for counter in &rates.counters {
        let (name, per_second) = match counter.name.strip_suffix("-ns") {
            // A share of the time says more.
            Some(name) => (format!("{name}-time"), format!("{:.2} %", percent(counter.per_second))),
            None => (counter.name.clone(), grouped(counter.per_second as u64)),
        };
        let total = if counter.name.ends_with("-ns") { seconds(counter.total) } else { grouped(counter.total) };
        rows.push(vec![plain(&name), per_second, total]);
    }
    let _ = write!(text, "\n{}", table(&rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_taken() {
        // A name may look like anything.
        let stat = "42 (a) 9 (b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 3 0 99 1000000 25 18446744073709551615";
        assert_eq!(taken(stat), Some(Taken { cpu: 2.0, resident: 25 * 4096 }));
        assert_eq!(taken("42 (a) S 1"), None);
        assert!(taken(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap().resident > 0);
    }

    #[test]
    fn rates_for_people() {
        let counter = |name: &str, total, per_second| CounterRate { name: name.into(), total, per_second };
        let text = describe(&Rates {
            name: "web".into(),
            status: "running".into(),
            guest_nanoseconds: 1_500_000_000,
            instructions_per_second: 2e6,
            vcpu_percent: 150.0,
            processes: vec![ProcessRate {
                name: "engine".into(),
                host_pid: 7,
                cpu_percent: 99.96,
                resident_bytes: 1 << 20,
            }],
            counters: vec![counter("halts", 1000, 12.7), counter("register-ns", 2_000_000_000, 25e6)],
        });
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").filter(|c| !c.is_empty()).collect()).collect();
        let row = |cells: &[&str]| rows.iter().any(|row| row.iter().map(|c| c.trim()).eq(cells.iter().copied()));
        assert!(row(&["instructions/s", "2 000 000"]) && row(&["vCPUs run", "150.0 %"]), "{text}");
        assert!(row(&["engine", "7", "100.0 %", "1 MiB"]), "{text}");
        assert!(row(&["halts", "12", "1 000"]) && row(&["register-time", "2.50 %", "2.000 s"]), "{text}");
    }
}
