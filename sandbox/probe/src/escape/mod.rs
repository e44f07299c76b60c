//! The escape campaign: a table of what code in a process of a VM must not reach, each with an attempt that reaches it
//! elsewhere.
//!
//! The idea: an attempt is one function. Outside of any sandbox, as root in namespaces that are thrown away, it has its
//! effect, which shows that it is sound; in place of any process of a VM the same function must not have it. What success
//! means stands in the table beside it. Where the effect would harm the machine (stopping it, setting its clock), the
//! arguments are such that the kernel refuses them for another reason after it has asked for permission: that refusal
//! counts as success, inside as well as outside ([`Item::beyond`]).
//!
//! | file | owns |
//! |---|---|
//! | `table` | the table |
//! | `tries` | the attempts, by group |
//! | `raw` | calls without a wrapper, traps |

mod raw;
mod table;
mod tries;

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::memfd::{MFdFlags, memfd_create};

use profile::Kind;
pub use raw::placed;
pub use table::TABLE;

/// What an attempt goes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Memory, registers and descriptors of other processes.
    Others,
    /// More memory than was given, or with more rights.
    Mappings,
    /// Files, paths, descriptors with more rights.
    Files,
    /// Signals to others.
    Signals,
    /// Ways to talk to anybody.
    Sockets,
    /// New processes, programs, namespaces, ids, and fewer restrictions.
    Processes,
    /// The host itself.
    Host,
    /// Parts of the kernel that no process of a VM has a use for.
    Kernel,
}

/// What must become of an attempt of the keeper, which starts everything of a VM with its user's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// It may succeed, so it is not tried.
    May,
    /// It must be refused, by whomever.
    Refused,
    /// Its filter must refuse it: with EPERM, also where the kernel would allow it.
    Filtered,
}

/// One row of the table.
#[derive(Debug)]
pub struct Item {
    /// A name without blanks.
    pub name: &'static str,
    /// What it goes for.
    pub group: Group,
    /// What has happened if the attempt succeeds.
    pub success: &'static str,
    /// The calls by which it is tried; the first that is trapped must be one of them.
    pub calls: &'static [i64],
    /// Refusals that the kernel gives only after it has asked for permission, which therefore count as success.
    pub beyond: &'static [Errno],
    /// What must become of the keeper's attempt.
    pub keeper: Keeper,
    /// The filter does not trap it but kills the process.
    pub kills: bool,
    /// The attempt.
    attempt: fn(&Place) -> Result<(), Errno>,
}

/// What has become of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The effect was reached.
    Reached,
    /// The filter did not let these calls through.
    Trapped(Vec<i64>),
    /// The kernel refused.
    Refused(Errno),
}

impl fmt::Display for Outcome {
    /// As [`Outcome::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Reached => f.write_str("reached"),
            Outcome::Refused(error) => write!(f, "refused:{}", *error as i32),
            Outcome::Trapped(calls) => {
                let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
                write!(f, "trapped:{}", calls.join(","))
            }
        }
    }
}

impl Outcome {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Outcome> {
        match text.split_once(':') {
            None => (text == "reached").then_some(Outcome::Reached),
            Some(("refused", number)) => Some(Outcome::Refused(Errno::from_raw(number.parse().ok()?))),
            Some(("trapped", list)) => {
                let numbers = list.split(',').filter(|number| !number.is_empty());
                numbers.map(|number| number.parse().ok()).collect::<Option<_>>().map(Outcome::Trapped)
            }
            Some(_) => None,
        }
    }
}

/// Where an attempt is made: who is there to be attacked, and what the process has itself.
#[derive(Debug)]
pub struct Place {
    /// Processes to attack, by pid.
    others: Vec<i32>,
    /// A descriptor for calls that need one if no better one can be had.
    descriptor: RawFd,
    /// A descriptor that may only be read.
    read_only: RawFd,
    /// The address of a page of memory shared with others, or 0.
    window: usize,
    /// What must stay open.
    _kept: Vec<File>,
}

/// Pids that the few processes of a VM can have.
const PIDS: i32 = 16;

impl Place {
    /// Inside a VM, before lock-down: the others are whoever is there. `memory` is a memfd, whose first page is mapped;
    /// `descriptor` is one that stays open.
    #[must_use]
    pub fn inside(memory: Option<RawFd>, descriptor: RawFd) -> Place {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let others = (1..=PIDS).filter(|pid| *pid != own).collect();
        Place { others, descriptor, read_only: descriptor, window: memory.map_or(0, raw::window), _kept: Vec::new() }
    }

    /// The same for a keeper, which may be alone in its VM: with a process to attack, its child, so that nothing but its filter
    /// stands between them.
    ///
    /// # Errors
    /// The kernel refuses the child. This process must have one thread.
    pub fn keeper(memory: Option<RawFd>, descriptor: RawFd) -> Result<Place, Errno> {
        Ok(Place { others: vec![raw::victim()?], ..Place::inside(memory, descriptor) })
    }

    /// Outside of any sandbox, in namespaces of its own, with a process to attack.
    ///
    /// # Errors
    /// This is not pid 1 of such a namespace, where attacks on everybody reach nobody else; or the kernel refuses.
    pub fn outside() -> Result<Place, Errno> {
        if std::process::id() != 1 {
            return Err(Errno::EPERM);
        }
        // Files are made here; the mount namespace is this process's own.
        mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let memfd = File::from(memfd_create(c"window", MFdFlags::MFD_ALLOW_SEALING)?);
        let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        memfd.set_len(2 * raw::PAGE as u64).map_err(failed)?;
        let reader = File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd())).map_err(failed)?;
        let (descriptor, read_only) = (memfd.as_raw_fd(), reader.as_raw_fd());
        let window = raw::window(descriptor);
        Ok(Place { others: vec![raw::victim()?], descriptor, read_only, window, _kept: vec![memfd, reader] })
    }

    /// Tries it on everybody until one attempt succeeds.
    fn any(&self, attempt: impl Fn(usize) -> Result<usize, Errno>) -> Result<(), Errno> {
        let mut last = Err(Errno::ESRCH);
        for pid in &self.others {
            last = attempt(*pid as usize).map(drop);
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

impl Item {
    /// The row of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Item> {
        TABLE.iter().find(|item| item.name == name)
    }

    /// Whether a process of this kind is to try it.
    #[must_use]
    pub fn is_tried_by(&self, kind: Kind) -> bool {
        kind != Kind::Keeper || self.keeper != Keeper::May
    }

    /// Makes the attempt. Under a filter it ends the process, unless [`survive_traps`] was called.
    #[must_use]
    pub fn attempt(&self, place: &Place) -> Outcome {
        raw::forget();
        let result = (self.attempt)(place);
        let trapped = raw::trapped();
        match result {
            Ok(()) => Outcome::Reached,
            Err(_) if !trapped.is_empty() => Outcome::Trapped(trapped),
            Err(error) if self.beyond.contains(&error) => Outcome::Reached,
            Err(error) => Outcome::Refused(error),
        }
    }

    /// Whether this outcome is a denial as the table has it: by the filter at one of the item's own calls, or by the kernel.
    #[must_use]
    pub fn denied(&self, kind: Kind, outcome: &Outcome) -> bool {
        if kind == Kind::Keeper && self.keeper == Keeper::Filtered {
            return *outcome == Outcome::Refused(Errno::EPERM);
        }
        match outcome {
            Outcome::Reached => false,
            Outcome::Refused(_) => true,
            Outcome::Trapped(calls) => calls.first().map_or(self.kills, |first| self.calls.contains(first)),
        }
    }
}

/// From now on a trapped call returns to the attempt, so that one process can make them all. The filter is the same.
///
/// # Errors
/// The kernel refuses the handler; call it before the filter is there.
pub fn survive_traps() -> Result<(), Errno> {
    raw::go_on_after_traps()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_a_table() {
        assert!(TABLE.len() >= 40);
        for (index, item) in TABLE.iter().enumerate() {
            assert!(!item.name.contains([' ', '\t', ':']) && !item.success.is_empty(), "{}", item.name);
            assert!(TABLE[..index].iter().all(|other| other.name != item.name), "{} is there twice", item.name);
            assert_ne!(item.calls.is_empty(), !item.kills, "{}", item.name);
            assert!(item.keeper == Keeper::May || !item.kills, "{}", item.name);
        }
    }

    #[test]
    fn outcomes_are_read_as_written_and_judged() {
        let refused = Outcome::Refused(Errno::EPERM);
        for outcome in [Outcome::Reached, refused.clone(), Outcome::Trapped(vec![41, 42])] {
            assert_eq!(Outcome::parse(&outcome.to_string()), Some(outcome));
        }
        assert_eq!(Outcome::parse("trapped:x"), None);
        let socket = Item::of("socket-unix").unwrap();
        assert!(
            socket.denied(Kind::Board, &refused)
                && socket.denied(Kind::Board, &Outcome::Trapped(vec![libc::SYS_socket]))
        );
        let read = Item::of("process-vm-readv").unwrap();
        assert!(read.denied(Kind::Keeper, &refused) && !read.denied(Kind::Keeper, &Outcome::Refused(Errno::ESRCH)));
        assert!(
            !socket.denied(Kind::Board, &Outcome::Reached)
                && !socket.denied(Kind::Board, &Outcome::Trapped(vec![libc::SYS_write]))
        );
    }
}
