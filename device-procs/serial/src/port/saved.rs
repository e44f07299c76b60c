//! Saved state of a port: the UART and every byte that is on its way.
//!
//! The one idea: from a save or a load on, until the next run, the state owns the bytes, so the port *holds*: it sends nothing
//! to the console. Then no byte is both in a state and sent by the process that left it there.
//!
//! A port whose console takes nothing has posted writes before it that it cannot carry out. A save carries them out in what it
//! writes, and leaves them where they are; that needs room beyond what a guest may fill, which the ring has.

use doorbell::layout::{IN_RING_LEN, OUT_RING_LEN};
use state::{Kind, Left, Message, StateArea, StateError};
use wire::saved_capnp::saved_state;
use wire::state_serial_capnp::serial_state;

use super::{Port, UNCOMMITTED};
use crate::uart::Uart;

/// The most output that a state has, and a port takes from one.
pub const MOST_OUTPUT: u64 = OUT_RING_LEN - UNCOMMITTED;

/// Who this port is in its saved states.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Name of the process, such as "serial0".
    pub process: &'a str,
    /// Machine version.
    pub machine: &'a str,
}

/// What a saved state says, checked.
#[derive(Debug)]
struct Loaded {
    uart: Uart,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Loaded {
    fn read(from: serial_state::Reader<'_>, edges: u64) -> Result<Self, StateError> {
        let bytes = |name: &str, value: capnp::Result<&[u8]>, most: u64| {
            let value = value?;
            if value.len() as u64 > most {
                let why = format!("has {} bytes; at most {most}", value.len());
                return Err(StateError::field(format!("serial.{name}"), why));
            }
            Ok(value.to_vec())
        };
        Ok(Self {
            uart: Uart::load(from.get_uart()?, edges)?,
            input: bytes("input", from.get_input(), IN_RING_LEN)?,
            output: bytes("output", from.get_output(), MOST_OUTPUT)?,
        })
    }
}

impl Port {
    /// The state of a paused port as a message, as of the machine version `wanted`. The port holds from now on. Call
    /// [`Port::round`] before.
    ///
    /// # Errors
    /// A version that this port cannot write; more output than a state can have, which takes a console that takes nothing
    /// over many saves and loads.
    pub fn save(&mut self, identity: Identity<'_>, wanted: &str) -> Result<Message, StateError> {
        if wanted != identity.machine {
            let why = format!("is asked for as of '{wanted}', and this port writes '{}' only", identity.machine);
            return Err(StateError::field("machine", why));
        }
        self.server.update(&mut self.serial, |state, _| state.held = 1);
        let (serial, state) = (&self.serial, *self.server.state());
        let (start, arrived) = (serial.start(&state), serial.input.position(&serial.area));
        // The engine can write to where these positions lie, at any time.
        for (field, count, most) in [
            ("serial.output", state.produced.saturating_sub(start), OUT_RING_LEN),
            ("serial.input", arrived.saturating_sub(state.taken), IN_RING_LEN),
        ] {
            if count > most {
                let why =
                    format!("{count} bytes are said to wait in a ring of {most}; somebody has moved its position");
                return Err(StateError::field(field, why));
            }
        }
        let mut output: Vec<u8> = (start..state.produced).map(|at| serial.output.get(&serial.area, at)).collect();
        let (mut uart, mut taken) = (state.uart, state.taken);
        self.server.waiting(|access| {
            if access.operation != doorbell::Operation::Write {
                return;
            }
            for n in 0..access.width {
                let register = (access.address.wrapping_add(n.into()) & 7) as u8;
                output.extend(uart.write(register, (access.value >> (8 * n)) as u8));
                let room = (uart.wants() as u64).min(arrived.saturating_sub(taken));
                for at in taken..taken + room {
                    uart.receive(serial.input.get(&serial.area, at));
                }
                taken += room;
            }
        });
        if output.len() as u64 > MOST_OUTPUT {
            let why = format!("{} bytes wait for the console; at most {MOST_OUTPUT} can be saved", output.len());
            return Err(StateError::field("serial.output", why));
        }
        let input: Vec<u8> = (taken..arrived).map(|at| serial.input.get(&serial.area, at)).collect();
        let mut message = state::begin(identity.process, identity.machine, Kind::Serial)?;
        let root = message.get_root::<saved_state::Builder<'_>>()?;
        if let saved_state::state::Serial(to) = root.get_state().which()? {
            let mut to = to?;
            uart.save(to.reborrow().init_uart());
            to.set_input(&input);
            to.set_output(&output);
        }
        state::finish(&mut message)?;
        Ok(message)
    }

    /// Takes the state `left` in `area` in place of everything that this paused port has, posted writes and bytes under way
    /// included; or refuses it and stays as it is. The port holds from now on; its interrupt line is signalled by the next run.
    ///
    /// # Errors
    /// What is wrong with the state, by the path of the field.
    pub fn load(&mut self, identity: Identity<'_>, area: &StateArea, left: Left) -> Result<(), StateError> {
        let edges = self.server.state().uart.edges;
        let loaded = area.take(left, |state| {
            state::check(state, identity.process, identity.machine, Kind::Serial, Kind::Serial.added())?;
            match state.get_state().which()? {
                saved_state::state::Serial(from) => Loaded::read(from?, edges),
                _ => Err(StateError::field("state", "is of another kind of process")),
            }
        })?;
        self.serial.silent = true;
        self.serial.discarding = true;
        self.server.serve(&mut self.serial);
        self.serial.discarding = false;
        let Self { server, serial, .. } = self;
        // In place of what was to be sent next, so that a log file has no gap.
        let start = serial.start(server.state());
        for (at, byte) in (start..).zip(&loaded.output) {
            serial.output.put(&serial.area, at, *byte);
        }
        let taken = serial.input.position(&serial.area);
        serial.input.give(&serial.area, &loaded.input);
        server.update(serial, |state, _| {
            state.taken = taken;
            state.floor = start;
            state.produced = start + loaded.output.len() as u64;
            state.held = 1;
            state.uart = loaded.uart;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
