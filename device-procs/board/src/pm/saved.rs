//! Saved state of power management.

use machine_model::ports::{PmPorts, SleepTypes};
use state::StateError;
use wire::state_board_capnp::pm;

use super::{Pm, control, event};
use crate::field::{MAX_TIME, bits, bytes, most, refuse};

impl Pm {
    /// Fills in the saved state.
    pub fn save(&self, mut to: pm::Builder<'_>) {
        to.set_status(self.status);
        to.set_enable(self.enable);
        to.set_control(self.control);
        to.set_gpe_enable(&self.gpe_enable);
        to.set_timer_halves(self.timer_halves);
        to.set_suspended(self.suspended);
    }

    /// The power management of a saved state at path `at`, for a machine with these ports and sleep types.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(ports: PmPorts, sleep: SleepTypes, from: pm::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let fresh = Self::new(ports, sleep, MAX_TIME);
        let register = bits(at, "control", from.get_control(), (control::KEPT | control::SCI_EN).into())?;
        if register & control::SCI_EN == 0 {
            return refuse(at, "control", format!("{register:#x} lacks SCI_EN, which is always set"));
        }
        Ok(Self {
            status: bits(at, "status", from.get_status(), event::CLEARABLE.into())?,
            enable: bits(at, "enable", from.get_enable(), event::ENABLES.into())?,
            control: register,
            gpe_enable: bytes(at, "gpeEnable", from.get_gpe_enable())?,
            timer_halves: most(at, "timerHalves", from.get_timer_halves(), fresh.timer_halves)?,
            suspended: from.get_suspended(),
            ..fresh
        })
    }
}
