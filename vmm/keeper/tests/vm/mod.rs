//! A VM of the tests: the keeper as it is, with the test's supervisor and islets.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use keeper_protocol::client::{Adoption, ClientError, Keeper, Launcher};
use keeper_protocol::{
    BeginFlags, Exited, FromKeeper, Grant, HeldId, HeldKind, Name, ProcessId, RefusalCode, SUPERVISOR_BINARY, Spawn,
};
use link::{Deadline, Inbox, Link, Peer};
use rustix::process::{Signal, pidfd_send_signal};
use spawn::{Child, Command, Exit, Image};

/// Generous: a test must fail only when something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub struct Options {
    pub flags: BeginFlags,
    /// The supervisor ends before it works.
    pub die: bool,
}

/// What the keeper writes to its descriptor 2.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<String>, Condvar)>);

/// A keeper that ends with its test.
pub struct Guard(Child);

impl std::ops::Deref for Guard {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // An error says that it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait(Some(PATIENCE));
    }
}

pub struct Vm {
    pub child: Guard,
    pub launcher: Option<Link>,
    pub driver: Link,
    pub log: Log,
    /// As if the test were the supervisor.
    pub supervisor: Keeper,
    /// The same socket.
    pub raw: Link,
    pub binary: HeldId,
}

pub struct Launched {
    pub child: Guard,
    pub launcher: Link,
    pub driver: Link,
    log: Log,
    binary: HeldId,
}

fn binary(example: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_keeper")).parent().unwrap().join("examples").join(example)
}

/// Starts a keeper that waits for its launcher.
pub fn start_keeper() -> (Guard, Link, Log) {
    let (ours, theirs) = Link::pair(Peer::new("launcher", 0), Peer::new("keeper", 1)).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let image = Image::open(env!("CARGO_BIN_EXE_keeper")).unwrap();
    let command = Command::new("keeper", &image).log(writer.as_fd()).control(theirs.as_fd());
    let child = Guard(spawn::keeper(&command).unwrap());
    let log = Log::default();
    let collected = log.clone();
    std::thread::spawn(move || {
        let mut file = File::from(reader);
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            collected.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            collected.0.1.notify_all();
        }
    });
    (child, ours, log)
}

impl Log {
    fn wait(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        let mut log = self.0.0.lock().unwrap();
        while !log.contains(text) {
            assert!(Instant::now() < end, "{text:?} is not in the log:\n{log}");
            log = self.0.1.wait_timeout(log, Duration::from_secs(1)).unwrap().0;
        }
    }

    fn lines(&self, text: &str) -> usize {
        self.0.0.lock().unwrap().lines().filter(|line| line.contains(text)).count()
    }
}

impl Launched {
    pub fn wait_log(&self, text: &str) {
        self.log.wait(text);
    }
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a launched VM")
    }
}

/// Seconds that the supervisor may stand still: none of these has a heart, and long tests take long.
const STILL: u32 = 24 * 3600;

impl Vm {
    /// Starts a keeper, and the supervisor by the binary of this name or path.
    pub fn launch(options: Options, supervisor: &str) -> Result<Launched, ClientError> {
        let (child, link, log) = start_keeper();
        let mut launcher = Launcher::begin(link, name("vm"), options.flags, (1, 2), STILL, soon())?;
        let (driver, theirs) = Link::pair(Peer::new("test", 0), Peer::new("supervisor", 0)).unwrap();
        let open = |example: &str| File::open(binary(example)).unwrap();
        let hold = |launcher: &mut Launcher, text: &str, kind, file: &dyn AsFd| {
            launcher.hold(name(text), kind, file.as_fd(), soon())
        };
        hold(&mut launcher, SUPERVISOR_BINARY, HeldKind::Binary, &open(supervisor))?;
        let binary = hold(&mut launcher, "bin:test-islet", HeldKind::Binary, &open("test-islet"))?;
        hold(&mut launcher, "test:driver", HeldKind::Socket, &theirs)?;
        if options.die {
            hold(&mut launcher, "test:die", HeldKind::Other, &std::io::stdin())?;
        }
        let (launcher, pid) = launcher.go(soon())?;
        assert!(pid > 1, "the keeper is the first process of its namespace");
        Ok(Launched { child, launcher, driver, log, binary })
    }

    pub fn start(options: Options) -> Self {
        let Launched { child, launcher, driver, log, binary } = Self::launch(options, "test-supervisor").unwrap();
        let (supervisor, raw, adoption, exits) = take_over(&driver);
        assert_eq!((adoption.hello.vm, adoption.hello.uid, adoption.hello.gid), (name("vm"), 1, 2));
        assert_eq!((adoption.held.len(), adoption.processes.len(), exits.len()), (3, 0, 0));
        Self { child, launcher: Some(launcher), driver, log, supervisor, raw, binary }
    }

    /// Waits for the next supervisor to lend its link.
    pub fn take_over(&mut self) -> (Adoption, Vec<Exited>) {
        let (supervisor, raw, adoption, exits) = take_over(&self.driver);
        (self.supervisor, self.raw) = (supervisor, raw);
        (adoption, exits)
    }

    /// Tells the supervisor how to end; the link that it has lent is given back.
    pub fn order(&mut self, order: &str) {
        let (_, unused) = Link::pair(Peer::new("x", 0), Peer::new("x", 0)).unwrap();
        self.raw = unused;
        let (_, unused) = Link::pair(Peer::new("x", 0), Peer::new("x", 0)).unwrap();
        self.supervisor = Keeper::resume(unused, 0, 0);
        self.driver.send(order.as_bytes(), &[], soon()).unwrap();
    }

    pub fn spawn(
        &mut self,
        islet: &str,
        incarnation: u32,
        status_slot: u32,
        grants: Vec<Grant>,
        order: &str,
    ) -> (ProcessId, Link) {
        let spawn = Spawn {
            name: name(islet),
            role: name("probe"),
            binary: self.binary,
            incarnation,
            status_slot,
            grants,
            payload: order.as_bytes(),
        };
        let spawned = self.supervisor.spawn(spawn, soon()).unwrap();
        (spawned.process, Link::new(spawned.socket, Peer::new(islet, incarnation)).unwrap())
    }

    /// Ends the VM as its supervisor would, and sees it end.
    pub fn end(mut self, status: u8) {
        let error = self.supervisor.exit(status, soon());
        assert!(matches!(&error, ClientError::Link(error) if error.is_peer_gone()), "{error}");
        assert_eq!(self.child.wait(Some(PATIENCE)).unwrap(), Some(Exit::Code(status.into())));
    }

    pub fn stop_keeper(&self) {
        pidfd_send_signal(self.child.pidfd(), Signal::STOP).unwrap();
        let stopped = |state: char| state == 'T';
        while !stopped(self.state()) {
            std::thread::yield_now();
        }
    }

    pub fn continue_keeper(&self) {
        pidfd_send_signal(self.child.pidfd(), Signal::CONT).unwrap();
    }

    /// The keeper waits for something to do.
    pub fn keeper_is_idle(&self) -> bool {
        // A thread that was on its way is seen running by one of these looks.
        (0..20).all(|_| {
            std::thread::sleep(Duration::from_millis(5));
            self.state() == 'S'
        })
    }

    /// The state of the keeper's main thread in `/proc/PID/stat`.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.pid())).unwrap();
        stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).unwrap()
    }

    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.pid())).unwrap().count()
    }

    /// The VM's pid namespace.
    pub fn pid_namespace(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/ns/pid", self.child.pid())).unwrap()
    }

    pub fn wait_log(&self, text: &str) {
        self.log.wait(text);
    }

    pub fn log_lines(&self, text: &str) -> usize {
        self.log.lines(text)
    }
}

fn take_over(driver: &Link) -> (Keeper, Link, Adoption, Vec<Exited>) {
    let copy = Link::new(driver.as_fd().try_clone_to_owned().unwrap(), Peer::new("supervisor", 0)).unwrap();
    let (mut told, adoption) = Keeper::adopt(copy, soon()).unwrap();
    let exits: Vec<Exited> = (0..adoption.hello.exits).map(|_| told.wait_exit(soon()).unwrap()).collect();
    let message = driver.recv(soon()).unwrap();
    assert_eq!(message.bytes, b"link");
    let socket = message.descriptors.into_iter().next().unwrap();
    let raw = Link::new(socket.try_clone().unwrap(), Peer::new("keeper", 1)).unwrap();
    let link = Link::new(socket, Peer::new("keeper", 1)).unwrap();
    let mut supervisor = Keeper::resume(link, told.incarnation(), 1 << 32);
    supervisor.serving(soon()).unwrap();
    (supervisor, raw, adoption, exits)
}

/// The answer of an islet.
pub fn answer(link: &Link) -> String {
    String::from_utf8(link.recv(soon()).unwrap().bytes).unwrap()
}

/// The code of what must have been refused.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> RefusalCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Takes the refusals that are there, or waits for one until the deadline.
pub fn count_refusals(link: &Link, deadline: Deadline) -> usize {
    let mut inbox = Inbox::new();
    let mut count = 0;
    let is_refusal = |bytes: &[u8]| matches!(FromKeeper::decode(bytes, 0).unwrap().1, FromKeeper::Refusal(_));
    if let Ok(message) = link.recv_into(&mut inbox, deadline) {
        assert!(is_refusal(message.bytes));
        count += 1;
    }
    while let Some(message) = link.try_recv_into(&mut inbox).unwrap() {
        assert!(is_refusal(message.bytes));
        count += 1;
    }
    count
}

/// The processes of a pid namespace.
pub fn members(namespace: &Path) -> Vec<u32> {
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    // Not readable once the process is gone, or somebody else's.
    let of = |number: &u32| std::fs::read_link(format!("/proc/{number}/ns/pid")).ok();
    numbers.filter(|number| of(number).is_some_and(|link| link == namespace)).collect()
}

/// `/proc/PID/task/TID/status` of every thread of a process.
pub fn threads(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}
