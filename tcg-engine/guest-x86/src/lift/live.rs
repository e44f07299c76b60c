//! Which flags can be seen after each instruction of a block.
//!
//! A flag is dead if a later instruction of the block changes it before anything reads it and before the block can be left:
//! an instruction that may fault shows the flags as they are before it, one that stores may end the block after it.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::HOT_INSTRUCTIONS;

/// Everything is visible.
pub(super) const ALL: u32 = u32::MAX;

/// How an instruction can leave its block other than at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// It cannot.
    Never,
    /// It may fault, with nothing of it done.
    Before,
    /// Also behind it, or this is not known.
    Anywhere,
}

/// Whether decoding goes no further: what follows is reached another way, or not in this mode.
pub(super) fn ends_block(i: &Instruction) -> bool {
    i.flow_control() != FlowControl::Next
}

/// Whether it is a conditional jump that is likely not to be taken: compilers put the likely way behind it, but for loops.
pub(super) fn goes_on(i: &Instruction) -> bool {
    (i.is_jcc_short() || i.is_jcc_near()) && i.near_branch_target().cast_signed() > i.ip().cast_signed()
}

fn is_memory(kind: OpKind) -> bool {
    matches!(kind, OpKind::Memory)
}

fn leaves(i: &Instruction) -> Leaves {
    use Mnemonic::*;
    match i.mnemonic() {
        Lea | Nop | Endbr64 | Endbr32 => return Leaves::Never,
        Mov | Movzx | Movsx | Movsxd | Add | Sub | Adc | Sbb | And | Or | Xor | Not | Neg | Inc | Dec | Cmp | Test
        | Shl | Sal | Shr | Sar | Rol | Ror | Imul | Bswap | Bt | Bts | Btr | Btc | Bsf | Bsr | Popcnt | Cbw | Cwde
        | Cdqe | Cwd | Cdq | Cqo | Xchg => {}
        // As what is in no row, but frequent.
        Push | Pop | Call | Ret | Jmp => return Leaves::Anywhere,
        // Conditional moves and sets.
        _ if i.flow_control() == FlowControl::Next && i.condition_code() != iced_x86::ConditionCode::None => {}
        _ => return Leaves::Anywhere,
    }
    let mut memory = false;
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register if !plain(i, n) => return Leaves::Anywhere,
            kind => memory |= is_memory(kind),
        }
    }
    if !memory {
        return Leaves::Never;
    }
    let reads_only = match i.mnemonic() {
        Cmp | Test | Bt => true,
        // The destination is the first operand.
        _ => !is_memory(i.op_kind(0)) && i.mnemonic() != Xchg,
    };
    if reads_only { Leaves::Before } else { Leaves::Anywhere }
}

/// A general register.
fn plain(i: &Instruction, n: u32) -> bool {
    i.op_register(n).is_gpr()
}

/// Flags that the instruction certainly overwrites.
fn kills(i: &Instruction) -> u32 {
    use Mnemonic::*;
    match i.mnemonic() {
        // A count of zero leaves all of them.
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => 0,
        _ => i.rflags_modified(),
    }
}

/// For each instruction, the flags that are visible behind it.
pub(super) fn after(list: &[Instruction]) -> [u32; HOT_INSTRUCTIONS] {
    let mut out = [ALL; HOT_INSTRUCTIONS];
    let mut live = ALL;
    for (i, out) in list.iter().zip(out.iter_mut()).rev() {
        let leaves = leaves(i);
        *out = if leaves == Leaves::Anywhere { ALL } else { live };
        live = if leaves == Leaves::Never { *out & !kills(i) | i.rflags_read() } else { ALL };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, InstructionInfoFactory, OpAccess, RflagsBits};

    fn writes_first(i: &Instruction) -> bool {
        let mut f = InstructionInfoFactory::new();
        matches!(
            f.info(i).op0_access(),
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        )
    }

    fn decode(bytes: &[u8]) -> Vec<Instruction> {
        Decoder::with_ip(64, bytes, 0x1000, 0).into_iter().collect()
    }

    #[test]
    fn an_overwritten_result_is_dead_only_without_a_fault_between() {
        // add rax, rcx; add rbx, rdx
        let l = decode(&[0x48, 0x01, 0xc8, 0x48, 0x01, 0xd3]);
        assert_eq!(after(&l)[..2], [!l[1].rflags_modified(), ALL]);
        // add rax, rcx; add rbx, [rdx]
        let l = decode(&[0x48, 0x01, 0xc8, 0x48, 0x03, 0x1a]);
        assert_eq!(after(&l)[0], ALL);
        // add rax, rcx; inc rbx: CF is still seen.
        let l = decode(&[0x48, 0x01, 0xc8, 0x48, 0xff, 0xc3]);
        assert_ne!(after(&l)[0] & RflagsBits::CF, 0);
        // add rax, rcx; shl rbx, cl: the count may be zero.
        let l = decode(&[0x48, 0x01, 0xc8, 0x48, 0xd3, 0xe3]);
        assert_eq!(after(&l)[0], ALL);
    }

    #[test]
    fn stores_can_be_followed_by_an_exit() {
        for bytes in [&[0x48u8, 0x01, 0x08][..], &[0x48, 0x89, 0x08], &[0x48, 0x87, 0x08], &[0x0f, 0x94, 0x00]] {
            let i = decode(bytes)[0];
            assert!(writes_first(&i), "{i:?}");
            assert!(leaves(&i) == Leaves::Anywhere, "{i:?}");
        }
        for bytes in [&[0x48u8, 0x03, 0x08][..], &[0x48, 0x3b, 0x08], &[0x0f, 0x44, 0x08]] {
            assert!(leaves(&decode(bytes)[0]) == Leaves::Before);
        }
    }
}
