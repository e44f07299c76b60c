//! The status page: one page per process in a shared memfd, where a process says how it is and how it ended.
//!
//! The writer is the process that owns the row; the readers (keeper, supervisor) trust nothing in it: [`Status`] is a
//! bounded, printable copy. All fields are atomics, so a writer that dies in between leaves a page that can be read.
//!
//! | offset | field |
//! |---|---|
//! | 0 | heartbeat: counts up; whoever watches knows the process is alive |
//! | 8 | claim: 0, or 1 once a dying thread has taken the cause fields |
//! | 12 | cause: [`CauseKind`], stored last |
//! | 16 | thread id of the cause |
//! | 20 | signal number of a fault |
//! | 24 | system call number of a trap, or bytes asked for when memory ran out |
//! | 32 | instruction address |
//! | 40 | fault address |
//! | 48 | stack pointer |
//! | 56 | stage of lock-down: [`Stage`] |
//! | 60 | Landlock ABI in force, 0 for none |
//! | 64 | length of the text |
//! | 72 | text, 512 bytes of UTF-8 |
//! | 584 | 64 counters of 8 bytes, their meaning being the process's own |
//! | 1096 | reserved, zero |

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::Error;

/// Size of a row of the status memfd, in bytes.
pub const STATUS_PAGE_SIZE: usize = 4096;
/// Most bytes of a cause's text.
pub const TEXT_LENGTH: usize = 512;
/// Number of counters.
pub const COUNTERS: usize = 64;

/// How far lock-down has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// Nothing restricted yet.
    Started = 0,
    /// [`crate::before_threads`] is through.
    Restricted = 1,
    /// [`crate::seal`] is through.
    Sealed = 2,
}

/// Why a process ended, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CauseKind {
    /// No cause recorded.
    None = 0,
    /// The filter trapped a system call.
    Trap = 1,
    /// A panic.
    Panic = 2,
    /// The arena is exhausted.
    OutOfMemory = 3,
    /// A peer is gone.
    LostPeer = 4,
    /// An error of its own.
    Error = 5,
    /// A fault signal.
    Fault = 6,
    /// `abort` was called.
    Abort = 7,
}

impl CauseKind {
    fn from_u32(value: u32) -> CauseKind {
        match value {
            1 => CauseKind::Trap,
            2 => CauseKind::Panic,
            3 => CauseKind::OutOfMemory,
            4 => CauseKind::LostPeer,
            5 => CauseKind::Error,
            6 => CauseKind::Fault,
            7 => CauseKind::Abort,
            _ => CauseKind::None,
        }
    }
}

/// One row. See the table above for the layout.
#[repr(C, align(4096))]
pub struct StatusPage {
    heartbeat: AtomicU64,
    claim: AtomicU32,
    cause: AtomicU32,
    thread: AtomicU32,
    signal: AtomicU32,
    number: AtomicU64,
    instruction: AtomicU64,
    address: AtomicU64,
    stack: AtomicU64,
    stage: AtomicU32,
    landlock_abi: AtomicU32,
    text_length: AtomicU32,
    _pad: u32,
    text: [AtomicU8; TEXT_LENGTH],
    counters: [AtomicU64; COUNTERS],
    _reserved: [u8; STATUS_PAGE_SIZE - 72 - TEXT_LENGTH - 8 * COUNTERS],
}

const _: () = assert!(size_of::<StatusPage>() == STATUS_PAGE_SIZE);

/// What a dying thread says about its end; unused fields are zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CauseRecord<'a> {
    pub thread: u32,
    pub signal: u32,
    pub number: u64,
    pub instruction: u64,
    pub address: u64,
    pub stack: u64,
    pub text: &'a [u8],
}

impl StatusPage {
    /// An empty page on the heap or in a static, for tests and for a process without a status memfd.
    pub const fn new() -> StatusPage {
        StatusPage {
            heartbeat: AtomicU64::new(0),
            claim: AtomicU32::new(0),
            cause: AtomicU32::new(0),
            thread: AtomicU32::new(0),
            signal: AtomicU32::new(0),
            number: AtomicU64::new(0),
            instruction: AtomicU64::new(0),
            address: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            stage: AtomicU32::new(0),
            landlock_abi: AtomicU32::new(0),
            text_length: AtomicU32::new(0),
            _pad: 0,
            text: [const { AtomicU8::new(0) }; TEXT_LENGTH],
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            _reserved: [0; _],
        }
    }

    /// Maps row `row` of the status memfd, for as long as the process lives. The descriptor can be closed afterwards.
    ///
    /// # Errors
    /// The memfd is too short for the row, or the kernel refuses the mapping.
    pub fn map(memfd: BorrowedFd<'_>, row: usize) -> Result<&'static StatusPage, Error> {
        crate::handlers::map_status(memfd, row).map_err(|source| Error::Status { row, source })
    }

    /// Counts the heartbeat up.
    pub fn beat(&self) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    /// The counter `index`; an index past the last counter yields the last one.
    pub fn counter(&self, index: usize) -> &AtomicU64 {
        &self.counters[index.min(COUNTERS - 1)]
    }

    /// Records how far lock-down has come, and the Landlock ABI in force.
    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u32, Ordering::Release);
    }

    pub(crate) fn set_landlock_abi(&self, abi: u32) {
        self.landlock_abi.store(abi, Ordering::Release);
    }

    /// Stores the first cause; false if another thread has taken the fields. Async-signal-safe.
    pub(crate) fn record(&self, kind: CauseKind, record: &CauseRecord<'_>) -> bool {
        if self.claim.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.thread.store(record.thread, Ordering::Relaxed);
        self.signal.store(record.signal, Ordering::Relaxed);
        self.number.store(record.number, Ordering::Relaxed);
        self.instruction.store(record.instruction, Ordering::Relaxed);
        self.address.store(record.address, Ordering::Relaxed);
        self.stack.store(record.stack, Ordering::Relaxed);
        let length = record.text.len().min(TEXT_LENGTH);
        for (to, from) in self.text.iter().zip(record.text) {
            to.store(*from, Ordering::Relaxed);
        }
        self.text_length.store(length as u32, Ordering::Relaxed);
        self.cause.store(kind as u32, Ordering::Release);
        true
    }

    /// Whether a cause is complete.
    pub(crate) fn has_cause(&self) -> bool {
        self.cause.load(Ordering::Acquire) != 0
    }

    /// A bounded copy of what the page says.
    pub fn snapshot(&self) -> Status {
        let cause = CauseKind::from_u32(self.cause.load(Ordering::Acquire));
        let length = (self.text_length.load(Ordering::Relaxed) as usize).min(TEXT_LENGTH);
        let bytes: Vec<u8> = self.text[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        Status {
            heartbeat: self.heartbeat.load(Ordering::Relaxed),
            stage: match self.stage.load(Ordering::Acquire) {
                0 => Stage::Started,
                1 => Stage::Restricted,
                _ => Stage::Sealed,
            },
            landlock_abi: self.landlock_abi.load(Ordering::Acquire),
            cause,
            thread: self.thread.load(Ordering::Relaxed),
            signal: self.signal.load(Ordering::Relaxed),
            number: self.number.load(Ordering::Relaxed),
            instruction: self.instruction.load(Ordering::Relaxed),
            address: self.address.load(Ordering::Relaxed),
            stack: self.stack.load(Ordering::Relaxed),
            text: printable(&bytes),
            counters: std::array::from_fn(|at| self.counters[at].load(Ordering::Relaxed)),
        }
    }

    /// Empties the page for the next incarnation of its process.
    pub fn clear(&self) {
        let zero = StatusPage::new();
        self.cause.store(0, Ordering::Release);
        self.claim.store(0, Ordering::Release);
        for (to, from) in [
            (&self.heartbeat, &zero.heartbeat),
            (&self.number, &zero.number),
            (&self.instruction, &zero.instruction),
            (&self.address, &zero.address),
            (&self.stack, &zero.stack),
        ] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for field in [&self.thread, &self.signal, &self.stage, &self.landlock_abi, &self.text_length] {
            field.store(0, Ordering::Relaxed);
        }
        self.counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        self.text.iter().for_each(|byte| byte.store(0, Ordering::Relaxed));
    }
}

impl Default for StatusPage {
    fn default() -> Self {
        StatusPage::new()
    }
}

impl fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// A copy of a page: bounded and printable, whatever its writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The heartbeat count.
    pub heartbeat: u64,
    /// How far lock-down has come.
    pub stage: Stage,
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// Why the process ended, as it says.
    pub cause: CauseKind,
    /// The thread that ended it.
    pub thread: u32,
    /// The signal of a fault.
    pub signal: u32,
    /// The system call of a trap; the bytes asked for when memory ran out.
    pub number: u64,
    /// The instruction's address, relative to nothing (the process's own address space).
    pub instruction: u64,
    /// The address of a fault.
    pub address: u64,
    /// The stack pointer at a fault.
    pub stack: u64,
    /// Panic or error text: UTF-8, no control characters, at most [`TEXT_LENGTH`] bytes before replacement.
    pub text: String,
    /// The process's counters.
    pub counters: [u64; COUNTERS],
}

/// Text from another process as something that can be printed: control characters (terminal escapes) become spaces.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().to_owned()
}

/// A text of bounded length that can be written without allocating; what does not fit is cut at a character boundary.
#[derive(Clone)]
pub(crate) struct Text {
    bytes: [u8; TEXT_LENGTH],
    length: usize,
}

impl Text {
    pub(crate) const fn new() -> Text {
        Text { bytes: [0; TEXT_LENGTH], length: 0 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_LENGTH - self.length;
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[self.length..self.length + end].copy_from_slice(&text.as_bytes()[..end]);
        self.length += end;
        Ok(())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_first_cause_wins_and_text_is_bounded() {
        let page = StatusPage::new();
        assert!(page.record(CauseKind::Panic, &CauseRecord { thread: 7, text: b"a\x1b[2Jb", ..Default::default() }));
        assert!(!page.record(CauseKind::Trap, &CauseRecord { number: 9, ..Default::default() }));
        let status = page.snapshot();
        assert_eq!((status.cause, status.thread, status.number), (CauseKind::Panic, 7, 0));
        assert_eq!(status.text, "a [2Jb");
        page.clear();
        assert_eq!(page.snapshot(), StatusPage::new().snapshot());
    }

    #[test]
    fn a_hostile_length_is_bounded() {
        let page = StatusPage::new();
        page.text_length.store(u32::MAX, Ordering::Relaxed);
        page.cause.store(77, Ordering::Relaxed);
        page.text[0].store(0xff, Ordering::Relaxed);
        let status = page.snapshot();
        assert_eq!(status.cause, CauseKind::None);
        assert!(status.text.chars().count() <= TEXT_LENGTH);
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let mut text = Text::new();
        for _ in 0..TEXT_LENGTH {
            let _ = text.write_str("€");
        }
        assert_eq!(text.as_bytes().len(), 510);
        assert!(std::str::from_utf8(text.as_bytes()).is_ok());
    }

    #[test]
    fn offsets_are_those_of_the_table() {
        assert_eq!(std::mem::offset_of!(StatusPage, claim), 8);
        assert_eq!(std::mem::offset_of!(StatusPage, number), 24);
        assert_eq!(std::mem::offset_of!(StatusPage, stage), 56);
        assert_eq!(std::mem::offset_of!(StatusPage, text), 72);
        assert_eq!(std::mem::offset_of!(StatusPage, counters), 584);
    }
}
