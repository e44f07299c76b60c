//! The steps of lock-down themselves, in the only order that works: restrictions that are per thread come before the
//! first thread, descriptors after everything is received, the filter last.

#![expect(unsafe_code, reason = "prctl, close_range and setrlimit have no safe wrapper for these uses")]

use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

use caps::CapSet;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};
use profile::{Landlock, Limit, LimitValue, Privilege, Profile, When};

use crate::handlers::page;
use crate::status::Stage;
use crate::{Error, ThreadGate, settle_thread};

/// How long [`seal`] waits for threads at the barrier.
const GATE_DEADLINE: Duration = Duration::from_secs(30);
/// The newest Landlock ABI whose rights this code asks for; older kernels enforce the part that they know.
const LANDLOCK_ABI: ABI = ABI::V6;
/// securebits(7): no capabilities by being uid 0 or by changing ids, none ambient, each with its lock bit.
const SECUREBITS: libc::c_ulong = 0b1110_1111;

/// What the restrictions came to on this kernel; goes to the log and to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Landlock ABI that the kernel offers, 0 if it has none or it is switched off.
    pub kernel_landlock_abi: u32,
    /// Landlock ABI in force, 0 if none.
    pub landlock_abi: u32,
    /// What the process goes without, one sentence each.
    pub missing: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restricted: Landlock ABI {} (kernel {})", self.landlock_abi, self.kernel_landlock_abi)?;
        for lack in &self.missing {
            write!(f, "; {lack}")?;
        }
        Ok(())
    }
}

/// Gives up what can only be given up per thread: limits, capabilities (all sets), privileges by exec, dumps and ptrace
/// by others, and, with Landlock, every path, port and scope. Call it before the first thread starts.
///
/// The keeper's profile keeps the capabilities of its own user namespace; it calls this, too, and [`seal`], before it
/// makes its spawn thread, which inherits everything.
///
/// A kernel without Landlock is no error: the report says what is missing.
///
/// # Errors
/// The process has threads already, or the kernel refuses a step; the process must not go on then.
pub fn before_threads(profile: &Profile) -> Result<Report, Error> {
    // A no-op for a process with one thread and EINVAL for any other (unshare(2)).
    // SAFETY: unshare with this flag changes nothing.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(Error::ThreadsAlready);
    }
    settle_thread();
    set_limits(profile, When::BeforeThreads)?;
    if profile.privilege == Privilege::None {
        drop_capabilities()?;
        prctl("not dumpable", libc::PR_SET_DUMPABLE, 0)?;
    }
    prctl("no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let report = match profile.landlock {
        Landlock::DenyAll => deny_all()?,
        Landlock::None => Report { kernel_landlock_abi: 0, landlock_abi: 0, missing: Vec::new() },
    };
    if let Some(page) = page() {
        page.set_landlock_abi(report.landlock_abi);
        page.set_stage(Stage::Restricted);
    }
    Ok(report)
}

/// Closes every descriptor but 0, 1, 2 and those in `keep`.
///
/// # Errors
/// The kernel refuses close_range(2) (before Linux 5.9).
pub fn close_all_but(keep: &[RawFd]) -> Result<(), Error> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).chain(0..=2).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0u32;
    for fd in kept {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Error> {
    // SAFETY: closes descriptors; whoever calls close_all_but gives up those that it does not name.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) } {
        0 => Ok(()),
        _ => Err(Error::last("close_range")),
    }
}

/// The last step: waits for the gate's threads, sets the limits that would hinder starting them, and installs the filter
/// on every thread at once. The threads still wait at the gate; release it afterwards.
///
/// # Errors
/// A thread is not at the barrier, or the kernel refuses the filter; the process must not go on then.
pub fn seal(profile: &Profile, gate: &ThreadGate) -> Result<(), Error> {
    gate.wait(GATE_DEADLINE)?;
    let program = profile.program()?;
    set_limits(profile, When::Seal)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|source| Error::Seccomp { kind: profile.kind, source })?;
    if let Some(page) = page() {
        page.set_stage(Stage::Sealed);
    }
    Ok(())
}

fn set_limits(profile: &Profile, when: When) -> Result<(), Error> {
    profile.limits.iter().filter(|limit| limit.when == when).try_for_each(set_limit)
}

fn set_limit(limit: &Limit) -> Result<(), Error> {
    let value = match limit.value {
        LimitValue::At(value) => libc::rlimit { rlim_cur: value, rlim_max: value },
        LimitValue::Hard => {
            let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `now` is a valid place for the answer.
            if unsafe { libc::getrlimit(limit.resource, &mut now) } != 0 {
                return Err(Error::last(limit.name));
            }
            libc::rlimit { rlim_cur: now.rlim_max, rlim_max: now.rlim_max }
        }
    };
    // SAFETY: `value` is a valid rlimit.
    match unsafe { libc::setrlimit(limit.resource, &value) } {
        0 => Ok(()),
        _ => Err(Error::last(limit.name)),
    }
}

fn prctl(step: &'static str, option: libc::c_int, value: libc::c_ulong) -> Result<(), Error> {
    // SAFETY: these options take numbers only.
    match unsafe { libc::prctl(option, value, 0, 0, 0) } {
        -1 => Err(Error::last(step)),
        _ => Ok(()),
    }
}

/// Empties all five sets. The bounding set goes by number, since the kernel may know more than any table.
fn drop_capabilities() -> Result<(), Error> {
    for capability in 0..64 {
        // SAFETY: takes a number; EINVAL past the kernel's last capability.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) } {
            0 => {}
            1 => prctl("bounding set", libc::PR_CAPBSET_DROP, capability)?,
            _ => break,
        }
    }
    prctl("securebits", libc::PR_SET_SECUREBITS, SECUREBITS)?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|error| Error::Capabilities(format!("{set:?} set: {error}")))?;
    }
    Ok(())
}

/// A rule set that handles everything and allows nothing.
fn deny_all() -> Result<Report, Error> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))?
        .handle_access(AccessNet::from_all(LANDLOCK_ABI))?
        .scope(Scope::from_all(LANDLOCK_ABI))?
        .create()?
        .restrict_self()?;
    let kernel = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            kernel_abi.map_or(effective_abi as u32, i32::cast_unsigned)
        }
        _ => 0,
    };
    let in_force = match status.ruleset {
        RulesetStatus::NotEnforced => 0,
        _ => kernel.min(LANDLOCK_ABI as u32),
    };
    Ok(Report { kernel_landlock_abi: kernel, landlock_abi: in_force, missing: lacks(in_force) })
}

/// What an older ABI leaves open, in the words of landlock(7).
fn lacks(abi: u32) -> Vec<String> {
    const SINCE: [(u32, &str); 4] = [
        (1, "no Landlock: file access is limited by the empty root and the filter only"),
        (4, "Landlock before ABI 4 does not cover TCP ports"),
        (5, "Landlock before ABI 5 does not cover device ioctls"),
        (6, "Landlock before ABI 6 does not cover abstract sockets and signals"),
    ];
    let first_only = if abi == 0 { 1 } else { SINCE.len() };
    SINCE.iter().take(first_only).filter(|(since, _)| abi < *since).map(|(_, text)| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_older_abi_names_what_it_lacks() {
        assert_eq!(lacks(0).len(), 1);
        assert_eq!(lacks(1).len(), 3);
        assert_eq!(lacks(5).len(), 1);
        assert!(lacks(6).is_empty() && lacks(9).is_empty());
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness runs this in a thread beside its main one.
        let error = before_threads(profile::Kind::Probe.profile()).expect_err("there are two threads");
        assert!(matches!(error, Error::ThreadsAlready), "{error}");
    }
}
