//! Comparing a running process with what its profile says it is.
//!
//! [`Facts::read`] gathers what the kernel shows of a process and *every one* of its threads; [`compare`] holds that
//! against an [`Expectation`] and returns a [`Finding`] for each difference. The comparison is pure, so each kind of
//! loosening can be planted in a test. Landlock alone is invisible from outside; the process reports it on its status
//! page ([`Reported`]), before it has seen any hostile input. Two facts are filled in by whoever can have them: the filters'
//! programs, which only root can dump, and whether a process is dumpable, which takes an attempt to look into it.
//!
//! ```no_run
//! use profile::Kind;
//! use profile::audit::{Access, Expectation, Facts, compare};
//!
//! # fn main() -> Result<(), profile::audit::AuditError> {
//! # let number = 0;
//! let mut facts = Facts::read(number)?;                 // a number of /proc
//! // As root, also: facts.threads[n].programs = Some(spawn::dump_filters(tid)?);
//! let expected = Expectation::new(Kind::Serial.profile(), Facts::own_namespaces()?)
//!     .threads(2)
//!     .descriptor(0, "/dev/null", Access::ReadWrite)
//!     .descriptor(1, "/dev/null", Access::ReadWrite)
//!     .descriptor(2, "pipe", Access::Write)
//!     .descriptor(3, "socket", Access::ReadWrite)
//!     .arena(4 << 20)
//!     .shared("/memfd:windows", "rw-s", 0x50000, 256 << 10);
//! for finding in compare(&facts, &expected) {
//!     eprintln!("{finding}");
//! }
//! # Ok(()) }
//! ```

mod compare;
mod facts;
mod filter;
mod maps;
#[cfg(test)]
mod tests;

pub use compare::{Expectation, Reported, compare, compare_all};
pub use facts::{Access, AuditError, DescriptorFacts, Facts, LimitFacts, MapFacts, MountFacts, ThreadFacts};

use crate::Namespace;

/// One difference between a process and its expectation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// More or fewer threads.
    #[error("it has {found} threads instead of {expected}")]
    Threads {
        /// As the manifest says.
        expected: usize,
        /// As `/proc` says.
        found: usize,
    },
    /// A thread that no filter restricts.
    #[error("thread {thread} ({name}) has no seccomp filter")]
    Unfiltered {
        /// The thread.
        thread: i32,
        /// Its name.
        name: String,
    },
    /// A thread with another number of filters than keeper and process install.
    #[error("thread {thread} has {found} seccomp filters instead of {expected}")]
    Filters {
        /// The thread.
        thread: i32,
        /// As the expectation says.
        expected: usize,
        /// As the kernel says.
        found: usize,
    },
    /// A filter in force is not the profile's.
    #[error("thread {thread} has another filter than its profile; it lets these calls through as well: {extra}")]
    WrongFilter {
        /// The thread.
        thread: i32,
        /// Names of calls, and arguments of calls, that pass although the profile does not list them.
        extra: String,
    },
    /// An older filter, which the keeper's children inherit, is not the keeper's.
    #[error("thread {thread} has not inherited the keeper's filter; what it has denies {missing} less")]
    WrongKeeperFilter {
        /// The thread.
        thread: i32,
        /// Names of calls that the keeper's filter denies and this one does not.
        missing: String,
    },
    /// More calls pass than the design allows.
    #[error("thread {thread} may make {found} system calls; the budget is {budget}")]
    OverBudget {
        /// The thread.
        thread: i32,
        /// How many pass.
        found: usize,
        /// The design's number.
        budget: usize,
    },
    /// An exec could raise privileges.
    #[error("thread {thread} lacks no_new_privs")]
    MayGainPrivileges {
        /// The thread.
        thread: i32,
    },
    /// A capability set is not empty.
    #[error("thread {thread} has capabilities: {set} is {value:#x}")]
    Capabilities {
        /// The thread.
        thread: i32,
        /// The set, as in `/proc/PID/status`.
        set: &'static str,
        /// Its bits.
        value: u64,
    },
    /// A descriptor that the manifest does not name.
    #[error("descriptor {number} ({target}) is not in its manifest")]
    UnexpectedDescriptor {
        /// Its number.
        number: i32,
        /// What it refers to.
        target: String,
    },
    /// A descriptor of the manifest is not there.
    #[error("descriptor {target} of its manifest is missing")]
    MissingDescriptor {
        /// What it should refer to.
        target: String,
    },
    /// A descriptor can do more (or less) than the manifest says.
    #[error("descriptor {number} ({target}) is open for {found:?} instead of {expected:?}")]
    DescriptorAccess {
        /// Its number.
        number: i32,
        /// What it refers to.
        target: String,
        /// As the manifest says.
        expected: Access,
        /// As the kernel says.
        found: Access,
    },
    /// A thread has a descriptor table of its own.
    #[error("thread {thread} has other descriptors than its process: {found}")]
    ThreadDescriptors {
        /// The thread.
        thread: i32,
        /// What it has.
        found: String,
    },
    /// Memory that the manifest does not name, as to file, place in the file, or protection.
    #[error("{bytes:#x} bytes of '{name}' from {offset:#x} on are mapped ({protection}), which is not in its manifest")]
    UnexpectedMap {
        /// What is mapped.
        name: String,
        /// As in `/proc/PID/maps`.
        protection: String,
        /// Where in the file it begins.
        offset: u64,
        /// How much.
        bytes: u64,
    },
    /// Memory that the manifest names is not mapped.
    #[error("{bytes:#x} bytes of '{name}' from {offset:#x} on are not mapped ({protection}), as its manifest says")]
    MissingMap {
        /// What should be mapped.
        name: String,
        /// As in `/proc/PID/maps`.
        protection: String,
        /// Where in the file it begins.
        offset: u64,
        /// How much.
        bytes: u64,
    },
    /// Memory of its own other than the arena and the stacks of its threads.
    #[error("its anonymous memory is {found} instead of {expected}")]
    AnonymousMemory {
        /// What arena and threads need.
        expected: String,
        /// As the kernel says.
        found: String,
    },
    /// Memory that can be written and executed.
    #[error("memory at {start:#x} ({name:?}) is writable and executable")]
    WritableExecutable {
        /// What is mapped.
        name: String,
        /// Its address.
        start: u64,
    },
    /// A namespace is the outside's.
    #[error("its {namespace:?} namespace is that of the outside")]
    SharedNamespace {
        /// Which.
        namespace: Namespace,
    },
    /// A namespace should be the outside's, and is not.
    #[error("its {namespace:?} namespace is not that of the outside")]
    StrangeNamespace {
        /// Which.
        namespace: Namespace,
    },
    /// A thread has left its process's namespace.
    #[error("thread {thread} ({name}) is in another {namespace:?} namespace than its process")]
    ThreadNamespace {
        /// The thread.
        thread: i32,
        /// Its name.
        name: String,
        /// Which.
        namespace: Namespace,
    },
    /// Processes of one VM are in different namespaces of a kind that is the VM's.
    #[error("processes {first} and {second} are in different {} namespaces", namespace.proc_name())]
    DifferentNamespace {
        /// Number of one process.
        first: i32,
        /// Number of the other.
        second: i32,
        /// Which.
        namespace: Namespace,
    },
    /// Another process of the same user can look into it.
    #[error("it is dumpable: another process of its user could trace it")]
    Dumpable,
    /// Two processes have something in common that each should have for itself.
    #[error("processes {first} and {second} share {what}")]
    SharedBetween {
        /// Number of one process.
        first: i32,
        /// Number of the other.
        second: i32,
        /// What they share.
        what: String,
    },
    /// A resource limit is not the profile's.
    #[error("its limit '{name}' is {found} instead of {expected}")]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// As the profile says.
        expected: String,
        /// As the kernel says.
        found: String,
    },
    /// Its root is not the empty read-only one.
    #[error("its root is not one empty read-only tmpfs: {found}")]
    Root {
        /// The mounts and names found.
        found: String,
    },
    /// It does not report Landlock as the profile says.
    #[error("it reports Landlock ABI {found}; at least {expected} is available and asked for")]
    Landlock {
        /// What the kernel and the profile make possible.
        expected: u32,
        /// What the process reports.
        found: u32,
    },
    /// It does not report that lock-down is complete.
    #[error("it has not reported that its lock-down is complete")]
    NotSealed,
}
