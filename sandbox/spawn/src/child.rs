//! The child between clone and exec: a fixed row of raw system calls.
//!
//! The parent has other threads, whose locks the child's copy of memory may hold for ever; so nothing here allocates,
//! locks, or calls the C library beyond `syscall`. Whatever it needs lies ready in a [`Plan`].

#![expect(unsafe_code, reason = "clone3 and raw system calls in a child that may not use the C library")]

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{fmt, io, ptr};

/// A step of the child, as reported to the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// clone3 itself (reported by the parent).
    Clone = 1,
    /// Waiting for the parent to write the id maps.
    WaitForMaps,
    /// A session of its own.
    Session,
    /// Dropping the supplementary groups.
    Groups,
    /// Becoming id 0 of its own user namespace.
    Ids,
    /// Detaching the mounts from the parent's.
    PrivateMounts,
    /// Mounting the empty root.
    EmptyRoot,
    /// Making it the root.
    PivotRoot,
    /// Taking the old root away.
    DetachOldRoot,
    /// Making the root read-only.
    ReadOnlyRoot,
    /// Naming the host.
    HostName,
    /// Placing the descriptors.
    Descriptors,
    /// Closing everything else at exec.
    CloseOthers,
    /// Unblocking signals.
    Signals,
    /// Executing the binary.
    Exec,
}

impl Step {
    const ALL: [Step; 15] = [
        Step::Clone,
        Step::WaitForMaps,
        Step::Session,
        Step::Groups,
        Step::Ids,
        Step::PrivateMounts,
        Step::EmptyRoot,
        Step::PivotRoot,
        Step::DetachOldRoot,
        Step::ReadOnlyRoot,
        Step::HostName,
        Step::Descriptors,
        Step::CloseOthers,
        Step::Signals,
        Step::Exec,
    ];

    /// The step with this number, if there is one.
    pub(crate) fn from_u32(number: u32) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u32 == number)
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(self, error: &io::Error) -> &'static str {
        match (self, error.raw_os_error()) {
            (Step::Clone, Some(libc::EPERM | libc::ENOSPC | libc::EUSERS)) => {
                "; user namespaces are switched off here: see user.max_user_namespaces, kernel.unprivileged_userns_clone \
                 and kernel.apparmor_restrict_unprivileged_userns (sysctl)"
            }
            (Step::Exec, Some(libc::ENOENT)) => "; the binary needs an interpreter: build it as a static-pie",
            (Step::Exec, Some(libc::EACCES)) => {
                "; the binary must be executable for every user (mode 0755) and its file system not mounted noexec"
            }
            (Step::Exec, Some(libc::ENOEXEC)) => "; the file is not an executable of this machine",
            (Step::PivotRoot, Some(libc::EINVAL)) => "; the parent's root must be a mount point and not the initramfs",
            _ => "",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Clone => "clone into new namespaces",
            Step::WaitForMaps => "waiting for the id maps",
            Step::Session => "setsid",
            Step::Groups => "dropping supplementary groups",
            Step::Ids => "becoming id 0 of its user namespace",
            Step::PrivateMounts => "making mounts private",
            Step::EmptyRoot => "mounting an empty root",
            Step::PivotRoot => "pivot_root",
            Step::DetachOldRoot => "detaching the old root",
            Step::ReadOnlyRoot => "making the root read-only",
            Step::HostName => "sethostname",
            Step::Descriptors => "placing descriptors",
            Step::CloseOthers => "closing other descriptors",
            Step::Signals => "unblocking signals",
            Step::Exec => "exec",
        })
    }
}

/// Size of a report: step and errno, two native 32-bit words. Written at once, so never torn.
pub(crate) const REPORT_SIZE: usize = 8;

/// linux/sched.h; the libc crate's constant has too narrow a type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Exit code of a child that failed before exec; its parent reads the report instead.
const EXIT_BEFORE_EXEC: i32 = 127;

/// Everything that the child needs, made by the parent before the clone.
pub(crate) struct Plan {
    /// `CLONE_NEW*`.
    pub namespaces: u64,
    /// Whether to build an empty root and name the host (islets), or to keep the parent's file system (keeper).
    pub empty_root: bool,
    pub executable: OwnedFd,
    pub arguments: CStrings,
    pub environment: CStrings,
    /// (source, target): every source is above every target, so that no step overwrites another one's source.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
    /// Ascending ranges of numbers to be closed at exec: the gaps between targets, and everything above.
    pub gaps: Vec<(u32, u32)>,
    /// The child waits until it can read a byte here.
    pub go: OwnedFd,
    /// The parent's end of `go`, which the child closes so that it notices the parent's end.
    pub go_parent: RawFd,
    /// Where a failure is reported; closed by a successful exec.
    pub report: OwnedFd,
}

/// Strings in the shape that exec wants.
pub(crate) struct CStrings {
    _owners: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers point into the strings owned beside them, which never change.
unsafe impl Send for CStrings {}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> CStrings {
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        CStrings { _owners: strings, pointers }
    }
}

/// Clones a child that carries out `plan`. Returns its pid, as the caller's pid namespace counts, and its pidfd.
pub(crate) fn clone(plan: &Plan) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let args = libc::clone_args {
        flags: libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND | plan.namespaces,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: signals are blocked around the clone, so that no handler of the parent runs in the child. Without
    // CLONE_VM the child has its own copy of the memory, stack included, so it may go on from here; `carry_out` keeps
    // to raw system calls and does not return. The kernel writes a new descriptor of ours to `pidfd`.
    unsafe {
        let all = u64::MAX;
        let mut before = 0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8usize);
        let pid = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>());
        if pid == 0 {
            carry_out(plan);
        }
        let error = io::Error::last_os_error();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, ptr::null::<u64>(), 8usize);
        if pid < 0 {
            return Err(error);
        }
        Ok((pid as i32, OwnedFd::from_raw_fd(pidfd)))
    }
}

/// Fails the child at `step` with the errno of the last call.
fn fail(plan: &Plan, step: Step) -> ! {
    // SAFETY: reads errno, writes a live array, and ends the process.
    unsafe {
        let words: [u32; 2] = [step as u32, (*libc::__errno_location()).cast_unsigned()];
        libc::syscall(libc::SYS_write, plan.report.as_raw_fd(), words.as_ptr(), REPORT_SIZE);
        libc::syscall(libc::SYS_exit_group, EXIT_BEFORE_EXEC);
    }
    loop {
        std::hint::spin_loop();
    }
}

/// The child. Async-signal-safe, does not return.
fn carry_out(plan: &Plan) -> ! {
    // SAFETY: every argument is a number or a pointer to live memory of the plan or the binary.
    unsafe {
        libc::syscall(libc::SYS_close, plan.go_parent);
        let mut byte = 0u8;
        match libc::syscall(libc::SYS_read, plan.go.as_raw_fd(), &raw mut byte, 1usize) {
            1 => {}
            // The parent has given up, and says why itself.
            0 => libc::_exit(EXIT_BEFORE_EXEC),
            _ => fail(plan, Step::WaitForMaps),
        }
        let check = |result: libc::c_long, step| {
            if result < 0 {
                fail(plan, step)
            }
        };
        check(libc::syscall(libc::SYS_setsid), Step::Session);
        // A namespace made without privilege cannot change groups (user_namespaces(7)); the groups remain, unmapped.
        if libc::syscall(libc::SYS_setgroups, 0usize, ptr::null::<u32>()) < 0
            && *libc::__errno_location() != libc::EPERM
        {
            fail(plan, Step::Groups);
        }
        check(libc::syscall(libc::SYS_setresgid, 0u32, 0u32, 0u32), Step::Ids);
        check(libc::syscall(libc::SYS_setresuid, 0u32, 0u32, 0u32), Step::Ids);
        if plan.empty_root {
            empty_root(plan);
        }
        for (source, target) in &plan.descriptors {
            check(libc::syscall(libc::SYS_dup2, source.as_raw_fd(), *target), Step::Descriptors);
        }
        for (first, last) in &plan.gaps {
            let flags = libc::CLOSE_RANGE_CLOEXEC;
            check(libc::syscall(libc::SYS_close_range, *first, *last, flags), Step::CloseOthers);
        }
        libc::syscall(libc::SYS_umask, 0o077u32);
        let none = 0u64;
        let unblocked =
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null::<u64>(), 8usize);
        check(unblocked, Step::Signals);
        libc::syscall(
            libc::SYS_execveat,
            plan.executable.as_raw_fd(),
            c"".as_ptr(),
            plan.arguments.pointers.as_ptr(),
            plan.environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        fail(plan, Step::Exec)
    }
}

/// Replaces the root by an empty, read-only tmpfs and names the host.
///
/// # Safety
/// Only in a child with mount and uts namespaces of its own.
unsafe fn empty_root(plan: &Plan) {
    const LOCKED: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // Any directory that exists will do to mount on; /proc does, since the parent reads it.
    const PLACE: &CStr = c"/proc";
    const HOST_NAME: &[u8] = b"atoll";
    let nothing = ptr::null::<c_char>();
    // SAFETY: all pointers are null or to static strings.
    unsafe {
        let mount = |source: *const c_char, to: &CStr, kind: *const c_char, flags: libc::c_ulong, data, step| {
            let data: *const c_char = data;
            if libc::syscall(libc::SYS_mount, source, to.as_ptr(), kind, flags, data) < 0 {
                fail(plan, step);
            }
        };
        let check = |result: libc::c_long, step| {
            if result < 0 {
                fail(plan, step)
            }
        };
        mount(nothing, c"/", nothing, libc::MS_REC | libc::MS_PRIVATE, nothing, Step::PrivateMounts);
        let options = c"size=4k,nr_inodes=2,mode=0555".as_ptr();
        mount(c"tmpfs".as_ptr(), PLACE, c"tmpfs".as_ptr(), LOCKED, options, Step::EmptyRoot);
        check(libc::syscall(libc::SYS_chdir, PLACE.as_ptr()), Step::PivotRoot);
        // With the same directory twice the old root ends up on top of the new one (pivot_root(2)).
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()), Step::PivotRoot);
        check(libc::syscall(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH), Step::DetachOldRoot);
        check(libc::syscall(libc::SYS_chdir, c"/".as_ptr()), Step::DetachOldRoot);
        let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | LOCKED;
        mount(nothing, c"/", nothing, read_only, nothing, Step::ReadOnlyRoot);
        check(libc::syscall(libc::SYS_sethostname, HOST_NAME.as_ptr(), HOST_NAME.len()), Step::HostName);
    }
}
