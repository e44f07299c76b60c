//! Saved state of the chipset: each chip's, and the IOAPIC messages that are still to be sent.

use machine_model::Machine;
use state::StateError;
use wire::state_board_capnp::board_state;

use super::{Chipset, Outputs};
use crate::field::bits;
use crate::ioapic::{IoApic, PINS, Pins};
use crate::pci::Pci;
use crate::pic::Pic;
use crate::pit::Pit;
use crate::pm::Pm;
use crate::reset::Reset;
use crate::rtc::Rtc;

impl Chipset {
    /// Fills in the saved state. `pending` are the pins whose message was taken out of [`Outputs`] and not sent.
    pub fn save(&self, pending: Pins, mut to: board_state::Builder<'_>) {
        self.pic.save(to.reborrow().init_pic());
        self.ioapic.save(to.reborrow().init_ioapic());
        self.pit.save(to.reborrow().init_pit());
        self.rtc.save(to.reborrow().init_rtc());
        self.pm.save(to.reborrow().init_pm());
        self.pci.save(to.reborrow().init_pci());
        self.reset.save(to.reborrow().init_reset());
        to.set_pending_messages(pending | self.out.deliver);
    }

    /// The chipset of a saved state of `machine`. Everything is to be published; the pending messages are among its outputs.
    ///
    /// # Errors
    /// The path of the field that is wrong, which begins with `board`.
    pub fn load(machine: &'static Machine, from: board_state::Reader<'_>) -> Result<Self, StateError> {
        let ports = &machine.ports;
        let deliver = bits("board", "pendingMessages", from.get_pending_messages(), (1 << PINS) - 1)?;
        Ok(Self {
            machine,
            pic: Pic::load(from.get_pic()?, "board.pic")?,
            ioapic: IoApic::load(from.get_ioapic()?, "board.ioapic")?,
            pit: Pit::load(from.get_pit()?, "board.pit")?,
            rtc: Rtc::load(from.get_rtc()?, "board.rtc")?,
            pm: Pm::load(ports.pm, ports.sleep, from.get_pm()?, "board.pm")?,
            reset: Reset::load(from.get_reset()?, "board.reset")?,
            pci: Pci::load(&machine.pci, from.get_pci()?, "board.pci")?,
            out: Outputs { deliver, ..Self::everything_changed(machine) },
        })
    }
}

#[cfg(test)]
mod tests;
