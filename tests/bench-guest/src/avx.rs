//! Vectors of 256 bits, for CPUs of x86-64-v3: integers, and fused multiply-add.
#![expect(unsafe_code, reason = "calls what is compiled for a CPU that has been asked for it")]

use std::arch::x86_64::{
    _mm256_add_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_epu8, _mm256_mullo_epi32,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::hint::black_box;

use crate::{Failure, Watch};

/// Refuses CPUs without them.
fn ask() -> Result<(), Failure> {
    let there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    if there { Ok(()) } else { Err(Failure::Wrong("the CPU has no AVX2 or no FMA")) }
}

/// Mixes the words of `y` with those of `x`, eight at a time.
#[target_feature(enable = "avx2")]
#[inline(never)]
fn mix(x: &[u32], y: &mut [u32]) {
    for (x, y) in x.as_chunks::<8>().0.iter().zip(y.as_chunks_mut::<8>().0) {
        // SAFETY: both are references to eight words.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().cast()));
            let product = _mm256_mullo_epi32(_mm256_add_epi32(a, b), _mm256_set1_epi32(0x01a9_3d65));
            let mixed = _mm256_xor_si256(product, _mm256_srli_epi32::<15>(product));
            _mm256_storeu_si256(y.as_mut_ptr().cast(), _mm256_max_epu8(mixed, a));
        }
    }
}

pub(crate) fn integers(watch: &mut Watch) -> Result<(), Failure> {
    ask()?;
    let x: Vec<u32> = (0..4096_u32).map(|n| n.wrapping_mul(0x9e37_79b9)).collect();
    watch.time(|| {
        let mut y = vec![1_u32; 4096];
        for _ in 0..12_000 {
            // SAFETY: the CPU has AVX2.
            unsafe { mix(black_box(&x), black_box(&mut y)) };
        }
        Ok(y.iter().fold(0, |sum: u64, y| sum.rotate_left(5) ^ u64::from(*y)))
    })
}

#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn saxpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.as_chunks::<8>().0.iter().zip(y.as_chunks_mut::<8>().0) {
        // SAFETY: both are references to eight numbers.
        unsafe {
            let sum = _mm256_fmadd_ps(_mm256_set1_ps(a), _mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(y.as_ptr()));
            _mm256_storeu_ps(y.as_mut_ptr(), sum);
        }
    }
}

pub(crate) fn fused(watch: &mut Watch) -> Result<(), Failure> {
    ask()?;
    let x: Vec<f32> = (0..4096_u16).map(|n| f32::from(n) / 4096.0).collect();
    watch.time(|| {
        let mut y = vec![1.0_f32; 4096];
        for _ in 0..12_000 {
            // SAFETY: the CPU has AVX2 and FMA.
            unsafe { saxpy(black_box(0.001), black_box(&x), black_box(&mut y)) };
        }
        Ok(y.iter().fold(0, |sum: u64, y| sum.rotate_left(5) ^ u64::from(y.to_bits())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_lanes_are_what_one_is() {
        if ask().is_err() {
            return;
        }
        let (x, mut y) = ([7, 8, 9, 10, 11, 12, 13, u32::MAX], [1, 2, 3, 4, 5, 6, 7, 8]);
        let lane = |x: u32, y: u32| {
            let product = x.wrapping_add(y).wrapping_mul(0x01a9_3d65);
            let (mixed, x) = ((product ^ product >> 15).to_le_bytes(), x.to_le_bytes());
            u32::from_le_bytes([0, 1, 2, 3].map(|n: usize| mixed[n].max(x[n])))
        };
        let right: Vec<u32> = x.iter().zip(y).map(|(x, y)| lane(*x, y)).collect();
        let mut z = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0];
        // SAFETY: the CPU has both.
        unsafe {
            mix(&x, &mut y);
            saxpy(2.0, &[1.0; 8], &mut z);
        }
        assert_eq!(y[..], right);
        assert_eq!(z, [2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]);
    }
}
