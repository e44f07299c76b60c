//! What each process of a VM has, from the design's pages `security.md` and `shared-memory.md`.

use doorbell::layout::{AREA_LEN, BOARD_PAGES, CLOCK_PAGES, EXCHANGE_PAGES, area_offset};
use guest_memory::DirtyLayout;
use profile::audit::{Access, Expectation};
use profile::{Kind, Namespace, Profile};

use crate::vm::Outside;

/// What a VM was started with, as far as it changes what its processes have.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of RAM, below the PCI hole.
    pub ram: u64,
    /// It has an initrd.
    pub initrd: bool,
    /// Its console is the launcher's, a socket; otherwise it has none.
    pub console: bool,
    /// It runs in the foreground: the keeper watches its launcher and logs to a pipe of it.
    pub foreground: bool,
    /// The loader lives at this moment.
    pub loading: bool,
    /// Its engine writes a log and a map for profilers, to files of these names in the folder of [`Outside::snapshot`].
    pub watched: bool,
}

/// A row of the design's table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kind of process.
    pub kind: Kind,
    /// The name of its binary.
    pub binary: &'static str,
    /// All its threads.
    pub threads: usize,
    /// The most system calls after lock-down; none for the keeper, whose list says what it may not do.
    pub budget: Option<usize>,
    /// Its page of the status memfd.
    status: u64,
    /// Bytes of its allocator's arena.
    arena: u64,
}

const fn row(kind: Kind, binary: &'static str, threads: usize, budget: usize, status: u64, arena: u64) -> Row {
    Row { kind, binary, threads, budget: Some(budget), status, arena: arena << 20 }
}

/// The processes of a VM.
pub const ROWS: [Row; 6] = [
    Row { kind: Kind::Keeper, binary: "keeper", threads: 2, budget: None, status: 0, arena: 0 },
    row(Kind::Supervisor, "supervisor", 1, 40, 0, 128),
    // Control, one vCPU, interrupts, code that devices write to, huge pages, plans for loops.
    row(Kind::EngineTcg, "engine", 6, 16, 1, 704),
    row(Kind::Board, "board", 1, 16, 2, 4),
    row(Kind::Serial, "serial", 1, 16, 3, 4),
    row(Kind::Loader, "loader", 1, 16, 4, 8),
];

/// The streamers, which live while a snapshot is written, or read.
pub const STREAMERS: [Row; 2] =
    [row(Kind::StreamerSource, "streamer", 1, 18, 5, 256), row(Kind::StreamerTarget, "streamer", 1, 18, 5, 256)];

/// Code memory of the engine's vCPU (`CODE_MEMORY` of its main function).
const CODE_MEMORY: u64 = 64 << 20;

/// Areas of the windows memfd.
const BOARD: u16 = 0;
const SERIAL: u16 = 1;
const PAGE: u64 = 4096;
const STATE_ROW: u64 = 1 << 20;
/// More than the keeper's tables and its standard library ever take.
const KEEPER_MEMORY: u64 = 16 << 20;

impl Row {
    /// The row of this kind.
    #[must_use]
    pub fn of(kind: Kind) -> Option<&'static Row> {
        ROWS.iter().chain(&STREAMERS).find(|row| row.kind == kind)
    }

    /// What a process of this row may do.
    #[must_use]
    pub fn profile(&self, shape: &Shape) -> &'static Profile {
        match self.kind {
            Kind::EngineTcg if shape.watched => profile::engine_with_files(),
            kind => kind.profile(),
        }
    }

    /// The page of the status memfd of a process other than the keeper.
    #[must_use]
    pub fn status(&self) -> Option<u64> {
        (self.kind != Kind::Keeper).then_some(self.status)
    }

    /// What a process of this row must look like.
    #[must_use]
    pub fn expectation(&self, shape: &Shape, outside: &Outside) -> Expectation {
        let expected = Expectation::new(self.profile(shape), outside.namespaces.clone())
            .threads(self.threads)
            .descriptor(0, "/dev/null", Access::ReadWrite)
            .descriptor(1, "/dev/null", Access::ReadWrite);
        if self.kind == Kind::Keeper {
            return keeper(expected, shape, outside);
        }
        // The keeper's filter and its own; its log, its control socket, its status page.
        let expected = expected
            .filters(2)
            .descriptor(2, "pipe", Access::Write)
            .descriptors(1, "socket", Access::ReadWrite)
            .arena(self.arena)
            .shared("/memfd:status", "rw-s", self.status * PAGE, PAGE);
        match self.kind {
            Kind::Supervisor => supervisor(expected, shape),
            Kind::EngineTcg => state(engine(expected, shape, outside), 0),
            Kind::Board => state(board(expected), 1),
            Kind::Serial => state(serial(expected, shape), 2),
            Kind::StreamerSource => streamer(expected, Access::Read, Access::ReadWrite, outside),
            Kind::StreamerTarget => {
                streamer(expected, Access::ReadWrite, Access::Read, outside).descriptors(1, "userfaultfd", Access::Read)
            }
            _ => loader(expected, shape),
        }
    }
}

/// Pieces of the windows memfd.
fn windows(expected: Expectation, protection: &str, (offset, bytes): (u64, u64)) -> Expectation {
    expected.shared("/memfd:windows", protection, offset, bytes)
}

fn area(expected: Expectation, device: u16) -> Expectation {
    windows(expected, "rw-s", (area_offset(device), AREA_LEN))
}

/// A process's row of the memfd in which states are left.
fn state(expected: Expectation, row: u64) -> Expectation {
    expected.shared("/memfd:state", "rw-s", row * STATE_ROW, STATE_ROW)
}

/// Everything that must survive a process, and what it needs to start and watch processes.
fn keeper(mut expected: Expectation, shape: &Shape, outside: &Outside) -> Expectation {
    let (loading, console) = (usize::from(shape.loading), usize::from(shape.console));
    let islets = 3 + loading;
    for binary in ["supervisor", "engine", "board", "serial", "loader", "streamer"] {
        let path = outside.binaries.join(binary).display().to_string();
        expected = expected.descriptors(1, &path, Access::Read);
    }
    for memfd in ["config", "kernel", "ram", "dirty", "windows", "status", "status", "state", "events", "adoption"] {
        expected = expected.descriptors(1, &format!("/memfd:{memfd}"), Access::ReadWrite);
    }
    if shape.initrd {
        expected = expected.descriptors(1, "/memfd:initrd", Access::ReadWrite);
    }
    let log = if shape.foreground { "pipe".to_owned() } else { outside.log.display().to_string() };
    // Its log as it came and opened anew; the launcher's socket, whose end is the VM's in the foreground.
    expected = expected.descriptor(2, &log, Access::Write).descriptors(1, &log, Access::Write);
    expected = expected.descriptors(usize::from(shape.foreground), "socket", Access::ReadWrite);
    // Listeners for clients and their descriptors, report, supervisor; the control sockets of the islets; the console.
    expected = expected.descriptors(4 + islets + console, "socket", Access::ReadWrite);
    expected = watched(expected, shape, outside);
    // Each process's log and its end.
    expected =
        expected.descriptors(1 + islets, "pipe", Access::Read).descriptors(1 + islets, "pidfd", Access::ReadWrite);
    // Doorbells of board, engine (two) and serial port, and the interrupt of the serial port.
    expected = expected.descriptors(5, "eventfd", Access::ReadWrite).descriptors(1, "signalfd", Access::ReadWrite);
    expected = expected.descriptors(1, &outside.lock.display().to_string(), Access::ReadWrite);
    // Their status pages, for their last words, and the supervisor's for its heartbeat.
    for row in ROWS.iter().filter(|row| row.kind != Kind::Keeper) {
        expected = expected.shared("/memfd:status", "rw-s", row.status * PAGE, PAGE);
    }
    expected.filters(1).thread_namespace("spawn", Namespace::Net).private_memory(KEEPER_MEMORY)
}

fn supervisor(mut expected: Expectation, shape: &Shape) -> Expectation {
    let islets = 3 + usize::from(shape.loading);
    for memfd in ["status", "events", "adoption"] {
        expected = expected.descriptors(1, &format!("/memfd:{memfd}"), Access::ReadWrite);
    }
    // The keeper's link once more and each islet's twice, since the event loop has copies; listeners, report.
    let expected = expected.descriptors(1 + 2 * islets + 3, "socket", Access::ReadWrite);
    // The event loop: to wait, to change what is waited for, to be woken.
    let expected = expected.descriptors(2, "eventpoll", Access::ReadWrite).descriptors(1, "eventfd", Access::ReadWrite);
    windows(expected, "r--s", CLOCK_PAGES)
}

/// It maps nothing of the VM: it reads and writes what it moves, in one direction only.
fn streamer(mut expected: Expectation, memory: Access, files: Access, outside: &Outside) -> Expectation {
    for memfd in ["ram", "state"] {
        expected = expected.descriptors(1, &format!("/memfd:{memfd}"), memory);
    }
    for file in ["manifest", "memory", "engine.state", "board.state", "serial0.state"] {
        expected = expected.descriptors(1, &outside.snapshot.join(file).display().to_string(), files);
    }
    expected
}

/// The files that an engine writes to which is looked at.
pub const WATCHED: [&str; 2] = ["translation-log", "perf-map"];

fn watched(mut expected: Expectation, shape: &Shape, outside: &Outside) -> Expectation {
    for file in WATCHED.iter().filter(|_| shape.watched) {
        expected = expected.descriptors(1, &outside.snapshot.join(file).display().to_string(), Access::Write);
    }
    expected
}

fn engine(expected: Expectation, shape: &Shape, outside: &Outside) -> Expectation {
    let expected = watched(expected, shape, outside)
        // Two doorbells to ring, three to hear.
        .descriptors(5, "eventfd", Access::ReadWrite)
        // Whose pages it puts next to each other.
        .descriptors(1, "/memfd:ram", Access::ReadWrite)
        .shared("/memfd:ram", "rw-s", 0, shape.ram)
        .shared("/memfd:dirty", "rw-s", 0, DirtyLayout::new(shape.ram).len)
        // Emitted code: the same pages, written here and executed there, with its data behind the latter.
        .shared("/dev/zero", "rw-s", 0, CODE_MEMORY)
        .shared("/dev/zero", "rw-s", CODE_MEMORY, CODE_MEMORY / 4)
        .shared("/dev/zero", "r-xs", 0, CODE_MEMORY);
    let expected = windows(windows(expected, "rw-s", CLOCK_PAGES), "rw-s", EXCHANGE_PAGES);
    area(area(windows(expected, "r--s", BOARD_PAGES), BOARD), SERIAL)
}

fn board(expected: Expectation) -> Expectation {
    let expected = windows(expected.descriptors(2, "eventfd", Access::ReadWrite), "r--s", CLOCK_PAGES);
    area(windows(windows(expected, "rw-s", EXCHANGE_PAGES), "rw-s", BOARD_PAGES), BOARD)
}

/// Registers and console streams have a view of the area each.
fn serial(expected: Expectation, shape: &Shape) -> Expectation {
    let expected = expected.descriptors(usize::from(shape.console), "socket", Access::ReadWrite);
    area(area(expected.descriptors(2, "eventfd", Access::ReadWrite), SERIAL), SERIAL)
}

/// Files can only be read: the keeper opened them anew.
fn loader(expected: Expectation, shape: &Shape) -> Expectation {
    expected
        .descriptors(1, "/memfd:kernel", Access::Read)
        .descriptors(usize::from(shape.initrd), "/memfd:initrd", Access::Read)
        .shared("/memfd:ram", "rw-s", 0, shape.ram)
}
