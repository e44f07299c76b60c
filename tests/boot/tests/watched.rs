//! Stories of VMs whose translator is looked at: what it logs, what profilers are told, and that no file can stop the guest.

#![cfg(test)]

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use boot::Payload;
use rig::{Rig, SOON, Vm, runs};

/// Where the steps of a payload begin, behind its header: `mov $0x100000, %esp`, `cli`, and so on.
const ENTRY: u64 = 0x10_0020;

/// A VM whose guest says "up" after it was started with `more`, and its files.
fn start<'a>(rig: &'a Rig, more: &[&str]) -> Vm<'a> {
    let kernel = rig.file("kernel", &Payload::new().print("up").spin().finish()).display().to_string();
    let arguments = ["--memory", "16M", "--kernel", &kernel];
    rig.start("vm", arguments.iter().chain(more))
}

/// What the log says once it `has` something, which may take as long as the guest does after its last word.
#[track_caller]
fn until(log: &Path, has: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + SOON;
    loop {
        let text = fs::read_to_string(log).unwrap();
        if has(&text) {
            return text;
        }
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts, address and size, of the lines of a map with names that begin so.
fn lines(map: &Path, prefix: &str) -> Vec<(u64, u64, String)> {
    let mut all = Vec::new();
    for line in fs::read_to_string(map).unwrap().lines() {
        let [start, size, name] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        if name.starts_with(prefix) {
            all.push((number(start), number(size), name.to_owned()));
        }
    }
    all
}

#[test]
fn what_is_translated_is_logged_and_mapped() {
    let rig = Rig::new("watched");
    let (log, map) = (rig.path("log"), rig.path("map"));
    fs::write(&log, "of another run").unwrap();
    let names = [&log, &map].map(|path| path.display().to_string());
    let vm = start(&rig, &["--log-translation", &names[0], "--perf-map", &names[1]]);
    vm.expect("up", SOON);
    // The loop at the end comes after what the guest says. Records may still be on their way.
    let text = until(&log, |text| {
        text.contains("                          inc %ebx\n")
            && text.matches("OUT:").count() == text.matches("IN:").count()
            && text.ends_with('\n')
    });
    let first = text.find(&format!("IN: vcpu0, {ENTRY:#x}, 32 bits")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(text.find("IN:"), Some(first), "nothing is before the entry");
    for expected in [
        "0x0000000000100020: bc 00 00 10 00                 mov $0x100000, %esp",
        "0x0000000000100025: fa                             cli",
        "\nOP:\n0x100020 (5 bytes):\n",
        &format!("\nOUT: vcpu0, {ENTRY:#x}, "),
        "\n+0x0000: ",
    ] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    assert!(!text.contains("(bad)"));
    // Both say the same of the block at the entry.
    let block = lines(&map, &format!("guest:{ENTRY:#x}"));
    let [(start, size, _)] = block.as_slice() else { panic!("{block:?}") };
    assert!(text.contains(&format!("OUT: vcpu0, {ENTRY:#x}, {size} bytes at {start:#x}\n")), "{block:?} in {text}");
    assert_eq!(lines(&map, "stub:").first().map(|line| line.2.as_str()), Some("stub:enter"));
    // Until code memory is full nothing lies where something else does.
    let mut all = lines(&map, "");
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{all:?}");
    // The engine may write to files, and says so.
    let sandboxes = rig.json(&["inspect", "vm", "--sandbox"]);
    let engine = sandboxes.as_array().unwrap().iter().find(|sandbox| sandbox["name"] == "engine").unwrap();
    let descriptors = engine["descriptors"].to_string();
    assert!(descriptors.contains("translation-log") && descriptors.contains("perf-map"), "{descriptors}");
    assert!(!engine["limits"].to_string().contains("fsize"), "{engine}");
}

#[test]
fn a_filter_leaves_the_rest_out() {
    let rig = Rig::new("watched-filter");
    let log = rig.path("log").display().to_string();
    // Of the byte behind the first instruction: it is in the first block, and in no other.
    let vm = start(&rig, &["--log-translation", &log, "--log-filter", "0x100025..0x100025,0+16"]);
    vm.expect("up", SOON);
    let text = fs::read_to_string(&log).unwrap();
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("IN:")).collect();
    assert!(heads.len() == 1 && heads[0].contains("0x100020"), "{heads:?}");
    assert_eq!(text.matches("OUT:").count(), 1);
}

/// What the interpreter runs alone has no host code.
#[test]
fn the_interpreter_logs_what_it_lifts() {
    let rig = Rig::new("watched-t0");
    let log = rig.path("log").display().to_string();
    let vm = start(&rig, &["--engine", "tcg-t0", "--log-translation", &log]);
    vm.expect("up", SOON);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("mov $0x100000, %esp") && !text.contains("OUT:"), "{text}");
}

#[test]
fn a_full_disk_is_nothing_to_the_guest() {
    let rig = Rig::new("watched-full");
    let vm = start(&rig, &["--log-translation", "/dev/full", "--perf-map", "/dev/full"]);
    vm.expect("up", SOON);
    // The map comes first, since it begins with the stubs.
    for what in ["map for profilers", "log of translation"] {
        vm.said.expect(&format!("the {what} ends here: No space left on device"), SOON);
    }
    vm.wait_state(&["running"]);
}

#[test]
fn neither_is_a_limit_of_the_size_of_files() {
    let rig = Rig::new("watched-limit");
    let log = rig.path("log");
    let vm = start(&rig, &["--paused", "--log-translation", &log.display().to_string()]);
    vm.wait_state(&["paused"]);
    let engine = vm.pids()["engine"].to_string();
    assert!(Command::new("prlimit").args(["--pid", &engine, "--fsize=1000"]).status().unwrap().success());
    rig.atoll(["resume", "vm"]).ok();
    vm.expect("up", SOON);
    vm.said.expect("the log of translation ends here: File too large", SOON);
    assert_eq!(fs::metadata(&log).unwrap().len(), 1000);
    vm.wait_state(&["running"]);
}

#[test]
fn neither_is_a_pipe_that_is_read_slowly_or_no_more() {
    let rig = Rig::new("watched-pipe");
    let pipe = rig.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // One that nobody reads is refused.
    let name = pipe.display().to_string();
    let kernel = rig.file("none", &Payload::new().spin().finish()).display().to_string();
    let refused = rig.atoll(["run", "--memory", "16M", "--kernel", &kernel, "--log-translation", &name]);
    refused.fails(2, &["--log-translation", &name, "why:", "do:"]);

    let file = File::options().read(true).write(true).open(&pipe).unwrap();
    // The least that a pipe can hold.
    rustix::pipe::fcntl_setpipe_size(&file, 4096).unwrap();
    let mut reader = File::open(&pipe).unwrap();
    drop(file);
    let vm = start(&rig, &["--log-translation", &name]);
    vm.expect("up", SOON);
    vm.said.expect("the log of translation loses records: its reader is too slow", SOON);
    let mut head = [0; 20];
    reader.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"----------------\nIN:");
    drop(reader);
    // What is translated after a reset finds nobody.
    rig.atoll(["reset", "vm"]).ok();
    vm.said.expect("the log of translation ends here: Broken pipe", SOON);
    vm.expect("up", SOON);
    assert!(runs(vm.pids()["engine"]));
}

#[test]
fn what_a_vm_does_at_the_moment_is_shown_in_rates() {
    let rig = Rig::new("watched-top");
    let vm = start(&rig, &["--cpus", "2"]);
    vm.expect("up", SOON);
    let done = rig.atoll(["top", "vm", "--interval", "0.1", "--count", "2", "--json"]).ok().output;
    let looks: Vec<serde_json::Value> = done.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2, "{done}");
    for look in &looks {
        assert!(look["instructions_per_second"].as_f64().unwrap() > 0.0, "{look}");
        let names: Vec<&str> =
            look["processes"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert!(["keeper", "engine", "board", "serial0"].iter().all(|name| names.contains(name)), "{names:?}");
        let entries = look["counters"].as_array().unwrap().iter().find(|row| row["name"] == "code-entries").unwrap();
        assert!(entries["per_second"].as_f64().unwrap() > 0.0, "{entries}");
    }
    let text = rig.atoll(["top", "vm", "--interval", "0.1", "--count", "1"]).ok().output;
    assert!(text.contains("PER SECOND") && text.contains("register-time"), "{text}");
    rig.atoll(["top", "vm", "--interval", "0"]).fails(8, &["--interval", "3600", "why:"]);
    // Both vCPUs have their share of each counter.
    let seen = vm.wait_state(&["running"]);
    let counters = seen["statistics"]["counters"].as_array().unwrap();
    let entries = counters.iter().find(|row| row["name"] == "code-entries").unwrap();
    let shares: Vec<u64> = entries["per_vcpu"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert!(shares.len() == 2 && shares[0] > 0 && entries["value"] == shares.iter().sum::<u64>(), "{entries}");
}
