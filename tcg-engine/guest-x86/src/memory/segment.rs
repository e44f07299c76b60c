//! Segmentation: from (space, offset) to a linear address, with limit, type and canonical checks.
//!
//! Flat accesses skip all of it: their only check is that the address is canonical, and that is made when the TLB misses.

use ir::{MemRef, Stop};
use mem::Bank;

use super::Right;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception};
use crate::state::{Seg, Segment};

impl<B: Bus> Cpu<B> {
    /// The linear address of an access of `bytes` at `addr` as `m` describes it.
    pub(super) fn linear(&mut self, addr: u64, m: MemRef, bytes: u64, right: Right) -> Result<u64, Stop> {
        // What can be addressed is asked of the whole operand, before any of its pages is.
        let whole = bytes << u32::from(m.double);
        let (va, stack) = match m.space {
            super::FLAT => (addr, m.stack),
            n => match Seg::from_index(usize::from(n) - 1) {
                Some(s) => (self.segmented(s, addr, whole, right)?, s == Seg::Ss || m.stack),
                None => return self.gp(0),
            },
        };
        if m.aligned && va & m.low_bits() != 0 {
            return self.gp(0);
        }
        if self.sys.long_mode() && !(Self::canonical(va) && Self::canonical(va.wrapping_add(whole - 1))) {
            let vector = if stack { exception::SS } else { exception::GP };
            return self.fault(Exception::with_code(vector, 0));
        }
        if !m.relaxed {
            self.check_ac(va, bytes)?;
        }
        Ok(va)
    }

    /// Faults if an access lies beyond its segment or is not canonical, whatever is mapped there.
    pub(crate) fn check_addressable(&mut self, addr: u64, m: MemRef, write: bool) -> Result<(), Stop> {
        let right = if write { Right::Write } else { Right::Read };
        self.linear(addr, m, m.bytes(), right).map(|_| ())
    }

    /// #AC if alignment is checked (level 3, EFLAGS.AC, CR0.AM) and an access of `bytes` at `va` is not aligned. Vectors that
    /// need not be aligned (MOVUPS) are not checked, as on processors.
    #[inline]
    pub(crate) fn check_ac(&mut self, va: u64, bytes: u64) -> Result<(), Stop> {
        if self.tlb.bank() == Bank::Checked && bytes <= 8 && va & (bytes - 1) != 0 {
            return self.fault(Exception::with_code(exception::AC, 0));
        }
        Ok(())
    }

    /// The linear address of `offset` in a segment, outside 64-bit mode.
    pub(crate) fn segmented(&mut self, s: Seg, offset: u64, bytes: u64, right: Right) -> Result<u64, Stop> {
        let seg = *self.sys.seg(s);
        if self.sys.code64() {
            let base = if matches!(s, Seg::Fs | Seg::Gs) { seg.base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        if !usable(&seg, right, self.sys.protected()) || !within(&seg, offset, bytes) {
            let vector = if s == Seg::Ss { exception::SS } else { exception::GP };
            return self.fault(Exception::with_code(vector, 0));
        }
        Ok(seg.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

/// Whether the segment's type allows the access. Real mode does not look at types.
fn usable(seg: &Segment, right: Right, protected: bool) -> bool {
    if !protected {
        return true;
    }
    seg.present()
        && match right {
            Right::Read => seg.readable(),
            Right::Write => seg.writable(),
            Right::Exec => seg.is_code(),
        }
}

/// Whether `bytes` at `offset` are within the limit.
pub(crate) fn within(seg: &Segment, offset: u64, bytes: u64) -> bool {
    let last = offset.saturating_add(bytes - 1);
    if seg.expand_down() {
        let top = if seg.big() { u64::from(u32::MAX) } else { 0xffff };
        offset > u64::from(seg.limit) && last <= top
    } else {
        // A segment of 4 GiB has no end: what goes beyond wraps around.
        seg.limit == u32::MAX || last <= u64::from(seg.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::attr;

    #[test]
    fn limits_up_and_down() {
        let up = Segment { selector: 8, attr: attr::P | attr::S | 2, limit: 0xfff, base: 0 };
        assert!(within(&up, 0xffc, 4) && !within(&up, 0xffd, 4) && within(&up, 0, 1));
        let down = Segment { attr: up.attr | 4, ..up };
        assert!(!within(&down, 0xfff, 1) && within(&down, 0x1000, 4) && within(&down, 0xfffc, 4));
        assert!(!within(&down, 0xfffd, 4), "a 16-bit segment ends at 64 KiB");
        let wide = Segment { attr: down.attr | attr::DB, ..down };
        assert!(within(&wide, 0xffff_fffc, 4) && !within(&wide, 0xffff_fffd, 4));
    }

    #[test]
    fn types() {
        let seg = |kind| Segment { selector: 8, attr: attr::P | attr::S | kind, limit: 0, base: 0 };
        for (kind, read, write) in
            [(0, true, false), (2, true, true), (6, true, true), (8, false, false), (0xa, true, false)]
        {
            assert_eq!(usable(&seg(kind), Right::Read, true), read, "{kind}");
            assert_eq!(usable(&seg(kind), Right::Write, true), write, "{kind}");
            assert!(usable(&seg(kind), Right::Write, false), "real mode does not look");
        }
        assert!(!usable(&Segment::null(0), Right::Read, true));
    }
}
