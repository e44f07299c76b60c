//! Commands, and the parent's part of starting one: preparing the plan, writing the id maps, hearing of failures.

#![expect(unsafe_code, reason = "pidfd_send_signal has no safe wrapper")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::child::{self, CStrings, Plan, REPORT_SIZE, Step};
use crate::exit::{Exit, wait};
use crate::ids::{IdLease, IdMaps};
use crate::image::Image;
use crate::{CONTROL_FD, LOG_FD, SpawnError};

/// How long a child may take from clone to exec.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most descriptors in a map.
const MAX_DESCRIPTORS: usize = 1024;

/// What to start: a binary, its arguments, and exactly the descriptors that it gets.
#[derive(Debug)]
pub struct Command<'a> {
    name: String,
    image: &'a Image,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
}

impl<'a> Command<'a> {
    /// Starts `image` as `name`, which is its argument 0 and its name in messages. Without more, it has `/dev/null` at 0,
    /// 1 and 2, and an empty environment.
    pub fn new(name: &str, image: &'a Image) -> Command<'a> {
        Command {
            name: name.to_owned(),
            image,
            arguments: vec![name.to_owned()],
            environment: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Command<'a> {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: &str, value: &str) -> Command<'a> {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The log pipe, which becomes descriptor 2.
    pub fn log(self, log: BorrowedFd<'a>) -> Command<'a> {
        self.fd(log, LOG_FD)
    }

    /// The control socket, which becomes descriptor 3.
    pub fn control(self, socket: BorrowedFd<'a>) -> Command<'a> {
        self.fd(socket, CONTROL_FD)
    }

    /// Any descriptor, which becomes number `target` in the new process.
    pub fn fd(mut self, source: BorrowedFd<'a>, target: RawFd) -> Command<'a> {
        self.descriptors.push((source, target));
        self
    }

    fn parent_error(&self, step: &'static str) -> impl Fn(io::Error) -> SpawnError + use<> {
        let name = self.name.clone();
        move |source| SpawnError::Parent { name: name.clone(), step, source }
    }

    fn wrong(&self, why: &str) -> SpawnError {
        SpawnError::Command { name: self.name.clone(), why: why.to_owned() }
    }

    /// The strings for exec.
    fn strings<'s>(&self, texts: impl Iterator<Item = &'s str>) -> Result<CStrings, SpawnError> {
        let owned: Result<Vec<_>, _> = texts.map(CString::new).collect();
        owned.map(CStrings::new).map_err(|_| self.wrong("an argument or variable contains a zero byte"))
    }

    /// The targets in ascending order, each once, with 0, 1 and 2 among them.
    fn targets(&self) -> Result<Vec<RawFd>, SpawnError> {
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(self.wrong("its descriptor map is too long"));
        }
        let mut targets: Vec<RawFd> = self.descriptors.iter().map(|(_, target)| *target).collect();
        targets.sort_unstable();
        if targets.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(self.wrong("its descriptor map names a number twice"));
        }
        if targets.first().is_some_and(|first| *first < 0) {
            return Err(self.wrong("its descriptor map names a negative number"));
        }
        targets.extend(0..=2);
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }

    /// Copies of all sources, above all targets, and the ranges to close at exec.
    fn prepare(&self, namespaces: u64, empty_root: bool) -> Result<Prepared, SpawnError> {
        let targets = self.targets()?;
        let failed = self.parent_error("preparing its descriptors");
        let above = targets.last().map_or(3, |last| last + 1);
        let copy = |fd: BorrowedFd<'_>| copy_above(fd, above).map_err(&failed);
        let null = File::options().read(true).write(true).open("/dev/null").map_err(self.parent_error("/dev/null"))?;
        let mut descriptors = Vec::with_capacity(targets.len());
        for target in &targets {
            let named = self.descriptors.iter().find(|(_, to)| to == target);
            descriptors.push((copy(named.map_or(null.as_fd(), |(source, _)| *source))?, *target));
        }
        let (report_ours, report) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let (go, go_ours) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let variables: Vec<String> = self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let go_ours = copy(go_ours.as_fd())?;
        let plan = Plan {
            namespaces,
            empty_root,
            executable: copy(self.image.as_fd())?,
            arguments: self.strings(self.arguments.iter().map(String::as_str))?,
            environment: self.strings(variables.iter().map(String::as_str))?,
            gaps: gaps(&targets),
            descriptors,
            go: copy(go.as_fd())?,
            go_parent: go_ours.as_raw_fd(),
            report: copy(report.as_fd())?,
        };
        Ok(Prepared { plan, go: File::from(go_ours), report: File::from(report_ours), name: self.name.clone() })
    }
}

/// A close-on-exec copy with a number of at least `above`.
fn copy_above(fd: BorrowedFd<'_>, above: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor, and nobody else knows it.
    Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) })
}

/// The ranges between and above ascending `targets`.
fn gaps(targets: &[RawFd]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    let mut next = 0u32;
    for target in targets.iter().map(|target| target.cast_unsigned()) {
        if target > next {
            ranges.push((next, target - 1));
        }
        next = target + 1;
    }
    ranges.push((next, u32::MAX));
    ranges
}

/// A plan, with the parent's ends of its two pipes.
pub(crate) struct Prepared {
    plan: Plan,
    go: File,
    report: File,
    pub(crate) name: String,
}

impl Prepared {
    /// For an islet: everything of its own but pid and net, which the spawn thread and the keeper have prepared.
    pub(crate) fn islet(command: &Command<'_>) -> Result<Prepared, SpawnError> {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        command.prepare(flags as u64, true)
    }

    /// Clones, writes the maps, and waits until the binary runs.
    pub(crate) fn launch(self, maps: &IdMaps, lease: Option<IdLease>) -> Result<Child, SpawnError> {
        let Prepared { plan, mut go, report, name } = self;
        let parent = |step| {
            let name = name.clone();
            move |source| SpawnError::Parent { name, step, source }
        };
        let (pid, pidfd) = child::clone(&plan).map_err(|source| SpawnError::Child {
            name: name.clone(),
            step: Step::Clone,
            source,
        })?;
        let child = Child { pid, pidfd, _lease: lease };
        // The child has its copies of these; ours would keep the report from ending.
        drop(plan);
        let result = number_in_proc(child.pidfd())
            .map_err(parent("finding it in /proc"))
            .and_then(|number| maps.write(number).map_err(parent("writing its id maps")))
            .and_then(|()| go.write_all(&[1]).map_err(parent("letting it go")))
            .and_then(|()| hear(report, &name));
        match result {
            Ok(()) => Ok(child),
            Err(error) => {
                // It may have ended already; either way it must not linger.
                let _ = child.kill();
                let _ = child.wait(Some(DEADLINE));
                Err(error)
            }
        }
    }
}

/// Waits for the end of the report pipe (exec closed it) or a report.
fn hear(mut report: File, name: &str) -> Result<(), SpawnError> {
    let failed = |source| SpawnError::Parent { name: name.to_owned(), step: "waiting for its start", source };
    let limit = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(report.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) => return Err(SpawnError::Deadline { name: name.to_owned(), seconds: DEADLINE.as_secs() }),
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    let mut words = [0u8; REPORT_SIZE];
    match report.read(&mut words).map_err(failed)? {
        0 => Ok(()),
        REPORT_SIZE => {
            let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| words[at + index]));
            let source = io::Error::from_raw_os_error(word(4).cast_signed());
            match Step::from_u32(word(0)) {
                Some(step) => Err(SpawnError::Child { name: name.to_owned(), step, source }),
                None => Err(failed(source)),
            }
        }
        _ => Err(failed(io::ErrorKind::InvalidData.into())),
    }
}

/// The number of a process in the mounted `/proc`, which may belong to another pid namespace than ours (pidfd's fdinfo
/// counts as the reader's `/proc` does).
fn number_in_proc(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|number| number.trim().parse().ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/proc does not show the process"))
}

/// A running process. Dropping it neither kills nor reaps; an islet's id is free again then.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    _lease: Option<IdLease>,
}

impl Child {
    /// Its number in the caller's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its number in the mounted `/proc`, for audits; differs from [`pid`](Child::pid) in a keeper.
    ///
    /// # Errors
    /// It has ended, or `/proc` is not mounted.
    pub fn proc_number(&self) -> io::Result<i32> {
        number_in_proc(self.pidfd())
    }

    /// Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// kill -9.
    ///
    /// # Errors
    /// It has been reaped.
    pub fn kill(&self) -> io::Result<()> {
        // SAFETY: sends a signal to a process that this descriptor names.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0u32,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for its end and reaps it; see [`wait`].
    ///
    /// # Errors
    /// As [`wait`].
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Exit>> {
        wait(self.pidfd(), timeout)
    }
}

/// Starts the keeper: pid 1 of a new pid namespace, id 0 of a new user namespace, in a session of its own, with the file
/// system and network of the caller. When it ends, everything that it started ends.
///
/// Started by root, the namespace also gets 127 host ids that belong to nobody, one for each islet.
///
/// # Errors
/// The step that failed, in the caller or in the new process.
pub fn keeper(command: &Command<'_>) -> Result<Child, SpawnError> {
    let prepared = command.prepare((libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as u64, false)?;
    prepared.launch(&IdMaps::keeper(std::process::id()), None)
}

/// A read-only descriptor of what `fd` refers to, for a process that must not write it (the two share no file position
/// or flags). Works for memfds and files; only the keeper, which has a `/proc`, can do it.
///
/// # Errors
/// `/proc` is not mounted, or the file may not be opened for reading.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_cover_everything_but_the_targets() {
        assert_eq!(gaps(&[0, 1, 2, 3]), [(4, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2, 5, 9]), [(3, 4), (6, 8), (10, u32::MAX)]);
    }

    #[test]
    fn a_descriptor_map_with_a_clash_is_refused() {
        let image = Image::open(std::env::current_exe().expect("a path")).expect("static");
        let null = File::open("/dev/null").expect("it exists");
        let twice = Command::new("x", &image).control(null.as_fd()).fd(null.as_fd(), 3);
        assert!(matches!(twice.targets(), Err(SpawnError::Command { .. })));
        let negative = Command::new("x", &image).fd(null.as_fd(), -1);
        assert!(matches!(negative.targets(), Err(SpawnError::Command { .. })));
        let zero_byte = Command::new("x", &image).arg("a\0b");
        assert!(matches!(zero_byte.prepare(0, false), Err(SpawnError::Command { .. })));
    }

    #[test]
    fn a_read_only_copy_cannot_write() {
        let memfd = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).expect("memfd");
        nix::unistd::write(&memfd, b"abc").expect("writable");
        let copy = reopen_read_only(memfd.as_fd()).expect("/proc is mounted");
        assert_eq!(nix::unistd::write(&copy, b"x"), Err(nix::errno::Errno::EBADF));
        let mut bytes = [0; 3];
        nix::unistd::read(&copy, &mut bytes).expect("readable");
        assert_eq!(&bytes, b"abc");
    }
}
