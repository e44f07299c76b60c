//! The IR's vector operations against the host's SSE instructions, over random and extreme lanes.
//!
//! They live in the `ir` crate, which has no unsafe code; the host oracle is therefore here.
#![expect(unsafe_code, reason = "the oracle is the host's instruction in inline assembly")]
#![cfg(target_arch = "x86_64")]

use ir::vec::{VecOp, eval, string};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Runs `insn` on xmm0 (first operand and result), xmm1 and rax.
macro_rules! host {
    ($a:expr, $b:expr, $($insn:expr),+) => {{
        let mut a: u128 = $a;
        let b: u128 = $b;
        // SAFETY: reads and writes the two locals through their addresses, and declared registers only.
        unsafe {
            std::arch::asm!(
                "movdqu xmm0, [{a}]", "movdqu xmm1, [{b}]", $($insn,)+ "movdqu [{a}], xmm0",
                a = in(reg) &raw mut a, b = in(reg) &raw const b,
                out("rax") _, out("rcx") _, out("rdx") _, out("xmm0") _, out("xmm1") _,
            );
        }
        a
    }};
}

/// Lanes that are random, or at the edges of their range, or small.
fn operand(rng: &mut SmallRng) -> u128 {
    match rng.random_range(0..4) {
        0 => rng.random(),
        1 => u128::from_le_bytes(std::array::from_fn(|_| [0, 1, 0x7f, 0x80, 0x81, 0xff][rng.random_range(0..6)])),
        2 => (0..8).fold(0, |v, _| {
            v << 16 | u128::from([0_u16, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x100][rng.random_range(0..7)])
        }),
        _ => u128::from_le_bytes(std::array::from_fn(|_| rng.random_range(0..4))),
    }
}

macro_rules! two {
    ($($op:ident $mnemonic:literal,)*) => {
        #[test]
        fn two_operands() {
            let rng = &mut SmallRng::seed_from_u64(1);
            for _ in 0..3000 {
                let (a, b) = (operand(rng), operand(rng));
                $(
                    let want = host!(a, b, concat!($mnemonic, " xmm0, xmm1"));
                    assert_eq!(eval(VecOp::$op, a, b, 0), want, "{} {a:032x} {b:032x}", $mnemonic);
                )*
            }
        }
    };
}

two! {
    And "pand", AndNot "pandn", Or "por", Xor "pxor",
    Add8 "paddb", Add16 "paddw", Add32 "paddd", Add64 "paddq",
    Sub8 "psubb", Sub16 "psubw", Sub32 "psubd", Sub64 "psubq",
    AddSatS8 "paddsb", AddSatS16 "paddsw", AddSatU8 "paddusb", AddSatU16 "paddusw",
    SubSatS8 "psubsb", SubSatS16 "psubsw", SubSatU8 "psubusb", SubSatU16 "psubusw",
    MulLo16 "pmullw", MulLo32 "pmulld", MulHiS16 "pmulhw", MulHiU16 "pmulhuw", MulRoundS16 "pmulhrsw",
    MulU32To64 "pmuludq", MulS32To64 "pmuldq", MulAddS16 "pmaddwd", MulAddU8S8 "pmaddubsw",
    AvgU8 "pavgb", AvgU16 "pavgw",
    MinS8 "pminsb", MinS16 "pminsw", MinS32 "pminsd", MinU8 "pminub", MinU16 "pminuw", MinU32 "pminud",
    MaxS8 "pmaxsb", MaxS16 "pmaxsw", MaxS32 "pmaxsd", MaxU8 "pmaxub", MaxU16 "pmaxuw", MaxU32 "pmaxud",
    Sign8 "psignb", Sign16 "psignw", Sign32 "psignd",
    CmpEq8 "pcmpeqb", CmpEq16 "pcmpeqw", CmpEq32 "pcmpeqd", CmpEq64 "pcmpeqq",
    CmpGt8 "pcmpgtb", CmpGt16 "pcmpgtw", CmpGt32 "pcmpgtd", CmpGt64 "pcmpgtq",
    PackS16ToS8 "packsswb", PackS16ToU8 "packuswb", PackS32ToS16 "packssdw", PackS32ToU16 "packusdw",
    UnpackLo8 "punpcklbw", UnpackLo16 "punpcklwd", UnpackLo32 "punpckldq", UnpackLo64 "punpcklqdq",
    UnpackHi8 "punpckhbw", UnpackHi16 "punpckhwd", UnpackHi32 "punpckhdq", UnpackHi64 "punpckhqdq",
    Shuffle8 "pshufb", Sad8 "psadbw",
    HAdd16 "phaddw", HAdd32 "phaddd", HAddSatS16 "phaddsw", HSub16 "phsubw", HSub32 "phsubd", HSubSatS16 "phsubsw",
}

macro_rules! one {
    ($($op:ident $mnemonic:literal,)*) => {
        #[test]
        fn one_operand() {
            let rng = &mut SmallRng::seed_from_u64(2);
            for _ in 0..3000 {
                let a = operand(rng);
                $(
                    let want = host!(0, a, concat!($mnemonic, " xmm0, xmm1"));
                    assert_eq!(eval(VecOp::$op, a, 0, 0), want, "{} {a:032x}", $mnemonic);
                )*
            }
        }
    };
}

one! {
    Abs8 "pabsb", Abs16 "pabsw", Abs32 "pabsd", MinPosU16 "phminposuw",
    Sext8To16 "pmovsxbw", Sext8To32 "pmovsxbd", Sext8To64 "pmovsxbq",
    Sext16To32 "pmovsxwd", Sext16To64 "pmovsxwq", Sext32To64 "pmovsxdq",
    Zext8To16 "pmovzxbw", Zext8To32 "pmovzxbd", Zext8To64 "pmovzxbq",
    Zext16To32 "pmovzxwd", Zext16To64 "pmovzxwq", Zext32To64 "pmovzxdq",
    DupEven32 "movsldup", DupOdd32 "movshdup", DupLo64 "movddup",
}

#[test]
fn masks_and_tests() {
    let rng = &mut SmallRng::seed_from_u64(3);
    for _ in 0..3000 {
        let a = operand(rng);
        let b = if rng.random() { operand(rng) & a } else { operand(rng) };
        assert_eq!(eval(VecOp::MoveMask8, a, 0, 0), host!(0, a, "pmovmskb eax, xmm1", "movd xmm0, eax"));
        assert_eq!(eval(VecOp::MoveMask32, a, 0, 0), host!(0, a, "movmskps eax, xmm1", "movd xmm0, eax"));
        assert_eq!(eval(VecOp::MoveMask64, a, 0, 0), host!(0, a, "movmskpd eax, xmm1", "movd xmm0, eax"));
        let want = host!(a, b, "ptest xmm0, xmm1", "lahf", "movzx eax, ah", "movd xmm0, eax") & 0x41;
        assert_eq!(eval(VecOp::Test, a, b, 0), want);
    }
}

#[test]
fn shifts_by_a_register() {
    let rng = &mut SmallRng::seed_from_u64(4);
    for _ in 0..3000 {
        let a = operand(rng);
        let b = if rng.random() { rng.random_range(0..70) } else { operand(rng) };
        macro_rules! shift {
            ($($op:ident $mnemonic:literal,)*) => {$(
                let want = host!(a, b, concat!($mnemonic, " xmm0, xmm1"));
                assert_eq!(eval(VecOp::$op, a, b, 0), want, "{} {a:032x} {b:032x}", $mnemonic);
            )*};
        }
        shift! {
            Shl16 "psllw", Shl32 "pslld", Shl64 "psllq", Shr16 "psrlw", Shr32 "psrld", Shr64 "psrlq",
            Sar16 "psraw", Sar32 "psrad",
        }
    }
}

/// `mnemonic operands, imm` for each immediate of a list.
macro_rules! immediates {
    ($a:expr, $b:expr, $op:ident, $insn:literal, [$($imm:literal)*]) => {$(
        let want = host!($a, $b, concat!($insn, ", ", $imm));
        assert_eq!(eval(VecOp::$op, $a, $b, $imm), want, "{} {} {:032x} {:032x}", $insn, $imm, $a, $b);
    )*};
}

#[test]
fn immediate_forms() {
    let rng = &mut SmallRng::seed_from_u64(5);
    for _ in 0..500 {
        let (a, b) = (operand(rng), operand(rng));
        immediates!(a, b, Shl16I, "psllw xmm0", [0 1 7 15 16 17 255]);
        immediates!(a, b, Shl32I, "pslld xmm0", [0 1 8 31 32 33 255]);
        immediates!(a, b, Shl64I, "psllq xmm0", [0 1 8 63 64 65 255]);
        immediates!(a, b, Shr16I, "psrlw xmm0", [0 1 7 15 16 17 255]);
        immediates!(a, b, Shr32I, "psrld xmm0", [0 1 8 31 32 33 255]);
        immediates!(a, b, Shr64I, "psrlq xmm0", [0 1 8 63 64 65 255]);
        immediates!(a, b, Sar16I, "psraw xmm0", [0 1 7 15 16 17 255]);
        immediates!(a, b, Sar32I, "psrad xmm0", [0 1 8 31 32 33 255]);
        immediates!(a, b, ShlBytes, "pslldq xmm0", [0 1 8 15 16 17 255]);
        immediates!(a, b, ShrBytes, "psrldq xmm0", [0 1 8 15 16 17 255]);
        immediates!(a, a, Shuffle32, "pshufd xmm0, xmm1", [0x00 0x1b 0xe4 0x93 0xff]);
        immediates!(a, a, ShuffleLo16, "pshuflw xmm0, xmm1", [0x00 0x1b 0xe4 0x93 0xff]);
        immediates!(a, a, ShuffleHi16, "pshufhw xmm0, xmm1", [0x00 0x1b 0xe4 0x93 0xff]);
        immediates!(a, b, ShufflePs, "shufps xmm0, xmm1", [0x00 0x1b 0xe4 0x93 0xff]);
        immediates!(a, b, ShufflePd, "shufpd xmm0, xmm1", [0 1 2 3]);
        immediates!(a, b, AlignRight, "palignr xmm0, xmm1", [0 1 5 15 16 17 24 31 32 33 255]);
        immediates!(a, b, MultiSad8, "mpsadbw xmm0, xmm1", [0 1 2 3 4 5 6 7]);
        immediates!(a, b, Blend16, "pblendw xmm0, xmm1", [0x00 0x5a 0x81 0x7e 0xff]);
        immediates!(a, b, Blend32, "blendps xmm0, xmm1", [0 1 6 9 15]);
        immediates!(a, b, Blend64, "blendpd xmm0, xmm1", [0 1 2 3]);
        immediates!(a, b, InsertPs, "insertps xmm0, xmm1", [0x00 0x10 0x6a 0x95 0xcf 0xf0 0xb1]);
        macro_rules! lanes {
            ($op:ident $extract:literal $insert_op:ident $insert:literal $back:literal [$($imm:literal)*]) => {$(
                let want = host!(0, a, concat!($extract, ", xmm1, ", $imm), concat!($back, " xmm0, rax"));
                assert_eq!(eval(VecOp::$op, a, 0, $imm), want, "{} {}", $extract, $imm);
                let want = host!(a, b, "movq rax, xmm1", concat!($insert, ", ", $imm));
                assert_eq!(eval(VecOp::$insert_op, a, b, $imm), want, "{} {}", $insert, $imm);
            )*};
        }
        lanes!(Extract8 "pextrb eax" Insert8 "pinsrb xmm0, eax" "movq" [0 1 7 8 15 16 255]);
        lanes!(Extract16 "pextrw eax" Insert16 "pinsrw xmm0, eax" "movq" [0 1 7 8]);
        lanes!(Extract32 "pextrd eax" Insert32 "pinsrd xmm0, eax" "movq" [0 1 2 3 4]);
        lanes!(Extract64 "pextrq rax" Insert64 "pinsrq xmm0, rax" "movq" [0 1 2]);
    }
}

/// Bytes that repeat, so that strings match, end and overlap often.
fn text(rng: &mut SmallRng) -> u128 {
    let range = if rng.random() { 0..3 } else { 0..40 };
    let high = if rng.random_range(0..4) == 0 { 0x80 } else { 0 };
    u128::from_le_bytes(std::array::from_fn(|_| {
        let byte: u8 = rng.random_range(range.clone());
        if byte == 1 { byte | high } else { byte }
    }))
}

#[test]
fn string_comparisons() {
    let rng = &mut SmallRng::seed_from_u64(6);
    for _ in 0..300 {
        let (a, b) = (text(rng), text(rng));
        let lengths: (i64, i64) =
            if rng.random() { (rng.random_range(-20..20), rng.random_range(-20..20)) } else { rng.random() };
        macro_rules! strings {
            ($($imm:literal)*) => {$({
                // Index in the low half, flags in the high half: as the operation delivers them.
                let want = host!(a, b, concat!("pcmpistri xmm0, xmm1, ", $imm), "pushfq", "pop rax", "movq xmm1, rax",
                    "movd xmm0, ecx", "punpcklqdq xmm0, xmm1") & (0x8d5 << 64 | u128::from(u64::MAX));
                assert_eq!(eval(VecOp::StringIndex, a, b, $imm), want, "pcmpistri {:#x} {a:032x} {b:032x}", $imm);
                let want = host!(a, b, concat!("pcmpistrm xmm0, xmm1, ", $imm));
                assert_eq!(eval(VecOp::StringMask, a, b, $imm), want, "pcmpistrm {:#x} {a:032x} {b:032x}", $imm);
                explicit(a, b, lengths, $imm, |a, b, lengths| {
                    let mut out = (a, b);
                    let frame: *mut (u128, u128) = &raw mut out;
                    // SAFETY: as in `host!`; the instructions read RAX and RDX as lengths and write XMM0, RCX and EFLAGS.
                    unsafe {
                        std::arch::asm!(
                            "movdqu xmm2, [{f}]", "movdqu xmm1, [{f} + 16]",
                            concat!("rex64 pcmpestrm xmm2, xmm1, ", $imm), "movdqu [{f}], xmm0",
                            concat!("rex64 pcmpestri xmm2, xmm1, ", $imm), "pushfq", "pop rax",
                            "mov [{f} + 16], rcx", "mov [{f} + 24], rax",
                            f = in(reg) frame, inout("rax") lengths.0 => _, inout("rdx") lengths.1 => _, out("rcx") _,
                            out("xmm0") _, out("xmm1") _, out("xmm2") _,
                        );
                    }
                    out
                });
            })*};
        }
        strings! {
            0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b 0x0c 0x0d 0x0e 0x0f
            0x10 0x15 0x1a 0x1d 0x30 0x34 0x38 0x3c 0x31 0x39 0x20 0x40 0x44 0x48 0x4c 0x4d 0x58 0x7c 0x70 0x7b
        }
    }
}

fn explicit(a: u128, b: u128, lengths: (i64, i64), imm: u8, host: impl Fn(u128, u128, (i64, i64)) -> (u128, u128)) {
    let (mask, index) = host(a, b, lengths);
    let got = string::explicit(a, b, lengths.0, lengths.1, imm);
    let got_index = u128::from(got.flags) << 64 | u128::from(got.index);
    assert_eq!(
        got_index,
        index & (0x8d5 << 64 | u128::from(u64::MAX)),
        "pcmpestri {imm:#x} {a:032x} {b:032x} {lengths:?}"
    );
    assert_eq!(got.mask, mask, "pcmpestrm {imm:#x} {a:032x} {b:032x} {lengths:?}");
}
