//! Integer operations on 128-bit vectors: [`VecOp`] and what each computes, in safe portable Rust.
//!
//! One idea: an operation is a pure function of two 128-bit values and an immediate ([`eval`]), lanes counted from the least
//! significant bits. What has more inputs or outputs is lifted into several of them. Operations on 64-bit vectors (MMX) are
//! the same on low halves: the lifter places operands side by side where lanes cross between the halves (`pack`: first
//! concatenate both sources; `unpack high`: take the upper half of [`VecOp::UnpackLo8`]; `pshufb`: mask the indices with 0x87).

pub mod lanes;
pub mod string;
#[cfg(test)]
mod tests;

use lanes::{bytes, dwords, from_dwords, from_qwords, from_words, qwords, words, zip8, zip16, zip32, zip64};

/// Builds [`VecOp`] from one list, so that the numbering, the name and the decoding from a byte cannot disagree.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A vector operation; numbers in a name are lane widths in bits, `S` and `U` say signed and unsigned.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum VecOp { $($(#[$doc])* $name,)* }

        impl VecOp {
            /// Every operation, indexed by its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The operation with number `raw`, as stored in [`crate::Inst::aux`]; `None` when there is no such operation.
            #[must_use]
            #[inline]
            pub fn from_u8(raw: u8) -> Option<Self> {
                Self::ALL.get(usize::from(raw)).copied()
            }
        }
    };
}

ops! {
    /// a & b
    And,
    /// !a & b (x86 `pandn` order)
    AndNot,
    /// a | b
    Or,
    /// a ^ b
    Xor,
    /// a + b, wrapping
    Add8,
    /// a + b, wrapping
    Add16,
    /// a + b, wrapping
    Add32,
    /// a + b, wrapping
    Add64,
    /// a − b, wrapping
    Sub8,
    /// a − b, wrapping
    Sub16,
    /// a − b, wrapping
    Sub32,
    /// a − b, wrapping
    Sub64,
    /// a + b, saturating
    AddSatS8,
    /// a + b, saturating
    AddSatS16,
    /// a + b, saturating
    AddSatU8,
    /// a + b, saturating
    AddSatU16,
    /// a − b, saturating
    SubSatS8,
    /// a − b, saturating
    SubSatS16,
    /// a − b, saturating
    SubSatU8,
    /// a − b, saturating
    SubSatU16,
    /// low half of a × b
    MulLo16,
    /// low half of a × b
    MulLo32,
    /// high half of a × b
    MulHiS16,
    /// high half of a × b
    MulHiU16,
    /// (a × b + 0x4000) >> 15 (`pmulhrsw`)
    MulRoundS16,
    /// even 32-bit lanes multiplied to 64 bits (`pmuludq`)
    MulU32To64,
    /// even 32-bit lanes multiplied to 64 bits (`pmuldq`)
    MulS32To64,
    /// products of 16-bit lanes, neighbours added to 32 bits (`pmaddwd`)
    MulAddS16,
    /// products of unsigned bytes of a with signed bytes of b, neighbours added with saturation (`pmaddubsw`)
    MulAddU8S8,
    /// (a + b + 1) >> 1
    AvgU8,
    /// (a + b + 1) >> 1
    AvgU16,
    /// minimum
    MinS8,
    /// minimum
    MinS16,
    /// minimum
    MinS32,
    /// minimum
    MinU8,
    /// minimum
    MinU16,
    /// minimum
    MinU32,
    /// maximum
    MaxS8,
    /// maximum
    MaxS16,
    /// maximum
    MaxS32,
    /// maximum
    MaxU8,
    /// maximum
    MaxU16,
    /// maximum
    MaxU32,
    /// |a|; the most negative number stays
    Abs8,
    /// |a|
    Abs16,
    /// |a|
    Abs32,
    /// a, −a or 0 as b is positive, negative or zero
    Sign8,
    /// a, −a or 0 as b is positive, negative or zero
    Sign16,
    /// a, −a or 0 as b is positive, negative or zero
    Sign32,
    /// all ones where a = b
    CmpEq8,
    /// all ones where a = b
    CmpEq16,
    /// all ones where a = b
    CmpEq32,
    /// all ones where a = b
    CmpEq64,
    /// all ones where a > b, signed
    CmpGt8,
    /// all ones where a > b, signed
    CmpGt16,
    /// all ones where a > b, signed
    CmpGt32,
    /// all ones where a > b, signed
    CmpGt64,
    /// a << (low 64 bits of b); 0 when the count reaches the width
    Shl16,
    /// a << (low 64 bits of b)
    Shl32,
    /// a << (low 64 bits of b)
    Shl64,
    /// a >> (low 64 bits of b), logical; 0 when the count reaches the width
    Shr16,
    /// a >> (low 64 bits of b), logical
    Shr32,
    /// a >> (low 64 bits of b), logical
    Shr64,
    /// a >> (low 64 bits of b), arithmetic; counts beyond the width act as the width
    Sar16,
    /// a >> (low 64 bits of b), arithmetic
    Sar32,
    /// a << imm, as [`VecOp::Shl16`]
    Shl16I,
    /// a << imm
    Shl32I,
    /// a << imm
    Shl64I,
    /// a >> imm, logical
    Shr16I,
    /// a >> imm, logical
    Shr32I,
    /// a >> imm, logical
    Shr64I,
    /// a >> imm, arithmetic
    Sar16I,
    /// a >> imm, arithmetic
    Sar32I,
    /// the whole of a shifted left by imm bytes
    ShlBytes,
    /// the whole of a shifted right by imm bytes
    ShrBytes,
    /// lanes of a then b narrowed to 8 bits with signed saturation
    PackS16ToS8,
    /// lanes of a then b narrowed to 8 bits with unsigned saturation
    PackS16ToU8,
    /// lanes of a then b narrowed to 16 bits with signed saturation
    PackS32ToS16,
    /// lanes of a then b narrowed to 16 bits with unsigned saturation
    PackS32ToU16,
    /// low lanes of a and b interleaved, a first
    UnpackLo8,
    /// low lanes of a and b interleaved, a first
    UnpackLo16,
    /// low lanes of a and b interleaved, a first
    UnpackLo32,
    /// low lanes of a and b interleaved, a first
    UnpackLo64,
    /// high lanes of a and b interleaved, a first
    UnpackHi8,
    /// high lanes of a and b interleaved, a first
    UnpackHi16,
    /// high lanes of a and b interleaved, a first
    UnpackHi32,
    /// high lanes of a and b interleaved, a first
    UnpackHi64,
    /// 32-bit lanes of a chosen by imm, two bits each (`pshufd`)
    Shuffle32,
    /// low four 16-bit lanes of a chosen by imm, the high half as it is (`pshuflw`)
    ShuffleLo16,
    /// high four 16-bit lanes of a chosen by imm, the low half as it is (`pshufhw`)
    ShuffleHi16,
    /// byte i = byte (b[i] & 15) of a, or 0 if bit 7 of b[i] is set (`pshufb`)
    Shuffle8,
    /// two 32-bit lanes of a, then two of b, chosen by imm (`shufps`)
    ShufflePs,
    /// one 64-bit lane of a, then one of b, chosen by imm (`shufpd`)
    ShufflePd,
    /// bytes imm … imm+15 of a:b, a being the upper half (`palignr`)
    AlignRight,
    /// sums of absolute differences of unsigned bytes, one per half (`psadbw`)
    Sad8,
    /// eight sums of four absolute differences; offsets by imm (`mpsadbw`)
    MultiSad8,
    /// sums of neighbours of a, then of b
    HAdd16,
    /// sums of neighbours of a, then of b
    HAdd32,
    /// sums of neighbours of a, then of b, saturating
    HAddSatS16,
    /// differences of neighbours (even − odd) of a, then of b
    HSub16,
    /// differences of neighbours (even − odd) of a, then of b
    HSub32,
    /// differences of neighbours of a, then of b, saturating
    HSubSatS16,
    /// minimum of the unsigned lanes of a in bits 15:0, its index in bits 18:16 (`phminposuw`)
    MinPosU16,
    /// lane i from b where bit i of imm is set, else from a
    Blend16,
    /// lane i from b where bit i of imm is set, else from a
    Blend32,
    /// lane i from b where bit i of imm is set, else from a
    Blend64,
    /// a with the lane imm replaced by the low bits of b
    Insert8,
    /// a with the lane imm replaced by the low bits of b
    Insert16,
    /// a with the lane imm replaced by the low bits of b
    Insert32,
    /// a with the lane imm replaced by the low bits of b
    Insert64,
    /// lane imm of a, zero-extended
    Extract8,
    /// lane imm of a, zero-extended
    Extract16,
    /// lane imm of a, zero-extended
    Extract32,
    /// lane imm of a, zero-extended
    Extract64,
    /// `insertps`: lane imm[7:6] of b to lane imm[5:4] of a, then lanes imm[3:0] zeroed
    InsertPs,
    /// sign bits of the lanes of a
    MoveMask8,
    /// sign bits of the lanes of a
    MoveMask32,
    /// sign bits of the lanes of a
    MoveMask64,
    /// EFLAGS of `ptest a, b`: ZF if a & b = 0, CF if !a & b = 0
    Test,
    /// `pcmpistri a, b, imm`: the index in the low word, EFLAGS in the high word
    StringIndex,
    /// `pcmpistrm a, b, imm`: the mask (flags: those of [`VecOp::StringIndex`])
    StringMask,
    /// low lanes of a, sign-extended
    Sext8To16,
    /// low lanes of a, sign-extended
    Sext8To32,
    /// low lanes of a, sign-extended
    Sext8To64,
    /// low lanes of a, sign-extended
    Sext16To32,
    /// low lanes of a, sign-extended
    Sext16To64,
    /// low lanes of a, sign-extended
    Sext32To64,
    /// low lanes of a, zero-extended
    Zext8To16,
    /// low lanes of a, zero-extended
    Zext8To32,
    /// low lanes of a, zero-extended
    Zext8To64,
    /// low lanes of a, zero-extended
    Zext16To32,
    /// low lanes of a, zero-extended
    Zext16To64,
    /// low lanes of a, zero-extended
    Zext32To64,
    /// even 32-bit lanes of a, each twice (`movsldup`)
    DupEven32,
    /// odd 32-bit lanes of a, each twice (`movshdup`)
    DupOdd32,
    /// low half of a, twice (`movddup`)
    DupLo64,
    /// each lane of a << its lane of b; 0 when the count reaches the width
    ShlV32,
    /// each lane of a << its lane of b
    ShlV64,
    /// each lane of a >> its lane of b, logical; 0 when the count reaches the width
    ShrV32,
    /// each lane of a >> its lane of b, logical
    ShrV64,
    /// each lane of a >> its lane of b, arithmetic; counts beyond the width act as the width
    SarV32,
    /// 32-bit lanes of a chosen by bits 1:0 of the lanes of b (`vpermilps`)
    Permute32,
    /// 64-bit lanes of a chosen by bit 1 of the lanes of b (`vpermilpd`)
    Permute64,
}

/// The shift count of a lane `width` bits wide: `width` when out of range.
fn count(b: u128, width: u32) -> u32 {
    u32::try_from(b as u64).unwrap_or(u32::MAX).min(width)
}

/// The shift count in a 64-bit lane.
fn wide_count(n: u64) -> u32 {
    n.min(64) as u32
}

/// What `op` computes. Operations of one source use `a`; `imm` is ignored where the operation's text does not name it.
#[must_use]
pub fn eval(op: VecOp, a: u128, b: u128, imm: u64) -> u128 {
    let i = u128::from(imm);
    match op {
        VecOp::And => a & b,
        VecOp::AndNot => !a & b,
        VecOp::Or => a | b,
        VecOp::Xor => a ^ b,
        VecOp::Add8 => zip8(a, b, u8::wrapping_add),
        VecOp::Add16 => zip16(a, b, u16::wrapping_add),
        VecOp::Add32 => zip32(a, b, u32::wrapping_add),
        VecOp::Add64 => zip64(a, b, u64::wrapping_add),
        VecOp::Sub8 => zip8(a, b, u8::wrapping_sub),
        VecOp::Sub16 => zip16(a, b, u16::wrapping_sub),
        VecOp::Sub32 => zip32(a, b, u32::wrapping_sub),
        VecOp::Sub64 => zip64(a, b, u64::wrapping_sub),
        VecOp::AddSatS8 => zip8(a, b, |x, y| x.cast_signed().saturating_add(y.cast_signed()).cast_unsigned()),
        VecOp::AddSatS16 => zip16(a, b, |x, y| x.cast_signed().saturating_add(y.cast_signed()).cast_unsigned()),
        VecOp::AddSatU8 => zip8(a, b, u8::saturating_add),
        VecOp::AddSatU16 => zip16(a, b, u16::saturating_add),
        VecOp::SubSatS8 => zip8(a, b, |x, y| x.cast_signed().saturating_sub(y.cast_signed()).cast_unsigned()),
        VecOp::SubSatS16 => zip16(a, b, |x, y| x.cast_signed().saturating_sub(y.cast_signed()).cast_unsigned()),
        VecOp::SubSatU8 => zip8(a, b, u8::saturating_sub),
        VecOp::SubSatU16 => zip16(a, b, u16::saturating_sub),
        VecOp::MulLo16 => zip16(a, b, u16::wrapping_mul),
        VecOp::MulLo32 => zip32(a, b, u32::wrapping_mul),
        VecOp::MulHiS16 => zip16(a, b, |x, y| ((i32::from(x.cast_signed()) * i32::from(y.cast_signed())) >> 16) as u16),
        VecOp::MulHiU16 => zip16(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
        VecOp::MulRoundS16 => {
            zip16(a, b, |x, y| ((i32::from(x.cast_signed()) * i32::from(y.cast_signed()) + 0x4000) >> 15) as u16)
        }
        VecOp::MulU32To64 => zip64(a, b, |x, y| u64::from(x as u32) * u64::from(y as u32)),
        VecOp::MulS32To64 => zip64(a, b, |x, y| (i64::from(x as i32) * i64::from(y as i32)).cast_unsigned()),
        VecOp::MulAddS16 => lanes::mul_add_s16(a, b),
        VecOp::MulAddU8S8 => lanes::mul_add_u8_s8(a, b),
        VecOp::AvgU8 => zip8(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8),
        VecOp::AvgU16 => zip16(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16),
        VecOp::MinS8 => zip8(a, b, |x, y| x.cast_signed().min(y.cast_signed()).cast_unsigned()),
        VecOp::MinS16 => zip16(a, b, |x, y| x.cast_signed().min(y.cast_signed()).cast_unsigned()),
        VecOp::MinS32 => zip32(a, b, |x, y| x.cast_signed().min(y.cast_signed()).cast_unsigned()),
        VecOp::MinU8 => zip8(a, b, u8::min),
        VecOp::MinU16 => zip16(a, b, u16::min),
        VecOp::MinU32 => zip32(a, b, u32::min),
        VecOp::MaxS8 => zip8(a, b, |x, y| x.cast_signed().max(y.cast_signed()).cast_unsigned()),
        VecOp::MaxS16 => zip16(a, b, |x, y| x.cast_signed().max(y.cast_signed()).cast_unsigned()),
        VecOp::MaxS32 => zip32(a, b, |x, y| x.cast_signed().max(y.cast_signed()).cast_unsigned()),
        VecOp::MaxU8 => zip8(a, b, u8::max),
        VecOp::MaxU16 => zip16(a, b, u16::max),
        VecOp::MaxU32 => zip32(a, b, u32::max),
        VecOp::Abs8 => zip8(a, 0, |x, _| x.cast_signed().unsigned_abs()),
        VecOp::Abs16 => zip16(a, 0, |x, _| x.cast_signed().unsigned_abs()),
        VecOp::Abs32 => zip32(a, 0, |x, _| x.cast_signed().unsigned_abs()),
        VecOp::Sign8 => zip8(a, b, |x, y| x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()),
        VecOp::Sign16 => zip16(a, b, |x, y| x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()),
        VecOp::Sign32 => zip32(a, b, |x, y| x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()),
        VecOp::CmpEq8 => zip8(a, b, |x, y| if x == y { u8::MAX } else { 0 }),
        VecOp::CmpEq16 => zip16(a, b, |x, y| if x == y { u16::MAX } else { 0 }),
        VecOp::CmpEq32 => zip32(a, b, |x, y| if x == y { u32::MAX } else { 0 }),
        VecOp::CmpEq64 => zip64(a, b, |x, y| if x == y { u64::MAX } else { 0 }),
        VecOp::CmpGt8 => zip8(a, b, |x, y| if x.cast_signed() > y.cast_signed() { u8::MAX } else { 0 }),
        VecOp::CmpGt16 => zip16(a, b, |x, y| if x.cast_signed() > y.cast_signed() { u16::MAX } else { 0 }),
        VecOp::CmpGt32 => zip32(a, b, |x, y| if x.cast_signed() > y.cast_signed() { u32::MAX } else { 0 }),
        VecOp::CmpGt64 => zip64(a, b, |x, y| if x.cast_signed() > y.cast_signed() { u64::MAX } else { 0 }),
        VecOp::Shl16 => lanes::shl16(a, count(b, 16)),
        VecOp::Shl32 => lanes::shl32(a, count(b, 32)),
        VecOp::Shl64 => lanes::shl64(a, count(b, 64)),
        VecOp::Shr16 => lanes::shr16(a, count(b, 16)),
        VecOp::Shr32 => lanes::shr32(a, count(b, 32)),
        VecOp::Shr64 => lanes::shr64(a, count(b, 64)),
        VecOp::Sar16 => lanes::sar16(a, count(b, 15)),
        VecOp::Sar32 => lanes::sar32(a, count(b, 31)),
        VecOp::Shl16I => lanes::shl16(a, count(i, 16)),
        VecOp::Shl32I => lanes::shl32(a, count(i, 32)),
        VecOp::Shl64I => lanes::shl64(a, count(i, 64)),
        VecOp::Shr16I => lanes::shr16(a, count(i, 16)),
        VecOp::Shr32I => lanes::shr32(a, count(i, 32)),
        VecOp::Shr64I => lanes::shr64(a, count(i, 64)),
        VecOp::Sar16I => lanes::sar16(a, count(i, 15)),
        VecOp::Sar32I => lanes::sar32(a, count(i, 31)),
        VecOp::ShlBytes => a.checked_shl(count(i, 16) * 8).unwrap_or(0),
        VecOp::ShrBytes => a.checked_shr(count(i, 16) * 8).unwrap_or(0),
        VecOp::PackS16ToS8 => lanes::pack16(a, b, |x| x.clamp(-0x80, 0x7f) as u8),
        VecOp::PackS16ToU8 => lanes::pack16(a, b, |x| x.clamp(0, 0xff) as u8),
        VecOp::PackS32ToS16 => lanes::pack32(a, b, |x| x.clamp(-0x8000, 0x7fff) as u16),
        VecOp::PackS32ToU16 => lanes::pack32(a, b, |x| x.clamp(0, 0xffff) as u16),
        VecOp::UnpackLo8 => lanes::unpack8(a, b, 0),
        VecOp::UnpackLo16 => lanes::unpack16(a, b, 0),
        VecOp::UnpackLo32 => lanes::unpack32(a, b, 0),
        VecOp::UnpackLo64 => from_qwords([qwords(a)[0], qwords(b)[0]]),
        VecOp::UnpackHi8 => lanes::unpack8(a, b, 8),
        VecOp::UnpackHi16 => lanes::unpack16(a, b, 4),
        VecOp::UnpackHi32 => lanes::unpack32(a, b, 2),
        VecOp::UnpackHi64 => from_qwords([qwords(a)[1], qwords(b)[1]]),
        VecOp::Shuffle32 => lanes::shuffle32(a, a, imm),
        VecOp::ShuffleLo16 => lanes::shuffle16(a, imm, 0),
        VecOp::ShuffleHi16 => lanes::shuffle16(a, imm, 4),
        VecOp::Shuffle8 => lanes::shuffle8(a, b),
        VecOp::ShufflePs => lanes::shuffle32(a, b, imm),
        VecOp::ShufflePd => from_qwords([qwords(a)[(imm & 1) as usize], qwords(b)[(imm >> 1 & 1) as usize]]),
        VecOp::AlignRight => lanes::align_right(a, b, count(i, 32)),
        VecOp::Sad8 => lanes::sad8(a, b),
        VecOp::MultiSad8 => lanes::multi_sad8(a, b, imm),
        VecOp::HAdd16 => lanes::neighbours16(a, b, u16::wrapping_add),
        VecOp::HAdd32 => lanes::neighbours32(a, b, u32::wrapping_add),
        VecOp::HAddSatS16 => {
            lanes::neighbours16(a, b, |x, y| x.cast_signed().saturating_add(y.cast_signed()).cast_unsigned())
        }
        VecOp::HSub16 => lanes::neighbours16(a, b, u16::wrapping_sub),
        VecOp::HSub32 => lanes::neighbours32(a, b, u32::wrapping_sub),
        VecOp::HSubSatS16 => {
            lanes::neighbours16(a, b, |x, y| x.cast_signed().saturating_sub(y.cast_signed()).cast_unsigned())
        }
        VecOp::MinPosU16 => lanes::min_pos16(a),
        VecOp::Blend16 => lanes::blend(a, b, imm, 16),
        VecOp::Blend32 => lanes::blend(a, b, imm, 32),
        VecOp::Blend64 => lanes::blend(a, b, imm, 64),
        VecOp::Insert8 => lanes::insert(a, b, imm, 8),
        VecOp::Insert16 => lanes::insert(a, b, imm, 16),
        VecOp::Insert32 => lanes::insert(a, b, imm, 32),
        VecOp::Insert64 => lanes::insert(a, b, imm, 64),
        VecOp::Extract8 => bytes(a)[(imm & 15) as usize].into(),
        VecOp::Extract16 => words(a)[(imm & 7) as usize].into(),
        VecOp::Extract32 => dwords(a)[(imm & 3) as usize].into(),
        VecOp::Extract64 => qwords(a)[(imm & 1) as usize].into(),
        VecOp::InsertPs => lanes::insert_ps(a, b, imm),
        VecOp::MoveMask8 => lanes::mask(bytes(a).map(|x| x >> 7 != 0)),
        VecOp::MoveMask32 => lanes::mask(dwords(a).map(|x| x >> 31 != 0)),
        VecOp::MoveMask64 => lanes::mask(qwords(a).map(|x| x >> 63 != 0)),
        VecOp::Test => u128::from(a & b == 0) << 6 | u128::from(!a & b == 0),
        VecOp::StringIndex => {
            let outcome = string::implicit(a, b, imm as u8);
            u128::from(outcome.flags) << 64 | u128::from(outcome.index)
        }
        VecOp::StringMask => string::implicit(a, b, imm as u8).mask,
        VecOp::Sext8To16 => from_words(core::array::from_fn(|n| i16::from(bytes(a)[n].cast_signed()).cast_unsigned())),
        VecOp::Sext8To32 => from_dwords(core::array::from_fn(|n| i32::from(bytes(a)[n].cast_signed()).cast_unsigned())),
        VecOp::Sext8To64 => from_qwords(core::array::from_fn(|n| i64::from(bytes(a)[n].cast_signed()).cast_unsigned())),
        VecOp::Sext16To32 => {
            from_dwords(core::array::from_fn(|n| i32::from(words(a)[n].cast_signed()).cast_unsigned()))
        }
        VecOp::Sext16To64 => {
            from_qwords(core::array::from_fn(|n| i64::from(words(a)[n].cast_signed()).cast_unsigned()))
        }
        VecOp::Sext32To64 => {
            from_qwords(core::array::from_fn(|n| i64::from(dwords(a)[n].cast_signed()).cast_unsigned()))
        }
        VecOp::Zext8To16 => from_words(core::array::from_fn(|n| bytes(a)[n].into())),
        VecOp::Zext8To32 => from_dwords(core::array::from_fn(|n| bytes(a)[n].into())),
        VecOp::Zext8To64 => from_qwords(core::array::from_fn(|n| bytes(a)[n].into())),
        VecOp::Zext16To32 => from_dwords(core::array::from_fn(|n| words(a)[n].into())),
        VecOp::Zext16To64 => from_qwords(core::array::from_fn(|n| words(a)[n].into())),
        VecOp::Zext32To64 => from_qwords(core::array::from_fn(|n| dwords(a)[n].into())),
        VecOp::DupEven32 => lanes::shuffle32(a, a, 0b10_10_00_00),
        VecOp::DupOdd32 => lanes::shuffle32(a, a, 0b11_11_01_01),
        VecOp::DupLo64 => from_qwords([qwords(a)[0]; 2]),
        VecOp::ShlV32 => zip32(a, b, |x, n| x.checked_shl(n).unwrap_or(0)),
        VecOp::ShlV64 => zip64(a, b, |x, n| x.checked_shl(wide_count(n)).unwrap_or(0)),
        VecOp::ShrV32 => zip32(a, b, |x, n| x.checked_shr(n).unwrap_or(0)),
        VecOp::ShrV64 => zip64(a, b, |x, n| x.checked_shr(wide_count(n)).unwrap_or(0)),
        VecOp::SarV32 => zip32(a, b, |x, n| (x.cast_signed() >> n.min(31)).cast_unsigned()),
        VecOp::Permute32 => from_dwords(dwords(b).map(|i| dwords(a)[(i & 3) as usize])),
        VecOp::Permute64 => from_qwords(qwords(b).map(|i| qwords(a)[(i >> 1 & 1) as usize])),
    }
}
