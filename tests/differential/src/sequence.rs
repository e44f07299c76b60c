//! Several instructions in a row, lifted as one block: what one leaves for the next (flags that nobody computes, upper halves
//! known to be zero) must be as if each had been alone.
//!
//! The idea: instructions whose flags are all defined, with operands in registers or at fixed addresses, so that any order of
//! them is a fair case.

use std::sync::LazyLock;

use cpu_model::Model;
use iced_x86::{Code, FlowControl, Mnemonic, OpCodeOperandKind as Kind};

use crate::build::{self, Made};
use crate::case::{CODE, MAX_BYTES};
use crate::forms::{Address, Form, Shape, is_either, is_implied, is_memory};
use crate::host::{self, Maker};
use crate::random::{self, Pool};
use crate::rng::Rng;

/// Where sequences begin.
pub const AT: u64 = CODE + 0x800;
/// Most instructions of a sequence.
const LONGEST: u64 = 10;

/// What sequences are made of.
#[rustfmt::skip]
static MNEMONICS: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Add, Or, Adc, Sbb, And, Sub, Xor, Cmp, Test, Inc, Dec, Neg, Not, Mov, Movzx, Movsx, Movsxd, Lea, Xchg, Xadd, Cmpxchg,
        Bswap, Cbw, Cwde, Cdqe, Cwd, Cdq, Cqo, Clc, Stc, Cmc, Lahf, Sahf, Popcnt, Push, Pop, Pushfq, Pushfd,
        Shl, Shr, Sar, Rol, Ror, Rcl, Rcr,
        Seta, Setae, Setb, Setbe, Sete, Setg, Setge, Setl, Setle, Setne, Setno, Setnp, Setns, Seto, Setp, Sets,
        Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp, Cmovns, Cmovo, Cmovp, Cmovs,
        Ja, Jae, Jb, Jbe, Je, Jg, Jge, Jl, Jle, Jne, Jno, Jnp, Jns, Jo, Jp, Js,
    ]
};

/// The codes, for 64- and for 32-bit code.
static CODES: LazyLock<[Vec<Code>; 2]> = LazyLock::new(|| {
    let model = cpu_model::MODELS[0];
    [64, 32].map(|bits| crate::forms::codes(model, bits).filter(|c| fits(*c)).collect())
});

fn fits(code: Code) -> bool {
    let kinds = code.op_code().op_kinds();
    let shift = matches!(
        code.mnemonic(),
        Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr
    );
    let segment = |k: &Kind| {
        matches!(
            k,
            Kind::seg_reg
                | Kind::es
                | Kind::cs
                | Kind::ss
                | Kind::ds
                | Kind::fs
                | Kind::gs
                | Kind::cr_reg
                | Kind::dr_reg
        )
    };
    MNEMONICS.contains(&code.mnemonic())
        // Longer shifts leave OF undefined.
        && (!shift || kinds.contains(&Kind::imm8_const_1))
        && (host::maker() == Maker::Intel || !intel(code))
        && !kinds.iter().any(|k| segment(k) || is_implied(*k))
}

/// Whether a code is in sequences of Intel's processors only: shifts leave AF undefined, which these clear as T0 does, and AMD's
/// read 32 bits for MOVSXD's 16.
fn intel(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar) || code == Code::Movsxd_r16_rm16
}

/// Sequence number `state` in code of `bits` bits.
pub fn make(form: Form, seed: u64, state: u64, pool: &Pool, model: &'static Model) -> Option<Made> {
    let r = &mut Rng::of(seed, form.number(), state);
    let at = AT;
    let mut case = random::case(r, pool, form.bits, at);
    let codes = &CODES[usize::from(form.bits == 32)];
    let mut bytes: Vec<u8> = vec![];
    for _ in 0..r.below(LONGEST - 1) + 2 {
        let code = r.pick(codes);
        let kinds = code.op_code().op_kinds();
        let memory = kinds.iter().any(|k| is_memory(*k)) || kinds.iter().any(|k| is_either(*k)) && r.percent(30);
        let shape = match memory {
            true if form.bits == 64 && r.percent(50) && !kinds.contains(&Kind::mem_offs) => Shape::Mem(Address::Rip),
            true => Shape::Mem(Address::Abs),
            false if r.percent(20) => Shape::High,
            false => Shape::Plain,
        };
        let piece = Form { code, bits: form.bits, shape };
        let Some(one) = build::piece(piece, r, pool, model, at + bytes.len() as u64) else { continue };
        if bytes.len() + one.len() > MAX_BYTES {
            break;
        }
        bytes.extend(one);
        // What follows a branch is mostly another block.
        if code.flow_control() != FlowControl::Next && r.percent(70) {
            break;
        }
    }
    if bytes.is_empty() {
        return None;
    }
    case.len = bytes.len() as u64;
    case.bytes[..bytes.len()].copy_from_slice(&bytes);
    let instruction = build::decode(&bytes, form.bits, at);
    Some(Made { case, instruction })
}
