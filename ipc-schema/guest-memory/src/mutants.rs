//! Planted bugs: each is a way in which dirty tracking loses a page, or in which code is run that a device has replaced, and a test
//! must notice it.
//!
//! The idea: a bug is asked for by name where it would be, by a function that is a constant outside of tests. With the feature
//! `mutants`, which only tests of other crates turn on, one may be planted for the current thread.

#[cfg(any(test, feature = "mutants"))]
use std::cell::Cell;

macro_rules! mutants {
    ($($name:ident: $what:literal,)*) => {
        /// The bugs.
        #[cfg_attr(not(any(test, feature = "mutants")), expect(dead_code, reason = "some are planted in the model alone"))]
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
    CopyBeforeAck: "pages are copied before the vCPUs have acknowledged",
    KeptTags: "a vCPU acknowledges without dropping its write tags",
    SwapAfterAck: "what was written is collected only after the acknowledgements",
    NoWait: "nobody waits for the acknowledgements",
    MarkFirst: "a device marks a page only before it writes it",
    Sampled: "a write tag is installed because of a mark that was seen before a safepoint",
    NoFence: "a vCPU that goes on may read the harvest number before others see that it runs",
    NoFenceInRound: "a harvester may see what vCPUs do before they can see the harvest number",
    NotReread: "a vCPU that goes on does not read the harvest number",
    NotMarked: "a page is not marked before it gets a write tag",
    LookFirst: "a writer looks for translated code only before it writes",
    NoFenceInWrite: "a writer may look for translated code before others can see the data",
    NoFenceInLift: "a vCPU may compare the bytes of a block before others can see that it has one",
    NotAsked: "a writer does not care for translated code",
    NotAwaited: "a writer does not wait until the engine has dropped the code",
    TicketBeforeBits: "a writer takes its ticket before it says which pages are stale",
    TicketAfterBits: "the engine reads the last ticket when it has taken the stale pages",
    SaidFirst: "the engine says that it is done before the code is dropped",
    NotCompared: "bytes are not compared again when others can see that they became a block",
}

#[cfg(any(test, feature = "mutants"))]
thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plant a bug in what this thread does from now on, or none.
#[cfg(any(test, feature = "mutants"))]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether a bug is planted.
#[cfg(any(test, feature = "mutants"))]
pub fn on(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Whether a bug is planted.
#[cfg(not(any(test, feature = "mutants")))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}
