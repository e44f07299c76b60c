//! Save and load between processes: what the guest printed and what was typed arrives once, wherever the guest goes on.

use std::io::{Read, Write};

use state::Left;

use super::*;

type Saved = Result<Left, String>;

fn saved(answer: Answer<'_>) -> Saved {
    match answer {
        from_islet::Saved(Ok(saved)) => {
            Ok(Left { length: saved.get_length(), digest: saved.get_digest().unwrap().try_into().unwrap() })
        }
        from_islet::Failed(Ok(failure)) => Err(failure.get_code().unwrap().to_string().unwrap()),
        from_islet::Done(()) => Ok(Left::default()),
        _ => panic!("neither saved nor failed"),
    }
}

fn save(process: &mut Process) -> Saved {
    let mut answer = Err(String::new());
    process.ask(|mut m| m.set_save(MACHINE), &[], |said| answer = saved(said));
    answer
}

fn load(process: &mut Process, left: Left) -> Saved {
    let mut answer = Err(String::new());
    let fill = |m: to_islet::Builder<'_>| {
        let mut load = m.init_load();
        load.set_length(left.length);
        load.set_digest(&left.digest);
    };
    process.ask(fill, &[], |said| answer = saved(said));
    answer
}

#[test]
fn what_is_under_way_arrives_once_at_the_other_process() {
    let (vm, mut console) = Vm::new();
    let mut process = vm.start(1);
    assert_eq!(save(&mut process), Err("state.running".into()));
    for (register, value) in [(2, 0x87), (4, 0x0b), (1, 0x01)] {
        vm.write(0, register, value);
    }
    console.write_all(b"typed before the pause").unwrap();
    while vm.read(0, 5) & 1 == 0 {
        std::thread::yield_now();
    }
    assert_eq!(vm.read(0, 0), u64::from(b't'));
    // More than a socket holds.
    let mut printed = Vec::new();
    let full = AtomicU32::new(1);
    let window = vm.bus.find(Space::Port, BASE, 1).unwrap();
    loop {
        let byte = (printed.len() % 251) as u8;
        if vm.bus.write(window, BASE, 1, byte.into(), 0, Attributes::default(), &full).is_err() {
            // The posted ring is full: for the moment, or for good.
            process.ask(|mut m| m.set_statistics(()), &[], |_| ());
            if vm.client.backlog() == 256 {
                break;
            }
            continue;
        }
        printed.push(byte);
    }
    process.done(|mut m| m.set_pause(()));
    let left = save(&mut process).unwrap();
    assert_eq!(save(&mut process), Ok(left), "the same twice");
    console.write_all(b"typed after").unwrap();
    // Its end sends nothing that the state has.
    process.done(|mut m| m.set_quit(()));
    process.ended();
    let mut seen = vec![0; printed.len()];
    console.set_nonblocking(true).unwrap();
    let mut count = 0;
    while let Ok(n @ 1..) = console.read(&mut seen[count..]) {
        count += n;
    }

    let (mut other, mut far) = Vm::new();
    other.state = vm.state.try_clone().unwrap();
    let mut process = other.start_paused(1);
    assert_eq!(load(&mut process, Left { length: 8, ..left }), Err("state.refused".into()));
    load(&mut process, left).unwrap();
    assert_eq!(save(&mut process), Ok(left), "nothing has run");
    process.done(|mut m| m.set_run(()));
    far.read_exact(&mut seen[count..]).unwrap();
    assert!(seen == printed);
    for byte in b"yped before the pause" {
        assert_eq!(other.read(0, 5) & 1, 1);
        assert_eq!(other.read(0, 0), u64::from(*byte));
    }
    assert_eq!(other.read(0, 5) & 1, 0);
    process.done(|mut m| m.set_quit(()));
    process.ended();
    far.set_nonblocking(true).unwrap();
    assert!(far.read(&mut [0; 8]).is_err(), "no byte more");
}
