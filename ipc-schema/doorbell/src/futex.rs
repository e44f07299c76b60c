//! The two futex calls. The words lie in a shared memfd, so the futexes are not private to a process.
#![expect(unsafe_code, reason = "the futex system call takes an address")]

use std::sync::atomic::AtomicU32;

/// Sleeps while `word` is `expected`, until somebody wakes it. May return without reason: callers check again.
pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the address is that of a live word; a null time-out means none.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, std::ptr::null::<libc::timespec>());
    }
}

/// Wakes everybody who sleeps on `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: the address is that of a live word.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
