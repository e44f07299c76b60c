//! The register window of a 16550A UART, as data: eight registers, of which a guest that prints needs none synchronously.
//!
//! Shadow cell n is register n as a read would see it now (under the present DLAB). A cell asks for the device when the
//! read would do something: take a byte, clear an interrupt or an error bit. In loopback mode the device makes the line
//! status cell ask, since there a transmitted byte comes back.

use crate::Space;
use crate::window::{Behaviour, ReadRule, WindowDesc, WindowKind, WriteRule};

/// Registers, and bytes of the window.
pub const REGISTERS: u16 = 8;

/// Which cells (bit n: register n) a write to each register may change.
const STALE: [u64; 8] = [
    0b0000_0101, // THR, DLL: THRE interrupt; DLL
    0b0000_0110, // IER, DLM
    0b0010_0101, // FCR: empties the FIFOs
    0b0000_1011, // LCR: DLAB swaps registers 0 and 1
    0b0111_0100, // MCR: loopback changes line and modem status; OUT2 gates the interrupt
    0,           // LSR: read-only
    0,           // MSR: read-only
    0b1000_0000, // SCR
];

/// The window of the UART whose first port is `base` and whose area is `device`.
pub fn window(name: &str, base: u16, device: u16) -> WindowDesc {
    let register = |(n, mask): (usize, &u64)| Behaviour {
        offset: n as u32,
        length: 1,
        read: ReadRule::Shadow(n as u16),
        write: if *mask == 0 { WriteRule::Ignored } else { WriteRule::Posted(*mask) },
    };
    let kind = WindowKind::Registers(STALE.iter().enumerate().map(register).collect());
    WindowDesc { name: name.to_owned(), space: Space::Port, base: base.into(), len: REGISTERS.into(), device, kind }
}
