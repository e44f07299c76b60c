//! The x87 and SSE state in memory formats: FSTENV/FSAVE in their four layouts, FXSAVE, XSAVE.
//!
//! Pure conversions between guest words and bytes; helpers do the memory accesses. The CPU model deprecates the code and data
//! segment selectors (CPUID.7.EBX bit 13): they are stored as zero.

use super::Fpu;
use crate::state::{FPU_CW, FPU_DP, FPU_IP, FPU_OP, FPU_SW, FPU_TAG, fpr, xmm, ymm_upper};
use fp::x87::F80;
use ir::Regs;
use ir::op::FPC;

/// Layout of FSTENV: operand size, and whether addresses are segmented (protected mode) or linear (real, virtual-8086).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnvLayout {
    /// 28 bytes of 32-bit fields, else 14 bytes of 16-bit fields.
    pub wide: bool,
    /// Protected mode.
    pub protected: bool,
}

impl EnvLayout {
    /// Bytes of the environment.
    pub const fn size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }
}

/// Size of the registers that follow the environment in FSAVE.
pub const REGISTERS: usize = 80;

/// The tag word with two bits per register, as FSTENV stores it.
pub fn full_tags(regs: &Regs) -> u16 {
    (0..8).fold(0, |tags, n| {
        let tag = if regs.get(FPU_TAG) >> n & 1 == 0 { 3 } else { class(F80::from_bits(regs.get128(fpr(n)))) };
        tags | tag << (2 * n)
    })
}

/// 0 valid, 1 zero, 2 special.
fn class(x: F80) -> u16 {
    match x.sign_exp & 0x7fff {
        0 if x.mantissa == 0 => 1,
        0 | 0x7fff => 2,
        _ if x.mantissa >> 63 == 0 => 2,
        _ => 0,
    }
}

/// The environment: low [`EnvLayout::size`] bytes.
pub fn store_env(regs: &Regs, layout: EnvLayout) -> [u8; 28] {
    let (cw, sw, tags) = (regs.get(FPU_CW) as u16, regs.get(FPU_SW) as u16, full_tags(regs));
    let (ip, dp, op) = (regs.get(FPU_IP) as u32, regs.get(FPU_DP) as u32, regs.get(FPU_OP) as u16 & 0x7ff);
    let mut out = [0; 28];
    if layout.wide {
        // Reserved halves read as ones.
        let plain = |word: u16| 0xffff_0000 | u32::from(word);
        let (w4, w6) = if layout.protected {
            (u32::from(op) << 16, 0xffff_0000)
        } else {
            (ip >> 16 << 12 | u32::from(op), dp >> 16 << 12)
        };
        let (w3, w5) = if layout.protected { (ip, dp) } else { (0xffff_0000 | ip & 0xffff, 0xffff_0000 | dp & 0xffff) };
        let words = [plain(cw), plain(sw), plain(tags), w3, w4, w5, w6];
        for (chunk, word) in out.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    } else {
        let high = |address: u32| (address >> 16 << 12) as u16;
        let (w4, w6) = if layout.protected { (0, 0) } else { (high(ip) | op, high(dp)) };
        let words = [cw, sw, tags, ip as u16, w4, dp as u16, w6];
        for (chunk, word) in out.chunks_exact_mut(2).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }
    out
}

/// Loads an environment: FLDENV.
pub fn load_env(regs: &mut Regs, layout: EnvLayout, image: &[u8; 28]) {
    let word = |n: usize| {
        if layout.wide {
            u32::from_le_bytes([image[4 * n], image[4 * n + 1], image[4 * n + 2], image[4 * n + 3]])
        } else {
            u32::from(u16::from_le_bytes([image[2 * n], image[2 * n + 1]]))
        }
    };
    let (ip, dp, op) = match (layout.wide, layout.protected) {
        (true, true) => (word(3), word(5), word(4) >> 16),
        (false, true) => (word(3), word(5), 0),
        _ => {
            let address = |low: usize| word(low) & 0xffff | (word(low + 1) >> 12 & 0xffff) << 16;
            (address(3), address(5), word(4))
        }
    };
    regs.set(FPU_IP, ip.into());
    regs.set(FPU_DP, dp.into());
    regs.set(FPU_OP, u64::from(op & 0x7ff));
    let tags = word(2);
    let valid = (0..8).filter(|n| tags >> (2 * n) & 3 != 3).fold(0, |bits, n| bits | 1 << n);
    regs.set(FPU_TAG, valid);
    regs.set(FPU_SW, u64::from(word(1) & 0xffff));
    Fpu::new(regs).set_cw(word(0) as u16);
}

/// ST(0) to ST(7), ten bytes each, as FSAVE stores them.
pub fn store_registers(regs: &mut Regs) -> [u8; REGISTERS] {
    let fpu = Fpu::new(regs);
    let mut out = [0; REGISTERS];
    for (i, chunk) in out.chunks_exact_mut(10).enumerate() {
        chunk.copy_from_slice(&fpu.st(i).to_bytes());
    }
    out
}

/// Loads ST(0) to ST(7) without touching the tags: the second half of FRSTOR, after [`load_env`].
pub fn load_registers(regs: &mut Regs, image: &[u8; REGISTERS]) {
    for (i, chunk) in image.chunks_exact(10).enumerate() {
        let mut bytes = [0; 10];
        bytes.copy_from_slice(chunk);
        let n = Fpu::new(regs).physical(i);
        regs.set128(fpr(n), F80::from_bytes(bytes).to_bits());
    }
}

/// Offsets in the FXSAVE area, the legacy region of XSAVE (SDM volume 1, 10.5.1 and 13.4.1).
pub mod fx {
    /// Size of the area.
    pub const SIZE: usize = 512;
    /// MXCSR, then its mask of writable bits.
    pub const MXCSR: usize = 24;
    /// ST(0) to ST(7), 16 bytes each.
    pub const ST: usize = 32;
    /// XMM0 on, 16 bytes each.
    pub const XMM: usize = 160;
    /// The XSAVE header.
    pub const HEADER: usize = 512;
    /// Size of the area with the header.
    pub const XSAVE_SIZE: usize = 576;
    /// The upper halves of YMM0 on, 16 bytes each.
    pub const YMM_UPPER: usize = cpu_model::XSAVE_AVX_OFFSET as usize;
    /// Size of the area with them.
    pub const XSAVE_AVX_SIZE: usize = YMM_UPPER + cpu_model::XSAVE_AVX_SIZE as usize;
}

/// State components (bits of XCR0).
pub mod component {
    /// x87.
    pub const X87: u64 = 1;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 2;
    /// Upper halves of YMM registers: also requests MXCSR.
    pub const AVX: u64 = 4;
}

/// The first 24 bytes: control, status, abridged tags, opcode and pointers, 64 bits wide with `rex_w`.
pub fn fx_control(regs: &Regs, rex_w: bool) -> [u8; 24] {
    let mut out = [0; 24];
    out[0..2].copy_from_slice(&(regs.get(FPU_CW) as u16).to_le_bytes());
    out[2..4].copy_from_slice(&(regs.get(FPU_SW) as u16).to_le_bytes());
    out[4] = regs.get(FPU_TAG) as u8;
    out[6..8].copy_from_slice(&(regs.get(FPU_OP) as u16 & 0x7ff).to_le_bytes());
    // Without REX.W the upper halves are selector and reserved: zero.
    let pointer = |word| if rex_w { regs.get(word) } else { regs.get(word) & 0xffff_ffff };
    out[8..16].copy_from_slice(&pointer(FPU_IP).to_le_bytes());
    out[16..24].copy_from_slice(&pointer(FPU_DP).to_le_bytes());
    out
}

/// Loads what [`fx_control`] stores.
pub fn fx_load_control(regs: &mut Regs, image: &[u8; 24], rex_w: bool) {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let pointer = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&image[at..at + 8]);
        let wide = u64::from_le_bytes(bytes);
        // Canonical: the model's linear addresses have 48 bits.
        if rex_w { (wide.cast_signed() << 16 >> 16).cast_unsigned() } else { wide & 0xffff_ffff }
    };
    regs.set(FPU_SW, word(2).into());
    regs.set(FPU_TAG, image[4].into());
    regs.set(FPU_OP, u64::from(word(6) & 0x7ff));
    regs.set(FPU_IP, pointer(8));
    regs.set(FPU_DP, pointer(16));
    Fpu::new(regs).set_cw(word(0));
}

/// MXCSR and its mask, the eight bytes at [`fx::MXCSR`].
pub fn fx_mxcsr(regs: &Regs) -> u64 {
    regs.get(FPC) & 0xffff_ffff | u64::from(fp::sse::mxcsr::WRITABLE) << 32
}

/// Sixteen bytes of ST(`i`): the value and six bytes of zero.
pub fn fx_st(regs: &mut Regs, i: usize) -> u128 {
    Fpu::new(regs).st(i).to_bits()
}

/// Loads ST(`i`) from sixteen bytes without touching the tags; after [`fx_load_control`].
pub fn fx_load_st(regs: &mut Regs, i: usize, value: u128) {
    let n = Fpu::new(regs).physical(i);
    regs.set128(fpr(n), F80::from_bits(value).to_bits());
}

/// Initial x87 state, as XRSTOR gives it when the component's bit is clear: FNINIT, and the registers cleared.
pub fn init_x87(regs: &mut Regs) {
    super::init(regs);
    for n in 0..8 {
        regs.set128(fpr(n), 0);
    }
}

/// XINUSE: components that are not in their initial configuration (SDM volume 1, 13.6).
pub fn in_use(regs: &Regs) -> u64 {
    let words = [FPU_SW, FPU_TAG, FPU_IP, FPU_DP, FPU_OP];
    let x87 = regs.get(FPU_CW) != u64::from(fp::x87::CW_RESET)
        || words.iter().any(|&w| regs.get(w) != 0)
        || (0..8).any(|n| regs.get128(fpr(n)) != 0);
    let sse = (0..16).any(|n| regs.get128(xmm(n)) != 0);
    let avx = (0..16).any(|n| regs.get128(ymm_upper(n)) != 0);
    (u64::from(x87) * component::X87) | (u64::from(sse) * component::SSE) | (u64::from(avx) * component::AVX)
}
