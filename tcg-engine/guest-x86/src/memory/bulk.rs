//! Bulk copies and fills (`rep movs`, `rep stos`): page by page at host speed, element by element where that would differ.

use ir::{BulkOp, BulkRef, MemRef, Stop, Then};
use mem::{Bank, PAGE, PAGE_MASK};

use super::Right;
use super::access::Target;
use crate::bus::Bus;
use crate::cpu::Cpu;

/// Bytes that one operation does at most, so that interrupts are looked at in between.
const SLICE: u64 = 64 * 1024;
/// The same for pieces, which are short where the bytes overlap or the elements straddle pages.
const PIECES: u32 = 512;

impl<B: Bus> Cpu<B> {
    /// See [`ir::Env::bulk`]. Only copy and fill exist on x86.
    pub(super) fn bulk_op(
        &mut self,
        op: BulkOp,
        dst: u64,
        src: u64,
        len: u64,
        r: BulkRef,
    ) -> Result<(u64, Then), Stop> {
        let element = 1u64 << r.log2;
        let len = len.min(SLICE) & !(element - 1);
        let (mut done, mut pieces, mut after) = (0, 0, Then::Continue);
        while done < len && pieces < PIECES {
            pieces += 1;
            let step = if r.backward { done.wrapping_neg() } else { done };
            let (to, from) = (dst.wrapping_add(step), src.wrapping_add(step));
            let piece = match op {
                BulkOp::Fill => self.fill_piece(to, src, len - done, r),
                BulkOp::Copy => self.copy_piece(to, from, len - done, r),
                // Other architectures have these; only a broken lifter makes them here.
                _ => self.ud(),
            };
            match piece {
                Ok((n, then)) => {
                    done += n;
                    if then == Then::FinishInstruction {
                        after = then;
                        // A device wants the run loop to look. Code that was overwritten does not: what was lifted before must not say
                        // how far this goes.
                        if self.look {
                            break;
                        }
                    }
                }
                // What is done is done; the fault comes again when the rest is tried.
                Err(_) if done > 0 => {
                    self.pending = None;
                    break;
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok((done, after))
    }

    /// Bytes from `va` on (or down to the page's start, for elements that begin at `va` and below) that lie on one page, in
    /// whole elements; 0 if the first one straddles.
    fn whole_elements(va: u64, len: u64, r: BulkRef) -> u64 {
        let element = 1u64 << r.log2;
        let offset = va & PAGE_MASK;
        if offset + element > PAGE {
            return 0;
        }
        let n = if r.backward { offset + element } else { PAGE - offset };
        n.min(len) & !(element - 1)
    }

    fn wrapped(va: u64, r: BulkRef) -> u64 {
        if r.wrap == 1 { va & 0xffff_ffff } else { va }
    }

    fn one(r: BulkRef) -> MemRef {
        MemRef { wrap: r.wrap, ..MemRef::new(r.log2) }
    }

    fn copy_piece(&mut self, dst: u64, src: u64, len: u64, r: BulkRef) -> Result<(u64, Then), Stop> {
        let (dst, src) = (Self::wrapped(dst, r), Self::wrapped(src, r));
        let n = Self::whole_elements(dst, len, r).min(Self::whole_elements(src, len, r));
        if n > 0 && self.reachable(src) && self.reachable(dst) {
            let from = self.find(src, Right::Read)?;
            let to = self.find(dst, Right::Write)?;
            if let (Target::Ram(from) | Target::Rom(from), Target::Ram(to)) = (from, to) {
                return Ok(self.copy_ram(to, from, n, r));
            }
        }
        // Straddling elements, devices, ROM and addresses that fault: one element with all the rules.
        let m = Self::one(r);
        let v = self.load_slow(src, m)?;
        let then = self.store_slow(dst, m, v)?;
        Ok((1 << r.log2, then))
    }

    /// Whether an address needs no check but that of its page. Flat ones are only known to be canonical once they have hit or
    /// were checked; where alignment is checked, every access is.
    fn reachable(&self, va: u64) -> bool {
        (!self.sys.long_mode() || Self::canonical(va)) && self.tlb.bank() != Bank::Checked
    }

    fn copy_ram(&mut self, to: u64, from: u64, n: u64, r: BulkRef) -> (u64, Then) {
        let element = 1u64 << r.log2;
        // From here on offsets of the lowest byte, of `n` bytes that lie on one page each.
        let lowest = |at: u64| if r.backward { at + element - n } else { at };
        let (mut to, mut from, mut n) = (lowest(to), lowest(from), n);
        // Where a later element reads what an earlier one wrote, memmove differs: do no more than lies between.
        let gap = if r.backward { from.wrapping_sub(to) } else { to.wrapping_sub(from) };
        if gap != 0 && gap < n {
            let safe = (gap & !(element - 1)).max(element);
            if r.backward {
                to += n - safe;
                from += n - safe;
            }
            n = safe;
        }
        // A single element that overlaps itself is read before it is written, as memmove does.
        let done = self.mem.ram.copy_within(from, to, n);
        debug_assert!(done.is_some(), "{from:#x} or {to:#x} lies outside RAM");
        (n, self.stored(to, n))
    }

    fn fill_piece(&mut self, dst: u64, value: u64, len: u64, r: BulkRef) -> Result<(u64, Then), Stop> {
        let dst = Self::wrapped(dst, r);
        let n = Self::whole_elements(dst, len, r);
        if n > 0
            && self.reachable(dst)
            && let Target::Ram(at) = self.find(dst, Right::Write)?
        {
            let at = if r.backward { at + (1 << r.log2) - n } else { at };
            self.fill_ram(at, value, n, r.log2);
            return Ok((n, self.stored(at, n)));
        }
        let then = self.store_slow(dst, Self::one(r), value)?;
        Ok((1 << r.log2, then))
    }

    fn fill_ram(&mut self, at: u64, value: u64, n: u64, log2: u8) {
        let ram = &self.mem.ram;
        let bits = 8u32 << log2;
        let value = value << (64 - bits) >> (64 - bits);
        let byte = value & 0xff;
        let done = if value == byte * (0x0101_0101_0101_0101 >> (64 - bits)) {
            ram.fill(at, n, byte as u8)
        } else {
            (0..n).step_by(1 << log2).try_for_each(|i| match log2 {
                1 => ram.store_u16(at + i, value as u16),
                2 => ram.store_u32(at + i, value as u32),
                _ => ram.store_u64(at + i, value),
            })
        };
        debug_assert!(done.is_some(), "{at:#x} lies outside RAM");
    }
}
