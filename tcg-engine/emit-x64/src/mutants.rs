//! Planted bugs: each is a mistake that this emitter could have, and the comparison of the tiers must notice it.
//!
//! The idea: a bug is asked for by name where it would be, by a function that is a constant outside of tests. With the feature
//! `mutants`, which only tests of other crates turn on, one may be planted for the current thread.

#[cfg(any(test, feature = "mutants"))]
use std::cell::Cell;

macro_rules! mutants {
    ($($name:ident: $what:literal,)*) => {
        /// The bugs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        /// All of them, and what they do.
        #[cfg(any(test, feature = "mutants"))]
        pub const ALL: &[(Mutant, &str)] = &[$((Mutant::$name, $what),)*];
    };
}

mutants! {
    Carry: "the guest's carry is not brought back before ADC, SBB, INC and DEC",
    Width: "a 32-bit result is not extended",
    NotSaved: "flags are not saved before an operation that may fault",
    ShiftByZero: "a shift by CL does not keep the flags when CL is zero",
    Clobbered: "flags are not saved before host arithmetic that destroys them",
    Evict: "a temporary is not written to memory when its register is taken",
    Reload: "a temporary is not taken back from memory after a slow path",
    Constants: "constants are not in memory when the interpreter needs them",
    Settle: "a constant is not in memory where ways meet",
    WriteCheck: "a store asks for the right to read",
    PageEnd: "an access is looked up by its first byte alone",
    Aligned: "alignment of a vector operand is not checked",
    Budget: "an exit from the middle of a block counts one instruction too many",
    Middle: "what a fault left undone is counted",
    ExitBefore: "an exit is taken for the one that lies before it",
    HeadBefore: "a block that is left at its head is taken for the one that lies before it",
    Holes: "links that lay in code that was reclaimed are still undone",
    AcrossOld: "what links of reclaimed code to other pages lead over is written again",
    LinkedOld: "links to a block whose code is reclaimed stay",
    RememberedOld: "jumps to a block whose code is reclaimed are still found",
    Turn: "an exit that was left before its part of code memory was begun again is linked",
    MemosOld: "what accesses of reclaimed code remember stays",
    Linked: "links to a block that is gone stay",
    Remembered: "jumps to a block that is gone are still found",
    Context: "jumps are found in every address space",
    Across: "links to another page are believed in every address space",
    TakenOver: "a word whose register a loop takes is not written to memory",
    PutBack: "a word that a loop has in a register is not written to memory",
    NotTaken: "a loop does not take words into its registers",
    ReturnContext: "a return to what a call of another address space left",
    ReturnGone: "a return to code that is gone",
    Unchecked: "jumps to addresses that are not canonical are made",
    Moved: "a return to an address that is not canonical has moved the stack pointer",
    ReturnAddress: "a return to what lies at its place on the stack, whatever it is",
    Base: "a jump leaves what program counters are counted from as it was",
    LinkBase: "a link to another page leaves what program counters are counted from as it was",
    LinkPlace: "a link to another page is believed wherever its code is mapped",
    LinkUndone: "a link to another page that is undone leads on from there",
    ReturnBase: "a return leaves what program counters are counted from as it was",
    Elsewhere: "jumps to a block that is gone are still found where it was mapped before",
    Anonymous: "a block is found in every address space that wants to know where it is mapped",
    BitFlags: "the flags of bit manipulation are lost",
    Remainder: "a division loses its remainder",
    VectorsLost: "vector registers are not written to memory before the interpreter runs",
    UppersLost: "upper halves of YMM registers are not written to memory before the interpreter runs",
    UppersOld: "upper halves of YMM registers are not taken over where the lower ones are there",
    UpperPair: "the upper half of a temporary is not written to memory when its register is taken",
    WideMiss: "half of an access of 256 bits is left out on the slow path",
    Twin: "the operands of upper halves are taken for granted",
    StickyLost: "the sticky flags of MXCSR are not read back",
    HostControl: "the guest's MXCSR stays when emitted code is left",
    Control: "the guest's MXCSR is not loaded",
    Unmasked: "floating point with unmasked exceptions is run as if they were masked",
    OldControl: "MXCSR is written while the host holds the old one",
    HighHalf: "a scalar from memory leaves the high half of its register after a slow path",
    PairEvict: "a temporary pair is not written to memory when its register is taken",
    PairReload: "a temporary pair is not taken back from memory after a slow path",
    Plain: "operations on vector registers are emitted as if there were none in the block",
    Spill: "a vector register is not in memory when general code reads its word",
    SideFlags: "flags are not saved where the middle of a block is left",
    Shrunk: "accesses rely on what the TLB has given up meanwhile",
    Near: "a group of accesses is found elsewhere after a slow path",
    Second: "of groups of accesses, one that has no register is taken for the one that has the second",
    Addend: "a loop goes on with another addend than a slow path has found",
    RoundsMany: "one round too many is counted",
    RoundsEnd: "rounds are counted until the first byte of a group leaves its pages",
    RoundsRight: "counted rounds store where only loads were asked for",
    RoundsBase: "a word that counted rounds go by is lost",
    RoundsKept: "rounds that were counted and not done are not given back",
    RoundsFlags: "flags are not there behind counted rounds",
    RoundsTicket: "a plan is taken for a loop that has the number of the one that it was made for",
    GroupRight: "a group of accesses asks for the right of its first one alone",
    Apart: "only the first access of a group is looked at",
    NoRecipe: "flags that were not saved are not made when a fault shows them",
    Again: "flags that were not saved are not made for a condition",
    ShiftedOut: "the carry of a shift whose flags are made apart from it is wrong",
    Kept: "flags of a shift are made from something else than was shifted",
    Ingredient: "flags are made from what was overwritten",
    Memos: "what accesses remember stays when the TLB gives it up",
    Runs: "what accesses remember of more than a page stays when the TLB gives it up",
    MemoRight: "a store remembers a page that may be read",
    WideEnd: "a load from a large page may go beyond its end",
    MemoEnd: "what an access remembers says nothing about the end of the page",
    RunEnd: "what an access remembers of a run of pages says nothing about its end",
    Scratch: "refilling the TLB changes a register",
    ScratchUppers: "upper halves of YMM registers are lost when a run of pages is remembered",
    ScratchVectors: "refilling the TLB loses vector registers",
    Refill: "a vector register does not follow what general code writes to its word",
}

#[cfg(any(test, feature = "mutants"))]
thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plant a bug in what this thread emits from now on, or none.
#[cfg(any(test, feature = "mutants"))]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether a bug is planted.
#[cfg(any(test, feature = "mutants"))]
pub(crate) fn on(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Whether a bug is planted.
#[cfg(not(any(test, feature = "mutants")))]
#[inline(always)]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}
