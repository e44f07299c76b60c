//! The escape key of the console: what of the user's keys is for the guest, and what is for the launcher.
//!
//! The idea: a pure state machine over bytes, so that a key sequence may be cut anywhere between two reads.

/// Ctrl-A, as in QEMU and screen.
pub const KEY: u8 = 0x01;

/// What the keys can ask of the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End the VM.
    Leave,
    /// Print what the keys mean.
    Help,
}

/// Printed for Ctrl-A h.
pub const HELP: &str = "\
atoll: Ctrl-A x       end the VM
       Ctrl-A a       send Ctrl-A to the guest (so does Ctrl-A Ctrl-A)
       Ctrl-A h       this help
";

/// Where in a sequence the keys are.
#[derive(Debug, Default)]
pub struct Escape {
    begun: bool,
}

impl Escape {
    /// Takes keys, appends to `guest` what is for it, and returns the order that ends the input, with the bytes taken so far.
    ///
    /// What follows an order is left to the next call.
    pub fn take(&mut self, keys: &[u8], guest: &mut Vec<u8>) -> (usize, Option<Order>) {
        for (index, key) in keys.iter().copied().enumerate() {
            if !std::mem::take(&mut self.begun) {
                if key == KEY {
                    self.begun = true
                } else {
                    guest.push(key)
                }
                continue;
            }
            match key {
                b'x' | b'X' => return (index + 1, Some(Order::Leave)),
                b'h' | b'H' | b'?' => return (index + 1, Some(Order::Help)),
                b'a' | b'A' | KEY => guest.push(KEY),
                // No sequence of ours: nothing that was typed is lost.
                other => guest.extend([KEY, other]),
            }
        }
        (keys.len(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the pieces; returns what the guest gets and the orders.
    fn feed(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Order>) {
        let (mut escape, mut guest, mut orders) = (Escape::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (taken, order) = escape.take(rest, &mut guest);
                orders.extend(order);
                rest = &rest[taken..];
            }
        }
        (guest, orders)
    }

    #[test]
    fn every_byte_but_the_key_goes_through() {
        let all: Vec<u8> = (0..=255).filter(|byte| *byte != KEY).collect();
        assert_eq!(feed(&[&all]), (all.clone(), vec![]));
    }

    #[test]
    fn sequences_whole_and_cut() {
        let cases: &[(&[u8], &[u8], &[Order])] = &[
            (b"ls\x01x", b"ls", &[Order::Leave]),
            (b"\x01X", b"", &[Order::Leave]),
            (b"a\x01hb\x01?c", b"abc", &[Order::Help, Order::Help]),
            (b"\x01\x01\x01a", b"\x01\x01", &[]),
            (b"\x01\x01x", b"\x01x", &[]),
            (b"\x01k", b"\x01k", &[]),
            (b"x\x01", b"x", &[]),
        ];
        for (keys, guest, orders) in cases {
            assert_eq!(feed(&[keys]), (guest.to_vec(), orders.to_vec()), "{keys:?}");
            let single: Vec<&[u8]> = keys.chunks(1).collect();
            assert_eq!(feed(&single), (guest.to_vec(), orders.to_vec()), "{keys:?} byte by byte");
        }
    }
}
