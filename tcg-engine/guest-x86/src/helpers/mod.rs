//! Helpers: what a lifted block calls for everything that is not a few operations.
//!
//! The table below is the only place that gives a helper its number, its liveness flags and its function. A helper that may
//! stop has changed nothing when it does (flags of [`ir::op::call_flags`]).

mod arith;
mod control;
mod far;
mod flagword;
pub(crate) mod fpu;
mod lanes;
mod ports;
mod segments;
mod special;
mod syscall;
mod vector;

pub(crate) use segments::null_stack;

use ir::op::call_flags::{MAY_STOP, READS_STATE, RESTARTABLE, WRITES_STATE};
use ir::{Regs, Stop, Then};

use crate::bus::Bus;
use crate::cpu::Cpu;

/// What a helper returns: a value, and whether the run loop should look after this instruction.
pub(crate) type Ret = Result<(u64, Then), Stop>;

/// A helper that is done.
pub(crate) fn done(v: u64) -> Ret {
    Ok((v, Then::Continue))
}

/// Numbers for `ReadSystem` and `LoadTable`.
pub(crate) mod which {
    /// LDTR's selector.
    pub const LDTR: u32 = 6;
    /// TR's selector.
    pub const TR: u32 = 7;
    /// CR0.
    pub const MSW: u32 = 8;
    /// GDTR's limit.
    pub const GDT_LIMIT: u32 = 9;
    /// GDTR's base.
    pub const GDT_BASE: u32 = 10;
    /// IDTR's limit.
    pub const IDT_LIMIT: u32 = 11;
    /// IDTR's base.
    pub const IDT_BASE: u32 = 12;
    /// IA32_TSC_AUX.
    pub const TSC_AUX: u32 = 13;
}

/// A row of the helper table, for printers and passes over the IR.
#[derive(Clone, Copy, Debug)]
pub struct HelperInfo {
    /// Number in [`ir::Op::Call`].
    pub id: u16,
    /// Name.
    pub name: &'static str,
    /// Flags for the call.
    pub flags: u8,
}

macro_rules! helpers {
    ($($(#[$doc:meta])* $name:ident: $flags:expr => $path:path;)*) => {
        /// Helper numbers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub(crate) enum Helper {
            $($(#[$doc])* $name,)*
        }

        /// Every helper, by number.
        pub static HELPERS: &[HelperInfo] = &[
            $(HelperInfo { id: Helper::$name as u16, name: stringify!($name), flags: $flags },)*
        ];

        /// Run helper `id`.
        #[inline]
        pub(crate) fn dispatch<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Ret {
            match id {
                $(x if x == Helper::$name as u16 => $path(cpu, regs, a, b, imm),)*
                // Only a broken lifter makes such a call.
                _ => cpu.ud(),
            }
        }
    };
}

impl Helper {
    /// Its row.
    pub(crate) fn info(self) -> &'static HelperInfo {
        &HELPERS[self as usize]
    }
}

const ALL: u8 = MAY_STOP | READS_STATE | WRITES_STATE;
const STOP: u8 = MAY_STOP | READS_STATE;
const WRITE: u8 = READS_STATE | WRITES_STATE;

helpers! {
    // Arithmetic.
    /// AX or DX:AX / a, unsigned; imm = size in bits, 8 or 16.
    Div: ALL => arith::div;
    /// The same, signed.
    Idiv: ALL => arith::idiv;
    /// a rotated through CF by b; imm = size | right << 8. Value only.
    RotateCarry: READS_STATE => arith::rotate_carry;
    /// CF and OF of the same.
    RotateCarryFlags: WRITE => arith::rotate_carry_flags;
    /// CRC-32C of a with imm bits of b.
    Crc32: 0 => arith::crc32;
    /// DAA, or DAS if imm.
    Daa: WRITE => arith::daa;
    /// AAA, or AAS if imm.
    Aaa: WRITE => arith::aaa;
    /// AAM with base imm.
    Aam: ALL => arith::aam;
    /// AAD with base imm.
    Aad: WRITE => arith::aad;

    // The flag word.
    /// POPF of a with imm bytes.
    Popf: WRITE => flagword::popf;
    /// #GP in virtual-8086 mode with IOPL < 3.
    CheckV86: STOP => flagword::check_v86;
    /// CLI.
    Cli: ALL => flagword::cli;
    /// STI.
    Sti: ALL => flagword::sti;
    /// EFLAGS.DF = imm.
    Direction: WRITE => flagword::direction;
    /// STAC if imm, else CLAC.
    AlignmentFlag: ALL => flagword::alignment_flag;

    // Segments and tables.
    /// Segment register imm = selector a.
    LoadSegment: ALL => segments::load_segment;
    /// A system value, see [`which`].
    ReadSystem: READS_STATE => segments::read_system;
    /// LAR of selector a: the result, and bit 32 if it is valid.
    Lar: STOP => segments::lar;
    /// LSL, likewise.
    Lsl: STOP => segments::lsl;
    /// VERR of selector a, VERW if imm: 1 if accessible.
    Verify: STOP => segments::verify;
    /// LDTR = selector a.
    Lldt: ALL => segments::lldt;
    /// TR = selector a.
    Ltr: ALL => segments::ltr;
    /// GDTR or IDTR (imm) = base a, limit b.
    LoadTable: ALL => segments::load_table;

    // Control transfer; these set the program counter.
    /// Far jump to b:a.
    JumpFar: ALL => far::jump;
    /// Far call to b:a with operand size imm; the return address is noted.
    CallFar: ALL => far::call;
    /// Far return with operand size imm & 255, popping imm >> 8 more bytes.
    RetFar: ALL => far::ret;
    /// IRET with operand size imm; a = next program counter.
    Iret: ALL => far::iret;
    /// INT imm, INT3, INTO; a = next program counter.
    Interrupt: ALL => far::interrupt;
    /// INT1.
    Int1: ALL => far::int1;
    /// Nested ENTER of a bytes; imm = level | operand size << 8.
    Enter: ALL => far::enter;
    /// SYSCALL; a = next program counter.
    Syscall: ALL => syscall::syscall;
    /// SYSRET; imm = 64-bit.
    Sysret: ALL => syscall::sysret;
    /// SYSENTER.
    Sysenter: ALL => syscall::sysenter;
    /// SYSEXIT; imm = 64-bit.
    Sysexit: ALL => syscall::sysexit;

    // Control.
    /// Keep a for the next helper.
    Note: READS_STATE => control::note;
    /// #GP unless CPL is 0.
    CheckSupervisor: STOP => control::check_supervisor;
    /// Control register imm.
    ReadCr: STOP => control::read_cr;
    /// Control register imm = a.
    WriteCr: ALL => control::write_cr;
    /// Debug register imm.
    ReadDr: STOP => control::read_dr;
    /// Debug register imm = a.
    WriteDr: ALL => control::write_dr;
    /// CLTS.
    Clts: ALL => control::clts;
    /// LMSW a.
    Lmsw: ALL => control::lmsw;
    /// INVLPG of linear address a.
    Invlpg: ALL => control::invlpg;
    /// INVPCID type a, address b; the descriptor's first word is noted.
    Invpcid: ALL => control::invpcid;
    /// HLT.
    Halt: ALL => control::halt;
    /// XCR0 (a = 0).
    Xgetbv: STOP => control::xgetbv;
    /// XCR0 = b.
    Xsetbv: ALL => control::xsetbv;

    // Identification, clocks, model-specific registers.
    /// CPUID.
    Cpuid: WRITE => special::cpuid;
    /// The time stamp counter.
    Rdtsc: STOP => special::rdtsc;
    /// RDPMC: #GP, there are no counters.
    Rdpmc: STOP => special::rdpmc;
    /// RDRAND of imm bits, with its flags.
    Rdrand: WRITE => special::rdrand;
    /// Register a.
    Rdmsr: STOP => special::rdmsr;
    /// Register a = b.
    Wrmsr: ALL => special::wrmsr;

    // Ports.
    /// #GP unless imm ports from a on may be used.
    CheckPort: STOP => ports::check_port;
    /// imm bytes from port a.
    In: STOP => ports::input;
    /// imm bytes of b to port a.
    Out: STOP => ports::output;

    // x87, MMX and SSE.
    /// x87 instruction on operands a and b; imm is a packed [`crate::fpu::Insn`].
    X87: WRITE => fpu::x87;
    /// FLDCW a.
    FpuLoadControl: WRITE => fpu::load_control;
    /// x87 store, or state saved to or restored from address a; imm is a packed [`fpu::FpuAccess`].
    FpuMemory: ALL => fpu::memory;
    /// PCMPESTRI or PCMPESTRM with second operand b:a; imm see [`crate::lift::string_call`].
    StringCompare: WRITE => vector::string_compare;
    /// MASKMOVQ or MASKMOVDQU to address a; imm see [`crate::lift::mask_call`].
    MaskedStore: STOP => vector::masked_store;
    /// VMASKMOV and VPMASKMOV at address a; imm see [`crate::lift::lane_call`].
    MaskedMove: ALL => lanes::masked_move;
    /// VGATHER and VPGATHER: offset a (without index) in a segment with base b; imm see [`crate::lift::lane_call`]. What is done
    /// when an element faults shows in the mask.
    GatherLanes: ALL | RESTARTABLE => lanes::gather;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (i, h) in HELPERS.iter().enumerate() {
            assert_eq!(usize::from(h.id), i, "{}", h.name);
        }
        assert_eq!(Helper::Out.info().name, "Out");
    }
}
