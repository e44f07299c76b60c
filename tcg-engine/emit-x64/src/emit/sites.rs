//! What is kept of a block's code: the places where it calls out or is left.

#[cfg(doc)]
use ir::NONE;
use ir::Slot;

/// What is known about a place in emitted code that can be left or calls out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The block's number in the cache.
    pub block: u32,
    /// Operation.
    pub op: u16,
    /// Temporary that R14 holds and memory does not, or [`NONE`]; above it [`Site::MEMOS`] and [`Site::RESULT`]. There are many.
    pub(super) held: u16,
}

impl Site {
    pub(super) const MEMOS: u16 = 1 << 14;
    pub(super) const RESULT: u16 = 1 << 15;

    /// Temporary that R14 holds and memory does not, or [`NONE`].
    pub fn temp(self) -> Slot {
        Slot(self.held & !(Site::MEMOS | Site::RESULT))
    }

    /// The block's accesses may rely on what others of it have found.
    pub fn memos(self) -> bool {
        self.held & Site::MEMOS != 0
    }

    /// The operation's result, a temporary, belongs into R14.
    pub fn result(self) -> bool {
        self.held & Site::RESULT != 0
    }
}

/// A direct exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectExit {
    /// Where the guest goes on.
    pub pc: u64,
    /// Counted from what [`CODE_BASE`](crate::layout::CODE_BASE) holds.
    pub relative: bool,
    /// The number of its block in the cache.
    pub block: u32,
    /// Offset in code memory of the distance to patch.
    pub hole: u32,
    /// Where it leads while it is not linked: a call, whose return address says which exit it is.
    pub unlinked: u32,
}
