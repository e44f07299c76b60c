//! The intermediate representation of the translator, and T0, its interpreter and oracle.
//!
//! Owns the operations ([`op`]), lazily evaluated flags ([`flags`]), vector semantics ([`vec`]), lifted blocks and their
//! builder ([`block`]), the verifier and printer, and the interpreter ([`t0`]). It knows no guest architecture: a front end
//! lifts guest bytes into a [`Block`], and an [`Env`] gives it memory, helpers and exceptions.

pub mod block;
pub mod dead;
pub mod effects;
pub mod flags;
pub mod op;
pub mod print;
pub mod t0;
pub mod vec;
pub mod verify;

pub use block::{Block, Builder, Point, Skip};
pub use op::{AluOp, AluRef, AtomicOp, BulkOp, BulkRef, Fence, Inst, MemRef, NONE, Op, PC, Rel, Slot};

/// The register file: guest state below [`op::FIRST_TEMP`], temporaries above.
#[derive(Clone)]
#[repr(align(64))]
pub struct Regs {
    /// The words.
    pub w: [u64; op::WORDS],
}

impl Default for Regs {
    fn default() -> Self {
        Regs { w: [0; op::WORDS] }
    }
}

impl Regs {
    /// Read a word.
    #[inline(always)]
    pub fn get(&self, s: Slot) -> u64 {
        self.w[s.0 as usize & (op::WORDS - 1)]
    }

    /// Write a word.
    #[inline(always)]
    pub fn set(&mut self, s: Slot, v: u64) {
        self.w[s.0 as usize & (op::WORDS - 1)] = v;
    }

    /// Read a pair.
    #[inline(always)]
    pub fn get128(&self, s: Slot) -> u128 {
        let i = s.0 as usize & (op::WORDS - 2);
        self.w[i] as u128 | (self.w[i + 1] as u128) << 64
    }

    /// Write a pair.
    #[inline(always)]
    pub fn set128(&mut self, s: Slot, v: u128) {
        let i = s.0 as usize & (op::WORDS - 2);
        self.w[i] = v as u64;
        self.w[i + 1] = (v >> 64) as u64;
    }
}

/// Why an operation did not simply succeed. Details (vector, address, error code) are kept by the [`Env`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A guest exception is pending in the environment; nothing of the current guest instruction has taken effect (or it
    /// is restartable with its progress in guest words).
    Fault,
    /// The operation is done, but code in this block may have changed, or the run loop asked to look: finish the current
    /// guest instruction and leave the block.
    FinishInstruction,
    /// Leave at once and run the current instruction again later (a register access was withdrawn for a pause).
    Restart,
}

/// What the interpreter needs from its guest architecture and machine.
///
/// Rule for every method that can stop: before `Err(Stop::Fault | Stop::Restart)` nothing has changed; with
/// `Err(Stop::FinishInstruction)` the effect has taken place (only stores, atomics and calls without result return that).
pub trait Env {
    /// Load `m.bytes()` bytes at `addr`, converted and extended as `m` says.
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop>;
    /// Store the low bytes of `value`.
    fn store(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(), Stop>;
    /// Load 16 bytes.
    fn load128(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop>;
    /// Store 16 bytes.
    fn store128(&mut self, addr: u64, m: MemRef, value: u128) -> Result<(), Stop>;
    /// Atomic read-modify-write; returns the old value, and whether to finish the instruction.
    fn atomic(&mut self, addr: u64, m: MemRef, op: AtomicOp, operand: u64) -> Result<(u64, Then), Stop>;
    /// Atomic compare and exchange; returns the old value.
    fn cas(&mut self, addr: u64, m: MemRef, expected: u64, new: u64) -> Result<(u64, Then), Stop>;
    /// 128-bit compare and exchange.
    fn cas128(&mut self, addr: u64, m: MemRef, expected: u128, new: u128) -> Result<(u128, Then), Stop>;
    /// Load and open the monitor.
    fn load_exclusive(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop>;
    /// Store if the monitor holds: `true` = stored.
    fn store_exclusive(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(bool, Then), Stop>;
    /// Close the monitor.
    fn clear_exclusive(&mut self);
    /// Bulk operation: returns the bytes done, at least one element unless `len` is 0; may do fewer than asked unless
    /// [`BulkRef::whole`]. [`BulkOp::Compare`] returns the number of equal bytes instead.
    fn bulk(&mut self, op: BulkOp, dst: u64, src: u64, len: u64, r: BulkRef) -> Result<(u64, Then), Stop>;
    /// Run helper `id` of the architecture.
    fn call(&mut self, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Result<(u64, Then), Stop>;
    /// Note guest exception `vector` with `error` as pending; the interpreter then stops with [`Stop::Fault`].
    fn raise(&mut self, vector: u8, error: u64);
    /// An unmasked floating-point exception is to be raised (flags in the FPC layout). The interpreter then stops.
    fn raise_fp(&mut self, flags: u32);
}

/// What follows an operation that has taken effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Go on.
    Continue,
    /// As [`Stop::FinishInstruction`].
    FinishInstruction,
}
