//! Stories of guests of a few instructions: what they print arrives as it is, and how they end is the exit status.

#![cfg(test)]

use boot::Payload;
use rig::{Rig, SOON, Vm};

/// Arguments for a payload.
fn payload(rig: &Rig, payload: Payload) -> Vec<String> {
    let file = rig.file("payload", &payload.finish());
    ["--memory", "16M", "--kernel"].map(str::to_owned).into_iter().chain([file.display().to_string()]).collect()
}

#[test]
fn a_debug_exit_is_the_exit_status_and_the_console_is_exact() {
    let rig = Rig::new("debug-exit");
    for (value, status) in [(0, 1), (0x10, 0x21), (0x7f, 0xff), (0x1234_5642, 0x85)] {
        let arguments = payload(&rig, Payload::new().print("Hello from bare metal\n\0\x01x\u{ff}").debug_exit(value));
        let done = rig.start("vm", arguments).wait(SOON);
        assert_eq!(done.status, status, "{}", done.error);
        assert_eq!(done.output, "Hello from bare metal\n\0\x01x\u{ff}");
        assert_eq!(done.error.lines().count(), 1, "only the first line: {}", done.error);
        assert!(done.error.contains("engine tcg") && done.error.contains("control socket"), "{}", done.error);
    }
}

#[test]
fn power_off_ends_with_0_and_leaves_nothing() {
    let rig = Rig::new("power-off");
    let arguments = payload(&rig, Payload::new().print("off").power_off());
    let done = rig.start("vm", arguments).wait(SOON).ok();
    assert_eq!(done.output, "off");
    assert_eq!(std::fs::read_dir(rig.path("atoll")).unwrap().count(), 0);
}

#[test]
fn every_byte_goes_both_ways_and_in_order() {
    let rig = Rig::new("echo");
    let bytes: Vec<u8> = (0..2048u32).map(|n| (n.wrapping_mul(167) >> 3) as u8).collect();
    let arguments = payload(&rig, Payload::new().print("ready\n").echo(2048).debug_exit(1));
    let mut vm = rig.start("vm", arguments);
    vm.expect("ready\n", SOON);
    vm.send(&bytes);
    assert!(vm.console.take(2048, SOON) == bytes);
    assert_eq!(vm.wait(SOON).status, 3);
}

#[test]
fn more_than_any_buffer_holds_arrives_whole() {
    let rig = Rig::new("much");
    let text: Vec<u8> = (0..300_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    let arguments = payload(&rig, Payload::new().print(&text).debug_exit(0));
    let done = rig.start("vm", arguments).wait(SOON);
    assert_eq!(done.status, 1, "{}", done.error);
    assert!(done.output.as_bytes() == text, "{} bytes came", done.output.len());
}

#[test]
fn a_slow_reader_gets_everything_that_the_guest_printed_before_its_end() {
    let rig = Rig::new("slow-reader");
    let text: Vec<u8> = (0..600_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    let kernel = rig.file("payload", &Payload::new().print(&text).debug_exit(0).finish());
    let mut command = rig.command(["run", "--memory", "16M"]);
    command.arg(kernel).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut launcher = command.spawn().unwrap();
    let mut output = launcher.stdout.take().unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 2000]);
    loop {
        // Slower than the guest, so that serial port, sockets and launcher are full when it ends.
        std::thread::sleep(std::time::Duration::from_millis(4));
        match rig::read_some(&mut output, &mut buffer).unwrap() {
            0 => break,
            count => got.extend_from_slice(&buffer[..count]),
        }
    }
    assert_eq!(launcher.wait().unwrap().code(), Some(1));
    assert!(got == text, "{} of {} bytes came", got.len(), text.len());
}

#[test]
fn the_end_of_the_input_is_not_that_of_the_vm() {
    let rig = Rig::new("no-input");
    let arguments = payload(&rig, Payload::new().print("a").echo(1).print("b").debug_exit(2));
    let mut vm = rig.start("vm", arguments);
    vm.expect("a", SOON);
    vm.send("x");
    vm.close_input();
    let done = vm.wait(SOON);
    assert_eq!((done.status, done.output.as_str()), (5, "axb"));
}

#[test]
fn a_guest_that_resets_begins_again_or_with_no_reboot_ends() {
    let rig = Rig::new("reset");
    let arguments = payload(&rig, Payload::new().print("begin.").reset());
    let vm = rig.start("again", &arguments);
    for _ in 0..3 {
        vm.expect("begin.", SOON);
    }
    vm.wait_event("RESET", 0);
    rig.atoll(["kill", "again"]).ok();
    drop(vm);
    let done = rig.start("once", arguments.iter().map(String::as_str).chain(["--no-reboot"])).wait(SOON).ok();
    assert_eq!(done.output, "begin.");
}

#[test]
fn a_triple_fault_resets() {
    let rig = Rig::new("triple-fault");
    let arguments = payload(&rig, Payload::new().print("fault.").drain().triple_fault());
    let vm = rig.start("vm", arguments);
    vm.expect("fault.", SOON);
    vm.expect("fault.", SOON);
}

#[test]
fn a_console_in_a_file() {
    let rig = Rig::new("console-file");
    let arguments = payload(&rig, Payload::new().print("into a file").debug_exit(0));
    let out = rig.path("out");
    let console = format!("file:{}", out.display());
    let done = rig.start("vm", arguments.iter().map(String::as_str).chain(["--console", &console])).wait(SOON);
    assert_eq!((done.status, done.output.as_str()), (1, ""), "{}", done.error);
    assert_eq!(std::fs::read_to_string(out).unwrap(), "into a file");
}

#[test]
fn a_console_on_a_socket() {
    let rig = Rig::new("console-socket");
    let arguments = payload(&rig, Payload::new().echo(5).debug_exit(0));
    let socket = rig.path("console");
    let console = format!("socket:{}", socket.display());
    let vm = rig.start("vm", arguments.iter().map(String::as_str).chain(["--console", &console]));
    let mut connection = Vm::connect(&socket);
    connection.send("he");
    assert_eq!(connection.output.take(2, SOON), b"he");
    // Whoever comes next goes on.
    drop(connection);
    vm.wait_event("CONSOLE_CLOSED", 0);
    let mut connection = Vm::connect(&socket);
    connection.send("llo");
    assert_eq!(connection.output.take(3, SOON), b"llo");
    assert_eq!(vm.wait(SOON).status, 1);
    assert!(!socket.exists(), "the socket is removed with its VM");
}

#[test]
fn no_console() {
    let rig = Rig::new("no-console");
    let arguments = payload(&rig, Payload::new().print("nobody reads this").debug_exit(0));
    let done = rig.start("vm", arguments.iter().map(String::as_str).chain(["--console", "none"])).wait(SOON);
    assert_eq!((done.status, done.output.as_str()), (1, ""), "{}", done.error);
}

#[test]
fn a_configuration_file_and_what_overrides_it() {
    let rig = Rig::new("configuration");
    let kernel = rig.file("kernel", &Payload::new().print("configured").debug_exit(0).finish());
    let text = "kernel = \"kernel\"\nmemory = \"16M\"\nname = \"from-file\"\nconsole = \"none\"\n";
    let file = rig.file("vm.toml", text.as_bytes());
    let done =
        rig.atoll(["run".as_ref(), "--config".as_ref(), file.as_os_str(), "--console".as_ref(), "stdio".as_ref()]);
    assert_eq!((done.status, done.output.as_str()), (1, "configured"), "{}", done.error);
    assert!(done.error.contains("'from-file'"), "{}", done.error);
    let done = rig.atoll(["run".as_ref(), kernel.as_os_str(), "--memory".as_ref(), "16M".as_ref()]);
    assert_eq!((done.status, done.output.as_str()), (1, "configured"), "{}", done.error);
}

/// Each block of emitted code that the interpreter can run on the side does the same, and how many those are is shown.
#[test]
fn emitted_code_is_compared_block_by_block() {
    let rig = Rig::new("check");
    let mut arguments = payload(&rig, Payload::new().print("ready\n").echo(64).print("up").spin());
    arguments.extend(["--engine", "tcg-check"].map(Into::into));
    let mut vm = rig.start("vm", arguments);
    vm.expect("ready\n", SOON);
    vm.send([b'x'; 64]);
    vm.expect("up", SOON);
    // A vCPU that goes on says what it has counted now and then.
    rig.atoll(["pause", "vm"]).ok();
    let seen = vm.wait_state(&["paused"]);
    let counters = seen["statistics"]["counters"].as_array().unwrap();
    let [compared, skipped, different] = ["compared", "skipped", "different"].map(|what| {
        let counter = counters.iter().find(|row| row["name"] == format!("check-{what}"));
        counter.unwrap()["value"].as_u64().unwrap()
    });
    println!("{compared} blocks compared, {skipped} skipped, {different} different");
    assert_eq!(different, 0, "{}", vm.said.text());
    // Accesses to devices have consequences, so their blocks are skipped.
    assert!(compared > 0 && skipped > 0, "{compared} compared, {skipped} skipped");
}
