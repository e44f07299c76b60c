//! Lazily evaluated condition flags: the kinds of flag-setting operations and the conditions read from them.
//!
//! A flag-setting guest instruction records (kind, size, a, b, result) in four words instead of computing every flag; a
//! reader evaluates what it needs. Kinds and conditions come in one family per guest architecture, because the meaning of
//! carry differs (x86 borrows, aarch64 does not, s390x has a two-bit condition code).

use crate::Regs;
use crate::op::{FLAG_A, FLAG_B, FLAG_KIND, FLAG_R};

/// x86 EFLAGS bits that [`Kind`]s of the x86 family define.
pub mod x86 {
    /// Carry.
    pub const CF: u64 = 1;
    /// Parity of the low result byte.
    pub const PF: u64 = 4;
    /// Carry out of bit 3.
    pub const AF: u64 = 0x10;
    /// Zero.
    pub const ZF: u64 = 0x40;
    /// Sign.
    pub const SF: u64 = 0x80;
    /// Overflow.
    pub const OF: u64 = 0x800;
    /// All of them.
    pub const ALL: u64 = CF | PF | AF | ZF | SF | OF;
}

/// What produced the flags. Operands and result are compared modulo the operand size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Explicit bits in R: EFLAGS layout.
    X86Explicit,
    /// R = A + B.
    X86Add,
    /// R = A + B + carry-in (the carry-in follows from A, B and R: `(R ^ A ^ B) & 1`).
    X86Adc,
    /// R = A - B.
    X86Sub,
    /// R = A - B - borrow-in.
    X86Sbb,
    /// Logical result: CF = OF = 0; AF = 0.
    X86Logic,
    /// R = A + 1, B = old CF (0/1).
    X86Inc,
    /// R = A - 1, B = old CF (0/1).
    X86Dec,
    /// R = A << B, 1 ≤ B: CF is the last bit out; OF as for a shift by one; AF = 0.
    X86Shl,
    /// R = A >> B logical, 1 ≤ B.
    X86Shr,
    /// R = A >> B arithmetic, 1 ≤ B.
    X86Sar,
    /// R = low half of a product; A = CF = OF (0/1). SF, ZF, PF from R; AF = 0.
    X86Mul,
    /// Explicit bits as a host gives them cheaply: R bits 8..16 are those of LAHF, bit 0 is OF; the rest is anything. The form
    /// in which emitted code keeps flags between blocks.
    X86Host,

    /// Explicit NZCV in bits 31..28 of R.
    A64Explicit,
    /// R = A + B.
    A64Add,
    /// R = A + B + C.
    A64Adc,
    /// R = A - B (C = no borrow).
    A64Sub,
    /// R = A - B - !C.
    A64Sbc,
    /// N and Z of R; C = V = 0.
    A64Logic,

    /// Explicit condition code 0..=3 in R.
    S390Explicit,
    /// 0: R = 0, 1: R ≠ 0 (logical operations).
    S390NonZero,
    /// Sign of R as compare with zero: 0 zero, 1 negative, 2 positive (load and test).
    S390Sign,
    /// Signed A ? B: 0 equal, 1 low, 2 high.
    S390CompareS,
    /// Unsigned A ? B.
    S390CompareU,
    /// Signed add R = A + B: sign, 3 on overflow.
    S390Add,
    /// Signed subtract R = A - B.
    S390Sub,
    /// Logical add: bit 0 = R ≠ 0, bit 1 = carry.
    S390AddLogical,
    /// Logical subtract: bit 0 = R ≠ 0, bit 1 = no borrow.
    S390SubLogical,
    /// Test under mask: A = value, B = mask (low 16 bits): 0 all zeros, 1 mixed with leftmost zero, 2 mixed with leftmost
    /// one, 3 all ones.
    S390TestMask,
}

impl Kind {
    /// Back from its number; unknown numbers (only a broken lifter makes them) read as explicit.
    pub const fn from_u8(v: u8) -> Kind {
        const ALL: [Kind; 29] = [
            Kind::X86Explicit,
            Kind::X86Add,
            Kind::X86Adc,
            Kind::X86Sub,
            Kind::X86Sbb,
            Kind::X86Logic,
            Kind::X86Inc,
            Kind::X86Dec,
            Kind::X86Shl,
            Kind::X86Shr,
            Kind::X86Sar,
            Kind::X86Mul,
            Kind::X86Host,
            Kind::A64Explicit,
            Kind::A64Add,
            Kind::A64Adc,
            Kind::A64Sub,
            Kind::A64Sbc,
            Kind::A64Logic,
            Kind::S390Explicit,
            Kind::S390NonZero,
            Kind::S390Sign,
            Kind::S390CompareS,
            Kind::S390CompareU,
            Kind::S390Add,
            Kind::S390Sub,
            Kind::S390AddLogical,
            Kind::S390SubLogical,
            Kind::S390TestMask,
        ];
        if (v as usize) < ALL.len() { ALL[v as usize] } else { Kind::X86Explicit }
    }
}

/// A condition: 0..=15 the x86 condition codes in encoding order (O, NO, B, AE, E, NE, BE, A, S, NS, P, NP, L, GE, LE, G);
/// 16..=31 the aarch64 ones (EQ, NE, CS, CC, MI, PL, VS, VC, HI, LS, GE, LT, GT, LE, AL, NV); 32..=47 an s390x branch mask.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cond(pub u8);

impl Cond {
    /// x86 condition `cc` (low four bits of Jcc).
    pub const fn x86(cc: u8) -> Cond {
        Cond(cc & 15)
    }
    /// aarch64 condition.
    pub const fn a64(cc: u8) -> Cond {
        Cond(16 | (cc & 15))
    }
    /// s390x mask: bit 3 = CC0 … bit 0 = CC3.
    pub const fn s390(mask: u8) -> Cond {
        Cond(32 | (mask & 15))
    }
}

/// Word that [`crate::Op::Flags`] writes to [`FLAG_KIND`].
pub const fn kind_word(kind: Kind, bits: u8) -> u64 {
    kind as u64 | (bits as u64) << 8
}

/// The word that [`Op::Flags`](crate::Op::Flags) would leave in [`FLAG_KIND`] for flags in the host's form.
pub const HOST_KIND: u64 = kind_word(Kind::X86Host, 64);

/// Bring x86 flags into the form of [`Kind::X86Host`].
#[inline]
pub fn to_host(r: &mut Regs) {
    if r.get(FLAG_KIND) != HOST_KIND {
        let f = materialise(r);
        r.set(FLAG_R, (f & 0xff) << 8 | (f >> 11 & 1));
        r.set(FLAG_KIND, HOST_KIND);
    }
}

/// All flags in the layout of the kind's family.
pub fn materialise(r: &Regs) -> u64 {
    let w = r.get(FLAG_KIND);
    compute(Kind::from_u8(w as u8), (w >> 8) as u8, r.get(FLAG_A), r.get(FLAG_B), r.get(FLAG_R))
}

fn sx(v: u64, bits: u8) -> i64 {
    let s = 64 - u32::from(bits.clamp(1, 64));
    ((v << s) as i64) >> s
}

fn zx(v: u64, bits: u8) -> u64 {
    let s = 64 - u32::from(bits.clamp(1, 64));
    (v << s) >> s
}

/// All flags of (kind, size in bits, a, b, r).
pub fn compute(kind: Kind, bits: u8, a: u64, b: u64, r: u64) -> u64 {
    match kind {
        Kind::X86Explicit => r & x86::ALL,
        Kind::X86Host => r >> 8 & (x86::ALL & 0xff) | (r & 1) << 11,
        Kind::A64Explicit => r & 0xf000_0000,
        Kind::S390Explicit => r & 3,
        k if (k as u8) < Kind::X86Host as u8 => compute_x86(k, bits, a, b, r),
        k if (k as u8) <= Kind::A64Logic as u8 => compute_a64(k, bits, a, b, r),
        k => compute_s390(k, bits, a, b, r),
    }
}

fn compute_x86(kind: Kind, bits: u8, a: u64, b: u64, r: u64) -> u64 {
    let (a, b, r) =
        (zx(a, bits), if matches!(kind, Kind::X86Inc | Kind::X86Dec) { b } else { zx(b, bits) }, zx(r, bits));
    let sign = |v: u64| v >> (bits - 1) & 1 != 0;
    let (cf, of, af) = match kind {
        Kind::X86Add | Kind::X86Adc => {
            // Carry out of bit n-1 from the full-adder identity; it covers a carry in.
            let c = (a & b) | ((a | b) & !r);
            (sign(c), sign((a ^ r) & (b ^ r)), (a ^ b ^ r) & 0x10 != 0)
        }
        Kind::X86Sub | Kind::X86Sbb => {
            let c = (!a & b) | ((!a | b) & r);
            (sign(c), sign((a ^ b) & (a ^ r)), (a ^ b ^ r) & 0x10 != 0)
        }
        Kind::X86Inc => (b & 1 != 0, r == 1 << (bits - 1), (a ^ r ^ 1) & 0x10 != 0),
        Kind::X86Dec => (b & 1 != 0, a == 1 << (bits - 1), (a ^ r ^ 1) & 0x10 != 0),
        Kind::X86Shl => {
            let cf = b <= u64::from(bits) && b > 0 && a >> (u64::from(bits) - b) & 1 != 0;
            (cf, sign(r) != cf, false)
        }
        Kind::X86Shr => (b > 0 && b <= 64 && (a >> (b - 1)) & 1 != 0, sign(a), false),
        Kind::X86Sar => (b > 0 && (sx(a, bits) >> (b - 1).min(63)) & 1 != 0, false, false),
        Kind::X86Mul => (a & 1 != 0, a & 1 != 0, false),
        _ => (false, false, false),
    };
    let mut f = 0;
    if cf {
        f |= x86::CF;
    }
    if (r as u8).count_ones() & 1 == 0 {
        f |= x86::PF;
    }
    if af {
        f |= x86::AF;
    }
    if r == 0 {
        f |= x86::ZF;
    }
    if sign(r) {
        f |= x86::SF;
    }
    if of {
        f |= x86::OF;
    }
    f
}

fn compute_a64(kind: Kind, bits: u8, a: u64, b: u64, r: u64) -> u64 {
    let (a, b, r) = (zx(a, bits), zx(b, bits), zx(r, bits));
    let sign = |v: u64| v >> (bits - 1) & 1 != 0;
    let (c, v) = match kind {
        Kind::A64Add | Kind::A64Adc => (sign((a & b) | ((a | b) & !r)), sign((a ^ r) & (b ^ r))),
        Kind::A64Sub | Kind::A64Sbc => (!sign((!a & b) | ((!a | b) & r)), sign((a ^ b) & (a ^ r))),
        _ => (false, false),
    };
    u64::from(sign(r)) << 31 | u64::from(r == 0) << 30 | u64::from(c) << 29 | u64::from(v) << 28
}

fn compute_s390(kind: Kind, bits: u8, a: u64, b: u64, r: u64) -> u64 {
    let (za, zb, zr) = (zx(a, bits), zx(b, bits), zx(r, bits));
    let (sa, sb, sr) = (sx(a, bits), sx(b, bits), sx(r, bits));
    let by_sign = |v: i64| u64::from(v < 0) | u64::from(v > 0) << 1;
    let order = |lt: bool, gt: bool| u64::from(lt) | u64::from(gt) << 1;
    let top = |v: u64| v >> (bits - 1) & 1 != 0;
    match kind {
        Kind::S390NonZero => u64::from(zr != 0),
        Kind::S390Sign => by_sign(sr),
        Kind::S390CompareS => order(sa < sb, sa > sb),
        Kind::S390CompareU => order(za < zb, za > zb),
        Kind::S390Add if top((za ^ zr) & (zb ^ zr)) => 3,
        Kind::S390Sub if top((za ^ zb) & (za ^ zr)) => 3,
        Kind::S390Add | Kind::S390Sub => by_sign(sr),
        Kind::S390AddLogical => u64::from(zr != 0) | u64::from(top((za & zb) | ((za | zb) & !zr))) << 1,
        Kind::S390SubLogical => u64::from(zr != 0) | u64::from(!top((!za & zb) | ((!za | zb) & zr))) << 1,
        Kind::S390TestMask => {
            let m = b & 0xffff;
            let hit = a & m;
            if hit == 0 {
                0
            } else if hit == m {
                3
            } else if hit & (1 << (63 - m.leading_zeros())) != 0 {
                2
            } else {
                1
            }
        }
        _ => 0,
    }
}

/// Whether a condition holds.
#[inline]
pub fn holds(r: &Regs, c: Cond) -> bool {
    let w = r.get(FLAG_KIND);
    let kind = Kind::from_u8(w as u8);
    let bits = (w >> 8) as u8;
    if c.0 < 16 {
        // The two kinds that make up most of what a kernel branches on, without computing every flag.
        let shift = 64 - u32::from(bits.clamp(1, 64));
        match kind {
            Kind::X86Sub => {
                let (a, b) = (r.get(FLAG_A) << shift, r.get(FLAG_B) << shift);
                let yes = match c.0 >> 1 {
                    1 => a < b,
                    2 => a == b,
                    3 => a <= b,
                    6 => (a as i64) < (b as i64),
                    7 => (a as i64) <= (b as i64),
                    4 => (a.wrapping_sub(b) as i64) < 0,
                    _ => return x86_holds(materialise(r), c.0),
                };
                return yes ^ (c.0 & 1 != 0);
            }
            Kind::X86Logic => {
                let v = r.get(FLAG_R) << shift;
                let yes = match c.0 >> 1 {
                    0 | 1 => false,
                    2 | 3 => v == 0,
                    4 | 6 => (v as i64) < 0,
                    7 => (v as i64) <= 0,
                    _ => return x86_holds(materialise(r), c.0),
                };
                return yes ^ (c.0 & 1 != 0);
            }
            _ => return x86_holds(materialise(r), c.0),
        }
    }
    let f = materialise(r);
    if c.0 < 32 { a64_holds(f, c.0 & 15) } else { c.0 & 15 & (8 >> (f & 3)) != 0 }
}

/// x86 condition `cc` on EFLAGS `f`.
pub fn x86_holds(f: u64, cc: u8) -> bool {
    let bit = |m: u64| f & m != 0;
    let yes = match cc >> 1 & 7 {
        0 => bit(x86::OF),
        1 => bit(x86::CF),
        2 => bit(x86::ZF),
        3 => bit(x86::CF | x86::ZF),
        4 => bit(x86::SF),
        5 => bit(x86::PF),
        6 => bit(x86::SF) != bit(x86::OF),
        _ => bit(x86::ZF) || bit(x86::SF) != bit(x86::OF),
    };
    yes ^ (cc & 1 != 0)
}

/// aarch64 condition `cc` on NZCV in bits 31..28 of `f`.
pub fn a64_holds(f: u64, cc: u8) -> bool {
    let (n, z, c, v) = (f >> 31 & 1 != 0, f >> 30 & 1 != 0, f >> 29 & 1 != 0, f >> 28 & 1 != 0);
    let yes = match cc >> 1 & 7 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    yes ^ (cc & 1 != 0)
}
