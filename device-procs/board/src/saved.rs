//! The board's state in its area: between a message (saved.capnp) and the board.
//!
//! The one idea: a load makes a whole new chipset of the message before it touches the one that is there.

use doorbell::Server;
use machine_model::Machine;
use state::{Kind, Left, Message, StateArea, StateError};
use wire::saved_capnp::saved_state;

use crate::chipset::Chipset;
use crate::serve::Board;

/// The board's name in its saved state.
const PROCESS: &str = "board";

/// Carries out, on a quiet board, what the guest had posted and the engine has forwarded or ended, also after the board had
/// paused: all of that is part of the state.
///
/// # Errors
/// As [`Board::flush`].
pub fn settle(board: &mut Board, server: &mut Server<()>) -> doorbell::Result<()> {
    board.settle();
    board.take_exchange();
    server.serve(board);
    board.flush(server.area())
}

/// Puts a chipset that was read into the place of what was. What the old one had under way is dropped.
///
/// # Errors
/// As [`Board::flush`].
pub fn replace(board: &mut Board, server: &mut Server<()>, chipset: Chipset) -> doorbell::Result<()> {
    board.discard();
    server.serve(board);
    board.replace(chipset);
    board.flush(server.area())
}

/// The state of a quiet, settled board of `machine` as a message, as of the machine version `wanted`.
///
/// # Errors
/// A version that this board cannot write.
pub fn message(board: &Board, machine: &Machine, wanted: &str) -> Result<Message, StateError> {
    if wanted != machine.name {
        let why = format!("is asked for as of '{wanted}', and this board writes '{}' only", machine.name);
        return Err(StateError::field("machine", why));
    }
    let mut message = state::begin(PROCESS, machine.name, Kind::Board)?;
    let root = message.get_root::<saved_state::Builder<'_>>()?;
    if let saved_state::state::Board(to) = root.get_state().which()? {
        board.save(to?);
    }
    state::finish(&mut message)?;
    Ok(message)
}

/// Leaves the state of a quiet, settled board in `area`.
///
/// # Errors
/// As [`message`].
pub fn leave(board: &Board, area: &StateArea, machine: &Machine, wanted: &str) -> Result<Left, StateError> {
    area.leave(&message(board, machine, wanted)?)
}

/// The chipset of a state of `machine`.
///
/// # Errors
/// What is wrong with the state, by the path of the field.
pub fn read(board: &Board, state: saved_state::Reader<'_>, machine: &Machine) -> Result<Chipset, StateError> {
    state::check(state, PROCESS, machine.name, Kind::Board, Kind::Board.added())?;
    match state.get_state().which()? {
        saved_state::state::Board(from) => board.load(from?),
        _ => Err(StateError::field("state", "is of another kind of process")),
    }
}
