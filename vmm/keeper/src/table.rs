//! What the keeper has: descriptors and processes, by ids that are never used twice.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use enter::status::StatusPage;
use keeper_protocol::{
    Access, Exited, HeldEntry, HeldId, HeldKind, MAX_HELD, MAX_PROCESSES, MAX_STATUS_SLOTS, Name, ProcessEntry,
    ProcessId, Refusal, RefusalCode,
};
use rustix::fs::{FileType, Mode, OFlags, SealFlags, fcntl_get_seals, fstat};
use spawn::{Child, Image};

use crate::logs::Source;

/// Descriptors that are not in the table: sockets and pipes of processes, and those of one request and one spawn.
const RESERVE: usize = 3 * MAX_PROCESSES + 2 * keeper_protocol::MAX_GRANTS + 128;

/// How many descriptors may be held where the kernel allows `limit` open files.
pub fn capacity(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVE).min(MAX_HELD)
}

/// Why a request is not carried out; whoever answers fills in which one it was.
pub fn refused(code: RefusalCode, text: impl Into<String>) -> Refusal {
    Refusal { request: 0, code, text: text.into() }
}

/// A descriptor that survives whoever uses it.
#[derive(Debug)]
pub struct Held {
    pub name: Name,
    pub kind: HeldKind,
    /// The supervisor cannot have it.
    pub guarded: bool,
    pub fd: OwnedFd,
}

/// A descriptor on its way: the held one itself, or one that was opened anew for this purpose.
#[derive(Debug)]
pub enum Passed<'a> {
    Same(BorrowedFd<'a>),
    New(OwnedFd),
}

impl AsFd for Passed<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Same(fd) => *fd,
            Self::New(fd) => fd.as_fd(),
        }
    }
}

/// A process, from its start to the acknowledgement of its exit.
#[derive(Debug)]
pub struct Process {
    /// What the supervisor is told of it.
    pub entry: ProcessEntry,
    pub state: State,
}

/// Whether it lives.
#[derive(Debug)]
pub enum State {
    Running { child: Child, log: Source },
    Ended(Exited),
}

impl State {
    /// How it ended.
    pub const fn exit(&self) -> Option<&Exited> {
        match self {
            Self::Running { .. } => None,
            Self::Ended(exited) => Some(exited),
        }
    }
}

/// Both tables.
#[derive(Debug, Default)]
pub struct Table {
    held: BTreeMap<HeldId, Held>,
    processes: BTreeMap<ProcessId, Process>,
    last_held: u64,
    last_process: u64,
    capacity: usize,
    status: Option<Status>,
}

/// The status memfd, and the pages of it that are mapped. Bounded: a page is mapped once.
#[derive(Debug)]
struct Status {
    memfd: OwnedFd,
    pages: BTreeMap<u32, &'static StatusPage>,
}

impl Table {
    pub fn new(held: Vec<Held>, capacity: usize) -> Self {
        let mut table = Self { capacity, ..Self::default() };
        for held in held {
            table.insert(held);
        }
        table
    }

    fn insert(&mut self, held: Held) -> HeldId {
        self.last_held += 1;
        let id = HeldId(self.last_held);
        self.held.insert(id, held);
        id
    }

    /// Fails where `count` more descriptors cannot be held, so that a request can be refused before anything is done.
    pub fn room_for(&self, count: usize) -> Result<(), Refusal> {
        if self.held.len() + count <= self.capacity {
            return Ok(());
        }
        let why = format!(
            "{} descriptors are held, which is all; release some or raise the limit of open files",
            self.capacity
        );
        Err(refused(RefusalCode::Full, why))
    }

    /// Holds a descriptor.
    pub fn hold(&mut self, held: Held) -> Result<HeldId, Refusal> {
        self.room_for(1)?;
        Ok(self.insert(held))
    }

    pub fn get(&self, id: HeldId) -> Result<&Held, Refusal> {
        self.held.get(&id).ok_or_else(|| refused(RefusalCode::NoSuchDescriptor, format!("{id} is not held")))
    }

    /// Lets go of a descriptor on request.
    pub fn release(&mut self, id: HeldId) -> Result<(), Refusal> {
        let held = self.get(id)?;
        if held.kind == HeldKind::Control {
            let why = format!("{id} ({}) goes with the acknowledgement of its process's exit", held.name);
            return Err(refused(RefusalCode::NotAllowed, why));
        }
        if Some(id) == self.newest(keeper_protocol::SUPERVISOR_BINARY) {
            return Err(refused(RefusalCode::NotAllowed, format!("{id} is what the next supervisor is started from")));
        }
        self.held.remove(&id);
        Ok(())
    }

    /// The descriptor of this name that was held last.
    pub fn newest(&self, name: &str) -> Option<HeldId> {
        self.held.iter().rev().find(|(_, held)| held.name.as_str() == name).map(|(id, _)| *id)
    }

    /// A held descriptor in the form that is asked for.
    pub fn pass(&self, id: HeldId, access: Access) -> Result<Passed<'_>, Refusal> {
        if access == Access::Same {
            return Ok(Passed::Same(self.get(id)?.fd.as_fd()));
        }
        let held = self.file(id)?;
        let reopened = match access {
            Access::Same | Access::ReadOnly => spawn::reopen_read_only(held.fd.as_fd()),
            Access::PathOnly => {
                let path = format!("/proc/self/fd/{}", held.fd.as_raw_fd());
                rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
            }
        };
        reopened.map(Passed::New).map_err(|error| {
            refused(RefusalCode::Os, format!("{id} ({}) cannot be opened anew as {access:?}: {error}", held.name))
        })
    }

    /// A held file or memfd. Anything else, such as a pipe, could make the keeper wait when it is opened or read.
    fn file(&self, id: HeldId) -> Result<&Held, Refusal> {
        let held = self.get(id)?;
        match fstat(&held.fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => Ok(held),
            _ => Err(refused(RefusalCode::NotAllowed, format!("{id} ({}) is not a file", held.name))),
        }
    }

    /// The program of a held descriptor.
    pub fn image(&self, id: HeldId) -> Result<Image, Refusal> {
        let held = self.file(id)?;
        let copy = held.fd.try_clone().map_err(|error| os("copying a descriptor", &error))?;
        Image::from_fd(copy, held.name.as_str()).map_err(|error| refused(RefusalCode::Spawn, error.to_string()))
    }

    /// Fails where no more process can be started.
    pub fn room_for_process(&self) -> Result<(), Refusal> {
        if self.processes.len() < MAX_PROCESSES {
            return Ok(());
        }
        let why = format!("there are {MAX_PROCESSES} processes; acknowledge exits before starting more");
        Err(refused(RefusalCode::Full, why))
    }

    /// Adds a process, whose id is made here.
    pub fn add_process(&mut self, mut process: Process) -> ProcessId {
        self.last_process += 1;
        process.entry.id = ProcessId(self.last_process);
        self.processes.insert(process.entry.id, process);
        ProcessId(self.last_process)
    }

    /// A running process of this incarnation.
    pub fn running(&self, id: ProcessId, incarnation: u32) -> Result<(&ProcessEntry, &Child), Refusal> {
        let process = self.processes.get(&id).ok_or_else(|| unknown(id))?;
        let ProcessEntry { name, incarnation: is, .. } = process.entry;
        if is != incarnation {
            let why = format!("{id} is {name}[{is}], not [{incarnation}]");
            return Err(refused(RefusalCode::StaleIncarnation, why));
        }
        match &process.state {
            State::Running { child, .. } => Ok((&process.entry, child)),
            State::Ended(_) => Err(refused(RefusalCode::ProcessEnded, format!("{id} ({name}) has ended"))),
        }
    }

    pub fn processes(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.processes.iter().map(|(id, process)| (*id, process))
    }

    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.processes.values_mut()
    }

    pub fn process_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&id)
    }

    /// The running process with this pid.
    pub fn find_pid(&self, pid: u32) -> Option<ProcessId> {
        let runs = |process: &Process| process.entry.pid == pid && matches!(process.state, State::Running { .. });
        self.processes.iter().find(|(_, process)| runs(process)).map(|(id, _)| *id)
    }

    /// Forgets a process that has ended, and its socket.
    pub fn acknowledge(&mut self, id: ProcessId) -> Result<(), Refusal> {
        match self.processes.get(&id).ok_or_else(|| unknown(id))?.state {
            State::Running { .. } => Err(refused(RefusalCode::ProcessRuns, format!("{id} has not ended"))),
            State::Ended(_) => {
                if let Some(process) = self.processes.remove(&id) {
                    self.held.remove(&process.entry.socket);
                }
                Ok(())
            }
        }
    }

    /// Takes a held memfd as the status memfd.
    pub fn set_status(&mut self, id: HeldId) -> Result<(), Refusal> {
        if self.status.is_some() {
            return Err(refused(RefusalCode::NotAllowed, "the status memfd is known already"));
        }
        let held = self.get(id)?;
        // A shrunk file would be a fault in this process.
        let sealed = fcntl_get_seals(&held.fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            let why = format!("{id} is not a memfd that is sealed against shrinking");
            return Err(refused(RefusalCode::NotAllowed, why));
        }
        let memfd = held.fd.try_clone().map_err(|error| os("copying a descriptor", &error))?;
        self.status = Some(Status { memfd, pages: BTreeMap::new() });
        Ok(())
    }

    /// The status page of a slot; `None` where there is no such page.
    pub fn status_page(&mut self, slot: u32) -> Option<&'static StatusPage> {
        let status = self.status.as_mut().filter(|_| slot < MAX_STATUS_SLOTS)?;
        if let Some(page) = status.pages.get(&slot) {
            return Some(page);
        }
        let page = StatusPage::map(status.memfd.as_fd(), usize::try_from(slot).ok()?).ok()?;
        status.pages.insert(slot, page);
        Some(page)
    }

    pub fn held_entries(&self) -> impl ExactSizeIterator<Item = HeldEntry> {
        self.held.iter().map(|(id, held)| HeldEntry { id: *id, kind: held.kind, name: held.name })
    }

    pub fn process_entries(&self) -> impl ExactSizeIterator<Item = ProcessEntry> {
        self.processes.values().map(|process| process.entry)
    }
}

/// A refusal by the kernel.
pub fn os(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    refused(RefusalCode::Os, format!("{what}: {error}"))
}

fn unknown(id: ProcessId) -> Refusal {
    refused(RefusalCode::NoSuchProcess, format!("there is no {id}; its exit may have been acknowledged"))
}
