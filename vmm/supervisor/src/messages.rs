//! What is said to islets and what they say, between the core's words and messages (islet.capnp).
//!
//! Everything that an islet sent is checked and copied out here; what cannot be read is [`Said::Nonsense`].

use std::time::Duration;

use capnp::message::{Builder, HeapAllocator};
use control::convert::{read_counters, read_statistics};
use control::types::{Counter, Problem, Statistics};
use doorbell::{Behaviour, ReadRule, Space, WindowDesc, WindowKind, WriteRule};
use machine_model::Machine;
use wire::engine_capnp::Tier;
use wire::engine_capnp::{
    self, AddressSpace, Architecture, engine_reply, engine_setup, register_behaviour, register_window,
};
use wire::islet_capnp::{failure, from_islet, saved_area, streamer_setup, to_islet};
use wire::state_capnp::vcpu_state;

use crate::config::{Config, Console};
use crate::core::{Faults, Islet, Said, SavedState, Verb};
use crate::plan::{self, Given};

/// A message that is being built.
pub type Message = Builder<HeapAllocator>;

/// Longest text of an islet that is kept, in bytes.
const MAX_TEXT: usize = 1000;
/// Longest state of a vCPU, in bytes.
const MAX_ENTRY: usize = 32 << 10;

/// Numbers of requests from here on are the driver's own, not the core's.
pub const DRIVER_REQUESTS: u64 = 1 << 63;

fn to(message: &mut Message, id: u64, incarnation: u32) -> to_islet::Builder<'_> {
    let mut root = message.init_root::<to_islet::Builder<'_>>();
    root.set_id(id);
    root.set_incarnation(incarnation);
    root
}

/// What a streamer is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streaming {
    /// The manifest as far as the supervisor knows it; empty where a snapshot is read.
    pub manifest: Vec<u8>,
    /// States to write or read.
    pub states: Vec<(Islet, SavedState)>,
    /// A snapshot is read.
    pub restores: bool,
    /// Memory comes as the guest touches it.
    pub on_demand: bool,
    /// Where.
    pub faults: Option<Faults>,
}

/// What a first message says beside who it is for.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What the process is given.
    pub gifts: &'a [Given],
    /// UTC at guest clock 0.
    pub wall_clock_seconds: i64,
    /// What a streamer is to do.
    pub streaming: Streaming,
}

/// The first message of a process.
#[must_use]
pub fn setup(islet: Islet, incarnation: u32, request: u64, circumstances: &Circumstances<'_>) -> Message {
    let Circumstances { config, gifts, wall_clock_seconds, streaming } = circumstances;
    let mut message = Message::new_default();
    let mut setup = to(&mut message, request, incarnation).init_setup();
    setup.set_vm(&config.name);
    setup.set_name(islet.name());
    setup.set_status_slot(islet.row().status_slot);
    setup.set_machine(config.machine.name);
    setup.set_vcpus(config.vcpus);
    setup.set_memory_bytes(config.memory_bytes);
    let mut named = setup.reborrow().init_descriptors(gifts.len() as u32);
    for (index, gift) in (0..).zip(gifts.iter()) {
        let mut row = named.reborrow().get(index);
        row.set_name(&gift.name);
        row.set_index(u16::try_from(index).unwrap_or(u16::MAX));
    }
    let has = |name: &str| gifts.iter().any(|gift| gift.name == name);
    setup.set_state_row(islet.row().state_row.unwrap_or(0));
    let role = setup.init_role();
    match islet {
        Islet::Engine => engine(config, streaming.on_demand, role.init_engine()),
        Islet::Streamer => streamer(streaming, role.init_streamer()),
        Islet::Board => {
            let mut board = role.init_board();
            board.set_area(plan::BOARD_AREA);
            board.set_wall_clock_seconds(*wall_clock_seconds);
        }
        Islet::Serial0 => {
            let mut serial = role.init_serial();
            serial.set_area(plan::SERIAL_AREA);
            serial.set_line(plan::lines(config.machine).first().map_or(0, |line| line.0));
            let mut console = serial.init_console();
            match config.console {
                Console::None => console.set_none(()),
                Console::File(_) => console.set_file("console"),
                Console::Stdio | Console::Socket(_) => console.set_stream(if has("console") { "console" } else { "" }),
            }
        }
        Islet::Loader => {
            let mut loader = role.init_loader();
            loader.set_kernel("kernel");
            loader.set_kernel_name(&config.kernel_name);
            loader.set_initrd(if has("initrd") { "initrd" } else { "" });
            loader.set_initrd_name(&config.initrd_name);
            loader.set_command_line(&config.command_line);
        }
    }
    message
}

fn streamer(from: &Streaming, to: streamer_setup::Builder<'_>) {
    let area = |islet: Islet, state: &SavedState, mut to: saved_area::Builder<'_>| {
        to.set_process(islet.name());
        to.set_state_row(islet.row().state_row.unwrap_or(0));
        to.set_file(snapshot::state_file(islet.name()));
        to.set_length(state.length);
        to.set_digest(&state.digest);
    };
    let count = from.states.len() as u32;
    if from.restores {
        let mut restore = to.init_restore();
        restore.set_on_demand(from.on_demand);
        let mut list = restore.reborrow().init_states(count);
        for (index, (islet, state)) in (0..).zip(&from.states) {
            area(*islet, state, list.reborrow().get(index));
        }
        if let Some(faults) = from.faults {
            let mut mapping = restore.init_mappings(1).get(0);
            mapping.set_descriptor(plan::FAULTS);
            mapping.set_base(faults.base);
            mapping.set_length(faults.length);
        }
    } else {
        let mut save = to.init_save();
        save.set_manifest(&from.manifest);
        let mut list = save.init_states(count);
        for (index, (islet, state)) in (0..).zip(&from.states) {
            area(*islet, state, list.reborrow().get(index));
        }
    }
}

fn engine(config: &Config, on_demand: bool, mut to: engine_setup::Builder<'_>) {
    to.set_architecture(Architecture::X8664);
    to.set_cpu_model(&config.cpu_model);
    to.set_vcpus(config.vcpus);
    to.set_ram_bytes(plan::ram_length(config));
    to.set_extint_device(plan::BOARD_AREA);
    to.set_notify(plan::NOTIFY);
    to.set_stale(plan::STALE);
    to.set_log_translation(config.log_translation);
    to.set_perf_map(config.perf_map);
    let mut filter = to.reborrow().init_log_filter(config.log_filter.len() as u32);
    for (index, (first, last)) in (0..).zip(&config.log_filter) {
        let mut range = filter.reborrow().get(index);
        range.set_first(*first);
        range.set_last(*last);
    }
    to.set_ram_on_demand(on_demand);
    to.set_tier(match config.engine.as_str() {
        "tcg-t0" => Tier::Interpreted,
        "tcg-check" => Tier::Compared,
        _ => Tier::Emitted,
    });
    // The configuration was checked with the same function.
    let spans = config.machine.memory.ram(config.memory_bytes).unwrap_or_default();
    let mut memory = to.reborrow().init_memory(spans.len() as u32);
    for (index, span) in (0..).zip(&spans) {
        let mut slot = memory.reborrow().get(index);
        slot.set_guest_address(span.start);
        slot.set_length(span.len);
        slot.set_offset(span.start);
        slot.set_descriptor("ram");
        slot.init_kind().set_ram(());
    }
    let windows = plan::windows(config.machine);
    let mut list = to.reborrow().init_windows(windows.len() as u32);
    for (index, (desc, kick)) in (0..).zip(&windows) {
        window(desc, kick, list.reborrow().get(index));
    }
    let lines = plan::lines(config.machine);
    let mut routes = to.init_routes(lines.len() as u32);
    for (index, (line, descriptor)) in (0..).zip(lines) {
        let mut route = routes.reborrow().get(index);
        route.set_line(line);
        route.set_descriptor(descriptor);
        route.init_target().init_pin().set_pin(line);
    }
}

fn window(desc: &WindowDesc, kick: &str, mut to: register_window::Builder<'_>) {
    to.set_name(&desc.name);
    to.set_space(match desc.space {
        Space::Memory => AddressSpace::Memory,
        Space::Port => AddressSpace::Port,
    });
    to.set_base(desc.base);
    to.set_length(desc.len);
    to.set_device(desc.device);
    to.set_kick(kick);
    let mut kind = to.init_kind();
    match &desc.kind {
        WindowKind::PciIndexData => kind.set_pci_index_data(()),
        WindowKind::PciEcam => kind.set_pci_ecam(()),
        WindowKind::Registers(rows) => {
            let mut list = kind.init_registers(rows.len() as u32);
            for (index, row) in (0..).zip(rows) {
                behaviour(row, list.reborrow().get(index));
            }
        }
    }
}

fn behaviour(row: &Behaviour, mut to: register_behaviour::Builder<'_>) {
    to.set_offset(row.offset);
    to.set_length(row.length);
    let mut read = to.reborrow().init_read();
    match row.read {
        ReadRule::Synchronous => read.set_synchronous(()),
        ReadRule::Shadow(cell) => read.set_shadow(cell),
        ReadRule::Formula(index) => read.set_formula(index),
        ReadRule::Constant(value) => read.set_constant(value),
    }
    let mut write = to.init_write();
    match row.write {
        WriteRule::Synchronous => write.set_synchronous(()),
        WriteRule::Posted(mask) => write.set_posted(mask),
        WriteRule::Ignored => write.set_ignored(()),
    }
}

/// What requests speak of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The machine.
    pub machine: &'static Machine,
    /// State of vCPU 0, for [`Verb::LoadVcpu`].
    pub entry: &'a [u8],
    /// How long it may take, for [`Verb::Ping`].
    pub patience: Duration,
    /// What the process is to take, for [`Verb::Load`].
    pub saved: SavedState,
}

/// A request.
///
/// # Errors
/// The state of vCPU 0 is not a message; it was one when it came.
pub fn request(verb: Verb, incarnation: u32, id: u64, subject: Subject<'_>) -> capnp::Result<Message> {
    let mut message = Message::new_default();
    let mut root = to(&mut message, id, incarnation);
    match verb {
        Verb::Run => root.set_run(()),
        Verb::Pause => root.set_pause(()),
        Verb::Reset => root.set_reset(()),
        Verb::Quit => root.set_quit(()),
        Verb::Ping => root.set_ping(subject.patience.as_millis().try_into().unwrap_or(u32::MAX)),
        Verb::PowerButton => root.set_power_button(()),
        Verb::LoadVcpu => {
            let mut bytes = subject.entry;
            let state = capnp::serialize::read_message(&mut bytes, link::capnp::reader_options())?;
            root.init_engine().set_load_vcpu(state.get_root::<vcpu_state::Reader<'_>>()?)?;
        }
        Verb::Suspend => root.init_engine().set_suspend(()),
        Verb::Wake => root.set_wake(()),
        Verb::StartVcpu => root.init_engine().init_start_vcpu().set_s3(subject.machine.memory.facs),
        Verb::Save => root.set_save(subject.machine.name),
        Verb::Load => {
            let mut load = root.init_load();
            load.set_length(subject.saved.length);
            load.set_digest(&subject.saved.digest);
        }
        Verb::Setup => return Err(capnp::Error::failed("a setup is not sent as a request".into())),
    }
    Ok(message)
}

/// A request for counters.
#[must_use]
pub fn statistics(incarnation: u32, id: u64) -> Message {
    let mut message = Message::new_default();
    to(&mut message, id, incarnation).set_statistics(());
    message
}

/// A new client of the console.
#[must_use]
pub fn attach_console(incarnation: u32, id: u64) -> Message {
    let mut message = Message::new_default();
    to(&mut message, id, incarnation).set_attach_console("console");
    message
}

/// A message of an islet, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// For the core.
    Core {
        /// Which start of the islet says so.
        incarnation: u32,
        /// Number of the request that it answers; 0 for an event.
        reply_to: u64,
        /// What.
        said: Said,
    },
    /// The answer to a request of the driver's own.
    Driver {
        /// Number of the request.
        reply_to: u64,
        /// What.
        answer: Answer,
    },
}

/// The answer to a request of the driver's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// A device's counters.
    Counters(Vec<Counter>),
    /// An engine's counters.
    Engine(Box<Statistics>),
    /// Anything else.
    Other,
}

/// Reads a message of an islet.
#[must_use]
pub fn read(message: capnp::Result<from_islet::Reader<'_>>) -> Heard {
    let nonsense = |incarnation, reply_to, error: &dyn std::fmt::Display| {
        let said = Said::Nonsense(short(&format!("sent a message that cannot be read: {error}")));
        Heard::Core { incarnation, reply_to, said }
    };
    let message = match message {
        Ok(message) => message,
        Err(error) => return nonsense(0, 0, &error),
    };
    let (incarnation, reply_to) = (message.get_incarnation(), message.get_in_reply_to());
    if reply_to >= DRIVER_REQUESTS {
        return Heard::Driver { reply_to, answer: answer(message).unwrap_or(Answer::Other) };
    }
    match said(message) {
        Ok(said) => Heard::Core { incarnation, reply_to, said },
        Err(error) => nonsense(incarnation, reply_to, &error),
    }
}

fn answer(message: from_islet::Reader<'_>) -> capnp::Result<Answer> {
    Ok(match message.which()? {
        from_islet::Done(()) => Answer::Done,
        from_islet::Statistics(counters) => Answer::Counters(read_counters(counters?.get_counters()?)?),
        from_islet::Engine(reply) => match reply?.which()? {
            engine_reply::Statistics(statistics) => Answer::Engine(Box::new(read_statistics(statistics?)?)),
            _ => Answer::Other,
        },
        _ => Answer::Other,
    })
}

fn said(message: from_islet::Reader<'_>) -> capnp::Result<Said> {
    Ok(match message.which()? {
        from_islet::Ready(()) => Said::Ready,
        from_islet::Done(()) => Said::Done,
        from_islet::Failed(failure) => Said::Failed(problem(failure?)?),
        from_islet::Engine(reply) => match reply?.which()? {
            engine_capnp::engine_reply::Done(()) => Said::Done,
            engine_capnp::engine_reply::Unsupported(why) => {
                let why = text(why)?;
                Said::Failed(Problem::new("engine.unsupported", "a request to the engine", why, "use another engine"))
            }
            _ => Said::Nonsense("answered with something that was not asked for".into()),
        },
        from_islet::Loaded(loaded) => {
            let loaded = loaded?;
            let mut copy = Message::new_default();
            copy.set_root(loaded.get_entry()?)?;
            let entry = capnp::serialize::write_message_to_words(&copy);
            if entry.len() > MAX_ENTRY {
                return Err(capnp::Error::failed("the state of vCPU 0 is too long".into()));
            }
            Said::Loaded { entry, summary: text(loaded.get_summary())? }
        }
        from_islet::Statistics(_) => Said::Nonsense("sent statistics that were not asked for".into()),
        from_islet::GuestPowerOff(()) => Said::PowerOff,
        from_islet::GuestReset(()) => Said::Reset,
        from_islet::DebugExit(value) => Said::DebugExit(value),
        from_islet::TripleFault(vcpu) => Said::TripleFault(vcpu),
        from_islet::Attack(what) => Said::Attack(text(what)?),
        from_islet::ConsoleClosed(()) => Said::ConsoleClosed,
        from_islet::Saved(saved) => {
            let saved = saved?;
            Said::Saved(SavedState { length: saved.get_length(), digest: digest(saved.get_digest())? })
        }
        from_islet::ReadyWithFaults(faults) => {
            let faults = faults?;
            Said::ReadyWithFaults(Faults { base: faults.get_base(), length: faults.get_length() })
        }
        from_islet::GuestSuspend(()) => Said::Suspend,
        from_islet::GuestWake(why) => Said::Wake(text(why)?),
        from_islet::Progress(progress) => {
            let progress = progress?;
            Said::Progress {
                phase: text(progress.get_phase())?,
                done: progress.get_done(),
                total: progress.get_total(),
            }
        }
        from_islet::BadChunk(offset) => Said::BadChunk(offset),
        from_islet::Call(_) => Said::Nonsense("sent a call that x86 guests do not have".into()),
    })
}

fn problem(failure: failure::Reader<'_>) -> capnp::Result<Problem> {
    Ok(Problem {
        code: text(failure.get_code())?,
        what: text(failure.get_what())?,
        why: text(failure.get_why())?,
        remedy: text(failure.get_remedy())?,
    })
}

fn digest(field: capnp::Result<&[u8]>) -> capnp::Result<[u8; 32]> {
    <[u8; 32]>::try_from(field?).map_err(|_| capnp::Error::failed("a digest does not have 32 bytes".into()))
}

fn text(field: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<String> {
    Ok(short(&String::from_utf8_lossy(field?.as_bytes())))
}

/// Bounded, and without what could command a terminal.
fn short(text: &str) -> String {
    let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
