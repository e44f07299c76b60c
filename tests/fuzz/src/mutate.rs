//! New inputs out of old ones.
//!
//! The idea: a few small changes in a row, each of a kind that some bug waits for: bits, numbers at the edges of their
//! types, words of the target's own language, blocks doubled, moved or taken out, and two inputs joined.

use crate::Random;

/// Numbers at which code goes wrong; each is written with 1, 2, 4 or 8 bytes.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    31,
    32,
    63,
    64,
    100,
    127,
    128,
    255,
    256,
    511,
    512,
    1000,
    1024,
    4095,
    4096,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_ffff,
];

/// Those that most often do.
const FIRST: &[u64] = &[0, 1, 0xffff_ffff_ffff_ffff];

/// Changes inputs.
#[derive(Clone, Debug)]
pub struct Mutator {
    words: Vec<Vec<u8>>,
    longest: usize,
    head: usize,
}

impl Mutator {
    /// With these words, for inputs of at most `longest` bytes, whose fields are aligned behind the first `head` bytes.
    #[must_use]
    pub const fn new(words: Vec<Vec<u8>>, longest: usize, head: usize) -> Self {
        Self { words, longest, head }
    }

    /// A new input out of `input`, and perhaps parts of `other`.
    #[must_use]
    pub fn change(&self, input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
        let mut new = input.to_vec();
        for _ in 0..1 << random.below(3) {
            self.step(&mut new, other, random);
        }
        new.truncate(self.longest);
        new
    }

    fn step(&self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let head = self.head;
        match random.below(16) {
            0 | 1 => {
                let (at, bit) = (place(input.len(), head, random), random.below(8));
                change_byte(input, at, |byte| byte ^ 1 << bit);
            }
            2 => {
                let (at, value) = (place(input.len(), head, random), random.word() as u8);
                change_byte(input, at, |_| value);
            }
            3..=6 => {
                let edges = if random.once_in(2) { FIRST } else { EDGES };
                let value = random.pick(edges).copied().unwrap_or(0);
                let value = if random.once_in(4) { value.wrapping_neg() } else { value };
                write_number(input, head, value, random);
            }
            7 | 8 => add(input, head, random),
            9 | 10 => {
                if let Some(word) = random.pick(&self.words) {
                    let at = place(input.len(), head, random);
                    if random.once_in(3) { insert(input, at, word) } else { overwrite(input, at, word) }
                }
            }
            11 => copy(input, head, random),
            12 => {
                let (start, end) = range(input.len(), head, random);
                input.drain(start..end);
            }
            13 => {
                let (start, end) = range(input.len(), head, random);
                let block = input.get(start..end).unwrap_or_default().to_vec();
                insert(input, place(input.len(), head, random), &block);
            }
            14 => {
                let (start, end) = range(other.len(), head, random);
                let block = other.get(start..end).unwrap_or_default();
                let at = place(input.len(), head, random);
                if random.once_in(2) { insert(input, at, block) } else { overwrite(input, at, block) }
            }
            _ => {
                // The begin of one and the end of the other.
                let at = random.below(input.len().min(other.len()) + 1);
                input.truncate(at);
                input.extend_from_slice(other.get(at..).unwrap_or_default());
            }
        }
    }
}

fn change_byte(input: &mut [u8], at: usize, change: impl FnOnce(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = change(*byte);
    }
}

/// A position: half of the time near the begin, where headers are, and half of the time aligned as fields are.
fn place(length: usize, head: usize, random: &mut Random) -> usize {
    let most = if random.once_in(2) { length.min(1 << random.below(12)) } else { length };
    let at = random.below(most + 1);
    let align = random.pick(&[1, 1, 2, 4, 8, 8]).copied().unwrap_or(1);
    if at < head { at } else { (at - head) / align * align + head }
}

/// A range that is more often short than long.
fn range(length: usize, head: usize, random: &mut Random) -> (usize, usize) {
    let start = place(length, head, random);
    let most = (length - start).min(1 << random.below(11));
    (start, start + random.below(most + 1))
}

fn overwrite(input: &mut Vec<u8>, at: usize, word: &[u8]) {
    if input.len() < at + word.len() {
        input.resize(at + word.len(), 0);
    }
    input.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = *new);
}

fn insert(input: &mut Vec<u8>, at: usize, word: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, word.iter().copied());
}

fn write_number(input: &mut [u8], head: usize, value: u64, random: &mut Random) {
    let width = 1 << random.below(4);
    let at = place(input.len(), head, random);
    let new = value.to_le_bytes();
    input.iter_mut().skip(at).zip(new.iter().take(width)).for_each(|(byte, new)| *byte = *new);
}

/// Adds a little to a number.
fn add(input: &mut [u8], head: usize, random: &mut Random) {
    let width = 1 << random.below(4);
    let at = place(input.len(), head, random);
    let Some(bytes) = input.get_mut(at..at + width) else { return };
    let mut number = [0; 8];
    number.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
    let little = random.below(70) as u64;
    let new = u64::from_le_bytes(number).wrapping_add(little.wrapping_sub(35)).to_le_bytes();
    bytes.iter_mut().zip(new).for_each(|(to, from)| *to = from);
}

/// Copies a block over another place.
fn copy(input: &mut [u8], head: usize, random: &mut Random) {
    let (start, end) = range(input.len(), head, random);
    let to = place(input.len(), head, random);
    let length = (end - start).min(input.len() - to);
    input.copy_within(start..start + length, to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_input_can_be_changed_and_none_grows_too_long() {
        let mutator = Mutator::new(vec![b"word".to_vec(), vec![]], 64, 1);
        let mut random = Random::new(5);
        let (mut input, mut longest) = (Vec::new(), 0);
        for round in 0..20_000 {
            if round % 500 == 0 {
                input.clear();
            }
            input = mutator.change(&input, b"another input", &mut random);
            longest = longest.max(input.len());
        }
        assert_eq!(longest, 64);
    }

    #[test]
    fn words_and_edges_get_in() {
        let mutator = Mutator::new(vec![b"magic".to_vec()], 64, 0);
        let mut random = Random::new(6);
        let found = |needle: &[u8], random: &mut Random| {
            (0..2000).any(|_| mutator.change(&[9; 20], &[8; 30], random).windows(needle.len()).any(|w| w == needle))
        };
        for needle in [&b"magic"[..], &[0xff; 8], &[0, 0, 1, 0], &[8; 13]] {
            assert!(found(needle, &mut random), "{needle:?}");
        }
    }
}
