//! EFLAGS bits (SDM vol. 1, 3.4.3).

/// Carry.
pub const CF: u64 = 1;
/// Always set.
pub const ONE: u64 = 1 << 1;
/// Parity.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Trap: single step.
pub const TF: u64 = 1 << 8;
/// Interrupts enabled.
pub const IF: u64 = 1 << 9;
/// Direction: string instructions go down.
pub const DF: u64 = 1 << 10;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check; with SMAP, access to user pages allowed.
pub const AC: u64 = 1 << 18;
/// Can be changed: CPUID exists.
pub const ID: u64 = 1 << 21;
/// The six that arithmetic sets; kept lazily.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// Every defined flag. VIF and VIP do not exist in the CPU model.
pub const ALL: u64 = ARITHMETIC | ONE | TF | IF | DF | IOPL | NT | RF | VM | AC | ID;
