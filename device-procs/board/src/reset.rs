//! The ways in which PC software resets the machine: port 0xCF9, fast reset in port 0x92, and the keyboard controller's
//! reset command.
//!
//! The one idea: each of them is a write that either asks for a reset or is remembered. Sources: ICH9 datasheet (316972),
//! "RST_CNT" and "PORT92".

use state::StateError;
use wire::state_board_capnp::reset_ports;

use crate::field::bits;

/// Bits of port 0xCF9.
mod control {
    /// The reset happens when this goes from 0 to 1.
    pub const CPU: u8 = 1 << 2;
    /// SYS_RST and FULL_RST: what kind; all kinds are the same here.
    pub const KEPT: u8 = 1 << 1 | 1 << 3;
}

/// Bits of port 0x92.
mod port_92 {
    pub const FAST_RESET: u8 = 1 << 0;
    pub const A20: u8 = 1 << 1;
}

/// The keyboard controller command that pulses the reset line.
const PULSE_RESET: u8 = 0xFE;

/// The remembered bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    control: u8,
    port_92: u8,
}

impl Default for Reset {
    fn default() -> Self {
        // Address line 20 is never masked.
        Self { control: 0, port_92: port_92::A20 }
    }
}

impl Reset {
    /// Fills in the saved state.
    pub fn save(&self, mut to: reset_ports::Builder<'_>) {
        to.set_control(self.control);
        to.set_port92(self.port_92);
    }

    /// The ports of a saved state at path `at`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(from: reset_ports::Reader<'_>, at: &str) -> Result<Self, StateError> {
        Ok(Self {
            control: bits(at, "control", from.get_control(), control::KEPT.into())?,
            port_92: bits(at, "port92", from.get_port92(), (port_92::FAST_RESET | port_92::A20).into())?,
        })
    }

    /// Reads port 0xCF9.
    pub fn read_control(&self) -> u8 {
        self.control
    }

    /// Writes port 0xCF9. True: reset.
    pub fn write_control(&mut self, value: u8) -> bool {
        self.control = value & control::KEPT;
        value & control::CPU != 0
    }

    /// Reads port 0x92.
    pub fn read_port_92(&self) -> u8 {
        self.port_92
    }

    /// Writes port 0x92. True: reset. The A20 bit is remembered and has no effect.
    pub fn write_port_92(&mut self, value: u8) -> bool {
        let rising = value & !self.port_92 & port_92::FAST_RESET != 0;
        self.port_92 = value & (port_92::FAST_RESET | port_92::A20);
        rising
    }

    /// Reads port 0x64: there is no keyboard controller.
    pub fn read_port_64(&self) -> u8 {
        0xFF
    }

    /// Writes port 0x64. True: reset.
    pub fn write_port_64(&self, value: u8) -> bool {
        value == PULSE_RESET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_register_resets_on_its_cpu_bit() {
        let mut reset = Reset::default();
        assert!(!reset.write_control(0x02));
        assert_eq!(reset.read_control(), 0x02);
        assert!(reset.write_control(0x06));
        assert_eq!(reset.read_control(), 0x02);
        assert!(reset.write_control(0x0E));
    }

    #[test]
    fn port_92_resets_on_a_rising_bit_and_remembers_a20() {
        let mut reset = Reset::default();
        assert_eq!(reset.read_port_92(), 2);
        assert!(!reset.write_port_92(0));
        assert!(reset.write_port_92(3));
        assert!(!reset.write_port_92(3), "not rising");
        assert_eq!(reset.read_port_92(), 3);
    }

    #[test]
    fn port_64_is_no_keyboard_controller_but_resets() {
        let reset = Reset::default();
        assert_eq!(reset.read_port_64(), 0xFF);
        assert!(!reset.write_port_64(0xAA));
        assert!(reset.write_port_64(0xFE));
    }
}
