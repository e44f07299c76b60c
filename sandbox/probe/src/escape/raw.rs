//! System calls as an attacker makes them: raw, with nothing between the attempt and the kernel.
//!
//! Also what the attempts need that is not a plain call: children that end at once without a stack of their own, the
//! other entry into the kernel, memory to try them on, and a handler of traps after which the attacker goes on.

#![expect(unsafe_code, reason = "the probe's purpose is raw system calls that no wrapper would make")]

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use libc::{c_int, c_long, c_void, siginfo_t};
use nix::errno::Errno;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// A raw call of up to six arguments.
pub(super) fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the attempts pass numbers, and pointers to live memory of the size that the call reads or writes; those that
    // change the process (memory maps, credentials) do so on ranges that are theirs alone.
    let result =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    usize::try_from(result).map_err(|_| Errno::last())
}

/// A call that makes a process or thread, which ends at once without touching memory.
pub(super) fn born(number: c_long, arguments: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the parent goes on behind the block as after any system call. The child (result 0) calls exit(0) from
    // registers alone, so it neither needs a stack nor changes memory that it may share with the parent.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 60",
            "xor edi, edi",
            "syscall",
            "2:",
            inlateout("rax") number as isize => result,
            inlateout("rdi") arguments[0] => _,
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    usize::try_from(result).map_err(|_| Errno::from_raw(result.unsigned_abs() as i32))
}

/// getpid through the 32-bit entry, which has another architecture word and other numbers.
pub(super) fn int80_getpid() -> Result<usize, Errno> {
    let result: i64;
    // SAFETY: the 32-bit getpid takes no arguments; the instruction changes rax and, in older kernels, r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    usize::try_from(result).map_err(|_| Errno::ENOSYS)
}

/// A descriptor that whoever started this process has placed at this number. To be taken once.
#[must_use]
pub fn placed(number: RawFd) -> OwnedFd {
    // SAFETY: the start-up convention gives the process this descriptor, and nobody else uses it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Two pages of the process's own, in its image, that nothing else uses.
pub(super) fn spare() -> usize {
    #[repr(align(4096))]
    struct Pages(std::cell::UnsafeCell<[u8; 2 * PAGE]>);
    // SAFETY: nothing in this program reads or writes the pages; only their address is used.
    unsafe impl Sync for Pages {}
    static SPARE: Pages = Pages(std::cell::UnsafeCell::new([0; 2 * PAGE]));
    SPARE.0.get() as usize
}

/// Maps the first page of a memfd, shared; its address, or 0 if that is refused.
pub(super) fn window(memfd: RawFd) -> usize {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh map at an address of the kernel's choice touches no existing memory.
    match unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, memfd, 0) } {
        libc::MAP_FAILED => 0,
        address => address as usize,
    }
}

/// A child with the same memory layout that waits to be attacked, and ends with its parent.
pub(super) fn victim() -> Result<i32, Errno> {
    // SAFETY: the process has one thread, so the child may do anything; it only waits.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last()),
        0 => loop {
            // SAFETY: both calls only take numbers.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
            }
        },
        pid => Ok(pid),
    }
}

const MOST: usize = 32;
/// The numbers of the calls that were trapped since [`forget`].
static TRAPPED: [AtomicI64; MOST] = [const { AtomicI64::new(0) }; MOST];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// From now on a trapped call fails with ENOSYS and is noted, as it would be for an attacker who controls the process.
pub(super) fn go_on_after_traps() -> Result<(), Errno> {
    // SAFETY: an all-zero sigaction is valid; the handler has the signature that SA_SIGINFO asks for and only uses atomics
    // and the saved registers.
    let result = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSYS, &action, ptr::null_mut())
    };
    Errno::result(result).map(drop)
}

/// Offset of `_syscall` in the kernel's `siginfo_t` of a SIGSYS on 64-bit machines.
const SIGINFO_SYSCALL: usize = 24;

extern "C" fn on_trap(_signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` of 128 bytes and a `ucontext_t`, which the handler owns.
    unsafe {
        let number = info.byte_add(SIGINFO_SYSCALL).cast::<c_int>().read();
        let at = COUNT.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = TRAPPED.get(at) {
            place.store(number.into(), Ordering::Relaxed);
        }
        let context = &mut *context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(libc::ENOSYS);
    }
}

/// Forgets what was trapped.
pub(super) fn forget() {
    COUNT.store(0, Ordering::Relaxed);
}

/// What was trapped, in order.
pub(super) fn trapped() -> Vec<i64> {
    let count = COUNT.load(Ordering::Relaxed).min(MOST);
    TRAPPED[..count].iter().map(|number| number.load(Ordering::Relaxed)).collect()
}
