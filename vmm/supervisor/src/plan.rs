//! Who gets what, as tables: the memfds and eventfds of a VM, and which of them each process is given under which name.

use std::borrow::Cow;

use doorbell::{WindowDesc, board, uart};
use guest_memory::DirtyLayout;
use keeper_protocol::{Access, MemfdFlags};
use machine_model::Machine;
use profile::{Kind, Profile};
use snapshot::{MANIFEST_FILE, MEMORY_FILE};

use crate::config::{Config, Console};
use crate::core::Islet;
use crate::{journal, log};

/// Area of the board in the windows memfd.
pub const BOARD_AREA: u16 = 0;
/// Area of the first serial port.
pub const SERIAL_AREA: u16 = 1;
/// Names of the devices by area, for counters.
pub const AREAS: [Islet; 2] = [Islet::Board, Islet::Serial0];

/// How a memfd comes into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// The keeper makes it, empty.
    Keeper,
    /// The supervisor makes it and writes its header.
    Supervisor,
}

/// A memfd of the VM.
#[derive(Clone, Copy, Debug)]
pub struct MemfdRow {
    /// The name under which the keeper holds it.
    pub name: &'static str,
    /// Length in bytes.
    pub length: u64,
    /// Who makes it.
    pub maker: Maker,
    /// The supervisor cannot have it.
    pub guarded: bool,
}

/// Nobody can change the length of a memfd of a VM.
#[must_use]
pub const fn memfd_flags(guarded: bool) -> MemfdFlags {
    let sealed = MemfdFlags::SEAL_SHRINK.union(MemfdFlags::SEAL_GROW).union(MemfdFlags::SEAL_SEAL);
    if guarded { sealed.union(MemfdFlags::GUARDED) } else { sealed }
}

/// Length of the RAM memfd.
#[must_use]
pub fn ram_length(config: &Config) -> u64 {
    // The configuration was checked with the same function.
    config.machine.memory.ram_file_len(config.memory_bytes).unwrap_or(0)
}

/// The memfds of a VM (design, `shared-memory.md`), in the order in which they are made.
#[must_use]
pub fn memfds(config: &Config) -> [MemfdRow; 7] {
    let ram = ram_length(config);
    let row = |name, length, maker, guarded| MemfdRow { name, length, maker, guarded };
    let pages = u64::from(keeper_protocol::MAX_STATUS_SLOTS.min(64));
    [
        row("ram", ram, Maker::Keeper, true),
        row("dirty", DirtyLayout::new(ram).len, Maker::Supervisor, false),
        row("windows", doorbell::layout::WINDOWS_LEN, Maker::Supervisor, false),
        row("status", pages * enter::status::STATUS_PAGE_SIZE as u64, Maker::Keeper, false),
        row("state", state::MEMFD_BYTES, Maker::Keeper, true),
        row("events", log::LENGTH, Maker::Keeper, false),
        row("adoption", journal::LENGTH, Maker::Keeper, false),
    ]
}

/// Wakes the board.
pub const BOARD_KICK: &str = "board:kick";
/// The board rings the engine.
pub const NOTIFY: &str = "board:notify";
/// Whoever has written to pages with translated code rings the engine.
pub const STALE: &str = "engine:stale";
/// Wakes the first serial port.
pub const SERIAL_KICK: &str = "serial0:kick";
/// Interrupt line of the first serial port.
pub const SERIAL_IRQ: &str = "serial0:irq";
/// The eventfds of a VM.
pub const EVENTFDS: [&str; 5] = [BOARD_KICK, NOTIFY, STALE, SERIAL_KICK, SERIAL_IRQ];

/// Under these names the keeper holds the files of a snapshot that is being written, and of the one that the VM began with.
pub const JOB_FILE: &str = "job:";
/// As [`JOB_FILE`].
pub const SNAPSHOT_FILE: &str = "snapshot:";
/// The engine's userfaultfd over RAM.
pub const FAULTS: &str = "engine:faults";

/// The islets with saved state, and their files in a snapshot.
pub fn state_files() -> impl Iterator<Item = (Islet, u16, String)> {
    let row = |islet: Islet| Some((islet, islet.row().state_row?, snapshot::state_file(islet.name())));
    Islet::ALL.into_iter().filter_map(row)
}

/// The files of a snapshot.
#[must_use]
pub fn snapshot_files() -> Vec<String> {
    let states = state_files().map(|(_, _, file)| file);
    [MANIFEST_FILE.to_owned(), MEMORY_FILE.to_owned()].into_iter().chain(states).collect()
}

/// What the engine translates is written here.
pub const TRANSLATION_LOG: &str = "translation-log";
/// Where the engine's code lies is written here.
pub const PERF_MAP: &str = "perf-map";

/// A console client's connection, held by the keeper.
pub const CONSOLE_CONNECTION: &str = "console-connection";

/// A descriptor that a process is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name in the process's setup.
    pub name: Cow<'static, str>,
    /// The name under which it is held.
    pub held: Cow<'static, str>,
    /// In which form.
    pub access: Access,
}

const fn given(name: &'static str, held: &'static str) -> Given {
    Given { name: Cow::Borrowed(name), held: Cow::Borrowed(held), access: Access::Same }
}

const fn same(name: &'static str) -> Given {
    given(name, name)
}

const fn read_only(name: &'static str) -> Given {
    Given { name: Cow::Borrowed(name), held: Cow::Borrowed(name), access: Access::ReadOnly }
}

/// A file of a snapshot.
fn file(prefix: &str, name: &str, access: Access) -> Given {
    Given { name: Cow::Owned(name.to_owned()), held: Cow::Owned(format!("{prefix}{name}")), access }
}

const ENGINE: &[Given] = &[
    same("ram"),
    same("dirty"),
    same("windows"),
    same("status"),
    same("state"),
    same(BOARD_KICK),
    same(SERIAL_KICK),
    same(SERIAL_IRQ),
    same(NOTIFY),
    same(STALE),
];
const BOARD: &[Given] =
    &[same("windows"), same("status"), same("state"), given("kick", BOARD_KICK), given("notify", NOTIFY)];
const SERIAL: &[Given] =
    &[same("windows"), same("status"), same("state"), given("kick", SERIAL_KICK), given("irq", SERIAL_IRQ)];
const LOADER: &[Given] = &[same("ram"), same("status"), read_only("kernel")];

const SAVE: &[Given] = &[read_only("ram"), read_only("state"), same("status")];
const RESTORE: &[Given] = &[same("ram"), same("state"), same("status")];

/// What a gift depends on beside the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// A client of the console is there.
    pub connected: bool,
    /// A snapshot is to be read, not written.
    pub restores: bool,
    /// Its memory comes on demand.
    pub on_demand: bool,
}

/// The profile of a process by name.
#[must_use]
pub const fn role(islet: Islet, around: Surroundings) -> &'static str {
    if matches!(islet, Islet::Streamer) && around.restores { "streamer-target" } else { islet.row().role }
}

/// What a process may do; `None` if there is no such role.
#[must_use]
pub fn profile(islet: Islet, config: &Config, around: Surroundings) -> Option<&'static Profile> {
    match islet {
        Islet::Engine if config.log_translation || config.perf_map => Some(profile::engine_with_files()),
        _ => Kind::from_name(role(islet, around)).map(Kind::profile),
    }
}

/// What a process is given.
#[must_use]
pub fn gifts(islet: Islet, config: &Config, around: Surroundings) -> Vec<Given> {
    let mut list = match islet {
        Islet::Engine => ENGINE,
        Islet::Board => BOARD,
        Islet::Serial0 => SERIAL,
        Islet::Loader => LOADER,
        Islet::Streamer if around.restores => RESTORE,
        Islet::Streamer => SAVE,
    }
    .to_vec();
    match islet {
        Islet::Serial0 => match config.console {
            Console::Stdio | Console::File(_) => list.push(same("console")),
            Console::Socket(_) if around.connected => list.push(given("console", CONSOLE_CONNECTION)),
            Console::Socket(_) | Console::None => {}
        },
        Islet::Engine => {
            list.extend(config.log_translation.then(|| same(TRANSLATION_LOG)));
            list.extend(config.perf_map.then(|| same(PERF_MAP)));
        }
        Islet::Loader if !config.initrd_name.is_empty() => list.push(read_only("initrd")),
        Islet::Streamer => {
            let (prefix, access) =
                if around.restores { (SNAPSHOT_FILE, Access::ReadOnly) } else { (JOB_FILE, Access::Same) };
            list.extend(snapshot_files().iter().map(|name| file(prefix, name, access)));
            if around.on_demand {
                list.push(same(FAULTS));
            }
        }
        _ => {}
    }
    list
}

/// The register windows of the machine, each with the descriptor that wakes its device.
#[must_use]
pub fn windows(machine: &Machine) -> Vec<(WindowDesc, &'static str)> {
    let mut list: Vec<_> = board::windows(machine, BOARD_AREA).into_iter().map(|window| (window, BOARD_KICK)).collect();
    if let Some(port) = machine.ports.serial.first() {
        list.push((uart::window(Islet::Serial0.name(), port.ports.start, SERIAL_AREA), SERIAL_KICK));
    }
    list
}

/// The interrupt lines of devices outside the board: number, and the descriptor that raises it.
#[must_use]
pub fn lines(machine: &Machine) -> Vec<(u16, &'static str)> {
    let line = |irq: u8| (u16::from(machine.interrupts.gsi_of_isa(irq)), SERIAL_IRQ);
    machine.ports.serial.first().map(|port| line(port.irq)).into_iter().collect()
}

/// Guest RAM that a process can reach, in bytes.
#[must_use]
pub fn grant(islet: Islet, config: &Config) -> u64 {
    match islet {
        Islet::Engine | Islet::Loader | Islet::Streamer => config.memory_bytes,
        Islet::Board | Islet::Serial0 => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;
    use keeper_protocol::Name;

    #[test]
    fn every_gift_is_made_or_held_by_the_launcher() {
        let config = config(|to| {
            to.reborrow().init_console().set_stdio(());
            to.set_log_translation(true);
            to.set_perf_map(true);
        });
        let config = config.unwrap();
        let from_outside = ["kernel", "initrd", "console", FAULTS, TRANSLATION_LOG, PERF_MAP];
        let made: Vec<&str> = memfds(&config).iter().map(|row| row.name).chain(EVENTFDS).collect();
        for islet in Islet::ALL {
            for restores in [false, true] {
                for gift in gifts(islet, &config, Surroundings { restores, on_demand: restores, ..Default::default() })
                {
                    let held = gift.held.as_ref();
                    let snapshot = [JOB_FILE, SNAPSHOT_FILE].iter().any(|prefix| held.starts_with(prefix));
                    assert!(snapshot || made.contains(&held) || from_outside.contains(&held), "{islet}: {gift:?}");
                    assert!(Name::new(held).is_ok());
                }
            }
        }
        assert!(made.iter().all(|name| Name::new(name).is_ok()));
    }

    #[test]
    fn only_who_must_has_guest_memory() {
        let config = config(|_| ()).unwrap();
        for islet in Islet::ALL {
            let has = gifts(islet, &config, Surroundings { connected: true, ..Default::default() })
                .iter()
                .any(|gift| gift.held == "ram");
            assert_eq!(has, grant(islet, &config) > 0, "{islet}");
        }
        assert!(memfds(&config)[0].guarded && memfds(&config)[0].length == 6 << 30);
    }

    #[test]
    fn only_an_engine_with_files_may_write_files() {
        let limits = |config: &Config, islet| {
            let profile = profile(islet, config, Surroundings::default()).unwrap();
            profile.limits.iter().any(|limit| limit.name == "fsize")
        };
        let plain = config(|_| ()).unwrap();
        let files = |config: &Config| gifts(Islet::Engine, config, Surroundings::default()).len();
        assert!(limits(&plain, Islet::Engine));
        for config in [config(|to| to.set_log_translation(true)), config(|to| to.set_perf_map(true))] {
            let config = config.unwrap();
            assert_eq!(files(&config), files(&plain) + 1);
            assert!(!limits(&config, Islet::Engine) && limits(&config, Islet::Board));
        }
    }

    #[test]
    fn every_window_and_line_names_a_descriptor_of_the_engine() {
        let config = config(|_| ()).unwrap();
        let has =
            |name: &str| gifts(Islet::Engine, &config, Surroundings::default()).iter().any(|gift| gift.name == name);
        let windows = windows(config.machine);
        assert!(windows.iter().all(|(_, kick)| has(kick)));
        assert_eq!(windows.last().unwrap().0.base, 0x3f8);
        assert_eq!(lines(config.machine), [(4, SERIAL_IRQ)]);
        assert!(has(SERIAL_IRQ) && has(NOTIFY) && has(STALE));
    }
}
