//! Signals to others; new processes, programs, namespaces and ids; fewer restrictions.

use libc::*;
use nix::errno::Errno;

use super::super::Place;
use super::super::raw::{born, call, int80_getpid, spare};
use super::{NONE, open, or_own, path, text};

pub(crate) fn kill_everybody(_: &Place) -> Result<(), Errno> {
    call(SYS_kill, [NONE, SIGKILL as usize]).map(drop)
}

pub(crate) fn kill(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_kill, [pid, SIGKILL as usize]))
}

/// The first process of the namespace; the caller itself outside, which is not hurt by this signal.
pub(crate) fn kill_first(_: &Place) -> Result<(), Errno> {
    call(SYS_kill, [1, SIGCONT as usize]).map(drop)
}

pub(crate) fn kill_thread(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_tgkill, [pid, pid, SIGTERM as usize]))
}

pub(crate) fn kill_thread_old(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_tkill, [pid, SIGTERM as usize]))
}

/// `siginfo_t` of a signal that says to come from a queue (`SI_QUEUE`).
fn queued() -> [i32; 32] {
    let mut info = [0; 32];
    info[..3].copy_from_slice(&[SIGTERM, 0, -1]);
    info
}

pub(crate) fn queue_signal(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_rt_sigqueueinfo, [pid, SIGTERM as usize, queued().as_ptr() as usize]))
}

pub(crate) fn queue_thread_signal(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_rt_tgsigqueueinfo, [pid, pid, SIGTERM as usize, queued().as_ptr() as usize]))
}

pub(crate) fn signal_by_descriptor(place: &Place) -> Result<(), Errno> {
    place.any(|pid| {
        let pidfd = or_own(call(SYS_pidfd_open, [pid, 0]), place);
        call(SYS_pidfd_send_signal, [pidfd, SIGTERM as usize, 0, 0])
    })
}

pub(crate) fn fork(_: &Place) -> Result<(), Errno> {
    born(SYS_fork, [0; 5]).map(drop)
}

pub(crate) fn vfork(_: &Place) -> Result<(), Errno> {
    born(SYS_vfork, [0; 5]).map(drop)
}

pub(crate) fn clone_thread(_: &Place) -> Result<(), Errno> {
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    born(SYS_clone, [flags as usize, spare() + 4096, 0, 0, 0]).map(drop)
}

pub(crate) fn clone_namespaces(_: &Place) -> Result<(), Errno> {
    born(SYS_clone, [(CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD) as usize, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn clone3(_: &Place) -> Result<(), Errno> {
    let arguments = [0u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
    born(SYS_clone3, [arguments.as_ptr() as usize, size_of_val(&arguments), 0, 0, 0]).map(drop)
}

/// The file is found and read, and then refused since it is no program.
pub(crate) fn execute(place: &Place) -> Result<(), Errno> {
    let file = path(format!("/proc/self/fd/{}", place.descriptor))?;
    call(SYS_execve, [text(&file), 0, 0]).map(drop)
}

pub(crate) fn execute_descriptor(place: &Place) -> Result<(), Errno> {
    call(SYS_execveat, [place.descriptor as usize, text(c""), 0, 0, AT_EMPTY_PATH as usize]).map(drop)
}

pub(crate) fn own_users(_: &Place) -> Result<(), Errno> {
    call(SYS_unshare, [CLONE_NEWUSER as usize]).map(drop)
}

pub(crate) fn own_network(_: &Place) -> Result<(), Errno> {
    call(SYS_unshare, [CLONE_NEWNET as usize]).map(drop)
}

pub(crate) fn join_network(place: &Place) -> Result<(), Errno> {
    let opened = open(c"/proc/1/ns/net", O_RDONLY);
    let joined = call(SYS_setns, [or_own(opened, place), CLONE_NEWNET as usize]);
    opened.and(joined).map(drop)
}

pub(crate) fn join_mounts(place: &Place) -> Result<(), Errno> {
    let opened = open(c"/proc/1/ns/mnt", O_RDONLY);
    let joined = call(SYS_setns, [or_own(opened, place), CLONE_NEWNS as usize]);
    opened.and(joined).map(drop)
}

pub(crate) fn other_user(_: &Place) -> Result<(), Errno> {
    call(SYS_setresuid, [1, 1, 1]).map(drop)
}

pub(crate) fn other_groups(_: &Place) -> Result<(), Errno> {
    call(SYS_setgroups, [1, [0u32; 1].as_ptr() as usize]).map(drop)
}

pub(crate) fn capabilities(_: &Place) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable; twice.
    let mut sets = [0u32; 6];
    let _ = call(SYS_capget, [header.as_ptr() as usize, sets.as_mut_ptr() as usize]);
    (sets[2], sets[5]) = (sets[1], sets[4]);
    call(SYS_capset, [header.as_ptr() as usize, sets.as_ptr() as usize]).map(drop)
}

pub(crate) fn other_root(_: &Place) -> Result<(), Errno> {
    call(SYS_chroot, [text(c"/dev/shm")]).map(drop)
}

pub(crate) fn turn_root(_: &Place) -> Result<(), Errno> {
    call(SYS_pivot_root, [text(c"/"), text(c"/")]).map(drop)
}

pub(crate) fn dumpable(_: &Place) -> Result<(), Errno> {
    call(SYS_prctl, [PR_SET_DUMPABLE as usize, 1, 0, 0, 0]).map(drop)
}

pub(crate) fn keep_capabilities(_: &Place) -> Result<(), Errno> {
    call(SYS_prctl, [PR_SET_KEEPCAPS as usize, 1, 0, 0, 0]).map(drop)
}

/// `SECCOMP_SET_MODE_FILTER` with a listener, of a filter that allows everything.
pub(crate) fn filter_listener(_: &Place) -> Result<(), Errno> {
    let instruction: u64 = 0x06 | 0x7fff_0000 << 32;
    let instructions = [instruction];
    let program = [1usize, instructions.as_ptr() as usize];
    call(SYS_seccomp, [1, SECCOMP_FILTER_FLAG_NEW_LISTENER as usize, program.as_ptr() as usize]).map(drop)
}

pub(crate) fn raise_limit(_: &Place) -> Result<(), Errno> {
    let none = [u64::MAX; 2];
    call(SYS_prlimit64, [0, RLIMIT_NPROC as usize, none.as_ptr() as usize, 0]).map(drop)
}

pub(crate) fn limit_other(place: &Place) -> Result<(), Errno> {
    let zero = [0u64; 2];
    place.any(|pid| call(SYS_prlimit64, [pid, RLIMIT_CORE as usize, zero.as_ptr() as usize, 0]))
}

pub(crate) fn slow_other(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_setpriority, [PRIO_PROCESS as usize, pid, 19]))
}

pub(crate) fn pin_other(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_sched_setaffinity, [pid, 8, [1u64].as_ptr() as usize]))
}

pub(crate) fn real_time(_: &Place) -> Result<(), Errno> {
    call(SYS_sched_setscheduler, [0, SCHED_FIFO as usize, [1i32].as_ptr() as usize]).map(drop)
}

pub(crate) fn lax_layout(_: &Place) -> Result<(), Errno> {
    const READ_IMPLIES_EXEC: usize = 0x40_0000;
    call(SYS_personality, [READ_IMPLIES_EXEC]).map(drop)
}

pub(crate) fn segments(_: &Place) -> Result<(), Errno> {
    // Reads the table; writing goes the same way.
    call(SYS_modify_ldt, [0, [0u64; 8].as_mut_ptr() as usize, 64]).map(drop)
}

pub(crate) fn entry_x32(_: &Place) -> Result<(), Errno> {
    call(0x4000_0000 | SYS_getpid, []).map(drop)
}

pub(crate) fn entry_i386(_: &Place) -> Result<(), Errno> {
    int80_getpid().map(drop)
}

pub(crate) fn other_folder(_: &Place) -> Result<(), Errno> {
    call(SYS_chdir, [text(c"/dev/shm")]).map(drop)
}
