//! Loads and stores: copying and setting by SSE registers as C libraries do it, by string instructions as kernels do it, and
//! reads of which each needs the one before.
#![expect(unsafe_code, reason = "loads and stores of SSE registers, and string instructions")]

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};
use std::hint::black_box;

use crate::integer::Random;
use crate::{Failure, Watch};

const CACHE: usize = 16 << 10;
const MEMORY: usize = 64 << 20;

/// Copies whole pieces of 64 bytes, four registers at a time.
#[inline(never)]
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.as_chunks_mut::<64>().0.iter_mut().zip(from.as_chunks::<64>().0) {
        let (to, from) = (to.as_mut_ptr().cast::<__m128i>(), from.as_ptr().cast::<__m128i>());
        // SAFETY: both are 64 bytes, and none of these needs to be aligned.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| _mm_loadu_si128(from.add(at)));
            _mm_storeu_si128(to, a);
            _mm_storeu_si128(to.add(1), b);
            _mm_storeu_si128(to.add(2), c);
            _mm_storeu_si128(to.add(3), d);
        }
    }
}

/// Sets whole pieces of 64 bytes.
#[inline(never)]
fn set(to: &mut [u8], value: u8) {
    for to in to.as_chunks_mut::<64>().0 {
        let to = to.as_mut_ptr().cast::<__m128i>();
        // SAFETY: these are 64 bytes, and none of these needs to be aligned.
        unsafe {
            let value = _mm_set1_epi8(value.cast_signed());
            (0..4).for_each(|at| _mm_storeu_si128(to.add(at), value));
        }
    }
}

#[inline(never)]
fn rep_movsb(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    // SAFETY: `len` bytes are in both; the ABI has the direction flag clear.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags));
    }
}

#[inline(never)]
fn rep_stosb(to: &mut [u8], value: u8) {
    // SAFETY: as many bytes as `to` has; the ABI has the direction flag clear.
    unsafe {
        asm!("rep stosb", inout("rcx") to.len() => _, inout("rdi") to.as_mut_ptr() => _, in("al") value,
            options(nostack, preserves_flags));
    }
}

/// Numbers that differ in each piece of 64 bytes, and a byte of each.
fn fill(bytes: &mut [u8]) {
    for (at, piece) in bytes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        piece[0] = at as u8;
        piece[63] = (at >> 8) as u8 ^ 0x5a;
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(63).fold(0, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte))
}

fn copies(watch: &mut Watch, len: usize, times: usize, copy: fn(&mut [u8], &[u8])) -> Result<(), Failure> {
    let (mut from, mut to) = (vec![1_u8; len], vec![2_u8; len]);
    fill(&mut from);
    watch.time(|| {
        for _ in 0..times {
            copy(black_box(&mut to), black_box(&from));
        }
        Ok(0)
    })?;
    // Not timed: what is out of the caches takes long to look at.
    let (copied, expected) = (sum(&to), sum(&from));
    if copied == expected { watch.add(copied) } else { Err(Failure::Wrong("the copy differs")) }
}

fn sets(watch: &mut Watch, len: usize, times: u8, rounds: usize, set: fn(&mut [u8], u8)) -> Result<(), Failure> {
    let mut to = vec![2_u8; len];
    watch.time(|| {
        for _ in 0..rounds {
            for value in 0..times {
                set(black_box(&mut to), value);
            }
        }
        Ok(0)
    })?;
    let result = sum(&to);
    if to.iter().all(|byte| *byte == times - 1) { watch.add(result) } else { Err(Failure::Wrong("a byte was not set")) }
}

pub(crate) fn copy_cache(watch: &mut Watch) -> Result<(), Failure> {
    copies(watch, CACHE, 40_000, copy)
}

pub(crate) fn copy_memory(watch: &mut Watch) -> Result<(), Failure> {
    copies(watch, MEMORY, 8, copy)
}

pub(crate) fn set_cache(watch: &mut Watch) -> Result<(), Failure> {
    sets(watch, CACHE, 250, 600, set)
}

pub(crate) fn set_memory(watch: &mut Watch) -> Result<(), Failure> {
    sets(watch, MEMORY, 20, 1, set)
}

pub(crate) fn rep_copy(watch: &mut Watch) -> Result<(), Failure> {
    copies(watch, CACHE, 4000, rep_movsb)
}

pub(crate) fn rep_set(watch: &mut Watch) -> Result<(), Failure> {
    sets(watch, CACHE, 250, 30, rep_stosb)
}

pub(crate) fn load_store(watch: &mut Watch) -> Result<(), Failure> {
    const WORDS: usize = 4096;
    watch.time(|| {
        let (mut bytes, mut halves, mut words) = (vec![0_u8; WORDS * 2], vec![0_u16; WORDS], vec![0_u32; WORDS]);
        let mut n = 12345_u32;
        for _ in 0..16_000_000 {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (n >> 20) as usize;
            let byte = &mut bytes[at * 2];
            *byte = byte.wrapping_add(n as u8);
            let half = &mut halves[at ^ 1];
            *half = half.wrapping_add(u16::from(*byte));
            let word = &mut words[(at ^ 0x5a5) % WORDS];
            *word = word.wrapping_add(u32::from(*half)) ^ n;
            n = n.wrapping_add(words[at]);
        }
        Ok(words.iter().fold(u64::from(n), |sum, word| sum.rotate_left(3) ^ u64::from(*word)))
    })
}

/// One read for each line of 64 bytes, in an order of full period (Knuth, volume 2, 3.2.1.2, theorem A).
pub(crate) fn chase<const MIB: usize>(watch: &mut Watch) -> Result<(), Failure> {
    let lines = MIB << 14;
    // Many readers of a stream are at different places; here each step is the product's lower bits, turned so that pages change.
    let mut memory = vec![0_u64; lines * 8];
    let turn = |line: usize| (line & 63) * (lines >> 6) + (line >> 6);
    let mut order = Random(4).next() as usize % lines;
    for _ in 0..lines {
        let next = (order.wrapping_mul(0x5851_f42d).wrapping_add(0x3039)) & (lines - 1);
        memory[turn(order) * 8] = turn(next) as u64 * 8;
        order = next;
    }
    let times = match MIB {
        2 => 8_000_000,
        _ => 1_000_000,
    };
    watch.time(|| {
        let (mut at, mut sum) = (0_u64, 0_u64);
        for _ in 0..times {
            at = memory[at as usize];
            sum = sum.wrapping_add(at);
        }
        Ok(sum ^ at << 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_copy_and_sets_set() {
        let mut from = vec![3; 4096];
        fill(&mut from);
        for function in [copy as fn(&mut [u8], &[u8]), rep_movsb] {
            let mut to = vec![0; 4096];
            function(&mut to, &from);
            assert_eq!(to, from);
        }
        for function in [set as fn(&mut [u8], u8), rep_stosb] {
            let mut to = vec![0; 4096];
            function(&mut to, 9);
            assert!(to.iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn a_copy_that_does_nothing_is_noticed() {
        let mut watch = Watch::new(1);
        assert!(copies(&mut watch, 4096, 1, |_, _| ()).is_err());
        assert!(sets(&mut watch, 4096, 4, 1, |_, _| ()).is_err());
        copies(&mut watch, 4096, 1, copy).unwrap();
    }
}
