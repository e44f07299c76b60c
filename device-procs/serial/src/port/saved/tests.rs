//! A port and what its saved state makes of another: the same to guest and console, and no byte lost or doubled between
//! them; and states that nobody saved.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;

use doorbell::{Attributes, Space};
use guest_memory::Memfd;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use state::MEMFD_BYTES;

use super::super::tests::{BASE, Rig, console, drain, pattern};
use super::super::{Backend, FULL};
use super::*;

const WHO: Identity<'_> = Identity { process: "serial0", machine: "q35-0" };
const SEEDS: u64 = 1000;

fn area() -> StateArea {
    let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
    StateArea::map(memfd.as_fd(), 2).unwrap()
}

/// Saves twice, which must give the same bytes.
fn save(port: &mut Port, area: &StateArea) -> Left {
    port.pause().unwrap();
    let mut left = || area.leave(&port.save(WHO, WHO.machine).unwrap()).unwrap();
    let first = left();
    assert_eq!(left(), first, "a second save differs");
    port.round().unwrap();
    assert_eq!(area.leave(&port.save(WHO, WHO.machine).unwrap()).unwrap(), first);
    first
}

/// Prints until the console, the output ring and the posted ring are full; answers what was printed.
fn print_until_full(rig: &Rig, port: &mut Port) -> Vec<u8> {
    let (window, leave) = (rig.bus.find(Space::Port, BASE, 1).unwrap(), AtomicU32::new(1));
    let mut sent = Vec::new();
    let mut byte = 0u8;
    // Until the posted ring is full, which the port cannot empty.
    while rig.bus.write(window, BASE, 1, byte.into(), 0, Attributes::default(), &leave).is_ok() {
        sent.push(byte);
        byte = (byte + 1) % 251;
        port.round().unwrap();
    }
    assert_eq!(rig.client.backlog(), 256);
    sent
}

#[test]
fn no_character_is_lost_or_doubled() {
    let (rig, area) = (Rig::new(), area());
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    for (register, value) in [(2, 0x87), (4, 0x0b), (1, 0x05)] {
        rig.write(register, value);
    }
    port.round().unwrap();
    let typed = pattern(1000);
    theirs.write_all(&typed).unwrap();
    port.round().unwrap();
    assert_eq!(rig.irq.drain().unwrap(), 1);
    for byte in &typed[..3] {
        assert_eq!(rig.read(&mut port, 0), u64::from(*byte));
    }
    let printed = print_until_full(&rig, &mut port);
    let left = save(&mut port, &area);
    // What is typed after the pause stays in the socket.
    theirs.write_all(b"later").unwrap();

    // The other side: nothing moves before it runs.
    let other = Rig::new();
    let (backend, mut far) = console();
    let mut successor = other.port(backend);
    successor.load(WHO, &area, left).unwrap();
    successor.round().unwrap();
    assert_eq!((drain(&mut far).len(), other.irq.drain().unwrap()), (0, 0));
    assert!(successor.interest().is_none_or(|(_, flags)| !flags.contains(super::super::PollFlags::POLLOUT)));
    assert_eq!(save(&mut successor, &area), left, "a save after the load differs");

    // What the first console takes now and what the other one gets are the guest's output, once.
    let mut seen = drain(&mut theirs);
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"", "the state has the rest");
    successor.run();
    while seen.len() < printed.len() {
        successor.round().unwrap();
        let more = drain(&mut far);
        assert!(!more.is_empty(), "{} of {}", seen.len(), printed.len());
        seen.extend(more);
    }
    successor.round().unwrap();
    seen.extend(drain(&mut far));
    assert!(seen == printed, "{} {}", seen.len(), printed.len());
    assert_eq!(other.irq.drain().unwrap(), 1, "the line is high: it is signalled once");
    for byte in &typed[3..] {
        assert_eq!(other.read(&mut successor, 5) & 1, 1);
        assert_eq!(other.read(&mut successor, 0), u64::from(*byte));
    }
    assert_eq!(other.read(&mut successor, 5) & 1, 0);

    // The first one was only saved: it goes on as if it had not been.
    port.run();
    while rig.client.backlog() > 0 {
        port.round().unwrap();
        assert!(!drain(&mut theirs).is_empty());
    }
    assert_eq!(rig.read(&mut port, 0), u64::from(typed[3]));
}

#[test]
fn a_successor_of_a_port_that_was_saved_holds_until_it_runs() {
    let (rig, area) = (Rig::new(), area());
    let mut port = rig.port(Backend::None);
    port.run();
    rig.write(0, 65);
    port.round().unwrap();
    let left = save(&mut port, &area);
    drop(port);
    let (backend, mut theirs) = console();
    let mut port = rig.port(backend);
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"");
    assert_eq!(save(&mut port, &area), left);
    port.run();
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"A");
}

#[test]
fn a_load_replaces_what_a_used_port_had() {
    let (rig, area) = (Rig::new(), area());
    let mut port = rig.port(Backend::None);
    port.run();
    rig.write(0, u64::from(b'x'));
    rig.write(7, 0x11);
    port.round().unwrap();
    let left = save(&mut port, &area);
    port.run();
    let (backend, mut theirs) = console();
    drop(std::mem::replace(&mut port, rig.port(backend)));
    port.run();
    theirs.write_all(&[b'i'; 40]).unwrap();
    rig.write(7, 0x22);
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"x");
    port.pause().unwrap();
    // Posted and not yet carried out when the state comes.
    rig.write(0, u64::from(b'y'));
    rig.write(7, 0x33);
    port.load(WHO, &area, left).unwrap();
    assert_eq!(rig.client.backlog(), 0);
    assert_eq!(save(&mut port, &area), left);
    port.run();
    port.round().unwrap();
    assert_eq!(drain(&mut theirs), b"x", "as it was saved");
    assert_eq!((rig.read(&mut port, 7), rig.read(&mut port, 5)), (0x11, 0x60));
    theirs.write_all(b"j").unwrap();
    port.round().unwrap();
    assert_eq!(rig.read(&mut port, 0), u64::from(b'j'));
}

#[test]
fn a_log_file_goes_on_at_its_end() {
    let area = area();
    let saved = Rig::new();
    let mut port = saved.port(Backend::None);
    port.run();
    for byte in b"saved " {
        saved.write(0, u64::from(*byte));
    }
    port.round().unwrap();
    let left = save(&mut port, &area);
    let rig = Rig::new();
    let file = tempfile();
    let mut port = rig.port(Backend::File(file.try_clone().unwrap().into(), 0));
    port.run();
    rig.write(0, u64::from(b'1'));
    port.round().unwrap();
    port.pause().unwrap();
    port.load(WHO, &area, left).unwrap();
    port.run();
    port.round().unwrap();
    rig.write(0, u64::from(b'2'));
    port.round().unwrap();
    let mut text = vec![0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut text, 0).unwrap();
    assert_eq!((&text[..], file.metadata().unwrap().len()), (&b"1saved 2"[..], 8));
}

fn tempfile() -> std::fs::File {
    nix::sys::memfd::memfd_create("log", nix::sys::memfd::MFdFlags::empty()).unwrap().into()
}

#[test]
fn every_refusal_names_what_is_wrong_and_changes_nothing() {
    let (rig, area) = (Rig::new(), area());
    let mut port = rig.port(Backend::None);
    rig.write(7, 0x44);
    rig.write(0, 1);
    port.round().unwrap();
    let left = save(&mut port, &area);
    let long = vec![0; IN_RING_LEN as usize + 1];
    type Change<'a> = &'a dyn Fn(serial_state::Builder<'_>);
    let cases: [(Change<'_>, &str); 9] = [
        (&|s| s.get_uart().unwrap().set_ier(0x10), "serial.uart.ier"),
        (&|s| s.get_uart().unwrap().set_fcr(0xc0), "serial.uart.fcr"),
        (&|s| s.get_uart().unwrap().set_mcr(0x20), "serial.uart.mcr"),
        (&|s| s.get_uart().unwrap().set_msr(0), "serial.uart.msr"),
        (&|s| s.get_uart().unwrap().set_line_errors(1), "serial.uart.lineErrors"),
        (
            &|s| s.get_uart().unwrap().set_receiver(b"ab"),
            "'serial.uart.receiver': has 2 bytes, and the receiver holds 1",
        ),
        (&|s| s.get_uart().unwrap().set_interrupt_line(true), "serial.uart.interruptLine"),
        (&|mut s| s.set_input(&long), "'serial.input': has 32769 bytes; at most 32768"),
        (&|mut s| s.set_output(&[0; MOST_OUTPUT as usize + 1]), "serial.output"),
    ];
    for (change, words) in cases {
        let mut message = port.save(WHO, WHO.machine).unwrap();
        let root = message.get_root::<saved_state::Builder<'_>>().unwrap();
        let Ok(saved_state::state::Serial(Ok(serial))) = root.get_state().which() else { panic!() };
        change(serial);
        let wrong = area.leave(&message).unwrap();
        let error = port.load(WHO, &area, wrong).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    for (other, field) in
        [(Identity { process: "serial1", ..WHO }, "'process'"), (Identity { machine: "q35-1", ..WHO }, "'machine'")]
    {
        let message = port.save(WHO, WHO.machine).unwrap();
        let left = area.leave(&message).unwrap();
        let error = port.load(other, &area, left).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    assert!(port.save(WHO, "q35-9").is_err_and(|error| error.to_string().contains("q35-9")));
    assert_eq!(save(&mut port, &area), left);
}

#[test]
fn many_saves_and_loads_with_a_deaf_console_are_bounded() {
    let area = area();
    let mut rig = Rig::new();
    let (backend, theirs) = console();
    let mut port = rig.port(backend);
    port.run();
    let mut keep = vec![theirs];
    print_until_full(&rig, &mut port);
    let mut cycles = 0;
    let error = loop {
        port.pause().unwrap();
        let left = match port.save(WHO, WHO.machine) {
            Ok(message) => area.leave(&message).unwrap(),
            Err(error) => break error.to_string(),
        };
        rig = Rig::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Deaf at once: its socket is full.
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        keep.push(theirs);
        port = rig.port(Backend::Stream(ours.into()));
        port.load(WHO, &area, left).unwrap();
        port.run();
        port.round().unwrap();
        let (window, leave) = (rig.bus.find(Space::Port, BASE, 1).unwrap(), AtomicU32::new(1));
        while rig.bus.write(window, BASE, 1, 1, 0, Attributes::default(), &leave).is_ok() {
            port.round().unwrap();
        }
        cycles += 1;
        assert!(cycles < 100);
    };
    assert!(cycles >= (MOST_OUTPUT - FULL) / 256 - 1 && error.contains("serial.output"), "{cycles} {error}");
}

/// One thing that happens to a port.
fn step(rig: &Rig, port: &mut Port, console: &mut UnixStream, random: &mut SmallRng) -> (u64, Vec<u8>) {
    let mut answer = 0;
    match random.random_range(0..8) {
        0..3 => {
            let register = random.random_range(0..8);
            // DLAB seldom: behind it there is nothing to see.
            let value =
                random.random::<u64>() & if register == 3 && random.random_range(0..4) > 0 { 0x7f } else { 0xff };
            rig.write(register, value);
            port.round().unwrap();
        }
        3..6 => answer = rig.read_serving(port, random.random_range(0..8)),
        6 => {
            let len = random.random_range(0..40);
            console.write_all(&(0..len).map(|_| random.random()).collect::<Vec<_>>()).unwrap();
            port.round().unwrap();
        }
        _ => drop(port.round().unwrap()),
    }
    (answer, drain(console))
}

/// What a guest would see without changing anything, and the interrupt line.
fn shown(rig: &Rig) -> (Vec<Option<u64>>, bool) {
    ((0..8).map(|cell| rig.client.shadow(cell)).collect(), rig.client.area().level(0))
}

#[test]
fn a_loaded_port_answers_as_the_one_that_was_saved() {
    let area = area();
    let (mut high, mut waiting) = (0, 0);
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let rig = Rig::new();
        let (backend, mut theirs) = console();
        let mut port = rig.port(backend);
        port.run();
        for (register, value) in [(2, 0x87), (4, 0x0b), (1, 0x07)] {
            rig.write(register, value);
        }
        for _ in 0..random.random_range(0..60) {
            step(&rig, &mut port, &mut theirs, &mut random);
        }
        let left = save(&mut port, &area);
        let other = Rig::new();
        let (backend, mut far) = console();
        let mut successor = other.port(backend);
        successor.load(WHO, &area, left).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(save(&mut successor, &area), left, "seed {seed}");
        assert_eq!(shown(&rig), shown(&other), "seed {seed}");
        high += u32::from(rig.client.area().level(0));
        waiting += u32::from(port.counts().received > port.counts().taken);
        port.run();
        successor.run();
        rig.irq.drain().unwrap();
        port.round().unwrap();
        successor.round().unwrap();
        assert!(rig.irq.drain().unwrap() == 0 && other.irq.drain().unwrap() == u64::from(rig.client.area().level(0)));
        let mut same = random.clone();
        for n in 0..60 {
            let ours = step(&rig, &mut port, &mut theirs, &mut random);
            let others = step(&other, &mut successor, &mut far, &mut same);
            assert_eq!(ours, others, "seed {seed}, step {n}");
            assert_eq!(shown(&rig), shown(&other), "seed {seed}, step {n}");
            assert_eq!(rig.irq.drain().unwrap(), other.irq.drain().unwrap(), "seed {seed}, step {n}: interrupts");
        }
        assert_eq!(save(&mut port, &area), save(&mut successor, &area), "seed {seed}: in the end");
    }
    assert!(high > 100 && waiting > 100, "{high} {waiting}");
}

#[test]
fn states_with_flipped_bits_are_refused_or_harmless() {
    let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
    let area = StateArea::map(memfd.as_fd(), 0).unwrap();
    let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
    let mut taken = 0;
    for seed in 0..SEEDS {
        let mut random = SmallRng::seed_from_u64(seed);
        let rig = Rig::new();
        let (backend, mut theirs) = console();
        let mut port = rig.port(backend);
        if queue.is_empty() {
            port.run();
            for _ in 0..30 {
                step(&rig, &mut port, &mut theirs, &mut random);
            }
            port.pause().unwrap();
            let message = port.save(WHO, WHO.machine).unwrap();
            queue.extend(std::iter::repeat_n(capnp::serialize::write_message_to_words(&message), 20));
        }
        let mut bytes = queue.pop_front().unwrap();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        std::os::unix::fs::FileExt::write_all_at(&std::fs::File::from(memfd.try_clone().unwrap()), &bytes, 0).unwrap();
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
        port.pause().unwrap();
        if port.load(WHO, &area, Left { length: bytes.len() as u64, digest }).is_err() {
            continue;
        }
        taken += 1;
        port.run();
        for _ in 0..20 {
            step(&rig, &mut port, &mut theirs, &mut random);
        }
        port.pause().unwrap();
        let left = area.leave(&port.save(WHO, WHO.machine).unwrap()).unwrap();
        port.load(WHO, &area, left).unwrap();
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn positions_that_somebody_else_has_moved_are_no_state() {
    // The streams' records begin with their positions; they lie where a board has shadow pages.
    for (record, field) in [(0, "serial.output"), (512, "serial.input")] {
        let (rig, memory) = (Rig::new(), area());
        let mut port = rig.port(Backend::None);
        port.run();
        for byte in 0..200u8 {
            rig.write(0, byte.into());
        }
        port.pause().unwrap();
        if record == 0 {
            // Saved and loaded, the port has sent 200 bytes more than lie behind its floor.
            let left = save(&mut port, &memory);
            port.load(WHO, &memory, left).unwrap();
        }
        let position = if record == 0 { u64::MAX - 5 } else { 1 << 60 };
        assert!(rig.client.area().write_shadow_page(11, record, &position.to_le_bytes()));
        match port.save(WHO, WHO.machine) {
            Ok(_) => assert_eq!(record, 0, "only output may be skipped"),
            Err(error) => assert!(error.to_string().contains(field), "{error}"),
        }
    }
}

/// Where the engine may write while the port runs.
#[test]
fn positions_of_output_that_the_engine_moves_are_no_arithmetic() {
    let (sent, memory) = (10, area());
    for position in [0, sent - 1, sent + 1, sent + FULL, 1 << 62, u64::MAX - 1, u64::MAX] {
        for (log, record) in [false, true].into_iter().flat_map(|log| [(log, 0), (log, 256)]) {
            let rig = Rig::new();
            let (backend, _theirs) = console();
            let mut port = rig.port(if log { Backend::None } else { backend });
            port.run();
            for n in 0..sent {
                rig.write(0, n);
            }
            port.round().unwrap();
            assert!(rig.client.area().write_shadow_page(11, record, &position.to_le_bytes()));
            for n in 0..sent {
                rig.write(0, n);
            }
            port.round().unwrap();
            let produced = port.counts().produced;
            assert_eq!(produced, 2 * sent, "the guest goes on, with position {position}");
            port.pause().unwrap();
            if let Ok(state) = port.save(WHO, WHO.machine) {
                let left = memory.leave(&state).unwrap();
                port.load(WHO, &memory, left).unwrap();
            }
            let mut port = rig.port(Backend::None);
            port.run();
            rig.write(0, 1);
            port.round().unwrap();
            assert!(port.counts().produced < 1 << 63);
        }
    }
}
