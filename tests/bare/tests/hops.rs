//! Whole guests whose processes are all replaced in the middle of what they do, and that sleep.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bare::{Guest, Said, Vm};
use guest::bare::{BEAT, BEAT_MODULUS, Payload, SLEEP};
use machine_model::MachineVersion;

/// For a byte of the guest, or a word of a process.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine with `payload` as its kernel, running. `test` is a name of the caller's own.
fn start(payload: &Payload, test: &str) -> Result<Vm> {
    let folder = std::env::temp_dir().join(format!("bare-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let kernel = payload.write(&folder)?;
    let vm = Vm::prepare(&Guest { kernel: &kernel, initrd: None, command_line: "", memory: 32 << 20 });
    std::fs::remove_dir_all(&folder)?;
    let mut vm = vm?;
    vm.console.set_read_timeout(Some(PATIENCE))?;
    vm.run()?;
    Ok(vm)
}

fn byte(console: &mut UnixStream) -> Result<u8> {
    let mut byte = [0];
    console.read_exact(&mut byte).context("the guest is silent")?;
    Ok(byte[0])
}

#[test]
fn not_a_byte_is_lost_or_doubled_by_hops() -> Result<()> {
    let mut vm = start(&BEAT, "hops")?;
    let (mut beat, mut hops) = (0, 0);
    let mut next = |got: u8| {
        let want = beat;
        beat = (beat + 1) % BEAT_MODULUS;
        ensure!(got == want, "{got} in place of {want}");
        Ok(())
    };
    while hops < 12 {
        for _ in 0..20 + hops {
            next(byte(&mut vm.console)?)?;
        }
        let (new, mut old) = vm.hop()?;
        vm = new;
        hops += 1;
        // What the serial port had given away before.
        old.set_read_timeout(Some(PATIENCE))?;
        let mut rest = Vec::new();
        old.read_to_end(&mut rest)?;
        rest.into_iter().try_for_each(&mut next)?;
        vm.console.set_read_timeout(Some(PATIENCE))?;
        vm.run()?;
    }
    next(byte(&mut vm.console)?)
}

/// Wait for the board to say that the guest sleeps, and put its processor to sleep.
fn suspended(vm: &mut Vm) -> Result<()> {
    let said = vm.board.hear(PATIENCE)?.1;
    ensure!(said == Said::Suspend, "{said:?} in place of sleep");
    vm.engine.suspend()
}

/// Wake the machine.
fn wake(vm: &mut Vm) -> Result<()> {
    vm.board.must(|mut m| m.set_wake(()))?;
    vm.engine.must(bare::solo::wake(MachineVersion::Q35_0.machine().memory.facs))
}

#[test]
fn a_guest_sleeps_and_wakes_also_in_other_processes() -> Result<()> {
    let mut vm = start(&SLEEP, "sleep")?;
    ensure!(byte(&mut vm.console)? == b'S');
    for hop in [false, true, false] {
        vm.console.write_all(b"s")?;
        suspended(&mut vm)?;
        if hop {
            vm = vm.hop()?.0;
            vm.console.set_read_timeout(Some(PATIENCE))?;
            vm.run()?;
        }
        wake(&mut vm)?;
        let said = byte(&mut vm.console)?;
        ensure!(said == b'W', "woken, it says {}", said.escape_ascii());
        vm.console.write_all(b".")?;
        ensure!(byte(&mut vm.console)? == b'.');
    }
    // One that sleeps without a place to wake at is told so.
    vm.console.write_all(b"n")?;
    suspended(&mut vm)?;
    vm.board.must(|mut m| m.set_wake(()))?;
    let why = vm.engine.refused(bare::solo::wake(MachineVersion::Q35_0.machine().memory.facs))?;
    ensure!(why.starts_with("s3.vector: "), "{why}");
    Ok(())
}
