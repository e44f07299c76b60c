//! The seccomp programs that a running process really has, for audits by root.
//!
//! The kernel gives them out only to a tracer with CAP_SYS_ADMIN on the host that is under no filter itself
//! (PTRACE_SECCOMP_GET_FILTER, ptrace(2)); it must be built with CONFIG_CHECKPOINT_RESTORE, as Debian's is.

#![expect(unsafe_code, reason = "ptrace requests that nix does not offer")]

use std::io;
use std::ptr;

use profile::sock_filter;

/// ptrace(2); not in the libc crate.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// A process can have more filters, but none of ours has (keeper's and its own).
const MAX_FILTERS: usize = 16;
/// BPF_MAXINSNS of linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;

/// Why the filters could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the filters of thread {thread} cannot be read: {step}: {source}")]
pub struct InspectError {
    /// The thread.
    pub thread: i32,
    /// What was tried.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The filters of thread `thread`, the newest first. The thread is stopped for a moment.
///
/// # Errors
/// The caller is not root of the host, or is under a filter, or the thread is gone or traced by another.
pub fn dump_filters(thread: i32) -> Result<Vec<Vec<sock_filter>>, InspectError> {
    let failed = |step| move |source| InspectError { thread, step, source };
    request(libc::PTRACE_SEIZE, thread, 0, ptr::null_mut()).map_err(failed("attaching"))?;
    let result = stop(thread).map_err(failed("stopping it")).and_then(|()| {
        (0..MAX_FILTERS)
            .map_while(|index| dump(thread, index).transpose())
            .collect::<io::Result<Vec<_>>>()
            // The kernel counts from the oldest.
            .map(|filters| filters.into_iter().rev().collect())
            .map_err(failed("reading a filter"))
    });
    // If it is gone meanwhile, there is nothing to detach from.
    let _ = request(libc::PTRACE_DETACH, thread, 0, ptr::null_mut());
    result
}

fn request(request: libc::c_uint, thread: i32, address: usize, data: *mut libc::c_void) -> io::Result<libc::c_long> {
    // SAFETY: the requests used here write at most to `data`, which is null or large enough for the answer.
    match unsafe { libc::ptrace(request, thread, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn stop(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, thread, 0, ptr::null_mut())?;
    let mut status = 0;
    // SAFETY: `status` has room for the answer.
    match unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        _ if libc::WIFSTOPPED(status) => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// One filter; `None` past the last.
fn dump(thread: i32, index: usize) -> io::Result<Option<Vec<sock_filter>>> {
    let length = match request(PTRACE_SECCOMP_GET_FILTER, thread, index, ptr::null_mut()) {
        Ok(length) => (length as usize).min(MAX_INSTRUCTIONS),
        // ENOENT past the last one; EINVAL if there is none at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut program = vec![sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; length];
    request(PTRACE_SECCOMP_GET_FILTER, thread, index, program.as_mut_ptr().cast())?;
    Ok(Some(program))
}
