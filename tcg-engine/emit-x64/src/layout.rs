//! Where emitted code finds things: pinned guest words, the vCPU's words, and the private words of this tier.
//!
//! RBP points into the register file, so that the first 32 words (program counter, flags, general registers, segment bases)
//! are one byte of displacement away. Nine guest words live in host registers while emitted code runs; R14 holds one
//! temporary; RAX, RCX and RDX belong to single operations; R15 is the TLB's current bank, but within hot blocks. Fourteen
//! guest XMM registers live in the host's of the same numbers, but only from the first block on that uses any: [`VECTORS`]
//! says so. So do their upper halves, from the first block on that names one.

use std::ops::Range;

use ir::Slot;
use ir::op::PRIVATE;

use crate::asm::{Mem, R8, R9, R10, R11, R12, R13, R14, R15, RBP, RBX, RDI, RSI, Reg, at};

/// Word that RBP points at.
pub const BIAS: u16 = 16;
/// Guest words that live in host registers: the first nine that compilers use.
pub const PINNED: [(u16, Reg); 9] =
    [(8, RBX), (9, RDI), (10, RSI), (11, R8), (12, R13), (13, R12), (14, R9), (15, R10), (20, R11)];
/// The guest's general registers.
pub const GENERAL: Range<u16> = 8..24;
/// What program counters of blocks are counted from that can be run wherever their code is mapped: where the page of the running
/// block's first byte begins.
pub const CODE_BASE: Slot = Slot(25);
/// Pointer to the running [`crate::run::Runtime`].
pub const RUNTIME: Slot = Slot(PRIVATE + 2);
/// Address of the TLB's current bank.
pub const BANK: Slot = Slot(PRIVATE + 3);
/// Address of the jump cache.
pub const JUMPS: Slot = Slot(PRIVATE + 4);
/// Context that translations of code addresses depend on.
pub const CONTEXT: Slot = Slot(PRIVATE + 5);
/// The same for global pages.
pub const GLOBAL_CONTEXT: Slot = Slot(PRIVATE + 6);
/// What the temporary's register held when emitted code was left or called an operation.
pub const TEMP: Slot = Slot(PRIVATE + 7);

/// What of the guest's is in host vector registers and MXCSR: bits of [`live`].
pub const VECTORS: Slot = Slot(PRIVATE + 8);
/// The host's own MXCSR, which everything that is not emitted runs with.
pub const HOST_MXCSR: Slot = Slot(PRIVATE + 9);
/// Its value: every exception masked, round to nearest.
pub const DEFAULT_MXCSR: u64 = 0x1f80;

/// Where returns are looked up, see [`crate::returns`].
pub const RETURNS: Slot = Slot(PRIVATE + 10);
/// The exit that leads to another page, while its jump is looked up.
pub const ACROSS: Slot = Slot(PRIVATE + 11);

/// What R15 held of a group of accesses, on a slow path.
pub const NEAR: Slot = Slot(PRIVATE + 12);
/// The word whose register a loop has for a second group.
pub const SECOND: Slot = Slot(PRIVATE + 13);

/// Bits of [`VECTORS`].
pub mod live {
    /// The first [`XMM_PINNED`](super::XMM_PINNED) XMM registers.
    pub const XMM: i32 = 1;
    /// MXCSR; the word in memory lacks sticky flags.
    pub const MXCSR: i32 = 2;
    /// The upper halves of the same registers.
    pub const YMM: i32 = 4;
    /// All.
    pub const ALL: i32 = XMM | MXCSR | YMM;
}

/// Word of XMM0; the others follow at a distance of [`XMM_STEP`].
pub const XMM: u16 = 32;
/// Words from one XMM register to the next.
pub const XMM_STEP: u16 = 4;
/// Guest XMM registers that live in the host's of the same number.
pub const XMM_PINNED: u16 = 14;
/// Host XMM register of single operations.
pub const XS: Reg = R14;
/// Host XMM register that holds one temporary pair.
pub const XT: Reg = R15;

/// The host XMM register of a word of a guest one, and whether it is the high half.
#[inline]
pub fn xmm(s: Slot) -> Option<(Reg, bool)> {
    let at = s.0.wrapping_sub(XMM);
    (at < XMM_STEP * XMM_PINNED && at % XMM_STEP < 2).then_some((Reg((at / XMM_STEP) as u8), at % XMM_STEP == 1))
}

/// The host YMM register in whose upper half a word of a guest one's is while that is in registers at all, and whether it is the
/// higher word of the two.
#[inline]
pub fn upper(s: Slot) -> Option<(Reg, bool)> {
    let at = s.0.wrapping_sub(XMM);
    (at < XMM_STEP * XMM_PINNED && at % XMM_STEP >= 2).then_some((Reg((at / XMM_STEP) as u8), at % XMM_STEP == 3))
}

/// The word of a slot in memory.
pub const fn word(s: Slot) -> Mem {
    at(RBP, (s.0 as i32 - BIAS as i32) * 8)
}

/// The host registers of guest words.
#[derive(Clone, Copy, Debug)]
pub struct Pins([u8; 32]);

impl Pins {
    /// Those of [`PINNED`], which everything but a loop keeps to.
    pub const USUAL: Pins = {
        let mut t = [0xff; 32];
        let mut i = 0;
        while i < PINNED.len() {
            t[PINNED[i].0 as usize] = PINNED[i].1.0;
            i += 1;
        }
        Pins(t)
    };

    /// The host register of a guest word, if it has one.
    #[inline]
    pub fn get(&self, s: Slot) -> Option<Reg> {
        match self.0.get(s.0 as usize) {
            Some(&r) if r != 0xff => Some(Reg(r)),
            _ => None,
        }
    }

    /// Word `to` has the register of word `from` from now on, which has none.
    pub fn give(&mut self, from: Slot, to: Slot) {
        if let (Some(r), Some(place)) = (self.get(from), self.0.get_mut(to.0 as usize)) {
            *place = r.0;
            self.take(from);
        }
    }

    /// The word has no register from now on.
    pub fn take(&mut self, from: Slot) {
        if let Some(place) = self.0.get_mut(from.0 as usize) {
            *place = 0xff;
        }
    }
}
