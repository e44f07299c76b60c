//! Delivery of exceptions and interrupts.
//!
//! A delivery reads its gate, checks, and writes its frame before it changes any register; if any of that faults, the two
//! exceptions combine by the manual's table into the second one, a double fault, or a shutdown.

mod long;
mod protected;
mod real;

use ir::{PC, Regs, Stop};

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Combined, Exception, Source, combine};
use crate::flags;
use crate::state::{EFLAGS, Shadow, eflags};

/// What a delivery ended in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivered {
    /// The handler runs next.
    Done,
    /// A triple fault: the vCPU has stopped until it is reset.
    Shutdown,
}

impl<B: Bus> Cpu<B> {
    /// Deliver the pending exception, if there is one.
    pub fn deliver_pending(&mut self, regs: &mut Regs) -> Delivered {
        let Some(e) = self.pending.take() else { return Delivered::Done };
        self.deliver_all(regs, e)
    }

    /// Deliver an external interrupt; ask [`Cpu::can_take_interrupt`] before.
    pub fn interrupt(&mut self, regs: &mut Regs, vector: u8) -> Delivered {
        self.deliver_all(regs, Exception { source: Source::External, ..Exception::fault(vector) })
    }

    /// Deliver an NMI; ask [`Cpu::can_take_nmi`] before.
    pub fn nmi(&mut self, regs: &mut Regs) -> Delivered {
        self.sys.nmi_blocked = true;
        self.interrupt(regs, exception::NMI)
    }

    /// Deliver a single-step trap for the instruction that has just completed, unless that was an INT, or a SYSCALL
    /// that has masked TF.
    pub fn single_step_trap(&mut self, regs: &mut Regs) -> Delivered {
        if std::mem::take(&mut self.no_step) {
            return Delivered::Done;
        }
        self.deliver_all(regs, Exception::single_step())
    }

    fn deliver_all(&mut self, regs: &mut Regs, first: Exception) -> Delivered {
        let mut e = first;
        loop {
            if let Some(address) = e.cr2 {
                self.sys.cr2 = address;
            }
            self.sys.dr6 |= e.dr6;
            if self.deliver(regs, &e).is_ok() {
                return Delivered::Done;
            }
            // Every failed delivery has noted why.
            let Some(second) = self.pending.take() else { return Delivered::Shutdown };
            // The address of a page fault is known even if the fault becomes a double one.
            if let Some(address) = second.cr2 {
                self.sys.cr2 = address;
            }
            // External interrupts are benign whatever their vector is.
            let combined = match e.source {
                Source::Fault | Source::Trap => combine(e.vector, second.vector),
                _ => Combined::Second,
            };
            e = match combined {
                Combined::Second => second,
                Combined::Double => Exception::with_code(exception::DF, 0),
                Combined::Shutdown => return Delivered::Shutdown,
            };
        }
    }

    /// Deliver one event, or stop with another one pending and nothing changed.
    pub(crate) fn deliver(&mut self, regs: &mut Regs, e: &Exception) -> Result<(), Stop> {
        if !self.sys.protected() {
            self.deliver_real(regs, e)?;
        } else if self.sys.long_mode() {
            self.deliver_long(regs, e)?;
        } else {
            self.deliver_protected(regs, e)?;
        }
        self.sys.shadow = Shadow::None;
        self.sys.halted = false;
        self.update_mode(regs);
        Ok(())
    }

    /// EFLAGS as a frame holds them: a fault restarts its instruction with RF set.
    fn saved_flags(&self, regs: &Regs, e: &Exception) -> u64 {
        let f = eflags(regs) & !flags::RF;
        if e.source == Source::Fault { f | flags::RF } else { f }
    }

    /// Clear what every handler starts without, and IF for an interrupt gate.
    fn handler_flags(regs: &mut Regs, interrupt_gate: bool) {
        let mut clear = flags::TF | flags::NT | flags::RF | flags::VM;
        if interrupt_gate {
            clear |= flags::IF;
        }
        regs.set(EFLAGS, regs.get(EFLAGS) & !clear);
    }
}

/// The EXT bit of error codes: the event did not come from an INT instruction.
fn ext(e: &Exception) -> u32 {
    u32::from(e.source != Source::Software)
}

/// Error code of a fault at the gate of vector `v`.
fn gate_code(e: &Exception) -> u32 {
    u32::from(e.vector) << 3 | 2 | ext(e)
}

/// The saved program counter (faults and traps differ only in what it is already).
fn saved_pc(regs: &Regs) -> u64 {
    regs.get(PC)
}
