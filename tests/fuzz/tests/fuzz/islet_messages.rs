//! Messages between the supervisor and its islets: what board, serial port and loader make of requests, and the supervisor of
//! what islets say.
//!
//! An input is 1 byte (who reads) and a message. What must hold: what is kept of another process's texts is bounded and
//! cannot command a terminal.

use board::control as board_control;
use capnp::message::Builder;
use fuzz::{Plant, Seen, Target, Verdict};
use link::Peer;
use supervisor::core::Said;
use supervisor::messages::{self, Answer, Heard};
use wire::islet_capnp::{from_islet, to_islet};

use crate::bytes::{Aligned, Message, flat, holds, index};

pub static TARGET: Target = Target {
    name: "islet_messages",
    run,
    seeds,
    words,
    longest: 4096,
    head: 1,
    plants: &[
        "board: a digest is taken to have 32 bytes",
        "serial: the position of a descriptor is not bounded",
        "supervisor: the number of the driver's request is an index",
        "supervisor: the number of a vCPU is not bounded",
    ],
};

/// Of the reader.
const INCARNATION: u32 = 4;
/// The most bytes of a text that is kept.
const MOST: usize = 1100;

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let (who, message) = input.split_first().unwrap_or((&0, &[]));
    let message = Aligned::of(message);
    let reader = match link::capnp::decode(message.bytes(), &Peer::new("peer", 1)) {
        Ok(reader) => reader,
        Err(error) => {
            seen.text("decode", &error.to_string());
            return Ok(());
        }
    };
    match who & 3 {
        0 => {
            let root = reader.get_root::<to_islet::Reader<'_>>();
            if plant.is(0)
                && let Ok(to_islet::Load(Ok(load))) =
                    root.clone().map_err(|_| ()).and_then(|m| m.which().map_err(|_| ()))
                && let Ok(digest) = load.get_digest()
            {
                let _ = &digest[..32];
            }
            board(root, seen)
        }
        1 => setup(reader.get_root(), seen, plant),
        _ => supervisor(reader.get_root(), seen, plant),
    }
}

fn plain(text: &str) -> Verdict {
    holds!(text.len() <= MOST, "a text of {} bytes is kept", text.len());
    holds!(!text.chars().any(char::is_control), "a text with control characters is kept");
    Ok(())
}

fn board(root: capnp::Result<to_islet::Reader<'_>>, seen: &mut Seen) -> Verdict {
    let (id, command) = board_control::read_command(root, INCARNATION);
    seen.count("id", id);
    match command {
        Ok(None) => seen.hit("another incarnation", 0),
        Ok(Some(command)) => {
            seen.text("command", &format!("{command:?}"));
            if let board_control::Command::Save(machine) = command {
                holds!(machine.len() <= MOST, "a name of {} bytes is kept", machine.len());
            }
        }
        Err(problem) => {
            holds!(problem.why.len() <= MOST, "a reason of {} bytes", problem.why.len());
            seen.text("refused", &problem.why);
        }
    }
    Ok(())
}

fn setup(root: capnp::Result<to_islet::Reader<'_>>, seen: &mut Seen, plant: Plant) -> Verdict {
    let Ok(root) = root else { return Ok(()) };
    let setup = match root.which() {
        Ok(to_islet::Setup(Ok(setup))) => setup,
        Ok(to_islet::Load(load)) => {
            match serial::order::read_load(load) {
                Ok(left) => seen.count("load", left.length),
                Err(problem) => seen.text("load", &problem.why),
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    match board_control::Order::read(setup) {
        Ok(order) => seen.count("board", order.descriptors.len() as u64 + 1),
        Err(problem) => {
            holds!(problem.why.len() <= MOST, "a reason of {} bytes", problem.why.len());
            seen.text("board", &problem.why);
        }
    }
    match serial::order::Order::read(setup) {
        Ok(order) => {
            seen.text("serial", &format!("{:?}", order.console));
            for name in ["windows", "status", "kick", "state"] {
                seen.hit("has", u64::from(order.has(name)));
                let mut received = vec![None, None, None];
                if let Err(problem) = order.take(name, &mut received) {
                    seen.text("take", &problem.why);
                }
            }
            if plant.is(1) {
                let received = [0; 8];
                for row in setup.get_descriptors().map_err(|error| error.to_string())? {
                    let _ = received[usize::from(row.get_index())];
                }
            }
        }
        Err(problem) => seen.text("serial", &problem.why),
    }
    match loader::message::Order::read(setup) {
        Ok(order) => seen.count("loader", order.command_line.len() as u64),
        Err(problem) => seen.text("loader", &problem.why),
    }
    Ok(())
}

fn supervisor(root: capnp::Result<from_islet::Reader<'_>>, seen: &mut Seen, plant: Plant) -> Verdict {
    match messages::read(root) {
        Heard::Driver { reply_to, answer } => {
            let kind = match answer {
                Answer::Done => 0,
                Answer::Counters(counters) => 1 + counters.len().min(9) as u64,
                Answer::Engine(statistics) => 20 + statistics.registers.len().min(9) as u64,
                Answer::Other => 40,
            };
            seen.hit("driver", kind);
            if plant.is(2) {
                index(64, reply_to - messages::DRIVER_REQUESTS);
            }
        }
        Heard::Core { said, .. } => {
            let text = format!("{said:?}");
            seen.text("said", text.split(['(', '{']).next().unwrap_or_default());
            match &said {
                Said::Failed(problem) => {
                    for text in [&problem.code, &problem.what, &problem.why, &problem.remedy] {
                        plain(text)?;
                    }
                    seen.count("why", problem.why.len() as u64);
                }
                Said::Nonsense(why) => {
                    seen.text("nonsense", why);
                    plain(why)?;
                }
                Said::Attack(text) | Said::Wake(text) => plain(text)?,
                Said::Loaded { entry, summary } => {
                    plain(summary)?;
                    holds!(entry.len() <= 32 << 10, "a state of {} bytes", entry.len());
                    seen.count("entry", entry.len() as u64);
                }
                Said::Progress { phase, .. } => plain(phase)?,
                Said::TripleFault(vcpu) if plant.is(3) => {
                    index(64, (*vcpu).into());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn requests() -> Vec<Vec<u8>> {
    let request = |fill: &dyn Fn(to_islet::Builder<'_>)| {
        let mut message: Message = Builder::new_default();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(77);
        root.set_incarnation(INCARNATION);
        fill(root);
        flat(&message)
    };
    vec![
        request(&|mut m| m.set_run(())),
        request(&|mut m| m.set_power_button(())),
        request(&|mut m| m.set_save("q35-0")),
        request(&|mut m| m.set_attach_console("console")),
        request(&|m| {
            let mut load = m.init_load();
            load.set_length(4096);
            load.set_digest(&[9; 32]);
        }),
        request(&|m| {
            m.init_engine();
        }),
    ]
}

fn setups() -> Vec<Vec<u8>> {
    let setup = |fill: &dyn Fn(wire::islet_capnp::setup::Builder<'_>)| {
        let mut message: Message = Builder::new_default();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_incarnation(INCARNATION);
        let mut setup = root.init_setup();
        setup.set_vm("debian");
        setup.set_machine("q35-0");
        setup.set_memory_bytes(256 << 20);
        setup.set_vcpus(2);
        let names = ["status", "windows", "kick", "ram", "kernel", "console", "state"];
        let mut list = setup.reborrow().init_descriptors(names.len() as u32);
        for (index, name) in (0..).zip(names) {
            list.reborrow().get(index).set_name(name);
            list.reborrow().get(index).set_index(index as u16);
        }
        fill(setup);
        flat(&message)
    };
    vec![
        setup(&|s| {
            let mut board = s.init_role().init_board();
            board.set_area(2);
            board.set_wall_clock_seconds(-7);
        }),
        setup(&|s| s.init_role().init_serial().init_console().set_stream("console")),
        setup(&|s| s.init_role().init_serial().init_console().set_file("console")),
        setup(&|s| {
            let mut loader = s.init_role().init_loader();
            loader.set_kernel("kernel");
            loader.set_kernel_name("vmlinuz");
            loader.set_initrd("");
            loader.set_command_line("console=ttyS0");
        }),
    ]
}

fn answers() -> Vec<Vec<u8>> {
    let answer = |reply_to: u64, fill: &dyn Fn(from_islet::Builder<'_>)| {
        let mut message: Message = Builder::new_default();
        let mut root = message.init_root::<from_islet::Builder<'_>>();
        root.set_in_reply_to(reply_to);
        root.set_incarnation(INCARNATION);
        fill(root);
        flat(&message)
    };
    let driver = messages::DRIVER_REQUESTS + 3;
    vec![
        answer(1, &|mut m| m.set_ready(())),
        answer(1, &|m| {
            let mut failed = m.init_failed();
            failed.set_code("board.setup");
            failed.set_what("the board's setup");
            failed.set_why("€".repeat(400));
            failed.set_remedy("none");
        }),
        answer(driver, &|m| {
            let mut counters = m.init_statistics().init_counters(2);
            counters.reborrow().get(0).set_name("accesses");
            counters.reborrow().get(1).set_value(7);
        }),
        answer(driver, &|m| {
            let mut statistics = m.init_engine().init_statistics();
            statistics.set_instructions(12);
            statistics.init_registers(2).get(1).set_device("board");
        }),
        answer(1, &|m| m.init_engine().set_unsupported("why")),
        answer(1, &|m| {
            let mut loaded = m.init_loaded();
            loaded.set_summary("bzImage, entered at 0x1000200");
            loaded.init_entry().init_cpu().init_x86().set_rip(0x100_0200);
        }),
        answer(0, &|mut m| m.set_attack("a rule")),
        answer(0, &|mut m| m.set_debug_exit(33)),
        answer(0, &|mut m| m.set_triple_fault(1)),
        answer(0, &|mut m| m.set_guest_wake("rtc")),
        answer(0, &|mut m| m.set_bad_chunk(7)),
        answer(1, &|m| {
            let mut saved = m.init_saved();
            saved.set_length(4096);
            saved.set_digest(&[3; 32]);
        }),
        answer(0, &|m| {
            let mut progress = m.init_progress();
            progress.set_phase("ram");
            progress.set_total(9);
        }),
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let with = |who: u8, messages: Vec<Vec<u8>>| messages.into_iter().map(move |m| [&[who][..], &m].concat());
    let load = requests().swap_remove(4);
    with(0, requests()).chain(with(1, setups())).chain(with(1, vec![load])).chain(with(2, answers())).collect()
}

fn words() -> Vec<Vec<u8>> {
    // Numbers of union members, and pointers: to a struct, to lists of bytes and words, far, and to a capability.
    let mut words: Vec<Vec<u8>> = (0..24u8).map(|member| vec![member, 0]).collect();
    // The upper halves of pointers to bytes: how many there are.
    words.extend([0u32, 1, 17, 31, 33, 65, 129].map(|count| (count << 3 | 2).to_le_bytes().to_vec()));
    words.extend([
        vec![0, 0, 0, 0, 2, 0, 3, 0],
        vec![1, 0, 0, 0, 0x22, 0, 0, 0],
        vec![1, 0, 0, 0, 0xfa, 0xff, 0xff, 0xff],
        vec![1, 0, 0, 0, 0x27, 0, 0, 0],
        vec![2, 0, 0, 0, 0, 0, 0, 0],
        vec![3, 0, 0, 0, 0, 0, 0, 0],
        vec![0xfc, 0xff, 0xff, 0xff, 0, 0, 1, 0],
        vec![0x1b, b'[', b'2', b'J'],
    ]);
    words
}
