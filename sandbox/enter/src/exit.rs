//! The exit codes of every process of a VM, and the only ways to leave after lock-down.
//!
//! The code says what kind of end it was; the status page, where there is one, says the details. `spawn::ExitCause`
//! reads both. The process ends with `exit_group` directly, because the runtime's own exit path makes calls that no
//! profile allows.

use std::fmt::{Display, Write as _};

use crate::handlers::leave;
use crate::status::{CauseKind, Text};

/// A clean stop, as asked.
pub const EXIT_CLEAN: i32 = 0;
/// An error of its own; the text is on the status page and in the log.
pub const EXIT_ERROR: i32 = 1;
/// A panic; the same number that Rust uses.
pub const EXIT_PANIC: i32 = 101;
/// A system call that the profile forbids.
pub const EXIT_SECCOMP: i32 = 102;
/// The peer of its control socket, or another one that it cannot do without, is gone.
pub const EXIT_LOST_PEER: i32 = 103;
/// The fixed arena is exhausted.
pub const EXIT_OUT_OF_MEMORY: i32 = 104;
/// The C library or the runtime called abort.
pub const EXIT_ABORT: i32 = 105;

/// Ends the process: it did what it was asked.
pub fn clean() -> ! {
    leave(EXIT_CLEAN)
}

/// Ends the process: it cannot go on. `why` goes to the status page and to the log (standard error).
pub fn error(why: &dyn Display) -> ! {
    end(CauseKind::Error, "error", why, EXIT_ERROR)
}

/// Ends the process: `peer` (its name and, where known, its incarnation) is gone.
pub fn lost_peer(peer: &dyn Display) -> ! {
    end(CauseKind::LostPeer, "lost peer", peer, EXIT_LOST_PEER)
}

fn end(kind: CauseKind, label: &str, why: &dyn Display, code: i32) -> ! {
    let mut text = Text::new();
    // Writing to a Text cannot fail; it cuts.
    let _ = write!(text, "{why}");
    crate::handlers::record_text(kind, &text);
    let mut line = Text::new();
    let _ = writeln!(line, "{label}: {text}");
    crate::handlers::log(line.as_bytes());
    leave(code)
}
