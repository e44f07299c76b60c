//! What the kernel shows of a process: `/proc/PID` and `/proc/PID/task/*` (proc(5)).
//!
//! Reading another process's descriptors, maps and namespaces needs CAP_SYS_PTRACE over it, since processes of a VM are
//! not dumpable: root of the host has it, and so has the user who started the VM, who owns its user namespaces.

use std::fs;
use std::io;

use crate::{Namespace, sock_filter};

/// Why a process could not be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file of `/proc` cannot be read.
    #[error("{path} cannot be read: {source}; an audit needs root, or the user who started the VM")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file of `/proc` does not say what is expected.
    #[error("{path} has no usable {what}")]
    Parse {
        /// The file.
        path: String,
        /// What is missing.
        what: &'static str,
    },
}

/// How a descriptor is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Writing only.
    Write,
    /// Both.
    ReadWrite,
    /// A place in the file system: neither (O_PATH).
    Path,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadFacts {
    /// Its number.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// 0: none, 1: strict, 2: filter.
    pub seccomp_mode: u32,
    /// How many filters are in force.
    pub filters: usize,
    /// Whether exec can never raise privileges.
    pub no_new_privs: bool,
    /// The sets in the order of [`ThreadFacts::SETS`].
    pub capabilities: [u64; 5],
    /// The real uid, in the reader's user namespace.
    pub uid: u32,
    /// Its programs, the newest first, if whoever audits has dumped them.
    pub programs: Option<Vec<Vec<sock_filter>>>,
    /// Its namespaces, which a thread can change for itself.
    pub namespaces: Vec<(Namespace, String)>,
    /// Its descriptors: a thread can have a table of its own.
    pub descriptors: Vec<DescriptorFacts>,
}

impl ThreadFacts {
    /// The capability sets of `/proc/PID/status`.
    pub const SETS: [&'static str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorFacts {
    /// Its number.
    pub number: i32,
    /// What it refers to, without instance numbers: `/dev/null`, `pipe`, `socket`, `/memfd:ram`, `eventfd`.
    pub target: String,
    /// How.
    pub access: Access,
}

/// A piece of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFacts {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Such as `rw-s`.
    pub protection: String,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file, `[stack]` and the like, or empty for anonymous memory.
    pub name: String,
}

/// A limit; `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFacts {
    /// As in `/proc/PID/limits`.
    pub name: String,
    /// The limit in force.
    pub soft: Option<u64>,
    /// Its ceiling.
    pub hard: Option<u64>,
}

/// A mount in the process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFacts {
    /// Where.
    pub point: String,
    /// The mount's options.
    pub options: String,
    /// The type of file system.
    pub kind: String,
}

/// Everything about one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its number in `/proc`.
    pub pid: i32,
    /// Its binary.
    pub executable: String,
    /// All its threads.
    pub threads: Vec<ThreadFacts>,
    /// All its descriptors.
    pub descriptors: Vec<DescriptorFacts>,
    /// The kinds of [`Namespace::ALL`], with the kernel's name for each (`net:[4026531840]`).
    pub namespaces: Vec<(Namespace, String)>,
    /// Its address space.
    pub maps: Vec<MapFacts>,
    /// Its limits.
    pub limits: Vec<LimitFacts>,
    /// Its mounts.
    pub mounts: Vec<MountFacts>,
    /// What stands in its root directory.
    pub root: Vec<String>,
    /// Whether another process of its user could look into it, if whoever audits has tried.
    pub dumpable: Option<bool>,
    /// Size of the signal stack that the runtime of every binary maps for each thread on this host.
    pub signal_stack: u64,
}

impl Facts {
    /// Reads everything about process `pid`, a number of the mounted `/proc`.
    ///
    /// # Errors
    /// The process is gone, or the caller may not look into it.
    pub fn read(pid: i32) -> Result<Facts, AuditError> {
        let base = format!("/proc/{pid}");
        let threads = each(&base, "task", thread)?;
        let descriptors = each(&base, "fd", descriptor)?;
        Ok(Facts {
            pid,
            executable: undeleted(&link(&format!("{base}/exe"))?),
            threads,
            descriptors,
            namespaces: namespaces(&base)?,
            maps: lines(&format!("{base}/maps"), "map", map)?,
            limits: text(&format!("{base}/limits"))?.lines().skip(1).filter_map(limit).collect(),
            mounts: lines(&format!("{base}/mountinfo"), "mount", mount)?,
            root: entries(&format!("{base}/root"))?,
            dumpable: None,
            signal_stack: signal_stack()?,
        })
    }

    /// The namespaces of the caller: the outside, for an expectation.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn own_namespaces() -> Result<Vec<(Namespace, String)>, AuditError> {
        namespaces("/proc/self")
    }
}

fn text(path: &str) -> Result<String, AuditError> {
    fs::read_to_string(path).map_err(|source| AuditError::Read { path: path.to_owned(), source })
}

fn link(path: &str) -> Result<String, AuditError> {
    match fs::read_link(path) {
        Ok(target) => Ok(target.to_string_lossy().into_owned()),
        Err(source) => Err(AuditError::Read { path: path.to_owned(), source }),
    }
}

/// Reads each numbered entry of directory `base/name`. One that has gone since (a closed descriptor) is left out.
fn each<T>(base: &str, name: &str, read: fn(&str, i32) -> Result<T, AuditError>) -> Result<Vec<T>, AuditError> {
    let mut found = Vec::new();
    for number in numbers(&format!("{base}/{name}"))? {
        match read(base, number) {
            Ok(entry) => found.push(entry),
            Err(AuditError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The names in a directory.
fn entries(path: &str) -> Result<Vec<String>, AuditError> {
    let entries = fs::read_dir(path).map_err(|source| AuditError::Read { path: path.to_owned(), source })?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The entries of a directory that are numbers, ascending.
fn numbers(path: &str) -> Result<Vec<i32>, AuditError> {
    let mut numbers: Vec<i32> = entries(path)?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Rust's runtime takes SIGSTKSZ or what this CPU's registers need (getauxval(3), AT_MINSIGSTKSZ), in whole pages.
fn signal_stack() -> Result<u64, AuditError> {
    const AT_MINSIGSTKSZ: u64 = 51;
    const PAGE: u64 = 4096;
    let path = "/proc/self/auxv";
    let bytes = fs::read(path).map_err(|source| AuditError::Read { path: path.to_owned(), source })?;
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let needed = words.as_chunks::<2>().0.iter().find(|[key, _]| *key == AT_MINSIGSTKSZ).map_or(0, |[_, value]| *value);
    Ok(needed.max(libc::SIGSTKSZ as u64).next_multiple_of(PAGE))
}

/// Each line of a file, as `parse` understands it.
fn lines<T>(path: &str, what: &'static str, parse: fn(&str) -> Option<T>) -> Result<Vec<T>, AuditError> {
    let parsed: Option<Vec<T>> = text(path)?.lines().map(parse).collect();
    parsed.ok_or_else(|| AuditError::Parse { path: path.to_owned(), what })
}

fn namespaces(base: &str) -> Result<Vec<(Namespace, String)>, AuditError> {
    Namespace::ALL.into_iter().map(|ns| Ok((ns, link(&format!("{base}/ns/{}", ns.proc_name()))?))).collect()
}

fn thread(base: &str, id: i32) -> Result<ThreadFacts, AuditError> {
    let path = format!("{base}/task/{id}/status");
    let status = text(&path)?;
    let field = |name: &'static str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim).ok_or(AuditError::Parse { path: path.clone(), what: name })
    };
    let number = |name: &'static str, radix: u32| {
        let first = field(name)?.split_whitespace().next().unwrap_or_default();
        u64::from_str_radix(first, radix).map_err(|_| AuditError::Parse { path: path.clone(), what: name })
    };
    let mut capabilities = [0; 5];
    for (value, set) in capabilities.iter_mut().zip(ThreadFacts::SETS) {
        *value = number(set, 16)?;
    }
    Ok(ThreadFacts {
        id,
        name: field("Name")?.to_owned(),
        seccomp_mode: number("Seccomp", 10)? as u32,
        filters: number("Seccomp_filters", 10)? as usize,
        no_new_privs: number("NoNewPrivs", 10)? == 1,
        capabilities,
        uid: number("Uid", 10)? as u32,
        programs: None,
        namespaces: namespaces(&format!("{base}/task/{id}"))?,
        descriptors: each(&format!("{base}/task/{id}"), "fd", descriptor)?,
    })
}

fn descriptor(base: &str, number: i32) -> Result<DescriptorFacts, AuditError> {
    let target = kind_of(&link(&format!("{base}/fd/{number}"))?);
    let path = format!("{base}/fdinfo/{number}");
    let info = text(&path)?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|value| i32::from_str_radix(value.trim(), 8).ok());
    let flags = flags.ok_or(AuditError::Parse { path, what: "flags" })?;
    let access = match flags & libc::O_ACCMODE {
        _ if flags & libc::O_PATH != 0 => Access::Path,
        libc::O_RDONLY => Access::Read,
        libc::O_WRONLY => Access::Write,
        _ => Access::ReadWrite,
    };
    Ok(DescriptorFacts { number, target, access })
}

/// `socket:[12]` is a `socket`, `anon_inode:[eventfd]` an `eventfd`, `/memfd:ram (deleted)` is `/memfd:ram`.
fn kind_of(target: &str) -> String {
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return kind.trim_matches(['[', ']']).to_owned();
    }
    match target.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => undeleted(target),
    }
}

fn undeleted(name: &str) -> String {
    name.strip_suffix(" (deleted)").unwrap_or(name).to_owned()
}

/// `7f00-7f01 rw-p 00000000 00:01 5   /memfd:ram (deleted)`
fn map(line: &str) -> Option<MapFacts> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let protection = words.next()?.to_owned();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    // Device and inode are of no interest; the name is the rest, which may hold spaces.
    let name: Vec<&str> = words.skip(2).collect();
    Some(MapFacts {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection,
        offset,
        name: undeleted(&name.join(" ")),
    })
}

/// `Max core file size        0                    unlimited            bytes`
fn limit(line: &str) -> Option<LimitFacts> {
    /// Width of the name's column (fs/proc/base.c).
    const NAME: usize = 26;
    let (name, values) = line.split_at_checked(NAME)?;
    let mut values = values.split_whitespace().map(|value| value.parse().ok());
    Some(LimitFacts { name: name.trim().to_owned(), soft: values.next()?, hard: values.next()? })
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`
fn mount(line: &str) -> Option<MountFacts> {
    let (before, after) = line.split_once(" - ")?;
    let mut words = before.split(' ').skip(4);
    Some(MountFacts {
        point: words.next()?.to_owned(),
        options: words.next()?.to_owned(),
        kind: after.split(' ').next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_understood() {
        let found = map("7f00-8f00 rw-s 0000f000 00:01 1029                       /memfd:ram (deleted)");
        let (start, end, offset) = (0x7f00, 0x8f00, 0xf000);
        let expected = MapFacts { start, end, protection: "rw-s".into(), offset, name: "/memfd:ram".into() };
        assert_eq!(found, Some(expected));
        assert_eq!(map("7f00-8f00 rw-p 00000000 00:00 0 ").map(|map| map.name), Some(String::new()));
        let found = limit("Max core file size        0                    unlimited            bytes     ");
        assert_eq!(found, Some(LimitFacts { name: "Max core file size".into(), soft: Some(0), hard: None }));
        let found = mount("36 35 98:0 / / ro,nosuid shared:1 master:2 - tmpfs tmpfs rw,size=4k").expect("a mount");
        assert_eq!((found.point.as_str(), found.options.as_str(), found.kind.as_str()), ("/", "ro,nosuid", "tmpfs"));
        assert_eq!(kind_of("socket:[99]"), "socket");
        assert_eq!(kind_of("anon_inode:[eventfd]"), "eventfd");
        assert_eq!(kind_of("/memfd:ram (deleted)"), "/memfd:ram");
    }

    #[test]
    fn this_process_can_be_read() {
        let facts = Facts::read(std::process::id().cast_signed()).expect("one may look into oneself");
        assert!(facts.threads.iter().any(|thread| thread.id == facts.pid));
        assert!(facts.maps.iter().any(|map| map.name == facts.executable));
        assert!(facts.limits.iter().any(|limit| limit.name == "Max open files"));
        assert_eq!(facts.namespaces, Facts::own_namespaces().expect("/proc is mounted"));
        assert!(facts.mounts.iter().any(|mount| mount.point == "/"));
        assert!(facts.root.iter().any(|name| name == "proc"));
        assert!(facts.threads.iter().all(|thread| thread.namespaces == facts.namespaces));
        assert!(facts.maps.iter().any(|map| map.end - map.start == facts.signal_stack), "{:#x}", facts.signal_stack);
    }
}
