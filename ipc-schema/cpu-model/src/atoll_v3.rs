//! The model `atoll-v3`: `atoll-v2` with what the x86-64 psABI calls x86-64-v3: AVX, AVX2, BMI1, BMI2, F16C, FMA, LZCNT, MOVBE and
//! OSXSAVE; and XSAVEOPT, which Linux takes where it finds it.

use crate::Model;
use crate::atoll_v2::{CRYSTAL_HZ, LEAF1_ECX, LEAF7_EBX, LINEAR_BITS, Level, MSRS, PHYS_BITS, TSC_RATIO, leaves};
use crate::features::*;
use crate::{Leaf, XCR0_AVX, XSAVE_AVX_OFFSET, XSAVE_AVX_SIZE};

static LEAVES: [Leaf; 25] = leaves(&Level {
    brand: b"Atoll virtual CPU v3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    leaf1_ecx: LEAF1_ECX | FMA | MOVBE | AVX | F16C,
    leaf7_ebx: LEAF7_EBX | BMI1 | AVX2 | BMI2,
    extended_ecx: LAHF64 | LZCNT,
    xsave: XSAVEOPT,
    avx_state: [XSAVE_AVX_SIZE, XSAVE_AVX_OFFSET, 0, 0],
});

/// See the module's description.
pub static MODEL: Model = Model {
    name: "atoll-v3",
    leaves: &LEAVES,
    msrs: MSRS,
    phys_bits: PHYS_BITS,
    linear_bits: LINEAR_BITS,
    crystal_hz: CRYSTAL_HZ,
    tsc_hz: CRYSTAL_HZ * TSC_RATIO,
    xcr0: 3 | XCR0_AVX,
};
