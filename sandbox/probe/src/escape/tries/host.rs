//! The host itself. What would harm it is asked for in a form that is refused after the question of permission.

use libc::*;
use nix::errno::Errno;

use super::super::Place;
use super::super::raw::call;
use super::{open, text};

pub(crate) fn host_name(_: &Place) -> Result<(), Errno> {
    call(SYS_sethostname, [text(c"escaped"), 7]).map(drop)
}

/// Neither a time nor a zone: permission is asked for, and nothing is set.
pub(crate) fn clock(_: &Place) -> Result<(), Errno> {
    call(SYS_settimeofday, [0, 0]).map(drop)
}

/// Without the numbers that confirm it.
pub(crate) fn reboot(_: &Place) -> Result<(), Errno> {
    call(SYS_reboot, [0, 0, 0, 0]).map(drop)
}

/// A file that does not exist.
pub(crate) fn swap(_: &Place) -> Result<(), Errno> {
    call(SYS_swapon, [text(c"/dev/shm/no-such-file"), 0]).map(drop)
}

/// A file that does not exist.
pub(crate) fn accounting(_: &Place) -> Result<(), Errno> {
    call(SYS_acct, [text(c"/dev/shm/no-such-file")]).map(drop)
}

pub(crate) fn kernel_log(_: &Place) -> Result<(), Errno> {
    const READ_ALL: usize = 3;
    call(SYS_syslog, [READ_ALL, [0u8; 64].as_mut_ptr() as usize, 64]).map(drop)
}

pub(crate) fn write_kernel_log(_: &Place) -> Result<(), Errno> {
    open(c"/dev/kmsg", O_WRONLY).map(drop)
}

/// An empty module.
pub(crate) fn module(_: &Place) -> Result<(), Errno> {
    call(SYS_init_module, [0, 0, text(c"")]).map(drop)
}

/// With flags that do not exist.
pub(crate) fn other_kernel(_: &Place) -> Result<(), Errno> {
    call(SYS_kexec_load, [0, 0, 0, 0xffff]).map(drop)
}

pub(crate) fn ports(_: &Place) -> Result<(), Errno> {
    call(SYS_iopl, [3]).map(drop)
}

pub(crate) fn one_port(_: &Place) -> Result<(), Errno> {
    call(SYS_ioperm, [0x80, 1, 1]).map(drop)
}

pub(crate) fn join_keys(_: &Place) -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: usize = 1;
    call(SYS_keyctl, [JOIN_SESSION_KEYRING, 0]).map(drop)
}

pub(crate) fn add_key(_: &Place) -> Result<(), Errno> {
    const PROCESS_KEYRING: isize = -2;
    let arguments = [text(c"user"), text(c"atoll-escape"), text(c"x"), 1, PROCESS_KEYRING as usize];
    call(SYS_add_key, arguments).map(drop)
}

/// Opened for writing; nothing is written.
pub(crate) fn sysctl(_: &Place) -> Result<(), Errno> {
    open(c"/proc/sys/kernel/core_pattern", O_WRONLY).map(drop)
}

pub(crate) fn kernel_setting(_: &Place) -> Result<(), Errno> {
    open(c"/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY).map(drop)
}

/// Writes out the quotas of every file system.
pub(crate) fn quota(_: &Place) -> Result<(), Errno> {
    // Q_SYNC of user quotas of every file system.
    const SYNC: usize = 0x80_0001 << 8;
    call(SYS_quotactl, [SYNC, 0, 0, 0]).map(drop)
}
