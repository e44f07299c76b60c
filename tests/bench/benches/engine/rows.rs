//! The rows of `bench-guest`: in a guest of QEMU's, in one of Atoll's, and on the host, in turn.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::Console;
use bench::figures::{Goal, geometric_mean, least, middle};
use bench::machines::{self, Config};
use bench_guest::{BEGIN, END, Group, Row, parse};

use crate::Bench;

/// For all rows, on a busy host.
const LIMIT: Duration = Duration::from_secs(3600);
/// How far a guest's clock may be from the host's, of the time and in all: lines take their time on a serial port.
const CLOCK: (f64, f64) = (0.03, 0.25);
/// Two vCPUs are measured so many times as often as the rest: a host's CPUs share a core for a while, and then do not.
const PAIRS_OF_TWO: usize = 4;
/// What any row should reach.
const LEAST: Goal = Goal::AtLeast(0.9);

/// Who runs the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Qemu,
    Atoll,
    Host,
}

/// Seconds by row and side, one for each pair.
type Times = BTreeMap<(&'static str, Side), Vec<f64>>;

/// What a group's geometric mean should be.
fn goal(group: Group) -> Option<Goal> {
    match group {
        Group::Integer => Some(Goal::AtLeast(2.0)),
        Group::Memory => Some(Goal::AtLeast(3.0)),
        Group::Float => Some(Goal::AtLeast(5.0)),
        Group::Kernel => Some(Goal::AtLeast(1.5)),
        Group::Code => Some(Goal::AtLeast(1.0)),
        Group::Strings | Group::Avx | Group::Pair => None,
    }
}

/// Runs rows once: name, result, and the seconds of the repetitions. The guest's clock is compared with ours.
fn run(command: &mut Command, rows: &[&'static Row]) -> Result<Vec<(&'static str, u64, Vec<f64>)>> {
    let mut console = Console::start(command)?;
    let begin = console.expect(BEGIN, LIMIT)?;
    // The line with the number, and not what the kernel may say behind it.
    let end = console.expect_line(END, LIMIT)?;
    let text = console.text();
    let found: Vec<_> = text.lines().filter_map(parse).collect();
    let mut times = Vec::new();
    for row in rows {
        let line =
            found.iter().find(|line| line.name == row.name).with_context(|| format!("no line for {}", row.name))?;
        let seconds = line.nanoseconds.iter().map(|time| *time as f64 / 1e9).collect();
        times.push((row.name, line.result, seconds));
    }
    let said = text.lines().find_map(|line| line.trim().strip_prefix(END)?.trim().parse::<u64>().ok());
    let (said, ours) = (said.context("no time at the end")? as f64 / 1e9, (end - begin).as_secs_f64());
    let off = (said - ours).abs();
    ensure!(off <= CLOCK.1 + ours * CLOCK.0, "the guest's clock says {said:.2} s where the host's says {ours:.2} s");
    Ok(times)
}

/// Runs rows as often as asked on every side, and makes sure that all results are the same. `one` has the time of the repetitions.
fn measure(
    bench: &Bench,
    config: Config,
    rows: &[&'static Row],
    (cpus, pairs): (u32, usize),
    one: fn(Vec<f64>) -> f64,
) -> Result<Times> {
    let job = bench.rows_job(cpus, rows);
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    let (mut times, mut results) = (Times::new(), BTreeMap::new());
    for pair in 1..=pairs {
        for side in [Side::Qemu, Side::Atoll, Side::Host] {
            let mut command = match side {
                Side::Qemu => bench.qemu.command(config, &job),
                Side::Atoll => machines::atoll(&bench.rig, "rows", &job),
                Side::Host => Command::new(&bench.program),
            };
            if side == Side::Host {
                command.arg(names.join(","));
            }
            if pair == 1 {
                println!("  {}", machines::shown(&command));
            }
            let measured = run(&mut command, rows).with_context(|| format!("{side:?}, pair {pair}"))?;
            if side == Side::Atoll {
                bench.rig.atoll(["kill", "rows"]);
            }
            for (row, result, seconds) in measured {
                let (first, who) = *results.entry(row).or_insert((result, side));
                ensure!(first == result, "{row}: {who:?} has {first:#x}, and {side:?} {result:#x}");
                times.entry((row, side)).or_default().push(one(seconds));
            }
        }
    }
    Ok(times)
}

fn median(times: &Times, row: &'static str, side: Side) -> f64 {
    middle(times.get(&(row, side)).cloned().unwrap_or_default())
}

/// One group's table.
fn print_group(group: Group, rows: &[&'static Row], times: &Times) {
    println!("\n{:<14} {:>9} {:>9} {:>9}   qemu/atoll  atoll/host", group.name(), "qemu s", "atoll s", "host s");
    let mut ratios = Vec::new();
    for row in rows.iter().filter(|row| row.group == group) {
        let [qemu, atoll, host] = [Side::Qemu, Side::Atoll, Side::Host].map(|side| median(times, row.name, side));
        let ratio = qemu / atoll;
        ratios.push(ratio);
        println!(
            "  {:<12} {qemu:9.4} {atoll:9.4} {host:9.4}   {ratio:10.2}  {:10.2}  {}",
            row.name,
            atoll / host,
            LEAST.verdict(ratio)
        );
    }
    let mean = geometric_mean(&ratios);
    let verdict = goal(group).map(|goal| goal.verdict(mean)).unwrap_or_default();
    println!("  {:<12} {:29}   {mean:10.2}  {:10}  {verdict}", "mean", "", "");
}

/// What stands for all runs.
type Of = fn(&[f64]) -> f64;

/// What two processes at once come to, against one: 2 is twice the work in the same time. By `of` all runs.
fn scaling(times: &Times, side: Side, of: Of) -> f64 {
    let seconds = |row| times.get(&(row, side)).map_or(f64::NAN, |seconds| of(seconds));
    2.0 * seconds("pair-one") / seconds("pair-two")
}

/// The pair on two vCPUs.
///
/// A virtual host may have its two CPUs on one core in one second and on two in the next, which halves the gain of whoever runs then. So
/// the goal is about the best time of each, which is that of two cores; the medians of the runs' best are printed beside.
fn pairs(bench: &Bench, config: Config) -> Result<()> {
    if !bench.two {
        println!("\npair: atoll: one vCPU");
        return Ok(());
    }
    println!("\npair: SHA-256 in two processes on two vCPUs");
    let rows = match bench_guest::rows(Group::Pair.name()) {
        Ok(rows) => rows,
        Err(name) => bail!("no group '{name}'"),
    };
    let times = measure(bench, config, &rows, (2, PAIRS_OF_TWO * bench.pairs), |seconds| least(&seconds))?;
    let mut ratio = f64::NAN;
    let by: [(&str, Of); 2] = [("medians", |seconds| middle(seconds.to_vec())), ("best times", least)];
    for (what, of) in by {
        let [qemu, atoll, host] = [Side::Qemu, Side::Atoll, Side::Host].map(|side| scaling(&times, side, of));
        ratio = atoll / host;
        println!("  scaling by {what:<10}: qemu {qemu:.2}, atoll {atoll:.2}, host {host:.2}; atoll / host {ratio:.2}");
    }
    println!("  atoll / host {ratio:.2} {}", LEAST.verdict(ratio));
    Ok(())
}

/// All rows that are asked for.
pub fn compare(bench: &Bench, config: Config, rows: &[&'static Row]) -> Result<()> {
    let apart = |row: &&Row| matches!(row.group, Group::Pair | Group::Avx);
    let alone: Vec<&'static Row> = rows.iter().copied().filter(|row| !apart(row)).collect();
    println!("\nuser space, 1 vCPU, 1 GiB; qemu: {} (median of {} pairs)", config.name(), bench.pairs);
    if !alone.is_empty() {
        let times = measure(bench, config, &alone, (1, bench.pairs), middle)?;
        for group in Group::ALL {
            if alone.iter().any(|row| row.group == group) {
                print_group(group, &alone, &times);
            }
        }
    }
    let wide: Vec<&'static Row> = rows.iter().copied().filter(|row| row.group == Group::Avx).collect();
    if !wide.is_empty() {
        let times = measure(bench, Config { cpu: "max", ..config }, &wide, (1, bench.pairs), middle)?;
        print_group(Group::Avx, &wide, &times);
    }
    if rows.len() > alone.len() + wide.len() {
        pairs(bench, config)?;
    }
    Ok(())
}
