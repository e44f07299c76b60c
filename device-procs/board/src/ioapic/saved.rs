//! Saved state of the IOAPIC.

use state::StateError;
use wire::state_board_capnp::{io_apic, redirection};

use super::{IoApic, PINS, entry};
use crate::field::{bits, length, most, refuse};

const ACTIVE_LOW: u64 = 1 << 13;

fn save_entry(slot: u64, mut to: redirection::Builder<'_>) {
    to.set_vector((slot & entry::VECTOR) as u8);
    to.set_delivery_mode((slot >> 8 & 7) as u8);
    to.set_logical(slot & entry::LOGICAL != 0);
    to.set_active_low(slot & ACTIVE_LOW != 0);
    to.set_remote_irr(slot & entry::REMOTE_IRR != 0);
    to.set_level(slot & entry::LEVEL != 0);
    to.set_masked(slot & entry::MASKED != 0);
    to.set_destination((slot >> 56) as u8);
}

fn load_entry(from: redirection::Reader<'_>, at: &str) -> Result<u64, StateError> {
    if from.get_remote_irr() && !from.get_level() {
        return refuse(at, "remoteIrr", "is set for an edge-triggered pin");
    }
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    Ok(u64::from(from.get_vector())
        | u64::from(most(at, "deliveryMode", from.get_delivery_mode(), 7)?) << 8
        | flag(from.get_logical(), entry::LOGICAL)
        | flag(from.get_active_low(), ACTIVE_LOW)
        | flag(from.get_remote_irr(), entry::REMOTE_IRR)
        | flag(from.get_level(), entry::LEVEL)
        | flag(from.get_masked(), entry::MASKED)
        | u64::from(from.get_destination()) << 56)
}

impl IoApic {
    /// Fills in the saved state.
    pub fn save(&self, mut to: io_apic::Builder<'_>) {
        to.set_id(self.id as u8);
        to.set_index(self.index);
        to.set_lines(self.lines);
        let mut list = to.init_redirections(PINS as u32);
        for (pin, slot) in (0..).zip(self.table) {
            save_entry(slot, list.reborrow().get(pin));
        }
    }

    /// The IOAPIC of a saved state at path `at`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(from: io_apic::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let list = from.get_redirections()?;
        length(at, "redirections", list.len(), PINS)?;
        let mut table = [0; PINS];
        for (pin, slot) in table.iter_mut().enumerate() {
            *slot = load_entry(list.get(pin as u32), &format!("{at}.redirections[{pin}]"))?;
        }
        Ok(Self {
            id: most(at, "id", from.get_id(), 15)?.into(),
            index: from.get_index(),
            table,
            lines: bits(at, "lines", from.get_lines(), (1 << PINS) - 1)?,
        })
    }
}
