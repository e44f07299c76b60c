//! Where returns go: for each place of a return address on the stack, what was last put there by a call, and the code behind
//! that call.
//!
//! The idea: a return finds its place by the stack pointer alone, so calls and returns need not come in pairs, and code that does
//! not take part does no harm. What is found is believed if it is the very return address, under the same translation of code
//! addresses as when the call was made: there is a table for each bank of the TLB, and it is emptied when the context of that bank
//! has changed or any code has gone. Code here is entered at a block's head.

use mem::tlb::BANKS;

use crate::mutants::{Mutant, on};

/// log2 of the places of a table.
const PLACES_LOG2: u32 = 7;
const PLACES: usize = 1 << PLACES_LOG2;
/// What of the stack pointer says where a return address is looked up: offset in a table.
pub const PLACE_MASK: i32 = (PLACES as i32 - 1) << 3;
/// From a return address to the address of its code.
pub const CODE: i32 = 8 * PLACES as i32;
/// No return address: the code that belongs to it finds out where that leads, if anybody returns there. Its page is taken for it then.
const NOWHERE: u64 = u64::MAX << 12;
/// No context.
const NEVER: u64 = u64::MAX;

/// The tables of a vCPU.
pub(crate) struct Returns {
    /// For each bank return addresses, then addresses of code.
    words: Box<[u64]>,
    /// What its entries were made under.
    contexts: [u64; BANKS],
    /// The address of the code that looks a jump up.
    pub(crate) jump: u64,
}

impl Returns {
    pub(crate) fn new(jump: u64) -> Returns {
        Returns { words: vec![0; BANKS * 2 * PLACES].into(), contexts: [NEVER; BANKS], jump }
    }

    /// The address of the table for `bank`, as it may be used in `context`.
    #[inline]
    pub(crate) fn table(&mut self, bank: mem::Bank, context: u64) -> u64 {
        let at = bank as usize * 2 * PLACES;
        let old = self.contexts[bank as usize];
        if old == NEVER || old != context && !on(Mutant::ReturnContext) {
            let (addresses, codes) = self.words[at..at + 2 * PLACES].split_at_mut(PLACES);
            addresses.fill(NOWHERE);
            codes.fill(self.jump);
            self.contexts[bank as usize] = context;
        }
        self.words.as_ptr().wrapping_add(at) as u64
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&mut self) {
        self.contexts = [NEVER; BANKS];
    }

    /// Code has gone. Takes effect when a table is asked for.
    pub(crate) fn forget(&mut self) {
        if !on(Mutant::ReturnGone) {
            self.clear();
        }
    }
}
