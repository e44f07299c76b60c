//! The table of instructions: name, operation code, format, and what it does.
//!
//! Operation codes have the first byte on the left and the second half of the code, where there is one, on the right:
//! `0xb908`, `0xe304`, `0xa70b`. Check it against the manual's appendix B.

use ir::flags::Kind;
use ir::{AtomicOp, BulkOp, Op};

use crate::alu::Alu::{
    Add, AddCarry, AddLogical, And, Compare, CompareLogical, Complement, DivPair, Move, Mul, MulPair, Negative, Or,
    Positive, Reverse, Sub, SubBorrow, SubLogical, Test, Xor,
};
use crate::alu::Second::{I, Little, M, MS, R, RegisterS, RegisterU, Rel, RelS, U};
use crate::alu::{self, Alu, Divide, Second};
use crate::decode::Format::{
    E, RieB, RieC, RieD, RieF, Ril, Rr, Rrd, Rre, RrfA, RrfC, Rs, Rsi, Rsy, Rx, Rxe, Rxf, Rxy, S, Si, Sil, Siy, SsA,
    SsD,
};
use crate::decode::Format::{Ri, RiM};
use crate::decode::{Fields, Format, fields, opcode};
use crate::float::{self, Kernel, Transfer};
use crate::flow::{self, Target};
use crate::helper::id;
use crate::shift::{self, Selected, Shift};
use crate::{Addressing, Lift, memory, r, storage};

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The mnemonic.
    pub name: &'static str,
    opcode: u16,
    format: Format,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// An integer operation on 64 (true) or 32 bits.
    Integer(bool, Alu, Second),
    /// Binary floating point, long (true) or short.
    Float(Kernel, bool),
    /// Anything else.
    Other(fn(&mut Lift, &Fields) -> Option<()>),
}

const WIDE: bool = true;
const HALF: bool = false;
const LONG: bool = true;
const SHORT: bool = false;

const fn alu(name: &'static str, opcode: u16, format: Format, wide: bool, what: Alu, second: Second) -> Row {
    Row { name, opcode, format, what: What::Integer(wide, what, second) }
}

const fn float(name: &'static str, opcode: u16, format: Format, kernel: Kernel, long: bool) -> Row {
    Row { name, opcode, format, what: What::Float(kernel, long) }
}

const fn other(name: &'static str, opcode: u16, format: Format, what: fn(&mut Lift, &Fields) -> Option<()>) -> Row {
    Row { name, opcode, format, what: What::Other(what) }
}

/// Every instruction that this decoder knows.
pub const ROWS: &[Row] = &[
    // Loads and their like
    alu("LR", 0x1800, Rr, HALF, Move, R),
    alu("LTR", 0x1200, Rr, HALF, Test, R),
    alu("LCR", 0x1300, Rr, HALF, Complement, R),
    alu("LPR", 0x1000, Rr, HALF, Positive, R),
    alu("LNR", 0x1100, Rr, HALF, Negative, R),
    alu("LPGR", 0xb900, Rre, WIDE, Positive, R),
    alu("LNGR", 0xb901, Rre, WIDE, Negative, R),
    alu("LTGR", 0xb902, Rre, WIDE, Test, R),
    alu("LCGR", 0xb903, Rre, WIDE, Complement, R),
    alu("LGR", 0xb904, Rre, WIDE, Move, R),
    alu("LGBR", 0xb906, Rre, WIDE, Move, RegisterS(8)),
    alu("LGHR", 0xb907, Rre, WIDE, Move, RegisterS(16)),
    alu("LRVGR", 0xb90f, Rre, WIDE, Reverse(64), R),
    alu("LPGFR", 0xb910, Rre, WIDE, Positive, RegisterS(32)),
    alu("LNGFR", 0xb911, Rre, WIDE, Negative, RegisterS(32)),
    alu("LTGFR", 0xb912, Rre, WIDE, Test, RegisterS(32)),
    alu("LCGFR", 0xb913, Rre, WIDE, Complement, RegisterS(32)),
    alu("LGFR", 0xb914, Rre, WIDE, Move, RegisterS(32)),
    alu("LLGFR", 0xb916, Rre, WIDE, Move, RegisterU(32)),
    alu("LLGTR", 0xb917, Rre, WIDE, Move, RegisterU(31)),
    alu("LLGCR", 0xb984, Rre, WIDE, Move, RegisterU(8)),
    alu("LLGHR", 0xb985, Rre, WIDE, Move, RegisterU(16)),
    alu("LRVR", 0xb91f, Rre, HALF, Reverse(32), R),
    alu("LBR", 0xb926, Rre, HALF, Move, RegisterS(8)),
    alu("LHR", 0xb927, Rre, HALF, Move, RegisterS(16)),
    alu("LLCR", 0xb994, Rre, HALF, Move, RegisterU(8)),
    alu("LLHR", 0xb995, Rre, HALF, Move, RegisterU(16)),
    alu("LH", 0x4800, Rx, HALF, Move, MS(1)),
    alu("L", 0x5800, Rx, HALF, Move, M(2)),
    alu("LTG", 0xe302, Rxy, WIDE, Test, M(3)),
    alu("LG", 0xe304, Rxy, WIDE, Move, M(3)),
    alu("LRVG", 0xe30f, Rxy, WIDE, Move, Little(3)),
    alu("LT", 0xe312, Rxy, HALF, Test, M(2)),
    alu("LGF", 0xe314, Rxy, WIDE, Move, MS(2)),
    alu("LGH", 0xe315, Rxy, WIDE, Move, MS(1)),
    alu("LLGF", 0xe316, Rxy, WIDE, Move, M(2)),
    alu("LRV", 0xe31e, Rxy, HALF, Move, Little(2)),
    alu("LY", 0xe358, Rxy, HALF, Move, M(2)),
    alu("LB", 0xe376, Rxy, HALF, Move, MS(0)),
    alu("LGB", 0xe377, Rxy, WIDE, Move, MS(0)),
    alu("LHY", 0xe378, Rxy, HALF, Move, MS(1)),
    alu("LLGC", 0xe390, Rxy, WIDE, Move, M(0)),
    alu("LLGH", 0xe391, Rxy, WIDE, Move, M(1)),
    alu("LLC", 0xe394, Rxy, HALF, Move, M(0)),
    alu("LLH", 0xe395, Rxy, HALF, Move, M(1)),
    other("LLGT", 0xe317, Rxy, load_thirty_one),
    alu("LGRL", 0xc408, Ril, WIDE, Move, Rel(3)),
    alu("LGFRL", 0xc40c, Ril, WIDE, Move, RelS(2)),
    alu("LRL", 0xc40d, Ril, HALF, Move, Rel(2)),
    alu("LLGFRL", 0xc40e, Ril, WIDE, Move, Rel(2)),
    alu("LHI", 0xa708, Ri, HALF, Move, I),
    alu("LGHI", 0xa709, Ri, WIDE, Move, I),
    alu("LGFI", 0xc001, Ril, WIDE, Move, I),
    alu("LLILF", 0xc00f, Ril, WIDE, Move, U(32)),
    // Arithmetic
    alu("CLR", 0x1500, Rr, HALF, CompareLogical, R),
    alu("CR", 0x1900, Rr, HALF, Compare, R),
    alu("AR", 0x1a00, Rr, HALF, Add, R),
    alu("SR", 0x1b00, Rr, HALF, Sub, R),
    alu("ALR", 0x1e00, Rr, HALF, AddLogical, R),
    alu("SLR", 0x1f00, Rr, HALF, SubLogical, R),
    alu("NR", 0x1400, Rr, HALF, And, R),
    alu("OR", 0x1600, Rr, HALF, Or, R),
    alu("XR", 0x1700, Rr, HALF, Xor, R),
    alu("MR", 0x1c00, Rr, HALF, MulPair { signed: true }, R),
    alu("DR", 0x1d00, Rr, HALF, DivPair(Divide::Signed), R),
    alu("AGR", 0xb908, Rre, WIDE, Add, R),
    alu("SGR", 0xb909, Rre, WIDE, Sub, R),
    alu("ALGR", 0xb90a, Rre, WIDE, AddLogical, R),
    alu("SLGR", 0xb90b, Rre, WIDE, SubLogical, R),
    alu("MSGR", 0xb90c, Rre, WIDE, Mul, R),
    alu("DSGR", 0xb90d, Rre, WIDE, DivPair(Divide::Single), R),
    alu("AGFR", 0xb918, Rre, WIDE, Add, RegisterS(32)),
    alu("SGFR", 0xb919, Rre, WIDE, Sub, RegisterS(32)),
    alu("ALGFR", 0xb91a, Rre, WIDE, AddLogical, RegisterU(32)),
    alu("SLGFR", 0xb91b, Rre, WIDE, SubLogical, RegisterU(32)),
    alu("MSGFR", 0xb91c, Rre, WIDE, Mul, RegisterS(32)),
    alu("DSGFR", 0xb91d, Rre, WIDE, DivPair(Divide::Single), RegisterS(32)),
    alu("CGR", 0xb920, Rre, WIDE, Compare, R),
    alu("CLGR", 0xb921, Rre, WIDE, CompareLogical, R),
    alu("CGFR", 0xb930, Rre, WIDE, Compare, RegisterS(32)),
    alu("CLGFR", 0xb931, Rre, WIDE, CompareLogical, RegisterU(32)),
    alu("NGR", 0xb980, Rre, WIDE, And, R),
    alu("OGR", 0xb981, Rre, WIDE, Or, R),
    alu("XGR", 0xb982, Rre, WIDE, Xor, R),
    alu("MLGR", 0xb986, Rre, WIDE, MulPair { signed: false }, R),
    alu("DLGR", 0xb987, Rre, WIDE, DivPair(Divide::Logical), R),
    alu("ALCGR", 0xb988, Rre, WIDE, AddCarry, R),
    alu("SLBGR", 0xb989, Rre, WIDE, SubBorrow, R),
    alu("MSR", 0xb252, Rre, HALF, Mul, R),
    alu("MLR", 0xb996, Rre, HALF, MulPair { signed: false }, R),
    alu("DLR", 0xb997, Rre, HALF, DivPair(Divide::Logical), R),
    alu("ALCR", 0xb998, Rre, HALF, AddCarry, R),
    alu("SLBR", 0xb999, Rre, HALF, SubBorrow, R),
    alu("NGRK", 0xb9e4, RrfA, WIDE, And, R),
    alu("OGRK", 0xb9e6, RrfA, WIDE, Or, R),
    alu("XGRK", 0xb9e7, RrfA, WIDE, Xor, R),
    alu("AGRK", 0xb9e8, RrfA, WIDE, Add, R),
    alu("SGRK", 0xb9e9, RrfA, WIDE, Sub, R),
    alu("ALGRK", 0xb9ea, RrfA, WIDE, AddLogical, R),
    alu("SLGRK", 0xb9eb, RrfA, WIDE, SubLogical, R),
    alu("NRK", 0xb9f4, RrfA, HALF, And, R),
    alu("ARK", 0xb9f8, RrfA, HALF, Add, R),
    alu("SRK", 0xb9f9, RrfA, HALF, Sub, R),
    alu("SLRK", 0xb9fb, RrfA, HALF, SubLogical, R),
    alu("CH", 0x4900, Rx, HALF, Compare, MS(1)),
    alu("AH", 0x4a00, Rx, HALF, Add, MS(1)),
    alu("SH", 0x4b00, Rx, HALF, Sub, MS(1)),
    alu("MH", 0x4c00, Rx, HALF, Mul, MS(1)),
    alu("N", 0x5400, Rx, HALF, And, M(2)),
    alu("CL", 0x5500, Rx, HALF, CompareLogical, M(2)),
    alu("O", 0x5600, Rx, HALF, Or, M(2)),
    alu("X", 0x5700, Rx, HALF, Xor, M(2)),
    alu("C", 0x5900, Rx, HALF, Compare, M(2)),
    alu("A", 0x5a00, Rx, HALF, Add, M(2)),
    alu("S", 0x5b00, Rx, HALF, Sub, M(2)),
    alu("M", 0x5c00, Rx, HALF, MulPair { signed: true }, M(2)),
    alu("D", 0x5d00, Rx, HALF, DivPair(Divide::Signed), M(2)),
    alu("AL", 0x5e00, Rx, HALF, AddLogical, M(2)),
    alu("SL", 0x5f00, Rx, HALF, SubLogical, M(2)),
    alu("MS", 0x7100, Rx, HALF, Mul, M(2)),
    alu("AG", 0xe308, Rxy, WIDE, Add, M(3)),
    alu("SG", 0xe309, Rxy, WIDE, Sub, M(3)),
    alu("ALG", 0xe30a, Rxy, WIDE, AddLogical, M(3)),
    alu("SLG", 0xe30b, Rxy, WIDE, SubLogical, M(3)),
    alu("MSG", 0xe30c, Rxy, WIDE, Mul, M(3)),
    alu("DSG", 0xe30d, Rxy, WIDE, DivPair(Divide::Single), M(3)),
    alu("AGF", 0xe318, Rxy, WIDE, Add, MS(2)),
    alu("SGF", 0xe319, Rxy, WIDE, Sub, MS(2)),
    alu("ALGF", 0xe31a, Rxy, WIDE, AddLogical, M(2)),
    alu("SLGF", 0xe31b, Rxy, WIDE, SubLogical, M(2)),
    alu("MSGF", 0xe31c, Rxy, WIDE, Mul, MS(2)),
    alu("DSGF", 0xe31d, Rxy, WIDE, DivPair(Divide::Single), MS(2)),
    alu("CG", 0xe320, Rxy, WIDE, Compare, M(3)),
    alu("CLG", 0xe321, Rxy, WIDE, CompareLogical, M(3)),
    alu("CGF", 0xe330, Rxy, WIDE, Compare, MS(2)),
    alu("CLGF", 0xe331, Rxy, WIDE, CompareLogical, M(2)),
    alu("NG", 0xe380, Rxy, WIDE, And, M(3)),
    alu("OG", 0xe381, Rxy, WIDE, Or, M(3)),
    alu("XG", 0xe382, Rxy, WIDE, Xor, M(3)),
    alu("MLG", 0xe386, Rxy, WIDE, MulPair { signed: false }, M(3)),
    alu("DLG", 0xe387, Rxy, WIDE, DivPair(Divide::Logical), M(3)),
    alu("ALCG", 0xe388, Rxy, WIDE, AddCarry, M(3)),
    alu("SLBG", 0xe389, Rxy, WIDE, SubBorrow, M(3)),
    alu("AY", 0xe35a, Rxy, HALF, Add, M(2)),
    alu("SY", 0xe35b, Rxy, HALF, Sub, M(2)),
    alu("ALY", 0xe35e, Rxy, HALF, AddLogical, M(2)),
    alu("ML", 0xe396, Rxy, HALF, MulPair { signed: false }, M(2)),
    alu("DL", 0xe397, Rxy, HALF, DivPair(Divide::Logical), M(2)),
    alu("ALC", 0xe398, Rxy, HALF, AddCarry, M(2)),
    alu("SLB", 0xe399, Rxy, HALF, SubBorrow, M(2)),
    alu("AHI", 0xa70a, Ri, HALF, Add, I),
    alu("AGHI", 0xa70b, Ri, WIDE, Add, I),
    alu("MHI", 0xa70c, Ri, HALF, Mul, I),
    alu("MGHI", 0xa70d, Ri, WIDE, Mul, I),
    alu("CHI", 0xa70e, Ri, HALF, Compare, I),
    alu("CGHI", 0xa70f, Ri, WIDE, Compare, I),
    alu("AHIK", 0xecd8, RieD, HALF, Add, I),
    alu("AGHIK", 0xecd9, RieD, WIDE, Add, I),
    alu("MSGFI", 0xc200, Ril, WIDE, Mul, I),
    alu("MSFI", 0xc201, Ril, HALF, Mul, I),
    alu("SLGFI", 0xc204, Ril, WIDE, SubLogical, U(32)),
    alu("SLFI", 0xc205, Ril, HALF, SubLogical, U(32)),
    alu("AGFI", 0xc208, Ril, WIDE, Add, I),
    alu("AFI", 0xc209, Ril, HALF, Add, I),
    alu("ALGFI", 0xc20a, Ril, WIDE, AddLogical, U(32)),
    alu("ALFI", 0xc20b, Ril, HALF, AddLogical, U(32)),
    alu("CGFI", 0xc20c, Ril, WIDE, Compare, I),
    alu("CFI", 0xc20d, Ril, HALF, Compare, I),
    alu("CLGFI", 0xc20e, Ril, WIDE, CompareLogical, U(32)),
    alu("CLFI", 0xc20f, Ril, HALF, CompareLogical, U(32)),
    alu("CGRL", 0xc608, Ril, WIDE, Compare, Rel(3)),
    alu("CLGRL", 0xc60a, Ril, WIDE, CompareLogical, Rel(3)),
    alu("CRL", 0xc60d, Ril, HALF, Compare, Rel(2)),
    alu("CLRL", 0xc60f, Ril, HALF, CompareLogical, Rel(2)),
    other("FLOGR", 0xb983, Rre, alu::find_leftmost_one),
    // Immediates on parts of registers
    other("IIHH", 0xa500, Ri, |l, f| alu::immediate_part(l, f, Move, 48, 16)),
    other("IIHL", 0xa501, Ri, |l, f| alu::immediate_part(l, f, Move, 32, 16)),
    other("IILH", 0xa502, Ri, |l, f| alu::immediate_part(l, f, Move, 16, 16)),
    other("IILL", 0xa503, Ri, |l, f| alu::immediate_part(l, f, Move, 0, 16)),
    other("NIHH", 0xa504, Ri, |l, f| alu::immediate_part(l, f, And, 48, 16)),
    other("NIHL", 0xa505, Ri, |l, f| alu::immediate_part(l, f, And, 32, 16)),
    other("NILH", 0xa506, Ri, |l, f| alu::immediate_part(l, f, And, 16, 16)),
    other("NILL", 0xa507, Ri, |l, f| alu::immediate_part(l, f, And, 0, 16)),
    other("OIHH", 0xa508, Ri, |l, f| alu::immediate_part(l, f, Or, 48, 16)),
    other("OIHL", 0xa509, Ri, |l, f| alu::immediate_part(l, f, Or, 32, 16)),
    other("OILH", 0xa50a, Ri, |l, f| alu::immediate_part(l, f, Or, 16, 16)),
    other("OILL", 0xa50b, Ri, |l, f| alu::immediate_part(l, f, Or, 0, 16)),
    other("XIHF", 0xc006, Ril, |l, f| alu::immediate_part(l, f, Xor, 32, 32)),
    other("XILF", 0xc007, Ril, |l, f| alu::immediate_part(l, f, Xor, 0, 32)),
    other("IIHF", 0xc008, Ril, |l, f| alu::immediate_part(l, f, Move, 32, 32)),
    other("IILF", 0xc009, Ril, |l, f| alu::immediate_part(l, f, Move, 0, 32)),
    other("NIHF", 0xc00a, Ril, |l, f| alu::immediate_part(l, f, And, 32, 32)),
    other("NILF", 0xc00b, Ril, |l, f| alu::immediate_part(l, f, And, 0, 32)),
    other("OIHF", 0xc00c, Ril, |l, f| alu::immediate_part(l, f, Or, 32, 32)),
    other("OILF", 0xc00d, Ril, |l, f| alu::immediate_part(l, f, Or, 0, 32)),
    other("TMLH", 0xa700, Ri, |l, f| alu::test_register(l, f, 16)),
    other("TMLL", 0xa701, Ri, |l, f| alu::test_register(l, f, 0)),
    other("TMHH", 0xa702, Ri, |l, f| alu::test_register(l, f, 48)),
    other("TMHL", 0xa703, Ri, |l, f| alu::test_register(l, f, 32)),
    // Shifts
    other("SRL", 0x8800, Rs, |l, f| shift::lift(l, f, Shift::Right, HALF, true)),
    other("SLL", 0x8900, Rs, |l, f| shift::lift(l, f, Shift::Left, HALF, true)),
    other("SRA", 0x8a00, Rs, |l, f| shift::lift(l, f, Shift::RightArithmetic, HALF, true)),
    other("SLA", 0x8b00, Rs, |l, f| shift::lift(l, f, Shift::LeftArithmetic, HALF, true)),
    other("SRDL", 0x8c00, Rs, |l, f| shift::lift(l, f, Shift::PairRight, HALF, true)),
    other("SLDL", 0x8d00, Rs, |l, f| shift::lift(l, f, Shift::PairLeft, HALF, true)),
    other("SRAG", 0xeb0a, Rsy, |l, f| shift::lift(l, f, Shift::RightArithmetic, WIDE, false)),
    other("SLAG", 0xeb0b, Rsy, |l, f| shift::lift(l, f, Shift::LeftArithmetic, WIDE, false)),
    other("SRLG", 0xeb0c, Rsy, |l, f| shift::lift(l, f, Shift::Right, WIDE, false)),
    other("SLLG", 0xeb0d, Rsy, |l, f| shift::lift(l, f, Shift::Left, WIDE, false)),
    other("RLLG", 0xeb1c, Rsy, |l, f| shift::lift(l, f, Shift::Rotate, WIDE, false)),
    other("RLL", 0xeb1d, Rsy, |l, f| shift::lift(l, f, Shift::Rotate, HALF, false)),
    other("SRAK", 0xebdc, Rsy, |l, f| shift::lift(l, f, Shift::RightArithmetic, HALF, false)),
    other("SLAK", 0xebdd, Rsy, |l, f| shift::lift(l, f, Shift::LeftArithmetic, HALF, false)),
    other("SRLK", 0xebde, Rsy, |l, f| shift::lift(l, f, Shift::Right, HALF, false)),
    other("SLLK", 0xebdf, Rsy, |l, f| shift::lift(l, f, Shift::Left, HALF, false)),
    other("RNSBG", 0xec54, RieF, |l, f| shift::rotate_selected(l, f, Selected::And)),
    other("RISBG", 0xec55, RieF, |l, f| shift::rotate_selected(l, f, Selected::Insert)),
    other("ROSBG", 0xec56, RieF, |l, f| shift::rotate_selected(l, f, Selected::Or)),
    other("RXSBG", 0xec57, RieF, |l, f| shift::rotate_selected(l, f, Selected::Xor)),
    other("RISBGN", 0xec59, RieF, |l, f| shift::rotate_selected(l, f, Selected::InsertSilent)),
    // Addresses
    other("LA", 0x4100, Rx, |l, f| memory::load_address(l, f, false)),
    other("LAY", 0xe371, Rxy, |l, f| memory::load_address(l, f, false)),
    other("LARL", 0xc000, Ril, |l, f| memory::load_address(l, f, true)),
    // Stores
    other("STH", 0x4000, Rx, |l, f| memory::store(l, f, 1, true)),
    other("STC", 0x4200, Rx, |l, f| memory::store(l, f, 0, true)),
    other("ST", 0x5000, Rx, |l, f| memory::store(l, f, 2, true)),
    other("STG", 0xe324, Rxy, |l, f| memory::store(l, f, 3, true)),
    other("STRVG", 0xe32f, Rxy, |l, f| memory::store(l, f, 3, false)),
    other("STRV", 0xe33e, Rxy, |l, f| memory::store(l, f, 2, false)),
    other("STRVH", 0xe33f, Rxy, |l, f| memory::store(l, f, 1, false)),
    other("STY", 0xe350, Rxy, |l, f| memory::store(l, f, 2, true)),
    other("STHY", 0xe370, Rxy, |l, f| memory::store(l, f, 1, true)),
    other("STCY", 0xe372, Rxy, |l, f| memory::store(l, f, 0, true)),
    other("STGRL", 0xc40b, Ril, |l, f| memory::store_relative(l, f, 3)),
    other("STRL", 0xc40f, Ril, |l, f| memory::store_relative(l, f, 2)),
    other("MVI", 0x9200, Si, |l, f| memory::store_immediate(l, f, 0)),
    other("MVIY", 0xeb52, Siy, |l, f| memory::store_immediate(l, f, 0)),
    other("MVHHI", 0xe544, Sil, |l, f| memory::store_immediate(l, f, 1)),
    other("MVGHI", 0xe548, Sil, |l, f| memory::store_immediate(l, f, 3)),
    other("MVHI", 0xe54c, Sil, |l, f| memory::store_immediate(l, f, 2)),
    // Storage and immediate
    other("TM", 0x9100, Si, memory::test),
    other("TMY", 0xeb51, Siy, memory::test),
    other("CLI", 0x9500, Si, |l, f| memory::compare_immediate(l, f, 0, true)),
    other("CLIY", 0xeb55, Siy, |l, f| memory::compare_immediate(l, f, 0, true)),
    other("CHHSI", 0xe554, Sil, |l, f| memory::compare_immediate(l, f, 1, false)),
    other("CLHHSI", 0xe555, Sil, |l, f| memory::compare_immediate(l, f, 1, true)),
    other("CGHSI", 0xe558, Sil, |l, f| memory::compare_immediate(l, f, 3, false)),
    other("CLGHSI", 0xe559, Sil, |l, f| memory::compare_immediate(l, f, 3, true)),
    other("CHSI", 0xe55c, Sil, |l, f| memory::compare_immediate(l, f, 2, false)),
    other("CLFHSI", 0xe55d, Sil, |l, f| memory::compare_immediate(l, f, 2, true)),
    other("NI", 0x9400, Si, |l, f| memory::update_immediate(l, f, AtomicOp::And, Op::And)),
    other("OI", 0x9600, Si, |l, f| memory::update_immediate(l, f, AtomicOp::Or, Op::Or)),
    other("XI", 0x9700, Si, |l, f| memory::update_immediate(l, f, AtomicOp::Xor, Op::Xor)),
    // Several registers, characters under mask
    other("STM", 0x9000, Rs, |l, f| memory::store_multiple(l, f, HALF)),
    other("LM", 0x9800, Rs, |l, f| memory::load_multiple(l, f, HALF)),
    other("LMG", 0xeb04, Rsy, |l, f| memory::load_multiple(l, f, WIDE)),
    other("STMG", 0xeb24, Rsy, |l, f| memory::store_multiple(l, f, WIDE)),
    other("IC", 0x4300, Rx, memory::insert_character),
    other("ICY", 0xe373, Rxy, memory::insert_character),
    other("ICM", 0xbf00, Rs, memory::insert_under_mask),
    other("ICMY", 0xeb81, Rsy, memory::insert_under_mask),
    other("STCM", 0xbe00, Rs, memory::store_under_mask),
    other("STCMY", 0xeb2d, Rsy, memory::store_under_mask),
    other("LOCGR", 0xb9e2, RrfC, |l, f| memory::load_on_condition(l, f, WIDE)),
    other("LOCR", 0xb9f2, RrfC, |l, f| memory::load_on_condition(l, f, HALF)),
    // Interlocked updates
    other("CS", 0xba00, Rs, |l, f| memory::compare_and_swap(l, f, HALF)),
    other("CSY", 0xeb14, Rsy, |l, f| memory::compare_and_swap(l, f, HALF)),
    other("CSG", 0xeb30, Rsy, |l, f| memory::compare_and_swap(l, f, WIDE)),
    other("CDSG", 0xeb3e, Rsy, memory::compare_double_and_swap),
    other("LANG", 0xebe4, Rsy, |l, f| memory::load_and(l, f, AtomicOp::And, Op::And, Kind::S390NonZero, WIDE)),
    other("LAN", 0xebf4, Rsy, |l, f| memory::load_and(l, f, AtomicOp::And, Op::And, Kind::S390NonZero, HALF)),
    other("LAOG", 0xebe6, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Or, Op::Or, Kind::S390NonZero, WIDE)),
    other("LAO", 0xebf6, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Or, Op::Or, Kind::S390NonZero, HALF)),
    other("LAXG", 0xebe7, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Xor, Op::Xor, Kind::S390NonZero, WIDE)),
    other("LAX", 0xebf7, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Xor, Op::Xor, Kind::S390NonZero, HALF)),
    other("LAAG", 0xebe8, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Add, Op::Add64, Kind::S390Add, WIDE)),
    other("LAA", 0xebf8, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Add, Op::Add32, Kind::S390Add, HALF)),
    other("LAALG", 0xebea, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Add, Op::Add64, Kind::S390AddLogical, WIDE)),
    other("LAAL", 0xebfa, Rsy, |l, f| memory::load_and(l, f, AtomicOp::Add, Op::Add32, Kind::S390AddLogical, HALF)),
    // Storage to storage
    other("MVC", 0xd200, SsA, storage::copy),
    other("NC", 0xd400, SsA, |l, f| storage::logical(l, f, BulkOp::And)),
    other("CLC", 0xd500, SsA, storage::compare),
    other("OC", 0xd600, SsA, |l, f| storage::logical(l, f, BulkOp::Or)),
    other("XC", 0xd700, SsA, |l, f| storage::logical(l, f, BulkOp::Xor)),
    other("MVCK", 0xd900, SsD, storage::copy_with_key),
    other("TR", 0xdc00, SsA, |l, f| storage::helped(l, f, id::TRANSLATE)),
    other("MVCIN", 0xe800, SsA, |l, f| storage::helped(l, f, id::COPY_INVERSE)),
    other("MVCL", 0x0e00, Rr, storage::move_long),
    other("MVCLE", 0xa800, Rs, storage::move_long_extended),
    // Branches
    other("BRC", 0xa704, RiM, flow::relative_on_condition),
    other("BRCL", 0xc004, Ril, flow::relative_on_condition),
    other("BC", 0x4700, Rx, flow::on_condition),
    other("BCR", 0x0700, Rr, flow::register_on_condition),
    other("BCTR", 0x0600, Rr, |l, f| flow::count(l, f, HALF, Target::Register)),
    other("BCTGR", 0xb946, Rre, |l, f| flow::count(l, f, WIDE, Target::Register)),
    other("BCT", 0x4600, Rx, |l, f| flow::count(l, f, HALF, Target::Address)),
    other("BCTG", 0xe346, Rxy, |l, f| flow::count(l, f, WIDE, Target::Address)),
    other("BRCT", 0xa706, Ri, |l, f| flow::count(l, f, HALF, Target::Relative)),
    other("BRCTG", 0xa707, Ri, |l, f| flow::count(l, f, WIDE, Target::Relative)),
    other("BASR", 0x0d00, Rr, |l, f| flow::and_save(l, f, Target::Register)),
    other("BAS", 0x4d00, Rx, |l, f| flow::and_save(l, f, Target::Address)),
    other("BRAS", 0xa705, Ri, |l, f| flow::and_save(l, f, Target::Relative)),
    other("BRASL", 0xc005, Ril, |l, f| flow::and_save(l, f, Target::Relative)),
    other("CGRJ", 0xec64, RieB, |l, f| flow::compare_and_branch(l, f, WIDE, false, false)),
    other("CLGRJ", 0xec65, RieB, |l, f| flow::compare_and_branch(l, f, WIDE, true, false)),
    other("CRJ", 0xec76, RieB, |l, f| flow::compare_and_branch(l, f, HALF, false, false)),
    other("CLRJ", 0xec77, RieB, |l, f| flow::compare_and_branch(l, f, HALF, true, false)),
    other("CGIJ", 0xec7c, RieC, |l, f| flow::compare_and_branch(l, f, WIDE, false, true)),
    other("CLGIJ", 0xec7d, RieC, |l, f| flow::compare_and_branch(l, f, WIDE, true, true)),
    other("CIJ", 0xec7e, RieC, |l, f| flow::compare_and_branch(l, f, HALF, false, true)),
    other("CLIJ", 0xec7f, RieC, |l, f| flow::compare_and_branch(l, f, HALF, true, true)),
    other("BRXH", 0x8400, Rsi, |l, f| flow::index(l, f, false)),
    other("BRXLE", 0x8500, Rsi, |l, f| flow::index(l, f, true)),
    other("EX", 0x4400, Rx, |l, f| flow::execute(l, f, false)),
    other("EXRL", 0xc600, Ril, |l, f| flow::execute(l, f, true)),
    // The PSW and access registers
    other("SPM", 0x0400, Rr, flow::set_program_mask),
    other("IPM", 0xb222, Rre, flow::insert_program_mask),
    other("TAM", 0x010b, E, flow::test_addressing),
    other("SAM24", 0x010c, E, |l, _| flow::set_addressing(l, Addressing::A24)),
    other("SAM31", 0x010d, E, |l, _| flow::set_addressing(l, Addressing::A31)),
    other("SAM64", 0x010e, E, |l, _| flow::set_addressing(l, Addressing::A64)),
    other("LPSWE", 0xb2b2, S, flow::load_psw),
    other("EAR", 0xb24f, Rre, flow::extract_access),
    other("SAR", 0xb24e, Rre, flow::set_access),
    // Binary floating point
    float("AEBR", 0xb30a, Rre, Kernel::Add, SHORT),
    float("AEB", 0xed0a, Rxe, Kernel::Add, SHORT),
    float("ADBR", 0xb31a, Rre, Kernel::Add, LONG),
    float("ADB", 0xed1a, Rxe, Kernel::Add, LONG),
    float("SEBR", 0xb30b, Rre, Kernel::Sub, SHORT),
    float("SEB", 0xed0b, Rxe, Kernel::Sub, SHORT),
    float("SDBR", 0xb31b, Rre, Kernel::Sub, LONG),
    float("SDB", 0xed1b, Rxe, Kernel::Sub, LONG),
    float("MDBR", 0xb31c, Rre, Kernel::Mul, LONG),
    float("MDB", 0xed1c, Rxe, Kernel::Mul, LONG),
    float("DEBR", 0xb30d, Rre, Kernel::Div, SHORT),
    float("DEB", 0xed0d, Rxe, Kernel::Div, SHORT),
    float("DDBR", 0xb31d, Rre, Kernel::Div, LONG),
    float("DDB", 0xed1d, Rxe, Kernel::Div, LONG),
    float("KEBR", 0xb308, Rre, Kernel::CompareSignal, SHORT),
    float("KEB", 0xed08, Rxe, Kernel::CompareSignal, SHORT),
    float("KDBR", 0xb318, Rre, Kernel::CompareSignal, LONG),
    float("KDB", 0xed18, Rxe, Kernel::CompareSignal, LONG),
    float("CEBR", 0xb309, Rre, Kernel::Compare, SHORT),
    float("CEB", 0xed09, Rxe, Kernel::Compare, SHORT),
    float("CDBR", 0xb319, Rre, Kernel::Compare, LONG),
    float("CDB", 0xed19, Rxe, Kernel::Compare, LONG),
    float("MEEBR", 0xb317, Rre, Kernel::Mul, SHORT),
    float("MEEB", 0xed17, Rxe, Kernel::Mul, SHORT),
    float("MAEBR", 0xb30e, Rrd, Kernel::MulAdd, SHORT),
    float("MADBR", 0xb31e, Rrd, Kernel::MulAdd, LONG),
    float("MAEB", 0xed0e, Rxf, Kernel::MulAdd, SHORT),
    float("MADB", 0xed1e, Rxf, Kernel::MulAdd, LONG),
    float("MSEBR", 0xb30f, Rrd, Kernel::MulSub, SHORT),
    float("MSDBR", 0xb31f, Rrd, Kernel::MulSub, LONG),
    float("MSEB", 0xed0f, Rxf, Kernel::MulSub, SHORT),
    float("MSDB", 0xed1f, Rxf, Kernel::MulSub, LONG),
    float("SQEBR", 0xb314, Rre, Kernel::Sqrt, SHORT),
    float("SQDBR", 0xb315, Rre, Kernel::Sqrt, LONG),
    float("SQDB", 0xed15, Rxe, Kernel::Sqrt, LONG),
    float("LTEBR", 0xb302, Rre, Kernel::Test, SHORT),
    float("LTDBR", 0xb312, Rre, Kernel::Test, LONG),
    float("LDEBR", 0xb304, Rre, Kernel::Lengthen, LONG),
    float("LDEB", 0xed04, Rxe, Kernel::Lengthen, LONG),
    float("LEDBRA", 0xb344, RrfC, Kernel::Round, LONG),
    float("FIEBRA", 0xb357, RrfC, Kernel::Integral, SHORT),
    float("FIDBRA", 0xb35f, RrfC, Kernel::Integral, LONG),
    float("CFEBRA", 0xb398, RrfC, Kernel::ToInt32, SHORT),
    float("CFDBRA", 0xb399, RrfC, Kernel::ToInt32, LONG),
    float("CGEBRA", 0xb3a8, RrfC, Kernel::ToInt64, SHORT),
    float("CGDBRA", 0xb3a9, RrfC, Kernel::ToInt64, LONG),
    float("CEFBRA", 0xb394, RrfC, Kernel::FromInt32, SHORT),
    float("CDFBRA", 0xb395, RrfC, Kernel::FromInt32, LONG),
    float("CEGBRA", 0xb3a4, RrfC, Kernel::FromInt64, SHORT),
    float("CDGBRA", 0xb3a5, RrfC, Kernel::FromInt64, LONG),
    other("LPEBR", 0xb300, Rre, |l, f| float::sign(l, f, Op::AndI, SHORT, false)),
    other("LNEBR", 0xb301, Rre, |l, f| float::sign(l, f, Op::OrI, SHORT, false)),
    other("LCEBR", 0xb303, Rre, |l, f| float::sign(l, f, Op::XorI, SHORT, false)),
    other("LPDBR", 0xb310, Rre, |l, f| float::sign(l, f, Op::AndI, LONG, false)),
    other("LNDBR", 0xb311, Rre, |l, f| float::sign(l, f, Op::OrI, LONG, false)),
    other("LCDBR", 0xb313, Rre, |l, f| float::sign(l, f, Op::XorI, LONG, false)),
    other("LPDFR", 0xb370, Rre, |l, f| float::sign(l, f, Op::AndI, LONG, true)),
    other("LNDFR", 0xb371, Rre, |l, f| float::sign(l, f, Op::OrI, LONG, true)),
    other("LCDFR", 0xb373, Rre, |l, f| float::sign(l, f, Op::XorI, LONG, true)),
    other("TCEB", 0xed10, Rxe, |l, f| float::test_class(l, f, SHORT)),
    other("TCDB", 0xed11, Rxe, |l, f| float::test_class(l, f, LONG)),
    other("LDR", 0x2800, Rr, |l, f| float::transfer(l, f, Transfer::Long)),
    other("LER", 0x3800, Rr, |l, f| float::transfer(l, f, Transfer::Short)),
    other("LZER", 0xb374, Rre, |l, f| float::transfer(l, f, Transfer::ZeroShort)),
    other("LZDR", 0xb375, Rre, |l, f| float::transfer(l, f, Transfer::Zero)),
    other("LDGR", 0xb3c1, Rre, |l, f| float::transfer(l, f, Transfer::FromGeneral)),
    other("LGDR", 0xb3cd, Rre, |l, f| float::transfer(l, f, Transfer::ToGeneral)),
    other("STD", 0x6000, Rx, |l, f| float::store(l, f, LONG)),
    other("LD", 0x6800, Rx, |l, f| float::load(l, f, LONG)),
    other("STE", 0x7000, Rx, |l, f| float::store(l, f, SHORT)),
    other("LE", 0x7800, Rx, |l, f| float::load(l, f, SHORT)),
    other("SFPC", 0xb384, Rre, |l, f| float::set_fpc(l, f, false)),
    other("LFPC", 0xb29d, S, |l, f| float::set_fpc(l, f, true)),
    other("EFPC", 0xb38c, Rre, |l, f| float::get_fpc(l, f, false)),
    other("STFPC", 0xb29c, S, |l, f| float::get_fpc(l, f, true)),
    other("SRNM", 0xb299, S, float::set_rounding),
];

/// The row and the fields of instruction `i`, left-aligned.
pub(crate) fn find(i: u64) -> Option<(&'static Row, Fields)> {
    let key = opcode(i);
    let row = ROWS.iter().find(|row| row.opcode == key)?;
    Some((row, fields(row.format, i)))
}

/// Lift by `row`; `None` if this form of it is not lifted.
pub(crate) fn build(l: &mut Lift, row: &Row, f: &Fields) -> Option<()> {
    match row.what {
        What::Integer(wide, what, second) => alu::lift(l, f, wide, what, second),
        What::Float(kernel, long) => {
            let storage = matches!(row.format, Format::Rxe | Format::Rxf);
            float::lift(l, f, kernel, long, storage)
        }
        What::Other(what) => what(l, f),
    }
}

/// Whether an instruction that begins so is an EXECUTE, which cannot be the target of one.
pub(crate) fn is_execute(first: u8, second: u8) -> bool {
    first == 0x44 || first == 0xc6 && second & 15 == 0
}

/// LLGT: the low 31 bits of a word.
fn load_thirty_one(l: &mut Lift, f: &Fields) -> Option<()> {
    let word = alu::operand(l, f, M(2));
    l.b.op_imm(Op::AndI, r(f.r1), word, 0x7fff_ffff);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn every_operation_code_stands_once() {
        let mut codes: Vec<_> = ROWS.iter().map(|row| row.opcode).collect();
        codes.sort_unstable();
        let twice: Vec<_> = codes.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
        assert!(twice.is_empty(), "{twice:x?}");
    }
}
