//! What all threads of the engine share: memory, windows, interrupt delivery, the guest's clock, and the parking gate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cpu_model::Model;
use doorbell::layout::MAX_LINES;
use doorbell::{DeviceClient, Header, Route};
use guest_x86::runner::COUNTERS;
use mem::Memory;
use vcpu_devices::{Delivery, Destination, Inbox, Message, inbox};

use crate::orders::Orders;
use crate::park::{Gate, LOOK};

/// Counters of one vCPU, written by its thread and read by anybody.
#[derive(Debug, Default)]
pub struct VcpuCounters {
    /// Guest instructions completed.
    pub instructions: AtomicU64,
    /// Blocks lifted.
    pub lifted: AtomicU64,
    /// Blocks dropped because their bytes changed.
    pub dropped: AtomicU64,
    /// Interrupts delivered.
    pub interrupts: AtomicU64,
    /// Times halted.
    pub halts: AtomicU64,
    /// Nanoseconds spent neither halted nor parked.
    pub run_ns: AtomicU64,
    /// Accesses to registers of devices.
    pub registers: RegisterPath,
    /// Accesses to registers of its local APIC.
    pub apic: RegisterPath,
    /// What the runner counts, in the order of [`COUNTERS`].
    pub runner: [AtomicU64; COUNTERS.len()],
}

/// What a vCPU's accesses to registers have cost.
#[derive(Debug, Default)]
pub struct RegisterPath {
    /// Accesses.
    pub accesses: AtomicU64,
    /// Nanoseconds in them, waiting for the device included.
    pub ns: AtomicU64,
}

impl RegisterPath {
    /// An access has taken the time since `start`. For the vCPU's thread alone.
    pub fn add(&self, start: Instant) {
        add(&self.accesses, 1);
        add(&self.ns, start.elapsed().as_nanos() as u64);
    }
}

/// Add to a counter that only this thread writes.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl VcpuCounters {
    /// Names and values, for statistics: always the same names in the same order.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let own = [
            ("blocks-lifted", &self.lifted),
            ("blocks-dropped", &self.dropped),
            ("interrupts", &self.interrupts),
            ("halts", &self.halts),
            ("register-accesses", &self.registers.accesses),
            ("register-ns", &self.registers.ns),
            ("apic-accesses", &self.apic.accesses),
            ("apic-ns", &self.apic.ns),
        ];
        let all = own.into_iter().chain(COUNTERS.into_iter().zip(&self.runner));
        all.map(|(name, value)| (name, value.load(Ordering::Relaxed)))
    }
}

/// The machine that the vCPUs run in.
#[derive(Debug)]
pub struct Machine {
    /// RAM and marks.
    pub memory: Arc<Memory>,
    /// The shared header: clock, routes, exchange with the board.
    pub header: Arc<Header>,
    /// Register windows.
    pub windows: doorbell::Bus,
    /// The board: end of interrupts, forwarded lines, interrupt acknowledge.
    pub board: Arc<DeviceClient>,
    /// Every device, to interrupt waits.
    pub clients: Vec<Arc<DeviceClient>>,
    /// CPU model.
    pub model: &'static Model,
    /// Per vCPU: what waits for it.
    pub inboxes: Vec<Inbox>,
    /// Per vCPU: counters.
    pub counters: Vec<VcpuCounters>,
    /// Pieces of RAM that were given a huge page of the host.
    pub huge_pages: AtomicU64,
    /// Who runs.
    pub gate: Gate,
    /// What vCPUs have each other do.
    pub orders: Orders,
    /// Who delivers interrupts of lines, and what is held back; locked for as long as one is on its way.
    pub delivery: Mutex<Delivering>,
}

/// The delivery of interrupt lines. While the machine is paused, the board may have been saved: a line that rises then, and
/// that the board is to decide about, is the engine's until the machine runs on.
#[derive(Debug)]
pub struct Delivering {
    /// Lines for the board are held back.
    pub paused: bool,
    /// Those, a bit for each.
    pub held: [u64; MAX_LINES / 64],
}

impl Default for Delivering {
    /// A machine that does not run yet.
    fn default() -> Self {
        Delivering { paused: true, held: [0; MAX_LINES / 64] }
    }
}

impl Delivering {
    /// Hold `line` back; one that does not exist is nothing.
    pub fn hold(&mut self, line: usize) {
        if let Some(word) = self.held.get_mut(line / 64) {
            *word |= 1 << (line % 64);
        }
    }

    /// The lines held back, ascending.
    pub fn lines(&self) -> impl Iterator<Item = usize> {
        (0..MAX_LINES).filter(|line| self.held[line / 64] >> (line % 64) & 1 != 0)
    }
}

/// Frequency of the guest's TSC: one tick a nanosecond, as CPUID leaf 15h of the models says.
pub const TSC_HZ: u64 = 1_000_000_000;

impl Machine {
    /// Deliver an interrupt message; `sender` is the APIC id of a vCPU that sent it.
    pub fn deliver(&self, m: &Message, sender: Option<u32>) {
        inbox::deliver(&self.inboxes, m, sender, |i| {
            if let Some(r) = self.gate.request(i) {
                r.ask(LOOK);
            }
        });
    }

    /// The lock under which lines are delivered.
    pub fn delivering(&self) -> MutexGuard<'_, Delivering> {
        // A thread that panicked ends the process.
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines for the board are held back from now on.
    pub fn hold_lines(&self) {
        self.delivering().paused = true;
    }

    /// The machine runs on: lines that were held back follow their routes.
    pub fn release_lines(&self) {
        let mut delivering = self.delivering();
        let held: Vec<usize> = delivering.lines().collect();
        *delivering = Delivering { paused: false, ..Delivering::default() };
        for line in held {
            self.line_rose(line, &mut delivering);
        }
    }

    /// Lines that are held back instead of those that were: of a loaded state, or none.
    pub fn replace_held(&self, lines: &[u16]) {
        let mut delivering = self.delivering();
        delivering.held = Default::default();
        for line in lines {
            delivering.hold(usize::from(*line));
        }
    }

    /// An interrupt line has risen: follow its route.
    pub fn line_rose(&self, line: usize, delivering: &mut Delivering) {
        match self.header.route(line).1 {
            Route::None => {}
            Route::Msi { address, data } => self.message(address, data),
            Route::Forward if delivering.paused => delivering.hold(line),
            Route::Forward => {
                self.header.forward(line);
                // A board that cannot be rung is a board that has gone, which its exit says.
                let _ = self.board.ring();
            }
        }
    }

    fn message(&self, address: u64, data: u32) {
        if let Some(m) = Message::from_msi(address, data) {
            self.deliver(&m, None);
        }
    }

    /// The board has rung: lines that it raised itself, and its external interrupt output.
    pub fn board_rang(&self) {
        self.header.take_raised(|line| {
            if let (_, Route::Msi { address, data }) = self.header.route(line) {
                self.message(address, data);
            }
        });
        if self.header.extint() {
            let all = Message { destination: Destination::All, delivery: Delivery::ExtInt, vector: 0, level: false };
            self.deliver(&all, None);
        }
    }

    /// Interrupt every wait for a device, so that the vCPUs see what they are asked.
    pub fn wake_waits(&self) {
        for client in &self.clients {
            for vcpu in 0..self.inboxes.len() {
                client.wake(vcpu as u16);
            }
        }
    }
}
