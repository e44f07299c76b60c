//! The machines that are compared: Atoll and QEMU's TCG with the same kernel, initramfs, memory and number of vCPUs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rig::Rig;

use crate::program;

/// What a machine runs.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// bzImage.
    pub kernel: &'a Path,
    /// Initramfs.
    pub initrd: &'a Path,
    /// RAM, in the syntax that both have.
    pub memory: &'a str,
    /// vCPUs.
    pub cpus: u32,
    /// Atoll's CPU model, if not the usual one.
    pub cpu_model: Option<&'static str>,
    /// The kernel's command line.
    pub words: String,
}

/// A QEMU machine and CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// For `-M`.
    pub machine: &'static str,
    /// For `-cpu`.
    pub cpu: &'static str,
    /// Whether its guests always have a clock beside the timer's tick, so that they can time themselves.
    pub clock: bool,
}

impl Config {
    /// For people.
    #[must_use]
    pub fn name(self) -> String {
        format!("{} {}", self.machine, self.cpu)
    }
}

/// Those that Atoll's boot is compared with. `microvm` with ACPI has the timer of 1981 alone to measure the TSC by: on a busy host,
/// and for a CPU without an invariant TSC on any, Debian's kernel does not get beyond that. Without ACPI it has its tick.
pub const CONFIGS: [Config; 5] = [
    Config { machine: "q35", cpu: "max", clock: true },
    Config { machine: "q35", cpu: "qemu64", clock: true },
    Config { machine: "microvm", cpu: "max", clock: false },
    Config { machine: "microvm,acpi=off", cpu: "max", clock: false },
    Config { machine: "microvm,acpi=off", cpu: "qemu64", clock: false },
];

/// QEMU, as it is installed.
#[derive(Debug)]
pub struct Qemu {
    path: PathBuf,
    /// The first line of what it says of itself.
    pub version: String,
}

impl Qemu {
    /// The one in the path.
    ///
    /// # Errors
    /// There is none, or it does not run.
    pub fn find() -> Result<Self> {
        let path = program("qemu-system-x86_64").context(
            "qemu-system-x86_64 is not installed (Debian: qemu-system-x86), so there is nothing to compare with",
        )?;
        let said = Command::new(&path).arg("--version").output().context("qemu-system-x86_64 --version")?;
        let version = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or("unknown").to_owned();
        Ok(Qemu { path, version })
    }

    /// QEMU with this job.
    #[must_use]
    pub fn command(&self, config: Config, job: &Job<'_>) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-accel", if job.cpus > 1 { "tcg,thread=multi" } else { "tcg" }]);
        command.args(["-M", config.machine, "-cpu", config.cpu, "-smp", &job.cpus.to_string(), "-m", job.memory]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-kernel").arg(job.kernel).arg("-initrd").arg(job.initrd).args(["-append", &job.words]);
        command
    }
}

/// Atoll with this job, as VM `name`.
#[must_use]
pub fn atoll(rig: &Rig, name: &str, job: &Job<'_>) -> Command {
    let cpus = job.cpus.to_string();
    let mut command = rig.command(["run", "--name", name, "--engine", "tcg", "--memory", job.memory, "--cpus", &cpus]);
    command.args(job.cpu_model.iter().flat_map(|model| ["--cpu-model", model]));
    command.arg("--kernel").arg(job.kernel).arg("--initrd").arg(job.initrd).args(["--cmdline", &job.words]);
    command
}

/// Whether Atoll's translator has more than one vCPU: it says at once if not.
///
/// # Errors
/// It refuses for another reason.
pub fn has_vcpus(rig: &Rig, job: &Job<'_>) -> Result<bool> {
    let mut command = atoll(rig, "probe", job);
    command.args(["--paused", "--detach"]);
    let done = rig::finish(command, rig::SOON);
    if done.status == 0 {
        rig.atoll(["kill", "probe"]);
        return Ok(true);
    }
    if done.error.contains("--cpus") {
        return Ok(false);
    }
    bail!("atoll does not start a VM of {} vCPUs: {}", job.cpus, done.error)
}

/// A command line as a shell would take it, programs and files without their folders.
#[must_use]
pub fn shown(command: &Command) -> String {
    let word = |word: &std::ffi::OsStr| {
        let path = Path::new(word);
        let text = if path.is_absolute() { path.file_name().unwrap_or(word) } else { word }.to_string_lossy();
        if text.contains(' ') { format!("'{text}'") } else { text.into_owned() }
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_get_the_same_job() {
        let job = Job {
            kernel: Path::new("/a/vmlinuz"),
            initrd: Path::new("/a/initrd"),
            memory: "1G",
            cpus: 2,
            cpu_model: None,
            words: "console=ttyS0 panic=-1".into(),
        };
        let qemu = Qemu { path: "/bin/qemu".into(), version: String::new() };
        let line = shown(&qemu.command(CONFIGS[0], &job));
        assert!(line.starts_with("qemu -accel tcg,thread=multi -M q35 -cpu max -smp 2 -m 1G"), "{line}");
        assert!(line.ends_with("-kernel vmlinuz -initrd initrd -append 'console=ttyS0 panic=-1'"), "{line}");
    }
}
