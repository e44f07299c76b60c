//! Looking on while blocks are translated.
//!
//! The idea: the run loop tells what it has just done, and does not know who wants to know. Without a watcher that is one
//! comparison for each block that is looked up.

use emit_x64::Placed;
use ir::Block;

use super::Runner;
use crate::bus::Bus;
use crate::lift::Lift;
use crate::mode::Mode;

/// Whoever looks on.
pub trait Watch: std::fmt::Debug + Send {
    /// A block was lifted from `bytes`, which are code of `bits` (16, 32 or 64). Its program counters are counted from `origin`.
    fn lifted(&mut self, block: &Block, origin: u64, bytes: &[u8], bits: u32);
    /// This stub lies at `address` of the host, for as long as the vCPU lives.
    fn stub(&mut self, name: &str, address: u64, len: usize);
    /// Code was emitted, and is executed at `address` of the host.
    fn placed(&mut self, placed: &Placed, address: u64, code: &[u8]);
}

impl<B: Bus> Runner<B> {
    /// Tell `watcher` what is translated from now on, and where emitted code's stubs are.
    pub fn watch(&mut self, mut watcher: Box<dyn Watch>) {
        if let Some(t1) = &mut self.t1 {
            t1.watch();
            for (name, address, len) in t1.stubs() {
                watcher.stub(name, address, len);
            }
        }
        self.watcher = Some(watcher);
    }

    #[cold]
    pub(super) fn show_lifted(&mut self, lift: &Lift) {
        let mut bytes = vec![0; lift.len as usize];
        let first = ((mem::PAGE - (lift.key.at & mem::PAGE_MASK)) as usize).min(bytes.len());
        let (one, two) = bytes.split_at_mut(first);
        // What is outside of RAM was not lifted.
        let _ = self.cpu.mem.ram.read(lift.key.at, one);
        if let Some(second) = lift.second {
            let _ = self.cpu.mem.ram.read(second, two);
        }
        let origin = lift.block.origin(&self.regs.0);
        if let Some(watcher) = &mut self.watcher {
            watcher.lifted(&lift.block, origin, &bytes, Mode::from_bits_truncate(lift.key.mode).width());
        }
    }

    #[cold]
    pub(super) fn show_placed(&mut self) {
        let (Some(watcher), Some(t1)) = (&mut self.watcher, &mut self.t1) else { return };
        for placed in t1.take_placed() {
            let (address, code) = t1.code_of(&placed);
            watcher.placed(&placed, address, code);
        }
    }
}
