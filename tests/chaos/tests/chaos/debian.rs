//! The same with a guest that people use: Debian's kernel and its 8250 driver.

use std::time::Instant;

use chaos::{Followed, Processes};
use guest::{ECHO_BLOCK, ECHO_DONE, ECHO_READY, Guest, MARKER, Mode};
use rand::Rng;
use rand::rngs::StdRng;
use rig::{Rig, SOON, Stream, boot_time, count, random};
use sha2::{Digest, Sha256};

use crate::alone;

/// How far the test sends ahead of the echo: half of what the guest's terminal holds.
const AHEAD: usize = 2048;

/// Kills one of the two at a time. Five ends in a row without anything done in between would be taken for a defect, and
/// rightly: the next supervisor dies only after it has taken over, and the serial port at most twice before something has been
/// seen that came after its last end. (What was on its way then may make that four times.)
struct Killer {
    processes: Processes,
    events: Followed,
    random: StdRng,
    serial: usize,
    supervisor: usize,
    in_a_row: usize,
    /// Bytes of the console that had come when the serial port was killed.
    come: usize,
}

impl Killer {
    fn kill(&mut self, console: &Stream) {
        if self.random.random() {
            if self.supervisor > 0 && self.events.count("SUPERVISOR_ADOPTED", None) < self.supervisor {
                self.events.until("SUPERVISOR_ADOPTED");
            }
            self.processes.kill("supervisor");
            self.supervisor += 1;
        } else if self.in_a_row < 2 {
            self.processes.kill("serial");
            self.serial += 1;
            self.in_a_row += 1;
            self.come = console.position().0;
        }
    }

    /// Output has been seen; it may have come long ago.
    fn progress(&mut self, console: &Stream) {
        if console.position().1 > self.come {
            self.in_a_row = 0;
        }
    }
}

/// While the kernel boots and while bytes are echoed through the shell's terminal, serial port and supervisor are killed
/// again and again. Debian reaches its init, and every byte comes back.
#[test]
fn debian_boots_and_echoes_while_serial_port_and_supervisor_are_killed() {
    let _one = alone();
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(why) => return println!("skipped: {why}"),
    };
    let bytes = count(1 << 20, 1 << 14);
    let rig = Rig::new("debian-echo");
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let line = Mode::Echo(bytes).command_line();
    let mut vm = rig.start("debian", ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", &line]);
    let (processes, events) = (Processes::of(&rig, "debian"), Followed::start(&rig, "debian"));
    let mut killer = Killer { processes, events, random: random(), serial: 0, supervisor: 0, in_a_row: 0, come: 0 };
    killer.events.until("STARTED");
    let start = Instant::now();
    loop {
        let line = vm.expect("\n", boot_time());
        if line.contains(MARKER) {
            break;
        }
        killer.progress(&vm.console);
        if killer.random.random_ratio(1, 10) {
            killer.kill(&vm.console);
        }
    }
    println!("marker after {:.1} s", start.elapsed().as_secs_f64());
    vm.expect(ECHO_READY, SOON);
    vm.expect("\n", SOON);

    let mut sent = vec![0; bytes];
    killer.random.fill(&mut sent[..]);
    let mut ahead = 0;
    let echo = Instant::now();
    for (number, block) in sent.chunks(ECHO_BLOCK).enumerate() {
        // Before the block, since after the last one the guest powers off.
        if killer.random.random_ratio(1, 4) {
            killer.kill(&vm.console);
        }
        vm.send(block);
        ahead += block.len();
        if ahead >= AHEAD || (number + 1) * ECHO_BLOCK >= bytes {
            let from = (number + 1) * ECHO_BLOCK - ahead;
            let back = vm.console.take(ahead, SOON);
            assert!(back == sent[from..from + ahead], "the echo of bytes {from} to {} differs", from + ahead);
            ahead = 0;
            killer.progress(&vm.console);
        }
    }
    println!("{bytes} bytes echoed in {:.1} s", echo.elapsed().as_secs_f64());
    let sum: String = Sha256::digest(&sent).iter().map(|byte| format!("{byte:02x}")).collect();
    vm.expect(&format!("{ECHO_DONE} {sum} {bytes}"), SOON);
    let done = vm.wait(boot_time());
    assert_eq!(done.status, 0, "{}", done.error);
    let events = killer.events.finish();
    println!("{} times the serial port and {} times the supervisor were killed", killer.serial, killer.supervisor);
    println!("{} events, none missing or doubled", events.len());
}
