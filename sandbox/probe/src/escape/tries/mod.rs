//! The attempts. Each returns success only if its last step has succeeded, and goes on after a step that fails if the next
//! one can be tried by itself, so that under a filter each call is tried.

pub(super) mod files;
pub(super) mod host;
pub(super) mod memory;
pub(super) mod processes;

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::Place;
use super::raw::call;

/// The directory for paths without one.
const HERE: usize = libc::AT_FDCWD as usize;
/// -1 as an argument.
const NONE: usize = usize::MAX;

/// The address of a text.
fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// A path with a pid or descriptor in it.
fn path(text: String) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn open(path: &CStr, flags: i32) -> Result<usize, Errno> {
    call(libc::SYS_openat, [HERE, text(path), flags as usize, 0o600])
}

/// The descriptor that a call has made, or the one that the process has.
fn or_own(made: Result<usize, Errno>, place: &Place) -> usize {
    made.unwrap_or(place.descriptor as usize)
}
