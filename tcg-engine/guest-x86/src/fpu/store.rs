//! x87 stores to memory, in two steps around the write: [`value`] changes nothing, [`commit`] cannot fail.

use super::{Form, Fpu, Insn, exec};
use fp::x87::{self, F80, IntWidth, sw};
use ir::Regs;

/// What to store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// Bytes, little-endian: the low [`Store::size`] of them.
    pub bits: u128,
    /// How many: 2, 4, 8 or 10.
    pub size: u8,
    /// Exception flags and condition C1 for [`commit`].
    pub status: u16,
    /// An unmasked exception forbids the write.
    pub blocked: bool,
}

const WIDTH: [IntWidth; 3] = [IntWidth::W16, IntWidth::W32, IntWidth::W64];

/// The value that a packed store instruction writes; `None` for a packing that is not a store.
pub fn value(regs: &mut Regs, packed: u32) -> Option<Store> {
    let insn = Insn::unpack(packed)?;
    let fpu = &Fpu::new(regs);
    let width = usize::from(insn.op);
    let size = match insn.form {
        Form::StoreF32 => 4,
        Form::StoreF64 => 8,
        Form::StoreF80 | Form::StoreBcd => 10,
        Form::StoreInt | Form::StoreIntTruncated => *[2_u8, 4, 8].get(width)?,
        _ => return None,
    };
    let (cw, x) = (fpu.cw(), fpu.st(0));
    let (bits, status) = if fpu.is_empty(0) {
        (indefinite(insn.form, size), sw::IE | sw::SF)
    } else {
        match insn.form {
            Form::StoreF32 => widen(x87::store_f32(cw, x)),
            Form::StoreF64 => widen(x87::store_f64(cw, x)),
            Form::StoreF80 => (x.to_bits(), 0),
            Form::StoreBcd => {
                let (digits, status) = x87::store_bcd(cw, x);
                (F80::from_bytes(digits).to_bits(), status)
            }
            form => widen(x87::store_int(cw, x, *WIDTH.get(width)?, form == Form::StoreIntTruncated)),
        }
    };
    // Everything but precision is detected before the result is delivered to memory.
    let blocked = x87::unmasked(status, cw) & !sw::PE != 0;
    Some(Store { bits, size, status, blocked })
}

fn widen<T: Into<u128>>((bits, status): (T, u16)) -> (u128, u16) {
    (bits.into(), status)
}

/// What an empty register stores when invalid is masked.
fn indefinite(form: Form, size: u8) -> u128 {
    match form {
        Form::StoreF32 => 0xffc0_0000,
        Form::StoreF64 => 0xfff8_0000_0000_0000,
        Form::StoreF80 => F80::INDEFINITE.to_bits(),
        Form::StoreBcd => 0xffff_c000_0000_0000_0000,
        _ => 1 << (u32::from(size) * 8 - 1),
    }
}

/// After the write (or in its place when it is blocked): flags, and the pop.
pub fn commit(regs: &mut Regs, packed: u32, store: &Store) {
    let Some(insn) = Insn::unpack(packed) else { return };
    let fpu = &mut Fpu::new(regs);
    let before = fpu.sw();
    fpu.set_conditions(sw::C1, store.status);
    fpu.raise(store.status);
    if !store.blocked {
        fpu.pop(insn.pops.into());
    }
    exec::note_opcode(fpu, before, insn);
}
