//! The attempts, as a table: a name, the call that must trap, and the call itself with arguments that work outside.
//!
//! Each is one raw system call, so that no library's fallback blurs which call was refused.

#![expect(unsafe_code, reason = "the probe's purpose is raw system calls that no wrapper would make")]

use std::ptr;

use libc::*;
use nix::errno::Errno;

/// One attempt.
struct Action {
    name: &'static str,
    attempt: fn() -> c_long,
}

const fn action(name: &'static str, attempt: fn() -> c_long) -> Action {
    Action { name, attempt }
}

/// A raw call of up to six arguments.
fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> c_long {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the actions pass numbers, and pointers to live memory of the size that the call writes; those that change
    // the process (memory maps, credentials) do so on ranges that they made themselves or that nobody uses afterwards.
    unsafe { syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) }
}

fn text(path: &'static std::ffi::CStr) -> usize {
    path.as_ptr() as usize
}

const HERE: usize = AT_FDCWD as usize;
const PAGE: usize = 4096;
const ANONYMOUS: usize = (MAP_PRIVATE | MAP_ANONYMOUS) as usize;

fn map(protection: c_int) -> c_long {
    call(SYS_mmap, [0, PAGE, protection as usize, ANONYMOUS, usize::MAX, 0])
}

/// What an islet must not be able to do. Outside a sandbox (as root) most succeed.
const FORBIDDEN: &[Action] = &[
    action("openat", || call(SYS_openat, [HERE, text(c"/"), O_RDONLY as usize])),
    action("openat-passwd", || call(SYS_openat, [HERE, text(c"/etc/passwd"), O_RDONLY as usize])),
    action("openat-proc-self-fd", || call(SYS_openat, [HERE, text(c"/proc/self/fd/2"), O_WRONLY as usize])),
    action("openat-proc-self-mem", || call(SYS_openat, [HERE, text(c"/proc/self/mem"), O_RDWR as usize])),
    action("open", || call(SYS_open, [text(c"/dev/null"), O_RDWR as usize])),
    action("openat2", || call(SYS_openat2, [HERE, text(c"/"), [0u64; 3].as_ptr() as usize, 24])),
    action("creat", || call(SYS_creat, [text(c"/tmp/atoll-probe"), 0o600])),
    action("unlink", || call(SYS_unlink, [text(c"/tmp/atoll-probe")])),
    action("mkdir", || call(SYS_mkdir, [text(c"/dev/shm/atoll-probe"), 0o700])),
    action("rmdir", || call(SYS_rmdir, [text(c"/dev/shm/atoll-probe")])),
    action("readlink", || call(SYS_readlink, [text(c"/proc/self/exe"), [0u8; 64].as_mut_ptr() as usize, 64])),
    action("stat", || call(SYS_stat, [text(c"/etc/passwd"), [0u64; 64].as_mut_ptr() as usize])),
    action("access", || call(SYS_access, [text(c"/etc"), 0])),
    action("chdir", || call(SYS_chdir, [text(c"/tmp")])),
    action("socket", || call(SYS_socket, [AF_UNIX as usize, SOCK_STREAM as usize])),
    action("socket-inet", || call(SYS_socket, [AF_INET as usize, SOCK_STREAM as usize])),
    action("socket-netlink", || call(SYS_socket, [AF_NETLINK as usize, SOCK_RAW as usize])),
    action("socket-vsock", || call(SYS_socket, [AF_VSOCK as usize, SOCK_STREAM as usize])),
    action("socketpair", || call(SYS_socketpair, [1, SOCK_STREAM as usize, 0, [0i32; 2].as_mut_ptr() as usize])),
    action("mmap", || map(PROT_READ | PROT_WRITE)),
    action("mmap-exec", || map(PROT_READ | PROT_WRITE | PROT_EXEC)),
    action("mprotect", || call(SYS_mprotect, [page(), PAGE, (PROT_READ | PROT_WRITE) as usize])),
    action("mremap", || call(SYS_mremap, [page(), PAGE, 2 * PAGE, MREMAP_MAYMOVE as usize])),
    action("munmap", || call(SYS_munmap, [page(), PAGE])),
    action("madvise", || call(SYS_madvise, [page(), PAGE, MADV_DONTNEED as usize])),
    action("brk", || call(SYS_brk, [0])),
    action("remap_file_pages", || call(SYS_remap_file_pages, [page(), PAGE, 0, 0, 0])),
    action("fork", || ended_child(call(SYS_fork, []))),
    action("vfork-clone", || ended_child(call(SYS_clone, [SIGCHLD as usize]))),
    action("clone3", || ended_child(call(SYS_clone3, [[0u64, 0, 0, 0, 17, 0, 0, 0].as_ptr() as usize, 64]))),
    action("execve", || call(SYS_execve, [text(c"/nothing"), 0, 0])),
    action("execveat", || call(SYS_execveat, [2, text(c""), 0, 0, AT_EMPTY_PATH as usize])),
    action("ptrace", || call(SYS_ptrace, [PTRACE_TRACEME as usize])),
    action("process_vm_readv", || call(SYS_process_vm_readv, [1, 0, 0, 0, 0, 0])),
    action("kill", || call(SYS_kill, [1, 0])),
    action("kill-all", || call(SYS_kill, [usize::MAX, 0])),
    action("tgkill", || call(SYS_tgkill, [1, 1, 0])),
    action("pidfd_open", || call(SYS_pidfd_open, [1, 0])),
    action("pidfd_getfd", || call(SYS_pidfd_getfd, [0, 0, 0])),
    action("pidfd_send_signal", || call(SYS_pidfd_send_signal, [0, 0, 0, 0])),
    action("io_uring_setup", || call(SYS_io_uring_setup, [4, [0u64; 32].as_mut_ptr() as usize])),
    action("io_uring_enter", || call(SYS_io_uring_enter, [0, 0, 0, 0, 0, 0])),
    action("userfaultfd", || call(SYS_userfaultfd, [1])),
    action("memfd_create", || call(SYS_memfd_create, [text(c"x"), 0])),
    action("memfd_secret", || call(SYS_memfd_secret, [0])),
    action("bpf", || call(SYS_bpf, [0, [1u32, 4, 8, 1, 0, 0].as_ptr() as usize, 24])),
    action("perf_event_open", || call(SYS_perf_event_open, [0, 0, usize::MAX, usize::MAX, 0])),
    action("unshare-user", || call(SYS_unshare, [CLONE_NEWUSER as usize])),
    action("unshare-files", || call(SYS_unshare, [CLONE_FILES as usize])),
    action("setns", || call(SYS_setns, [0, 0])),
    action("mount", || call(SYS_mount, [text(c"tmpfs"), text(c"/mnt"), text(c"tmpfs"), 0, 0])),
    action("fsopen", || call(SYS_fsopen, [text(c"tmpfs"), 0])),
    action("pivot_root", || call(SYS_pivot_root, [text(c"/"), text(c"/")])),
    action("chroot", || call(SYS_chroot, [text(c"/")])),
    action("prctl", || call(SYS_prctl, [PR_SET_DUMPABLE as usize, 1])),
    action("arch_prctl", || call(SYS_arch_prctl, [0x1003, (&mut 0u64 as *mut u64) as usize])),
    action("prlimit64", || call(SYS_prlimit64, [0, RLIMIT_NPROC as usize, 0, [0u64; 2].as_mut_ptr() as usize])),
    action("setuid", || call(SYS_setuid, [0])),
    action("setgroups", || call(SYS_setgroups, [0, 0])),
    action("capset", || call(SYS_capset, [[0x2008_0522u32, 0].as_ptr() as usize, [0u32; 6].as_ptr() as usize])),
    action("seccomp", || call(SYS_seccomp, [2, 0, (&SECCOMP_RET_TRAP as *const u32) as usize])),
    action("landlock_create_ruleset", || call(SYS_landlock_create_ruleset, [0, 0, 1])),
    action("keyctl", || call(SYS_keyctl, [0, -3isize as usize, 1])),
    action("eventfd2", || call(SYS_eventfd2, [0, 0])),
    action("epoll_create1", || call(SYS_epoll_create1, [0])),
    action("timerfd_create", || call(SYS_timerfd_create, [1, 0])),
    action("signalfd4", || call(SYS_signalfd4, [usize::MAX, [0u64; 1].as_ptr() as usize, 8, 0])),
    action("inotify_init1", || call(SYS_inotify_init1, [0])),
    action("pipe2", || call(SYS_pipe2, [[0i32; 2].as_mut_ptr() as usize, 0])),
    action("dup", || call(SYS_dup, [2])),
    action("fcntl", || call(SYS_fcntl, [2, F_GETFL as usize])),
    action("ioctl", || call(SYS_ioctl, [2, TIOCGWINSZ as usize, [0u64; 2].as_mut_ptr() as usize])),
    action("ftruncate", || call(SYS_ftruncate, [2, 0])),
    action("fchmod", || call(SYS_fchmod, [2, 0o600])),
    action("sendfile", || call(SYS_sendfile, [2, 0, 0, 0])),
    action("splice", || call(SYS_splice, [2, 0, 0, 0, 0, 0])),
    action("shmget", || call(SYS_shmget, [0, PAGE, 0o600])),
    action("msgget", || call(SYS_msgget, [0, 0o600])),
    action("semget", || call(SYS_semget, [0, 1, 0o600])),
    action("mq_open", || call(SYS_mq_open, [text(c"probe"), (O_RDWR | O_CREAT) as usize, 0o600, 0])),
    action("rt_sigaction", || call(SYS_rt_sigaction, [SIGSYS as usize, 0, [0u64; 4].as_mut_ptr() as usize, 8])),
    action("rt_sigprocmask", || call(SYS_rt_sigprocmask, [0, 0, [0u64; 1].as_mut_ptr() as usize, 8])),
    action("sigaltstack", || call(SYS_sigaltstack, [0, [0u64; 3].as_mut_ptr() as usize])),
    action("setitimer", || call(SYS_setitimer, [0, [0u64; 4].as_ptr() as usize, 0])),
    action("sched_setaffinity", || call(SYS_sched_setaffinity, [0, 8, (&u64::MAX as *const u64) as usize])),
    action("setpriority", || call(SYS_setpriority, [0, 0, 0])),
    action("uname", || call(SYS_uname, [[0u8; 512].as_mut_ptr() as usize])),
    action("sysinfo", || call(SYS_sysinfo, [[0u64; 32].as_mut_ptr() as usize])),
    action("syslog", || call(SYS_syslog, [10, 0, 0])),
    action("personality", || call(SYS_personality, [u32::MAX as usize])),
    action("futex-requeue", || call(SYS_futex, [word(), FUTEX_REQUEUE as usize, 0, 0, word(), 0])),
    action("futex-lock-pi", || call(SYS_futex, [word(), FUTEX_TRYLOCK_PI as usize, 0, 0, 0, 0])),
    action("x32-getpid", || call(0x4000_0000 | SYS_getpid, [])),
    action("unknown", || call(900, [])),
];

/// What a locked-down process may do, and the ways in which one ends.
const OTHERS: &[Action] = &[
    action("nothing", || 0),
    action("allocate", || vec![1u8; 100_000].len() as c_long),
    action("panic", || boundary(0)),
    action("exhaust", || vec![1u8; 1 << 40].len() as c_long),
    // SAFETY: abort may be called at any time.
    action("abort", || unsafe { libc::abort() }),
    action("fault", || {
        // SAFETY: not sound: the fault is what is asked for.
        unsafe { ptr::without_provenance::<u8>(0x1234).read_volatile().into() }
    }),
    action("overflow", || deep(1)),
    action("error", || enter::exit::error(&"the disk is on fire")),
    action("lost-peer", || enter::exit::lost_peer(&"supervisor, incarnation 3")),
    action("code", || enter_code(42)),
    action("int80", int80),
];

/// The names of all forbidden actions, for the tests.
pub(crate) fn forbidden_names() -> Vec<&'static str> {
    FORBIDDEN.iter().map(|action| action.name).collect()
}

/// Performs the action named.
pub(crate) fn perform(name: &str) -> Result<(), Errno> {
    if let Some(target) = name.strip_prefix("signal:").and_then(|pid| pid.parse::<usize>().ok()) {
        return outcome(call(SYS_kill, [target, SIGTERM as usize]));
    }
    if name == "list" {
        println!("{}", forbidden_names().join(" "));
        return Ok(());
    }
    match FORBIDDEN.iter().chain(OTHERS).find(|action| action.name == name) {
        Some(action) => outcome((action.attempt)()),
        None => Err(Errno::EINVAL),
    }
}

fn outcome(result: c_long) -> Result<(), Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(()) }
}

/// The line that the tests read.
pub(crate) fn report(name: &str, result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => format!("{name}\tok"),
        Err(error) => format!("{name}\t{error:?}"),
    }
}

/// A page of the process's own, in its image, that nothing else uses.
fn page() -> usize {
    #[repr(align(4096))]
    struct Page(std::cell::UnsafeCell<[u8; 2 * PAGE]>);
    // SAFETY: nothing reads or writes the page; only its address is used.
    unsafe impl Sync for Page {}
    static SPARE: Page = Page(std::cell::UnsafeCell::new([0; 2 * PAGE]));
    SPARE.0.get() as usize
}

fn word() -> usize {
    page()
}

/// A child that came into being ends at once; the parent goes on.
fn ended_child(pid: c_long) -> c_long {
    if pid == 0 {
        enter_code(0);
    }
    pid
}

fn enter_code(code: c_int) -> c_long {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

fn boundary(index: usize) -> c_long {
    let empty: [c_long; 0] = [];
    empty[std::hint::black_box(index)]
}

#[expect(unconditional_recursion, reason = "the stack overflow is what is asked for")]
fn deep(level: c_long) -> c_long {
    let place = [level; 512];
    std::hint::black_box(&place);
    deep(level + 1) + std::hint::black_box(place[3])
}

/// getpid through the 32-bit entry, which has another architecture word.
fn int80() -> c_long {
    let result: i64;
    // SAFETY: the 32-bit getpid takes no arguments; the instruction changes rax and, in older kernels, r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}
