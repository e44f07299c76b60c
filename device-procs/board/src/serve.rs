//! The chipset on shared memory: register windows in, routes, messages and shadows out.
//!
//! The one idea: whatever changed the chipset (an access, a line, an end of interrupt, time), everything that follows from
//! its new state is published before the guest gets its answer, in one function, [`Board::flush`]. Publishing compares with
//! what was published last, so it costs next to nothing when nothing changed.
//!
//! A message that the board itself sends (its own lines, level-triggered pins) goes through a row of the route table that
//! no device's line uses: the row of pin `n` is [`DELIVER`] + n, it always holds the pin's message, and raising that line
//! makes the engine send it. The row is never emptied: a message that is under way while the guest masks the pin still
//! arrives, as on a bus, and its end of interrupt comes back.
//!
//! While paused the board is quiet: what happens all the same (a posted write that it finds, the power button) changes
//! registers and shadows, but nothing is raised and nobody is rung until the next run. Lines that it has raised and the
//! engine has not taken are taken back by [`Board::pause`], so that each message has one owner when states are saved: the
//! board, with what it keeps back, or the engine, with what it took.

use doorbell::{Access, Answer, Device, DeviceArea, EventFd, Header, Operation, Route, Space, board as cell};
use machine_model::Machine;
use state::StateError;
use wire::state_board_capnp::board_state;

use crate::chipset::{Chipset, Event};
use crate::ioapic::{Message, PINS, Pins};

/// First of the lines through which the board sends the IOAPIC's messages.
pub const DELIVER: usize = 128;

/// What has been done, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses served: reads, writes, configuration writes.
    pub accesses: u64,
    /// Interrupt-acknowledge cycles of the PIC.
    pub acknowledges: u64,
    /// Lines that the engine forwarded.
    pub forwarded: u64,
    /// Ends of level-triggered interrupts.
    pub ended: u64,
    /// IOAPIC messages sent by the board.
    pub messages: u64,
    /// Changes of the PIC's output.
    pub intr_changes: u64,
}

/// Whether accesses are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are.
    Serving,
    /// The guest has asked for the end of this run: the vCPU that did, and any other, waits.
    Ended,
    /// What a run that is over has left in the ring is dropped.
    Discarding,
}

/// The board as a device with registers.
#[derive(Debug)]
pub struct Board {
    chipset: Chipset,
    machine: &'static Machine,
    header: Header,
    notify: EventFd,
    mode: Mode,
    event: Option<Event>,
    routes: [Option<Route>; PINS],
    messages: [Option<Message>; PINS],
    /// Pins whose message is to be sent as soon as the board is not quiet.
    undelivered: Pins,
    /// Paused: nothing is raised.
    quiet: bool,
    /// What wakes the suspended guest has been reported.
    wake_told: bool,
    /// The engine has to be rung.
    ring: bool,
    counts: Counts,
}

impl Board {
    /// A board after power-on. `header` must be mapped for [`doorbell::Role::Board`]; `notify` wakes the engine;
    /// `wall_seconds` is UTC at guest time zero.
    pub fn new(machine: &'static Machine, header: Header, notify: EventFd, wall_seconds: i64) -> Self {
        let now = header.guest_ns();
        Self {
            chipset: Chipset::new(machine, wall_seconds, now),
            machine,
            header,
            notify,
            mode: Mode::Serving,
            event: None,
            routes: [None; PINS],
            messages: [None; PINS],
            undelivered: 0,
            quiet: false,
            wake_told: false,
            ring: false,
            counts: Counts::default(),
        }
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the guest has asked for an end of its run, so that nothing is served until [`Board::go_on`] or
    /// [`Board::reset`].
    pub fn has_ended(&self) -> bool {
        self.mode == Mode::Ended
    }

    /// Takes the guest's request to the machine, or what wakes a suspended guest (once for each run; a quiet board keeps it
    /// for the next).
    pub fn take_event(&mut self) -> Option<Event> {
        if self.event.is_some() {
            return self.event.take();
        }
        let cause = self.chipset.wake_cause().filter(|_| !self.quiet && !self.wake_told)?;
        self.wake_told = true;
        Some(Event::Wake(cause))
    }

    /// The machine runs: for the first time, after a pause, or in spite of the guest's request. A vCPU that still waits
    /// makes it again. Flush afterwards.
    pub fn go_on(&mut self) {
        self.mode = Mode::Serving;
        self.quiet = false;
        self.wake_told = false;
    }

    /// From now on, until [`Board::go_on`], nothing is raised, and nothing is left where the engine would still take it.
    /// Serve before, flush afterwards.
    pub fn pause(&mut self) {
        self.quiet = true;
        let Self { header, undelivered, .. } = self;
        header.take_raised(|line| {
            if let Some(pin) = line.checked_sub(DELIVER).filter(|pin| *pin < PINS) {
                *undelivered |= 1 << pin;
            }
        });
    }

    /// Prepares [`Board::save`] of a quiet board: what the guest had posted is carried out when the ring is served, even if the
    /// guest has asked for the end of its run (see [`crate::saved::settle`]).
    pub fn settle(&mut self) {
        if self.mode == Mode::Ended {
            self.mode = Mode::Serving;
        }
    }

    /// Fills in the saved state of a quiet, settled board.
    pub fn save(&self, to: board_state::Builder<'_>) {
        self.chipset.save(self.undelivered, to);
    }

    /// The chipset of a saved state, for [`Board::replace`].
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(&self, from: board_state::Reader<'_>) -> Result<Chipset, StateError> {
        Chipset::load(self.machine, from)
    }

    /// Puts a loaded chipset in the place of what was: everything that was under way for the old one is dropped. The ring
    /// has been served with [`Board::discard`]. Flush afterwards.
    pub fn replace(&mut self, chipset: Chipset) {
        self.drop_exchange();
        self.chipset = chipset;
        self.routes = [None; PINS];
        self.messages = [None; PINS];
        self.event = None;
        self.wake_told = false;
        self.mode = Mode::Serving;
        // Whatever the engine knew of the board has changed.
        self.ring = true;
    }

    fn drop_exchange(&mut self) {
        self.header.take_ended(|_| ());
        self.header.take_forwarded(|_| ());
        self.header.take_raised(|_| ());
        self.undelivered = 0;
    }

    /// The machine leaves S3; answers whether it was in it. Flush afterwards.
    pub fn wake(&mut self) -> bool {
        self.wake_told = false;
        self.chipset.wake()
    }

    /// From now on, until [`Board::reset`], accesses have no effect and read as all ones: to be called, and the ring
    /// served, when all vCPUs are parked for a reset.
    pub fn discard(&mut self) {
        self.mode = Mode::Discarding;
    }

    /// To the state after reset. Flush afterwards.
    pub fn reset(&mut self) {
        self.drop_exchange();
        self.chipset.reset(self.header.guest_ns());
        self.event = None;
        self.wake_told = false;
        self.mode = Mode::Serving;
    }

    /// Someone pressed the power button. Flush afterwards.
    pub fn power_button(&mut self) {
        self.wake_told = false;
        self.chipset.power_button(self.header.guest_ns());
    }

    /// Takes what the engine has put on the exchange page; answers whether there was anything. Flush afterwards.
    pub fn take_exchange(&mut self) -> bool {
        let Self { chipset, header, counts, .. } = self;
        let before = (counts.ended, counts.forwarded);
        // Ends first: a line that was raised again after its end must not be taken for the old one.
        header.take_ended(|vector| {
            counts.ended += 1;
            chipset.end_of_interrupt(vector as u8);
        });
        header.take_forwarded(|line| {
            counts.forwarded += 1;
            chipset.line_rose(line);
        });
        before != (counts.ended, counts.forwarded)
    }

    /// Lets guest time pass: timers that are due raise their lines. Flush afterwards.
    pub fn advance(&mut self) {
        self.chipset.advance(self.header.guest_ns());
    }

    /// How long the board may sleep, in nanoseconds, before [`Board::advance`] has something to do; `None`: until rung.
    /// While guest time stands: until the next look at whether it runs again.
    pub fn sleep(&self) -> Option<u64> {
        let deadline = self.chipset.deadline()?;
        match self.header.clock() {
            doorbell::ClockState::Running(_) => Some(deadline.saturating_sub(self.header.guest_ns())),
            // Nobody rings when the clock starts.
            doorbell::ClockState::Paused(_) => Some(CLOCK_LOOK),
        }
    }

    /// Publishes everything that follows from the chipset's state and rings the engine if it must know.
    ///
    /// # Errors
    /// The engine's eventfd cannot be rung.
    pub fn flush(&mut self, area: &DeviceArea) -> doorbell::Result<()> {
        self.publish_all(area);
        if !self.quiet && std::mem::take(&mut self.ring) {
            self.notify.ring()?;
        }
        Ok(())
    }

    fn publish_all(&mut self, area: &DeviceArea) {
        let out = self.chipset.take_outputs();
        if let Some(event) = out.event {
            self.event.get_or_insert(event);
        }
        for (index, function) in self.chipset.pci().functions().iter().enumerate().take(32) {
            if out.functions_changed >> index & 1 != 0 {
                // The rest of the page is zero, as is configuration space from 256 on.
                area.write_shadow_page(index as u16 + 1, 0, function.bytes());
                area.set_function(index, Some(function.bdf()));
            }
        }
        for (cell, value, ask) in self.chipset.shadows() {
            area.set_shadow(cell, value, ask);
        }
        if out.routes_changed {
            self.publish_routes();
        }
        self.undelivered |= out.deliver;
        let deliver = if self.quiet { 0 } else { std::mem::take(&mut self.undelivered) };
        for pin in (0..PINS).filter(|pin| deliver >> pin & 1 != 0) {
            self.header.raise(DELIVER + pin);
            self.counts.messages += 1;
            self.ring = true;
        }
        if self.header.set_extint(self.chipset.intr()) {
            self.counts.intr_changes += 1;
            self.ring = true;
        }
    }

    fn publish_routes(&mut self) {
        let timer = usize::from(self.machine.interrupts.gsi_of_isa(self.machine.interrupts.timer_irq));
        for pin in 0..PINS {
            let gsi = pin as u8;
            let message = self.chipset.message(gsi);
            if let (Some(slot), Some(message)) = (self.messages.get_mut(pin), message)
                && *slot != Some(message)
            {
                *slot = Some(message);
                self.header.set_route(DELIVER + pin, Route::Msi { address: message.address, data: message.data });
            }
            // No device has the timer's pin.
            if pin == timer {
                continue;
            }
            let route = match self.chipset.edge_message(gsi) {
                Some(Message { address, data }) => Route::Msi { address, data },
                None => Route::Forward,
            };
            if let Some(slot) = self.routes.get_mut(pin)
                && *slot != Some(route)
            {
                *slot = Some(route);
                self.header.set_route(pin, route);
            }
        }
    }

    fn carry_out(&mut self, access: &Access) -> u64 {
        let now = self.header.guest_ns();
        let Access { operation, space, address, width, value, .. } = *access;
        match (operation, space) {
            (Operation::InterruptAcknowledge, _) => {
                self.counts.acknowledges += 1;
                self.chipset.advance(now);
                return self.chipset.interrupt_acknowledge().into();
            }
            (Operation::ConfigWrite, _) => self.chipset.write_config(address, width, value),
            (Operation::Read, Space::Port) => {
                self.counts.accesses += 1;
                return self.chipset.read_port(address as u16, width, now);
            }
            (Operation::Write, Space::Port) => self.chipset.write_port(address as u16, width, value, now),
            (Operation::Read, Space::Memory) => {
                self.counts.accesses += 1;
                return self.chipset.read_memory(address, width, now);
            }
            (Operation::Write, Space::Memory) => self.chipset.write_memory(address, width, value, now),
        }
        self.counts.accesses += 1;
        0
    }
}

/// How often a board that waits for a timer looks whether a stopped guest clock runs again, nanoseconds.
const CLOCK_LOOK: u64 = 20_000_000;

impl Device for Board {
    /// Nothing: a board's death ends its VM.
    type State = ();

    fn access(&mut self, (): &mut (), access: &Access) -> Answer {
        match self.mode {
            Mode::Ended => return Answer::Stall,
            Mode::Discarding => return Answer::Done(u64::MAX),
            Mode::Serving => {}
        }
        // The vCPU that has put the machine to sleep gets no answer any more. The others are served until they stop, too.
        let control = access.operation == Operation::Write
            && access.space == Space::Port
            && self.chipset.is_sleep_control(access.address as u16, access.width);
        if control && self.chipset.suspended() {
            return Answer::Stall;
        }
        let value = self.carry_out(access);
        match self.chipset.take_event() {
            Some(Event::Suspend) => {
                self.event.get_or_insert(Event::Suspend);
                self.wake_told = false;
                Answer::Stall
            }
            Some(event) => {
                self.event.get_or_insert(event);
                self.mode = Mode::Ended;
                Answer::Stall
            }
            None => Answer::Done(value),
        }
    }

    fn publish(&mut self, (): &(), area: &DeviceArea) {
        self.publish_all(area);
    }
}

/// Writes what never changes: the PM timer's formula.
pub fn publish_constants(machine: &Machine, area: &DeviceArea) {
    area.set_formula(cell::PM_TIMER, Some(&cell::pm_timer(machine)));
}

#[cfg(test)]
mod tests;
