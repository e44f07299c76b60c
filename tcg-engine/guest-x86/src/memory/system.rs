//! Accesses that the CPU makes for itself: descriptor tables, task state segments, and the frames of interrupts.
//!
//! They are supervisor accesses whatever the current privilege level is ("implicit" in the manual), so SMAP applies to them
//! without regard to EFLAGS.AC. Frames are written with the privilege of the stack that they go to.

use ir::{Stop, Then};
use mem::Bank;

use super::Right;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::state::cr4;

impl<B: Bus> Cpu<B> {
    /// Run `f` with the rights of `bank`, on memory only: no table or frame lies in a device.
    pub(crate) fn with_bank<R>(&mut self, bank: Bank, f: impl FnOnce(&mut Self) -> R) -> R {
        let old = self.tlb.bank();
        self.tlb.select_bank(bank);
        let devices = std::mem::replace(&mut self.devices, false);
        let r = f(self);
        self.devices = devices;
        self.tlb.select_bank(old);
        r
    }

    /// The bank of implicit supervisor accesses.
    pub(crate) fn implicit_bank(&self) -> Bank {
        if self.sys.cr4 & cr4::SMAP != 0 { Bank::Strict } else { Bank::Supervisor }
    }

    /// Outside long mode linear addresses have 32 bits.
    pub(crate) fn fold(&self, va: u64) -> u64 {
        if self.sys.long_mode() { va } else { va & 0xffff_ffff }
    }

    /// Read a system structure at linear address `va`. Non-canonical addresses raise #GP(0).
    pub(crate) fn system_read(&mut self, va: u64, bytes: u64) -> Result<u64, Stop> {
        let va = self.fold(va);
        if self.sys.long_mode() && !Self::canonical(va) {
            return self.gp(0);
        }
        let bank = self.implicit_bank();
        self.with_bank(bank, |c| c.read_linear(va, bytes, Right::Read))
    }

    /// Write a system structure.
    pub(crate) fn system_write(&mut self, va: u64, bytes: u64, value: u64) -> Result<Then, Stop> {
        let va = self.fold(va);
        if self.sys.long_mode() && !Self::canonical(va) {
            return self.gp(0);
        }
        let bank = self.implicit_bank();
        self.with_bank(bank, |c| c.write_linear(va, bytes, value))
    }

    /// Write a stack frame of `count` equal-sized values, `values[0]` at the highest address just below `top` (a linear
    /// address), with the privilege of `bank`. All of it is checked before any of it is written.
    pub(crate) fn push_frame(&mut self, bank: Bank, top: u64, bytes: u64, values: &[u64]) -> Result<(), Stop> {
        self.with_bank(bank, |c| {
            for i in 0..values.len() as u64 {
                c.probe(c.fold(top.wrapping_sub(bytes * (i + 1))), bytes, Right::Write)?;
            }
            for (i, v) in values.iter().enumerate() {
                let va = c.fold(top.wrapping_sub(bytes * (i as u64 + 1)));
                // Blocks that the frame overwrites are noted; the block that ends here is left anyway.
                let _ = c.write_linear(va, bytes, *v)?;
            }
            Ok(())
        })
    }
}
