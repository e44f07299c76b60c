//! The operations of the IR as data: one 16-byte [`Inst`] each, over one flat register file.
//!
//! The idea: guest registers and temporaries are words of the same array ([`crate::Regs`]), so that a guest `add rax, rcx`
//! is a single operation, liveness is one backward pass, and an emitter may pin any word to a host register. The reference
//! page is `README.md` of this crate.

/// Number of words in a register file.
pub const WORDS: usize = 1024;
/// First word that is a temporary: it lives within one block only.
pub const FIRST_TEMP: u16 = 512;
/// Common words, the same for every guest architecture: the program counter (offset within the code segment on x86).
pub const PC: Slot = Slot(0);
/// Kind and operand size of the last flag-setting operation, see [`crate::flags`].
pub const FLAG_KIND: Slot = Slot(1);
/// First operand of the last flag-setting operation.
pub const FLAG_A: Slot = Slot(2);
/// Second operand of the last flag-setting operation.
pub const FLAG_B: Slot = Slot(3);
/// Result of the last flag-setting operation, or explicit flag bits.
pub const FLAG_R: Slot = Slot(4);
/// Floating-point control and sticky status (MXCSR on x86, FPCR|FPSR<<32 on aarch64, FPC on s390x).
pub const FPC: Slot = Slot(5);
/// First word that an architecture lays out by itself.
pub const FIRST_ARCH: u16 = 8;
/// First word that belongs to a tier and not to the IR. Of these the first two are nobody's: temporaries beyond the last one
/// fall on them, which the verifier reports.
pub const PRIVATE: u16 = 992;
/// Guest word that belongs to a tier: which address space, in the form of a TLB's tags.
pub const TIER_TAG: Slot = Slot(6);
/// Guest word that belongs to a tier: where the number of instructions is that may still run.
pub const TIER_BUDGET: Slot = Slot(7);
/// "No slot".
pub const NONE: Slot = Slot(WORDS as u16 - 1);

/// Index of a 64-bit word in the register file. A 128-bit value occupies an even word (low half) and the next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slot(pub u16);

impl Slot {
    /// Whether this is a temporary.
    pub const fn is_temp(self) -> bool {
        self.0 >= FIRST_TEMP && self.0 != NONE.0
    }
}

/// One operation. The meaning of the fields depends on [`Op`]; unused fields are [`NONE`] / 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Inst {
    /// What to do.
    pub op: Op,
    /// Sub-operation, size, condition or flags, by operation.
    pub aux: u8,
    /// Destination (for stores: the value to store).
    pub d: Slot,
    /// First source.
    pub a: Slot,
    /// Second source.
    pub b: Slot,
    /// Immediate: constant, address mode, or a third source's slot, by operation.
    pub imm: u64,
}

/// Operations. `W` in a name is 32 or 64. 32-bit operations read the low halves and zero-extend their result.
/// The suffix `I` takes `imm` in place of `b`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Op {
    /// `d = a`.
    Mov,
    /// `d = imm`.
    MovI,
    /// `d = a` for a 128-bit pair.
    Mov128,
    /// `d = a + b`.
    Add64,
    /// `d = a + imm`.
    Add64I,
    /// `d = zx32(a + b)`.
    Add32,
    /// `d = zx32(a + imm)`.
    Add32I,
    /// `d = a - b`.
    Sub64,
    /// `d = zx32(a - b)`.
    Sub32,
    /// `d = a - imm`.
    Sub64I,
    /// `d = zx32(a - imm)`.
    Sub32I,
    /// `d = a & b`. For 32-bit guests' operations mask with [`Op::Zext32`] or use 32-bit-clean inputs.
    And,
    /// `d = a & imm`.
    AndI,
    /// `d = a | b`.
    Or,
    /// `d = a | imm`.
    OrI,
    /// `d = a ^ b`.
    Xor,
    /// `d = a ^ imm`.
    XorI,
    /// `d = a & !b`.
    AndNot,
    /// `d = !a` (64 bits).
    Not,
    /// `d = zx32(!a)`.
    Not32,
    /// `d = 0 - a`.
    Neg64,
    /// `d = zx32(0 - a)`.
    Neg32,
    /// `d = low 64 bits of a * b`.
    Mul64,
    /// `d = zx32(a * b)`.
    Mul32,
    /// `d = high 64 bits of the unsigned product`.
    MulHiU64,
    /// `d = high 64 bits of the signed product`.
    MulHiS64,
    /// Shifts by `b & 63`.
    Shl64,
    /// Shift by `imm & 63`.
    Shl64I,
    /// Logical right shift by `b & 63`.
    Shr64,
    /// Logical right shift by `imm & 63`.
    Shr64I,
    /// Arithmetic right shift by `b & 63`.
    Sar64,
    /// Arithmetic right shift by `imm & 63`.
    Sar64I,
    /// `zx32`, by `b & 31`.
    Shl32,
    /// `zx32`, by `imm & 31`.
    Shl32I,
    /// `zx32`, by `b & 31`.
    Shr32,
    /// `zx32`, by `imm & 31`.
    Shr32I,
    /// Sign of bit 31; `zx32`, by `b & 31`.
    Sar32,
    /// Sign of bit 31; `zx32`, by `imm & 31`.
    Sar32I,
    /// Rotate left by `b & 63`.
    Rotl64,
    /// Rotate left by `imm & 63`.
    Rotl64I,
    /// Rotate left by `b & 31`, `zx32`.
    Rotl32,
    /// Rotate left by `imm & 31`, `zx32`.
    Rotl32I,
    /// `d = (a : b) >> imm`, 64-bit halves: low 64 bits of the 128-bit value with `a` high, shifted right by `imm & 63`.
    Extr64,
    /// `d = zx8(a)`.
    Zext8,
    /// `d = zx16(a)`.
    Zext16,
    /// `d = zx32(a)`.
    Zext32,
    /// `d = sx8to64(a)`.
    Sext8,
    /// `d = sx16to64(a)`.
    Sext16,
    /// `d = sx32to64(a)`.
    Sext32,
    /// `d = a` with bits `[pos, pos+len)` replaced by the low bits of `b`; `imm = pos | len << 8`.
    Deposit,
    /// `d = zero-extended bits [pos, pos+len)` of `a`; `imm = pos | len << 8`.
    Extract,
    /// `d = sign-extended bits [pos, pos+len)` of `a`; `imm = pos | len << 8`.
    SExtract,
    /// Count leading zeros in the low `aux` (8, 16, 32, 64) bits; all zero gives `aux`.
    Clz,
    /// Count trailing zeros in the low `aux` bits; all zero gives `aux`.
    Ctz,
    /// Number of ones in 64 bits.
    Popcnt,
    /// The low bits of `a` to where `b` has ones, from the lowest one on; zeros elsewhere.
    Pdep,
    /// The bits of `a` where `b` has ones, next to each other from bit 0 on.
    Pext,
    /// Byte swap of the low `aux` (16, 32, 64) bits, zero-extended.
    Bswap,
    /// Bit reverse of the low `aux` (32, 64) bits, zero-extended.
    Bitrev,
    /// `d = (a REL b) ? 1 : 0` on 64 bits; `aux` is a [`Rel`].
    SetRel,
    /// `d = (a REL imm) ? 1 : 0` on 64 bits.
    SetRelI,
    /// `d = a != 0 ? b : c`, where `imm` is the slot `c`.
    Select,
    /// `d = a + (b << aux) + imm`; `b` may be [`NONE`].
    Lea,
    /// The same, `zx32` of the sum.
    Lea32,
    /// The same, `zx16` of the sum.
    Lea16,

    /// x86 arithmetic with flags: `aux` is [`AluRef::aux`]; `d = a op b`, `b` or, if that is [`NONE`], `imm`. 32-bit results are
    /// zero-extended, narrower ones replace the low bits of `a`. Compares have no `d`. Shifts by a count that is 0 modulo the
    /// width (32 for narrow ones) leave the flags.
    Alu,
    /// The same with `[addr]` in the place of `a` and `d`, written back; the operand is slot `d`, or `MovI`-like none: `d` is
    /// [`NONE`] for operations with one operand. `imm` is [`MemRef::pack_alu`]. May stop.
    AluMem,
    /// Division of `b:d` (high and low half, each of 32 or 64 bits by `aux` 2 or 3; bit 7 says signed) by `a`: `d` = quotient,
    /// `b` = remainder, zero-extended. Raises exception `imm` if the quotient does not fit. Flags stay. May stop.
    Divide,
    /// #GP(0) (vector `aux`) unless `a` is a canonical 48-bit address. May stop.
    CheckCanonical,

    /// Flags: record `kind = aux`, operand size in `imm` (8, 16, 32, 64) bits 0..8, operands `a`, `b`, result `d` (a source
    /// here). See [`crate::flags::Kind`].
    Flags,
    /// `d = condition aux holds ? 1 : 0`, see [`crate::flags::Cond`].
    Cond,
    /// `d = a if the condition aux holds else b`.
    SelectCond,
    /// `d = all flag bits, architectural layout of the kind's family` (x86: EFLAGS bits; a64: NZCV << 28; s390x: CC).
    FlagsGet,

    /// `d = [addr]`; address `a + (b << scale) + disp`, see [`MemRef`]. May stop.
    Load,
    /// `[addr] = d` (a source here). May stop.
    Store,
    /// 128-bit pair. May stop.
    Load128,
    /// 128-bit pair. May stop.
    Store128,
    /// `d = old [a]; [a] = old OP b`, atomically; `imm` is [`MemRef::pack_atomic`] with an [`AtomicOp`]. May stop.
    Atomic,
    /// `d = old [a]; if old == expected then [a] = b`, atomically; `imm` is [`MemRef::pack_cas`] with the slot of the expected
    /// value. Compared at the access's size. May stop.
    Cas,
    /// 128-bit compare and swap: expected pair in `d` (in and out: receives the old value), new pair in `b`, address `a`.
    /// May stop.
    Cas128,
    /// `d = [a]` and open this vCPU's monitor on that location. May stop.
    LoadExclusive,
    /// `[a] = b` if the monitor still holds; `d` = 0 stored, 1 not. May stop.
    StoreExclusive,
    /// Close the monitor.
    ClearExclusive,
    /// Ordering fence; `aux` is a [`Fence`].
    Fence,
    /// String of memory, see [`BulkOp`]: `aux` the operation, `a` destination address, `b` source address or fill value,
    /// `imm` see [`BulkRef`]; `d` = bytes done (0 < done ≤ length unless the length is 0). A fault with no progress stops.
    Bulk,

    /// 128-bit integer vector operation `aux` ([`crate::vec::VecOp`]): pair `d` = op(pair `a`, pair `b`, `imm`).
    Vec,
    /// Floating-point operation `aux` ([`fp::sse::FpOp`]) of an SSE unit: pair `d` = op(pair `a`, pair `b`),
    /// `imm` is [`FpRef`]'s; sticky flags go to [`FPC`]. May stop (unmasked exception).
    Fp,

    /// `d = helper(imm & 0xffff)(a, b, imm >> 32)`, see [`crate::Env::call`]. `aux` are [`call_flags`]. May stop if so flagged.
    Call,

    /// If `a == 0` skip the next `imm` operations.
    SkipIfZero,
    /// If the condition `aux` does not hold skip the next `imm` operations.
    SkipUnless,
    /// Leave the block to `imm` if `a != 0`.
    ExitIf,
    /// Leave the block to `imm` if the condition `aux` holds.
    ExitCond,
    /// Leave the block to program counter `imm`, counted as the block's are ([`crate::Block::base`]); bit 0 of `aux` is the chain slot, the others are a [`hint`]: for a call `a` is the
    /// stack pointer.
    Exit,
    /// Leave the block to program counter `a`; `aux` is a [`hint`]: for calls and returns `b` is the stack pointer, and for a
    /// return `imm` is what it was moved by.
    ExitReg,
    /// Leave the block with event `aux` for the run loop; the program counter becomes `imm`.
    ExitEvent,
    /// Raise the guest exception `aux` at this instruction with error code `imm` through [`crate::Env::raise`]. Always stops.
    Raise,
}

/// Relations of [`Op::SetRel`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Rel {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Unsigned less.
    Ltu,
    /// Unsigned less or equal.
    Leu,
    /// Signed less.
    Lts,
    /// Signed less or equal.
    Les,
}

/// Operations of [`Op::Alu`] and [`Op::AluMem`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum AluOp {
    /// Addition. The first eight are numbered as in opcodes.
    Add = 0,
    /// Or.
    Or = 1,
    /// Addition with carry.
    Adc = 2,
    /// Subtraction with borrow.
    Sbb = 3,
    /// And.
    And = 4,
    /// Subtraction.
    Sub = 5,
    /// Exclusive or.
    Xor = 6,
    /// Subtraction without result.
    Cmp = 7,
    /// And without result.
    Test = 8,
    /// Plus one; CF stays.
    Inc = 9,
    /// Minus one; CF stays.
    Dec = 10,
    /// Zero minus `a`.
    Neg = 11,
    /// Left shift.
    Shl = 12,
    /// Logical right shift.
    Shr = 13,
    /// Arithmetic right shift.
    Sar = 14,
    /// CF = bit `b` (modulo the size) of `a`; the other flags and `a` stay.
    Bt = 15,
    /// Rotate left; only CF and OF change, and not by a count of 0 modulo 32 (64).
    Rol = 16,
    /// Rotate right, likewise.
    Ror = 17,
    /// `!a & b`, of 32 or 64 bits like the others up to [`AluOp::Bzhi`]. From here on: CF as said, ZF and SF of the result, all
    /// other flags clear.
    Andn = 18,
    /// The lowest one of `a` alone; CF = `a` is not 0.
    Blsi = 19,
    /// `a` without its lowest one; CF = `a` is 0.
    Blsr = 20,
    /// Ones up to the lowest one of `a`; CF = `a` is 0.
    Blsmsk = 21,
    /// Bits of `a` from number `b` bits 7:0 on, as many as `b` bits 15:8 say; SF is clear.
    Bextr = 22,
    /// `a` with the bits from number `b` bits 7:0 on clear; CF = there are none.
    Bzhi = 23,
    /// Trailing zeros of `a`, the size if there is no one; CF = `a` is 0, SF is clear.
    Tzcnt = 24,
    /// Leading zeros, likewise.
    Lzcnt = 25,
}

impl AluOp {
    const ALL: [AluOp; 26] = [
        AluOp::Add,
        AluOp::Or,
        AluOp::Adc,
        AluOp::Sbb,
        AluOp::And,
        AluOp::Sub,
        AluOp::Xor,
        AluOp::Cmp,
        AluOp::Test,
        AluOp::Inc,
        AluOp::Dec,
        AluOp::Neg,
        AluOp::Shl,
        AluOp::Shr,
        AluOp::Sar,
        AluOp::Bt,
        AluOp::Rol,
        AluOp::Ror,
        AluOp::Andn,
        AluOp::Blsi,
        AluOp::Blsr,
        AluOp::Blsmsk,
        AluOp::Bextr,
        AluOp::Bzhi,
        AluOp::Tzcnt,
        AluOp::Lzcnt,
    ];

    /// From its number; what is none is the last.
    pub const fn from_u8(v: u8) -> AluOp {
        let n = (v & 31) as usize;
        Self::ALL[if n < Self::ALL.len() { n } else { Self::ALL.len() - 1 }]
    }

    /// Whether the flags before matter to the flags or the result after.
    pub const fn reads_flags(self) -> bool {
        matches!(
            self,
            AluOp::Adc
                | AluOp::Sbb
                | AluOp::Inc
                | AluOp::Dec
                | AluOp::Shl
                | AluOp::Shr
                | AluOp::Sar
                | AluOp::Bt
                | AluOp::Rol
                | AluOp::Ror
        )
    }

    /// Flags that the architecture leaves undefined, so that a host may have others than the interpreter.
    pub const fn undefined(self) -> u64 {
        use crate::flags::x86::{AF, OF, PF, SF};
        match self {
            AluOp::Shl | AluOp::Shr | AluOp::Sar => OF | AF,
            AluOp::Rol | AluOp::Ror => OF,
            AluOp::Andn | AluOp::Blsi | AluOp::Blsr | AluOp::Blsmsk | AluOp::Bzhi => AF | PF,
            AluOp::Bextr => AF | PF | SF,
            AluOp::Tzcnt | AluOp::Lzcnt => AF | PF | SF | OF,
            _ => 0,
        }
    }

    /// Whether there is no result.
    pub const fn compares(self) -> bool {
        matches!(self, AluOp::Cmp | AluOp::Test | AluOp::Bt)
    }
}

/// Operation and size of [`Op::Alu`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AluRef {
    /// What to do.
    pub op: AluOp,
    /// log2 of the size in bytes, 0..=3.
    pub log2: u8,
}

impl AluRef {
    /// For operands of `bits` bits.
    pub const fn new(op: AluOp, bits: u32) -> Self {
        AluRef { op, log2: (bits / 8).trailing_zeros() as u8 }
    }

    /// The `aux` byte.
    pub const fn aux(self) -> u8 {
        self.op as u8 | self.log2 << 5
    }

    /// Back from the `aux` byte.
    pub const fn unpack(aux: u8) -> Self {
        AluRef { op: AluOp::from_u8(aux), log2: aux >> 5 & 3 }
    }

    /// Size in bits.
    pub const fn bits(self) -> u8 {
        8 << self.log2
    }
}

/// Operations of [`Op::Atomic`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum AtomicOp {
    /// Exchange.
    Swap,
    /// Add.
    Add,
    /// And.
    And,
    /// Or.
    Or,
    /// Exclusive or.
    Xor,
    /// And with the complement.
    AndNot,
    /// Signed maximum.
    MaxS,
    /// Signed minimum.
    MinS,
    /// Unsigned maximum.
    MaxU,
    /// Unsigned minimum.
    MinU,
}

/// Kinds of [`Op::Fence`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Fence {
    /// Earlier loads before later loads and stores.
    Acquire,
    /// Earlier loads and stores before later stores.
    Release,
    /// Everything, store to load included.
    Full,
}

/// Operations of [`Op::Bulk`]. Lengths and results are in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BulkOp {
    /// Copy as if element by element in the given direction (overlap replicates as the element loop would).
    Copy,
    /// Fill with the low element of `b`.
    Fill,
    /// `[dst] ^= [src]` (s390x XC); likewise below.
    Xor,
    /// `[dst] &= [src]`.
    And,
    /// `[dst] |= [src]`.
    Or,
    /// Compare, writing nothing: `d` = number of leading bytes that are equal (so it may be 0). Fewer than the length says
    /// that the next pair differs or cannot be read; loading that pair tells which (s390x CLC: no byte behind the first
    /// difference need be accessible).
    Compare,
}

/// What an exit probably is. Nothing depends on it but speed.
pub mod hint {
    /// A call: the guest comes back to behind the block when its stack pointer is as it is now.
    pub const CALL: u8 = 2;
    /// A return.
    pub const RETURN: u8 = 4;
}

/// Flags of [`Op::Call`] for liveness and for the verifier.
pub mod call_flags {
    /// The helper may stop (fault or event) before it has changed anything.
    pub const MAY_STOP: u8 = 1;
    /// The helper may read any guest word (flags must be written back before).
    pub const READS_STATE: u8 = 2;
    /// The helper may write any guest word.
    pub const WRITES_STATE: u8 = 4;
    /// The instruction can be restarted although guest words were written before this call (its progress is in them).
    pub const RESTARTABLE: u8 = 8;
}

/// How a memory operation reaches memory: packed into [`Inst::imm`] (address part and attributes) and [`Inst::aux`] (size).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemRef {
    /// Displacement, sign-extended.
    pub disp: i32,
    /// Left shift of the index, 0..=3.
    pub scale: u8,
    /// log2 of the size in bytes: 0..=4.
    pub log2: u8,
    /// Sign-extend the loaded value to 64 bits.
    pub signed: bool,
    /// Big-endian access.
    pub big: bool,
    /// Address space or mode selector of the architecture; 0 is the current one at current privilege.
    pub space: u8,
    /// Storage access key + 1 (s390x), 0 none.
    pub key: u8,
    /// Must be naturally aligned, else an alignment fault of the architecture.
    pub aligned: bool,
    /// The first half of an operand of twice this size: that is what must be aligned, and what must be addressable as a whole.
    pub double: bool,
    /// Alignment is not checked even where the architecture checks that of scalars (x86: CR0.AM with EFLAGS.AC).
    pub relaxed: bool,
    /// Load that will be followed by a store to the same place: check the right to write first.
    pub write_intent: bool,
    /// The address came from the stack segment (x86: faults are #SS).
    pub stack: bool,
    /// Device-style access ordering: acquire (loads) or release (stores).
    pub ordered: bool,
    /// The effective address wraps at this many bits: 0 none, 1 = 32, 2 = 31, 3 = 24.
    pub wrap: u8,
}

impl MemRef {
    /// A plain little-endian access of `1 << log2` bytes.
    pub const fn new(log2: u8) -> Self {
        MemRef {
            disp: 0,
            scale: 0,
            log2,
            signed: false,
            big: false,
            space: 0,
            key: 0,
            aligned: false,
            double: false,
            relaxed: false,
            write_intent: false,
            stack: false,
            ordered: false,
            wrap: 0,
        }
    }

    /// The `aux` byte.
    pub const fn aux(self) -> u8 {
        self.log2 | (self.signed as u8) << 3 | (self.big as u8) << 4 | (self.scale & 3) << 5
    }

    /// The attribute half of the immediate, see [`MemRef::imm`].
    const fn attributes(self) -> u64 {
        (self.space as u64) << 48
            | (self.key as u64 & 0x1f) << 56
            | (self.aligned as u64) << 61
            | (self.write_intent as u64) << 62
            | (self.stack as u64) << 63
            | (self.ordered as u64) << 44
            | (self.wrap as u64 & 3) << 45
            | (self.double as u64) << 47
            | (self.relaxed as u64) << 43
    }

    /// The `imm` word: displacement in bits 0..32, attributes above.
    pub const fn imm(self) -> u64 {
        self.disp as u32 as u64 | self.attributes()
    }

    /// The `imm` word of [`Op::Cas`]: bits 0..10 are the slot of the expected value, no displacement.
    pub const fn pack_cas(self, expected: Slot) -> u64 {
        (expected.0 as u64) | self.attributes()
    }

    /// The `imm` word of [`Op::Atomic`]: bits 0..8 are the operation, no displacement.
    pub const fn pack_atomic(self, op: AtomicOp) -> u64 {
        op as u64 | self.attributes()
    }

    /// The `imm` word of [`Op::AluMem`]: bits 32..37 are the operation.
    pub const fn pack_alu(self, op: AluOp) -> u64 {
        self.imm() | (op as u64) << 32
    }

    /// The operation of an [`Op::AluMem`].
    pub const fn alu_op(imm: u64) -> AluOp {
        AluOp::from_u8((imm >> 32) as u8)
    }

    /// Back from the packed form. `disp` is meaningless for [`Op::Cas`] and [`Op::Atomic`].
    #[inline(always)]
    pub const fn unpack(aux: u8, imm: u64) -> Self {
        MemRef {
            disp: imm as u32 as i32,
            scale: aux >> 5 & 3,
            log2: aux & 7,
            signed: aux & 8 != 0,
            big: aux & 16 != 0,
            space: (imm >> 48) as u8,
            key: (imm >> 56) as u8 & 0x1f,
            aligned: imm >> 61 & 1 != 0,
            double: imm >> 47 & 1 != 0,
            relaxed: imm >> 43 & 1 != 0,
            write_intent: imm >> 62 & 1 != 0,
            stack: imm >> 63 != 0,
            ordered: imm >> 44 & 1 != 0,
            wrap: (imm >> 45) as u8 & 3,
        }
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// Bits of the address that must be clear if it is aligned.
    pub const fn low_bits(self) -> u64 {
        (self.bytes() << self.double as u64) - 1
    }
}

/// The `imm` word of [`Op::Fp`]: bits 0..8 the immediate byte, bits 16..26 the third operand of a fused operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FpRef;

impl FpRef {
    /// The instruction has another [`Op::Fp`] behind this one, and both raise their exceptions together: one that is unmasked
    /// traps at the last. Until then the flags wait in the upper half of [`FPC`], if one of them could trap.
    pub const MORE: u64 = 1 << 8;

    /// The bits of a third operand.
    pub const fn with_third(c: Slot) -> u64 {
        (c.0 as u64) << 16
    }

    /// The third operand.
    pub const fn third(imm: u64) -> Slot {
        Slot((imm >> 16) as u16 & 0x3ff)
    }
}

/// Packed operand of [`Op::Bulk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkRef {
    /// Slot with the length in bytes.
    pub len: Slot,
    /// log2 of the element size.
    pub log2: u8,
    /// Towards lower addresses (x86 DF=1); addresses then name the highest element.
    pub backward: bool,
    /// Address space of the destination, of the source.
    pub dst_space: u8,
    /// Address space of the source.
    pub src_space: u8,
    /// Address wrap as in [`MemRef::wrap`].
    pub wrap: u8,
    /// All or nothing: every byte of both operands is checked before the first one changes, and the whole length is done.
    /// For instructions of bounded length that cannot be interrupted (s390x MVC, XC): at most 256 bytes.
    pub whole: bool,
    /// Storage access key of the destination as in [`MemRef::key`].
    pub dst_key: u8,
    /// Storage access key of the source.
    pub src_key: u8,
}

impl BulkRef {
    /// Bytes upwards in the current address space, without keys, as far as one step goes; the length in bytes is in `len`.
    pub const fn new(len: Slot) -> Self {
        BulkRef {
            len,
            log2: 0,
            backward: false,
            dst_space: 0,
            src_space: 0,
            wrap: 0,
            whole: false,
            dst_key: 0,
            src_key: 0,
        }
    }

    /// The `imm` word.
    pub const fn imm(self) -> u64 {
        self.len.0 as u64
            | (self.log2 as u64) << 16
            | (self.backward as u64) << 20
            | (self.wrap as u64) << 21
            | (self.whole as u64) << 23
            | (self.dst_key as u64 & 0x1f) << 24
            | (self.dst_space as u64) << 32
            | (self.src_space as u64) << 40
            | (self.src_key as u64 & 0x1f) << 48
    }

    /// Back from the packed form.
    pub const fn unpack(imm: u64) -> Self {
        BulkRef {
            len: Slot(imm as u16 & 0x3ff),
            log2: (imm >> 16) as u8 & 0xf,
            backward: imm >> 20 & 1 != 0,
            wrap: (imm >> 21) as u8 & 3,
            dst_space: (imm >> 32) as u8,
            src_space: (imm >> 40) as u8,
            whole: imm >> 23 & 1 != 0,
            dst_key: (imm >> 24) as u8 & 0x1f,
            src_key: (imm >> 48) as u8 & 0x1f,
        }
    }
}
