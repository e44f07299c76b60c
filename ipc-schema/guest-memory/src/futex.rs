//! The two futex calls. The words lie in shared memfds, so the futexes are not private to a process.
#![expect(unsafe_code, reason = "the futex system call takes an address")]

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::libc;
use nix::sys::time::TimeSpec;

/// Sleeps while `word` is `expected`, until somebody wakes it or `limit` has passed. May return without reason: callers check
/// again.
pub fn wait(word: &AtomicU32, expected: u32, limit: Option<Duration>) {
    let limit = limit.map(|limit| *TimeSpec::from_duration(limit).as_ref());
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the address is that of a live word; the time-out is null, which means none, or outlives the call.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, limit);
    }
}

/// Wakes everybody who sleeps on `word`.
pub fn wake_all(word: &AtomicU32) {
    // SAFETY: the address is that of a live word.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
