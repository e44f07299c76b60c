//! What the user asked for: the sealed memfd "config" (vm.capnp, `VmConfig`) as plain data, checked again.
//!
//! The launcher has checked it already, with better messages; here only what the rest relies on is.

use std::time::Duration;

use machine_model::{Machine, MachineVersion, limits};
use snapshot::{Manifest, Part, RamFile, Status};
use wire::vm_capnp::{restore, vm_config};

use crate::core::{Core, Islet, Options, Restore, SavedState};
use crate::plan;

/// Longest message, in bytes.
pub const MAX_CONFIG: usize = 64 << 10;

/// Where the guest's first serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// Nowhere.
    None,
    /// A connected socket, held as "console"; the launcher is behind it.
    Stdio,
    /// Whoever connects to the listening socket held as "console-listener"; its path, for people.
    Socket(String),
    /// The file held as "console"; its path, for people.
    File(String),
}

impl std::fmt::Display for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Stdio => f.write_str("stdio"),
            Self::Socket(path) => write!(f, "socket:{path}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

/// The configuration of a VM.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// The machine.
    pub machine: &'static Machine,
    /// Engine, such as "tcg".
    pub engine: String,
    /// Why this engine.
    pub engine_why: String,
    /// CPU model.
    pub cpu_model: String,
    /// vCPUs.
    pub vcpus: u16,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// The kernel as the user wrote it.
    pub kernel_name: String,
    /// The initrd as the user wrote it; empty for none.
    pub initrd_name: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The console.
    pub console: Console,
    /// What the core must know.
    pub options: Options,
    /// The engine writes what it translates to the file held as "translation-log".
    pub log_translation: bool,
    /// First and last program counter of what is logged; empty for everything.
    pub log_filter: Vec<(u64, u64)>,
    /// The engine writes where its code lies to the file held as "perf-map".
    pub perf_map: bool,
    /// The message itself, for a snapshot's manifest.
    pub message: Vec<u8>,
}

/// What the manifest of a snapshot says to the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// For the core.
    pub restore: Restore,
    /// The VM was paused.
    pub paused: bool,
    /// UTC at guest clock 0.
    pub wall_clock_seconds: i64,
}

impl Snapshot {
    /// Reads the memfd "restore" (vm.capnp, `Restore`).
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn read(mut bytes: &[u8]) -> Result<Self, ConfigError> {
        let malformed = |error: capnp::Error| ConfigError(error.to_string());
        let message = capnp::serialize::read_message(&mut bytes, link::capnp::reader_options()).map_err(malformed)?;
        let from: restore::Reader<'_> = message.get_root().map_err(malformed)?;
        let manifest = Manifest::from_message(from.get_manifest().map_err(malformed)?, Part::Brief)
            .map_err(|error| ConfigError(error.to_string()))?;
        let mut states = Vec::new();
        for (islet, _, file) in plan::state_files() {
            let row = manifest.states.iter().find(|state| state.process == islet.name() && state.file == file);
            let row = row.ok_or_else(|| ConfigError(format!("the snapshot has no state of {islet} ({file})")))?;
            states.push((islet, SavedState { length: row.length, digest: row.digest }));
        }
        if let Some(row) = manifest.states.iter().find(|row| Islet::by_name(&row.process).is_none()) {
            return Err(ConfigError(format!("the snapshot has a state of '{}', which is unknown here", row.process)));
        }
        Ok(Self {
            restore: Restore {
                states,
                asleep: manifest.resume_to == Status::Suspended,
                on_demand: from.get_on_demand(),
                resets: manifest.resets,
                kernel_summary: manifest.kernel_summary,
            },
            paused: manifest.status == Status::Paused,
            wall_clock_seconds: manifest.wall_clock_seconds,
        })
    }
}

/// The manifest of a snapshot of this VM, as far as a supervisor knows it: [`Part::Order`].
///
/// # Errors
/// The configuration does not read; it did when the VM started.
pub fn manifest(config: &Config, core: &Core, wall_clock_seconds: i64) -> Result<Vec<u8>, ConfigError> {
    let malformed = |error: capnp::Error| ConfigError(error.to_string());
    let from = capnp::serialize::read_message(&mut config.message.as_slice(), link::capnp::reader_options());
    let from = from.map_err(malformed)?;
    let mut own = capnp::message::Builder::new_default();
    own.set_root(from.get_root::<vm_config::Reader<'_>>().map_err(malformed)?).map_err(malformed)?;
    // How this VM was started is not what another one is to be like.
    let mut to = own.get_root::<vm_config::Builder<'_>>().map_err(malformed)?;
    to.set_paused(false);
    to.set_detach(false);
    to.set_engine_why("");
    to.set_log_translation(false);
    to.reborrow().init_log_filter(0);
    to.set_perf_map(false);
    to.init_console().set_none(());
    let asleep = core.state().resume_to == control::types::Status::Suspended;
    let resume_to = if asleep { Status::Suspended } else { Status::Running };
    let manifest = Manifest {
        must_understand: Vec::new(),
        config: capnp::serialize::write_message_to_words(&own),
        status: if core.runs() { resume_to } else { Status::Paused },
        resume_to,
        resets: core.resets(),
        wall_clock_seconds,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_summary: core.kernel_summary().to_owned(),
        states: Vec::new(),
        ram: RamFile::default(),
    };
    manifest.to_message(Part::Order).map_err(|error| ConfigError(error.to_string()))
}

/// A configuration that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("the VM's configuration: {0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the message.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn read(mut bytes: &[u8]) -> Result<Self, ConfigError> {
        let malformed = |error: capnp::Error| ConfigError(error.to_string());
        let all = bytes;
        let message = capnp::serialize::read_message(&mut bytes, link::capnp::reader_options()).map_err(malformed)?;
        let from: vm_config::Reader<'_> = message.get_root().map_err(malformed)?;
        let text = |field: capnp::Result<capnp::text::Reader<'_>>| -> Result<String, ConfigError> {
            Ok(String::from_utf8_lossy(field.map_err(malformed)?.as_bytes()).into_owned())
        };
        let machine = MachineVersion::by_name(&text(from.get_machine())?)
            .map_err(|error| ConfigError(error.to_string()))?
            .machine();
        let (vcpus, memory_bytes) = (from.get_vcpus(), from.get_memory_bytes());
        if vcpus == 0 || usize::from(vcpus) > limits::MAX_VCPUS {
            return Err(ConfigError(format!("{vcpus} vCPUs: 1 to {} are possible", limits::MAX_VCPUS)));
        }
        machine.memory.ram(memory_bytes).map_err(|error| ConfigError(error.to_string()))?;
        let patience = from.get_patience_seconds();
        if patience == 0 {
            return Err(ConfigError("a patience of 0 s: no process answers in no time".into()));
        }
        let console = match from.get_console().which() {
            Ok(vm_config::console::None(())) => Console::None,
            Ok(vm_config::console::Stdio(())) => Console::Stdio,
            Ok(vm_config::console::Socket(path)) => Console::Socket(text(path)?),
            Ok(vm_config::console::File(path)) => Console::File(text(path)?),
            Err(error) => return Err(ConfigError(format!("console: {error}"))),
        };
        let log_filter = from.get_log_filter().map_err(malformed)?;
        Ok(Self {
            name: text(from.get_name())?,
            machine,
            engine: text(from.get_engine())?,
            engine_why: text(from.get_engine_why())?,
            cpu_model: text(from.get_cpu_model())?,
            vcpus,
            memory_bytes,
            kernel_name: text(from.get_kernel_name())?,
            initrd_name: text(from.get_initrd_name())?,
            command_line: text(from.get_command_line())?,
            console,
            options: Options {
                paused: from.get_paused(),
                no_reboot: from.get_no_reboot(),
                patience: Duration::from_secs(patience.into()),
            },
            log_translation: from.get_log_translation(),
            log_filter: log_filter.iter().map(|range| (range.get_first(), range.get_last())).collect(),
            perf_map: from.get_perf_map(),
            message: all.to_vec(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use capnp::message::{Builder, HeapAllocator};

    /// A configuration that is all right but for what `change` does.
    pub(crate) fn config(change: impl FnOnce(&mut vm_config::Builder<'_>)) -> Result<Config, ConfigError> {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let mut to = message.init_root::<vm_config::Builder<'_>>();
        to.set_name("vm");
        to.set_machine("q35-0");
        to.set_engine("tcg");
        to.set_cpu_model("atoll-v2");
        to.set_vcpus(1);
        to.set_memory_bytes(5 << 30);
        to.set_kernel_name("vmlinuz");
        to.set_initrd_name("initrd");
        to.set_command_line("console=ttyS0");
        change(&mut to);
        Config::read(&capnp::serialize::write_message_to_words(&message))
    }

    #[test]
    fn a_configuration_is_read() {
        let read = config(|to| {
            to.set_paused(true);
            to.reborrow().init_console().set_socket("there");
        });
        let read = read.unwrap();
        assert_eq!((read.vcpus, read.memory_bytes, read.machine.name), (1, 5 << 30, "q35-0"));
        assert_eq!(read.options, Options { paused: true, ..Options::default() });
        assert_eq!(read.console.to_string(), "socket:there");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |change: fn(&mut vm_config::Builder<'_>)| config(change).unwrap_err().to_string();
        assert!(refused(|to| to.set_machine("q36")).contains("q36"));
        assert!(refused(|to| to.set_vcpus(0)).contains("vCPUs"));
        assert!(refused(|to| to.set_vcpus(65)).contains("64"));
        assert!(refused(|to| to.set_memory_bytes(12345)).contains("MiB"));
        assert!(Config::read(b"12345678").is_err());
    }
}
