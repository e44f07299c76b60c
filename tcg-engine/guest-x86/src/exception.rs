//! Exceptions: vectors, classes, and the one that is pending.

/// #DE.
pub const DE: u8 = 0;
/// #DB.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// #BP.
pub const BP: u8 = 3;
/// #OF.
pub const OF: u8 = 4;
/// #BR.
pub const BR: u8 = 5;
/// #UD.
pub const UD: u8 = 6;
/// #NM.
pub const NM: u8 = 7;
/// #DF.
pub const DF: u8 = 8;
/// #TS.
pub const TS: u8 = 10;
/// #NP.
pub const NP: u8 = 11;
/// #SS.
pub const SS: u8 = 12;
/// #GP.
pub const GP: u8 = 13;
/// #PF.
pub const PF: u8 = 14;
/// #MF.
pub const MF: u8 = 16;
/// #AC.
pub const AC: u8 = 17;
/// #XM.
pub const XM: u8 = 19;

/// Where an event came from: decides the saved RIP, RF and privilege checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A fault: RIP is that of the instruction.
    Fault,
    /// #DB after an instruction, or another trap: RIP is the next instruction's.
    Trap,
    /// External interrupt or NMI.
    External,
    /// INT n, INT3, INTO: gate privilege is checked.
    Software,
    /// INT1: like `Software` without the privilege check.
    PrivilegedSoftware,
}

/// An exception or interrupt to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u32>,
    /// CR2, for #PF.
    pub cr2: Option<u64>,
    /// Bits to set in DR6, for #DB.
    pub dr6: u64,
    /// Origin.
    pub source: Source,
}

impl Exception {
    /// A fault without error code.
    pub const fn fault(vector: u8) -> Exception {
        Exception { vector, error: None, cr2: None, dr6: 0, source: Source::Fault }
    }

    /// A fault with error code.
    pub const fn with_code(vector: u8, code: u32) -> Exception {
        Exception { error: Some(code), ..Exception::fault(vector) }
    }

    /// A page fault.
    pub const fn page(address: u64, code: u32) -> Exception {
        Exception { cr2: Some(address), ..Exception::with_code(PF, code) }
    }

    /// A single-step trap.
    pub const fn single_step() -> Exception {
        Exception { dr6: 1 << 14, source: Source::Trap, ..Exception::fault(DB) }
    }
}

/// Whether hardware pushes an error code for this exception vector.
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, DF | TS | NP | SS | GP | PF | AC)
}

/// How two exceptions in a row combine (SDM vol. 3A, table "Conditions for generating a double fault").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Handled one after the other.
    Benign,
    /// Two of them make a double fault.
    Contributory,
    /// Page fault: followed by this or a contributory one it makes a double fault.
    PageFault,
    /// Followed by anything but a benign one: shutdown.
    DoubleFault,
}

/// The class of a vector.
pub const fn class(vector: u8) -> Class {
    match vector {
        DE | TS | NP | SS | GP => Class::Contributory,
        PF => Class::PageFault,
        DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What delivering `second` while delivering `first` becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// Deliver the second one.
    Second,
    /// Deliver #DF.
    Double,
    /// Shut down.
    Shutdown,
}

/// Combine two exceptions.
pub const fn combine(first: u8, second: u8) -> Combined {
    match (class(first), class(second)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => Combined::Shutdown,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Combined::Double
        }
        _ => Combined::Second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_double_fault_table() {
        for (first, second, want) in [
            (UD, GP, Combined::Second),
            (GP, UD, Combined::Second),
            (GP, PF, Combined::Second),
            (GP, NP, Combined::Double),
            (DE, DE, Combined::Double),
            (PF, PF, Combined::Double),
            (PF, GP, Combined::Double),
            (PF, DB, Combined::Second),
            (DF, GP, Combined::Shutdown),
            (DF, PF, Combined::Shutdown),
        ] {
            assert_eq!(combine(first, second), want, "{first} then {second}");
        }
    }
}
