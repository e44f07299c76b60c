//! The payloads by themselves, on a VM without keeper and supervisor: so that a failure of another test is not theirs.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bare::{Guest, Said, Vm};
use guest::bare::{BEAT, BEAT_MODULUS, ECHO, PASS, PENDING, PENDING_FILLER, Payload, RESET, checksum};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running VM with this payload, and the folder that holds its kernel.
fn start(payload: &Payload, command_line: &str) -> (Vm, std::path::PathBuf) {
    let folder = std::env::temp_dir().join(format!("atoll-payload-{}-{}", payload.name, std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let kernel = payload.write(&folder).unwrap();
    let guest = Guest { kernel: Path::new(&kernel), initrd: None, command_line, memory: 16 << 20 };
    let mut vm = Vm::prepare(&guest).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    vm.console.set_read_timeout(Some(PATIENCE)).unwrap();
    vm.run().unwrap();
    (vm, folder)
}

fn read(vm: &mut Vm, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut at = 0;
    while at < count {
        match rig::read_some(&mut vm.console, &mut bytes[at..]) {
            Ok(n @ 1..) => at += n,
            end => {
                let said = vm.board.hear(Duration::ZERO);
                panic!("{end:?} after {at} bytes; the board says {said:?}; {:#?}", vm.counters());
            }
        }
    }
    bytes
}

fn exit_value(vm: &mut Vm) -> Said {
    vm.board.hear(PATIENCE).unwrap().1
}

#[test]
fn echo_returns_every_byte_and_their_checksum() {
    let sent: Vec<u8> = (0..50_000_u32).map(|n| (n * 7 / 3) as u8).collect();
    let (mut vm, _) = start(&ECHO, "50000");
    assert_eq!(read(&mut vm, 1), b">");
    let mut console = vm.console.try_clone().unwrap();
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || console.write_all(&sent).unwrap())
    };
    let start = std::time::Instant::now();
    assert!(read(&mut vm, sent.len()) == sent);
    println!("{:?}", start.elapsed());
    writer.join().unwrap();
    assert_eq!(read(&mut vm, 8), format!("{:08x}", checksum(&sent)).as_bytes());
    assert_eq!(exit_value(&mut vm), Said::DebugExit(PASS));
    for (n, v) in vm.counters().unwrap() {
        println!("{v:>10} {n}");
    }
}

#[test]
fn pending_finds_everything_as_it_was() {
    let (mut vm, _) = start(&PENDING, "");
    assert_eq!(read(&mut vm, 1), b"P");
    vm.console.write_all(b"x").unwrap();
    assert_eq!(read(&mut vm, 1), b"R");
    let filler: Vec<u8> = (0..PENDING_FILLER).map(|n| n as u8).collect();
    assert!(read(&mut vm, PENDING_FILLER) == filler);
    assert_eq!(exit_value(&mut vm), Said::DebugExit(PASS));
}

#[test]
fn reset_asks_in_every_way_for_what_it_is_told() {
    for (command, expected) in [
        (b"c", Said::Reset),
        (b"k", Said::Reset),
        (b"f", Said::Reset),
        (b"p", Said::PowerOff),
        (b"q", Said::DebugExit(PASS)),
    ] {
        let (mut vm, _) = start(&RESET, "");
        assert_eq!(read(&mut vm, 1), b"R");
        vm.console.write_all(command).unwrap();
        assert_eq!(exit_value(&mut vm), expected);
    }
    let (mut vm, _) = start(&RESET, "");
    assert_eq!(read(&mut vm, 1), b"R");
    vm.console.write_all(b"t").unwrap();
    assert_eq!(vm.engine.hear(PATIENCE).unwrap().1, Said::TripleFault);
}

#[test]
fn beat_counts() {
    let (mut vm, _) = start(&BEAT, "");
    let bytes = read(&mut vm, 600);
    assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == (n % usize::from(BEAT_MODULUS)) as u8), "{bytes:?}");
}
