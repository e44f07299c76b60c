//! What lies where in code memory, for those who look: tests, logs, and maps for profilers.

use super::T1;

/// What was put into code memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block.
    Block,
    /// A block with memos: emitted as hot.
    Hot,
    /// A jump that an exit of a block leads to.
    Exit,
}

/// Code that was just put into code memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What.
    pub kind: Kind,
    /// Program counter of the block, or where the exit leads to.
    pub pc: u64,
    /// Guest bytes of the block; 0 of an exit.
    pub guest_len: u64,
    pub(super) at: usize,
    pub(super) len: usize,
}

/// Bytes of a call.
pub(super) const CALL: u32 = 5;

impl T1 {
    /// From now on [`T1::take_placed`] has something to say.
    pub fn watch(&mut self) {
        self.placed = Some(Vec::new());
    }

    pub(super) fn note_placed(&mut self, placed: Placed) {
        if let Some(list) = &mut self.placed {
            list.push(placed);
        }
    }

    /// What was placed since this was asked for the last time, and is still there.
    pub fn take_placed(&mut self) -> Vec<Placed> {
        self.placed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Where the code of `placed` is executed, and its bytes. Valid until its part of code memory is begun again.
    pub fn code_of(&self, placed: &Placed) -> (u64, &[u8]) {
        (self.memory.exec() as u64 + placed.at as u64, self.memory.read(placed.at, placed.len))
    }

    /// Bytes of code memory that are in use, and all of them.
    pub fn memory_use(&self) -> (usize, usize) {
        (self.start + self.parts.used(), self.memory.len())
    }

    /// Each stub: its name, where it is executed, and its length.
    pub fn stubs(&self) -> Vec<(&'static str, u64, usize)> {
        let list = self.stubs.named();
        let ends: Vec<usize> = list.iter().skip(1).map(|(_, at)| *at).chain([self.stubs.end]).collect();
        let place = |((name, at), end): ((_, usize), usize)| (name, self.memory.exec() as u64 + at as u64, end - at);
        list.into_iter().zip(ends).map(place).collect()
    }

    /// The stubs as they are in code memory, from its start on.
    pub fn stub_code(&self) -> &[u8] {
        self.memory.read(0, self.stubs.end)
    }

    /// Offset in code memory and code of each block, and of the jumps that exits lead to, for printing and for tests.
    pub fn code(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let blocks = self.blocks.iter().flatten().map(|b| (b.head as usize, b.len as usize));
        blocks.chain(self.parts.across().map(|(_, x)| (x.at, x.len))).map(|(at, len)| (at, self.memory.read(at, len)))
    }
}
