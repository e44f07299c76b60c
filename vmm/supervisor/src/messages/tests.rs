//! What goes out can be read by those that it is for, and whatever comes in has a meaning.

use super::*;
use crate::config::tests::config;
use crate::plan::{Surroundings, gifts};

fn root(message: &Message) -> to_islet::Reader<'_> {
    message.get_root_as_reader().unwrap()
}

fn setup_of(islet: Islet, console: bool) -> Message {
    let config = config(|to| to.reborrow().init_console().set_socket("c")).unwrap();
    let gifts = gifts(islet, &config, Surroundings { connected: console, ..Default::default() });
    let streaming = Streaming::default();
    setup(islet, 3, 77, &Circumstances { config: &config, gifts: &gifts, wall_clock_seconds: 1234, streaming })
}

#[test]
fn a_setup_says_who_and_with_what() {
    for islet in Islet::ALL {
        let message = setup_of(islet, true);
        let root = root(&message);
        assert_eq!((root.get_id(), root.get_incarnation()), (77, 3));
        let Ok(to_islet::Setup(Ok(setup))) = root.which() else { panic!() };
        assert_eq!(setup.get_name().unwrap(), islet.name());
        let named = setup.get_descriptors().unwrap();
        assert!(named.iter().zip(0..).all(|(row, n)| row.get_index() == n && !row.get_name().unwrap().is_empty()));
        assert!(named.iter().any(|row| row.get_name().unwrap() == "status"));
        let bytes = capnp::serialize::write_message_to_words(&message);
        assert!(bytes.len() < keeper_protocol::MAX_PAYLOAD / 2, "{islet}: {}", bytes.len());
    }
}

#[test]
fn the_console_is_named_only_if_somebody_is_there() {
    for (connected, name) in [(true, "console"), (false, "")] {
        let message = setup_of(Islet::Serial0, connected);
        let Ok(to_islet::Setup(Ok(setup))) = root(&message).which() else { panic!() };
        let Ok(wire::islet_capnp::setup::role::Serial(Ok(serial))) = setup.get_role().which() else { panic!() };
        let Ok(wire::islet_capnp::serial_setup::console::Stream(Ok(stream))) = serial.get_console().which() else {
            panic!()
        };
        assert_eq!((stream, serial.get_line(), serial.get_area()), (name.into(), 4, 1));
    }
}

#[test]
fn the_engine_is_told_of_memory_windows_and_lines() {
    let message = setup_of(Islet::Engine, false);
    let Ok(to_islet::Setup(Ok(setup))) = root(&message).which() else { panic!() };
    let Ok(wire::islet_capnp::setup::role::Engine(Ok(engine))) = setup.get_role().which() else { panic!() };
    let memory = engine.get_memory().unwrap();
    assert_eq!(memory.iter().map(|slot| slot.get_length()).sum::<u64>(), (5 << 30) - 0x2_0000);
    assert!(memory.iter().all(|slot| slot.get_offset() == slot.get_guest_address()));
    assert_eq!((engine.get_ram_bytes(), engine.get_routes().unwrap().get(0).get_line()), (6 << 30, 4));
    let names: Vec<String> =
        engine.get_windows().unwrap().iter().map(|w| w.get_name().unwrap().to_string().unwrap()).collect();
    assert!(
        ["pit", "pci-ecam", "ioapic", "serial0"].iter().all(|name| names.contains(&(*name).to_owned())),
        "{names:?}"
    );
}

fn heard(fill: impl FnOnce(from_islet::Builder<'_>)) -> Heard {
    let mut message = Message::new_default();
    let mut root = message.init_root::<from_islet::Builder<'_>>();
    root.set_incarnation(5);
    root.set_in_reply_to(9);
    fill(root);
    read(message.get_root_as_reader())
}

fn said_by(fill: impl FnOnce(from_islet::Builder<'_>)) -> Said {
    match heard(fill) {
        Heard::Core { incarnation: 5, reply_to: 9, said } => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_an_islet_says_is_read() {
    assert_eq!(said_by(|mut m| m.set_ready(())), Said::Ready);
    assert_eq!(said_by(|m| m.init_engine().set_done(())), Said::Done);
    assert_eq!(said_by(|mut m| m.set_debug_exit(7)), Said::DebugExit(7));
    assert_eq!(said_by(|mut m| m.set_attack("a\u{1b}[2J")), Said::Attack("a [2J".into()));
    let long = said_by(|mut m| m.set_attack("€".repeat(10_000)));
    assert!(matches!(long, Said::Attack(text) if text.len() <= MAX_TEXT));
    let failed = said_by(|m| {
        let mut failed = m.init_failed();
        failed.set_what("kernel");
        failed.set_code("kernel.truncated");
    });
    assert_eq!(failed, Said::Failed(Problem::new("kernel.truncated", "kernel", "", "")));
    assert!(matches!(said_by(|m| _ = m.init_call()), Said::Nonsense(_)));
    let driver = heard(|mut m| {
        m.set_in_reply_to(DRIVER_REQUESTS + 1);
        let mut list = m.init_statistics().init_counters(1);
        list.reborrow().get(0).set_value(3);
    });
    let counters = vec![Counter { value: 3, ..Counter::default() }];
    assert_eq!(driver, Heard::Driver { reply_to: DRIVER_REQUESTS + 1, answer: Answer::Counters(counters) });
}

#[test]
fn the_loaders_state_goes_to_the_engine_as_it_is() {
    let said = said_by(|m| {
        let mut loaded = m.init_loaded();
        loaded.set_summary("bzImage");
        let mut core = loaded.init_entry().init_cpu().init_x86();
        core.set_rip(0xfff0);
        core.set_lapic(&[9; 1024]);
    });
    let Said::Loaded { entry, summary } = said else { panic!("{said:?}") };
    assert_eq!(summary, "bzImage");
    let machine = config(|_| ()).unwrap().machine;
    let about = |entry| Subject {
        machine,
        entry,
        patience: Duration::from_secs(3),
        saved: SavedState { length: 9, digest: [7; 32] },
    };
    let message = request(Verb::LoadVcpu, 5, 10, about(&entry)).unwrap();
    let Ok(to_islet::Engine(Ok(engine))) = root(&message).which() else { panic!() };
    let Ok(engine_capnp::engine_request::LoadVcpu(Ok(state))) = engine.which() else { panic!() };
    let Ok(vcpu_state::cpu::X86(Ok(core))) = state.get_cpu().which() else { panic!() };
    assert_eq!((core.get_rip(), core.get_lapic().unwrap().len()), (0xfff0, 1024));
    assert!(request(Verb::LoadVcpu, 5, 10, about(b"garbage!")).is_err());
    assert!(request(Verb::Setup, 5, 10, about(&[])).is_err());
    let load = request(Verb::Load, 5, 10, about(&[])).unwrap();
    let Ok(to_islet::Load(Ok(load))) = root(&load).which() else { panic!() };
    assert_eq!((load.get_length(), load.get_digest().unwrap()), (9, &[7; 32][..]));
}

#[test]
fn garbage_has_a_meaning() {
    let mut message = Message::new_default();
    message.init_root::<from_islet::Builder<'_>>().init_loaded().set_summary("s");
    let good = capnp::serialize::write_message_to_words(&message);
    let mut random = 99_u64;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (random >> 33) as usize % bad.len();
        bad[at] ^= (random >> 20) as u8;
        let mut bytes = bad.as_slice();
        if let Ok(message) = capnp::serialize::read_message(&mut bytes, link::capnp::reader_options()) {
            let _ = read(message.get_root());
        }
    }
}
