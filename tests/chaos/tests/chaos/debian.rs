//! The same with a guest that people use: Debian's kernel and its 8250 driver.

use std::time::Instant;

use chaos::{Followed, Processes, count, random};
use guest::{ECHO_BLOCK, ECHO_DONE, ECHO_READY, Guest, MARKER, Mode};
use rand::Rng;
use rig::{Rig, SOON, boot_time};
use sha2::{Digest, Sha256};

use crate::alone;

/// How far the test sends ahead of the echo: half of what the guest's terminal holds.
const AHEAD: usize = 2048;

/// While the kernel boots and while bytes are echoed through the shell's terminal, serial port and supervisor are killed
/// again and again. Debian reaches its init, and every byte comes back.
#[test]
fn debian_boots_and_echoes_while_serial_port_and_supervisor_are_killed() {
    let _one = alone();
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut random = random();
    let bytes = count(1 << 20, 1 << 14);
    let rig = Rig::new("debian-echo");
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let line = Mode::Echo(bytes).command_line();
    let mut vm = rig.start("debian", ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", &line]);
    let processes = Processes::of(&rig, "debian");
    let events = Followed::start(&rig, "debian");
    let start = Instant::now();
    let mut kills = [0, 0];
    let mut kill = |random: &mut rand::rngs::StdRng| {
        let which = random.random_range(0..2);
        processes.kill(["serial", "supervisor"][which]);
        kills[which] += 1;
    };
    loop {
        let line = vm.expect("\n", boot_time());
        if line.contains(MARKER) {
            break;
        }
        if random.random_ratio(1, 10) {
            kill(&mut random);
        }
    }
    println!("marker after {:.1} s", start.elapsed().as_secs_f64());
    vm.expect(ECHO_READY, SOON);
    vm.expect("\n", SOON);

    let mut sent = vec![0; bytes];
    random.fill(&mut sent[..]);
    let mut ahead = 0;
    let echo = Instant::now();
    for (number, block) in sent.chunks(ECHO_BLOCK).enumerate() {
        vm.send(block);
        ahead += block.len();
        if random.random_ratio(1, 4) {
            kill(&mut random);
        }
        if ahead >= AHEAD || (number + 1) * ECHO_BLOCK >= bytes {
            let from = (number + 1) * ECHO_BLOCK - ahead;
            let back = vm.console.take(ahead, SOON);
            assert!(back == sent[from..from + ahead], "the echo of bytes {from} to {} differs", from + ahead);
            ahead = 0;
        }
    }
    println!("{bytes} bytes echoed in {:.1} s", echo.elapsed().as_secs_f64());
    let sum: String = Sha256::digest(&sent).iter().map(|byte| format!("{byte:02x}")).collect();
    vm.expect(&format!("{ECHO_DONE} {sum} {bytes}"), SOON);
    let done = vm.wait(boot_time());
    assert_eq!(done.status, 0, "{}", done.error);
    let events = events.finish();
    println!("{} times the serial port and {} times the supervisor were killed", kills[0], kills[1]);
    println!("{} events, none missing or doubled", events.len());
}
