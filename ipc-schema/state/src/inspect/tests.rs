//! Dumps, differences and checks of states as processes write them, and of what damage makes of them.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{Message, begin, check, finish};
use wire::saved_capnp::engine_state;
use wire::state_board_capnp::board_state;
use wire::state_capnp::RunState;

fn engine(fill: impl FnOnce(engine_state::Builder<'_>)) -> Message {
    let mut message = begin("engine", "q35-0", Kind::Engine).unwrap();
    fill(message.get_root::<saved_state::Builder<'_>>().unwrap().get_state().init_engine());
    finish(&mut message).unwrap();
    message
}

/// A vCPU with something of every type.
fn example(rip: u64, byte: u8) -> Message {
    in_state(rip, byte, RunState::Halted)
}

fn in_state(rip: u64, byte: u8, state: RunState) -> Message {
    engine(|mut engine| {
        engine.set_cpu_model("atoll-v2");
        engine.reborrow().init_clock().set_guest_nanoseconds(5);
        let mut vcpu = engine.init_vcpus(2).get(1);
        vcpu.set_index(1);
        vcpu.set_run_state(state);
        let mut list = vcpu.reborrow().init_registers(1);
        crate::registers::write(list.reborrow(), &[crate::tolerance::Register { id: 0x174, size: 8, value: 0x10 }]);
        let mut core = vcpu.get_cpu().init_x86();
        core.set_rip(rip);
        core.set_nmi_blocked(true);
        let mut xsave = [0; 576];
        xsave[24] = byte;
        core.set_xsave(&xsave);
        core.reborrow().init_gprs(16).set(15, 15);
        core.init_pending_event().init_exception().set_vector(14);
    })
}

fn board(fill: impl FnOnce(board_state::Builder<'_>)) -> Message {
    let mut message = begin("board", "q35-0", Kind::Board).unwrap();
    fill(message.get_root::<saved_state::Builder<'_>>().unwrap().get_state().init_board());
    finish(&mut message).unwrap();
    message
}

fn saved(message: &Message) -> Saved {
    Saved::written("a.state", message).unwrap()
}

fn bytes(message: &Message) -> Vec<u8> {
    capnp::serialize::write_message_to_words(message)
}

#[test]
fn a_dump_has_a_line_for_every_field() {
    let text = saved(&example(0xffff_ffff_8100_0000, 7)).dump().unwrap().to_string();
    let lines = [
        "process = \"engine\"",
        "machine = \"q35-0\"",
        "engine = selected",
        "engine.cpuModel = \"atoll-v2\"",
        "engine.clock.guestNanoseconds = 5",
        "engine.vcpus = 2 elements",
        "engine.vcpus[0].index = 0",
        "engine.vcpus[1].runState = halted",
        "engine.vcpus[1].cpu.x86 = selected",
        "engine.vcpus[1].cpu.x86.rip = 0xffffffff81000000 (18446744071578845184)",
        "engine.vcpus[1].cpu.x86.gprs = 16 elements",
        "engine.vcpus[1].cpu.x86.gprs[15] = 0xf (15)",
        "engine.vcpus[1].cpu.x86.nmiBlocked = true",
        "engine.vcpus[1].cpu.x86.pendingEvent.exception.vector = 0xe (14)",
        "engine.vcpus[1].cpu.x86.lapic = 0 bytes",
        "engine.vcpus[1].registers = 1 element",
        "engine.vcpus[1].registers[0].id = 0x174 (372)",
        "engine.vcpus[1].registers[0].value = 8 bytes 1000000000000000",
    ];
    for line in lines {
        assert!(text.lines().any(|found| found == line), "no line '{line}' in\n{text}");
    }
    let digest = format!("schemaDigest = 32 bytes {}", hex(Kind::Engine.digest()));
    assert!(text.lines().any(|line| line == digest));
    // Structs that nobody wrote are shown as what a reader finds.
    assert!(text.contains("engine.vcpus[0].cpu.x86.rip = 0\n"));
    let board = saved(&board(|_| ())).dump().unwrap();
    assert!(
        board.lines.iter().any(|line| line.path == "board.pm.suspended" && line.value == Value::Plain("false".into()))
    );
}

#[test]
fn states_differ_in_fields() {
    let (one, other) = (example(0x1000, 7), example(0x2000, 9));
    assert_eq!(diff(&saved(&one), &saved(&one)).unwrap(), Differences::default());
    let found = diff(&saved(&one), &saved(&other)).unwrap();
    let tail = "00".repeat(23);
    assert_eq!(
        found.to_string(),
        format!(
            "engine.vcpus[1].cpu.x86.rip: 0x1000 (4096) -> 0x2000 (8192)\n\
             engine.vcpus[1].cpu.x86.xsave: 576 bytes, from byte 24: 07{tail}… -> 576 bytes, from byte 24: 09{tail}…\n"
        )
    );
    let shorter = engine(|mut engine| {
        engine.set_cpu_model("atoll-v2");
        engine.reborrow().init_clock().set_guest_nanoseconds(5);
        engine.init_vcpus(1);
    });
    let found = diff(&saved(&shorter), &saved(&one)).unwrap();
    assert_eq!(found.fields[0].path, "engine.vcpus");
    let only = |path| {
        found.fields.iter().find(|field| field.path == path).map(|field| (field.first.clone(), field.second.clone()))
    };
    assert_eq!(only("engine.vcpus[1].index"), Some((None, Some("1".into()))));
}

#[test]
fn a_good_file_has_no_problems() {
    for message in [example(1, 2), board(|board| board.init_pm().set_suspended(true))] {
        let report = saved(&message).check();
        assert_eq!(report.problems, Vec::<String>::new());
        assert!(report.known_schema);
        let kind = report.kind.unwrap();
        assert!(report.to_string().ends_with(&format!("'{kind}' ({kind}) as of q35-0; its schema is known\n")));
    }
}

#[test]
fn a_bad_file_is_told_with_file_and_field() {
    let change = |edit: &dyn Fn(saved_state::Builder<'_>)| {
        let mut message = example(1, 2);
        edit(message.get_root::<saved_state::Builder<'_>>().unwrap());
        saved(&message).check().problems
    };
    let process = "a.state: field 'process': is 'board', and the state is that of a process of kind 'engine'";
    assert_eq!(change(&|mut state| state.set_process("board")), [process]);
    assert_eq!(change(&|mut state| state.set_machine("")), ["a.state: field 'machine': is empty"]);
    let digest = "a.state: field 'schemaDigest': has 3 bytes in place of 32";
    assert_eq!(change(&|mut state| state.set_schema_digest(&[1; 3])), [digest]);
    let names = change(&|state| {
        let mut names = state.init_must_understand(2);
        names.set(0, "engine.fred");
        names.set(1, "engine.vcpus.cpu.x86.uintr");
    });
    assert_eq!(names.len(), 2);
    assert!(names[0].starts_with("a.state: field 'engine.fred' must be understood"), "{names:?}");
    // Another schema is no problem by itself.
    let mut message = example(1, 2);
    message.get_root::<saved_state::Builder<'_>>().unwrap().set_schema_digest(&[1; 32]);
    let report = saved(&message).check();
    assert!(report.problems.is_empty() && !report.known_schema);
    // Values of a newer version.
    let mut newer = bytes(&example(1, 2));
    let unknown = newest(&mut newer);
    assert_eq!(Saved::of("a.state", &newer).unwrap().check().problems, [unknown]);
    for damaged in [&b""[..], b"text", &[0xff; 64], &bytes(&example(1, 2))[..1000]] {
        let problems = Saved::of("a.state", damaged).unwrap().check().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("a.state: the state is no message of its schema: "), "{problems:?}");
    }
    let mut longer = bytes(&example(1, 2));
    longer.extend([0; 8]);
    assert!(Saved::of("a.state", &longer).unwrap().check().problems[0].ends_with("8 bytes follow its end"));
    assert!(Saved::of("a.state", &vec![0; ROW_BYTES as usize + 1]).is_err());
    let missing = Saved::open(Path::new("/nonexistent/a.state")).err().unwrap().to_string();
    assert!(missing.starts_with("/nonexistent/a.state: No such file"), "{missing}");
}

/// Makes the run state of vCPU 1 one that there is not; answers what is to be said of it.
fn newest(bytes_of_halted: &mut [u8]) -> String {
    let (one, two) = (bytes(&in_state(1, 2, RunState::Halted)), bytes(&in_state(1, 2, RunState::Shutdown)));
    assert_eq!(bytes_of_halted, one, "two messages with the same content are the same bytes");
    let differ: Vec<_> = one.iter().zip(&two).enumerate().filter(|(_, (one, two))| one != two).collect();
    assert_eq!(differ.len(), 1);
    bytes_of_halted[differ[0].0] = 77;
    "a.state: field 'engine.vcpus[1].runState': 77 is no value that this version knows".into()
}

/// All that can be done with bytes that claim to be a state.
fn everything(bytes: &[u8], good: &Saved) {
    let saved = Saved::of("damaged", bytes).unwrap();
    let dump = saved.dump().map(|dump| dump.to_string().len());
    assert!(dump.unwrap_or(0) < 4 * MAX_BYTES);
    let report = saved.check();
    assert!(report.problems.len() <= MAX_PROBLEMS + 1);
    let _ = report.to_string();
    let _ = diff(good, &saved).map(|found| found.to_string());
    let _ = diff(&saved, good).map(|found| found.to_string());
    let _ = saved.read(|state| {
        check(state, "engine", "q35-0", Kind::Engine, Kind::Engine.added())?;
        let _ = crate::must_understand(state, Kind::Engine.added());
        Ok(())
    });
}

#[test]
fn damage_never_panics() {
    let mut random = SmallRng::seed_from_u64(7);
    for message in [example(3, 4), board(|board| _ = board.init_pit().init_channels(3)), board(|_| ())] {
        let (good, original) = (saved(&message), bytes(&message));
        for _ in 0..1500 {
            let mut bytes = original.clone();
            match random.random_range(0..4) {
                0 => bytes.truncate(random.random_range(0..bytes.len())),
                1 => {
                    // A pointer is a word: any of them may point anywhere.
                    let at = random.random_range(0..bytes.len() / 8) * 8;
                    bytes[at..at + 8].copy_from_slice(&random.random::<u64>().to_le_bytes());
                }
                _ => {
                    for _ in 0..random.random_range(1..8) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] ^= 1 << random.random_range(0..8);
                    }
                }
            }
            everything(&bytes, &good);
        }
    }
}

/// A message of one segment.
fn words(body: &[u64]) -> Vec<u8> {
    let table = u64::from(u32::try_from(body.len()).unwrap()) << 32;
    [table].iter().chain(body).flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_small_file_does_not_become_endless_work() {
    let good = saved(&example(1, 2));
    // Root: a struct with two words of data and six pointers, as `SavedState` may be; `mustUnderstand` is a list of 2^29 - 1
    // elements without size.
    let root = 6 << 48;
    let void_list = |from: u64, to: u64| (to - from - 1) << 2 | 1 | (0x1fff_ffff << 35);
    for kind in 0..3 {
        let mut body = vec![root, 0, 0, 0, 0, 0, 0, 0];
        body[1 + 3] = void_list(4, 7);
        body[1 + 4] = void_list(5, 7);
        body[0] |= kind << 34;
        everything(&words(&body), &good);
        // A struct that holds itself.
        for pointer in 1..7 {
            let mut body = vec![root, 0, 0, 0, 0, 0, 0, 0];
            let back = (!pointer) & 0x3fff_ffff;
            body[pointer as usize] = back << 2 | 6 << 48;
            everything(&words(&body), &good);
            // Lists of structs without bits: the element tag says how many.
            let mut body = vec![root, 0, 0, 0, 0, 0, 0, 0, 0x1fff_ffff << 2];
            body[pointer as usize] = (8 - pointer - 1) << 2 | 1 | 7 << 32;
            everything(&words(&body), &good);
        }
    }
}

#[test]
fn random_words_never_panic() {
    let mut random = SmallRng::seed_from_u64(8);
    let good = saved(&example(1, 2));
    for _ in 0..3000 {
        let length = random.random_range(1..64);
        let body: Vec<u64> = (0..length)
            .map(|_| match random.random_range(0..3) {
                0 => random.random(),
                // Near pointers to structs and lists, near by.
                1 => {
                    random.random_range(0_u64..16) << 2
                        | random.random_range(0_u64..2)
                        | random.random_range(0_u64..256) << 32
                }
                _ => random.random_range(0_u64..8) << 48 | random.random_range(0_u64..8) << 32,
            })
            .collect();
        everything(&words(&body), &good);
    }
}

#[test]
fn a_dump_ends() {
    let long = engine(|engine| _ = engine.init_vcpus(1).get(0).get_cpu().init_x86().init_gprs(100_000));
    let dump = saved(&long).dump().unwrap();
    assert!(!dump.cut && dump.lines.len() > 100_000);
    // Many vCPUs that are all default are few bytes and many lines.
    let many = engine(|engine| _ = engine.init_vcpus(8000));
    let dump = saved(&many).dump().unwrap();
    assert!(dump.cut && dump.lines.len() == MAX_LINES);
    assert!(dump.to_string().ends_with("and more, which is not shown\n"));
    assert!(saved(&many).check().problems[0].contains("longer than any state"));
    assert!(diff(&saved(&many), &saved(&many)).unwrap().cut);
}
