//! Random states: values that matter to integer, floating-point and address arithmetic, more often than chance would give.

use crate::case::{CS32, CS64, Case, DATA, DATA_HIGH, DS, FS32, FS32_BASE, Fx, GS32, GS32_BASE, RW_LEN, State};
use crate::rng::Rng;

/// A 64-bit value that a lifter may trip over.
pub fn value(r: &mut Rng) -> u64 {
    match r.below(12) {
        0 => r.below(2),
        1 => u64::MAX,
        2 => 1 << r.below(64),
        3 => (1 << r.below(64)) - 1,
        4 => u64::MAX << r.below(64),
        5 => r.pick(&[0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        6 => r.pick(&[i64::MAX as u64, 1 << 63, (1 << 63) + 1, 0x8000_0000_8000_0000, 0xffff_ffff_0000_0000]),
        7 => r.below(70),
        8 => r.below(70).wrapping_neg(),
        9 => u64::from(r.next() as u32),
        10 => r.next() as u32 as i32 as u64,
        _ => r.next(),
    }
}

/// A single-precision value.
pub fn single(r: &mut Rng) -> u32 {
    let sign = (r.next() as u32) << 31;
    sign | match r.below(12) {
        0 => 0,
        1 => 0x3f80_0000,
        2 => 0x7f80_0000,
        3 => 0x7fc0_0000 | r.next() as u32 & 0x3f_ffff,
        4 => 0x7f80_0001 + r.below(0x3f_ffff) as u32,
        5 => r.below(0x80_0000) as u32,
        6 => 0x80_0000 + r.below(4) as u32,
        7 => 0x7f7f_ffff - r.below(4) as u32,
        // Small integers and halves, and what does not fit 32 or 64 bits any more.
        8 => ((r.below(1 << 20) as f32) / 2.0).to_bits(),
        9 => 0x4e80_0000 + r.below(0x1200_0000) as u32,
        10 => 0x3f00_0000 + r.below(0x100_0000) as u32,
        _ => r.next() as u32 & 0x7fff_ffff,
    }
}

/// A double-precision value.
pub fn double(r: &mut Rng) -> u64 {
    let sign = r.next() << 63;
    sign | match r.below(13) {
        0 => 0,
        1 => 1.0f64.to_bits(),
        2 => 0x7ff << 52,
        3 => 0xfff << 51 | r.next() >> 13,
        4 => (0x7ff << 52) + 1 + (r.next() >> 14),
        5 => r.next() >> 12,
        6 => (1 << 52) + r.below(4),
        7 => (0x7ff << 52) - 1 - r.below(4),
        8 => (r.below(1 << 40) as f64 / 2.0).to_bits(),
        9 => (0x41d << 52) + (r.next() >> 7),
        // Exactly a single, or half-way between two.
        10 => f64::from(f32::from_bits(single(r) & 0x7fff_ffff)).to_bits() | r.below(2) << 28,
        11 => (0x3fe << 52) + (r.next() >> 11),
        _ => r.next() & i64::MAX as u64,
    }
}

/// An 80-bit value, encodings that no processor makes included.
pub fn extended(r: &mut Rng) -> u128 {
    let sign = r.below(2) << 15;
    let one = 1u64 << 63;
    let (exponent, significand) = match r.below(16) {
        0 => (0, 0),
        1 => (0x3fff, one),
        2 => (0x7fff, one),
        3 => (0x7fff, one | 1 << 62 | r.next() >> 2),
        4 => (0x7fff, one | r.next() >> 2 | 1),
        5 => (0, r.next() >> r.below(64) & !one),
        6 => (0, one | r.next()),
        7 => (r.below(0x7fff), r.next() & !one),
        8 => (0x7fff, r.next() & !one),
        9 => (0x7ffe, u64::MAX - r.below(4)),
        10 => (1, one + r.below(4)),
        11 => (0x3fff + r.below(70), one | r.next()),
        12 => (0x3fff + r.below(64), one | r.next() << r.below(64)),
        13 => (0x3fff - r.below(70), one | r.next()),
        // About the ends of double and single precision.
        14 => (r.pick(&[0x3c00, 0x3c01, 0x43fe, 0x3f80, 0x3f81, 0x407e]) + r.below(3), one | r.next()),
        _ => (r.below(0x7fff), one | r.next()),
    };
    u128::from(sign | exponent) << 64 | u128::from(significand)
}

/// A vector of what an SSE instruction may take it for.
pub fn vector(r: &mut Rng) -> u128 {
    let halves = |r: &mut Rng, f: fn(&mut Rng) -> u64| u128::from(f(r)) | u128::from(f(r)) << 64;
    match r.below(8) {
        0 | 1 => (0..4).fold(0, |v, i| v | u128::from(single(r)) << (32 * i)),
        2 | 3 => halves(r, double),
        4 => halves(r, value),
        // Shift counts, string lengths.
        5 => u128::from(r.below(72)),
        6 => (0..16).fold(0, |v, i| {
            v | u128::from(r.pick(&[0u8, 1, 0x7f, 0x80, 0xff, 0x41, 0x42]) ^ (r.below(4) as u8)) << (8 * i)
        }),
        _ => halves(r, Rng::next),
    }
}

/// A pool that memory is cut from.
#[derive(Debug)]
pub struct Pool(Vec<u8>);

impl Default for Pool {
    fn default() -> Pool {
        let mut r = Rng::new(0x5eed);
        let mut bytes = vec![];
        while bytes.len() < 1 << 18 {
            bytes.extend(match r.below(4) {
                0 => vector(&mut r).to_le_bytes(),
                1 => extended(&mut r).to_le_bytes(),
                2 => (u128::from(value(&mut r)) | u128::from(value(&mut r)) << 64).to_le_bytes(),
                _ => (u128::from(r.next()) | u128::from(r.next()) << 64).to_le_bytes(),
            });
        }
        Pool(bytes)
    }
}

impl Pool {
    fn fill(&self, r: &mut Rng, rw: &mut [u8]) {
        let at = r.below((self.0.len() - rw.len()) as u64 / 8) as usize * 8;
        rw.copy_from_slice(&self.0[at..at + rw.len()]);
    }
}

/// An address in the data pages, mostly well inside, for registers that instructions use without being asked.
pub fn data_address(r: &mut Rng, bits: u32) -> u64 {
    let base = if bits == 64 && r.percent(50) { DATA_HIGH } else { DATA };
    let offset = match r.below(20) {
        0 => r.below(0x40).wrapping_sub(0x20),
        1 => 0x1000 + r.below(0x40) - 0x20,
        2 => RW_LEN + r.below(0x40) - 0x20,
        3 => 0x3000 + r.below(0x40) - 0x20,
        4 => r.below(0x1e00) + 0x100,
        _ => (r.below(0x1c00) + 0x200) & !15,
    };
    base.wrapping_add(offset)
}

fn fx(r: &mut Rng, bits: u32) -> Fx {
    let masks = if r.percent(80) { 0x3f } else { r.below(64) as u16 };
    let precision = r.pick(&[3, 3, 3, 2, 0u16]);
    let rounding = if r.percent(60) { 0 } else { r.below(4) as u16 };
    let cw = masks | 0x40 | precision << 8 | rounding << 10;
    let mut sw = (r.below(8) as u16) << 11 | (r.next() as u16) & 0x4700;
    if r.percent(30) {
        sw |= r.next() as u16 & 0x7f;
        // Mostly nothing is pending, or every instruction would only raise #MF.
        if !r.percent(20) {
            sw &= !(!cw & 0x3f);
        }
    }
    if sw & !cw & 0x3f != 0 {
        sw |= 0x8080;
    }
    let tags = match r.below(4) {
        0 => r.next() as u8,
        1 => 0x7f,
        _ => 0xff,
    };
    let mxcsr_masks = if r.percent(80) { 0x1f80 } else { r.below(64) as u32 * 0x80 };
    let mut mxcsr = mxcsr_masks | if r.percent(30) { r.below(64) as u32 } else { 0 };
    if r.percent(40) {
        mxcsr |= (r.below(4) as u32) << 13;
    }
    if r.percent(20) {
        mxcsr |= r.pick(&[0x40, 0x8000, 0x8040]);
    }
    let wide = |r: &mut Rng| if bits == 64 { r.next() >> 17 } else { u64::from(r.next() as u32) };
    Fx {
        cw,
        sw,
        tags,
        zero: 0,
        op: r.next() as u16 & 0x7ff,
        ip: wide(r),
        dp: wide(r),
        mxcsr,
        mxcsr_mask: 0,
        st: std::array::from_fn(|_| extended(r)),
        xmm: std::array::from_fn(|_| vector(r)),
    }
}

/// A random state for code of `bits` bits at `rip`, with random memory.
pub fn case(r: &mut Rng, pool: &Pool, bits: u32, rip: u64) -> Case {
    let mut s = State { rip, ..State::default() };
    let keep = if bits == 64 { u64::MAX } else { 0xffff_ffff };
    for (i, g) in s.gpr.iter_mut().enumerate() {
        // RSP, RBP, RSI and RDI are addresses that instructions use without being asked; RBX is XLAT's.
        let address = i == 4 || (matches!(i, 5..=7) && r.percent(75)) || i == 3 && r.percent(20);
        *g = if address { data_address(r, bits) } else { value(r) } & keep;
    }
    if bits == 32 {
        s.gpr[8..].fill(0);
    }
    // CF, PF, AF, ZF, SF, OF; DF sometimes; AC rarely, since it makes most accesses fault.
    s.eflags = 0x202 | r.next() & 0x8d5;
    if r.percent(25) {
        s.eflags |= 1 << 10;
    }
    if r.percent(4) {
        s.eflags |= 1 << 18;
    }
    if r.percent(5) {
        s.eflags |= r.pick(&[1 << 14, 1 << 21, 1 << 14 | 1 << 21]);
    }
    s.fx = fx(r, bits);
    if is_x86_feature_detected!("avx") {
        let count = if bits == 64 { 16 } else { 8 };
        // Other values of the same kinds: what was drawn for the lower halves, elsewhere and turned.
        for n in 0..count {
            s.ymm_upper[n] = s.fx.xmm[(n + 5) % count].rotate_left(32 * (n as u32 % 4));
        }
    }
    if bits == 64 {
        s.sel = [0, CS64, DS, 0, 0, 0];
        s.base = std::array::from_fn(|_| match r.below(3) {
            0 => DATA_HIGH,
            1 => value(r) & 0x7fff_ffff_ffff,
            _ => DATA + r.below(RW_LEN),
        });
    } else {
        s.sel = [DS, CS32, DS, DS, FS32, GS32];
        s.base = [u64::from(FS32_BASE), u64::from(GS32_BASE)];
        s.fx.xmm[8..].fill(0);
    }
    let mut c = Case { state: s, at: rip, ..Case::default() };
    pool.fill(r, &mut c.rw);
    c
}
