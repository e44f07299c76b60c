//! The x87 unit: register stack, status and tags as guest words, and every instruction's effect on them.
//!
//! The idea: a lifted x87 instruction is one call of [`exec::execute`] (or, when it stores, of [`store::value`] and
//! [`store::commit`] around the write) with an [`Insn`] packed into the call's immediate. The arithmetic itself is the
//! host's (`fp::x87`); here is what surrounds it: the stack and its faults, condition codes, what an unmasked exception
//! leaves undone (Intel SDM volume 1, chapter 8), and the memory images of the state ([`image`]).

pub mod exec;
pub mod image;
pub mod store;
#[cfg(test)]
mod tests;

use crate::state::{FPU_CW, FPU_SW, FPU_TAG, fpr};
use fp::x87::{F80, sw};
use ir::Regs;

/// Control word, status word, tags and registers of a vCPU, seen as a stack.
pub struct Fpu<'a> {
    /// The guest's words.
    pub regs: &'a mut Regs,
}

impl<'a> Fpu<'a> {
    /// The unit of these words.
    pub fn new(regs: &'a mut Regs) -> Self {
        Fpu { regs }
    }

    /// Control word.
    pub fn cw(&self) -> u16 {
        self.regs.get(FPU_CW) as u16
    }

    /// Load the control word; what was pending may become unmasked, or masked.
    pub fn set_cw(&mut self, cw: u16) {
        self.regs.set(FPU_CW, (cw & fp::x87::CW_WRITABLE | fp::x87::CW_FIXED).into());
        self.summarise();
    }

    /// Status word.
    pub fn sw(&self) -> u16 {
        self.regs.get(FPU_SW) as u16
    }

    /// Set the status word as it is; see [`Fpu::summarise`].
    pub fn set_sw(&mut self, sw: u16) {
        self.regs.set(FPU_SW, sw.into());
    }

    /// Recompute ES and B from flags and masks.
    pub fn summarise(&mut self) {
        let pending = fp::x87::unmasked(self.sw(), self.cw()) != 0;
        let clean = self.sw() & !(sw::ES | sw::BUSY);
        self.set_sw(clean | if pending { sw::ES | sw::BUSY } else { 0 });
    }

    /// Add exception flags. Returns those among them that are unmasked.
    pub fn raise(&mut self, flags: u16) -> u16 {
        self.set_sw(self.sw() | flags & (sw::EXCEPTIONS | sw::SF));
        self.summarise();
        fp::x87::unmasked(flags, self.cw())
    }

    /// Replace the condition codes in `which` by those of `codes`.
    pub fn set_conditions(&mut self, which: u16, codes: u16) {
        self.set_sw(self.sw() & !which | codes & which);
    }

    /// Physical number of ST(0).
    pub fn top(&self) -> usize {
        usize::from((self.sw() & sw::TOP) >> sw::TOP_SHIFT)
    }

    /// Move TOP by `by` modulo 8.
    pub fn rotate(&mut self, by: usize) {
        let top = (self.top() + by) & 7;
        self.set_sw(self.sw() & !sw::TOP | (top as u16) << sw::TOP_SHIFT);
    }

    /// Physical number of ST(`i`).
    pub fn physical(&self, i: usize) -> usize {
        (self.top() + i) & 7
    }

    /// Whether ST(`i`) is empty.
    pub fn is_empty(&self, i: usize) -> bool {
        self.regs.get(FPU_TAG) >> self.physical(i) & 1 == 0
    }

    /// Mark ST(`i`) empty.
    pub fn free(&mut self, i: usize) {
        let bit = 1 << self.physical(i);
        self.regs.set(FPU_TAG, self.regs.get(FPU_TAG) & !bit);
    }

    /// The content of ST(`i`), empty or not.
    pub fn st(&self, i: usize) -> F80 {
        F80::from_bits(self.regs.get128(fpr(self.physical(i))))
    }

    /// Set ST(`i`) and mark it not empty.
    pub fn set_st(&mut self, i: usize, value: F80) {
        let n = self.physical(i);
        self.regs.set128(fpr(n), value.to_bits());
        self.regs.set(FPU_TAG, self.regs.get(FPU_TAG) | 1 << n);
    }

    /// Pop `count` registers.
    pub fn pop(&mut self, count: usize) {
        for _ in 0..count {
            self.free(0);
            self.rotate(1);
        }
    }

    /// Raise stack underflow; true when masked, that is when the default result is to be delivered.
    pub fn underflow(&mut self) -> bool {
        self.set_conditions(sw::C1, 0);
        self.raise(sw::IE | sw::SF) == 0
    }

    /// Push `value`, or deal with stack overflow: masked, indefinite is pushed instead.
    pub fn push(&mut self, value: F80) {
        let full = !self.is_empty(7);
        self.set_conditions(sw::C1, if full { sw::C1 } else { 0 });
        if full && self.raise(sw::IE | sw::SF) != 0 {
            return;
        }
        self.rotate(7);
        self.set_st(0, if full { F80::INDEFINITE } else { value });
    }
}

/// FNINIT. The data registers keep their contents.
pub fn init(regs: &mut Regs) {
    use crate::state::{FPU_DP, FPU_IP, FPU_OP};
    regs.set(FPU_CW, fp::x87::CW_RESET.into());
    for word in [FPU_SW, FPU_TAG, FPU_IP, FPU_DP, FPU_OP] {
        regs.set(word, 0);
    }
}

/// What an x87 helper call does: packed into 32 bits, the immediate of an IR call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// The form of the instruction.
    pub form: Form,
    /// Operation within the form, by its number.
    pub op: u8,
    /// Register of the stack.
    pub sti: u8,
    /// Registers to pop when it succeeds, 0 to 2.
    pub pops: u8,
    /// The 11-bit opcode, recorded when an unmasked exception is raised.
    pub opcode: u16,
}

impl Insn {
    /// Pack.
    pub const fn pack(self) -> u32 {
        self.form as u32
            | (self.op as u32 & 15) << 8
            | (self.sti as u32 & 7) << 12
            | (self.pops as u32 & 3) << 15
            | (self.opcode as u32 & 0x7ff) << 17
    }

    /// Unpack; `None` for a form that does not exist.
    pub fn unpack(packed: u32) -> Option<Insn> {
        let form = Form::ALL.get(packed as u8 as usize).copied()?;
        Some(Insn {
            form,
            op: (packed >> 8 & 15) as u8,
            sti: (packed >> 12 & 7) as u8,
            pops: (packed >> 15 & 3) as u8,
            opcode: (packed >> 17 & 0x7ff) as u16,
        })
    }
}

/// Forms of x87 instructions. `a` and `b` are the call's operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Form {
    /// ST(0) = ST(0) op ST(i).
    Arith0i,
    /// ST(i) = ST(i) op ST(0), then pops.
    ArithI0,
    /// ST(0) = ST(0) op single `a`.
    ArithF32,
    /// ST(0) = ST(0) op double `a`.
    ArithF64,
    /// ST(0) = ST(0) op integer `a`, sign-extended.
    ArithInt,
    /// ST(0) = op(ST(0), ST(1)): remainders and scale.
    Both,
    /// ST(1) = op(ST(0), ST(1)), pop: logarithms and arctangent.
    BothPop,
    /// ST(0) = op ST(0).
    Unary,
    /// ST(0) replaced and a second value pushed.
    Pair,
    /// Compare ST(0) with ST(i).
    Com,
    /// Compare with single `a`.
    ComF32,
    /// Compare with double `a`.
    ComF64,
    /// Compare with integer `a`.
    ComInt,
    /// Compare with zero.
    Test,
    /// Compare with ST(i) into EFLAGS.
    Comi,
    /// Classify ST(0).
    Xam,
    /// Push ST(i).
    LoadReg,
    /// Push single `a`.
    LoadF32,
    /// Push double `a`.
    LoadF64,
    /// Push extended: `a` significand, `b` sign and exponent.
    LoadF80,
    /// Push integer `a`, sign-extended.
    LoadInt,
    /// Push packed decimal: `a` low, `b` high 16 bits.
    LoadBcd,
    /// Push constant.
    Constant,
    /// Exchange ST(0) and ST(i).
    Xch,
    /// ST(i) = ST(0), then pops; with op 1 an empty ST(0) is only popped, without an exception.
    StoreReg,
    /// ST(0) = ST(i) if `a` is not zero.
    Cmov,
    /// Mark ST(i) empty, then pops (without a check).
    Free,
    /// Increment TOP.
    IncTop,
    /// Decrement TOP.
    DecTop,
    /// Nothing but what every instruction does.
    Nop,
    /// Store single: see [`store`].
    StoreF32,
    /// Store double.
    StoreF64,
    /// Store extended.
    StoreF80,
    /// Store integer; op is the width, 0 to 2 for 16, 32, 64 bits.
    StoreInt,
    /// Store truncated integer; op as above.
    StoreIntTruncated,
    /// Store packed decimal.
    StoreBcd,
}

impl Form {
    const ALL: [Form; 36] = [
        Form::Arith0i,
        Form::ArithI0,
        Form::ArithF32,
        Form::ArithF64,
        Form::ArithInt,
        Form::Both,
        Form::BothPop,
        Form::Unary,
        Form::Pair,
        Form::Com,
        Form::ComF32,
        Form::ComF64,
        Form::ComInt,
        Form::Test,
        Form::Comi,
        Form::Xam,
        Form::LoadReg,
        Form::LoadF32,
        Form::LoadF64,
        Form::LoadF80,
        Form::LoadInt,
        Form::LoadBcd,
        Form::Constant,
        Form::Xch,
        Form::StoreReg,
        Form::Cmov,
        Form::Free,
        Form::IncTop,
        Form::DecTop,
        Form::Nop,
        Form::StoreF32,
        Form::StoreF64,
        Form::StoreF80,
        Form::StoreInt,
        Form::StoreIntTruncated,
        Form::StoreBcd,
    ];
}
