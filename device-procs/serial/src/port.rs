//! The UART joined with its window and its console: serves the guest, moves bytes, keeps the interrupt line.
//!
//! What happens when is settled by three rules. A byte that the guest sends goes into the output ring with the commit
//! of its write, and leaves when the console takes it; if the ring is full, the write (and everything behind it) waits
//! while a console is connected, and the oldest bytes are dropped, counted, while none is. A byte that comes in is in the input
//! ring first, and in the FIFO with a commit. The interrupt is signalled after the commit that raised it. ([`saved`] takes all
//! of it along.)

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use doorbell::layout::{IN_RING_LEN, MAX_POSITION, OUT_RING_LEN};
use doorbell::{Access, Answer, Device, DeviceArea, EventFd, InStream, Operation, OutStream, Progress, Result, Server};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::uart::Uart;

/// Layout of [`State`]; changes with it.
pub const STATE_VERSION: u64 = 2;

/// Room in the output ring that is never used: a round of accesses may put this many bytes before its commit, and none
/// of them may overwrite a byte that the committed state still counts. 256 posted writes and 64 requests of 8 bytes.
const UNCOMMITTED: u64 = 1024;

/// Output beyond which a guest is held up, or with nobody connected its oldest output dropped. The rest of the ring is for
/// [`UNCOMMITTED`] and for what a saved state has beyond this ([`saved`]).
const FULL: u64 = OUT_RING_LEN - (16 << 10);

/// "No origin chosen yet".
const NO_ORIGIN: u64 = u64::MAX;

/// Everything that outlives the process.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// Input bytes that went from the ring into the FIFO.
    taken: u64,
    /// Output bytes that the guest sent.
    produced: u64,
    /// Output bytes below this position are gone: sent, or dropped.
    floor: u64,
    /// Output bytes that were dropped.
    dropped: u64,
    /// Where in a log file output position 0 is.
    origin: u64,
    /// Not 0: a saved state has the output that is under way, so it is left in the ring until the next run.
    held: u64,
    uart: Uart,
}

impl State {
    /// A port that was never used.
    pub const FRESH: Self =
        Self { taken: 0, produced: 0, floor: 0, dropped: 0, origin: NO_ORIGIN, held: 0, uart: Uart::RESET };
}

/// Where the bytes go and come from.
#[derive(Debug)]
enum Console {
    /// Nowhere, until somebody connects.
    None,
    /// A connected stream socket. Each direction ends by itself: a peer that sends no more may still listen.
    Stream { socket: OwnedFd, input: bool, output: bool },
    /// A regular file, written at the output position.
    File(OwnedFd),
}

/// Counters for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the guest sent.
    pub produced: u64,
    /// Bytes that have left for the console.
    pub sent: u64,
    /// Bytes that were dropped because nobody was connected.
    pub dropped: u64,
    /// Bytes that came from the console.
    pub received: u64,
    /// Bytes that the guest could read so far.
    pub taken: u64,
    /// Rising edges of the interrupt line.
    pub interrupts: u64,
    /// Posted writes served by this incarnation.
    pub posted: u64,
    /// Requests answered by this incarnation.
    pub requests: u64,
}

/// What a round found that the supervisor must hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The console's peer is gone; a new one may be attached.
    pub console_closed: bool,
    /// Why the console failed, if it did not just go.
    pub console_error: Option<Errno>,
    /// The ring's indices were impossible.
    pub attack: bool,
}

/// The device proper: what [`Server`] calls.
#[derive(Debug)]
struct Serial {
    /// The window area once more: accesses put bytes into its rings.
    area: DeviceArea,
    output: OutStream,
    input: InStream,
    irq: EventFd,
    /// Edges that were signalled, once known.
    signalled: Option<u64>,
    console: Console,
    /// After a load, until the next run: the interrupt is not signalled.
    silent: bool,
    /// Accesses have no effect: what a run that is over has left in the ring is passed over.
    discarding: bool,
    irq_failed: Option<doorbell::Error>,
}

impl Serial {
    /// The oldest output byte that still matters; beyond the newest one if the engine has moved the position.
    fn start(&self, state: &State) -> u64 {
        self.output.position(&self.area).max(state.floor)
    }

    /// Whether output waits for the console rather than being dropped.
    fn keeps(&self) -> bool {
        matches!(self.console, Console::File(_) | Console::Stream { output: true, .. })
    }

    /// Puts one byte into the output ring, which has room.
    fn put(&self, state: &mut State, byte: u8) {
        let (start, first) = (self.start(state), (state.produced + 1).saturating_sub(FULL));
        if first > start {
            state.floor = first;
            state.dropped += first - start;
        }
        self.output.put(&self.area, state.produced, byte);
        state.produced += 1;
    }

    /// Moves input from the ring into the FIFO, if that is empty.
    fn fill(&self, state: &mut State) {
        let arrived = self.input.position(&self.area);
        let count = (state.uart.wants() as u64).min(arrived.saturating_sub(state.taken));
        for _ in 0..count {
            state.uart.receive(self.input.get(&self.area, state.taken));
            state.taken += 1;
        }
    }

    /// Brings a predecessor's state within the bounds that this code relies on; true if something was out of them.
    fn bound(&self, state: &mut State) -> bool {
        let before = *state;
        state.uart.bound();
        let arrived = self.input.position(&self.area);
        if arrived.checked_sub(state.taken).is_none_or(|waiting| waiting > IN_RING_LEN) {
            state.taken = arrived;
        }
        state.floor = state.floor.min(MAX_POSITION);
        state.dropped = state.dropped.min(state.floor);
        let start = self.start(state);
        if state.produced.checked_sub(start).is_none_or(|waiting| waiting > OUT_RING_LEN) {
            state.produced = start;
            state.floor = start;
        }
        before.as_bytes() != state.as_bytes()
    }
}

impl Device for Serial {
    type State = State;

    fn access(&mut self, state: &mut State, access: &Access) -> Answer {
        if self.discarding {
            return Answer::Done(u64::MAX);
        }
        // An access wider than a byte is one to each of the registers in turn, as on the ISA bus.
        let registers = (0..access.width).map(|n| ((access.address.wrapping_add(n.into())) & 7) as u8);
        match access.operation {
            Operation::Read => {
                let mut value = 0;
                for (n, register) in registers.enumerate() {
                    value |= u64::from(state.uart.read(register)) << (8 * n);
                    self.fill(state);
                }
                Answer::Done(value)
            }
            Operation::Write => {
                // The engine can move the position beyond what was sent; then nothing waits.
                let waiting = state.produced.saturating_sub(self.start(state));
                let full = waiting + u64::from(access.width) > FULL;
                if full && self.keeps() && registers.clone().any(|r| state.uart.transmits(r)) {
                    return Answer::Stall;
                }
                for (n, register) in registers.enumerate() {
                    if let Some(byte) = state.uart.write(register, (access.value >> (8 * n)) as u8) {
                        self.put(state, byte);
                    }
                    // Emptying the FIFO or leaving loopback makes room for input.
                    self.fill(state);
                }
                Answer::Done(0)
            }
            Operation::ConfigWrite | Operation::InterruptAcknowledge => Answer::Done(u64::MAX),
        }
    }

    fn publish(&mut self, state: &State, area: &DeviceArea) {
        for register in 0..doorbell::uart::REGISTERS {
            let (value, ask) = state.uart.peek(register as u8);
            area.set_shadow(register, value.into(), ask);
        }
        area.set_level(0, state.uart.level());
        if self.silent {
            self.signalled = None;
            return;
        }
        // A successor cannot know what was signalled: once too often is a spurious interrupt, once too few a lost one.
        let rose = self.signalled.map_or(state.uart.level(), |edges| edges != state.uart.edges);
        if rose && let Err(error) = self.irq.ring() {
            self.irq_failed.get_or_insert(error);
        }
        self.signalled = Some(state.uart.edges);
    }
}

/// How the first console is given.
#[derive(Debug)]
pub enum Backend {
    /// None yet: output is kept, the oldest dropped, until one is attached.
    None,
    /// A connected stream socket.
    Stream(OwnedFd),
    /// A regular file and its length before this VM's first byte.
    File(OwnedFd, u64),
}

/// The port: device, window and console.
#[derive(Debug)]
pub struct Port {
    server: Server<State>,
    serial: Serial,
    kick: EventFd,
    /// Input is left in the console's socket.
    paused: bool,
    /// The first round of a run is still to come.
    resumed: bool,
    posted: u64,
    requests: u64,
}

impl Port {
    /// Takes the port over: as its first process or as a successor. `areas` is the device's area, mapped twice; `kick` is
    /// rung by the engine, `irq` by this process. Starts paused: registers are served, input waits for [`Port::run`].
    ///
    /// # Errors
    /// The committed state is of another version.
    pub fn attach(areas: [DeviceArea; 2], kick: EventFd, irq: EventFd, backend: Backend) -> Result<Self> {
        let [area, second] = areas;
        let (output, input) = (OutStream::attach(&second), InStream::attach(&second));
        let origin = if let Backend::File(_, len) = backend { Some(len) } else { None };
        let console = match backend {
            Backend::None => Console::None,
            Backend::Stream(socket) => Console::Stream { socket, input: true, output: true },
            Backend::File(file, _) => Console::File(file),
        };
        let mut serial = Serial {
            area: second,
            output,
            input,
            irq,
            signalled: None,
            console,
            silent: false,
            discarding: false,
            irq_failed: None,
        };
        let (mut server, successor) = Server::attach(area, STATE_VERSION, State::FRESH)?;
        if successor {
            serial.bound(server.state_mut());
        }
        if let Some(origin) = origin
            && server.state().origin == NO_ORIGIN
        {
            let state = server.state_mut();
            state.origin = origin.wrapping_sub(serial.start(state));
        }
        server.recover(&mut serial);
        let mut port = Self { server, serial, kick, paused: true, resumed: false, posted: 0, requests: 0 };
        port.take_input();
        Ok(port)
    }

    /// From the next round on input is taken from the console, and what a saved state held is let go.
    pub fn run(&mut self) {
        self.paused = false;
        self.resumed |= self.server.state().held != 0;
    }

    /// Whether input is left where it is.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Signals the interrupt line of a state that was loaded, and lets its input go on.
    fn resume(&mut self) {
        self.serial.silent = false;
        self.server.update(&mut self.serial, |state, _| state.held = 0);
        self.take_input();
    }

    /// Finishes what is under way and leaves further input where it is.
    ///
    /// # Errors
    /// As [`Port::round`].
    pub fn pause(&mut self) -> Result<Report> {
        self.paused = true;
        self.round()
    }

    /// Power-on state. What a run that is over has posted is carried out, or passed over where it would have to wait;
    /// output and input that are under way stay.
    ///
    /// # Errors
    /// As [`Port::round`].
    pub fn reset(&mut self) -> Result<Report> {
        let mut report = self.round()?;
        self.serial.discarding = true;
        let rest = self.round();
        self.serial.discarding = false;
        report.merge(rest?);
        self.server.update(&mut self.serial, |state, _| state.uart.reset());
        self.take_input();
        Ok(report)
    }

    /// A new peer of the console takes the place of the old one, if there is one. It gets the output that was kept.
    pub fn attach_console(&mut self, socket: OwnedFd) {
        self.serial.console = Console::Stream { socket, input: true, output: true };
    }

    /// Does everything that can be done now: serves the guest, moves output and input, until nothing moves.
    ///
    /// # Errors
    /// The interrupt's eventfd cannot be rung.
    pub fn round(&mut self) -> Result<Report> {
        let mut report = Report::default();
        if std::mem::take(&mut self.resumed) {
            self.resume();
        }
        loop {
            let served = self.server.serve(&mut self.serial);
            self.posted += served.posted;
            self.requests += u64::from(served.requests);
            report.attack |= served.corrupt;
            let sent = self.move_output(&mut report);
            let received = self.move_input(&mut report);
            if let Some(error) = self.serial.irq_failed.take() {
                return Err(error);
            }
            // What was stalled may go on once output has moved.
            if !(served.posted > 0 || served.requests > 0 || sent || received) {
                return Ok(report);
            }
        }
    }

    /// Sends what the console takes; true if something moved.
    fn move_output(&mut self, report: &mut Report) -> bool {
        let Self { server, serial, .. } = self;
        let state = *server.state();
        if state.held != 0 {
            return false;
        }
        let mut moved = false;
        loop {
            let from = serial.start(&state);
            if from >= state.produced {
                return moved;
            }
            let result = match &serial.console {
                Console::Stream { socket, output: true, .. } => {
                    serial.output.send(&serial.area, socket, from, state.produced)
                }
                Console::File(file) => serial.output.write_file(&serial.area, file, state.origin, from, state.produced),
                _ => return moved,
            };
            match result {
                Ok(Progress::Moved(_)) => moved = true,
                Ok(Progress::Blocked) => return moved,
                Ok(Progress::Closed) => {
                    self.end_output(report);
                    // What waited for this console need not wait any more.
                    return true;
                }
                Err(errno) => {
                    serial.console = Console::None;
                    report.console_closed = true;
                    report.console_error = Some(errno);
                    return true;
                }
            }
        }
    }

    /// Receives what there is, if the guest may have it; true if something moved.
    fn move_input(&mut self, report: &mut Report) -> bool {
        if self.paused {
            return false;
        }
        let Console::Stream { socket, input: input @ true, output } = &mut self.serial.console else { return false };
        let taken = self.server.state().taken;
        match self.serial.input.receive(&self.serial.area, &*socket, taken) {
            Ok(Progress::Moved(_)) => {
                self.take_input();
                true
            }
            Ok(Progress::Blocked) => false,
            Ok(Progress::Closed) => {
                *input = false;
                if hung_up(socket.as_fd()) {
                    *output = false;
                }
                self.check_ended(report);
                true
            }
            Err(errno) => {
                self.serial.console = Console::None;
                report.console_closed = true;
                report.console_error = Some(errno);
                true
            }
        }
    }

    /// Moves input into the FIFO if that is empty and there is some.
    fn take_input(&mut self) {
        let state = self.server.state();
        if state.uart.wants() > 0 && self.serial.input.position(&self.serial.area) > state.taken {
            let Self { server, serial, .. } = self;
            // The working copy is changed here and committed by `update`.
            let mut next = *server.state();
            serial.fill(&mut next);
            server.update(serial, |state, _| *state = next);
        }
    }

    /// The peer takes no more output.
    fn end_output(&mut self, report: &mut Report) {
        if let Console::Stream { output, .. } = &mut self.serial.console {
            *output = false;
        }
        self.check_ended(report);
    }

    /// Lets the console go once both directions have ended.
    fn check_ended(&mut self, report: &mut Report) {
        if matches!(self.serial.console, Console::Stream { input: false, output: false, .. }) {
            self.serial.console = Console::None;
            report.console_closed = true;
        }
    }

    /// The eventfd that the engine rings.
    pub fn kick(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// The console to poll and for what, if it is to be polled. Hang-up is reported whether asked for or not.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let Console::Stream { socket, input, output } = &self.serial.console else { return None };
        let state = self.server.state();
        let arrived = self.serial.input.position(&self.serial.area);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, *input && !self.paused && arrived.saturating_sub(state.taken) < IN_RING_LEN);
        flags.set(PollFlags::POLLOUT, *output && state.held == 0 && self.serial.start(state) < state.produced);
        // With nothing to wait for, only the end matters; one that was seen already would wake at once, for ever.
        (!flags.is_empty() || *output).then_some((socket.as_fd(), flags))
    }

    /// What polling the console returned.
    pub fn console_ready(&mut self, flags: PollFlags, report: &mut Report) {
        if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
            // Both directions are shut; what the peer sent before can still be read.
            self.end_output(report);
        }
    }

    /// Prepares to sleep; answers whether there is nothing to do.
    pub fn fall_asleep(&self) -> bool {
        self.server.fall_asleep()
    }

    /// After sleeping; `kicked`: the engine's eventfd is readable.
    ///
    /// # Errors
    /// The kick is no eventfd.
    pub fn wake_up(&mut self, kicked: bool) -> Result<()> {
        self.server.wake_up();
        if kicked {
            self.kick.drain()?;
        }
        Ok(())
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        let state = self.server.state();
        let sent = self.serial.start(state) - state.dropped.min(self.serial.start(state));
        Counts {
            produced: state.produced,
            sent,
            dropped: state.dropped,
            received: self.serial.input.position(&self.serial.area),
            taken: state.taken,
            interrupts: state.uart.edges,
            posted: self.posted,
            requests: self.requests,
        }
    }
}

impl Report {
    /// Adds what another round found.
    pub fn merge(&mut self, other: Report) {
        self.console_closed |= other.console_closed;
        self.attack |= other.attack;
        self.console_error = self.console_error.or(other.console_error);
    }
}

/// Whether the peer has shut both directions.
fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::new(socket, PollFlags::empty())];
    let ready = ppoll(&mut poll, Some(TimeSpec::new(0, 0)), None);
    ready.is_ok_and(|n| n > 0)
}

pub mod saved;

#[cfg(test)]
mod tests;
