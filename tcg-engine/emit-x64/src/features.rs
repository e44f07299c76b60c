//! Which instruction sets of the host emitted code may use.

use crate::asm::{Map, Vex};

/// Instruction sets of the host beyond the baseline.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub(crate) ssse3: bool,
    pub(crate) sse41: bool,
    pub(crate) sse42: bool,
    /// POPCNT.
    pub popcnt: bool,
    /// CMPXCHG16B.
    pub cx16: bool,
    /// AVX and AVX2, and that the host's system keeps YMM registers.
    pub avx2: bool,
    /// FMA.
    pub fma: bool,
    /// F16C.
    pub f16c: bool,
    /// BMI1, BMI2 and LZCNT.
    pub bmi: bool,
}

impl Features {
    /// Those of this host.
    pub fn of_host() -> Self {
        let avx2 = std::arch::is_x86_feature_detected!("avx") && std::arch::is_x86_feature_detected!("avx2");
        Features {
            ssse3: std::arch::is_x86_feature_detected!("sse3") && std::arch::is_x86_feature_detected!("ssse3"),
            sse41: std::arch::is_x86_feature_detected!("sse4.1"),
            sse42: std::arch::is_x86_feature_detected!("sse4.2"),
            popcnt: std::arch::is_x86_feature_detected!("popcnt"),
            cx16: std::arch::is_x86_feature_detected!("cmpxchg16b"),
            avx2,
            fma: avx2 && std::arch::is_x86_feature_detected!("fma"),
            f16c: avx2 && std::arch::is_x86_feature_detected!("f16c"),
            bmi: std::arch::is_x86_feature_detected!("bmi1")
                && std::arch::is_x86_feature_detected!("bmi2")
                && std::arch::is_x86_feature_detected!("lzcnt"),
        }
    }

    /// The same without what x86-64-v3 adds.
    #[cfg(test)]
    #[must_use]
    pub fn without_v3(self) -> Self {
        Features { avx2: false, fma: false, f16c: false, bmi: false, ..self }
    }

    /// Whether the host has the SSE instruction.
    pub(crate) fn sse(self, map: Map, op: u8) -> bool {
        match (map, op) {
            (Map::Of38x66, 0x37) => self.sse42,
            (Map::Of38x66, ..=0x1e) | (Map::Of3Ax66, 0x0f) => self.ssse3,
            (Map::Of38x66 | Map::Of3Ax66, _) => self.sse41,
            // Those of SSE3.
            (Map::OfF2 | Map::OfF3 | Map::Of66, 0x12 | 0x16 | 0x7c | 0x7d | 0xd0) => self.ssse3,
            _ => true,
        }
    }

    /// Whether the host has the VEX-coded instruction on vectors.
    pub(crate) fn vex(self, code: Vex) -> bool {
        match (code.map, code.op) {
            (Map::Of38x66, 0x13) | (Map::Of3Ax66, 0x1d) => self.f16c,
            (Map::Of38x66, 0x96..=0x9f | 0xa6..=0xaf | 0xb6..=0xbf) => self.fma,
            _ => self.avx2,
        }
    }
}
