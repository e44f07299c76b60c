//! The processes of a running VM, as the kernel shows them to root or to the user who started it.
//!
//! Both may read everything in `/proc`, since the VM's user namespaces are theirs. Only root of the host may dump filters;
//! whether a process is dumpable is found by trying to look into it as its own user.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;

use enter::status::{Stage, Status, StatusPage};
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use profile::audit::{AuditError, Facts, Reported};
use profile::{Namespace, Privilege};

use crate::manifest::Row;

/// What a VM is compared with.
#[derive(Clone, Debug)]
pub struct Outside {
    /// The namespaces of whoever audits.
    pub namespaces: Vec<(Namespace, String)>,
    /// Where the binaries are.
    pub binaries: PathBuf,
    /// The VM's lock, which its keeper holds.
    pub lock: PathBuf,
    /// The log of a VM in the background.
    pub log: PathBuf,
    /// The directory of the snapshot that is written or read at this moment.
    pub snapshot: PathBuf,
    /// The Landlock ABI that an islet can have here.
    pub landlock: u32,
}

/// What could not be found out, and why.
pub type Gaps = Vec<String>;

/// The keeper of a VM and its children, as far as they live, by pid with the name of the binary.
#[must_use]
pub fn processes(keeper: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let belonging = pids.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let parent: i32 = field("PPid:")?.parse().ok()?;
        let lives = !field("State:")?.starts_with(['Z', 'X']);
        let name = field("Name:")?.to_owned();
        (lives && (pid == keeper || parent == keeper)).then_some((pid, name))
    });
    belonging.collect()
}

/// The process of a VM that runs this binary.
#[must_use]
pub fn find(keeper: i32, binary: &str) -> Option<i32> {
    processes(keeper).into_iter().find(|(_, name)| name == binary).map(|(pid, _)| pid)
}

/// Everything about a process; what cannot be had is told in `gaps`.
///
/// # Errors
/// The process is gone, or the caller is neither root nor the VM's user.
pub fn facts(pid: i32, row: &Row, gaps: &mut Gaps) -> Result<Facts, AuditError> {
    let mut facts = Facts::read(pid)?;
    for thread in facts.threads.iter_mut().filter(|thread| thread.seccomp_mode == 2) {
        match spawn::dump_filters(thread.id) {
            Ok(programs) => thread.programs = Some(programs),
            Err(error) => gaps.push(format!("the program of a filter ({}): {}", row.binary, error.source)),
        }
    }
    // The keeper is dumpable on purpose: it writes id maps.
    if row.kind.profile().privilege == Privilege::None {
        match dumpable(pid) {
            Ok(dumpable) => facts.dumpable = Some(dumpable),
            Err(why) => gaps.push(format!("whether a process is dumpable ({}): {why}", row.binary)),
        }
    }
    Ok(facts)
}

/// Whether somebody with the same ids and no capability, in the user namespace of the process, may look into it.
fn dumpable(pid: i32) -> Result<bool, String> {
    let mut command = Command::new("nsenter");
    command.arg("--user").arg(format!("--target={pid}"));
    if !rustix::process::geteuid().is_root() {
        // It is the only user in there already.
        command.arg("--preserve-credentials");
    }
    command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--securebits=+noroot"]);
    command.args(["sh", "-c", &format!("echo tried; readlink /proc/{pid}/exe")]);
    let output = command.output().map_err(|error| format!("nsenter: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.strip_prefix("tried\n") {
        Some(path) => Ok(!path.trim().is_empty()),
        None => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// What a process has reported on its status page, which the keeper holds.
///
/// # Errors
/// The keeper has no status memfd, or it cannot be opened.
pub fn status(keeper: i32, page: u64) -> io::Result<Status> {
    let folder = format!("/proc/{keeper}/fd");
    let is_status =
        |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:status"));
    let path = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(is_status);
    let file = File::options().read(true).write(true).open(path.ok_or(io::ErrorKind::NotFound)?)?;
    let page = usize::try_from(page).map_err(io::Error::other)?;
    Ok(StatusPage::map(rustix::fd::AsFd::as_fd(&file), page).map_err(io::Error::other)?.snapshot())
}

/// The same in the form of the comparison.
#[must_use]
pub fn reported(status: &Status) -> Reported {
    Reported { landlock_abi: status.landlock_abi, sealed: status.stage == Stage::Sealed }
}

/// The newest Landlock ABI that this kernel takes, up to the one that processes ask for; 0 if none.
#[must_use]
pub fn landlock() -> u32 {
    const KNOWN: [ABI; 6] = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6];
    let takes = |abi: ABI| {
        let mut rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules = rules.handle_access(AccessFs::from_all(abi)).ok()?;
        if abi >= ABI::V4 {
            rules = rules.handle_access(AccessNet::from_all(abi)).ok()?;
        }
        if abi >= ABI::V6 {
            rules = rules.scope(Scope::from_all(abi)).ok()?;
        }
        rules.create().ok()
    };
    KNOWN.into_iter().filter(|abi| takes(*abi).is_some()).map(|abi| abi as u32).max().unwrap_or(0)
}
