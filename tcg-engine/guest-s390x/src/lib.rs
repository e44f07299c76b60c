//! A small s390x decoder that proves the IR fit for that architecture before its front end is built.
//!
//! It lifts one instruction at a time, of the kinds where s390x differs from x86: big-endian storage, a two-bit condition
//! code of many origins, 24- and 31-bit addresses, storage-to-storage operations that overlap or restart, EXECUTE, access
//! keys and address spaces, binary floating point. Most instructions are rows of a table ([`table`]); the rest are a few
//! functions by kind. Source: z/Architecture Principles of Operation (SA22-7832), cited by section name. It is not a CPU: it
//! takes no interruptions and translates no addresses.
//!
//! What an instruction means depends on the PSW, so [`lift`] takes a [`Mode`], which a block cache would make part of its
//! key. What a block cannot do by itself it hands to the run loop as an event ([`event`]): [`execute`] and [`load_psw`] are the
//! run loop's halves.

mod alu;
mod decode;
mod float;
mod flow;
mod helper;
mod memory;
mod shift;
mod storage;

pub mod mode;
pub mod table;

use ir::op::{FIRST_ARCH, FPC, MemRef, NONE};
use ir::{Block, Builder, Env, Op, Regs, Slot, Stop};

use decode::Fields;
pub use helper::{call, id as helper_id};
pub use mode::{Addressing, Mode, Space};

/// Word of general register `n`.
pub const fn r(n: u32) -> Slot {
    Slot(FIRST_ARCH + n as u16)
}

/// Word of access register `n` (low 32 bits).
pub const fn ar(n: u32) -> Slot {
    Slot(FIRST_ARCH + 16 + n as u16)
}

/// Word of floating-point register `n`; a short number is in its high half.
pub const fn f(n: u32) -> Slot {
    Slot(FIRST_ARCH + 32 + n as u16)
}

/// The left half of the PSW, without the condition code, which is in the flag words.
pub const PSW: Slot = Slot(FIRST_ARCH + 48);
/// [`event::EXECUTE`]: address of the target instruction.
pub const EX_TARGET: Slot = Slot(FIRST_ARCH + 49);
/// [`event::EXECUTE`]: the byte that is ORed into the target's second byte.
pub const EX_MODIFIER: Slot = Slot(FIRST_ARCH + 50);
/// [`event::LOAD_PSW`]: the new PSW, left half here, address in the next word.
pub const NEW_PSW: Slot = Slot(FIRST_ARCH + 51);
/// [`event::PROGRAM`]: the interruption code.
pub const PROGRAM_CODE: Slot = Slot(FIRST_ARCH + 53);
/// The floating-point control register: masks 24..32, flags 16..24, DXC 8..16, rounding 0..8.
pub const FP_CONTROL: Slot = FPC;

/// Program interruption codes ("Program-Interruption Conditions"), as [`Op::Raise`] vectors.
pub mod program {
    /// Privileged operation.
    pub const PRIVILEGED: u8 = 2;
    /// EXECUTE of an EXECUTE.
    pub const EXECUTE: u8 = 3;
    /// Protection.
    pub const PROTECTION: u8 = 4;
    /// Specification.
    pub const SPECIFICATION: u8 = 6;
    /// Data; the error code is the DXC.
    pub const DATA: u8 = 7;
    /// Fixed-point overflow (completing).
    pub const FIXED_OVERFLOW: u8 = 8;
    /// Fixed-point divide.
    pub const FIXED_DIVIDE: u8 = 9;
    /// Not a code of the architecture: floating-point traps that complete with a scaled result are beyond this decoder.
    pub const NOT_LIFTED: u8 = 0xff;
}

/// Events that end a block for the run loop.
pub mod event {
    /// Run the instruction at [`super::EX_TARGET`] in place of this one: see [`super::execute`].
    pub const EXECUTE: u8 = 0;
    /// Install the PSW in [`super::NEW_PSW`]: see [`super::load_psw`].
    pub const LOAD_PSW: u8 = 1;
    /// The instruction is complete, and a program interruption with [`super::PROGRAM_CODE`] follows.
    pub const PROGRAM: u8 = 2;
}

/// Address-space selectors of [`MemRef::space`].
pub mod space {
    /// The primary address space.
    pub const PRIMARY: u8 = 0;
    /// The secondary address space.
    pub const SECONDARY: u8 = 1;
    /// The home address space.
    pub const HOME: u8 = 2;
    /// Plus n: the space that access register n designates. An environment sees access registers change because they are
    /// written by [`super::helper_id::SET_ACCESS`].
    pub const BY_REGISTER: u8 = 16;
}

/// An instruction cannot be lifted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unknown {
    /// The instruction is not one of those that this decoder knows.
    #[error("instruction {0:#014x} (left-aligned) is not in the table")]
    Instruction(u64),
    /// Fewer bytes than the instruction's first byte announces.
    #[error("the instruction has {wanted} bytes, {given} are given")]
    Short {
        /// Length by the first byte.
        wanted: usize,
        /// Bytes given.
        given: usize,
    },
}

/// What a lifted instruction is built with.
pub(crate) struct Lift {
    pub b: Builder,
    pub mode: Mode,
    /// The instruction's own address; of an executed one, that of the EXECUTE.
    pub pc: u64,
    /// The address of the next instruction.
    pub next: u64,
    /// What relative operands are relative to: the place of the instruction's bytes.
    pub origin: u64,
    /// The instruction has written the program counter.
    pub left: bool,
}

impl Lift {
    /// How to reach a storage operand of `1 << log2` bytes by base register `base`.
    pub fn access(&self, log2: u8, signed: bool, base: u32) -> MemRef {
        MemRef {
            signed,
            big: true,
            space: self.mode.space_of(base),
            key: self.mode.access_key(),
            wrap: self.mode.addressing.wrap(),
            ..MemRef::new(log2)
        }
    }

    /// A constant address, as wide as the mode has it.
    pub fn wrap(&self, address: u64) -> u64 {
        address & self.mode.addressing.mask()
    }

    /// The low half of register `n` becomes that of `s`; the high half stays.
    pub fn set32(&mut self, n: u32, s: Slot) {
        self.b.full(Op::Deposit, 0, r(n), r(n), s, 32 << 8);
    }

    /// The register becomes `s`, or its low half does.
    pub fn set(&mut self, n: u32, s: Slot, wide: bool) {
        if wide { self.b.op(Op::Mov, r(n), s, NONE) } else { self.set32(n, s) }
    }

    /// The value of an address operand: base + index + displacement, wrapped.
    pub fn address(&mut self, f: &Fields) -> Slot {
        self.sum(f.b2, f.x2, f.d2)
    }

    /// Base + index + displacement; register number 0 means none.
    pub fn sum(&mut self, base: u32, index: u32, disp: i32) -> Slot {
        let t = self.b.temp();
        self.b.full(Op::Lea, 0, t, base_slot(base), base_slot(index), i64::from(disp) as u64);
        self.masked(t)
    }

    /// `t` with the bits that the addressing mode ignores cleared.
    pub fn masked(&mut self, t: Slot) -> Slot {
        match self.mode.addressing {
            Addressing::A64 => t,
            a => self.b.new_imm(Op::AndI, t, a.mask()),
        }
    }

    /// Register `n` takes an address (in the narrow modes its low half only).
    pub fn set_address(&mut self, n: u32, t: Slot) {
        let masked = self.masked(t);
        self.set(n, masked, self.mode.addressing == Addressing::A64);
    }

    /// End with a program interruption that leaves the instruction undone.
    pub fn raise(&mut self, code: u8) {
        self.b.full(Op::Raise, code, NONE, NONE, NONE, 0);
        self.left = true;
    }

    /// Raise `code` if `condition` is not zero.
    pub fn raise_if(&mut self, condition: Slot, code: u8) {
        let s = self.b.skip_if_zero(condition);
        self.b.full(Op::Raise, code, NONE, NONE, NONE, 0);
        self.b.close(s);
    }

    /// A specification exception unless `n` is even.
    pub fn even(&mut self, n: u32) -> bool {
        if n & 1 != 0 {
            self.raise(program::SPECIFICATION);
        }
        n & 1 == 0
    }

    /// Leave to a constant program counter.
    pub fn jump(&mut self, to: u64) {
        let to = self.wrap(to);
        self.b.op_imm(Op::Exit, NONE, NONE, to);
        self.left = true;
    }

    /// Leave with an event; the program counter becomes `pc`.
    pub fn event(&mut self, event: u8, pc: u64) {
        self.b.full(Op::ExitEvent, event, NONE, NONE, NONE, pc);
        self.left = true;
    }
}

/// A register in an address: number 0 means "none" there.
pub(crate) const fn base_slot(n: u32) -> Slot {
    if n == 0 { NONE } else { r(n) }
}

/// Bytes of the instruction that begins with `first` ("Instruction-Length Code").
pub const fn length(first: u8) -> usize {
    match first >> 6 {
        0 => 2,
        1 | 2 => 4,
        _ => 6,
    }
}

/// Lift the instruction that `bytes` begin with, at `pc`, into a block of its own.
pub fn lift(bytes: &[u8], pc: u64, mode: Mode) -> Result<Block, Unknown> {
    let n = length(bytes.first().copied().unwrap_or(0));
    lift_at(bytes, pc, pc, n as u8, mode)
}

/// Lift `bytes` as the target of an EXECUTE at `pc` that is `len` bytes long; the target itself stands at `origin`.
fn lift_at(bytes: &[u8], origin: u64, pc: u64, len: u8, mode: Mode) -> Result<Block, Unknown> {
    let n = length(bytes.first().copied().unwrap_or(0));
    let Some(bytes) = bytes.get(..n) else { return Err(Unknown::Short { wanted: n, given: bytes.len() }) };
    let mut word = [0; 8];
    word[..n].copy_from_slice(bytes);
    let i = u64::from_be_bytes(word);
    let (row, fields) = table::find(i).ok_or(Unknown::Instruction(i))?;
    let next = pc.wrapping_add(u64::from(len)) & mode.addressing.mask();
    let mut l = Lift { b: Builder::new(pc), mode, pc, next, origin, left: false };
    l.b.instruction(pc, len);
    table::build(&mut l, row, &fields).ok_or(Unknown::Instruction(i))?;
    if !l.left {
        l.jump(next);
    }
    Ok(l.b.finish())
}

/// What [`execute`] found at the target.
#[derive(Debug)]
pub enum Executed {
    /// The block to run now; it counts as the EXECUTE.
    Block(Block),
    /// A program interruption is pending in the environment; the program counter is that of the EXECUTE.
    Fault,
}

/// The run loop's half of EXECUTE ([`event::EXECUTE`]): fetch the target, modify it, lift it in the place of the EXECUTE.
///
/// The program counter must be that of the EXECUTE. A block cache would key such a block by the modified instruction too.
pub fn execute<E: Env>(regs: &Regs, env: &mut E) -> Result<Executed, Unknown> {
    let mode = Mode::of(regs.get(PSW));
    let (target, pc) = (regs.get(EX_TARGET), regs.get(ir::PC));
    // Instructions are fetched from the primary space in all modes but home-space mode ("Address Spaces").
    let m = MemRef {
        big: true,
        space: if mode.space == Space::Home { space::HOME } else { space::PRIMARY },
        key: mode.access_key(),
        wrap: mode.addressing.wrap(),
        ..MemRef::new(1)
    };
    let fetch = |env: &mut E, at: u64| env.load(at & mode.addressing.mask(), m).map(|v| (v as u16).to_be_bytes());
    let mut bytes = [0; 6];
    let mut n = 2;
    let mut at = 0;
    while at < n {
        match fetch(env, target.wrapping_add(at as u64)) {
            Ok(half) => bytes[at..at + 2].copy_from_slice(&half),
            Err(_) => return Ok(Executed::Fault),
        }
        n = length(bytes[0]);
        at += 2;
    }
    // The length of the EXECUTE itself: EX has four bytes, EXRL six.
    let Ok(own) = fetch(env, pc) else { return Ok(Executed::Fault) };
    if table::is_execute(bytes[0], bytes[1]) {
        env.raise(program::EXECUTE, 0);
        return Ok(Executed::Fault);
    }
    bytes[1] |= regs.get(EX_MODIFIER) as u8;
    lift_at(&bytes[..n], target, pc, length(own[0]) as u8, mode).map(Executed::Block)
}

/// Why a PSW that has been loaded is refused: a specification exception is due with the new PSW as the old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EarlySpecification;

/// The run loop's half of LOAD PSW EXTENDED ([`event::LOAD_PSW`]): the words of [`NEW_PSW`] become the PSW, valid or not
/// ("Early Exception Recognition": the exception is recognized after the PSW has been loaded).
pub fn load_psw(regs: &mut Regs) -> Result<(), EarlySpecification> {
    let (left, address) = (regs.get(NEW_PSW), regs.get(Slot(NEW_PSW.0 + 1)));
    regs.set(ir::PC, address);
    regs.set(PSW, left & !mode::CC);
    regs.set(ir::op::FLAG_KIND, ir::flags::kind_word(ir::flags::Kind::S390Explicit, 64));
    regs.set(ir::op::FLAG_R, (left & mode::CC) >> mode::CC_SHIFT);
    if mode::valid(left, address) { Ok(()) } else { Err(EarlySpecification) }
}

/// A convenience for helpers: the pending exception `code` with `error`.
pub(crate) fn stop<E: Env>(env: &mut E, code: u8, error: u64) -> Stop {
    env.raise(code, error);
    Stop::Fault
}
