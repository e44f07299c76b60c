//! Both tiers side by side: blocks of emitted code are compared with the interpreter, wherever that can tell.
//!
//! The block is interpreted first, on a copy of the words and with stores that go to a list; what has consequences beyond
//! (helpers, devices, strings, faults, pages that the TLB does not have) ends the attempt, and the block just runs, which is
//! counted. Then it runs by emitted code, and words, flags and stored bytes must be the same.

use std::collections::BTreeMap;

use code::Id;
use ir::flags::Kind;
use ir::op::{FIRST_TEMP, FLAG_KIND, FLAG_R, TIER_BUDGET, TIER_TAG};
use ir::t0::{self, Exit};
use ir::{AluOp, AluRef, AtomicOp, BulkOp, BulkRef, Env, Inst, MemRef, Op, PC, Regs, Slot, Stop, Then, flags};

use super::{From, Runner, Why};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::state::CODE_BASE;

/// What came of the comparison so far.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Blocks compared.
    pub compared: u64,
    /// Blocks that could not be compared.
    pub skipped: u64,
    /// Blocks that were different, of those that were compared.
    pub different: u64,
    /// Descriptions of differences, at most a few.
    pub differences: Vec<String>,
}

/// Memory as the TLB knows it, with stores on the side.
struct Apart<'a, B: Bus> {
    cpu: &'a Cpu<B>,
    /// Stored bytes by RAM offset.
    stored: BTreeMap<u64, u8>,
}

impl<B: Bus> Apart<'_, B> {
    fn at(&self, addr: u64, m: MemRef, write: bool) -> Result<u64, Stop> {
        // Of an operand of twice the size the first half answers for both.
        let whole = m.bytes() << u32::from(m.double);
        let hit = if write { self.cpu.tlb.write(addr, whole) } else { self.cpu.tlb.read(addr, whole) };
        match hit {
            Some(at) if m.space == crate::memory::FLAT && !(m.aligned && addr & (whole - 1) != 0) => Ok(at),
            _ => Err(Stop::Restart),
        }
    }

    fn byte(&self, at: u64) -> u8 {
        self.stored.get(&at).copied().or_else(|| self.cpu.mem.ram.load_u8(at)).unwrap_or(0xff)
    }

    fn get(&self, at: u64, bytes: u64) -> u128 {
        (0..bytes).rev().fold(0, |v, i| v << 8 | u128::from(self.byte(at + i)))
    }

    fn put(&mut self, at: u64, bytes: u64, v: u128) {
        for i in 0..bytes {
            self.stored.insert(at + i, (v >> (8 * i)) as u8);
        }
    }
}

impl<B: Bus> Env for Apart<'_, B> {
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        let at = self.at(addr, m, m.write_intent)?;
        let v = self.get(at, m.bytes()) as u64;
        let up = 64 - 8 * m.bytes();
        Ok(if m.signed { ((v << up) as i64 >> up) as u64 } else { v })
    }
    fn store(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(), Stop> {
        let at = self.at(addr, m, true)?;
        self.put(at, m.bytes(), value.into());
        Ok(())
    }
    fn load128(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop> {
        let at = self.at(addr, m, m.write_intent)?;
        Ok(self.get(at, 16))
    }
    fn store128(&mut self, addr: u64, m: MemRef, value: u128) -> Result<(), Stop> {
        let at = self.at(addr, m, true)?;
        self.put(at, 16, value);
        Ok(())
    }
    fn atomic(&mut self, addr: u64, m: MemRef, op: AtomicOp, operand: u64) -> Result<(u64, Then), Stop> {
        let at = self.at(addr, m, true)?;
        let old = self.get(at, m.bytes()) as u64;
        self.put(at, m.bytes(), t0::atomic_result(op, 8 * m.bytes() as u32, old, operand).into());
        Ok((old, Then::Continue))
    }
    fn cas(&mut self, addr: u64, m: MemRef, expected: u64, new: u64) -> Result<(u64, Then), Stop> {
        let at = self.at(addr, m, true)?;
        let old = self.get(at, m.bytes()) as u64;
        if old == expected & (u64::MAX >> (64 - 8 * m.bytes())) {
            self.put(at, m.bytes(), new.into());
        }
        Ok((old, Then::Continue))
    }
    fn cas128(&mut self, _: u64, _: MemRef, _: u128, _: u128) -> Result<(u128, Then), Stop> {
        Err(Stop::Restart)
    }
    fn load_exclusive(&mut self, _: u64, _: MemRef) -> Result<u64, Stop> {
        Err(Stop::Restart)
    }
    fn store_exclusive(&mut self, _: u64, _: MemRef, _: u64) -> Result<(bool, Then), Stop> {
        Err(Stop::Restart)
    }
    fn clear_exclusive(&mut self) {}
    fn bulk(&mut self, _: BulkOp, _: u64, _: u64, _: u64, _: BulkRef) -> Result<(u64, Then), Stop> {
        Err(Stop::Restart)
    }
    fn call(&mut self, _: &mut Regs, _: u16, _: u64, _: u64, _: u32) -> Result<(u64, Then), Stop> {
        Err(Stop::Restart)
    }
    fn raise(&mut self, _: u8, _: u64) {}
    fn raise_fp(&mut self, _: u32) {}
}

/// Words that are compared as they are: not the flags' and not a tier's own.
fn compared(n: u16) -> bool {
    !(FLAG_KIND.0..=FLAG_R.0).contains(&n) && ![TIER_TAG, TIER_BUDGET, CODE_BASE].contains(&Slot(n))
}

/// Flags that an operation leaves to the host.
fn undefined(i: &Inst) -> u64 {
    let shift = [Kind::X86Shl, Kind::X86Shr, Kind::X86Sar].map(|kind| kind as u8).contains(&i.aux);
    match i.op {
        Op::Alu => AluRef::unpack(i.aux).op.undefined(),
        Op::Flags if shift => AluOp::Shl.undefined(),
        _ => 0,
    }
}

impl<B: Bus> Runner<B> {
    /// Run the block by both tiers.
    pub(super) fn execute_checked(&mut self, id: Id) -> (From, u64, Option<Why>) {
        let expected = self.expected(id);
        let (Some(t1), Some(check)) = (&mut self.t1, &mut self.check) else { return (From::Anywhere, 1, None) };
        let (left, done) = t1.run(&self.cache, id.number(), &mut self.regs.0, &mut self.cpu, 0);
        self.instructions += done;
        // Another thread may have cut the budget short, before the block was begun.
        let begun = !matches!((&left, done), (emit_x64::Left::Budget, 0));
        match expected.filter(|_| begun) {
            None => check.skipped += 1,
            Some((regs, stored, instructions)) => {
                check.compared += 1;
                let mut wrong = Vec::new();
                for n in (0..FIRST_TEMP).filter(|&n| compared(n)) {
                    let (a, b) = (regs.get(Slot(n)), self.regs.0.get(Slot(n)));
                    if a != b {
                        wrong.push(format!("word {n}: T0 {a:#x}, T1 {b:#x}"));
                    }
                }
                let (a, b) = (flags::materialise(&regs), flags::materialise(&self.regs.0));
                let undefined = |b: &ir::Block| b.insts.iter().fold(0, |all, x| all | undefined(x));
                let defined = !self.cache.block(id).map_or(0, undefined);
                if (a ^ b) & defined != 0 {
                    wrong.push(format!("flags: T0 {a:#x}, T1 {b:#x}"));
                }
                for (at, v) in stored {
                    let found = self.cpu.mem.ram.load_u8(at);
                    if found != Some(v) {
                        wrong.push(format!("RAM at {at:#x}: T0 {v:#x}, T1 {found:x?}"));
                    }
                }
                if done != u64::from(instructions) {
                    wrong.push(format!("instructions: T0 {instructions}, T1 {done}, {left:?}"));
                }
                check.different += u64::from(!wrong.is_empty());
                if !wrong.is_empty() && check.differences.len() < 16 {
                    let block = self.cache.block(id).map_or_else(String::new, |b| format!("{b}"));
                    check.differences.push(format!("{}\n{block}", wrong.join("\n")));
                }
            }
        }
        let why = match left {
            emit_x64::Left::Outcome(out) => self.after(out.exit, false, crate::state::Shadow::None),
            _ => None,
        };
        (From::Anywhere, done, why)
    }

    /// Words, stored bytes and instructions after the block, if the interpreter can tell.
    fn expected(&self, id: Id) -> Option<(Box<Regs>, BTreeMap<u64, u8>, u32)> {
        let block = self.cache.block(id)?;
        let mut regs = Box::new(self.regs.0.clone());
        let mut apart = Apart { cpu: &self.cpu, stored: BTreeMap::new() };
        let out = t0::run(block, &mut regs, &mut apart);
        let known = matches!(out.exit, Exit::Direct(_) | Exit::Indirect) && regs.get(PC) != u64::MAX;
        known.then_some((regs, apart.stored, out.instructions))
    }
}
