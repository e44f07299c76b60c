//! The options, checked: what VM is to be started.
//!
//! Each check names the option, its value, why it is wrong and what to do; nothing on the host has been changed yet.

use std::path::PathBuf;

use cpu_model::MODELS;
use machine_model::{MachineVersion, limits};

use crate::failure::{Result, problem};
use crate::options::Merged;
use crate::{directory, size};

const DEFAULT_MEMORY: &str = "512M";
const DEFAULT_MACHINE: &str = "q35-0";
const DEFAULT_CPU_MODEL: &str = "atoll-v2";
const DEFAULT_COMMAND_LINE: &str = "console=ttyS0";
const DEFAULT_PATIENCE: &str = "20";
const LONGEST_PATIENCE: u16 = 3600;
/// Least guest RAM: a kernel that does nothing needs a part of the first MiB, and RAM comes in pages of 4 KiB.
const LEAST_MEMORY: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Longest command line: the least that every kernel of today takes (x86: COMMAND_LINE_SIZE, with its zero).
const LONGEST_COMMAND_LINE: usize = 2047;
/// Ranges of `--log-filter`: the engine looks at all of them for each block.
const MOST_RANGES: usize = 64;

/// Where the serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// The terminal, relayed by the launcher.
    Stdio,
    /// A listening Unix socket at this path, or in the VM's directory.
    Socket(Option<PathBuf>),
    /// Output only, into this file.
    File(PathBuf),
    None,
}

/// A VM to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: Option<String>,
    pub machine: &'static str,
    pub engine: &'static str,
    pub engine_why: String,
    pub cpu_model: &'static str,
    pub vcpus: u16,
    pub memory_bytes: u64,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
    pub console: Console,
    /// Where the engine writes what it translates.
    pub log_translation: Option<PathBuf>,
    /// First and last address of the code that is logged; empty for everything.
    pub log_filter: Vec<(u64, u64)>,
    /// Where the engine writes where its code lies.
    pub perf_map: Option<PathBuf>,
    /// In seconds.
    pub patience: u16,
    pub paused: bool,
    pub no_reboot: bool,
    pub detach: bool,
}

/// An option that cannot be taken: `value` is quoted, shortened.
fn wrong(merged: &Merged, option: &str, value: &str, why: impl ToString, remedy: &str) -> control::types::Problem {
    let shown: String = value.chars().take(80).collect();
    let what = format!("{} cannot be '{shown}'", merged.origin(option));
    problem(&format!("run.{option}"), what, why, remedy)
}

impl Plan {
    /// Checks the options.
    pub fn new(merged: &Merged) -> Result<Self> {
        let options = &merged.options;
        if let Some(name) = &options.name {
            directory::check_name(name)?;
        }
        let (engine, engine_why) = engine(merged)?;
        let kernel = options.kernel.clone().ok_or_else(|| {
            let remedy = "name a bzImage, or an ELF file with a PVH or multiboot entry: atoll run KERNEL";
            problem("run.kernel", "no kernel is named", "a VM needs one", remedy)
        })?;
        let machine = machine(merged)?;
        Ok(Self {
            name: options.name.clone(),
            engine,
            engine_why,
            cpu_model: cpu_model(merged)?,
            vcpus: vcpus(merged)?,
            memory_bytes: memory(merged, machine)?,
            machine: machine.machine().name,
            kernel,
            initrd: options.initrd.clone(),
            command_line: command_line(merged)?,
            console: console(merged)?,
            log_translation: options.log_translation.clone(),
            log_filter: log_filter(merged)?,
            perf_map: perf_map(merged, engine)?,
            patience: patience(merged)?,
            paused: options.paused,
            no_reboot: options.no_reboot,
            detach: options.detach,
        })
    }
}

fn engine(merged: &Merged) -> Result<(&'static str, String)> {
    match merged.options.engine.as_deref().unwrap_or("auto") {
        "auto" => Ok(("tcg", "auto: this release has no KVM engine".into())),
        "tcg" => Ok(("tcg", "as asked for".into())),
        // For tests: the interpreter alone, and both tiers compared block by block.
        "tcg-t0" => Ok(("tcg-t0", "as asked for".into())),
        "tcg-check" => Ok(("tcg-check", "as asked for".into())),
        "kvm" => {
            let why = "this release has no KVM engine, only the translator";
            Err(wrong(merged, "engine", "kvm", why, "leave it out, or choose tcg"))
        }
        other => Err(wrong(merged, "engine", other, "there is no such engine", "choose auto or tcg")),
    }
}

fn vcpus(merged: &Merged) -> Result<u16> {
    const MAX_VCPUS: u64 = limits::MAX_VCPUS as u64;
    let text = merged.options.cpus.as_deref().unwrap_or("1");
    let remedy = format!("choose 1 to {MAX_VCPUS}");
    match text.trim().parse::<u64>() {
        Ok(n @ 1..=MAX_VCPUS) => Ok(n as u16),
        Ok(0) => Err(wrong(merged, "cpus", text, "a VM needs a vCPU", &remedy)),
        Ok(_) => Err(wrong(merged, "cpus", text, "that is more than a VM can have", &remedy)),
        Err(_) => Err(wrong(merged, "cpus", text, "it is not a whole number", &remedy)),
    }
}

fn memory(merged: &Merged, machine: MachineVersion) -> Result<u64> {
    let text = merged.options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let refuse = |why: String| wrong(merged, "memory", text, why, "write a size such as 512M, 1G or 2GiB");
    let bytes = size::parse(text).map_err(refuse)?;
    if bytes < LEAST_MEMORY {
        return Err(refuse(format!(
            "that is {}, and a VM needs at least {}",
            size::show(bytes),
            size::show(LEAST_MEMORY)
        )));
    }
    if !bytes.is_multiple_of(PAGE) {
        return Err(refuse(format!("that is {bytes} bytes, and RAM comes in pages of {PAGE}")));
    }
    machine.machine().memory.ram(bytes).map_err(|error| refuse(error.to_string()))?;
    Ok(bytes)
}

fn machine(merged: &Merged) -> Result<MachineVersion> {
    let name = merged.options.machine.as_deref().unwrap_or(DEFAULT_MACHINE);
    MachineVersion::by_name(name).map_err(|error| wrong(merged, "machine", name, error, "choose one that exists"))
}

fn cpu_model(merged: &Merged) -> Result<&'static str> {
    let name = merged.options.cpu_model.as_deref().unwrap_or(DEFAULT_CPU_MODEL);
    let found = cpu_model::by_name(name).map(|model| model.name);
    found
        .map_err(|error| wrong(merged, "cpu-model", name, error, &format!("choose one of {} that exist", MODELS.len())))
}

fn command_line(merged: &Merged) -> Result<String> {
    let text = merged.options.cmdline.as_deref().unwrap_or(DEFAULT_COMMAND_LINE);
    let refuse = |why: String| Err(wrong(merged, "cmdline", text, why, "shorten or correct it"));
    match text {
        text if text.contains('\0') => refuse("it contains a zero byte".into()),
        text if text.len() > LONGEST_COMMAND_LINE => {
            refuse(format!("it has {} bytes, and kernels take at most {LONGEST_COMMAND_LINE}", text.len()))
        }
        text => Ok(text.to_owned()),
    }
}

fn patience(merged: &Merged) -> Result<u16> {
    let text = merged.options.patience.as_deref().unwrap_or(DEFAULT_PATIENCE);
    match text.trim().parse() {
        Ok(seconds @ 1..=LONGEST_PATIENCE) => Ok(seconds),
        _ => {
            let why = format!("it is no whole number of seconds from 1 to {LONGEST_PATIENCE}");
            Err(wrong(merged, "patience", text, why, "leave it out, or choose a longer one where hosts are very busy"))
        }
    }
}

fn console(merged: &Merged) -> Result<Console> {
    let detach = merged.options.detach;
    let Some(text) = merged.options.console.as_deref() else {
        return Ok(if detach { Console::Socket(None) } else { Console::Stdio });
    };
    let refuse = |why: &str| Err(wrong(merged, "console", text, why, "choose stdio, socket:PATH, file:PATH or none"));
    match text.split_once(':').unwrap_or((text, "")) {
        ("stdio", "") if detach => refuse("a VM that is detached has no terminal"),
        ("stdio", "") if text == "stdio" => Ok(Console::Stdio),
        ("none", "") if text == "none" => Ok(Console::None),
        ("socket" | "file", "") => refuse("the path is missing"),
        ("socket", path) => Ok(Console::Socket(Some(path.into()))),
        ("file", path) => Ok(Console::File(path.into())),
        _ => refuse("there is no such console"),
    }
}

/// The ranges of `--log-filter`, in the forms of QEMU's `-dfilter`.
fn log_filter(merged: &Merged) -> Result<Vec<(u64, u64)>> {
    let Some(text) = merged.options.log_filter.as_deref() else { return Ok(Vec::new()) };
    let remedy = "write START..END, START+LENGTH or START-LENGTH, such as 0xffffffff81000000+0x1000";
    let refuse = |why: &str| wrong(merged, "log-filter", text, why, remedy);
    if merged.options.log_translation.is_none() {
        return Err(refuse("there is no log that it could be of: --log-translation"));
    }
    let ranges: Vec<_> = text.split(',').map(range).collect::<std::result::Result<_, _>>().map_err(refuse)?;
    if ranges.len() > MOST_RANGES { Err(refuse("it has too many ranges")) } else { Ok(ranges) }
}

/// One range: its first and last address.
fn range(text: &str) -> std::result::Result<(u64, u64), &'static str> {
    let number = |text: &str| {
        let text = text.trim();
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.map_err(|_| "it has something that is no number")
    };
    // A length of 0 is no range, and one to the end of the addresses has no address behind it.
    let length = |text: &str| number(text)?.checked_sub(1).ok_or("a range is empty");
    let (first, last) = if let Some((first, last)) = text.split_once("..") {
        (number(first)?, number(last)?)
    } else if let Some((first, more)) = text.split_once('+') {
        let first = number(first)?;
        (first, first.saturating_add(length(more)?))
    } else if let Some((last, less)) = text.split_once('-') {
        let last = number(last)?;
        (last.saturating_sub(length(less)?), last)
    } else {
        return Err("it has something that is no range");
    };
    if first > last { Err("a range ends before it begins") } else { Ok((first, last)) }
}

fn perf_map(merged: &Merged, engine: &str) -> Result<Option<PathBuf>> {
    let Some(path) = &merged.options.perf_map else { return Ok(None) };
    if engine == "tcg-t0" {
        let why = "the interpreter makes no code, which could be profiled";
        return Err(wrong(merged, "perf-map", &path.display().to_string(), why, "leave out --engine tcg-t0"));
    }
    Ok(Some(path.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn plan(change: impl FnOnce(&mut Options)) -> Result<Plan> {
        let mut options = Options { kernel: Some("k".into()), ..Options::default() };
        change(&mut options);
        Plan::new(&Merged::command_line(options))
    }

    /// The problem of an option with a wrong value: it names both.
    #[track_caller]
    fn refused(option: &str, value: &str, why: &str) {
        let set = |options: &mut Options| {
            let value = Some(value.to_owned());
            match option {
                "engine" => options.engine = value,
                "cpus" => options.cpus = value,
                "memory" => options.memory = value,
                "console" => options.console = value,
                "machine" => options.machine = value,
                "cpu-model" => options.cpu_model = value,
                "patience" => options.patience = value,
                "log-filter" => (options.log_filter, options.log_translation) = (value, Some("log".into())),
                _ => options.cmdline = value,
            }
        };
        let error = plan(set).unwrap_err();
        assert_eq!(error.code, format!("run.{option}"));
        assert!(error.what.contains(&format!("--{option}")), "{error}");
        assert!(error.what.contains(value.get(..20).unwrap_or(value)), "{error}");
        assert!(error.why.contains(why), "{error}");
        assert!(!error.remedy.is_empty());
    }

    #[test]
    fn defaults() {
        let plan = plan(|_| ()).unwrap();
        assert_eq!((plan.vcpus, plan.memory_bytes), (1, 512 << 20));
        assert_eq!((plan.engine, plan.machine, plan.cpu_model), ("tcg", "q35-0", "atoll-v2"));
        assert!(plan.engine_why.contains("no KVM engine"));
        assert_eq!((plan.command_line.as_str(), plan.console), ("console=ttyS0", Console::Stdio));
    }

    #[test]
    fn consoles() {
        let console = |text: &str, detach| {
            plan(|options| (options.console, options.detach) = (Some(text.to_owned()), detach)).map(|plan| plan.console)
        };
        assert_eq!(console("none", true).unwrap(), Console::None);
        assert_eq!(console("socket:/a:b", true).unwrap(), Console::Socket(Some("/a:b".into())));
        assert_eq!(console("file:out", false).unwrap(), Console::File("out".into()));
        assert!(console("stdio", true).unwrap_err().why.contains("no terminal"));
        assert_eq!(plan(|options| options.detach = true).unwrap().console, Console::Socket(None));
        for (text, why) in [
            ("tty", "no such console"),
            ("socket:", "path is missing"),
            ("file", "path is missing"),
            ("stdio:x", "no such console"),
            ("none:", "no such console"),
        ] {
            refused("console", text, why);
        }
    }

    #[test]
    fn ranges_as_qemu_has_them() {
        for (text, ranges) in [
            ("0x8000..0x8fff", &[(0x8000, 0x8fff)][..]),
            ("0xffffffc000080000+0x200", &[(0xffff_ffc0_0008_0000, 0xffff_ffc0_0008_01ff)]),
            ("0x1000-0x10,16..16", &[(0xff1, 0x1000), (16, 16)]),
            ("0xffffffffffffffff+2", &[(u64::MAX, u64::MAX)]),
        ] {
            let set = |o: &mut Options| (o.log_filter, o.log_translation) = (Some(text.into()), Some("log".into()));
            assert_eq!(plan(set).unwrap().log_filter, ranges, "{text}");
        }
    }

    #[test]
    fn values_that_cannot_be() {
        refused("engine", "kvm", "no KVM engine");
        refused("engine", "qemu", "no such engine");
        refused("cpus", "65", "more than a VM");
        refused("cpus", "0", "needs a vCPU");
        refused("cpus", "many", "not a whole number");
        refused("memory", "much", "not a whole number");
        refused("memory", "64K", "at least 1 MiB");
        refused("memory", "1048577", "pages");
        refused("memory", "16000000T", "");
        refused("machine", "pc", "pc");
        refused("cpu-model", "host", "host");
        refused("cmdline", &"x".repeat(2048), "2048 bytes");
        refused("cmdline", "a\0b", "zero byte");
        refused("log-filter", "0x10", "no range");
        refused("log-filter", "0x10..0x20,ten..20", "no number");
        refused("log-filter", "0x10+0", "empty");
        refused("log-filter", "0x10..0xf", "before it begins");
        refused("log-filter", &vec!["1..2"; 65].join(","), "too many");
        let alone = plan(|options| options.log_filter = Some("1..2".into())).unwrap_err();
        assert!(alone.why.contains("--log-translation"), "{alone}");
        let interpreted = |o: &mut Options| (o.perf_map, o.engine) = (Some("map".into()), Some("tcg-t0".into()));
        assert!(plan(interpreted).unwrap_err().why.contains("interpreter"));
        assert_eq!(plan(|options| options.kernel = None).unwrap_err().code, "run.kernel");
        assert_eq!(plan(|options| options.name = Some("a/b".into())).unwrap_err().code, "vm.name");
    }
}
