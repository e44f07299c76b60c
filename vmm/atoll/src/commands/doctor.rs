//! `atoll doctor`: what this host offers, and what each lack costs.
//!
//! Each check tries what Atoll would do, as far as that leaves no trace; a table of files says less than one attempt.

use std::fs::{self, File, OpenOptions};
use std::process::{Command, Stdio};

use clap::Args;
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::commands::{print, print_json, table};
use crate::failure::{Result, problem};

#[derive(Args, Debug)]
pub struct Arguments {
    /// JSON for programs
    #[arg(long)]
    json: bool,
    /// Try to make the namespaces, in this process
    #[arg(long, hide = true)]
    try_namespaces: bool,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    feature: &'static str,
    present: bool,
    /// Without it no VM starts.
    required: bool,
    found: String,
    /// What its lack costs, and what to do.
    cost: String,
}

/// What a check found: present or not, and in words.
type Found = std::result::Result<String, String>;

/// Name, whether nothing goes without it, how it is checked, what its lack costs.
type Check = (&'static str, bool, fn() -> Found, &'static str);

const CHECKS: &[Check] = &[
    (
        "user namespaces",
        true,
        namespaces,
        "no VM can be started: every process of a VM has its own. Allow them: sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
    ),
    (
        "Landlock",
        false,
        landlock_version,
        "one of several walls around each process is missing. Use Linux 5.13 or newer with 'landlock' in its lsm= list",
    ),
    (
        "KVM",
        false,
        || open("/dev/kvm"),
        "nothing in this release, which has the translator only; later: near-native speed for x86-64 guests. Load kvm_intel or \
         kvm_amd, and be a member of the group kvm",
    ),
    (
        "userfaultfd",
        false,
        || open("/dev/userfaultfd"),
        "nothing in this release; later: post-copy migration without root. Allow it by the permissions of /dev/userfaultfd",
    ),
    (
        "huge pages",
        false,
        huge_pages,
        "guest memory begins in pages of 4 KiB. Since Linux 6.1 the translator has huge ones made of what a guest uses, piece by \
         piece; before, it stays so, which costs speed. To have them from the beginning set the file \
         /sys/kernel/mm/transparent_hugepage/shmem_enabled to 'advise'",
    ),
    (
        "tun",
        false,
        || open("/dev/net/tun"),
        "nothing in this release, which has no network devices; later: tap interfaces. Load tun, and allow /dev/net/tun",
    ),
];

pub fn doctor(arguments: &Arguments) -> Result<()> {
    if arguments.try_namespaces {
        // This process is the attempt: its exit status is the answer.
        let flags =
            CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        return unshare(flags).map_err(|error| problem("doctor.namespaces", "no new namespaces", error, ""));
    }
    let findings: Vec<Finding> = CHECKS.iter().map(examine).collect();
    if arguments.json {
        print_json(&findings)?;
    } else {
        print(&describe(&findings))?;
    }
    match findings.iter().find(|finding| finding.required && !finding.present) {
        None => Ok(()),
        Some(lack) => {
            let what = format!("this host cannot run VMs: {} are missing", lack.feature);
            Err(problem("doctor.required", what, &lack.found, &lack.cost))
        }
    }
}

fn examine((feature, required, check, cost): &Check) -> Finding {
    let (present, found) = match check() {
        Ok(found) => (true, found),
        Err(found) => (false, found),
    };
    Finding { feature, present, required: *required, found, cost: (*cost).to_owned() }
}

fn describe(findings: &[Finding]) -> String {
    let word = |finding: &Finding| match (finding.present, finding.required) {
        (true, _) => "yes",
        (false, true) => "MISSING",
        (false, false) => "no",
    };
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| vec![finding.feature.to_owned(), word(finding).to_owned(), finding.found.clone()])
        .collect();
    let mut text = table(&rows);
    for finding in findings.iter().filter(|finding| !finding.present) {
        text.push_str(&format!("\nwithout {}: {}\n", finding.feature, finding.cost));
    }
    text
}

fn open(path: &str) -> Found {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(format!("{path} can be opened")),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Tried by another process, since there is no way back.
fn namespaces() -> Found {
    let tried = File::open("/proc/self/exe").and_then(|_| {
        let mut command = Command::new("/proc/self/exe");
        command.args(["doctor", "--try-namespaces"]).stdin(Stdio::null()).stdout(Stdio::null()).output()
    });
    match tried {
        Ok(output) if output.status.success() => Ok("a user may make them".into()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let why = text.lines().find_map(|line| line.trim().strip_prefix("why: "));
            Err(why.map_or_else(|| output.status.to_string(), str::to_owned))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The newest of the versions that this program knows and the kernel takes.
fn landlock_version() -> Found {
    const KNOWN: [(ABI, u8); 6] = [(ABI::V6, 6), (ABI::V5, 5), (ABI::V4, 4), (ABI::V3, 3), (ABI::V2, 2), (ABI::V1, 1)];
    let takes = |abi| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok()
    };
    match KNOWN.iter().find(|(abi, _)| takes(*abi)) {
        Some((_, version)) => Ok(format!("version {version} of its rights for files, or newer")),
        None => Err("the kernel takes no rules".into()),
    }
}

fn huge_pages() -> Found {
    let shmem = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let chosen = shmem.split(['[', ']']).nth(1).unwrap_or("unknown");
    let found = format!("for shared memory: {chosen}");
    if ["always", "within_size", "advise", "force"].contains(&chosen) { Ok(found) } else { Err(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_told_with_its_cost_and_a_presence_without() {
        let finding = |feature, present, required| Finding {
            feature,
            present,
            required,
            found: "f".into(),
            cost: format!("cost of {feature}"),
        };
        let text = describe(&[finding("a", true, true), finding("b", false, true), finding("c", false, false)]);
        assert!(text.starts_with("a  yes      f\nb  MISSING  f\nc  no       f\n"), "{text}");
        assert!(!text.contains("cost of a") && text.contains("without b: cost of b") && text.contains("cost of c"));
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        assert!(open("/nonexistent").unwrap_err().contains("/nonexistent"));
        assert!(open("/dev/null").is_ok());
    }
}
