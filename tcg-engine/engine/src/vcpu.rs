//! One vCPU: its thread, its run loop, and everything that decides what runs next.
//!
//! The loop runs blocks back to back. Between blocks it looks at one word (requests of others) and, every so often, at the
//! clock; whatever asks for attention — an interrupt, a pause, a timer — goes through those two. No lock of the engine is
//! held across a register access except the vCPU's own, which is the definition of running.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use code::CodeMemory;
use guest_memory::VcpuState;
use guest_x86::{Cpu, Delivered, Exception, Runner, Why};
use mem::{Mirror, Tlb};
use vcpu_devices::inbox;

use crate::bus::VcpuBus;
use crate::control::Event;
use crate::machine::{Machine, VcpuCounters, add};
use crate::park::{BEAT, HARVEST, LOOK, ORDER, PARK, Request};
use crate::stint::Stint;

/// Turns between two updates of the time that a vCPU has run.
const TURNS_PER_ACCOUNT: u32 = 256;

/// Whether a vCPU executes, and if not, what it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// It executes, or is halted by HLT.
    Runnable,
    /// It waits for a start-up message.
    WaitForSipi,
    /// A triple fault: it waits for a reset.
    Shutdown,
}

/// A vCPU.
pub struct Vcpu {
    /// Words, system state, TLB, blocks and bus.
    pub runner: Runner<VcpuBus>,
    /// What it does.
    pub run: Run,
    /// An NMI waits to be taken.
    pub nmi: bool,
    /// Loaded with the state: an interrupt that was acknowledged or an exception that was raised, and not delivered. It is
    /// delivered before the next instruction.
    pub injected: Option<Exception>,
    /// A triple fault that came with a loaded state has to be reported.
    announce: bool,
    /// Something may be deliverable: look before each block, since the guest may hold it back for a moment only.
    held: bool,
    stint: Stint,
    /// What the next vCPU [apart](Vcpu::apart) looks its accesses up in.
    pub spare: Option<Tlb>,
}

/// What [`Vcpu::turn`] asks of the loop.
enum Turn {
    /// Go on.
    On,
    /// Halted: sleep.
    Sleep,
    /// Report a triple fault.
    TripleFault,
}

impl Vcpu {
    /// After power-on.
    pub fn new(machine: &Arc<Machine>, index: u16) -> Vcpu {
        let vcpu = Self::with_tlb(machine, index, Tlb::new());
        vcpu.runner.cpu.bus.publish();
        vcpu
    }

    /// Run by emitted code, which goes to `memory`.
    ///
    /// # Errors
    /// The memory is too small.
    pub fn use_t1(&mut self, memory: CodeMemory) -> Result<(), code::Error> {
        self.runner.use_t1(memory)?;
        let bus = &self.runner.cpu.bus;
        if let (Some(request), Some(t1)) = (bus.machine.gate.request(bus.index.into()), &self.runner.t1) {
            request.set_budget(t1.budget().clone());
        }
        Ok(())
    }

    /// One that may take this one's place: after power-on, and not yet part of the machine, so that nobody knows of it.
    pub fn apart(&mut self) -> Vcpu {
        let bus = &self.runner.cpu.bus;
        Self::with_tlb(&bus.machine, bus.index, self.spare.take().unwrap_or_default())
    }

    fn with_tlb(machine: &Arc<Machine>, index: u16, tlb: Tlb) -> Vcpu {
        let bus = VcpuBus::new(machine.clone(), index);
        let cpu = Cpu::with_tlb(machine.model, machine.memory.clone(), bus, tlb);
        let run = if index == 0 { Run::Runnable } else { Run::WaitForSipi };
        Vcpu {
            runner: Runner::new(cpu),
            run,
            nmi: false,
            injected: None,
            announce: false,
            held: true,
            stint: Stint::default(),
            spare: None,
        }
    }

    /// Let `other`, which was made [apart](Vcpu::apart) of this one, take its place. This one must be parked: what waited for it is
    /// dropped, its code forgotten.
    pub fn replace(&mut self, mut other: Vcpu) {
        other.runner.succeed(&mut self.runner);
        let before = std::mem::replace(self, other);
        self.spare = Some(before.runner.cpu.tlb);
        self.bus().enter_machine();
    }

    /// The run state that was loaded.
    pub fn take_run(&mut self, run: Run) {
        self.run = run;
        self.announce = run == Run::Shutdown;
    }

    /// Its view of the machine.
    pub fn bus(&mut self) -> &mut VcpuBus {
        &mut self.runner.cpu.bus
    }

    /// Back to power-on; translated code is forgotten.
    pub fn reset(&mut self) {
        self.bus().reset();
        self.reset_processor();
        self.nmi = false;
    }

    /// Sleep: power-on, and waiting for a start, which neither interrupts nor NMIs are.
    pub fn power_down(&mut self) {
        self.reset();
        self.run = Run::WaitForSipi;
    }

    /// Wake from S3: real mode at `vector`, which is below 1 MiB. Answers false, and does nothing, if it does not wait.
    pub fn wake_at(&mut self, vector: u32) -> bool {
        if self.run != Run::WaitForSipi {
            return false;
        }
        self.nmi = false;
        self.start_at((vector >> 4) as u16, u64::from(vector & 15));
        true
    }

    /// What INIT does: the processor, not its clocks (SDM 3A, table 10-1).
    fn reset_processor(&mut self) {
        self.runner.cpu.reset(&mut self.runner.regs.0);
        self.forget_code();
        self.run = if self.bus().index == 0 { Run::Runnable } else { Run::WaitForSipi };
        (self.injected, self.announce) = (None, false);
        self.held = true;
    }

    /// Drop all translated code: RAM may have been written by others.
    pub fn forget_code(&mut self) {
        self.runner.forget_code();
    }

    /// One turn of the run loop, for tests.
    #[cfg(test)]
    pub fn step(&mut self, machine: &Machine) {
        let _ = self.turn(machine.gate.request(0).unwrap(), &machine.counters[0]);
    }

    /// Run until asked to park.
    fn run(&mut self, request: &Request, counters: &VcpuCounters, report: &dyn Fn(Event)) {
        let mut started = Instant::now();
        let mut turns = 0u32;
        self.loud();
        while request.get() & PARK == 0 {
            match self.turn(request, counters) {
                Turn::On => {
                    turns = turns.wrapping_add(1);
                    if turns.is_multiple_of(TURNS_PER_ACCOUNT) {
                        account(counters, &mut started);
                    }
                }
                Turn::TripleFault => {
                    self.run = Run::Shutdown;
                    report(Event::TripleFault(self.bus().index));
                }
                Turn::Sleep => {
                    account(counters, &mut started);
                    let until = match self.bus().deadline {
                        u64::MAX => None,
                        at => Some(Duration::from_nanos(at.saturating_sub(self.bus().now()))),
                    };
                    self.quiet();
                    request.sleep(until);
                    self.loud();
                    started = Instant::now();
                }
            }
        }
        account(counters, &mut started);
        self.quiet();
    }

    /// This vCPU touches no guest memory from now on: others need not wait for it.
    fn quiet(&mut self) {
        let bus = self.bus();
        bus.leave(VcpuState::Parked);
        bus.machine.orders.quiet(bus.index.into());
    }

    /// It may again, once it has done what it was told meanwhile.
    fn loud(&mut self) {
        let bus = self.bus();
        bus.machine.orders.loud(bus.index.into());
        bus.enter();
        self.runner.cpu.take_orders();
        self.stint.rest();
    }

    /// Look at what is asked, deliver what can be delivered, and run some blocks.
    fn turn(&mut self, request: &Request, counters: &VcpuCounters) -> Turn {
        self.runner.cpu.safepoint();
        if request.get() != 0 {
            request.clear(BEAT | HARVEST);
            if request.clear(ORDER) {
                self.runner.cpu.take_orders();
            }
            if request.clear(LOOK) {
                self.take_in();
            }
        }
        let now = self.bus().now();
        if self.bus().check_timer(now) {
            self.held = true;
        }
        if self.run != Run::Runnable {
            return if std::mem::take(&mut self.announce) { Turn::TripleFault } else { Turn::Sleep };
        }
        if let Some(e) = self.injected.take() {
            self.runner.cpu.pending = Some(e);
            if self.runner.cpu.deliver_pending(&mut self.runner.regs.0) == Delivered::Shutdown {
                return Turn::TripleFault;
            }
        }
        if self.held && self.deliver(counters) == Delivered::Shutdown {
            return Turn::TripleFault;
        }
        if self.runner.cpu.sys.halted {
            return Turn::Sleep;
        }
        let due = self.bus().deadline;
        let blocks = if self.held {
            self.stint.rest();
            1
        } else {
            self.stint.begin(now, due)
        };
        let why = self.runner.run(blocks);
        let stats = self.runner.cache.stats();
        counters.instructions.store(self.runner.instructions, Ordering::Relaxed);
        counters.lifted.store(stats.inserted, Ordering::Relaxed);
        counters.dropped.store(stats.invalidated, Ordering::Relaxed);
        for (counter, value) in counters.runner.iter().zip(self.runner.counters()) {
            counter.store(value, Ordering::Relaxed);
        }
        if let Some(check) = &mut self.runner.check {
            for text in check.differences.drain(..) {
                eprintln!("engine: emitted code differs\n{text}");
            }
        }
        if let Some(why) = self.runner.cpu.mirror.as_mut().and_then(Mirror::take_failure) {
            // Once for all vCPUs, since they share what there is too little of.
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                eprintln!("engine: no more pages come into mirrors of RAM, so programs may be slower: {why}")
            });
        }
        match why {
            Why::Budget => self.stint.used_up(),
            Why::Look => {}
            Why::Halt => add(&counters.halts, 1),
            Why::Pause => std::thread::yield_now(),
            Why::Shutdown => return Turn::TripleFault,
        }
        Turn::On
    }

    /// A parked vCPU takes in all that waits for it, as it would before its next instruction, so that its state has it: the
    /// messages of others, and a timer that is due.
    pub fn settle(&mut self) {
        self.take_in();
        let now = self.bus().now();
        self.bus().check_timer(now);
    }

    /// What others left for this vCPU.
    fn take_in(&mut self) {
        let events = self.bus().take_in();
        self.held = true;
        self.nmi |= events & inbox::NMI != 0;
        if events & inbox::INIT != 0 {
            self.bus().lapic.init();
            self.reset_processor();
        }
        if events & inbox::SIPI != 0 && self.run == Run::WaitForSipi {
            self.start_at_page((events >> 8) as u8);
        }
    }

    /// Start-up: real mode at page `page` (SDM 3A, 10.4.4.2).
    fn start_at_page(&mut self, page: u8) {
        self.start_at(u16::from(page) << 8, 0);
    }

    fn start_at(&mut self, selector: u16, offset: u64) {
        let (cpu, regs) = (&mut self.runner.cpu, &mut self.runner.regs.0);
        let cs = &mut cpu.sys.seg[guest_x86::Seg::Cs as usize];
        *cs = cs.real(selector);
        regs.set(ir::PC, offset);
        cpu.refresh(regs);
        self.run = Run::Runnable;
    }

    /// Deliver one interrupt if there is one and it may be taken.
    fn deliver(&mut self, counters: &VcpuCounters) -> Delivered {
        let (cpu, regs) = (&mut self.runner.cpu, &mut self.runner.regs.0);
        if self.nmi && cpu.can_take_nmi() {
            self.nmi = false;
            cpu.sys.halted = false;
            add(&counters.interrupts, 1);
            return cpu.nmi(regs);
        }
        let external = cpu.bus.machine.header.extint() && cpu.bus.lapic.passes_extint();
        self.held = cpu.bus.lapic.pending().is_some() || external || self.nmi;
        if !self.held || !cpu.can_take_interrupt(regs) {
            return Delivered::Done;
        }
        let vector = match cpu.bus.lapic.acknowledge() {
            Some(v) => Some(v),
            None if external => {
                let vector = cpu.bus.acknowledge_external();
                cpu.safepoint();
                vector
            }
            None => None,
        };
        cpu.take_orders();
        let Some(vector) = vector else { return Delivered::Done };
        cpu.sys.halted = false;
        add(&counters.interrupts, 1);
        cpu.interrupt(regs, vector)
    }
}

/// Add the time since `started` to the time that this vCPU ran.
fn account(counters: &VcpuCounters, started: &mut Instant) {
    let now = Instant::now();
    add(&counters.run_ns, now.duration_since(*started).as_nanos() as u64);
    *started = now;
}

/// The thread of vCPU `index`, which says what happens through `report`.
pub fn thread(machine: &Arc<Machine>, index: usize, vcpu: &Mutex<Vcpu>, report: &dyn Fn(Event)) {
    while stay(machine, index, vcpu, report) {}
}

/// Run until asked to park, once the gate is open. Answers whether there is such a vCPU.
pub fn stay(machine: &Machine, index: usize, vcpu: &Mutex<Vcpu>, report: &dyn Fn(Event)) -> bool {
    let (Some(request), Some(counters)) = (machine.gate.request(index), machine.counters.get(index)) else {
        return false;
    };
    request.register();
    machine.gate.enter(index);
    vcpu.lock().unwrap_or_else(PoisonError::into_inner).run(request, counters, report);
    machine.gate.leave();
    true
}
