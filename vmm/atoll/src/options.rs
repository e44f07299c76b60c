//! What `atoll run` is told, on the command line and in vm.toml: the same fields, the command line wins.
//!
//! The idea: options are texts until they have been merged; then each is checked once ([`crate::plan`]), and an error can say
//! where the text came from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::failure::{Result, problem};

/// Longest vm.toml.
const MAX_CONFIGURATION: u64 = 1 << 20;

/// The options that the command line and vm.toml have in common.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Name of the VM [default: vm1, vm2, …]
    #[arg(long)]
    pub name: Option<String>,
    /// CPU engine: auto or tcg
    #[arg(long)]
    pub engine: Option<String>,
    /// Number of vCPUs
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub cpus: Option<String>,
    /// Guest RAM, such as 512M or 1GiB [default: 512M]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "text_or_number")]
    pub memory: Option<String>,
    /// Kernel: bzImage, or an ELF file with a PVH or multiboot entry
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Serial console: stdio, socket:PATH, file:PATH or none [default: stdio; a socket in the VM's directory with --detach]
    #[arg(long, value_name = "WHERE")]
    pub console: Option<String>,
    /// Machine version
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// CPU model
    #[arg(long, value_name = "NAME")]
    pub cpu_model: Option<String>,
    /// How long a process of the VM may take to answer before it is killed [default: 20]
    #[arg(long, value_name = "SECONDS")]
    #[serde(deserialize_with = "text_or_number")]
    pub patience: Option<String>,
    /// Write what the translator makes of the guest's code: the code, its operations, and the host's code
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub log_translation: Option<PathBuf>,
    /// Log only code at these addresses: START..END, START+LENGTH or START-LENGTH, several with commas between them
    #[arg(long, value_name = "RANGES")]
    pub log_filter: Option<String>,
    /// Write where the translator's code lies, for profilers such as perf
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub perf_map: Option<PathBuf>,
    /// Do not let the guest run before 'atoll resume'
    #[arg(long)]
    pub paused: bool,
    /// End when the guest resets
    #[arg(long)]
    pub no_reboot: bool,
    /// Return as soon as the VM runs, and let it run on
    #[arg(long)]
    pub detach: bool,
}

/// Accepts `cpus = 1` and `memory = 536870912` beside their texts.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<String>, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number, or a text such as \"512M\"")
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        fn visit_str<E: de::Error>(self, value: &str) -> std::result::Result<Self::Value, E> {
            Ok(Some(value.to_owned()))
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// Options with the file that the missing ones came from.
#[derive(Debug, Default)]
pub struct Merged {
    /// What counts.
    pub options: Options,
    command_line: Options,
    file: Option<PathBuf>,
}

impl Merged {
    /// The command line alone.
    pub fn command_line(options: Options) -> Self {
        Self { options: options.clone(), command_line: options, file: None }
    }

    /// The command line over what `path` says. Paths of files in it are relative to it.
    pub fn with_file(command_line: Options, path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let file = parse(&read(path)?, path)?;
        let beside = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        let over = command_line.clone();
        let options = Options {
            name: over.name.or(file.name),
            engine: over.engine.or(file.engine),
            cpus: over.cpus.or(file.cpus),
            memory: over.memory.or(file.memory),
            kernel: over.kernel.or(beside(file.kernel)),
            initrd: over.initrd.or(beside(file.initrd)),
            cmdline: over.cmdline.or(file.cmdline),
            console: over.console.or(file.console.map(|console| console_beside(&console, folder))),
            machine: over.machine.or(file.machine),
            cpu_model: over.cpu_model.or(file.cpu_model),
            patience: over.patience.or(file.patience),
            log_translation: over.log_translation.or(beside(file.log_translation)),
            log_filter: over.log_filter.or(file.log_filter),
            perf_map: over.perf_map.or(beside(file.perf_map)),
            paused: over.paused || file.paused,
            no_reboot: over.no_reboot || file.no_reboot,
            detach: over.detach || file.detach,
        };
        Ok(Self { options, command_line, file: Some(path.to_owned()) })
    }

    /// The command line over the options of the VM that a snapshot is of.
    pub fn over(command_line: Options, saved: Options, snapshot: &Path) -> Self {
        let over = command_line.clone();
        let options = Options {
            name: over.name.or(saved.name),
            engine: over.engine.or(saved.engine),
            kernel: over.kernel.or(saved.kernel),
            initrd: over.initrd.or(saved.initrd),
            console: over.console,
            patience: over.patience.or(saved.patience),
            log_translation: over.log_translation,
            log_filter: over.log_filter,
            perf_map: over.perf_map,
            paused: over.paused,
            detach: over.detach,
            ..saved
        };
        Self { options, command_line, file: Some(snapshot.to_owned()) }
    }

    /// How an error names an option: `--memory`, or `'memory' in vm.toml`.
    pub fn origin(&self, option: &str) -> String {
        let over = &self.command_line;
        let given = match option {
            "name" => over.name.is_some(),
            "engine" => over.engine.is_some(),
            "cpus" => over.cpus.is_some(),
            "memory" => over.memory.is_some(),
            "kernel" => over.kernel.is_some(),
            "initrd" => over.initrd.is_some(),
            "cmdline" => over.cmdline.is_some(),
            "console" => over.console.is_some(),
            "machine" => over.machine.is_some(),
            "cpu-model" => over.cpu_model.is_some(),
            "patience" => over.patience.is_some(),
            "log-translation" => over.log_translation.is_some(),
            "log-filter" => over.log_filter.is_some(),
            "perf-map" => over.perf_map.is_some(),
            _ => false,
        };
        match &self.file {
            Some(file) if !given => format!("'{option}' in {}", file.display()),
            _ => format!("--{option}"),
        }
    }
}

fn console_beside(console: &str, folder: &Path) -> String {
    for kind in ["socket:", "file:"] {
        if let Some(path) = console.strip_prefix(kind).filter(|path| !path.is_empty()) {
            return format!("{kind}{}", folder.join(path).display());
        }
    }
    console.to_owned()
}

fn read(path: &Path) -> Result<String> {
    let failed = |why: String| {
        let what = format!("the configuration {} (--config) cannot be read", path.display());
        problem("run.config", what, why, "name a TOML file with the options of 'atoll run --help'")
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let count =
        file.take(MAX_CONFIGURATION + 1).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if count as u64 > MAX_CONFIGURATION {
        return Err(failed("it is larger than 1 MiB".into()));
    }
    Ok(text)
}

fn parse(text: &str, path: &Path) -> Result<Options> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        problem(
            "run.config",
            format!("{}, line {line}, is not right", path.display()),
            error.message().trim(),
            "the keys are the options of 'atoll run --help' without their dashes",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_can_be_in_the_file() {
        let text = r#"
            name = "web"
            engine = "tcg"
            cpus = 1
            memory = "1G"
            kernel = "vmlinuz"
            initrd = "/i"
            cmdline = "quiet"
            console = "file:out"
            machine = "q35-0"
            cpu-model = "atoll-v2"
            patience = 5
            log-translation = "log"
            log-filter = "0x1000..0x2000"
            perf-map = "map"
            paused = true
            no-reboot = true
            detach = true
        "#;
        let options = parse(text, Path::new("vm.toml")).unwrap();
        assert_eq!(options.cpus.as_deref(), Some("1"));
        assert_eq!(options.cpu_model.as_deref(), Some("atoll-v2"));
        assert_eq!(options.patience.as_deref(), Some("5"));
        assert_eq!(options.log_filter.as_deref(), Some("0x1000..0x2000"));
        assert!(options.log_translation.is_some() && options.perf_map.is_some());
        assert!(options.paused && options.no_reboot && options.detach);
    }

    #[test]
    fn numbers_are_sizes_too() {
        let options = parse("memory = 1048576\ncpus = \"2\"", Path::new("x")).unwrap();
        assert_eq!((options.memory.as_deref(), options.cpus.as_deref()), (Some("1048576"), Some("2")));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = parse("name = \"a\"\n\nkernal = \"x\"\n", Path::new("some/vm.toml")).unwrap_err();
        assert!(error.what.contains("some/vm.toml, line 3"), "{error}");
        assert!(error.why.contains("kernal"), "{error}");
        let error = parse("paused = 1", Path::new("vm.toml")).unwrap_err();
        assert!(error.what.contains("line 1"), "{error}");
        assert!(parse("name = ", Path::new("vm.toml")).is_err());
    }

    #[test]
    fn the_command_line_wins_and_errors_know_it() {
        let path = std::env::temp_dir().join(format!("atoll-options-{}.toml", std::process::id()));
        std::fs::write(
            &path,
            "memory = \"1G\"\nname = \"file\"\nkernel = \"k\"\nconsole = \"socket:s\"\npaused = true",
        )
        .unwrap();
        let over = Options { name: Some("line".into()), ..Options::default() };
        let merged = Merged::with_file(over, &path).unwrap();
        let folder = path.parent().unwrap();
        assert_eq!(merged.options.name.as_deref(), Some("line"));
        assert_eq!(merged.options.memory.as_deref(), Some("1G"));
        assert_eq!(merged.options.kernel, Some(folder.join("k")));
        assert_eq!(merged.options.console, Some(format!("socket:{}", folder.join("s").display())));
        assert!(merged.options.paused);
        assert_eq!(merged.origin("name"), "--name");
        assert_eq!(merged.origin("memory"), format!("'memory' in {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        let error = Merged::with_file(Options::default(), &path).unwrap_err();
        assert!(error.what.contains("--config") && error.what.contains(&path.display().to_string()), "{error}");
    }
}
