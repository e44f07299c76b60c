//! Saved state of the UART.

use state::StateError;
use wire::state_serial_capnp::uart;

use super::*;

/// The value, if it has no bits outside `allowed`.
fn bits(name: &str, value: u8, allowed: u8) -> Result<u8, StateError> {
    match value & !allowed {
        0 => Ok(value),
        _ => refuse(name, format!("{value:#x} has bits outside {allowed:#x}")),
    }
}

fn refuse<T>(name: &str, why: impl Into<String>) -> Result<T, StateError> {
    Err(StateError::field(format!("serial.uart.{name}"), why))
}

impl Uart {
    /// Fills in the saved state.
    pub fn save(&self, mut to: uart::Builder<'_>) {
        to.set_ier(self.ier);
        to.set_fcr(self.fcr);
        to.set_lcr(self.lcr);
        to.set_mcr(self.mcr);
        to.set_line_errors(self.errors);
        to.set_msr(self.msr);
        to.set_scratch(self.scr);
        to.set_divisor(u16::from_le_bytes([self.dll, self.dlm]));
        let bytes = (0..self.fifo_len).map(|n| self.fifo[usize::from(self.fifo_start + n) % FIFO]);
        to.set_receiver(&bytes.collect::<Vec<_>>());
        to.set_transmitter_pending(self.transmitter != 0);
        to.set_interrupt_line(self.level());
    }

    /// The UART of a saved state; `edges` of its interrupt output have been counted so far.
    ///
    /// # Errors
    /// The field that is wrong, by its path.
    pub fn load(from: uart::Reader<'_>, edges: u64) -> Result<Self, StateError> {
        let [dll, dlm] = from.get_divisor().to_le_bytes();
        let receiver = from.get_receiver()?;
        let mut loaded = Self {
            edges,
            ier: bits("ier", from.get_ier(), 0x0f)?,
            fcr: bits("fcr", from.get_fcr(), 0xc0 | FCR_ENABLE)?,
            lcr: from.get_lcr(),
            mcr: bits("mcr", from.get_mcr(), MCR_BITS)?,
            errors: bits("lineErrors", from.get_line_errors(), LSR_OVERRUN)?,
            msr: from.get_msr(),
            scr: from.get_scratch(),
            dll,
            dlm,
            transmitter: from.get_transmitter_pending().into(),
            fifo_len: receiver.len().min(FIFO) as u8,
            ..Self::RESET
        };
        if loaded.fcr != 0 && !loaded.fifos() {
            return refuse("fcr", format!("{:#x} has a trigger level without FIFOs", loaded.fcr));
        }
        if loaded.msr & 0xf0 != loaded.modem_lines() {
            let why = format!("{:#x} shows other lines than mcr {:#x} makes", loaded.msr, loaded.mcr);
            return refuse("msr", why);
        }
        if receiver.len() > loaded.capacity() {
            let why = format!("has {} bytes, and the receiver holds {}", receiver.len(), loaded.capacity());
            return refuse("receiver", why);
        }
        loaded.fifo[..receiver.len()].copy_from_slice(receiver);
        loaded.level = from.get_interrupt_line().into();
        if loaded.level() != loaded.interrupts() {
            let why = format!("is {}, and the registers make it {}", loaded.level(), loaded.interrupts());
            return refuse("interruptLine", why);
        }
        Ok(loaded)
    }
}
