//! The processes of a VM as the host sees them, and the last resort against a keeper.
//!
//! The idea: the control socket is the way to a VM. What is here needs only /proc, for when nobody answers there, and for the
//! one thing that nobody inside the VM's pid namespace knows: the host's process ids.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::directory::Place;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProcess {
    /// On the host.
    pub pid: i32,
    /// In the VM's pid namespace.
    pub inner: i32,
}

/// The keeper, if the pid that was noted is still the process that holds the VM's lock.
pub fn keeper(place: &Place) -> Option<i32> {
    place.keeper().filter(|pid| holds_lock(*pid, place))
}

/// The keeper and its children.
pub fn all(keeper: i32) -> Vec<HostProcess> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_vm = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let (parent, inner) = family(&status)?;
        (pid == keeper || parent == keeper).then_some(HostProcess { pid, inner })
    };
    pids.filter_map(of_vm).collect()
}

/// A descriptor of the keeper's process, which is readable once it and with it every process of the VM has ended.
pub fn watch(place: &Place) -> Option<OwnedFd> {
    let number = place.keeper()?;
    // First the descriptor, then the check: what is checked is then what is watched or killed.
    let pidfd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    holds_lock(number, place).then_some(pidfd)
}

/// kill -9 of a keeper that does not answer. False if it cannot be killed.
pub fn kill(keeper: &OwnedFd) -> bool {
    pidfd_send_signal(keeper, Signal::KILL).is_ok()
}

/// Parent and innermost pid of a /proc/PID/status (proc(5): PPid, NSpid).
fn family(status: &str) -> Option<(i32, i32)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let parent = field("PPid:")?.trim().parse().ok()?;
    let inner = field("NSpid:")?.split_whitespace().last()?.parse().ok()?;
    Some((parent, inner))
}

/// Whether a process has the lock file of `place` open.
fn holds_lock(pid: i32, place: &Place) -> bool {
    let Some(identity) = place.lock_identity() else { return false };
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_of_a_status() {
        let status = "Name:\tserial0\nPid:\t4711\nPPid:\t4700\nNSpid:\t4711\t5\n";
        assert_eq!(family(status), Some((4700, 5)));
        assert_eq!(family("PPid:\tx\nNSpid:\t1\n"), None);
        assert_eq!(family(""), None);
    }

    #[test]
    fn this_process_is_found_and_a_foreign_pid_is_not_taken_for_a_keeper() {
        let own = std::process::id().cast_signed();
        assert!(all(own).iter().any(|process| process.pid == own));
        let path = std::env::temp_dir().join(format!("atoll-processes-{own}"));
        fs::create_dir_all(&path).unwrap();
        let place = Place { name: "x".into(), path: path.clone() };
        let lock = fs::File::create(path.join("lock")).unwrap();
        place.write_keeper(own).unwrap();
        assert_eq!(keeper(&place), Some(own));
        assert!(watch(&place).is_some());
        drop(lock);
        assert_eq!(keeper(&place), None);
        assert!(watch(&place).is_none(), "whoever has the number now is not the keeper");
        fs::remove_dir_all(path).unwrap();
    }
}
