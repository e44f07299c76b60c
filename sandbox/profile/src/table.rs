//! The profiles themselves, as tables that a reader can hold against the design's security page.
//!
//! The order of a list is: what every process needs, then what this one does. A reason stands beside every entry; an
//! entry that no test uses is to be removed. (Seen with strace behind lock-down over a start, a console, pause, reset and end
//! of a VM, and read in the sources of what a process is built from. Not seen in every process, and yet in every list:
//! what SIGSTOP, a trap, or a clock and random numbers without the vDSO need, and locks.)

use libc::*;

use crate::{Check, Kind, Landlock, Limit, LimitValue, MemoryGrant, Namespace, Policy, Privilege, Profile, Rule, When};

/// A call with any arguments.
const fn call(call: i64, why: &'static str) -> Rule {
    Rule { call, checks: &[], why }
}

/// A call with arguments restricted.
const fn checked(call: i64, checks: &'static [Check], why: &'static str) -> Rule {
    Rule { call, checks, why }
}

/// Waiting and waking only: no priority inheritance, no requeue. The ignored bits are PRIVATE and CLOCK_REALTIME
/// (futex(2)).
const FUTEX_OPERATIONS: Check = Check {
    argument: 1,
    ignore: (FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) as u32,
    values: &[
        (FUTEX_WAIT as u32, "WAIT"),
        (FUTEX_WAKE as u32, "WAKE"),
        (FUTEX_WAIT_BITSET as u32, "WAIT_BITSET"),
        (FUTEX_WAKE_BITSET as u32, "WAKE_BITSET"),
    ],
};

/// Copies, and looking at flags; no changed flags, locks, owners, leases, seals or pipe sizes.
const FCNTL_COMMANDS: Check = Check {
    argument: 1,
    ignore: 0,
    values: &[(F_GETFD as u32, "F_GETFD"), (F_GETFL as u32, "F_GETFL"), (F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC")],
};

/// Only whether a descriptor is open.
const FCNTL_OPEN: Check = Check { argument: 1, ignore: 0, values: &[(F_GETFD as u32, "F_GETFD")] };

/// Only what a socket needs to become non-blocking.
const SOCKET_IOCTLS: Check = Check { argument: 1, ignore: 0, values: &[(FIONBIO as u32, "FIONBIO")] };

/// Placing pages, waking who waits for them, and the end of it (linux/userfaultfd.h); no handshake, registration or write
/// protection.
const FAULT_IOCTLS: Check = Check {
    argument: 1,
    ignore: 0,
    values: &[
        (0x8010_aa01, "UFFDIO_UNREGISTER"),
        (0x8010_aa02, "UFFDIO_WAKE"),
        (0xc028_aa03, "UFFDIO_COPY"),
        (0xc020_aa04, "UFFDIO_ZEROPAGE"),
    ],
};

/// Memory stays what it is (madvise(2)).
const COLLAPSE: Check = Check { argument: 2, ignore: 0, values: &[(MADV_COLLAPSE as u32, "MADV_COLLAPSE")] };

/// Nothing to execute (mmap(2)).
const NOT_EXECUTABLE: Check =
    Check { argument: 2, ignore: 0, values: &[((PROT_READ | PROT_WRITE) as u32, "PROT_READ|PROT_WRITE")] };

/// A file that is open, over memory of its own: no more memory, and no more addresses.
const IN_PLACE: Check = Check {
    argument: 3,
    ignore: 0,
    values: &[((MAP_SHARED | MAP_FIXED | MAP_POPULATE) as u32, "MAP_SHARED|MAP_FIXED|MAP_POPULATE")],
};

const RESTART: Rule = call(SYS_restart_syscall, "continues a timed wait after SIGSTOP and SIGCONT");
const RANDOM: Rule = call(SYS_getrandom, "seeds hash maps, once per thread");
const SIGRETURN: Rule = call(SYS_rt_sigreturn, "leaves a signal handler");
const CLOCK: Rule = call(SYS_clock_gettime, "the clock where the vDSO has none");
const EXIT: Rule = call(SYS_exit_group, "ends the process");
const FUTEX: Rule = checked(SYS_futex, &[FUTEX_OPERATIONS], "locks, thread wake-ups, replies in register slots");
const READ: Rule = call(SYS_read, "eventfds, streams");
const WRITE: Rule = call(SYS_write, "eventfds, streams, panic text to the log pipe");
const PPOLL: Rule = call(SYS_ppoll, "waits for descriptors");
const RECVMSG: Rule = call(SYS_recvmsg, "control messages with descriptors");
const SENDMSG: Rule = call(SYS_sendmsg, "control messages with descriptors");
const CLOSE: Rule = call(SYS_close, "descriptors of ended requests, or that a peer sent unasked");
const IS_OPEN: Rule = checked(
    SYS_fcntl,
    &[FCNTL_OPEN],
    "the standard library checks a descriptor before it closes it, in builds with debug assertions",
);

/// The limits of every islet without files to write.
const ISLET_LIMITS: &[Limit] = &[CORE, MEMLOCK, MSGQUEUE, RTPRIO, NICE, NOFILE, NO_FILE_SIZE, NPROC];
/// The limits of an islet that writes to a file or memfd.
const WRITER_LIMITS: &[Limit] = &[CORE, MEMLOCK, MSGQUEUE, RTPRIO, NICE, NOFILE, NPROC];

const fn limit(resource: u32, name: &'static str, proc_name: &'static str, value: LimitValue) -> Limit {
    Limit { resource, name, proc_name, value, when: When::BeforeThreads }
}

const CORE: Limit = limit(RLIMIT_CORE, "core", "Max core file size", LimitValue::At(0));
const MEMLOCK: Limit = limit(RLIMIT_MEMLOCK, "memlock", "Max locked memory", LimitValue::At(0));
const MSGQUEUE: Limit = limit(RLIMIT_MSGQUEUE, "msgqueue", "Max msgqueue size", LimitValue::At(0));
const RTPRIO: Limit = limit(RLIMIT_RTPRIO, "rtprio", "Max realtime priority", LimitValue::At(0));
const NICE: Limit = limit(RLIMIT_NICE, "nice", "Max nice priority", LimitValue::At(0));
const NOFILE: Limit = limit(RLIMIT_NOFILE, "nofile", "Max open files", LimitValue::Hard);
const NO_FILE_SIZE: Limit = limit(RLIMIT_FSIZE, "fsize", "Max file size", LimitValue::At(0));
/// No thread or process can be made any more, even if the filter had a hole.
const NPROC: Limit = Limit {
    resource: RLIMIT_NPROC,
    name: "nproc",
    proc_name: "Max processes",
    value: LimitValue::At(0),
    when: When::Seal,
};

/// What every process under a VM's keeper has for itself; pid and net are shared within the VM but not with the host.
const ISLET_NAMESPACES: &[Namespace] = &[Namespace::User, Namespace::Mount, Namespace::Ipc, Namespace::Uts];

pub(crate) static KEEPER: Profile = Profile {
    kind: Kind::Keeper,
    purpose: "pid 1 of the VM: starts processes, holds descriptors, reports exits",
    policy: Policy::DenyOnly(KEEPER_DENIED),
    budget: KEEPER_DENIED.len(),
    limits: &[CORE, NOFILE],
    namespaces: &[Namespace::User, Namespace::Pid],
    privilege: Privilege::OwnNamespace,
    landlock: Landlock::None,
    memory: MemoryGrant::None,
};

/// Nothing that the keeper or anything that it starts has a use for at any time, including before its own lock-down.
const KEEPER_DENIED: &[Rule] = &[
    call(SYS_ptrace, "controls other processes"),
    call(SYS_process_vm_readv, "reads other processes"),
    call(SYS_process_vm_writev, "writes other processes"),
    call(SYS_process_madvise, "changes other processes"),
    call(SYS_kcmp, "compares other processes"),
    call(SYS_pidfd_getfd, "takes descriptors out of other processes"),
    call(SYS_io_uring_setup, "a ring's entries pass no filter"),
    call(SYS_io_uring_enter, "a ring's entries pass no filter"),
    call(SYS_io_uring_register, "a ring's entries pass no filter"),
    call(SYS_bpf, "loads programs into the kernel"),
    call(SYS_perf_event_open, "observes the host"),
    call(SYS_init_module, "loads kernel code"),
    call(SYS_finit_module, "loads kernel code"),
    call(SYS_delete_module, "unloads kernel code"),
    call(SYS_kexec_load, "replaces the kernel"),
    call(SYS_kexec_file_load, "replaces the kernel"),
    call(SYS_reboot, "stops the host"),
    call(SYS_swapon, "changes the host's memory"),
    call(SYS_swapoff, "changes the host's memory"),
    call(SYS_acct, "changes the host's accounting"),
    call(SYS_settimeofday, "changes the host's clock"),
    call(SYS_clock_settime, "changes the host's clock"),
    call(SYS_adjtimex, "changes the host's clock"),
    call(SYS_clock_adjtime, "changes the host's clock"),
    call(SYS_syslog, "reads the kernel's log"),
    call(SYS_quotactl, "changes quotas"),
    call(SYS_quotactl_fd, "changes quotas"),
    call(SYS_open_by_handle_at, "opens files past directories"),
    call(SYS_name_to_handle_at, "opens files past directories"),
    call(SYS_fanotify_init, "observes file systems"),
    call(SYS_add_key, "key rings are not in a namespace"),
    call(SYS_request_key, "key rings are not in a namespace"),
    call(SYS_keyctl, "key rings are not in a namespace"),
    call(SYS_iopl, "host I/O ports"),
    call(SYS_ioperm, "host I/O ports"),
    call(SYS_modify_ldt, "rarely used kernel code"),
    call(SYS_personality, "weakens address space layout"),
    call(SYS_vhangup, "terminals"),
    call(SYS_migrate_pages, "moves other processes' memory"),
    call(SYS_move_pages, "moves other processes' memory"),
];

pub(crate) static SUPERVISOR: Profile = Profile {
    kind: Kind::Supervisor,
    purpose: "policy: wires, watches, decides; serves the control socket",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        WRITE,
        PPOLL,
        RECVMSG,
        SENDMSG,
        CLOSE,
        call(SYS_accept4, "clients of the control socket"),
        call(SYS_shutdown, "the end of a client's connection"),
        call(SYS_recvfrom, "reading from clients of the control socket"),
        call(SYS_sendto, "writing to clients of the control socket"),
        call(SYS_getsockopt, "SO_TYPE: whether a descriptor is a socket of the right kind"),
        call(SYS_epoll_wait, "the runtime's event loop"),
        call(SYS_epoll_ctl, "a socket joins or leaves the event loop"),
        checked(SYS_fcntl, &[FCNTL_COMMANDS], "copies of sockets for the event loop, and whether they block"),
        checked(SYS_ioctl, &[SOCKET_IOCTLS], "an accepted socket becomes non-blocking"),
        call(SYS_pread64, "state in a memfd made by the keeper"),
        call(SYS_pwrite64, "state in a memfd made by the keeper"),
    ]),
    budget: 40,
    limits: WRITER_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::None,
};

pub(crate) static LOADER: Profile = Profile {
    kind: Kind::Loader,
    purpose: "parses the kernel, initrd and firmware, writes them into guest memory, and exits",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        WRITE,
        PPOLL,
        SENDMSG,
        CLOSE,
        IS_OPEN,
        call(SYS_pread64, "kernel files by position"),
    ]),
    budget: 16,
    limits: ISLET_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::ReadWriteBeforeGuest,
};

pub(crate) static ENGINE_TCG: Profile = Profile {
    kind: Kind::EngineTcg,
    purpose: "executes the vCPUs by translation",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        READ,
        WRITE,
        PPOLL,
        RECVMSG,
        SENDMSG,
        CLOSE,
        IS_OPEN,
        call(SYS_sched_yield, "spinning vCPUs when CPUs are few"),
        checked(SYS_madvise, &[COLLAPSE], "RAM that the guest uses gets huge pages"),
        checked(SYS_mmap, &[NOT_EXECUTABLE, IN_PLACE], "puts pages of RAM, its only file, next to each other"),
    ]),
    budget: 16,
    limits: ISLET_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::ReadWrite,
};

/// The calls are the same; what differs is the limit of the size of files.
pub(crate) static ENGINE_TCG_WITH_FILES: Profile = Profile {
    kind: Kind::EngineTcg,
    purpose: "executes the vCPUs by translation, and writes to files what it translates",
    policy: ENGINE_TCG.policy,
    budget: ENGINE_TCG.budget,
    limits: WRITER_LIMITS,
    namespaces: ENGINE_TCG.namespaces,
    privilege: ENGINE_TCG.privilege,
    landlock: ENGINE_TCG.landlock,
    memory: ENGINE_TCG.memory,
};

pub(crate) static BOARD: Profile = Profile {
    kind: Kind::Board,
    purpose: "the chipset: PCI configuration, interrupt routing, clock and timer chips, power state",
    policy: Policy::AllowOnly(&[
        RESTART, RANDOM, SIGRETURN, CLOCK, EXIT, FUTEX, READ, WRITE, PPOLL, RECVMSG, SENDMSG, CLOSE, IS_OPEN,
    ]),
    budget: 16,
    limits: ISLET_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::NotMapped,
};

pub(crate) static SERIAL: Profile = Profile {
    kind: Kind::Serial,
    purpose: "a serial port between its register window and its console",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        READ,
        WRITE,
        PPOLL,
        RECVMSG,
        SENDMSG,
        CLOSE,
        IS_OPEN,
        call(SYS_recvmmsg, "console input"),
        call(SYS_sendmmsg, "console output in batches"),
        call(SYS_pwrite64, "a console that is a log file"),
    ]),
    budget: 16,
    limits: WRITER_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::None,
};

pub(crate) static STREAMER_SOURCE: Profile = Profile {
    kind: Kind::StreamerSource,
    purpose: "writes the states and the RAM of a paused VM to the files of a snapshot",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        WRITE,
        PPOLL,
        RECVMSG,
        SENDMSG,
        CLOSE,
        IS_OPEN,
        call(SYS_lseek, "where RAM has data and where holes"),
        call(SYS_pread64, "RAM and states"),
        call(SYS_pwrite64, "the snapshot's files"),
        call(SYS_fdatasync, "the snapshot's files, before it says that they are written"),
    ]),
    budget: 18,
    limits: WRITER_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::ReadDescriptor,
};

pub(crate) static STREAMER_TARGET: Profile = Profile {
    kind: Kind::StreamerTarget,
    purpose: "checks a snapshot, and brings its states and its RAM: at once, or as the guest touches it",
    policy: Policy::AllowOnly(&[
        RESTART,
        RANDOM,
        SIGRETURN,
        CLOCK,
        EXIT,
        FUTEX,
        READ,
        WRITE,
        PPOLL,
        RECVMSG,
        SENDMSG,
        CLOSE,
        IS_OPEN,
        call(SYS_lseek, "where the snapshot's RAM has data and where holes"),
        call(SYS_pread64, "the snapshot's files"),
        call(SYS_pwrite64, "RAM and states"),
        call(SYS_sched_yield, "the memory of whoever waits for a page is being changed"),
        checked(SYS_ioctl, &[FAULT_IOCTLS], "pages that the guest waits for"),
    ]),
    budget: 18,
    limits: WRITER_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::WriteDescriptor,
};

pub(crate) static PROBE: Profile = Profile {
    kind: Kind::Probe,
    purpose: "tries what must be impossible and reports it",
    policy: Policy::AllowOnly(&[
        RESTART, RANDOM, SIGRETURN, CLOCK, EXIT, FUTEX, READ, WRITE, PPOLL, RECVMSG, SENDMSG, CLOSE, IS_OPEN,
    ]),
    budget: 16,
    limits: ISLET_LIMITS,
    namespaces: ISLET_NAMESPACES,
    privilege: Privilege::None,
    landlock: Landlock::DenyAll,
    memory: MemoryGrant::Scratch,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls;

    #[test]
    fn no_list_is_over_its_budget_or_names_a_call_twice() {
        for kind in Kind::ALL {
            let profile = kind.profile();
            assert_eq!(profile.kind, kind);
            let mut calls: Vec<i64> = profile.calls().collect();
            assert!(calls.len() <= profile.budget, "{kind}: {} of {}", calls.len(), profile.budget);
            calls.sort_unstable();
            calls.dedup();
            assert_eq!(calls.len(), profile.rules().len(), "{kind} names a call twice");
            assert!(calls.iter().all(|call| syscalls::name(*call).is_some()), "{kind}");
        }
    }

    #[test]
    fn what_every_process_needs_is_in_every_list_and_what_none_may_do_in_none() {
        const NEEDED: [i64; 7] = [
            SYS_restart_syscall,
            SYS_getrandom,
            SYS_rt_sigreturn,
            SYS_clock_gettime,
            SYS_exit_group,
            SYS_futex,
            SYS_write,
        ];
        const REFUSED: [i64; 24] = [
            SYS_open,
            SYS_openat,
            SYS_openat2,
            SYS_socket,
            SYS_bind,
            SYS_connect,
            SYS_execve,
            SYS_execveat,
            SYS_fork,
            SYS_vfork,
            SYS_clone,
            SYS_clone3,
            SYS_mmap,
            SYS_mremap,
            SYS_mprotect,
            SYS_munmap,
            SYS_brk,
            SYS_ptrace,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_pidfd_getfd,
            SYS_userfaultfd,
            SYS_io_uring_setup,
            SYS_io_uring_enter,
        ];
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keeper) {
            let profile = kind.profile();
            assert!(NEEDED.iter().all(|call| profile.allows(*call)), "{kind}");
            // The engine may map what it has open, not to be executed.
            let refused = REFUSED.iter().filter(|call| kind != Kind::EngineTcg || **call != SYS_mmap);
            assert!(!refused.into_iter().any(|call| profile.allows(*call)), "{kind}");
            assert_eq!(profile.landlock, Landlock::DenyAll);
        }
    }

    #[test]
    fn the_keeper_denies_nothing_that_an_islet_needs_to_start() {
        let keeper = Kind::Keeper.profile();
        for call in [SYS_clone3, SYS_execveat, SYS_mount, SYS_pivot_root, SYS_unshare, SYS_seccomp, SYS_mmap, SYS_prctl]
        {
            assert!(keeper.allows(call), "{}", syscalls::describe(call));
        }
        assert!(!keeper.allows(SYS_ptrace) && !keeper.allows(SYS_io_uring_setup));
    }

    #[test]
    fn the_engine_maps_nothing_to_execute_and_no_more_memory() {
        let program = Kind::EngineTcg.profile().program().unwrap();
        let passes = |protection: i32, flags: i32| {
            let arguments = [0, 4096, protection as u64, flags as u64, 7, 0];
            let call = crate::bpf::Call::new(SYS_mmap as u32, arguments);
            crate::bpf::evaluate(&program, &call).unwrap() == SECCOMP_RET_ALLOW
        };
        const DATA: i32 = PROT_READ | PROT_WRITE;
        const IN_PLACE: i32 = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
        assert!(passes(DATA, IN_PLACE));
        for protection in [0, PROT_READ, PROT_WRITE, PROT_EXEC, PROT_READ | PROT_EXEC, DATA | PROT_EXEC] {
            assert!(!passes(protection, IN_PLACE), "{protection:#x}");
        }
        for flags in
            [MAP_SHARED, MAP_PRIVATE | MAP_ANONYMOUS, IN_PLACE | MAP_ANONYMOUS, IN_PLACE | MAP_PRIVATE, MAP_FIXED]
        {
            assert!(!passes(DATA, flags), "{flags:#x}");
        }
    }

    #[test]
    fn a_description_names_everything() {
        for kind in Kind::ALL {
            let text = kind.profile().describe();
            for rule in kind.profile().rules() {
                assert!(text.contains(syscalls::name(rule.call).expect("known")), "{text}");
            }
        }
        assert!(Kind::Serial.profile().describe().contains("futex"), "a name");
        assert!(Kind::Serial.profile().describe().contains("{WAIT, WAKE, WAIT_BITSET, WAKE_BITSET}"));
    }
}
