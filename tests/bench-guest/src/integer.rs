//! Scalar integer work: what compilers, databases and scripting languages spend their time with.

use std::hint::black_box;

use crate::{Failure, Watch};

type Result<T> = std::result::Result<T, Failure>;

/// xorshift64: numbers that are the same everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn bytes(len: usize) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..len).map(|_| random.next() as u8).collect()
}

/// CRC-32 (IEEE 802.3) by the table of 256 entries.
pub(crate) fn crc32(watch: &mut Watch) -> Result<()> {
    let data = bytes(64 << 10);
    let mut table = [0_u32; 256];
    for (at, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(at as u32, |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
    }
    watch.time(|| {
        let mut crc = !0_u32;
        for _ in 0..600 {
            for byte in black_box(&data) {
                crc = table[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
            }
        }
        Ok(u64::from(!crc))
    })
}

/// The inner loop walks down a column, so that no compiler makes vectors of it.
pub(crate) fn matrix(watch: &mut Watch) -> Result<()> {
    const SIZE: usize = 96;
    let mut random = Random(1);
    let mut matrix = || (0..SIZE * SIZE).map(|_| random.next()).collect::<Vec<u64>>();
    let (a, b) = (matrix(), matrix());
    watch.time(|| {
        let mut sum = 0_u64;
        for _ in 0..110 {
            let (a, b) = (black_box(&a), black_box(&b));
            for row in a.chunks_exact(SIZE) {
                for column in 0..SIZE {
                    let cells = b.iter().skip(column).step_by(SIZE);
                    let cell = row.iter().zip(cells).fold(0_u64, |cell, (x, y)| cell.wrapping_add(x.wrapping_mul(*y)));
                    sum = sum.wrapping_mul(3) ^ cell;
                }
            }
        }
        Ok(sum)
    })
}

/// The nodes are as far apart as those of a heap that has been used for a while.
pub(crate) fn list(watch: &mut Watch) -> Result<()> {
    const NODES: usize = 4096;
    const END: u32 = u32::MAX;
    struct Node {
        next: u32,
        value: u32,
    }
    let mut random = Random(2);
    let mut order: Vec<u32> = (0..NODES as u32).collect();
    for last in (1..NODES).rev() {
        order.swap(last, random.next() as usize % (last + 1));
    }
    watch.time(|| {
        let mut nodes: Vec<Node> = (0..NODES as u32).map(|value| Node { next: END, value }).collect();
        for pair in order.windows(2) {
            nodes[pair[0] as usize].next = pair[1];
        }
        let (mut head, mut sum) = (order[0], 0_u64);
        for round in 0..10_000_u64 {
            let (mut at, mut before) = (head, END);
            while at != END {
                let node = &mut nodes[at as usize];
                sum = sum.wrapping_mul(3).wrapping_add(u64::from(node.value) ^ round);
                (before, at, node.next) = (at, node.next, before);
            }
            head = before;
        }
        Ok(sum)
    })
}

pub(crate) fn sort(watch: &mut Watch) -> Result<()> {
    let mut random = Random(3);
    let numbers: Vec<u32> = (0..1 << 16).map(|_| random.next() as u32).collect();
    watch.time(|| {
        let mut sum = 0_u64;
        for round in 0..30_u32 {
            let mut sorted: Vec<u32> = numbers.iter().map(|number| number ^ round.wrapping_mul(0x0101_0101)).collect();
            sorted.sort_unstable();
            sum = sorted.iter().step_by(997).fold(sum, |sum, number| sum.wrapping_mul(31) ^ u64::from(*number));
        }
        Ok(sum)
    })
}

#[inline(never)]
fn fibonacci(n: u64) -> u64 {
    if n < 2 { n } else { fibonacci(black_box(n - 1)) + fibonacci(black_box(n - 2)) }
}

pub(crate) fn calls(watch: &mut Watch) -> Result<()> {
    watch.time(|| Ok(fibonacci(black_box(34))))
}

/// Instructions of a machine with four registers: operation, register, register, constant.
#[derive(Clone, Copy)]
enum Op {
    Set(usize, u64),
    Add(usize, usize),
    Xor(usize, usize),
    Mul(usize, u64),
    Shift(usize, u32),
    Sub(usize, u64),
    Swap(usize, usize),
    JumpOdd(usize, usize),
    JumpNotZero(usize, usize),
    Halt,
}

#[inline(never)]
fn interpret(program: &[Op]) -> u64 {
    let (mut registers, mut at) = ([0_u64; 4], 0);
    let register = |index: usize| index & 3;
    while let Some(op) = program.get(at) {
        at += 1;
        match *op {
            Op::Set(to, value) => registers[register(to)] = value,
            Op::Add(to, from) => {
                registers[register(to)] = registers[register(to)].wrapping_add(registers[register(from)])
            }
            Op::Xor(to, from) => registers[register(to)] ^= registers[register(from)],
            Op::Mul(to, by) => registers[register(to)] = registers[register(to)].wrapping_mul(by),
            Op::Shift(to, by) => registers[register(to)] >>= by,
            Op::Sub(to, by) => registers[register(to)] = registers[register(to)].wrapping_sub(by),
            Op::Swap(a, b) => registers.swap(register(a), register(b)),
            Op::JumpOdd(of, to) if registers[register(of)] & 1 != 0 => at = to,
            Op::JumpNotZero(of, to) if registers[register(of)] != 0 => at = to,
            Op::JumpOdd(..) | Op::JumpNotZero(..) => {}
            Op::Halt => break,
        }
    }
    registers[1]
}

pub(crate) fn interpreter(watch: &mut Watch) -> Result<()> {
    let program = [
        Op::Set(0, 1_600_000),
        Op::Set(2, 0x9e37_79b9_7f4a_7c15),
        Op::Add(1, 2),
        Op::Xor(1, 0),
        Op::JumpOdd(1, 7),
        Op::Mul(1, 0x5851_f42d_4c95_7f2d),
        Op::Swap(1, 3),
        Op::Shift(2, 1),
        Op::Xor(2, 1),
        Op::Add(2, 3),
        Op::Sub(0, 1),
        Op::JumpNotZero(0, 2),
        Op::Halt,
    ];
    watch.time(|| Ok(interpret(black_box(&program))))
}

/// FIPS 180-4, 4.2.2: the fractional parts of the cube roots of the first 64 primes.
fn round_constants() -> [u32; 64] {
    let mut constants = [0; 64];
    let primes = (2_u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0));
    for (constant, prime) in constants.iter_mut().zip(primes) {
        // The integer cube root of prime * 2^96, bit by bit; its lower 32 bits are the fraction.
        let root = (0..36).rev().fold(0_u128, |root, bit| {
            let try_root = root | 1 << bit;
            if try_root * try_root * try_root <= prime << 96 { try_root } else { root }
        });
        *constant = root as u32;
    }
    constants
}

#[inline(never)]
fn sha256_block(state: &mut [u32; 8], block: &[u8; 64], constants: &[u32; 64]) {
    let mut w = [0_u32; 64];
    for (word, bytes) in w.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for t in 16..64 {
        let (x, y) = (w[t - 15], w[t - 2]);
        let s0 = x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
        let s1 = y.rotate_right(17) ^ y.rotate_right(19) ^ y >> 10;
        w[t] = w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (k, w) in constants.iter().zip(w) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(*k).wrapping_add(w);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(add);
    }
}

/// SHA-256's state after these blocks, without padding.
fn sha256_of(data: &[u8], rounds: usize) -> [u32; 8] {
    let constants = round_constants();
    let mut state =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    for _ in 0..rounds {
        for block in black_box(data).as_chunks::<64>().0 {
            sha256_block(&mut state, block, &constants);
        }
    }
    state
}

/// The work of the row `sha256`, and of the pairs.
pub(crate) fn sha256_work() -> u64 {
    let state = sha256_of(&bytes(16 << 10), 400);
    state.iter().fold(0, |sum, word| sum << 8 ^ sum >> 56 ^ u64::from(*word))
}

pub(crate) fn sha256(watch: &mut Watch) -> Result<()> {
    watch.time(|| Ok(sha256_work()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_that_of_the_standard() {
        // FIPS 180-4's example "abc", padded by hand.
        let mut block = [0; 64];
        block[..4].copy_from_slice(b"abc\x80");
        block[63] = 24;
        let digest =
            [0xba78_16bf, 0x8f01_cfea, 0x4141_40de, 0x5dae_2223, 0xb003_61a3, 0x9617_7a9c, 0xb410_ff61, 0xf200_15ad];
        assert_eq!(sha256_of(&block, 1), digest);
    }

    #[test]
    fn the_interpreter_does_what_it_is_told() {
        let program = [Op::Set(0, 5), Op::Set(2, 3), Op::Add(1, 2), Op::Sub(0, 1), Op::JumpNotZero(0, 2), Op::Halt];
        assert_eq!(interpret(&program), 15);
        assert_eq!(fibonacci(20), 6765);
    }
}
