//! Debian that counts, computes and checksums: saved and restored again and again, and put to sleep.

use std::time::Instant;

use guest::{Guest, MARKER, Mode, PROMPT};
use rig::{Rig, SOON, Vm, boot_time, count};
use snapshots::{Round, allocated, kinds, memory_in_use, restore, round, save, state};

/// Debian with this task, or nothing where there is no guest.
pub fn boot<'a>(rig: &'a Rig, mode: Mode) -> Option<Vm<'a>> {
    boot_with(rig, mode, &[])
}

/// The same with further arguments.
fn boot_with<'a>(rig: &'a Rig, mode: Mode, more: &[&str]) -> Option<Vm<'a>> {
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(why) => {
            println!("skipped: {why}");
            return None;
        }
    };
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let line = mode.command_line();
    let all = ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", &line];
    let vm = rig.start("debian", all.iter().chain(more));
    vm.expect(MARKER, boot_time());
    Some(vm)
}

/// Each round follows on the one before, and the guest's clock never steps back.
fn follows(last: Round, next: Round) {
    assert_eq!(next.number, last.number + 1);
    assert!(next.seconds >= last.seconds, "the guest's clock stepped back: {last:?}, {next:?}");
}

/// A line that was half on the console when the VM was saved is finished by its successor, so the first whole line of a restored
/// VM may be the rest of one: it is not looked at, and the next follows on the last one of the saved VM or the one after it.
#[test]
fn debian_goes_on_where_it_was_after_every_restore() {
    let rig = Rig::new("debian-restore");
    let Some(mut vm) = boot(&rig, Mode::Work) else { return };
    let restores = count(50, 4);
    let mut last = round(&vm);
    let (start, mut compared) = (Instant::now(), Vec::new());
    for number in 0..restores {
        for _ in 0..3 {
            let next = round(&vm);
            follows(last, next);
            last = next;
        }
        // Every other time it stands, so that the RAM in use is exactly what was saved; otherwise it runs on, and may use more.
        let stands = number % 2 == 1;
        if stands {
            rig.atoll(["pause", "debian"]).ok();
        }
        let path = save(&rig, "debian", "debian");
        let disk = allocated(&path);
        match memory_in_use(&vm) {
            Some(in_use) => {
                assert!(disk <= in_use + in_use / 100, "{disk} bytes on disk > {in_use} of RAM in use + 1 %");
                compared.extend((number < 2).then_some((disk, in_use)));
            }
            None => println!("{disk} bytes on disk; this user may not see how much RAM is in use"),
        }
        // What it did since is not in the snapshot.
        rig.atoll(["kill", "debian"]).ok();
        vm.wait(SOON);
        let arguments: &[&str] = if number / 2 % 2 == 0 { &[] } else { &["--on-demand"] };
        vm = restore(&rig, "debian", &path, arguments);
        if stands {
            vm.wait_state(&["paused"]);
            rig.atoll(["resume", "debian"]).ok();
        }
        let next = round(&vm);
        assert!(next.number > last.number && next.number <= last.number + 3, "{last:?}, {next:?}");
        assert!(next.seconds >= last.seconds, "the guest's clock stepped back: {last:?}, {next:?}");
        last = next;
    }
    // The last one too: each of these has summed its memory up.
    for _ in 0..3 {
        let next = round(&vm);
        follows(last, next);
        last = next;
    }
    println!("bytes on disk, and of RAM in use: {compared:?}");
    println!("{restores} restores in {:.1} s, the guest's round {}", start.elapsed().as_secs_f64(), last.number);
}

/// Its programs are in the middle of work on YMM registers when they are saved, and their sums stay right.
#[test]
fn debian_on_the_larger_cpu_model_goes_on_after_a_restore() {
    goes_on(&["--cpu-model", "atoll-v3"], "atoll-v3");
}

#[test]
fn debian_on_two_vcpus_goes_on_after_a_restore() {
    goes_on(&["--cpus", "2"], "vCPUs           2\n");
}

/// `kept` is what the restored VM, or its saved state, says of itself.
fn goes_on(arguments: &[&str], kept: &str) {
    let rig = Rig::new("debian-restore");
    let Some(mut vm) = boot_with(&rig, Mode::Work, arguments) else { return };
    let mut last = round(&vm);
    for _ in 0..2 {
        let path = save(&rig, "debian", "debian");
        rig.atoll(["kill", "debian"]).ok();
        vm.wait(SOON);
        vm = restore(&rig, "debian", &path, &[]);
        let next = round(&vm);
        let inspected = rig.atoll(["inspect", "debian"]).ok().output;
        let dumped = rig.atoll(["state", "dump", &path.join("engine.state").display().to_string()]).ok().output;
        assert!(inspected.contains(kept) || dumped.contains(kept), "{kept}: {inspected}");
        assert!(next.number > last.number && next.number <= last.number + 3, "{last:?}, {next:?}");
        let after = round(&vm);
        follows(next, after);
        last = after;
    }
}

/// What one tier has saved the other loads, and back.
#[test]
fn debian_goes_on_with_another_tier() {
    let rig = Rig::new("debian-tiers");
    let arguments = ["--cpus", "2", "--cpu-model", "atoll-v3"];
    let Some(mut vm) = boot_with(&rig, Mode::Work, &arguments) else { return };
    let mut last = round(&vm);
    for (engine, tier) in [("tcg-t0", "tcg-t0"), ("tcg", "tcg (as asked for)"), ("tcg-t0", "tcg-t0")] {
        let path = save(&rig, "debian", "debian");
        rig.atoll(["kill", "debian"]).ok();
        vm.wait(SOON);
        vm = restore(&rig, "debian", &path, &["--engine", engine]);
        let next = round(&vm);
        let inspected = rig.atoll(["inspect", "debian"]).ok().output;
        assert!(inspected.contains(tier), "{inspected}");
        assert!(next.number > last.number && next.number <= last.number + 3, "{last:?}, {next:?}");
        last = round(&vm);
        follows(next, last);
    }
}

/// All vCPUs but the first are stopped before, and started again after the wake.
#[test]
fn debian_on_two_vcpus_sleeps_and_wakes() {
    let rig = Rig::new("debian-sleep-2");
    let Some(mut vm) = boot_with(&rig, Mode::Shell, &["--cpus", "2"]) else { return };
    vm.expect(PROMPT, SOON);
    vm.send("echo +2 > /sys/class/rtc/rtc0/wakealarm; echo mem > /sys/power/state; echo WOKEN-$?-$(nproc)\n");
    vm.wait_event("SUSPEND", 0);
    vm.wait_event("WAKEUP", 0);
    vm.expect("\nWOKEN-0-2", SOON);
}

/// `echo mem > /sys/power/state` sleeps; the alarm of the clock, a client, and a restore of the sleeping machine wake it.
#[test]
fn debian_sleeps_is_saved_asleep_and_wakes() {
    let rig = Rig::new("debian-sleep");
    let Some(mut vm) = boot(&rig, Mode::Shell) else { return };
    vm.expect(PROMPT, SOON);
    let command = |vm: &mut Vm<'_>, line: &str| vm.send(format!("{line}\n"));
    // By the clock.
    command(&mut vm, "echo +2 > /sys/class/rtc/rtc0/wakealarm; echo mem > /sys/power/state; echo WOKEN-$?");
    vm.wait_event("SUSPEND", 0);
    let woken = vm.wait_event("WAKEUP", 0);
    assert_eq!(woken["cause"], "rtc");
    vm.expect("\nWOKEN-0", SOON);
    // By a client, and by a client after a snapshot and a restore of the sleeping machine.
    let after = snapshots::number(&woken["sequence"]);
    command(&mut vm, "echo mem > /sys/power/state; echo AGAIN-$?");
    vm.wait_event("SUSPEND", after);
    let sleeping = || ("suspended".to_owned(), "suspended".to_owned());
    vm.wait_state(&["suspended"]);
    assert_eq!(state(&rig, "debian"), sleeping());
    let path = save(&rig, "debian", "asleep");
    assert_eq!(state(&rig, "debian"), sleeping());
    rig.atoll(["wakeup", "debian"]).ok();
    vm.expect("\nAGAIN-0", SOON);
    rig.atoll(["wakeup", "debian"]).fails(8, &["vm.not-suspended"]);
    rig.atoll(["kill", "debian"]).ok();
    vm.wait(SOON);

    for arguments in [&[][..], &["--on-demand"]] {
        let mut vm = restore(&rig, "debian", &path, arguments);
        vm.wait_state(&["suspended"]);
        assert_eq!(state(&rig, "debian"), sleeping());
        rig.atoll(["wakeup", "debian"]).ok();
        vm.expect("\nAGAIN-0", SOON);
        command(&mut vm, "echo ALIVE-$((6 * 7))");
        vm.expect("\nALIVE-42", SOON);
        let told: Vec<String> = kinds(&rig, "debian")
            .into_iter()
            .filter(|kind| ["STOP", "RESUME", "SUSPEND", "WAKEUP"].contains(&kind.as_str()))
            .collect();
        assert_eq!(told, ["RESUME", "WAKEUP"]);
        command(&mut vm, "poweroff -f");
        let done = vm.wait(boot_time());
        assert_eq!(done.status, 0, "{}", done.error);
    }
}
