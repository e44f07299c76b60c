//! `atoll restore`: a VM that goes on where its snapshot was made.
//!
//! The idea: a snapshot says itself what VM it is of, in the words of `atoll run`; so a restore is a run whose options come from
//! there, except for those that do not change the machine.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use capnp::message::Builder;
use clap::Args;
use control::exit_status;
use machine_model::MachineVersion;
use snapshot::{Manifest, Part, Snapshot};
use wire::vm_capnp::{restore, vm_config};

use super::snapshot::explain;
use crate::commands::run;
use crate::failure::{Failure, Result, problem};
use crate::options::{Merged, Options};
use crate::plan::Plan;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The snapshot: a directory that 'atoll snapshot' made
    #[arg(value_name = "DIRECTORY", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
    /// Name of the VM [default: that of the VM that was saved]
    #[arg(long)]
    name: Option<String>,
    /// Kernel for resets, if it is not where it was
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    /// Initial RAM disk for resets, if it is not where it was
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    /// Engine to go on with, which is not part of the machine [default: that of the VM that was saved]
    #[arg(long)]
    engine: Option<String>,
    /// Serial console: stdio, socket:PATH, file:PATH or none [default: stdio; a socket in the VM's directory with --detach]
    #[arg(long, value_name = "WHERE")]
    console: Option<String>,
    /// How long a process of the VM may take to answer before it is killed [default: that of the VM that was saved]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<String>,
    /// Write what the translator makes of the guest's code, as 'atoll run' does
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    log_translation: Option<PathBuf>,
    /// Log only code at these addresses, as 'atoll run' does
    #[arg(long, value_name = "RANGES")]
    log_filter: Option<String>,
    /// Write where the translator's code lies, as 'atoll run' does
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    perf_map: Option<PathBuf>,
    /// Start at once, and bring memory as the guest touches it
    #[arg(long)]
    on_demand: bool,
    /// Do not let the guest run before 'atoll resume'
    #[arg(long)]
    paused: bool,
    /// Return as soon as the VM runs, and let it run on
    #[arg(long)]
    detach: bool,
}

/// What a VM begins with that is restored.
#[derive(Debug)]
pub struct Restore {
    /// A message with vm.capnp `Restore`.
    pub message: Vec<u8>,
    /// The snapshot's files by name, open for reading.
    pub files: Vec<(String, OwnedFd)>,
}

/// Returns the exit status of the VM.
pub fn restore(arguments: Arguments) -> std::result::Result<u8, Failure> {
    let not_started = |problem| Failure { status: exit_status::NOT_STARTED, problem };
    let (plan, merged, restore) = prepare(arguments).map_err(not_started)?;
    run::begin(&plan, &merged, Some(&restore))
}

fn prepare(arguments: Arguments) -> Result<(Plan, Merged, Restore)> {
    let path = arguments.directory.clone();
    let found = Snapshot::open(&path).map_err(|error| explain(&path, &error))?;
    let on_demand = arguments.on_demand;
    let saved = saved_options(&path, found.manifest())?;
    let over = Options {
        name: arguments.name,
        kernel: arguments.kernel,
        initrd: arguments.initrd,
        engine: arguments.engine,
        console: arguments.console,
        patience: arguments.patience,
        log_translation: arguments.log_translation,
        log_filter: arguments.log_filter,
        perf_map: arguments.perf_map,
        paused: arguments.paused,
        detach: arguments.detach,
        ..Options::default()
    };
    let merged = Merged::over(over, saved, &path);
    let plan = Plan::new(&merged)?;
    check_memory(&path, &plan, found.manifest())?;
    let failed = |error: &dyn std::fmt::Display| {
        problem("snapshot.io", format!("the snapshot '{}' cannot be passed on", path.display()), error, "")
    };
    let files: std::io::Result<Vec<(String, OwnedFd)>> =
        found.files().map(|(name, fd)| Ok((name.to_owned(), fd.try_clone_to_owned()?))).collect();
    let mut message = Builder::new_default();
    let mut to = message.init_root::<restore::Builder<'_>>();
    to.set_manifest(&found.manifest().to_message(Part::Brief).map_err(|error| explain(&path, &error))?);
    to.set_on_demand(on_demand);
    let message = capnp::serialize::write_message_to_words(&message);
    Ok((plan, merged, Restore { message, files: files.map_err(|error| failed(&error))? }))
}

/// The options with which the VM of the snapshot would be started.
fn saved_options(path: &Path, manifest: &Manifest) -> Result<Options> {
    let wrong = |error: capnp::Error| {
        let what = format!("the snapshot '{}'", path.display());
        let remedy = "the snapshot cannot be trusted: restore another one";
        problem("snapshot.damaged", what, format!("field 'config' of its manifest: {error}"), remedy)
    };
    let read = || -> capnp::Result<Options> {
        let message =
            capnp::serialize::read_message(&mut manifest.config.as_slice(), capnp::message::ReaderOptions::new())?;
        let config: vm_config::Reader<'_> = message.get_root()?;
        let text = |field: capnp::Result<capnp::text::Reader<'_>>| -> capnp::Result<String> { Ok(field?.to_string()?) };
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Options {
            name: some(text(config.get_name())?),
            engine: some(text(config.get_engine())?),
            cpus: Some(config.get_vcpus().to_string()),
            memory: Some(config.get_memory_bytes().to_string()),
            kernel: some(text(config.get_kernel_name())?).map(PathBuf::from),
            initrd: some(text(config.get_initrd_name())?).map(PathBuf::from),
            cmdline: Some(text(config.get_command_line())?),
            machine: some(text(config.get_machine())?),
            cpu_model: some(text(config.get_cpu_model())?),
            patience: Some(config.get_patience_seconds().to_string()),
            no_reboot: config.get_no_reboot(),
            ..Options::default()
        })
    };
    read().map_err(wrong)
}

/// RAM that is not as long as the machine's cannot be its RAM.
fn check_memory(path: &Path, plan: &Plan, manifest: &Manifest) -> Result<()> {
    let machine = MachineVersion::by_name(plan.machine);
    let length = machine.and_then(|version| version.machine().memory.ram_file_len(plan.memory_bytes));
    match length {
        Ok(length) if length == manifest.ram.length => Ok(()),
        _ => Err(problem(
            "snapshot.damaged",
            format!("the snapshot '{}'", path.display()),
            format!("field 'ram.length' of its manifest: {} is not that of the machine", manifest.ram.length),
            "the snapshot cannot be trusted: restore another one",
        )),
    }
}
