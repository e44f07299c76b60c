//! The parts of the PSW that decide what an instruction means.
//!
//! Bits are numbered from the left in the manual ("Program-Status-Word Format"); here they are masks of the left half.

use crate::space;

/// DAT mode, bit 5.
pub const DAT: u64 = 1 << (63 - 5);
/// Problem state, bit 15.
pub const PROBLEM: u64 = 1 << (63 - 15);
/// Extended addressing, bit 31.
pub const EXTENDED: u64 = 1 << (63 - 31);
/// Basic addressing, bit 32.
pub const BASIC: u64 = 1 << (63 - 32);
/// Position of the access key, bits 8 to 11.
pub const KEY_SHIFT: u32 = 63 - 11;
/// Position of the address-space control, bits 16 and 17.
pub const SPACE_SHIFT: u32 = 63 - 17;
/// Position of the condition code, bits 18 and 19.
pub const CC_SHIFT: u32 = 63 - 19;
/// The condition code.
pub const CC: u64 = 3 << CC_SHIFT;
/// Position of the program mask, bits 20 to 23.
pub const PROGRAM_MASK_SHIFT: u32 = 63 - 23;
/// Fixed-point-overflow mask, bit 20.
pub const OVERFLOW_MASK: u64 = 1 << (63 - 20);
/// Bits that must be zero in a PSW that LOAD PSW EXTENDED loads: 0, 2 to 4, 12, 24 to 30, 33 to 63.
const UNASSIGNED: u64 = 1 << 63 | 7 << (63 - 4) | 1 << (63 - 12) | 0x7f << (63 - 30) | 0x7fff_ffff;

/// How wide addresses are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// 24 bits.
    A24,
    /// 31 bits.
    A31,
    /// 64 bits.
    A64,
}

impl Addressing {
    /// The bits of an address.
    pub const fn mask(self) -> u64 {
        match self {
            Addressing::A24 => 0x00ff_ffff,
            Addressing::A31 => 0x7fff_ffff,
            Addressing::A64 => u64::MAX,
        }
    }

    /// As [`ir::MemRef::wrap`].
    pub const fn wrap(self) -> u8 {
        match self {
            Addressing::A24 => 3,
            Addressing::A31 => 2,
            Addressing::A64 => 0,
        }
    }

    /// The PSW's bits 31 and 32 in this mode.
    pub const fn psw(self) -> u64 {
        match self {
            Addressing::A24 => 0,
            Addressing::A31 => BASIC,
            Addressing::A64 => BASIC | EXTENDED,
        }
    }
}

/// Which address space operands are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Primary-space mode, or DAT off.
    Primary,
    /// Access-register mode.
    AccessRegister,
    /// Secondary-space mode.
    Secondary,
    /// Home-space mode.
    Home,
}

/// What a block is lifted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// Width of addresses.
    pub addressing: Addressing,
    /// Address space of operands.
    pub space: Space,
    /// Access key, 0..=15.
    pub key: u8,
    /// Problem state: privileged operations are refused.
    pub problem: bool,
    /// A fixed-point overflow interrupts.
    pub overflow: bool,
}

impl Mode {
    /// The mode of a PSW with this left half.
    pub const fn of(psw: u64) -> Mode {
        let addressing = match (psw & EXTENDED != 0, psw & BASIC != 0) {
            (true, _) => Addressing::A64,
            (false, true) => Addressing::A31,
            (false, false) => Addressing::A24,
        };
        let space = match psw >> SPACE_SHIFT & 3 {
            _ if psw & DAT == 0 => Space::Primary,
            0 => Space::Primary,
            1 => Space::AccessRegister,
            2 => Space::Secondary,
            _ => Space::Home,
        };
        Mode {
            addressing,
            space,
            key: (psw >> KEY_SHIFT) as u8 & 15,
            problem: psw & PROBLEM != 0,
            overflow: psw & OVERFLOW_MASK != 0,
        }
    }

    /// Selector for an operand by base register `base`. Base 0 is the primary space in access-register mode.
    pub(crate) const fn space_of(self, base: u32) -> u8 {
        match self.space {
            Space::AccessRegister if base != 0 => space::BY_REGISTER + base as u8,
            Space::Primary | Space::AccessRegister => space::PRIMARY,
            Space::Secondary => space::SECONDARY,
            Space::Home => space::HOME,
        }
    }

    /// As [`ir::MemRef::key`]: key 0 matches every storage key.
    pub(crate) const fn access_key(self) -> u8 {
        if self.key == 0 { 0 } else { self.key + 1 }
    }
}

/// Whether a loaded PSW may run ("Early Exception Recognition", exceptions that LOAD PSW EXTENDED can bring about).
pub(crate) const fn valid(left: u64, address: u64) -> bool {
    let a = Mode::of(left).addressing;
    let impossible = left & EXTENDED != 0 && left & BASIC == 0;
    left & UNASSIGNED == 0 && !impossible && address & !a.mask() == 0
}
