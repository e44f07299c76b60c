//! `atoll inspect`: everything about a VM; with `--sandbox`, what each of its processes may do.

use std::fmt::Write;

use clap::Args;
use control::client::Client;
use control::types::{Counter, Inspection, Sandbox};

use crate::commands::{plain, print, print_json, table};
use crate::directory::Place;
use crate::failure::Result;
use crate::{processes, remote, size};

/// Register accesses that people are shown: those that cost most.
const BUSIEST: usize = 12;
/// vCPUs that have a column each; of more the JSON has all.
const WIDEST: usize = 8;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// Show what each process may do
    #[arg(long)]
    sandbox: bool,
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

pub fn inspect(arguments: &Arguments) -> Result<()> {
    let place = remote::find(&arguments.name)?;
    if arguments.sandbox {
        let sandboxes = remote::call(&place, async |client: &Client| client.sandbox().await)?;
        return if arguments.json { print_json(&sandboxes) } else { print(&describe_sandboxes(&sandboxes)) };
    }
    let mut inspection = remote::call(&place, async |client: &Client| client.inspect().await)?;
    add_host_pids(&mut inspection, &place);
    if arguments.json { print_json(&inspection) } else { print(&describe(&inspection)) }
}

/// Nobody inside the VM's pid namespace knows the host's numbers.
pub fn add_host_pids(inspection: &mut Inspection, place: &Place) {
    let Some(keeper) = processes::keeper(place) else { return };
    let seen = processes::all(keeper);
    for process in inspection.processes.iter_mut().filter(|process| process.host_pid == 0 && process.pid > 0) {
        let found = seen.iter().find(|seen| seen.inner == process.pid);
        process.host_pid = found.map_or(0, |found| found.pid);
    }
}

fn describe(inspection: &Inspection) -> String {
    let Inspection { statistics, .. } = inspection;
    let mut text = String::new();
    let facts = [
        ("name", inspection.name.clone()),
        ("state", inspection.state.status.to_string()),
        ("engine", format!("{} ({})", inspection.engine, inspection.engine_why)),
        ("machine", inspection.machine.clone()),
        ("vCPUs", inspection.vcpus.to_string()),
        ("memory", size::show(inspection.memory_bytes)),
        ("kernel", inspection.kernel.clone()),
        ("command line", inspection.command_line.clone()),
        ("console", inspection.console.clone()),
        ("guest clock", seconds(inspection.guest_nanoseconds)),
        ("instructions", grouped(statistics.instructions)),
        ("vCPU time", seconds(statistics.run_nanoseconds)),
        ("instructions/s", grouped(inspection.instructions_per_second)),
        ("resets", inspection.resets.to_string()),
        ("version", inspection.version.clone()),
    ];
    let facts: Vec<_> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), plain(&value)]).collect();
    text.push_str(&table(&facts));

    let heads = ["PROCESS", "KIND", "STATE", "PID", "INCARNATION", "RESTARTS", "POLICY", "GUEST RAM", "LAST CAUSE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for process in &inspection.processes {
        rows.push(vec![
            plain(&process.name),
            plain(&process.kind),
            plain(&process.state),
            if process.host_pid > 0 { process.host_pid.to_string() } else { String::new() },
            process.incarnation.to_string(),
            process.restarts.to_string(),
            plain(&process.restart_policy),
            if process.grant_bytes > 0 { size::show(process.grant_bytes) } else { "none".to_owned() },
            plain(&process.last_cause),
        ]);
    }
    let _ = write!(text, "\n{}", table(&rows));

    if !statistics.counters.is_empty() {
        let _ = write!(text, "\n{}", table(&engine_rows(&statistics.counters)));
    }
    let mut counters = Vec::new();
    for process in &inspection.processes {
        counters.extend(counter_rows(&process.name, &process.counters));
    }
    if !counters.is_empty() {
        let _ = write!(text, "\n{}", table(&counters));
    }
    if !statistics.registers.is_empty() {
        let mut registers: Vec<_> = statistics.registers.iter().collect();
        registers.sort_by_key(|register| std::cmp::Reverse((register.synchronous, register.local)));
        let heads = ["REGISTER", "ACCESS", "ROUND TRIPS", "LOCAL"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for register in registers.into_iter().take(BUSIEST) {
            rows.push(vec![
                plain(&format!("{}/{}+{:#x}", register.device, register.window, register.offset)),
                if register.write { "write" } else { "read" }.to_owned(),
                grouped(register.synchronous),
                grouped(register.local),
            ]);
        }
        let _ = write!(text, "\n{}", table(&rows));
    }
    text
}

/// What the engine counts: in total, and where there are a few vCPUs, for each.
fn engine_rows(counters: &[Counter]) -> Vec<Vec<String>> {
    let vcpus = counters.iter().map(|counter| counter.per_vcpu.len()).max().unwrap_or(0);
    let vcpus = if (2..=WIDEST).contains(&vcpus) { vcpus } else { 0 };
    let heads = ["ENGINE".to_owned(), "TOTAL".to_owned()].into_iter();
    let mut rows = vec![heads.chain((0..vcpus).map(|index| format!("VCPU {index}"))).collect::<Vec<_>>()];
    for counter in counters {
        let each = counter.per_vcpu.iter().take(vcpus).map(|value| grouped(*value));
        rows.push([plain(&counter.name), grouped(counter.value)].into_iter().chain(each).collect());
    }
    rows
}

fn counter_rows(owner: &str, counters: &[Counter]) -> Vec<Vec<String>> {
    counters.iter().map(|counter| vec![plain(owner), plain(&counter.name), grouped(counter.value)]).collect()
}

fn describe_sandboxes(sandboxes: &[Sandbox]) -> String {
    let mut text = String::new();
    for sandbox in sandboxes {
        let calls = sandbox.system_calls.len();
        let _ = writeln!(text, "{}: {calls} system calls of at most {}", plain(&sandbox.name), sandbox.budget);
        let lists = [
            ("system calls", sandbox.system_calls.join(" ")),
            ("descriptors", sandbox.descriptors.join(" ")),
            ("namespaces", sandbox.namespaces.join(" ")),
            ("limits", sandbox.limits.join(", ")),
            ("landlock", sandbox.landlock.clone()),
        ];
        for (name, value) in lists.iter().filter(|(_, value)| !value.is_empty()) {
            let _ = writeln!(text, "  {name}: {}", plain(value));
        }
        for line in sandbox.profile.lines() {
            let _ = writeln!(text, "  | {}", plain(line));
        }
        text.push('\n');
    }
    text
}

pub fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:03} s", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000 / 1_000_000)
}

/// 1234567 as 1 234 567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(seconds(1_002_003_004), "1.002 s");
    }

    #[test]
    fn counters_of_several_vcpus_have_a_column_each() {
        let counter = |per_vcpu: &[u64]| Counter { name: "halts".into(), value: 1234, per_vcpu: per_vcpu.to_vec() };
        assert_eq!(engine_rows(&[counter(&[1234])]), [vec!["ENGINE", "TOTAL"], vec!["halts", "1 234"]]);
        let rows = engine_rows(&[counter(&[234, 1000])]);
        assert_eq!(rows, [vec!["ENGINE", "TOTAL", "VCPU 0", "VCPU 1"], vec!["halts", "1 234", "234", "1 000"]]);
    }

    #[test]
    fn sandboxes_for_people() {
        let sandbox = Sandbox {
            name: "serial0".into(),
            system_calls: vec!["read".into(), "write".into()],
            budget: 16,
            profile: "a\nb".into(),
            ..Sandbox::default()
        };
        let text = describe_sandboxes(&[sandbox]);
        assert_eq!(text, "serial0: 2 system calls of at most 16\n  system calls: read write\n  | a\n  | b\n\n");
    }
}
