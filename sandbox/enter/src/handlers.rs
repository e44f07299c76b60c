//! What runs when the process dies: the panic hook, the trap handler of the filter, and the fault handlers.
//!
//! Everything here may run in a signal handler, in any thread, with any lock held: it uses atomics, one `write` to the
//! log pipe and `exit_group`, all of which every profile allows, and it never allocates.

#![expect(unsafe_code, reason = "signal handlers, raw system calls and the mapping of the status page")]

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t};

use crate::exit::{EXIT_ABORT, EXIT_ERROR, EXIT_OUT_OF_MEMORY, EXIT_PANIC, EXIT_SECCOMP};
use crate::gate::thread_id;
use crate::status::{CauseKind, CauseRecord, STATUS_PAGE_SIZE, StatusPage, Text};

/// The page of this process; null until [`attach_status`].
static PAGE: AtomicPtr<StatusPage> = AtomicPtr::new(ptr::null_mut());

/// `si_code` of a SIGSYS from a filter (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;
/// Offset of `_call_addr`, and of `_syscall` behind it, in the kernel's `siginfo_t` on 64-bit machines.
const SIGINFO_CALL_ADDRESS: usize = 16;
const SIGINFO_SYSCALL: usize = 24;
/// Most bytes of the C library's `abort`, to tell its calls from others.
const ABORT_LENGTH: usize = 1024;
/// Faults whose address and instruction are worth recording; the process still dies by the signal itself.
const FAULTS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// Installs the panic hook and the handlers of traps and faults. The first thing that an islet's `main` does.
pub fn begin() {
    std::panic::set_hook(Box::new(on_panic));
    handle(libc::SIGSYS, on_trap, 0);
    for signal in FAULTS {
        handle(signal, on_fault, libc::SA_RESETHAND);
    }
}

/// A write past the limit of the size of files, which whoever started the VM may have set, fails from now on, and is not this
/// process's end. For processes that can do without the rest of what they write.
pub fn survive_file_limit() {
    // SAFETY: to ignore a signal runs no code. The only failures are bad arguments.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// From now on the causes of this process's end, its heartbeat and the stages of lock-down go to `page`.
pub fn attach_status(page: &'static StatusPage) {
    PAGE.store(ptr::from_ref(page).cast_mut(), Ordering::Release);
}

/// The page, once attached. Async-signal-safe.
pub(crate) fn page() -> Option<&'static StatusPage> {
    // SAFETY: the pointer is null or came from a `&'static StatusPage`.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// Ends the process at once: no destructors, no buffers, no calls but this one.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: exit_group takes an int and does not return.
    unsafe { libc::_exit(code) }
}

/// Writes to the log pipe, once, whatever becomes of it.
pub(crate) fn log(bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    let _ = unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// Records a cause that consists of a text.
pub(crate) fn record_text(kind: CauseKind, text: &Text) {
    record(kind, &CauseRecord { thread: thread_id(), text: text.as_bytes(), ..CauseRecord::default() });
}

/// Records the first cause. A second dying thread waits a moment, so that it does not end the process in the middle of
/// the first one's record.
fn record(kind: CauseKind, cause: &CauseRecord<'_>) {
    let Some(page) = page() else { return };
    if page.record(kind, cause) {
        return;
    }
    for _ in 0..1_000_000 {
        if page.has_cause() {
            return;
        }
        std::hint::spin_loop();
    }
}

fn handle(signal: c_int, handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void), flags: c_int) {
    // SAFETY: an all-zero sigaction is valid (no handler, no flags, empty mask); the handler has the signature that
    // SA_SIGINFO asks for and is async-signal-safe. The only failures are bad arguments.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | flags;
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

/// A panic ends the process: no unwinding (its tables would be looked up lazily), no second message.
fn on_panic(info: &std::panic::PanicHookInfo<'_>) {
    let mut text = Text::new();
    let what = info.payload_as_str().unwrap_or("a value that is not text");
    let _ = write!(text, "{what}");
    if let Some(place) = info.location() {
        let _ = write!(text, " (at {}:{})", place.file(), place.line());
    }
    record_text(CauseKind::Panic, &text);
    log(b"panic: ");
    log(text.as_bytes());
    log(b"\n");
    leave(EXIT_PANIC)
}

/// The instruction and stack pointers at which a signal struck.
fn registers(context: *mut c_void) -> (u64, u64) {
    // SAFETY: the kernel passes a `ucontext_t` to a SA_SIGINFO handler.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() };
    context.map_or((0, 0), |context| {
        let register = |index: c_int| context.uc_mcontext.gregs[index as usize].cast_unsigned();
        (register(libc::REG_RIP), register(libc::REG_RSP))
    })
}

/// SIGSYS: the filter trapped a call.
extern "C" fn on_trap(_signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` of 128 bytes; the two offsets lie within it, and hold these fields
    // if the code says that a filter sent the signal.
    let (code, address, number) = unsafe {
        (
            (*info).si_code,
            info.byte_add(SIGINFO_CALL_ADDRESS).cast::<u64>().read(),
            info.byte_add(SIGINFO_SYSCALL).cast::<c_int>().read(),
        )
    };
    let thread = thread_id();
    if code != SYS_SECCOMP {
        record(CauseKind::Fault, &CauseRecord { thread, signal: libc::SIGSYS as u32, ..CauseRecord::default() });
        leave(EXIT_ERROR);
    }
    let (instruction, stack) = registers(context);
    let number = i64::from(number).cast_unsigned();
    let cause = CauseRecord { thread, number, instruction: address, address: 0, stack, ..CauseRecord::default() };
    if called_by_abort(instruction) {
        // The C library's abort first unblocks SIGABRT, which no profile allows. Rust calls it when memory runs out.
        if let Some(bytes) = arena::exhausted() {
            record(CauseKind::OutOfMemory, &CauseRecord { number: bytes as u64, ..cause });
            leave(EXIT_OUT_OF_MEMORY);
        }
        record(CauseKind::Abort, &cause);
        leave(EXIT_ABORT);
    }
    record(CauseKind::Trap, &cause);
    leave(EXIT_SECCOMP)
}

fn called_by_abort(instruction: u64) -> bool {
    let start = libc::abort as *const () as usize;
    (start..start + ABORT_LENGTH).contains(&(instruction as usize))
}

/// SIGSEGV and its kin: note where, then die by the signal itself. The handler is reset on entry (SA_RESETHAND), so a
/// fault strikes again on return; a signal that somebody sent does not, so it is made to.
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    let (instruction, stack) = registers(context);
    let cause = CauseRecord {
        thread: thread_id(),
        signal: signal.cast_unsigned(),
        instruction,
        address,
        stack,
        ..CauseRecord::default()
    };
    record(CauseKind::Fault, &cause);
    if code <= 0 {
        // Sent by kill or sigqueue: return would go on as if nothing had happened.
        leave(128 + signal);
    }
}

/// Maps row `row` of a status memfd.
pub(crate) fn map_status(memfd: BorrowedFd<'_>, row: usize) -> std::io::Result<&'static StatusPage> {
    let offset = row.checked_mul(STATUS_PAGE_SIZE).and_then(|at| i64::try_from(at).ok());
    let size = nix::sys::stat::fstat(memfd)?.st_size;
    let Some(offset) = offset.filter(|at| size - STATUS_PAGE_SIZE as i64 >= *at) else {
        let text = format!("the memfd has {size} bytes, too few for the row");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh shared mapping of one page at an address of the kernel's choice; the file is long enough, and the
    // mapping is never removed, so the reference stays valid. All fields are atomics, so other writers are no data race.
    unsafe {
        let base =
            libc::mmap(ptr::null_mut(), STATUS_PAGE_SIZE, protection, libc::MAP_SHARED, memfd.as_raw_fd(), offset);
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(&*base.cast::<StatusPage>())
    }
}
