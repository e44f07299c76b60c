//! What an input made a target do, as numbers.
//!
//! The idea: a message for people names what happened and where, so its words without its numbers are as good as the line of
//! code that made it. Counts are taken by their magnitude, since 1000 rounds are no news after 900.

use crate::random::mix;

/// How much of a message counts, in characters.
const MOST_TEXT: usize = 300;

/// The features of one input.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    features: Vec<u64>,
}

/// FNV-1a, then mixed.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    mix(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

impl Seen {
    /// Something with a small number happened.
    pub fn hit(&mut self, label: &str, value: u64) {
        self.features.push(hash(label.bytes().chain(value.to_le_bytes())));
    }

    /// Something happened so many times.
    pub fn count(&mut self, label: &str, count: u64) {
        self.hit(label, u64::from(u64::BITS - count.leading_zeros()));
    }

    /// A message was given. What may come from the input is left out: what stands in quotes, and words with digits or of
    /// two characters at most.
    pub fn text(&mut self, label: &str, text: &str) {
        let (mut quoted, mut escaped) = (None, false);
        let mut plain = String::with_capacity(text.len().min(MOST_TEXT));
        for character in text.chars().take(MOST_TEXT) {
            match (quoted, character) {
                _ if escaped => escaped = false,
                (_, '\\') => escaped = true,
                (Some(end), _) if character == end => quoted = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quoted = Some(character),
                _ => plain.push(character),
            }
        }
        let words = plain.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_alphabetic()));
        self.features.push(hash(label.bytes().chain(words.flat_map(|word| word.bytes().chain([b' '])))));
    }

    /// The features.
    #[must_use]
    pub fn features(&self) -> &[u64] {
        &self.features
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.features.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> u64 {
        let mut seen = Seen::default();
        seen.text("error", text);
        seen.features[0]
    }

    #[test]
    fn messages_differ_by_their_words_alone() {
        assert_eq!(text("byte 0x1f of 'a' is 7"), text("byte 23 of 'b\\'d' is 0xdead, eb"));
        assert_ne!(text("byte 1 is bad"), text("word 1 is bad"));
    }

    #[test]
    fn counts_differ_by_magnitude() {
        let mut seen = Seen::default();
        [0, 1, 2, 3, 4, u64::MAX].into_iter().for_each(|n| seen.count("n", n));
        let same: Vec<bool> = seen.features.windows(2).map(|pair| pair[0] == pair[1]).collect();
        assert_eq!(same, [false, false, true, false, false]);
    }
}
