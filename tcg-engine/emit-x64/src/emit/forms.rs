//! What the passes over a block before its emission ask of each operation, as a table: one load instead of a jump that the host
//! cannot foresee.

use ir::Op;

/// A skip.
pub(super) const SKIP: u8 = 1;
/// Its operands are pairs, but for addresses.
pub(super) const PAIRS: u8 = 2;
/// It may name a third slot, or has to do with MXCSR.
pub(super) const MORE: u8 = 4;
/// Any of those.
pub(super) const REST: u8 = SKIP | PAIRS | MORE;
/// Faults show the flags before it.
pub(super) const ACCESS: u8 = 8;
/// Somebody looks at the flags before it.
pub(super) const SHOWS: u8 = 16;
/// It makes flags, or it depends on more than the operation whether anybody looks.
pub(super) const FLAGS: u8 = 32;

/// What is so of operations; of all others nothing is.
const LIST: &[(&[Op], u8)] = &[
    (&[Op::Mov128, Op::Vec], PAIRS),
    (&[Op::Load128, Op::Store128, Op::Cas128], PAIRS | ACCESS),
    (&[Op::Fp], PAIRS | MORE | FLAGS),
    (&[Op::Call], MORE | FLAGS),
    (&[Op::Select], MORE),
    (&[Op::Cas], MORE | ACCESS),
    (&[Op::Bulk], MORE | SHOWS),
    (&[Op::Flags, Op::Alu, Op::AluMem], FLAGS),
    (&[Op::Load, Op::Store, Op::Atomic, Op::CheckCanonical, Op::Divide], ACCESS),
    (&[Op::SkipUnless, Op::SkipIfZero], SKIP | SHOWS),
    (&[Op::Cond, Op::SelectCond, Op::FlagsGet, Op::LoadExclusive, Op::StoreExclusive], SHOWS),
    (&[Op::ExitCond, Op::ExitIf, Op::Exit, Op::ExitReg, Op::ExitEvent, Op::Raise], SHOWS),
];

static FORMS: [u8; 256] = {
    let mut forms = [0; 256];
    let mut row = 0;
    while row < LIST.len() {
        let (ops, form) = LIST[row];
        let mut n = 0;
        while n < ops.len() {
            forms[ops[n] as usize] = form;
            n += 1;
        }
        row += 1;
    }
    forms
};

/// What is so of an operation.
#[inline(always)]
pub(super) fn of(op: Op) -> u8 {
    FORMS[op as u8 as usize]
}
