//! IN and OUT with a port in the instruction or in DX. Permission is checked by the helpers.

use iced_x86::Mnemonic;
use ir::NONE;

use super::{Flow, Lifted, Lifter};
use crate::helpers::Helper;
use crate::state::{RAX, RDX};

/// Lift one of this file's instructions.
pub(super) fn lift(l: &mut Lifter) -> Lifted {
    let input = l.i.mnemonic() == Mnemonic::In;
    let (data, port) = if input { (0, 1) } else { (1, 0) };
    let bytes = l.bits(data) / 8;
    let port = match l.imm(port) {
        Some(v) => l.constant(v & 0xff),
        None => RDX,
    };
    if input {
        let v = l.call_value(Helper::In, port, NONE, bytes);
        l.set_clean(v, true);
        l.write_gpr(RAX, v, bytes * 8);
        Some(Flow::Next)
    } else {
        l.call(NONE, Helper::Out, port, RAX, bytes);
        // A device may have asked for something: look at it before going on.
        l.exit_next()
    }
}
