//! The story that this stage is about: Debian's kernel boots to a shell in a VM whose every part is a process.

#![cfg(test)]

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use guest::{Guest, MARKER, Mode, PROMPT};
use guest_memory::{Access, Memfd, Ram};
use rig::{Rig, SOON, Vm, boot_time};

/// Numbers that a program sorts.
const SORTED: u32 = 100_000;

/// Arguments for Debian in a mode.
fn debian(mode: Mode) -> Vec<String> {
    let guest = Guest::find().unwrap();
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let line = mode.command_line();
    ["--memory", "512M", "--kernel", &kernel, "--initrd", &initrd, "--cmdline", &line].map(str::to_owned).to_vec()
}

/// The engine's counters, while nothing runs.
fn counters(rig: &Rig, vm: &Vm<'_>) -> BTreeMap<String, u64> {
    rig.atoll(["pause", "debian"]).ok();
    let seen = vm.wait_state(&["paused"]);
    let list = seen["statistics"]["counters"].as_array().unwrap();
    let named = |row: &serde_json::Value| (row["name"].as_str().unwrap().to_owned(), row["value"].as_u64().unwrap());
    let counters = list.iter().map(named).collect();
    rig.atoll(["resume", "debian"]).ok();
    counters
}

/// Whether this machine has a huge page for shared memory that asks for one as the engine does.
fn has_huge_pages() -> Result<(), String> {
    const BYTES: u64 = 4 << 20;
    let file = Memfd::create("ram", BYTES).unwrap();
    let ram = Ram::map(file.as_fd(), BYTES, Access::ReadWrite).unwrap();
    ram.store_u64(0, 1).unwrap();
    ram.collapse(0, BYTES / 2).map_err(|e| e.to_string())
}

/// A program that goes to many pages is run by hot blocks and finds them in a mirror, and RAM that is used gets huge pages.
fn what_makes_programs_fast_is_in_use(rig: &Rig, vm: &mut Vm<'_>) {
    vm.send(format!("seq {SORTED} | sort -n -r | tail -n 1 | sed 's/^/least /'\n"));
    vm.expect("least 1", boot_time());
    let counters = counters(rig, vm);
    for (name, value) in counters.iter().filter(|(name, _)| name.starts_with("code-") || name.contains("pages")) {
        println!("{name}: {value}");
    }
    let exits = ["unlinked", "jump", "budget", "operation", "resume"].map(|way| counters[&format!("code-exits-{way}")]);
    assert_eq!(exits.iter().sum::<u64>(), counters["code-entries"], "{exits:?}");
    assert!(exits.iter().all(|count| *count > 0), "{exits:?}");
    for name in ["code-hot", "pages-mirrored"] {
        assert!(counters[name] > 0, "{name}");
    }
    match has_huge_pages() {
        Ok(()) => assert!(counters["huge-pages"] > 0),
        Err(why) => println!("skipped: whether RAM gets huge pages: {why}"),
    }
}

#[test]
fn debian_boots_to_a_shell_that_answers_and_powers_off() {
    let rig = Rig::new("debian-shell");
    let mut vm = rig.start("debian", debian(Mode::Shell));
    vm.expect(MARKER, boot_time());
    vm.expect(PROMPT, boot_time());
    // The answer is not what was typed.
    vm.send("echo answer $((6 * 7))\n");
    vm.expect("answer 42", boot_time());
    let seen = vm.wait_state(&["running"]);
    let instructions = seen["statistics"]["instructions"].as_u64().unwrap();
    let rate = seen["instructions_per_second"].as_u64().unwrap();
    println!("{instructions} instructions, {rate} per second");
    let mut round_trips = 0;
    for register in seen["statistics"]["registers"].as_array().unwrap() {
        round_trips += register["synchronous"].as_u64().unwrap();
    }
    println!("{round_trips} register round trips");
    assert!(round_trips <= 3000, "posted writes and shadow registers spare most of them");
    what_makes_programs_fast_is_in_use(&rig, &mut vm);
    // A device may die under a running Linux.
    let serial = vm.pids().into_keys().find(|name| name.starts_with("serial")).unwrap();
    vm.kill_process(&serial);
    vm.send("echo again $((7 * 7))\n");
    vm.expect("again 49", boot_time());
    vm.send("poweroff -f\n");
    let done = vm.wait(boot_time()).ok();
    assert!(!rig.path("atoll/debian").exists(), "{}", done.error);
}

/// Linux finds AVX, keeps its state with XSAVEOPT, and its programs use what there is.
#[test]
fn debian_boots_on_the_larger_cpu_model() {
    let rig = Rig::new("debian-v3");
    let mut arguments = debian(Mode::Shell);
    arguments.extend(["--cpu-model", "atoll-v3"].map(str::to_owned));
    let mut vm = rig.start("debian", arguments);
    vm.expect("x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using 'standard' format", boot_time());
    vm.expect(PROMPT, boot_time());
    for flag in ["avx", "avx2", "bmi1", "bmi2", "fma", "f16c", "abm", "movbe", "xsaveopt"] {
        // Not as it is typed.
        vm.send(format!("grep -qw {flag} /proc/cpuinfo && echo has_{flag}_$((2 + 1))\n"));
        vm.expect(&format!("has_{flag}_3"), boot_time());
    }
    vm.send("poweroff -f\n");
    vm.wait(boot_time()).ok();
}

/// All of them are there, and one that is taken away comes back.
#[test]
fn debian_boots_on_three_vcpus() {
    let rig = Rig::new("debian-3");
    let mut arguments = debian(Mode::Shell);
    arguments.extend(["--cpus", "3"].map(str::to_owned));
    let mut vm = rig.start("debian", arguments);
    vm.expect(PROMPT, boot_time());
    let mut says = |line: &str, answer: &str| {
        vm.send(format!("{line}\n"));
        vm.expect(answer, boot_time());
    };
    says("echo there are $(nproc)", "there are 3");
    says("echo 0 > /sys/devices/system/cpu/cpu2/online; echo now $(nproc)", "now 2");
    says("echo 1 > /sys/devices/system/cpu/cpu2/online; echo again $(nproc)", "again 3");
    // Something runs on each, and they wait for each other.
    says(
        "for n in 1 2 3 4 5 6; do seq 20000 | md5sum > /tmp/$n & done; wait; echo sums $(sort -u /tmp/[1-6] | wc -l)",
        "sums 1",
    );
    vm.send("poweroff -f\n");
    vm.wait(boot_time()).ok();
}

#[test]
fn debian_echoes_every_byte_through_its_console() {
    let rig = Rig::new("debian-echo");
    let count = 4096;
    let mut vm = rig.start("debian", debian(Mode::Echo(count)));
    vm.expect(guest::ECHO_READY, boot_time());
    vm.expect("\n", SOON);
    let bytes: Vec<u8> = (0..count).map(|n| ((n * 31) >> 2) as u8).collect();
    for block in bytes.chunks(guest::ECHO_BLOCK) {
        vm.send(block);
        assert!(vm.console.take(block.len(), boot_time()) == block);
    }
    vm.expect(guest::ECHO_DONE, boot_time());
    vm.wait(boot_time()).ok();
}
