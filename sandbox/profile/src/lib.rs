//! What each kind of process of a VM may do, as data.
//!
//! A [`Profile`] is a constant table: the system calls after lock-down (with checked arguments where a call alone says
//! too much), the resource limits, the namespaces, Landlock, and what is granted of guest memory. Everything else reads
//! the same table: `enter` applies it inside the process, `spawn` builds the namespaces, [`audit`] compares a running
//! process with it, and `atoll inspect --sandbox` prints it with [`Profile::describe`].
//!
//! ```
//! use profile::Kind;
//! let serial = Kind::Serial.profile();
//! assert!(serial.calls().count() <= serial.budget);
//! let program = serial.program().expect("the table is valid");
//! assert!(!program.is_empty());
//! println!("{}", serial.describe());
//! ```
//!
//! To let a process do one more thing, add one [`Rule`] with its reason in `table.rs`; a test compares the list's length
//! with the budget of the design.

pub mod audit;
pub mod bpf;
pub mod syscalls;
mod table;

use std::fmt;

pub use seccompiler::{BpfProgram, sock_filter};

/// The kinds of processes that have a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pid 1 of a VM's pid namespace; a deny list, because all that it starts inherits its filter.
    Keeper,
    /// The policy: wires, watches, decides, and serves the control socket.
    Supervisor,
    /// Short-lived parser of kernels, initrds and firmware.
    Loader,
    /// The translating CPU engine.
    EngineTcg,
    /// The chipset.
    Board,
    /// A serial port.
    Serial,
    /// The streamer that writes a snapshot.
    StreamerSource,
    /// The streamer that reads a snapshot, and the pager.
    StreamerTarget,
    /// The test probe: an islet's profile with the smallest list.
    Probe,
}

impl Kind {
    /// Every kind, in the order of this page.
    pub const ALL: [Kind; 9] = [
        Kind::Keeper,
        Kind::Supervisor,
        Kind::Loader,
        Kind::EngineTcg,
        Kind::Board,
        Kind::Serial,
        Kind::StreamerSource,
        Kind::StreamerTarget,
        Kind::Probe,
    ];

    /// The name used in messages, manifests and arguments, such as `engine-tcg`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keeper => "keeper",
            Kind::Supervisor => "supervisor",
            Kind::Loader => "loader",
            Kind::EngineTcg => "engine-tcg",
            Kind::Board => "board",
            Kind::Serial => "serial",
            Kind::StreamerSource => "streamer-source",
            Kind::StreamerTarget => "streamer-target",
            Kind::Probe => "probe",
        }
    }

    /// The kind with this [`name`](Kind::name).
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What a process of this kind may do.
    pub fn profile(self) -> &'static Profile {
        match self {
            Kind::Keeper => &table::KEEPER,
            Kind::Supervisor => &table::SUPERVISOR,
            Kind::Loader => &table::LOADER,
            Kind::EngineTcg => &table::ENGINE_TCG,
            Kind::Board => &table::BOARD,
            Kind::Serial => &table::SERIAL,
            Kind::StreamerSource => &table::STREAMER_SOURCE,
            Kind::StreamerTarget => &table::STREAMER_TARGET,
            Kind::Probe => &table::PROBE,
        }
    }
}

/// As the profile of [`Kind::EngineTcg`], for an engine that was given files to write to: what it translates, for people and
/// profilers.
pub fn engine_with_files() -> &'static Profile {
    &table::ENGINE_TCG_WITH_FILES
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one kind of process may do. All of it is constant data.
#[derive(Debug)]
pub struct Profile {
    /// The kind that this profile is for.
    pub kind: Kind,
    /// What the process is for, in a few words.
    pub purpose: &'static str,
    /// The system calls after lock-down.
    pub policy: Policy,
    /// The most entries that the allow list may have (the design's budget); for a deny list the number that it has.
    pub budget: usize,
    /// Resource limits, each with the step at which it is set.
    pub limits: &'static [Limit],
    /// The namespaces that the process has for itself.
    pub namespaces: &'static [Namespace],
    /// Which capabilities it keeps.
    pub privilege: Privilege,
    /// Whether Landlock denies every path, port, and scope.
    pub landlock: Landlock,
    /// What of guest memory it reaches and how.
    pub memory: MemoryGrant,
}

/// The two shapes of a filter.
#[derive(Clone, Copy, Debug)]
pub enum Policy {
    /// Only these; anything else traps (SIGSYS), is recorded on the status page, and ends the process.
    AllowOnly(&'static [Rule]),
    /// Everything but these, which fail with EPERM. For the keeper, whose filter its children inherit.
    DenyOnly(&'static [Rule]),
}

/// One system call in a list.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The x86_64 number, `libc::SYS_*`.
    pub call: i64,
    /// Restrictions of arguments, each of another one; all of them have to hold.
    pub checks: &'static [Check],
    /// Why the process needs it (or must not have it).
    pub why: &'static str,
}

impl Rule {
    /// Arguments with `value` in place of `argument`, where each other one that is checked has a value that may pass, and all others are 0.
    pub fn sample(&self, argument: u8, value: u32) -> [u64; 6] {
        std::array::from_fn(|index| {
            let check = self.checks.iter().find(|check| usize::from(check.argument) == index);
            match check.and_then(|check| check.values.first()) {
                _ if index == usize::from(argument) => u64::from(value),
                Some((value, _)) => u64::from(*value),
                None => 0,
            }
        })
    }
}

/// The restriction of one argument to a set of values. The lower 32 bits are compared, because every argument that is
/// checked (an operation, a command, a request number) is an `int` for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Index of the argument, from 0.
    pub argument: u8,
    /// Bits that do not matter (flags); they are cleared before the comparison.
    pub ignore: u32,
    /// The values allowed, each with the name to print.
    pub values: &'static [(u32, &'static str)],
}

/// When a limit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With the other restrictions, before the first thread.
    BeforeThreads,
    /// Just before the filter, since starting threads would fail with it.
    Seal,
}

/// A resource limit's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitValue {
    /// Soft and hard limit.
    At(u64),
    /// The soft limit is raised to the hard limit.
    Hard,
}

/// A resource limit.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// `libc::RLIMIT_*`.
    pub resource: u32,
    /// The name in messages, such as `core`.
    pub name: &'static str,
    /// The name in `/proc/PID/limits`.
    pub proc_name: &'static str,
    /// The value.
    pub value: LimitValue,
    /// The step.
    pub when: When,
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// User and group ids, capabilities.
    User,
    /// Process ids; one for the whole VM, made with the keeper.
    Pid,
    /// Mounts: an empty read-only root.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Network: one empty namespace that all islets of a VM share.
    Net,
}

impl Namespace {
    /// Every kind.
    pub const ALL: [Namespace; 6] =
        [Namespace::User, Namespace::Pid, Namespace::Mount, Namespace::Ipc, Namespace::Uts, Namespace::Net];

    /// The name in `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        match self {
            Namespace::User => "user",
            Namespace::Pid => "pid",
            Namespace::Mount => "mnt",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
            Namespace::Net => "net",
        }
    }
}

/// What a process keeps of the privilege over its own user namespace with which it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// No capability in any set, not dumpable.
    None,
    /// All capabilities within its own user namespace, and dumpable: it makes namespaces and writes id maps. It has none
    /// over the host.
    OwnNamespace,
}

/// Landlock's part of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// No path, no TCP port, no abstract socket and no signal outside; as far as the kernel's ABI goes.
    DenyAll,
    /// Not used: children would inherit it and could not mount.
    None,
}

/// How much of guest memory a process reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryGrant {
    /// Nothing of guest memory is mapped.
    None,
    /// Nothing is mapped; O_PATH descriptors serve to pass on and to match.
    NotMapped,
    /// All of it, for as long as the process lives.
    ReadWrite,
    /// All of it, but the process has ended before the guest runs.
    ReadWriteBeforeGuest,
    /// All of it, by a descriptor that is open for reading only, so that reading a hole fills none.
    ReadDescriptor,
    /// All of it, by its descriptor.
    WriteDescriptor,
    /// A scratch region as a stand-in for guest memory.
    Scratch,
}

impl fmt::Display for MemoryGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemoryGrant::None => "none",
            MemoryGrant::NotMapped => "not mapped; O_PATH descriptors only",
            MemoryGrant::ReadWrite => "read and write, mapped before lock-down, descriptor closed",
            MemoryGrant::ReadWriteBeforeGuest => "read and write, gone before the guest runs",
            MemoryGrant::ReadDescriptor => "read through a read-only descriptor, not mapped",
            MemoryGrant::WriteDescriptor => "read and write through its descriptor, not mapped",
            MemoryGrant::Scratch => "a scratch region of the tests",
        })
    }
}

impl Profile {
    /// The rules of the list, whichever shape it has.
    pub fn rules(&self) -> &'static [Rule] {
        match self.policy {
            Policy::AllowOnly(rules) | Policy::DenyOnly(rules) => rules,
        }
    }

    /// The numbers in the list, in the table's order.
    pub fn calls(&self) -> impl Iterator<Item = i64> {
        self.rules().iter().map(|rule| rule.call)
    }

    /// For evaluating a filter: each value that some check names, as [`Rule::sample`]s.
    pub fn samples(&self) -> Vec<[u64; 6]> {
        let values = |rule: &'static Rule| {
            let each =
                move |check: &'static Check| check.values.iter().map(|(value, _)| rule.sample(check.argument, *value));
            rule.checks.iter().flat_map(each)
        };
        self.rules().iter().flat_map(values).collect()
    }

    /// Whether call `number` passes the filter with some arguments.
    pub fn allows(&self, number: i64) -> bool {
        match self.policy {
            Policy::AllowOnly(rules) => rules.iter().any(|rule| rule.call == number),
            Policy::DenyOnly(rules) => !rules.iter().any(|rule| rule.call == number && rule.checks.is_empty()),
        }
    }

    /// The seccomp program of this profile, to be installed with TSYNC as the last step of lock-down.
    ///
    /// # Errors
    /// Only if a table is malformed (an argument index above 5); a test builds every profile.
    pub fn program(&self) -> Result<BpfProgram, bpf::Error> {
        bpf::build(self)
    }

    /// The profile for people: what `atoll inspect --sandbox` prints.
    pub fn describe(&self) -> String {
        Description(self).to_string()
    }
}

/// Formats a profile; kept apart so that [`Profile::describe`] has one line.
struct Description<'a>(&'a Profile);

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = self.0;
        writeln!(f, "{}: {}", profile.kind, profile.purpose)?;
        writeln!(f, "  guest memory: {}", profile.memory)?;
        let landlock = match profile.landlock {
            Landlock::DenyAll => "denies every path, TCP port, abstract socket and signal to the outside",
            Landlock::None => "not used (it would be inherited and forbid mounting)",
        };
        writeln!(f, "  Landlock: {landlock}")?;
        f.write_str(match profile.privilege {
            Privilege::None => "  capabilities: none, in any set; not dumpable\n",
            Privilege::OwnNamespace => "  capabilities: within its own user namespace, none over the host\n",
        })?;
        let own: Vec<_> = profile.namespaces.iter().map(|ns| ns.proc_name()).collect();
        writeln!(f, "  own namespaces: {}", own.join(", "))?;
        for limit in profile.limits {
            match limit.value {
                LimitValue::At(value) => writeln!(f, "  limit {}: {value}", limit.name)?,
                LimitValue::Hard => writeln!(f, "  limit {}: raised to the hard limit", limit.name)?,
            }
        }
        match profile.policy {
            Policy::AllowOnly(rules) => {
                writeln!(f, "  system calls: {} of at most {}; any other traps", rules.len(), profile.budget)?;
            }
            Policy::DenyOnly(rules) => {
                writeln!(f, "  system calls: all but {}, which fail with EPERM", rules.len())?;
            }
        }
        for rule in profile.rules() {
            write!(f, "    {:<18}", syscalls::name(rule.call).unwrap_or("?"))?;
            for check in rule.checks {
                let names: Vec<_> = check.values.iter().map(|value| value.1).collect();
                write!(f, " argument {} in {{{}}}:", check.argument, names.join(", "))?;
            }
            writeln!(f, " {}", rule.why)?;
        }
        Ok(())
    }
}
