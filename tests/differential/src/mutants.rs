//! Planted lifter bugs: each changes the operations of a lifted block the way a mistake in the lifter would, and the
//! comparison must notice.
//!
//! The idea: a bug is a function of one operation, so the list below reads like a list of typing errors. A case on which both
//! sides agree is run again with each bug that has not been noticed yet and that its block is touched by.

use std::sync::Mutex;

use anyhow::Result;
use fp::sse::FpOp;
use guest_x86::state::{FPU_TAG, RSP, Seg, seg_base, ymm_upper};
use ir::flags::Kind;
use ir::op::{AtomicOp, BulkRef, FpRef, MemRef};
use ir::vec::VecOp;
use ir::{AluOp, AluRef, Inst, NONE, Op, Rel};

use crate::build::Made;
use crate::case::Outcome;
use crate::forms::{Form, Shape};
use crate::guest::Guest;
use crate::host::{self, Maker};
use crate::run;

/// A bug: its name, and what it does to an operation; true if it has changed it.
pub type Mutant = (&'static str, fn(&mut Inst) -> bool);

/// The planted bugs.
#[rustfmt::skip]
pub static MUTANTS: &[Mutant] = &[
    ("flags of an addition taken for those of a subtraction", |i| kind(i, Kind::X86Add, Kind::X86Sub)),
    ("flags of a subtraction taken for those of an addition", |i| kind(i, Kind::X86Sub, Kind::X86Add)),
    ("INC clobbers CF", |i| kind(i, Kind::X86Inc, Kind::X86Add)),
    ("SHR's flags from SAR", |i| kind(i, Kind::X86Shr, Kind::X86Sar)),
    ("flags of a logical operation keep CF", |i| kind(i, Kind::X86Logic, Kind::X86Explicit)),
    ("8-bit flags computed at 16 bits", |i| flag_size(i, 8, 16)),
    ("32-bit flags computed at 64 bits", |i| flag_size(i, 32, 64)),
    ("flag operands swapped", |i| when(i, i.op == Op::Flags && i.aux == Kind::X86Sub as u8, |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("flags not recorded", |i| when(i, i.op == Op::Flags, nop)),
    ("branch on the inverted condition", |i| when(i, i.op == Op::ExitCond, |i| i.aux ^= 1)),
    ("signed condition taken for unsigned", |i| when(i, i.op == Op::Cond && i.aux >> 1 == 6, |i| i.aux = 2 | i.aux & 1)),
    ("CMOV's sources swapped", |i| when(i, i.op == Op::SelectCond, |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("32-bit result not zero-extended", |i| op(i, Op::Zext32, Op::Mov)),
    ("32-bit addition done in 64 bits", |i| op(i, Op::Add32, Op::Add64)),
    ("MOVSX zero-extends", |i| op(i, Op::Sext8, Op::Zext8) || op(i, Op::Sext16, Op::Zext16)),
    ("write to AH goes to AL", |i| when(i, i.op == Op::Deposit && i.imm == 8 | 8 << 8, |i| i.imm = 8 << 8)),
    ("16-bit write clears the upper half", |i| when(i, i.op == Op::Deposit && i.imm == 16 << 8, |i| i.imm = 32 << 8)),
    ("load too narrow", |i| when(i, i.op == Op::Load && i.aux & 7 == 3, |i| i.aux -= 1)),
    ("store too wide", |i| when(i, i.op == Op::Store && i.aux & 7 < 3, |i| i.aux += 1)),
    ("displacement off by one", |i| memory(i, |m| m.disp != 0, |m| m.disp += 1)),
    ("scale forgotten", |i| memory(i, |m| m.scale != 0, |m| m.scale = 0)),
    ("index forgotten", |i| when(i, is_access(i) && i.b != NONE, |i| i.b = NONE)),
    ("FS taken for GS in 64-bit code", |i| when(i, i.a == seg_base(Seg::Fs) || i.b == seg_base(Seg::Fs), gs_for_fs)),
    ("FS taken for DS in 32-bit code", |i| memory(i, |m| m.space == Seg::Fs as u8 + 1, |m| m.space = Seg::Ds as u8 + 1)),
    ("address does not wrap at 4 GiB", |i| memory(i, |m| m.wrap == 1, |m| m.wrap = 0)),
    ("right to write not asked for before a read-modify-write", |i| memory(i, |m| m.write_intent, |m| m.write_intent = false)),
    ("fault of a stack access reported as #GP", |i| memory(i, |m| m.stack, |m| m.stack = false)),
    ("alignment of a vector operand not checked", |i| memory(i, |m| m.aligned, |m| m.aligned = false)),
    ("64-bit shift count masked to 5 bits", |i| op(i, Op::Shl64, Op::Shl32)),
    ("SAR shifts in zeros", |i| op(i, Op::Sar64, Op::Shr64) || op(i, Op::Sar32, Op::Shr32)),
    ("rotation the wrong way", |i| when(i, i.op == Op::Rotl64I || i.op == Op::Rotl32I, |i| i.imm = i.imm.wrapping_neg())),
    ("MUL multiplies signed", |i| op(i, Op::MulHiU64, Op::MulHiS64)),
    ("BSWAP of the wrong size", |i| when(i, i.op == Op::Bswap && i.aux == 32, |i| i.aux = 64)),
    ("LOCK ADD becomes LOCK OR", |i| when(i, i.op == Op::Atomic && i.imm & 0xff == AtomicOp::Add as u64, |i| i.imm = i.imm & !0xff | AtomicOp::Or as u64)),
    ("stack pointer moved twice as far", |i| when(i, i.op == Op::Add64I && i.d == RSP, |i| i.imm = i.imm.wrapping_mul(2))),
    ("branch target off by one", |i| when(i, i.op == Op::Exit && i.aux == 0, |i| i.imm += 1)),
    ("LOOP goes on at zero", |i| when(i, i.op == Op::ExitIf, |i| i.op = Op::Exit)),
    ("string direction ignored", |i| when(i, i.op == Op::Bulk && BulkRef::unpack(i.imm).backward, |i| i.imm &= !(1 << 20))),
    ("REPE compares for less", |i| when(i, i.op == Op::SetRel && i.aux == Rel::Eq as u8, |i| i.aux = Rel::Ltu as u8)),
    ("operands of a vector operation swapped", |i| when(i, i.op == Op::Vec && i.b != NONE, |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("operands of a floating-point operation swapped", |i| when(i, i.op == Op::Fp && i.b != NONE, |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("MMX does not mark the registers used", |i| when(i, i.op == Op::MovI && i.d == FPU_TAG, nop)),
    ("#UD reported as #GP", |i| when(i, i.op == Op::Raise && i.aux == 6, |i| i.aux = 13)),
];

/// Bugs of VEX-coded and bit manipulation instructions alone.
#[rustfmt::skip]
pub static MUTANTS_V3: &[Mutant] = &[
    ("upper half of a YMM register not cleared", |i| when(i, i.op == Op::MovI && is_upper(i.d), nop)),
    ("halves raise their floating-point exceptions one after the other", |i| when(i, i.op == Op::Fp, |i| i.imm &= !FpRef::MORE)),
    ("addend of a fused operation taken for a factor", |i| when(i, fused(i), swap_addend)),
    ("factors of a fused operation swapped", |i| when(i, fused(i), |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("256 bits aligned as 128 are", |i| memory(i, |m| m.double, |m| m.double = false)),
    ("256 bits stored half by half", |i| memory(i, |m| m.write_intent && m.log2 == 4, |m| m.write_intent = false)),
    ("alignment of halves of precision checked", |i| memory(i, |m| m.relaxed, |m| m.relaxed = false)),
    ("lanes shifted by one count", |i| when(i, i.op == Op::Vec && i.aux == VecOp::ShlV32 as u8, |i| i.aux = VecOp::Shl32 as u8)),
    ("arithmetic shift of lanes shifts in zeros", |i| when(i, i.op == Op::Vec && i.aux == VecOp::SarV32 as u8, |i| i.aux = VecOp::ShrV32 as u8)),
    ("predicates beyond SSE's taken for SSE's", |i| when(i, i.op == Op::Fp && i.aux == FpOp::VcmpPs as u8, |i| i.aux = FpOp::CmpPs as u8)),
    ("operands of a helper swapped", |i| when(i, i.op == Op::Call, |i| std::mem::swap(&mut i.a, &mut i.b))),
    ("leading zeros counted for trailing ones", |i| when(i, is_alu(i, AluOp::Tzcnt), |i| i.aux += 1)),
    ("bits gathered where they are to be scattered", |i| op(i, Op::Pdep, Op::Pext)),
];

/// A bug that the processors of some maker have as a property, so that a host of theirs cannot show it: its name, and why.
pub type Shared = (&'static str, Maker, &'static str);

/// These bugs; on such a host none of them may be noticed.
#[rustfmt::skip]
pub static SHARED: &[Shared] = &[
    ("alignment of halves of precision checked", Maker::Amd, "AMD's processors do check it (APM vol. 4, VCVTPH2PS, VCVTPS2PH, #AC)"),
];

/// Whether this host can show a bug.
pub fn shows(name: &str) -> bool {
    !SHARED.iter().any(|s| s.0 == name && s.1 == host::maker())
}

fn is_alu(i: &Inst, op: AluOp) -> bool {
    i.op == Op::Alu && AluRef::unpack(i.aux).op == op
}

fn is_upper(s: ir::Slot) -> bool {
    (0..16).any(|n| s == ymm_upper(n) || s.0 == ymm_upper(n).0 + 1)
}

fn fused(i: &Inst) -> bool {
    i.op == Op::Fp && FpOp::from_u8(i.aux).is_some_and(FpOp::is_fused)
}

fn swap_addend(i: &mut Inst) {
    let c = FpRef::third(i.imm);
    i.imm = i.imm & FpRef::MORE | FpRef::with_third(i.a);
    i.a = c;
}

fn when(i: &mut Inst, condition: bool, change: impl FnOnce(&mut Inst)) -> bool {
    let old = *i;
    if condition {
        change(i);
    }
    *i != old
}

/// An operation without effect.
fn nop(i: &mut Inst) {
    *i = Inst { op: Op::Mov, aux: 0, d: guest_x86::state::RAX, a: guest_x86::state::RAX, b: NONE, imm: 0 };
}

fn op(i: &mut Inst, from: Op, to: Op) -> bool {
    when(i, i.op == from, |i| i.op = to)
}

fn kind(i: &mut Inst, from: Kind, to: Kind) -> bool {
    when(i, i.op == Op::Flags && i.aux == from as u8, |i| i.aux = to as u8)
}

fn flag_size(i: &mut Inst, from: u64, to: u64) -> bool {
    when(i, i.op == Op::Flags && i.imm == from, |i| i.imm = to)
}

fn is_access(i: &Inst) -> bool {
    matches!(i.op, Op::Load | Op::Store | Op::Load128 | Op::Store128)
}

fn memory(i: &mut Inst, wanted: impl FnOnce(&MemRef) -> bool, change: impl FnOnce(&mut MemRef)) -> bool {
    let mut m = MemRef::unpack(i.aux, i.imm);
    when(i, is_access(i) && wanted(&m), |i| {
        change(&mut m);
        (i.aux, i.imm) = (m.aux(), m.imm());
    })
}

fn gs_for_fs(i: &mut Inst) {
    for s in [&mut i.a, &mut i.b] {
        if *s == seg_base(Seg::Fs) {
            *s = seg_base(Seg::Gs);
        }
    }
}

/// Which of some bugs have been noticed, and by which case.
#[derive(Debug)]
pub struct Hunt(&'static [Mutant], Mutex<Vec<Option<String>>>);

impl Hunt {
    /// Nothing noticed yet.
    pub fn of(bugs: &'static [Mutant]) -> Hunt {
        Hunt(bugs, Mutex::new(vec![None; bugs.len()]))
    }

    fn open(&self) -> Vec<usize> {
        let list = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (0..self.0.len()).filter(|n| list[*n].is_none()).collect()
    }

    /// Run a case on which both sides agree with every bug that is still at large. States beyond those of the sample are not
    /// tried: the sample must notice every bug by itself, and a longer run would not tell whether it does.
    ///
    /// # Errors
    /// The guest cannot run at all.
    pub fn case(&self, name: &(Form, u64), made: &Made, host: &Outcome, guest: &mut Guest) -> Result<()> {
        let (form, state) = name;
        let enough = if form.shape == Shape::Sequence { run::SAMPLE_SEQUENCES } else { run::SAMPLE_STATES };
        let open = if *state < enough { self.open() } else { vec![] };
        if open.is_empty() {
            return Ok(());
        }
        let mut out = Box::new(Outcome::default());
        for n in open {
            let mut touched = false;
            let ran = guest.run(&made.case, run::most(form), &mut out, &mut |block| {
                for i in &mut block.insts {
                    touched |= self.0[n].1(i);
                }
            })?;
            if touched && !run::verdict(made, &Ok(host), &ran.map(|()| &*out)).is_empty() {
                let mut list = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                list[n] = Some(form.to_string());
            }
        }
        Ok(())
    }

    /// (bug, the case that has shown it).
    pub fn report(&self) -> Vec<(&'static str, Option<String>)> {
        let list = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.0.iter().map(|m| m.0).zip(list.iter().cloned()).collect()
    }
}
