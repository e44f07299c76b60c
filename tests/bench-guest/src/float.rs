//! Floating point: scalar doubles as compilers emit them, and packed singles.
#![expect(unsafe_code, reason = "loads and stores of SSE registers")]

use std::arch::x86_64::{_mm_add_ps, _mm_loadu_ps, _mm_mul_ps, _mm_set1_ps, _mm_storeu_ps};
use std::hint::black_box;

use crate::{Failure, Watch};

#[derive(Clone, Copy)]
struct Body {
    place: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

/// A sun and four planets of a made-up system.
fn bodies() -> [Body; 5] {
    let body = |place, speed, mass| Body { place, speed, mass };
    [
        body([0.0; 3], [0.0; 3], 39.5),
        body([4.8, -1.2, -0.1], [0.6, 2.8, -0.02], 0.038),
        body([8.3, 4.1, -0.4], [-1.0, 1.8, 0.008], 0.011),
        body([12.9, -15.1, -0.2], [1.1, 0.9, -0.01], 0.0017),
        body([15.4, -25.9, 0.2], [1.0, 0.6, -0.03], 0.002),
    ]
}

#[inline(never)]
fn advance(bodies: &mut [Body; 5], step: f64) {
    for i in 0..5 {
        let (head, tail) = bodies.split_at_mut(i + 1);
        let one = &mut head[i];
        for other in tail {
            let apart = [0, 1, 2].map(|axis| one.place[axis] - other.place[axis]);
            let square = apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2];
            let pull = step / (square * square.sqrt());
            for (axis, apart) in apart.into_iter().enumerate() {
                one.speed[axis] -= apart * other.mass * pull;
                other.speed[axis] += apart * one.mass * pull;
            }
        }
    }
    for body in bodies {
        for axis in 0..3 {
            body.place[axis] += step * body.speed[axis];
        }
    }
}

pub(crate) fn n_body(watch: &mut Watch) -> Result<(), Failure> {
    watch.time(|| {
        let mut bodies = bodies();
        for _ in 0..60_000 {
            advance(black_box(&mut bodies), 0.001);
        }
        Ok(bodies.iter().flat_map(|body| body.place).fold(0, |sum, x| sum.rotate_left(9) ^ x.to_bits()))
    })
}

#[inline(never)]
fn escape(re: f64, im: f64) -> u64 {
    let (mut x, mut y) = (0.0, 0.0);
    for round in 0..100 {
        let (xx, yy) = (x * x, y * y);
        if xx + yy > 4.0 {
            return round;
        }
        y = 2.0 * x * y + im;
        x = xx - yy + re;
    }
    100
}

pub(crate) fn mandelbrot(watch: &mut Watch) -> Result<(), Failure> {
    const SIZE: u32 = 320;
    watch.time(|| {
        let mut sum = 0_u64;
        for row in 0..SIZE {
            for column in 0..SIZE {
                let at = |n: u32| f64::from(n) / f64::from(SIZE);
                sum = sum.wrapping_mul(5).wrapping_add(escape(at(column) * 3.0 - 2.0, at(row) * 2.4 - 1.2));
            }
        }
        Ok(sum)
    })
}

#[inline(never)]
fn saxpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.as_chunks::<4>().0.iter().zip(y.as_chunks_mut::<4>().0) {
        // SAFETY: both are references to four numbers, and SSE is part of x86-64.
        unsafe {
            let sum = _mm_add_ps(_mm_mul_ps(_mm_set1_ps(a), _mm_loadu_ps(x.as_ptr())), _mm_loadu_ps(y.as_ptr()));
            _mm_storeu_ps(y.as_mut_ptr(), sum);
        }
    }
}

pub(crate) fn vector(watch: &mut Watch) -> Result<(), Failure> {
    let x: Vec<f32> = (0..4096_u16).map(|n| f32::from(n) / 4096.0).collect();
    watch.time(|| {
        let mut y = vec![1.0_f32; 4096];
        for _ in 0..6000 {
            saxpy(black_box(0.001), black_box(&x), black_box(&mut y));
        }
        Ok(y.iter().fold(0, |sum: u64, y| sum.rotate_left(5) ^ u64::from(y.to_bits())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_is_a_x_plus_y() {
        let mut y = [1.0, 2.0, 3.0, 4.0];
        saxpy(2.0, &[1.0, 2.0, 3.0, 4.0], &mut y);
        assert_eq!(y, [3.0, 6.0, 9.0, 12.0]);
        assert_eq!((escape(0.0, 0.0), escape(3.0, 0.0)), (100, 1));
    }
}
